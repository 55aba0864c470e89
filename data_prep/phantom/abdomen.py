"""Draw one synthetic abdominal radiograph: skeleton, organs and bowel gas, with planted findings.

Body coordinates as in `phantom_image`: x from -1 (image left, the patient's right) to 1, y from -1
(diaphragm) to 1 (hips). Shapes and contrasts were chosen by eye; nothing is measured on patients.
"""

import cv2
import numpy as np

from data_prep.phantom.anatomy import (
    Canvas,
    Finding,
    smooth,
    step,
    texture,
)

# Course of the colon: caecum, ascending, hepatic flexure, transverse, splenic flexure, descending,
# sigmoid, rectum.
COLON = np.array(
    [
        [-0.56, 0.42],
        [-0.60, 0.18],
        [-0.60, -0.08],
        [-0.54, -0.28],
        [-0.32, -0.22],
        [-0.05, -0.14],
        [0.24, -0.24],
        [0.52, -0.46],
        [0.62, -0.20],
        [0.63, 0.10],
        [0.58, 0.34],
        [0.38, 0.48],
        [0.16, 0.50],
        [0.04, 0.66],
        [0.0, 0.84],
    ]
)
LEVELS = np.arange(-0.30, 0.55, 0.165)  # of fluid in small bowel
RIGHT_COLON, LEFT_COLON = (0.0, 0.38), (0.52, 0.88)  # shares of its length


class Abdomen:
    """One patient's abdomen, ready to take findings."""

    def __init__(self, canvas: Canvas, findings: list[Finding], rng: np.random.Generator):
        self.canvas, self.rng = canvas, rng
        self.by_name = {f.name: f for f in findings}
        a = self.anatomy = {  # shape of this patient's abdomen, in body coordinates
            "flank": rng.uniform(0.80, 1.02),
            "dome": rng.uniform(-0.86, -0.72),
            "dome_step": rng.uniform(0.02, 0.09),
            "centre": rng.uniform(-0.06, 0.06),
            "scoliosis": rng.normal(0, 0.025),
            "bone": rng.uniform(0.17, 0.28),
            "vertebra": rng.uniform(0.19, 0.215),  # height of one with its disc
            "pelvis": rng.uniform(0.30, 0.40),  # y of the iliac crests
            "hip": rng.uniform(0.60, 0.72),
            "fat": rng.uniform(0.0, 0.25),
            "liver": rng.uniform(-0.22, -0.08),  # y of its lower edge at the flank
            "spleen": rng.uniform(0.14, 0.18),
            "kidney": rng.uniform(0.20, 0.24),
            "psoas": rng.uniform(0.05, 0.11),
            "gas": rng.uniform(0.6, 1.2),
            "stomach": rng.uniform(0.0, 0.24),
            "erect": bool(rng.random() < 0.5),  # shows fluid levels, air under the diaphragm
        }
        c = canvas
        self.spine = np.float32(a["centre"]) + a["scoliosis"] * np.sin(2.2 * c.y)
        self.off = c.x - self.spine
        waist = a["flank"] * (0.96 + 0.05 * (c.y - 0.1) ** 2)
        self.body = step(waist - np.abs(c.x - 0.5 * np.float32(a["centre"])), 0.02)
        self.dome = {}  # height of the diaphragm over x, on each side
        for s in (-1, 1):
            top = a["dome"] + (a["dome_step"] if s == 1 else 0.0)
            self.dome[s] = top + np.float32(0.75) * (s * (c.x - a["centre"]) - 0.42) ** 2
        big = self.by_name.get("Hepatomegaly")
        edge = a["liver"] + (0.24 + 0.12 * big.extent if big else 0.0)
        flank = np.clip(-(c.x - a["centre"]) / 0.8, -0.6, 1.0)
        lower = edge - 0.30 * (1 - flank)
        inside = step(0.30 + a["centre"] - c.x, 0.04) * step(self.body - 0.5, 0.1)
        self.liver = step(lower - c.y, 0.012) * step(c.y - self.dome[-1], 0.015) * inside
        self.kidney = {-1: (a["centre"] - 0.31, -0.16 + 0.06), 1: (a["centre"] + 0.31, -0.16)}
        wander = rng.normal(0, 0.035, COLON.shape)
        self.colon = self.smooth_path(
            COLON * [a["flank"] / 0.92, 1.0] + wander + [a["centre"], 0], 120
        )

    @staticmethod
    def smooth_path(points: np.ndarray, count: int) -> np.ndarray:
        """(count, 2) points evenly along a rounded path through `points`."""
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        t = np.linspace(0, along[-1], count)
        path = np.column_stack([np.interp(t, along, points[:, k]) for k in (0, 1)])
        kernel = np.hanning(13)[1:-1] / np.hanning(13)[1:-1].sum()
        padded = np.pad(path, ((5, 5), (0, 0)), "edge")
        return np.column_stack([np.convolve(padded[:, k], kernel, "valid") for k in (0, 1)])

    def psoas(self) -> np.ndarray:
        """Two muscles from the lumbar spine outward and down, with a dark stripe of fat beside
        them.
        """
        y = self.canvas.y
        edge = 0.10 + 0.17 * np.clip((y + 0.25) / 0.7, 0, 1.2)
        away = np.abs(self.off)
        band = step(y + 0.30, 0.06) * step(0.62 - y, 0.08)
        return (
            step(edge - away, 0.012) - 0.5 * np.exp(-(((away - edge - 0.025) / 0.022) ** 2))
        ) * band

    def skeleton(self) -> np.ndarray:
        """Vertebrae with pedicles and processes, sacrum, pelvis, hips and the last ribs."""
        c, a = self.canvas, self.anatomy
        out = np.zeros(c.shape, np.float32)
        column = c.window(a["centre"] - 0.25, -1.5, a["centre"] + 0.25, a["pelvis"] + 0.35)
        y, away = c.y[column], np.abs(self.off[column])
        phase = (y + 1.0) / np.float32(a["vertebra"])
        within = np.abs(phase - np.floor(phase) - 0.5)
        body = step(0.105 + 0.02 * (2 * within) ** 2 - away, 0.008) * step(0.40 - within, 0.025)
        rim = np.exp(-(((within - 0.38) / 0.05) ** 2)) + np.exp(-(((away - 0.098) / 0.014) ** 2))
        body = body * (0.46 + 0.22 * rim) + 0.22 * step(0.09 - away, 0.01)
        out[column] = body * step(a["pelvis"] + 0.16 - y, 0.03)
        curves, ribs, pedicles = [], [], []
        for k in range(1, 7):
            y = -1.0 + (k + 0.45) * a["vertebra"]
            x = a["centre"] + a["scoliosis"] * np.sin(2.2 * y)
            if y > a["pelvis"] + 0.12:
                break
            for s in (-1, 1):
                pedicles.append((x + s * 0.058, y - 0.03))
                curves.append(
                    np.array([[x + s * 0.09, y - 0.01], [x + s * 0.19, y - 0.02 - 0.015 * s]])
                )
            curves.append(np.array([[x, y], [x + 0.004, y + 0.075]]))
        for s in (-1, 1):
            for k, reach in enumerate((0.80, 0.76, 0.52)):
                t = np.linspace(0.13, reach, 16)
                ribs.append(
                    np.column_stack([a["centre"] + s * t, -1.0 + 0.17 * k + 0.42 * t**1.4 - 0.06])
                )
        out += 0.45 * c.lines(curves, 0.030, blur=0.010)
        out += 0.36 * c.lines(ribs, 0.036, blur=0.010)
        out += 0.40 * self.tube(np.array(pedicles), 0.027)
        pelvis = c.window(-1.2, a["pelvis"] - 0.15, 1.2, 1.6)
        out[pelvis] += self.pelvis(
            c.x[pelvis] - a["centre"], c.y[pelvis] - a["pelvis"], self.grain[pelvis]
        )
        rims = []
        for s in (-1, 1):
            t = np.linspace(0, 1, 20)
            crest = 1.6 * np.clip(np.abs(0.50 * t - 0.22) - 0.1, 0, 1) ** 2
            rims += [
                np.column_stack([s * (0.24 + 0.50 * t), crest]),
                np.column_stack([s * (0.22 + 0.26 * np.sin(np.pi * t * 0.62)), 0.22 + 0.46 * t]),
                np.column_stack([s * (0.04 + 0.36 * t), 0.72 - 0.13 * np.sin(np.pi * t * 0.5)]),
            ]
            out += 0.55 * c.blob(
                a["centre"] + s * a["hip"] * 0.86, a["pelvis"] + 0.56, 0.115, 0.115, power=8
            )
            x = a["centre"] + s * (a["hip"] * 0.86 + 0.14)
            out += 0.40 * c.blob(x, a["pelvis"] + 0.67, 0.11, 0.19, 0.5 * s, power=6)
        rims = [rim + [a["centre"], a["pelvis"]] for rim in rims]
        return out + 0.32 * c.lines(rims, 0.035, blur=0.010)

    @staticmethod
    def pelvis(x: np.ndarray, y: np.ndarray, grain: np.ndarray) -> np.ndarray:
        """Sacrum and iliac wings; x from the midline, y from the crests."""
        sacrum = (
            step(0.20 - 0.26 * (y - 0.05) - np.abs(x), 0.015)
            * step(y - 0.10, 0.03)
            * step(0.52 - y, 0.04)
        )
        x, out = np.abs(x), sacrum * (0.55 + 0.12 * np.sin(y * 36))
        crest = 1.6 * np.clip(np.abs(x - 0.46) - 0.10, 0, None) ** 2
        inner = 0.22 + 0.75 * np.clip(y - 0.20, 0, None) ** 1.5
        outer = 0.74 - 0.55 * np.clip(y - 0.15, 0, None)
        wing = (
            step(y - crest, 0.012)
            * step(x - inner, 0.012)
            * step(outer - x, 0.012)
            * step(0.46 - y, 0.03)
        )
        return out + wing * (0.44 + 0.05 * grain)

    def tube(self, path: np.ndarray, radius) -> np.ndarray:
        """Bowel along `path`: a chain of merged balls of `radius` (one, or one a point), 0..1."""
        c, drawn = self.canvas, np.zeros(self.canvas.shape, np.uint8)
        points = np.int32(np.round(8 * (path @ c.pose[:, :2].T + c.pose[:, 2])))
        sizes = np.int32(np.round(8 * c.pixel * np.broadcast_to(radius, len(path))))
        for (u, v), r in zip(points.tolist(), sizes.tolist(), strict=True):
            cv2.circle(drawn, (u, v), r, 255, -1, cv2.LINE_AA, 3)
        return smooth(drawn.astype(np.float32) / 255, 0.014 * c.pixel)

    def bowel(self) -> np.ndarray:
        """Normal gas: some of the colon with its haustra, the stomach's bubble, little in the small
        bowel.
        """
        c, a, rng = self.canvas, self.anatomy, self.rng
        dilated = self.by_name.get("Bowel Obstruction")
        amount = a["gas"] * (0.35 if dilated and dilated.variant == "small" else 1.0)
        out = np.zeros(c.shape, np.float32)
        for _ in range(int(rng.integers(3, 6))):
            start = int(rng.integers(0, 100))
            part = self.colon[start : start + int(rng.integers(6, 20))]
            radius = rng.uniform(0.040, 0.068) * (1 + 0.22 * np.sin(np.arange(len(part)) * 1.5))
            np.maximum(out, rng.uniform(0.45, 1.0) * self.tube(part, radius), out=out)
        drawn = np.zeros(c.shape, np.uint8)
        for _ in range(int(rng.integers(3, 9))):
            spot = (
                c.pose[:, :2] @ [rng.normal(a["centre"], 0.20), rng.uniform(-0.05, 0.50)]
                + c.pose[:, 2]
            )
            r = rng.uniform(0.025, 0.05) * c.pixel
            axes = (int(8 * 1.6 * r), int(8 * r))
            at, turn, grey = [int(8 * v) for v in spot], rng.uniform(-45, 45), rng.uniform(75, 230)
            cv2.ellipse(drawn, at, axes, turn, 0, 360, grey, -1, cv2.LINE_AA, 3)
        np.maximum(out, smooth(drawn.astype(np.float32) / 255, 0.016 * c.pixel), out=out)
        stomach = c.blob(a["centre"] + 0.36, a["dome"] + 0.22, 0.20, 0.11, 0.5, 5)
        return amount * out + a["stomach"] * 4 * stomach * step(c.y - self.dome[1] - 0.03, 0.02)

    def attenuation(self) -> np.ndarray:
        """Attenuation without findings other than those that change the anatomy itself."""
        c, a, rng = self.canvas, self.anatomy, self.rng
        self.grain = texture(rng, c.shape, 5)
        depth = np.sqrt(np.maximum(1.05 - (self.off / 1.12) ** 2, 0.05))
        out = self.body * (0.42 + 0.60 * depth + 0.35 * a["fat"])
        for s in (-1, 1):
            out -= (
                0.62
                * step(self.dome[s] - c.y, 0.012)
                * step(s * (c.x - a["centre"]) - 0.10, 0.04)
                * self.body
            )
        waist = np.abs(c.x - 0.5 * a["centre"])
        stripe = (
            np.exp(-(((waist - 0.88 * a["flank"]) / 0.020) ** 2))
            * step(c.y + 0.30, 0.08)
            * step(0.45 - c.y, 0.08)
        )
        out -= (0.06 + 0.2 * a["fat"]) * stripe
        out += 0.14 * self.liver
        spleen = c.blob(a["centre"] + 0.62, a["dome"] + 0.30, 0.15, a["spleen"] + 0.06, -0.35, 6)
        out += 0.08 * spleen
        clear = 0.25 if "Ascites" in self.by_name else 1.0  # fluid hides the fat planes
        kidneys = 0
        for s, (x, y) in self.kidney.items():
            fat = c.blob(x, y, 0.15, a["kidney"] + 0.035, -0.22 * s, power=9)
            kidneys = kidneys + c.blob(x, y, 0.115, a["kidney"], -0.22 * s, power=8)
            kidneys = kidneys - 0.55 * fat
        out += 0.11 * clear * kidneys * self.body
        out += a["psoas"] * clear * self.psoas() * self.body
        out += a["bone"] * 1.7 * self.skeleton() * self.body
        self.gas = np.minimum(self.bowel(), 1.2)
        out -= 0.30 * self.gas * self.body
        out += 0.020 * texture(rng, c.shape, 14) * self.body
        return out
