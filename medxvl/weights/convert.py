"""Released checkpoints: their names turned into ours, whether they fit a model, and where to get
them.

The renaming of whole models stands beside the models: each paper's `release` module.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medxvl.config import paths, presets
from medxvl.layers import fusion, resnet, vision_transformer
from medxvl.weights import layouts, reading
from medxvl.weights.layouts import KINDS, left_out

SOURCES = {
    "iBOT": "iBOT (ImageNet): github.com/bytedance/ibot, the table of pre-trained models, "
    "ViT-B/16 or ViT-S/16, `backbone (t)` or "
    "`full ckpt`; X-VL's own, trained on MIMIC-CXR, was never published: notebook 20 makes "
    "one from your data",
    "CXR-BERT": "CXR-BERT: Hugging Face hub, microsoft/BiomedVLP-CXR-BERT-specialized (the "
    "whole folder; its code is not run)",
    "MedViLL": "MedViLL: the links of the README at github.com/SuperSupermoon/MedViLL, one "
    "file for each of the five masks",
    "BERT": "BERT: Hugging Face hub, google-bert/bert-base-uncased (the whole folder)",
    "ResNet-50": "ResNet-50 (ImageNet): torchvision, the file of "
    "ResNet50_Weights.IMAGENET1K_V1 (resnet50-0676ba61.pth)",
    "X-VL": "Medical X-VL: its weights were never published; notebook 21 makes them from your data",
}
_HINTS = {
    "iBOT": "ibot|dino|vit",
    "CXR-BERT": "cxr.?bert|biomedvlp",
    "BERT": "bert",
    "ResNet-50": "resnet",
    "MedViLL": "medvill|model\\.\\d+",
    "X-VL": "x.?vl",
}
# made anew: twins are copied from the online model
_MAY_LACK = r"^twin\.|^(image|text)_queue$|^queue_at$|num_batches_tracked$"


@dataclass
class Report:
    """What of a checkpoint went where. `weights` fit the model; shapes are tuples."""

    weights: dict[str, Tensor]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)  # key: how
    mismatched: dict[str, tuple] = field(default_factory=dict)  # key: (expected, found)
    left_out: dict[str, str] = field(default_factory=dict)  # key: why that does no harm
    kind: str = ""
    file: Path | None = None


@dataclass
class Checkpoint:
    """A recognised checkpoint: `state` under our names, `report` against the model that its own
    sizes make.
    """

    kind: str  # of KINDS
    raw: reading.Raw
    state: dict[str, Tensor]
    encoders: dict[str, dict[str, Tensor]]  # vision, text: timm's or transformers' names
    report: Report
    sizes: dict[str, int]  # settings it was made with
    parameters: int

    family = property(lambda self: KINDS[self.kind][0])
    uses = property(lambda self: KINDS[self.kind][1])
    file = property(lambda self: self.raw.file)


def convert(path, branch: str = "", models: tuple = ()) -> Checkpoint:
    """Read, recognise and rename the checkpoint at `path` (a file or a folder, as given or under
    data/weights).

    `branch`: part of a training's checkpoint, such as student. `models`: classes that whole
    checkpoints can be renamed for (see `medxvl.weights.store`); of one for another class only the
    encoders are renamed. Raises FileNotFoundError (where to
    get the file), and ValueError for a file that is damaged, unsafe, of no known layout, or whose
    encoders are incomplete.
    """
    raw = reading.read(locate(path), branch)
    state = layouts.tidy(raw.state)
    kind = layouts.recognise(state, raw.about, raw.branch)
    if not kind:
        raise ValueError(
            f"{raw.file}: no known layout. Expected one of: {'; '.join(KINDS)}. Found "
            f"{len(state)} weights such as "
            f"{', '.join(list(state)[:4])}. Rename them to one of these layouts, or give "
            "another file"
        )
    try:
        encoders = {name: layouts.part(kind, state, name) for name in ("vision", "text")}
        found = layouts.sizes(encoders["vision"], encoders["text"])
        whole = KINDS[kind][0] if kind not in layouts.ENCODERS_ALONE else ""
        model = next((m for m in models if m.FAMILY == whole or m.SAVED_AS == kind), None)
        if KINDS[kind][0] == "medxvl":
            ours = dict(state)
        elif model is not None:
            ours = model.from_released(state)
        else:
            ours = {f"{name}.{k}": v for name, part in encoders.items() for k, v in part.items()}
        report = fit(ours, _skeleton(kind, state, ours, raw.about, encoders, found, model))
    except (
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        ArithmeticError,
    ) as fault:  # names as expected, shapes not at all
        raise ValueError(
            f"{raw.file}: has the names of {kind}, but its weights do not go together "
            f"({type(fault).__name__}: {fault}); it is damaged or was changed: download it "
            "again, or give another"
        ) from fault
    report.kind, report.file = kind, raw.file
    same = {id(v) for v in ours.values()}
    dropped = [k for k, v in state.items() if id(v) not in same and not re.search("queue", k)]
    report.left_out |= {k: left_out(k) or "not part of our model" for k in dropped}
    broken = [
        k
        for k in [*report.missing, *report.mismatched]
        if not re.search(r"(^|\.)pooler\.", k) and _ENCODER.match(k)
    ]
    if broken:
        raise ValueError(
            f"{raw.file} ({kind}): {len(broken)} weights of its encoders are missing or of a "
            "wrong shape, such as "
            f"{', '.join(broken[:3])}; the file is damaged or of another layout: download it "
            "again, or give another"
        )
    return Checkpoint(kind, raw, ours, encoders, report, found, parameters(state))


_ENCODER = re.compile(r"(online\.)?(vision|text)\.|trunk\.|bert\.|image_proj\.")


def _skeleton(
    kind: str, state: dict, ours: dict, about: dict, encoders: dict, found: dict, model: type | None
) -> dict[str, Tensor]:
    """Names and shapes of our model of the sizes that were found, without memory for its
    weights.
    """
    preset = presets.load("paper")
    words = found.get("vocabulary", preset.vocabulary)
    if KINDS[kind][0] == "medxvl":
        if "preset" not in about or model is None:
            return ours
        known = asdict(preset)
        preset = replace(
            preset, **{k: v for k, v in json.loads(about["preset"]).items() if k in known}
        )
    elif model is not None:
        preset = replace(preset, **model.sized(found, state))
    elif KINDS[kind][0] == "medvill":  # for another class than its own: its encoders as they are
        return ours
    else:
        preset = replace(preset, **found)
    with torch.device("meta"):
        if model is not None:
            return model(preset, words).state_dict()
        build = {
            "vision": lambda: vision_transformer.build(preset),
            "text": lambda: fusion.build_text_encoder(preset, words),
        }
        if KINDS[kind][0] == "resnet":
            build["vision"] = lambda: resnet.build(preset.medvill_channels)
        return {
            f"{n}.{k}": v
            for n, d in encoders.items()
            if d
            for k, v in build[n]().state_dict().items()
        }


# --- does it fit ----------------------------------------------------------------------------------
def fit(found: dict[str, Tensor], wanted: dict) -> Report:
    """Compare weights with the tensors (or shapes) a model wants under the same names; what can be
    reshaped is.

    Position embeddings of another image size are interpolated (bicubic, as the release does),
    position tables of a BERT cut, and three equal colour channels summed to one.
    """
    shapes = {k: tuple(getattr(v, "shape", v)) for k, v in wanted.items()}
    report = Report({})
    for key, tensor in found.items():
        if key not in shapes:
            why = left_out(key)
            report.left_out.update({key: why} if why else {})
            report.unexpected.extend([] if why else [key])
        elif tuple(tensor.shape) == shapes[key]:
            report.weights[key] = tensor
        else:
            _reshape(report, key, tensor, shapes[key])
    report.missing = [k for k in shapes if k not in found and not re.search(_MAY_LACK, k)]
    return report


def _reshape(report: Report, key: str, tensor: Tensor, shape: tuple) -> None:
    new, how = None, ""
    if key.endswith("pos_embed") and tensor.ndim == 3 and tensor.shape[-1] == shape[-1]:
        old, side = math.isqrt(tensor.shape[1] - 1), math.isqrt(shape[1] - 1)
        if old and old**2 + 1 == tensor.shape[1] and side**2 + 1 == shape[1]:
            grid = vision_transformer.resize_positions(tensor.float(), (side, side))
            new, how = grid.to(tensor.dtype), "interpolated to another image size"
    elif (
        key.endswith("position_embeddings.weight")
        and tensor.shape[1:] == shape[1:]
        and len(tensor) > shape[0]
    ):
        new, how = tensor[: shape[0]], "the first positions kept"
    elif (
        key.endswith("patch_embed.proj.weight") and shape[1] == 1 and tensor.shape[2:] == shape[2:]
    ):
        new, how = tensor.sum(1, keepdim=True), "colours summed: the same for a grey image"
    elif re.search(r"(image|text)_queue$", key):
        report.left_out[key] = "queue of another length"
        return
    if new is None or tuple(new.shape) != shape:
        report.mismatched[key] = (shape, tuple(tensor.shape))
    else:
        report.weights[key] = new
        report.reshaped[key] = f"{tuple(tensor.shape)} -> {shape}, {how}"


def complain(report: Report, what: str, found: dict, model: dict) -> str:
    """The message for weights that do not fit: expected, found, what to do. `found`, `model`:
    settings of either, from `sizes`.
    """
    lines = [f"{report.file} ({report.kind}) does not fit {what}:"]
    if report.mismatched:
        key, (expected, got) = next(iter(report.mismatched.items()))
        lines.append(
            f"{len(report.mismatched)} weights have another shape, such as {key}: expected "
            f"{expected}, found {got};"
        )
    for text, keys in (("are missing", report.missing), ("are unknown", report.unexpected)):
        if keys:
            lines.append(f"{len(keys)} weights {text}, such as {', '.join(keys[:3])};")
    other = {
        k: v
        for k, v in found.items()
        if k in model and model[k] != v and k not in ("image_size", "max_tokens")
    }
    if "vocabulary" in other:
        lines.append(
            f"it has {found['vocabulary']} words, the model {model['vocabulary']}: use the "
            "tokenizer it was trained with;"
        )
    settings = " ".join(f"--set {k}={v}" for k, v in other.items() if k != "vocabulary")
    lines.append(
        f"make the model with {settings}, or give other weights"
        if settings
        else "give other weights"
        + ("" if report.mismatched else ", or load what fits with strict=False")
    )
    return " ".join(lines)


# --- where files lie ------------------------------------------------------------------------------
def locate(path) -> Path:
    """A weights file or folder: as given, or under data/weights. Raises FileNotFoundError that says
    where to get it.
    """
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [given, paths.WEIGHTS / given]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{given}: no such weights file or folder (looked at {', '.join(map(str, places))}). "
        f"Where to get it:\n  {where(given)}\n"
        f"Put it into {paths.WEIGHTS}, and give its name there, or give its full path."
    )


def where(path) -> str:
    """Where to get a weights file of this name: a line, or one for each of SOURCES when the name
    says nothing.
    """
    name = Path(path).name.lower()
    hints = [source for source, pattern in _HINTS.items() if re.search(pattern, name)][:1] or list(
        SOURCES
    )
    return "\n  ".join(SOURCES[source] for source in hints)


def parameters(state: dict[str, Tensor]) -> int:
    """Numbers in a checkpoint that are trained: tied copies count once, buffers and queues not at
    all.
    """
    buffer = re.compile(
        r"(position_ids|running_mean|running_var|num_batches_tracked|queue|queue_ptr|queue_at)$"
    )
    kept = {
        (v.untyped_storage().data_ptr() or id(v), v.storage_offset()): v
        for k, v in state.items()
        if not buffer.search(k)
    }
    return sum(v.numel() for v in kept.values())


def encoder(model: nn.Module, name: str) -> nn.Module:
    """The image (`vision`) or text encoder of X-VL, of MedViLL, or `model` itself when it has
    neither.
    """
    for path in {
        "vision": ("online.vision", "vision", "trunk.net"),
        "text": ("online.text", "text", "bert"),
    }[name]:
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    return model


def remarks(found: Checkpoint) -> list[str]:
    """What the file cannot say of itself and its user should know."""
    if found.kind == "MedViLL pre-training":
        names = {
            "bar": "bar|auto",
            "bi_seq2seq": "bi.{0,5}seq",
            "seq2seq": "seq|s2s",
            "noncross": "non",
            "bidirectional": "bidir",
        }
        path = "/".join(found.file.parts[-2:]).lower()
        guess = next((mask for mask, pattern in names.items() if re.search(pattern, path)), "")
        said = (
            f"its name says medvill_mask={guess}"
            if guess
            else "set medvill_mask to what you downloaded"
        )
        return [
            "the five masks share one layout, and the file does not say which it was trained "
            f"with: {said}"
        ]
    if found.kind in (
        "MedViLL answers",
        "MedViLL report generation",
        "MedViLL report generation, decoding",
    ):
        return [
            "made with a LayerNorm epsilon of 1e-5, pre-training with 1e-12: MedViLL(preset, "
            "words, layer_norm_eps=1e-5)"
        ]
    if found.family == "bert":
        folder = found.file.parent
        return (
            []
            if (folder / "vocab.txt").is_file()
            else ["no vocab.txt beside it: its tokenizer is needed too"]
        )
    return []
