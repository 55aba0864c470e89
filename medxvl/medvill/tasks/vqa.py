"""Visual question answering with MedViLL (arXiv 2105.11333, section V): VQA-RAD, a classifier over
the training answers.

The pair's vector is the product of `[CLS]` and of the image part's `[SEP]`, under the bidirectional
mask; two layers lead to the answers, the loss is binary cross entropy.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from medxvl.data import questions
from medxvl.medvill import corpus, finetune, heads
from medxvl.medvill.finetune import CHUNK, FineTuning, Pictures, Tuned
from medxvl.training import distributed


class Answerer(Tuned):
    """Logits of the candidate answers."""

    def __init__(self, model, answers: int):
        super().__init__(model, heads.answer_head(model.preset.medvill_width, answers))

    def logits(self, images: Tensor, joint) -> Tensor:
        """(N, answers)"""
        tokens = self.image_tokens(images)
        at = torch.tensor([0, tokens.shape[1] + 1], device=tokens.device).expand(len(tokens), -1)
        return self.head(heads.answer_vector(self.model.encode(tokens, joint, at), 2))

    def forward(self, images: Tensor, joint, target: Tensor) -> dict[str, Tensor]:
        loss = F.binary_cross_entropy_with_logits(
            self.logits(images, joint), F.one_hot(target, self.head[-1].out_features).float()
        )
        return {
            "total": loss * self.head[-1].out_features
        }  # per question, as the release scales it


class Answering(FineTuning):
    """Fine-tuning on the training questions of `table`; the epoch that answers best on held-out
    training images is kept.
    """

    score_label = "accuracy on held-out training images"

    def __init__(
        self, preset, dataset, table: pd.DataFrame, start, tokenizer, device, sees: bool = True
    ):
        train = table[table["split"] == "train"]
        self.answers, self.tokenizer, self.dataset, self.sees = (
            questions.vocabulary(train),
            tokenizer,
            dataset,
            sees,
        )
        self.train, self.valid = questions.hold_out(train, preset.seed)
        pictures = Pictures(dataset, self.train["row"].to_numpy(), preset, device) if sees else None
        data = f"{dataset.fingerprint} {len(table)} {sees}"
        super().__init__(
            "vqa",
            preset,
            start,
            pictures,
            len(self.train),
            data,
            device,
        )

    def module(self) -> Answerer:
        return Answerer(finetune.copied(self.start), len(self.answers))

    def ids(self, picked) -> list[str]:
        return self.train["qid"].iloc[picked].tolist()

    def inputs(self, picked, rng, generator) -> tuple:
        own, images = picked[distributed.own(len(picked))], None
        if self.sees:
            images = self.images(picked, generator)
        images, joint = assemble(
            self.tuned, self.tokenizer, images, self.train["question"].iloc[own].tolist()
        )
        place = {answer: k for k, answer in enumerate(self.answers)}
        return images, joint, torch.tensor([place[a] for a in self.train["answer"].iloc[own]])

    def score(self, epoch: int) -> float:
        if self.valid.empty:
            return 0.0
        given = predict(
            self.tuned,
            self.tokenizer,
            self.dataset,
            self.valid,
            self.answers,
            self.device,
            self.sees,
        )
        return float((given == self.valid["answer"].to_numpy()).mean())


def assemble(tuned: Tuned, tokenizer, images: Tensor | None, asked: list[str]) -> tuple:
    """(image views or tokens, joint sequences) for questions; without image tokens where `images`
    is None.
    """
    if images is None:
        images = torch.zeros(len(asked), 0, tuned.model.trunk.features)
    places = tuned.model.trunk.grid**2 if images.ndim == 4 else images.shape[1]
    ids, real = corpus.encode(tokenizer, asked, tuned.preset.medvill_text)
    return images, finetune.joint(tokenizer, tuned.preset, ids, real, places, task="generation")


@torch.no_grad()
def predict(
    tuned: Answerer,
    tokenizer,
    dataset,
    table,
    answers: list[str],
    device,
    sees: bool = True,
    images_of=None,
) -> np.ndarray:
    """(n,) the likeliest of `answers` for each question; `images_of` (n,): rows whose image is
    shown instead (a control).
    """
    tuned.eval()
    pictures = Pictures(
        dataset, table["row"].to_numpy() if images_of is None else images_of, tuned.preset, device
    )
    asked, best = table["question"].tolist(), []
    for part in torch.arange(len(asked)).split(2 * CHUNK):
        images = pictures.tokens(tuned.model.trunk, part) if sees else None
        images, joint = assemble(tuned, tokenizer, images, [asked[k] for k in part])
        best.append(tuned.logits(images.to(device), joint.to(device)).argmax(dim=1).cpu())
    return np.array(answers, dtype=object)[torch.cat(best).numpy()]


def fit(
    preset, dataset, table, start, tokenizer, folder: Path, device, progress, sees: bool = True
) -> tuple[Answerer, list[str], str]:
    """Fine-tune `start` (`sees` False: without images, a control); the module, its candidate
    answers, and what identifies it.
    """
    task = Answering(preset, dataset, table, start, tokenizer, device, sees)
    tuned, told = finetune.fit(task, preset, folder, device, progress)
    return tuned, task.answers, told
