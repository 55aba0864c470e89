"""How X-VL's small presets begin: words and patches meet where cross-attention will look."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_close, rounding
from xvl_tiny import CHAIN, TINY

from medxvl.layers import vision_transformer
from medxvl.xvl import model as xvl
from medxvl.xvl import warmup

pytestmark = pytest.mark.numeric


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
        feature, mean, best = warmup.compare(online, ids, mask, keys)
        states, wanted = online.encode_text(ids, mask)
        queries = torch.nn.functional.normalize(online.look.query(states), dim=2)
        assert_close(feature, wanted, terms=CHAIN)
        for text, length in enumerate((4, 3)):
            words = queries[text, 1:length]
            own = torch.nn.functional.normalize(words.mean(dim=0), dim=0)
            assert_close(mean[text], own, terms=CHAIN)
            for image in range(3):
                each = [
                    max(torch.cosine_similarity(w, k, dim=0) for k in keys[image]) for w in words
                ]
                # cosines, of size 1, that cancel in the mean
                limit = rounding(1.0, CHAIN, torch.float32)
                assert (best[text, image] - torch.stack(each).mean()).abs() < limit


def test_attention_begins_with_a_set_sharpness(model, monkeypatch):
    """What the softmax of the first cross-attention takes, seen in the model's own forward pass: SD
    over the patches.
    """
    ids, mask = (
        torch.tensor([[2, 9, 7, 3], [2, 8, 3, 0]]),
        torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    )
    images, online = torch.rand(2, 1, TINY.image_size, TINY.image_size), model.online.eval()
    warmup.sharpen(online, ids, mask, images)
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
    found = across.std(dim=3).transpose(1, 2)[mask.bool()].mean()
    assert_close(found, warmup.SHARPNESS, terms=CHAIN, dtype=torch.float32)


def test_local_tokens_know_their_patch_alone():
    """The last layer's tokens of `local_and_last` are those of the encoder; a change far away does
    not reach a local one.
    """
    encoder = vision_transformer.build(replace(TINY, vision_stem="patch")).eval()
    images = torch.rand(1, 1, TINY.image_size, TINY.image_size)
    other = images.clone()
    other[..., -TINY.patch_size :, -TINY.patch_size :] = 0
    with torch.no_grad():
        (local, last), (moved, _) = (
            vision_transformer.local_and_last(encoder, x) for x in (images, other)
        )
        assert_close(last, encoder.forward_features(images), terms=CHAIN)
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
    with_fusion = warmup.contrast(model, images, ids, mask, alone, alone_mask, belongs)
    bare = xvl.XVL(replace(TINY, packed=1, fusion=0), 60)
    bare.load_state_dict(model.state_dict())
    warmup.contrast(bare, images, ids, mask, alone, alone_mask, belongs)["total"].backward()
    with_fusion["total"].backward()
    assert (
        model.online.look.query.weight.grad is not None
        and bare.online.look.query.weight.grad is None
    )
