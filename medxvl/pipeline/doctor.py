"""Is everything here? One line a thing, with what to do when it is missing: `python -m
medxvl.pipeline doctor [PRESET]`.
"""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import medxvl
from medxvl.config import paths, presets, roles, threads
from medxvl.pipeline import manifest

# What must be importable; most of the other packages come with these.
IMPORTED = ("torch", "timm", "transformers", "pandas", "h5py", "sklearn", "matplotlib",
            "seaborn", "cv2", "pydicom", "papermill", "ipywidgets")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing looked at. needed: nothing works without it; todo: what to do when it is missing,
    else what to know.
    """

    what: str
    ok: bool
    found: str
    todo: str = ""
    needed: bool = True


def check(preset, data: str = "") -> list[Check]:
    """Look at Python, packages, device, machine and data for a run with the Preset `preset` and the
    data `data`.
    """
    return [*_installation(), *_machine(preset), *_data(preset, data), *_weights(preset)]


def missing(checks: list[Check]) -> list[str]:
    """Names of the needed things that are missing."""
    return [c.what for c in checks if c.needed and not c.ok]


def report(checks: list[Check]) -> str:
    """The checks as a text table: [OK], or [MISSING] with what to do (optional things are marked
    so).
    """
    lines = []
    for c in checks:
        optional = "" if c.ok or c.needed else " (optional)"
        lines.append(f"{'[OK]' if c.ok else '[MISSING]':10}{c.what:24}{c.found}{optional}")
        if c.todo:
            lines.append(f"{'':34}-> {c.todo}" if not c.ok else f"{'':34}{c.todo}")
    return "\n".join(lines)


def _installation() -> Iterator[Check]:
    """Python, the packages, the kernel of notebooks, and what the checkout must hold."""
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    todo = "" if ok else "use Python 3.11, 3.12 or 3.13"
    yield Check("Python", ok, f"{platform.python_version()} at {sys.executable}", todo)

    faults, pinned = [], manifest.required_versions()
    installed = manifest.package_versions()  # many pins are for other systems
    for name, here in installed.items():
        if here.split("+")[0] != pinned[name]:  # torch's CPU build calls itself 2.13.0+cpu
            faults.append(f"{name} {here} instead of {pinned[name]}")
    lacking = []
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception:  # whatever an import may die of
            lacking.append(f"{name} cannot be imported")
    yield Check(
        "packages",
        not lacking and not faults,
        ", ".join(lacking + faults) or f"{len(installed)} as pinned in requirements.txt",
        "run ./run_all.sh, or pip install -r requirements.txt" if lacking or faults else "",
        needed=bool(lacking) or not faults,
    )

    # a notebook must run in this environment, not in some other that is called python3 too
    env = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    here = Path(sys.prefix).resolve()
    ok = not env or here in (Path(env).resolve(), (paths.ROOT / ".venv").resolve())
    ok = ok and Path(__file__).resolve().parent.parent == paths.ROOT / "medxvl"
    yield Check(
        "kernel",
        ok,
        f"{sys.prefix}, medxvl from {paths.ROOT}",
        "" if ok else "choose the environment's own kernel: start JupyterLab with ./run_all.sh lab",
    )

    ok = paths.PAPER_VALUES.is_file()
    found = str(paths.PAPER_VALUES.relative_to(paths.ROOT))
    todo = "" if ok else "the checkout is not whole: clone it again"
    yield Check("published values", ok, found, todo)


def _machine(preset) -> Iterator[Check]:
    """Device, memory and disk."""
    import psutil
    import torch

    cuda = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    todo = "enough for smoke and demo"
    if preset.name == "paper":
        todo = "the published settings take days without a GPU"
    yield Check(
        "device",
        cuda or preset.device != "cuda",
        ", ".join(names) if cuda else f"CPU, {threads.cores()} cores",
        "" if cuda else todo,
    )

    free = psutil.virtual_memory().available / 2**30
    todo = "" if free >= 4 else "close other programs: the demo needs up to 4 GB"
    yield Check("memory", free >= 4, f"{free:.1f} GB available", todo, needed=False)

    for what, folder, variable in (
        ("disk for data", paths.DATA, "MEDXVL_DATA"),
        ("disk for results", paths.RUNS, "MEDXVL_RUNS"),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free, writable = shutil.disk_usage(there).free / 2**30, os.access(there, os.W_OK)
        ok = free >= 2 and writable
        todo = f"free 2 GB, or name another place with the environment variable {variable}"
        found = f"{free:.0f} GB free{'' if writable else ', but not writable'} at {folder}"
        yield Check(what, ok, found, "" if ok else todo)


def _data(preset, data: str) -> list[Check]:
    checks, sources = [], roles.sources(preset, data)
    for role, (_, purpose) in roles.ROLES.items():
        source = sources.get(role)
        todo = f"bring it with --data {role}=NAME:PATH ({purpose})"
        if source is None:
            checks.append(Check(f"data: {role}", False, "none", todo, needed=False))
        elif (source.folder / "card.json").is_file():
            checks.append(
                Check(f"data: {role}", True, f"{source.name}, prepared in {source.folder}")
            )
        elif source.synthetic:
            checks.append(
                Check(
                    f"data: {role}",
                    True,
                    f"{source.name}, synthetic phantom",
                    "notebook 01 makes it",
                )
            )
        else:
            there = source.raw.exists()
            checks.append(
                Check(
                    f"data: {role}",
                    there,
                    f"{source.name} at {source.raw}",
                    "notebook 01 prepares it" if there else todo,
                )
            )
    return checks


def _weights(preset) -> list[Check]:
    """Weights that trainings of this preset start from."""
    from medxvl.weights import convert

    wanted = {
        name: getattr(preset, name)
        for name in presets.group(preset, "pretrain", "medvill")
        if name.endswith("_weights")
    }
    if not any(wanted.values()):
        return [
            Check(
                "weights",
                True,
                "none needed",
                "every model here is trained from scratch; nothing is downloaded",
            )
        ]
    checks = []
    for setting, file in wanted.items():
        if file:
            try:
                checks.append(Check(setting, True, str(convert.locate(file))))
            except FileNotFoundError:
                todo = (
                    f"{convert.where(file)}; put it into {paths.WEIGHTS}, or give its "
                    f"path with --set {setting}=PATH"
                )
                checks.append(Check(setting, False, f"no {file}", todo, needed=False))
    return checks


def main(arguments: list[str]) -> int:
    """Print what is here and what is missing for a preset (default demo); 1 where something is."""
    medxvl.set_up()
    try:
        seen = check(presets.load(arguments[0] if arguments else "demo"))
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(report(seen))
    return 1 if missing(seen) else 0
