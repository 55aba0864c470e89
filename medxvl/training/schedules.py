"""Learning rates: ours by step, and the one of Medical X-VL's release by epoch."""

import math


def warmup_cosine(step: int, steps: int, warmup: int, peak: float, end: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to `end` at `steps`; `step` counts from
    0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * done))


def released(unit: int, epochs: int, warmup: int, start: float, peak: float, end: float) -> float:
    """The release's rate at `unit`: linear from `start` over `warmup` units, then a cosine over
    `epochs` more.
    """
    if unit < warmup:
        return start + unit * (peak - start) / warmup
    done = min(unit - warmup, epochs) / epochs
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * done))


def released_unit(epoch: int, k: int, warmup: int, every: int = 100) -> int:
    """The release's unit at iteration `k` of `epoch`: stretches of 100 iterations in the first
    epoch, epochs afterwards.

    The rate is set after an iteration, so the first stretch is one longer; warm-up units that do
    not fit into the first epoch are left out.
    """
    return epoch + warmup if epoch else min(max(0, k - 1) // every, warmup)
