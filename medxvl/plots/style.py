"""The one style of all figures, the line that says what a figure was made from, and the writing of
figure files.
"""

import os
import textwrap
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ONE_COLUMN, TWO_COLUMNS = 3.35, 7.0  # inches
DPI = 200
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.titlesize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": DPI,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "pdf.compression": 6,
    "svg.hashsalt": "medxvl",
}
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#8C8C8C"
PALE = {
    "image": "#d9e8f5",
    "text": "#fbe3c8",
    "joint": "#e4efe0",
    "head": "#f0dfe9",
}  # fills of a schematic


def save(fig, path):
    """Write `path`.pdf (vector, fonts embedded) and `path`.png (200 dpi); the same figure gives the
    same bytes.

    `path` has no suffix. Each file appears whole or not at all. Gives the two paths.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dateless = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    written = []
    with styled():
        for suffix, metadata in dateless.items():
            target = path.with_name(f"{path.name}.{suffix}")
            partial = target.with_name(f".{target.name}.partial")
            fig.savefig(partial, format=suffix, dpi=DPI, metadata=metadata)
            os.replace(partial, target)
            written.append(target)
    return written


def is_synthetic(dataset):
    """Whether a data label is the phantom's."""
    return str(dataset).startswith("phantom")


@contextmanager
def styled():
    """Our style inside, the user's outside: for a `with` block, or as the decorator of a drawing
    function. Not `rc_context`: it also undoes what Jupyter's backend
    sets when the first figure starts it, and no later figure would be shown."""
    before = {key: plt.rcParams[key] for key in STYLE}
    plt.rcParams.update(STYLE)
    try:
        yield
    finally:
        plt.rcParams.update(before)


def note(fig, dataset, text="", width=None):
    """Small line on top that says what the figure was made from."""
    source = (
        "synthetic phantom, not patients"
        if is_synthetic(dataset)
        else f"data: {dataset}"
        if dataset
        else ""
    )
    line = "; ".join(part for part in (source, text) if part)
    if line:
        colour = VERMILION if is_synthetic(dataset) else "0.3"
        width = width or int(fig.get_figwidth() * 17)
        fig.suptitle("\n".join(textwrap.wrap(line, width)), x=0.01, ha="left", color=colour)


def grid(count, columns, height, width=TWO_COLUMNS):
    """Figure with `count` axes in rows of `columns`; `height` in inches a row."""
    rows = -(-count // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(width, rows * height), squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return fig, list(axes.flat)


def schematic(height, top):
    """An empty drawing 100 wide and `top` high, on paper `height` inches high: (figure, box, arrow,
    axes).

    `box(x, y, w, h, text, colour)` and `arrow(x0, y0, x1, y1)` draw into it.
    """
    fig, ax = plt.subplots(figsize=(TWO_COLUMNS, height))
    ax.set(xlim=(0, 100), ylim=(0, top))
    ax.set_axis_off()

    def box(x, y, w, h, text, colour, size=7, edge="-"):
        shape = "round,pad=0.2,rounding_size=0.8"
        ax.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle=shape, fc=colour, ec="0.3", lw=0.6, ls=edge)
        )
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size)

    def arrow(x0, y0, x1, y1, dash="-"):
        ax.annotate(
            "",
            (x1, y1),
            (x0, y0),
            arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": "0.3", "ls": dash},
        )

    return fig, box, arrow, ax
