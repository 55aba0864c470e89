"""Boxes around findings, as a dataset has them, in the pixels that the vision encoder sees."""

import numpy as np
import pandas as pd

SIDES = ["x0", "y0", "x1", "y1"]


def read(dataset) -> pd.DataFrame:
    """boxes.csv of a dataset: image_id, finding, x0, y0, x1, y1 (px, end excluded) of an image of
    width x height px.

    Empty where the dataset has none. Columns beside these stay.
    """
    path = dataset.folder / "boxes.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["image_id", "finding", *SIDES, "width", "height"])
    return pd.read_csv(path, dtype={"image_id": str, "finding": str})


def in_view(table: pd.DataFrame, stored: int, preset) -> np.ndarray:
    """Sides x0, y0, x1, y1 (n, 4) in px of the evaluation view, for pictures kept as squares of
    `stored` px.

    The way of a pixel: longer side shrunk to `stored`, padded to a square
    (data_prep.reading.images), resized and cropped (vision.plain_view). A box that the crop cuts
    off altogether becomes empty.
    """
    width, height = table["width"].to_numpy(float), table["height"].to_numpy(float)
    longer = np.maximum(width, height)
    sides = table[SIDES].to_numpy(float).copy()
    for side, length in ((0, width), (1, height)):
        kept = np.floor(length * stored / longer)
        sides[:, side::2] = (
            sides[:, side::2] * (kept / length)[:, None] + ((stored - kept) // 2)[:, None]
        )
    edge = (preset.resize - preset.image_size) // 2
    return np.clip(sides * (preset.resize / stored) - edge, 0, preset.image_size)


def areas(sides: np.ndarray, item: np.ndarray, items: int, size: int) -> np.ndarray:
    """(items, size, size) bool: pixels whose centre lies in a box of that item; `item` (n,) says
    whose a box (n, 4) is.
    """
    centre = np.arange(size) + 0.5
    across, down = ((centre >= sides[:, [k]]) & (centre < sides[:, [k + 2]]) for k in (0, 1))
    found = np.zeros((items, size, size), dtype=bool)
    np.logical_or.at(found, item, down[:, :, None] & across[:, None, :])
    return found
