"""Print the scores and the speed of the report labeller: python tests/benchmarks/labels.py [FOLDER]

FOLDER (default ../shared/data/openi) holds indiana_reports.csv, gold_labels_14.csv and
chexpert_labels_train.jsonl. The rules were written from the errors on the half called "developed
on" (even MD5 of the report's id); the other half was only scored.
"""

import hashlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.reports.labels import COLUMNS, label_reports

GOLD = {"Effusion": "Pleural Effusion"} | {
    name: name
    for name in (
        "Atelectasis",
        "Cardiomegaly",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
    )
}


def scores(
    title: str, names: list[str], true: np.ndarray, found: np.ndarray, half: np.ndarray
) -> None:
    """true, found: bool (reports, findings); half: 0 or 1 of each report."""
    print(f"\n{title}: F1, {len(true)} reports")
    parts = {"developed on": half == 0, "other half": half == 1, "all": half >= 0}
    head = "".join(f"{part:>14s}" for part in parts)
    print(f"{'':28s}{head}{'positives':>11s}{'missed':>8s}{'too many':>10s}")
    for i, name in [*enumerate(names), (slice(None), "micro")]:
        t, f = true[:, i], found[:, i]
        f1 = [
            2 * (t & f)[rows].sum() / max(1, t[rows].sum() + f[rows].sum())
            for rows in parts.values()
        ]
        counts = f"{t.sum():11d}{(t & ~f).sum():8d}{(f & ~t).sum():10d}"
        print(f"{name:28s}{''.join(f'{value:14.3f}' for value in f1)}{counts}")


def halves(ids) -> np.ndarray:
    return np.array([int(hashlib.md5(str(i).encode()).hexdigest(), 16) % 2 for i in ids])


def main(folder: Path) -> None:
    reports = pd.read_csv(folder / "indiana_reports.csv", dtype={"uid": str}).set_index("uid")
    gold = pd.read_csv(folder / "gold_labels_14.csv")
    ids = gold.filename.str[3:]
    texts = (reports.findings.fillna("") + "\n\n" + reports.impression.fillna("")).loc[ids].tolist()
    label_reports(texts[:100])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        found = label_reports(texts)
        seconds.append(time.perf_counter() - start)
    print(
        f"speed: {len(texts) / np.median(seconds):,.0f} reports a second on one core (median of 5)"
    )
    true = gold[list(GOLD)].to_numpy() == 1
    scores("gold labels", list(GOLD), true, found[list(GOLD.values())].to_numpy() == 1, halves(ids))

    lines = (folder / "chexpert_labels_train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    names = COLUMNS[1:]
    true = np.array(
        [[name in re.findall(r"'([^']*)'", r["label"]) for name in names] for r in records]
    )
    found = label_reports([r["text"] for r in records])[names].to_numpy()
    scores(
        "output of the CheXpert labeler",
        names,
        true,
        found == 1,
        halves([r["id"] for r in records]),
    )
    denied = true & (found == 0)
    print(
        f"\nits {true.sum()} positives include {denied.sum()} that the sentence denies by our "
        "reading, e.g.:"
    )
    for row, column in np.argwhere(denied)[:: max(1, denied.sum() // 8)]:
        print(f"  {names[column]}: {records[row]['text'][:150]}")


if __name__ == "__main__":
    main(
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).resolve().parents[3] / "shared/data/openi"
    )
