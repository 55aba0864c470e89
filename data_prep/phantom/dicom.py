"""Write chest studies in the layout of MIMIC-CXR in DICOM: both photometrics, several encodings, 8
to 16 bits.
"""

import struct
import zipfile
from pathlib import Path

import numpy as np

from data_prep.phantom.study import draw_views, plan_studies

# Photometric interpretation, encoding, bits stored, whether a display window is given.
KINDS = (
    ("MONOCHROME2", "ExplicitVRLittleEndian", 12, True),
    ("MONOCHROME1", "ImplicitVRLittleEndian", 12, False),
    ("MONOCHROME2", "JPEGLosslessSV1", 12, True),
    ("MONOCHROME1", "JPEGLosslessSV1", 16, False),
    ("MONOCHROME2", "RLELossless", 16, False),
    ("MONOCHROME1", "RLELossless", 12, True),
    ("MONOCHROME2", "JPEG2000Lossless", 12, False),
    ("MONOCHROME1", "JPEG2000Lossless", 16, True),
    ("MONOCHROME2", "JPEGBaseline8Bit", 8, False),
    ("MONOCHROME1", "DeflatedExplicitVRLittleEndian", 16, True),
)
# subjects and studies of this tree are counted on from here: none is in the JPG tree too
FIRST = 8_000_000


def plan_dicom(studies: int, seed: int) -> list[dict]:
    """As in the JPG tree, with a kind of file for each study."""
    plan = plan_studies(studies, seed)
    for k, study in enumerate(plan):
        study["subject_id"] += FIRST
        study["study_id"] += FIRST
        study["kind"] = k % len(KINDS)
    return plan


def draw_dicom(study: dict, raw: Path, seed: int) -> dict:
    """Draw and write the DICOM files of one study; its report goes into the archive later."""
    photometric, encoding, bits, window = KINDS[study["kind"]]
    done = draw_views(
        study, np.random.default_rng([seed, 4, study["study_id"]]), seed, "dcm", 2**bits - 1
    )
    for row, grey in zip(done["images"], done["pixels"], strict=True):
        path = raw / "mimic_dicom" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, grey, photometric, encoding, bits, window, row)
    return {key: done[key] for key in ("images", "labels", "folder", "text")} | {"truth": []}


def write_dicom(
    path: Path,
    grey: np.ndarray,
    photometric: str,
    encoding: str,
    bits: int,
    window: bool,
    row: dict,
) -> None:
    """One file. grey: (rows, columns), bright is high; MONOCHROME1 stores it turned over."""
    from pydicom import Dataset, FileMetaDataset, dcmwrite, uid

    image, study, series = (
        uid.generate_uid(entropy_srcs=["phantom", row["dicom_id"], what])
        for what in ("image", "study", "series")
    )
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = getattr(uid, encoding)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = (
        "1.2.840.10008.5.1.4.1.1.1.1"  # digital X-ray
    )
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = image
    data.StudyInstanceUID, data.SeriesInstanceUID = study, series
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", row["ViewPosition"]
    data.PatientID, data.PatientName, data.StudyID = (
        str(row["subject_id"]),
        "",
        str(row["study_id"]),
    )
    data.Manufacturer, data.ImageComments = "phantom", "synthetic"
    data.Rows, data.Columns = grey.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = (
        1,
        photometric,
        0,
    )
    data.BitsAllocated, data.BitsStored, data.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    stored = grey if photometric == "MONOCHROME2" else (2**bits - 1 - grey).astype(grey.dtype)
    if window:
        low, high = np.percentile(stored, (0.5, 99.5))
        data.WindowCenter, data.WindowWidth = int((low + high) / 2), max(2, int(high - low))
    _add_pixels(data, stored, encoding, bits)
    dcmwrite(path, data, enforce_file_format=True)


def _add_pixels(data, stored: np.ndarray, encoding: str, bits: int) -> None:
    from pydicom.encaps import encapsulate

    if encoding in ("JPEGLosslessSV1", "JPEGBaseline8Bit"):  # pydicom writes neither
        if encoding == "JPEGBaseline8Bit":
            import cv2

            packed = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        else:
            packed = lossless_jpeg(stored, bits)
        data.PixelData = encapsulate([packed])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    elif encoding in ("RLELossless", "JPEG2000Lossless"):
        data.compress(data.file_meta.TransferSyntaxUID, stored, generate_instance_uid=False)
    else:
        data.PixelData = stored.astype(f"<u{data.BitsAllocated // 8}").tobytes()
        data["PixelData"].VR = "OW"


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """Grey image (rows, columns) to lossless JPEG (process 14, first-order prediction). Source:
    ITU-T T.81, annex H.
    """
    known = np.zeros(pixels.shape, np.int64)
    known[0, 0], known[1:, 0], known[:, 1:] = 2 ** (bits - 1), pixels[:-1, 0], pixels[:, :-1]
    change = (pixels.astype(np.int64) - known).ravel()
    change = (change + 32768) % 65536 - 32768
    category = np.ceil(np.log2(np.abs(change) + 1)).astype(
        np.int64
    )  # how many bits the difference needs
    extra = np.where(category == 16, 0, category)
    tail = np.where(change < 0, change - 1, change) & ((1 << extra) - 1)
    # A fixed Huffman code: 4 bits for categories 0 to 11, 5 bits for 12 to 16.
    code, width = np.where(category < 12, category, category + 12), np.where(category < 12, 4, 5)
    word, length = (code << extra) | tail, width + extra
    place = np.arange(21)
    wanted = place >= 21 - length[:, None]
    stream = ((word[:, None] >> (20 - place)) & 1).astype(np.uint8)[wanted]
    stream = np.append(stream, np.ones(-len(stream) % 8, np.uint8))
    scan = np.packbits(stream).tobytes().replace(b"\xff", b"\xff\x00")
    counts = bytes([0, 0, 0, 12, 5] + [0] * 11)
    frame = struct.pack(">BHHBBBB", bits, *pixels.shape, 1, 1, 0x11, 0)
    segments = (
        (0xC3, frame),
        (0xC4, b"\x00" + counts + bytes(range(17))),
        (0xDA, bytes([1, 1, 0, 1, 0, 0])),
    )
    stream = b"\xff\xd8"
    for marker, body in segments:
        stream += struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
    return stream + scan + b"\xff\xd9"


def finish_dicom(raw: Path, done: list[dict]) -> None:
    """The lists of this release, the tables of the JPG release beside, the reports as one
    archive.
    """
    import pandas as pd

    from data_prep.phantom.tables import write_mimic_tables, write_table

    root = raw / "mimic_dicom"
    write_mimic_tables(root, done)
    images = pd.DataFrame([row for d in done for row in d["images"]])
    write_table(
        root / "cxr-record-list.csv.gz", images[["subject_id", "study_id", "dicom_id", "path"]]
    )
    studies = [
        {k: d["labels"][k] for k in ("subject_id", "study_id")} | {"path": d["folder"] + ".txt"}
        for d in done
    ]
    write_table(root / "cxr-study-list.csv.gz", pd.DataFrame(studies))
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        for d in done:
            entry = zipfile.ZipInfo(d["folder"] + ".txt")  # dated 1980: the same bytes every time
            archive.writestr(entry, d["text"], zipfile.ZIP_DEFLATED)
