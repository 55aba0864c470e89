"""Which notebook after which: the one table that run_all.sh, the Snakefile and the tests read.

Only the standard library is imported here, so that `./run_all.sh --help` works before anything is
installed.
"""

import ast
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medxvl import data, paths


@dataclass(frozen=True)
class Notebook:
    """One notebook of the story.

    needs: notebooks whose results it reads; roles: data it uses; groups: settings (medxvl.presets)
    that change its results; files: of the project that it reads; prepared: whether the roles' data
    must be ready before it starts; threads: of a long training, which starts early, the setting
    that says how many CPU threads it has; long: whether it starts before others of its kind, so
    that nothing waits for it at the end; varies: which of seed, medvill_mask and ablation it is
    repeated for (medxvl.variants); compares: whether it reads the ablations of what it needs;
    start: the setting that asks for the weights of START, by the value `own`; default: whether it
    runs without being asked for.
    """

    name: str
    needs: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    prepared: bool = True
    threads: str = ""
    long: bool = False
    varies: tuple[str, ...] = ()
    compares: bool = False
    start: str = ""
    default: bool = True


START = "20_xvl_vision_pretrain"  # one start for all, like a published one
_MEDVILL = ("medvill_mask", "seed")
_TASKS = (
    "12_medvill_classify",
    "13_medvill_retrieve",
    "14_medvill_vqa",
    "15_medvill_generate",
    "22_xvl_zero_shot",
    "23_xvl_unseen_disease",
    "24_xvl_detect_errors",
    "25_xvl_correct_errors",
    "26_xvl_retrieve",
    "27_xvl_generate",
    "28_xvl_vqa",
    "29_xvl_attention",
)
NOTEBOOKS = (
    Notebook(
        "00_check_setup",
        roles=tuple(data.ROLES),
        groups=("run", "data", "look", "both", "model", "pretrain", "evaluate"),
        prepared=False,
    ),
    Notebook("01_prepare_data", roles=tuple(data.ROLES), groups=("data", "look")),
    Notebook(
        "02_look_at_data",
        needs=("01_prepare_data",),
        roles=("main", "unseen_disease"),
        groups=("data", "look"),
    ),
    Notebook(
        "10_medvill_model",
        roles=("main",),
        groups=("run", "data", "look", "both", "medvill"),
        long=True,
    ),
    Notebook(
        "11_medvill_pretrain",
        needs=("10_medvill_model",),
        roles=("main",),
        groups=("run", "data", "look", "both", "medvill", "evaluate"),
        threads="threads",
        varies=_MEDVILL,
    ),
    *(
        Notebook(
            f"{number}_medvill_{task}",
            needs=("11_medvill_pretrain",),
            roles=("main", other),
            groups=("run", "data", "look", "both", "medvill", "tune", task, "evaluate"),
            long=task in ("classify", "generate"),
            varies=_MEDVILL,
        )
        for number, task, other in (
            (12, "classify", "transfer"),
            (13, "retrieve", "transfer"),
            (14, "vqa", "questions"),
            (15, "generate", "transfer"),
        )
    ),
    Notebook(
        "20_xvl_vision_pretrain",
        roles=("main",),
        groups=("run", "data", "look", "model", "ibot", "prompts", "evaluate"),
        threads="threads",
        varies=("seed",),
    ),
    Notebook(
        "21_xvl_pretrain",
        roles=("main",),
        groups=("run", "data", "both", "model", "pretrain"),
        threads="pretrain_threads",
        long=True,
        varies=("seed", "ablation"),
        start="vision_weights",
    ),
    Notebook(
        "22_xvl_zero_shot",
        needs=("21_xvl_pretrain",),
        roles=("main", "readers"),
        groups=(
            "run",
            "data",
            "both",
            "model",
            "pretrain",
            "prompts",
            "xvl_tune",
            "supervised",
            "evaluate",
        ),
        start="supervised_start",
        long=True,
        varies=("seed", "ablation"),
    ),
    Notebook(
        "23_xvl_unseen_disease",
        needs=("21_xvl_pretrain",),
        roles=("main", "unseen_disease"),
        groups=("run", "data", "both", "model", "pretrain", "evaluate"),
        varies=("seed",),
    ),
    *(
        Notebook(
            name,
            needs=("21_xvl_pretrain",),
            roles=("main", *others),
            groups=("run", "data", "look", "both", "model", "pretrain", *own, "evaluate"),
            long=name not in ("26_xvl_retrieve", "29_xvl_attention"),
            varies=("seed",),
        )
        for name, others, own in (
            ("24_xvl_detect_errors", ("transfer",), ("xvl_tune", "errors")),
            ("25_xvl_correct_errors", (), ("xvl_tune", "writer", "correct")),
            ("26_xvl_retrieve", (), ("prompts", "xvl_retrieve")),
            ("27_xvl_generate", (), ("xvl_tune", "writer", "xvl_generate")),
            ("28_xvl_vqa", ("questions",), ("xvl_tune", "writer", "xvl_vqa")),
            ("29_xvl_attention", ("unseen_disease", "transfer"), ("explain",)),
        )
    ),
    Notebook(
        "30_xvl_ablation",
        needs=("22_xvl_zero_shot",),
        groups=("run", "batch", "pretrain", "ablation", "evaluate"),
        compares=True,
        default=False,
    ),
    Notebook("90_results_vs_paper", needs=_TASKS, files=(paths.PAPER_VALUES,)),
    Notebook(
        "91_figures",
        needs=(
            "10_medvill_model",
            "11_medvill_pretrain",
            "20_xvl_vision_pretrain",
            *_TASKS,
            "90_results_vs_paper",
        ),
        files=(paths.PAPER_VALUES, paths.FIGURE_INDEX),
    ),
)
NAMES = tuple(n.name for n in NOTEBOOKS)


def notebook(name: str) -> Notebook:
    """Row of the table; raises ValueError, listing the names, for an unknown one."""
    for row in NOTEBOOKS:
        if row.name == name:
            return row
    raise ValueError(f"unknown notebook {name!r}: expected one of {', '.join(NAMES)}")


def select(prefixes: list[str]) -> list[str]:
    """Notebooks whose name starts with one of `prefixes`, in order; without prefixes those that run
    by default.

    Raises ValueError, listing the notebooks, when a prefix matches none.
    """
    for prefix in prefixes:
        if not prefix or not any(name.startswith(prefix) for name in NAMES):
            raise ValueError(
                f"no notebook starts with {prefix!r}: the notebooks are {', '.join(NAMES)}"
            )
    return [
        row.name
        for row in NOTEBOOKS
        if (row.name.startswith(tuple(prefixes)) if prefixes else row.default)
    ]


def with_needs(names: list[str]) -> list[str]:
    """`names` and every notebook that they need, directly or not, in order."""
    wanted, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += notebook(name).needs
    return [name for name in NAMES if name in wanted]


def roles(names: list[str], prepared: bool = False) -> list[str]:
    """Roles that the notebooks `names` use, in order; with `prepared`, those whose data must be
    ready before.
    """
    rows = [notebook(name) for name in names]
    return [
        role
        for role in data.ROLES
        if any(role in row.roles and (row.prepared or not prepared) for row in rows)
    ]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(name: str, preset, variant: str = "") -> int:
    """CPU threads of a notebook: what the setting of a training says (0: all cores), else 1, as two
    may run side by side; so do variants, but where the setting is 0. Never more than there are
    cores: threads without one of their own wait for each other.

    Not a matter of --cores: sums are added up in another order with another number of threads.
    """
    setting = notebook(name).threads
    given = getattr(preset, setting) if setting else 1
    return 1 if given and variant else min(given or cores(), cores())


def code_cells(path: Path) -> list[str]:
    """Sources of the code cells of a notebook file, lines of IPython magic blanked."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [
        "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in s.split("\n"))
        for s in sources
    ]


# They set no number: the settings' values are compared one by one, and the rest says what runs when
# and where.
MACHINERY = ("graph.py", "paths.py", "presets.py", "records.py", "variants.py")


def code_hash(name: str) -> str:
    """12 hex digits over the source files that the notebook `name` imports, directly or through
    others.

    Part of what decides on a re-run: a result cannot be older than the code that makes it, and an
    edit to a plot does not repeat a training. Of data_prep, which loads its modules by name, every
    file counts; those in MACHINERY do not.
    """
    seen: set[Path] = set()
    todo = _imports("\n".join(code_cells(paths.NOTEBOOKS / f"{name}.ipynb")))
    while todo:
        path = todo.pop()
        if path not in seen and path not in {paths.ROOT / "medxvl" / file for file in MACHINERY}:
            seen.add(path)
            todo |= _imports_of(path)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(
            path.relative_to(paths.ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return digest.hexdigest()[:12]


@cache
def data_code() -> str:
    """12 hex digits over the code that makes and prepares data."""
    made = (file for kind in ("*.py", "*.csv") for file in (paths.ROOT / "data_prep").glob(kind))
    files = [*sorted(made), paths.ROOT / "medxvl" / "prompts.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


@cache
def _imports_of(path: Path) -> frozenset[Path]:
    package = ".".join(path.relative_to(paths.ROOT).parent.parts)
    return frozenset(_imports(path.read_text(encoding="utf-8"), package))


def _imports(source: str, package: str = "") -> set[Path]:
    """Files of medxvl and data_prep that a piece of source in `package` imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            modules |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    found = set()
    for module in modules:
        top = module.split(".")[0]
        if top == "data_prep":
            found |= set((paths.ROOT / "data_prep").glob("**/*.py"))
        elif top == "medxvl":
            base = paths.ROOT.joinpath(*module.split("."))
            found |= {p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()}
    return found
