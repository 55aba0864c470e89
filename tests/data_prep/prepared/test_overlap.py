"""Images that are in two splits: identical, and near-identical ones, on real radiographs and
through a whole run.
"""

import io
import itertools

import cv2
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import encoded, mimic_tree, picture, prepare
from PIL import Image

from data_prep.prepared import overlap
from data_prep.reading import images

PUBLISHED_TWICE = "covid-19-rapidly-progressive-acute-respiratory-distress-syndrome-ards-"
TWICE = {
    ("day-1.jpg", "16660_3_1.jpg"),
    ("day-2.jpg", "16660_4_1.jpg"),
    ("day-3.jpg", "16660_5_1.jpg"),
    ("admission.jpg", "16660_2_1.jpg"),
}


@pytest.fixture(scope="module")
def radiographs(shared) -> dict[str, np.ndarray]:
    raw = shared / "data" / "covid_cxr"
    table = pd.read_csv(raw / "metadata.csv", dtype=str)
    names = table["filename"][table["modality"] == "X-ray"]
    return {name: images.load(raw, f"images/{name}", 256)[0] for name in names}


def compare(pictures: list[np.ndarray], split: list[str]) -> list[tuple[int, int]]:
    hashes = np.stack([overlap.difference_hash(p) for p in pictures])
    return overlap.near_identical(
        hashes, [p.tobytes().hex() for p in pictures], split, lambda row: pictures[row]
    )


@pytest.mark.numeric
def test_real_radiographs_published_twice_are_found_and_no_others(radiographs):
    names, pictures = list(radiographs), list(radiographs.values())
    found = set()
    for turn in (0, 1):  # every pair of pictures is once in different splits
        for bit in range(7):
            split = ["test" if (k >> bit) % 2 == turn else "train" for k in range(len(names))]
            for pair in compare(pictures, split):
                found.add(
                    tuple(
                        sorted((names[i].removeprefix(PUBLISHED_TWICE) for i in pair), reverse=True)
                    )
                )
    same = {
        tuple(
            sorted((a.removeprefix(PUBLISHED_TWICE), b.removeprefix(PUBLISHED_TWICE)), reverse=True)
        )
        for a, b in itertools.combinations(names, 2)
        if (radiographs[a] == radiographs[b]).all()
    }
    assert found | same == {tuple(sorted(pair, reverse=True)) for pair in TWICE}


def altered(grey: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    noisy = grey + rng.normal(0, 3, grey.shape)
    return {
        "JPEG of quality 75": cv2.imdecode(
            cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], 0
        ),
        "halved": images.shrink_and_pad(half, len(grey)),
        "darker": (grey * 0.8 + 10).astype(np.uint8),
        "noise": np.clip(noisy, 0, 255).astype(np.uint8),
    }


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["JPEG of quality 75", "halved", "darker", "noise"])
def test_altered_copies_of_real_radiographs_are_found(radiographs, kind):
    pictures = list(radiographs.values())
    copies = [altered(grey)[kind] for grey in pictures]
    found = compare(pictures + copies, ["train"] * len(pictures) + ["test"] * len(copies))
    assert len(found) >= 0.97 * len(pictures)


@pytest.mark.numeric
def test_comparison_in_blocks_is_the_comparison_of_all(monkeypatch):
    rng = np.random.default_rng(1)
    smooth = [cv2.resize(rng.integers(0, 256, (8, 8), dtype=np.uint8), (64, 64)) for _ in range(40)]
    pictures = (
        smooth
        + [np.clip(p.astype(int) + 3, 0, 255).astype(np.uint8) for p in smooth[:10]]
        + smooth[10:12]
    )
    split = ["train"] * 30 + ["valid"] * 10 + ["test"] * 12
    found = compare(pictures, split)
    assert found == [
        (40 + k, k) for k in range(10)
    ]  # identical ones, the last two, are counted elsewhere
    monkeypatch.setattr(overlap, "BLOCK", 3)
    assert compare(pictures, split) == found
    assert compare(pictures, ["train"] * 52) == []


def test_a_recompressed_copy_in_another_split_is_reported(tmp_path):
    raw = mimic_tree(tmp_path / "raw")
    smooth = cv2.resize(picture(5, 9, 7), (60, 80), interpolation=cv2.INTER_CUBIC)
    (raw / "files/p10/p10000000/s50000000/a000.jpg").write_bytes(
        encoded(smooth, "JPEG", quality=95)
    )
    copy = Image.open(io.BytesIO(encoded(smooth, "JPEG", quality=60)))
    copy.save(raw / "files/p10/p10000002/s50000004/c004.jpg", "JPEG", quality=90)
    _, card, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert card["overlap"] == {
        "patients": 0,
        "studies": 0,
        "identical_images": 0,
        "near_identical_images": 1,
    }
    assert card["overlap_examples"]["near_identical_images"] == ["c004 ~ a000"]
    assert "1 near identical images in more than one split: c004 ~ a000" in card["notes"]


@pytest.mark.numeric
def test_constant_and_small_images_have_a_hash():
    assert not overlap.difference_hash(np.zeros((8, 8), np.uint8)).any()
    assert overlap.difference_hash(picture(1, 8, 8)).shape == (4,)
    assert overlap.correlation(np.zeros((8, 8), np.uint8), picture(1, 8, 8)) == 0
