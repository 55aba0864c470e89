"""Executed notebooks as web pages: runs/<preset>/html, each page in one file that needs no network.

`python -m medxvl.pipeline pages [PRESET]` makes them anew; `run_all.sh` does it at the end of a
run.
"""

import html
import re
import sys
from pathlib import Path

from medxvl.config import notebooks, paths, presets, records, sweeps
from medxvl.pipeline import index_page, page_parts, without_web_address_checks


def build(preset: str, notes: dict | None = None) -> Path:
    """Write the pages of runs/<preset> that are older than their notebook, and the index; its path.

    `notes` {label of a step: words} stand in the index in place of a notebook's state, where the
    latest run left an earlier page.
    """
    folder = paths.RUNS / preset
    target = folder / "html"
    target.mkdir(parents=True, exist_ok=True)
    steps = [
        sweeps.Step(name, variant) for name in notebooks.NAMES for variant in sweeps.folders(folder)
    ]
    pages = [(step, source) for step in steps if (source := executed(folder / step.file))]
    # with another set of pages, every page has other neighbours to link to
    others = {path.stem for path in target.glob("*.html")} != {
        "index",
        *(page_parts.name_of(step) for step, _ in pages),
    }
    for number, (step, source) in enumerate(pages):
        page = target / f"{page_parts.name_of(step)}.html"
        newest = max(
            path.stat().st_mtime for path in (source, Path(__file__), Path(page_parts.__file__))
        )
        if others or page.stat().st_mtime < newest:
            around = [
                pages[i][0] if 0 <= i < len(pages) else None for i in (number - 1, number + 1)
            ]
            records.write_text(page, _notebook_page(source, step, preset, around))
    for page in target.glob("*.html"):
        if page.stem not in [page_parts.name_of(step) for step, _ in pages]:
            page.unlink()
    index = target / "index.html"
    records.write_text(index, index_page.page(folder, preset, dict(pages), notes or {}))
    return index


def executed(notebook: Path) -> Path | None:
    """The executed notebook to show: the good one, else what a failed run left."""
    for path in (notebook, notebook.with_suffix(".failed.ipynb")):
        if path.exists():
            return path
    return None


def _notebook_page(source: Path, step: sweeps.Step, preset: str, around: list) -> str:
    without_web_address_checks()
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
        f"{page_parts.STYLE}{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n"
        ".highlight{background:none!important}"
    )
    links = "".join(
        f'<a href="{page_parts.name_of(s)}.html">{way} {s.label}</a>'
        for s, way in zip(around, "←→", strict=True)
        if s
    )
    nav = f'<nav><a href="index.html">all notebooks</a>{links}</nav>'
    return page_parts.PAGE.format(
        title=f"{step.label} ({preset})",
        style=style,
        body=f"{nav}\n{body}\n{nav}",
        footer=f"Executed notebook, preset {html.escape(preset)}. Made by medxvl.",
    )


def main(arguments: list[str]) -> int:
    """Make the pages of a preset anew (default demo); returns the exit code."""
    try:
        print(build(presets.load(arguments[0] if arguments else "demo").name))
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0
