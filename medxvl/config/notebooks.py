"""Which notebook after which: the one table that run_all.sh, the Snakefile and the tests read.

Only the standard library is imported here, so that `./run_all.sh --help` works before anything is
installed.
"""

from dataclasses import dataclass
from pathlib import Path

from medxvl.config import paths
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
        for role in data_roles.ROLES
        if any(role in row.roles and (row.prepared or not prepared) for row in rows)
    ]
