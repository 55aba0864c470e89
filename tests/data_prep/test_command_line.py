"""The command line of data_prep: what it shows, and one line on stderr with exit code 2 for what is
wrong.
"""

import subprocess
import sys

import pytest
from data_prep_trees import ROOT, covid_tree

from data_prep import DATASETS, datasets
from data_prep.__main__ import main
from data_prep.phantom.write import LAYOUTS


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["mimic"], "mimic_cxr, openi, covid_cxr, chexpert_test"),
        (["covid_cxr"], "expected --raw and --out; found neither"),
        (
            ["covid_cxr", "--raw", "RAW", "--out", "OUT", "--set", "view=AP"],
            "settings of covid_cxr: views, max_reject_share",
        ),
        (
            ["covid_cxr", "--raw", "RAW", "--out", "OUT", "--set", "max_reject_share=much"],
            "a number for max_reject_share",
        ),
        *(
            (
                ["covid_cxr", "--raw", "RAW", "--out", "OUT", "--set", f"max_reject_share={share}"],
                "a share from 0 to 1",
            )
            for share in ("5", "inf", "nan", "-1")
        ),
        (["covid_cxr", "--raw", "RAW", "--out", "OUT", "--size", "0"], "size=0"),
        (["covid_cxr", "--raw", "RAW", "--out", "OUT", "--workers", "two"], "--workers"),
        (["phantom"], "--out or --raw"),
        ([], "NAME"),
    ],
)
def test_wrong_command_lines_are_one_line_and_exit_2(tmp_path, capsys, arguments, expected):
    covid_tree(tmp_path / "RAW")
    arguments = [str(tmp_path / a) if a in ("RAW", "OUT") else a for a in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error


def test_command_line_shows_what_became_of_the_records(tmp_path):
    covid_tree(tmp_path / "raw")
    (tmp_path / "raw" / "images" / "0.png").write_bytes(b"")
    command = [
        sys.executable,
        "-m",
        "data_prep",
        "covid_cxr",
        "--raw",
        str(tmp_path / "raw"),
        "--out",
        str(tmp_path / "out"),
    ]
    for text in ("image is decoded", "already prepared"):
        result = subprocess.run(
            [*command, "--size", "16"], cwd=ROOT, capture_output=True, text=True
        )
        assert (
            result.returncode == 0
            and text in result.stdout
            and "empty file (0 bytes): 1" in result.stdout
        )
        assert str(tmp_path / "out" / "rejects.csv") in result.stdout
    shown = subprocess.run(
        [sys.executable, "-m", "data_prep", "list"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "views=AP,PA,AP Supine" in shown and "chexpert_test" in shown


def test_list_shows_what_each_dataset_needs_and_its_settings(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in DATASETS:
        module = datasets.load(name)
        part = shown[shown.index(f"\n{name}\n") if name != DATASETS[0] else 0 :]
        part = part[: part.index("max_reject_share")]
        assert module.NEEDS in part
        for setting in module.SETTINGS:
            assert f"    {setting}=" in part
    assert "{" not in shown.replace("{metadata,split,chexpert}", "").replace(
        '{"id", "label", "text", "img"}', ""
    )


def test_list_names_the_layouts_of_the_phantom(capsys):
    assert main(["list"]) == 0
    part = capsys.readouterr().out.partition("\nphantom\n")[2]
    assert (
        "--layout" in part
        and "max_reject_share" not in part
        and "    mimic_cxr      mimic_cxr (the default)\n" in part
    )
    for layout, (reader, _, _) in LAYOUTS.items():
        assert f"    {layout:14} {reader}" in part


def test_help_has_examples_of_this_command_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    for example in ("check data/mimic", "--set split=patient", "phantom --out"):
        assert f"python -m data_prep {example}" in shown or example in shown
