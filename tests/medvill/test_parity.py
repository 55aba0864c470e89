"""MedViLL equals what the original code computed, from its own weights and inputs."""

import json
from dataclasses import replace

import formula
import pytest
import torch
import torch.nn.functional as F
from medvill_recorded import FINE, PARITY, SPECIAL, TINY, build, plain_kernel, under  # noqa: F401
from safetensors.torch import load_file
from tolerance import RECORDED_VALUES, assert_close, assert_recorded

from medxvl.config import presets
from medxvl.medvill import heads as medvill_heads
from medxvl.medvill import masks, release
from medxvl.medvill import model as medvill
from medxvl.medvill.corpus import join, mask_words

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def pretraining():
    return load_file(PARITY / "medvill_pretrain.safetensors")


def batch_of(t, name, own_cls=False):
    ids, mask = t[f"{name}/in/input_ids"], t[f"{name}/in/attn_mask"].bool()
    if own_cls:
        ids = torch.cat([t[f"{name}/in/cls_tok"], ids], dim=1)
    joint = join(ids, mask, t["in/sampled_positions"].expand(4, -1), SPECIAL, own_cls=own_cls)
    labels = t[f"{name}/in/txt_labels"][:, 7:]
    return medvill.Batch(t["in/feature_map"], joint, labels, t["in/is_aligned"])


@pytest.mark.parametrize("name", ["bidirectional", "seq2seq", "bar"])
def test_pre_training(pretraining, name):
    t, (model, _) = pretraining, build(under(pretraining, "weights/"))
    batch = batch_of(t, name)
    states = model.encode(batch.images, batch.joint)
    assert_recorded(states, t[f"{name}/out/last_hidden"])
    assert_recorded(model.pool(states, 7), t[f"{name}/out/pooled"])
    assert_recorded(model.mlm_logits(states), t[f"{name}/out/mlm_logits"])
    assert_recorded(model.itm_head(model.pool(states, 7)), t[f"{name}/out/itm_logits"])
    attention = model.attention_maps(batch.images, batch.joint)
    assert_recorded(attention[0], t[f"{name}/out/attn_layer0"])
    assert_recorded(attention[-1], t[f"{name}/out/attn_last"])
    terms = model(batch)
    assert_recorded(terms["mlm"], t[f"{name}/out/loss_mlm"])
    assert_recorded(terms["itm"], t[f"{name}/out/loss_itm"])
    assert terms["total"] == terms["mlm"] + terms["itm"]


def test_gradients_of_bar(pretraining):
    t, (model, _) = pretraining, build(under(pretraining, "weights/"))
    model(batch_of(t, "bar"))["total"].backward()
    wanted = under(t, "bar/grad/")
    ours = dict(model.named_parameters())
    assert len(wanted) == len([p for p in ours.values() if p.grad is not None])
    for key, gradient in wanted.items():
        found = ours[release.rename(key)].grad
        if key.endswith("key.bias"):  # shifts a whole row of the softmax: zero, up to rounding
            assert max(found.abs().max(), gradient.abs().max()) < RECORDED_VALUES, key
        else:
            assert_recorded(found, gradient, gradient=True)


def test_own_cls_of_noncross(pretraining):
    """The release cannot run this mask; what it stands for was recorded by hand from its parts,
    padding being seen.
    """
    t = pretraining
    model, _ = build(under(t, "weights/"), replace(TINY, medvill_mask="noncross"))
    batch = batch_of(t, "noncross", own_cls=True)
    states = model.encode(batch.images, batch.joint)
    assert_recorded(states, t["noncross/out/last_hidden"])
    assert_recorded(model.pool(states, 7), t["noncross/out/cls_represent"])
    assert_recorded(model.itm_head(model.pool(states, 7)), t["noncross/out/itm_logits"])
    assert_recorded(model.mlm_logits(states), t["noncross/out/mlm_logits"])
    real = torch.cat([t["noncross/in/cls_tok"], t["noncross/in/input_ids"]], dim=1) != 0
    assert masks.attention("noncross", 7, real, padding="pretraining").equal(batch.joint.mask)


def test_two_dimensional_mask(pretraining):
    t, (model, _) = pretraining, build(under(pretraining, "weights/"))
    batch = batch_of(t, "bar")
    seen = t["mask2d/in/attn_mask"].bool()
    batch.joint.mask = seen[:, None, :].expand(-1, seen.shape[1], -1)
    states = model.encode(batch.images, batch.joint)
    assert_recorded(states, t["mask2d/out/last_hidden"])
    assert_recorded(model.pool(states, 7), t["mask2d/out/pooled"])


def test_mismatched_pairs_train_words_in_the_release_alone(pretraining):
    t = pretraining
    batch = batch_of(t, "bar")
    released, _ = build(under(t, "weights/"))
    ours, _ = build(under(t, "weights/"), replace(TINY, medvill_mlm_mismatched=0))
    logits, matched = t["bar/out/mlm_logits"], t["in/is_aligned"].bool()
    labels = t["bar/in/txt_labels"]
    assert_recorded(released(batch)["mlm"], F.cross_entropy(logits.transpose(1, 2), labels))
    assert_recorded(
        ours(batch)["mlm"], F.cross_entropy(logits[matched].transpose(1, 2), labels[matched])
    )
    assert (released(batch)["mlm"] - ours(batch)["mlm"]).abs() > 1e-3


def test_words_masked_as_in_the_release():
    """Its draws: a number a token, from Python's generator, and a word where the number says so."""
    import random

    for case in json.loads((PARITY / "medvill_words.json").read_text())["random_word"]:
        random.seed(case["seed"])
        chance, other = [], []
        for _ in case["tokens"]:
            chance.append(random.random())
            swap = chance[-1] < 0.15 and 0.8 <= chance[-1] / 0.15 < 0.9
            other.append(random.randrange(200) if swap else 0)
        ids = torch.tensor([case["tokens"]])
        word = torch.ones_like(ids, dtype=torch.bool)
        found, labels = mask_words(
            ids, word, torch.tensor([chance], dtype=torch.float64), torch.tensor([other]), 0.15, 103
        )
        assert found[0].tolist() == case["masked"] and labels[0].tolist() == case["labels"], case[
            "seed"
        ]


# --- the image encoder and the whole model at published size --------------------------------------
PAPER = presets.load("paper")


def test_resnet50():
    t = load_file(PARITY / "medvill_resnet50_formula.safetensors")
    keys = json.loads((PARITY / "medvill_keys.json").read_text())["pretrain"]["keys"]
    weights = {
        k: formula.weight(k, shape)
        for k, (shape, _) in keys.items()
        if k.startswith("enc.img_encoder.")
    }
    trunk = medvill.Trunk(PAPER)
    trunk.load_state_dict(
        {k.removeprefix("trunk."): v for k, v in release.from_released(weights).items()}
    )
    trunk.eval()
    with torch.no_grad():
        tokens = trunk(t["in/image"])
    assert_recorded(tokens, t["out/feature_map_bchw"].flatten(2).transpose(1, 2))
    assert_recorded(
        tokens.gather(1, t["out/positions"][:, :, None].expand(-1, -1, 2048)), t["out/sampled"]
    )
    drawn = torch.randperm(9, generator=torch.Generator().manual_seed(9))[:5].sort().values
    assert drawn.equal(t["out/positions"][0])


def test_published_size():
    """135 million weights from their names: what a released checkpoint goes through when it is
    loaded.
    """
    t = load_file(PARITY / "medvill_fullsize_formula.safetensors")
    listed = json.loads((PARITY / "medvill_keys.json").read_text())["pretrain"]
    weights = {
        k: formula.weight(k, shape)
        for k, (shape, _) in listed["keys"].items()
        if k not in listed["aliases"]
    }
    weights |= {alias: weights[key] for alias, key in listed["aliases"].items()}
    model = medvill.MedViLL(PAPER, 30522).eval()
    model.load_state_dict(release.from_released(weights))
    assert sum(p.numel() for p in model.parameters()) == listed["n_unique_parameters"]
    images = torch.from_numpy(formula.uniform("input.image", (2, 3, 128, 128)))
    joint = join(
        t["in/input_ids"],
        t["in/attn_mask"].bool(),
        t["in/sampled_positions"].expand(2, -1),
        SPECIAL,
    )
    with torch.no_grad():
        features = model.trunk(images)
        states = model.encode(features, joint)
        pooled = model.pool(states, 11)
        assert_recorded(
            features[:, t["in/sampled_positions"], :64], t["out/sampled_features_first64"]
        )
        assert_recorded(states, t["out/last_hidden"])
        assert_recorded(pooled, t["out/pooled"])
        assert_recorded(model.itm_head(pooled), t["out/itm_logits"])
        assert_recorded(model.mlm_logits(states)[..., :50], t["out/mlm_logits_first50"])


# --- fine-tuning ----------------------------------------------------------------------------------
def test_classification():
    t = load_file(PARITY / "medvill_classification.safetensors")
    model, ours = build(under(t, "weights/"))
    real = t["in/mask"].bool()
    grid = torch.arange(6).expand(3, -1)
    joint = join(
        t["in/txt"],
        masks.attention("bidirectional", 8, real),
        grid,
        SPECIAL,
        every=True,
        positions="classification",
    )
    pooled = model.pool(model.encode(t["in/features"], joint), 8)
    logits = F.linear(pooled, ours["class_head.weight"], ours["class_head.bias"])
    assert_recorded(pooled, t["out/pooled"])
    assert_recorded(logits, t["out/logits"])
    freqs = torch.tensor([50, 900, 333, 1, 500, 250, 10, 720, 100, 60, 999, 5, 400, 123])
    weights = medvill_heads.positive_weights(freqs, 1000)
    assert_close(weights, t["pos_weight"], terms=2)
    assert_recorded(F.binary_cross_entropy_with_logits(logits, t["in/target"]), t["out/plain_bce"])
    assert_recorded(
        F.binary_cross_entropy_with_logits(logits, t["in/target"], pos_weight=weights),
        t["out/weighted_bce"],
    )
    with pytest.raises(ValueError, match=r"\[1\]: expected at least one positive"):
        medvill_heads.positive_weights(torch.tensor([3, 0]), 10)


@pytest.fixture(scope="module")
def finetuning():
    return load_file(PARITY / "medvill_finetune.safetensors")


def test_generation_losses(finetuning):
    t = finetuning
    model, _ = build(under(t, "gen/weights/"), FINE, layer_norm_eps=1e-5)
    assert not hasattr(model, "mlm_matrix")
    mask = masks.attention("seq2seq", 7, t["gen/in/input_ids"][:, 7:] != 0, padding="finetuning")
    assert mask.equal(t["gen/in/input_mask"].bool())
    joint = join(
        t["gen/in/input_ids"][:, 7:],
        mask,
        torch.arange(5).expand(3, -1),
        SPECIAL,
        every=True,
        positions="generation",
    )
    states = model.encode(t["gen/in/features"], joint)
    at = t["gen/in/masked_pos"]
    logits = model.mlm_logits(states.gather(1, at[:, :, None].expand(-1, -1, 48)))
    for drop in (0.0, 0.2, 0.4):
        loss = medvill_heads.masked_word_loss(
            logits, t["gen/in/masked_ids"], t["gen/in/masked_weights"], drop
        )
        assert_recorded(loss, t[f"gen/out/loss_drop{drop}"])


def test_answers(finetuning):
    t = finetuning
    model, ours = build(under(t, "vqa/weights/"), FINE, layer_norm_eps=1e-5)
    head = medvill_heads.answer_head(48, 458)
    head.load_state_dict(under(ours, "answer_head."))
    joint = join(
        t["vqa/in/input_ids"][:, 7:],
        t["vqa/in/input_mask"].bool(),
        torch.arange(5).expand(3, -1),
        SPECIAL,
        every=True,
        positions="generation",
    )
    vector = medvill_heads.answer_vector(model.encode(t["gen/in/features"], joint), 7)
    assert_recorded(vector, t["vqa/out/embed_cls_times_sep"])
    assert_recorded(head(vector), t["vqa/out/logits"])
    assert_recorded(
        F.binary_cross_entropy_with_logits(head(vector), t["vqa/in/target"]), t["vqa/out/loss"]
    )
    assert (head(vector)[:, 1:].argmax(dim=1) + 1).equal(
        t["vqa/out/inference_argmax"]
    )  # class 0 is no answer


# --- released names -------------------------------------------------------------------------------
LISTS = json.loads((PARITY / "medvill_keys.json").read_text())


@pytest.mark.parametrize("kind", [kind for kind in LISTS if not kind.startswith("_")])
def test_every_released_name_is_known(kind):
    keys, aliases = LISTS[kind]["keys"], LISTS[kind]["aliases"]
    names = {k: release.rename(k) for k in keys}
    assert None not in names.values()
    for alias in aliases:
        assert names[alias] == "", alias
    kept = [n for n in names.values() if n]
    assert len(kept) == len(set(kept))
    with torch.device("meta"):
        model = medvill.MedViLL(PAPER, 30522).state_dict()
    for key, name in names.items():
        if name and not name.startswith(("class_head", "answer_head")):
            assert list(model[name].shape) == keys[key][0], key
    heads = {
        "pretrain": (),
        "retrieval": ("mlm",),
        "finetune_report_generation": ("itm",),
        "decode_report_generation": ("itm",),
    }
    lacking = {n for n in model if n not in kept and "num_batches" not in n}
    assert all(n.startswith(heads.get(kind, ("mlm", "itm"))) for n in lacking), lacking


def test_unknown_and_contradicting_names():
    base = {
        "enc.img_embeddings.img_embeddings.weight": torch.zeros(4, 8),
        "enc.odd": torch.zeros(1),
    }
    assert set(release.from_released(base)) == {"image_proj.weight", "enc.odd"}
    table = torch.randn(6, 4)
    state = base | {
        "enc.txt_embeddings.word_embeddings.weight": table,
        "mlm.predictions.decoder.weight": table.clone(),
    }
    assert "mlm_matrix" not in release.from_released(state)
    state["mlm.predictions.decoder.weight"] = table + 1
    assert release.from_released(state)["mlm_matrix"].equal(table + 1)
    state["enc.txt_embeddings.LayerNorm.bias"], state["enc.img_embeddings.LayerNorm.bias"] = (
        torch.zeros(4),
        torch.ones(4),
    )
    with pytest.raises(
        ValueError, match="img_embeddings.LayerNorm.bias and .*: expected one shared weight"
    ):
        release.from_released(state)


def test_an_untied_head_uses_its_own_matrix():
    model = medvill.MedViLL(TINY, 200, tied=False).eval()
    states = torch.randn(2, 48)
    before = model.mlm_logits(states)
    table = model.bert.embeddings.word_embeddings.weight
    assert_close(before, F.linear(model.mlm_transform(states), table), terms=2 * 48)
    with torch.no_grad():
        model.mlm_matrix *= 2  # adding a constant would change nothing behind a LayerNorm
    assert_close(model.mlm_logits(states), 2 * before, terms=2 * 48)  # its bias is zero


def test_patch_weights_keep_the_order_of_pixels():
    """The release's linear map takes a patch as (row, column, channel); a convolution has the
    channel first.
    """
    torch.manual_seed(0)
    preset = replace(
        TINY, medvill_trunk="patch", medvill_image_size=16, medvill_patch=4, medvill_channels=3
    )
    trunk, linear = medvill.Trunk(preset), torch.nn.Linear(48, 64)
    state = {f"enc.img_encoder.patch_to_embedding.{k}": v for k, v in linear.state_dict().items()}
    trunk.load_state_dict(
        {k.removeprefix("trunk."): v for k, v in release.from_released(state).items()}
    )
    images = torch.rand(2, 3, 16, 16)
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(2, 16, 48)
    assert_close(trunk(images), linear(patches), terms=48)
