"""What run_all.sh calls: options, the graph, failing notebooks, second starts."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
from launch_project import Project

from medxvl import (
    batch,
    data,
    graph,
    html,
    html_index,
    launch,
    notebook,
    paths,
    presets,
    records,
    variants,
)


# --- options --------------------------------------------------------------------------------------
def test_help_needs_no_packages():
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-m", "medxvl.launch", "--help"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    for word in [*presets.NAMES, *graph.NAMES, *data.ROLES, *data.NAMES, "--dry-run", "batch_size"]:
        assert word in answer.stdout


def test_options_are_understood(tmp_path):
    (tmp_path / "x").write_text("")
    given = [
        "smoke",
        "2",
        "--set",
        "seed=1",
        "90",
        "--data",
        f"main=openi:{tmp_path}",
        "--set",
        "epochs=2",
        "--cores",
        "3",
        "--force",
        "--",
        "-n",
    ]
    plan = launch.parse(given)
    assert (plan.preset, plan.overrides, plan.data) == (
        "smoke",
        "seed=1 epochs=2",
        f"main=openi:{tmp_path}",
    )
    assert (launch.parse(["22", "smoke"]).preset, launch.parse(["22", "smoke"]).notebooks) == (
        "smoke",
        ["22_xvl_zero_shot"],
    )
    assert [name[:2] for name in plan.notebooks] == [
        "20",
        "21",
        "22",
        "23",
        "24",
        "25",
        "26",
        "27",
        "28",
        "29",
        "90",
    ]
    assert (plan.cores, plan.force, plan.dry_run, plan.snakemake) == (3, True, False, ["-n"])
    assert launch.parse([]).preset == "demo" and launch.parse(["23"]).notebooks == [
        "23_xvl_unseen_disease"
    ]


@pytest.mark.parametrize("codes, ended", [([0, 0], 0), ([1, 0], 1), ([130], 130)])
def test_several_presets_run_one_after_the_other(codes, ended, monkeypatch):
    """Each with the same notebooks and settings; what one ends with does not stop the other, but a
    stop does.
    """
    ran, left = [], list(codes)

    def run(plan):
        ran.append((plan.preset, plan.notebooks, plan.overrides, plan.snakemake))
        return left.pop(0)

    monkeypatch.setattr(batch, "run", run)
    assert (
        launch.main(["smoke", "demo", "23", "--set", "seeds=0,1", "--", "demo"]) == ended
        and not left
    )
    wanted = (["23_xvl_unseen_disease"], "seeds=0,1", ["demo"])
    assert ran == [("smoke", *wanted), ("demo", *wanted)][: len(ran)]


def test_data_paths_are_the_callers(tmp_path, monkeypatch):
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "x").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("my data", "./my data/", "~/my data"):
        plan = launch.parse(["smoke", "--data", f"main=mimic_cxr:{written}"])
        assert data.sources(presets.load("smoke"), plan.data)["main"].raw == tmp_path / "my data"


def test_a_table_may_be_a_file_and_has_settings(tmp_path, monkeypatch):
    (tmp_path / "my table.csv").write_text("image,report")
    monkeypatch.chdir(tmp_path)
    given = [
        "--data",
        "main=table:my table.csv",
        "--data",
        "main.image_column=image",
        "--data",
        "main.text_column=my report",
    ]
    source = data.sources(presets.load("smoke"), launch.parse(["smoke", *given]).data)["main"]
    assert source.raw == tmp_path / "my table.csv" and not source.synthetic
    assert source.settings == {"image_column": "image", "text_column": "my report"}


@pytest.mark.parametrize(
    "given, said",
    [
        (["dmeo"], "smoke, demo, paper"),
        (["demo", "77"], "21_xvl_pretrain"),
        (["demo", "12_medvil_clasify"], "did you mean 12_medvill_classify"),
        (["verfy"], "did you mean verify"),
        (["--set", "sed=1"], "did you mean seed"),
        (["--set", "seed=one"], "whole number"),
        (["--set", "seed"], "name=value"),
        (["--data", "man=openi:."], "main, unseen_disease, readers, transfer, questions"),
        (["--data", "main=opni:."], "mimic_cxr, openi"),
        (["--data", "main=openi"], "PATH"),
        (["--data", "main=openi:no/such/place"], "there is no folder"),
        (["--data", "main=openi:EMPTY"], "is empty"),
        (["--data", "main=mimic_cxr:EMPTY/../file"], "is a file"),
        (
            ["--data", "main=table:file", "--data", "main.text_column=x", "--data", "main.nope=3"],
            "one of image_column, text_column",
        ),
        (["--data", "main=table:file", "--data", "main.text_colum=x"], "did you mean text_column"),
        (["--data", "main=table:file"], "main.image_column=NAME"),
        (
            ["--data", "main=table:file", "--data", "main.patient_column=who"],
            "main.image_column=NAME",
        ),
        (["--data", "main=openi:.", "--data", "main.max_reject_share=7"], "a share from 0 to 1"),
        (["--data", "main=openi:.", "--data", "main.max_reject_share=much"], "a share from 0 to 1"),
        (["--set", "max_reject_share=7"], "at most 1"),
        (["--data", "main=phantom", "--data", "main.views=PA"], "give main=NAME:PATH too"),
        (
            ["--data", "main=openi:.", "--data", "main.split=a", "--data", "main.split=b"],
            "main.split=... is given 2 times",
        ),
        (["--data", "main=openi:.", "--data", "main=openi:."], "2 times"),
        (["--cores", "0"], "from 1"),
        (["--sett", "seed=1"], "unrecognized"),
        (["paper"], "--data main=NAME:PATH"),
        (["demo", "lab"], "comes first and alone"),
    ],
)
def test_wrong_options(given, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert launch.main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told


@pytest.mark.parametrize("name", data.NAMES)
def test_settings_are_those_that_data_prep_takes(name):
    import data_prep
    from data_prep import prepared

    assert data.settings_of(name) == data_prep.dataset(name).SETTINGS | prepared.SETTINGS


# --- what is gathered -----------------------------------------------------------------------------
def test_a_run_without_rows_has_a_header_and_names_what_did_not_run(tmp_path, monkeypatch):
    from medxvl import collect

    folder = tmp_path / "smoke"
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(paths.NOTEBOOKS / "01_prepare_data.ipynb", folder / "notebooks")
    assert collect.results(folder).read_text() == ",".join(records.COLUMNS) + "\n"
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    page = html.build("smoke").read_text()
    assert (
        page.count("<td>not run</td>") == len(graph.NAMES) - 1
        and "<td>21_xvl_pretrain</td>" in page
    )
    assert '<a href="01_prepare_data.html">' in page and "leaves rows" in page


# --- the graph ------------------------------------------------------------------------------------
def test_graph():
    assert list(graph.NAMES) == sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))
    for row in graph.NOTEBOOKS:
        assert all(graph.NAMES.index(need) < graph.NAMES.index(row.name) for need in row.needs), (
            "a need comes later"
        )
        assert set(row.roles) <= set(data.ROLES)
        assert all(presets.group(presets.load("demo"), group) for group in row.groups), (
            "a group without settings"
        )
    assert [name[:2] for name in graph.with_needs(["90_results_vs_paper"])] == [
        *"10 11 12 13 14 15 21 22 23 24 25 26 27 28 29 90".split()
    ]
    own = presets.load("demo", "vision_weights=own")
    for preset, needed in ((presets.load("demo"), ["21"]), (own, ["20", "21"])):
        steps = variants.needed(["21_xvl_pretrain"], preset)
        assert [step.name[:2] for step in steps] == needed, "self-supervised start, if asked for"
    assert graph.roles(["23_xvl_unseen_disease"]) == ["main", "unseen_disease"]


def test_only_the_roles_in_use_need_data(tmp_path, monkeypatch):
    """With real data alone (preset paper), a notebook that does not read the readers' labels does
    not ask for them.
    """
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x").write_text("")
    given = [
        f"--data=main=mimic_cxr:{tmp_path}/raw",
        f"--data=unseen_disease=covid_cxr:{tmp_path}/raw",
    ]
    with pytest.raises(ValueError, match="--data readers=NAME:PATH"):
        launch.parse(["paper", "22", *given])
    plan = launch.parse(["paper", "23", *given])
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    command = batch.snakemake(plan, tmp_path / "run", tmp_path / "run.json", [])
    files = [f"data/{role}.json" for role in ("main", "unseen_disease")]
    files += [f"notebooks/{name}.ipynb" for name in ("21_xvl_pretrain", "23_xvl_unseen_disease")]
    assert sorted(batch.planned([*command, "--dry-run"])) == files


def test_code_hash_follows_imports(tmp_path, monkeypatch):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        graph._imports_of.cache_clear()

    for name, text in {
        "medxvl/__init__.py": "",
        "medxvl/a.py": "from . import b",
        "medxvl/b.py": "",
        "medxvl/c.py": "",
        "medxvl/tasks/__init__.py": "",
        "medxvl/tasks/t.py": "def f():\n    from ..c import x",
        "data_prep/d.py": "",
    }.items():
        write(name, text)
    cells = [{"cell_type": "code", "source": ["%matplotlib inline\n", "from medxvl import a"]}]
    write("notebooks/n.ipynb", json.dumps({"cells": cells}))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    seen = [graph.code_hash("n")]
    for name, text, changes in [
        ("medxvl/c.py", "1", False),
        ("medxvl/b.py", "1", True),
        ("medxvl/b.py", "import medxvl.tasks.t", True),
        ("medxvl/c.py", "2", True),
        ("data_prep/d.py", "1", False),
        ("medxvl/b.py", "import data_prep", True),
        ("data_prep/d.py", "2", True),
    ]:
        write(name, text)
        seen.append(graph.code_hash("n"))
        assert (seen[-1] != seen[-2]) == changes, name


# --- failing notebooks, second starts: a small project with four notebooks of its own -------------
@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project with space"))


def test_a_failing_notebook_stops_only_what_needs_it(project):
    table, done = project.run(MEDXVL_RUN="first")
    assert table == {"01": "done", "02": "FAILED", "03": "not run", "04": "done"}, (
        done.stdout + done.stderr
    )
    assert (
        done.returncode == 1
        and "FAILED: KeyError: 'no such\\nkey'" in done.stdout
        and "needs 02_bad" in done.stdout
    )
    left = sorted(path.name for path in (project.folder / "notebooks").iterdir())
    assert left == ["01_good.ipynb", "02_bad.failed.ipynb", "04_free.ipynb"]
    record = records.read(project.folder)["02_bad"]
    assert (
        record["status"] == "failed" and record["seconds"] > 0 and "KeyError" in record["details"]
    )
    assert records.read(project.folder)["01_good"]["peak_mb"] > 50
    for page in ("index", "01_good", "02_bad"):
        text = (project.folder / "html" / f"{page}.html").read_text()
        assert "http://" not in text and "https://" not in text and "viewport" in text, (
            "pages must need no network"
        )
    told = json.loads((project.folder / "manifest.json").read_text())
    assert (
        told["notebooks"]["02_bad"]["status"] == "failed"
        and told["versions"]["torch"]
        and told["preset"]["seed"] == 0
    )
    with open(project.folder / "results.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["run"] == "first" and row["manifest"] == told["notebooks"]["01_good"]["manifest"]


def test_notebooks_run_in_this_interpreter_from_the_root(project):
    said = (project.folder / "logs" / "04_free.log").read_text()
    assert said.strip() == f"{sys.executable} {project.root}"


def test_dry_run_tells_and_changes_nothing(project):
    before = {
        path: path.stat().st_mtime_ns
        for path in project.folder.rglob("*")
        if path.is_file() and ".snakemake" not in path.parts
    }
    table, done = project.run("--dry-run")
    assert table == {
        "01": "up to date",
        "02": "would run",
        "03": "would run",
        "04": "up to date",
    }, done.stdout + done.stderr
    assert "what it needs runs again" in done.stdout and done.returncode == 0
    assert before == {
        path: path.stat().st_mtime_ns
        for path in project.folder.rglob("*")
        if path.is_file() and ".snakemake" not in path.parts
    }


def test_second_start_runs_only_what_changed(project):
    project.write("02_bad", "print('mended')")
    table, done = project.run(MEDXVL_RUN="second")
    assert table == {"01": "up to date", "02": "done", "03": "done", "04": "up to date"}, (
        done.stdout + done.stderr
    )
    assert (
        done.returncode == 0 and not (project.folder / "notebooks" / "02_bad.failed.ipynb").exists()
    )
    results = (project.folder / "results.csv").read_bytes()
    table, done = project.run(MEDXVL_RUN="third")
    assert set(table.values()) == {"up to date"}, done.stdout + done.stderr
    assert (project.folder / "results.csv").read_bytes() == results


def test_what_makes_a_notebook_run_again(project):
    table, done = project.run("--set", "bootstrap=50", MEDXVL_RUN="a")
    assert table == {"01": "done", "02": "up to date", "03": "up to date", "04": "up to date"}, (
        "a setting of its groups"
    )
    (project.folder / "rows" / "01_good.csv").unlink()
    (project.root / "medxvl" / "only.py").write_text("changed = True\n")
    table, done = project.run("--set", "bootstrap=50", MEDXVL_RUN="b")
    assert table == {"01": "done", "02": "up to date", "03": "done", "04": "up to date"}, (
        "results gone; code changed"
    )


def test_the_page_of_a_notebook_that_could_not_run_again_is_marked(project):
    project.write("02_bad", "raise KeyError('again')")
    _, done = project.run()
    page = (project.folder / "html" / "index.html").read_text()
    assert "not run: needs 02_bad; the page is of an earlier run" in page, done.stdout
    project.write("02_bad", "print('mended')")
    project.run()
    assert "earlier run" not in (project.folder / "html" / "index.html").read_text()


def test_what_a_partial_run_leaves_behind_is_marked(project):
    _, done = project.run("04", "--set", "bootstrap=60")
    assert "note: 01_good was made with other settings" in done.stdout, done.stdout + done.stderr
    page = (project.folder / "html" / "index.html").read_text()
    assert page.count("older than the latest run") == 1
    _, done = project.run("--set", "bootstrap=60")
    assert (
        "note:" not in done.stdout
        and "older than" not in (project.folder / "html" / "index.html").read_text()
    )


def test_several_seeds_run_side_by_side(project):
    """Each seed leaves its own rows, files and page; the preset's own seed stays where it was."""
    before = (project.folder / "rows" / "01_good.csv").read_bytes()
    table, done = project.run("01", "--set", "bootstrap=60", "--set", "seeds=0,3")
    assert "01_good seed3" in done.stdout and done.stdout.count("up to date") == 1, (
        done.stdout + done.stderr
    )
    assert (project.folder / "rows" / "01_good.csv").read_bytes() == before
    with open(project.folder / "results.csv", newline="") as stream:
        assert sorted(row["seed"] for row in csv.DictReader(stream)) == ["0", "3"]
    told = json.loads((project.folder / "manifest.json").read_text())
    assert told["notebooks"]["01_good seed3"]["inputs"]["settings"]["seed"] == 3
    assert 'href="01_good-seed3.html"' in (project.folder / "html" / "index.html").read_text()
    (project.folder / "variants" / "seed3" / "rows" / "01_good.csv").unlink()
    _, done = project.run("01", "--set", "bootstrap=60", "--set", "seeds=3")
    assert "started  01_good seed3" in done.stdout, "results gone"


def test_two_runs_at_once_are_refused(project, monkeypatch):
    with batch.take_lock(project.folder):
        _, done = project.run("04")
    assert done.returncode == 2 and "another run of the preset smoke is going on" in done.stderr
    assert project.run("--force", "04")[0] == {"04": "done"}


def test_mistyped_parameter_is_an_error(project, monkeypatch):
    path = project.root / "notebooks" / "04_free.ipynb"
    notebook.check_parameters(path, {"preset": "smoke"})
    with pytest.raises(
        ValueError, match="no parameter prest: its parameters cell sets preset, overrides, data"
    ):
        notebook.check_parameters(path, {"prest": "smoke"})


@pytest.mark.parametrize(
    ("synthetic", "told"),
    [
        ((True, True), "Synthetic phantom data"),
        ((True, False), "Not synthetic: two (b)"),
        ((False, False), ""),
    ],
)
def test_the_index_says_which_data_are_synthetic(synthetic, told):
    used = [
        {"role": r, "label": n, "synthetic": s}
        for r, n, s in zip(("one", "two"), "ab", synthetic, strict=True)
    ]
    said = " ".join(html_index.banner(used))
    assert (
        told in said
        and bool(said) == bool(told)
        and ("one (a)" in said) == (synthetic == (True, False))
    )


def test_a_failed_notebook_loses_its_rows(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "22.csv").write_text("run,value\nr1,1\n")
    records.retire_rows(tmp_path, "22")
    assert (
        not (tmp_path / "rows" / "22.csv").exists()
        and (tmp_path / "history" / "r1-22.csv").exists()
    )
