"""Image-report retrieval with Medical X-VL (arXiv 2208.05140, early version): a shortlist by
contrast, reordered by the matching head.

The cosine of two vectors is cheap, so it ranks every candidate; the fusion encoder then reads the
first `xvl_retrieve_shortlist` of them together with the query. Nothing is trained here: the
pre-trained checkpoints are used as they are ("zero-shot").
"""

import numpy as np
import torch

from medxvl.data import text
from medxvl.evaluation import controls, metrics, retrieval
from medxvl.evaluation.rows import result_row
from medxvl.xvl import corpus, scoring

DIRECTIONS = ("image to report", "report to image")
# right: every report (image of a report) that reads exactly like the query's own
SAME = ", own or identical report"
ADDED = "contrast added"  # to the matching score
QUERIES = "sentence to image"
KS = (5, 10, 50)  # precision of the queries that are sentences


def pool(dataset, split: str, preset) -> tuple[np.ndarray, list[str]]:
    """Rows of the studies that are ranked against each other, those with a report,
    `xvl_retrieve_pool` of them at most; and their cleaned impressions, as the model reads them.
    """
    rows = dataset.rows(split)
    rows = rows[[bool(parts) for parts in corpus.report_sentences(dataset, rows, preset)]]
    rows = retrieval.sample(rows, preset.xvl_retrieve_pool, preset.seed)
    return rows, [text.join(parts) for parts in corpus.report_sentences(dataset, rows, preset)]


@torch.no_grad()
def score(
    models, pictures, texts: scoring.Texts, shortlist: int, axes=(0, 1)
) -> dict[str, np.ndarray]:
    """Scores of images (N,), given by `scoring.encode_images`, and of the different texts (U,):
    means over the checkpoints `models`.

    Three tables (N, U). "contrast": cosines. "matching": log-odds of the matching head for pairs in
    a shortlist, else NaN; `axes` says in whose: 1 the texts for an image, 0 the images for a text.
    "sum": the log-odds and the cosine over the temperature. Each text is encoded once by each
    model.
    """
    device = pictures[0][0].device
    ids, mask = texts.ids.to(device), texts.mask.to(device)
    read = [model.online.encode_text(ids, mask) for model in models]
    cosines = torch.stack(
        [f_image @ f_text.t() for (_, f_image), (_, f_text) in zip(pictures, read, strict=True)]
    )
    contrast = cosines.mean(dim=0)
    wanted = torch.zeros_like(contrast, dtype=torch.bool)
    for axis in axes:
        wanted.scatter_(
            axis, contrast.topk(min(shortlist, contrast.shape[axis]), dim=axis).indices, True
        )
    image, report = wanted.nonzero(as_tuple=True)
    odds = torch.full_like(contrast, torch.nan)
    odds[image, report] = torch.stack([
        scoring.match(model, tokens, states, mask, image, report)
        for model, (tokens, _), (states, _) in zip(models, pictures, read, strict=True)
    ]).mean(dim=0)  # fmt: skip
    tempered = torch.stack(
        [c / model.temperature for c, model in zip(cosines, models, strict=True)]
    ).mean(dim=0)
    return {
        name: t.cpu().numpy()
        for name, t in {"contrast": contrast, "matching": odds, "sum": odds + tempered}.items()
    }


def reranked(contrast: np.ndarray, score: np.ndarray, shortlist: int) -> np.ndarray:
    """(Q, C) numbers whose order is: each query's `shortlist` best by contrast, ordered by `score`;
    then the rest by contrast.

    Candidates that tie with the last of the shortlist come in, too, as far as they have a score
    (NaN: none).
    """
    least = -np.sort(-contrast, axis=1)[:, [min(shortlist, contrast.shape[1]) - 1]]
    listed = (contrast >= least) & ~np.isnan(score)
    lowest = np.min(score, axis=1, where=listed, initial=np.inf, keepdims=True)
    return np.where(listed, score - lowest + 2, contrast)  # a cosine is below 2


def ways(
    scores: dict[str, np.ndarray], which: np.ndarray, shortlist: int, by_text: bool = False
) -> dict[str, np.ndarray]:
    """Tables (Q, C) by name, from the `scores` of images and the texts `which` (n,); `by_text`: the
    texts are the queries. "": reranked by the matching head, as published. ADDED: by the sum.
    "contrast only": without the matching head. "query ignored": the order of the mean query for
    every query; what it gains is gained by common candidates.

    The sum is ours. The head's negatives in training were drawn by exp(cosine / temperature), so
    its odds are those of a pair beyond what the cosine says already: both together say how likely
    the pair is.
    """
    given = [scores[name][:, which] for name in ("contrast", "matching", "sum")]
    contrast, odds, both = (table.T for table in given) if by_text else given
    return {
        "": reranked(contrast, odds, shortlist),
        ADDED: reranked(contrast, both, shortlist),
        "contrast only": contrast,
        "query ignored": np.broadcast_to(contrast.mean(axis=0), contrast.shape),
    }


def tables(
    scores: dict[str, np.ndarray], which: np.ndarray, shortlist: int
) -> dict[str, dict[str, np.ndarray]]:
    """`ways` of both directions, {way: {direction: (n, n)}}, row: query, for n images and their
    reports, `which` of the texts.
    """
    both = [ways(scores, which, shortlist, by_text) for by_text in (False, True)]
    return {way: dict(zip(DIRECTIONS, (of[way] for of in both), strict=True)) for way in both[0]}


def _about(dataset, split, way, checkpoint, model="X-VL") -> dict:
    """Columns of a row; `way` is the control, but for ADDED, which is a model beside the published
    one.
    """
    model, control = (f"{model}, {ADDED}", "") if way == ADDED else (model, way)
    return {
        "paper": "xvl",
        "task": "retrieval",
        "dataset": dataset,
        "split": split,
        "model": model,
        "control": control,
        "checkpoint": checkpoint,
    }


def evaluate(
    tables, relevant, which, patients, *, dataset, preset, way="", checkpoint="", split="test"
) -> list[dict]:
    """Rows of one way to retrieve, {direction: (n, n)}; 95 % intervals resample the queries'
    patients.

    Three kinds of right answer: the same positive findings, relevant (n, n); the query's own
    partner (hit@k is then what is called R@k); the partner or one whose report reads the same,
    `which` (n,).
    """
    values = {}
    for direction, table in tables.items():
        values[direction + retrieval.OWN] = retrieval.single(
            retrieval.per_query(table, np.eye(len(table), dtype=bool))
        )
        values[direction + SAME] = retrieval.single(
            retrieval.per_query(table, which[:, None] == which)
        )
        values[direction] = retrieval.per_query(table, relevant)
    about = _about(dataset, split, way, checkpoint)
    return retrieval.rows(values, patients, about, preset.bootstrap, preset.seed)


def chance(relevant, which, *, dataset, split="test") -> list[dict]:
    """What a random order gives, exactly."""
    n = len(which)
    right = {
        retrieval.OWN: np.ones(n, int),
        SAME: (which[:, None] == which).sum(1),
        "": relevant.sum(1),
    }
    values = {
        f"{direction}{suffix}": retrieval.chance(count, n)
        if not suffix
        else retrieval.single(retrieval.chance(count, n))
        for direction in DIRECTIONS
        for suffix, count in right.items()
    }
    return retrieval.rows(values, None, _about(dataset, split, "chance", "", "chance") | {"n": n})


def ceiling(which, patients, *, dataset, preset, split="test") -> list[dict]:
    """The best that anyone can do who finds each report's wording and nothing else: identical
    reports tie, and ties count against.
    """
    same = (which[:, None] == which).astype(float)
    values = {
        d + retrieval.OWN: retrieval.single(
            retrieval.per_query(same, np.eye(len(same), dtype=bool))
        )
        for d in DIRECTIONS
    }
    about = _about(dataset, split, "identical reports", "", "perfect reading")
    return retrieval.rows(values, patients, about, preset.bootstrap, preset.seed)


# --- sentences that look for images ---------------------------------------------------------------
def queries(dataset, rows, described) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Sentences (Q,) of `described` {finding: sentences}, the finding of each (Q,), and which
    images have it (Q, N).

    A study in which a finding is uncertain has it not.
    """
    sentences = [sentence for positives in described.values() for sentence in positives]
    finding = np.repeat(list(described), [len(positives) for positives in described.values()])
    has = controls.labels_of(dataset, rows, list(described)) == 1
    return sentences, finding, has.T[[list(described).index(f) for f in finding]]


def _by_finding(values: np.ndarray, relevant, finding) -> dict[str, np.ndarray]:
    """Means (R,) of values (R, Q) over the sentences of a finding, by subset; first the mean over
    findings that some image has.
    """
    there = [f for f in dict.fromkeys(finding) if relevant[finding == f].any()]
    of = {f"{QUERIES}, {f}": values[:, finding == f].mean(axis=1) for f in there}
    return {QUERIES: np.mean(list(of.values()), axis=0)} | of


def evaluate_queries(
    table, relevant, finding, patients, *, dataset, preset, way="", checkpoint="", split="test"
) -> list[dict]:
    """Rows of P@k, table (Q, N), by finding and over all; 95 % intervals resample the patients of
    the images.
    """
    once, blocks = (
        np.ones((1, table.shape[1])),
        list(metrics.resample_weights(patients, preset.bootstrap, preset.seed)),
    )
    about, rows = _about(dataset, split, way, checkpoint) | {"n": table.shape[1]}, []
    for k in KS:
        values = _by_finding(retrieval.precision(table, relevant, k, once), relevant, finding)
        drawn = np.concatenate(
            [retrieval.precision(table, relevant, k, weights) for weights in blocks]
        )
        for subset, samples in _by_finding(drawn, relevant, finding).items():
            value = values[subset][0]
            rows.append(
                result_row(about, f"precision@{k}", value, samples, subset=subset, keep_draws=True)
            )
    return rows


def chance_of_queries(relevant, finding, *, dataset, split="test") -> list[dict]:
    """P@k of a random order, exactly: in a pool of at least k the share of the images that have the
    finding.
    """
    guess, values = retrieval.chance(relevant.sum(1), relevant.shape[1], KS), {}
    for k in KS:
        for subset, value in _by_finding(guess[f"precision@{k}"][None], relevant, finding).items():
            values.setdefault(subset, {})[f"precision@{k}"] = value
    about = _about(dataset, split, "chance", "", "chance") | {"n": relevant.shape[1]}
    return retrieval.rows(values, None, about)
