"""Executed notebooks as web pages: runs/<preset>/html, each page in one file that needs no network.

`python -m medxvl.html [PRESET]` makes them anew; `run_all.sh` does it at the end of a run.
"""

import html
import re
import sys
from pathlib import Path

from medxvl import graph, html_index, html_page, paths, presets, records, variants


def build(preset: str, notes: dict | None = None) -> Path:
    """Write the pages of runs/<preset> that are older than their notebook, and the index; its path.

    `notes` {label of a step: words} stand in the index in place of a notebook's state, where the
    latest run left an earlier page.
    """
    folder = paths.RUNS / preset
    target = folder / "html"
    target.mkdir(parents=True, exist_ok=True)
    steps = [
        variants.Step(name, variant) for name in graph.NAMES for variant in variants.folders(folder)
    ]
    pages = [(step, source) for step in steps if (source := executed(folder / step.file))]
    # with another set of pages, every page has other neighbours to link to
    others = {path.stem for path in target.glob("*.html")} != {
        "index",
        *(html_page.name_of(step) for step, _ in pages),
    }
    for number, (step, source) in enumerate(pages):
        page = target / f"{html_page.name_of(step)}.html"
        newest = max(
            path.stat().st_mtime for path in (source, Path(__file__), Path(html_page.__file__))
        )
        if others or page.stat().st_mtime < newest:
            around = [
                pages[i][0] if 0 <= i < len(pages) else None for i in (number - 1, number + 1)
            ]
            records.write_text(page, _notebook_page(source, step, preset, around))
    for page in target.glob("*.html"):
        if page.stem not in [html_page.name_of(step) for step, _ in pages]:
            page.unlink()
    index = target / "index.html"
    records.write_text(index, html_index.page(folder, preset, dict(pages), notes or {}))
    return index


def executed(notebook: Path) -> Path | None:
    """The executed notebook to show: the good one, else what a failed run left."""
    for path in (notebook, notebook.with_suffix(".failed.ipynb")):
        if path.exists():
            return path
    return None


def _notebook_page(source: Path, step: variants.Step, preset: str, around: list) -> str:
    sys.modules.setdefault("rfc3987_syntax", None)  # as in medxvl.notebook
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from pygments.formatters import HtmlFormatter

    try:
        exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True)
        exporter.register_preprocessor(
            CoalesceStreamsPreprocessor, enabled=True
        )  # of a progress bar, its end
        body, _ = exporter.from_filename(str(source))
    # what a killed run left may be no notebook; the other pages are wanted all the same
    except Exception as error:
        body = f"<p class=failed>{html.escape(f'{source.name} cannot be shown: {error}')}</p>"
    body = re.sub(r'href="(?:\./)?([\w.-]+)\.ipynb', r'href="\1.html', body)
    light = HtmlFormatter(style="tango").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = (
        f"{html_page.STYLE}{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n"
        ".highlight{background:none!important}"
    )
    links = "".join(
        f'<a href="{html_page.name_of(s)}.html">{way} {s.label}</a>'
        for s, way in zip(around, "←→", strict=True)
        if s
    )
    nav = f'<nav><a href="index.html">all notebooks</a>{links}</nav>'
    return html_page.PAGE.format(
        title=f"{step.label} ({preset})",
        style=style,
        body=f"{nav}\n{body}\n{nav}",
        footer=f"Executed notebook, preset {html.escape(preset)}. Made by medxvl.",
    )


if __name__ == "__main__":
    try:
        print(build(presets.load(sys.argv[1] if len(sys.argv) > 1 else "demo").name))
    except ValueError as problem:
        sys.exit(f"error: {problem}")
