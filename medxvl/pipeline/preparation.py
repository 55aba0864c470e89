"""Prepare the data of one role, with a record of it: the Snakefile's rules call `python -m
medxvl.pipeline prepare`.
"""

import argparse
import sys

from medxvl.config import paths, presets, records, roles
from medxvl.data import dataset as datasets


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m medxvl.pipeline prepare", description=__doc__)
    parser.add_argument("role", choices=["phantom", *roles.ROLES])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--overrides", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)

    preset = presets.load(options.preset, options.overrides)
    folder = paths.RUNS / preset.name
    record = records.begin(folder, step := step_name(options.role))
    try:
        if options.role == "phantom":
            done = make_phantom(preset, options.workers)
        else:
            done = prepare_role(
                roles.sources(preset, options.data)[options.role], preset, options.workers
            )
    except Exception as error:  # whatever it is, the record must tell
        told = isinstance(
            error, (ValueError, OSError)
        )  # ours, or the system's: they say all that is needed
        message = " ".join(str(error if told else f"{type(error).__name__}: {error}").split())
        records.end(folder, record, error=message)
        if told:
            print(f"error: {step}: {message}", file=sys.stderr)
            return 2
        raise
    records.write_json(folder / "data" / f"{options.role}.json", done)
    records.end(folder, record)
    return 0


def step_name(role: str) -> str:
    """Name of the step in the records and on the screen."""
    return "phantom" if role == "phantom" else f"prepare_{role}"


def make_phantom(preset, workers: int) -> dict:
    """Write the phantom's raw trees if they are not there; what the marker file says of them."""
    from data_prep.phantom.write import write_raw

    raw = write_raw(roles.phantom_raw(preset), preset.studies, preset.phantom_seed, workers)
    return {"raw": str(raw), "studies": preset.studies, "seed": preset.phantom_seed}


def prepare_role(source, preset, workers: int) -> dict:
    """Prepare a role's data if they are not; what the marker file says of them."""
    roles.prepare(source, preset, workers)
    dataset = datasets.Dataset(source.folder)
    return {
        "role": source.role,
        "name": source.name,
        "label": dataset.label,
        "synthetic": source.synthetic,
        "raw": str(source.raw),
        "folder": str(source.folder),
        "fingerprint": dataset.fingerprint,
        "card": dataset.card["fingerprint"],
    }
