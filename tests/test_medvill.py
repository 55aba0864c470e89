"""MedViLL's inputs, freezing and training behaviour; its formulae are in test_medvill_parity.py."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from medxvl import (
    masks,
    medvill,
    medvill_batch,
    medvill_finetune,
    medvill_image,
    packed,
    presets,
    text,
)
from medxvl.data import CHEXPERT_14

REPORTS = (
    "small left pleural effusion ___ with right lower opacity",
    "no acute process",
    "mild cardiomegaly and edema seen by ___ on ___",
    "right pneumothorax",
)
TINY = presets.load(
    "smoke",
    "medvill_width=16 medvill_layers=1 medvill_heads=2 medvill_hidden=16 medvill_features=16 "
    "medvill_image_size=32 "
    "medvill_patch=8 medvill_positions=7 medvill_text=9 medvill_max_positions=32 "
    "medvill_freeze=none",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Work this small is slower on several, and much slower beside other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Fake:
    """What `Corpus` uses of a prepared dataset."""

    label, card = "fake", {"size": 40}

    def __init__(self, n=12, reports=REPORTS):
        rng = np.random.default_rng(3)
        self.pixels = rng.integers(0, 256, (n, 40, 40), dtype=np.uint8)
        self.index = pd.DataFrame(
            {"findings": [reports[k % len(reports)] for k in range(n)], "impression": ""}
        )
        values = np.full((n, 14), np.nan)
        values[np.arange(n), np.arange(n) % 3] = 1
        values[:, 7] = -1  # uncertain: no positive finding
        self.index[list(CHEXPERT_14)] = values

    def rows(self, split):
        return np.arange(len(self.index))

    def images(self, rows):
        return self.pixels[rows]


@pytest.fixture(scope="module")
def tokenizer():
    return text.train_tokenizer(list(REPORTS), 120)


@pytest.fixture
def corpus(tokenizer):
    return medvill_batch.Corpus(Fake(), "train", tokenizer, TINY)


def draw(corpus, n=8, training=True):
    return corpus.batch(
        np.arange(n), np.random.default_rng(0), torch.Generator().manual_seed(0), training
    )


# --- inputs ---------------------------------------------------------------------------------------
def test_reports_lose_the_blanks_of_de_identification(corpus):
    assert corpus.texts[0] == "small left pleural effusion with right lower opacity"
    assert corpus.texts[2] == "mild cardiomegaly and edema seen by on"


def test_label_sets_are_the_positive_findings():
    table = Fake()
    assert medvill_batch.label_sets(table, np.arange(6)).tolist() == [2, 1, 0, 2, 1, 0]
    table.index.loc[3, CHEXPERT_14[1]] = 1
    sets = medvill_batch.label_sets(table, np.arange(6))
    assert len(set(sets.tolist())) == 4 and sets[1] == sets[4] and sets[0] != sets[3]


def test_a_mismatched_report_says_something_else():
    labels = np.array([5, 1, 5, 5, 0, 1, 5, 5])
    rng = np.random.default_rng(0)
    drawn = np.stack([medvill_batch.draw_other(labels, np.arange(8), rng) for _ in range(3000)])
    assert (labels[drawn] != labels[np.arange(8)]).all()
    for study in range(8):  # every study of other findings, equally often
        found, count = np.unique(drawn[:, study], return_counts=True)
        others = np.flatnonzero(labels != labels[study])
        assert found.tolist() == others.tolist()
        assert np.abs(count - 3000 / len(others)).max() < 5 * np.sqrt(3000 / len(others))
    assert (medvill_batch.draw_other(np.zeros(4), np.arange(4), rng) == -1).all()


def test_where_all_say_the_same_every_pair_is_matched(tokenizer):
    data = Fake()
    data.index[list(CHEXPERT_14)] = np.nan
    whose, matched = medvill_batch.Corpus(data, "train", tokenizer, TINY).pairs(
        np.arange(5), np.random.default_rng(0)
    )
    assert whose.tolist() == [0, 1, 2, 3, 4] and matched.all()


def test_half_of_the_pairs_are_matched(corpus):
    rng = np.random.default_rng(1)
    whose, matched = zip(*(corpus.pairs(np.arange(12), rng) for _ in range(100)), strict=True)
    share = torch.stack(matched).float().mean()
    assert abs(share - 0.5) < 0.06
    assert ((np.stack(whose) == np.arange(12)) == torch.stack(matched).bool().numpy()).all()


def test_text_parts(tokenizer):
    ids, real = medvill_batch.encode(tokenizer, ["no acute process", "mild"], 4)
    sep, pad = tokenizer.sep_token_id, tokenizer.pad_token_id
    assert ids.shape == (2, real.sum(1).max())
    assert ids[0, real[0]][-1] == sep and ids[1, real[1]][-1] == sep and (ids[~real] == pad).all()
    long = medvill_batch.encode(tokenizer, [" ".join(REPORTS)], 4)[0]
    assert long.shape == (1, 5) and long[0, -1] == sep  # cut to four words and [SEP]
    ids, real = medvill_batch.encode(tokenizer, ["mild"], 6, own_cls=True, full=True)
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
    joint = medvill_batch.join(
        words, torch.ones(1, 8, 8, dtype=torch.bool), grid, (2, 3), positions=positions
    )
    assert joint.ids[0, [0, 4, 5, 6, 7]].tolist() == [2, 3, 11, 12, 3]
    assert joint.position_ids[0].tolist() == image + [0, 1, 2]
    assert joint.segment_ids[0].tolist() == [0] * 5 + [1] * 3
    with pytest.raises(ValueError, match="positions='rows'"):
        medvill_batch.join(words, joint.mask, grid, (2, 3), positions="rows")


def test_grid_positions_are_sorted_and_drawn_for_each_sample():
    each = medvill_batch.draw_grid(50, 16, 11, False, torch.Generator().manual_seed(0))
    assert (
        each.shape == (50, 11)
        and (each.diff(dim=1) > 0).all()
        and each.min() >= 0
        and each.max() < 16
    )
    assert len(each.unique(dim=0)) > 40
    once = medvill_batch.draw_grid(
        50, 16, 11, True, torch.Generator().manual_seed(0)
    )  # as released
    assert len(once.unique(dim=0)) == 1


def test_masked_words(tokenizer):
    ids = torch.randint(60, 110, (400, 30), generator=torch.Generator().manual_seed(1))
    word = torch.arange(30) < torch.randint(
        1, 30, (400, 1), generator=torch.Generator().manual_seed(2)
    )
    masked, labels = medvill_batch.draw_masked(
        ids, word, tokenizer, 0.15, torch.Generator().manual_seed(3)
    )
    picked = labels != -100
    assert not (picked & ~word).any() and picked.any(dim=1).all()
    assert labels[picked].equal(ids[picked]) and masked[~picked].equal(ids[~picked])
    became = (masked[picked] == tokenizer.mask_token_id).float().mean()
    kept = (masked[picked] == ids[picked]).float().mean()
    assert abs(became - 0.8) < 0.04 and 0.05 < kept < 0.15
    assert abs(picked[word.sum(1) > 20].sum() / word[word.sum(1) > 20].sum() - 0.15) < 0.02
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    assert not special & set(masked[picked].tolist())


def test_crops():
    boxes = medvill_image.crop_boxes(4000, 0.8, 1.1, torch.Generator().manual_seed(0))
    width, height = boxes[:, 0, 0], boxes[:, 1, 1]
    assert (width <= 1).all() and (height <= 1).all() and (width * height >= 0.8 - 1e-5).all()
    assert (boxes[:, 0, 2].abs() + width <= 1 + 1e-6).all() and (
        boxes[:, 1, 2].abs() + height <= 1 + 1e-6
    ).all()
    assert not boxes[:, 0, 1].any() and not boxes[:, 1, 0].any()  # neither rotated nor flipped
    whole = medvill_image.crop_boxes(3, 1.05, 1.1, torch.Generator().manual_seed(0))
    assert whole.equal(torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, -1, -1))


def test_views(corpus):
    preset = replace(TINY, medvill_image_size=40, medvill_channels=3)
    pixels = corpus.images(np.arange(2))
    whole = medvill_image.training_view(
        pixels, preset, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, -1, -1)
    )
    plain = medvill_image.plain_view(pixels, preset)
    torch.testing.assert_close(whole, plain, atol=1e-5, rtol=0)
    grey = pixels[:, None] / 255
    torch.testing.assert_close(plain[:, 1:2], (grey - 0.456) / 0.224)  # ImageNet's green channel


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
        medvill_batch.Corpus(Fake(reports=("___",)), "train", tokenizer, TINY)


# --- the model ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", masks.NAMES)
@pytest.mark.parametrize("trunk", ["conv", "patch"])
def test_every_mask_trains(tokenizer, name, trunk):
    preset = replace(TINY, medvill_mask=name, medvill_trunk=trunk)
    torch.manual_seed(0)
    model = medvill.MedViLL(preset, len(tokenizer)).train()
    batch = draw(medvill_batch.Corpus(Fake(), "train", tokenizer, preset))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        terms = model(batch)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        losses.append(terms["total"].item())
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    assert unused == (
        {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} if name == "noncross" else set()
    )
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", ["bidirectional", "seq2seq", "bar", "noncross"])
def test_padding_changes_nothing(tokenizer, name):
    """A sample's results do not depend on how long the others of its batch are; in the release's
    BAR they do.
    """
    preset = replace(TINY, medvill_mask=name, medvill_mlm_mismatched=1)
    model = medvill.MedViLL(preset, len(tokenizer)).eval()
    images = torch.rand(1, 1, 32, 32)
    found = {}
    for padding in ("blocked", "pretraining"):
        for full in (False, True):
            ids, real = medvill_batch.encode(tokenizer, ["no"], 9, name == "noncross", full)
            mask = masks.attention(name, 18, real, padding=padding)
            joint = medvill_batch.join(
                ids, mask, torch.arange(16)[None], (2, 3), every=True, own_cls=name == "noncross"
            )
            found[padding, full] = model.encode(model.trunk(images), joint)[:, :19]
    torch.testing.assert_close(found["blocked", False], found["blocked", True], atol=1e-6, rtol=0)
    moved = (found["pretraining", True] - found["pretraining", False]).abs().max() > 1e-3
    assert moved == (name in ("bar", "noncross"))


def test_text_that_is_yet_to_come_is_unseen(tokenizer):
    """BAR and Seq2Seq: a word's state depends on no later word."""
    ids = torch.randint(5, len(tokenizer), (1, 8), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, 5:] = 6
    for name in ("bar", "seq2seq", "bidirectional"):
        model = medvill.MedViLL(replace(TINY, medvill_mask=name), len(tokenizer)).eval()
        features = model.trunk(torch.rand(1, 1, 32, 32))
        mask = masks.attention(name, 18, torch.ones(1, 8, dtype=torch.bool))
        states = [
            model.encode(
                features, medvill_batch.join(x, mask, torch.arange(16)[None], (2, 3), every=True)
            )
            for x in (ids, other)
        ]
        same = torch.isclose(*states, atol=1e-6, rtol=0).all(dim=2)[0]
        assert not same[23]
        assert same[:18].all() == (name == "seq2seq")  # the image part looks at no text there
        if (
            name != "bar"
        ):  # the one layer of this model; with more, BAR's words see later ones by way of the image
            assert same[18:23].all() == (name == "seq2seq")


def test_a_batch_of_mismatched_pairs_has_no_word_loss(tokenizer, corpus):
    model = medvill.MedViLL(TINY, len(tokenizer))
    batch = draw(corpus)
    batch.matched = torch.zeros_like(batch.matched)
    terms = model(batch)
    assert terms["mlm"] == 0 and torch.isfinite(terms["total"])
    terms["total"].backward()
    assert model.mlm_bias.grad is not None
    assert (
        medvill.MedViLL(replace(TINY, medvill_mlm_mismatched=1), len(tokenizer))(batch)["mlm"] > 1
    )


def test_grid_picks_features_and_positions(tokenizer):
    """Keeping all positions in order equals not picking; a kept token brings its own feature and
    its own position.
    """
    model = medvill.MedViLL(TINY, len(tokenizer)).eval()
    features, ids = torch.randn(2, 16, 16), torch.full((2, 3), 7)
    grid = torch.arange(16).expand(2, -1)
    mask = masks.attention("bar", 18, torch.ones(2, 3, dtype=torch.bool))
    every, picked = (medvill_batch.join(ids, mask, grid, (2, 3), every=e) for e in (True, False))
    assert model.encode(features, every).equal(model.encode(features, picked))
    few = torch.tensor([[1, 4], [0, 15]])
    mask = masks.attention("bar", 4, torch.ones(2, 3, dtype=torch.bool))
    joint = medvill_batch.join(ids, mask, few, (2, 3))
    wanted = model.image_proj(torch.stack([features[0, [1, 4]], features[1, [0, 15]]]))
    torch.testing.assert_close(model.embed(features, joint)[:, 1:3], wanted)


@pytest.mark.parametrize("freeze", medvill_image.FREEZING)
def test_freezing(freeze):
    """meant: the first five children stay; released: the whole trunk stays but for its batch-norm
    statistics; aligned: all of it, once it is held."""
    preset = replace(
        TINY,
        medvill_trunk="resnet50",
        medvill_freeze=freeze,
        medvill_image_size=32,
        medvill_channels=3,
    )
    trunk = medvill.Trunk(preset).train()
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    tokens = trunk(torch.randn(4, 3, 32, 32))
    assert tokens.shape == (4, 1, 2048) and tokens.requires_grad == (freeze in ("none", "meant"))
    if tokens.requires_grad:
        tokens.square().mean().backward()
    trained = {
        n.split(".")[1] for n, p in trunk.named_parameters() if p.grad is not None and p.grad.any()
    }
    moved = {k.split(".")[1] for k, v in trunk.state_dict().items() if not v.equal(before[k])}
    first, rest = {"conv1", "bn1", "layer1"}, {"layer2", "layer3", "layer4"}
    assert (
        trained
        == {"none": first | rest, "meant": rest, "released": set(), "aligned": set()}[freeze]
    )
    every = {"bn1", "layer1"} | rest
    assert moved == {"none": every, "meant": rest, "released": every, "aligned": set()}[freeze]
    trunk.hold(False)  # as while the alignment trains it
    assert trunk(torch.randn(4, 3, 32, 32)).requires_grad == (freeze != "released")


@pytest.mark.parametrize("name", ["bar", "noncross"])
def test_the_last_layer_computes_wanted_places_alone(tokenizer, name):
    preset = replace(TINY, medvill_mask=name, medvill_layers=2)
    model = medvill.MedViLL(preset, len(tokenizer)).eval()
    batch = draw(medvill_batch.Corpus(Fake(), "train", tokenizer, preset))
    features = model.trunk(batch.images)
    at = torch.randint(batch.joint.ids.shape[1], (8, 5), generator=torch.Generator().manual_seed(0))
    every = model.encode(features, batch.joint)
    torch.testing.assert_close(
        model.encode(features, batch.joint, at),
        every[torch.arange(8)[:, None], at],
        atol=1e-6,
        rtol=0,
    )
    n_image = batch.joint.ids.shape[1] - batch.labels.shape[1]
    terms = model(batch)
    torch.testing.assert_close(
        terms["itm"],
        torch.nn.functional.cross_entropy(
            model.itm_head(model.pool(every, n_image)), batch.matched
        ),
    )
    chosen = (batch.labels != -100) & batch.matched.bool()[:, None]
    logits = model.mlm_logits(every[:, n_image:][chosen])
    torch.testing.assert_close(
        terms["mlm"], torch.nn.functional.cross_entropy(logits, batch.labels[chosen])
    )


def test_only_masked_words_reach_the_vocabulary(tokenizer, corpus, monkeypatch):
    model = medvill.MedViLL(TINY, len(tokenizer))
    batch, seen = draw(corpus), []
    head = model.mlm_logits
    monkeypatch.setattr(
        model, "mlm_logits", lambda states: seen.append(states.shape) or head(states)
    )
    model(batch)
    matched = batch.matched.bool()
    assert seen == [((batch.labels[matched] != -100).sum(), 16)]


def test_batches_move_to_a_device(corpus):
    batch = draw(corpus).to("meta")
    assert (
        batch.images.is_meta
        and batch.joint.mask.is_meta
        and batch.joint.grid.is_meta
        and batch.matched.is_meta
    )
    assert draw(corpus, training=False).to("meta").joint.grid is None


@pytest.mark.parametrize("name", masks.NAMES)
def test_packed_sequences_are_those_of_bert(tokenizer, name):
    """States and gradients of the places that count, beside transformers' own layers on the padded
    batch; with padding of every length, and with the last layer for some places alone."""
    torch.manual_seed(0)
    model = medvill.MedViLL(
        replace(TINY, medvill_mask=name, medvill_layers=2), len(tokenizer)
    ).train()
    real = torch.arange(7) < torch.tensor([[7], [4], [1]])
    mask = masks.attention(name, 6, real, torch.tensor([True, False, True]))
    states = torch.randn(3, 13, TINY.medvill_width)
    counts = torch.cat([torch.ones(3, 6, dtype=torch.bool), real], dim=1)
    layers = model.bert.encoder.layer

    def padded():
        x = states
        for layer in layers:
            x = layer(x, mask[:, None])
        return x

    some = counts & (torch.rand(3, 13) < 0.4)
    for keep, wanted in ((None, counts), (some, some)):
        found = []
        for run in (lambda keep=keep: packed.joint(layers, states, mask, keep), padded):
            model.zero_grad()
            x = run()[wanted]
            x.square().sum().backward()
            found.append((x.detach(), layers[0].attention.self.value.weight.grad.clone()))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_texts_of_like_length_lie_together_and_all_are_seen():
    texts, rng = ["x" * n for n in range(1, 101)], np.random.default_rng(0)
    orders = [medvill_finetune.by_length(texts, 8, rng).reshape(-1, 8) for _ in range(30)]
    assert {k for order in orders for k in order.ravel()} == set(range(100)), (
        "no text is left out for ever"
    )
    assert all(len(set(order.ravel())) == 96 for order in orders)
    assert np.mean([np.ptp(batch) for batch in orders[0]]) < 30 < np.ptp(rng.permutation(100)[:8])
