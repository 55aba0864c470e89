"""Pixels of one DICOM file as an 8-bit grey picture, bone bright.

Decoders: Pillow, and pylibjpeg with its openjpeg (JPEG 2000, HTJ2K) and libjpeg plug-ins (12-bit
and lossless JPEG, JPEG-LS). GDCM decodes nearly as much, but 8 of 1,100 damaged files made it abort
the whole process, these none.
"""

import io
import logging
import warnings
import zlib

import cv2
import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitVR

MAX_PIXELS = 89_478_485  # Pillow's own limit for other files
MAX_BYTES = 300_000_000  # of the inflated file
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def decode(data: bytes, equalise: bool = False) -> np.ndarray:
    """Bytes of a DICOM file with one frame to a uint8 array (height, width).

    Grey: modality LUT or rescale, then the first VOI LUT or window, else minimum to maximum;
    padding becomes black and MONOCHROME1 is inverted. Colour becomes luma. `equalise` takes minimum
    to maximum always and equalises the histogram, as MIMIC-CXR-JPG and the X-VL release did. Raises
    ValueError, with the reason, for anything else.
    """
    logger = logging.getLogger("pydicom")  # what matters is raised; a line a file would flood
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return _decode(data, equalise)
    except Exception as problem:  # of many kinds; each is a fault of this one record
        text = " ".join(str(problem).split())
        if text.startswith("The number of bytes of pixel data is less"):
            text = "truncated DICOM: " + text[: text.find(")") + 1]
        else:
            text = text[:300] or type(problem).__name__
        start = "" if isinstance(problem, ValueError) else "DICOM cannot be decoded: "
        raise ValueError(start + text) from None
    finally:
        logger.setLevel(level)


def _decode(data: bytes, equalise: bool) -> np.ndarray:
    _check_inflated(data)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    _check_header(dataset)
    _add_transfer_syntax(dataset)
    _check_codestream(dataset)
    pixels = dataset.pixel_array
    pixels = pixels[0] if pixels.ndim == 2 + (dataset.SamplesPerPixel > 1) + 1 else pixels
    if pixels.ndim == 2 and dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3 and pixels.dtype == np.uint8:
        return (pixels[..., :3] @ LUMA + 0.5).astype(np.uint8)
    if pixels.ndim == 3:  # more than 8 bits
        return _to_uint8(_stretch(pixels[..., :3] @ LUMA, None))
    return _grey(pixels, dataset, equalise)


def _check_inflated(data: bytes) -> None:
    """A deflated data set of some kilobytes may inflate to gigabytes, and pydicom would let it."""
    start = 132
    while (
        data[128:132] == b"DICM" and data[start : start + 2] == b"\x02\0"
    ):  # the elements of the file meta group
        is_long = data[start + 4 : start + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        head, length = (
            (12, data[start + 8 : start + 12]) if is_long else (8, data[start + 6 : start + 8])
        )
        start += head + int.from_bytes(length, "little")
    if DeflatedExplicitVRLittleEndian.encode() not in data[132:start]:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    inflate.decompress(data[start:], MAX_BYTES)
    if inflate.unconsumed_tail:
        raise ValueError(f"DICOM inflates to more than {MAX_BYTES:,} bytes")


def _check_header(dataset: pydicom.Dataset) -> None:
    """Raise ValueError unless there is one picture of a sensible size."""
    if not len(dataset):
        raise ValueError("truncated DICOM, or none at all (no element can be read)")
    kind = (
        getattr(dataset.get("SOPClassUID"), "name", "")
        or str(dataset.get("Modality", ""))
        or "kind not given"
    )
    if not any(name in dataset for name in PIXELS):
        raise ValueError(f"DICOM without pixels ({kind})")
    frames = _number(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise ValueError(f"multi-frame DICOM ({frames} frames)")
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if min(rows, columns) < 1:
        raise ValueError(f"DICOM of {columns} x {rows} pixels")
    if rows * columns > MAX_PIXELS:
        raise ValueError(f"huge image: more than {MAX_PIXELS:,} pixels")
    if _number(dataset, "SamplesPerPixel", 1) not in (1, 3, 4):
        raise ValueError(f"DICOM with {dataset.SamplesPerPixel} samples a pixel")
    dataset.SamplesPerPixel = _number(dataset, "SamplesPerPixel", 1)
    if not dataset.get("PhotometricInterpretation"):
        raise ValueError(
            "DICOM that does not say whether white is bright (PhotometricInterpretation)"
        )


def _number(dataset: pydicom.Dataset, name: str, default: int = 0) -> int:
    try:
        value = dataset.get(name)
        return default if value is None or value == "" else int(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"DICOM whose {name} is no number") from None


def _add_transfer_syntax(dataset: pydicom.Dataset) -> None:
    """Files without their meta information: the encoding they could be read with is theirs, unless
    compressed.
    """
    meta = dataset.file_meta if hasattr(dataset, "file_meta") else pydicom.dataset.FileMetaDataset()
    if meta.get("TransferSyntaxUID"):
        return
    name = next(name for name in PIXELS if name in dataset)
    if dataset[name].is_undefined_length:
        raise ValueError("compressed DICOM that does not say how (no transfer syntax)")
    is_implicit, is_little = dataset.original_encoding
    meta.TransferSyntaxUID = (
        ImplicitVR if is_implicit else ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    )
    dataset.file_meta = meta


def _check_codestream(dataset: pydicom.Dataset) -> None:
    """A decoder allocates what the compressed picture says of itself, whatever the header said."""
    if not dataset.file_meta.TransferSyntaxUID.is_compressed or "PixelData" not in dataset:
        return
    if not dataset["PixelData"].is_undefined_length:
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    width, height = coded_size(frame)
    if width * height > MAX_PIXELS or max(width, height) > 4 * max(dataset.Rows, dataset.Columns):
        raise ValueError(
            f"compressed picture of {width} x {height} px, header says {dataset.Columns} x "
            f"{dataset.Rows}"
        )


def coded_size(frame: bytes) -> tuple[int, int]:
    """(width, height) told by a JPEG, JPEG-LS or JPEG 2000 codestream; (0, 0) when none is
    found.
    """
    start = frame.find(b"\xff\x4f\xff\x51")  # start of codestream and size marker of JPEG 2000
    if 0 <= start < 1000:
        sides = [int.from_bytes(frame[k : k + 4], "big") for k in range(start + 8, start + 24, 4)]
        return max(sides[0] - sides[2], 0), max(sides[1] - sides[3], 0)
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if (
            0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) or marker == 0xF7
        ):  # start of frame
            sides = frame[place + 7 : place + 9], frame[place + 5 : place + 7]
            return int.from_bytes(sides[0], "big"), int.from_bytes(sides[1], "big")
        place += 1 if marker == 0xFF else 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return 0, 0


def _grey(pixels: np.ndarray, dataset: pydicom.Dataset, equalise: bool) -> np.ndarray:
    outside = None  # where a pixel is only padding
    low = dataset.get("PixelPaddingValue")
    high = dataset.get("PixelPaddingRangeLimit", low)
    if isinstance(low, int) and isinstance(high, int) and pixels.dtype.kind in "iu":
        outside = (pixels >= min(low, high)) & (pixels <= max(low, high))
        outside = outside if outside.any() else None
    values = _rescale(_stored_bits(pixels, dataset), dataset)
    outside = ~np.isfinite(values) if outside is None and not np.isfinite(values).all() else outside
    if outside is not None and outside.all():
        raise ValueError("constant image (nothing but padding)")
    shown = None if equalise else _windowed(values, dataset)
    if (
        shown is None or np.ptp(shown if outside is None else shown[~outside]) == 0
    ):  # no window, or one beside the data
        shown = _stretch(values, outside)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    if outside is not None:
        shown[outside] = 0
    grey = _to_uint8(shown)
    return cv2.equalizeHist(grey) if equalise else grey


def _stored_bits(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Without the bits above BitsStored, which in older uncompressed files hold overlays."""
    spare = pixels.dtype.itemsize * 8 - _number(dataset, "BitsStored", pixels.dtype.itemsize * 8)
    if pixels.dtype.kind not in "iu" or not 0 < spare < pixels.dtype.itemsize * 8:
        return pixels
    overlays = [g for g in range(0x6000, 0x6020, 2) if (g, 0x0100) in dataset]
    if all((group, 0x3000) in dataset for group in overlays):  # each with data of its own
        return pixels
    return (pixels << spare) >> spare  # a signed one keeps its sign


def _rescale(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Stored values to values with a meaning, float."""
    if dataset.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(pixels, dataset), np.float64)
    small = pixels.dtype.itemsize <= 2
    values = pixels.astype(np.float32 if small else np.float64)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None or not float(slope):
        return values
    return values * values.dtype.type(slope) + values.dtype.type(intercept)


def _windowed(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray | None:
    """0 to 1 by the first VOI LUT or window (DICOM PS3.3 C.11.2); None when there is none that
    makes sense.
    """
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0].LUTDescriptor
        whole = np.rint(values).astype(np.int64)
        return apply_voi(whole, dataset, 0).astype(np.float32) / (2.0 ** int(table[2]) - 1)
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or not width > (1 if function == "LINEAR" else 0):
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first(value) -> float | None:
    """The first of one or several numbers; None when it is none."""
    try:
        value = float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
        return value if np.isfinite(value) else None
    except (TypeError, ValueError, IndexError):
        return None


def _stretch(values: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    """Minimum to maximum of what is not padding, to 0 to 1."""
    inside = values if outside is None else values[~outside]
    low, high = float(inside.min()), float(inside.max())
    if low == high:
        raise ValueError(f"constant image (every pixel is {low:g})")
    return np.clip((values - low) / (high - low), 0, 1)


def _to_uint8(shown: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(shown) * 255 + 0.5).astype(np.uint8)
