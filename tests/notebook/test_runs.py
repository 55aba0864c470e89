"""medxvl.notebook.runs: seeding, rows, figures, and the closing check of a notebook."""

import csv
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from medxvl.config import paths, records
from medxvl.evaluation import results
from medxvl.notebook import runs
from medxvl.training import progress, seeds

NAME = "90_results_vs_paper"
ROW = {
    "paper": "p",
    "task": "t",
    "dataset": "d",
    "split": "test",
    "subset": "all",
    "model": "m",
    "metric": "AUROC",
    "value": 0.1 + 0.2,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    monkeypatch.setenv("MEDXVL_RUN", "first")
    return tmp_path / "smoke"


@pytest.fixture
def run(folder):
    before = torch.get_num_threads()
    yield runs.start(NAME, "smoke")
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


def figure():
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2, 1.5))
    axes = fig.subplots()
    axes.plot([0, 1, 4], label="Ångström, β")
    axes.legend()
    return fig


def test_start_says_what_runs_where(run, capsys):
    runs.start(NAME, "smoke", "seed=5")
    said = capsys.readouterr().out
    assert (
        "smoke seed=5" in said
        and "cpu, 1 thread" in said
        and f"torch {torch.__version__.split('+')[0]}" in said
    )
    assert (
        run.device == torch.device("cpu")
        and run.checkpoints.is_dir()
        and run.preset.name == "smoke"
    )


@pytest.mark.parametrize(
    "given, said",
    [
        (("9_no", "smoke"), "unknown notebook"),
        ((NAME, "smok"), "unknown preset"),
        ((NAME, "smoke", "sed=1"), "unknown setting"),
        ((NAME, "smoke", "device=gpu"), "cpu, cuda, auto"),
        ((NAME, "smoke", "", "man=openi:/x"), "unknown role"),
    ],
)
def test_start_refuses_unknown_names(folder, given, said):
    with pytest.raises(ValueError, match=said):
        runs.start(*given)


def test_seed_everything():
    drawn = []
    for seed in (3, 3, 4):
        seeds.seed_everything(seed)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    torch.use_deterministic_algorithms(False)
    assert drawn[0] == drawn[1] and all(a != b for a, b in zip(drawn[1], drawn[2], strict=True))


def test_rows_are_written_and_read_back(run, folder, monkeypatch):
    run.add_rows(
        [
            ROW,
            ROW
            | {
                "metric": "F1",
                "value": float("nan"),
                "ci_low": np.float32(0.5),
                "n": 7,
                "control": "chance",
            },
        ]
    )
    run.finish(rows=[("t", "AUROC")])
    table = results.results("smoke")
    assert (
        tuple(table.columns) == records.COLUMNS
        and table["value"][0] == 0.1 + 0.2
        and math.isnan(table["value"][1])
    )
    assert (
        list(table["control"]) == ["", "chance"]
        and table["n"][1] == 7
        and set(table["run"]) == {"first"}
    )
    assert (
        set(table["preset"]) == {"smoke"}
        and len(set(table["manifest"])) == 1
        and len(table["manifest"][0]) == 12
    )
    assert records.outputs(folder, NAME)["files"] == [f"rows/{NAME}.csv"]

    first = (folder / "rows" / f"{NAME}.csv").read_text()
    monkeypatch.setenv("MEDXVL_RUN", "second")
    again = runs.start(NAME, "smoke")
    again.add_rows(
        [
            ROW,
            ROW
            | {
                "metric": "F1",
                "value": float("nan"),
                "ci_low": np.float32(0.5),
                "n": 7,
                "control": "chance",
            },
        ]
    )
    again.finish(rows=2)
    assert (folder / "rows" / f"{NAME}.csv").read_text() == first.replace("first", "second"), (
        "only the run's name may differ"
    )
    assert not (folder / "history").exists()

    monkeypatch.setenv("MEDXVL_RUN", "third")
    other = runs.start(NAME, "smoke")
    other.add_rows([ROW | {"value": 0.4}])
    other.finish(rows=1)
    assert (folder / "history" / f"second-{NAME}.csv").read_text() == first.replace(
        "first", "second"
    )
    assert list(results.results(other.preset)["value"]) == [0.4]


def test_results_without_rows(folder):
    assert (
        tuple(results.results("smoke").columns) == records.COLUMNS
        and len(results.results("smoke")) == 0
    )


@pytest.mark.parametrize(
    "row", [ROW | {"metrc": 1}, {k: v for k, v in ROW.items() if k != "task"}, ROW | {"run": "x"}]
)
def test_rows_with_other_keys_are_refused(run, row):
    with pytest.raises(ValueError, match="expected paper, task"):
        run.add_rows([row])


@pytest.mark.parametrize(
    "promise, said",
    [
        ({"rows": 2}, "at least 2"),
        ({"rows": [("t", "MCC")]}, "no such row"),
        ({"rows": [("t", "F1")]}, "no row has a finite value"),
        ({"figures": ["roc"]}, "figure roc: was not saved"),
        ({"files": ["checkpoints/last.json"]}, "last.json: missing or empty"),
    ],
)
def test_finish_refuses_what_is_missing(run, folder, promise, said, capsys):
    run.add_rows([ROW | {"metric": "F1", "value": None}])
    with pytest.raises(RuntimeError, match=said):
        run.finish(**promise)
    assert "[MISSING]" in capsys.readouterr().out and not (folder / "rows").exists()


def test_finish_without_rows_takes_old_ones_away(run, folder):
    run.add_rows([ROW])
    run.finish(rows=1)
    runs.start(NAME, "smoke").finish()
    assert not (folder / "rows" / f"{NAME}.csv").exists()


def test_figures_have_the_same_bytes_every_time(run, folder):
    run.save_figure(figure(), "one")
    here = [(run.figures / f"one{suffix}").read_bytes() for suffix in (".pdf", ".png")]
    run.finish(figures=["one"])
    code = (
        "import test_runs as t; t.runs.Run(t.NAME, "
        "t.runs.presets.load('smoke')).save_figure(t.figure(), 'one')"
    )
    env = os.environ | {
        "MEDXVL_RUNS": str(folder.parent / "other"),
        "PYTHONHASHSEED": "77",
        "SOURCE_DATE_EPOCH": "1",
    }
    env["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT), str(paths.ROOT / "tests" / "notebook")])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT, env=env)
    there = [
        (folder.parent / "other" / "smoke" / "figures" / f"one{suffix}").read_bytes()
        for suffix in (".pdf", ".png")
    ]
    assert here == there
    assert b"/FontFile2" in here[0], "fonts must be in the PDF"
    assert b"CreationDate" not in here[0]
    for name in ("a/b", "roc.png", ""):
        with pytest.raises(ValueError, match="plain name"):
            run.save_figure(figure(), name)


def test_progress(capsys, monkeypatch):
    monkeypatch.setenv(progress.HEADLESS, "1")
    assert list(progress.progress([1, 2], "x")) == [1, 2]
    with progress.progress(3, "steps") as bar:
        bar.update(3)
    assert bar.n == 3 and bar.mininterval == 30 and "steps" in capsys.readouterr().out


def test_run_id_is_only_in_its_column(run, folder):
    run.add_rows([ROW])
    run.finish(rows=1)
    with open(folder / "rows" / f"{NAME}.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert [key for key, value in row.items() if "first" in value] == ["run"]
    assert "first" not in str(run.inputs())
