"""What occurs in more than one split: patients, studies, identical and near-identical images."""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd

from data_prep.reading.raw import progress_bar

SPLITS = ("train", "valid", "test")
SIDE = 16  # the hash has SIDE x SIDE bits
MARGIN = 1  # grey levels: flat background gives no random bits
# Chosen on 112 real radiographs of the public COVID-19 collection, 6,216 pairs: the four pairs that
# are one picture published twice differ by 0 bits; recompressed, halved, brightened or noisy copies
# by at most 10 (95 % of them; 7 for JPEG quality 30); two pictures of one patient by 19 or more, of
# two patients by 32 or more. A 64-bit hash does not separate them (two patients: 2 bits). A copy
# whose edge is cut by 2 % or more is not found.
MOST_BITS = 12
# Among very many pairs different pictures may come as close by chance, so the pixels must agree as
# well.
LEAST_CORRELATION = 0.98
BLOCK = 2048  # images compared with as many at once: 128 MB


def difference_hash(grey: np.ndarray) -> np.ndarray:
    """256 bits, as 4 uint64, of a grey image: whether each cell of a 16 x 16 grid is darker than
    its right neighbour.
    """
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(np.diff(small, axis=1) > MARGIN).view(np.uint64)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two grey images of one size, shrunk to 64 x 64."""
    small = [
        cv2.resize(x, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
        for x in (a, b)
    ]
    small = [x - x.mean() for x in small]
    return float(
        small[0] @ small[1] / max(np.linalg.norm(small[0]) * np.linalg.norm(small[1]), 1e-9)
    )


def in_two_splits(keys, split) -> list:
    """The keys that occur with more than one split, sorted."""
    pairs = pd.DataFrame({"key": np.asarray(keys), "split": np.asarray(split)}).drop_duplicates()
    return sorted(pairs["key"][pairs["key"].duplicated()].unique())


def near_identical(
    hashes: np.ndarray, digests: list[str], split, image: Callable, progress: bool = False
) -> list[tuple[int, int]]:
    """(row, row of its nearest copy in an earlier split) of the images of `valid` and `test` that
    have such a copy.

    hashes: (n, 4) uint64 of difference_hash; digests: SHA-256 of each image, equal ones are left
    out here; image(row) gives its pixels, read for the few candidates only. Compares in blocks:
    memory does not grow with the number.
    """
    split, digests, found = np.asarray(split), np.asarray(digests), {}
    for k, name in enumerate(SPLITS):
        later = np.flatnonzero(split == name)
        earlier = np.flatnonzero(np.isin(split, SPLITS[:k]))
        few = len(later) * len(earlier) < 1e8  # half a second
        starts = range(0, len(later), BLOCK)
        for i in progress_bar(
            starts, desc=f"copies in {name}", unit="block", disable=few or not progress
        ):
            rows, close = later[i : i + BLOCK], []
            for j in range(0, len(earlier), BLOCK):
                others = earlier[j : j + BLOCK]
                bits = np.zeros((len(rows), len(others)), np.uint16)
                for word in range(hashes.shape[1]):
                    bits += np.bitwise_count(
                        hashes[rows, word][:, None] ^ hashes[others, word][None]
                    )
                a, b = np.nonzero(bits <= MOST_BITS)
                few = (
                    np.arange(len(a)) - np.searchsorted(a, a) < 8
                )  # of hundreds of copies of one picture
                a, b = a[few], b[few]
                close += zip(bits[a, b].tolist(), rows[a].tolist(), others[b].tolist(), strict=True)
            for _, row, other in sorted(close):
                if row not in found and digests[row] != digests[other]:
                    if correlation(image(row), image(other)) >= LEAST_CORRELATION:
                        found[row] = other
    return sorted(found.items())
