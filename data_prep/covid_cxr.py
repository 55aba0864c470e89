"""The public COVID-19 image collection (images/ and metadata.csv), with Brixia severity scores where they are given."""

from pathlib import Path

import pandas as pd

from .raw import CHEXPERT_14, Table, read_csv, short_hash, split_list

NEEDS = "COVID-19 image collection: metadata.csv and images/; brixia_public-annotations.csv is optional"
MARKS = (("metadata.csv", "images"),)
TABLES = ()
SETTINGS = {"views": "AP,PA,AP Supine"}
UNLABELLED = ("", "todo", "unknown")
BRIXIA = {f"S-{z}": f"brixia_{z.lower()}" for z in ("A", "B", "C", "D", "E", "F", "Global")}
BRIXIA |= {name.replace("S-", "J-"): column.replace("brixia_", "brixia_junior_") for name, column in BRIXIA.items()}


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a radiograph in one of the wanted views, all in split `test`; study = patient and day (file, if no day).

    Adds `finding` (as written), `covid` (1 when COVID-19 is in the finding's path, empty when the finding is not filled
    in, else 0), `license` and Brixia scores (senior and junior reader). Files in the table but absent are no fault.
    """
    need = ["patientid", "offset", "finding", "view", "modality", "filename"]
    rows = read_csv(raw / "metadata.csv", need, ["folder", "license"])
    for column, usual in (("folder", "images"), ("license", "")):
        rows[column] = rows[column].where(rows[column] != "", usual) if column in rows else usual
    rows = rows.rename(columns={"patientid": "patient_id", "filename": "image_id"})
    rows["_image"] = rows["folder"] + "/" + rows["image_id"]
    rows["_record"] = rows["_image"]
    table = Table(
        rows, raw_version=f"metadata.csv {short_hash(raw / 'metadata.csv')}", labels=["covid"], absent_is_fault=False
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
    seen = table.rows["view"].where(table.rows["view"] != "", "not given")
    wanted = split_list(settings["views"])
    table.drop(
        ~table.rows["view"].isin(wanted), f"view is {', '.join(wanted)}", "not selected: view " + seen, is_fault=False
    )

    rows = table.rows
    has_disease = rows["finding"].str.contains("COVID-19", regex=False).astype("Int64")
    rows = rows.assign(
        study_id=rows["patient_id"] + "-" + rows["offset"].where(rows["offset"] != "", rows["image_id"]),
        split="test",
        findings="",
        impression="",
        **dict.fromkeys(CHEXPERT_14, pd.NA),
        finding=rows["finding"],
        covid=has_disease.mask(rows["finding"].str.lower().isin(UNLABELLED)),
    )
    unlabelled = int(rows["covid"].isna().sum())
    if unlabelled:
        table.notes.append(f"{unlabelled} of {len(rows)} images have no finding filled in: their covid label is empty")
    table.rows = _add_scores(table, rows.drop(columns=["offset", "modality", "folder"]), raw)
    table.keep_first(limit)
    return table


def _add_scores(table: Table, rows: pd.DataFrame, raw: Path) -> pd.DataFrame:
    path = raw / "brixia_public-annotations.csv"
    if not path.is_file():
        return rows
    scores = read_csv(path, ["filename", "S-Global"], [c for c in BRIXIA if c != "S-Global"]).drop_duplicates(
        "filename"
    )
    scores = scores.set_index("filename").rename(columns=BRIXIA)
    scores = scores.apply(pd.to_numeric, errors="coerce").astype("Int64")
    strange = len(set(scores.index) - set(rows["image_id"]))
    if strange:
        table.notes.append(f"{strange} of {len(scores)} rows of {path.name} name an image that is not used")
    return rows.join(scores, on="image_id")
