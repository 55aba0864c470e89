"""Figures of the vision encoder: the crops of self-supervised pre-training, and what heads look
at.
"""

import numpy as np

from medxvl.plots import style
from medxvl.plots.style import styled


@styled()
def crops(views, preset, dataset):
    """The crops of two images (`ibot.Views`), a row an image: large ones with their hidden patches
    grey, then small ones.
    """
    count, side = len(views.large) // 2, preset.image_size // preset.patch_size
    small = len(views.small) // count
    shown = []
    for image in range(count):
        for k in range(2):
            picture, hidden = (
                views.large[image + k * count, 0].numpy().copy(),
                views.masked[image + k * count].view(side, side),
            )
            blocks = np.kron(hidden.numpy(), np.ones((preset.patch_size, preset.patch_size), bool))
            picture[blocks] = 0.5
            shown.append((f"large {k + 1}, {int(hidden.sum())} hidden", picture))
        shown += [
            (f"small {k + 1}", views.small[image + k * count, 0].numpy())
            for k in range(min(small, 4))
        ]
    fig, axes = style.grid(len(shown), len(shown) // count, 1.3)
    for ax, (title, picture) in zip(axes, shown, strict=False):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title)
        ax.set_axis_off()
    style.note(fig, dataset)
    return fig


@styled()
def head_maps(images, maps, dataset):
    """Attention of `[CLS]` to the patches: `maps` (N, heads, P) beside images (N, S, S) uint8, each
    to its own maximum.
    """
    n, heads, places = maps.shape
    side, size = round(places**0.5), images.shape[-1]
    fig, axes = style.grid(n * (heads + 1), heads + 1, 1.35)
    axes = iter(axes)
    for image, of_image in zip(images, maps, strict=True):
        for head in range(-1, heads):
            ax = next(axes)
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            if head >= 0:
                grid = of_image[head].view(side, side).numpy()
                box = (-0.5, size - 0.5, size - 0.5, -0.5)
                ax.imshow(
                    grid,
                    cmap="inferno",
                    alpha=0.55,
                    extent=box,
                    interpolation="bilinear",
                    vmin=0,
                    vmax=float(grid.max()),
                )
            ax.set_title("image" if head < 0 else f"head {head + 1}")
            ax.set_axis_off()
    style.note(fig, dataset, "attention of [CLS] in the last layer")
    return fig
