"""A report as a web page shows it: what it says of which finding marked in the text, and beside it
the dataset's labels.
"""

import html

import numpy as np
import pandas as pd

from data_prep.reports.labels import COLUMNS, label_reports, mentions
from medxvl.notebook.data_tables import SECTIONS, VALUES, has_report, labelled

# Pale grounds under black letters, for light and dark pages; a sign as well, so that nothing hangs
# on the colour.
LOOK = {1: ("#f6b7a9", "+"), -1: ("#f7e08a", "?"), 0: ("#bfe0ea", "\N{MINUS SIGN}")}
LONGEST = 5000  # letters of a section that are shown


def legend() -> str:
    """HTML: what the marks mean."""
    return (
        "<p>"
        + " &nbsp; ".join(_mark(VALUES[value], [("finding", value)]) for value in LOOK)
        + "</p>"
    )


def marked(text: str) -> str:
    """HTML of `text` with each statement on a finding marked; everything else is escaped, nothing
    of it is markup.
    """
    pieces, at = [], 0
    for start, end, said in spans(text):
        pieces += [html.escape(text[at:start]), _mark(text[start:end], said)]
        at = end
    return "".join(pieces) + html.escape(text[at:])


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


def _mark(words: str, said: list[tuple[str, int]]) -> str:
    strongest = next(
        value for value in LOOK if value in [v for _, v in said]
    )  # LOOK: strongest first
    names = ", ".join(f"{html.escape(finding)} {LOOK[value][1]}" for finding, value in said)
    style = f"background:{LOOK[strongest][0]};color:#000;border-radius:3px;padding:0 .2em"
    small = "font-size:.7em;white-space:nowrap;vertical-align:baseline"
    return f'<mark style="{style}">{html.escape(words)}<sub style="{small}"> {names}</sub></mark>'


def studies(dataset, rows) -> str:
    """HTML of the reports of index rows `rows`: marked text, and where labels of dataset and text
    differ.
    """
    return legend() + "".join(_study(dataset, dataset.index.iloc[row]) for row in rows)


def _study(dataset, study: pd.Series) -> str:
    heading = (
        f"study {study['study_id']}, {study['view'] or 'view not given'}, split {study['split']}"
    )
    parts = [f"<h4>{html.escape(heading)}</h4>"]
    # <pre>: what stands in dollar signs is no formula
    box = 'style="white-space:pre-wrap;line-height:1.7"'
    for section in SECTIONS:
        text = study[section][:LONGEST] + "..." * (len(study[section]) > LONGEST)
        parts.append(f"<pre {box}><b>{section.upper()}</b>\n{marked(text) or '(empty)'}</pre>")
    parts.append(f"<p>{html.escape(_labels(dataset, study))}</p>")
    return "".join(parts)


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
