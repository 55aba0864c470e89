"""Looking at prepared data: tables and the one-study figure of notebooks 01 and 02, and what may be shown at all.

Credentialed data forbid passing on pixels, report text and record names, and an executed notebook is easily passed on.
So these are shown only for data known to be open; anything else, a hospital's own data too, is shown as counts.
"""

import re
import textwrap

import numpy as np
import pandas as pd

from medxvl import style
from medxvl.data import CHEXPERT_14

FILES = {
    "index.csv": "one row an image: ids, split, view, report sections, labels",
    "images.h5": "pixels, uint8, row i belongs to row i of the index",
    "readers.csv": "what each reader said of each study, one value a row",
    "rejects.csv": "every raw record that was not used, with the reason",
    "card.json": "version, settings, attrition, counts, fingerprints",
}
MEDVILL = {"all": 91685, "train": 89395, "valid": 759, "test": 1531}  # studies; MedViLL, data preparation
_OPEN = ("openi",)  # readers of collections that are public as a whole
_OPEN_LICENSE = r"^\s*(?:CC\b|CC0|synthetic)"
_VALUES = {1: "positive", 0: "negative", -1: "uncertain"}
_WORDS = {  # words that point to a label; for reading along only, the labels themselves come from the dataset
    "No Finding": "no acute|normal chest|unremarkable chest|clear lungs|lungs are clear",
    "Enlarged Cardiomediastinum": "mediastin",
    "Cardiomegaly": "cardiomegal|cardiac|heart",
    "Lung Opacity": "opacit|opacif",
    "Lung Lesion": r"nodul|\bmass|lesion",
    "Edema": "edema|congestion",
    "Consolidation": "consolidat",
    "Pneumonia": "pneumonia|infectio",
    "Atelectasis": "atelecta|volume loss|collapse",
    "Pneumothorax": "pneumothora|pleural air",
    "Pleural Effusion": "effusion|pleural fluid",
    "Pleural Other": "pleural (?:thickening|plaque|scar)",
    "Fracture": "fracture",
    "Support Devices": r"\btube|catheter|(?:picc|venous) line|pacemaker|\blead",
}


def may_show(dataset) -> np.ndarray:
    """Index rows that may appear as picture and text, (n,) bool: synthetic, an open collection's, openly licensed."""
    if dataset.synthetic or dataset.card["name"] in _OPEN:
        return np.ones(len(dataset.index), dtype=bool)
    if "license" in dataset.index:
        return dataset.index["license"].astype(str).str.contains(_OPEN_LICENSE, case=False).to_numpy(dtype=bool)
    return np.zeros(len(dataset.index), dtype=bool)


def card(dataset) -> dict:
    """The dataset's card; for data that may not be shown, numbers of six digits and more in free text are masked."""
    if may_show(dataset).any():
        return dataset.card
    steps = [step | {"why": _masked(step["why"])} for step in dataset.card["attrition"]]
    return dataset.card | {"attrition": steps, "notes": [_masked(note) for note in dataset.card["notes"]]}


def _masked(text) -> str:
    return re.sub(r"\d{6,}|[0-9a-f]{8}(?:-[0-9a-f]{8})+", "___", str(text))


def files(dataset) -> list[dict]:
    """The files of a prepared folder: name, size in kB, what it holds."""
    there = [dataset.folder / name for name in FILES if (dataset.folder / name).is_file()]
    return [{"file": p.name, "kB": round(p.stat().st_size / 1000), "holds": FILES[p.name]} for p in there]


def rejects_by_reason(dataset) -> pd.DataFrame:
    """Rejected records by reason, most frequent first: reason, kind (fault, selection, unlisted file), records."""
    reasons = dataset.rejects["reason"]
    counts = (reasons if may_show(dataset).any() else reasons.map(_masked)).value_counts()
    table = counts.rename_axis("reason").reset_index(name="records")
    kinds = {"not selected": "selection", "file not in": "unlisted file"}
    kind = [next((k for start, k in kinds.items() if r.startswith(start)), "fault") for r in table["reason"]]
    return table.assign(kind=kind)[["kind", "reason", "records"]]


def medvill(dataset) -> tuple[pd.DataFrame | None, str]:
    """Studies beside MedViLL's published counts, and a sentence; no table unless it is all of real MIMIC-CXR."""
    made = dataset.card
    if dataset.synthetic:
        return None, "The main dataset is the synthetic phantom: its counts are not compared with MedViLL's."
    if made["name"] != "mimic_cxr":
        return None, f"The main dataset is {dataset.label}, not MIMIC-CXR: no comparison with MedViLL's counts is made."
    if made["limit"]:
        return None, f"Only the first {made['limit']:,} records were prepared: no comparison with MedViLL's counts."
    found = {split: counts["studies"] for split, counts in made["counts"].items()}
    found["all"] = sum(found.values())
    table = pd.DataFrame({"MedViLL": MEDVILL, "found": {split: found.get(split, 0) for split in MEDVILL}})
    views = made["settings"].get("views", "")
    other = "" if views == "AP" else f" Views here are {views}; MedViLL kept AP only."
    sentence = f"Studies with an image and a report, {made['raw_version']}.{other}"
    return table.assign(difference=table["found"] - table["MedViLL"]), sentence


def overlap_text(card: dict) -> str:
    """A plain statement on patients, studies and identical images that occur in more than one split."""
    splits = list(card["counts"])
    if len(splits) < 2:
        return f"{card['label']}: one split only ({', '.join(splits) or 'none'}), so nothing can overlap."
    checked = {k.replace("_", " "): n for k, n in card["overlap"].items() if card["images"] or k != "identical_images"}
    if not any(checked.values()):
        return f"{card['label']}: no overlap between {', '.join(splits)}; checked: {', '.join(checked)}."
    told = ", ".join(f"{n:,} {what}" for what, n in checked.items() if n)
    return f"{card['label']}: WARNING, {told} in more than one split: test results on these data are too good."


def telling_study(dataset, rows) -> int:
    """Among index rows `rows`, the one that shows most: both sections, then most kinds of label, then labels; first."""
    part = dataset.index.iloc[rows]
    labels = part[list(CHEXPERT_14)].apply(pd.to_numeric)
    kinds = sum((labels == value).any(axis=1).astype(int) for value in _VALUES)
    sections = (part["findings"] != "").astype(int) + (part["impression"] != "")
    return int(rows[int(np.argmax(100 * sections + 20 * kinds + labels.notna().sum(axis=1)))])


def sentence_labels(sentence: str, study: pd.Series) -> str:
    """Labels whose words occur in a sentence, each with what the dataset says of the whole study."""
    named = [label for label, words in _WORDS.items() if re.search(words, sentence, re.IGNORECASE)]
    return "; ".join(f"{label}: {_VALUES.get(study[label], 'no label')}" for label in named)


def examples(dataset, rows, findings=CHEXPERT_14) -> dict[str, int]:
    """For each finding one of `rows` that is positive for it and for as little else as possible, where there is one."""
    positive = dataset.index.iloc[rows][list(findings)].apply(pd.to_numeric).to_numpy() == 1
    order = np.argsort(positive.sum(axis=1), kind="stable")
    hits = {f: order[positive[order, k]] for k, f in enumerate(findings)}
    return {finding: int(rows[hit[0]]) for finding, hit in hits.items() if len(hit)}


@style.styled
def study_figure(image, study, dataset=""):
    """Image (S, S) uint8, or None, with the report sections of an index row beside it."""
    fig, (left, right) = style.grid(2, 2, 3.0)
    for ax in (left, right):
        ax.set_axis_off()
    if image is not None:
        left.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    lines = [f"study {study['study_id']}, {study['view'] or 'view not given'}, split {study['split']}"]
    for section in ("findings", "impression"):
        lines += ["", section.upper(), *textwrap.wrap(study[section] or "(empty)", 58)]
    shown = lines[:24] + ["..."] * (len(lines) > 24)
    right.text(0, 1, "\n".join(shown), va="top", linespacing=1.4)
    style.note(fig, dataset)
    return fig
