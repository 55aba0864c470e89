"""README.md keeps its word: the tree, the files and commands that it names."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from medxvl.config import notebooks, paths, presets, roles
from medxvl.pipeline import command_line

TEXT = (paths.ROOT / "README.md").read_text(encoding="utf-8")
SHARED_BY_TESTS = {"tests/helpers", "tests/benchmarks", "tests/parity"}


def listed():
    """{path: description} of the tree of README.md; a folder ends with a slash."""
    block = TEXT.split("## The tree")[1].split("```")[1].strip("\n")
    found, folders = {}, {}
    for line in block.split("\n"):
        indent, name, told = re.fullmatch(r"( *)(\S+)\s*(.*)", line).groups()
        depth = len(indent) // 2
        path = "".join(folders[k] for k in range(depth)) + name
        if name.endswith("/"):
            folders[depth] = name
        assert path not in found, f"{path} is listed twice"
        found[path] = told
    return found


@pytest.fixture(scope="module")
def tracked():
    """Files of the project: those that git has, and new ones that it does not ignore."""
    if not (paths.ROOT / ".git").exists():
        pytest.skip("needs a git checkout: the tree is compared with what git tracks")
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in done.stdout.splitlines() if (paths.ROOT / name).is_file()]
    return set(names)


def test_the_tree_lists_every_room_and_no_other(tracked):
    """Files at the top, folders of the packages, and in the other folders no more than the top."""
    tree = {path.rstrip("/") for path in listed()}
    top = {name for name in tracked if "/" not in name}
    folders = {str(folder) for name in tracked for folder in list(Path(name).parents)[:-1]}
    rooms = {f for f in folders if not f.startswith("tests/") or f in SHARED_BY_TESTS}
    assert not (top | rooms) - tree, f"missing in README.md: {sorted((top | rooms) - tree)}"
    assert all((paths.ROOT / path).exists() for path in tree)


def test_every_line_of_the_tree_says_what_it_is():
    assert not [path for path, told in listed().items() if len(told) < 3]


def test_every_notebook_has_its_question():
    asked = re.findall(r"^\| `(\d\d_\w+)` \| .*\? \|$", TEXT, re.M)
    assert tuple(asked) == notebooks.NAMES


def commands():
    """Lines of the bash blocks that start run_all.sh, comments and continuation lines put right."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.S)).replace("\\\n", " ")
    return [
        shlex.split(line.split("#")[0])[1:]
        for line in blocks.splitlines()
        if line.startswith("./run_all.sh")
    ]


def test_the_commands_are_valid(tmp_path, monkeypatch):
    """Each example is taken by the options' parser, with a folder in place of the path of the
    data.
    """
    (tmp_path / "x").write_text("x")
    checked = 0
    for words in commands():
        if words and words[0] in (*command_line.COMMANDS, "--help"):
            continue
        for each in command_line.by_preset(
            [re.sub(r":/path/to/\w+", f":{tmp_path}", word) for word in words]
        ):
            plan = command_line.parse(each)
            assert plan.preset in presets.NAMES and plan.notebooks
        checked += 1
    assert checked > 8


def test_roles_datasets_and_presets_are_named():
    for name in (
        *roles.ROLES,
        *roles.NAMES,
        *presets.NAMES,
        "rejects.csv",
        "card.json",
        "index.csv",
        "images.h5",
    ):
        assert f"`{name}`" in TEXT or f"{name}" in re.findall(r"[\w.]+", TEXT), name


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("https://"):
            assert (paths.ROOT / target).is_file(), (
                f"README.md points to {target}, which is not there"
            )
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in [
            h.lower().replace(" ", "-").replace(",", "")
            for h in re.findall(r"^## (.*)$", TEXT, re.M)
        ]


def test_pictures_and_numbers_of_the_phantom_say_so():
    pictures = re.findall(r"!\[([^\]]*)\]", TEXT)
    assert 2 <= len(pictures) <= 3 and all("synthetic phantom" in alt.lower() for alt in pictures)


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"@@\w+@@", TEXT)
