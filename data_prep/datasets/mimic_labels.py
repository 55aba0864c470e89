"""Labels of MIMIC-CXR: of the release's tables, of its radiologist, or from the reports."""

from pathlib import Path

import pandas as pd

from data_prep.datasets.mimic_layout import find_table
from data_prep.reading.raw import (
    BY_RULES,
    CHEXPERT_14,
    Table,
    label_from_text,
    parse_labels,
    read_csv,
    short_list,
)

SPELLINGS = {"Airspace Opacity": "Lung Opacity"}  # column names of the radiologist's table
WORDS = {"positive": "1", "negative": "0", "uncertain": "-1", "not mentioned": "", "nan": ""}


def add_labels(table: Table, raw: Path, which: str, of_test: str) -> None:
    """The 14 columns from the table `which` (table = CheXpert's, else NegBio's, else the reports),
    then the radiologist's.
    """
    kinds = {"table": ("chexpert", "negbio"), "reports": ()}.get(which, (which,))
    path = find_table(raw, *kinds, needed=which in ("chexpert", "negbio")) if kinds else None
    if path is None:
        why = "there is no table of labels" if kinds else "as asked for"
        label_from_text(table, f"{BY_RULES}: {why}")
    else:
        if "negbio" in path.name:
            table.notes.append(
                f"labels are NegBio's ({path.name})"
                + ": there is no table of CheXpert labels" * (which == "table")
            )
        read = read_csv(path, ["study_id", *CHEXPERT_14])
        labels = note_repeats(table, read, "study_id", path.name)
        labels = labels.reindex(table.rows["study_id"].astype(str))
        without = labels[CHEXPERT_14[0]].isna()
        if without.any():
            table.notes.append(
                f"{without.sum()} studies are not in {path.name}: their labels stay empty"
            )
        values, wrong = parse_labels(labels.fillna("").reset_index(drop=True))
        table.rows = pd.concat([table.rows, values.set_axis(table.rows.index)], axis=1)
        wrong = wrong.set_axis(table.rows.index)
        table.drop(wrong != "", "labels are valid", wrong)
    _add_radiologist(table, raw, of_test)


def note_repeats(table: Table, other: pd.DataFrame, key: str, name: str) -> pd.DataFrame:
    """`other` with one row a key; the card says how many rows that cost."""
    repeated = other[key].duplicated()
    if repeated.any():
        table.notes.append(
            f"{name} names {repeated.sum()} {key} more than once: first row used, e.g. "
            f"{other[key][repeated].iloc[0]}"
        )
    return other[~repeated].set_index(key)


def _add_radiologist(table: Table, raw: Path, use: str) -> None:
    """Labels that a radiologist gave 687 studies of the test split (release 2.1.0), as columns or
    as labels of that split.

    A study in the table whose label is empty has that finding not mentioned. Source: MIMIC-CXR-JPG
    2.1.0.
    """
    path = find_table(raw, "test-set-labeled", needed=False)
    if path is None or use == "ignore":
        if path is not None:
            table.notes.append(f"{path.name} is there and not used, as asked for")
        return
    read = read_csv(path, ["study_id"], [*CHEXPERT_14, *SPELLINGS])
    labels = note_repeats(table, read.rename(columns=SPELLINGS), "study_id", path.name)
    labels = labels[[c for c in CHEXPERT_14 if c in labels]].apply(
        lambda c: c.str.lower().replace(WORDS)
    )
    values, wrong = parse_labels(labels)
    for study, reason in wrong[wrong != ""].items():
        table.reject(f"{path.name} {study}", f"{reason}: this value is left empty")
    studies = table.rows["study_id"].astype(str)
    here = studies.isin(values.index)
    told = f"{int(here.sum()):,} of {len(values):,} studies of {path.name} are used"
    if lacking := [c for c in CHEXPERT_14 if c not in values]:
        told += f"; it has no {short_list(lacking)}"
    found = values.reindex(studies).set_axis(table.rows.index)
    if use == "columns":
        table.rows = table.rows.join(found.add_prefix("radiologist_"))
        table.notes.append(f"{told}: columns radiologist_*; the 14 label columns are not touched")
        return
    test = here & (table.rows["split"] == "test")
    table.rows = table.rows.assign(**{c: table.rows[c].mask(test, found[c]) for c in values})
    table.notes.append(
        f"{told}: they replace the labels of {int(test.sum()):,} studies of the test split"
    )
