"""The layouts of released checkpoints: which one a checkpoint has, where its encoders are, and what
may be left of it.

Layouts: X-VL (pre-training, retrieval and zero-shot, answers and correction), MedViLL
(pre-training, retrieval, classification, report generation before and in decoding, answers), iBOT
and DINO, a plain Vision Transformer, CXR-BERT and plain BERT, a ResNet-50, and our own. Only names
and shapes are looked at.
"""

import math
import re

from torch import Tensor

# kind: family, what it is good for
KINDS = {
    "X-VL pre-training": (
        "x-vl",
        "zero-shot detection, retrieval, error detection, a start for every other task of X-VL",
    ),
    "X-VL retrieval or zero-shot": ("x-vl", "zero-shot detection and retrieval"),
    "X-VL answers or correction": ("x-vl", "its image and text encoders (part vision, part text)"),
    "MedViLL pre-training": ("medvill", "a start for every task of MedViLL"),
    "MedViLL retrieval": ("medvill", "image-report retrieval"),
    "MedViLL classification": ("medvill", "diagnosis classification"),
    "MedViLL report generation": ("medvill", "report generation"),
    "MedViLL report generation, decoding": ("medvill", "report generation"),
    "MedViLL answers": ("medvill", "visual question answering"),
    "iBOT or DINO": ("vit", "the start of X-VL's vision encoder: setting vision_weights"),
    "Vision Transformer": ("vit", "the start of X-VL's vision encoder: setting vision_weights"),
    "CXR-BERT": (
        "bert",
        "the start of X-VL's text encoder: setting text_weights, with the tokenizer of its folder",
    ),
    "BERT": (
        "bert",
        "the start of a text encoder: setting medvill_text_weights or text_weights, with its "
        "own tokenizer",
    ),
    "ResNet-50": ("resnet", "the start of MedViLL's image encoder: setting medvill_vision_weights"),
    "medxvl X-VL": (
        "medxvl",
        "zero-shot detection, retrieval, error detection, a start for every other task of X-VL",
    ),
    "medxvl MedViLL": ("medxvl", "a start for every task of MedViLL"),
}

# Kinds whose task models are not ours: their encoders are read, not the whole.
ENCODERS_ALONE = ("X-VL answers or correction",)

# What may be over in a checkpoint without harm, and why
_LEFT_OUT = (
    (r"(^|\.)position_ids$", "indices of positions, no weights"),
    (r"_projection_head\.", "CXR-BERT's own projection"),
    (r"^text(_encoder|_encoder_m)?\.cls\.", "the text encoder's own head for masked words"),
    (r"^fusion_encoder(_m)?\.(bert\.)?embeddings\.", "embeddings that fusion never runs"),
    (
        r"^fusion_encoder(_m)?\.(bert\.)?encoder\.layer\.[0-7]\.",
        "the lower fusion layers, which the release never runs",
    ),
    (
        r"\.decoder\.(weight|bias)$|word_embeddings\.weight$",
        "a second name of the word embedding or of its bias",
    ),
    (
        r"img_embeddings\.(position|token_type)_embeddings|img_embeddings\.LayerNorm",
        "a second name of the text's embeddings",
    ),
    (r"(^|\.)pooler\.", "pooler"),
    (r"^fusion_decoder", "the decoder of answers and corrections"),
    (r"crossattention\.", "cross-attention of a text encoder that also sees the image"),
    (r"(^|\.)(clf|ans_classifier|seq_relationship|cls|class_head|answer_head)\.", "head of a task"),
    (r"(^|\.)(head|fc|fc_norm|last_layer)\.", "head of the earlier training"),
    (r"masked_embed$|mask_token$", "iBOT's mask token"),
    (r"^(image_queue|text_queue|queue_ptr|queue_at|idx_queue)$", "queue of momentum features"),
    (r"_m\.|^twin\.", "momentum twin"),
)


# a weight that every checkpoint of the family has, and what may stand before its name
_MEDVILL = "txt_embeddings.word_embeddings.weight", ("enc.", "bert.", "")
_BERT = (
    "embeddings.word_embeddings.weight",
    ("text_encoder.bert.", "text_encoder.", "bert.", ""),
)
# children of a ResNet that is an `nn.Sequential`, in its usual names
_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


# --- which layout ---------------------------------------------------------------------------------
def tidy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what wrappers put before all of them (`module.`, `_orig_mod.`) and with today's
    LayerNorm names.
    """
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    new = {"gamma": "weight", "beta": "bias"}
    return {
        re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: new[m[0]], k): v
        for k, v in state.items()
    }


def recognise(keys, about: dict | None = None, branch: str = "") -> str:
    """The kind (a key of KINDS) of a checkpoint with these tidied keys, or "" for none of them."""
    keys = set(keys)

    def has(start):
        return any(k.startswith(start) for k in keys)

    if (about or {}).get("model") in KINDS:
        return about["model"]
    if has("online.vision.") and has("online.fusion."):
        return "medxvl X-VL"
    if has("trunk.") and has("image_proj.") and has("bert."):
        return "medxvl MedViLL"
    if has("visual_encoder.") and has("text_encoder."):
        if has("fusion_decoder."):
            return "X-VL answers or correction"
        return "X-VL pre-training" if has("fusion_encoder.bert.") else "X-VL retrieval or zero-shot"
    prefix = _prefix(keys, *_MEDVILL)
    if prefix == "enc.":
        task = "pre-training" if has("mlm.") else "classification" if has("clf.") else "retrieval"
        return f"MedViLL {task}"
    if prefix is not None:
        task = (
            "answers"
            if has("ans_classifier.")
            else "report generation" + (", decoding" if prefix else "")
        )
        return f"MedViLL {task}"
    if any(re.search(r"^(backbone\.)?cls_token$", k) for k in keys) and has(
        ("blocks.0.attn.qkv.", "backbone.blocks.0.")
    ):
        trained = branch in ("teacher", "student") or has(
            ("head.", "masked_embed", "backbone.masked_embed")
        )
        return "iBOT or DINO" if trained else "Vision Transformer"
    if _prefix(keys, *_BERT) is not None:
        return "CXR-BERT" if any("cls_projection_head." in k for k in keys) else "BERT"
    if {"conv1.weight", "layer1.0.conv3.weight", "layer4.2.bn3.weight"} <= keys:
        return "ResNet-50"
    return ""


def _prefix(keys, name: str, candidates: tuple[str, ...]) -> str | None:
    """The first of `candidates` under which `name` is one of the keys."""
    return next((prefix for prefix in candidates if prefix + name in keys), None)


# --- our names ------------------------------------------------------------------------------------
def part(kind: str, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the image encoder (`vision`) or text encoder (`text`) under timm's or
    transformers' names; may be empty.
    """
    family = KINDS[kind][0]
    if family == "medxvl":
        return _under(
            state,
            *(("online.vision.", "trunk.net.") if name == "vision" else ("online.text.", "bert.")),
        )
    if family == "x-vl":
        return _under(
            state,
            *(
                ("visual_encoder.",)
                if name == "vision"
                else ("text_encoder.bert.", "text_encoder.")
            ),
        )
    if family == "medvill":
        prefix = _prefix(state, *_MEDVILL)
        if name == "vision":
            children = _under(state, f"{prefix}img_encoder.model.")
            split = ((k.partition("."), v) for k, v in children.items())
            return {_RESNET.get(child, child) + dot + rest: v for (child, dot, rest), v in split}
        kept = (f"{prefix}txt_embeddings.", f"{prefix}encoder.", f"{prefix}pooler.")
        named = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(kept)}
        return {k.replace("txt_embeddings.", "embeddings."): v for k, v in named.items()}
    if family == "bert" and name == "text":
        return _under(state, _prefix(state, *_BERT)) | {
            k: v for k, v in state.items() if "_head." in k or k.startswith("cls.")
        }
    if family == "vit" and name == "vision":
        return {k.removeprefix("backbone."): v for k, v in state.items()}
    return state if family == "resnet" and name == "vision" else {}


def _under(state, *prefixes) -> dict[str, Tensor]:
    """What stands under the first of these prefixes that occurs."""
    for prefix in prefixes:
        found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found
    return {}


# --- sizes ----------------------------------------------------------------------------------------
_CONV_HEAD = 2  # entries with weights before the blocks: a convolution and its batch norm


def sizes(vision: dict, text: dict) -> dict[str, int | str]:
    """Settings that a pair of encoders was made with; heads are those of the published models, one
    a 64 channels.
    """
    out = {}
    stem = next(
        (k for k in ("patch_embed.proj.weight", "patch_embed.proj.0.weight") if k in vision), None
    )
    if stem and "cls_token" in vision and "pos_embed" in vision:
        width, first = vision["cls_token"].shape[-1], vision[stem].shape
        conv = stem.endswith(
            ".0.weight"
        )  # our stack of convolutions: a stride of 4, then 2 in each block
        patch = 2 ** (_count(vision, "patch_embed.proj") - _CONV_HEAD + 2) if conv else first[-1]
        out = {
            "vision_stem": "conv" if conv else "patch",
            "vision_width": width,
            "vision_layers": _count(vision, "blocks"),
        }
        grid = math.isqrt(vision["pos_embed"].shape[1] - 1)
        out |= {
            "vision_heads": _heads(width),
            "patch_size": patch,
            "channels": first[1],
            "image_size": grid * patch,
        }
    if (
        "embeddings.word_embeddings.weight" in text
        and "encoder.layer.0.intermediate.dense.weight" in text
    ):
        vocabulary, width = text["embeddings.word_embeddings.weight"].shape
        out |= {
            "text_width": width,
            "text_layers": _count(text, "encoder.layer"),
            "text_heads": _heads(width),
        }
        out |= {
            "text_hidden": len(text["encoder.layer.0.intermediate.dense.weight"]),
            "vocabulary": vocabulary,
        }
        out |= {"max_tokens": len(text["embeddings.position_embeddings.weight"])}
    return out


def _heads(width: int) -> int:
    return width // 64 if width % 64 == 0 else 1


def _count(state, stem: str) -> int:
    return len({k[len(stem) + 1 :].partition(".")[0] for k in state if k.startswith(f"{stem}.")})


def left_out(key: str) -> str:
    """Why this key of a checkpoint may be left over; "" when it may not."""
    return next((why for pattern, why in _LEFT_OUT if re.search(pattern, key)), "")
