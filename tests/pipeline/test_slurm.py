"""The profile for a SLURM cluster: it is read whole, and plans the same jobs."""

import importlib.util
import re

import pytest
import yaml

from medxvl.config import notebooks, paths
from medxvl.pipeline import command_line, planning

PROFILE = paths.ROOT / "medxvl" / "pipeline" / "slurm"
TOLD = yaml.safe_load((PROFILE / "config.yaml").read_text(encoding="utf-8"))


def planned(tmp_path, monkeypatch, *options):
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    plan = command_line.parse(["smoke", "22", "--set", "seeds=0,1", "--", *options])
    return planning.planned(
        [*planning.snakemake(plan, tmp_path / "run", tmp_path / "run.json", []), "--dry-run"]
    )


def test_it_names_jobs_that_exist():
    rules = {f"notebook_{name}" for name in notebooks.NAMES} | {"prepare_main"}
    assert set(TOLD["set-resources"]) <= rules
    starts = {"11_medvill_pretrain", "21_xvl_pretrain"}
    models = {
        f"notebook_{row.name}"
        for row in notebooks.NOTEBOOKS
        if row.threads or starts & set(row.needs)
    }
    models -= {"notebook_90_results_vs_paper", "notebook_91_figures"}  # they read rows alone
    with_gpu = {
        name
        for name, wanted in TOLD["set-resources"].items()
        if "gpu" in wanted.get("slurm_extra", "")
    }
    assert models <= with_gpu, "what runs a model gets a GPU"


def test_it_plans_the_same_jobs(tmp_path, monkeypatch):
    """All of the profile but the executor, whose plug-in need not be here."""
    found = planned(tmp_path, monkeypatch, "--profile", str(PROFILE), "--executor", "local")
    assert (
        found == planned(tmp_path, monkeypatch)
        and "variants/seed1/notebooks/22_xvl_zero_shot.ipynb" in found
    )


def test_with_the_plug_in(tmp_path, monkeypatch):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("needs snakemake-executor-plugin-slurm, which is not installed")
    assert "notebooks/22_xvl_zero_shot.ipynb" in planned(
        tmp_path, monkeypatch, "--profile", str(PROFILE)
    )


def test_a_mistake_in_it_is_found(tmp_path, monkeypatch):
    """The dry run does read the profile: an option that Snakemake does not know stops it."""
    (tmp_path / "config.yaml").write_text(
        (PROFILE / "config.yaml").read_text().replace("latency-wait", "latency-weight")
    )
    with pytest.raises(OSError, match="unrecognized arguments: --latency-weight"):
        planned(tmp_path, monkeypatch, "--profile", str(tmp_path), "--executor", "local")


def test_its_own_words_show_how_to_call_it():
    assert re.search(r"-- --profile medxvl/pipeline/slurm", (PROFILE / "config.yaml").read_text())
    assert "--profile medxvl/pipeline/slurm" in (paths.ROOT / "README.md").read_text(
        encoding="utf-8"
    )
