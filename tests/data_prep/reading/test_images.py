"""Decoding of image files: what each format becomes, what each fault is called, how much reduced
decoding differs.
"""

import io
import os
import signal
import struct
import zlib

import numpy as np
import pytest
from data_prep_trees import contents, covid_tree, encoded, picture, prepare
from PIL import Image

from data_prep import DataError
from data_prep.reading import decoding, images

BIG = picture(0, 300, 200)
SMOOTH = np.tile(np.arange(60, dtype=np.uint8) * 4, (48, 1))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def huge_png() -> bytes:
    """A small file that says it holds 100,000 x 100,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded(picture(0))[33:]


def pages(kind: str) -> bytes:
    first, second = Image.fromarray(BIG), Image.fromarray(picture(1, 300, 200))
    return saved(first, kind, save_all=True, append_images=[second])


BROKEN = {
    "zero bytes": (b"", "empty file"),
    "text": (b"<html>not found</html>", "not an image: none of JPEG, PNG"),
    "GIF header alone": (b"GIF89a" + bytes(100), "cannot be decoded"),
    "JPEG header alone": (encoded(BIG, "JPEG")[:20], "cannot be decoded"),
    "JPEG cut in the middle": (encoded(BIG, "JPEG")[:-9000], "truncated"),
    "JPEG without its last byte": (encoded(BIG, "JPEG")[:-1], "truncated"),
    "progressive JPEG cut": (encoded(BIG, "JPEG", progressive=True)[:-500], "truncated"),
    "PNG cut in the middle": (encoded(BIG)[:-9000], "truncated"),
    "PNG without its end": (encoded(BIG)[:-12], "truncated"),
    "damaged PNG": (encoded(BIG)[:200] + b"\0" * 50 + encoded(BIG)[250:], "cannot be decoded"),
    "TIFF cut": (encoded(BIG, "TIFF")[:-9000], "cannot be decoded"),
    "BMP cut": (encoded(BIG, "BMP")[:-9000], "truncated"),
    "GIF cut": (encoded(BIG, "GIF")[:-9000], "truncated"),
    "WebP cut": (encoded(BIG, "WEBP")[:-900], "cannot be decoded"),
    "PPM cut": (encoded(BIG, "PPM")[:-900], "truncated"),
    "JPEG 2000 cut": (encoded(BIG, "JPEG2000")[:-9000], "cannot be decoded"),
    "TIFF of two pages": (pages("TIFF"), "TIFF of 2 frames or pages"),
    "GIF of two frames": (pages("GIF"), "GIF of 2 frames or pages"),
    "WebP of two frames": (pages("WEBP"), "WEBP of 2 frames or pages"),
    "PNG of two frames": (pages("PNG"), "PNG of 2 frames or pages"),
    "constant": (encoded(np.full((40, 40), 7, np.uint8)), "constant image (every pixel is 7)"),
    "constant, 16 bits": (encoded(np.full((40, 40), 700, np.uint16)), "constant image"),
    "constant JPEG, reduced": (
        encoded(np.full((900, 900), 7, np.uint8), "JPEG"),
        "constant image (every pixel is 7)",
    ),
    "fully transparent": (encoded(np.stack([BIG, BIG, BIG, BIG * 0], -1)), "constant image"),
    "not a number": (
        encoded(np.where(BIG > 9, BIG, np.nan).astype(np.float32), "TIFF"),
        "no numbers",
    ),
    "one pixel": (encoded(picture(0, 1, 1)), "1 x 1 pixels"),
    "a line": (encoded(picture(0, 1, 500)), "500 x 1 pixels"),
    "long and narrow": (encoded(picture(0, 8, 8000)), "too long and narrow"),
    "huge": (huge_png(), "huge image: more than 89,478,485 pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_image_is_rejected_with_its_reason(tmp_path, name):
    data, expected = BROKEN[name]
    (tmp_path / "x.jpg").write_bytes(data)
    for full in (False, True):
        grey, reason = images.load(tmp_path, "x.jpg", 64, full)
        assert grey is None and expected in reason
        assert "0x" not in reason.replace(
            "'\\x", ""
        )  # nothing accidental, like an address, in the text


def test_wrong_extension_is_no_fault(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(BIG))
    assert images.load(tmp_path, "x.jpg", 64)[1] == ""


def test_absent_and_oversized_files(tmp_path, monkeypatch):
    assert images.load(tmp_path, "x.jpg", 64) == (None, images.ABSENT)
    (tmp_path / "x.jpg").write_bytes(encoded(BIG))
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    assert "more than 10" in images.load(tmp_path, "x.jpg", 64)[1]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "WEBP"])
def test_formats_without_loss(kind):
    options = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    np.testing.assert_array_equal(images.decode(encoded(SMOOTH, kind, **options)), SMOOTH)


@pytest.mark.numeric
def test_deep_tiff_and_white_is_zero():
    deep = SMOOTH.astype(np.uint16) * 200 + 77
    expected = (SMOOTH / SMOOTH.max() * 255).astype(int)
    assert np.abs(images.decode(encoded(deep, "TIFF")) - expected).max() <= 1
    assert (
        np.abs(images.decode(encoded(SMOOTH.astype(np.float32) - 0.5, "TIFF")) - expected).max()
        <= 1
    )
    white = saved(Image.fromarray(deep), "TIFF", tiffinfo={262: 0})
    assert np.abs(images.decode(white) - (255 - expected)).max() <= 1
    shallow = saved(Image.fromarray(SMOOTH), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(
        images.decode(shallow), np.asarray(Image.open(io.BytesIO(shallow)))
    )


def test_transparent_grey_is_laid_on_black():
    data = encoded(
        np.stack([BIG, np.where(np.arange(200) < 100, 255, 0) + 0 * BIG], -1).astype(np.uint8)
    )
    grey = images.decode(data)
    np.testing.assert_array_equal(grey[:, :100], BIG[:, :100])
    assert not grey[:, 100:].any()


# ---------------------------------------------------------------- reduced resolution


def radiograph(height: int, width: int, noise: float = 3) -> np.ndarray:
    """Smooth shapes, an edge, and detector noise."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    shapes = (
        120 + 70 * np.sin(9 * y) * np.cos(7 * x) + 40 * ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.03)
    )
    return np.clip(shapes + np.random.default_rng(0).normal(0, noise, shapes.shape), 0, 255).astype(
        np.uint8
    )


@pytest.mark.numeric
@pytest.mark.parametrize("shape", [(2000, 2500), (2501, 1999), (1029, 1300)])
@pytest.mark.parametrize("size", [224, 512])
@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_decoding_differs_by_less_than_a_level(shape, size, progressive):
    data = encoded(radiograph(*shape), "JPEG", quality=90, progressive=progressive)
    reduced, whole = images.to_square(data, size), images.to_square(data, size, full=True)
    assert np.abs(reduced.astype(int) - whole).mean() < 1
    np.testing.assert_array_equal(reduced == 0, whole == 0)  # the same borders
    np.testing.assert_array_equal(whole, images.shrink_and_pad(images.decode(data), size))
    if images.reduction(*shape[::-1], size) > 1:
        assert (reduced != whole).any(), "nothing was reduced: the test shows nothing"


def test_reduction_never_goes_below_the_target():
    for longer in range(8, 9000, 37):
        for size in (64, 224, 320, 512, 1024):
            scale = images.reduction(longer // 2, longer, size)
            assert scale == 1 or longer / scale >= 1.2 * size
    assert images.reduction(2500, 2000, 512) == 4
    assert images.reduction(2400, 2000, 512) == 2
    assert images.reduction(1024, 1024, 512) == 1


def test_truncated_jpegs_are_found_in_reduced_decoding():
    for progressive in (False, True):
        data = encoded(radiograph(2000, 1600), "JPEG", progressive=progressive)
        assert images.reduction(1600, 2000, 224) == 4
        for cut in (1, 2, 100, len(data) // 2, len(data) - 400):
            with pytest.raises(ValueError, match="truncated|cannot be decoded"):
                images.to_square(data[:-cut], 224)


def test_one_odd_pixel_is_not_taken_for_a_constant_image():
    pixels = np.full((1600, 1600), 100, np.uint8)
    pixels[3, 3] = 110
    data = encoded(pixels, "JPEG", quality=100, subsampling=0)
    assert images.to_square(data, 200).max() >= 100


@pytest.mark.numeric
def test_colour_jpeg_in_reduced_decoding_is_its_luma():
    colour = np.stack(
        [radiograph(1500, 1200, 0), radiograph(1500, 1200, 0) // 2, radiograph(1500, 1200, 0)], -1
    )
    data = encoded(colour, "JPEG", quality=95)
    assert (
        np.abs(images.to_square(data, 224).astype(int) - images.to_square(data, 224, True)).mean()
        < 1
    )


def test_the_setting_decode(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    for k in range(4):
        (raw / "images" / f"{k}.png").write_bytes(encoded(radiograph(400, 300 + k), "JPEG"))
    for value in ("reduced", "full"):
        _, card, _ = prepare("covid_cxr", raw, tmp_path / value, settings={"decode": value})
        assert card["settings"]["decode"] == value
    assert contents(tmp_path / "reduced")["images.h5"] != contents(tmp_path / "full")["images.h5"]
    assert prepare("covid_cxr", raw, tmp_path / "usual")[1]["settings"]["decode"] == "reduced"
    with pytest.raises(DataError, match="decode to be reduced or full; found 'fast'"):
        prepare("covid_cxr", raw, tmp_path / "fast", settings={"decode": "fast"})


# ---------------------------------------------------------------- workers that die


def load_or_die(raw, relative, size):
    """Stands for images.load with a decoder that crashes on one file and hangs on another."""
    if relative == "crash.dcm":
        os.kill(os.getpid(), signal.SIGSEGV)
    if relative == "hang.dcm":
        signal.alarm(1)  # as if most of SECONDS had gone by
        while True:
            pass
    return images.load(raw, relative, size)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_crashes_or_hangs_costs_one_record(tmp_path, monkeypatch, workers):
    names = [f"{k}.png" for k in range(40)]
    for k, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(picture(k)))
    names[5], names[21] = "crash.dcm", "hang.dcm"
    monkeypatch.setattr(decoding, "load", load_or_die)
    found = {
        row: (grey, why)
        for row, grey, why in decoding.decoded(tmp_path, names, np.arange(40), 32, workers)
    }
    assert sorted(found) == list(range(40))
    assert [row for row in found if found[row][1]] in ([5, 21], [21, 5])
    assert found[5] == found[21] == (None, decoding.DIED)
    np.testing.assert_array_equal(found[30][0], images.load(tmp_path, "30.png", 32)[0])


def test_all_real_images_are_read(shared):
    """134 downloaded radiographs: PNG named .jpg, RGBA, palettes, CMYK."""
    folder = shared / "data" / "covid_cxr" / "images"
    reasons = {
        path.name: images.load(folder, path.name, 224)[1] for path in sorted(folder.iterdir())
    }
    assert len(reasons) > 100 and not any(reasons.values())
