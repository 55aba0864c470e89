"""The figure index, the drawing functions and the command line, on small made-up inputs."""

import importlib.util
import json
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

from medxvl import (
    compare,
    figures,
    metrics,
    paths,
    plots,
    plots_data,
    plots_medvill,
    readers,
    style,
)  # noqa: E402

PHANTOM = "phantom:mimic_cxr"
MODELS = {
    "X-VL (ITM)": "",
    "X-VL (ITA)": "",
    "shuffled images": "shuffled images",
    "untrained": "untrained",
    "supervised linear 32x32": "supervised linear 32x32",
    "supervised upper bound": "supervised upper bound",
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def predict(findings, n=60, seed=0, models=MODELS):
    """Long prediction table; better scores for later models."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, model in enumerate(models):
        for k, finding in enumerate(findings):
            label = (np.arange(n) % (k + 3) == 0).astype(int)
            ids = [f"s{j:03d}" for j in range(n)]
            parts.append(
                pd.DataFrame(
                    {
                        "study_id": ids,
                        "patient_id": ids,
                        "split": "test",
                        "finding": finding,
                        "label": label,
                        "score": rng.normal(size=n) + 0.4 * i * label,
                        "model": model,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def result_rows(predictions, task, dataset):
    rows = []
    for (model, finding), part in predictions.groupby(["model", "finding"], sort=False):
        value = metrics.auroc(part.label, part.score)
        rows.append(
            {
                "run": "r",
                "paper": "xvl",
                "task": task,
                "dataset": dataset,
                "split": "test",
                "subset": finding,
                "model": model if model.startswith("X-VL") else "X-VL (ITM)",
                "metric": "auroc",
                "value": value,
                "ci_low": value - 0.05,
                "ci_high": value + 0.05,
                "n": len(part),
                "control": MODELS.get(model, ""),
                "seed": 0,
                "preset": "demo",
                "checkpoint": "",
                "manifest": "",
            }
        )
    return pd.DataFrame(rows)


def reader_points(findings, n=60):
    rows = [
        {
            "finding": f,
            "reader": r,
            "sensitivity": 0.6 + 0.1 * i,
            "specificity": 0.9 - 0.1 * i,
            "f1": 0.5,
            "mcc": 0.4,
            "n": n,
            "positives": 20,
        }
        for f in findings
        for i, r in enumerate(["bc4", "bc6", "bc8"])
    ]
    return pd.DataFrame(rows)


def write_ablation(folder):
    """What notebook 30 keeps: two seeds of the whole model, of a share of the data and of one
    ablation.
    """
    rows = [
        {
            "label": label,
            "share": share,
            "head": head,
            "seed": seed,
            "control": control,
            "value": value + 0.01 * seed,
            "n": 60,
            "subset": "mean of 8",
            "dataset": PHANTOM,
        }
        for label, share, value in (
            ("whole", 1.0, 0.8),
            ("whole", 0.1, 0.6),
            ("no self-supervised start", 1.0, 0.7),
        )
        for head in ("ITM", "ITA")
        for seed in (0, 1)
        for control in ("", "shuffled images")
    ]
    pd.DataFrame(rows).to_csv(folder / "predictions" / "ablation.csv", index=False)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """runs/demo with rows and predictions as notebooks 22 and 23 leave them."""
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    folder = tmp_path / "demo"
    (folder / "rows").mkdir(parents=True)
    (folder / "predictions").mkdir()
    write_ablation(folder)
    zero, unseen = predict(readers.EIGHT), predict(["COVID-19"], seed=1)
    zero.to_csv(folder / "predictions" / "zero_shot.csv", index=False)
    unseen.to_csv(folder / "predictions" / "unseen_disease.csv", index=False)
    reader_points(readers.EIGHT).to_csv(folder / "predictions" / "readers.csv", index=False)
    write_rows(folder, "phantom:chexpert_test", zero)
    result_rows(unseen, "unseen_disease", "phantom:covid_cxr").to_csv(
        folder / "rows" / "23_xvl_unseen_disease.csv", index=False
    )
    write_errors(folder)
    write_medvill(folder)
    return folder


def write_errors(folder):
    """What notebook 24 leaves for its figure."""
    rows = [
        {
            "run": "r",
            "paper": "xvl",
            "task": "error_detection",
            "dataset": dataset,
            "split": split,
            "subset": subset,
            "metric": "auroc",
            "model": model,
            "value": 0.6,
            "ci_low": 0.5,
            "ci_high": 0.7,
            "n": 60,
            "control": control,
            "seed": 0,
            "preset": "demo",
            "checkpoint": "",
            "manifest": "",
        }
        for dataset, split in ((PHANTOM, "test"), ("phantom:openi", "all"))
        for subset in ("balanced, location", "balanced", "5 %, location", "5 %")
        for model, control in (
            ("X-VL (ITM)", ""),
            ("X-VL (ITM)", "shuffled images"),
            ("words of the report", "words of the report"),
            ("X-VL fine-tuned on errors (ours)", ""),
            ("chance", "chance"),
        )
    ]
    pd.DataFrame(rows).to_csv(folder / "rows" / "24_xvl_detect_errors.csv", index=False)


def write_medvill(folder):
    """What notebooks 11 to 15, 20 and 25 to 28 leave for the figures."""
    for name, panels in figures._PANELS.items():
        task, book = name.removeprefix("xvl "), figures._MADE_BY[name]
        rows = [
            {
                "run": "r",
                "paper": book[3:].split("_")[0],
                "task": task,
                "dataset": PHANTOM,
                "split": "test",
                "subset": subset,
                "metric": metric,
                "model": "MedViLL (BAR)",
                "value": 0.6 - 0.2 * (control != ""),
                "ci_low": 0.3,
                "ci_high": 0.7,
                "n": 60,
                "control": control,
                "seed": 0,
                "preset": "demo",
                "checkpoint": "",
                "manifest": "",
            }
            for _, metric, subset in panels
            for control in ("", "shuffled images")
        ]
        pd.DataFrame(rows).to_csv(folder / "rows" / f"{book}.csv", index=False)
        for other in [
            o for o in figures._MADE_BY if o == f"xvl {task}" and o not in figures._PANELS
        ]:  # the same panels
            pd.DataFrame(rows).assign(paper="xvl").to_csv(
                folder / "rows" / f"{figures._MADE_BY[other]}.csv", index=False
            )
    items = [
        {"image": np.zeros((8, 8), np.uint8), "lines": [["costs $5", ""], ["n = 60", "bad"]]}
    ] * 2
    for name in (
        "retrieved_pairs",
        "generated_reports",
        "vqa_examples",
        "xvl_retrieved_pairs",
        "corrected_reports",
        "xvl_generated_reports",
        "xvl_vqa_examples",
    ):
        plots_medvill.save_examples(folder / "predictions" / f"{name}.npz", items)
    maps, image = np.ones((1, 2, 2), np.float32), np.zeros((8, 8), np.uint8)
    np.savez(
        folder / "predictions" / "word_maps.npz",
        image=image,
        words=["edema"],
        maps=maps,
        dataset=PHANTOM,
        note="n = 60",
    )
    np.savez(
        folder / "predictions" / "head_maps.npz",
        images=image[None],
        maps=maps.reshape(1, 1, 4),
        dataset=PHANTOM,
    )
    write_explained(folder, image, maps)


def write_explained(folder, image, maps):
    """What notebook 29 leaves for the figures."""
    area, told = np.eye(8, dtype=bool), {"dataset": PHANTOM, "note": "n = 60"}
    np.savez(
        folder / "predictions" / "cross_attention.npz",
        image=image,
        words=["edema"],
        maps=maps,
        area=area,
        **told,
    )
    np.savez(
        folder / "predictions" / "finding_maps.npz",
        images=image[None],
        maps=maps[:1],
        areas=area[None],
        findings=["Edema"],
        **told,
    )
    rows = [
        {
            "run": "r",
            "paper": "xvl",
            "task": "explanation",
            "dataset": PHANTOM,
            "split": "test",
            "subset": "mean of 8",
            "model": "X-VL (word maps)",
            "metric": metric,
            "value": 0.4 - 0.2 * (control != ""),
            "ci_low": 0.1,
            "ci_high": 0.5,
            "n": 60,
            "control": control,
            "seed": 0,
            "preset": "demo",
            "checkpoint": "",
            "manifest": "",
        }
        for metric in ("pointing", "iou", "cnr")
        for control in ("", "shuffled images")
    ]
    pd.DataFrame(rows).to_csv(folder / "rows" / "29_xvl_attention.csv", index=False)


def write_rows(folder, readers_label, zero):
    rows = result_rows(zero, "zero_shot", PHANTOM)
    one = rows.iloc[:1].assign(task="readers", dataset=readers_label, control="reader", metric="f1")
    pd.concat([rows, one]).to_csv(folder / "rows" / "22_xvl_zero_shot.csv", index=False)


def words(fig):
    """All text of a figure."""
    fig.canvas.draw()
    found = [t.get_text() for t in fig.findobj(matplotlib.text.Text)]
    return " ".join(" ".join(found).split())


def make():
    """figures/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make", paths.FIGURES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_index_lists_every_figure_of_the_papers(shared):
    text = (shared / "paper" / "README.md").read_text(encoding="utf-8")
    wanted = set()
    for cell in re.findall(r"^\| ((?:xvl|medvill)-[^|]*)\|", text, re.M):
        first, *rest = [name.strip() for name in cell.split(",")]
        prefix = first.split("-")[0]
        wanted |= {first} | {f"{prefix}{name}" if name.startswith("-") else name for name in rest}
    assert len(wanted) > 20
    assert wanted <= set(figures.index().id)


def test_index_is_true():
    table = figures.index()
    assert table.id.is_unique and list(table.columns) == figures.COLUMNS
    assert set(table[table.function != ""].id) == set(figures.DRAW)
    for row in table.itertuples():
        if row.function:
            assert row.status in ("measured", "published values", "schematic") and row.inputs
            module, function = row.function.split(".")
            assert callable(getattr(importlib.import_module(f"medxvl.{module}"), function))
        else:
            assert re.match(r"(not yet|not reproducible): \w+", row.status)


def test_notebook_91_draws_them_all():
    source = json.loads((paths.NOTEBOOKS / "91_figures.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) for cell in source if cell["cell_type"] == "code")
    assert set(re.findall(r'"((?:xvl|medvill)-[\w-]+)"', code)) == set(figures.DRAW)


@pytest.mark.parametrize("name", sorted(figures.DRAW))
def test_every_figure_is_drawn_and_says_what_it_is(run_folder, name):
    fig = figures.figure(name)
    said = words(fig)
    status = figures.index().set_index("id").status[name]
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
    write_rows(run_folder, "chexpert_test", predict(readers.EIGHT))
    predict(readers.FIVE, models=["a", "b"]).drop(columns=["patient_id", "split"]).to_csv(
        run_folder / "predictions" / "reader_models.csv", index=False
    )
    fig = figures.figure("xvl-roc-readers")
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
    write_rows(run_folder, label, predict(readers.EIGHT))
    assert ("X-VL (ITM)" in words(figures.figure("xvl-roc-readers"))) == drawn


def test_the_unseen_disease_on_real_data_says_what_the_model_was_trained_on(run_folder):
    for table, columns in (
        ("predictions/unseen_disease", {"trained_on": "phantom:mimic_cxr"}),
        ("rows/23_xvl_unseen_disease", {"dataset": "covid_cxr"}),
    ):
        path = run_folder / f"{table}.csv"
        pd.read_csv(path).assign(**columns).to_csv(path, index=False)
    said = words(figures.figure("xvl-covid"))
    assert "trained on phantom:mimic_cxr" in said and "data: covid_cxr" in said


def test_missing_inputs_name_the_notebook(run_folder):
    (run_folder / "predictions" / "unseen_disease.csv").unlink()
    with pytest.raises(figures.MissingInput, match="23_xvl_unseen_disease"):
        figures.figure("xvl-covid")
    (run_folder / "rows" / "22_xvl_zero_shot.csv").unlink()
    with pytest.raises(figures.MissingInput, match=r"run_all.sh demo 22"):
        figures.figure("xvl-zero-shot-table")
    with pytest.raises(ValueError, match="expected one of xvl-overview"):
        figures.figure("xvl-radar")
    with pytest.raises(ValueError, match="institutional data"):
        figures.figure("xvl-abdominal")


def test_radar_follows_the_table(tmp_path):
    text = paths.PAPER_VALUES.read_text(encoding="utf-8").replace(
        "X-VL,auroc,0.8028", "X-VL,auroc,0.9528"
    )
    (tmp_path / "paper_values.csv").write_text(text, encoding="utf-8")
    fig = plots.radar(compare.load_paper(tmp_path / "paper_values.csv"), "auroc")
    said = words(fig)
    assert "X-VL 0.9087" in said and "and has the highest mean" in said
    assert len(fig.axes[0].lines) == 8
    with pytest.raises(ValueError, match="no published value of mcc"):
        plots.radar(compare.load_paper(), "mcc")


def test_files_are_the_same_twice_and_carry_their_fonts(run_folder, tmp_path):
    for folder in ("a", "b"):
        plots.save(figures.figure("xvl-covid"), tmp_path / folder / "x")
        plt.close("all")
    pdf = (tmp_path / "a" / "x.pdf").read_bytes()
    assert pdf == (tmp_path / "b" / "x.pdf").read_bytes()
    assert (tmp_path / "a" / "x.png").read_bytes() == (tmp_path / "b" / "x.png").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["x.pdf", "x.png"]


def test_style_stays_inside():
    before = dict(matplotlib.rcParams)
    plots.radar(compare.load_paper(), "auroc")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    labels = {name: rng.choice([1, 0, -1, np.nan], 40) for name in readers.EIGHT}
    return pd.DataFrame(
        {
            "study_id": range(40),
            "findings": ["lungs are clear"] * 40,
            "impression": ["", "normal"] * 20,
            **labels,
            "brixia_global": 3,
        }
    )


def test_data_figures(index):
    steps = [
        {"step": "images", "rows": 50, "dropped": 0, "why": ""},
        {"step": "view AP", "rows": 40, "dropped": 10, "why": "not selected: view PA"},
    ]
    card = {"label": PHANTOM, "attrition": steps}
    log = pd.DataFrame(
        {
            "step": range(20),
            "loss": np.linspace(2, 1, 20),
            "valid_auroc": [np.nan] * 10 + [0.7] * 10,
        }
    )
    images = np.zeros((5, 8, 8), np.uint8)
    drawn = {
        "10: not selected": plots_data.attrition(card),
        "Edema (": plots_data.prevalence(index, readers.EIGHT, PHANTOM),
        "impression: n = 20, median 1, 20 empty": plots_data.report_lengths(index, PHANTOM),
        "valid_auroc": plots.training_curves(log, dataset=PHANTOM),
        "s4": plots_data.data_examples(
            images, [f"s{i}" for i in range(5)], columns=3, dataset=PHANTOM
        ),
    }
    for wanted, fig in drawn.items():
        assert wanted in words(fig) and "synthetic phantom" in words(fig)


def test_texts_of_the_data_are_drawn_as_they_are(index):
    """A dollar sign begins no formula, a text of any length breaks nothing, one odd text does not
    hide the others.
    """
    odd = "costs $5, $x_{ or \\\\frac$ "
    steps = [{"step": odd, "rows": 5, "dropped": 1, "why": odd}]
    drawn = [
        plots_data.attrition({"label": "t", "attrition": steps}),
        plots_data.study_figure(None, odd, {"findings": odd * 500}),
        plots_data.data_examples(np.zeros((1, 8, 8), np.uint8), [odd]),
    ]
    for fig in drawn:
        assert "costs \\$5" in words(fig)
        box, (_, height) = fig.get_tightbbox(), fig.get_size_inches()
        assert box.y0 >= -0.01 and box.y1 <= height + 0.01, "nothing is cut"
    index.loc[0, "findings"] = "word " * 5000
    said = words(plots_data.report_lengths(pd.concat([index.iloc[1:]] * 20 + [index.iloc[:1]])))
    assert "5000" not in said and "last bar: 10 and more" in said


def test_real_data_are_not_called_synthetic(index):
    said = words(plots_data.prevalence(index, readers.EIGHT, "openi"))
    assert "synthetic" not in said and "data: openi" in said and "brixia_global" not in said


def test_drawing_refuses_what_it_cannot_draw(index):
    one_class = predict(["COVID-19"]).assign(label=0)
    with pytest.raises(ValueError, match="no ROC curve"):
        plots.roc_unseen(one_class)
    with pytest.raises(ValueError, match="no result row"):
        plots.forest(result_rows(predict(["Edema"]), "zero_shot", PHANTOM), metric="mcc")
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.roc_readers(None, reader_points([]).reindex(columns=reader_points(["Edema"]).columns))
    with pytest.raises(ValueError, match="no column 'batch'.*loss"):
        plots.training_curves(pd.DataFrame({"loss": [1.0]}), x="batch")
    with pytest.raises(ValueError, match="2 images, 1 titles"):
        plots_data.data_examples(np.zeros((2, 4, 4), np.uint8), ["a"])
    with pytest.raises(ValueError, match="no labels"):
        plots_data.prevalence(index.iloc[:0], readers.EIGHT)


def test_make_draws_what_has_its_inputs(run_folder, tmp_path, capsys):
    (run_folder / "predictions" / "unseen_disease.csv").unlink()
    assert make().main(["--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "xvl-covid: not drawn" in said and "23_xvl_unseen_disease" in said
    made = {p.stem for p in (tmp_path / "out").iterdir()}
    assert made == set(figures.DRAW) - {"xvl-covid"}


def test_make_default_folder_and_errors(run_folder, capsys):
    assert make().main(["xvl-radar-f1"]) == 0
    assert (run_folder / "figures" / "xvl-radar-f1.pdf").is_file()
    (run_folder / "predictions" / "unseen_disease.csv").unlink()
    for arguments, message in (
        (["xvl-covid"], "error: xvl-covid: runs/demo has no predictions/unseen_disease.csv"),
        (["xvl-pie"], "error: unknown figure xvl-pie: expected some of xvl-overview"),
        (["xvl-abdominal"], "error: xvl-abdominal is not drawn: not reproducible"),
    ):
        capsys.readouterr()
        assert make().main(arguments) == 2
        assert capsys.readouterr().err.startswith(message)
    assert make().main(["--list"]) == 0
    assert "xvl-abdominal" in capsys.readouterr().out


def test_make_runs_from_anywhere(tmp_path):
    command = [sys.executable, str(paths.FIGURES / "make.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--preset" in done.stdout
