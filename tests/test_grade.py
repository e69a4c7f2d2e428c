"""`attn grade`: every submission ends with a status and a reason, nothing is lost, and nothing is done twice."""

import contextlib
import csv
import inspect
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

from autograder import answers, build, sample_class
from autograder.build import release_bytes
from autograder.exercise import chapters, load_chapter, module_of
from autograder.grading import stamps
from autograder.grading.results import ClassRun, Graded, Stamp, Submission, from_json, to_json
from autograder.grading.run import Settings, grade
from autograder.sandbox import offered

CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
sandboxed = pytest.mark.skipif(not offered(), reason="this machine offers no sandbox to grade in")


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def attn(*arguments, **options):
    program = [sys.executable, "-m", "autograder.cli", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=570, **options)


def test_the_sample_class_has_everything_to_meet():
    handed = sample_class.plan()
    assert len({one.student for one in handed}) == 20
    assert {one.kind for one in handed} == {"right", "mistake", "untouched"}
    assert {one.chapter for one in handed} == {0, 1, 2}
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


def test_results_survive_the_way_through_json():
    from tests.sample_run import class_run, eventful

    run = eventful(class_run(students=4))
    assert from_json(ClassRun, to_json(run)) == run
    older = json.loads(to_json(run.graded[0])) | {"a field of a later version": 1}
    assert from_json(Graded, json.dumps(older)) == run.graded[0]


# These decide no points, or are looked at file by file.
ONLY_SHOWS = ("build", "card", "grading", "notebook", "reports", "sandbox")


def test_whatever_decides_points_is_in_the_graders_hash():
    """Where an answer is compared with a function, or watched by one, a change of that function changes grades."""
    files = set(stamps.deciding())
    for path in [one for one in files if one.parent.name in ("autograder", "grading")]:
        for name in re.findall(r"^from autograder\.(\w+) import", path.read_text(encoding="utf-8"), re.M):
            if name not in ONLY_SHOWS:
                assert build.ROOT / "autograder" / f"{name}.py" in files, (path.name, name)
    for number in chapters():
        for exercise in load_chapter(number).exercises.values():
            source = Path(inspect.getsourcefile(inspect.unwrap(exercise.reference)))
            assert source in files or source.parent.name == "exercises", (exercise.id, source)
        module = import_module(module_of(number))
        used = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
        used |= {value.__name__ for value in vars(module).values() if inspect.ismodule(value)}
        for name in used:
            if name.startswith("attn_ref."):
                assert Path(inspect.getsourcefile(import_module(name))) in files, (number, name)


def test_a_hash_of_an_exercise_follows_its_own_definition_and_no_other(monkeypatch):
    import inspect

    from autograder.exercises import ch02_scaled_dot_product as module

    text = inspect.getsource(module)
    before = stamps.exercise_hashes(2)
    monkeypatch.setattr(
        inspect, "getsource", lambda _: text.replace("rng.normal(size=(5, 3))", "rng.normal(size=(6, 3))", 1)
    )
    stamps.exercise_hashes.cache_clear()
    after = stamps.exercise_hashes(2)
    stamps.exercise_hashes.cache_clear()
    assert [key for key in before if before[key] != after[key]] == ["2.1"]


def test_a_hash_of_content_sees_every_part():
    base = dict(student="ada", chapter=FOLDER, notebook=b"{}", files={"a.csv": b"1"}, submitted="2026-10-01")
    others = [{"notebook": b"{ }"}, {"files": {"a.csv": b"2"}}, {"files": {"b.csv": b"1"}}, {"submitted": None}]
    hashes = {stamps.content_hash(Submission(**base, notes=["x"]))}
    hashes |= {stamps.content_hash(Submission(**{**base, **other})) for other in others}
    assert len(hashes) == 5 and stamps.content_hash(Submission(**base)) in hashes


def test_a_fault_of_the_grader_leaves_an_earlier_grade_alone():
    from autograder.grading.run import stands

    stamp = Stamp("g", {}, 1, "namespaces", "c", "now", 1.0)
    lost, good = Graded("ada", FOLDER, "failed", "no kernel"), Graded("ada", FOLDER, stamp=stamp)
    broken = Graded("ada", FOLDER, "failed", "not a notebook", stamp=stamp)
    assert stands(lost, {("ada", FOLDER): good}) and not stands(lost, {}) and not stands(lost, {("ada", FOLDER): lost})
    assert not stands(broken, {("ada", FOLDER): good}), "what a student handed in anew replaces what was there"


def test_nothing_to_grade_is_said(tmp_path):
    nowhere = attn("grade", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert nowhere.returncode == 1 and "there is no" in nowhere.stderr and "Traceback" not in nowhere.stderr
    (tmp_path / "empty").mkdir()
    empty = attn("grade", tmp_path / "empty", "--out", tmp_path / "out")
    assert empty.returncode == 1
    assert "is a submission of this course: it is empty; give the folder" in " ".join(empty.stderr.split())


def test_a_second_grader_refuses_and_says_so(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".grading.lock"):
        refused = attn("grade", tmp_path / "class", "--out", tmp_path / "out")
    assert refused.returncode == 1 and "another grader is at work" in refused.stderr


def quick(release, given):
    """A chapter's notebook with these answers, its demonstrations left out, as bytes."""
    notebook = answers.fill(nbformat.reads(release.decode(), as_version=4), given)
    notebook.cells = [one for one in notebook.cells if "nbgrader" in one.metadata or "import" in one.source]
    return nbformat.writes(notebook).encode()


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """Four honest students and one whose file is broken, and a file that belongs nowhere."""
    folder, release = tmp_path_factory.mktemp("handed in"), release_bytes(FOLDER)
    for place, student in enumerate(("ada", "emmy", "hedy", "kurt")):
        given = {}
        for turn, exercise in enumerate(CHAPTER.exercises.values()):
            pool = [one.answer for one in exercise.mistakes] if (place + turn) % 3 == 0 else exercise.variants
            given[exercise.id] = answers.source_of(pool[place % len(pool)], exercise.name)
        path = folder / student / FOLDER / f"{FOLDER}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(quick(release, given))
    broken = folder / "zoe" / FOLDER / f"{FOLDER}.ipynb"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"cells": [', encoding="utf-8")
    (folder / "zoe" / "holiday.jpg").write_bytes(b"\xff\xd8")
    return folder


def grades(out):
    """All that a run decided, without its times."""
    found = {}
    for row in rows_of(out / "exercises.csv"):
        found[row["student"], row["exercise"]] = row["score"]
    for row in rows_of(out / "grades.csv"):
        found[row["student"]] = row["status"], row["score"], row["reason"]
    return found


@pytest.fixture(scope="module")
def graded(handed_in, tmp_path_factory):
    out = tmp_path_factory.mktemp("graded") / "out"
    done = attn("grade", handed_in, "--out", out, "--seed", 7)
    assert done.returncode == 3, done.stderr
    return out, [json.loads(line) for line in done.stdout.splitlines()]


@sandboxed
@pytest.mark.slow
def test_each_submission_ends_with_a_status_and_a_reason(graded, handed_in):
    out, lines = graded
    statuses = {row["student"]: row["status"] for row in rows_of(out / "grades.csv")}
    assert statuses == {"ada": "graded", "emmy": "graded", "hedy": "graded", "kurt": "graded", "zoe": "failed"}
    (zoe,) = [row for row in rows_of(out / "grades.csv") if row["student"] == "zoe"]
    assert "not a Jupyter notebook" in zoe["reason"] and zoe["score"] == ""
    assert lines[-1]["finished"] and [path for path, _ in lines[-1]["unplaced"] if "holiday.jpg" in path]
    assert {line["student"] for line in lines[:-1]} == set(statuses)
    assert (handed_in / "zoe" / FOLDER / f"{FOLDER}.ipynb").read_text() == '{"cells": ['
    for student in statuses:
        assert (out / "submitted" / student / FOLDER / f"{FOLDER}.ipynb").is_file()
        assert (out / "feedback" / student / FOLDER / f"{FOLDER}.html").is_file()
    assert (out / "report.html").is_file() and (out / "grades.json").is_file()


@sandboxed
@pytest.mark.slow
def test_each_grade_says_what_it_was_made_with(graded):
    out, _ = graded
    for one in json.loads((out / "grades.json").read_text())["graded"]:
        assert one["stamp"]["seed"] == 7 and one["stamp"]["sandbox"] in (*offered(), "none")
        assert one["stamp"]["exercises"] == stamps.exercise_hashes(2)


@sandboxed
@pytest.mark.slow
def test_what_has_not_changed_is_not_graded_again(graded, handed_in, tmp_path):
    out = shutil.copytree(graded[0], tmp_path / "out")
    changed = shutil.copytree(handed_in, tmp_path / "in")
    assert len(attn("grade", changed, "--out", out).stdout.splitlines()) == 1
    shutil.copy(changed / "kurt" / FOLDER / f"{FOLDER}.ipynb", changed / "ada" / FOLDER / f"{FOLDER}.ipynb")
    again = attn("grade", changed, "--out", out)
    assert [json.loads(line)["student"] for line in again.stdout.splitlines()[:-1]] == ["ada"]
    assert len(attn("grade", changed, "--out", out, "--seed", 8).stdout.splitlines()) == 6


@sandboxed
@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_like_one_that_was_not(graded, handed_in, tmp_path):
    moments = random.Random(0)
    for turn in range(5):  # four kills each: twenty moments
        out = tmp_path / f"out {turn}"
        command = [sys.executable, "-m", "autograder.cli", "grade", str(handed_in), "--out", str(out), "--seed", "7"]
        for _ in range(4):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(moments.uniform(0.2, 7))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert attn("grade", handed_in, "--out", out, "--seed", 7).returncode == 3
        assert grades(out) == grades(graded[0])


@sandboxed
@pytest.mark.slow
def test_ctrl_c_keeps_what_was_graded_and_leaves_no_process(handed_in, tmp_path):
    command = [sys.executable, "-m", "autograder.cli", "grade", str(handed_in), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "What was graded is kept" in said and "Traceback" not in said
    rest = attn("grade", handed_in, "--out", tmp_path / "out")
    assert len(rest.stdout.splitlines()) < 6


@sandboxed
@pytest.mark.slow
def test_an_interrupt_that_python_loses_ends_the_run_all_the_same(handed_in, tmp_path):
    """As one is lost that comes while an object is cleared away."""
    seen = []

    def losing(results, total):
        for one in results:
            seen.append(one)
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            yield one

    with pytest.raises(KeyboardInterrupt):
        grade(handed_in, Settings(tmp_path / "out"), losing)
    assert len(seen) == 1 and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@sandboxed
@pytest.mark.slow
def test_make_grade_grades_the_whole_sample_class_as_planned(tmp_path):
    done = attn("grade", "--out", tmp_path / "out", "--text")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scores of the sample class are as planned" in " ".join(done.stdout.split())
