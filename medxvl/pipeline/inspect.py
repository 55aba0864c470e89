"""What a weights file is, and whether it is whole; nothing in it is run."""

import argparse
import sys
from collections import Counter

import medxvl


def inspect(path, branch: str = "") -> str:
    """What the checkpoint at `path` is, as text. Raises as `convert.convert` does."""
    medxvl.set_up()
    from medxvl.medvill.model import MedViLL
    from medxvl.weights import convert
    from medxvl.xvl.model import XVL

    found = convert.convert(path, branch, (XVL, MedViLL))
    raw, report = found.raw, found.report
    types = Counter(str(v.dtype).removeprefix("torch.") for v in raw.state.values())
    rows = [
        ("file", f"{raw.file} ({raw.file.stat().st_size / 1e6:,.1f} MB, {raw.form})"),
        ("kind", found.kind),
        ("parameters", f"{found.parameters:,}"),
        (
            "numbers",
            f"{sum(v.numel() for v in raw.state.values()):,} in {len(raw.state):,} tensors",
        ),
        ("types", ", ".join(f"{kind} ({n:,})" for kind, n in types.most_common())),
        ("branch", raw.branch),
        (
            "beside it",
            ", ".join(
                f"{k}={v}" if isinstance(v, int | float | str) else k for k, v in raw.beside.items()
            ),
        ),
        (
            "says of itself",
            ", ".join(
                f"{k}={v}" for k, v in raw.about.items() if k not in ("preset", "settings", "code")
            ),
        ),
        ("settings", " ".join(f"{k}={v}" for k, v in found.sizes.items())),
        ("weights", f"{len(report.weights):,} used by our model"),
        ("missing", _listed(report.missing)),
        ("unexpected", _listed(report.unexpected)),
        ("reshaped", _listed([f"{k} {how}" for k, how in report.reshaped.items()])),
        (
            "other shape",
            _listed([f"{k} expected {a}, found {b}" for k, (a, b) in report.mismatched.items()]),
        ),
        (
            "left out",
            "; ".join(f"{n:,} {why}" for why, n in Counter(report.left_out.values()).most_common())
            or "none",
        ),
        ("notes", "; ".join(raw.notes + convert.remarks(found))),
        ("use it for", found.uses),
    ]
    return "\n".join(f"{name:15} {value}" for name, value in rows if value)


def _listed(names: list[str]) -> str:
    return (
        f"{len(names):,}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        if names
        else "none"
    )


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code, 2 for what is wrong with the file or the call."""
    about = "Say what a checkpoint is, whether it is whole, and what it can be used for."
    parser = argparse.ArgumentParser(
        prog="python -m medxvl.pipeline inspect",
        description=f"{about} Nothing in it is run.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="file or folder; names are also looked up in data/weights"
    )
    parser.add_argument(
        "--branch",
        default="",
        help="part of a training's checkpoint, such as student (default: teacher)",
    )
    options = parser.parse_args(arguments)
    try:
        print(inspect(options.path, options.branch))
    except (OSError, ValueError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    return 0
