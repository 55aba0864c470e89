"""Small models and encoders, and a pickle that must not be run."""

import os
from dataclasses import replace

import torch

from medxvl.config import presets
from medxvl.layers import vision_transformer
from medxvl.medvill.model import MedViLL
from medxvl.xvl.model import XVL

MODELS = (XVL, MedViLL)  # classes that whole checkpoints are renamed for

PAPER = presets.load("paper")
SMALL = replace(
    PAPER,
    vision_width=64,
    vision_layers=2,
    vision_heads=1,
    image_size=64,
    text_width=64,
    text_layers=2,
    text_heads=1,
    text_hidden=96,
    vocabulary=50,
    max_tokens=32,
    fusion_layers=1,
    fusion_hidden=64,
    projection=16,
    queue_size=8,
)
OWN = replace(presets.load("smoke"), vocabulary=60)


def model(preset=SMALL, words=50, seed=0) -> XVL:
    torch.manual_seed(seed)
    return XVL(preset, words)


def vit(preset=SMALL, seed=5) -> dict:
    torch.manual_seed(seed)
    return vision_transformer.build(preset).state_dict()


def copy_of(module) -> dict:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(state, other) -> bool:
    return state.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in state.items())


class Evil:
    """Unpickling this makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))
