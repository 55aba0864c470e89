"""The code that a notebook runs, as a fingerprint.

Code is compared by `data_prep.code`: the import closure over syntax trees, without docstrings,
comments and formatting.
"""

import json
from functools import cache
from pathlib import Path

from data_prep import code
from medxvl.config import paths


def code_cells(path: Path) -> list[str]:
    """Sources of the code cells of a notebook file, lines of IPython magic blanked."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [
        "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in s.split("\n"))
        for s in sources
    ]


# What draws and prepares data: its result counts in a notebook by content, the data's fingerprint,
# and the Snakefile compares their code to decide on when it is made anew.
MAKES_DATA = (
    "data_prep/datasets/__init__.py",
    "data_prep/phantom/write.py",
    "data_prep/prepared/preparation.py",
)


def notebook_closure(source: str, tree: code.Tree) -> dict[str, str]:
    """Fingerprints by file of all that the cells `source` of a notebook import, and of the cells
    themselves."""
    return tree.closure([], source, without=MAKES_DATA)


@cache
def notebook_code(name: str) -> str:
    """12 hex digits of the code of the notebook `name` and of what it imports, directly or not.

    Part of what decides on a re-run: a result cannot be older than the code that makes it.
    """
    source = "\n".join(code_cells(paths.NOTEBOOKS / f"{name}.ipynb"))
    return code.digest(notebook_closure(source, code.tree()))
