"""The one line in the notebook: `check("2.1", softmax)`, and its neighbours `hint` and `progress`.

A check never raises and never writes to stderr: nbgrader gives 0 to a graded cell that does either. Its value is a
float, which nbgrader stores as partial credit, and which shows as a card.
"""

import sys

from autograder import card, record
from autograder.exercise import find_exercise
from autograder.forbidden import caught
from autograder.judge import Report, judge
from autograder.runner import collect
from autograder.traps import traps

REPORT_TYPE = "application/vnd.attn.report+json"  # beside the card, for the class's summary
GRADED = "A class's grader can take the points of such an answer."
SEED = 2017  # the learner's cases: the same every time, so that a mended answer is seen to be mended


class Score(float):
    """The points, a float, which a notebook shows as a card and a terminal prints as text."""

    def __new__(cls, report, note=""):
        return super().__new__(cls, report.earned)

    def __init__(self, report, note=""):
        self.report = report
        self.note = note

    def __repr__(self):
        return repr(float(self))

    def __str__(self):
        return card.as_text(self.report, self.note)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": card.as_html(self.report, self.note), REPORT_TYPE: self.report.summary()}

    def __reduce__(self):
        return (float, (float(self),))  # a copy is a number: a card belongs to the moment it was made


class Message:
    """A small card without a score."""

    def __init__(self, title, text, edge="none"):
        self.title, self.text, self.edge = title, text, edge

    def __repr__(self):
        return f"{self.title}\n{self.text}"

    def _repr_html_(self):
        return card.plain_html(self.title, self.text, edge=self.edge)


def check(exercise_id, *answers):
    """Judge an answer. Returns the points as a number that shows as a card; never raises."""
    try:
        report, note = _check(exercise_id, answers)
    except Exception as error:  # a fault of ours must not cost a learner the lesson, nor leave a trace on stderr
        text = f"this check itself failed ({type(error).__name__}: {error}); please report it. Your answer is safe"
        report, note = _refused(exercise_id, text), ""
    score = Score(report, note)
    if not in_notebook():
        print(score)
    return score


def _check(exercise_id, answers):
    try:
        exercise = find_exercise(exercise_id)
    except KeyError as error:
        return _refused(exercise_id, error.args[0]), ""
    if len(answers) != 1 or not callable(answers[0]):
        got = "nothing" if not answers else f"{len(answers)} things" if len(answers) > 1 else _name(answers[0])
        text = (
            f'check("{exercise.id}", {exercise.name}) takes the {_sort(exercise)} itself, without brackets; '
            f"it was given {got}"
        )
        return _refused(exercise.id, text, exercise), ""
    if exercise.missing:
        text = f"not available here: {exercise.missing}. Nothing is lost: a machine that has it can judge your answer"
        return _refused(exercise.id, text, exercise, "not available"), ""
    outcomes = collect(exercise, answers[0], SEED, watch=lambda: traps(exercise))
    report = judge(exercise, SEED, outcomes)
    notes = []
    if getattr(answers[0], "__name__", "") == exercise.name:  # a planted bug under another name is nobody's answer
        called = sorted({name for outcome in outcomes for name in outcome.called})
        notes += [f"{caught(exercise, called[0])} {GRADED}"] if called else []
        notes.append(record.append("check", exercise.id, earned=report.earned, points=report.points))
    notes.append(hint_line(exercise, report, _hints_seen(exercise)))
    return report, "\n".join(filter(None, notes))


def hint(exercise_id, step=None):
    """The next hint of an exercise, or the one asked for: `hint("2.1")`, `hint("2.1", 1)`."""
    try:
        exercise = find_exercise(exercise_id)
    except KeyError as error:
        return Message("No hint", error.args[0])
    texts = exercise.hint_texts
    if step is None:
        step = min(_hints_seen(exercise) + 1, len(texts))
    if not isinstance(step, int) or not 1 <= step <= len(texts):
        return Message("No hint", f"exercise {exercise.id} has hints 1 to {len(texts)}; {step!r} was asked for")
    record.append("hint", exercise.id, step=step)
    return Message(f"{exercise.id} {exercise.title} · hint {step} of {len(texts)}", texts[step - 1])


def progress(chapter=None):
    """A card of what is solved, for one chapter or the whole course."""
    if chapter is not None and not str(chapter).isdigit():
        return Message("No progress to show", f"progress takes a chapter's number, such as 2; it was given {chapter!r}")
    wanted = None if chapter is None else int(chapter)
    lines = []
    for folder, rows, missing in record.table(wanted):
        lines += [f"{folder} needs {missing}; attn doctor says how to install it"] if missing else []
        lines += [
            f"{_mark(standing.best, exercise.points)} {exercise.id} {exercise.title}: "
            f"{card.of(standing.best, exercise.points)}{', not available here' * bool(exercise.missing)}"
            for exercise, standing in rows
        ]
    title = "Your progress" if wanted is None else f"Your progress in chapter {wanted:02d}"
    return Message(title, "\n".join(lines) or f"there is no chapter {wanted}")


def in_notebook():
    """Is there a front end that shows HTML? A terminal has none and gets text."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def _mark(earned, points):
    return "✓" if earned >= points else "◐" if earned else "·"


def _hints_seen(exercise):
    return record.standings().get(exercise.id, record.Standing()).hints


def hint_line(exercise, report, seen=0):
    """How to ask for the next hint, for someone who has seen so many; nothing where there is none to give."""
    if report.full or not exercise.hint_texts:
        return ""
    total = len(exercise.hint_texts)
    if seen == 0:
        return f'hint("{exercise.id}") gives the first of {total} hints.'
    if seen < total:
        return f'hint("{exercise.id}") gives hint {seen + 1} of {total}.'
    return f'hint("{exercise.id}", 1) shows the first of the {total} hints again.'


def _refused(exercise_id, text, exercise=None, status="refused"):
    title = exercise.title if exercise else "nothing to check"
    return Report(str(exercise_id), title, exercise.points if exercise else 0, status=status, message=text)


def _name(value):
    return f"a {type(value).__name__}"


def _sort(exercise):
    return "class" if isinstance(exercise.reference, type) else "function"
