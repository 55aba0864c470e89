"""Readers' operating points: worked by hand on a small folder, and on the public CheXpert test
labels.
"""

import json

import numpy as np
import pandas as pd
import pytest
from tolerance import assert_close, rounding

from data_prep.prepared import preparation
from medxvl.evaluation import metrics, radiologists
from medxvl.evaluation import published as compare

FINDINGS = ["Edema", "Atelectasis"]
FOUR_DECIMALS = 0.5e-4 + rounding(1.0)  # half a unit of the last decimal of a published value
TRUTH = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]])


def write_folder(folder, truth, tables, label="chexpert_test"):
    """A prepared folder; `tables`: (reader, kind) -> DataFrame studies x findings, columns in any
    order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = truth.rename_axis("study_id").reset_index()
    index.insert(1, "patient_id", index.study_id.str.split("/").str[0])
    index.assign(split="test").to_csv(folder / "index.csv", index=False)
    parts = [
        t.rename_axis("study_id")
        .reset_index()
        .melt("study_id", var_name="finding")
        .assign(reader=r, kind=k)
        for (r, k), t in tables.items()
    ]
    pd.concat(parts)[radiologists.LONG].to_csv(folder / "readers.csv", index=False)
    (folder / "card.json").write_text(json.dumps({"name": "chexpert_test", "label": label}))
    return folder


@pytest.fixture
def small(tmp_path):
    studies = [f"p{i}/s1" for i in range(5)]
    truth = pd.DataFrame(TRUTH, studies, FINDINGS)
    perfect = truth[FINDINGS[::-1]]
    one_miss = truth.copy()
    one_miss.iloc[0, 0] = 0
    scores = (truth * 7.5 - 3)[FINDINGS[::-1]]
    return write_folder(
        tmp_path / "small",
        truth,
        {
            ("r1", "benchmark"): perfect,
            ("r2", "benchmark"): one_miss,
            ("m", "model"): scores,
            ("bc1", "ground_truth"): 1 - truth,
            ("lab", "labeler"): truth.replace(0, np.nan),
        },
    )


def read_original(root, folder):
    """Our own short reading of the public label files, in the form `data_prep chexpert_test`
    writes.
    """

    def table(path):
        frame = pd.read_csv(path)
        return frame.set_index(frame.columns[0])

    tables = {}
    for kind, pattern in (
        ("benchmark", "radiologists/benchmark_radiologists/*.csv"),
        ("ground_truth", "radiologists/groundtruth/*.csv"),
        ("model", "example_models/predictions/*/*.csv"),
        ("decision", "example_models/decisions/*/*.csv"),
    ):
        for path in sorted(root.glob(pattern)):
            tables[path.stem, kind] = table(path)
    return write_folder(folder, table(root / "groundtruth.csv"), tables)


@pytest.fixture(scope="module", params=["own reading", "data_prep"])
def real(request, shared, tmp_path_factory):
    root = shared / "data" / "chexpert_test_labels"
    out = tmp_path_factory.mktemp("readers") / "prepared"
    if request.param == "own reading":
        return read_original(root, out)
    return preparation.prepare("chexpert_test", root, out, progress=False)


@pytest.mark.numeric
def test_points_by_hand(small):
    points = radiologists.operating_points(small).set_index(["finding", "reader"])
    assert list(points.index.get_level_values(0)) == [
        "Atelectasis",
        "Atelectasis",
        "Edema",
        "Edema",
    ]
    assert points.loc[("Edema", "r1"), radiologists.POINT_METRICS].tolist() == [1, 1, 1, 1]
    missed = points.loc[("Edema", "r2")]
    assert missed.sensitivity == 0.5 and missed.specificity == 1
    assert_close(missed.f1, 2 / 3)
    assert missed.n == 5 and missed.positives == 2
    means = radiologists.mean_points(points.reset_index()).set_index("finding")
    assert_close(means.sensitivity["Edema"], 0.75, terms=2)
    assert_close(means.sensitivity["mean of 2"], 0.875, terms=4)


@pytest.mark.numeric
def test_columns_go_by_name(small):
    """The perfect reader's columns stand in another order than the truth's; the scores lie outside
    [0, 1].
    """
    curves = radiologists.curves(radiologists.model_predictions(small)).set_index("finding")
    assert curves.auroc.to_dict() == {"Atelectasis": 1.0, "Edema": 1.0}
    assert radiologists.model_predictions(small).score.min() < 0


@pytest.mark.numeric
def test_result_rows(small):
    rows = pd.DataFrame(radiologists.result_rows(small, n_resamples=50))
    edema = rows[(rows.subset == "Edema") & (rows.metric == "sensitivity")].iloc[0]
    assert edema.value == 0.75 and edema.ci_low <= 0.75 <= edema.ci_high and edema.n == 5
    assert set(rows.model) == {"2 benchmark radiologists (mean)"} and set(rows.control) == {
        "reader"
    }


def test_phantom_readers_are_named_simulated(small):
    (small / "card.json").write_text(json.dumps({"label": "phantom:chexpert_test"}))
    rows = radiologists.result_rows(small, n_resamples=10)
    assert {r["model"] for r in rows} == {"2 simulated readers (mean)"}
    assert {r["dataset"] for r in rows} == {"phantom:chexpert_test"}


def test_a_missing_decision_is_left_out(small):
    table = pd.read_csv(small / "readers.csv")
    gone = (table.reader == "r2") & (table.finding == "Edema") & (table.study_id == "p0/s1")
    table.assign(value=table.value.mask(gone)).to_csv(small / "readers.csv", index=False)
    n = {
        (r["subset"], r["metric"]): r["n"] for r in radiologists.result_rows(small, n_resamples=10)
    }
    assert n["Edema", "f1"] == 5, "the other reader has decided it"
    gone = (table.finding == "Edema") & (table.study_id == "p0/s1") & (table.kind == "benchmark")
    (small / "both").mkdir()
    (small / "both" / "index.csv").write_bytes((small / "index.csv").read_bytes())
    table.assign(value=table.value.mask(gone)).to_csv(small / "both" / "readers.csv", index=False)
    n = {
        (r["subset"], r["metric"]): r["n"]
        for r in radiologists.result_rows(small / "both", n_resamples=10)
    }
    assert n["Edema", "f1"] == 4, "no reader has decided it"
    point = (
        radiologists.operating_points(small).set_index(["finding", "reader"]).loc[("Edema", "r2")]
    )
    assert point.n == 4 and point.sensitivity == 1


def test_wrong_folder(tmp_path, small):
    with pytest.raises(FileNotFoundError, match="data_prep chexpert_test"):
        radiologists.operating_points(tmp_path)
    table = pd.read_csv(small / "readers.csv")
    table[table.kind != "benchmark"].to_csv(small / "readers.csv", index=False)
    with pytest.raises(ValueError, match="kinds found: ground_truth, labeler, model"):
        radiologists.operating_points(small)
    table.drop(columns="kind").to_csv(small / "readers.csv", index=False)
    with pytest.raises(ValueError, match="missing.*kind"):
        radiologists.operating_points(small)


def test_no_predictions(small):
    table = pd.read_csv(small / "readers.csv")
    table[table.kind != "model"].to_csv(small / "readers.csv", index=False)
    assert (
        radiologists.model_predictions(small).empty
        and radiologists.curves(radiologists.model_predictions(small)).empty
    )


def test_a_class_without_positives_has_no_curve():
    predictions = pd.DataFrame(
        {"finding": list("aabb"), "label": [0, 0, 0, 1], "score": [1, 2, 1, 2], "model": "m"}
    )
    assert radiologists.curves(predictions).finding.tolist() == ["b"]


@pytest.mark.numeric
def test_real_readers(real):
    """Mean F1 0.6160 and MCC 0.5296 over five pathologies, and the per-class values of
    paper_values.csv.
    """
    points = radiologists.operating_points(real)
    assert points.groupby("finding").reader.nunique().eq(3).all() and set(points.n) == {500}
    means = radiologists.mean_points(points).set_index("finding")
    assert means.f1["mean of 5"] == pytest.approx(0.6160, abs=FOUR_DECIMALS, rel=0)
    assert means.mcc["mean of 5"] == pytest.approx(0.5296, abs=FOUR_DECIMALS, rel=0)
    published = compare.load_paper()
    published = published[
        (published.status == "recomputed") & published.subset.isin(radiologists.EIGHT)
    ]
    assert len(published) == 16
    for row in published.itertuples():
        ours = means.loc[row.subset, row.metric]
        assert ours == pytest.approx(row.value, abs=FOUR_DECIMALS, rel=0)


@pytest.mark.numeric
def test_real_models(real):
    predictions = radiologists.model_predictions(real)
    assert (
        predictions.model.nunique() == 6 and predictions.score.max() > 1
    )  # one model's scores leave [0, 1]
    curves = radiologists.curves(predictions)
    assert len(curves) == 30 and curves.auroc.between(0.6, 1).all()
    part = predictions[
        (predictions.finding == "Edema") & (predictions.model == predictions.model[0])
    ]
    ours = curves[(curves.finding == "Edema") & (curves.model == predictions.model[0])].auroc.item()
    assert ours == metrics.auroc(part.label, part.score)


@pytest.mark.numeric
def test_real_readers_are_reproduced(real):
    """The rows our evaluation writes agree with the published reader rows in the comparison
    table.
    """
    rows = pd.DataFrame(radiologists.result_rows(real, n_resamples=100))
    table = compare.join(rows)
    table = table[table.status.str.contains("recomputed")]
    assert (
        set(table.verdict) == {"reproduced"} and len(table) == 18
    )  # 8 findings and the mean of 5, F1 and MCC
    assert table.difference.abs().max() <= FOUR_DECIMALS
