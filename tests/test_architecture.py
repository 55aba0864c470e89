"""The house: which rooms there are, and that imports point down alone."""

import ast
import subprocess
from pathlib import Path

import pytest

from data_prep import code
from medxvl.config import paths

# Each room may import from itself and from those before it; the two papers never from each other.
ROOMS = (
    "data_prep",
    "config",
    "evaluation",
    "data",
    "layers",
    "weights",
    "training",
    ("medvill", "xvl"),
    "plots",
    "notebook",
    "pipeline",
)
RANK = {
    name: rank
    for rank, names in enumerate(ROOMS)
    for name in (names if isinstance(names, tuple) else (names,))
}
# The rooms of data_prep, likewise; `phantom` and `datasets` do not know each other.
INNER = (
    "code",
    "reports",
    "reading",
    ("datasets", "phantom"),
    "prepared",
    "__main__",
)
LONGEST_FILE, LONGEST_LINE = 400, 100


def sources() -> list[Path]:
    return sorted(path for name in code.PACKAGES for path in (paths.ROOT / name).rglob("*.py"))


def tracked(*patterns: str) -> list[str]:
    """Files of the project: those that git has, and new ones that it does not ignore."""
    if not (paths.ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (paths.ROOT / name).is_file()]


def dotted(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports from this project, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the room"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in code.PACKAGES}


def room(module: str) -> str:
    """data_prep, or the room of medxvl; "" for medxvl itself, which holds its version."""
    first, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return first if first == "data_prep" else name if name in RANK else ""


def upward(root: Path) -> list[str]:
    """Imports against the direction, as "module -> what it imports".

    medxvl itself holds its version and `set_up` and imports nothing of the project; data_prep may
    ask it for its version alone.
    """
    wrong = []
    for path in sorted(p for name in code.PACKAGES for p in (root / name).rglob("*.py")):
        module = dotted(path, root)
        here = room(module)
        for imported in imports(path):
            there = room(imported)
            if not there:
                fine = imported == "medxvl.__version__" or here not in ("data_prep", "")
                fine = fine and imported in ("medxvl", "medxvl.__version__")
            else:
                fine = here and (here == there or RANK[there] < RANK[here])
            if not fine:
                wrong.append(f"{module} -> {imported}")
    return wrong


def test_imports_point_down():
    assert not upward(paths.ROOT)


def test_an_import_against_the_direction_is_found(tmp_path):
    """The test above can fail: one upward import, one between the papers, one out of data_prep."""
    for name in ("data_prep", "medxvl"):
        for path in (paths.ROOT / name).rglob("*.py"):
            copy = tmp_path / path.relative_to(paths.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert not upward(tmp_path)
    for file, line, found in (
        ("medxvl/evaluation/metrics.py", "from medxvl.xvl import model", "medxvl.xvl.model"),
        ("medxvl/xvl/model.py", "from medxvl.medvill import masks", "medxvl.medvill.masks"),
        ("data_prep/reading/raw.py", "from medxvl.config import paths", "medxvl.config.paths"),
        ("data_prep/reading/raw.py", "import medxvl", "medxvl"),
        ("medxvl/__init__.py", "from medxvl.pipeline import pages", "medxvl.pipeline.pages"),
        ("medxvl/evaluation/metrics.py", "from medxvl import shared", "medxvl.shared"),
    ):
        path = tmp_path / file
        before = path.read_text(encoding="utf-8")
        path.write_text(f"{before}\n\ndef late():\n    {line}\n", encoding="utf-8")
        assert upward(tmp_path) == [f"{dotted(path, tmp_path)} -> {found}"]
        path.write_text(before, encoding="utf-8")


def test_imports_by_name_are_few():
    """An import by name escapes the test above: only datasets and commands are loaded so,
    and the packages of others that the doctor tries.
    """
    found = {
        dotted(path, paths.ROOT)
        for path in sources()
        if "import_module(" in path.read_text(encoding="utf-8") and path.name != "code.py"
    }
    assert found == {
        "data_prep.datasets",
        "medxvl.pipeline.__main__",
        "medxvl.pipeline.doctor",
    }


def test_data_prep_has_rooms_too():
    rank = {
        name: k
        for k, names in enumerate(INNER)
        for name in (names if isinstance(names, tuple) else (names,))
    }
    wrong = []
    for path in (paths.ROOT / "data_prep").rglob("*.py"):
        module = dotted(path, paths.ROOT)
        here = module.split(".")[1] if "." in module else ""
        for imported in imports(path):
            there = imported.split(".")[1] if imported.startswith("data_prep.") else ""
            if here in rank and there in rank and here != there and rank[there] >= rank[here]:
                wrong.append(f"{module} -> {imported}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    """At the top of modules and inside functions alike."""
    known = {dotted(path, paths.ROOT): path for path in sources()}
    graph = {}
    for module, path in known.items():
        found = {name if name in known else name.rpartition(".")[0] for name in imports(path)}
        graph[module] = {name for name in found if name in known and name != module}
    left = dict(graph)
    while free := [m for m, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"in or behind a circle: {sorted(left)}"


@pytest.mark.parametrize("package, most", [("medxvl", 12), ("data_prep", 12)])
def test_the_top_of_a_package_can_be_held_in_mind(package, most):
    names = {Path(name).parts[1] for name in tracked(f"{package}/*")}
    assert len(names) <= most, sorted(names)
    folders = {name for name in names if (paths.ROOT / package / name).is_dir()}
    rooms = RANK.keys() - {"data_prep"} if package == "medxvl" else {"phantom", *_names(INNER)}
    assert folders == {name for name in rooms if not name.startswith("__") and name != "code"}
    loose = {"medxvl": {"__init__.py"}, "data_prep": {"__init__.py", "__main__.py", "code.py"}}
    assert names - folders == loose[package], "every module has a room"


def _names(rooms) -> set[str]:
    return {name for names in rooms for name in (names if isinstance(names, tuple) else (names,))}


def test_tests_mirror_the_rooms():
    """tests/xvl/tasks holds the tests of medxvl/xvl/tasks, tests/data_prep/phantom those of
    data_prep/phantom."""
    whole = {"", "helpers", "benchmarks"}  # of the project as a whole
    folders = {Path(name).relative_to("tests").parent.as_posix() for name in tracked("tests/*.py")}
    for folder in {f.removeprefix(".") for f in folders} - whole:
        package = "" if folder.startswith("data_prep") else "medxvl"
        assert (paths.ROOT / package / folder).is_dir(), f"tests/{folder} mirrors no room"


def test_files_and_lines_are_short_enough_to_read():
    long_files, long_lines = {}, []
    for name in tracked("*.py"):
        lines = (paths.ROOT / name).read_text(encoding="utf-8").splitlines()
        if len(lines) > LONGEST_FILE:
            long_files[name] = len(lines)
        long_lines += [f"{name}:{k + 1}" for k, x in enumerate(lines) if len(x) > LONGEST_LINE]
    assert not long_files, f"more than {LONGEST_FILE} lines, to be split: {long_files}"
    assert not long_lines
