"""The 14 CheXpert labels from the text of a chest-radiograph report, by rules: mention, negation,
uncertainty.

The scheme is that of the CheXpert labeler (Irvin et al., AAAI 2019, arXiv:1901.07031), the rules
are our own (data_prep.reports.label_rules). A statement holds for its sentence; a report's label is
its strongest statement: positive > uncertain > negative.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from data_prep.reports import label_rules
from data_prep.reports.sections import sections

__all__ = ["COLUMNS", "label_reports", "mentions", "sections"]

COLUMNS = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
POSITIVE, UNCERTAIN, NEGATIVE = 1, -1, 0
LONGEST = 2000  # letters of a sentence
_STRENGTH = {NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}
_VALUE = np.array([np.nan, 0.0, -1.0, 1.0])  # of each strength
_FINDING_OF = {f"f{COLUMNS.index(name)}": name for name in label_rules.FINDINGS}
_NOUN = re.compile(
    r"\b(?:"
    + "|".join(f"(?P<f{COLUMNS.index(n)}>{p})" for n, p in label_rules.FINDINGS.items())
    + ")"
)
_ORGAN = re.compile(
    rf"\b(?:(?P<mediastinum>{label_rules.MEDIASTINUM})|(?P<heart>{label_rules.HEART}))"
)
_STATE = re.compile(
    rf"(?<![a-z])(?:(?P<normal>{label_rules.NORMAL})|(?P<enlarged>{label_rules.ENLARGED}))"
)
_CUE_OF = {f"c{i}": kind for i, (kind, _) in enumerate(label_rules.CUES)}
_CUE = re.compile(
    r"(?:(?<![a-z])|(?![a-z]))(?:"
    + "|".join(f"(?P<c{i}>{p})" for i, (_, p) in enumerate(label_rules.CUES))
    + ")"
)
_ONE = (  # "no effusion on the left; small one on the right"
    r"\s*(?:there (?:is|are) )?(?:an? "
    r")?(?:(?:small|tiny|trace|minimal|moderate|large|larger|smaller|similar|new|possible|left|"
    r"right|questionable)[ -](?:sided )?)+ones?\b"
)
_ANOTHER = re.compile(rf"(?:[,;]|\bbut\b|\band\b|\bwith\b){_ONE}")
_SAME = str.maketrans(
    "\u2018\u2019\u02bc\u2010\u2011\u2012\u2013\u2014", "'''-----"
)  # one letter for one letter
_SENTENCE_END = re.compile(
    r"(?<!\bdr)(?<!\bmr)(?<!\bvs)(?<!\bapprox)(?<!\b[a-z])[.!]+(?=\s|$|[a-z]{2})"
    r"|(?<=[a-z0-9)])\?+(?=\s|$|[a-z]{2})(?!\s(?:no|none|nil)\b\s*(?:[.,;]|$))"
    rf"|;(?!{_ONE})"
    r"|(?<=\s)\d{1,2}[.)]\s|\n\s*\n|\n\s*[-*•]\s"
)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|had|appears|remains|demonstrates|shows|there)\b")
_SUGGEST = re.compile(r"\b(?:suggest\w*|indicat\w+|that|to)\b")
_NEW_CLAUSE = re.compile(
    r"(?:,|\band\b|\bwith\b)\s+(?:(?:a|an|the|there)\s+)?(?:this|these|it|they|stable|"
    r"unchanged|mild\w*|"
    r"moderate\w*|small|tiny|trace|"
    r"minimal\w*|left|right|bilateral|low|old|healed|healing|chronic|borderline|persistent|"
    r"increas\w+|decreas\w+|patchy|streaky|bibasilar|calcified)\b"
)
_SUBJECT = re.compile(
    r"(?:,|\band\b|\bwith\b)\s+(?:(?!or\b|nor\b)[a-z-]+\s+){0,4}$"
)  # up to a finding
_OWN_VERB = re.compile(  # "effusion is unchanged", but not "effusion is seen"
    r"(?:\s+(?!or\b|nor\b|with\b|but\b)[a-z-]+){0,5}?\s+(?:(?:is|are|was|were|has|have|appears?)\b"
    r"(?! (?:(?!again|still|now|once)\w+ "
    rf")?(?:{label_rules.SEEN}|there)\b)|(?:persist|remain|continue)s?|unchanged|stable|small|tiny|"
    r"trace|moderate|large|mild|minimal|improv(?:ed|ing)|resolving|(?:in|de)creas(?:ed|ing)|"
    r"larger|smaller|worse|similar)\b"
)
_ENLARGED_NOW = re.compile(r",\s+(?:the )?(?:heart|cardi|mediast)[a-z ]*$")  # up to "enlarged"
_OR = re.compile(r"\b(?:or|nor)\b")
_AND = re.compile(r"\b(?:and|or)\b")
_ALTERNATIVE = re.compile(r",?\s(?:[a-z-]+\s){0,2}or\s(?:[a-z-]+\s){0,3}")
_VERSUS_AFTER = re.compile(r"(?:[\s/]+(?!with\b|and\b)[a-z-]+){0,4}?,?\s+(?:versus|vs)\b")
_VERSUS_BEFORE = re.compile(r"\b(?:versus|vs\.?)\s+(?:[a-z-]+\s+){0,4}$")
_LESS = re.compile(
    r"\b(?:favou?r\w*\b[^,;]*\bover|(?:more likely|likelier)\b[^,;]*\bthan)\s+(?:[a-z-]+\s+){0,3}$"
)
_HEADING = re.compile(r"\s*:")


def label_reports(texts: Iterable) -> pd.DataFrame:
    """The 14 labels of each text: 1.0 positive, 0.0 negative, -1.0 uncertain, NaN not mentioned.

    texts: n strings, as a list, an array or a Series; what is no string, or holds no word, gets NaN
    everywhere. Returns n rows by the 14 CheXpert columns, with the index of a Series, else 0..n-1.
    No Finding is 1.0 where nothing but Support Devices is positive or uncertain, else NaN. Raises
    TypeError for what is no list of texts, a single string above all.
    """
    if isinstance(texts, str | bytes | dict | pd.DataFrame) or not isinstance(texts, Iterable):
        raise TypeError(
            f"label_reports takes a list or a Series of texts, not {type(texts).__name__}; "
            "one text: [text]"
        )
    index = texts.index if isinstance(texts, pd.Series) else None
    texts = list(texts)
    strength = np.zeros((len(texts), len(COLUMNS)), np.int8)
    spoken = np.zeros(len(texts), bool)
    known: dict[str, list] = {}  # reports repeat their sentences
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            continue
        # Beside digits, signs and the blanks of de-identification.
        letter = re.search(r"[a-z]", re.sub(label_rules.BLANK, "", text.lower()))
        spoken[row] = letter is not None
        if not spoken[row]:
            continue
        text = _lower(text)
        for start, end in _sentences(text):
            sentence = text[start:end]
            if sentence not in known:
                said = [
                    (COLUMNS.index(name), _STRENGTH[value])
                    for _, _, name, value in _statements(sentence)
                ]
                known[sentence] = said
            for column, new in known[sentence]:
                if new > strength[row, column]:
                    strength[row, column] = new
    others = [i for i, name in enumerate(COLUMNS) if name not in ("No Finding", "Support Devices")]
    clear = spoken & (strength[:, others] < _STRENGTH[UNCERTAIN]).all(1)
    strength[clear, COLUMNS.index("No Finding")] = _STRENGTH[POSITIVE]
    return pd.DataFrame(_VALUE[strength], index=index, columns=COLUMNS)


def mentions(text: str) -> list[tuple[int, int, str, int]]:
    """(start, end, finding, value) of each statement in `text`, in order: value 1, 0 or -1,
    text[start:end] what is said.

    The same rules as label_reports: a report's label is the strongest value among its mentions. No
    Finding has none.
    """
    if not isinstance(text, str):
        return []
    lower = _lower(text)
    return sorted(
        (start + a, start + b, name, value)
        for start, end in _sentences(lower)
        for a, b, name, value in _statements(lower[start:end])
    )


def _lower(text: str) -> str:
    """Lower case at the same places: the few letters that would grow stay as they are. Typographic
    ' and - are plain.
    """
    lower = text.lower()
    if len(lower) != len(text):
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return lower if lower.isascii() else lower.translate(_SAME)


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each sentence; one without an end is cut at LONGEST, so that time stays
    linear in the text.
    """
    start = 0
    for match in [*_SENTENCE_END.finditer(text), None]:
        if match is None:
            end = len(text)
        else:
            end = match.end() if match[0][0] == "?" else match.start()  # a question is a doubt
        for first in range(start, end, LONGEST):
            yield first, min(first + LONGEST, end)
        start = match.end() if match else end


def _statements(sentence: str) -> list[tuple[int, int, str, int]]:
    """The statements of one sentence in lower case."""
    sentence = re.sub(r"\s", " ", sentence)
    nouns = [(m.start(), m.end(), _FINDING_OF[m.lastgroup]) for m in _NOUN.finditer(sentence)]
    organs = list(_organs(sentence))
    if not nouns and not organs:
        return []
    cues = [(m.start(), m.end(), _CUE_OF[m.lastgroup]) for m in _CUE.finditer(sentence)]
    found = [(start, end, name, _value(sentence, start, end, cues)) for start, end, name in nouns]
    kept = []
    for i, statement in enumerate(found):
        # Not "Effusion:" where the same finding follows: "Effusion: No pleural effusion".
        again = any(statement[2] == later[2] for later in found[i + 1 :])
        if not (again and _HEADING.match(sentence, statement[1])):
            kept.append(statement)
    found = [*_alternatives(sentence, kept), *_others(sentence, nouns, cues)]
    for start, end, name, state in organs:
        value = NEGATIVE if state is None else _value(sentence, state, end, cues)
        found.append((start, end, name, value))
    return [statement for statement in found if statement[3] is not None]


def _others(
    sentence: str, nouns: list[tuple], cues: list[tuple]
) -> Iterator[tuple[int, int, str, int]]:
    """Of "no effusion on the left, small one on the right" the second: the finding named last, but
    another one.
    """
    if " one" not in sentence:
        return
    for match in _ANOTHER.finditer(sentence):
        named = [name for _, end, name in nouns if end <= match.start()]
        if named:
            doubt = "possible" in match[0] or "questionable" in match[0]
            after = _after(sentence, match.end(), [cue for cue in cues if cue[0] >= match.end()])
            yield (
                match.start(),
                match.end(),
                named[-1],
                UNCERTAIN if doubt and after == POSITIVE else after,
            )


def _alternatives(sentence: str, found: list[tuple]) -> list[tuple[int, int, str, int | None]]:
    """Of "scarring or atelectasis" neither is certain."""
    for i in range(len(found) - 1):
        (start, end, name, value), (start2, end2, name2, value2) = found[i : i + 2]
        if (
            value == value2 == POSITIVE
            and name != name2
            and _ALTERNATIVE.fullmatch(sentence, end, start2)
        ):
            found[i], found[i + 1] = (start, end, name, UNCERTAIN), (start2, end2, name2, UNCERTAIN)
    return found


def _organs(sentence: str) -> Iterator[tuple[int, int, str, int | None]]:
    """(start, end, finding, where "enlarged" begins or None for normal) of heart and mediastinum
    whose state is told.
    """
    organs = list(_ORGAN.finditer(sentence))
    states = list(_STATE.finditer(sentence)) if organs else []
    for organ in organs:
        state = _state(sentence, organ, states)
        if state is None:
            continue
        start, end = min(organ.start(), state.start()), max(organ.end(), state.end())
        enlarged = state.start() if state.lastgroup == "enlarged" else None
        if organ.lastgroup == "heart":
            yield start, end, "Cardiomegaly", enlarged
            continue
        yield start, end, "Enlarged Cardiomediastinum", enlarged
        if (
            organ[0].startswith("cardio") and enlarged is not None
        ):  # a larger silhouette is first of all a larger heart
            yield start, end, "Cardiomegaly", enlarged


def _state(sentence: str, organ: re.Match, states: list[re.Match]) -> re.Match | None:
    """The state said of this organ: right before it, else after it, else before the list that it
    stands in.
    """
    before = [s for s in states if s.end() <= organ.start()]
    after = [s for s in states if s.start() >= organ.end()]
    if before and label_rules.NEAR.fullmatch(sentence, before[-1].end(), organ.start()):
        return before[-1]
    if after and label_rules.LINK.fullmatch(sentence, organ.end(), after[0].start()):
        return after[0]
    if before and label_rules.LINK.fullmatch(sentence, before[-1].end(), organ.start()):
        if not _VERB.search(sentence, before[-1].end(), organ.start()):
            return before[-1]
    return None


def _value(sentence: str, start: int, end: int, cues: list[tuple[int, int, str]]) -> int | None:
    """What the sentence says of the finding at start:end; None when it speaks of the past."""
    before = [cue for cue in cues if cue[0] < start]
    after = [cue for cue in cues if cue[0] >= end]
    return (
        _after(sentence, end, after)
        if (value := _before(sentence, start, end, before)) == POSITIVE
        else value
    )


def _before(sentence: str, start: int, end: int, cues: list[tuple[int, int, str]]) -> int | None:
    doubt = False
    reach = start
    for cue_start, cue_end, kind in reversed(cues):
        if kind == "end":
            break
        if kind not in (
            "negation",
            "negation of both",
            "contrast",
            "doubt",
            "list of doubts",
            "past",
        ):
            continue
        if not _reaches(sentence, cue_end, start, end, kind):
            continue
        if doubt and re.search(r",|\band\b", sentence[cue_end:reach]):
            break
        if kind in ("negation", "negation of both", "contrast"):
            return NEGATIVE
        if kind == "past":
            return None
        doubt, reach = True, cue_start
    if doubt or _VERSUS_BEFORE.search(sentence, 0, start) or _LESS.search(sentence, 0, start):
        return UNCERTAIN
    return POSITIVE


def _reaches(sentence: str, cue_end: int, start: int, end: int, kind: str) -> bool:
    """Whether what a cue says still holds at start:end: not after a new verb or in a new,
    affirmative clause.
    """
    gap = sentence[cue_end:start]
    if not gap.strip():
        return True
    if _VERB.search(gap) and not _SUGGEST.search(gap):
        return False
    if kind in ("doubt", "past", "contrast") and "," in gap and not _OR.search(sentence, cue_end):
        return False
    if _SUBJECT.search(gap) and _OWN_VERB.match(sentence, end):
        return False
    if sentence.startswith(
        ("enlarged", "widened", "dilated", "prominent"), start
    ) and _ENLARGED_NOW.search(gap):
        return False
    new = _NEW_CLAUSE.search(gap)
    return not (new and not _OR.search(sentence, cue_end + new.end()))


def _after(sentence: str, end: int, cues: list[tuple[int, int, str]]) -> int:
    for cue_start, _, kind in cues:
        if kind == "end":
            break
        gap = sentence[end:cue_start]
        if _VERB.search(gap) or ("," in gap and not _AND.search(gap)):
            break
        if kind in ("negation after", "negation of both"):
            return NEGATIVE
        if kind == "doubt after":
            return UNCERTAIN
    return UNCERTAIN if _VERSUS_AFTER.match(sentence, end) else POSITIVE
