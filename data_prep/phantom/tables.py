"""Write the tables of the phantom's chest trees, and the simulated readers of its test studies."""

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.reading.raw import CHEXPERT_14

# Simulated readers: sensitivity and specificity before their own spread; the five that make the
# ground truth agree more.
BENCHMARK_READERS = {"bc4": (0.74, 0.93), "bc6": (0.84, 0.86), "bc8": (0.66, 0.96)}
TRUTH_READERS = {f"bc{k}_gt": (0.92, 0.97) for k in (1, 2, 3, 5, 7)}


def write_readers(raw: Path, studies: list[dict], seed: int) -> None:
    """Simulated readers of the test studies: each misses and overcalls at its own rate, finding by
    finding.
    """
    rng = np.random.default_rng([seed, 3])
    names = [
        f"CheXpert-v1.0/test/patient{s['labels']['subject_id']}/study{s['labels']['study_id']}"
        for s in studies
    ]
    planted = np.array(
        [[s["labels"].get(c) in (1, -1) for c in CHEXPERT_14] for s in studies], dtype=bool
    ).reshape(len(studies), -1)

    tables = {}
    for folder, readers in (
        ("groundtruth", TRUTH_READERS),
        ("benchmark_radiologists", BENCHMARK_READERS),
    ):
        for name, (sensitivity, specificity) in readers.items():
            spread = rng.normal(0, 0.04, (2, len(CHEXPERT_14)))
            hit = rng.random(planted.shape) < np.clip(sensitivity + spread[0], 0.05, 0.99)
            rest = rng.random(planted.shape) < np.clip(specificity + spread[1], 0.05, 0.99)
            said = np.where(planted, hit, ~rest).astype(int)
            tables[f"radiologists/{folder}/{name}.csv"] = said
    votes = [tables[f"radiologists/groundtruth/{name}.csv"] for name in TRUTH_READERS]
    tables["groundtruth.csv"] = (np.sum(votes, axis=0) >= 3).astype(int)
    for path, values in tables.items():
        table = pd.DataFrame(values, columns=CHEXPERT_14)
        table.insert(0, "Study", names)
        (raw / "chexpert_test" / path).parent.mkdir(parents=True, exist_ok=True)
        write_table(raw / "chexpert_test" / path, table)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV, packed when the name ends in .gz; the same bytes every time."""
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    path.write_bytes(
        gzip.compress(text.getvalue().encode(), mtime=0)
        if path.suffix == ".gz"
        else text.getvalue().encode()
    )


def write_mimic_tables(root: Path, studies: list[dict]) -> None:
    """The tables of the MIMIC-CXR-JPG release in folder `root`."""
    images = pd.DataFrame([row for s in studies for row in s["images"]])
    write_table(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        images[["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"]],
    )
    write_table(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        images[["dicom_id", "study_id", "subject_id", "split"]],
    )
    labels = pd.DataFrame([s["labels"] for s in studies]).reindex(
        columns=["subject_id", "study_id", *sorted(CHEXPERT_14)]
    )
    for labeller in ("chexpert", "negbio"):
        write_table(root / f"mimic-cxr-2.0.0-{labeller}.csv.gz", labels)
    (root / "IMAGE_FILENAMES").write_text(
        "".join(p + "\n" for p in images["path"]), encoding="utf-8"
    )
