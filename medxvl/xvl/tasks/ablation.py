"""What notebook 30 compares: the rows that notebook 22 left for each ablation, share of the data
and seed. Computes no score.
"""

import pandas as pd

from medxvl.config import paths, presets, sweeps
from medxvl.evaluation import repeats, results
from medxvl.evaluation.rows import result_row

READ = "22_xvl_zero_shot"  # the notebook whose rows are compared
HEADS = ("ITM", "ITA")
_SUMMARY = ["label", "share", "head", "control", "mean", "sd", "seeds"]


def design(preset) -> pd.DataFrame:
    """One row an ablation that is compared: what is off, and the settings that turn it off."""
    kinds = dict.fromkeys(name for name, _ in presets.ablations(presets.compared(preset)))
    told = {presets.ABLATIONS[name][1]: presets.ABLATIONS[name][0] or "-" for name in kinds}
    return pd.DataFrame({"settings": told}).rename_axis("model")


def rows(preset) -> tuple[pd.DataFrame, list[str]]:
    """AUROC of zero-shot scoring in every training compared, and the variants that have none yet.

    The rows are those of `runs.results` for the mean of all findings, with variant, label (what is
    off), share, head and seed (a number).
    """
    wanted, found, missing = presets.compared(preset), [], []
    for variant in sweeps.of(READ, wanted):
        table = results.read_rows([paths.RUNS / preset.name / sweeps.prefix(variant)])
        table = table[
            (table.task == "zero_shot")
            & (table.metric == "auroc")
            & table.model.str.startswith("X-VL")
        ]
        if table.empty:
            missing.append(variant)
            continue
        own = sweeps.settings(wanted, variant)
        means = table.subset[table.subset.str.startswith("mean of")].unique()
        table = table[table.subset == max(means, key=lambda name: int(name.split()[-1]))]
        label = presets.ABLATIONS[own.ablation][1] if own.ablation else "whole"
        head = table.model.str.extract(r"\((\w+)\)", expand=False)
        found.append(
            table.assign(variant=variant, label=label, share=own.share, head=head, seed=own.seed)
        )
    return (pd.concat(found, ignore_index=True) if found else pd.DataFrame()), missing


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds of each label, share, head and control: columns mean, sd, seeds."""
    groups = table.groupby(_SUMMARY[:4], sort=False).value
    return groups.agg(mean="mean", sd="std", seeds="size").reset_index()


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`summary` for reading: a row a training, a column a head and its control of shuffled
    images.
    """
    found = summary(table[table.control.isin(["", "shuffled images"])])
    found["shown"] = [
        f"{row[4]:.3f}" + (f" ± {row[5]:.3f}" if row[6] > 1 else "")
        for row in found[_SUMMARY].itertuples(index=False)
    ]
    found["who"] = found["head"] + found.control.map(
        lambda control: f", {control}" if control else ""
    )
    wide = found.pivot_table(
        index=["label", "share", "seeds"],
        columns="who",
        values="shown",
        aggfunc="first",
        sort=False,
    )
    return wide.fillna("")


def differences(table: pd.DataFrame, head: str) -> pd.DataFrame:
    """Each training against the whole model from all studies, seed by seed (`repeats.paired`)."""
    own = table[(table["head"] == head) & (table.control == "")]
    return repeats.paired(own, f"X-VL ({head}), whole", "seed")


def result_rows(table: pd.DataFrame) -> list[dict]:
    """Mean over seeds of each training, as rows of task `ablation`; the subset says what is off, or
    the share of the data.
    """
    found = []
    for row in summary(table).itertuples():
        part = table[(table[_SUMMARY[:4]] == list(row[1:5])).all(axis=1)]
        subset = row.label if row.share == 1 else f"{100 * row.share:g} % of the data"
        about = {
            "paper": "xvl",
            "task": "ablation",
            "dataset": part.dataset.iloc[0],
            "model": f"X-VL ({row.head})",
            "control": row.control,
            "checkpoint": f"mean over {row.seeds} seeds",
        }
        found.append(result_row(about, "auroc", row.mean, subset=subset, n=part.n.iloc[0]))
    return found
