"""A dataset's texts through X-VL's encoder-decoder, batch by batch: its training, how likely texts
are, and what it writes.

`asked`: texts to be read beside the images, None for a writer that reads none. What an image is
taken to be is a control: `images_of` (n,) are rows whose image is shown instead, `blank` (P, e)
tokens that stand in for every image.
"""

import numpy as np
import torch

from medxvl.data import text
from medxvl.layers import beam_search
from medxvl.training import distributed
from medxvl.xvl import writer
from medxvl.xvl.finetune import CHUNK, FineTuning, Pictures
from medxvl.xvl.writer import Writer


class Writing(FineTuning):
    """Fine-tuning of a writer that starts from a pre-trained X-VL; the epoch with the highest
    likelihood a word on `valid` is kept.

    train, valid: rows (n,) and the texts to be written for them. A task that reads texts beside
    the images sets `asked` (those of `train`) and `valid_asked`. most: tokens of a text.
    """

    score_label = "validation log-likelihood a word"
    groups = (*FineTuning.groups, "writer")
    asked = valid_asked = None

    def __init__(self, preset, dataset, start, tokenizer, device, train, valid, most: int):
        self.tokenizer, self.most = tokenizer, most
        (rows, self.texts), self.valid = train, valid
        super().__init__(preset, start, dataset, rows, device)

    def module(self) -> Writer:
        return writer.start_from(self.start, reads=self.valid_asked is not None)

    def inputs(self, picked, rng, generator) -> tuple:
        own = picked[distributed.own(len(picked))]
        read = text.encode(self.tokenizer, [self.texts[k] for k in own], self.most)
        if self.asked is not None:
            asked = [self.asked[k] for k in own]
            read = (*read, *text.encode(self.tokenizer, asked, self.preset.max_tokens))
        return self.images(picked, generator), *read

    def score(self, epoch: int) -> float:
        rows, texts = self.valid
        losses, words = likelihood(
            self.tuned,
            self.tokenizer,
            self.dataset,
            rows,
            texts,
            self.most,
            self.device,
            asked=self.valid_asked,
        )
        return -float(losses.sum() / words.sum())


@torch.no_grad()
def memories(
    tuned: Writer, tokenizer, dataset, rows, device, asked=None, images_of=None, blank=None
):
    """Places among the rows, and what the decoder looks at there."""
    tuned.eval()
    pictures = Pictures(dataset, rows if images_of is None else images_of, tuned.preset, device)
    for part in torch.arange(len(rows)).split(CHUNK):
        tokens = (
            pictures.tokens(tuned.vision, part)
            if blank is None
            else blank.expand(len(part), -1, -1)
        )
        read = None
        if asked is not None:
            read = tuple(
                t.to(device)
                for t in text.encode(tokenizer, [asked[k] for k in part], tuned.preset.max_tokens)
            )
        yield part.tolist(), tuned.remember(tokens, read)


@torch.no_grad()
def mean_tokens(tuned: Writer, dataset, rows, device) -> torch.Tensor:
    """(P, e) mean image tokens of the rows: what stands in for an image that is not shown."""
    tuned.eval()
    pictures = Pictures(dataset, rows, tuned.preset, device)
    parts = torch.arange(len(rows)).split(CHUNK)
    return sum(pictures.tokens(tuned.vision, part).sum(dim=0) for part in parts) / len(rows)


@torch.no_grad()
def likelihood(
    tuned: Writer, tokenizer, dataset, rows, wanted: list[str], most: int, device, **seen
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the losses of a text's words, the stop word with them, each given the true words
    before; how many. (n,) both.

    most: tokens of a text, `[CLS]` and `[SEP]` with them.
    """
    losses, words = [], []
    for part, memory in memories(tuned, tokenizer, dataset, rows, device, **seen):
        ids, mask = (t.to(device) for t in text.encode(tokenizer, [wanted[k] for k in part], most))
        losses.append(-tuned.log_likelihood(memory, ids, mask).cpu())
        words.append(mask.sum(dim=1).cpu() - 1)
    return torch.cat(losses).double().numpy(), torch.cat(words).double().numpy()


def write(
    tuned: Writer, tokenizer, dataset, rows, most: int, beams: int, device, **seen
) -> list[str]:
    """Texts of at most `most` words, by beam search, or greedy where there is one beam."""
    preset, found = tuned.preset, []
    rules = beam_search.Rules(
        stop=tokenizer.sep_token_id,
        most=most,
        beams=beams,
        least=preset.writer_least,
        length_power=preset.writer_length_power,
    )
    for _, memory in memories(tuned, tokenizer, dataset, rows, device, **seen):
        found += beam_search.to_texts(
            tokenizer, tuned.write(memory, rules, tokenizer.pad_token_id).words
        )
    return found
