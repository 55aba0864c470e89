"""The vision encoder: a timm Vision Transformer that gives `[CLS]` and patch tokens, and the image augmentation before it."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import compat  # noqa: F401  (before timm)

from timm.models.vision_transformer import VisionTransformer  # noqa: E402  isort: skip


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, halving the resolution (He et al. 2016)."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(a, b, 1, 2, bias=False), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.path(x) + self.shortcut(x))


class ConvStem(nn.Module):
    """Patch embedding by a stack of convolutions instead of one large one (the idea of Xiao et al. 2021, arXiv 2106.14881).

    Same tokens on the same grid as the plain patch embedding, but it learns from thousands of images where that needs many
    more. Used by the small presets only; the published models have the plain one.
    """

    def __init__(self, img_size=64, patch_size=16, in_chans=1, embed_dim=128, **_):
        super().__init__()
        steps = patch_size.bit_length() - 1
        if 2**steps != patch_size:
            raise ValueError(f"patch_size={patch_size}: the convolutional stem needs a power of two")
        widths = [embed_dim >> (steps - 2 - k) for k in range(steps - 1)]
        first = [nn.Conv2d(in_chans, widths[0], 7, 4, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        self.proj = nn.Sequential(*first, *(ResidualBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        self.grid_size = (img_size // patch_size,) * 2
        self.num_patches = self.grid_size[0] ** 2
        self.patch_size = (patch_size,) * 2

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def build(preset) -> VisionTransformer:
    """Vision encoder of `preset`; `forward_features` gives (B, 1 + patches, width), `[CLS]` first."""
    stem = {"embed_layer": ConvStem} if preset.vision_stem == "conv" else {}
    return VisionTransformer(
        img_size=preset.image_size, patch_size=preset.patch_size, in_chans=preset.channels, num_classes=0,
        embed_dim=preset.vision_width, depth=preset.vision_layers, num_heads=preset.vision_heads,
        drop_path_rate=preset.drop_path, norm_layer=partial(nn.LayerNorm, eps=1e-6), **stem,
    )  # fmt: skip


def normalise(images: Tensor) -> Tensor:
    """(B, H, W) uint8 grey levels -> (B, 1, H, W) float in [0, 1]. Raises TypeError for anything but uint8.

    Pixels that are divided by 255 twice leave the network in the dark without any error (it happened in the release), so the
    range is tied to the type here and nowhere else.
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f"expected uint8 grey levels 0-255, found {images.dtype}; convert the images when preparing the data"
        )
    return images.unsqueeze(1).float() / 255


def plain_view(images: Tensor, preset) -> Tensor:
    """Evaluation view: resize to `preset.resize`, centre crop to `preset.image_size`. (B, S, S) uint8 -> (B, 1, s, s)."""
    x = normalise(images)
    if x.shape[-1] != preset.resize:
        x = F.interpolate(x, size=(preset.resize,) * 2, mode="bilinear", antialias=True, align_corners=False)
    edge = (preset.resize - preset.image_size) // 2
    x = x[..., edge : edge + preset.image_size, edge : edge + preset.image_size]
    return x.expand(-1, preset.channels, -1, -1)


def augmented_view(images: Tensor, preset, generator: torch.Generator) -> Tensor:
    """Training view: random resized crop, rotation, brightness and contrast; never a flip, since reports name sides.

    One affine resampling for the whole batch. (B, S, S) uint8 -> (B, 1, s, s).
    """
    x, n, s = normalise(images), len(images), preset.image_size
    enough = round(preset.resize / preset.crop_scale**0.5)  # px at which the smallest crop still fills the view
    if x.shape[-1] > enough:  # the resampling below has no low-pass filter of its own
        x = F.interpolate(x, size=(enough, enough), mode="bilinear", antialias=True, align_corners=False)

    def draw(low, high):
        return torch.rand(n, generator=generator) * (high - low) + low

    area, log_ratio = (
        draw(preset.crop_scale, 1.0),
        draw(-1, 1) * 0.2877,
    )  # aspect ratio 3/4 to 4/3, as in RandomResizedCrop
    width, height = (area * log_ratio.exp()).sqrt().clamp(max=1), (area / log_ratio.exp()).sqrt().clamp(max=1)
    cx, cy = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    angle = draw(-1, 1) * (preset.rotation * torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([width * cos, -height * sin, cx, width * sin, height * cos, cy], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta.to(x.device), (n, 1, s, s), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, shift = draw(1 - preset.jitter, 1 + preset.jitter), draw(-preset.jitter, preset.jitter) / 2
    x = (x - 0.5) * gain.view(n, 1, 1, 1).to(x) + 0.5 + shift.view(n, 1, 1, 1).to(x)
    return x.clamp(0, 1).expand(-1, preset.channels, -1, -1)
