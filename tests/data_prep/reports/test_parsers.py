"""Properties of the report text parsers, on any text."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.reports.sections import clean, decode, sections

HEADINGS = [
    "FINDINGS:",
    "IMPRESSION:",
    "Impression",
    "COMPARISON:",
    "FINAL REPORT",
    "ADDENDUM:",
    "HISTORY:",
    "LUNGS:",
    "___",
]
PIECES = st.sampled_from(
    [
        *HEADINGS,
        "No effusion.",
        "Edema",
        "1.",
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "-",
        ":",
        "*",
        "\x00",
        "İ",
    ]
)
reports = (
    st.text()
    | st.lists(PIECES, max_size=30).map(" ".join)
    | st.lists(PIECES, max_size=30).map("".join)
)
prose = st.text(st.sampled_from("abc ")).map(lambda s: f"aa{s.strip()}z.")


@settings(max_examples=300, deadline=None)
@given(reports)
@example("a_ _.")
@example("- : ; a - ;")
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text)
    assert clean(once) == once
    assert "\n" not in once and "__" not in once and "  " not in once
    assert once == "" or any(c.isascii() and c.isalpha() for c in once)


@settings(max_examples=300, deadline=None)
@given(reports)
def test_sections_of_any_text(text):
    found = sections(text)
    assert list(found) == ["findings", "impression"]
    for part in found.values():
        assert clean(part) == part
    letters = [c for c in text if c.isalpha()]
    assert all(
        part.count(c) <= letters.count(c) for part in found.values() for c in part if c.isalpha()
    )  # nothing added


@settings(max_examples=100, deadline=None)
@given(prose, prose, st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n   "]))
def test_headed_sections_come_back(findings, impression, line):
    text = line.join(
        ["FINAL REPORT", "COMPARISON: none.", f"FINDINGS: {findings}", f"IMPRESSION: {impression}"]
    )
    assert sections(text) == {"findings": clean(findings), "impression": clean(impression)}


@settings(max_examples=100, deadline=None)
@given(reports)
def test_sections_do_not_depend_on_the_line_end(text):
    text = text.replace("\r", "")
    assert sections(text) == sections(text.replace("\n", "\r\n"))


@given(st.binary())
def test_bytes_become_text_or_are_refused(data):
    try:
        text, utf8 = decode(data)
    except ValueError:
        assert b"\0" in data
        return
    assert b"\0" not in data
    assert len(text) <= len(data)
    assert utf8 or text in (data.decode("cp1252", "replace"), data.decode("latin-1"))


def test_windows_letters():
    assert decode("Can’t exclude “pneumonia”".encode("cp1252")) == (
        "Can’t exclude “pneumonia”",
        False,
    )
    assert decode(b"\x81 \xfc") == ("\x81 ü", False)  # 81 is no letter of Windows-1252


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_text_survives_its_encoding(text):
    assert decode(text.encode("utf-8-sig")) == (text, True)
