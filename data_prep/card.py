"""card.json: what a prepared dataset is, where it came from, what became of the raw records."""

import json
from pathlib import Path

import pandas as pd

import medxvl

from .raw import PHANTOM_MARK, Table, short_list


def describe(table: Table, index: pd.DataFrame, digests: list[str] | None, raw: Path, wanted: dict) -> dict:
    mark = raw / PHANTOM_MARK
    phantom = json.loads(mark.read_text()) if raw.is_dir() and mark.is_file() else None
    counts = {
        split: {"rows": len(part), "studies": part["study_id"].nunique(), "patients": part["patient_id"].nunique()}
        for split in ("train", "valid", "test")
        if len(part := index[index["split"] == split])
    }
    names = {1: "positive", 0: "negative", -1: "uncertain"}
    prevalence = {
        c: {name: int((index[c] == value).sum()) for value, name in names.items()}
        | {"empty": int(index[c].isna().sum())}
        for c in table.labels
    }
    overlap = {
        "patients": _in_two_splits(index["patient_id"], index["split"]),
        "studies": _in_two_splits(index["study_id"], index["split"]),
        "identical_images": _in_two_splits(pd.Series(digests[:-1]), index["split"]) if digests else [],
    }
    for what, found in overlap.items():
        if found:
            table.notes.append(f"{len(found)} {what.replace('_', ' ')} in more than one split: {short_list(found, 3)}")
    return wanted | {
        "label": f"phantom:{wanted['name']}" if phantom else wanted["name"],
        "synthetic": phantom is not None,
        "phantom": phantom,
        "raw_version": table.raw_version,
        "version": medxvl.__version__,
        "images": len(index) if digests else 0,
        "rows": len(index),
        "counts": counts,
        "attrition": table.attrition,
        "rejects": len(table.rejects),
        "prevalence": prevalence,
        "overlap": {what: len(found) for what, found in overlap.items()},
        "notes": table.notes,
    }


def _in_two_splits(keys: pd.Series, split: pd.Series) -> list:
    pairs = pd.DataFrame({"key": keys.to_numpy(), "split": split.to_numpy()}).drop_duplicates()
    return sorted(pairs["key"][pairs["key"].duplicated()].unique())
