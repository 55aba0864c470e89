"""Retrieval scores: worked cases, the released numbers, exact chance, and speed that needs no
loop.
"""

import json
from itertools import permutations

import numpy as np
import pytest
from safetensors.numpy import load_file
from tolerance import assert_close, rounding

from medxvl.evaluation import metrics, retrieval

SCORES = np.array([[0.9, 0.5, 0.1, 0.7], [0.1, 0.2, 0.3, 0.4]])
RIGHT = np.array([[False, True, False, True], [True, False, False, False]])
THREE_DECIMALS = 0.5e-3 + rounding(1.0)  # half a unit of the last decimal of a rounded recording

pytestmark = pytest.mark.numeric


def test_by_hand():
    found = retrieval.per_query(SCORES, RIGHT, ks=(1, 2, 10))
    assert found["mrr"].tolist() == [1 / 2, 1 / 4]
    assert found["hit@1"].tolist() == [0, 0] and found["hit@2"].tolist() == [1, 0]
    assert found["recall@2"].tolist() == [0.5, 0] and found["recall@10"].tolist() == [1, 1]
    assert found["precision@2"].tolist() == [0.5, 0] and found["precision@10"].tolist() == [
        0.2,
        0.1,
    ]


def test_ties_count_against_and_no_right_answer_has_no_value():
    found = retrieval.per_query(np.zeros((2, 4)), RIGHT)
    assert found["mrr"].tolist() == [1 / 3, 1 / 4], "a score that says nothing is no first place"
    found = retrieval.per_query(SCORES, np.zeros((2, 4), dtype=bool))
    assert all(np.isnan(values).all() for values in found.values())
    value, drawn, n = retrieval.estimate(found["mrr"], [0, 1], 50)
    assert np.isnan(value) and np.isnan(drawn).all() and n == 0
    with pytest.raises(ValueError, match="one shape"):
        retrieval.per_query(SCORES, RIGHT[:, :2])
    with pytest.raises(ValueError, match="1 scores are NaN"):
        retrieval.per_query(np.where(SCORES == 0.9, np.nan, SCORES), RIGHT)


def test_the_released_numbers(shared):
    """Where scores are tied the release's order is that of an unstable sort: those queries are set
    apart.
    """
    path = shared / "parity" / "medvill_retrieval_metrics"
    t, about = load_file(f"{path}.safetensors"), json.loads(path.with_suffix(".json").read_text())
    size = about["eval_len_size"]
    scores, right = t["in/similarities"].reshape(-1, size), t["in/labels"].reshape(-1, size) == 1
    wanted = about["results"]["t2i"]
    found = retrieval.per_query(scores, right)
    ranks = np.array(wanted["t2i_ranks"])
    clear = np.array([_clear(s, r) for s, r in zip(scores, right, strict=True)])
    assert clear.sum() >= 8, "most queries can be compared"
    assert_close(found["mrr"][clear], 1 / (ranks[clear] + 1))
    if clear.all():
        assert_close(np.mean(found["mrr"]), wanted["mrr"], terms=len(right))
    # In the release's own order everything is equal
    order = np.stack([np.argsort(s)[::-1] for s in scores])
    as_released = -np.argsort(order, axis=1).astype(float)
    found = retrieval.per_query(as_released, right)
    assert_close(np.mean(found["mrr"]), wanted["mrr"], terms=len(right))
    for k in (1, 5, 10):
        hits = wanted["hits"]["t2i_retrieval"][f"R@{k}"]
        assert_close(np.mean(found[f"hit@{k}"]), hits, terms=len(right))
        for name in ("recall", "precision"):
            recorded = wanted["recall_precision"][f"t2i_{name}"][f"R@{k}"]
            ours = np.mean(found[f"{name}@{k}"])
            assert ours == pytest.approx(recorded, abs=THREE_DECIMALS, rel=0)
    empty = right.copy()
    empty[0] = False  # the release: NaN for the mean; ours leaves the query out
    assert np.isnan(
        about["results"]["no_positive_in_query_0"]["recall_precision"]["t2i_recall"]["R@1"]
    )
    assert np.isnan(retrieval.per_query(as_released, empty)["recall@1"][0])
    assert (
        retrieval.estimate(
            retrieval.per_query(as_released, empty)["recall@1"], np.arange(len(right)), 20
        )[2]
        == len(right) - 1
    )


def _clear(scores, right) -> bool:
    """Whether no wrong candidate ties with the first right one."""
    best = scores[right].max()
    return not (scores[~right] == best).any()


def test_chance_is_the_mean_over_all_orders():
    right = np.array([True, True, False, False, False])
    every = [
        retrieval.per_query(-np.array(order, float)[None], right[None], ks=(1, 2))
        for order in permutations(range(5))
    ]
    wanted = {name: np.mean([one[name] for one in every]) for name in every[0]}
    found = retrieval.chance([2], 5, ks=(1, 2))
    # A mean over 120 orders against a chain of five factors and sums
    assert found.keys() == wanted.keys()
    assert_close([found[name][0] for name in wanted], list(wanted.values()), terms=120)
    assert np.isnan(retrieval.chance([0], 5)["mrr"][0]) and retrieval.chance([5], 5)["mrr"][0] == 1


def test_trials_of_a_hundred():
    rng = np.random.default_rng(0)
    scores, right = rng.random((40, 150)), np.zeros((40, 150), dtype=bool)
    own = np.arange(40)
    right[own, own] = True
    scores[own, own] = 2
    found = retrieval.per_query_in_trials(scores, right, own, 5, rng)
    assert (found["mrr"] == 1).all(), "the own partner is always among the candidates"
    scores[own, own] = -1
    found = retrieval.per_query_in_trials(scores, right, own, 5, rng)
    assert_close(found["mrr"], np.full(40, 1 / 100), terms=5)
    whole = retrieval.per_query_in_trials(scores[:, :90], right[:, :90], own, 5, rng)
    assert_close(whole["mrr"], retrieval.per_query(scores[:, :90], right[:, :90])["mrr"], terms=5)


def test_bootstrap_draws_patients():
    values, patients = np.array([0.0, 1, 1, np.nan]), np.array(["a", "a", "b", "b"])
    value, drawn, n = retrieval.estimate(values, patients, 400, seed=1)
    assert_close(value, 2 / 3, terms=3)
    assert n == 3
    possible = np.array([1 / 2, 2 / 3, 1])
    nearest = np.abs(drawn[:, None] - possible).argmin(axis=1)
    assert set(nearest) == {0, 1, 2}, "both of a patient's, or none"
    assert_close(drawn, possible[nearest], terms=4)
    weights = np.concatenate(list(metrics.resample_weights(patients, 400, 1)))
    assert len(drawn) == len(weights)
