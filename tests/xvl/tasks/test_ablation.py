"""Components off one at a time, shares of the data, and what notebook 30 makes of their rows."""

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tolerance import assert_close
from train_helpers import CPU, TINY, Fake, fit, words
from train_helpers import TINY_SETTINGS as SMALL

from medxvl.config import paths, presets, records, sweeps
from medxvl.config.sweeps import Step
from medxvl.data import text as data_text
from medxvl.plots import index
from medxvl.xvl import checkpoints, corpus, losses, pretrain
from medxvl.xvl.model import XVL
from medxvl.xvl.tasks import ablation

matplotlib.use("agg")


class Patients(Fake):
    """`Fake` with a patient for every two studies."""

    def __init__(self):
        super().__init__(n=40)
        self.index["patient_id"] = [f"p{k // 2:02d}" for k in range(len(self.index))]


def task(preset):
    data = Patients()
    return pretrain.Pretraining(
        preset, data, data_text.train_tokenizer(["left effusion. rib fracture."], 80)
    )


def step(preset):
    """The model and its loss terms after one training step on four studies."""
    made = task(preset)
    torch.manual_seed(0)
    model = XVL(preset, len(made.tokenizer)).train()
    batch = made.corpus.batch(
        np.arange(4), np.random.default_rng(0), torch.Generator().manual_seed(0)
    )
    return model, model(batch, preset.alpha, torch.Generator().manual_seed(0))


# --- what is off ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in presets.ABLATIONS if name != "whole"])
def test_an_ablation_differs_from_the_whole_in_its_settings_alone(name):
    whole, other = (vars(presets.load("demo", f"ablation={kind}")) for kind in ("whole", name))
    changed = {key for key in whole if whole[key] != other[key]} - {"ablation"}
    assert changed == set(presets.parse_overrides(presets.ABLATIONS[name][0])), (
        "what it names was on, and nothing else changed"
    )


def test_an_ablation_wins_over_what_is_set_and_paper_is_not_shortened():
    assert (
        presets.load("demo", "momentum=0.9 ablation=no_momentum momentum=0.8 epochs=7").momentum
        == 0
    )
    assert (
        presets.load("demo", "epochs=7 ablation=whole").epochs
        == presets.load("demo").ablation_epochs
    )
    assert presets.load("demo", "ablation=whole ablation_epochs=7").epochs == 7
    paper, whole = presets.load("paper"), presets.load("paper", "ablation=whole")
    assert replace(whole, ablation="") == paper
    with pytest.raises(ValueError, match="expected one of"):
        presets.load("demo", "ablation=no_such")


@pytest.mark.numeric
def test_no_momentum_means_that_the_twin_is_the_model():
    model, _ = step(replace(TINY, momentum=0.0, alpha=0.0))
    with torch.no_grad():
        for p in model.online.parameters():
            p.add_(0.1)
    model.update_twin()
    pairs = zip(model.twin.parameters(), model.online.parameters(), strict=True)
    assert all(torch.equal(twin, online) for twin, online in pairs)


@pytest.mark.numeric
def test_the_sentence_wise_term_counts_by_its_weight():
    made = torch.Generator().manual_seed(0)
    image, report, image_m, report_m, images, reports, sentences = (
        losses.F.normalize(torch.randn(n, 8, generator=made), dim=1) for n in (4, 4, 4, 4, 6, 6, 7)
    )
    given = (
        image,
        report,
        image_m,
        report_m,
        images,
        reports,
        sentences,
        torch.tensor([0, 0, 1, 2, 2, 3, 3]),
        torch.tensor(0.1),
        0.4,
    )
    whole, without = losses.contrastive_losses(*given), losses.contrastive_losses(*given, 0.0)
    four = sum(whole[name] for name in ("i2t", "t2i", "i2i", "t2t"))
    assert_close(whole["ita"], (four + whole["local"]) / 5, terms=5)
    assert_close(without["ita"], four / 4, terms=4)


@pytest.mark.numeric
def test_without_fusion_alignment_alone_is_learned():
    model, terms = step(replace(TINY, fusion=0))
    assert "itm" not in terms and "mlm" not in terms and terms["total"] == terms["ita"]
    terms["total"].backward()
    assert all(
        p.grad is None for p in [*model.online.fusion.parameters(), *model.itm_head.parameters()]
    )
    assert model.online.vision_proj.weight.grad.abs().sum() > 0


@pytest.mark.numeric
def test_without_fusion_epochs_are_chosen_by_the_cosine(tmp_path):
    log = fit(tmp_path, preset=replace(TINY, fusion=0))
    assert "itm" not in log and len(list(tmp_path.glob("epoch-*.safetensors"))) == TINY.checkpoints
    made = task(replace(TINY, fusion=0))
    model = XVL(made.preset, len(made.tokenizer))
    with torch.no_grad():
        model.itm_head.weight.fill_(float("nan"))
    assert 0 <= pretrain.auroc_of_shifted_reports(model, made.valid, CPU) <= 1, (
        "the head is not asked"
    )


def test_the_start_that_notebook_20_made(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    own = replace(TINY, vision_weights="own")
    with pytest.raises(FileNotFoundError, match="run_all.sh smoke 20"):
        checkpoints.recipe(own, Fake(), words())
    made = tmp_path / "smoke" / "checkpoints" / "xvl_vision_pretrain" / "ibot.safetensors"
    made.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(2)}, made)
    first = checkpoints.recipe(own, Fake(), words())
    save_file({"x": torch.ones(2)}, made)
    assert checkpoints.recipe(own, Fake(), words()) != first, "another start is another training"


# --- shares of the data ---------------------------------------------------------------------------
def test_a_share_is_one_of_patients_and_part_of_a_larger_one():
    data = Patients()
    rows = data.rows("train")
    found = {
        share: corpus.share_of(data, rows, replace(TINY, share=share)) for share in (0.1, 0.5, 1.0)
    }
    assert len(found[1.0]) == len(rows) and set(found[0.1]) < set(found[0.5]) < set(rows)
    who = data.index["patient_id"].to_numpy()
    assert not set(who[found[0.5]]) & set(who[np.setdiff1d(rows, found[0.5])]), (
        "a patient is in it or not"
    )
    assert len(set(who[found[0.5]])) == round(0.5 * len(set(who[rows])))
    assert set(corpus.share_of(data, rows, replace(TINY, share=0.5, seed=1))) != set(found[0.5])


def test_as_many_steps_are_made_from_a_share():
    whole, half = task(TINY), task(replace(TINY, share=0.5))
    assert len(half.corpus) < len(whole.corpus) and len(half.valid) == len(whole.valid)
    # a share's epochs end on whole batches
    assert all(abs(half.batches(e) - whole.batches(e)) <= 1 for e in range(4))
    order = half.order(0, np.random.default_rng(0))
    assert len(order) >= half.batches(0) * half._size(0) and set(order) == set(
        range(len(half.corpus))
    )
    assert (
        whole.order(0, np.random.default_rng(0))
        == np.random.default_rng(0).permutation(len(whole.corpus))
    ).all()


@pytest.mark.parametrize(
    "given", ["shares=0", "shares=1.5", "shares=0.123", "shares=x", "ablations=no_such", "share=0"]
)
def test_mistyped(given):
    with pytest.raises(ValueError, match="expected"):
        presets.load("demo", given)


# --- variants -------------------------------------------------------------------------------------
def test_ablations_and_shares_times_seeds():
    preset = presets.load("demo", "ablations=all shares=0.1,0.25,1 seeds=0,1")
    found = sweeps.of("22_xvl_zero_shot", preset)
    assert len(found) == len(set(found)) == (6 + 2) * 2
    assert {"whole-seed0", "no_fusion-seed1", "whole-share10-seed1"} < set(found)
    assert sweeps.of("20_xvl_vision_pretrain", preset) == ["", "seed1"]
    assert sweeps.of("22_xvl_zero_shot", presets.load("demo", "ablations=no_start")) == [
        "no_start-seed0"
    ]
    assert sweeps.of("22_xvl_zero_shot", presets.load("demo")) == [""]


@pytest.mark.parametrize("variant", ["no_momentum-seed1", "whole-share25-seed0", "whole-seed3"])
def test_settings_of_a_variant(variant):
    own = sweeps.settings(presets.load("demo", "seed=7 bootstrap=30"), variant)
    told = variant.split("-")
    assert own.ablation == told[0] and own.seed == int(told[-1][4:]) and own.bootstrap == 30
    assert own.share == (0.25 if "share25" in told else 1.0)


def test_what_a_variant_needs():
    preset = presets.load("demo")
    assert sweeps.needs(Step("22_xvl_zero_shot", "no_fusion-seed1"), preset) == [
        Step("21_xvl_pretrain", "no_fusion-seed1")
    ]
    assert sweeps.needs(Step("21_xvl_pretrain", "whole-seed1"), preset) == [
        Step("20_xvl_vision_pretrain")
    ]
    assert (
        sweeps.needs(Step("21_xvl_pretrain", "no_start-seed1"), preset)
        == []
        == sweeps.needs(Step("21_xvl_pretrain"), preset)
    )
    fine_tuned = presets.load("demo", "supervised_start=own")
    assert sweeps.needs(Step("22_xvl_zero_shot"), fine_tuned) == [
        Step("21_xvl_pretrain"),
        Step("20_xvl_vision_pretrain"),
    ]
    read = sweeps.needs(Step("30_xvl_ablation"), preset)
    assert (
        len(read) == 18
        and {step.name for step in read} == {"22_xvl_zero_shot"}
        and all(step.variant for step in read)
    )
    asked = sweeps.needs(
        Step("30_xvl_ablation"), presets.load("demo", "ablations=whole,no_start seeds=4")
    )
    assert [step.variant for step in asked] == ["whole-seed4", "no_start-seed4"]


def test_all_that_is_needed():
    found = sweeps.needed(["30_xvl_ablation"], presets.load("demo"))
    assert [step.name[:2] for step in found] == ["20"] + ["21"] * 18 + ["22"] * 18 + ["30"]
    found = sweeps.needed(["22_xvl_zero_shot"], presets.load("demo"))
    assert [step.label for step in found] == ["21_xvl_pretrain", "22_xvl_zero_shot"]


# --- rows, table, figures -------------------------------------------------------------------------
def leave_rows(root, preset, without=()):
    """Rows as notebook 22 leaves them, of every training that `preset` asks notebook 30 for."""
    wanted = presets.compared(preset)
    for variant in sweeps.of("22_xvl_zero_shot", wanted):
        if variant in without:
            continue
        own = sweeps.settings(wanted, variant)
        rows = []
        for head in ("ITM", "ITA") if own.fusion else ("ITA",):
            for control, value in (
                ("", 0.8 - 0.1 * (own.ablation != "whole") - 0.2 * (own.share < 1)),
                ("shuffled images", 0.5),
            ):
                rows += [
                    {
                        "run": "r",
                        "paper": "xvl",
                        "task": "zero_shot",
                        "dataset": "phantom:x",
                        "split": "test",
                        "subset": subset,
                        "model": f"X-VL ({head}), {presets.ablation_label(own)}",
                        "metric": "auroc",
                        "value": value + 0.01 * own.seed if not control else value,
                        "n": 100,
                        "control": control,
                        "seed": own.seed,
                        "preset": "smoke",
                    }
                    for subset in ("Edema", "mean of 5", "mean of 8")
                ]
        folder = root / "smoke" / sweeps.prefix(variant) / "rows"
        folder.mkdir(parents=True)
        pd.DataFrame(rows).reindex(columns=records.COLUMNS).to_csv(
            folder / "22_xvl_zero_shot.csv", index=False
        )


@pytest.mark.numeric
def test_rows_become_differences_seed_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    preset = presets.load("smoke", SMALL)
    table, missing = ablation.rows(preset)
    assert table.empty and len(missing) == 18
    leave_rows(tmp_path, preset, without=["no_start-seed1"])
    table, missing = ablation.rows(preset)
    assert missing == ["no_start-seed1"] and set(table.subset) == {"mean of 8"}
    found = ablation.differences(table, "ITM").set_index("model")
    assert_close(found.difference["X-VL (ITM), no momentum"], -0.1, terms=64)
    assert found.pairs.to_dict() == {
        "X-VL (ITM), no momentum": 2,
        "X-VL (ITM), no sentence-wise term": 2,
        "X-VL (ITM), no similarity adjustment": 2,
        "X-VL (ITM), no self-supervised start": 1,
        **{f"X-VL (ITM), whole, {share} % of the data": 2 for share in (10, 25, 50)},
    }
    assert ablation.differences(table, "ITA").model.str.contains("no fusion").any()
    rows = {
        (row["subset"], row["model"], row["control"]): row for row in ablation.result_rows(table)
    }
    assert_close(rows["whole", "X-VL (ITM)", ""]["value"], 0.805, terms=4)
    assert rows["25 % of the data", "X-VL (ITA)", ""]["n"] == 100
    assert ("no fusion", "X-VL (ITM)", "") not in rows
    told = ablation.readable(table)
    assert (
        told.loc[("whole", 1.0, 2), "ITM"] == "0.805 ± 0.007"
        and told.loc[("no fusion", 1.0, 2), "ITM"] == ""
    )


@pytest.mark.numeric
def test_figures_are_drawn_from_the_kept_table(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    with pytest.raises(index.MissingInput, match="run_all.sh smoke 30"):
        index.figure("xvl-ablation", "smoke")
    preset = presets.load("smoke", SMALL)
    leave_rows(tmp_path, preset)
    (tmp_path / "smoke" / "predictions").mkdir()
    ablation.rows(preset)[0].to_csv(
        tmp_path / "smoke" / "predictions" / "ablation.csv", index=False
    )
    drawn = index.figure("xvl-ablation", "smoke")
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert (
        labels == [label for _, label in presets.ABLATIONS.values()]
        and "synthetic phantom" in drawn.get_suptitle()
    )
    marks = np.concatenate([line.get_xdata() for line in drawn.axes[0].lines])
    assert {0.805, 0.705} <= set(np.round(marks, 6)) and np.abs(marks - 0.605).min() > 0.01, (
        "means at 100 % of the data alone"
    )
    drawn = index.figure("xvl-data-efficiency", "smoke")
    assert_close(drawn.axes[0].lines[2].get_ydata(), [0.605, 0.605, 0.605, 0.805], terms=4)
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == [
        "10",
        "25",
        "50",
        "100",
    ]
