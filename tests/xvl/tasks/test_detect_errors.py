"""Report-error detection: what a test is made of, its scores and rows, and a fine-tuning that has
something to learn.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import assert_close
from train_helpers import CPU, Bar, with_settings

from medxvl.data import text
from medxvl.data.dataset import CHEXPERT_14
from medxvl.xvl import checkpoints, report_errors, scoring
from medxvl.xvl.report_errors import Reports
from medxvl.xvl.tasks import detect_errors, error_detector

PRESET = with_settings(
    "errors_epochs=40 errors_batch=15 errors_rate=5e-3 vision_stem=patch bootstrap=40 "
    "checkpoint_every=0 contrast_epochs=0"
)
SIDES = {"left": "left lung opacity.", "right": "right lung opacity.", "": "no acute process."}


class Fake:
    """Opacities left or right, or nothing: what the tasks use of a prepared dataset."""

    label, fingerprint, synthetic, card = (
        "phantom:fake",
        "0" * 12,
        True,
        {"size": 40, "name": "fake"},
    )

    def __init__(self, n=180, images=True):
        rng = np.random.default_rng(0)
        said = np.array(["left", "right", ""])[np.arange(n) % 3]
        self.pixels, self.has_images = rng.integers(60, 120, (n, 40, 40), dtype=np.uint8), images
        self.pixels[said == "left", :, 26:] = 240
        self.pixels[said == "right", :, :14] = 240
        self.index = pd.DataFrame(
            {
                "study_id": [f"s{k}" for k in range(n)],
                "patient_id": [f"p{k // 2}" for k in range(n)],
                "findings": "",
                "split": np.where(
                    np.arange(n) % 10 < 5, "train", np.where(np.arange(n) % 10 < 7, "valid", "test")
                ),
                "impression": [SIDES[side] for side in said],
            }
        )
        for name in CHEXPERT_14:
            self.index[name] = np.where(
                (said == "") if name == "No Finding" else (name == "Lung Opacity") & (said != ""),
                1.0,
                np.nan,
            )

    def rows(self, split):
        return np.flatnonzero(self.index["split"] == split)

    def images(self, rows):
        return self.pixels[np.asarray(rows)]


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def tokenizer():
    return text.train_tokenizer(list(SIDES.values()) * 3, PRESET.vocabulary)


@pytest.fixture(scope="module")
def drawn(data):
    return detect_errors.tests(detect_errors.studies(data, "test").reports, 0, 0.05)


def test_studies_without_a_report_are_left_out(data):
    other = Fake()
    other.index.loc[0, "impression"] = ""
    other.index.loc[1, ["impression", "findings"]] = ["", "Edema."]
    every = detect_errors.studies(other)
    assert len(every.rows) == len(other.index) - 1 and every.reports.texts[0] == "Edema."
    assert len(detect_errors.studies(data, "test").rows) == 54


def test_half_of_the_balanced_pairs_are_wrong(data, drawn):
    reports = detect_errors.studies(data, "test").reports
    kinds = {
        "false_positive",
        "false_negative",
        "location",
        "mismatch",
        "confusion",
        detect_errors.ALL,
    }
    assert {kind for _, kind in drawn} == kinds
    for (run, kind), pairs in drawn.items():
        original = np.array(reports.texts)[pairs["image"]]
        assert ((pairs["text"] != original) == (pairs["wrong"] == 1)).all(), (
            "a wrong pair is one, a right one is its own report"
        )
        if run == "balanced":
            assert pairs["wrong"].mean() == 0.5
            if kind not in (detect_errors.ALL, "confusion"):
                told = pairs.groupby("wrong")["text"].value_counts().unstack("wrong")
                assert (told[0] == told[1]).all(), (
                    "the same texts on both sides: there is nothing to tell from them"
                )
        else:
            assert sorted(pairs["image"]) == list(range(len(reports.texts))), "each report once"
    assert drawn["5 %", "location"]["wrong"].sum() == round(0.05 * 36)
    assert drawn["5 %", detect_errors.ALL]["wrong"].sum() == round(0.05 * 54)


def test_tests_follow_the_seed(data):
    reports = detect_errors.studies(data, "test").reports
    one, same, other = (detect_errors.tests(reports, seed, 0.5) for seed in (1, 1, 2))
    assert all(one[key].equals(same[key]) for key in one) and not one["5 %", "mismatch"].equals(
        other["5 %", "mismatch"]
    )


def test_no_error_no_test():
    assert detect_errors.tests(Reports(["Clear lungs."] * 4), 0, 0.05) == {}


@pytest.mark.numeric
def test_scores_are_those_of_each_pair_alone(data, tokenizer, drawn):
    torch.manual_seed(0)
    models = [checkpoints.untrained(PRESET, tokenizer) for _ in range(2)]
    part = detect_errors.studies(data, "test")
    pictures = scoring.encode_images(models, data, part.rows, CPU)
    given = detect_errors.score(models, tokenizer, pictures, drawn)
    swapped = detect_errors.score(
        models, tokenizer, pictures, drawn, np.roll(np.arange(len(part.rows)), 1)
    )
    pairs = drawn["balanced", "location"]
    for k in (0, len(pairs) - 1):
        image, report = int(pairs["image"][k]), detect_errors.read([pairs["text"][k]], PRESET)
        for scores, of in ((given, image), (swapped, (image - 1) % len(part.rows))):
            ids, mask = text.encode(tokenizer, report, PRESET.max_tokens)
            with torch.no_grad():
                logits = models[0].match_logits(
                    models[0].online.encode_text(ids, mask)[0], mask, pictures[0][0][of : of + 1]
                )
            # a probability, so an absolute error of 16-wide layers' logits
            found = scores["balanced", "location"][k]
            assert_close(found, float(logits.softmax(1)[0, 0]), terms=5 * 16, dtype=torch.float32)


@pytest.mark.numeric
def test_the_words_alone_are_found_out(data):
    """A generator that gives itself away by a word is caught by the control; one that does not is
    not.
    """
    reports = [f"{'mild' if k % 2 else 'moderate'} edema at {k}" for k in range(200)]
    labels = pd.DataFrame({"Edema": np.ones(200)})
    drawn = detect_errors.tests(Reports(reports, labels), 0, 0.05, kinds=("extent",))
    found = detect_errors.words_alone(Reports(reports, labels), drawn, 0)
    rows = detect_errors.evaluate(
        drawn, found, np.arange(200), dataset="d", model="m", n_resamples=20
    )
    assert (
        next(r["value"] for r in rows if r["subset"] == "balanced, extent") == 1.0
    )  # "severe" occurs in no clean report
    part = detect_errors.studies(data, "test").reports
    drawn = detect_errors.tests(part, 0, 0.05)
    found = detect_errors.words_alone(detect_errors.studies(data, "train").reports, drawn, 0)
    rows = detect_errors.evaluate(
        drawn, found, part.patients, dataset="d", model="m", n_resamples=20
    )
    values = {r["subset"]: r["value"] for r in rows if r["metric"] == "auroc"}
    # by construction: each text is once right and once wrong
    assert_close(values["balanced, patient mismatch"], 0.5, terms=108)
    # sides are exchanged both ways; 72 pairs, of which one more or less to a side is 0.03
    assert abs(values["balanced, location"] - 0.5) < 0.1


@pytest.mark.numeric
def test_what_tells_in_the_published_run_is_found_by_the_words(data):
    """Where a normal report is more often wrong than others, a classifier of words knows: its
    control must not be blind to it.
    """
    part, known = (detect_errors.studies(data, split).reports for split in ("test", "train"))
    drawn = detect_errors.tests(part, 0, 0.2)
    found = detect_errors.words_alone(known, drawn, 0)
    rows = detect_errors.evaluate(
        drawn, found, part.patients, dataset="d", model="m", n_resamples=20
    )
    values = {r["subset"]: r["value"] for r in rows if r["metric"] == "auroc"}
    assert values["5 %, false negative"] > 0.6
    assert_close(values["balanced, false negative"], 0.5, terms=108)


@pytest.mark.numeric
def test_rows(drawn):
    scores = {key: pairs["wrong"].to_numpy(float) for key, pairs in drawn.items()}
    rows = detect_errors.evaluate(
        drawn, scores, np.arange(54), dataset="d", model="m", n_resamples=40
    )
    assert {r["value"] for r in rows if r["metric"].startswith("auroc")} == {1.0}
    assert {r["subset"] for r in rows} >= {
        "balanced",
        "5 %",
        "balanced, patient mismatch",
        "5 %, location",
    }
    wide = detect_errors.wide(rows + detect_errors.chance(drawn, dataset="d"), "balanced")
    assert list(wide.columns) == [
        "false positive",
        "false negative",
        "location",
        "patient mismatch",
        "sentence confusion",
        "all five",
    ]
    assert list(wide.index) == ["m", "chance"]
    half = {key: np.arange(len(pairs)) / len(pairs) for key, pairs in drawn.items()}
    levels = [
        next(
            r
            for r in detect_errors.evaluate(
                drawn, half, np.arange(54), dataset="d", model="m", n_resamples=200
            )
            if r["metric"] == metric and r["subset"] == "5 %"
        )
        for metric in ("auroc", "auroc (99 % CI)")
    ]
    assert (
        levels[1]["ci_high"] - levels[1]["ci_low"] > levels[0]["ci_high"] - levels[0]["ci_low"] > 0
    )


def test_tables(data):
    part = detect_errors.studies(data, "test")
    table = report_errors.eligibility(part.reports, np.random.default_rng(0))
    assert table.loc["location", "eligible"] == 36
    assert table.loc["extent", "why not"] == "no word of extent: 54"
    shown = detect_errors.examples(part, np.ones(len(data.index), bool), 0).set_index("type")
    assert (
        "'left' -> 'right'" in shown.loc["location", "changes"]
        or "'right' -> 'left'" in shown.loc["location", "changes"]
    )
    assert detect_errors.examples(part, np.zeros(len(data.index), bool), 0).empty


@pytest.mark.numeric
def test_fine_tuning_finds_swapped_sides(data, tokenizer, drawn, tmp_path):
    """From random weights, on images whose bright side is what the report says; with shuffled
    images nothing is left.
    """
    torch.manual_seed(0)
    start = checkpoints.untrained(PRESET, tokenizer)
    before = {k: v.clone() for k, v in start.state_dict().items()}
    tuned, told = error_detector.Detecting(PRESET, data, start, tokenizer, CPU).fit(tmp_path, Bar())
    assert all(torch.equal(v, before[k]) for k, v in start.state_dict().items()), (
        "the start stays as it was"
    )
    assert all(
        torch.equal(v, before[k])
        for k, v in tuned.state_dict().items()
        if k.startswith("online.vision.")
    )
    part = detect_errors.studies(data, "test")
    pictures = scoring.encode_images([tuned], data, part.rows, CPU)
    values = {}
    for control, partner in (
        ("", None),
        ("shuffled images", np.random.default_rng(0).permutation(len(part.rows))),
    ):
        rows = detect_errors.evaluate(
            drawn,
            detect_errors.score([tuned], tokenizer, pictures, drawn, partner),
            part.reports.patients,
            dataset="d",
            model="m",
            n_resamples=20,
        )
        values[control] = next(r["value"] for r in rows if r["subset"] == "balanced, location")
    assert values[""] > 0.9 and values["shuffled images"] < 0.7 and told.startswith("fine-tuned ")
    known = detect_errors.studies(data, "train").reports
    moved = detect_errors.transfer(
        {"X-VL (ITM)": ([start], "random"), "ours": ([tuned], told)},
        tokenizer,
        known,
        data,
        PRESET,
        CPU,
    )
    ours = {(m, c) for m in ("X-VL (ITM)", "ours") for c in ("", "shuffled images")}
    assert {(r["model"], r["control"]) for r in moved} == ours | {
        ("chance",) * 2,
        ("words of the report",) * 2,
    }
    assert (
        detect_errors.transfer({}, tokenizer, part.reports, Fake(images=False), PRESET, CPU) == []
    )


@pytest.mark.numeric
def test_every_epoch_has_new_errors(data, tokenizer):
    task = error_detector.Detecting(
        PRESET, data, checkpoints.untrained(PRESET, tokenizer), tokenizer, CPU
    )
    task.build(CPU)
    order, drawn = {}, {}
    for epoch in (0, 1):
        order[epoch] = task.order(epoch, np.random.default_rng([0, epoch]))
        drawn[epoch] = list(task.wrong)
    assert drawn[0] != drawn[1] and all(a != b for a, b in zip(task.right, task.wrong, strict=True))
    swapped = np.array(
        [SIDES[""] not in pair for pair in zip(task.right, task.wrong, strict=True)]
    )  # not so in a mismatch
    assert_close(task.weight[swapped].sum(), task.weight[~swapped].sum(), terms=len(swapped))
    studies, (images, ids, mask, weight) = task.batch(0, 0, order[1], None, None)
    assert len(studies) == len(images) == len(weight) == 15 and len(ids) == len(mask) == 30


def test_both_sections_can_be_a_report():
    other = Fake()
    other.index["findings"] = "The heart is large."
    every = detect_errors.studies(other, "train", every_section=True)
    assert len(every.rows) == 180 and sorted(set(every.rows)) == sorted(other.rows("train"))
    assert every.reports.texts.count("The heart is large.") == 90
    assert detect_errors.studies(other, "train").reports.texts.count("The heart is large.") == 0


def test_an_error_that_is_not_read_counts_nothing(tokenizer):
    other = Fake()
    long = "no acute process. " * 6
    other.index["impression"] = [long + said for said in other.index["impression"]]
    other.index[list(CHEXPERT_14)] = 0.0  # no mismatch
    task = error_detector.Detecting(
        PRESET, other, checkpoints.untrained(PRESET, tokenizer), tokenizer, CPU
    )
    task.order(0, np.random.default_rng(0))
    assert task.right != task.wrong and not task.weight.any()
