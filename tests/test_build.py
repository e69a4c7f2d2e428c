"""One text per chapter: the build expands it, stops where text and definitions disagree, and leaks nothing."""

import json
import os
import re
import shutil

import nbformat
import pytest

from autograder import build
from autograder.exercise import chapters, load_chapter
from tests.conftest import copy_of

CHAPTERS = [load_chapter(number) for number in chapters()]
BY_FOLDER = {chapter.folder: chapter for chapter in CHAPTERS}


def path_of(side, folder, suffix=".ipynb"):
    return build.ROOT / side / folder / f"{folder}{suffix}"


@pytest.fixture
def text(tmp_path):
    """A function that writes a changed copy of chapter 02's text and builds it."""
    chapter = BY_FOLDER["02_scaled_dot_product"]
    original = path_of("solutions", chapter.folder, ".py").read_text(encoding="utf-8")

    def rebuild(old="", new=""):
        assert old in original
        path = tmp_path / f"{chapter.folder}.py"
        path.write_text(original.replace(old, new, 1), encoding="utf-8")
        return build.source_notebook(path, chapter)

    return rebuild


@pytest.mark.parametrize("folder", BY_FOLDER)
def test_a_rebuild_gives_the_committed_bytes(folder, tmp_path):
    text_path = path_of("solutions", folder, ".py")
    shutil.copytree(text_path.parent, tmp_path / "solutions" / folder)
    shutil.copy(build.ROOT / "solutions" / "glossary.md", tmp_path / "solutions")
    shutil.copy(build.ROOT / "nbgrader_config.py", tmp_path)
    source = build.write_source(BY_FOLDER[folder], tmp_path)
    assert source.read_bytes() == path_of("solutions", folder).read_bytes()
    course = path_of("course", folder)
    if build.worked_in(course) and not os.environ.get("CI"):
        pytest.skip(f"someone worked in {course.name}; `attn reset {folder[:2]}` puts it back and keeps a copy")
    assert build.release_bytes(folder) == course.read_bytes()


@pytest.mark.parametrize("folder", BY_FOLDER)
def test_notebooks_hold_no_outputs_and_are_valid(folder, released):
    for side in ("solutions", "course"):
        notebook = nbformat.read(released / side / folder / f"{folder}.ipynb", as_version=4)
        nbformat.validate(notebook)
        ids = [cell.id for cell in notebook.cells]
        assert len(set(ids)) == len(ids)
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)


# Code that an exercise gives out to be mended, and of which its solution keeps most lines: where it begins.
GIVEN = {"13_debugging_clinic": "def sick_layer("}


def solution_lines(folder):
    """The lines between BEGIN and END SOLUTION of a chapter that are long enough to be told from prose."""
    source = path_of("solutions", folder, ".py").read_text(encoding="utf-8")
    regions = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", source, re.S)
    lines = [line.strip().removeprefix("# ") for region in regions for line in region.splitlines()]
    return [line for line in lines if len(line) > 25]


@pytest.mark.parametrize("folder", BY_FOLDER)
def test_a_release_holds_no_solution_no_teacher_cell_and_no_text(folder, released):
    course = released / "course" / folder / f"{folder}.ipynb"
    sources = [cell.source for cell in nbformat.read(course, as_version=4).cells]
    text = "\n".join(sources)
    given = next(source for source in sources if GIVEN[folder] in source) if folder in GIVEN else ""
    lines = solution_lines(folder)
    assert lines
    assert [line for line in lines if line in text and line not in given] == []
    assert "SOLUTION" not in text and "HIDDEN" not in text
    assert '"teacher"' not in course.read_text(encoding="utf-8")
    assert [path.name for path in course.parent.iterdir() if path.suffix == ".py"] == []


@pytest.mark.parametrize("folder", BY_FOLDER)
def test_points_and_cells_follow_the_definitions(folder, released):
    chapter = BY_FOLDER[folder]
    cells = nbformat.read(released / "course" / folder / f"{folder}.ipynb", as_version=4).cells
    grades = {cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata}
    for exercise in chapter.exercises.values():
        slug = exercise.id.replace(".", "-")
        assert grades[f"check-{slug}"].points == exercise.points
        assert grades[f"exercise-{slug}"].solution
    for written in chapter.written.values():
        assert grades[f"written-{written.id.replace('.', '-')}"].points == written.points


DISAGREEMENTS = {
    "a marker without a definition": ('check="2.1"', 'check="2.77"', r'\.py:\d+: check="2.77" has no definition'),
    "a definition without a marker": ('# %% check="2.1"', "# %%", r'\.py:1: check="2.1" is defined but has no cell'),
    "a duplicate": ('# %% check="2.2"', '# %% check="2.1"', r'\.py:\d+: check="2.1" stands at .*\.py:\d+ too'),
    "an unknown marker": ('# %% try="2.1"', '# %% tryit="2.1"', r"\.py:\d+: unknown marker tryit"),
    "another title": (
        "### Exercise 2.1 · ",
        "### Exercise 2.1 · Not ",
        r"\.py:\d+: the heading of 2.1 must begin with",
    ),
    "another answer in the check": (
        'check("2.1", softmax)',
        'check("2.1", attention)',
        r"\.py:\d+: the cell must read",
    ),
    "another function": ("def softmax(", "def sofmtax(", r"\.py:\d+: exercise 2.1 must define softmax"),
    "an open solution": ("### END SOLUTION", "", r"\.py:\d+: exercise 2.1 needs one ### BEGIN SOLUTION"),
}


@pytest.mark.parametrize("kind", DISAGREEMENTS)
def test_a_disagreement_stops_the_build_with_file_and_line(kind, text):
    old, new, message = DISAGREEMENTS[kind]
    with pytest.raises(build.BuildError, match=message):
        text(old, new)


def test_the_text_as_it_is_builds(text):
    assert text()


def test_a_definition_given_twice_is_refused(monkeypatch):
    from autograder.exercises import ch02_scaled_dot_product as module

    monkeypatch.setattr(module, "again", module.softmax, raising=False)
    load_chapter.cache_clear()
    try:
        with pytest.raises(ValueError, match="defines Exercise 2.1 twice"):
            load_chapter(2)
    finally:
        monkeypatch.undo()
        load_chapter.cache_clear()


def add_a_cell(notebook):
    notebook["cells"].append({**notebook["cells"][0], "id": "5ce0e1f2", "source": ["my own words"]})


def change_the_text(notebook):
    notebook["cells"][0]["source"] = ["my own words"]


def answer_an_exercise(notebook):
    cell = next(cell for cell in notebook["cells"] if cell["id"].startswith("exercise-"))
    cell["source"] = ["my own words"]


@pytest.mark.parametrize("work", [add_a_cell, change_the_text, answer_an_exercise])
def test_a_learners_work_is_copied_before_a_build_writes_over_it(work, released, tmp_path):
    folder = CHAPTERS[0].folder
    copy_of(released, tmp_path)
    mine = tmp_path / "course" / folder / f"{folder}.ipynb"
    worked = json.loads(mine.read_text(encoding="utf-8"))
    work(worked)
    mine.write_text(json.dumps(worked), encoding="utf-8")
    build.build([folder], root=tmp_path, report=lambda line: None)
    assert "my own words" in (mine.parent / "backups" / f"{folder}-1.ipynb").read_text(encoding="utf-8")
    assert "my own words" not in mine.read_text(encoding="utf-8")


def test_a_notebook_that_nobody_worked_in_leaves_no_copy(tmp_path):
    folder = CHAPTERS[0].folder
    shutil.copytree(path_of("solutions", folder).parent, tmp_path / "solutions" / folder)
    shutil.copy(build.ROOT / "solutions" / "glossary.md", tmp_path / "solutions")
    shutil.copy(build.ROOT / "nbgrader_config.py", tmp_path)
    build.build([folder], root=tmp_path, report=lambda line: None)
    text = tmp_path / "solutions" / folder / f"{folder}.py"
    text.write_text(text.read_text(encoding="utf-8").replace("# 00 ·", "# 00 · Another title ·", 1), encoding="utf-8")
    build.build([folder], root=tmp_path, report=lambda line: None)
    assert [path.name for path in (tmp_path / "course" / folder).iterdir()] == [f"{folder}.ipynb"]
