"""What the dataset modules share: the table they return, and how tables and folders are read and
checked.
"""

import hashlib
import os
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.std import tqdm

from data_prep import fault
from data_prep.reports.labels import COLUMNS as CHEXPERT_14
from data_prep.reports.labels import label_reports
from data_prep.reports.sections import ENCODINGS

TABLE_SUFFIXES = (".csv", ".csv.gz", ".json")
NO_TEXT = (
    "na",
    "n/a",
    "nan",
    "<na>",
    "none",
    "null",
    "-",
)  # a whole cell that stands for no report, in small letters
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
BY_RULES = (  # on the card
    "labels are from the reports, by data_prep.reports.labels on findings and impression"
)
PHANTOM_MARK = "PHANTOM.json"  # lies in every raw tree that is synthetic


@dataclass
class Table:
    """What `read` of a dataset module returns: one row an image (or a study without one), and
    account of the rest.

    rows: study_id, patient_id, image_id, split, view, findings, impression, label columns, what the
    dataset adds; `_record` (the row's name in rejects.csv) and, unless the data is text only,
    `_image` (path below the raw folder).
    """

    rows: pd.DataFrame
    raw_version: str
    labels: list[str] = field(
        default_factory=lambda: list(CHEXPERT_14)
    )  # columns counted in the card's prevalence
    # False: a file named in the table but not there is no fault (partial downloads are usual)
    absent_is_fault: bool = True
    rejects: list[tuple[str, str]] = field(default_factory=list)  # record, reason
    attrition: list[dict] = field(default_factory=list)  # step, rows left, dropped, why
    notes: list[str] = field(default_factory=list)
    extra: dict[str, pd.DataFrame] = field(
        default_factory=dict
    )  # file name -> table written beside the index
    faults: list[str] = field(
        default_factory=list
    )  # reasons of the rejects that count towards max_reject_share
    root: Path | None = None  # where `_image` begins, when that is not the raw folder
    decode: Callable | None = (
        None  # as decoding.decoded, for pixels that are not image files below `root`
    )
    linked: tuple[Path, str] | None = (
        None  # HDF5 file and dataset whose rows can be used as they are, without a copy
    )
    found: dict[str, int] = field(
        default_factory=dict
    )  # counts beside EXPECTED that the index does not tell

    def start(self, step: str, kept: str = "", why: str = "") -> None:
        """Open the attrition table with all records there are. The rejects so far are faults of
        records that never were a row: `kept` is the step that leaves the others.
        """
        if guessed := self.rows.attrs.get("encoding"):
            self.notes.append(f"the table is not UTF-8: its encoding was guessed to be {guessed}")
        self.faults = [reason for _, reason in self.rejects]
        records, bad = len(self.rows) + len(self.rejects), len(self.rejects)
        self.attrition = [{"step": step, "rows": records, "dropped": 0, "why": ""}]
        if kept:
            step = {"step": kept, "rows": len(self.rows), "dropped": bad, "why": why}
            self.attrition.append(step)

    def drop(self, gone, step: str, reason, is_fault: bool = True) -> None:
        """Take out the rows where `gone` (bool, one a row) holds; `reason` is one text, or a Series
        like the rows.
        """
        gone = np.asarray(gone, dtype=bool)
        reasons = (
            reason
            if isinstance(reason, pd.Series)
            else pd.Series(reason, index=self.rows.index, dtype=object)
        )[gone]
        self.rejects += zip(self.rows["_record"][gone].astype(str), reasons, strict=True)
        self.rows = self.rows[~gone]
        self.faults += list(reasons) if is_fault else []
        counts = (
            reasons.value_counts(sort=False)
            .sort_index()
            .sort_values(ascending=False, kind="stable")
        )
        why = "; ".join(f"{text}: {n:,}" for text, n in counts.head(4).items()) + (
            "; ..." if len(counts) > 4 else ""
        )
        self.attrition.append(
            {"step": step, "rows": len(self.rows), "dropped": int(gone.sum()), "why": why}
        )

    def expand(self, rows: pd.DataFrame, step: str, why: str = "") -> None:
        """Go on with other `rows`: a report becomes one row for each of its images, the questions
        on an image become one row.
        """
        gained = len(rows) - len(self.rows)
        self.rows = rows
        self.attrition.append(
            {"step": step, "rows": len(rows), "dropped": 0, "gained": gained, "why": why}
        )

    def reject(self, record: str, reason: str) -> None:
        """Enter a fault of a record that was never a row, or that costs a value only."""
        self.rejects.append((record, reason))
        self.faults.append(reason)

    def drop_repeated(self, column: str) -> None:
        """Keep the first row of each value of `column`."""
        self.drop(
            self.rows[column].duplicated(),
            f"{column} is unique",
            f"{column} named before: first row used",
        )

    def keep_views(self, setting: str) -> list[str]:
        """Keep the rows whose view is in `setting`, such as "AP, PA", and return these views.

        Raises DataError when it names none.
        """
        views = split_list(setting)
        if not views:
            raise fault("at least one view", f"views={setting!r}", "correct --set views=AP,PA")
        seen = self.rows["view"].where(self.rows["view"] != "", "not given")
        self.drop(
            ~self.rows["view"].isin(views),
            f"view is {', '.join(views)}",
            "not selected: view " + seen,
            is_fault=False,
        )
        return views

    def keep_one_image(self, views: list[str], record: str) -> None:
        """Of each study, which a `record` stands for, keep the image that comes first by (order of
        `views`, image_id).
        """
        order = self.rows.assign(_view=self.rows["view"].map(views.index))
        order = order.sort_values(["_view", "image_id"])
        first = order.drop_duplicates("study_id").index
        self.drop(
            ~self.rows.index.isin(first),
            f"one image a {record}",
            f"not selected: another image of this {record} is used",
            is_fault=False,
        )

    def keep_first(self, limit: int | None) -> None:
        """Sort by study and image; with `limit`, keep the first rows only."""
        self.rows = self.rows.sort_values(
            ["study_id", "image_id"], kind="stable", ignore_index=True
        )
        if limit is not None:
            self.drop(
                np.arange(len(self.rows)) >= limit,
                f"first {limit}",
                f"not selected: after the first {limit}",
                False,
            )

    def list_unlisted(self, raw: Path, folder: str, suffixes: tuple[str, ...], table: str) -> None:
        """Enter files below `folder` that the rows do not name in the rejects; call it before rows
        are dropped.
        """
        listed, found = set(self.rows["_image"]), []
        for place, _, names in os.walk(raw / folder):
            inside = Path(place).relative_to(raw).as_posix()
            start = "" if inside == "." else f"{inside}/"
            found += [
                start + n for n in names if n.lower().endswith(suffixes) and start + n not in listed
            ]
        self.rejects += [(name, f"file not in {table}") for name in sorted(found)]
        why = f"file not in {table}: {len(found):,}, never counted as rows" if found else ""
        self.attrition.append(
            {
                "step": "files on disk are in the table",
                "rows": len(self.rows),
                "dropped": 0,
                "why": why,
            }
        )


def read_csv(path: Path, need: list[str], also: list[str] = ()) -> pd.DataFrame:
    """Columns `need` and, where present, `also` of a CSV file (.gz too) as text, blanks stripped,
    empty = "".

    One that is not UTF-8 is read as Windows-1252, or Latin-1, and says so in attrs["encoding"],
    which the card tells. Raises DataError when the file is damaged or lacks a needed column.
    """
    try:
        for encoding in ENCODINGS:
            try:
                table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding=encoding)
                break
            except UnicodeDecodeError:  # never of Latin-1
                continue
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
    ) as problem:  # pandas' parser errors are ValueErrors
        raise fault(
            f"a CSV table in {path}",
            f"{type(problem).__name__}: {problem}",
            "download this file again",
        ) from None
    table.columns = table.columns.str.strip()
    missing = [c for c in need if c not in table.columns]
    if missing:
        raise fault(
            f"the columns {', '.join(missing)} in {path}",
            f"the columns {', '.join(table.columns[:40])}",
            "check that this is the dataset's own, unedited table",
        )
    table = table[[*need, *(c for c in also if c in table.columns)]]
    table = table.apply(lambda column: column.str.strip())
    table.attrs = {} if encoding == ENCODINGS[0] else {"encoding": encoding}
    return table


def given_text(cell: str) -> str:
    """The cell of a report, "" where it only says that there is none (NO_TEXT)."""
    return "" if cell.strip().lower() in NO_TEXT else cell


def parse_labels(text: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Label columns as text -> (Int64 columns of 1, 0, -1, missing; for each row "" or what its
    first bad label is).
    """
    values = text.apply(pd.to_numeric, errors="coerce")
    bad = ~values.isin([1, 0, -1]) & (text != "")
    wrong = pd.Series("", index=text.index, dtype=object)
    for row in bad.index[bad.any(axis=1)]:
        column = bad.columns[bad.loc[row]][0]
        wrong[row] = f"label {column} is {text.loc[row, column]!r}, expected 1, 0, -1 or empty"
    return values.mask(bad).astype("Int64"), wrong


def plain(column: pd.Series) -> pd.Series:
    """Cells of any kind as one line of valid UTF-8, control characters as blanks; missing = ""."""
    return column.astype(object).where(column.notna(), "").map(one_line)


def one_line(cell) -> str:
    """As `plain`, of one cell that is not missing."""
    return _BREAKS.sub(" ", str(cell).encode(errors="replace").decode()).strip()


def split_by_hash(ids: pd.Series) -> pd.Series:
    """70 % train, 10 % valid, 20 % test, each from the SHA-256 of its own id alone, whatever else
    is there.
    """
    first = ids.astype(str).map(
        lambda text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    )
    return pd.cut(first, [-1, 69, 79, 99], labels=["train", "valid", "test"]).astype(str)


def find_files(root: Path, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """File name -> its paths below `root`, in order; folders right below `root` may be links (as in
    images.path_inside).
    """
    found: dict[str, list[str]] = {}
    for top in sorted(root.iterdir()):
        if top.is_file() and top.name.lower().endswith(suffixes):
            found.setdefault(top.name, []).append(top.name)
        for place, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith(suffixes):
                    found.setdefault(name, []).append(
                        f"{Path(place).relative_to(root).as_posix()}/{name}"
                    )
    return found


def label_from_text(table: Table, note: str) -> None:
    """Fill the 14 CheXpert columns from findings and impression by rules
    (data_prep.reports.labels); `note` says so on the card.
    """
    texts = (table.rows["findings"] + " " + table.rows["impression"]).str.strip()
    labels = label_reports(list(texts)).set_axis(table.rows.index).astype("Int64")
    table.rows = pd.concat([table.rows.drop(columns=CHEXPERT_14, errors="ignore"), labels], axis=1)
    table.notes.append(note)


def split_list(text: str) -> list[str]:
    """ "AP, PA" -> ["AP", "PA"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def short_list(names, most: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = [str(n) for n in names]
    return ", ".join(names[:most]) + (
        f" and {len(names) - most:,} more" if len(names) > most else ""
    )


def sha256(path: Path) -> str:
    """Of a file, in hex; its first 12 digits are the version of a table that has none."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def progress_bar(*args, **options) -> tqdm:
    """A progress bar with rate and time left; in a log, one line every 30 seconds."""
    return tqdm(*args, mininterval=0.2 if sys.stderr.isatty() else 30, **options)
