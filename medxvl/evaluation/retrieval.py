"""Retrieval scores: from a table of scores, and which candidates are right, to values and result
rows; exact values of guessing.

Shapes: Q queries, C candidates. `relevant` (Q, C) bool may have several right candidates a query
("label-conditioned": those with the query's positive findings). A query without a right candidate
has no value: NaN, left out of means (the release's means become NaN). Tied scores count against the
model: wrong candidates come first.
"""

import numpy as np

from medxvl.evaluation import controls, metrics
from medxvl.evaluation.rows import result_row

KS = (1, 5, 10)
NAMES = ("mrr", *(f"{name}@{k}" for name in ("hit", "recall", "precision") for k in KS))
OWN = ", own partner"  # what a subset is called where the query's own partner alone is right


def relevance(dataset, rows) -> np.ndarray:
    """(n, n) bool: studies with the same positive findings."""
    labels = controls.label_sets(dataset, rows)
    return labels[:, None] == labels[None]


def per_query(scores, relevant, ks=KS) -> dict[str, np.ndarray]:
    """mrr, hit@k, recall@k and precision@k of every query, (Q,) each; k beyond C counts all C
    (precision still divides by k). Candidates come in the order of falling score, wrong ones first
    among equals.
    """
    scores, relevant = np.asarray(scores, float), np.asarray(relevant, bool)
    if scores.shape != relevant.shape or scores.ndim != 2:
        raise ValueError(
            "scores and relevant must be of one shape (queries, candidates): found "
            f"{scores.shape}, {relevant.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN")
    order = np.lexsort((relevant, -scores), axis=1)
    found = np.take_along_axis(relevant, order, axis=1)
    some, first, total = found.any(1), found.argmax(1), found.sum(1)
    upto = {k: found[:, :k].sum(1) for k in ks}
    out = {"mrr": 1 / (first + 1)}
    out |= {f"hit@{k}": (upto[k] > 0).astype(float) for k in ks}
    out |= {f"recall@{k}": upto[k] / np.maximum(total, 1) for k in ks}
    out |= {f"precision@{k}": upto[k] / k for k in ks}
    return {name: np.where(some, value, np.nan) for name, value in out.items()}


def per_query_in_trials(
    scores, relevant, own, trials: int, rng: np.random.Generator, size: int = 100, ks=KS
) -> dict[str, np.ndarray]:
    """As `per_query`, averaged over `trials` draws of `size` candidates: the query's own (`own`
    (Q,)) and others at random.

    A co-author's statement of the protocol; the release ranks the whole pool. With no more than
    `size` candidates both agree.
    """
    scores, relevant, own = np.asarray(scores, float), np.asarray(relevant, bool), np.asarray(own)
    queries, candidates = scores.shape
    if candidates <= size:
        return per_query(scores, relevant, ks)
    sums = None
    for _ in range(trials):
        chance = rng.random((queries, candidates))
        chance[np.arange(queries), own] = -1
        picked = np.argpartition(chance, size - 1, axis=1)[:, :size]
        values = per_query(
            np.take_along_axis(scores, picked, 1), np.take_along_axis(relevant, picked, 1), ks
        )
        sums = values if sums is None else {name: sums[name] + values[name] for name in sums}
    return {name: value / trials for name, value in sums.items()}


def chance(right, candidates: int, ks=KS) -> dict[str, np.ndarray]:
    """Expected values of a random order, exact, for queries with `right` (Q,) right ones among
    `candidates`.
    """
    right = np.asarray(right)
    wrong = candidates - right
    # survives[j]: the first j of a random order are all wrong
    place = np.arange(candidates)
    step = np.clip((wrong[:, None] - place) / (candidates - place), 0, 1)
    survives = np.cumprod(np.concatenate([np.ones((len(right), 1)), step], axis=1), axis=1)
    out = {"mrr": ((survives[:, :-1] - survives[:, 1:]) / (place + 1)).sum(1)}
    out |= {f"hit@{k}": 1 - survives[:, min(k, candidates)] for k in ks}
    out |= {f"recall@{k}": np.full(len(right), min(k, candidates) / candidates) for k in ks}
    out |= {f"precision@{k}": right * min(k, candidates) / candidates / k for k in ks}
    return {name: np.where(right > 0, value, np.nan) for name, value in out.items()}


def estimate(values, groups, n_resamples=1000, seed=0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the queries that have a value, its bootstrap samples over `groups` (patients), and
    how many have one: (), (r,) and () of values (Q,); (V,), (r, V) and (V,) of (V, Q), all with the
    same resamples."""
    values = np.asarray(values, float)
    there = ~np.isnan(values)
    filled, there = np.where(there, values, 0).T, there.T.astype(float)

    def means(w):
        count = w @ there
        return np.divide(w @ filled, count, out=np.full(np.shape(count), np.nan), where=count > 0)

    drawn = [means(w) for w in metrics.resample_weights(groups, n_resamples, seed)]
    return means(np.ones(len(filled))), np.concatenate(drawn), there.sum(axis=0).astype(int)


def single(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the values of queries with one right answer those that say different things: recall@k is
    hit@k, precision@k a kth of it.
    """
    return {
        name: value for name, value in values.items() if name == "mrr" or name.startswith("hit")
    }


def rows(values: dict[str, dict], patients, about: dict, n_resamples=1000, seed=0) -> list[dict]:
    """Result rows of `values` {subset: {metric: (Q,)}}, with 95 % intervals over `patients` (Q,)
    and the columns `about`.

    Without patients the values are exact, such as those of guessing, and have no interval.
    """
    named = {(s, m): value for s, by_metric in values.items() for m, value in by_metric.items()}
    if patients is None:
        return [
            result_row(about, m, np.nanmean(v) if np.isfinite(v).any() else np.nan, subset=s)
            for (s, m), v in named.items()
        ]
    point, drawn, count = estimate(np.stack(list(named.values())), patients, n_resamples, seed)
    return [
        result_row(about, m, point[k], drawn[:, k], subset=s, n=count[k], keep_draws=True)
        for k, (s, m) in enumerate(named)
    ]


def precision(scores, relevant, k: int, weights) -> np.ndarray:
    """(R, Q) share of right ones among the first `k`, where candidate c is there `weights[r, c]`
    times: resamples of candidates.

    For queries that are no patients, such as sentences: then the pool is what a bootstrap draws.
    Ties as everywhere here.
    """
    scores, relevant = np.asarray(scores, float), np.asarray(relevant, bool)
    found = np.empty((len(weights), len(scores)))
    for q, order in enumerate(np.lexsort((relevant, -scores), axis=1)):
        upto = np.minimum(np.cumsum(weights[:, order], axis=1), k)
        found[:, q] = np.diff(upto, axis=1, prepend=0) @ relevant[q, order] / k
    return found


def sample(candidates, most: int, seed: int) -> np.ndarray:
    """`most` of `candidates` (n,) at random, in their order; all of them where `most` is 0 or there
    are no more.
    """
    if not most or len(candidates) <= most:
        return candidates
    return np.sort(np.random.default_rng([seed, 13]).choice(candidates, most, replace=False))


def examples(
    scores,
    relevant,
    texts: list[str],
    dataset,
    rows,
    shown,
    seed: int,
    queries: int = 3,
    first: int = 3,
) -> list[dict]:
    """Queries with their first reports, `texts` (n,), for plots_medvill.examples; drawn at random
    among studies that may be shown.
    """
    allowed = np.flatnonzero(np.asarray(shown)[rows])
    picked = np.random.default_rng([seed, 19]).permutation(allowed)[:queries]
    items = []
    for q in picked:
        lines = [[f"own report: {texts[q]}", "soft"]]
        for place, k in enumerate(
            [c for c in np.argsort(-scores[q], kind="stable") if c in set(allowed)][:first]
        ):
            same = bool(relevant[q, k])
            lines.append(
                [
                    f"{place + 1}. [{'same findings' if same else 'other findings'}] {texts[k]}",
                    "good" if same else "bad",
                ]
            )
        items.append({"image": dataset.images(rows[[q]])[0], "lines": lines})
    return items
