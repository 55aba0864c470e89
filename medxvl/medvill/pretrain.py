"""Pre-train MedViLL: masked words and matching (arXiv 2105.11333, section III-D), as a task that
`loop.fit` runs.

Several GPUs: `medxvl.pipeline pretrain` under torchrun, into the folder that the notebook reads.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medxvl.data.dataset import CHEXPERT_14
from medxvl.evaluation import metrics
from medxvl.evaluation.rows import CHANCE, result_row
from medxvl.medvill import alignment, checkpoints, masks
from medxvl.medvill import corpus as corpora
from medxvl.medvill.image_encoder import grid_side, plain_view
from medxvl.medvill.model import MedViLL
from medxvl.training import loop

OTHERS = 4  # reports of other findings beside the own one, in the validation score
PAIRS = 128  # of image and report in one call, at evaluation


class Objective(nn.Module):
    """MedViLL with one `forward` for both stages: that is what autocast and DDP wrap.

    `matching` is the matching loss alone, which gets nowhere beside that of masked words until it
    has left its plateau; it stands in, at the small presets, for a BERT that was trained before.
    """

    def __init__(self, model: MedViLL):
        super().__init__()
        self.model = model

    def forward(self, stage: str, batch) -> dict[str, Tensor]:
        return self.model(batch, words=stage == "objective")


class Pretraining(loop.Task):
    """MedViLL on the split `train` of `dataset`; the epochs kept tell best, on validation pairs,
    whose report an image's is.
    """

    label, score_label = "MedViLL pre-training", "validation match AUROC"

    def __init__(self, preset, dataset, tokenizer):
        self.preset, self.tokenizer = preset, tokenizer
        self.recipe = checkpoints.recipe(preset, dataset, tokenizer)
        self.corpus, self.valid = (
            corpora.Corpus(dataset, split, tokenizer, preset) for split in ("train", "valid")
        )
        self.epochs = preset.medvill_matching_epochs + preset.medvill_epochs
        self.n, self.batch_size = len(self.corpus), preset.medvill_batch
        self.decay = preset.medvill_weight_decay
        # as released constant, after a warm-up that is empty there; a cosine at the small presets
        self.rates = preset.medvill_warmup, preset.medvill_rate, preset.medvill_min_rate
        held = preset.medvill_freeze == "aligned"
        self.skips_parameters = (
            held or preset.medvill_matching_epochs > 0 or preset.medvill_mask == "noncross"
        )

    def build(self, device) -> Objective:
        self.device, self.model = device, MedViLL(self.preset, len(self.tokenizer)).to(device)
        return Objective(self.model).to(device)

    def stage(self, epoch: int) -> str:
        return "matching" if epoch < self.preset.medvill_matching_epochs else "objective"

    def start_epoch(self, epoch: int) -> None:
        if epoch == 0:
            checkpoints.start_from(self.model, self.preset)
            if self.preset.medvill_alignment_epochs:
                alignment.start(
                    self.model, self.corpus, checkpoints.aligned_start(self.preset), self.device
                )

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        picked = order[k * self.size : (k + 1) * self.size]
        inputs = self.corpus.batch(picked, rng, generator, masked=self.stage(epoch) == "objective")
        return self.corpus.studies(picked), (self.stage(epoch), inputs)

    def score(self, epoch: int) -> float | None:
        if self.stage(epoch) != "objective":
            return None
        y, scores, _ = pairs_with_other_findings(self.model, self.valid, self.device)
        return float(metrics.auroc(y, scores))


def fit(preset, dataset, tokenizer, folder: Path, device, progress) -> pd.DataFrame:
    """Pre-train on the split `train` of `dataset` into `folder`; see `loop.fit` for what is
    written, returned and raised.
    """
    return loop.fit(Pretraining(preset, dataset, tokenizer), preset, folder, device, progress)


@torch.no_grad()
def match_logits(
    model: MedViLL,
    features: Tensor,
    ids: Tensor,
    real: Tensor,
    special: tuple[int, int],
    every=True,
) -> Tensor:
    """Matching logit (yes minus no) of N image-report pairs (N,): trunk features (N, P, F), text
    parts and which are tokens (N, T).

    All grid positions are kept; with `bi_seq2seq` the image part looks at the text, as in the
    bidirectional quarter.
    """
    preset = model.preset
    own_cls = preset.medvill_mask == "noncross"
    grid = torch.arange(features.shape[1]).expand(len(ids), -1)
    neither = torch.zeros(len(ids), dtype=torch.bool)
    mask = masks.attention(
        preset.medvill_mask, grid.shape[1] + 2, real, neither, preset.medvill_padding
    )
    joint = corpora.join(ids, mask, grid, special, every=every, own_cls=own_cls).to(features.device)
    at = torch.tensor([0, grid.shape[1] + 2] if own_cls else [0], device=features.device).expand(
        len(ids), -1
    )
    logits = model.itm_head(model.pool(model.encode(features, joint, at), 1))
    return logits[:, 1] - logits[:, 0]


@torch.no_grad()
def pairs_with_other_findings(
    model: MedViLL, corpus: corpora.Corpus, device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each image with its own report and with OTHERS of studies with other findings, the same pairs
    every time: whether a pair matches, its matching score and the number of its image in `corpus`,
    (pairs,) each.
    """
    model.eval()
    n, preset, tokenizer = len(corpus), model.preset, corpus.tokenizer
    rng = np.random.default_rng(0)
    others = [corpora.draw_other(corpus.labels, np.arange(n), rng) for _ in range(OTHERS)]
    whose = np.concatenate([np.arange(n), *others])
    image, kept = np.tile(np.arange(n), 1 + OTHERS), np.flatnonzero(whose >= 0)
    own_cls, special = (
        preset.medvill_mask == "noncross",
        (tokenizer.cls_token_id, tokenizer.sep_token_id),
    )
    parts = np.array_split(np.arange(n), n // 64 + 1)
    features = torch.cat(
        [model.trunk(plain_view(corpus.images(part), preset).to(device)) for part in parts]
    )
    ids, real = corpora.encode(tokenizer, corpus.texts, preset.medvill_text, own_cls)
    scores = [
        match_logits(
            model, features[image[part]], ids[whose[part]], real[whose[part]], special
        ).cpu()
        for part in np.array_split(kept, len(kept) // PAIRS + 1)
    ]
    return (image == whose)[kept].astype(float), torch.cat(scores).numpy(), image[kept]


def evaluate(
    model: MedViLL,
    untrained: MedViLL,
    corpus: corpora.Corpus,
    device,
    *,
    dataset,
    checkpoint,
    preset,
) -> list[dict]:
    """Rows of the matching head on validation pairs, beside the network from random weights and
    chance; CI over patients.
    """
    patients = corpus.dataset.index["patient_id"].iloc[corpus.rows].to_numpy()
    common = {"paper": "medvill", "task": "pretraining", "dataset": dataset, "split": "valid"}
    metric, n = "match_auroc", len(corpus)
    rows = [result_row(common | CHANCE, metric, 0.5, n=n)]
    common["model"] = f"MedViLL ({masks.TITLES[preset.medvill_mask]})"
    for network, control, told in ((model, "", checkpoint), (untrained, "untrained", "random")):
        y, scores, image = pairs_with_other_findings(network, corpus, device)
        drawn = metrics.bootstrap(
            metrics.auroc, y, scores, patients[image], preset.bootstrap, preset.seed
        )
        about, value = common | {"control": control, "checkpoint": told}, metrics.auroc(y, scores)
        rows.append(result_row(about, metric, value, drawn, n=n, keep_draws=True))
    return rows


@torch.no_grad()
def word_attention(
    model: MedViLL, tokenizer, dataset, shown, device, words: int = 5
) -> tuple | None:
    """(image (S, S), words, maps (W, g, g)) of a validation study with findings: attention from
    words to image tokens, the mean over layers and heads, summed over a word's pieces. None where
    no study may be shown (`shown`, bool for index rows)."""
    corpus = corpora.Corpus(dataset, "valid", tokenizer, model.preset)
    allowed = np.flatnonzero(np.asarray(shown)[corpus.rows])
    if not len(allowed) or model.preset.medvill_mask == "noncross":
        return None  # with Non-cross no word looks at the image
    positives = (
        dataset.index.iloc[corpus.rows[allowed]][list(CHEXPERT_14)].to_numpy(dtype=float) == 1
    ).sum(1)
    k = int(allowed[positives.argmax()])
    pixels = corpus.images([k])
    features = model.trunk(plain_view(pixels, model.preset).to(device))
    ids, real = corpora.encode(tokenizer, [corpus.texts[k]], model.preset.medvill_text)
    grid, neither = torch.arange(features.shape[1])[None], torch.zeros(1, dtype=torch.bool)
    mask = masks.attention(model.preset.medvill_mask, grid.shape[1] + 2, real, neither)
    special = tokenizer.cls_token_id, tokenizer.sep_token_id
    joint = corpora.join(ids, mask, grid, special, every=True).to(device)
    maps = torch.stack(model.attention_maps(features, joint)).mean(dim=(0, 2))[0]
    maps = maps[features.shape[1] + 2 :, 1 : features.shape[1] + 1].cpu().numpy()  # (T, P)
    found: dict[str, np.ndarray] = {}
    start = None
    for place, piece in enumerate(tokenizer.convert_ids_to_tokens(ids[0])):
        start = f"{start}{piece[2:]}" if piece.startswith("##") and start else piece
        before = (
            found.pop(start.removesuffix(piece.removeprefix("##")), 0)
            if piece.startswith("##")
            else 0
        )
        found.setdefault(start, before + maps[place])
    chosen = sorted((w for w in found if w.isalpha()), key=len)[-words:]
    side = grid_side(model.preset)
    return pixels[0].numpy(), chosen, np.stack([found[w] for w in chosen]).reshape(-1, side, side)
