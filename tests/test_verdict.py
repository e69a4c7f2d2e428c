"""Judgement outside: points by the hidden inputs, words by the public ones, and evidence that is never trusted."""

import copy
import json

import numpy as np
import pytest

from autograder import runner
from autograder.exercise import load_chapter
from autograder.grading import verdict
from autograder.grading.testify import call
from autograder.judge import judge
from autograder.notebook import REPORT_TYPE, SEED
from autograder.traps import traps
from tests.conftest import EXERCISES

SECRET = 271828
SOFTMAX = load_chapter(2).exercises["2.1"]


def evidence_of(exercise, answer, secret=SECRET):
    """What a kernel sends for an answer, through JSON as it comes."""
    seeds = {"secret": secret, "public": SEED}
    sent = {
        purpose: [one.to_json() for one in runner.collect(exercise, answer, seed)] for purpose, seed in seeds.items()
    }
    return json.loads(json.dumps(sent))


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_a_right_answer_gets_every_point_and_the_card_of_its_own_check(exercise):
    from autograder.card import as_html

    report, _ = verdict.judge_evidence(exercise, evidence_of(exercise, exercise.variants[0]), SECRET)
    assert report.earned == exercise.points and report.full
    at_home = judge(exercise, SEED, runner.collect(exercise, exercise.variants[0], SEED))
    assert as_html(report) == as_html(at_home)
    assert verdict.mark_of(exercise, report).hint == ""


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
def test_a_known_mistake_gets_the_points_and_the_message_of_its_own_check(exercise):
    mistake = exercise.mistakes[0]
    report, _ = verdict.judge_evidence(exercise, evidence_of(exercise, mistake.answer), SECRET)
    at_home = judge(exercise, SEED, runner.collect(exercise, mistake.answer, SEED))
    assert report.earned == at_home.earned < exercise.points
    assert report.diagnosis == at_home.diagnosis == [mistake]
    mark = verdict.mark_of(exercise, report)
    assert mark.mistakes == [mistake.name] and mark.messages == [mistake.message]


def test_an_answer_fitted_to_the_public_inputs_gets_nothing_for_it_and_learns_no_hidden_one():
    known = [case.arguments for case in SOFTMAX.cases(SEED)]

    def fitted(x, axis=-1):
        if any(np.array_equal(x, one["x"]) for one in known):
            return SOFTMAX.reference(x, axis)
        raise ValueError(f"never seen {x}")

    report, _ = verdict.judge_evidence(SOFTMAX, evidence_of(SOFTMAX, fitted), SECRET)
    lost = [one for one in report.verdicts if one.earned < one.points]
    assert lost and all(one.because == verdict.HIDDEN and not one.where and one.picture is None for one in lost)
    shown = json.dumps(verdict.output_of(verdict.mark_of(SOFTMAX, report), report))
    assert "never seen" not in shown
    hidden = {f"{value:.4g}" for case in SOFTMAX.cases(SECRET) for value in np.ravel(case.arguments["x"])}
    public = {f"{value:.4g}" for one in known for value in np.ravel(one["x"])}
    assert not any(value in shown for value in hidden - public if len(value) > 5)


def test_what_a_wrong_answer_is_shown_comes_from_the_public_inputs():
    def doubled(x, axis=-1):
        return 2 * SOFTMAX.reference(x, axis) + 0.123 * np.sum(x)

    report, _ = verdict.judge_evidence(SOFTMAX, evidence_of(SOFTMAX, doubled), SECRET)
    at_home = judge(SOFTMAX, SEED, runner.collect(SOFTMAX, doubled, SEED))
    assert [one.because for one in report.verdicts] == [one.because for one in at_home.verdicts]
    assert any(one.because for one in report.verdicts)


def test_evidence_of_other_inputs_is_worth_what_it_is_worth_on_these():
    replayed = evidence_of(SOFTMAX, SOFTMAX.reference, secret=SECRET + 1)
    report, _ = verdict.judge_evidence(SOFTMAX, replayed, SECRET)
    assert report.earned < SOFTMAX.points
    assert not next(one for one in report.verdicts if "shares that sum to 1" in one.sentence).earned


def test_the_public_outcomes_cannot_stand_for_the_hidden_ones():
    sent = evidence_of(SOFTMAX, SOFTMAX.reference)
    sent["secret"] = sent["public"]
    assert verdict.judge_evidence(SOFTMAX, sent, SECRET)[0].earned < SOFTMAX.points


def damaged(change):
    sent = evidence_of(SOFTMAX, SOFTMAX.reference)
    changed = change(sent)
    return sent if changed is None else changed


def _set(path, value):
    def change(sent):
        place = sent
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


NESTED = {"list": []}
for _ in range(3000):
    NESTED = {"list": [NESTED]}
DAMAGE = {
    "nothing": lambda sent: 0.0,
    "a list": lambda sent: [sent],
    "text": lambda sent: "full marks",
    "no secret part": lambda sent: {"public": sent["public"]},
    "secret is text": _set(["secret"], "all right"),
    "too few outcomes": lambda sent: sent["secret"].pop() and None,
    "too many outcomes": lambda sent: sent["secret"].append(sent["secret"][0]),
    "an outcome is a number": _set(["secret", 0], 1.0),
    "an outcome has a field more": _set(["secret", 0, "earned"], 6),
    "an outcome lacks a field": lambda sent: sent["secret"][0].pop("status") and None,
    "an unknown status": _set(["secret", 0, "status"], "right"),
    "a status that is a list": _set(["secret", 0, "status"], ["returned"]),
    "raised without an error": _set(["secret", 0, "status"], "raised"),
    "an error of another form": _set(["secret", 0, "error"], {"type": "E"}),
    "changed is a number": _set(["secret", 0, "changed"], 3),
    "printed is a list": _set(["secret", 0, "printed"], ["x"]),
    "a value that is a bare number": _set(["secret", 0, "value"], 0.5),
    "an array of objects": _set(["secret", 0, "value", "dtype"], "|O"),
    "an array of an unknown dtype": _set(["secret", 0, "value", "dtype"], "what"),
    "an array of another size": _set(["secret", 0, "value", "shape"], [10**9, 10**9]),
    "a negative shape": _set(["secret", 0, "value", "shape"], [-1, 2]),
    "a shape of text": _set(["secret", 0, "value", "shape"], ["a"]),
    "bytes that are not base64": _set(["secret", 0, "value", "array"], "!!"),
    "a nest without end": _set(["secret", 0, "value"], NESTED),
    "an unknown kind of value": _set(["secret", 0, "value"], {"pickle": "gASVAAAA"}),
    "public outcomes that are broken": lambda sent: sent.update(secret=_wrong(sent["secret"]), public=[1]),
}


def _wrong(outcomes):
    wrong = copy.deepcopy(outcomes)
    wrong[0]["value"] = None
    return wrong


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE.keys())
def test_evidence_with_gaps_is_refused_with_a_reason(change):
    with pytest.raises(verdict.NoEvidence) as caught:
        verdict.judge_evidence(SOFTMAX, damaged(change), SECRET)
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308], ids=str)
def test_numbers_at_the_edge_are_judged_like_any_other(value):
    def odd(x, axis=-1):
        return np.full(np.shape(x), value)

    report, _ = verdict.judge_evidence(SOFTMAX, evidence_of(SOFTMAX, odd), SECRET)
    assert 0 <= report.earned < SOFTMAX.points


def test_a_name_that_is_missing_or_no_function_is_said():
    for instead, words, status in (("", "does not define softmax", "not attempted"), ("int", "of type int", "refused")):
        report, _ = verdict.judge_evidence(SOFTMAX, {"instead": instead}, SECRET)
        assert words in report.message and report.status == status and report.earned == 0


def test_a_loop_on_one_case_keeps_the_points_of_the_cases_before_it():
    def endless_on_one_axis(x, axis=-1):
        while np.ndim(x) == 3:
            pass
        return SOFTMAX.reference(x, axis)

    outcomes = runner.collect(SOFTMAX, endless_on_one_axis, SECRET, time_limit=0.2)
    sent = {"secret": [one.to_json() for one in outcomes]}
    assert not verdict.wants_words(SOFTMAX, sent, SECRET)
    report, _ = verdict.judge_evidence(SOFTMAX, sent, SECRET)
    assert 0 < report.earned < SOFTMAX.points
    assert all("did not finish" in one.because for one in report.verdicts if not one.earned)


def test_a_loop_on_hidden_inputs_is_told_without_the_public_ones():
    def endless(x, axis=-1):
        while True:
            pass

    outcomes = runner.collect(SOFTMAX, endless, SECRET, time_limit=0.2)
    sent = {"secret": [one.to_json() for one in outcomes], "public": []}
    report, _ = verdict.judge_evidence(SOFTMAX, sent, SECRET)
    assert report.earned == 0 and "did not finish in time" in report.verdicts[0].because


def test_the_graded_cell_shows_a_number_that_nbgrader_stores():
    import nbformat
    from nbgrader.utils import determine_grade

    report, _ = verdict.judge_evidence(SOFTMAX, evidence_of(SOFTMAX, SOFTMAX.mistakes[0].answer), SECRET)
    data = verdict.output_of(verdict.mark_of(SOFTMAX, report), report)
    cell = nbformat.v4.new_code_cell("check()", outputs=[nbformat.v4.new_output("execute_result", data)])
    cell.metadata["nbgrader"] = {"grade": True, "solution": False, "points": SOFTMAX.points, "grade_id": "check-2-1"}
    assert determine_grade(cell) == (report.earned, SOFTMAX.points)
    assert data[REPORT_TYPE]["mistakes"] == [SOFTMAX.mistakes[0].name]


def test_a_call_of_what_the_exercise_asks_for_is_seen_through_any_name():
    reference, hold = SOFTMAX.reference, {}
    hold["it"] = reference

    def borrowed(x, axis=-1):
        return hold["it"](x, axis)

    outcomes = runner.collect(SOFTMAX, borrowed, SECRET, watch=lambda: traps(SOFTMAX))
    sent = {"secret": [one.to_json() for one in outcomes], "public": []}
    report, called = verdict.judge_evidence(SOFTMAX, sent, SECRET)
    assert report.full and called == {"attn_ref.softmax"}


def test_the_line_that_makes_a_kernel_testify_is_one_expression():
    compile(call("2.1", {"secret": 1, "public": 2}, apart=True), "cell", "eval")


def test_answers_that_are_too_much_to_be_sent_are_described_in_their_place():
    from autograder.evidence import Outcome
    from autograder.grading.testify import LARGEST_EVIDENCE, _sendable

    sent = _sendable([Outcome(value=np.ones((700, 1400))) for _ in range(5)])
    assert len(json.dumps(sent)) < 1.1 * LARGEST_EVIDENCE
    assert Outcome.from_json(sent[0]).value.shape == (700, 1400)
    assert Outcome.from_json(sent[4]).value.description == "too much to be sent (more than 16 MiB over all cases)"
