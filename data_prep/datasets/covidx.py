"""COVIDx: lists `patient filename class source`, one a split, and the images they name."""

import re
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.reading.raw import (
    CHEXPERT_14,
    Table,
    find_files,
    one_line,
    read_csv,
    sha256,
    short_list,
)

NEEDS = (
    "COVIDx: train_COVIDx*.txt and/or test_COVIDx*.txt (patient filename class source), "
    "images in train/, test/"
)
MARKS = (("*COVIDx*.txt",), ("train*.txt", "train"), ("test*.txt", "test"))
SETTINGS: dict = {}
TABLES = ("*.txt",)
SPLITS = {
    "train": "train",
    "val": "valid",
    "valid": "valid",
    "test": "test",
}  # a word in the list's name
CLASSES = {
    "covid-19": 1,
    "positive": 1,
    "normal": 0,
    "pneumonia": 0,
    "negative": 0,
}  # class -> covid
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
SEVERITY = {"Geographic": "severity_geographic", "Opacity": "severity_opacity"}
SEVERITY |= {"Sum": "severity_sum", "Product": "severity_product"}
LINE = re.compile(r"(\S+)\s+(.*\S)\s+(\S+)\s+(\S+)")  # file names may hold blanks
SHORT = re.compile(r"(\S+)\s+(.*\S)\s+(\S+)")  # early lists name no source


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a line of the lists; the list's name is its split (train, val, test), other lists are
    an error.

    Adds `finding` (class as written), `covid` (1 for COVID-19 or positive, 0 otherwise), `source`,
    and severity_* of severity_annotations.csv where given. patient_id is `source-patient`: the
    sources number their patients alike. An image is a study. The 14 CheXpert columns stay empty.
    Files that are not there are no fault (the images are put together from several collections);
    when none is there, DataError.
    """
    lists = _lists(raw)
    files = find_files(raw, SUFFIXES)
    if not files:
        raise fault(
            f"images in train/ and test/ of {raw}",
            "none",
            "put the collection together as its makers describe",
        )
    records, rejects = [], []
    for path, split in lists:
        for name, record in _parsed(path, split):
            (rejects if isinstance(record, str) else records).append((name, record))
    if not records:
        found = rejects[0][1] if rejects else "empty lists"
        raise fault(
            "lines of patient, filename, class, source",
            found,
            f"check {short_list(p.name for p, _ in lists)}",
        )
    rows = pd.DataFrame([r | {"_record": name} for name, r in records], dtype=object)
    images = []
    for name, split in zip(rows["_file"], rows["split"], strict=True):
        paths = files.get(name, [name])
        own = [path for path in paths if SPLITS.get(path.split("/")[0].lower()) == split]
        images.append((own or paths)[0])  # several of that name: the one in the split's folder
    rows["_image"] = images
    version = ", ".join(f"{path.name} {sha256(path)[:12]}" for path, _ in lists)
    table = Table(
        rows, raw_version=version, labels=["covid"], absent_is_fault=False, rejects=rejects
    )
    table.start("lines in the lists", "line has its fields")
    listed = set(rows["_image"])
    unlisted = sorted(path for paths in files.values() for path in paths if path not in listed)
    table.rejects += [(path, "file not in the lists") for path in unlisted]

    table.drop_repeated("image_id")
    finding = table.rows["finding"]
    reason = "class is '" + finding + f"', expected one of {', '.join(CLASSES)}"
    table.drop(~finding.str.lower().isin(CLASSES), "class is known", reason)
    covid = table.rows["finding"].str.lower().map(CLASSES).astype("Int64")
    table.rows = table.rows.drop(columns="_file").assign(
        **dict.fromkeys(CHEXPERT_14, pd.NA), covid=covid
    )
    _add_severity(table, raw)
    table.keep_first(limit)
    return table


def _lists(raw: Path) -> list[tuple[Path, str]]:
    """Lists and their splits, test before valid before train: an image named twice stays where it
    is tested.
    """
    found = []
    for path in sorted(p for p in raw.glob("*.txt") if p.is_file()):
        words = re.findall(r"[a-z]+", path.stem.lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), None)
        if split is None and "covidx" in path.stem.lower():
            raise fault(
                "train, val or test in the name of each list",
                path.name,
                "rename it after its split",
            )
        found += [(path, split)] if split else []
    if not found:
        raise fault(f"lists like train_COVIDx9A.txt in {raw}", "none", "add them")
    for split in set(SPLITS.values()):
        same = [path.name for path, s in found if s == split]
        if len(same) > 1:
            raise fault(
                f"one list for {split}", short_list(same), "move those of other versions away"
            )
    return sorted(found, key=lambda pair: ("test", "valid", "train").index(pair[1]))


def _parsed(path: Path, split: str):
    """(name, fields) or (name, why it has none) of each line that is not blank."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            line, name = line.strip(), f"{path.name} line {number}"
            if not line:
                continue
            fields = parse_line(line)
            if fields is None:
                yield name, f"{len(line.split())} fields, expected patient, filename, class, source"
                continue
            patient, file_name, finding, source = map(one_line, fields)
            yield (
                f"{name} {file_name}",
                {
                    "patient_id": f"{source}-{patient}".removeprefix("-"),
                    "study_id": re.sub(r"\.\w{3,4}$", "", file_name),
                    "image_id": file_name,
                    "split": split,
                    "view": "",
                    "findings": "",
                    "impression": "",
                    "finding": finding,
                    "source": source,
                    "_file": fields[1],
                },
            )


def parse_line(line: str) -> tuple[str, str, str, str] | None:
    """(patient, filename, class, source) of a line; source is "" in early lists, filename may hold
    blanks.
    """
    long, short = LINE.fullmatch(line), SHORT.fullmatch(line)
    if short and short[3].lower() in CLASSES and not (long and long[3].lower() in CLASSES):
        return (*short.groups(), "")
    return long.groups() if long else None


def _add_severity(table: Table, raw: Path) -> None:
    path = raw / "severity_annotations.csv"
    if not path.is_file():
        return
    text = read_csv(path, ["filename", *SEVERITY]).drop_duplicates("filename").set_index("filename")
    scores = text.rename(columns=SEVERITY).apply(pd.to_numeric, errors="coerce")
    bad = (scores.isna() & (text.rename(columns=SEVERITY) != "")).any(axis=1)
    table.rejects += [
        (f"{path.name} {name}", "a score is no number: left empty") for name in scores.index[bad]
    ]
    strange = len(set(scores.index) - set(table.rows["image_id"]))
    if strange:
        table.notes.append(
            f"{strange} of {len(scores)} rows of {path.name} name an image that is not used"
        )
    table.rows = table.rows.join(scores.round(4), on="image_id")
