"""Check a prepared dataset against its card: python -m data_prep check DIR"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from data_prep import fault
from data_prep.prepared.overlap import SPLITS, in_two_splits
from data_prep.prepared.writing import FIRST_COLUMNS
from data_prep.reading.raw import CHEXPERT_14, progress_bar, sha256, short_list

CARD_KEYS = (
    "name",
    "label",
    "size",
    "images",
    "rows",
    "columns",
    "counts",
    "attrition",
    "rejects",
    "fingerprint",
)
AGAIN = "delete the folder and prepare it again"


def check(folder: Path, progress: bool = True) -> list[tuple[str, str]]:
    """(what was checked, "" or what is wrong and what to do) of every check of a prepared dataset.

    Reads every pixel once, one image at a time. A line that begins with "note:" tells of something
    that is no fault. Raises DataError when `folder` holds no card.
    """
    card = _card(folder)
    found = [("card.json has its entries", _missing(CARD_KEYS, card, "entries"))]
    if found[0][1]:
        return found
    try:
        index = pd.read_csv(
            folder / "index.csv", dtype=str, keep_default_na=False, encoding="utf-8"
        )
    except (OSError, ValueError) as problem:
        return [*found, ("index.csv can be read", f"{type(problem).__name__}: {problem}; {AGAIN}")]
    try:
        with h5py.File(folder / "images.h5") as h5:
            # Pixels that stay in the user's own file: its order and chunks are what they are.
            linked = isinstance(h5.get("cxr", getlink=True), h5py.ExternalLink)
    except OSError:
        linked = False
    for checks in (
        _check_index(folder, card, index, linked),
        _check_images(folder, card, linked, progress),
        _check_account(folder, card, index),
    ):
        try:
            found += checks
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OSError,
        ) as problem:  # entries of another form
            found.append(
                (
                    "the card's entries can be compared",
                    f"{type(problem).__name__}: {problem}; {AGAIN}",
                )
            )
    return found


def _card(folder: Path) -> dict:
    path = folder / "card.json"
    if not path.is_file():
        what = (
            "an unfinished preparation"
            if folder.name.endswith(".partial")
            else f"no card.json in {folder}"
        )
        raise fault(
            "a prepared dataset", what, "give the folder that --out named, or prepare it first"
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["name"]
    except (ValueError, TypeError, KeyError) as problem:
        raise fault(f"a card in {path}", f"{type(problem).__name__}: {problem}", AGAIN) from None
    return card


def _missing(wanted, there, what: str) -> str:
    lacking = [name for name in wanted if name not in there]
    return (
        f"{what} {short_list(lacking)} are missing: made by an earlier version? {AGAIN}"
        if lacking
        else ""
    )


def _differs(what: str, expected, found) -> str:
    return (
        ""
        if expected == found
        else f"{what}: the card says {expected}, found {found}; changed by hand? {AGAIN}"
    )


def _check_index(
    folder: Path, card: dict, index: pd.DataFrame, linked: bool
) -> Iterator[tuple[str, str]]:
    name = "index.csv"
    yield (
        f"{name} is the one of the card (SHA-256)",
        _differs(name, card["fingerprint"]["index"], sha256(folder / name)),
    )
    lacking = _missing(FIRST_COLUMNS, index.columns, f"{name}: columns")
    yield (
        f"{name} has its columns, in order",
        lacking or _differs(name, card["columns"], list(index.columns)),
    )
    yield f"{name} has the rows of the card", _differs(name, card["rows"], len(index))
    if lacking:
        return
    if not linked:
        yield f"{name} is sorted by study_id, image_id", _unsorted(index)
    ids = index["image_id"].where(index["image_id"] != "", "of " + index["study_id"])
    twice = sorted(ids[ids.duplicated()].unique())
    yield (
        "image_id is there once",
        f"{short_list(twice, 3)} more than once; {AGAIN}" if twice else "",
    )
    wrong = [
        f"{c} {v!r}" for c in CHEXPERT_14 for v in sorted(set(index[c]) - {"1", "0", "-1", ""})
    ]
    yield "labels are 1, 0, -1 or empty", f"found {short_list(wrong, 3)}; {AGAIN}" if wrong else ""
    splits = sorted(set(index["split"]) - set(SPLITS))
    yield (
        "splits are train, valid, test",
        f"found {short_list(splits, 3)}; {AGAIN}" if splits else "",
    )
    sizes = {
        split: {"rows": int(n)}
        for split, n in index["split"].value_counts().items()
        if split in SPLITS
    }
    told = {split: {"rows": counts["rows"]} for split, counts in card["counts"].items()}
    yield "splits have the sizes of the card", _differs("rows a split", told, sizes)
    both = in_two_splits(index["patient_id"], index["split"])
    told = card.get("overlap", {}).get("patients")
    if len(both) != told:
        found = _differs("patients in two splits", told, len(both))
    elif both:  # a property of the data, and no fault, when the card reports it
        found = f"note: {len(both):,} are in two ({short_list(both, 3)}), as the card says"
    else:
        found = ""
    yield "patients are in one split each", found


def _unsorted(index: pd.DataFrame) -> str:
    """ "" when sorted, by ids as text or, where all study_ids are numbers, as numbers."""
    orders = [index.sort_values(["study_id", "image_id"], kind="stable").index]
    if index["study_id"].str.fullmatch(r"[0-9]{1,18}").all():
        numbers = index.astype({"study_id": "int64"})
        orders.append(numbers.sort_values(["study_id", "image_id"], kind="stable").index)
    if any((order == index.index).all() for order in orders):
        return ""
    first = min(int(np.flatnonzero(order != index.index)[0]) for order in orders)
    return f"row {first} is the first out of order; {AGAIN}"


def _check_images(
    folder: Path, card: dict, linked: bool, progress: bool
) -> Iterator[tuple[str, str]]:
    name, path, rows = "images.h5", folder / "images.h5", card["images"]
    if not rows:
        yield f"no {name}, as the card says", f"{path} is there; {AGAIN}" if path.exists() else ""
        return
    yield f"an image for each row of {'index.csv'}", _differs("images", rows, card["rows"])
    try:
        with h5py.File(path) as h5:
            data, size = h5["cxr"], card["size"]
            what = f"{name} is uint8, {rows} x {size} x {size}"
            form = [list(data.shape), str(data.dtype), list(data.chunks or ())]
            wanted = [[rows, size, size], "uint8", form[2] if linked else [1, size, size]]
            yield what + ", one image a chunk" * (not linked), _differs(name, wanted, form)
            every = hashlib.sha256()
            for row in progress_bar(
                range(len(data)),
                desc="pixels",
                unit="image",
                leave=False,
                disable=None if progress else True,
            ):
                every.update(data[row].tobytes())
            told = card["fingerprint"]["pixels"]
            yield (
                "pixels are those of the card (SHA-256)",
                _differs("pixels", told, every.hexdigest()),
            )
    except (OSError, KeyError, RuntimeError) as problem:
        reason = str(problem).split("\n")[0]
        yield f"{name} can be read", f"{type(problem).__name__}: {reason}; {AGAIN}"


def _check_account(folder: Path, card: dict, index: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The attrition table adds up, ends at the index; the rejects are as many; the other tables are
    those of the card.
    """
    steps, wrong = card["attrition"], ""
    for before, after in zip(steps, steps[1:], strict=False):
        if after["rows"] != before["rows"] - after["dropped"] + after.get("gained", 0):
            wrong = (
                wrong
                or f"step {after['step']!r}: {before['rows']} rows less {after['dropped']} "
                f"are not {after['rows']}"
            )
    if steps and not wrong and steps[-1]["rows"] != card["rows"]:
        wrong = f"it ends at {steps[-1]['rows']} rows, the card says {card['rows']}"
    yield (
        "attrition adds up, from the raw records to the index",
        f"{wrong}; {AGAIN}" if wrong else "",
    )
    try:
        rejects = pd.read_csv(folder / "rejects.csv", dtype=str, keep_default_na=False)
        told = _missing(("record", "reason"), rejects.columns, "rejects.csv: columns")
        yield (
            "rejects.csv has the rows of the card",
            told or _differs("rejects", card["rejects"], len(rejects)),
        )
        unexplained = sum(step["dropped"] for step in steps) - len(rejects)
        yield (
            "every row dropped is in rejects.csv",
            (f"{unexplained} rows are not; {AGAIN}" if unexplained > 0 else ""),
        )
    except (OSError, ValueError) as problem:
        yield "rejects.csv can be read", f"{type(problem).__name__}: {problem}; {AGAIN}"
    for name, entry in card.get("extra", {}).items():
        there = (folder / name).is_file()
        told = (
            _differs(name, entry["sha256"], sha256(folder / name))
            if there
            else f"{name} is gone; {AGAIN}"
        )
        yield f"{name} is the one of the card (SHA-256)", told
