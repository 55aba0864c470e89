"""Fine-tune Medical X-VL to tell reports with generated errors from right ones: ours, not in the paper, whose detection is zero-shot.

The vision encoder stays as it was pre-trained, so an image's tokens are computed once; text encoder, fusion and matching head learn.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl import distributed, errors, matching, medvill_finetune, metrics, presets, schedules, text, train, weights
from medxvl.tasks import detect_errors
from medxvl.xvl import XVL

_CODE = (
    "text", "vision", "packed", "fusion", "xvl", "errors", "matching", "distributed", "schedules", "train", "tasks/detect_errors",
    "tasks/error_detector",
)  # fmt: skip


TAUGHT = ("location", "extent", "mismatch")  # a report of another study is a false positive or negative, too


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

    def forward(self, tokens: Tensor, ids: Tensor, mask: Tensor, right: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Image tokens (N, P, e), a report beside each (N, L), whether it is right (N,) 1 or 0, and what the pair counts (N,)."""
        states, _ = self.model.online.encode_text(ids, mask)
        loss = F.cross_entropy(self.model.match_logits(states, mask, tokens), right, reduction="none")
        return {"total": (loss * weight).mean()}


class Detecting(train.Task):
    """On the split `train`: in each epoch each study has one of its sections, as it is and with an error drawn anew. The epoch with
    the highest mean AUROC over the five types on `valid` is kept."""

    label, score_label = "fine-tuning: report errors", "validation error AUROC"
    skips_parameters = True  # the masked-language head and the projections

    def __init__(self, preset, dataset, start: XVL, tokenizer, device):
        self.preset, self.start, self.tokenizer, self.device = preset, start, tokenizer, device
        self.epochs, self.dataset = preset.errors_epochs, dataset
        self.valid, every = detect_errors.studies(dataset, "valid"), detect_errors.studies(dataset, "train", every_section=True)
        self.rows, which = np.unique(every.rows, return_inverse=True)
        self.sections = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
        self.reports = every.reports
        self.pictures, self.valid_pictures = (
            matching.encode_images([start], dataset, rows, device) for rows in (self.rows, self.valid.rows)
        )
        self.tests = detect_errors.tests(self.valid.reports, preset.seed + 1, 0, errors.PUBLISHED, ("balanced",))
        values = presets.group(preset, "both", "model", "errors") | {"seed": preset.seed, "threads": preset.threads}
        settings = [values, medvill_finetune.state_hash(start)]
        self.settings = weights.fingerprint_of_values(settings, dataset.fingerprint, _CODE)

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
        return min(self.preset.errors_batch * distributed.processes(), len(self.rows))

    def batches(self, epoch: int) -> int:
        return len(self.rows) // self.size

    def order(self, epoch: int, rng) -> tuple:
        """Studies in the order of this epoch, their texts (n,), the texts with an error (n,), and what both count (n,): all types
        count the same, and a study whose text cannot have an error, or whose error lies behind what the model reads, nothing."""
        of, picked = self.reports, np.array([places[rng.integers(len(places))] for places in self.sections])
        texts, patients = [of.texts[k] for k in picked], None if of.patients is None else of.patients[picked]
        labels = of.labels if of.labels is None else of.labels.iloc[picked]
        made = errors.mixed(texts, 1.0, rng, TAUGHT, labels=labels, patients=patients)
        wrong = [text if error is None else error.text for text, error in zip(texts, made, strict=True)]
        texts, wrong = (detect_errors.read(told, self.preset) for told in (texts, wrong))
        read = matching.distinct(self.tokenizer, [*texts, *wrong], self.preset).which.reshape(2, -1)
        kind = np.array([TAUGHT.index(m.kind) if m and a != b else -1 for m, a, b in zip(made, *read, strict=True)])
        counts = np.array([(kind == k).sum() for k in range(len(TAUGHT))])
        weight = np.append(len(kind) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 0)[kind]
        return rng.permutation(len(kind)), texts, wrong, weight.astype(np.float32)

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        studies, texts, wrong, weight = order
        picked = studies[k * self.size : (k + 1) * self.size]
        own = picked[distributed.own(len(picked))]
        ids, mask = text.encode(self.tokenizer, [told[i] for told in (texts, wrong) for i in own], self.preset.max_tokens)
        tokens = self.pictures[0][0][torch.as_tensor(np.tile(own, 2))]
        right = torch.tensor([1, 0]).repeat_interleave(len(own))
        named = self.dataset.index["study_id"].iloc[self.rows[picked]].tolist()
        return named, (tokens, ids, mask, right, torch.from_numpy(np.tile(weight[own], 2)))

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
