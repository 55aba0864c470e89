"""Metrics against worked cases, scikit-learn and the numbers the released X-VL code produced
(tests/parity).
"""

import json
import time

import numpy as np
import pytest
import sklearn.metrics as reference
from safetensors.numpy import load_file
from tolerance import assert_close, rounding

from medxvl.config import paths
from medxvl.evaluation import metrics

PARITY = paths.ROOT / "tests" / "parity"
OF_SCORES = ["auroc", "f1_max", "f1_threshold"]
OF_DECISIONS = ["f1", "mcc", "sensitivity", "specificity"]
FOUR_DECIMALS = 0.5e-4 + rounding(1.0)  # half a unit of the last decimal of a rounded recording

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def released():
    """Predictions, scores, bootstrap rows and intervals recorded from the released evaluation
    code.
    """
    return load_file(PARITY / "xvl_eval_zero.safetensors"), json.loads(
        (PARITY / "xvl_eval_zero.json").read_text()
    )


@pytest.fixture(scope="module")
def released_weights(released):
    """The release draws resample i with RandomState(i)."""
    tensors, _ = released
    n = len(tensors["in/y_true"])
    indices = np.stack([np.random.RandomState(i).randint(0, n, n) for i in range(1000)])
    assert np.array_equal(indices[:3], tensors["out/resample_idx_0_1_2"])
    return metrics.weights_from_indices(indices, n)


def random_case(n=200, classes=4, decimals=1, seed=0):
    """Labels and scores with many ties."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, classes)) < 0.3).astype(float)
    return y, np.round(rng.normal(size=(n, classes)) + y, decimals)


def test_parity_values(released):
    tensors, facts = released
    y, s = tensors["in/y_true"], tensors["in/y_pred"]
    wanted = facts["evaluate"]
    n = len(y)
    assert_close(metrics.auroc(y, s), [wanted[f"{k}_auc"] for k in facts["labels"]], terms=n)
    assert_close(metrics.f1_max(y, s), [wanted[f"{k}_f1"] for k in facts["labels"]], terms=n)
    points = [facts["youden_operating_point"][k] for k in facts["labels"]]
    for k, point in enumerate(points):
        fpr, tpr, thresholds = metrics.roc(y[:, k], s[:, k])
        called = s[:, k] >= thresholds[np.argmax(tpr - fpr)]
        assert_close(metrics.sensitivity(y[:, k], called), point["sensitivity"], terms=n)
        assert_close(metrics.specificity(y[:, k], called), point["specificity"], terms=n)


@pytest.mark.parametrize(("metric", "suffix"), [(metrics.auroc, "auc"), (metrics.f1_max, "f1")])
def test_parity_bootstrap_and_interval(released, released_weights, metric, suffix):
    tensors, facts = released
    samples = metrics.bootstrap(
        metric, tensors["in/y_true"], tensors["in/y_pred"], weights=released_weights
    )
    columns = [facts["boot_columns"].index(f"{k}_{suffix}") for k in facts["labels"]]
    assert_close(samples, tensors["out/boot_stats"][:, columns], terms=len(tensors["in/y_true"]))
    low, high = metrics.interval(samples, rule="release")
    for k, name in enumerate(facts["labels"]):
        cell = facts["cis"][f"{name}_{suffix}"]
        recorded = pytest.approx(
            [cell["mean"], cell["lower"], cell["upper"]], abs=FOUR_DECIMALS, rel=0
        )
        assert [samples[:, k].mean(), low[k], high[k]] == recorded


def test_release_interval_is_one_rank_lower():
    samples = np.random.default_rng(0).permutation(1000.0 * np.ones(1000) + np.arange(1000))
    assert metrics.interval(samples, rule="release") == (1024.0, 1974.0)
    assert_close(metrics.interval(samples), (1024.975, 1974.025), terms=2)
    with pytest.raises(ValueError, match="percentile or release"):
        metrics.interval(samples, rule="bca")


def test_interval_without_values():
    samples = np.column_stack(
        [np.arange(100.0), np.full(100, np.nan), np.r_[np.nan, np.arange(99.0)]]
    )
    for rule in ("percentile", "release"):
        low, high = metrics.interval(samples, rule=rule)
        assert np.isnan([low[1], high[1]]).all()
        assert np.isfinite([low[0], high[0], low[2], high[2]]).all()


def test_hand_worked():
    y, s = [1, 0, 1, 0], [0.9, 0.8, 0.4, 0.1]
    assert metrics.auroc(y, s) == 0.75
    assert metrics.auroc([1, 0], [0.5, 0.5]) == 0.5
    assert_close(metrics.f1_max(y, s), 0.8)
    assert metrics.f1_threshold(y, s) == 0.4
    assert_close(metrics.f1(y, [1, 0, 0, 0]), 2 / 3)
    assert metrics.mcc(y, [1, 0, 1, 0]) == 1
    fpr, tpr, thresholds = metrics.roc(y, s)
    assert (
        fpr.tolist() == [0, 0, 0.5, 0.5, 1]
        and tpr.tolist() == [0, 0.5, 0.5, 1, 1]
        and thresholds[0] == np.inf
    )


def test_against_scikit_learn():
    y, s = random_case()
    n = len(y)
    for k in range(y.shape[1]):
        assert_close(metrics.auroc(y, s)[k], reference.roc_auc_score(y[:, k], s[:, k]), terms=n)
        called = s[:, k] >= 0.4
        assert_close(metrics.f1(y, s >= 0.4)[k], reference.f1_score(y[:, k], called), terms=n)
        mcc = reference.matthews_corrcoef(y[:, k], called)
        assert_close(metrics.mcc(y, s >= 0.4)[k], mcc, terms=n)
        p, r, _ = reference.precision_recall_curve(y[:, k], s[:, k])
        best = np.nanmax(2 * p * r / np.where(p + r > 0, p + r, np.nan))
        assert_close(metrics.f1_max(y, s)[k], best, terms=n)
        threshold = metrics.f1_threshold(y[:, k], s[:, k])
        assert_close(metrics.f1(y[:, k], s[:, k] >= threshold), best, terms=n)
        fpr, tpr, _ = metrics.roc(y[:, k], s[:, k])
        wanted = reference.roc_curve(y[:, k], s[:, k], drop_intermediate=False)
        assert_close(fpr, wanted[0], terms=n)
        assert_close(tpr, wanted[1], terms=n)


@pytest.mark.parametrize("name", OF_SCORES + OF_DECISIONS)
def test_weights_are_repetitions(name):
    """A metric with counts as weights equals the metric of the sample with rows repeated."""
    metric = getattr(metrics, name)
    y, s = random_case(n=60)
    s = s if name in OF_SCORES else (s > 0.5).astype(float)
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 60, (20, 60))
    got = metric(y, s, weights=metrics.weights_from_indices(indices, 60))
    assert got.shape == (20, 4)
    assert_close(got, np.stack([metric(y[i], s[i]) for i in indices]), terms=60)
    one = metric(y[:, 0], s[:, 0], weights=metrics.weights_from_indices(indices, 60))
    assert_close(one, got[:, 0], terms=60)


def test_scores_matter_by_rank_only():
    y, s = random_case()
    # Equal bits: both divide the same whole numbers
    assert np.array_equal(metrics.auroc(y, s), metrics.auroc(y, 100 * s - 7))
    assert_close(metrics.auroc(y, -s), 1 - metrics.auroc(y, s), terms=len(y))


@pytest.mark.parametrize("name", OF_SCORES + OF_DECISIONS)
def test_degenerate_classes_are_nan(name):
    metric = getattr(metrics, name)
    y = np.array([[0, 1, np.nan, 1], [0, 1, np.nan, 0], [0, 1, np.nan, np.nan]], float)
    s = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, np.nan]], float)
    value = metric(y, s)
    assert np.isnan(value[:3]).all() and np.isfinite(
        value[3]
    )  # no positive, no negative, no label, fine
    assert np.isnan(metric(y, s, weights=np.ones((2, 3)))[:, :3]).all()
    assert np.isnan(metric([], []))


def test_constant_decisions_have_a_value():
    y = np.array([1, 0, 1, 0])
    assert metrics.mcc(y, np.ones(4)) == 0 and metrics.mcc(y, np.zeros(4)) == 0
    assert metrics.f1(y, np.zeros(4)) == 0 and metrics.auroc(y, np.ones(4)) == 0.5
    assert metrics.f1([1, np.nan, 0], [1, np.nan, 0]) == 1


def test_unlabelled_samples_count_nowhere():
    y, s = random_case(n=80)
    holes = y.copy()
    holes[::3, 1] = np.nan
    scores = np.where(np.isnan(holes), np.nan, s)
    keep = ~np.isnan(holes[:, 1])
    assert metrics.auroc(holes, scores)[1] == metrics.auroc(y[keep, 1], s[keep, 1])
    called = np.where(np.isnan(scores), np.nan, scores >= 0.3)
    assert metrics.f1(holes, called)[1] == metrics.f1(y[keep, 1], s[keep, 1] >= 0.3)
    assert np.isfinite(metrics.bootstrap(metrics.auroc, holes, scores, n_resamples=20)).all()


@pytest.mark.parametrize(
    ("y", "s", "message"),
    [
        ([1, -1, 0], [0.1, 0.2, 0.3], "uncertain"),
        ([1, 0], [np.nan, 0.2], "NaN as score"),
        ([1, 0], [0.2], "same shape"),
    ],
)
def test_bad_input(y, s, message):
    with pytest.raises(ValueError, match=message):
        metrics.auroc(y, s)


def test_bad_decisions_groups_weights():
    with pytest.raises(ValueError, match="threshold"):
        metrics.f1([1, 0], [0.3, 0.7])
    with pytest.raises(ValueError, match="patient"):
        metrics.bootstrap(metrics.auroc, [1, 0], [0.3, 0.7], groups=["a"])
    with pytest.raises(ValueError, match="weights must be"):
        metrics.auroc([1, 0], [0.3, 0.7], weights=np.ones((4, 3)))
    with pytest.raises(ValueError, match="positives and negatives"):
        metrics.roc([1, 1], [0.3, 0.7])
    with pytest.raises(ValueError, match="nothing to resample"):
        metrics.bootstrap(metrics.auroc, [], [])


def test_whole_patients_are_drawn():
    groups = np.array(["p2", "p1", "p2", "p3", "p1", "p2"], object)
    weights = np.concatenate(list(metrics.resample_weights(groups, 200, seed=3)))
    assert weights.shape == (200, 6)
    for members in ([0, 2, 5], [1, 4]):
        assert (weights[:, members] == weights[:, members[:1]]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()  # three patients a resample
    again = np.concatenate(list(metrics.resample_weights(groups, 200, seed=3)))
    assert np.array_equal(weights, again)


def test_patients_widen_the_interval():
    """Ten copies of a patient are not ten patients."""
    y, s = random_case(n=60, classes=1, seed=5)
    y, s, groups = np.repeat(y[:, 0], 10), np.repeat(s[:, 0], 10), np.repeat(np.arange(60), 10)
    by_patient = np.ptp(metrics.interval(metrics.bootstrap(metrics.auroc, y, s, groups, 300)))
    by_image = np.ptp(metrics.interval(metrics.bootstrap(metrics.auroc, y, s, None, 300)))
    # sqrt(10) = 3.2 is expected; 2 leaves room for quantiles of 300 draws
    assert by_patient > 2 * by_image


def test_blocks_do_not_change_the_draws(monkeypatch):
    y, s = random_case(n=50)
    # Equal bits: the sums are of whole numbers
    whole = metrics.bootstrap(metrics.f1, y, s >= 0.2, n_resamples=100)
    monkeypatch.setattr(metrics, "BLOCK", 50 * 7)
    assert np.array_equal(whole, metrics.bootstrap(metrics.f1, y, s >= 0.2, n_resamples=100))


def test_a_thousand_resamples_are_quick():
    y, s = random_case(n=500, classes=5, decimals=9)
    metrics.bootstrap(metrics.auroc, y, s, n_resamples=10)
    start = time.process_time()
    metrics.bootstrap(metrics.auroc, y, s, n_resamples=1000)
    assert (
        time.process_time() - start < 1.0
    )  # 0.11 s measured on one core; slack for a busy machine
