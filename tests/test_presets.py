"""The settings: names, types, sources, and the published values."""

import dataclasses
import subprocess
import sys

import pytest

from medxvl import paths, presets

PUBLISHED = {
    "queue_size": 40960, "learning_rate": 1e-4, "min_learning_rate": 2e-5, "weight_decay": 0.1, "epochs": 5, "batch_size": 10,
    "momentum": 0.995, "temperature": 0.07, "alpha": 0.4, "mask_share": 0.15, "same_report": 0.95, "itm_weight": 2.0, "clip": 3.0,
    "projection": 256, "fusion_layers": 4, "fusion_hidden": 2048, "vision_width": 768, "patch_size": 16, "image_size": 224,
    "resize": 240, "store_size": 512, "drop_path": 0.1, "text_width": 768, "text_layers": 12, "vocabulary": 30522, "max_words": 120,
    "crop_scale": 0.7, "checkpoints": 5, "bootstrap": 1000, "views": "AP", "warmup_steps": 200, "studies": 0, "contrast_epochs": 0,
}  # fmt: skip


GROUPS = ("run", "data", "look", "model", "pretrain", "evaluate", "medvill", "ibot")


def test_published_values():
    paper = presets.load("paper")
    assert {name: getattr(paper, name) for name in PUBLISHED} == PUBLISHED


def test_every_setting_has_a_meaning_a_source_and_one_type():
    rows = presets.table()
    assert len({row["setting"] for row in rows}) == len(rows) > 40
    for row in rows:
        assert row["meaning"].strip() and row["source"].strip(), row["setting"]
    groups = [presets.group(preset, g) for g in GROUPS]
