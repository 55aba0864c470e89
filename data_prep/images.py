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


def load(raw: Path, relative: str, size: int) -> tuple[np.ndarray | None, str]:
    """(uint8 array of `size` x `size`, "") of the image `relative` below `raw`, or (None, why it cannot be used)."""
    try:
        path = path_inside(raw, relative)
        if not os.path.lexists(path):
            return None, ABSENT
        if not os.path.isfile(path):
            return None, "not a file"
        if os.path.getsize(path) > MAX_BYTES:
            return None, f"file of {os.path.getsize(path):,} bytes: more than {MAX_BYTES:,}"
        return shrink_and_pad(decode(Path(path).read_bytes()), size), ""
    except ValueError as problem:
        return None, str(problem)
    except OSError as problem:
        return None, f"cannot be read: {problem.strerror or problem}"


def path_inside(raw: Path, relative: str) -> str:
    """Path of `relative` below `raw`; raises ValueError when it climbs out, by `..` or by a symbolic link.

    A link right below `raw` is followed: large image folders often lie on another disk.
    """
    parts = PurePosixPath(relative).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in relative:
        raise ValueError("path leaves the raw folder")
    real = os.path.realpath(os.path.join(raw, relative))
    roots = [os.path.realpath(raw)] + ([os.path.realpath(os.path.join(raw, parts[0]))] if len(parts) > 1 else [])
    if not any(real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        raise ValueError("path leaves the raw folder through a symbolic link")
    return real


def decode(data: bytes) -> np.ndarray:
    """Bytes of a JPEG or PNG file, whatever its name, to a uint8 array (height, width).

    Colour becomes luma, transparency is laid on black, more than 8 bits are scaled from minimum to maximum, orientation
    tags are ignored. Raises ValueError, with the reason, for anything that is not a whole image with something on it.
    """
    if not data:
        raise ValueError("empty file (0 bytes)")
    png = data.startswith(b"\x89PNG")
    if not png and not data.startswith(b"\xff\xd8\xff"):
        raise ValueError(f"not a JPEG or PNG image (begins with {data[:8]!r})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            if min(image.size) < MIN_SIDE:
                raise ValueError(f"{image.width} x {image.height} pixels: smaller than {MIN_SIDE} px")
            image.load()  # Pillow notices a truncated file; OpenCV fills the rest with grey
            if png and b"IEND" not in data[-1000:]:
                raise ValueError("truncated PNG (no end mark)")
            grey = _grey(image, data if png and data[24] == 16 else None)
    except ValueError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"huge image: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError("cannot be decoded: damaged header") from None
    except Exception as problem:  # decoders raise many kinds on damaged bytes; each is a fault of this one record
        raise ValueError(f"cannot be decoded: {problem or type(problem).__name__}") from None
    if grey.min() == grey.max():
        raise ValueError(f"constant image (every pixel is {grey[0, 0]})")
    return grey


def _grey(image: Image.Image, deep_png: bytes | None) -> np.ndarray:
    if deep_png is not None:  # Pillow keeps only the upper 8 bits of 16-bit colour
        pixels = cv2.imdecode(np.frombuffer(deep_png, np.uint8), cv2.IMREAD_UNCHANGED).astype(np.float64)
        if pixels.ndim == 3:
            alpha = pixels[..., 3] / 65535 if pixels.shape[2] == 4 else 1.0
            pixels = pixels[..., :3] @ np.array([0.114, 0.587, 0.299]) * alpha
        return _min_max(pixels)
    if image.mode.startswith("I") or image.mode == "F":
        return _min_max(np.asarray(image, dtype=np.float64))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"), dtype=np.uint16)
        return ((np.asarray(image.convert("L"), dtype=np.uint16) * alpha + 127) // 255).astype(np.uint8)
    if image.mode == "P":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _min_max(pixels: np.ndarray) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / max(high - low, 1e-9) * 255).astype(np.uint8)  # cut, not rounded: released dcm2jpg.py


def shrink_and_pad(grey: np.ndarray, size: int) -> np.ndarray:
    """uint8 (height, width) -> (size, size): longer side to `size` px, the other cut to whole pixels, zeros around.

    Area interpolation also when enlarging; the larger half of an odd pad comes after the image (X-VL release).
    Raises ValueError when the image is so long that its shorter side vanishes.
    """
    height, width = grey.shape
    if height >= width:
        new = (size, int(width * size / height))
    else:
        new = (int(height * size / width), size)
    if min(new) == 0:
        raise ValueError(f"{width} x {height} pixels: too long and narrow")
    out = np.zeros((size, size), np.uint8)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    out[top : top + new[0], left : left + new[1]] = cv2.resize(grey, new[::-1], interpolation=cv2.INTER_AREA)
    return out
