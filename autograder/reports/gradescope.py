"""One submission as Gradescope's results.json. The seed is not in it: students' code may read what is stored there."""

import json

from autograder.grading.results import Graded, write_atomically
from autograder.reports.class_numbers import scored
from autograder.reports.page import of, points_text

# What the student reads.
TEXT = {
    "failed": "This notebook could not be graded, which is not the same as 0 points: {reason}",
    "partly": "A part of this notebook could not be graded: {reason}",
    "late": "Late: {points} points are taken off.",
    "mended": "Mended: {note}",
    "waiting": "{count} written answers wait for a reader; their points are not counted yet.",
}


def text(graded: Graded) -> str:
    """The content of results.json."""
    if not scored(graded):
        output = TEXT["failed"].format(reason=graded.reason)
        return _json({"score": 0.0, "output": output, "tests": [], **_settings(graded)})
    tests = [_exercise(mark) for mark in graded.marks]
    tests += [_written(one) for one in graded.readings if one.earned is not None]
    return _json({"score": round(graded.score, 2), "output": _output(graded), "tests": tests, **_settings(graded)})


def write(graded: Graded, path="/autograder/results/results.json"):
    """Write results.json where Gradescope reads it."""
    return write_atomically(path, text(graded))


def _settings(graded):
    extra = {"status": graded.status, "chapter": graded.chapter}
    if graded.stamp:
        extra |= {"grader": graded.stamp.grader, "sandbox": graded.stamp.sandbox, "when": graded.stamp.when}
    seconds = round(graded.stamp.seconds) if graded.stamp else 0
    shown = {
        "output_format": "text",
        "test_output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
    }
    return {"execution_time": seconds, "extra_data": extra, **shown}


def _exercise(mark):
    lines = []
    for one in mark.criteria:
        lines.append(f"{'✓' if one.earned >= one.points else '✗'} {one.sentence}: {of(one.earned, one.points)}")
        lines += [f"    {one.because}"] if one.because else []
    lines += ["", *mark.messages] if mark.messages else []
    lines += ["", mark.hint] if mark.hint else []
    return {
        "number": mark.exercise,
        "name": mark.title,
        "score": round(mark.earned, 2),
        "max_score": mark.points,
        "status": "passed" if mark.earned >= mark.points else "failed",
        "output": "\n".join(lines).strip(),
        "tags": list(mark.mistakes),
        "visibility": "visible",
    }


def _written(reading):
    return {
        "number": reading.question,
        "name": reading.title,
        "score": round(reading.earned, 2),
        "max_score": reading.points,
        "status": "passed" if reading.earned >= reading.points else "failed",
        "output": reading.comment,
        "visibility": "visible",
    }


def _output(graded):
    lines = [TEXT["partly"].format(reason=graded.reason)] if graded.reason else []
    lines += [breach.message for breach in graded.breaches]
    lines += [TEXT["mended"].format(note=note) for note in graded.notes]
    if graded.late_penalty:
        lines.append(TEXT["late"].format(points=points_text(graded.late_penalty)))
    waiting = sum(one.earned is None for one in graded.readings)
    lines += [TEXT["waiting"].format(count=waiting)] if waiting else []
    return "\n".join(lines)


def _json(value):
    return json.dumps(value, indent=2)
