"""Fine-tune MedViLL on a task: its image tokens and joint sequences; the rest is
medxvl.training.finetune.

Whatever mask pre-training had, tasks of understanding are fine-tuned with the bidirectional one and
generation with Seq2Seq: the ablation compares what was pre-trained (arXiv 2105.11333, section V;
the release's fine-tuning does the same).
"""

import numpy as np
import torch
from torch import Tensor, nn

from medxvl.medvill import corpus, masks
from medxvl.medvill.image_encoder import crop_boxes, grid_side, plain_view, training_view
from medxvl.medvill.model import Joint, MedViLL
from medxvl.training import distributed, finetune

# With what else the tasks of this model take from here.
from medxvl.training.finetune import CHUNK, copied  # noqa: F401


class Pictures(finetune.Pictures):
    """Tokens of the image part, from MedViLL's trunk."""

    def plain(self, picked) -> Tensor:
        return plain_view(self.pixels(picked), self.preset)

    def views(self, picked, generator: torch.Generator) -> Tensor:
        own, preset = distributed.own(len(picked)), self.preset
        boxes = crop_boxes(
            len(picked), preset.medvill_crop_low, preset.medvill_crop_high, generator
        )[own]
        return training_view(self.pixels(np.asarray(picked)[own]), preset, boxes)

    def fixed(self, encoder) -> bool:
        return encoder.fixed

    def size(self, encoder) -> int:
        return grid_side(self.preset) ** 2 * encoder.features


def joint(
    tokenizer,
    preset,
    ids: Tensor,
    real: Tensor,
    places: int,
    mask: str = "bidirectional",
    task: str = "pretraining",
) -> Joint:
    """Joint sequences of `places` image tokens (0: none) and text parts, ids and which are tokens
    (N, T), for fine-tuning.

    `task` names the positions that the release has there (`corpus.join`); ours are those of
    pre-training, unless the setting `task_positions` is "released".
    """
    grid = torch.arange(places).expand(len(ids), -1)
    seen = masks.attention(
        mask,
        places + 2,
        real,
        padding=preset.medvill_padding if preset.medvill_padding == "blocked" else "finetuning",
    )
    positions = task if preset.task_positions == "released" else "pretraining"
    special = tokenizer.cls_token_id, tokenizer.sep_token_id
    return corpus.join(ids, seen, grid, special, every=True, positions=positions)


def by_length(texts: list[str], size: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of whole batches of `size` texts in random order, texts of like length together,
    eight batches at a time: less padding to attend to."""
    picked = rng.permutation(len(texts))[
        : len(texts) // size * size
    ]  # before they are sorted: any may be left over
    lengths = np.array([len(texts[k]) for k in picked])
    for start in range(0, len(picked), 8 * size):
        part = slice(start, start + 8 * size)
        picked[part] = picked[part][lengths[part].argsort(kind="stable")]
    return rng.permutation(picked.reshape(-1, size)).ravel()


class Tuned(nn.Module):
    """MedViLL with the head of a task (None: its own). `forward(*inputs)` gives the loss terms by
    name; `total` is minimised.
    """

    def __init__(self, model: MedViLL, head: nn.Module | None = None):
        super().__init__()
        self.model, self.head, self.preset = model, head, model.preset

    def assemble(self, tokenizer, images: Tensor | None, texts: list[str], task: str) -> tuple:
        """Image views or tokens, and the joint sequences with `texts` for `task` (see `joint`);
        without image tokens where `images` is None.
        """
        if images is None:
            images = torch.zeros(len(texts), 0, self.model.trunk.features)
        places = self.model.trunk.grid**2 if images.ndim == 4 else images.shape[1]
        ids, real = corpus.encode(tokenizer, texts, self.preset.medvill_text)
        return images, joint(tokenizer, self.preset, ids, real, places, task=task)

    def image_tokens(self, images: Tensor) -> Tensor:
        """(N, P, F): of views (N, C, s, s), or tokens that were computed before, as they are."""
        return self.model.trunk(images) if images.ndim == 4 else images


class FineTuning(finetune.FineTuning):
    """A task's training; the module is a Tuned."""

    groups, pictures_of = ("both", "medvill", "tune"), Pictures
    texts = None  # of the samples, where a batch is to hold texts of like length

    def order(self, epoch: int, rng) -> np.ndarray:
        if self.texts is None:
            return super().order(epoch, rng)
        return by_length(self.texts, self.size, rng)

    def encoder(self) -> nn.Module:
        return self.tuned.model.trunk
