"""The code that makes a result: a module and all that it imports, as fingerprints.

Two versions of a module have the same fingerprint when their syntax trees agree, docstrings aside:
comments, formatting and docstrings make no result. Imports are followed wherever they stand in a
module, inside functions too. Modules that are imported by name, as in
``import_module(f"data_prep.datasets.{name}")``, count with their whole package, and data files that
lie beside a module and are named in it count with it.
"""

import ast
import contextlib
import gc
import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_prep", "medxvl")
# Tables: what they say of a notebook or a training (its settings, data, needs) is compared value by
# value where it is used, so a row for something else changes nothing.
TABLES = ("medxvl/config/settings.csv", "medxvl/config/notebooks.py")
_DATA_FILE = re.compile(r"[\w-]+\.(csv|json|toml|txt|html|css)")


class Tree:
    """The modules of a checkout: their fingerprints and imports, each read once when it is needed.

    `changed` {path relative to the root: source} stands in for what lies on the disk. `memory` is a
    file that keeps what was read for the next process, since parsing all modules takes a second.
    """

    def __init__(
        self,
        root: Path = ROOT,
        changed: dict[str, str] | None = None,
        memory: Path | None = None,
    ):
        self.root, self.changed, self.memory = Path(root), changed or {}, memory
        self._files: dict[str, tuple[str, set[str], set[str]]] = {}
        self._known = self._recall() if memory else {}
        self._is_new = False

    def closure(
        self,
        modules: Iterable[str],
        source: str = "",
        only: str = "",
        without: Iterable[str] = (),
    ) -> dict[str, str]:
        """Fingerprints by file of `modules` (dotted names), of the code `source` (as "cells") and
        what it imports, and of all that these import in turn; those of TABLES are left out.

        `only` is the name that takes the place of the variable in imports by name; without it all
        modules of such a package count. Files in `without` are not followed.
        """
        todo = {file for module in modules for file in _files_of(self.root, module)}
        found: dict[str, str] = {}
        if source:
            found["cells"], imports, named = self._of_source(source)
            todo |= imports | named
        while todo:
            file = todo.pop()
            if file in found or file in TABLES or file in without:
                continue
            found[file], imports, named = self._read(file)
            todo |= imports | {f for f in named if not only or Path(f).stem == only}
        if self.memory:
            self._keep()
        return dict(sorted(found.items()))

    def _of_source(self, source: str) -> tuple[str, set[str], set[str]]:
        """As `_read`, of code that lies in no file of the packages."""
        digest = hashlib.sha256(source.encode()).hexdigest()
        name = f"{digest}.py"
        if name not in self._files:
            self.changed[name] = source
        return self._read(name)

    def _read(self, file: str) -> tuple[str, set[str], set[str]]:
        """Fingerprint, files imported, and files of packages that are imported by name."""
        if file not in self._files:
            if file in self.changed:
                content = self.changed[file].encode()
            else:
                content = (self.root / file).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            known = self._known.get(file)
            if known and known[0] == digest:
                self._files[file] = known[1], set(known[2]), set(known[3])
            else:
                self._files[file] = self._parse(file, content.decode("utf-8"), digest)
                self._known[file] = [digest, *map(_plain, self._files[file])]
                self._is_new = True
        return self._files[file]

    def _parse(self, file: str, text: str, digest: str) -> tuple[str, set[str], set[str]]:
        """As `_read`, of a file's text; a file that is no module counts by its bytes, `digest`."""
        if not file.endswith(".py"):
            return digest[:12], set(), set()
        # The garbage collector walks a growing syntax tree again and again for nothing: without it
        # parsing takes half the time.
        collects = gc.isenabled()
        gc.disable()
        try:
            tree = ast.parse(text)
            return fingerprint(tree), *self._imports(tree, file)
        finally:
            if collects:
                gc.enable()

    def _layout(self) -> str:
        """What else decides on the result of `_read`: which files there are, and this module."""
        names = sorted(
            path.relative_to(self.root).as_posix()
            for package in PACKAGES
            for path in (self.root / package).rglob("*")
            if path.suffix and "__pycache__" not in path.parts
        )
        return hashlib.sha256(Path(__file__).read_bytes() + repr(names).encode()).hexdigest()

    def _recall(self) -> dict[str, list]:
        """What `memory` holds, {file: [digest of its bytes, fingerprint, imports, named]}; {} where
        it cannot be read, or the files of the checkout are others now.
        """
        try:
            kept = json.loads(self.memory.read_text(encoding="utf-8"))
            return kept["files"] if kept["layout"] == self._layout() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _keep(self) -> None:
        """Write `memory` anew, whole or not at all, when something was read that it does not hold.
        Where nothing can be written, the next process reads the modules again.
        """
        if not self._is_new:
            return
        partial = self.memory.with_name(f"{self.memory.name}.{os.getpid()}")
        try:
            partial.parent.mkdir(exist_ok=True)
            partial.write_text(
                json.dumps({"layout": self._layout(), "files": self._known}), encoding="utf-8"
            )
            partial.replace(self.memory)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
        self._is_new = False

    def _imports(self, tree: ast.AST, file: str) -> tuple[set[str], set[str]]:
        """Files that a syntax tree, that of `file`, imports or names, and those of packages from
        which it imports by name."""
        package = Path(file).parent.parts
        files: set[str] = set()
        named: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    files |= _files_of(self.root, alias.name)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) + 1 - node.level] if node.level else ()
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    files |= _files_of(self.root, f"{base}.{alias.name}") or _files_of(
                        self.root, base
                    )
            elif isinstance(node, ast.JoinedStr):
                named |= self._of_package(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if _DATA_FILE.fullmatch(node.value) and file:
                    beside = Path(file).parent / node.value
                    files |= {beside.as_posix()} if (self.root / beside).is_file() else set()
        return files, named

    def _of_package(self, text: ast.JoinedStr) -> set[str]:
        """All modules of the package that an f-string such as ``f"data_prep.datasets.{name}"``
        begins with."""
        first = text.values[0] if text.values else None
        if not (isinstance(first, ast.Constant) and str(first.value).startswith(PACKAGES)):
            return set()
        if not re.fullmatch(r"(\w+\.)+", str(first.value)) or len(text.values) != 2:
            return set()
        folder = self.root.joinpath(*first.value.rstrip(".").split("."))
        return {path.relative_to(self.root).as_posix() for path in folder.glob("*.py")}


@cache
def _files_of(root: Path, module: str) -> frozenset[str]:
    """Files that importing a module runs: its own and those of the packages around it."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return frozenset()
    base = root.joinpath(*parts)
    own = [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]
    if not own:
        return frozenset()
    around = [root.joinpath(*parts[:k], "__init__.py") for k in range(1, len(parts))]
    return frozenset(p.relative_to(root).as_posix() for p in [*own, *around] if p.is_file())


def _plain(value: str | set[str]) -> str | list[str]:
    return value if isinstance(value, str) else sorted(value)


def fingerprint(tree: ast.AST) -> str:
    """12 hex digits of a syntax tree without positions and docstrings."""
    told: list[str] = []
    _tell(tree, told)
    return hashlib.sha256("\x1f".join(told).encode()).hexdigest()[:12]


def _tell(node: ast.AST, told: list[str]) -> None:
    """Append the fields of a node and of those below it; empty ones are skipped, because which of
    them exist depends on the version of Python."""
    told.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == []:
            continue
        told.append(name)
        for part in value if isinstance(value, list) else [value]:
            match part:
                case ast.Expr(value=ast.Constant(value=str())):
                    pass  # nothing but a string: a docstring, wherever it stands
                case ast.AST():
                    _tell(part, told)
                case _:
                    told.append(repr(part))
    told.append(".")


@cache
def tree() -> Tree:
    """The checkout that runs; changes made to its files later in this process are not seen."""
    return Tree(memory=ROOT / "data_prep" / "__pycache__" / "fingerprints.json")


def digest(files: dict[str, str]) -> str:
    """12 hex digits of a closure."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]


def digest_of(*modules: str, only: str = "") -> str:
    """12 hex digits of the closure of `modules`, dotted names, in the checkout that runs."""
    return digest(tree().closure(modules, only=only))
