"""What run_all.sh calls: options, settings, and what is gathered at the end."""

import shutil
import subprocess
import sys

import pytest

from data_prep import datasets
from medxvl.config import notebooks, paths, presets, records, roles
from medxvl.config.settings import TABLE
from medxvl.pipeline import command_line, execute, index_page, pages
from medxvl.pipeline.__main__ import main


def test_help_needs_no_packages():
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-m", "medxvl.pipeline", "--help"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    for word in [
        *presets.NAMES,
        *notebooks.NAMES,
        *roles.ROLES,
        *roles.NAMES,
        "--dry-run",
        "settings",
    ]:
        assert word in answer.stdout
    lines = answer.stdout.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120


def test_what_every_start_imports_is_light():
    """A start that finds everything up to date takes seconds: it loads neither torch nor pandas."""
    code = (
        "import sys; from medxvl.pipeline import execute, verify; "
        "print(sorted({'torch', 'pandas', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert answer.stdout.strip() == "[]", answer.stderr


def list_settings(*words):
    """`run_all.sh settings` as Python without any package answers it."""
    return subprocess.run(
        [sys.executable, "-S", "-E", "-m", "medxvl.pipeline", "settings", *words],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )


def test_settings_are_listed_without_packages():
    answer = list_settings()
    names = [line.split()[0] for line in answer.stdout.splitlines()[1:] if line[0] != " "]
    assert answer.returncode == 0 and names == list(TABLE)
    answer = list_settings("Queue")
    assert answer.returncode == 0 and "40960" in answer.stdout
    assert "whole number from 1" in answer.stdout and "released code" in answer.stdout
    names = [line.split()[0] for line in list_settings("ibot_*").stdout.splitlines()[1:]]
    assert names and "epochs" not in names
    answer = list_settings("quewe_size")
    assert answer.returncode == 1 and "did you mean queue_size" in answer.stderr


def test_options_are_understood(tmp_path):
    (tmp_path / "x").write_text("")
    given = [
        "smoke",
        "2",
        "--set",
        "seed=1",
        "90",
        "--data",
        f"main=openi:{tmp_path}",
        "--set",
        "epochs=2",
        "--cores",
        "3",
        "--force",
        "--",
        "-n",
    ]
    plan = command_line.parse(given)
    assert (plan.preset, plan.overrides, plan.data) == (
        "smoke",
        "seed=1 epochs=2",
        f"main=openi:{tmp_path}",
    )
    assert (
        command_line.parse(["22", "smoke"]).preset,
        command_line.parse(["22", "smoke"]).notebooks,
    ) == (
        "smoke",
        ["22_xvl_zero_shot"],
    )
    assert [name[:2] for name in plan.notebooks] == [
        "20",
        "21",
        "22",
        "23",
        "24",
        "25",
        "26",
        "27",
        "28",
        "29",
        "90",
    ]
    assert (plan.cores, plan.force, plan.dry_run, plan.snakemake) == (3, True, False, ["-n"])
    assert command_line.parse([]).preset == "demo" and command_line.parse(["23"]).notebooks == [
        "23_xvl_unseen_disease"
    ]


@pytest.mark.parametrize("codes, ended", [([0, 0], 0), ([1, 0], 1), ([130], 130)])
def test_several_presets_run_one_after_the_other(codes, ended, monkeypatch):
    """Each with the same notebooks and settings; what one ends with does not stop the other, but a
    stop does.
    """
    ran, left = [], list(codes)

    def run(plan):
        ran.append((plan.preset, plan.notebooks, plan.overrides, plan.snakemake))
        return left.pop(0)

    monkeypatch.setattr(execute, "run", run)
    assert main(["smoke", "demo", "23", "--set", "seeds=0,1", "--", "demo"]) == ended and not left
    wanted = (["23_xvl_unseen_disease"], "seeds=0,1", ["demo"])
    assert ran == [("smoke", *wanted), ("demo", *wanted)][: len(ran)]


def test_data_paths_are_the_callers(tmp_path, monkeypatch):
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "x").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("my data", "./my data/", "~/my data"):
        plan = command_line.parse(["smoke", "--data", f"main=mimic_cxr:{written}"])
        assert roles.sources(presets.load("smoke"), plan.data)["main"].raw == tmp_path / "my data"


def test_a_table_may_be_a_file_and_has_settings(tmp_path, monkeypatch):
    (tmp_path / "my table.csv").write_text("image,report")
    monkeypatch.chdir(tmp_path)
    given = [
        "--data",
        "main=table:my table.csv",
        "--data",
        "main.image_column=image",
        "--data",
        "main.text_column=my report",
    ]
    source = roles.sources(presets.load("smoke"), command_line.parse(["smoke", *given]).data)[
        "main"
    ]
    assert source.raw == tmp_path / "my table.csv" and not source.synthetic
    assert source.settings == {"image_column": "image", "text_column": "my report"}


@pytest.mark.parametrize(
    "given, said",
    [
        (["dmeo"], "smoke, demo, paper"),
        (["demo", "77"], "such as 22"),
        (["demo", "12_medvil_clasify"], "did you mean 12_medvill_classify"),
        (["verfy"], "did you mean verify"),
        (["--set", "sed=1"], "did you mean seed"),
        (["--set", "seed=one"], "whole number"),
        (["--set", "seed"], "name=value"),
        (["--data", "man=openi:."], "main, unseen_disease, readers, transfer, questions"),
        (["--data", "main=opni:."], "did you mean openi"),
        (["--set", "image_size=60"], "image_size must be a multiple of patch_size"),
        (["--set", "resize=60"], "resize=60, image_size=64"),
        (["--set", "text_heads=5"], "text_heads could be 3, 4, 6"),
        (["--set", "vision_heads=0"], "at least 1"),
        (["--set", "max_words=0"], "at least 1"),
        (["--set", "drop_path=1.5"], "at most 0.99"),
        (["--set", "seed=18446744073709551616"], "at most 18446744073709551615"),
        (["--set", "seeds=0,18446744073709551616"], "at most 18446744073709551615"),
        (["--set", "precision=fp16"], "fp16 needs a GPU"),
        (["--data", "main=openi"], "PATH"),
        (["--data", "main=openi:no/such/place"], "there is no folder"),
        (["--data", "main=openi:EMPTY"], "is empty"),
        (["--data", "main=mimic_cxr:EMPTY/../file"], "is a file"),
        (
            ["--data", "main=table:file", "--data", "main.text_column=x", "--data", "main.nope=3"],
            "no setting 'nope'",
        ),
        (["--data", "main=table:file", "--data", "main.text_colum=x"], "did you mean text_column"),
        (["--data", "main=table:file"], "main.image_column=NAME"),
        (
            ["--data", "main=table:file", "--data", "main.patient_column=who"],
            "main.image_column=NAME",
        ),
        (["--data", "main=openi:.", "--data", "main.max_reject_share=7"], "a share from 0 to 1"),
        (["--data", "main=openi:.", "--data", "main.max_reject_share=much"], "a share from 0 to 1"),
        (["--set", "max_reject_share=7"], "at most 1"),
        (["--data", "main=phantom", "--data", "main.views=PA"], "give main=NAME:PATH too"),
        (
            ["--data", "main=openi:.", "--data", "main.split=a", "--data", "main.split=b"],
            "main.split=... is given 2 times",
        ),
        (["--data", "main=openi:.", "--data", "main=openi:."], "2 times"),
        (["--cores", "0"], "from 1"),
        (["--sett", "seed=1"], "unknown option --sett"),
        (["paper"], "--data main=NAME:PATH"),
        (["demo", "lab"], "comes first and alone"),
    ],
)
def test_wrong_options(given, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told


@pytest.mark.parametrize("name", roles.NAMES)
def test_settings_are_those_that_data_prep_takes(name):
    from data_prep.prepared import preparation

    assert roles.settings_of(name) == datasets.load(name).SETTINGS | preparation.SETTINGS


def test_a_run_without_rows_has_a_header_and_names_what_did_not_run(tmp_path, monkeypatch):
    from medxvl.pipeline import manifest

    folder = tmp_path / "smoke"
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(paths.NOTEBOOKS / "01_prepare_data.ipynb", folder / "notebooks")
    assert manifest.results(folder).read_text() == ",".join(records.COLUMNS) + "\n"
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    page = pages.build("smoke").read_text()
    assert (
        page.count("<td>not run</td>") == len(notebooks.NAMES) - 1
        and "<td>21_xvl_pretrain</td>" in page
    )
    assert '<a href="01_prepare_data.html">' in page and "leaves rows" in page


@pytest.mark.parametrize(
    ("synthetic", "told"),
    [
        ((True, True), "Synthetic phantom data"),
        ((True, False), "Not synthetic: unseen disease (b)"),
        ((False, False), ""),
    ],
)
def test_the_index_says_which_data_are_synthetic(synthetic, told, tmp_path):
    for role, label, made in zip(("main", "unseen_disease"), "ab", synthetic, strict=True):
        card = {"role": role, "label": label, "synthetic": made}
        records.write_json(tmp_path / "data" / f"{role}.json", card)
    said = index_page.page(tmp_path, "smoke", {}, {})
    assert told in said
    assert ("are synthetic" in said) == bool(told)
    assert ("main (a)" in said) == (synthetic == (True, False))


def test_a_failed_notebook_loses_its_rows(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "22.csv").write_text("run,value\nr1,1\n")
    records.retire_rows(tmp_path, "22")
    assert (
        not (tmp_path / "rows" / "22.csv").exists()
        and (tmp_path / "history" / "r1-22.csv").exists()
    )
