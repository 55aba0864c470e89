"""What data_prep reads from each raw layout."""

import gzip
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import covid_tree, encoded, mimic_tree, picture, prepare

import data_prep
from data_prep.reading import images
from data_prep.reading.raw import CHEXPERT_14, split_by_hash


def test_mimic_tree_is_read(tmp_path):
    index, card, rejects = prepare("mimic_cxr", mimic_tree(tmp_path / "raw"), tmp_path / "out")
    assert list(index["study_id"]) == [str(50000000 + k) for k in range(6)]
    assert index["image_id"][0] == "a000"  # of two AP images the first by name
    assert list(index["split"]) == ["train", "train", "valid", "valid", "test", "test"]
    assert index["findings"][0] == "Heart size is normal on. The lungs are clear."
    assert index["impression"][0] == "No acute process."
    assert index.loc[1, ["Edema", "Fracture", "No Finding", "Pneumonia"]].tolist() == [
        "1",
        "-1",
        "0",
        "",
    ]
    assert list(index.columns[7:21]) == CHEXPERT_14
    assert rejects == {
        "files/p10/p10000000/s50000000/b000.jpg": "not selected: view LATERAL",
        "files/p10/p10000000/s50000000/c000.jpg": "not selected: another image of this study "
        "is used",
    }
    assert [(s["rows"], s["dropped"]) for s in card["attrition"] if s["dropped"]] == [
        (7, 1),
        (6, 1),
    ]
    assert card["counts"]["train"] == {"rows": 2, "studies": 2, "patients": 1}
    assert card["prevalence"]["No Finding"] == {
        "positive": 0,
        "negative": 5,
        "uncertain": 0,
        "empty": 1,
    }
    assert not any(card["overlap"].values()) and len(card["overlap"]) == 4
    assert (card["images"], card["label"], card["synthetic"]) == (6, "mimic_cxr", False)
    with h5py.File(tmp_path / "out" / "images.h5") as h5:
        assert (
            h5["cxr"].shape == (6, 32, 32)
            and h5["cxr"].dtype == np.uint8
            and h5["cxr"].chunks == (1, 32, 32)
        )
        raw = (tmp_path / "raw/files/p10/p10000001/s50000003/c003.jpg").read_bytes()
        np.testing.assert_array_equal(h5["cxr"][3], images.shrink_and_pad(images.decode(raw), 32))


def test_zipped_tables_and_reports_give_the_same_rows(tmp_path):
    plain, _, _ = prepare("mimic_cxr", mimic_tree(tmp_path / "plain"), tmp_path / "a")
    zipped, _, _ = prepare(
        "mimic_cxr", mimic_tree(tmp_path / "zipped", zipped=True), tmp_path / "b"
    )
    pd.testing.assert_frame_equal(plain, zipped)


def test_reports_beside_the_images_or_where_the_setting_says(tmp_path):
    raw = mimic_tree(tmp_path / "raw", zipped=True)
    (tmp_path / "elsewhere").mkdir()
    archive = (raw / "mimic-cxr-reports.zip").rename(tmp_path / "elsewhere" / "reports.zip")
    with pytest.raises(data_prep.DataError, match="--set reports=PATH"):
        prepare("mimic_cxr", raw, tmp_path / "none")
    index, _, _ = prepare("mimic_cxr", raw, tmp_path / "set", settings={"reports": str(archive)})
    assert len(index) == 6
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "mimic-cxr-reports")
    assert len(prepare("mimic_cxr", raw, tmp_path / "beside")[0]) == 6


def test_negbio_stands_in_for_missing_chexpert_labels(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    (raw / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    index, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert index["Edema"][0] == "-1" and "NegBio" in card["notes"][0]


def test_views_and_limit(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    index, _, _ = prepare("mimic_cxr", raw, tmp_path / "a", settings={"views": "LATERAL,AP"})
    assert list(index["view"]) == ["LATERAL"] + ["AP"] * 5  # the order of the views decides
    index, card, rejects = prepare("mimic_cxr", raw, tmp_path / "b", limit=2)
    assert list(index["study_id"]) == ["50000000", "50000001"] and card["limit"] == 2
    assert rejects["files/p10/p10000002/s50000005/c005.jpg"] == "not selected: after the first 2"


def test_phantom_mark_makes_the_dataset_synthetic(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    (raw / "PHANTOM.json").write_text('{"studies": 6, "seed": 1}')
    _, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert (
        card["synthetic"]
        and card["label"] == "phantom:mimic_cxr"
        and card["phantom"] == {"studies": 6, "seed": 1}
    )


def test_overlap_between_splits_is_reported(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    split = pd.read_csv(raw / "mimic-cxr-2.0.0-split.csv")
    split.loc[split["study_id"] == 50000001, "split"] = (
        "test"  # its patient's other study is in train
    )
    split.to_csv(raw / "mimic-cxr-2.0.0-split.csv", index=False)
    one = raw / "files/p10/p10000002/s50000004/c004.jpg"
    (raw / "files/p10/p10000001/s50000002/c002.jpg").write_bytes(one.read_bytes())
    _, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert card["overlap"] == {
        "patients": 1,
        "studies": 0,
        "identical_images": 1,
        "near_identical_images": 0,
    }
    assert any("1 patients in more than one split: 10000000" in note for note in card["notes"])


@pytest.mark.numeric
def test_openi_reads_the_real_archive(shared, tmp_path):
    index, card, rejects = prepare(
        "openi", shared / "data" / "openi" / "NLMCXR_reports.tgz", tmp_path / "out"
    )
    assert (
        len(index) == 2743 and card["images"] == 0 and not (tmp_path / "out" / "images.h5").exists()
    )
    assert set(rejects.values()) == {"no findings or impression"} and len(rejects) == 21
    assert (index["impression"] != "").sum() == 2363 + 375 and (
        index["findings"] != ""
    ).sum() == 2363 + 5
    share = index["split"].value_counts(normalize=True)
    # 0.02: over two SDs of a share of 2,743 random draws
    assert share["train"] == pytest.approx(0.7, abs=0.02, rel=0)
    assert share["test"] == pytest.approx(0.2, abs=0.02, rel=0)
    first = index.set_index("study_id").loc["CXR1"]
    assert first["impression"] == "Normal chest x-XXXX." and first["findings"].startswith(
        "The cardiac silhouette"
    )
    assert first["split"] == split_by_hash(pd.Series(["CXR1"]))[0]  # of the id alone
    assert prepare("openi", shared / "data" / "openi", tmp_path / "folder")[0].equals(index)


def test_openi_unpacked_with_some_images(tmp_path):
    raw = tmp_path / "raw"
    (raw / "ecgen-radiology").mkdir(parents=True)
    (raw / "NLMCXR_png").mkdir()
    for k in range(3):
        pictures = "".join(f'<parentImage id="CXR{k}_IM-{n}"/>' for n in range(k))
        text = (
            f'<r><uId id="CXR{k}"/><AbstractText Label="IMPRESSION">Clear '
            f"{k}.</AbstractText>{pictures}</r>"
        )
        (raw / "ecgen-radiology" / f"{k}.xml").write_text(text)
    for name in ("CXR1_IM-0", "CXR2_IM-1", "CXR9_IM-0"):
        (raw / "NLMCXR_png" / f"{name}.png").write_bytes(encoded(picture(1)))
    index, card, rejects = prepare("openi", raw, tmp_path / "out")
    assert list(index["image_id"]) == ["CXR1_IM-0", "CXR2_IM-1"] and card["images"] == 2
    assert rejects == {
        "ecgen-radiology/0.xml": "report names no image",
        "ecgen-radiology/2.xml CXR2_IM-0": "file not in the folder",
        "NLMCXR_png/CXR9_IM-0.png": "image of no report that is used",
    }


@pytest.mark.numeric
def test_covid_reads_the_134_real_radiographs(shared, tmp_path):
    raw = shared / "data" / "covid_cxr"
    index, card, rejects = prepare(
        "covid_cxr", raw, tmp_path / "all", workers=2, settings={"views": "AP,PA,AP Supine,?,"}
    )
    assert len(index) == 112 and len(rejects) == 22  # a view that is not given cannot be selected
    assert index["covid"].value_counts().to_dict() == {"1": 60, "0": 30, "": 22}
    scores = index["brixia_global"][index["brixia_global"] != ""].astype(int)
    assert len(scores) == 43 and scores.max() == 17
    assert (
        set(index["license"]) >= {"CC BY-NC-SA", "CC BY 4.0"} and (index["split"] == "test").all()
    )
    with h5py.File(tmp_path / "all" / "images.h5") as h5:
        assert (h5["cxr"][:].reshape(112, -1).std(1) > 10).all()
    names = pd.read_csv(raw / "metadata.csv", dtype=str)["filename"]
    assert len(names) == 134
    assert [images.load(raw, f"images/{n}", 32)[1] for n in names] == [""] * 134


def test_covid_counts_absent_files_without_failing(tmp_path):
    raw = covid_tree(tmp_path / "raw", 10)
    for k in range(5):
        (raw / "images" / f"{k}.png").unlink()
    (raw / "images" / "extra.png").write_bytes(encoded(picture(99)))
    index, card, rejects = prepare("covid_cxr", raw, tmp_path / "out")
    assert len(index) == 5 and rejects["images/extra.png"] == "file not in metadata.csv"
    assert rejects["images/3.png"] == "file not in the folder" and len(rejects) == 6
    assert {
        "step": "image file is there",
        "rows": 5,
        "dropped": 5,
        "why": "file not in the folder: 5",
    } in card["attrition"]


def test_chexpert_readers_are_taken_by_column_name(shared, tmp_path):
    raw = shared / "data" / "chexpert_test_labels"
    index, card, rejects = prepare("chexpert_test", raw, tmp_path / "out")
    assert len(index) == 500 and card["images"] == 0 and not rejects
    readers = pd.read_csv(tmp_path / "out" / "readers.csv")
    assert readers.groupby("kind")["reader"].nunique().to_dict() == {
        "benchmark": 3, "decision": 5, "ground_truth": 5, "labeler": 2, "model": 6,
    }  # fmt: skip
    truth = readers[readers["kind"] == "ground_truth"]
    votes = truth.pivot_table(index="study_id", columns="finding", values="value", aggfunc="sum")[
        CHEXPERT_14
    ]
    labels = index.set_index("study_id")[CHEXPERT_14].astype(int).loc[votes.index]
    assert (
        (votes >= 3).astype(int) == labels
    ).to_numpy().mean() > 0.999  # the majority of five, also in swapped columns
    wide = pd.read_csv(raw / "radiologists/benchmark_radiologists/bc6.csv").set_index("Study")
    ours = readers[(readers["kind"] == "benchmark") & (readers["reader"] == "bc6")]
    ours = ours.pivot(index="study_id", columns="finding", values="value")
    np.testing.assert_array_equal(
        ours[CHEXPERT_14], wide[CHEXPERT_14].loc["CheXpert-v1.0/test/" + ours.index]
    )
    scores = readers[
        (readers["kind"] == "model")
        & (readers["reader"] == "jfaboy")
        & (readers["finding"] == "Edema")
    ]
    wide = pd.read_csv(raw / "example_models/predictions/standard/jfaboy_predictions.csv")
    np.testing.assert_array_equal(np.sort(scores["value"]), np.sort(wide["Edema"]))


def test_gz_table_written_by_hand(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    table = raw / "mimic-cxr-2.0.0-split.csv"
    (raw / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    table.unlink()
    assert len(prepare("mimic_cxr", raw, tmp_path / "out")[0]) == 6


def test_table_in_latin_1_and_with_a_byte_order_mark(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    text = (raw / "metadata.csv").read_text().replace("CC0", "© Zürich")
    (raw / "metadata.csv").write_bytes(text.encode("latin-1"))
    assert set(prepare("covid_cxr", raw, tmp_path / "a")[0]["license"]) == {"© Zürich"}
    (raw / "metadata.csv").write_bytes(text.encode("utf-8-sig"))
    assert set(prepare("covid_cxr", raw, tmp_path / "b")[0]["license"]) == {"© Zürich"}


def test_no_report_in_a_csv_beside_hdf5(tmp_path):
    with h5py.File(tmp_path / "cxr.h5", "w") as file:
        file["cxr"] = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    (tmp_path / "cxr.csv").write_text("findings,impression\nNone,nan\nn/a,Nodule.\nNo nodule.,-\n")
    index, _, rejects = prepare(
        "cxr_h5", tmp_path, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert index[["findings", "impression"]].to_numpy().tolist() == [
        ["", "Nodule."],
        ["No nodule.", ""],
    ]
    assert len(rejects) == 1


def test_a_table_in_a_guessed_encoding_is_noted(tmp_path):
    raw = covid_tree(tmp_path / "raw", 4)
    path = raw / "metadata.csv"
    path.write_bytes(
        pd.read_csv(path, dtype=str).assign(note="’").to_csv(index=False).encode("cp1252")
    )
    _, card, _ = prepare("covid_cxr", raw, tmp_path / "out")
    assert "the table is not UTF-8: its encoding was guessed to be cp1252" in card["notes"]
