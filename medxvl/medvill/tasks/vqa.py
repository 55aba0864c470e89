"""Visual question answering with MedViLL (arXiv 2105.11333, section V): VQA-RAD, a classifier over
the training answers.

The pair's vector is the product of `[CLS]` and of the image part's `[SEP]`, under the bidirectional
mask; two layers lead to the answers, the loss is binary cross entropy.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medxvl.medvill import finetune, heads
from medxvl.medvill.finetune import CHUNK, FineTuning, Pictures, Tuned
from medxvl.training import distributed
from medxvl.training.finetune import OnQuestions


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
        images, joint = tuned.assemble(tokenizer, images, [asked[k] for k in part], "generation")
        best.append(tuned.logits(images.to(device), joint.to(device)).argmax(dim=1).cpu())
    return np.array(answers, dtype=object)[torch.cat(best).numpy()]


class Answering(OnQuestions, FineTuning):
    """Fine-tuning on the training questions of a table; the epoch that answers best on held-out
    training images is kept.
    """

    name, predict = "vqa", staticmethod(predict)

    def module(self) -> Answerer:
        return Answerer(finetune.copied(self.start), len(self.answers))

    def inputs(self, picked, rng, generator) -> tuple:
        own, images = picked[distributed.own(len(picked))], None
        if self.sees:
            images = self.images(picked, generator)
        asked = self.train["question"].iloc[own].tolist()
        images, joint = self.tuned.assemble(self.tokenizer, images, asked, "generation")
        place = {answer: k for k, answer in enumerate(self.answers)}
        return images, joint, torch.tensor([place[a] for a in self.train["answer"].iloc[own]])
