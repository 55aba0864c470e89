"""How X-VL's small presets begin: words and patches meet where cross-attention will look."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_xvl import TINY, close

from medxvl import vision, xvl


@pytest.fixture
def model():
    torch.manual_seed(0)
    return xvl.XVL(replace(TINY, packed=1), 60)


def test_words_are_compared_with_patches_by_hand(model):
    """Mean query and best patch of each word but `[CLS]`, padding left out; two texts of unequal
    length, three images.
    """
    online = model.online
    ids, mask = (
        torch.tensor([[2, 9, 7, 3], [2, 8, 3, 0]]),
        torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    )
    keys = torch.randn(3, 4, TINY.text_width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        feature, mean, best = online.compare(ids, mask, keys)
        states, wanted = online.encode_text(ids, mask)
        queries = torch.nn.functional.normalize(online.look.query(states), dim=2)
        close(feature, wanted)
        for text, length in enumerate((4, 3)):
            words = queries[text, 1:length]
            close(mean[text], torch.nn.functional.normalize(words.mean(dim=0), dim=0))
            for image in range(3):
                each = [
                    max(torch.cosine_similarity(w, k, dim=0) for k in keys[image]) for w in words
                ]
                close(best[text, image], torch.stack(each).mean())


def test_attention_begins_with_a_set_sharpness(model, monkeypatch):
    """What the softmax of the first cross-attention takes, seen in the model's own forward pass: SD
    over the patches.
    """
    ids, mask = (
        torch.tensor([[2, 9, 7, 3], [2, 8, 3, 0]]),
        torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    )
    images, online = torch.rand(2, 1, TINY.image_size, TINY.image_size), model.online.eval()
    online.sharpen(ids, mask, images)
    seen, real = [], F.scaled_dot_product_attention

    def watched(q, k, v, **options):
        seen.append(q @ k.transpose(2, 3) / q.shape[3] ** 0.5)
        return real(q, k, v, **options)

    with torch.no_grad():
        (states, _), (tokens, _) = online.encode_text(ids, mask), online.encode_image(images)
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        online.fusion(states, mask, tokens)
    across = next(s for s in seen if s.shape[3] == tokens.shape[1])[
        ..., 1:
    ]  # (texts, heads, words, patches)
    assert across.std(dim=3).transpose(1, 2)[mask.bool()].mean().item() == pytest.approx(
        xvl.SHARPNESS, rel=1e-4
    )


def test_local_tokens_know_their_patch_alone():
    """The last layer's tokens of `local_and_last` are those of the encoder; a change far away does
    not reach a local one.
    """
    encoder = vision.build(replace(TINY, vision_stem="patch")).eval()
    images = torch.rand(1, 1, TINY.image_size, TINY.image_size)
    other = images.clone()
    other[..., -TINY.patch_size :, -TINY.patch_size :] = 0
    with torch.no_grad():
        (local, last), (moved, _) = (vision.local_and_last(encoder, x) for x in (images, other))
        close(last, encoder.forward_features(images))
    assert local[:, :-1].equal(moved[:, :-1]) and not local[:, -1].equal(moved[:, -1])


def test_without_fusion_features_count_alone(model):
    images, generator = (
        torch.rand(2, 1, TINY.image_size, TINY.image_size),
        torch.Generator().manual_seed(0),
    )
    ids, mask = (
        torch.randint(5, 60, (2, 4), generator=generator),
        torch.ones(2, 4, dtype=torch.long),
    )
    alone, alone_mask = ids[:, :3], mask[:, :3]
    belongs = torch.eye(2, dtype=torch.bool).repeat(1, 2)
    with_fusion = model.contrast(images, ids, mask, alone, alone_mask, belongs)
    bare = xvl.XVL(replace(TINY, packed=1, fusion=0), 60)
    bare.load_state_dict(model.state_dict())
    bare.contrast(images, ids, mask, alone, alone_mask, belongs)["total"].backward()
    with_fusion["total"].backward()
    assert (
        model.online.look.query.weight.grad is not None
        and bare.online.look.query.weight.grad is None
    )
