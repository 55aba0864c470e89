"""Every notebook: the contract it is written by, and a whole run at preset `smoke`."""

import ast
import csv
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import extending
import pandas as pd
import pytest
from page_checks import check_pages

from data_prep.phantom import write
from medxvl.config import fingerprints, notebooks, paths
from medxvl.pipeline import steps
from medxvl.weights import store

BOOKS = {
    name: json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    for name in notebooks.NAMES
    if (paths.NOTEBOOKS / f"{name}.ipynb").is_file()
}
PARAMETERS = """preset = "demo"   # smoke | demo | paper
overrides = ""    # settings to change, such as seed=1 epochs=3
data = ""         # own data, such as main=mimic_cxr:/path/to/raw"""
each_notebook = pytest.mark.parametrize("name", notebooks.NAMES)


def source(cell):
    return "".join(cell["source"])


def code(name):
    return [cell for cell in BOOKS[name]["cells"] if cell["cell_type"] == "code"]


def tree(name):
    return ast.parse("\n\n".join(fingerprints.code_cells(paths.NOTEBOOKS / f"{name}.ipynb")))


# --- the contract ---------------------------------------------------------------------------------
@each_notebook
def test_cells(name):
    book = BOOKS[name]
    cells, first = book["cells"], code(name)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and book["metadata"]["kernelspec"][
        "name"
    ] == "python3"
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    assert cells[0]["cell_type"] == "markdown"
    for word in ("question", "paper", "cost", "data"):
        assert word in source(cells[0]).lower(), f"the first cell must tell the {word}"
    assert len(first) <= 15, "at most 15 code cells"
    assert (
        first[0]["metadata"].get("tags") == ["parameters"]
        and source(first[0]).strip() == PARAMETERS
    )
    assert f'run = runs.start("{name}", preset, overrides, data)' in source(first[1])
    assert "run.finish(" in source(first[-1]), (
        "the last code cell checks what the notebook promised"
    )
    assert any("change this and see" in source(cell).lower() for cell in cells[-4:]), (
        "exercises at the end"
    )
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown", (
                f"a sentence before the cell {source(cell)[:60]!r}"
            )


@each_notebook
def test_stripped(name):
    assert "papermill" not in BOOKS[name]["metadata"] and "widgets" not in BOOKS[name]["metadata"]
    for cell in code(name):
        assert cell["outputs"] == [] and cell["execution_count"] is None, "run nbstripout"
        assert set(cell["metadata"]) <= {"tags"}, f"left behind: {cell['metadata']}"


@each_notebook
def test_code_is_thin(name):
    functions = [
        node
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert not [node for node in ast.walk(tree(name)) if isinstance(node, ast.ClassDef)], (
        "no class: it belongs in medxvl"
    )
    assert len(functions) <= 2, "at most two functions"
    assert all(node.end_lineno - node.lineno < 12 for node in functions), "short functions"


@each_notebook
def test_no_paths(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"^(/|~|\.\.?/|data/|runs/|figures/)|[a-z]:\\\\", node.value), (
                f"path {node.value!r}: medxvl.config.paths has them"
            )


@each_notebook
def test_imports_resolve(name):
    """What a notebook imports exists, and what it takes from a module of ours is there."""
    modules = {}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name.split(".")[0]] = importlib.import_module(
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            parent = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(parent, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = getattr(parent, alias.name)
    stored = {
        node.id
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree(name)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in set(modules) - stored
        ):
            module = modules[node.value.id]
            assert hasattr(module, node.attr), f"{node.value.id} has no {node.attr}"


@each_notebook
def test_parameters_are_seen(name):
    assert steps.declared_parameters(paths.NOTEBOOKS / f"{name}.ipynb") == [
        "preset",
        "overrides",
        "data",
    ]


# --- a whole run ----------------------------------------------------------------------------------
class Smoke:
    """One run of everything at preset smoke, in folders of its own."""

    def __init__(self, folder):
        self.env = os.environ | {
            "MEDXVL_RUNS": str(folder / "runs"),
            "MEDXVL_DATA": str(folder / "data"),
        }
        self.raw = folder / "data" / "raw"
        self.folder = folder / "runs" / "smoke"
        self.said = self.start("first", "smoke")

    def start(self, run, *options, project=paths.ROOT, **variables):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "medxvl.pipeline", *options],
            cwd=project,
            capture_output=True,
            text=True,
            env=self.env | {"MEDXVL_RUN": run, "PYTHONPATH": str(project)} | variables,
        )
        return done.stdout + done.stderr

    def rows(self):
        with open(self.folder / "results.csv", newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    return Smoke(tmp_path_factory.mktemp("smoke"))


@pytest.mark.parametrize("name", notebooks.select([]))
def test_runs(smoke, name):
    path = smoke.folder / "records" / f"{name}.json"
    assert path.is_file(), smoke.said
    record = json.loads(path.read_text())
    assert record["status"] == "ok", record.get("details") or record
    assert record["peak_mb"] < 4096
    assert (smoke.folder / "notebooks" / f"{name}.ipynb").is_file() and (
        smoke.folder / "html" / f"{name}.html"
    ).is_file()


def test_results_are_gathered(smoke):
    rows = smoke.rows()
    assert rows, smoke.said
    told = json.loads((smoke.folder / "manifest.json").read_text())
    known = {notebook.get("manifest") for notebook in told["notebooks"].values()}
    assert {row["manifest"] for row in rows} <= known, "every row can be traced to the manifest"
    assert {row["control"] for row in rows} >= {"", "chance", "shuffled images"}, (
        "every evaluation has its controls"
    )
    assert all(row["dataset"].startswith("phantom:") for row in rows if row["paper"]), (
        "synthetic data say so"
    )
    assert told["checkpoints"] and all(
        told["data"][role]["synthetic"] for role in ("main", "unseen_disease", "readers")
    )
    figures = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert figures and all(
        f"{name[:-4]}.pdf" in figures for name in figures if name.endswith(".png")
    )
    index = (smoke.folder / "html" / "index.html").read_text(encoding="utf-8")
    assert (
        all(f'href="{name}.html"' in index for name in notebooks.select([]))
        and "Synthetic phantom" in index
    )
    assert not re.search(r'(src|href)="https?://', index)


def test_pages_in_a_browser(smoke, browser):
    """The pages of all notebooks, as they were run."""
    assert len(check_pages(browser, smoke.folder / "html")[1]) == len(notebooks.select([])) + 1


def test_second_start_runs_nothing(smoke):
    before = smoke.rows()
    said = smoke.start("second", "smoke")
    assert said.count("up to date") == len(notebooks.select([])) and "started" not in said, said
    assert smoke.rows() == before


def test_same_results_again(smoke):
    """Trained and evaluated anew, a pre-training and a task of each paper: every row is the same,
    bit for bit, but for the name of the run.
    """
    before = smoke.rows()
    said = smoke.start("third", "smoke", "--force", "11", "12", "21", "22")
    after = smoke.rows()
    assert {row.pop("run") for row in after} >= {"third"}, said
    assert [{k: v for k, v in row.items() if k != "run"} for row in before] == after


def test_ablation_on_another_body_part(smoke, tmp_path):
    """Abdominal radiographs from a table, with findings and sentences of their own: pre-training,
    zero-shot scoring, ablation.
    """
    (raw,) = smoke.raw.glob("phantom-*/abdomen/abdomen.csv")
    columns = write.LAYOUTS["abdomen"][2]
    given = [word for name, value in columns.items() for word in ("--data", f"main.{name}={value}")]
    given += [
        "--set",
        f"prompts={paths.ROOT / 'data_prep' / 'phantom' / 'abdomen_prompts.csv'}",
        "--set",
        "ablations=whole,no_fusion",
        "--set",
        "seeds=0",
    ]
    said = smoke.start(
        "abdomen", "smoke", "30", "--data", f"main=table:{raw}", *given, MEDXVL_RUNS=str(tmp_path)
    )
    folder = tmp_path / "smoke"
    rows = pd.read_csv(folder / "results.csv", keep_default_na=False)
    zero_shot = rows[rows.task == "zero_shot"]
    scored = {
        subset for subset in zero_shot.subset if not subset.startswith("mean of")
    }  # so few films lack some findings
    assert (
        4 <= len(scored)
        and scored <= set(columns["label_columns"].split(","))
        and "readers" not in set(rows.task)
    ), said
    assert set(zero_shot.model) == {
        "X-VL (ITM), whole",
        "X-VL (ITA), whole",
        "X-VL (ITA), no fusion",
        "chance",
    }
    own = rows[(rows.task == "ablation") & (rows.control == "")]
    assert sorted(own.subset + " " + own.model) == [
        "no fusion X-VL (ITA)",
        "whole X-VL (ITA)",
        "whole X-VL (ITM)",
    ]
    assert (
        set(own.dataset) == {"phantom:table"}
        and (folder / "figures" / "xvl-ablation.pdf").is_file()
    )


def test_without_trainings_the_ablation_says_what_is_missing(smoke):
    """The notebook alone, as in JupyterLab after the default run."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "medxvl.pipeline",
            "notebook",
            "30_xvl_ablation",
            "--preset",
            "smoke",
        ],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        env=smoke.env | {"PYTHONPATH": str(paths.ROOT)},
    )
    shown = (smoke.folder / "notebooks" / "30_xvl_ablation.ipynb").read_text(encoding="utf-8")
    assert (
        done.returncode == 0 and "18 are missing" in shown and "./run_all.sh smoke 30" in shown
    ), done.stderr


# --- docs/extending.md ----------------------------------------------------------------------------
@pytest.fixture(scope="session")
def extended(tmp_path_factory):
    project = extending.copy_of_project(tmp_path_factory.mktemp("extended") / "medxvl")
    extending.extend(project)
    return project


def test_a_new_dataset_is_a_module_and_a_row(smoke, extended, tmp_path):
    raw = extending.write_clinic(tmp_path / "clinic")
    given = ["smoke", "02", "--data", f"main=clinic:{raw}"]
    said = smoke.start("clinic", *given, project=extended, MEDXVL_RUNS=str(tmp_path / "runs"))
    record = json.loads((tmp_path / "runs/smoke/records/02_look_at_data.json").read_text())
    assert record["status"] == "ok", said
    made = json.loads((tmp_path / "runs/smoke/data/main.json").read_text())
    assert made["label"] == "clinic" and not made["synthetic"], said


def test_a_new_task_is_a_module_a_notebook_a_row_and_its_settings(smoke, extended, tmp_path):
    shutil.copytree(smoke.folder, tmp_path / "runs" / "smoke")
    where = {"project": extended, "MEDXVL_RUNS": str(tmp_path / "runs")}
    assert "training radiographs that vote" in smoke.start("", "settings", "neighbours", **where)
    said = smoke.start("task", "notebook", "31_xvl_neighbours", "--preset", "smoke", **where)
    rows = pd.read_csv(tmp_path / "runs/smoke/rows/31_xvl_neighbours.csv", keep_default_na=False)
    assert set(rows.control) == {"", "shuffled images"} and set(rows.task) == {"neighbours"}, said
    planned = smoke.start("", "smoke", "31", "--dry-run", **where)
    assert "31_xvl_neighbours" in planned


def test_a_new_sweep_value_is_a_row(smoke, extended, tmp_path):
    where = {"project": extended, "MEDXVL_RUNS": str(tmp_path)}
    said = smoke.start("sweep", "smoke", "21", "--set", "ablations=no_queue", **where)
    folder = tmp_path / "smoke" / "variants" / "no_queue-seed0" / "checkpoints" / "xvl_pretrain"
    (best,) = folder.glob("epoch-*.safetensors")
    assert store.about(best)["settings"]["queue_size"] == 1, said
