"""Prepare the data of one role, with a record of it: the Snakefile's rules call `python -m
medxvl.pipeline prepare`.
"""

import argparse
import sys

from medxvl.config import paths, presets, records, roles


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
        done = prepare(options.role, preset, options.data, options.workers)
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


def prepare(role: str, preset, data: str, workers: int) -> dict:
    """Prepare the data of a role, or write the phantom's raw trees, where they are not there yet;
    what the marker file says of them.
    """
    if role == "phantom":
        from data_prep.phantom.write import write_raw

        raw = write_raw(roles.phantom_raw(preset), preset.studies, preset.phantom_seed, workers)
        return {"raw": str(raw), "studies": preset.studies, "seed": preset.phantom_seed}
    source = roles.sources(preset, data)[role]
    roles.prepare(source, preset, workers)
    from medxvl.data.dataset import Dataset  # with torch: seconds that a start has not

    dataset = Dataset(source.folder)
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
