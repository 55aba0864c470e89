"""Anybody's table: every kind of file, columns by option, paths, odd cells; each bad input has its
outcome.
"""

import csv
import gzip
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from data_prep_trees import assert_checked, contents, encoded, picture, prepare
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import DataError, anytable
from data_prep.__main__ import main
from data_prep.raw import CHEXPERT_14, split_by_hash
from data_prep.table import from_text

BOTH = {"image_column": "image", "text_column": "report"}


def folder(root, count=30, **columns):
    """Images in root/images and a DataFrame that names them."""
    (root / "images").mkdir(parents=True)
    for k in range(count):
        (root / "images" / f"{k:02d}.png").write_bytes(encoded(picture(k)))
    reports = [
        "Small left pleural effusion." if k % 2 else "No pleural effusion." for k in range(count)
    ]
    return pd.DataFrame(
        {"image": [f"images/{k:02d}.png" for k in range(count)], "report": reports} | columns
    )


def written(table, path, **options):
    table.to_csv(path, index=False, **options)
    return path


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


def test_paths(tmp_path):
    """Relative ones stay in the table's folder; absolute ones may lie anywhere; links as in every
    other dataset.
    """
    home, other = tmp_path / "home", tmp_path / "other"
    table = folder(home, 20)
    other.mkdir()
    (other / "x.png").write_bytes(encoded(picture(77)))
    (home / "images" / "link.png").symlink_to(other / "x.png")
    (home / "disk").symlink_to(other)
    paths = [
        str(other / "x.png"),
        "disk/x.png",
        "images\\00.png",
        "../other/x.png",
        "images/../../other/x.png",
        "images/link.png",
        "",
        "images/none.png",
        "images",
        "images/01.png",
    ]
    table = pd.concat([table, pd.DataFrame({"image": paths, "report": "Clear lungs."})])
    path = written(table, home / "t.csv")
    index, _, rejects = prepare(
        "table", path, tmp_path / "out", settings=BOTH | {"max_reject_share": 1}
    )
    used = set(index["image_id"])
    assert str(other / "x.png") in used and len(used) == 21
    assert rejects == {
        "row 22 disk/x.png": "the same file as in a row before: first row used",
        "row 23 images\\00.png": "the same file as in a row before: first row used",
        "row 24 ../other/x.png": "path leaves the folder of the table",
        "row 25 images/../../other/x.png": "path leaves the folder of the table",
        "row 26 images/link.png": "path leaves the folder of the table through a symbolic link",
        "row 27 ": "image is empty",
        "row 28 images/none.png": "file not in the folder",
        "row 29 images": "not a file",
        "row 30 images/01.png": "image_id named before: first row used",
    }


def test_faults_of_records(tmp_path):
    table = folder(
        tmp_path, 30, Edema=["1"] * 30, fold=["train"] * 30, id=[f"id{k}" for k in range(30)]
    ).astype(object)
    table.loc[0, "Edema"], table.loc[1, "Edema"] = "2", "yes"
    table.loc[2, "fold"], table.loc[3, "fold"] = "trian", ""
    table.loc[4, "report"], table.loc[5, "report"] = "", "___ 12 ..."
    table.loc[6, "id"], table.loc[7, "id"] = "id8", ""
    (tmp_path / "images" / "09.png").write_bytes(b"")
    text = (
        table.to_csv(index=False)
        + "images/10.png,too,many,cells,in,this,row\nimages/11.png,too few\n,,,,\n\n"
    )
    (tmp_path / "t.csv").write_text(text)
    settings = BOTH | {"id_column": "id", "split_column": "fold"}
    with pytest.raises(
        DataError, match="at most 5.0% of the records at fault.*--set max_reject_share=0.35"
    ):
        prepare("table", tmp_path / "t.csv", tmp_path / "out", settings=settings)
    index, card, rejects = prepare(
        "table", tmp_path / "t.csv", tmp_path / "out", settings=settings | {"max_reject_share": 1}
    )
    assert {record.split()[1]: reason for record, reason in rejects.items()} == {
        "01": "label Edema is '2', expected 1, 0, -1 or empty",
        "02": "label Edema is 'yes', expected 1, 0, -1 or empty",
        "03": "split is 'trian', expected train, valid or test",
        "04": "split is '', expected train, valid or test",
        "05": "empty report, or none with findings or impression",
        "06": "empty report, or none with findings or impression",
        "08": "id is empty",
        "09": "image_id named before: first row used",
        "10": "empty file (0 bytes)",
        "31": "7 cells, the header has 5",
        "32": "2 cells, the header has 5",
    }
    assert len(index) == 21 and card["attrition"][0]["rows"] == 32


def test_odd_cells_come_back_as_they_are(tmp_path):
    odd = [
        "NA",
        "null",
        "=SUM(A1)",
        '"',
        "a,b",
        "a\nb",
        "ümläut 胸部",
        "{x} %s {0}",
        "'; --",
        "1e5",
        "None",
        "-",
    ]
    table = pd.DataFrame({"id": odd, "report": [f"Clear lungs {k}" for k in range(len(odd))]})
    settings = {"text_column": "report", "id_column": "id", "patient_column": "id"}
    index, _, rejects = prepare(
        "table", written(table, tmp_path / "t.csv"), tmp_path / "out", settings=settings
    )
    assert (
        sorted(index["study_id"]) == sorted(cell.replace("\n", " ") for cell in odd) and not rejects
    )


def test_errors_say_what_there_is(tmp_path, capsys):
    table = folder(tmp_path, 3)
    path = written(table, tmp_path / "t.csv")

    def error(raw=path, **settings):
        pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        assert main(["table", "--raw", str(raw), "--out", str(tmp_path / "out"), *pairs]) == 2
        message = capsys.readouterr().err
        assert (
            message.startswith("error: ")
            and "Traceback" not in message
            and message.count("\n") == 1
        )
        return message

    def file(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert "t.csv has the columns image, report" in error()
    assert (
        "expected the columns picture in" in (m := error(image_column="picture"))
        and "columns image, report" in m
    )
    assert "found the columns image, report" in error(image_column="image", extra_columns="age,sex")
    assert "give one of the two" in error(text_column="report", findings_column="report")
    assert "labels of auto, columns, text or none; found 'rules'" in error(labels="rules", **BOTH)
    assert "label columns" in error(labels="columns", **BOTH)
    assert "no text column" in error(labels="text", image_column="image")
    assert "expected settings of table: image_column" in error(image_columm="image")
    assert "at least one row" in error(file("none.csv", b"image,report\n"), **BOTH)
    assert "an empty file" in error(file("zero.csv", b""), **BOTH)
    assert "save it as CSV (UTF-8)" in error(file("book.xlsx", b"PK\3\4rest"), **BOTH)
    assert "save it as CSV (UTF-8)" in error(file("book.csv", b"PK\3\4rest"), **BOTH)
    assert "different names" in error(file("twice.csv", b"image,image\n1,2\n"), **BOTH)
    assert "a whole table" in error(file("quote.csv", b'image,report\nx,"never closed\n'), **BOTH)
    assert "a whole table" in error(
        file("cut.csv.gz", gzip.compress(b"image,report\n" * 999)[:40]), **BOTH
    )
    assert "give a table" in error(file("x.json", b"{}"), **BOTH)
    assert "nothing at" in error(tmp_path / "absent.csv", **BOTH)
    assert not (tmp_path / "out").exists()


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


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=6), st.sampled_from(",;\t|"))
def test_csv_round_trip(rows, separator):
    """What Python's csv module writes, our reader reads: every cell, blanks around it stripped."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(
        [["first", "second"], *rows]
    )
    with TemporaryDirectory() as place:
        path = Path(place) / "t.csv"
        path.write_bytes(text.getvalue().encode())
        cells, rejects = anytable.load(path, keep_empty=True)
    assert (
        cells.to_numpy().tolist() == [[cell.strip() for cell in row] for row in rows]
        and not rejects
    )


def test_split_by_hash():
    ids = pd.Series([f"p{k}" for k in range(20_000)])
    split = split_by_hash(ids)
    assert (
        split.value_counts(normalize=True)[["train", "valid", "test"]] - [0.7, 0.1, 0.2]
    ).abs().max() < 0.01
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


def test_cells_that_say_there_is_no_report(tmp_path):
    """They are empty reports: not a text without findings, which would be labelled No Finding."""
    words = ["NA", "nan", "None", "n/a", "NULL", "-", "<NA>"]
    table = pd.DataFrame({"F": [*words, "NA", "No nodule."], "I": [*words, "Nodule.", "none"]})
    settings = {"findings_column": "F", "impression_column": "I", "max_reject_share": 1}
    index, _, rejects = prepare(
        "table", written(table, tmp_path / "t.csv"), tmp_path / "out", settings=settings
    )
    assert index[["findings", "impression"]].to_numpy().tolist() == [
        ["", "Nodule."],
        ["No nodule.", ""],
    ]
    assert list(rejects.values()) == ["empty report, or none with findings or impression"] * len(
        words
    )
    table = pd.DataFrame({"text": ["None", "IMPRESSION: Nodule."]})
    settings = {"text_column": "text", "max_reject_share": 1}
    index, _, rejects = prepare(
        "table", written(table, tmp_path / "u.csv"), tmp_path / "u", settings=settings
    )
    assert index["impression"].tolist() == ["Nodule."] and len(rejects) == 1


def test_windows_letters(tmp_path):
    (tmp_path / "t.csv").write_bytes("report\nCan’t exclude “pneumonia”\n".encode("cp1252"))
    index, card, _ = prepare(
        "table", tmp_path / "t.csv", tmp_path / "out", settings={"text_column": "report"}
    )
    assert index["impression"].tolist() == ["Can’t exclude “pneumonia”"]
    assert "the table is not UTF-8: its encoding was guessed to be cp1252" in card["notes"]
    (tmp_path / "u.csv").write_bytes(
        b"report\nLungs \x81 clear \xfc\n"
    )  # 81 is no letter of Windows-1252
    index, card, _ = prepare(
        "table", tmp_path / "u.csv", tmp_path / "u", settings={"text_column": "report"}
    )
    assert index["impression"].tolist() == ["Lungs clear ü"] and any(
        "latin-1" in note for note in card["notes"]
    )


def test_one_file_under_several_spellings_is_one_row(tmp_path):
    table = folder(tmp_path, 20)
    (tmp_path / "images" / "link.png").symlink_to("05.png")
    paths = [
        "./images/01.png",
        str(tmp_path / "images" / "02.png"),
        "images\\03.png",
        "images/../images/04.png",
        "images/link.png",
    ]
    table = pd.concat([table, pd.DataFrame({"image": paths, "report": "Clear lungs."})])
    settings = BOTH | {"max_reject_share": 1}
    index, card, rejects = prepare(
        "table", written(table, tmp_path / "t.csv"), tmp_path / "out", settings=settings
    )
    assert index["image_id"].tolist() == [f"images/{k:02d}.png" for k in range(20)]
    reasons = list(rejects.values())
    assert (
        reasons.count("the same file as in a row before: first row used") == 4 and len(reasons) == 5
    )  # ../: climbs out
    assert card["overlap"]["identical_images"] == 0


def test_urls_and_the_home_folder(tmp_path, monkeypatch):
    table = folder(tmp_path, 20)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "x.png").write_bytes(encoded(picture(50)))
    paths = ["~/x.png", "http://host/x.png", "s3://bucket/x.png"]
    table = pd.concat([table, pd.DataFrame({"image": paths, "report": "Clear lungs."})])
    settings = BOTH | {"max_reject_share": 1}
    index, _, rejects = prepare(
        "table", written(table, tmp_path / "t.csv"), tmp_path / "out", settings=settings
    )
    assert "~/x.png" in set(index["image_id"]) and len(index) == 21
    assert (
        list(rejects.values())
        == ["a URL: only files on this machine are read, download it first"] * 2
    )
