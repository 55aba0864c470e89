"""Bad input: each fault of a record becomes a line in rejects.csv, and too many stop the run."""

import pandas as pd
import pytest
from data_prep_trees import GOOD, covid_tree, encoded, mimic_tree, picture, prepare

from data_prep import DataError
from data_prep.reading import images
from data_prep.reading.raw import CHEXPERT_14

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
