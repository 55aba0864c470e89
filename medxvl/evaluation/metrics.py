"""Scores of a binary detector and their bootstrap intervals, for all classes and all resamples at
once.

Shapes: labels `y` and scores `s` are (n,) or (n, c); a metric gives a scalar or (c,). With
`weights` (r, n), how often each of r bootstrap resamples drew each sample, the same metric gives
(r,) or (r, c): a class is sorted once and every resample is then a weighted count, so no loop runs
over samples or resamples.

Labels are 1, 0 or NaN (not labelled: left out of that class). A class without a positive or without
a negative has no value: NaN, in the sample as in a resample. That holds for F1 and MCC too, which
have one there by convention only.
"""

from functools import wraps

import numpy as np

BLOCK = 2_000_000  # weights held at once while bootstrapping: resamples x samples


def _prepare(y, s, weights):
    """As float arrays y, s (n, c) and weights (r, n) or None; the last value tells whether y had
    one dimension.
    """
    y, s = np.asarray(y, float), np.asarray(s, float)
    if y.shape != s.shape or y.ndim not in (1, 2):
        raise ValueError(
            f"labels and scores must have the same shape, (n,) or (n, c): found {y.shape} and "
            f"{s.shape}"
        )
    flat = y.ndim == 1
    if flat:
        y, s = y[:, None], s[:, None]
    labelled = ~np.isnan(y)
    if not np.isin(y[labelled], (0, 1)).all():
        odd = sorted(set(np.unique(y[labelled])) - {0.0, 1.0})[:3]
        raise ValueError(
            f"labels must be 1, 0 or NaN (not labelled): found {odd}; map uncertain labels first"
        )
    if np.isnan(s[labelled]).any():
        raise ValueError(
            f"{int(np.isnan(s[labelled]).sum())} labelled samples have NaN as score or decision"
        )
    if weights is not None:
        weights = np.asarray(weights, float)
        if weights.ndim != 2 or weights.shape[1] != len(y):
            raise ValueError(f"weights must be (resamples, {len(y)}): found {weights.shape}")
    return y, s, weights, flat


def _each_class(function):
    """Make a metric of all classes, (n,) or (n, c), of `function(y (n,), s (n,), weights (r, n)) ->
    (r,)`, which sees the labelled samples of one class."""

    @wraps(function)
    def metric(y, s, weights=None):
        y, s, weights, flat = _prepare(y, s, weights)
        out = np.empty((1 if weights is None else len(weights), y.shape[1]))
        for k in range(y.shape[1]):
            keep = ~np.isnan(y[:, k])
            w = np.ones((1, len(y))) if weights is None else weights
            out[:, k] = function(y[keep, k], s[keep, k], w if keep.all() else w[:, keep])
        out = out[:, 0] if flat else out
        return out[0] if weights is None else out

    return metric


def _counts(y, s, w):
    """Weighted true and false positives (r, k) when calling positive all scores >= each of the k
    distinct scores, highest first; those scores (k,); positives and negatives (r, 1). Samples with
    equal scores always go together."""
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.flatnonzero(np.r_[s[1:] != s[:-1], True]) if len(s) else np.arange(0)
    w = w[:, order]
    tp = np.cumsum(w * y, axis=1)
    called = np.cumsum(w, axis=1)
    positives, total = (a[:, -1:] if len(s) else np.zeros((len(w), 1)) for a in (tp, called))
    tp, called = tp[:, last], called[:, last]
    return tp, called - tp, s[last], positives, total - positives


def ratio(a, b):
    """a / b, and NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) != 0)


@_each_class
def auroc(y, s, w):
    """Area under the ROC curve; ties count one half (Mann-Whitney)."""
    tp, fp, _, pos, neg = _counts(y, s, w)
    # Area under the straight lines between the points: a tie counts one half. Integers up to the
    # last division.
    twice = (tp * np.diff(fp, axis=1, prepend=0)).sum(1) + (
        np.diff(tp, axis=1, prepend=0) * (neg - fp)
    ).sum(1)
    return ratio(twice, 2 * pos[:, 0] * neg[:, 0])


@_each_class
def f1_max(y, s, w):
    """Highest F1 over all thresholds of the *evaluated* set: optimistic. It is what the released
    code of X-VL reports; give F1 at `f1_threshold` of the validation split beside it."""
    tp, fp, _, pos, neg = _counts(y, s, w)
    best = (2 * tp / (tp + fp + pos + (pos == 0))).max(1, initial=0)
    return np.where((pos * neg)[:, 0] > 0, best, np.nan)


@_each_class
def f1_threshold(y, s, w):
    """Threshold with the highest F1, to be chosen on the validation split; call positive `s >=
    threshold`.
    """
    tp, fp, scores, pos, neg = _counts(y, s, w)
    best = (
        np.argmax(tp / (tp + fp + pos + (pos == 0)), axis=1)
        if len(scores)
        else np.zeros(len(w), int)
    )
    return np.where((pos * neg)[:, 0] > 0, scores[best] if len(scores) else np.nan, np.nan)


def _confusion(y, pred, weights):
    """Weighted true positives, false positives, positives, negatives, each (r, c) or (c,), without
    the c where y is (n,).
    """
    y, pred, weights, flat = _prepare(y, pred, weights)
    labelled = ~np.isnan(y)
    if not np.isin(pred[labelled], (0, 1)).all():
        raise ValueError("decisions must be 0 or 1: apply a threshold to scores first")
    pos, called = np.where(labelled, y, 0), np.where(labelled, pred, 0)
    columns = np.concatenate([pos * called, called, pos, labelled], axis=1)
    sums = columns.sum(0) if weights is None else weights @ columns
    tp, called, pos, total = np.split(sums, 4, axis=-1)
    if flat:
        tp, called, pos, total = (a[..., 0] for a in (tp, called, pos, total))
    return tp, called - tp, pos, total - pos


def f1(y, pred, weights=None):
    """F1 of decisions (0 / 1). No sample called positive: 0."""
    tp, fp, pos, neg = _confusion(y, pred, weights)
    return np.where(pos * neg > 0, ratio(2 * tp, tp + fp + pos), np.nan)


def mcc(y, pred, weights=None):
    """Matthews correlation of decisions (0 / 1). All or no samples called positive: 0."""
    tp, fp, pos, neg = _confusion(y, pred, weights)
    fn, tn = pos - tp, neg - fp
    constant = (tp + fp == 0) | (fn + tn == 0)
    value = ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (fn + tn) * pos * neg))
    return np.where(constant & (pos * neg > 0), 0.0, value)


def sensitivity(y, pred, weights=None):
    """Share of positives called positive; decisions are 0 / 1."""
    tp, _, pos, neg = _confusion(y, pred, weights)
    return np.where(pos * neg > 0, ratio(tp, pos), np.nan)


def specificity(y, pred, weights=None):
    """Share of negatives called negative; decisions are 0 / 1."""
    _, fp, pos, neg = _confusion(y, pred, weights)
    return np.where(pos * neg > 0, ratio(neg - fp, neg), np.nan)


def roc(y, s):
    """ROC curve of one class, labels and scores (n,): false positive rate, true positive rate,
    threshold, each (k + 1,), starting at (0, 0) with threshold +inf. Needs a positive and a
    negative (ValueError)."""
    y, s, _, _ = _prepare(np.ravel(y), np.ravel(s), None)
    keep = ~np.isnan(y[:, 0])
    tp, fp, scores, pos, neg = _counts(y[keep, 0], s[keep, 0], np.ones((1, keep.sum())))
    if not pos.item() or not neg.item():
        raise ValueError(
            f"a ROC curve needs positives and negatives: found {pos.item():.0f} and "
            f"{neg.item():.0f}"
        )
    return np.r_[0, fp[0] / neg[0]], np.r_[0, tp[0] / pos[0]], np.r_[np.inf, scores]


def resample_weights(groups, n_resamples=1000, seed=0):
    """Yield blocks (b, n) of how often each sample is drawn when whole groups (patients) are drawn
    with replacement. All b together are `n_resamples`; the same seed gives the same resamples, so
    models can be compared in pairs."""
    groups = np.asarray(groups)
    names, member = np.unique(
        groups.astype(str) if groups.dtype == object else groups, return_inverse=True
    )
    if not len(names):
        raise ValueError("nothing to resample: no samples")
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(groups))
    for start in range(0, n_resamples, block):
        drawn = rng.integers(0, len(names), (min(block, n_resamples - start), len(names)))
        yield weights_from_indices(drawn, len(names))[:, member]


def weights_from_indices(indices, n):
    """Drawn sample numbers (r, m) as counts (r, n), for resamples that were recorded elsewhere."""
    indices = np.asarray(indices)
    rows = np.arange(len(indices))[:, None] * n
    return (
        np.bincount((indices + rows).ravel(), minlength=len(indices) * n)
        .reshape(len(indices), n)
        .astype(float)
    )


def bootstrap(metric, y, s, groups=None, n_resamples=1000, seed=0, weights=None):
    """Metric on bootstrap resamples: (n_resamples,) for y (n,), (n_resamples, c) for y (n, c).

    `metric(y, s, weights=...)` is a function of this module. `groups` (n,): patient of each sample;
    whole patients are drawn, since two images of a patient are not independent. None: each sample
    is its own group. `weights` (r, n) uses resamples drawn elsewhere (see `weights_from_indices`)
    instead.
    """
    if weights is not None:
        return metric(y, s, weights=weights)
    n = len(np.asarray(y))
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if len(groups) != n:
        raise ValueError(
            f"groups must name the patient of each of the {n} samples: found {len(groups)}"
        )
    return np.concatenate(
        [metric(y, s, weights=w) for w in resample_weights(groups, n_resamples, seed)]
    )


def interval(samples, level=0.95, rule="percentile"):
    """Two-sided interval (low, high) of bootstrap samples (r,) or (r, c), over the resamples that
    have a value.

    rule "percentile": the quantiles, interpolated. rule "release": the sorted values number int(q *
    r) - 1, as in the released code of X-VL (24 and 974 of 1,000: one rank lower than the quantile
    at both ends). No value at all: NaN.
    """
    samples = np.asarray(samples, float)
    tail = (1 - level) / 2
    if rule == "percentile":
        empty = np.isnan(samples).all(0)
        low, high = np.nanquantile(np.where(empty, 0, samples), (tail, 1 - tail), axis=0)
        return np.where(empty, np.nan, low)[()], np.where(empty, np.nan, high)[()]
    if rule != "release":
        raise ValueError(f"unknown rule {rule!r}: percentile or release")
    ordered, have = np.sort(samples, axis=0), np.sum(~np.isnan(samples), axis=0)  # NaN sorts last
    picked = []
    for q in (tail, 1 - tail):
        # round: 0.025 * 1000 must not become 24.999...
        rank = np.maximum(np.floor(np.round(q * have, 9)).astype(int) - 1, 0)
        value = np.take_along_axis(ordered, np.expand_dims(rank, 0), axis=0)[0]
        picked.append(np.where(have > 0, value, np.nan)[()])
    return tuple(picked)
