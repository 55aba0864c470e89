"""Prepared datasets, read: one row an image, its labels, texts and pixels."""

import hashlib
import json
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch

from data_prep.reports import labels

CHEXPERT_14 = tuple(labels.COLUMNS)


class Dataset:
    """One prepared folder: `.index` (one row an image), `.card`, `.images(rows)`, `.rejects`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / "card.json").is_file():
            raise FileNotFoundError(
                f"{folder}: expected a prepared dataset (card.json); prepare it with python "
                "-m data_prep"
            )
        self.card = json.loads((self.folder / "card.json").read_text(encoding="utf-8"))
        self.label = self.card["label"]
        self.synthetic = bool(self.card["synthetic"])
        prints = self.card["fingerprint"]
        self.fingerprint = hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()[
            :12
        ]

    @cached_property
    def index(self):
        text = ("study_id", "patient_id", "image_id", "split", "view", "findings", "impression")
        head = pd.read_csv(self.folder / "index.csv", nrows=0).columns
        empty = {
            column: [] if column in text else [""] for column in head
        }  # an empty report is a text, not a gap
        kinds = {column: str for column in text if column in head}
        return pd.read_csv(
            self.folder / "index.csv", dtype=kinds, keep_default_na=False, na_values=empty
        )

    @cached_property
    def rejects(self):
        return pd.read_csv(self.folder / "rejects.csv", dtype=str, keep_default_na=False)

    @property
    def has_images(self) -> bool:
        return (self.folder / "images.h5").is_file()

    @cached_property
    def _pixels(self):
        path = self.folder / "images.h5"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.label}: expected images, found reports or labels only ({self.folder})"
            )
        return h5py.File(path, "r")["cxr"]  # opened on first use: once a process, after any fork

    def images(self, rows):
        """Pixels of index rows `rows` (n,) in their order, (n, S, S) uint8."""
        unique, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        if len(unique) and len(unique) > 0.5 * (
            unique[-1] - unique[0] + 1
        ):  # dense: one contiguous read is far faster
            block = self._pixels[unique[0] : unique[-1] + 1]
            return block[unique - unique[0]][back]
        return self._pixels[unique][back]

    def rows(self, split: str):
        """Row numbers of a split, (n,)."""
        return np.flatnonzero(self.index["split"].to_numpy() == split)


class Pixels:
    """Pictures of some rows of a dataset, by their place among these rows: a small set is read into
    memory once, a large one batch by batch from disk."""

    IN_MEMORY = 2**30  # bytes

    def __init__(self, dataset: Dataset, rows):
        self.dataset, self.rows, self._all = dataset, rows, None

    def __call__(self, picked):
        """(n, S, S) uint8 tensor."""
        if self._all is None and len(self.rows) * self.dataset.card["size"] ** 2 <= self.IN_MEMORY:
            self._all = torch.from_numpy(self.dataset.images(self.rows))
        if self._all is not None:
            return self._all[torch.as_tensor(picked)]
        return torch.from_numpy(self.dataset.images(self.rows[np.asarray(picked)]))
