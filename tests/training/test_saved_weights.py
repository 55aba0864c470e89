"""Weights of a training: saved with what they are, loaded where they fit."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_helpers import TINY, Fake, words

from medxvl.config.recipes import Recipe
from medxvl.weights import store
from medxvl.xvl import checkpoints
from medxvl.xvl.model import XVL

RECIPE = Recipe({"seed": 0}, "d", {}, keeps=False)


@pytest.mark.numeric
def test_weights_come_back(tmp_path):
    torch.manual_seed(3)
    model, path = XVL(TINY, 60), tmp_path / "a.safetensors"
    store.save(model, path, kind="random", recipe=RECIPE, score=0.5)
    again = store.load_model(TINY, 60, path, XVL)
    ours, theirs = model.state_dict(), again.state_dict()
    assert all(
        torch.equal(ours[k], theirs[k])
        for k in ours
        if k.startswith(("online.", "itm_head", "temperature"))
    )
    assert not again.training and store.about(path)["kind"] == "random"
    assert not [k for k in load_file(path) if k.startswith(("twin.", "image_queue", "text_queue"))]


def test_the_fingerprint_of_weights_is_that_of_tensors_and_what_shaped_them(tmp_path):
    """Not of the file: a sweep that the training was part of, or other code, changes nothing."""
    torch.manual_seed(3)
    model, files = XVL(TINY, 60), []

    def saved(preset, recipe, score=0.5):
        files.append(tmp_path / f"{len(files)}.safetensors")
        model.preset = preset
        store.save(model, files[-1], kind="random", recipe=recipe, score=score)
        return store.fingerprint(files[-1])

    first = saved(TINY, RECIPE)
    assert saved(TINY, RECIPE) == first
    assert saved(replace(TINY, seeds="0,1,2", masks="all"), RECIPE, 0.7) == first
    assert saved(TINY, replace(RECIPE, code={"a.py": "1"})) == first
    assert files[0].read_bytes() != files[2].read_bytes(), "the headers do differ"
    assert saved(TINY, replace(RECIPE, settings={"seed": 1})) != first
    assert saved(TINY, replace(RECIPE, data="other")) != first
    with torch.no_grad():
        model.temperature += 1e-6
    assert saved(TINY, RECIPE) != first


def test_weights_that_are_missing_foreign_or_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run_all.sh smoke 21"):
        store.load_model(TINY, 60, tmp_path / "none.safetensors", XVL)
    path = tmp_path / "a.safetensors"
    store.save(XVL(TINY, 60), path, kind="random", recipe=RECIPE, score=0.5)
    with pytest.raises(ValueError, match="weights do not fit preset smoke"):
        store.load_model(TINY, 61, path, XVL)
    with pytest.raises(ValueError, match="do not fit"):
        store.load_model(replace(TINY, fusion_layers=2), 60, path, XVL)
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="expected weights saved by medxvl"):
        store.load_model(TINY, 60, tmp_path / "foreign.safetensors", XVL)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"pretrain_threads": 2}, {"momentum": 0.5}, {"text_width": 18}]
)
def test_the_recipe_follows_what_shapes_a_training(change):
    assert checkpoints.recipe(TINY, Fake(), words()) != checkpoints.recipe(
        replace(TINY, **change), Fake(), words()
    )
    assert checkpoints.recipe(TINY, Fake(), words()) == checkpoints.recipe(
        replace(TINY, bootstrap=5), Fake(), words()
    )
    other = Fake()
    other.fingerprint = "1" * 12
    assert checkpoints.recipe(TINY, Fake(), words()) != checkpoints.recipe(TINY, other, words())
