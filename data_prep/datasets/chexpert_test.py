"""The CheXpert test labels: ground truth of 500 studies, and what radiologists, labellers and
models said of them.
"""

from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.reading.raw import CHEXPERT_14, Table, parse_labels, read_csv, sha256, short_list

NEEDS = (
    "CheXpert test labels: groundtruth.csv; CheXpert/test/ (images), radiologists/, "
    "labeler/, example_models/ optional"
)
MARKS = (("groundtruth.csv",),)
SETTINGS: dict = {}
# kind of reader -> where its files lie, what follows its name, values allowed (None: any number)
READERS = {
    "ground_truth": ("radiologists/groundtruth/*.csv", "_gt", (0, 1)),
    "benchmark": ("radiologists/benchmark_radiologists/*.csv", "", (0, 1)),
    "labeler": ("labeler/*.csv", "_labels", (0, 1, -1)),
    "decision": ("example_models/decisions/*/*.csv", "_decisions", (0, 1)),
    "model": ("example_models/predictions/*/*.csv", "_predictions", None),
}
HOMES = ("CheXpert/test", "CheXpert-v1.0/test", "CheXpert-v1.0-small/test", "test", ".")
STUDY = r"(patient\d+/study\d+)/?$"  # its id, at the end of a path
TABLES = tuple(pattern for pattern, _, _ in READERS.values())


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a study, all in split `test`; study_id is `patient64741/study1`.

    Its image is CheXpert/test/patient64741/study1/view1_frontal.jpg, where that tree is there (it
    needs registration); a study without one is then rejected. Labels only, where no image is.

    Beside the index, readers.csv: study_id, reader, kind, finding, value (empty = not mentioned).
    Columns are taken by name: their order differs between the files. Reader rows of unknown studies
    and bad values go to the rejects.
    """
    rows = read_csv(raw / "groundtruth.csv", ["Study", *CHEXPERT_14]).rename(
        columns={"Study": "_record"}
    )
    table = Table(rows, raw_version=f"groundtruth.csv {sha256(raw / 'groundtruth.csv')[:12]}")
    table.start("studies in groundtruth.csv")
    table.rows = rows.assign(study_id=rows["_record"].str.extract(STUDY)[0])
    table.drop(
        table.rows["study_id"].isna(),
        "study is named",
        "Study does not end in patient<number>/study<number>",
    )
    table.drop_repeated("study_id")
    values, wrong = parse_labels(table.rows[CHEXPERT_14])
    table.drop(wrong != "", "labels are valid", wrong)
    table.rows = table.rows.assign(
        patient_id=table.rows["study_id"].str.split("/").str[0],
        image_id="",
        split="test",
        view="",
        findings="",
        impression="",
        **values.loc[table.rows.index],
    )
    _add_images(table, raw)
    table.keep_first(limit)
    table.extra["readers.csv"] = _readers(table, raw)
    return table


def _add_images(table: Table, raw: Path) -> None:
    """`_image` when there is a tree of patients; its other images go to the rejects: the labels are
    of the first frontal.
    """
    home = next(
        (h for h in HOMES if any((raw / h).glob("patient*/study*/view1_frontal.jpg"))), None
    )
    if home is None:
        table.notes.append(
            "labels only: no CheXpert/test/patient*/study*/view1_frontal.jpg (images need "
            "registration)"
        )
        return
    prefix = "" if home == "." else f"{home}/"
    images = prefix + table.rows["study_id"] + "/view1_frontal.jpg"
    table.rows = table.rows.assign(
        image_id=table.rows["study_id"] + "/view1_frontal", view="FRONTAL", _image=images
    )
    named = set(images)
    others = sorted(
        prefix + p.relative_to(raw / home).as_posix()
        for p in (raw / home).glob("patient*/study*/*.jpg")
    )
    others = [path for path in others if path not in named]
    table.rejects += [
        (path, "image not used: not the first frontal one of a study in groundtruth.csv")
        for path in others
    ]


def _readers(table: Table, raw: Path) -> pd.DataFrame:
    """All readers, long; notes on the card say what a reader lacks."""
    parts = [pd.DataFrame(columns=["study_id", "reader", "kind", "finding", "value"])]
    known = set(table.rows["study_id"])
    unused = {record for record, _ in table.rejects}
    for kind, (pattern, suffix, allowed) in READERS.items():
        paths = sorted(raw.glob(pattern))
        if not paths:
            table.notes.append(f"no {kind} reader: nothing at {pattern}")
        for path in paths:
            wide = read_csv(path, ["Study"], CHEXPERT_14)
            findings = [c for c in CHEXPERT_14 if c in wide]
            if not findings:
                raise fault(
                    f"findings as columns in {path}",
                    "none of the 14 CheXpert names",
                    "check this file, or move it away",
                )
            where = path.relative_to(raw).as_posix()
            wide.insert(0, "study_id", wide["Study"].str.extract(STUDY)[0])
            strange = ~wide["study_id"].isin(known) & ~wide["Study"].isin(unused)
            table.rejects += [
                (f"{where} {s}", "study not in groundtruth.csv") for s in wide["Study"][strange]
            ]
            repeated = wide["study_id"].isin(known) & wide["study_id"].duplicated()
            table.rejects += [
                (f"{where} {s}", "study named before: first row used")
                for s in wide["Study"][repeated]
            ]
            wide = wide[wide["study_id"].isin(known) & ~repeated]
            if len(wide) < len(known):
                lacking = sorted(known - set(wide["study_id"]))
                table.notes.append(
                    f"{where} lacks {len(lacking)} of {len(known)} studies: "
                    f"{short_list(lacking, 3)}"
                )
            if kind != "model" and kind != "decision" and len(findings) < len(CHEXPERT_14):
                table.notes.append(
                    f"{where} lacks {short_list([c for c in CHEXPERT_14 if c not in findings], 14)}"
                )
            long = wide.melt("study_id", findings, "finding", "value")
            long.insert(1, "reader", path.stem.removesuffix(suffix))
            long.insert(2, "kind", kind)
            parts.append(_valid(table, long, where, allowed))
    readers = pd.concat(parts, ignore_index=True)
    return readers.sort_values(
        ["kind", "reader", "study_id", "finding"], kind="stable", ignore_index=True
    )


def _valid(table: Table, long: pd.DataFrame, where: str, allowed: tuple | None) -> pd.DataFrame:
    """Rows with a usable value; whole numbers lose their ".0", scores stay as they were written."""
    number = pd.to_numeric(long["value"], errors="coerce")
    bad = number.isna() if allowed is None else ~number.isin(allowed)
    if allowed == (0, 1, -1):  # a labeller leaves a cell empty for what the report does not mention
        bad &= long["value"] != ""
    for row in long[bad].itertuples():
        table.rejects.append(
            (
                f"{where} {row.study_id} {row.finding}",
                f"value is {row.value!r}, expected {allowed or 'a number'}",
            )
        )
    if allowed is None:
        outside = ((number < 0) | (number > 1)) & ~bad
        if outside.any():
            table.notes.append(
                f"{where}: {outside.sum()} scores lie outside 0..1 (a score, not a probability)"
            )
        return long[~bad]
    return long.assign(
        value=long["value"].mask(number.notna(), number.mask(bad).astype("Int64").astype(str))
    )[~bad]
