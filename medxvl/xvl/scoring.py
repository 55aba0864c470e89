"""Matching scores of given image-text pairs: every image and every different text encoded once, the
fusion encoder over the pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medxvl.data import dataset as datasets
from medxvl.data import text
from medxvl.layers import vision_transformer

PAIRS = 1024  # image-text pairs a call of the fusion encoder


@dataclass
class Texts:
    """Different texts, each once: token ids and mask (U, L), and which of them each of the n given
    ones is.
    """

    ids: Tensor
    mask: Tensor
    which: np.ndarray  # (n,)


def distinct(tokenizer, texts: list[str], preset) -> Texts:
    """Texts that read the same to the model (after cutting to `max_tokens`) are one: their scores
    are then equal, exactly.
    """
    ids, mask = text.encode(tokenizer, texts, preset.max_tokens)
    unique, which = torch.unique(ids, dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(ids)).scatter_reduce(
        0, which, torch.arange(len(ids)), "amin"
    )
    return Texts(ids[first], mask[first], which.numpy())


@torch.no_grad()
def encode_images(models, dataset, rows, device) -> list[tuple[Tensor, Tensor]]:
    """Image tokens (N, P, e) and unit features (N, D) of `rows`, by each of the checkpoints
    `models`.
    """
    pixels, encoded = datasets.Pixels(dataset, rows), []
    for model in models:
        model.eval()
        views = (
            vision_transformer.plain_view(pixels(part), model.preset).to(device)
            for part in torch.arange(len(rows)).split(256)
        )
        encoded.append(
            tuple(torch.cat(x) for x in zip(*map(model.online.encode_image, views), strict=True))
        )
    return encoded


@torch.no_grad()
def match(
    model, tokens: Tensor, states: Tensor, mask: Tensor, image: Tensor, report: Tensor
) -> Tensor:
    """(K,) how well the images `image` (K,) and the texts `report` (K,) match: the log-odds of the
    matching head.

    tokens (N, P, e), states (U, L, d), mask (U, L). Pairs of one length are read together, so that
    little padding is computed.
    """
    lengths, scores = mask.sum(1), torch.empty(len(image), device=tokens.device)
    for part in lengths[report].argsort(stable=True).split(PAIRS):
        i, t = image[part], report[part]
        longest = int(lengths[t].max())
        logits = model.match_logits(states[t, :longest], mask[t, :longest], tokens[i]).float()
        scores[part] = logits[:, 1] - logits[:, 0]
    return scores
