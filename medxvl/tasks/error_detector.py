"""Fine-tune Medical X-VL to tell reports with generated errors from right ones: ours, not in the paper, whose detection is zero-shot.

The vision encoder stays as it was pre-trained, so an image's tokens are computed once; text encoder, fusion and matching head learn.
"""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl import distributed, errors, matching, metrics, presets, schedules, text, train, weights
from medxvl.tasks import detect_errors
from medxvl.xvl import XVL

_CODE = (
    "text", "vision", "packed", "fusion", "xvl", "errors", "matching", "distributed", "schedules", "train", "tasks/detect_errors",
    "tasks/error_detector",
)  # fmt: skip


class Detector(nn.Module):
    """X-VL whose matching head is trained on pairs; `forward` gives the loss terms by name, "total" is minimised."""

    def __init__(self, model: XVL):
        super().__init__()
        self.model = model
        model.twin.requires_grad_(False)
        model.online.vision.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        self.model.online.vision.eval()  # nor do its statistics move
        return self

    def forward(self, tokens: Tensor, ids: Tensor, mask: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Image tokens (N, P, e), a report beside each (N, L), and whether it is right (N,) 1 or 0."""
        states, _ = self.model.online.encode_text(ids, mask)
        return {"total": F.cross_entropy(self.model.match_logits(states, mask, tokens), right)}


class Detecting(train.Task):
    """On the split `train`: each study with its own report and with one that has an error, drawn anew every epoch. The epoch with
    the highest mean AUROC over the five types on `valid` is kept."""

    label, score_label = "fine-tuning: report errors", "validation error AUROC"
    skips_parameters = True  # the masked-language head and the projections

    def __init__(self, preset, dataset, start: XVL, tokenizer, device):
        self.preset, self.start, self.tokenizer, self.device = preset, start, tokenizer, device
        self.epochs, self.dataset = preset.errors_epochs, dataset
        self.train, self.valid = (detect_errors.studies(dataset, split) for split in ("train", "valid"))
        self.tokens, self.valid_pictures = (
            matching.encode_images([start], dataset, part.rows, device) for part in (self.train, self.valid)
        )
        self.tests = detect_errors.tests(self.valid.reports, preset.seed + 1, 0, errors.PUBLISHED, ("balanced",))
        values = presets.group(preset, "both", "model", "errors") | {"seed": preset.seed, "threads": preset.threads}
        digest = hashlib.sha256()
        for name, value in start.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        self.settings = weights.fingerprint_of_values([values, digest.hexdigest()], dataset.fingerprint, _CODE)

    def build(self, device) -> Detector:
        self.tuned = Detector(copy.deepcopy(self.start)).to(device)
        return self.tuned

    def parameter_groups(self, model) -> list[dict]:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        groups = ((False, self.preset.errors_weight_decay), (True, 0.0))
        return [{"params": [p for n, p in named if train.without_decay(n, p) is spared], "weight_decay": decay, "scale": 1.0}
                for spared, decay in groups]  # fmt: skip

    @property
    def size(self) -> int:
        """Studies in a batch of all processes; each gives two pairs."""
        return min(self.preset.errors_batch * distributed.processes(), len(self.train.rows))

    def batches(self, epoch: int) -> int:
        return len(self.train.rows) // self.size

    def order(self, epoch: int, rng) -> tuple[np.ndarray, list]:
        """The studies that can have an error, shuffled, and the corrupted reports of this epoch."""
        reports = self.train.reports
        made = errors.mixed(reports.texts, 1.0, rng, labels=reports.labels, patients=reports.patients, others=reports)
        return rng.permutation(len(made)), made

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        picked, made = order[0][k * self.size : (k + 1) * self.size], order[1]
        own = picked[distributed.own(len(picked))]
        wrong = [i for i in own if made[i] is not None]
        told = [self.train.reports.texts[i] for i in own] + [made[i].text for i in wrong]
        ids, mask = text.encode(self.tokenizer, detect_errors.read(told, self.preset), self.preset.max_tokens)
        tokens = self.tokens[0][0][torch.as_tensor([*own, *wrong])]
        right = torch.tensor([1] * len(own) + [0] * len(wrong))
        studies = self.dataset.index["study_id"].iloc[self.train.rows[picked]].tolist()
        return studies, (tokens, ids, mask, right)

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        done, every, rate = epoch * steps + step, self.epochs * steps, self.preset.errors_rate
        return schedules.warmup_cosine(done, every, min(20, every // 5), rate, rate / 20)

    def score(self, epoch: int) -> float:
        given = detect_errors.score([self.tuned.model], self.tokenizer, self.valid_pictures, self.tests)
        values = [metrics.auroc(pairs["wrong"].to_numpy(float), given[key]) for key, pairs in self.tests.items()
                  if key[1] != detect_errors.ALL]  # fmt: skip
        return float(np.nanmean(values)) if values else float("nan")

    def save(self, path: Path, score: float) -> None:
        weights.save(self.tuned.model, path, kind="fine-tuned", settings=self.settings, score=score)


def fit(preset, dataset, start: XVL, tokenizer, folder: Path, device, progress) -> tuple[XVL, str]:
    """Fine-tune a copy of `start` into `folder`; the model of its best validation epoch, and a short text that identifies it."""
    train.fit(Detecting(preset, dataset, start, tokenizer, device), replace(preset, checkpoints=1), folder, device, progress)
    best = folder / next(iter(json.loads((folder / "best.json").read_text(encoding="utf-8"))))
    return weights.load_model(preset, len(tokenizer), best, device), f"fine-tuned {weights.fingerprint(best)}"
