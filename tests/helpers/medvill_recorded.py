"""What MedViLL's released code computed (tests/parity), and our model with its weights.

The attention runs in PyTorch's plain kernel, the one used in training on a CPU: the fused kernel of
evaluation rounds otherwise, and the recorded logits (up to 15) are themselves 9e-6 away from the
same computation in float64.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from medxvl.config import paths, presets
from medxvl.medvill import model as medvill
from medxvl.medvill import release

PARITY = paths.ROOT / "tests" / "parity"
SPECIAL = (101, 102)
TINY = presets.load(
    "smoke",
    "medvill_width=48 medvill_layers=3 medvill_heads=4 medvill_hidden=96 medvill_features=64 "
    "medvill_max_positions=64 "
    "pooling_start=0 medvill_mlm_mismatched=1 medvill_padding=pretraining",
)
FINE = replace(TINY, medvill_max_positions=300)


@pytest.fixture(autouse=True)
def plain_kernel():
    with sdpa_kernel(SDPBackend.MATH):
        yield


def under(tensors, prefix):
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def build(weights, preset=TINY, **options):
    """The model with released weights, in evaluation mode, with the trunk replaced by nothing; and
    its renamed weights.
    """
    ours = release.from_released(weights)
    model = medvill.MedViLL(preset, 200, **options).eval()
    model.trunk = torch.nn.Identity()  # the recorded features stand in for the CNN's
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not [k for k in missing if k.startswith(("bert.", "image_proj"))]
    assert not [k for k in unexpected if not k.startswith(("answer_head", "class_head"))]
    return model, ours
