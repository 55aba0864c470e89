"""Decode many image files over several processes, a bounded number at a time."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path

import cv2
import numpy as np

from . import fault
from .images import load

BATCH = 8  # images a task: small arrays travel cheaper together


def decoded(raw: Path, images: list[str], rows: np.ndarray, size: int, workers: int) -> Iterator[tuple]:
    """(row, uint8 array or None, reason) for each of `rows`, in no fixed order; images[row] is a path below `raw`.

    At most three tasks a worker are under way, so memory does not grow with the dataset. Raises DataError when a worker
    dies.
    """
    tasks = [[(int(row), images[row]) for row in rows[k : k + BATCH]] for k in range(0, len(rows), BATCH)]
    workers = min(workers, len(tasks) // 4 + 1)  # starting a process costs as much as decoding some dozens of images
    if workers == 1:
        for task in tasks:
            yield from _load_all(raw, task, size)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        pending = set()
        for task in tasks:
            pending.add(pool.submit(_load_all, raw, task, size))
            if len(pending) >= 3 * workers:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield from future.result()
        for future in pending:
            yield from future.result()
    except BrokenProcessPool:
        raise fault(
            f"{workers} decoding processes to stay alive",
            "one that was killed (out of memory?)",
            "run again with fewer workers: it goes on where it stopped",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _load_all(raw: Path, task: list[tuple[int, str]], size: int) -> list[tuple]:
    return [(row, *load(raw, image, size)) for row, image in task]


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the parent, which then ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for its next task for ever."""
    parent_process().join()
    os._exit(1)
