"""Plant findings in a drawn chest: one function a finding, each giving the change of attenuation it
causes.
"""

import numpy as np

from data_prep.phantom.anatomy import (
    SIDES,
    SIGNS,
    ZONE_Y,
    Canvas,
    Chest,
    Finding,
    expose,
    smooth,
    step,
    texture,
)


def atelectasis(chest: Chest, f: Finding) -> np.ndarray:
    """Plates of collapsed lung above a raised diaphragm (the rise itself is part of the
    anatomy).
    """
    c, out = chest.canvas, 0
    for s in SIGNS[f.side]:
        y = chest.dome[s] - 0.10
        plates = []
        for k in range(2 + f.extent):
            x0, x1 = chest.centre + s * 0.16, chest.centre + s * (0.42 + 0.04 * k)
            plates.append(np.array([[x0, y - 0.02 - 0.085 * k], [x1, y + 0.02 - 0.10 * k]]))
        out = out + 0.45 * c.lines(plates, 0.050, blur=0.012)
        out = out + 0.30 * c.blob(chest.centre + s * 0.26, y + 0.06, 0.28, 0.12) * step(
            chest.diaphragm[s] - c.y, 0.04
        )
    return out


def consolidation(chest: Chest, f: Finding) -> np.ndarray:
    """A dense, fairly even block with a straight fissure on one edge."""
    c, out = chest.canvas, 0
    for s in SIGNS[f.side]:
        y, ry = ZONE_Y[f.zone], 0.20 + 0.045 * f.extent
        block = c.blob(chest.centre + s * 0.36, y, 0.30 + 0.04 * f.extent, ry, 0.15 * s, power=9)
        block = block * step((c.y - y) * (1 if f.zone == "upper" else -1) * -1 + ry * 0.8, 0.012)
        bronchi = [
            np.column_stack(
                [chest.centre + s * np.linspace(0.16, 0.46, 5), y + np.linspace(-0.02, d, 5)]
            )
            for d in (-0.09, 0.0, 0.09)
        ]
        out = (
            out
            + (0.70 * block - 0.20 * c.lines(bronchi, 0.018, blur=0.006) * block) * chest.lung[s]
        )
    return out


def pneumonia(chest: Chest, f: Finding) -> np.ndarray:
    """Many fluffy, ill-defined patches spread over a zone."""
    c, rng, out = chest.canvas, chest.rng, 0
    for s in SIGNS[f.side]:
        for _ in range(9 + 4 * f.extent):
            x = chest.centre + s * rng.uniform(0.18, 0.60)
            y = ZONE_Y[f.zone] + rng.normal(0, 0.16)
            out = out + rng.uniform(0.40, 0.65) * c.blob(
                x, y, rng.uniform(0.045, 0.08), rng.uniform(0.045, 0.08)
            )
    return np.minimum(out, 0.75) * chest.lungs


def edema(chest: Chest, f: Finding) -> np.ndarray:
    """Haze spreading from both hila, fuller vessels, short lines at the lung's edge."""
    c, rng = chest.canvas, chest.rng
    wing = sum(
        c.blob(
            chest.centre + s * 0.27,
            0.02,
            0.22 + 0.04 * f.extent,
            0.36 + 0.05 * f.extent,
            0.12 * s,
            power=3,
        )
        for s in (-1, 1)
    )
    haze = (0.20 + 0.07 * f.extent) * wing * (1 + 0.30 * texture(rng, c.shape, 7))
    kerley = []
    for s in (-1, 1):
        for y in np.arange(0.0, 0.36, 0.055):
            edge = float(chest.wall(np.float32(y))) - 0.02
            kerley.append(
                np.array(
                    [[chest.centre + s * (edge - 0.13), y + 0.01], [chest.centre + s * edge, y]]
                )
            )
    vessels, t = [], np.linspace(0, 1, 6)
    for s in (-1, 1):
        for angle in np.linspace(-1.2, 0.9, 8):
            x = chest.centre + s * (0.16 + 0.40 * t * np.cos(angle))
            vessels.append(np.column_stack([x, -0.04 + 0.5 * t * np.sin(angle)]))
    vessels = c.lines(vessels, 0.028, blur=0.010)
    return (haze + 0.12 * vessels + 0.16 * c.lines(kerley, 0.014, blur=0.005)) * chest.lungs


def effusion(chest: Chest, f: Finding) -> np.ndarray:
    """Fluid with a meniscus that climbs the chest wall and hides the costophrenic angle and
    diaphragm.
    """
    c, a, out = chest.canvas, chest.anatomy, 0
    for s in SIGNS[f.side]:
        lateral = np.clip(s * chest.off / a["chest"], 0, 1.1)
        level = chest.dome[s] + 0.10 - (0.13, 0.30, 0.52)[f.extent] - 0.20 * lateral**3
        inside = step(chest.wall(c.y) - s * chest.off) * step(
            s * chest.off - a["mediastinum"] * 0.7
        )
        out = out + 0.66 * step(c.y - level, 0.022) * inside * np.clip(chest.lung[s] + 0.15, 0, 1)
    return out


def pneumothorax(chest: Chest, f: Finding) -> np.ndarray:
    """Air without markings around a lung drawn away from apex and wall, with the pleural line
    between.
    """
    c, a = chest.canvas, chest.anatomy
    s = SIDES[f.side]
    gap = (0.20, 0.30, 0.42)[f.extent]
    if f.variant == "basal":
        rim = np.minimum(chest.wall(c.y) - s * chest.off, (chest.diaphragm[s] - c.y) * 0.8)
    else:
        rim = np.minimum(chest.wall(c.y) - s * chest.off, (c.y - a["apex"]) * 0.55 - 0.02)
    air = step(gap - rim, 0.010) * chest.lung[s]
    line = np.exp(-(((rim - gap) / 0.016) ** 2)) * chest.lung[s]
    collapsed = (1 - step(gap - rim, 0.010)) * chest.lung[s]
    return -0.30 * air + 0.34 * line + (0.14 + 0.08 * f.extent) * collapsed


def fracture(chest: Chest, f: Finding) -> np.ndarray:
    """Displaced ribs with the blood around them, or the callus of a displaced clavicle (its break
    is in the anatomy).
    """
    c, s = chest.canvas, SIDES[f.side]
    if f.variant == "clavicle":
        x, y = chest.break_at
        return 0.45 * c.blob(x, y, 0.18, 0.16, power=4)
    y0 = ZONE_Y[f.zone] + 0.02
    gaps, ends = [], []
    for k in range(-1, 2 + f.extent):
        y = y0 + k * chest.anatomy["rib_gap"] * 0.8
        x = chest.centre + s * (float(chest.wall(np.float32(y))) - 0.11)
        gaps.append(np.array([[x - 0.03, y - 0.05], [x + 0.03, y + 0.05]]))
        ends += [
            np.array([[x - s * 0.13, y - 0.04], [x + s * 0.01, y - 0.055]]),
            np.array([[x - s * 0.01, y + 0.05], [x + s * 0.12, y + 0.085]]),
        ]
    height = 0.24 + 0.06 * f.extent
    edge = float(chest.wall(np.float32(y0)))
    blood = c.blob(chest.centre + s * (edge - 0.03), y0, 0.16, height, power=5)
    return (
        0.62 * blood
        + 0.30 * c.lines(ends, 0.036, blur=0.009)
        - 0.16 * c.lines(gaps, 0.030, blur=0.010)
    )


def lung_opacity(chest: Chest, f: Finding) -> np.ndarray:
    """Patches of haze that run together, near the hilum (central) or along the wall (peripheral) of
    one zone.
    """
    c, rng, out = chest.canvas, chest.rng, 0
    for s in SIGNS[f.side]:
        for _ in range(3 + 2 * f.extent):
            y = ZONE_Y[f.zone] + rng.uniform(-0.14, 0.14) * (1 + 0.25 * f.extent)
            edge = float(chest.wall(np.float32(y)))
            x = (
                rng.uniform(0.18, 0.32)
                if f.variant == "central"
                else edge - rng.uniform(0.06, 0.18)
            )
            size = rng.uniform(0.08, 0.13), rng.uniform(0.09, 0.15)
            out = (
                out
                + rng.uniform(0.20, 0.32) * c.blob(chest.centre + s * x, y, *size) * chest.lung[s]
            )
    return np.minimum(out, 0.36 + 0.06 * f.extent) * (1 + 0.25 * texture(rng, c.shape, 9))


def lung_lesion(chest: Chest, f: Finding) -> np.ndarray:
    """A round, sharp nodule or mass."""
    c, s = chest.canvas, SIDES[f.side]
    radius = (0.05, 0.075, 0.11)[f.extent]
    x = chest.centre + s * chest.rng.uniform(0.26, 0.46)
    return 0.42 * c.blob(
        x, ZONE_Y[f.zone] + chest.rng.uniform(-0.05, 0.05), radius, radius, power=8
    )


def pleural_other(chest: Chest, f: Finding) -> np.ndarray:
    """Calcified thickening along the chest wall."""
    c, s = chest.canvas, SIDES[f.side]
    y = np.linspace(-0.25, 0.30, 14) + ZONE_Y[f.zone] * 0.5
    x = np.array([float(chest.wall(np.float32(v))) for v in y]) - 0.035
    wobble = chest.rng.normal(0, 0.010, 14)
    return 0.42 * c.lines(
        [np.column_stack([chest.centre + s * (x + wobble), y])],
        0.045 + 0.012 * f.extent,
        blur=0.006,
    )


def support_devices(chest: Chest, f: Finding) -> np.ndarray:
    """Endotracheal tube, central line or pacemaker."""
    c, m = chest.canvas, chest.centre
    if f.variant == "tube":
        return 0.45 * c.lines(
            [np.array([[m, -1.0], [m + 0.01, -0.6], [m, -0.24]])], 0.028, blur=0.004
        )
    s = SIDES[f.side]
    if f.variant == "line":
        path = np.array(
            [
                [m + s * 0.62, -0.86],
                [m + s * 0.34, -0.70],
                [m - 0.06, -0.52],
                [m - 0.085, -0.25],
                [m - 0.08, 0.02],
            ]
        )
        return 0.45 * c.lines([path], 0.018, blur=0.003)
    lead = np.array(
        [
            [m + s * 0.5, -0.52],
            [m + s * 0.2, -0.62],
            [m - 0.06, -0.40],
            [m - 0.04, 0.05],
            [m + 0.18, 0.24],
        ]
    )
    return 0.8 * c.blob(m + s * 0.5, -0.48, 0.10, 0.085, power=9) + 0.45 * c.lines(
        [lead], 0.016, blur=0.003
    )


def covid(chest: Chest, f: Finding) -> np.ndarray:
    """The unseen disease: ground-glass patches along both walls, mostly low; never drawn for a
    training study.
    """
    c, rng, out = chest.canvas, chest.rng, 0
    for s in (-1, 1):
        for _ in range(5 + 2 * f.extent):
            y = rng.uniform(-0.25, 0.36)
            x = float(chest.wall(np.float32(y))) - rng.uniform(0.06, 0.17)
            out = out + rng.uniform(0.16, 0.28) * c.blob(
                chest.centre + s * x, y, rng.uniform(0.07, 0.12), rng.uniform(0.08, 0.14)
            )
    return np.minimum(out, 0.45) * (1 + 0.2 * texture(rng, c.shape, 6)) * chest.lungs


# None: a changed shape of the anatomy: nothing to add, only a region to mark.
DRAW = {
    "Enlarged Cardiomediastinum": None,
    "Cardiomegaly": None,
    "Lung Opacity": lung_opacity,
    "Lung Lesion": lung_lesion,
    "Edema": edema,
    "Consolidation": consolidation,
    "Pneumonia": pneumonia,
    "Atelectasis": atelectasis,
    "Pneumothorax": pneumothorax,
    "Pleural Effusion": effusion,
    "Pleural Other": pleural_other,
    "Fracture": fracture,
    "Support Devices": support_devices,
    "COVID-19": covid,
}


def draw_frontal(
    findings, rng: np.random.Generator, view: str, height: int, width: int, top: int = 255
):
    """Draw a frontal radiograph. Returns the image (height, width), grey levels up to `top`, and
    {finding name: mask}.
    """
    c = Canvas(height, width, rng)
    chest = Chest(c, view, findings, rng)
    attenuation = chest.attenuation()
    masks = {}
    for f in findings:
        draw = DRAW[f.name]
        change = draw(chest, f) if draw else np.zeros(c.shape, np.float32)
        attenuation = attenuation + change
        if f.name == "Cardiomegaly":
            x, y, rx, ry = chest.heart_box
            masks[f.name] = c.blob(x, y, rx, ry, power=8) > 0.5
        elif f.name == "Enlarged Cardiomediastinum":
            wide = np.abs(c.x - chest.centre) < chest.anatomy["mediastinum"] + 0.08
            masks[f.name] = wide & (np.abs(c.y + 0.35) < 0.28)
        else:
            masks[f.name] = smooth(np.abs(change), 1.0) > 0.08
    return expose(attenuation, rng, top), masks
