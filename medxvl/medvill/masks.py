"""MedViLL's five self-attention masks (arXiv 2105.11333, section III-C), as one pure function over
the batch.

The joint sequence is an image part, `[CLS] v_1 .. v_k [SEP]`, followed by a text part. Row: who
looks. Column: at whom.
"""

import torch
from torch import Tensor

# mask: (image looks at text, text looks at image, text looks at later text)
RULES = {
    "bidirectional": (True, True, True),
    "seq2seq": (False, True, False),
    "noncross": (False, False, True),
    "bar": (True, True, False),  # bidirectional auto-regressive: MedViLL's own
}
NAMES = ("bidirectional", "seq2seq", "bi_seq2seq", "noncross", "bar")
TITLES = {
    "bidirectional": "Bi",
    "seq2seq": "S2S",
    "bi_seq2seq": "Bi & S2S",
    "noncross": "Non-cross",
    "bar": "BAR",
}
PADDING = ("blocked", "pretraining", "finetuning")


def attention(
    name: str, n_image: int, real: Tensor, seq2seq: Tensor | None = None, padding: str = "blocked"
) -> Tensor:
    """Who may look at whom, (B, L, L) bool with L = n_image + T; True = may.

    `n_image` is the length of the image part with its `[CLS]` and `[SEP]`; `real` (B, T) is True at
    the text part's tokens and False at padding. `seq2seq` (B,) is needed by `bi_seq2seq` alone:
    True where a sample takes Seq2Seq, else bidirectional.

    padding="blocked": nobody looks at padding. The release does otherwise, and its checkpoints were
    trained so: "pretraining" hides padding in the bidirectional mask alone; "finetuning" hides it
    too, but for BAR's image part, which looks at all columns. What padding itself looks at concerns
    no result, and follows the release's fine-tuning. Raises ValueError for an unknown name or
    padding, or when `seq2seq` is missing.
    """
    if name not in NAMES:
        raise ValueError(f"mask {name!r}: expected one of {', '.join(NAMES)}")
    if padding not in PADDING:
        raise ValueError(f"padding={padding!r}: expected one of {', '.join(PADDING)}")
    if name == "bi_seq2seq":
        if seq2seq is None:
            raise ValueError(
                "mask 'bi_seq2seq': expected `seq2seq`, which says the samples that take Seq2Seq"
            )
        both = (
            attention(kind, n_image, real, padding=padding) for kind in ("seq2seq", "bidirectional")
        )
        return torch.where(seq2seq[:, None, None], *both)

    image_to_text, text_to_image, later = RULES[name]
    text_length = real.shape[1]
    place = torch.arange(n_image + text_length, device=real.device)
    is_text = place >= n_image
    row, column = is_text[:, None], is_text[None, :]
    order = torch.ones_like(row & column) if later else place[None, :] <= place[:, None]
    rule = (
        (~row & ~column)
        | (~row & column & image_to_text)
        | (row & ~column & text_to_image)
        | (row & column & order)
    )

    token = torch.cat(
        [real.new_ones(len(real), n_image, dtype=torch.bool), real.bool()], dim=1
    )  # (B, L)
    seen, looks = token[:, None, :].expand(-1, len(place), -1), token[:, :, None]
    if padding == "pretraining":
        hidden = torch.full_like(seen, name == "bidirectional") & ~seen
    elif padding == "finetuning" and name == "bar":
        hidden = ~seen & row
    else:
        hidden = ~seen
    if padding != "pretraining" and not later:
        hidden = hidden | (
            ~looks & row & column
        )  # padding of a causal text looks at the image alone
    return rule & ~hidden


def draw_seq2seq(n: int, share: float, generator: torch.Generator) -> Tensor:
    """(n,) bool: the samples that take Seq2Seq in `bi_seq2seq`, a `share` of them on average (0.75
    in the paper).
    """
    return torch.rand(n, generator=generator) < share
