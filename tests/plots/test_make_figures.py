"""figures/make.py: what has its inputs is drawn, from anywhere."""

import importlib.util
import subprocess
import sys

import pytest

from medxvl.config import paths
from medxvl.plots import index

pytestmark = pytest.mark.usefixtures("closed_figures")


def make():
    """figures/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make", paths.FIGURES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_draws_what_has_its_inputs(run_folder, tmp_path, capsys):
    (run_folder / "predictions" / "unseen_disease.csv").unlink()
    assert make().main(["--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "xvl-covid: not drawn" in said and "23_xvl_unseen_disease" in said
    made = {p.stem for p in (tmp_path / "out").iterdir()}
    assert made == set(index.DRAW) - {"xvl-covid"}


def test_make_default_folder_and_errors(run_folder, capsys):
    assert make().main(["xvl-radar-f1"]) == 0
    assert (run_folder / "figures" / "xvl-radar-f1.pdf").is_file()
    (run_folder / "predictions" / "unseen_disease.csv").unlink()
    for arguments, message in (
        (["xvl-covid"], "error: xvl-covid: runs/demo has no predictions/unseen_disease.csv"),
        (["xvl-pie"], "error: unknown figure xvl-pie: expected some of xvl-overview"),
        (["xvl-abdominal"], "error: xvl-abdominal is not drawn: not reproducible"),
    ):
        capsys.readouterr()
        assert make().main(arguments) == 2
        assert capsys.readouterr().err.startswith(message)
    assert make().main(["--list"]) == 0
    assert "xvl-abdominal" in capsys.readouterr().out


def test_make_runs_from_anywhere(tmp_path):
    command = [sys.executable, str(paths.FIGURES / "make.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--preset" in done.stdout
