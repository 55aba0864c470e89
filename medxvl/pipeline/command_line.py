"""The options of run_all.sh: what may be asked for, and what it means.

Only the standard library is imported here, so that `--help` and a mistyped option answer before
anything is installed.
"""

import argparse
import os
import shlex
from argparse import Namespace
from pathlib import Path

from data_prep import MAY_BE_A_FILE
from medxvl.config import consistency, paths, presets, records, threads
from medxvl.config import notebooks as notebook_table
from medxvl.config import roles as data_roles


def by_preset(words: list[str]) -> list[list[str]]:
    """The command line of each preset that is named: ``smoke demo 22`` -> ``smoke 22`` and ``demo
    22``.
    """
    end = words.index("--") if "--" in words else len(words)
    named = list(dict.fromkeys(word for word in words[:end] if word in presets.NAMES))
    return [
        [w for w in words[:end] if w == name or w not in presets.NAMES] + words[end:]
        for name in named
    ] or [words]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options: preset, overrides and data (as the notebooks take them), notebooks, cores, force,
    dry_run, snakemake.

    Raises ValueError, saying what is valid, for anything unknown, and for data that are not there.
    """
    own, extra = arguments, []
    if "--" in arguments:
        own, extra = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    options = _parser().parse_intermixed_args(own)
    words = list(options.words)
    if late := set(COMMANDS) & set(words):
        raise ValueError(f"{late.pop()!r} comes first and alone, see the usage")
    preset = next((word for word in words if word in presets.NAMES), "demo")
    words = [word for word in words if word != preset]
    for word in words:
        if not any(name.startswith(word) for name in notebook_table.NAMES):
            known = (*presets.NAMES, *notebook_table.NAMES, *COMMANDS)
            raise ValueError(
                f"unknown preset or notebook {word!r}{presets.hint(word, known)}: expected "
                f"{', '.join(presets.NAMES)}, or the number or the start of a notebook's name, "
                "such as 22"
            )
    overrides = shlex.join(_whole_path(item) for item in options.set)
    loaded = presets.load(preset, overrides)
    consistency.check(loaded)
    notebooks = notebook_table.select(words)
    given = [parse_data(item) for item in options.data]
    for left in (lefts := [left for left, _ in given]):
        if lefts.count(left) > 1:
            raise ValueError(
                f"--data {left}=... is given {lefts.count(left)} times: once is expected"
            )
    data = shlex.join(item for _, item in given)
    there = data_roles.sources(loaded, data)
    missing = [
        role
        for role in notebook_table.roles(notebook_table.with_needs(notebooks), prepared=True)
        if role not in there
    ]
    if (
        missing and not options.dry_run
    ):  # a dry run says what is missing, and all else it would take
        told = "; ".join(
            f"--data {role}=NAME:PATH ({data_roles.ROLES[role][1]})" for role in missing
        )
        raise ValueError(
            f"preset {preset} has no phantom (studies=0), so it needs your data: {told}. "
            f"NAME is one of {', '.join(data_roles.NAMES)}"
        )
    return argparse.Namespace(
        preset=preset,
        overrides=overrides,
        data=data,
        notebooks=notebooks,
        cores=options.cores,
        force=options.force,
        dry_run=options.dry_run,
        snakemake=extra,
    )


def parse_verify(arguments: list[str]) -> Namespace:
    """Plan of `verify`, the second run: the notebooks and cores asked for, settings and data of the
    first.

    Raises ValueError for another option, and where there is no first run.
    """
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
    return parse([*arguments, *again])


def _whole_path(item: str) -> str:
    """``"prompts=x.csv"`` -> ``"prompts=/where/the/user/is/x.csv"``, another setting as it is.
    ValueError where that is no file.
    """
    name, _, value = item.partition("=")
    if name != "prompts" or not value:
        return item
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise ValueError(f"--set {item}: there is no file {path}")
    return f"prompts={path}"


def parse_data(item: str) -> tuple[str, str]:
    """``"main=mimic_cxr:~/x"`` -> ``("main", "main=mimic_cxr:/home/me/x")``; ValueError when it is
    not usable.

    ``"main.views=PA"``, a setting of that dataset, comes back as ``("main.views",
    "main.views=PA")``.
    """
    role, _, rest = item.partition("=")
    name, _, path = rest.partition(":")
    data_roles.parse(shlex.quote(item))
    if name == "phantom" or "." in role:
        return role, item
    raw = Path(path).expanduser().absolute()
    if not raw.exists():
        raise ValueError(f"--data {item}: there is no folder {raw}")
    if not raw.is_dir() and name not in MAY_BE_A_FILE:
        raise ValueError(
            f"--data {item}: {raw} is a file, a folder is expected: the one that holds the "
            f"files of {name}"
        )
    try:
        empty = raw.is_dir() and not any(raw.iterdir())
    except OSError as error:
        raise ValueError(f"--data {item}: {raw} cannot be read: {error.strerror}") from None
    if empty:
        raise ValueError(f"--data {item}: the folder {raw} is empty, expected the files of {name}")
    return role, f"{role}={name}:{os.path.normpath(raw)}"


# First words of the other command lines (medxvl/pipeline/__main__.py)
COMMANDS = ("lab", "test", "verify", "settings")


class _Parser(argparse.ArgumentParser):
    """A parser that names the nearest options, and leaves the ending to its caller."""

    def error(self, message: str):
        unknown = message.partition("unrecognized arguments: ")[2].split()
        if unknown:
            options = [name for name in self._option_string_actions if name.startswith("--")]
            word = unknown[0].partition("=")[0]
            message = f"unknown option {word}{presets.hint(word, options)}"
        raise ValueError(message)


def _cores(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="./run_all.sh",
        formatter_class=_Help,
        allow_abbrev=False,
        usage="./run_all.sh [smoke|demo|paper]... [PREFIX...] [options] [-- SNAKEMAKE OPTIONS]\n"
        "       ./run_all.sh verify [smoke|demo|paper] [PREFIX...] [--cores N]\n"
        "       ./run_all.sh settings [PATTERN]\n"
        "       ./run_all.sh lab [JUPYTERLAB OPTIONS] | test [PYTEST OPTIONS]",
        description="Set up what is needed, run the notebooks and gather results, figures and "
        "pages in runs/<preset>.\n"
        "A second start runs only what changed. `verify` runs again and compares every row, "
        "`settings` lists\nthe settings.",
        epilog=_epilog(),
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PREFIX",
        help="presets (default demo), and the notebooks to run with what they need, by number or "
        "the start of one (2 for 20 to 29)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the preset; repeatable",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="ROLE=NAME:PATH",
        help="use your own data; repeatable",
    )
    parser.add_argument(
        "--cores",
        type=_cores,
        default=threads.cores(),
        metavar="N",
        help="CPU cores to use (default: all, here %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="run the selected notebooks even if nothing changed"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would run and why, and what preset paper lacks here; change nothing",
    )
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=100)


def _epilog() -> str:
    """Presets, notebooks, roles, environment and examples."""
    meanings = {
        "smoke": "seconds a notebook: does everything work?",
        "demo": "minutes on a laptop, synthetic phantom data (default)",
        "paper": "the published settings; needs the real data and a GPU",
    }
    listed = [
        *("presets", *_columns([(name, meanings.get(name, "")) for name in presets.NAMES])),
        *("", "notebooks (* only when asked for)", *_notebooks()),
        *("", "roles of data (--data ROLE=NAME:PATH; default: the synthetic phantom)"),
        *_columns([(role, meaning) for role, (_, meaning) in data_roles.ROLES.items()]),
        f"  NAME: {', '.join(data_roles.NAMES)}",
        "  PATH: its raw folder or file (python -m data_prep list), or a folder made by "
        "python -m data_prep",
        "  --data ROLE.NAME=VALUE is a setting of that dataset, such as main.image_column=image",
        *("", "environment"),
        *_columns(
            [
                ("PYTHON", "the Python to use (3.11, 3.12 or 3.13)"),
                ("MEDXVL_DATA, MEDXVL_RUNS", "folders in place of data/ and runs/"),
            ]
        ),
        *("", "examples"),
        "  ./run_all.sh                                    the whole demo",
        "  ./run_all.sh demo 22 --set seed=1               zero-shot detection with another seed",
        "  ./run_all.sh demo 23 --data unseen_disease=covid_cxr:PATH",
        "  ./run_all.sh paper --data main=mimic_cxr:PATH ... -- --profile medxvl/pipeline/slurm",
    ]
    return "\n".join(listed)


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:25} {text}".rstrip() for name, text in rows]


def _notebooks() -> list[str]:
    """Their names, three a line."""
    names = [f"{book.name}{'' if book.default else ' *'}" for book in notebook_table.NOTEBOOKS]
    return [
        "  " + "".join(f"{name:30}" for name in names[k : k + 3]).rstrip()
        for k in range(0, len(names), 3)
    ]
