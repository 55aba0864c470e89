"""Published encoders: iBOT, DINO, BERT, CXR-BERT, ResNet, with whatever stands beside them."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from released_data import vit
from safetensors.torch import save_file
from weight_data import MODELS, SMALL

from medxvl.config import presets
from medxvl.layers import fusion, vision_transformer
from medxvl.medvill import model as medvill
from medxvl.weights import convert, store


def ibot(tmp_path, **branches) -> Path:
    """A full checkpoint as iBOT's training leaves it."""
    student = {
        f"module.backbone.{k}": v for k, v in vit(SMALL, branches.get("student", 1.0)).items()
    }
    student |= {
        "module.backbone.masked_embed": torch.zeros(1, 64),
        "module.head.mlp.0.weight": torch.zeros(4, 64),
    }
    teacher = {f"backbone.{k}": v for k, v in vit(SMALL, branches.get("teacher", 2.0)).items()}
    teacher |= {
        "head.last_layer.weight_v": torch.zeros(8, 4),
        "head.mlp.0.weight": torch.zeros(4, 64),
    }
    whole = {
        "student": student,
        "teacher": teacher,
        "optimizer": {"state": {}},
        "epoch": 100,
        "ibot_loss": {},
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
    }
    torch.save(whole, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def test_ibot_the_teacher_unless_told(tmp_path):
    file = ibot(tmp_path)
    found = convert.convert(file, models=MODELS)
    assert (
        found.kind == "iBOT or DINO"
        and found.raw.branch == "teacher"
        and found.raw.beside["args"].arch == "vit_small"
    )
    assert found.encoders["vision"]["cls_token"].unique().item() == 2
    assert (
        set(found.report.left_out.values()) == {"head of the earlier training"}
        and not found.report.unexpected
    )
    assert "also holds student" in found.raw.notes[0]
    student = convert.convert(file, branch="student", models=MODELS)
    assert student.encoders["vision"]["cls_token"].unique().item() == 1
    assert "iBOT's mask token" in student.report.left_out.values()
    with pytest.raises(ValueError, match="no part 'tutor', expected one of: teacher, student"):
        convert.convert(file, branch="tutor", models=MODELS)


def test_teacher_and_student_in_one_safetensors_file(tmp_path):
    flat = {
        f"{b}.backbone.{k}": v
        for b, n in (("teacher", 2.0), ("student", 1.0))
        for k, v in vit(SMALL, n).items()
    }
    save_file(flat, tmp_path / "x.safetensors")
    for branch, number in (("", 2), ("teacher", 2), ("student", 1)):
        found = convert.convert(tmp_path / "x.safetensors", branch=branch, models=MODELS)
        assert (
            found.kind == "iBOT or DINO"
            and found.encoders["vision"]["cls_token"].unique().item() == number
        )


def test_backbone_alone(tmp_path):
    torch.save({"state_dict": vit(SMALL)}, tmp_path / "a.pth")
    torch.save(vit(SMALL), tmp_path / "b.pth")
    for file in ("a.pth", "b.pth"):
        found = convert.convert(tmp_path / file, models=MODELS)
        assert (
            found.kind == "Vision Transformer"
            and not found.report.missing
            and not found.report.left_out
        )
        assert found.sizes == {
            "vision_stem": "patch",
            "vision_width": 64,
            "vision_layers": 2,
            "vision_heads": 1,
            "patch_size": 16,
            "channels": 3,
            "image_size": 64,
        }


@pytest.mark.parametrize(
    "change", [{}, {"patch_size": 16}, {"patch_size": 32, "channels": 3}], ids=str
)
def test_the_vision_encoder_of_the_small_presets(tmp_path, change):
    """With a stack of convolutions instead of patches, as notebook 20 leaves it in demo."""
    demo = replace(presets.load("demo"), **change)
    state = {
        name: value.contiguous()
        for name, value in vision_transformer.build(demo).state_dict().items()
    }
    save_file(state, tmp_path / "x.safetensors")
    found = convert.convert(tmp_path / "x.safetensors", models=MODELS)
    assert found.kind == "Vision Transformer" and not found.report.missing
    assert (
        found.sizes.items()
        >= {
            "vision_stem": "conv",
            "patch_size": demo.patch_size,
            "channels": demo.channels,
            "image_size": demo.image_size,
        }.items()
    )


@pytest.mark.parametrize("prefix", ["text_encoder.bert.", "bert.", ""])
def test_cxr_bert_under_any_prefix(tmp_path, prefix):
    torch.manual_seed(1)
    bert = fusion.build_text_encoder(SMALL, 50).state_dict()
    old = {"weight": "gamma", "bias": "beta"}  # names of the first BERT releases
    state = {
        prefix
        + (
            k.rpartition(".")[0] + "." + old[k.rpartition(".")[2]]
            if "LayerNorm" in k and prefix == "bert."
            else k
        ): v
        for k, v in bert.items()
    }
    head = "text_encoder." if prefix.startswith("text") else ""
    state |= {
        f"{prefix}embeddings.position_ids": torch.arange(32)[None],
        f"{head}cls.predictions.bias": torch.zeros(50),
        f"{head}cls_projection_head.dense_to_hidden.weight": torch.zeros(8, 64),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(
        json.dumps({"auto_map": {"AutoModel": "remote--code.CXRBertModel"}})
    )
    found = convert.convert(tmp_path, models=MODELS)
    assert found.kind == "CXR-BERT" and not found.report.unexpected and not found.report.missing
    assert "not run" in " ".join(found.raw.notes)
    model = fusion.build_text_encoder(SMALL, 50)
    store.load_into(model, tmp_path, "text")
    assert all(torch.equal(v, bert[k]) for k, v in model.state_dict().items())


def test_plain_bert_and_resnet(tmp_path):
    save_file(fusion.build_text_encoder(SMALL, 50).state_dict(), tmp_path / "bert.safetensors")
    assert convert.convert(tmp_path / "bert.safetensors", models=MODELS).kind == "BERT"
    resnet = medvill.MedViLL(
        replace(SMALL, medvill_layers=1, medvill_width=48, medvill_heads=1), 50
    ).trunk.net
    state = resnet.state_dict() | {
        "fc.weight": torch.zeros(1000, 2048),
        "fc.bias": torch.zeros(1000),
    }
    torch.save(state, tmp_path / "resnet50.pth")
    found = convert.convert(tmp_path / "resnet50.pth", models=MODELS)
    assert (
        found.kind == "ResNet-50" and not found.report.missing and len(found.report.left_out) == 2
    )
