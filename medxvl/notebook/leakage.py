"""Leakage: what occurs in more than one split, so that a test would ask what training has
answered.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from medxvl.notebook.data_tables import has_report, questions

MEANING = {
    "patients": "a model can know the patient",
    "studies": "a model can know the study",
    "identical images": "the same pixels as stored",
    "near-identical images": "the same picture, saved or exposed in another way",
    "report texts": "word for word; normal reports often are",
    "images by their questions": "other questions on the same image",
}


def report(dataset) -> pd.DataFrame:
    """One row for each kind of overlap, in words or numbers: in more than one split, between which,
    test rows concerned.

    Patients, studies, reports and questions are counted in the index, images are those of the card.
    """
    index, overlap = dataset.index, dataset.card["overlap"]
    splits = list(dataset.card["counts"])
    pairs = [f"{a} & {b}" for a, b in combinations(splits, 2)]
    lines = {
        "patients": _keys(index, "patient_id", splits),
        "studies": _keys(index, "study_id", splits),
    }
    for what in ("identical images", "near-identical images"):
        number = overlap.get(what.replace(" ", "_").replace("-", "_"), "not looked for")
        seen = number if dataset.card["images"] else "no images"
        lines[what] = {"in more than one split": seen}
    some = has_report(index)
    if some.any():
        texts = index[some].assign(
            text=(index["findings"] + " " + index["impression"])
            .str.lower()
            .str.split()
            .str.join(" ")
        )
        lines["report texts"] = _keys(texts, "text", splits)
    asked = questions(dataset)
    if asked is not None:
        lines["images by their questions"] = _keys(
            asked, "image_id", sorted(asked["split"].unique())
        )
    table = pd.DataFrame.from_dict(lines, orient="index")
    columns = [
        "in more than one split",
        *(p for p in pairs if p in table),
        "test rows concerned",
        "of test rows",
    ]
    table = table.reindex(columns=columns).assign(meaning=table.index.map(MEANING))
    return table.astype(object).map(_cell).rename_axis("what")


def _cell(value):
    """Whole numbers as such, though their column has gaps; "" for a gap."""
    return ("" if np.isnan(value) else int(value)) if isinstance(value, float) else value


def _keys(index: pd.DataFrame, column: str, splits: list[str]) -> dict:
    """Values of `column` that occur in several splits: in all, in each pair, and the rows of test
    that they are of.
    """
    own = {split: set(index[column][index["split"] == split]) for split in splits}
    both = {f"{a} & {b}": len(own[a] & own[b]) for a, b in combinations(splits, 2)}
    seen = set().union(*(own[split] for split in splits if split != "test")) if splits else set()
    test = index[column][index["split"] == "test"]
    several = (
        set().union(*(own[a] & own[b] for a, b in combinations(splits, 2)))
        if len(splits) > 1
        else set()
    )
    told = {"in more than one split": len(several)} | both
    return told | (
        {"test rows concerned": int(test.isin(seen).sum()), "of test rows": len(test)}
        if len(test)
        else {}
    )


def sentence(dataset) -> str:
    """The report in words: what overlaps, what was looked for in vain, what cannot be known."""
    made, label = dataset.card, dataset.label
    splits = list(made["counts"])
    if len(splits) < 2:
        return f"{label}: one split only ({', '.join(splits) or 'none'}), so nothing can overlap."
    checked = {
        what.replace("near_identical", "near-identical").replace("_", " "): n
        for what, n in made["overlap"].items()
        if made["images"] or "images" not in what
    }
    index = dataset.index
    alone = (index["patient_id"] == index["study_id"]).all()
    blind = (
        " Patients are not told apart from studies in these data: that one is in two splits "
        "could not be seen."
        if alone
        else ""
    )
    if not any(checked.values()):
        return (
            f"{label}: no overlap between {', '.join(splits)}; looked for: "
            f"{', '.join(checked)}.{blind}"
        )
    told = ", ".join(f"{n:,} {what}" for what, n in checked.items() if n)
    return (
        f"{label}: WARNING, {told} in more than one split: test results on these data are "
        f"too good.{blind}"
    )


def copies(dataset, shown, most=3) -> dict[int, str]:
    """Index row -> title of up to `most` pairs of near-identical, then identical, images in two
    splits; in pairs.

    shown: (n,) bool, rows that may be shown; a pair is left out unless both may be.
    """
    examples = dataset.card.get("overlap_examples", {})
    told = [
        (pair.split(" ~ "), "near-identical") for pair in examples.get("near_identical_images", [])
    ]
    told += [(pair.split(" = "), "identical") for pair in examples.get("identical_images", [])]
    row_of = pd.Series(np.arange(len(dataset.index)), index=dataset.index["image_id"])
    row_of = row_of[~row_of.index.duplicated()]
    titles: dict[int, str] = {}
    split = dataset.index["split"].to_numpy()
    for names, kind in told:
        rows = [int(row_of[name]) for name in names if name in row_of.index]
        other = [row for row in rows if split[row] != split[rows[0]]]
        rows = rows[:1] + other[:1]
        if (
            len(rows) == 2
            and shown[rows].all()
            and not set(rows) & set(titles)
            and len(titles) < 2 * most
        ):
            for row in rows:
                study = dataset.index.iloc[row]
                titles[row] = (
                    f"{kind} pair {len(titles) // 2 + 1}: {study['split']}, {study['image_id']}"
                )
    return titles
