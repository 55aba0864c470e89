"""Gather what the notebooks left: runs/<preset>/results.csv and manifest.json."""

import csv
import hashlib
import io
import os
import platform
import re
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medxvl import __version__
from medxvl.config import notebooks as notebook_table
from medxvl.config import paths, records, roles, sweeps, threads


def results(folder: Path) -> Path:
    """Write results.csv: the rows of every notebook and variant below one header, in the notebooks'
    order; its path.

    Where no notebook left rows, the header stands alone.
    """
    lines = []
    for path in [
        part / "rows" / f"{name}.csv"
        for part in sweeps.folders(folder).values()
        for name in notebook_table.NAMES
    ]:
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as stream:
                lines += list(csv.reader(stream))[1:]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([records.COLUMNS, *lines])
    records.write_text(folder / "results.csv", text.getvalue())
    return folder / "results.csv"


def manifest(folder: Path, preset, overrides: str, data: str) -> Path:
    """Write manifest.json: what the numbers in results.csv were made with; its path.

    `inputs` of a notebook are hashed into the column `manifest` of its rows
    (medxvl.notebook.runs.Run.inputs).
    """
    path = folder / "manifest.json"
    before = records.read_json(path) or {}
    done = records.read(folder)
    notebooks = {}
    for variant, part in sweeps.folders(folder).items():
        for name, record in records.read(part).items():
            if name in notebook_table.NAMES:
                kept = {
                    key: record.get(key) for key in ("status", "run", "seconds", "peak_mb", "error")
                }
                kept |= {k: v for k, v in records.outputs(part, name).items() if k != "files"}
                notebooks[sweeps.Step(name, variant).label] = kept
    records.write_json(
        path,
        {
            "run": records.run_id(),
            "medxvl": __version__,
            "git": git_state(),
            "preset": asdict(preset),
            "overrides": overrides,
            "data_option": data,
            "seed": preset.seed,
            "data": {
                role: card
                for role in ("phantom", *roles.ROLES)
                if (card := records.read_json(folder / "data" / f"{role}.json"))
            },
            "checkpoints": checkpoint_hashes(folder, before.get("checkpoints", {})),
            "notebooks": notebooks,
            "preparation": {
                step: {k: r.get(k) for k in ("status", "seconds", "error")}
                for step, r in done.items()
                if step not in notebook_table.NAMES
            },
            "versions": {"python": platform.python_version()} | package_versions(),
            "machine": machine(),
        },
    )
    return path


def git_state() -> dict | None:
    """Commit of the checkout, and whether tracked files differ from it; None without git."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(paths.ROOT), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != paths.ROOT:
            return None  # unpacked inside somebody else's repository
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def checkpoint_hashes(folder: Path, before: dict) -> dict:
    """SHA-256 of every *.safetensors; a file whose size and time are those in `before` is not read
    again.
    """
    found = {}
    parts = sweeps.folders(folder).values()
    for path in [
        file for part in parts for file in sorted((part / "checkpoints").rglob("*.safetensors"))
    ]:
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        mark = {"bytes": stat.st_size, "time": round(stat.st_mtime, 3)}
        old = before.get(name, {})
        if {key: old.get(key) for key in mark} == mark:
            found[name] = old
        else:
            with open(path, "rb") as stream:
                found[name] = {"sha256": hashlib.file_digest(stream, "sha256").hexdigest()} | mark
    return found


def package_versions() -> dict:
    """Installed version of every package that requirements.txt names."""
    found = {}
    for name in required_versions():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass  # not for this system
    return found


def required_versions() -> dict[str, str]:
    """requirements.txt as {name: version}, the lines for other systems too."""
    lines = (paths.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {
        found[1]: found[2] for line in lines if (found := re.match(r"([\w.-]+)==([^\s;]+)", line))
    }


def machine() -> dict:
    """System, processor, cores, memory and accelerators of the machine that gathers."""
    pages = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    )
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20
        ).stdout.splitlines()
        gpus = [re.sub(r" \(UUID.*", "", line) for line in listed]
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": threads.cores(),
        "memory_gb": round(pages / 2**30, 1),
        "accelerators": gpus,
    }


CERTIFICATE = "certificate.json"


def certificate(folder: Path) -> dict | None:
    """The certificate in a run folder; None where there is none, or the rows are no longer those
    that it speaks of.
    """
    told = records.read_json(folder / CERTIFICATE)
    return (
        told
        if told
        and rows_hash(folder, [sweeps.Step(*pair) for pair in told["steps"]]) == told["rows_sha256"]
        else None
    )


def rows_hash(folder: Path, steps: list[sweeps.Step]) -> str:
    """SHA-256 over the rows and draws of `steps`, the run's name left out."""
    digest = hashlib.sha256()
    for step in steps:
        for kind in ("rows", "draws"):
            digest.update(repr((step.label, kind, rows_of(folder, step, kind))).encode())
    return digest.hexdigest()


def rows_of(folder: Path, step: sweeps.Step, kind: str) -> list[dict]:
    """Rows or draws that a notebook left, as {column: text} without the run's name; [] where it
    leaves none.
    """
    path = folder / sweeps.prefix(step.variant) / kind / f"{step.name}.csv"
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return [
            {column: cell for column, cell in line.items() if column != "run"}
            for line in csv.DictReader(stream)
        ]
