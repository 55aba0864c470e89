"""The formulae of Medical X-VL's pre-training objective (arXiv 2208.05140, section 3), without the
model around them.

Shapes: N studies, S sentences in the batch, D joint width, Q queue length, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarities(
    f_image, f_text, f_image_m, f_text_m, image_queue, text_queue, temperature
) -> dict[str, Tensor]:
    """The four online similarities and the two momentum distributions, (N, N + Q) each.

    Features are unit rows: f_* (N, D), queues (Q, D). Columns: the batch's momentum features first,
    then the queue.
    """
    images, texts = torch.cat([f_image_m, image_queue]), torch.cat([f_text_m, text_queue])
    found = {"i2t": f_image @ texts.t() / temperature, "t2i": f_text @ images.t() / temperature}
    with torch.no_grad():
        found["soft_i2t"] = F.softmax(f_image_m @ texts.t() / temperature, dim=1)
        found["soft_t2i"] = F.softmax(f_text_m @ images.t() / temperature, dim=1)
    found["i2i"], found["t2t"] = (
        f_image @ images.t() / temperature,
        f_text @ texts.t() / temperature,
    )
    return found


def contrastive_losses(
    f_image,
    f_text,
    f_image_m,
    f_text_m,
    image_queue,
    text_queue,
    f_sentence,
    sentence_of,
    temperature,
    alpha,
    local_weight=1.0,
) -> dict[str, Tensor]:
    """The five terms of image-text alignment and their mean `ita`, in which `local` has the weight
    `local_weight`.

    Features are unit rows: f_* (N, D), queues (Q, D), sentences (S, D) with their report's index
    (S,). Image-to-text and text-to-image have soft targets, the two within-modality terms one-hot
    ones.
    """
    s = similarities(f_image, f_text, f_image_m, f_text_m, image_queue, text_queue, temperature)
    own = torch.arange(len(f_image), device=f_image.device)
    terms = {
        "i2t": distilled_cross_entropy(s["i2t"], own, s["soft_i2t"], alpha),
        "t2i": distilled_cross_entropy(s["t2i"], own, s["soft_t2i"], alpha),
        "i2i": F.cross_entropy(s["i2i"], own),
        "t2t": F.cross_entropy(s["t2t"], own),
        "local": sentence_loss(f_sentence, sentence_of, f_image, temperature),
    }
    weights = torch.ones(len(terms), device=f_image.device)
    weights[list(terms).index("local")] = local_weight
    terms["ita"] = (weights * torch.stack(list(terms.values()))).sum() / weights.sum()
    return terms


def sentence_loss(
    f_sentence: Tensor, sentence_of: Tensor, f_image: Tensor, temperature: Tensor
) -> Tensor:
    """Each sentence against the sentences of all other reports, seen from its own image.

    f_sentence (S, D), sentence_of (S,), f_image (N, D). The mean over a report's sentences, then
    over reports that have any.
    """
    n = len(f_image)
    scores = f_image @ f_sentence.t() / temperature  # (N, S)
    foreign = sentence_of[None, :] != torch.arange(n, device=scores.device)[:, None]
    others = scores.masked_fill(~foreign, float("-inf")).logsumexp(
        dim=1
    )  # (N,) all sentences of other reports
    own = scores[sentence_of, torch.arange(len(sentence_of), device=scores.device)]
    loss = torch.logaddexp(own, others[sentence_of]) - own
    count = torch.bincount(sentence_of, minlength=n)
    mean = torch.zeros_like(others).index_add(0, sentence_of, loss) / count.clamp(min=1)
    return mean.sum() / (count > 0).sum().clamp(min=1)


def pairing_loss(similarity: Tensor, belongs: Tensor) -> Tensor:
    """Each pair that belongs together against those of its row that do not, `belongs` (R, C) bool.

    The mean over a row's pairs, then over rows that have any; with one pair a row it is the cross
    entropy.
    """
    others = similarity.masked_fill(belongs, torch.finfo(similarity.dtype).min).logsumexp(
        dim=1, keepdim=True
    )
    loss = (torch.logaddexp(similarity, others) - similarity) * belongs
    count = belongs.sum(dim=1)
    return (loss.sum(dim=1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def distilled_cross_entropy(logits: Tensor, target: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * cross entropy to `target` (B,) + alpha * cross entropy to the distribution
    `soft` (B, C).
    """
    if not len(logits):
        return logits.sum()  # a batch in which no token was masked
    log_p = F.log_softmax(logits, dim=-1)
    hard = F.nll_loss(log_p, target)
    return (1 - alpha) * hard - alpha * (soft * log_p).sum(dim=-1).mean()


def released_distillation(logits: Tensor, labels: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """The masked-language loss as the release computes it: its soft part takes log-softmax over the
    sequence axis.

    logits, soft (N, L, V) at every position, labels (N, L) with -100 where nothing is predicted. A
    mistake of the release, kept to repeat its numbers (setting soft_targets);
    `distilled_cross_entropy` at the masked positions is the right one.
    """
    chosen = labels != -100
    if not chosen.any():
        return 0 * logits.sum()
    hard = F.cross_entropy(logits[chosen], labels[chosen])
    return (1 - alpha) * hard - alpha * (soft * F.log_softmax(logits, dim=1)).sum(dim=-1)[
        chosen
    ].mean()


def negative_weights(
    similarity: Tensor, same: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (N, N) of serving as a row's negative, rows without any candidate (N,), the
    least similar report (N,).

    Similarity-adjusted: a candidate whose report says the same (cosine `same` >= threshold) is no
    negative.
    """
    itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    barred = itself | (same >= threshold)
    stuck = barred.all(dim=1)
    least = same.masked_fill(itself, float("inf")).argmin(dim=1)
    weights = F.softmax(
        similarity.masked_fill(barred & ~stuck[:, None], float("-inf")), dim=1
    ).cpu()
    return (
        weights.clamp(min=1e-12).masked_fill(barred.cpu() & ~stuck.cpu()[:, None], 0),
        stuck,
        least,
    )


def hard_negatives(
    similarity: Tensor, same: Tensor, threshold: float, generator: torch.Generator
) -> Tensor:
    """For each row one column to serve as its negative, drawn with probability softmax(similarity)
    (N, N).

    A row with no candidate left takes the least similar report (the release gives up after 100
    draws over the whole batch and keeps what it has). Returns (N,) indices, never the row itself.
    """
    weights, stuck, least = negative_weights(similarity, same, threshold)
    drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1).to(similarity.device)
    return torch.where(stuck, least, drawn)
