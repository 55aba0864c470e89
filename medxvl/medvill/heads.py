"""What MedViLL's downstream tasks put on top of the model: heads, their vectors and losses (arXiv
2105.11333, section III-D).
"""

import torch.nn.functional as F
from torch import Tensor, nn


def answer_head(width: int, answers: int) -> nn.Sequential:
    """Two layers from the pair vector (N, d) to the logits of the candidate answers (N,
    answers).
    """
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, answers))


def answer_vector(states: Tensor, n_image: int) -> Tensor:
    """Elementwise product of `[CLS]` and the image part's `[SEP]`, (N, d), from hidden states (N,
    L, d).
    """
    return states[:, 0] * states[:, n_image - 1]


def positive_weights(positives: Tensor, n: int) -> Tensor:
    """Weight of a class's positives in binary cross entropy: negatives over positives among `n`
    training studies, (C,).

    Raises ValueError for a class without positives, whose weight would be infinite.
    """
    if (positives <= 0).any():
        raise ValueError(
            f"classes {(positives <= 0).nonzero().flatten().tolist()}: expected at least one "
            "positive each"
        )
    return (n - positives) / positives


def masked_word_loss(
    logits: Tensor, targets: Tensor, weights: Tensor, drop_worst: float = 0.0
) -> Tensor:
    """Mean cross entropy of the masked words (N, M, vocabulary) whose weight is 1, for fine-tuning
    on generation.

    `drop_worst` leaves out that share of the samples, those with the largest sum of losses (0.2 by
    default in the release).
    """
    losses = (
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        * weights
    )
    losses, counts = losses.sum(dim=1), weights.sum(dim=1)
    kept = losses.argsort()[: int(len(losses) * (1 - drop_worst))]
    return losses[kept].sum() / (counts[kept].sum() + 1e-5)
