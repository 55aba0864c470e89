"""NIH ChestX-ray14: the table's odd headers, labels, lists, boxes; each fault of a record has its
reason.
"""

import pandas as pd
import pytest
from data_prep_trees import assert_checked, encoded, picture, prepare

from data_prep import DataError
from data_prep.datasets import nih

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def tree(root, lines, lists=True):
    """lines: (image, labels, patient, view)"""
    (root / "images_001" / "images").mkdir(parents=True)
    text = [f"{i},{f},0,{p},57,M,{v},2682,2749,0.143,0.143" for i, f, p, v in lines]
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *text]) + "\n")
    for k, name in enumerate(sorted({line[0] for line in lines if line[0].endswith(".png")})):
        if "/" not in name:
            (root / "images_001" / "images" / name).write_bytes(encoded(picture(k)))
    if lists:
        names = [line[0] for line in lines]
        (root / "train_val_list.txt").write_text("\n".join(names[:-1]))
        (root / "test_list.txt").write_text(names[-1] + "\n")
    return root


def many(count=40):
    return [
        (f"{k:08d}_000.png", "No Finding" if k % 2 else "Cardiomegaly|Effusion", k, "PA")
        for k in range(1, count)
    ]


def test_labels_and_split(tmp_path):
    lines = [*many(), ("00000040_000.png", "Mass|Infiltration|Pleural_Thickening", 40, "AP")]
    index, card, rejects = prepare("nih", tree(tmp_path / "raw", lines), tmp_path / "out")
    rows = index.set_index("image_id")
    first, last = rows.loc["00000002_000.png"], rows.loc["00000040_000.png"]
    assert (
        first["Cardiomegaly"],
        first["Pleural Effusion"],
        first["Edema"],
        first["No Finding"],
    ) == (
        "1",
        "1",
        "0",
        "0",
    )
    assert (
        first["nih_effusion"],
        first["nih_hernia"],
        first["Lung Opacity"],
        first["Fracture"],
    ) == ("1", "0", "", "")
    assert (
        last["Lung Lesion"],
        last["Lung Opacity"],
        last["Pleural Other"],
        last["nih_nodule"],
    ) == (
        "1",
        "1",
        "1",
        "0",
    )
    assert (last["patient_id"], last["split"], last["view"]) == ("00000040", "test", "AP")
    assert first["original_width"] == "2682" and first["original_height"] == "2749"
    assert (
        set(index["split"]) == {"train", "valid", "test"} and not rejects and card["images"] == 40
    )
    assert_checked(tmp_path / "out")
    assert card["prevalence"]["nih_mass"] == {
        "positive": 1,
        "negative": 39,
        "uncertain": 0,
        "empty": 0,
    }


def test_without_lists_the_patient_decides(tmp_path):
    raw = tree(
        tmp_path / "raw",
        [(f"{k:08d}_00{j}.png", "Hernia", k, "PA") for k in range(30) for j in range(2)],
        False,
    )
    index, card, _ = prepare("nih", raw, tmp_path / "out")
    assert (index.groupby("patient_id")["split"].nunique() == 1).all() and index[
        "split"
    ].nunique() > 1
    assert any("not NIH's own" in note for note in card["notes"])


def test_faults_of_records(tmp_path):
    lines = [
        *many(),
        ("00000050_000.png", "Cardiomegaly|Gout", 50, "PA"),
        ("00000051_000.png", "No Finding|Edema", 51, "PA"),
        ("00000052_000.png", "", 52, "PA"),
        ("00000053_000.png", "Edema", "fifty", "PA"),
        ("00000001_000.png", "Edema", 1, "PA"),
        ("../../secret.png", "Edema", 54, "PA"),
        ("00000055_000.png", "Edema", 55, "LL"),
        ("00000056_000.png", "Edema", 56, "PA"),
    ]
    raw = tree(tmp_path / "raw", lines)
    (raw / "images_001" / "images" / "unlisted.png").write_bytes(encoded(picture(3)))
    (raw / "images_001" / "images" / "00000003_000.png").unlink()
    (raw / "test_list.txt").write_text("00000056_000.png\n00000005_000.png")
    (raw / "train_val_list.txt").write_text(
        "\n".join(line[0] for line in lines[:-1] if line[0] != "00000007_000.png")
    )
    index, card, rejects = prepare("nih", raw, tmp_path / "out", settings={"max_reject_share": 1})
    expected = {
        "00000050_000.png": "label 'Gout' is none of NIH's",
        "00000051_000.png": "No Finding beside other labels",
        "00000052_000.png": "no label, or an empty one",
        "00000053_000.png": "Patient ID is not a number",
        "00000001_000.png": "image_id named before: first row used",
        "../../secret.png": "path leaves the raw folder",
        "00000055_000.png": "not selected: view LL",
        "images_001/images/unlisted.png": "file not in Data_Entry_2017_v2020.csv",
        "00000003_000.png": "file not in the folder",
        "00000005_000.png": "in train_val_list.txt and in test_list.txt",
        "00000007_000.png": "neither in train_val_list.txt nor in test_list.txt",
    }
    assert rejects == expected
    assert len(index) == 37 and "00000001_000.png" in set(index["image_id"])


def test_boxes(tmp_path):
    raw = tree(tmp_path / "raw", many())
    lines = [
        "00000001_000.png,Infiltrate,10.5,20,30,40",
        "00000002_000.png,Mass,1000,0,100,10",
        "00000002_000.png,Gout,1,1,1,1",
        "00009999_000.png,Mass,1,1,1,1",
        "00000002_000.png,Mass,one,1,1,1",
    ]
    (raw / "BBox_List_2017.csv").write_text(BOXES + "\n".join(lines) + "\n")
    _, _, rejects = prepare("nih", raw, tmp_path / "out")
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert boxes.to_dict("list") == {
        "image_id": ["00000001_000.png"],
        "finding": ["Infiltration"],
        "x0": [10.5],
        "y0": [20.0],
        "x1": [40.5],
        "y1": [60.0],
        "width": [1024],
        "height": [1024],
    }
    assert rejects["BBox_List_2017.csv row 3"].startswith("not a box") and len(rejects) == 4
    assert rejects["BBox_List_2017.csv row 5"] == "image not in the table of findings"


def test_limit_keeps_boxes_of_what_is_used(tmp_path):
    raw = tree(tmp_path / "raw", many())
    (raw / "BBox_List_2017.csv").write_text(
        BOXES + "00000001_000.png,Mass,1,1,9,9\n00000030_000.png,Mass,1,1,9,9\n"
    )
    index, card, rejects = prepare("nih", raw, tmp_path / "out", limit=3)
    assert len(index) == 3 and "not selected: after the first 3" in rejects.values()
    assert len(pd.read_csv(tmp_path / "out" / "boxes.csv")) == 1 and any(
        "boxes.csv: 1 of 2" in n for n in card["notes"]
    )


def test_faults_of_the_dataset(tmp_path):
    raw = tree(tmp_path / "raw", many(4))
    with pytest.raises(DataError, match="expected nih.*found nothing"):
        prepare("nih", tmp_path / "none", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("")
    with pytest.raises(DataError, match="only x.txt"):
        prepare("nih", tmp_path / "other", tmp_path / "out")
    table = raw / "Data_Entry_2017_v2020.csv"
    good = table.read_text()
    table.write_text(good.replace("Finding Labels", "Labels"))
    with pytest.raises(DataError, match="the columns Finding Labels in"):
        prepare("nih", raw, tmp_path / "out")
    table.write_text(good)
    for image in raw.rglob("*.png"):
        image.unlink()
    with pytest.raises(DataError, match=r"expected PNG images.*unpack images_\*.tar.gz"):
        prepare("nih", raw, tmp_path / "out")


def test_real_samples(shared, tmp_path):
    """Two images of 20,000 rows: the others are not there, which is no fault. All real boxes are
    inside 1024 px.
    """
    index, card, rejects = prepare("nih", shared / "data" / "nih", tmp_path / "out")
    assert index["image_id"].tolist() == ["00000001_000.png"] and index[
        "Cardiomegaly"
    ].tolist() == ["1"]
    assert rejects["00027426_000.png"].startswith("file not in")  # beyond the first 20,000 rows
    reasons = pd.Series([r for r in rejects.values()]).value_counts()
    assert reasons["file not in the folder"] == 19999
    assert (
        reasons["image not in the table of findings"] == 858
    )  # 126 of 984 boxes are of the first 20,000 rows
    assert len(reasons) == 3


def test_every_real_label_list_is_known(shared):
    table = nih.read(shared / "data" / "nih", nih.SETTINGS)
    assert len(table.rows) == 20000 and not [r for r in table.faults if "label" in r]
    assert table.rows["nih_cardiomegaly"].sum() == 692 and table.rows["No Finding"].sum() == 11716
    assert len(table.extra["boxes.csv"]) == 126


def test_a_single_file_is_not_the_folder(tmp_path):
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    path.write_text("Image Index,Finding Labels\n")
    with pytest.raises(
        DataError, match="found the file .*; give the folder that holds all of these"
    ):
        prepare("nih", path, tmp_path / "out")
