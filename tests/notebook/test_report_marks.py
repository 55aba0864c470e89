"""Reports with what they say marked: nothing of the text is lost, differences are told."""

import html
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from look_data import table

from medxvl.notebook import data_tables, report_marks

TEXT = (
    "There is edema. No pneumothorax. A fracture cannot be excluded. Enlarged cardiac silhouette."
)


def test_marks_say_what_is_said():
    found = re.findall(r"<mark[^>]*>(.*?)<sub[^>]*> (.*?)</sub>", report_marks.marked(TEXT))
    assert [said for _, said in found][:3] == [
        "Edema +",
        "Pneumothorax \N{MINUS SIGN}",
        "Fracture ?",
    ]
    assert all(words in TEXT for words, _ in found)


def test_marked_text_is_escaped():
    found = report_marks.marked("<script>alert('edema')</script> & \"no fracture\"")
    assert (
        "<script" not in found
        and "&lt;script&gt;" in found
        and "&amp;" in found
        and "<mark" in found
    )


words = st.sampled_from(
    [
        "edema",
        "no",
        "<b>",
        "&",
        "$x$",
        "enlarged",
        "heart",
        ".",
        "\n",
        "é",
        "İ",
        "possible",
        "cardiomediastinal silhouette",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(words, max_size=25).map(" ".join) | st.text(max_size=80))
def test_nothing_of_the_text_is_lost(text):
    """Without its marks, the page has the very text again; marks do not overlap."""
    bare = re.sub(r"<sub.*?</sub>|</?mark[^>]*>", "", report_marks.marked(text))
    assert html.unescape(bare) == html.unescape(html.escape(text))
    ends = [0] + [edge for start, end, _ in report_marks.spans(text) for edge in (start, end)]
    assert ends == sorted(ends) and ends[-1] <= len(text)


def test_differences_are_told(tmp_path):
    made = table(tmp_path, [{"report": "There is edema.", "Edema": 0, "Fracture": ""}])
    found = report_marks.studies(made, [0])
    assert (
        "Labels in the dataset: Edema negative. Other than the marks: Edema (here positive)."
        in found
    )
    found = report_marks.agreement(made)
    assert (
        found.loc["Edema"].tolist() == [0, 1, 0, 0.0]
        and found.loc["Fracture", "% same value"] == 100
    )


def test_labels_of_other_findings(tmp_path):
    rows = [
        {"image": "a.png", "report": "Stone.", "Stone": 1},
        {"image": "b.png", "report": "No stone.", "Stone": ""},
    ]
    made = table(tmp_path, rows, label_columns="Stone")
    assert "Labels in the dataset: Stone positive. None is of the 14" in report_marks.studies(
        made, [0]
    )
    assert (
        "no labels for this study" in report_marks.studies(made, [1])
        and report_marks.agreement(made) is None
    )
    assert data_tables.unlabelled(made) == "without any value: the 14 CheXpert columns"
    assert (
        data_tables.examples(made, np.arange(2)) == {"Stone": 0}
        and data_tables.examples(made, np.arange(0)) == {}
    )
    assert data_tables.examples(made, np.array([1])) == {"b.png": 1}, "no positive: some images"
