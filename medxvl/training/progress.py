"""The progress bar of trainings and scoring."""

import os
import sys

from tqdm.std import tqdm

HEADLESS = "MEDXVL_HEADLESS"  # set by medxvl.pipeline.steps


def progress(iterable_or_total, desc: str = "") -> tqdm:
    """Progress bar over an iterable, or over a number of steps (`.update(1)`); few lines in a saved
    notebook.
    """
    total = iterable_or_total if isinstance(iterable_or_total, int) else None
    items = None if total is not None else iterable_or_total
    return tqdm(
        items,
        total=total,
        desc=desc,
        file=sys.stdout,
        mininterval=30 if os.environ.get(HEADLESS) else 0.2,
        ncols=100,
    )
