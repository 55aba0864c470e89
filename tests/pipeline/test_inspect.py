"""The command `python -m medxvl.pipeline inspect`."""

import subprocess
import sys

import pytest
import torch
from weight_data import Evil, vit

from medxvl.config import paths
from medxvl.pipeline import inspect


def test_inspect(tmp_path, capsys):
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in vit().items()}, "epoch": 3},
        tmp_path / "ibot.pth",
    )
    assert inspect.main([str(tmp_path / "ibot.pth")]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (
        said["kind"] == "iBOT or DINO"
        and said["parameters"] == f"{sum(v.numel() for v in vit().values()):,}"
    )
    assert (
        said["branch"] == "teacher"
        and said["types"].startswith("float32")
        and said["missing"] == "none"
    )
    assert "vision_weights" in said["use"] and "vision_width=64" in said["settings"]


@pytest.mark.parametrize("arguments, told", [
    (["nowhere.pth"], "error: nowhere.pth: no such weights file or folder"),
    ([__file__], "error: "),
])  # fmt: skip
def test_inspect_of_nothing_good(arguments, told, capsys):
    assert inspect.main(arguments) == 2
    seen = capsys.readouterr()
    assert seen.err.startswith(told) and not seen.out


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        inspect.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "PATH" in shown and "Nothing in it is run" in shown
    with pytest.raises(SystemExit) as end:
        inspect.main([])
    assert end.value.code == 2


def test_the_command_itself(tmp_path):
    torch.save({"model": Evil(tmp_path / "made")}, tmp_path / "evil.pth")
    command = [sys.executable, "-m", "medxvl.pipeline", "inspect", str(tmp_path / "evil.pth")]
    refused = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert (
        refused.returncode == 2
        and refused.stderr.startswith("error: ")
        and "Traceback" not in refused.stderr
    )
    assert not (tmp_path / "made").exists()
