"""Faults of a whole dataset or target: wrong folders, missing tables, full disks."""

import errno
from collections import namedtuple

import pandas as pd
import pytest
from data_prep_trees import covid_tree, mimic_tree, prepare

from data_prep import DataError
from data_prep.prepared import preparation, writing
from data_prep.reading.raw import CHEXPERT_14


def test_wrong_raw_folders_are_recognised(tmp_path):
    (tmp_path / "empty").mkdir()
    covid, mimic = covid_tree(tmp_path / "covid"), mimic_tree(tmp_path / "tree" / "mimic")
    for name, raw, expected in (
        ("covid_cxr", tmp_path / "nowhere", "nothing at .*nowhere; correct the path"),
        ("covid_cxr", tmp_path / "empty", "an empty folder at .*download"),
        ("mimic_cxr", covid, "this looks like covid_cxr"),
        ("covid_cxr", mimic, "this looks like mimic_cxr"),
        ("mimic_cxr", tmp_path / "tree", "give its subfolder .*mimic"),
        ("covid_cxr", covid / "metadata.csv", "found the file .*give the folder"),
        ("covid_cxr", covid / "images", "in .*images only 0.png, 1.png"),
    ):
        with pytest.raises(DataError, match=expected):
            prepare(name, raw, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_missing_or_damaged_tables(tmp_path):
    raw = mimic_tree(tmp_path / "raw", zipped=True)
    labels = raw / "mimic-cxr-2.0.0-chexpert.csv.gz"
    pd.read_csv(labels).drop(columns=["Edema", "Fracture"]).to_csv(labels, index=False)
    with pytest.raises(
        DataError, match="expected the columns Edema, Fracture in .*; found the columns subject_id"
    ):
        prepare("mimic_cxr", raw, tmp_path / "out")
    labels.write_bytes(b"\x1f\x8b" + b"no gzip at all")
    with pytest.raises(DataError, match="download this file again"):
        prepare("mimic_cxr", raw, tmp_path / "out")
    (raw / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(DataError, match="mimic-cxr-2.0.0-split.csv.gz"):
        prepare("mimic_cxr", raw, tmp_path / "out")


def test_settings_and_tables_that_leave_nothing(tmp_path):
    covid, mimic = covid_tree(tmp_path / "covid"), mimic_tree(tmp_path / "mimic")
    for name, raw, expected in (
        ("covid_cxr", covid, "view PA: 4"),
        ("mimic_cxr", mimic, "view AP: 7"),
    ):
        with pytest.raises(DataError, match=f"none is left .*{expected}"):
            prepare(name, raw, tmp_path / "out", settings={"views": "ap"})
    readers = tmp_path / "readers"
    readers.mkdir()
    for raw, name, table in (
        (covid, "covid_cxr", covid / "metadata.csv"),
        (mimic, "mimic_cxr", mimic / "mimic-cxr-2.0.0-metadata.csv"),
        (readers, "chexpert_test", readers / "groundtruth.csv"),
    ):
        header = (
            table.read_text().split("\n")[0]
            if table.exists()
            else ",".join(["Study", *CHEXPERT_14])
        )
        table.write_text(header + "\n")
        with pytest.raises(DataError, match="none is left"):
            prepare(name, raw, tmp_path / "out")
        table.write_text("")
        with pytest.raises(DataError, match="expected a CSV table in .*EmptyDataError"):
            prepare(name, raw, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_nothing_of_somebody_else_is_overwritten(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="thesis.txt in it; choose another folder"):
        prepare("covid_cxr", raw, tmp_path / "mine")
    (tmp_path / "next.partial").mkdir()
    (tmp_path / "next.partial" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="thesis.txt in it"):
        prepare("covid_cxr", raw, tmp_path / "next")
    assert (tmp_path / "next.partial" / "thesis.txt").exists() and (
        tmp_path / "mine" / "thesis.txt"
    ).exists()
    with pytest.raises(DataError, match="raw files are never changed"):
        prepare("covid_cxr", raw, raw)
    with pytest.raises(DataError, match="folders that can be read and written"):
        prepare("covid_cxr", raw, raw / "metadata.csv" / "out")


def test_another_dataset_in_the_target(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    prepare("covid_cxr", raw, tmp_path / "out")
    with pytest.raises(
        DataError, match="size 32 instead of 64; delete that folder or choose another"
    ):
        prepare("covid_cxr", raw, tmp_path / "out", size=64)
    (tmp_path / "out" / "images.h5").unlink()
    with pytest.raises(DataError, match="files are gone"):
        prepare("covid_cxr", raw, tmp_path / "out")
    (tmp_path / "out" / "card.json").write_text("{")
    with pytest.raises(DataError, match="card.json that cannot be read"):
        prepare("covid_cxr", raw, tmp_path / "out")


def test_full_disk_is_one_message_and_the_run_can_go_on(tmp_path, monkeypatch):
    raw = covid_tree(tmp_path / "raw")
    free = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: free)
    with pytest.raises(DataError, match="GB of free disk; found 0.0 GB"):
        prepare("covid_cxr", raw, tmp_path / "out")
    monkeypatch.undo()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "pwrite", full)
    with pytest.raises(DataError, match="enough free disk"):
        prepare("covid_cxr", raw, tmp_path / "out")
    monkeypatch.undo()
    assert len(prepare("covid_cxr", raw, tmp_path / "out")[0]) == 4


def test_a_target_that_cannot_be_written(tmp_path, monkeypatch):
    raw = covid_tree(tmp_path / "raw")

    def refuse(path, *rest, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(preparation.Path, "mkdir", refuse)
    with pytest.raises(
        DataError,
        match="folders that can be read and written; found .*Permission denied.*another place",
    ):
        prepare("covid_cxr", raw, tmp_path / "closed" / "out")


def test_a_disk_that_fills_while_hdf5_is_closed(tmp_path, monkeypatch):
    """HDF5 then raises a RuntimeError that only its text tells apart; another one is a fault of
    ours and goes through.
    """
    raw = covid_tree(tmp_path / "raw")
    for text, kind in (
        ("errno = 28, No space left on device", DataError),
        ("something else", RuntimeError),
    ):

        def full(*arguments, text=text):
            raise RuntimeError(text)

        monkeypatch.setattr(writing, "_write_images", full)
        with pytest.raises(kind, match="enough free disk|something else"):
            prepare("covid_cxr", raw, tmp_path / "out")
    monkeypatch.undo()
    assert len(prepare("covid_cxr", raw, tmp_path / "out")[0]) == 4
