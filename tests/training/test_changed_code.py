"""A finished training under changed code: made anew by the small presets, read back by `paper`."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from train_helpers import TINY, Bar, Fake, fit, result, same, words

from medxvl.config import recipes, settings
from medxvl.data import text
from medxvl.xvl import checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(folder)
    words().backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def older(whole, tmp_path):
    """A copy of the finished training, made by other code."""
    folder = tmp_path / "older"
    shutil.copytree(whole, folder)
    state = torch.load(folder / "last.pt", weights_only=True)
    state["recipe"]["code"] |= {"medxvl/xvl/model.py": "0" * 12}
    torch.save(state, folder / "last.pt")
    return folder


@pytest.mark.numeric
def test_small_presets_train_again(older, whole):
    bar = Bar()
    fit(older, bar)
    assert bar.epochs == 4
    same(result(older), result(whole))


def test_days_of_training_are_kept_with_a_warning_that_names_the_files(older, monkeypatch):
    monkeypatch.setattr(recipes, "KEEP", ("smoke",))
    bar = Bar()
    with pytest.warns(UserWarning, match=r"trained by other code: medxvl/xvl/model\.py$"):
        fit(older, bar)
    assert bar.epochs == 0


@pytest.mark.numeric
def test_kept_or_not_other_settings_and_data_are_refused(older, monkeypatch):
    monkeypatch.setattr(recipes, "KEEP", ("smoke",))
    bar = Bar()
    fit(older, bar, preset=replace(TINY, momentum=0.5))
    assert bar.epochs == 4
    other = Fake()
    other.fingerprint = "1" * 12
    with pytest.raises(ValueError, match=r"other settings or data .*momentum=0\.5 instead of"):
        checkpoints.load_best(TINY, older, Fake())
    with pytest.raises(ValueError, match=r"other settings or data .*other data"):
        checkpoints.load_best(replace(TINY, momentum=0.5), older, other)


def test_new_settings_do_not_throw_trainings_away(whole, tmp_path, monkeypatch):
    """Weights and a state that lack a setting count as made with its former value."""
    folder = tmp_path / "before"
    shutil.copytree(whole, folder)
    state = torch.load(folder / "last.pt", weights_only=True)
    del state["recipe"]["settings"]["hardness"]
    torch.save(state, folder / "last.pt")
    monkeypatch.setattr(settings, "FORMER", {"hardness": TINY.hardness})
    bar = Bar()
    fit(folder, bar)
    assert bar.epochs == 0


def as_before_recipes(folder):
    """The folder as medxvl 0.1.0 left it before recipes: a hash where settings are named now."""
    for path in folder.glob("epoch-*.safetensors"):
        about = {"model": "medxvl X-VL", "kind": "pre-trained", "score": "0.5"}
        about |= {"settings": "0123456789ab", "preset": json.dumps(asdict(TINY))}
        save_file(load_file(path), path, metadata={"medxvl": json.dumps(about)})
    state = torch.load(folder / "last.pt", weights_only=True)
    state["settings"] = "0123456789ab"
    del state["recipe"]
    torch.save(state, folder / "last.pt")


def test_weights_from_before_recipes_still_load(whole, tmp_path, monkeypatch):
    folder = tmp_path / "before"
    shutil.copytree(whole, folder)
    as_before_recipes(folder)
    with pytest.warns(UserWarning, match="it does not name its data and code"):
        models, tokenizer, _ = checkpoints.load_best(TINY, folder, Fake())
    with safe_open(next(folder.glob("epoch-*.safetensors")), framework="pt") as file:
        assert set(file.keys()) <= set(models[0].state_dict())
    assert len(tokenizer) > 5
    with pytest.raises(ValueError, match="momentum="):
        checkpoints.load_best(replace(TINY, momentum=0.5), folder, Fake())
    monkeypatch.setattr(recipes, "KEEP", ("smoke",))
    bar = Bar()
    with pytest.warns(UserWarning, match="it does not name its data and code"):
        fit(folder, bar)
    assert bar.epochs == 0, "in a preset that keeps trainings it is read back"


def test_weights_that_say_nothing_of_their_settings_are_refused(whole, tmp_path, monkeypatch):
    folder = tmp_path / "before"
    shutil.copytree(whole, folder)
    for path in folder.glob("epoch-*.safetensors"):
        save_file(load_file(path), path)
    with pytest.raises(ValueError, match="does not say what settings it was made with"):
        checkpoints.load_best(TINY, folder, Fake())


def test_another_vocabulary_is_another_training(whole, tmp_path):
    folder = tmp_path / "other words"
    shutil.copytree(whole, folder)
    other = text.train_tokenizer(["quite other words stand here"] * 3, TINY.vocabulary + 20)
    other.backend_tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match="words="):
        checkpoints.load_best(TINY, folder, Fake())
