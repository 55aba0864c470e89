"""What every web page shares: style (light and dark, phone and desktop), frame, tables, and files
inside of a page.
"""

import base64
import html

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
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem;
  line-height: 1.45 }
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
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  gap: 1rem }
.gallery figure { margin: 0; padding: .6rem; background: var(--box);
  border: 1px solid var(--line); border-radius: 6px }
.gallery img { display: block; width: 100% }
details { margin: .5rem 0 }
summary { cursor: pointer }
table { border: 0; border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums }
th, td {
  border: 0 solid var(--line); border-bottom-width: 1px; padding: .25rem .7rem .25rem 0;
  text-align: left; vertical-align: top;
}
dt { color: var(--soft); font-size: .85rem; margin-top: .4rem }
dd { margin: 0; overflow-wrap: anywhere }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
{body}
<footer>{footer}</footer>
</body></html>
"""
KINDS = {
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".csv": "text/csv",
    ".json": "application/json",
}


def table(header, rows: list[list[str]]) -> str:
    """A table of cells that are HTML already; a wide one scrolls on its own."""
    lines = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    head = "".join(f"<th>{h}</th>" for h in header)
    return f'<div class="scroll"><table><tr>{head}</tr>\n{lines}</table></div>'


def name_of(step) -> str:
    """Name of a notebook's page, without its suffix."""
    return step.label.replace(" ", "-")


def embedded(path) -> str:
    """A file as an address, so that a page needs no other file."""
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def download(path, text: str = "") -> str:
    """A link that saves a file that lies in the page."""
    return (
        f'<a download="{html.escape(path.name)}" '
        f'href="{embedded(path)}">{html.escape(text or path.name)}</a>'
    )
