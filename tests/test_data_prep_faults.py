"""Bad input: each fault of a record becomes a line in rejects.csv, each fault of a dataset one
clear message.
"""

import errno
import io
import tarfile
import zipfile
from collections import namedtuple

import pandas as pd
import pytest
from data_prep_trees import covid_tree, encoded, mimic_tree, picture, prepare

from data_prep import DataError, images, prepared, writing
from data_prep.raw import CHEXPERT_14

BIG = picture(0, 300, 200)


def test_paths_that_leave_the_raw_folder(tmp_path):
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(encoded(BIG))
    (raw / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    for path in (
        "../secret.png",
        "images/../../secret.png",
        str(tmp_path / "secret.png"),
        "images/link.png",
        "",
    ):
        assert "leaves the raw folder" in images.load(raw, path, 64)[1]
    assert images.load(raw, "images", 64)[1] == "not a file"
    (tmp_path / "other disk").mkdir()
    (tmp_path / "other disk" / "x.png").write_bytes(encoded(BIG))
    (raw / "linked").symlink_to(
        tmp_path / "other disk"
    )  # a whole folder that the user put elsewhere
    assert images.load(raw, "linked/x.png", 64)[1] == ""


def test_faults_of_records_go_to_the_rejects(tmp_path):
    raw = mimic_tree(tmp_path / "raw", 12)
    folder = [f"files/p10/p{10000000 + k // 2}/s{50000000 + k}" for k in range(12)]
    (raw / f"{folder[1]}/c001.jpg").write_bytes(encoded(BIG, "JPEG")[:-9000])
    (raw / f"{folder[2]}/c002.jpg").unlink()
    (raw / f"{folder[3]}.txt").write_bytes("FINDINGS: Épanchement à gauche.".encode("latin-1"))
    (raw / f"{folder[4]}.txt").write_text("\n")
    (raw / f"{folder[5]}.txt").unlink()
    (raw / f"{folder[6]}.txt").write_text("FINDINGS: ___\nIMPRESSION:")
    (raw / f"{folder[7]}.txt").write_bytes(b"\x00\x01FINDINGS: binary")
    (raw / f"{folder[8]}/stray.jpg").write_bytes(encoded(BIG, "JPEG"))
    split = pd.read_csv(raw / "mimic-cxr-2.0.0-split.csv", dtype=str).set_index("dicom_id")
    split.loc["c008", "split"] = "tset"
    split.drop("c009").to_csv(raw / "mimic-cxr-2.0.0-split.csv")
    labels = pd.read_csv(raw / "mimic-cxr-2.0.0-chexpert.csv", dtype=str).set_index("study_id")
    labels.loc["50000010", "Edema"] = "2"
    labels.drop("50000011").to_csv(raw / "mimic-cxr-2.0.0-chexpert.csv")
    meta = pd.read_csv(raw / "mimic-cxr-2.0.0-metadata.csv", dtype=str)
    climbing = meta[meta["dicom_id"] == "c001"].assign(dicom_id="../../../x", study_id="60000000")
    repeated = meta[meta["dicom_id"] == "c011"]
    odd = meta[meta["dicom_id"] == "c011"].assign(dicom_id="z", study_id="s5")
    pd.concat([meta, repeated, odd, climbing]).to_csv(
        raw / "mimic-cxr-2.0.0-metadata.csv", index=False
    )
    pd.concat(
        [
            pd.read_csv(raw / "mimic-cxr-2.0.0-split.csv"),
            pd.DataFrame(
                [{"dicom_id": "../../../x", "study_id": 60000000, "subject_id": 1, "split": "test"}]
            ),
        ]
    ).to_csv(raw / "mimic-cxr-2.0.0-split.csv", index=False)
    (raw / "files/p10/p10000000/s60000000.txt").write_text("IMPRESSION: Clear.")

    index, card, rejects = prepare(
        "mimic_cxr", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert list(index["study_id"]) == ["50000000", "50000003", "50000011"]
    assert index["findings"][1] == "Épanchement à gauche."
    assert any("or Latin-1: files/p10/p10000001/s50000003.txt" in note for note in card["notes"])
    assert any(
        "not in mimic-cxr-2.0.0-chexpert.csv: their labels stay empty" in note
        for note in card["notes"]
    )
    by_name = {record.split("/")[-1]: reason for record, reason in rejects.items()}
    assert "truncated" in by_name["c001.jpg"]
    assert by_name["c002.jpg"] == "file not in the folder"
    assert by_name["c004.jpg"] == "empty report"
    assert by_name["c005.jpg"] == "no report file"
    assert by_name["c006.jpg"] == "no findings or impression"
    assert by_name["c007.jpg"] == "report cannot be read: report is not text (it holds zero bytes)"
    assert by_name["stray.jpg"] == "file not in the metadata table"
    assert by_name["c008.jpg"] == "split is 'tset', expected train, validate or test"
    assert by_name["c009.jpg"] == "not in the split table"
    assert by_name["c010.jpg"] == "label Edema is '2', expected 1, 0, -1 or empty"
    assert by_name["c011.jpg"] == "image_id named before: first row used"
    assert by_name["z.jpg"] == "subject_id or study_id is not a number"
    assert by_name["x.jpg"] == "path leaves the raw folder"
    last = card["attrition"][-1]
    assert last["rows"] == len(index) and card["rejects"] == len(rejects)


def test_too_many_faults_stop_the_run_unless_allowed(tmp_path):
    raw = covid_tree(tmp_path / "raw", 10)
    (raw / "images" / "1.png").write_bytes(b"")
    assert (
        len(prepare("covid_cxr", raw, tmp_path / "one")[0]) == 9
    )  # a single one never stops a run
    (raw / "images" / "2.png").write_bytes(b"")
    told = (
        r"at most 5.0% .* found 2 already, stopped after 3 of 10 images: 'empty "
        r"file.*max_reject_share=SHARE"
    )
    with pytest.raises(DataError, match=told):
        prepare("covid_cxr", raw, tmp_path / "two")
    assert not (tmp_path / "two").exists()
    assert "images/2.png" in (tmp_path / "two.partial" / "rejects.csv").read_text()
    assert (
        len(prepare("covid_cxr", raw, tmp_path / "two", settings={"max_reject_share": 0.2})[0]) == 8
    )
    for k in range(10):
        (raw / "images" / f"{k}.png").unlink()
    with pytest.raises(DataError, match="none is left .*file not in the folder: 10"):
        prepare("covid_cxr", raw, tmp_path / "none")


def test_the_message_of_too_many_faults_lists_faults_only(tmp_path):
    raw = covid_tree(tmp_path / "raw", 10)
    for k in (1, 2):
        (raw / "images" / f"{k}.png").write_bytes(b"")
    (raw / "images" / "0.png").unlink()
    (raw / "images" / "stray.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"stopped after 3 of 10 images: 'empty file \(0 bytes\)' \(2\); see"
    ):
        prepare("covid_cxr", raw, tmp_path / "out")
    rejects = (tmp_path / "out.partial" / "rejects.csv").read_text()
    assert "file not in metadata.csv" in rejects and "file not in the folder" in rejects
    (tmp_path / "xml").mkdir()
    for k, text in enumerate(
        [GOOD.format("CXR1", "Clear."), GOOD.format("CXR2", "XXXX."), "<r", "<r"]
    ):
        (tmp_path / "xml" / f"{k}.xml").write_text(text)
    with pytest.raises(
        DataError, match=r"found 2 of 3 \(66.7%\): 'not well-formed XML[^']*' \(2\); see"
    ):
        prepare("openi", tmp_path / "xml", tmp_path / "openi")


# ---------------------------------------------------------------- Open-I archives

GOOD = '<r><uId id="{0}"/><AbstractText Label="IMPRESSION">{1}</AbstractText></r>'
BOMB = '<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + GOOD.format("CXR7", "&b;")


def test_hostile_archive_members_are_refused(tmp_path):
    outside = tmp_path / "evil.xml"
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:

        def add(name: str, data: bytes = b"", **options) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in options.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))

        add("ecgen-radiology/1.xml", GOOD.format("CXR1", "Clear.").encode())
        add("../evil.xml", GOOD.format("CXR2", "Climbs.").encode())
        add(str(outside), GOOD.format("CXR3", "Absolute.").encode())
        add("ecgen-radiology/link.xml", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("ecgen-radiology/hard.xml", type=tarfile.LNKTYPE, linkname="ecgen-radiology/1.xml")
        add("ecgen-radiology/7.xml", BOMB.encode())
        add("ecgen-radiology/8.xml", b"<r><uId")
        add("ecgen-radiology/9.xml", GOOD.format("CXR1", "Twice.").encode())
        add("ecgen-radiology/a.xml", GOOD.format("CXR10", "XXXX.").encode())
        add("ecgen-radiology/b.xml", GOOD.format("", "No name.").encode())
        add("ecgen-radiology/c.xml", GOOD.format("CXR12", "Opacité.").encode("latin-1"))
        add(
            "ecgen-radiology/d.xml",
            ('<!DOCTYPE r SYSTEM "http://localhost/r.dtd">' + GOOD.format("CXR13", "x")).encode(),
        )
        add("ecgen-radiology/readme.txt", b"hello")
    index, card, rejects = prepare(
        "openi", tmp_path, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert dict(zip(index["study_id"], index["impression"], strict=True)) == {
        "CXR1": "Clear.",
        "CXR12": "Opacité.",
    }
    assert "or Latin-1: ecgen-radiology/c.xml" in card["notes"][0]
    expected = {
        "../evil.xml": "climbs out",
        str(outside): "climbs out",
        "ecgen-radiology/link.xml": "is a link",
        "ecgen-radiology/hard.xml": "is a link",
        "ecgen-radiology/7.xml": "entities",
        "ecgen-radiology/8.xml": "not well-formed",
        "ecgen-radiology/9.xml": "named before",
        "ecgen-radiology/a.xml": "no findings or impression",
        "ecgen-radiology/b.xml": "no report id",
        "ecgen-radiology/d.xml": "document type",
        "ecgen-radiology/readme.txt": "not an XML file",
    }
    assert set(rejects) == set(expected) and all(
        expected[name] in reason for name, reason in rejects.items()
    )
    assert not outside.exists()


def test_truncated_archive_stops_with_a_message(tmp_path, shared):
    data = (shared / "data" / "openi" / "NLMCXR_reports.tgz").read_bytes()
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="expected a whole archive .* download it again"):
        prepare("openi", tmp_path, tmp_path / "out")


def test_a_zip_member_that_climbs_out_is_never_unpacked(tmp_path):
    raw = mimic_tree(tmp_path / "deep" / "raw", zipped=True)
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "a") as archive:
        for name in (
            "../evil.txt",
            "../../files/p10/p10000000/s50000000.txt",
            str(tmp_path / "absolute.txt"),
        ):
            archive.writestr(name, "FINDINGS: Evil.")
    before = {p for p in tmp_path.rglob("*") if raw not in p.parents}
    index, _, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert len(index) == 6 and not index["findings"].str.contains("Evil").any()
    assert {p for p in tmp_path.rglob("*") if raw not in p.parents} - before == {
        tmp_path / "out", *(tmp_path / "out").iterdir()
    }  # fmt: skip


def test_a_damaged_zip_and_damaged_members(tmp_path):
    raw = mimic_tree(tmp_path / "raw", 12, zipped=True)
    data = bytearray((raw / "mimic-cxr-reports.zip").read_bytes())
    at = data.index(b"EXAMINATION")
    data[at : at + 5] = b"#####"  # of the first report: its checksum no longer fits
    (raw / "mimic-cxr-reports.zip").write_bytes(data)
    index, _, rejects = prepare(
        "mimic_cxr", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert (
        len(index) == 11
        and sum("report cannot be read: Bad CRC" in reason for reason in rejects.values()) == 1
    )
    (raw / "mimic-cxr-reports.zip").write_bytes(data[:200])
    with pytest.raises(DataError, match="expected a zip archive at .*; download it again"):
        prepare("mimic_cxr", raw, tmp_path / "cut")


# ---------------------------------------------------------------- readers


def test_reader_files_that_lack_studies_or_hold_odd_values(tmp_path):
    names = [f"CheXpert-v1.0/test/patient{k}/study1" for k in range(4)]
    columns = CHEXPERT_14
    raw = tmp_path / "raw"
    for folder in (
        "radiologists/groundtruth",
        "radiologists/benchmark_radiologists",
        "example_models/predictions/standard",
    ):
        (raw / folder).mkdir(parents=True)
    whole = pd.DataFrame(0, index=pd.Index(names, name="Study"), columns=columns)
    whole.to_csv(raw / "groundtruth.csv")
    reader = whole.astype(object).iloc[:3].copy()
    reader.iloc[0, 0] = 5
    reader.loc["CheXpert-v1.0/test/patient9/study1"] = 1
    reader.to_csv(raw / "radiologists/benchmark_radiologists/bc4.csv")
    scores = pd.DataFrame(
        {"Edema": ["0.25", "", "high", "1e-3"]}, index=pd.Index(names, name="Study")
    )
    scores.to_csv(raw / "example_models/predictions/standard/m_predictions.csv")
    index, card, rejects = prepare("chexpert_test", raw, tmp_path / "out")
    assert len(index) == 4 and len(rejects) == 4
    folder = "example_models/predictions/standard/m_predictions.csv"
    assert rejects[f"{folder} patient1/study1 Edema"] == "value is '', expected a number"
    assert rejects[
        "radiologists/benchmark_radiologists/bc4.csv patient0/study1 No Finding"
    ].startswith("value is '5'")
    assert any("bc4.csv lacks 1 of 4 studies: patient3/study1" in note for note in card["notes"])
    assert any("no labeler reader" in note for note in card["notes"])
    readers = pd.read_csv(tmp_path / "out" / "readers.csv", dtype=str)
    assert readers[readers["kind"] == "model"]["value"].tolist() == ["0.25", "1e-3"]  # as written


# ---------------------------------------------------------------- faults of a whole dataset


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

    monkeypatch.setattr(prepared.Path, "mkdir", refuse)
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
