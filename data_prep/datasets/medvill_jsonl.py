"""The MedViLL release's records: one JSON object a line, {"id", "label": "'A', 'B'", "text",
"img"}; read and written.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.reading.raw import CHEXPERT_14, Table, one_line, sha256, split_by_hash
from data_prep.reports.sections import clean

NEEDS = (
    'MedViLL records: Train.jsonl, Valid.jsonl, Test.jsonl (or one file) of {"id", '
    '"label", "text", "img"} lines'
)
MARKS = (("*.jsonl",),)
SETTINGS = {"images": True}
HELP = {"images": "no: texts and labels only, even where lines name images"}
TABLES = ("*.jsonl",)
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
NAMES = {name.lower(): name for name in CHEXPERT_14} | {"airspace opacity": "Lung Opacity"}
NO_NAME = ("", "others", "other")  # what the release writes for a study without a positive finding
MAX_LINE = 1_000_000  # bytes
_PARTS = re.compile(r"'([^']*)'|\"([^\"]*)\"|([^,'\"]+)")


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a line; the split is told by the file's name (Train, Valid, Test), else by the hash
    of the id (70/10/20).

    `text` is the impression (the release does not tell sections apart). Findings named are 1, the
    others empty: the release lists positives only. `img` begins in the folder of its file; text
    only when no line has one. A line that repeats an image (or an id, without images) is rejected.
    """
    paths = [raw] if raw.is_file() else sorted(p for p in raw.glob("*.jsonl") if p.is_file())
    records, rejects = [], []
    for path in paths:
        for name, record in _lines(path):
            (rejects if isinstance(record, str) else records).append((name, record))
    if not records:
        found = rejects[0][1] if rejects else "empty files"
        raise fault(
            f"lines of JSON with id, label, text in {raw}",
            f"no such line ({found})",
            "check the path",
        )
    rows = pd.DataFrame([r | {"_record": name} for name, r in records], dtype=object)
    version = ", ".join(f"{p.name} {sha256(p)[:12]}" for p in paths)
    table = Table(rows, raw_version=version, rejects=rejects)
    table.start("lines", "line is a record")
    table.root = raw.parent if raw.is_file() else raw
    table.drop((rows["study_id"] == "").to_numpy(), "record has an id", "no id")
    has_images = settings["images"] and (table.rows["_image"] != "").any()
    table.drop_repeated("image_id")
    if has_images:
        table.drop(
            table.rows["_image"] == "", "record names an image", "no img, other lines have one"
        )
    else:
        table.rows = table.rows.drop(columns="_image")
        table.notes.append(
            "text only: no line has an img" if settings["images"] else "text only: --set images=no"
        )
    table.drop(table.rows["impression"] == "", "record has a text", "no text")
    _add_labels(table)
    unknown = table.rows["split"] == ""
    if unknown.any():
        table.rows["split"] = table.rows["split"].where(
            ~unknown, split_by_hash(table.rows["study_id"])
        )
        table.notes.append(
            f"{unknown.sum():,} lines of files not named Train, Valid or Test: split by the "
            "hash of the id"
        )
    table.notes.append("no patients in these records: each id counts as one")
    table.keep_first(limit)
    return table


def _lines(path: Path) -> Iterator[tuple[str, dict | str]]:
    """(name, fields as text) of each line, or (name, why it is none); blank lines are nothing."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    split = next((SPLITS[word] for word in words if word in SPLITS), "")
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            name = f"{path.name} line {number}"
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                while rest := file.readline(MAX_LINE):
                    if rest.endswith(b"\n"):
                        break
                yield name, f"line of more than {MAX_LINE:,} bytes"
            elif line.strip():
                yield name, _record(line, split)


def _record(line: bytes, split: str) -> dict | str:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError) as problem:
        return f"not JSON: {str(problem)[:80]}"
    if not isinstance(found, dict):
        return f"not an object: {type(found).__name__}"
    missing = [key for key in ("id", "label", "text") if key not in found]
    if missing:
        return f"no {', '.join(missing)}"
    if isinstance(found["id"], bool | dict | list) or not isinstance(found["text"], str):
        return "id is no text or number, or text is no text"
    labels = found["label"]
    if isinstance(labels, list):
        labels = ", ".join(f"'{name}'" for name in labels)
    img = found.get("img") or ""
    if not isinstance(img, str) or not isinstance(labels, str | None):
        return "img or label is no text"
    if img.encode(errors="replace").decode() != img:
        return "img is no valid text"
    name = "" if found["id"] is None else one_line(found["id"])
    return {
        "study_id": name,
        "patient_id": name,
        "image_id": one_line(img.removeprefix("./")) or name,
        "split": split,
        "view": "",
        "findings": "",
        "impression": one_line(clean(found["text"])),
        "_label": one_line(labels or ""),
        "_image": img.removeprefix("./"),
    }


def parse_label(text: str) -> list[str]:
    """ "'Edema', 'Pneumonia'" -> ["Edema", "Pneumonia"]; [] for "", "''" and "'Others'".

    Raises ValueError, with the name, for one that is not among the 14.
    """
    found = [
        next(part for part in match if part or match == ("", "", ""))
        for match in _PARTS.findall(text)
    ]
    names = [" ".join(part.split()) for part in found]
    names = [name for name in names if name.lower() not in NO_NAME]
    strange = [name for name in names if name.lower() not in NAMES]
    if strange:
        raise ValueError(f"label {strange[0]!r} is none of the 14 CheXpert findings")
    return [NAMES[name.lower()] for name in names]


def _add_labels(table: Table) -> None:
    lists, reasons = [], []
    for text in table.rows["_label"]:
        try:
            lists.append(set(parse_label(text)))
            reasons.append("")
        except ValueError as problem:
            lists.append(set())
            reasons.append(str(problem))
    has = {
        n: pd.array([1 if n in names else pd.NA for names in lists], dtype="Int64")
        for n in CHEXPERT_14
    }
    table.rows = table.rows.drop(columns="_label").assign(**has)
    reason = pd.Series(reasons, index=table.rows.index, dtype=object)
    table.drop(reason != "", "labels are known", reason)


def export(prepared, out) -> Path:
    """Write the prepared dataset `prepared` as Train.jsonl, Valid.jsonl, Test.jsonl and
    images/*.png in a new folder `out`.

    text = findings and impression, label = the positive findings, id = study_id. Reading `out`
    gives the same texts and positive findings; negatives, uncertain ones and other columns have no
    place in this form. Raises DataError when `prepared` is none or `out` is there.
    """
    import cv2
    import h5py

    prepared, out = Path(prepared).expanduser(), Path(out).expanduser()
    if not (prepared / "card.json").is_file() or not (prepared / "index.csv").is_file():
        raise fault(
            "a prepared dataset (card.json, index.csv)",
            f"none in {prepared}",
            "prepare it first, or correct --raw",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise fault(f"a new folder at {out}", "something there", "choose another name")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        has_images = (prepared / "images.h5").is_file()
        if has_images:
            (partial / "images").mkdir()
            pixels = stack.enter_context(h5py.File(prepared / "images.h5"))["cxr"]
        files = {}
        for split in ("train", "valid", "test"):
            path = partial / f"{split.title()}.jsonl"
            files[split] = stack.enter_context(open(path, "w", encoding="utf-8", newline="\n"))
        table = prepared / "index.csv"
        for part in pd.read_csv(table, dtype=str, keep_default_na=False, chunksize=2000):
            for row, record in zip(part.index, part.to_dict("records"), strict=True):
                positive = [name for name in CHEXPERT_14 if record[name] in ("1", "1.0")]
                text = clean(f"{record['findings']} {record['impression']}")
                label = ", ".join(f"'{name}'" for name in positive) or "'Others'"  # as the release
                line = {"id": record["study_id"], "label": label, "text": text}
                if has_images:
                    line["img"] = f"images/{row:07d}.png"
                    ok, data = cv2.imencode(".png", pixels[row])
                    (partial / line["img"]).write_bytes(data.tobytes())
                files[record["split"]].write(json.dumps(line, ensure_ascii=False) + "\n")
        for file in files.values():
            file.close()
        os.replace(partial, out)
    return out
