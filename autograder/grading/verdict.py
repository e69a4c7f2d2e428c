"""Outside the sandbox: from the evidence of one exercise to its mark and the card that its student sees.

Points follow from the secret seed. What is explained follows from the public one, which the student's own check uses:
so nothing that only the grader knows is ever shown, and all that is shown can be seen again at home.
"""

from autograder import card
from autograder.evidence import Outcome
from autograder.exercise import Exercise
from autograder.grading.results import Criterion, Mark
from autograder.judge import Report, Verdict, cases_to_read, fault, judge
from autograder.notebook import REPORT_TYPE, SEED, hint_line

HIDDEN = "it is met on the inputs of your own check, and not on others of the same kind; is something fixed to those?"
UNDEFINED = "not attempted yet: the notebook does not define {name}"
NOT_CALLABLE = "{name} is of type {found} when the check runs, not the {sort} that was asked for"

ENDED = ("too slow", "died")  # outcomes after which nothing more was run


class NoEvidence(Exception):
    """The evidence cannot be judged; the text says how it falls short."""


def judge_evidence(exercise: Exercise, evidence, seed: int) -> tuple[Report, set[str]]:
    """The Report of one exercise, and the forbidden functions that its answer was seen to call.

    Points follow from the secret `seed`, words from the public one. NoEvidence if the evidence has gaps.
    """
    if not isinstance(evidence, dict):
        raise NoEvidence("none arrived")
    if "instead" in evidence:
        return _without_answer(exercise, str(evidence["instead"])[:100]), set()
    outcomes = _outcomes(exercise, evidence.get("secret"), seed)
    called = {name[:200] for one in outcomes for name in one.called}
    hidden = judge(exercise, seed, outcomes, diagnose=False)
    if hidden.full or hidden.status == "not attempted":
        return hidden, called
    ended = [one for one in outcomes if one.status in ENDED]
    if ended:  # before the public inputs had their turn
        return _masked(hidden, None, fault(None, None, ended[0]).text), called
    public = judge(exercise, SEED, _outcomes(exercise, evidence.get("public"), SEED))
    if public.full:
        hidden = judge(exercise, seed, outcomes)
    return _masked(hidden, public, HIDDEN), called


def wants_words(exercise: Exercise, evidence, seed: int) -> bool:
    """Would the public inputs tell the student anything more than the secret ones have told the grader?"""
    try:
        outcomes = _outcomes(exercise, evidence["secret"], seed)
    except (NoEvidence, TypeError, KeyError):
        return False
    if outcomes[0].status == "not attempted" or any(one.status in ENDED for one in outcomes):
        return False
    return not judge(exercise, seed, outcomes, diagnose=False).full


def lacks_a_name(evidence) -> bool:
    """Did the answer use a name that the notebook has not defined?"""
    try:
        return any(one["error"] and one["error"]["type"] == "NameError" for one in evidence["secret"])
    except (TypeError, KeyError):
        return False


def _outcomes(exercise, data, seed):
    if not isinstance(data, list):
        raise NoEvidence("a part of it is missing")
    wanted = len(cases_to_read(exercise, seed))
    if len(data) != wanted:
        raise NoEvidence(f"it has {len(data)} outcomes, and there are {wanted} cases")
    try:
        return [Outcome.from_json(one) for one in data]
    except ValueError as problem:
        raise NoEvidence(str(problem)) from None


def _without_answer(exercise, found):
    sort = "class" if isinstance(exercise.reference, type) else "function"
    text = NOT_CALLABLE if found else UNDEFINED
    status = "refused" if found else "not attempted"
    message = text.format(name=exercise.name, found=found, sort=sort)
    return Report(exercise.id, exercise.title, exercise.points, status=status, message=message)


def _masked(hidden, public, otherwise):
    """The hidden report's points, in the public report's words; `otherwise` where that has none."""
    words = public.verdicts if public else hidden.verdicts
    verdicts = [Verdict(one.sentence, one.points, one.earned) for one in hidden.verdicts]
    for shown, told in zip(verdicts, words, strict=True):
        if shown.earned < shown.points:
            shown.because = otherwise
            if public and told.earned < told.points:
                shown.because, shown.where, shown.picture = told.because, told.where, told.picture
    report = Report(hidden.exercise_id, hidden.title, hidden.points, hidden.earned, hidden.status, verdicts)
    named = public if public and not public.full else hidden  # a known mistake's message holds no input
    report.diagnosis, report.sure = named.diagnosis, named.sure
    report.printed = public.printed if public else ""
    return report


def mark_of(exercise: Exercise, report: Report) -> Mark:
    """The report as it is kept with the grade."""
    return Mark(
        exercise.id,
        exercise.title,
        exercise.points,
        report.earned,
        report.status,
        [Criterion(one.sentence, one.points, one.earned, one.where + one.because) for one in report.verdicts],
        [mistake.name for mistake in report.diagnosis],
        card.paragraphs(report),
        hint_line(exercise, report),
    )


def mark_without(exercise: Exercise, problem) -> Mark:
    """The mark of an exercise that a Breach has cost: 0, with the reason."""
    return Mark(exercise.id, exercise.title, exercise.points, status="breach", messages=[problem.message])


def output_of(mark: Mark, report: Report | None):
    """What the check cell shows in the graded notebook: the number that nbgrader stores, and the card."""
    if report is None:
        html = card.plain_html(f"{mark.exercise} {mark.title}", "\n".join(mark.messages))
        summary = {"exercise": mark.exercise, "earned": mark.earned, "points": mark.points, "status": mark.status}
        summary["mistakes"] = mark.mistakes
    else:
        html, summary = card.as_html(report, mark.hint), report.summary()
    return {"text/plain": repr(float(mark.earned)), "text/html": html, REPORT_TYPE: summary}
