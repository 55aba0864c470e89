"""Fingerprints of code follow what makes a result, and nothing else; recipes say what a training
was made with."""

import ast
import json
import modulefinder
from pathlib import Path

import pytest

from data_prep import code
from medxvl.config import fingerprints, notebooks, paths

FILES = sorted(
    path.relative_to(paths.ROOT).as_posix()
    for name in code.PACKAGES
    for path in (paths.ROOT / name).rglob("*.py")
)


def _trainings() -> tuple[str, ...]:
    """Modules that define a training: a class that is a `Task`, directly or through others."""
    bases, where = {}, {}
    for file in FILES:
        if file.startswith("medxvl/"):
            for node in ast.parse((paths.ROOT / file).read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    names = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                    bases.setdefault(node.name, set()).update(names)
                    where.setdefault(node.name, set()).add(file)
    tasks, before = {"Task"}, set()
    while tasks != before:
        before = set(tasks)
        tasks |= {name for name, above in bases.items() if above & tasks}
    files = {file for name in tasks - {"Task"} for file in where[name]}
    shared = {f"medxvl/{room}/finetune.py" for room in ("training", "medvill", "xvl")}
    shared.add("medxvl/xvl/writing.py")  # what two tasks have in common
    return tuple(sorted(file[:-3].replace("/", ".") for file in files - shared))


TRAININGS = _trainings()
TREE = code.Tree()


SOURCES = {
    name: "\n".join(fingerprints.code_cells(paths.NOTEBOOKS / f"{name}.ipynb"))
    for name in notebooks.NAMES
}


def closures(tree: code.Tree) -> dict[str, dict[str, str]]:
    """Fingerprints by file of every notebook and training."""
    found = {name: fingerprints.notebook_closure(SOURCES[name], tree) for name in SOURCES}
    return found | {name: tree.closure([name]) for name in TRAININGS}


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, str]]:
    return closures(TREE)


@pytest.mark.parametrize("file", FILES)
def test_docstrings_comments_and_formatting_make_no_fingerprint(file):
    text = (paths.ROOT / file).read_text(encoding="utf-8")
    rewritten = ast.unparse(_other_docstrings(ast.parse(text)))  # no comments, other formatting
    assert code.fingerprint(ast.parse(f"# a comment\n{rewritten}")) == TREE._read(file)[0]


def _other_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body[0].value.value = "Something else."
    return tree


@pytest.mark.parametrize("file", FILES)
def test_a_changed_expression_changes_what_depends_on_it_alone(file, known):
    text = (paths.ROOT / file).read_text(encoding="utf-8")
    tree = code.Tree(changed={file: f"{text}\n_one_more = 1 + 1\n"})
    tree._files = {name: read for name, read in TREE._files.items() if name != file}
    changed = {name for name, found in closures(tree).items() if found != known[name]}
    expected = {name for name, found in known.items() if file in found}
    assert changed == expected
    if file in code.TABLES:
        assert not changed


def _imported(program) -> set[tuple[str, tuple[str, ...]]]:
    """(module, names taken from it) of every import in a compiled program, functions included."""
    found = set()
    finder = modulefinder.ModuleFinder()
    for what, given in finder.scan_opcodes(program):
        if what in ("absolute_import", "relative_import"):
            found.add((given[-1], tuple(given[-2] or ())))
    for constant in program.co_consts:
        if hasattr(constant, "co_code"):
            found |= _imported(constant)
    return found


@pytest.mark.parametrize("file", [f for f in FILES if f not in code.TABLES])
def test_nothing_that_is_imported_is_outside(file):
    """Imports read from bytecode by the standard library instead of from syntax trees by us."""
    text = (paths.ROOT / file).read_text(encoding="utf-8")
    _, imported, named = TREE._read(file)
    for module, names in _imported(compile(text, file, "exec")):
        if module.split(".")[0] in code.PACKAGES:
            for name in names or ("",):
                base = Path(*module.split("."))
                files = [base.with_suffix(".py"), base / "__init__.py"]
                if name:
                    files = [base / f"{name}.py", base / name / "__init__.py", *files]
                there = [f.as_posix() for f in files if (paths.ROOT / f).is_file()]
                assert there[0] in imported | named, f"{file} imports {module} {name}"


@pytest.mark.parametrize(
    "file, expected",
    [
        ("data_prep/datasets/nih.py", set()),  # data count by content
        ("data_prep/phantom/anatomy.py", set()),
        ("medxvl/config/settings.csv", set()),  # values are compared one by one
        ("medxvl/pipeline/pages.py", set()),
        ("medxvl/plots/attention.py", {"91_figures"}),
        ("medxvl/evaluation/repeats.py", {"30_xvl_ablation", "90_results_vs_paper"}),
        ("medxvl/evaluation/metrics.py", {"medxvl.xvl.pretrain", "medxvl.medvill.pretrain"}),
        ("medxvl/training/loop.py", {*TRAININGS, "21_xvl_pretrain"}),
        ("medxvl/xvl/losses.py", {"medxvl.xvl.pretrain", "21_xvl_pretrain", "28_xvl_vqa"}),
    ],
)
def test_what_depends_on_a_file_as_a_reader_expects(file, expected, known):
    """Named by hand: at least these, and of an empty or short list no other."""
    found = {name for name, files in known.items() if file in files}
    assert expected <= found
    if file.startswith(("data_prep", "medxvl/config", "medxvl/pipeline")):
        assert found == expected
    if file == "medxvl/xvl/losses.py":
        assert not [name for name in found if "medvill" in name]


def test_all_trainings_are_known():
    assert len(TRAININGS) == 13 and "medxvl.xvl.tasks.supervised" in TRAININGS


def test_datasets_are_read_by_name_and_data_files_count():
    """Modules loaded by name and a CSV file beside a module are part of what draws or prepares."""
    every = TREE.closure(["data_prep.prepared.preparation"])
    assert {f"data_prep/datasets/{name}.py" for name in ("nih", "openi", "table")} <= every.keys()
    own = TREE.closure(["data_prep.prepared.preparation"], only="openi")
    assert "data_prep/datasets/openi.py" in own and "data_prep/datasets/nih.py" not in own
    assert "data_prep/phantom/abdomen_prompts.csv" in TREE.closure(["data_prep.phantom.write"])


def test_a_training_does_not_hang_on_how_data_are_prepared_or_drawn(known):
    """Data count by their content; the score that decides which epoch is kept counts by code."""
    for name in ("medxvl.xvl.pretrain", "medxvl.medvill.pretrain"):
        files = known[name]
        assert "medxvl/evaluation/metrics.py" in files and "medxvl/training/loop.py" in files
        assert "medxvl/layers/vision_transformer.py" in files
        rooms = {Path(file).parts[1] for file in files}
        assert not rooms & {"plots", "notebook", "pipeline", "datasets", "phantom"}


def test_imports_are_followed_wherever_they_stand(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for name, text in {
        "medxvl/__init__.py": "",
        "medxvl/a.py": "from . import b",
        "medxvl/b.py": "",
        "medxvl/c.py": "",
        "medxvl/tasks/__init__.py": "",
        "medxvl/tasks/t.py": "def f():\n    from ..c import x",
        "data_prep/d.py": "",
    }.items():
        write(name, text)

    def seen():
        return code.digest(code.Tree(tmp_path).closure([], "from medxvl import a"))

    before = seen()
    for name, text, changes in [
        ("medxvl/c.py", "1", False),
        ("medxvl/b.py", "1", True),
        ("medxvl/b.py", "import medxvl.tasks.t", True),
        ("medxvl/c.py", "2", True),
        ("data_prep/d.py", "1", False),
        ("medxvl/b.py", "import data_prep.d", True),
        ("data_prep/d.py", "2", True),
        ("data_prep/d.py", "2  # a comment", False),
    ]:
        write(name, text)
        code._files_of.cache_clear()
        after = seen()
        assert (after != before) == changes, name
        before = after


def test_what_is_remembered_is_what_would_be_read(tmp_path):
    """The file that keeps fingerprints for the next process: the same closure, and read anew what
    changed, came or went."""
    (tmp_path / "medxvl").mkdir()
    (tmp_path / "medxvl" / "__init__.py").write_text("")
    (tmp_path / "medxvl" / "a.py").write_text("from medxvl import b\nx = 1\n")
    memory = tmp_path / "cache" / "fingerprints.json"

    def closure(remembers):
        code._files_of.cache_clear()  # a new process
        return code.Tree(tmp_path, memory=memory if remembers else None).closure(["medxvl.a"])

    assert closure(True) == closure(False) == closure(True) and memory.is_file()
    (tmp_path / "medxvl" / "b.py").write_text("y = 2\n")
    assert "medxvl/b.py" in closure(True) and closure(True) == closure(False)
    (tmp_path / "medxvl" / "b.py").write_text("y = 3\n")
    assert closure(True) == closure(False)
    memory.write_text(memory.read_text().replace("x", "y")[:-20])  # a damaged file counts as none
    assert closure(True) == closure(False)
    kept = json.loads(memory.read_text())
    kept["files"]["medxvl/b.py"][1] = "0" * 12
    memory.write_text(json.dumps(kept))
    assert closure(True)["medxvl/b.py"] == "0" * 12, "what is remembered is used"
