"""Rows of results and bootstrap draws that the notebooks of a run left."""

import pandas as pd

from medxvl.config import notebooks, paths, records, sweeps

# bootstrap draws of a row that are kept, so that masks can be compared draw by draw (MedViLL,
# ablation)
DRAWS = 30

KEY = ("paper", "task", "dataset", "split", "subset", "model", "metric", "control", "seed")

NUMBERS = ("value", "ci_low", "ci_high", "n")


def results(preset, every: bool = False) -> pd.DataFrame:
    """All rows of this run, in the notebooks' order; with `every` those of the other masks and
    seeds in runs/<preset>, too.

    `preset` is a name or a Preset. Columns as COLUMNS; value, ci_low, ci_high and n are numbers
    (NaN where not given), the others text ("").
    """
    name = getattr(preset, "name", preset)
    return read_rows(
        sweeps.folders(paths.RUNS / name).values() if every else [sweeps.run_folder(name)]
    )


def read_rows(folders) -> pd.DataFrame:
    """All rows in some run folders; columns as in `results`."""
    files = [
        file
        for folder in folders
        for book in notebooks.NAMES
        if (file := folder / "rows" / f"{book}.csv").is_file()
    ]
    frames = [pd.read_csv(f, dtype=str, keep_default_na=False) for f in files]
    table = (
        pd.concat(frames, ignore_index=True)
        if frames
        else pd.DataFrame(columns=list(records.COLUMNS), dtype=str)
    )
    for column in NUMBERS:
        table[column] = pd.to_numeric(table[column])
    return table


def draws(preset, every: bool = False) -> pd.DataFrame:
    """Bootstrap draws of the rows that kept them: KEY, draw (0 to DRAWS - 1) and value; `preset`,
    `every` as in `results`.

    A draw of the same number takes the same patients wherever test set and seed are the same.
    """
    name = getattr(preset, "name", preset)
    folders = sweeps.folders(paths.RUNS / name).values() if every else [sweeps.run_folder(name)]
    frames = [
        pd.read_csv(
            f, dtype=dict.fromkeys(KEY, str), keep_default_na=False, na_values={"value": [""]}
        )
        for folder in folders
        for f in sorted((folder / "draws").glob("*.csv"))
    ]
    return (
        pd.concat(frames, ignore_index=True)
        if frames
        else pd.DataFrame(columns=[*KEY, "draw", "value"])
    )
