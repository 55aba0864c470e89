"""Does a raw folder hold the dataset that it is said to hold, or which other one?"""

from fnmatch import fnmatch
from pathlib import Path

from data_prep import DATASETS, MAY_BE_A_FILE, datasets, fault
from data_prep.reading.raw import short_list


def check_folder(raw: Path, name: str) -> None:
    """Raise DataError unless `raw` looks like dataset `name`; the message says which one it looks
    like instead.
    """
    needs = f"{name}: {datasets.load(name).NEEDS}"
    if not raw.exists():
        raise fault(needs, f"nothing at {raw}", "correct the path of the raw data")
    if _looks_like(raw, name):
        return
    if raw.is_file():
        raise fault(needs, f"the file {raw}", "give the folder that holds all of these")
    entries = sorted(p.name + "/" * p.is_dir() for p in raw.iterdir())
    if not entries:
        raise fault(
            needs, f"an empty folder at {raw}", "download the dataset into it, or correct the path"
        )
    inner = [p for p in sorted(raw.iterdir())[:200] if p.is_dir() and _looks_like(p, name)]
    others = [n for n in DATASETS if datasets.load(n).MARKS and _looks_like(raw, n)]
    if inner:
        do = f"give its subfolder {inner[0]}"
    elif (raw / "card.json").is_file():
        do = "this folder is prepared already: give the raw one"
    elif others:
        do = f"this looks like {' or '.join(others)}: use that name, or correct the path"
    else:
        do = "correct the path of the raw data"
    raise fault(needs, f"in {raw} only {short_list(entries, 8)}", do)


def _looks_like(raw: Path, name: str) -> bool:
    """True when all patterns of one alternative of the module's MARKS are there, or it has none (it
    checks by itself).
    """
    if not datasets.load(name).MARKS:
        return True
    if raw.is_file():
        marks = datasets.load(name).MARKS if name in MAY_BE_A_FILE else ()
        return any(fnmatch(raw.name, mark[0]) for mark in marks)
    return any(all(any(raw.glob(mark)) for mark in marks) for marks in datasets.load(name).MARKS)
