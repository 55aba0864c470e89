"""The vision encoder: a timm Vision Transformer that gives `[CLS]` and patch tokens, and the image
augmentation before it.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


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
    """Patch embedding by a stack of convolutions instead of one large one (the idea of Xiao et al.
    2021, arXiv 2106.14881).

    Same tokens on the same grid as the plain patch embedding, but it learns from thousands of
    images where that needs many more. Used by the small presets only; the published models have the
    plain one.
    """

    def __init__(self, img_size=64, patch_size=16, in_chans=1, embed_dim=128, **_):
        super().__init__()
        steps = patch_size.bit_length() - 1
        if 2**steps != patch_size:
            raise ValueError(
                f"patch_size={patch_size}: the convolutional stem needs a power of two"
            )
        widths = [embed_dim >> (steps - 2 - k) for k in range(steps - 1)]
        first = [
            nn.Conv2d(in_chans, widths[0], 7, 4, 3, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        self.proj = nn.Sequential(
            *first, *(ResidualBlock(a, b) for a, b in zip(widths, widths[1:], strict=False))
        )
        self.grid_size = (img_size // patch_size,) * 2
        self.num_patches = self.grid_size[0] ** 2
        self.patch_size = (patch_size,) * 2

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def build(preset) -> VisionTransformer:
    """Vision encoder of `preset`; `forward_features` gives (B, 1 + patches, width), `[CLS]`
    first.
    """
    stem = {"embed_layer": ConvStem} if preset.vision_stem == "conv" else {}
    return VisionTransformer(
        img_size=preset.image_size,
        patch_size=preset.patch_size,
        in_chans=preset.channels,
        num_classes=0,
        embed_dim=preset.vision_width,
        depth=preset.vision_layers,
        num_heads=preset.vision_heads,
        drop_path_rate=preset.drop_path,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **stem,
    )


def start_as_pooling(model: VisionTransformer) -> None:
    """Make attention begin as a mean over the tokens, as in the text encoder: values and outputs
    rotations.

    timm's values and outputs are so small in a narrow encoder that `[CLS]` hears next to nothing of
    the patches at first, and a contrast that begins with equal images begins slowly. The published
    models start from iBOT instead.
    """
    for block in model.blocks:
        with torch.no_grad():
            nn.init.orthogonal_(block.attn.qkv.weight[2 * model.embed_dim :])
        nn.init.orthogonal_(block.attn.proj.weight)


def normalise(images: Tensor) -> Tensor:
    """(B, H, W) uint8 grey levels -> (B, 1, H, W) float in [0, 1]. Raises TypeError for anything
    but uint8.

    Pixels that are divided by 255 twice leave the network in the dark without any error (it
    happened in the release), so the range is tied to the type here and nowhere else.
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f"expected uint8 grey levels 0-255, found {images.dtype}; convert the images when "
            "preparing the data"
        )
    return images.unsqueeze(1).float() / 255


def plain_view(images: Tensor, preset) -> Tensor:
    """Evaluation view: resize to `preset.resize`, centre crop to `preset.image_size`. (B, S, S)
    uint8 -> (B, 1, s, s).
    """
    x = normalise(images)
    if x.shape[-1] != preset.resize:
        x = F.interpolate(
            x, size=(preset.resize,) * 2, mode="bilinear", antialias=True, align_corners=False
        )
    edge = (preset.resize - preset.image_size) // 2
    x = x[..., edge : edge + preset.image_size, edge : edge + preset.image_size]
    return x.expand(-1, preset.channels, -1, -1)


def augmented_view(
    images: Tensor,
    preset,
    generator: torch.Generator,
    own=slice(None),
    batch: int | None = None,
    area=None,
    size=None,
) -> Tensor:
    """Training view: random resized crop, rotation, brightness and contrast; never a flip, since
    reports name sides.

    One affine resampling for the whole batch. (B, S, S) uint8 -> (B, C, s, s). Where the images are
    the part `own` of a batch of `batch`, the others' draws are made too, so that an image gets the
    same in any number of processes. `area` (smallest, largest share of the image) and `size` (px)
    replace the preset's: iBOT's global and local crops.
    """
    smallest, largest = area or (preset.crop_scale, 1.0)
    x, n, s = normalise(images), len(images), size or preset.image_size
    # px at which the smallest crop still fills the view
    enough = round(preset.resize * (s / preset.image_size) / smallest**0.5)
    if x.shape[-1] > enough:  # the resampling below has no low-pass filter of its own
        x = F.interpolate(
            x, size=(enough, enough), mode="bilinear", antialias=True, align_corners=False
        )

    def draw(low, high):
        return torch.rand(batch or n, generator=generator)[own] * (high - low) + low

    area, log_ratio = (
        draw(smallest, largest),
        draw(-1, 1) * 0.2877,
    )  # aspect ratio 3/4 to 4/3, as in RandomResizedCrop
    width, height = (
        (area * log_ratio.exp()).sqrt().clamp(max=1),
        (area / log_ratio.exp()).sqrt().clamp(max=1),
    )
    cx, cy = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    angle = draw(-1, 1) * (preset.rotation * torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [width * cos, -height * sin, cx, width * sin, height * cos, cy], dim=1
    ).view(n, 2, 3)
    grid = F.affine_grid(theta.to(x.device), (n, 1, s, s), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, shift = (
        draw(1 - preset.jitter, 1 + preset.jitter),
        draw(-preset.jitter, preset.jitter) / 2,
    )
    x = (x - 0.5) * gain.view(n, 1, 1, 1).to(x) + 0.5 + shift.view(n, 1, 1, 1).to(x)
    return x.clamp(0, 1).expand(-1, preset.channels, -1, -1)


def tokens(
    model: VisionTransformer,
    images: Tensor,
    masked: Tensor | None = None,
    blank: Tensor | None = None,
) -> Tensor:
    """`[CLS]` and patch tokens (B, 1 + patches, width) of images of any size that is a multiple of
    the patch.

    masked (B, patches) bool: patches whose embedding is replaced by `blank` (width,), for masked
    image modelling.
    """
    x = model.patch_embed.proj(images)
    grid, x = x.shape[-2:], x.flatten(2).transpose(1, 2)
    if masked is not None:
        x = torch.where(masked[..., None], blank.to(x.dtype), x)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    return model.norm(
        model.blocks(model.pos_drop(x + resize_positions(model.pos_embed, grid, offset=0.1)))
    )


def local_and_last(model: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patches before the layers mix them, (B, P, width), normed as the last layer's are; and
    `forward_features`, (B, 1 + P, width).
    """
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    return model.norm(x[:, model.num_prefix_tokens :]), model.norm(model.blocks(x))


def resize_positions(positions: Tensor, grid, offset: float = 0.0) -> Tensor:
    """Position embeddings (1, 1 + g * g, width) of a square grid for another `grid` (rows,
    columns); bicubic, `[CLS]` kept.

    The encoder in use scales by (side + 0.1) / g, as DINO does; loading a checkpoint by the sizes
    alone (offset 0), as X-VL's release does.
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    if tuple(grid) == (old, old):
        return positions
    square = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    if offset:
        scale = tuple((side + offset) / old for side in grid)
        square = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        square = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], square.flatten(2).transpose(1, 2)], dim=1)


def last_attention(model: VisionTransformer, images: Tensor) -> Tensor:
    """Self-attention of the last layer, (B, heads, 1 + P, 1 + P): row 0 is what `[CLS]` looks at
    (paper, explanation).
    """
    x = model.forward_intermediates(
        images,
        indices=[len(model.blocks) - 2],
        intermediates_only=True,
        norm=False,
        return_prefix_tokens=True,
        output_fmt="NLC",
    )[0]
    block = model.blocks[-1]
    x = block.norm1(torch.cat([x[1], x[0]], dim=1))
    q, k, _ = block.attn.qkv(x).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-2, -1) * block.attn.scale).softmax(dim=-1)
