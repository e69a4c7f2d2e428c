"""One writer, one transaction a submission: nothing is stored by halves, and nothing is lost."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook

from autograder.build import release_bytes
from autograder.exercise import load_chapter
from autograder.grading.gradebook import COURSE, GradebookError, Keeper
from autograder.grading.results import FAILED, Graded, Mark, Reading

CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder


@pytest.fixture(scope="module")
def release():
    return nbformat.reads(release_bytes(FOLDER).decode(), as_version=4)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'gradebook.db'}"


def result(student, share=1.0, **facts):
    marks = [Mark(one.id, one.title, one.points, share * one.points) for one in CHAPTER.exercises.values()]
    readings = [Reading(one.id, one.title, one.points) for one in CHAPTER.written.values()]
    return Graded(student, FOLDER, **{"marks": marks, "readings": readings, **facts})


def points():
    return sum(one.points for one in CHAPTER.exercises.values())


def test_what_is_kept_is_what_nbgrader_reads(url, release):
    with Keeper(url) as keeper:
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada"))
        keeper.keep(result("emmy", 0.5))
    with Gradebook(url, COURSE) as book:
        scores = {one.student_id: one.score for one in book.assignment_submissions(FOLDER)}
        assert scores == {"ada": points(), "emmy": points() / 2}
        submission = book.find_submission(FOLDER, "ada")
        assert submission.needs_manual_grade and submission.max_score == points() + 4


@pytest.mark.parametrize("address", ["gradebook", "nosuch://here/it"])
def test_an_address_that_is_none_is_answered_with_one(address):
    with pytest.raises(GradebookError, match="address cannot be used .*sqlite:////home/me/gradebook.db"):
        Keeper(address)


def test_a_failed_submission_waits_for_a_person_and_is_no_silent_0(url, release):
    with Keeper(url) as keeper:
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada", 0.0, status=FAILED, reason="not a notebook"))
        assert keeper.kept()["ada", FOLDER].reason == "not a notebook"
    with Gradebook(url, COURSE) as book:
        marks = book.find_submission(FOLDER, "ada").notebooks[0].grades
        assert all(mark.auto_score is None and mark.needs_manual_grade for mark in marks)


def test_what_a_reader_enters_in_formgrader_is_kept_through_a_regrade_and_shown(url, release):
    question = next(iter(CHAPTER.written))
    cell = f"written-{question.replace('.', '-')}"
    with Keeper(url) as keeper:
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada"))
    with Gradebook(url, COURSE) as book:
        mark = book.find_grade(cell, FOLDER, FOLDER, "ada")
        mark.manual_score, mark.needs_manual_grade = 3, False
        book.find_comment(cell, FOLDER, FOLDER, "ada").manual_comment = "clear"
        book.db.commit()
    with Keeper(url) as keeper:
        (reading,) = keeper.kept()["ada", FOLDER].readings
        assert (reading.earned, reading.comment) == (3, "clear")
        keeper.keep(result("ada", 0.5))
        again = keeper.kept()["ada", FOLDER]
    with Gradebook(url, COURSE) as book:
        assert book.find_grade(cell, FOLDER, FOLDER, "ada").manual_score == 3
    assert again.score == points() / 2 + 3


def test_late_hand_ins_are_counted_and_the_course_decides_what_they_cost(url, release):
    from traitlets.config import Config

    config = Config()
    config.LateSubmissionPlugin.penalty_method = "zero"
    for course, penalty in ((None, 0.0), (config, points())):
        with Keeper(url, course) as keeper:
            keeper.prepare(FOLDER, release)
            keeper.book.update_or_create_assignment(FOLDER, duedate="2026-10-01 12:00:00 UTC")
            keeper.keep(result("ada", submitted="2026-10-01 13:00:00 UTC"))
            kept = keeper.kept()["ada", FOLDER]
        assert kept.late_seconds == 3600 and kept.late_penalty == penalty


def test_a_fault_half_way_leaves_the_grade_before(url, release):
    with Keeper(url) as keeper:
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada", 0.5))
        broken = result("ada", 1.0)
        broken.marks[-1].earned = object()  # nothing that a database takes
        with pytest.raises(Exception, match="."):
            keeper.keep(broken)
        assert keeper.kept()["ada", FOLDER].score == points() / 2
    with Gradebook(url, COURSE) as book:
        assert book.find_submission(FOLDER, "ada").score == points() / 2


def test_a_locked_database_delays_a_grade_and_loses_none(url, release, tmp_path):
    with Keeper(url + "?timeout=0.1") as keeper:
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada", 0.5))
        other = sqlite3.connect(tmp_path / "gradebook.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(1.0, other.rollback).start()
        for student in ("emmy", "ada"):
            keeper.keep(result(student))
        assert {one.score for one in keeper.kept().values()} == {points()}
        other.close()


def test_a_database_that_stays_locked_is_reported(url, release, tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.grading.gradebook.WAIT", 0.3)
    with Keeper(url + "?timeout=0.1") as keeper:
        keeper.prepare(FOLDER, release)
        other = sqlite3.connect(tmp_path / "gradebook.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(GradebookError, match="has had the gradebook locked .* Every grade stored so far is kept"):
            keeper.keep(result("ada"))
        other.rollback()
        other.close()


def test_a_file_that_is_no_gradebook_is_said(tmp_path):
    (tmp_path / "gradebook.db").write_bytes(b"no database at all, " * 100)
    with pytest.raises(Exception, match="not a database"):
        Keeper(f"sqlite:///{tmp_path / 'gradebook.db'}")


def test_a_chapter_may_gain_an_exercise_and_not_lose_a_graded_one(url, release):
    fewer = nbformat.from_dict({**release, "cells": [one for one in release.cells if one.id != "check-2-6"]})
    with Keeper(url) as keeper:
        keeper.prepare(FOLDER, fewer)
        keeper.keep(result("ada"))
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada"))
    with Gradebook(url, COURSE) as book:
        assert book.find_submission(FOLDER, "ada").score == points()
    with Keeper(url) as keeper, pytest.raises(GradebookError, match="no longer has check-2-6.*Nothing was changed"):
        keeper.prepare(FOLDER, fewer)


def second_grader_is_refused(url):
    refused = pytest.raises(GradebookError, match="another grader is at work")
    with Keeper(url) as first, Keeper(url) as second, first.alone(), refused, second.alone():
        pass
    with Keeper(url) as later, later.alone():
        pass


def test_a_second_grader_is_refused_whatever_folder_it_writes_to(url):
    second_grader_is_refused(url)


def test_the_seed_is_drawn_once_and_may_be_given(url):
    with Keeper(url) as keeper:
        drawn = keeper.seed()
        assert keeper.seed() == drawn
    with Keeper(url) as keeper:
        assert keeper.seed() == drawn and keeper.seed(7) == 7 and keeper.seed() == 7


@pytest.fixture
def postgres(tmp_path):
    """A real PostgreSQL server of this test's own."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs the extra: EXTRAS=postgres")
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        pytest.skip("no PostgreSQL server on this machine; Debian: apt-get install postgresql")
    programs = Path(found).resolve().parent
    data = Path("/tmp") / f"attn-pg-{os.getpid()}"
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    data.mkdir(mode=0o700)
    if user:
        shutil.chown(data, "nobody", "nogroup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
    subprocess.run([programs / "initdb", "-D", data, "-U", "attn", "--auth=trust"], check=True, **quiet)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={data}"]
    server = subprocess.Popen([programs / "postgres", "-D", data, *options], **quiet)
    try:
        deadline = time.monotonic() + 30
        while subprocess.call([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]) != 0:
            assert time.monotonic() < deadline and server.poll() is None, "PostgreSQL did not start"
            time.sleep(0.1)
        yield f"postgresql+psycopg://attn@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(data, ignore_errors=True)


@pytest.mark.slow
def test_postgresql_keeps_the_same_grades(postgres, release):
    with Keeper(postgres) as keeper:
        keeper.prepare(FOLDER, release)
        keeper.keep(result("ada"))
        keeper.keep(result("ada", 0.5))
        keeper.prepare(FOLDER, release)
        assert keeper.seed() == keeper.seed()
        kept = keeper.kept()["ada", FOLDER]
    assert kept.score == points() / 2
    second_grader_is_refused(postgres)
    with Gradebook(postgres, COURSE) as book:
        assert book.find_submission(FOLDER, "ada").score == points() / 2
