"""The pre-training objective against numbers that the released code produced, its formulas by hand,
and which negatives it draws.
"""

import pytest
import torch
from safetensors.torch import load_file
from tolerance import assert_close, assert_recorded

from medxvl.config import paths
from medxvl.xvl.losses import (
    contrastive_losses,
    distilled_cross_entropy,
    hard_negatives,
    pairing_loss,
    sentence_loss,
)
from medxvl.xvl.model import XVL

pytestmark = pytest.mark.numeric
PARITY = load_file(paths.ROOT / "tests" / "parity" / "xvl_losses.safetensors")


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
    assert_recorded(loss, PARITY[f"{case}/t{temperature}/loss"])
    assert_recorded(image.grad, PARITY[f"{case}/t{temperature}/grad_m"], gradient=True)


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
        assert_recorded(terms[ours], t[f"loss_{theirs}"])


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
    assert_close(sentence_loss(sentences[order], report[order], image, 0.5), loss, terms=8 + 6)
    without = sentence_loss(sentences, torch.tensor([0, 0, 1, 2, 2, 2]), image[[0, 1, 3]], 0.5)
    assert_close(loss, without, terms=8 + 6)  # report 2 has no sentence: it counts nowhere


def test_pairing_loss():
    torch.manual_seed(0)
    similarity = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    own = torch.arange(4)
    one = torch.nn.functional.one_hot(own, 6).bool()
    plain = torch.nn.functional.cross_entropy(similarity, own)
    assert_close(pairing_loss(similarity, one), plain, terms=4 + 6)
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
    assert_close(loss, torch.tensor(worked, dtype=torch.float64).mean(), terms=4 + 6)
    assert similarity.grad.isfinite().all() and not similarity.grad[3].any()


def test_distilled_cross_entropy():
    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]), torch.tensor([0, 2])
    soft = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    hard = -(log_p[0, 0] + log_p[1, 2]) / 2
    assert_close(distilled_cross_entropy(logits, target, soft, 0.0), hard, terms=2 + 3)
    mixed = 0.6 * hard + 0.4 * -(soft * log_p).sum(1).mean()
    assert_close(distilled_cross_entropy(logits, target, soft, 0.4), mixed, terms=2 + 3)
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
        # a share of 3,000 draws has a standard error of at most 0.009
        assert (share - wanted).abs().max() < 0.03


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
