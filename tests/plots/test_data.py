"""Drawing functions for data and training curves: odd texts, what cannot be drawn."""

import numpy as np
import pandas as pd
import pytest
from figure_run import PHANTOM, predict, reader_points, result_rows, words

from medxvl.evaluation import radiologists
from medxvl.plots import data, results, roc

pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    labels = {name: rng.choice([1, 0, -1, np.nan], 40) for name in radiologists.EIGHT}
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
        "10: not selected": data.attrition(card),
        "Edema (": data.prevalence(index, radiologists.EIGHT, PHANTOM),
        "impression: n = 20, median 1, 20 empty": data.report_lengths(index, PHANTOM),
        "valid_auroc": results.training_curves(log, dataset=PHANTOM),
        "s4": data.data_examples(images, [f"s{i}" for i in range(5)], columns=3, dataset=PHANTOM),
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
        data.attrition({"label": "t", "attrition": steps}),
        data.study_figure(None, odd, {"findings": odd * 500}),
        data.data_examples(np.zeros((1, 8, 8), np.uint8), [odd]),
    ]
    for fig in drawn:
        assert "costs \\$5" in words(fig)
        box, (_, height) = fig.get_tightbbox(), fig.get_size_inches()
        assert box.y0 >= -0.01 and box.y1 <= height + 0.01, "nothing is cut"
    index.loc[0, "findings"] = "word " * 5000
    said = words(data.report_lengths(pd.concat([index.iloc[1:]] * 20 + [index.iloc[:1]])))
    assert "5000" not in said and "last bar: 10 and more" in said


def test_real_data_are_not_called_synthetic(index):
    said = words(data.prevalence(index, radiologists.EIGHT, "openi"))
    assert "synthetic" not in said and "data: openi" in said and "brixia_global" not in said


def test_drawing_refuses_what_it_cannot_draw(index):
    one_class = predict(["COVID-19"]).assign(label=0)
    with pytest.raises(ValueError, match="no ROC curve"):
        roc.roc_unseen(one_class)
    with pytest.raises(ValueError, match="no result row"):
        results.forest(result_rows(predict(["Edema"]), "zero_shot", PHANTOM), metric="mcc")
    with pytest.raises(ValueError, match="nothing to draw"):
        roc.roc_readers(None, reader_points([]).reindex(columns=reader_points(["Edema"]).columns))
    with pytest.raises(ValueError, match="no column 'batch'.*loss"):
        results.training_curves(pd.DataFrame({"loss": [1.0]}), x="batch")
    with pytest.raises(ValueError, match="2 images, 1 titles"):
        data.data_examples(np.zeros((2, 4, 4), np.uint8), ["a"])
    with pytest.raises(ValueError, match="no labels"):
        data.prevalence(index.iloc[:0], radiologists.EIGHT)
