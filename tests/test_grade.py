"""`attn grade`: every submission ends with a status, and every score of the sample class is as planned."""

import csv
import shutil

import nbformat
import pytest

from autograder import answers, sample_class
from autograder.exercise import chapters, load_chapter


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_sample_class_has_everything_to_meet():
    handed = sample_class.plan()
    assert len({one.student for one in handed}) == 20
    assert {one.kind for one in handed} == {"right", "mistake", "untouched"}
    assert {one.chapter for one in handed} == set(chapters())
    assert handed == sample_class.plan()


def test_a_smaller_class_keeps_nobody_of_a_larger_one(tmp_path):
    for students in (3, 1):
        sample_class.write(tmp_path / "class", students)
        assert len([path for path in (tmp_path / "class").iterdir() if path.is_dir()]) == students


def test_an_answer_keeps_its_meaning_in_a_notebook():
    for number in chapters():
        for exercise in load_chapter(number).exercises.values():
            for answer in [*exercise.variants, *(mistake.answer for mistake in exercise.mistakes)]:
                source = answers.source_of(answer, exercise.name)
                assert "@" not in source.split("def ", 1)[0]
                assert source.startswith((f"def {exercise.name}(", f"class {exercise.name}"))


def test_filling_names_a_cell_that_is_missing():
    with pytest.raises(KeyError, match="exercise-9-9"):
        answers.fill(nbformat.v4.new_notebook(), {"9.9": "pass"})


def test_nothing_to_grade_is_said(tmp_path):
    from autograder.grade import GradeError, take_in

    with pytest.raises(GradeError, match="there is no folder"):
        take_in(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(GradeError, match="looks like <student>"):
        take_in(tmp_path, tmp_path / "out")


def test_a_small_class_is_graded_as_planned(tmp_path):
    """Three students, one of whom sends a notebook that is no notebook, and a file that belongs nowhere."""
    from autograder.grade import grade

    class_folder = tmp_path / "handed in"
    handed = [one for one in sample_class.write(class_folder, students=2) if one.chapter == 2]
    keep = {(one.student, load_chapter(2).folder) for one in handed}
    for path in list(class_folder.glob("*/*")):
        if (path.parent.name, path.name) not in keep:
            shutil.rmtree(path)
    folder = load_chapter(2).folder
    broken = class_folder / "zoe" / folder / f"{folder}.ipynb"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"cells": [', encoding="utf-8")
    (class_folder / "zoe" / "holiday.jpg").write_bytes(b"")

    result = grade(class_folder, tmp_path / "out", quiet=True)
    graded = {row["student"]: row for row in rows_of(tmp_path / "out" / "grades.csv")}
    scores = {
        (row["student"], row["exercise"]): float(row["score"]) for row in rows_of(tmp_path / "out" / "exercises.csv")
    }
    assert handed
    for one in handed:
        assert scores[one.student, one.exercise_id] == sample_class.expected_score(one), one
        assert graded[one.student]["status"] == "needs a reader"
        assert list((tmp_path / "out" / "feedback" / one.student / folder).glob("*.html"))
    assert graded["zoe"]["status"] == "failed" and "JSON" in graded["zoe"]["reason"]
    assert [path.name for path, _ in result.unplaced] == ["holiday.jpg"]
    assert broken.read_text(encoding="utf-8") == '{"cells": ['


@pytest.mark.slow
def test_make_grade_grades_the_whole_sample_class_as_planned(tmp_path):
    from typer.testing import CliRunner

    from autograder.cli import app

    done = CliRunner().invoke(app, ["grade", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "scores of the sample class are as planned" in " ".join(done.output.split())
    assert (tmp_path / "out" / "gradebook.db").exists()
