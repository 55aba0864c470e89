"""Two processes with half the batch each train like one process with all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_helpers
from safetensors.torch import load_file
from tolerance import assert_close, rounding
from torch import nn

from medxvl.config import paths
from medxvl.layers import vision_transformer
from medxvl.training import distributed

pytestmark = pytest.mark.numeric
HELPERS = Path(train_helpers.__file__)
# Additions behind a number of the trained models, 16 wide with three layers, over a batch of 4
# studies of at most 17 tokens; every step passes its rounding on to the next, 14 at most.
CHAIN = 14 * (3 * 16 + 4 * 17)


def torchrun(processes, *arguments):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        *arguments,
    ]
    environment = os.environ | {
        "PYTHONPATH": f"{paths.ROOT}{os.pathsep}{HELPERS.parent}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of the same trainings in one process and in two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train_helpers.compared(one, 1)
    torchrun(2, HELPERS, "compared", two, 2)
    return one, two


def logs(folders, name):
    return [
        [json.loads(line) for line in (f / name / "log.jsonl").read_text().splitlines()]
        for f in folders
    ]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_losses_are_those_of_one_process(both, name):
    """float32: sums are added up in another order. float64 shows that nothing but that
    differs: batch statistics, negatives and queues of the whole batch, gradients through what is
    gathered, a mean over all masked words."""
    one, two = logs(both, name)
    assert len(one) == len(two) >= 5 and {row["stage"] for row in one} >= {"objective"}
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        exact = {"step", "epoch", "stage", "learning_rate"} & a.keys()
        assert {key: a[key] for key in exact} == {key: b[key] for key in exact}
        for key in a.keys() - exact:
            far = rounding(max(1.0, abs(a[key])), CHAIN, getattr(torch, name))
            assert b[key] == pytest.approx(a[key], abs=far, rel=0), f"{key} of step {a['step']}"


def test_the_weights_are_those_of_one_process(both):
    states = [
        torch.load(folder / "float64" / "last.pt", weights_only=True)["model"] for folder in both
    ]
    for name, value in states[0].items():
        # Adam divides a gradient by its own size: where it is zero but for rounding, the step of up
        # to the rate is rounding too
        assert (value.double() - states[1][name].double()).abs().max() <= 1e-6, name
    kept = [sorted(p.name for p in (folder / "float32").glob("epoch-*")) for folder in both]
    assert kept[0] == kept[1]
    assert (
        load_file(both[1] / "float32" / kept[1][0]).keys()
        == load_file(both[0] / "float32" / kept[0][0]).keys()
    )


def test_gathering(tmp_path):
    """Values and gradients of each function, against the whole batch in one process."""
    torchrun(2, Path(__file__), "units")


def units():
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(3)
    whole, rank = torch.randn(6, 4, dtype=torch.float64), distributed.rank()
    own = distributed.own(6)
    assert own == slice(3 * rank, 3 * rank + 3) and distributed.processes() == 2
    with pytest.raises(ValueError, match="2 processes can share equally, found 5"):
        distributed.own(5)

    # The same loss of all rows in each process: the mean of the gradients is the gradient.
    mine = whole[own].clone().requires_grad_()
    weight = torch.randn(6, 4, dtype=torch.float64)
    (distributed.gather(mine).square() * weight).sum().backward()
    assert_close(mine.grad / 2, (2 * whole * weight)[own], terms=2)

    # Rows that differ in number.
    parts = whole.split([1, 5])
    assert torch.equal(distributed.gather_ragged(parts[rank]), whole)
    none = whole.split([0, 6])
    assert torch.equal(distributed.gather_ragged(none[rank]), whole)

    # Own means, weighed, make the mean of all.
    value = parts[rank].mean() * distributed.mean_weight(torch.tensor(len(parts[rank]) * 4), whole)
    limit = rounding(whole, 24)
    assert (distributed._Sum.apply(value) / 2 - whole.mean()).abs() < limit

    # Batch statistics of the whole batch: outputs, gradients, running statistics.
    images = torch.randn(6, 1, 16, 16, dtype=torch.float64)
    stems = [vision_transformer.ConvStem(16, 8, 1, 8).double() for _ in range(2)]
    stems[1].load_state_dict(stems[0].state_dict())
    distributed.share_batch_statistics(stems[1])
    assert type(stems[0].proj[1]) is nn.BatchNorm2d is not type(stems[1].proj[1])
    images.requires_grad_()
    a, (b, inputs) = (
        stems[0](images),
        (stems[1](x := images.detach()[own].clone().requires_grad_()), x),
    )
    assert_close(a[own], b, terms=6 * 64)
    (a**3).mean().backward()
    (b**3).mean().backward()
    assert_close(images.grad[own], inputs.grad / 2, terms=6 * 64)
    for x, y in zip(stems[0].buffers(), stems[1].buffers(), strict=True):
        assert_close(x, y, terms=6 * 64)
    for x, y in zip(stems[0].parameters(), stems[1].parameters(), strict=True):
        # a shift before batch normalisation has no effect: its gradient is zero but for rounding
        limit = max(rounding(x.grad, 6 * 64), rounding(1.0, 6 * 64, x.dtype))
        assert (x.grad - distributed._Sum.apply(y.grad) / 2).abs().max() < limit
    torch.distributed.destroy_process_group()


def test_one_process_is_left_alone():
    x, model = torch.randn(3, 2), nn.Sequential(nn.BatchNorm2d(2))
    assert (
        distributed.gather(x) is x
        and distributed.gather_ragged(x) is x
        and distributed.mean_weight(x, x) == 1.0
    )
    assert distributed.own(5) == slice(0, 5)
    distributed.share_batch_statistics(model)
    assert type(model[0]) is nn.BatchNorm2d


def test_an_image_gets_the_same_draws_in_any_number_of_processes():
    images = torch.randint(0, 256, (6, 40, 40), dtype=torch.uint8)
    whole = vision_transformer.augmented_view(
        images, train_helpers.TINY, torch.Generator().manual_seed(1)
    )
    own = slice(3, 6)
    part = vision_transformer.augmented_view(
        images[own], train_helpers.TINY, torch.Generator().manual_seed(1), own, 6
    )
    # resampling weighs neighbouring pixels by places of up to 40, each rounded to 40 epsilons
    assert_close(whole[own], part, terms=40**2)


if __name__ == "__main__":
    units()
