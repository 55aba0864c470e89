"""Does the same command give the same numbers? Run everything a second time, into a second folder,
and compare every row.

`./run_all.sh verify [PRESET] [PREFIX...]` takes the settings and the data of the run in
runs/<preset>, trains and evaluates anew in runs/verify/<preset>, and compares rows and bootstrap
draws bit for bit. When all agree it writes runs/<preset>/certificate.json. The prepared data are
read again, not made again: their fingerprints are in the certificate.
"""

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

from medxvl.config import paths, presets, records, sweeps
from medxvl.pipeline import manifest, planning

FOLDER = "verify"  # the second runs folder, in the first
SHOWN = 40  # differences printed at most
_NOT_KEY = ("value", "ci_low", "ci_high", "n", "checkpoint", "manifest")


def run(plan: Namespace) -> int:
    """Verify a plan of `parse`; exit code: 0 all rows agree, 1 some differ or a notebook failed, 2
    not started, 130 stopped.
    """
    preset = presets.load(plan.preset, plan.overrides)
    first, second = (root / plan.preset for root in (paths.RUNS, paths.RUNS / FOLDER))
    wanted = sweeps.needed(plan.notebooks, preset)
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
    (first / manifest.CERTIFICATE).unlink(missing_ok=True)
    shutil.rmtree(second, ignore_errors=True)
    print(f"verify: everything again, into {second}", flush=True)
    code = _again(plan, steps, second.parent)
    if code:
        print("not verified: the second run did not end well", file=sys.stderr)
        return code
    found = differences(first, second, steps)
    count = sum(len(manifest.rows_of(first, step, "rows")) for step in steps)
    for step, what in found[:SHOWN]:
        print(f"DIFFERS  {step.label}: {what}")
    if found:
        print(
            f"not verified: {len(found)} "
            f"differences{f', {SHOWN} shown' * (len(found) > SHOWN)}, among {count} rows"
        )
        return 1
    told = _certificate(first, second, plan, steps, count)
    records.write_json(first / manifest.CERTIFICATE, told)
    skipped = [step.label for step in wanted if step not in steps]
    print(
        f"verified: {count} rows of {len(steps)} notebooks are the same, bit for bit (rows "
        f"hash {told['rows_sha256'][:12]})"
    )
    if skipped:
        print(f"note: not covered, as the first run does not have them: {', '.join(skipped)}")
    print(f"certificate  {first / manifest.CERTIFICATE}")
    return 0


def differences(
    first: Path, second: Path, steps: list[sweeps.Step]
) -> list[tuple[sweeps.Step, str]]:
    """What differs between the rows and draws of two run folders, in words, a row each; the run's
    name does not count.
    """
    found = []
    for step in steps:
        for kind in ("rows", "draws"):
            one, two = (manifest.rows_of(folder, step, kind) for folder in (first, second))
            if one == two:
                continue
            columns = [column for column in (one or two)[0] if column not in _NOT_KEY]
            first_by, second_by = (
                {tuple(line.get(column, "") for column in columns): line for line in lines}
                for lines in (one, two)
            )
            before = len(found)
            for key in first_by | second_by:
                a, b = first_by.get(key), second_by.get(key)
                if a != b:
                    found.append(
                        (step, f"{kind[:-1]} {' '.join(filter(None, key))}: {_told(a, b)}")
                    )
            if len(found) == before:
                found.append((step, f"{kind}: the same lines in another order or number"))
    return found


def _told(a: dict | None, b: dict | None) -> str:
    if a is None or b is None:
        return f"only in the {'second' if a is None else 'first'} run"
    return ", ".join(
        f"{column} {a[column] or 'empty'} -> {b[column] or 'empty'}"
        for column in a
        if a[column] != b[column]
    )


def _older(plan: Namespace, first: Path, steps: list[sweeps.Step]) -> list[str]:
    """Steps of the first run that the same command would make anew now: their rows are not of this
    code.
    """

    asked = Namespace(
        **vars(plan) | {"notebooks": list(dict.fromkeys(step.name for step in steps))}
    )
    with tempfile.TemporaryDirectory() as scratch:
        would = planning.planned(planning.snakemake(asked, first, Path(scratch) / "run.json", []))
    gone = {path for path in planning.stale(first)}
    return [step.label for step in steps if step.file in would or first / step.file in gone]


def _again(plan: Namespace, steps: list[sweeps.Step], runs: Path) -> int:
    """Exit code of the same command with `runs` as its runs folder."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "medxvl.pipeline",
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


def _certificate(first: Path, second: Path, plan: Namespace, steps: list, count: int) -> dict:
    once, twice = (records.read_json(folder / "manifest.json") for folder in (first, second))
    return {
        "says": "Run twice on one machine, every row and bootstrap draw below came out the "
                "same, bit for bit.",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [once["run"], twice["run"]],
        "medxvl": twice["medxvl"],
        "git": manifest.git_state(),
        "preset": plan.preset,
        "overrides": plan.overrides,
        "data_option": plan.data,
        "data": {role: {key: card.get(key) for key in ("label", "synthetic", "fingerprint")}
                 for role, card in twice["data"].items() if "fingerprint" in card},
        "environment": {"versions": twice["versions"], "machine": twice["machine"]},
        "rows": count,
        "rows_sha256": manifest.rows_hash(first, steps),
        "steps": [[step.name, step.variant] for step in steps],
    }  # fmt: skip
