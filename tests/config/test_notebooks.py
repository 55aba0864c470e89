"""The graph of notebooks: what needs what, which data, whose code."""

import pytest

from medxvl.config import notebooks, paths, presets, roles, sweeps
from medxvl.pipeline import command_line, planning


def test_graph():
    assert list(notebooks.NAMES) == sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))
    for row in notebooks.NOTEBOOKS:
        assert all(
            notebooks.NAMES.index(need) < notebooks.NAMES.index(row.name) for need in row.needs
        ), "a need comes later"
        assert set(row.roles) <= set(roles.ROLES)
        assert all(presets.group(presets.load("demo"), group) for group in row.groups), (
            "a group without settings"
        )
    assert [name[:2] for name in notebooks.with_needs(["90_results_vs_paper"])] == [
        *"10 11 12 13 14 15 21 22 23 24 25 26 27 28 29 90".split()
    ]
    own = presets.load("demo", "vision_weights=own")
    for preset, needed in ((presets.load("demo"), ["21"]), (own, ["20", "21"])):
        steps = sweeps.needed(["21_xvl_pretrain"], preset)
        assert [step.name[:2] for step in steps] == needed, "self-supervised start, if asked for"
    assert notebooks.roles(["23_xvl_unseen_disease"]) == ["main", "unseen_disease"]


def test_only_the_roles_in_use_need_data(tmp_path, monkeypatch):
    """With real data alone (preset paper), a notebook that does not read the readers' labels does
    not ask for them.
    """
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x").write_text("")
    given = [
        f"--data=main=mimic_cxr:{tmp_path}/raw",
        f"--data=unseen_disease=covid_cxr:{tmp_path}/raw",
    ]
    with pytest.raises(ValueError, match="--data readers=NAME:PATH"):
        command_line.parse(["paper", "22", *given])
    plan = command_line.parse(["paper", "23", *given])
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    command = planning.snakemake(plan, tmp_path / "run", tmp_path / "run.json", [])
    files = [f"data/{role}.json" for role in ("main", "unseen_disease")]
    files += [f"notebooks/{name}.ipynb" for name in ("21_xvl_pretrain", "23_xvl_unseen_disease")]
    assert sorted(planning.planned([*command, "--dry-run"])) == files
