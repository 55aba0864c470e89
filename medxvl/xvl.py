"""Medical X-VL: the model and its pre-training objective `MLM + ITA + 2 * ITM` (arXiv 2208.05140, section 3).

Image and text encoders, projections into a joint space, a fusion encoder, momentum twins of all of them, and two queues of
momentum features. Shapes: N studies, P image tokens, L text tokens, S sentences in the batch, D joint width, Q queue length.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import fusion, vision


@dataclass
class Batch:
    """One step's input. The online encoder sees `augmented`, the momentum encoder `plain`."""

    augmented: Tensor  # (N, C, s, s)
    plain: Tensor  # (N, C, s, s)
    ids: Tensor  # (N, L)
    mask: Tensor  # (N, L) 1 = token
    masked_ids: Tensor  # (N, L) with [MASK]s
    labels: Tensor  # (N, L) ids to predict, -100 elsewhere
    sentence_ids: Tensor  # (S, M) every sentence of every report
    sentence_mask: Tensor  # (S, M)
    sentence_of: Tensor  # (S,) index of the report a sentence belongs to

    def to(self, device):
        return Batch(**{k: v.to(device) for k, v in vars(self).items()})


class Encoders(nn.Module):
    """The part that has a momentum twin: both encoders, both projections and the fusion encoder."""

    def __init__(self, preset, vocabulary: int):
        super().__init__()
        self.vision = vision.build(preset)
        self.vision_proj = nn.Linear(preset.vision_width, preset.projection)
        self.text = fusion.build_text_encoder(preset, vocabulary)
        self.text_proj = nn.Linear(preset.text_width, preset.projection)
        self.fusion = fusion.FusionEncoder(preset, vocabulary)

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (N, P, e) and unit features (N, D)."""
        tokens = self.vision.forward_features(images)
        return tokens, F.normalize(self.vision_proj(tokens[:, 0]), dim=-1)

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text states (N, L, d) and unit features (N, D)."""
        states = self.text(ids, attention_mask=mask).last_hidden_state
        return states, F.normalize(self.text_proj(states[:, 0]), dim=-1)


class XVL(nn.Module):
    """Model with its twins and queues. `forward(batch)` returns every loss term by name; `total` is what is minimised."""

    def __init__(self, preset, vocabulary: int):
        super().__init__()
        self.preset = preset
        self.online = Encoders(preset, vocabulary)
        self.itm_head = nn.Linear(preset.text_width, 2)
        self.temperature = nn.Parameter(torch.tensor(preset.temperature))
        self.twin = copy.deepcopy(self.online).requires_grad_(False)
        for name in ("image_queue", "text_queue"):
            self.register_buffer(name, F.normalize(torch.randn(preset.queue_size, preset.projection), dim=-1))
        self.register_buffer("queue_at", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True):
        super().train(mode)
        self.twin.eval()  # a target without dropout and with running statistics; the release leaves it in train mode
        return self

    @torch.no_grad()
    def update_twin(self) -> None:
        """Twin = m * twin + (1 - m) * online, before the twin is used."""
        pairs = list(zip(self.twin.parameters(), self.online.parameters(), strict=True))
        torch._foreach_lerp_([t for t, _ in pairs], [o for _, o in pairs], 1 - self.preset.momentum)
        for target, source in zip(self.twin.buffers(), self.online.buffers(), strict=True):
            target.copy_(source)

    @torch.no_grad()
    def enqueue(self, image: Tensor, text: Tensor) -> None:
        """Overwrite the oldest entries with this batch's momentum features (any batch size, any queue size)."""
        at = (self.queue_at + torch.arange(len(image), device=image.device)) % len(self.image_queue)
        self.image_queue[at], self.text_queue[at] = image, text
        self.queue_at.copy_((self.queue_at + len(image)) % len(self.image_queue))

    def match_logits(self, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Matched / not matched (B, 2) from text states and image tokens, one pair a row."""
        return self.itm_head(self.online.fusion(text, mask, image)[:, 0])

    def contrast(self, images: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Both directions of plain in-batch contrast between the online encoders: the warm-up of the small presets.

        It stands in for the pre-trained encoders that the published models start from; fusion, twins and queues wait.
        """
        similarity = self.online.encode_image(images)[1] @ self.online.encode_text(ids, mask)[1].t() / self.temperature
        own = torch.arange(len(ids), device=ids.device)
        i2t, t2i = F.cross_entropy(similarity, own), F.cross_entropy(similarity.t(), own)
        return {"i2t": i2t, "t2i": t2i, "total": (i2t + t2i) / 2}

    @torch.no_grad()
    def reset_twin(self) -> None:
        self.twin.load_state_dict(self.online.state_dict())

    def forward(self, b: Batch, alpha: float, generator: torch.Generator) -> dict[str, Tensor]:
        """All loss terms. `alpha` is the share of the momentum targets; `generator` draws the hard negatives."""
        n = len(b.ids)
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)
        # The report and its masked copy are of equal length: one call.
        ids, mask = torch.cat([b.ids, b.masked_ids]), torch.cat([b.mask, b.mask])
        tokens, f_image = self.online.encode_image(b.augmented)
        states, f_text = self.online.encode_text(ids, mask)

        with torch.no_grad():
            if self.training:
                self.update_twin()
            tokens_m, f_image_m = self.twin.encode_image(b.plain)
            states_m, f_text_m = self.twin.encode_text(ids, mask)
            _, f_sentence = self.twin.encode_text(b.sentence_ids, b.sentence_mask)
        f_text, f_text_m = f_text[:n], f_text_m[:n]

        terms = contrastive_losses(
            f_image, f_text, f_image_m, f_text_m, self.image_queue, self.text_queue,
            f_sentence, b.sentence_of, self.temperature, alpha,
        )  # fmt: skip
        if self.training:
            self.enqueue(f_image_m, f_text_m)
        states, masked_states, states_m, masked_states_m = states[:n], states[n:], states_m[:n], states_m[n:]
        with torch.no_grad():
            similarity = f_image @ f_text.t() / self.temperature
            same = F.normalize(states_m[:, 0], dim=-1)
            same = same @ same.t()
            other_text = hard_negatives(similarity, same, self.preset.same_report, generator)
            other_image = hard_negatives(similarity.t(), same, self.preset.same_report, generator)

        # The three matching passes and the masked-language pass share one call of the fusion encoder.
        fused = self.online.fusion(
            torch.cat([states, states[other_text], states, masked_states]),
            torch.cat([b.mask, b.mask[other_text], b.mask, b.mask]),
            torch.cat([tokens, tokens, tokens[other_image], tokens]),
        )
        matched = torch.zeros(3 * n, dtype=torch.long, device=fused.device)
        matched[:n] = 1
        terms["itm"] = F.cross_entropy(self.itm_head(fused[: 3 * n, 0]), matched)

        rows, columns = torch.where(b.labels != -100)
        logits = self.online.fusion.mlm_head(fused[3 * n :][rows, columns])
        with torch.no_grad():
            fused_m = self.twin.fusion(masked_states_m, b.mask, tokens_m)[rows, columns]
            soft = F.softmax(self.twin.fusion.mlm_head(fused_m), dim=-1)
        terms["mlm"] = distilled_cross_entropy(logits, b.labels[rows, columns], soft, alpha)
        terms["total"] = terms["mlm"] + terms["ita"] + self.preset.itm_weight * terms["itm"]
        return terms


def contrastive_losses(
    f_image, f_text, f_image_m, f_text_m, image_queue, text_queue, f_sentence, sentence_of, temperature, alpha
) -> dict[str, Tensor]:
    """The five terms of image-text alignment and their mean `ita` (section 2 of the objective).

    Features are unit rows: f_* (N, D), queues (Q, D), sentences (S, D) with their report's index (S,). Image-to-text and
    text-to-image have soft targets, the two within-modality terms one-hot ones. Columns: the batch's momentum features
    first, then the queue.
    """
    images, texts = torch.cat([f_image_m, image_queue]), torch.cat([f_text_m, text_queue])
    own = torch.arange(len(f_image), device=f_image.device)
    i2t, t2i = f_image @ texts.t() / temperature, f_text @ images.t() / temperature
    with torch.no_grad():
        soft_i2t = F.softmax(f_image_m @ texts.t() / temperature, dim=1)
        soft_t2i = F.softmax(f_text_m @ images.t() / temperature, dim=1)
    terms = {
        "i2t": distilled_cross_entropy(i2t, own, soft_i2t, alpha),
        "t2i": distilled_cross_entropy(t2i, own, soft_t2i, alpha),
        "i2i": F.cross_entropy(f_image @ images.t() / temperature, own),
        "t2t": F.cross_entropy(f_text @ texts.t() / temperature, own),
        "local": sentence_loss(f_sentence, sentence_of, f_image, temperature),
    }
    terms["ita"] = torch.stack(list(terms.values())).mean()
    return terms


def sentence_loss(f_sentence: Tensor, sentence_of: Tensor, f_image: Tensor, temperature: Tensor) -> Tensor:
    """Each sentence against the sentences of all other reports, seen from its own image.

    f_sentence (S, D), sentence_of (S,), f_image (N, D). The mean over a report's sentences, then over reports that have any.
    """
    n = len(f_image)
    scores = f_image @ f_sentence.t() / temperature  # (N, S)
    foreign = sentence_of[None, :] != torch.arange(n, device=scores.device)[:, None]
    others = scores.masked_fill(~foreign, float("-inf")).logsumexp(dim=1)  # (N,) all sentences of other reports
    own = scores[sentence_of, torch.arange(len(sentence_of), device=scores.device)]
    loss = torch.logaddexp(own, others[sentence_of]) - own
    count = torch.bincount(sentence_of, minlength=n)
    mean = torch.zeros_like(others).index_add(0, sentence_of, loss) / count.clamp(min=1)
    return mean.sum() / (count > 0).sum().clamp(min=1)


def distilled_cross_entropy(logits: Tensor, target: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * cross entropy to `target` (B,) + alpha * cross entropy to the distribution `soft` (B, C)."""
    if not len(logits):
        return logits.sum()  # a batch in which no token was masked
    log_p = F.log_softmax(logits, dim=-1)
    hard = F.nll_loss(log_p, target)
    return (1 - alpha) * hard - alpha * (soft * log_p).sum(dim=-1).mean()


def hard_negatives(similarity: Tensor, same: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    """For each row one column to serve as its negative, drawn with probability softmax(similarity) (N, N).

    Similarity-adjusted: a candidate whose report says the same (cosine `same` >= threshold) is no negative. A row with no
    candidate left takes the least similar report. Returns (N,) indices, never the row itself.
    """
    itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    barred = itself | (same >= threshold)
    stuck = barred.all(dim=1)
    least = same.masked_fill(itself, float("inf")).argmin(dim=1)
    weights = F.softmax(similarity.masked_fill(barred & ~stuck[:, None], float("-inf")), dim=1).cpu()
    weights = weights.clamp(min=1e-12).masked_fill(barred.cpu() & ~stuck.cpu()[:, None], 0)
    drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1).to(similarity.device)
    return torch.where(stuck, least, drawn)
