"""The smallest X-VL, and a batch for it."""

import torch

from medxvl.config import presets
from medxvl.xvl.model import Batch

TINY = presets.load(
    "smoke",
    "vision_width=32 vision_layers=1 vision_heads=2 text_width=24 text_layers=1 text_heads=2 "
    "text_hidden=32 "
    "fusion_layers=1 fusion_hidden=32 projection=16 queue_size=10 vocabulary=60 max_tokens=12",
)
# Additions behind a number of this model: layers of the encoders and of fusion, each as wide as 32.
CHAIN = 3 * 32


def batch(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids, sentences = (
        torch.randint(5, 60, (n, 9), generator=g),
        torch.randint(5, 60, (2 * n, 5), generator=g),
    )
    mask = torch.ones_like(ids)
    mask[1, 6:], ids[1, 6:] = 0, 0
    labels = torch.where(torch.rand(n, 9, generator=g) < 0.3, ids, -100).masked_fill(
        mask == 0, -100
    )
    labels[0, 2] = ids[0, 2]
    images = [torch.rand(n, 1, TINY.image_size, TINY.image_size, generator=g) for _ in range(2)]
    return Batch(
        *images,
        ids,
        mask,
        torch.where(labels != -100, 4, ids),
        labels,
        sentences,
        torch.ones_like(sentences),
        torch.arange(2 * n) % n,
    )
