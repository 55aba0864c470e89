"""Names of the weights in the released MedViLL checkpoints, and ours."""

import re

from torch import Tensor

# The releases' tasks differ in what stands before a name; after that it is the same in all of them.
_BEFORE = re.compile(r"^(module\.)?(enc\.|bert\.)?")
# Layers of ResNet-50 by their number among its children
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_RULES = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^txt_embeddings\.position_ids$", ""),  # 0, 1, 2, ...
        (r"^txt_embeddings\.", "bert.embeddings."),
        (r"^img_embeddings\.img_embeddings\.", "image_proj."),
        (
            r"^img_embeddings\.(position|token_type|word)_embeddings\..*|"
            r"^img_embeddings\.LayerNorm\..*",
            "",
        ),  # the text's own
        (r"^img_encoder\.model\.(\d)\.", "trunk.net.{child}."),
        (r"^img_encoder\.patch_to_embedding\.", "trunk.net.proj."),
        (r"^img_encoder\.pos_embedding$", ""),  # never used
        (r"^encoder\.", "bert.encoder."),
        (r"^pooler\.", "bert.pooler."),
        (r"^(mlm|cls)\.predictions\.transform\.", "mlm_transform."),
        (r"^(mlm|cls)\.predictions\.bias$", "mlm_bias"),
        (r"^(mlm|cls)\.predictions\.decoder\.weight$", ""),  # the word embedding
        (r"^itm\.linear\.", "itm_head."),
        (r"^ans_classifier\.", "answer_head."),
        (r"^clf\.", "class_head."),
    )
]


def rename(key: str) -> str | None:
    """Our name of a released weight; "" where it repeats another or is never used, None where the
    name is not known.
    """
    if re.match(r"^(module\.)?enc\.clf\.", key):  # a second classifier, which nothing reads
        return ""
    bare = _BEFORE.sub("", key)
    for pattern, ours in _RULES:
        if match := pattern.match(bare):
            if not ours:
                return ""
            child = _CHILDREN.get(match[1], "") if "{child}" in ours else ""
            return (
                None
                if "{child}" in ours and not child
                else ours.format(child=child) + bare[match.end() :]
            )
    return None


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `MedViLL` (and the heads `class_head`, `answer_head`) from a released one, of
    any of its tasks.

    Names that are not known are kept as they are, so that a strict loading reports them. A head for
    masked words whose matrix is not the word embedding comes as `mlm_matrix` (for
    `MedViLL(tied=False)`). Raises ValueError when another weight that the release stores twice has
    two values.
    """
    ours, source = {}, {}
    for key, value in state.items():
        name = rename(key)
        if name is None:
            name = key
        if (
            name == "trunk.net.proj.weight" and value.ndim == 2
        ):  # pixels of a patch: row, column, channel
            side = round((value.shape[1] / 3) ** 0.5)
            value = value.view(len(value), side, side, -1).permute(0, 3, 1, 2)
        if name:
            ours[name], source[name] = value, key
    for key, value in state.items():
        twin = _twin(key)
        if twin not in ours or (ours[twin].shape == value.shape and ours[twin].equal(value)):
            continue
        if "predictions.decoder" in key:
            ours["mlm_matrix"] = value
        else:
            raise ValueError(
                f"{key} and {source[twin]}: expected one shared weight, found two values"
            )
    return ours


def _twin(key: str) -> str:
    """Our name of the weight that a repeated one repeats, "" for all others."""
    bare = _BEFORE.sub("", key)
    if re.match(r"^(mlm|cls)\.predictions\.decoder\.weight$", bare):
        return "bert.embeddings.word_embeddings.weight"
    match = re.match(
        r"^img_embeddings\.((position|token_type|word)_embeddings|LayerNorm)\.(.*)", bare
    )
    return f"bert.embeddings.{match[1]}.{match[3]}" if match else ""


def sized(sizes: dict, state: dict[str, Tensor]) -> dict:
    """Settings of the `MedViLL` that a released state fits, from the `sizes` of its encoders."""
    texts = {name.removeprefix("text_"): n for name, n in sizes.items() if name.startswith("text_")}
    found = {f"medvill_{name}": n for name, n in texts.items()}
    return found | {"medvill_max_positions": sizes["max_tokens"]}
