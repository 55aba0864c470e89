"""What would run, and why: Snakemake asked without running anything."""

import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from medxvl.config import notebooks, paths, presets, records, sweeps
from medxvl.config import roles as data_roles
from medxvl.pipeline import cost
from medxvl.pipeline.preparation import step_name


def snakemake(plan: Namespace, folder: Path, config: Path, again: list[str]) -> list[str]:
    """The Snakemake command of a plan, handed on in the file `config`; the notebooks `again` run in
    any case.
    """
    records.write_json(
        config, {"preset": plan.preset, "overrides": plan.overrides, "data": plan.data}
    )
    steps = sweeps.steps(plan.notebooks, presets.load(plan.preset, plan.overrides))
    command = [sys.executable, "-P", "-m", "snakemake", *(step.file for step in steps)]
    command += [
        "--snakefile",
        str(paths.ROOT / "Snakefile"),
        "--directory",
        str(folder),
        "--configfile",
        str(config),
    ]
    written = hashlib.sha256((paths.ROOT / "Snakefile").read_bytes()).hexdigest()[
        :12
    ]  # a cached Snakefile is never looked at again
    command += [
        "--cores",
        str(plan.cores),
        "--runtime-source-cache-path",
        str(folder / ".snakemake" / f"sources-{written}"),
    ]
    command += "--keep-going --rerun-incomplete --rerun-triggers mtime params input".split()
    command += (
        "--scheduler greedy --nocolor --nolock".split()
    )  # take_lock's lock ends with its process, however that ends
    if again:
        command += ["--forcerun", *(f"notebook_{name}" for name in again)]
    return command + plan.snakemake


def stale(folder: Path) -> list[Path]:
    """Files that make Snakemake believe a step is done though its results are gone or its data have
    changed.
    """
    found = []
    for role in data_roles.ROLES:
        marker = folder / "data" / f"{role}.json"
        noted = records.read_json(marker)
        if noted and noted["card"] != (
            records.read_json(Path(noted["folder"]) / "card.json") or {}
        ).get("fingerprint"):
            found.append(marker)
    phantom = folder / "data" / "phantom.json"
    noted = records.read_json(phantom)
    if noted and not Path(noted["raw"]).is_dir():
        found.append(phantom)
    for part in sweeps.folders(folder).values():
        for name in notebooks.NAMES:
            if not all(
                (part / file).exists() for file in records.outputs(part, name).get("files", [])
            ):
                found.append(part / "notebooks" / f"{name}.ipynb")
    return [path for path in found if path.exists()]


def outdated(plan: Namespace, folder: Path, names: list[str], preset) -> list[str]:
    """Notebooks of earlier runs, not among `names`, that this plan's settings, data or code would
    make anew.
    """
    others = sweeps.steps([name for name in notebooks.NAMES if name not in names], preset)
    done = [step for step in others if (folder / step.file).exists()]
    if not done:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        asked = Namespace(
            **vars(plan) | {"notebooks": list(dict.fromkeys(step.name for step in done))}
        )
        try:
            would = planned(snakemake(asked, folder, Path(scratch) / "run.json", []))
        except OSError:
            return []  # not worth failing a finished run
    return [step.label for step in done if step.file in would]


def dry_run(plan: Namespace, folder: Path, wanted: list[sweeps.Step]) -> int:
    """Say what would run and why, changing nothing; for a preset of real data also what is missing,
    time and disk.
    """
    preset = presets.load(plan.preset, plan.overrides)
    lacking = lacks(plan, preset)
    if lacking:
        why = dict.fromkeys((step.file for step in wanted), "not run yet")
    elif (folder / ".snakemake").is_dir():
        gone = [path.stem for path in stale(folder) if path.suffix == ".ipynb"]
        with tempfile.TemporaryDirectory() as scratch:
            again = sorted({*gone, *(plan.notebooks if plan.force else [])})
            command = snakemake(plan, folder, Path(scratch) / "run.json", again)
            why = planned(command, [step.file for step in wanted if step.name in again])
    else:
        why = {step.file: "not run yet" for step in wanted}
    parts = {step_name(role): f"data/{role}.json" for role in ("phantom", *data_roles.ROLES)}
    rows = [[step, "would run", why[file]] for step, file in parts.items() if file in why]
    for step in wanted:
        state = (
            "cannot run"
            if step.name in lacking
            else "would run"
            if step.file in why
            else "up to date"
        )
        rows.append([step.label, state, lacking.get(step.name, why.get(step.file, ""))])
    print(records.table(rows, ["step", "", "why"]))
    if not preset.studies:
        print(cost.report(preset, list(dict.fromkeys(step.name for step in wanted)), plan.data))
    return 0


def lacks(plan: Namespace, preset) -> dict[str, str]:
    """Notebooks, directly or not, without the data that they need: {name: in words}."""
    there, found = data_roles.sources(preset, plan.data), {}
    for name in notebooks.with_needs(plan.notebooks):
        roles = [
            role
            for role in notebooks.roles(notebooks.with_needs([name]), prepared=True)
            if role not in there
        ]
        if roles:
            found[name] = f"needs data: {', '.join(roles)}"
    return found


# State of a file that Snakemake would make, as its summary gives it -> why, as the user reads it.
REASONS = {
    "missing": "not run yet, or its results are gone",
    "params changed": "its settings, its data or the code it imports changed",
    "rule implementation changed": "its settings, its data or the code it imports changed",
    "set of input files changed": "it needs other data or notebooks than before",
    "updated input files": "its file changed",
    "ok": "what it needs runs again",
}


def planned(command: list[str], again: Iterable[str] = ()) -> dict[str, str]:
    """Files that a Snakemake command would make, with the reason, from Snakemake's summary, a table
    with a line for each file. Files in `again` are made in any case.

    Raises OSError when Snakemake cannot plan the run.
    """
    asked = [*command, "--summary"]
    answer = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if answer.returncode:
        raise OSError("Snakemake cannot plan the run:\n" + (answer.stdout + answer.stderr)[-2000:])
    found, lines = {}, answer.stdout.splitlines()
    header = next(k for k, line in enumerate(lines) if line.startswith("output_file\t"))
    for line in csv.DictReader(lines[header:], delimiter="\t"):
        if line["plan"] == "update pending":
            found[line["output_file"]] = REASONS.get(line["status"], line["status"])
    return found | {file: "asked for, or its results are gone" for file in found if file in again}


def shown(path: Path) -> str:
    """A path as the user would type it here."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
