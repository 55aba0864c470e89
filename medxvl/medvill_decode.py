"""Reports from MedViLL, as UniLM decodes: append `[MASK]`, predict it, put the word in its place, go on (Seq2Seq mask).

Each step runs two places only, the last word and the new `[MASK]`: keys and values of the image part and of earlier words are kept.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cached, medvill_batch
from .medvill import Joint, MedViLL


@dataclass
class Cache:
    """Keys and values of every layer, [(N, heads, S, d / heads)] * 2 each, and how many words are among them."""

    keys: list[Tensor]
    values: list[Tensor]
    words: int

    def select(self, rows: Tensor) -> "Cache":
        return Cache([k[rows] for k in self.keys], [v[rows] for v in self.values], self.words)


class Decoder:
    """`step` for medxvl.decode. `positions`: "own", the words count on; "released", the last word always has position 0 and
    `[MASK]` 1, a slip of the release (its fine-tuning counts on)."""

    def __init__(self, model: MedViLL, special: tuple[int, int], mask_id: int, positions: str = "own", most: int = 0):
        if positions not in ("own", "released"):
            raise ValueError(f"positions={positions!r}: expected own or released")
        self.model, self.special, self.mask_id, self.positions = model, special, mask_id, positions
        rows = model.bert.embeddings.position_embeddings.num_embeddings
        if positions == "own" and most > rows:
            raise ValueError(
                f"{most} words need as many positions: the model has {rows} (setting medvill_max_positions)"
            )

    @torch.no_grad()
    def start(self, features: Tensor) -> Cache:
        """The image part `[CLS] v_1 .. v_P [SEP]` of tokens (N, P, F), which looks at itself alone."""
        n, places = features.shape[:2]
        device = features.device
        nothing = torch.empty(n, 0, dtype=torch.long)
        mask = torch.ones(n, places + 2, places + 2, dtype=torch.bool)
        joint = medvill_batch.join(
            nothing, mask, torch.arange(places).expand(n, -1), self.special, every=True, positions="generation"
        )
        joint = joint.to(device)
        x = self.model.bert.embeddings(
            inputs_embeds=self.model.embed(features, joint),
            position_ids=joint.position_ids,
            token_type_ids=joint.segment_ids,
        )
        keys, values = [], []
        for layer in self.model.bert.encoder.layer:
            x, k, v = _layer(layer, x, None, None, None)
            keys.append(k)
            values.append(v)
        return Cache(keys, values, 0)

    @torch.no_grad()
    def step(self, cache: Cache, words: Tensor | None) -> tuple[Tensor, Cache]:
        """Log-probabilities (N, V) of the next word after `words` (N,), None at the start."""
        n, device = len(cache.keys[0]), cache.keys[0].device
        ids = torch.full((n, 1), self.mask_id, device=device)
        at = [cache.words]
        if words is not None:
            ids = torch.cat([words[:, None].to(device), ids], dim=1)
            at = [cache.words, cache.words + 1] if self.positions == "own" else [0, 1]
        at = torch.tensor(at, device=device).expand(n, -1)
        x = self.model.bert.embeddings(input_ids=ids, position_ids=at, token_type_ids=torch.ones_like(ids))
        new, keep = x.shape[1], x.shape[1] - 1  # the place of [MASK] is not kept
        seen = torch.ones(new, cache.keys[0].shape[2] + new, dtype=torch.bool, device=device)
        seen[:keep, -1] = False
        keys, values = [], []
        for layer, k, v in zip(self.model.bert.encoder.layer, cache.keys, cache.values, strict=True):
            x, k, v = _layer(layer, x, k, v, seen)
            keys.append(k[:, :, : k.shape[2] - 1])
            values.append(v[:, :, : v.shape[2] - 1])
        log_p = F.log_softmax(self.model.mlm_logits(x[:, -1]).float(), dim=-1)
        return log_p, Cache(keys, values, cache.words + keep)


def _layer(
    layer, x: Tensor, keys: Tensor | None, values: Tensor | None, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer of BERT for new places `x` (N, m, d), which look at earlier `keys`, `values` and themselves; all of these back."""
    k, v = cached.keys_values(layer.attention, x)
    if keys is not None:
        k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
    return layer.feed_forward_chunk(cached.attend(layer.attention, x, k, v, seen)), k, v


def true_words(ids: Tensor, real: Tensor, places: int, mask_id: int, special: tuple[int, int]) -> Joint:
    """Joint sequences that predict every word of given reports in one pass, each from the true words before it.

    Text parts ids (N, T), `real` which are tokens. Behind them stands a `[MASK]` for each place, which looks at the image, at the
    words before that place and at itself: what decoding sees at each step when it is fed the true words ("teacher-forced").
    """
    n, t = ids.shape
    place, row = torch.arange(places + 2 + 2 * t), torch.arange(t)
    mask = torch.zeros(len(place), len(place), dtype=torch.bool)
    mask[:, : places + 2] = True
    words, masks = slice(places + 2, places + 2 + t), slice(places + 2 + t, None)
    mask[words, words] = row[None] <= row[:, None]
    mask[masks, words] = row[None] < row[:, None]
    mask[masks, masks] = row[None] == row[:, None]
    seen = torch.cat([torch.ones(n, places + 2, dtype=torch.bool), real.bool(), real.bool()], dim=1)
    mask = mask & (seen[:, None] | torch.eye(len(place), dtype=torch.bool))
    doubled = torch.cat([ids, torch.full_like(ids, mask_id)], dim=1)
    joint = medvill_batch.join(
        doubled, mask, torch.arange(places).expand(n, -1), special, every=True, positions="generation"
    )
    joint.position_ids[:, places + 2 :] = row.repeat(2)
    return joint


def true_word_logits(
    model: MedViLL, features: Tensor, ids: Tensor, real: Tensor, special: tuple[int, int], mask_id: int
) -> Tensor:
    """Logits (N, T, V) of every place of the reports, given the true words before it; see `true_words`."""
    joint = true_words(ids.cpu(), real.cpu(), features.shape[1], mask_id, special).to(features.device)
    t = ids.shape[1]
    at = torch.arange(joint.ids.shape[1] - t, joint.ids.shape[1], device=features.device).expand(len(ids), -1)
    return model.mlm_logits(model.encode(features, joint, at))
