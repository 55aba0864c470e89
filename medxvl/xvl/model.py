"""Medical X-VL: the model and its pre-training objective `MLM + ITA + 2 * ITM` (arXiv 2208.05140,
section 3).

Image and text encoders, projections into a joint space, a fusion encoder, momentum twins of all of
them, and two queues of momentum features. Shapes: N studies, P image tokens, L text tokens, S
sentences in the batch, D joint width, Q queue length.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl.layers import fusion, unpadded, vision_transformer
from medxvl.training import distributed
from medxvl.training.distributed import gather, gather_ragged, mean_weight
from medxvl.xvl import release
from medxvl.xvl.losses import (
    contrastive_losses,
    distilled_cross_entropy,
    hard_negatives,
    released_distillation,
)


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
        self.packed = bool(preset.packed)
        self.vision = vision_transformer.build(preset)
        if preset.pooling_start:
            vision_transformer.start_as_pooling(self.vision)
        self.vision_proj = nn.Linear(preset.vision_width, preset.projection)
        self.text = fusion.build_text_encoder(preset, vocabulary)
        self.text_proj = nn.Linear(preset.text_width, preset.projection)
        self.fusion = fusion.FusionEncoder(preset, vocabulary)

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (N, P, e) and unit features (N, D)."""
        tokens = self.vision.forward_features(images)
        return tokens, unit(self.vision_proj(tokens[:, 0]))

    def encode_text(
        self, ids: Tensor, mask: Tensor, summary: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Text states (N, L, d) and unit features (N, D); with `summary` of the states those of
        `[CLS]` alone, (N, d), and no other is computed where the model runs `packed`.
        """
        if self.packed:
            layout = unpadded.from_mask(mask)
            words = unpadded.embed(self.text.embeddings, ids, mask, layout)
            keep = unpadded.first_of(mask) if summary else None
            states = unpadded.run(self.text.encoder.layer, words, mask, keep=keep)
            states = states[:, None] if summary else layout.pad(states)
        else:
            states = self.text(ids, attention_mask=mask).last_hidden_state
        feature = unit(self.text_proj(states[:, 0]))
        return (states[:, 0] if summary else states), feature

    @property
    def look(self) -> nn.Module:
        """The first cross-attention: its queries and keys are where words and patches meet."""
        return self.fusion.encoder.layer[0].crossattention.self


@dataclass
class Momentum:
    """What the momentum twin makes of a batch: targets, without gradient."""

    tokens: Tensor  # (N, P, e) of the plain view
    f_image: Tensor  # (N, D)
    report: Tensor  # (N, d) `[CLS]` states of the reports
    f_text: Tensor  # (N, D)
    masked_states: Tensor  # (N, L, d) of the masked reports
    f_sentence: Tensor  # (S, D)


class XVL(nn.Module):
    """Model with its twins and queues. `forward(batch)` returns every loss term by name; `total` is
    what is minimised.
    """

    # What medxvl.weights needs to know of the class.
    SAVED_AS, FAMILY, NOTEBOOK = "medxvl X-VL", "x-vl", "21"
    from_released = staticmethod(release.from_released)
    sized = staticmethod(release.sized)

    def __init__(self, preset, vocabulary: int):
        super().__init__()
        self.preset = preset
        self.online = Encoders(preset, vocabulary)
        self.itm_head = nn.Linear(preset.text_width, 2)
        self.image_fusion = self.image_itm_head = None
        if preset.itm_heads == 2:  # early X-VL
            self.image_fusion = fusion.FusionEncoder(preset, vocabulary, image_queries=True)
            self.image_itm_head = nn.Linear(preset.vision_width, 2)
        if preset.soft_targets == "sequence" and preset.packed:
            raise ValueError("soft_targets=sequence needs the states of padding: set packed=0")
        self.temperature = nn.Parameter(torch.tensor(preset.temperature))
        self.twin = copy.deepcopy(self.online).requires_grad_(False)
        for name in ("image_queue", "text_queue"):
            self.register_buffer(
                name, F.normalize(torch.randn(preset.queue_size, preset.projection), dim=-1)
            )
        self.register_buffer("queue_at", torch.zeros((), dtype=torch.long))
        # whether a step moves the twin; not so where gradients are still being accumulated
        self.follows = True

    def train(self, mode: bool = True):
        super().train(mode)
        # a target without dropout and with running statistics; the release leaves it in train mode
        self.twin.eval()
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
        """Overwrite the oldest entries with this batch's momentum features (any batch size, any
        queue size).
        """
        size = len(self.image_queue)
        at = (self.queue_at + torch.arange(len(image), device=image.device)) % size
        at, newest = at[-size:], slice(-size, None)  # of a batch larger than the queue its end
        self.image_queue[at], self.text_queue[at] = image[newest], text[newest]
        self.queue_at.copy_((self.queue_at + len(image)) % len(self.image_queue))

    def match_logits(self, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Matched / not matched (B, 2) from text states and image tokens, one pair a row."""
        logits = self.itm_head(
            self.online.fusion.tokens(text, mask, image, unpadded.first_of(mask))
        )
        return self.both_directions(logits, text, mask, image)

    def match_every(self, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """`match_logits` of every image with every text, (I, B, 2): text states (B, L, d), image
        tokens (I, P, e).
        """
        logits = self.itm_head(self.online.fusion.every_pair(text, mask, image))
        if self.image_fusion is None:
            return logits
        everywhere = torch.ones(image.shape[:2], dtype=mask.dtype, device=mask.device)
        fused = self.image_fusion.every_pair(image, everywhere, text, memory_mask=mask)
        return (logits + self.image_itm_head(fused).transpose(0, 1)) / 2

    def both_directions(self, logits, text, mask, image, groups=(None,)) -> Tensor:
        """Early X-VL: the mean of `logits` (B, 2) and those of the image looking at the text; else
        `logits` alone.
        """
        if self.image_fusion is None:
            return logits
        image = fusion.regroup(image, groups)
        everywhere = torch.ones(image.shape[:2], dtype=mask.dtype, device=mask.device)
        fused = self.image_fusion.tokens(
            image, everywhere, text, unpadded.first_of(everywhere), memory_mask=mask
        )
        return (logits + self.image_itm_head(fused)) / 2

    @torch.no_grad()
    def reset_twin(self) -> None:
        self.twin.load_state_dict(self.online.state_dict())

    @torch.no_grad()
    def momentum(self, b: Batch) -> Momentum:
        """Pass of the twin over the plain view, the reports, their masked copies and their
        sentences.
        """
        n, twin = len(b.ids), self.twin
        if (
            self.preset.packed
        ):  # reports and sentences, of which only the summary is needed, in one call
            most = max(b.ids.shape[1], b.sentence_ids.shape[1])
            ids, mask = (
                torch.cat([F.pad(t, (0, most - t.shape[1])) for t in pair])
                for pair in ((b.ids, b.sentence_ids), (b.mask, b.sentence_mask))
            )
            reports, features = twin.encode_text(ids, mask, summary=True)
            masked, _ = twin.encode_text(b.masked_ids, b.mask)
            return Momentum(
                *twin.encode_image(b.plain), reports[:n], features[:n], masked, features[n:]
            )
        tokens, f_image = twin.encode_image(b.plain)
        # The report and its masked copy are of equal length: one call.
        states, f_text = twin.encode_text(
            torch.cat([b.ids, b.masked_ids]), torch.cat([b.mask, b.mask])
        )
        _, f_sentence = twin.encode_text(b.sentence_ids, b.sentence_mask)
        return Momentum(tokens, f_image, states[:n, 0], f_text[:n], states[n:], f_sentence)

    @torch.no_grad()
    def draw_negatives(
        self, f_image, f_text, f_image_m, f_text_m, report, generator
    ) -> tuple[Tensor, Tensor]:
        """For each image another's report and for each report another's image, (N,) indices
        each.
        """
        if self.preset.negatives == "online":
            i2t = f_image @ f_text.t() / self.temperature
            t2i = i2t.t()
        else:
            i2t, t2i = (
                f_image @ f_text_m.t() / self.temperature,
                f_text @ f_image_m.t() / self.temperature,
            )
        i2t, t2i = i2t * self.preset.hardness, t2i * self.preset.hardness
        same = unit(report)
        same = same @ same.t()
        other_text = hard_negatives(i2t, same, self.preset.same_report, generator)
        return other_text, hard_negatives(t2i, same, self.preset.same_report, generator)

    def forward(self, b: Batch, alpha: float, generator: torch.Generator) -> dict[str, Tensor]:
        """All loss terms. `alpha` is the share of the momentum targets; `generator` draws the hard
        negatives.

        With several processes a batch is this process's part, all parts padded alike; alignment and
        negatives see the whole batch, and `generator` must be in the same state everywhere.
        """
        n = len(b.ids)
        mine = distributed.own(n * distributed.processes())
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)
        tokens, f_image = self.online.encode_image(b.augmented)
        # The report and its masked copy are of equal length: one call.
        states, f_text = self.online.encode_text(
            torch.cat([b.ids, b.masked_ids]), torch.cat([b.mask, b.mask])
        )
        states, masked_states, f_text = states[:n], states[n:], f_text[:n]
        if self.training and self.follows:
            self.update_twin()
        m = self.momentum(b)
        everyone = [gather(f) for f in (f_image, f_text, m.f_image, m.f_text)]
        with exactly(tokens):
            terms = contrastive_losses(
                *everyone,
                self.image_queue,
                self.text_queue,
                gather_ragged(m.f_sentence),
                gather_ragged(b.sentence_of + mine.start),
                self.temperature,
                alpha,
                self.preset.local_weight,
            )
            other_text, other_image = (
                k[mine] for k in self.draw_negatives(*everyone, gather(m.report), generator)
            )
        if self.training:
            self.enqueue(*everyone[2:])

        if not self.preset.fusion:
            return terms | {"total": terms["ita"]}

        # The three matching passes and the masked-language pass share one call of the fusion
        # encoder.
        others, other_masks = gather(states)[other_text], gather(b.mask)[other_text]
        texts = torch.cat([states, others, states, masked_states])
        masks = torch.cat([b.mask, other_masks, b.mask, b.mask])
        images = gather(tokens)
        own = (
            None if images is tokens else torch.arange(mine.start, mine.stop, device=tokens.device)
        )
        groups = (own, own, other_image, own)
        keep = unpadded.first_of(masks)
        keep[3 * n :] = b.labels != -100
        fused = self.online.fusion.tokens(texts, masks, images, keep, groups)
        matched = torch.zeros(3 * n, dtype=torch.long, device=fused.device)
        matched[:n] = 1
        pairs = self.both_directions(
            self.itm_head(fused[: 3 * n]), texts[: 3 * n], masks[: 3 * n], images, groups[:3]
        )
        terms["itm"] = F.cross_entropy(pairs, matched)
        terms["mlm"] = self.masked_language(fused[3 * n :], masked_states, tokens, b, m, alpha)
        terms["total"] = terms["mlm"] + terms["ita"] + self.preset.itm_weight * terms["itm"]
        return terms

    def masked_language(
        self, fused: Tensor, masked_states, tokens, b: Batch, m: Momentum, alpha: float
    ) -> Tensor:
        """Masked-language loss from the fused states of the masked tokens (K, d), with the twin's
        distribution as target.
        """
        chosen = b.labels != -100
        weight = mean_weight(chosen.sum(), tokens)
        if self.preset.soft_targets == "sequence":  # as released
            with torch.no_grad():
                soft = F.softmax(
                    self.twin.fusion.mlm_head(self.twin.fusion(m.masked_states, b.mask, m.tokens)),
                    dim=-1,
                )
            logits = self.online.fusion.mlm_head(self.online.fusion(masked_states, b.mask, tokens))
            return weight * released_distillation(logits, b.labels, soft, alpha)
        logits = self.online.fusion.mlm_head(fused)
        with torch.no_grad():
            fused_m = self.twin.fusion.tokens(m.masked_states, b.mask, m.tokens, chosen)
            soft = F.softmax(self.twin.fusion.mlm_head(fused_m), dim=-1)
        return weight * distilled_cross_entropy(logits, b.labels[chosen], soft, alpha)


def unit(x: Tensor) -> Tensor:
    """Rows of length one, in float32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def exactly(x: Tensor):
    """Context without autocast: similarities are divided by the temperature, and half precision
    would show.
    """
    return torch.autocast(x.device.type, enabled=False)
