"""Save and load our own weights: safetensors files that say what they are."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import presets, text
from .xvl import XVL

_SHAPES_WEIGHTS = ("text", "vision", "fusion", "xvl", "train")


def fingerprint_of(preset, dataset) -> str:
    """12 hex digits over all that shapes a pre-training: model and training settings, seed, threads, data and code."""
    values = presets.group(preset, "model", "pretrain") | {"seed": preset.seed, "threads": preset.threads}
    code = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in _SHAPES_WEIGHTS]
    return hashlib.sha256(json.dumps([values, dataset.fingerprint, code], sort_keys=True).encode()).hexdigest()[:12]


def save(model: XVL, path: Path, kind: str, settings: str, score: float) -> None:
    """Write the online model (no twins, no queues) with its kind, preset and the settings' fingerprint; atomic."""
    state = {
        k: v.contiguous()
        for k, v in model.state_dict().items()
        if not k.startswith(("twin.", "image_queue", "text_queue", "queue_at"))
    }
    about = {
        "model": "medxvl X-VL",
        "kind": kind,
        "settings": settings,
        "score": repr(score),
        "preset": json.dumps(asdict(model.preset)),
    }
    partial = path.with_name(path.name + ".partial")
    save_file(state, partial, metadata={"medxvl": json.dumps(about, sort_keys=True)})  # one key: several come in hash order
    partial.replace(path)


def about(path: Path) -> dict:
    """What a weights file says of itself."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("medxvl", "{}"))


def load(preset, vocabulary: int, path: Path, device="cpu") -> XVL:
    """X-VL with the weights of `path`, in evaluation mode.

    Raises FileNotFoundError (which notebook makes the file) and ValueError (missing, unexpected or misshapen weights).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected pre-trained weights; make them with ./run_all.sh {preset.name} 21")
    if about(path).get("model") != "medxvl X-VL":
        raise ValueError(f"{path}: expected weights saved by medxvl, found {about(path) or 'no description'}")
    model, state = XVL(preset, vocabulary), load_file(path)
    wanted = {
        k: v.shape
        for k, v in model.state_dict().items()
        if not k.startswith(("twin.", "image_queue", "text_queue", "queue_at"))
    }
    wrong = sorted(
        k for k in wanted.keys() | state.keys() if k not in wanted or k not in state or wanted[k] != state[k].shape
    )
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} weights do not fit preset {preset.name}, such as {', '.join(wrong[:3])}; "
            f"it was saved with other settings: repeat ./run_all.sh {preset.name} 21"
        )
    model.load_state_dict(state, strict=False)
    return model.to(device).eval()


def load_best(preset, folder: Path, dataset, device="cpu"):
    """The kept checkpoints of a pre-training, best first, its tokenizer, and a short text that identifies them.

    `dataset` is the one they were trained on. Raises FileNotFoundError when notebook 21 has not run, ValueError when it ran
    with other settings, data or code.
    """
    listed = folder / "best.json"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed}: expected pre-trained weights; make them with ./run_all.sh {preset.name} 21")
    files = [folder / name for name in json.loads(listed.read_text(encoding="utf-8"))]
    if about(files[0]).get("settings") != fingerprint_of(preset, dataset):
        raise ValueError(
            f"{folder}: trained with other settings, data or code than {preset.name} has now; "
            f"repeat ./run_all.sh {preset.name} 21"
        )
    tokenizer = text.load_tokenizer(folder / "tokenizer.json")
    models = [load(preset, len(tokenizer), path, device) for path in files]
    return (
        models,
        tokenizer,
        f"pre-trained {fingerprint(files[0])}" + (f" and {len(files) - 1} more" if files[1:] else ""),
    )


def untrained(preset, tokenizer, device="cpu") -> XVL:
    """The same model from random weights: a control."""
    torch.manual_seed(preset.seed)
    return XVL(preset, len(tokenizer)).to(device).eval()


def fingerprint(path: Path) -> str:
    """12 hex digits of a weights file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
