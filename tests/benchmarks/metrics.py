"""Time of the bootstrap and of retrieval scores; one JSON line a measurement.   python
tests/benchmarks/metrics.py
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from medxvl.evaluation import metrics, retrieval  # noqa: E402


def timed(name: str, work, rounds: int = 7) -> None:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "name": name,
                "median_s": round(statistics.median(times), 4),
                "min_s": round(min(times), 4),
                "rounds": rounds,
            }
        )
    )


def main() -> None:
    rng = np.random.default_rng(0)
    y, s = rng.integers(0, 2, (500, 5)).astype(float), rng.random((500, 5))
    for metric in (metrics.auroc, metrics.f1_max):
        timed(
            f"bootstrap {metric.__name__}, 1,000 resamples of 500 x 5",
            lambda m=metric: metrics.bootstrap(m, y, s),
        )
    scores, labels = rng.random((759, 759)), rng.integers(0, 60, 759)
    relevant = labels[:, None] == labels[None]
    timed("retrieval, every metric of 759 x 759", lambda: retrieval.per_query(scores, relevant))
    values = retrieval.per_query(scores, relevant)["mrr"]
    timed(
        "bootstrap mrr, 1,000 resamples of 759 queries",
        lambda: retrieval.estimate(values, np.arange(759)),
    )


if __name__ == "__main__":
    main()
