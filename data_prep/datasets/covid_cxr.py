"""The public COVID-19 image collection (images/ and metadata.csv), with Brixia severity scores and
lung boxes if given.
"""

import json
import math
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.reading.raw import CHEXPERT_14, Table, read_csv, sha256

NEEDS = (
    "COVID-19 image collection: metadata.csv and images/; brixia_public-annotations.csv "
    "and lung_bbox_coco.json are optional"
)
MARKS = (("metadata.csv", "images"),)
TABLES = ()
SETTINGS = {"views": "AP,PA,AP Supine"}
HELP = {"views": "views to keep, as the table writes them"}
UNLABELLED = ("", "todo", "unknown")
BRIXIA = {f"S-{z}": f"brixia_{z.lower()}" for z in ("A", "B", "C", "D", "E", "F", "Global")}
BRIXIA |= {
    name.replace("S-", "J-"): column.replace("brixia_", "brixia_junior_")
    for name, column in BRIXIA.items()
}


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a radiograph in one of the wanted views, all in split `test`; study = patient and day
    (file, if no day).

    Adds `finding` (as written), `covid` (1 when COVID-19 is in the finding's path, empty when the
    finding is not filled in, else 0), `license` and Brixia scores (senior and junior reader). Lung
    boxes, where given: boxes.csv (image_id, finding, x0, y0, x1, y1, width, height), in pixels of
    the file. Files in the table but absent are no fault. Some images carry arrows and letters
    burned in by those who published them.
    """
    need = ["patientid", "offset", "finding", "view", "modality", "filename"]
    rows = read_csv(raw / "metadata.csv", need, ["folder", "license"])
    for column, usual in (("folder", "images"), ("license", "")):
        rows[column] = rows[column].where(rows[column] != "", usual) if column in rows else usual
    rows = rows.rename(columns={"patientid": "patient_id", "filename": "image_id"})
    rows["_image"] = rows["folder"] + "/" + rows["image_id"]
    rows["_record"] = rows["_image"]
    table = Table(
        rows,
        raw_version=f"metadata.csv {sha256(raw / 'metadata.csv')[:12]}",
        labels=["covid"],
        absent_is_fault=False,
    )
    table.start("rows in metadata.csv")
    table.list_unlisted(raw, "images", ("",), "metadata.csv")

    table.drop(
        (table.rows["image_id"] == "") | (table.rows["patient_id"] == ""),
        "row names a patient and a file",
        "no patientid or no filename",
    )
    table.drop_repeated("image_id")
    table.drop(
        table.rows["modality"] != "X-ray",
        "modality is X-ray",
        "not selected: modality " + table.rows["modality"],
        False,
    )
    table.keep_views(settings["views"])

    rows = table.rows
    has_disease = rows["finding"].str.contains("COVID-19", regex=False).astype("Int64")
    rows = rows.assign(
        study_id=rows["patient_id"]
        + "-"
        + rows["offset"].where(rows["offset"] != "", rows["image_id"]),
        split="test",
        findings="",
        impression="",
        **dict.fromkeys(CHEXPERT_14, pd.NA),
        finding=rows["finding"],
        covid=has_disease.mask(rows["finding"].str.lower().isin(UNLABELLED)),
    )
    unlabelled = int(rows["covid"].isna().sum())
    if unlabelled:
        table.notes.append(
            f"{unlabelled} of {len(rows)} images have no finding filled in: their covid label "
            "is empty"
        )
    table.rows = _add_scores(table, rows.drop(columns=["offset", "modality", "folder"]), raw)
    table.keep_first(limit)
    _add_boxes(table, raw)
    return table


def _add_scores(table: Table, rows: pd.DataFrame, raw: Path) -> pd.DataFrame:
    path = raw / "brixia_public-annotations.csv"
    if not path.is_file():
        return rows
    text = read_csv(path, ["filename", "S-Global"], [c for c in BRIXIA if c != "S-Global"])
    repeated = text["filename"].duplicated()
    table.rejects += [
        (f"{path.name} {name}", "file named before: first row used")
        for name in text["filename"][repeated]
    ]
    text = text[~repeated].set_index("filename").rename(columns=BRIXIA)
    scores = text.apply(pd.to_numeric, errors="coerce")
    most = pd.Series({column: 18 if column.endswith("global") else 3 for column in scores})
    bad = (text != "") & ~(scores.ge(0) & scores.le(most) & (scores % 1 == 0))
    for name, column in bad.stack().loc[lambda cells: cells].index:
        reason = f"{column} is {text.loc[name, column]!r}, expected 0 to {most[column]}: left empty"
        table.rejects.append((f"{path.name} {name}", reason))
    scores = scores.mask(bad).astype("Int64")
    strange = len(set(scores.index) - set(rows["image_id"]))
    if strange:
        table.notes.append(
            f"{strange} of {len(scores)} rows of {path.name} name an image that is not used"
        )
    return rows.join(scores, on="image_id")


def _add_boxes(table: Table, raw: Path) -> None:
    """boxes.csv from the COCO file of the lungs; what cannot be a box goes to the rejects."""
    path = raw / "lung_bbox_coco.json"
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        images = {image["id"]: image for image in found["images"]}
        kinds = {kind["id"]: str(kind["name"]) for kind in found["categories"]}
        annotations = [(k, dict(a)) for k, a in enumerate(found["annotations"])]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        what = f"{type(problem).__name__}: {problem}"[:200]
        raise fault(
            f"a COCO file (images, categories, annotations) at {path}", what, "download it again"
        ) from None
    used, boxes = set(table.rows["image_id"]), []
    for k, annotation in annotations:
        try:
            image, kind = images[annotation["image_id"]], kinds[annotation["category_id"]]
            x, y, width, height = (float(side) for side in annotation["bbox"])
            box = (x, y, x + width, y + height, int(image["width"]), int(image["height"]))
            inside = (
                x >= -1 and y >= -1 and box[2] <= box[4] + 1 and box[3] <= box[5] + 1
            )  # 1 px for rounding
            if not (inside and width > 0 and height > 0 and all(map(math.isfinite, box))):
                raise ValueError(
                    f"box {annotation['bbox']} is not inside the image of {box[4]} x {box[5]} px"
                )
            if str(image["file_name"]) in used:
                boxes.append((str(image["file_name"]), kind, *box))
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            what = (
                str(problem)
                if isinstance(problem, ValueError)
                else f"{type(problem).__name__}: {problem}"
            )
            table.rejects.append((f"{path.name} annotation {k}", f"no box: {what}"[:200]))
    if len(boxes) < len(annotations):
        table.notes.append(
            f"{len(annotations) - len(boxes)} of {len(annotations)} boxes of {path.name} are "
            "not used"
        )
    columns = ["image_id", "finding", "x0", "y0", "x1", "y1", "width", "height"]
    boxes = pd.DataFrame(boxes, columns=columns).sort_values(columns[:4], ignore_index=True)
    table.extra["boxes.csv"] = boxes
