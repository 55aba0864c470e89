"""Draw the papers' figures from what a run left: python figures/make.py [ID...] [--preset demo]
[--out DIR]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # works in a checkout that is not installed too

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

from medxvl.config import paths, presets  # noqa: E402
from medxvl.plots import index, style


def main(arguments=None):
    """Gives the exit code: 0, or 2 after `error: ...` for a wrong name or a figure whose inputs are
    not there.
    """
    parser = argparse.ArgumentParser(
        prog="figures/make.py",
        description="Draw the papers' figures as PDF and PNG from "
        "the rows and predictions of a run. Without ID: all that have their inputs.",
    )
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="figures of figures/figures.csv (see --list)"
    )
    parser.add_argument(
        "--preset", default="demo", choices=presets.NAMES, help="run to draw from (default: demo)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the files (default: runs/<preset>/figures)"
    )
    parser.add_argument(
        "--list", action="store_true", help="print every figure with its state, draw nothing"
    )
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options):
    """Draw what was asked for; one line a figure."""
    table = index.index()
    if options.list:
        print(table[["id", "paper", "status"]].to_string(index=False, justify="left"))
        return 0
    unknown = [name for name in options.ids if name not in set(table.id)]
    if unknown:
        raise ValueError(
            f"unknown figure {', '.join(unknown)}: expected some of {', '.join(table.id)}"
        )
    out = options.out or paths.RUNS / options.preset / "figures"
    for name in options.ids or [n for n in table.id if n in index.DRAW]:
        try:
            fig = index.figure(name, options.preset)
        except index.MissingInput as missing:
            if options.ids:
                raise ValueError(f"{name}: {missing}") from None
            print(f"{name}: not drawn, {missing}")
            continue
        files = style.save(fig, out / name)
        plt.close(fig)
        print(f"{name}: {', '.join(map(str, files))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
