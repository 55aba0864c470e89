"""Corrections and reports by X-VL: from data to rows, on data that can be learned."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from medvill_tasks_data import Fake
from tolerance import assert_close, rounding

from medxvl.config import presets
from medxvl.data import text
from medxvl.evaluation import generation
from medxvl.xvl import model as xvl
from medxvl.xvl import report_errors, writing
from medxvl.xvl import writer as xvl_writer
from medxvl.xvl.tasks import correct_errors, generate

pytestmark = pytest.mark.numeric
CPU = torch.device("cpu")
PRESET = presets.load(
    "smoke",
    "vision_width=32 text_width=48 text_heads=2 vocabulary=150 max_tokens=20 "
    "correct_epochs=20 correct_batch=24 correct_rate=3e-3 correct_most=20 correct_pool=8 "
    "xvl_generate_epochs=20 xvl_generate_batch=24 xvl_generate_rate=3e-3 xvl_generate_most=20 "
    "bootstrap=40 checkpoint_every=0",
)
WORDS = {
    "Pleural Effusion": "small left pleural effusion. heart is normal.",
    "Edema": "severe edema of the right lung. heart is normal.",
    "": "no acute cardiopulmonary process. clear lungs.",
}


class Told(Fake):
    """As Fake, with reports that can have errors of every type."""

    def __init__(self, n=120):
        super().__init__(n)
        names = np.array(list(WORDS))[np.arange(n) % 3]
        self.index["findings"], self.index["impression"] = (
            "",
            [WORDS[name].capitalize() for name in names],
        )


def no_bar(*_):
    class Bar:
        n = initial = last_print_n = 0

        def update(self, n=1): ...

        def set_postfix_str(self, told): ...

        def close(self): ...

    return Bar()


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    data, tokenizer = (
        Told(),
        text.train_tokenizer(list(WORDS.values()) * 3 + ["large mild upper lower"] * 3, 150),
    )
    return data, tokenizer, xvl.XVL(PRESET, len(tokenizer))


@pytest.fixture(scope="module")
def corrector(start, tmp_path_factory):
    data, tokenizer, model = start
    task = correct_errors.Correcting(PRESET, data, model, tokenizer, CPU)
    return task.fit(tmp_path_factory.mktemp("correct"), no_bar)[0]


def correct(tuned, tokenizer, data, rows, asked, **seen):
    most, beams = PRESET.correct_most, PRESET.correct_beams
    return writing.write(tuned, tokenizer, data, rows, most, beams, CPU, asked=asked, **seen)


def cases(start, split="test"):
    data, tokenizer, _ = start
    part = correct_errors.studies(data, split, tokenizer, PRESET)
    return part, correct_errors.to_correct(part, PRESET, part.reports)


def test_reports_end_with_a_sentence_that_fits(start):
    tokenizer = start[1]
    parts = [
        ["clear lungs", "no acute cardiopulmonary process"],
        ["no acute cardiopulmonary process"] * 9,
        [],
    ]
    lengths = [len(tokenizer(" ".join(s + "." for s in p))["input_ids"]) for p in parts]
    assert correct_errors.fitting(parts, tokenizer, lengths[0])[0] == text.join(parts[0])
    assert correct_errors.fitting(parts, tokenizer, lengths[0] - 1)[0] == "clear lungs."
    found = correct_errors.fitting(parts, tokenizer, 25)
    assert (
        found[1]
        and len(tokenizer(found[1])["input_ids"]) <= 25
        and found[1].endswith(".")
        and found[2] == ""
    )


def test_what_is_to_be_corrected(start):
    part, table = cases(start)
    mixed = table[table["set"] == correct_errors.MIXED]
    assert (
        list(mixed["place"]) == list(range(len(part.rows))) and (mixed["kind"] != "").mean() == 0.5
    )
    assert set(table["set"]) == {correct_errors.MIXED, *report_errors.PUBLISHED}
    wrong = table["kind"] != ""
    assert (table["asked"] != table["wanted"]).equals(wrong)
    assert all(
        part.reports.texts[k] == t for k, t in zip(table["place"], table["wanted"], strict=True)
    )
    assert (
        table[table["set"] != correct_errors.MIXED].groupby("set").size() <= PRESET.correct_pool
    ).all()


def test_what_one_could_write_who_knows_the_findings():
    known = report_errors.Reports(
        ["Small left effusion.", "Pleural effusion.", "Pleural effusion.", "Clear lungs."]
    )
    own = report_errors.Reports(["Left effusion.", "Effusion.", "Pneumothorax."])
    rows = [
        ("mixed", 0, "location", "Right effusion.", "Left effusion."),
        ("mixed", 1, "mismatch", "Clear lungs.", "Effusion."),
        ("mixed", 1, "", "Effusion.", "Effusion."),
        ("mixed", 2, "false_negative", "Clear lungs.", "Pneumothorax."),
    ]
    table = pd.DataFrame(rows, columns=["set", "place", "kind", "asked", "wanted"])
    found = correct_errors.knowing(table, own, known)
    assert found == ["Left effusion.", "Pleural effusion.", "Effusion.", "Clear lungs."]


def test_it_learns_to_correct_by_the_picture(start, corrector):
    """Brightness says the finding: errors are put right, clean reports left alone, and another's
    picture brings another's report.
    """
    data, tokenizer, _ = start
    part, table = cases(start)
    rows, asked = part.rows[table["place"]], list(table["asked"])
    patients = part.reports.patients[table["place"]]
    found = correct(corrector, tokenizer, data, rows, asked)
    about = {"dataset": data.label, "n_resamples": 40}
    ours = correct_errors.evaluate(found, table, patients, model="X-VL", **about)
    other = correct(corrector, tokenizer, data, rows, asked, images_of=np.roll(rows, 1))
    shuffled = correct_errors.evaluate(
        other,
        table,
        patients,
        model="X-VL",
        control="shuffled images",
        **about,
    )

    def value(rows, metric, subset=""):
        return next(r["value"] for r in rows if r["metric"] == metric and r["subset"] == subset)

    assert value(ours, "repaired", "errors") > 0.5 and value(ours, "untouched", "clean") > 0.7
    assert value(shuffled, "repaired", "errors") < value(ours, "repaired", "errors") - 0.2
    assert value(ours, "repaired_findings", "errors") >= value(ours, "repaired", "errors")
    left = correct_errors.evaluate(asked, table, patients, model="left as it is", **about)
    assert (
        value(left, "repaired", "errors") == 0
        and value(left, "untouched", "clean") == value(left, "unchanged", "errors") == 1
    )
    assert {r["subset"] for r in ours} >= {"", "errors", "clean", *report_errors.PUBLISHED} and {
        r["paper"] for r in ours
    } == {"xvl"}
    items = correct_errors.examples(data, part, table, found, np.ones(len(data.index), bool), 0)
    assert len(items) == 5 and not correct_errors.examples(
        data, part, table, found, np.zeros(len(data.index), bool), 0
    )


def test_no_picture_is_the_mean_of_all(start, corrector):
    data, tokenizer, _ = start
    rows = data.rows("train")
    blank = writing.mean_tokens(corrector, data, rows, CPU)
    tokens = writing.Pictures(data, rows, PRESET, CPU).tokens(
        corrector.vision, torch.arange(len(rows))
    )
    assert_close(blank, tokens.mean(dim=0), terms=4 * 48 + len(rows))
    asked = ["clear lungs."] * 6
    found = correct(corrector, tokenizer, data, data.rows("test")[:6], asked, blank=blank)
    assert len(set(found)) == 1


def test_sure_corrections():
    asked, found, gains = ["a", "b", "c", "d"], ["a", "x", "y", "z"], np.array([0.0, 1.0, 2.0, 3.0])
    assert (
        correct_errors.margin(found, asked, gains, 1.0) == 3
        and correct_errors.margin(found, asked, gains, 0.5) == 1
    )
    assert correct_errors.margin(found, asked, gains, 0.25) == 0


def test_gains_are_of_the_texts(start, corrector):
    data, tokenizer, _ = start
    rows, asked = (
        data.rows("test")[:3],
        ["clear lungs.", "severe edema of the right lung.", "clear lungs."],
    )
    about = corrector, tokenizer, data, rows
    # a difference of two log-likelihoods, sums over at most 21 words of about one nat a word
    limit = rounding(21.0, 4 * 48 + 21, torch.float32)
    assert np.abs(correct_errors.gains(*about, asked, asked, CPU)).max() < limit
    found = correct_errors.gains(*about, asked, [asked[1], *asked[1:]], CPU)
    assert found[0] < -1 and np.abs(found[1:]).max() < limit, (
        "only the first text is another, and it copies nothing"
    )


def test_copying_is_where_small_presets_start(start):
    """Before any training the writer gives much of a report back; without `writer_copies` hardly a
    word.
    """
    data, tokenizer, model = start
    part = correct_errors.studies(data, "test", tokenizer, PRESET)
    texts = part.reports.texts
    told = [generation.plain(t).split() for t in texts]
    shares = []
    for copies in (1, 0):
        model.preset = replace(PRESET, writer_copies=copies)
        torch.manual_seed(1)
        writer = xvl_writer.start_from(model, reads=True)
        found = [
            generation.plain(t).split() for t in correct(writer, tokenizer, data, part.rows, texts)
        ]
        shares.append(
            np.mean(
                [
                    np.mean([a == b for a, b in zip(f, t, strict=False)]) if f else 0
                    for f, t in zip(found, told, strict=True)
                ]
            )
        )
    model.preset = PRESET
    assert (
        shares[0] > 0.25 and shares[0] > 3 * shares[1]
    )  # at this width; nine of ten words in preset demo


def test_it_learns_to_write_what_the_picture_shows(start, tmp_path):
    data, tokenizer, model = start
    task = generate.Generating(PRESET, data, model, tokenizer, CPU)
    writer, told = task.fit(tmp_path, no_bar)
    rows, texts = generate.with_report(data, "test", PRESET)
    about, most, shifted = (writer, tokenizer, data, rows), 20, np.roll(rows, 1)
    own = writing.write(*about, most, 2, CPU)
    other = writing.write(*about, most, 2, CPU, images_of=shifted)
    right = [
        np.mean([generation.plain(a) == generation.plain(b) for a, b in zip(f, texts, strict=True)])
        for f in (own, other)
    ]
    assert right[0] > 0.8 and right[1] < 0.4 and told.startswith("fine-tuned ")
    losses, words = writing.likelihood(*about, texts, most + 1, CPU)
    worse, _ = writing.likelihood(*about, texts, most + 1, CPU, images_of=shifted)
    assert losses.sum() < worse.sum() and (words > 3).all()
    nearest = generate.nearest_by_image(model, data, data.rows("train"), rows, CPU)
    assert np.isin(nearest, data.rows("train")).all()
