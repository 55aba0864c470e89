"""MIMIC-CXR reports: 227,835 text files, in folders or in their zip archive."""

import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pandas as pd

from data_prep import fault
from data_prep.datasets.mimic_layout import Layout, official
from data_prep.reading.raw import Table, progress_bar, short_list
from data_prep.reports.sections import decode, sections

ARCHIVE = "mimic-cxr-reports.zip"
MAX_REPORT_BYTES = 1_000_000
NONE = "no report file"
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    lzma.LZMAError,
)  # what reading a damaged member may raise
PLACES = 4  # names that one report may have


def add_reports(table: Table, raw: Path, where: str, layout: Layout) -> None:
    """Fill findings and impression; studies without either, or without a report, are rejected.

    `where`: the setting `reports`. Raises DataError when not one report is found.
    """
    read_report = reader(raw, where)
    patient, study = table.rows["patient_id"].astype(str), table.rows["study_id"].astype(str)
    places = [
        official(patient, study) + ".txt"
    ]  # the release's own names, then those beside the images
    folder = layout.folder(patient, study)
    places += [folder + ".txt", folder + "/s" + study + ".txt", folder + "/" + study + ".txt"]
    found, reasons, foreign = [], [], []
    for paths in progress_bar(
        list(zip(*places, strict=True)), desc="reports", unit="report", leave=False, disable=None
    ):
        parts, reason = {"findings": "", "impression": ""}, ""
        try:
            data = read_report(paths)
            if len(data) > MAX_REPORT_BYTES:
                raise ValueError(f"more than {MAX_REPORT_BYTES:,} bytes")
            text, is_utf8 = decode(data)
            parts = sections(text)
            reason = (
                ""
                if any(parts.values())
                else ("no findings or impression" if text.strip() else "empty report")
            )
            foreign += [paths[0]] * (not is_utf8)
        except FileNotFoundError:
            reason = NONE
        except (OSError, ValueError, RuntimeError, NotImplementedError, *DAMAGE) as problem:
            reason = f"report cannot be read: {problem}"
        found.append(parts)
        reasons.append(reason)
    if found and all(reason == NONE for reason in reasons):
        raise fault(
            f"reports as files/p10/p10000032/s50414267.txt or {ARCHIVE}",
            f"none in or beside {where or raw}",
            f"download {ARCHIVE} (of MIMIC-CXR, not -JPG), or name it: --set reports=PATH",
        )
    if foreign:
        table.notes.append(
            f"{len(foreign)} reports are not UTF-8 and were read as Windows-1252 or Latin-1: "
            f"{short_list(foreign)}"
        )
    table.rows = table.rows.assign(
        findings=[p["findings"] for p in found], impression=[p["impression"] for p in found]
    )
    reason = pd.Series(reasons, index=table.rows.index, dtype=object)
    table.drop(reason != "", "report has findings or impression", reason)


def reader(raw: Path, where: str) -> Callable[[tuple[str, ...]], bytes]:
    """A function from possible names, best first, to bytes, that looks through every place where
    reports usually lie.

    Raises FileNotFoundError when there is none. Names come from ids that are numbers, so none can
    climb out; members of the archive are looked up by these names and never unpacked.
    """
    given = Path(where).expanduser()
    if where and not given.exists():
        raise fault(
            "the folder or zip of the reports", f"nothing at {given}", "correct --set reports=PATH"
        )
    homes = (
        [given, given.parent]
        if where
        else [raw, raw / "mimic-cxr-reports", raw.parent / "mimic-cxr-reports"]
    )
    archives = (
        [given]
        if where and given.is_file()
        else [p / ARCHIVE for p in (raw, raw.parent) if not where]
    )
    opened = [_open(path) for path in archives if path.is_file()]

    # Where the last one was, the next one is most often: on a network disk every look at another
    # place costs time.
    places = [(home, kind) for home in [*homes, *opened] for kind in range(PLACES)]

    def read_report(names: tuple[str, ...]) -> bytes:
        for home, kind in places:
            data = (
                _from_zip(*home, names[kind])
                if isinstance(home, tuple)
                else _from_folder(home, names[kind])
            )
            if data is not None:
                places.remove((home, kind))
                places.insert(0, (home, kind))
                return data
        raise FileNotFoundError(names[0])

    return read_report


def _from_folder(home: Path, name: str) -> bytes | None:
    try:
        with open(home / name, "rb") as file:
            return file.read(MAX_REPORT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _from_zip(archive: zipfile.ZipFile, prefix: str, name: str) -> bytes | None:
    if prefix + name not in archive.NameToInfo:
        return None
    with archive.open(prefix + name) as file:
        return file.read(MAX_REPORT_BYTES + 1)


def _open(path: Path) -> tuple[zipfile.ZipFile, str]:
    """(the archive, what stands before `files/` in the names of its members)"""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as problem:
        raise fault(f"a zip archive at {path}", f"{problem}", "download it again") from None
    for name in archive.namelist():
        parts = PurePosixPath(name).parts
        if "files" in parts[:-1] and parts[0] != "/" and ".." not in parts:
            return archive, "".join(f"{part}/" for part in parts[: parts.index("files")])
    return archive, ""
