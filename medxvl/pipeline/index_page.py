"""The first page, runs/<preset>/html/index.html: contents, notebooks in order, figures, result
tables, what the run was made with.

Everything that it shows or offers lies in the page itself, so the folder html/ can be copied
anywhere.
"""

import base64
import csv
import json
import mimetypes
import re
from pathlib import Path

from medxvl.config import notebooks, paths, records, roles, sweeps
from medxvl.notebook.templates import environment
from medxvl.pipeline import manifest

SHOWN = ("subset", "model", "control", "metric", "value", "n", "seed")


def embedded(path: Path) -> str:
    """A file as an address, so that a page needs no other file."""
    kind, _ = mimetypes.guess_type(path)
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


TEMPLATES = environment(Path(__file__).parent / "templates", embedded=embedded)


def page(folder: Path, preset: str, pages: dict, notes: dict) -> str:
    """The page for runs/<preset>; `pages` {step: its executed notebook}, `notes` as in
    `pages.build`.
    """
    data = [records.read_json(folder / "data" / f"{role}.json") or {} for role in roles.ROLES]
    return TEMPLATES.get_template("index.html").render(
        preset=preset,
        synthetic=[card for card in data if card.get("synthetic")],
        real=[card for card in data if card and not card.get("synthetic")],
        notebooks=_notebooks(folder, pages, notes),
        figures=_figures(folder),
        results=_results(folder / "results.csv"),
        made=_manifest(folder),
    )


def page_name(step: sweeps.Step) -> str:
    """File name of a notebook's page."""
    return step.label.replace(" ", "-") + ".html"


def title(source: Path) -> str:
    """First heading of a notebook."""
    for cell in (records.read_json(source) or {}).get("cells", []):
        if cell["cell_type"] == "markdown" and (
            found := re.search(r"^#+ +(.+)", "".join(cell["source"]), re.M)
        ):
            return found[1]
    return ""


def _notebooks(folder: Path, pages: dict, notes: dict) -> list[dict]:
    """A row for each page, and one without a page for each notebook that has not run."""
    rows = []
    for name in notebooks.NAMES:
        own = [step for step in pages if step.name == name]
        if not own:
            rows.append(
                {"page": "", "label": name, "title": title(paths.NOTEBOOKS / f"{name}.ipynb")}
            )
        for step in own:
            record = records.read(folder / sweeps.prefix(step.variant)).get(name, {})
            status = record.get("status", "")
            if ".failed" in pages[step].name:
                status = f"failed: {record.get('error', '')}"
            rows.append(
                {
                    "page": page_name(step),
                    "label": step.label,
                    "title": title(pages[step]),
                    "time": records.clock(record.get("seconds") or 0),
                    "memory": f"{record.get('peak_mb', '')} MB",
                    "status": notes.get(step.label, status),
                }
            )
    return rows


def _figures(folder: Path) -> dict:
    """The papers' figures in the order of their index, the others that notebooks saved, and what is
    not drawn; {} where no notebook saved a figure.
    """
    there = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    if not there:
        return {}
    with open(paths.FIGURE_INDEX, newline="", encoding="utf-8") as stream:
        index = {row["id"]: row for row in csv.DictReader(stream)}
    found = {
        name: {
            "name": name,
            "png": path,
            "pdf": pdf if (pdf := path.with_suffix(".pdf")).is_file() else None,
            "caption": name.replace("_", " ").replace("-", " "),
            "status": "",
        }
        for name, path in there.items()
    }
    for name in index.keys() & found.keys():
        row = index[name]
        found[name] |= {"caption": f"{row['paper']}. {row['caption']}.", "status": row["status"]}
    return {
        "of_papers": [found[name] for name in index if name in found],
        "others": [figure for name, figure in found.items() if name not in index],
        "absent": [
            [name, row["caption"], row["status"]]
            for name, row in index.items()
            if name not in found
        ],
    }


def _results(path: Path) -> dict:
    """Rows by paper, task, dataset and split, as tables; {} where there is no file."""
    if not path.exists():
        return {}
    groups: dict[tuple, list[dict]] = {}
    with open(path, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            key = tuple(row[c] for c in ("paper", "task", "dataset", "split"))
            groups.setdefault(key, []).append(row)
    tables = []
    for (paper, task, dataset, split), rows in groups.items():
        seeds = len({row["seed"] for row in rows}) > 1
        columns = [c for c in SHOWN if any(row[c] for row in rows) and (c != "seed" or seeds)]
        parts = (paper, task.replace("_", " "), dataset, split)
        tables.append(
            {
                "title": " · ".join(filter(None, parts)),
                "columns": columns,
                "rows": [[_cell(row, column) for column in columns] for row in rows],
            }
        )
    return {"file": path, "groups": tables}


def _manifest(folder: Path) -> dict:
    """Commit, settings, data, machine, versions and checkpoints; and whether the rows were
    verified. {} where there is no manifest.
    """
    path = folder / "manifest.json"
    told = records.read_json(path)
    if not told:
        return {}
    git, machine = told.get("git") or {}, told.get("machine", {})
    known = manifest.certificate(folder)
    verified = "not verified: ./run_all.sh verify runs everything again and compares"
    if known:
        verified = f"all {known['rows']} rows the same, bit for bit ({manifest.CERTIFICATE})"
    facts = [
        ["commit", f"{git.get('commit', 'unknown')}{', with changes' if git.get('dirty') else ''}"],
        ["medxvl", told.get("medxvl", "")],
        ["settings changed", told.get("overrides") or "none"],
        ["seed", told.get("seed", "")],
        ["machine", ", ".join(str(machine[k]) for k in ("system", "processor") if machine.get(k))],
        ["cores, memory", f"{machine.get('cores', '')}, {machine.get('memory_gb', '')} GB"],
        ["accelerators", ", ".join(machine.get("accelerators", [])) or "none"],
    ]
    for role, card in told.get("data", {}).items():
        if "fingerprint" in card:
            facts.append([role, f"{card.get('label', '')}, fingerprint {card['fingerprint']}"])
    settings = [[name, json.dumps(value)] for name, value in told.get("preset", {}).items()]
    checkpoints = [
        [name, about["sha256"][:16]] for name, about in told.get("checkpoints", {}).items()
    ]
    return {
        "file": path,
        "facts": [*facts, ["run twice", verified]],
        "tables": [
            ("Settings", ["setting", "value"], settings),
            ("Versions", ["package", "version"], list(told.get("versions", {}).items())),
            ("Checkpoints", ["file", "SHA-256, its start"], checkpoints),
        ],
    }


def _cell(row: dict, column: str) -> str:
    """A cell of a result table; the value with its interval."""
    if column == "value" and row["ci_low"]:
        return f"{_short(row['value'])} [{_short(row['ci_low'])}, {_short(row['ci_high'])}]"
    return _short(row[column]) if column in ("value", "n") else row[column]


def _short(text: str) -> str:
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3f}"
    except ValueError:
        return text
