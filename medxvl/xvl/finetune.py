"""Fine-tune Medical X-VL on a task (arXiv 2208.05140, section 5): its image tokens and text; the
rest is medxvl.training.finetune.

The small presets keep the vision encoder as it was pre-trained (setting xvl_tune_frozen), so that
an image's tokens are computed once; the published models train it along.
"""

import numpy as np
import torch
from torch import Tensor, nn

from medxvl.layers import vision_transformer
from medxvl.training import distributed, finetune

# With what else the tasks of this model take from here.
from medxvl.training.finetune import CHUNK, copied  # noqa: F401


class Pictures(finetune.Pictures):
    """`[CLS]` and patch tokens, (n, 1 + patches, width), from X-VL's vision encoder."""

    def plain(self, picked) -> Tensor:
        return vision_transformer.plain_view(self.pixels(picked), self.preset)

    def views(self, picked, generator: torch.Generator) -> Tensor:
        own, picked = distributed.own(len(picked)), np.asarray(picked)
        return vision_transformer.augmented_view(
            self.pixels(picked[own]), self.preset, generator, own, len(picked)
        )

    def encode(self, encoder, views: Tensor) -> Tensor:
        return encoder.forward_features(views)

    def fixed(self, encoder) -> bool:
        return not any(p.requires_grad for p in encoder.parameters())

    def size(self, encoder) -> int:
        return (1 + encoder.patch_embed.num_patches) * encoder.embed_dim


class Tuned(nn.Module):
    """A module whose `vision` encoder stays as it is where the preset says so: neither weights nor
    statistics move.
    """

    def hold(self, vision_encoder: nn.Module, held: bool) -> None:
        self.vision, self.held = vision_encoder, held
        if held:
            vision_encoder.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.held:
            self.vision.eval()
        return self

    def image_tokens(self, images: Tensor) -> Tensor:
        """(N, P, e): of views (N, C, s, s), or tokens that were computed before, as they are."""
        return self.vision.forward_features(images) if images.ndim == 4 else images


class FineTuning(finetune.FineTuning):
    """A task's training on studies of `dataset`; the module is a Tuned."""

    common, groups = "xvl_tune", ("both", "model", "xvl_tune")
    pictures_of = Pictures

    def encoder(self) -> nn.Module:
        return self.tuned.vision
