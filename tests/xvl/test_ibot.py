"""Self-supervised pre-training of the vision encoder: its losses, what it must learn, and that its
weights can be used.
"""

import math
from dataclasses import replace

import pytest
import torch
from tolerance import assert_close
from torch import nn

from medxvl.config import presets
from medxvl.layers import vision_transformer
from medxvl.xvl import ibot

pytestmark = pytest.mark.numeric
TINY = presets.load(
    "smoke",
    "image_size=32 resize=34 patch_size=8 vision_stem=patch vision_width=32 vision_layers=2 "
    "vision_heads=2 ibot_local_size=16 "
    "ibot_prototypes=32 ibot_hidden=32 ibot_bottleneck=16 ibot_local_crops=3 ibot_epochs=1 "
    "ibot_momentum=0.9",
)


def pictures(n=24):
    """Stripes: any crop shows how steep, how wide and how bright they are. (n, 40, 40) uint8."""
    k = torch.arange(n).view(-1, 1, 1)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    angle, frequency, level = (
        k % 4 * torch.pi / 4,
        0.35 + 0.35 * (k // 4 % 2),
        0.35 + 0.3 * (k // 8 % 2),
    )
    wave = torch.sin(frequency * (x * angle.cos() + y * angle.sin()) + k)
    return ((level + 0.3 * wave) * 255).clamp(0, 255).to(torch.uint8)


def make_views(seed=0, n=6, preset=TINY):
    return ibot.views(pictures(n), preset, torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ibot.IBOT(TINY)


def test_views():
    v = make_views()
    assert (
        v.large.shape == (12, 1, 32, 32)
        and v.small.shape == (18, 1, 16, 16)
        and v.masked.shape == (12, 16)
    )
    assert torch.equal(v.large, make_views().large) and torch.equal(v.masked, make_views().masked)
    assert not torch.equal(v.large[:6], v.large[6:])
    part = ibot.views(pictures(6)[2:4], TINY, torch.Generator().manual_seed(0), slice(2, 4), 6)
    # as in one process; resampling weighs neighbours by places of up to 40, rounded to 40 epsilons
    assert_close(part.large, v.large.unflatten(0, (2, 6))[:, 2:4].flatten(0, 1), terms=40**2)
    assert torch.equal(part.masked, v.masked.unflatten(0, (2, 6))[:, 2:4].flatten(0, 1))


def test_masks_have_the_share_asked_for_and_form_blobs():
    masks = ibot.draw_masks(4000, 8, TINY, torch.Generator().manual_seed(0))
    share = masks.float().mean(1)
    # standard errors of 4,000 draws: 0.008, and 0.003 of the mean share; blocks are whole patches
    assert abs((share > 0).float().mean() - 0.5) < 0.05
    assert (
        abs(share[share > 0].mean() - 0.3) < 0.02
        and share[share > 0].min() < 0.15
        and 0.45 < share.max() <= 0.5
    )
    grid = masks.view(-1, 8, 8).float()
    beside = (grid[:, :, 1:] * grid[:, :, :-1]).mean() / grid.mean()
    assert (
        beside > 1.3 * grid[share > 0].mean()
    )  # a masked patch's neighbour is masked more often than any patch


def test_losses_against_a_loop():
    g = torch.Generator().manual_seed(0)
    n, crops, k = 3, 5, 7
    logits = torch.randn(crops * n, k, generator=g)
    target = torch.randn(2 * n, k, generator=g).softmax(-1)
    pairs = []
    for a in range(2):
        for c in range(crops):
            if a != c:
                log_p = logits[c * n : (c + 1) * n].log_softmax(-1)
                pairs.append(-(target[a * n : (a + 1) * n] * log_p).sum(-1).mean())
    assert_close(ibot.other_crops(logits, target), torch.stack(pairs).mean(), terms=7 + 8 * 3)

    masked = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).bool()
    out, wanted = torch.randn(3, k, generator=g), torch.randn(3, k, generator=g).softmax(-1)
    one = -(wanted * out.log_softmax(-1)).sum(-1)
    mean = ((one[0] + one[1]) / 2 + one[2]) / 3
    assert_close(ibot.masked_patches(out, wanted, masked), mean, terms=7 + 3)
    none = ibot.masked_patches(out[:0], wanted[:0], torch.zeros(3, 3, dtype=torch.bool))
    assert none == 0


def test_masked_patches_are_hidden_from_the_student(model):
    """Other pixels under the mask change nothing that the student sees."""
    model.eval()
    v = make_views()
    hidden = v.masked.view(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        a, b = (
            vision_transformer.tokens(model.student.backbone, x, v.masked, model.blank)
            for x in (v.large, torch.where(hidden, torch.rand_like(v.large), v.large))
        )
    assert hidden.any() and torch.equal(a, b)


def test_gradients_reach_the_student_and_not_the_teacher(model):
    model.train()(make_views(), 0.5)["total"].backward()
    lost = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum())
    ]
    assert not lost and model.blank.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.parameters())


def test_teacher_follows_and_centres_move_in_training_alone(model):
    with torch.no_grad():
        for p in model.student.parameters():
            p += 0.1
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()(make_views(), 0.0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.train()(make_views(), 0.0)
    key = "backbone.blocks.0.mlp.fc1.weight"
    wanted = 0.9 * before["teacher." + key] + 0.1 * before["student." + key]
    assert_close(model.state_dict()["teacher." + key], wanted, terms=2)
    assert not torch.equal(model.centre, before["centre"]) and not torch.equal(
        model.patch_centre, before["patch_centre"]
    )
    held = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    model.follows = False  # gradients are being accumulated
    model(make_views(), 0.0)
    assert all(torch.equal(v, held[k]) for k, v in model.teacher.state_dict().items())


def test_schedule():
    p = presets.load("paper")
    start, end = ibot.schedule(p, 0.0), ibot.schedule(p, 1.0)
    names = ("learning_rate", "weight_decay", "momentum", "temperature")
    assert start.keys() == set(names)
    assert_close([start[name] for name in names], [0.0, 0.04, 0.996, 0.04], terms=4)
    assert end["momentum"] == 1
    assert_close([end[name] for name in names[1:]], [0.4, 1, 0.07], terms=4)
    assert_close(end["learning_rate"], 2e-6, terms=4)
    assert_close(ibot.schedule(p, 10 / p.ibot_epochs)["learning_rate"], p.ibot_rate, terms=4)
    rates = [ibot.schedule(p, k / 100)["learning_rate"] for k in range(101)]
    assert_close(max(rates), p.ibot_rate, terms=4)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_losses_fall_and_the_teacher_does_not_collapse():
    """Once the centres have settled. Two kinds of collapse are ruled out: one prototype for all,
    and no preference.
    """
    preset = replace(
        TINY, vision_stem="conv", rotation=0.0, jitter=0.0, ibot_prototypes=64, ibot_momentum=0.996
    )
    torch.manual_seed(0)
    model = ibot.IBOT(preset).train()
    for layer in (
        model.student.modules()
    ):  # a narrow encoder needs larger weights than timm's to tell pictures apart
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    model.teacher.load_state_dict(model.student.state_dict())
    images, generator, losses = pictures(32), torch.Generator().manual_seed(1), []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for k in range(200):
        terms = model(ibot.views(images, preset, generator), k / 200)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        losses.append([terms["cls"].item(), terms["patch"].item()])
    settled, last = torch.tensor(losses[20:40]).mean(0), torch.tensor(losses[-20:]).mean(0)
    assert (last < 0.85 * settled).all(), (settled, last)
    with torch.no_grad():
        cls, _ = model.eval().targets(
            ibot.views(images, preset, torch.Generator().manual_seed(9)).large, 1.0
        )
    entropy = -(cls * cls.clamp(min=1e-9).log()).sum(-1).mean()
    assert len(cls.argmax(-1).unique()) >= 4 and entropy < 0.8 * math.log(64)
    between, within = (
        (cls[:32] - cls.mean(0)).norm(dim=1).mean(),
        (cls[:32] - cls[32:]).norm(dim=1).mean(),
    )
    assert within < 0.8 * between  # two crops of one image are closer than two images


def test_its_weights_start_the_vision_encoder(model, tmp_path):
    """Saved as iBOT's published files are: under `teacher`, prefixes `backbone.` and, from DDP,
    `module.`
    """
    released = pytest.importorskip("medxvl.weights.convert")
    with torch.no_grad():
        for p in model.teacher.parameters():
            p += 0.01
    state = model.teacher.state_dict()
    assert {k.split(".")[0] for k in state} == {"backbone", "head"}
    torch.save(
        {"teacher": {"module." + k: v for k, v in state.items()}, "epoch": 1},
        tmp_path / "ibot.pth",
    )
    found = released.convert(tmp_path / "ibot.pth")
    target = vision_transformer.build(TINY)
    own = {k.removeprefix("online.").removeprefix("vision."): v for k, v in found.state.items()}
    target.load_state_dict({k: v for k, v in own.items() if k in target.state_dict()})
    for k, v in target.state_dict().items():
        assert torch.equal(v, model.teacher.backbone.state_dict()[k])
