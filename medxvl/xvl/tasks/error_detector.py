"""Fine-tune Medical X-VL to tell reports with generated errors from right ones.

Ours, not in the paper, whose detection is zero-shot.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medxvl.data import text
from medxvl.evaluation import metrics
from medxvl.training import distributed
from medxvl.weights import store
from medxvl.xvl import finetune, report_errors, scoring
from medxvl.xvl.model import XVL
from medxvl.xvl.tasks import detect_errors

TAUGHT = (
    "location",
    "extent",
    "mismatch",
)  # a report of another study is a false positive or negative, too
# share of the reports with a word of extent whose error is one of extent: there are few, and they
# are learned last
EXTENT = 0.7


class Detector(finetune.Tuned):
    """X-VL whose matching head is trained on pairs; `forward` gives the loss terms by name, "total"
    is minimised.
    """

    def __init__(self, model: XVL):
        super().__init__()
        self.model = model
        model.twin.requires_grad_(False)
        self.hold(model.online.vision, bool(model.preset.xvl_tune_frozen))

    def forward(
        self, images: Tensor, ids: Tensor, mask: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Images (N, ...), for each the right report and then, for each, the wrong one (2 N, L),
        and what the two count (N,).
        """
        states, _ = self.model.online.encode_text(ids, mask)
        logits = self.model.match_logits(states, mask, self.image_tokens(images).repeat(2, 1, 1))
        right = torch.tensor([1, 0], device=ids.device).repeat_interleave(len(images))
        return {
            "total": (F.cross_entropy(logits, right, reduction="none") * weight.repeat(2)).mean()
        }


class Detecting(finetune.FineTuning):
    """On the split `train`: every section of every study as it is, and with an error that each
    epoch draws anew. The epoch with the highest mean AUROC over the five types on `valid` is
    kept."""

    name = "errors"
    score_label = "validation error AUROC"

    def __init__(self, preset, dataset, start: XVL, tokenizer, device):
        self.tokenizer = tokenizer
        self.studies, self.valid = (
            detect_errors.studies(dataset, "train", every_section=True),
            detect_errors.studies(dataset, "valid"),
        )
        self.tests = detect_errors.tests(
            self.valid.reports, preset.seed + 1, 0, report_errors.PUBLISHED, ("balanced",)
        )
        super().__init__(preset, start, dataset, self.studies.rows, device)

    def module(self) -> Detector:
        return Detector(finetune.copied(self.start))

    def build(self, device) -> Detector:
        super().build(device)
        self.model = self.tuned.model  # what is kept: the model without the training's frame
        return self.tuned

    def read_back(self, path: Path) -> None:
        self.model = store.load_model(self.preset, len(self.tokenizer), path, XVL, self.device)

    def order(self, epoch: int, rng) -> np.ndarray:
        """The reports, shuffled; draws their errors, and what each counts: all types the same, and
        nothing a report that cannot have an error or whose error lies behind what the model
        reads."""
        of = self.studies.reports
        made = report_errors.mixed(of, 1.0, rng, TAUGHT)
        preferred = rng.random(len(made)) < EXTENT
        for k, extent in enumerate(report_errors.corrupt(of, "extent", rng)):
            if preferred[k] and isinstance(extent, report_errors.Error):
                made[k] = extent
        wrong = report_errors.as_read(of, made)
        self.right, self.wrong = (
            detect_errors.read(told, self.preset) for told in (of.texts, wrong)
        )
        read = scoring.distinct(
            self.tokenizer, [*self.right, *self.wrong], self.preset
        ).which.reshape(2, -1)
        kind = np.array(
            [
                TAUGHT.index(m.kind) if m and a != b else -1
                for m, a, b in zip(made, *read, strict=True)
            ]
        )
        counts = np.array([(kind == k).sum() for k in range(len(TAUGHT))])
        share = len(kind) / np.maximum(counts, 1) / max(1, (counts > 0).sum())
        self.weight = torch.from_numpy(np.append(share, 0)[kind].astype(np.float32))
        return rng.permutation(self.n)

    def inputs(self, picked, rng, generator) -> tuple:
        own = picked[distributed.own(len(picked))]
        ids, mask = text.encode(
            self.tokenizer,
            [told[k] for told in (self.right, self.wrong) for k in own],
            self.preset.max_tokens,
        )
        return self.images(picked, generator), ids, mask, self.weight[own]

    def score(self, epoch: int) -> float:
        model = self.tuned.model
        pictures = scoring.encode_images([model], self.dataset, self.valid.rows, self.device)
        given = detect_errors.score([model], self.tokenizer, pictures, self.tests)
        values = [
            metrics.auroc(pairs["wrong"].to_numpy(float), given[key])
            for key, pairs in self.tests.items()
            if key[1] != detect_errors.ALL
        ]
        return float(np.nanmean(values)) if values else float("nan")
