"""Image-report retrieval with MedViLL (arXiv 2105.11333, section V): a matching head, fine-tuned on
pairs, ranks all candidates.

A hit is a candidate with the same positive findings as the query ("label-conditioned"). The release
ranks the whole pool; a co-author says 100 candidates: both are given. Beside them, the stricter
question whether the query's very own partner is found.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medxvl.evaluation import controls, retrieval
from medxvl.evaluation.rows import CHANCE
from medxvl.medvill import corpus, finetune
from medxvl.medvill.finetune import CHUNK, FineTuning, Pictures, Tuned
from medxvl.training import distributed

DIRECTIONS = {
    "image to report": False,
    "report to image": True,
}  # whether the table of scores is turned round
PAIRS = (
    2 * CHUNK
)  # image-report pairs in one call, at evaluation: few enough for the caches of a CPU


class Matcher(Tuned):
    """The pre-training's own head: linear 2 on the pooled `[CLS]`."""

    def logits(self, images: Tensor, joint) -> Tensor:
        """(N, 2)"""
        first = torch.zeros(len(joint.ids), 1, dtype=torch.long, device=joint.ids.device)
        return self.model.itm_head(
            self.model.bert.pooler(self.model.encode(self.image_tokens(images), joint, first))
        )

    def forward(self, images: Tensor, joint, matched: Tensor) -> dict[str, Tensor]:
        return {"total": F.cross_entropy(self.logits(images, joint), matched)}


class Matching(FineTuning):
    """Fine-tuning on pairs, half of them with the report of a study of other findings; kept by the
    MRR on `valid`.
    """

    name = "retrieve"
    score_label = "validation MRR"

    def __init__(self, preset, dataset, start, tokenizer, device):
        self.corpus, self.valid = (
            corpus.Corpus(dataset, split, tokenizer, preset) for split in ("train", "valid")
        )
        self.tokenizer = tokenizer
        super().__init__(preset, start, dataset, self.corpus.rows, device)

    def module(self) -> Matcher:
        return Matcher(finetune.copied(self.start))

    def inputs(self, picked, rng, generator) -> tuple:
        whose, matched = self.corpus.pairs(picked, rng)
        own, images = distributed.own(len(picked)), self.images(picked, generator)
        ids, real = corpus.encode(
            self.tokenizer, [self.corpus.texts[k] for k in whose[own]], self.preset.medvill_text
        )
        places = self.tuned.model.trunk.grid**2
        return (
            images,
            finetune.joint(self.tokenizer, self.preset, ids, real, places),
            matched[own],
        )

    def score(self, epoch: int) -> float:
        rows = self.valid.rows[:60]
        scores = score(self.tuned, self.tokenizer, self.dataset, rows, self.device)
        values = retrieval.per_query(scores, retrieval.relevance(self.dataset, rows))
        return float(np.nanmean(values["mrr"]))


def pool(dataset, split: str, preset) -> np.ndarray:
    """Rows of the studies that are ranked against each other: those with a report, `retrieve_pool`
    of them at most.
    """
    rows = dataset.rows(split)
    rows = rows[[bool(text) for text in corpus.report_texts(dataset, rows)]]
    return retrieval.sample(rows, preset.retrieve_pool, preset.seed)


@torch.no_grad()
def score(tuned: Matcher, tokenizer, dataset, rows, device, progress=None) -> np.ndarray:
    """Matching scores (n, n), row: image, column: report. Each image is encoded once, each report
    read once.

    A report meets all images before the next, shorter ones first: hardly any padding within a call.
    """
    tuned.eval()
    preset, model, n = tuned.preset, tuned.model, len(rows)
    pictures = Pictures(dataset, rows, preset, device)
    tokens = torch.cat(
        [pictures.tokens(model.trunk, part) for part in torch.arange(n).split(CHUNK)]
    )
    ids, real = corpus.encode(tokenizer, corpus.report_texts(dataset, rows), preset.medvill_text)
    lengths = real.sum(dim=1)
    order = lengths.argsort(stable=True)
    reports = order.repeat_interleave(n)
    images = torch.arange(n).repeat(n)
    scores, parts = torch.empty(n, n), torch.arange(n * n).split(PAIRS)
    bar = progress(len(parts), "image-report pairs") if progress else None
    for part in parts:
        report, image = reports[part], images[part]
        longest = int(lengths[report].max())
        joint = finetune.joint(
            tokenizer, preset, ids[report, :longest], real[report, :longest], tokens.shape[1]
        )
        logits = tuned.logits(tokens[image.to(device)], joint.to(device)).float().cpu()
        scores[image, report] = logits[:, 1] - logits[:, 0]
        if bar is not None:
            bar.update(1)
    if bar is not None:
        bar.close()
    return scores.numpy()


def evaluate(scores, relevant, patients, *, preset, **about) -> list[dict]:
    """Rows of one model, both directions: every metric of `retrieval.NAMES` over the whole pool and
    in trials of 100 candidates.

    scores (n, n), row: image, column: report; relevant (n, n) symmetric. Subsets name direction and
    pool; "own report" (or image) counts the query's own partner alone. 95 % intervals resample the
    queries' patients. `about`: see `medxvl.evaluation.rows`.
    """
    values, own = {}, np.arange(len(scores))
    for direction, turned in DIRECTIONS.items():
        given = scores.T if turned else scores
        values[direction] = retrieval.per_query(given, relevant)
        values[f"{direction}, 100 candidates"] = retrieval.per_query_in_trials(
            given, relevant, own, preset.retrieve_trials, np.random.default_rng([preset.seed, 17])
        )
        values[direction + retrieval.OWN] = retrieval.single(
            retrieval.per_query(given, np.eye(len(scores), dtype=bool))
        )
    about = {"paper": "medvill", "task": "retrieval"} | about
    return retrieval.rows(values, patients, about, preset.bootstrap, preset.seed)


def chance(relevant, *, dataset, split="test") -> list[dict]:
    """What a random order gives, exactly, as rows beside the others."""
    n, right = len(relevant), relevant.sum(1)
    size = min(100, n)
    expected = 1 + (right - 1) * (size - 1) / max(
        n - 1, 1
    )  # right ones among the candidates of a trial, on average
    pools = {
        "": retrieval.chance(right, n),
        ", 100 candidates": retrieval.chance(np.round(expected).astype(int), size),
        retrieval.OWN: retrieval.single(retrieval.chance(np.ones(n, int), n)),
    }
    values = {
        f"{direction}{suffix}": given for direction in DIRECTIONS for suffix, given in pools.items()
    }
    about = CHANCE | {"paper": "medvill", "task": "retrieval", "dataset": dataset, "split": split}
    about["n"] = n
    return retrieval.rows(values, None, about)


@torch.no_grad()
def mean_token_scores(model, tokenizer, dataset, rows, device) -> np.ndarray:
    """(n, n) cosine of mean image token and mean word as they enter BERT: retrieval without a joint
    encoder.
    """
    model.eval()
    preset = model.preset
    pictures = Pictures(dataset, rows, preset, device)
    parts = torch.arange(len(rows)).split(CHUNK)
    images = torch.cat(
        [model.image_proj(pictures.tokens(model.trunk, part)).mean(dim=1) for part in parts]
    )
    ids, word = corpus.encode(tokenizer, corpus.report_texts(dataset, rows), preset.medvill_text)
    ids, word = ids.to(device), word.to(device)
    words = (model.bert.embeddings.word_embeddings(ids) * word[:, :, None]).sum(dim=1)
    return (F.normalize(images, dim=1) @ F.normalize(words, dim=1).t()).float().cpu().numpy()


def transfer(
    tuned: Matcher, start, tokenizer, dataset, device, *, model, preset, checkpoint
) -> list[dict]:
    """Rows of a fine-tuned matcher on another dataset, a pool of its studies whatever their split,
    of shuffled images and of the mean tokens of `start` (pre-trained model, what identifies it);
    none where it has no images."""
    if not dataset.has_images:
        return []
    rows = np.concatenate(
        [
            pool(dataset, split, preset)
            for split in ("train", "valid", "test")
            if len(dataset.rows(split))
        ]
    )
    rows = retrieval.sample(rows, preset.retrieve_pool, preset.seed)
    relevant, patients = (
        retrieval.relevance(dataset, rows),
        dataset.index["patient_id"].iloc[rows].to_numpy(),
    )
    scores = score(tuned, tokenizer, dataset, rows, device)
    about = {"dataset": dataset.label, "preset": preset, "split": "all"}
    given = {
        (model, "", checkpoint): scores,
        (model, "shuffled images", checkpoint): scores[controls.shuffled(len(rows), preset.seed)],
        ("mean tokens, cosine", "mean tokens", start[1]): mean_token_scores(
            start[0], tokenizer, dataset, rows, device
        ),
    }
    found = chance(relevant, dataset=dataset.label, split="all")
    for (name, control, told), values in given.items():
        found += evaluate(
            values, relevant, patients, model=name, control=control, checkpoint=told, **about
        )
    return found
