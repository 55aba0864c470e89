"""Weights that are made from their names: tensors for a model of any size, the same bits on every
machine.

A counter, shifted by the name's CRC-32, goes through the mixing function of SplitMix64 (Steele et
al. 2014); its upper 24 bits are a uniform number of unit variance, which is then scaled by what the
name says the tensor is. The outputs of the original models with these weights are recorded, so that
a loader can be tested at full size without shipping weights.
"""

import zlib

import numpy as np
import torch

_GOLDEN, _A, _B, _SHIFT = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0x632BE59BD9B4E019,
)
_ROWS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


def uniform(name: str, shape) -> np.ndarray:
    """Zero mean, unit variance, float32, of `shape`."""
    n = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode())) * np.uint64(
            _GOLDEN
        )
        x = x * np.uint64(_GOLDEN) + np.uint64(_SHIFT)
        for shift, factor in ((30, _A), (27, _B)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    centred = (x >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    return (centred * np.sqrt(12.0)).astype(np.float32).reshape(shape)


def weight(name: str, shape) -> torch.Tensor:
    """The weight or buffer called `name` in the original's key list."""
    leaf, shape = name.rsplit(".", 1)[-1], tuple(shape)
    if leaf == "position_ids":
        return torch.arange(shape[-1]).view(shape)
    if leaf in ("num_batches_tracked", "queue_ptr"):
        return torch.zeros(shape, dtype=torch.long)
    if leaf == "temp":
        return torch.full(shape, 0.07)
    value = uniform(name, shape)
    if leaf in ("image_queue", "text_queue"):
        value = value / np.linalg.norm(value, axis=0, keepdims=True)
    elif leaf == "running_var" or leaf == "weight" and len(shape) == 1:
        value = 1.0 + 0.1 * value
    elif leaf == "running_mean":
        value = 0.1 * value
    elif leaf in ("cls_token", "pos_embed", "pos_embedding"):
        value = 0.2 * value
    elif len(shape) < 2 or leaf == "weight" and any(row in name for row in _ROWS):
        value = 0.05 * value
    else:
        value = value / np.sqrt(int(np.prod(shape[1:])))
    if ".bn3.weight" in name:  # else the sums of ResNet's shortcuts grow without bound
        value = value * np.float32(0.25)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))
