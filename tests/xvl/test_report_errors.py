"""Report errors: the released code's swaps, what ours does better, and that an error is always
one.
"""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.reports import labels
from medxvl.config import paths
from medxvl.xvl import report_errors
from medxvl.xvl.report_errors import Error, Ineligible, Reports

CASES = json.loads(
    (paths.ROOT / "tests" / "parity" / "xvl_error_generator.json").read_text(encoding="utf-8")
)["cases"]
NORMAL, LEFT, HEART = (
    "No acute process.",
    "Small left pleural effusion.",
    "Mild cardiomegaly. The patient is rotated.",
)
EDEMA, TUBE = "Severe pulmonary edema. Right upper lobe pneumonia.", "Endotracheal tube."
CORPUS = [
    NORMAL,
    LEFT,
    HEART,
    EDEMA,
    "Normal chest radiograph.",
    "Large right pneumothorax. No effusion.",
    TUBE,
]
some_words = st.sampled_from(
    "left Left right. left-sided UPPER lower, apical basal central peripheral small large "
    "mild slight severe minimal extensive "
    "Mildly severely no and or bowel venous effusion. opacity 1.5 cm. pneumonia the / of".split()
)  # fmt: skip
some_reports = st.lists(
    st.one_of(
        st.lists(some_words, max_size=12).map(" ".join),
        st.sampled_from(CORPUS),
        st.text(max_size=30),
    ),
    min_size=1,
    max_size=6,
)


JOINING = ("and", "or", "the", "/", "lower,", "venous")


def rng(seed=0):
    return np.random.default_rng(seed)


def one(text, kind, seed=0, **more):
    (made,) = report_errors.corrupt(Reports([text]), kind, rng(seed), **more)
    return made


@pytest.mark.parametrize("kind", ["location", "extent"])
@pytest.mark.parametrize(("swaps", "suffix"), [("released", ""), ("released, Open-I", "_openi")])
def test_the_released_swaps(kind, swaps, suffix):
    changed = 0
    for case in CASES:
        made = one(case["text"], kind, swaps=swaps)
        expected = case[kind + suffix]
        if expected == " ".join(case["text"].split()):
            assert isinstance(made, Ineligible), (
                "the release passes an unchanged report off as an error"
            )
        else:
            assert made.text == expected
            changed += 1
    assert changed > 10


def test_words_are_swapped_whatever_their_case_and_punctuation():
    made = one(
        "Left effusion; the right-sided tube, UPPER lobe clear. Opacity on the left.", "location"
    )
    assert (
        made.text == "Right effusion; the left-sided tube, LOWER lobe clear. Opacity on the right."
    )
    assert [(c.before, c.after) for c in made.changes] == [
        ("Left", "Right"),
        ("right", "left"),
        ("UPPER", "LOWER"),
        ("left", "right"),
    ]
    assert made.changes[0].start == 0 and made.changes[0].end == 4
    assert one("Mildly enlarged, minimally.", "extent").text == "Severely enlarged, extensively."


def test_severe_becomes_mild_or_slight():
    """Both, so that a word of the corrupted reports does not give them away."""
    assert {one("Severe edema.", "extent", seed).text for seed in range(20)} == {
        "Mild edema.",
        "Slight edema.",
    }


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("location", "Left and right lungs are clear."),
        ("location", "Heart at the upper limits of normal."),
        ("location", "Right/left central venous catheter."),
        ("location", "The leftward shift."),
        ("location", ""),
        ("extent", "No large effusion, without severe edema."),
        ("extent", "Dilated small bowel."),
        ("extent", "Moderate edema."),
    ],
)
def test_swaps_that_would_say_the_same_or_something_else(kind, text):
    made = one(text, kind)
    assert (
        isinstance(made, Ineligible)
        and made.why == {"location": "no word of side or zone", "extent": "no word of extent"}[kind]
    )


def test_reports_of_others():
    found = {
        kind: report_errors.corrupt(Reports(CORPUS), kind, rng())
        for kind in ("false_positive", "false_negative", "mismatch")
    }
    said = Reports(CORPUS)
    assert said.normal.tolist() == [True, False, False, False, True, False, True], (
        "devices are no finding"
    )
    assert [m.why for m in found["false_positive"] if isinstance(m, Ineligible)] == [
        "not a normal report"
    ] * 4
    assert [m.why for m in found["false_negative"] if isinstance(m, Ineligible)] == [
        "no abnormal finding"
    ] * 3
    assert not [m for m in found["mismatch"] if isinstance(m, Ineligible)], "a tube is a label, too"
    for kind, made in found.items():
        for k, error in enumerate(made):
            if isinstance(error, Error):
                assert error.text == CORPUS[error.donor] and error.donor != k
                assert said.abnormal[error.donor] if kind == "false_positive" else True
                assert said.normal[error.donor] if kind == "false_negative" else True
                assert not (said.said[k] & said.said[error.donor]).any()


def test_never_a_report_of_the_same_patient_or_of_the_same_words():
    texts, patients = (
        [NORMAL, LEFT, HEART, "small LEFT pleural effusion"],
        np.array(["a", "a", "b", "c"]),
    )
    reports = Reports(texts, patients=patients)
    assert {
        report_errors.corrupt(reports, "false_positive", rng(s))[0].donor for s in range(20)
    } == {2, 3}
    table = pd.DataFrame(0.0, index=range(4), columns=labels.COLUMNS)
    table.loc[[1, 3], ["Pleural Effusion", "Edema"]] = [
        [1, 0],
        [0, 1],
    ]  # labels may differ where the words do not
    assert [
        getattr(m, "donor", m)
        for m in report_errors.corrupt(Reports(texts, table), "mismatch", rng())[1:2]
    ] == [Ineligible("mismatch", LEFT, "no other report that fits")]


def test_donors_are_drawn_from_all_that_fit():
    """The release draws from the first few reports alone."""
    reports = Reports([NORMAL] + [f"Pneumonia in {k} places." for k in range(40)])
    drawn = {
        report_errors.corrupt(reports, "false_positive", rng(seed))[0].donor for seed in range(300)
    }
    assert drawn == set(range(1, 41))


def test_a_single_donor_that_fits_is_found():
    texts = [LEFT] * 400 + [HEART]
    assert report_errors.corrupt(Reports(texts), "mismatch", rng())[0].donor == 400


def test_other_reports_can_be_given():
    made = report_errors.corrupt(
        Reports([NORMAL]), "false_positive", rng(), others=Reports([NORMAL, EDEMA])
    )
    assert made[0].text == EDEMA and made[0].donor == 1


def test_sentences():
    left_out = {
        one("Edema of 1.5 cm. Mild cardiomegaly.", "omission", seed).text for seed in range(20)
    }
    assert left_out == {"Mild cardiomegaly.", "Edema of 1.5 cm."}
    assert (
        one(LEFT, "omission").why == "a single sentence"
        and one(NORMAL + " Clear lungs.", "omission").why == "no abnormal finding"
    )
    reports = Reports([HEART, "Right pneumothorax."])
    confused = {
        report_errors.corrupt(reports, "confusion", rng(seed))[0].text for seed in range(20)
    }
    assert confused == {
        "Right pneumothorax. The patient is rotated.",
        "Mild cardiomegaly. Right pneumothorax.",
    }


@given(
    some_reports,
    st.sampled_from(report_errors.KINDS),
    st.sampled_from(report_errors.SWAPS),
    st.integers(0, 9),
)
def test_an_error_is_one_and_says_where(texts, kind, swaps, seed):
    made = report_errors.corrupt(Reports(texts), kind, rng(seed), swaps=swaps)
    assert len(made) == len(texts)
    for text, error in zip(texts, made, strict=True):
        assert error.original == text and error.kind == kind
        if isinstance(error, Ineligible):
            assert error.why
            continue
        assert report_errors.same(error.text) != report_errors.same(text) and error.changes
        rebuilt, at = "", 0
        for change in error.changes:
            assert (
                text[change.start : change.end] == change.before != change.after
                and change.start >= at
            )
            rebuilt, at = rebuilt + text[at : change.start] + change.after, change.end
        rebuilt += text[at:]
        assert error.text == (
            " ".join(rebuilt.split())
            if kind in ("location", "extent") and swaps != "whole words"
            else rebuilt
        )


@given(some_reports, st.integers(0, 9))
def test_the_same_seed_gives_the_same_errors_and_the_global_state_stays(texts, seed):
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    once, again = (report_errors.mixed(Reports(texts), 0.7, rng(seed)) for _ in range(2))
    assert once == again
    assert np.random.get_state()[1].tolist() == before


@given(st.lists(some_words.filter(lambda word: word not in JOINING), max_size=10).map(" ".join))
def test_a_side_swapped_twice_is_as_before(text):
    """But for lists ("left and right"), which stay as they are: a swap beside one can make or break
    another.
    """
    made = one(text, "location")
    if isinstance(made, Error):
        assert one(made.text, "location").text == text


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_share_of_a_corpus(share):
    reports = Reports(CORPUS[:6] * 100)
    made = report_errors.mixed(reports, share, rng())
    assert sum(m is not None for m in made) == round(share * 600)
    kinds = pd.Series([m.kind for m in made if m]).value_counts()
    assert set(kinds.index) == set(report_errors.PUBLISHED) or share < 0.1
    assert {m.kind for m in report_errors.mixed(reports, 1.0, rng(), kinds=("extent",)) if m} == {
        "extent"
    }
    assert (
        sum(m is not None for m in report_errors.mixed(Reports([NORMAL] * 10), 0.5, rng())) == 0
    ), "no report can have an error"


def test_eligibility_counts_every_report():
    table = report_errors.eligibility(Reports(CORPUS), rng())
    assert table.eligible.to_dict() == {
        "false_positive": 3,
        "false_negative": 4,
        "location": 3,
        "extent": 4,
        "mismatch": 7,
        "omission": 3,
        "confusion": 4,
    }
    assert (
        table.loc["omission", "why not"] == "no abnormal finding: 3; a single sentence: 1"
        and (table.reports == 7).all()
    )


def test_what_is_not_valid():
    with pytest.raises(ValueError, match="expected one of false_positive"):
        report_errors.corrupt(Reports([NORMAL]), "orientation", rng())
    with pytest.raises(ValueError, match="whole words; released"):
        report_errors.corrupt(Reports([NORMAL]), "extent", rng(), swaps="some")
    with pytest.raises(ValueError, match="expected 1, found 2"):
        Reports([NORMAL], pd.DataFrame({"Edema": [1, 0]}))


def test_real_reports(shared):
    """All of Open-I: every type finds reports, and a report that is called ineligible for a swap
    has no such word.
    """
    table = pd.read_csv(shared / "data" / "openi" / "indiana_reports.csv", dtype=str).fillna("")
    reports = Reports(table["impression"].tolist())
    counts = report_errors.eligibility(reports, rng()).eligible
    assert (counts > 50).all() and counts["mismatch"] > 2000
    for made in report_errors.corrupt(reports, "extent", rng()):
        if isinstance(made, Error):
            assert all(c.before.lower() in report_errors._WORDS["extent"] for c in made.changes)
