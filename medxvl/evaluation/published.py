"""Published values beside ours: the join, the verdicts, and the facts to state next to the
published chart.

`figures/paper_values.csv` holds one published number a row. An empty `value` is a number that could
not be verified: fill in that one cell and every table and figure picks it up. No published number
stands in code.
"""

import numpy as np
import pandas as pd

from medxvl.config import paths
from medxvl.evaluation import retrieval
from medxvl.evaluation.radiologists import FIVE

COLUMNS = [
    "paper",
    "task",
    "dataset",
    "subset",
    "model",
    "metric",
    "value",
    "status",
    "source",
    "note",
]
CONTROLS = [
    "chance",
    "shuffled images",
    "untrained",
    "supervised linear 32x32",
    "supervised upper bound",
    "image only",
    "report only",
    "words of the report",
    "mean tokens",
    "majority answer",
    "question only",
    "most common report",
    "nearest report",
    "not fine-tuned",
    "text only",
    "left as it is",
    "knows the findings",
    "contrast only",
    "query ignored",
    "identical reports",
]
VERDICTS = [
    "reproduced",
    "close",
    "not reproduced",
    "not comparable",
    "paper value unknown",
    "not run",
]

# Largest |ours - paper| that is still "close" when the paper's value lies outside our interval. Our
# choice: about half of what a 95 % interval of 500 studies spans to one side; less for text scores,
# which vary less.
TOLERANCE = {
    "auroc": 0.02,
    "f1_max": 0.03,
    "f1": 0.03,
    "mcc": 0.03,
    "bleu4": 0.01,
    "perplexity": 0.5,
}
OTHER_TOLERANCE = 0.02
RECOMPUTED_TOLERANCE = (
    5e-4  # same public labels, same arithmetic: only the rounding of the published value may differ
)

# Published rows whose task or subset is named otherwise in our rows.
_OUR_NAME = {
    ("xvl", "zero_shot_8"): ("zero_shot", "mean of 8"),
    ("reference", "zero_shot"): ("readers", None),
    ("xvl", "unseen_disease"): ("unseen_disease", "COVID-19"),
    ("xvl", "error_detection"): ("error_detection", "5 %"),
}
_PUBLISHED_MODEL = {"X-VL (ITM)": "X-VL", "MedViLL (BAR)": "MedViLL"}
# Test data of published rows that leave `dataset` empty (X-VL, what the released evaluation code
# reads).
_PAPER_DATA = {"zero_shot_8": "chexpert_test", "unseen_disease": "covidx", "vqa": "vqa_rad"}
PUBLISHED = [
    "paper",
    "task",
    "subset",
    "metric",
    "published_model",
    "paper_value",
    "paper_data",
    "status",
    "source",
    "note",
]
OURS = [
    "dataset",
    "split",
    "model",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "seed",
    "preset",
    "checkpoint",
    "run",
]


def load_paper(path=None):
    """Published values (COLUMNS); `value` is NaN where it is unknown. Raises ValueError on a cell
    that is no number.
    """
    path = path or paths.PAPER_VALUES
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise ValueError(f"{path}: column(s) missing: {', '.join(missing)}")
    value = pd.to_numeric(table.value.str.strip().replace("", np.nan), errors="coerce")
    wrong = table.value.str.strip().ne("") & value.isna()
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{path}, line {i + 2}: {table.value[i]!r} is not a number (write 0.853, or leave "
            "it empty)"
        )
    filled = table.status.eq("not_found") & value.notna()
    table["status"] = table.status.mask(filled, "filled in by the user")
    return table.assign(value=value)


def add_means(paper):
    """`paper` with a row "mean of 5" for each model and metric of which all five pathologies are
    published.
    """
    five = paper[paper.subset.isin(FIVE) & paper.value.notna()]
    rows = []
    for (name, task, dataset, model, metric), part in five.groupby(
        COLUMNS[:3] + ["model", "metric"], sort=False
    ):
        if len(part) == len(FIVE):
            rows.append(
                {
                    "paper": name,
                    "task": task,
                    "dataset": dataset,
                    "subset": "mean of 5",
                    "model": model,
                    "metric": metric,
                    "value": part.value.mean(),
                    "source": part.source.iloc[0],
                    "status": " + ".join(part.status.unique()),
                    "note": "mean of the five rows, computed here",
                }
            )
    return pd.concat([paper, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)


def _paper_key(row):
    """What a published row is about, in the names of our rows: paper, task, subset, model,
    metric.
    """
    task, subset = _OUR_NAME.get((row["paper"], row["task"]), (row["task"], None))
    model = "readers" if task == "readers" else row["model"]
    return (
        row["paper"].replace("reference", "xvl"),
        task,
        row["subset"] or subset or "",
        model,
        row["metric"],
    )


def _our_key(row):
    """As `_paper_key`; X-VL reports its image-text matching score, MedViLL is the model with the
    mask BAR.

    MedViLL's published values of a whole test split have the subset "test"; of retrieval, either
    direction. X-VL's retrieval finds the query's own partner, where recall is whether it was hit.
    """
    model = (
        "readers" if row["task"] == "readers" else _PUBLISHED_MODEL.get(row["model"], row["model"])
    )
    subset, metric = row["subset"], row["metric"]
    if row["paper"] == "medvill" and subset in ("", "image to report", "report to image"):
        subset = "test"
    if row["paper"] == "xvl" and row["task"] == "retrieval" and subset.endswith(retrieval.OWN):
        subset, metric = "", metric.replace("hit@", "recall@")
    return row["paper"], row["task"], subset, model, metric


def _controls(rows, ours):
    """Values of the control rows that belong to each row of `ours`; of the same model where there
    are such.
    """
    shared = ["paper", "task", "dataset", "split", "subset", "metric", "seed"]
    pool = rows[rows.control.isin(CONTROLS)]
    exact = (
        pool.drop_duplicates([*shared, "model", "control"])
        .set_index([*shared, "model", "control"])
        .value
    )
    loose = pool.drop_duplicates([*shared, "control"]).set_index([*shared, "control"]).value
    found = {}
    for name in CONTROLS:
        values = [
            exact.get((*key, model, name), loose.get((*key, name), np.nan))
            for *key, model in ours[[*shared, "model"]].itertuples(index=False)
        ]
        if not np.isnan(np.array(values, float)).all():
            found[name] = values
    return pd.DataFrame(found, index=ours.index)


def verdict(row):
    """(verdict, reason) of a row of `join`."""
    known, have = not np.isnan(row.paper_value), not np.isnan(row.value)
    unknown = (
        "published value unknown: " + row.note
        if row.published_model
        else "no published value for this row"
    )
    if row.split is None or pd.isna(row.split):  # no row of ours at all
        if not known:
            return "paper value unknown", unknown
        other = row.paper == "xvl" and row.published_model != "X-VL"
        return (
            "not run",
            "another group's model, not part of this package"
            if other
            else "no row of ours in this run",
        )
    if row.dataset.startswith("phantom"):
        return "not comparable", "synthetic phantom" + ("" if known else f"; {unknown}")
    if not known:
        return "paper value unknown", unknown
    if not have:
        return "not comparable", "ours has no value: a class without positives or without negatives"
    if row.split != "test":
        return "not comparable", f"other split: ours is {row.split}"
    if not row.paper_data:
        return "not comparable", "the data of the published value are not recorded (column dataset)"
    if row.dataset != row.paper_data:
        return "not comparable", f"other data: ours {row.dataset}, paper {row.paper_data}"
    if "recomputed" in row.status:
        good = abs(row.difference) <= row.tolerance + 1e-12
        return (
            "reproduced" if good else "not reproduced"
        ), f"same public labels, must agree to {row.tolerance:g}"
    settings = "" if row.preset == "paper" else f"; preset {row.preset}, not the published settings"
    if row.ci_low <= row.paper_value <= row.ci_high:
        return "reproduced", "published value inside our 95 % CI" + settings
    if abs(row.difference) <= row.tolerance + 1e-12:
        return "close", f"outside our CI, within {row.tolerance:g}" + settings
    return "not reproduced", f"outside our CI and {row.tolerance:g}" + settings


def join(rows, paper=None):
    """Every published value and every row of ours, side by side where they are the same thing.

    `rows`: result rows (`runs.results`). Gives the columns PUBLISHED, OURS, one for each control
    that was run, and difference (ours - paper), tolerance, verdict, reason.
    """
    published = add_means(load_paper() if paper is None else paper)
    rows = rows.reindex(
        columns=list(dict.fromkeys([*rows.columns, "control", *COLUMNS[:7], *OURS]))
    )
    for column in (
        "paper",
        "task",
        "dataset",
        "split",
        "subset",
        "model",
        "control",
        "seed",
        "preset",
    ):
        rows[column] = rows[column].fillna("").astype(str)
    ours = rows[rows.control.isin(["", "reader"])]
    ours = pd.concat([ours, _controls(rows, ours)], axis=1)

    by_key = {}
    for i, row in enumerate(published.to_dict("records")):
        row["paper_data"], row["order"] = row["dataset"] or _PAPER_DATA.get(row["task"], ""), i
        by_key.setdefault(_paper_key(row), []).append(row)
    pairs, paired = [], set()
    for row in ours.to_dict("records"):
        candidates = by_key.get(_our_key(row), [])
        # published on several data sets: the same data where there are such
        for other in (
            [p for p in candidates if p["paper_data"] == row["dataset"].removeprefix("phantom:")]
            or candidates
            or [None]
        ):
            pairs.append(_pair(other, row))
            paired.add(other and other["order"])
    pairs += [
        _pair(p, None) for group in by_key.values() for p in group if p["order"] not in paired
    ]
    table = pd.DataFrame(pairs).sort_values("order", kind="stable", ignore_index=True)
    judged = [verdict(row) for row in table.itertuples(index=False)]
    table["verdict"], table["reason"] = [v for v, _ in judged], [r for _, r in judged]
    controls = [c for c in CONTROLS if c in ours]
    return table[[*PUBLISHED, *OURS, *controls, "difference", "tolerance", "verdict", "reason"]]


def _pair(published, ours):
    """One row of `join` from a published row and a row of ours, either of which may be missing."""
    row = {c: np.nan for c in [*OURS, *CONTROLS]} | {"split": None}
    row |= {k: v for k, v in (ours or {}).items() if k in row}
    names = published or ours
    row |= {c: names[c] for c in ("paper", "task", "metric")}
    row["subset"] = (ours or {}).get("subset") or names["subset"]
    row["published_model"], row["paper_value"] = (
        (published["model"], published["value"]) if published else ("", np.nan)
    )
    row |= {
        c: published[c] if published else "" for c in ("status", "source", "note", "paper_data")
    }
    row["order"] = published["order"] if published else np.inf
    row["difference"] = row["value"] - row["paper_value"]
    row["tolerance"] = TOLERANCE.get(row["metric"], OTHER_TOLERANCE)
    if "recomputed" in row["status"]:
        row["tolerance"] = RECOMPUTED_TOLERANCE
    return row


def readable(table):
    """A table of `join` as text for reading: one row a published value or a result, numbers with
    their interval.
    """

    def number(value, form=".3f"):
        return "" if pd.isna(value) else format(value, form)

    def ours(row):
        bounds = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        return number(row["value"]) + bounds

    shown = pd.DataFrame(
        {
            "task": table.task,
            "subset": table.subset,
            "metric": table.metric,
            "published model": table.published_model,
            "paper": [number(v, ".4g") for v in table.paper_value],
            "paper data": table.paper_data,
            "status": table.status,
            "our model": table.model.fillna(""),
            "our data": table.dataset.fillna(""),
            "ours [95 % CI]": [ours(row) for _, row in table.iterrows()],
            "n": [number(v, ".0f") for v in table.n],
            **{
                c: [number(v) for v in table[c]]
                for c in CONTROLS
                if c in table and table[c].notna().any()
            },
            "difference": [number(v, "+.3f") for v in table.difference],
            "tolerance": [f"{t:g}" for t in table.tolerance],
            "verdict": table.verdict,
            "reason": table.reason,
            "source": table.source,
        }
    )
    keep = [c for c in shown if (shown[c] != "").any() or c in ("paper", "ours [95 % CI]")]
    return shown[keep].reset_index(drop=True)
