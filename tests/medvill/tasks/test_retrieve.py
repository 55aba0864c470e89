"""Retrieval by MedViLL, and its tasks on data of another place."""

import numpy as np
import pytest
import torch
from medvill_tasks_data import CPU, PRESET, Fake, tokenizer, value_of
from tolerance import assert_close, rounding
from train_helpers import Bar

from medxvl.evaluation import retrieval
from medxvl.medvill import corpus, finetune
from medxvl.medvill.tasks import classify, generate, retrieve

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def test_retrieval(pretrained, data, words, tmp_path):
    tuned, told = retrieve.Matching(PRESET, data, pretrained[0], words, CPU).fit(tmp_path, Bar())
    rows = retrieve.pool(data, "test", PRESET)
    assert len(rows) == 20 and (np.diff(rows) > 0).all()
    scores, relevant = (
        retrieve.score(tuned, words, data, rows, CPU),
        retrieval.relevance(data, rows),
    )
    # each pair scored alone says the same
    tokens = finetune.Pictures(data, rows, PRESET, CPU).tokens(tuned.model.trunk, np.arange(20))
    ids, real = corpus.encode(words, corpus.report_texts(data, rows), PRESET.medvill_text)
    for image, report in ((0, 3), (7, 1), (19, 19)):
        part = slice(0, int(real[report].sum()))
        joint = finetune.joint(
            words, PRESET, ids[report : report + 1, part], real[report : report + 1, part], 4
        )
        with torch.no_grad():
            logits = tuned.logits(tokens[image : image + 1], joint)[0]
        # two layers and the trunk, 24 wide; the logits may cancel
        limit = rounding(logits, 3 * 24)
        assert abs(scores[image, report] - (logits[1] - logits[0]).item()) < limit
    patients = data.index.patient_id.iloc[rows].to_numpy()
    made = retrieve.evaluate(
        scores, relevant, patients, dataset="d", model="m", preset=PRESET, checkpoint=told
    )
    made += retrieve.chance(relevant, dataset="d")
    keys = {(r["subset"], r["metric"]) for r in made if r.get("control")}
    assert keys == {(r["subset"], r["metric"]) for r in made if not r.get("control")}, (
        "every row has its chance"
    )
    assert {r["metric"] for r in made} == set(retrieval.NAMES)


def test_both_directions_read_the_table_of_scores_their_way():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])  # every image likes report 0 best
    rows = retrieve.evaluate(
        scores, np.eye(3, dtype=bool), ["a", "b", "c"], dataset="d", model="m", preset=PRESET
    )
    found = {row["subset"]: row["value"] for row in rows if row["metric"] == "hit@1"}
    assert_close(found["image to report"], 1 / 3, terms=3)
    assert found["report to image"] == 0, "ties count against"


def test_mean_tokens_and_examples(pretrained, data, words):
    rows = retrieve.pool(data, "test", PRESET)
    means = retrieve.mean_token_scores(pretrained[0], words, data, rows, CPU)
    assert means.shape == (20, 20) and (np.abs(means) <= 1 + rounding(1.0, 24, torch.float32)).all()
    relevant, shown = retrieval.relevance(data, rows), np.ones(len(data.index), bool)
    texts = corpus.report_texts(data, rows)
    items = retrieval.examples(means, relevant, texts, data, rows, shown, 0)
    assert len(items) == 3 and all(len(item["lines"]) == 4 for item in items)
    assert retrieval.examples(means, relevant, texts, data, rows, ~shown, 0) == [], (
        "nothing that may not be shown"
    )


def test_another_place_has_its_shuffled_images(pretrained, data, words, tmp_path):
    """On data with images every task says what is left when they are another study's."""
    elsewhere, (model, about) = Fake(60, seed=5), (pretrained[0], {"model": "m", "n_resamples": 20})
    given = classify.INPUTS[1]
    tuned = {
        given: classify.Classification(PRESET, data, model, words, CPU, given).fit(
            tmp_path / "classify", Bar()
        )
    }
    rows = classify.transfer(tuned, words, elsewhere, CPU, **about)
    right, other = (
        value_of(rows, f"{given}{suffix}", "auroc_macro_defined") for suffix in ("", ", shuffled")
    )
    assert right > 0.9 > 0.75 > other
    matcher, told = retrieve.Matching(PRESET, data, model, words, CPU).fit(
        tmp_path / "retrieve", Bar()
    )
    rows = retrieve.transfer(
        matcher, (model, "start"), words, elsewhere, CPU, model="m", preset=PRESET, checkpoint=told
    )
    assert {(r["control"], r["checkpoint"]) for r in rows} == {
        ("", told),
        ("shuffled images", told),
        ("mean tokens", "start"),
        ("chance", ""),
    }
    assert value_of(rows, "", "mrr", subset="image to report") > value_of(
        rows, "shuffled images", "mrr", subset="image to report"
    )
    writer, told = generate.Writing(PRESET, data, model, words, CPU).fit(
        tmp_path / "generate", Bar()
    )
    rows = generate.transfer(writer, words, elsewhere, CPU, checkpoint=told, **about)
    assert (
        value_of(rows, "", "label_f1") > 0.9 > 0.75 > value_of(rows, "shuffled images", "label_f1")
    )
