"""Does the same command give the same numbers? Run everything a second time, into a second folder,
and compare every row.

`./run_all.sh verify [PRESET] [PREFIX...]` takes the settings and the data of the run in
runs/<preset>, trains and evaluates anew in runs/verify/<preset>, and compares rows and bootstrap
draws bit for bit. When all agree it writes runs/<preset>/certificate.json. The prepared data are
read again, not made again: their fingerprints are in the certificate. Only the standard library is
imported at the top (see medxvl.launch).
"""

import csv
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from medxvl import paths, presets, records, variants

FOLDER = "verify"  # the second runs folder, in the first
CERTIFICATE = "certificate.json"
SHOWN = 40  # differences printed at most
_NOT_KEY = ("value", "ci_low", "ci_high", "n", "checkpoint", "manifest")


def parse(arguments: list[str]) -> Namespace:
    """Plan (medxvl.launch) of the second run: the notebooks and cores asked for, settings and data
    of the first.

    Raises ValueError for another option, and where there is no first run.
    """
    from medxvl import launch

    options = [
        word for word in arguments if word.startswith("-") and word.partition("=")[0] != "--cores"
    ]
    if options:
        raise ValueError(
            f"verify takes a preset, notebooks and --cores, not {options[0]}: settings and "
            "data are the first run's"
        )
    preset = next((word for word in arguments if word in presets.NAMES), "demo")
    first = records.read_json(paths.RUNS / preset / "manifest.json")
    if first is None:
        raise ValueError(
            f"there is no run in {paths.RUNS / preset} to verify: ./run_all.sh {preset} makes it"
        )
    again = [word for item in shlex.split(first["overrides"]) for word in ("--set", item)]
    again += [word for item in shlex.split(first["data_option"]) for word in ("--data", item)]
    return launch.parse([*arguments, *again])


def run(plan: Namespace) -> int:
    """Verify a plan of `parse`; exit code: 0 all rows agree, 1 some differ or a notebook failed, 2
    not started, 130 stopped.
    """
    from medxvl import collect

    preset = presets.load(plan.preset, plan.overrides)
    first, second = (root / plan.preset for root in (paths.RUNS, paths.RUNS / FOLDER))
    wanted = variants.needed(plan.notebooks, preset)
    steps = [step for step in wanted if (first / step.file).is_file()]
    try:
        if not steps:
            raise ValueError(
                f"none of these notebooks has run in {first}: ./run_all.sh {plan.preset} first"
            )
        if older := _older(plan, first, steps):
            raise ValueError(f"{', '.join(older)} in {first} would run again (other code, "
                             "settings or data): "
                             f"./run_all.sh {plan.preset} first, with the same "
                             "options")  # fmt: skip
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (first / CERTIFICATE).unlink(missing_ok=True)
    shutil.rmtree(second, ignore_errors=True)
    print(f"verify: everything again, into {second}", flush=True)
    code = _again(plan, steps, second.parent)
    if code:
        print("not verified: the second run did not end well", file=sys.stderr)
        return code
    found = differences(first, second, steps)
    count = sum(len(_lines(first, step, "rows")) for step in steps)
    for step, what in found[:SHOWN]:
        print(f"DIFFERS  {step.label}: {what}")
    if found:
        print(
            f"not verified: {len(found)} "
            f"differences{f', {SHOWN} shown' * (len(found) > SHOWN)}, among {count} rows"
        )
        return 1
    told = _certificate(first, second, plan, steps, count, collect)
    records.write_json(first / CERTIFICATE, told)
    skipped = [step.label for step in wanted if step not in steps]
    print(
        f"verified: {count} rows of {len(steps)} notebooks are the same, bit for bit (rows "
        f"hash {told['rows_sha256'][:12]})"
    )
    if skipped:
        print(f"note: not covered, as the first run does not have them: {', '.join(skipped)}")
    print(f"certificate  {first / CERTIFICATE}")
    return 0


def certificate(folder: Path) -> dict | None:
    """The certificate in a run folder; None where there is none, or the rows are no longer those
    that it speaks of.
    """
    told = records.read_json(folder / CERTIFICATE)
    return (
        told
        if told
        and rows_hash(folder, [variants.Step(*pair) for pair in told["steps"]])
        == told["rows_sha256"]
        else None
    )


def differences(
    first: Path, second: Path, steps: list[variants.Step]
) -> list[tuple[variants.Step, str]]:
    """What differs between the rows and draws of two run folders, in words, a row each; the run's
    name does not count.
    """
    found = []
    for step in steps:
        for kind in ("rows", "draws"):
            one, two = (_lines(folder, step, kind) for folder in (first, second))
            if one == two:
                continue
            keyed = [{_key(line): line for line in lines} for lines in (one, two)]
            before = len(found)
            for key in dict.fromkeys([*keyed[0], *keyed[1]]):
                a, b = keyed[0].get(key), keyed[1].get(key)
                if a != b:
                    found.append(
                        (step, f"{kind[:-1]} {' '.join(filter(None, key))}: {_told(a, b)}")
                    )
            if len(found) == before:
                found.append((step, f"{kind}: the same lines in another order or number"))
    return found


def rows_hash(folder: Path, steps: list[variants.Step]) -> str:
    """SHA-256 over the rows and draws of `steps`, the run's name left out."""
    digest = hashlib.sha256()
    for step in steps:
        for kind in ("rows", "draws"):
            digest.update(repr((step.label, kind, _lines(folder, step, kind))).encode())
    return digest.hexdigest()


def _lines(folder: Path, step: variants.Step, kind: str) -> list[dict]:
    """Rows or draws that a notebook left, as {column: text} without the run's name; [] where it
    leaves none.
    """
    path = folder / variants.prefix(step.variant) / kind / f"{step.name}.csv"
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return [
            {column: cell for column, cell in line.items() if column != "run"}
            for line in csv.DictReader(stream)
        ]


def _key(line: dict) -> tuple:
    return tuple(cell for column, cell in line.items() if column not in _NOT_KEY)


def _told(a: dict | None, b: dict | None) -> str:
    if a is None or b is None:
        return f"only in the {'second' if a is None else 'first'} run"
    return ", ".join(
        f"{column} {a[column] or 'empty'} -> {b[column] or 'empty'}"
        for column in a
        if a[column] != b[column]
    )


def _older(plan: Namespace, first: Path, steps: list[variants.Step]) -> list[str]:
    """Steps of the first run that the same command would make anew now: their rows are not of this
    code.
    """
    from medxvl import batch

    asked = Namespace(
        **vars(plan) | {"notebooks": list(dict.fromkeys(step.name for step in steps))}
    )
    with tempfile.TemporaryDirectory() as scratch:
        would = batch.planned(
            [*batch.snakemake(asked, first, Path(scratch) / "run.json", []), "--dry-run"]
        )
    gone = {path for path in batch.stale(first)}
    return [step.label for step in steps if step.file in would or first / step.file in gone]


def _again(plan: Namespace, steps: list[variants.Step], runs: Path) -> int:
    """Exit code of the same command with `runs` as its runs folder."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "medxvl.launch",
        plan.preset,
        *dict.fromkeys(step.name for step in steps),
    ]
    command += [word for item in shlex.split(plan.overrides) for word in ("--set", item)]
    command += [word for item in shlex.split(plan.data) for word in ("--data", item)]
    child = subprocess.Popen(
        [*command, "--cores", str(plan.cores)], env=os.environ | {"MEDXVL_RUNS": str(runs)}
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child got it as well, and ends what it had started
            pass


def _certificate(
    first: Path, second: Path, plan: Namespace, steps: list, count: int, collect
) -> dict:
    once, twice = (records.read_json(folder / "manifest.json") for folder in (first, second))
    return {
        "says": "Run twice on one machine, every row and bootstrap draw below came out the "
                "same, bit for bit.",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [once["run"], twice["run"]],
        "medxvl": twice["medxvl"],
        "git": collect.git_state(),
        "preset": plan.preset,
        "overrides": plan.overrides,
        "data_option": plan.data,
        "data": {role: {key: card.get(key) for key in ("label", "synthetic", "fingerprint")}
                 for role, card in twice["data"].items() if "fingerprint" in card},
        "environment": {"versions": twice["versions"], "machine": twice["machine"]},
        "rows": count,
        "rows_sha256": rows_hash(first, steps),
        "steps": [[step.name, step.variant] for step in steps],
    }  # fmt: skip
