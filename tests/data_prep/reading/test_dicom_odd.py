"""DICOM headers that are odd, broken or hostile."""

import tracemalloc
import zlib

import numpy as np
import pytest
from dicom_made import (
    BIG_ENDIAN,
    COLOUR,
    DEFLATED,
    IMPLICIT,
    JPEG_2000,
    LITTLE,
    RAMP,
    assert_near,
    made,
    scaled,
)

from data_prep.reading import dicom, images


@pytest.mark.numeric
@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("preamble", [True, False])
def test_transfer_syntaxes_with_and_without_preamble(syntax, preamble):
    assert_near(images.decode(made(RAMP.astype(np.uint16), syntax, preamble)), scaled(RAMP))


@pytest.mark.numeric
def test_one_frame_is_a_picture_and_two_are_not():
    pixels = RAMP.astype(np.uint16)
    assert_near(dicom.decode(made(pixels, NumberOfFrames=1)), scaled(RAMP))
    with pytest.raises(ValueError, match=r"multi-frame DICOM \(2 frames\)"):
        dicom.decode(made(pixels, NumberOfFrames=2))


@pytest.mark.parametrize(
    "elements, expected",
    [
        ({"Rows": 65535, "Columns": 65535}, "huge image"),
        ({"Rows": 0}, "30 x 0 pixels"),
        ({"Rows": None}, "30 x 0 pixels"),
        ({"Rows": 400}, "truncated DICOM"),
        ({"SamplesPerPixel": 2}, "2 samples a pixel"),
        ({"PhotometricInterpretation": None}, "whether white is bright"),
        ({"BitsAllocated": 13}, "Bits Allocated"),
        ({"BitsAllocated": None}, "Bits Allocated"),
        ({"PixelRepresentation": None}, "Pixel Representation"),
    ],
)
def test_impossible_headers(elements, expected):
    with pytest.raises(ValueError, match=expected):
        dicom.decode(made(RAMP.astype(np.uint16), **elements))


def test_small_and_constant_pictures():
    with pytest.raises(ValueError, match="1 x 1 pixels: smaller than 8"):
        images.decode(made(np.array([[[1, 2, 3]]], np.uint8), **COLOUR))
    with pytest.raises(ValueError, match=r"constant image \(every pixel is 5\)"):
        images.decode(made(np.full((40, 30), 5, np.uint16)))
    with pytest.raises(ValueError, match="constant image"):
        images.decode(made(np.full((40, 30, 3), 5, np.uint8), **COLOUR))


def test_what_would_fill_the_memory_is_refused_before():
    header = b"\xff\x4f\xff\x51\0\x29\0\0" + b"".join(
        n.to_bytes(4, "big") for n in (60000, 60000, 0, 0)
    )
    assert dicom.coded_size(header) == (60000, 60000)
    assert dicom.coded_size(b"\xff\xd8\xff\xe0\0\x04ab\xff\xc1\0\x0b\x0c\x01\x02\x03\x04\x01") == (
        772,
        258,
    )
    assert dicom.coded_size(b"\xff\xd8" + b"\xff" * 9) == dicom.coded_size(b"no image") == (0, 0)
    lying = made(RAMP.astype(np.uint16), JPEG_2000, codestream=header + bytes(100))
    bomb = made(RAMP.astype(np.uint16), DEFLATED)
    assert_near(dicom.decode(bomb), scaled(RAMP))
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    start = bomb.index(DEFLATED.encode()) + len(DEFLATED)
    bomb = (
        bomb[:start]
        + b"".join(deflate.compress(bytes(10_000_000)) for _ in range(40))
        + deflate.flush()
    )
    assert len(bomb) < 1_000_000
    tracemalloc.start()
    for data, expected in (
        (lying, "compressed picture of 60000 x 60000 px, header says 30 x 40"),
        (bomb, "inflates"),
    ):
        with pytest.raises(ValueError, match=expected):
            dicom.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 1.2e9
    tracemalloc.stop()
