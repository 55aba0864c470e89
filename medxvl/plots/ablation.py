"""Figures of notebook 30: components off one at a time, and the share of the training data. Drawn
from predictions/ablation.csv.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from medxvl.plots import style
from medxvl.plots.style import BLUE, GREY, ONE_COLUMN, ORANGE, TWO_COLUMNS, styled

_LOOKS = {"ITM": (BLUE, "o"), "ITA": (ORANGE, "s")}
_HEADS = {"ITM": "ITM (matching head)", "ITA": "ITA (cosine)"}


def _note(fig, table):
    seeds = table.seed.nunique()
    subset = table.subset.iloc[0].replace("mean of", "mean AUROC of")
    text = (
        f"{subset} findings, n = {int(table.n.max()):,} studies; small: {seeds} "
        f"seed{'s' * (seeds > 1)}, large: their mean"
    )
    style.note(fig, table.dataset.iloc[0], text)


@styled()
def components(table):
    """Zero-shot AUROC with each component off, seeds as small marks, their mean as a large one,
    shuffled images in grey.
    """
    own = table[table.share == 1]
    labels = list(dict.fromkeys(own.label))
    fig, ax = plt.subplots(figsize=(TWO_COLUMNS, 1.0 + 0.36 * len(labels)))
    ax.axvline(0.5, color="0.6", lw=0.8, ls=(0, (2, 2)))
    for k, label in enumerate(labels):
        for head, (colour, marker) in _LOOKS.items():
            y = k + (-0.14 if head == "ITM" else 0.14)
            part = own[(own.label == label) & (own["head"] == head)]
            given, control = (
                part[part.control == ""].value,
                part[part.control == "shuffled images"].value,
            )
            first = k == 0
            told = "shuffled images" if first and head == "ITM" else None
            ax.plot(control, np.full(len(control), y), "x", color=GREY, ms=3, label=told)
            ax.plot(given, np.full(len(given), y), marker, color=colour, ms=2.5, alpha=0.7)
            if len(given):
                ax.plot(
                    given.mean(),
                    y,
                    marker,
                    color=colour,
                    ms=5.5,
                    mfc="none",
                    mew=1.2,
                    label=_HEADS[head] if first else None,
                )
    for k in range(0, len(labels), 2):
        ax.axhspan(k - 0.5, k + 0.5, color="0.96", zorder=-1, lw=0)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("zero-shot AUROC (dashed: chance)")
    fig.legend(loc="outside lower center", ncols=3)
    _note(fig, own)
    return fig


@styled()
def data_share(table):
    """Zero-shot AUROC of the whole model against the share of the training patients; as many steps
    from each share.
    """
    own = table[table.label == "whole"]
    fig, ax = plt.subplots(figsize=(ONE_COLUMN, 2.9))
    ax.axhline(0.5, color="0.6", lw=0.8, ls=(0, (2, 2)))
    for head, (colour, marker) in _LOOKS.items():
        part = own[own["head"] == head]
        given = part[part.control == ""]
        ax.plot(100 * given.share, given.value, marker, color=colour, ms=2.5, alpha=0.7)
        mean = given.groupby("share").value.mean()
        ax.plot(
            100 * mean.index,
            mean,
            marker=marker,
            color=colour,
            ms=5.5,
            mfc="none",
            mew=1.2,
            lw=1.2,
            label=_HEADS[head],
        )
    shuffled = own[own.control == "shuffled images"]
    ax.plot(100 * shuffled.share, shuffled.value, "x", color=GREY, ms=3, label="shuffled images")
    ax.set_xscale("log")
    shares = sorted(100 * own.share.unique())
    ax.set_xticks(shares, [f"{share:g}" for share in shares])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="share of the training patients (%)", ylabel="zero-shot AUROC")
    fig.legend(loc="outside lower center", ncols=2)
    _note(fig, own)
    return fig
