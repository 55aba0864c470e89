"""DICOM: stored values of any kind become the right grey levels."""

import io

import h5py
import numpy as np
import pydicom
import pytest
from data_prep_trees import covid_tree, prepare
from dicom_made import COLOUR, RAMP, assert_near, made, scaled, sequence

from data_prep.reading import dicom

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_minimum_to_maximum_of_any_depth(kind):
    half = np.iinfo(kind).max // 2 if np.iinfo(kind).max > 255 else 60
    values = (RAMP % 120 - (60 if np.iinfo(kind).min else 0)).astype(np.int64) * (half // 60)
    assert_near(dicom.decode(made(values.astype(kind))), scaled(values))


@pytest.mark.parametrize("name, kind", [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_floating_point_pixels(name, kind):
    values = RAMP / 7.0 - 50
    values[0, :9] = np.nan  # no measurement there: black, like padding
    dataset = pydicom.dcmread(io.BytesIO(made(RAMP.astype(f"u{kind[2]}"))))
    del dataset.PixelData, dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit
    setattr(dataset, name, values.astype(kind).tobytes())
    file = io.BytesIO()
    dataset.save_as(file)
    expected = scaled(values, np.nanmin(values), np.nanmax(values))
    assert_near(dicom.decode(file.getvalue()), np.nan_to_num(expected))


def test_monochrome1_is_inverted():
    assert_near(
        dicom.decode(made(RAMP.astype(np.uint16), PhotometricInterpretation="MONOCHROME1")),
        255 - scaled(RAMP),
    )


def test_the_first_window_after_the_rescale():
    pixels, values = RAMP.astype(np.uint16), RAMP * 2.0 - 1000
    given = {
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "WindowCenter": [0, 5],
        "WindowWidth": [500, 1],
    }
    assert_near(dicom.decode(made(pixels, **given)), scaled(values, -250, 249))
    assert_near(
        dicom.decode(made(pixels, **given, VOILUTFunction="LINEAR_EXACT")),
        scaled(values, -250, 250),
    )
    sigmoid = 255 / (1 + np.exp(-4 * values / 500))
    assert_near(dicom.decode(made(pixels, **given, VOILUTFunction="SIGMOID")), sigmoid)
    inverted = made(pixels, **given, PhotometricInterpretation="MONOCHROME1")
    assert_near(dicom.decode(inverted), 255 - scaled(values, -250, 249))


@pytest.mark.parametrize("window", [(9e6, 10), (100, 0), (100, -5), ("", ""), (100, None)])
def test_a_window_that_makes_no_sense_is_left_aside(window):
    data = made(RAMP.astype(np.uint16), WindowCenter=window[0], WindowWidth=window[1])
    assert_near(dicom.decode(data), scaled(RAMP))


def test_lookup_tables():
    pixels = RAMP.astype(np.uint16)
    table = (np.arange(1200)[::-1] * 50).astype("<u2")
    item = {"LUTDescriptor": [1200, 0, 16], "LUTData": table.tobytes()}
    voi = made(pixels, VOILUTSequence=sequence(**item))
    assert_near(dicom.decode(voi), table[RAMP] / 65535 * 255)
    modality = made(pixels, ModalityLUTSequence=sequence(**item, ModalityLUTType="US"))
    assert_near(dicom.decode(modality), scaled(table[RAMP].astype(float)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(photometric):
    pixels = RAMP.astype(np.int16)
    pixels[:5], pixels[-5:] = -2000, -1990
    expected = scaled(pixels, pixels[5:-5].min(), pixels[5:-5].max())
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    expected[:5] = expected[-5:] = 0
    data = made(
        pixels,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    assert_near(dicom.decode(data), expected)
    with pytest.raises(ValueError, match="nothing but padding"):
        dicom.decode(made(pixels * 0 - 9, PixelPaddingValue=-9))


def test_overlays_in_unused_bits_are_left_out():
    values = RAMP % 1024
    pixels = (values | (RAMP % 7 == 0) << 12).astype(np.uint16)
    overlay = {"BitsStored": 12, "HighBit": 11}
    data = pydicom.dcmread(io.BytesIO(made(pixels, **overlay)))
    data.add_new((0x6000, 0x0100), "US", 16)
    data.add_new((0x6000, 0x0102), "US", 12)
    file = io.BytesIO()
    data.save_as(file)
    assert_near(dicom.decode(file.getvalue()), scaled(values))


def test_colour_becomes_luma():
    rgb = np.stack([RAMP % 256, RAMP % 200, RAMP % 50], -1).astype(np.uint8)
    data = made(rgb, **COLOUR)
    assert_near(dicom.decode(data), rgb @ [0.299, 0.587, 0.114])


def test_equalised_as_in_mimic_cxr_jpg():
    steep = (RAMP.astype(float) ** 3 / 1e5).astype(np.uint16)
    usual, equal = dicom.decode(made(steep)), dicom.decode(made(steep), equalise=True)
    assert np.median(usual) < 40 and 100 < np.median(equal) < 155
    window = {"WindowCenter": 3, "WindowWidth": 2}
    np.testing.assert_array_equal(dicom.decode(made(steep, **window), equalise=True), equal)


def test_the_setting_dicom(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    (raw / "images" / "0.png").write_bytes(made((RAMP.astype(float) ** 3 / 1e5).astype(np.uint16)))
    pixels = {}
    for value in ("window", "equalised"):
        prepare("covid_cxr", raw, tmp_path / value, settings={"dicom": value})
        with h5py.File(tmp_path / value / "images.h5") as file:
            pixels[value] = file["cxr"][:]
    assert pixels["equalised"][0].mean() > pixels["window"][0].mean() + 20
    np.testing.assert_array_equal(
        pixels["equalised"][1:], pixels["window"][1:]
    )  # other formats are left alone
