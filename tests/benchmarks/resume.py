"""Kill a training with `kill -9` at random moments, start it again each time, and compare its end
with an uninterrupted one.

python tests/benchmarks/resume.py [--kills 10] [--seed 0] [--settings "NAME=VALUE ..."] The moments
are drawn over the whole time of the training, its checkpoints and validation included. Every file
but `last.pt` must have equal bytes, and of `last.pt` every tensor and number must be equal. Prints
one JSON line; exit status 1 if not.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent.parent
SETTINGS = "epochs=6 contrast_epochs=6 checkpoint_every=3"  # 42 steps


def start(folder: Path, settings: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(TESTS / "helpers" / "train_helpers.py"),
        str(folder),
        *settings.split(),
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def lines(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def finish(process: subprocess.Popen) -> None:
    told = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the training failed:\n{told.decode()[-3000:]}")


def contents(folder: Path) -> dict:
    """{file: hash}, and for the state a hash of all that it holds."""
    found = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.iterdir()
        if p.name != "last.pt"
    }
    digest = hashlib.sha256()
    for name, value in flat(torch.load(folder / "last.pt", weights_only=True)):
        content = value.numpy().tobytes() if isinstance(value, torch.Tensor) else value
        digest.update(f"{name} {content}".encode())
    return found | {"last.pt": digest.hexdigest()}


def flat(value, name=""):
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, f"{name}/{key}")
    else:
        yield name, value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default=SETTINGS)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as base:
        whole, cut = Path(base) / "whole", Path(base) / "cut"
        finish(start(whole, given.settings))
        steps, killed_at = lines(whole), []
        moments = sorted(draw.uniform(0, steps) for _ in range(given.kills))
        for moment in moments:  # the line of the log, and a part of a step
            process, begun = start(cut, given.settings), time.monotonic()
            while (
                process.poll() is None
                and lines(cut) < int(moment)
                and time.monotonic() - begun < 600
            ):
                time.sleep(0.002)
            time.sleep(draw.random() * 0.15)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed_at.append(lines(cut))
        finish(start(cut, given.settings))
        a, b = contents(whole), contents(cut)
        other = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    print(
        json.dumps(
            {
                "name": "resume",
                "steps": steps,
                "killed_at": killed_at,
                "equal": not other,
                "other": other,
            }
        )
    )
    return bool(other)


if __name__ == "__main__":
    sys.exit(main())
