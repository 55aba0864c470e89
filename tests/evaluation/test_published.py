"""The published values, the join with our rows, the verdicts, and the facts stated beside the
chart.
"""

import pandas as pd
import pytest
from tolerance import rounding

from medxvl.config import paths
from medxvl.evaluation import facts as published_facts
from medxvl.evaluation import published

FOUR_DECIMALS = 0.5e-4 + rounding(1.0)  # half a unit of the last decimal of a published value


def our_row(**changes):
    row = {
        "run": "r",
        "paper": "xvl",
        "task": "zero_shot",
        "dataset": "chexpert_test",
        "split": "test",
        "subset": "Edema",
        "model": "X-VL (ITM)",
        "metric": "auroc",
        "value": 0.89,
        "ci_low": 0.86,
        "ci_high": 0.92,
        "n": 500.0,
        "control": "",
        "seed": "0",
        "preset": "paper",
        "checkpoint": "",
        "manifest": "",
    }
    return row | changes


def judge(*rows, paper=None):
    """The joined rows that are ours."""
    table = published.join(pd.DataFrame(list(rows)), paper)
    return table[table.split.notna()].reset_index(drop=True)


def test_our_copy_has_every_published_row(shared):
    theirs = pd.read_csv(shared / "paper" / "paper_values.csv", dtype=str, keep_default_na=False)
    ours = pd.read_csv(paths.PAPER_VALUES, dtype=str, keep_default_na=False)
    assert list(ours.columns) == list(theirs.columns) == published.COLUMNS
    known = theirs[theirs.value != ""]
    assert len(known.merge(ours, on=published.COLUMNS)) == len(known)
    key = ["paper", "task", "dataset", "subset", "model", "metric"]
    assert set(theirs[key].itertuples(index=False)) <= set(ours[key].itertuples(index=False))


def test_values_are_those_of_the_authors_chart(shared):
    paper = published.load_paper()
    for name, metric in (("auc_commented_out", "auroc"), ("f1", "f1_max")):
        chart = pd.read_csv(shared / "parity" / f"xvl_radar_{name}.csv", index_col=0)
        chart = chart.rename(index={"X-VL (ours)": "X-VL"})
        part = paper[(paper.task == "zero_shot") & (paper.metric == metric)]
        wide = part.pivot(index="model", columns="subset", values="value").loc[
            chart.index, chart.columns
        ]
        assert (wide == chart).all(axis=None)


@pytest.mark.numeric
def test_facts():
    """The numbers that must stand beside the chart; no overall win."""
    facts = published_facts.facts()
    auroc, f1 = facts["auroc"], facts["f1_max"]
    for found, wanted in ((auroc, (0.8787, 0.8787, 0.8853)), (f1, (0.6299, 0.6448, 0.6503))):
        means = found["means"].loc[["X-VL", "CheXzero", "MedCLIP"]].tolist()
        assert means == pytest.approx(list(wanted), abs=FOUR_DECIMALS, rel=0)
    assert auroc["alone"] == ["Pleural Effusion"] and f1["alone"] == ["Atelectasis"]
    assert not auroc["overall"] and not f1["overall"] and auroc["means"].index[0] == "MedCLIP"
    for line in published_facts.facts_text():
        assert "no overall win" in line and "author_artefact" in line


def test_facts_follow_the_values():
    paper = published.load_paper()
    paper.loc[(paper.model == "X-VL") & (paper.task == "zero_shot"), "value"] = 0.99
    facts = published_facts.facts(paper)["auroc"]
    assert facts["overall"] and len(facts["alone"]) == 5
    assert "highest mean" in published_facts.fact_sentence("auroc", facts)
    paper.loc[(paper.model == "MedCLIP") & (paper.task == "zero_shot"), "value"] = (
        0.99  # a tie is no lead
    )
    facts = published_facts.facts(paper)["auroc"]
    assert not facts["overall"] and facts["alone"] == []


@pytest.mark.numeric
def test_means_of_five():
    means = published.add_means(published.load_paper())
    means = means[means.subset == "mean of 5"].set_index(["model", "metric"]).value
    for key, wanted in {
        ("3 benchmark radiologists (mean)", "f1"): 0.6160,
        ("3 benchmark radiologists (mean)", "mcc"): 0.5296,
        ("X-VL", "auroc"): 0.8787,
    }.items():
        assert means[key] == pytest.approx(wanted, abs=FOUR_DECIMALS, rel=0)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "reproduced", "inside our 95 % CI"),  # published: 0.9028
        ({"value": 0.885, "ci_high": 0.90}, "close", "within 0.02"),
        ({"value": 0.85, "ci_high": 0.90}, "not reproduced", "outside our CI"),
        ({"value": 0.885, "ci_low": float("nan"), "ci_high": float("nan")}, "close", "within"),
        ({"dataset": "phantom:mimic_cxr"}, "not comparable", "synthetic phantom"),
        ({"dataset": "phantom"}, "not comparable", "synthetic phantom"),
        (
            {"dataset": "phantom:mimic_cxr", "model": "X-VL (ITA)"},
            "not comparable",
            "synthetic phantom",
        ),
        (
            {"dataset": "phantom:mimic_cxr", "value": float("nan")},
            "not comparable",
            "synthetic phantom",
        ),
        ({"split": "valid"}, "not comparable", "other split"),
        (
            {"dataset": "mimic_cxr"},
            "not comparable",
            "other data: ours mimic_cxr, paper chexpert_test",
        ),
        ({"value": float("nan")}, "not comparable", "no value"),
        ({"model": "X-VL (ITA)"}, "paper value unknown", "no published value"),
        ({"subset": "mean of 8"}, "paper value unknown", "fill from arXiv"),
        ({"preset": "demo"}, "reproduced", "preset demo, not the published settings"),
    ],
)
def test_verdicts(changes, verdict, reason):
    row = judge(our_row(**changes)).iloc[0]
    assert row.verdict == verdict in published.VERDICTS
    assert reason in row.reason


def test_phantom_rows_are_never_compared():
    rows = [
        our_row(dataset="phantom:mimic_cxr", subset=s, metric=m, value=v)
        for s in ("Edema", "mean of 5", "mean of 8")
        for m in ("auroc", "f1_max", "mcc")
        for v in (0.9028, 0.1)
    ]
    assert set(judge(*rows).verdict) == {"not comparable"}


def test_every_published_row_appears_once():
    table = published.join(pd.DataFrame([our_row()]))
    assert len(table) == len(published.add_means(published.load_paper()))
    empty = published.join(pd.DataFrame(columns=list(our_row())))
    assert set(empty.verdict) == {"not run", "paper value unknown"}
    assert (empty[empty.paper_value.isna()].verdict == "paper value unknown").all()


def test_one_filled_cell_is_enough(tmp_path):
    lines = paths.PAPER_VALUES.read_text(encoding="utf-8").splitlines()
    filled = [
        line.replace("X-VL,auroc,,not_found", "X-VL,auroc,0.87,not_found")
        if line.startswith("xvl,zero_shot_8")
        else line
        for line in lines
    ]
    assert filled != lines
    path = tmp_path / "paper_values.csv"
    path.write_text("\n".join(filled), encoding="utf-8")
    row = judge(our_row(subset="mean of 8"), paper=published.load_paper(path)).iloc[0]
    assert (
        row.paper_value == 0.87
        and row.verdict == "reproduced"
        and row.status == "filled in by the user"
    )


def test_a_cell_that_is_no_number(tmp_path):
    path = tmp_path / "paper_values.csv"
    text = paths.PAPER_VALUES.read_text(encoding="utf-8").replace(
        "X-VL,auroc,0.8028", 'X-VL,auroc,"0,8028"'
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: '0,8028' is not a number"):
        published.load_paper(path)
    path.write_text("paper,task\n", encoding="utf-8")
    with pytest.raises(ValueError, match="missing: dataset, subset"):
        published.load_paper(path)


def test_recomputed_readers_need_no_interval():
    reader = {
        "task": "readers",
        "model": "3 benchmark radiologists (mean)",
        "metric": "f1",
        "control": "reader",
    }
    good = judge(our_row(**reader, value=0.58396, ci_low=0.6, ci_high=0.7)).iloc[0]
    assert good.verdict == "reproduced" and good.paper_value == 0.584 and good.tolerance == 5e-4
    bad = judge(our_row(**reader, value=0.59, ci_low=0.5, ci_high=0.7)).iloc[0]
    assert bad.verdict == "not reproduced"


def test_same_data_is_preferred():
    """MedViLL is published on two data sets: a row of ours meets the one of its own data."""
    ours = our_row(
        paper="medvill",
        task="retrieval",
        dataset="openi",
        subset="test",
        model="MedViLL",
        metric="mrr",
    )
    row = judge(ours)
    assert len(row) == 1 and row.paper_data[0] == "openi"


def test_controls_stand_beside():
    rows = [
        our_row(),
        our_row(model="X-VL (ITA)"),
        our_row(control="shuffled images", value=0.5),
        our_row(control="shuffled images", model="X-VL (ITA)", value=0.52),
        our_row(control="supervised upper bound", model="supervised upper bound", value=0.97),
        our_row(control="chance", model="chance", value=0.5, subset="Fracture"),
    ]
    table = judge(*rows).set_index("model")
    assert len(table) == 2 and "chance" not in table
    assert table["shuffled images"].to_dict() == {"X-VL (ITM)": 0.5, "X-VL (ITA)": 0.52}
    assert set(table["supervised upper bound"]) == {0.97}


def test_readable():
    shown = published.readable(published.join(pd.DataFrame([our_row()])))
    line = shown[shown["ours [95 % CI]"] != ""].iloc[0]
    assert line["ours [95 % CI]"] == "0.890 [0.860, 0.920]"
    assert line["paper"] == "0.9028" and line["difference"] == "-0.013"
    assert {"status", "source", "verdict", "reason", "tolerance"} <= set(shown)
    assert len(published.readable(published.join(pd.DataFrame([our_row()])).iloc[:0])) == 0
