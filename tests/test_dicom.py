"""DICOM: the right picture the right way round, or a reason; nothing crashes, hangs or fills the
memory.
"""

import io
import tracemalloc
import warnings
import zlib
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from data_prep_trees import covid_tree, prepare
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from data_prep import dicom, images

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = np.arange(40 * 30).reshape(40, 30)
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
LITTLE, BIG_ENDIAN, IMPLICIT, DEFLATED, JPEG_2000 = (
    UID(f"1.2.840.10008.1.2{end}") for end in (".1", ".2", "", ".1.99", ".4.90")
)
# What becomes of each real file: the shape, or the reason.
REAL = {
    "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm": (
        1024,
        1024,
    ),  # JPEG baseline, MONOCHROME2
    "CT_small.dcm": (128, 128),  # signed, rescaled, padded
    "Fake_MONOHR1.dcm": (1024, 1024),  # the same pixels as the first, but MONOCHROME1
    "JLSL_16_15_1_1F.dcm": (128, 128),  # JPEG-LS
    "JPEG-lossy.dcm": "DICOM cannot be decoded",  # broken codestream
    "MR_truncated.dcm": "truncated DICOM",
    "OBXXXX1A_rle.dcm": (600, 800),  # palette, RLE
    "RG1_J2KI.dcm": (1955, 1841),  # MONOCHROME1 radiographs, JPEG 2000
    "RG3_J2KR.dcm": (1760, 1760),
    "SC_rgb.dcm": (100, 100),
    "badVR.dcm": "DICOM whose NumberOfFrames is no number",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "truncated DICOM, or none at all",
    "meta_missing_tsyntax.dcm": "DICOM of 0 x 0 pixels",
    "no_meta.dcm": "not an image",  # a stray byte stands before the first element
    "rtplan.dcm": "DICOM without pixels (RT Plan Storage)",
}


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
    assert grey.dtype == np.uint8 and np.abs(grey - expected).max() <= 0.51  # whole levels


# ---------------------------------------------------------------- real files


def test_each_real_file_is_decoded_or_named(shared, tmp_path):
    folder = shared / "data" / "dicom"
    assert sorted(REAL) == sorted(path.name for path in folder.iterdir())
    for name, expected in REAL.items():
        (tmp_path / "x.jpg").write_bytes(
            (folder / name).read_bytes()
        )  # recognised by content, whatever the suffix
        grey, reason = images.load(tmp_path, "x.jpg", 64)
        if isinstance(expected, str):
            assert grey is None and reason.startswith(expected), name
        else:
            assert reason == "" and images.decode((folder / name).read_bytes()).shape == expected, (
                name
            )


def test_bone_is_bright(shared):
    def of(name: str) -> np.ndarray:
        return images.decode((shared / "data" / "dicom" / name).read_bytes()).astype(int)

    plain, fake = (
        of("1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"),
        of("Fake_MONOHR1.dcm"),
    )
    assert plain[500:900, 470:550].mean() > plain[350:550, 250:400].mean() + 50  # spine and lung
    np.testing.assert_array_equal(
        fake, 255 - plain
    )  # same stored values, said to mean the opposite
    chest, leg = of("RG1_J2KI.dcm"), of("RG3_J2KR.dcm")
    assert chest[900:1500, 850:950].mean() > chest[500:800, 350:500].mean() + 30
    assert leg[650:750, 690:760].mean() > leg[650:750, 1150:1200].mean() + 50  # tibia and air


def test_every_bundled_file_of_pydicom_gives_a_picture_or_a_reason(tmp_path):
    files = sorted(path for path in BUNDLED.rglob("*") if path.is_file())
    assert len(files) > 100
    outcome = {path.name: images.load(path.parent, path.name, 64) for path in files}
    pictures = [name for name, (grey, _) in outcome.items() if grey is not None]
    reasons = {name: reason for name, (_, reason) in outcome.items() if reason}
    assert len(pictures) > 60 and len(pictures) + len(reasons) == len(outcome)
    assert all(
        len(reason) < 400 and "\n" not in reason and "0x" not in reason
        for reason in reasons.values()
    )
    for name, expected in {
        "waveform_ecg.dcm": "without pixels (12-lead ECG Waveform Storage)",
        "test-SR.dcm": "without pixels",
        "rtstruct.dcm": "without pixels",
        "DICOMDIR": "without pixels",
        "rtdose.dcm": "multi-frame DICOM (15 frames)",
        "examples_ybr_color.dcm": "multi-frame DICOM (30 frames)",
        "SC_rgb_small_odd.dcm": "3 x 3 pixels",
    }.items():
        assert expected in reasons[name]
    same = [name for name in pictures if name.startswith("MR_small")]
    assert len(same) >= 7  # raw, big endian, implicit, RLE, JPEG 2000, JPEG-LS
    for name in same:
        np.testing.assert_array_equal(outcome[name][0], outcome["MR_small.dcm"][0])
    colour = [
        name
        for name in pictures
        if name.startswith(("SC_rgb_dcmtk", "SC_rgb_gdcm", "SC_rgb_rle", "SC_ybr"))
    ]
    assert len(colour) >= 8  # RGB and YBR, JPEG in several samplings
    for name in colour:
        assert np.abs(outcome[name][0].astype(int) - outcome["SC_rgb_rle.dcm"][0]).mean() < 3, name
    for needs_decoder in (
        "JPGExtended.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "JPEG2000.dcm",
        "JPEGLSNearLossless_16.dcm",
    ):
        assert needs_decoder in pictures  # 12-bit, lossless JPEG, JPEG 2000, JPEG-LS


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_RLE.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "image_dfl.dcm",
    ],
)
def test_damaged_files_give_a_picture_or_a_reason(name):
    data, random = (BUNDLED / name).read_bytes(), np.random.default_rng(0)
    for trial in range(40):
        damaged = bytearray(data)
        for place in random.integers(0 if trial % 2 else len(data) // 2, len(data), 1 + trial % 7):
            damaged[place] = random.integers(256)
        cut = random.integers(1, len(data)) if trial % 5 == 0 else len(data)
        try:
            assert images.decode(bytes(damaged[:cut])).dtype == np.uint8
        except ValueError:
            pass


def test_dicom_in_a_dataset(tmp_path):
    raw = covid_tree(tmp_path / "raw", 24)
    for k, data in enumerate(
        (made(RAMP.astype(np.uint16)), (BUNDLED / "rtplan.dcm").read_bytes(), b"\x08\0 rest")
    ):
        (raw / "images" / f"{k}.png").write_bytes(data)
    index, _, rejects = prepare(
        "covid_cxr", raw, tmp_path / "out", settings={"max_reject_share": 0.2}
    )
    assert len(index) == 22 and "0.png" in set(index["image_id"])
    assert rejects["images/1.png"] == "DICOM without pixels (RT Plan Storage)"
    assert "DICOM" in rejects["images/2.png"]


# ---------------------------------------------------------------- stored values to grey levels


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


# ---------------------------------------------------------------- odd, broken and hostile files


@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("preamble", [True, False])
def test_transfer_syntaxes_with_and_without_preamble(syntax, preamble):
    assert_near(images.decode(made(RAMP.astype(np.uint16), syntax, preamble)), scaled(RAMP))


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
