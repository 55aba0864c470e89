"""Released checkpoints: each layout is recognised and renamed, at full size, from the key lists of
the real models.

The weights are single zeros spread to the real shapes, so that 700 million numbers take half a
megabyte on the disk.
"""

import argparse
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from medxvl import fusion, layouts, medvill, presets, released, vision, weights
from medxvl.xvl import XVL

PARITY = Path(__file__).parent / "parity"
XVL_KEYS = json.loads(gzip.decompress((PARITY / "xvl_keys.json.gz").read_bytes()))
MEDVILL_KEYS = json.loads((PARITY / "medvill_keys.json").read_text())
PAPER = presets.load("paper")
WIDE = {"float32": torch.float32, "int64": torch.int64}


def spread(shape, dtype="float32") -> torch.Tensor:
    """Zeros of any shape that take the memory of one."""
    return torch.zeros((1,) * len(shape), dtype=WIDE[dtype]).expand(shape)


def full_size(listed: dict) -> dict:
    """The state dict of a key list: tied weights share one tensor, as they do in the files."""
    tied = listed["aliases"]
    own = {k: spread(*v) for k, v in listed["keys"].items() if k not in tied}
    return {k: own[tied.get(k, k)] for k in listed["keys"]}


def vit(preset=PAPER, number=None) -> dict:
    """A Vision Transformer under its own names; all weights `number`, or random."""
    torch.manual_seed(0)
    state = vision.build(preset).state_dict()
    return state if number is None else {k: torch.full_like(v, number) for k, v in state.items()}


SMALL = replace(
    PAPER,
    vision_width=64,
    vision_layers=2,
    vision_heads=1,
    image_size=64,
    text_width=64,
    text_layers=2,
    text_heads=1,
    text_hidden=96,
    vocabulary=50,
    max_tokens=32,
    fusion_layers=1,
    fusion_hidden=64,
    projection=16,
    queue_size=8,
)


# --- the real sizes -------------------------------------------------------------------------------
FULL = [
    (XVL_KEYS["pretrain"], "X-VL pre-training", 0),
    (
        XVL_KEYS["retrieval_zero_shot"],
        "X-VL retrieval or zero-shot",
        7,
    ),  # without the head for masked words
    (XVL_KEYS["vqa_correction"], "X-VL answers or correction", 0),
    (MEDVILL_KEYS["pretrain"], "MedViLL pre-training", 0),
    (MEDVILL_KEYS["retrieval"], "MedViLL retrieval", 5),
    (MEDVILL_KEYS["classification_14"], "MedViLL classification", 7),
    (MEDVILL_KEYS["finetune_report_generation"], "MedViLL report generation", 2),
    (MEDVILL_KEYS["decode_report_generation"], "MedViLL report generation, decoding", 2),
    (MEDVILL_KEYS["finetune_vqa"], "MedViLL answers", 7),
]


@pytest.mark.parametrize("listed, kind, missing", FULL, ids=[kind for _, kind, _ in FULL])
def test_full_size_layouts(tmp_path, listed, kind, missing):
    file = tmp_path / "model.50.bin"
    torch.save(full_size(listed), file)
    assert file.stat().st_size < 1e6
    found = weights.load(file)
    assert found.kind == kind
    assert found.parameters == listed["n_unique_parameters"]
    assert sum(v.numel() for v in found.raw.state.values()) == listed["n_elements"]
    report = found.report
    assert (
        len(report.missing) == missing
        and not report.unexpected
        and not report.mismatched
        and not report.reshaped
    )
    assert all("head" in k or "mlm" in k for k in report.missing), report.missing
    assert not [why for why in report.left_out.values() if why == "not part of our model"]
    assert set(report.weights) | set(report.left_out) >= set(found.state)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta")
def test_full_size_xvl_fills_every_weight_of_our_model(tmp_path):
    torch.save(
        {
            "model": full_size(XVL_KEYS["pretrain"]),
            "optimizer": {},
            "lr_scheduler": {},
            "config": {},
            "epoch": 4,
        },
        tmp_path / "checkpoint_04.pth",
    )
    with torch.device("meta"):
        model = XVL(PAPER, 30522)
    report = weights.load_into(model, tmp_path)
    assert set(report.weights) == set(model.state_dict()) and not report.reshaped
    assert report.kind == "X-VL pre-training" and report.file.name == "checkpoint_04.pth"


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta")
def test_full_size_medvill_fills_every_weight_of_our_model(tmp_path):
    torch.save(full_size(MEDVILL_KEYS["pretrain"]), tmp_path / "model.50.bin")
    with torch.device("meta"):
        model = medvill.MedViLL(PAPER, 30522)
    report = weights.load_into(model, tmp_path)
    assert set(report.weights) == set(model.state_dict())


def test_classification_of_medvill_comes_wrapped(tmp_path):
    state = {f"module.{k}": v for k, v in full_size(MEDVILL_KEYS["classification_14"]).items()}
    best = {
        "epoch": 3,
        "state_dict": state,
        "optimizer": {"state": {}},
        "scheduler": {},
        "n_no_improve": 0,
    }
    torch.save(best, tmp_path / "model_best.pt")
    torch.save({"epoch": 9, "state_dict": {}}, tmp_path / "checkpoint.pt")
    found = weights.load(tmp_path)
    assert (
        found.kind == "MedViLL classification"
        and found.raw.branch == "state_dict"
        and found.raw.beside["epoch"] == 3
    )


# --- renaming between tasks, as the releases do it ------------------------------------------------
def test_medvill_rewrites():
    """Fine-tuning and decoding rename the pre-training's weights: ours are the same whichever a
    file has.
    """
    rewrites = json.loads((PARITY / "medvill_key_rewrites.json").read_text())
    tied = MEDVILL_KEYS["pretrain"]["aliases"]
    tensors = {
        old: torch.full((1,), float(i))
        for i, old in enumerate(rewrites["finetune_new_to_pretrain"].values())
    }
    tensors = {old: tensors[tied.get(old, old)] for old in tensors}
    tuned = {new: tensors[old] for new, old in rewrites["finetune_new_to_pretrain"].items()}
    decoding = {new: tuned[old] for new, old in rewrites["decode_new_to_finetune"].items()}
    first = {k: v.item() for k, v in medvill.from_released(tensors).items()}
    assert len(first) > 50
    for other in (tuned, decoding):
        assert {k: v.item() for k, v in medvill.from_released(other).items()} == first
    for name in ("vision", "text"):
        parts = [
            layouts.part("MedViLL pre-training", state, name)
            for state in (tensors, tuned, decoding)
        ]
        assert parts[0].keys() == parts[1].keys() == parts[2].keys()
        assert all(parts[0][k] is parts[1][k] is parts[2][k] for k in parts[0])


def test_xvl_rewrites():
    """Zero-shot scoring and correction rename the pre-training's weights: the same encoders come
    out.
    """
    rewrites = json.loads(gzip.decompress((PARITY / "xvl_key_rewrites.json.gz").read_bytes()))[
        "finetune_correction"
    ]["mapping"]
    tensors = {
        old: torch.full((1,), float(i)) for i, old in enumerate(dict.fromkeys(rewrites.values()))
    }
    names = {"X-VL pre-training": tensors}
    names["X-VL answers or correction"] = {
        n: tensors[o] for n, o in rewrites.items() if ".bert." not in n or "decoder" in n
    }
    vision_parts = [layouts.part(kind, state, "vision") for kind, state in names.items()]
    assert vision_parts[0] == vision_parts[1] and len(vision_parts[0]) > 20
    before, after = (layouts.part(kind, state, "text") for kind, state in names.items())
    assert all(after[k] is before[k] for k in before) and len(before) > 190


def test_position_embeddings_as_the_release_interpolates_them():
    numbers = load_file(PARITY / "xvl_units.safetensors")
    for given, expected in (("in_6x6", "out_4x4"), ("in_4x4", "out_9x9")):
        theirs = numbers[f"interp_pos_embed/{expected}"]
        ours = released.interpolate_grid(numbers[f"interp_pos_embed/{given}"], theirs.shape[1])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert released.interpolate_grid(torch.zeros(1, 12, 4), 17) is None  # not a square grid


def test_a_released_xvl_computes_the_same_here(tmp_path):
    """From the file to the match score: the tiny model of the parity tensors, saved as the release
    saves, read into ours.
    """
    numbers = load_file(PARITY / "xvl_step.safetensors")
    state = {k.removeprefix("weights/"): v for k, v in numbers.items() if k.startswith("weights/")}
    torch.save({"model": state, "epoch": 0}, tmp_path / "checkpoint_00.pth")
    words, width = state["text_encoder.bert.embeddings.word_embeddings.weight"].shape
    tiny = replace(
        PAPER,
        image_size=64,
        vision_width=48,
        vision_layers=3,
        vision_heads=3,
        text_width=width,
        text_layers=4,
        text_heads=4,
        text_hidden=96,
        max_tokens=160,
        fusion_layers=2,
        fusion_hidden=64,
        projection=32,
        queue_size=16,
        drop_path=0.0,
        dropout=0.0,
    )
    model = XVL(tiny, words).eval()
    weights.load_into(model, tmp_path)
    mask = numbers["in/attention_mask"]
    with torch.no_grad():
        tokens, f_image = model.online.encode_image(numbers["in/image_aug"])
        states, f_text = model.online.encode_text(numbers["in/input_ids"], mask)
        _, f_image_m = model.twin.encode_image(numbers["in/image"])
        matched = model.match_logits(states, mask, tokens)
    for ours, theirs in (
        (tokens, "image_embeds"),
        (f_image, "image_feat"),
        (f_text, "text_feat"),
        (matched, "itm_logits_pos"),
    ):
        torch.testing.assert_close(ours, numbers[f"out/{theirs}"], rtol=0, atol=1e-5)
    assert f_image_m.shape == f_image.shape
    torch.testing.assert_close(model.image_queue, state["image_queue"].t())


# --- iBOT, DINO, BERT, ResNet ---------------------------------------------------------------------
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
    found = weights.load(file)
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
    student = weights.load(file, branch="student")
    assert student.encoders["vision"]["cls_token"].unique().item() == 1
    assert "iBOT's mask token" in student.report.left_out.values()
    with pytest.raises(ValueError, match="no part 'tutor', expected one of: teacher, student"):
        weights.load(file, branch="tutor")


def test_teacher_and_student_in_one_safetensors_file(tmp_path):
    flat = {
        f"{b}.backbone.{k}": v
        for b, n in (("teacher", 2.0), ("student", 1.0))
        for k, v in vit(SMALL, n).items()
    }
    save_file(flat, tmp_path / "x.safetensors")
    for branch, number in (("", 2), ("teacher", 2), ("student", 1)):
        found = weights.load(tmp_path / "x.safetensors", branch=branch)
        assert (
            found.kind == "iBOT or DINO"
            and found.encoders["vision"]["cls_token"].unique().item() == number
        )


def test_backbone_alone(tmp_path):
    torch.save({"state_dict": vit(SMALL)}, tmp_path / "a.pth")
    torch.save(vit(SMALL), tmp_path / "b.pth")
    for file in ("a.pth", "b.pth"):
        found = weights.load(tmp_path / file)
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
    state = {name: value.contiguous() for name, value in vision.build(demo).state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    found = weights.load(tmp_path / "x.safetensors")
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
    found = weights.load(tmp_path)
    assert found.kind == "CXR-BERT" and not found.report.unexpected and not found.report.missing
    assert "not run" in " ".join(found.raw.notes)
    model = fusion.build_text_encoder(SMALL, 50)
    weights.load_into(model, tmp_path, "text")
    assert all(torch.equal(v, bert[k]) for k, v in model.state_dict().items())


def test_plain_bert_and_resnet(tmp_path):
    save_file(fusion.build_text_encoder(SMALL, 50).state_dict(), tmp_path / "bert.safetensors")
    assert weights.load(tmp_path / "bert.safetensors").kind == "BERT"
    resnet = medvill.MedViLL(
        replace(SMALL, medvill_layers=1, medvill_width=48, medvill_heads=1), 50
    ).trunk.net
    state = resnet.state_dict() | {
        "fc.weight": torch.zeros(1000, 2048),
        "fc.bias": torch.zeros(1000),
    }
    torch.save(state, tmp_path / "resnet50.pth")
    found = weights.load(tmp_path / "resnet50.pth")
    assert (
        found.kind == "ResNet-50" and not found.report.missing and len(found.report.left_out) == 2
    )


# --- what is refused or reported ------------------------------------------------------------------
def test_unknown_layout(tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError,
        match=r"no known layout. Expected one of: X-VL pre-training.*such as layer.weight",
    ):
        weights.load(tmp_path / "x.pt")


def test_encoder_with_a_hole(tmp_path):
    torch.save(
        {k: v for k, v in vit(SMALL).items() if k != "blocks.1.attn.qkv.bias"}, tmp_path / "x.pth"
    )
    with pytest.raises(
        ValueError,
        match="1 weights of its encoders are missing or of a wrong shape, such as "
        "vision.blocks.1.attn",
    ):
        weights.load(tmp_path / "x.pth")


def test_names_that_fit_and_shapes_that_do_not(tmp_path):
    for key, wrong in (
        ("cls_token", torch.zeros(())),
        ("patch_embed.proj.weight", torch.zeros(3)),
        ("pos_embed", torch.zeros(4)),
    ):
        torch.save(vit(SMALL) | {key: wrong}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="do not go together|wrong shape"):
            weights.load(tmp_path / "x.pth")


def test_unknown_keys_are_named(tmp_path):
    torch.save(vit(SMALL) | {"adapter.weight": torch.zeros(2)}, tmp_path / "x.pth")
    assert weights.load(tmp_path / "x.pth").report.unexpected == ["vision.adapter.weight"]
    torch.save(
        full_size(XVL_KEYS["pretrain"]) | {"adapter.weight": torch.zeros(2)}, tmp_path / "y.pth"
    )
    assert weights.load(tmp_path / "y.pth").report.unexpected == ["adapter.weight"]


def test_other_sizes_and_colours_are_reshaped():
    wanted = vision.build(replace(SMALL, image_size=96, channels=1)).state_dict()
    state = vit(SMALL)
    report = released.fit(state, wanted)
    assert (
        set(report.reshaped) == {"pos_embed", "patch_embed.proj.weight"} and not report.mismatched
    )
    torch.testing.assert_close(report.weights["pos_embed"][:, :1], state["pos_embed"][:, :1])
    grey = torch.rand(1, 1, 64, 64)
    seen = [
        F.conv2d(grey.expand(-1, w.shape[1], -1, -1), w)
        for w in (state["patch_embed.proj.weight"], report.weights["patch_embed.proj.weight"])
    ]
    torch.testing.assert_close(*seen, rtol=0, atol=1e-4)
    text = {"embeddings.position_embeddings.weight": torch.arange(12.0).view(6, 2)}
    shorter = released.fit(text, {"embeddings.position_embeddings.weight": (4, 2)})
    assert torch.equal(
        shorter.weights["embeddings.position_embeddings.weight"], torch.arange(8.0).view(4, 2)
    )
    longer = released.fit(text, {"embeddings.position_embeddings.weight": (8, 2)})
    assert longer.mismatched == {"embeddings.position_embeddings.weight": ((8, 2), (6, 2))}


@pytest.mark.parametrize(
    "name, source",
    [
        ("ibot_vits16.pth", "bytedance/ibot"),
        ("cxr-bert", "microsoft/BiomedVLP-CXR-BERT-specialized"),
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
        ("resnet50.pth", "IMAGENET1K_V1"),
        ("medvill_bar.bin", "SuperSupermoon/MedViLL"),
        ("xvl.pth", "never published"),
        ("weights.pth", "bytedance/ibot"),
    ],
)
def test_a_missing_file_says_where_to_get_it(name, source, tmp_path, monkeypatch):
    monkeypatch.setattr(released.paths, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError) as told:
        weights.load(name)
    assert source in str(told.value) and f"Put it into {tmp_path}" in str(told.value)


def test_files_are_found_in_data_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(released.paths, "WEIGHTS", tmp_path)
    torch.save(vit(SMALL), tmp_path / "ibot_vits16.pth")
    assert weights.load("ibot_vits16.pth").kind == "Vision Transformer"


def test_the_mask_of_medvill_is_told_by_the_name_alone(tmp_path):
    for folder, said in (
        ("bar", "medvill_mask=bar"),
        ("noncross", "=noncross"),
        ("bi_and_seq2seq", "bi_seq2seq"),
        ("x", "set medvill_mask to what you downloaded"),
    ):
        (tmp_path / folder).mkdir()
        torch.save(full_size(MEDVILL_KEYS["pretrain"]), tmp_path / folder / "model.50.bin")
        assert said in released.remarks(weights.load(tmp_path / folder))[0], folder
