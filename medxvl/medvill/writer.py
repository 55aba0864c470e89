"""Reports from MedViLL, as UniLM decodes: append `[MASK]`, predict it, put the word in its place,
go on (Seq2Seq mask).

Each step runs two places only, the last word and the new `[MASK]`: keys and values of the image
part and of earlier words are kept.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medxvl.layers import kv_cache
from medxvl.medvill import corpus
from medxvl.medvill.model import Joint, MedViLL


@dataclass
class Written:
    """Reports being written: what is kept of the image part and of their words, and how many words
    these are.
    """

    kept: kv_cache.Kept
    words: int

    def select(self, rows: Tensor) -> "Written":
        return Written(self.kept.select(rows), self.words)


class Decoder:
    """`step` for medxvl.layers.beam_search. `positions`: "own", the words count on; "released", the
    last word always has position 0 and `[MASK]` 1, a slip of the release (its fine-tuning counts
    on)."""

    def __init__(
        self,
        model: MedViLL,
        special: tuple[int, int],
        mask_id: int,
        positions: str = "own",
        most: int = 0,
    ):
        if positions not in ("own", "released"):
            raise ValueError(f"positions={positions!r}: expected own or released")
        self.model, self.special, self.mask_id, self.positions = model, special, mask_id, positions
        rows = model.bert.embeddings.position_embeddings.num_embeddings
        if positions == "own" and most > rows:
            raise ValueError(
                f"{most} words need as many positions: the model has {rows} (setting "
                "medvill_max_positions)"
            )

    @torch.no_grad()
    def start(self, features: Tensor) -> Written:
        """The image part `[CLS] v_1 .. v_P [SEP]` of tokens (N, P, F), which looks at itself
        alone.
        """
        n, places = features.shape[:2]
        device = features.device
        nothing = torch.empty(n, 0, dtype=torch.long)
        mask = torch.ones(n, places + 2, places + 2, dtype=torch.bool)
        joint = corpus.join(
            nothing,
            mask,
            torch.arange(places).expand(n, -1),
            self.special,
            every=True,
            positions="generation",
        )
        joint = joint.to(device)
        x = self.model.bert.embeddings(
            inputs_embeds=self.model.embed(features, joint),
            position_ids=joint.position_ids,
            token_type_ids=joint.segment_ids,
        )
        pairs = []
        for layer in self.model.bert.encoder.layer:
            pairs.append(kv_cache.keys_values(layer.attention, x))
            x = layer.feed_forward_chunk(kv_cache.attend(layer.attention, x, *pairs[-1]))
        return Written(kv_cache.Kept.of(pairs), 0)

    @torch.no_grad()
    def step(self, state: Written, words: Tensor | None) -> tuple[Tensor, Written]:
        """Log-probabilities (N, V) of the next word after `words` (N,), None at the start."""
        n, device = state.kept.store.shape[2], state.kept.store.device
        ids = torch.full((n, 1), self.mask_id, device=device)
        at = [state.words]
        if words is not None:
            ids = torch.cat([words[:, None].to(device), ids], dim=1)
            at = [state.words, state.words + 1] if self.positions == "own" else [0, 1]
        at = torch.tensor(at, device=device).expand(n, -1)
        x = self.model.bert.embeddings(
            input_ids=ids, position_ids=at, token_type_ids=torch.ones_like(ids)
        )
        new, stays = x.shape[1], x.shape[1] - 1  # the place of [MASK] is the next word's
        kept = state.kept.with_room(new)
        seen = torch.ones(new, kept.places + new, dtype=torch.bool, device=device)
        seen[:stays, -1] = False
        for number, layer in enumerate(self.model.bert.encoder.layer):
            pair = kept.beside(number, *kv_cache.keys_values(layer.attention, x))
            x = layer.feed_forward_chunk(kv_cache.attend(layer.attention, x, *pair, seen))
        log_p = F.log_softmax(self.model.mlm_logits(x[:, -1]).float(), dim=-1)
        return log_p, Written(kv_cache.Kept(kept.store, kept.places + stays), state.words + stays)


def true_words(
    ids: Tensor, real: Tensor, places: int, mask_id: int, special: tuple[int, int]
) -> Joint:
    """Joint sequences that predict every word of given reports in one pass, each from the true
    words before it.

    Text parts ids (N, T), `real` which are tokens. Behind them stands a `[MASK]` for each place,
    which looks at the image, at the words before that place and at itself: what decoding sees at
    each step when it is fed the true words ("teacher-forced").
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
    joint = corpus.join(
        doubled,
        mask,
        torch.arange(places).expand(n, -1),
        special,
        every=True,
        positions="generation",
    )
    joint.position_ids[:, places + 2 :] = row.repeat(2)
    return joint


def true_word_logits(
    model: MedViLL,
    features: Tensor,
    ids: Tensor,
    real: Tensor,
    special: tuple[int, int],
    mask_id: int,
) -> Tensor:
    """Logits (N, T, V) of every place of the reports, given the true words before it; see
    `true_words`.
    """
    joint = true_words(ids.cpu(), real.cpu(), features.shape[1], mask_id, special).to(
        features.device
    )
    t = ids.shape[1]
    at = torch.arange(joint.ids.shape[1] - t, joint.ids.shape[1], device=features.device).expand(
        len(ids), -1
    )
    return model.mlm_logits(model.encode(features, joint, at))
