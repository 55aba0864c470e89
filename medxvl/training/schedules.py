"""Learning rates by step."""

import math


def warmup_cosine(step: int, steps: int, warmup: int, peak: float, end: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to `end` at `steps`; `step` counts from
    0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * done))
