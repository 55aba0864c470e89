"""An interrupted training, wherever it was cut, ends with the same bits as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from train_helpers import Bar, fit, result, same, with_settings

from medxvl.config import paths
from medxvl.training import resume

pytestmark = pytest.mark.numeric
EVERY = "checkpoint_every=2"
STEPS = 14  # two epochs of 3 steps with contrast, two of 4 with the objective


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, preset=with_settings("checkpoint_every=0"))
    assert len((folder / "log.jsonl").read_text().splitlines()) == STEPS
    return folder


def state(folder):
    """All that the last checkpoint holds, but what only says how it came about."""
    return torch.load(folder / "last.pt", weights_only=True)


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def same_to_the_last_bit(a, b):
    same(result(a), result(b))
    first, second = state(a), state(b)
    assert first.keys() == second.keys()
    assert not [name for name in first if not equal(first[name], second[name])]
    assert not list(b.glob("*.partial"))
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())


@pytest.mark.parametrize("step", [1, 5, 9, 13])
def test_stopped_within_an_epoch(whole, tmp_path, step):
    """Steps after the last checkpoint are made again; those before it are not."""

    def stop(k):
        if k == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Bar(after_step=stop), with_settings(EVERY))
    rest = Bar()
    fit(tmp_path, rest, with_settings(EVERY))
    assert STEPS - step <= rest.steps <= STEPS - step + 2
    same_to_the_last_bit(whole, tmp_path)


class Cut(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(
    "call, when", [(1, "after"), (8, "before"), *((k, "after") for k in range(11, 17))]
)
def test_cut_between_two_files(whole, tmp_path, monkeypatch, call, when):
    """Cut right before or after a file takes its place: weights, state and list of the best epochs
    fit together again.
    """
    replace, calls = os.replace, []

    def cut(*names):
        calls.append(names)
        if when == "after" or len(calls) < call:
            replace(*names)
        if len(calls) == call:
            raise Cut

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(Cut):
        fit(tmp_path, preset=with_settings(EVERY))
    monkeypatch.undo()
    fit(tmp_path, preset=with_settings(EVERY))
    same_to_the_last_bit(whole, tmp_path)


def test_a_line_that_was_cut_off(whole, tmp_path):
    def stop(k):
        if k == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Bar(after_step=stop), with_settings("checkpoint_every=3"))
    log = tmp_path / "log.jsonl"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(8)), (
        "each line at once"
    )
    log.write_text(log.read_text() + '{"step": 8, "epo')
    fit(tmp_path, preset=with_settings("checkpoint_every=3"))
    same_to_the_last_bit(whole, tmp_path)


def test_killed_at_random_moments(whole, tmp_path):
    """Twice `kill -9` from outside, then to the end. tests/benchmarks/resume.py does it ten times,
    on a larger training.
    """
    pick = random.Random(4)
    for line in (pick.randint(1, 5), pick.randint(8, 12)):
        process = started(tmp_path)
        wait_for_line(tmp_path, line, process)
        time.sleep(pick.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    rest = started(tmp_path)
    assert rest.wait(timeout=120) == 0
    same_to_the_last_bit(whole, tmp_path)


def started(folder):
    program = [
        sys.executable,
        str(paths.ROOT / "tests" / "helpers" / "train_helpers.py"),
        str(folder),
        EVERY,
    ]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for_line(folder, line, process):
    log, until = folder / "log.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if log.is_file() and len(log.read_text().splitlines()) >= line:
            return
        time.sleep(0.01)


def test_accumulation_is_resumed_too(tmp_path):
    settings = EVERY + " accumulation=2 batch_size=2 contrast_batch=3 log_every=3"

    def stop(k):
        if k == 9:
            raise KeyboardInterrupt

    fit(tmp_path / "whole", preset=with_settings(settings))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", Bar(after_step=stop), with_settings(settings))
    fit(tmp_path / "cut", preset=with_settings(settings))
    same_to_the_last_bit(tmp_path / "whole", tmp_path / "cut")
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(0, STEPS, 3)), "a line every third step"


def test_random_draws_of_the_model_are_resumed(tmp_path):
    """Dropout and stochastic depth draw from torch's own generator."""
    settings = "checkpoint_every=1 dropout=0.2 drop_path=0.2 vision_layers=2"

    def stop(k):
        if k == 8:
            raise KeyboardInterrupt

    fit(tmp_path / "whole", preset=with_settings(settings))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", Bar(after_step=stop), with_settings(settings))
    torch.manual_seed(99)
    fit(tmp_path / "cut", preset=with_settings(settings))
    same_to_the_last_bit(tmp_path / "whole", tmp_path / "cut")


def test_another_number_of_processes_is_refused(whole, tmp_path):
    fit(tmp_path)
    held = state(tmp_path)
    torch.save(held | {"processes": 2}, tmp_path / "last.pt")
    fit(tmp_path)  # finished: read back
    torch.save(held | {"processes": 2, "finished": False, "epoch": 3}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="begun with 2 processes.*found 1.*--nproc_per_node 2"):
        fit(tmp_path)


def test_a_lost_file_begins_anew(whole, tmp_path):
    fit(tmp_path)
    next(tmp_path.glob("epoch-*")).unlink()
    bar = Bar()
    fit(tmp_path, bar)
    assert bar.steps == STEPS
    same_to_the_last_bit(whole, tmp_path)


def test_nothing_in_a_state_is_run(tmp_path):
    """The state is a pickle: one that holds more than numbers is refused."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"settings": Evil()}, tmp_path / "last.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        resume.load(tmp_path, "", 1)
    assert not (tmp_path / "run").exists()
