"""Questions and answers: VQA-RAD's counts, baselines without images, and accuracies."""

import numpy as np
import pandas as pd
import pytest
from tolerance import rounding

from data_prep.prepared import preparation
from medxvl.data import dataset, questions


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """The public JSON, prepared; no images."""
    folder = tmp_path_factory.mktemp("vqa") / "prepared"
    preparation.prepare("vqa_rad", shared / "data" / "vqa_rad", folder, size=64, progress=False)
    return dataset.Dataset(folder)


def test_the_counts_of_the_paper(real):
    table = questions.read(real)
    counts = questions.counts(table).set_index(["split", "organ"])
    assert (
        counts.loc[("train", "all"), "questions"] == 1797
        and counts.loc[("test", "all"), "questions"] == 451
    )
    assert counts.loc[("test", "all"), ["closed", "open"]].tolist() == [272, 179]
    assert counts.loc[("test", "chest"), ["closed", "open"]].tolist() == [116, 58]
    assert not real.has_images and set(table.form) == {"open", "closed"}
    known = set(questions.vocabulary(table[table.split == "train"]))
    unknown = (~table[table.split == "test"].answer.isin(known)).sum()
    assert counts.loc[("test", "all"), "answer not among the training's"] == unknown > 0


@pytest.mark.numeric
def test_real_baselines(real):
    """Question-only on the real test questions: above the majority answer, below what cannot be
    answered.
    """
    table = questions.read(real)
    train, test = (table[table.split == s].reset_index(drop=True) for s in ("train", "test"))
    found = {}
    for name, given in (
        ("majority", questions.majority(train, test)),
        ("words", questions.from_words(train, test)),
    ):
        rows = questions.evaluate(
            test, given, paper="medvill", dataset="vqa_rad", model=name, n_resamples=50
        )
        found[name] = {row["metric"]: row["value"] for row in rows if row["subset"] == ""}
        assert {row["metric"]: row["n"] for row in rows if row["subset"] == "chest"} == {
            "accuracy_total": 174, "accuracy_closed": 116, "accuracy_open": 58,
        }  # fmt: skip
    assert found["words"]["accuracy_total"] > found["majority"]["accuracy_total"] + 0.02
    assert found["words"]["accuracy_total"] < test.answer.isin(questions.vocabulary(train)).mean()


@pytest.fixture
def small():
    """Six training and four test questions on three images."""
    rows = [
        ("a", "is it left", "left", "closed", "train"),
        ("a", "is it there", "yes", "closed", "train"),
        ("b", "is it there", "yes", "closed", "train"),
        ("b", "what is it", "a mass", "open", "train"),
        ("a", "what is it", "a mass", "open", "train"),
        ("a", "which part", "chest", "open", "train"),
        ("a", "is it there", "no", "closed", "test"),
        ("c", "is it there", "yes", "closed", "test"),
        ("c", "what is it", "a mass", "open", "test"),
        ("c", "what is it", "never seen", "open", "test"),
    ]
    table = pd.DataFrame(rows, columns=["image_id", "question", "answer", "form", "split"])
    table["organ"], table["kind"], table["qid"] = "chest", "X", [str(k) for k in range(len(rows))]
    table["row"] = table.image_id.map({"a": 0, "b": 1, "c": 2})
    table["unseen"] = table.image_id == "c"
    return table


def test_vocabulary_and_majority(small):
    train, test = small[small.split == "train"], small[small.split == "test"].reset_index(drop=True)
    assert questions.vocabulary(train) == ["a mass", "yes", "chest", "left"]
    assert questions.majority(train, test).tolist() == ["yes", "yes", "a mass", "a mass"]
    assert questions.from_words(train, test).tolist()[2] == "a mass"


@pytest.mark.numeric
def test_accuracies_by_hand(small):
    test = small[small.split == "test"].reset_index(drop=True)
    rows = questions.evaluate(
        test, ["yes", "yes", "a mass", "a mass"], paper="p", dataset="d", model="m", n_resamples=200
    )
    found = {(r["subset"], r["metric"]): (r["value"], r["n"]) for r in rows}
    assert found[("", "accuracy_total")] == (0.5, 4) and found[("", "accuracy_closed")] == (0.5, 2)
    assert found[("images without a training question", "accuracy_total")] == (
        pytest.approx(2 / 3, abs=rounding(2 / 3, 3), rel=0),
        3,
    )
    assert found[("images without a training question", "accuracy_open")] == (0.5, 2)
    closed = next(r for r in rows if r["metric"] == "accuracy_closed" and r["subset"] == "")
    assert set(np.unique(closed["draws"])) == {0.0, 0.5, 1.0}, "whole images are drawn"


def test_another_image_of_the_same_organ(small):
    other = questions.swapped(small, 0)
    assert (other != small.row).all() and set(other) <= {0, 1, 2}
    alone = small.assign(organ=[*["chest"] * 9, "head"])
    assert questions.swapped(alone, 0)[9] == small.row[9]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("X Ray", "x-ray"), ("Yes ", "yes"), ("PA", "posterior anterior"), ("3", "3")],
)
def test_answers_have_one_wording(given, wanted):
    assert questions.clean_answer(given) == wanted
