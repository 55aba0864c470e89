"""A small dataset in which brightness says the finding and the report says it too, for the tests of
MedViLL's tasks.
"""

import numpy as np
import pandas as pd
import torch
from train_helpers import Bar

from medxvl.config import paths, presets
from medxvl.data import text
from medxvl.data.dataset import CHEXPERT_14
from medxvl.medvill import alignment, checkpoints
from medxvl.medvill import pretrain as medvill_pretrain

CPU = torch.device("cpu")

SETTINGS = (
    "medvill_width=24 medvill_layers=2 medvill_heads=2 medvill_hidden=24 medvill_features=16 "
    "medvill_image_size=32 "
    "medvill_patch=16 medvill_positions=3 medvill_text=12 medvill_max_positions=32 vocabulary=120 "
    "medvill_alignment_epochs=12 medvill_matching_epochs=1 medvill_epochs=2 medvill_batch=16 "
    "medvill_alignment_batch=16 classify_epochs=6 classify_rate=3e-3 vqa_epochs=8 "
    "vqa_rate=3e-3 generate_epochs=30 "
    "generate_rate=5e-3 generate_most=12 retrieve_epochs=2 retrieve_pool=20 bootstrap=40 "
    "checkpoint_every=0"
)
PRESET = presets.load("smoke", SETTINGS)
WORDS = {
    "Cardiomegaly": "large heart is seen",
    "Edema": "edema of the lungs",
    "": "clear chest, nothing acute",
}


class Fake:
    """What the tasks use of a prepared dataset."""

    label, fingerprint, synthetic, has_images, card = (
        "phantom:fake",
        "fake",
        True,
        True,
        {"size": 40, "name": "fake"},
    )

    def __init__(self, n=120, seed=0):
        rng = np.random.default_rng(seed)
        names = np.array(["Cardiomegaly", "Edema", ""])[np.arange(n) % 3]
        grey = {"Cardiomegaly": 200, "Edema": 110, "": 30}
        self.pixels = np.stack(
            [np.clip(rng.normal(grey[name], 12, (40, 40)), 0, 255) for name in names]
        ).astype(np.uint8)
        self.index = pd.DataFrame(
            {
                "study_id": [f"s{k}" for k in range(n)],
                "patient_id": [f"p{k // 2}" for k in range(n)],
                "image_id": [f"i{k}" for k in range(n)],
                "split": np.where(
                    np.arange(n) < n * 0.6,
                    "train",
                    np.where(np.arange(n) < n * 0.75, "valid", "test"),
                ),
                "findings": [WORDS[name] for name in names],
                "impression": "",
                "mesh": np.where(names == "", "normal", names),
            }
        )
        for name in CHEXPERT_14:
            self.index[name] = np.where(names == name, 1.0, np.nan)
        self.index["No Finding"] = np.where(names == "", 1.0, np.nan)

    def rows(self, split):
        return np.flatnonzero(self.index["split"].to_numpy() == split)

    def images(self, rows):
        return self.pixels[np.asarray(rows)]


def tokenizer():
    return text.train_tokenizer(
        list(WORDS.values()) * 3 + ["is the heart large", "is there edema", "yes no"], 120
    )


def questions(dataset: Fake) -> pd.DataFrame:
    """Two questions an image, in the form of medxvl.data.questions.read."""
    rows = []
    for k, (image, split, findings) in enumerate(
        dataset.index[["image_id", "split", "findings"]].itertuples(index=False)
    ):
        for asked, name in (("is the heart large", "Cardiomegaly"), ("is there edema", "Edema")):
            rows.append(
                {
                    "qid": f"{k}{name[0]}",
                    "image_id": image,
                    "row": k,
                    "question": asked,
                    "form": "closed",
                    "organ": "chest",
                    "answer": "yes" if findings == WORDS[name] else "no",
                    "kind": "PRES",
                    "unseen": split == "test",
                    "split": "test" if split == "test" else "train",
                }
            )
    return pd.DataFrame(rows)


def pretrain(folder) -> tuple:
    """Align and pre-train on one thread into `folder`; model, log, folder and checkpoint's name."""
    data, words, before = Fake(), tokenizer(), torch.get_num_threads()
    torch.set_num_threads(1)
    folder.mkdir()
    words.backend_tokenizer.save(str(folder / "tokenizer.json"))
    aligned = paths.shared_checkpoints(PRESET.name, checkpoints.ALIGNED_FOLDER)
    alignment.fit(PRESET, data, words, aligned, CPU, Bar())
    log = medvill_pretrain.fit(PRESET, data, words, folder, CPU, Bar())
    model, _, told = checkpoints.load_best(PRESET, folder, data)
    torch.set_num_threads(before)
    return model, log, folder, told


def value_of(rows, control, metric, subset=""):
    (found,) = [
        r["value"]
        for r in rows
        if (r["control"], r["metric"], r["subset"]) == (control, metric, subset)
    ]
    return found
