"""Write everything that is made from a graded class, beside its gradebook."""

import hashlib
import os
from pathlib import Path

import nbformat

from autograder.grading.results import FAILED, ClassRun, Graded, to_json, write_atomically
from autograder.reports import canvas, class_report, everything, feedback, github_summary, spreadsheet

UNKNOWN = "the roster does not know {student}, whose scores are not in this file"


def write_reports(run: ClassRun, out: Path, pages=True, roster=None):
    """Everything that is made from the gradebook: CSV, JSON, the class report, and a page for each student.

    `pages=False` leaves out the students'. `roster` is the text of a gradebook exported from Canvas; with it,
    canvas.csv is what Canvas imports.
    """
    spreadsheet.write(run, out)
    everything.write(run, out / "grades.json")
    write_atomically(out / "report.html", class_report.html(run))
    if roster is not None:
        unknown = canvas.write(run, out / "canvas.csv", roster)
        run.unplaced += [(f"{out / 'canvas.csv'}", UNKNOWN.format(student=student)) for student in unknown]
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        github_summary.append(github_summary.text(run), os.environ["GITHUB_STEP_SUMMARY"])
    if pages:
        for graded in run.graded:
            _write_feedback(graded, out)


def _write_feedback(graded: Graded, out):
    place = Path(graded.student) / graded.chapter / f"{graded.chapter}.ipynb"
    path = (out / "feedback" / place).with_suffix(".html")
    mark = f"<!-- {hashlib.sha256(to_json(graded).encode()).hexdigest()} -->"
    if path.is_file() and path.read_text(encoding="utf-8").endswith(mark):
        return
    executed = out / "autograded" / place
    notebook = nbformat.read(executed, as_version=4) if executed.is_file() and graded.status != FAILED else None
    write_atomically(path, feedback.html(graded, notebook) + mark)
