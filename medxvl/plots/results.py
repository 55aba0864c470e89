"""Figures of results, in one style: from rows or predictions to a matplotlib Figure, and from a
Figure to files.

Those of prepared data are in medxvl.plots.data.

Colours are the eight of Okabe and Ito (told apart by colour-blind readers), each with its own
marker or dash. `dataset` is the label that the data's card gives: one that starts with "phantom"
puts "synthetic phantom" on it.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medxvl.evaluation import facts
from medxvl.evaluation.radiologists import FIVE
from medxvl.plots import style
from medxvl.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    styled,
)

_MODELS = {  # our models and their controls: colour, dash, marker
    "X-VL (ITM)": (BLUE, "-", "o"), "X-VL (ITA)": (ORANGE, "-", "s"), "X-VL": (BLUE, "-", "o"),
    "shuffled images": (GREY, ":", "x"), "untrained": (PURPLE, ":", "+"),
    "supervised linear 32x32": (SKY, "--", "v"), "supervised upper bound": (GREEN, "--", "^"),
}  # fmt: skip
_OTHERS = [
    (VERMILION, "-.", "s"),
    (GREEN, "--", "^"),
    (ORANGE, "-", "D"),
    (SKY, "--", "v"),
    (PURPLE, "-.", "P"),
    (BLACK, ":", "X"),
    (GREY, "-", "d"),
    (BLUE, ":", "*"),
]
_READERS = [("^", VERMILION), ("D", BLACK), ("s", PURPLE), ("v", GREEN), ("P", ORANGE)]


HEADS = "ITM: matching head, ITA: cosine of image and sentence"


def _look(model, others):
    """Colour, dash and marker of a model; `others` numbers the models that have no fixed look. An
    ablated one has the whole one's.
    """
    return _MODELS.get(model.split(", ")[0]) or _OTHERS[others.index(model) % len(_OTHERS)]


def _place(model):
    """Our models first, then the controls, in the order of the table above."""
    model = model.split(", ")[0]
    return list(_MODELS).index(model) if model in _MODELS else len(_MODELS)


@styled()
def radar(values, metric):
    """Published zero-shot values, models x 5 pathologies. `values`: `published.load_paper()`;
    metric "auroc" or "f1_max".

    Beside it the mean of each model and what the values say, computed from them. ValueError when
    there are none.
    """
    said = facts.facts(values).get(metric)
    if said is None:
        raise ValueError(
            f"no published value of {metric}: expected rows of task zero_shot for {', '.join(FIVE)}"
        )
    part = values[
        (values.paper == "xvl") & (values.task == "zero_shot") & (values.metric == metric)
    ]
    wide = part.pivot(index="model", columns="subset", values="value")[FIVE].loc[
        said["means"].index
    ]
    name, low, high = {"auroc": ("AUROC", 0.5, 1.0), "f1_max": ("maximum F1", 0.0, 0.8)}.get(
        metric, (metric, 0.0, 1.0)
    )
    angles = np.linspace(0, 2 * np.pi, len(FIVE), endpoint=False)
    fig = plt.figure(figsize=(TWO_COLUMNS, 3.3))
    ax = fig.add_subplot(1, 2, 1, projection="polar")
    side = fig.add_subplot(1, 2, 2)
    side.set_axis_off()
    others = [m for m in wide.index if m not in _MODELS]
    for model in [*others, *[m for m in wide.index if m in _MODELS]]:  # ours on top
        colour, dash, marker = _look(model, others)
        row = wide.loc[model].to_numpy()
        ax.plot(
            np.append(angles, 0),
            np.append(row, row[0]),
            color=colour,
            ls=dash,
            marker=marker,
            ms=3.5,
            lw=2 if model in _MODELS else 1,
            label=f"{model}  {said['means'][model]:.4f}",
        )
    ax.set_theta_zero_location("N")
    ax.set_theta_direction(-1)
    ax.set_ylim(low, high)
    rings = np.linspace(low, high, 6 if metric == "auroc" else 5)[1:]
    ax.set_rgrids(rings, [""] * len(rings))
    ax.set_thetagrids(np.degrees(angles), [""] * len(FIVE))
    for ring in rings[:-1]:
        ax.text(
            np.radians(36),
            ring,
            f"{ring:.1f}",
            color="0.35",
            fontsize=6.5,
            ha="center",
            va="center",
            zorder=1.9,
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
        )
    for angle, finding in zip(angles, FIVE, strict=True):
        side_of = ["center", "left", "right"][int(np.sign(np.round(np.sin(angle), 6)))]
        ax.text(
            angle,
            low + 1.07 * (high - low),
            finding.replace(" ", "\n"),
            ha=side_of,
            va="bottom" if angle == 0 else "center",
        )
    ax.grid(color="0.85", lw=0.6)
    handles, labels = ax.get_legend_handles_labels()
    order = [labels.index(f"{m}  {said['means'][m]:.4f}") for m in wide.index]
    side.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="lower left",
        bbox_to_anchor=(0, 0.4),
        title=f"{name}, mean over the five pathologies",
        alignment="left",
        borderaxespad=0,
        handlelength=3,
    )
    text = "\n".join(textwrap.wrap(facts.fact_sentence(metric, said), 54))
    side.text(0, 0.33, text, va="top", ha="left", transform=side.transAxes, linespacing=1.4)
    data = ", ".join(part.dataset.unique())
    style.note(
        fig,
        "",
        f"published values (status: {said['status']}), none is ours; data: {data}, "
        f"n not recorded; centre {low:g}, rim {high:g}",
    )
    return fig


def _interval(rows, model, metric="auroc"):
    """' (low-high)' of a model or control in the result rows; '' where there is none."""
    if rows is None:
        return ""
    named = rows[
        (rows.metric == metric)
        & ((rows.model == model) & (rows.control == "") | (rows.control == model))
    ]
    named = named.dropna(subset=["ci_low", "ci_high"])
    return (
        f" ({named.ci_low.iloc[0]:.3f}\N{EN DASH}{named.ci_high.iloc[0]:.3f})" if len(named) else ""
    )


@styled()
def forest(rows, metric="auroc", dataset=None):
    """Zero-shot results as a figure: our values with 95 % CI for each finding and mean, the
    controls beside.

    `rows`: result rows of one task and one data set. Raises ValueError when none has the metric.
    """
    rows = rows[(rows.metric == metric) & rows.value.notna()]
    if rows.empty:
        raise ValueError(f"no result row with metric {metric}")
    dataset = rows.dataset.iloc[0] if dataset is None else dataset
    rows = rows.assign(series=rows.control.where(rows.control != "", rows.model))
    subsets = sorted(dict.fromkeys(rows.subset), key=lambda s: (s.startswith("mean"), s))
    series = sorted(
        [s for s in dict.fromkeys(rows.series) if s not in ("chance", "reader")], key=_place
    )
    others = [s for s in series if s not in _MODELS]
    fig, ax = plt.subplots(figsize=(TWO_COLUMNS, 1.2 + 0.36 * len(subsets)))
    if metric == "auroc":
        ax.axvline(0.5, color="0.6", lw=0.8, ls=(0, (2, 2)))
        ax.text(0.5, -0.62, "chance ", ha="right", va="center", fontsize=6.5, color="0.4")
    offsets = np.linspace(-0.3, 0.3, len(series)) if len(series) > 1 else [0]
    for name, offset in zip(series, offsets, strict=True):
        colour, _, marker = _look(name, others)
        part = (
            rows[rows.series == name].drop_duplicates("subset").set_index("subset").reindex(subsets)
        )
        y = np.arange(len(subsets)) + offset
        ours = name.startswith("X-VL")
        ax.hlines(y, part.ci_low, part.ci_high, color=colour, lw=1.6 if ours else 0.8)
        ax.plot(
            part.value,
            y,
            marker,
            color=colour,
            ls="",
            label=name,
            ms=5 if ours else 4,
            mfc=colour if ours else "white",
        )
    if metric == "auroc":
        ax.set_xlim(right=min(1.005, ax.get_xlim()[1]))
    for i in range(0, len(subsets), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="0.96", zorder=-1, lw=0)
    counts = rows.dropna(subset="n").drop_duplicates("subset").set_index("subset").n
    ax.set_yticks(
        range(len(subsets)),
        [f"{s} (n = {int(counts[s]):,})" if s in counts else s for s in subsets],
    )
    ax.set_ylim(len(subsets) - 0.4, -0.9)
    ax.tick_params(axis="y", length=0)
    words = {"auroc": "AUROC", "f1_max": "maximum F1 (optimistic)", "mcc": "Matthews correlation"}
    ax.set_xlabel(f"{words.get(metric, metric)}, 95 % CI from resampling patients")
    fig.legend(loc="outside lower center", ncols=3)
    told = ["zero-shot detection", HEADS] if set(rows.task) == {"zero_shot"} else []
    style.note(fig, dataset, "; ".join([*told, "n in studies"]))
    return fig


@styled()
def training_curves(log, x=None, columns=None, dataset="", width=TWO_COLUMNS):
    """One small panel a column of the training log (losses, learning rate, validation scores)
    against `x` (None: step, iteration or epoch, the first that is there)."""
    x = x or next((c for c in ("step", "iteration", "epoch") if c in log), "step")
    if x not in log:
        raise ValueError(
            f"the training log has no column {x!r}: found {', '.join(map(str, log.columns))}"
        )
    numeric = [
        c
        for c in log.columns
        if c != x and pd.api.types.is_numeric_dtype(log[c]) and log[c].notna().any()
    ]
    columns = columns or numeric
    if not columns:
        raise ValueError("the training log has no numeric column beside the step")
    fig, axes = style.grid(len(columns), min(4, len(columns)), 1.5, width)
    for ax, column in zip(axes, columns, strict=False):
        part = log[[x, column]].dropna()
        ax.plot(
            part[x], part[column], color=BLUE, lw=1, marker="o" if len(part) < 12 else "", ms=2.5
        )
        ax.set_title(column)
        ax.margins(x=0.02)
        ax.locator_params(nbins=4)
    fig.supxlabel(x, fontsize=7.5)
    style.note(fig, dataset)
    return fig
