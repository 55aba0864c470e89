"""What notebooks 01 and 02 show of prepared data: only what may be shown, and its tables."""

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import covid_tree
from look_data import PATHOLOGY, hospital, table

from data_prep.prepared import preparation
from medxvl.data import dataset
from medxvl.notebook import data_tables, report_marks
from medxvl.plots import data

pytestmark = pytest.mark.usefixtures("closed_figures")


def test_only_open_data_may_be_shown(tmp_path):
    closed = hospital(tmp_path, max_reject_share="1")
    assert not data_tables.may_show(closed).any() and data_tables.may_show(closed, "all").all()
    tree = covid_tree(tmp_path / "covid")
    meta = pd.read_csv(tree / "metadata.csv").assign(
        license=["CC0", "CC BY-NC", "", "Copyright 2020, ask"]
    )
    meta.to_csv(tree / "metadata.csv", index=False)
    covid = dataset.Dataset(
        preparation.prepare("covid_cxr", tree, tmp_path / "covid out", size=32, progress=False)
    )
    assert (
        data_tables.may_show(covid).tolist() == [True, True, False, False]
        and not data_tables.may_show(covid, "none").any()
    )
    shown = data_tables.overview({"main": closed, "unseen_disease": covid})[
        "shown as picture and text"
    ].tolist()
    assert shown == ["0 (not known to be open)", "2 (by each image's licence)"]


@pytest.mark.parametrize(
    "words, left",
    [
        (
            "label Edema is 'Mrs. Smith', expected 1, 0, -1 or empty",
            "label Edema is '___', expected 1, 0, -1 or empty",
        ),
        ('is "O\'Neil" here', "is '___' here"),
        ("split is 'it's me', expected", "split is '___', expected"),
        ("lacks 2 of 500 studies: patient64741/study1, b", "lacks 2 of 500 studies: ___, b"),
        (
            "3 patients in more than one split: Smith, Jones, Po",
            "3 patients in more than one split",
        ),
        ("files/p10/p10000032/s50414267 twice", "___ twice"),
        ("3f9e8072-978a5cfa-8794080d.jpg", "___"),
        (
            "none of PNG, JPEG2000, DICOM (begins with b'Smith, J')",
            "none of PNG, JPEG2000, DICOM (begins with '___')",
        ),
        ("not selected: view PA: 1,234", "not selected: view PA: 1,234"),
        (
            "CheXpert columns from NIH's 14: not the radiologist's",
            "CheXpert columns from NIH's 14: not the radiologist's",
        ),
    ],
)
def test_masked(words, left):
    assert data_tables.masked(words) == left


def test_the_card_of_closed_data_is_masked(tmp_path):
    made = hospital(tmp_path, max_reject_share="1")
    assert (
        "trian-Quandary" in json.dumps(made.card)
        and "trian-Quandary" in made.rejects["reason"].iloc[0]
    )
    told = json.dumps([data_tables.card(made)["attrition"], data_tables.card(made)["notes"]])
    assert "Quandary" not in told + data_tables.rejects_by_reason(made).to_string()
    assert (
        "Quandary" in data_tables.rejects_by_reason(made, "all").to_string()
        and data_tables.card(made, "all") == made.card
    )


def test_rejects_by_reason(tmp_path):
    made = table(tmp_path, [{"report": "No edema."}])
    reasons = (
        ["not selected: view PA"] * 3 + ["file not in t.csv"] + [f"odd {k}" for k in range(40)]
    )
    made.__dict__["rejects"] = pd.DataFrame({"record": "x", "reason": reasons})
    found = data_tables.rejects_by_reason(made, "all", most=5)
    assert (
        found["records"].sum() == 44
        and len(found) == 6
        and "39 other" not in found["reason"].iloc[0]
    )
    assert found.iloc[0].tolist() == ["selection", "not selected: view PA", 3]
    assert found.iloc[1]["kind"] == "unlisted file" and found.iloc[2]["kind"] == "fault"
    assert found.iloc[5]["reason"] == "37 other reasons: see rejects.csv"


def test_attrition_shows_gains_only_where_there_are_any():
    steps = [{"step": "reports", "rows": 3, "dropped": 0, "why": ""}]
    assert list(data_tables.attrition({"attrition": steps})) == ["step", "rows", "dropped", "why"]
    steps.append({"step": "images", "rows": 5, "dropped": 0, "gained": 2, "why": "two a report"})
    assert data_tables.attrition({"attrition": steps})["gained"].tolist() == [0, 2]
    fig = data.attrition({"attrition": steps, "label": "x"})
    assert any("+2: two a report" in t.get_text() for t in fig.findobj(matplotlib.text.Text))


@pytest.mark.parametrize(
    "change, told, compared",
    [
        ({"images": 9}, "comparable, if the files are the whole release", True),
        ({}, "text only here", True),
        ({"synthetic": True}, "synthetic phantom", False),
        ({"limit": 500}, "only the first 500 records", True),
        ({"settings": {"views": "AP,PA"}}, "other settings than the paper's (views=AP,PA)", True),
    ],
)
def test_expected_counts(tmp_path, change, told, compared):
    made = table(tmp_path, [{"report": "No edema."}])
    assert data_tables.expected(made) == (None, "table: no published counts are known for table.")
    counts = [{"what": "studies", "expected": 91685, "found": 91680, "source": "paper"},
              {"what": "test", "expected": 1531, "found": None, "source": "paper"}]  # fmt: skip
    made.card |= {"name": "mimic_cxr", "expected": counts, "settings": {"views": "AP"}} | change
    found, sentence = data_tables.expected(made)
    assert told in sentence and found["published"].tolist() == [91685, 1531]
    assert ("difference" in found) == compared and (
        not compared or found["difference"].iloc[0] == -5
    )


def test_the_most_telling_studies_come_first(tmp_path):
    reports = [
        "Hello.",
        "FINDINGS: No edema. Possible fracture.\nIMPRESSION: Pneumonia.",
        "No edema.",
    ]
    made = table(tmp_path, [{"report": text} for text in reports])
    assert (
        data_tables.telling_studies(made, np.arange(3)) == [1, 2, 0]
        and data_tables.telling_studies(made, np.arange(0)) == []
    )
    heading, texts = data_tables.study_texts(made, 1)
    assert (
        texts == {"findings": "No edema. Possible fracture.", "impression": "Pneumonia."}
        and "split" in heading
    )


def test_labels_stand_in_for_a_report(tmp_path):
    rows = [{"image": f"{k}.png"} | PATHOLOGY | {"Pneumonia": k} for k in range(2)]
    made = table(tmp_path, rows)
    _, texts = data_tables.study_texts(made, 1)
    assert texts == {
        "labels (there is no report)": "Edema: positive; Pneumonia: positive; Fracture: uncertain"
    } or set(texts["labels (there is no report)"].split("; ")) == {
        "Edema: positive",
        "Pneumonia: positive",
        "Fracture: uncertain",
    }
    assert data_tables.examples(made, np.arange(2)) == {"Edema": 0, "Pneumonia": 1}
    assert report_marks.agreement(made) is None and "No Finding" in data_tables.unlabelled(made)


def test_views_and_shares_and_lengths(tmp_path):
    rows = [
        {
            "report": "edema " * (k + 1),
            "split": ["train", "test"][k % 2],
            "v": f"v{k}",
            "Edema": k % 2,
        }
        for k in range(20)
    ]
    made = table(tmp_path, rows, view_column="v")
    found = data_tables.views(made, most=3)
    assert (
        len(found) == 5
        and found.loc["all"].tolist() == [10, 10, 20]
        and found.loc["other", "all"] == 17
    )
    assert data_tables.shares(made).loc["Edema"].tolist() == [0.0, 100.0]
    found = data_tables.lengths(made, limit=10)
    assert found.loc["train"].tolist() == [10, 10.0, 19, 50.0] and list(found.index) == [
        "train",
        "test",
    ]
