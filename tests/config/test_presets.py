"""The settings: names, types, sources, and the published values."""

import dataclasses
import subprocess
import sys

import pytest

from medxvl.config import notebooks, paths, presets

PUBLISHED = {
    "queue_size": 40960,
    "learning_rate": 1e-4,
    "min_learning_rate": 2e-5,
    "weight_decay": 0.1,
    "epochs": 5,
    "batch_size": 10,
    "momentum": 0.995,
    "temperature": 0.07,
    "alpha": 0.4,
    "mask_share": 0.15,
    "same_report": 0.95,
    "itm_weight": 2.0,
    "clip": 3.0,
    "projection": 256,
    "fusion_layers": 4,
    "fusion_hidden": 2048,
    "vision_width": 768,
    "patch_size": 16,
    "image_size": 224,
    "resize": 240,
    "store_size": 512,
    "drop_path": 0.1,
    "text_width": 768,
    "text_layers": 12,
    "vocabulary": 30522,
    "max_words": 120,
    "crop_scale": 0.7,
    "checkpoints": 5,
    "bootstrap": 1000,
    "views": "AP",
    "warmup_steps": 200,
    "studies": 0,
    "contrast_epochs": 0,
}


USED = {group for book in notebooks.NOTEBOOKS for group in book.groups}
GROUPS = tuple(dict.fromkeys(row["group"] for row in presets.table()))


def test_published_values():
    paper = presets.load("paper")
    assert {name: getattr(paper, name) for name in PUBLISHED} == PUBLISHED


def test_every_setting_has_a_meaning_a_source_and_one_type():
    rows = presets.table()
    assert len({row["setting"] for row in rows}) == len(rows) > 40
    for row in rows:
        assert row["meaning"].strip() and row["source"].strip(), row["setting"]
        assert row["group"] in USED, f"{row['setting']}: no notebook depends on its group"
        assert len({type(row[name]) for name in presets.NAMES}) == 1, (
            f"{row['setting']}: types differ between presets"
        )


def test_overrides_take_the_type_of_the_setting():
    preset = presets.load("demo", "seed=3 learning_rate=1e-4 views='AP,PA' momentum=1")
    assert (preset.seed, preset.learning_rate, preset.views, preset.momentum) == (
        3,
        1e-4,
        "AP,PA",
        1.0,
    )
    assert isinstance(preset.momentum, float) and preset.epochs == presets.load("demo").epochs
    assert presets.table(preset)[0]["in use"] == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.seed = 4


@pytest.mark.parametrize(
    "name, overrides, told",
    [
        ("quick", "", "'quick': expected one of smoke, demo, paper"),
        ("demo", "epoch=3", "did you mean epochs"),
        ("demo", "zzz=3", "run_all.sh settings lists them all"),
        ("demo", "epochs=3.5", "a whole number"),
        ("demo", "learning_rate=fast", "a number"),
        ("demo", "epochs", "expected name=value"),
        ("demo", "name=x", "unknown setting 'name'"),
        ("demo", "views=AP,XX", "views=AP,XX: expected one or more of AP, PA"),
    ],
)
def test_what_is_wrong_is_said(name, overrides, told):
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        presets.load(name, overrides)


def test_groups_share_out_the_settings():
    preset = presets.load("demo")
    groups = [presets.group(preset, g) for g in GROUPS]
    assert all(groups) and sum(len(g) for g in groups) == len(presets.table())
    both = presets.group(preset, "run") | presets.group(preset, "evaluate")
    assert presets.group(preset, "run", "evaluate") == both
    assert presets.group(presets.load("demo", "epochs=1"), "model") == presets.group(
        preset, "model"
    )


def test_nothing_is_needed_to_read_them():
    """`./run_all.sh --help` reads the presets before anything is installed."""
    code = (
        "import sys; from medxvl.config import notebooks, presets, roles; print(sorted({'numpy', "
        "'torch', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "override",
    [
        "checkpoints=0",
        "batch_size=0",
        "epochs=-1",
        "device=gpu",
        "momentum=-0.1",
        "max_reject_share=7",
        "max_reject_share=nan",
        "learning_rate=inf",
        "clip=nan",
    ],
)
def test_values_out_of_range_are_refused_at_once(override):
    with pytest.raises(ValueError, match="expected"):
        presets.load("demo", override)
