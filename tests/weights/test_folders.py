"""Which file of a folder of weights is read."""

import json

import pytest
from safetensors.torch import save_file
from weight_data import MODELS, vit

from medxvl.weights import convert, reading


def names(folder) -> list[str]:
    return [file.name for file in reading.pick(folder)[0]]


def test_the_last_epoch_by_number(tmp_path):
    for name in ("model.2.bin", "model.10.bin", "model.9.bin", "optim.11.bin", "log.txt"):
        (tmp_path / name).touch()
    assert (
        names(tmp_path) == ["model.10.bin"]
        and "the last of 3 epochs" in reading.pick(tmp_path)[1][0]
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
    assert len(convert.convert(tmp_path, models=MODELS).raw.state) == len(state)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/model-2.safetensors"}})
    )
    assert names(tmp_path) == ["model-2.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": where | {"z": "model-3.safetensors"}})
    )
    with pytest.raises(FileNotFoundError, match="1 of 3 shards are missing, such as model-3"):
        names(tmp_path)
