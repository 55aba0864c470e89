"""What an interrupted training goes on from: the state of everything that a step changes, and the
log up to there.
"""

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path

import torch

from medxvl.config import records
from medxvl.config.recipes import Recipe
from medxvl.weights import store

LAST, LOG = "last.pt", "log.jsonl"


@contextmanager
def locked(folder: Path):
    """Wait for another process that trains into `folder`, if there is one, then have it alone."""
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: nobody waits
            pass
        yield


def save(folder: Path, state: dict) -> None:
    """Write `state` (tensors, numbers, texts) to `folder`/last.pt: the old file or the new one is
    there, never a part.
    """
    partial = folder / f"{LAST}.partial"
    with open(partial, "wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, folder / LAST)


def load(folder: Path, recipe: Recipe, processes: int) -> dict | None:
    """The state saved in `folder`; None when there is none for the settings and data of `recipe`,
    or a kept file is lost. Where only code changed since, None too, unless the recipe says that
    trainings are kept: then a warning names the files.

    Raises ValueError when the training was begun, and is not finished, with another number of
    processes: the batches would be others.
    """
    if not (folder / LAST).is_file():
        return None
    state = torch.load(folder / LAST, weights_only=True, map_location="cpu")
    if not all((folder / name).is_file() for name in (*state["best"], LOG)):
        return None
    # States of medxvl 0.1.0 before recipes hold no more than a hash of theirs, so that the best
    # kept weights have to say it.
    kept = [folder / name for name in state["best"]]
    told = state.get("recipe") or (store.about(kept[0]) if kept else {"settings": {}})
    if recipe.differs(told):
        return None
    if recipe.changed_code(told):
        if not recipe.keeps:
            return None
        recipe.warn_of_code(told, folder)
    if state["processes"] != processes and not state["finished"]:
        raise ValueError(
            f"{folder}: this training was begun with {state['processes']} processes, expected "
            f"as many, found {processes}; "
            f"go on with --nproc_per_node {state['processes']}, or delete {LAST} there to "
            "begin anew"
        )
    return state


def generators(generator: torch.Generator, rng, device: torch.device) -> dict:
    """State of the training's own generators, of torch's and of the device's."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0)
    return {
        "torch": generator.get_state(),
        "numpy": json.dumps(rng.bit_generator.state),
        "global": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_generators(state: dict, generator: torch.Generator, device: torch.device) -> None:
    """Put back all but NumPy's, which each epoch makes anew."""
    generator.set_state(state["torch"])
    torch.set_rng_state(state["global"])
    if len(state["cuda"]):
        torch.cuda.set_rng_state(state["cuda"], device)


class Log:
    """`log.jsonl`: one line a log step, written at once. `rows` holds all of them."""

    def __init__(self, folder: Path, steps: int, writes: bool):
        """Go on after `steps` steps: later lines, and a line that was cut off, are dropped from the
        file.
        """
        self.path, self.writes = folder / LOG, writes
        self.rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if steps else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if row["step"] >= steps:
                break
            self.rows.append(row)

    def open(self):
        """Only now is the file changed: other processes may have been reading it."""
        if self.writes:
            records.write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
            self.stream = open(self.path, "a", encoding="utf-8")
        return self

    def add(self, row: dict) -> None:
        self.rows.append(row)
        if self.writes:
            self.stream.write(json.dumps(row) + "\n")
            self.stream.flush()

    def close(self) -> None:
        if self.writes:
            self.stream.close()
