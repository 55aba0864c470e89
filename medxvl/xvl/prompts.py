"""Which findings are asked for, and in which words: from a file, from the release's prompts, or
from the names of the labels.

So data of another body part need no code: their label columns say what there is to find.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.reports import prompts

COLUMNS = ("finding", "sentence", "kind")
GENERIC = (
    "{} is present.",
    "{} is seen.",
    "there is {}.",
    "findings of {}.",
    "findings suggest {}.",
)


@dataclass(frozen=True)
class Descriptions:
    """Findings in order with their positive sentences, each finding's negative sentence, and where
    the words come from.
    """

    positive: dict[str, tuple[str, ...]]
    negative: dict[str, str]
    source: str

    @property
    def findings(self) -> list[str]:
        return list(self.positive)

    @property
    def means(self) -> list[tuple[str, list[str]]]:
        """Groups whose mean is reported: the five pathologies of the paper where they are all
        there, and all findings.
        """
        five = [f for f in self.findings if f in prompts.FIVE_PATHOLOGIES]
        groups = [five] if len(five) == 5 < len(self.findings) else []
        return [(f"mean of {len(members)}", members) for members in (*groups, self.findings)]


def of(preset, dataset) -> Descriptions:
    """What to ask of `dataset`: the sentences in the file `prompts`, else those of the release for
    the findings that the data have labels of, else sentences made from the labels' names.

    A finding that no test study has, or all have, can not be scored: with a file or made sentences
    it is left out. Raises FileNotFoundError and ValueError (see `read`), and ValueError where no
    finding is left.
    """
    labels = [name for name in dataset.card["prevalence"] if name in dataset.index]
    labelled = [name for name in labels if _can_be_scored(dataset, name)]
    if preset.prompts:
        given = read(preset.prompts)
        chosen = {f: given.positive[f] for f in given.findings if f in labelled}
        found = Descriptions(chosen, {f: given.negative[f] for f in chosen}, given.source)
        told = f"{preset.prompts} has sentences for {', '.join(given.findings)}"
    elif any(f in labelled for f in prompts.FINDINGS):
        chosen = {f: words for f, words in prompts.PROMPTS.items() if f in labels}
        found = Descriptions(
            chosen, {f: prompts.negative_prompt(f) for f in chosen}, "the release's prompts"
        )
        told = ""
    else:
        made = {f: tuple(words.format(f.lower()) for words in GENERIC) for f in labelled}
        found = Descriptions(
            made, {f: prompts.negative_prompt(f) for f in made}, "made from the names of the labels"
        )
        told = "set label_columns when preparing them"
    if not found.positive:
        raise ValueError(
            f"{dataset.label}: no finding to ask for; it has labels of "
            f"{', '.join(labelled) or 'nothing'}; {told}"
        )
    return found


def read(path) -> Descriptions:
    """Sentences from a CSV file with the columns finding, sentence and kind (positive or negative).

    Each finding needs a positive sentence at least; its negative one, at most one, is "no
    <finding>." where none is given. Raises FileNotFoundError, and ValueError that names the line or
    finding at fault.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"setting prompts={path}: there is no such file; expected a CSV with "
            f"{', '.join(COLUMNS)}"
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(
            f"{path}: column(s) {', '.join(missing)} missing; it has "
            f"{', '.join(map(str, table.columns))}"
        )
    table = table[list(COLUMNS)].apply(lambda column: column.str.strip())
    for number, row in enumerate(table.itertuples(), start=2):
        if not row.finding or not row.sentence or row.kind not in ("positive", "negative"):
            raise ValueError(
                f"{path}, line {number}: expected a finding, a sentence, and the kind "
                "positive or negative"
            )
    positive = (
        table[table.kind == "positive"].groupby("finding", sort=False).sentence.agg(tuple).to_dict()
    )
    negative = table[table.kind == "negative"]
    if len(twice := negative[negative.finding.duplicated()]):
        raise ValueError(
            f"{path}: {twice.finding.iloc[0]} has several negative sentences, one is expected"
        )
    if alone := [f for f in negative.finding if f not in positive]:
        raise ValueError(f"{path}: {alone[0]} has no positive sentence")
    denied = dict(zip(negative.finding, negative.sentence, strict=True))
    return Descriptions(
        positive, {f: denied.get(f, prompts.negative_prompt(f)) for f in positive}, path.name
    )


def _can_be_scored(dataset, name: str) -> bool:
    """Whether the test split has studies with the finding and others; what is not mentioned counts
    as negative.
    """
    values = dataset.index[name].iloc[dataset.rows("test")].fillna(0).to_numpy(float)
    values = values[values >= 0]
    return len(np.unique(values > 0)) == 2
