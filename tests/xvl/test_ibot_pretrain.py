"""iBOT as a training: schedules reach the optimizer, prototypes wait, the last epoch is kept and
starts X-VL's encoder.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from medvill_tasks_data import Fake
from safetensors.torch import load_file, save_file
from tolerance import assert_close
from train_helpers import Bar, words

from medxvl.config import paths, presets
from medxvl.evaluation import controls, metrics
from medxvl.layers import vision_transformer
from medxvl.plots import vision
from medxvl.training import loop
from medxvl.xvl import checkpoints, ibot, ibot_pretrain
from medxvl.xvl.model import XVL

CPU = torch.device("cpu")
PRESET = presets.load(
    "smoke",
    "vision_width=16 vision_heads=2 image_size=32 resize=40 ibot_local_size=16 patch_size=8 "
    "vision_layers=2 "
    "ibot_epochs=3 ibot_batch=16 ibot_prototypes=16 ibot_hidden=16 ibot_bottleneck=8 "
    "ibot_frozen=1 checkpoint_every=0 bootstrap=20",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ibot")
    log, file = ibot_pretrain.fit(PRESET, Fake(), folder, CPU, Bar())
    return log, file, folder


@pytest.mark.numeric
def test_it_trains_and_keeps_the_last_epoch(trained):
    log, file, folder = trained
    assert log.epoch.max() == 2 and np.isfinite(log[["cls", "patch", "total"]].to_numpy()).all()
    assert [f.name for f in folder.glob("epoch-*.safetensors")] == ["epoch-002.safetensors"]
    _, again = ibot_pretrain.fit(PRESET, Fake(), folder, CPU, Bar())
    assert again.read_bytes() == file.read_bytes(), "a finished training is read back"


@pytest.mark.numeric
def test_the_schedules_reach_the_optimizer(tmp_path, monkeypatch):
    seen, waits = [], []

    class Watched(torch.optim.AdamW):
        def step(self, *given):
            seen.append([(g["lr"], g["weight_decay"]) for g in self.param_groups])
            return super().step(*given)

    class Task(ibot_pretrain.SelfDistillation):
        def clip(self, model):
            super().clip(model)
            waits.append(model.model.student.head.prototypes.grad is None)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    task = Task(PRESET, Fake())
    loop.fit(task, replace(PRESET, checkpoints=1), tmp_path, CPU, Bar())
    steps = task.batches(0)
    wanted = [ibot.schedule(PRESET, k / (3 * steps)) for k in range(3 * steps)]
    decayed, spared = zip(*seen, strict=True)
    assert_close([decay for _, decay in decayed], [w["weight_decay"] for w in wanted], terms=4)
    assert decayed[-1][1] > 5 * decayed[0][1] and {decay for _, decay in spared} == {0.0}
    scaled = [w["learning_rate"] * 16 / 256 for w in wanted]
    assert_close([rate for rate, _ in decayed], scaled, terms=4)
    assert waits == [True] * steps + [False] * (2 * steps), "prototypes wait for the first epoch"


@pytest.mark.numeric
def test_its_weights_start_xvl(trained):
    model = XVL(PRESET, 50)
    checkpoints.start_from(model, replace(PRESET, vision_weights=str(trained[1])))
    teacher = ibot_pretrain.encoder(PRESET, trained[1])
    for k, v in teacher.state_dict().items():
        assert torch.equal(model.online.vision.state_dict()[k], v), k
    assert not torch.equal(teacher.cls_token, ibot_pretrain.encoder(PRESET, None).cls_token)


def test_own_weights_are_those_of_the_run(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    model, preset = XVL(PRESET, 50), replace(PRESET, vision_weights="own")
    with pytest.raises(FileNotFoundError, match=r"run_all.sh smoke 20"):
        checkpoints.start_from(model, preset)
    place = tmp_path / "smoke" / "checkpoints" / "xvl_vision_pretrain" / checkpoints.OWN_FILE
    place.parent.mkdir(parents=True)
    place.write_bytes(trained[1].read_bytes())
    checkpoints.start_from(model, preset)
    assert torch.equal(
        model.online.vision.cls_token, ibot_pretrain.encoder(PRESET, trained[1]).cls_token
    )
    told = checkpoints.recipe(preset, Fake(), words())
    save_file({k: v + 1 for k, v in load_file(trained[1]).items()}, place)
    assert checkpoints.recipe(preset, Fake(), words()) != told, (
        "what it started from shapes what comes after"
    )


@pytest.mark.numeric
def test_the_probe_reads_what_is_there(trained):
    data = Fake()
    train, test = data.rows("train"), data.rows("test")
    labels = np.nan_to_num(data.index[["Cardiomegaly", "Edema"]].to_numpy(dtype=float))
    labels[train[0], 0] = np.nan
    network = ibot_pretrain.encoder(PRESET, trained[1])
    given = {
        name: ibot_pretrain.features(network, data, r, PRESET, CPU)
        for name, r in (("train", train), ("test", test))
    }
    assert given["test"].shape == (len(test), 32)
    scores = controls.probe(given["train"], labels[train], given["test"])
    assert metrics.auroc(labels[test], scores)[0] > 0.9, "brightness says it"
    patients = data.index.patient_id.iloc[test].to_numpy()
    rows = ibot_pretrain.evaluate(
        labels[test], scores, patients, ["a", "b"], dataset="d", model="m", n_resamples=20
    )
    assert [row["subset"] for row in rows] == ["a", "b", "mean of 2"]
    assert_close(rows[2]["value"], (rows[0]["value"] + rows[1]["value"]) / 2, terms=2)


def test_too_few_images():
    with pytest.raises(ValueError, match="at least 16 training images, found 8"):
        ibot_pretrain.SelfDistillation(PRESET, Fake(12)).batches(0)


def test_figures(trained):
    images = torch.from_numpy(Fake().images(np.arange(2)))
    views = ibot.views(images, PRESET, torch.Generator().manual_seed(0))
    fig = vision.crops(views, PRESET, "phantom:fake")
    shown = [ax for ax in fig.axes if ax.images]
    assert (
        len(shown) == 2 * (2 + PRESET.ibot_local_crops)
        and "synthetic phantom" in fig.get_suptitle()
    )
    maps = vision_transformer.last_attention(
        ibot_pretrain.encoder(PRESET, trained[1]), vision_transformer.plain_view(images, PRESET)
    )[:, :, 0, 1:].detach()
    fig = vision.head_maps(images, maps, "phantom:fake")
    assert [ax.get_title() for ax in fig.axes] == ["image", "head 1", "head 2"] * 2
