"""Weights: read without running anything, put into models only when they fit, and said what they
are.
"""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from medxvl import checkpoint, fusion, medvill, paths, presets, released, vision, weights
from medxvl.xvl import XVL

PAPER = presets.load("paper")
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
OWN = replace(presets.load("smoke"), vocabulary=60)


def model(preset=SMALL, words=50, seed=0) -> XVL:
    torch.manual_seed(seed)
    return XVL(preset, words)


def vit(preset=SMALL, seed=5) -> dict:
    torch.manual_seed(seed)
    return vision.build(preset).state_dict()


def copy_of(module) -> dict:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(state, other) -> bool:
    return state.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in state.items())


# --- our own --------------------------------------------------------------------------------------
def test_own_weights_say_what_they_are_and_come_back(tmp_path):
    first, file = model(OWN, 60), tmp_path / "best.safetensors"
    weights.save(first, file, kind="pre-trained", settings="abc", score=0.5)
    found = weights.load(file)
    assert (
        found.kind == "medxvl X-VL"
        and found.raw.about["score"] == "0.5"
        and found.raw.form == "safetensors"
    )
    assert not (found.report.missing or found.report.unexpected or found.report.mismatched)
    assert same(weights.load_model(OWN, 60, file).online.state_dict(), first.online.state_dict())
    second = model(OWN, 60, seed=1)
    assert not same(second.online.state_dict(), first.online.state_dict())
    weights.load_into(second, file)
    assert same(second.online.state_dict(), first.online.state_dict())
    assert same(second.twin.state_dict(), first.online.state_dict()), (
        "twins the file does not hold are copies"
    )


def test_kept_checkpoints_of_a_folder_the_best(tmp_path):
    for name, seed in (("epoch01.safetensors", 1), ("epoch02.safetensors", 2)):
        weights.save(
            model(OWN, 60, seed), tmp_path / name, kind="pre-trained", settings="abc", score=0.5
        )
    (tmp_path / "best.json").write_text(
        json.dumps({"epoch02.safetensors": 0.9, "epoch01.safetensors": 0.8})
    )
    found = weights.load(tmp_path)
    assert found.file.name == "epoch02.safetensors" and "the best" in found.raw.notes[0]


# --- into a model ---------------------------------------------------------------------------------
def test_one_encoder_the_rest_untouched(tmp_path):
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in vit().items()}, "epoch": 3},
        tmp_path / "ibot.pth",
    )
    ours = model(replace(SMALL, image_size=96))
    before = copy_of(ours)
    report = weights.load_into(ours, tmp_path / "ibot.pth", "vision")
    assert list(report.reshaped) == ["pos_embed"] and ours.online.vision.pos_embed.shape[1] == 37
    assert torch.equal(
        ours.online.vision.blocks[1].mlp.fc1.weight, vit()["blocks.1.mlp.fc1.weight"]
    )
    assert same(ours.twin.vision.state_dict(), ours.online.vision.state_dict())
    after = copy_of(ours)
    assert all(torch.equal(v, after[k]) for k, v in before.items() if ".vision." not in k)


def test_half_precision_is_widened(tmp_path):
    torch.save({k: v.half() for k, v in vit().items()}, tmp_path / "x.pth")
    bare = vision.build(SMALL)
    weights.load_into(bare, tmp_path / "x.pth")
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
        weights.load_into(ours, tmp_path / "x.pth", "vision")
    assert told in str(message.value)
    assert same(before, ours.state_dict())


def test_text_of_another_vocabulary(tmp_path):
    save_file(fusion.build_text_encoder(SMALL, 50).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match="it has 50 words, the model 49: use the tokenizer it was trained with"
    ):
        weights.load_into(model(words=49), tmp_path / "x.safetensors", "text")


def test_a_text_table_is_cut(tmp_path):
    longer = fusion.build_text_encoder(replace(SMALL, max_tokens=40), 50)
    save_file(longer.state_dict(), tmp_path / "x.safetensors")
    ours = model()
    report = weights.load_into(ours, tmp_path / "x.safetensors", "text")
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
            weights.load_into(model(), tmp_path / "x.pth", part)


def test_strict_and_not(tmp_path):
    torch.save(vit() | {"adapter.weight": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match="1 weights are unknown, such as adapter.weight;.*strict=False"
    ):
        weights.load_into(model(), tmp_path / "x.pth", "vision")
    report = weights.load_into(model(), tmp_path / "x.pth", "vision", strict=False)
    assert report.unexpected == ["adapter.weight"] and "1 unexpected" in str(report)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, bad):
    state = vit()
    state["norm.weight"][3] = bad
    torch.save(state, tmp_path / "x.pth")
    ours = model()
    before = copy_of(ours)
    with pytest.raises(ValueError, match="1 weights are not finite, such as norm.weight"):
        weights.load_into(ours, tmp_path / "x.pth", "vision")
    assert same(before, ours.state_dict())


def test_start_from_the_presets_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(released.paths, "WEIGHTS", tmp_path)
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
    reports = weights.start_from(ours, named)
    assert [r.kind for r in reports] == ["iBOT or DINO", "BERT"]
    assert same(ours.online.text.state_dict(), bert.state_dict()) and same(
        ours.online.vision.state_dict(), vit()
    )
    assert same(ours.twin.text.state_dict(), bert.state_dict())
    before = copy_of(ours)
    assert weights.start_from(
        ours, replace(named, vision_weights="", text_weights="")
    ) == [] and same(before, ours.state_dict())
    with pytest.raises(FileNotFoundError, match="bytedance/ibot"):
        weights.start_from(ours, replace(named, vision_weights="ibot_vitb16.pth"))


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
    assert [r.kind for r in weights.start_from(ours, named)] == ["ResNet-50", "BERT"]
    assert same(ours.bert.state_dict(), given.bert.state_dict()) and same(
        ours.trunk.state_dict(), given.trunk.state_dict()
    )
    with pytest.raises(ValueError, match="does not fit the vision encoder of the model"):
        weights.load_into(
            model(), tmp_path / "resnet50.pth", "vision"
        )  # X-VL has a Vision Transformer


def test_presets_name_published_starts():
    assert PAPER.vision_weights and PAPER.text_weights
    for name in ("smoke", "demo"):
        assert presets.load(name).vision_weights == presets.load(name).text_weights == ""


# --- nothing in a file is run ---------------------------------------------------------------------
class Evil:
    """Unpickling this makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("where", ["top", "beside the weights", "among the weights"])
def test_a_malicious_pickle_is_refused(tmp_path, where, modern):
    evil, file = Evil(tmp_path / "made"), tmp_path / "x.pth"
    content = {
        "top": evil,
        "beside the weights": {"model": vit(), "args": evil},
        "among the weights": vit() | {"x": evil},
    }[where]
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    with pytest.raises(
        ValueError,
        match=r"refused, it asks for \w*\.mkdir, where only tensors, numbers and text are let in",
    ):
        weights.load(file)
    assert not (tmp_path / "made").exists()
    torch.load(file, weights_only=False)  # the test can fail: read without care, it does run
    assert (tmp_path / "made").exists()


def test_a_bare_malicious_pickle_is_refused(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "made")}, protocol))
        with pytest.raises(ValueError, match="x.bin"):
            weights.load(tmp_path / "x.bin")
        assert not (tmp_path / "made").exists()


def test_a_whole_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"asks for torch.nn.modules.linear.Linear.*save its state_dict\(\)"
    ):
        weights.load(tmp_path / "x.pt")


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"")
    with pytest.raises(ValueError, match="a TorchScript archive, which holds a program: not run"):
        weights.load(tmp_path / "x.pt")


def test_old_tar_files_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Evil(tmp_path / "made"))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(ValueError, match="PyTorch's own tar files, from before 2017, are not read"):
        weights.load(tmp_path / "x.pth")
    assert not (tmp_path / "made").exists()


def test_what_unpacks_to_more_than_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/data/0", bytes(50_000_000))
    with pytest.raises(ValueError, match="unpack to 50,000,000 bytes"):
        weights.load(tmp_path / "x.pth")


def test_declared_sizes_beyond_reason(tmp_path):
    torch.save({"a.weight": torch.zeros(1, 1).expand(100_000, 100_000)}, tmp_path / "spread.pth")
    with pytest.raises(
        ValueError, match="refused, it declares 10,000,000,000 numbers; at most 4,000,000,000"
    ):
        weights.load(tmp_path / "spread.pth")
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    forged = (
        (tmp_path / "x.pth")
        .read_bytes()
        .replace(b"M\xe8\x03", b"\x8a\x06" + (10**13).to_bytes(6, "little"))
    )
    (tmp_path / "x.pth").write_bytes(
        forged
    )  # a storage of ten thousand billion numbers, of which the file has a thousand
    with pytest.raises(ValueError, match="declares more numbers than fit into memory|damaged"):
        weights.load(tmp_path / "x.pth")


def test_a_storage_shorter_than_declared(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as given,
        zipfile.ZipFile(tmp_path / "b.pth", "w") as forged,
    ):
        for entry in given.infolist():
            forged.writestr(
                entry.filename,
                given.read(entry).replace(
                    b"M\xe8\x03", b"\x8a\x06" + (10**13).to_bytes(6, "little")
                ),
            )
    with pytest.raises(ValueError, match="damaged, cut short or no checkpoint"):
        weights.load(tmp_path / "b.pth")


@pytest.mark.parametrize(
    "odd", [torch.zeros(2, device="meta"), torch.eye(2).to_sparse()], ids=["meta", "sparse"]
)
def test_tensors_of_other_kinds(tmp_path, odd):
    torch.save({"a.weight": odd}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match="expected plain tensors, found another kind at a.weight|damaged|refused"
    ):
        weights.load(tmp_path / "x.pth")


# --- what is no checkpoint ------------------------------------------------------------------------
@pytest.mark.parametrize("content, told", [
    (b"", "the file is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>quota exceeded</html>", "a web page, not weights"),
    (b"\x1f\x8b\x08\x00" + bytes(50), "an archive"),
    (b"PK\x03\x04" + bytes(50), "cut short or damaged"),
    (b"\x80\x02garbage that is no pickle", "refused, it asks for more than plain data, or is "
                                           "damaged"),
    (bytes(range(256)), "found neither"),
    ((10**9).to_bytes(8, "little") + b'{"a":', "found neither"),
    ((5).to_bytes(8, "little") + b'{"a":' + bytes(20), "damaged or cut short"),
], ids=lambda x: None if isinstance(x, bytes) else x)  # fmt: skip
def test_files_that_are_no_weights(tmp_path, content, told):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        weights.load(tmp_path / "x.bin")


def test_every_cut_of_a_good_file_is_noticed(tmp_path):
    state = {k: v.contiguous() for k, v in vit().items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth", "c.pth"):
        whole = (tmp_path / name).read_bytes()
        weights.load(tmp_path / name)
        for share in (0.001, 0.3, 0.7, 0.9999):
            (tmp_path / "cut").write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(ValueError, match="cut"):
                weights.load(tmp_path / "cut")


def test_a_dictionary_without_weights(tmp_path):
    for content, told in (
        ({"epoch": 3}, "expected weights by name, found epoch"),
        ([torch.zeros(2)], "found list"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=told):
            weights.load(tmp_path / "x.pt")


# --- folders --------------------------------------------------------------------------------------
def names(folder) -> list[str]:
    return [file.name for file in checkpoint.pick(folder)[0]]


def test_the_last_epoch_by_number(tmp_path):
    for name in ("model.2.bin", "model.10.bin", "model.9.bin", "optim.11.bin", "log.txt"):
        (tmp_path / name).touch()
    assert (
        names(tmp_path) == ["model.10.bin"]
        and "the last of 3 epochs" in checkpoint.pick(tmp_path)[1][0]
    )
    (tmp_path / "other.pth").touch()
    with pytest.raises(ValueError, match="several weights files .*give the one that is meant"):
        names(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert names(tmp_path) == ["pytorch_model.bin"]
    (tmp_path / "model.safetensors").touch()
    assert names(tmp_path) == ["model.safetensors"]


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file that ends in .safetensors"):
        names(tmp_path)


def test_shards(tmp_path):
    state = vit()
    first = dict(list(state.items())[:10])
    save_file(first, tmp_path / "model-1.safetensors")
    save_file({k: v for k, v in state.items() if k not in first}, tmp_path / "model-2.safetensors")
    where = {k: f"model-{1 if k in first else 2}.safetensors" for k in state}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert len(weights.load(tmp_path).raw.state) == len(state)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/model-2.safetensors"}})
    )
    assert names(tmp_path) == ["model-2.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": where | {"z": "model-3.safetensors"}})
    )
    with pytest.raises(FileNotFoundError, match="1 of 3 shards are missing, such as model-3"):
        names(tmp_path)


# --- command line ---------------------------------------------------------------------------------
def test_inspect(tmp_path, capsys):
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in vit().items()}, "epoch": 3},
        tmp_path / "ibot.pth",
    )
    assert weights.main(["inspect", str(tmp_path / "ibot.pth")]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (
        said["kind"] == "iBOT or DINO"
        and said["parameters"] == f"{sum(v.numel() for v in vit().values()):,}"
    )
    assert (
        said["branch"] == "teacher"
        and said["types"].startswith("float32")
        and said["missing"] == "none"
    )
    assert "vision_weights" in said["use"] and "vision_width=64" in said["settings"]


@pytest.mark.parametrize("arguments, told", [
    (["inspect", "nowhere.pth"], "error: nowhere.pth: no such weights file or folder"),
    (["inspect", __file__], "error: "),
])  # fmt: skip
def test_inspect_of_nothing_good(arguments, told, capsys):
    assert weights.main(arguments) == 2
    seen = capsys.readouterr()
    assert seen.err.startswith(told) and not seen.out


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        weights.main(["inspect", "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "PATH" in shown and "nothing in it is run" in shown
    with pytest.raises(SystemExit) as end:
        weights.main([])
    assert end.value.code == 2


def test_the_command_itself(tmp_path):
    torch.save({"model": Evil(tmp_path / "made")}, tmp_path / "evil.pth")
    command = [sys.executable, "-m", "medxvl.weights", "inspect", str(tmp_path / "evil.pth")]
    refused = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert (
        refused.returncode == 2
        and refused.stderr.startswith("error: ")
        and "Traceback" not in refused.stderr
    )
    assert not (tmp_path / "made").exists()
