"""Names of the released X-VL checkpoints turned into ours."""

import re

from torch import Tensor

_PARTS = (  # the release's name -> ours; `_m` marks a momentum twin
    (r"visual_encoder{m}\.", "vision."),
    (r"vision_proj{m}\.", "vision_proj."),
    (r"text_encoder{m}\.(?:bert\.)?(?=embeddings|encoder)", "text."),
    (r"text_proj{m}\.", "text_proj."),
    (r"fusion_encoder{m}\.cls\.", "fusion.mlm_head."),
)

# present in the release, read by nothing in pre-training or zero-shot scoring
_UNUSED = re.compile(
    r"text_encoder(_m)?\.(cls|cls_projection_head|bert\.pooler|pooler)\.|"
    r"fusion_encoder(_m)?\.(bert\.)?(embeddings|pooler)\."
    r"|.*\.position_ids$"
)

_FUSION_LAYER = re.compile(r"fusion_encoder(_m)?\.(?:bert\.)?encoder\.layer\.(\d+)\.(.*)")


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of the released X-VL layout (pre-training or zero-shot) turned into those of
    `XVL`.

    Fusion layers are counted from the first that has cross-attention (those below never run),
    queues are turned to one row a feature, tied copies are filled in where a file holds one of the
    two. What the model does not use is left out; a name that is not known stays as it is, for the
    loader to report.
    """
    layers = [_FUSION_LAYER.match(key) for key in state]
    first = min(
        (int(found[2]) for found in layers if found and found[3].startswith("crossattention")),
        default=0,
    )
    ours = {}
    for key, value in state.items():
        if found := _FUSION_LAYER.match(key):
            if int(found[2]) >= first:
                part, number = "twin" if found[1] else "online", int(found[2]) - first
                ours[f"{part}.fusion.encoder.layer.{number}.{found[3]}"] = value
        elif key in ("image_queue", "text_queue"):
            ours[key] = value.t().contiguous()
        elif key == "queue_ptr":
            ours["queue_at"] = value.reshape(())
        elif key == "temp":
            ours["temperature"] = value
        elif not _UNUSED.match(key):
            ours[_renamed(key)] = value
    for twin, part in (("_m", "twin"), ("", "online")):
        head, words = (
            f"{part}.fusion.mlm_head.predictions.",
            f"fusion_encoder{twin}.bert.embeddings.word_embeddings.weight",
        )
        if head + "bias" in ours:
            ours.setdefault(head + "decoder.bias", ours[head + "bias"])
            if words in state:
                ours.setdefault(head + "decoder.weight", state[words])
    return ours


def _renamed(key: str) -> str:
    for side, mark in (("online.", ""), ("twin.", "_m")):
        for theirs, part in _PARTS:
            if found := re.match(theirs.format(m=mark), key):
                return side + part + key[found.end() :]
    return key


def sized(sizes: dict, state: dict[str, Tensor]) -> dict:
    """Settings of the `XVL` that a released state fits: the encoders' `sizes`, the fusion layers,
    the joint space and the queues."""
    fusion = [key for key in state if key.startswith("fusion_encoder.")]
    cross = [key for key in fusion if key.endswith("crossattention.self.query.weight")]
    hidden = [len(state[key]) for key in fusion if key.endswith("intermediate.dense.bias")]
    found = dict(sizes)
    if cross and hidden:
        found |= {"fusion_layers": len(cross), "fusion_hidden": hidden[0]}
    if fusion and "vision_proj.weight" in state:
        found["projection"] = len(state["vision_proj.weight"])
    if fusion and "image_queue" in state and state["image_queue"].ndim == 2:
        found["queue_size"] = state["image_queue"].shape[1]
    return found
