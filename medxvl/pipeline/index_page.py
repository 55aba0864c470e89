"""The first page, runs/<preset>/html/index.html: contents, notebooks in order, figures, result
tables, what the run was made with.

Everything that it shows or offers lies in the page itself, so the folder html/ can be copied
anywhere.
"""

import csv
import html
import json
import re
from pathlib import Path

from medxvl.config import notebooks, paths, records, roles, sweeps
from medxvl.pipeline import manifest, page_parts

SHOWN = ("subset", "model", "control", "metric", "value", "n", "seed")


def page(folder: Path, preset: str, pages: dict, notes: dict) -> str:
    """The page for runs/<preset>; `pages` {step: its executed notebook}, `notes` as in
    `pages.build`.
    """
    parts = {
        "Notebooks": _notebooks(folder, pages, notes),
        "Figures": _figures(folder),
        "Results": _results(folder / "results.csv"),
        "How it was made": _manifest(folder),
    }
    parts = {title: text for title, text in parts.items() if text}
    contents = "".join(f'<li><a href="#{_anchor(title)}">{title}</a></li>' for title in parts)
    body = [
        f"<h1>medxvl: results of the preset <code>{html.escape(preset)}</code></h1>",
        "<p>MedViLL and Medical X-VL, notebook by notebook. Each page is a notebook as it was "
        "run.</p>",
        *banner([record for record in _data(folder) if record]),
        f"<nav><ul>{contents}</ul></nav>",
        *(
            f'<section id="{_anchor(title)}"><h2>{title}</h2>{text}</section>'
            for title, text in parts.items()
        ),
    ]
    return page_parts.PAGE.format(
        title=f"medxvl: {preset}",
        style=page_parts.STYLE,
        body="\n".join(body),
        footer="Made by medxvl.",
    )


def banner(data_used: list[dict]) -> list[str]:
    """What of the data is synthetic, in words; nothing when none is."""
    synthetic, real = (
        [d for d in data_used if bool(d.get("synthetic")) is kind] for kind in (True, False)
    )
    if not synthetic:
        return []
    says = "the numbers say that the method works, not how well it reads radiographs"
    if not real:
        told = f"<strong>Synthetic phantom data: {says}.</strong>"
    else:
        of, other = (
            ", ".join(f"{d['role'].replace('_', ' ')} ({d['label']})" for d in part)
            for part in (synthetic, real)
        )
        told = (
            f"<strong>Synthetic phantom: {html.escape(of)}; there {says}.</strong> Not "
            f"synthetic: {html.escape(other)}."
        )
    return [f"<p>{told} Data sets marked <code>phantom:</code> are synthetic.</p>"]


def title(source: Path) -> str:
    """First heading of a notebook."""
    for cell in (records.read_json(source) or {}).get("cells", []):
        if cell["cell_type"] == "markdown" and (
            found := re.search(r"^#+ +(.+)", "".join(cell["source"]), re.M)
        ):
            return found[1]
    return ""


def _notebooks(folder: Path, pages: dict, notes: dict) -> str:
    rows = []
    for name in notebooks.NAMES:
        own = [step for step in pages if step.name == name]
        if not own:
            rows.append(
                [name, html.escape(title(paths.NOTEBOOKS / f"{name}.ipynb")), "", "", "not run"]
            )
        for step in own:
            record = records.read(folder / sweeps.prefix(step.variant)).get(name, {})
            failed = ".failed" in pages[step].name
            said = notes.get(
                step.label,
                f"failed: {record.get('error', '')}" if failed else record.get("status", ""),
            )
            kind = "ok" if said == "ok" else "failed"
            rows.append(
                [
                    f'<a href="{page_parts.name_of(step)}.html">{step.label}</a>',
                    html.escape(title(pages[step])),
                    records.clock(record.get("seconds") or 0),
                    f"{record.get('peak_mb', '')} MB",
                    f'<span class="{kind}">{html.escape(said)}</span>',
                ]
            )
    return page_parts.table(["notebook", "title", "time", "peak memory", "status"], rows)


def _figures(folder: Path) -> str:
    """Gallery: the papers' figures in the order of their index, then the others that notebooks
    saved; and what is not drawn.
    """
    there = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    if not there:
        return ""
    with open(paths.FIGURE_INDEX, newline="", encoding="utf-8") as stream:
        index = {row["id"]: row for row in csv.DictReader(stream)}
    of_papers = [name for name in index if name in there]
    told = {
        name: f"{index[name]['paper']}. {index[name]['caption']}. <em>{index[name]['status']}</em>"
        for name in of_papers
    }
    others = {name: name.replace("_", " ").replace("-", " ") for name in there if name not in index}
    parts = []
    for heading, captions in (("Of the papers", told), ("Of the notebooks", others)):
        shown = "".join(_figure(there[name], name, caption) for name, caption in captions.items())
        parts.append(f'<h3>{heading}</h3><div class="gallery">{shown}</div>' if shown else "")
    rows = [
        [name, html.escape(row["caption"]), html.escape(row["status"])]
        for name, row in index.items()
        if name not in there
    ]
    if rows:
        parts.append(
            "<h3>Not in this run</h3>"
            + page_parts.table(["figure", "what it shows", "state"], rows)
        )
    return "\n".join(parts)


def _figure(path: Path, name: str, caption: str) -> str:
    pdf = path.with_suffix(".pdf")
    link = f" ({page_parts.download(pdf, 'PDF')})" if pdf.is_file() else ""
    return (
        f'<figure id="{html.escape(name)}"><img '
        f'alt="{html.escape(re.sub("<[^>]+>", "", caption))}" src="{page_parts.embedded(path)}">'
        f"<figcaption>{caption}{link}</figcaption></figure>\n"
    )


def _results(path: Path) -> str:
    """A table for each paper, task and dataset, closed until it is asked for."""
    if not path.exists():
        return ""
    groups: dict[tuple, list[dict]] = {}
    with open(path, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            groups.setdefault(
                tuple(row[c] for c in ("paper", "task", "dataset", "split")), []
            ).append(row)
    if not groups:
        return "<p>None of the notebooks that ran leaves rows in it.</p>"
    parts = [f"<p>All rows and columns: {page_parts.download(path)}. In brackets: 95 % "
             "interval. A row with a control is not the model "
             "as it is, but what it is to be held against.</p>"]  # fmt: skip
    for (paper, task, dataset, split), rows in groups.items():
        seeds = len({row["seed"] for row in rows}) > 1
        columns = [c for c in SHOWN if any(row[c] for row in rows) and (c != "seed" or seeds)]
        lines = [[html.escape(_cell(row, column)) for column in columns] for row in rows]
        told = html.escape(
            " · ".join(filter(None, (paper, task.replace("_", " "), dataset, split)))
        )
        parts.append(
            f"<details><summary>{told} "
            f"({len(rows)})</summary>{page_parts.table(columns, lines)}</details>"
        )
    return "\n".join(parts)


def _manifest(folder: Path) -> str:
    """Commit, settings, data, machine, versions and checkpoints; and whether the rows were
    verified.
    """
    path = folder / "manifest.json"
    told = records.read_json(path)
    if not told:
        return ""
    git, machine = told.get("git") or {}, told.get("machine", {})
    known = manifest.certificate(folder)
    rows = [
        ["commit", f"{git.get('commit', 'unknown')}{', with changes' if git.get('dirty') else ''}"],
        ["medxvl", told.get("medxvl", "")],
        ["settings changed", told.get("overrides") or "none"],
        ["seed", told.get("seed", "")],
        ["machine", ", ".join(str(machine[k]) for k in ("system", "processor") if machine.get(k))],
        ["cores, memory", f"{machine.get('cores', '')}, {machine.get('memory_gb', '')} GB"],
        ["accelerators", ", ".join(machine.get("accelerators", [])) or "none"],
        *([role, f"{card.get('label', '')}, fingerprint {card['fingerprint']}"]
          for role, card in told.get("data", {}).items() if "fingerprint" in card),
        ["run twice", f"all {known['rows']} rows the same, bit for bit "
                      "(certificate.json)" if known else
         "not verified: ./run_all.sh verify runs everything again and compares"],
    ]  # fmt: skip
    versions = [
        [html.escape(name), html.escape(str(version))]
        for name, version in told.get("versions", {}).items()
    ]
    checkpoints = [
        [html.escape(name), f"<code>{about['sha256'][:16]}</code>"]
        for name, about in told.get("checkpoints", {}).items()
    ]
    changed = [
        [html.escape(name), html.escape(json.dumps(value))]
        for name, value in told.get("preset", {}).items()
    ]
    closed = (
        ("Settings", ["setting", "value"], changed),
        ("Versions", ["package", "version"], versions),
        ("Checkpoints", ["file", "SHA-256, its start"], checkpoints),
    )
    return "\n".join(
        [
            f"<p>All of it: {page_parts.download(path)}.</p>",
            "<dl>"
            + "".join(
                f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
                for name, value in rows
            )
            + "</dl>",
            *(
                f"<details><summary>{name} "
                f"({len(lines)})</summary>{page_parts.table(header, lines)}</details>"
                for name, header, lines in closed
                if lines
            ),
        ]
    )


def _data(folder: Path) -> list[dict]:
    return [records.read_json(folder / "data" / f"{role}.json") or {} for role in roles.ROLES]


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


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
