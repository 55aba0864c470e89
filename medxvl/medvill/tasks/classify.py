"""Diagnosis classification with MedViLL (arXiv 2105.11333, section V): image and report through the
joint encoder, 15 labels.

The report names what it finds, so that image and report together say little of the picture: models
that are given only one of the two are trained beside it, and every score has its control with other
studies' images.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl.data.dataset import CHEXPERT_14
from medxvl.evaluation import controls, metrics
from medxvl.evaluation.rows import CHANCE, result_row
from medxvl.medvill import corpus, finetune, heads
from medxvl.medvill.finetune import CHUNK, FineTuning, Pictures, Tuned

CLASSES = (*CHEXPERT_14, "Others")  # Others: no finding of CheXpert is positive
INPUTS = ("image and report", "image only", "report only")
THRESHOLD = 0.5  # released code


def targets(dataset, rows) -> np.ndarray:
    """(n, 15) 1 where a class is positive, else 0; uncertain is not positive, as in the release's
    label sets.
    """
    positive = (dataset.index.iloc[rows][list(CHEXPERT_14)].to_numpy(dtype=float) == 1).astype(
        float
    )
    return np.concatenate([positive, (positive.sum(1, keepdims=True) == 0).astype(float)], axis=1)


class Classifier(Tuned):
    """`[CLS]` of the joint sequence, pooled, to 15 logits; binary cross entropy that weighs
    positives by their rarity.
    """

    def __init__(self, model, weight: Tensor):
        super().__init__(model, nn.Linear(model.preset.medvill_width, len(CLASSES)))
        self.register_buffer("weight", weight)

    def logits(self, images: Tensor, joint) -> Tensor:
        """(N, 15)"""
        first = torch.zeros(len(joint.ids), 1, dtype=torch.long, device=joint.ids.device)
        return self.head(
            self.model.bert.pooler(self.model.encode(self.image_tokens(images), joint, first))
        )

    def forward(self, images: Tensor, joint, y: Tensor) -> dict[str, Tensor]:
        loss = F.binary_cross_entropy_with_logits(
            self.logits(images, joint), y, pos_weight=self.weight
        )
        return {"total": loss}


class Classification(FineTuning):
    """Fine-tuning on the split `train`; the epoch with the best macro AUROC on `valid` is kept."""

    name = "classify"
    score_label = "validation macro AUROC"

    def __init__(self, preset, dataset, start, tokenizer, device, inputs: str = INPUTS[0]):
        if inputs not in INPUTS:
            raise ValueError(f"inputs={inputs!r}: expected one of {', '.join(INPUTS)}")
        rows = dataset.rows("train")
        self.tokenizer, self.given = tokenizer, inputs
        self.y, self.texts = targets(dataset, rows), corpus.report_texts(dataset, rows)
        super().__init__(preset, start, dataset, rows, device, about=inputs)

    def module(self) -> Classifier:
        """A class without a positive in training has the weight 1: nothing is learned of it but its
        absence.
        """
        positives = torch.from_numpy(self.y.sum(0)).float()
        weight = torch.ones(len(CLASSES))
        weight[positives > 0] = heads.positive_weights(positives[positives > 0], self.n)
        return Classifier(finetune.copied(self.start), weight)

    def inputs(self, picked, rng, generator) -> tuple:
        images = None if self.given == "report only" else self.images(picked, generator)
        own = picked[finetune.distributed.own(len(picked))]
        texts = [self.texts[k] if self.given != "image only" else "" for k in own]
        images, joint = self.tuned.assemble(self.tokenizer, images, texts, "classification")
        return images, joint, torch.from_numpy(self.y[own]).float()

    def score(self, epoch: int) -> float:
        rows = self.dataset.rows("valid")
        self.tuned.eval()
        given = predict(self.tuned, self.tokenizer, self.dataset, rows, self.given, self.device)
        return float(np.nanmean(metrics.auroc(targets(self.dataset, rows), given)))


@torch.no_grad()
def predict(
    tuned: Classifier, tokenizer, dataset, rows, given: str, device, images_of=None
) -> np.ndarray:
    """Scores (n, 15) in [0, 1] of the rows; `images_of` (n,): rows whose image is shown instead of
    the own (a control).
    """
    tuned.eval()
    texts = corpus.report_texts(dataset, rows) if given != "image only" else [""] * len(rows)
    pictures = Pictures(dataset, rows if images_of is None else images_of, tuned.preset, device)
    scores = []
    for part in np.split(np.arange(len(texts)), range(CHUNK, len(texts), CHUNK)):
        images = None if given == "report only" else pictures.tokens(tuned.model.trunk, part)
        part_texts = [texts[k] for k in part]
        images, joint = tuned.assemble(tokenizer, images, part_texts, "classification")
        scores.append(
            torch.sigmoid(tuned.logits(images.to(device), joint.to(device))).float().cpu()
        )
    return torch.cat(scores).numpy()


def evaluate(
    y,
    scores,
    patients,
    *,
    n_resamples=1000,
    seed=0,
    **about,
) -> list[dict]:
    """Rows of one model: AUROC of each class, micro and macro AUROC and F1 (threshold 0.5), with 95
    % intervals over patients.

    y, scores (n, 15). A class without a positive or a negative has no AUROC: `auroc_macro`, as
    published, then has none either, and `auroc_macro_defined` is the mean over the classes that
    have one. `about`: see `medxvl.evaluation.rows`.
    """
    decided = (scores >= THRESHOLD).astype(float)
    about = {"paper": "medvill", "task": "classification"} | about
    found = []
    for name, metric, given in (("auroc", metrics.auroc, scores), ("f1", metrics.f1, decided)):
        value = metric(y, given)
        samples = metrics.bootstrap(metric, y, given, patients, n_resamples, seed)
        there = ~np.isnan(value)
        defined = value[there].mean() if there.any() else np.nan
        found += [
            (f"{name}_macro", "", value.mean(), samples.mean(1)),
            (f"{name}_macro_defined", "", defined, samples[:, there].mean(1)),
        ]
        if name == "auroc":
            classes = [("auroc", c, value[k], samples[:, k]) for k, c in enumerate(CLASSES)]
    for name, metric, given in (
        ("auroc_micro", metrics.auroc, scores),
        ("f1_micro", metrics.f1, decided),
    ):
        flat, group = (y.ravel(), given.ravel()), np.repeat(np.asarray(patients), y.shape[1])
        found.append(
            (name, "", metric(*flat), metrics.bootstrap(metric, *flat, group, n_resamples, seed))
        )
    return [
        result_row(about, metric, point, drawn, subset=subset, n=len(y), keep_draws=True)
        for metric, subset, point, drawn in found + classes
    ]


def chance(y, *, dataset, split="test") -> list[dict]:
    """The AUROC of guessing."""
    about = {"paper": "medvill", "task": "classification", "dataset": dataset, "split": split}
    return [
        result_row(CHANCE | about, metric, 0.5, n=len(y))
        for metric in ("auroc_micro", "auroc_macro", "auroc_macro_defined")
    ]


def transfer(
    tuned: dict, tokenizer, dataset, device, *, model, n_resamples=1000, seed=0
) -> list[dict]:
    """Rows of fine-tuned classifiers {inputs: (classifier, checkpoint)} on another dataset, all its
    studies with a report, and of `text_gauge` trained and tested on its own splits; with images, of
    shuffled ones too. Without, only the report is scored."""
    texts = np.array(corpus.report_texts(dataset, np.arange(len(dataset.index))), dtype=object)
    rows = np.flatnonzero([bool(text) for text in texts])
    y, patients = targets(dataset, rows), dataset.index["patient_id"].iloc[rows].to_numpy()
    common = {"dataset": dataset.label, "n_resamples": n_resamples, "seed": seed}
    found, partner = (
        chance(y, dataset=dataset.label, split="all"),
        controls.shuffled(len(rows), seed),
    )
    for given, (classifier, told) in tuned.items():
        if dataset.has_images or given == "report only":
            control = "" if given == INPUTS[0] else given
            about = {"model": model, "checkpoint": told, "split": "all", **common}
            scores = predict(classifier, tokenizer, dataset, rows, given, device)
            found += evaluate(y, scores, patients, control=control, **about)
            if given == INPUTS[0]:
                scores = predict(classifier, tokenizer, dataset, rows, given, device, rows[partner])
                found += evaluate(y, scores, patients, control="shuffled images", **about)
            elif given == INPUTS[1]:
                found += evaluate(
                    y, scores[partner], patients, control=f"{given}, shuffled", **about
                )
    train, test = (rows[np.isin(rows, dataset.rows(split))] for split in ("train", "test"))
    if len(train) and len(test):
        scores = controls.text_gauge(list(texts[train]), targets(dataset, train), list(texts[test]))
        people = dataset.index["patient_id"].iloc[test].to_numpy()
        found += evaluate(targets(dataset, test), scores, people, model="words of the report, "
                                                                        "own training split",
                          control="words of the report", **common)  # fmt: skip
    return found
