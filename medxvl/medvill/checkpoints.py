"""Weights that MedViLL starts from and those that its pre-training left."""

from functools import partial
from pathlib import Path

from torch import nn

from medxvl.config import paths, recipes
from medxvl.config.recipes import Recipe
from medxvl.medvill.model import MedViLL
from medxvl.weights import store

ALIGNED_FOLDER = "medvill_model"  # notebook 10's, below the checkpoints of the preset's own run
ALIGNED_FILE = "aligned.safetensors"


def recipe(preset, dataset, tokenizer) -> Recipe:
    """What shapes a pre-training of MedViLL on `dataset`, whose reports `tokenizer` reads."""
    start = store.contents(named_weights(preset))
    if preset.medvill_alignment_epochs:
        start["start"] = store.fingerprint(aligned_start(preset))
    return Recipe.of(
        preset,
        ("both", "medvill"),
        dataset.fingerprint,
        "medxvl.medvill.pretrain",
        words=recipes.digest(sorted(tokenizer.get_vocab().items())),
        **start,
    )


def named_weights(preset) -> dict[str, str]:
    """Files that the encoders start from, by encoder, as the settings name them."""
    return {part: getattr(preset, f"medvill_{part}_weights") for part in ("vision", "text")}


def aligned_start(preset) -> Path:
    """The image encoder and word embeddings that notebook 10 made (medxvl.medvill.alignment), one
    start for all masks and seeds. Raises FileNotFoundError where it has not run."""
    path = paths.shared_checkpoints(preset.name, ALIGNED_FOLDER) / ALIGNED_FILE
    what = "pre-training with medvill_alignment_epochs above 0"
    return store.made_by_notebook(path, what, preset, "10")


def start_from(model: nn.Module, preset) -> list:
    """Start the encoders of `model` from `medvill_vision_weights` and `medvill_text_weights`; see
    `store.start_from`."""
    return store.start_from(model, named_weights(preset))


def load_best(preset, folder: Path, dataset, device="cpu"):
    """MedViLL's best pre-trained checkpoint, its tokenizer, and a short text that identifies it.

    `dataset` is the one it was trained on. Raises and warns as `store.kept_epochs`.
    """
    files, tokenizer = store.kept_epochs(preset, folder, partial(recipe, preset, dataset), MedViLL)
    model = store.load_model(preset, len(tokenizer), files[0], MedViLL, device)
    return model, tokenizer, f"pre-trained {store.fingerprint(files[0])}"


def untrained(preset, tokenizer, device="cpu") -> MedViLL:
    """MedViLL from random weights: a control."""
    return store.untrained(preset, tokenizer, MedViLL, device)
