"""The HTML of viewers and marked reports, as Jinja2 templates.

Each file is named here, next to it, so that the fingerprint of a notebook that shows it covers it
(data_prep.code).
"""

from pathlib import Path

import jinja2


def environment(folder: Path, **filters) -> jinja2.Environment:
    """Templates of `folder`: text is escaped, and an unknown variable is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters
    return made


_own = environment(Path(__file__).parent)
VIEWERS = _own.get_template("viewers.html").module
REPORTS = _own.get_template("reports.html").module
