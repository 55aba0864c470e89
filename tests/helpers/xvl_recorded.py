"""What X-VL's released code computed (tests/parity), and our model with its weights."""

import json

import torch
from safetensors.torch import load_file

from medxvl.config import paths, presets
from medxvl.xvl import model as xvl
from medxvl.xvl import release

PARITY = paths.ROOT / "tests" / "parity"
STEP, UNITS, BERT, ZERO = (
    load_file(PARITY / f"xvl_{k}.safetensors") for k in ("step", "units", "xbert", "zero_shot")
)
META = json.loads((PARITY / "xvl_step.json").read_text(encoding="utf-8"))
TINY = (
    "image_size=64 channels=3 vision_stem=patch vision_width=48 vision_layers=3 "
    "vision_heads=3 vocabulary=200 text_width=48 "
    "text_layers=4 text_heads=4 text_hidden=96 fusion_layers=2 fusion_hidden=64 "
    "pooling_start=0 max_tokens=160 projection=32 "
    "queue_size=16 momentum=0.995 negatives=momentum "
)


def part(prefix, tensors=STEP):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


IN, OUT = part("in/"), part("out/")
# The release's name of a parameter -> ours. The head's bias and the decoder's are one in the
# release.
_NUMBERED = {k: torch.tensor(n) for n, k in enumerate(part("weights/"))}
_RENAMED = {
    int(n): ours
    for ours, n in release.from_released(_NUMBERED).items()
    if not ours.endswith("predictions.bias")
}
RENAMED = {k: _RENAMED[int(n)] for k, n in _NUMBERED.items() if int(n) in _RENAMED}


def renamed(prefix):
    return {RENAMED[k]: v for k, v in part(prefix).items()}


def model(overrides="packed=1"):
    made = xvl.XVL(presets.load("smoke", TINY + overrides), 200)
    state = release.from_released(part("weights/"))
    assert made.load_state_dict(state, strict=False).unexpected_keys == []
    assert set(made.state_dict()) == set(state)
    return made.train()


def batch():
    sentences = META["sentences_tokenised"]
    longest = max(map(len, sentences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sentences])
    count = OUT["text_attention_mask_l_all"].sum(1).long()
    return xvl.Batch(
        IN["image_aug"],
        IN["image"],
        IN["input_ids"],
        IN["attention_mask"],
        IN["masked_input_ids"],
        IN["mlm_labels"],
        ids,
        (ids > 0).long(),
        torch.repeat_interleave(torch.arange(4), count),
    )
