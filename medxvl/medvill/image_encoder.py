"""What MedViLL sees of an image: the trunk that turns it into a grid of tokens, what of it is
frozen, and the views before it.
"""

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from medxvl.layers import resnet, vision_transformer

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and SD a channel
FREEZING = ("none", "meant", "released", "aligned")
_FROZEN = ("conv1", "bn1", "act1", "maxpool", "layer1")  # the first five of ResNet-50's children
_TRIES = 10  # draws of a crop before the whole image is taken, as in RandomResizedCrop


class Trunk(nn.Module):
    """Image (N, C, s, s) -> tokens (N, P, `features`), row by row over the grid.

    `medvill_trunk` of the preset: `resnet50` (stride 32, 2,048 features, the paper's), `patch` (one
    linear map a patch, the release's alternative), or `conv` (a small convolutional stem for 64
    px).
    """

    def __init__(self, preset):
        super().__init__()
        size, self.kind, self.freeze = (
            preset.medvill_image_size,
            preset.medvill_trunk,
            preset.medvill_freeze,
        )
        self.features = 2048 if self.kind == "resnet50" else preset.medvill_features
        if self.kind == "resnet50":
            self.net = resnet.build(preset.medvill_channels)
            self.net.to(memory_format=torch.channels_last)  # a third faster
        else:
            stem = vision_transformer.ConvStem if self.kind == "conv" else PatchEmbed
            self.net = stem(
                img_size=size,
                patch_size=preset.medvill_patch,
                in_chans=preset.medvill_channels,
                embed_dim=self.features,
            )
        self.grid = grid_side(preset)
        self.held = (
            self.freeze == "aligned"
        )  # lifted while the alignment trains it (medxvl.medvill.alignment)
        for part in self.frozen():
            part.requires_grad_(False)

    def frozen(self) -> list[nn.Module]:
        """Parts whose weights stay as they are."""
        if self.freeze == "released":
            return [self.net]
        if self.freeze == "meant" and self.kind == "resnet50":
            return [getattr(self.net, name) for name in _FROZEN]
        return []

    def train(self, mode: bool = True):
        super().train(mode)
        if self.held:
            self.net.eval()
        if (
            self.freeze == "meant"
        ):  # frozen means the statistics too; in the release those of the whole trunk go on moving
            for part in self.frozen():
                part.eval()
        return self

    def hold(self, held: bool) -> None:
        """Neither weights nor statistics move while it is held."""
        if held is not self.held:
            self.held = held
            self.train(self.training)

    @property
    def fixed(self) -> bool:
        """Whether an image always gives the same tokens, so that they can be computed once."""
        return self.held or (self.freeze == "released" and not self.training)

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and self.freeze != "released" and not self.held
        ):
            if self.kind != "resnet50":
                return self.net(images)
            tokens = self.net.forward_features(images.contiguous(memory_format=torch.channels_last))
        return tokens.flatten(2).transpose(1, 2)


def grid_side(preset) -> int:
    """Tokens along an edge of the image: 16 at 512 px."""
    return preset.medvill_image_size // (
        32 if preset.medvill_trunk == "resnet50" else preset.medvill_patch
    )


def normalise(images: Tensor, channels: int) -> Tensor:
    """Grey levels (N, 1, s, s) in [0, 1] -> (N, channels, s, s); three channels get ImageNet's mean
    and SD.
    """
    if channels != 3:
        return images.expand(-1, channels, -1, -1)
    mean, sd = (torch.tensor(x, device=images.device).view(1, 3, 1, 1) for x in IMAGENET)
    return (images - mean) / sd


def plain_view(images: Tensor, preset) -> Tensor:
    """Evaluation view, the whole image. (N, S, S) uint8 -> (N, C, s, s).

    The release draws a random crop here too, so that its validation losses differ from run to run.
    """
    x, size = vision_transformer.normalise(images), preset.medvill_image_size
    if x.shape[-1] != size:
        x = F.interpolate(
            x, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
    return normalise(x, preset.medvill_channels)


def training_view(images: Tensor, preset, boxes: Tensor) -> Tensor:
    """The `boxes` (N, 2, 3) of `crop_boxes`, resized. (N, S, S) uint8 -> (N, C, s, s)."""
    x, size = vision_transformer.normalise(images), preset.medvill_image_size
    if x.shape[-1] > 1.5 * size:  # the resampling below has no low-pass filter of its own
        x = F.interpolate(
            x, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
    grid = F.affine_grid(boxes.to(x), (len(x), 1, size, size), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return normalise(x, preset.medvill_channels)


def crop_boxes(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """RandomResizedCrop's boxes as affine maps (n, 2, 3): area in [low, high] of the image, aspect
    3/4 to 4/3.

    A box that does not fit is drawn again, ten times at most; after that the whole image is taken.
    An area above 1 never fits.
    """
    area = torch.rand(n, _TRIES, generator=generator) * (high - low) + low
    ratio = ((torch.rand(n, _TRIES, generator=generator) * 2 - 1) * 0.28768207).exp()  # ln 4/3
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.float().argmax(dim=1, keepdim=True)
    some = fits.any(dim=1)
    width, height = (
        torch.where(some, x.gather(1, first)[:, 0], torch.ones(())) for x in (width, height)
    )
    x, y = ((torch.rand(n, generator=generator) * 2 - 1) * (1 - edge) for edge in (width, height))
    zero = torch.zeros(n)
    return torch.stack([width, zero, x, zero, height, y], dim=1).view(n, 2, 3)
