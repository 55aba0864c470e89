"""Visual question answering with Medical X-VL (arXiv 2208.05140, early version): VQA-RAD, every
candidate answer is scored.

The question is read beside the image (its upper layers look at image tokens), and the decoder looks
at what was read. It is not left to write freely: the candidates, the training answers, are cut to
the `xvl_vqa_first` whose first token is likeliest, then the one that is likeliest as a whole is
given. The release's own driver raises; where it says nothing, the paper's protocol decides.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medxvl.data import text
from medxvl.training import distributed
from medxvl.training.finetune import OnQuestions
from medxvl.xvl import writer
from medxvl.xvl.finetune import CHUNK, FineTuning, Pictures


@torch.no_grad()
def rank(
    tuned: writer.Writer, memory, answers: tuple[Tensor, Tensor], first: int
) -> tuple[Tensor, Tensor]:
    """The `first` best of the answers, ids and mask (A, T), for the n questions in `memory`, the
    best first, and their log-probabilities, (n, first) both.

    They are chosen by the probability of their first token, among equals the more frequent answer,
    and ordered by that of all.
    """
    ids, mask = answers
    words, _ = tuned.decoder.step(tuned.decoder.start(memory), None)  # (n, V)
    chosen = words[:, ids[:, 1]].argsort(dim=1, descending=True, stable=True)[:, :first]
    n, k = chosen.shape
    beside = memory.select(torch.arange(n, device=ids.device).repeat_interleave(k))
    likely = tuned.log_likelihood(beside, ids[chosen.flatten()], mask[chosen.flatten()]).view(n, k)
    likely, order = likely.sort(dim=1, descending=True, stable=True)
    return chosen.gather(1, order), likely


@torch.no_grad()
def ranked(
    tuned: writer.Writer,
    tokenizer,
    dataset,
    table,
    answers: list[str],
    device,
    sees: bool = True,
    images_of=None,
) -> tuple[np.ndarray, np.ndarray]:
    """`rank` for each question of `table`: the `xvl_vqa_first` best of `answers`, the best first,
    and their log-probabilities. `images_of` (n,): rows whose image is shown instead (a control)."""
    tuned.eval()
    preset, found = tuned.preset, []
    pictures = Pictures(
        dataset, table["row"].to_numpy() if images_of is None else images_of, preset, device
    )
    candidates = [t.to(device) for t in text.encode(tokenizer, answers, preset.max_tokens)]
    asked = [
        t.to(device) for t in text.encode(tokenizer, table["question"].tolist(), preset.max_tokens)
    ]
    for part in torch.arange(len(table)).split(CHUNK):
        if sees:
            images = pictures.tokens(tuned.vision, part)
        else:
            images = torch.zeros(len(part), 1, preset.vision_width, device=device)
        memory = tuned.remember(images, tuple(t[part.to(device)] for t in asked))
        found.append(rank(tuned, memory, candidates, preset.xvl_vqa_first))
    order, likely = (torch.cat(x).cpu().numpy() for x in zip(*found, strict=True))
    return np.array(answers, dtype=object)[order], likely


def predict(
    tuned, tokenizer, dataset, table, answers: list[str], device, sees: bool = True, images_of=None
) -> np.ndarray:
    """(n,) the best of `answers` for each question; see `ranked`."""
    return ranked(tuned, tokenizer, dataset, table, answers, device, sees, images_of)[0][:, 0]


class Answering(OnQuestions, FineTuning):
    """Fine-tuning on the training questions of a table; the epoch that answers best on held-out
    training images is kept.
    """

    groups = (*FineTuning.groups, "writer")
    name, predict = "xvl_vqa", staticmethod(predict)

    def module(self) -> writer.Writer:
        start = copy.copy(self.start)
        # an answer does not repeat the question
        start.preset = replace(self.preset, writer_copies=0)
        return writer.start_from(start, reads=True)

    def inputs(self, picked, rng, generator) -> tuple:
        own, most = distributed.own(len(picked)), self.preset.max_tokens
        chosen = self.train.iloc[picked[own]]
        if self.sees:
            images = self.images(picked, generator)
        else:  # one empty image token each: the same model, without an image
            images = torch.zeros(len(chosen), 1, self.preset.vision_width)
        answer = text.encode(self.tokenizer, chosen["answer"].tolist(), most)
        return images, *answer, *text.encode(self.tokenizer, chosen["question"].tolist(), most)
