"""Grade a class with nbgrader: gradebook, feedback, CSV and a summary, from one folder of submissions.

nbgrader does the work, one submission at a time: what fails costs that submission alone and is reported by name.
"""

import csv
import logging
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from sqlalchemy.exc import SAWarning
from tqdm import tqdm

from autograder.build import ROOT, nbgrader_config
from autograder.exercise import chapters, load_chapter
from autograder.notebook import REPORT_TYPE

SETTLED = ("graded", "needs a reader")


@dataclass
class Submission:
    """One student's chapter, and how its grading ended."""

    student: str
    folder: str  # of the chapter
    status: str = "waiting"  # graded, needs a reader (a written question), failed
    reason: str = ""
    score: float = 0.0
    max_score: float = 0.0
    late_seconds: float = 0.0
    exercises: dict = field(default_factory=dict)  # {exercise id: (score, max_score)}
    mistakes: list = field(default_factory=list)  # [(exercise id, mistake name)]


@dataclass
class ClassResult:
    """What a run ended with."""

    out: Path
    submissions: list
    unplaced: list  # what was handed over and is no submission: path and reason

    @property
    def failed(self):
        return [one for one in self.submissions if one.status not in SETTLED]


class GradeError(Exception):
    """The run cannot start; the message says why and what to do."""


def grade(submissions, out, quiet=False):
    """Grade `submissions/<student>/<chapter>/*.ipynb` into `out`. Returns a ClassResult; writes CSV files there."""
    out = Path(out).resolve()
    placed, unplaced = take_in(Path(submissions).resolve(), out / "submitted")
    log = _log_to(out / "grade.log")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # nbgrader's queries, which a reader of the terminal cannot mend
        for folder in sorted({one.folder for one in placed}):
            _run(GenerateAssignment, _config(out, folder, release=out / "release"), log)
        bar = tqdm(placed, desc="grading", unit="submission", disable=True if quiet else None)
        for one in bar:
            bar.set_postfix_str(f"{one.student} {one.folder}", refresh=False)
            _grade_one(one, out, log)
    result = ClassResult(out, placed, unplaced)
    _write_csv(result)
    return result


def take_in(submissions, destination):
    """Copy what is handed in to `destination` and list it; what cannot be placed is listed too, never dropped."""
    if not submissions.is_dir():
        raise GradeError(f"there is no folder {submissions}; it should hold <student>/<chapter>/<chapter>.ipynb")
    known = {load_chapter(number).folder for number in chapters()}
    placed, unplaced = [], []
    for student in sorted(path for path in submissions.iterdir() if not path.name.startswith(".")):
        if not student.is_dir():
            if student.name != "expected.csv":
                unplaced.append((student, "not a student's folder"))
            continue
        for chapter in sorted(student.iterdir()):
            if chapter.name not in known:
                unplaced.append((chapter, f"no chapter has this name; the chapters are {', '.join(sorted(known))}"))
            elif not (chapter / f"{chapter.name}.ipynb").is_file():
                unplaced.append((chapter, f"holds no {chapter.name}.ipynb"))
            else:
                _copy(chapter, destination / student.name / chapter.name)
                placed.append(Submission(student.name, chapter.name))
    if not placed:
        raise GradeError(f"nothing in {submissions} looks like <student>/<chapter>/<chapter>.ipynb")
    return placed, unplaced


def _copy(source, destination):
    if source == destination:
        return
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    for path in source.iterdir():  # plain files only: a link could point anywhere, a pipe would wait for ever
        if path.is_file() and not path.is_symlink():
            shutil.copy2(path, destination / path.name)


def _grade_one(one, out, log):
    config = _config(out, one.folder, student=one.student)
    heard = _Heard()
    log.addHandler(heard)
    try:
        _run(Autograde, config, log)
        _read_grades(one, out)
        _run(GenerateFeedback, config, log)
    except (Exception, SystemExit) as error:
        log.exception("%s %s", one.student, one.folder)
        one.status, one.reason = "failed", heard.cause or f"{type(error).__name__}: {error}"
    finally:
        log.removeHandler(heard)


def _config(out, folder, student="*", release=None):
    config = nbgrader_config()
    course = config.CourseDirectory
    course.assignment_id, course.student_id, course.db_url = folder, student, f"sqlite:///{out / 'gradebook.db'}"
    if release is None:
        course.root, course.source_directory = str(out), str(ROOT / "solutions")
    else:
        course.root, course.release_directory = str(ROOT), str(release)
    return config


def _run(converter, config, log):
    made = converter(coursedir=CourseDirectory(config=config), config=config)
    made.force, made.log = True, log
    made.start()


class _Heard(logging.Handler):
    """Keeps the last line of the first traceback that nbgrader logs: its exception only says to look there."""

    def __init__(self):
        super().__init__("ERROR")
        self.cause = ""

    def emit(self, record):
        text = record.getMessage()
        if "Traceback" in text and not self.cause:
            self.cause = text.strip().splitlines()[-1][:300]


def _log_to(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("attn.grade")
    log.handlers, log.propagate = [logging.FileHandler(path, mode="w", encoding="utf-8")], False
    log.setLevel("INFO")
    return log


def _read_grades(one, out):
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}", "attention") as gradebook:
        submission = gradebook.find_submission(one.folder, one.student)
        one.score, one.max_score = submission.score, submission.max_score
        one.late_seconds = submission.total_seconds_late
        for notebook in submission.notebooks:
            for mark in notebook.grades:
                if mark.name.startswith("check-"):
                    exercise_id = mark.name.removeprefix("check-").replace("-", ".")
                    one.exercises[exercise_id] = (mark.score, mark.max_score)
        one.status = "needs a reader" if submission.needs_manual_grade else "graded"
    graded = out / "autograded" / one.student / one.folder / f"{one.folder}.ipynb"
    for cell in nbformat.read(graded, as_version=4).cells:
        if not cell.metadata.get("nbgrader", {}).get("grade"):
            continue  # a check of a planted bug in the text is nobody's mistake
        for output in cell.get("outputs", []):
            report = output.get("data", {}).get(REPORT_TYPE)
            if isinstance(report, dict):
                one.mistakes += [(report.get("exercise"), name) for name in report.get("mistakes", [])]


def _write_csv(result):
    with open(result.out / "grades.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL)
        rows.writerow(["student", "chapter", "status", "score", "max score", "seconds late", "reason"])
        for one in result.submissions:
            rows.writerow(
                [one.student, one.folder, one.status, one.score, one.max_score, int(one.late_seconds), one.reason]
            )
    with open(result.out / "exercises.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL)
        rows.writerow(["student", "chapter", "exercise", "score", "max score"])
        for one in result.submissions:
            for exercise_id, (score, max_score) in one.exercises.items():
                rows.writerow([one.student, one.folder, exercise_id, score, max_score])


def most_met(result, count=8):
    """[((exercise id, mistake name), how often)], the most frequent mistakes of the class."""
    return Counter(mistake for one in result.submissions for mistake in one.mistakes).most_common(count)


def difficulty(result):
    """{exercise id: (mean share of its points, how many submissions)}"""
    shares = {}
    for one in result.submissions:
        for exercise_id, (score, max_score) in one.exercises.items():
            shares.setdefault(exercise_id, []).append(score / max_score)
    return {exercise_id: (sum(values) / len(values), len(values)) for exercise_id, values in sorted(shares.items())}
