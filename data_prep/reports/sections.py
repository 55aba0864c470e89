"""Report text: bytes to text, free text to its FINDINGS and IMPRESSION."""

import re
from difflib import SequenceMatcher
from functools import lru_cache

# Headings that stand for the impression beside its own name, which is matched with its
# misspellings.
_IMPRESSION_TOO = {
    "conclusion",
    "conclusions",
    "opinion",
    "summary",
    "interpretation",
    "assessment",
}
_FILLERS = {
    "and",
    "the",
    "final",
    "chest",
    "radiographic",
    "radiological",
    "recommendation",
    "recommendations",
}
# Headings of the other sections begin with one of these.
_OTHER = (
    "exam",
    "study",
    "procedure",
    "indication",
    "reason for",
    "history",
    "clinical",
    "technique",
    "comparison",
    "view",
    "wet read",
    "preliminary",
    "addendum",
    "recommendation",
    "notification",
    "final report",
    "reference",
    "dose",
    "contrast",
    "diagnosis",
    "date",
    "patient",
    "referring",
    "dictated",
    "signed",
    "electronically signed",
    "attending",
    "radiologist",
)
_HEADED = re.compile(r"[\s*#]*([A-Za-z][A-Za-z /&,()'-]{1,58}?)[\s*]*:[\s*]*(.*)", re.S)
_DASHED = re.compile(r"[\s*#]*([A-Z][A-Z /&]{3,40}?)\s+[-–—]+\s+(.*)", re.S)
_ALONE = re.compile(r"[\s*#]*([A-Za-z][A-Za-z /&]{1,40}?)[\s*:.–—-]*$")
# Reports on one line: a heading in capitals that stands inside the line gets a line of its own.
_INLINE = re.compile(
    r"(?<=[^A-Z\s#*])[ "
    r"\t]+(?=(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|COMPARISONS?|INDICATIONS?|TECHNIQUE|HISTORY|"
    r"EXAMINATION|RECOMMENDATIONS?|NOTIFICATION)(?:(?: AND | ?/ ?| ?& ?)[A-Z]+)?\s*:)"
)
ENCODINGS = (
    "utf-8-sig",
    "cp1252",
    "latin-1",
)  # tried in this order: Windows writes ’ and “ where Latin-1 has controls
_SIGNED = re.compile(r"\s*(dictated|electronically|signed|attending|reviewed|transcribed)\b", re.I)


def decode(data: bytes) -> tuple[str, bool]:
    """(text, whether it was UTF-8). Else it is read as Windows-1252, or Latin-1; ValueError when it
    is no text at all.
    """
    if b"\0" in data:
        raise ValueError("report is not text (it holds zero bytes)")
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding), encoding == ENCODINGS[0]
        except UnicodeDecodeError:  # never of Latin-1
            continue


def clean(text: str) -> str:
    """One line: de-identification blanks `___` removed, white space collapsed; "" when no letter is
    left.
    """
    text = re.sub(r"_{2,}|[\x00-\x1f\x7f-\x9f]", " ", text)
    text = re.sub(r"\s+([.,;:?!])", r"\1", re.sub(r"\s+", " ", text)).strip(" -:;,*")
    return text if re.search(r"[A-Za-z]", text) else ""


def sections(text: str) -> dict[str, str]:
    """FINDINGS and IMPRESSION of a free-text radiology report, each on one line, "" when absent.

    Headings are recognised at the start of a line, with a colon, a dash or alone on it; in capitals
    also inside a line. A joint section ("FINDINGS AND IMPRESSION") and the last paragraph of a
    report without either heading count as impression, because the papers' models read that one.
    Addenda and preliminary readings are left out. Repeated sections are joined.
    """
    text = _INLINE.sub("\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    found: dict[str, list[str]] = {"findings": [], "impression": []}
    headed, kind = False, "other"
    for line in text.split("\n"):
        new, rest = _heading(line)
        if new is None or (
            new == "unknown" and kind in found
        ):  # "LUNGS: clear" inside FINDINGS is content
            rest = line
        else:
            kind = new
            headed = headed or new in found
        if kind in found:
            found[kind].append(rest)
    if not headed:
        found["impression"] = [_last_paragraph(text)]
    return {name: clean("\n".join(lines)) for name, lines in found.items()}


def _heading(line: str) -> tuple[str | None, str]:
    """(findings | impression | other | unknown, rest of the line), or (None, "") when the line has
    no heading.
    """
    match = _HEADED.match(line)
    if match:
        kind = _kind(match[1])
        return (kind, match[2]) if kind else (None, "")
    match = _DASHED.match(line)
    if match and _kind(match[1]) in ("findings", "impression"):
        return _kind(match[1]), match[2]
    match = _ALONE.match(line)
    if match and (
        _kind(match[1]) in ("findings", "impression")
        or (match[1].isupper() and _kind(match[1]) == "other")
    ):
        return _kind(match[1]), ""
    return None, ""


@lru_cache(maxsize=4096)
def _kind(heading: str) -> str | None:
    name = " ".join(re.findall(r"[a-z]+", heading.lower()))
    words = name.split()
    capitals = heading.upper() == heading
    findings = any(_close(w, "findings") for w in words)
    impression = any(_close(w, "impression") for w in words)
    plain = all(w in _FILLERS or _close(w, "findings") or _close(w, "impression") for w in words)
    if (findings or impression) and len(words) <= 4 and (capitals or plain):
        return "impression" if impression else "findings"
    if name in _IMPRESSION_TOO:
        return "impression"
    if name.startswith(_OTHER) and (capitals or len(words) <= 3):
        return "other"
    return "unknown" if capitals else None


@lru_cache(maxsize=4096)
def _close(word: str, target: str) -> bool:
    """True for the word itself, its singular or plural and slips of the pen; "compression" stays
    out at 0.86.
    """
    return abs(len(word) - len(target)) <= 2 and SequenceMatcher(None, word, target).ratio() > 0.865


def _last_paragraph(text: str) -> str:
    """Last paragraph that is neither headed as another section nor a signature."""
    for paragraph in reversed(re.split(r"\n\s*\n", text)):
        lines = [line for line in paragraph.split("\n") if clean(line)]
        while lines and _heading(lines[0]) == ("other", ""):
            lines.pop(0)
        if not lines or _SIGNED.match(lines[0]):
            continue
        kind, rest = _heading(lines[0])
        if kind == "unknown":
            lines[0] = rest
        if kind != "other" and clean("\n".join(lines)):
            return "\n".join(lines)
    return ""
