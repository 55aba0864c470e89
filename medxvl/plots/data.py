"""Figures of prepared data: attrition, prevalence, report lengths, pictures, one study; in the
style of medxvl.plots.results.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medxvl.plots import style
from medxvl.plots.style import BLUE, GREY, ONE_COLUMN, ORANGE, SKY, TWO_COLUMNS, styled

__all__ = ["attrition", "data_examples", "prevalence", "report_lengths", "study_figure"]


def plain(text) -> str:
    """Text of the data as it stands: a dollar sign would begin a formula."""
    return str(text).replace("$", r"\$")


def _wrapped(text, width) -> str:
    return plain("\n".join(textwrap.wrap(str(text), width)))


@styled()
def attrition(card):
    """What is left after each step of the preparation; `card`: the dataset's card.json as a
    dict.
    """
    steps = card["attrition"]
    rows = [int(s["rows"]) for s in steps]
    fig, ax = plt.subplots(figsize=(TWO_COLUMNS, 0.7 + 0.34 * len(steps)))
    ax.barh(range(len(rows)), rows, color=SKY, height=0.72)
    for i, step in enumerate(steps):
        dropped, gained = int(step["dropped"]), int(step.get("gained") or 0)
        why = plain(textwrap.shorten(str(step.get("why") or ""), 70, placeholder="..."))
        change = f"   \N{MINUS SIGN}{dropped:,}" * bool(dropped) + f"   +{gained:,}" * bool(gained)
        ax.text(
            0.01 * max([*rows, 1]),
            i,
            f"{rows[i]:,}{change}{': ' * bool(change and why)}{why * bool(change)}",
            va="center",
            fontsize=7,
        )
    ax.set_yticks(range(len(rows)), [_wrapped(s["step"], 34) for s in steps])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("records left")
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.note(fig, card.get("label", card.get("name", "")))
    return fig


@styled()
def prevalence(index, findings, dataset=""):
    """Share of images with each label: positive, uncertain, negative, not mentioned.

    `index`: the prepared table; `findings`: its label columns (1, 0, -1 or empty). ValueError when
    there are none.
    """
    findings = [f for f in findings if f in index]
    if not findings or index.empty:
        raise ValueError(
            "the index holds no labels: expected at least one label column with a value"
        )
    labels = index[findings].apply(pd.to_numeric, errors="coerce")
    kinds = {"positive": labels == 1, "uncertain": labels == -1, "negative": labels == 0,
             "not mentioned": labels.isna()}  # fmt: skip
    order = kinds["positive"].mean().sort_values(ascending=False, kind="stable").index
    fig, ax = plt.subplots(figsize=(ONE_COLUMN, 1.0 + 0.2 * len(findings)))
    left = np.zeros(len(order))
    for (name, is_kind), colour in zip(kinds.items(), (BLUE, ORANGE, "0.75", "0.92"), strict=True):
        share = 100 * is_kind[order].mean().to_numpy()
        ax.barh(range(len(order)), share, left=left, color=colour, height=0.75, label=name)
        left += share
    counts = kinds["positive"].sum()
    ax.set_yticks(range(len(order)), [f"{plain(f)} ({counts[f]:,})" for f in order])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 100), xlabel=f"% of {len(index):,} rows")
    ax.set_title("finding (rows positive)", loc="left", x=0, ha="left", fontsize=7)
    fig.legend(loc="outside lower center", ncols=2)
    style.note(fig, dataset)
    return fig


@styled()
def report_lengths(index, dataset=""):
    """Words of FINDINGS and IMPRESSION; empty sections are counted in the legend, not drawn.

    The longest 0.5 % share the last bar, so that one odd text does not make the others invisible.
    """
    fig, ax = plt.subplots(figsize=(ONE_COLUMN, 2.3))
    words = {
        name: index[name].fillna("").astype(str).str.split().str.len()
        for name in ("findings", "impression")
    }
    some = {name: count[count > 0] for name, count in words.items()}
    longest = max(
        (int(np.ceil(np.quantile(count, 0.995))) for count in some.values() if len(count)),
        default=0,
    )
    beyond = any((count > longest).any() for count in some.values())
    step = max(
        1, -(-longest // 30)
    )  # whole words in each bar, else some bars hold one number more than others
    bins = np.arange(0.5, max(longest, 10) + step + 0.5, step)
    for (name, count), colour in zip(some.items(), (GREY, BLUE), strict=True):
        middle = f", median {count.median():.0f}" if len(count) else ""
        label = f"{name}: n = {len(count):,}{middle}, {int((words[name] == 0).sum()):,} empty"
        ax.hist(count.clip(upper=bins[-1] - 0.5), bins, color=colour, alpha=0.65, label=label)
    ax.set(
        xlabel=f"words (last bar: {int(bins[-2] + 0.5):,} and more)" if beyond else "words",
        ylabel="reports",
    )
    fig.legend(loc="outside lower left")
    style.note(fig, dataset)
    return fig


@styled()
def data_examples(images, titles=None, columns=6, dataset="", width=TWO_COLUMNS):
    """Contact sheet of images, uint8 (n, S, S) or a list, shown from black 0 to white 255; one
    title an image.
    """
    images = list(images)
    if not images:
        raise ValueError("no image to show")
    titles = [""] * len(images) if titles is None else [str(t) for t in titles]
    if len(titles) != len(images):
        raise ValueError(f"{len(images)} images, {len(titles)} titles: give one each, or none")
    columns = min(columns, len(images))
    wrapped = [_wrapped(t, int(width / columns * 15)) for t in titles]
    lines = max(t.count("\n") + 1 if t else 0 for t in wrapped)
    fig, axes = style.grid(len(images), columns, width / columns + 0.13 * lines, width)
    for ax, image, title in zip(axes, images, wrapped, strict=False):
        ax.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(title, fontsize=6.5, pad=2)
    style.note(fig, dataset)
    return fig


@styled()
def study_figure(image, heading, texts, dataset=""):
    """Image (S, S) uint8, or None, with `heading` and texts (title -> text) beside it; long texts
    are cut.
    """
    lines = textwrap.wrap(heading, 58)
    for title, text in texts.items():
        lines += ["", title.upper(), *textwrap.wrap(text[:4000] or "(empty)", 58)]
    shown = lines[:30] + ["..."] * (len(lines) > 30)
    fig, (left, right) = style.grid(2, 2, max(3.0, 0.3 + 0.15 * len(shown)))
    for ax in (left, right):
        ax.set_axis_off()
    if image is None:
        left.text(0.5, 0.5, "no image in these data", ha="center", va="center", color="0.5")
    else:
        left.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    right.text(0, 1, plain("\n".join(shown)), va="top", linespacing=1.4).set_in_layout(False)
    style.note(fig, dataset)
    return fig
