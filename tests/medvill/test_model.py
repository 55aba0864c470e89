"""MedViLL's freezing and training behaviour; its formulae are in test_parity.py, its inputs in
test_corpus.py.
"""

from dataclasses import replace

import medvill_tiny
import pytest
import torch
from medvill_tiny import TINY, Fake, draw
from tolerance import assert_close, rounding

from medxvl.layers import unpadded
from medxvl.medvill import corpus as corpora
from medxvl.medvill import image_encoder, masks
from medxvl.medvill import model as medvill

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]
CHAIN = 2 * 16 + 16  # additions behind a state: at most two layers, 16 wide, and the trunk


@pytest.fixture(scope="module")
def tokenizer():
    return medvill_tiny.train_tokenizer()


@pytest.fixture
def corpus(tokenizer):
    return medvill_tiny.corpus(tokenizer)


# --- the model ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", masks.NAMES)
@pytest.mark.parametrize("trunk", ["conv", "patch"])
def test_every_mask_trains(tokenizer, name, trunk):
    preset = replace(TINY, medvill_mask=name, medvill_trunk=trunk)
    torch.manual_seed(0)
    model = medvill.MedViLL(preset, len(tokenizer)).train()
    batch = draw(corpora.Corpus(Fake(), "train", tokenizer, preset))
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
            ids, real = corpora.encode(tokenizer, ["no"], 9, name == "noncross", full)
            mask = masks.attention(name, 18, real, padding=padding)
            joint = corpora.join(
                ids, mask, torch.arange(16)[None], (2, 3), every=True, own_cls=name == "noncross"
            )
            found[padding, full] = model.encode(model.trunk(images), joint)[:, :19]
    assert_close(found["blocked", False], found["blocked", True], terms=CHAIN)
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
                features, corpora.join(x, mask, torch.arange(16)[None], (2, 3), every=True)
            )
            for x in (ids, other)
        ]
        same = ((states[0] - states[1]).abs() < rounding(states[0], CHAIN)).all(dim=2)[0]
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
    every, picked = (corpora.join(ids, mask, grid, (2, 3), every=e) for e in (True, False))
    assert_close(model.encode(features, every), model.encode(features, picked), terms=CHAIN)
    few = torch.tensor([[1, 4], [0, 15]])
    mask = masks.attention("bar", 4, torch.ones(2, 3, dtype=torch.bool))
    joint = corpora.join(ids, mask, few, (2, 3))
    wanted = model.image_proj(torch.stack([features[0, [1, 4]], features[1, [0, 15]]]))
    assert_close(model.embed(features, joint)[:, 1:3], wanted, terms=CHAIN)


@pytest.mark.parametrize("freeze", image_encoder.FREEZING)
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
    batch = draw(corpora.Corpus(Fake(), "train", tokenizer, preset))
    features = model.trunk(batch.images)
    at = torch.randint(batch.joint.ids.shape[1], (8, 5), generator=torch.Generator().manual_seed(0))
    every = model.encode(features, batch.joint)
    wanted = every[torch.arange(8)[:, None], at]
    assert_close(model.encode(features, batch.joint, at), wanted, terms=CHAIN)
    n_image = batch.joint.ids.shape[1] - batch.labels.shape[1]
    terms = model(batch)
    logits = model.itm_head(model.pool(every, n_image))
    wanted = torch.nn.functional.cross_entropy(logits, batch.matched)
    assert_close(terms["itm"], wanted, terms=CHAIN)
    chosen = (batch.labels != -100) & batch.matched.bool()[:, None]
    logits = model.mlm_logits(every[:, n_image:][chosen])
    wanted = torch.nn.functional.cross_entropy(logits, batch.labels[chosen])
    assert_close(terms["mlm"], wanted, terms=CHAIN)


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
    # weights of a loss whose gradient is not zero, as that of the squares behind a LayerNorm is
    pull = torch.randn(3, 13, TINY.medvill_width)
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
        for run in (lambda keep=keep: unpadded.joint(layers, states, mask, keep), padded):
            model.zero_grad()
            x = run()[wanted]
            (x * pull[wanted]).sum().backward()
            found.append((x.detach(), layers[0].attention.self.value.weight.grad.clone()))
        for ours, theirs in zip(*found, strict=True):
            # there and back for each of the 3 texts with 13 places
            assert_close(ours, theirs, terms=2 * CHAIN + 3 * 13)
