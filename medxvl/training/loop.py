"""One `fit` for every model: mixed precision, several processes, accumulation, checkpoints, resume,
and a log line a step.

A `Task` says what is trained and on which batches; `fit` says how. An interrupted run, started
again, ends with the same bits as one that was not: every draw comes from a generator whose state is
in the checkpoint, and is made in one order.
"""

import json
import math
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.std import tqdm

from medxvl.config import records
from medxvl.config.recipes import Recipe
from medxvl.training import distributed, optimizer, resume, schedules
from medxvl.weights import store


class Task:
    """What `fit` asks of a training; a task overrides what it needs. `k` counts batches within an
    epoch, from 0.

    A batch is that of all processes together (`distributed.processes()`): `batch` draws for all of
    it, so that a sample gets the same draws whatever their number, and gives the part of this
    process (`distributed.own`).
    """

    label = "training"  # what the progress bar says
    score_label = "validation score"
    kind = "pre-trained"  # what the weights that are kept are
    samples = "training studies with a report"  # what `n` counts
    epochs = 1
    # All that shapes the result: a state of other settings or data is never gone on from.
    recipe = Recipe({}, "", {}, keeps=False)
    max_norm = 0.0  # 0: gradients are not clipped
    decay = 0.01  # weight decay, that of AdamW by default
    skips_parameters = False  # whether some steps leave parameters unused

    def build(self, device: torch.device) -> nn.Module:
        """The model, on `device`: model(*inputs) -> loss terms by name, scalars, of which "total"
        is minimised.
        """
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Groups for AdamW, each with the factor of its learning rate in "scale"."""
        return optimizer.decay_groups(model.named_parameters(), self.decay)

    @property
    def size(self) -> int:
        """Samples in a batch of all processes."""
        return self.batch_size * distributed.processes()

    def batches(self, epoch: int) -> int:
        """Whole batches of the `n` samples; ValueError for none."""
        if self.n < self.size:
            raise ValueError(
                f"{self.label}: expected at least {self.size} {self.samples}, found {self.n}"
            )
        return self.n // self.size

    def order(self, epoch: int, rng: np.random.Generator):
        """What `batch` is to take its samples from in this epoch, drawn first thing."""
        return rng.permutation(self.n)

    def start_epoch(self, epoch: int) -> None:
        """Changes to the model before an epoch; not repeated when the epoch is resumed."""

    def batch(
        self, epoch: int, k: int, order, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple:
        """(study ids of the whole batch, inputs of the model for this process's part)."""
        raise NotImplementedError

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """Rate of step `step` of `steps` in this epoch: a linear warm-up, then a cosine, of which
        `rates` gives steps of warm-up, peak and end.
        """
        return schedules.warmup_cosine(epoch * steps + step, self.epochs * steps, *self.rates)

    def weight_decay(self, epoch: int, step: int, steps: int) -> float | None:
        """Decay of the groups that have one; None: as the groups say."""
        return None

    def clip(self, model: nn.Module) -> None:
        """Limit the gradients, in place: the norm of all of them together to `max_norm`."""
        if self.max_norm:
            nn.utils.clip_grad_norm_(model.parameters(), self.max_norm)

    def stage(self, epoch: int) -> str:
        """Name of the stretch of training that the epoch belongs to."""
        return "training"

    def values(self) -> dict[str, Tensor]:
        """Further columns of a log line: scalars of the model after the step."""
        return {}

    def score(self, epoch: int) -> float | None:
        """Decides which epochs are kept, higher is better; None: this one is not."""
        return None

    def save(self, path: Path, score: float) -> None:
        """Write the weights of an epoch that is kept, those of `model`."""
        store.save(self.model, path, kind=self.kind, recipe=self.recipe, score=score)


def fit(task: Task, preset, folder: Path, device: torch.device, progress) -> pd.DataFrame:
    """Train `task` and return its log: a row a log step with the rate, the task's columns and every
    loss term.

    Of `preset` it reads seed, precision, accumulation, checkpoint_every, log_every and checkpoints.
    Writes to `folder`: `log.jsonl`; `last.pt`, from which an interrupted run goes on; the best
    epochs, `epoch-NNN.safetensors`, and their scores, `best.json`. A finished run is read back, not
    repeated; one that another process is at is waited for. `progress(total, desc)` makes the bar.
    Started by torchrun, each process calls it; the first writes. Raises RuntimeError naming the
    studies of a batch whose loss is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with resume.locked(folder) if distributed.alone() else nullcontext():
        return _Training(task, preset, folder, device, progress).run()


def fit_to_end(task: Task, folder: Path, name: str, device, progress) -> tuple[pd.DataFrame, Path]:
    """`fit` for a task that keeps its last epoch: the log, and the file of its weights,
    `folder`/`name`.
    """
    log = fit(task, replace(task.preset, checkpoints=1), folder, device, progress)
    path = folder / name
    if distributed.rank() == 0:
        (last,) = folder.glob("epoch-*.safetensors")
        path.unlink(missing_ok=True)
        path.hardlink_to(last)
    distributed.wait()
    return log, path


class _Training:
    """The state of one `fit`."""

    def __init__(self, task, preset, folder, device, progress):
        self.task, self.preset, self.folder = task, preset, folder
        self.accelerator = accelerator(preset.precision, device, task.skips_parameters)
        self.device, self.first = self.accelerator.device, self.accelerator.is_main_process

        torch.manual_seed(preset.seed)
        self.model = task.build(self.device)
        if not self.first:
            torch.manual_seed(
                preset.seed + distributed.rank()
            )  # its own dropout; the weights are those of the first
        distributed.share_batch_statistics(self.model)
        optimizer = torch.optim.AdamW(
            task.parameter_groups(self.model), fused=True
        )  # on a CPU a sixth of the time
        self.generator = torch.Generator().manual_seed(preset.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`broadcast_buffers` is deprecated", FutureWarning
            )  # no other way by accelerate
            self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)

        self.epoch = self.step = self.steps = 0  # steps: of all epochs
        self.best, self.drawn = {}, None
        state = resume.load(folder, task.recipe, distributed.processes())
        if state:
            self._take_up(state)
        self.log = resume.Log(folder, self.steps, self.first)
        self.accelerator.wait_for_everyone()
        if self.first:
            self._tidy()
        self.pending = []  # steps whose losses are not looked at yet: (row, study ids, terms)
        lengths = [task.batches(epoch) // preset.accumulation for epoch in range(task.epochs)]
        if not all(lengths):
            raise ValueError(
                f"{task.label}: {min(map(task.batches, range(task.epochs)))} batches in an "
                "epoch do not make one step "
                f"of accumulation={preset.accumulation}"
            )
        self.lengths = lengths
        shown = progress(sum(lengths), task.label) if self.first else tqdm(disable=True)
        # so that its rate counts this start's steps
        shown.n = shown.initial = shown.last_print_n = self.steps
        self.bar = shown

    def run(self) -> pd.DataFrame:
        self.log.open()
        try:
            while self.epoch < self.task.epochs:
                self._run_epoch()
        finally:
            self.log.close()
            self.bar.close()
        return pd.DataFrame(self.log.rows)

    def _run_epoch(self) -> None:
        task, epoch, steps = self.task, self.epoch, self.lengths[self.epoch]
        rng = np.random.default_rng([self.preset.seed, epoch])
        if self.step == 0:
            task.start_epoch(epoch)
        order = task.order(epoch, rng)
        if self.step:
            rng.bit_generator.state = json.loads(self.drawn["numpy"])
        self.wrapped.train()
        ready = None
        while self.step < steps:
            ready = ready or self._batches(order, rng)
            rate, decay = (
                f(epoch, self.step, steps) for f in (task.learning_rate, task.weight_decay)
            )
            ids, terms = self._take_step(ready, rate, decay)
            row = {
                "step": self.steps,
                "epoch": epoch,
                "stage": task.stage(epoch),
                "learning_rate": rate,
            }
            self.pending.append((row, ids, terms))
            self.step, self.steps, ready = self.step + 1, self.steps + 1, None
            due = self.preset.checkpoint_every and self.steps % self.preset.checkpoint_every == 0
            if self.step < steps and not due:  # drawn while a GPU is still busy with the step
                ready = self._batches(order, rng)
            if (self.steps - 1) % self.preset.log_every == 0 or due or self.step == steps:
                self._look_at_losses()
            self.bar.update(1)
            if due and self.step < steps:
                self._save(rng)
        score = task.score(epoch)
        if score is not None and self.first:
            self._keep(epoch, score)
        self.epoch, self.step = epoch + 1, 0
        self._save(rng)
        if self.first:
            self._tidy()  # only now: the state before named what goes
        told = "" if score is None else f", {task.score_label} {score:.3f}"
        self.bar.set_postfix_str(f"total {self.log.rows[-1]['total']:.2f}{told}")

    def _keep(self, epoch: int, score: float) -> None:
        """Save this epoch when it is among the best."""
        name = f"epoch-{epoch:03d}.safetensors"
        ranked = sorted(
            {**self.best, name: score}.items(), key=lambda item: (-np.nan_to_num(item[1]), item[0])
        )
        self.best = dict(ranked[: self.preset.checkpoints])
        if name in self.best:
            self.task.save(self.folder / name, score)

    def _batches(self, order, rng) -> list[tuple]:
        """The batches of the next step."""
        n = self.preset.accumulation
        return [
            self.task.batch(self.epoch, k, order, rng, self.generator)
            for k in range(self.step * n, (self.step + 1) * n)
        ]

    def _take_step(
        self, batches, rate: float, decay: float | None
    ) -> tuple[list[str], dict[str, Tensor]]:
        """One step of the optimizer on `batches`; study ids, and loss terms as means over the
        batches.
        """
        ids, found = [], []
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
            group["weight_decay"] = (
                decay if decay is not None and group["weight_decay"] else group["weight_decay"]
            )
        for k, (studies, inputs) in enumerate(batches):
            ids += studies
            inputs = [x.to(self.device) if hasattr(x, "to") else x for x in inputs]
            if k + 1 < len(batches):
                with self.accelerator.no_sync(self.wrapped):
                    terms = self.wrapped(*inputs)
                    self.accelerator.backward(terms["total"] / len(batches))
            else:
                terms = self.wrapped(*inputs)
                self.accelerator.backward(terms["total"] / len(batches))
            found.append({name: value.detach() for name, value in terms.items()})
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(self.optimizer)
        self.task.clip(self.model)
        self.optimizer.step()
        terms = (
            found[0]
            if len(found) == 1
            else {n: torch.stack([f[n] for f in found]).mean() for n in found[0]}
        )
        return ids, {
            name: value.detach().clone() for name, value in self.task.values().items()
        } | terms

    def _look_at_losses(self) -> None:
        """Fetch the losses of the pending steps, stop if one is not finite, write the log lines
        that are due.
        """
        values = torch.stack([torch.stack(list(terms.values())) for _, _, terms in self.pending])
        if distributed.processes() > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        for (row, ids, terms), numbers in zip(self.pending, values.tolist(), strict=True):
            found = dict(zip(terms, numbers, strict=True))
            if not math.isfinite(found["total"]):
                raise RuntimeError(
                    f"the loss is {found['total']} in epoch {row['epoch']}; studies of the "
                    f"batch: {', '.join(ids)}"
                )
            if row["step"] % self.preset.log_every == 0:
                self.log.add(row | found)
        self.pending.clear()

    def _save(self, rng) -> None:
        """The state after the last step, by the first process; generators of each process."""
        drawn = resume.generators(self.generator, rng, self.device)
        every = gather_object([drawn])
        if self.first:
            scaler = self.accelerator.scaler
            resume.save(
                self.folder,
                {
                    "recipe": self.task.recipe.about(),
                    "processes": distributed.processes(),
                    "epoch": self.epoch,
                    "step": self.step,
                    "steps": self.steps,
                    "best": self.best,
                    "finished": self.epoch == self.task.epochs,
                    "drawn": every,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else {},
                },
            )

    def _take_up(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.steps, self.best = (
            state["epoch"],
            state["step"],
            state["steps"],
            state["best"],
        )
        self.drawn = state["drawn"][min(distributed.rank(), len(state["drawn"]) - 1)]
        resume.restore_generators(self.drawn, self.generator, self.device)

    def _tidy(self) -> None:
        """List the best epochs, and delete others: of other settings, pushed out, or of an epoch to
        be trained again.
        """
        records.write_text(self.folder / "best.json", json.dumps(self.best, indent=1))
        for file in self.folder.glob("epoch-*.safetensors"):
            if file.name not in self.best:
                file.unlink()


def accelerator(
    precision: str, device: torch.device, skips_parameters: bool = False
) -> Accelerator:
    """The accelerator for one training: DDP when torchrun started several processes, autocast to
    `precision`.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(
            "setting precision=fp16 needs a GPU: use precision=bf16 or precision=fp32 on a CPU"
        )
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # it is one for the process, and refuses another precision
    made = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision={"fp32": "no"}.get(precision, precision),
        # Buffers are equal in each process: queues and twins follow from gathered features.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                find_unused_parameters=skips_parameters, broadcast_buffers=False
            )
        ],
    )
    torch.set_num_threads(threads)
    return made
