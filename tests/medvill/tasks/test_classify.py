"""Classification by MedViLL on data where brightness says it all: learned, and not without the
picture.
"""

import numpy as np
import pytest
from medvill_tasks_data import CPU, PRESET, Fake, tokenizer
from tolerance import assert_close
from train_helpers import Bar

from medxvl.evaluation import controls, metrics
from medxvl.medvill import corpus
from medxvl.medvill.tasks import classify

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def test_targets(data):
    y = classify.targets(data, np.arange(3))
    assert y.shape == (3, 15) and y[:, classify.CLASSES.index("Cardiomegaly")].tolist() == [1, 0, 0]
    uncertain = Fake(3)
    uncertain.index["Cardiomegaly"] = -1.0
    uncertain.index["Edema"] = uncertain.index["No Finding"] = np.nan
    assert classify.targets(uncertain, np.arange(3))[:, -1].tolist() == [1, 1, 1], (
        "nothing positive: Others"
    )


def test_classification_from_the_image_alone(pretrained, data, words, tmp_path):
    model = pretrained[0]
    tuned, told = classify.Classification(PRESET, data, model, words, CPU, "image only").fit(
        tmp_path, Bar()
    )
    rows = data.rows("test")
    y, patients = classify.targets(data, rows), data.index.patient_id.iloc[rows].to_numpy()
    other = rows[controls.shuffled(len(rows), 0)]
    found = {}
    for name, images_of in (("own", None), ("other", other)):
        scores = classify.predict(tuned, words, data, rows, "image only", CPU, images_of)
        made = classify.evaluate(
            y, scores, patients, dataset="d", model="m", checkpoint=told, n_resamples=40
        )
        found[name] = {row["metric"]: row for row in made if row["subset"] == ""}
    assert (
        found["own"]["auroc_macro_defined"]["value"]
        > 0.95
        > 0.75
        > found["other"]["auroc_macro_defined"]["value"]
    )
    assert np.isnan(found["own"]["auroc_macro"]["value"]), (
        "most classes have no positive here: published macro has no value"
    )
    assert (
        found["own"]["auroc_micro"]["ci_low"]
        <= found["own"]["auroc_micro"]["value"]
        <= found["own"]["auroc_micro"]["ci_high"]
    )
    again, same = classify.Classification(PRESET, data, model, words, CPU, "image only").fit(
        tmp_path, Bar()
    )
    assert same == told, "a finished training is read back"
    assert next(model.parameters()).grad is None and model.training is False, (
        "the start is left alone"
    )


def test_the_report_alone_is_read_without_image_tokens(pretrained, data, words, tmp_path):
    tuned, _ = classify.Classification(PRESET, data, pretrained[0], words, CPU, "report only").fit(
        tmp_path, Bar()
    )
    rows = data.rows("test")
    scores = classify.predict(tuned, words, data, rows, "report only", CPU)
    blank = Fake()
    blank.pixels[:] = 0
    assert np.array_equal(scores, classify.predict(tuned, words, blank, rows, "report only", CPU))
    with pytest.raises(ValueError, match="expected one of image and report"):
        classify.Classification(PRESET, data, pretrained[0], words, CPU, "image")


def test_macro_and_micro_by_hand():
    y, scores = (
        np.array([[1, 0], [0, 0], [1, 1]] + [[0, 1]]).astype(float),
        np.array([[0.9, 0.2], [0.1, 0.6], [0.4, 0.8], [0.2, 0.7]]),
    )
    y, scores = np.pad(y, ((0, 0), (0, 13))), np.pad(scores, ((0, 0), (0, 13)))
    made = classify.evaluate(y, scores, list("abcd"), dataset="d", model="m", n_resamples=20)
    found = {row["metric"]: row["value"] for row in made if row["subset"] == ""}
    assert found["auroc_macro_defined"] == 1.0 and np.isnan(found["auroc_macro"])
    # 3 right, 1 too many, 1 missed
    assert_close(found["f1_micro"], 2 * 3 / (2 * 3 + 1 + 1), terms=4)
    assert_close(found["f1_macro_defined"], (2 / 3 + 4 / 5) / 2, terms=4)


def test_the_words_give_the_labels_away(data):
    train, test = data.rows("train"), data.rows("test")
    texts = corpus.report_texts(data, np.arange(len(data.index)))
    scores = controls.text_gauge(
        [texts[k] for k in train], classify.targets(data, train), [texts[k] for k in test]
    )
    assert np.nanmean(metrics.auroc(classify.targets(data, test), scores)) == 1


def test_data_of_another_place(pretrained, data, words, tmp_path):
    tuned = {
        "report only": classify.Classification(
            PRESET, data, pretrained[0], words, CPU, "report only"
        ).fit(tmp_path, Bar())
    }
    bare = Fake(60)
    bare.has_images = False
    rows = classify.transfer(
        tuned | {"image only": tuned["report only"]}, words, bare, CPU, model="m", n_resamples=20
    )
    assert {row["control"] for row in rows} == {"chance", "report only", "words of the report"}, (
        "no images: no image model"
    )
    assert {row["split"] for row in rows if row["control"] == "report only"} == {"all"}
