"""The phantom's trees other than MIMIC-CXR-JPG: each goes through the reader of the real
dataset.
"""

import json
import re
import tarfile
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from data_prep.phantom import write
from data_prep.phantom.abdomen_findings import DRAW, draw_abdomen
from data_prep.phantom.abdomen_report import FORBIDDEN, NAMES, sample_disease, write_abdomen_report
from data_prep.phantom.anatomy import Finding
from data_prep.phantom.dicom import KINDS, lossless_jpeg
from data_prep.prepared import preparation
from data_prep.reading.images import load
from data_prep.reports.sections import sections
from medxvl.data import text


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write.write_raw(tmp_path_factory.mktemp("layouts") / "raw", 40, 3, 1, False)


def prepare(raw, layout, out):
    """The layout's index, card and rejects."""
    reader, tree, settings = write.LAYOUTS[layout]
    folder = preparation.prepare(
        reader, raw / tree, out, size=69, settings=settings, progress=False
    )
    card = json.loads((folder / "card.json").read_text())
    return (
        pd.read_csv(folder / "index.csv", keep_default_na=False),
        card,
        pd.read_csv(folder / "rejects.csv"),
    )


@pytest.mark.parametrize("layout", write.LAYOUTS)
def test_every_layout_is_read_and_says_that_it_is_synthetic(raw, layout, tmp_path):
    index, card, _ = prepare(raw, layout, tmp_path / "out")
    assert len(index) >= 1 and card["synthetic"] is True and card["label"].startswith("phantom:")


def test_every_tree_has_its_mark(raw):
    trees = [p for p in raw.iterdir() if p.is_dir() and p.name != "truth"]
    assert len(trees) == 8 and all((p / "PHANTOM.json").is_file() for p in trees)


# --- DICOM ----------------------------------------------------------------------------------------
def test_dicom_tree_has_every_kind_and_all_are_decoded(raw, tmp_path):
    index, card, rejects = prepare(raw, "mimic_dicom", tmp_path / "out")
    heads = [
        dcmread(p, stop_before_pixels=True) for p in sorted((raw / "mimic_dicom").rglob("*.dcm"))
    ]
    seen = {
        (
            h.PhotometricInterpretation,
            h.file_meta.TransferSyntaxUID.keyword,
            h.BitsStored,
            "WindowCenter" in h,
        )
        for h in heads
    }
    assert seen == set(KINDS)
    assert len(index) > 20 and card["images"] == len(index)
    assert rejects["reason"].str.startswith("not selected").all()
    assert (index["impression"] != "").all()


@pytest.mark.numeric
def test_dicom_pictures_are_bright_where_bone_is_whatever_the_photometric(raw):
    """A chest is dark at its edges (air) whichever way round the numbers are stored."""
    root = raw / "mimic_dicom"
    kinds = set()
    for path in sorted(root.rglob("*.dcm")):
        head = dcmread(path, stop_before_pixels=True)
        if head.ViewPosition == "LATERAL":
            continue
        grey, reason = load(root, path.relative_to(root).as_posix(), 64)
        assert not reason
        # bottom centre: spine and abdomen, brighter than the two lung fields in nearly every chest
        spine, lungs = (
            grey[50:60, 28:36].mean(),
            (grey[22:30, 14:22].mean() + grey[22:30, 42:50].mean()) / 2,
        )
        kinds.add((head.PhotometricInterpretation, bool(spine > lungs)))
    assert ("MONOCHROME1", True) in kinds and ("MONOCHROME2", True) in kinds and len(kinds) == 2


def test_dicom_lists_and_archive_agree_with_the_files(raw):
    root = raw / "mimic_dicom"
    records, studies = (
        pd.read_csv(root / "cxr-record-list.csv.gz"),
        pd.read_csv(root / "cxr-study-list.csv.gz"),
    )
    assert sorted(records["path"]) == sorted(
        p.relative_to(root).as_posix() for p in root.rglob("*.dcm")
    )
    names = zipfile.ZipFile(root / "mimic-cxr-reports.zip").namelist()
    assert sorted(names) == sorted(studies["path"]) and set(records["study_id"]) == set(
        studies["study_id"]
    )


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_our_lossless_jpeg_is_lossless(bits, tmp_path):
    """Noise, both extremes beside each other (the largest difference), and a flat part."""
    from pydicom import Dataset, FileMetaDataset, dcmwrite
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2**bits, (37, 53)).astype(np.uint16 if bits > 8 else np.uint8)
    pixels[:4, ::2], pixels[:4, 1::2], pixels[30:] = 0, 2**bits - 1, 7
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PixelRepresentation = *pixels.shape, 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = encapsulate([lossless_jpeg(pixels, bits)])
    data["PixelData"].VR = "OB"
    dcmwrite(tmp_path / "x.dcm", data, enforce_file_format=True)
    assert np.array_equal(dcmread(tmp_path / "x.dcm").pixel_array, pixels)


# --- Open-I ---------------------------------------------------------------------------------------
def test_openi_has_blanks_a_report_without_image_and_an_image_without_report(raw, tmp_path):
    index, _, rejects = prepare(raw, "openi", tmp_path / "out")
    with tarfile.open(raw / "openi" / "NLMCXR_reports.tgz") as archive:
        reports = [archive.extractfile(m).read().decode() for m in archive if m.isfile()]
    pictured = [r for r in reports if "<parentImage" in r]
    assert (
        len(reports) == 30
        and 0 < len(pictured) < len(reports)
        and any("XXXX" in r for r in reports)
    )
    named = {i for r in reports for i in re.findall(r'parentImage id="([^"]+)"', r)}
    files = {p.stem for p in (raw / "openi").rglob("*.png")}
    assert named < files and len(files - named) >= 1
    told = " ".join(rejects["reason"])
    assert "no image" in told and "no report" in told
    assert set(index["image_id"]) <= named and index["study_id"].nunique() == len(pictured)


def test_openi_reports_are_the_same_in_the_tables(raw, tmp_path):
    xml, csv = (prepare(raw, layout, tmp_path / layout)[0] for layout in ("openi", "openi_csv"))
    a, b = (
        t.drop_duplicates("impression")["impression"].sort_values().tolist() for t in (xml, csv)
    )
    assert len(a) > 15 and a == b


# --- VQA-RAD --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def asked(raw):
    rows = json.loads((raw / "vqa_rad" / "VQA_RAD Dataset Public.json").read_text())
    return pd.DataFrame(rows)


def test_vqa_rad_is_read(raw, asked, tmp_path):
    index, _, rejects = prepare(raw, "vqa_rad", tmp_path / "out")
    questions = pd.read_csv(tmp_path / "out" / "questions.csv", keep_default_na=False)
    assert len(questions) == len(asked) and set(questions["split"]) == {"train", "test"}
    assert set(questions["answer_type"]) == {"OPEN", "CLOSED"} and set(questions["organ"]) == {
        "CHEST",
        "ABD",
    }
    assert set(questions["image_id"].astype(str)) == set(index["image_id"].astype(str))
    assert not rejects["reason"].str.contains("missing|decode|cannot").any()


def test_vqa_rad_has_the_fields_and_oddities_of_the_original(asked, shared):
    real = json.loads((shared / "data" / "vqa_rad" / "vqa_rad_original_set.json").read_text())
    assert set(asked.columns) == set(real[0])
    known = {r["phrase_type"] for r in real}
    assert set(asked["phrase_type"]) == known == {"freeform", "para", "test_freeform", "test_para"}
    assert "CLOSED " in set(asked["answer_type"]) and asked["answer"].map(type).eq(int).any()
    assert asked["qid"].map(type).nunique() == 2
    assert set(asked["question_type"]) <= {r["question_type"] for r in real}


@pytest.mark.numeric
def test_questions_need_the_picture(asked):
    """Someone who knows each question's most frequent answer gets about half of the closed ones
    right.
    """
    closed = asked[asked["answer_type"].str.strip() == "CLOSED"]
    first = closed[~closed["phrase_type"].str.contains("para")]
    assert len(first) > 40
    yes_no = first[first["answer"].isin(["yes", "no"])]
    # 0.05: well under one SD of independent answers; the choice of questions balances them
    assert (yes_no["answer"] == "yes").mean() == pytest.approx(0.5, abs=0.05, rel=0)


def test_answers_agree_with_what_was_planted(raw, asked):
    truth = pd.read_csv(raw / "truth" / "vqa_rad.csv", keep_default_na=False)
    planted = truth.groupby("study_id")["finding"].agg(set).to_dict()
    side = {(r.study_id, r.finding): r.side for r in truth.itertuples()}
    words = {
        "pneumothorax": "Pneumothorax",
        "pleural effusion": "Pleural Effusion",
        "fracture": "Fracture",
        "kidney stone": "Kidney Stone",
        "ascites": "Ascites",
        "gallstones": "Gallstones",
    }
    checked = {"PRES": 0, "POS": 0}
    for q in asked.itertuples():
        image = q.image_name.removesuffix(".jpg")
        for word, finding in words.items():
            if word in q.question and q.question_type == "PRES":
                assert (finding in planted.get(image, ())) == (q.answer == "yes")
                checked["PRES"] += 1
            if word in q.question and q.question_type == "POS" and "side" in q.question:
                assert side[image, finding] == q.answer
                checked["POS"] += 1
    assert checked["PRES"] > 10 and checked["POS"] >= 2


# --- abdomen --------------------------------------------------------------------------------------
def test_abdomen_reaches_the_prepared_form(raw, tmp_path):
    index, card, rejects = prepare(raw, "abdomen", tmp_path / "out")
    table = pd.read_csv(raw / "abdomen" / "abdomen.csv")
    assert len(index) == len(table) == card["images"] == 60 and rejects.empty
    assert (index["impression"] != "").all() and (index["findings"] != "").all()
    assert set(index["split"]) == {"train", "valid", "test"}
    assert index.groupby("patient_id")["split"].nunique().max() == 1
    assert all(index[name].astype(int).sum() == table[name].sum() > 0 for name in DRAW)
    truth = pd.read_csv(raw / "truth" / "abdomen.csv")
    assert sorted(truth["finding"].value_counts().items()) == sorted(
        (n, table[n].sum()) for n in DRAW
    )


@pytest.mark.numeric
@pytest.mark.parametrize("name", DRAW)
def test_each_abdominal_finding_shows(name):
    """With and without the finding, all else alike: the picture differs where the mask says, on the
    right side.
    """
    variants = {"Bowel Obstruction": "small", "Kidney Stone": "renal", "Tube": "stent"}
    for k in range(6):
        side = ("left", "right")[k % 2]
        f = Finding(name, side, "mid", 1 + k % 2, variants.get(name, ""))
        grey, masks, _ = draw_abdomen([f], np.random.default_rng([5, k]), 220, 200)
        ys, xs = np.where(masks[name])
        assert grey.shape == (220, 200) and len(xs) > 15
        if name == "Kidney Stone":
            assert (xs.mean() > 100) == (side == "left")
            inside, around = (
                grey[masks[name]].mean(),
                grey[cv2.dilate(masks[name].astype(np.uint8), np.ones((15, 15))) > 0],
            )
            assert inside > around.mean() + 10


def test_abdominal_reports_say_what_is_planted_and_no_prompt():
    prompts, said_of = set(FORBIDDEN), {}
    assert "cholelithiasis is present" in prompts
    for k in range(400):
        rng = np.random.default_rng([6, k])
        findings = sample_disease(rng)
        parts = sections(write_abdomen_report(findings, False, rng))
        assert parts["findings"] and parts["impression"]
        said = [
            s.strip(" .")
            for p in ("findings", "impression")
            for s in text.sentences(text.clean_report(parts[p], 999))
        ]
        assert not prompts & set(said)
        for name, nouns in NAMES.items():
            denied = [s for s in said if re.search(r"\bno\b", s) and any(n in s for n in nouns)]
            assert not (denied and name in {f.name for f in findings}), (name, denied)
        sides = {f.side for f in findings if f.name in ("Kidney Stone", "Free Air")} - {"both"}
        if len(sides) == 1 and all(
            f.name in ("Kidney Stone", "Free Air", "Ascites", "Bowel Obstruction") for f in findings
        ):
            (side,) = sides
            assert not re.search(
                r"\b" + {"left": "right", "right": "left"}[side] + r"\b", " ".join(said)
            )
            said_of[side] = said_of.get(side, 0) + 1
    assert min(said_of.values()) > 10 and len(said_of) == 2


# --- what a user sees -----------------------------------------------------------------------------
def test_few_studies_are_warned_of_once(tmp_path, capsys):
    write.write_raw(tmp_path / "raw", 20, 3, 1, False)
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warned) == 1 and re.search(
        r"20 studies give \d+ train, \d+ validate, \d+ test", warned[0]
    )


def test_layout_by_name(raw, tmp_path, capsys):
    from data_prep.__main__ import main

    assert (
        main(
            [
                "phantom",
                "--out",
                str(tmp_path / "a"),
                "--raw",
                str(raw),
                "--layout",
                "abdomen",
                "--size",
                "69",
                "--studies",
                "40",
                "--seed",
                "3",
                "--workers",
                "1",
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "a" / "card.json").read_text())["label"] == "phantom:table"
    assert main(["phantom", "--out", str(tmp_path / "b"), "--layout", "brain"]) == 2
    assert "a layout of the phantom" in capsys.readouterr().err
