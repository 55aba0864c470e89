"""The command lines for several processes: two with half the batch each leave what one leaves, with
the same losses.

X-VL's losses are compared step by step in training/test_distributed.py.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from tolerance import assert_close

from medxvl.config import paths

# training: its folder, settings that hold the batch, stages that must have run
TRAININGS = {
    "medvill": (
        "medvill_pretrain",
        ("medvill_batch", "medvill_alignment_batch"),
        {"matching", "objective"},
    ),
    "ibot": ("xvl_vision_pretrain", ("ibot_batch",), {"training"}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with a small phantom, prepared."""
    folder = tmp_path_factory.mktemp("data")
    code = (
        "from medxvl.config import presets, roles; p = presets.load('smoke', 'studies=80'); "
        "roles.prepare(roles.sources(p)['main'], p)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=environment(folder, folder),
        check=True,
        capture_output=True,
    )
    return folder


def environment(data, runs):
    told = {
        "MEDXVL_DATA": str(data),
        "MEDXVL_RUNS": str(runs),
        "PYTHONPATH": str(paths.ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return os.environ | told


def train(training, data, runs, processes):
    """What the training left: its log, and the names of its files."""
    folder, batches, _ = TRAININGS[training]
    command = [sys.executable, "-m"]
    if processes > 1:
        command += [
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(processes),
            "-m",
        ]
    settings = [f"{name}={16 // processes}" for name in batches]
    command += ["medxvl.pipeline", "pretrain", training, "smoke", "--set", "studies=80", *settings]
    done = subprocess.run(
        command,
        cwd=paths.ROOT,
        env=environment(data, runs),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    left = runs / "smoke" / "checkpoints" / folder
    logs = [left / "log.jsonl", *left.parent.glob("medvill_model/log.jsonl")]
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()], sorted(
        p.name for p in left.glob("[!.]*")
    )


@pytest.mark.numeric
@pytest.mark.parametrize("training", TRAININGS)
def test_two_processes_do_what_one_does(training, data, tmp_path):
    (one, files), (two, others) = (train(training, data, tmp_path / str(n), n) for n in (1, 2))
    assert files == others and any(name.endswith(".safetensors") for name in files)
    assert len(one) == len(two) >= 3 and {row["stage"] for row in one} >= TRAININGS[training][2]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        # Sums are added up in another order, and the steps pass that on. Adam, which divides a
        # gradient by its own size, makes steps of up to the rate, 2e-3 at most, out of the rounding
        # of those that are zero.
        for key in a.keys() - {"stage"}:
            assert b[key] == pytest.approx(a[key], rel=2e-3, abs=1e-5), f"{key} of step {a['step']}"
    # nothing has been passed on yet: a mean over 16 studies through layers of 64
    assert_close(two[0]["total"], one[0]["total"], terms=16 * 64, dtype=torch.float32)
