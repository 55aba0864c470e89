"""Draw one synthetic chest radiograph from sampled anatomy, pose, exposure and planted findings.

Body coordinates: x from -1 (image left, the patient's right) to 1, y from -1 (neck) to 1 (abdomen).
Every structure adds to or takes from an attenuation map; exposure then turns attenuation into grey
levels, bone and fluid bright, air dark. Nothing here is measured on patients: shapes and contrasts
were chosen by eye so that each finding is visible at 64 px.
"""

from dataclasses import dataclass

import cv2
import numpy as np

SIDES = {"right": -1, "left": 1}  # the patient's right lung is on the left of the image
SIGNS = {"right": (-1,), "left": (1,), "both": (-1, 1)}  # the same, of one side or both
ZONE_Y = {"upper": -0.42, "mid": -0.08, "lower": 0.24}


def pick(rng: np.random.Generator, items):
    """One of `items`: the same draw as rng.choice, without turning them into an array."""
    return items[int(rng.integers(len(items)))]


@dataclass(frozen=True)
class Finding:
    """One planted finding. `side` right, left or both; `zone` upper, mid or lower; `extent` 0 small
    to 2 large.
    """

    name: str
    side: str = "both"
    zone: str = "lower"
    extent: int = 1
    variant: str = ""


class Canvas:
    """Pixel grid in body coordinates, and the smooth shapes drawn on it.

    `pose`: 2 x 3 matrix from body coordinates to pixels: rotation, zoom, shift and stretch of one
    exposure.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator):
        self.shape = (height, width)
        angle, zoom = np.deg2rad(rng.normal(0, 3.5)), rng.uniform(0.84, 1.12)
        stretch = rng.uniform(0.92, 1.08)
        cos, sin = np.cos(angle), np.sin(angle)
        half = 0.5 * max(height, width) * zoom
        turn = np.array([[cos * half * stretch, -sin * half], [sin * half * stretch, cos * half]])
        shift = [width * (0.5 + rng.normal(0, 0.035)), height * (0.5 + rng.normal(0, 0.035))]
        pose = np.column_stack([turn, shift]).astype(np.float32)
        self.pose = pose
        inverse = np.linalg.inv(pose[:, :2]).astype(np.float32)
        du = np.arange(width, dtype=np.float32) - pose[0, 2]
        dv = np.arange(height, dtype=np.float32)[:, None] - pose[1, 2]
        self.x = inverse[0, 0] * du + inverse[0, 1] * dv
        self.y = inverse[1, 0] * du + inverse[1, 1] * dv
        self.pixel = float(np.sqrt(abs(np.linalg.det(pose[:, :2]))))  # pixels a body unit

    def lines(self, curves, thickness, blur: float = 0.0) -> np.ndarray:
        """Poly-lines (each (n, 2) in body coordinates) of `thickness` body units, 0..1."""
        drawn = np.zeros(self.shape, np.uint8)
        points = np.int32(
            np.round(8 * (np.concatenate(curves) @ self.pose[:, :2].T + self.pose[:, 2]))
        )
        ends = np.cumsum([len(c) for c in curves])[:-1]
        width = max(1, round(thickness * self.pixel))
        cv2.polylines(drawn, np.split(points, ends), False, 255, width, cv2.LINE_AA, 3)
        margin = width + 6 + 5 * blur * self.pixel  # beyond the reach of the blur
        part = self._part(points.min(0) / 8 - margin, points.max(0) / 8 + margin)
        image = np.zeros(self.shape, np.float32)
        line = drawn[part].astype(np.float32)
        line /= 255
        image[part] = smooth(line, blur * self.pixel) if blur and line.size else line
        return image

    def window(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """The part of the grid that holds a rectangle of body coordinates."""
        pixels = (
            np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]) @ self.pose[:, :2].T
            + self.pose[:, 2]
        )
        return self._part(pixels.min(0), pixels.max(0))

    def _part(self, low, high) -> tuple[slice, slice]:
        """The part of the grid between two corners (u, v in pixels): only this much needs
        computing.
        """
        u0, v0 = (max(0, int(p)) for p in low)
        u1, v1 = (max(0, int(p) + 2) for p in high)
        return slice(v0, v1), slice(u0, u1)

    def blob(
        self, x: float, y: float, rx: float, ry: float, angle: float = 0.0, power: float = 2.0
    ) -> np.ndarray:
        """Soft ellipse; `power` above 2 makes it flatter inside and steeper at its rim."""
        reach = 43 ** (1 / power) * max(rx, ry)  # further out it is below 1e-13
        part = self.window(x - reach, y - reach, x + reach, y + reach)
        a, b = self.x[part] - x, self.y[part] - y
        if angle:
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            a, b = cos * a + sin * b, cos * b - sin * a
        a /= np.float32(rx)
        b /= np.float32(ry)
        a *= a
        b *= b
        a += b
        if power != 2:
            a **= np.float32(power / 2)
        a *= -0.7
        image = np.zeros(self.shape, a.dtype)
        image[part] = np.exp(a, out=a)
        return image


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3), borderType=cv2.BORDER_REPLICATE)


def step(distance: np.ndarray, width: float = 0.015) -> np.ndarray:
    """0 to 1 across an edge `width` body units wide."""
    out = distance / np.float32(-width)
    np.minimum(out, 30, out=out)
    np.exp(out, out=out)
    out += 1
    return np.divide(1, out, out=out)


def texture(rng: np.random.Generator, shape, grain: float) -> np.ndarray:
    """Smooth noise, mean 0, standard deviation 1, `grain` pixels coarse."""
    small = (max(4, int(shape[0] / grain)), max(4, int(shape[1] / grain)))
    noise = cv2.resize(
        rng.standard_normal(small).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    return (noise - noise.mean()) / (noise.std() + 1e-6)


class Chest:
    """The frontal chest: lungs, heart and bones of one patient, ready to take findings."""

    def __init__(
        self, canvas: Canvas, view: str, findings: list[Finding], rng: np.random.Generator
    ):
        self.canvas, self.rng = canvas, rng
        self.by_name = {f.name: f for f in findings}
        ap = view == "AP"  # enlarges the heart and catches less inspiration
        a = self.anatomy = {  # shape of this patient's chest, in body coordinates
            "shoulder": rng.uniform(0.86, 1.08),
            "chest": rng.uniform(0.56, 0.78),  # half-width of the rib cage at its base
            "apex": rng.uniform(-0.84, -0.66),
            "dome": rng.uniform(0.30, 0.52) - 0.06 * ap,  # height of the right diaphragm
            "dome_step": rng.uniform(0.0, 0.09),  # the left diaphragm lies lower
            "centre": rng.uniform(-0.07, 0.07),  # patient turned to a side
            "mediastinum": rng.uniform(0.11, 0.17),
            "ctr": rng.uniform(0.38, 0.48) + 0.02 * ap,  # cardiothoracic ratio
            "heart_tilt": rng.uniform(0.35, 0.75),
            "heart_share": rng.uniform(0.62, 0.74),  # of the heart's width left of the midline
            "ribs": rng.uniform(0.05, 0.13),  # contrast of the ribs
            "rib_gap": rng.uniform(0.145, 0.185),
            "clavicle": rng.uniform(-0.74, -0.60) - 0.05 * ap,
            "vessels": rng.uniform(0.05, 0.12),
            "fat": rng.uniform(0.0, 0.2),  # soft tissue over the lungs
            "breast": rng.uniform(0.0, 0.16) * (rng.random() < 0.5),
            "bubble": rng.random() < 0.5,
        }
        shift = 0.0
        self.dome = {-1: a["dome"], 1: a["dome"] + a["dome_step"]}
        if (
            f := self.by_name.get("Atelectasis")
        ) and f.side != "both":  # volume loss lifts the diaphragm, pulls the heart
            self.dome[SIDES[f.side]] -= 0.09 + 0.07 * f.extent
            shift = 0.03 * (1 + f.extent) * SIDES[f.side]
        self.centre = np.float32(a["centre"] + shift)
        # Images that several structures need, computed once.
        self.off = canvas.x - self.centre  # distance from the midline, to the left of the patient
        self.wall_image = self.wall(canvas.y)
        self.diaphragm = {}  # its height over x, on each side
        for s in (-1, 1):
            away = (s * self.off - 0.46 * a["chest"]) / 1.15
            self.diaphragm[s] = self.dome[s] + np.float32(0.9) * away**2 / a["chest"]
        big = self.by_name.get("Cardiomegaly")
        width = (a["ctr"] + (0.13 + 0.05 * big.extent if big else 0.0)) * a["chest"] * 2
        x = self.centre + width * (a["heart_share"] - 0.5)
        y = 0.5 * (self.dome[-1] + self.dome[1]) - 0.24 * width
        self.heart_box = (x, y, 0.52 * width, 0.44 * width)
        tilt = a["heart_tilt"]
        self.heart_image = canvas.blob(x, y, 0.56 * width, 0.42 * width, tilt, power=7)
        free = 1 - 0.85 * self.heart_image
        self.lung = {s: self._lung(s) * free for s in (-1, 1)}
        self.lungs = self.lung[-1] + self.lung[1]

    def wall(self, y) -> np.ndarray:
        """Half-width of the rib cage at height y."""
        a = self.anatomy
        t = np.minimum(np.maximum((y - a["apex"]) / (0.75 - a["apex"]), 0), 1)
        t = np.minimum(np.maximum(1 - (1 - t) ** 2.6, 0), 1)
        return np.float32(a["chest"]) * t ** np.float32(0.55)

    def _lung(self, side: int) -> np.ndarray:
        c, a, out = self.canvas, self.anatomy, side * self.off
        wide = self.by_name.get("Enlarged Cardiomediastinum")
        inside = a["mediastinum"] * 0.8
        if wide:
            inside = inside + (0.05 + 0.04 * wide.extent) * np.exp(-(((c.y + 0.35) / 0.3) ** 2))
        inside = out - inside
        if side == 1:  # aortic knob
            inside -= 0.05 * np.exp(-(((c.y + 0.38) / 0.10) ** 2))
        lung = step(self.wall_image - out)
        lung *= step(inside)
        lung *= step(self.diaphragm[side] - c.y)
        return lung

    def ribs(self) -> np.ndarray:
        """Posterior ribs as curves from the spine outward."""
        a, t, k = self.anatomy, np.linspace(0.05, 1, 24), np.arange(9)[:, None]
        rise, fall = (
            0.16 * np.sin(np.pi * np.minimum(t * 0.9, 0.5)),
            0.30 * np.clip(t - 0.45, 0, 1) ** 2,
        )
        height = a["apex"] + 0.06 + k * a["rib_gap"]
        reach = np.array(
            [float(self.wall(np.float32(y + 0.12))) * 1.01 for y in height[:, 0].tolist()]
        )[:, None]
        y = height - rise + fall * (1 + k / 9) + 0.08
        curves = [np.stack([self.centre + side * t * reach, y], axis=-1) for side in (-1, 1)]
        return self.canvas.lines([*curves[0], *curves[1]], 0.032, blur=0.009)

    def attenuation(self) -> np.ndarray:
        """Attenuation without findings other than those that change the anatomy itself."""
        c, a = self.canvas, self.anatomy
        torso = np.maximum(c.y + 1.05, 0)
        torso **= 0.8
        torso *= 1.6
        torso += 0.30
        np.clip(torso, 0.30, 1.0, out=torso)
        torso *= a["shoulder"]
        torso *= 1 - 0.06 * c.y
        body = step(torso - np.abs(c.x - 0.5 * self.centre), 0.02)
        depth = np.sqrt(np.maximum(1.05 - (c.x / 1.15) ** 2, 0.05))
        out = body * (0.55 + 0.50 * depth + a["fat"] * 0.6)
        out -= self.lungs * (0.70 - a["fat"] * 0.25)
        below = sum(step(c.y - self.diaphragm[s]) * step(s * self.off, 0.03) for s in (-1, 1))
        out += 0.16 * below * body
        if a["bubble"]:
            out -= 0.20 * c.blob(self.centre + 0.30, self.dome[1] + 0.14, 0.13, 0.07, power=4)
        out += 0.10 * self.heart_image * body
        out += 0.11 * np.exp(-((self.off / 0.085) ** 2)) * (1 + 0.22 * np.sin(c.y * 42)) * body
        out -= 0.16 * np.exp(-((self.off / 0.045) ** 2)) * step(-0.30 - c.y, 0.05)  # trachea
        for s in (-1, 1):
            if a["breast"]:
                out += a["breast"] * c.blob(self.centre + s * 0.42, 0.28, 0.30, 0.24, power=4)
            out += a["vessels"] * 1.1 * c.blob(self.centre + s * 0.19, -0.06, 0.09, 0.13)
        out += a["ribs"] * self.ribs() * body
        out += self.clavicles() * (0.10 + a["ribs"] * 0.7)
        out += a["vessels"] * self.vessels() * (0.35 + 0.65 * self.lungs)
        return out

    def clavicles(self) -> np.ndarray:
        a, curves = self.anatomy, []
        broken = self.by_name.get("Fracture")
        for side in (-1, 1):
            start, end = (
                np.array([0.09, a["clavicle"] + 0.07]),
                np.array([0.70, a["clavicle"] - 0.06]),
            )
            t = np.linspace(0, 1, 12)[:, None]
            curve = (
                start + t * (end - start) + np.column_stack([0 * t, 0.03 * np.sin(2 * np.pi * t)])
            )
            curve = curve * [side, 1] + [self.centre, 0]
            if broken and broken.variant == "clavicle" and SIDES[broken.side] == side:
                inner, outer = curve[:6].copy(), curve[6:].copy()
                inner[:, 1] -= np.linspace(0, 0.11 + 0.04 * broken.extent, 6)
                outer[:, 1] += np.linspace(0.13 + 0.03 * broken.extent, 0.05, 6)
                outer[:, 0] -= side * 0.05
                curves += [inner, outer]
                self.break_at = (curve[6, 0], curve[6, 1])
            else:
                curves.append(curve)
        return self.canvas.lines(curves, 0.05, blur=0.010)

    def vessels(self) -> np.ndarray:
        """Branching lung markings, denser near the hila."""
        rng, curves, t = self.rng, [], np.linspace(0, 1, 8)
        for side in (-1, 1):
            angle = rng.uniform(-1.25, 1.25, 9)[:, None]
            # Each vessel draws its length, then its bend.
            length, bend = np.array(
                [(rng.uniform(0.25, 0.6), rng.normal(0, 0.08)) for _ in range(9)]
            ).T[..., None]
            x = 0.17 + t * length * np.cos(angle)
            y = -0.05 + t * length * np.sin(angle) * 1.25 + bend * t**2
            curves += [*np.stack([self.centre + side * x, y], axis=-1)]
        return self.canvas.lines(curves, 0.014, blur=0.006)


def expose(attenuation: np.ndarray, rng: np.random.Generator, top: int = 255) -> np.ndarray:
    """Attenuation to grey levels up to `top` (uint8, above 255 uint16).

    Exposure, contrast curve, scatter, noise, collimation and a burned-in marker.
    """
    h, w = attenuation.shape
    v, u = ((np.arange(n) * (2 / (n - 1)) - 1).astype(np.float32) for n in (h, w))  # -1 to 1
    v = v[:, None]
    tilt = rng.normal(0, 0.07) * u + rng.normal(0, 0.07) * v
    scatter = smooth(attenuation, 0.08 * w)
    scatter *= rng.uniform(0.0, 0.25)
    image = attenuation * rng.uniform(0.88, 1.12)
    image += tilt
    image -= scatter
    low, high = np.percentile(image[::4, ::4], (2, 99))
    image = image - low  # in float64 from here on
    image /= high - low + 1e-6
    np.maximum(image, 0, out=image)
    image **= rng.uniform(0.8, 1.35)
    image *= rng.uniform(0.78, 1.02)
    image += rng.uniform(-0.03, 0.12)
    noise = rng.standard_normal((h, w)).astype(np.float32)
    noise *= rng.uniform(0.008, 0.03)
    image += noise
    image = smooth(image, rng.uniform(0.3, 1.0))
    if rng.random() < 0.25:  # collimator blades
        edge = rng.uniform(0.0, 0.07, 4)
        image[: int(edge[0] * h)] = image[h - int(edge[1] * h) :] = 0.02
        image[:, : int(edge[2] * w)] = image[:, w - int(edge[3] * w) :] = 0.02
    np.clip(image, 0, 1, out=image)
    image *= top
    grey = image.astype(np.uint8 if top == 255 else np.uint16)
    if rng.random() < 0.7:  # the side marker lies on the patient's left
        spot = (int(w * rng.uniform(0.86, 0.92)), int(h * rng.uniform(0.08, 0.2)))
        bright = int(rng.integers(200, 255))
        letter = grey if top == 255 else np.zeros((h, w), np.uint8)
        cv2.putText(letter, "L", spot, cv2.FONT_HERSHEY_SIMPLEX, h / 420, bright, 1, cv2.LINE_AA)
        if top > 255:
            np.maximum(grey, letter.astype(np.uint16) * (top // 255), out=grey)
    return grey


def draw_lateral(rng: np.random.Generator, height: int, width: int, top: int = 255) -> np.ndarray:
    """A plain side view: such images exist in every collection and have to be left out on
    purpose.
    """
    c = Canvas(height, width, rng)
    body = step(0.78 - np.abs(c.x), 0.03) * step(c.y + 1.0, 0.05)
    lung = (
        step(0.62 - np.abs(c.x + 0.03))
        * step(c.y + 0.72 + 0.3 * c.x**2, 0.04)
        * step(0.40 + 0.25 * c.x - c.y, 0.03)
    )
    out = body * 1.1 - 0.62 * lung + 0.3 * c.blob(-0.28, 0.16, 0.26, 0.30, 0.5, 6) * body
    out += (
        0.30
        * np.exp(-(((c.x - 0.46 - 0.12 * c.y**2) / 0.09) ** 2))
        * (1 + 0.3 * np.sin(c.y * 40))
        * body
    )
    ribs = [
        np.column_stack([np.linspace(0.5, -0.5, 12), y0 + np.linspace(0, 0.35, 12)])
        for y0 in np.arange(-0.7, 0.4, 0.17)
    ]
    return expose(out + 0.07 * c.lines(ribs, 0.03, blur=0.01), rng, top)
