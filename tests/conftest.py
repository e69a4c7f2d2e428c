"""What tests share: a record of their own, and a course as released, whoever worked in the one in the tree."""

import os
import shutil
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():  # read when triton is first imported, by whichever test that is
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:  # torch's threads beside those of the other workers wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from autograder import build, pages
from autograder.exercise import chapters, load_chapter

EXERCISES = [exercise for number in chapters() for exercise in load_chapter(number).exercises.values()]
# To judge one answer to these takes a second, and their proofs together minutes; `make test-slow` has them.
LONG = {"11.5", "11.6", "11.7", "12.6", "12.7", "12.8", "13.6"}


def proof(exercise, *more, name=""):
    """The parameters of one test of an exercise's grader."""
    marks = pytest.mark.slow if exercise.id in LONG else ()
    return pytest.param(exercise, *more, marks=marks, id=f"{exercise.id}-{name}" if name else exercise.id)


PROOFS = [proof(one) for one in EXERCISES]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_HOME", str(tmp_path / "attn-home"))
    monkeypatch.setattr("autograder.record._unsaved", [])


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A folder with solutions/, course/ and nbgrader_config.py, the course freshly built."""
    root = tmp_path_factory.mktemp("released")
    shutil.copytree(build.ROOT / "solutions", root / "solutions", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(build.ROOT / "nbgrader_config.py", root)
    for number in chapters():
        build.write_release(load_chapter(number), root)
    pages.write(root)
    return root


def copy_of(released, root):
    """Copy the released folder to `root`, for a test that writes to it."""
    for side in ("solutions", "course"):
        shutil.copytree(released / side, root / side)
    shutil.copy(released / "nbgrader_config.py", root)
    return root
