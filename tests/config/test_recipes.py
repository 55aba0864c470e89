"""Recipes: what weights and states must share with a training to be taken for its own."""

import json
from dataclasses import asdict

import pytest

from medxvl.config import presets, recipes, settings
from medxvl.config.recipes import Recipe


def recipe(preset: str = "smoke", data: str = "d1", **settings) -> Recipe:
    values = {"seed": 0, "epochs": 3, "precision": "fp32"} | settings
    return Recipe(values, data, {"a.py": "1", "b.py": "2"}, preset in recipes.KEEP)


def test_other_settings_and_other_data_differ_and_code_does_not():
    told = recipe().about()
    assert recipe().differs(told) == []
    assert recipe(epochs=4).differs(told) == ["epochs=3 instead of 4"]
    assert recipe(data="d2").differs(told) == ["other data"]
    newer = Recipe(recipe().settings, "d1", {"a.py": "1", "b.py": "3", "c.py": "4"}, False)
    assert newer.differs(told) == [] and newer.changed_code(told) == ["b.py", "c.py"]


def test_a_setting_that_weights_do_not_name_counts_as_its_former_value(monkeypatch):
    told = recipe().about()
    assert recipe(fresh=1.5).differs(told) == ["fresh=not named instead of 1.5"]
    monkeypatch.setattr(settings, "FORMER", {"fresh": 1.5})
    assert recipe(fresh=1.5).differs(told) == [], "as it was before the setting existed"
    assert recipe(fresh=2.0).differs(told) == ["fresh=1.5 instead of 2.0"]
    assert recipe().differs(recipe(fresh=1.5).about()) == [], "gone, and a constant since"
    assert recipe().differs(recipe(fresh=2.0).about()) == ["fresh=2.0 instead of 1.5"]


def test_weights_from_before_recipes_are_known_by_their_preset():
    preset = presets.load("smoke")
    told = {"settings": "0123456789ab", "preset": json.dumps(asdict(preset))}
    groups = ("both", "model", "pretrain")
    assert Recipe.of(preset, groups, "d1", "medxvl.xvl.losses", start="f00").differs(told) == []
    other = presets.changed(preset, "epochs=7")
    differs = Recipe.of(other, groups, "d1", "medxvl.xvl.losses").differs(told)
    assert differs == [f"epochs={preset.epochs} instead of 7"]


def test_the_warning_names_the_files():
    with pytest.warns(UserWarning, match=r"folder was trained by other code: a\.py, b\.py, c"):
        Recipe({}, "", {"a.py": "1", "b.py": "2"}, True).warn_of_code(
            {"code": {"c": "3"}}, "folder"
        )
