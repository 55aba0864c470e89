"""What notebooks 01 and 02 show of prepared data: tables, marked reports, rejected pictures,
leakage.
"""

import html
import json
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import covid_tree, encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from look_data import PATHOLOGY, hospital, table

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

import data_prep  # noqa: E402
from medxvl import data, leakage, looks, marking, plots_data, rejected  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# --- what may be shown ----------------------------------------------------------------------------
def test_only_open_data_may_be_shown(tmp_path):
    closed = hospital(tmp_path, max_reject_share="1")
    assert not looks.may_show(closed).any() and looks.may_show(closed, "all").all()
    tree = covid_tree(tmp_path / "covid")
    meta = pd.read_csv(tree / "metadata.csv").assign(
        license=["CC0", "CC BY-NC", "", "Copyright 2020, ask"]
    )
    meta.to_csv(tree / "metadata.csv", index=False)
    covid = data.open(
        data_prep.prepare("covid_cxr", tree, tmp_path / "covid out", size=32, progress=False)
    )
    assert (
        looks.may_show(covid).tolist() == [True, True, False, False]
        and not looks.may_show(covid, "none").any()
    )
    shown = looks.overview({"main": closed, "unseen_disease": covid})[
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
    assert looks.masked(words) == left


def test_the_card_of_closed_data_is_masked(tmp_path):
    made = hospital(tmp_path, max_reject_share="1")
    assert (
        "trian-Quandary" in json.dumps(made.card)
        and "trian-Quandary" in made.rejects["reason"].iloc[0]
    )
    told = json.dumps([looks.card(made)["attrition"], looks.card(made)["notes"]])
    assert "Quandary" not in told + looks.rejects_by_reason(made).to_string()
    assert (
        "Quandary" in looks.rejects_by_reason(made, "all").to_string()
        and looks.card(made, "all") == made.card
    )


# --- tables ---------------------------------------------------------------------------------------
def test_rejects_by_reason(tmp_path):
    made = table(tmp_path, [{"report": "No edema."}])
    reasons = (
        ["not selected: view PA"] * 3 + ["file not in t.csv"] + [f"odd {k}" for k in range(40)]
    )
    made.__dict__["rejects"] = pd.DataFrame({"record": "x", "reason": reasons})
    found = looks.rejects_by_reason(made, "all", most=5)
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
    assert list(looks.attrition({"attrition": steps})) == ["step", "rows", "dropped", "why"]
    steps.append({"step": "images", "rows": 5, "dropped": 0, "gained": 2, "why": "two a report"})
    assert looks.attrition({"attrition": steps})["gained"].tolist() == [0, 2]
    fig = plots_data.attrition({"attrition": steps, "label": "x"})
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
    assert looks.expected(made) == (None, "table: no published counts are known for table.")
    counts = [{"what": "studies", "expected": 91685, "found": 91680, "source": "paper"},
              {"what": "test", "expected": 1531, "found": None, "source": "paper"}]  # fmt: skip
    made.card |= {"name": "mimic_cxr", "expected": counts, "settings": {"views": "AP"}} | change
    found, sentence = looks.expected(made)
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
        looks.telling_studies(made, np.arange(3)) == [1, 2, 0]
        and looks.telling_studies(made, np.arange(0)) == []
    )
    heading, texts = looks.study_texts(made, 1)
    assert (
        texts == {"findings": "No edema. Possible fracture.", "impression": "Pneumonia."}
        and "split" in heading
    )


def test_labels_stand_in_for_a_report(tmp_path):
    rows = [{"image": f"{k}.png"} | PATHOLOGY | {"Pneumonia": k} for k in range(2)]
    made = table(tmp_path, rows)
    _, texts = looks.study_texts(made, 1)
    assert texts == {
        "labels (there is no report)": "Edema: positive; Pneumonia: positive; Fracture: uncertain"
    } or set(texts["labels (there is no report)"].split("; ")) == {
        "Edema: positive",
        "Pneumonia: positive",
        "Fracture: uncertain",
    }
    assert looks.examples(made, np.arange(2)) == {"Edema": 0, "Pneumonia": 1}
    assert marking.agreement(made) is None and "No Finding" in looks.unlabelled(made)


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
    found = looks.views(made, most=3)
    assert (
        len(found) == 5
        and found.loc["all"].tolist() == [10, 10, 20]
        and found.loc["other", "all"] == 17
    )
    assert looks.shares(made).loc["Edema"].tolist() == [0.0, 100.0]
    found = looks.lengths(made, limit=10)
    assert found.loc["train"].tolist() == [10, 10.0, 19, 50.0] and list(found.index) == [
        "train",
        "test",
    ]


# --- marked reports -------------------------------------------------------------------------------
TEXT = (
    "There is edema. No pneumothorax. A fracture cannot be excluded. Enlarged cardiac silhouette."
)


def test_marks_say_what_is_said():
    found = re.findall(r"<mark[^>]*>(.*?)<sub[^>]*> (.*?)</sub>", marking.marked(TEXT))
    assert [said for _, said in found][:3] == [
        "Edema +",
        "Pneumothorax \N{MINUS SIGN}",
        "Fracture ?",
    ]
    assert all(words in TEXT for words, _ in found)


def test_marked_text_is_escaped():
    found = marking.marked("<script>alert('edema')</script> & \"no fracture\"")
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
    bare = re.sub(r"<sub.*?</sub>|</?mark[^>]*>", "", marking.marked(text))
    assert html.unescape(bare) == html.unescape(html.escape(text))
    ends = [0] + [edge for start, end, _ in marking.spans(text) for edge in (start, end)]
    assert ends == sorted(ends) and ends[-1] <= len(text)


def test_differences_are_told(tmp_path):
    made = table(tmp_path, [{"report": "There is edema.", "Edema": 0, "Fracture": ""}])
    found = marking.studies(made, [0])
    assert (
        "Labels in the dataset: Edema negative. Other than the marks: Edema (here positive)."
        in found
    )
    found = marking.agreement(made)
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
    assert "Labels in the dataset: Stone positive. None is of the 14" in marking.studies(made, [0])
    assert (
        "no labels for this study" in marking.studies(made, [1]) and marking.agreement(made) is None
    )
    assert looks.unlabelled(made) == "without any value: the 14 CheXpert columns"
    assert (
        looks.examples(made, np.arange(2)) == {"Stone": 0}
        and looks.examples(made, np.arange(0)) == {}
    )
    assert looks.examples(made, np.array([1])) == {"b.png": 1}, "no positive: some images"


# --- leakage --------------------------------------------------------------------------------------
def test_leakage_counts_what_is_planted(tmp_path):
    """Patient p0 and one text are in train and test; image 4 is image 0 brightened, image 5 is
    image 1 itself.
    """
    splits = ["train", "train", "train", "valid", "test", "test"]
    rows = [
        {
            "image": f"{k}.png",
            "report": f"Text {k}." if k != 5 else "TEXT  0.",
            "split": split,
            "patient": "p0" if k in (0, 4) else f"p{k}",
        }
        for k, split in enumerate(splits)
    ]
    smooth = [np.kron(picture(k, 8, 8), np.ones((8, 8), np.uint8)) // 2 for k in range(6)]
    smooth[4], smooth[5] = smooth[0] + 9, smooth[1]
    for k, pixels in enumerate(smooth):
        (tmp_path / f"{k}.png").write_bytes(encoded(pixels))
    made = table(tmp_path, rows, images=False)
    found = leakage.report(made)
    assert found.loc[
        "patients", ["in more than one split", "train & test", "test rows concerned"]
    ].tolist() == [
        1,
        1,
        1,
    ]
    assert found.loc[
        "report texts", ["train & valid", "train & test", "of test rows"]
    ].tolist() == [0, 1, 2]
    assert found.loc[
        ["identical images", "near-identical images", "studies"], "in more than one split"
    ].tolist() == [
        1,
        1,
        0,
    ]
    assert "WARNING, 1 patients, 1 identical images, 1 near-identical images" in leakage.sentence(
        made
    )
    pairs = leakage.copies(made, np.ones(6, bool))
    assert {made.index["image_id"][row] for row in pairs} == {"0.png", "4.png", "1.png", "5.png"}
    assert list(pairs.values())[0].startswith("near-identical pair 1: ")
    assert leakage.copies(made, np.array([False] * 2 + [True] * 4)) == {}, (
        "both pictures of a pair must be open"
    )


def test_leakage_of_what_is_absent(tmp_path):
    made = table(tmp_path / "a", [{"report": "No edema.", "split": "test"}] * 3, id_column="")
    assert "one split only (test)" in leakage.sentence(made)
    assert leakage.report(made).loc["identical images", "in more than one split"] == "no images"
    made = table(
        tmp_path / "b",
        [{"report": f"No edema {k}.", "split": s} for k, s in enumerate(["train", "test"])],
    )
    assert "looked for: patients, studies. Patients are not told apart" in leakage.sentence(made)


# --- rejected pictures ----------------------------------------------------------------------------
def test_a_record_leads_to_its_file(tmp_path):
    home = tmp_path / "home"
    (home / "images_001" / "images").mkdir(parents=True)
    for name in ("images_001/images/a b.png", "top.png"):
        (home / name).write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    here = (home, "images_001/images/a b.png")
    for record in ("a b.png", "a b", "list.txt line 3 a b.png", "images_001/images/a b.png"):
        assert rejected.locate(record, home, "nih") == here, record
    assert rejected.locate("row 7 top.png", home, "table") == (home, "top.png")
    for record in (
        "../secret.png",
        "link.png",
        "images_001",
        "",
        "no such file",
        "row 3",
        "[a]*",
        f"row 1 {tmp_path}/secret.png",
    ):
        assert rejected.locate(record, home, "nih") is None, record
    secret = f"{tmp_path}/secret.png"
    assert rejected.locate(f"row 1 {secret}", home, "table") == (rejected.Path("/"), secret[1:]), (
        "tables take such paths"
    )


def test_rejected_pictures(tmp_path):
    tree = covid_tree(tmp_path / "covid", 9)
    meta = pd.read_csv(tree / "metadata.csv")
    meta["view"] = ["PA"] * 3 + ["L"] * 5 + ["PA"]
    meta.loc[3:5, "license"] = "unknown"
    meta.to_csv(tree / "metadata.csv", index=False)
    (tree / "images" / "1.png").write_bytes(encoded(np.full((40, 40), 77, np.uint8)))
    (tree / "images" / "2.png").write_bytes((tree / "images" / "2.png").read_bytes()[:30])
    whole = encoded(np.full((64, 64), 200, np.uint8), "JPEG")
    (tree / "images" / "0.png").write_bytes(encoded(picture(9, 64, 64), "JPEG")[: len(whole) + 900])
    options = {"size": 32, "settings": {"max_reject_share": "1"}, "progress": False}
    made = data.open(data_prep.prepare("covid_cxr", tree, tmp_path / "out", **options))
    found = {record: (image, reason) for image, record, reason in rejected.pictures(made)}
    assert set(found) == {f"images/{k}.png" for k in (0, 1, 6, 7)}, (
        "not those of an unknown licence, nor a stump"
    )
    half, reason = found["images/0.png"]
    assert "truncated" in reason and half[:60].std() > 20 > half[-20:].std(), (
        "the upper part is there, the rest is grey"
    )
    assert (found["images/1.png"][0] == 77).all() and "constant" in found["images/1.png"][1]
    assert (
        len(rejected.pictures(made, "all", each=5)) == 7 and rejected.pictures(made, "none") == []
    )
    (tmp_path / "covid").rename(tmp_path / "elsewhere")
    assert rejected.pictures(made) == [] and "not there any more" in rejected.why_none(made)


def test_closed_rejects_are_not_shown(tmp_path):
    made = hospital(tmp_path, max_reject_share="1")
    assert rejected.pictures(made) == [] and len(rejected.pictures(made, "all")) == 1
