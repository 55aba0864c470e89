"""`./run_all.sh settings [PATTERN]`: the table of settings, printed.

Only the standard library is imported here, so that it answers before anything is installed.
"""

import argparse
import fnmatch
import shutil
import sys
import textwrap

from medxvl.config import presets
from medxvl.config.settings import PRESETS, TABLE, Setting

NARROWEST = 80  # columns, of a terminal that does not say how wide it is, or says less


def main(arguments: list[str]) -> int:
    """Print the settings that match a pattern; exit code 0, or 1 where none matches."""
    parser = argparse.ArgumentParser(
        prog="./run_all.sh settings",
        description="List the settings (--set NAME=VALUE): the value in every preset, what the "
        "setting does, and with a pattern also its range and the source of the paper's value.",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        default="",
        help="part of a name, of a group or of a meaning, such as epochs, ibot, queue or ibot_*",
    )
    pattern = parser.parse_args(arguments).pattern.lower()
    found = [setting for setting in TABLE.values() if _matches(setting, pattern)]
    if not found:
        print(f"no setting matches {pattern!r}{presets.hint(pattern, TABLE)}", file=sys.stderr)
        return 1
    width = max(shutil.get_terminal_size((100, 0)).columns, NARROWEST)
    print(_header())
    for setting in found:
        print("\n".join(_lines(setting, width, details=bool(pattern))))
    return 0


def _matches(setting: Setting, pattern: str) -> bool:
    if any(character in pattern for character in "*?["):
        return fnmatch.fnmatch(setting.name, pattern)
    return any(pattern in text.lower() for text in (setting.name, setting.group, setting.meaning))


def _header() -> str:
    return f"{'name':25}" + "".join(f"{preset:>12}" for preset in PRESETS) + "  meaning"


def _lines(setting: Setting, width: int, details: bool) -> list[str]:
    values = "".join(f"{_short(value):>12}" for value in setting.values.values())
    first = f"{setting.name:25}{values}  "
    lines = textwrap.wrap(
        setting.meaning,
        max(len(first) + 30, width),
        initial_indent=first,
        subsequent_indent=" " * len(first),
    )
    if details:
        more = f"{_range(setting)}; group {setting.group}; source: {setting.source}"
        lines += textwrap.wrap(more, width, initial_indent="    ", subsequent_indent="    ")
    return lines


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _range(setting: Setting) -> str:
    if setting.choices:
        return "one of " + ", ".join(str(choice) or "nothing" for choice in setting.choices)
    if setting.kind is str:
        return "text"
    kind = "whole number" if setting.kind is int else "number"
    limits = [f"from {setting.least}"] if setting.least is not None else []
    limits += [f"to {setting.most}"] if setting.most is not None else []
    return " ".join([kind, *limits])
