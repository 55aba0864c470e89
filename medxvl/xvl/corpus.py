"""What X-VL's pre-training reads: reports, their sentences, and images."""

from pathlib import Path

import numpy as np
import torch

from medxvl.data import dataset as datasets
from medxvl.data import text
from medxvl.layers import vision_transformer
from medxvl.training import distributed
from medxvl.weights import convert
from medxvl.xvl.model import Batch


def vocabulary(dataset, preset, folder: Path):
    """The tokenizer of the text encoder, from the training reports unless it starts from released
    weights; see `text.vocabulary`."""
    weights, texts = preset.text_weights and convert.locate(preset.text_weights), []
    if not weights:
        rows = share_of(dataset, dataset.rows("train"), preset)
        texts = [text.join(p) for p in report_sentences(dataset, rows, preset) if p]
    return text.vocabulary(folder, weights, texts, preset.vocabulary)


class Corpus:
    """Cleaned reports and pixels of some rows of a prepared dataset; reports without a sentence are
    left out.
    """

    def __init__(self, dataset, split: str, tokenizer, preset):
        rows = dataset.rows(split)
        if split == "train":
            rows = share_of(dataset, rows, preset)
        reports = report_sentences(dataset, rows, preset)
        kept = [k for k, parts in enumerate(reports) if parts]
        self.rows, self.sentences = rows[kept], [reports[k] for k in kept]
        self.dataset, self.tokenizer, self.preset = dataset, tokenizer, preset
        self.images = datasets.Pixels(dataset, self.rows)
        if split == "train" and not kept:
            raise ValueError(
                f"{dataset.label}: expected training studies with a report, found none of "
                f"{len(rows)}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def reports(self, picked, rng: np.random.Generator | None = None) -> list[str]:
        """Reports of `picked`; with a generator their sentences are shuffled and, in a share of
        them, some left out.
        """
        parts = [self.sentences[k] for k in picked]
        if rng is None:
            return [text.join(p) for p in parts]
        whole = rng.random(len(parts)) >= self.preset.excerpt_share
        counts = np.where(whole, 999, rng.integers(1, 4, len(parts)))
        return [
            text.join([p[j] for j in rng.permutation(len(p))[:n]])
            for p, n in zip(parts, counts, strict=True)
        ]

    def pairs(
        self, picked, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """What `warmup.contrast` takes of the studies `picked` (n,): augmented images and reports
        of the own part, every sentence alone, once, and which report and sentences each study
        holds. A share of the words is hidden or replaced."""
        own, preset = distributed.own(len(picked)), self.preset
        held = [{text.join([s]) for s in self.sentences[k]} for k in picked]
        reports, sentences = self.reports(picked, rng), sorted(set().union(*held))
        said = torch.tensor([[s in parts for s in sentences] for parts in held])
        same = np.unique(reports, return_inverse=True)[1]
        belongs = torch.cat([torch.from_numpy(same[:, None] == same), said], dim=1)
        view = vision_transformer.augmented_view(
            self.images(picked[own]), preset, generator, own, len(picked)
        )
        (ids, mask), (alone, alone_mask) = (
            text.encode(self.tokenizer, t, preset.max_tokens) for t in (reports, sentences)
        )
        ids, alone = (
            text.mask_tokens(t, len(self.tokenizer), preset.contrast_masked, generator)[0]
            for t in (ids, alone)
        )
        return view, ids[own], mask[own], alone, alone_mask, belongs

    def batch(self, picked, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        """Both views, shuffled report, masked report and single sentences of the studies `picked`
        (n,); own part.
        """
        own, preset = distributed.own(len(picked)), self.preset
        pixels = self.images(picked[own])
        ids, mask = text.encode(self.tokenizer, self.reports(picked, rng), preset.max_tokens)
        masked_ids, labels = text.mask_tokens(
            ids, len(self.tokenizer), preset.mask_share, generator
        )
        parts = [self.sentences[k] for k in picked[own]]
        sentence_ids, sentence_mask = text.encode(
            self.tokenizer, [s for p in parts for s in p], preset.max_tokens
        )
        return Batch(
            vision_transformer.augmented_view(pixels, preset, generator, own, len(picked)),
            vision_transformer.plain_view(pixels, preset),
            ids[own],
            mask[own],
            masked_ids[own],
            labels[own],
            sentence_ids,
            sentence_mask,
            torch.repeat_interleave(
                torch.arange(len(parts)), torch.tensor([len(p) for p in parts])
            ),
        )


def share_of(dataset, rows, preset) -> np.ndarray:
    """Of `rows` those of a share of the patients; with the same seed a smaller share is part of a
    larger one.
    """
    if preset.share == 1:
        return rows
    patients = dataset.index["patient_id"].to_numpy()[rows]
    drawn = np.random.default_rng([preset.seed, 30]).permutation(np.unique(patients))
    return rows[np.isin(patients, drawn[: max(1, round(preset.share * len(drawn)))])]


def report_sentences(dataset, rows, preset) -> list[list[str]]:
    """Sentences of the cleaned impression of each row; of the findings where a report has no
    impression.
    """
    table = dataset.index.iloc[rows]
    chosen = table["impression"].where(table["impression"] != "", table["findings"])
    return [text.sentences(text.clean_report(t, preset.max_words)) for t in chosen]
