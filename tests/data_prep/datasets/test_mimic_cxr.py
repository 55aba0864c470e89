"""MIMIC-CXR in every layout: JPG, DICOM, MedViLL's own, both releases; all that is selected,
counted and labelled.
"""

import shutil
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import REPORT, contents, dicom_tree, encoded, mimic_tree, picture, prepare

from data_prep import DataError
from data_prep.__main__ import main
from data_prep.reading.raw import CHEXPERT_14

IDS = [str(50000000 + k) for k in range(6)]


def pixels(folder):
    with h5py.File(folder / "images.h5") as h5:
        return h5["cxr"][:]


# ---------------------------------------------------------------- DICOM release


@pytest.mark.numeric
def test_dicom_without_the_tables_of_jpg(tmp_path):
    raw = dicom_tree(tmp_path / "dicom")
    with pytest.raises(DataError, match="mimic-cxr-2.0.0-split.csv.gz .* --set split=patient"):
        prepare(
            "mimic_cxr", raw, tmp_path / "official"
        )  # no split is invented without being asked for
    index, card, rejects = prepare(
        "mimic_cxr", raw, tmp_path / "out", settings={"split": "patient"}
    )
    assert list(index["study_id"]) == IDS and (index["view"] == "AP").all()
    assert card["raw_version"] == "MIMIC-CXR (DICOM) 2.0.0"
    assert index.groupby("patient_id")["split"].nunique().max() == 1
    assert rejects["files/p10/p10000000/s50000000/b000.dcm"] == "not selected: view LATERAL"
    notes = " ".join(card["notes"])
    assert (
        "not the official one" in notes
        and "DICOM headers" in notes
        and "labels are from the reports" in notes
    )
    assert (index["No Finding"] == "1").all() and index["impression"][0] == "No acute process."
    jpg, _, _ = prepare("mimic_cxr", mimic_tree(tmp_path / "jpg"), tmp_path / "of_jpg")
    assert list(jpg["image_id"]) == list(index["image_id"])
    difference = pixels(tmp_path / "out").astype(int) - pixels(tmp_path / "of_jpg")
    # DICOM pixels are stretched to their own range; two unlike pictures of noise are 85 apart
    assert np.abs(difference).mean() < 12, "other pictures than those of the JPG tree"


def test_dicom_with_the_tables_of_jpg_beside_it(tmp_path):
    raw, jpg = dicom_tree(tmp_path / "dicom"), mimic_tree(tmp_path / "jpg")
    for path in jpg.glob("mimic-cxr-2.0.0-*.csv"):
        shutil.copy(path, tmp_path)  # beside the folder of the DICOM release
    index, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    of_jpg, _, _ = prepare("mimic_cxr", jpg, tmp_path / "of_jpg")
    pd.testing.assert_frame_equal(index, of_jpg)
    assert not card["notes"]


def test_dicom_files_that_are_absent_or_broken_are_rejected(tmp_path):
    raw = dicom_tree(tmp_path / "raw", 12)
    folder = raw / "files/p10/p10000002"
    (folder / "s50000004/c004.dcm").unlink()
    (folder / "s50000005/c005.dcm").write_bytes(b"no DICOM file at all")
    (folder / "s50000005/stray.dcm").write_bytes(b"")
    settings = {"split": "patient", "max_reject_share": 1}
    _, card, rejects = prepare("mimic_cxr", raw, tmp_path / "out", settings=settings)
    found = {record.split("/")[-1]: reason for record, reason in rejects.items()}
    assert found["c004.dcm"] == "file not in the folder"
    assert found["c005.dcm"] == "view cannot be read: not a DICOM file"
    assert found["stray.dcm"] == "file not in cxr-record-list"
    assert card["rows"] == 10


def test_a_record_list_that_climbs_out_is_refused(tmp_path):
    raw = dicom_tree(tmp_path / "raw", 12)
    records = pd.read_csv(raw / "cxr-record-list.csv.gz", dtype=str)
    shutil.copy(raw / records["path"].iloc[-1], tmp_path / "secret.dcm")
    records.loc[0, "path"] = "../secret.dcm"
    records.to_csv(raw / "cxr-record-list.csv.gz", index=False)
    settings = {"split": "patient", "max_reject_share": 1}
    _, _, rejects = prepare("mimic_cxr", raw, tmp_path / "out", settings=settings)
    assert rejects["../secret.dcm"] == "view cannot be read: path leaves the raw folder"


def test_a_limited_run_reads_few_headers(tmp_path, monkeypatch):
    from data_prep.datasets import mimic_cxr

    raw, read = dicom_tree(tmp_path / "raw", 12), []
    monkeypatch.setattr(
        mimic_cxr, "header_view", lambda raw, image: read.append(image) or ("AP", "")
    )
    index, _, rejects = prepare(
        "mimic_cxr", raw, tmp_path / "out", limit=2, settings={"split": "patient"}
    )
    assert len(index) == 2 and len(read) == 8  # of 3 x 2 studies, the first with three images
    assert sum("headers a limited run reads" in reason for reason in rejects.values()) == 6


# ---------------------------------------------------------------- layouts of JPG


@pytest.mark.parametrize(
    "folder", ["Dataset/p{p}/s{s}", "Dataset/{p}/{s}", "Dataset/p10/p{p}/s{s}", "dataset/p{p}/s{s}"]
)
@pytest.mark.parametrize("report", ["official", "beside", "inside", "named"])
def test_the_layout_that_medvill_draws(tmp_path, folder, report):
    raw = mimic_tree(tmp_path / "raw")
    expected, _, _ = prepare("mimic_cxr", raw, tmp_path / "official")
    texts = []
    for path in sorted((raw / "files").rglob("*.jpg")):
        subject, study = path.parts[-3][1:], path.parts[-2][1:]
        new = raw / folder.format(p=subject, s=study)
        new.mkdir(parents=True, exist_ok=True)
        path.rename(new / path.name)
        texts.append((path.parent.with_suffix(".txt"), new, study))
    for text, new, study in {t[2]: t for t in texts}.values():
        place = {
            "beside": new.with_suffix(".txt"),
            "inside": new / f"s{study}.txt",
            "named": new / f"{study}.txt",
        }
        text.rename(place.get(report, text))
    if report != "official":
        shutil.rmtree(raw / "files")
    elif not list((raw / "files").rglob("*.jpg")):
        (raw / "files").rename(raw / "mimic-cxr-reports")
        (raw / "mimic-cxr-reports" / "files").mkdir()
        (raw / "mimic-cxr-reports" / "p10").rename(raw / "mimic-cxr-reports" / "files" / "p10")
    index, _, rejects = prepare("mimic_cxr", raw, tmp_path / "out")
    pd.testing.assert_frame_equal(index, expected)
    assert len(rejects) == 2 and all(name.lower().startswith("dataset/") for name in rejects)


def test_files_on_disk_that_the_table_does_not_name(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    (raw / "files/p10/p10000000/s50000000/stray.jpg").write_bytes(encoded(picture(0), "JPEG"))
    _, card, rejects = prepare("mimic_cxr", raw, tmp_path / "out")
    assert rejects["files/p10/p10000000/s50000000/stray.jpg"] == "file not in the metadata table"
    assert "file not in the metadata table: 1" in card["attrition"][1]["why"]


# ---------------------------------------------------------------- release 2.1.0


def radiologist(raw, **columns) -> None:
    """The table that release 2.1.0 adds: study_id alone, Airspace Opacity, values of several
    spellings.
    """
    table = pd.DataFrame({"study_id": [50000004, 50000005, 59999999]}).assign(
        **{
            "Airspace Opacity": ["1.0", "0", ""],
            "Edema": ["-1", "", "0.0"],
            "No Finding": ["0", "Positive", "1"],
        }
        | columns
    )
    table.to_csv(raw / "mimic-cxr-2.1.0-test-set-labeled.csv", index=False)


def test_radiologist_labels_as_columns(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    before, _, _ = prepare("mimic_cxr", raw, tmp_path / "without")
    radiologist(raw)
    index, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert card["raw_version"] == "MIMIC-CXR-JPG 2.1.0"
    pd.testing.assert_frame_equal(index[list(before)], before)
    added = index.set_index("study_id")[
        ["radiologist_Lung Opacity", "radiologist_Edema", "radiologist_No Finding"]
    ]
    assert added.loc["50000004"].tolist() == ["1", "-1", "0"] and added.loc[
        "50000005"
    ].tolist() == ["0", "", "1"]
    assert (added.loc[IDS[:4]] == "").all(axis=None)
    assert any(
        "2 of 3 studies of mimic-cxr-2.1.0-test-set-labeled.csv" in note for note in card["notes"]
    )


def test_radiologist_labels_in_place_of_those_of_the_test_split(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    radiologist(raw)
    index, card, _ = prepare(
        "mimic_cxr", raw, tmp_path / "out", settings={"test_labels": "replace"}
    )
    rows = index.set_index("study_id")
    assert rows.loc["50000004", ["Lung Opacity", "Edema", "No Finding", "Fracture"]].tolist() == [
        "1",
        "-1",
        "0",
        "-1",
    ]
    assert rows.loc["50000003", "Edema"] == "1" and not any(
        c.startswith("radiologist") for c in index
    )
    assert any(
        "replace the labels of 2 studies of the test split" in note for note in card["notes"]
    )
    _, card, _ = prepare("mimic_cxr", raw, tmp_path / "ignored", settings={"test_labels": "ignore"})
    assert any("not used, as asked for" in note for note in card["notes"])


def test_radiologist_labels_outside_the_four_values_are_rejected(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    radiologist(raw, Edema=["7", "", "0"])
    index, _, rejects = prepare("mimic_cxr", raw, tmp_path / "out")
    reason = rejects["mimic-cxr-2.1.0-test-set-labeled.csv 50000004"]
    assert reason == "label Edema is '7', expected 1, 0, -1 or empty: this value is left empty"
    assert index.set_index("study_id").loc["50000004", "radiologist_Edema"] == ""


# ---------------------------------------------------------------- labels


def test_labels_from_the_reports_when_there_is_no_table(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    (raw / "files/p10/p10000002/s50000005.txt").write_text(
        REPORT.replace("No acute process.", "Severe pulmonary edema.")
    )
    for name in ("chexpert", "negbio"):
        (raw / f"mimic-cxr-2.0.0-{name}.csv").unlink()
    index, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert index["Edema"].tolist() == [""] * 5 + ["1"] and list(index.columns[7:21]) == CHEXPERT_14
    assert any(
        "labels are from the reports" in note and "no table" in note for note in card["notes"]
    )
    with pytest.raises(DataError, match="mimic-cxr-2.0.0-negbio.csv.gz"):
        prepare("mimic_cxr", raw, tmp_path / "negbio", settings={"labels": "negbio"})


def test_the_table_of_labels_is_a_setting(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    edema = {
        which: prepare("mimic_cxr", raw, tmp_path / which, settings={"labels": which})[0]["Edema"][
            1
        ]
        for which in ("table", "chexpert", "negbio", "reports")
    }
    assert edema == {"table": "1", "chexpert": "1", "negbio": "-1", "reports": ""}
    with pytest.raises(
        DataError, match="labels to be table or chexpert or negbio or reports; found 'mine'"
    ):
        prepare("mimic_cxr", raw, tmp_path / "mine", settings={"labels": "mine"})


# ---------------------------------------------------------------- selection and its published count


def test_published_counts_stand_beside_those_found(tmp_path, capsys):
    raw = mimic_tree(tmp_path / "raw")
    assert (
        main(["mimic_cxr", "--raw", str(raw), "--out", str(tmp_path / "out"), "--size", "32"]) == 0
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for what, published, found in (
        ("studies", "91,685", "6"),
        ("train", "89,395", "2"),
        ("valid", "759", "2"),
        ("test", "1,531", "2"),
    ):
        assert [what, "published", published, "found", found] in lines
    _, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert [row["expected"] for row in card["expected"]] == [91685, 89395, 759, 1531]
    assert (
        sum(row["expected"] for row in card["expected"][1:]) == 91685
        and "MedViLL" in card["expected"][0]["source"]
    )
    main(
        [
            "mimic_cxr",
            "--raw",
            str(raw),
            "--out",
            str(tmp_path / "b"),
            "--size",
            "32",
            "--limit",
            "3",
            "--set",
            "views=AP,PA",
        ]
    )
    assert "here: limited to 3, settings views=AP,PA" in capsys.readouterr().out


def test_the_same_bytes_from_a_moved_tree(tmp_path):
    raw = mimic_tree(tmp_path / "a" / "raw")
    prepare("mimic_cxr", raw, tmp_path / "a" / "out")
    shutil.copytree(raw, tmp_path / "b" / "raw")
    prepare("mimic_cxr", tmp_path / "b" / "raw", tmp_path / "b" / "out")
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")


def test_wrong_settings_and_a_table_instead_of_the_folder(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    for given, settings, message in (
        (raw / "mimic-cxr-2.0.0-metadata.csv", {}, "found the file .*; give the folder"),
        (raw, {"views": " , "}, "expected at least one view; found views=' , '"),
        (raw, {"split": "mine"}, "expected split to be official or patient; found 'mine'"),
        (
            raw,
            {"reports": str(tmp_path / "nowhere")},
            "folder or zip of the reports; found nothing at",
        ),
    ):
        with pytest.raises(DataError, match=message):
            prepare("mimic_cxr", given, tmp_path / "out", settings=settings)


def test_damaged_and_oversized_reports_cost_one_record_each(tmp_path, monkeypatch):
    raw = mimic_tree(tmp_path / "raw", 12, zipped=True)
    monkeypatch.setattr("data_prep.datasets.mimic_reports.MAX_REPORT_BYTES", 2000)
    path = raw / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    kinds = (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w") as archive:
        for k, (name, text) in enumerate(sorted(texts.items())):
            archive.writestr(name, text + b"x" * 2000 * (k == 3), kinds[min(k, 3)])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist()[:3]:
            start = member.header_offset + 30 + len(member.filename)
            data[start + 20 : start + 60] = b"\xff" * 40
    path.write_bytes(data)
    index, _, rejects = prepare(
        "mimic_cxr", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert (
        len(index) == 8
        and sum("report cannot be read: " in reason for reason in rejects.values()) == 4
    )
    assert (
        sum(reason == "report cannot be read: more than 2,000 bytes" for reason in rejects.values())
        == 1
    )


def test_an_archive_of_reports_whose_names_all_climb_out_is_not_read(tmp_path):
    raw = mimic_tree(tmp_path / "raw", zipped=True)
    path = raw / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    for start in ("../../", "/"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in texts.items():
                archive.writestr(start + name, text)
        with pytest.raises(DataError, match="expected reports as files/"):
            prepare("mimic_cxr", raw, tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr("my-files/physionet/" + name, text)
    assert len(prepare("mimic_cxr", raw, tmp_path / "out")[0]) == 6


# ---------------------------------------------------------------- boxes of MS-CXR


def test_boxes_of_ms_cxr(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    prepare("mimic_cxr", raw, tmp_path / "without")
    assert not (tmp_path / "without" / "boxes.csv").exists()
    rows = [
        ("c001", 1, 2, 10, 20, 40, 36),
        ("a000", 0, 0, 5, 5, 40, 36),
        ("c001", 30, 2, 20, 3, 40, 36),
        ("c001", 3, 2, 0, 3, 40, 36),
        ("c002", "x", 2, 3, 3, 40, 36),
        ("b000", 0, 0, 5, 5, 40, 36),
        ("c001", 35, 30, 5.4, 6, 40, 36),
    ]
    table = pd.DataFrame(
        rows, columns=["dicom_id", "x", "y", "w", "h", "image_width", "image_height"]
    )
    table = table.assign(
        category_name="Pneumonia", label_text="basal pneumonia", split="train", path="files/..."
    )
    table.to_csv(
        raw.parent / "MS_CXR_Local_Alignment_v1.1.0.csv", index=False
    )  # beside the release, too
    _, card, rejects = prepare("mimic_cxr", raw, tmp_path / "with")
    boxes = pd.read_csv(tmp_path / "with" / "boxes.csv")
    assert boxes[["image_id", "x0", "y0", "x1", "y1"]].values.tolist() == [
        ["a000", 0, 0, 5, 5], ["c001", 1, 2, 11, 22], ["c001", 35, 30, 40.4, 36]]  # fmt: skip
    assert set(boxes["phrase"]) == {"basal pneumonia"} and card["extra"]["boxes.csv"]["rows"] == 3
    bad = [f"MS_CXR_Local_Alignment_v1.1.0.csv row {k}" for k in (4, 5, 6)]
    assert {record: rejects[record] for record in bad} == dict.fromkeys(
        bad, "not a box inside the image"
    )
    assert any("1 of 7 boxes" in note for note in card["notes"])  # the lateral view is not used
