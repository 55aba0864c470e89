"""Medical X-VL's learning rates and text cleaning against the release's own (tests/parity)."""

import json

import pytest
from tolerance import assert_close

from medxvl.config import paths
from medxvl.data import text
from medxvl.training import schedules

PARITY = paths.ROOT / "tests" / "parity"
STEPS = 4  # of a cosine schedule: share of the way, cosine, product, sum
SCHEDULES = json.loads((PARITY / "xvl_lr_schedules.json").read_text(encoding="utf-8"))


@pytest.mark.numeric
@pytest.mark.parametrize("task", [k for k in SCHEDULES if not k.startswith("_")])
def test_learning_rates_of_the_release(task):
    case = SCHEDULES[task]
    s = {k: float(v) if k.endswith("lr") else v for k, v in case["schedular"].items()}

    def rate(unit):
        return schedules.released(
            unit, s["epochs"], s["warmup_epochs"], s["warmup_lr"], s["lr"], s["min_lr"]
        )

    for unit, wanted in case["lr_at_step_t"].items():
        assert_close(rate(int(unit)), wanted, terms=STEPS)
    run, a_epoch = (
        case["training_run"]["lr_used_run_length"],
        case["training_run"]["steps_per_epoch"],
    )
    wanted = [value for value, times in run for _ in range(times)]
    ours = [
        rate(schedules.released_unit(*divmod(k, a_epoch), s["warmup_epochs"]))
        for k in range(len(wanted))
    ]
    assert_close(ours, wanted, terms=STEPS)


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
