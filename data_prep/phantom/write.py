"""The embedded synthetic dataset, written in the raw layouts of the real ones and read back by the
same readers.

raw/mimic_cxr/      a miniature MIMIC-CXR-JPG tree with its tables and report files, and boxes as
                    in MS-CXR
raw/covid_cxr/      the unseen-disease set, laid out like the public COVID-19 collection
raw/chexpert_test/  ground truth and simulated radiologists for the MIMIC-like test studies, laid
                    out like the CheXpert test labels
raw/mimic_dicom/    a few studies in the layout of MIMIC-CXR in DICOM
raw/openi/          a few reports in the layout of Open-I, and as the Indiana tables in
                    raw/openi_csv/
raw/vqa_rad/        questions on chest and abdominal films, laid out like VQA-RAD
raw/abdomen/        abdominal films with reports, as one table
raw/truth/          what was planted where: boxes, and masks of the first two
"""

import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import pandas as pd
from tqdm.std import tqdm

from data_prep import code
from data_prep.phantom.abdomen_report import draw_abdomen_study, plan_abdomen
from data_prep.phantom.dicom import draw_dicom, finish_dicom, plan_dicom
from data_prep.phantom.openi import draw_openi, finish_openi, plan_openi
from data_prep.phantom.questions import draw_questions, finish_questions, plan_questions
from data_prep.phantom.study import VARIANTS, draw_study, draw_unseen, plan_studies, sample_findings
from data_prep.phantom.tables import write_mimic_tables, write_readers, write_table

__all__ = ["LAYOUTS", "VARIANTS", "sample_findings", "write_raw"]

# Fewest, most and share of `studies` drawn for each tree; the first run waits for all of them.
COUNTS = {
    "covid_cxr": (40, None, 8),
    "mimic_dicom": (30, 60, 60),
    "openi": (30, 300, 12),
    "vqa_rad": (60, 700, 5),
    "abdomen": (60, 600, 6),
}
FOLDERS = (
    "mimic_cxr",
    "covid_cxr/images",
    "chexpert_test",
    "mimic_dicom",
    "openi/NLMCXR_png",
    "openi_csv/images",
    "vqa_rad",
    "abdomen/images",
    "truth/masks",
)
# How each tree is read: its reader, the path below the raw folder and the reader's settings.
LAYOUTS = {
    name: (name, name, {})
    for name in ("mimic_cxr", "covid_cxr", "chexpert_test", "openi", "vqa_rad")
} | {
    "mimic_dicom": ("mimic_cxr", "mimic_dicom", {}),
    "openi_csv": ("openi", "openi_csv", {}),
    "abdomen": (
        "table",
        "abdomen/abdomen.csv",
        {
            "image_column": "image",
            "text_column": "report",
            "patient_column": "patient",
            "study_column": "study",
            "view_column": "view",
            "split_column": "split",
            "label_columns": "Bowel Obstruction,Free Air,Kidney "
            "Stone,Constipation,Ascites,Hepatomegaly,Gallstones,Tube",
        },
    ),
}
SMALL_TEST = 20  # studies; with fewer in the test split its numbers say little


def write_raw(raw: Path, studies: int, seed: int, workers: int = 1, progress: bool = True) -> Path:
    """Write the phantom's raw trees to `raw` and return it; returns at once when they are there
    with the same settings.

    `studies` counts the MIMIC-like studies; COUNTS tells how many the other trees get. The same
    seed gives the same bytes whatever the number of workers. Raises ValueError when `raw` holds
    anything else.
    """
    raw, mark = Path(raw), {"studies": studies, "seed": seed, "code": code.digest_of(__name__)}
    found = (
        json.loads((raw / "PHANTOM.json").read_text()) if (raw / "PHANTOM.json").is_file() else {}
    )
    if found == mark:
        return raw
    if (
        raw.exists() and any(raw.iterdir()) and found | {"code": mark["code"]} != mark
    ):  # older code: ours to replace
        raise ValueError(
            f"{raw}: expected an empty folder or the phantom {mark}, found something else; "
            "choose another folder"
        )
    if studies < 20:
        raise ValueError(f"studies={studies}: expected at least 20, so that every split has some")
    partial_raw = raw.with_name(raw.name + ".partial")
    shutil.rmtree(partial_raw, ignore_errors=True)
    for folder in FOLDERS:
        (partial_raw / folder).mkdir(parents=True)

    counts = {  # of images, studies or reports
        tree: min(max(fewest, studies // share), most or studies)
        for tree, (fewest, most, share) in COUNTS.items()
    }
    plan = plan_studies(studies, seed)
    in_split = {
        split: sum(p["split"] == split and p["view"] == "AP" for p in plan)
        for split in ("train", "validate", "test")
    }
    if in_split["test"] < SMALL_TEST:
        told = ", ".join(f"{n} {split}" for split, n in in_split.items())
        print(
            f"warning: {studies} studies give {told}: too few to measure anything, take "
            "more for that",
            file=sys.stderr,
        )
    trees = {
        "mimic_cxr": (draw_study, plan),
        "covid_cxr": (draw_unseen, range(counts["covid_cxr"])),
        "mimic_dicom": (draw_dicom, plan_dicom(counts["mimic_dicom"], seed)),
        "openi": (draw_openi, plan_openi(counts["openi"], seed)),
        "vqa_rad": (draw_questions, plan_questions(counts["vqa_rad"], seed)),
        "abdomen": (draw_abdomen_study, plan_abdomen(counts["abdomen"], seed)),
    }
    done = _draw(trees, partial_raw, seed, workers, progress)

    write_mimic_tables(partial_raw / "mimic_cxr", done["mimic_cxr"])
    boxes = pd.DataFrame([row for d in done["mimic_cxr"] for row in d["boxes"]])
    write_table(partial_raw / "mimic_cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv", boxes)
    tested = [
        d
        for d, p in zip(done["mimic_cxr"], plan, strict=True)
        if p["split"] == "test" and p["view"] == "AP"
    ]
    write_readers(partial_raw, tested, seed)
    for tree, name in (("covid_cxr", "metadata.csv"), ("abdomen", "abdomen.csv")):
        write_table(partial_raw / tree / name, pd.DataFrame([d["row"] for d in done[tree]]))
    finish_dicom(partial_raw, done["mimic_dicom"])
    finish_openi(partial_raw, trees["openi"][1], done["openi"])
    finish_questions(partial_raw, trees["vqa_rad"][1], done["vqa_rad"], seed)
    planted = {name: done[name] for name in ("openi", "vqa_rad", "abdomen")}
    planted["findings"] = done["mimic_cxr"] + done["covid_cxr"]
    for name, drawn in planted.items():
        truth = pd.DataFrame([row for d in drawn for row in d["truth"]])
        write_table(partial_raw / "truth" / f"{name}.csv", truth)
    for folder in {*(f.split("/")[0] for f in FOLDERS), "."} - {"truth"}:
        (partial_raw / folder / "PHANTOM.json").write_text(json.dumps(mark) + "\n")
    if raw.exists():
        shutil.rmtree(raw)
    os.replace(partial_raw, raw)
    return raw


def _draw(trees: dict, raw: Path, seed: int, workers: int, progress: bool) -> dict[str, list[dict]]:
    """Results of all drawings, in the order of each tree's plan."""
    total = sum(len(jobs) for _, jobs in trees.values())
    label = (
        f"phantom: {len(trees['mimic_cxr'][1]):,} studies, {len(trees['covid_cxr'][1]):,} "
        "of unseen disease, others"
    )
    bar = tqdm(total=total, desc=label, unit="drawing", disable=not progress)
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        running = {
            name: pool.map(partial(draw, raw=raw, seed=seed), jobs, chunksize=16)
            for name, (draw, jobs) in trees.items()
        }
        done = {
            name: [(result, bar.update())[0] for result in results]
            for name, results in running.items()
        }
    bar.close()
    return done
