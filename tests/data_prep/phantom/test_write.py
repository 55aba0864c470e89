"""The synthetic dataset: the same bytes every time, read by the readers of real data, and true to
what was planted.
"""

import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from data_prep.phantom import write
from data_prep.phantom.anatomy import Finding
from data_prep.phantom.findings import draw_frontal
from data_prep.phantom.report import write_report
from data_prep.prepared import preparation
from data_prep.reports import prompts
from data_prep.reports.sections import sections
from medxvl.config import paths
from medxvl.data import text

STUDIES, SEED = 40, 1
SIDED = (
    "Atelectasis",
    "Consolidation",
    "Fracture",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
    "Lung Opacity",
    "Lung Lesion",
    "Pleural Other",
)
MENTION = {
    "Atelectasis": r"atelectasis",
    "Cardiomegaly": r"cardiomegaly|cardiac|heart",
    "Consolidation": r"consolidation",
    "Edema": r"edema",
    "Fracture": r"fracture",
    "Pleural Effusion": r"effusion|pleural fluid",
    "Pneumonia": r"pneumonia",
    "Pneumothorax": r"pneumothorax",
}
NEGATION = re.compile(r"\bno\b|\bwithout\b|\bnormal\b|\bclear\b")
DOUBT = re.compile(r"possible|cannot be excluded|question of|may ")


def make(out, *options):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "data_prep",
            "phantom",
            "--out",
            out,
            "--studies",
            str(STUDIES),
            "--seed",
            str(SEED),
            "--size",
            "69",
            *options,
        ],
        env=os.environ | {"PYTHONPATH": str(paths.ROOT)},
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def digests(folder):
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("phantom") / "one", "--workers", "1")


@pytest.fixture(scope="module")
def truth(made):
    return pd.read_csv(
        made / "raw" / "truth" / "findings.csv", dtype={"study_id": str}, keep_default_na=False
    )


@pytest.fixture(scope="module")
def reports():
    """500 drawn patients: findings, report text and labels."""
    drawn = []
    for k in range(500):
        rng = np.random.default_rng([9, k])
        findings = write.sample_findings(rng)
        drawn.append((findings, *write_report(findings, "AP", rng)))
    return drawn


def spoken(report):
    """Sentences of findings and impression, as the models read them."""
    parts = sections(report)
    return [
        s
        for name in ("findings", "impression")
        for s in text.sentences(text.clean_report(parts[name], 999))
    ]


# --- the same bytes -------------------------------------------------------------------------------
def test_the_same_bytes_again_and_with_two_workers(made, tmp_path):
    first, second = digests(made), digests(make(tmp_path / "two", "--workers", "2"))
    assert len(first) > 150 and first == second
    assert {
        "index.csv",
        "images.h5",
        "card.json",
        "rejects.csv",
        "raw/mimic_cxr/mimic-cxr-2.0.0-metadata.csv.gz",
    } <= set(first)


def test_another_seed_gives_other_pictures(made, tmp_path):
    other = write.write_raw(tmp_path / "raw", 20, SEED + 1, 1, False)
    ours = {p.read_bytes() for p in (made / "raw").rglob("*.jpg")}
    assert not ours & {p.read_bytes() for p in other.rglob("*.jpg")}


def test_it_is_not_drawn_twice_and_never_over_something_else(made, tmp_path):
    raw = made / "raw"
    before = digests(raw)
    assert write.write_raw(raw, STUDIES, SEED, 1, False) == raw and digests(raw) == before
    for studies, seed in ((STUDIES, SEED + 1), (STUDIES + 1, SEED)):
        with pytest.raises(ValueError, match="expected an empty folder"):
            write.write_raw(raw, studies, seed, 1, False)
    with pytest.raises(ValueError, match="at least 20"):
        write.write_raw(tmp_path / "raw", 5, SEED, 1, False)
    assert digests(raw) == before


def test_a_phantom_of_older_code_is_drawn_anew(tmp_path, monkeypatch):
    raw = write.write_raw(tmp_path / "raw", 20, SEED, 1, False)
    fresh = digests(raw)
    mark = json.loads((raw / "PHANTOM.json").read_text())
    (raw / "PHANTOM.json").write_text(json.dumps(mark | {"code": "older"}))
    (raw / "mimic_cxr" / "IMAGE_FILENAMES").write_text("")
    assert digests(write.write_raw(raw, 20, SEED, 1, False)) == fresh


# --- read by the readers of real data -------------------------------------------------------------
def test_read_as_mimic_cxr(made):
    index = pd.read_csv(made / "index.csv", keep_default_na=False)
    card = json.loads((made / "card.json").read_text())
    assert card["synthetic"] is True and card["label"] == "phantom:mimic_cxr"
    assert set(index["view"]) == {"AP"} and set(index["split"]) == {"train", "valid", "test"}
    assert (index["impression"] != "").all() and (index["findings"] != "").all()
    assert index.groupby("patient_id")["split"].nunique().max() == 1
    faults = pd.read_csv(made / "rejects.csv")["reason"]
    assert faults.str.startswith("not selected").all(), "the phantom has no faulty record"


def test_read_as_covid_cxr(made, truth, tmp_path):
    out = preparation.prepare(
        "covid_cxr", made / "raw" / "covid_cxr", tmp_path / "out", size=69, progress=False
    )
    index = pd.read_csv(out / "index.csv")
    ill = set(truth["study_id"][truth["finding"] == "COVID-19"])
    assert len(index) == 40 and index["covid"].mean() == 0.5
    assert {name.removesuffix(".jpg") for name in index["image_id"][index["covid"] == 1]} == ill
    assert json.loads((out / "card.json").read_text())["label"] == "phantom:covid_cxr"


def test_read_as_chexpert_test(made, tmp_path):
    out = preparation.prepare(
        "chexpert_test", made / "raw" / "chexpert_test", tmp_path / "out", progress=False
    )
    index, readers = pd.read_csv(out / "index.csv"), pd.read_csv(out / "readers.csv")
    ours = pd.read_csv(made / "index.csv")
    ours = ours[ours["split"] == "test"]
    assert sorted(index["study_id"].str.split("study").str[1].astype(int)) == sorted(
        ours["study_id"]
    )
    assert sorted(readers["reader"][readers["kind"] == "benchmark"].unique()) == [
        "bc4",
        "bc6",
        "bc8",
    ]
    assert readers["reader"][readers["kind"] == "ground_truth"].nunique() == 5
    assert set(readers["value"]) <= {0, 1}


# --- the unseen disease ---------------------------------------------------------------------------
def test_the_disease_is_in_the_unseen_set_alone(made, truth):
    ill = truth[truth["finding"] == "COVID-19"]
    assert len(ill) == 20 and ill["study_id"].str.startswith("phantom-").all()
    rng = np.random.default_rng(0)
    assert all(f.name != "COVID-19" for _ in range(2000) for f in write.sample_findings(rng))
    said = " ".join(p.read_text() for p in (made / "raw" / "mimic_cxr").rglob("*.txt")).lower()
    assert "final report" in said and not re.search(r"covid|corona|sars", said)


# --- reports and pictures agree -------------------------------------------------------------------
@pytest.mark.numeric
def test_boxes_lie_on_the_side_that_is_named(made, truth):
    """The patient's left is the right half of a frontal film: in nearly every case, and for each
    side.
    """
    columns = pd.read_csv(made / "raw" / "mimic_cxr" / "mimic-cxr-2.0.0-metadata.csv.gz").set_index(
        "dicom_id"
    )["Columns"]
    rows = truth[
        truth["side"].isin(["left", "right"])
        & truth["finding"].isin(SIDED)
        & truth["image_id"].isin(columns.index)
        & (truth["x0"] != "")
    ]
    middle = (
        (rows["x0"].astype(float) + rows["x1"].astype(float)) / 2 / rows["image_id"].map(columns)
    )
    assert rows["side"].nunique() == 2 and len(rows) > 20
    assert ((middle > 0.5) == (rows["side"] == "left")).mean() > 0.9


@pytest.mark.numeric
def test_boxes_as_in_ms_cxr_cover_the_truth_one_a_side(made, truth):
    """Together the boxes of a finding reach as far as the planted one; two where it shows on both
    sides and not between.
    """
    boxes = pd.read_csv(made / "boxes.csv")
    planted = truth[(truth["x0"] != "") & truth["image_id"].isin(boxes["image_id"])].set_index(
        ["image_id", "finding"]
    )
    reach = boxes.groupby(["image_id", "finding"])[["x0", "y0", "x1", "y1"]].agg(
        {"x0": "min", "y0": "min", "x1": "max", "y1": "max"}
    )
    both = planted.loc[planted.index.isin(reach.index), ["x0", "y0", "x1", "y1"]].astype(float)
    assert len(both) > 20 and len(both) == len(reach)
    assert (both - reach.loc[both.index]).abs().max(
        axis=None
    ) <= 1  # a single column apart may be left out
    count = boxes.groupby(["image_id", "finding"]).size()
    sided = planted.loc[count.index, "side"]
    assert (count[sided != "both"] == 1).mean() > 0.9 and (count[sided == "both"] == 2).any()


@pytest.mark.numeric
@pytest.mark.parametrize("name", SIDED)
def test_each_finding_is_drawn_on_its_side(name):
    right_place = []
    for k in range(16):
        rng, side = np.random.default_rng([4, k]), ("left", "right")[k % 2]
        f = Finding(
            name,
            side,
            ("upper", "mid", "lower")[k % 3] if name != "Atelectasis" else "lower",
            k % 3,
            write.VARIANTS.get(name, ("",))[0],
        )
        _, masks = draw_frontal([f], rng, "AP", 120, 120)
        x = np.where(masks[name])[1]
        right_place.append(len(x) > 0 and (x.mean() > 60) == (side == "left"))
    assert np.mean(right_place) >= 0.9


def test_side_words_agree_with_the_side(reports):
    checked = 0
    for findings, report, _ in reports:
        sides = {f.side for f in findings}
        for side, other in (("left", "right"), ("right", "left")):
            if sides == {side}:
                said = " ".join(spoken(report))
                assert not re.search(rf"\b{other}\b|\bbilateral\b|\bboth\b", said), report
                checked += bool(re.search(rf"\b{side}\b", said))
    assert checked > 60


def test_labels_agree_with_what_is_said(reports):
    seen = {1: 0, 0: 0, -1: 0}
    for findings, report, labels in reports:
        planted = {f.name for f in findings}
        for name, words in MENTION.items():
            said = [s for s in spoken(report) if re.search(words, s)]
            label = labels.get(name)
            if label is None:
                assert not said and name not in planted, (name, said)
            elif label == 0:
                assert said and name not in planted and all(NEGATION.search(s) for s in said), (
                    name,
                    said,
                )
            else:
                assert said and name in planted and not any(NEGATION.search(s) for s in said), (
                    name,
                    said,
                )
                assert any(DOUBT.search(s) for s in said) == (label == -1), (name, said)
            if label is not None:
                seen[label] += 1
        assert ("No Finding" in labels) == (planted <= {"Support Devices"})
    assert min(seen.values()) > 10


def test_an_opacity_is_ruled_out_where_nothing_is_opaque(reports):
    """Real reports say so of normal lungs; a model that never reads it cannot tell what "no ...
    opacity" denies.
    """
    opaque = {"Lung Opacity", "Atelectasis", "Consolidation", "Edema", "Pneumonia", "Lung Lesion"}
    ruled_out = 0
    for findings, report, labels in reports:
        said = [s for s in spoken(report) if "opacit" in s and NEGATION.search(s)]
        assert bool(said) == (labels.get("Lung Opacity") == 0), (said, labels)
        assert not said or not opaque & {f.name for f in findings}, (said, findings)
        ruled_out += bool(said)
    assert 20 < ruled_out < 100


def test_planted_findings_reach_the_labels_of_the_prepared_form(made, truth):
    index = pd.read_csv(made / "index.csv", dtype={"study_id": str}).set_index("study_id")
    checked = 0
    for row in truth[truth["study_id"].isin(index.index)].itertuples():
        assert index.loc[row.study_id, row.finding] in (1, -1), (row.study_id, row.finding)
        checked += 1
    assert checked > 30


# --- prompts --------------------------------------------------------------------------------------
def all_prompts():
    for group in (prompts.PROMPTS, prompts.UNSEEN_PROMPTS):
        for finding, positives in group.items():
            yield from (*positives, prompts.negative_prompt(finding))


def test_no_prompt_is_a_sentence_of_a_report(reports):
    asked = {text.clean_report(p).strip(" .") for p in all_prompts()}
    said = {s.strip(" .") for _, report, _ in reports for s in spoken(report)}
    assert len(asked) > 50 and len(said) > 500
    assert not asked & said


def test_prompts_use_words_of_the_reports(reports):
    """A word never read in training says nothing: at least four fifths of the prompts' words occur
    in 500 reports.
    """
    known = {
        w for _, report, _ in reports for s in spoken(report) for w in re.findall(r"[a-z]+", s)
    }
    asked = [w for prompt in all_prompts() for w in re.findall(r"[a-z]+", prompt)]
    unknown = [w for w in asked if w not in known]
    assert len(asked) > 200 and len(unknown) <= 0.2 * len(asked), sorted(set(unknown))
