"""MedViLL's inputs: joint sequences, grid positions, masked words, and mismatched reports that say
something else.
"""

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl.data import text
from medxvl.data.dataset import Pixels
from medxvl.evaluation.controls import label_sets
from medxvl.medvill import masks
from medxvl.medvill.image_encoder import crop_boxes, grid_side, plain_view, training_view
from medxvl.medvill.model import Batch, Joint
from medxvl.training import distributed
from medxvl.weights import convert

_BLANK = re.compile(r"_{2,}")  # what de-identification left of a name or a date
_SPACES = re.compile(r"\s+")


def report_texts(dataset, rows) -> list[str]:
    """Findings and impression of each row in one text, without de-identification blanks."""
    table = dataset.index.iloc[rows]
    return [
        _SPACES.sub(" ", _BLANK.sub(" ", text)).strip()
        for text in table["findings"] + " " + table["impression"]
    ]


def vocabulary(dataset, preset, folder: Path):
    """The tokenizer, from the training reports unless BERT starts from released weights; see
    `text.vocabulary`."""
    weights = preset.medvill_text_weights and convert.locate(preset.medvill_text_weights)
    texts = [] if weights else report_texts(dataset, dataset.rows("train"))
    return text.vocabulary(folder, weights, texts, preset.vocabulary, special_first=False)


def encode(
    tokenizer, texts: list[str], max_tokens: int, own_cls: bool = False, full: bool = False
) -> tuple[Tensor, Tensor]:
    """Ids of the text parts and whether each is a token, (N, T): `w_1 .. w_n [SEP]`, padded to the
    longest of the batch.

    With `own_cls` a `[CLS]` stands before (the mask `noncross`). At most `max_tokens` words;
    `full`: padded as if one had them.
    """
    batch = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=max_tokens)[
        "input_ids"
    ]
    first = [tokenizer.cls_token_id] if own_cls else []
    rows = [torch.tensor(first + ids + [tokenizer.sep_token_id]) for ids in batch]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    if full:
        ids = F.pad(ids, (0, max_tokens + 1 + own_cls - ids.shape[1]), value=tokenizer.pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def join(
    text: Tensor,
    mask: Tensor,
    grid: Tensor,
    special: tuple[int, int],
    *,
    every=False,
    own_cls=False,
    positions="pretraining",
) -> Joint:
    """Joint sequences from text parts (N, T), their mask (N, L, L) and the grid positions (N, k) of
    the image tokens.

    `special` are the ids of `[CLS]` and `[SEP]`. Positions: the text part counts from 0 again, an
    own `[CLS]` before it (`own_cls`) has 0, too; image tokens take their place on the grid, `[CLS]`
    and `[SEP]` of the image part both 0. So it is in pre-training and retrieval. The release's
    other tasks differ: positions="generation" (and answering) has `[SEP]` at k + 1,
    "classification" counts the image part through, 0 .. k + 1. `every`: `grid` names all positions
    in order, so that nothing is to be picked out. Raises ValueError for other `positions`.
    """
    if positions not in ("pretraining", "generation", "classification"):
        raise ValueError(
            f"positions={positions!r}: expected pretraining, generation or classification"
        )
    n, k = grid.shape
    image = torch.full((n, k + 2), special[0])
    image[:, -1] = special[1]
    at = torch.arange(k + 2).repeat(n, 1)
    if positions != "classification":
        at[:, 1:-1] = grid
    if positions == "pretraining":
        at[:, -1] = 0
    ids = torch.cat([image, text], dim=1)
    in_text = (torch.arange(text.shape[1]) - int(own_cls)).clamp(min=0)
    at = torch.cat([at, in_text.expand_as(text)], dim=1)
    segments = (torch.arange(ids.shape[1]) >= k + 2).long().expand_as(ids)
    return Joint(ids, at, segments, mask, None if every else grid)


def draw_grid(
    n: int, all_positions: int, kept: int, once: bool, generator: torch.Generator
) -> Tensor:
    """(n, kept) sorted grid positions, drawn without replacement for each sample; `once`: the same
    for the whole batch.
    """
    chance = torch.rand(1 if once else n, all_positions, generator=generator)
    return chance.argsort(dim=1)[:, :kept].sort(dim=1).values.expand(n, -1)


def mask_words(
    ids: Tensor, word: Tensor, chance: Tensor, other: Tensor, share: float, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Mask `share` of the words, at least one a sample: 80 % `[MASK]`, 10 % another word, 10 %
    kept. All (N, T).

    `word` is True where a word may be masked, `chance` is uniform in [0, 1), `other` the words to
    put in. Where no word is picked the first becomes `[MASK]`. Returns ids and labels; labels are
    -100 where nothing is to be predicted.
    """
    picked, part = word & (chance < share), chance / share
    none = ~picked.any(dim=1)
    first = word & (word.cumsum(dim=1) == 1) & none[:, None]
    masked = torch.where((picked & (part < 0.8)) | first, mask_id, ids)
    masked = torch.where(picked & (part >= 0.8) & (part < 0.9), other, masked)
    return masked, torch.where(picked | first, ids, -100)


def draw_masked(
    ids: Tensor, word: Tensor, tokenizer, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`mask_words` with its draws; no special token is put in (the release may)."""
    words = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    other = words[torch.randint(len(words), ids.shape, generator=generator)]
    return mask_words(
        ids, word, torch.rand(ids.shape, generator=generator), other, share, tokenizer.mask_token_id
    )


def draw_other(labels: np.ndarray, picked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each of `picked` (b,) a study whose label set differs, drawn uniformly; -1 where every
    study has the same.

    `labels` (n,) are `label_sets` of all studies. Studies of one set lie together once sorted: the
    draw skips that stretch.
    """
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    start, stop = (
        np.searchsorted(ordered, labels[picked], "left"),
        np.searchsorted(ordered, labels[picked], "right"),
    )
    others = len(labels) - (stop - start)
    at = (rng.random(len(picked)) * others).astype(np.int64)
    return np.where(
        others > 0, order[np.where(at < start, at, at + stop - start) % len(labels)], -1
    )


class Corpus:
    """Reports, pixels and label sets of a split; studies without a report are left out."""

    def __init__(self, dataset, split: str, tokenizer, preset):
        rows = dataset.rows(split)
        texts = report_texts(dataset, rows)
        kept = [k for k, text in enumerate(texts) if text]
        if not kept:
            raise ValueError(
                f"{dataset.label}: expected {split} studies with a report, found none of "
                f"{len(rows)}"
            )
        self.rows, self.texts = rows[kept], [texts[k] for k in kept]
        self.labels = label_sets(dataset, self.rows)
        self.dataset, self.tokenizer, self.preset = dataset, tokenizer, preset
        self.images = Pixels(dataset, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def studies(self, picked) -> list[str]:
        return self.dataset.index["study_id"].iloc[self.rows[picked]].tolist()

    def pairs(self, picked, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        """Whose report goes with each image of `picked` (b,), and 1 where it is the image's own,
        both (b,).
        """
        own = rng.random(len(picked)) < self.preset.medvill_matched
        other = draw_other(self.labels, picked, rng)
        own = own | (other < 0)
        return np.where(own, picked, other), torch.from_numpy(own.astype(np.int64))

    def batch(
        self,
        picked,
        rng: np.random.Generator,
        generator: torch.Generator,
        training: bool = True,
        masked: bool = True,
    ) -> Batch:
        """One step's input from the studies `picked` (b,), some with a report of other findings;
        this process's part of it.

        All draws are made for the whole batch. For evaluation the whole image is seen and all grid
        positions are kept; words are masked and reports exchanged all the same.
        """
        preset, picked, tokenizer = self.preset, np.asarray(picked), self.tokenizer
        own, n, side = distributed.own(len(picked)), len(picked), grid_side(self.preset)
        whose, matched = self.pairs(picked, rng)
        own_cls, texts = preset.medvill_mask == "noncross", [self.texts[k] for k in whose]
        full = (
            preset.medvill_padding != "blocked"
        )  # where padding is looked at, its length is the release's
        ids, real = encode(tokenizer, texts, preset.medvill_text, own_cls, full)
        word = real & (ids != tokenizer.sep_token_id) & (ids != tokenizer.cls_token_id)
        labels = torch.full_like(ids, -100)
        if masked:
            ids, labels = draw_masked(ids, word, tokenizer, preset.mask_share, generator)
        seq2seq = (
            masks.draw_seq2seq(n, preset.medvill_seq2seq, generator)[own]
            if preset.medvill_mask == "bi_seq2seq"
            else None
        )
        if training:
            grid = draw_grid(
                n, side**2, preset.medvill_positions, preset.medvill_draw == "batch", generator
            )[own]
            boxes = crop_boxes(n, preset.medvill_crop_low, preset.medvill_crop_high, generator)[own]
            images = training_view(self.images(picked[own]), preset, boxes)
        else:
            grid, images = (
                torch.arange(side**2).expand(len(picked[own]), -1),
                plain_view(self.images(picked[own]), preset),
            )
        mask = masks.attention(
            preset.medvill_mask, grid.shape[1] + 2, real[own], seq2seq, preset.medvill_padding
        )
        special = tokenizer.cls_token_id, tokenizer.sep_token_id
        joint = join(ids[own], mask, grid, special, every=not training, own_cls=own_cls)
        return Batch(images, joint, labels[own], matched[own])
