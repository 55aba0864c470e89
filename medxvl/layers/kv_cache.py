"""Attention over kept keys and values, with the weights of transformers' layers: what decoding word
by word needs.

Shapes: N texts, m new places, S places seen, d width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 32  # places by which a store grows


@dataclass
class Kept:
    """Keys and values of every layer for the places so far. New ones are written behind them into
    the same memory, so a state that was gone on from is spent. Without gradient."""

    store: Tensor  # (layers, 2, N, heads, room, d / heads)
    places: int

    @classmethod
    def of(cls, pairs: list[tuple[Tensor, Tensor]]) -> "Kept":
        """Of each layer's keys and values, (N, heads, S, d / heads) both."""
        store = torch.stack([torch.stack(pair) for pair in pairs])
        return cls(store, store.shape[4])

    def with_room(self, new: int) -> "Kept":
        """The same places, and room for `new` more."""
        free = self.store.shape[4] - self.places
        return (
            self
            if new <= free
            else Kept(F.pad(self.store, (0, 0, 0, max(new, ROOM) - free)), self.places)
        )

    def beside(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new ones of a layer, (N, heads, m, d / heads) both, behind those that are kept;
        keys and values of all places.
        """
        end = self.places + keys.shape[2]
        assert end <= self.store.shape[4], "ask with_room first"
        for part, new in enumerate((keys, values)):
            self.store[layer, part, :, :, self.places : end] = new
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

    def select(self, rows: Tensor) -> "Kept":
        return Kept(self.store.index_select(2, rows), self.places)


def keys_values(block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of places `x` (N, S, d) for the attention block, (N, heads, S, d / heads)
    both.
    """
    return _heads(block, block.self.key(x)), _heads(block, block.self.value(x))


def attend(
    block, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None, causal: bool = False
) -> Tensor:
    """The block's output (N, m, d) for places `x` (N, m, d) that look at the keys which `seen`
    marks, by default all.

    causal: place k sees the keys 0 to k alone.
    """
    share = block.self.dropout.p if block.training else 0.0
    query = _heads(block, block.self.query(x))
    context = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, dropout_p=share, is_causal=causal
    )
    return block.output(context.transpose(1, 2).flatten(2), x)


def _heads(block, x: Tensor) -> Tensor:
    return x.unflatten(2, (block.self.num_attention_heads, -1)).transpose(1, 2)
