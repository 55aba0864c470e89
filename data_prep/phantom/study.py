"""Draw the MIMIC-like chest studies: who has which, what is planted, pictures and reports of one
study.
"""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np

from data_prep.phantom.anatomy import Finding, draw_lateral, pick
from data_prep.phantom.findings import DRAW, draw_frontal
from data_prep.phantom.report import write_report

DETECTED = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Fracture",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
)
OTHERS = {
    "Lung Opacity": 1.5,
    "Lung Lesion": 0.3,
    "Enlarged Cardiomediastinum": 0.2,
    "Pleural Other": 0.2,
}
BOTH_SIDES = {"Pleural Effusion": 0.25, "Atelectasis": 0.2, "Pneumonia": 0.2}
VARIANTS = {
    "Pneumothorax": ("apical", "apical", "apical", "basal"),
    "Fracture": ("rib", "rib", "rib", "clavicle"),
    "Lung Opacity": ("central", "peripheral"),
    "Support Devices": ("tube", "line", "pacemaker"),
}


def sample_findings(rng: np.random.Generator, disease: bool = False) -> list[Finding]:
    """Draw what one patient has: about a fifth has nothing, the others one to four findings."""
    names: list[str] = []
    if disease:
        names = ["COVID-19"] + (["Pleural Effusion"] if rng.random() < 0.1 else [])
    elif rng.random() > 0.2:
        pool = list(DETECTED) + list(OTHERS)
        weights = np.array([1.0] * len(DETECTED) + list(OTHERS.values()))
        count = int(rng.choice([1, 2, 3, 4], p=[0.32, 0.38, 0.22, 0.08]))
        names = [str(n) for n in rng.choice(pool, count, replace=False, p=weights / weights.sum())]
    if rng.random() < 0.15:
        names.append("Support Devices")
    findings = []
    for name in names:
        side = pick(rng, ("right", "left"))
        always = ("Cardiomegaly", "Edema", "Enlarged Cardiomediastinum", "COVID-19")
        if name in always or rng.random() < BOTH_SIDES.get(name, 0):
            side = "both"
        if name == "Atelectasis":
            zone = "lower"
        else:
            zone = str(rng.choice(["upper", "mid", "lower"], p=[0.3, 0.25, 0.45]))
        if name == "Support Devices":
            zone = "upper"
        variant = pick(rng, VARIANTS[name]) if name in VARIANTS else ""
        if name == "Lung Opacity" and variant == "central" and rng.random() < 0.4:
            side = "both"  # bilateral and peripheral together is the unseen disease
        extent = int(rng.choice(3, p=[0.3, 0.4, 0.3]))
        findings.append(Finding(name, side, zone, extent, variant))
    return findings


def plan_studies(studies: int, seed: int) -> list[dict]:
    """Who has which study: patients with one to three studies, splits by patient, views, lateral
    companions.
    """
    rng = np.random.default_rng([seed, 0])
    plan, patient = [], 0
    while len(plan) < studies:
        split = str(rng.choice(["train", "validate", "test"], p=[0.78, 0.08, 0.14]))
        for _ in range(min(int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05])), studies - len(plan))):
            plan.append(
                {
                    "subject_id": 10000000 + 7 * patient,
                    "study_id": 50000000 + 13 * len(plan),
                    "split": split,
                    "view": str(rng.choice(["AP", "PA"], p=[0.9, 0.1])),
                    "lateral": bool(rng.random() < 0.08),
                }
            )
        patient += 1
    return plan


def make_id(*key) -> str:
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:40]
    return "-".join(digest[k : k + 8] for k in range(0, 40, 8))


def frame(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels: portrait, square and landscape films."""
    height = int(rng.integers(200, 241))
    return height, int(height * rng.uniform(0.82, 1.12))


def save(path: Path, grey: np.ndarray) -> None:
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    try:
        path.write_bytes(data)
    except FileNotFoundError:  # trying first is cheaper than asking for the folder each time
        os.makedirs(path.parent, exist_ok=True)
        path.write_bytes(data)


def find_boxes(image_id: str, findings: list[Finding], masks: dict) -> list[dict]:
    """One row a finding: where it lies, x0, y0, x1, y1 in pixels of the image, end excluded; empty
    when it hardly shows.
    """
    rows = []
    for f in findings:
        mask = masks[f.name]
        ys, xs = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        box = [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1] if len(xs) else [""] * 4
        rows.append(
            {
                "image_id": image_id,
                "finding": f.name,
                "side": f.side,
                "zone": f.zone,
                "extent": f.extent,
                "variant": f.variant,
                **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
            }
        )
    return rows


def phrase_boxes(image: dict, findings: list[Finding], masks: dict) -> list[dict]:
    """Rows as MS-CXR has them: a box for each stretch of columns in which a finding shows, so one a
    side of a bilateral one.
    """
    rows, (height, width) = [], (image["Rows"], image["Columns"])
    for f in findings:
        columns = np.flatnonzero(masks[f.name].any(0))
        parts = np.split(columns, np.flatnonzero(np.diff(columns) > width // 20) + 1)
        for part in (p for p in parts if len(p) > 1):
            ys = np.flatnonzero(masks[f.name][:, part[0] : part[-1] + 1].any(1))
            rows.append(
                {
                    "dicom_id": image["dicom_id"],
                    "category_name": f.name,
                    "label_text": f.name.lower(),
                    "path": image["path"],
                    "x": part[0],
                    "y": ys[0],
                    "w": part[-1] + 1 - part[0],
                    "h": ys[-1] + 1 - ys[0],
                    "image_width": width,
                    "image_height": height,
                }
            )
    return rows


def _save_masks(raw: Path, image_id: str, masks: dict) -> None:
    """One 16-bit PNG, bit k = k-th name of DRAW; none when nothing was planted."""
    if masks:
        coded = sum(
            mask.astype(np.uint16) << list(DRAW).index(name) for name, mask in masks.items()
        )
        (raw / "truth" / "masks" / f"{image_id}.png").write_bytes(
            cv2.imencode(".png", coded)[1].tobytes()
        )


def draw_views(
    study: dict, rng: np.random.Generator, seed: int, suffix: str, top: int = 255
) -> dict:
    """Pictures, report and rows of one study, nothing written; `top` is the brightest grey level.

    Returns images (rows of the metadata table), pixels (one array an image), findings, masks, text
    and labels.
    """
    findings = sample_findings(rng)
    subject, number = study["subject_id"], study["study_id"]
    folder = f"files/p{str(subject)[:2]}/p{subject}/s{number}"
    done = {"images": [], "pixels": [], "findings": findings, "folder": folder}
    for view in [study["view"]] + ["LATERAL"] * study["lateral"]:
        image_id, (height, width) = make_id(seed, number, view), frame(rng)
        if view == "LATERAL":
            grey = draw_lateral(rng, height, width, top)
        else:
            grey, done["masks"] = draw_frontal(findings, rng, view, height, width, top)
        done["pixels"].append(grey)
        done["images"].append(
            {
                "dicom_id": image_id,
                "subject_id": subject,
                "study_id": number,
                "ViewPosition": view,
                "Rows": height,
                "Columns": width,
                "split": study["split"],
                "path": f"{folder}/{image_id}.{suffix}",
            }
        )
    done["text"], labels = write_report(findings, study["view"], rng)
    done["labels"] = {"subject_id": subject, "study_id": number} | labels
    return done


def draw_study(study: dict, raw: Path, seed: int) -> dict:
    """Draw, describe and write one MIMIC-like study; returns its table rows."""
    rng = np.random.default_rng([seed, 1, study["study_id"]])
    done = draw_views(study, rng, seed, "jpg")
    for row, grey in zip(done["images"], done["pixels"], strict=True):
        save(raw / "mimic_cxr" / row["path"], grey)
    (raw / "mimic_cxr" / f"{done['folder']}.txt").write_text(done["text"], encoding="utf-8")
    image_id = done["images"][0]["dicom_id"]
    _save_masks(raw, image_id, done["masks"])
    truth = find_boxes(image_id, done["findings"], done["masks"])
    return {"images": done["images"], "labels": done["labels"],
            "truth": [{"study_id": study["study_id"]} | row for row in truth],
            "boxes": phrase_boxes(done["images"][0], done["findings"], done["masks"])}  # fmt: skip


def draw_unseen(number: int, raw: Path, seed: int) -> dict:
    """Draw one image of the unseen-disease set (every second one has the disease); returns its
    table row.
    """
    rng = np.random.default_rng([seed, 2, number])
    findings = sample_findings(rng, disease=number % 2 == 0)
    grey, masks = draw_frontal(findings, rng, "AP", *frame(rng))
    name = f"phantom-{number:05d}.jpg"
    save(raw / "covid_cxr" / "images" / name, grey)
    _save_masks(raw, Path(name).stem, masks)
    truth = find_boxes(Path(name).stem, findings, masks)
    named = [f.name for f in findings if f.name != "Support Devices"]
    finding = "Pneumonia/Viral/COVID-19" if "COVID-19" in named else "/".join(named) or "No Finding"
    row = {
        "patientid": number,
        "offset": 0,
        "finding": finding,
        "view": "AP",
        "modality": "X-ray",
        "folder": "images",
        "filename": name,
        "license": "synthetic",
    }
    return {"row": row, "truth": [{"study_id": Path(name).stem} | t for t in truth]}
