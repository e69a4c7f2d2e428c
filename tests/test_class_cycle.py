"""A whole term in one test: nbgrader's own commands, no flags of ours, from release to the exported grades."""

import csv
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest

from autograder.answers import source_of, write_filled
from autograder.card import marked_up
from autograder.exercise import load_chapter
from tests.conftest import copy_of

pytestmark = pytest.mark.slow

CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
AUTO_POINTS = sum(exercise.points for exercise in CHAPTER.exercises.values())
WRITTEN_POINTS = sum(written.points for written in CHAPTER.written.values())


class Person:
    """Someone with a folder, a home and the commands of nbgrader."""

    def __init__(self, folder, exchange):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        home = folder.parent / f"home of {folder.name}"
        home.mkdir()
        bin_folder = str(Path(sys.executable).parent)
        self.env = {**os.environ, "HOME": str(home), "ATTN_EXCHANGE": str(exchange)}
        self.env["PATH"] = bin_folder + os.pathsep + os.environ["PATH"]

    def nbgrader(self, *arguments):
        done = subprocess.run(
            ["nbgrader", *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"nbgrader {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, exchange, released):
    """The repository as an instructor has it: nbgrader_config.py, solutions/, course/, and the package installed."""
    folder = tmp_path_factory.mktemp("teacher") / "attention"
    person = Person(folder, exchange)
    copy_of(released, folder)
    return person


def student(name, folder, exchange):
    person = Person(folder / name, exchange)
    config = f'c = get_config()\nc.CourseDirectory.course_id = "attention"\nc.Exchange.root = {str(exchange)!r}\n'
    (person.folder / "nbgrader_config.py").write_text(config, encoding="utf-8")
    return person


def answers_of(name):
    """ada is right in her own way, boris makes the first mistake of every second exercise, chen is right but late."""
    answers = {written_id: f"In {name}'s own words." for written_id in CHAPTER.written}
    for place, exercise in enumerate(CHAPTER.exercises.values()):
        wrong = name == "boris" and place % 2 == 0
        answers[exercise.id] = source_of(exercise.mistakes[0].answer if wrong else exercise.variants[0], exercise.name)
    return answers


def test_a_term(teacher, exchange, released, tmp_path):
    teacher.nbgrader("generate_assignment", FOLDER)
    notebook = Path("course") / FOLDER / f"{FOLDER}.ipynb"
    assert (teacher.folder / notebook).read_bytes() == (released / notebook).read_bytes()
    teacher.nbgrader("release_assignment", FOLDER)

    people = {name: student(name, tmp_path, exchange) for name in ("ada", "boris", "chen")}
    for name, person in people.items():
        assert FOLDER in person.nbgrader("list")
        person.nbgrader("fetch_assignment", FOLDER)
        notebook = person.folder / FOLDER / f"{FOLDER}.ipynb"
        write_filled(notebook, answers_of(name), notebook)
        if name == "chen":
            time.sleep(1.5)
            due = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            teacher.nbgrader("db", "assignment", "add", FOLDER, f"--duedate={due}")
            time.sleep(1.5)
        person.nbgrader("submit", FOLDER, f"--student={name}")

    teacher.nbgrader("collect", FOLDER)
    teacher.nbgrader("autograde", FOLDER)
    grade_by_hand(teacher.folder / "gradebook.db", "ada", points=3, comment="clear, and one step is missing")
    teacher.nbgrader("generate_feedback", FOLDER)
    teacher.nbgrader("release_feedback", FOLDER)
    teacher.nbgrader("export", "--to=grades.csv")

    with open(teacher.folder / "grades.csv", encoding="utf-8") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    lost = sum(
        exercise.points - expected(exercise, exercise.mistakes[0].answer)
        for exercise in list(CHAPTER.exercises.values())[::2]
    )
    assert float(rows["ada"]["raw_score"]) == AUTO_POINTS + 3
    assert float(rows["boris"]["raw_score"]) == AUTO_POINTS - lost < AUTO_POINTS
    assert float(rows["chen"]["raw_score"]) == AUTO_POINTS
    assert float(rows["ada"]["max_score"]) == AUTO_POINTS + WRITTEN_POINTS
    late = seconds_late(teacher.folder / "gradebook.db")
    assert late["chen"] > 0 and late["ada"] == late["boris"] == 0, late

    for name, person in people.items():
        person.nbgrader("fetch_feedback", FOLDER, f"--student={name}")
        (feedback,) = person.folder.rglob(f"feedback/*/{FOLDER}.html")
        text = feedback.read_text(encoding="utf-8")
        told = marked_up(next(iter(CHAPTER.exercises.values())).mistakes[0].message)
        assert (told in text) == (name == "boris")
        assert ("one step is missing" in text) == (name == "ada")
        assert "BEGIN SOLUTION" not in text and "criterion(" not in text


def expected(exercise, answer):
    from autograder.judge import judge
    from autograder.notebook import SEED
    from autograder.runner import collect

    return judge(exercise, SEED, collect(exercise, answer, SEED)).earned


def grade_by_hand(database, student_id, points, comment):
    """What an instructor does in formgrader for a written question."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{database}", "attention") as gradebook:
        submission = gradebook.find_submission(FOLDER, student_id)
        assert submission.needs_manual_grade
        for written in CHAPTER.written.values():
            cell = f"written-{written.id.replace('.', '-')}"
            mark = gradebook.find_grade(cell, FOLDER, FOLDER, student_id)
            mark.manual_score, mark.needs_manual_grade = points, False
            gradebook.find_comment(cell, FOLDER, FOLDER, student_id).manual_comment = comment
        gradebook.db.commit()


def seconds_late(database):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{database}", "attention") as gradebook:
        return {one.student_id: one.total_seconds_late for one in gradebook.assignment_submissions(FOLDER)}


def test_validate_tells_a_right_notebook_from_a_released_one(teacher, released, tmp_path):
    notebook = released / "course" / FOLDER / f"{FOLDER}.ipynb"
    right = write_filled(notebook, answers_of("ada"), tmp_path / "right.ipynb")
    assert "Success" in teacher.nbgrader("validate", str(right))
    said = teacher.nbgrader("validate", str(notebook))
    assert f"failed on {len(CHAPTER.exercises) + len(CHAPTER.written)} cell(s)" in " ".join(said.lower().split())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_solution_notebook_scores_full_marks_and_the_release_none(number, released, tmp_path):
    chapter = load_chapter(number)
    full = sum(exercise.points for exercise in chapter.exercises.values())
    for side, wanted in (("solutions", full), ("course", 0)):
        notebook = nbformat.read(released / side / chapter.folder / f"{chapter.folder}.ipynb", as_version=4)
        cells = run(notebook, tmp_path)
        scores = [
            float(output["data"]["text/plain"])
            for cell in cells
            if cell.metadata.get("nbgrader", {}).get("grade_id", "").startswith("check-")
            for output in cell.outputs
            if output.output_type == "execute_result"
        ]
        assert sum(scores) == wanted
        assert len(scores) == len(chapter.exercises)
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert [output.text for output in outputs if output.get("name") == "stderr"] == []
        errors = [output for output in outputs if output.output_type == "error"]
        if side == "solutions":
            assert errors == []
        else:
            assert {error.ename for error in errors} == {"NotImplementedError"}
            assert len(errors) <= len(chapter.exercises)
            told = sum("not attempted yet" in output.get("data", {}).get("text/html", "") for output in outputs)
            assert told == len(chapter.exercises)


def run(notebook, folder):
    from nbclient import NotebookClient

    client = NotebookClient(notebook, timeout=180, allow_errors=True, resources={"metadata": {"path": str(folder)}})
    return client.execute().cells
