"""A small project for tests of the machinery: a copy of it, with four notebooks of its own."""

import json
import os
import shutil
import subprocess
import sys

from medxvl.config import paths

PARAMETERS = 'preset = "demo"\noverrides = ""\ndata = ""'


class Project:
    """A copy of the machinery with four tiny notebooks: 03 needs 02, which fails; 01 leaves a row;
    04 stands alone.
    """

    def __init__(self, root):
        self.root, self.folder = root, root / "runs" / "smoke"
        for package in ("medxvl", "data_prep"):
            shutil.copytree(
                paths.ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        for file in ("Snakefile", "requirements.txt"):
            shutil.copy(paths.ROOT / file, root)
        with open(root / "medxvl" / "config" / "notebooks.py", "a") as stream:
            stream.write(
                '\nNOTEBOOKS = (Notebook("01_good", groups=("run", "evaluate"), '
                'varies=("seed",)), Notebook("02_bad"), '
                'Notebook("03_after", needs=("02_bad",)), '
                'Notebook("04_free"))\nNAMES = tuple(n.name for n in NOTEBOOKS)\n'
            )
        row = dict(
            paper="p",
            task="t",
            dataset="d",
            split="test",
            subset="",
            model="m",
            metric="AUROC",
            value=0.5,
        )
        self.write(
            "01_good",
            "from medxvl.notebook import runs\n"
            'run = runs.start("01_good", preset, overrides, data)\n'
            f"run.add_rows([{row}])\nrun.finish(rows=1)",
        )
        self.write("02_bad", "x = {}\nx['no such\\nkey']")
        (root / "medxvl" / "only.py").write_text("")
        self.write("03_after", "from medxvl import only\n\nprint(preset)")
        self.write("04_free", "import sys, os\nprint(sys.executable, os.getcwd())")

    def write(self, name, source, parameters=PARAMETERS):
        cells = [
            ("markdown", f"# {name}", {}),
            ("code", parameters, {"tags": ["parameters"]}),
            ("code", source, {}),
        ]
        extra = {"code": {"outputs": [], "execution_count": None}}
        book = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "kernelspec": {"name": "other", "display_name": "other", "language": "python"}
            },
            "cells": [
                {"id": f"c{i}", "cell_type": kind, "source": text, "metadata": meta}
                | extra.get(kind, {})
                for i, (kind, text, meta) in enumerate(cells)
            ],
        }
        (self.root / "notebooks").mkdir(exist_ok=True)
        (self.root / "notebooks" / f"{name}.ipynb").write_text(json.dumps(book))

    def start(self, *arguments, **variables):
        """The finished process of `python -m medxvl.pipeline`."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("MEDXVL")}
        return subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "medxvl.pipeline",
                *arguments,
                "--cores",
                "2",
            ],
            cwd=self.root,
            env=env | {"PYTHONPATH": str(self.root)} | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def verify(self, *notebooks):
        return self.start("verify", "smoke", *notebooks)

    def run(self, *options, **variables):
        """Table of the notebooks' states, and the finished process."""
        done = self.start("smoke", *options, **variables)
        lines = (
            done.stdout.partition("\nnotebook ")[2].splitlines()[2:] or done.stdout.splitlines()[2:]
        )
        table = {}
        for line in lines:
            if line[:2].isdigit():
                name, _, rest = line.partition(" ")
                table[name[:2]] = next(
                    (
                        s
                        for s in ("would run", "up to date", "done", "FAILED", "not run")
                        if s in rest
                    ),
                    rest,
                )
        return table, done
