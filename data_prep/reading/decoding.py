"""Decode many image files over several processes, a bounded number at a time."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path

import cv2
import numpy as np

from data_prep import fault
from data_prep.reading.images import load

BATCH = 8  # images a task: small arrays travel cheaper together
SECONDS = 120  # for one image; then its process is ended
DIED = f"cannot be decoded: the decoder crashed or took more than {SECONDS} s"
GUARD = (
    "in a script of your own, call prepare() below `if __name__ == '__main__':`, or use workers=1"
)
PLAIN = (".jpg", ".jpeg", ".png")  # decoders that never brought a process down: safe in this one


def decoded(
    raw: Path, images: list[str], rows: np.ndarray, size: int, workers: int, **how: bool
) -> Iterator:
    """(row, uint8 array or None, reason) for each of `rows`, in no fixed order; images[row] is a
    path below `raw`.

    `how`: see images.load. At most three tasks a worker are under way, so memory does not grow with
    the dataset. A file on which a worker dies, or goes on for too long, comes back with DIED as its
    reason.
    """
    tasks = [
        [(int(row), images[row]) for row in rows[k : k + BATCH]] for k in range(0, len(rows), BATCH)
    ]
    workers = min(
        workers, len(tasks) // 4 + 1
    )  # starting a process costs as much as decoding some dozens of images
    read = partial(load, raw, size=size, **how)
    if workers == 1 and all(images[row].lower().endswith(PLAIN) for row in rows):
        for row, image in chain.from_iterable(tasks):
            yield row, *read(image)
        return
    left = iter(tasks)
    while lost := (yield from _in_pool(read, left, workers)):
        alone = iter(
            [[one] for task in lost for one in task]
        )  # one at a time, to find the one that did it
        while culprit := (yield from _in_pool(read, alone, 1, ahead=1)):
            yield culprit[0][0][0], None, DIED


def _in_pool(read, tasks: Iterator[list], workers: int, ahead: int = 3) -> Iterator:
    """Yields the results of `tasks`, `ahead` a worker under way at once.

    When a worker died, stops and returns the tasks that came to nothing by that.
    """
    pending, lost = {}, []
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:  # processes cannot start at all: no file is to blame for that
            raise fault("worker processes that start", "one that ended at once", GUARD) from None
        while True:
            while not lost and len(pending) < ahead * workers and (task := next(tasks, None)):
                try:
                    pending[pool.submit(_load_timed, read, task)] = task
                except BrokenProcessPool:
                    lost.append(task)
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task = pending.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    lost.append(task)
                else:
                    yield from result
    finally:
        pool.shutdown(cancel_futures=True)
    return lost


def _load_timed(read, task: list[tuple[int, str]]) -> list[tuple]:
    """In a worker, whose main thread this is: an alarm that nobody handles ends the process, even
    in a decoder's loop.
    """
    results = []
    for row, image in task:
        signal.alarm(SECONDS)
        results.append((row, *read(image)))
    signal.alarm(0)
    return results


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C stops the parent, which then ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for its next task for ever."""
    parent_process().join()
    os._exit(1)
