"""The embedded synthetic dataset, written in the raw layouts of the real ones and read back by the same readers.

raw/mimic_cxr/      a miniature MIMIC-CXR-JPG tree with its tables and report files
raw/covid_cxr/      the unseen-disease set, laid out like the public COVID-19 collection
raw/chexpert_test/  ground truth and simulated readers for the MIMIC-like test studies, laid out like the CheXpert test labels
raw/truth/          what was planted where: boxes and masks
"""

import gzip
import hashlib
import io
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm.std import tqdm

from medxvl import prompts

from .phantom_findings import DRAW, draw_frontal
from .phantom_image import Finding, draw_lateral
from .phantom_report import write_report
from .raw import CHEXPERT_14

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
OTHERS = {"Lung Opacity": 0.9, "Lung Lesion": 0.3, "Enlarged Cardiomediastinum": 0.2, "Pleural Other": 0.2}
BOTH_SIDES = {"Pleural Effusion": 0.25, "Atelectasis": 0.2, "Pneumonia": 0.2}
VARIANTS = {
    "Pneumothorax": ("apical", "apical", "apical", "basal"), "Fracture": ("rib", "rib", "rib", "clavicle"),
    "Lung Opacity": ("central", "peripheral"), "Support Devices": ("tube", "line", "pacemaker"),
}  # fmt: skip
# Simulated readers: sensitivity and specificity before their own spread; the five that make the ground truth agree more.
BENCHMARK_READERS = {"bc4": (0.74, 0.93), "bc6": (0.84, 0.86), "bc8": (0.66, 0.96)}
TRUTH_READERS = {f"bc{k}_gt": (0.92, 0.97) for k in (1, 2, 3, 5, 7)}


def code_hash() -> str:
    """12 hex digits over the code that draws and describes: a phantom of other code is not the same phantom."""
    files = [*sorted(Path(__file__).parent.glob("phantom*.py")), Path(prompts.__file__)]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


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
    return [_sample_one(name, rng) for name in names]


def _sample_one(name: str, rng: np.random.Generator) -> Finding:
    side = str(rng.choice(["right", "left"]))
    if name in ("Cardiomegaly", "Edema", "Enlarged Cardiomediastinum", "COVID-19") or rng.random() < BOTH_SIDES.get(
        name, 0
    ):
        side = "both"
    zone = "lower" if name == "Atelectasis" else str(rng.choice(["upper", "mid", "lower"], p=[0.3, 0.25, 0.45]))
    if name == "Support Devices":
        zone = "upper"
    variant = str(rng.choice(VARIANTS[name])) if name in VARIANTS else ""
    if name == "Lung Opacity" and variant == "central" and rng.random() < 0.4:
        side = "both"  # bilateral and peripheral together is the unseen disease
    return Finding(name, side, zone, int(rng.choice(3, p=[0.3, 0.4, 0.3])), variant)


def _plan(studies: int, seed: int) -> list[dict]:
    """Who has which study: patients with one to three studies, splits by patient, views, lateral companions."""
    rng = np.random.default_rng([seed, 0])
    plan, patient = [], 0
    while len(plan) < studies:
        split = str(rng.choice(["train", "validate", "test"], p=[0.78, 0.08, 0.14]))
        for _ in range(min(int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05])), studies - len(plan))):
            plan.append({
                "subject_id": 10000000 + 7 * patient, "study_id": 50000000 + 13 * len(plan), "split": split,
                "view": str(rng.choice(["AP", "PA"], p=[0.9, 0.1])), "lateral": bool(rng.random() < 0.08),
            })  # fmt: skip
        patient += 1
    return plan


def _image_id(*key) -> str:
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:40]
    return "-".join(digest[k : k + 8] for k in range(0, 40, 8))


def _frame(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels: portrait, square and landscape films."""
    height = int(rng.integers(200, 241))
    return height, int(height * rng.uniform(0.82, 1.12))


def _save(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def _save_truth(raw: Path, image_id: str, findings: list[Finding], masks: dict) -> list[dict]:
    """Masks as one 16-bit PNG, bit k = k-th name of DRAW; returns one row with a box for each finding."""
    coded, rows, names = None, [], list(DRAW)
    for f in findings:
        mask = masks[f.name]
        coded = (0 if coded is None else coded) | (mask.astype(np.uint16) << names.index(f.name))
        ys, xs = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        box = [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1] if len(xs) else [""] * 4
        rows.append({"image_id": image_id, "finding": f.name, "side": f.side, "zone": f.zone, "extent": f.extent,
                     "variant": f.variant, **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))})  # fmt: skip
    if coded is not None:
        (raw / "truth" / "masks" / f"{image_id}.png").write_bytes(cv2.imencode(".png", coded)[1].tobytes())
    return rows


def _write_study(study: dict, raw: Path, seed: int) -> dict:
    """Draw, describe and write one MIMIC-like study; returns its table rows."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 1, study["study_id"]])
    findings = sample_findings(rng)
    subject, number = study["subject_id"], study["study_id"]
    folder = Path("files") / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{number}"
    root = raw / "mimic_cxr"
    images, truth = [], []
    for view in [study["view"]] + ["LATERAL"] * study["lateral"]:
        image_id, (height, width) = _image_id(seed, number, view), _frame(rng)
        if view == "LATERAL":
            grey = draw_lateral(rng, height, width)
        else:
            grey, masks = draw_frontal(findings, rng, view, height, width)
            truth = [{"study_id": number} | row for row in _save_truth(raw, image_id, findings, masks)]
        _save(root / folder / f"{image_id}.jpg", grey)
        images.append({"dicom_id": image_id, "subject_id": subject, "study_id": number, "ViewPosition": view,
                       "Rows": height, "Columns": width, "split": study["split"],
                       "path": f"{folder.as_posix()}/{image_id}.jpg"})  # fmt: skip
    text, labels = write_report(findings, study["view"], rng)
    (root / folder).with_suffix(".txt").write_text(text, encoding="utf-8")
    return {"images": images, "labels": {"subject_id": subject, "study_id": number} | labels, "truth": truth}


def _write_unseen(number: int, raw: Path, seed: int) -> dict:
    """Draw one image of the unseen-disease set (every second one has the disease); returns its table row."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 2, number])
    findings = sample_findings(rng, disease=number % 2 == 0)
    grey, masks = draw_frontal(findings, rng, "AP", *_frame(rng))
    name = f"phantom-{number:05d}.jpg"
    _save(raw / "covid_cxr" / "images" / name, grey)
    truth = _save_truth(raw, Path(name).stem, findings, masks)
    named = [f.name for f in findings if f.name != "Support Devices"]
    finding = "Pneumonia/Viral/COVID-19" if "COVID-19" in named else "/".join(named) or "No Finding"
    row = {"patientid": number, "offset": 0, "finding": finding, "view": "AP", "modality": "X-ray", "folder": "images",
           "filename": name, "license": "synthetic"}  # fmt: skip
    return {"row": row, "truth": [{"study_id": Path(name).stem} | t for t in truth]}


def _write_readers(raw: Path, studies: list[dict], seed: int) -> None:
    """Simulated readers of the test studies: each misses and overcalls at its own rate, finding by finding."""
    rng = np.random.default_rng([seed, 3])
    names = [f"CheXpert-v1.0/test/patient{s['labels']['subject_id']}/study{s['labels']['study_id']}" for s in studies]
    planted = np.array([[s["labels"].get(c) in (1, -1) for c in CHEXPERT_14] for s in studies], dtype=bool).reshape(
        len(studies), -1
    )
    root = raw / "chexpert_test"

    def read(sensitivity: float, specificity: float) -> np.ndarray:
        spread = rng.normal(0, 0.04, (2, len(CHEXPERT_14)))
        hit = rng.random(planted.shape) < np.clip(sensitivity + spread[0], 0.05, 0.99)
        rest = rng.random(planted.shape) < np.clip(specificity + spread[1], 0.05, 0.99)
        return np.where(planted, hit, ~rest).astype(int)

    def save(path: str, values: np.ndarray) -> None:
        table = pd.DataFrame(values, columns=CHEXPERT_14)
        table.insert(0, "Study", names)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(root / path, index=False, lineterminator="\n")

    votes = []
    for name, rates in TRUTH_READERS.items():
        votes.append(read(*rates))
        save(f"radiologists/groundtruth/{name}.csv", votes[-1])
    save("groundtruth.csv", (np.sum(votes, axis=0) >= 3).astype(int))
    for name, rates in BENCHMARK_READERS.items():
        save(f"radiologists/benchmark_radiologists/{name}.csv", read(*rates))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    path.write_bytes(
        gzip.compress(text.getvalue().encode(), mtime=0) if path.suffix == ".gz" else text.getvalue().encode()
    )


def _write_mimic_tables(raw: Path, studies: list[dict]) -> None:
    root = raw / "mimic_cxr"
    images = pd.DataFrame([row for s in studies for row in s["images"]])
    _write_table(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        images[["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"]],
    )
    _write_table(root / "mimic-cxr-2.0.0-split.csv.gz", images[["dicom_id", "study_id", "subject_id", "split"]])
    labels = pd.DataFrame([s["labels"] for s in studies]).reindex(
        columns=["subject_id", "study_id", *sorted(CHEXPERT_14)]
    )
    for labeller in ("chexpert", "negbio"):
        _write_table(root / f"mimic-cxr-2.0.0-{labeller}.csv.gz", labels)
    (root / "IMAGE_FILENAMES").write_text("".join(p + "\n" for p in images["path"]), encoding="utf-8")


def write_raw(raw: Path, studies: int, seed: int, workers: int = 1, progress: bool = True) -> Path:
    """Write the phantom's raw trees to `raw` and return it; returns at once when they are there with the same settings.

    `studies` counts the MIMIC-like studies; the unseen-disease set has an eighth as many images, at least 40. The same seed
    gives the same bytes whatever the number of workers. Raises ValueError when `raw` holds anything else.
    """
    raw, mark = Path(raw), {"studies": studies, "seed": seed, "code": code_hash()}
    found = json.loads((raw / "PHANTOM.json").read_text()) if (raw / "PHANTOM.json").is_file() else {}
    if found == mark:
        return raw
    if raw.exists() and any(raw.iterdir()) and found | {"code": mark["code"]} != mark:  # older code: ours to replace
        raise ValueError(
            f"{raw}: expected an empty folder or the phantom {mark}, found something else; choose another folder"
        )
    if studies < 20:
        raise ValueError(f"studies={studies}: expected at least 20, so that every split has some")
    partial_raw = raw.with_name(raw.name + ".partial")
    shutil.rmtree(partial_raw, ignore_errors=True)
    (partial_raw / "truth" / "masks").mkdir(parents=True)
    (partial_raw / "covid_cxr").mkdir()

    plan, unseen = _plan(studies, seed), range(max(40, studies // 8))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = (pool.map(partial(_write_study, raw=partial_raw, seed=seed), plan, chunksize=16),
                pool.map(partial(_write_unseen, raw=partial_raw, seed=seed), unseen, chunksize=16))  # fmt: skip
        bar = tqdm(total=len(plan) + len(unseen), desc="phantom", unit="study", disable=not progress)
        done, others = ([(r, bar.update())[0] for r in job] for job in jobs)
        bar.close()

    _write_mimic_tables(partial_raw, done)
    tested = [d for d, p in zip(done, plan, strict=True) if p["split"] == "test" and p["view"] == "AP"]
    _write_readers(partial_raw, tested, seed)
    _write_table(partial_raw / "covid_cxr" / "metadata.csv", pd.DataFrame([o["row"] for o in others]))
    _write_table(partial_raw / "truth" / "findings.csv", pd.DataFrame([t for r in done + others for t in r["truth"]]))
    for folder in ("mimic_cxr", "covid_cxr", "chexpert_test", "."):
        (partial_raw / folder / "PHANTOM.json").write_text(json.dumps(mark) + "\n")
    if raw.exists():
        shutil.rmtree(raw)
    os.replace(partial_raw, raw)
    return raw
