"""Pre-train Medical X-VL: its corpus, the two stages, and the task that `loop.fit` runs.

Several GPUs: `medxvl.pipeline pretrain` under torchrun, into the folder that the notebook reads.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from medxvl.data import text
from medxvl.evaluation import metrics
from medxvl.layers import vision_transformer
from medxvl.training import distributed, loop, optimizer, schedules
from medxvl.xvl import checkpoints, warmup
from medxvl.xvl.corpus import Corpus
from medxvl.xvl.model import XVL

TERMS = (
    "i2t",
    "t2i",
    "i2i",
    "t2t",
    "local",
    "itm",
    "mlm",
)  # of the objective, as its log names them


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own batch size and learning-rate cycle."""

    name: str  # contrast: in-batch contrast alone; objective: the published objective
    first: int  # its first epoch
    epochs: int
    batch_size: int
    peak: float

    def learning_rate(self, step: int, a_epoch: int, preset) -> float:
        """Linear warm-up, then a cosine to the final rate; `step` counts from the stage's start.
        That of the contrast, which trains ENCODERS alone, is theirs."""
        steps = self.epochs * a_epoch
        rate = schedules.warmup_cosine(
            step, steps, preset.warmup_steps, self.peak, preset.min_learning_rate
        )
        return rate / preset.encoder_rate if self.name == "contrast" else rate


def stages(preset) -> list[Stage]:
    both = [
        Stage("contrast", 0, preset.contrast_epochs, preset.contrast_batch, preset.contrast_rate),
        Stage(
            "objective",
            preset.contrast_epochs,
            preset.epochs,
            preset.batch_size,
            preset.learning_rate,
        ),
    ]
    return [stage for stage in both if stage.epochs]


# its queries and keys are trained with the encoders
LOOK = "online.fusion.encoder.layer.0.crossattention.self."
ENCODERS = (
    "online.vision.",
    "online.vision_proj.",
    "online.text.",
    "online.text_proj.",
    f"{LOOK}query.",
    f"{LOOK}key.",
)


def parameter_groups(model: XVL, preset) -> list[dict]:
    """Weight decay on matrices alone: not on biases, norms, class token and position embeddings,
    nor on the temperature, whose rate is `preset.temperature_rate` times the encoders': Adam moves
    it by whole steps, whatever its size. That of ENCODERS is `preset.encoder_rate` times that of
    the rest of the fusion encoder and the heads."""
    named = [(n, p) for n, p in model.named_parameters() if n != "temperature"]
    groups = []
    for slow, scale in ((False, 1.0), (True, preset.encoder_rate)):
        part = [(n, p) for n, p in named if n.startswith(ENCODERS) is slow]
        groups += optimizer.decay_groups(part, preset.weight_decay, scale)
    scale = preset.encoder_rate * preset.temperature_rate
    return [*groups, {"params": [model.temperature], "weight_decay": 0.0, "scale": scale}]


class Objective(nn.Module):
    """X-VL with one `forward` for both stages: that is what autocast and DDP wrap."""

    def __init__(self, model: XVL):
        super().__init__()
        self.model = model

    def forward(self, stage: str, follows: bool, *inputs) -> dict[str, torch.Tensor]:
        self.model.follows = follows
        return warmup.contrast(self.model, *inputs) if stage == "contrast" else self.model(*inputs)


class Pretraining(loop.Task):
    """X-VL on the split `train` of `dataset`; the epochs kept tell matched from mismatched
    validation pairs best.
    """

    label, score_label = "pre-training", "validation match AUROC"

    def __init__(self, preset, dataset, tokenizer):
        self.preset, self.tokenizer = preset, tokenizer
        self.recipe = checkpoints.recipe(preset, dataset, tokenizer)
        self.corpus, self.valid = (
            Corpus(dataset, split, tokenizer, preset) for split in ("train", "valid")
        )
        self.stages = stages(preset)
        self.epochs = sum(stage.epochs for stage in self.stages)
        self.skips_parameters = (
            self.stages[0].name == "contrast" or not preset.fusion
        )  # no fusion encoder there

    def build(self, device) -> Objective:
        self.device, self.model = device, XVL(self.preset, len(self.tokenizer)).to(device)
        return Objective(self.model)

    def parameter_groups(self, model) -> list[dict]:
        return parameter_groups(self.model, self.preset)

    def _stage(self, epoch: int) -> "Stage":
        return next(stage for stage in self.stages if epoch < stage.first + stage.epochs)

    def stage(self, epoch: int) -> str:
        return self._stage(epoch).name

    def _size(self, epoch: int) -> int:
        """Studies in a batch of all processes."""
        return self._stage(epoch).batch_size * distributed.processes()

    def batches(self, epoch: int) -> int:
        if len(self.corpus) < self._size(epoch):
            raise ValueError(
                f"{self.corpus.dataset.label}: expected at least {self._size(epoch)} training "
                "studies with a report, "
                f"found {len(self.corpus)}"
            )
        return round(len(self.corpus) / self.preset.share) // self._size(epoch)

    def order(self, epoch: int, rng) -> np.ndarray:
        """A pass over the studies; of a share of them as many passes as make the same number of
        steps.
        """
        passes = -(-self.batches(epoch) * self._size(epoch) // len(self.corpus))
        return np.concatenate([rng.permutation(len(self.corpus)) for _ in range(passes)])

    def start_epoch(self, epoch: int) -> None:
        if epoch == 0:
            checkpoints.start_from(self.model, self.preset)
        if self.stage(epoch) != "objective" or epoch != self._stage(epoch).first:
            return
        if epoch and self.preset.fusion:
            some, preset = np.arange(min(len(self.corpus), 256)), self.preset
            ids, mask = text.encode(self.tokenizer, self.corpus.reports(some), preset.max_tokens)
            view = vision_transformer.plain_view(self.corpus.images(some), preset)
            self.model.eval()
            warmup.sharpen(
                self.model.online,
                ids.to(self.device),
                mask.to(self.device),
                view.to(self.model.temperature),
            )
        self.model.reset_twin()

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        stage, size = self._stage(epoch), self._size(epoch)
        picked = order[k * size : (k + 1) * size]
        studies = self.corpus.dataset.index["study_id"].iloc[self.corpus.rows[picked]].tolist()
        follows = k % self.preset.accumulation == 0  # the twins follow once a step
        if stage.name == "contrast":
            return studies, (stage.name, follows, *self.corpus.pairs(picked, rng, generator))
        alpha = self.preset.alpha * min(1.0, epoch - stage.first + k / self.batches(epoch))
        return studies, (
            stage.name,
            follows,
            self.corpus.batch(picked, rng, generator),
            alpha,
            generator,
        )

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        stage = self._stage(epoch)
        return stage.learning_rate((epoch - stage.first) * steps + step, steps, self.preset)

    def clip(self, model) -> None:
        optimizer.clip_each(self.model.online.vision.parameters(), self.preset.clip)

    def values(self) -> dict[str, torch.Tensor]:
        return {"temperature": self.model.temperature}

    def score(self, epoch: int) -> float | None:
        if self.stage(epoch) == "contrast":  # the matching head has seen nothing
            return None
        return auroc_of_shifted_reports(self.model, self.valid, self.device)


def fit(preset, dataset, tokenizer, folder: Path, device, progress) -> pd.DataFrame:
    """Pre-train on the split `train` of `dataset` into `folder`; see `loop.fit` for what is
    written and returned.

    Raises ValueError for fewer training reports than a batch, RuntimeError naming the studies of a
    batch whose loss is not finite.
    """
    return loop.fit(Pretraining(preset, dataset, tokenizer), preset, folder, device, progress)


@torch.no_grad()
def auroc_of_shifted_reports(model: XVL, corpus: Corpus, device, offsets=(1, 2, 3, 5)) -> float:
    """AUROC of the matching head on validation pairs: each image with its own report and with those
    of the studies `offsets` places before it; of the cosine where there is no fusion encoder."""
    model.eval()
    n = len(corpus)
    if n < 2:
        return float("nan")
    encoded = [
        model.online.encode_image(
            vision_transformer.plain_view(corpus.images(p), corpus.preset).to(device)
        )
        for p in np.array_split(np.arange(n), max(1, n // 64))
    ]
    tokens, f_image = (torch.cat(part) for part in zip(*encoded, strict=True))
    ids, mask = (
        t.to(device)
        for t in text.encode(corpus.tokenizer, corpus.reports(range(n)), corpus.preset.max_tokens)
    )
    states, f_text = model.online.encode_text(ids, mask)
    scores = []
    for shift in (0, *offsets):
        other = torch.roll(torch.arange(n, device=device), shift)
        if corpus.preset.fusion:
            scores.append(model.match_logits(states[other], mask[other], tokens)[:, 1].cpu())
        else:
            scores.append((f_text[other] * f_image).sum(dim=1).cpu())
    return float(metrics.auroc(np.repeat([1, 0], [n, n * len(offsets)]), torch.cat(scores).numpy()))
