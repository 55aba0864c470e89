"""What the model looked at: word-to-patch maps of the fusion encoder, and what each head of the
vision encoder attends to.

Word maps are Grad-CAM on attention (Medical X-VL, visual explanation): the first cross-attention of
the fusion encoder times the positive part of the gradient of the matched-pair score, mean over
heads. Shapes: I images, B pairs of an image and a text, L tokens, W words, P = g * g patches, S px.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from medxvl.data import text
from medxvl.layers import unpadded, vision_transformer

PAIRS = 256  # image-text pairs, or images, a call


@dataclass
class Explained:
    """Log-odds of a match and word maps of B image-text pairs; a map of a word that a text does not
    have is 0.
    """

    logits: Tensor  # (B,) log-odds of a match
    maps: Tensor  # (B, W, g, g)
    words: list[list[str]]  # of each pair
    # (B, W) bool: pieces of the word were read (it was not cut off, and is more than a full stop)
    covered: Tensor


def token_maps(
    model, states: Tensor, mask: Tensor, tokens: Tensor, image_of: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-odds of a match (B,) and maps (B, L, 1 + P) of texts, states (B, L, d) with mask (B, L),
    on image tokens (I, 1 + P, e).

    image_of (B,) says which image a text is paired with. The maps are those of the text looking at
    the image, also for the early model, whose score has a second part. Words act on the score
    through the layers above the first: with a single fusion layer their maps are 0. The same
    whether or not the model runs `packed`: nothing of padding enters.
    """
    first, *rest = model.online.fusion.encoder.layer
    block, own = first.crossattention.self, unpadded.from_mask(mask)
    with torch.no_grad():
        x = unpadded.attend(first.attention, own.pack(states), own, own.pack(states), own)
        split = {"sizes": (block.num_attention_heads, -1), "dim": -1}
        q = own.pad(block.query(x)).unflatten(**split).transpose(1, 2)
        k, v = (
            part(tokens)[image_of].unflatten(**split).transpose(1, 2)
            for part in (block.key, block.value)
        )
        attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
    attention.requires_grad_()
    with torch.enable_grad():
        seen = own.pack((attention @ v).transpose(1, 2).flatten(2))
        fused = first.feed_forward_chunk(first.crossattention.output(seen, x))
        fused = own.pad(unpadded.run(rest, fused, mask, tokens, image_of))[:, 0]
        logits = model.both_directions(model.itm_head(fused), states, mask, tokens, (image_of,))
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention)
    return (logits[:, 1] - logits[:, 0]).detach(), (
        attention.detach() * gradient.clamp(min=0)
    ).mean(dim=1)


def words_of(tokenizer, texts: list[str], most: int) -> tuple[list[list[str]], np.ndarray]:
    """Words of cleaned texts, split at blanks, and the share (N, W, L) that each token has in a
    word: 1 / its pieces, else 0.

    Pieces without a letter or digit, such as a full stop, belong to no word.
    """
    read = tokenizer(
        texts, padding=True, truncation=True, max_length=most, return_offsets_mapping=True
    )
    words = [t.split(" ") for t in texts]
    share = np.zeros(
        (len(texts), max(map(len, words)), len(read["input_ids"][0])), dtype=np.float32
    )
    for row, (whole, offsets) in enumerate(zip(texts, read["offset_mapping"], strict=True)):
        for token, (start, stop) in enumerate(offsets):
            if any(letter.isalnum() for letter in whole[start:stop]):
                share[row, whole.count(" ", 0, start), token] = 1
    return words, share / np.maximum(share.sum(axis=2, keepdims=True), 1)


def views(images: Tensor, preset) -> np.ndarray:
    """Pictures (I, S, S) uint8 as the encoder sees them, (I, s, s) uint8: maps and boxes lie on
    these.
    """
    return (
        (vision_transformer.plain_view(images, preset)[:, 0] * 255).round().to(torch.uint8).numpy()
    )


def encode(model, images: Tensor, read=VisionTransformer.forward_features) -> Tensor:
    """Image tokens (I, 1 + P, e) of pictures (I, S, S) uint8, or what else `read` gives of the
    vision encoder, such as `vision_transformer.last_attention`.
    """
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        plain = (
            vision_transformer.plain_view(part, model.preset).to(device)
            for part in images.split(PAIRS)
        )
        return torch.cat([read(model.online.vision, view) for view in plain])


def explain(
    model, tokenizer, tokens: Tensor, texts: list[str], image_of=None, text_of=None, trace=None
) -> Explained:
    """Word maps of image-text pairs. `tokens`: of `encode`. image_of, text_of (B,): the pairs;
    None: each with its own.

    Every text is encoded once, whatever number of images it is paired with. As published, a patch's
    value is that of its token. With `trace` (I, 1 + P, 1 + P), such as the mean over heads of
    `last_attention`, it goes on to what that token attended to.
    """
    model.eval()
    device, preset = tokens.device, model.preset
    cleaned = [text.clean_report(t, preset.max_words) for t in texts]
    image_of, text_of = (
        torch.arange(len(many), device=device) if of is None else torch.as_tensor(of, device=device)
        for many, of in ((tokens, image_of), (cleaned, text_of))
    )
    words, share = words_of(tokenizer, cleaned, preset.max_tokens)
    share = torch.from_numpy(share).to(device)
    ids, mask = (t.to(device) for t in text.encode(tokenizer, cleaned, preset.max_tokens))
    with torch.no_grad():
        states, _ = model.online.encode_text(ids, mask)
    logits, maps = [], []
    for part in torch.arange(len(text_of), device=device).split(PAIRS):
        t, length = text_of[part], int(mask[text_of[part]].sum(dim=1).max())
        found, of_tokens = token_maps(
            model, states[t, :length], mask[t, :length], tokens, image_of[part]
        )
        logits.append(found)
        of_words = share[t, :, :length] @ of_tokens
        maps.append((of_words if trace is None else of_words @ trace[image_of[part]])[:, :, 1:])
    side = round(maps[0].shape[-1] ** 0.5)
    listed = [[word.strip(".") for word in words[k]] for k in text_of.tolist()]
    return Explained(
        torch.cat(logits),
        torch.cat(maps).unflatten(-1, (side, side)),
        listed,
        share[text_of].sum(dim=2) > 0,
    )


def head_maps(attention: Tensor) -> Tensor:
    """What `[CLS]` attends to, (I, heads, g, g), of `vision_transformer.last_attention`."""
    side = round((attention.shape[-1] - 1) ** 0.5)
    return attention[:, :, 0, 1:].unflatten(-1, (side, side))


def upsample(maps: Tensor, size: int) -> Tensor:
    """Maps (..., g, g) laid over the image, (..., size, size): bilinear between the centres of the
    patches.
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:]).float()
    return F.interpolate(flat, size=(size, size), mode="bilinear", align_corners=False).reshape(
        *maps.shape[:-2], size, size
    )


# --- checking a report ----------------------------------------------------------------------------
@torch.no_grad()
def suspicion(
    model, tokenizer, tokens: Tensor, report: str
) -> tuple[float, list[str], np.ndarray, list[str]]:
    """How well a report matches one image (tokens (1, 1 + P, e)), and which of its words are
    against it.

    Returns the log-odds of a match, the words, by how much they rise when a word is hidden behind
    [MASK] (W,), and the word that the model would put in its place ("" for a word that was not
    read). All variants are scored in one batch.
    """
    model.eval()
    cleaned = text.clean_report(report, model.preset.max_words)
    (words,), (share,) = words_of(tokenizer, [cleaned], model.preset.max_tokens)
    ids, mask = (
        t.to(tokens.device) for t in text.encode(tokenizer, [cleaned], model.preset.max_tokens)
    )
    hidden = torch.from_numpy(share > 0).to(tokens.device)
    variants = torch.cat([ids, torch.where(hidden, tokenizer.mask_token_id, ids)])
    masks = mask.expand(len(variants), -1)
    states, _ = model.online.encode_text(variants, masks)
    fused, rows = (
        model.online.fusion,
        torch.zeros(len(variants), dtype=torch.long, device=tokens.device),
    )
    seen = tokens.expand(len(variants), -1, -1)
    logits = model.match_logits(states, masks, seen)
    logits = logits[:, 1] - logits[:, 0]
    keep = torch.cat([torch.zeros_like(hidden[:1]), hidden])
    likely = fused.mlm_head(fused.tokens(states, masks, tokens, keep, (rows,)))
    likely[:, : len(text.SPECIAL)] = -torch.inf
    best, word_of = likely.argmax(dim=1).cpu(), keep.nonzero()[:, 0].cpu() - 1
    offers = [
        tokenizer.decode(best[word_of == k]).replace(" ##", "").strip() for k in range(len(words))
    ]
    return (
        float(logits[0]),
        [w.strip(".") for w in words],
        (logits[1:] - logits[0]).cpu().numpy(),
        offers,
    )
