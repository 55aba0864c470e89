"""Report-error detection (Medical X-VL, arXiv 2208.05140): an image and a report that is wrong
about it should match badly.

Score of a pair: 1 - the probability of a match (sigmoid of its log-odds), from the pre-trained
model as it is ("zero-shot"). Two runs of every type of error (medxvl.xvl.report_errors): as
published 5 % of the reports are corrupted, which leaves few; in the balanced one half of the pairs
are.
"""

import numpy as np
import pandas as pd
import torch

from medxvl.data import text
from medxvl.data.dataset import CHEXPERT_14
from medxvl.evaluation import controls, metrics, tables
from medxvl.evaluation.rows import CHANCE, result_row
from medxvl.xvl import report_errors, scoring
from medxvl.xvl.report_errors import Error, Reports, Studies

RUNS = (
    "balanced",
    "5 %",
)  # the second as published; setting errors_share says how many they really are
ALL = "all five"
LEVEL = 0.99  # of the interval that the release prints for this task; ours are 95 %
TITLES = {
    "false_positive": "false positive",
    "false_negative": "false negative",
    "location": "location",
    "extent": "extent",
    "mismatch": "patient mismatch",
    "omission": "omission",
    "confusion": "sentence confusion",
}


def studies(dataset, split: str | None = None, every_section: bool = False) -> Studies:
    """Those of a split, None: of all, with their impression, or findings where there is none.
    Labels are the dataset's own; where it has none they are read off the text.

    every_section: impression and findings are a report each, and a row that has both stands here
    twice.
    """
    rows = np.arange(len(dataset.index)) if split is None else dataset.rows(split)
    table = dataset.index.iloc[rows]
    impression, findings = (
        table["impression"].to_numpy(dtype=object),
        table["findings"].to_numpy(dtype=object),
    )
    given = (
        [impression, findings]
        if every_section
        else [np.where(impression != "", impression, findings)]
    )
    rows, texts = np.tile(rows, len(given)), np.concatenate(given)
    rows, texts = rows[texts != ""], texts[texts != ""]
    about = dataset.index.iloc[rows]
    labels = about[list(CHEXPERT_14)] if set(CHEXPERT_14) <= set(about.columns) else None
    return Studies(rows, Reports(texts.tolist(), labels, about["patient_id"].to_numpy()))


def balanced(reports: Reports, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """As many wrong as right pairs: columns image (number of the study whose picture it is), text,
    wrong (1 or 0), kind.

    A text that comes from another study stands here twice, beside a wrong image and beside its own;
    a changed text stands beside the original. Of a whole report of another study the text alone
    then tells nothing, by construction; of changed texts what gives the change away: that a
    sentence is missing, say.
    """
    made = report_errors.corrupt(reports, kind, rng)
    found = [(k, made[k]) for k in rng.permutation(len(made)) if isinstance(made[k], Error)]
    if kind not in ("location", "extent", "omission", "confusion"):
        found = list({error.donor: (k, error) for k, error in found}.values())
        right = [(error.donor, error.text) for _, error in found]
    else:
        right = [(k, error.original) for k, error in found]
    pairs = [(k, error.text, 1) for k, error in found] + [(k, original, 0) for k, original in right]
    return (
        pd.DataFrame(pairs, columns=["image", "text", "wrong"])
        .astype({"image": int, "wrong": int})
        .assign(kind=kind)
    )


def published(reports: Reports, kind: str, rng: np.random.Generator, share: float) -> pd.DataFrame:
    """Every report once, `share` of them corrupted: of those that can have such an error, or with
    the five types mixed (ALL).
    """
    if kind == ALL:
        made = report_errors.mixed(reports, share, rng)
    else:
        made = report_errors.corrupt(reports, kind, rng)
        can = rng.permutation([k for k, m in enumerate(made) if isinstance(m, Error)])
        kept = set(can[: max(1, round(share * len(can)))].tolist())
        made = [m if k in kept else None for k, m in enumerate(made)]
    texts = report_errors.as_read(reports, made)
    wrong = np.array([m is not None for m in made], dtype=int)
    return pd.DataFrame(
        {"image": np.arange(len(texts)), "text": texts, "wrong": wrong, "kind": kind}
    )


def tests(
    reports: Reports, seed: int, share: float, kinds=report_errors.KINDS, runs=RUNS
) -> dict[tuple[str, str], pd.DataFrame]:
    """All tests {(run, type): pairs}; those without a wrong pair are left out. ALL: the five types
    of the paper together.
    """
    found = {}
    for number, kind in enumerate((*kinds, ALL)):
        for run in runs:
            rng = np.random.default_rng([seed, 31, number, RUNS.index(run)])
            if run == "5 %":
                pairs = published(reports, kind, rng, share)
            elif kind == ALL:
                five = [
                    pairs
                    for (of, k), pairs in found.items()
                    if of == run and k in report_errors.PUBLISHED
                ]
                pairs = (
                    pd.concat(five, ignore_index=True).assign(kind=ALL)
                    if five
                    else pd.DataFrame({"wrong": []})
                )
            else:
                pairs = balanced(reports, kind, rng)
            if pairs["wrong"].sum():
                found[run, kind] = pairs
    return found


def read(texts, preset) -> list[str]:
    """Reports as the model reads them: cleaned, in sentences."""
    return [text.join(text.sentences(text.clean_report(t, preset.max_words))) for t in texts]


@torch.no_grad()
def score(models, tokenizer, pictures, tests: dict, partner=None) -> dict:
    """1 - sigmoid of the matching log-odds of every pair of every test, (n,) each; mean over
    checkpoints.

    pictures: of `scoring.encode_images`, in the order of the studies. partner (n,): whose picture
    a study gets instead of its own.
    """
    preset, device = models[0].preset, pictures[0][0].device
    pairs = pd.concat(tests.values(), ignore_index=True)
    texts = scoring.distinct(tokenizer, read(pairs["text"], preset), preset)
    shown = pairs["image"].to_numpy() if partner is None else np.asarray(partner)[pairs["image"]]
    # The same pair occurs in several tests.
    once, place = np.unique(np.stack([shown, texts.which]), axis=1, return_inverse=True)
    ids, mask, (image, report) = (
        texts.ids.to(device),
        texts.mask.to(device),
        torch.from_numpy(once).to(device),
    )
    found = 0
    for model, (tokens, _) in zip(models, pictures, strict=True):
        model.eval()
        states, _ = model.online.encode_text(ids, mask)
        logits = scoring.match(model, tokens, states, mask, image, report)
        found = found + torch.sigmoid(-logits.double()).cpu().numpy()[place.reshape(-1)] / len(
            models
        )
    return dict(
        zip(tests, np.split(found, np.cumsum([len(t) for t in tests.values()])[:-1]), strict=True)
    )


def words_alone(train: Reports, tests: dict, seed: int, draws: int = 3) -> dict:
    """Scores of a classifier of words and pairs of words that never sees an image, trained on the
    same kind of test from the training reports, for each test: the control that shows whether the
    errors can be told from the text. For the 5 % runs, where a normal report, say, is wrong more
    often than others, from reports half of which are corrupted."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found = {}
    for run, of in tests:
        rngs = [np.random.default_rng([seed, 37, k]) for k in range(draws)]
        if run == "5 %":
            drawn = [published(train, of, rngs[0], 0.5)]
        else:
            drawn = [
                balanced(train, kind, rng)
                for kind in (report_errors.PUBLISHED if of == ALL else (of,))
                for rng in rngs
            ]
        taught = pd.concat(drawn, ignore_index=True)
        if taught["wrong"].nunique() < 2:
            continue
        words = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"[\w.-]+")
        model = make_pipeline(words, LogisticRegression(C=0.1, max_iter=500)).fit(
            taught["text"], taught["wrong"]
        )
        found[run, of] = model.predict_proba(tests[run, of]["text"])[:, 1]
    return found


def evaluate(
    tests: dict,
    scores: dict,
    patients,
    *,
    n_resamples=1000,
    seed=0,
    **about,
) -> list[dict]:
    """Rows of one way to detect: AUROC of each test with a 95 % interval, of the 5 % runs also with
    99 % as released.

    Subsets are "balanced, TYPE" and "5 %, TYPE"; "balanced" and "5 %" alone are the five types
    together. Patients are resampled. `about`: see `medxvl.evaluation.rows`.
    """
    about, rows = {"paper": "xvl", "task": "error_detection"} | about, []
    for (run, kind), pairs in tests.items():
        if (run, kind) not in scores:
            continue
        wrong, given = pairs["wrong"].to_numpy(float), scores[run, kind]
        value = metrics.auroc(wrong, given)
        drawn = metrics.bootstrap(
            metrics.auroc, wrong, given, np.asarray(patients)[pairs["image"]], n_resamples, seed
        )
        of = {"subset": subset(run, kind), "n": len(pairs)}
        levels = {"auroc": 0.95} | ({"auroc (99 % CI)": LEVEL} if run == "5 %" else {})
        for name, level in levels.items():
            rows.append(result_row(about, name, value, drawn, level=level, **of))
        if not about.get("control"):
            rows.append(result_row(about, "errors", wrong.sum(), **of))
    return rows


def subset(run: str, kind: str) -> str:
    return run if kind == ALL else f"{run}, {TITLES[kind]}"


def chance(tests: dict, *, dataset, split="test") -> list[dict]:
    """The AUROC of guessing, as rows beside the others."""
    about = CHANCE | {"paper": "xvl", "task": "error_detection", "dataset": dataset, "split": split}
    return [
        result_row(about, "auroc", 0.5, subset=subset(*key), n=len(pairs))
        for key, pairs in tests.items()
    ]


def transfer(models: dict, tokenizer, known: Reports, dataset, preset, device) -> list[dict]:
    """Rows of models {name: (checkpoints, what identifies them)} on another dataset, all its
    reports, and of the words alone, learned from the `known` reports; none where it has no
    images."""
    if not dataset.has_images:
        return []
    every = studies(dataset)
    drawn = tests(every.reports, preset.seed, preset.errors_share)
    rows = chance(drawn, dataset=dataset.label, split="all")
    partner = controls.shuffled(len(every.rows), preset.seed)
    words = "words of the report"
    scores = {(words, words, ""): words_alone(known, drawn, preset.seed)}
    for name, (checkpoints, told) in models.items():
        pictures = scoring.encode_images(checkpoints, dataset, every.rows, device)
        for control, shown in (("", None), ("shuffled images", partner)):
            scores[name, control, told] = score(checkpoints, tokenizer, pictures, drawn, shown)
    about = {
        "dataset": dataset.label,
        "n_resamples": preset.bootstrap,
        "seed": preset.seed,
        "split": "all",
    }
    for (name, control, told), given in scores.items():
        rows += evaluate(
            drawn,
            given,
            every.reports.patients,
            model=name,
            control=control,
            checkpoint=told,
            **about,
        )
    return rows


# --- tables to read -------------------------------------------------------------------------------
def examples(part: Studies, shown: np.ndarray, seed: int) -> pd.DataFrame:
    """A report with each type of error, drawn from those that may be shown (`shown`, of all rows of
    the dataset).
    """
    rng, of, lines = np.random.default_rng([seed, 43]), part.reports, []
    for kind in report_errors.KINDS:
        made = report_errors.corrupt(of, kind, rng)
        can = [
            m
            for m, may in zip(made, np.asarray(shown)[part.rows], strict=True)
            if may and isinstance(m, Error)
        ]
        if can:
            error = can[rng.integers(len(can))]
            said = "; ".join(
                f"{c.start}-{c.end}: {c.before!r} -> {c.after!r}" for c in error.changes
            )
            lines.append(
                {
                    "type": TITLES[kind],
                    "original": error.original,
                    "with the error": error.text,
                    "changes": said,
                }
            )
    return pd.DataFrame(lines)


def wide(rows: list[dict], run: str) -> pd.DataFrame:
    """AUROCs of a run as text: a line a way to detect, a column a type."""
    of = {subset(run, kind): TITLES.get(kind, ALL) for kind in (*report_errors.KINDS, ALL)}
    table = tables.beside([r for r in rows if r["subset"] in of], ["auroc"], subset=None)["auroc"]
    order = table.index.get_level_values("who").unique()
    return (
        table.unstack("subset")
        .reindex(order)[[s for s in of if s in table.index.get_level_values("subset")]]
        .rename(columns=of)
    )
