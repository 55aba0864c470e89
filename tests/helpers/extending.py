"""docs/extending.md, carried out in a copy of the project."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from medxvl.config import paths

PAGE = paths.ROOT / "docs" / "extending.md"


def blocks(heading: str, language: str) -> list[str]:
    """Fenced blocks of one language in the section `heading`."""
    text = PAGE.read_text(encoding="utf-8")
    (section,) = [s for s in text.split("\n## ") if s.startswith(heading)]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)


def copy_of_project(target: Path) -> Path:
    """The project's files, new ones too, without what git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.split("\0"):
        if name and (paths.ROOT / name).is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(paths.ROOT / name, target / name)
    return target


def insert(file: Path, after: str, text: str) -> None:
    """Put `text` below the first line that starts with `after`."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(k for k, line in enumerate(lines) if line.startswith(after))
    file.write_text("".join([*lines[: at + 1], text, *lines[at + 1 :]]), encoding="utf-8")


def extend(project: Path) -> None:
    """Do what the page says."""
    module, row = blocks("A new dataset", "python")
    (project / "data_prep" / "datasets" / "clinic.py").write_text(module)
    insert(project / "data_prep" / "__init__.py", "DATASETS = (", row)

    module, row = blocks("A new downstream task", "python")
    (project / "medxvl" / "xvl" / "tasks" / "neighbours.py").write_text(module)
    insert(project / "medxvl" / "config" / "notebooks.py", "_TASKS = (", row)
    (cells,) = blocks("A new downstream task", "text")
    nbformat.write(notebook(cells), project / "notebooks" / "31_xvl_neighbours.ipynb")
    (setting,) = blocks("A new downstream task", "csv")
    with open(project / "medxvl" / "config" / "settings.csv", "a", encoding="utf-8") as stream:
        stream.write(setting)

    (row,) = blocks("A new sweep value", "python")
    insert(project / "medxvl" / "config" / "presets.py", "ABLATIONS = {", row)


def notebook(text: str) -> nbformat.NotebookNode:
    """Cells in the percent format as a notebook."""
    cells = []
    for part in re.split(r"^# %%", text, flags=re.M)[1:]:
        kind, _, source = part.partition("\n")
        if "markdown" in kind:
            cells.append(nbformat.v4.new_markdown_cell(source.strip()))
        else:
            tags = ["parameters"] if "parameters" in kind else []
            cells.append(nbformat.v4.new_code_cell(source.strip(), metadata={"tags": tags}))
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return book


def write_clinic(folder: Path, studies: int = 40) -> Path:
    """A made-up export of a clinic, as the page describes it."""
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for k in range(studies):
        Image.fromarray(rng.integers(0, 256, (80, 90), dtype=np.uint8)).save(
            folder / "images" / f"{k:04}.png"
        )
        text = "small left effusion." if k % 3 else "the lungs are clear."
        rows.append({"id": f"c{k}", "patient": f"p{k // 2}", "file": f"{k:04}.png", "text": text})
    pd.DataFrame(rows).to_csv(folder / "studies.csv", index=False)
    return folder
