"""Open-I in every layout: archives as downloaded, unpacked, or the Indiana pair of tables; all give
the same rows.
"""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from data_prep_trees import contents, encoded, picture, prepare

from data_prep import DataError
from data_prep.datasets.openi_reports import image, study
from data_prep.reading import images
from data_prep.reading.raw import split_by_hash

REPORT = (
    '<r><uId id="CXR{k}"/><AbstractText Label="FINDINGS">{findings}</AbstractText>'
    '<AbstractText Label="IMPRESSION">Clear '
    "{k}.</AbstractText><MeSH><major>normal</major></MeSH>{images}</r>"
)
# report k has two images, but 3 has none and 4 has one that is not there; image CXR99 has no report
STUDIES = 8


def ids(k: int) -> list[str]:
    return [] if k == 3 else [f"CXR{k}_IM-{k:04d}-{n}001" for n in (1, 2)]


def xml_tree(root: Path) -> Path:
    (root / "ecgen-radiology").mkdir(parents=True)
    (root / "NLMCXR_png").mkdir()
    for k in range(STUDIES):
        named = "".join(f'<parentImage id="{i}"/>' for i in ids(k))
        text = REPORT.format(k=k, findings="No pneumothorax.", images=named)
        (root / "ecgen-radiology" / f"{k}.xml").write_text(text)
        for n, name in enumerate(ids(k)):
            if not (k == 4 and n == 0):
                (root / "NLMCXR_png" / f"{name}.png").write_bytes(encoded(picture(10 * k + n)))
    (root / "NLMCXR_png" / "CXR99_IM-1.png").write_bytes(encoded(picture(99)))
    return root


def add_projections(root: Path) -> None:
    rows = [
        {"uid": k, "filename": f"{name[3:]}.dcm.png", "projection": ["Frontal", "Lateral"][n]}
        for k in range(STUDIES)
        for n, name in enumerate(ids(k))
    ]
    pd.DataFrame(rows).to_csv(root / "indiana_projections.csv", index=False)


def pair_tree(root: Path) -> Path:
    """The Indiana tables and PNG files named as they name them."""
    (root / "images").mkdir(parents=True)
    for path in sorted((xml_tree(root / "xml") / "NLMCXR_png").glob("*.png")):
        path.rename(root / "images" / f"{path.stem[3:]}.dcm.png")
    shutil.rmtree(root / "xml")
    rows = [
        {"uid": k, "MeSH": "normal", "findings": "No pneumothorax.", "impression": f"Clear {k}."}
        for k in range(STUDIES)
    ]
    pd.DataFrame(rows).to_csv(root / "indiana_reports.csv", index=False)
    add_projections(root)
    return root


def packed_tree(root: Path) -> Path:
    """Both archives, as downloaded."""
    made = xml_tree(root / "made")
    for name, folder, inside in (
        ("reports", "ecgen-radiology", "ecgen-radiology"),
        ("png", "NLMCXR_png", "."),
    ):
        with tarfile.open(root / f"NLMCXR_{name}.tgz", "w:gz") as archive:
            archive.add(made / folder, inside)
    shutil.rmtree(made)
    return root


def pixels(folder: Path) -> np.ndarray:
    with h5py.File(folder / "images.h5") as h5:
        return h5["cxr"][:]


def test_names_of_one_image_in_the_two_layouts():
    assert (
        image("CXR1_1_IM-0001-4001.png") == image("1_IM-0001-4001.dcm.png") == "CXR1_IM-0001-4001"
    )
    assert image("NLMCXR_png/CXR2_IM-0652-1001-0002.png") == "CXR2_IM-0652-1001-0002"
    assert study("12") == study("CXR12") == "CXR12"


def test_every_projection_of_the_real_tables_belongs_to_a_real_report(shared):
    from data_prep.datasets.openi import _views
    from data_prep.datasets.openi_reports import read_reports

    views = _views(shared / "data" / "openi")
    named = {
        i: r["study_id"]
        for _, r, _, _ in read_reports(shared / "data" / "openi")
        for i in r["_images"]
    }
    assert len(views) == 5239 and set(views["view"]) == {"FRONTAL", "LATERAL"}
    assert [named.get(i) for i in views.index] == list(views["study_id"])


def test_views_are_not_known_without_the_projections(tmp_path):
    index, card, rejects = prepare("openi", xml_tree(tmp_path / "raw"), tmp_path / "out")
    assert len(index) == 13 and (index["view"] == "").all()
    assert any("views are not known, every image is used" in note for note in card["notes"])
    assert rejects == {
        "ecgen-radiology/3.xml": "report names no image",
        "ecgen-radiology/4.xml CXR4_IM-0004-1001": "file not in the folder",
        "NLMCXR_png/CXR99_IM-1.png": "image of no report that is used",
    }
    steps = {step["step"]: step for step in card["attrition"]}
    assert (
        steps["report names an image"]["dropped"] == 1
        and steps["image file is there"]["dropped"] == 1
    )
    assert steps["images of these reports"]["gained"] == 7
    assert "1 image files belong to no report" in steps["images of these reports"]["why"]
    assert (index["Pneumothorax"] == "0").all() and (index["mesh"] == "normal").all()
    assert index["split"].tolist() == split_by_hash(index["study_id"]).tolist()  # of the id alone


def test_one_frontal_image_a_report_with_the_projections(tmp_path):
    raw = xml_tree(tmp_path / "raw")
    add_projections(raw)
    index, card, rejects = prepare("openi", raw, tmp_path / "out")
    assert list(index["study_id"]) == ["CXR0", "CXR1", "CXR2", "CXR5", "CXR6", "CXR7"]
    assert (index["view"] == "FRONTAL").all() and index["image_id"].str.endswith("-1001").all()
    assert rejects["ecgen-radiology/0.xml CXR0_IM-0000-2001"] == "not selected: view LATERAL"
    assert [(row["what"], row["expected"]) for row in card["expected"]] == [
        ("studies", 3547), ("train", 2483), ("valid", 710), ("test", 354),
    ]  # fmt: skip
    assert sum(row["found"] for row in card["expected"][1:]) == 6
    everything = {"images": "all", "views": "frontal,lateral"}
    index, card, _ = prepare("openi", raw, tmp_path / "all", settings=everything)
    assert len(index) == 13 and index["view"].value_counts().to_dict() == {
        "LATERAL": 7,
        "FRONTAL": 6,
    }
    assert sum(row["found"] for row in card["expected"][1:]) == 7  # studies, not images
    one = prepare("openi", raw, tmp_path / "one", settings={"views": "FRONTAL,LATERAL"})[0]
    assert len(one) == 6 and one.set_index("study_id")["view"]["CXR0"] == "FRONTAL"


def test_the_pair_of_tables_gives_the_rows_of_the_xml_files(tmp_path):
    raw = xml_tree(tmp_path / "xml")
    add_projections(raw)
    for settings in ({}, {"images": "all", "views": "FRONTAL,LATERAL"}):
        key = str(len(settings))
        of_xml, _, _ = prepare("openi", raw, tmp_path / f"x{key}", settings=settings)
        pair = pair_tree(tmp_path / f"pair{key}")
        of_pair, card, rejects = prepare("openi", pair, tmp_path / f"p{key}", settings=settings)
        pd.testing.assert_frame_equal(of_pair, of_xml)
        np.testing.assert_array_equal(pixels(tmp_path / f"p{key}"), pixels(tmp_path / f"x{key}"))
        assert rejects["images/99_IM-1.dcm.png"] == "image of no report that is used"
        assert rejects["indiana_reports.csv line 5"] == "report names no image"
    (pair / "indiana_projections.csv").unlink()
    index, card, _ = prepare("openi", pair, tmp_path / "without")
    assert len(index) == 13 and any(
        "whose number begins their name" in note for note in card["notes"]
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_images_are_read_from_their_archive(tmp_path, workers):
    of_files = prepare("openi", xml_tree(tmp_path / "xml"), tmp_path / "files")[0]
    index, card, rejects = prepare(
        "openi", packed_tree(tmp_path / "raw"), tmp_path / "out", workers=workers
    )
    pd.testing.assert_frame_equal(index, of_files)
    np.testing.assert_array_equal(pixels(tmp_path / "out"), pixels(tmp_path / "files"))
    assert rejects["./CXR99_IM-1.png"] == "image of no report that is used"
    assert any("images are read from NLMCXR_png.tgz" in note for note in card["notes"])


def test_a_stopped_run_on_the_archive_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    from data_prep.reading import archives

    raw, shrink, seen = packed_tree(tmp_path / "raw"), images.shrink_and_pad, []
    prepare("openi", raw, tmp_path / "whole")

    def stop_at_the_fifth(grey, size):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return shrink(grey, size)

    monkeypatch.setattr("data_prep.prepared.writing.MARK_SECONDS", 0)
    monkeypatch.setattr(archives, "shrink_and_pad", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        prepare("openi", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert 0 < sum((tmp_path / "out.partial" / "done.u8").read_bytes()) < 13
    monkeypatch.undo()
    prepare("openi", raw, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_hostile_and_broken_members_of_the_archive_of_images(tmp_path):
    raw = packed_tree(tmp_path / "raw")
    with tarfile.open(raw / "NLMCXR_png.tgz", "w:gz") as archive:
        for name, data in {
            "../CXR0_IM-0000-1001.png": encoded(picture(0)),
            "CXR1_IM-0001-1001.png": encoded(picture(10)),
            "again/CXR1_IM-0001-1001.png": encoded(picture(11)),
            "CXR2_IM-0002-1001.png": b"broken",
            "readme.txt": b"hello",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    index, _, rejects = prepare("openi", raw, tmp_path / "out", settings={"max_reject_share": 1})
    assert (
        list(index["image_id"]) == ["CXR1_IM-0001-1001"]
        and not (tmp_path / "CXR0_IM-0000-1001.png").exists()
    )
    assert rejects["../CXR0_IM-0000-1001.png"] == "archive member climbs out of its folder"
    assert (
        rejects["again/CXR1_IM-0001-1001.png"]
        == "not selected: CXR1_IM-0001-1001.png is the same image"
    )
    assert rejects["readme.txt"] == "not a .png file"
    assert (
        rejects["ecgen-radiology/2.xml CXR2_IM-0002-1001"]
        and rejects["ecgen-radiology/5.xml CXR5_IM-0005-1001"]
    )
    data = (raw / "NLMCXR_png.tgz").read_bytes()
    (raw / "NLMCXR_png.tgz").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        DataError, match="expected a whole archive at .*NLMCXR_png.tgz; .* download it again"
    ):
        prepare("openi", raw, tmp_path / "cut")


def test_a_split_from_lists_of_ids(tmp_path):
    raw, lists = xml_tree(tmp_path / "raw"), tmp_path / "lists"
    lists.mkdir()
    (lists / "Train.jsonl").write_text(
        "".join(json.dumps({"id": str(k), "text": "x"}) + "\n" for k in (0, 1, 2))
    )
    (lists / "openi_valid.txt").write_text("CXR4\n\n5\n")
    (lists / "Test.txt").write_text("6\n")
    index, card, rejects = prepare("openi", raw, tmp_path / "out", settings={"split": str(lists)})
    split = dict(zip(index["study_id"], index["split"], strict=True))
    assert split == {
        "CXR0": "train",
        "CXR1": "train",
        "CXR2": "train",
        "CXR4": "valid",
        "CXR5": "valid",
        "CXR6": "test",
    }
    assert rejects["ecgen-radiology/7.xml CXR7_IM-0007-1001"] == "not selected: in no split list"
    (lists / "Test.txt").write_text("6\n5\n")
    with pytest.raises(
        DataError,
        match="expected 5 in one split; found it in valid and openi_valid.txt|found it in test",
    ):
        prepare("openi", raw, tmp_path / "twice", settings={"split": str(lists)})
    (lists / "Train.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="one id a line in .*Train.jsonl"):
        prepare("openi", raw, tmp_path / "broken", settings={"split": str(lists)})
    with pytest.raises(DataError, match="drawn, or a folder with lists of ids; found 'nowhere'"):
        prepare("openi", raw, tmp_path / "nowhere", settings={"split": "nowhere"})


def test_the_real_pair_of_tables_as_text(shared, tmp_path):
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        shutil.copy(shared / "data" / "openi" / name, tmp_path)
    index, card, rejects = prepare("openi", tmp_path, tmp_path / "out", limit=500)
    assert len(index) == 500 and card["images"] == 0 and card["attrition"][0]["rows"] == 2700
    archive, _, _ = prepare(
        "openi", shared / "data" / "openi" / "NLMCXR_reports.tgz", tmp_path / "xml", limit=500
    )
    columns = ["study_id", "split", "findings", "impression", "No Finding", "Edema"]
    both = index[columns].merge(archive[columns], on="study_id")
    assert (
        len(both) > 450
    )  # the archive has further reports, so that the first 500 are not all the same
    for column in columns[1:]:
        assert (both[f"{column}_x"] == both[f"{column}_y"]).mean() > 0.98, column


def test_faults_of_the_tables(tmp_path):
    raw = pair_tree(tmp_path / "raw")
    table = pd.read_csv(raw / "indiana_reports.csv", dtype=str)
    table.loc[0, "uid"] = None
    table.loc[1, ["findings", "impression"]] = ["XXXX.", "n/a"]
    table.loc[2, "uid"] = "5"
    table.to_csv(raw / "indiana_reports.csv", index=False)
    index, _, rejects = prepare("openi", raw, tmp_path / "out", settings={"max_reject_share": 1})
    assert rejects["indiana_reports.csv line 2"] == "no report id (uid)"
    assert rejects["indiana_reports.csv line 3"] == "no findings or impression"
    assert (
        sum(reason == "study_id named before: first row used" for reason in rejects.values()) == 1
    )
    assert "CXR5" in set(index["study_id"])
    table.drop(columns="impression").to_csv(raw / "indiana_reports.csv", index=False)
    with pytest.raises(DataError, match="expected the columns impression in .*indiana_reports.csv"):
        prepare("openi", raw, tmp_path / "columns")


@pytest.mark.parametrize("name", ["NLMCXR_reports.tgz", "NLMCXR_png.tgz"])
@pytest.mark.parametrize("damage", ["header", "no end", "data", "not an archive"])
def test_a_damaged_archive_is_never_taken_for_a_shorter_one(tmp_path, name, damage):
    raw = packed_tree(tmp_path / "raw")
    whole = bytearray(gzip.decompress((raw / name).read_bytes()))
    with tarfile.open(raw / name) as archive:
        third = archive.getmembers()[3]
    if damage == "header":
        whole[third.offset + 3] ^= 1
    elif damage == "no end":
        whole = whole[: third.offset]
    packed = bytearray(gzip.compress(whole))
    if damage == "data":  # as if one stored byte had changed: only the checksum at the end tells
        packed[-8] ^= 1
    (raw / name).write_bytes(b"no archive" if damage == "not an archive" else packed)
    with pytest.raises(
        DataError, match="expected a whole archive at .*; download it again"
    ) as caught:
        prepare("openi", raw, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_three_bytes_of_the_real_archive(shared, tmp_path):
    data = bytearray((shared / "data" / "openi" / "NLMCXR_reports.tgz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3] = b"\0\0\0"
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(data)
    with pytest.raises(DataError, match="expected a whole archive"):
        prepare("openi", tmp_path, tmp_path / "out")


def test_a_table_from_windows_whose_cells_say_that_there_is_no_report(tmp_path):
    raw = pair_tree(tmp_path / "raw")
    words = ["nan", "NA", "None", "N/A", "null", "-"]
    rows = [
        {"uid": k, "MeSH": "", "findings": word, "impression": word} for k, word in enumerate(words)
    ]
    rows += [{"uid": 6, "MeSH": "", "findings": "n/a", "impression": "Can’t exclude edema."}]
    pd.DataFrame(rows).to_csv(raw / "indiana_reports.csv", index=False, encoding="cp1252")
    index, card, rejects = prepare("openi", raw, tmp_path / "out")
    assert list(index["impression"]) == ["Can’t exclude edema."] and not index["findings"].any()
    assert sum(reason == "no findings or impression" for reason in rejects.values()) == len(words)
    assert any("not UTF-8 and were read as Windows-1252" in note for note in card["notes"])
