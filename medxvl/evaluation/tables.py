"""Result rows as a table to read: one line a way to do the task, one column a metric, each with its
95 % interval.
"""

import numpy as np
import pandas as pd


def series(rows: pd.DataFrame) -> pd.Series:
    """What stands beside each other: the model, or model and control; chance alone has no model."""
    said = [
        control in model for model, control in zip(rows.model, rows.control, strict=True)
    ]  # "" is in any, a baseline in its own
    named = rows.model.where(said, rows.model + ", " + rows.control)
    return named.where(rows.control != "chance", "chance")


def beside(rows, metrics, subset: str = "", split: str | None = None) -> pd.DataFrame:
    """Rows (of `Run.add_rows` or `runs.results`) as text; `metrics` are columns, in their order.
    Missing: empty.

    `subset`: of which subset; None: every one, a line each. n is that of the first metric.
    """
    table = pd.DataFrame(list(rows)) if not isinstance(rows, pd.DataFrame) else rows
    table = table.reindex(
        columns=[*dict.fromkeys([*table.columns, "control", "ci_low", "ci_high", "n"])]
    )
    table["control"] = table["control"].fillna("")
    table = table[table.metric.isin(metrics)]
    if subset is not None:
        table = table[table.subset == subset]
    if split is not None:
        table = table[table.split == split]
    table = table.assign(who=series(table), shown=[_number(row) for row in table.itertuples()])
    lines = ["who"] if subset is not None else ["subset", "who"]
    wide = table.pivot_table(
        index=lines, columns="metric", values="shown", aggfunc="first", sort=False
    )
    wide = wide.reindex(columns=[m for m in metrics if m in wide]).fillna("")
    counts = (
        table[table.metric == wide.columns[0]].drop_duplicates(lines).set_index(lines).n
        if len(wide.columns)
        else None
    )
    return (
        wide
        if counts is None
        else wide.assign(
            n=counts.reindex(wide.index).map(lambda n: "" if pd.isna(n) else f"{int(n):,}")
        )
    )


def _number(row) -> str:
    if pd.isna(row.value):
        return "no value"
    bounds = "" if pd.isna(row.ci_low) else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
    return f"{row.value:.3f}{bounds}"


def predictions(dataset, rows, findings, labels, scores, model: str) -> pd.DataFrame:
    """Long table: study_id, patient_id, split, finding, label, score, model; one row a study and
    finding.
    """
    about = dataset.index.iloc[rows][["study_id", "patient_id", "split"]]
    long = about.loc[about.index.repeat(len(findings))].reset_index(drop=True)
    return long.assign(
        finding=np.tile(list(findings), len(rows)),
        label=labels.ravel(),
        score=scores.ravel(),
        model=model,
    )
