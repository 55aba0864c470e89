"""BERT layers over real tokens alone: nothing is computed for padding, and an image's keys once,
whatever looks at it.

The weights are those of transformers' layers; only the order of the work differs. Shapes: T real
tokens of a batch, d width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class _Select(torch.autograd.Function):
    """Different rows of x: index_select whose gradient is copied back, not summed row by row, which
    CPUs do slowly.
    """

    @staticmethod
    def forward(ctx, x: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(at)
        ctx.shape = x.shape
        return x.index_select(0, at)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.shape).index_copy_(0, ctx.saved_tensors[0], grad), None


class Layout:
    """Where each of T tokens lies in a padded batch of (rows, length)."""

    def __init__(self, rows: int, length: int, at: Tensor | None):
        self.rows, self.length, self.at = rows, length, at  # at None: every place is taken
        self.mask = None
        if at is not None:
            self.mask = torch.zeros(rows * length, dtype=torch.bool, device=at.device).index_fill(
                0, at, True
            )
            self.mask = self.mask.view(rows, 1, 1, length)

    def pad(self, x: Tensor) -> Tensor:
        """(T, ...) -> (rows, length, ...), zero where there is no token."""
        if self.at is None:
            return x.unflatten(0, (self.rows, self.length))
        blank = x.new_zeros(self.rows * self.length, *x.shape[1:])
        return blank.index_copy(0, self.at, x).unflatten(0, (self.rows, self.length))

    def pack(self, x: Tensor) -> Tensor:
        """(rows, length, ...) -> (T, ...)."""
        return x.flatten(0, 1) if self.at is None else _Select.apply(x.flatten(0, 1), self.at)


def from_mask(mask: Tensor) -> Layout:
    """Layout of the tokens that `mask` (B, L) marks, row by row."""
    at = mask.flatten().nonzero().squeeze(1)
    return Layout(*mask.shape, None if len(at) == mask.numel() else at)


def first_of(mask: Tensor) -> Tensor:
    """(B, L) bool: the first token of every row, `[CLS]`."""
    first = torch.zeros(mask.shape, dtype=torch.bool, device=mask.device)
    first[:, 0] = True
    return first


def grouped(row: Tensor, rows: int) -> Layout:
    """Layout that gathers tokens by `row` (T,), each row's tokens side by side in their order."""
    count = torch.bincount(row, minlength=rows)
    order = row.argsort(stable=True)
    rank = torch.empty_like(row)
    rank[order] = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row[order]]
    length = max(1, int(count.max()))
    return Layout(rows, length, row * length + rank)


def embed(embeddings, ids: Tensor, mask: Tensor, layout: Layout) -> Tensor:
    """Word, position and type embeddings of the real tokens, (T, d)."""
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return embeddings(input_ids=layout.pack(ids)[None], position_ids=layout.pack(position)[None])[0]


def run(
    layers, x, mask, memory=None, memory_of=None, memory_mask=None, keep=None, begun=False
) -> Tensor:
    """Tokens x (T, d) of a batch with mask (B, L) through BERT layers -> (T, d), or (K, d) with
    `keep`.

    memory (I, P, e) is what cross-attention sees, memory_of (B,) which of them a row looks at: rows
    that look at the same one share its keys and values. keep (B, L) marks the tokens whose final
    state is wanted; the last layer computes no other. begun: x has been through the first layer's
    self-attention.
    """
    own = from_mask(mask)
    row = own.pack(torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask))
    if memory is not None:
        memory_at = (
            Layout(*memory.shape[:2], None) if memory_mask is None else from_mask(memory_mask)
        )
        memory, seen_by = memory_at.pack(memory), grouped(memory_of[row], len(memory))
    asking = own
    for number, layer in enumerate(layers):
        states = x
        if keep is not None and number == len(layers) - 1:
            wanted = own.pack(keep).nonzero().squeeze(1)
            x, row = _Select.apply(x, wanted), row[wanted]
            asking = grouped(row, len(mask))
            seen_by = None if memory is None else grouped(memory_of[row], memory_at.rows)
        if number or not begun:
            x = attend(layer.attention, x, asking, states, own)
        if memory is not None:
            x = attend(layer.crossattention, x, seen_by, memory, memory_at)
        x = layer.feed_forward_chunk(x)
    return x


def joint(layers, x: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
    """States x (N, L, d) of sequences in which mask (N, L, L) says who looks at whom, through BERT
    layers -> (N, L, d).

    keep (N, L) marks the places whose final state is wanted, None: all; the last layer computes no
    other, and nothing is computed for other places that nobody looks at, such as padding. The state
    of a place not kept is 0.
    """
    real = torch.ones_like(mask[:, 0]) if keep is None else mask.any(dim=1) | keep
    own, (row, place) = from_mask(real), real.nonzero(as_tuple=True)
    x, asking, seen, kept = own.pack(x), own, mask[:, None], None
    for number, layer in enumerate(layers):
        states = x
        if keep is not None and number == len(layers) - 1:
            kept = keep[row, place].nonzero().squeeze(1)
            x, asking = _Select.apply(x, kept), grouped(row[kept], len(mask))
            blank = ~asking.mask.transpose(
                2, 3
            )  # what fills a row up looks at everything, and nobody reads it
            seen = asking.pad(mask[row[kept], place[kept]])[:, None] | blank
        x = layer.feed_forward_chunk(attend(layer.attention, x, asking, states, own, seen))
    return (own if kept is None else Layout(*real.shape, keep.flatten().nonzero().squeeze(1))).pad(
        x
    )


def attend(
    block, x: Tensor, at: Layout, memory: Tensor, memory_at: Layout, mask: Tensor | None = None
) -> Tensor:
    """Attention block on queries x (K, d), row by row of `at`, to the tokens memory (M, e) in the
    same row of `memory_at`.

    mask (rows, 1, queries, keys) bool: who looks at whom; None: at all that `memory_at` holds.
    """
    inner = block.self
    q, k, v = (
        layout.pad(linear(tokens)).unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2)
        for layout, linear, tokens in (
            (at, inner.query, x),
            (memory_at, inner.key, memory),
            (memory_at, inner.value, memory),
        )
    )
    share = inner.dropout.p if inner.training else 0.0
    context = F.scaled_dot_product_attention(
        q, k, v, attn_mask=memory_at.mask if mask is None else mask, dropout_p=share
    )
    return block.output(at.pack(context.transpose(1, 2).flatten(2)), x)
