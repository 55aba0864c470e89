"""The prepared bytes are the same whatever happens on the way: other numbers of workers, a kill, two runs at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_prep_trees import ROOT, contents, covid_tree, encoded, picture, prepare

import data_prep
from data_prep import prepared


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
    (raw / "metadata.csv").unlink()  # not even looked at
    prepare("covid_cxr", raw, tmp_path / "out")
    assert (tmp_path / "out" / "card.json").stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


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
    """Start a preparation in a process of its own and kill it as soon as some images are marked as done."""
    code = f"""if True:
        from data_prep import prepared
        prepared.MARK_SECONDS = 0
        prepared.prepare("covid_cxr", {str(raw)!r}, {str(out)!r}, size=64, workers={workers}, progress=False)"""
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"DATA_PREP_TEST": str(out)})
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
    command = [sys.executable, "-m", "data_prep", "covid_cxr", "--raw", str(raw), "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [*command, "--size", "64", "--workers", str(workers)], cwd=ROOT, capture_output=True, text=True
    )
    assert f"going on: {finished} of 60" in result.stdout, result.stderr
    data_prep.prepare("covid_cxr", raw, tmp_path / "whole", size=64, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_two_processes_at_once_make_one_dataset(tmp_path):
    raw = covid_tree(tmp_path / "raw", 40)
    command = [sys.executable, "-m", "data_prep", "covid_cxr", "--raw", str(raw), "--size", "32", "--workers", "1"]
    runs = [
        subprocess.Popen([*command, "--out", str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    data_prep.prepare("covid_cxr", raw, tmp_path / "alone", size=32, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to look for left-over processes")
def test_workers_end_with_a_killed_parent(tmp_path):
    raw, deadline = covid_tree(tmp_path / "raw", 200), time.monotonic() + 40
    start_and_kill(raw, tmp_path / "out", 2)
    while (left := _processes_with(f"DATA_PREP_TEST={tmp_path / 'out'}")) and time.monotonic() < deadline:
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

    monkeypatch.setattr(prepared.os, "replace", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare("covid_cxr", raw, out)
    assert not (out / "card.json").exists()
    monkeypatch.undo()
    index, card, _ = prepare("covid_cxr", raw, out)
    assert len(index) == card["images"] == 4
    assert sorted(p.name for p in out.iterdir()) == ["card.json", "images.h5", "index.csv", "raw", "rejects.csv"]
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
