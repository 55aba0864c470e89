"""The findings of the abdominal phantom, drawn into its anatomy."""

import numpy as np

from data_prep.phantom.abdomen import LEFT_COLON, LEVELS, RIGHT_COLON, Abdomen
from data_prep.phantom.anatomy import (
    SIDES,
    SIGNS,
    Canvas,
    Finding,
    expose,
    smooth,
    step,
    texture,
)


def obstruction(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """Dilated gas-filled loops: stacked central ones with folds right across (small bowel), or the
    frame (large bowel).
    """
    c, a, rng = abdomen.canvas, abdomen.anatomy, abdomen.rng
    gas, walls = np.zeros(c.shape, np.float32), np.zeros(c.shape, np.float32)
    crossed = []  # path, point of it, reach and shift to one side of a fold
    if f.variant == "large":
        first, last = 0.04, (0.55, 0.75, 0.92)[f.extent]
        path = abdomen.colon[int(first * 120) : int(last * 120) : 2]
        radius = (0.095 + 0.012 * f.extent) * (1 + 0.13 * np.sin(np.arange(len(path)) * 1.3))
        gas = abdomen.tube(path, radius)
        for k in range(3, len(path) - 3, 4):
            # Shifted, a fold stops in the middle of the loop.
            crossed.append((path, k, 0.10, 0.35 * (-1) ** (k // 4)))
    else:
        for k in range(3 + f.extent):
            y = -0.22 + 0.165 * k + rng.uniform(-0.02, 0.02)
            half, lean, arch = (
                rng.uniform(0.24, 0.38),
                rng.uniform(-0.12, 0.12),
                rng.uniform(-0.10, 0.06),
            )
            t = np.linspace(-1, 1, 14)
            x = a["centre"] + rng.uniform(-0.12, 0.12) + half * t
            path = np.column_stack([x, y + lean * half * t + arch * (1 - t**2)])
            loop = abdomen.tube(path, 0.074 + 0.008 * f.extent)
            walls = np.maximum(walls, np.exp(-(((loop - 0.5) / 0.22) ** 2)))
            gas = np.maximum(gas, loop)
            crossed += [(path, j, 0.075, 0.0) for j in range(1, 13)]
    folds = []  # lines across a loop
    for path, k, reach, shift in crossed:
        along = path[min(k + 1, len(path) - 1)] - path[k - 1]
        across = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-9)
        ends = [path[k] + (shift + end) * reach * across for end in (-1, 1)]
        folds.append(np.array(ends))
    inside = np.clip(gas, 0, 1)
    change = -0.30 * inside + 0.10 * c.lines(folds, 0.016, blur=0.005) * inside + 0.10 * walls
    if a["erect"]:
        # Fluid in the lower part of gas-filled loops, cut off flat at a few heights.
        heights = np.array([-0.12, 0.22]) if f.variant == "large" else LEVELS
        fluid = 0
        for level in heights + rng.uniform(-0.03, 0.03):
            fluid = fluid + step(c.y - level, 0.006) * step(level + 0.085 - c.y, 0.012)
        change = change + 0.34 * (np.clip(fluid, 0, 1) * inside)
    return change * abdomen.body


def free_air(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """A dark crescent between the diaphragm, drawn as a thin line, and liver or stomach."""
    c, out = abdomen.canvas, 0
    for s in SIGNS[f.side]:
        dome = abdomen.dome[s]
        below = c.y - dome
        width = (0.055, 0.085, 0.125)[f.extent] * np.clip(
            1 - ((s * (c.x - abdomen.anatomy["centre"]) - 0.44) / 0.36) ** 2, 0, 1
        )
        air = step(below - 0.012, 0.008) * step(0.012 + width - below, 0.010) * (width > 0.004)
        line = np.exp(-((below / 0.010) ** 2)) * (width > 0.004)
        out = out + (-0.62 * air + 0.22 * line) * abdomen.body
    return out


def kidney_stone(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """Dense calculus over a kidney, one branching through it, or one on the way down the ureter."""
    c, rng, s = abdomen.canvas, abdomen.rng, SIDES[f.side]
    x, y = abdomen.kidney[s]
    if f.variant == "ureteral":
        return 0.60 * c.blob(
            abdomen.anatomy["centre"] + s * rng.uniform(0.19, 0.24),
            rng.uniform(0.12, 0.34),
            0.026,
            0.036,
            0,
            6,
        )
    if f.variant == "staghorn":
        arms = [
            np.array([[x - s * 0.05, y], [x + s * dx, y + dy]])
            for dx, dy in ((0.05, -0.11), (0.07, 0.0), (0.04, 0.11))
        ]
        return 0.55 * c.lines(arms, 0.050, blur=0.008)
    radius = (0.028, 0.038, 0.050)[f.extent]
    rows = np.linspace(-0.10, 0.10, 2 + f.extent)[:-1] + rng.uniform(
        0.0, 0.03
    )  # apart, so that they can be counted
    spots = [(rng.uniform(-0.04, 0.05), float(dy)) for dy in rows]
    return sum(0.60 * c.blob(x + dx, y + dy, radius, radius * 0.85, 0, 6) for dx, dy in spots)


def constipation(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """Stool: the colon wide, filled and mottled by small bubbles."""
    low, high = {"right": RIGHT_COLON, "left": LEFT_COLON, "both": (0.0, 1.0)}[f.side]
    path = abdomen.colon[int(low * 120) : int(high * 120)][::2]
    stool = np.clip(abdomen.tube(path, 0.085 + 0.010 * f.extent), 0, 1)
    bubbles = texture(abdomen.rng, abdomen.canvas.shape, abdomen.rng.uniform(3.0, 4.5))
    return stool * (0.07 + 0.085 * np.clip(bubbles, -1.8, 1.2) + 0.20 * abdomen.gas) * abdomen.body


def ascites(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """Even grey haze denser in the flanks and pelvis (its loss of the psoas and kidney outlines is
    in the anatomy).
    """
    c = abdomen.canvas
    away = np.abs(abdomen.off)
    flanks = step(away - 0.46, 0.05) * step(c.y + 0.45, 0.10)
    return (
        0.05
        + 0.03 * f.extent
        + (0.20 + 0.07 * f.extent) * flanks * (0.3 + 0.7 * step(0.40 - c.y, 0.1))
    ) * abdomen.body


def hepatomegaly(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """The liver's lower edge is part of the anatomy; here it pushes gas aside."""
    return 0.30 * abdomen.gas * abdomen.liver + (0.05 + 0.02 * f.extent) * abdomen.liver


def gallstones(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """A cluster of faceted rings under the liver."""
    c, rng = abdomen.canvas, abdomen.rng
    x, y = (
        abdomen.anatomy["centre"] - 0.40 + rng.normal(0, 0.03),
        abdomen.anatomy["liver"] - 0.06 + rng.normal(0, 0.03),
    )
    out = 0
    for k in range(3 + 2 * f.extent):
        angle, away = 2.4 * k, 0.034 * np.sqrt(k)
        spot = (x + float(away * np.cos(angle)), y + float(away * np.sin(angle)))
        out = (
            out
            + 0.46 * c.blob(*spot, 0.028, 0.026, 0, 8)
            - 0.24 * c.blob(*spot, 0.014, 0.013, 0, 6)
        )
    return out


def tube(abdomen: Abdomen, f: Finding) -> np.ndarray:
    """Nasogastric tube, ureteral stent with its two curls, or feeding tube through the abdominal
    wall.
    """
    c, m = abdomen.canvas, abdomen.anatomy["centre"]
    t = np.linspace(0, 1, 24)
    if f.variant == "nasogastric":
        path = np.array(
            [
                [m + 0.02, -1.1],
                [m + 0.03, -0.85],
                [m + 0.10, -0.72],
                [m + 0.26, -0.60],
                [m + 0.32, -0.50],
                [m + 0.22, -0.42],
            ]
        )
        return 0.42 * c.lines([Abdomen.smooth_path(path, 60)], 0.026, blur=0.004)
    s = SIDES[f.side]
    if f.variant == "stent":
        x, y = abdomen.kidney[s]

        curls = []
        for x0, y0, turn in ((x, y - 0.02, s), (m + s * 0.03, 0.74, -s)):
            round_x, round_y = 0.05 * np.cos(turn * 6 * t), 0.05 * np.sin(turn * 6 * t)
            curls.append(np.column_stack([x0 + round_x, y0 + round_y]))
        course = np.array(
            [
                [x - s * 0.04, y],
                [m + s * 0.20, y + 0.20],
                [m + s * 0.22, 0.40],
                [m + s * 0.16, 0.62],
                [m + s * 0.05, 0.70],
            ]
        )
        return 0.50 * c.lines([curls[0], course, curls[1]], 0.020, blur=0.003)
    ring = np.column_stack([m + 0.32 + 0.06 * np.cos(6.4 * t), -0.34 + 0.06 * np.sin(6.4 * t)])
    tail = np.array([[m + 0.32, -0.34], [m + 0.48, -0.20], [m + 0.72, -0.12], [m + 0.95, -0.16]])
    return 0.46 * c.lines([ring, tail], 0.026, blur=0.004)


DRAW = {
    "Bowel Obstruction": obstruction,
    "Free Air": free_air,
    "Kidney Stone": kidney_stone,
    "Constipation": constipation,
    "Ascites": ascites,
    "Hepatomegaly": hepatomegaly,
    "Gallstones": gallstones,
    "Tube": tube,
}


def draw_abdomen(findings: list[Finding], rng: np.random.Generator, height: int, width: int):
    """Draw an abdominal film. Returns the image (height, width) uint8, {finding name: boolean mask}
    and the anatomy.
    """
    abdomen = Abdomen(Canvas(height, width, rng), findings, rng)
    if "Free Air" in abdomen.by_name:
        abdomen.anatomy["erect"] = True  # it rises under the diaphragm only then
    attenuation, masks = abdomen.attenuation(), {}
    for f in findings:
        change = DRAW[f.name](abdomen, f)
        attenuation = attenuation + change
        shown = abdomen.liver * 0.2 if f.name == "Hepatomegaly" else change
        masks[f.name] = smooth(np.abs(np.float32(shown)), 1.0) > 0.08
    return expose(attenuation, rng), masks, abdomen.anatomy
