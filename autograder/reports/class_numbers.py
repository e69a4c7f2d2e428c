"""What a class report says, as numbers: pure functions from a ClassRun, without words and without plots."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from autograder.grading.results import FAILED, GRADED, MISSING, PARTLY, ClassRun, Graded

STATUSES = (GRADED, PARTLY, FAILED, MISSING)
ENOUGH = 20  # submissions below which a correlation says little: chance alone reaches 2 / √n, which is 0.45 at 20
LOW = 0.5  # the share of the points below which a student is listed as needing help


@dataclass
class Exercise:
    """One exercise over all submissions in which it was graded."""

    chapter: str
    exercise: str
    title: str
    points: float
    marks: list = field(default_factory=list)
    rests: list[float] = field(default_factory=list)  # points of the same student's other exercises of the chapter

    @property
    def count(self):
        return len(self.marks)

    @property
    def outcomes(self):
        """How many got all points, a part, none, and how many did not try."""
        tried = [mark for mark in self.marks if mark.status != "not attempted"]
        full = sum(mark.earned >= mark.points for mark in tried)
        part = sum(0 < mark.earned < mark.points for mark in tried)
        return full, part, len(tried) - full - part, self.count - len(tried)

    @property
    def mean(self):
        """Mean share of the points: 1 is an exercise that everyone solves."""
        shares = [mark.earned / mark.points for mark in self.marks if mark.points]
        return float(np.mean(shares)) if shares else 0.0

    @property
    def discrimination(self):
        """Correlation of its points with the rest of the chapter; None where there are too few or nothing varies."""
        earned = np.array([mark.earned for mark in self.marks], dtype=float)
        if self.count < ENOUGH or np.ptp(earned) == 0 or np.ptp(self.rests) == 0:
            return None
        return float(np.corrcoef(earned, self.rests)[0, 1])


@dataclass
class Mistake:
    """A known mistake, and who made it."""

    name: str
    exercise: str
    students: list[str]
    answers: int  # submissions that answered the exercise
    message: str = ""  # what its students are told, where that can be told from a mark with this mistake alone


def scored(graded: Graded) -> bool:
    """Whether there is a score; a failed or missing submission has none, which is not a 0."""
    return graded.status in (GRADED, PARTLY)


def decided(graded: Graded) -> float:
    """The points that are decided: all but those of written questions that wait for a reader."""
    return graded.max_score - sum(one.points for one in graded.readings if one.earned is None)


def share(graded: Graded) -> float | None:
    """The share of the decided points; None where there is no score."""
    return graded.score / decided(graded) if scored(graded) and decided(graded) else None


def table(run: ClassRun) -> dict:
    """{(student, chapter): Graded}, complete: what was not handed in is there as missing."""
    known = {(one.student, one.chapter): one for one in run.graded}
    nothing = {"status": MISSING, "reason": "nothing was handed in"}
    cells = [(student, chapter) for student in run.students for chapter in run.chapters]
    return {cell: known.get(cell) or Graded(*cell, **nothing) for cell in cells} | known


def statuses(run: ClassRun) -> dict:
    """{status: how many submissions}"""
    counts = Counter(one.status for one in table(run).values())
    return {status: counts[status] for status in STATUSES}


def exercises(run: ClassRun) -> list[Exercise]:
    """Every exercise, in the order of the course."""
    found = {}
    order = {chapter: place for place, chapter in enumerate(run.chapters)}
    for one in sorted(filter(scored, run.graded), key=lambda one: order.get(one.chapter, len(order))):
        total = sum(mark.earned for mark in one.marks)
        for mark in one.marks:
            key = one.chapter, mark.exercise
            entry = found.setdefault(key, Exercise(one.chapter, mark.exercise, mark.title, mark.points))
            entry.marks.append(mark)
            entry.rests.append(total - mark.earned)
    return list(found.values())


def mistakes(run: ClassRun) -> list[Mistake]:
    """Known mistakes, the most frequent first."""
    found, answers = {}, Counter()
    for one in run.graded:
        for mark in one.marks:
            answers[one.chapter, mark.exercise] += mark.status != "not attempted"
            for name in mark.mistakes:
                entry = found.setdefault((one.chapter, mark.exercise, name), Mistake(name, mark.exercise, [], 0))
                entry.students.append(one.student)
                if len(mark.mistakes) == len(mark.messages) == 1:
                    entry.message = mark.messages[0]
    for (chapter, exercise, _), entry in found.items():
        entry.answers = answers[chapter, exercise]
    return sorted(found.values(), key=lambda one: (-len(one.students), one.exercise, one.name))


def stuck(run: ClassRun) -> dict:
    """{(exercise id, title): students who tried it and got nothing}, where there are at least two, most first."""
    found = {}
    for one in run.graded:
        for mark in one.marks:
            if scored(one) and mark.points and not mark.earned and mark.status != "not attempted":
                found.setdefault((mark.exercise, mark.title), []).append(one.student)
    several = {exercise: names for exercise, names in found.items() if len(names) > 1}
    return dict(sorted(several.items(), key=lambda item: -len(item[1])))


@dataclass
class Need:
    """Why one student may need help, as facts."""

    student: str
    share: float | None  # of the decided points of all that has a score
    low: bool = False
    failed: list[Graded] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    breaches: list = field(default_factory=list)
    unsolved: list[str] = field(default_factory=list)  # exercises tried without a point


def needs(run: ClassRun) -> list[Need]:
    """The students with at least one reason to look after them, the most urgent first."""
    cells, found = table(run), []
    for student in run.students:
        own = [cells[student, chapter] for chapter in run.chapters]
        points = sum(decided(one) for one in own if scored(one))
        need = Need(student, sum(one.score for one in own if scored(one)) / points if points else None)
        need.low = need.share is not None and need.share < LOW
        need.failed = [one for one in own if one.status == FAILED]
        need.missing = [one.chapter for one in own if one.status == MISSING]
        need.breaches = [breach for one in own for breach in one.breaches]
        tried = [mark for one in own if scored(one) for mark in one.marks if mark.status != "not attempted"]
        need.unsolved = [mark.exercise for mark in tried if mark.points and not mark.earned]
        if need.low or need.failed or need.missing or need.breaches or len(need.unsolved) > 1:
            found.append(need)
    return sorted(found, key=lambda one: (not one.failed, -1 if one.share is None else one.share))


def glance(run: ClassRun, entries: list[Exercise]):
    """Shares as an array, a row a student from the best down, a column an exercise; NaN where there is no score."""
    columns = {(one.chapter, one.exercise): place for place, one in enumerate(entries)}
    rows = {student: place for place, student in enumerate(run.students)}
    values = np.full((len(rows), len(columns)), np.nan)
    for one in run.graded:
        for mark in one.marks:
            if scored(one) and mark.points and one.student in rows:
                values[rows[one.student], columns[one.chapter, mark.exercise]] = mark.earned / mark.points
    return values[np.argsort(-np.nansum(values, axis=1), kind="stable")]
