"""State dicts of the real models' shapes, from their key lists."""

import gzip
import json

import torch
from weight_data import PAPER

from medxvl.config import paths
from medxvl.layers import vision_transformer

PARITY = paths.ROOT / "tests" / "parity"
XVL_KEYS = json.loads(gzip.decompress((PARITY / "xvl_keys.json.gz").read_bytes()))
MEDVILL_KEYS = json.loads((PARITY / "medvill_keys.json").read_text())
WIDE = {"float32": torch.float32, "int64": torch.int64}


def spread(shape, dtype="float32") -> torch.Tensor:
    """Zeros of any shape that take the memory of one."""
    return torch.zeros((1,) * len(shape), dtype=WIDE[dtype]).expand(shape)


def full_size(listed: dict) -> dict:
    """The state dict of a key list: tied weights share one tensor, as they do in the files."""
    tied = listed["aliases"]
    own = {k: spread(*v) for k, v in listed["keys"].items() if k not in tied}
    return {k: own[tied.get(k, k)] for k in listed["keys"]}


def vit(preset=PAPER, number=None) -> dict:
    """A Vision Transformer under its own names; all weights `number`, or random."""
    torch.manual_seed(0)
    state = vision_transformer.build(preset).state_dict()
    return state if number is None else {k: torch.full_like(v, number) for k, v in state.items()}
