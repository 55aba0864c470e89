"""Executed notebooks as web pages: runs/<preset>/html, each page in one file that needs no network.

`python -m medxvl.pipeline pages [PRESET]` makes them anew; `run_all.sh` does it at the end of a
run.
"""

import re
import sys
from pathlib import Path

from medxvl.config import notebooks, paths, presets, records, sweeps
from medxvl.pipeline import index_page, without_web_address_checks


def build(preset: str, notes: dict | None = None) -> Path:
    """Write the pages of runs/<preset> that are older than their notebook, and the index; its path.

    `notes` {label of a step: words} stand in the index in place of a notebook's state, where the
    latest run left an earlier page.
    """
    folder = paths.RUNS / preset
    target = folder / "html"
    target.mkdir(parents=True, exist_ok=True)
    pages = {}
    for name in notebooks.NAMES:
        for variant in sweeps.folders(folder):
            step = sweeps.Step(name, variant)
            good = folder / step.file
            # where the latest run failed, what it left
            for source in (good, good.with_suffix(".failed.ipynb")):
                if source.exists():
                    pages.setdefault(step, source)
    steps = list(pages)
    names = {index_page.page_name(step) for step in steps}
    # with another set of pages, every page has other neighbours to link to
    others = {path.name for path in target.glob("*.html")} != names | {"index.html"}
    layout = [Path(__file__), *(Path(__file__).parent / "templates").iterdir()]
    for number, step in enumerate(steps):
        page = target / index_page.page_name(step)
        newest = max(path.stat().st_mtime for path in (pages[step], *layout))
        if others or page.stat().st_mtime < newest:
            around = [
                (arrow, steps[k].label, index_page.page_name(steps[k]))
                for arrow, k in (("←", number - 1), ("→", number + 1))
                if 0 <= k < len(steps)
            ]
            records.write_text(page, _notebook_page(pages[step], step, preset, around))
    for page in target.glob("*.html"):
        if page.name not in names:
            page.unlink()
    index = target / "index.html"
    records.write_text(index, index_page.page(folder, preset, pages, notes or {}))
    return index


def _notebook_page(source: Path, step: sweeps.Step, preset: str, around: list) -> str:
    """The page of a notebook; `around` [(arrow, label, page), ...] are its neighbours."""
    without_web_address_checks()
    from markupsafe import Markup
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from pygments.formatters import HtmlFormatter

    body = problem = ""
    try:
        exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True)
        # of a progress bar, its end
        exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
        body, _ = exporter.from_filename(str(source))
    # what a killed run left may be no notebook; the other pages are wanted all the same
    except Exception as error:
        problem = f"{source.name} cannot be shown: {error}"
    # nbconvert and pygments write HTML and CSS that is escaped where it must be
    return index_page.TEMPLATES.get_template("notebook.html").render(
        label=step.label,
        preset=preset,
        around=around,
        problem=problem,
        body=Markup(re.sub(r'href="(?:\./)?([\w.-]+)\.ipynb', r'href="\1.html', body)),
        light=Markup(HtmlFormatter(style="tango").get_style_defs(".highlight")),
        dark=Markup(HtmlFormatter(style="github-dark").get_style_defs(".highlight")),
    )


def main(arguments: list[str]) -> int:
    """Make the pages of a preset anew (default demo); returns the exit code."""
    try:
        print(build(presets.load(arguments[0] if arguments else "demo").name))
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0
