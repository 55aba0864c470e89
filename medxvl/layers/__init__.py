"""Layers that both models are built of."""

try:
    import torchvision  # noqa: F401  (timm and transformers import it)
except RuntimeError as problem:
    raise ImportError(
        "torchvision was built for another torch than the one installed "
        f"({problem}); call medxvl.set_up() before importing this package"
    ) from problem
