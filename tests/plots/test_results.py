"""The figure index and every figure it lists, on small made-up results."""

import importlib.util
import json
import re

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from figure_run import predict, words, write_rows

from medxvl.config import paths
from medxvl.evaluation import published, radiologists
from medxvl.plots import index, results, style

pytestmark = pytest.mark.usefixtures("closed_figures")


def test_index_lists_every_figure_of_the_papers(shared):
    text = (shared / "paper" / "README.md").read_text(encoding="utf-8")
    wanted = set()
    for cell in re.findall(r"^\| ((?:xvl|medvill)-[^|]*)\|", text, re.M):
        first, *rest = [name.strip() for name in cell.split(",")]
        prefix = first.split("-")[0]
        wanted |= {first} | {f"{prefix}{name}" if name.startswith("-") else name for name in rest}
    assert len(wanted) > 20
    assert wanted <= set(index.index().id)


def test_index_is_true():
    table = index.index()
    assert table.id.is_unique and list(table.columns) == index.COLUMNS
    assert set(table[table.function != ""].id) == set(index.DRAW)
    for row in table.itertuples():
        if row.function:
            assert row.status in ("measured", "published values", "schematic") and row.inputs
            module, _, function = row.function.rpartition(".")
            assert callable(getattr(importlib.import_module(f"medxvl.{module}"), function))
        else:
            assert re.match(r"(not yet|not reproducible): \w+", row.status)


def test_notebook_91_draws_them_all():
    source = json.loads((paths.NOTEBOOKS / "91_figures.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) for cell in source if cell["cell_type"] == "code")
    assert set(re.findall(r'"((?:xvl|medvill)-[\w-]+)"', code)) == set(index.DRAW)


@pytest.mark.parametrize("name", sorted(index.DRAW))
def test_every_figure_is_drawn_and_says_what_it_is(run_folder, name):
    fig = index.figure(name)
    said = words(fig)
    status = index.index().set_index("id").status[name]
    if status == "measured":
        assert "synthetic phantom" in said and ("n = 60" in said or name == "xvl-self-attention")
    elif status == "schematic":
        assert "[CLS]" in said and "synthetic" not in said
    else:
        assert "published values" in said and "author_artefact" in said and "no overall win" in said
    assert fig.get_figwidth() in (style.ONE_COLUMN, style.TWO_COLUMNS)
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert (
        min(drawn.x0, drawn.y0) >= -0.01 and drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01
    )  # nothing is cut
    assert (
        min(t.get_fontsize() for t in fig.findobj(matplotlib.text.Text) if t.get_text().strip())
        >= 6
    )


def test_readers_on_real_labels_without_our_model(run_folder):
    """Real readers, a model that saw only phantoms: our curve must not stand beside them; other
    models' curves do.
    """
    write_rows(run_folder, "chexpert_test", predict(radiologists.EIGHT))
    predict(radiologists.FIVE, models=["a", "b"]).drop(columns=["patient_id", "split"]).to_csv(
        run_folder / "predictions" / "reader_models.csv", index=False
    )
    fig = index.figure("xvl-roc-readers")
    said = words(fig)
    assert "our model is not drawn" in said and "synthetic" not in said.replace(
        "phantom:mimic_cxr", ""
    )
    assert "2 others" in said and "X-VL (ITM)" not in said
    assert len([ax for ax in fig.axes if ax.has_data()]) == 5


@pytest.mark.parametrize(
    ("label", "drawn"), [("phantom:chexpert_test", True), ("chexpert_test", False)]
)
def test_our_curve_beside_readers_only_on_like_data(run_folder, label, drawn):
    write_rows(run_folder, label, predict(radiologists.EIGHT))
    assert ("X-VL (ITM)" in words(index.figure("xvl-roc-readers"))) == drawn


def test_the_unseen_disease_on_real_data_says_what_the_model_was_trained_on(run_folder):
    for table, columns in (
        ("predictions/unseen_disease", {"trained_on": "phantom:mimic_cxr"}),
        ("rows/23_xvl_unseen_disease", {"dataset": "covid_cxr"}),
    ):
        path = run_folder / f"{table}.csv"
        pd.read_csv(path).assign(**columns).to_csv(path, index=False)
    said = words(index.figure("xvl-covid"))
    assert "trained on phantom:mimic_cxr" in said and "data: covid_cxr" in said


def test_missing_inputs_name_the_notebook(run_folder):
    (run_folder / "predictions" / "unseen_disease.csv").unlink()
    with pytest.raises(index.MissingInput, match="23_xvl_unseen_disease"):
        index.figure("xvl-covid")
    (run_folder / "rows" / "22_xvl_zero_shot.csv").unlink()
    with pytest.raises(index.MissingInput, match=r"run_all.sh demo 22"):
        index.figure("xvl-zero-shot-table")
    with pytest.raises(ValueError, match="expected one of xvl-overview"):
        index.figure("xvl-radar")
    with pytest.raises(ValueError, match="institutional data"):
        index.figure("xvl-abdominal")


def test_radar_follows_the_table(tmp_path):
    text = paths.PAPER_VALUES.read_text(encoding="utf-8").replace(
        "X-VL,auroc,0.8028", "X-VL,auroc,0.9528"
    )
    (tmp_path / "paper_values.csv").write_text(text, encoding="utf-8")
    fig = results.radar(published.load_paper(tmp_path / "paper_values.csv"), "auroc")
    said = words(fig)
    assert "X-VL 0.9087" in said and "and has the highest mean" in said
    assert len(fig.axes[0].lines) == 8
    with pytest.raises(ValueError, match="no published value of mcc"):
        results.radar(published.load_paper(), "mcc")


def test_files_are_the_same_twice_and_carry_their_fonts(run_folder, tmp_path):
    for folder in ("a", "b"):
        style.save(index.figure("xvl-covid"), tmp_path / folder / "x")
        plt.close("all")
    pdf = (tmp_path / "a" / "x.pdf").read_bytes()
    assert pdf == (tmp_path / "b" / "x.pdf").read_bytes()
    assert (tmp_path / "a" / "x.png").read_bytes() == (tmp_path / "b" / "x.png").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["x.pdf", "x.png"]


def test_style_stays_inside():
    before = dict(matplotlib.rcParams)
    results.radar(published.load_paper(), "auroc")
    assert dict(matplotlib.rcParams) == before
