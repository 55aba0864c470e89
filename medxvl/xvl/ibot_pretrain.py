"""Pre-train X-VL's vision encoder without labels or reports: iBOT as a task that `loop.fit` runs,
and what it is worth.

Several GPUs: `medxvl.pipeline pretrain` under torchrun, into the folder that the notebook reads.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medxvl.config.recipes import Recipe
from medxvl.data.dataset import Pixels
from medxvl.evaluation import metrics
from medxvl.evaluation.rows import class_rows
from medxvl.layers import vision_transformer
from medxvl.training import distributed, loop, optimizer
from medxvl.weights import store
from medxvl.xvl import checkpoints, ibot

WEIGHTS = checkpoints.OWN_FILE


class Objective(nn.Module):
    """iBOT with one `forward`: that is what autocast and DDP wrap."""

    def __init__(self, model: ibot.IBOT):
        super().__init__()
        self.model = model

    def forward(self, views: ibot.Views, done: float, follows: bool) -> dict[str, Tensor]:
        self.model.follows = follows
        return self.model(views, done)


class SelfDistillation(loop.Task):
    """iBOT on the images of the split `train`; the last epoch is kept, as published: no label or
    report plays a part.
    """

    label, score_label = "self-distillation", "share of the training"
    samples = "training images"

    def __init__(self, preset, dataset):
        self.preset, self.dataset = preset, dataset
        self.rows = dataset.rows("train")
        self.pixels, self.epochs, self.epoch = Pixels(dataset, self.rows), preset.ibot_epochs, 0
        self.n, self.batch_size, self.decay = len(self.rows), preset.ibot_batch, preset.ibot_decay
        self.recipe = Recipe.of(preset, ("model", "ibot"), dataset.fingerprint, __name__)

    def build(self, device) -> Objective:
        self.model = ibot.IBOT(self.preset).to(device)
        return Objective(self.model)

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        self.epoch, picked = epoch, order[k * self.size : (k + 1) * self.size]
        own = distributed.own(len(picked))
        views = ibot.views(self.pixels(picked[own]), self.preset, generator, own, len(picked))
        studies = self.dataset.index["study_id"].iloc[self.rows[picked]].tolist()
        done = (epoch + k / self.batches(epoch)) / self.epochs
        return studies, (views, done, k % self.preset.accumulation == 0)

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """iBOT's schedule, for 256 images a step, in proportion to ours."""
        now = ibot.schedule(self.preset, (epoch + step / steps) / self.epochs)
        return now["learning_rate"] * self.size * self.preset.accumulation / 256

    def weight_decay(self, epoch: int, step: int, steps: int) -> float:
        return ibot.schedule(self.preset, (epoch + step / steps) / self.epochs)["weight_decay"]

    def clip(self, model) -> None:
        """Each parameter's gradient is cut; the prototypes get none in the first epochs."""
        student = self.model.student
        if self.epoch < self.preset.ibot_frozen:
            student.head.prototypes.grad = None
        optimizer.clip_each(student.parameters(), self.preset.ibot_clip)

    def score(self, epoch: int) -> float:
        return (epoch + 1) / self.epochs

    def save(self, path: Path, score: float) -> None:
        """In the layout of iBOT's published files: `teacher` and `student`."""
        state = {
            k: v.contiguous()
            for k, v in self.model.state_dict().items()
            if k.startswith(("teacher.", "student."))
        }
        store.write(state, path, self.recipe.about())


def fit(preset, dataset, folder: Path, device, progress) -> tuple[pd.DataFrame, Path]:
    """Pre-train into `folder`; the log, and the file of the weights, which setting `vision_weights`
    takes.
    """
    task = SelfDistillation(preset, dataset)
    return loop.fit_to_end(task, folder, WEIGHTS, device, progress)


def encoder(preset, path: Path | None, device="cpu") -> nn.Module:
    """The vision encoder with the weights of `path`, in evaluation mode: those of its teacher, or
    as `vision_branch` says. None: random ones, a control."""
    torch.manual_seed(preset.seed)
    model = vision_transformer.build(preset)
    if path is not None:
        store.load_into(model, path, branch=checkpoints.branch(preset))
    return model.to(device).eval()


@torch.no_grad()
def features(model, dataset, rows, preset, device) -> np.ndarray:
    """(n, 2 * width): `[CLS]` and mean patch token of the plain view of each row."""
    pixels, found = Pixels(dataset, rows), []
    for part in torch.arange(len(rows)).split(256):
        tokens = vision_transformer.tokens(
            model, vision_transformer.plain_view(pixels(part), preset).to(device)
        )
        found.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1).float().cpu())
    return torch.cat(found).numpy()


def evaluate(
    labels,
    scores,
    patients,
    findings,
    *,
    n_resamples=1000,
    seed=0,
    **about,
):
    """Rows of one probe: AUROC of each finding and their mean, with 95 % intervals over patients.

    `about`: see `medxvl.evaluation.rows`.
    """
    about = {"paper": "xvl", "task": "vision_pretraining"} | about
    value = metrics.auroc(labels, scores)
    drawn = metrics.bootstrap(metrics.auroc, labels, scores, patients, n_resamples, seed)
    groups = [(name, [k]) for k, name in enumerate(findings)] + [
        (f"mean of {len(findings)}", list(range(len(findings))))
    ]
    return class_rows(about, "auroc", value, drawn, groups, np.ones_like(labels, dtype=bool))
