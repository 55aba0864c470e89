"""Fine-tune a pre-trained model on a task: what the tasks of both models share (image tokens,
schedule, reading back).

medxvl.medvill.finetune and medxvl.xvl.finetune say what is particular to each.
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

from medxvl.config.recipes import Recipe
from medxvl.data import questions
from medxvl.data.dataset import Pixels
from medxvl.training import distributed, loop, schedules
from medxvl.weights import store

CHUNK = 128  # samples in one call, at evaluation


class Pictures:
    """Image tokens of some rows of a dataset, (n, P, F): computed once where the encoder is fixed,
    else for each batch.

    A model gives `plain(picked)` and `views(picked, generator)`, evaluation and training views (n,
    C, s, s) of `picked` (training views of the own part of a batch, drawn for all of it),
    `fixed(encoder)`, whether an image always gives the same tokens, and `size(encoder)`, how many
    numbers these are.
    """

    def __init__(self, dataset, rows, preset, device):
        self.pixels, self.rows, self.preset, self.device = (
            Pixels(dataset, rows),
            np.asarray(rows),
            preset,
            device,
        )
        self._tokens, self._of = None, None

    def __len__(self) -> int:
        return len(self.rows)

    def encode(self, encoder: nn.Module, views: Tensor) -> Tensor:
        """Views (n, C, s, s) -> tokens (n, P, F)."""
        return encoder(views)

    @torch.no_grad()
    def tokens(self, encoder: nn.Module, picked) -> Tensor:
        """(n, P, F) of the plain views of `picked`, on the device; all are kept while they fit into
        memory.
        """
        picked = torch.as_tensor(picked)
        if not self.fixed(encoder) or len(self) * self.size(encoder) * 4 > Pixels.IN_MEMORY:
            return self.encode(encoder, self.plain(picked).to(self.device))
        if self._of is not encoder:
            parts = torch.arange(len(self)).split(CHUNK)
            self._tokens = torch.cat(
                [self.encode(encoder, self.plain(p).to(self.device)) for p in parts]
            )
            self._of = encoder
        return self._tokens[picked.to(self.device)]


class FineTuning(loop.Task):
    """A task's training. `name` is the prefix of its settings NAME_epochs, NAME_batch and
    NAME_rate; `common` of those that the model's tasks share, `groups` are the settings that shape
    the result, `pictures_of` makes the image tokens.

    A task gives `module()`, what is trained, `inputs(picked, rng, generator)`, what it is given for
    this process's part of the samples `picked`, and `score`; a model gives `encoder()`, the image
    encoder of the module in training.
    """

    name, common, groups = "", "tune", ()
    skips_parameters = True  # heads of pre-training that the task has no use for

    pictures_of = Pictures
    kind = "fine-tuned"

    def __init__(
        self, preset, start: nn.Module, dataset, rows, device, about: str = "", sees: bool = True
    ):
        """`rows` of `dataset` are the samples, a row each. `about`: what else of the data shapes
        the result. Without `sees` no image is shown.
        """
        self.preset, self.start, self.device = preset, start, device
        self.dataset, self.rows, self.n = dataset, np.asarray(rows), len(rows)
        self.pictures = self.pictures_of(dataset, rows, preset, device) if sees else None
        self.names = dataset.index["study_id"].iloc[rows]
        self.epochs, self.batch_size, self.rate = (
            getattr(preset, f"{self.name}_{part}") for part in ("epochs", "batch", "rate")
        )
        self.decay = self.shared("weight_decay")
        self.label = f"fine-tuning: {self.name.removeprefix('xvl_')}"
        data = f"{dataset.fingerprint} {about}".strip()
        module, given = type(self).__module__, state_hash(start)
        self.recipe = Recipe.of(preset, (*self.groups, self.name), data, module, start=given)

    def ids(self, picked: np.ndarray) -> list[str]:
        """Names of the samples, to say in which something is wrong."""
        return self.names.iloc[picked].tolist()

    def shared(self, setting: str):
        """Value of a setting of all tasks of this model."""
        return getattr(self.preset, f"{self.common}_{setting}")

    def build(self, device) -> nn.Module:
        self.model = self.tuned = self.module().to(device)
        return self.tuned

    @property
    def size(self) -> int:
        """Samples in a batch of all processes."""
        return min(super().size, self.n)

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        picked = order[k * self.size : (k + 1) * self.size]
        return self.ids(picked), self.inputs(picked, rng, generator)

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """Linear warm-up, then a cosine to the share `end` of the rate; constant where that is
        1.
        """
        done, every = epoch * steps + step, self.epochs * steps
        warmup = min(self.shared("warmup"), every // 5)
        return schedules.warmup_cosine(
            done, every, warmup, self.rate, self.rate * self.shared("end")
        )

    def images(self, picked: np.ndarray, generator) -> Tensor:
        """Augmented views where the image encoder is trained, else tokens; own part of the
        batch.
        """
        if self.pictures.fixed(self.encoder()):
            return self.pictures.tokens(self.encoder(), picked[distributed.own(len(picked))])
        return self.pictures.views(picked, generator)

    def fit(self, folder: Path, progress) -> tuple[nn.Module, str]:
        """Train into `folder`; the model with the weights of its best validation epoch, and a
        short text that identifies them.
        """
        loop.fit(self, replace(self.preset, checkpoints=1), folder, self.device, progress)
        best = folder / next(iter(json.loads((folder / "best.json").read_text(encoding="utf-8"))))
        self.read_back(best)
        return self.model.eval(), f"fine-tuned {store.fingerprint(best)}"

    def read_back(self, path: Path) -> None:
        """Give `model` the weights that `save` wrote."""
        self.model.load_state_dict(load_file(path))


class OnQuestions:
    """What a FineTuning on questions shares between the models: the training questions of `table`;
    the epoch that answers best on held-out training images is kept.

    A task gives `predict`(module, tokenizer, dataset, table, answers, device, sees), the answers.
    """

    score_label = "accuracy on held-out training images"

    def __init__(self, preset, dataset, table, start, tokenizer, device, sees: bool = True):
        train = table[table["split"] == "train"]
        self.answers, self.tokenizer, self.sees = questions.vocabulary(train), tokenizer, sees
        self.train, self.valid = questions.hold_out(train, preset.seed)
        rows, about = self.train["row"].to_numpy(), f"{len(table)} {sees}"
        super().__init__(preset, start, dataset, rows, device, about, sees)
        self.names = self.train["qid"]

    def score(self, epoch: int) -> float:
        if self.valid.empty:
            return 0.0
        given = self.predict(
            self.tuned,
            self.tokenizer,
            self.dataset,
            self.valid,
            self.answers,
            self.device,
            self.sees,
        )
        return float((given == self.valid["answer"].to_numpy()).mean())


def copied(start: nn.Module) -> nn.Module:
    """A model of its own with the weights of `start`."""
    return copy.deepcopy(start).train()


def state_hash(model: nn.Module) -> str:
    """12 hex digits of a model's weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
