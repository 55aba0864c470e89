"""Report generation with Medical X-VL's early versions: a decoder that looks at the image tokens
writes the findings section.

Baselines and scores are those of medxvl.medvill.tasks.generate.
"""

import numpy as np
import torch

from medxvl.data import text
from medxvl.training import distributed
from medxvl.xvl import writer, writing
from medxvl.xvl.finetune import CHUNK, FineTuning, Pictures


def findings_texts(dataset, rows, preset) -> list[str]:
    """Cleaned findings section of each row; of the impression where a report has no findings."""
    table = dataset.index.iloc[rows]
    chosen = table["findings"].where(table["findings"] != "", table["impression"])
    return [text.clean_report(t, preset.max_words) for t in chosen]


def with_report(dataset, split: str, preset) -> tuple[np.ndarray, list[str]]:
    """Rows of a split that have a report, and the reports; ValueError where there is none."""
    rows = dataset.rows(split)
    texts = findings_texts(dataset, rows, preset)
    if not any(texts):
        raise ValueError(
            f"{dataset.label}: expected {split} studies with a report, found none of {len(rows)}"
        )
    return rows[[bool(t) for t in texts]], [t for t in texts if t]


class Writing(FineTuning):
    """Fine-tuning on the split `train`; the epoch with the highest likelihood a word on `valid` is
    kept.
    """

    name = "xvl_generate"
    score_label = "validation log-likelihood a word"
    groups = (*FineTuning.groups, "writer")

    def __init__(self, preset, dataset, start, tokenizer, device):
        rows, self.texts = with_report(dataset, "train", preset)
        self.valid, self.tokenizer = with_report(dataset, "valid", preset)[0], tokenizer
        super().__init__(preset, start, dataset, rows, device)

    def module(self) -> writer.Writer:
        return writer.start_from(self.start, reads=False)

    def inputs(self, picked, rng, generator) -> tuple:
        own = picked[distributed.own(len(picked))]
        return self.images(picked, generator), *text.encode(
            self.tokenizer, [self.texts[k] for k in own], self.preset.xvl_generate_most + 1
        )

    def score(self, epoch: int) -> float:
        losses, words = likelihood(
            self.tuned, self.tokenizer, self.dataset, self.valid, self.device
        )
        return -float(losses.sum() / words.sum())


def likelihood(
    tuned, tokenizer, dataset, rows, device, images_of=None
) -> tuple[np.ndarray, np.ndarray]:
    """`writing.likelihood` of the reports of the rows."""
    texts = findings_texts(dataset, rows, tuned.preset)
    return writing.likelihood(
        tuned,
        tokenizer,
        dataset,
        rows,
        texts,
        tuned.preset.xvl_generate_most + 1,
        device,
        images_of=images_of,
    )


def write(tuned, tokenizer, dataset, rows, device, beams: int = 1, images_of=None) -> list[str]:
    """Reports for the images of the rows, or of `images_of` (n,) in their place."""
    most = tuned.preset.xvl_generate_most
    return writing.write(tuned, tokenizer, dataset, rows, most, beams, device, images_of=images_of)


@torch.no_grad()
def nearest_by_image(model, dataset, train_rows, rows, device) -> np.ndarray:
    """(n,) the training row whose image lies nearest: cosine in the pre-trained joint space."""
    model.eval()
    vectors = []
    for part in (train_rows, rows):
        pictures = Pictures(dataset, part, model.preset, device)
        views = (pictures.plain(p).to(device) for p in torch.arange(len(part)).split(CHUNK))
        vectors.append(torch.cat([model.online.encode_image(v)[1] for v in views]))
    return np.asarray(train_rows)[(vectors[1] @ vectors[0].t()).argmax(dim=1).cpu().numpy()]
