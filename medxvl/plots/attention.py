"""Figures of explanations: where a finding lies, and where its words point."""

import numpy as np

from medxvl.plots import style
from medxvl.plots.style import styled


def outline(ax, area, colour=style.SKY):
    """The edge of an area (S, S) bool, such as the pixels in boxes, on a picture that `imshow`
    drew.
    """
    padded = np.pad(np.asarray(area, float), 1)  # so that an edge along the border is drawn, too
    if padded.any():
        place = np.arange(-1, len(padded) - 1)
        ax.contour(place, place, padded, levels=[0.5], colors=[colour], linewidths=0.9)


def lay(ax, map_, size):
    """A map (g, g) over a picture of `size` px, scaled to its own maximum."""
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    ax.imshow(
        map_,
        cmap="inferno",
        alpha=0.55,
        extent=extent,
        interpolation="bilinear",
        vmin=0,
        vmax=float(map_.max()) or 1.0,
    )


@styled()
def finding_maps(images, maps, areas, titles, dataset, note=""):
    """For each of n items the image (S, S) uint8 with the edge of its boxes (S, S) bool, and the
    map (g, g) laid over it.
    """
    fig, axes = style.grid(2 * len(images), min(8, 2 * len(images)), 1.05)
    for k, (image, map_, area, title) in enumerate(zip(images, maps, areas, titles, strict=True)):
        for ax, over in ((axes[2 * k], False), (axes[2 * k + 1], True)):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            if over:
                lay(ax, map_, len(image))
            outline(ax, area)
            ax.set_axis_off()
        axes[2 * k].set_title(title, loc="left")
    style.note(fig, dataset, note)
    return fig
