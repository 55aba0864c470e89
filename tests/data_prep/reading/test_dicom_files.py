"""DICOM files of many makers: the right picture the right way round, or a reason."""

import numpy as np
import pytest
from data_prep_trees import covid_tree, prepare
from dicom_made import BUNDLED, RAMP, made

from data_prep.reading import images

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


@pytest.mark.numeric
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


@pytest.mark.numeric
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
    for name in colour:  # 3 levels: what JPEG of these files loses on average is less
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
