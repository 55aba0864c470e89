"""Report error correction with Medical X-VL (arXiv 2208.05140, section 5): read a report beside its
image, write it as it should be.

The reader sees the report, half of which hold an error (medxvl.xvl.report_errors), and the image;
the decoder writes the report anew, by beam search. What comes out right by leaving a report as it
is, or without the image, says how much is owed to the picture.
"""

import numpy as np
import pandas as pd

from data_prep.reports import labels
from medxvl.data import text
from medxvl.evaluation import generation
from medxvl.xvl import corpus as corpora
from medxvl.xvl import report_errors, writing
from medxvl.xvl.report_errors import Reports, Studies


def studies(dataset, split: str, tokenizer, preset) -> Studies:
    """Reports of a split as the model reads them: cleaned sentences of the impression, as many as
    fit into `max_tokens`. Raises ValueError where there is none.
    """
    rows = dataset.rows(split)
    parts = corpora.report_sentences(dataset, rows, preset)
    texts = fitting(parts, tokenizer, preset.max_tokens)
    kept = [k for k, t in enumerate(texts) if t]
    if not kept:
        raise ValueError(
            f"{dataset.label}: expected {split} studies with a report, found none of {len(rows)}"
        )
    patients = dataset.index["patient_id"].to_numpy()[rows[kept]]
    reports = Reports([texts[k] for k in kept], patients=patients)
    return Studies(rows[kept], reports, sum(text.join(parts[k]) != texts[k] for k in kept))


def fitting(parts: list[list[str]], tokenizer, max_tokens: int) -> list[str]:
    """Reports of the first sentences that fit into `max_tokens` tokens with `[CLS]` and `[SEP]`; ""
    where not even one does.
    """
    flat = [s + "." for sentences in parts for s in sentences]
    lengths = iter(
        [len(ids) for ids in tokenizer(flat, add_special_tokens=False)["input_ids"]] if flat else []
    )
    found = []
    for sentences in parts:
        ends = np.cumsum([next(lengths) for _ in sentences])
        kept = sentences[: int((ends <= max_tokens - 2).sum())]
        found.append(text.join(kept) if kept else "")
    return found


class Correcting(writing.Writing):
    """Fine-tuning on the training reports, with new errors each epoch."""

    name = "correct"

    def __init__(self, preset, dataset, start, tokenizer, device):
        self.studies, valid = (
            studies(dataset, split, tokenizer, preset) for split in ("train", "valid")
        )
        rng = np.random.default_rng([preset.seed, 41])
        others = self.studies.reports
        drawn = report_errors.mixed(valid.reports, preset.correct_share, rng, others=others)
        self.valid_asked = report_errors.as_read(valid.reports, drawn)
        super().__init__(
            preset,
            dataset,
            start,
            tokenizer,
            device,
            (self.studies.rows, others.texts),
            (valid.rows, valid.reports.texts),
            preset.max_tokens,
        )

    def order(self, epoch: int, rng) -> np.ndarray:
        """The reports, shuffled; draws their errors, those that swap words `correct_words` times as
        often as the others."""
        preset, reports = self.preset, self.studies.reports
        kinds = report_errors.PUBLISHED + report_errors.WORDS * (preset.correct_words - 1)
        drawn = report_errors.mixed(reports, preset.correct_share, rng, kinds)
        self.asked = report_errors.as_read(reports, drawn)
        return super().order(epoch, rng)


def gains(
    tuned, tokenizer, dataset, rows, asked: list[str], found: list[str], device, **seen
) -> np.ndarray:
    """(n,) how much likelier the texts `found` are than the reports `asked` as they stand, natural
    logarithms.
    """
    both = (
        writing.likelihood(
            tuned,
            tokenizer,
            dataset,
            rows,
            texts,
            tuned.preset.correct_most + 1,
            device,
            asked=asked,
            **seen,
        )[0]
        for texts in (asked, found)
    )
    return np.subtract(*both)


# --- what is corrected, and how well --------------------------------------------------------------
MIXED = "mixed"  # the set in which a share of the reports has an error, of the types in turn


def to_correct(
    part: Studies, preset, others: Reports, kinds=report_errors.PUBLISHED
) -> pd.DataFrame:
    """Reports to be corrected, a row each: set, place (in `part`), kind ("" for a report without
    error), asked, wanted.

    Set MIXED: every report, `correct_share` of them with an error. A set named after a type: at
    most `correct_pool` reports with that error each, drawn at random, since some types are rare
    among the mixed. `others`: whose reports take the place of one.
    """
    rng, texts = np.random.default_rng([preset.seed, 43]), part.reports.texts
    drawn = report_errors.mixed(part.reports, preset.correct_share, rng, others=others)
    asked = report_errors.as_read(part.reports, drawn)
    rows = [
        (MIXED, k, "" if error is None else error.kind, asked[k], texts[k])
        for k, error in enumerate(drawn)
    ]
    for kind in kinds:
        made = report_errors.corrupt(part.reports, kind, rng, others=others)
        places = np.flatnonzero([isinstance(m, report_errors.Error) for m in made])
        if preset.correct_pool and len(places) > preset.correct_pool:
            places = np.sort(rng.choice(places, preset.correct_pool, replace=False))
        rows += [(kind, k, kind, made[k].text, made[k].original) for k in places]
    return pd.DataFrame(rows, columns=["set", "place", "kind", "asked", "wanted"])


def margin(found: list[str], asked: list[str], gains: np.ndarray, kept: float) -> float:
    """The least margin, 0 or more, that leaves the share `kept` of these reports, none of which has
    an error, as they are, where a correction is taken only if it is likelier than the report by
    more than the margin (natural logarithm).
    """
    changed = np.sort(
        gains[
            [generation.plain(f) != generation.plain(a) for f, a in zip(found, asked, strict=True)]
        ]
    )
    most = int((1 - kept) * len(found))  # that may still be changed
    return max(0.0, float(changed[len(changed) - most - 1])) if len(changed) > most else 0.0


def knowing(table: pd.DataFrame, own: Reports, known: Reports) -> list[str]:
    """What one writes who is told which words were swapped, and of another study's report which of
    the 14 labels are right, but nothing of wording, side, zone or extent: the most common of the
    `known` reports with these labels, else what stands there. `own`: the reports that the places
    in `table` mean."""
    found = pd.Series([row.tobytes() for row in known.said])
    usual = pd.Series(known.texts).groupby(found).agg(lambda texts: texts.mode()[0])
    guessed = pd.Series([own.said[k].tobytes() for k in table["place"]]).map(usual)
    guessed = guessed.where(guessed.notna(), table["asked"])
    return (
        guessed.mask(table["kind"] == "", table["asked"])
        .mask(table["kind"].isin(report_errors.WORDS), table["wanted"])
        .tolist()
    )


def evaluate(
    found: list[str],
    table: pd.DataFrame,
    patients,
    *,
    n_resamples=1000,
    seed=0,
    **about,
) -> list[dict]:
    """Rows of one way to correct the reports of `to_correct`; patients (n,) of its rows.

    On the mixed set BLEU to CIDEr and label scores (generate.evaluate) and exact_match. Of
    erroneous reports (subset "errors", and each type on its own set): repaired, written exactly as
    it was; repaired_findings, with the same positive findings; unchanged. Of the others (subset
    "clean"): untouched. Texts are compared word by word. `about`: see
    `medxvl.evaluation.rows`.
    """
    about = {"paper": "xvl", "task": "error_correction"} | about
    given_, wanted, written = (
        [generation.plain(t) for t in texts] for texts in (table["asked"], table["wanted"], found)
    )
    right, same = np.array(written) == np.array(wanted), np.array(written) == np.array(given_)
    ours, theirs = (
        (t == 1).to_numpy()
        for t in (labels.label_reports(list(of)) for of in (found, table["wanted"]))
    )
    agree, mixed, wrong = (
        (ours == theirs).all(axis=1),
        (table["set"] == MIXED).to_numpy(),
        (table["kind"] != "").to_numpy(),
    )
    texts = [np.array(t, dtype=object)[mixed].tolist() for t in (found, table["wanted"])]
    rows = generation.evaluate(*texts, patients[mixed], n_resamples=n_resamples, seed=seed, **about)
    shares = [("", mixed, {"exact_match": right}), ("clean", mixed & ~wrong, {"untouched": same})]
    of_errors = {"repaired": right, "repaired_findings": agree, "unchanged": same}
    shares += [("errors", mixed & wrong, of_errors)]
    shares += [
        (kind, (table["set"] == kind).to_numpy(), of_errors)
        for kind in dict.fromkeys(table["set"])
        if kind != MIXED
    ]
    for subset, chosen, values in shares:
        counted = about | {"n": int(chosen.sum())}
        values = {name: value[chosen].astype(float) for name, value in values.items()}
        functions = {
            name: (subset, lambda w, v=v: generation.mean(v, w)) for name, v in values.items()
        }
        rows += generation.estimates(functions, counted, patients[chosen], n_resamples, seed)
    return rows


def examples(
    dataset, part: Studies, table: pd.DataFrame, found: list[str], shown, seed: int
) -> list[dict]:
    """One report of each type of error, as it was, with the error and corrected, for
    plots_medvill.examples; drawn at random among those that may be shown."""
    allowed, items = np.asarray(shown)[part.rows[table["place"]]], []
    rng = np.random.default_rng([seed, 47])
    for kind in [k for k in dict.fromkeys(table["set"]) if k != MIXED]:
        rows = np.flatnonzero(allowed & (table["set"] == kind).to_numpy())
        if not len(rows):
            continue
        k = rng.choice(rows)
        wanted, asked = table["wanted"].iloc[k], table["asked"].iloc[k]
        right = generation.plain(found[k]) == generation.plain(wanted)
        lines = [
            ["original", "soft"],
            [wanted, ""],
            [f"with an error: {kind.replace('_', ' ')}", "soft"],
            [asked, ""],
        ]
        lines += [
            ["corrected: " + ("as it was" if right else "not as it was"), "soft"],
            [found[k], "good" if right else "bad"],
        ]
        items.append(
            {"image": dataset.images(part.rows[[table["place"].iloc[k]]])[0], "lines": lines}
        )
    return items
