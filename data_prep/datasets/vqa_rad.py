"""VQA-RAD: questions and answers on radiographs, CT and MR images; one JSON file and, where they
are, the images.
"""

import json
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.reading.raw import CHEXPERT_14, Table, plain, sha256

NEEDS = (
    "VQA-RAD: VQA_RAD Dataset Public.json (or the file itself); images in `VQA_RAD Image "
    "Folder/` are optional"
)
MARKS = (("VQA_RAD*.json",), ("vqa_rad*.json",))
SETTINGS = {"organs": "HEAD,CHEST,ABD"}
HELP = {"organs": "of which images to keep the questions"}
TABLES = ()
SUFFIXES = (".jpg", ".jpeg", ".png")
NEED = ["qid", "image_name", "question", "answer", "answer_type", "phrase_type"]
TYPES = {
    "freeform": "train",
    "para": "train",
    "test_freeform": "test",
    "test_para": "test",
}  # phrase_type -> split
COLUMNS = [
    "image_id",
    "qid",
    "question",
    "answer",
    "answer_type",
    "question_type",
    "organ",
    "phrase_type",
    "split",
]
EXPECTED = {
    "source": "MedViLL, VQA-RAD by phrase_type",
    "counts": {
        "train questions": 1797, "test questions": 451, "test closed": 272, "test open": 179,
        "chest test closed": 116, "chest test open": 58,
    },
}  # fmt: skip


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row an image; its questions in questions.csv, one row each, with their own split (test_*
    of `phrase_type`).

    Most images have questions in both splits, as released: an image's own split is `test` when any
    of its questions is, and train_questions and test_questions count them. An image stands for a
    study and a patient (cases are not told apart). Numbers as answers become text, `"CLOSED "`
    loses its blank.
    """
    paths = (
        [raw]
        if raw.is_file()
        else sorted(p for mark in MARKS for p in raw.glob(mark[0]) if p.is_file())
    )
    if not paths:
        raise fault(
            f"a file {MARKS[0][0]} in {raw}",
            "a folder of that name",
            "give the JSON file, or its folder",
        )
    path = paths[0]
    records, rejects = _records(path)
    table = Table(
        records, raw_version=f"{path.name} {sha256(path)[:12]}", labels=[], rejects=rejects
    )
    table.start(f"questions in {path.name}", "question is an object")
    _check_questions(table)
    organs = [organ.strip().upper() for organ in settings["organs"].split(",")]
    unwanted = ~table.rows["organ"].isin([*organs, ""])
    table.drop(
        unwanted,
        f"organ is {', '.join(organs)}",
        "not selected: organ " + table.rows["organ"],
        False,
    )
    questions = table.rows.assign(split=table.rows["phrase_type"].map(TYPES))
    # The published counts: questions of each split, closed and open ones of the test set, those on
    # chest images.
    test = questions[questions["split"] == "test"]
    for split in ("train", "test"):
        table.found[f"{split} questions"] = int((questions["split"] == split).sum())
    for prefix, part in (("test", test), ("chest test", test[test["organ"] == "CHEST"])):
        for kind in ("CLOSED", "OPEN"):
            table.found[f"{prefix} {kind.lower()}"] = int((part["answer_type"] == kind).sum())

    why = f"one row an image, of {len(questions):,} questions"
    table.expand(_images(questions), "images of these questions", why)
    both = int(((table.rows["train_questions"] > 0) & (table.rows["test_questions"] > 0)).sum())
    if both:
        table.notes.append(
            f"{both} of {len(table.rows)} images have train and test questions, as released: "
            "they count as test in the "
            "index; to train without any test image use those with test_questions = 0"
        )
    _find_images(table, raw, path.parent)
    table.keep_first(limit)
    kept = questions[questions["image_id"].isin(table.rows["image_id"])].assign(
        _order=lambda t: t["qid"].str.zfill(12)
    )
    kept = kept.sort_values(["image_id", "_order"], kind="stable", ignore_index=True)
    table.extra["questions.csv"] = kept[COLUMNS]
    return table


def _records(path: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Questions as text, one row each, and what is no question at all."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as problem:
        found = f"{type(problem).__name__}: {problem}"[:200]
        raise fault(f"JSON in {path}", found, "download this file again") from None
    if not isinstance(found, list) or not found:
        raise fault(
            f"a list of questions in {path}",
            f"{type(found).__name__} of {len(found or [])}",
            "check this file",
        )
    rejects = [
        (f"entry {k}", f"not an object: {type(r).__name__}")
        for k, r in enumerate(found)
        if type(r) is not dict
    ]
    objects = {k: r for k, r in enumerate(found) if type(r) is dict}
    present = {key for r in objects.values() for key in r}
    missing = [key for key in NEED if key not in present]
    if missing:
        has = ", ".join(sorted(present)[:30]) or "no object"
        raise fault(
            f"questions with {', '.join(missing)} in {path}",
            has,
            "check that this is VQA-RAD's own file",
        )
    # Objects and lists in a cell are kept out of the text columns: they are no answer.
    text = {
        key: [
            r.get(key) if not isinstance(r.get(key), dict | list) else None
            for r in objects.values()
        ]
        for key in [*NEED, "question_type", "image_organ"]
    }
    rows = pd.DataFrame(text, index=list(objects), dtype=object).apply(plain)
    rows.insert(0, "_record", [f"entry {k}, qid {qid}" for k, qid in rows["qid"].items()])
    rows = rows.rename(columns={"image_name": "image_id", "image_organ": "organ"})
    upper = {c: rows[c].str.upper() for c in ("answer_type", "organ")}
    return rows.assign(**upper).reset_index(drop=True), rejects


def _check_questions(table: Table) -> None:
    for column, name in (
        ("qid", "qid"),
        ("image_id", "image_name"),
        ("question", "question"),
        ("answer", "answer"),
    ):
        table.drop(
            table.rows[column] == "", f"question has {name}", f"{name} is empty or not a text"
        )
    table.drop_repeated("qid")
    phrase, answer = table.rows["phrase_type"], table.rows["answer_type"]
    reason = "phrase_type is '" + phrase + f"', expected {', '.join(TYPES)}"
    table.drop(~phrase.isin(TYPES), "phrase_type is known", reason)
    answer = answer[table.rows.index]
    reason = "answer_type is '" + answer + "', expected CLOSED or OPEN"
    table.drop(~answer.isin(["CLOSED", "OPEN"]), "answer_type is known", reason)


def _images(questions: pd.DataFrame) -> pd.DataFrame:
    test = questions["split"] == "test"
    counted = questions.assign(train_questions=(~test).astype(int), test_questions=test.astype(int))
    rows = counted.groupby("image_id", sort=True).agg(
        organ=("organ", "first"),
        train_questions=("train_questions", "sum"),
        test_questions=("test_questions", "sum"),
    )
    rows = rows.reset_index()
    name = rows["image_id"].str.replace(r"\.[A-Za-z]{3,4}$", "", regex=True)
    split = rows["test_questions"].gt(0).map({True: "test", False: "train"})
    rows = rows.assign(
        study_id=name, patient_id=name, split=split, view="", findings="", impression=""
    )
    return rows.assign(**dict.fromkeys(CHEXPERT_14, pd.NA), _record=rows["image_id"])


def _find_images(table: Table, raw: Path, home: Path) -> None:
    """Add `_image` when there is any image in the folder of the JSON file or in a folder of it."""
    found: dict[str, str] = {}
    for pattern in ("*/*", "*"):
        paths = [
            p.relative_to(home).as_posix()
            for p in sorted(home.glob(pattern))
            if p.suffix.lower() in SUFFIXES
        ]
        found |= {Path(p).name: p for p in paths}
    if not any(name in found for name in table.rows["image_id"]):
        table.notes.append(
            "text only: none of the images named is there (VQA_RAD Image Folder/synpic*.jpg)"
        )
        return
    table.root = home
    table.rows = table.rows.assign(
        _image=[found.get(name, name) for name in table.rows["image_id"]]
    )
    unlisted = sorted(set(found) - set(table.rows["image_id"])) if raw.is_dir() else []
    table.rejects += [(found[name], "image of no question that is used") for name in unlisted]
