"""Weights that X-VL starts from and those that its pre-training left."""

from functools import partial
from pathlib import Path

from torch import nn

from medxvl.config import paths, recipes
from medxvl.config.recipes import Recipe
from medxvl.weights import store
from medxvl.xvl.model import XVL

OWN = "own"  # value of vision_weights: the weights that notebook 20 made in this run
OWN_FILE = "ibot.safetensors"  # in the layout of iBOT's published files: teacher and student


def recipe(preset, dataset, tokenizer) -> Recipe:
    """What shapes a pre-training of X-VL on `dataset`, whose reports `tokenizer` reads."""
    if preset.vision_weights == OWN:
        start = {"start": store.fingerprint(own_start(preset))}
        start |= store.contents({"text": preset.text_weights})
    else:
        start = store.contents({"vision": preset.vision_weights, "text": preset.text_weights})
    return Recipe.of(
        preset,
        ("both", "model", "pretrain"),
        dataset.fingerprint,
        "medxvl.xvl.pretrain",
        without=("threads",),  # it has pretrain_threads
        words=recipes.digest(sorted(tokenizer.get_vocab().items())),
        **start,
    )


def own_start(preset) -> Path:
    """The vision encoder's weights that notebook 20 made (medxvl.xvl.ibot_pretrain), with the
    preset's own seed. Raises FileNotFoundError where it has not run."""
    path = paths.shared_checkpoints(preset.name, "xvl_vision_pretrain") / OWN_FILE
    return store.made_by_notebook(path, f"vision_weights={OWN}", preset, "20")


def branch(preset) -> str:
    """The part of the vision encoder's file to read (`store.load_into`): "" is its teacher where
    it has one, else all there is."""
    return preset.vision_branch.removeprefix("teacher")


def start_from(model: nn.Module, preset) -> list:
    """Start the encoders of `model` from `vision_weights` and `text_weights`; see
    `store.start_from`."""
    vision = own_start(preset) if preset.vision_weights == OWN else preset.vision_weights
    named = {"vision": vision, "text": preset.text_weights}
    return store.start_from(model, named, branch(preset))


def load_best(preset, folder: Path, dataset, device="cpu"):
    """X-VL's kept checkpoints, best first, its tokenizer, and a short text that identifies them.

    `dataset` is the one they were trained on. Raises and warns as `store.kept_epochs`.
    """
    files, tokenizer = store.kept_epochs(preset, folder, partial(recipe, preset, dataset), XVL)
    models = [store.load_model(preset, len(tokenizer), path, XVL, device) for path in files]
    told = f"pre-trained {store.fingerprint(files[0])}"
    return models, tokenizer, told + (f" and {len(files) - 1} more" if files[1:] else "")


def untrained(preset, tokenizer, device="cpu") -> XVL:
    """X-VL from random weights: a control."""
    return store.untrained(preset, tokenizer, XVL, device)
