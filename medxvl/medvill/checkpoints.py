"""Weights that MedViLL starts from and those that its pre-training left."""

from pathlib import Path

from torch import nn

from medxvl.config import paths
from medxvl.config.recipes import Recipe
from medxvl.medvill.model import MedViLL
from medxvl.weights import store

ALIGNED_FOLDER = "medvill_model"  # notebook 10's, below the checkpoints of the preset's own run
ALIGNED_FILE = "aligned.safetensors"


def recipe(preset, dataset) -> Recipe:
    """What shapes a pre-training of MedViLL on `dataset`."""
    aligned = preset.medvill_alignment_epochs > 0
    start = store.fingerprint(aligned_start(preset)) if aligned else None
    return Recipe.of(
        preset,
        ("both", "medvill"),
        dataset.fingerprint,
        "medxvl.medvill.pretrain",
        start=start,
    )


def aligned_start(preset) -> Path:
    """The image encoder and word embeddings that notebook 10 made (medxvl.medvill.alignment), one
    start for all masks and seeds. Raises FileNotFoundError where it has not run."""
    path = paths.shared_checkpoints(preset.name, ALIGNED_FOLDER) / ALIGNED_FILE
    what = "pre-training with medvill_alignment_epochs above 0"
    return store.made_by_notebook(path, what, preset, "10")


def start_from(model: nn.Module, preset) -> list:
    """Start the encoders of `model` from `medvill_vision_weights` and `medvill_text_weights`; see
    `store.start_from`."""
    named = {part: getattr(preset, f"medvill_{part}_weights") for part in ("vision", "text")}
    return store.start_from(model, named)


def load_best(preset, folder: Path, dataset, device="cpu"):
    """MedViLL's best pre-trained checkpoint, its tokenizer, and a short text that identifies it.

    `dataset` is the one it was trained on. Raises and warns as `store.kept_epochs`.
    """
    files, tokenizer = store.kept_epochs(preset, folder, recipe(preset, dataset), MedViLL)
    model = store.load_model(preset, len(tokenizer), files[0], MedViLL, device)
    return model, tokenizer, f"pre-trained {store.fingerprint(files[0])}"


def untrained(preset, tokenizer, device="cpu") -> MedViLL:
    """MedViLL from random weights: a control."""
    return store.untrained(preset, tokenizer, MedViLL, device)
