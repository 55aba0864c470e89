"""MIMIC-CXR, JPG layout: official folders and tables, reports as text files or in their zip archive."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from medxvl.reports import decode, sections

from . import fault
from .raw import CHEXPERT_14, Table, parse_labels, progress_bar, read_csv, short_list, split_list

NEEDS = "MIMIC-CXR-JPG: files/, mimic-cxr-2.0.0-{metadata,split,chexpert}.csv[.gz]; mimic-cxr-reports[.zip] in or by it"
MARKS = (("mimic-cxr-2*-metadata.csv*",),)
TABLES = ("mimic-cxr-reports.zip", "../mimic-cxr-reports.zip")  # reports as 227,835 files are too many to be watched
SETTINGS = {"views": "AP", "reports": ""}  # reports: folder or zip of the reports, when they lie elsewhere
SPLITS = {"train": "train", "validate": "valid", "test": "test"}
MAX_REPORT_BYTES = 1_000_000


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a study: among its images in the wanted views the first by (order of `views`, dicom_id), official split.

    Labels are the CheXpert labeller's, NegBio's when that table is missing. Raises DataError for missing tables,
    columns or reports. Source: MedViLL, data preparation (AP only, one image a study), which X-VL follows.
    """
    views = split_list(settings["views"])
    rows = read_csv(_find(raw, "metadata"), ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    rows = rows.rename(columns={"dicom_id": "image_id", "subject_id": "patient_id", "ViewPosition": "view"})
    rows["_image"] = _folder(rows["patient_id"], rows["study_id"]) + "/" + rows["image_id"] + ".jpg"
    rows["_record"] = rows["_image"]
    newer = any(raw.glob("mimic-cxr-2.1.0-*"))  # release 2.1.0 keeps the names of 2.0.0 and adds one table
    table = Table(rows, raw_version="MIMIC-CXR-JPG 2.1.0" if newer else "MIMIC-CXR-JPG 2.0.0")
    table.start("images in the metadata table")
    if limit is None:
        table.list_unlisted(raw, "files", (".jpg",), "the metadata table")
    else:  # a trial run does not walk through all folders
        table.notes.append("limited run: files that the metadata table does not name were not looked for")

    table.drop_repeated("image_id")
    digits = table.rows[["patient_id", "study_id"]].apply(lambda c: c.str.fullmatch(r"\d{1,18}")).all(axis=1)
    table.drop(~digits, "ids are numbers", "subject_id or study_id is not a number")
    table.rows = table.rows.astype({"patient_id": "int64", "study_id": "int64"})
    seen = table.rows["view"].where(table.rows["view"] != "", "not given")
    table.drop(
        ~table.rows["view"].isin(views), f"view is {', '.join(views)}", "not selected: view " + seen, is_fault=False
    )
    _add_split(table, raw)
    _add_labels(table, raw)

    order = table.rows.assign(_view=table.rows["view"].map(views.index)).sort_values(["study_id", "_view", "image_id"])
    first = order.drop_duplicates("study_id").index
    table.drop(
        ~table.rows.index.isin(first), "one image a study", "not selected: another image of this study is used", False
    )
    table.keep_first(limit)
    _add_reports(table, _report_reader(raw, settings["reports"]), settings["reports"] or raw)
    return table


def _folder(patient: pd.Series, study: pd.Series) -> pd.Series:
    """files/p10/p10000032/s50414267"""
    return "files/p" + patient.str[:2] + "/p" + patient + "/s" + study


def _find(raw: Path, *kinds: str) -> Path:
    """The first table there is among `kinds`, unzipped or zipped."""
    for kind in kinds:
        for path in sorted(raw.glob(f"mimic-cxr-2*-{kind}.csv")) + sorted(raw.glob(f"mimic-cxr-2*-{kind}.csv.gz")):
            return path
    names = " or ".join(f"mimic-cxr-2.0.0-{kind}.csv.gz" for kind in kinds)
    raise fault(
        f"{names} in {raw}", f"only {short_list(sorted(p.name for p in raw.iterdir()))}", "download it from PhysioNet"
    )


def _note_repeats(table: Table, other: pd.DataFrame, key: str, name: str) -> pd.DataFrame:
    """`other` with one row a key; the card says how many rows that cost."""
    repeated = other[key].duplicated()
    if repeated.any():
        table.notes.append(
            f"{name} names {repeated.sum()} {key} more than once: first row used, e.g. {other[key][repeated].iloc[0]}"
        )
    return other[~repeated].set_index(key)


def _add_split(table: Table, raw: Path) -> None:
    path = _find(raw, "split")
    split = _note_repeats(table, read_csv(path, ["dicom_id", "split"]), "dicom_id", path.name)["split"]
    named = table.rows["image_id"].map(split)
    table.rows = table.rows.assign(split=named.map(SPLITS))
    reason = ("split is '" + named + "', expected train, validate or test").fillna("not in the split table")
    table.drop(table.rows["split"].isna(), "split is known", reason)


def _add_labels(table: Table, raw: Path) -> None:
    path = _find(raw, "chexpert", "negbio")
    if "negbio" in path.name:
        table.notes.append(f"labels are NegBio's ({path.name}): there is no table of CheXpert labels")
    labels = _note_repeats(table, read_csv(path, ["study_id", *CHEXPERT_14]), "study_id", path.name)
    labels = labels.reindex(table.rows["study_id"].astype(str))
    without = labels[CHEXPERT_14[0]].isna()
    if without.any():
        table.notes.append(f"{without.sum()} images' studies are not in {path.name}: their labels stay empty")
    values, wrong = parse_labels(labels.fillna("").reset_index(drop=True))
    table.rows = pd.concat([table.rows, values.set_axis(table.rows.index)], axis=1)
    wrong = wrong.set_axis(table.rows.index)
    table.drop(wrong != "", "labels are valid", wrong)


def _add_reports(table: Table, read_report: Callable, where) -> None:
    """Fill findings and impression; studies without either, or without a report, are rejected."""
    found, reasons, foreign = [], [], []
    paths = _folder(table.rows["patient_id"].astype(str), table.rows["study_id"].astype(str)) + ".txt"
    for path in progress_bar(paths, desc="reports", unit="report", leave=False, disable=None):
        parts, reason = {"findings": "", "impression": ""}, ""
        try:
            text, is_utf8 = decode(read_report(path))
            parts = sections(text)
            reason = "" if any(parts.values()) else ("no findings or impression" if text.strip() else "empty report")
            foreign += [path] * (not is_utf8)
        except FileNotFoundError:
            reason = "no report file"
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as problem:
            reason = f"report cannot be read: {problem}"
        found.append(parts)
        reasons.append(reason)
    if found and all(reason == "no report file" for reason in reasons):
        raise fault(
            "reports as files/p10/p10000032/s50414267.txt or mimic-cxr-reports.zip",
            f"none in or beside {where}",
            "download mimic-cxr-reports.zip (of MIMIC-CXR, not -JPG), or name it: --set reports=PATH",
        )
    if foreign:
        table.notes.append(f"{len(foreign)} reports are not UTF-8 and were read as Latin-1: {short_list(foreign)}")
    table.rows = table.rows.assign(findings=[p["findings"] for p in found], impression=[p["impression"] for p in found])
    reason = pd.Series(reasons, index=table.rows.index, dtype=object)
    table.drop(reason != "", "report has findings or impression", reason)


def _report_reader(raw: Path, where: str) -> Callable[[str], bytes]:
    """A function from `files/.../s50414267.txt` to bytes that looks through every place where reports usually lie."""
    given = Path(where).expanduser()
    if where and not given.exists():
        raise fault("the folder or zip of the reports", f"nothing at {given}", "correct --set reports=PATH")
    homes = [given, given.parent] if where else [raw, raw / "mimic-cxr-reports", raw.parent / "mimic-cxr-reports"]
    archives = (
        [given] if where and given.is_file() else [p / "mimic-cxr-reports.zip" for p in (raw, raw.parent) if not where]
    )
    opened = []
    for path in archives:
        if path.is_file():
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as problem:
                raise fault(f"a zip archive at {path}", f"{problem}", "download it again") from None
            first = next((n for n in archive.namelist() if "files/" in n), "files/")
            opened.append((archive, first[: first.index("files/")]))

    def read_report(path: str) -> bytes:
        for home in homes:
            try:
                with open(home / path, "rb") as file:
                    return file.read(MAX_REPORT_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                continue
        for archive, prefix in opened:
            if prefix + path in archive.NameToInfo:
                with archive.open(prefix + path) as file:
                    return file.read(MAX_REPORT_BYTES)
        raise FileNotFoundError(path)

    return read_report
