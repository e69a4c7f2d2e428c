"""Grade one notebook without a gradebook: for Gradescope, GitHub, and anything else that keeps grades itself."""

import json
from pathlib import Path

import nbformat

from autograder.build import release_bytes
from autograder.grading.results import Submission, to_json
from autograder.grading.work import Plan
from autograder.grading.workers import grade_with_retries
from autograder.reports import classroom50, feedback, github_summary, gradescope


def grade_file(path: Path, chapter: str, form: str, seed: int, student: str, policy: str, unsandboxed: bool) -> str:
    """The result of one notebook as text in one of FORMATS."""
    submission = Submission(student, chapter, Path(path).read_bytes())
    plan = Plan(seed, {chapter: release_bytes(chapter)}, unsandboxed, policy=policy)
    graded, notebook = grade_with_retries(submission, plan)
    return FORMATS[form](graded, notebook)


def _page(graded, notebook):
    return feedback.html(graded, nbformat.reads(notebook.decode(), as_version=4) if notebook else None)


FORMATS = {
    "gradescope": lambda graded, notebook: gradescope.text(graded),
    "classroom50": lambda graded, notebook: classroom50.text(graded),
    "markdown": lambda graded, notebook: github_summary.one(graded),
    "json": lambda graded, notebook: json.dumps(json.loads(to_json(graded)), indent=1, ensure_ascii=False),
    "html": _page,
}
