"""MedViLL's figures: the joint sequence, the five masks, scores of a task, and examples beside
their pictures.
"""

import json
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch

from medxvl.evaluation import tables
from medxvl.medvill import masks
from medxvl.plots import style
from medxvl.plots.attention import lay, outline
from medxvl.plots.style import BLACK, BLUE, GREEN, GREY, TWO_COLUMNS, VERMILION, styled

_TITLES = {
    "bidirectional": "Bidirectional",
    "seq2seq": "Seq2Seq (S2S)",
    "bi_seq2seq": "Bi & Seq2Seq",
    "noncross": "Non-cross",
    "bar": "Bidirectional auto-\nregressive (BAR)",
}
_TONES = {"": BLACK, "good": GREEN, "bad": VERMILION, "soft": "0.4"}


@styled()
def attention_masks(images: int = 3, words: int = 3):
    """The five masks for a short sequence: row looks at column where the cell is dark. Drawn from
    `masks.attention` itself.
    """
    fig, axes = plt.subplots(1, 5, figsize=(TWO_COLUMNS, 2.3))
    for ax, name in zip(axes, masks.NAMES, strict=True):
        own = name == "noncross"
        real = torch.ones(1, words + 1 + own, dtype=torch.bool)
        n_image = images + 2
        labels = [
            "[CLS]",
            *(f"v{k + 1}" for k in range(images)),
            "[SEP]",
            *(["[CLS]"] if own else []),
            *(f"w{k + 1}" for k in range(words)),
            "[SEP]",
        ]
        if name == "bi_seq2seq":
            both = [
                masks.attention(name, n_image, real, torch.tensor([s]))[0].float()
                for s in (True, False)
            ]
            grid = (0.75 * both[0] + 0.25 * both[1]).numpy()
        else:
            grid = masks.attention(name, n_image, real)[0].float().numpy()
        ax.imshow(grid, cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest")
        edge = n_image - 0.5
        ax.axhline(edge, color=VERMILION, lw=0.9)
        ax.axvline(edge, color=VERMILION, lw=0.9)
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        ax.set_yticks(range(len(labels)), labels, fontsize=6)
        ax.tick_params(length=0, pad=1)
        ax.set_title(_TITLES[name], fontsize=7)
        for spine in ax.spines.values():
            spine.set_visible(False)
    axes[0].set_ylabel("who looks")
    fig.supxlabel(
        "at whom   (dark: may look; light: in that share of the samples; lines part image and "
        "text)",
        fontsize=7,
    )
    return fig


@styled()
def architecture(preset):
    """The joint sequence and the heads, as a schematic with the sizes of `preset`."""
    fig, box, arrow, ax = style.schematic(3.0, 46)
    pale = style.PALE
    side = preset.medvill_image_size // (
        32 if preset.medvill_trunk == "resnet50" else preset.medvill_patch
    )
    trunk = {"resnet50": "ResNet-50", "conv": "convolutional stem", "patch": "patch embedding"}[
        preset.medvill_trunk
    ]
    kept = f"{side} x {side} tokens, {preset.medvill_positions} kept in pre-training"
    box(2, 1, 46, 6, f"image {preset.medvill_image_size} px, {trunk}:\n{kept}", pale["image"], 6)
    box(56, 1, 42, 6, f"report, at most {preset.medvill_text} tokens; 15 % hidden", pale["text"], 6)
    tokens = [
        "[CLS]",
        "$v_1$",
        "$v_2$",
        "...",
        "$v_k$",
        "[SEP]",
        "$w_1$",
        "[MASK]",
        "$w_3$",
        "...",
        "$w_n$",
        "[SEP]",
    ]
    for k, token in enumerate(tokens):
        kind = "image" if k < 6 else "text"
        box(2 + 8.1 * k, 12, 7, 4.5, token, pale[kind], 6.5)
        arrow(5.5 + 8.1 * k, 16.9, 5.5 + 8.1 * k, 20.3)
    arrow(22, 7.4, 22, 11.4)
    arrow(77, 7.4, 77, 11.4)
    ax.text(
        50,
        9.4,
        "+ position + segment, one table for both",
        ha="center",
        va="center",
        fontsize=6.5,
        color="0.3",
    )
    box(2, 20.8, 96, 9, f"one BERT: {preset.medvill_layers} layers, width "
                        f"{preset.medvill_width}, {preset.medvill_heads} heads; "
        "a self-attention mask says who looks at whom", pale["joint"], 8)  # fmt: skip
    box(2, 36, 24, 7, "ITM: matched or not?", pale["head"])
    box(52, 36, 30, 7, "MLM: which word was hidden?", pale["head"])
    arrow(5.5, 30.3, 12, 35.5)
    arrow(5.5 + 8.1 * 7, 30.3, 66, 35.5)
    ax.text(27, 39.5, "on the pooled [CLS]", fontsize=6.5, va="center", color="0.3")
    ax.text(83, 39.5, "tied to the\nword embeddings", fontsize=6.5, va="center", color="0.3")
    return fig


@styled()
def scores(rows, panels, dataset, note=""):
    """Values with 95 % CI of several ways to do one task, a panel a metric.

    `rows`: result rows; `panels` [(title, metric, subset)]. Controls are drawn hollow and grey,
    chance as a dashed line. Raises ValueError when no row fits any panel.
    """
    rows = rows.assign(series=tables.series(rows))
    used = rows[
        [
            any(m == metric and s == subset for _, metric, subset in panels)
            for m, s in zip(rows.metric, rows.subset, strict=True)
        ]
    ]
    used = used[used.value.notna()]
    if used.empty:
        raise ValueError(
            "no result row for any of " + ", ".join(f"{m} ({s or 'all'})" for _, m, s in panels)
        )
    names = [s for s in dict.fromkeys(used.series) if s != "chance"]
    names.sort(key=lambda s: bool((used[used.series == s].control != "").all()))
    fig, axes = plt.subplots(
        1, len(panels), figsize=(TWO_COLUMNS, 0.85 + 0.2 * len(names)), sharey=True, squeeze=False
    )
    for ax, (title, metric, subset) in zip(axes[0], panels, strict=True):
        part = used[(used.metric == metric) & (used.subset == subset)]
        guess = part[part.series == "chance"].value
        if len(guess):
            ax.axvline(guess.iloc[0], color="0.55", lw=0.8, ls=(0, (2, 2)))
        for y, name in enumerate(names):
            given = part[part.series == name]
            if given.empty:
                continue
            row = given.iloc[0]
            control = row.control != ""
            colour = GREY if control else BLUE
            if np.isfinite(row.ci_low):
                ax.hlines(y, row.ci_low, row.ci_high, color=colour, lw=0.9 if control else 1.6)
            ax.plot(
                row.value,
                y,
                "s" if control else "o",
                color=colour,
                mfc="white" if control else colour,
                ms=3.5,
            )
        counts = part.n.dropna()
        ax.set_title(title + (f"\nn = {int(counts.iloc[0]):,}" if len(counts) else ""))
        ax.margins(x=0.08)
        ax.locator_params(axis="x", nbins=4)
        for y in range(0, len(names), 2):
            ax.axhspan(y - 0.5, y + 0.5, color="0.96", zorder=-1, lw=0)
    axes[0][0].set_yticks(
        range(len(names)), [textwrap.shorten(name, 46, placeholder="...") for name in names]
    )
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    for ax in axes[0]:
        ax.tick_params(axis="y", length=0)
    style.note(
        fig,
        dataset,
        "; ".join(
            part
            for part in (note, "95 % CI from resampling; grey: controls; dashed: chance")
            if part
        ),
    )
    return fig


@styled()
def examples(items, dataset, height=1.35, note=""):
    """Pictures with text beside them. `items`: [{"image": (S, S) uint8, "lines": [[text, tone]]}],
    tone "", good, bad or soft.
    """
    fig, axes = plt.subplots(
        len(items),
        2,
        figsize=(TWO_COLUMNS, height * len(items) + 0.3),
        width_ratios=[1, 4.2],
        squeeze=False,
    )
    for (picture, told), item in zip(axes, items, strict=True):
        picture.imshow(item["image"], cmap="gray", vmin=0, vmax=255)
        for ax in (picture, told):
            ax.set_axis_off()
        told.set(xlim=(0, 1), ylim=(0, 1))
        y, step = 0.98, 0.115 / height
        for text, tone in item["lines"]:
            for line in textwrap.wrap(text.replace("$", r"\$"), 98, subsequent_indent="    ") or [
                ""
            ]:
                told.text(0, y, line, va="top", fontsize=6.5, color=_TONES[tone])
                y -= step
    tones = {tone for item in items for _, tone in item["lines"]}
    style.note(
        fig,
        dataset,
        "; ".join(
            filter(
                None,
                (note, "green agrees with the truth, red does not" * ({"good", "bad"} <= tones)),
            )
        ),
    )
    return fig


def save_examples(path, items) -> None:
    """Keep examples so that their figure can be drawn again: an .npz of the pictures and the text
    beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        np.savez_compressed(
            stream,
            images=np.stack([i["image"] for i in items]),
            lines=np.array(json.dumps([i["lines"] for i in items])),
        )


def load_examples(path) -> list[dict]:
    with np.load(path, allow_pickle=False) as kept:
        return [
            {"image": image, "lines": lines}
            for image, lines in zip(kept["images"], json.loads(str(kept["lines"])), strict=True)
        ]


@styled()
def word_maps(image, words, maps, dataset, note="", area=None):
    """What words look at: `maps` (W, g, g) over `image` (S, S) uint8, a panel a word, each scaled
    to its own maximum.

    The edge of `area` (S, S) bool, where the finding lies, is drawn on every panel.
    """
    fig, axes = style.grid(len(words) + 1, min(6, len(words) + 1), 1.35)
    axes[0].set_title("image")
    for ax in axes[: len(words) + 1]:
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
        if area is not None:
            outline(ax, area)
    for ax, word, map_ in zip(axes[1:], words, maps, strict=False):
        lay(ax, map_, len(image))
        ax.set_title(word)
    style.note(fig, dataset, note)
    return fig
