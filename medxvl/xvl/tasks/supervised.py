"""Supervised diagnosis: X-VL's vision encoder fine-tuned on the labels (arXiv 2208.05140, section
5), and a gauge of difficulty.

Neither is zero-shot. On the phantom, whose labels are right, fine-tuning says how much a picture
tells at least; a linear classifier on 32 x 32 pixels how far brightness at fixed places goes.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl.evaluation import controls, metrics
from medxvl.training import distributed
from medxvl.xvl import checkpoints, finetune, ibot_pretrain
from medxvl.xvl.finetune import CHUNK, FineTuning, Pictures
from medxvl.xvl.tasks import zero_shot

PRETRAINED = "xvl"  # value of supervised_start: the encoder that notebook 21 pre-trained
NAMES = {
    PRETRAINED: "X-VL fine-tuned on labels",
    checkpoints.OWN: "iBOT fine-tuned on labels",
    "": "random start, trained on labels",
}


class Diagnosis(finetune.Tuned):
    """A vision encoder and a linear layer on its `[CLS]`: a logit a finding. `forward` gives the
    loss terms; "total" is minimised.
    """

    def __init__(self, preset, encoder: nn.Module, findings: int):
        super().__init__()
        self.preset, self.head = preset, nn.Linear(encoder.embed_dim, findings)
        self.hold(encoder.requires_grad_(True), False)

    def logits(self, images: Tensor) -> Tensor:
        """(N, F)"""
        return self.head(self.image_tokens(images)[:, 0])

    def forward(self, images: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Views (N, C, s, s) and labels (N, F), NaN where a finding is not labelled: that counts
        for nothing.
        """
        known = ~torch.isnan(y)
        losses = F.binary_cross_entropy_with_logits(
            self.logits(images), torch.nan_to_num(y), reduction="none"
        )
        return {"total": (losses * known).sum() / known.sum().clamp(min=1)}


class Diagnosing(FineTuning):
    """Fine-tuning on the split `train`; the epoch with the best mean AUROC on `valid` is kept."""

    score_label = "validation mean AUROC"
    groups = (
        *FineTuning.groups,
        "pretrain",
    )  # its augmentation, of which a random start says nothing

    def __init__(self, preset, dataset, start: nn.Module, findings, device):
        self.dataset, self.findings, self.rows = dataset, tuple(findings), dataset.rows("train")
        self.y = torch.from_numpy(controls.labels_of(dataset, self.rows, findings)).float()
        self.valid = dataset.rows("valid")
        pictures, data = (
            Pictures(dataset, self.rows, preset, device),
            f"{dataset.fingerprint} {self.findings}",
        )
        super().__init__(
            "supervised",
            preset,
            start,
            pictures,
            len(self.rows),
            data,
            device,
        )

    def module(self) -> Diagnosis:
        torch.manual_seed(self.preset.seed)
        return Diagnosis(self.preset, finetune.copied(self.start), len(self.findings))

    def inputs(self, picked, rng, generator) -> tuple:
        return self.images(picked, generator), self.y[picked[distributed.own(len(picked))]]

    def score(self, epoch: int) -> float:
        labels = controls.labels_of(self.dataset, self.valid, self.findings)
        values = metrics.auroc(labels, predict(self.tuned, self.dataset, self.valid, self.device))
        return (
            float(np.nanmean(values)) if np.isfinite(values).any() else float(epoch)
        )  # nothing to choose by: the last one


def start(preset, model: nn.Module) -> nn.Module:
    """The vision encoder that fine-tuning starts from, by the setting supervised_start: that of the
    pre-trained `model`, or of a file (`vision_branch` of it; own: notebook 20's), or random
    weights. Raises as `store.load_into` does."""
    if preset.supervised_start == PRETRAINED:
        return model.online.vision
    named = preset.supervised_start
    return ibot_pretrain.encoder(
        preset, checkpoints.own_start(preset) if named == checkpoints.OWN else named or None
    )


def named(preset) -> str:
    """What rows call the model."""
    return NAMES.get(
        preset.supervised_start, f"{Path(preset.supervised_start).name} fine-tuned on labels"
    )


@torch.no_grad()
def predict(tuned: Diagnosis, dataset, rows, device) -> np.ndarray:
    """Logits (n, F) of the plain views of these rows; those of other studies' images are the same
    in another order.
    """
    tuned.eval()
    pictures = Pictures(dataset, rows, tuned.preset, device)
    parts = torch.arange(len(pictures)).split(CHUNK)
    return torch.cat(
        [tuned.logits(pictures.plain(part).to(device)).float().cpu() for part in parts]
    ).numpy()


def evaluate(labels, scores, patients, findings, *, dataset, **about) -> list[dict]:
    """Rows of one model, as `zero_shot.evaluate` gives them, of the task supervised_diagnosis."""
    return zero_shot.evaluate(
        labels, scores, patients, findings, task="supervised_diagnosis", dataset=dataset, **about
    )
