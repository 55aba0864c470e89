"""Scores of generated reports: BLEU, METEOR, ROUGE-L, CIDEr (pycocoevalcap) and CheXpert labels,
each report's share kept apart.

A score that is no mean over reports (BLEU, F1, perplexity) is a function of counts that add up:
with `weights` (r, n), how often each of r bootstrap resamples drew each report, it gives (r,), and
nothing is scored again.
"""

import atexit
import re
import shutil
from functools import cache

import numpy as np
import pandas as pd

from data_prep.reports import labels
from medxvl.evaluation import metrics
from medxvl.evaluation.rows import result_row

_WORD = re.compile(r"\w+|[^\w\s]")
CATEGORIES = {"positive": 1.0, "negative": 0.0, "uncertain": -1.0}
SCORES = ("accuracy", "precision", "recall", "f1")


def plain(text: str) -> str:
    """Lower case, words and punctuation set apart by one blank: both sides of every score are read
    so.
    """
    return " ".join(_WORD.findall(text.lower()))


def _pairs(texts, references):
    if len(texts) != len(references):
        raise ValueError(
            f"expected a reference for each text: found {len(texts)} texts and "
            f"{len(references)} references"
        )
    lists = [[r] if isinstance(r, str) else list(r) for r in references]
    return {k: [t] for k, t in enumerate(texts)}, dict(enumerate(lists))


def bleu_counts(texts: list[str], references: list) -> np.ndarray:
    """(n, 10): n-grams found in the reference and n-grams there, for n = 1 to 4; words; words of
    the reference of closest length.

    `references` are texts, or lists of several.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    found, wanted = _pairs(texts, references)
    scorer = BleuScorer(n=4)
    for k in found:
        scorer += (found[k][0], wanted[k])
    rows = []
    for one in scorer.ctest:
        lengths, words = np.asarray(one["reflen"]), one["testlen"]
        closest = min(lengths.tolist(), key=lambda length: (abs(length - words), length))
        rows.append([*one["correct"], *one["guess"], words, closest])
    return np.array(rows, float)


def bleu(counts, weights=None) -> np.ndarray:
    """BLEU-1 to 4 of the corpus, (4,) or (r, 4): geometric mean of the n-gram precisions, times the
    brevity penalty.
    """
    sums = counts.sum(0) if weights is None else weights @ counts
    correct, guess, words, length = sums[..., :4], sums[..., 4:8], sums[..., 8:9], sums[..., 9:]
    tiny, small = (
        1e-15,
        1e-9,
    )  # as in pycocoevalcap, so that nothing found is no division by nothing
    precision = np.exp(
        np.cumsum(np.log((correct + tiny) / (guess + small)), axis=-1) / np.arange(1, 5)
    )
    ratio = (words + tiny) / (length + small)
    return precision * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)


def rouge_l(texts, references) -> np.ndarray:
    """ROUGE-L of each report, (n,)."""
    from pycocoevalcap.rouge.rouge import Rouge

    return (
        np.asarray(Rouge().compute_score(*reversed(_pairs(texts, references)))[1], float)
        if len(texts)
        else np.empty(0)
    )


def cider(texts, references) -> np.ndarray:
    """CIDEr of each report, (n,); how rare a word is comes from these references. NaN for a single
    one, which has no rarity.
    """
    from pycocoevalcap.cider.cider import Cider

    if len(texts) < 2:
        return np.full(len(texts), np.nan)
    return np.asarray(Cider().compute_score(*reversed(_pairs(texts, references)))[1], float)


def meteor(texts, references) -> np.ndarray:
    """METEOR 1.5 of each report, (n,); NaN where there is no Java. The mean over reports, not
    METEOR's own sum over a corpus.
    """
    if shutil.which("java") is None:
        return np.full(len(texts), np.nan)
    found, wanted = _pairs([t or "-" for t in texts], references)
    scores = _meteor().compute_score(wanted, found)[1] if found else []
    return np.where([bool(t) for t in texts], scores, 0.0)


@cache
def _meteor():
    """METEOR's process, started once."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    atexit.register(scorer.meteor_p.kill)
    return scorer


def mean(values, weights=None):
    """Mean of (n,), or of each resample, (r,)."""
    values = np.asarray(values, float)
    return values.mean() if weights is None else weights @ values / weights.sum(1)


def perplexity(losses, words, weights=None):
    """exp of the mean loss a word: `losses` (n,) are sums over a report's `words` (n,)."""
    if weights is None:
        return np.exp(np.sum(losses) / np.sum(words))
    return np.exp((weights @ losses) / (weights @ words))


def label_counts(found: pd.DataFrame, wanted: pd.DataFrame, category: str) -> np.ndarray:
    """(n, 4) true and false positives, false and true negatives of each report, over its 14 cells.

    category: positive, negative or uncertain: a cell counts when it has that label; "mentioned":
    when it has any (what the release calls "all": whether the labels agree plays no part).
    """
    if category == "mentioned":
        a, b = found.notna().to_numpy(), wanted.notna().to_numpy()
    elif category in CATEGORIES:
        a, b = ((table == CATEGORIES[category]).to_numpy() for table in (found, wanted))
    else:
        raise ValueError(
            f"category={category!r}: expected mentioned or one of {', '.join(CATEGORIES)}"
        )
    return np.stack(
        [(a & b).sum(1), (a & ~b).sum(1), (~a & b).sum(1), (~a & ~b).sum(1)], axis=1
    ).astype(float)


def label_scores(counts, weights=None) -> dict[str, np.ndarray]:
    """Micro accuracy, precision, recall and F1 of `label_counts`. Nothing to find and nothing
    found: NaN but for accuracy.
    """
    tp, fp, fn, tn = np.moveaxis(counts.sum(0) if weights is None else weights @ counts, -1, 0)

    return {
        "accuracy": metrics.ratio(tp + tn, tp + fp + fn + tn),
        "precision": metrics.ratio(tp, tp + fp),
        "recall": metrics.ratio(tp, tp + fn),
        "f1": metrics.ratio(2 * tp, 2 * tp + fp + fn),
    }


def most_common_report(texts: list[str], label_sets: np.ndarray) -> str:
    """The report that occurs most often; among equals one of the most common set of findings, the
    first.
    """
    bare = [plain(text) for text in texts]
    kinds, kind, counts = np.unique(bare, return_inverse=True, return_counts=True)
    _, label, often = np.unique(label_sets, return_inverse=True, return_counts=True)
    best = np.lexsort(
        (np.arange(len(texts)), -often[label.reshape(-1)], -counts[kind.reshape(-1)])
    )[0]
    return texts[best]


def nearest_by_text(train_texts: list[str], texts: list[str]) -> np.ndarray:
    """(n,) index of the most similar training text, by tf-idf of its words; what the texts are
    decides what the baseline means.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True)
    known, given = words.fit_transform(train_texts), words.transform(texts)
    parts = (given[k : k + 256] for k in range(0, given.shape[0], 256))
    return np.concatenate([np.asarray((part @ known.T).argmax(axis=1)).ravel() for part in parts])


def evaluate(
    texts,
    references,
    patients,
    *,
    losses=None,
    n_resamples=1000,
    seed=0,
    paper="medvill",
    task="report_generation",
    **about,
) -> list[dict]:
    """Rows of one way to write: BLEU-1..4, METEOR, ROUGE-L, CIDEr, label scores (micro; per kind of
    label), with 95 % intervals.

    `losses`: (sums, words) of `likelihood`, for the perplexity. Label scores of subset "" are of
    the positive labels. METEOR is NaN where there is no Java. The same for X-VL's reports and
    corrections: `paper`, `task`. `about`: see `rows`.
    """
    found, wanted = [plain(t) for t in texts], [plain(t) for t in references]
    about = {"paper": paper, "task": task} | about | {"n": len(texts)}
    counts = bleu_counts(found, wanted)
    tables = [labels.label_reports(list(of)) for of in (texts, references)]
    functions = {f"bleu{k + 1}": ("", lambda w, k=k: bleu(counts, w)[..., k]) for k in range(4)}
    each = {
        "meteor": meteor,
        "rouge_l": rouge_l,
        "cider": cider,
    }
    each = {name: score(found, wanted) for name, score in each.items()}
    functions |= {name: ("", lambda w, name=name: mean(each[name], w)) for name in each}
    if losses is not None:
        functions["perplexity"] = ("", lambda w: perplexity(*losses, w))
    rows = estimates(functions, about, patients, n_resamples, seed)
    for category in (*CATEGORIES, "mentioned"):
        cells = label_counts(*tables, category)
        subset = "" if category == "positive" else f"{category} labels"
        scores = {
            f"label_{s}": (
                subset,
                lambda w, s=s, cells=cells: label_scores(cells, w)[s],
            )
            for s in SCORES
        }
        rows += estimates(scores, about, patients, n_resamples, seed)
    return rows


def estimates(functions: dict, about: dict, patients, n_resamples: int, seed: int) -> list[dict]:
    """A row for each (subset, function of resample weights or None)."""
    drawn = {name: [] for name in functions}
    for w in metrics.resample_weights(patients, n_resamples, seed):
        for name, (_, function) in functions.items():
            drawn[name].append(function(w))
    rows = []
    for name, (subset, function) in functions.items():
        samples = np.concatenate(drawn[name])
        rows.append(
            result_row(about, name, function(None), samples, subset=subset, keep_draws=True)
        )
    return rows


def examples(
    dataset, rows, references, texts, nearest, shown, seed: int, most: int = 4
) -> list[dict]:
    """Original, generated and nearest report of a few studies that may be shown, for
    plots_medvill.examples.
    """
    allowed = np.flatnonzero(np.asarray(shown)[rows])
    picked, items = np.random.default_rng([seed, 23]).permutation(allowed)[:most], []
    for k in picked:
        tables = labels.label_reports([references[k], texts[k], nearest[k]])
        said = [
            ", ".join(tables.columns[(row == 1).to_numpy()]) or "none"
            for _, row in tables.iterrows()
        ]
        lines = [["original", "soft"], [references[k], ""], [f"findings: {said[0]}", "soft"]]
        for name, text, found in (
            ("generated", texts[k], said[1]),
            ("nearest report", nearest[k], said[2]),
        ):
            lines += [
                [name, "soft"],
                [text, ""],
                [f"findings: {found}", "good" if found == said[0] else "bad"],
            ]
        items.append({"image": dataset.images(rows[[k]])[0], "lines": lines})
    return items
