"""Report errors: corrupt a report in one of seven ways, and say what was changed.

Types of Medical X-VL (arXiv 2208.05140, report error detection and correction), as its released
generator defines them. A whole report of another study: `false_positive` (that of a normal study
becomes an abnormal one), `false_negative` (the other way round), `mismatch` (of another patient, no
label in common). Words: `location` (sides and zones) and `extent`. Sentences of abnormal reports,
the Open-I variant: `omission` (one is left out), `confusion` (one comes from a report with no label
in common).

Draws come from the generator that is passed in. A report that does not differ from the original is
never an error.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from data_prep.reports import labels as labeller

KINDS = (
    "false_positive",
    "false_negative",
    "location",
    "extent",
    "mismatch",
    "omission",
    "confusion",
)
WORDS = KINDS[2:4]  # types that swap words: what the report says is there to read but for these
PUBLISHED = KINDS[:5]  # of the final version; the other two are those of its Open-I variant
SWAPS = ("whole words", "released", "released, Open-I")
TRIES = 20  # random donors tried for a report before all are looked at


@dataclass(frozen=True)
class Change:
    """Characters [start, end) of the original, what stood there and what stands there now."""

    start: int
    end: int
    before: str
    after: str


@dataclass(frozen=True)
class Error:
    """A corrupted report. `donor`: place of the other report, in `others` or else in the reports,
    that text came from.
    """

    kind: str
    original: str
    text: str
    changes: tuple[Change, ...]
    donor: int | None = None


@dataclass(frozen=True)
class Ineligible:
    """A report that cannot have an error of this type, and why."""

    kind: str
    original: str
    why: str


@dataclass
class Reports:
    """Texts, their CheXpert labels (a table with columns of `labels.COLUMNS`; None: read off the
    text), their patients (n,). Raises ValueError where labels and texts are not as many.
    """

    texts: list[str]
    labels: pd.DataFrame | None = None
    patients: np.ndarray | None = None
    said: np.ndarray = field(
        init=False
    )  # (n, 14) bool: positive labels, "No Finding" and devices among them
    normal: np.ndarray = field(init=False)
    abnormal: np.ndarray = field(init=False)

    def __post_init__(self):
        if self.labels is None:
            self.labels = labeller.label_reports(self.texts)
        if len(self.labels) != len(self.texts):
            raise ValueError(
                f"labels must have a row a report: expected {len(self.texts)}, found "
                f"{len(self.labels)}"
            )
        self.said = self.labels.reindex(columns=labeller.COLUMNS).to_numpy(dtype=float) == 1
        finding = ~np.isin(labeller.COLUMNS, ("No Finding", "Support Devices"))
        self.abnormal = self.said[:, finding].any(axis=1)
        self.normal = self.said[:, labeller.COLUMNS.index("No Finding")] & ~self.abnormal


@dataclass
class Studies:
    """Rows of a dataset that have a report, with their reports."""

    rows: np.ndarray
    reports: Reports
    cut: int = 0  # reports that were shortened to what the model reads


def corrupt(
    reports: Reports,
    kind: str,
    rng: np.random.Generator,
    *,
    others: Reports | None = None,
    swaps: str = "whole words",
) -> list[Error | Ineligible]:
    """Each report with an error of type `kind`, or why it cannot have one; in the order of
    `reports`.

    `others`: where other reports come from, by default `reports` themselves; with patients given on
    both sides never the same patient's. `swaps` of location and extent: "whole words", whatever
    their case and punctuation, but not where the swap says the same ("left and right") or something
    else ("small bowel", "no large effusion"); "released": lower-case words set off by blanks alone,
    blanks collapsed; "released, Open-I": as its variant, which lacks central and peripheral. Raises
    ValueError for another `kind` or `swaps`.
    """
    if kind not in KINDS or swaps not in SWAPS:
        raise ValueError(
            f"kind={kind!r}, swaps={swaps!r}: expected one of {', '.join(KINDS)}, and one of "
            f"{'; '.join(SWAPS)}"
        )
    if kind in WORDS:
        swap = _swap_words if swaps == "whole words" else _swap_released
        return [swap(text, kind, rng, swaps) for text in reports.texts]
    if kind == "omission":
        return [_omit(*item, rng) for item in zip(reports.texts, reports.abnormal, strict=True)]
    return _from_others(reports, others or reports, kind, rng)


def mixed(
    reports: Reports,
    share: float,
    rng: np.random.Generator,
    kinds=PUBLISHED,
    *,
    others: Reports | None = None,
    swaps: str = "whole words",
) -> list[Error | None]:
    """round(share * n) of the n reports with an error, the others None: which ones, and which of
    the types that each can have, is drawn evenly. Fewer where not so many reports can have any.
    Arguments as for `corrupt`."""
    made = np.full(len(reports.texts), None, dtype=object)
    wishes = rng.permuted(np.tile(np.arange(len(kinds)), (len(made), 1)), axis=1)
    for wish in wishes.T:
        for number, kind in enumerate(kinds):
            rows = [k for k in np.flatnonzero(wish == number) if made[k] is None]
            part = Reports(
                [reports.texts[k] for k in rows],
                reports.labels.iloc[rows],
                None if reports.patients is None else np.asarray(reports.patients)[rows],
            )
            found = corrupt(part, kind, rng, others=others or reports, swaps=swaps)
            for k, error in zip(rows, found, strict=True):
                made[k] = error if isinstance(error, Error) else None
    can = np.flatnonzero([error is not None for error in made])
    made[np.setdiff1d(can, rng.permutation(can)[: round(share * len(made))])] = None
    return made.tolist()


def as_read(reports: Reports, errors: list) -> list[str]:
    """The texts of `reports`, with the error where there is one in `errors`."""
    return [
        text if error is None else error.text
        for text, error in zip(reports.texts, errors, strict=True)
    ]


def eligibility(reports: Reports, rng: np.random.Generator) -> pd.DataFrame:
    """How many reports can have each type of error, and why the others cannot: a row a type,
    columns reports, eligible, why not.
    """
    rows = {}
    for kind in KINDS:
        made = corrupt(reports, kind, rng)
        reasons = Counter(m.why for m in made if isinstance(m, Ineligible))
        told = "; ".join(f"{why}: {count:,}" for why, count in reasons.most_common())
        eligible = len(made) - reasons.total()
        rows[kind] = {"reports": len(made), "eligible": eligible, "why not": told}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("type")


def same(text: str) -> str:
    """What two texts are compared by: words alone, in lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


# --- words ----------------------------------------------------------------------------------------
_SIDES = (("left", "right"), ("upper", "lower"), ("apical", "basal"), ("central", "peripheral"))
_WORDS = {  # word -> what may take its place
    "location": {a: (b,) for pair in _SIDES for a, b in (pair, pair[::-1])},
    "extent": {
        "mild": ("severe",),
        "slight": ("severe",),
        "severe": ("mild", "slight"),
        "minimal": ("extensive",),
        "extensive": ("minimal",),
        "small": ("large",),
        "large": ("small",),
        "mildly": ("severely",),
        "slightly": ("severely",),
        "severely": ("mildly", "slightly"),
        "minimally": ("extensively",),
        "extensively": ("minimally",),
    },
}
_KEPT = {  # where a swap would say the same, or nothing about place or extent
    "location": [
        rf"{a}\s*(?:and|or|&|/|,)\s*(?:the\s+)?{b}"
        for pair in _SIDES
        for a, b in (pair, pair[::-1])
    ]
    + [
        r"(?:central|peripheral)(?:ly)?\s+(?:venous|lines?|catheters?|access)",
        r"(?:upper|lower)\s+(?:limits?|abdom\w+|extremit\w+|quadrants?|gi)",
    ],
    "extent": [
        r"(?:small|large)\s+bowel",
        r"(?:no|without)\s+(?:definite\s+)?(?:small|large|mild|slight|severe|minimal|extensive)",
        r"small\s+(?:to|or)\s+large",
        r"mild\s+(?:to|or)\s+severe",
        r"minimal\s+(?:to|or)\s+extensive",
    ],
}
_PATTERN = {
    kind: re.compile(
        rf"\b(?:{'|'.join(_KEPT[kind])})\b|\b(?P<word>{'|'.join(words)})\b", re.IGNORECASE
    )
    for kind, words in _WORDS.items()
}
_RELEASED = {
    kind: {word: after[0] for word, after in words.items()} for kind, words in _WORDS.items()
}
_RELEASED["location"] |= {"left-sided": "right-sided", "right-sided": "left-sided"}
_RELEASED["extent"] = {
    w: a for w, a in _RELEASED["extent"].items() if not w.endswith(("minimally", "extensively"))
}
_NO_WORD = {"location": "no word of side or zone", "extent": "no word of extent"}


def _swap_words(text: str, kind: str, rng: np.random.Generator, swaps: str) -> Error | Ineligible:
    changes = []
    for found in _PATTERN[kind].finditer(text):
        if word := found["word"]:
            after = _WORDS[kind][word.lower()]
            after = after[rng.integers(len(after))] if len(after) > 1 else after[0]
            after = (
                after.upper()
                if word.isupper()
                else after.capitalize()
                if word[0].isupper()
                else after
            )
            changes.append(Change(*found.span(), word, after))
    return _error(kind, text, changes, _NO_WORD[kind])


def _swap_released(
    text: str, kind: str, rng: np.random.Generator, swaps: str
) -> Error | Ineligible:
    words = _RELEASED[kind]
    if swaps == "released, Open-I":
        words = {w: a for w, a in words.items() if w not in ("central", "peripheral")}
    found = [
        Change(*m.span(), m[0], words[m[0]]) for m in re.finditer(r"\S+", text) if m[0] in words
    ]
    made = _error(kind, text, found, _NO_WORD[kind])
    return (
        made
        if isinstance(made, Ineligible)
        else Error(kind, text, " ".join(made.text.split()), made.changes)
    )


def _error(
    kind: str, text: str, changes: list[Change], why: str, donor: int | None = None
) -> Error | Ineligible:
    """The text with the changes made; ineligible, `why`, where that changes nothing."""
    parts, at = [], 0
    for change in changes:
        parts += [text[at : change.start], change.after]
        at = change.end
    corrupted = "".join([*parts, text[at:]])
    if not changes or same(corrupted) == same(text):
        return Ineligible(kind, text, why)
    return Error(kind, text, corrupted, tuple(changes), donor)


# --- sentences ------------------------------------------------------------------------------------
_SENTENCE = re.compile(
    r"(?:[^.\s]|(?<=\d)\.(?=\d))(?:[^.]|(?<=\d)\.(?=\d))*\.?"
)  # the point in "1.5 cm" is none


def _sentences(text: str) -> list[re.Match]:
    """Sentences with their full stop; pieces under three characters are none."""
    return [found for found in _SENTENCE.finditer(text) if len(found[0].rstrip(". ")) >= 3]


def _omit(text: str, abnormal: bool, rng: np.random.Generator) -> Error | Ineligible:
    said = _sentences(text)
    if not abnormal:
        return Ineligible("omission", text, "no abnormal finding")
    if len(said) < 2:
        return Ineligible("omission", text, "a single sentence")
    k = int(rng.integers(len(said)))
    # With the blanks before it, or after it where it is the first.
    start, end = (said[k - 1].end(), said[k].end()) if k else (said[0].start(), said[1].start())
    return _error("omission", text, [Change(start, end, text[start:end], "")], "a single sentence")


def _confuse(text: str, other: str, donor: int, rng: np.random.Generator) -> Error | Ineligible:
    said, known = _sentences(text), {same(s[0]) for s in _sentences(text)}
    new = [s[0] for s in _sentences(other) if same(s[0]) not in known]
    if not said or not new:
        return Ineligible(
            "confusion", text, "no sentence" if not said else "the other report says nothing else"
        )
    old, new = said[rng.integers(len(said))], new[rng.integers(len(new))]
    return _error("confusion", text, [Change(*old.span(), old[0], new)], "", donor)


# --- whole reports --------------------------------------------------------------------------------
def _from_others(
    own: Reports, others: Reports, kind: str, rng: np.random.Generator
) -> list[Error | Ineligible]:
    """Errors whose text comes from another report: false positive and negative, mismatch,
    confusion.
    """
    has_text = np.array([bool(same(t)) for t in others.texts], dtype=bool)
    some, any_other = own.said.any(axis=1), others.said.any(axis=1)
    eligible, why, pool = {
        "false_positive": (own.normal, "not a normal report", others.abnormal),
        "false_negative": (own.abnormal, "no abnormal finding", others.normal),
        "mismatch": (some, "no positive label", any_other),
        "confusion": (own.abnormal, "no abnormal finding", any_other),
    }[kind]
    _, text_of = np.unique([same(t) for t in (*own.texts, *others.texts)], return_inverse=True)
    mine, theirs = text_of[: len(own.texts)], text_of[len(own.texts) :]
    disjoint = kind in ("mismatch", "confusion")

    def fits(rows, donors):
        good = mine[rows] != theirs[donors]
        if disjoint:
            good &= ~(own.said[rows] & others.said[donors]).any(axis=1)
        if own.patients is not None and others.patients is not None:
            good &= np.asarray(own.patients)[rows] != np.asarray(others.patients)[donors]
        return good

    donors = np.full(len(own.texts), -1)
    donors[eligible] = _draw(np.flatnonzero(eligible), np.flatnonzero(pool & has_text), fits, rng)
    made = []
    for text, can, donor in zip(own.texts, eligible, donors.tolist(), strict=True):
        if not can or donor < 0:
            made.append(Ineligible(kind, text, "no other report that fits" if can else why))
        elif kind == "confusion":
            made.append(_confuse(text, others.texts[donor], donor, rng))
        else:
            made.append(
                _error(kind, text, [Change(0, len(text), text, others.texts[donor])], "", donor)
            )
    return made


def _draw(rows: np.ndarray, pool: np.ndarray, fits, rng: np.random.Generator) -> np.ndarray:
    """For each of `rows` one of `pool`, evenly among those that fit; -1 where none does. fits(rows
    (k,), donors (k,)) -> (k,) bool.
    """
    found, todo = np.full(len(rows), -1), np.arange(len(rows))
    for _ in range(TRIES if len(pool) else 0):
        drawn = pool[rng.integers(len(pool), size=len(todo))]
        good = fits(rows[todo], drawn)
        found[todo[good]] = drawn[good]
        todo = todo[~good]
    for k in todo if len(pool) else ():
        possible = pool[fits(np.full(len(pool), rows[k]), pool)]
        if len(possible):
            found[k] = possible[rng.integers(len(possible))]
    return found
