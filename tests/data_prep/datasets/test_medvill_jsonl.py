"""MedViLL's records: label strings as released, files and splits, faults of lines, and the way
back.
"""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import assert_checked, encoded, mimic_tree, picture, prepare
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import DataError
from data_prep.datasets import medvill_jsonl
from data_prep.reading.raw import CHEXPERT_14


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def record(k, **changes):
    return {"id": k, "label": "'Edema'", "text": f"Report {k}.", "img": f"images/{k}.png"} | changes


def tree(root, **splits):
    (root / "images").mkdir(parents=True)
    for name, records in splits.items():
        write(root / f"{name}.jsonl", records)
    for k in range(40):
        (root / "images" / f"{k}.png").write_bytes(encoded(picture(k)))
    return root


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("'Lung Opacity', 'Atelectasis'", ["Lung Opacity", "Atelectasis"]),
        ("'No Finding'", ["No Finding"]),
        ("", []),
        ("''", []),
        ("'Others'", []),
        ("Edema,Pneumonia", ["Edema", "Pneumonia"]),
        ('"Edema", "pleural  effusion"', ["Edema", "Pleural Effusion"]),
        (" 'Airspace Opacity' ,", ["Lung Opacity"]),
    ],
)
def test_label_strings(text, names):
    assert medvill_jsonl.parse_label(text) == names


def test_unknown_name_is_told():
    with pytest.raises(ValueError, match="label 'Gout' is none of the 14"):
        medvill_jsonl.parse_label("'Edema', 'Gout'")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(CHEXPERT_14), unique=True))
def test_labels_of_the_release_are_read(names):
    label = ", ".join(f"'{name}'" for name in names) or "'Others'"
    assert medvill_jsonl.parse_label(label) == names


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_any_label_text_is_names_or_an_error(text):
    try:
        assert set(medvill_jsonl.parse_label(text)) <= set(CHEXPERT_14)
    except ValueError as problem:
        assert "none of the 14" in str(problem)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=100))
def test_any_line_is_a_record_or_a_reason(line):
    found = medvill_jsonl._record(line, "train")
    assert isinstance(found, str) and found or found["study_id"] is not None


def test_release_layout(tmp_path):
    raw = tree(
        tmp_path / "raw",
        Train=[record(k) for k in range(5)],
        Valid=[record("5", label="''")],
        Test=[
            record(6, label="'Others'", img="./images/6.png"),
            record(7, label=["Edema", "Fracture"]),
        ],
    )
    index, card, rejects = prepare("medvill_jsonl", raw, tmp_path / "out")
    assert index["study_id"].tolist() == list("01234567") and card["images"] == 8 and not rejects
    assert index["split"].tolist() == ["train"] * 5 + ["valid", "test", "test"]
    assert index["Edema"].tolist() == ["1"] * 5 + ["", "", "1"] and index["Fracture"].tolist() == [
        ""
    ] * 7 + ["1"]
    assert index["impression"][3] == "Report 3." and index["image_id"][6] == "images/6.png"
    assert_checked(tmp_path / "out")


def test_one_file_and_text_only(tmp_path):
    path = write(tmp_path / "all.jsonl", [record(k, img="") for k in range(300)])
    index, card, _ = prepare("medvill_jsonl", path, tmp_path / "out")
    assert (
        card["images"] == 0
        and len(index) == 300
        and set(index["split"]) == {"train", "valid", "test"}
    )
    raw = tree(tmp_path / "raw", Train=[record(k) for k in range(4)])
    for chosen, images in (({}, 4), ({"images": "no"}, 0)):
        _, card, _ = prepare(
            "medvill_jsonl", raw / "Train.jsonl", tmp_path / f"out{images}", settings=chosen
        )
        assert card["images"] == images


def test_faults_of_lines(tmp_path):
    lines = [
        *(record(k) for k in range(20)),
        "{not json",
        "[1]",
        '{"id": 1}',
        json.dumps(record(21, label="'Gout'")),
        json.dumps(record(22, text="")),
        json.dumps(record(23, img="../secret.png")),
        json.dumps(record(24, img="/etc/passwd")),
        json.dumps(record(25, img="images/none.png")),
        json.dumps(record(26, img=None)),
        json.dumps(record(3)),
        json.dumps(record("", img="images/27.png")),
        json.dumps(record(28, text=7)),
        "[" * 50_000,
        "x" * 1_100_000,
        "",
        json.dumps(record(30, img="\ud800.png")),
        json.dumps(record(29, text="a\nb \ud800", img="images/29.png")),
    ]
    raw = tree(tmp_path / "raw", Train=lines)
    with open(raw / "Train.jsonl", "ab") as file:
        file.write(b'{"id": "\xff"}\n')
    index, _, rejects = prepare(
        "medvill_jsonl", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    reasons = {int(name.split()[2]): reason for name, reason in rejects.items()}
    assert reasons.pop(21).startswith("not JSON") and reasons.pop(33).startswith("not JSON")
    assert reasons == {
        22: "not an object: list", 23: "no label, text", 24: "label 'Gout' is none of the 14 "
                                                             "CheXpert findings",
        25: "no text", 26: "path leaves the raw folder", 27: "path leaves the raw "
                                                             "folder", 28: "file not in the folder",
        29: "no img, other lines have one", 30: "image_id named before: first row "
                                                "used", 31: "no id",
        32: "id is no text or number, or text is no text",
        34: "line of more than 1,000,000 bytes", 36: "img is no valid text", 38: "not UTF-8",
    }  # fmt: skip
    assert len(index) == 21 and index.set_index("study_id").loc["29", "impression"] == "a b ?"


def test_faults_of_the_dataset(tmp_path):
    with pytest.raises(DataError, match="found nothing at"):
        prepare("medvill_jsonl", tmp_path / "none", tmp_path / "out")
    write(tmp_path / "raw" / "Train.jsonl", ["no", "json"])
    with pytest.raises(DataError, match="expected lines of JSON.*no such line"):
        prepare("medvill_jsonl", tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "Train.jsonl").rename(tmp_path / "raw" / "Train.txt")
    with pytest.raises(DataError, match="only Train.txt"):
        prepare("medvill_jsonl", tmp_path / "raw", tmp_path / "out")


def test_same_id_in_two_splits_is_reported(tmp_path):
    raw = tree(tmp_path / "raw", Train=[record(1), record(2)], Test=[record(1, img="images/9.png")])
    index, card, _ = prepare("medvill_jsonl", raw, tmp_path / "out")
    assert len(index) == 3 and card["overlap"]["studies"] == 1 and card["overlap"]["patients"] == 1


def test_limit(tmp_path):
    raw = tree(tmp_path / "raw", Train=[record(k) for k in range(9)])
    index, _, rejects = prepare("medvill_jsonl", raw, tmp_path / "out", limit=4)
    assert index["study_id"].tolist() == list("0123") and len(rejects) == 5


def test_round_trip(tmp_path):
    """Prepared, exported, read back: the same texts, positive findings, splits and pixels."""
    first, _, _ = prepare("mimic_cxr", mimic_tree(tmp_path / "raw", 12), tmp_path / "first")
    out = medvill_jsonl.export(tmp_path / "first", tmp_path / "export")
    assert sorted(p.name for p in out.iterdir()) == [
        "Test.jsonl",
        "Train.jsonl",
        "Valid.jsonl",
        "images",
    ]
    line = json.loads((out / "Train.jsonl").read_text().splitlines()[0])
    assert (
        line["label"] == "'Edema'"
        and line["img"].startswith("images/")
        and set(line) == {"id", "label", "text", "img"}
    )
    second, _, rejects = prepare("medvill_jsonl", out, tmp_path / "second")
    assert not rejects and second["study_id"].tolist() == first["study_id"].tolist()
    assert second["split"].tolist() == first["split"].tolist()
    assert second["impression"].tolist() == (first["findings"] + " " + first["impression"]).tolist()
    assert (second[CHEXPERT_14] == "1").equals(first[CHEXPERT_14] == "1")
    with (
        h5py.File(tmp_path / "first" / "images.h5") as a,
        h5py.File(tmp_path / "second" / "images.h5") as b,
    ):
        assert np.array_equal(a["cxr"][:], b["cxr"][:])
    third = medvill_jsonl.export(tmp_path / "second", tmp_path / "third")
    assert all(
        p.read_bytes() == (third / p.relative_to(out)).read_bytes()
        for p in out.rglob("*")
        if p.is_file()
    )


def test_export_refuses(tmp_path):
    with pytest.raises(DataError, match="expected a prepared dataset"):
        medvill_jsonl.export(tmp_path, tmp_path / "out")
    prepare(
        "medvill_jsonl", write(tmp_path / "Train.jsonl", [record(1, img="")]), tmp_path / "done"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(DataError, match="expected a new folder"):
        medvill_jsonl.export(tmp_path / "done", tmp_path / "out")
    assert medvill_jsonl.export(tmp_path / "done", tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new" / "images").exists() and not (tmp_path / "new.partial").exists()


def test_real_records(shared, tmp_path):
    """The CheXpert labeller's output on 1,735 reports in this form: label counts as they are in the
    text.
    """
    path = shared / "data" / "openi" / "chexpert_labels_train.jsonl"
    index, card, rejects = prepare("medvill_jsonl", path, tmp_path / "out")
    source = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(index) + len(rejects) == len(source) and set(rejects.values()) <= {
        "no text",
        "image_id named before: first row used",
    }
    assert set(index["split"]) == {"train"} and card["images"] == 0
    used = {r["id"]: r for r in source}
    for name in CHEXPERT_14:
        assert (index[name] == "1").sum() == sum(
            f"'{name}'" in used[i]["label"] for i in index["study_id"]
        )


def test_real_label_strings(shared):
    """Parity: the release's own parsing tests know these label strings."""
    rows = json.loads((shared / "parity" / "medvill_classification.json").read_text())[
        "label_parsing"
    ]["rows"]
    assert [medvill_jsonl.parse_label(row) for row in rows[:4]] == [
        ["Lung Opacity", "Atelectasis"],
        [],
        [],
        ["No Finding"],
    ]
    counts = pd.Series(
        [name for row in rows for name in medvill_jsonl.parse_label(row) or ["Others"]]
    ).value_counts()
    assert (
        counts["Lung Opacity"] == counts["Atelectasis"] == 2 and counts["Others"] == 3
    )  # two empty ones and one "''"


def test_a_folder_with_the_name_of_a_file(tmp_path):
    (tmp_path / "raw" / "Test.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match="expected lines of JSON.*empty files"):
        prepare("medvill_jsonl", tmp_path / "raw", tmp_path / "out")
    write(tmp_path / "raw" / "Train.jsonl", [record(1, img="")])
    assert len(prepare("medvill_jsonl", tmp_path / "raw", tmp_path / "out")[0]) == 1
