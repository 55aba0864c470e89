"""A report as a web page shows it: what it says of which finding marked in the text, and beside it
the dataset's labels.
"""

import numpy as np
import pandas as pd

from data_prep.reports.labels import COLUMNS, label_reports, mentions
from medxvl.notebook import templates
from medxvl.notebook.data_tables import SECTIONS, VALUES, has_report, labelled

# Pale grounds under black letters, for light and dark pages; a sign as well, so that nothing hangs
# on the colour.
LOOK = {1: ("#f6b7a9", "+"), -1: ("#f7e08a", "?"), 0: ("#bfe0ea", "\N{MINUS SIGN}")}
LONGEST = 5000  # letters of a section that are shown


def marked(text: str) -> str:
    """HTML of `text` with each statement on a finding marked; everything else is escaped, nothing
    of it is markup.
    """
    pieces, at = [], 0
    for start, end, said in spans(text):
        pieces += [(text[at:start], "", ""), (text[start:end], *_look(said))]
        at = end
    return templates.REPORTS.marked([*pieces, (text[at:], "", "")])


def spans(text: str) -> list[tuple[int, int, list[tuple[str, int]]]]:
    """Statements of data_prep.reports.labels.mentions, those that overlap joined: (start, end,
    [(finding, value), ...]).
    """
    joined: list[tuple[int, int, list]] = []
    for start, end, finding, value in mentions(text):
        if joined and start < joined[-1][1]:
            first, last, said = joined.pop()
            joined.append(
                (first, max(last, end), said + [(finding, value)] * ((finding, value) not in said))
            )
        else:
            joined.append((start, end, [(finding, value)]))
    return joined


def _look(said: list[tuple[str, int]]) -> tuple[str, str]:
    """Ground and small print of a mark that stands for the statements (finding, value)."""
    values = [value for _, value in said]
    strongest = next(value for value in LOOK if value in values)  # LOOK: strongest first
    names = ", ".join(f"{finding} {LOOK[value][1]}" for finding, value in said)
    return LOOK[strongest][0], names


def studies(dataset, rows) -> str:
    """HTML of the reports of index rows `rows`: what the marks mean, the marked text, and where
    labels of dataset and text differ.
    """
    page = [templates.REPORTS.legend([(VALUES[v], *_look([("finding", v)])) for v in LOOK])]
    for row in rows:
        study = dataset.index.iloc[row]
        sections = [
            (name.upper(), marked(study[name][:LONGEST] + "..." * (len(study[name]) > LONGEST)))
            for name in SECTIONS
        ]
        view = study["view"] or "view not given"
        heading = f"study {study['study_id']}, {view}, split {study['split']}"
        page.append(templates.REPORTS.study(heading, sections, _labels(dataset, study)))
    return "".join(page)


def _labels(dataset, study: pd.Series) -> str:
    """The dataset's own labels of a study, and which of the 14 differ from the marks."""
    own = [f"{name} {VALUES[study[name]]}" for name in labelled(dataset) if study[name] in VALUES]
    if not own:
        return "The dataset has no labels for this study."
    said = f"Labels in the dataset: {', '.join(own)}."
    theirs = pd.to_numeric(study[COLUMNS], errors="coerce")
    if theirs.isna().all():
        return f"{said} None is of the 14 chest findings that the marks know."
    ours = label_reports([f"{study['findings']} {study['impression']}".strip()]).iloc[0]
    differ = [
        name
        for name in COLUMNS
        if not (theirs[name] == ours[name] or (pd.isna(theirs[name]) and pd.isna(ours[name])))
    ]
    told = [f"{name} (here {VALUES.get(ours[name], 'no label')})" for name in differ]
    return f"{said} " + (
        f"Other than the marks: {', '.join(told)}." if told else "The marks say the same."
    )


def agreement(dataset, most=2000) -> pd.DataFrame | None:
    """How the dataset's labels and those of the rules agree: studies positive in each, in both, and
    neither differing.

    Over at most `most` reports, evenly spread; counts only, so it may be shown of any data. None
    without reports or labels.
    """
    index = dataset.index[has_report(dataset.index)].drop_duplicates("study_id")
    index = (
        index.iloc[np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).astype(int))]
        if len(index)
        else index
    )
    theirs = index[COLUMNS].apply(pd.to_numeric, errors="coerce").reset_index(drop=True)
    if not theirs.notna().any(axis=None):
        return None
    ours = label_reports((index["findings"] + " " + index["impression"]).tolist())
    same = (theirs == ours) | (theirs.isna() & ours.isna())
    table = pd.DataFrame(
        {"positive in the dataset": (theirs == 1).sum(), "positive by rules": (ours == 1).sum()}
    )
    table["positive in both"] = ((theirs == 1) & (ours == 1)).sum()
    table["% same value"] = (100 * same.mean()).round(1)
    return table.rename_axis(f"of {len(index):,} reports")
