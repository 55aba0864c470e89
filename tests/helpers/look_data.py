"""Small prepared datasets, fabricated, for the tests of what notebooks 01 and 02 show."""

import pandas as pd
from data_prep_trees import encoded, picture

from data_prep.prepared import preparation
from medxvl.data import dataset

PATHOLOGY = {"Edema": 1, "Fracture": -1, "Pneumonia": 0}


def table(folder, rows, images=True, out="out", **options):
    """A table dataset of `rows` (dictionaries of cells), prepared; `image` cells name pictures that
    are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = pd.DataFrame(rows)
    if images and "image" in cells:
        for k, name in enumerate(cells["image"]):
            (folder / name).write_bytes(encoded(picture(k, 64, 64)))
    cells.to_csv(folder / "t.csv", index=False)
    known = {
        "image": "image_column",
        "report": "text_column",
        "patient": "patient_column",
        "split": "split_column",
    }
    options = {known[c]: c for c in cells if c in known} | options
    made = preparation.prepare(
        "table", folder / "t.csv", folder / out, size=32, settings=options, progress=False
    )
    return dataset.Dataset(made)


def hospital(folder, **options):
    """Closed data: names, numbers and words that must not be seen in an executed notebook."""
    rows = [
        {
            "image": f"MRN{k}0417.png",
            "report": f"FINDINGS: Edema of Mrs. Quandary{k}.\nIMPRESSION: No fracture, Quandary.",
            "patient": f"pat{k // 2}7431",
            "split": ["train", "valid", "test"][k % 3],
        }
        for k in range(9)
    ]
    rows.append(rows[0] | {"image": "MRN90417.png", "split": "trian-Quandary"})
    return table(folder, rows, **options)
