"""Hostile and damaged archives: members that climb out, bombs, cut files."""

import io
import tarfile
import zipfile

import pytest
from data_prep_trees import GOOD, mimic_tree, prepare

from data_prep import DataError

BOMB = '<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + GOOD.format("CXR7", "&b;")


def test_hostile_archive_members_are_refused(tmp_path):
    outside = tmp_path / "evil.xml"
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:

        def add(name: str, data: bytes = b"", **options) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in options.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))

        add("ecgen-radiology/1.xml", GOOD.format("CXR1", "Clear.").encode())
        add("../evil.xml", GOOD.format("CXR2", "Climbs.").encode())
        add(str(outside), GOOD.format("CXR3", "Absolute.").encode())
        add("ecgen-radiology/link.xml", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("ecgen-radiology/hard.xml", type=tarfile.LNKTYPE, linkname="ecgen-radiology/1.xml")
        add("ecgen-radiology/7.xml", BOMB.encode())
        add("ecgen-radiology/8.xml", b"<r><uId")
        add("ecgen-radiology/9.xml", GOOD.format("CXR1", "Twice.").encode())
        add("ecgen-radiology/a.xml", GOOD.format("CXR10", "XXXX.").encode())
        add("ecgen-radiology/b.xml", GOOD.format("", "No name.").encode())
        add("ecgen-radiology/c.xml", GOOD.format("CXR12", "Opacité.").encode("latin-1"))
        add(
            "ecgen-radiology/d.xml",
            ('<!DOCTYPE r SYSTEM "http://localhost/r.dtd">' + GOOD.format("CXR13", "x")).encode(),
        )
        add("ecgen-radiology/readme.txt", b"hello")
    index, card, rejects = prepare(
        "openi", tmp_path, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert dict(zip(index["study_id"], index["impression"], strict=True)) == {
        "CXR1": "Clear.",
        "CXR12": "Opacité.",
    }
    assert "or Latin-1: ecgen-radiology/c.xml" in card["notes"][0]
    expected = {
        "../evil.xml": "climbs out",
        str(outside): "climbs out",
        "ecgen-radiology/link.xml": "is a link",
        "ecgen-radiology/hard.xml": "is a link",
        "ecgen-radiology/7.xml": "entities",
        "ecgen-radiology/8.xml": "not well-formed",
        "ecgen-radiology/9.xml": "named before",
        "ecgen-radiology/a.xml": "no findings or impression",
        "ecgen-radiology/b.xml": "no report id",
        "ecgen-radiology/d.xml": "document type",
        "ecgen-radiology/readme.txt": "not an XML file",
    }
    assert set(rejects) == set(expected) and all(
        expected[name] in reason for name, reason in rejects.items()
    )
    assert not outside.exists()


def test_truncated_archive_stops_with_a_message(tmp_path, shared):
    data = (shared / "data" / "openi" / "NLMCXR_reports.tgz").read_bytes()
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="expected a whole archive .* download it again"):
        prepare("openi", tmp_path, tmp_path / "out")


def test_a_zip_member_that_climbs_out_is_never_unpacked(tmp_path):
    raw = mimic_tree(tmp_path / "deep" / "raw", zipped=True)
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "a") as archive:
        for name in (
            "../evil.txt",
            "../../files/p10/p10000000/s50000000.txt",
            str(tmp_path / "absolute.txt"),
        ):
            archive.writestr(name, "FINDINGS: Evil.")
    before = {p for p in tmp_path.rglob("*") if raw not in p.parents}
    index, _, _ = prepare("mimic_cxr", raw, tmp_path / "out")
    assert len(index) == 6 and not index["findings"].str.contains("Evil").any()
    assert {p for p in tmp_path.rglob("*") if raw not in p.parents} - before == {
        tmp_path / "out", *(tmp_path / "out").iterdir()
    }  # fmt: skip


def test_a_damaged_zip_and_damaged_members(tmp_path):
    raw = mimic_tree(tmp_path / "raw", 12, zipped=True)
    data = bytearray((raw / "mimic-cxr-reports.zip").read_bytes())
    at = data.index(b"EXAMINATION")
    data[at : at + 5] = b"#####"  # of the first report: its checksum no longer fits
    (raw / "mimic-cxr-reports.zip").write_bytes(data)
    index, _, rejects = prepare(
        "mimic_cxr", raw, tmp_path / "out", settings={"max_reject_share": 1}
    )
    assert (
        len(index) == 11
        and sum("report cannot be read: Bad CRC" in reason for reason in rejects.values()) == 1
    )
    (raw / "mimic-cxr-reports.zip").write_bytes(data[:200])
    with pytest.raises(DataError, match="expected a zip archive at .*; download it again"):
        prepare("mimic_cxr", raw, tmp_path / "cut")
