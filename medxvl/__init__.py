"""medxvl: reproduce MedViLL and Medical X-VL, notebook by notebook."""

__version__ = "0.1.0"


def set_up() -> None:
    """Prepare this process for a run; call it before anything else of medxvl is imported.

    All that the package changes outside itself happens here, and in `training.seeds`.

    - torch, transformers and the rest make a million objects that stay. At Python's threshold of
      700 new ones the garbage collector walks them so often that it takes a third of the time they
      need to load.
    - timm and transformers import torchvision, whose default wheel does not match a CPU-only build
      of torch: the import dies with "operator torchvision::nms does not exist". Declaring the
      signatures of its two operators first lets everything but those two work, and nothing here
      calls them.
    """
    import gc

    gc.set_threshold(20_000, 20, 20)
    _declare_torchvision_operators()


_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # kept alive: its definitions vanish with it


def _declare_torchvision_operators() -> None:
    global _library
    import sys

    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            try:
                _library.define(operator)
            except RuntimeError:  # the import that failed had defined it already
                pass
