"""Pre-training: the same weights whether or not it was interrupted, checkpoints that say what they
are, clear failures.
"""

import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import assert_close
from train_helpers import TINY, Bar, Fake, fit, result, same, words

from medxvl.config import presets
from medxvl.data.dataset import Pixels
from medxvl.training import loop, optimizer, resume
from medxvl.weights import store
from medxvl.xvl import checkpoints, pretrain, warmup
from medxvl.xvl import corpus as corpora
from medxvl.xvl.model import XVL


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    log = fit(folder)
    return folder, log


@pytest.mark.numeric
def test_what_a_run_leaves(whole):
    folder, log = whole
    kept, best, _ = result(folder)
    assert set(kept) == set(best) and 1 <= len(kept) <= TINY.checkpoints
    assert list(log["step"]) == list(range(len(log))) and log["total"].notna().all()
    assert list(log["stage"].unique()) == ["contrast", "objective"] and log["epoch"].nunique() == 4
    ours = log[log["stage"] == "objective"]
    for name in ("i2t", "t2i", "i2i", "t2t", "local", "ita", "itm", "mlm"):
        assert np.isfinite(ours[name]).all(), name
    about = store.about(folder / next(iter(kept)))
    recipe = checkpoints.recipe(TINY, Fake(), words())
    assert about["kind"] == "pre-trained" and recipe.differs(about) == []
    assert recipe.changed_code(about) == []
    assert not list(folder.glob("*.partial"))


@pytest.mark.numeric
def test_the_same_run_twice(whole, tmp_path):
    fit(tmp_path)
    same(result(whole[0]), result(tmp_path))


def test_who_trains_into_a_folder_has_it_alone(whole, tmp_path):
    """A second training of the same waits for the first, and reads it back."""
    log = []
    with resume.locked(tmp_path):
        other = threading.Thread(target=lambda: log.append(fit(tmp_path)))
        other.start()
        other.join(1)
        assert not log and not list(tmp_path.glob("*.json*"))
    other.join(60)
    assert len(log) == 1
    same(result(whole[0]), result(tmp_path))


@pytest.mark.numeric
def test_another_seed_is_another_run(whole, tmp_path):
    fit(tmp_path, preset=replace(TINY, seed=1))
    assert result(tmp_path)[2] != result(whole[0])[2]


@pytest.mark.numeric
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_stopped_after_an_epoch_and_resumed(whole, tmp_path, epoch):
    def stop(k):
        if k == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Bar(stop))
    rest = Bar()
    fit(tmp_path, rest)
    assert rest.epochs == 4 - epoch, "only the epochs that were missing are trained"
    same(result(whole[0]), result(tmp_path))


def test_a_finished_run_is_read_back(whole):
    folder, log = whole
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    bar = Bar()
    again = fit(folder, bar)
    assert bar.epochs == 0
    pd.testing.assert_frame_equal(again, log, check_dtype=False)
    assert all(
        (folder / name).read_bytes() == content
        for name, content in before.items()
        if not name.startswith("last")
    )


@pytest.mark.numeric
def test_other_settings_begin_anew(whole, tmp_path):
    """A folder of other settings, or other data, is never taken for a start."""
    fit(tmp_path, preset=replace(TINY, momentum=0.5))
    bar = Bar()
    fit(tmp_path, bar)
    assert bar.epochs == 4
    same(result(whole[0]), result(tmp_path))


# --- failures -------------------------------------------------------------------------------------
def test_a_loss_that_is_not_finite_names_the_studies(tmp_path, monkeypatch):
    real = warmup.contrast

    def broken(*given):
        return {k: v * float("nan") for k, v in real(*given).items()}

    monkeypatch.setattr(warmup, "contrast", broken)
    with pytest.raises(RuntimeError, match=r"nan.*s\d\d, s\d\d") as error:
        fit(tmp_path)
    named = str(error.value).split("batch:")[1].replace(" ", "").split(",")
    assert len(named) == TINY.contrast_batch and set(named) <= set(
        Fake().index["study_id"][Fake().rows("train")]
    )


def test_too_few_reports(tmp_path):
    with pytest.raises(ValueError, match="expected training studies with a report, found none"):
        fit(tmp_path, data=Fake(reports=[". "] * 26))


def test_findings_stand_in_for_a_missing_impression():
    data = Fake(reports=[""] * 26)
    data.index["findings"] = "No Acute Process. ok. Clear lungs!"
    assert corpora.report_sentences(data, [0], TINY) == [["no acute process", "clear lungs"]]


# --- precision, accumulation, clipping ------------------------------------------------------------
@pytest.mark.numeric
def test_bf16_trains_nearly_the_same_and_is_resumed(whole, tmp_path):
    settings = replace(TINY, precision="bf16", checkpoint_every=2)

    def stop(k):
        if k == 9:
            raise KeyboardInterrupt

    log = fit(tmp_path / "whole", preset=settings)
    # each of a loss's numbers is rounded to an epsilon of bfloat16, 2**-7; its sums are in float32
    far = (log["total"] / whole[1]["total"] - 1).abs().max()
    assert 0 < far < 8 * torch.finfo(torch.bfloat16).eps
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", Bar(after_step=stop), settings)
    fit(tmp_path / "cut", preset=settings)
    same(result(tmp_path / "whole"), result(tmp_path / "cut"))


def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU: use precision=bf16"):
        fit(tmp_path, preset=replace(TINY, precision="fp16"))


class Line(loop.Task):
    """Least squares on 24 points, in their order: the smallest task."""

    settings, epochs = "line", 2

    def __init__(self, size, max_norm=0.0):
        self.n, self.batch_size, self.max_norm = 24, size, max_norm
        self.x = torch.randn(24, 3, generator=torch.Generator().manual_seed(2))

    def build(self, device):
        self.model = Points(torch.nn.Linear(3, 1, bias=False).to(device))
        torch.nn.init.ones_(self.model.linear.weight)
        return self.model

    def batch(self, epoch, k, order, rng, generator):
        part = slice(k * self.size, (k + 1) * self.size)
        return [str(n) for n in range(part.start, part.stop)], (self.x[part],)

    def learning_rate(self, epoch, step, steps):
        return 0.01

    def clip(self, model):
        super().clip(model)
        self.norm = model.linear.weight.grad.norm().item()


class Points(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return {"total": (self.linear(x) - 50).square().mean()}


def trained(folder, size, max_norm=0.0, **settings):
    task = Line(size, max_norm)
    log = loop.fit(task, replace(TINY, **settings), folder, torch.device("cpu"), Bar())
    return task, log, task.model.linear.weight.detach().clone()


@pytest.mark.numeric
def test_accumulated_batches_are_one_large_batch(tmp_path):
    task, log, whole = trained(tmp_path / "a", 8)
    task_of_parts, log_of_parts, parts = trained(tmp_path / "b", 4, accumulation=2)
    # the gradient is the parts' mean, not their sum, and the mean over a step's batches is logged
    assert_close(task_of_parts.norm, task.norm, terms=8 * 3, dtype=torch.float32)
    assert len(log) == len(log_of_parts) == 6
    assert_close(whole, parts, terms=6 * 8 * 3)
    totals = (kept["total"].to_numpy() for kept in (log, log_of_parts))
    assert_close(*totals, terms=6 * 8 * 3, dtype=torch.float32)
    assert list(log.columns) == ["step", "epoch", "stage", "learning_rate", "total"]
    with pytest.raises(
        ValueError, match="6 batches in an epoch do not make one step of accumulation=7"
    ):
        trained(tmp_path / "c", 4, accumulation=7)


@pytest.mark.numeric
def test_clipping_by_the_norm_of_all(tmp_path):
    assert trained(tmp_path / "a", 8)[0].norm > 1
    norm = trained(tmp_path / "b", 8, max_norm=0.5)[0].norm
    assert_close(norm, 0.5, terms=3, dtype=torch.float32)


# --- schedule and groups --------------------------------------------------------------------------
def test_stages():
    contrast, objective = pretrain.stages(TINY)
    assert (contrast.name, contrast.first, contrast.epochs, contrast.batch_size) == (
        "contrast",
        0,
        2,
        6,
    )
    assert (objective.name, objective.first, objective.epochs, objective.batch_size) == (
        "objective",
        2,
        2,
        4,
    )
    only = pretrain.stages(presets.load("paper"))
    assert [stage.name for stage in only] == ["objective"], (
        "the published models have no warm-up by contrast"
    )


@pytest.mark.numeric
def test_learning_rate():
    preset = replace(TINY, warmup_steps=10, min_learning_rate=1e-5)
    stage = pretrain.Stage("objective", 0, 4, 4, 1e-3)
    rates = [stage.learning_rate(k, 25, preset) for k in range(101)]
    assert rates[9] == rates[10]
    # half-way down the cosine it is the mean of both ends
    assert_close(
        [rates[k] for k in (0, 9, 55, 100)], [1e-4, 1e-3, (1e-3 + 1e-5) / 2, 1e-5], terms=4
    )
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a > b for a, b in zip(rates[10:100], rates[11:], strict=True))


def test_weight_decay_spares_what_it_should():
    model = XVL(TINY, 60)
    *groups, temperature = pretrain.parameter_groups(model, TINY)
    decayed = [
        p for group in groups if group["weight_decay"] == TINY.weight_decay for p in group["params"]
    ]
    spared = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    names = {id(p): n for n, p in model.named_parameters()}
    assert [names[id(p)] for p in temperature["params"]] == ["temperature"] and temperature[
        "weight_decay"
    ] == 0
    assert all(p.ndim >= 2 for p in decayed)
    assert not [
        n
        for n in (names[id(p)] for p in decayed)
        if "pos_embed" in n or "cls_token" in n or "bias" in n
    ]
    everything = [id(p) for p in (*decayed, *spared, *temperature["params"])]
    assert sorted(everything) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.numeric
def test_the_encoders_have_a_rate_of_their_own():
    preset = replace(TINY, encoder_rate=0.1, temperature_rate=0.5)
    model = XVL(preset, 60)
    names = {id(p): n for n, p in model.named_parameters()}
    scale = {
        names[id(p)]: group["scale"]
        for group in pretrain.parameter_groups(model, preset)
        for p in group["params"]
    }
    slow = {n for n, value in scale.items() if value == 0.1}
    look = {
        f"{pretrain.LOOK}{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias")
    }
    assert (
        slow
        == {n for n in scale if n.startswith("online.") and not n.startswith("online.fusion")}
        | look
    )
    assert_close(scale.pop("temperature"), 0.05)
    contrast, objective = (stage.learning_rate(20, 25, preset) for stage in pretrain.stages(preset))
    encoders = pretrain.stages(TINY)[0].learning_rate(20, 25, TINY)
    assert_close(contrast * 0.1, encoders, terms=4)  # the warm-up's is the encoders'
    assert objective == pretrain.stages(TINY)[1].learning_rate(20, 25, TINY)


@pytest.mark.numeric
def test_clipping_is_by_parameter():
    a, b = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    a.grad, b.grad = torch.full((4,), 10.0), torch.full((4,), 0.1)
    optimizer.clip_each([a, b], 3.0)
    assert_close(a.grad.norm(), torch.tensor(3.0), terms=4)
    assert torch.equal(b.grad, torch.full((4,), 0.1))


def test_pixels_from_memory_and_from_disk_are_the_same(monkeypatch):
    data = Fake()
    corpus = corpora.Corpus(data, "train", None, TINY)
    kept = corpus.images(np.array([3, 0, 3]))
    monkeypatch.setattr(Pixels, "IN_MEMORY", 0)
    read = corpora.Corpus(data, "train", None, TINY).images(np.array([3, 0, 3]))
    assert torch.equal(kept, read) and torch.equal(
        kept, torch.from_numpy(data.pixels[data.rows("train")[[3, 0, 3]]])
    )
