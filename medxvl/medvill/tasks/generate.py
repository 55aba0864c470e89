"""Report generation with MedViLL (arXiv 2105.11333, section V): masked-word fine-tuning under
Seq2Seq, then word by word.

The release's greedy decoding is fed the true report ("teacher-forced"), so its scores are
conditioned on the answer: they stand beside those of free-running decoding, never in place of them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medxvl.evaluation import controls, generation
from medxvl.layers import beam_search
from medxvl.medvill import corpus, finetune, heads, writer
from medxvl.medvill.finetune import CHUNK, FineTuning, Pictures, Tuned
from medxvl.training import distributed


class Writer(Tuned):
    """MedViLL with its own head for masked words.

    Objective "masked", as published: 15 % of the words (and the stop word) are hidden. "every":
    each word is predicted from the true ones before it, as decoding does; several times as many
    predictions a pass, for the small presets.
    """

    def forward(self, images: Tensor, joint, at: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`at` (N, K) places to predict, `targets` (N, K) words, -100 where there is none."""
        logits = self.model.mlm_logits(self.model.encode(self.image_tokens(images), joint, at))
        weights = (targets != -100).float()
        loss = heads.masked_word_loss(
            logits, targets.clamp(min=0), weights, self.preset.generate_drop_worst
        )
        return {"total": loss}


class Writing(FineTuning):
    """Fine-tuning on the split `train`; the epoch with the lowest loss a word on `valid` is
    kept.
    """

    name = "generate"
    score_label = "validation log-likelihood a word"

    def __init__(self, preset, dataset, start, tokenizer, device):
        self.corpus, self.valid = (
            corpus.Corpus(dataset, split, tokenizer, preset) for split in ("train", "valid")
        )
        self.tokenizer, self.texts = tokenizer, self.corpus.texts
        super().__init__(preset, start, dataset, self.corpus.rows, device)

    def module(self) -> Writer:
        return Writer(finetune.copied(self.start))

    def inputs(self, picked, rng, generator) -> tuple:
        own, images, tokenizer = (
            distributed.own(len(picked)),
            self.images(picked, generator),
            self.tokenizer,
        )
        ids, real = corpus.encode(
            tokenizer, [self.texts[k] for k in picked], self.preset.medvill_text
        )
        places, special = (
            self.tuned.model.trunk.grid**2,
            (tokenizer.cls_token_id, tokenizer.sep_token_id),
        )
        if self.preset.generate_objective == "every":
            ids, real = ids[own], real[own]
            joint = writer.true_words(ids, real, places, tokenizer.mask_token_id, special)
            at = torch.arange(places + 2 + ids.shape[1], places + 2 + 2 * ids.shape[1]).expand(
                len(ids), -1
            )
            return images, joint, at, ids.masked_fill(~real, -100)
        masked, labels = corpus.draw_masked(ids, real, tokenizer, self.preset.mask_share, generator)
        joint = finetune.joint(
            tokenizer, self.preset, masked[own], real[own], places, "seq2seq", task="generation"
        )
        labels = labels[own]
        # the words to be predicted first in each row, filled up with -100
        most = int((labels != -100).sum(dim=1).max())
        at = (labels == -100).int().argsort(dim=1, stable=True)[:, :most]
        return images, joint, places + 2 + at, labels.gather(1, at)

    def score(self, epoch: int) -> float:
        losses, words = likelihood(
            self.tuned, self.tokenizer, self.dataset, self.valid.rows, self.device
        )
        return -float(losses.sum() / words.sum())


@torch.no_grad()
def _true_words(tuned: Writer, tokenizer, dataset, rows, device, images_of=None):
    """Logits, ids and which are words, batch by batch, each word given the true ones before it."""
    tuned.eval()
    preset, special = tuned.preset, (tokenizer.cls_token_id, tokenizer.sep_token_id)
    pictures = Pictures(dataset, rows if images_of is None else images_of, preset, device)
    ids, real = corpus.encode(tokenizer, corpus.report_texts(dataset, rows), preset.medvill_text)
    for part in torch.arange(len(ids)).split(CHUNK):
        longest = int(real[part].sum(dim=1).max())
        given = ids[part, :longest].to(device), real[part, :longest].to(device)
        tokens = pictures.tokens(tuned.model.trunk, part)
        yield (
            writer.true_word_logits(tuned.model, tokens, *given, special, tokenizer.mask_token_id),
            *given,
        )


def likelihood(
    tuned: Writer, tokenizer, dataset, rows, device, images_of=None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the losses of a report's words, the stop word with them, each given the true words
    before; how many. (n,) both.
    """
    losses, words = [], []
    for logits, ids, real in _true_words(tuned, tokenizer, dataset, rows, device, images_of):
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), ids.flatten(), reduction="none"
        ).view_as(ids)
        losses.append((loss * real).sum(dim=1).cpu())
        words.append(real.sum(dim=1).cpu())
    return torch.cat(losses).double().numpy(), torch.cat(words).double().numpy()


def teacher_forced(tuned: Writer, tokenizer, dataset, rows, device, images_of=None) -> list[str]:
    """The likeliest word at each place given the true words before it, up to a stop word: the
    release's greedy decoding.
    """
    found = []
    for logits, _, real in _true_words(tuned, tokenizer, dataset, rows, device, images_of):
        found += beam_search.to_texts(
            tokenizer, logits.argmax(dim=2).masked_fill(~real, tokenizer.sep_token_id).cpu()
        )
    return found


def write(
    tuned: Writer, tokenizer, dataset, rows, device, beams: int = 1, images_of=None, progress=None
) -> list[str]:
    """Free-running reports for the images of the rows, or of `images_of` (n,) in their place."""
    tuned.eval()
    preset, special = tuned.preset, (tokenizer.cls_token_id, tokenizer.sep_token_id)
    pictures = Pictures(dataset, rows if images_of is None else images_of, preset, device)
    rules = beam_search.Rules(
        stop=tokenizer.sep_token_id,
        most=preset.generate_most,
        beams=beams,
        ngram=preset.generate_ngram,
    )
    positions = preset.task_positions
    decoder = writer.Decoder(
        tuned.model, special, tokenizer.mask_token_id, positions, preset.generate_most
    )
    parts, found = torch.arange(len(pictures)).split(CHUNK), []
    bar = progress(len(parts), f"reports, {beams} beam{'s' * (beams > 1)}") if progress else None
    for part in parts:
        search = beam_search.beam if beams > 1 else beam_search.greedy
        state = decoder.start(pictures.tokens(tuned.model.trunk, part))
        found += beam_search.to_texts(
            tokenizer, search(decoder.step, state, len(part), rules, tokenizer.pad_token_id).words
        )
        if bar is not None:
            bar.update(1)
    if bar is not None:
        bar.close()
    return found


# --- baselines, which read no image or write no word ----------------------------------------------


@torch.no_grad()
def nearest_by_image(tuned: Writer, dataset, train_rows, rows, device) -> np.ndarray:
    """(n,) the training row whose image lies nearest: cosine of the mean image tokens as they enter
    BERT.
    """
    tuned.eval()
    vectors = []
    for part in (train_rows, rows):
        pictures = Pictures(dataset, part, tuned.preset, device)
        means = [
            tuned.model.image_proj(pictures.tokens(tuned.model.trunk, p)).mean(dim=1)
            for p in torch.arange(len(part)).split(CHUNK)
        ]
        vectors.append(F.normalize(torch.cat(means), dim=1))
    return np.asarray(train_rows)[(vectors[1] @ vectors[0].t()).argmax(dim=1).cpu().numpy()]


def transfer(
    tuned: Writer, tokenizer, dataset, device, *, model, checkpoint, n_resamples=1000, seed=0
) -> list[dict]:
    """Rows of a fine-tuned writer on another dataset, all its studies with a report, where it has
    images; and of the baselines from its own training reports on its own test split. "nearest by
    MeSH": the training report with the most similar index terms, where the dataset has such; people
    gave them to the very report, so that is a ceiling for text retrieval and no rival."""
    about, found = {"dataset": dataset.label, "n_resamples": n_resamples, "seed": seed}, []
    everything = corpus.report_texts(dataset, np.arange(len(dataset.index)))
    rows = {
        s: np.array([k for k in dataset.rows(s) if everything[k]], dtype=int)
        for s in ("train", "valid", "test")
    }
    every = np.concatenate(list(rows.values()))
    patients = dataset.index["patient_id"].to_numpy()
    if dataset.has_images and len(every):
        texts, losses = (do(tuned, tokenizer, dataset, every, device) for do in (write, likelihood))
        told = {"model": model, "checkpoint": checkpoint, "split": "all"} | about
        wanted = [everything[k] for k in every]
        found += generation.evaluate(texts, wanted, patients[every], losses=losses, **told)
        other = [
            texts[k] for k in controls.shuffled(len(every), seed)
        ]  # what was written of another study's image
        found += generation.evaluate(
            other, wanted, patients[every], control="shuffled images", **told
        )
    train, test = rows["train"], rows["test"]
    if len(train) and len(test):
        known, wanted = [everything[k] for k in train], [everything[k] for k in test]
        given = {
            "most common report": [
                generation.most_common_report(known, controls.label_sets(dataset, train))
            ]
            * len(test)
        }
        if "mesh" in dataset.index:
            terms = dataset.index["mesh"].fillna("").astype(str)
            best = generation.nearest_by_text(list(terms.iloc[train]), list(terms.iloc[test]))
            given["nearest by MeSH"] = [known[k] for k in best]
        for name, texts in given.items():
            found += generation.evaluate(
                texts, wanted, patients[test], model=name, control=name, **about
            )
    return found
