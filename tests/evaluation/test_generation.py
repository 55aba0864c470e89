"""Scores of generated reports: the released code's numbers, worked cases, and what has no value."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tolerance import assert_close

from data_prep.reports import labels
from medxvl.evaluation import generation, metrics

pytestmark = pytest.mark.numeric


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
    words = max(len(t.split()) for t in texts)
    ours = generation.bleu(generation.bleu_counts(texts, references))
    assert_close(ours, wanted["Bleu"]["corpus"], terms=len(texts) * words)
    ours = generation.cider(texts, references)
    assert_close(ours, wanted["CIDEr"]["per_sample"], terms=4 * words)  # n-grams of four lengths
    assert_close(generation.rouge_l(texts, references), wanted["ROUGE_L"]["per_sample"])


def test_bleu_by_hand():
    counts = generation.bleu_counts(
        ["no acute process", "the the the"], ["no acute process seen", "the heart"]
    )
    assert counts.tolist() == [[3, 2, 1, 0, 3, 2, 1, 0, 3, 4], [1, 0, 0, 0, 3, 2, 1, 0, 3, 2]]
    one, two, *_ = generation.bleu(counts)
    # pycocoevalcap adds 1e-9 to every denominator, which moves these results by less than that
    tiny = 1e-9
    assert one == pytest.approx(4 / 6, abs=tiny, rel=0)
    assert two == pytest.approx((4 / 6 * 2 / 4) ** 0.5, abs=tiny, rel=0)
    short = generation.bleu(counts[:1])[0]
    assert short == pytest.approx(np.exp(1 - 4 / 3), abs=tiny, rel=0), "brevity penalty"
    nothing = generation.bleu(generation.bleu_counts([""], ["no process"]))
    assert nothing.tolist() == [0] * 4


def test_resamples_are_what_scoring_them_again_would_give():
    texts = ["no acute process", "small effusion", "the heart is large", "edema"]
    references = ["no acute process", "small left effusion", "heart is large", "no edema"]
    rows = np.array([[0, 0, 2, 3], [1, 1, 1, 2]])
    weights = metrics.weights_from_indices(rows, 4)
    counts = generation.bleu_counts(texts, references)
    tables = [labels.label_reports(list(of)) for of in (texts, references)]
    cells = generation.label_counts(*tables, "positive")
    losses, words = np.array([3.0, 1, 4, 1]), np.array([3.0, 2, 4, 1])
    for k, row in enumerate(rows):
        picked = generation.bleu_counts([texts[i] for i in row], [references[i] for i in row])
        assert_close(generation.bleu(counts, weights)[k], generation.bleu(picked), terms=4)
        ours = generation.label_scores(cells, weights)["f1"][k]
        assert_close(ours, generation.label_scores(cells[row])["f1"], terms=4)
        perplexity = np.exp(losses[row].sum() / words[row].sum())
        assert_close(generation.perplexity(losses, words, weights)[k], perplexity, terms=4)
        assert_close(generation.mean(losses, weights)[k], losses[row].mean(), terms=4)


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
        scores = generation.label_scores(generation.label_counts(found, wanted, ours))
        assert_close([scores[name] for name in generation.SCORES], recorded[theirs], terms=14)
    with pytest.raises(ValueError, match="mentioned or one of positive"):
        generation.label_counts(found, wanted, "all")


def test_labels_of_reports():
    found = labels.label_reports(["Left pleural effusion.", "No effusion."])
    wanted = labels.label_reports(["Pleural effusion.", "Small effusion."])
    scores = generation.label_scores(generation.label_counts(found, wanted, "positive"))
    assert (scores["precision"], scores["recall"]) == (0.5, 0.5), (
        "the second text is No Finding, wrongly"
    )
    nothing = generation.label_scores(np.array([[0.0, 0, 0, 14]]))
    assert nothing["accuracy"] == 1 and np.isnan(nothing["f1"]) and np.isnan(nothing["precision"])


def test_meteor(monkeypatch):
    if shutil.which("java"):
        same, other, empty = generation.meteor(
            ["no acute process", "the dog", ""], ["no acute process", "small effusion", "edema"]
        )
        assert same > 0.9 and other < 0.2 and empty == 0
    monkeypatch.setattr(generation.shutil, "which", lambda name: None)
    assert np.isnan(generation.meteor(["a", "b"], ["a", "b"])).all()


def test_what_has_no_value():
    assert np.isnan(generation.cider(["a"], ["a"])).all() and len(generation.rouge_l([], [])) == 0
    with pytest.raises(ValueError, match="found 1 texts and 2 references"):
        generation.bleu_counts(["a"], ["a", "b"])


def test_plain():
    assert generation.plain("No  acute Process.  1.5 cm") == "no acute process . 1 . 5 cm"
