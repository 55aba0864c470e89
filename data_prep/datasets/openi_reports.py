"""Reports of Open-I: XML files, their tar archive, or the CSV table of the Indiana collection."""

import re
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from data_prep.reading.archives import opened, unusable
from data_prep.reading.raw import given_text, read_csv
from data_prep.reports.sections import clean, decode

REPORTS_CSV = "indiana_reports.csv"
ARCHIVES = ("*reports*.tgz", "*reports*.tar.gz", "*reports*.tar")
MAX_XML_BYTES = 5_000_000


def read_reports(raw: Path) -> Iterator[tuple[str, dict | None, str, bool]]:
    """(name, report, why it is refused, whether its encoding was as declared) of every report there
    is.

    A report has study_id, findings, impression, mesh and `_images` (ids; None where the table of
    reports names none). XML files come before their archive, both before the table; nothing of an
    archive is ever written to disk.
    """
    files = _files(raw)
    if files is None:
        yield from _rows_of_csv(raw if raw.is_file() else raw / REPORTS_CSV)
        return
    for name, data in files:
        try:
            if isinstance(data, str):
                raise ValueError(data)
            report, as_declared = parse(data)
            yield name, report, "", as_declared
        except ValueError as problem:
            yield name, None, str(problem), True


def parse(data: bytes) -> tuple[dict, bool]:
    """(study_id, findings, impression, mesh, _images of one XML report; whether its encoding was as
    declared).

    Raises ValueError, with the reason, for what is no such report; entities and document types are
    refused.
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
    except (
        LookupError,
        ValueError,
    ) as problem:  # an encoding that does not exist, or that the bytes are not in
        raise ValueError(f"not well-formed XML: {problem}") from None
    uid = tree.find("uId")
    if uid is None or not (uid.get("id") or "").strip():
        raise ValueError("no report id (uId)")
    text = {"FINDINGS": "", "IMPRESSION": ""}
    for part in tree.iter("AbstractText"):
        label = (part.get("Label") or "").strip().upper()
        if label in text:
            text[label] = clean(text[label] + " " + "".join(part.itertext()))
    mesh = [(part.text or "").strip() for part in tree.iterfind("MeSH/*")]
    return {
        "study_id": study(uid.get("id").strip()),
        "findings": _or_empty(text["FINDINGS"]),
        "impression": _or_empty(text["IMPRESSION"]),
        "mesh": ";".join(m for m in mesh if m),
        "_images": [image(i.get("id").strip()) for i in tree.iter("parentImage") if i.get("id")],
    }, as_declared


def study(uid: str) -> str:
    """The table of reports writes 12 for CXR12."""
    return f"CXR{uid}" if uid.isdigit() else uid


def image(name: str) -> str:
    """One id for one image, however its file is called: CXR1_1_IM-0001-4001,
    1_IM-0001-4001.dcm.png.
    """
    name = re.sub(r"(\.(dcm|png|jpe?g))+$", "", name.rpartition("/")[2], flags=re.I)
    name = re.sub(r"^CXR\d+_(\d+_IM-)", r"\1", name)
    return f"CXR{name}" if name[:1].isdigit() else name


def _or_empty(text: str) -> str:
    """ "" when nothing but the collection's blanks XXXX is left; blanks inside a text stay."""
    return text if re.search(r"[A-Za-z]", re.sub(r"X{4,}", "", text)) else ""


def _rows_of_csv(path: Path) -> Iterator[tuple[str, dict | None, str, bool]]:
    table = read_csv(path, ["uid", "findings", "impression"], ["MeSH"])
    for line, row in enumerate(table.to_dict("records"), 2):
        report = {
            "study_id": study(row["uid"]),
            "findings": _or_empty(clean(given_text(row["findings"]))),
            "impression": _or_empty(clean(given_text(row["impression"]))),
            "mesh": row.get("MeSH", ""),
            "_images": None,
        }
        yield (
            f"{path.name} line {line}",
            report if row["uid"] else None,
            "" if row["uid"] else "no report id (uid)",
            "encoding" not in table.attrs,
        )


def _files(raw: Path) -> Iterator[tuple[str, bytes | str]] | None:
    """(name, bytes) of every XML report, or (name, why it is refused); None when there is neither
    file nor archive.
    """
    if raw.is_file():
        return None if raw.name == REPORTS_CSV else _packed(raw)
    folder = raw / "ecgen-radiology" if (raw / "ecgen-radiology").is_dir() else raw
    loose = sorted(folder.glob("*.xml"))
    if loose:
        return _loose(raw, loose)
    archives = [path for pattern in ARCHIVES for path in sorted(raw.glob(pattern))]
    return _packed(archives[0]) if archives else None if (raw / REPORTS_CSV).is_file() else iter(())


def _loose(raw: Path, paths: list[Path]) -> Iterator[tuple[str, bytes | str]]:
    for path in paths:
        try:
            if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
                data = "path leaves the raw folder through a symbolic link"
            elif path.stat().st_size > MAX_XML_BYTES:
                data = f"file of {path.stat().st_size:,} bytes: too large for a report"
            else:
                data = path.read_bytes()
        except OSError as problem:
            data = f"cannot be read: {problem.strerror}"
        yield path.relative_to(raw).as_posix(), data


def _packed(path: Path) -> Iterator[tuple[str, bytes | str]]:
    with opened(path) as archive:
        for member in archive:
            reason = unusable(member, ".xml")
            if member.isdir() and not reason:
                continue
            if not reason and member.size > MAX_XML_BYTES:
                reason = f"file of {member.size:,} bytes: too large for a report"
            yield member.name, reason or archive.extractfile(member).read()
