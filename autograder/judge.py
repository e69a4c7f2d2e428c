"""From evidence to points and a diagnosis. Nothing here runs a learner's code.

Diagnosis is by recognition: the outcomes of a wrong answer are compared with those of every known mistake on the
same inputs. A match names the misconception; otherwise the first difference is shown as it is.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from autograder.compare import Difference, difference, number
from autograder.runner import run_case


@dataclass
class Verdict:
    """One criterion: its sentence and what it earned."""

    sentence: str
    points: float
    earned: float
    because: str = ""  # why not more
    where: str = ""  # the inputs of the case that shows it
    picture: Difference | None = None


@dataclass
class Report:
    """What the learner is told about one answer."""

    exercise_id: str
    title: str
    points: float
    earned: float = 0.0
    status: str = "judged"  # judged, not attempted, refused, not available
    verdicts: list[Verdict] = field(default_factory=list)
    diagnosis: list = field(default_factory=list)  # the mistakes recognised, at most two
    sure: bool = True  # whether the diagnosis explains every case, or only a part of them
    message: str = ""  # where there is no verdict to give
    printed: str = ""

    @property
    def full(self):
        return self.earned >= self.points

    def summary(self):
        """What a class report needs to know, as plain data."""
        return {
            "exercise": self.exercise_id,
            "earned": self.earned,
            "points": self.points,
            "status": self.status,
            "mistakes": [mistake.name for mistake in self.diagnosis],
        }


def judge(exercise, seed, outcomes, diagnose=True):
    """The Report for these outcomes of `exercise.cases(seed)`. Looking for known mistakes takes most of the time."""
    report = Report(exercise.id, exercise.title, exercise.points)
    cases = cases_to_read(exercise, seed)
    if outcomes and outcomes[0].status == "not attempted":
        report.status = "not attempted"
        report.message = f"not attempted yet: write {exercise.name}, run its cell, then run this one again"
        return report
    faults = [
        fault(case.criterion, right, outcome)
        for case, right, outcome in zip(cases, right_outcomes(exercise, seed), outcomes, strict=True)
    ]
    for criterion in exercise.criteria:
        mine = [i for i, case in enumerate(cases) if case.criterion is criterion]
        report.verdicts.append(_verdict(exercise, criterion, mine, cases, faults))
    _judge_untouched(exercise, report, cases, outcomes)
    _say_once(report.verdicts)
    report.earned = sum(verdict.earned for verdict in report.verdicts)
    report.printed = next((outcome.printed for outcome in outcomes if outcome.printed), "")
    if diagnose and not report.full:
        report.diagnosis, report.sure = recognise(exercise, seed, outcomes, faults)
    return report


@lru_cache(maxsize=200)  # a class is judged on the same inputs
def cases_to_read(exercise, seed):
    """`exercise.cases(seed)`, for who calls nothing with their arguments: they are shared."""
    return exercise.cases(seed)


@lru_cache(maxsize=200)
def right_outcomes(exercise, seed):
    """What a right answer gives on every case."""
    right = exercise.expected or exercise.reference
    return [run_case(exercise, right, case.arguments) for case in exercise.cases(seed)]


def fault(criterion, right, outcome):
    """None if the outcome is right for this criterion, else a Difference that says what is wrong."""
    if outcome.status == "raised":
        error = outcome.error
        at = f", at the line  {error['line']}" if error["line"] else ""
        return Difference(f"it raised {error['type']}: {error['message']}{at}")
    if outcome.status == "not attempted":
        return Difference("this case is not attempted yet")
    if outcome.status == "too slow":
        return Difference("it did not finish in time; is there a loop that never ends?")
    if outcome.status == "died":
        return Difference("Python itself stopped here; did the answer exit, or use more memory than there is?")
    if outcome.status == "not run":
        return Difference("not run, because an earlier case did not finish")
    found = difference(right.value, outcome.value, criterion.tolerance, criterion.same_dtype)
    if found and outcome.warned:
        found = Difference(f"{found.text} (NumPy warned: {outcome.warned[0]})", found.expected, found.got)
    return found


def recognise(exercise, seed, outcomes, faults):
    """(known mistakes that did the same, whether on every case). Else up to two that explain a failed criterion.

    A part is explained only by outcomes that tell something: a 0, an infinity or an exception has many causes.
    """
    cases = cases_to_read(exercise, seed)
    theirs = {mistake.name: mistake_outcomes(exercise, mistake, seed) for mistake in exercise.mistakes}

    def explains(mistake, indices):
        return all(alike(cases[i].criterion, theirs[mistake.name][i], outcomes[i]) for i in indices)

    for mistake in exercise.mistakes:
        if explains(mistake, range(len(cases))):
            return [mistake], True
    found = []
    for criterion in exercise.criteria:
        wrong = [i for i, case in enumerate(cases) if case.criterion is criterion and faults[i]]
        own = [i for i, case in enumerate(cases) if case.criterion is criterion]
        if any(_telling(outcomes[i]) for i in wrong) and not any(explains(mistake, wrong) for mistake in found):
            candidates = [mistake for mistake in exercise.mistakes if explains(mistake, own)]
            found += candidates if len(candidates) == 1 else []
    return found[:2], not found


def _telling(outcome):
    value = list(outcome.value.values()) if isinstance(outcome.value, dict) else outcome.value
    values = value if isinstance(value, list) else [value]
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    masks = [array for array in arrays if array.dtype.kind == "b"]
    numbers = [array for array in arrays if array.dtype.kind != "b"]
    return any((np.isfinite(array) & (array != 0)).any() for array in numbers) or any(
        mask.any() and not mask.all() for mask in masks
    )


@lru_cache(maxsize=2_000)  # a class makes the same mistakes on the same inputs
def mistake_outcomes(exercise, mistake, seed):
    """What a known mistake gives on every case."""
    return [run_case(exercise, mistake.answer, case.arguments) for case in exercise.cases(seed)]


def alike(criterion, one, other):
    """Did two wrong answers do the same? Errors by type, values within the criterion's tolerance."""
    if one.status != other.status or one.changed != other.changed:
        return False
    if one.status != "returned":
        # By the message too: a ValueError alone says little, and a mistake that was not made must not be named.
        same = ("type", "message")
        return one.status == "raised" and all(one.error[name] == other.error[name] for name in same)
    return _same_form(one.value, other.value) and difference(one.value, other.value, criterion.tolerance, True) is None


def _same_form(one, other):
    return type(one) is type(other) and (not isinstance(one, list) or len(one) == len(other))


def _verdict(exercise, criterion, indices, cases, faults):
    for i in indices:
        if faults[i]:
            where = calling(exercise, cases[i].arguments)
            return Verdict(criterion.sentence, criterion.points, 0.0, faults[i].text, where, faults[i])
    return Verdict(criterion.sentence, criterion.points, float(criterion.points) if indices else 0.0)


def _judge_untouched(exercise, report, cases, outcomes):
    """An answer that does nothing leaves its inputs alone too, so this counts only beside something right."""
    something_right = any(verdict.earned for verdict in report.verdicts)
    written = [(case, outcome) for case, outcome in zip(cases, outcomes, strict=True) if outcome.changed]
    for criterion, verdict in zip(exercise.criteria, report.verdicts, strict=True):
        if not criterion.untouched:
            continue
        if written:
            case, outcome = written[0]
            verdict.where = calling(exercise, case.arguments)
            verdict.because = f"{' and '.join(outcome.changed)} was written to"
        elif unanswered := [pair for pair in zip(cases, outcomes, strict=True) if pair[1].status != "returned"]:
            case, outcome = unanswered[0]
            why = fault(case.criterion, None, outcome).text
            verdict.because = f"counts once every case gives an answer; {calling(exercise, case.arguments)}{why}"
        elif not something_right:
            verdict.because = "counts once another criterion is met"
        else:
            verdict.earned = float(criterion.points)


def _say_once(verdicts):
    """Five criteria that fail for one reason need it told once."""
    said = set()
    for verdict in verdicts:
        if verdict.because in said:
            verdict.where, verdict.because = "", "for the same reason"
        elif verdict.because:
            said.add(verdict.because)


def calling(exercise, arguments):
    """`with n_q=2, k of shape (5, 3): `, the inputs of a case in words. What is meant for a probe alone is left out."""
    own = exercise.parameters or arguments  # a class has none
    parts = [_input(name, value) for name, value in arguments.items() if name in own]
    return f"with {', '.join(parts)}: " if parts else ""


def _entries(value):
    """A small array in full, with as many digits as it takes to tell its entries apart."""
    for digits in (4, 6, 9, 12, 17):
        if len({number(one, digits) for one in value.flat}) == len(set(value.flat)):
            break
    rows = [[number(one, digits) for one in row] for row in np.atleast_2d(value)]
    texts = [f"[{', '.join(row)}]" for row in rows]
    return texts[0] if value.ndim == 1 else f"[{', '.join(texts)}]"


def _input(name, value):
    if isinstance(value, np.ndarray):
        if value.ndim in (1, 2) and value.size <= 6:
            return f"{name}={_entries(value)}"
        return f"{name} of shape {value.shape}"
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{name} of length {len(value)}"
    if isinstance(value, float):
        return f"{name}={number(value)}"
    if hasattr(value, "shape"):
        return f"{name} of shape {tuple(value.shape)}"
    return f"{name}={value!r}" if isinstance(value, (int, str, list, tuple, type(None))) else name
