"""MedViLL's inputs: reports, pairs, masked words, joint sequences, crops and views."""

from dataclasses import replace

import medvill_tiny
import numpy as np
import pytest
import torch
from medvill_tiny import REPORTS, TINY, Fake, draw
from tolerance import assert_close, rounding

from medxvl.data.dataset import CHEXPERT_14
from medxvl.evaluation import controls
from medxvl.medvill import corpus as corpora
from medxvl.medvill import finetune, image_encoder


@pytest.fixture(scope="module")
def tokenizer():
    return medvill_tiny.train_tokenizer()


@pytest.fixture
def corpus(tokenizer):
    return medvill_tiny.corpus(tokenizer)


# --- inputs ---------------------------------------------------------------------------------------
def test_reports_lose_the_blanks_of_de_identification(corpus):
    assert corpus.texts[0] == "small left pleural effusion with right lower opacity"
    assert corpus.texts[2] == "mild cardiomegaly and edema seen by on"


def test_label_sets_are_the_positive_findings():
    table = Fake()
    assert controls.label_sets(table, np.arange(6)).tolist() == [2, 1, 0, 2, 1, 0]
    table.index.loc[3, CHEXPERT_14[1]] = 1
    sets = controls.label_sets(table, np.arange(6))
    assert len(set(sets.tolist())) == 4 and sets[1] == sets[4] and sets[0] != sets[3]


@pytest.mark.numeric
def test_a_mismatched_report_says_something_else():
    labels = np.array([5, 1, 5, 5, 0, 1, 5, 5])
    rng = np.random.default_rng(0)
    drawn = np.stack([corpora.draw_other(labels, np.arange(8), rng) for _ in range(3000)])
    assert (labels[drawn] != labels[np.arange(8)]).all()
    for study in range(8):  # every study of other findings, equally often
        found, count = np.unique(drawn[:, study], return_counts=True)
        others = np.flatnonzero(labels != labels[study])
        assert found.tolist() == others.tolist()
        assert np.abs(count - 3000 / len(others)).max() < 5 * np.sqrt(3000 / len(others))
    assert (corpora.draw_other(np.zeros(4), np.arange(4), rng) == -1).all()


def test_where_all_say_the_same_every_pair_is_matched(tokenizer):
    data = Fake()
    data.index[list(CHEXPERT_14)] = np.nan
    whose, matched = corpora.Corpus(data, "train", tokenizer, TINY).pairs(
        np.arange(5), np.random.default_rng(0)
    )
    assert whose.tolist() == [0, 1, 2, 3, 4] and matched.all()


@pytest.mark.numeric
def test_half_of_the_pairs_are_matched(corpus):
    rng = np.random.default_rng(1)
    whose, matched = zip(*(corpus.pairs(np.arange(12), rng) for _ in range(100)), strict=True)
    share = torch.stack(matched).float().mean()
    assert abs(share - 0.5) < 0.06  # four standard errors of 1,200 pairs
    assert ((np.stack(whose) == np.arange(12)) == torch.stack(matched).bool().numpy()).all()


def test_text_parts(tokenizer):
    ids, real = corpora.encode(tokenizer, ["no acute process", "mild"], 4)
    sep, pad = tokenizer.sep_token_id, tokenizer.pad_token_id
    assert ids.shape == (2, real.sum(1).max())
    assert ids[0, real[0]][-1] == sep and ids[1, real[1]][-1] == sep and (ids[~real] == pad).all()
    long = corpora.encode(tokenizer, [" ".join(REPORTS)], 4)[0]
    assert long.shape == (1, 5) and long[0, -1] == sep  # cut to four words and [SEP]
    ids, real = corpora.encode(tokenizer, ["mild"], 6, own_cls=True, full=True)
    assert ids.shape == (1, 8) and ids[0, 0] == tokenizer.cls_token_id


@pytest.mark.parametrize(
    ("positions", "image"),
    [
        ("pretraining", [0, 2, 5, 9, 0]),
        ("generation", [0, 2, 5, 9, 4]),
        ("classification", [0, 1, 2, 3, 4]),
    ],
)
def test_joint_sequence(positions, image):
    words, grid = torch.tensor([[11, 12, 3]]), torch.tensor([[2, 5, 9]])
    joint = corpora.join(
        words, torch.ones(1, 8, 8, dtype=torch.bool), grid, (2, 3), positions=positions
    )
    assert joint.ids[0, [0, 4, 5, 6, 7]].tolist() == [2, 3, 11, 12, 3]
    assert joint.position_ids[0].tolist() == image + [0, 1, 2]
    assert joint.segment_ids[0].tolist() == [0] * 5 + [1] * 3
    with pytest.raises(ValueError, match="positions='rows'"):
        corpora.join(words, joint.mask, grid, (2, 3), positions="rows")


def test_grid_positions_are_sorted_and_drawn_for_each_sample():
    each = corpora.draw_grid(50, 16, 11, False, torch.Generator().manual_seed(0))
    assert (
        each.shape == (50, 11)
        and (each.diff(dim=1) > 0).all()
        and each.min() >= 0
        and each.max() < 16
    )
    assert len(each.unique(dim=0)) > 40
    once = corpora.draw_grid(50, 16, 11, True, torch.Generator().manual_seed(0))  # as released
    assert len(once.unique(dim=0)) == 1


@pytest.mark.numeric
def test_masked_words(tokenizer):
    ids = torch.randint(60, 110, (400, 30), generator=torch.Generator().manual_seed(1))
    word = torch.arange(30) < torch.randint(
        1, 30, (400, 1), generator=torch.Generator().manual_seed(2)
    )
    masked, labels = corpora.draw_masked(
        ids, word, tokenizer, 0.15, torch.Generator().manual_seed(3)
    )
    picked = labels != -100
    assert not (picked & ~word).any() and picked.any(dim=1).all()
    assert labels[picked].equal(ids[picked]) and masked[~picked].equal(ids[~picked])
    became = (masked[picked] == tokenizer.mask_token_id).float().mean()
    kept = (masked[picked] == ids[picked]).float().mean()
    # of about 900 words, standard errors 0.013 and 0.01; and 0.006 of the share of 3,400 words
    assert abs(became - 0.8) < 0.04 and 0.05 < kept < 0.15
    assert abs(picked[word.sum(1) > 20].sum() / word[word.sum(1) > 20].sum() - 0.15) < 0.02
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    assert not special & set(masked[picked].tolist())


@pytest.mark.numeric
def test_crops():
    boxes = image_encoder.crop_boxes(4000, 0.8, 1.1, torch.Generator().manual_seed(0))
    width, height = boxes[:, 0, 0], boxes[:, 1, 1]
    limit = rounding(1.0, 3, torch.float32)
    assert (width <= 1).all() and (height <= 1).all() and (width * height >= 0.8 - limit).all()
    assert (boxes[:, 0, 2].abs() + width <= 1 + limit).all()
    assert (boxes[:, 1, 2].abs() + height <= 1 + limit).all()
    assert not boxes[:, 0, 1].any() and not boxes[:, 1, 0].any()  # neither rotated nor flipped
    whole = image_encoder.crop_boxes(3, 1.05, 1.1, torch.Generator().manual_seed(0))
    assert whole.equal(torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, -1, -1))


@pytest.mark.numeric
def test_views(corpus):
    preset = replace(TINY, medvill_image_size=40, medvill_channels=3)
    pixels = corpus.images(np.arange(2))
    whole = image_encoder.training_view(
        pixels, preset, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, -1, -1)
    )
    plain = image_encoder.plain_view(pixels, preset)
    # grid_sample weighs neighbouring pixels by where it falls between them: a place of up to 40 is
    # rounded to 40 epsilons, and so are the weights
    assert_close(whole, plain, terms=40**2)
    grey = pixels[:, None] / 255
    assert_close(plain[:, 1:2], (grey - 0.456) / 0.224, terms=2)  # ImageNet's green channel


def test_batches(corpus):
    batch = draw(corpus)
    assert batch.images.shape == (8, 1, 32, 32) and batch.joint.grid.shape == (8, 7)
    length = 9 + batch.labels.shape[1]
    assert batch.joint.ids.shape == (8, length) and batch.joint.mask.shape == (8, length, length)
    again = draw(corpus)
    assert batch.images.equal(again.images) and batch.joint.ids.equal(again.joint.ids)
    whole = draw(corpus, training=False)
    assert whole.joint.grid is None and whole.joint.mask.shape[1] == 18 + whole.labels.shape[1]


def test_corpus_without_reports(tokenizer):
    with pytest.raises(
        ValueError, match="fake: expected train studies with a report, found none of 12"
    ):
        corpora.Corpus(Fake(reports=("___",)), "train", tokenizer, TINY)


def test_texts_of_like_length_lie_together_and_all_are_seen():
    texts, rng = ["x" * n for n in range(1, 101)], np.random.default_rng(0)
    orders = [finetune.by_length(texts, 8, rng).reshape(-1, 8) for _ in range(30)]
    assert {k for order in orders for k in order.ravel()} == set(range(100)), (
        "no text is left out for ever"
    )
    assert all(len(set(order.ravel())) == 96 for order in orders)
    assert np.mean([np.ptp(batch) for batch in orders[0]]) < 30 < np.ptp(rng.permutation(100)[:8])
