"""DICOM files made in memory, and the grey levels they should give."""

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from tolerance import rounding

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = np.arange(40 * 30).reshape(40, 30)
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
LITTLE, BIG_ENDIAN, IMPLICIT, DEFLATED, JPEG_2000 = (
    UID(f"1.2.840.10008.1.2{end}") for end in (".1", ".2", "", ".1.99", ".4.90")
)


def made(
    pixels: np.ndarray,
    syntax: UID = LITTLE,
    preamble: bool = True,
    codestream: bytes = b"",
    **elements,
) -> bytes:
    """A DICOM file with these pixels; elements with the value None are left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, UID("1.2.840.10008.5.1.4.1.1.1")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    depth = pixels.dtype.itemsize * 8
    usual = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "BitsAllocated": depth,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsStored": depth,
        "HighBit": depth - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    for name, value in (usual | elements).items():
        if value is not None:
            setattr(dataset, name, value)
    data = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<")).tobytes()
    dataset.PixelData = encapsulate([codestream]) if codestream else data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if codestream or depth == 8 else "OW"
    dataset["PixelData"].is_undefined_length = bool(codestream)
    if not preamble:
        del dataset.file_meta, dataset.preamble
    file = io.BytesIO()
    implicit = (
        {}
        if preamble
        else {"implicit_vr": syntax == IMPLICIT, "little_endian": syntax != BIG_ENDIAN}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(file, dataset, enforce_file_format=False, **implicit)
    return file.getvalue()


def sequence(**elements) -> list[Dataset]:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return [item]


def scaled(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    low, high = values.min() if low is None else low, values.max() if high is None else high
    return np.clip((values - low) / (high - low), 0, 1) * 255


def assert_near(grey: np.ndarray, expected: np.ndarray) -> None:
    """Whole levels, rounded from a float32 of 0 to 255 that a few steps have led to."""
    half = 0.5 + rounding(255.0, terms=4, dtype=torch.float32)
    assert grey.dtype == np.uint8 and np.abs(grey - expected).max() <= half
