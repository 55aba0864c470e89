"""A CSV, TSV or Parquet file of anybody's to cells of text; spreadsheets and damaged files are
refused with advice.
"""

import csv
import gzip
import zlib
from itertools import chain
from pathlib import Path

import pandas as pd

from data_prep import DataError, fault
from data_prep.reading.raw import short_list
from data_prep.reports.sections import ENCODINGS

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET = (".parquet", ".pq")
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
MAX_CELL = 10_000_000  # characters; more is a quotation mark that is never closed


def only_table(raw: Path) -> Path:
    """`raw`, or the one table in the folder `raw`; raises DataError for several, none, or a
    spreadsheet.
    """
    if raw.is_dir():
        paths = [
            p
            for p in sorted(raw.iterdir())
            if p.is_file() and p.name.lower().endswith(TEXT + PARQUET + SPREADSHEETS)
        ]
        if len(paths) != 1:
            found = f"{len(paths)} in the folder {raw}" + (
                f": {short_list(p.name for p in paths)}" if paths else ""
            )
            raise fault(
                "one CSV, TSV or Parquet file", found, "give the file itself: --raw FILE.csv"
            )
        raw = paths[0]
    with open(raw, "rb") as file:
        start = file.read(4)
    name = raw.name.lower()
    if name.endswith(SPREADSHEETS) or (
        start in (b"PK\3\4", b"\xd0\xcf\x11\xe0") and not name.endswith(PARQUET)
    ):
        raise fault(
            "a CSV, TSV or Parquet file",
            f"a spreadsheet, {raw}",
            "save it as CSV (UTF-8) and give that",
        )
    if not name.endswith(TEXT + PARQUET):
        raise fault(
            f"a table ({', '.join(TEXT + PARQUET)})",
            f"{raw}",
            "give a table, or rename it if it is one",
        )
    return raw


def load(path: Path, keep_empty: bool = False) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """(all cells as text, blanks around them stripped, missing = ""; rows that cannot be read, with
    the reason).

    The index counts the rows from 1, below the header. What separates the cells is seen from the
    first line: comma, tab, semicolon or bar. UTF-8, UTF-16 with its mark, else Windows-1252 or
    Latin-1: a guess that attrs["encoding"] names. Rows without any text (Excel leaves them) are no
    rows unless `keep_empty`.
    """
    try:
        cells, rejects = (
            _parquet(path) if path.name.lower().endswith(PARQUET) else _text(path, keep_empty)
        )
    except DataError:
        raise
    # pyarrow's own errors are of many kinds
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        MemoryError,
        zlib.error,
        csv.Error,
    ) as problem:
        found = f"{type(problem).__name__}: {problem}"
        raise fault(
            f"a whole table in {path}", found, "mend that, or save it again as CSV (UTF-8)"
        ) from None
    twice = cells.columns[cells.columns.duplicated()]
    if len(twice):
        raise fault(
            f"columns with different names in {path}",
            f"{short_list(twice)} twice",
            "rename one of the two",
        )
    return cells, rejects


def _text(path: Path, keep_empty: bool) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    open_as = gzip.open if path.name.lower().endswith(".gz") else open
    with open_as(path, "rb") as file:
        marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    if marked:
        return _rows(path, "utf-16", keep_empty)
    for encoding in ENCODINGS:
        try:
            cells, rejects = _rows(path, encoding, keep_empty)
        except UnicodeDecodeError:  # never of Latin-1
            continue
        cells.attrs = {} if encoding == ENCODINGS[0] else {"encoding": encoding}
        return cells, rejects


def _rows(
    path: Path, encoding: str, keep_empty: bool
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    csv.field_size_limit(MAX_CELL)
    open_as = gzip.open if path.name.lower().endswith(".gz") else open
    with open_as(path, "rt", encoding=encoding, newline="") as file:
        first = file.readline(MAX_CELL)
        names = {mark: next(csv.reader([first], delimiter=mark), []) for mark in ",\t;|"}
        # The one by which no quotation mark is left in the names, and then by which most are seen.
        separator = max(names, key=lambda mark: ('"' not in "".join(names[mark]), len(names[mark])))
        rows = csv.reader(chain([first], file), delimiter=separator, strict=True)
        kept, numbers, rejects, number, began = [], [], [], 0, 1
        try:
            header = [name.strip() for name in next(rows, [])]
            while header and not header[-1]:  # Excel leaves empty columns at the end
                header.pop()
            if not header:
                raise ValueError("no header line (an empty file?)")
            began = rows.line_num + 1
            for row in rows:
                began = rows.line_num + 1
                if not row or not (keep_empty or any(cell.strip() for cell in row)):
                    continue
                number += 1
                if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
                    told = f"{len(row)} cells, the header has {len(header)}"
                    rejects.append((f"row {number}", told))
                else:
                    kept.append([cell.strip() for cell in row[: len(header)]])
                    numbers.append(number)
        except csv.Error as problem:
            where = f"line {began}" + f" to {rows.line_num}" * (rows.line_num > began)
            raise csv.Error(f"{problem} in {where} (a stray quotation mark?)") from None
    return pd.DataFrame(kept, columns=header, index=numbers, dtype=object), rejects


def _parquet(path: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    try:
        import pyarrow.parquet
        import pyarrow.types as kinds
    except ImportError:
        raise fault(
            "pyarrow to read Parquet",
            "none installed",
            "pip install pyarrow, or save the table as CSV",
        ) from None
    found = pyarrow.parquet.read_table(path)
    cells = {}
    for field in found.schema:
        if (
            kinds.is_nested(field.type)
            or kinds.is_binary(field.type)
            or kinds.is_large_binary(field.type)
        ):
            continue  # lists and packed images are no cells
        values = found.column(field.name).to_pylist()
        whole = kinds.is_floating(field.type) and all(
            v is None or v != v or float(v).is_integer() for v in values
        )
        cells[field.name.strip()] = [
            "" if v is None or v != v else str(int(v) if whole else v).strip() for v in values
        ]
    if not cells:
        raise fault(
            f"columns of text or numbers in {path}",
            f"only {short_list(found.column_names)}",
            "check this file",
        )
    return pd.DataFrame(cells, index=range(1, found.num_rows + 1), dtype=object), []
