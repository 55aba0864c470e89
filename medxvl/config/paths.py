"""Every folder and file of the project, in one place. Nothing else builds a path from the root.

`MEDXVL_DATA` and `MEDXVL_RUNS` (environment) move the two large folders to another disk.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "figures"
PAPER_VALUES = FIGURES / "paper_values.csv"
FIGURE_INDEX = FIGURES / "figures.csv"

DATA = Path(os.environ.get("MEDXVL_DATA") or ROOT / "data").expanduser().absolute()
RUNS = Path(os.environ.get("MEDXVL_RUNS") or ROOT / "runs").expanduser().absolute()
RAW = DATA / "raw"  # generated raw trees (the phantom); users' raw data stay where they are
PREPARED = DATA / "prepared"  # one folder a prepared dataset
WEIGHTS = DATA / "weights"  # released weights that users put there: iBOT, CXR-BERT, MedViLL, ...


def shared_checkpoints(preset: str, name: str) -> Path:
    """Folder of weights that all variants of a preset share: with the preset's own run."""
    return RUNS / preset / "checkpoints" / name
