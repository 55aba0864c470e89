"""Small raw trees, fabricated, for the tests of data_prep."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data_prep.prepared import preparation
from data_prep.prepared.check import check
from data_prep.reading.raw import CHEXPERT_14
from medxvl.config import paths

ROOT = paths.ROOT
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old with cough  // infection?

 FINDINGS:

 Heart size is normal on ___.  The lungs
 are clear.

 IMPRESSION:

 No acute process.
"""

# A report of Open-I: its name, its impression
GOOD = '<r><uId id="{0}"/><AbstractText Label="IMPRESSION">{1}</AbstractText></r>'


def picture(seed: int, height: int = 40, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def mimic_tree(root: Path, studies: int = 6, zipped: bool = False) -> Path:
    """A tree like MIMIC-CXR-JPG with text of our own: one AP image a study, a second AP and a
    lateral of study 0.
    """
    meta, split, labels, archive = [], [], [], {}
    for k in range(studies):
        subject, study = 10000000 + k // 2, 50000000 + k
        for n, view in enumerate(["AP", "AP", "LATERAL"] if k == 0 else ["AP"]):
            dicom = f"{'cab'[n]}{k:03d}"
            folder = f"files/p10/p{subject}/s{study}"
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{dicom}.jpg").write_bytes(encoded(picture(10 * k + n), "JPEG"))
            meta.append(
                {
                    "dicom_id": dicom,
                    "subject_id": subject,
                    "study_id": study,
                    "ViewPosition": view,
                    "Rows": 40,
                }
            )
            split.append(
                {
                    "dicom_id": dicom,
                    "study_id": study,
                    "subject_id": subject,
                    "split": ["train", "train", "validate", "validate", "test", "test"][k % 6],
                }
            )
        archive[f"{folder}.txt"] = REPORT
        if not zipped:
            (root / f"{folder}.txt").write_text(REPORT)
        labels.append(
            {
                "subject_id": subject,
                "study_id": study,
                "Edema": 1.0,
                "Fracture": -1.0,
                "No Finding": 0.0 if k else None,
            }
        )
    labels = pd.DataFrame(labels).reindex(columns=["subject_id", "study_id", *sorted(CHEXPERT_14)])
    negbio = labels.assign(Edema=-1.0)
    suffix = ".csv.gz" if zipped else ".csv"
    for name, table in {
        "metadata": pd.DataFrame(meta),
        "split": pd.DataFrame(split),
        "chexpert": labels,
        "negbio": negbio,
    }.items():
        table.sample(frac=1, random_state=0).to_csv(
            root / f"mimic-cxr-2.0.0-{name}{suffix}", index=False
        )
    if zipped:
        with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as file:
            for name, text in archive.items():
                file.writestr(name, text)
    return root


def dicom(pixels: np.ndarray, view: str = "AP") -> bytes:
    """An uncompressed 8-bit DICOM file."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    data.Modality, data.ViewPosition, data.PhotometricInterpretation = "DX", view, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 8, 8, 7
    data.PixelRepresentation = 0
    data.PixelData = pixels.tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom_tree(root: Path, studies: int = 6) -> Path:
    """The same studies as mimic_tree in the layout of the DICOM release: record and study lists, no
    other table.
    """
    made = mimic_tree(root, studies)
    meta = pd.read_csv(made / "mimic-cxr-2.0.0-metadata.csv", dtype=str).sort_values("dicom_id")
    files = sorted((made / "files").rglob("*.jpg"))
    for path in files:
        view = meta.set_index("dicom_id")["ViewPosition"][path.stem]
        path.with_suffix(".dcm").write_bytes(dicom(np.asarray(Image.open(path)), view))
        path.unlink()
    home = "files/p10/p" + meta["subject_id"] + "/s" + meta["study_id"]
    records = meta[["subject_id", "study_id", "dicom_id"]].assign(
        path=home + "/" + meta["dicom_id"] + ".dcm"
    )
    records.to_csv(root / "cxr-record-list.csv.gz", index=False)
    reports = (
        records[["subject_id", "study_id"]].assign(path=home + ".txt").drop_duplicates("study_id")
    )
    reports.to_csv(root / "cxr-study-list.csv.gz", index=False)
    for path in root.glob("mimic-cxr-2.0.0-*.csv"):
        path.unlink()
    return root


def covid_tree(root: Path, count: int = 4) -> Path:
    (root / "images").mkdir(parents=True)
    rows = []
    for k in range(count):
        (root / "images" / f"{k}.png").write_bytes(encoded(picture(k)))
        finding = "Pneumonia/Viral/COVID-19" if k % 2 else "No Finding"
        rows.append(
            {
                "patientid": k,
                "offset": 0,
                "finding": finding,
                "view": "PA",
                "modality": "X-ray",
                "folder": "images",
                "filename": f"{k}.png",
                "license": "CC0",
            }
        )
    pd.DataFrame(rows).to_csv(root / "metadata.csv", index=False)
    return root


def prepare(name, raw, out, **options) -> tuple[pd.DataFrame, dict, dict]:
    """(index as text, card, rejects as record -> reason)"""
    folder = preparation.prepare(name, raw, out, progress=False, **{"size": 32, **options})
    rejects = pd.read_csv(folder / "rejects.csv", dtype=str)
    index = pd.read_csv(folder / "index.csv", dtype=str, keep_default_na=False)
    return (
        index,
        json.loads((folder / "card.json").read_text()),
        dict(zip(rejects["record"], rejects["reason"], strict=True)),
    )


def assert_checked(folder: Path) -> None:
    """`python -m data_prep check` finds nothing wrong; what it notes is no fault."""
    assert not [
        line
        for line in check(folder, progress=False)
        if line[1] and not line[1].startswith("note: ")
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
