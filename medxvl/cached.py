"""Attention over kept keys and values, with the weights of transformers' layers: what decoding word by word needs.

Shapes: N texts, m new places, S places seen, d width.
"""

import torch.nn.functional as F
from torch import Tensor


def keys_values(block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of places `x` (N, S, d) for the attention block, (N, heads, S, d / heads) both."""
    return _heads(block, block.self.key(x)), _heads(block, block.self.value(x))


def attend(block, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None, causal: bool = False) -> Tensor:
    """The block's output (N, m, d) for places `x` (N, m, d) that look at the keys which `seen` marks, by default all.

    causal: place k sees the keys 0 to k alone.
    """
    share = block.self.dropout.p if block.training else 0.0
    query = _heads(block, block.self.query(x))
    context = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, dropout_p=share, is_causal=causal)
    return block.output(context.transpose(1, 2).flatten(2), x)


def _heads(block, x: Tensor) -> Tensor:
    return x.unflatten(2, (block.self.num_attention_heads, -1)).transpose(1, 2)
