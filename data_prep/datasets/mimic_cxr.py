"""MIMIC-CXR: JPG or DICOM images, official tables, reports as text files or in their zip
archive.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.datasets.mimic_boxes import PATTERN, add_boxes
from data_prep.datasets.mimic_labels import add_labels, note_repeats
from data_prep.datasets.mimic_layout import Layout, find_layout, find_table, header_view
from data_prep.datasets.mimic_reports import ARCHIVE, add_reports
from data_prep.reading.images import ABSENT
from data_prep.reading.raw import Table, progress_bar, read_csv, split_by_hash

NEEDS = (
    "MIMIC-CXR 2.0.0 or 2.1.0: files/ or Dataset/ with .jpg or .dcm; "
    "mimic-cxr-2.0.0-{metadata,split,chexpert}.csv[.gz] "
    "(DICOM: or cxr-record-list.csv[.gz]); mimic-cxr-reports[.zip] in or by it"
)
MARKS = (
    ("mimic-cxr-2*-metadata.csv*", "*"),
    ("cxr-record-list.csv*", "*"),
)  # two patterns each: never a file alone
# Reports as 227,835 files are too many to be watched.
TABLES = (ARCHIVE, f"../{ARCHIVE}", "../mimic-cxr-2*.csv*", f"../{PATTERN}")
SETTINGS = {
    "views": "AP",
    "reports": "",
    "split": "official",
    "labels": "table",
    "test_labels": "columns",
}
CHOICES = {
    "split": ("official", "patient"),
    "labels": ("table", "chexpert", "negbio", "reports"),
    "test_labels": ("columns", "replace", "ignore"),
}
HELP = {
    "views": "wanted values of ViewPosition, best first, comma-separated",
    "reports": "folder or zip of the reports, when they lie elsewhere",
    "split": "official: the release's table; patient: drawn from subject_id, 70/10/20 %, when "
    "you have no table",
    "labels": "table: CheXpert's, else NegBio's, else from the reports; or one of chexpert, "
    "negbio, reports",
    "test_labels": "radiologist's labels of release 2.1.0: columns (radiologist_*), replace "
    "(in the test split) or ignore",
}
EXPECTED = {
    "source": "MedViLL, section 4.1 and release: AP view, one image a study, official split",
    "counts": {"studies": 91_685, "train": 89_395, "valid": 759, "test": 1_531},
}
READERS = 8  # threads: reading a header mostly waits for the disk
SPLITS = {"train": "train", "validate": "valid", "test": "test"}


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a study: among its images in the wanted views the first by (order of `views`,
    dicom_id).

    Views are those of the metadata table; without it, of the DICOM headers. The split is the
    official one: without its table, one must ask for a drawn one. Boxes of MS-CXR, where its table
    is there, go to boxes.csv. Raises DataError for missing tables, columns or reports. Source:
    MedViLL, data preparation (AP only, one image a study), which X-VL follows.
    """
    layout = find_layout(raw)
    table, source = _start(raw, layout)
    if limit is None:
        table.list_unlisted(raw, layout.top, (layout.suffix,), source)
    else:  # a trial run does not walk through all folders
        table.notes.append(f"limited run: files that {source} does not name were not looked for")
    table.drop_repeated("image_id")
    digits = (
        table.rows[["patient_id", "study_id"]]
        .apply(lambda c: c.str.fullmatch(r"[0-9]{1,18}"))
        .all(axis=1)
    )
    table.drop(~digits, "ids are numbers", "subject_id or study_id is not a number")
    table.rows = table.rows.astype({"patient_id": "int64", "study_id": "int64"})
    if "view" not in table.rows:
        _read_views(table, raw, limit)
    views = table.keep_views(settings["views"])
    _add_split(table, raw, settings["split"])
    table.keep_one_image(views, "study")
    table.keep_first(limit)
    add_reports(table, raw, settings["reports"], layout)
    add_labels(table, raw, settings["labels"], settings["test_labels"])
    add_boxes(table, raw)
    return table


def _start(raw: Path, layout: Layout) -> tuple[Table, str]:
    """(all images that the metadata table names, or else the record list of the DICOM release;
    which of the two)
    """
    path = find_table(raw, "metadata", needed=not any(raw.glob("cxr-record-list.csv*")))
    if path:
        rows = read_csv(path, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
        source = "the metadata table"
    else:
        path = sorted(raw.glob("cxr-record-list.csv*"))[0]
        rows, source = (
            read_csv(path, ["dicom_id", "subject_id", "study_id", "path"]),
            "cxr-record-list",
        )
    rows = rows.rename(
        columns={"dicom_id": "image_id", "subject_id": "patient_id", "ViewPosition": "view"}
    )
    rows["_image"] = (
        layout.folder(rows["patient_id"], rows["study_id"]) + "/" + rows["image_id"] + layout.suffix
    )
    rows["_record"] = rows["_image"] = rows.pop("path") if "path" in rows else rows["_image"]
    newer = any(
        raw.glob("mimic-cxr-2.1.0-*")
    )  # release 2.1.0 keeps the names of 2.0.0 and adds one table
    kind = "MIMIC-CXR-JPG" if layout.suffix == ".jpg" else "MIMIC-CXR (DICOM)"
    table = Table(rows, raw_version=f"{kind} {'2.1.0' if newer else '2.0.0'}")
    table.start(f"images in {source}")
    studies = next(iter(sorted(raw.glob("cxr-study-list.csv*"))), None)
    if studies:
        strange = set(rows["study_id"]) ^ set(read_csv(studies, ["study_id"])["study_id"])
        if strange:
            table.notes.append(
                f"{len(strange):,} studies are in only one of {source} and {studies.name}"
            )
    return table, source


def _read_views(table: Table, raw: Path, limit: int | None) -> None:
    """Views from the DICOM headers. A limited run reads those of the first 3 x `limit` studies
    only.
    """
    if limit is not None:
        studies = np.sort(table.rows["study_id"].unique())[: 3 * limit]
        why = (
            f"not selected: after the first {3 * limit} studies, whose headers a limited run reads"
        )
        table.drop(
            ~table.rows["study_id"].isin(studies), f"first {3 * limit} studies", why, is_fault=False
        )
    images = table.rows["_image"]
    with ThreadPoolExecutor(READERS) as pool:
        read_one = partial(header_view, raw)
        found = pool.map(read_one, images, chunksize=64)
        bar = {"desc": "views", "unit": "header", "leave": False, "disable": None}
        found = list(progress_bar(found, total=len(images), **bar))
    table.rows = table.rows.assign(view=[view for view, _ in found])
    table.notes.append("views are those of the DICOM headers: there is no metadata table")
    reason = pd.Series([reason for _, reason in found], index=table.rows.index, dtype=object)
    table.drop(reason == ABSENT, "image file is there", reason)
    reason = reason[table.rows.index]
    table.drop(reason != "", "view can be read", reason)


def _add_split(table: Table, raw: Path, how: str) -> None:
    if how == "patient":
        table.rows = table.rows.assign(split=split_by_hash(table.rows["patient_id"]))
        table.notes.append(
            "the split is not the official one: drawn by patient, 70 % train, 10 % valid, 20 % test"
        )
        return
    path = find_table(raw, "split")
    split = note_repeats(table, read_csv(path, ["dicom_id", "split"]), "dicom_id", path.name)[
        "split"
    ]
    named = table.rows["image_id"].map(split)
    table.rows = table.rows.assign(split=named.map(SPLITS))
    reason = ("split is '" + named + "', expected train, validate or test").fillna(
        "not in the split table"
    )
    table.drop(table.rows["split"].isna(), "split is known", reason)
