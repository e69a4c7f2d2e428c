"""One class in which everybody but one has a fault of their own: each costs the exercise it happened in and no other.

Every student answers all six exercises right. What is added to that, or done to the file, is in the tables below, with
what it costs and with words of what the student is told. All are graded in one run, side by side.
"""

import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from autograder.answers import fill, source_of
from autograder.build import release_bytes
from autograder.exercise import load_chapter
from autograder.sandbox import offered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not offered(), reason="this machine offers no sandbox to grade in"),
]
CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
POINTS = {one.id: one.points for one in CHAPTER.exercises.values()}
HIT = "2.3"  # the exercise in which a fault happens, unless a table says otherwise
NAME = CHAPTER.exercises[HIT].name
RIGHT = {one.id: source_of(one.variants[0], one.name) for one in CHAPTER.exercises.values()}
CELL, NOTEBOOK = 8, 60  # seconds
SLOW, EXITED = f"stopped after {CELL} seconds. Look for a loop", "Python itself ended while this cell ran"
FLOOD, CROWD = "printed more than .* Print shapes or a few entries", "more than the 64 processes or threads"

# {fault: (what stands behind the right answer to 2.3, in the same cell; words of the breach)}
STOPPED = {
    "an endless loop": ("while True:\n    pass", SLOW),
    "an endless loop that passes over interrupts": (
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        SLOW,
    ),
    "SIGINT ignored": ("import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(1000)", SLOW),
    "a library that loops": ("import re\nre.match('(a*)*b', 'a' * 64)", SLOW),
    "more memory than there is": (
        "import mmap\nmaps = [mmap.mmap(-1, 2**30) for _ in range(3)]\n"
        "for one in maps:\n    one[::4096] = b'x' * 2**18",
        "more memory than the 2048 MiB",
    ),
    "many lines of output": ("while True:\n    print('x' * 1000)", FLOOD),
    "one line of 50 MB": ("print('x' * 50_000_000)", FLOOD),
    "many empty outputs": ("from IPython.display import display\nwhile True:\n    display('')", f"{FLOOD}|{SLOW}"),
    "a thread that floods": (
        "import threading, time\ndef flood():\n    while True:\n        print('y' * 1000)\n"
        "threading.Thread(target=flood, daemon=True).start()\ntime.sleep(9)",
        FLOOD,
    ),
    "a traceback of 20 MB": ("raise ValueError('x' * 20_000_000)", FLOOD),
    "os._exit": ("import os\nos._exit(0)", EXITED),
    "os.abort": ("import os\nos.abort()", EXITED),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", "SIGSEGV.*outside its memory"),
    "a fork bomb": ("import os\nwhile True:\n    os.fork()", CROWD),
    "a bomb of threads": (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()",
        CROWD,
    ),
    "every file of the process closed": ("import os\nos.closerange(0, 1000)", f"{SLOW}|{EXITED}"),
    "the kernel's event loop stopped": ("import asyncio\nasyncio.get_running_loop().stop()", EXITED),
    "a kernel that can send nothing": ("get_ipython().display_pub = None", SLOW),
    "stdout taken away": ("import sys\nsys.stdout = None", SLOW),
    "messages that no notebook sends": (
        "kernel = get_ipython().kernel\n"
        "for content in ({}, {'data': 3, 'metadata': 1, 'transient': 7}, {'name': 1}):\n"
        "    for kind in ('display_data', 'stream', 'error', 'status', 'comm_open', 'clear_output', 'none'):\n"
        "        kernel.session.send(kernel.iopub_socket, kind, content=content, parent=kernel.get_parent())",
        "nothing that can be judged .messages came.* Leave `check`, IPython",
    ),
}

# {fault: (what stands first in the function of 2.3; words that the student is told)}
INSIDE = {
    "an endless loop in the function": ("while True:\n        pass", SLOW),
    "an endless recursion": (f"return {NAME}(q, k, scale)", "RecursionError"),
    "a recursion without a limit": (
        f"import sys\n    sys.setrecursionlimit(10**9)\n    return {NAME}(q, k, scale)",
        f"Python itself stopped here|RecursionError|{SLOW}",
    ),
    "an array of 8 TB": ("np.ones((10**6, 10**6))", "MemoryError"),
    "a sum of arrays without end": ("kept = [np.ones(10**7) for _ in iter(int, 1)]", f"MemoryError|{SLOW}"),
    "exit in the function": ("raise SystemExit", "it raised SystemExit"),
    "os._exit in the function": ("import os\n    os._exit(0)", "Python itself stopped here"),
    "a kernel killed by a check": ("import os\n    os.kill(os.getppid(), 9)", "SIGKILL|expected an array"),
    "a fork bomb in the function": ("import os\n    while True:\n        os.fork()", CROWD),
    "an answer of 60 MB": ("return np.ones((2500, 3000))", f"shape|{SLOW}"),
    "answers that are too much together": ("return np.ones((700, 1400))", f"more than 16 MiB|shape|{SLOW}"),
    "an answer that refers to itself": ("a = []\n    a.append(a)\n    return a", "RecursionError|list|collection"),
    "input in the function": ("input('scale? ')", "it raised StdinNotImplementedError"),
}

# {fault: (what stands behind the right answer to 2.3; words of a breach or note, or "")}: these cost nothing
HARMLESS = {
    "input": ("input('which scale? ')", "calls `input"),
    "sys.exit": ("import sys\nsys.exit()", ""),
    "warnings and stderr": (
        "import sys, warnings\nwarnings.warn('odd')\nprint('log', file=sys.stderr)\nnp.log(0.0)",
        "",
    ),
    "warnings turned into errors": ("import warnings\nwarnings.simplefilter('error')\nnp.seterr(all='raise')", ""),
    "an error after the answer": ("attention_scores(1, 2, 3, 4, 5)", ""),
    "a folder left and emptied": (
        "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)\nshutil.rmtree('/tmp', ignore_errors=True)\n"
        "os.chdir('/')",
        "",
    ),
    "shell commands": ("!rm -rf ~ /tmp; sleep 100 & echo done\n!cat /dev/zero | head -c 1000 | wc -c", ""),
    "stdout replaced": ("import io, sys\nsys.stdin = None\nsys.stdout = sys.stderr = io.StringIO()", ""),
    "names of Python shadowed": ("print = None; list = 3; str = dict = type = Exception = open = 'mine'", ""),
    "quit": ("quit", ""),
    "the check shadowed": ("check = attn_ref = None", ""),
    "a closed event loop": (
        "import asyncio\nasyncio.set_event_loop(asyncio.new_event_loop())\nasyncio.get_event_loop().close()",
        "",
    ),
    "an alarm": ("import signal\nsignal.alarm(1000)\nsignal.setitimer(signal.ITIMER_REAL, 1000)", ""),
    "a trace": ("import sys\nsys.settrace(lambda *a: None)", ""),
}

# {fault: (a cell of the student's own, behind the answer to 2.3; words of a breach, or "")}: these cost nothing
OWN_CELLS = {
    "a loop in a cell of their own": ("while True:\n    pass", SLOW),
    "an exit in a cell of their own": ("import os\nos._exit(1)", EXITED),
    "bash that loops": ("%%bash\nwhile true; do :; done", SLOW),
    "bash that fails": ("%%bash\nexit 3", ""),
    "500 figures": (
        "import matplotlib.pyplot as plt\nfor _ in range(500):\n    plt.plot([1, 2])\n    plt.figure()",
        f"(|{SLOW}|{FLOOD})",
    ),
    "magics": (
        "%autosave 60\n%xmode Verbose\n%matplotlib qt\n%load_ext nothing\n%pip install nothing\n%run nowhere.py",
        "",
    ),
    "a magic nobody knows": ("%%cell_that_is_none\n1 + 1", ""),
    "a cell that is no Python": ("def softmax(:\n   oh no", ""),
    "widgets and javascript": (
        "from IPython.display import HTML, Javascript, display\ndisplay(Javascript('a()'), HTML('<script>1</script>'))",
        "",
    ),
}


def without(slot):
    return lambda notebook: notebook.update(cells=[one for one in notebook.cells if one.id != slot])


def doubled(*slots):
    def change(notebook):
        # As JupyterLab pastes: with an id of its own, and the metadata of the other.
        copies = [nbformat.from_dict({**one, "id": f"copy-{one.id}"}) for one in notebook.cells if one.id in slots]
        notebook.cells += copies

    return change


def changed(slot, source):
    def change(notebook):
        next(one for one in notebook.cells if one.id == slot).source = source

    return change


def split(notebook):
    at = next(at for at, one in enumerate(notebook.cells) if one.id == "exercise-2-3")
    lines = notebook.cells[at].source.splitlines(keepends=True)
    notebook.cells[at].source = "".join(lines[:2])
    notebook.cells.insert(at + 1, new_code_cell("".join(lines[2:])))


def moved(notebook):
    notebook.cells = notebook.cells[::-1]


def stripped(notebook):
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"c{number}"


def tagged(notebook):
    for cell in notebook.cells:
        cell.metadata.tags = ["skip-execution", "raises-exception"]


def swollen(notebook):
    code = [one for one in notebook.cells if one.cell_type == "code"]
    for cell in code:
        cell.outputs = [new_output("stream", text="x" * (30 * 2**20 // len(code)))]


def of_another_language(notebook):
    notebook.metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}
    notebook.metadata.language_info = {"name": "R"}


# {fault: (what is done to the notebook; what that costs; words of a note)}
MENDED = {
    "the check deleted": (without("check-2-3"), (), "check of exercise 2.3 was missing"),
    "the answer deleted": (without("exercise-2-3"), (HIT,), "no cell defines attention_scores"),
    "cells twice": (doubled("exercise-2-3", "check-2-3", "exercise-2-4", "written-2-w"), (), "cop"),
    "an answer split in two": (split, (), "split in the middle of attention_scores"),
    "cells upside down": (moved, (), "did not stand behind its answer"),
    "the check edited": (changed("check-2-3", "6.0"), (), "check of exercise 2.3 had been changed"),
    "metadata stripped": (stripped, (), "lost the names that grading goes by"),
    "tags that steer": (tagged, (), "tags"),
    "30 MB of old outputs": (swollen, (), ""),
    "another language": (of_another_language, (), ""),
}


def as_bytes(notebook):
    return nbformat.writes(notebook).encode()


def in_latin_1(notebook):
    notebook.cells[-1].source += "\n# d\u00e9j\u00e0 vu"
    return nbformat.writes(notebook, ensure_ascii=False).encode("latin-1")


def in_format_3(notebook):
    cells = [
        {"cell_type": "code", "input": one.source, "language": "python", "metadata": one.metadata, "outputs": []}
        if one.cell_type == "code"
        else {"cell_type": "markdown", "source": one.source, "metadata": one.metadata}
        for one in notebook.cells
    ]
    data = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]}
    return json.dumps(data).encode()


def cut_off(notebook):
    data = as_bytes(notebook)
    return data[: data.index(b"def weights_entropy") + 40]


def of_another_chapter(_):
    return release_bytes(load_chapter(1).folder)


# {fault: (the file's bytes; what that costs; words of a note or of the reason)}
FILES = {
    "a byte-order mark": (lambda notebook: b"\xef\xbb\xbf" + as_bytes(notebook), (), "byte-order mark"),
    "UTF-16": (lambda notebook: as_bytes(notebook).decode().encode("utf-16"), (), "UTF-16"),
    "not UTF-8": (in_latin_1, (), "not UTF-8"),
    "nbformat 3": (in_format_3, (), "old format 3"),
    "cut off": (cut_off, ("2.6",), "broken or cut off.*hand it in again"),
    "an empty file": (lambda _: b"", POINTS, "The file is empty. Save the notebook"),
    "corrupt JSON": (lambda _: b'{"cells": [', POINTS, "not a Jupyter notebook .* hand it in again"),
    "not a notebook at all": (lambda _: b"\x00\x01PNG" * 100, POINTS, "not a Jupyter notebook .* hand it in again"),
    "a web page": (lambda _: b"<!DOCTYPE html><html></html>", POINTS, "download the notebook itself"),
    "the wrong chapter": (of_another_chapter, POINTS, "notebook of 01_soft_lookup"),
    "an empty notebook": (lambda _: as_bytes(nbformat.v4.new_notebook()), POINTS, "Start from the notebook that was"),
}
HONEST, RENAMED, NO_NOTEBOOK = "honest", "a renamed file", "only a text file"
EVERYBODY = [HONEST, RENAMED, *STOPPED, *INSIDE, *HARMLESS, *OWN_CELLS, *MENDED, *FILES]


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    folder, release = tmp_path_factory.mktemp("handed in"), release_bytes(FOLDER).decode()
    for fault in EVERYBODY:
        path = folder / fault / FOLDER / f"{FOLDER}.ipynb"
        path.parent.mkdir(parents=True)
        path = path.with_name("homework final(2).ipynb") if fault == RENAMED else path
        path.write_bytes(made(fault, release))
    (folder / NO_NOTEBOOK).mkdir()
    (folder / NO_NOTEBOOK / "sorry.txt").write_text("My computer broke.")
    return folder


def made(fault, release):
    """The bytes that this student hands in: a right notebook, its demonstrations left out, and the fault."""
    given = dict(RIGHT)
    if fault in STOPPED or fault in HARMLESS:
        given[HIT] += "\n" + (STOPPED.get(fault) or HARMLESS[fault])[0]
    if fault in INSIDE:
        given[HIT] = f"def {NAME}(q, k, scale=None):\n    {INSIDE[fault][0]}\n"
    notebook = fill(nbformat.reads(release, as_version=4), given)
    notebook.cells = [one for one in notebook.cells if "nbgrader" in one.metadata or "import" in one.source]
    if fault in OWN_CELLS:
        at = next(at for at, one in enumerate(notebook.cells) if one.id == "exercise-2-3")
        notebook.cells.insert(at + 1, new_code_cell(OWN_CELLS[fault][0]))
    if fault in MENDED:
        MENDED[fault][0](notebook)
    return FILES[fault][0](notebook) if fault in FILES else as_bytes(notebook)


@pytest.fixture(scope="module")
def run(handed_in, tmp_path_factory):
    """(the finished process, everybody's result by name, the lines it printed, the folder of results)"""
    out = tmp_path_factory.mktemp("graded") / "out"
    limits = ["--cell-seconds", str(CELL), "--notebook-seconds", str(NOTEBOOK)]
    command = [sys.executable, "-m", "autograder.cli", "grade", str(handed_in), "--out", str(out), *limits]
    done = subprocess.run(command, capture_output=True, text=True, timeout=570)
    graded = json.loads((out / "grades.json").read_text())["graded"]
    return done, {one["student"]: one for one in graded}, [json.loads(one) for one in done.stdout.splitlines()], out


def earned(one):
    return {mark["exercise"]: mark["earned"] for mark in one["marks"]}


def all_but(*lost):
    return {exercise: 0 if exercise in lost else points for exercise, points in POINTS.items()}


def told(one):
    """All that the student is told, in one text."""
    messages = [one["reason"], *one["notes"], *(breach["message"] for breach in one["breaches"])]
    messages += [text for mark in one["marks"] for text in mark["messages"]]
    messages += [part["because"] for mark in one["marks"] for part in mark["criteria"]]
    return " ".join(messages)


def test_the_run_ends_and_everybody_has_a_result(run):
    done, graded, lines, out = run
    assert done.returncode == 3 and not done.stderr, done.stderr
    assert set(graded) == set(EVERYBODY)
    assert lines[-1]["finished"] and [
        (NO_NOTEBOOK in path, "hand in" in why) for path, why in lines[-1]["unplaced"]
    ] == [(True, True)]
    assert all((out / "feedback" / one / FOLDER / f"{FOLDER}.html").is_file() for one in EVERYBODY)


def test_the_honest_student_among_them_has_full_marks_and_nothing_to_read(run):
    one = run[1][HONEST]
    assert earned(one) == POINTS and one["status"] == "graded"
    assert not one["breaches"] and not one["notes"] and not one["reason"]


@pytest.mark.parametrize("fault", STOPPED)
def test_a_cell_that_is_stopped_costs_its_exercise_and_no_other(fault, run):
    one = run[1][fault]
    assert earned(one) == all_but(HIT), one["breaches"]
    assert one["status"] == "partly graded"
    assert re.search(STOPPED[fault][1], one["reason"]), one["reason"]
    assert {breach["exercise"] for breach in one["breaches"]} == {HIT}


@pytest.mark.parametrize("fault", INSIDE)
def test_an_answer_that_fails_when_called_costs_its_exercise_and_no_other(fault, run):
    one = run[1][fault]
    assert earned(one) == all_but(HIT), one["breaches"]
    assert re.search(INSIDE[fault][1], told(one)), told(one)


@pytest.mark.parametrize("fault", {**HARMLESS, **OWN_CELLS})
def test_what_does_not_hinder_an_answer_costs_nothing(fault, run):
    one, (_, words) = run[1][fault], {**HARMLESS, **OWN_CELLS}[fault]
    assert earned(one) == POINTS, one["breaches"]
    assert one["status"] == "graded"
    assert re.search(words, told(one)), told(one)


@pytest.mark.parametrize("fault", MENDED)
def test_a_notebook_that_can_be_mended_is_mended(fault, run):
    one, (_, lost, words) = run[1][fault], MENDED[fault]
    assert earned(one) == all_but(*lost)
    assert one["status"] == "graded" and re.search(words, " ".join(one["notes"])), one["notes"]


@pytest.mark.parametrize("fault", FILES)
def test_a_file_is_read_or_its_student_learns_why_not(fault, run):
    one, (_, lost, words) = run[1][fault], FILES[fault]
    assert earned(one) == all_but(*lost)
    assert one["status"] == ("failed" if lost is POINTS else "graded")
    assert re.search(words, told(one)), told(one)


def test_a_renamed_file_is_found(run):
    one = run[1][RENAMED]
    assert earned(one) == POINTS and "homework final(2).ipynb" in " ".join(one["notes"])
