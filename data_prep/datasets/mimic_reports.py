"""MIMIC-CXR reports: 227,835 text files, in folders or in their zip archive."""

import lzma
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import pandas as pd

from data_prep import fault
from data_prep.datasets.mimic_layout import Layout
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
NAMES = 4  # that one report may have


def add_reports(table: Table, raw: Path, where: str, layout: Layout) -> None:
    """Fill findings and impression; studies without either, or without a report, are rejected.

    `where`: the setting `reports`. Raises DataError when not one report is found.
    """
    places = [(home, kind) for home in _homes(raw, where) for kind in range(NAMES)]
    patient, study = table.rows["patient_id"].astype(str), table.rows["study_id"].astype(str)
    # The release's own name, then those beside the images.
    names = [Layout().folder(patient, study) + ".txt"]
    folder = layout.folder(patient, study)
    names += [folder + ".txt", folder + "/s" + study + ".txt", folder + "/" + study + ".txt"]
    found, reasons, foreign = [], [], []
    for paths in progress_bar(
        list(zip(*names, strict=True)), desc="reports", unit="report", leave=False, disable=None
    ):
        parts, reason = {"findings": "", "impression": ""}, ""
        try:
            data = _read(places, paths)
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


def _homes(raw: Path, where: str) -> list[Path | zipfile.Path]:
    """The folders and opened archives where reports usually lie; `where`: as in add_reports."""
    if not where:
        homes = [raw, raw / "mimic-cxr-reports", raw.parent / "mimic-cxr-reports"]
        archives = [raw / ARCHIVE, raw.parent / ARCHIVE]
    else:
        given = Path(where).expanduser()
        if not given.exists():
            found = f"nothing at {given}"
            raise fault("the folder or zip of the reports", found, "correct --set reports=PATH")
        homes, archives = [given, given.parent], [given]
    for path in archives:
        if not path.is_file():
            continue
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as problem:
            raise fault(f"a zip archive at {path}", f"{problem}", "download it again") from None
        above = ""  # the folder of the archive that holds the folder `files`
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            if "files" in parts[:-1] and parts[0] != "/" and ".." not in parts:
                above = "".join(f"{part}/" for part in parts[: parts.index("files")])
                break
        homes.append(zipfile.Path(archive, above))
    return homes


def _read(places: list[tuple[Path | zipfile.Path, int]], names: tuple[str, ...]) -> bytes:
    """The report that is called names[kind] in a home, for the first of `places` (home, kind) that
    has one; this place comes first from then on.

    Raises FileNotFoundError when there is none. Names come from ids that are numbers, so none can
    climb out; members of the archive are looked up by these names and never unpacked.
    """
    for k, (home, kind) in enumerate(places):
        try:
            with (home / names[kind]).open("rb") as file:
                data = file.read(MAX_REPORT_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        places.insert(0, places.pop(k))  # on a network disk every look elsewhere costs time
        return data
    raise FileNotFoundError(names[0])
