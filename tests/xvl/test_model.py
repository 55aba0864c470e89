"""X-VL as a whole: what its training step must do and must never do, and its versions."""

import pytest
import torch
from tolerance import assert_close, rounding
from xvl_tiny import CHAIN, TINY, batch

from medxvl.config import presets
from medxvl.xvl.model import XVL

pytestmark = pytest.mark.numeric


# --- the whole model ------------------------------------------------------------------------------
@pytest.fixture
def model():
    torch.manual_seed(0)
    return XVL(TINY, 60)


def test_every_term_is_there_and_finite(model):
    terms = model.train()(batch(), 0.4, torch.Generator().manual_seed(0))
    assert {"i2t", "t2i", "i2i", "t2t", "local", "ita", "itm", "mlm", "total"} <= set(terms)
    assert all(torch.isfinite(v) and v > 0 for v in terms.values())
    five = sum(terms[k] for k in ("i2t", "t2i", "i2i", "t2t", "local"))
    assert_close(terms["ita"], five / 5, terms=5)
    assert_close(terms["total"], terms["mlm"] + terms["ita"] + 2 * terms["itm"], terms=3)


def test_gradients_reach_the_online_model_and_never_the_twins(model):
    model.train()(batch(), 0.4, torch.Generator().manual_seed(0))["total"].backward()
    reached = {
        n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert not [
        n
        for n, p in model.named_parameters()
        if n.startswith("twin.") and (p.requires_grad or p.grad is not None)
    ]
    for part in (
        "online.vision.",
        "online.vision_proj",
        "online.text.",
        "online.text_proj",
        "online.fusion.",
        "itm_head",
        "temperature",
    ):
        assert any(n.startswith(part) for n in reached), f"no gradient reaches {part}"
    lost = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not lost, "parameters that no loss term uses"


def test_twin_starts_equal_and_follows_by_its_momentum(model):
    online, twin = dict(model.online.named_parameters()), dict(model.twin.named_parameters())
    assert online.keys() == twin.keys() and all(torch.equal(online[k], twin[k]) for k in online)
    before = {k: v.clone() for k, v in twin.items()}
    with torch.no_grad():
        for p in model.online.parameters():
            p += 0.5
    model.update_twin()
    for k in twin:
        wanted = TINY.momentum * before[k] + (1 - TINY.momentum) * online[k]
        assert_close(twin[k], wanted, terms=2)


def test_training_moves_twins_and_queues_and_evaluation_does_not(model):
    moved = ("twin.vision_proj.weight", "image_queue", "text_queue", "queue_at")
    with torch.no_grad():
        model.online.vision_proj.weight += 0.1
    for training in (False, True):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model.train(training)(batch(), 0.4, torch.Generator().manual_seed(0))
        after = model.state_dict()
        assert [k for k in moved if not torch.equal(before[k], after[k])] == (
            list(moved) if training else []
        )
        assert not model.twin.training


@pytest.mark.parametrize("start, clamped", [(0.9, 0.5), (-1.0, 0.001), (0.07, 0.07)])
def test_temperature_is_clamped(model, start, clamped):
    with torch.no_grad():
        model.temperature.fill_(start)
    terms = model.train()(batch(), 0.4, torch.Generator().manual_seed(0))
    assert_close(model.temperature, torch.tensor(clamped))
    assert torch.isfinite(terms["total"])


def test_a_score_does_not_depend_on_what_it_is_padded_with(model):
    """A prompt scored alone and beside a longer one: same features, same match."""
    model.eval()
    b = batch()
    ids = torch.randint(5, 60, (1, 6), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in (*model.itm_head.parameters(), *model.online.parameters()):
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(7)
            )  # attention that differs
        image = model.online.encode_image(b.plain[:1])[0]
        results = []
        for extra, filler in ((0, 0), (5, 0), (5, 37)):
            padded = torch.cat([ids, torch.full((1, extra), filler)], dim=1)
            mask = torch.cat([torch.ones_like(ids), torch.zeros(1, extra, dtype=torch.long)], dim=1)
            states, feature = model.online.encode_text(padded, mask)
            results.append(torch.cat([feature[0], model.match_logits(states, mask, image)[0]]))
        assert_close(results[1], results[0], terms=CHAIN)
        assert_close(results[2], results[0], terms=CHAIN)
        other, _ = model.online.encode_text(ids + 1, torch.ones_like(ids))
        assert (
            model.match_logits(other, torch.ones_like(ids), image)[0] - results[0][-2:]
        ).abs().max() > 1e-4


def test_without_augmentation_both_views_agree(model):
    """The online and the momentum encoder are one function at the start."""
    model.eval()
    b = batch()
    with torch.no_grad():
        feature = model.online.encode_image(b.plain)[1]
        assert_close(feature, model.twin.encode_image(b.plain)[1], terms=CHAIN)
        assert_close(feature.norm(dim=1), torch.ones(5), terms=TINY.projection)


# --- versions -------------------------------------------------------------------------------------
def changed(overrides, seed=0):
    """TINY with `overrides`, and weights that make attention differ from token to token."""
    preset = presets.load(
        "smoke", " ".join(f"{k}={getattr(TINY, k)}" for k in SHAPE) + " " + overrides
    )
    torch.manual_seed(seed)
    made = XVL(preset, 60)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7))
    made.reset_twin()
    return made


SHAPE = (
    "vision_width",
    "vision_layers",
    "vision_heads",
    "text_width",
    "text_layers",
    "text_heads",
    "text_hidden",
    "fusion_layers",
    "fusion_hidden",
    "projection",
    "queue_size",
    "vocabulary",
    "max_tokens",
)


# There and back, for each of the 5 studies with 9 tokens or 17 patches.
GRADIENT = 2 * CHAIN + 5 * 17


@pytest.mark.parametrize(
    "overrides", ["", "itm_heads=2", "fusion_layers=2 text_layers=3", "negatives=momentum"]
)
def test_packed_and_padded_are_one_function(overrides):
    """Losses and gradients: without padding, image keys once, the last layer only where it is
    read.
    """
    results = []
    for k in (0, 1):
        m = changed(f"{overrides} packed={k}")
        terms = m.train()(batch(), 0.4, torch.Generator().manual_seed(0))
        terms["total"].backward()
        results.append((terms, {n: p.grad for n, p in m.named_parameters() if p.grad is not None}))
    (padded, padded_grads), (packed, packed_grads) = results
    for name, value in padded.items():
        assert_close(packed[name], value, terms=CHAIN)
    assert padded_grads.keys() == packed_grads.keys()
    for name, grad in padded_grads.items():
        if not name.endswith("self.key.bias"):  # zero but for rounding
            wide = rounding(grad, GRADIENT)
            assert (packed_grads[name] - grad).abs().max() <= wide, name


def test_early_version_averages_two_heads():
    m, b = changed("itm_heads=2 packed=1").eval(), batch()
    with torch.no_grad():
        tokens, (states, _) = m.online.encode_image(b.plain)[0], m.online.encode_text(b.ids, b.mask)
        both = m.match_logits(states, b.mask, tokens)
        ones = torch.ones(tokens.shape[:2], dtype=torch.long)
        text_side = m.itm_head(m.online.fusion(states, b.mask, tokens)[:, 0])
        image_side = m.image_itm_head(m.image_fusion(tokens, ones, states, b.mask)[:, 0])
        assert_close(both, (text_side + image_side) / 2, terms=CHAIN)
        assert (text_side - image_side).abs().max() > 1e-3
        filler = states.clone()
        filler[1, 6:] = 9.0  # padding of report 1: nobody looks at it
        assert_close(m.match_logits(filler, b.mask, tokens), both, terms=CHAIN)
    loss = m.train()(b, 0.4, torch.Generator().manual_seed(0))["total"]
    loss.backward()
    assert m.image_itm_head.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in m.image_fusion.parameters())


def test_early_version_has_the_published_shapes():
    preset = presets.load("paper", presets.EARLY_XVL)
    assert (preset.vision_width, preset.vision_heads, preset.itm_heads, preset.queue_size) == (
        384,
        6,
        2,
        49152,
    )
    with torch.device("meta"):
        m = XVL(preset, preset.vocabulary)
    assert m.image_queue.shape == (49152, 256) and m.itm_head.weight.shape == (2, 768)
    assert m.image_itm_head.weight.shape == (2, 384) and m.online.vision.cls_token.shape == (
        1,
        1,
        384,
    )
    final = presets.load("paper")
    assert (final.vision_width, final.queue_size, final.fusion_layers, final.itm_heads) == (
        768,
        40960,
        4,
        1,
    )


@pytest.mark.parametrize("size, length", [(5, 7), (3, 2)])
def test_a_queue_of_any_length_with_any_batch(size, length):
    m = changed(f"queue_size={length} packed=1").train()
    for _ in range(3):
        terms = m(batch(size), 0.4, torch.Generator().manual_seed(0))
    assert torch.isfinite(terms["total"]) and int(m.queue_at) == 3 * size % length


def test_twins_wait_while_gradients_are_accumulated(model):
    with torch.no_grad():
        model.online.vision_proj.weight += 0.1
    before = model.twin.vision_proj.weight.clone()
    model.follows = False
    model.train()(batch(), 0.4, torch.Generator().manual_seed(0))
    assert torch.equal(before, model.twin.vision_proj.weight)


def test_a_batch_without_masked_words_or_with_one_study_left():
    for k in (0, 1):
        m, b = changed(f"packed={k}"), batch()
        b.labels = torch.full_like(b.labels, -100)
        terms = m.train()(b, 0.4, torch.Generator().manual_seed(0))
        terms["total"].backward()
        assert terms["mlm"] == 0 and torch.isfinite(terms["total"])


def test_unknown_released_names_stay_for_the_loader_to_report():
    from medxvl.xvl.release import from_released

    state = {
        "temp": torch.tensor(0.07),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
        "something.else": torch.ones(2),
        "image_queue": torch.arange(6.0).view(2, 3),
        "text_encoder.cls.predictions.bias": torch.ones(3),
    }
    ours = from_released(state)
    assert set(ours) == {"temperature", "queue_at", "something.else", "image_queue"}
    assert ours["queue_at"].shape == () and ours["image_queue"].tolist() == [[0, 3], [1, 4], [2, 5]]
