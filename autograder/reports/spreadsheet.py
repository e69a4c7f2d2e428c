"""Scores as CSV, for a spreadsheet or a script: a row a submission, and a row an exercise.

Every field is quoted. A score that is not there (a failed or missing submission) is an empty field and never a 0.
"""

import csv
import io

from autograder.grading.results import ClassRun, write_atomically
from autograder.reports.class_numbers import decided, scored, table

GRADES = (
    "student",
    "chapter",
    "status",
    "score",
    "max score",
    "decided points",
    "waits for a reader",
    "submitted",
    "seconds late",
    "late penalty",
    "breaches",
    "flags",
    "sandbox",
    "seconds",
    "reason",
)
# What begins so is run as a formula by one spreadsheet or another, the wide forms by some.
FORMULA = tuple("=+-@＝＋－＠")
EXERCISES = ("student", "chapter", "exercise", "title", "status", "score", "max score", "mistakes")


def grades(run: ClassRun) -> str:
    """grades.csv: every student's every chapter, what is missing too."""
    return _text(GRADES, [_grade(one) for one in table(run).values()])


def exercises(run: ClassRun) -> str:
    """exercises.csv: every exercise and written question of what was graded."""
    rows = []
    for one in filter(scored, run.graded):
        own = [one.student, one.chapter]
        for mark in one.marks:
            names = " ".join(mark.mistakes)
            rows.append([*own, mark.exercise, mark.title, mark.status, mark.earned, mark.points, names])
        for reading in one.readings:
            status = "waits for a reader" if reading.earned is None else "read"
            rows.append([*own, reading.question, reading.title, status, reading.earned, reading.points, ""])
    return _text(EXERCISES, rows)


def write(run: ClassRun, folder):
    """Write grades.csv and exercises.csv into `folder`. Returns their paths."""
    made = {"grades.csv": grades(run), "exercises.csv": exercises(run)}
    return [write_atomically(folder / name, text) for name, text in made.items()]


def _grade(one):
    has_score = scored(one)
    kinds = [" ".join(dict.fromkeys(each.kind for each in found)) for found in (one.breaches, one.flags)]
    return [
        one.student,
        one.chapter,
        one.status,
        one.score if has_score else None,
        one.max_score if has_score else None,
        decided(one) if has_score else None,
        "yes" if has_score and one.waits_for_reader else "no",
        one.submitted,
        round(one.late_seconds),
        one.late_penalty,
        *kinds,
        one.stamp.sandbox if one.stamp else "",
        round(one.stamp.seconds, 3) if one.stamp else None,
        one.reason,
    ]


def _text(header, rows):
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows([field(value) for value in row] for row in rows)
    return out.getvalue()


def field(value):
    """What is written for a value: an empty field for None, and no text that a spreadsheet would take for a formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = value.replace("\0", "").encode("utf-8", "backslashreplace").decode("utf-8")
        return f"'{text}" if text.lstrip()[:1] in FORMULA or text[:1] in tuple("\t\r\n") else text
    return f"{value:.10g}" if isinstance(value, float) else value
