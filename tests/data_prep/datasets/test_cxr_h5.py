"""An HDF5 file of pixels and its CSV: linked when usable as they are, copied otherwise, refused
when they do not fit.
"""

import hashlib

import h5py
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import assert_checked, contents, prepare
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_prep import DataError
from data_prep.__main__ import main
from data_prep.datasets import cxr_h5
from medxvl.data import dataset

RNG = np.random.default_rng(0)


def pair(root, pixels=None, count=12, name="cxr", **columns):
    root.mkdir(parents=True)
    pixels = RNG.integers(0, 256, (count, 32, 32), dtype=np.uint8) if pixels is None else pixels
    with h5py.File(root / "cxr.h5", "w") as file:
        file[name] = pixels
    count = len(pixels)
    table = {
        "Path": [f"files/p10/p1000000{k % 10}/s5{count - k:07d}/i{k}.jpg" for k in range(count)]
    }
    table |= {"impression": [f"No edema {k}." for k in range(count)]}
    pd.DataFrame(table | columns).to_csv(root / "cxr.csv", index=False)
    return root, pixels


def stored(folder):
    with h5py.File(folder / "images.h5") as file:
        return file["cxr"][:]


def is_link(folder):
    with h5py.File(folder / "images.h5") as file:
        return isinstance(file.get("cxr", getlink=True), h5py.ExternalLink)


def test_usable_as_it_is(tmp_path):
    """No copy: the rows keep the order of the file, which is not that of the study ids."""
    raw, pixels = pair(tmp_path / "raw")
    before = hashlib.sha256((raw / "cxr.h5").read_bytes()).hexdigest()
    index, card, rejects = prepare("cxr_h5", raw, tmp_path / "out")
    assert is_link(tmp_path / "out") and (tmp_path / "out" / "images.h5").stat().st_size < 5000
    assert np.array_equal(stored(tmp_path / "out"), pixels) and card["images"] == 12 and not rejects
    assert (
        index["image_id"].tolist() == [f"i{k}" for k in range(12)]
        and index["patient_id"][3] == "10000003"
    )
    assert index["study_id"][0] == "50000012" and not index["study_id"].is_monotonic_increasing
    assert index["Edema"].tolist() == ["0"] * 12 and index["impression"][2] == "No edema 2."
    opened = dataset.Dataset(tmp_path / "out")
    assert np.array_equal(opened.images([7, 3]), pixels[[7, 3]])
    assert hashlib.sha256((raw / "cxr.h5").read_bytes()).hexdigest() == before
    (raw / "cxr.h5").unlink()
    with pytest.raises(KeyError):  # gone is an error, never black images
        stored(tmp_path / "out")


def test_the_two_may_be_moved_together(tmp_path):
    raw, pixels = pair(tmp_path / "here" / "raw")
    prepare("cxr_h5", raw, tmp_path / "here" / "out")
    (tmp_path / "here").rename(tmp_path / "there")
    assert np.array_equal(stored(tmp_path / "there" / "out"), pixels)


def test_a_copy_is_sorted(tmp_path):
    raw, pixels = pair(tmp_path / "raw")
    linked, _, _ = prepare("cxr_h5", raw, tmp_path / "linked")
    copied, _, _ = prepare("cxr_h5", raw, tmp_path / "copied", settings={"copy": "yes"})
    assert not is_link(tmp_path / "copied") and np.array_equal(
        stored(tmp_path / "copied"), pixels[::-1]
    )
    assert (
        linked["h5_row"].tolist() == copied["h5_row"].tolist()[::-1] == [str(k) for k in range(12)]
    )
    assert copied.equals(linked.sort_values("study_id", ignore_index=True))
    for name in ("linked", "copied"):
        assert_checked(tmp_path / name)
    prepare("cxr_h5", raw / "cxr.h5", tmp_path / "again")
    assert contents(tmp_path / "again")["index.csv"] == contents(tmp_path / "linked")["index.csv"]


def test_another_size_is_resized_and_noted(tmp_path):
    raw, pixels = pair(tmp_path / "raw")
    _, card, _ = prepare("cxr_h5", raw, tmp_path / "out", size=16)
    assert stored(tmp_path / "out").shape == (12, 16, 16)
    assert_checked(tmp_path / "out")
    assert any("--size 32 needs no copy" in note for note in card["notes"])
    assert cxr_h5.own_size(raw) == cxr_h5.own_size(raw / "cxr.h5") == 32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.astype(np.float32), "grey levels 0..255"),
        (lambda p: p.astype(np.float64) / 255, "values 0..1 x 255"),
        (lambda p: p.astype(np.int16), "grey levels 0..255"),
        (lambda p: (p.astype(np.uint16) + 300) * 7, "minimum to maximum"),
        (lambda p: p.astype(np.float32) - 128, "minimum to maximum"),
    ],
)
def test_other_numbers_become_grey_levels(tmp_path, make, words):
    pixels = RNG.integers(0, 256, (6, 32, 32), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = 0, 255
    raw, _ = pair(tmp_path / "raw", make(pixels))
    _, card, _ = prepare("cxr_h5", raw, tmp_path / "out")
    assert np.array_equal(stored(tmp_path / "out"), pixels[::-1]) and not is_link(tmp_path / "out")
    assert any(note.startswith("pixels: 6 x 32 x 32") and words in note for note in card["notes"])


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(np.float32, (4, 4), elements=st.floats(width=32)),
    st.sampled_from([0.0, 1.0, 255.0]),
)
def test_any_numbers_are_grey_or_a_reason(image, scale):
    try:
        grey = cxr_h5.to_grey(image, scale)
    except ValueError as problem:
        assert str(problem)
    else:
        assert grey.dtype == np.uint8 and grey.shape == (4, 4)


def test_not_square_is_padded(tmp_path):
    raw, _ = pair(tmp_path / "raw", RNG.integers(1, 256, (5, 32, 16), dtype=np.uint8))
    prepare("cxr_h5", raw, tmp_path / "out")
    images = stored(tmp_path / "out")
    assert images.shape == (5, 32, 32) and not images[:, :, :8].any() and images[:, :, 8:24].all()


def test_faults_of_records(tmp_path):
    pixels = RNG.integers(0, 256, (40, 32, 32)).astype(np.float32)
    pixels[3], pixels[4, 0, 0], pixels[5, 0, 0] = 7, np.nan, 999
    labels = ["1"] * 40
    labels[6] = "maybe"
    texts = [f"Clear {k}." for k in range(40)]
    texts[8] = ""
    raw, _ = pair(tmp_path / "raw", pixels, Edema=labels, impression=texts)
    with open(raw / "cxr.csv") as file:
        lines = file.read().splitlines()
    lines[10] += ",one,more"
    (raw / "cxr.csv").write_text("\n".join(lines))
    table = cxr_h5.read(raw, cxr_h5.SETTINGS)
    assert len(table.rows) == 37
    _, card, rejects = prepare("cxr_h5", raw, tmp_path / "out", settings={"max_reject_share": 1})
    reasons = {int(name.split()[1]): reason for name, reason in rejects.items()}
    assert reasons == {
        4: "constant image (every pixel is 7)", 5: "values that are no finite numbers",
        7: "label Edema is 'maybe', expected 1, 0, -1 or empty", 9: "empty report, or none "
                                                                    "with findings or impression",
        6: "values 0..999, other images have 0..255", 10: "5 cells, the header has 3",
    }  # fmt: skip
    assert card["images"] == 34


def test_a_constant_image_in_a_file_usable_otherwise(tmp_path):
    pixels = RNG.integers(0, 256, (40, 32, 32), dtype=np.uint8)
    pixels[3] = 0
    raw, _ = pair(tmp_path / "raw", pixels)
    _, card, rejects = prepare("cxr_h5", raw, tmp_path / "out")
    assert list(rejects.values()) == ["constant image (every pixel is 0)"]
    assert np.array_equal(stored(tmp_path / "out"), np.delete(pixels, 3, 0)[::-1]) and not is_link(
        tmp_path / "out"
    )
    assert_checked(tmp_path / "out")


def test_chexpert_paths_and_labels(tmp_path):
    paths = [f"CheXpert-v1.0/test/patient{k}/study1/view1_frontal.jpg" for k in range(12)]
    raw, _ = pair(tmp_path / "raw")
    pd.DataFrame({"Path": paths, "Edema": [1.0, 0.0] * 6}).to_csv(raw / "cxr.csv", index=False)
    index, card, _ = prepare("cxr_h5", raw, tmp_path / "out")
    assert index["study_id"][2] == "patient2/study1" and index["patient_id"][2] == "patient2"
    assert index["Edema"].tolist() == ["1", "0"] * 6 and set(index["impression"]) == {""}
    pd.DataFrame({"impression": ["Clear."] * 12}).to_csv(raw / "cxr.csv", index=False)
    index, _, _ = prepare("cxr_h5", raw, tmp_path / "out2")
    assert index["study_id"].tolist() == [f"row {k:02d}" for k in range(1, 13)]


def test_limit_copies_the_first(tmp_path):
    raw, pixels = pair(tmp_path / "raw")
    index, _, rejects = prepare("cxr_h5", raw, tmp_path / "out", limit=5)
    assert np.array_equal(stored(tmp_path / "out"), pixels[:6:-1]) and len(rejects) == 7


def test_faults_of_the_dataset(tmp_path):
    raw, _ = pair(tmp_path / "raw")

    def error(**settings):
        with pytest.raises(DataError) as caught:
            prepare("cxr_h5", raw, tmp_path / "out", settings=settings)
        return str(caught.value)

    good = (raw / "cxr.csv").read_text()
    (raw / "cxr.csv").write_text(good.rsplit("\n", 2)[0])
    assert "found 11 rows in cxr.csv, 12 images in cxr.h5" in error()
    (raw / "cxr.csv").write_text(good)
    assert "expected a dataset pixels in" in error(dataset="pixels") and "found cxr" in error(
        dataset="pixels"
    )
    assert "labels to be auto or text or none" in error(labels="all")
    (raw / "other.csv").write_text(good)
    prepare("cxr_h5", raw, tmp_path / "same name")
    (raw / "cxr.csv").rename(raw / "third.csv")
    assert "found other.csv, third.csv; name the one" in error()
    prepare("cxr_h5", raw, tmp_path / "named", settings={"csv": "third.csv"})
    for name in ("other.csv", "third.csv"):
        (raw / name).unlink()
    assert "expected the CSV of cxr.h5; found none" in error()
    (raw / "cxr.csv").write_text(good)
    with h5py.File(raw / "cxr.h5", "w") as file:
        file["cxr"] = np.zeros((12, 8, 8, 3), np.uint8)
    assert "found 12 x 8 x 8 x 3 of uint8" in error()
    (raw / "cxr.h5").write_bytes(b"not HDF5")
    assert "expected an HDF5 file" in error()
    (raw / "second.h5").write_bytes(b"")
    assert "found cxr.h5, second.h5; give the file" in error()
    with pytest.raises(DataError, match="expected cxr_h5"):
        prepare("cxr_h5", tmp_path, tmp_path / "out")


def test_damaged_files_are_one_message(tmp_path, capsys):
    raw, _ = pair(tmp_path / "raw", RNG.integers(0, 256, (12, 64, 64), dtype=np.uint8))
    whole = (raw / "cxr.h5").read_bytes()
    damaged = [
        whole[: len(whole) // 2],
        b"not HDF5",
        b"",
        *(whole[:k] + b"\xff" * 64 + whole[k + 64 :] for k in (96, 800)),
    ]
    for content in damaged:
        (raw / "cxr.h5").write_bytes(content)
        assert main(["cxr_h5", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "error: expected an" in error or "error: expected a dataset" in error
    for path in (tmp_path / "nowhere", tmp_path):
        assert main(["cxr_h5", "--raw", str(path), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: expected cxr_h5: ")
        assert path == tmp_path or f"found nothing at {path}" in error


def test_a_damaged_block_of_pixels_costs_its_images_only(tmp_path):
    raw, pixels = pair(tmp_path / "raw")
    with h5py.File(raw / "cxr.h5", "w") as file:
        stored_images = file.create_dataset(
            "cxr", data=pixels, chunks=(1, 32, 32), compression="gzip"
        )
        place = stored_images.id.get_chunk_info(5).byte_offset
    content = bytearray((raw / "cxr.h5").read_bytes())
    content[place : place + 100] = b"\xff" * 100
    (raw / "cxr.h5").write_bytes(content)
    index, _, rejects = prepare(
        "cxr_h5", raw, tmp_path / "out", settings={"max_reject_share": 1}, size=32
    )
    assert len(index) == 11 and 5 not in set(index["h5_row"].astype(int))
    assert [reason for reason in rejects.values() if reason.startswith("cannot be read: ")] and len(
        rejects
    ) == 1
