"""Scores to rows: intervals, controls, and what is not known."""

import numpy as np
import pytest
import torch
from tolerance import assert_close

from medxvl.config import presets
from medxvl.data import text
from medxvl.evaluation import controls
from medxvl.layers import vision_transformer
from medxvl.xvl import model as xvl
from medxvl.xvl.tasks import zero_shot

FINDINGS = ["A", "B"]
ABOUT = {"task": "zero_shot", "dataset": "test", "model": "m", "n_resamples": 50}


def data(n=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < 0.3).astype(float)
    return labels, labels + rng.normal(0, 1, (n, 2)), np.arange(n).astype(str)


def row(rows, subset, metric):
    (found,) = [r for r in rows if r["subset"] == subset and r["metric"] == metric]
    return found


@pytest.mark.numeric
def test_rows_have_interval_and_count_what_is_labelled():
    labels, scores, patients = data()
    labels[:7, 0] = np.nan
    rows = zero_shot.evaluate(
        labels,
        scores,
        patients,
        FINDINGS,
        valid=data(seed=1)[:2],
        means=[("mean of 2", FINDINGS)],
        **ABOUT,
    )
    assert row(rows, "A", "auroc")["n"] == 193 and row(rows, "B", "auroc")["n"] == 200
    for metric in ("auroc", "f1_max", "f1_valid", "mcc"):
        mean = row(rows, "mean of 2", metric)
        both = [row(rows, finding, metric)["value"] for finding in FINDINGS]
        assert_close(mean["value"], sum(both) / 2, terms=2)
        assert mean["ci_low"] < mean["value"] < mean["ci_high"]


@pytest.mark.numeric
def test_no_threshold_gives_no_value_instead_of_zero():
    labels, scores, patients = data()
    valid_labels, valid_scores, _ = data(seed=1)
    valid_labels[:, 0] = 0
    rows = zero_shot.evaluate(
        labels, scores, patients, FINDINGS, valid=(valid_labels, valid_scores), **ABOUT
    )
    assert np.isnan(row(rows, "A", "f1_valid")["value"]) and np.isnan(
        row(rows, "A", "mcc")["value"]
    )
    assert row(rows, "B", "f1_valid")["value"] > 0 and row(rows, "A", "auroc")["value"] > 0.5


def test_shuffling_leaves_no_picture_at_its_own_place():
    partner = controls.shuffled(50, seed=0)
    assert sorted(partner) == list(range(50)) and not (partner == np.arange(50)).any()
    assert (partner == controls.shuffled(50, seed=0)).all()


@pytest.mark.numeric
def test_the_linear_gauge_learns_and_ignores_what_is_not_labelled():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 100, (120, 40, 40), dtype=np.uint8), np.zeros((120, 2))
    labels[::2, 0] = 1
    images[::2, :20] += 60
    labels[:10] = np.nan
    scores = controls.linear_gauge(images[:100], labels[:100], images[100:])
    assert scores[::2, 0].min() > scores[1::2, 0].max() and not scores[:, 1].any()


# --- scores in batches are those of one pair at a time --------------------------------------------
DESCRIBED = {
    "A": ("the heart is enlarged.", "an opacity is seen in the left lower lobe."),
    "B": ("fluid.",),
}
DENIED = {"A": "no enlargement of the heart.", "B": "no fluid."}
TINY = ("vision_width=32 vision_layers=1 vision_heads=2 text_width=24 text_layers=1 "
        "text_heads=2 text_hidden=32 fusion_hidden=32 "
        "projection=16 queue_size=10 vocabulary=80 initial_range=0.3 ")  # fmt: skip


def tiny(overrides):
    preset = presets.load("smoke", TINY + overrides)
    sentences = [s for positives in DESCRIBED.values() for s in positives]
    tokenizer = text.train_tokenizer([*sentences, *DENIED.values()], preset.vocabulary)
    torch.manual_seed(0)
    return xvl.XVL(preset, len(tokenizer)).eval(), tokenizer


@torch.no_grad()
def one_at_a_time(model, tokenizer, images):
    """Every pair by itself: image and sentence encoded anew, no padding."""
    found = {"ITM": [], "ITA": []}
    for image in images.split(1):
        for head, values in found.items():
            row = []
            for finding, positives in DESCRIBED.items():
                given = []
                for sentence in (*positives, DENIED[finding]):
                    tokens, f_image = model.online.encode_image(
                        vision_transformer.plain_view(image, model.preset)
                    )
                    ids, mask = text.encode(
                        tokenizer, [text.clean_report(sentence)], model.preset.max_tokens
                    )
                    states, f_text = model.online.encode_text(ids, mask)
                    itm = head == "ITM"
                    given.append(
                        model.match_logits(states, mask, tokens)[0, 1]
                        if itm
                        else (f_image * f_text).sum()
                    )
                yes, no = torch.stack(given[:-1]).mean(), given[-1]
                row.append(
                    torch.sigmoid(torch.stack([yes, no])).softmax(0)[0]
                    if head == "ITM"
                    else yes - no
                )
            values.append(torch.stack(row))
    return {head: torch.stack(values).numpy() for head, values in found.items()}


@pytest.mark.numeric
@pytest.mark.parametrize(
    "overrides",
    ["packed=0", "packed=1", "packed=0 itm_heads=2", "fusion_layers=1", "fusion_layers=3"],
)
def test_batches_change_no_score(overrides, monkeypatch):
    model, tokenizer = tiny(overrides)
    images = torch.randint(
        0, 256, (5, 69, 69), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    expected = one_at_a_time(model, tokenizer, images)
    assert expected["ITM"].std(axis=0).min() > 1e-4, (
        "the pictures must matter, or nothing is tested"
    )
    for images_a_call, tokens in ((256, 8192), (2, 40), (256, 1)):
        monkeypatch.setattr(zero_shot, "IMAGES", images_a_call)
        monkeypatch.setattr(zero_shot, "TOKENS", tokens)
        found = zero_shot.score([model], tokenizer, images, DESCRIBED, DENIED)
        for head in ("ITM", "ITA"):
            # six layers at most, as wide as 32
            assert_close(found[head], expected[head], terms=6 * 32, dtype=torch.float32)


def test_each_image_and_sentence_is_encoded_once(monkeypatch):
    model, tokenizer = tiny("packed=1")
    seen = {"images": 0, "sentences": 0, "keys": 0}
    encode_image, encode_text = model.online.encode_image, model.online.encode_text
    key = model.online.fusion.encoder.layer[0].crossattention.self.key

    def images_seen(images):
        seen["images"] += len(images)
        return encode_image(images)

    def sentences_seen(ids, mask):
        seen["sentences"] += len(ids)
        return encode_text(ids, mask)

    monkeypatch.setattr(model.online, "encode_image", images_seen)
    monkeypatch.setattr(model.online, "encode_text", sentences_seen)
    key.register_forward_hook(
        lambda layer, given, out: seen.update(keys=seen["keys"] + len(given[0]))
    )
    monkeypatch.setattr(zero_shot, "IMAGES", 2)
    zero_shot.score(
        [model], tokenizer, torch.zeros(4, 69, 69, dtype=torch.uint8), DESCRIBED, DENIED
    )
    assert seen == {"images": 4, "sentences": 5, "keys": 4 * 17}, "17 tokens an image"


def test_without_fusion_there_is_no_matching_score():
    model, tokenizer = tiny("fusion=0")
    found = zero_shot.score(
        [model], tokenizer, torch.zeros(2, 69, 69, dtype=torch.uint8), DESCRIBED, DENIED
    )
    assert list(found) == ["ITA"] == list(zero_shot.heads(model.preset)) and found["ITA"].shape == (
        2,
        2,
    )
