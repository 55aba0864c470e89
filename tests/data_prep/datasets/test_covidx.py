"""COVIDx lists: lines, splits, classes, severity; the real test list; each fault has its
outcome.
"""

import pandas as pd
import pytest
from data_prep_trees import assert_checked, encoded, picture, prepare
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import DataError
from data_prep.datasets import covidx


def tree(root, **lists):
    """lists: split -> lines; every image named without a folder is made in the folder of its
    split.
    """
    for split, lines in lists.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}_COVIDx9A.txt").write_text("".join(line + "\n" for line in lines))
        for k, line in enumerate(lines):
            fields = covidx.parse_line(line)
            if fields and "/" not in fields[1]:
                (root / split / fields[1]).write_bytes(encoded(picture(1000 * len(split) + k)))
    return root


def lines(count, start=0):
    return [
        f"{k} image{k}.png {'COVID-19' if k % 2 else 'normal'} rsna"
        for k in range(start, start + count)
    ]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("3 a.png COVID-19 cohen", ("3", "a.png", "COVID-19", "cohen")),
        ("3 a b (1).png pneumonia rsna", ("3", "a b (1).png", "pneumonia", "rsna")),
        ("3 a.png normal", ("3", "a.png", "normal", "")),
        ("3 a b.png negative", ("3", "a b.png", "negative", "")),
        ("3 normal normal normal", ("3", "normal", "normal", "normal")),
        ("3 a.png flu cohen", ("3", "a.png", "flu", "cohen")),
        ("3 a.png", None),
        ("", None),
    ],
)
def test_lines(line, fields):
    assert covidx.parse_line(line) == fields


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_any_line_is_fields_or_nothing(line):
    fields = covidx.parse_line(line)
    assert fields is None or (len(fields) == 4 and all(fields[:3]))


def test_two_lists(tmp_path):
    raw = tree(
        tmp_path / "raw", train=[*lines(20), "x odd name.png pneumonia cohen"], test=lines(5, 30)
    )
    index, card, rejects = prepare("covidx", raw, tmp_path / "out")
    assert index["split"].value_counts().to_dict() == {"train": 21, "test": 5} and not rejects
    row = index.set_index("image_id").loc["odd name.png"]
    assert (row["patient_id"], row["study_id"], row["finding"], row["covid"], row["source"]) == (
        "cohen-x", "odd name", "pneumonia", "0", "cohen",
    )  # fmt: skip
    assert card["prevalence"]["covid"]["positive"] == 12 and card["images"] == 26
    assert_checked(tmp_path / "out")


def test_severity(tmp_path):
    raw = tree(tmp_path / "raw", test=lines(5))
    (raw / "severity_annotations.csv").write_text(
        "filename,Geographic,Opacity,Sum,Product\n"
        "image1.png,2.3333333333333335,1,3.33,x\n"
        "other.png,1,1,1,1\n"
    )
    index, card, rejects = prepare("covidx", raw, tmp_path / "out")
    assert (
        index["severity_geographic"].tolist() == ["", "2.3333", "", "", ""]
        and index["severity_product"][1] == ""
    )
    assert rejects == {"severity_annotations.csv image1.png": "a score is no number: left empty"}
    assert any("name an image that is not used" in note for note in card["notes"])


def test_faults_of_records(tmp_path):
    train = [*lines(40), "1 image99.png flu cohen", "two fields", "2 ../../x.png normal "
                                                                  "rsna", "2 none.png normal rsna",
             "3 image50.png normal rsna", "3 image7.png normal rsna", ""]  # fmt: skip
    raw = tree(tmp_path / "raw", train=train, test=lines(5, 50))
    (raw / "train" / "none.png").unlink()
    (raw / "train" / "unlisted.png").write_bytes(encoded(picture(1)))
    (raw / "train" / "image3.png").write_bytes(b"GIF")
    index, _, rejects = prepare("covidx", raw, tmp_path / "out", settings={"max_reject_share": 1})
    short = {
        record.replace("train_COVIDx9A.txt line ", ""): reason for record, reason in rejects.items()
    }
    assert short.pop("4 image3.png").startswith("not ")
    assert short == {
        "41 image99.png": "class is 'flu', expected one of covid-19, positive, normal, "
        "pneumonia, negative",
        "42": "2 fields, expected patient, filename, class, source",
        "43 ../../x.png": "path leaves the raw folder",
        "44 none.png": "file not in the folder",
        # it is in the test list, and stays there
        "45 image50.png": "image_id named before: first row used",
        "46 image7.png": "image_id named before: first row used",
        "train/unlisted.png": "file not in the lists",
    }
    assert index.set_index("image_id")["split"]["image50.png"] == "test"


def test_faults_of_the_dataset(tmp_path):
    raw = tree(tmp_path / "raw", train=lines(3))
    with pytest.raises(DataError, match="expected covidx"):
        prepare("covidx", tmp_path / "raw" / "train", tmp_path / "out")
    (raw / "train_COVIDx8.txt").write_text("")
    with pytest.raises(
        DataError, match="one list for train; found train_COVIDx8.txt, train_COVIDx9A.txt"
    ):
        prepare("covidx", raw, tmp_path / "out")
    (raw / "train_COVIDx8.txt").rename(raw / "all_COVIDx8.txt")
    with pytest.raises(
        DataError, match="train, val or test in the name of each list; found all_COVIDx8.txt"
    ):
        prepare("covidx", raw, tmp_path / "out")
    (raw / "all_COVIDx8.txt").unlink()
    for image in raw.rglob("*.png"):
        image.unlink()
    with pytest.raises(DataError, match="expected images in train/ and test/"):
        prepare("covidx", raw, tmp_path / "out")
    (raw / "train_COVIDx9A.txt").write_text("\n")
    (raw / "train" / "x.png").write_bytes(encoded(picture(1)))
    with pytest.raises(DataError, match="found empty lists"):
        prepare("covidx", raw, tmp_path / "out")


def test_limit(tmp_path):
    index, _, rejects = prepare(
        "covidx", tree(tmp_path / "raw", test=lines(9)), tmp_path / "out", limit=2
    )
    assert len(index) == 2 and len(rejects) == 7


def test_real_list(shared, tmp_path):
    """400 lines of the real test list; twelve of its images made up."""
    raw = tmp_path / "raw"
    (raw / "test").mkdir(parents=True)
    for name in ("test_COVIDx9A.txt", "severity_annotations.csv"):
        (raw / name).write_bytes((shared / "data" / "covidx" / name).read_bytes())
    listed = [line.split() for line in (raw / "test_COVIDx9A.txt").read_text().splitlines()]
    for k, fields in enumerate(listed[:12]):
        (raw / "test" / fields[1]).write_bytes(encoded(picture(k)))
    table = covidx.read(raw, {})
    assert len(table.rows) == 400 and not table.rejects and set(table.rows["split"]) == {"test"}
    assert table.rows["finding"].value_counts().to_dict() == {
        "COVID-19": 200,
        "normal": 100,
        "pneumonia": 100,
    }
    assert (
        table.rows["covid"].sum() == 200 and pd.isna(table.rows["severity_sum"]).all()
    )  # scores are of other images
    index, _, rejects = prepare("covidx", raw, tmp_path / "out")
    assert (
        len(index) == 12
        and set(rejects.values()) == {"file not in the folder"}
        and len(rejects) == 388
    )


def test_a_folder_with_the_name_of_a_list(tmp_path):
    raw = tree(tmp_path / "raw", train=lines(3))
    (raw / "test_COVIDx9A.txt").mkdir()
    assert len(prepare("covidx", raw, tmp_path / "out")[0]) == 3
    (raw / "train_COVIDx9A.txt").unlink()
    with pytest.raises(DataError, match="expected lists like"):
        prepare("covidx", raw, tmp_path / "none")
