"""The prepared bytes are the same whatever happens on the way: other numbers of workers, a kill,
two runs at once.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from data_prep_trees import ROOT, contents, covid_tree, encoded, mimic_tree, picture, prepare

import data_prep
from data_prep.prepared import preparation
from data_prep.reading.raw import CHEXPERT_14


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    raw = covid_tree(tmp_path / "raw", 80)
    (raw / "images" / "7.png").write_bytes(b"broken")
    prepare("covid_cxr", raw, tmp_path / "one", workers=1)
    time.sleep(1.1)  # a time of writing in any file would differ
    prepare("covid_cxr", raw, tmp_path / "three", workers=3)
    one, three = contents(tmp_path / "one"), contents(tmp_path / "three")
    assert list(one) == ["card.json", "images.h5", "index.csv", "rejects.csv"]
    assert one == three


def test_a_finished_folder_is_returned_at_once(tmp_path):
    raw = covid_tree(tmp_path / "raw")
    prepare("covid_cxr", raw, tmp_path / "out")
    before = (tmp_path / "out" / "card.json").stat().st_mtime_ns
    (raw / "images" / "1.png").unlink()  # images are not even looked at
    prepare("covid_cxr", raw, tmp_path / "out")
    shutil.rmtree(raw)  # what is prepared needs its raw data no more
    prepare("covid_cxr", raw, tmp_path / "out")
    assert (tmp_path / "out" / "card.json").stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def drop_last_row(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("place", ["raw", "out/raw"])
def test_changed_raw_tables_are_prepared_anew(tmp_path, capsys, place):
    raw, out = covid_tree(tmp_path / place), tmp_path / "out"
    assert len(prepare("covid_cxr", raw, out)[0]) == 4
    (out / "notes.txt").write_text("mine")
    drop_last_row(raw / "metadata.csv")
    index, card, _ = prepare("covid_cxr", raw, out)
    assert len(index) == card["images"] == 3
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "preparing anew" in told and "metadata.csv changed in" in told
    assert (out / "notes.txt").read_text() == "mine" and not (tmp_path / "out.partial").exists()
    (raw / "brixia_public-annotations.csv").write_text("filename,S-Global\n0.png,3\n")
    assert "brixia_global" in prepare("covid_cxr", raw, out)[0]
    (raw / "LICENSE").write_text("CC0")
    (raw / ".DS_Store").write_text("")
    prepare("covid_cxr", raw, out)
    assert "4 files and folders in" in capsys.readouterr().out
    prepare("covid_cxr", raw, out)
    assert not capsys.readouterr().out
    with pytest.raises(data_prep.DataError, match="found one with size 32 instead of 64; delete"):
        prepare("covid_cxr", raw, out, size=64)


def test_changed_reader_files_and_reports_are_prepared_anew(tmp_path, capsys):
    raw, out = mimic_tree(tmp_path / "raw", zipped=True), tmp_path / "out"
    (tmp_path / "else").mkdir()
    (raw / "mimic-cxr-reports.zip").rename(tmp_path / "mimic-cxr-reports.zip")  # beside the images
    for archive, settings in (
        ("mimic-cxr-reports.zip", {}),
        ("else/r.zip", {"reports": str(tmp_path / "else/r.zip")}),
    ):
        if settings:
            (tmp_path / "mimic-cxr-reports.zip").rename(tmp_path / archive)
            out = tmp_path / "other"
        prepare("mimic_cxr", raw, out, settings=settings)
        with zipfile.ZipFile(tmp_path / archive, "a") as file:
            file.writestr(f"files/{out.name}.txt", "")
        capsys.readouterr()
        prepare("mimic_cxr", raw, out, settings=settings)
        assert (
            "reports changed" if settings else "mimic-cxr-reports.zip changed"
        ) in capsys.readouterr().out
    readers = tmp_path / "readers"
    (readers / "labeler").mkdir(parents=True)
    row = ",".join(["Study", *CHEXPERT_14]) + "\npatient1/study1" + ",0" * 14 + "\n"
    for path in ("groundtruth.csv", "labeler/one_labels.csv"):
        (readers / path).write_text(row)
    prepare("chexpert_test", readers, tmp_path / "read")
    (readers / "labeler" / "two_labels.csv").write_text(row)
    prepare("chexpert_test", readers, tmp_path / "read")
    assert "labeler/*.csv changed" in capsys.readouterr().out
    assert "two" in (tmp_path / "read" / "readers.csv").read_text()


def test_a_folder_made_by_other_code_is_prepared_anew(tmp_path, capsys, monkeypatch):
    raw, out = covid_tree(tmp_path / "raw"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(preparation.code, "digest_of", lambda *modules, only: "0" * 12)
        prepare("covid_cxr", raw, out)
    (out / "readers.csv").write_text("of the other code")
    prepare("covid_cxr", raw, out)
    assert "data_prep's code changed" in capsys.readouterr().out
    prepare("covid_cxr", raw, tmp_path / "alone")
    assert contents(out) == contents(tmp_path / "alone")
    card = json.loads((out / "card.json").read_text())
    (out / "card.json").write_text(
        json.dumps({k: v for k, v in card.items() if k not in preparation.CHANGES})
    )
    prepare("covid_cxr", raw, out)
    assert "an earlier version" in capsys.readouterr().out
    assert contents(out) == contents(tmp_path / "alone")


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_kill_while_a_folder_is_replaced(tmp_path, monkeypatch, moves):
    raw, out, replace, moved = covid_tree(tmp_path / "raw"), tmp_path / "out", os.replace, []
    prepare("covid_cxr", raw, out)
    before = (raw / "metadata.csv").read_text()
    drop_last_row(raw / "metadata.csv")

    def die(source, target):
        if Path(target).parent == out:
            moved.append(target)
            if len(moved) > moves:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(preparation.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        prepare("covid_cxr", raw, out)
    monkeypatch.undo()
    (raw / "metadata.csv").write_text(
        before
    )  # as it was for the old card: half-replaced files are not taken for it
    index, card, _ = prepare("covid_cxr", raw, out)
    assert len(index) == card["images"] == 4 and not (tmp_path / "out.partial").exists()


def test_a_prepared_folder_in_the_raw_one_is_not_counted(tmp_path, capsys):
    raw = covid_tree(tmp_path / "raw")
    for out in (raw / "out", raw / "deep" / "er"):
        prepare("covid_cxr", raw, out)
        prepare("covid_cxr", raw, out)
        assert not capsys.readouterr().out


def test_raw_inside_the_prepared_folder(tmp_path):
    raw = covid_tree(tmp_path / "out" / "raw")
    prepare("covid_cxr", raw, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "card.json",
        "images.h5",
        "index.csv",
        "raw",
        "rejects.csv",
    ]


def start_and_kill(raw: Path, out: Path, workers: int) -> None:
    """Start a preparation in a process of its own and kill it as soon as some images are marked as
    done.
    """
    code = f"""if True:
        from data_prep.prepared import preparation as prepared, writing
        writing.MARK_SECONDS = 0
        raw, out = {str(raw)!r}, {str(out)!r}
        prepared.prepare("covid_cxr", raw, out, size=64, workers={workers}, progress=False)"""
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"DATA_PREP_TEST": str(out)}
    )
    done, deadline = out.with_name("out.partial") / "done.u8", time.monotonic() + 30
    while not (done.is_file() and sum(done.read_bytes()) > 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    run.kill()
    run.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path, workers):
    raw = covid_tree(tmp_path / "raw", 60)
    big = encoded(np.random.default_rng(0).integers(0, 256, (1500, 1500), dtype=np.uint8), "JPEG")
    for k in range(60):
        (raw / "images" / f"{k}.png").write_bytes(big)
    (raw / "images" / "3.png").write_bytes(big[:-5000])
    start_and_kill(raw, tmp_path / "out", workers)
    finished = sum((tmp_path / "out.partial" / "done.u8").read_bytes())
    assert 0 < finished < 59, "the run was not killed in the middle"
    assert not (tmp_path / "out").exists()
    command = [
        sys.executable,
        "-m",
        "data_prep",
        "covid_cxr",
        "--raw",
        str(raw),
        "--out",
        str(tmp_path / "out"),
    ]
    result = subprocess.run(
        [*command, "--size", "64", "--workers", str(workers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert f"going on: {finished} of 60" in result.stdout, result.stderr
    preparation.prepare("covid_cxr", raw, tmp_path / "whole", size=64, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_at_any_moment(tmp_path, workers):
    raw = covid_tree(tmp_path / "raw", 60)
    big = encoded(np.random.default_rng(0).integers(0, 256, (1200, 1200), dtype=np.uint8), "JPEG")
    for k in range(60):
        (raw / "images" / f"{k}.png").write_bytes(big)
    command = [
        sys.executable,
        "-m",
        "data_prep",
        "covid_cxr",
        "--raw",
        str(raw),
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--size", "64", "--workers", str(workers)]
    for seconds in (0.3, 0.7, 0.9, 1.1, 1.3):  # while it starts, reads, decodes, writes, moves
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds)  # kills it then
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    preparation.prepare("covid_cxr", raw, tmp_path / "whole", size=64, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_processes_at_once_make_one_dataset(tmp_path):
    raw = covid_tree(tmp_path / "raw", 40)
    command = [
        sys.executable,
        "-m",
        "data_prep",
        "covid_cxr",
        "--raw",
        str(raw),
        "--size",
        "32",
        "--workers",
        "1",
    ]
    runs = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    preparation.prepare("covid_cxr", raw, tmp_path / "alone", size=32, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="needs /proc to look for left-over processes"
)
def test_workers_end_with_a_killed_parent(tmp_path):
    raw, deadline = covid_tree(tmp_path / "raw", 200), time.monotonic() + 40
    start_and_kill(raw, tmp_path / "out", 2)
    while (
        left := _processes_with(f"DATA_PREP_TEST={tmp_path / 'out'}")
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _processes_with(variable: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment, state = (place / "environ").read_bytes(), (place / "stat").read_text()
        except OSError:
            continue
        if variable.encode() in environment.split(b"\0") and ") Z" not in state:
            found.append(int(place.name))
    return found


def test_a_kill_while_files_are_moved_into_a_folder_with_the_raw_data(tmp_path, monkeypatch):
    raw, out = covid_tree(tmp_path / "out" / "raw"), tmp_path / "out"
    replace, moved = os.replace, []

    def die_at_the_third(source, target):
        if Path(target).parent == out:
            moved.append(target)
            if len(moved) == 3:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(preparation.os, "replace", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare("covid_cxr", raw, out)
    assert not (out / "card.json").exists()
    monkeypatch.undo()
    index, card, _ = prepare("covid_cxr", raw, out)
    assert len(index) == card["images"] == 4
    assert sorted(p.name for p in out.iterdir()) == [
        "card.json",
        "images.h5",
        "index.csv",
        "raw",
        "rejects.csv",
    ]
    assert not (tmp_path / "out.partial").exists()


def test_pixels_of_another_raw_folder_are_not_taken_over(tmp_path):
    first, second = covid_tree(tmp_path / "first"), covid_tree(tmp_path / "second")
    for k in range(4):
        (second / "images" / f"{k}.png").write_bytes(encoded(picture(k + 50)))
    for k in (2, 3):  # too many faults: the run fails and leaves its work behind
        (first / "images" / f"{k}.png").write_bytes(b"broken")
    with pytest.raises(data_prep.DataError):
        prepare("covid_cxr", first, tmp_path / "out")
    assert (tmp_path / "out.partial" / "done.u8").read_bytes() == b"\1\1\0\0"
    prepare("covid_cxr", second, tmp_path / "out")
    prepare("covid_cxr", second, tmp_path / "alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_script_without_a_guard_is_told_so(tmp_path):
    """A worker runs the script it was started from; if that prepares at once, no file is to
    blame.
    """
    covid_tree(tmp_path / "raw", 64)
    (tmp_path / "script.py").write_text(
        "from data_prep.prepared.preparation import prepare\n"
        f"prepare('covid_cxr', {str(tmp_path / 'raw')!r}, {str(tmp_path / 'out')!r}, size=16, "
        "workers=2)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode and "if __name__ == '__main__':" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
