"""Run one notebook through papermill, with a record of it: the Snakefile's rules call `python -m
medxvl.pipeline notebook`.
"""

import argparse
import ast
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medxvl.config import notebooks, paths, presets, records, sweeps, threads
from medxvl.pipeline import without_web_address_checks


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m medxvl.pipeline notebook", description=__doc__)
    parser.add_argument("name", choices=notebooks.NAMES)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--overrides", default="")
    parser.add_argument("--data", default="")
    parser.add_argument(
        "--variant",
        default="",
        help="another mask and seed than the preset's (medxvl.config.sweeps)",
    )
    options = parser.parse_args(arguments)
    overrides = f"{options.overrides} {sweeps.overrides(options.variant)}".strip()
    preset = presets.load(options.preset, overrides)
    os.environ[sweeps.ENVIRONMENT] = options.variant
    folder = sweeps.run_folder(preset.name)
    for variable in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ):
        os.environ[variable] = str(threads.threads(options.name, preset, options.variant))
    error = run(
        options.name,
        folder,
        {"preset": options.preset, "overrides": overrides, "data": options.data},
    )
    if error:
        print(f"error: {options.name}: {error}", file=sys.stderr)
    return 1 if error else 0


def run(name: str, folder: Path, parameters: dict[str, str]) -> str:
    """Run the notebook `name` into `folder`/notebooks; "" when it went well, else its error in one
    line.

    The output appears under its name only when the whole notebook ran; a failed one is kept as
    NAME.failed.ipynb, and the rows that an earlier run left for it go to history/, because nothing
    says any more that they are right.
    """
    source = paths.NOTEBOOKS / f"{name}.ipynb"
    output = folder / "notebooks" / f"{name}.ipynb"
    partial, failed = output.with_suffix(".partial.ipynb"), output.with_suffix(".failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    record = records.begin(folder, name)
    with peak_memory() as memory:
        try:
            check_parameters(source, parameters)
            error, details = execute(source, partial, parameters, folder / "logs" / f"{name}.log")
        except Exception as exception:  # whatever it is, the record must tell
            error, details = f"{type(exception).__name__}: {exception}", ""
    error = " ".join(error.split())
    if error:
        if partial.exists():
            os.replace(partial, failed)
        records.retire_rows(folder, name)
    else:
        os.replace(partial, output)
        failed.unlink(missing_ok=True)
    records.end(folder, record, error=error, details=details, peak_mb=max(memory))
    return error


def check_parameters(path: Path, given: dict) -> None:
    """Raise ValueError unless the cell tagged `parameters` assigns every given name (papermill
    would only warn).
    """
    known = declared_parameters(path)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"{path.name} has no parameter {', '.join(unknown)}: its parameters cell sets "
            f"{', '.join(known) or 'none'}"
        )


def declared_parameters(path: Path) -> list[str]:
    """Names assigned in the cell tagged `parameters`; [] where there is no such cell."""
    cells = (records.read_json(path) or {}).get("cells", [])
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            nodes = ast.parse("".join(cell["source"])).body
            return [
                target.id
                for node in nodes
                if isinstance(node, ast.Assign)
                for target in node.targets
            ]
    return []


def execute(source: Path, output: Path, parameters: dict, log: Path) -> tuple[str, str]:
    """Run a notebook in a kernel of this very interpreter; ("", "") or (error in one line,
    traceback).
    """
    without_web_address_checks()
    import papermill
    from nbclient.exceptions import DeadKernelError

    log.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="medxvl-"))
    kernel = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    records.write_json(
        scratch / "kernels" / "python3" / "kernel.json",
        {"argv": kernel, "display_name": "Python 3", "language": "python"},
    )
    os.environ["JUPYTER_PATH"] = str(
        scratch
    )  # comes before every other kernel called python3 that the user may have
    os.environ["IPYTHONDIR"] = str(
        scratch / "ipython"
    )  # no start-up files of the user, no shared history file
    os.environ["MEDXVL_HEADLESS"] = "1"
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ.pop("MPLBACKEND", None)  # with it set, inline figures vanish from the notebook
    try:
        with open(log, "w", encoding="utf-8") as stream:
            papermill.execute_notebook(
                source,
                output,
                parameters,
                kernel_name="python3",
                cwd=str(paths.ROOT),
                progress_bar=False,
                stdout_file=stream,
                stderr_file=stream,
            )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}", str(error)
    except DeadKernelError:
        return "the notebook's process was killed: out of memory?", ""
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return "", ""


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Sample the memory (resident, summed over the processes started here) while a block runs: MB,
    a number a sample.
    """
    import psutil

    samples, ended, process = [0], threading.Event(), psutil.Process()

    def sample():
        while not ended.wait(0.5):
            total = 0
            for child in process.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:  # it ended meanwhile
                    pass
            samples.append(round(total / 2**20))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
