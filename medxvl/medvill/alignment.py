"""Bring MedViLL's image tokens near the words that describe them, before BERT reads either: the
start of the small presets.

The paper starts from an image encoder trained on ImageNet and a BERT trained on text. Where there
is neither, this contrast of images and reports stands in, once for all masks: none of them plays a
part in it. A task that `loop.fit` runs, in notebook 10.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from medxvl.config import recipes
from medxvl.config.recipes import Recipe
from medxvl.medvill import checkpoints
from medxvl.medvill import corpus as corpora
from medxvl.medvill.image_encoder import crop_boxes, plain_view, training_view
from medxvl.medvill.model import MedViLL
from medxvl.training import distributed, loop
from medxvl.weights import store

# factor on the mean of best cosines, which differs less from pair to pair than the cosine of means
BEST = 3.0
WORDS = "bert.embeddings.word_embeddings.weight"
ALIGNED = ("trunk.", "image_proj.", WORDS)  # what is trained
_LATER = (  # settings that play no part here
    "medvill_mask",
    "medvill_padding",
    "medvill_seq2seq",
    "medvill_positions",
    "medvill_draw",
    "medvill_matched",
    "medvill_mlm_mismatched",
    "medvill_similarity_start",
    "medvill_matching_epochs",
    "medvill_epochs",
    "medvill_batch",
    "medvill_min_rate",
)


class Aligner(nn.Module):
    """In-batch contrast of image tokens and words where both enter BERT."""

    def __init__(self, model: MedViLL):
        super().__init__()
        self.model = model
        self.scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, images: Tensor, ids: Tensor, word: Tensor) -> dict[str, Tensor]:
        """Images (n, C, s, s) of this process; ids and which are words (N, T) of the whole batch's
        reports.

        An image and a report are compared twice, by the cosine of their mean tokens, and by the
        best cosine of each word with any image token, averaged over the words (late interaction,
        Yao et al. 2021, arXiv 2111.07783): the first teaches the image encoder most, the second
        brings a word near the place that shows it, which is what attention can look up.
        """
        self.model.trunk.hold(False)
        tokens = self.model.image_proj(self.model.trunk(images))
        vocabulary, place = ids[word].unique(return_inverse=True)
        words = self.model.bert.embeddings.word_embeddings(vocabulary)
        with torch.autocast(
            tokens.device.type, enabled=False
        ):  # cosines are multiplied by up to 300
            tokens = tokens.to(words.dtype)
            said = tokens.new_zeros(len(ids), len(vocabulary))
            said = said.index_put(
                (word.nonzero()[:, 0], place), tokens.new_ones(()), accumulate=True
            )
            said = said / said.sum(dim=1, keepdim=True).clamp(
                min=1
            )  # share of a report that each word has
            best = (F.normalize(tokens, dim=2) @ F.normalize(words, dim=1).t()).amax(
                dim=1
            )  # (n, words)
            whole = (
                distributed.gather(F.normalize(tokens.mean(dim=1), dim=1))
                @ F.normalize(said @ words, dim=1).t()
            )
            parts = BEST * distributed.gather(best) @ said.t()
            own, scale = torch.arange(len(ids), device=ids.device), self.scale.exp().clamp(max=100)
            both = [F.cross_entropy(scale * s, own) for s in (whole, whole.t(), parts, parts.t())]
        return {"total": torch.stack(both).mean()}


class Alignment(loop.Task):
    """The contrast on the split `train` of `dataset`; the last epoch is kept."""

    label, score_label, skips_parameters = "alignment", "epochs done", True  # BERT's layers wait

    def __init__(self, preset, dataset, tokenizer):
        self.preset, self.tokenizer = preset, tokenizer
        self.corpus, self.epochs = (
            corpora.Corpus(dataset, "train", tokenizer, preset),
            preset.medvill_alignment_epochs,
        )
        self.n, self.batch_size = len(self.corpus), preset.medvill_alignment_batch
        self.decay = preset.medvill_weight_decay
        self.rates = preset.medvill_warmup, preset.medvill_alignment_rate, preset.medvill_rate
        self.recipe = recipe(preset, self.corpus)

    def build(self, device) -> Aligner:
        self.model = MedViLL(self.preset, len(self.tokenizer)).to(device)
        return Aligner(self.model).to(device)

    def start_epoch(self, epoch: int) -> None:
        if epoch == 0:
            checkpoints.start_from(self.model, self.preset)

    def batch(self, epoch: int, k: int, order, rng, generator) -> tuple:
        picked, preset = order[k * self.size : (k + 1) * self.size], self.preset
        own = distributed.own(len(picked))
        ids, word = corpora.encode(
            self.tokenizer, [self.corpus.texts[j] for j in picked], preset.medvill_text
        )
        boxes = crop_boxes(
            len(picked), preset.medvill_crop_low, preset.medvill_crop_high, generator
        )[own]
        return self.corpus.studies(picked), (
            training_view(self.corpus.images(picked[own]), preset, boxes),
            ids,
            word,
        )

    def score(self, epoch: int) -> float | None:
        return float(self.epochs) if epoch + 1 == self.epochs else None

    def save(self, path: Path, score: float) -> None:
        state = {
            k: v.contiguous() for k, v in self.model.state_dict().items() if k.startswith(ALIGNED)
        }
        shared = recipe(self.preset, self.corpus, seed=False)
        store.write(state, path, {"model": "medxvl alignment"} | shared.about())


def recipe(preset, corpus: corpora.Corpus, seed: bool = True) -> Recipe:
    """What shapes an alignment: settings, data, vocabulary and code. Variants with other seeds
    share its weights, so `seed` says whether the seed counts."""
    return Recipe.of(
        preset,
        ("both", "medvill"),
        corpus.dataset.fingerprint,
        __name__,
        without=_LATER if seed else (*_LATER, "seed"),
        words=recipes.digest(sorted(corpus.tokenizer.get_vocab().items())),
        **store.contents(checkpoints.named_weights(preset)),
    )


def fit(preset, dataset, tokenizer, folder: Path, device, progress) -> tuple[pd.DataFrame, Path]:
    """Align on the split `train` of `dataset` into `folder`; the log, and the file of the weights
    that pre-training starts from.
    """
    task = Alignment(preset, dataset, tokenizer)
    return loop.fit_to_end(task, folder, checkpoints.ALIGNED_FILE, device, progress)


@torch.no_grad()
def start(model: MedViLL, corpus: corpora.Corpus, path: Path, device) -> None:
    """Put the aligned weights of `path` into `model`, image tokens as long as words: the contrast
    fixed directions alone, and BERT adds the same positions to both."""
    wanted, told = recipe(model.preset, corpus, seed=False), store.about(path)
    if differs := wanted.differs(told):
        raise ValueError(
            f"{path}: made with other settings or data than {model.preset.name} has now "
            f"({'; '.join(differs[:5])}); repeat ./run_all.sh {model.preset.name} 10 --force"
        )
    wanted.warn_of_code(told, path)
    model.load_state_dict(load_file(path), strict=False)
    model.eval()
    images = corpus.images(np.arange(min(len(corpus), 256)))
    tokens = model.image_proj(model.trunk(plain_view(images, model.preset).to(device)))
    ratio = (
        model.bert.embeddings.word_embeddings.weight.norm(dim=1).mean() / tokens.norm(dim=2).mean()
    )
    model.image_proj.weight.mul_(ratio)
    model.image_proj.bias.mul_(ratio)
