"""Any CSV, TSV or Parquet file with a column of image paths, a column of text, or both: a
hospital's own data.
"""

import os
import re
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.datasets.anytable import load, only_table
from data_prep.reading.images import path_inside
from data_prep.reading.raw import (
    CHEXPERT_14,
    Table,
    given_text,
    label_from_text,
    parse_labels,
    plain,
    sha256,
    short_list,
    split_by_hash,
    split_list,
)
from data_prep.reports.sections import clean, sections

NEEDS = (
    "a CSV, TSV or Parquet file; --set image_column=NAME and/or text_column=NAME say what to read"
)
MARKS = ()  # whatever is given: what is wrong with it is told by `read`
SETTINGS = {
    "image_column": "",
    "text_column": "",
    "findings_column": "",
    "impression_column": "",
    "id_column": "",
    "study_column": "",
    "patient_column": "",
    "view_column": "",
    "split_column": "",
    "label_columns": "",
    "extra_columns": "",
    "labels": "auto",
}
CHOICES = {"labels": ("auto", "columns", "text", "none")}
HELP = {
    "image_column": "paths of images (any format, DICOM too), absolute or from the folder of "
    "the file",
    "text_column": "reports: cut into findings and impression where they have headings, else "
    "impression",
    "findings_column": "findings, when they have a column of their own",
    "impression_column": "impression, when it has a column of its own",
    "id_column": "name of each row, used once (default: the image path, or the row's number)",
    "study_column": "study of each row (default: each row is one)",
    "patient_column": "patient of each row (default: each study is one)",
    "view_column": "AP, PA, LATERAL, ...",
    "split_column": "train, valid or test (default: 70 / 10 / 20 % by the hash of the patient)",
    "label_columns": "columns of 1, 0, -1 or empty (default: those named like the 14 CheXpert "
    "findings)",
    "extra_columns": "further columns to keep, as they are",
    "labels": "auto, columns, text (found by rules in the text) or none",
}
TABLES = ("*.tsv", "*.parquet")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("valid", "validate", "validation", "val", "dev"), "valid")
NO_LABEL = ("nan", "na", "n/a", "none", "null", "<na>")
OWN = [
    "study_id",
    "patient_id",
    "image_id",
    "split",
    "view",
    "findings",
    "impression",
    *CHEXPERT_14,
]
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HEADING = re.compile(
    r"(?:^|\n)[\s*#]*(?i:final "
    r"report|exam|indication|history|clinical|technique|comparison|finding|impression|conclusion"
    r"|opinion|summary|reason for|procedure)[^\n:.]{0,40}(?::|\n|[ \t]+[-–—])"
    r"|\b(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)\b[A-Z /&]{0,30}:"
)


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a row of the file. Relative image paths must stay in the file's folder; absolute ones
    may lie anywhere.

    Symbolic links: in a relative path only its first folder may be one, an absolute path is
    followed wherever it leads. Labels: from columns, or by data_prep.reports.labels from the text.
    Raises DataError for a file that is no table, has no row or lacks a column that was named.
    """
    path = only_table(raw)
    cells, rejects = load(path)
    named = {
        role: settings[role].strip()
        for role in SETTINGS
        if role.endswith("_column") and settings[role].strip()
    }
    _check_settings(path, cells, named, settings)
    table = Table(
        cells.apply(plain), raw_version=f"{path.name} {sha256(path)[:12]}", rejects=rejects
    )
    table.start(f"rows in {path.name}", "row fits the header")
    _add_names(table, cells, named)
    if "image_column" in named:
        _add_images(table, cells[named["image_column"]], path.parent)
    add_texts(table, cells, named)
    named_labels = split_list(settings["label_columns"])
    if labels := add_labels(table, cells, settings["labels"], named_labels):
        table.notes.append(f"labels: from the columns {', '.join(labels)}")
    add_split(table, cells, named.get("split_column"))
    _keep_columns(table, path, named, settings)
    table.keep_first(limit)
    return table


def _check_settings(path: Path, cells: pd.DataFrame, named: dict, settings: dict) -> None:
    have = short_list(cells.columns, 40)
    texts = {"text_column", "findings_column", "impression_column"} & set(named)
    if not texts and "image_column" not in named:
        found = f"neither; {path.name} has the columns {have}"
        raise fault(
            "image_column, text_column or both",
            found,
            "name them: --set image_column=A --set text_column=B",
        )
    if "text_column" in texts and len(texts) > 1:
        raise fault(
            "text_column, or findings_column and impression_column", "both", "give one of the two"
        )
    wanted = [
        *named.values(),
        *split_list(settings["label_columns"]),
        *split_list(settings["extra_columns"]),
    ]
    missing = [name for name in wanted if name not in cells]
    if missing:
        do = "correct --set (names are taken as they are written)"
        raise fault(f"the columns {', '.join(missing)} in {path}", f"the columns {have}", do)
    if not len(cells):
        raise fault(
            f"at least one row in {path}",
            "none that can be used below the header",
            "check this file",
        )


def _add_names(table: Table, cells: pd.DataFrame, named: dict) -> None:
    """image_id, study_id, patient_id, view. Later steps add columns; those of the file stay until
    _keep_columns.
    """
    rows = table.rows
    width = len(str(len(cells)))
    number = pd.Series([f"row {k:0{width}d}" for k in rows.index], index=rows.index, dtype=object)
    cells_of = {role: rows[name] for role, name in named.items()}
    image_id = cells_of.get("id_column", cells_of.get("image_column", number))
    study_id = cells_of.get("study_column", image_id)
    # Columns of the file might be named like ours: they go on under a name that cannot be.
    rows = rows.add_prefix("_cell ")
    table.rows = rows.assign(
        _record=number + (" " + image_id).where(image_id != number, ""),
        image_id=image_id,
        study_id=study_id,
        patient_id=cells_of.get("patient_column", study_id),
        view=cells_of.get("view_column", ""),
    )
    for role, what in (
        ("study_id", "study_column"),
        ("patient_id", "patient_column"),
        ("image_id", "id_column"),
    ):
        if what in named:
            table.drop(
                table.rows[role] == "",
                f"row has a cell in {named[what]}",
                f"{named[what]} is empty",
            )
    if "image_column" in named:
        path = cells.loc[table.rows.index, named["image_column"]]
        table.drop(path == "", "row names an image", f"{named['image_column']} is empty")
    table.drop_repeated("image_id")
    if "patient_column" not in named:
        table.notes.append(
            "no patient_column: each study counts as a patient, so patients may be in several "
            "splits"
        )


def _add_images(table: Table, paths: pd.Series, home: Path) -> None:
    """`_image`: the whole path less its first slash, below the root /."""
    table.root = Path("/")
    found, reasons = [], []
    for cell in paths[table.rows.index]:
        if "\\" in cell and "/" not in cell:  # written on Windows
            cell = cell.replace("\\", "/")
        if cell.startswith("~"):
            cell = os.path.expanduser(cell)
        try:
            if _URL.match(cell):
                raise ValueError("a URL: only files on this machine are read, download it first")
            if "\0" in cell:
                raise ValueError("path holds a zero byte")
            real = os.path.normpath(cell) if os.path.isabs(cell) else path_inside(home, cell)
            found.append(real.lstrip("/"))
            reasons.append("")
        except (ValueError, OSError) as problem:
            found.append("")
            reasons.append(str(problem).replace("raw folder", "folder of the table"))
    table.rows["_image"] = found
    reason = pd.Series(reasons, index=table.rows.index, dtype=object)
    table.drop(reason != "", "path stays in the table's folder, or is absolute", reason)
    # One picture under two spellings, in different splits, would be a leak.
    again = table.rows["_image"].map(lambda path: os.path.realpath("/" + path)).duplicated()
    table.drop(again, "each file is named once", "the same file as in a row before: first row used")


def from_text(text: str) -> dict[str, str]:
    """findings and impression of a report; the whole of it is the impression when it has no
    headings.
    """
    parts = sections(text)
    if parts["findings"] or _HEADING.search(text):
        return parts
    return {"findings": "", "impression": clean(text)}


def add_texts(table: Table, cells: pd.DataFrame, named: dict) -> None:
    """Fill findings and impression from the columns `named` as text_column or findings_column and
    impression_column.
    """
    cells = cells.loc[table.rows.index]
    table.rows = table.rows.assign(findings="", impression="")
    if "text_column" in named:
        parts = [from_text(given_text(text)) for text in cells[named["text_column"]]]
        for part in ("findings", "impression"):
            table.rows[part] = pd.Series([p[part] for p in parts], index=cells.index, dtype=object)
    for part in ("findings", "impression"):
        if f"{part}_column" in named:
            table.rows[part] = cells[named[f"{part}_column"]].map(given_text).map(clean)
    for part in ("findings", "impression"):
        table.rows[part] = plain(table.rows[part])
    if {"text_column", "findings_column", "impression_column"} & set(named):
        empty = (table.rows["findings"] == "") & (table.rows["impression"] == "")
        table.drop(
            empty,
            "report has findings or impression",
            "empty report, or none with findings or impression",
        )


def add_labels(table: Table, cells: pd.DataFrame, how: str, columns: list[str]) -> list[str]:
    """Fill the label columns and return the names of the cells that they are from, if any.

    how: from the `columns` (default: those named like the 14 CheXpert findings), by rules from the
    `text`, `none`, or the first of these that there is (`auto`).
    """
    standard = {name.lower(): name for name in CHEXPERT_14}
    alike = {
        name: standard.get(re.sub(r"[_\s]+", " ", name).lower())
        for name in (columns or cells.columns)
    }
    alike = {name: target or name for name, target in alike.items() if target or columns}
    has_text = bool((table.rows["findings"] != "").any() or (table.rows["impression"] != "").any())
    if how == "auto":
        how = "columns" if alike else "text" if has_text else "none"
    if how == "columns" and not alike:
        raise fault(
            "label columns",
            "none named like the 14 CheXpert findings",
            "name them: --set label_columns=A,B",
        )
    if how == "text" and not has_text:
        raise fault("a text to find labels in", "no text column", "name it, or choose other labels")
    table.rows = table.rows.assign(**dict.fromkeys(CHEXPERT_14, pd.NA))
    if how == "columns":
        _read_labels(table, cells.loc[table.rows.index, list(alike)].rename(columns=alike))
        return list(alike)
    if how == "text":
        label_from_text(
            table,
            "labels: found by rules in the text (data_prep.reports.labels), not read by anybody",
        )
    else:
        table.notes.append("labels: none")
    return []


def _read_labels(table: Table, text: pd.DataFrame) -> None:
    """Label columns from cells of text, one row a row of the table; rows with a bad label are
    rejected.
    """
    twice = text.columns[text.columns.duplicated()]
    if len(twice):
        raise fault(
            "one column for each finding",
            f"several for {short_list(twice)}",
            "name them: --set label_columns=A,B",
        )
    strange = [name for name in text if name in table.rows and name not in CHEXPERT_14]
    if strange:
        raise fault(
            "label columns with names of their own",
            f"{short_list(strange)}",
            "rename them in the table",
        )
    values, wrong = parse_labels(
        text.where(~text.apply(lambda c: c.str.lower().isin(NO_LABEL)), "")
    )
    table.rows = table.rows.assign(**{name: values[name] for name in values})
    table.labels = [*CHEXPERT_14, *(name for name in values if name not in CHEXPERT_14)]
    table.drop(wrong != "", "labels are valid", wrong)


def add_split(table: Table, cells: pd.DataFrame, column: str | None) -> None:
    """From the column, or by the hash of the patient."""
    if column is None:
        table.rows["split"] = split_by_hash(table.rows["patient_id"])
        table.notes.append("split: 70 / 10 / 20 % by the hash of the patient")
        return
    named = plain(cells.loc[table.rows.index, column])
    table.rows["split"] = named.str.lower().map(SPLITS)
    reason = "split is '" + named + "', expected train, valid or test"
    table.drop(table.rows["split"].isna(), "split is known", reason)


def _keep_columns(table: Table, path: Path, named: dict, settings: dict) -> None:
    """Drop the file's columns except the extra ones, which must not take the place of ours."""
    extra = split_list(settings["extra_columns"])
    for name in extra:
        taken = name in table.rows or name in OWN or name.startswith("_")
        table.rows[f"raw_{name}" if taken else name] = table.rows[f"_cell {name}"]
    cells = [name for name in table.rows if name.startswith("_cell ")]
    used = {*named.values(), *extra, *split_list(settings["label_columns"]), *table.labels}
    left = [
        name.removeprefix("_cell ") for name in cells if name.removeprefix("_cell ") not in used
    ]
    if left:
        table.notes.append(
            f"columns of {path.name} not used: {short_list(left, 20)} (--set "
            "extra_columns=A,B keeps them)"
        )
    table.rows = table.rows.drop(columns=cells)
