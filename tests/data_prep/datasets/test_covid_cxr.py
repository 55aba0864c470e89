"""The COVID-19 image collection: Brixia scores and lung boxes, and what becomes of bad ones; the
real 134 images.
"""

import json

import h5py
import pandas as pd
import pytest
from data_prep_trees import assert_checked, covid_tree, prepare

from data_prep import DataError


def coco(raw, annotations, images=((1, "0.png", 30, 40), (2, "other.png", 30, 40))):
    found = {
        "images": [
            {"id": i, "file_name": name, "width": w, "height": h} for i, name, w, h in images
        ],
        "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}],
        "annotations": annotations,
    }
    (raw / "lung_bbox_coco.json").write_text(json.dumps(found))


def box(bbox, image=1, kind=1):
    return {"image_id": image, "category_id": kind, "bbox": bbox}


def test_boxes(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    annotations = [
        box([1, 2, 10, 20], kind=2),
        box([0, 0, 31, 41]),
        box([1, 1, 5, 5], 2),
        box([1, 1, 99, 5]),
        box([1]),
        box([1, 1, 0, 5]),
        box("abcd"),
        box([1, 1, 2, 2], 9),
        box([1, 1, 2, 2], 1, 9),
        {},
        box(None),
        box([float("nan"), 1, 2, 2]),
    ]
    coco(raw, annotations)
    _, card, rejects = prepare("covid_cxr", raw, tmp_path / "out")
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert boxes.to_numpy().tolist() == [
        ["0.png", "Left Lung", 1, 2, 11, 22, 30, 40], ["0.png", "Right Lung", 0, 0, 31, 41, 30, 40],
    ]  # fmt: skip
    assert list(boxes) == ["image_id", "finding", "x0", "y0", "x1", "y1", "width", "height"]
    assert len(rejects) == 9 and all(reason.startswith("no box: ") for reason in rejects.values())
    assert "10 of 12 boxes of lung_bbox_coco.json are not used" in card["notes"]
    assert_checked(tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": 1}', '{"images": [], "annotations": []}', '{"images": [1]}']
)
def test_a_broken_box_file_is_one_message(tmp_path, text):
    raw = covid_tree(tmp_path / "raw")
    (raw / "lung_bbox_coco.json").write_text(text)
    with pytest.raises(DataError, match="expected a COCO file"):
        prepare("covid_cxr", raw, tmp_path / "out")


def test_scores(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    lines = [
        "filename,S-A,S-Global,J-A,J-Global",
        "0.png,3,18,,7",
        "1.png,4,x,1,2.5",
        "0.png,1,1,1,1",
        "none.png,0,0,0,0",
    ]
    (raw / "brixia_public-annotations.csv").write_text("\n".join(lines))
    index, card, rejects = prepare("covid_cxr", raw, tmp_path / "out")
    rows = index.set_index("image_id")
    columns = ["brixia_a", "brixia_global", "brixia_junior_a", "brixia_junior_global"]
    assert rows.loc["0.png", columns].tolist() == ["3", "18", "", "7"]
    assert (
        rows.loc["1.png", columns].tolist() == ["", "", "1", ""]
        and rows.loc["2.png", columns].tolist() == [""] * 4
    )
    assert (
        len(pd.read_csv(tmp_path / "out" / "rejects.csv")) == 4
    )  # three bad scores, one file named twice
    assert rejects["brixia_public-annotations.csv 0.png"] == "file named before: first row used"


@pytest.mark.numeric
def test_real_images(shared, tmp_path):
    """All 134, PNG inside .jpg and RGBA among them; scores, lung boxes, licenses."""
    index, card, rejects = prepare(
        "covid_cxr", shared / "data" / "covid_cxr", tmp_path / "out", size=64
    )
    with h5py.File(tmp_path / "out" / "images.h5") as file:
        assert (
            len(file["cxr"]) == len(index)
            and (file["cxr"][:].reshape(len(index), -1).std(axis=1) > 5).all()
        )
    assert not [r for r in rejects.values() if not r.startswith("not selected")]
    assert len(index) + len(rejects) == 134 and (index["license"] != "").sum() > 100
    assert (index["brixia_global"] != "").sum() > 0
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert (
        boxes["image_id"].isin(index["image_id"]).all()
        and (boxes.groupby("image_id").size() == 2).all()
    )
    assert boxes["image_id"].nunique() == len(index)
    assert ((boxes["x0"] < boxes["x1"]) & (boxes["x1"] <= boxes["width"] + 1)).all()
    assert set(boxes["finding"]) == {"Left Lung", "Right Lung"}
    lungs = boxes.pivot(index="image_id", columns="finding", values="x0")
    assert (
        lungs["Right Lung"] < lungs["Left Lung"]
    ).mean() > 0.95  # the patient's right is on the left of the picture
