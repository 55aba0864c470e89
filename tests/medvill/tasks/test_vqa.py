"""Answers by MedViLL on data where brightness says it all: learned, and not without the picture."""

import pytest
from medvill_tasks_data import CPU, PRESET, Fake, questions, tokenizer
from train_helpers import Bar

from medxvl.data import questions as asked
from medxvl.medvill.tasks import vqa

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data():
    return Fake()


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def test_answers_need_the_picture(pretrained, data, words, tmp_path):
    table = questions(data)
    about = PRESET, data, table, pretrained[0], words, CPU
    tuned, _ = vqa.Answering(*about).fit(tmp_path / "a", Bar())
    blind, _ = vqa.Answering(*about, sees=False).fit(tmp_path / "b", Bar())
    answers = asked.vocabulary(table[table.split == "train"])
    test = table[table.split == "test"].reset_index(drop=True)
    right = {
        "own": vqa.predict(tuned, words, data, test, answers, CPU),
        "other": vqa.predict(
            tuned, words, data, test, answers, CPU, images_of=asked.swapped(test, 0)
        ),
        "blind": vqa.predict(blind, words, data, test, answers, CPU, sees=False),
        "majority": asked.majority(table[table.split == "train"], test),
    }
    right = {name: (given == test.answer.to_numpy()).mean() for name, given in right.items()}
    assert right["own"] > 0.9 > 0.8 > max(right["other"], right["blind"], right["majority"]), right
    assert answers == ["no", "yes"]


def test_held_out_images_choose_the_epoch(pretrained, data, words):
    task = vqa.Answering(PRESET, data, questions(data), pretrained[0], words, CPU)
    assert not set(task.train.image_id) & set(task.valid.image_id) and len(task.valid)
    assert set(task.train.split) | set(task.valid.split) == {"train"}
