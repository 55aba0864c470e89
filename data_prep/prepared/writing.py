"""Write a Table as index.csv, images.h5, card.json, rejects.csv.

Decoded pixels go to a flat file, a second file marks the rows that are safe on disk. A killed run
therefore goes on where it stopped and ends in the same bytes.
"""

import errno
import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from data_prep import DataError, fault
from data_prep.prepared.card import describe
from data_prep.prepared.linked import link_images
from data_prep.prepared.overlap import difference_hash
from data_prep.reading.decoding import decoded
from data_prep.reading.images import ABSENT
from data_prep.reading.raw import CHEXPERT_14, Table, progress_bar

FIRST_COLUMNS = [
    "study_id",
    "patient_id",
    "image_id",
    "split",
    "view",
    "findings",
    "impression",
    *CHEXPERT_14,
]
WORK_FILES = ("jobs.json", "jobs.new", "pixels.u8", "done.u8", "card.json.new")
EXTRA_FILES = ("readers.csv", "questions.csv", "boxes.csv")  # names that Table.extra may use
FILES = (
    "index.csv",
    "images.h5",
    *EXTRA_FILES,
    "rejects.csv",
    "card.json",
)  # card.json last: it makes a folder whole
MARK_SECONDS = 1.0


def write(
    table: Table, raw: Path, partial: Path, wanted: dict, workers: int, progress: bool
) -> None:
    """Fill `partial` with everything, card.json last."""
    size, settings = wanted["size"], wanted["settings"]
    share = settings["max_reject_share"]
    how = {"full": settings["decode"] == "full", "equalise": settings["dicom"] == "equalised"}
    for name in FILES:  # of an earlier run that did not end, maybe with other settings
        (partial / name).unlink(missing_ok=True)
    table.rows = table.rows.reset_index(drop=True)
    if not len(table.rows):
        raise _nothing_left(table, raw)
    has_images, seen = "_image" in table.rows, None
    linked = link_images(table, partial, size, progress) if table.linked else None
    if not linked:  # readers sort already; pixels that stay in the user's file keep its order
        table.rows = table.rows.sort_values(
            ["study_id", "image_id"], kind="stable", ignore_index=True
        )
    if has_images and not linked:
        images = list(table.rows["_image"])
        _start_or_go_on(
            partial,
            len(images) * size * size,
            [
                size,
                how,
                wanted["raw"],
                wanted["code"],
                table.raw_version,
                str(table.root or ""),
                *images,
            ],
        )
        failed, seen = _decode(table, raw, partial, size, how, share, workers, progress)
        reason = pd.Series(failed, dtype=object).reindex(range(len(table.rows))).fillna("")
        table.rows["_row"] = np.arange(len(table.rows))  # where its pixels lie in the flat file
        table.drop(reason == ABSENT, "image file is there", ABSENT, table.absent_is_fault)
        table.drop(reason[table.rows.index] != "", "image is decoded", reason[table.rows.index])
        if not len(table.rows):
            raise _nothing_left(table, raw)
    _check_share(table, len(table.rows), share, partial, seen)

    index = table.rows[[c for c in table.rows if not c.startswith("_")]]
    index = index[FIRST_COLUMNS + [c for c in index if c not in FIRST_COLUMNS]]
    index.to_csv(partial / "index.csv", index=False, lineterminator="\n")
    for name, extra in table.extra.items():
        if name not in EXTRA_FILES:
            raise ValueError(
                f"{name} is not in EXTRA_FILES: a replaced folder would keep the old one"
            )
        key = "image_id" if "image_id" in extra else "study_id"
        used = extra[key].isin(set(index[key]))
        if not used.all():
            table.notes.append(
                f"{name}: {(~used).sum():,} of {len(extra):,} rows left out, their {key} is "
                "not used"
            )
            table.extra[name] = extra = extra[used]
        extra.to_csv(partial / name, index=False, lineterminator="\n")
    _write_rejects(table, partial)
    pixels = linked
    if has_images and not linked:
        pixels = _write_images(partial, table.rows["_row"].to_numpy(), size, progress)
    card = describe(table, index, pixels, raw, partial, wanted, progress)
    (partial / "card.json.new").write_text(
        json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    os.replace(partial / "card.json.new", partial / "card.json")


def _nothing_left(table: Table, raw: Path) -> DataError:
    steps = "; ".join(
        f"{s['step']}: {s['rows']:,}" + f" ({s['why']})" * bool(s["why"]) for s in table.attrition
    )
    return fault(
        f"at least one usable record in {raw}",
        f"none is left ({steps})",
        "check the path and the settings",
    )


def _check_share(
    table: Table, used: int, share: float, partial: Path, seen: tuple[int, int] | None = None
) -> None:
    """Raise DataError when too many records are at fault; a single one never is too many.

    `seen`: how many images of how many were looked at, fewer than all when decoding stopped early;
    None without any.
    """
    faults = len(table.faults)
    if faults <= 1 or faults <= share * (faults + used):
        return
    _write_rejects(table, partial)
    part = faults / (faults + used)
    most = ", ".join(f"{reason!r} ({n:,})" for reason, n in Counter(table.faults).most_common(3))
    do = f"see {partial / 'rejects.csv'} and mend the data, or allow "
    if seen and seen[0] < seen[1]:  # how many there are in all is not known
        found = f"{faults:,} already, stopped after {seen[0]:,} of {seen[1]:,} images"
        do += "more with --set max_reject_share=SHARE (1: any number)"
    else:
        found = f"{faults:,} of {faults + used:,} ({part:.1%})"
        do += f"it with --set max_reject_share={min(1, math.ceil(part * 100) / 100)}"
    raise fault(f"at most {share:.1%} of the records at fault", f"{found}: {most}", do)


def _write_rejects(table: Table, partial: Path) -> None:
    rejects = pd.DataFrame(table.rejects, columns=["record", "reason"])
    rejects.to_csv(partial / "rejects.csv", index=False, lineterminator="\n")


def _start_or_go_on(partial: Path, length: int, jobs: list) -> None:
    """Make the work files for `length` bytes of pixels, unless those of a killed run with the same
    jobs are there.
    """
    key = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()
    if (partial / "jobs.json").is_file() and json.loads((partial / "jobs.json").read_text()) == key:
        return
    for path in partial.iterdir():
        path.unlink()
    need, free = 2 * length, shutil.disk_usage(partial).free  # once as work file, once as images.h5
    if need > free:
        found = f"{free / 1e9:.1f} GB at {partial.parent}"
        raise fault(
            f"{need / 1e9:.1f} GB of free disk", found, "free some, or use a smaller --size"
        )
    for name, size in (("pixels.u8", length), ("done.u8", length // jobs[0] ** 2)):
        with open(partial / name, "wb") as file:
            file.truncate(size)
    (partial / "jobs.new").write_text(json.dumps(key))
    os.replace(partial / "jobs.new", partial / "jobs.json")


def _decode(
    table: Table,
    raw: Path,
    partial: Path,
    size: int,
    how: dict,
    share: float,
    workers: int,
    progress: bool,
) -> tuple[dict[int, str], tuple[int, int]]:
    """Decode what is not marked as done; too many failures end it.

    Returns row -> reason of those that failed (a later run tries them anew), and how many images of
    how many were seen.
    """
    todo = np.flatnonzero(np.fromfile(partial / "done.u8", np.uint8) == 0)
    total, images, read = (
        len(table.rows),
        list(table.rows["_image"]),
        table.decode or functools.partial(decoded, **how),
    )
    if progress and len(todo) < total:
        print(
            f"going on: {total - len(todo):,} of {total:,} images are decoded already", flush=True
        )
    failed, fresh, marked, faults, seen = (
        {},
        [],
        time.monotonic(),
        len(table.faults),
        total - len(todo),
    )
    with (
        open(partial / "pixels.u8", "r+b", buffering=0) as pixels,
        open(partial / "done.u8", "r+b", buffering=0) as done,
        progress_bar(
            total=total,
            initial=total - len(todo),
            desc="images",
            unit="image",
            disable=not progress,
        ) as bar,
    ):

        def mark() -> None:
            os.fsync(pixels.fileno())  # a row is marked only once its pixels are safe
            for row in fresh:
                os.pwrite(done.fileno(), b"\1", row)
            fresh.clear()

        for row, grey, reason in read(table.root or raw, images, todo, size, workers):
            seen += 1
            if grey is None:
                failed[row] = reason
                faults += reason != ABSENT or table.absent_is_fault
                if faults > 1 and faults > share * (total + len(table.faults)):
                    # the rest cannot make it good: no need to read 100,000 files of a wrong folder
                    break
            else:
                if os.pwrite(pixels.fileno(), grey.data, row * size * size) != grey.size:
                    raise OSError(errno.ENOSPC, "pixels written in part")
                fresh.append(row)
            if time.monotonic() - marked > MARK_SECONDS:
                mark()
                marked = time.monotonic()
            bar.update()
        mark()
    return failed, (seen, total)


def _write_images(partial: Path, rows: np.ndarray, size: int, progress: bool) -> dict:
    """images.h5 from the flat file; returns SHA-256 of all pixels in order, and SHA-256 and
    difference hash of each.
    """
    every, digests, length = hashlib.sha256(), [], size * size
    hashes = np.zeros((len(rows), 4), np.uint64)
    with (
        h5py.File(partial / "images.h5", "w") as h5,
        open(partial / "pixels.u8", "rb") as pixels,
        progress_bar(
            rows, desc="images.h5", unit="image", disable=not progress or len(rows) < 5000
        ) as bar,
    ):
        data = h5.create_dataset(
            "cxr", (len(rows), size, size), np.uint8, chunks=(1, size, size), track_times=False
        )
        for k, row in enumerate(bar):
            block = os.pread(pixels.fileno(), length, int(row) * length)
            data.id.write_direct_chunk((k, 0, 0), block)
            every.update(block)
            digests.append(hashlib.sha256(block).hexdigest())
            hashes[k] = difference_hash(np.frombuffer(block, np.uint8).reshape(size, size))
    return {"all": every.hexdigest(), "each": digests, "hashes": hashes}
