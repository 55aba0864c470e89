"""run_all.sh verify: the same rows twice, or it says which are not."""

import json

import pytest
from launch_project import Project

from medxvl.config import records
from medxvl.config.sweeps import Step
from medxvl.pipeline import manifest, verify
from medxvl.pipeline.__main__ import main


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished run of two notebooks, one of them with two seeds; the other never gives the same
    number twice.
    """
    made = Project(tmp_path_factory.mktemp("verify"))
    clock = (
        "row = dict(paper='p', task='clock', dataset='d', split='test', subset='', "
        "model='m', metric='s')"
    )
    made.write("04_free", "import time\nfrom medxvl.notebook import runs\n"
                          "run = runs.start('04_free', "
                          f"preset, overrides, data)\n{clock}\n"
               "run.add_rows([row | dict(value=time.time()), row | dict(metric='one', "
               "value=1.0)])\nrun.finish(rows=2)")  # fmt: skip
    _, done = made.run("01", "04", "--set", "seeds=0,3")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_all_rows_agree(project):
    done = project.verify("01")
    assert done.returncode == 0 and "verified: 2 rows of 2 notebooks are the same" in done.stdout, (
        done.stdout + done.stderr
    )
    told = json.loads((project.folder / "certificate.json").read_text())
    assert told["rows"] == 2 and told["preset"] == "smoke" and told["overrides"] == "seeds=0,3"
    assert (
        told["environment"]["versions"]["torch"]
        and told["environment"]["machine"]["cores"]
        and "git" in told
    )
    assert told["steps"] == [["01_good", ""], ["01_good", "seed3"]]
    assert (
        project.root / "runs" / "verify" / "smoke" / "variants" / "seed3" / "rows" / "01_good.csv"
    ).is_file()
    assert manifest.certificate(project.folder) == told


def test_a_certificate_is_of_the_rows_that_it_speaks_of(project):
    rows = project.folder / "rows" / "01_good.csv"
    before, told = rows.read_text(), manifest.certificate(project.folder)
    rows.write_text(before.replace(",0.5,", ",0.25,"))
    assert before != rows.read_text() and manifest.certificate(project.folder) is None
    rows.write_text(before.replace(told["runs"][0], "another-run"))
    assert manifest.certificate(project.folder), "the name of a run is no result"
    rows.write_text(before)


def test_what_differs_is_named_and_nothing_is_certified(project):
    done = project.verify("04")
    assert done.returncode == 1 and "not verified: 1 differences, among 2 rows" in done.stdout, (
        done.stdout + done.stderr
    )
    assert "DIFFERS  04_free: row p clock d test m s smoke: value" in done.stdout.replace(
        "  0 ", " "
    ).replace(" 0 ", " ")
    assert not (project.folder / "certificate.json").exists(), "an earlier one is gone"


def test_rows_of_other_code_are_not_verified(project):
    project.write("04_free", "print('edited')")
    done = project.verify("04")
    assert (
        done.returncode == 2
        and "04_free in" in done.stderr
        and "./run_all.sh smoke first" in done.stderr
    )


def test_differences_in_words(tmp_path):
    step = Step("22_x")
    for name, lines in (
        ("a", ["r,edema,1.0", "r,fracture,2.0"]),
        ("b", ["s,fracture,2.5", "s,nodule,3.0"]),
    ):
        records.write_text(
            tmp_path / name / "rows" / "22_x.csv", "\n".join(["run,subset,value", *lines]) + "\n"
        )
    told = [what for _, what in verify.differences(tmp_path / "a", tmp_path / "b", [step])]
    assert told == [
        "row edema: only in the first run",
        "row fracture: value 2.0 -> 2.5",
        "row nodule: only in the second run",
    ]
    assert not verify.differences(tmp_path / "a", tmp_path / "a", [step])
    records.write_text(
        tmp_path / "c" / "rows" / "22_x.csv", "run,subset,value\nr,fracture,2.0\nr,edema,1.0\n"
    )
    assert "another order" in verify.differences(tmp_path / "a", tmp_path / "c", [step])[0][1]


@pytest.mark.parametrize(
    "given, said",
    [
        (["verify", "smoke", "--force"], "not --force"),
        (["verify", "smoke"], "there is no run"),
        (["smoke", "verify"], "comes first and alone"),
    ],
)
def test_wrong_options(given, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("medxvl.config.paths.RUNS", tmp_path)
    assert main(given) == 2 and said in capsys.readouterr().err
