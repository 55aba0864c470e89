"""Raw folder in, prepared folder out: whole or not at all, made once, replaced when its source
changed.

Work happens in `<out>.partial` (see writing.py). The finished folder appears by renaming; card.json
comes last.
"""

import errno
import fcntl
import json
import os
from contextlib import contextmanager, suppress
from multiprocessing import current_process
from pathlib import Path

from data_prep import code, datasets, fault
from data_prep.prepared.raw_folder import check_folder
from data_prep.prepared.writing import FILES, WORK_FILES, write
from data_prep.reading.decoding import GUARD
from data_prep.reading.raw import short_list
from data_prep.reading.raw_state import fingerprint_raw

SETTINGS = {"max_reject_share": 0.05, "decode": "reduced", "dicom": "window"}  # of every dataset
CHOICES = {"decode": ("reduced", "full"), "dicom": ("window", "equalised")}
HELP = {
    "max_reject_share": "stop when a larger share of the records is at fault (selections are "
    "no faults)",
    "decode": "reduced: large JPEGs in reduced resolution where that differs by less than a "
    "grey level; or full",
    "dicom": "window: grey levels as the file says; equalised: minimum to maximum, then "
    "histogram, as MIMIC-CXR-JPG",
}
BOOLEANS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
CHANGES = (
    "raw_tables",
    "raw_entries",
    "code",
)  # of the card: when only these differ, the folder is prepared anew


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
    """Bring the raw folder `raw` of dataset `name` into the prepared form in folder `out`, and
    return `out`.

    Images are squares of `size` px. Returns at once when `out` is there with the same settings;
    when the raw tables or this package's code have changed since, `out` is replaced (changed image
    files alone are not noticed); when the raw data are gone, it is used as it is. Goes on where a
    killed run stopped. The same raw data gives the same bytes whatever the number of `workers`
    (processes). `limit` keeps the first records by study_id. `settings`: those of the dataset's
    module and `max_reject_share`. Raises DataError for faults of the dataset as a whole, and when
    `out` holds anything else.
    """
    if getattr(
        current_process(), "_inheriting", False
    ):  # a worker that runs the script it was started from
        raise fault("one process that prepares", "a worker of it", GUARD)
    reader = datasets.load(name)
    if size < 8 or workers < 1 or (limit is not None and limit < 1):
        raise fault(
            "size of at least 8, workers and limit of at least 1",
            f"{size=}, {workers=}, {limit=}",
            "correct them",
        )
    settings = _complete(name, reader.SETTINGS | SETTINGS, settings or {})
    for key, choices in (CHOICES | getattr(reader, "CHOICES", {})).items():
        if settings[key] not in choices:
            raise fault(
                f"{key} to be {' or '.join(choices)}",
                repr(settings[key]),
                f"correct --set {key}=VALUE",
            )
    if not 0 <= settings["max_reject_share"] <= 1:
        found = repr(settings["max_reject_share"])
        raise fault(
            "a share from 0 to 1 for max_reject_share",
            found,
            "correct --set max_reject_share=SHARE",
        )
    raw, out = Path(raw).expanduser().absolute(), Path(out).expanduser().absolute()
    if raw.resolve() == out.resolve():
        raise fault(
            "another folder than the raw one",
            f"{out}",
            "choose a new folder to write to: raw files are never changed",
        )
    # Relative, so that the two may be moved together and the card does not depend on where they
    # lie.
    wanted = {
        "name": name,
        "raw": os.path.relpath(raw.resolve(), out.resolve()),
        "size": size,
        "limit": limit,
        "settings": settings,
    }
    given = {
        setting: settings[setting]
        for setting in getattr(reader, "PATHS", ("reports",))
        if setting in settings
    }
    try:
        if raw.exists():
            wanted |= fingerprint_raw(raw, reader.TABLES, given, out)
            wanted["code"] = code.digest_of(__name__, f"data_prep.datasets.{name}", only=name)
    except OSError as problem:
        raise fault(
            "raw data that can be read", f"{problem}", "mend that, or correct the path"
        ) from None
    if is_complete(out, wanted):
        if progress:
            print(
                f"already prepared with these settings: {out} (delete it to prepare it anew)",
                flush=True,
            )
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
                write(reader.read(raw, settings, limit), raw, partial, wanted, workers, progress)
            _publish(partial, out)
    except OSError as problem:
        raise _disk_fault(problem, out) from None
    except RuntimeError as problem:  # HDF5, when the disk fills while a file is closed
        if "No space left" not in str(problem) and "Disk quota" not in str(problem):
            raise
        raise _disk_fault(OSError(errno.ENOSPC, "full"), out) from None
    return out


def _disk_fault(problem: OSError, out: Path) -> Exception:
    """One message for a full disk or for what may not be read or written; else the problem
    itself.
    """
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return fault(
            "enough free disk", f"a full one at {out.parent}", "free some and run again: it goes on"
        )
    if problem.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
        return fault(
            "folders that can be read and written",
            f"{problem}",
            "mend that, or choose another place to write to",
        )
    return problem


def is_complete(folder: Path, wanted: dict, other_is_error: bool = True) -> bool:
    """True when `folder` holds a whole dataset made with `wanted`; DataError when it holds one made
    otherwise.

    One with the same settings from earlier raw tables or by earlier code is not complete, and no
    error.
    """
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        differ = {key: card.get(key) for key, value in wanted.items() if card.get(key) != value}
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, AttributeError):
        raise fault(
            f"a prepared dataset in {folder}",
            "a card.json that cannot be read",
            "delete the folder and run again",
        ) from None
    whole = (folder / "index.csv").is_file() and (
        not card["images"] or (folder / "images.h5").is_file()
    )
    if whole and not differ:
        return True
    if not other_is_error or (differ and set(differ) <= set(CHANGES)):
        return False
    found = "; ".join(
        f"{key} {value!r} instead of {wanted[key]!r}"
        for key, value in differ.items()
        if key not in CHANGES
    )
    raise fault(
        f"no dataset, or the same one, in {folder}",
        f"one with {found}" if differ else "one whose files are gone",
        "delete that folder or choose another",
    )


def _changes(folder: Path, wanted: dict) -> str:
    """What of CHANGES differs from what the card says, in words."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if not set(CHANGES) <= set(card):
        return "it was made by an earlier version of data_prep"
    old, new = card["raw_tables"], wanted["raw_tables"]
    tables = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    told = [f"{short_list(tables)} changed in {wanted['raw']}"] if tables else []
    if card["raw_entries"] != wanted["raw_entries"]:
        told.append(
            f"{wanted['raw_entries']} files and folders in {wanted['raw']} instead of "
            f"{card['raw_entries']}"
        )
    if card["code"] != wanted["code"]:
        told.append("data_prep's code changed")
    return "; ".join(told)


def _complete(name: str, defaults: dict, given: dict) -> dict:
    """Defaults overlaid with `given`, cast to the type of the default."""
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise fault(
            f"settings of {name}: {', '.join(defaults)}",
            ", ".join(unknown),
            "correct --set NAME=VALUE",
        )
    settings = dict(defaults)
    for key, value in given.items():
        try:
            settings[key] = (
                BOOLEANS[str(value).lower()]
                if isinstance(defaults[key], bool)
                else type(defaults[key])(value)
            )
        except (ValueError, KeyError):
            kind = "yes or no" if isinstance(defaults[key], bool) else "a number"
            raise fault(f"{kind} for {key}", repr(value), "correct --set NAME=VALUE") from None
    return settings


def _check_target(out: Path, raw: Path, partial: Path) -> None:
    """Refuse a folder with anything of somebody else in it; the raw folder itself may lie in
    `out`.
    """
    if out.exists() and not out.is_dir():
        raise fault("a folder to write to", f"a file at {out}", "choose another name")
    # Killed while the files were being moved in, or prepared anew: there only FILES are replaced,
    # the rest may stay.
    allowed = set(FILES) if (partial / "card.json").is_file() else set()
    if (out / "card.json").is_file():
        allowed |= {p.name for p in out.iterdir()}
    if raw.is_relative_to(out):
        allowed.add(raw.relative_to(out).parts[0])
    for folder, own in ((out, allowed), (partial, {*FILES, *WORK_FILES})):
        strange = (
            sorted(p.name for p in folder.iterdir() if p.name not in own) if folder.is_dir() else []
        )
        if strange:
            raise fault(
                f"an empty or new folder at {folder}",
                f"{short_list(strange)} in it",
                "choose another folder, or empty it",
            )


@contextmanager
def _locked(partial: Path):
    """Own `partial`, made if needed: a second process that prepares the same dataset waits here for
    the first.
    """
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


def _publish(partial: Path, out: Path) -> None:
    """Turn the whole `partial` into `out`: by one renaming, or file by file when the raw folder
    lies in `out`.
    """
    for name in WORK_FILES:
        (partial / name).unlink(missing_ok=True)
    if out.is_dir() and any(out.iterdir()):
        if (
            out / "card.json"
        ).is_file():  # the old one, never taken for whole from here on until the new one is there
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
