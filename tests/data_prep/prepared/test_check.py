"""python -m data_prep check DIR: a whole dataset passes, each kind of damage is named with what to
do.
"""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import covid_tree, mimic_tree, prepare

from data_prep.__main__ import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One prepared dataset with images; each test damages a copy."""
    home = tmp_path_factory.mktemp("made")
    prepare("mimic_cxr", mimic_tree(home / "raw"), home / "out")
    return home / "out"


@pytest.fixture
def folder(made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(folder, capsys) -> tuple[int, dict[str, str]]:
    """(exit code, check -> what is wrong, of those that failed)"""
    code = main(["check", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    failed = dict(
        line.removeprefix("FAIL  ").split(": ", 1) for line in lines if line.startswith("FAIL")
    )
    assert all(line.startswith(("ok  ", "note", "FAIL")) for line in lines[:-1])
    return code, failed


def edit_index(folder, change, honest: bool = False) -> None:
    """Change index.csv; `honest`: write its new fingerprint to the card, so that only the other
    checks see it.
    """
    index = pd.read_csv(folder / "index.csv", dtype=str, keep_default_na=False)
    change(index).to_csv(folder / "index.csv", index=False, lineterminator="\n")
    if honest:
        from data_prep.reading.raw import sha256

        edit_card(
            folder, lambda card: card["fingerprint"].update(index=sha256(folder / "index.csv"))
        )


def edit_card(folder, change) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def test_a_whole_dataset_passes(folder, capsys):
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "all 16 checks passed" in out and out.count("\nok  ") == 15
    for what in (
        "sorted by study_id",
        "uint8, 6 x 32 x 32, one image a chunk",
        "pixels are those",
        "attrition adds up",
    ):
        assert what in out


def set_cell(row, column, value):
    return lambda index: index.assign(**{column: index[column].where(index.index != row, value)})


@pytest.mark.parametrize(
    "change, check, told",
    [
        (set_cell(1, "Edema", "2"), "labels are 1, 0, -1 or empty", "found Edema '2'"),
        (set_cell(1, "split", "validate"), "splits are train, valid, test", "found validate"),
        (set_cell(0, "split", "test"), "splits have the sizes of the card", "'train': {'rows': 2}"),
        (
            set_cell(0, "split", "test"),
            "patients are in one split each",
            "the card says 0, found 1",
        ),
        (set_cell(1, "image_id", "a000"), "image_id is there once", "a000 more than once"),
        (
            lambda index: index.iloc[::-1],
            "index.csv is sorted by study_id, image_id",
            "row 0 is the first out of order",
        ),
        (
            lambda index: index.iloc[:-1],
            "index.csv has the rows of the card",
            "the card says 6, found 5",
        ),
        (
            lambda index: index.drop(columns="view"),
            "index.csv has its columns, in order",
            "columns view are missing",
        ),
        (
            lambda index: index[[*index.columns[::-1]]],
            "index.csv has its columns, in order",
            "the card says ['study_id'",
        ),
    ],
)
def test_a_changed_index_is_told(folder, capsys, change, check, told):
    edit_index(folder, change, honest=True)
    code, failed = run(folder, capsys)
    assert code == 2 and told in failed[check] and "prepare it again" in failed[check]
    assert "index.csv is the one of the card (SHA-256)" not in failed


def test_an_index_changed_in_one_word(folder, capsys):
    edit_index(folder, set_cell(2, "impression", "Pneumonia."))
    code, failed = run(folder, capsys)
    assert code == 2 and list(failed) == ["index.csv is the one of the card (SHA-256)"]


def test_changed_pixels(folder, capsys):
    with h5py.File(folder / "images.h5", "r+") as h5:
        h5["cxr"][3, 5, 5] ^= 1
    code, failed = run(folder, capsys)
    assert code == 2 and list(failed) == ["pixels are those of the card (SHA-256)"]


def test_images_of_another_form(folder, capsys):
    with h5py.File(folder / "images.h5") as h5:
        pixels = h5["cxr"][:]
    with h5py.File(folder / "images.h5", "w") as h5:
        h5["cxr"] = pixels[:5]
    code, failed = run(folder, capsys)
    told = failed["images.h5 is uint8, 6 x 32 x 32, one image a chunk"]
    assert code == 2 and "found [[5, 32, 32], 'uint8', []]" in told
    (folder / "images.h5").write_bytes(b"no HDF5")
    assert "images.h5 can be read" in run(folder, capsys)[1]
    (folder / "images.h5").unlink()
    code, failed = run(folder, capsys)
    assert code == 2 and "No such file" in failed["images.h5 can be read"]


def test_an_account_that_does_not_add_up(folder, capsys):
    lines = (folder / "rejects.csv").read_text().splitlines(keepends=True)
    (folder / "rejects.csv").write_text("".join(lines[:-1]))
    edit_card(folder, lambda card: card["attrition"][-2].update(rows=99))
    code, failed = run(folder, capsys)
    assert (
        code == 2 and "the card says 2, found 1" in failed["rejects.csv has the rows of the card"]
    )
    assert "1 rows are not" in failed["every row dropped is in rejects.csv"]
    assert "are not 99" in failed["attrition adds up, from the raw records to the index"]
    (folder / "rejects.csv").unlink()
    assert "rejects.csv can be read" in run(folder, capsys)[1]


def test_a_patient_in_two_splits_is_a_note_when_the_card_tells_it(tmp_path, capsys):
    raw = mimic_tree(tmp_path / "raw")
    split = pd.read_csv(raw / "mimic-cxr-2.0.0-split.csv")
    split.loc[split["study_id"] == 50000001, "split"] = "test"
    split.to_csv(raw / "mimic-cxr-2.0.0-split.csv", index=False)
    prepare("mimic_cxr", raw, tmp_path / "out")
    assert main(["check", str(tmp_path / "out")]) == 0
    assert (
        "note  patients are in one split each: 1 are in two (10000000), as the card says"
        in capsys.readouterr().out
    )


def test_tables_beside_the_index(shared, tmp_path, capsys):
    prepare("chexpert_test", shared / "data" / "chexpert_test_labels", tmp_path / "out")
    assert run(tmp_path / "out", capsys)[0] == 0
    with open(tmp_path / "out" / "readers.csv", "a") as file:
        file.write("x\n")
    assert list(run(tmp_path / "out", capsys)[1]) == [
        "readers.csv is the one of the card (SHA-256)"
    ]


@pytest.mark.parametrize(
    "damage", ["no folder", "no card", "unfinished", "not JSON", "a list", "old"]
)
def test_what_is_no_prepared_dataset(folder, capsys, damage):
    if damage == "no folder":
        folder = folder / "nowhere"
    elif damage == "no card":
        (folder / "card.json").unlink()
    elif damage == "unfinished":
        (folder / "x.partial").mkdir()
        folder = folder / "x.partial"
    elif damage == "old":
        edit_card(folder, lambda card: [card.pop(key) for key in ("columns", "rejects")])
        code, failed = run(folder, capsys)
        assert code == 2 and "columns, rejects are missing" in failed["card.json has its entries"]
        return
    else:
        (folder / "card.json").write_text({"not JSON": "{", "a list": "[]"}[damage])
    assert main(["check", str(folder)]) == 2
    error = capsys.readouterr().err
    expected = {
        "unfinished": "an unfinished preparation",
        "not JSON": "a card in",
        "a list": "a card in",
    }
    assert error.startswith("error: expected ") and error.count("\n") == 1
    assert expected.get(damage, "no card.json in") in error


def test_check_needs_a_folder(capsys):
    assert main(["check"]) == 2 and "data_prep check DIR" in capsys.readouterr().err
    assert (
        main(["covid_cxr", "somewhere"]) == 2
        and "options that begin with --" in capsys.readouterr().err
    )


@pytest.mark.parametrize("tree", [covid_tree, mimic_tree])
def test_every_kind_of_raw_tree_passes(tmp_path, capsys, tree):
    name = {covid_tree: "covid_cxr", mimic_tree: "mimic_cxr"}[tree]
    prepare(name, tree(tmp_path / "raw"), tmp_path / "out")
    assert run(tmp_path / "out", capsys) == (0, {})


def test_pixels_that_stay_in_the_users_file_keep_its_order_and_chunks(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    with h5py.File(raw / "cxr.h5", "w") as h5:
        h5["cxr"] = pixels
    table = pd.DataFrame(
        {
            "Path": [f"p10/p10000001/s5000000{9 - k}/i{k}.jpg" for k in range(6)],
            "impression": "Clear.",
        }
    )
    table.to_csv(raw / "cxr.csv", index=False)
    prepare("cxr_h5", raw, tmp_path / "out")
    assert run(tmp_path / "out", capsys) == (0, {})
    with h5py.File(raw / "cxr.h5", "r+") as h5:
        h5["cxr"][2, 3, 3] ^= 1
    assert list(run(tmp_path / "out", capsys)[1]) == ["pixels are those of the card (SHA-256)"]
    (raw / "cxr.h5").unlink()
    code, failed = run(tmp_path / "out", capsys)
    assert code == 2 and "images.h5 can be read" in failed


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"train": {}}},
        {"counts": [], "attrition": None},
        {"fingerprint": {}},
        {"fingerprint": None},
        {"attrition": [{}]},
        {"attrition": [{"step": "a", "rows": 1}] * 2},
        {"attrition": {"a": 1}},
        {"overlap": []},
        {"extra": {"x.csv": {}}},
        {"extra": [1]},
        {"extra": {".": {"sha256": ""}}},
        {"rows": None},
        {"size": "x"},
        {"images": []},
        {"columns": None},
        {"rejects": {}},
    ],
)
def test_a_card_whose_entries_have_another_form(folder, capsys, change):
    edit_card(folder, lambda card: card.update(change))
    code, failed = run(folder, capsys)
    assert code == 2 and failed and all("prepare it again" in told for told in failed.values())
