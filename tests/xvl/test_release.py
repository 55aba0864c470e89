"""Medical X-VL's text cleaning against the release's own (tests/parity)."""

import json

import pytest

from medxvl.config import paths
from medxvl.data import text

PARITY = paths.ROOT / "tests" / "parity"


QUESTIONS = json.loads((PARITY / "xvl_questions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", QUESTIONS["questions"], ids=range(len(QUESTIONS["questions"])))
def test_questions_are_cleaned_as_in_the_release(case):
    assert text.clean_question(case["text"], 50) == case["pre_question_50"]
    assert text.clean_question(case["text"], 6) == case["pre_question_6"]


def test_answers_are_unified_as_in_the_release():
    for case in QUESTIONS["answers"]:
        assert text.unify_answer(case["text"]) == case["post_process"]
        assert text.clean_question(case["text"]) == case["pre_question"]
        assert text.unify_answer(case["pre_question"]) == case["after_pre_question"]
