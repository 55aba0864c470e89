"""MedViLL's figures and the tables beside them: what is drawn is what the rows say."""

import numpy as np
import pandas as pd
import pytest

from medxvl.config import paths, presets, records
from medxvl.evaluation import tables
from medxvl.medvill import masks
from medxvl.plots import index, medvill, style

ROW = {
    "paper": "medvill",
    "task": "vqa",
    "dataset": "phantom:vqa_rad",
    "split": "test",
    "subset": "",
    "seed": "0",
}
ROW["metric"] = "accuracy_total"


def rows(*given) -> pd.DataFrame:
    table = pd.DataFrame(
        [ROW | {"ci_low": np.nan, "ci_high": np.nan, "n": 50, "control": ""} | row for row in given]
    )
    return table


THREE = rows(
    {"model": "MedViLL (BAR)", "value": 0.6, "ci_low": 0.5, "ci_high": 0.7},
    {
        "model": "MedViLL (BAR)",
        "control": "shuffled images",
        "value": 0.4,
        "ci_low": 0.3,
        "ci_high": 0.5,
    },
    {"model": "majority answer", "control": "majority answer", "value": 0.3},
    {"model": "chance", "control": "chance", "value": 0.25},
)


def test_a_table_has_a_line_for_each_way():
    shown = tables.beside(THREE, ["accuracy_total", "accuracy_open"])
    assert shown.index.tolist() == [
        "MedViLL (BAR)",
        "MedViLL (BAR), shuffled images",
        "majority answer",
        "chance",
    ]
    assert shown.accuracy_total.tolist() == [
        "0.600 [0.500, 0.700]",
        "0.400 [0.300, 0.500]",
        "0.300",
        "0.250",
    ]
    assert shown.n.tolist() == ["50"] * 4 and "accuracy_open" not in shown
    nothing = tables.beside(rows({"model": "m", "value": np.nan}), ["accuracy_total"])
    assert nothing.accuracy_total.tolist() == ["no value"]
    each = tables.beside(
        pd.concat([THREE, THREE.assign(subset="chest")]), ["accuracy_total"], subset=None
    )
    assert len(each) == 8 and ("chest", "chance") in each.index


def test_scores_are_drawn_where_they_are():
    fig = medvill.scores(THREE, [("total", "accuracy_total", "")], "phantom:vqa_rad")
    (ax,) = fig.axes
    drawn = {
        round(float(line.get_xdata()[0]), 3): line.get_markerfacecolor()
        for line in ax.lines
        if line.get_marker() in "so"
    }
    assert set(drawn) == {0.6, 0.4, 0.3} and drawn[0.6] == style.BLUE and drawn[0.4] == "white"
    assert any(line.get_xdata() == [0.25, 0.25] for line in ax.lines), "chance is a line"
    assert [label.get_text() for label in ax.get_yticklabels()][
        0
    ] == "MedViLL (BAR)" and "n = 50" in ax.get_title()
    assert "synthetic phantom" in fig.get_suptitle()
    with pytest.raises(ValueError, match="no result row for any of no such"):
        medvill.scores(THREE, [("x", "no such", "")], "d")


def test_the_masks_are_those_of_the_function():
    fig = medvill.attention_masks()
    assert len(fig.axes) == 5
    bar = np.asarray(fig.axes[masks.NAMES.index("bar")].images[0].get_array())
    assert bar[:5].all() and bar[5:, 5:].tolist() == np.tril(np.ones((4, 4))).tolist()
    both = np.asarray(fig.axes[masks.NAMES.index("bi_seq2seq")].images[0].get_array())
    assert set(np.round(np.unique(both), 2)) == {0.25, 1.0}
    assert medvill.architecture(presets.load("paper")).axes


def test_examples_can_be_drawn_again(tmp_path):
    items = [
        {
            "image": np.full((8, 8), k, np.uint8),
            "lines": [["own report", "soft"], ["1. other", "bad"]],
        }
        for k in (3, 9)
    ]
    medvill.save_examples(tmp_path / "a" / "x.npz", items)
    again = medvill.load_examples(tmp_path / "a" / "x.npz")
    assert [i["lines"] for i in again] == [i["lines"] for i in items] and again[1][
        "image"
    ].max() == 9
    assert len(medvill.examples(again, "phantom:x").axes) == 4
    fig = medvill.word_maps(items[0]["image"], ["edema"], np.ones((1, 2, 2)), "phantom:x")
    assert [ax.get_title() for ax in fig.axes] == ["image", "edema"]


def test_other_masks_stand_beside_without_their_controls(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    s2s = THREE.assign(model=THREE.model.replace("MedViLL (BAR)", "MedViLL (S2S)"))
    for folder, table in (
        ("demo", THREE),
        ("demo/variants/seq2seq-seed0", s2s),
        ("demo/variants/bar-seed1", THREE.assign(seed="1")),
    ):
        (tmp_path / folder / "rows").mkdir(parents=True)
        path = tmp_path / folder / "rows" / "14_medvill_vqa.csv"
        table.reindex(columns=records.COLUMNS).to_csv(path, index=False)
    fig = index.figure("medvill-vqa", "demo")
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert names == [
        "MedViLL (BAR)",
        "MedViLL (S2S)",
        "MedViLL (BAR), shuffled images",
        "majority answer",
    ]
    with pytest.raises(index.MissingInput, match="14_medvill_vqa"):
        index.figure("medvill-vqa-examples", "demo")
