"""Which findings are asked for, and in which words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from data_prep.reports import prompts as reports_prompts
from medxvl.config import paths, presets
from medxvl.pipeline import command_line
from medxvl.xvl import prompts

SMOKE = presets.load("smoke")
EXAMPLE = paths.ROOT / "data_prep" / "phantom" / "abdomen_prompts.csv"


class Labelled:
    """What is asked of a prepared dataset."""

    label = "own"

    def __init__(self, **labels):
        n = len(next(iter(labels.values())))
        self.index = pd.DataFrame(
            {"split": ["train"] * (n // 2) + ["test"] * (n - n // 2), **labels}
        )
        self.card = {"prevalence": dict.fromkeys(labels)}

    def rows(self, split):
        return np.flatnonzero(self.index["split"] == split)


def test_chest_findings_have_the_sentences_of_the_release():
    found = prompts.of(
        SMOKE, Labelled(**{f: [0, 1, 0, 1] for f in reports_prompts.FINDINGS}, Other=[0, 1, 0, 1])
    )
    assert found.positive == reports_prompts.PROMPTS and found.negative["Edema"] == "no edema."
    assert [(name, len(members)) for name, members in found.means] == [
        ("mean of 5", 5),
        ("mean of 8", 8),
    ]
    few = prompts.of(SMOKE, Labelled(Edema=[0, 1, 0, 1], Pneumonia=[0, 1, 0, 1]))
    assert few.findings == ["Edema", "Pneumonia"] and [name for name, _ in few.means] == [
        "mean of 2"
    ]


def test_other_findings_are_asked_for_by_name():
    nan = float("nan")
    data = Labelled(
        **{
            "Free Air": [1, 1, 0, 1],
            "Never": [1, 1, 0, 0],
            "Always": [1, 1, 1, 1],
            "Doubt": [0, 0, -1, nan],
        }
    )
    found = prompts.of(SMOKE, data)
    assert found.findings == ["Free Air"], "what no test study has, or all have, has no AUROC"
    assert (
        len(found.positive["Free Air"]) == 5
        and found.positive["Free Air"][0] == "free air is present."
    )
    assert found.negative == {"Free Air": "no free air."} and "names of the labels" in found.source
    with pytest.raises(ValueError, match="no finding to ask for"):
        prompts.of(SMOKE, Labelled(Never=[0, 0, 0, 0]))


def test_a_file_says_what_to_ask():
    given = prompts.read(EXAMPLE)
    assert len(given.findings) == 8 and all(len(p) == 5 for p in given.positive.values())
    data = Labelled(Ascites=[0, 1, 0, 1], Gallstones=[0, 1, 0, 1], Other=[0, 1, 0, 1])
    found = prompts.of(replace(SMOKE, prompts=str(EXAMPLE)), data)
    assert found.findings == ["Ascites", "Gallstones"] and found.source == EXAMPLE.name
    with pytest.raises(ValueError, match="has labels of Other; .*sentences for Bowel Obstruction"):
        prompts.of(replace(SMOKE, prompts=str(EXAMPLE)), Labelled(Other=[0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("finding,sentence\nA,x", "column.* kind missing"),
        ("finding,sentence,kind\nA,x,positive\nA,,negative", "line 3"),
        ("finding,sentence,kind\nA,x,maybe", "line 2"),
        ("finding,sentence,kind\nA,x,negative", "A has no positive"),
        ("finding,sentence,kind\nA,x,positive\nA,y,negative\nA,z,negative", "several negative"),
    ],
)
def test_a_faulty_file_is_told(tmp_path, lines, told):
    (tmp_path / "p.csv").write_text(lines)
    with pytest.raises(ValueError, match=told):
        prompts.read(tmp_path / "p.csv")


def test_a_finding_without_a_negative_sentence_gets_one(tmp_path):
    (tmp_path / "p.csv").write_text("kind,finding,sentence\npositive,Free Air , free air. \n")
    found = prompts.read(tmp_path / "p.csv")
    assert found.positive == {"Free Air": ("free air.",)} and found.negative == {
        "Free Air": "no free air."
    }
    with pytest.raises(FileNotFoundError, match="no such file"):
        prompts.read(tmp_path / "q.csv")


def test_the_file_is_found_from_where_the_user_is(tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("finding,sentence,kind\nA,x,positive")
    monkeypatch.chdir(tmp_path)
    assert (
        command_line.parse(["smoke", "22", "--set", "prompts=p.csv"]).overrides
        == f"prompts={tmp_path / 'p.csv'}"
    )
    with pytest.raises(ValueError, match="there is no file"):
        command_line.parse(["smoke", "22", "--set", "prompts=q.csv"])
