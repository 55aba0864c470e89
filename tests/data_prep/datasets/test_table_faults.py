"""Anybody's table: odd cells, paths and encodings; each fault of a record and of a table has its
message.
"""

import csv
import gzip
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from data_prep_trees import encoded, picture, prepare
from hypothesis import given, settings
from hypothesis import strategies as st
from table_data import BOTH, folder, written

from data_prep import DataError
from data_prep.__main__ import main
from data_prep.datasets import anytable


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
    assert "labels to be auto or columns or text or none; found 'rules'" in error(
        labels="rules", **BOTH
    )
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
