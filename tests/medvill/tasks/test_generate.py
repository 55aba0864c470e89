"""Reports by MedViLL on data where brightness says it all: learned, and not without the picture."""

from dataclasses import replace

import numpy as np
import pytest
from medvill_tasks_data import CPU, PRESET, Fake, tokenizer
from tolerance import assert_close
from train_helpers import Bar

from medxvl.evaluation import controls, generation
from medxvl.medvill import corpus
from medxvl.medvill.tasks import generate

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.mark.parametrize("objective", ["every", "masked"])
def test_reports_say_what_the_image_shows(objective, pretrained, data, words, tmp_path):
    preset = replace(
        PRESET, generate_objective=objective, mask_share=0.5 if objective == "masked" else 0.15
    )
    tuned, told = generate.Writing(preset, data, pretrained[0], words, CPU).fit(tmp_path, Bar())
    rows = data.rows("test")
    wanted = corpus.report_texts(data, rows)
    other = rows[controls.shuffled(len(rows), 0)]
    given = {name: generate.write(tuned, words, data, rows, CPU, **more) for name, more in (
        ("greedy", {}), ("beams", {"beams": 3}), ("other", {"images_of": other}))}  # fmt: skip
    same = {
        name: np.mean([a.replace(" ,", ",") == b for a, b in zip(texts, wanted, strict=True)])
        for name, texts in given.items()
    }
    losses = generate.likelihood(tuned, words, data, rows, CPU)
    if objective == "every":
        assert same["greedy"] > 0.9 and same["beams"] > 0.9 and same["other"] < 0.7, same
    mismatched = generate.likelihood(tuned, words, data, rows, CPU, other)
    assert losses[0].sum() < mismatched[0].sum() and np.array_equal(losses[1], mismatched[1])
    patients = data.index.patient_id.iloc[rows].to_numpy()
    made = generation.evaluate(
        given["greedy"],
        wanted,
        patients,
        dataset="d",
        model="m",
        losses=losses,
        checkpoint=told,
        n_resamples=30,
    )
    found = {row["metric"]: row["value"] for row in made if row["subset"] == ""}
    assert found["perplexity"] >= 1
    assert_close(found["perplexity"], np.exp(losses[0].sum() / losses[1].sum()), terms=len(rows))


def test_teacher_forcing_leans_on_the_true_words(pretrained, data, words):
    rows = data.rows("test")
    raw = generate.Writer(pretrained[0])
    forced = generate.teacher_forced(raw, words, data, rows, CPU)
    changed = Fake()
    changed.index["findings"] = changed.index["findings"].to_numpy()[::-1]
    assert len(forced) == len(rows) and forced != generate.teacher_forced(
        raw, words, changed, rows, CPU
    )
    assert generate.write(raw, words, data, rows, CPU) == generate.write(
        raw, words, changed, rows, CPU
    ), "free-running does not"


def test_baselines(pretrained, data):
    train, test = data.rows("train"), data.rows("test")
    texts = ["a b", "c", "a  B", "d", "d"]
    assert generation.most_common_report(texts, np.array([0, 1, 0, 1, 1])) == "d", (
        "among equals that of the commonest findings"
    )
    assert generation.nearest_by_text(
        ["left effusion", "no edema"], ["edema", "effusion"]
    ).tolist() == [1, 0]
    nearest = generate.nearest_by_image(generate.Writer(pretrained[0]), data, train, test, CPU)
    same = data.index.findings.iloc[nearest].to_numpy() == data.index.findings.iloc[test].to_numpy()
    assert set(nearest) <= set(train) and same.mean() > 0.9


def test_reports_of_another_place(pretrained, data, words):
    bare = Fake(60)
    bare.has_images = False
    rows = generate.transfer(
        generate.Writer(pretrained[0]), words, bare, CPU, model="m", checkpoint="c", n_resamples=20
    )
    assert {row["control"] for row in rows} == {"most common report", "nearest by MeSH"}
    assert {row["n"] for row in rows} == {15}
    best = {row["control"]: row["value"] for row in rows if row["metric"] == "bleu1"}
    # pycocoevalcap adds 1e-15 and 1e-9 to the counts that it divides
    assert (
        best["nearest by MeSH"] == pytest.approx(1, abs=1e-6) and best["most common report"] < 0.9
    )


def test_batches_of_like_length_leave_nothing_out(pretrained, data, words):
    task = generate.Writing(PRESET, data, pretrained[0], words, CPU)
    order = task.order(0, np.random.default_rng(0))
    assert len(set(order)) == len(order) == task.n // task.size * task.size
