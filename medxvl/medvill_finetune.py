"""Fine-tune MedViLL on a task: what the tasks share (the start, image tokens, joint sequences, the schedule, reading back).

Whatever mask pre-training had, tasks of understanding are fine-tuned with the bidirectional one and generation with Seq2Seq: the
ablation compares what was pre-trained (arXiv 2105.11333, section V; the release's fine-tuning does the same).
"""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from . import distributed, masks, medvill_batch, presets, schedules, train, weights
from .data import Pixels
from .medvill import Joint, MedViLL
from .medvill_image import crop_boxes, grid_side, plain_view, training_view

CHUNK = 128  # samples in one call, at evaluation
_CODE = (
    "text",
    "fusion",
    "masks",
    "medvill",
    "medvill_batch",
    "medvill_image",
    "medvill_heads",
    "medvill_finetune",
    "train",
    "schedules",
)


class Pictures:
    """Image tokens of some rows of a dataset, (n, P, F): computed once where the trunk is fixed, else for each batch."""

    def __init__(self, dataset, rows, preset, device):
        self.pixels, self.rows, self.preset, self.device = Pixels(dataset, rows), np.asarray(rows), preset, device
        self._tokens, self._of = None, None

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, picked, generator: torch.Generator) -> Tensor:
        """Training views (n, C, s, s) of `picked`: the own part of a batch; draws are made for all of it."""
        own, preset = distributed.own(len(picked)), self.preset
        boxes = crop_boxes(len(picked), preset.medvill_crop_low, preset.medvill_crop_high, generator)[own]
        return training_view(self.pixels(np.asarray(picked)[own]), preset, boxes)

    @torch.no_grad()
    def tokens(self, trunk, picked) -> Tensor:
        """(n, P, F) of the plain views of `picked`, on the device; all are kept while they fit into memory."""
        picked = torch.as_tensor(picked)
        kept = len(self) * grid_side(self.preset) ** 2 * trunk.features * 4 <= Pixels.IN_MEMORY
        if not (kept and trunk.fixed):
            return trunk(plain_view(self.pixels(picked), self.preset).to(self.device))
        if self._of is not trunk:
            parts = torch.arange(len(self)).split(CHUNK)
            self._tokens, self._of = (
                torch.cat([trunk(plain_view(self.pixels(p), self.preset).to(self.device)) for p in parts]),
                trunk,
            )
        return self._tokens[picked.to(self.device)]


def joint(
    tokenizer, preset, ids: Tensor, real: Tensor, places: int, mask: str = "bidirectional", task: str = "pretraining"
) -> Joint:
    """Joint sequences of `places` image tokens (0: none) and text parts, ids and which are tokens (N, T), for fine-tuning.

    `task` names the positions that the release has there (`medvill_batch.join`); ours are those of pre-training, unless the
    setting `task_positions` is "released".
    """
    grid = torch.arange(places).expand(len(ids), -1)
    seen = masks.attention(
        mask, places + 2, real, padding=preset.medvill_padding if preset.medvill_padding == "blocked" else "finetuning"
    )
    positions = task if preset.task_positions == "released" else "pretraining"
    special = tokenizer.cls_token_id, tokenizer.sep_token_id
    return medvill_batch.join(ids, seen, grid, special, every=True, positions=positions)


class Tuned(nn.Module):
    """MedViLL with the head of a task (None: its own). `forward(*inputs)` gives the loss terms by name; `total` is minimised."""

    def __init__(self, model: MedViLL, head: nn.Module | None = None):
        super().__init__()
        self.model, self.head, self.preset = model, head, model.preset

    def image_tokens(self, images: Tensor) -> Tensor:
        """(N, P, F): of views (N, C, s, s), or tokens that were computed before, as they are."""
        return self.model.trunk(images) if images.ndim == 4 else images


class FineTuning(train.Task):
    """A task's training. `name` is the prefix of its settings NAME_epochs, NAME_batch and NAME_rate.

    A task overrides `module` (the Tuned), `inputs` (what it is given, for the studies picked) and `score`.
    """

    def __init__(
        self, name: str, preset, start: MedViLL, pictures: Pictures | None, n: int, data: str, device, code: tuple = ()
    ):
        self.preset, self.start, self.pictures, self.n, self.device = preset, start, pictures, n, device
        self.epochs, self._batch, self.rate = (
            getattr(preset, f"{name}_{part}") for part in ("epochs", "batch", "rate")
        )
        self.label = f"fine-tuning: {name}"
        values = presets.group(preset, "both", "medvill", "tune", name) | {
            "seed": preset.seed,
            "threads": preset.threads,
        }
        self.settings = weights.fingerprint_of_values([values, state_hash(start)], data, (*_CODE, *code))

    def module(self) -> Tuned:
        raise NotImplementedError

    def inputs(self, picked: np.ndarray, rng: np.random.Generator, generator: torch.Generator) -> tuple:
        """Inputs of the module for this process's part of the samples `picked`."""
        raise NotImplementedError

    def ids(self, picked: np.ndarray) -> list[str]:
        """What to call the samples when something is wrong with them."""
        return [str(k) for k in picked]

    def build(self, device) -> Tuned:
        self.tuned = self.module().to(device)
        return self.tuned

    def parameter_groups(self, model) -> list[dict]:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        groups = []
        for spared, decay in ((False, self.preset.tune_weight_decay), (True, 0.0)):
            chosen = [p for n, p in named if train.without_decay(n, p) is spared]
            groups.append({"params": chosen, "weight_decay": decay, "scale": 1.0})
        return groups

    skips_parameters = True  # heads of pre-training that the task has no use for

    @property
    def size(self) -> int:
        """Samples in a batch of all processes."""
        return min(self._batch * distributed.processes(), self.n)

    def batches(self, epoch: int) -> int:
        return self.n // self.size

    def order(self, epoch: int, rng) -> np.ndarray:
        return rng.permutation(self.n)

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        picked = order[k * self.size : (k + 1) * self.size]
        return self.ids(picked), self.inputs(picked, rng, generator)

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """Constant as released where `tune_end` is 1; else a cosine to that share of it, after a linear warm-up."""
        preset, done, every = self.preset, epoch * steps + step, self.epochs * steps
        warmup = min(preset.tune_warmup, every // 5)
        return schedules.warmup_cosine(done, every, warmup, self.rate, self.rate * preset.tune_end)

    def images(self, picked: np.ndarray, generator) -> Tensor:
        """Augmented views where the trunk is trained, else tokens; own part of the batch."""
        trunk = self.tuned.model.trunk
        if trunk.fixed:
            return self.pictures.tokens(trunk, picked[distributed.own(len(picked))])
        return self.pictures.views(picked, generator)

    def save(self, path: Path, score: float) -> None:
        weights.save(self.tuned, path, kind="fine-tuned", settings=self.settings, score=score)


def fit(task: FineTuning, preset, folder: Path, device, progress) -> tuple[Tuned, str]:
    """Train into `folder`; the module with the weights of its best validation epoch, and a short text that identifies them."""
    train.fit(task, replace(preset, checkpoints=1), folder, device, progress)
    best = folder / next(iter(json.loads((folder / "best.json").read_text(encoding="utf-8"))))
    task.tuned.load_state_dict(load_file(best))
    return task.tuned.eval(), f"fine-tuned {weights.fingerprint(best)}"


def copied(start: MedViLL) -> MedViLL:
    """A model of its own with the weights of `start`."""
    return copy.deepcopy(start).train()


def state_hash(model: nn.Module) -> str:
    """12 hex digits of a model's weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
