"""Several masks and seeds in one call."""

import pytest

from medxvl.config import notebooks, paths, presets, sweeps, threads
from medxvl.config.notebooks import Notebook
from medxvl.config.sweeps import Step
from medxvl.pipeline import command_line, planning


@pytest.fixture
def books(monkeypatch):
    both = ("medvill_mask", "seed")
    rows = (
        Notebook("10_pretrain", varies=both),
        Notebook("12_task", needs=("10_pretrain",), varies=both),
        Notebook("20_other", varies=("seed",)),
        Notebook("25_mixed", needs=("10_pretrain", "20_other"), varies=both),
        Notebook("90_results", needs=("12_task", "20_other")),
    )
    monkeypatch.setattr(notebooks, "NOTEBOOKS", rows)
    monkeypatch.setattr(notebooks, "NAMES", tuple(row.name for row in rows))


def test_the_preset_s_own_mask_and_seed_are_no_variant():
    assert sweeps.of("21_xvl_pretrain", presets.load("demo")) == [""]
    assert sweeps.of("21_xvl_pretrain", presets.load("demo", "seed=5")) == [""]
    assert sweeps.of("21_xvl_pretrain", presets.load("demo", "seeds=5,0,5")) == ["seed5", ""]
    assert sweeps.of("01_prepare_data", presets.load("demo", "seeds=5,0")) == [""]


def test_masks_times_seeds(books):
    preset = presets.load("demo", "masks=bar,s2s seeds=0,1")
    assert sweeps.of("12_task", preset) == ["", "bar-seed1", "seq2seq-seed0", "seq2seq-seed1"]
    assert sweeps.of("20_other", preset) == ["", "seed1"], "no matter which mask"
    assert len(sweeps.steps(["12_task"], presets.load("demo", "masks=all"))) == 5


@pytest.mark.parametrize("variant", ["", "seed1", "seq2seq-seed0", "bi_seq2seq-seed12"])
def test_settings_of_a_variant(variant):
    own = sweeps.settings(presets.load("demo", "seed=7 bootstrap=30"), variant)
    mask, seed = (
        ("bar", 7)
        if not variant
        else ([*variant.split("-seed")] if "-" in variant else ["bar", variant[4:]])
    )
    assert (own.medvill_mask, own.seed, own.bootstrap) == (mask, int(seed), 30)


def test_a_variant_reads_its_own(books):
    preset = presets.load("demo", "masks=bar,s2s seeds=0,1")
    assert sweeps.needs(Step("12_task", "seq2seq-seed1"), preset) == [
        Step("10_pretrain", "seq2seq-seed1")
    ]
    assert sweeps.needs(Step("12_task"), preset) == [Step("10_pretrain")]
    assert sweeps.needs(Step("25_mixed", "seq2seq-seed0"), preset) == [
        Step("10_pretrain", "seq2seq-seed0"),
        Step("20_other"),
    ]
    assert sweeps.needs(Step("25_mixed", "bar-seed1"), preset) == [
        Step("10_pretrain", "bar-seed1"),
        Step("20_other", "seed1"),
    ]
    assert len(sweeps.needs(Step("90_results"), preset)) == 6, (
        "a notebook without variants reads them all"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("masks=bar,x", "'x' is no mask; expected all, or some of bidirectional"),
        ("seeds=1,a", "whole numbers"),
        ("seeds=-1", "whole"),
    ],
)
def test_mistyped(given, told):
    with pytest.raises(ValueError, match=told):
        presets.load("demo", given)


def test_run_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    assert sweeps.run_folder("demo") == tmp_path / "demo"
    monkeypatch.setenv(sweeps.ENVIRONMENT, "seed1")
    assert sweeps.run_folder("demo") == tmp_path / "demo" / "variants" / "seed1"
    sweeps.run_folder("demo").mkdir(parents=True)
    assert list(sweeps.folders(tmp_path / "demo")) == ["", "seed1"]


def test_one_call_of_snakemake(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    plan = command_line.parse(["smoke", "23", "--set", "seeds=0,1"])
    would = planning.planned(
        [*planning.snakemake(plan, tmp_path / "run", tmp_path / "run.json", []), "--dry-run"]
    )
    made = [
        f"{at}notebooks/{name}.ipynb"
        for at in ("", "variants/seed1/")
        for name in ("21_xvl_pretrain", "23_xvl_unseen_disease")
    ]
    assert set(made) == {file for file in would if "notebooks/" in file}


def test_threads_of_a_training_and_of_its_variants(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 8)
    demo, paper = presets.load("demo"), presets.load("paper")
    assert [threads.threads("21_xvl_pretrain", p) for p in (demo, paper)] == [2, 8]
    assert [threads.threads("21_xvl_pretrain", p, "whole-seed1") for p in (demo, paper)] == [1, 8]
    assert [threads.threads("11_medvill_pretrain", p, "seq2seq-seed0") for p in (demo, paper)] == [
        1,
        8,
    ]
    assert threads.threads("22_xvl_zero_shot", paper) == 1
    monkeypatch.setattr(threads, "cores", lambda: 1)
    assert threads.threads("21_xvl_pretrain", demo) == 1
