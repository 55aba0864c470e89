"""A dataset's texts through X-VL's encoder-decoder, batch by batch: how likely they are, and what
it writes.

`asked`: texts to be read beside the images, None for a writer that reads none. What an image is
taken to be is a control: `images_of` (n,) are rows whose image is shown instead, `blank` (P, e)
tokens that stand in for every image.
"""

import numpy as np
import torch

from medxvl.data import text
from medxvl.layers import beam_search
from medxvl.xvl.finetune import CHUNK, Pictures
from medxvl.xvl.writer import Writer


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
