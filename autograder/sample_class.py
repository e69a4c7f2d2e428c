"""A class of twenty to try grading on, made from the exercises' own right variants and mistakes.

Nothing of it is stored: the same definitions always make the same class, and each score follows from what was
handed in.
"""

import csv
import random
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from autograder.answers import source_of, write_filled
from autograder.build import release_bytes
from autograder.exercise import chapters, load_chapter
from autograder.grading.policy import forbidden_calls
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import collect

CHAPTERS = 3  # the first of the course, so that grading the class takes a minute
NAMES = [
    "ada",
    "alan",
    "barbara",
    "claude",
    "donald",
    "edsger",
    "emmy",
    "frances",
    "grace",
    "hedy",
    "john",
    "katherine",
    "kurt",
    "leslie",
    "margaret",
    "niklaus",
    "radia",
    "shafi",
    "sofia",
    "tony",
]


@dataclass(frozen=True)
class Handed:
    """What one student wrote for one exercise: None is an untouched stub."""

    student: str
    chapter: int
    exercise_id: str
    answer: object
    kind: str  # right, mistake or untouched

    @property
    def what(self):
        return getattr(self.answer, "__name__", "untouched")


def plan(students=20):
    """Who hands in what. Skill rises along the list; mistakes and variants take turns, so that all come up in time."""
    handed = []
    turns = {}
    for place, student in enumerate(NAMES[:students]):
        rng = random.Random(place)
        skill = 0.35 + 0.65 * place / max(1, students - 1)
        for number in sorted(chapters())[:CHAPTERS]:
            if number and rng.random() > 0.45 + 0.6 * skill:
                continue  # not handed in at all, which is not the same as 0
            for exercise in load_chapter(number).exercises.values():
                handed.append(_one(student, number, exercise, skill, rng, turns))
    return handed


def _one(student, number, exercise, skill, rng, turns):
    draw = rng.random()
    if draw < skill:
        pool, kind = exercise.variants, "right"
    elif draw < 0.9:
        pool, kind = [mistake.answer for mistake in exercise.mistakes], "mistake"
    else:
        return Handed(student, number, exercise.id, None, "untouched")
    turn = turns.get((exercise.id, kind), 0)
    turns[exercise.id, kind] = turn + 1
    return Handed(student, number, exercise.id, pool[turn % len(pool)], kind)


def write(folder, students=20):
    """Write `folder/<student>/<chapter>/<chapter>.ipynb`, a time stamp each, and `folder/expected.csv`."""
    handed = plan(students)
    due = datetime(2026, 10, 1, 12, tzinfo=UTC)
    shutil.rmtree(folder, ignore_errors=True)  # a smaller class must not keep the students of a larger one
    folder.mkdir(parents=True)
    # Built afresh: someone may have worked in the notebooks under course/.
    releases = {number: release_bytes(load_chapter(number).folder) for number in {one.chapter for one in handed}}
    for student, number in dict.fromkeys((one.student, one.chapter) for one in handed):
        chapter = load_chapter(number)
        answers = {
            one.exercise_id: source_of(one.answer, chapter.exercises[one.exercise_id].name)
            for one in handed
            if (one.student, one.chapter) == (student, number) and one.answer is not None
        }
        if any(one.kind == "right" for one in handed if (one.student, one.chapter) == (student, number)):
            answers |= {written_id: f"In the words of {student}." for written_id in chapter.written}
        path = write_filled(releases[number], answers, folder / student / chapter.folder / f"{chapter.folder}.ipynb")
        handed_in = due - timedelta(hours=NAMES.index(student))
        (path.parent / "timestamp.txt").write_text(handed_in.strftime("%Y-%m-%d %H:%M:%S UTC"), encoding="utf-8")
    with open(folder / "expected.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL)
        rows.writerow(["student", "chapter", "exercise", "handed in", "score"])
        scores = {}
        for one in handed:
            folder_name = load_chapter(one.chapter).folder
            rows.writerow([one.student, folder_name, one.exercise_id, one.what, expected_score(one, scores)])
    return handed


def expected_score(handed, known=None):
    """The points an answer deserves, judged here and without a notebook; none if it calls what it should write."""
    known = {} if known is None else known
    key = (handed.exercise_id, handed.answer)
    if handed.answer is None:
        return 0.0
    if key not in known:
        exercise = load_chapter(handed.chapter).exercises[handed.exercise_id]
        flags = forbidden_calls(exercise, source_of(handed.answer, exercise.name), ["import attn_ref"])
        forbidden = any(flag.kind == "forbidden call" for flag in flags)
        known[key] = 0.0 if forbidden else judge(exercise, SEED, collect(exercise, handed.answer, SEED)).earned
    return known[key]
