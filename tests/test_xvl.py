"""The pre-training objective against numbers that the released code produced, and what the model
must never do.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medxvl import presets
from medxvl.objective import (
    contrastive_losses,
    distilled_cross_entropy,
    hard_negatives,
    pairing_loss,
    sentence_loss,
)
from medxvl.xvl import XVL, Batch

PARITY = load_file(Path(__file__).parent / "parity" / "xvl_losses.safetensors")
TINY = presets.load(
    "smoke",
    "vision_width=32 vision_layers=1 vision_heads=2 text_width=24 text_layers=1 text_heads=2 "
    "text_hidden=32 "
    "fusion_layers=1 fusion_hidden=32 projection=16 queue_size=10 vocabulary=60 max_tokens=12",
)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def flat(padded, mask):
    """The release's sentences (N, most, D) with their mask -> ours: (S, D) and the report of each
    (S,).
    """
    return padded[mask.bool()], torch.where(mask.bool())[0]


# --- parity with the release ----------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("case", ["g2l_a", "g2l_b", "g2l_n2"])
def test_sentence_loss_and_its_gradient(case, temperature):
    sentences, report = flat(PARITY[f"{case}/l"], PARITY[f"{case}/mask"])
    image = PARITY[f"{case}/m"].clone().requires_grad_()
    loss = sentence_loss(sentences, report, image, temperature)
    loss.backward()
    close(loss.detach(), PARITY[f"{case}/t{temperature}/loss"])
    close(image.grad, PARITY[f"{case}/t{temperature}/grad_m"])


@pytest.mark.parametrize(
    "case, alpha, temperature",
    [("ita_a", 0.4, 0.07), ("ita_alpha0", 0.0, 0.07), ("ita_hot", 0.4, 0.5)],
)
def test_image_text_alignment(case, alpha, temperature):
    t = {k.split("/", 1)[1]: v for k, v in PARITY.items() if k.startswith(case + "/")}
    terms = contrastive_losses(
        t["image_feat"],
        t["text_feat"],
        t["image_feat_m"],
        t["text_feat_m"],
        t["image_queue"].t(),
        t["text_queue"].t(),
        *flat(t["text_feat_m_l"], t["text_mask"]),
        temperature,
        alpha,
    )
    for ours, theirs in (
        ("i2t", "i2t"),
        ("t2i", "t2i"),
        ("i2i", "i2i"),
        ("t2t", "t2t"),
        ("local", "t2i_inMod_l"),
        ("ita", "ita"),
    ):
        close(terms[ours], t[f"loss_{theirs}"])


@pytest.mark.parametrize("case, at, after", [("queue_mid", 4, 8), ("queue_last", 12, 0)])
def test_queue_as_in_the_release(case, at, after):
    t = {k.split("/", 1)[1]: v for k, v in PARITY.items() if k.startswith(case + "/")}
    model = bare(t["image_queue_before"].t(), t["text_queue_before"].t(), at)
    XVL.enqueue(model, t["image_feat"], t["text_feat"])
    assert torch.equal(model.image_queue, t["image_queue_after"].t()) and torch.equal(
        model.text_queue, t["text_queue_after"].t()
    )
    assert int(model.queue_at) == after


class bare:
    """The queues alone."""

    def __init__(self, image, text, at):
        self.image_queue, self.text_queue, self.queue_at = (
            image.clone(),
            text.clone(),
            torch.tensor(at),
        )


@pytest.mark.parametrize("length, size", [(10, 4), (7, 3), (9, 9), (16, 5)])
def test_queue_wraps_around_with_any_size(length, size):
    """After k batches the queue holds the newest `length` features, each at its number modulo the
    length.
    """
    model = bare(torch.full((length, 1), -1.0), torch.full((length, 1), -1.0), 0)
    for k in range(8):
        fresh = torch.arange(k * size, (k + 1) * size).float()[:, None]
        XVL.enqueue(model, fresh, fresh + 1000)
    newest = torch.arange(8 * size - length, 8 * size)
    assert torch.equal(model.image_queue[newest % length, 0], newest.float())
    assert (
        torch.equal(model.text_queue, model.image_queue + 1000)
        and int(model.queue_at) == 8 * size % length
    )


# --- small formulas -------------------------------------------------------------------------------
def test_sentence_loss_ignores_order_and_takes_a_report_without_sentences():
    g = torch.Generator().manual_seed(0)
    sentences, image, report = (
        torch.randn(6, 8, generator=g),
        torch.randn(4, 8, generator=g),
        torch.tensor([0, 0, 1, 3, 3, 3]),
    )
    loss = sentence_loss(sentences, report, image, 0.5)
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    close(sentence_loss(sentences[order], report[order], image, 0.5), loss)
    without = sentence_loss(sentences, torch.tensor([0, 0, 1, 2, 2, 2]), image[[0, 1, 3]], 0.5)
    close(loss, without)  # report 2 has no sentence: it counts nowhere


def test_pairing_loss():
    torch.manual_seed(0)
    similarity = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    own = torch.arange(4)
    one = torch.nn.functional.one_hot(own, 6).bool()
    close(pairing_loss(similarity, one), torch.nn.functional.cross_entropy(similarity, own))
    belongs = one.clone()
    belongs[0, 4] = belongs[3] = (
        True  # two that belong do not compete; a row to which all belong has nothing to learn
    )
    exp = similarity.detach().exp()
    others = exp[0, [1, 2, 3, 5]].sum()
    worked = [
        -(exp[0, [0, 4]] / (exp[0, [0, 4]] + others)).log().mean(),
        *(-(exp[k, k] / exp[k].sum()).log() for k in (1, 2)),
        0.0,
    ]
    loss = pairing_loss(similarity, belongs)
    loss.backward()
    close(loss, torch.tensor(worked, dtype=torch.float64).mean())
    assert similarity.grad.isfinite().all() and not similarity.grad[3].any()


def test_distilled_cross_entropy():
    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]), torch.tensor([0, 2])
    soft = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    hard = -(log_p[0, 0] + log_p[1, 2]) / 2
    close(distilled_cross_entropy(logits, target, soft, 0.0), hard)
    close(
        distilled_cross_entropy(logits, target, soft, 0.4),
        0.6 * hard + 0.4 * -(soft * log_p).sum(1).mean(),
    )
    none = distilled_cross_entropy(torch.zeros(0, 3, requires_grad=True), target[:0], soft[:0], 0.4)
    assert none == 0 and none.requires_grad


# --- hard negatives -------------------------------------------------------------------------------
def draws(similarity, same, times=400):
    g = torch.Generator().manual_seed(0)
    return torch.stack([hard_negatives(similarity, same, 0.95, g) for _ in range(times)])


def test_negatives_are_drawn_by_similarity():
    similarity = torch.tensor([[9.0, 1.0, 0.0, -1.0]] * 4)
    drawn = draws(similarity, torch.zeros(4, 4), 3000)
    for row in range(4):
        others = [k for k in range(4) if k != row]
        wanted = similarity[row, others].softmax(0)
        share = torch.stack([(drawn[:, row] == k).float().mean() for k in others])
        close(share, wanted, 0.03)


def test_a_negative_is_never_the_pair_itself_nor_a_report_that_says_the_same():
    similarity = (
        torch.eye(5) * 300 + torch.randn(5, 5, generator=torch.Generator().manual_seed(1)) * 100
    )
    same = torch.eye(5)
    same[0, 1] = same[1, 0] = same[2, 4] = same[4, 2] = 0.95
    drawn = draws(similarity, same)
    for row, barred in enumerate([{0, 1}, {0, 1}, {2, 4}, {3}, {2, 4}]):
        assert not barred & set(drawn[:, row].tolist())


def test_the_least_similar_when_every_candidate_is_barred():
    same = torch.tensor([[1.0, 0.99, 0.96], [0.99, 1.0, 0.97], [0.96, 0.97, 1.0]])
    similarity = torch.tensor([[0.0, 50.0, 0.0], [50.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
    assert (draws(similarity, same, 50) == torch.tensor([2, 2, 0])).all()


# --- the whole model ------------------------------------------------------------------------------
@pytest.fixture
def model():
    torch.manual_seed(0)
    return XVL(TINY, 60)


def batch(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids, sentences = (
        torch.randint(5, 60, (n, 9), generator=g),
        torch.randint(5, 60, (2 * n, 5), generator=g),
    )
    mask = torch.ones_like(ids)
    mask[1, 6:], ids[1, 6:] = 0, 0
    labels = torch.where(torch.rand(n, 9, generator=g) < 0.3, ids, -100).masked_fill(
        mask == 0, -100
    )
    labels[0, 2] = ids[0, 2]
    images = [torch.rand(n, 1, TINY.image_size, TINY.image_size, generator=g) for _ in range(2)]
    return Batch(
        *images,
        ids,
        mask,
        torch.where(labels != -100, 4, ids),
        labels,
        sentences,
        torch.ones_like(sentences),
        torch.arange(2 * n) % n,
    )


def test_every_term_is_there_and_finite(model):
    terms = model.train()(batch(), 0.4, torch.Generator().manual_seed(0))
    assert {"i2t", "t2i", "i2i", "t2t", "local", "ita", "itm", "mlm", "total"} <= set(terms)
    assert all(torch.isfinite(v) and v > 0 for v in terms.values())
    close(terms["ita"], sum(terms[k] for k in ("i2t", "t2i", "i2i", "t2t", "local")) / 5)
    close(terms["total"], terms["mlm"] + terms["ita"] + 2 * terms["itm"])


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
        close(twin[k], TINY.momentum * before[k] + (1 - TINY.momentum) * online[k], 1e-6)


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
    close(model.temperature.detach(), torch.tensor(clamped), 1e-7)
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
        close(results[1], results[0])
        close(results[2], results[0])
        other, _ = model.online.encode_text(ids + 1, torch.ones_like(ids))
        assert (
            model.match_logits(other, torch.ones_like(ids), image)[0] - results[0][-2:]
        ).abs().max() > 1e-4


def test_without_augmentation_both_views_agree(model):
    """The online and the momentum encoder are one function at the start."""
    model.eval()
    b = batch()
    with torch.no_grad():
        close(model.online.encode_image(b.plain)[1], model.twin.encode_image(b.plain)[1])
        assert (model.online.encode_image(b.plain)[1].norm(dim=1) - 1).abs().max() < 1e-5


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
        close(packed[name].detach(), value.detach(), 2e-5)
    assert padded_grads.keys() == packed_grads.keys()
    for name, grad in padded_grads.items():
        if not name.endswith("self.key.bias"):  # zero but for rounding
            assert (packed_grads[name] - grad).norm() <= 1e-3 * grad.norm() + 1e-6, name


def test_early_version_averages_two_heads():
    m, b = changed("itm_heads=2 packed=1").eval(), batch()
    with torch.no_grad():
        tokens, (states, _) = m.online.encode_image(b.plain)[0], m.online.encode_text(b.ids, b.mask)
        both = m.match_logits(states, b.mask, tokens)
        ones = torch.ones(tokens.shape[:2], dtype=torch.long)
        text_side = m.itm_head(m.online.fusion(states, b.mask, tokens)[:, 0])
        image_side = m.image_itm_head(m.image_fusion(tokens, ones, states, b.mask)[:, 0])
        close(both, (text_side + image_side) / 2)
        assert (text_side - image_side).abs().max() > 1e-3
        filler = states.clone()
        filler[1, 6:] = 9.0  # padding of report 1: nobody looks at it
        close(m.match_logits(filler, b.mask, tokens), both)
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
    from medxvl.xvl import from_released

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
