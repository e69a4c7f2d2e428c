"""`attn grade --cluster`: a real scheduler and real workers, which share nothing with the grader but the network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from autograder.answers import source_of
from autograder.build import ROOT, release_bytes
from autograder.exercise import load_chapter
from autograder.grading import stamps
from autograder.sandbox import offered
from tests.test_grade import grades, quick

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'attn-course[cluster]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not offered(), reason="this machine offers no sandbox to grade in"),
]
CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
STUDENTS = [f"student {number}" for number in range(8)]


class Machines:
    """A scheduler and its workers, each a process with a home and a directory of its own."""

    def __init__(self, root):
        self.root, self.started, self.address = root, [], None

    def start(self, name, *arguments, **environment):
        home = self.root / name
        home.mkdir(exist_ok=True)
        kept = {one: os.environ[one] for one in ("PATH", "LANG", "TMPDIR") if one in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{arguments[0]}", *map(str, arguments[1:]), "--no-dashboard"],
            cwd=home,
            env={**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.started.append(process)
        return process

    def scheduler(self):
        found = self.root / "scheduler.json"
        process = self.start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", found)
        until(found.exists)
        self.address = json.loads(found.read_text())["address"]
        return process

    def worker(self, name, threads=1, **environment):
        own = ["--no-nanny", "--nthreads", threads, "--name", name, "--local-directory", self.root / name / "space"]
        return self.start(name, "worker", self.address, *own, "--host", "127.0.0.1", **environment)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def machines(tmp_path):
    made = Machines(tmp_path / "machines")
    made.root.mkdir()
    yield made
    for process in made.started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """Eight students with right and wrong answers, one of whom exits, and one broken file."""
    folder, release = tmp_path_factory.mktemp("handed in"), release_bytes(FOLDER)
    for place, student in enumerate(STUDENTS):
        given = {}
        for turn, exercise in enumerate(CHAPTER.exercises.values()):
            pool = [one.answer for one in exercise.mistakes] if (place + turn) % 3 == 0 else exercise.variants
            given[exercise.id] = source_of(pool[place % len(pool)], exercise.name)
        if student == STUDENTS[3]:
            given["2.2"] = "import os\nos._exit(0)"
        path = folder / student / FOLDER / f"{FOLDER}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"" if student == STUDENTS[5] else quick(release, given))
    return folder


@pytest.fixture(scope="module")
def here(handed_in, tmp_path_factory):
    """What this machine makes of the class."""
    out = tmp_path_factory.mktemp("here") / "out"
    with grading(handed_in, out) as process:
        assert len(process.communicate(timeout=300)[0].splitlines()) == len(STUDENTS) + 1
    assert process.returncode == 3
    return grades(out)


@contextmanager
def grading(handed_in, out, *arguments):
    command = [sys.executable, "-m", "autograder.cli", "grade", handed_in, "--out", out, "--seed", "7", *arguments]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()


def finish(process):
    """(the students in the order of their grades, stderr) of a run on the cluster."""
    out, said = process.communicate(timeout=300)
    lines = [json.loads(line) for line in out.splitlines()]
    return [line["student"] for line in lines if "student" in line], said


def test_workers_far_away_grade_as_this_machine_does(machines, handed_in, here, tmp_path):
    machines.scheduler()
    machines.worker("first")
    machines.worker("second", threads=2)
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        students, said = finish(process)
    assert process.returncode == 3 and not said
    assert sorted(students) == STUDENTS
    assert grades(tmp_path / "out") == here
    for one in json.loads((tmp_path / "out" / "grades.json").read_text())["graded"]:
        assert one["stamp"]["sandbox"] == offered()[0] and one["stamp"]["grader"] == stamps.grader_hash()
    files = [path for name in ("first", "second") for path in (machines.root / name).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".lock", ".dirlock"}, "Dask locks its folder; a worker needs no file"


def test_a_worker_that_is_killed_costs_nobody_a_grade(machines, handed_in, here, tmp_path):
    machines.scheduler()
    killed = machines.worker("first")
    machines.worker("second")
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        first = json.loads(process.stdout.readline())["student"]
        killed.send_signal(signal.SIGKILL)
        students, said = finish(process)
    assert process.returncode == 3 and not said
    assert sorted([first, *students]) == STUDENTS, "each grade arrives once"
    assert grades(tmp_path / "out") == here


def test_a_run_outlives_all_its_workers(machines, handed_in, here, tmp_path):
    machines.scheduler()
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        gone = machines.worker("first")  # the run began with none
        first = json.loads(process.stdout.readline())["student"]
        gone.send_signal(signal.SIGKILL)
        gone.wait()
        time.sleep(1)
        machines.worker("second")
        students, said = finish(process)
    assert process.returncode == 3 and not said
    assert sorted([first, *students]) == STUDENTS
    assert grades(tmp_path / "out") == here


def test_a_scheduler_that_goes_away_ends_the_run_and_keeps_its_grades(machines, handed_in, here, tmp_path):
    scheduler = machines.scheduler()
    machines.worker("first", DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1s")
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        first = json.loads(process.stdout.readline())["student"]
        scheduler.send_signal(signal.SIGKILL)
        students, said = finish(process)
    assert process.returncode == 1, said
    assert "is lost" in said and "are kept" in " ".join(said.split()) and "Traceback" not in said
    with grading(handed_in, tmp_path / "out") as process:
        rest, _ = finish(process)
    assert sorted([first, *students, *rest]) == STUDENTS, "what came in is not done again"
    assert grades(tmp_path / "out") == here


def test_no_scheduler_is_said(handed_in, tmp_path):
    for address in ("tcp://127.0.0.1:9", "nowhere", "tcp://"):
        with grading(handed_in, tmp_path / "out", "--cluster", address) as process:
            _, said = finish(process)
        assert process.returncode == 1
        assert "no Dask scheduler answers at" in said and "Traceback" not in said


def other_version(folder, change):
    """A copy of the course's packages that differs, to be found first."""
    for name in ("autograder", "attn_ref"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    change(folder)
    return {"PYTHONPATH": str(folder)}


def an_older_judge(folder):
    path = folder / "autograder" / "judge.py"
    path.write_text(path.read_text() + "\n# of last year\n")


def no_grading(folder):
    (folder / "autograder" / "grading" / "workers.py").unlink()


def no_torch(folder):
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")


@pytest.mark.parametrize(
    "change, why",
    [
        (an_older_judge, "its grader or its exercises differ"),
        (no_grading, "No module named 'autograder.grading.workers'"),
        (no_torch, "only one of the two machines has the packages that 06_multi_head, 07_transformer, 08_cost"),
    ],
)
def test_a_worker_with_another_version_grades_nobody(change, why, machines, handed_in, tmp_path):
    machines.scheduler()
    machines.worker("old", **other_version(tmp_path / "old", change))
    wait_for_workers(machines, 1)
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        students, said = finish(process)
    assert process.returncode == 1 and not students
    said = " ".join(said.split())
    assert "has another version of the course" in said and "tcp://127.0.0.1" in said and "Traceback" not in said
    assert why in said


def test_a_worker_with_another_version_that_comes_late_grades_nobody(machines, handed_in, tmp_path):
    machines.scheduler()
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        until(lambda: (tmp_path / "out" / "gradebook.db").exists())
        machines.worker("old", **other_version(tmp_path / "old", an_older_judge))
        students, said = finish(process)
    assert process.returncode == 1 and not students
    assert "has another version of the course" in " ".join(said.split()) and "Traceback" not in said


def test_a_worker_without_a_sandbox_grades_nobody(machines, handed_in, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import autograder.sandbox.levels as levels\nlevels._obstacle = lambda level: 'not today'\n"
    )
    machines.scheduler()
    machines.worker("bare", PYTHONPATH=str(tmp_path / "site"))
    wait_for_workers(machines, 1)
    with grading(handed_in, tmp_path / "out", "--cluster", machines.address) as process:
        students, said = finish(process)
    assert process.returncode == 1 and not students
    assert "not today" in said and "tcp://127.0.0.1" in said and "Traceback" not in said


def wait_for_workers(machines, count):
    from distributed import Client

    with Client(machines.address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)
