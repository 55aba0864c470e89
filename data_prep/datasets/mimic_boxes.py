"""Boxes around findings in MIMIC-CXR: the table of MS-CXR (`MS_CXR_Local_Alignment_v1.*.csv`),
where it lies with the images.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.reading.raw import Table, read_csv, short_list

PATTERN = "MS_CXR_Local_Alignment_v1*.csv*"
SIDES = ["x", "y", "w", "h", "image_width", "image_height"]


def add_boxes(table: Table, raw: Path) -> None:
    """boxes.csv (image_id, finding, phrase, x0, y0, x1, y1, width, height), in pixels of the
    released image, end excluded.

    The table lies in the raw folder or beside it; its own split is not used. What cannot be a box
    goes to the rejects; boxes of images that are not used are counted in the notes.
    """
    paths = [path for folder in (raw, raw.parent) for path in sorted(folder.glob(PATTERN))]
    if not paths:
        return
    name, text = (
        paths[-1].name,
        read_csv(paths[-1], ["dicom_id", "category_name", "label_text", *SIDES]),
    )
    x, y, width, height, wide, high = (pd.to_numeric(text[side], errors="coerce") for side in SIDES)
    good = np.isfinite(x + y + width + height + wide + high) & (width > 0) & (height > 0)
    good &= (
        (x >= -1) & (y >= -1) & (x + width <= wide + 1) & (y + height <= high + 1)
    )  # 1 px for rounding
    table.rejects += [
        (f"{name} row {k + 2}", "not a box inside the image") for k in np.flatnonzero(~good)
    ]
    used = good & text["dicom_id"].isin(table.rows["image_id"])
    if (left := int((good & ~used).sum())) > 0:
        table.notes.append(
            f"{left:,} of {len(text):,} boxes of {name} belong to images that are not used"
        )
    boxes = pd.DataFrame(
        {
            "image_id": text["dicom_id"],
            "finding": text["category_name"],
            "phrase": text["label_text"],
        }
    )
    boxes = boxes.assign(x0=x, y0=y, x1=x + width, y1=y + height, width=wide, height=high)[
        used
    ].round(3)
    table.extra["boxes.csv"] = boxes.sort_values(
        ["image_id", "finding", "x0", "y0"], ignore_index=True
    )
    table.notes.append(
        f"{used.sum():,} boxes from {name}: {short_list(sorted(boxes['finding'].unique()), 14)}"
    )
