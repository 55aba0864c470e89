"""Report error correction with Medical X-VL (arXiv 2208.05140, section 5): read a report beside its
image, write it as it should be.

The reader sees the report, half of which hold an error (medxvl.xvl.report_errors), and the image;
the decoder writes the report anew, by beam search. What comes out right by leaving a report as it
is, or without the image, says how much is owed to the picture.
"""

import numpy as np
import pandas as pd
from torch import Tensor

from data_prep.reports import labels
from medxvl.data import text
from medxvl.evaluation import generation
from medxvl.training import distributed
from medxvl.xvl import corpus as corpora
from medxvl.xvl import report_errors, writer, writing
from medxvl.xvl.finetune import FineTuning


class Corpus:
    """Reports of a split as the model reads them: cleaned sentences of the impression, as many as
    fit into `max_tokens`.
    """

    def __init__(self, dataset, split: str, tokenizer, preset):
        rows = dataset.rows(split)
        parts = corpora.report_sentences(dataset, rows, preset)
        texts = fitting(parts, tokenizer, preset.max_tokens)
        kept = [k for k, t in enumerate(texts) if t]
        if not kept:
            raise ValueError(
                f"{dataset.label}: expected {split} studies with a report, found none of "
                f"{len(rows)}"
            )
        self.rows, self.texts = rows[kept], [texts[k] for k in kept]
        self.cut = sum(text.join(parts[k]) != texts[k] for k in kept)
        self.patients = dataset.index["patient_id"].to_numpy()[self.rows]
        self.labels = report_errors.labeller.label_reports(self.texts)
        self.known = report_errors.Reports(self.texts, self.labels, self.patients)

    def __len__(self) -> int:
        return len(self.rows)

    def mixed(
        self, share: float, rng: np.random.Generator, others: report_errors.Reports, words: int = 1
    ) -> list:
        """An error, or None, for each report: `share` of them have one of the published types,
        those that swap words drawn `words` times as often as the others."""
        kinds = report_errors.PUBLISHED + report_errors.WORDS * (words - 1)
        return report_errors.mixed(
            self.texts, share, rng, kinds, labels=self.labels, patients=self.patients, others=others
        )

    def of_kind(
        self, kind: str, rng: np.random.Generator, others: report_errors.Reports, most: int = 0
    ) -> tuple[np.ndarray, list]:
        """Reports that can have an error of type `kind`, `most` of them at random (0: all): their
        places, and the errors.
        """
        made = report_errors.corrupt(
            self.texts, kind, rng, labels=self.labels, patients=self.patients, others=others
        )
        places = np.flatnonzero([isinstance(m, report_errors.Error) for m in made])
        if most and len(places) > most:
            places = np.sort(rng.choice(places, most, replace=False))
        return places, [made[k] for k in places]


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


class Correcting(FineTuning):
    """Fine-tuning on the training reports, with new errors each epoch; the epoch with the likeliest
    corrections on `valid` is kept.
    """

    name = "correct"
    score_label = "validation log-likelihood a word"
    groups = (*FineTuning.groups, "writer")

    def __init__(self, preset, dataset, start, tokenizer, device):
        self.corpus, self.valid = (
            Corpus(dataset, split, tokenizer, preset) for split in ("train", "valid")
        )
        self.tokenizer = tokenizer
        drawn = self.valid.mixed(
            preset.correct_share, np.random.default_rng([preset.seed, 41]), self.corpus.known
        )
        self.asked = given(self.valid.texts, drawn)
        super().__init__(preset, start, dataset, self.corpus.rows, device)

    def module(self) -> writer.Writer:
        return writer.start_from(self.start, reads=True)

    def order(self, epoch: int, rng) -> np.ndarray:
        drawn = self.corpus.mixed(
            self.preset.correct_share, rng, self.corpus.known, self.preset.correct_words
        )
        self.given = given(self.corpus.texts, drawn)
        return super().order(epoch, rng)

    def inputs(self, picked, rng, generator) -> tuple:
        own = picked[distributed.own(len(picked))]
        return self.images(picked, generator), *encoded(
            self.tokenizer, self.preset, self.corpus.texts, self.given, own
        )

    def score(self, epoch: int) -> float:
        losses, words = writing.likelihood(
            self.tuned,
            self.tokenizer,
            self.dataset,
            self.valid.rows,
            self.valid.texts,
            self.preset.max_tokens,
            self.device,
            asked=self.asked,
        )
        return -float(losses.sum() / words.sum())


def given(texts: list[str], drawn: list) -> list[str]:
    """What is read: the erroneous report where there is one."""
    return [
        text_ if error is None else error.text for text_, error in zip(texts, drawn, strict=True)
    ]


def encoded(tokenizer, preset, wanted: list[str], asked: list[str], picked) -> tuple[Tensor, ...]:
    """Ids and mask of the texts to be written and of those to be read."""
    return tuple(
        t
        for texts in (wanted, asked)
        for t in text.encode(tokenizer, [texts[k] for k in picked], preset.max_tokens)
    )


def correct(tuned, tokenizer, dataset, rows, asked: list[str], device, **seen) -> list[str]:
    """The reports `asked` as the writer would have them; `seen`: what the image is taken to be
    (medxvl.xvl.writing).
    """
    most, beams = tuned.preset.correct_most, tuned.preset.correct_beams
    return writing.write(tuned, tokenizer, dataset, rows, most, beams, device, asked=asked, **seen)


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
    corpus: Corpus, preset, others: report_errors.Reports, kinds=report_errors.PUBLISHED
) -> pd.DataFrame:
    """Reports to be corrected, a row each: set, place (in the corpus), kind ("" for a report
    without error), asked, wanted.

    Set MIXED: every report, `correct_share` of them with an error. A set named after a type: at
    most `correct_pool` reports with that error each, since some types are rare among the mixed.
    `others`: whose reports take the place of one.
    """
    rng = np.random.default_rng([preset.seed, 43])
    drawn = corpus.mixed(preset.correct_share, rng, others)
    rows = [
        (MIXED, k, "" if e is None else e.kind, given([t], [e])[0], t)
        for k, (t, e) in enumerate(zip(corpus.texts, drawn, strict=True))
    ]
    for kind in kinds:
        rows += [
            (kind, k, kind, e.text, e.original)
            for k, e in zip(*corpus.of_kind(kind, rng, others, preset.correct_pool), strict=True)
        ]
    return pd.DataFrame(rows, columns=["set", "place", "kind", "asked", "wanted"])


def surely(found: list[str], asked: list[str], gains: np.ndarray, margin: float) -> list[str]:
    """The correction where it is likelier than the report as it stands by more than `margin`
    (natural logarithm), else the report.
    """
    return [f if gain > margin else a for f, a, gain in zip(found, asked, gains, strict=True)]


def margin(found: list[str], asked: list[str], gains: np.ndarray, kept: float) -> float:
    """The least margin, 0 or more, that leaves the share `kept` of these reports, none of which has
    an error, as they are.
    """
    changed = np.sort(
        gains[
            [generation.plain(f) != generation.plain(a) for f, a in zip(found, asked, strict=True)]
        ]
    )
    most = int((1 - kept) * len(found))  # that may still be changed
    return max(0.0, float(changed[len(changed) - most - 1])) if len(changed) > most else 0.0


def knowing(table: pd.DataFrame, corpus: Corpus, known: report_errors.Reports) -> list[str]:
    """What one writes who is told which words were swapped, and of another study's report which of
    the 14 labels are right, but nothing of wording, side, zone or extent: the most common of the
    `known` reports with these labels, else what stands there."""

    def found(reports: report_errors.Reports) -> pd.Series:
        return pd.Series([row.tobytes() for row in reports.said])

    usual = pd.Series(known.texts).groupby(found(known)).agg(lambda texts: texts.mode()[0])
    guessed = found(corpus.known).iloc[table["place"]].map(usual).reset_index(drop=True)
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
    dataset, corpus: Corpus, table: pd.DataFrame, found: list[str], shown, seed: int
) -> list[dict]:
    """One report of each type of error, as it was, with the error and corrected, for
    plots_medvill.examples; drawn at random among those that may be shown."""
    allowed, items = np.asarray(shown)[corpus.rows[table["place"]]], []
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
            {"image": dataset.images(corpus.rows[[table["place"].iloc[k]]])[0], "lines": lines}
        )
    return items
