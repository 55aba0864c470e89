"""Patients, texts and pictures that stand in more than one split."""

import numpy as np
import pytest
from data_prep_trees import encoded, picture
from look_data import table

from medxvl.notebook import leakage


@pytest.mark.numeric
def test_leakage_counts_what_is_planted(tmp_path):
    """Patient p0 and one text are in train and test; image 4 is image 0 brightened, image 5 is
    image 1 itself.
    """
    splits = ["train", "train", "train", "valid", "test", "test"]
    rows = [
        {
            "image": f"{k}.png",
            "report": f"Text {k}." if k != 5 else "TEXT  0.",
            "split": split,
            "patient": "p0" if k in (0, 4) else f"p{k}",
        }
        for k, split in enumerate(splits)
    ]
    smooth = [np.kron(picture(k, 8, 8), np.ones((8, 8), np.uint8)) // 2 for k in range(6)]
    smooth[4], smooth[5] = smooth[0] + 9, smooth[1]
    for k, pixels in enumerate(smooth):
        (tmp_path / f"{k}.png").write_bytes(encoded(pixels))
    made = table(tmp_path, rows, images=False)
    found = leakage.report(made)
    assert found.loc[
        "patients", ["in more than one split", "train & test", "test rows concerned"]
    ].tolist() == [
        1,
        1,
        1,
    ]
    assert found.loc[
        "report texts", ["train & valid", "train & test", "of test rows"]
    ].tolist() == [0, 1, 2]
    assert found.loc[
        ["identical images", "near-identical images", "studies"], "in more than one split"
    ].tolist() == [
        1,
        1,
        0,
    ]
    assert "WARNING, 1 patients, 1 identical images, 1 near-identical images" in leakage.sentence(
        made
    )
    pairs = leakage.copies(made, np.ones(6, bool))
    assert {made.index["image_id"][row] for row in pairs} == {"0.png", "4.png", "1.png", "5.png"}
    assert list(pairs.values())[0].startswith("near-identical pair 1: ")
    assert leakage.copies(made, np.array([False] * 2 + [True] * 4)) == {}, (
        "both pictures of a pair must be open"
    )


def test_leakage_of_what_is_absent(tmp_path):
    made = table(tmp_path / "a", [{"report": "No edema.", "split": "test"}] * 3, id_column="")
    assert "one split only (test)" in leakage.sentence(made)
    assert leakage.report(made).loc["identical images", "in more than one split"] == "no images"
    made = table(
        tmp_path / "b",
        [{"report": f"No edema {k}.", "split": s} for k, s in enumerate(["train", "test"])],
    )
    assert "looked for: patients, studies. Patients are not told apart" in leakage.sentence(made)
