"""Figures of report-error detection: AUROC of each type of error, a panel a data set and run."""

import matplotlib.pyplot as plt
import numpy as np

from medxvl.evaluation import tables
from medxvl.plots import style
from medxvl.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, TWO_COLUMNS, styled

RUNS = ("balanced", "5 %")
_LOOKS = {  # whose name or control ends so: colour, marker
    "words of the report": (ORANGE, "s"),
    "shuffled images": (GREY, "x"),
    "untrained": (PURPLE, "+"),
    "(ours)": (GREEN, "^"),
}


@styled()
def by_type(rows, note=""):
    """AUROC with 95 % CI of every type of error. `rows`: result rows of the task, of one or more
    data sets; ValueError without any.

    A panel for each data set and run: "balanced", and as published ("5 %"). n: pairs of image and
    report.
    """
    rows = rows[(rows.metric == "auroc") & rows.value.notna() & (rows.control != "chance")]
    if rows.empty:
        raise ValueError("no result row with metric auroc")
    rows = rows.assign(series=tables.series(rows), run=rows.subset.str.split(",").str[0])
    rows["type"] = rows.subset.str.split(", ").str[1].fillna("all five")
    datasets = sorted(dict.fromkeys(rows.dataset), key=lambda name: list(rows.dataset).index(name))
    types = list(dict.fromkeys(rows.type))
    looks = {
        name: next((look for end, look in _LOOKS.items() if name.endswith(end)), (BLUE, "o"))
        for name in rows.series
    }
    # our own model first, then what has a look of its own
    looks = dict(sorted(looks.items(), key=lambda item: item[1] in _LOOKS.values()))
    fig, axes = plt.subplots(
        len(datasets),
        2,
        figsize=(TWO_COLUMNS, 0.7 + len(datasets) * (0.5 + 0.26 * len(types))),
        sharex=True,
        squeeze=False,
    )
    for line, dataset in zip(axes, datasets, strict=True):
        for ax, run in zip(line, RUNS, strict=True):
            part = rows[(rows.dataset == dataset) & (rows.run == run)]
            _panel(ax, part, types, looks)
            ax.set_title(f"{dataset}, {run}")
    for ax in axes[-1]:
        ax.set_xlabel("AUROC, 95 % CI from resampling patients")
    handles = {h.get_label(): h for ax in axes.flat for h in ax.get_legend_handles_labels()[0]}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    style.note(
        fig,
        next((d for d in datasets if style.is_synthetic(d)), datasets[0]),
        "; ".join(
            p
            for p in (note, "balanced: half of the pairs are wrong; 5 %: as published; n in pairs")
            if p
        ),
    )
    return fig


def _panel(ax, rows, types, looks):
    ax.axvline(0.5, color="0.6", lw=0.8, ls=(0, (2, 2)))
    offsets = np.linspace(-0.28, 0.28, len(looks)) if len(looks) > 1 else [0]
    for (name, (colour, marker)), offset in zip(looks.items(), offsets, strict=True):
        part = rows[rows.series == name].drop_duplicates("type").set_index("type").reindex(types)
        if part.value.isna().all():
            continue
        at = np.arange(len(types)) + offset
        control = not part.control.fillna("").eq("").all()
        ax.hlines(at, part.ci_low, part.ci_high, color=colour, lw=0.8 if control else 1.5)
        ax.plot(
            part.value,
            at,
            marker,
            color=colour,
            ls="",
            label=name,
            mfc="white" if control else colour,
        )
    counts = rows.dropna(subset="n").drop_duplicates("type").set_index("type").n
    for y in range(0, len(types), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="0.96", zorder=-1, lw=0)
    ax.set_yticks(
        range(len(types)), [f"{t}\n(n = {int(counts[t]):,})" if t in counts else t for t in types]
    )
    ax.set_ylim(len(types) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
