"""Anybody's table: every kind of file, columns by option, labels, splits, reports as they come."""

import gzip
import sys

import pandas as pd
import pytest
from data_prep_trees import assert_checked, contents, prepare
from hypothesis import given, settings
from hypothesis import strategies as st
from table_data import BOTH, folder, written

from data_prep import DataError
from data_prep.datasets import anytable
from data_prep.datasets.table import from_text
from data_prep.reading.raw import CHEXPERT_14, split_by_hash


def test_images_and_text(tmp_path):
    table = folder(tmp_path, patient=[f"P{k // 2}" for k in range(30)])
    path = written(table, tmp_path / "data.csv")
    index, card, rejects = prepare(
        "table", path, tmp_path / "out", settings=BOTH | {"patient_column": "patient"}
    )
    assert len(index) == card["images"] == 30 and not rejects
    assert index["image_id"].tolist() == table["image"].tolist() and set(index["findings"]) == {""}
    assert index["Pleural Effusion"].tolist() == ["0", "1"] * 15  # from the text
    assert (index.groupby("patient_id")["split"].nunique() == 1).all() and index[
        "split"
    ].nunique() > 1
    assert any(note.startswith("labels: found by rules") for note in card["notes"])
    assert not any(str(tmp_path) in text for text in index.to_numpy().ravel())
    assert_checked(tmp_path / "out")


@pytest.mark.parametrize(
    "kind", ["csv", "csv.gz", "tsv", "txt", "semicolon", "utf-16", "latin-1", "bom", "parquet"]
)
def test_kinds_of_files(tmp_path, kind):
    table = folder(tmp_path, 3, note=["Zürich", 'a "b", c\nd', "NA"], number=[1, None, 3])
    suffix = {"semicolon": "csv", "utf-16": "csv", "latin-1": "csv", "bom": "csv"}.get(kind, kind)
    path = tmp_path / f"data.{suffix}"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        sep = {"tsv": "\t", "txt": "|", "semicolon": ";"}.get(kind, ",")
        encoding = {"bom": "utf-8-sig"}.get(
            kind, kind if kind in ("utf-16", "latin-1") else "utf-8"
        )
        text = table.astype({"number": "Int64"}).to_csv(index=False, sep=sep).encode(encoding)
        path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    settings = BOTH | {"extra_columns": "note,number", "labels": "none"}
    index, _, rejects = prepare("table", path, tmp_path / "out", settings=settings)
    assert index["note"].tolist() == ["Zürich", 'a "b", c d', "NA"] and index[
        "number"
    ].tolist() == ["1", "", "3"]
    assert not rejects


def test_all_columns(tmp_path):
    table = folder(
        tmp_path,
        4,
        id=["=a", "b,1", 'c"', "d"],
        exam=["e1", "e1", "e2", "e3"],
        who=["p1", "p1", "p2", "p3"],
        look=["AP", "LATERAL", "", "PA"],
        fold=["Train", "training", "VAL", "test"],
        F=["Clear lungs."] * 4,
        I=["Normal."] * 4,
        pleural_effusion=["1", "0.0", "-1", ""],
        Edema=["", "NaN", "1", "0"],
        split=["x"] * 4,
    )
    settings = {
        "image_column": "image",
        "findings_column": "F",
        "impression_column": "I",
        "id_column": "id",
        "study_column": "exam",
        "patient_column": "who",
        "view_column": "look",
        "split_column": "fold",
        "extra_columns": "split,report",
    }
    index, card, rejects = prepare(
        "table", written(table, tmp_path / "t.csv"), tmp_path / "out", settings=settings
    )
    rows = index.set_index("image_id").loc[["=a", "b,1", 'c"', "d"]]
    assert rows["study_id"].tolist() == ["e1", "e1", "e2", "e3"] and rows[
        "patient_id"
    ].tolist() == [
        "p1",
        "p1",
        "p2",
        "p3",
    ]
    assert rows["split"].tolist() == ["train", "train", "valid", "test"] and rows[
        "view"
    ].tolist() == [
        "AP",
        "LATERAL",
        "",
        "PA",
    ]
    assert rows["Pleural Effusion"].tolist() == ["1", "0", "-1", ""] and rows["Edema"].tolist() == [
        "",
        "",
        "1",
        "0",
    ]
    assert set(rows["findings"]) == {"Clear lungs."} and set(rows["impression"]) == {"Normal."}
    assert rows["raw_split"].tolist() == ["x"] * 4 and "report" in rows and not rejects
    assert not any("patient_column" in note for note in card["notes"])


def test_labels_of_other_names(tmp_path):
    table = folder(tmp_path, 3, Ileus=["1", "0", "-1"], Edema=["1", "1", "1"])
    settings = BOTH | {"label_columns": "Ileus"}
    index, card, _ = prepare(
        "table", written(table, tmp_path / "t.csv"), tmp_path / "out", settings=settings
    )
    assert index["Ileus"].tolist() == ["1", "0", "-1"] and set(index["Edema"]) == {""}
    assert card["prevalence"]["Ileus"] == {"positive": 1, "negative": 1, "uncertain": 1, "empty": 0}


def test_text_only_and_numbers_as_ids(tmp_path):
    table = pd.DataFrame(
        {"report": [f"FINDINGS: Lungs {k}.\nIMPRESSION: Normal {k}." for k in range(11)]}
    )
    index, card, _ = prepare(
        "table",
        written(table, tmp_path / "t.csv"),
        tmp_path / "out",
        settings={"text_column": "report"},
    )
    assert card["images"] == 0 and index["study_id"].tolist() == [
        f"row {k:02d}" for k in range(1, 12)
    ]
    assert index["findings"][0] == "Lungs 0." and index["impression"][0] == "Normal 0."
    assert sum("patient" in note for note in card["notes"]) == 2


def test_a_folder_with_one_table(tmp_path):
    raw = tmp_path / "raw"
    written(folder(raw, 3), raw / "only.csv")
    index, _, _ = prepare("table", raw, tmp_path / "out", settings=BOTH)
    assert len(index) == 3
    written(folder(raw / "more", 3), raw / "second.csv")
    with pytest.raises(DataError, match="found 2 in the folder.*only.csv, second.csv"):
        prepare("table", raw, tmp_path / "out2", settings=BOTH)


def test_same_bytes_with_two_workers(tmp_path):
    path = written(folder(tmp_path / "raw", 60), tmp_path / "raw" / "t.csv")
    for workers in (1, 2):
        prepare("table", path, tmp_path / f"out{workers}", settings=BOTH, workers=workers)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        anytable.load(tmp_path / "t.parquet")


def test_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(DataError, match="a whole table"):
        anytable.load(tmp_path / "t.parquet")


def test_limit_and_real_images(shared, tmp_path):
    """Absolute paths of the real collection: JPEG, PNG inside .jpg, RGBA; and two DICOM files."""
    images = sorted((shared / "data" / "covid_cxr" / "images").iterdir())[:20]
    images += [shared / "data" / "dicom" / name for name in ("RG1_J2KI.dcm", "rtplan.dcm")]
    path = written(pd.DataFrame({"file": images}), tmp_path / "t.csv")
    settings = {"image_column": "file", "max_reject_share": 1}
    index, card, rejects = prepare("table", path, tmp_path / "out", settings=settings)
    assert len(index) >= 20 and len(index) + len(rejects) == 22
    assert any("rtplan" in record for record in rejects)
    index, _, rejects = prepare("table", path, tmp_path / "first", settings=settings, limit=5)
    assert len(index) == 5 and len(rejects) == 17


@pytest.mark.numeric
def test_real_reports(shared, tmp_path):
    """The Indiana table as it is: 2,700 reports here."""
    raw = shared / "data" / "openi" / "indiana_reports.csv"
    settings = {
        "findings_column": "findings",
        "impression_column": "impression",
        "id_column": "uid",
        "labels": "none",
        "max_reject_share": 1,
    }
    index, card, rejects = prepare("table", raw, tmp_path / "out", settings=settings)
    source = pd.read_csv(raw, dtype=str, keep_default_na=False)
    assert len(index) + len(rejects) == len(source) == 2700 and len(rejects) == 19
    # 0.03: over three SDs of a share of 2,681 random draws
    assert abs((index["split"] == "train").mean() - 0.7) < 0.03


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("No acute disease.", "", "No acute disease."),
        ("First paragraph.\n\nSecond paragraph.", "", "First paragraph. Second paragraph."),
        ("FINDINGS: Clear.\nIMPRESSION: Normal.", "Clear.", "Normal."),
        ("Findings:\nClear.\n\nImpression:\nNormal.", "Clear.", "Normal."),
        ("INDICATION: Cough.\n\nThe lungs are clear.", "", "The lungs are clear."),
        ("The history: long. It is clear.", "", "The history: long. It is clear."),
        ("", "", ""),
    ],
)
def test_from_text(text, findings, impression):
    assert from_text(text) == {"findings": findings, "impression": impression}


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_from_text_takes_anything(text):
    parts = from_text(text)
    assert set(parts) == {"findings", "impression"}
    assert all(isinstance(part, str) and "\n" not in part for part in parts.values())


@pytest.mark.numeric
def test_split_by_hash():
    ids = pd.Series([f"p{k}" for k in range(20_000)])
    split = split_by_hash(ids)
    share = split.value_counts(normalize=True)[["train", "valid", "test"]]
    assert (share - [0.7, 0.1, 0.2]).abs().max() < 0.01  # three SDs of 20,000 random draws
    assert split_by_hash(ids[::-1]).sort_index().equals(split)  # of the id alone


def test_the_fourteen_are_found_whatever_the_spelling(tmp_path):
    table = pd.DataFrame(
        {name.upper().replace(" ", "_"): ["1"] for name in CHEXPERT_14} | {"report": ["Clear."]}
    )
    index, _, _ = prepare(
        "table",
        written(table, tmp_path / "t.csv"),
        tmp_path / "out",
        settings={"text_column": "report"},
    )
    assert (index[CHEXPERT_14] == "1").all(axis=None)
