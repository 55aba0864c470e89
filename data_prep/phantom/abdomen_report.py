"""Abdominal studies: what is planted, the report that says so, and the table `abdomen.csv` of
images and reports.
"""

import csv
from pathlib import Path

import numpy as np

from data_prep.phantom.abdomen_findings import DRAW, draw_abdomen
from data_prep.phantom.anatomy import Finding, pick
from data_prep.phantom.report import FORBIDDEN, GRADE, SIDE, STATED, UNCERTAIN, prose
from data_prep.phantom.study import find_boxes, make_id, save

PROMPTS = Path(__file__).with_name(
    "abdomen_prompts.csv"
)  # what zero-shot scoring asks for; no report says it
with open(PROMPTS, newline="", encoding="utf-8") as _stream:
    FORBIDDEN = FORBIDDEN | {row["sentence"].strip(" .") for row in csv.DictReader(_stream)}
VARIANTS = {
    "Bowel Obstruction": ("small", "small", "large"),
    "Kidney Stone": ("renal", "renal", "renal", "ureteral", "staghorn"),
    "Tube": ("nasogastric", "stent", "feeding"),
}
# Noun phrases of each finding; {s} side, {g} grade, {v} variant word.
POSITIVE = {
    "Bowel Obstruction": (
        "degree",
        (
            "{g} {v} bowel obstruction",
            "{v} bowel obstruction",
            "dilated loops of {v} bowel",
            "{g} distension of {v} bowel loops",
            "dilated gas-filled {v} bowel loops suspicious for obstruction",
            "obstruction of the {v} bowel",
        ),
    ),
    "Free Air": (
        "size",
        (
            "free air",
            "{g} pneumoperitoneum",
            "free intraperitoneal air",
            "free air under the {s} hemidiaphragm",
            "{g} amount of free air below the {s} hemidiaphragm",
            "pneumoperitoneum with {s} subdiaphragmatic lucency",
        ),
    ),
    "Kidney Stone": (
        "size",
        (
            "{g} {s} {v} calculus",
            "{s} {v} stone",
            "{s} nephrolithiasis",
            "calcification projecting over the {s} {o}",
            "radiopaque {s} urinary calculus",
            "{s} {v} calculus",
            "urinary stone on the {s}",
        ),
    ),
    "Constipation": (
        "degree",
        (
            "{g} stool burden in the {z}",
            "fecal loading of the {z}",
            "{g} constipation",
            "retained stool in the {z}",
            "constipation with stool throughout the {z}",
            "{g} fecal loading",
        ),
    ),
    "Ascites": (
        "size",
        (
            "{g} ascites",
            "ascites with diffuse haziness",
            "{g} amount of ascites",
            "intraperitoneal fluid obscuring the psoas margins",
            "diffuse increased density of the abdomen from ascites",
        ),
    ),
    "Hepatomegaly": (
        "degree",
        (
            "{g} hepatomegaly",
            "hepatomegaly",
            "{g} enlargement of the liver",
            "enlarged liver shadow",
            "low liver edge of hepatomegaly",
        ),
    ),
    "Gallstones": (
        "size",
        (
            "gallstones",
            "calcified gallstones",
            "cholelithiasis",
            "cluster of calcified stones in the right upper quadrant",
            "radiopaque gallstones",
        ),
    ),
    "Tube": ("size", ("{v}",)),
}
WORD = {
    "renal": ("renal",),
    "ureteral": ("ureteral", "distal ureteral"),
    "staghorn": ("staghorn",),
    "small": ("small",),
    "large": ("large", "colonic"),
    "nasogastric": ("nasogastric tube", "enteric tube in the stomach"),
    "stent": ("{s} ureteral stent", "{s} double j stent"),
    "feeding": ("gastrostomy tube", "percutaneous feeding tube"),
}
COLON = {"right": "right colon", "left": "left colon", "both": "colon"}
NAMES = {
    "Bowel Obstruction": ("bowel obstruction", "dilated bowel", "obstruction"),
    "Free Air": ("free air", "pneumoperitoneum"),
    "Kidney Stone": ("urinary calculus", "nephrolithiasis", "kidney stone"),
    "Constipation": ("constipation", "fecal loading"),
    "Ascites": ("ascites",),
    "Hepatomegaly": ("hepatomegaly", "enlargement of the liver"),
    "Gallstones": ("gallstones", "cholelithiasis"),
}
NEGATIVE = (
    "no evidence of {}",
    "there is no {}",
    "no {} is seen",
    "no sign of {}",
    "no radiographic evidence of {}",
)
NORMAL = (
    "normal bowel gas pattern", "nonobstructive bowel gas pattern", "unremarkable abdominal "
                                                                    "radiograph",
    "no acute abdominal abnormality", "normal abdominal film",
)  # fmt: skip
REMARKS = (
    "no significant change compared to ___",
    "degenerative changes of the lumbar spine",
    "the lung bases are clear",
    "the osseous structures are intact",
    "phleboliths are likely in the pelvis",
    "findings were discussed with dr. ___",
    "clinical correlation is recommended",
    "the patient is rotated",
)
REASONS = (
    "abdominal pain", "vomiting", "abdominal distension", "flank pain", "no bowel movement "
                                                                        "for three days",
    "postoperative day ___", "tube placement",
)  # fmt: skip


def sample_disease(rng: np.random.Generator) -> list[Finding]:
    """Draw what one patient has: about a quarter has nothing, the others one to three findings."""
    if rng.random() < 0.25:
        return []
    count = int(rng.choice([1, 2, 3], p=[0.50, 0.36, 0.14]))
    weights = np.array([1.0] * 7 + [0.7])
    findings = []
    for name in rng.choice(list(DRAW), count, replace=False, p=weights / weights.sum()):
        name = str(name)
        side = pick(rng, ("right", "left"))
        variant = pick(rng, VARIANTS[name]) if name in VARIANTS else ""
        if name in ("Bowel Obstruction", "Ascites") or (
            name in ("Free Air", "Constipation") and rng.random() < 0.5
        ):
            side = "both"
        if name in ("Hepatomegaly", "Gallstones"):
            side = "right"
        if variant in ("nasogastric", "feeding"):
            side = "left"
        zone = "upper" if name in ("Free Air", "Hepatomegaly", "Gallstones") else "mid"
        extent = int(rng.choice(3, p=[0.3, 0.4, 0.3]))
        findings.append(Finding(name, side, zone, extent, variant))
    return findings


def describe(f: Finding, rng: np.random.Generator, uncertain: bool) -> str:
    """One sentence (no full stop) about a planted finding."""
    side = pick(rng, SIDE[f.side])
    if uncertain and f.name in NAMES:
        return pick(rng, UNCERTAIN).format(pick(rng, NAMES[f.name]))
    grade, templates = POSITIVE[f.name]
    while True:
        words, variant = (
            pick(rng, GRADE[grade][f.extent]),
            pick(rng, WORD[f.variant]).format(s=side) if f.variant else "",
        )
        organ = "ureter" if f.variant == "ureteral" else "kidney"
        phrase = pick(rng, templates).format(s=side, g=words, v=variant, o=organ, z=COLON[f.side])
        sentence = pick(rng, STATED).format(phrase)
        if sentence not in FORBIDDEN:
            return sentence


def write_abdomen_report(findings: list[Finding], erect: bool, rng: np.random.Generator) -> str:
    """A report with FINDINGS and IMPRESSION; what is absent is ruled out now and then."""
    stated = [(f, f.name in NAMES and rng.random() < 0.05) for f in findings]
    absent = [
        str(n) for n in rng.permutation([n for n in NAMES if n not in {f.name for f in findings}])
    ]
    ruled_out = [
        pick(rng, NEGATIVE).format(pick(rng, NAMES[n])) for n in absent[: int(rng.integers(1, 4))]
    ]
    body = [describe(f, rng, doubt) for f, doubt in stated] + ruled_out
    body += [str(s) for s in rng.choice(REMARKS, int(rng.integers(1, 3)), replace=False)]
    impression = [describe(f, rng, doubt) for f, doubt in stated]
    if not [f for f in findings if f.name != "Tube"] and rng.random() < 0.8:
        impression.append(pick(rng, NORMAL))
    if not impression or rng.random() < 0.2:
        name = absent[-1]
        impression.append(pick(rng, NEGATIVE).format(pick(rng, NAMES[name])))
    view = "UPRIGHT" if erect else "SUPINE"
    return (
        f"EXAMINATION: ABDOMEN ({view} AP)\n\nINDICATION: ___ year old "
        f"{pick(rng, ('man', 'woman'))} with {pick(rng, REASONS)}\n\n"
        f"FINDINGS: {prose([str(s) for s in rng.permutation(body)])}\n\n"
        f"IMPRESSION: {prose([str(s) for s in rng.permutation(impression)])}\n"
    )


def plan_abdomen(studies: int, seed: int) -> list[dict]:
    """Who has which study: one or two each, splits by patient."""
    rng, plan, patient = np.random.default_rng([seed, 6]), [], 0
    while len(plan) < studies:
        split = str(rng.choice(["train", "valid", "test"], p=[0.7, 0.1, 0.2]))
        for _ in range(min(1 + int(rng.random() < 0.2), studies - len(plan))):
            plan.append({"number": len(plan), "patient": f"a{patient:05d}", "split": split})
        patient += 1
    return plan


def draw_abdomen_study(study: dict, raw: Path, seed: int) -> dict:
    """Draw, describe and write one study; returns its row of abdomen.csv."""
    rng = np.random.default_rng([seed, 6, study["number"]])
    findings = sample_disease(rng)
    height = int(rng.integers(200, 241))
    grey, masks, anatomy = draw_abdomen(findings, rng, height, int(height * rng.uniform(0.78, 1.0)))
    image_id = make_id(seed, "abdomen", study["number"])[:17]
    save(raw / "abdomen" / "images" / f"{image_id}.jpg", grey)
    planted = {f.name for f in findings}
    row = {
        "image": f"images/{image_id}.jpg",
        "patient": study["patient"],
        "study": f"b{study['number']:05d}",
        "view": "AP ERECT" if anatomy["erect"] else "AP SUPINE",
        "split": study["split"],
        "report": write_abdomen_report(findings, anatomy["erect"], rng),
        **{name: int(name in planted) for name in DRAW},
    }
    return {
        "row": row,
        "truth": [
            {"study_id": row["study"]} | box for box in find_boxes(image_id, findings, masks)
        ],
    }
