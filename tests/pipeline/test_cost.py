"""What `paper --dry-run` says before anything is started: missing data and weights, time, disk."""

import pytest
import torch
from tolerance import assert_close
from torch.utils.flop_counter import FlopCounterMode

from medxvl.config import notebooks, paths, presets, roles
from medxvl.layers import vision_transformer
from medxvl.pipeline import command_line, cost, execute, operations, planning
from medxvl.pipeline.__main__ import main

PAPER = presets.load("paper")


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A machine without data or weights, and of a known speed."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(cost, "measured", lambda preset: ("cpu", "fp32", 1e11))
    return tmp_path


def test_what_is_missing_is_named_with_where_to_get_it(nothing, capsys):
    assert main(["paper", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for role in roles.ROLES:
        assert f"--data {role}=NAME:PATH" in said
    for told in (
        "physionet.org",
        "osf.io/89kps",
        "bytedance/ibot",
        "BiomedVLP-CXR-BERT",
        "bert-base-uncased",
        str(paths.WEIGHTS),
    ):
        assert told in said
    assert (
        "cannot run  needs data: main, unseen_disease" in said
        and "0.1 TFLOP/s" in said
        and "GB free" in said
    )
    assert "precision=fp16 needs a GPU" in said and not paths.RUNS.exists(), (
        "a dry run changes nothing"
    )
    assert main(["paper"]) == 2, "without --dry-run, missing data stop it"


def test_only_what_the_notebooks_need(nothing, capsys):
    (nothing / "weights").mkdir()
    for name in ("ibot_vitb16.pth", "cxr-bert"):
        (nothing / "weights" / name).touch()
    assert main(["paper", "23", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert (
        "readers" not in said
        and "weights:" not in said
        and "11 pre-training" not in said
        and "21 pre-training" in said
    )
    assert "not counted: notebooks 23" in said, "what the estimate leaves out is named"


def test_with_data_it_is_planned_as_any_run(nothing, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    (nothing / "raw").mkdir()
    (nothing / "raw" / "x").touch()
    plan = command_line.parse(["paper", "21", "--dry-run", f"--data=main=mimic_cxr:{nothing}/raw"])
    assert planning.lacks(plan, PAPER) == {} and execute.run(plan) == 0
    said = capsys.readouterr().out
    assert (
        "would run  not run yet" in said and "cannot run" not in said and "data, role" not in said
    )


@pytest.mark.numeric
def test_numbers_follow_the_settings():
    def of(preset, name):
        return sum(
            part.operations
            for part in cost.work(preset, cost.studies({})[0])
            if part.notebook == name
        )

    assert {part.notebook for part in cost.work(PAPER, cost.studies({})[0])} < set(notebooks.NAMES)
    twice = of(presets.load("paper", "epochs=10"), "21_xvl_pretrain")
    assert_close(twice, 2 * of(PAPER, "21_xvl_pretrain"), terms=10)
    assert of(presets.load("paper", "retrieve_pool=100"), "13_medvill_retrieve") < of(
        PAPER, "13_medvill_retrieve"
    )
    sizes = cost.checkpoints(PAPER, ["21_xvl_pretrain", "20_xvl_vision_pretrain"])
    assert 10e9 < sizes["21_xvl_pretrain"] < 20e9, (
        "five epochs of half a billion numbers, and the state"
    )
    assert [cost.duration(s) for s in (5, 300, 7800, 273600)] == [
        "under 1 min",
        "5 min",
        "2 h 10 min",
        "3 d 4 h",
    ]


@pytest.mark.numeric
def test_the_count_of_the_image_encoder_is_torchs():
    preset = presets.load("paper", "vision_layers=2 image_size=64 resize=64")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        vision_transformer.build(preset).forward_features(torch.empty(1, 3, 64, 64))
    # Not rounding: softmax, norms and the like are left out of an estimate for planning
    assert operations.image(preset) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_rate_is_measured():
    assert 1e8 < operations.matrix_rate(times=1) < 1e15
