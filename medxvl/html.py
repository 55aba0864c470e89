"""Executed notebooks as web pages: runs/<preset>/html, each page in one file that needs no network.

`python -m medxvl.html [PRESET]` makes them anew; `run_all.sh` does it at the end of a run.
"""

import base64
import csv
import html
import re
import sys
from pathlib import Path

from medxvl import data, graph, paths, presets, records, variants

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #59636e; --page: #fff; --box: #f4f6f8; --line: #d5dbe1;
  --link: #0757b3; --bad: #b3261e; --good: #1a6b34;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e3e7eb; --soft: #9aa5b1; --page: #15181c; --box: #1f242a; --line: #39424c;
    --link: #86b9ff; --bad: #ff8a80; --good: #7fd69a;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 60rem; padding: 1rem;
  background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif;
}
a { color: var(--link) }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .9rem }
footer, figcaption { color: var(--soft); font-size: .85rem }
footer { margin-top: 2rem }
h1 { font-size: 1.6rem; line-height: 1.25 } h2 { font-size: 1.25rem } h3 { font-size: 1.05rem }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; line-height: 1.45 }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace }
.output_stream pre { white-space: pre; overflow-wrap: normal; font-size: .8rem }
.input_area, .output_error {
  background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
}
.output_error, .failed { color: var(--bad) }
.ok { color: var(--good) }
.prompt { display: none }
.cell { margin: .8rem 0 }
.output_area { margin: .5rem 0 }
.output_subarea, .scroll, .rendered_html { overflow-x: auto }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
figure { margin: 1rem 0 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td {
  border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top;
}
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
{body}
<footer>{footer}</footer>
</body></html>
"""
SHOWN = ("task", "dataset", "subset", "model", "metric", "value", "ci_low", "ci_high", "n", "control")


def build(preset: str, notes: dict | None = None) -> Path:
    """Write the pages of runs/<preset> that are older than their notebook, and the index; its path.

    `notes` {label of a step: words} stand in the index in place of a notebook's state, where the latest run left an earlier page.
    """
    folder = paths.RUNS / preset
    target = folder / "html"
    target.mkdir(parents=True, exist_ok=True)
    steps = [variants.Step(name, variant) for name in graph.NAMES for variant in variants.folders(folder)]
    pages = [(step, source) for step in steps if (source := executed(folder / step.file))]
    # with another set of pages, every page has other neighbours to link to
    others = {path.stem for path in target.glob("*.html")} != {"index", *(page_name(step) for step, _ in pages)}
    for number, (step, source) in enumerate(pages):
        page = target / f"{page_name(step)}.html"
        newest = max(source.stat().st_mtime, Path(__file__).stat().st_mtime)
        if others or page.stat().st_mtime < newest:
            around = [pages[i][0] if 0 <= i < len(pages) else None for i in (number - 1, number + 1)]
            records.write_text(page, _notebook_page(source, step, preset, around))
    for page in target.glob("*.html"):
        if page.stem not in [page_name(step) for step, _ in pages]:
            page.unlink()
    index = target / "index.html"
    records.write_text(index, _index(folder, preset, dict(pages), notes or {}))
    return index


def page_name(step: variants.Step) -> str:
    return step.label.replace(" ", "-")


def executed(notebook: Path) -> Path | None:
    """The executed notebook to show: the good one, else what a failed run left."""
    for path in (notebook, notebook.with_suffix(".failed.ipynb")):
        if path.exists():
            return path
    return None


def _notebook_page(source: Path, step: variants.Step, preset: str, around: list) -> str:
    sys.modules.setdefault("rfc3987_syntax", None)  # as in medxvl.notebook
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    try:
        body, _ = HTMLExporter(template_name="basic", exclude_anchor_links=True).from_filename(str(source))
    except Exception as error:  # what a killed run left may be no notebook; the other pages are wanted all the same
        body = f"<p class=failed>{html.escape(f'{source.name} cannot be shown: {error}')}</p>"
    body = re.sub(r'href="(?:\./)?([\w.-]+)\.ipynb', r'href="\1.html', body)
    light = HtmlFormatter(style="tango").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = f"{STYLE}{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n.highlight{{background:none!important}}"
    links = "".join(f'<a href="{page_name(s)}.html">{way} {s.label}</a>' for s, way in zip(around, "←→", strict=True) if s)
    nav = f'<nav><a href="index.html">all notebooks</a>{links}</nav>'
    return PAGE.format(
        title=f"{step.label} ({preset})",
        style=style,
        body=f"{nav}\n{body}\n{nav}",
        footer=f"Executed notebook, preset {html.escape(preset)}. Made by medxvl.",
    )


def _index(folder: Path, preset: str, pages: dict, notes: dict) -> str:
    body = [f"<h1>medxvl: results of the preset <code>{html.escape(preset)}</code></h1>"]
    body.append("<p>MedViLL and Medical X-VL, notebook by notebook. Each page is a notebook as it was run.</p>")
    body += _banner([record for record in _data(folder) if record])
    rows = []
    for name in graph.NAMES:
        own = [step for step in pages if step.name == name]
        if not own:
            rows.append([name, html.escape(_title(paths.NOTEBOOKS / f"{name}.ipynb")), "", "", "not run"])
        for step in own:
            record = records.read(folder / variants.prefix(step.variant)).get(name, {})
            failed = ".failed" in pages[step].name
            said = notes.get(step.label, f"failed: {record.get('error', '')}" if failed else record.get("status", ""))
            rows.append([
                f'<a href="{page_name(step)}.html">{step.label}</a>', html.escape(_title(pages[step])),
                records.clock(record.get("seconds") or 0), f"{record.get('peak_mb', '')} MB",
                f'<span class="{"ok" if said == "ok" else "failed"}">{html.escape(said)}</span>',
            ])  # fmt: skip
    body.append("<h2>Notebooks</h2>" + _table(["notebook", "question", "time", "peak memory", "status"], rows))
    figures = sorted((folder / "figures").glob("*.png"))
    if figures:
        body.append("<h2>Figures</h2>")
    for path in figures:
        picture = base64.b64encode(path.read_bytes()).decode()
        label = html.escape(path.stem.replace("_", " "))
        body.append(
            f'<figure><img alt="{label}" src="data:image/png;base64,{picture}"><figcaption>{label} '
            f'(<a href="../figures/{path.stem}.pdf">PDF</a>)</figcaption></figure>'
        )
    results = folder / "results.csv"
    if results.exists():
        with open(results, newline="", encoding="utf-8") as stream:
            lines = [[html.escape(_short(row[column])) for column in SHOWN] for row in csv.DictReader(stream)]
        shown = _table(SHOWN, lines) if lines else "<p>None of the notebooks that ran leaves rows in it.</p>"
        body.append(
            '<h2>Results</h2><p>All columns: <a href="../results.csv">results.csv</a>; settings, versions and '
            'machine: <a href="../manifest.json">manifest.json</a>.</p>' + shown
        )
    return PAGE.format(title=f"medxvl: {preset}", style=STYLE, body="\n".join(body), footer="Made by medxvl.")


def _banner(data_used: list[dict]) -> list[str]:
    """What of the data is synthetic, in words; nothing when none is."""
    synthetic, real = ([d for d in data_used if bool(d.get("synthetic")) is kind] for kind in (True, False))
    if not synthetic:
        return []
    says = "the numbers say that the method works, not how well it reads radiographs"
    if not real:
        told = f"<strong>Synthetic phantom data: {says}.</strong>"
    else:
        of, other = (
            ", ".join(f"{d['role'].replace('_', ' ')} ({d['label']})" for d in part) for part in (synthetic, real)
        )
        told = (
            f"<strong>Synthetic phantom: {html.escape(of)}; there {says}.</strong> Not synthetic: {html.escape(other)}."
        )
    return [f"<p>{told} Data sets marked <code>phantom:</code> are synthetic.</p>"]


def _data(folder: Path) -> list[dict]:
    return [records.read_json(folder / "data" / f"{role}.json") or {} for role in data.ROLES]


def _title(source: Path) -> str:
    """First heading of a notebook."""
    for cell in (records.read_json(source) or {}).get("cells", []):
        if cell["cell_type"] == "markdown" and (found := re.search(r"^#+ +(.+)", "".join(cell["source"]), re.M)):
            return found[1]
    return ""


def _short(text: str) -> str:
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3f}"
    except ValueError:
        return text


def _table(header, rows: list[list[str]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><tr>{"".join(f"<th>{h}</th>" for h in header)}</tr>\n{lines}</table></div>'


if __name__ == "__main__":
    try:
        print(build(presets.load(sys.argv[1] if len(sys.argv) > 1 else "demo").name))
    except ValueError as problem:
        sys.exit(f"error: {problem}")
