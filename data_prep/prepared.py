"""Write the prepared form: index.csv, images.h5, card.json, rejects.csv, whole or not at all.

Work happens in `<out>.partial`: decoded pixels go to a flat file, a second file marks the rows that are safe on disk. A
killed run therefore goes on where it stopped and ends in the same bytes. The finished folder appears by renaming;
card.json comes last.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

import medxvl

from . import DataError, dataset, fault
from .decoding import decoded
from .images import ABSENT
from .raw import CHEXPERT_14, PHANTOM_MARK, Table, check_folder, fingerprint_raw, progress_bar, short_list

FIRST_COLUMNS = ["study_id", "patient_id", "image_id", "split", "view", "findings", "impression", *CHEXPERT_14]
SETTINGS = {"max_reject_share": 0.05}  # of every dataset; one rejected record alone never stops a run
WORK_FILES = ("jobs.json", "jobs.new", "pixels.u8", "done.u8", "card.json.new")
FILES = ("index.csv", "images.h5", "readers.csv", "rejects.csv", "card.json")  # card.json last: it makes a folder whole
CODE = ("prepared", "images", "decoding", "raw", "reports")  # and the dataset's own module
CHANGES = ("raw_tables", "raw_entries", "code")  # of the card: when only these differ, the folder is prepared anew
MARK_SECONDS = 1.0


def prepare(
    name: str,
    raw,
    out,
    *,
    size: int = 512,
    workers: int = 1,
    limit: int | None = None,
    settings: dict | None = None,
    progress: bool = True,
) -> Path:
    """Bring the raw folder `raw` of dataset `name` into the prepared form in folder `out`, and return `out`.

    Images are squares of `size` px. Returns at once when `out` is there with the same settings; when the raw tables or
    this package's code have changed since, `out` is replaced (changed image files alone are not noticed); when the raw
    data are gone, it is used as it is. Goes on where a killed run stopped. The same raw data gives the same bytes
    whatever the number of `workers` (processes). `limit` keeps the first records by study_id. `settings`: those of the
    dataset's module and `max_reject_share`.
    Raises DataError for faults of the dataset as a whole, and when `out` holds anything else.
    """
    reader = dataset(name)
    if size < 8 or workers < 1 or (limit is not None and limit < 1):
        raise fault(
            "size of at least 8, workers and limit of at least 1", f"{size=}, {workers=}, {limit=}", "correct them"
        )
    settings = _complete(name, reader.SETTINGS | SETTINGS, settings or {})
    raw, out = Path(raw).expanduser().absolute(), Path(out).expanduser().absolute()
    if raw.resolve() == out.resolve():
        raise fault(
            "another folder than the raw one", f"{out}", "choose a new folder to write to: raw files are never changed"
        )
    # Relative, so that the two may be moved together and the card does not depend on where they lie.
    wanted = {
        "name": name,
        "raw": os.path.relpath(raw.resolve(), out.resolve()),
        "size": size,
        "limit": limit,
        "settings": settings,
    }
    try:
        if raw.exists():
            wanted |= fingerprint_raw(raw, reader.TABLES, settings.get("reports", ""), out)
            wanted["code"] = fingerprint_code(name)
    except OSError as problem:
        raise fault("raw data that can be read", f"{problem}", "mend that, or correct the path") from None
    if is_complete(out, wanted):
        if progress:
            print(f"already prepared with these settings: {out} (delete it to prepare it anew)", flush=True)
        return out
    check_folder(raw, name)
    if (out / "card.json").is_file():
        print(f"preparing anew {out}: {_changes(out, wanted)}", flush=True)
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial):
            if is_complete(out, wanted):  # another process made it while this one waited
                return out
            _check_target(out, raw, partial)
            if not is_complete(partial, wanted, other_is_error=False):
                _write(reader.read(raw, settings, limit), raw, partial, wanted, workers, progress)
            _publish(partial, out)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise fault(
                "enough free disk", f"a full one at {out.parent}", "free some and run again: it goes on"
            ) from None
        if problem.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise fault(
                "folders that can be read and written", f"{problem}", "mend that, or choose another place to write to"
            ) from None
        raise
    return out


def is_complete(folder: Path, wanted: dict, other_is_error: bool = True) -> bool:
    """True when `folder` holds a whole dataset made with `wanted`; DataError when it holds one made otherwise.

    One with the same settings from earlier raw tables or by earlier code is not complete, and no error.
    """
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        differ = {key: card.get(key) for key, value in wanted.items() if card.get(key) != value}
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, AttributeError):
        raise fault(
            f"a prepared dataset in {folder}", "a card.json that cannot be read", "delete the folder and run again"
        ) from None
    whole = (folder / "index.csv").is_file() and (not card["images"] or (folder / "images.h5").is_file())
    if whole and not differ:
        return True
    if not other_is_error or (differ and set(differ) <= set(CHANGES)):
        return False
    found = "; ".join(
        f"{key} {value!r} instead of {wanted[key]!r}" for key, value in differ.items() if key not in CHANGES
    )
    raise fault(
        f"no dataset, or the same one, in {folder}",
        f"one with {found}" if differ else "one whose files are gone",
        "delete that folder or choose another",
    )


def fingerprint_code(name: str) -> str:
    """12 hex digits of the code that reads dataset `name` and writes its prepared form."""
    code = [(Path(__file__).with_name(f"{module}.py")).read_bytes() for module in (*CODE, name)]
    return hashlib.sha256(json.dumps([hashlib.sha256(text).hexdigest() for text in code]).encode()).hexdigest()[:12]


def _changes(folder: Path, wanted: dict) -> str:
    """What of CHANGES differs from what the card says, in words."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if not set(CHANGES) <= set(card):
        return "it was made by an earlier version of data_prep"
    old, new = card["raw_tables"], wanted["raw_tables"]
    tables = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    told = [f"{short_list(tables)} changed in {wanted['raw']}"] if tables else []
    if card["raw_entries"] != wanted["raw_entries"]:
        told.append(f"{wanted['raw_entries']} files and folders in {wanted['raw']} instead of {card['raw_entries']}")
    if card["code"] != wanted["code"]:
        told.append("data_prep's code changed")
    return "; ".join(told)


def _complete(name: str, defaults: dict, given: dict) -> dict:
    """Defaults overlaid with `given`, cast to the type of the default."""
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise fault(f"settings of {name}: {', '.join(defaults)}", ", ".join(unknown), "correct --set NAME=VALUE")
    settings = dict(defaults)
    for key, value in given.items():
        try:
            settings[key] = type(defaults[key])(value)
        except ValueError:
            raise fault(f"a number for {key}", repr(value), "correct --set NAME=VALUE") from None
    return settings


def _check_target(out: Path, raw: Path, partial: Path) -> None:
    """Refuse a folder with anything of somebody else in it; the raw folder itself may lie in `out`."""
    if out.exists() and not out.is_dir():
        raise fault("a folder to write to", f"a file at {out}", "choose another name")
    # Killed while the files were being moved in, or prepared anew: there only FILES are replaced, the rest may stay.
    allowed = set(FILES) if (partial / "card.json").is_file() else set()
    if (out / "card.json").is_file():
        allowed |= {p.name for p in out.iterdir()}
    if raw.is_relative_to(out):
        allowed.add(raw.relative_to(out).parts[0])
    for folder, own in ((out, allowed), (partial, {*FILES, *WORK_FILES})):
        strange = sorted(p.name for p in folder.iterdir() if p.name not in own) if folder.is_dir() else []
        if strange:
            raise fault(
                f"an empty or new folder at {folder}",
                f"{short_list(strange)} in it",
                "choose another folder, or empty it",
            )


@contextmanager
def _locked(partial: Path):
    """Own `partial`, made if needed: a second process that prepares the same dataset waits here for the first."""
    while True:
        partial.mkdir(exist_ok=True)
        handle = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # some network disks cannot lock a folder: then nobody waits
            break
        try:
            if os.fstat(handle).st_ino == os.stat(partial).st_ino:
                break
        except FileNotFoundError:  # the first one finished and renamed it
            pass
        os.close(handle)
    try:
        yield
    finally:
        with suppress(OSError):  # removed when empty; a finished folder has its new name by now
            partial.rmdir()
        os.close(handle)


def _write(table: Table, raw: Path, partial: Path, wanted: dict, workers: int, progress: bool) -> None:
    """Fill `partial` with everything, card.json last."""
    size, share = wanted["size"], wanted["settings"]["max_reject_share"]
    for name in FILES:  # of an earlier run that did not end, maybe with other settings
        (partial / name).unlink(missing_ok=True)
    table.rows = table.rows.reset_index(drop=True)
    if not len(table.rows):
        raise _nothing_left(table, raw)
    has_images = "_image" in table.rows
    if has_images:
        images = list(table.rows["_image"])
        _start_or_go_on(
            partial, len(images) * size * size, [size, wanted["raw"], wanted["code"], table.raw_version, *images]
        )
        failed = _decode(table, raw, partial, size, share, workers, progress)
        reason = pd.Series(failed, dtype=object).reindex(range(len(table.rows))).fillna("")
        table.rows["_row"] = np.arange(len(table.rows))  # where its pixels lie in the flat file
        table.drop(reason == ABSENT, "image file is there", ABSENT, table.absent_is_fault)
        table.drop(reason[table.rows.index] != "", "image is decoded", reason[table.rows.index])
        if not len(table.rows):
            raise _nothing_left(table, raw)
    _check_share(table, len(table.rows), share, partial)

    index = table.rows[[c for c in table.rows if not c.startswith("_")]]
    index = index[FIRST_COLUMNS + [c for c in index if c not in FIRST_COLUMNS]]
    index.to_csv(partial / "index.csv", index=False, lineterminator="\n")
    for name, extra in table.extra.items():
        extra.to_csv(partial / name, index=False, lineterminator="\n")
    _write_rejects(table, partial)
    digests = _write_images(partial, table.rows["_row"].to_numpy(), size, progress) if has_images else None
    card = _card(table, index, digests, raw, wanted)
    of_index = hashlib.sha256((partial / "index.csv").read_bytes()).hexdigest()
    card["fingerprint"] = {"index": of_index, "pixels": digests[-1] if digests else None}
    (partial / "card.json.new").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial / "card.json.new", partial / "card.json")


def _nothing_left(table: Table, raw: Path) -> DataError:
    steps = "; ".join(f"{s['step']}: {s['rows']:,}" + f" ({s['why']})" * bool(s["why"]) for s in table.attrition)
    return fault(f"at least one usable record in {raw}", f"none is left ({steps})", "check the path and the settings")


def _check_share(table: Table, used: int, share: float, partial: Path) -> None:
    """Raise DataError when too many records are at fault; a single one never is too many."""
    faults = len(table.faults)
    if faults <= 1 or faults <= share * (faults + used):
        return
    _write_rejects(table, partial)
    part = faults / (faults + used)
    most = ", ".join(f"{reason!r} ({n:,})" for reason, n in Counter(table.faults).most_common(3))
    raise fault(
        f"at most {share:.1%} of the records at fault",
        f"{faults:,} of {faults + used:,} ({part:.1%}): {most}",
        f"see {partial / 'rejects.csv'} and mend the data, or allow it with --set max_reject_share="
        f"{min(1, math.ceil(part * 100) / 100)}",
    )


def _write_rejects(table: Table, partial: Path) -> None:
    rejects = pd.DataFrame(table.rejects, columns=["record", "reason"])
    rejects.to_csv(partial / "rejects.csv", index=False, lineterminator="\n")


def _start_or_go_on(partial: Path, length: int, jobs: list) -> None:
    """Make the work files for `length` bytes of pixels, unless those of a killed run with the same jobs are there."""
    key = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()
    if (partial / "jobs.json").is_file() and json.loads((partial / "jobs.json").read_text()) == key:
        return
    for path in partial.iterdir():
        path.unlink()
    need, free = 2 * length, shutil.disk_usage(partial).free  # once as work file, once as images.h5
    if need > free:
        found = f"{free / 1e9:.1f} GB at {partial.parent}"
        raise fault(f"{need / 1e9:.1f} GB of free disk", found, "free some, or use a smaller --size")
    for name, size in (("pixels.u8", length), ("done.u8", length // jobs[0] ** 2)):
        with open(partial / name, "wb") as file:
            file.truncate(size)
    (partial / "jobs.new").write_text(json.dumps(key))
    os.replace(partial / "jobs.new", partial / "jobs.json")


def _decode(
    table: Table, raw: Path, partial: Path, size: int, share: float, workers: int, progress: bool
) -> dict[int, str]:
    """Decode what is not marked as done; returns row -> reason of those that failed (a later run tries them anew)."""
    todo = np.flatnonzero(np.fromfile(partial / "done.u8", np.uint8) == 0)
    total, images = len(table.rows), list(table.rows["_image"])
    if progress and len(todo) < total:
        print(f"going on: {total - len(todo):,} of {total:,} images are decoded already", flush=True)
    failed, fresh, marked, faults = {}, [], time.monotonic(), len(table.faults)
    with (
        open(partial / "pixels.u8", "r+b", buffering=0) as pixels,
        open(partial / "done.u8", "r+b", buffering=0) as done,
        progress_bar(total=total, initial=total - len(todo), desc="images", unit="image", disable=not progress) as bar,
    ):

        def mark() -> None:
            os.fsync(pixels.fileno())  # a row is marked only once its pixels are safe
            for row in fresh:
                os.pwrite(done.fileno(), b"\1", row)
            fresh.clear()

        for row, grey, reason in decoded(raw, images, todo, size, workers):
            if grey is None:
                failed[row] = reason
                faults += reason != ABSENT or table.absent_is_fault
                if faults > 1 and faults > share * (total + len(table.faults)):
                    break  # the rest cannot make it good: no need to read 100,000 files of a wrong folder
            else:
                if os.pwrite(pixels.fileno(), grey.data, row * size * size) != grey.size:
                    raise OSError(errno.ENOSPC, "pixels written in part")
                fresh.append(row)
            if time.monotonic() - marked > MARK_SECONDS:
                mark()
                marked = time.monotonic()
            bar.update()
        mark()
    return failed


def _write_images(partial: Path, rows: np.ndarray, size: int, progress: bool) -> list[str]:
    """images.h5 from the flat file; returns the SHA-256 of each image and, last, of all pixels in order."""
    every, digests, length = hashlib.sha256(), [], size * size
    with (
        h5py.File(partial / "images.h5", "w") as h5,
        open(partial / "pixels.u8", "rb") as pixels,
        progress_bar(rows, desc="images.h5", unit="image", disable=not progress or len(rows) < 5000) as bar,
    ):
        data = h5.create_dataset("cxr", (len(rows), size, size), np.uint8, chunks=(1, size, size), track_times=False)
        for k, row in enumerate(bar):
            block = os.pread(pixels.fileno(), length, int(row) * length)
            data.id.write_direct_chunk((k, 0, 0), block)
            every.update(block)
            digests.append(hashlib.sha256(block).hexdigest())
    return [*digests, every.hexdigest()]


def _card(table: Table, index: pd.DataFrame, digests: list[str] | None, raw: Path, wanted: dict) -> dict:
    mark = raw / PHANTOM_MARK
    phantom = json.loads(mark.read_text()) if raw.is_dir() and mark.is_file() else None
    counts = {
        split: {"rows": len(part), "studies": part["study_id"].nunique(), "patients": part["patient_id"].nunique()}
        for split in ("train", "valid", "test")
        if len(part := index[index["split"] == split])
    }
    names = {1: "positive", 0: "negative", -1: "uncertain"}
    prevalence = {
        c: {name: int((index[c] == value).sum()) for value, name in names.items()}
        | {"empty": int(index[c].isna().sum())}
        for c in table.labels
    }
    overlap = {
        "patients": _in_two_splits(index["patient_id"], index["split"]),
        "studies": _in_two_splits(index["study_id"], index["split"]),
        "identical_images": _in_two_splits(pd.Series(digests[:-1]), index["split"]) if digests else [],
    }
    for what, found in overlap.items():
        if found:
            table.notes.append(f"{len(found)} {what.replace('_', ' ')} in more than one split: {short_list(found, 3)}")
    return wanted | {
        "label": f"phantom:{wanted['name']}" if phantom else wanted["name"],
        "synthetic": phantom is not None,
        "phantom": phantom,
        "raw_version": table.raw_version,
        "version": medxvl.__version__,
        "images": len(index) if digests else 0,
        "rows": len(index),
        "counts": counts,
        "attrition": table.attrition,
        "rejects": len(table.rejects),
        "prevalence": prevalence,
        "overlap": {what: len(found) for what, found in overlap.items()},
        "notes": table.notes,
    }


def _in_two_splits(keys: pd.Series, split: pd.Series) -> list:
    pairs = pd.DataFrame({"key": keys.to_numpy(), "split": split.to_numpy()}).drop_duplicates()
    return sorted(pairs["key"][pairs["key"].duplicated()].unique())


def _publish(partial: Path, out: Path) -> None:
    """Turn the whole `partial` into `out`: by one renaming, or file by file when the raw folder lies in `out`."""
    for name in WORK_FILES:
        (partial / name).unlink(missing_ok=True)
    if out.is_dir() and any(out.iterdir()):
        if (out / "card.json").is_file():  # the old one, never taken for whole from here on until the new one is there
            old = json.loads((out / "card.json").read_text(encoding="utf-8")) | {"code": ""}
            (partial / "card.json.new").write_text(json.dumps(old), encoding="utf-8")
            os.replace(partial / "card.json.new", out / "card.json")
        for name in FILES:
            if (partial / name).exists():
                os.replace(partial / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)
        partial.rmdir()
    else:
        os.replace(partial, out)  # replaces an empty folder too
