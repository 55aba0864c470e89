"""Run All in JupyterLab, in a real browser: for the tests, and by hand for every notebook.

    python tests/helpers/lab.py [PREFIX...]   one line a notebook; exit code 1 when a cell failed

A copy of the checkout is opened with `run_all.sh lab`'s own command, so that nothing is saved into
this one. Each notebook is opened by its address, its parameters cell is set to the preset `smoke`,
and the menu's Run All is asked for.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
from browser import Browser, Page  # noqa: E402

from medxvl.config import notebooks  # noqa: E402

PANEL = (
    "[...jupyterapp.shell.widgets('main')].find(w => w.context && "
    "w.context.path.endsWith('{name}.ipynb'))"
)
CELLS = """(panel => panel && panel.content.widgets.filter(c => c.model.type === 'code')
    .map(c => ({{
    count: c.model.executionCount, source: c.model.sharedModel.source,
    outputs: c.model.outputs.toJSON().map(o => o.output_type === 'error' ?
        o.ename + ': ' + o.evalue : ''),
    views: c.model.outputs.toJSON().filter(o => o.data &&
        o.data['application/vnd.jupyter.widget-view+json']).length,
    shown: c.node.querySelectorAll('.jupyter-widgets').length}})))({panel})"""


class Lab:
    """JupyterLab on a copy of the checkout in `folder`; `run(page, name)` runs a notebook there."""

    def __init__(self, folder: Path):
        self.root = folder / "checkout"
        for part in ("medxvl", "data_prep", "notebooks", "figures"):
            shutil.copytree(
                ROOT / part, self.root / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        for file in ("Snakefile", "requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / file, self.root)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = [
            "--no-browser",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=t",
        ]
        options += [
            "--ServerApp.allow_root=True",
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.news_url=",
        ]
        told = {
            "PYTHONPATH": str(self.root),
            "HOME": str(folder),
            "MEDXVL_RUNS": str(folder / "runs"),
        }
        told |= {
            "MEDXVL_DATA": str(folder / "data"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        }
        with open(folder / "lab.log", "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "medxvl.pipeline", "lab", *options],
                cwd=self.root,
                env=os.environ | told,
                stdout=log,
                stderr=log,
            )
        deadline = time.time() + 180
        while not self._answers():
            if time.time() > deadline or self.process.poll() is not None:
                raise RuntimeError(
                    "JupyterLab did not start: " + (folder / "lab.log").read_text()[-2000:]
                )
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            return (
                urllib.request.urlopen(
                    f"http://127.0.0.1:{self.port}/api?token=t", timeout=5
                ).status
                == 200
            )
        except OSError:
            return False

    def run(self, page: Page, name: str, seconds: float = 600) -> list[dict]:
        """Open the notebook `name`, set preset smoke, Run All; its code cells as CELLS tells.
        TimeoutError.
        """
        panel = PANEL.format(name=name)
        page.open(f"http://127.0.0.1:{self.port}/lab/tree/notebooks/{name}.ipynb?token=t&reset")
        page.wait(f"!!(window.jupyterapp && {panel} && {panel}.context.isReady)", 180)
        page.run(f"{panel}.sessionContext.ready.then(() => 0)")
        page.wait(
            f"!!({panel}.sessionContext.session && {panel}.sessionContext.session.kernel)", 120
        )
        page.run(f"(() => {{ const c = {panel}.content.widgets.find(c => c.model.type === "
                 "'code').model.sharedModel;"
                 " c.setSource(c.source.replace('\"demo\"', '\"smoke\"')) })()")  # fmt: skip
        page.run("(() => { jupyterapp.commands.execute('notebook:run-all-cells') })()")
        cells, deadline = [], time.time() + seconds
        while time.time() < deadline:
            time.sleep(0.5)
            cells = page.run(CELLS.format(panel=panel))
            if any(any(cell["outputs"]) for cell in cells) or all(
                cell["count"] for cell in cells if cell["source"].strip()
            ):
                page.run(f"{panel}.context.save().then(() => 0)")
                return cells
        raise TimeoutError(
            f"{name}: {sum(bool(c['count']) for c in cells)} of {len(cells)} cells in {seconds:g} s"
        )

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def main(prefixes: list[str]) -> int:
    folder, failed = Path(tempfile.mkdtemp(prefix="medxvl-lab-")), False
    lab, browser = Lab(folder), Browser(folder / "chromium")
    try:
        for name in notebooks.select(prefixes):
            began, page = time.time(), browser.page()
            try:
                cells = lab.run(page, name)
                errors = [text for cell in cells for text in cell["outputs"] if text]
                widgets = sum(cell["views"] for cell in cells)
                hidden = sum(cell["views"] > 0 and not cell["shown"] for cell in cells)
                errors += [f"{hidden} widgets are not shown"] * bool(hidden)
            except (TimeoutError, RuntimeError) as error:
                cells, errors, widgets = [], [str(error)], 0
            failed |= bool(errors)
            print(
                json.dumps(
                    {
                        "notebook": name,
                        "cells": len(cells),
                        "widgets": widgets,
                        "seconds": round(time.time() - began),
                        "errors": errors,
                        "console": page.problems[:3],
                    }
                ),
                flush=True,
            )
            page.screenshot(folder / f"{name}.png")
            page.ask("Page.close")
        print(f"screenshots and executed notebooks: {folder}")
    finally:
        browser.close()
        lab.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
