"""A tiny pre-training for the tests of the trainer. As a program, `python train_helpers.py FOLDER
[SETTING=VALUE ...]` trains into FOLDER; torchrun starts it in several processes."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import medxvl

medxvl.set_up()  # before anything that imports timm or transformers

from medxvl.config import presets
from medxvl.data import text
from medxvl.training import loop
from medxvl.xvl import pretrain
from medxvl.xvl.model import Batch

TINY_SETTINGS = (
    "vision_width=16 vision_layers=1 vision_heads=2 text_width=16 text_layers=1 text_heads=2 "
    "text_hidden=16 fusion_layers=1 "
    "fusion_hidden=16 projection=8 queue_size=10 vocabulary=80 max_tokens=12 image_size=32 "
    "resize=34 threads=1 "
    "epochs=2 contrast_epochs=2 batch_size=4 contrast_batch=6 checkpoints=2 warmup_steps=2"
)
TINY = presets.load("smoke", TINY_SETTINGS)
WORDS = (
    "small left effusion",
    "no acute process",
    "mild cardiomegaly",
    "right pneumothorax",
    "clear lungs",
    "rib fracture",
)
CPU = torch.device("cpu")


class Fake:
    """What `fit` uses of a prepared dataset."""

    label, fingerprint, card = "fake", "0" * 12, {"size": 40}

    def __init__(self, images=None, reports=None, n=26):
        rng = np.random.default_rng(5)
        self.pixels = (
            rng.integers(0, 256, (n, 40, 40), dtype=np.uint8) if images is None else images
        )
        said = [
            ". ".join(WORDS[j] for j in rng.permutation(6)[: 1 + k % 3]) + "." for k in range(n)
        ]
        self.index = pd.DataFrame(
            {
                "study_id": [f"s{k:02d}" for k in range(n)],
                "split": ["valid" if k % 4 == 0 else "train" for k in range(n)],
                "findings": "",
                "impression": reports or said,
            }
        )

    def rows(self, split):
        return np.flatnonzero(self.index["split"] == split)

    def images(self, rows):
        return self.pixels[rows]


class Bar:
    """A progress bar that calls `after_epoch(k)` when epoch k is done and saved."""

    def __init__(self, after_epoch=lambda k: None, after_step=lambda k: None):
        self.epochs, self.steps, self.after_epoch, self.after_step = 0, 0, after_epoch, after_step

    def __call__(self, total, desc):
        return self

    def update(self, n=1):
        self.steps += n
        self.after_step(self.steps)

    def set_postfix_str(self, told):
        self.epochs += 1
        self.after_epoch(self.epochs)

    def close(self):
        pass


def words(preset=TINY):
    """The tokenizer of these trainings."""
    return text.train_tokenizer([". ".join(WORDS)] * 3, preset.vocabulary)


def fit(folder, bar=None, preset=TINY, data=None):
    torch.set_num_threads(1)
    data = data or Fake()
    return pretrain.fit(preset, data, words(preset), Path(folder), CPU, bar or Bar())


def result(folder):
    """Everything a finished run leaves: weights by file, their scores and the log."""
    kept = {p.name: load_file(p) for p in sorted(Path(folder).glob("epoch-*.safetensors"))}
    return (
        kept,
        json.loads((Path(folder) / "best.json").read_text()),
        (Path(folder) / "log.jsonl").read_text(),
    )


def same(a, b):
    assert a[1:] == b[1:] and a[0].keys() == b[0].keys()
    for name, state in a[0].items():
        assert all(torch.equal(state[k], b[0][name][k]) for k in state), f"{name} differs"


def with_settings(settings: str):
    """TINY with settings such as "seed=1" on top."""
    return presets.load("smoke", " ".join([TINY_SETTINGS, settings]))


class Double(pretrain.Pretraining):
    """The same in float64, where the order of additions does not show."""

    def build(self, device):
        return super().build(device).double()

    def batch(self, *given):
        studies, inputs = super().batch(*given)
        return studies, [_double(x) for x in inputs]


def _double(x):
    if isinstance(x, Batch):
        return Batch(**{name: _double(value) for name, value in vars(x).items()})
    return x.double() if torch.is_tensor(x) and x.is_floating_point() else x


def compared(folder, processes: int) -> None:
    """Two trainings that any number of processes must do alike: in float64 (without validation),
    and as it is used.
    """
    studies = f"batch_size={4 // processes} contrast_batch={6 // processes}"
    preset = with_settings(f"{studies} accumulation=2 contrast_epochs=1")
    tokenizer = text.train_tokenizer([". ".join(WORDS)] * 3, preset.vocabulary)
    torch.set_num_threads(1)
    task = Double(preset, Fake(), tokenizer)
    task.score = lambda epoch: None
    loop.fit(task, preset, Path(folder) / "float64", CPU, Bar())
    more = "contrast_epochs=0 vision_stem=patch packed=1 negatives=momentum"
    fit(Path(folder) / "float32", preset=with_settings(f"{studies} {more}"))


if __name__ == "__main__":
    if sys.argv[1] == "compared":
        compared(sys.argv[2], int(sys.argv[3]))
    else:
        fit(sys.argv[1], preset=with_settings(" ".join(sys.argv[2:])))
