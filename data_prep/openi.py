"""Open-I (Indiana University chest radiographs): XML reports, packed or unpacked, with PNG images where they are."""

import hashlib
import os
import re
import tarfile
import xml.etree.ElementTree
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from medxvl.reports import clean, decode

from . import fault
from .raw import CHEXPERT_14, Table, short_list

NEEDS = "Open-I: NLMCXR_reports.tgz as downloaded, or ecgen-radiology/*.xml unpacked; PNG images beside it are optional"
MARKS = (("*reports*.tgz",), ("ecgen-radiology",), ("*.xml",))
TABLES = ("*reports*.tgz", "ecgen-radiology/*.xml", "*.xml")
SETTINGS: dict = {}
MAX_XML_BYTES = 5_000_000


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row an image; one row a report, text only, when there is no PNG file below `raw`.

    A report stands for a patient (the collection names none). The split is drawn from the report's id alone, by its
    SHA-256: 70 % train, 10 % valid, 20 % test, whatever else is there (our choice; none is prescribed).
    """
    records, rejects, foreign, count = [], [], [], 0
    for name, data in _reports(raw):
        count += 1
        try:
            if isinstance(data, str):
                raise ValueError(data)
            record, is_utf8 = parse(data)
            records.append(record | {"_record": name})
            foreign += [name] * (not is_utf8)
        except ValueError as problem:
            rejects.append((name, str(problem)))
    if not count:
        raise fault("reports as *.xml files", f"none in {raw}", "download NLMCXR_reports.tgz again")

    columns = ["study_id", "findings", "impression", "_images", "_record"]
    rows = pd.DataFrame(sorted(records, key=lambda r: r["_record"]), columns=columns)
    table = Table(rows, raw_version=f"{count:,} reports", absent_is_fault=False, rejects=rejects)
    table.faults = [reason for _, reason in rejects]
    table.attrition = [
        {"step": "report files", "rows": count, "dropped": 0, "why": ""},
        {
            "step": "well-formed report",
            "rows": len(rows),
            "dropped": len(rejects),
            "why": short_list(sorted({reason for _, reason in rejects}), 3),
        },
    ]
    if foreign:
        table.notes.append(f"{len(foreign)} reports are not UTF-8 and were read as Latin-1: {short_list(foreign)}")
    table.drop_repeated("study_id")
    empty = (table.rows["findings"] == "") & (table.rows["impression"] == "")
    # Published without text on purpose: a property of the collection, not a fault of the files.
    table.drop(empty, "report has findings or impression", "no findings or impression", is_fault=False)
    table.rows = table.rows.assign(
        patient_id=table.rows["study_id"],
        split=table.rows["study_id"].map(split_of),
        view="",
        **dict.fromkeys(CHEXPERT_14, pd.NA),
    )
    _add_images(table, raw)
    table.keep_first(limit)
    return table


def split_of(study_id: str) -> str:
    """train, valid or test, from the id alone."""
    percent = int.from_bytes(hashlib.sha256(study_id.encode()).digest()[:8], "big") % 100
    return "train" if percent < 70 else "valid" if percent < 80 else "test"


def parse(data: bytes) -> tuple[dict, bool]:
    """(study_id, findings, impression, _images of one XML report; whether its encoding was as declared).

    Raises ValueError, with the reason, for what is no such report; entities and document types are refused.
    """
    as_declared = True
    try:
        try:
            tree = fromstring(data, forbid_dtd=True)
        except xml.etree.ElementTree.ParseError:
            text, is_utf8 = decode(data)
            if is_utf8:
                raise
            tree, as_declared = fromstring(text, forbid_dtd=True), False
    except DefusedXmlException:
        raise ValueError("XML with a document type or entities is not read") from None
    except xml.etree.ElementTree.ParseError as problem:
        raise ValueError(f"not well-formed XML: {problem}") from None
    uid = tree.find("uId")
    if uid is None or not (uid.get("id") or "").strip():
        raise ValueError("no report id (uId)")
    text = {"FINDINGS": "", "IMPRESSION": ""}
    for part in tree.iter("AbstractText"):
        label = (part.get("Label") or "").strip().upper()
        if label in text:
            text[label] = clean(text[label] + " " + "".join(part.itertext()))
    return {
        "study_id": uid.get("id").strip(),
        "findings": _or_empty(text["FINDINGS"]),
        "impression": _or_empty(text["IMPRESSION"]),
        "_images": [i.get("id").strip() for i in tree.iter("parentImage") if i.get("id")],
    }, as_declared


def _or_empty(text: str) -> str:
    """ "" when nothing but the collection's blanks XXXX is left; blanks inside a text stay."""
    return text if re.search(r"[A-Za-z]", re.sub(r"X{4,}", "", text)) else ""


def _reports(raw: Path) -> Iterator[tuple[str, bytes | str]]:
    """(name, bytes) of every report, or (name, why it is refused). Nothing of an archive is ever written to disk."""
    archives = [raw] if raw.is_file() else sorted(raw.glob("*reports*.tgz"))
    folder = raw / "ecgen-radiology" if (raw / "ecgen-radiology").is_dir() else raw
    loose = [] if raw.is_file() else sorted(folder.glob("*.xml"))
    if loose or not archives:
        for path in loose:
            try:
                yield path.relative_to(raw).as_posix(), _checked(path)
            except OSError as problem:
                yield path.relative_to(raw).as_posix(), f"cannot be read: {problem.strerror}"
        return
    try:
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    yield member.name, "archive member climbs out of its folder"
                elif member.issym() or member.islnk():
                    yield member.name, "archive member is a link"
                elif member.isdir():
                    continue
                elif not member.isfile() or path.suffix.lower() != ".xml":
                    yield member.name, "not an XML file"
                elif member.size > MAX_XML_BYTES:
                    yield member.name, f"file of {member.size:,} bytes: too large for a report"
                else:
                    yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as problem:
        raise fault(
            f"a whole archive at {archives[0]}", f"{type(problem).__name__}: {problem}", "download it again"
        ) from None


def _checked(path: Path) -> bytes | str:
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "path leaves the raw folder through a symbolic link"
    if path.stat().st_size > MAX_XML_BYTES:
        return f"file of {path.stat().st_size:,} bytes: too large for a report"
    return path.read_bytes()


def _add_images(table: Table, raw: Path) -> None:
    """Turn report rows into image rows when there is any PNG file; absent files are rejected when they are decoded."""
    files = {}
    for place, _, names in [] if raw.is_file() else os.walk(raw):
        files |= {
            Path(n).stem: (Path(place) / n).relative_to(raw).as_posix()
            for n in sorted(names)
            if n.lower().endswith(".png")
        }
    rows = table.rows.assign(image_id="")
    if files:
        table.drop(rows["_images"].str.len() == 0, "report names an image", "report names no image", is_fault=False)
        rows = table.rows.explode("_images", ignore_index=True).rename(columns={"_images": "image_id"})
        rows["_image"] = [files.get(i, f"{i}.png") for i in rows["image_id"]]
        rows["_record"] = rows["_record"] + " " + rows["image_id"]
        unlisted = sorted(set(files) - set(rows["image_id"]))
        table.rejects += [(files[i], "image of no report that is used") for i in unlisted]
        table.attrition.append(
            {
                "step": "images of these reports",
                "rows": len(rows),
                "dropped": 0,
                "why": f"{len(unlisted):,} image files belong to no report that is used" if unlisted else "",
            }
        )
    else:
        packed = any(raw.glob("*png*.tgz"))
        pictures = "the archive of images is there: unpack it to use them" if packed else "no PNG file is there"
        table.notes.append(f"text only: {pictures}")
    table.rows = rows.drop(columns="_images", errors="ignore")
