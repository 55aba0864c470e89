"""Import this before timm or transformers.

timm and transformers import torchvision, whose default wheel does not match a CPU-only build of
torch: the import then dies with "operator torchvision::nms does not exist". Declaring the two
operators' signatures first lets everything but those two operators (which nothing here calls) work.
"""

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None


def _torchvision_imports() -> bool:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return False
    return True


if not _torchvision_imports():
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library(
        "torchvision", "DEF"
    )  # kept alive: its definitions vanish with it
    for schema in _SCHEMAS:
        try:
            _library.define(schema)
        except RuntimeError:  # the half-done import had defined it already
            pass
