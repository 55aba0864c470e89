"""Is everything here? One line a thing, with what to do when it is missing: `python -m
medxvl.pipeline doctor [PRESET]`.
"""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import medxvl
from medxvl.config import paths, presets, roles, threads
from medxvl.pipeline import manifest


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
    return [
        _python(),
        _packages(),
        *_torch(preset),
        _kernel(),
        _memory(),
        *_disk(),
        *_data(preset, data),
        *_weights(preset),
        _paper_values(),
    ]


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


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check(
        "Python",
        ok,
        f"{platform.python_version()} at {sys.executable}",
        "" if ok else "use Python 3.11, 3.12 or 3.13",
    )


def _packages() -> Check:
    faults, count = [], 0
    for name, pinned in manifest.required_versions().items():
        try:
            here = version(name)
        except PackageNotFoundError:
            # many are for other systems; those that matter are seen by importing them below
            continue
        count += 1
        if here.split("+")[0] != pinned:  # torch's CPU build calls itself 2.13.0+cpu
            faults.append(f"{name} {here} instead of {pinned}")
    needs = (
        "torch",
        "timm",
        "transformers",
        "pandas",
        "h5py",
        "sklearn",
        "matplotlib",
        "seaborn",
        "cv2",
        "pydicom",
        "papermill",
        "ipywidgets",
    )
    lacking = [name for name in needs if not _imports(name)]
    found = (
        ", ".join([f"{name} cannot be imported" for name in lacking] + faults)
        or f"{count} as pinned in requirements.txt"
    )
    return Check(
        "packages",
        not lacking and not faults,
        found,
        "run ./run_all.sh, or pip install -r requirements.txt" if lacking or faults else "",
        needed=bool(lacking) or not faults,
    )


def _imports(name: str) -> bool:
    try:
        __import__(name)
    except Exception:  # whatever an import may die of
        return False
    return True


def _torch(preset) -> list[Check]:
    import torch

    cuda = torch.cuda.is_available()
    found = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        if cuda
        else f"CPU, {threads.cores()} cores"
    )
    todo = (
        "" if cuda or preset.name != "paper" else "the published settings take days without a GPU"
    )
    return [
        Check(
            "device",
            cuda or preset.device != "cuda",
            found,
            todo or ("" if cuda else "enough for smoke and demo"),
        )
    ]


def _kernel() -> Check:
    """A notebook must run in this environment, not in some other that is called python3 too."""
    env = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    inside = (
        not env
        or Path(sys.prefix).resolve() == Path(env).resolve()
        or (paths.ROOT / ".venv").resolve() == Path(sys.prefix).resolve()
    )
    here = Path(__file__).resolve().parent.parent == paths.ROOT / "medxvl"
    return Check(
        "kernel",
        inside and here,
        f"{sys.prefix}, medxvl from {paths.ROOT}",
        ""
        if inside and here
        else "choose the environment's own kernel: start JupyterLab with ./run_all.sh lab",
    )


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    return Check(
        "memory",
        free >= 4,
        f"{free:.1f} GB available",
        "" if free >= 4 else "close other programs: the demo needs up to 4 GB",
        needed=False,
    )


def _disk() -> list[Check]:
    checks = []
    for what, folder, variable in (
        ("disk for data", paths.DATA, "MEDXVL_DATA"),
        ("disk for results", paths.RUNS, "MEDXVL_RUNS"),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free, writable = shutil.disk_usage(there).free / 2**30, os.access(there, os.W_OK)
        ok = free >= 2 and writable
        checks.append(
            Check(
                what,
                ok,
                f"{free:.0f} GB free{'' if writable else ', but not writable'} at {folder}",
                ""
                if ok
                else f"free 2 GB, or name another place with the environment variable {variable}",
            )
        )
    return checks


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


def _paper_values() -> Check:
    ok = paths.PAPER_VALUES.is_file()
    return Check(
        "published values",
        ok,
        str(paths.PAPER_VALUES.relative_to(paths.ROOT)),
        "" if ok else "the checkout is not whole: clone it again",
    )


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
