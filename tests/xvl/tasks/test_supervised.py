"""Supervised diagnosis: the vision encoder learns from labels, from the start that the settings
name.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from medvill_tasks_data import Fake
from safetensors.torch import save_file
from tolerance import assert_close
from train_helpers import Bar

from medxvl.config import presets
from medxvl.evaluation import controls, metrics
from medxvl.xvl import checkpoints, ibot
from medxvl.xvl import model as xvl
from medxvl.xvl.tasks import supervised

CPU = torch.device("cpu")
FINDINGS = ("Cardiomegaly", "Edema", "Pneumonia")  # of the last nobody has any
PRESET = presets.load(
    "smoke",
    "vision_width=32 supervised_epochs=12 supervised_rate=3e-3 vocabulary=80 bootstrap=40 "
    "checkpoint_every=0",
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return xvl.XVL(PRESET, 80).eval().requires_grad_(False)  # as when it only scores


@pytest.mark.numeric
def test_it_learns_by_the_picture(model, tmp_path):
    data, before = Fake(), {k: v.clone() for k, v in model.state_dict().items()}
    data.index.loc[:9, "Edema"] = -1.0  # uncertain: no label
    start = supervised.start(PRESET, model)
    tuned, told = supervised.Diagnosing(PRESET, data, start, FINDINGS, CPU).fit(tmp_path, Bar())
    assert told.startswith("fine-tuned ") and all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )
    assert not torch.equal(tuned.vision.pos_embed, model.online.vision.pos_embed)
    rows = data.rows("test")
    labels, scores = (
        controls.labels_of(data, rows, FINDINGS),
        supervised.predict(tuned, data, rows, CPU),
    )
    assert scores.shape == (len(rows), 3) and (metrics.auroc(labels, scores)[:2] > 0.9).all()
    partner = controls.shuffled(len(rows), 0)
    about = {
        "dataset": "d",
        "model": "m",
        "n_resamples": 40,
        "means": [("mean of 2", list(FINDINGS[:2]))],
    }
    found = {}
    for control, given in (("", scores), ("shuffled images", scores[partner])):
        evaluated = supervised.evaluate(
            labels, given, rows, list(FINDINGS), control=control, **about
        )
        assert {r["task"] for r in evaluated} == {"supervised_diagnosis"}
        found[control] = {(r["subset"], r["metric"]): r["value"] for r in evaluated}
    assert (
        found[""]["mean of 2", "auroc"]
        > 0.9
        > 0.75
        > found["shuffled images"]["mean of 2", "auroc"]
    )
    assert np.isnan(found[""]["Pneumonia", "auroc"])


def test_another_augmentation_is_another_training(model):
    start = supervised.start(replace(PRESET, supervised_start=""), model)
    one, two, same = (
        supervised.Diagnosing(replace(PRESET, jitter=j), Fake(), start, FINDINGS, CPU).recipe
        for j in (0.0, 0.2, 0.2)
    )
    assert two == same and one.differs(two.about()) == ["jitter=0.2 instead of 0.0"]


def test_without_anything_to_choose_by_the_last_epoch_is_kept(model):
    task = supervised.Diagnosing(
        PRESET, Fake(), supervised.start(PRESET, model), FINDINGS[2:], CPU
    )  # nobody has it
    task.build(CPU)
    assert [task.score(epoch) for epoch in (0, 5)] == [0, 5]


@pytest.mark.numeric
def test_what_is_not_labelled_counts_for_nothing(model):
    module = supervised.Diagnosis(
        PRESET, supervised.start(replace(PRESET, supervised_start=""), model), 2
    ).eval()
    images = torch.rand(4, 1, PRESET.image_size, PRESET.image_size)
    y = torch.tensor(
        [[1.0, float("nan")], [0, float("nan")], [float("nan")] * 2, [float("nan")] * 2]
    )
    logits = module.logits(images)[:2, 0]
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[:2, 0])
    assert_close(module(images, y)["total"], wanted, terms=2 * 32)
    assert module(images, torch.full_like(y, float("nan")))["total"] == 0


@pytest.mark.numeric
def test_the_start_and_the_branch_of_its_file_can_be_chosen(model, tmp_path):
    torch.manual_seed(1)
    state = {
        name: value + 0.5 if name.startswith("student.") else value.contiguous()
        for name, value in ibot.IBOT(PRESET).state_dict().items()
        if name.startswith(("student.", "teacher."))
    }
    file = tmp_path / "ibot.safetensors"
    save_file(state, file)
    found = {}
    for branch in ("teacher", "student"):
        preset = replace(
            PRESET, supervised_start=str(file), vision_weights=str(file), vision_branch=branch
        )
        found[branch] = supervised.start(preset, model).cls_token
        pretrained = xvl.XVL(preset, 80)
        checkpoints.start_from(pretrained, preset)
        assert torch.equal(pretrained.online.vision.cls_token, found[branch])
    assert_close(found["student"], found["teacher"] + 0.5)  # the teacher began as a copy of it
    assert not torch.equal(found["student"], found["teacher"])
    assert supervised.start(PRESET, model) is model.online.vision
    assert [
        supervised.named(replace(PRESET, supervised_start=s)) for s in ("xvl", "/some/ibot.pth")
    ] == ["X-VL fine-tuned on labels", "ibot.pth fine-tuned on labels"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        supervised.start(replace(PRESET, supervised_start="nowhere.pth"), model)
