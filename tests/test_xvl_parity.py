"""Every part of Medical X-VL against tensors that the released code produced (tests/parity)."""

import gzip
import json
from pathlib import Path

import formula
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from medxvl import fusion, objective, packed, presets, vision, xvl

PARITY = Path(__file__).parent / "parity"
STEP, UNITS, BERT, ZERO = (
    load_file(PARITY / f"xvl_{k}.safetensors") for k in ("step", "units", "xbert", "zero_shot")
)
META = json.loads((PARITY / "xvl_step.json").read_text(encoding="utf-8"))
TINY = (
    "image_size=64 channels=3 vision_stem=patch vision_width=48 vision_layers=3 "
    "vision_heads=3 vocabulary=200 text_width=48 "
    "text_layers=4 text_heads=4 text_hidden=96 fusion_layers=2 fusion_hidden=64 "
    "pooling_start=0 max_tokens=160 projection=32 "
    "queue_size=16 momentum=0.995 negatives=momentum "
)


def part(prefix, tensors=STEP):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


IN, OUT = part("in/"), part("out/")
# The release's name of a parameter -> ours. The head's bias and the decoder's are one in the
# release.
_NUMBERED = {k: torch.tensor(n) for n, k in enumerate(part("weights/"))}
_RENAMED = {
    int(n): ours
    for ours, n in xvl.from_released(_NUMBERED).items()
    if not ours.endswith("predictions.bias")
}
RENAMED = {k: _RENAMED[int(n)] for k, n in _NUMBERED.items() if int(n) in _RENAMED}


def renamed(prefix):
    return {RENAMED[k]: v for k, v in part(prefix).items()}


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def model(overrides="packed=1"):
    made = xvl.XVL(presets.load("smoke", TINY + overrides), 200)
    state = xvl.from_released(part("weights/"))
    assert made.load_state_dict(state, strict=False).unexpected_keys == []
    assert set(made.state_dict()) == set(state)
    return made.train()


def batch():
    sentences = META["sentences_tokenised"]
    longest = max(map(len, sentences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sentences])
    count = OUT["text_attention_mask_l_all"].sum(1).long()
    return xvl.Batch(
        IN["image_aug"],
        IN["image"],
        IN["input_ids"],
        IN["attention_mask"],
        IN["masked_input_ids"],
        IN["mlm_labels"],
        ids,
        (ids > 0).long(),
        torch.repeat_interleave(torch.arange(4), count),
    )


@pytest.fixture
def drawn(monkeypatch):
    """The release's hard negatives instead of a draw."""

    def start():
        known = iter([IN["neg_text_idx"], IN["neg_image_idx"]])
        monkeypatch.setattr(xvl, "hard_negatives", lambda *_: next(known))

    return start


RELEASED = "packed=0 soft_targets=sequence"  # how the release computes it
LOSSES = {
    "i2t": "i2t",
    "t2i": "t2i",
    "i2i": "i2i",
    "t2t": "t2t",
    "local": "t2i_inMod_l",
    "ita": "ita",
    "itm": "itm",
}


# --- one whole step -------------------------------------------------------------------------------
@pytest.mark.parametrize("overrides", [RELEASED, "packed=0", "packed=1"])
def test_losses_queues_and_momentum(overrides, drawn):
    m = model(overrides)
    drawn()
    terms = m(batch(), 0.4, None)
    for ours, theirs in LOSSES.items():
        close(terms[ours].detach(), OUT[f"loss_{theirs}"])
    close(m.image_queue, OUT["image_queue_after"].t())
    close(m.text_queue, OUT["text_queue_after"].t())
    assert int(m.queue_at) == int(OUT["queue_ptr_after"])
    state = m.state_dict()
    after = renamed("after_momentum/")
    assert len(after) >= 20 and all(k.startswith("twin.") for k in after)
    for k, v in after.items():
        close(state[k], v, 1e-6)


def test_soft_targets_of_masked_words_both_ways(drawn):
    """The release takes log-softmax over the sequence in distillation: ours over the vocabulary,
    theirs by an option.
    """
    hard, wrong, right = (
        OUT[f"loss_mlm_{k}"] for k in ("hard", "soft_as_released_dim1", "soft_if_dim_vocab")
    )
    for overrides, soft in ((RELEASED, wrong), ("packed=0", right), ("packed=1", right)):
        m = model(overrides)
        drawn()
        terms = m(batch(), 0.4, None)
        close(terms["mlm"].detach(), 0.6 * hard + 0.4 * soft)
        if overrides == RELEASED:
            close(terms["mlm"].detach(), OUT["loss_mlm"])
            close(terms["total"].detach(), OUT["loss_total"])
    assert (wrong - right).abs() > 1
    with pytest.raises(ValueError, match="packed=0"):
        model("packed=1 soft_targets=sequence")


@pytest.mark.parametrize("overrides", ["packed=0", "packed=1"])
def test_intermediates(overrides):
    m, b = model(overrides), batch()
    real = b.mask.bool()
    with torch.no_grad():
        tokens, f_image = m.online.encode_image(b.augmented)
        states, f_text = m.online.encode_text(b.ids, b.mask)
        close(tokens, OUT["image_embeds"])
        close(f_image, OUT["image_feat"])
        close(states[real], OUT["text_embeds"][real])
        close(f_text, OUT["text_feat"])
        masked_states, _ = m.online.encode_text(b.masked_ids, b.mask)
        fused = m.online.fusion(states, b.mask, tokens)
        close(fused[real], OUT["fusion_pos_last_hidden"][real])
        close(m.match_logits(states, b.mask, tokens), OUT["itm_logits_pos"])
        # the release's negatives: own reports with other images, then other reports with own images
        texts, masks = (torch.cat([t, t[IN["neg_text_idx"]]]) for t in (states, b.mask))
        images = torch.cat([tokens[IN["neg_image_idx"]], tokens])
        seen = masks.bool()
        close(m.online.fusion(texts, masks, images)[seen], OUT["fusion_neg_last_hidden"][seen])
        close(m.match_logits(texts, masks, images), OUT["vl_output"][4:])
        logits = m.online.fusion.mlm_head(m.online.fusion(masked_states, b.mask, tokens))
        # up to 14.7; computed in float64 they are 1.4e-5 from the recording: that is the
        # recording's own rounding
        close(logits[real], OUT["mlm_logits"][real], 1.5e-5)
        m.update_twin()
        t = m.momentum(b)
        close(t.tokens, OUT["image_embeds_m"])
        close(t.f_image, OUT["image_feat_m"])
        close(t.report, OUT["text_sim_m"])
        close(t.f_text, OUT["text_feat_m"])
        close(t.f_sentence, OUT["text_feat_m_l"][OUT["text_attention_mask_l_all"].bool()])
        logits_m = m.twin.fusion.mlm_head(m.twin.fusion(t.masked_states, b.mask, t.tokens))
        close(logits_m[real], OUT["logits_m"][real], 1.5e-5)
        s = objective.similarities(
            f_image, f_text, t.f_image, t.f_text, m.image_queue, m.text_queue, m.temperature
        )
        for name in ("i2t", "t2i", "i2i", "t2t"):
            close(
                s[name], OUT[f"sim_{name}"], 2e-5
            )  # of numbers up to 14: float32 ends at 1e-6 of them
        one_hot = torch.eye(4, s["i2t"].shape[1])
        for name in ("i2t", "t2i"):
            close(0.4 * s[f"soft_{name}"] + 0.6 * one_hot, OUT[f"sim_{name}_targets"])


def test_weights_of_hard_negatives():
    """As released but for the draws that are refused: the release draws again, at most 100 times in
    a whole batch.
    """
    with torch.no_grad():
        same = F.normalize(OUT["text_sim_m"], dim=-1)
        same = same @ same.t()
        for side in ("i2t", "t2i"):
            weights, stuck, _ = objective.negative_weights(OUT[f"sim_{side}"][:, :4], same, 0.95)
            theirs = OUT[f"weights_{side}"].masked_fill(same >= 0.95, 0)
            assert not stuck.any() and ((weights > 0) == (theirs > 0)).all()
            close(weights / weights.sum(1, keepdim=True), theirs / theirs.sum(1, keepdim=True))
    assert (OUT["weights_i2t"][1, 2] > 0) and same[
        1, 2
    ] >= 0.95  # which the release may draw, and refuses


def test_negatives_without_a_limit_of_tries():
    """The release gives up after 100 draws over the batch and may keep a report that says the same;
    ours never.
    """
    same = torch.full((4, 4), 0.99)
    same[:, 3] = same[3, :] = 0.1
    similarity = torch.zeros(4, 4)
    similarity[:, 3] = -6  # the one allowed candidate is all but never drawn
    generator, tries, released = torch.Generator().manual_seed(0), 0, []
    for row in range(3):  # the release's rule
        weights = similarity.softmax(1)[row].index_fill(0, torch.tensor([row]), 0)
        while True:
            k = int(torch.multinomial(weights, 1, generator=generator))
            tries += 1
            if same[row, k] < 0.95 or tries >= 100:
                break
        released.append(k)
    assert any(same[row, k] >= 0.95 for row, k in enumerate(released))
    ours = objective.hard_negatives(similarity, same, 0.95, torch.Generator().manual_seed(0))
    assert ours[:3].tolist() == [3, 3, 3]


# --- gradients and the optimizer's step -----------------------------------------------------------
def stepped(drawn, overrides=RELEASED):
    m = model(overrides)
    drawn()
    m(batch(), 0.4, None)["total"].backward()
    return m, {n: p for n, p in m.named_parameters() if p.requires_grad}


def clip_as_released(m):
    norms = []
    for p in m.online.vision.parameters():
        norms.append(p.grad.norm())
        p.grad.mul_((3.0 / (norms[-1] + 1e-6)).clamp(max=1))
    return torch.stack(norms)


def test_gradients(drawn):
    """Those of the vision encoder were recorded after clipping, in spite of what the recording's
    note says.
    """
    m, named = stepped(drawn)
    torch.testing.assert_close(
        clip_as_released(m), torch.tensor(META["clip_grad_norms_visual"]), rtol=1e-4, atol=0
    )
    theirs = renamed("grad/")
    assert set(theirs) == set(named)
    for name, grad in theirs.items():
        if name.endswith("self.key.bias"):  # zero but for rounding: softmax does not see it
            assert max(grad.abs().max(), named[name].grad.abs().max()) < 1e-5
        else:
            assert (named[name].grad - grad).norm() <= 1e-4 * grad.norm(), name


def test_gradients_of_the_packed_model(drawn):
    """Without padding and with shared image keys: the same gradients."""
    plain, packed_ = (stepped(drawn, k)[1] for k in ("packed=0", "packed=1"))
    for name, p in plain.items():
        if not name.endswith("self.key.bias"):
            assert (packed_[name].grad - p.grad).norm() <= 1e-4 * p.grad.norm(), name


def released_groups():
    """Weight decay of each parameter in the release's two optimizer groups, {ours: weight
    decay}.
    """
    groups = META["optimizer_groups"]
    return {RENAMED[k]: g["weight_decay"] for g in groups for k in g["names"] if k in RENAMED}


def test_weights_after_one_step_of_the_release(drawn):
    m, named = stepped(drawn)
    clip_as_released(m)
    decay = released_groups()
    assert set(decay) == set(named)
    groups = [
        {"params": [named[k] for k, w in decay.items() if w == wd], "weight_decay": wd}
        for wd in (0.0, 0.1)
    ]
    torch.optim.AdamW(groups, lr=1e-4).step()
    after, compared = renamed("after_step/"), 0
    for name, value in after.items():
        if name in named and not name.endswith(
            "key.bias"
        ):  # their gradient is rounding error, and Adam steps by its sign
            sure = named[name].grad.abs() > 1e-6
            close(named[name].detach()[sure], value[sure], 1e-6)
            compared += int(sure.sum())
    assert compared > 40_000


def test_weight_decay_of_the_release_on_temperature_and_positions():
    """It decays these; ours does not."""
    m = model()
    decay = released_groups()
    ours = pytest.importorskip("medxvl.xvl_pretrain").parameter_groups(m, m.preset)
    ours = {id(p): g["weight_decay"] for g in ours for p in g["params"]}
    named = {n: p for n, p in m.named_parameters() if p.requires_grad}
    for name in ("temperature", "online.vision.cls_token", "online.vision.pos_embed"):
        assert decay[name] == 0.1 and ours[id(named[name])] == 0
    assert not [
        n for n, p in named.items() if ours[id(p)] and not decay[n]
    ]  # nothing that the release spares


def test_the_twin_has_no_dropout():
    """The release leaves it in train mode; ours is a target without noise."""
    m = model("dropout=0.5 drop_path=0.5").train()
    assert m.online.fusion.training and not any(k.training for k in m.twin.modules())
    first, second = m.momentum(batch()), m.momentum(batch())
    assert torch.equal(first.tokens, second.tokens) and torch.equal(
        first.masked_states, second.masked_states
    )
    noisy = [m.online.encode_text(batch().ids, batch().mask)[1] for _ in range(2)]
    assert not torch.equal(*noisy)


# --- parts ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_sentence_loss_without_padding(temperature):
    local, image = UNITS["g2l_nomask/l"], UNITS["g2l_nomask/m"].clone().requires_grad_()
    report = torch.arange(4).repeat_interleave(6)
    loss = objective.sentence_loss(local.flatten(0, 1), report, image, temperature)
    loss.backward()
    close(loss.detach(), UNITS[f"g2l_nomask/t{temperature}/loss"])
    close(image.grad, UNITS[f"g2l_nomask/t{temperature}/grad_m"])


def test_vision_encoder_at_three_sizes():
    vit = model().online.vision.eval()
    with torch.no_grad():
        for size in ("", "96", "64x96"):
            close(vision.tokens(vit, UNITS[f"vit/x{size}"]), UNITS[f"vit/y{size}"])
        close(vision.last_attention(vit, UNITS["vit/x"]), UNITS["vit/last_selfattention"])
        kept = vit.forward_intermediates(
            UNITS["vit/x"], indices=2, norm=True, return_prefix_tokens=True, output_fmt="NLC"
        )[1]
        for k, (patches, cls) in enumerate(kept):
            close(torch.cat([cls, patches], dim=1), UNITS[f"vit/intermediate_{k}"])


@pytest.mark.parametrize(
    "source, side, wanted", [("in_6x6", 4, "out_4x4"), ("in_4x4", 9, "out_9x9")]
)
def test_position_embeddings_of_another_grid(source, side, wanted):
    close(
        vision.resize_positions(UNITS[f"interp_pos_embed/{source}"], (side, side)),
        UNITS[f"interp_pos_embed/{wanted}"],
    )


@pytest.mark.parametrize(
    "case", ["pretrain_16", "pretrain_196", "retrieval_16", "retrieval_196", "retrieval_400"]
)
def test_patch_pooling(case):
    x, y = UNITS[f"patch_pooling_{case}/x"], UNITS[f"patch_pooling_{case}/y"]
    side = int(x.shape[1] ** 0.5)
    close(vision.pool_patches(x, int(side**0.5) if case.startswith("pretrain") else side // 4), y)


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
    layout = packed.from_mask(mask)
    with torch.no_grad():
        wanted = BERT["out/embeds_fusion/last"]
        for fast in (True, False):
            m.online.fusion.packed = fast
            close(m.online.fusion(x, mask, image, seen)[real], wanted[real])
        states = packed.run(words_, layout.pack(x), mask)
        whole = packed.run(cross, states, mask, image, pairs, seen)
        close(whole, BERT["out/embeds_multi_modal/last"][real])
        m.online.text.embeddings.load_state_dict(part("weights/embeddings.", BERT), strict=False)
        words = packed.embed(m.online.text.embeddings, BERT["in/input_ids"], mask, layout)
        states = packed.run(words_, words, mask)
        close(
            packed.run(cross, states, mask, image, pairs, seen),
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
                close(logits, ZERO[f"out/{kind}_itm_logits"][:, k])
                sigmoid[kind] = logits[..., 1].mean(1).sigmoid()
                close(sigmoid[kind], ZERO[f"out/{kind}_sigmoid"][:, k])
            close(
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
        state = {k.removeprefix(ours): v for k, v in xvl.from_released(state).items()}
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
        vit = load(vision.build(preset), "visual_encoder.", "online.vision.")
        tokens = vit.forward_features(
            torch.from_numpy(formula.uniform("input.image", (1, 3, 224, 224)))
        )
        del vit
        close(tokens[0, :4], wanted["out/image_embeds_first4"])
        close(F.normalize(project["vision"](tokens[:, 0]), dim=-1)[0], wanted["out/image_feat"])
        bert = load(fusion.build_text_encoder(preset, 30522), "text_encoder.", "online.text.")
        layout = packed.from_mask(mask)
        states, masked_states = (
            layout.pad(
                packed.run(bert.encoder.layer, packed.embed(bert.embeddings, k, mask, layout), mask)
            )
            for k in (ids, masked)
        )
        del bert
        close(states[real], wanted["out/text_embeds"][real])
        close(F.normalize(project["text"](states[:, 0]), dim=-1), wanted["out/text_feat"])
        encoder = load(fusion.FusionEncoder(preset, 30522), "fusion_encoder.", "online.fusion.")
        images = tokens.expand(2, -1, -1)
        fused = encoder(states, mask, images)
        close(fused[real], wanted["out/fusion_last_hidden"][real])
        close(head(fused[:, 0]), wanted["out/itm_logits"])
        logits = encoder.mlm_head(encoder(masked_states, mask, images))[..., :50]
        close(logits[real], wanted["out/mlm_logits_first50"][real])
