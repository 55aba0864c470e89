"""A small collection for the viewers' tests: noise in place of radiographs, a model from random
weights.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from medxvl.config import presets
from medxvl.data import text
from medxvl.notebook import browse
from medxvl.xvl.model import XVL

REPORTS = ["There is a left pleural effusion.", "Ground-glass opacity in both "
                                                "lungs.", "The heart is <enlarged> & round.", "",
           "No acute process."]  # fmt: skip


def dataset(label="phantom:noise", synthetic=True):
    """Five studies, one without a report."""
    ids = [f"s{k}" for k in range(len(REPORTS))]
    index = pd.DataFrame({"study_id": ids, "impression": REPORTS, "findings": ""})
    pixels = np.random.default_rng(0).integers(0, 256, (len(REPORTS), 69, 69), dtype=np.uint8)
    return SimpleNamespace(
        index=index,
        label=label,
        synthetic=synthetic,
        card={"name": "mimic_cxr"},
        images=lambda rows: pixels[rows],
    )


def collection(**about):
    torch.manual_seed(0)
    data = dataset(**about)
    tokenizer = text.train_tokenizer([text.clean_report(t) for t in REPORTS if t] * 3, 200)
    model = XVL(presets.load("smoke"), len(tokenizer))
    for (
        part
    ) in model.modules():  # otherwise nothing in the image or the words makes much of a difference
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, std=0.3)
    return browse.Collection(model, tokenizer, data, np.arange(len(REPORTS)))
