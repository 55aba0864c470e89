"""Which notebook after which: the one table that run_all.sh, the Snakefile and the tests read.

Only the standard library is imported here, so that `./run_all.sh --help` works before anything is
installed.
"""

from dataclasses import dataclass
from pathlib import Path

from medxvl.config import paths, presets
from medxvl.config import roles as data_roles


@dataclass(frozen=True)
class Notebook:
    """One notebook of the story.

    needs: notebooks whose results it reads; roles: data it uses; groups: settings
    (medxvl.config.presets) that change its results; files: of the project that it reads; prepared:
    whether the roles' data must be ready before it starts; threads: of a long training, which
    starts early, the setting that says how many CPU threads it has; long: whether it starts before
    others of its kind, so that nothing waits for it at the end; varies: which of seed, medvill_mask
    and ablation it is repeated for (medxvl.config.sweeps); compares: whether it reads the ablations
    of what it needs; start: the setting that asks for the weights of START, by the value `own`;
    default: whether it runs without being asked for.
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


def _medvill_task(name: str, other_role: str, group: str, long: bool = False) -> Notebook:
    """A task that MedViLL is fine-tuned for; `group`: its own settings."""
    return Notebook(
        name,
        needs=("11_medvill_pretrain",),
        roles=("main", other_role),
        groups=("run", "data", "look", "both", "medvill", "tune", group, "evaluate"),
        long=long,
        varies=_MEDVILL,
    )


def _xvl_task(name: str, roles: tuple[str, ...], groups: tuple[str, ...], long=True) -> Notebook:
    """A task of X-VL; `roles` besides main, `groups`: its own settings."""
    return Notebook(
        name,
        needs=("21_xvl_pretrain",),
        roles=("main", *roles),
        groups=("run", "data", "look", "both", "model", "pretrain", *groups, "evaluate"),
        long=long,
        varies=("seed",),
    )


START = "20_xvl_vision_pretrain"  # one start for all, like a published one
_MEDVILL = ("medvill_mask", "seed")

_BEFORE = (
    Notebook(
        "00_check_setup",
        roles=tuple(data_roles.ROLES),
        groups=("run", "data", "look", "both", "model", "pretrain", "evaluate"),
        prepared=False,
    ),
    Notebook("01_prepare_data", roles=tuple(data_roles.ROLES), groups=("data", "look")),
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
    Notebook(
        START,
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
)

# What is compared with the papers. A further task is a further row.
_TASKS = (
    _medvill_task("12_medvill_classify", "transfer", "classify", long=True),
    _medvill_task("13_medvill_retrieve", "transfer", "retrieve"),
    _medvill_task("14_medvill_vqa", "questions", "vqa"),
    _medvill_task("15_medvill_generate", "transfer", "generate", long=True),
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
    _xvl_task("24_xvl_detect_errors", ("transfer",), ("xvl_tune", "errors")),
    _xvl_task("25_xvl_correct_errors", (), ("xvl_tune", "writer", "correct")),
    _xvl_task("26_xvl_retrieve", (), ("prompts", "xvl_retrieve"), long=False),
    _xvl_task("27_xvl_generate", (), ("xvl_tune", "writer", "xvl_generate")),
    _xvl_task("28_xvl_vqa", ("questions",), ("xvl_tune", "writer", "xvl_vqa")),
    _xvl_task("29_xvl_attention", ("unseen_disease", "transfer"), ("explain",), long=False),
)

_AFTER = (
    Notebook(
        "30_xvl_ablation",
        needs=("22_xvl_zero_shot",),
        groups=("run", "batch", "pretrain", "ablation", "evaluate"),
        compares=True,
        default=False,
    ),
    Notebook(
        "90_results_vs_paper",
        needs=tuple(task.name for task in _TASKS),
        files=(paths.PAPER_VALUES,),
    ),
    Notebook(
        "91_figures",
        needs=(
            "10_medvill_model",
            "11_medvill_pretrain",
            START,
            *(task.name for task in _TASKS),
            "90_results_vs_paper",
        ),
        files=(paths.PAPER_VALUES, paths.FIGURE_INDEX),
    ),
)

# In the order of their numbers.
NOTEBOOKS = tuple(sorted((*_BEFORE, *_TASKS, *_AFTER), key=lambda book: book.name))
NAMES = tuple(n.name for n in NOTEBOOKS)


def notebook(name: str) -> Notebook:
    """Row of the table; raises ValueError, with the nearest names, for an unknown one."""
    for row in NOTEBOOKS:
        if row.name == name:
            return row
    raise ValueError(f"unknown notebook {name!r}{presets.hint(name, NAMES)}")


def select(prefixes: list[str]) -> list[str]:
    """Notebooks whose name starts with one of `prefixes`, in order; without prefixes those that run
    by default.

    Raises ValueError when a prefix matches none.
    """
    for prefix in prefixes:
        if not prefix or not any(name.startswith(prefix) for name in NAMES):
            raise ValueError(f"no notebook starts with {prefix!r}{presets.hint(prefix, NAMES)}")
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
        for role in data_roles.ROLES
        if any(role in row.roles and (row.prepared or not prepared) for row in rows)
    ]
