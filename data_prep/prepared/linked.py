"""Pixels that stay in the user's own HDF5 file: images.h5 points to them instead of holding a copy
of many GB.
"""

import hashlib
import os
from pathlib import Path

import h5py
import numpy as np

from data_prep.prepared.overlap import difference_hash
from data_prep.reading.raw import Table, progress_bar

BLOCK = 64  # images read at once


def link_images(table: Table, partial: Path, size: int, progress: bool) -> dict | None:
    """images.h5 whose `cxr` points to the user's file, relative to the prepared folder; reading
    fails when that is gone.

    Returns what writing._write_images returns, for the rows of `table.linked`; None when they
    cannot be used as they are. That is: another size, or an image that is constant and has to be
    left out. The rows are then sorted, as usual.
    """
    path, name = table.linked
    every, digests = hashlib.sha256(), []
    with h5py.File(path, "r") as file:
        data = file[name]
        if data.shape[1] != size:
            table.keep_first(None)
            table.notes.append(
                f"{data.shape[1]} px images resized to {size} px (--size {data.shape[1]} "
                "needs no copy)"
            )
            return None
        hashes = np.zeros((len(data), 4), np.uint64)
        with progress_bar(
            total=len(data), desc="check pixels", unit="image", disable=not progress
        ) as bar:
            for first in range(0, len(data), BLOCK):
                try:
                    block = data[first : first + BLOCK]
                except (OSError, RuntimeError):  # damaged: decoding one by one tells which
                    table.keep_first(None)
                    return None
                for k, image in enumerate(block, first):
                    if image.min() == image.max():
                        table.keep_first(None)
                        return None
                    every.update(image)
                    digests.append(hashlib.sha256(image).hexdigest())
                    hashes[k] = difference_hash(image)
                    bar.update()
    target = os.path.relpath(path.resolve(), partial.parent.resolve() / partial.stem)
    with h5py.File(partial / "images.h5", "w") as file:
        file["cxr"] = h5py.ExternalLink(target, name)
    table.notes.append(
        f"images.h5 is a link to {target}: keep that file as it is (--set copy=yes copies it)"
    )
    return {"all": every.hexdigest(), "each": digests, "hashes": hashes}
