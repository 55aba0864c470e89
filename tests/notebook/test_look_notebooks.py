"""Notebooks 01 and 02 on data of every kind, their cells run in this process: they finish, and they
hide what is closed.
"""

import ast

import matplotlib
import pandas as pd
import pytest
from look_data import PATHOLOGY, hospital, table

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

from medxvl.config import fingerprints, paths  # noqa: E402
from medxvl.data import dataset


class Seen:
    """Runs the code cells of notebooks 01 and 02 in this process; `text`: all that they print and
    display.
    """

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.capsys, self.shown = folder, capsys, []
        monkeypatch.setattr(paths, "RUNS", folder / "runs")
        monkeypatch.setattr(paths, "PREPARED", folder / "prepared")
        monkeypatch.chdir(folder)

    def display(self, thing):
        if thing is not None:
            self.shown.append(thing._repr_html_() if hasattr(thing, "_repr_html_") else str(thing))

    def run(self, name, given, overrides=""):
        scope = {"display": self.display, "preset": "smoke", "overrides": overrides, "data": given}
        for cell in fingerprints.code_cells(paths.NOTEBOOKS / f"{name}.ipynb")[1:]:
            body = ast.parse(cell).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), name, "exec"), scope)
            if last:
                self.display(eval(compile(ast.Expression(last.value), name, "eval"), scope))
        plt.close("all")
        return "\n".join([self.capsys.readouterr().out, *self.shown])


@pytest.fixture
def seen(tmp_path, monkeypatch, capsys):
    return Seen(tmp_path, monkeypatch, capsys)


def only(folder):
    """`data` with this prepared folder as main; no phantom is drawn for the other roles (overrides:
    studies=0).
    """
    return f"main=table:{folder}"


KINDS = {
    "text only, one split": [{"report": f"No edema {k}.", "split": "test"} for k in range(4)],
    "text without any label": [{"report": f"Hello {k}."} for k in range(4)],
    "images with labels": [{"image": f"{k}.png", "split": "train", **PATHOLOGY} for k in range(4)],
    "images alone": [{"image": f"{k}.png"} for k in range(4)],
    "one row": [{"image": "a.png", "report": "Edema costs $5 & $6 <b>."}],
    "long and odd": [{"image": f"{k}.png", "report": f"FINDINGS: $\\frac$ x_{k} \u4e2d\u6587 "
                                                     "<script>\nIMPRESSION: " + "edema " * 3000}
                     for k in range(3)],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("show", ["open", "all"])
def test_notebooks_take_any_data(tmp_path, seen, kind, show):
    options = {"labels": "none"} if "without" in kind else {}
    made = table(tmp_path / "t", KINDS[kind], **options)
    for name in ("01_prepare_data", "02_look_at_data"):
        text = seen.run(name, only(made.folder), f"studies=0 show={show}")
        assert "[MISSING]" not in text and "<script>" not in text
    if "report" not in KINDS[kind][0]:
        assert "there are no reports" in text
    if "image" not in KINDS[kind][0]:
        assert "no picture" in text
    figures = {path.name for path in (tmp_path / "runs" / "smoke" / "figures").glob("data-*.png")}
    assert ("data-one-study.png" in figures) == (
        show == "all"
    ) and "data-attrition-main.png" in figures


def test_notebooks_on_labels_alone(tmp_path, seen):
    """As the CheXpert test labels are: neither images nor reports."""
    folder = tmp_path / "labels"
    folder.mkdir()
    rows = [
        {
            "Study": f"CheXpert-v1.0/test/patient6474{k}/study1",
            **dict.fromkeys(dataset.CHEXPERT_14, 0),
            "Edema": k % 2,
        }
        for k in range(6)
    ]
    pd.DataFrame(rows).to_csv(folder / "groundtruth.csv", index=False)
    given = f"main=chexpert_test:{folder} readers=chexpert_test:{folder}"
    for name in ("01_prepare_data", "02_look_at_data"):
        text = seen.run(name, given, "studies=0")
        assert "[MISSING]" not in text and "patient6474" not in text
    assert "there are no reports" in text and "Edema" in text


def test_closed_data_leave_no_trace(tmp_path, seen):
    """Neither words of reports nor names nor cells of the raw table, and no picture; all of it when
    asked for.
    """
    made = hospital(tmp_path / "t", max_reject_share="1")
    secrets = ("Quandary", "MRN", "7431")
    for name in ("01_prepare_data", "02_look_at_data"):
        text = seen.run(name, only(made.folder), "studies=0")
        assert not [word for word in secrets if word in text], name
    figures = tmp_path / "runs" / "smoke" / "figures"
    pictures = {"data-one-study.png", "data-examples.png", "data-rejected-main.png"}
    assert not pictures & {p.name for p in figures.iterdir()}
    text = "".join(
        seen.run(name, only(made.folder), "studies=0 show=all")
        for name in ("01_prepare_data", "02_look_at_data")
    )
    assert all(word in text for word in secrets) and pictures <= {p.name for p in figures.iterdir()}
    for name in ("01_prepare_data", "02_look_at_data"):  # and back: what was shown is gone
        seen.run(name, only(made.folder), "studies=0")
    assert not pictures & {p.name for p in figures.iterdir()}


def test_notebooks_on_real_questions(tmp_path, seen, shared):
    text = seen.run("02_look_at_data", f"main=vqa_rad:{shared}/data/vqa_rad", "studies=0")
    assert "images by their questions" in text and "there are no reports" in text
