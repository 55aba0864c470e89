"""Running notebooks: the command line, what runs when, records, pages and checks."""

import sys


def without_web_address_checks() -> None:
    """Keep jsonschema, which nbformat and nbconvert use, from loading its check of web addresses:
    no notebook needs it, and it takes 1.2 s to load. Called before either is imported."""
    sys.modules.setdefault("rfc3987_syntax", None)
