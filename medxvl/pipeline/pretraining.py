"""The pre-trainings of notebooks 10, 11, 20 and 21 without their notebook, in one process or, under
torchrun, in several; the notebook then reads what lies in its folder.

    torchrun --nproc_per_node 8 -m medxvl.pipeline pretrain xvl paper --data main=mimic_cxr:/path
"""

import argparse
import shlex
import sys

import medxvl
from medxvl.config import presets

# Name of a training -> (the notebook that it stands for, folder of its checkpoints).
TRAININGS = {
    "ibot": ("20_xvl_vision_pretrain", "xvl_vision_pretrain"),
    "xvl": ("21_xvl_pretrain", "xvl_pretrain"),
    "medvill": ("11_medvill_pretrain", "medvill_pretrain"),
}


def main(arguments: list[str]) -> int:
    """Train; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m medxvl.pipeline pretrain",
        description="Pre-train without a notebook; under torchrun in several processes.",
    )
    parser.add_argument("training", choices=TRAININGS)
    parser.add_argument("preset", choices=presets.NAMES)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings to change"
    )
    parser.add_argument("--data", nargs="+", default=[], metavar="ROLE=NAME:PATH", help="own data")
    given = parser.parse_args(arguments)
    try:
        train(given.training, given.preset, shlex.join(given.set), shlex.join(given.data))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(training: str, preset: str, overrides: str, data: str) -> None:
    """Run the training `training` of TRAININGS; raises ValueError and FileNotFoundError."""
    medxvl.set_up()
    from medxvl.config import paths
    from medxvl.medvill import alignment, checkpoints
    from medxvl.medvill import corpus as medvill_corpus
    from medxvl.medvill import pretrain as medvill
    from medxvl.notebook import runs
    from medxvl.training import loop
    from medxvl.training.progress import progress
    from medxvl.xvl import corpus, ibot_pretrain
    from medxvl.xvl import pretrain as xvl

    notebook, name = TRAININGS[training]
    run = runs.start(notebook, preset, overrides, data)
    folder = run.checkpoints / name
    vocabulary = {"xvl": corpus.vocabulary, "medvill": medvill_corpus.vocabulary}.get(training)
    # one process prepares the data and trains the vocabulary, the others read them
    with loop.accelerator("fp32", run.device).main_process_first():
        dataset = run.dataset("main")
        tokenizer = vocabulary(dataset, run.preset, folder) if vocabulary else None
    if training == "ibot":
        ibot_pretrain.fit(run.preset, dataset, folder, run.device, progress)
    elif training == "xvl":
        xvl.fit(run.preset, dataset, tokenizer, folder, run.device, progress)
    else:
        if run.preset.medvill_alignment_epochs:
            there = paths.shared_checkpoints(run.preset.name, checkpoints.ALIGNED_FOLDER)
            alignment.fit(run.preset, dataset, tokenizer, there, run.device, progress)
        medvill.fit(run.preset, dataset, tokenizer, folder, run.device, progress)
