"""Pictures that were rejected: found again, and shown where they are open."""

import numpy as np
import pandas as pd
import pytest
from data_prep_trees import covid_tree, encoded, picture
from look_data import hospital

from data_prep.prepared import preparation
from medxvl.data import dataset
from medxvl.notebook import rejected


def test_a_record_leads_to_its_file(tmp_path):
    home = tmp_path / "home"
    (home / "images_001" / "images").mkdir(parents=True)
    for name in ("images_001/images/a b.png", "top.png"):
        (home / name).write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    here = (home, "images_001/images/a b.png")
    for record in ("a b.png", "a b", "list.txt line 3 a b.png", "images_001/images/a b.png"):
        assert rejected.locate(record, home, "nih") == here, record
    assert rejected.locate("row 7 top.png", home, "table") == (home, "top.png")
    for record in (
        "../secret.png",
        "link.png",
        "images_001",
        "",
        "no such file",
        "row 3",
        "[a]*",
        f"row 1 {tmp_path}/secret.png",
    ):
        assert rejected.locate(record, home, "nih") is None, record
    secret = f"{tmp_path}/secret.png"
    assert rejected.locate(f"row 1 {secret}", home, "table") == (rejected.Path("/"), secret[1:]), (
        "tables take such paths"
    )


@pytest.mark.numeric
def test_rejected_pictures(tmp_path):
    tree = covid_tree(tmp_path / "covid", 9)
    meta = pd.read_csv(tree / "metadata.csv")
    meta["view"] = ["PA"] * 3 + ["L"] * 5 + ["PA"]
    meta.loc[3:5, "license"] = "unknown"
    meta.to_csv(tree / "metadata.csv", index=False)
    (tree / "images" / "1.png").write_bytes(encoded(np.full((40, 40), 77, np.uint8)))
    (tree / "images" / "2.png").write_bytes((tree / "images" / "2.png").read_bytes()[:30])
    whole = encoded(np.full((64, 64), 200, np.uint8), "JPEG")
    (tree / "images" / "0.png").write_bytes(encoded(picture(9, 64, 64), "JPEG")[: len(whole) + 900])
    options = {"size": 32, "settings": {"max_reject_share": "1"}, "progress": False}
    made = dataset.Dataset(preparation.prepare("covid_cxr", tree, tmp_path / "out", **options))
    found = {record: (image, reason) for image, record, reason in rejected.pictures(made)}
    assert set(found) == {f"images/{k}.png" for k in (0, 1, 6, 7)}, (
        "not those of an unknown licence, nor a stump"
    )
    half, reason = found["images/0.png"]
    assert "truncated" in reason and half[:60].std() > 20 > half[-20:].std(), (
        "the upper part is there, the rest is grey"
    )
    assert (found["images/1.png"][0] == 77).all() and "constant" in found["images/1.png"][1]
    assert (
        len(rejected.pictures(made, "all", each=5)) == 7 and rejected.pictures(made, "none") == []
    )
    (tmp_path / "covid").rename(tmp_path / "elsewhere")
    assert rejected.pictures(made) == [] and "not there any more" in rejected.why_none(made)


def test_closed_rejects_are_not_shown(tmp_path):
    made = hospital(tmp_path, max_reject_share="1")
    assert rejected.pictures(made) == [] and len(rejected.pictures(made, "all")) == 1
