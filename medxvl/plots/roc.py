"""ROC curves: ours among radiologists and other models, and of an unseen disease."""

import matplotlib.pyplot as plt
import pandas as pd

from medxvl.evaluation.radiologists import curves
from medxvl.plots import style
from medxvl.plots.results import _MODELS, _READERS, HEADS, _interval, _look, _place
from medxvl.plots.style import (
    ONE_COLUMN,
    styled,
)


def _empty_roc(ax):
    ax.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
    ax.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xticks=[0, 0.5, 1],
        yticks=[0, 0.5, 1],
        aspect="equal",
    )
    ax.set_xticklabels(["0", "0.5", "1"])
    ax.set_yticklabels(["0", "0.5", "1"])


@styled()
def roc_readers(predictions, reader_points, model_curves=None, dataset="", findings=None, note=""):
    """ROC curve per finding with the readers' operating points.

    predictions: our long table (finding, label, score, model), or None when our model has none on
    these studies. reader_points: `radiologists.operating_points`. model_curves:
    `radiologists.curves` of other models, or None.
    """
    predictions = _NO_PREDICTIONS if predictions is None else predictions
    ours = curves(predictions)
    theirs = model_curves if model_curves is not None else ours.iloc[:0]
    findings = findings or [
        f for f in dict.fromkeys([*reader_points.finding, *ours.finding, *theirs.finding])
    ]
    if not findings:
        raise ValueError("nothing to draw: no reader, no prediction and no curve of another model")
    columns = 3 if len(findings) in (3, 5, 6) else 4
    fig, axes = style.grid(len(findings), columns, 2.6 if columns == 3 else 2.1)
    names = sorted(reader_points.reader.unique())
    handles = {}
    for ax, finding in zip(axes, findings, strict=False):
        _empty_roc(ax)
        lines = []
        for row in theirs[theirs.finding == finding].itertuples():
            handles["other models, published predictions"] = ax.plot(
                row.fpr, row.tpr, color="0.72", lw=0.8
            )[0]
        values = theirs[theirs.finding == finding].auroc
        if len(values):
            lines.append(f"{len(values)} others {values.min():.2f}\N{EN DASH}{values.max():.2f}")
        for row in ours[ours.finding == finding].itertuples():
            colour, dash, _ = _look(row.model, list(dict.fromkeys(ours.model)))
            handles[row.model] = ax.plot(row.fpr, row.tpr, color=colour, ls=dash)[0]
            lines.append(f"{_short(row.model)} {row.auroc:.2f}")
        points = reader_points[reader_points.finding == finding].set_index("reader")
        for i, reader in enumerate(names):
            if reader in points.index:
                marker, colour = _READERS[i % len(_READERS)]
                x, y = 1 - points.specificity[reader], points.sensitivity[reader]
                handles[f"reader {i + 1}"] = ax.plot(
                    x, y, marker, color=colour, ms=5, mec="white", mew=0.5, zorder=5, ls=""
                )[0]
        ax.text(
            0.99,
            0.03,
            "\n".join(lines),
            ha="right",
            va="bottom",
            fontsize=6.5,
            transform=ax.transAxes,
            bbox={"fc": "white", "ec": "none", "alpha": 0.5, "pad": 0.5},
        )
        ax.set_title(_counted(finding, points, predictions))
    for ax in axes[::columns]:
        ax.set_ylabel("sensitivity")
    for i, ax in enumerate(axes[: len(findings)]):
        if i + columns >= len(findings):  # no panel below
            ax.set_xlabel("1 \N{MINUS SIGN} specificity")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    simulated = "simulated readers; " if style.is_synthetic(dataset) else ""
    heads = f"; {HEADS}" if any(name.startswith("X-VL (") for name in handles) else ""
    style.note(
        fig, dataset, f"{simulated}numbers in the panels: AUROC{heads}{'; ' if note else ''}{note}"
    )
    return fig


_NO_PREDICTIONS = pd.DataFrame(columns=["study_id", "finding", "label", "score", "model"])


def _short(model):
    """Name of a model that fits into a small panel."""
    return (
        model.removeprefix("supervised ")
        .removesuffix(" images")
        .replace("X-VL (", "")
        .replace(")", "")
    )


def _counted(finding, points, predictions):
    """Panel title with n and the positives: the readers' studies, or else ours."""
    if len(points) and "n" in points:
        n, positives = int(points.n.iloc[0]), int(points.positives.iloc[0])
    else:
        part = predictions[predictions.finding == finding]
        part = part[part.model == part.model.iloc[0]]
        n, positives = len(part), int(part.label.sum())
    return f"{finding}\nn = {n:,}, {positives:,} positive"


@styled()
def roc_unseen(predictions, rows=None, dataset="", finding="COVID-19"):
    """ROC curves of the unseen disease, our model and its controls; `rows`: result rows, for the
    intervals.

    Where the predictions have a column `trained_on` that differs from `dataset`, the figure says
    so.
    """
    part = predictions[predictions.finding == finding]
    drawn = curves(part)
    if drawn.empty:
        raise ValueError(
            f"no ROC curve of {finding}: the predictions hold no positive and negative labels of it"
        )
    drawn = drawn.sort_values("model", key=lambda names: names.map(_place), kind="stable")
    fig, ax = plt.subplots(figsize=(ONE_COLUMN, 4.3))
    _empty_roc(ax)
    others = [m for m in drawn.model if m not in _MODELS]
    for row in drawn.itertuples():
        colour, dash, _ = _look(row.model, others)
        label = f"{row.model}: {row.auroc:.3f}{_interval(rows, row.model)}"
        ax.plot(row.fpr, row.tpr, color=colour, ls=dash, label=label)
    first = part[part.model == drawn.model.iloc[0]]
    counted = f"n = {len(first):,} radiographs, {int(first.label.sum()):,} positive"
    ax.set(
        xlabel="1 \N{MINUS SIGN} specificity",
        ylabel="sensitivity",
        title=f"{finding}, never seen in training\n{counted}",
    )
    title = "AUROC (95 % CI, resampling patients)"
    fig.legend(loc="outside lower left", title=title, alignment="left", handlelength=2.6)
    controls = ["controls: ITM"] if {"shuffled images", "untrained"} & set(drawn.model) else []
    trained = [
        t for t in predictions.get("trained_on", pd.Series(dtype=str)).unique() if t != dataset
    ]
    style.note(fig, dataset, "; ".join([HEADS, *controls, *(f"trained on {t}" for t in trained)]))
    return fig
