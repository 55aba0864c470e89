"""Looking at prepared data: the tables of notebooks 01 and 02, and what may be shown at all.

Credentialed data forbid passing on pixels, report text and record names, and an executed notebook
is easily passed on. So these are shown only for data known to be open; anything else, a hospital's
own data too, is shown as counts, unless the setting `show` says otherwise.
"""

import re

import numpy as np
import pandas as pd

from medxvl.data.dataset import CHEXPERT_14

FILES = {
    "index.csv": "one row an image: ids, split, view, report sections, labels",
    "images.h5": "pixels, uint8, row i belongs to row i of the index",
    "readers.csv": "what each reader said of each study, one value a row",
    "questions.csv": "questions and answers, one row each, by image_id",
    "boxes.csv": "boxes around findings, one row each, by image_id",
    "rejects.csv": "every raw record that was not used, with the reason",
    "card.json": "version, settings, attrition, counts, fingerprints",
}
VALUES = {1: "positive", 0: "negative", -1: "uncertain"}
SECTIONS = ("findings", "impression")
_OPEN = ("openi", "vqa_rad", "nih")  # readers of collections that are public as a whole
OPEN_LICENSE = r"^\s*(?:CC\b|CC0|synthetic)"


def set_up_tables() -> None:
    """Whole tables on show; text with dollar signs is text, not a formula."""
    pd.set_option(
        "display.max_rows", None, "display.max_colwidth", 160, "display.html.use_mathjax", False
    )


def may_show(dataset, show="open") -> np.ndarray:
    """Index rows that may appear as picture and text, (n,) bool.

    show: the setting of that name: open (synthetic, an open collection's, openly licensed), all or
    none.
    """
    if show == "none":
        return np.zeros(len(dataset.index), dtype=bool)
    if show == "all" or dataset.synthetic or dataset.card["name"] in _OPEN:
        return np.ones(len(dataset.index), dtype=bool)
    if by_licence(dataset, show):
        return (
            dataset.index["license"]
            .astype(str)
            .str.contains(OPEN_LICENSE, case=False)
            .to_numpy(dtype=bool)
        )
    return np.zeros(len(dataset.index), dtype=bool)


def by_licence(dataset, show="open") -> bool:
    """Whether each image's own licence decides."""
    return (
        show == "open"
        and not dataset.synthetic
        and dataset.card["name"] not in _OPEN
        and "license" in dataset.index
    )


def overview(datasets: dict, show="open") -> pd.DataFrame:
    """For each role what its data have: images, reports, labels, splits, and how many rows may be
    shown, and why.
    """
    lines = {}
    for role, dataset in datasets.items():
        shown = may_show(dataset, show)
        asked = {"all": "as you ask: show=all", "none": "as you ask: show=none"}.get(show)
        licensed = "by each image's licence" if by_licence(dataset) else "not known to be open"
        is_open = (
            "synthetic"
            if dataset.synthetic
            else "open collection"
            if dataset.card["name"] in _OPEN
            else licensed
        )
        reports = int(has_report(dataset.index).sum())
        lines[role] = {
            "data": dataset.label,
            "rows": f"{len(dataset.index):,}",
            "images": f"{dataset.card['images']:,}" if dataset.card["images"] else "none",
            "reports": f"{reports:,}" if reports else "none",
            "labels": len(labelled(dataset)) or "none",
            "splits": ", ".join(dataset.card["counts"]),
            "shown as picture and text": f"{shown.sum():,} ({asked or is_open})",
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("role")


def has_report(index: pd.DataFrame) -> pd.Series:
    return (index["findings"] != "") | (index["impression"] != "")


def labelled(dataset) -> list[str]:
    """Label columns in which at least one row has a value, as the card counts them."""
    return [
        name
        for name, counts in dataset.card["prevalence"].items()
        if any(counts[kind] for kind in VALUES.values())
    ]


def unlabelled(dataset) -> str:
    """A sentence on the label columns without a single value."""
    empty = [name for name in dataset.card["prevalence"] if name not in labelled(dataset)]
    if not labelled(dataset):
        return f"{dataset.label}: there are no labels"
    empty = "the 14 CheXpert columns" if set(empty) == set(CHEXPERT_14) else ", ".join(empty)
    return f"without any value: {empty}" if empty else "every label column has values"


def card(dataset, show="open") -> dict:
    """The dataset's card; for data that may not be shown, what may name a record or quote a cell is
    masked.
    """
    if may_show(dataset, show).any():
        return dataset.card
    steps = [step | {"why": masked(step["why"])} for step in dataset.card["attrition"]]
    return dataset.card | {
        "attrition": steps,
        "notes": [masked(note) for note in dataset.card["notes"]],
    }


def masked(words) -> str:
    """Without quoted cells, words that hold four digits in a row, and examples of what is in more
    than one split.
    """
    words = re.sub(r"(in more than one split): .*", r"\1", str(words))
    words = re.sub(r"(?:\bb)?\".*\"|(?:(?<!\w)|\bb)'.*'(?!\w)", "'___'", words)
    numbered = r"[^\s,;:()]*(?:\d{4,}|[0-9a-f]{8}-[0-9a-f]{4,8}-)[^\s,;:()]*"
    return re.sub(numbered, lambda m: m[0] if m[0] == "JPEG2000" else "___", words)


def files(dataset) -> pd.DataFrame:
    """The files of a prepared folder: name, size in kB, what it holds."""
    there = [dataset.folder / name for name in FILES if (dataset.folder / name).is_file()]
    return pd.DataFrame(
        [
            {"file": p.name, "kB": round(p.stat().st_size / 1000), "holds": FILES[p.name]}
            for p in there
        ]
    )


def attrition(made: dict) -> pd.DataFrame:
    """The card's attrition as a table: step, rows left, dropped, gained (only where any step gains
    rows), why.
    """
    table = pd.DataFrame(made["attrition"], columns=["step", "rows", "dropped", "gained", "why"])
    table["gained"] = table["gained"].fillna(0).astype(int)
    return table if table["gained"].any() else table.drop(columns="gained")


def rejects_by_reason(dataset, show="open", most=30) -> pd.DataFrame:
    """Rejected records by reason, most frequent first: kind (fault, selection, unlisted file),
    reason, records.

    After the `most` frequent reasons the others share one row.
    """
    counts = dataset.rejects["reason"].value_counts()
    if not may_show(dataset, show).any():
        counts = (
            counts.groupby(counts.index.map(masked))
            .sum()
            .sort_values(ascending=False, kind="stable")
        )
    table = counts.rename_axis("reason").reset_index(name="records")
    kinds = {
        "not selected": "selection",
        "file not in": "unlisted file",
        "image of no question": "unlisted file",
        "image not used": "unlisted file",
    }
    table.insert(
        0,
        "kind",
        [
            next((k for start, k in kinds.items() if r.startswith(start)), "fault")
            for r in counts.index
        ],
    )
    if len(table) > most:
        rest = table.iloc[most:]
        other = {
            "kind": "",
            "reason": f"{len(rest):,} other reasons: see rejects.csv",
            "records": rest["records"].sum(),
        }
        table = pd.concat([table.iloc[:most], pd.DataFrame([other])], ignore_index=True)
    return table


def expected(dataset) -> tuple[pd.DataFrame | None, str]:
    """Published counts beside those found, and a sentence on whether they can be compared; None
    where none is known.
    """
    made = dataset.card
    if not made.get("expected"):
        return None, f"{dataset.label}: no published counts are known for {made['name']}."
    table = pd.DataFrame(made["expected"])
    table["difference"] = table["found"] - table["expected"]
    if made["synthetic"]:
        table = table.drop(columns="difference")
    table = table.rename(columns={"expected": "published"}).set_index("what")
    table = table[[c for c in ("published", "found", "difference", "source") if c in table]]
    return table, f"{dataset.label}: {_comparable(made)}"


def _comparable(made: dict) -> str:
    from data_prep.datasets import load as reader

    own = reader(made["name"]).SETTINGS
    changed = [
        f"{k}={v}" for k, v in made["settings"].items() if k in own and v != own[k] and v != ""
    ]
    if made["synthetic"]:
        return "synthetic phantom, so the counts only show that they are counted."
    if made["limit"]:
        return f"only the first {made['limit']:,} records were prepared, so the counts must differ."
    if changed:
        return (
            f"other settings than the paper's ({masked(', '.join(changed))}), so the "
            "counts may differ."
        )
    if not made["images"]:
        return "text only here, so counts that stand for images must differ."
    return f"comparable, if the files are the whole release ({made['raw_version']})."


def splits(cards: dict) -> pd.DataFrame:
    """Rows, studies and patients of each role and split."""
    counts = {
        (role, split): n for role, made in cards.items() for split, n in made["counts"].items()
    }
    return pd.DataFrame.from_dict(counts, orient="index").rename_axis(["role", "split"])


def telling_studies(dataset, rows, most=3) -> list[int]:
    """Of index rows `rows` those that show most: both sections, then most kinds of label, then
    labels; first row first.

    No study twice.
    """
    part = dataset.index.iloc[rows]
    labels = part[[c for c in {*CHEXPERT_14, *labelled(dataset)} if c in part]].apply(
        pd.to_numeric, errors="coerce"
    )
    kinds = sum((labels == value).any(axis=1).astype(int) for value in VALUES)
    sections = (part["findings"] != "").astype(int) + (part["impression"] != "")
    score = (100 * sections + 20 * kinds + labels.notna().sum(axis=1)).to_numpy()
    order = np.argsort(-score, kind="stable")
    first = ~part["study_id"].iloc[order].duplicated().to_numpy()
    return [int(row) for row in np.asarray(rows)[order[first]][:most]]


def study_texts(dataset, row) -> tuple[str, dict[str, str]]:
    """Heading, and title -> text, of an index row: its report, or else its labels, and its
    questions if it has any.
    """
    study = dataset.index.iloc[row]
    texts = {section: study[section] for section in SECTIONS if has_report(dataset.index).iloc[row]}
    if not texts and labelled(dataset):
        named = [f"{name}: {VALUES.get(study[name], 'no label')}" for name in labelled(dataset)]
        texts["labels (there is no report)"] = (
            "; ".join(n for n in named if not n.endswith(("no label", "negative"))) or "none"
        )
    asked = questions(dataset)
    if asked is not None:
        own = asked[asked["image_id"] == study["image_id"]].head(4)
        texts |= {
            f"question {k}": f"{q} {a}"
            for k, (q, a) in enumerate(zip(own["question"], own["answer"], strict=True), 1)
        }
    return (
        f"study {study['study_id']}, {study['view'] or 'view not given'}, split {study['split']}",
        texts,
    )


def questions(dataset) -> pd.DataFrame | None:
    """questions.csv as text; None where there is none."""
    path = dataset.folder / "questions.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else None


def examples(dataset, rows) -> dict[str, int]:
    """For each label one of `rows` that is positive for it and for as little else as possible,
    where there is one.

    Without any positive label, rows evenly spread.
    """
    names = labelled(dataset)
    if not len(rows):
        return {}
    positive = dataset.index.iloc[rows][names].apply(pd.to_numeric, errors="coerce").to_numpy() == 1
    order = np.argsort(positive.sum(axis=1), kind="stable")
    hits = {name: order[positive[order, k]] for k, name in enumerate(names)}
    found = {name: int(rows[hit[0]]) for name, hit in hits.items() if len(hit)}
    some = np.unique(np.linspace(0, len(rows) - 1, min(10, len(rows))).astype(int))
    return found or {str(dataset.index["image_id"].iloc[row]): row for row in rows[some].tolist()}


def unseen_examples(dataset, rows, most=6) -> dict[int, str]:
    """Row -> title, of `rows`: first those with the disease (column `covid`), then those without;
    `most` of each.
    """
    if "covid" not in dataset.index:
        return {}
    disease = pd.to_numeric(dataset.index["covid"], errors="coerce").to_numpy()
    chosen = [
        int(row) for value in (1, 0) for row in np.asarray(rows)[disease[rows] == value][:most]
    ]
    part = dataset.index.iloc[chosen]
    names = part["finding" if "finding" in part else "covid"].astype(str).str.replace("/", ", ")
    if "license" in part:
        whole = str.maketrans(
            {" ": "\N{NO-BREAK SPACE}", "-": "\N{NON-BREAKING HYPHEN}"}
        )  # no line breaks in a licence
        names += " (" + part["license"].astype(str).str.translate(whole) + ")"
    return dict(zip(chosen, names, strict=True))


def disease_counts(dataset) -> pd.DataFrame:
    """Images with and without the disease, by what the collection calls the finding; the 15 most
    frequent.
    """
    disease = pd.to_numeric(dataset.index["covid"], errors="coerce").map(
        {1: "with the disease", 0: "without"}
    )
    names = dataset.index["finding"] if "finding" in dataset.index else dataset.label
    groups = pd.Series(names, index=dataset.index.index).groupby(disease.fillna("not known"))
    return groups.value_counts().head(15).rename_axis(["disease", "finding"]).to_frame("images")


def lengths(dataset, limit) -> pd.DataFrame:
    """Words of findings and impression together, by split: reports, median, longest, share beyond
    `limit` words.
    """
    index = dataset.index[has_report(dataset.index)]
    words = (index["findings"] + " " + index["impression"]).str.split().str.len()
    table = words.groupby(index["split"]).agg(["size", "median", "max"])
    table.columns = ["reports", "median words", "longest"]
    table[f"% over {limit} words"] = (100 * (words > limit).groupby(index["split"]).mean()).round(1)
    return table.reindex([s for s in dataset.card["counts"] if s in table.index])


def views(dataset, most=12) -> pd.DataFrame:
    """Rows by view and split; after the `most` frequent views the others share one row."""
    seen = dataset.index["view"].replace("", "not given").rename("view")
    frequent = seen.value_counts().index[:most]
    seen = seen.where(seen.isin(frequent), "other")
    table = pd.crosstab(seen, dataset.index["split"], margins=True, margins_name="all")
    return table[[*dataset.card["counts"], "all"]]


def shares(dataset) -> pd.DataFrame:
    """% of the rows of each split that are positive for each label that is ever positive."""
    names = [name for name in labelled(dataset) if dataset.card["prevalence"][name]["positive"]]
    positive = dataset.index[names].apply(pd.to_numeric, errors="coerce") == 1
    share = 100 * positive.groupby(dataset.index["split"]).mean()
    return share.reindex(list(dataset.card["counts"])).T.rename_axis("% of rows positive").round(1)


def forget(run, names) -> None:
    """Remove figures of an earlier run: what it was allowed to show may not be shown any more."""
    for name in names:
        for suffix in (".pdf", ".png"):
            (run.figures / f"{name}{suffix}").unlink(missing_ok=True)
