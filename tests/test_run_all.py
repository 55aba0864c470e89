"""run_all.sh itself: what it answers before it installs, and what it says when it cannot set up."""

import os
import shutil
import stat
import subprocess
import sys

import pytest

from medxvl.config import paths


def checkout(folder, pins="torch==2.13.0\n"):
    """A copy of what run_all.sh needs, in a folder with a space in its name."""
    root = folder / "a checkout"
    root.mkdir()
    shutil.copy(paths.ROOT / "run_all.sh", root)
    shutil.copy(paths.ROOT / "pyproject.toml", root)
    for package in ("medxvl", "data_prep"):
        shutil.copytree(
            paths.ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (root / "requirements.txt").write_text(pins)
    return root


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def start(root, *options, cwd=None, tools=None, **variables):
    """Start run_all.sh with a plain environment; `tools`: a folder that comes first in PATH."""
    path = os.pathsep.join(filter(None, [str(tools or ""), "/usr/local/bin:/usr/bin:/bin"]))
    env = {"PATH": path, "HOME": str(root), "PIP_CONFIG_FILE": os.devnull} | variables
    return subprocess.run(
        ["bash", str(root / "run_all.sh"), *options],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_start_answers_before_it_installs(tmp_path):
    root = checkout(tmp_path)
    helped = start(root, "demo", "--help", cwd=tmp_path, PYTHON=sys.executable)
    assert helped.returncode == 0 and "usage: ./run_all.sh" in helped.stdout, helped.stderr
    wrong = start(root, "dmeo", cwd=tmp_path, PYTHON=sys.executable)
    assert (
        wrong.returncode == 2
        and "error: unknown preset or notebook 'dmeo' (did you mean demo?)" in wrong.stderr
    )
    assert not (root / ".venv").exists()


def test_start_with_old_python(tmp_path):
    root, tools = checkout(tmp_path), tmp_path / "tools"
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python"):
        script(tools / name, "echo 3.9.2; exit 1")
    answer = start(root, tools=tools)
    assert (
        answer.returncode == 1
        and "Python 3.11, 3.12 or 3.13 is needed" in answer.stderr
        and "python3 is 3.9.2" in answer.stderr
    )
    answer = start(root, PYTHON=str(tools / "python3"))
    assert answer.returncode == 1 and "is not Python 3.11, 3.12 or 3.13" in answer.stderr
    script(tmp_path / "env" / "bin" / "python", "echo 3.10.1; exit 1")
    answer = start(root, VIRTUAL_ENV=str(tmp_path / "env"))
    assert (
        answer.returncode == 1
        and "the active virtual environment" in answer.stderr
        and "has Python 3.10.1" in answer.stderr
    )
    answer = start(
        root,
        "--help",
        CONDA_PREFIX=str(tmp_path / "env"),
        CONDA_DEFAULT_ENV="base",
        PYTHON=sys.executable,
    )
    assert answer.returncode == 0, "conda's base must not count as active"


def test_start_without_venv_module(tmp_path):
    root, tools = checkout(tmp_path), tmp_path / "tools"
    script(
        tools / "python3", f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"'
    )
    answer = start(root, "smoke", tools=tools)
    assert (
        answer.returncode == 1
        and "apt install python3-venv" in answer.stderr
        and "Traceback" not in answer.stderr
    )


def test_start_without_disk(tmp_path):
    root, tools = checkout(tmp_path), tmp_path / "tools"
    script(tools / "df", 'echo head; echo "/dev/x 9 8 1024000 99% /"')
    answer = start(root, "smoke", tools=tools, PYTHON=sys.executable)
    assert (
        answer.returncode == 1
        and "no disk space: installing needs 4 GB" in answer.stderr
        and "1000 MB" in answer.stderr
    )


def test_start_without_network(tmp_path):
    """Also: a half-made .venv is made anew, and no stamp is left behind."""
    pytest.importorskip("ensurepip")
    root = checkout(tmp_path, pins="medxvl-needs-the-network==1.0\n")
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").write_text("not a program")
    answer = start(
        root,
        "smoke",
        PYTHON=sys.executable,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="1",
    )
    assert answer.returncode == 1 and answer.stderr.count("error:") == 1
    assert (
        "no network" in answer.stderr
        and str(root / ".venv" / "medxvl-install.log") in answer.stderr
    )
    assert subprocess.run([root / ".venv" / "bin" / "python", "-c", ""]).returncode == 0
    assert not (root / ".venv" / ".medxvl-installed").exists()
