"""A graded class for the tests of reports and exports, from the sample class and the judge, without a notebook."""

import random
from dataclasses import replace
from functools import cache

from autograder.exercise import load_chapter
from autograder.grading.breaches import breach
from autograder.grading.results import FAILED, PARTLY, ClassRun, Flag, Graded, Reading, Stamp
from autograder.grading.verdict import mark_of
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import run_case
from autograder.sample_class import plan

STAMP = Stamp("9f2c", {"2.1": "1b7e"}, 424242, "namespaces", "c0ffee", "2026-10-02T09:30:00+00:00", 1.6)


@cache
def mark(chapter, exercise_id, answer):
    """The mark of one answer; None is the stub as it was released."""
    exercise = load_chapter(chapter).exercises[exercise_id]
    # Recognition compares with every known mistake; here it is known beforehand which one it can be.
    exercise = replace(exercise, mistakes=[one for one in exercise.mistakes if one.answer is answer])
    outcomes = [run_case(exercise, answer or stub, case.arguments) for case in exercise.cases(SEED)]
    return mark_of(exercise, judge(exercise, SEED, outcomes))


def stub(*_args, **_kwargs):
    raise NotImplementedError


@cache
def handed_in():
    """{(student, chapter number): [Mark, ...]} of the sample class."""
    marks = {}
    for one in plan():
        marks.setdefault((one.student, one.chapter), []).append(mark(one.chapter, one.exercise_id, one.answer))
    return marks


def class_run(students=20, chapters=None):
    """A class of this size: the sample class, and again under other names. `chapters` repeats them to that number."""
    kinds = sorted({chapter for _, chapter in handed_in()})
    folders = [(kind, load_chapter(kind).folder) for kind in kinds]
    if chapters:
        folders = [(kinds[n % len(kinds)], f"{n:02d}_{folders[n % len(kinds)][1][3:]}") for n in range(chapters)]
    names = list(dict.fromkeys(student for student, _ in handed_in()))
    roster = [names[n % len(names)] + ("" if n < len(names) else f"-{n // len(names) + 1}") for n in range(students)]
    graded = [
        graded_of(student, folder, handed_in()[student.split("-")[0], kind], kind, place)
        for place, student in enumerate(roster)
        for kind, folder in folders
        if (student.split("-")[0], kind) in handed_in()
    ]
    return ClassRun("attention", [folder for _, folder in folders], roster, graded, [], "namespaces")


def graded_of(student, folder, marks, kind, place=0):
    """One Graded with these marks, and the chapter's written questions read for every second student."""
    rng = random.Random(f"{student}{folder}")
    readings = [
        Reading(one.id, one.title, one.points, rng.randint(1, 4) if place % 2 else None, "Clear." if place % 2 else "")
        for one in load_chapter(kind).written.values()
    ]
    submitted = f"2026-10-01 {rng.randint(0, 23):02d}:15:00 UTC"
    return Graded(student, folder, marks=list(marks), readings=readings, submitted=submitted, stamp=STAMP)


def eventful(run):
    """The run with one of everything that can happen: a failure, a breach, flags, a late one, things mended."""
    slow, partly, late, flagged = run.graded[0], run.graded[1], run.graded[2], run.graded[3]
    slow.breaches.append(breach("too slow", slow.marks[0].exercise, "while True:", seconds=20))
    partly.status, partly.reason = PARTLY, "its time was spent after the fifth exercise"
    partly.notes.append("a copy of cell `check-2-1` was left out")
    late.late_seconds, late.late_penalty = 93_600.0, 1.5
    flagged.flags.append(Flag("as another student", "the same answer", flagged.marks[0].exercise, [late.student]))
    run.students.append("zoe")
    run.graded.append(Graded("zoe", run.chapters[0], FAILED, "the file is no notebook", submitted="2026-10-01"))
    run.unplaced.append(("inbox/homework(2).docx", "it is no notebook"))
    return run
