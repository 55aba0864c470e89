"""Settings that are valid one by one but do not work together, refused before anything runs."""


def check(preset) -> None:
    """ValueError, naming the settings and what would fit, for a combination that no model or
    training of the notebooks can have.
    """
    _vision(preset)
    _heads(preset)
    _medvill(preset)
    _words(preset)
    if preset.precision == "fp16" and preset.device == "cpu":
        raise ValueError(
            "settings precision=fp16, device=cpu: fp16 needs a GPU; use precision=bf16 or fp32"
        )


def _vision(preset) -> None:
    patch = preset.patch_size
    _divides(preset, "patch_size", "image_size")
    if preset.ibot_local_crops:
        _divides(preset, "patch_size", "ibot_local_size")
    if preset.vision_stem == "conv" and (patch < 4 or patch & (patch - 1)):
        raise ValueError(
            f"settings patch_size={patch}, vision_stem=conv: the convolutional stem needs a power "
            "of two from 4 on"
        )
    if preset.resize < preset.image_size:
        raise ValueError(
            f"settings resize={preset.resize}, image_size={preset.image_size}: the centre crop of "
            "image_size pixels is taken from an image of resize pixels, which cannot be smaller"
        )
    for low, high in (
        ("ibot_local_low", "ibot_local_high"),
        ("medvill_crop_low", "medvill_crop_high"),
    ):
        if getattr(preset, low) > getattr(preset, high):
            raise ValueError(
                f"settings {low}={getattr(preset, low)}, {high}={getattr(preset, high)}: the "
                "smallest area is above the largest"
            )


def _heads(preset) -> None:
    for heads, width in (
        ("vision_heads", "vision_width"),
        ("text_heads", "text_width"),
        ("medvill_heads", "medvill_width"),
    ):
        _divides(preset, heads, width)


def _medvill(preset) -> None:
    if preset.medvill_trunk == "resnet50":
        edge = preset.medvill_image_size // 32
        if edge < 1:
            raise ValueError(
                f"setting medvill_image_size={preset.medvill_image_size}: ResNet-50 makes one "
                "token of 32 x 32 pixels, so 32 is the least"
            )
    else:
        _divides(preset, "medvill_patch", "medvill_image_size")
        edge = preset.medvill_image_size // preset.medvill_patch
    for needed, what in (
        (edge**2, f"medvill_image_size={preset.medvill_image_size}"),
        (preset.medvill_text + 1, f"medvill_text={preset.medvill_text}"),
        (preset.generate_most, f"generate_most={preset.generate_most}"),
    ):
        if needed > preset.medvill_max_positions:
            raise ValueError(
                f"settings {what}, medvill_max_positions={preset.medvill_max_positions}: the "
                f"table of positions needs at least {needed} rows"
            )


def _words(preset) -> None:
    for name, more in (("xvl_generate_most", 2), ("correct_most", 2), ("max_tokens", 0)):
        needed = getattr(preset, name) + more
        if needed > preset.writer_positions:
            raise ValueError(
                f"settings {name}={getattr(preset, name)}, "
                f"writer_positions={preset.writer_positions}: the decoder's table of positions "
                f"needs at least {needed} rows"
            )


def _divides(preset, part: str, whole: str) -> None:
    a, b = getattr(preset, part), getattr(preset, whole)
    if b % a:
        fits = [n for n in range(1, b + 1) if b % n == 0]
        near = sorted(fits, key=lambda n: abs(n - a))[:3]
        raise ValueError(
            f"settings {part}={a}, {whole}={b}: {whole} must be a multiple of {part} "
            f"({part} could be {', '.join(map(str, sorted(near)))})"
        )
