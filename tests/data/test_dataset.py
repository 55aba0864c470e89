"""Which data serve which role, and reading a prepared folder."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest

from medxvl.config import paths, presets, roles
from medxvl.data import dataset

DEMO = presets.load("demo")


def prepared(folder, n=12, name="mimic_cxr", images=True):
    """A prepared dataset in which image k is all grey level k."""
    folder.mkdir(parents=True)
    index = pd.DataFrame(
        {"study_id": [f"{k:03d}" for k in range(n)], "image_id": [f"i{k}" for k in range(n)]}
    )
    index["split"] = ["test" if k % 3 == 2 else "train" for k in range(n)]
    index = index.assign(
        patient_id="007",
        view="AP",
        findings="",
        impression="NA",
        **dict.fromkeys(dataset.CHEXPERT_14, ""),
    )
    index["Edema"] = [("1", "0", "-1", "")[k % 4] for k in range(n)]
    index.to_csv(folder / "index.csv", index=False)
    (folder / "rejects.csv").write_text("record,reason\na.jpg,truncated\n")
    if images:
        with h5py.File(folder / "images.h5", "w") as file:
            file["cxr"] = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    card = {
        "name": name,
        "label": name,
        "synthetic": False,
        "fingerprint": {"index": "a" * 64, "pixels": "b" * 64},
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder


# --- roles ----------------------------------------------------------------------------------------
def test_parse():
    assert roles.parse("") == {}
    given = roles.parse("main=mimic_cxr:/a unseen_disease='covid_cxr:/with blank' readers=phantom")
    assert given == {
        "main": ("mimic_cxr", "/a"),
        "unseen_disease": ("covid_cxr", "/with blank"),
        "readers": ("phantom", ""),
    }
    assert roles.parse("main=mimic_cxr:/odd=name:x")["main"] == ("mimic_cxr", "/odd=name:x")


@pytest.mark.parametrize(
    "given, told",
    [
        ("main", "expected ROLE=NAME:PATH"),
        ("main=", "expected ROLE=NAME:PATH"),
        (
            "train=mimic_cxr:/a",
            "unknown role 'train': expected one of main, unseen_disease, readers, transfer, "
            "questions",
        ),
        (
            "main=mimic:/a",
            r"unknown dataset 'mimic' for role main \(did you mean mimic_cxr\?\)",
        ),
        ("main=mimic_cxr", "expected a path, main=mimic_cxr:PATH"),
        ("main=phantom:/a", "takes no path"),
    ],
)
def test_parse_errors(given, told):
    with pytest.raises(ValueError, match=told):
        roles.parse(given)


def test_the_phantom_serves_every_role_by_default():
    found = roles.sources(DEMO)
    assert list(found) == list(roles.ROLES) and all(s.synthetic for s in found.values())
    assert found["main"].raw == roles.phantom_raw(DEMO) / "mimic_cxr"
    assert (
        found["unseen_disease"].name == "covid_cxr"
        and found["main"].folder.parent == paths.PREPARED
    )
    assert len({s.folder for s in found.values()}) == len(roles.ROLES)


def test_the_paper_preset_has_no_default(tmp_path):
    paper = presets.load("paper")
    assert roles.sources(paper) == {}
    assert list(roles.sources(paper, f"readers=chexpert_test:{tmp_path}")) == ["readers"]


def test_own_data_take_the_place_of_the_phantom(tmp_path):
    found = roles.sources(DEMO, f"unseen_disease=covid_cxr:{tmp_path}")
    assert (
        not found["unseen_disease"].synthetic
        and found["unseen_disease"].raw == tmp_path
        and found["main"].synthetic
    )
    assert (
        "phantom" not in found["unseen_disease"].folder.name
        and "phantom" in found["main"].folder.name
    )


def test_prepared_folders_are_kept_apart(tmp_path):
    """Another path, size or choice of views is another folder; what does not change the data is
    not.
    """

    def folder(path=tmp_path, overrides=""):
        return roles.sources(presets.load("demo", overrides), f"main=mimic_cxr:{path}")[
            "main"
        ].folder

    folders = {
        folder(),
        folder(tmp_path / "b"),
        folder(overrides="store_size=99"),
        folder(overrides="views=AP,PA"),
    }
    assert len(folders) == 4 and folder(overrides="seed=5 epochs=1") == folder()
    phantoms = {
        roles.sources(presets.load("demo", o))["main"].folder
        for o in ("", "studies=50", "phantom_seed=8")
    }
    assert len(phantoms) == 3


def test_settings_of_a_dataset(tmp_path):
    """They are read beside the data of their role, make another folder, and reach data_prep."""
    given = (
        f"main=table:{tmp_path}/t.csv main.text_column='my report' unseen_disease=covidx:{tmp_path}"
    )
    assert roles.parse(given) == {
        "main": ("table", f"{tmp_path}/t.csv"),
        "unseen_disease": ("covidx", str(tmp_path)),
    }
    assert roles.settings(given) == {"main": {"text_column": "my report"}}
    (tmp_path / "t.csv").write_text("my report,other\nNo edema.,a\nEdema.,b\n")
    source = roles.sources(DEMO, given)["main"]
    assert source.folder != roles.sources(DEMO, given.replace("my report", "other"))["main"].folder
    source = roles.Source(**vars(source) | {"folder": tmp_path / "out"})
    index = dataset.Dataset(roles.prepare(source, DEMO, progress=False)).index
    assert index["impression"].tolist() == ["No edema.", "Edema."]
    wrong = roles.Source(**vars(source) | {"folder": tmp_path / "other", "settings": {}})
    with pytest.raises(ValueError, match="name them: --set .*here: --data main.NAME=VALUE"):
        roles.prepare(wrong, DEMO, progress=False)


@pytest.mark.parametrize(
    "given, told",
    [
        ("main.views=PA", "a setting of your own data for main: give main=NAME:PATH too"),
        ("main=phantom main.views=PA", "give main=NAME:PATH too"),
        ("train.views=PA", "unknown role 'train'"),
        ("main.=PA", "expected ROLE=NAME:PATH"),
    ],
)
def test_settings_errors(given, told):
    with pytest.raises(ValueError, match=told):
        roles.settings(given)


def test_what_is_prepared_takes_no_settings(tmp_path):
    folder = prepared(tmp_path / "ready")
    with pytest.raises(ValueError, match="main.views=PA: .* is prepared already"):
        roles.sources(DEMO, f"main=mimic_cxr:{folder} main.views=PA")


def test_a_prepared_folder_is_used_as_it_is(tmp_path):
    folder = prepared(tmp_path / "ready")
    source = roles.sources(DEMO, f"main=mimic_cxr:{folder}")["main"]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert source.folder == folder and roles.prepare(source, DEMO, progress=False) == folder
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# --- a prepared folder ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rows", [[3], [0, 1, 2], [5, 2, 9], [4, 4, 4, 1, 4], [11, 0], list(range(11, -1, -1)), []]
)
def test_images_come_in_the_order_asked_for(tmp_path, rows):
    """Near each other or far apart, in any order, repeated or none."""
    images = dataset.Dataset(prepared(tmp_path / "x")).images(np.array(rows, dtype=int))
    assert images.shape == (len(rows), 4, 4) and images.dtype == np.uint8
    assert images[:, 0, 0].tolist() == rows


def test_rows_and_labels(tmp_path):
    found = dataset.Dataset(prepared(tmp_path / "x"))
    assert found.rows("test").tolist() == [2, 5, 8, 11] and found.rows("none").tolist() == []
    assert (
        found.index["study_id"].iloc[1] == "001" and found.index["patient_id"].iloc[0] == "007"
    ), "ids stay text"
    assert found.index["impression"].iloc[0] == "NA", (
        "a report that says NA is text, no missing value"
    )
    edema = found.index["Edema"]
    assert edema.iloc[:3].tolist() == [1, 0, -1] and np.isnan(edema.iloc[3])
    assert found.rejects["reason"].tolist() == ["truncated"] and len(found.fingerprint) == 12


def test_the_fingerprint_follows_the_content(tmp_path):
    folder = prepared(tmp_path / "x")
    first = dataset.Dataset(folder).fingerprint
    card = json.loads((folder / "card.json").read_text())
    card["fingerprint"]["pixels"] = "c" * 64
    (folder / "card.json").write_text(json.dumps(card))
    assert dataset.Dataset(folder).fingerprint != first


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a prepared dataset"):
        dataset.Dataset(tmp_path)
    labels_only = dataset.Dataset(prepared(tmp_path / "x", images=False))
    with pytest.raises(FileNotFoundError, match="expected images, found reports or labels only"):
        labels_only.images([0])


def test_a_dataset_must_fit_its_role(tmp_path):
    with pytest.raises(
        ValueError, match="does not fit role unseen_disease: expected phantom or covid_cxr, covidx"
    ):
        roles.parse("unseen_disease=chexpert_test:/a")
    assert all(roles.parse(f"main={name}:/a") for name in roles.NAMES), (
        "any dataset can be looked at"
    )
    (tmp_path / "card.json").write_text('{"name": "mimic_cxr"}')
    with pytest.raises(ValueError, match="expected prepared covid_cxr, found prepared mimic_cxr"):
        roles.sources(DEMO, f"unseen_disease=covid_cxr:{tmp_path}")
