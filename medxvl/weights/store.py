"""Save and load weights: our own safetensors files, which say what they are, and released
checkpoints of any known layout.

A model class says of itself what this module needs: `SAVED_AS` (its kind in our own files),
`FAMILY` (that of the released checkpoints that it can read, see `layouts.KINDS`), `NOTEBOOK` (the
one that makes its weights), `from_released(state)` and `sized(preset, sizes, state)`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from medxvl.config import settings as settings_table
from medxvl.config.recipes import Recipe
from medxvl.data import text
from medxvl.weights import convert, layouts, reading

_NOT_KEPT = ("twin.", "image_queue", "text_queue", "queue_at")


def save(model: nn.Module, path: Path, kind: str, recipe: Recipe, score: float) -> None:
    """Write X-VL's online model (no twins, no queues) or MedViLL with its kind, preset and recipe;
    atomic.
    """
    state = {
        k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith(_NOT_KEPT)
    }
    about = {
        "model": getattr(model, "SAVED_AS", type(model).__name__),
        "kind": kind,
        "score": repr(score),
        "preset": json.dumps(asdict(model.preset)),
    }
    write(state, path, about | recipe.about())


def write(state: Mapping[str, torch.Tensor], path: Path, about: dict) -> None:
    """Write tensors with a description of them, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    # one key: safetensors writes several in hash order
    save_file(dict(state), partial, metadata={"medxvl": json.dumps(about, sort_keys=True)})
    partial.replace(path)


def about(path: Path) -> dict:
    """What a weights file says of itself."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("medxvl", "{}"))


def fingerprint(path: Path) -> str:
    """12 hex digits of the weights in a file: of its tensors, and of the settings and data that it
    says shaped them. What else the header tells (a sweep that the training was part of, the code)
    does not count."""
    with safe_open(path, framework="pt") as file:
        told = json.loads((file.metadata() or {}).get("medxvl", "{}"))
        settings = told.get("settings")
        if isinstance(settings, dict):  # a setting at its former value is as good as none
            settings = {
                k: v for k, v in settings.items() if settings_table.FORMER.get(k, not v) != v
            }
        recipe = [settings, told.get("data")]
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
        for name in sorted(file.keys()):  # noqa: SIM118 (not a dictionary)
            value = file.get_tensor(name)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def load_into(
    model: nn.Module, path, part: str = "all", *, strict: bool = True, branch: str = ""
) -> convert.Report:
    """Put the weights at `path` into `model` (X-VL, MedViLL, or one of their encoders alone) and
    say what went where.

    `part`: all, or its encoder `vision` or `text` alone. Momentum twins that the file does not hold
    become copies of the model. Raises as `convert.convert` does, and
    ValueError when shapes differ, weights are not finite, or (unless `strict` is False) some are
    missing or unknown; the model is then as it was.
    """
    if part not in ("all", "vision", "text"):
        raise ValueError(f"part={part!r}: expected all, vision or text")
    known = (type(model),) if hasattr(model, "from_released") else ()
    found = convert.convert(path, branch, known)
    single = {"vit": "vision", "resnet": "vision", "bert": "text"}.get(found.family)
    if part == "all" and single:
        if convert.encoder(model, single) is not model:
            raise ValueError(f"{found.file} ({found.kind}) holds one encoder: give part={single!r}")
        part = single
    target = model if part == "all" else convert.encoder(model, part)
    source = found.state if part == "all" else found.encoders[part]
    if not source:
        raise ValueError(
            f"{found.file} ({found.kind}) holds no {part} encoder; give another file or "
            "another part"
        )
    wanted = target.state_dict()
    report = convert.fit(source, wanted)
    report.kind, report.file = found.kind, found.file
    if (
        report.mismatched
        or not report.weights
        or (strict and (report.missing or report.unexpected))
    ):
        pair = [convert.encoder(model, name) for name in ("vision", "text")]
        pair = pair if part == "all" else [target, target]
        ours = layouts.sizes(*(encoder.state_dict() for encoder in pair))
        what = "the model" if part == "all" else f"the {part} encoder of the model"
        raise ValueError(convert.complain(report, what, found.sizes, ours))
    # A sum is quicker than a look at every number, and not finite when one of them is not.
    bad = [
        k for k, v in report.weights.items() if not v.sum().isfinite() and not v.isfinite().all()
    ]
    if bad:
        raise ValueError(
            f"{found.file}: {len(bad)} weights are not finite, such as {bad[0]}; it is "
            "damaged: use an earlier one"
        )
    if part == "all":
        report.left_out = found.report.left_out | report.left_out
    target.load_state_dict(report.weights, strict=False)
    if hasattr(model, "reset_twin") and not any(k.startswith("twin.") for k in report.weights):
        model.reset_twin()
    return report


def start_from(model: nn.Module, named: dict[str, str], branch: str = "") -> list[convert.Report]:
    """Start the encoders of `model` from weights: `named` {"vision" or "text": file or folder, as
    given or under data/weights; "" for none}. `branch` is that of the vision encoder's file.

    Returns one report an encoder; raises as `load_into` does.
    """
    return [
        load_into(model, path, part, branch=branch * (part == "vision"))
        for part, path in named.items()
        if path
    ]


def contents(named: dict[str, str]) -> dict[str, str | None]:
    """{"vision_start", "text_start": 12 hex digits of the file} of the weights that `named` means
    (see `start_from`); None where a file is not there any more."""
    found = {}
    for part, path in named.items():
        if path:
            try:
                (file, *_), _ = reading.pick(convert.locate(path))
                with open(file, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
            except FileNotFoundError:
                digest = None
            found[f"{part}_start"] = digest
    return found


def made_by_notebook(path: Path, what: str, preset, notebook: str) -> Path:
    """`path`; FileNotFoundError, saying which notebook makes it, where it is not there."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the weights that {what} starts from; make them with "
            f"./run_all.sh {preset.name} {notebook}"
        )
    return path


def load_model(preset, vocabulary: int, path: Path, kind: type, device="cpu") -> nn.Module:
    """A model of the class `kind` with the weights of `path`, in evaluation mode.

    Raises FileNotFoundError (which notebook makes the file) and ValueError (missing, unexpected or
    misshapen weights).
    """
    again = f"./run_all.sh {preset.name} {kind.NOTEBOOK}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected pre-trained weights; make them with {again}")
    if about(path).get("model") != kind.SAVED_AS:
        raise ValueError(
            f"{path}: expected weights saved by {kind.SAVED_AS}, found "
            f"{about(path) or 'no description'}"
        )
    model, state = kind(preset, vocabulary), load_file(path)
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith(_NOT_KEPT)}
    wrong = sorted(
        k
        for k in wanted.keys() | state.keys()
        if k not in wanted or k not in state or wanted[k] != state[k].shape
    )
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} weights do not fit preset {preset.name}, such as "
            f"{', '.join(wrong[:3])}; "
            f"it was saved with other settings: repeat {again}"
        )
    model.load_state_dict(state, strict=False)
    return model.to(device).eval()


def kept_epochs(
    preset, folder: Path, recipe: Callable[[object], Recipe], kind: type
) -> tuple[list[Path], object]:
    """Files of the kept epochs of a pre-training in `folder`, best first, and its tokenizer, of
    which `recipe` makes the recipe that the weights must have.

    Raises FileNotFoundError where the notebook of `kind` has not run, ValueError where it ran with
    other settings or data. Warns, naming the files, where only code changed since.
    """
    listed, again = folder / "best.json", f"./run_all.sh {preset.name} {kind.NOTEBOOK}"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed}: expected pre-trained weights; make them with {again}")
    files = [folder / name for name in json.loads(listed.read_text(encoding="utf-8"))]
    told, tokenizer = about(files[0]), text.load_tokenizer(folder / "tokenizer.json")
    wanted = recipe(tokenizer)
    if differs := wanted.differs(told):
        raise ValueError(
            f"{folder}: trained with other settings or data than {preset.name} has now "
            f"({'; '.join(differs[:5])}); repeat {again} --force"
        )
    wanted.warn_of_code(told, folder)
    return files, tokenizer


def untrained(preset, tokenizer, kind: type, device="cpu") -> nn.Module:
    """A model of the class `kind` from random weights: a control."""
    torch.manual_seed(preset.seed)
    return kind(preset, len(tokenizer)).to(device).eval()
