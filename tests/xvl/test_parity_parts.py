"""Parts of Medical X-VL, and the model at its published size, against tensors that the released
code produced (tests/parity).
"""

import gzip
import json

import formula
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tolerance import assert_recorded
from xvl_recorded import BERT, PARITY, TINY, UNITS, ZERO, model, part

from medxvl.config import presets
from medxvl.layers import fusion, unpadded, vision_transformer
from medxvl.xvl import losses, release
from medxvl.xvl import model as xvl

pytestmark = pytest.mark.numeric


# --- parts ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_sentence_loss_without_padding(temperature):
    local, image = UNITS["g2l_nomask/l"], UNITS["g2l_nomask/m"].clone().requires_grad_()
    report = torch.arange(4).repeat_interleave(6)
    loss = losses.sentence_loss(local.flatten(0, 1), report, image, temperature)
    loss.backward()
    assert_recorded(loss, UNITS[f"g2l_nomask/t{temperature}/loss"])
    assert_recorded(image.grad, UNITS[f"g2l_nomask/t{temperature}/grad_m"], gradient=True)


def test_vision_encoder_at_three_sizes():
    vit = model().online.vision.eval()
    with torch.no_grad():
        for size in ("", "96", "64x96"):
            assert_recorded(
                vision_transformer.tokens(vit, UNITS[f"vit/x{size}"]), UNITS[f"vit/y{size}"]
            )
        assert_recorded(
            vision_transformer.last_attention(vit, UNITS["vit/x"]), UNITS["vit/last_selfattention"]
        )
        kept = vit.forward_intermediates(
            UNITS["vit/x"], indices=2, norm=True, return_prefix_tokens=True, output_fmt="NLC"
        )[1]
        for k, (patches, cls) in enumerate(kept):
            assert_recorded(torch.cat([cls, patches], dim=1), UNITS[f"vit/intermediate_{k}"])


@pytest.mark.parametrize(
    "source, side, wanted", [("in_6x6", 4, "out_4x4"), ("in_4x4", 9, "out_9x9")]
)
def test_position_embeddings_of_another_grid(source, side, wanted):
    assert_recorded(
        vision_transformer.resize_positions(UNITS[f"interp_pos_embed/{source}"], (side, side)),
        UNITS[f"interp_pos_embed/{wanted}"],
    )


def test_fusion_layers_on_given_states():
    """The cross-attending BERT: fusion mode alone, and all four layers (text layers, then fusion)
    from given embeddings.
    """
    m = xvl.XVL(presets.load("smoke", TINY + "packed=1 text_hidden=64"), 200)
    weights = part("weights/encoder.layer.", BERT)
    own = {k: v for k, v in weights.items() if int(k[0]) < 2}
    fused = {f"{int(k[0]) - 2}{k[1:]}": v for k, v in weights.items() if int(k[0]) >= 2}
    words_, cross = m.online.text.encoder.layer[:2], m.online.fusion.encoder.layer
    words_.load_state_dict(own)
    cross.load_state_dict(fused)
    m.eval()
    mask, seen, x = (
        BERT["in/attention_mask"],
        BERT["in/encoder_attention_mask"],
        BERT["in/encoder_embeds"],
    )
    image, real, pairs = (
        BERT["in/encoder_hidden_states"],
        BERT["in/attention_mask"].bool(),
        torch.arange(3),
    )
    layout = unpadded.from_mask(mask)
    with torch.no_grad():
        wanted = BERT["out/embeds_fusion/last"]
        for fast in (True, False):
            m.online.fusion.packed = fast
            assert_recorded(m.online.fusion(x, mask, image, seen)[real], wanted[real])
        states = unpadded.run(words_, layout.pack(x), mask)
        whole = unpadded.run(cross, states, mask, image, pairs, seen)
        assert_recorded(whole, BERT["out/embeds_multi_modal/last"][real])
        m.online.text.embeddings.load_state_dict(part("weights/embeddings.", BERT), strict=False)
        words = unpadded.embed(m.online.text.embeddings, BERT["in/input_ids"], mask, layout)
        states = unpadded.run(words_, words, mask)
        assert_recorded(
            unpadded.run(cross, states, mask, image, pairs, seen),
            BERT["out/ids_multi_modal/last"][real],
        )


def test_zero_shot_scores():
    """Mean logit over the positive sentences, sigmoid, softmax of the two sigmoids: as released."""
    m = model().eval()
    images = ZERO["in/images"]
    with torch.no_grad():
        tokens, _ = m.online.encode_image(images)
        for k in range(8):
            sigmoid = {}
            for kind in ("pos", "neg"):
                mask = ZERO[f"in/{kind}_att/{k}"]
                states, _ = m.online.encode_text(ZERO[f"in/{kind}_ids/{k}"], mask)
                logits = torch.stack([
                    m.match_logits(states, mask, t.expand(len(states), -1, -1)) for t in tokens
                ])  # fmt: skip
                assert_recorded(logits, ZERO[f"out/{kind}_itm_logits"][:, k])
                sigmoid[kind] = logits[..., 1].mean(1).sigmoid()
                assert_recorded(sigmoid[kind], ZERO[f"out/{kind}_sigmoid"][:, k])
            assert_recorded(
                torch.stack([sigmoid["pos"], sigmoid["neg"]]).softmax(0)[0],
                ZERO["out/softmax"][:, k],
            )


# --- published size -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def full():
    """Outputs of the published model whose weights `formula` makes, and what makes the weights of a
    part of it.
    """
    keys = json.loads(gzip.decompress((PARITY / "xvl_keys.json.gz").read_bytes()))["pretrain"]
    online = {
        k: shape
        for k, (shape, _) in keys["keys"].items()
        if "_m." not in k and k not in keys["aliases"]
    }

    def load(module, start, ours):
        state = {k: formula.weight(k, shape) for k, shape in online.items() if k.startswith(start)}
        state = {k.removeprefix(ours): v for k, v in release.from_released(state).items()}
        assert not module.load_state_dict(state, strict=False).missing_keys
        return module.eval()

    return load_file(PARITY / "xvl_fullsize_formula.safetensors"), load


def test_published_size(full):
    """ViT-B/16, CXR-BERT's size, four fusion layers: features, fused states, matching and
    masked-word logits.
    """
    wanted, load = full
    preset = presets.load("paper", "dropout=0 drop_path=0")
    ids, mask, masked = (
        wanted[f"in/{k}"] for k in ("input_ids", "attention_mask", "masked_input_ids")
    )
    real = mask.bool()
    project = {
        k: load(torch.nn.Linear(768, 256), f"{k}_proj.", f"online.{k}_proj.")
        for k in ("vision", "text")
    }
    head = load(torch.nn.Linear(768, 2), "itm_head.", "itm_head.")
    with torch.no_grad():
        vit = load(vision_transformer.build(preset), "visual_encoder.", "online.vision.")
        tokens = vit.forward_features(
            torch.from_numpy(formula.uniform("input.image", (1, 3, 224, 224)))
        )
        del vit
        assert_recorded(tokens[0, :4], wanted["out/image_embeds_first4"])
        assert_recorded(
            F.normalize(project["vision"](tokens[:, 0]), dim=-1)[0], wanted["out/image_feat"]
        )
        bert = load(fusion.build_text_encoder(preset, 30522), "text_encoder.", "online.text.")
        layout = unpadded.from_mask(mask)
        states, masked_states = (
            layout.pad(
                unpadded.run(
                    bert.encoder.layer, unpadded.embed(bert.embeddings, k, mask, layout), mask
                )
            )
            for k in (ids, masked)
        )
        del bert
        assert_recorded(states[real], wanted["out/text_embeds"][real])
        assert_recorded(F.normalize(project["text"](states[:, 0]), dim=-1), wanted["out/text_feat"])
        encoder = load(fusion.FusionEncoder(preset, 30522), "fusion_encoder.", "online.fusion.")
        images = tokens.expand(2, -1, -1)
        fused = encoder(states, mask, images)
        assert_recorded(fused[real], wanted["out/fusion_last_hidden"][real])
        assert_recorded(head(fused[:, 0]), wanted["out/itm_logits"])
        logits = encoder.mlm_head(encoder(masked_states, mask, images))[..., :50]
        assert_recorded(logits[real], wanted["out/mlm_logits_first50"][real])
