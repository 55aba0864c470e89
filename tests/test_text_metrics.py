"""Scores of generated reports: the released code's numbers, worked cases, and what has no value."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from medxvl import metrics, text_metrics


@pytest.fixture(scope="module")
def recorded(shared):
    return json.loads((shared / "parity" / "xvl_caption_metrics.json").read_text())


@pytest.mark.parametrize("kind", ["single_reference", "two_references"])
def test_the_released_numbers(recorded, kind):
    texts, wanted = recorded["hyps"], recorded[kind]
    references = (
        recorded["refs"]
        if kind == "single_reference"
        else [recorded["multi_refs"][str(k)] for k in range(len(texts))]
    )
    assert text_metrics.bleu(text_metrics.bleu_counts(texts, references)) == pytest.approx(
        wanted["Bleu"]["corpus"], abs=1e-9
    )
    assert text_metrics.cider(texts, references) == pytest.approx(
        wanted["CIDEr"]["per_sample"], abs=1e-9
    )
    assert text_metrics.rouge_l(texts, references) == pytest.approx(
        wanted["ROUGE_L"]["per_sample"], abs=1e-9
    )


def test_bleu_by_hand():
    counts = text_metrics.bleu_counts(
        ["no acute process", "the the the"], ["no acute process seen", "the heart"]
    )
    assert counts.tolist() == [[3, 2, 1, 0, 3, 2, 1, 0, 3, 4], [1, 0, 0, 0, 3, 2, 1, 0, 3, 2]]
    one, two, *_ = text_metrics.bleu(counts)
    assert one == pytest.approx(4 / 6) and two == pytest.approx((4 / 6 * 2 / 4) ** 0.5)
    short = text_metrics.bleu(counts[:1])[0]
    assert short == pytest.approx(np.exp(1 - 4 / 3)), "brevity penalty"
    assert text_metrics.bleu(text_metrics.bleu_counts([""], ["no process"])) == pytest.approx(
        [0] * 4, abs=1e-6
    )


def test_resamples_are_what_scoring_them_again_would_give():
    texts = ["no acute process", "small effusion", "the heart is large", "edema"]
    references = ["no acute process", "small left effusion", "heart is large", "no edema"]
    rows = np.array([[0, 0, 2, 3], [1, 1, 1, 2]])
    weights = metrics.weights_from_indices(rows, 4)
    counts = text_metrics.bleu_counts(texts, references)
    tables = text_metrics.label_tables(texts, references)
    cells = text_metrics.label_counts(*tables, "positive")
    losses, words = np.array([3.0, 1, 4, 1]), np.array([3.0, 2, 4, 1])
    for k, row in enumerate(rows):
        picked = text_metrics.bleu_counts([texts[i] for i in row], [references[i] for i in row])
        assert text_metrics.bleu(counts, weights)[k] == pytest.approx(text_metrics.bleu(picked))
        assert text_metrics.label_scores(cells, weights)["f1"][k] == pytest.approx(
            text_metrics.label_scores(cells[row])["f1"], nan_ok=True
        )
        assert text_metrics.perplexity(losses, words, weights)[k] == pytest.approx(
            np.exp(losses[row].sum() / words[row].sum())
        )
        assert text_metrics.mean(losses, weights)[k] == pytest.approx(losses[row].mean())


def test_label_scores_are_the_released_ones(shared):
    found, wanted = (
        pd.read_csv(shared / "parity" / f"medvill_label_{name}.csv").drop(columns="Reports")
        for name in ("hyp", "ref")
    )
    recorded = json.loads((shared / "parity" / "medvill_label_accuracy.json").read_text())[
        "report_label_eval"
    ]
    names = {
        "positive": "positive",
        "negative": "negative(0)",
        "uncertain": "uncertain(-1)",
        "mentioned": "all",
    }
    for ours, theirs in names.items():
        scores = text_metrics.label_scores(text_metrics.label_counts(found, wanted, ours))
        assert [scores[name] for name in text_metrics.SCORES] == pytest.approx(
            recorded[theirs], abs=1e-12
        )
    with pytest.raises(ValueError, match="mentioned or one of positive"):
        text_metrics.label_counts(found, wanted, "all")


def test_labels_of_reports():
    found, wanted = text_metrics.label_tables(
        ["Left pleural effusion.", "No effusion."], ["Pleural effusion.", "Small effusion."]
    )
    scores = text_metrics.label_scores(text_metrics.label_counts(found, wanted, "positive"))
    assert (scores["precision"], scores["recall"]) == (0.5, 0.5), (
        "the second text is No Finding, wrongly"
    )
    nothing = text_metrics.label_scores(np.array([[0.0, 0, 0, 14]]))
    assert nothing["accuracy"] == 1 and np.isnan(nothing["f1"]) and np.isnan(nothing["precision"])


def test_meteor(monkeypatch):
    if shutil.which("java"):
        same, other, empty = text_metrics.meteor(
            ["no acute process", "the dog", ""], ["no acute process", "small effusion", "edema"]
        )
        assert same > 0.9 and other < 0.2 and empty == 0
    monkeypatch.setattr(text_metrics.shutil, "which", lambda name: None)
    assert np.isnan(text_metrics.meteor(["a", "b"], ["a", "b"])).all()


def test_what_has_no_value():
    assert (
        np.isnan(text_metrics.cider(["a"], ["a"])).all() and len(text_metrics.rouge_l([], [])) == 0
    )
    with pytest.raises(ValueError, match="found 1 texts and 2 references"):
        text_metrics.bleu_counts(["a"], ["a", "b"])


def test_plain():
    assert text_metrics.plain("No  acute Process.  1.5 cm") == "no acute process . 1 . 5 cm"
