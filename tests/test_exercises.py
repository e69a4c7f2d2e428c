"""Every exercise's grader is proven: it names each known mistake, passes each right variant, and falls for nothing."""

import functools

import numpy as np
import pytest

from autograder import build
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import collect
from tests.conftest import EXERCISES, PROOFS, proof

SEEDS = (SEED, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 20260921)))  # the learner's own, and others


def pairs(attribute, name):
    return [proof(one, item, name=name(item)) for one in EXERCISES for item in getattr(one, attribute)]


def report_on(exercise, answer, seed=SEED):
    return judge(exercise, seed, collect(exercise, answer, seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_the_reference_gets_full_marks(exercise, seed):
    report = report_on(exercise, exercise.reference, seed)
    assert report.full, [verdict for verdict in report.verdicts if verdict.because]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("exercise", "variant"), pairs("variants", lambda variant: variant.__name__))
def test_a_right_variant_gets_full_marks(exercise, variant, seed):
    report = report_on(exercise, variant, seed)
    assert report.full, [verdict for verdict in report.verdicts if verdict.because]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("exercise", "mistake"), pairs("mistakes", lambda mistake: mistake.name))
def test_a_mistake_loses_marks_and_draws_its_own_message(exercise, mistake, seed):
    report = report_on(exercise, mistake.answer, seed)
    assert report.earned < report.points
    assert [found.name for found in report.diagnosis] == [mistake.name]


@functools.cache
def crosses():
    """{exercise: {criterion: whether a mistake fails it}}, by docs/kill-matrix.md, which another test keeps true."""
    found = {}
    for part in (build.ROOT / "docs" / "kill-matrix.md").read_text(encoding="utf-8").split("\n### ")[1:]:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| ")]
        wrong = [row for row in rows[1:] if not row[0].startswith("*")]
        marks = {rows[0][place]: any(row[place] == "✗" for row in wrong) for place in range(1, len(rows[0]) - 2)}
        found[part.split()[0]] = marks
    return found


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_every_criterion_catches_a_named_mistake(exercise):
    assert crosses()[exercise.id] == {f"c{place}": True for place in range(1, len(exercise.criteria) + 1)}


@pytest.mark.slow
@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_machine_that_cannot_fork_judges_the_same(exercise, monkeypatch):
    answers = [mistake.answer for mistake in exercise.mistakes] + exercise.variants
    forked = [report_on(exercise, answer) for answer in answers]
    monkeypatch.setattr("autograder.runner.CAN_FORK", False)
    assert [report_on(exercise, answer).summary() for answer in answers] == [report.summary() for report in forked]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_an_exercise_is_complete(exercise):
    assert len(exercise.mistakes) >= 5
    assert len(exercise.variants) >= 2
    assert 2 <= len(exercise.hint_texts) <= 3
    assert len({mistake.message for mistake in exercise.mistakes}) == len(exercise.mistakes)
    assert exercise.reference.__doc__


def trivial_answers(exercise):
    """Answers that solve nothing, of the right shape where a shape can be known."""

    def like(fill):
        def answer(*args, **kwargs):
            return filled(exercise.reference(*args, **kwargs), fill)

        return answer

    return {
        "None": lambda *args, **kwargs: None,
        "its first argument": lambda first, *args, **kwargs: first,
        "a generator": lambda *args, **kwargs: (x for x in ()),
        "text": lambda *args, **kwargs: "0.5",
        "an object": lambda *args, **kwargs: object(),
        **{f"all {fill}": like(fill) for fill in (0.0, 1.0, 0.5, np.nan)},
    }


def filled(value, fill):
    if isinstance(value, (tuple, list)):
        return type(value)(filled(item, fill) for item in value)
    return np.full(np.shape(value), fill)


@pytest.mark.parametrize("exercise", PROOFS)
def test_an_answer_that_solves_nothing_scores_nothing(exercise):
    if isinstance(exercise.reference, type):
        pytest.skip("a class has no one trivial form")
    for name, answer in trivial_answers(exercise).items():
        assert report_on(exercise, answer).earned == 0, name


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_stub_is_not_attempted(exercise):
    def stub(*args, **kwargs):
        raise NotImplementedError

    report = report_on(exercise, stub)
    assert report.status == "not attempted"
    assert report.earned == 0
    assert "not attempted yet" in report.message
