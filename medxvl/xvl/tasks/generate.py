"""Report generation with Medical X-VL's early versions: a decoder that looks at the image tokens
writes the findings section.

Baselines and scores are those of medxvl.medvill.tasks.generate.
"""

import numpy as np
import torch

from medxvl.data import text
from medxvl.xvl import writing
from medxvl.xvl.finetune import CHUNK, Pictures


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


class Generating(writing.Writing):
    """Fine-tuning of a decoder on the findings sections of the split `train`."""

    name = "xvl_generate"

    def __init__(self, preset, dataset, start, tokenizer, device):
        train, valid = (with_report(dataset, split, preset) for split in ("train", "valid"))
        most = preset.xvl_generate_most + 1
        super().__init__(preset, dataset, start, tokenizer, device, train, valid, most)


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
