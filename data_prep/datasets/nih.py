"""NIH ChestX-ray14: PNG images, the table of 14 findings, boxes of some of them, official lists of
train_val and test.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep import fault
from data_prep.reading.raw import (
    CHEXPERT_14,
    Table,
    find_files,
    read_csv,
    sha256,
    short_list,
    split_by_hash,
)

NEEDS = (
    "NIH ChestX-ray14: Data_Entry_2017*.csv[.gz] and images*/; train_val_list.txt, "
    "test_list.txt, BBox_List_2017.csv"
)
MARKS = (("Data_Entry_2017*.csv*",),)
SETTINGS = {"views": "AP,PA"}
HELP = {"views": "view positions to keep"}
TABLES = ("train_val_list.txt", "test_list.txt")
NIH_14 = [
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
]
# CheXpert column -> NIH findings that make it 1; without any of them it is 0. NIH lists all of its
# 14 findings it saw.
SAME = {
    name: [name]
    for name in (
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Pneumonia",
        "Pneumothorax",
    )
}
SAME |= {
    "Pleural Effusion": ["Effusion"],
    "Lung Lesion": ["Mass", "Nodule"],
    "No Finding": ["No Finding"],
}
# The CheXpert column is wider: 1 with the NIH finding, empty without, for the rest of it was not
# looked for.
WIDER = {"Lung Opacity": ["Infiltration"], "Pleural Other": ["Pleural_Thickening"]}
BOX_NAMES = {"Infiltrate": "Infiltration"}
BOX_SIDE = 1024  # px: the boxes were drawn on the released images
SIZE = {
    "OriginalImage[Width": "original_width",
    "Height]": "original_height",
}  # the header's own commas split its cells


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row an image; every image is a study of its own (the table has follow-up numbers, no
    studies).

    Adds nih_* (1 or 0 for each of the 14), original_width and original_height (px, before the
    release made it a square of 1024 px). CheXpert columns: see SAME and WIDER; Enlarged
    Cardiomediastinum, Fracture and Support Devices stay empty. Official split; an eighth of
    train_val's patients, by the hash of the patient, is valid. Boxes: boxes.csv (image_id, finding,
    x0, y0, x1, y1, width, height), in pixels of the released image. Files that are not there are no
    fault.
    """
    path = sorted(raw.glob("Data_Entry_2017*.csv*"))[0]
    need = ["Image Index", "Finding Labels", "Patient ID", "View Position"]
    rows = read_csv(path, need, list(SIZE)).rename(columns=SIZE)
    rows = rows.rename(
        columns={"Image Index": "image_id", "Patient ID": "patient_id", "View Position": "view"}
    )
    files = find_files(raw, (".png",))
    if not files:
        raise fault(f"PNG images in images*/ of {raw}", "none", "unpack images_*.tar.gz there")
    rows["_image"] = [files.get(name, [name])[0] for name in rows["image_id"]]
    rows["_record"] = rows["image_id"]
    table = Table(rows, raw_version=f"{path.name} {sha256(path)[:12]}", absent_is_fault=False)
    table.start(f"images in {path.name}")
    table.list_unlisted(raw, ".", (".png",), path.name)

    table.drop(rows["image_id"] == "", "row names an image", "no Image Index")
    table.drop_repeated("image_id")
    known = table.rows["patient_id"].str.fullmatch(r"\d{1,18}")
    table.drop(~known, "patient is a number", "Patient ID is not a number")
    table.keep_views(settings["views"])
    _add_labels(table)
    table.rows = table.rows.assign(
        patient_id=table.rows["patient_id"].str.zfill(8),
        study_id=table.rows["image_id"].str.removesuffix(".png"),
        findings="",
        impression="",
    )
    for column in SIZE.values():
        if column in table.rows:
            table.rows[column] = (
                pd.to_numeric(table.rows[column], errors="coerce").round().astype("Int64")
            )
    _add_split(table, raw)
    _add_boxes(table, raw, set(rows["image_id"]))
    table.keep_first(limit)
    return table


def _add_labels(table: Table) -> None:
    """`Cardiomegaly|Emphysema` to columns; a list with an unknown name, or none, is rejected."""
    text = table.rows["Finding Labels"]
    lists = text.str.split("|").map(lambda names: [name.strip() for name in names])
    known = {*NIH_14, "No Finding"}
    strange = lists.map(lambda names: next((name for name in names if name not in known), None))
    reason = pd.Series("", index=text.index, dtype=object)
    named = strange.notna() & (strange != "")
    reason[named] = "label '" + strange[named].astype(str) + "' is none of NIH's"
    reason[lists.map(lambda names: "" in names)] = "no label, or an empty one"
    reason[lists.map(lambda names: len(names) > 1 and "No Finding" in names)] = (
        "No Finding beside other labels"
    )
    table.drop(reason != "", "labels are NIH's", reason)
    lists = lists[table.rows.index]
    has = {
        name: lists.map(lambda names, name=name: name in names).astype("Int64")
        for name in sorted(known)
    }
    columns = {
        column: np.maximum.reduce([has[name] for name in names])
        for column, names in (SAME | WIDER).items()
    }
    columns = {
        name: pd.Series(values, index=lists.index, dtype="Int64")
        for name, values in columns.items()
    }
    columns |= {name: columns[name].mask(columns[name] == 0) for name in WIDER}
    columns = {name: columns.get(name, pd.NA) for name in CHEXPERT_14}
    columns |= {f"nih_{name.lower()}": has[name] for name in NIH_14}
    table.rows = table.rows.drop(columns="Finding Labels").assign(**columns)
    table.labels = [*CHEXPERT_14, *(f"nih_{name.lower()}" for name in NIH_14)]
    table.notes.append(
        "CheXpert columns from NIH's 14: 0 where not listed; Lung Opacity (from Infiltration) "
        "and Pleural Other (from "
        "Pleural_Thickening) only 1 or empty; Enlarged Cardiomediastinum, Fracture, Support "
        "Devices always empty"
    )


def _add_split(table: Table, raw: Path) -> None:
    lists = {}
    for name in ("train_val_list.txt", "test_list.txt"):
        if (raw / name).is_file():
            lists[name] = set((raw / name).read_text(encoding="utf-8", errors="replace").split())
    if len(lists) < 2:
        lacks = [name for name in ("train_val_list.txt", "test_list.txt") if name not in lists]
        table.notes.append(
            f"no {' and no '.join(lacks)}: split by the hash of the patient, 70 / 10 / 20 %, "
            "not NIH's own"
        )
        table.rows = table.rows.assign(split=split_by_hash(table.rows["patient_id"]))
        return
    train = table.rows["image_id"].isin(lists["train_val_list.txt"])
    test = table.rows["image_id"].isin(lists["test_list.txt"])
    table.drop(train & test, "image is in one list", "in train_val_list.txt and in test_list.txt")
    train, test = train[table.rows.index], test[table.rows.index]
    table.drop(
        ~train & ~test, "image is in a list", "neither in train_val_list.txt nor in test_list.txt"
    )
    patients = table.rows["patient_id"]
    valid = {p for p in patients.unique() if hashlib.sha256(p.encode()).digest()[0] % 8 == 0}
    split = np.where(
        test[table.rows.index], "test", np.where(patients.isin(valid), "valid", "train")
    )
    table.rows = table.rows.assign(split=split)
    table.notes.append(
        "valid: an eighth of the patients of train_val_list.txt, by the hash of the patient "
        "(our choice)"
    )


def _add_boxes(table: Table, raw: Path, listed: set[str]) -> None:
    """boxes.csv; boxes of images that the table of findings lacks, and impossible ones, go to the
    rejects.
    """
    paths = sorted(raw.glob("BBox_List_2017*.csv*"))
    if not paths:
        table.notes.append("no BBox_List_2017.csv: no boxes")
        return
    text = read_csv(paths[0], ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"])
    x, y, width, height = (
        pd.to_numeric(text[c], errors="coerce") for c in ("Bbox [x", "y", "w", "h]")
    )
    finding = text["Finding Label"].replace(BOX_NAMES)
    slack = 1  # px: some boxes end a fraction of a pixel outside
    inside = (
        (x >= -slack)
        & (y >= -slack)
        & (x + width <= BOX_SIDE + slack)
        & (y + height <= BOX_SIDE + slack)
    )
    reason = pd.Series("", index=text.index, dtype=object)
    reason[~inside | ~(width > 0) | ~(height > 0)] = "not a box inside the image of 1024 x 1024 px"
    reason[~finding.isin(NIH_14)] = "finding is none of NIH's"
    reason[~text["Image Index"].isin(listed)] = "image not in the table of findings"
    bad = reason != ""
    names = paths[0].name + " row " + (text.index + 2).astype(str)
    table.rejects += zip(names[bad], reason[bad], strict=True)
    used = ~bad & text["Image Index"].isin(table.rows["image_id"])
    if (unused := int((~bad & ~used).sum())) > 0:
        table.notes.append(f"{unused} boxes belong to images that are not used")
    if bad.any():
        table.notes.append(
            f"{bad.sum()} rows of {paths[0].name} not used: {short_list(reason[bad].unique(), 3)}"
        )
    boxes = pd.DataFrame({"image_id": text["Image Index"], "finding": finding, "x0": x, "y0": y})
    boxes = boxes.assign(x1=x + width, y1=y + height, width=BOX_SIDE, height=BOX_SIDE)[used].round(
        3
    )
    table.extra["boxes.csv"] = boxes.sort_values(
        ["image_id", "finding", "x0", "y0"], ignore_index=True
    )
