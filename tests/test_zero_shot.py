"""Scores to rows: intervals, controls, and what is not known."""

import numpy as np
import pytest

from medxvl.tasks import supervised, zero_shot

FINDINGS = ["A", "B"]
ABOUT = {"task": "zero_shot", "dataset": "test", "model": "m", "n_resamples": 50}


def data(n=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < 0.3).astype(float)
    return labels, labels + rng.normal(0, 1, (n, 2)), np.arange(n).astype(str)


def row(rows, subset, metric):
    (found,) = [r for r in rows if r["subset"] == subset and r["metric"] == metric]
    return found


def test_rows_have_interval_and_count_what_is_labelled():
    labels, scores, patients = data()
    labels[:7, 0] = np.nan
    rows = zero_shot.evaluate(labels, scores, patients, FINDINGS, valid=data(seed=1)[:2], means=[("mean of 2", FINDINGS)], **ABOUT)
    assert row(rows, "A", "auroc")["n"] == 193 and row(rows, "B", "auroc")["n"] == 200
    for metric in ("auroc", "f1_max", "f1_valid", "mcc"):
        mean = row(rows, "mean of 2", metric)
        assert mean["value"] == pytest.approx((row(rows, "A", metric)["value"] + row(rows, "B", metric)["value"]) / 2)
        assert mean["ci_low"] < mean["value"] < mean["ci_high"]


def test_no_threshold_gives_no_value_instead_of_zero():
    labels, scores, patients = data()
    valid_labels, valid_scores, _ = data(seed=1)
    valid_labels[:, 0] = 0
    rows = zero_shot.evaluate(labels, scores, patients, FINDINGS, valid=(valid_labels, valid_scores), **ABOUT)
    assert np.isnan(row(rows, "A", "f1_valid")["value"]) and np.isnan(row(rows, "A", "mcc")["value"])
    assert row(rows, "B", "f1_valid")["value"] > 0 and row(rows, "A", "auroc")["value"] > 0.5


def test_shuffling_leaves_no_picture_at_its_own_place():
    partner = zero_shot.shuffled(50, seed=0)
    assert sorted(partner) == list(range(50)) and not (partner == np.arange(50)).any()
    assert (partner == zero_shot.shuffled(50, seed=0)).all()


def test_the_linear_gauge_learns_and_ignores_what_is_not_labelled():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 100, (120, 40, 40), dtype=np.uint8), np.zeros((120, 2))
    labels[::2, 0] = 1
    images[::2, :20] += 60
    labels[:10] = np.nan
    scores = supervised.linear_gauge(images[:100], labels[:100], images[100:])
    assert scores[::2, 0].min() > scores[1::2, 0].max() and not scores[:, 1].any()
