"""The whole run as JSON, for whatever has no export of its own. It holds the seeds, so it is for the instructor."""

import json
from dataclasses import asdict

from autograder.grading.results import ClassRun, write_atomically
from autograder.reports.class_numbers import scored

SCHEMA = "attn-course/class-run/v1"


def text(run: ClassRun) -> str:
    """Every field of the run, and for each submission its `score` (null where there is none) and `max_score`."""
    data = asdict(run)
    for one, entry in zip(run.graded, data["graded"], strict=True):
        entry["score"] = one.score if scored(one) else None
        entry["max_score"] = one.max_score
    return json.dumps({"schema": SCHEMA, **data}, indent=1)


def write(run: ClassRun, path):
    """Write it to `path`."""
    return write_atomically(path, text(run))
