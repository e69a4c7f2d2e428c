"""One submission as Classroom 50's result.json (schema classroom50/result/v1), the successor of GitHub Classroom.

Its numbers are whole, and its score is the sum of its tests'. So points are rounded test by test, a late penalty is
taken from the tests, the last one first, and written questions count once they are read.
"""

import json
import math
import os
from datetime import UTC, datetime

from autograder.grading.results import Graded, write_atomically
from autograder.reports.class_numbers import scored

SCHEMA = "classroom50/result/v1"
FIELDS = {
    "classroom": "CLASSROOM",
    "assignment": "ASSIGNMENT",
    "submission": "SUBMISSION_TAG",
    "commit": "COMMIT_URL",
    "release": "RELEASE_URL",
    "review": "REVIEW_URL",
}
UNSET = "Classroom 50's runner sets {names}, and here they are not set; is this its workflow?"
NOT_GRADED = "could not be graded: {reason}"  # the one test of such a notebook


def text(graded: Graded, environment=os.environ, now=None) -> str:
    """The content of result.json. KeyError, with their names, if the runner's variables are not set."""
    found = {name: environment.get(variable) for name, variable in FIELDS.items()}
    found["review"] = found["review"] or found["commit"]
    unset = [FIELDS[name] for name, value in found.items() if not value]
    if unset:
        raise KeyError(UNSET.format(names=", ".join(unset)))
    tests = _tests(graded)
    return json.dumps(
        {
            "schema": SCHEMA,
            **found,
            "datetime": (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "score": sum(one["score"] for one in tests),
            "max-score": sum(one["max-score"] for one in tests),
            "tests": tests,
        },
        indent=2,
    )


def write(graded: Graded, path="result.json", environment=os.environ):
    """Write result.json where the runner reads it."""
    return write_atomically(path, text(graded, environment))


def _tests(graded):
    if not scored(graded):
        return [{"test-name": NOT_GRADED.format(reason=graded.reason), "passed": False, "score": 0, "max-score": 0}]
    rows = [(f"{one.exercise} {one.title}", one.earned, one.points) for one in graded.marks]
    rows += [
        (f"{one.question} {one.title}", one.earned, one.points) for one in graded.readings if one.earned is not None
    ]
    tests = [
        {"test-name": name, "passed": earned >= points, "score": whole(earned), "max-score": whole(points)}
        for name, earned, points in rows
    ]
    left = whole(graded.late_penalty)
    for one in reversed(tests):
        taken = min(left, one["score"])
        one["score"], left = one["score"] - taken, left - taken
    return tests


def whole(points):
    """The nearest whole number, a half upwards."""
    return math.floor(points + 0.5)
