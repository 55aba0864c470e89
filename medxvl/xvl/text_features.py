"""Sentences through the text encoder, once: what was encoded is kept in memory, by the content of
weights and sentences.

Prompts are scored against one set of images after another by the same checkpoint; their features
stay the same. The key is a hash of the text encoder's weights, its vocabulary and the sentences:
another checkpoint, or another step of a training, is another key.
"""

import hashlib
from collections import OrderedDict

import torch

from medxvl.data import text

KEPT = 16  # sets of sentences, the latest
_known: OrderedDict[str, tuple] = OrderedDict()


@torch.no_grad()
def of(model, tokenizer, sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (B, L, d), mask (B, L) and unit features (B, D) of raw `sentences`, by X-VL in
    evaluation mode.

    Raises ValueError for a model in training mode: with dropout no two passes are alike.
    """
    if model.training:
        raise ValueError(
            "text features are kept for a model in evaluation mode: call model.eval() first"
        )
    preset, device = model.preset, next(model.parameters()).device
    cleaned = [text.clean_report(s, preset.max_words) for s in sentences]
    key = _key(model, tokenizer, cleaned)
    if key not in _known:
        ids, mask = (t.to(device) for t in text.encode(tokenizer, cleaned, preset.max_tokens))
        states, features = model.online.encode_text(ids, mask)
        _known[key] = (states, mask, features)
    _known.move_to_end(key)
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return _known[key]


def forget() -> None:
    """Drop everything that is kept."""
    _known.clear()


def _key(model, tokenizer, cleaned: list[str]) -> str:
    preset, device = model.preset, next(model.parameters()).device
    shape = [preset.text_heads, preset.max_tokens, preset.packed, str(device)]
    digest = hashlib.blake2b(repr([cleaned, sorted(tokenizer.get_vocab().items()), shape]).encode())
    for part in (model.online.text, model.online.text_proj):
        for name, value in part.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
