"""Released checkpoints: each layout is recognised and renamed, at full size, from the key lists of
the real models.

The weights are single zeros spread to the real shapes, so that 700 million numbers take half a
megabyte on the disk.
"""

import gzip
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from released_data import MEDVILL_KEYS, PARITY, XVL_KEYS, full_size, vit
from safetensors.torch import load_file
from tolerance import assert_close, assert_recorded
from weight_data import MODELS, PAPER, SMALL

from medxvl.layers import vision_transformer
from medxvl.medvill import model as medvill
from medxvl.medvill import release
from medxvl.weights import convert, layouts, store
from medxvl.xvl.model import XVL

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
    found = convert.convert(file, models=MODELS)
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
    report = store.load_into(model, tmp_path)
    assert set(report.weights) == set(model.state_dict()) and not report.reshaped
    assert report.kind == "X-VL pre-training" and report.file.name == "checkpoint_04.pth"


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta")
def test_full_size_medvill_fills_every_weight_of_our_model(tmp_path):
    torch.save(full_size(MEDVILL_KEYS["pretrain"]), tmp_path / "model.50.bin")
    with torch.device("meta"):
        model = medvill.MedViLL(PAPER, 30522)
    report = store.load_into(model, tmp_path)
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
    found = convert.convert(tmp_path, models=MODELS)
    assert (
        found.kind == "MedViLL classification"
        and found.raw.branch == "state_dict"
        and found.raw.beside["epoch"] == 3
    )


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
    first = {k: v.item() for k, v in release.from_released(tensors).items()}
    assert len(first) > 50
    for other in (tuned, decoding):
        assert {k: v.item() for k, v in release.from_released(other).items()} == first
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


@pytest.mark.numeric
def test_position_embeddings_as_the_release_interpolates_them():
    numbers = load_file(PARITY / "xvl_units.safetensors")
    for given, expected in (("in_6x6", "out_4x4"), ("in_4x4", "out_9x9")):
        theirs = numbers[f"interp_pos_embed/{expected}"]
        found = {"pos_embed": numbers[f"interp_pos_embed/{given}"]}
        ours = convert.fit(found, {"pos_embed": theirs.shape}).weights["pos_embed"]
        assert_recorded(ours, theirs)
    no_square = convert.fit({"pos_embed": torch.zeros(1, 12, 4)}, {"pos_embed": (1, 17, 4)})
    assert no_square.mismatched == {"pos_embed": ((1, 17, 4), (1, 12, 4))}


@pytest.mark.numeric
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
    store.load_into(model, tmp_path)
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
        assert_recorded(ours, numbers[f"out/{theirs}"])
    assert f_image_m.shape == f_image.shape
    assert torch.equal(model.image_queue, state["image_queue"].t())


def test_unknown_layout(tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError,
        match=r"no known layout. Expected one of: X-VL pre-training.*such as layer.weight",
    ):
        convert.convert(tmp_path / "x.pt", models=MODELS)


def test_encoder_with_a_hole(tmp_path):
    torch.save(
        {k: v for k, v in vit(SMALL).items() if k != "blocks.1.attn.qkv.bias"}, tmp_path / "x.pth"
    )
    with pytest.raises(
        ValueError,
        match="1 weights of its encoders are missing or of a wrong shape, such as "
        "vision.blocks.1.attn",
    ):
        convert.convert(tmp_path / "x.pth", models=MODELS)


def test_names_that_fit_and_shapes_that_do_not(tmp_path):
    for key, wrong in (
        ("cls_token", torch.zeros(())),
        ("patch_embed.proj.weight", torch.zeros(3)),
        ("pos_embed", torch.zeros(4)),
    ):
        torch.save(vit(SMALL) | {key: wrong}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="do not go together|wrong shape"):
            convert.convert(tmp_path / "x.pth", models=MODELS)


def test_unknown_keys_are_named(tmp_path):
    torch.save(vit(SMALL) | {"adapter.weight": torch.zeros(2)}, tmp_path / "x.pth")
    assert convert.convert(tmp_path / "x.pth", models=MODELS).report.unexpected == [
        "vision.adapter.weight"
    ]
    torch.save(
        full_size(XVL_KEYS["pretrain"]) | {"adapter.weight": torch.zeros(2)}, tmp_path / "y.pth"
    )
    assert convert.convert(tmp_path / "y.pth", models=MODELS).report.unexpected == [
        "adapter.weight"
    ]


@pytest.mark.numeric
def test_other_sizes_and_colours_are_reshaped():
    wanted = vision_transformer.build(replace(SMALL, image_size=96, channels=1)).state_dict()
    state = vit(SMALL)
    report = convert.fit(state, wanted)
    assert (
        set(report.reshaped) == {"pos_embed", "patch_embed.proj.weight"} and not report.mismatched
    )
    assert torch.equal(report.weights["pos_embed"][:, :1], state["pos_embed"][:, :1])
    grey = torch.rand(1, 1, 64, 64)
    seen = [
        F.conv2d(grey.expand(-1, w.shape[1], -1, -1), w)
        for w in (state["patch_embed.proj.weight"], report.weights["patch_embed.proj.weight"])
    ]
    assert_close(seen[1], seen[0], terms=state["patch_embed.proj.weight"][0].numel())
    text = {"embeddings.position_embeddings.weight": torch.arange(12.0).view(6, 2)}
    shorter = convert.fit(text, {"embeddings.position_embeddings.weight": (4, 2)})
    assert torch.equal(
        shorter.weights["embeddings.position_embeddings.weight"], torch.arange(8.0).view(4, 2)
    )
    longer = convert.fit(text, {"embeddings.position_embeddings.weight": (8, 2)})
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
    monkeypatch.setattr(convert.paths, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError) as told:
        convert.convert(name, models=MODELS)
    assert source in str(told.value) and f"Put it into {tmp_path}" in str(told.value)


def test_files_are_found_in_data_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.paths, "WEIGHTS", tmp_path)
    torch.save(vit(SMALL), tmp_path / "ibot_vits16.pth")
    assert convert.convert("ibot_vits16.pth", models=MODELS).kind == "Vision Transformer"


def test_the_mask_of_medvill_is_told_by_the_name_alone(tmp_path):
    for folder, said in (
        ("bar", "medvill_mask=bar"),
        ("noncross", "=noncross"),
        ("bi_and_seq2seq", "bi_seq2seq"),
        ("x", "set medvill_mask to what you downloaded"),
    ):
        (tmp_path / folder).mkdir()
        torch.save(full_size(MEDVILL_KEYS["pretrain"]), tmp_path / folder / "model.50.bin")
        assert said in convert.remarks(convert.convert(tmp_path / folder, models=MODELS))[0], folder
