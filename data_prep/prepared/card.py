"""card.json: what a prepared dataset is, where it came from, what became of the raw records."""

import json
from pathlib import Path

import h5py
import pandas as pd

from data_prep import datasets
from data_prep.prepared.overlap import SPLITS, in_two_splits, near_identical
from data_prep.reading.raw import PHANTOM_MARK, Table, sha256, short_list
from medxvl import __version__

MOST_EXAMPLES = 20


def describe(
    table: Table,
    index: pd.DataFrame,
    pixels: dict | None,
    raw: Path,
    folder: Path,
    wanted: dict,
    progress: bool,
) -> dict:
    """The card of the files in `folder`; `pixels`: what writing._write_images returned, None
    without images.
    """
    mark = (raw if raw.is_dir() else raw.parent) / PHANTOM_MARK
    phantom = json.loads(mark.read_text()) if mark.is_file() else None
    overlap, examples = _overlap(index, pixels, folder, progress)
    for what, number in overlap.items():
        if number:
            some = short_list(examples[what], 3)
            table.notes.append(
                f"{number:,} {what.replace('_', ' ')} in more than one split: {some}"
            )
    parts = {split: index[index["split"] == split] for split in SPLITS}
    counts = {
        split: {
            "rows": len(part),
            "studies": part["study_id"].nunique(),
            "patients": part["patient_id"].nunique(),
        }
        for split, part in parts.items()
        if len(part)
    }
    published = getattr(datasets.load(wanted["name"]), "EXPECTED", {"source": "", "counts": {}})
    there = {split: part["study_id"].nunique() for split, part in parts.items()}
    there |= {"studies": index["study_id"].nunique(), "images": len(index)} | table.found
    expected = [
        {"what": what, "expected": number, "found": there.get(what), "source": published["source"]}
        for what, number in published["counts"].items()
    ]
    names = {1: "positive", 0: "negative", -1: "uncertain"}
    prevalence = {}
    for column in table.labels:
        labels = index[column]
        prevalence[column] = {name: int((labels == value).sum()) for value, name in names.items()}
        prevalence[column]["empty"] = int(labels.isna().sum())
    return wanted | {
        "label": f"phantom:{wanted['name']}" if phantom else wanted["name"],
        "synthetic": phantom is not None,
        "phantom": phantom,
        "raw_version": table.raw_version,
        "version": __version__,
        "images": len(index) if pixels else 0,
        "rows": len(index),
        "columns": list(index.columns),
        "counts": counts,
        "expected": expected,
        "attrition": table.attrition,
        "rejects": len(table.rejects),
        "labels": table.labels,
        "prevalence": prevalence,
        "overlap": overlap,
        "overlap_examples": {
            what: [str(x) for x in found[:MOST_EXAMPLES]] for what, found in examples.items()
        },
        "notes": table.notes,
        "fingerprint": {
            "index": sha256(folder / "index.csv"),
            "pixels": pixels["all"] if pixels else None,
        },
        "extra": {
            name: {"rows": len(t), "sha256": sha256(folder / name)}
            for name, t in table.extra.items()
        },
    }


def _overlap(
    index: pd.DataFrame, pixels: dict | None, folder: Path, progress: bool
) -> tuple[dict, dict]:
    """How many patients, studies and images are in more than one split; and which, as text."""
    split, names = index["split"], index["image_id"].astype(str).to_numpy()
    examples = {"patients": in_two_splits(index["patient_id"], split)}
    examples["studies"] = in_two_splits(index["study_id"], split)
    examples |= {"identical_images": [], "near_identical_images": []}
    if pixels:
        twice = in_two_splits(pixels["each"], split)
        rows = pd.DataFrame({"digest": pixels["each"], "name": names})
        rows = rows[rows["digest"].isin(set(twice[:MOST_EXAMPLES]))].groupby("digest")["name"]
        examples["identical_images"] = [" = ".join(group.iloc[:3]) for _, group in rows]
        with h5py.File(folder / "images.h5") as h5:
            near = near_identical(
                pixels["hashes"], pixels["each"], split, lambda row: h5["cxr"][row], progress
            )
        examples["near_identical_images"] = [f"{names[a]} ~ {names[b]}" for a, b in near]
    numbers = {what: len(found) for what, found in examples.items()}
    return numbers | ({"identical_images": len(twice)} if pixels else {}), examples
