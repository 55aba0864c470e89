"""The warm-up of the small presets: in-batch contrast of the online encoders.

Neither paper has it. It stands in for the pre-trained encoders that the published models start
from; preset `paper` does without (contrast_epochs=0).
"""

import torch
from torch import Tensor

from medxvl.layers import unpadded, vision_transformer
from medxvl.training.distributed import gather
from medxvl.xvl.losses import pairing_loss
from medxvl.xvl.model import exactly, unit

# factor on the mean of best cosines, which differs less from pair to pair than the cosine of means
BEST = 3.0
# SD over the patches of what the softmax of the first cross-attention takes, where the objective
# begins
SHARPNESS = 2.0


def contrast(model, images, ids, mask, sentence_ids, sentence_mask, belongs) -> dict[str, Tensor]:
    """Both directions of plain in-batch contrast between the online encoders: the warm-up of
    the small presets.

    It stands in for the pre-trained encoders that the published models start from; twins,
    queues and most of fusion wait. Images (n, C, s, s) and reports (n, L) are this process's,
    single sentences (S, M) those of the whole batch of N; belongs (N, N + S) bool says which
    report and sentences each image's study holds.

    An image and a text are compared by their features, as later, and by the keys of patches and
    queries of words of the first cross-attention: their means, and for single sentences the
    best patch for each word, so that it begins by looking up what a word names. The patches are
    those before the vision layers mix them. Without fusion features count alone.
    """
    if not model.preset.fusion:
        f_image, f_text = (
            gather(model.online.encode_image(images)[1]),
            gather(model.online.encode_text(ids, mask, summary=True)[1]),
        )
        f_sentence = model.online.encode_text(sentence_ids, sentence_mask, summary=True)[1]
        with exactly(f_image):
            return both_ways(model, [(1, f_image @ torch.cat([f_text, f_sentence]).t(), belongs)])
    local, tokens = vision_transformer.local_and_last(model.online.vision, images)
    f_image, keys = (
        gather(unit(model.online.vision_proj(tokens[:, 0]))),
        gather(model.online.look.key(local)),
    )
    reports = [gather(x) for x in compare(model.online, ids, mask)[:2]]
    *sentences, best = compare(model.online, sentence_ids, sentence_mask, keys)
    feature, mean = (torch.cat(both) for both in zip(reports, sentences, strict=True))
    with exactly(keys):
        means, alone = unit(keys.mean(dim=1)) @ mean.t(), belongs[:, len(belongs) :]
        return both_ways(
            model,
            [
                (1 / 2, f_image @ feature.t(), belongs),
                (1 / 4, means, belongs),
                (1 / 4, BEST * best.t(), alone),
            ],
        )


def both_ways(model, ways: list[tuple[float, Tensor, Tensor]]) -> dict[str, Tensor]:
    """Contrast of images with texts and of texts with images. Of each way to compare: its
    share, the similarities of N images and T texts (N, T), and which belong together (N, T)
    bool."""
    i2t = sum(share * pairing_loss(s / model.temperature, belongs) for share, s, belongs in ways)
    t2i = sum(
        share * pairing_loss(s.t() / model.temperature, belongs.t()) for share, s, belongs in ways
    )
    return {"i2t": i2t, "t2i": t2i, "total": (i2t + t2i) / 2}


def compare(
    encoders, ids: Tensor, mask: Tensor, keys: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of texts (B, L): features (B, D); mean query of the words (B, d), of length one; and with
    keys (I, P, d) of images the best cosine of each word's query with any of an image's,
    averaged over the words (B, I): late interaction (Yao et al. 2021, arXiv 2111.07783)."""
    states, feature = encoders.encode_text(ids, mask)
    words = mask.bool().clone()
    words[:, 0] = False
    row = words.nonzero()[:, 0]
    share = (1 / words.sum(dim=1))[row][:, None]
    query = unit(encoders.look.query(unpadded.from_mask(words).pack(states)))

    def mean(x: Tensor) -> Tensor:
        return x.new_zeros(len(ids), x.shape[1]).index_add(0, row, x * share)

    if keys is None:
        return feature, unit(mean(query)), None
    with exactly(keys):
        cosines = (query @ unit(keys).flatten(0, 1).t()).unflatten(1, keys.shape[:2])
        best = cosines.max(
            dim=2
        ).values  # (words, I); amax would share the gradient among equals, slowly
    return feature, unit(mean(query)), mean(best)


@torch.no_grad()
def sharpen(encoders, ids: Tensor, mask: Tensor, images: Tensor) -> None:
    """Scale queries and keys of texts (B, L) and their images: the contrast fixed directions
    alone, and attention divides by no length."""
    own = unpadded.from_mask(mask)
    states, tokens = (
        own.pack(encoders.encode_text(ids, mask)[0]),
        encoders.encode_image(images)[0][:, 1:],
    )
    states = own.pad(
        unpadded.attend(encoders.fusion.encoder.layer[0].attention, states, own, states, own)
    )
    q, k = (
        x.unflatten(2, (encoders.look.num_attention_heads, -1)).transpose(1, 2)
        for x in (encoders.look.query(states), encoders.look.key(tokens))
    )
    spread = (
        (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).std(dim=3).transpose(1, 2)[mask.bool()].mean()
    )
    for part in (*encoders.look.query.parameters(), *encoders.look.key.parameters()):
        part.mul_((SHARPNESS / spread) ** 0.5)
