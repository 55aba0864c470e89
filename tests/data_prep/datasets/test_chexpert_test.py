"""CheXpert test: labels alone, and with the tree of images where it is there."""

import pandas as pd
import pytest
from data_prep_trees import assert_checked, encoded, picture, prepare

from data_prep import DataError
from data_prep.reading.raw import CHEXPERT_14


def tree(root, studies=4, home="CheXpert/test", images=True):
    root.mkdir(parents=True)
    names = [f"CheXpert-v1.0/test/patient{64740 + k}/study1" for k in range(studies)]
    truth = pd.DataFrame(0, names, CHEXPERT_14).rename_axis("Study").reset_index()
    truth.to_csv(root / "groundtruth.csv", index=False)
    for k in range(studies if images else 0):
        place = root / home / f"patient{64740 + k}" / "study1"
        place.mkdir(parents=True)
        (place / "view1_frontal.jpg").write_bytes(encoded(picture(k), "JPEG"))
    readers = root / "radiologists" / "benchmark_radiologists"
    readers.mkdir(parents=True)
    truth.to_csv(readers / "bc4.csv", index=False)
    return root


@pytest.mark.parametrize("home", ["CheXpert/test", "CheXpert-v1.0/test", "test", "."])
def test_with_images(tmp_path, home):
    index, card, rejects = prepare(
        "chexpert_test", tree(tmp_path / "raw", home=home), tmp_path / "out"
    )
    assert (
        card["images"] == 4
        and set(index["split"]) == {"test"}
        and set(index["view"]) == {"FRONTAL"}
    )
    assert index["image_id"][0] == "patient64740/study1/view1_frontal" and not rejects
    assert_checked(tmp_path / "out")


def test_labels_alone(tmp_path):
    index, card, rejects = prepare(
        "chexpert_test", tree(tmp_path / "raw", images=False), tmp_path / "out"
    )
    assert card["images"] == 0 and len(index) == 4 and not rejects
    assert any(note.startswith("labels only") for note in card["notes"])


def test_faults_of_images(tmp_path):
    raw = tree(tmp_path / "raw", 30)
    home = raw / "CheXpert" / "test"
    (home / "patient64740" / "study1" / "view1_frontal.jpg").unlink()
    (home / "patient64741" / "study1" / "view1_frontal.jpg").write_bytes(b"")
    (home / "patient64742" / "study1" / "view2_lateral.jpg").write_bytes(
        encoded(picture(1), "JPEG")
    )
    (home / "patient9" / "study1").mkdir(parents=True)
    (home / "patient9" / "study1" / "view1_frontal.jpg").write_bytes(encoded(picture(1), "JPEG"))
    index, card, rejects = prepare(
        "chexpert_test", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert len(index) == 28
    reason = "image not used: not the first frontal one of a study in groundtruth.csv"
    assert rejects == {
        "CheXpert-v1.0/test/patient64740/study1": "file not in the folder",
        "CheXpert-v1.0/test/patient64741/study1": "empty file (0 bytes)",
        "CheXpert/test/patient64742/study1/view2_lateral.jpg": reason,
        "CheXpert/test/patient9/study1/view1_frontal.jpg": reason,
    }
    readers = pd.read_csv(tmp_path / "out" / "readers.csv")
    assert set(readers["study_id"]) == set(index["study_id"]) and any(
        "readers.csv: 28 of 420" in n for n in card["notes"]
    )


def test_limit_and_wrong_folder(tmp_path):
    raw = tree(tmp_path / "raw")
    index, _, rejects = prepare("chexpert_test", raw, tmp_path / "out", limit=2)
    assert len(index) == 2 and list(rejects.values()) == ["not selected: after the first 2"] * 2
    with pytest.raises(DataError, match="expected chexpert_test"):
        prepare("chexpert_test", raw / "CheXpert", tmp_path / "out2")
    (raw / "groundtruth.csv").write_text("Study,Edema\n")
    with pytest.raises(DataError, match="expected the columns No Finding"):
        prepare("chexpert_test", raw, tmp_path / "out3")


def test_bad_rows(tmp_path):
    raw = tree(tmp_path / "raw", 4)
    text = (raw / "groundtruth.csv").read_text().splitlines()
    text += [text[1], "somewhere/else" + ",0" * 14, "patient1/study1" + ",7" * 14]
    (raw / "groundtruth.csv").write_text("\n".join(text))
    index, _, rejects = prepare(
        "chexpert_test", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert len(index) == 4 and set(rejects.values()) == {
        "Study does not end in patient<number>/study<number>",
        "study_id named before: first row used",
        "label No Finding is '7', expected 1, 0, -1 or empty",
    }


def test_real_labels(shared, tmp_path):
    index, card, rejects = prepare(
        "chexpert_test", shared / "data" / "chexpert_test_labels", tmp_path / "out"
    )
    assert (
        len(index) == 500 and card["images"] == 0 and (tmp_path / "out" / "readers.csv").is_file()
    )
