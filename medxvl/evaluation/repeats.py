"""Several seeds or masks beside each other: mean and SD, and paired tests. Reads rows and draws,
computes no score.

Two kinds of repetition, never mixed: *seeds* repeat the training; *draws* repeat the test set, by
bootstrap, with one trained model (MedViLL's ablation reports mean and SD over 30 of them). SD over
draws says nothing about another training.
"""

import numpy as np
import pandas as pd
from scipy import stats

LIKE = ["paper", "task", "dataset", "split", "subset", "model", "metric", "control"]


def spread(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean and sd (of the sample) of each value over its repetitions, and their number.

    `by` "seed": rows of `runs.results` as LIKE with mean, sd and seeds; only what was run with two
    or more. "draw": `runs.draws` as LIKE and seed with mean, sd and draws (how many had a value).
    """
    where, counted = {"seed": (LIKE, "nunique"), "draw": ([*LIKE, "seed"], "size")}[by]
    valued = table.dropna(subset="value").groupby(where, sort=False)
    found = valued.agg(mean=("value", "mean"), sd=("value", "std"), **{f"{by}s": (by, counted)})
    found = found.reset_index()
    return found[found.seeds > 1].reset_index(drop=True) if by == "seed" else found


def paired(table: pd.DataFrame, reference: str, by: str) -> pd.DataFrame:
    """Each model against `reference`, pair by pair: `by` is "draw" (table of `runs.draws`) or
    "seed" (of `runs.results`).

    One row a task, dataset, split, subset, metric (and seed, with draws) and other model:
    difference (other - reference) as mean and sd, pairs, p of the paired t-test (NaN with under two
    pairs or no spread), and p_holm, corrected over the models that are compared with the reference
    there. Controls are left out. ValueError for another `by`.
    """
    if by not in ("draw", "seed"):
        raise ValueError(f"by={by!r}: expected draw or seed")
    where = ["paper", "task", "dataset", "split", "subset", "metric"] + (
        ["seed"] if by == "draw" else []
    )
    valued = table[table.control == ""].dropna(subset="value")
    found = []
    for key, part in valued.groupby(where, sort=False):
        wide = part.pivot_table(index=by, columns="model", values="value", sort=False)
        if reference not in wide:
            continue
        here = []
        for model in wide.columns.drop(reference):
            gap = (wide[model] - wide[reference]).dropna()
            if len(gap):
                spread = len(gap) > 1 and not np.allclose(gap, gap.iloc[0])
                here.append(
                    {
                        "model": model,
                        "difference": gap.mean(),
                        "sd": gap.std(),
                        "pairs": len(gap),
                        "p": stats.ttest_1samp(gap, 0).pvalue if spread else np.nan,
                    }
                )
        corrected = holm([row["p"] for row in here])
        found += [
            dict(zip(where, key, strict=True)) | row | {"p_holm": p}
            for row, p in zip(here, corrected, strict=True)
        ]
    return pd.DataFrame(
        found, columns=[*where, "model", "difference", "sd", "pairs", "p", "p_holm"]
    )


def readable(tests: pd.DataFrame) -> str:
    """A table of `paired` as lines of text; what was said where there is nothing to compare."""
    if tests.empty:
        return "one model alone: nothing to compare in pairs"
    shown = tests.assign(
        difference=[f"{d:+.3f} ± {s:.3f}" for d, s in zip(tests.difference, tests.sd, strict=True)]
    )
    shown["p_holm"] = ["no test" if np.isnan(p) else f"{p:.1e}" for p in tests.p_holm]
    kept = ["task", "dataset", "subset", "metric", "model", "difference", "pairs", "p_holm"]
    return shown[kept].to_string(index=False)


def holm(p) -> np.ndarray:
    """Holm's correction of p-values (k,); NaN stays, and is not counted."""
    p = np.asarray(p, float)
    out, order = np.full(len(p), np.nan), np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return out
