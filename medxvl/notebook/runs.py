"""A run as a notebook sees it: settings, seed, device, data, and the rows and figures that it
leaves behind.
"""

import csv
import hashlib
import io
import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from medxvl.config import (
    consistency,
    fingerprints,
    notebooks,
    presets,
    records,
    roles,
    sweeps,
    threads,
)
from medxvl.data import dataset as datasets
from medxvl.evaluation import results
from medxvl.training import seeds

COLUMNS = records.COLUMNS
NEEDED = ("paper", "task", "dataset", "split", "subset", "model", "metric", "value")
OPTIONAL = ("ci_low", "ci_high", "n", "control", "checkpoint")


def start(notebook: str, preset: str = "demo", overrides: str = "", data: str = "") -> "Run":
    """Begin the run of a notebook: load the settings, seed every generator, set the threads, say
    what runs where.

    `overrides` such as ``"seed=1 epochs=3"``; `data` such as ``"main=mimic_cxr:/path"``. Raises
    ValueError for an unknown name, for settings that do not go together, and for a device that is
    not there.
    """
    settings = presets.load(preset, overrides)
    consistency.check(settings)
    run = Run(notebook, settings, data)
    seeds.seed_everything(run.preset.seed)
    count = run.threads
    torch.set_num_threads(count)
    threadpool_limits(count)
    rows = [
        ["notebook", notebook],
        ["preset", f"{preset} {overrides}".strip()],
        ["device", f"{run.device}, {count} thread{'s' * (count > 1)}"],
        [
            "versions",
            f"Python {platform.python_version()}, "
            + ", ".join(f"{n} {version(n)}" for n in _VERSIONS),
        ],
    ]
    rows += [
        [f"data: {role}", f"{s.name} at {s.raw}" + " (synthetic phantom)" * s.synthetic]
        for role, s in run.sources.items()
    ]
    print("\n".join(f"{name:22}{value}" for name, value in rows))
    return run


_VERSIONS = ("torch", "timm", "transformers", "numpy")


class Run:
    """One run of one notebook; made by `start`.

    notebook, preset, device (torch.device), sources (role -> Source), folder (runs/<preset>, or
    that of a variant), and in it the folders checkpoints, predictions and figures.
    """

    def __init__(self, notebook: str, preset, data: str = ""):
        self.notebook = notebooks.notebook(notebook).name
        self.preset = preset
        self.device = _device(preset.device)
        variant = os.environ.get(sweeps.ENVIRONMENT, "")
        self.threads = threads.threads(self.notebook, preset, variant)
        self.folder = sweeps.run_folder(preset.name)
        self.checkpoints = self.folder / "checkpoints"
        self.predictions = self.folder / "predictions"
        self.figures = self.folder / "figures"
        known = roles.sources(preset, data)
        self.sources = {
            role: known[role] for role in notebooks.notebook(notebook).roles if role in known
        }
        self._datasets = {}
        self._rows, self._draws = [], []
        self._saved = []
        for part in (self.checkpoints, self.predictions, self.figures):
            part.mkdir(parents=True, exist_ok=True)

    def dataset(self, role: str):
        """Data of a role as a `medxvl.data.dataset.Dataset`, prepared first where they are not
        yet.
        """
        if role not in self.sources:
            raise ValueError(
                f"{self.notebook} has no data for the role {role!r}, but for "
                f"{', '.join(self.sources) or 'none'}: "
                f"bring your own with --data {role}=NAME:PATH"
            )
        if role not in self._datasets:
            roles.prepare(self.sources[role], self.preset, threads.cores())
            self._datasets[role] = datasets.Dataset(self.sources[role].folder)
        return self._datasets[role]

    def add_rows(self, rows: list[dict]) -> None:
        """Add results: dictionaries with the keys in NEEDED, and any in OPTIONAL; raises ValueError
        for another key.

        run, seed, preset and manifest are filled in by `finish`. "draws" (r,), the row's bootstrap
        values, may stand there, too: the first results.DRAWS are kept beside the rows.
        """
        for row in rows:
            row = dict(row)
            drawn = row.pop("draws", None)
            unknown = sorted(set(row) - set(NEEDED) - set(OPTIONAL))
            missing = [key for key in NEEDED if key not in row]
            if unknown or missing:
                raise ValueError(
                    f"a row of results has unknown keys {unknown} and lacks {missing}: "
                    f"expected {', '.join(NEEDED)} and optionally {', '.join(OPTIONAL)}"
                )
            self._rows.append(row)
            if drawn is not None:
                key = [row.get(c, "") if c != "seed" else self.preset.seed for c in results.KEY]
                self._draws += [
                    [*key, number, value] for number, value in enumerate(drawn[: results.DRAWS])
                ]

    def save_figure(self, fig, name: str) -> None:
        """Write a figure to runs/<preset>/figures: PDF (vector, with fonts) and PNG (200 dpi), same
        bytes each time.

        The figure stays open: the notebook shows it once, at the end of the cell.
        """
        if not name or Path(name).name != name or Path(name).suffix in (".pdf", ".png"):
            raise ValueError(
                f"figure name {name!r}: expected a plain name without folder and extension"
            )
        from medxvl.plots import style

        style.save(fig, self.figures / name)
        self._saved.append(name)

    def save_rows(self) -> str:
        """Write the rows added so far, for a figure that reads them; gives the manifest's hash.
        `finish` does it too.
        """
        manifest = hashlib.sha256(json.dumps(self.inputs(), sort_keys=True).encode()).hexdigest()[
            :12
        ]
        if not self._rows:
            return manifest
        fixed = {
            "run": records.run_id(),
            "seed": self.preset.seed,
            "preset": self.preset.name,
            "manifest": manifest,
        }
        lines = [[_text((row | fixed).get(column)) for column in COLUMNS] for row in self._rows]
        path = self.folder / "rows" / f"{self.notebook}.csv"
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as stream:
                old = list(csv.reader(stream))[1:]
            if old and [line[1:] for line in old] != [
                line[1:] for line in lines
            ]:  # the run's name apart
                (self.folder / "history").mkdir(exist_ok=True)
                os.replace(path, self.folder / "history" / f"{old[0][0]}-{self.notebook}.csv")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
        records.write_text(path, text.getvalue())
        if self._draws:
            text = io.StringIO()
            lines = [[_text(cell) for cell in line] for line in self._draws]
            csv.writer(text, lineterminator="\n").writerows(
                [[*results.KEY, "draw", "value"], *lines]
            )
            records.write_text(self.folder / "draws" / f"{self.notebook}.csv", text.getvalue())
        return manifest

    def finish(self, rows: int | list = 0, figures: list[str] = (), files: list = ()) -> None:
        """Write the rows and check what the notebook promised; prints the list, RuntimeError when
        something is missing.

        rows: at least this many, or a list of (task, metric) that must all be there with a finite
        value. figures: names given to `save_figure`. files: paths, absolute or in the run's folder,
        that must exist and not be empty.
        """
        checks = []
        if isinstance(rows, int) and len(self._rows) < rows:
            fault = f"{len(self._rows)} rows, at least {rows} were promised"
            checks.append(("rows of results", fault))
        elif rows and isinstance(rows, int):
            checks.append(self._check_rows("results", self._rows))
        elif isinstance(rows, int):
            checks.append((f"{len(self._rows)} rows of results", ""))
        else:
            for task, metric in rows:
                own = [r for r in self._rows if r["task"] == task and r["metric"] == metric]
                checks.append(self._check_rows(f"{task}, {metric}", own))
        for name in figures:
            fault = "" if name in self._saved else "was not saved in this run"
            checks.append((f"figure {name}", fault))
        for path in [self.folder / file for file in files]:
            there = path.is_dir() and any(path.iterdir())
            there = there or path.is_file() and path.stat().st_size > 0
            checks.append((f"file {path.name}", "" if there else f"missing or empty at {path}"))
        for what, fault in checks:
            print(f"[MISSING] {what}: {fault}" if fault else f"[OK]      {what}")
        faults = [f"{what}: {fault}" for what, fault in checks if fault]
        if faults:
            raise RuntimeError("the notebook did not leave what it promised: " + "; ".join(faults))
        inputs, manifest = self.inputs(), self.save_rows()
        made = [
            f"figures/{name}{suffix}"
            for name in dict.fromkeys(self._saved)
            for suffix in (".pdf", ".png")
        ]
        made += [os.path.relpath(self.folder / file, self.folder) for file in files]
        if self._rows:
            made += [f"rows/{self.notebook}.csv"] + [f"draws/{self.notebook}.csv"] * bool(
                self._draws
            )
        else:
            records.retire_rows(self.folder, self.notebook)
        records.write_json(
            self.folder / "records" / f"{self.notebook}.outputs.json",
            {"manifest": manifest, "inputs": inputs, "files": made},
        )

    def inputs(self) -> dict:
        """What decides on the rows: settings, data opened, code, versions. Its hash is the column
        `manifest`.
        """
        groups, prompts = notebooks.notebook(self.notebook).groups, {}
        if self.preset.prompts and "prompts" in groups:
            content = Path(self.preset.prompts).read_bytes()
            prompts["prompts"] = hashlib.sha256(content).hexdigest()[:12]
        return {
            "notebook": self.notebook,
            "settings": presets.group(self.preset, *groups),
            "data": {role: [d.label, d.fingerprint] for role, d in sorted(self._datasets.items())},
            "code": fingerprints.notebook_code(self.notebook),
            "threads": self.threads,
            **prompts,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _VERSIONS},
        }

    def _check_rows(self, what: str, rows: list[dict]) -> tuple[str, str]:
        """What was looked at, and what is wrong with it: rows without a finite value."""
        values = [row["value"] for row in rows]
        finite = any(value is not None and math.isfinite(float(value)) for value in values)
        fault = "" if finite else "no row has a finite value" if rows else "no such row"
        return f"{len(rows)} rows of {what}", fault


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda", "auto"):
        raise ValueError(f"setting device={name!r}: expected cpu, cuda or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "setting device=cuda, but torch finds no CUDA device: use device=cpu, or install "
            "a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _text(value) -> str:
    """Cell of the CSV: shortest form that reads back as the same number; "" for None and NaN."""
    if value is None or isinstance(value, (float, np.floating)) and math.isnan(value):
        return ""
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(value)
