"""Open-I (Indiana University chest radiographs): reports as XML or CSV, images unpacked or in their
archive.
"""

import json
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.datasets.openi_reports import ARCHIVES, REPORTS_CSV, image, read_reports, study
from data_prep.reading.archives import decoded_from_tar, members
from data_prep.reading.raw import (
    BY_RULES,
    Table,
    find_files,
    label_from_text,
    read_csv,
    short_list,
    split_by_hash,
)

PROJECTIONS = "indiana_projections.csv"
NEEDS = (
    "Open-I: NLMCXR_reports.tgz, NLMCXR_png.tgz as downloaded or unpacked; or "
    "indiana_reports.csv and PNG images; "
    "indiana_projections.csv tells the views; images are optional"
)
MARKS = (*((pattern,) for pattern in ARCHIVES), ("ecgen-radiology",), ("*.xml",), (REPORTS_CSV,))
TABLES = (*ARCHIVES, "ecgen-radiology/*.xml", "*.xml")
SETTINGS = {"views": "FRONTAL", "images": "one", "split": "drawn"}
CHOICES = {"images": ("one", "all")}
HELP = {
    "views": f"FRONTAL, LATERAL or both; applies where {PROJECTIONS} is there",
    "images": "one image a report, as the papers use, or all; applies where views are known",
    "split": "drawn: by report, 70/10/20 %; or a folder with train, valid and test lists of "
    "ids (*.txt, or MedViLL's *.jsonl)",
}
PATHS = ("split",)
EXPECTED = {
    "source": "MedViLL, section 4.1 and release: AP or PA view, one image a report, a random "
    "split of its own",
    "counts": {"studies": 3_547, "train": 2_483, "valid": 710, "test": 354},
}
SUFFIXES = (".png", ".dcm", ".jpg")
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validate": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row an image; one row a report, text only, when there is no image at all.

    A report stands for a patient (the collection names none). Labels are from the reports, by
    rules. The split is drawn from the report's id alone: none is prescribed, and MedViLL's is a
    random one that no rule on the ids gives back (of its training reports, 1,735 ids are public: 64
    % of the reports with findings, evenly in every range of ids); with its lists, or others, the
    setting `split` uses them.
    """
    table = _reports(raw)
    table.drop_repeated("study_id")
    empty = (table.rows["findings"] == "") & (table.rows["impression"] == "")
    # Published without text on purpose: a property of the collection, not a fault of the files.
    table.drop(
        empty, "report has findings or impression", "no findings or impression", is_fault=False
    )
    table.rows = table.rows.assign(patient_id=table.rows["study_id"])
    views = _views(raw)
    _add_images(table, raw, views)
    if "_image" in table.rows and views is not None:
        wanted = table.keep_views(settings["views"].upper())
        if settings["images"] == "one":
            table.keep_one_image(wanted, "report")
    _add_split(table, settings["split"])
    table.keep_first(limit)
    label_from_text(table, f"{BY_RULES}: the collection has none")
    return table


def _reports(raw: Path) -> Table:
    records, refused, foreign = [], [], []
    for name, report, reason, as_declared in read_reports(raw):
        if report is None:
            refused.append((name, reason))
        else:
            records.append(report | {"_record": name})
            foreign += [name] * (not as_declared)
    count = len(records) + len(refused)
    if not count:
        raise fault(
            f"reports as *.xml files or {REPORTS_CSV}",
            f"none in {raw}",
            "download NLMCXR_reports.tgz again",
        )
    columns = ["study_id", "findings", "impression", "mesh", "_images", "_record"]
    rows = pd.DataFrame(sorted(records, key=lambda r: r["_record"]), columns=columns)
    version = f"{count:,} reports"
    table = Table(rows, raw_version=version, absent_is_fault=False, rejects=refused)
    why = short_list(sorted({reason for _, reason in refused}), 3)
    table.start("reports", "well-formed report", why)
    if foreign:
        guess = "not UTF-8 and were read as Windows-1252 or Latin-1"
        table.notes.append(f"{len(foreign)} reports are {guess}: {short_list(foreign)}")
    return table


def _views(raw: Path) -> pd.DataFrame | None:
    """image id -> study_id, view, of the Indiana table of projections; None when it is not
    there.
    """
    path = raw / PROJECTIONS
    if raw.is_file() or not path.is_file():
        return None
    rows = read_csv(path, ["uid", "filename", "projection"])
    rows["image_id"] = rows["filename"].map(image)
    rows = rows.drop_duplicates("image_id").set_index("image_id")
    return pd.DataFrame(
        {"study_id": rows["uid"].map(study), "view": rows["projection"].str.upper()}
    )


def _add_images(table: Table, raw: Path, views: pd.DataFrame | None) -> None:
    """Turn report rows into image rows when there is any image; absent files are rejected when they
    are decoded.
    """
    files = _image_files(table, raw)
    if not files:
        table.notes.append("text only: no image file is there")
        table.rows = table.rows.assign(image_id="", view="").drop(columns="_images")
        return
    rows = table.rows
    if views is not None:  # the table of reports names no images, the XML files do
        named = views.reset_index().groupby("study_id")["image_id"].agg(list)
        of_table = rows["study_id"].map(named)
        rows = rows.assign(_images=rows["_images"].where(rows["_images"].notna(), of_table))
    rows = rows.assign(
        _images=[images if isinstance(images, list) else [] for images in rows["_images"]]
    )
    if (
        views is None and not rows["_images"].str.len().any()
    ):  # reports by CSV without projections: by the file's name
        named = pd.Series(list(files)).groupby([name.split("_")[0] for name in files]).agg(list)
        found = rows["study_id"].map(named)
        rows = rows.assign(_images=[images if isinstance(images, list) else [] for images in found])
        table.notes.append(
            f"no {PROJECTIONS}: images belong to the report whose number begins their name"
        )
    table.rows = rows
    table.drop(
        rows["_images"].str.len() == 0,
        "report names an image",
        "report names no image",
        is_fault=False,
    )
    rows = table.rows.explode("_images", ignore_index=True).rename(columns={"_images": "image_id"})
    strange = sorted(set(files) - set(rows["image_id"]))
    table.rejects += [(files[i], "image of no report that is used") for i in strange]
    why = (
        f"{len(strange):,} image files belong to no report that is used, never counted as rows"
        if strange
        else ""
    )
    rows["_image"] = [files.get(i, f"{i}.png") for i in rows["image_id"]]
    rows["_record"] = rows["_record"] + " " + rows["image_id"]
    rows["view"] = rows["image_id"].map(views["view"]).fillna("") if views is not None else ""
    table.expand(rows, "images of these reports", why)
    table.drop_repeated("image_id")
    if views is None:
        table.notes.append(
            f"views are not known, every image is used: {PROJECTIONS} beside the reports tells them"
        )


def _image_files(table: Table, raw: Path) -> dict[str, str]:
    """image id -> file below `raw`; without any, -> member of the archive of images, which the
    table then decodes from.
    """
    if raw.is_file():
        return {}
    found = [path for paths in find_files(raw, SUFFIXES).values() for path in paths]
    if not found:
        archives = sorted(
            [*raw.glob("*png*.tgz"), *raw.glob("*png*.tar.gz"), *raw.glob("*png*.tar")]
        )
        if not archives:
            return {}
        found, refused = members(archives[0], ".png")
        for name, reason in refused:
            table.reject(name, reason)
        table.root, table.decode = archives[0], decoded_from_tar
        table.notes.append(
            f"images are read from {archives[0].name}; every start reads it whole, unpacked "
            "is faster"
        )
    files = {}
    for name in sorted(found, key=lambda n: (SUFFIXES.index(n[-4:].lower()), n)):  # PNG first
        if image(name) in files:
            table.rejects.append((name, f"not selected: {files[image(name)]} is the same image"))
        else:
            files[image(name)] = name
    return files


def _add_split(table: Table, how: str) -> None:
    if how == "drawn":
        table.rows = table.rows.assign(split=split_by_hash(table.rows["study_id"]))
        table.notes.append(
            "the split is drawn by report, 70 % train, 10 % valid, 20 % test; MedViLL's is "
            "not derivable"
        )
        return
    folder, split = Path(how).expanduser(), {}
    if not folder.is_dir():
        raise fault("drawn, or a folder with lists of ids", f"{how!r}", "correct --set split=PATH")
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".txt", ".jsonl")):
        name = next(
            (
                SPLIT_NAMES[w]
                for w in path.stem.lower().replace("-", "_").split("_")
                if w in SPLIT_NAMES
            ),
            "",
        )
        if name:
            for uid in _ids(path):
                if split.setdefault(study(uid), name) != name:
                    raise fault(
                        f"{uid} in one split",
                        f"it in {split[study(uid)]} and {path.name}",
                        "correct the lists",
                    )
    if not split:
        raise fault(
            "train, valid and test lists of ids (*.txt, *.jsonl)",
            f"none in {folder}",
            "correct --set split=PATH",
        )
    table.rows = table.rows.assign(split=table.rows["study_id"].map(split))
    table.drop(
        table.rows["split"].isna(),
        "report is in a split list",
        "not selected: in no split list",
        is_fault=False,
    )


def _ids(path: Path) -> list[str]:
    try:
        lines = [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        return [str(json.loads(line)["id"]) if path.suffix == ".jsonl" else line for line in lines]
    except (ValueError, KeyError, TypeError) as problem:
        raise fault(
            f"one id a line in {path}", f"{type(problem).__name__}: {problem}", "correct the list"
        ) from None
