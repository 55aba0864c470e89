"""Questions and answers on phantom films in the layout of VQA-RAD. An answer can only be had from
the picture: for each question the possible answers occur equally often, in train and in test."""

import json
from pathlib import Path

import numpy as np

from data_prep.phantom.abdomen_findings import DRAW, draw_abdomen
from data_prep.phantom.abdomen_report import sample_disease
from data_prep.phantom.anatomy import Finding, draw_lateral, pick
from data_prep.phantom.findings import draw_frontal
from data_prep.phantom.study import DETECTED, find_boxes, frame, sample_findings, save

NOUNS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "a consolidation",
    "Edema": "pulmonary edema",
    "Fracture": "a fracture",
    "Pleural Effusion": "a pleural effusion",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "a pneumothorax",
    "Bowel Obstruction": "a bowel obstruction",
    "Free Air": "free air",
    "Kidney Stone": "a kidney stone",
    "Constipation": "fecal loading",
    "Ascites": "ascites",
    "Hepatomegaly": "an enlarged liver",
    "Gallstones": "gallstones",
    "Tube": "a tube or stent",
    "Lung Lesion": "a nodule",
    "Lung Opacity": "a hazy opacity",
}
PRESENT = (
    "Is there {a}?",
    "Is {a} present?",
    "Does this image show {a}?",
    "Is there evidence of {a}?",
    "Can you see {a}?",
)
NORMAL = (
    "Is this a normal {o} film?",
    "Does the {o} look normal?",
    "Is the {o} normal on this image?",
)
SIDE = (
    "Is {t} on the left or the right side?",
    "Which side is {t} on, left or right?",
    "On which side of the patient is {t}?",
)
ZONE = (
    "Where in the lung is {t}?",
    "Which zone of the lung shows {t}?",
    "In what part of the lung does {t} lie?",
)
SIZE = ("How large is {t}?", "What is the size of {t}?", "How big is {t}?")
HEART = (
    "Is the heart enlarged?",
    "Is the cardiac silhouette enlarged?",
    "Is the heart size increased?",
)
LUNGS = (
    "How many lungs are affected by {t}?",
    "{T} is seen in how many lungs?",
    "In how many lungs is {t}?",
)
STONES = (
    "How many stones are in the kidney?",
    "What is the number of kidney stones?",
    "How many kidney stones are seen?",
)
PART = (
    "What part of the body is shown?",
    "Which region of the body is this?",
    "What body part was imaged?",
)
PLANE = (
    "Is this a frontal or a lateral film?",
    "Was the film taken from the front or from the side?",
    "What is the view?",
)
MODALITY = ("What type of imaging is this?", "What modality was used?", "How was this image taken?")
ZONES = {"upper": "upper zone", "mid": "middle zone", "lower": "lower zone"}
SIZES = ("small", "moderate", "large")
TEST_SHARE = 0.25


def plan_questions(images: int, seed: int) -> list[dict]:
    """What each image shows; all questions on one image are in the same split."""
    rng = np.random.default_rng([seed, 7])
    kinds = ["chest"] * 6 + ["lateral"] + ["abdomen"] * 3
    return [
        {
            "name": f"synpic{10000 + 7 * k}",
            "kind": pick(rng, kinds),
            "test": bool(rng.random() < TEST_SHARE),
        }
        for k in range(images)
    ]


def draw_questions(image: dict, raw: Path, seed: int) -> dict:
    """Draw and write one image; returns all that can be asked of it: (key, type, open or closed,
    wordings, answer).
    """
    rng = np.random.default_rng([seed, 7, int(image["name"].removeprefix("synpic"))])
    height, width = frame(rng)
    findings, masks = [], {}
    if image["kind"] == "lateral":
        grey = draw_lateral(rng, height, width)
    elif image["kind"] == "chest":
        findings = sample_findings(rng)
        grey, masks = draw_frontal(findings, rng, "PA", height, width)
    else:
        findings = sample_disease(rng)
        grey, masks, _ = draw_abdomen(findings, rng, height, width)
    save(raw / "vqa_rad" / "VQA_RAD Image Folder" / f"{image['name']}.jpg", grey)
    asked = ask(findings, image["kind"], rng)
    truth = [
        {"study_id": image["name"]} | row for row in find_boxes(image["name"], findings, masks)
    ]
    return {"asked": asked, "truth": truth}


def ask(findings: list[Finding], kind: str, rng: np.random.Generator) -> list[tuple]:
    """Everything asked of one film with these findings."""
    asked = []

    def add(key: str, what: str, closed: bool, wordings: tuple, answer, **words) -> None:
        a, b = rng.permutation(len(wordings))[:2]
        texts = [wordings[int(k)].format(**words) for k in (a, b)]
        asked.append((key, what, "CLOSED" if closed else "OPEN", texts, answer))

    if rng.random() < 0.35:
        add("part", "ORGAN", False, PART, "abdomen" if kind == "abdomen" else "chest")
    if rng.random() < 0.05:
        add("modality", "MODALITY", False, MODALITY, "X-ray")
    if kind != "abdomen" and (kind == "lateral" or rng.random() < 0.2):
        add("plane", "PLANE", True, PLANE, "lateral" if kind == "lateral" else "frontal")
    if kind == "lateral":
        return asked
    names = DETECTED if kind == "chest" else tuple(DRAW)
    planted = {f.name: f for f in findings}
    absent = [n for n in names if n not in planted]
    for name in [n for n in names if n in planted] + [str(n) for n in rng.permutation(absent)[:3]]:
        add(f"has {name}", "PRES", True, PRESENT, "yes" if name in planted else "no", a=NOUNS[name])
    part = "chest" if kind == "chest" else "abdomen"
    add(f"normal {part}", "ABN", True, NORMAL, "no" if findings else "yes", o=part)
    if kind == "chest" and rng.random() < 0.5:
        add("heart", "SIZE", True, HEART, "yes" if "Cardiomegaly" in planted else "no")
    for f in findings:  # side, zone, size and number
        if f.name not in NOUNS:
            continue
        words = {"t": "the " + NOUNS[f.name].removeprefix("a ").removeprefix("an ")}
        words["T"] = words["t"].capitalize()
        if f.side != "both" and f.name not in ("Hepatomegaly", "Gallstones", "Tube"):
            add(f"side {f.name}", "POS", True, SIDE, f.side, **words)
        if f.name in ("Consolidation", "Pneumonia", "Lung Lesion", "Lung Opacity"):
            add(f"zone {f.name}", "POS", False, ZONE, ZONES[f.zone], **words)
        if f.name in ("Pleural Effusion", "Pneumothorax", "Lung Lesion"):
            add(f"size {f.name}", "SIZE", False, SIZE, SIZES[f.extent], **words)
        if f.name in ("Pleural Effusion", "Atelectasis", "Pneumonia"):
            add(f"lungs {f.name}", "COUNT", False, LUNGS, 2 if f.side == "both" else 1, **words)
        if f.variant == "renal":
            add("stones", "COUNT", False, STONES, 1 + f.extent)
    return asked


def balance(asked: list[dict], rng: np.random.Generator) -> list[dict]:
    """For each question, in each split, as many of every answer; a question with one answer only is
    not asked.
    """
    groups: dict = {}
    for question in asked:
        groups.setdefault((question["test"], question["key"]), {}).setdefault(
            str(question["answer"]), []
        ).append(question)
    kept = []
    for (_, key), answers in groups.items():
        if key == "modality":  # as in the original, some questions need no look at the picture
            kept += [q for group in answers.values() for q in group]
        elif len(answers) > 1:
            most = min(len(group) for group in answers.values())
            kept += [
                group[int(k)]
                for group in answers.values()
                for k in rng.permutation(len(group))[:most]
            ]
    return sorted(kept, key=lambda q: q["order"])


def finish_questions(raw: Path, plan: list[dict], done: list[dict], seed: int) -> None:
    """The JSON file: each question as `freeform`, half of them once more in other words as
    `para`.
    """
    rng, asked, rows = np.random.default_rng([seed, 8]), [], []
    for image, drawn in zip(plan, done, strict=True):
        for key, what, form, texts, answer in drawn["asked"]:
            asked.append(
                {
                    "image": image,
                    "test": image["test"],
                    "key": key,
                    "what": what,
                    "form": form,
                    "texts": texts,
                    "answer": answer,
                    "order": len(asked),
                }
            )
    for question in balance(asked, rng):
        image, paired = question["image"], bool(rng.random() < 0.5)
        for k, text in enumerate(question["texts"][: 1 + paired]):
            row = {  # the fields of the original
                "qid": len(rows) or "0",
                "phrase_type": "test_" * image["test"] + ("freeform", "para")[k],
                "qid_linked_id": f"phantom-{question['order']:06d}",
                "image_case_url": "synthetic phantom: no case",
                "image_name": f"{image['name']}.jpg",
                "image_organ": "ABD" if image["kind"] == "abdomen" else "CHEST",
                "evaluation": "not evaluated",
                "question": text,
                "question_rephrase": question["texts"][1 - k] if paired else "NULL",
                "question_relation": "strict agreement" if paired else "NULL",
                "question_frame": "NULL",
                "question_type": question["what"],
                "answer": question["answer"],
                "answer_type": question["form"],
            }
            rows.append(row)
    for row in [r for r in rows if r["answer_type"] == "CLOSED"][:2]:
        row["answer_type"] = "CLOSED "  # the original has two of these
    folder = raw / "vqa_rad"
    (folder / "VQA_RAD Dataset Public.json").write_text(
        json.dumps(rows, indent=1) + "\n", encoding="utf-8"
    )
