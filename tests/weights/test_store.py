"""Weights go into models only when they fit, and say what they are."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from weight_data import MODELS, OWN, PAPER, SMALL, copy_of, model, same, vit

from medxvl.config import presets
from medxvl.config.recipes import Recipe
from medxvl.layers import fusion, vision_transformer
from medxvl.medvill import checkpoints as medvill_checkpoints
from medxvl.medvill import model as medvill
from medxvl.weights import convert, store
from medxvl.xvl import checkpoints
from medxvl.xvl.model import XVL

RECIPE = Recipe({"seed": 0}, "d", {}, keeps=False)


def test_own_weights_say_what_they_are_and_come_back(tmp_path):
    first, file = model(OWN, 60), tmp_path / "best.safetensors"
    store.save(first, file, kind="pre-trained", recipe=RECIPE, score=0.5)
    found = convert.convert(file, models=MODELS)
    assert (
        found.kind == "medxvl X-VL"
        and found.raw.about["score"] == "0.5"
        and found.raw.form == "safetensors"
    )
    assert not (found.report.missing or found.report.unexpected or found.report.mismatched)
    assert same(store.load_model(OWN, 60, file, XVL).online.state_dict(), first.online.state_dict())
    second = model(OWN, 60, seed=1)
    assert not same(second.online.state_dict(), first.online.state_dict())
    store.load_into(second, file)
    assert same(second.online.state_dict(), first.online.state_dict())
    assert same(second.twin.state_dict(), first.online.state_dict()), (
        "twins the file does not hold are copies"
    )


def test_kept_checkpoints_of_a_folder_the_best(tmp_path):
    for name, seed in (("epoch01.safetensors", 1), ("epoch02.safetensors", 2)):
        store.save(
            model(OWN, 60, seed), tmp_path / name, kind="pre-trained", recipe=RECIPE, score=0.5
        )
    (tmp_path / "best.json").write_text(
        json.dumps({"epoch02.safetensors": 0.9, "epoch01.safetensors": 0.8})
    )
    found = convert.convert(tmp_path, models=MODELS)
    assert found.file.name == "epoch02.safetensors" and "the best" in found.raw.notes[0]


def test_one_encoder_the_rest_untouched(tmp_path):
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in vit().items()}, "epoch": 3},
        tmp_path / "ibot.pth",
    )
    ours = model(replace(SMALL, image_size=96))
    before = copy_of(ours)
    report = store.load_into(ours, tmp_path / "ibot.pth", "vision")
    assert list(report.reshaped) == ["pos_embed"] and ours.online.vision.pos_embed.shape[1] == 37
    assert torch.equal(
        ours.online.vision.blocks[1].mlp.fc1.weight, vit()["blocks.1.mlp.fc1.weight"]
    )
    assert same(ours.twin.vision.state_dict(), ours.online.vision.state_dict())
    after = copy_of(ours)
    assert all(torch.equal(v, after[k]) for k, v in before.items() if ".vision." not in k)


def test_half_precision_is_widened(tmp_path):
    torch.save({k: v.half() for k, v in vit().items()}, tmp_path / "x.pth")
    bare = vision_transformer.build(SMALL)
    store.load_into(bare, tmp_path / "x.pth")
    assert bare.cls_token.dtype == torch.float32
    assert torch.equal(bare.pos_embed, vit()["pos_embed"].half().float())


@pytest.mark.parametrize("change, told", [
    ({"vision_width": 128, "vision_heads": 2}, "--set vision_width=64 --set vision_heads=1"),
    ({"vision_layers": 3}, "--set vision_layers=2"),
    ({"vision_stem": "conv"}, "--set vision_stem=patch"),
])  # fmt: skip
def test_vision_that_does_not_fit(tmp_path, change, told):
    torch.save(vit(), tmp_path / "x.pth")
    ours = model(replace(SMALL, **change))
    before = copy_of(ours)
    with pytest.raises(ValueError, match="does not fit") as message:
        store.load_into(ours, tmp_path / "x.pth", "vision")
    assert told in str(message.value)
    assert same(before, ours.state_dict())


def test_text_of_another_vocabulary(tmp_path):
    save_file(fusion.build_text_encoder(SMALL, 50).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match="it has 50 words, the model 49: use the tokenizer it was trained with"
    ):
        store.load_into(model(words=49), tmp_path / "x.safetensors", "text")


def test_a_text_table_is_cut(tmp_path):
    longer = fusion.build_text_encoder(replace(SMALL, max_tokens=40), 50)
    save_file(longer.state_dict(), tmp_path / "x.safetensors")
    ours = model()
    report = store.load_into(ours, tmp_path / "x.safetensors", "text")
    assert "first positions kept" in report.reshaped["embeddings.position_embeddings.weight"]
    table = "embeddings.position_embeddings.weight"
    assert torch.equal(ours.online.text.state_dict()[table], longer.state_dict()[table][:32])


def test_the_wrong_part_is_refused(tmp_path):
    torch.save(vit(), tmp_path / "x.pth")
    for part, told in (
        ("text", "holds no text encoder"),
        ("all", "holds one encoder: give part='vision'"),
        ("image", "expected all"),
    ):
        with pytest.raises(ValueError, match=told):
            store.load_into(model(), tmp_path / "x.pth", part)


def test_strict_and_not(tmp_path):
    torch.save(vit() | {"adapter.weight": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match="1 weights are unknown, such as adapter.weight;.*strict=False"
    ):
        store.load_into(model(), tmp_path / "x.pth", "vision")
    report = store.load_into(model(), tmp_path / "x.pth", "vision", strict=False)
    assert report.unexpected == ["adapter.weight"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, bad):
    state = vit()
    state["norm.weight"][3] = bad
    torch.save(state, tmp_path / "x.pth")
    ours = model()
    before = copy_of(ours)
    with pytest.raises(ValueError, match="1 weights are not finite, such as norm.weight"):
        store.load_into(ours, tmp_path / "x.pth", "vision")
    assert same(before, ours.state_dict())


def test_start_from_the_presets_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.paths, "WEIGHTS", tmp_path)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in vit().items()}}, tmp_path / "ibot.pth")
    torch.manual_seed(3)
    bert = fusion.build_text_encoder(SMALL, 50)
    (tmp_path / "cxr-bert").mkdir()
    torch.save(
        {f"bert.{k}": v for k, v in bert.state_dict().items()},
        tmp_path / "cxr-bert" / "pytorch_model.bin",
    )
    named = replace(SMALL, vision_weights="ibot.pth", text_weights="cxr-bert")
    ours = model(named)
    reports = checkpoints.start_from(ours, named)
    assert [r.kind for r in reports] == ["iBOT or DINO", "BERT"]
    assert same(ours.online.text.state_dict(), bert.state_dict()) and same(
        ours.online.vision.state_dict(), vit()
    )
    assert same(ours.twin.text.state_dict(), bert.state_dict())
    before = copy_of(ours)
    assert checkpoints.start_from(
        ours, replace(named, vision_weights="", text_weights="")
    ) == [] and same(before, ours.state_dict())
    with pytest.raises(FileNotFoundError, match="bytedance/ibot"):
        checkpoints.start_from(ours, replace(named, vision_weights="ibot_vitb16.pth"))


def test_medvill_starts_from_resnet_and_bert(tmp_path):
    tiny = replace(
        PAPER,
        medvill_layers=2,
        medvill_width=64,
        medvill_heads=1,
        medvill_hidden=96,
        medvill_max_positions=32,
    )
    torch.manual_seed(1)
    given = medvill.MedViLL(tiny, 50)
    torch.save(
        given.trunk.net.state_dict() | {"fc.weight": torch.zeros(1000, 2048)},
        tmp_path / "resnet50.pth",
    )
    torch.save({f"bert.{k}": v for k, v in given.bert.state_dict().items()}, tmp_path / "bert.bin")
    named = replace(
        tiny,
        medvill_vision_weights=str(tmp_path / "resnet50.pth"),
        medvill_text_weights=str(tmp_path / "bert.bin"),
    )
    torch.manual_seed(2)
    ours = medvill.MedViLL(named, 50)
    assert [r.kind for r in medvill_checkpoints.start_from(ours, named)] == ["ResNet-50", "BERT"]
    assert same(ours.bert.state_dict(), given.bert.state_dict()) and same(
        ours.trunk.state_dict(), given.trunk.state_dict()
    )
    with pytest.raises(ValueError, match="does not fit the vision encoder of the model"):
        store.load_into(
            model(), tmp_path / "resnet50.pth", "vision"
        )  # X-VL has a Vision Transformer


def test_presets_name_published_starts():
    assert PAPER.vision_weights and PAPER.text_weights
    for name in ("smoke", "demo"):
        assert presets.load(name).vision_weights == presets.load(name).text_weights == ""
