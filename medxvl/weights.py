"""Save and load weights: our own safetensors files, which say what they are, and released
checkpoints of any known layout.

`python -m medxvl.weights inspect PATH` says what a checkpoint is and whether it is whole, without
running anything in it.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from . import layouts, paths, presets, released, text
from .medvill import MedViLL
from .xvl import XVL

_SHAPES_WEIGHTS = (
    "text",
    "vision",
    "packed",
    "fusion",
    "objective",
    "xvl",
    "distributed",
    "schedules",
    "train",
    "xvl_pretrain",
)


_SHAPES_MEDVILL = (
    "text",
    "vision",
    "fusion",
    "packed",
    "masks",
    "medvill",
    "medvill_batch",
    "medvill_image",
    "distributed",
    "schedules",
    "train",
    "medvill_pretrain",
    "medvill_align",
)
NOTEBOOK = {XVL: "21", MedViLL: "11"}  # that makes the weights
_NAMES = {XVL: "medxvl X-VL", MedViLL: "medxvl MedViLL"}
OWN_FILE = "ibot.safetensors"  # in the layout of iBOT's published files: teacher and student
HOW = ("seed", "threads", "precision", "accumulation")  # settings that shape every training
ALIGNED_FILE = "aligned.safetensors"
# value of vision_weights: the weights that notebook 20 made in this run, with the preset's own seed
OWN = "own"
_NOT_KEPT = ("twin.", "image_queue", "text_queue", "queue_at")


def fingerprint_of(preset, dataset, model: type = XVL) -> str:
    """12 hex digits over all that shapes a pre-training: model and training settings (with the
    threads that they ask for), seed, data and code."""
    groups, names = (
        (("model", "pretrain"), _SHAPES_WEIGHTS)
        if model is XVL
        else (("medvill",), _SHAPES_MEDVILL)
    )
    values = presets.group(preset, "both", *groups) | {name: getattr(preset, name) for name in HOW}
    if model is XVL:
        del values["threads"]  # it has pretrain_threads
    if model is XVL and preset.vision_weights == OWN:
        values["start"] = fingerprint(own_start(preset))
    if model is MedViLL and preset.medvill_alignment_epochs:
        values["start"] = fingerprint(aligned_start(preset))
    return fingerprint_of_values(values, dataset.fingerprint, names)


def fingerprint_of_values(values, data: str, modules) -> str:
    """12 hex digits over settings, the data's fingerprint and the source of `modules` of medxvl."""
    code = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in modules]
    return hashlib.sha256(json.dumps([values, data, code], sort_keys=True).encode()).hexdigest()[
        :12
    ]


def save(model: nn.Module, path: Path, kind: str, settings: str, score: float) -> None:
    """Write X-VL's online model (no twins, no queues) or MedViLL with its kind, preset and the
    settings' fingerprint; atomic.
    """
    state = {
        k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith(_NOT_KEPT)
    }
    about = {
        "model": _NAMES.get(type(model), type(model).__name__),
        "kind": kind,
        "settings": settings,
        "score": repr(score),
        "preset": json.dumps(asdict(model.preset)),
    }
    partial = path.with_name(path.name + ".partial")
    save_file(
        state, partial, metadata={"medxvl": json.dumps(about, sort_keys=True)}
    )  # one key: several come in hash order
    partial.replace(path)


def about(path: Path) -> dict:
    """What a weights file says of itself."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("medxvl", "{}"))


def load(path, branch: str = "") -> released.Checkpoint:
    """A checkpoint of any known layout, recognised and renamed; `branch`: teacher or student, where
    there are both.

    Raises FileNotFoundError (where to get the file) and ValueError (damaged, unsafe, or of no known
    layout).
    """
    return released.convert(path, branch=branch)


def load_into(
    model: nn.Module, path, part: str = "all", *, strict: bool = True, branch: str = ""
) -> released.Report:
    """Put the weights at `path` into `model` (X-VL, MedViLL, or one of their encoders alone) and
    say what went where.

    `part`: all, or its encoder `vision` or `text` alone. Momentum twins that the file does not hold
    become copies of the model. Raises FileNotFoundError and ValueError as `load` does, and
    ValueError when shapes differ, weights are not finite, or (unless `strict` is False) some are
    missing or unknown; the model is then as it was.
    """
    if part not in ("all", "vision", "text"):
        raise ValueError(f"part={part!r}: expected all, vision or text")
    found = released.convert(path, branch)
    single = {"vit": "vision", "resnet": "vision", "bert": "text"}.get(found.family)
    if part == "all" and single:
        if released.encoder(model, single) is not model:
            raise ValueError(f"{found.file} ({found.kind}) holds one encoder: give part={single!r}")
        part = single
    target = model if part == "all" else released.encoder(model, part)
    source = found.state if part == "all" else found.encoders[part]
    if not source:
        raise ValueError(
            f"{found.file} ({found.kind}) holds no {part} encoder; give another file or "
            "another part"
        )
    wanted = target.state_dict()
    report = released.fit(source, wanted)
    report.kind, report.file = found.kind, found.file
    if (
        report.mismatched
        or not report.weights
        or (strict and (report.missing or report.unexpected))
    ):
        ours = layouts.sizes(*((wanted, wanted) if part != "all" else _encoder_states(model)))
        what = "the model" if part == "all" else f"the {part} encoder of the model"
        raise ValueError(released.complain(report, what, found.sizes, ours))
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


def _encoder_states(model: nn.Module):
    return (released.encoder(model, name).state_dict() for name in ("vision", "text"))


def start_from(model: nn.Module, preset) -> list[released.Report]:
    """Start the encoders of `model` from the weights that the preset names, "" = none:
    `vision_weights` and `text_weights` for X-VL, `medvill_vision_weights` and
    `medvill_text_weights` for MedViLL.

    Names are files or folders, as given or under data/weights; X-VL's `own` is what notebook 20
    made in this run. Returns one report an encoder; raises as `load_into` does.
    """
    prefix = "medvill_" if isinstance(model, MedViLL) else ""
    named = {part: getattr(preset, f"{prefix}{part}_weights") for part in ("vision", "text")}
    if named["vision"] == OWN and not prefix:
        named["vision"] = own_start(preset)
    chosen = "" if prefix else branch(preset)
    return [
        load_into(model, path, part, branch=chosen * (part == "vision"))
        for part, path in named.items()
        if path
    ]


def branch(preset) -> str:
    """What `load` is told of the vision encoder's file: "" is its teacher where it has one, else
    all there is.
    """
    return preset.vision_branch.removeprefix("teacher")


def own_start(preset) -> Path:
    """The vision encoder's weights that notebook 20 made (medxvl.ibot_pretrain). Raises
    FileNotFoundError where it has not run.
    """
    return _made(preset, "xvl_vision_pretrain", OWN_FILE, f"vision_weights={OWN}", "20")


def aligned_start(preset) -> Path:
    """The image encoder and word embeddings that notebook 10 made (medxvl.medvill_align), one start
    for all masks and seeds. Raises FileNotFoundError where it has not run."""
    return _made(
        preset,
        "medvill_model",
        ALIGNED_FILE,
        "pre-training with medvill_alignment_epochs above 0",
        "10",
    )


def shared_folder(preset, name: str) -> Path:
    """Where weights that all variants share lie: with the preset's own run."""
    return paths.RUNS / preset.name / "checkpoints" / name


def _made(preset, folder: str, file: str, what: str, notebook: str) -> Path:
    path = shared_folder(preset, folder) / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the weights that {what} starts from; make them with "
            f"./run_all.sh {preset.name} {notebook}"
        )
    return path


def load_model(preset, vocabulary: int, path: Path, device="cpu", kind: type = XVL) -> nn.Module:
    """X-VL (or `kind` MedViLL) with the weights of `path`, in evaluation mode.

    Raises FileNotFoundError (which notebook makes the file) and ValueError (missing, unexpected or
    misshapen weights).
    """
    again = f"./run_all.sh {preset.name} {NOTEBOOK[kind]}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected pre-trained weights; make them with {again}")
    if about(path).get("model") != _NAMES[kind]:
        raise ValueError(
            f"{path}: expected weights saved by {_NAMES[kind]}, found "
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


def load_best(preset, folder: Path, dataset, device="cpu"):
    """X-VL's kept checkpoints, best first, its tokenizer, and a short text that identifies them.

    `dataset` is the one they were trained on. Raises FileNotFoundError when notebook 21 has not
    run, ValueError when it ran with other settings, data or code.
    """
    files, tokenizer = _kept(preset, folder, dataset, XVL)
    models = [load_model(preset, len(tokenizer), path, device) for path in files]
    told = f"pre-trained {fingerprint(files[0])}" + (
        f" and {len(files) - 1} more" if files[1:] else ""
    )
    return models, tokenizer, told


def load_medvill(preset, folder: Path, dataset, device="cpu"):
    """MedViLL's best pre-trained checkpoint, its tokenizer, and a short text that identifies it; as
    `load_best`, notebook 11.
    """
    files, tokenizer = _kept(preset, folder, dataset, MedViLL)
    model = load_model(preset, len(tokenizer), files[0], device, MedViLL)
    return model, tokenizer, f"pre-trained {fingerprint(files[0])}"


def _kept(preset, folder: Path, dataset, kind: type):
    """Files of the kept epochs, best first, and the tokenizer."""
    listed, again = folder / "best.json", f"./run_all.sh {preset.name} {NOTEBOOK[kind]}"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed}: expected pre-trained weights; make them with {again}")
    files = [folder / name for name in json.loads(listed.read_text(encoding="utf-8"))]
    if about(files[0]).get("settings") != fingerprint_of(preset, dataset, kind):
        raise ValueError(
            f"{folder}: trained with other settings, data or code than {preset.name} has now; "
            f"repeat {again} --force"
        )
    return files, text.load_tokenizer(folder / "tokenizer.json")


def untrained(preset, tokenizer, device="cpu", kind: type = XVL) -> nn.Module:
    """The same model from random weights: a control."""
    torch.manual_seed(preset.seed)
    return kind(preset, len(tokenizer)).to(device).eval()


def fingerprint(path: Path) -> str:
    """12 hex digits of a weights file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


# --- inspect --------------------------------------------------------------------------------------
def inspect(path, branch: str = "") -> str:
    """What the checkpoint at `path` is, as text. Raises as `load` does."""
    found = released.convert(path, branch)
    raw, report = found.raw, found.report
    types = Counter(str(v.dtype).removeprefix("torch.") for v in raw.state.values())
    rows = [
        ("file", f"{raw.file} ({raw.file.stat().st_size / 1e6:,.1f} MB, {raw.form})"),
        ("kind", found.kind),
        ("parameters", f"{found.parameters:,}"),
        (
            "numbers",
            f"{sum(v.numel() for v in raw.state.values()):,} in {len(raw.state):,} tensors",
        ),
        ("types", ", ".join(f"{kind} ({n:,})" for kind, n in types.most_common())),
        ("branch", raw.branch),
        (
            "beside it",
            ", ".join(
                f"{k}={v}" if isinstance(v, int | float | str) else k for k, v in raw.beside.items()
            ),
        ),
        ("says of itself", ", ".join(f"{k}={v}" for k, v in raw.about.items() if k != "preset")),
        ("settings", " ".join(f"{k}={v}" for k, v in found.sizes.items())),
        ("weights", f"{len(report.weights):,} used by our model"),
        ("missing", _listed(report.missing)),
        ("unexpected", _listed(report.unexpected)),
        ("reshaped", _listed([f"{k} {how}" for k, how in report.reshaped.items()])),
        (
            "other shape",
            _listed([f"{k} expected {a}, found {b}" for k, (a, b) in report.mismatched.items()]),
        ),
        (
            "left out",
            "; ".join(f"{n:,} {why}" for why, n in Counter(report.left_out.values()).most_common())
            or "none",
        ),
        ("notes", "; ".join(raw.notes + released.remarks(found))),
        ("use it for", found.uses),
    ]
    return "\n".join(f"{name:15} {value}" for name, value in rows if value)


def _listed(names: list[str]) -> str:
    return (
        f"{len(names):,}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        if names
        else "none"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what is wrong with the file or the call."""
    parser = argparse.ArgumentParser(
        prog="python -m medxvl.weights", description="Released and own weights."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about_it = (
        "say what a checkpoint is, whether it is whole, and what it can be used for; "
        "nothing in it is run"
    )
    command = commands.add_parser("inspect", help=about_it, description=about_it.capitalize() + ".")
    command.add_argument(
        "path", metavar="PATH", help="file or folder; names are also looked up in data/weights"
    )
    command.add_argument(
        "--branch",
        default="",
        help="part of a training's checkpoint, such as student (default: teacher)",
    )
    options = parser.parse_args(arguments)
    try:
        print(inspect(options.path, options.branch))
    except (OSError, ValueError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
