"""Self-supervised pre-training of the vision encoder: iBOT (Zhou et al. 2022, arXiv 2111.07832),
with DINO's multi-crop.

A student sees all crops of an image, its large ones with patches masked; a teacher, the student's
running mean, sees the large crops whole. The student is to give the teacher's distribution over
prototypes: of another crop's `[CLS]` (DINO), and of each masked patch (masked image modelling).
Shapes: N images, G = 2 large crops, P patches, K prototypes.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medxvl.layers import vision_transformer
from medxvl.training.distributed import gather

GLOBAL = 2  # large crops of an image


@dataclass
class Views:
    """One step's input; crops of one kind lie one after the other, each of all N images."""

    large: Tensor  # (2 * N, C, s, s)
    small: Tensor  # (crops * N, C, t, t), possibly none
    masked: Tensor  # (2 * N, P) bool: patches hidden from the student

    def to(self, device):
        return Views(**{k: v.to(device) for k, v in vars(self).items()})


def views(
    images: Tensor, preset, generator: torch.Generator, own=slice(None), batch: int | None = None
) -> Views:
    """Crops and masks of images (N, S, S) uint8; `own` and `batch` as in
    `vision_transformer.augmented_view`.
    """
    n = batch or len(images)
    crop = partial(
        vision_transformer.augmented_view, images, preset, generator, own=own, batch=batch
    )
    whole = (preset.ibot_global_low, 1.0)
    large = [crop(area=whole, size=preset.image_size) for _ in range(GLOBAL)]
    area = (preset.ibot_local_low, preset.ibot_local_high)
    small = [crop(area=area, size=preset.ibot_local_size) for _ in range(preset.ibot_local_crops)]
    side = preset.image_size // preset.patch_size
    masked = [draw_masks(n, side, preset, generator)[own] for _ in range(GLOBAL)]
    return Views(torch.cat(large), torch.cat(small) if small else large[0][:0], torch.cat(masked))


def draw_masks(n: int, side: int, preset, generator: torch.Generator) -> Tensor:
    """Masks (n, side * side) bool in blobs; a part of the images has none.

    iBOT lays rectangles until enough is covered; the highest patches of smoothed noise give blobs
    of a given size at once, for all images together.
    """
    noise = torch.rand(n, 1, side + 2, side + 2, generator=generator)
    rank = F.avg_pool2d(noise, 3, 1).flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    spread = (2 * torch.rand(n, generator=generator) - 1) * preset.ibot_mask_spread
    share = (preset.ibot_mask_share + spread) * (
        torch.rand(n, generator=generator) < preset.ibot_masked
    )
    return rank < (share * side * side).round()[:, None]


class Head(nn.Module):
    """Three layers, a unit vector, and its cosine with each prototype; one for `[CLS]` and
    patches.
    """

    def __init__(self, width: int, preset):
        super().__init__()
        hidden, narrow = preset.ibot_hidden, preset.ibot_bottleneck
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, narrow),
        )
        for layer in self.mlp[
            ::2
        ]:  # 0.022 at the published width of 2048, where iBOT has 0.02; small heads need more
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(preset.ibot_prototypes, narrow))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class IBOT(nn.Module):
    """Student, teacher and centres. `forward(views, done)` gives the loss terms by name; `total` is
    what is minimised.

    Student and teacher are a vision encoder, `backbone`, with its `head` each: the layout of iBOT's
    published files.
    """

    def __init__(self, preset):
        super().__init__()
        self.preset = preset
        backbone, head = vision_transformer.build(preset), Head(preset.vision_width, preset)
        self.student = nn.ModuleDict({"backbone": backbone, "head": head})
        self.blank = nn.Parameter(torch.zeros(preset.vision_width))  # stands for a masked patch
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(preset.ibot_prototypes))
        self.register_buffer("patch_centre", torch.zeros(preset.ibot_prototypes))
        # whether a step moves the teacher; not so where gradients are still being accumulated
        self.follows = True

    def train(self, mode: bool = True):
        super().train(mode)
        for module in (
            self.teacher.modules()
        ):  # no stochastic depth in a target; batch statistics as the student has them
            module.training = mode and isinstance(module, nn.BatchNorm2d)
        return self

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Teacher = momentum * teacher + (1 - momentum) * student; called by a training step,
        before the teacher is used.
        """
        pairs = list(zip(self.teacher.parameters(), self.student.parameters(), strict=True))
        torch._foreach_lerp_([t for t, _ in pairs], [s for _, s in pairs], 1 - momentum)

    @torch.no_grad()
    def targets(self, large: Tensor, done: float) -> tuple[Tensor, Tensor]:
        """Teacher's distributions of `[CLS]` (2 * N, K) and patches (2 * N, P, K), sharpened and
        centred; moves the centres.
        """
        temperature, keep = (
            schedule(self.preset, done)["temperature"],
            self.preset.ibot_centre_momentum,
        )
        out = self.teacher.head(vision_transformer.tokens(self.teacher.backbone, large)).float()
        patches = self.patch_centre[None].expand(out.shape[1] - 1, -1)
        centres = torch.cat([self.centre[None], patches])  # (1 + P, K)
        soft = F.softmax((out - centres) / temperature, dim=-1)
        if self.training:
            for centre, rows in (
                (self.centre, out[:, 0]),
                (self.patch_centre, out[:, 1:].flatten(0, 1)),
            ):
                centre.lerp_(gather(rows.mean(dim=0, keepdim=True)).mean(dim=0), 1 - keep)
        return soft[:, 0], soft[:, 1:]

    def forward(self, v: Views, done: float) -> dict[str, Tensor]:
        """Loss terms; `done` is the share of the training that lies behind, from which the
        schedules follow.
        """
        preset, student = self.preset, self.student
        if self.training and self.follows:
            self.update(schedule(preset, done)["momentum"])
        cls_target, patch_target = self.targets(v.large, done)
        large = vision_transformer.tokens(student.backbone, v.large, v.masked, self.blank)
        # The head only where a loss reads it: every `[CLS]`, and the masked patches.
        cls = [large[:, 0]]
        if len(v.small):
            cls.append(vision_transformer.tokens(student.backbone, v.small)[:, 0])
        crops = torch.cat(cls)
        out = (
            student.head(torch.cat([crops, large[:, 1:][v.masked]])).float()
            / preset.ibot_temperature
        )
        terms = {
            "cls": other_crops(out[: len(crops)], cls_target),
            "patch": masked_patches(out[len(crops) :], patch_target[v.masked], v.masked),
        }
        return terms | {"total": terms["cls"] + terms["patch"]}


def other_crops(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of every crop (crops * N, K) to each large crop's target (2 * N, K) of the same
    image, not its own.
    """
    log_p = F.log_softmax(logits.unflatten(0, (-1, len(target) // GLOBAL)), dim=-1)  # (crops, N, K)
    target = target.unflatten(0, (GLOBAL, -1))
    loss = -torch.einsum("gnk,cnk->gc", target, log_p) / target.shape[1]
    own = torch.eye(GLOBAL, len(log_p), dtype=torch.bool, device=loss.device)
    return loss.masked_fill(own, 0).sum() / (~own).sum()


def masked_patches(logits: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Cross entropy at the masked patches (M, K): the mean over a crop's masked patches, then over
    crops (2 * N, P).
    """
    loss = -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1)
    crop = masked.nonzero()[:, 0]
    count = masked.sum(dim=1)
    return (loss / count[crop]).sum() / len(masked)


def schedule(preset, done: float) -> dict[str, float]:
    """Values at share `done` (0 to 1) of the training: learning rate (for 256 studies a step),
    decay, momentum, temperature.
    """
    p, epoch = preset, done * preset.ibot_epochs

    def cosine(start, end, share):
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, share)))

    warm = min(1.0, epoch / p.ibot_teacher_warmup) if p.ibot_teacher_warmup else 1.0
    after = max(0.0, epoch - p.ibot_warmup) / max(1e-9, p.ibot_epochs - p.ibot_warmup)
    rising = p.ibot_warmup and epoch < p.ibot_warmup
    return {
        "learning_rate": p.ibot_rate * epoch / p.ibot_warmup
        if rising
        else cosine(p.ibot_rate, p.ibot_min_rate, after),
        "weight_decay": cosine(p.ibot_decay, p.ibot_decay_end, done),
        "momentum": cosine(p.ibot_momentum, 1.0, done),
        "temperature": p.ibot_teacher_start
        + warm * (p.ibot_teacher_temperature - p.ibot_teacher_start),
    }
