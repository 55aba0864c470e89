"""Mean, SD and paired tests over seeds and over bootstrap draws."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tolerance import assert_close, rounding

from medxvl.config import paths
from medxvl.evaluation import repeats, results
from medxvl.notebook import runs

pytestmark = pytest.mark.numeric
BASE = {
    "paper": "p",
    "task": "t",
    "dataset": "d",
    "split": "test",
    "subset": "",
    "metric": "auroc",
    "control": "",
}


def table(values: dict, by: str, **more) -> pd.DataFrame:
    """A row a model and repetition."""
    extra = {"seed": "0"} if by == "draw" else {}
    return pd.DataFrame([BASE | extra | more | {"model": model, by: str(k), "value": v}
                         for model, vs in values.items() for k, v in enumerate(vs)])  # fmt: skip


def test_over_seeds_leaves_out_what_was_run_once():
    rows = pd.concat([table({"a": [0.5, 0.7]}, "seed"), table({"b": [0.9]}, "seed")])
    (row,) = repeats.spread(rows, "seed").to_dict("records")
    assert row["model"] == "a" and row["seeds"] == 2
    assert_close(row["mean"], 0.6, terms=2)
    # An SD is as uncertain as the values whose differences it is made of
    assert row["sd"] == pytest.approx(np.std([0.5, 0.7], ddof=1), abs=rounding(0.7, 2), rel=0)


def test_over_draws():
    (row,) = repeats.spread(table({"a": [0.5, 0.7, np.nan]}, "draw"), "draw").to_dict("records")
    assert_close(row["mean"], 0.6, terms=2)
    assert row["draws"] == 2


@pytest.mark.parametrize("by", ["draw", "seed"])
def test_paired_test_is_scipy_s(by):
    rng = np.random.default_rng(0)
    ours, other = rng.normal(0.80, 0.02, 30), rng.normal(0.78, 0.02, 30)
    (row,) = repeats.paired(table({"BAR": ours, "S2S": other}, by), "BAR", by).to_dict("records")
    # A probability: its error relates to 1, as the difference's to the values subtracted
    wanted = stats.ttest_rel(other, ours).pvalue
    assert row["p"] == pytest.approx(wanted, abs=rounding(1.0, 30), rel=0) and wanted > 1e-9
    assert row["p_holm"] == row["p"] and row["pairs"] == 30
    gap = (other - ours).mean()
    assert row["difference"] == pytest.approx(gap, abs=rounding(0.8, 30), rel=0)


def test_pairs_are_of_the_same_repetition_and_controls_stay_out():
    both = table({"BAR": [0.5, 0.6, 0.7], "S2S": [0.51, 0.61]}, "seed")
    control = table({"S2S": [0.1, 0.1]}, "seed", control="shuffled images")
    (row,) = repeats.paired(
        pd.concat([both, control]).sample(frac=1, random_state=1), "BAR", "seed"
    ).to_dict("records")
    assert row["pairs"] == 2 and np.isnan(row["p"]), "no spread: no test"
    assert row["difference"] == pytest.approx(0.01, abs=rounding(0.61, 2), rel=0)
    assert repeats.paired(both, "no such", "seed").empty
    with pytest.raises(ValueError, match="draw or seed"):
        repeats.paired(both, "BAR", "week")


def test_readable():
    assert "nothing to compare" in repeats.readable(
        repeats.paired(table({"BAR": [0.5]}, "seed"), "BAR", "seed")
    )
    told = repeats.readable(
        repeats.paired(table({"BAR": [0.5, 0.6], "S2S": [0.6, 0.7]}, "seed"), "BAR", "seed")
    )
    assert "+0.100" in told and "no test" in told


def test_holm():
    assert_close(repeats.holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    assert repeats.holm([0.9, 0.8]).tolist() == [1, 1] and len(repeats.holm([])) == 0


def test_a_run_keeps_the_first_draws_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    run = runs.start("21_xvl_pretrain", "smoke", "seed=4")
    row = {k: v for k, v in BASE.items() if k != "control"} | {"model": "m", "value": 0.5}
    run.add_rows([row | {"draws": np.linspace(0, 1, 100)}, row | {"metric": "f1"}])
    run.finish(rows=2)
    kept = results.draws("smoke")
    assert len(kept) == results.DRAWS
    assert_close(kept.value.iloc[1], 1 / 99)
    assert set(kept.seed) == {"4"} and set(kept.metric) == {"auroc"} and set(kept.control) == {""}
    assert results.draws("smoke", every=True).equals(kept) and results.draws("demo").empty
