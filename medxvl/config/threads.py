"""How many CPU threads a notebook has: part of its result, for sums are added up in another order
with another number of threads."""

import os

from medxvl.config.notebooks import notebook


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(name: str, preset, variant: str = "") -> int:
    """CPU threads of a notebook: what the setting of a training says (0: all cores), else 1, as two
    may run side by side; so do variants, but where the setting is 0. Never more than there are
    cores: oversubscribed threads stall.

    Not a matter of --cores: sums are added up in another order with another number of threads.
    """
    setting = notebook(name).threads
    given = getattr(preset, setting) if setting else 1
    return 1 if given and variant else min(given or cores(), cores())
