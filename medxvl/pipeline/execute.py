"""Run the selected notebooks through Snakemake, tell what is going on, gather the results, print
the closing table.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from medxvl.config import notebooks, paths, presets, records, roles, sweeps
from medxvl.pipeline import manifest, pages, planning
from medxvl.pipeline.preparation import step_name

HEARTBEAT = 30  # seconds between two lines that say what is running


def run(plan: Namespace) -> int:
    """Carry out a plan of `command_line.parse`; exit code: 0 done, 1 something failed, 2 it could
    not start, 130 stopped.
    """
    os.environ["MEDXVL_RUN"] = records.run_id()
    preset = presets.load(plan.preset, plan.overrides)
    folder = paths.RUNS / preset.name
    wanted = sweeps.needed(plan.notebooks, preset)
    names = list(dict.fromkeys(step.name for step in wanted))
    for role in roles.parse(plan.data):
        if role not in notebooks.roles(names):
            print(f"note: none of the selected notebooks uses the role {role}")
    try:
        if plan.dry_run:
            return planning.dry_run(plan, folder, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for part in sweeps.folders(folder).values():
        records.forget_running(part)
    for path in planning.stale(folder):
        path.unlink()
    for step in (
        sweeps.steps(plan.notebooks, preset) if plan.force else []
    ):  # else a finished training would be read back
        shutil.rmtree(
            folder / sweeps.prefix(step.variant) / "checkpoints" / step.name[3:],
            ignore_errors=True,
        )
    runs_of = f"notebook{'s' * (len(names) > 1)}" + f" in {len(wanted)} runs" * (
        len(wanted) > len(names)
    )
    say(
        f"preset {preset.name}{f' ({plan.overrides})' if plan.overrides else ''}: "
        f"{len(names)} {runs_of}, "
        f"{plan.cores} core{'s' * (plan.cores > 1)}, run {os.environ['MEDXVL_RUN']}"
    )
    code, stopped = follow(
        planning.snakemake(plan, folder, folder / "run.json", plan.notebooks if plan.force else []),
        folder,
        lock,
    )
    for part in sweeps.folders(folder).values():
        records.forget_running(part)
    results = manifest.results(folder)
    manifest.manifest(folder, preset, plan.overrides, plan.data)
    older = planning.outdated(plan, folder, names, preset)
    rows, bad = summary(folder, wanted, preset)
    notes = dict.fromkeys(older, "older than the latest run's settings, data or code")
    notes |= {
        step: f"{state}; the page is of an earlier run"
        for step, *_, state in rows
        if state.startswith("not run")
    }
    index = pages.build(preset.name, notes)
    print("\n" + records.table(rows, ["notebook", "time", "peak memory", "status"]))
    if code and not stopped and not any("FAILED" in row[-1] for row in rows):
        print(
            f"\nerror: Snakemake stopped with code {code}. The end of "
            f"{planning.shown(folder / 'logs' / 'snakemake.log')}:",
            file=sys.stderr,
        )
        print(
            "\n".join(
                (folder / "logs" / "snakemake.log").read_text(encoding="utf-8").splitlines()[-15:]
            ),
            file=sys.stderr,
        )
    if older:
        print(
            f"\nnote: {', '.join(older)} {'was' if len(older) == 1 else 'were'} made with "
            "other settings, data or code "
            "than this run and not selected now: the same command without notebook numbers "
            "brings all up to date"
        )
    print(f"\nresults   {planning.shown(results)}\npages     {planning.shown(index)}")
    if bad:
        print(f"logs      {planning.shown(folder / 'logs')}")
    if stopped:
        print("stopped: the same command goes on from here")
        return 130
    return 1 if bad or code else 0


def take_lock(folder: Path):
    """The open lock file of a run folder, free again when all its holders ended; OSError when
    another run holds it.
    """
    lock = open(folder / ".lock", "a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        raise OSError(
            f"another run of the preset {folder.name} is going on ({holder}): wait for it, or "
            "stop it"
        ) from None
    except OSError:
        pass  # a file system without locks: nothing to be known
    lock.truncate(0)
    lock.write(f"process {os.getpid()}, since {time.strftime('%H:%M:%S')}")
    lock.flush()
    return lock


def recorded(folder: Path) -> dict[str, dict]:
    """The records of every step in runs/<preset>, by label."""
    found = {}
    for variant, part in sweeps.folders(folder).items():
        for name, record in records.read(part).items():
            label = sweeps.Step(name, variant).label
            found[label] = record | {"step": label}
    return found


def follow(command: list[str], folder: Path, lock) -> tuple[int, bool]:
    """Run Snakemake, say what starts and ends; (exit code, whether somebody stopped it)."""
    log = folder / "logs" / "snakemake.log"
    log.parent.mkdir(exist_ok=True)
    told, began, last_word = {}, time.time(), time.time()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open(log, "w", encoding="utf-8") as stream:
        child = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
        )
        lock.write(f"; to stop it: kill -INT -- -{child.pid}")
        lock.flush()
        try:
            while True:
                code = child.poll()
                if tell(folder, told, began):
                    last_word = time.time()
                if code is not None:
                    return code, False
                if time.time() - last_word > HEARTBEAT:
                    say_running(folder, began)
                    last_word = time.time()
                time.sleep(0.3)
        except KeyboardInterrupt:
            say("stopping")
            return stop(child), True
        finally:
            if child.poll() is None:
                stop(child)


def stop(child: subprocess.Popen) -> int:
    """End Snakemake and all it started: asked first, then killed."""
    for how, patience in ((signal.SIGINT, 8), (signal.SIGTERM, 4), (signal.SIGKILL, 4)):
        try:
            os.killpg(child.pid, how)
            child.wait(patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    return child.wait()


def tell(folder: Path, told: dict, began: float) -> bool:
    """Say which steps of this run have started or ended since the last call."""
    news = [
        r
        for r in recorded(folder).values()
        if r["run"] == os.environ["MEDXVL_RUN"] and told.get(r["step"]) != r["status"]
    ]
    for record in sorted(news, key=lambda r: (r["status"] == "running", r["started"])):
        told[record["step"]] = record["status"]
        if record["status"] == "running":
            expected = record["expected_seconds"]
            say(
                f"started  {record['step']}"
                + (f" (last time {records.clock(expected)})" if expected else ""),
                began,
            )
        elif record["status"] == "ok":
            say(f"done     {record['step']} in {records.clock(record['seconds'])}", began)
        elif record["status"] == "failed":
            say(
                f"FAILED   {record['step']} after {records.clock(record['seconds'])}: "
                f"{record['error']}",
                began,
            )
    return bool(news)


def say_running(folder: Path, began: float) -> None:
    """Say what has been running since when, and about how long it still takes where that is
    known.
    """
    parts = []
    for record in recorded(folder).values():
        if record["status"] == "running" and record["run"] == os.environ["MEDXVL_RUN"]:
            past, expected = time.time() - record["started"], record["expected_seconds"]
            left = (
                f", about {records.clock(expected - past)} left"
                if expected and expected > past
                else ""
            )
            parts.append(f"{record['step']} for {records.clock(past)}{left}")
    say("running  " + ("; ".join(parts) or "waiting for Snakemake"), began)


def say(text: str, began: float | None = None) -> None:
    """One line, with the time since `began`, on the screen now."""
    print(
        text if began is None else f"[{records.clock(time.time() - began):>7}] {text}", flush=True
    )


def summary(folder: Path, wanted: list[sweeps.Step], preset) -> tuple[list[list[str]], bool]:
    """Rows of the closing table, and whether anything is missing; of the preparations only those
    that failed now.
    """
    done, rows, missing = recorded(folder), [], {}
    for step in ["phantom", *map(step_name, roles.ROLES)]:
        record = done.get(step, {})
        if record.get("status") == "failed" and record["run"] == os.environ["MEDXVL_RUN"]:
            rows.append([step, records.clock(record["seconds"]), "", f"FAILED: {record['error']}"])
            missing[step] = True
    for step in wanted:
        record, book = done.get(step.label, {}), notebooks.notebook(step.name)
        time_taken, memory = (
            records.clock(record.get("seconds") or 0),
            f"{record.get('peak_mb', 0)} MB",
        )
        now = record.get("run") == os.environ["MEDXVL_RUN"]
        needs = [need.label for need in sweeps.needs(step, preset)]
        if book.prepared:
            needs += ["phantom" if "phantom" in missing else step_name(role) for role in book.roles]
        blocked = [need for need in dict.fromkeys(needs) if need in missing]
        if now and record["status"] == "failed":
            status = f"FAILED: {record['error']}"
        elif now and record["status"] == "ok":
            status = "done"
        elif not now and not blocked and (folder / step.file).exists():
            status = "up to date"
        else:
            time_taken, memory = "", ""
            status = (
                f"not run: needs {', '.join(blocked)}"
                if blocked
                else "interrupted"
                if now
                else "not run"
            )
        if status not in ("done", "up to date"):
            missing[step.label] = True
        rows.append([step.label, time_taken, memory, status])
    return rows, bool(missing)
