"""Result rows: one value each, with the columns that say what it is of. `Run.add_rows` takes them.

`about` holds the columns that a set of rows shares: paper, task, dataset and model, and where they
are not as in UNLESS_SAID also split, control (what is withheld or replaced) and checkpoint.
"""

from medxvl.evaluation import metrics

UNLESS_SAID = {"split": "test", "control": "", "checkpoint": ""}
CHANCE = {"model": "chance", "control": "chance"}


def result_row(
    about: dict,
    metric: str,
    value,
    samples=None,
    *,
    subset: str = "",
    n: int | None = None,
    level: float = 0.95,
    keep_draws: bool = False,
) -> dict:
    """A row of `value`; with its bootstrap `samples` (r,) also the interval of `level`, and with
    `keep_draws` the samples themselves, so that masks can be compared draw by draw. `n`: how many
    were scored.
    """
    row = UNLESS_SAID | about | {"subset": subset, "metric": metric, "value": float(value)}
    if n is not None:
        row["n"] = int(n)
    if samples is not None:
        low, high = metrics.interval(samples, level)
        row |= {"ci_low": float(low), "ci_high": float(high)}
    if keep_draws:
        row["draws"] = samples
    return row


def class_rows(about: dict, metric: str, value, samples, groups, counted) -> list[dict]:
    """A row for each of `groups` [(subset, class numbers)]: the mean over these classes.

    value (c,), its bootstrap samples (r, c), and which studies count for which class, `counted`
    (n, c) bool: n of a row is the number of studies that count for any of its classes.
    """
    return [
        result_row(
            about,
            metric,
            value[members].mean(),
            samples[:, members].mean(1),
            subset=subset,
            n=counted[:, members].any(1).sum(),
        )
        for subset, members in groups
    ]
