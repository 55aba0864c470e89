"""What ran, when, and how it ended: one small JSON file a step (a notebook, or the preparation of
one role's data).

The step itself writes it, so that it works wherever Snakemake runs the step.
"""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

# Of results.csv and of the rows that each notebook leaves.
COLUMNS = (
    "run",
    "paper",
    "task",
    "dataset",
    "split",
    "subset",
    "model",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "control",
    "seed",
    "preset",
    "checkpoint",
    "manifest",
)


def run_id() -> str:
    """Name of this run: MEDXVL_RUN (environment), or the time in UTC. It enters the column `run`
    and nothing else.
    """
    return os.environ.get("MEDXVL_RUN") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, value) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path):
    """Content of a JSON file; None where there is none, or where it is cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def begin(folder: Path, step: str) -> dict:
    """Record in `folder`/records that `step` has started; keeps how long it took the last time it
    went well.
    """
    path = folder / "records" / f"{step}.json"
    last = read_json(path) or {}
    record = {
        "step": step,
        "status": "running",
        "run": run_id(),
        "started": time.time(),
        "expected_seconds": last.get("seconds")
        if last.get("status") == "ok"
        else last.get("expected_seconds"),
    }
    write_json(path, record)
    return record


def end(folder: Path, record: dict, error: str = "", **more) -> None:
    """Record how a step that `begin` had recorded ended: well, or with the one-line `error`."""
    seconds = round(time.time() - record["started"], 1)
    status = "failed" if error else "ok"
    write_json(
        folder / "records" / f"{record['step']}.json",
        record | {"status": status, "seconds": seconds, "error": error} | more,
    )


def read(folder: Path) -> dict[str, dict]:
    """All records of a run folder, by step."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        record = read_json(path)
        if record and "step" in record:
            found[record["step"]] = record
    return found


def forget_running(folder: Path) -> None:
    """Mark what a killed run left as running; call it only while holding the folder's lock."""
    for step, record in read(folder).items():
        if record["status"] == "running":
            write_json(folder / "records" / f"{step}.json", record | {"status": "interrupted"})


def outputs(folder: Path, notebook: str) -> dict:
    """What `Run.finish` noted: {"manifest": hash, "inputs": {...}, "files": [paths in the run
    folder]}, or {}.
    """
    return read_json(folder / "records" / f"{notebook}.outputs.json") or {}


def retire_rows(folder: Path, name: str) -> None:
    """Move the rows of a notebook to history/, under the run that made them."""
    rows = folder / "rows" / f"{name}.csv"
    if rows.exists():
        lines = rows.read_text(encoding="utf-8").splitlines()
        made_by = lines[1].split(",")[0] if len(lines) > 1 else "empty"
        (folder / "history").mkdir(exist_ok=True)
        os.replace(rows, folder / "history" / f"{made_by}-{name}.csv")


def clock(seconds: float) -> str:
    """0:07, 12:30, 1:02:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def table(rows: list[list[str]], header: list[str]) -> str:
    """Plain text table, columns aligned; the last column is cut at 100 characters."""
    rows = [[*row[:-1], row[-1] if len(row[-1]) <= 100 else row[-1][:99] + "…"] for row in rows]
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
