"""The `attn` command line: it reads well, answers with a remedy, and loses nobody's work."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from typer.testing import CliRunner

import attn_ref
from autograder import build, check
from autograder.cli import app
from autograder.exercise import PACKAGES
from autograder.kill_matrix import markdown
from autograder.sandbox import offered
from tests.conftest import copy_of

EMPTY = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


def attn(*arguments, status=0):
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert done.exit_code == status, done.output
    return " ".join(done.output.split())


@pytest.fixture
def copy(tmp_path, monkeypatch, released):
    """A copy of the repository's course and solutions, which the commands take for the real one."""
    copy_of(released, tmp_path)
    monkeypatch.setattr("autograder.build.ROOT", tmp_path)
    return tmp_path


def test_help_lists_every_command_with_a_sentence():
    text = attn("--help")
    for command in ("lab", "progress", "hint", "reset", "doctor", "grade", "build", "kill-matrix", "figures"):
        assert f" {command} " in text


def test_progress_shows_what_is_solved():
    check("2.1", attn_ref.softmax)
    text = attn("progress", "02")
    assert "✓ 2.1" in text and "· 2.2" in text
    assert "00 start here" not in text and "00 start here" in attn("progress")


def test_hints_go_on_where_the_notebook_left_off():
    assert "hint 1 of" in attn("hint", "2.1")
    assert "hint 2 of" in attn("hint", "2.1")
    assert "no exercise" in attn("hint", "2.77", status=1)


def test_an_unknown_chapter_is_answered_with_the_known_ones():
    assert "there is no chapter '77'; the chapters are 00, 01, 02" in attn("reset", "77", status=1)


def test_reset_puts_a_chapter_back_and_keeps_a_copy(copy):
    path = copy / "course" / "00_start_here" / "00_start_here.ipynb"
    released = path.read_bytes()
    assert "nothing to do" in attn("reset", "00")
    for number in (1, 2):
        path.write_bytes(released + b" " * number)
        assert f"00_start_here-{number}.ipynb" in attn("reset", "00")
        assert path.read_bytes() == released
        assert (path.parent / "backups" / f"00_start_here-{number}.ipynb").read_bytes() == released + b" " * number
    path.unlink()
    attn("reset", "00")
    assert path.read_bytes() == released


def test_doctor_gives_a_remedy_for_what_is_missing(monkeypatch, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    monkeypatch.setenv("ATTN_HOME", str(blocked))
    found = attn("doctor")
    assert "✓ Python 3." in found and "cores" in found
    assert "✗ progress cannot be saved" in found and "set ATTN_HOME" in found


def test_grade_without_submissions_to_grade_says_so(tmp_path):
    assert "there is no " in attn("grade", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), status=1)


def test_a_wrong_choice_is_wrong_usage_and_names_the_right_ones(tmp_path):
    notebook = tmp_path / "x.ipynb"
    notebook.write_text("{}")
    one = ("grade-one", str(notebook), "--chapter", "02")
    for arguments in (("grade", str(tmp_path), "--out", str(tmp_path / "out")), one):
        said = attn(*arguments, "--policy", "zer", status=2)
        assert "--policy" in said and "'zer' is none of zero, warn" in said
    assert "'pdf' is none of gradescope, classroom50, markdown, json, html" in attn(*one, "--format", "pdf", status=2)


def test_places_that_cannot_be_used_are_named_with_a_remedy(tmp_path):
    file, folder = tmp_path / "a file", tmp_path / "class"
    file.write_text("in the way")
    folder.mkdir()
    (folder / "ada.ipynb").write_text("{}")
    for submissions in ([], [str(folder)]):
        said = attn("grade", *submissions, "--students", "1", "--out", str(file), status=1)
        assert str(file) in said and "choose another --out" in said
    same = attn("grade", str(folder), "--out", str(folder), status=1)
    assert "nothing is written where they lie" in same and [one.name for one in folder.iterdir()] == ["ada.ipynb"]


@pytest.mark.slow
def test_the_kill_matrix_in_the_docs_is_this_one():
    page = (build.ROOT / "docs" / "kill-matrix.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: make kill-matrix"
    assert "| no |" not in page


@pytest.mark.skipif(sys.platform == "win32", reason="the process group is ended by a POSIX call")
def test_lab_serves_the_first_notebook_without_a_browser(tmp_path):
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "autograder.cli", "lab", "--no-browser", "--port", "18888"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        address, deadline = None, time.monotonic() + 60
        while address is None:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            said = (tmp_path / "log").read_text()
            address = re.search(
                r"http://127\.0\.0\.1:\d+/lab/tree/course/00_start_here/00_start_here\.ipynb\?token=\w+", said
            )
            time.sleep(0.2)
        with urllib.request.urlopen(address[0], timeout=20) as answer:
            assert answer.status == 200
        contents = address[0].replace("/lab/tree/", "/api/contents/")
        with urllib.request.urlopen(contents, timeout=20) as answer:
            assert b"Start here" in answer.read()
    finally:
        os.killpg(process.pid, 2)
        time.sleep(0.5)
        os.killpg(process.pid, 9)
        process.wait(20)


@pytest.mark.skipif(not offered(), reason="no sandbox on this machine")
class TestWithoutTorch:
    """What `make env` alone installs serves chapters 00 to 05 and 10, and says what others need."""

    @pytest.fixture
    def attn(self, tmp_path):
        (tmp_path / "missing").mkdir()
        for name in PACKAGES:
            file = tmp_path / "missing" / f"{name}.py"
            file.write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n")
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "missing"), "COLUMNS": "200"}

        def run(*arguments):
            command = [sys.executable, "-m", "autograder.cli", *map(str, arguments)]
            return subprocess.run(command, cwd=build.ROOT, env=env, capture_output=True, text=True)

        return run

    def submission(self, place, folder, content=None):
        (place / folder).mkdir(parents=True)
        made = content or (build.ROOT / "course" / folder / f"{folder}.ipynb").read_bytes()
        (place / folder / f"{folder}.ipynb").write_bytes(made)

    def test_a_class_is_graded_though_a_notebook_says_nothing_of_its_chapter(self, attn, tmp_path):
        self.submission(tmp_path / "inbox" / "ada", "02_scaled_dot_product")
        self.submission(tmp_path / "inbox" / "bob", "02_scaled_dot_product", b"this is no notebook")
        self.submission(tmp_path / "inbox" / "eve", "02_scaled_dot_product", EMPTY)
        done = attn("grade", tmp_path / "inbox", "--out", tmp_path / "out", "--json")
        assert done.returncode == 3, done.stderr
        *found, last = map(json.loads, done.stdout.splitlines())
        assert {one["student"]: one["status"] for one in found} == {"ada": "graded", "bob": "failed", "eve": "failed"}
        assert all("grader" not in one["reason"] for one in found) and last["finished"]

    def test_a_chapter_that_needs_it_is_refused_with_the_remedy(self, attn, tmp_path):
        self.submission(tmp_path / "inbox" / "ada", "06_multi_head")
        one = build.ROOT / "course" / "06_multi_head" / "06_multi_head.ipynb"
        for command in (
            ("grade", tmp_path / "inbox", "--out", tmp_path / "out"),
            ("grade-one", one, "--chapter", "06"),
            ("hint", "6.1"),
            ("gradescope-zip", "06"),
            ("build",),
        ):
            done = attn(*command)
            assert done.returncode == 1 and "06_multi_head needs torch" in done.stderr, (command, done.stderr)
            assert "make env EXTRAS=torch" in done.stderr and "Traceback" not in done.stderr
