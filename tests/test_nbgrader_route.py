"""`nbgrader autograde` by configuration alone: mended, run in the sandbox, and judged outside, as `attn grade` does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from autograder.answers import fill, source_of
from autograder.exercise import load_chapter
from autograder.sandbox import offered
from tests.conftest import copy_of
from tests.test_cheats import CHEATS, STUB

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not offered(), reason="this machine offers no sandbox to grade in"),
]
CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
POINTS = {one.id: one.points for one in CHAPTER.exercises.values()}
CHEATERS = {
    "mallory": "an input transformer that drops asserts and changes check lines",
    "trudy": "evidence forged in place of the real one",
    "eve": "a number shown by every cell",
}
SCRIPT = """
from IPython.display import HTML, Javascript, display
display(HTML("<script>steal()</script><img src=x onerror=steal()>"), Javascript("steal()"))
display({"text/html": "<iframe src='javascript:steal()'></iframe>", "image/svg+xml": "<svg onload=steal()/>"}, raw=True)
"""


def right(**changes):
    """Right answers to every exercise; `e2_1="..."` puts another in the place of one."""
    given = {one.id: source_of(one.variants[0], one.name) for one in CHAPTER.exercises.values()}
    return given | {name[1:].replace("_", "."): source for name, source in changes.items()}


def wrong():
    """A known mistake in every second exercise."""
    odd = list(CHAPTER.exercises.values())[::2]
    return right() | {one.id: source_of(one.mistakes[0].answer, one.name) for one in odd}


def handed_in(release):
    """{student: notebook}, the chapter's demonstrations left out, which makes grading quick."""
    softmax = source_of(CHAPTER.exercises["2.1"].variants[0], "softmax")
    given = {
        "ada": right() | {"2.w": "In my own words."},
        "boris": wrong(),
        "chen": {},
        "loop": right(e2_1=softmax + "\nwhile True:\n    pass\n"),
        "exit": right(e2_1=softmax + "\nimport os\nos._exit(0)\n"),
        "script": right(e2_1=SCRIPT + softmax),
        "mended": right(),
        "scissors": right(),
    }
    given |= {name: {"2.1": CHEATS[cheat] + STUB.format(name="softmax")} for name, cheat in CHEATERS.items()}
    notebooks = {}
    for student, answers in given.items():
        notebook = fill(nbformat.reads(release, as_version=4), answers)
        notebook.cells = [one for one in notebook.cells if "nbgrader" in one.metadata or "import" in one.source]
        notebooks[student] = notebook
    for number, cell in enumerate(notebooks["mended"].cells):  # as a converter leaves them
        cell.metadata, cell.id = {}, f"cell-{number}"
    cut = notebooks["scissors"]
    cut.cells = [one for one in cut.cells if one.id != "check-2-3"]
    return notebooks


class Course:
    """An instructor's folder, as released, with submissions in it."""

    def __init__(self, folder, released):
        self.folder = folder
        folder.mkdir()
        copy_of(released, folder)
        (folder / "home").mkdir()

    def configure(self, *lines):
        with open(self.folder / "nbgrader_config.py", "a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines) + "\n")

    def submit(self, student, notebook, **files):
        path = self.folder / "submitted" / student / FOLDER / f"{FOLDER}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        for name, content in files.items():
            (path.parent / name).write_bytes(content)

    def nbgrader(self, *arguments):
        """(exit status, what it said)"""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "HOME": str(self.folder / "home"), "PATH": path}
        done = subprocess.run(
            ["nbgrader", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=500
        )
        return done.returncode, done.stdout + done.stderr

    def scores(self):
        """{(student, cell): what nbgrader stored}"""
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{self.folder / 'gradebook.db'}", "attention") as book:
            submissions = book.assignment_submissions(FOLDER)
            return {
                (one.student.id, grade.name): grade.auto_score
                for one in submissions
                for grade in one.notebooks[0].grades
            }


@pytest.fixture(scope="module")
def course(tmp_path_factory, released):
    """A course in which everybody above has been graded once."""
    made = Course(tmp_path_factory.mktemp("teacher") / "attention", released)
    release = (released / "course" / FOLDER / f"{FOLDER}.ipynb").read_text(encoding="utf-8")
    status, said = made.nbgrader("generate_assignment", FOLDER)
    assert status == 0, said
    for student, notebook in handed_in(release).items():
        made.submit(student, notebook)
    made.configure("c.Examine.cell_seconds = 5.0")
    made.status, made.said = made.nbgrader("autograde", FOLDER)
    return made


def of(course, student):
    scores = course.scores()
    return {exercise: scores[student, f"check-{exercise.replace('.', '-')}"] for exercise in POINTS}


def executed(course, student):
    path = course.folder / "autograded" / student / FOLDER / f"{FOLDER}.ipynb"
    return nbformat.read(path, as_version=4)


def test_everybody_is_graded_in_the_strongest_sandbox(course):
    assert course.status == 0, course.said
    assert f"sandbox: {offered()[0]}" in course.said and "Traceback" not in course.said
    assert of(course, "ada") == POINTS and not any(of(course, "chen").values())
    scores = course.scores()
    assert scores["ada", "written-2-w"] is None and scores["chen", "written-2-w"] == 0


def test_the_scores_are_those_of_attn_grade(course, tmp_path):
    command = [sys.executable, "-m", "autograder.cli", "grade", str(course.folder / "submitted")]
    command += ["--out", str(tmp_path / "out"), "--cell-seconds", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out" / "exercises.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["exercise"] in POINTS]
    theirs = {(row["student"], f"check-{row['exercise'].replace('.', '-')}"): float(row["score"]) for row in rows}
    ours = {key: score for key, score in course.scores().items() if key[1].startswith("check-")}
    assert theirs == ours and 0 < sum(of(course, "boris").values()) < sum(POINTS.values())


def test_judging_uses_a_seed_that_the_gradebook_keeps_secret(course):
    from autograder.grading.gradebook import Keeper
    from autograder.notebook import SEED

    with Keeper(f"sqlite:///{course.folder / 'gradebook.db'}") as keeper:
        seed = keeper.seed()
    assert seed not in (None, SEED)
    texts = [path.read_text(encoding="utf-8") for path in (course.folder / "autograded").rglob("*.ipynb")]
    assert len(texts) > 9 and not any(str(seed) in text for text in [*texts, course.said])


@pytest.mark.parametrize("student", CHEATERS)
def test_a_cheat_gains_nothing(student, course):
    assert of(course, student) == dict.fromkeys(POINTS, 0)


@pytest.mark.parametrize("student", ["loop", "exit"])
def test_a_breach_costs_its_exercise_and_no_other(student, course):
    assert of(course, student) == POINTS | {"2.1": 0}
    words = {"loop": "was stopped after 5 seconds", "exit": "Python itself ended"}[student]
    (check,) = [cell for cell in executed(course, student).cells if cell.id == "check-2-1"]
    assert words in json.dumps(check.outputs) and words in course.said


@pytest.mark.parametrize("student", ["mended", "scissors"])
def test_a_clumsy_submission_is_mended(student, course):
    assert of(course, student) == POINTS


def test_no_script_of_a_submission_reaches_formgrader(course):
    assert of(course, "script") == POINTS
    shown = [output for cell in executed(course, "script").cells for output in cell.get("outputs", [])]
    text = json.dumps(shown)
    assert "steal" not in json.dumps([one.data.get("text/html", "") for one in shown if "data" in one])
    assert "javascript" not in " ".join(kind for one in shown if "data" in one for kind in one.data)
    assert "not shown" in text or "<img" in text


def test_files_beside_a_notebook_are_there_and_modules_are_not(course, released):
    release = (released / "course" / FOLDER / f"{FOLDER}.ipynb").read_text(encoding="utf-8")
    reading = "import os\nassert open('data.csv').read() == '1,2'\nassert sorted(os.listdir()) == ['data.csv']\n"
    notebook = fill(nbformat.reads(release, as_version=4), {"2.1": reading + right()["2.1"]})
    notebook.cells = [one for one in notebook.cells if "nbgrader" in one.metadata or "import" in one.source]
    modules = {name: b"raise SystemExit" for name in ("numpy.py", "attn_ref.so", "numpy.pyc", "site.pth")}
    course.submit("filer", notebook, **{"data.csv": b"1,2"}, **modules)
    status, said = course.nbgrader("autograde", FOLDER, "--student=filer")
    assert status == 0, said
    assert of(course, "filer")["2.1"] == POINTS["2.1"]


def test_without_a_sandbox_nothing_is_graded_until_the_instructor_says_so(released, tmp_path):
    made = Course(tmp_path / "attention", released)
    release = (released / "course" / FOLDER / f"{FOLDER}.ipynb").read_text(encoding="utf-8")
    assert made.nbgrader("generate_assignment", FOLDER)[0] == 0
    made.submit("ada", handed_in(release)["ada"])
    made.configure(
        "import autograder.sandbox.levels", "autograder.sandbox.levels._obstacle = lambda level: 'not today'"
    )
    status, said = made.nbgrader("autograde", FOLDER)
    assert status != 0 and "offers no sandbox" in said and "not today" in said
    assert "c.Examine.unsandboxed = True" in said
    assert set(made.scores().values()) == {None}, "no grade is not a 0"
    made.configure("c.Examine.unsandboxed = True")
    status, said = made.nbgrader("autograde", FOLDER)
    assert status == 0 and "sandbox: none" in said, said
    assert of(made, "ada") == POINTS
