"""Failing notebooks, second starts, several seeds: a small project with notebooks of its own."""

import csv
import json
import sys

import pytest
from launch_project import Project

from medxvl.config import records
from medxvl.pipeline import execute, steps


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
    assert done.stdout.count("not run yet, or its results are gone") == 2 and done.returncode == 0
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


def test_dry_run_says_why(project):
    project.write("02_bad", "print('changed')")
    _, done = project.run("--dry-run", "--set", "bootstrap=50")
    project.write("02_bad", "print('mended')")
    why = {line[:2]: line for line in done.stdout.splitlines() if "would run" in line}
    assert set(why) == {"01", "02", "03"}, done.stdout + done.stderr
    assert "its settings, its data or the code it imports changed" in why["01"]
    assert "its file changed" in why["02"] and "what it needs runs again" in why["03"]
    _, done = project.run("--dry-run", "--force", "04")
    assert "asked for, or its results are gone" in done.stdout
    assert project.run("--dry-run")[1].stdout.count("up to date") == 4


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
    with execute.take_lock(project.folder):
        _, done = project.run("04")
    assert done.returncode == 2 and "another run of the preset smoke is going on" in done.stderr
    assert project.run("--force", "04")[0] == {"04": "done"}


def test_mistyped_parameter_is_an_error(project, monkeypatch):
    path = project.root / "notebooks" / "04_free.ipynb"
    steps.check_parameters(path, {"preset": "smoke"})
    with pytest.raises(
        ValueError, match="no parameter prest: its parameters cell sets preset, overrides, data"
    ):
        steps.check_parameters(path, {"prest": "smoke"})
