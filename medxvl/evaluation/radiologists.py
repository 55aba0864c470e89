"""Radiologists beside the models: operating points of the benchmark readers, and the curves of
models with predictions.

Reads a prepared `chexpert_test` folder: `index.csv` (ground truth: majority of five radiologists;
split test) and `readers.csv` (long: study_id, reader, kind, finding, value). Columns and findings
are always taken by name: their order differs between the original files. Predictions of other
models are used by rank only, some lie outside [0, 1].
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from medxvl.evaluation import metrics
from medxvl.evaluation.rows import class_rows

FIVE = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
EIGHT = [*FIVE, "Fracture", "Pneumonia", "Pneumothorax"]  # X-VL, zero-shot abnormality detection
POINT_METRICS = ["sensitivity", "specificity", "f1", "mcc"]
LONG = ["study_id", "reader", "kind", "finding", "value"]


def load(folder):
    """Ground truth (DataFrame, one row a study, with `patient_id` and the findings) and the long
    reader table.

    Raises FileNotFoundError or ValueError when the folder is not a prepared chexpert_test one.
    """
    folder = Path(folder)
    for name in ("index.csv", "readers.csv"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: expected one that `python -m data_prep chexpert_test`"
                " wrote; prepare the CheXpert test labels first"
            )
    truth = pd.read_csv(folder / "index.csv", dtype={"study_id": str, "patient_id": str})
    readers = pd.read_csv(folder / "readers.csv", dtype={"study_id": str, "reader": str})
    missing = [c for c in LONG if c not in readers] + [
        c for c in ("study_id", "patient_id") if c not in truth
    ]
    if missing:
        raise ValueError(
            f"{folder}: column(s) missing in readers.csv or index.csv: {', '.join(missing)}"
        )
    return truth.drop_duplicates("study_id").set_index("study_id"), readers


def _benchmark(folder, findings):
    """Ground truth, {reader: decisions, one row a study of it} and the findings that all have."""
    truth, readers = load(folder)
    tables = {
        name: rows.pivot(index="study_id", columns="finding", values="value").reindex(truth.index)
        for name, rows in readers[readers.kind == "benchmark"].groupby("reader", sort=True)
    }
    if not tables:
        kinds = ", ".join(sorted(readers.kind.astype(str).unique())) or "none"
        raise ValueError(
            f"{folder}/readers.csv has no reader of kind 'benchmark' (kinds found: {kinds})"
        )
    findings = [f for f in findings if f in truth and all(f in t for t in tables.values())]
    return truth, tables, findings


def _masked(truth, decisions, findings):
    """Labels (n, c), NaN where the reader gave no decision, and decisions (n, c)."""
    labels, decisions = truth[findings].to_numpy(float), decisions[findings].to_numpy(float)
    return np.where(np.isnan(decisions), np.nan, labels), decisions


def _means(findings):
    """[(name, members)] of the means reported beside single findings: the five pathologies, and all
    findings.
    """
    five = [f for f in findings if f in FIVE]
    sets = [five, findings] if 0 < len(five) < len(findings) else [findings]
    return [(f"mean of {len(members)}", members) for members in sets]


def operating_points(folder, findings=EIGHT):
    """One row a finding and benchmark reader: finding, reader, sensitivity, specificity, f1, mcc,
    n, positives.
    """
    truth, tables, findings = _benchmark(folder, findings)
    rows = []
    for reader, table in tables.items():
        y, called = _masked(truth, table, findings)
        values = {name: getattr(metrics, name)(y, called) for name in POINT_METRICS}
        for k, finding in enumerate(findings):
            rows.append(
                {
                    "finding": finding,
                    "reader": reader,
                    **{m: float(v[k]) for m, v in values.items()},
                    "n": int(np.sum(~np.isnan(y[:, k]))),
                    "positives": int(np.nansum(y[:, k])),
                }
            )
    points = pd.DataFrame(rows, columns=["finding", "reader", *POINT_METRICS, "n", "positives"])
    order = {f: i for i, f in enumerate(findings)}
    return points.sort_values(
        ["finding", "reader"],
        key=lambda c: c.map(order) if c.name == "finding" else c,
        ignore_index=True,
    )


def mean_points(points):
    """Mean of the readers for each finding (the papers' "3 benchmark radiologists"), then over the
    five pathologies and over all findings."""
    means = points.groupby("finding", sort=False)[POINT_METRICS].mean().reset_index()
    overall = [
        {"finding": subset, **means[means.finding.isin(members)][POINT_METRICS].mean()}
        for subset, members in _means(list(means.finding))
    ]
    return pd.concat([means, pd.DataFrame(overall)], ignore_index=True)


def result_rows(folder, findings=EIGHT, n_resamples=1000, seed=0):
    """Result rows (dicts for `run.add_rows`) of the readers' mean: sensitivity, specificity, F1 and
    MCC for each finding, the mean of the five pathologies and of all findings; 95 % intervals from
    resampling patients."""
    truth, tables, findings = _benchmark(folder, findings)
    card = Path(folder) / "card.json"
    label = (
        json.loads(card.read_text(encoding="utf-8"))["label"] if card.is_file() else "chexpert_test"
    )
    kind = "simulated readers" if label.startswith("phantom") else "benchmark radiologists"
    groups = [(finding, [k]) for k, finding in enumerate(findings)]
    groups += [
        (subset, [findings.index(f) for f in members]) for subset, members in _means(findings)
    ]
    about = {
        "paper": "xvl",
        "task": "readers",
        "dataset": label,
        "model": f"{len(tables)} {kind} (mean)",
        "control": "reader",
    }
    rows = []
    for name in POINT_METRICS:
        metric, values, samples, read = getattr(metrics, name), [], [], []
        for table in tables.values():
            y, called = _masked(truth, table, findings)
            values.append(metric(y, called))
            read.append(~np.isnan(y))
            samples.append(
                metrics.bootstrap(metric, y, called, truth.patient_id, n_resamples, seed)
            )
        # over readers, resample by resample; what at least one reader gave counts
        value, sample = np.mean(values, axis=0), np.mean(samples, axis=0)
        rows += class_rows(about, name, value, sample, groups, np.any(read, axis=0))
    return rows


def model_predictions(folder, findings=EIGHT):
    """Predictions that come with the labels: study_id, finding, label, score, model; empty when
    there are none.
    """
    truth, readers = load(folder)
    part = readers[
        (readers.kind == "model") & readers.finding.isin(findings) & readers.value.notna()
    ]
    labels = (
        truth[[f for f in findings if f in truth]]
        .rename_axis(columns="finding")
        .stack()
        .rename("label")
    )
    part = part.rename(columns={"value": "score", "reader": "model"}).join(
        labels, on=["study_id", "finding"]
    )
    part = part.dropna(subset="label")[["study_id", "finding", "label", "score", "model"]]
    return part.sort_values(["model", "finding", "study_id"], ignore_index=True)


def curves(predictions):
    """ROC curves of a long prediction table: finding, model, auroc, n, fpr, tpr (the last two are
    arrays).

    A finding without positives or negatives has no curve and is left out.
    """
    rows = []
    for (model, finding), part in predictions.groupby(["model", "finding"], sort=False):
        y, s = part.label.to_numpy(float), part.score.to_numpy(float)
        value = metrics.auroc(y, s)
        if not np.isnan(value):
            fpr, tpr, _ = metrics.roc(y, s)
            rows.append(
                {
                    "finding": finding,
                    "model": model,
                    "auroc": float(value),
                    "n": int(np.sum(~np.isnan(y))),
                    "fpr": fpr,
                    "tpr": tpr,
                }
            )
    return pd.DataFrame(rows, columns=["finding", "model", "auroc", "n", "fpr", "tpr"])
