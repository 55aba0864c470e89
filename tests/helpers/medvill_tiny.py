"""The smallest MedViLL, and a dataset for it."""

import numpy as np
import pandas as pd
import torch

from medxvl.config import presets
from medxvl.data import text
from medxvl.data.dataset import CHEXPERT_14
from medxvl.medvill import corpus as corpora

REPORTS = (
    "small left pleural effusion ___ with right lower opacity",
    "no acute process",
    "mild cardiomegaly and edema seen by ___ on ___",
    "right pneumothorax",
)
TINY = presets.load(
    "smoke",
    "medvill_width=16 medvill_layers=1 medvill_heads=2 medvill_hidden=16 medvill_features=16 "
    "medvill_image_size=32 "
    "medvill_patch=8 medvill_positions=7 medvill_text=9 medvill_max_positions=32 "
    "medvill_freeze=none",
)


class Fake:
    """What `Corpus` uses of a prepared dataset."""

    label, card = "fake", {"size": 40}

    def __init__(self, n=12, reports=REPORTS):
        rng = np.random.default_rng(3)
        self.pixels = rng.integers(0, 256, (n, 40, 40), dtype=np.uint8)
        self.index = pd.DataFrame(
            {"findings": [reports[k % len(reports)] for k in range(n)], "impression": ""}
        )
        values = np.full((n, 14), np.nan)
        values[np.arange(n), np.arange(n) % 3] = 1
        values[:, 7] = -1  # uncertain: no positive finding
        self.index[list(CHEXPERT_14)] = values

    def rows(self, split):
        return np.arange(len(self.index))

    def images(self, rows):
        return self.pixels[rows]


def train_tokenizer():
    return text.train_tokenizer(list(REPORTS), 120)


def corpus(tokenizer):
    return corpora.Corpus(Fake(), "train", tokenizer, TINY)


def draw(corpus, n=8, training=True):
    return corpus.batch(
        np.arange(n), np.random.default_rng(0), torch.Generator().manual_seed(0), training
    )
