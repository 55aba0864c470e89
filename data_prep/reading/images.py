"""One image file to a square 8-bit grey array."""

import io
import os
import warnings
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

ABSENT = "file not in the folder"
MIN_SIDE = 8  # px
MAX_BYTES = 300_000_000
DICOM_STARTS = (
    b"\x02\0",
    b"\0\x02",
    b"\x08\0",
    b"\0\x08",
)  # first group, when there is no preamble, either byte order
FORMATS = (
    "JPEG",
    "PNG",
    "TIFF",
    "BMP",
    "GIF",
    "WEBP",
    "PPM",
    "JPEG2000",
)  # recognised by content, not by name
KNOWN_STARTS = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"II*\0",
    b"MM\0*",
    b"BM",
    b"GIF8",
    b"RIFF",
    b"\0\0\0\x0cjP",
)

# The JPEG decoder can leave out detail while it decodes: only every 2nd or 4th pixel is ever made.
# By how much that differs from decoding all and then shrinking depends on how many pixels are left
# for each one that is wanted. Mean difference in grey levels (worst picture) at targets from 224 to
# 600 px, on 60 real radiographs of 1,024 px and more and on two enlarged to 2,500 px with noise;
# what the rule lets pass is measured again by tests/benchmarks/decode.py.
#   at least 2 left: real 0.3 (0.9); noise of 4 and 10 levels 0.2 and 0.6
#   1.2 to 2 left, 1/4, of 2,000 px and more: real 0.3 (0.5);
#     noise of 0, 4, 10 and 20 levels 0.2, 0.5, 1.0 and 1.9
#   1 to 1.4 left, 1/4, of less than 2,000 px: real 1.1 (2.4), for they are sharper: not done
#   less than 2 left, 1/8: 1.0 (1.9): not done
LEFT, LEFT_OF_LARGE, LARGE = 2.0, 1.2, 2000  # px a wanted px; the same of pictures this long (px)


def load(
    raw: Path, relative: str, size: int, full: bool = False, equalise: bool = False
) -> tuple[np.ndarray | None, str]:
    """(uint8 array of `size` x `size`, "") of the image `relative` below `raw`, or (None, why it
    cannot be used).

    `full`, `equalise`: see to_square.
    """
    try:
        path = path_inside(raw, relative)
        if not os.path.lexists(path):
            return None, ABSENT
        if not os.path.isfile(path):
            return None, "not a file"
        if os.path.getsize(path) > MAX_BYTES:
            return None, f"file of {os.path.getsize(path):,} bytes: more than {MAX_BYTES:,}"
        return to_square(Path(path).read_bytes(), size, full, equalise), ""
    except ValueError as problem:
        return None, str(problem)
    except OSError as problem:
        return None, f"cannot be read: {problem.strerror or problem}"


def path_inside(raw: Path, relative: str) -> str:
    """Path of `relative` below `raw`; raises ValueError when it climbs out, by `..` or by a
    symbolic link.

    A link right below `raw` is followed: large image folders often lie on another disk.
    """
    parts = PurePosixPath(relative).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in relative:
        raise ValueError("path leaves the raw folder")
    real = os.path.realpath(os.path.join(raw, relative))
    roots = [os.path.realpath(raw)] + (
        [os.path.realpath(os.path.join(raw, parts[0]))] if len(parts) > 1 else []
    )
    if not any(real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        raise ValueError("path leaves the raw folder through a symbolic link")
    return real


def to_square(data: bytes, size: int, full: bool = False, equalise: bool = False) -> np.ndarray:
    """Bytes of an image file to uint8 (size, size); a JPEG in reduced resolution where that is as
    good, unless `full`.

    `equalise`: see dicom.decode. Raises ValueError, with the reason, for anything that is not one
    whole picture. Limit: a JPEG with damage in its middle is not noticed, as the decoder goes on
    after it; only a copy's checksum tells.
    """
    if not full and data.startswith(b"\xff\xd8\xff"):
        grey, shape = _decode(data, size)
        if grey.min() < grey.max():  # else a single odd pixel may have vanished
            return shrink_and_pad(grey, size, shape)
    return shrink_and_pad(decode(data, equalise), size)


def decode(data: bytes, equalise: bool = False) -> np.ndarray:
    """Bytes of a DICOM file or of an image in one of FORMATS, whatever its name, to a uint8 array
    (height, width).

    Colour becomes luma, transparency is laid on black, more than 8 bits are scaled from minimum to
    maximum, orientation tags are ignored. Raises ValueError, with the reason, for anything that is
    not one whole picture with something on it: a file of several pages or frames does not say which
    of them is meant.
    """
    if data[128:132] == b"DICM" or data.startswith(DICOM_STARTS):
        from data_prep.reading import dicom  # takes half a second, and most datasets have none

        grey = dicom.decode(data, equalise)
        _check_sides(grey.shape[::-1])
    else:
        grey, _ = _decode(data)
    if grey.min() == grey.max():
        raise ValueError(f"constant image (every pixel is {grey[0, 0]})")
    return grey


def reduction(width: int, height: int, size: int) -> int:
    """1, 2, 4 or 8: by how much a JPEG may be reduced while it is decoded on its way to `size`
    px.
    """
    longer = max(width, height)
    for scale in (8, 4, 2):
        enough = LEFT_OF_LARGE if scale <= 4 and longer >= LARGE else LEFT
        if longer >= enough * scale * size:
            return scale
    return 1


def _decode(data: bytes, size: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    if not data:
        raise ValueError("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            shape = image.size[::-1]  # before it is reduced
            return _load(image, data, size), shape
    except ValueError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"huge image: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        if data.startswith(KNOWN_STARTS):
            told = "cannot be decoded: damaged header, or a kind that is not read"
        else:
            told = f"not an image: none of {', '.join(FORMATS)}, DICOM (begins with {data[:8]!r})"
        raise ValueError(told) from None
    except (
        Exception
    ) as problem:  # decoders raise many kinds on damaged bytes; each is a fault of this one record
        raise ValueError(f"cannot be decoded: {problem or type(problem).__name__}") from None


def _load(image: Image.Image, data: bytes, size: int | None) -> np.ndarray:
    _check_sides(image.size)
    frames = (
        1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    )  # MPO: a photo, and the camera's own extras
    if frames > 1:
        raise ValueError(f"{image.format} of {frames} frames or pages")
    if size is not None and (scale := reduction(*image.size, size)) > 1:
        image.draft("L", (image.width // scale, image.height // scale))
    white_is_zero = image.format == "TIFF" and image.mode != "L" and image.tag_v2.get(262) == 0
    image.load()  # Pillow notices a truncated file; OpenCV fills the rest with grey
    if image.format == "PNG" and b"IEND" not in data[-1000:]:
        raise ValueError("truncated PNG (no end mark)")
    grey = _grey(image, data)
    return (
        255 - grey if white_is_zero and image.mode[0] in "IF" else grey
    )  # Pillow turns shallow ones itself


def _check_sides(sides: tuple[int, int]) -> None:
    if min(sides) < MIN_SIDE:
        raise ValueError(f"{sides[0]} x {sides[1]} pixels: smaller than {MIN_SIDE} px")


def _grey(image: Image.Image, data: bytes) -> np.ndarray:
    if image.format == "PNG" and data[24] == 16:  # of 16-bit colour Pillow keeps the upper 8 bits
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        pixels = pixels.astype(np.float64)
        if pixels.ndim == 3:
            alpha = pixels[..., 3] / 65535 if pixels.shape[2] == 4 else 1.0
            pixels = pixels[..., :3] @ np.array([0.114, 0.587, 0.299]) * alpha
        return _min_max(pixels)
    if image.mode == "L" and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _min_max(np.asarray(image, dtype=np.float64))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"), dtype=np.uint16)
        grey = np.asarray(image.convert("L"), dtype=np.uint16)
        return ((grey * alpha + 127) // 255).astype(np.uint8)
    if image.mode == "P":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _min_max(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise ValueError("pixels that are no numbers (NaN or infinite)")
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / max(high - low, 1e-9) * 255).astype(
        np.uint8
    )  # cut, not rounded: released dcm2jpg.py


def shrink_and_pad(grey: np.ndarray, size: int, shape: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (height, width) -> (size, size): longer side to `size` px, the other cut to whole
    pixels, zeros around.

    Area interpolation also when enlarging; the larger half of an odd pad comes after the image
    (X-VL release). `shape` of the whole picture, when `grey` was decoded in reduced resolution:
    rounding must not shift its borders. Raises ValueError when the image is so long that its
    shorter side vanishes.
    """
    height, width = shape or grey.shape
    if height >= width:
        new = (size, int(width * size / height))
    else:
        new = (int(height * size / width), size)
    if min(new) == 0:
        raise ValueError(f"{width} x {height} pixels: too long and narrow")
    out = np.zeros((size, size), np.uint8)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    out[top : top + new[0], left : left + new[1]] = cv2.resize(
        grey, new[::-1], interpolation=cv2.INTER_AREA
    )
    return out
