"""Running a notebook: outputs as nbgrader gives them, a breach costs its exercise alone, time and size are bounded."""

import copy
import gc
import itertools
import json
import re

import nbformat
import numpy as np
import pytest
import zmq.asyncio
from jupyter_core.utils import run_sync
from nbformat.v4 import new_code_cell, new_notebook

import attn_ref
from autograder.answers import fill, source_of
from autograder.build import ROOT, nbgrader_config, release_bytes
from autograder.exercise import chapters, load_chapter
from autograder.grading.client import KEPT, Budget, Client, KernelFailed
from autograder.grading.execute import KEPT_IN_ALL, examine
from autograder.grading.results import Graded, Submission
from autograder.grading.testify import EVIDENCE_TYPE
from autograder.grading.work import Plan, experiments, run_and_judge
from autograder.grading.workers import grade_here, warm_process
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import collect
from autograder.sandbox import Limits, kernel_manager, offered, strongest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not offered(), reason="this machine offers no sandbox to grade in"),
]
CHAPTER = load_chapter(2)
EXERCISES = CHAPTER.exercises
POINTS = {one.id: one.points for one in CHAPTER.exercises.values()}
RIGHT = {one.id: source_of(one.variants[0], one.name) for one in CHAPTER.exercises.values()}
IMPORTS = "import numpy as np"


def cell(source, name=None):
    """A code cell, with the name that nbgrader's metadata give it."""
    return new_code_cell(source, metadata={"nbgrader": {"grade_id": name}} if name else {})


def answered(*before, **changes):
    """A notebook of right answers, each with its check; `e2_1=source` is another answer, `before` are cells above."""
    given = RIGHT | {name[1:].replace("_", "."): source for name, source in changes.items()}
    cells = [cell(IMPORTS), *map(cell, before)]
    for exercise, source in given.items():
        slug = exercise.replace(".", "-")
        cells += [cell(source, f"exercise-{slug}"), cell(f'check("{exercise}")', f"check-{slug}")]
    return new_notebook(cells=cells)


def sandboxed_kernel():
    return kernel_manager(warm_process(), strongest(), Limits())


def graded(cells, skip=frozenset(), **budget):
    """The Graded of a notebook of chapter 2."""
    made, plan = Graded("ada", CHAPTER.folder), Plan(31, {}, budget=Budget(**budget))
    run_and_judge(made, cells, CHAPTER, plan, sandboxed_kernel, skip)
    return made


def examined(*sources, **budget):
    """(what came of it, the cells) of a notebook of plain cells."""
    notebook = new_notebook(cells=list(map(cell, sources)))
    found = run_sync(examine)(notebook, {"secret": 31, "public": SEED}, sandboxed_kernel, Budget(**budget))
    return found, notebook.cells


def defined(source, name):
    """The function that an answer's source defines."""
    names = {"np": np, "attn_ref": attn_ref}
    exec(source, names)
    return names[name]


def earned(made):
    return {mark.exercise: mark.earned for mark in made.marks}


def text_of(cell):
    return "".join(one.get("text", "") for one in cell.outputs)


def solution(chapter):
    return nbformat.read(ROOT / "solutions" / chapter.folder / f"{chapter.folder}.ipynb", as_version=4)


def is_progress(output):
    """The one output that differs: a check records its result for the learner, and evidence is not recorded."""
    return output.get("data", {}).get("text/plain", "").startswith("Your progress in chapter")


def joined(outputs):
    """Texts that follow one another on a stream as one: how a kernel cuts them up depends on how busy it is."""
    made = []
    for output in outputs:
        if made and output.get("name") and output.get("name") == made[-1].get("name"):
            made[-1]["text"] += output["text"]
        elif not is_progress(output):
            made.append(copy.deepcopy(output))
    return made


def shown(outputs, number):
    """What to compare of outputs. From chapter 03 on some cells measure, so numbers and pixels may differ."""
    if number < 3:
        return joined(outputs)
    text = re.sub(r"base64,[\w+/=]+", "base64,", json.dumps(joined(outputs), sort_keys=True))
    return re.sub(r"\d+(?:\.\d+)?(?:e[-+]\d+)?", "#", text)


@pytest.mark.parametrize("number", chapters())
def test_a_solution_is_right_and_shows_what_stock_nbgrader_shows(number, tmp_path, monkeypatch):
    """Stock nbgrader runs every cell. Ours passes over experiments, and nothing else may build on those."""
    from nbgrader.preprocessors import Execute

    for name in ("OMP", "OPENBLAS", "MKL"):  # as in ours: rounding errors, which some figures show, follow it
        monkeypatch.setenv(f"{name}_NUM_THREADS", "1")
    chapter = load_chapter(number)
    stock, ours = solution(chapter), solution(chapter)
    Execute(timeout=180, config=nbgrader_config()).preprocess(stock, {"metadata": {"path": str(tmp_path)}})
    made = Graded("ada", chapter.folder)
    run_and_judge(made, ours, chapter, Plan(31, {}), sandboxed_kernel, experiments(ours))
    assert [mark.exercise for mark in made.marks if mark.earned < mark.points] == [], made.breaches
    code = [(one, other) for one, other in zip(stock.cells, ours.cells, strict=True) if one.cell_type == "code"]
    assert len(code) > 15
    for one, other in code:
        assert "error" not in {output.output_type for output in one.outputs + other.outputs}, one.source
        if "experiment" not in one.metadata.get("tags", []):
            assert shown(one.outputs, number) == shown(other.outputs, number), one.source
            assert one.execution_count == other.execution_count
    assert any("image/png" in json.dumps(one.outputs) for one, _ in code), "figures are among what is compared"


def test_an_experiment_is_passed_over_unless_an_answer_needs_it():
    long = "import time\nHALF = 0.5\ntime.sleep(100)"
    notebook = answered(long)
    assert earned(graded(notebook, frozenset([long]), cell=5)) == POINTS
    assert "not run when a notebook is graded" in text_of(notebook.cells[1])
    needed = "HALF = 0.5\nprint('it ran')"
    notebook = answered(needed, e2_3=RIGHT["2.3"].replace("\n", "\n    assert HALF\n", 1))
    assert earned(graded(notebook, frozenset([needed]))) == POINTS
    assert text_of(notebook.cells[1]) == "it ran\n"


def test_a_check_runs_in_the_request_of_an_answer_that_only_defines_and_does_not_fail(monkeypatch):
    alone = []

    async def noting(self, index, count, exercise, seeds, *rest):
        alone.extend((exercise, purpose) for purpose in seeds)
        return await testify(self, index, count, exercise, seeds, *rest)

    testify = Client.testify
    monkeypatch.setattr(Client, "testify", noting)
    broken = RIGHT["2.4"] + "\nclass Broken:\n    1 / 0"
    wrong = source_of(EXERCISES["2.1"].mistakes[0].answer, "softmax")
    made = graded(answered(e2_1=wrong, e2_3=RIGHT["2.3"] + "\nprint('tried')", e2_4=broken))
    assert earned(made) == POINTS | {"2.1": earned(made)["2.1"]} and earned(made)["2.1"] < POINTS["2.1"]
    assert alone == [("2.1", "public"), ("2.3", "secret"), ("2.4", "secret")]


def test_what_a_check_draws_and_counts_is_not_the_next_cell_s():
    """One request or two, one look or two: the cells that follow have the same numbers, and show only their figures."""
    draws = RIGHT["2.1"].replace("\n", "\n    import matplotlib.pyplot as plt; plt.plot([1, 2])\n", 1)
    shown = []
    for extra, explained in itertools.product(("", "\npass"), (False, True)):
        cells = [cell(draws + extra, "exercise-2-1"), cell('check("2.1")', "check-2-1"), cell("len(In), sorted(Out)")]
        notebook = new_notebook(cells=[cell("import numpy as np, attn_ref"), *cells, cell("1 + 1")])
        seeds = {"secret": 31, "public": SEED}
        found = run_sync(examine)(notebook, seeds, sandboxed_kernel, Budget(), lambda *_, answer=explained: answer)
        evidence = found.evidence["2.1"]
        assert set(evidence) == ({"secret", "public"} if explained else {"secret"})
        assert all(one["status"] == "returned" for one in evidence["secret"])
        shown.append([one.outputs for one in notebook.cells])
    assert shown[1:] == shown[:1] * 3
    assert [one.execution_count for one in shown[0][3] + shown[0][4]] == [4, 5] and not shown[0][1]


def test_evidence_that_a_failing_answer_sends_itself_is_no_evidence():
    forged = f"""
class Forged:
    __import__("IPython").get_ipython().display_pub.publish({{"{EVIDENCE_TYPE}": {{"secret": "forged"}}}})
    1 / 0
"""
    notebook = new_notebook(cells=[cell(IMPORTS), cell(forged, "exercise-2-1"), cell('check("2.1")', "check-2-1")])
    found = run_sync(examine)(notebook, {"secret": 31, "public": SEED}, sandboxed_kernel, Budget())
    assert found.evidence["2.1"] == {"instead": ""}


def test_a_notebook_of_loops_ends_with_its_budget_and_says_so():
    loops = {f"e{exercise.replace('.', '_')}": source + "\nwhile True:\n    pass" for exercise, source in RIGHT.items()}
    made = graded(answered(**loops), cell=300, notebook=4)
    assert [one.kind for one in made.breaches] == ["submission too slow"] * len(POINTS)
    assert [one.exercise for one in made.breaches] == list(POINTS)
    assert all("whole notebook may take 4 seconds" in mark.messages[0] for mark in made.marks)
    assert made.status == "partly graded" and not any(earned(made).values())


def test_loops_beyond_the_budget_are_told_from_those_before():
    loops = {f"e{exercise.replace('.', '_')}": "while True:\n    pass" for exercise in RIGHT}
    made = graded(answered(**loops), cell=2, notebook=5)
    kinds = [one.kind for one in made.breaches]
    late = kinds.index("submission too slow")
    assert (
        1 <= late < len(POINTS) and set(kinds[:late]) == {"too slow"} and set(kinds[late:]) == {"submission too slow"}
    )
    assert [one.exercise for one in made.breaches] == list(POINTS)
    assert "stopped after 2 seconds" in made.marks[0].messages[0]


def test_loops_in_functions_are_stopped_one_by_one():
    loop = "def {}(*args, **kwargs):\n    while True:\n        pass"
    loops = {f"e{one.id.replace('.', '_')}": loop.format(one.name) for one in CHAPTER.exercises.values()}
    made = graded(answered(**loops | {"e2_6": RIGHT["2.6"]}), cell=1, notebook=60)
    assert earned(made) == {exercise: POINTS[exercise] if exercise == "2.6" else 0 for exercise in POINTS}
    assert all("stopped after 1 seconds" in mark.messages[0] for mark in made.marks if not mark.earned)


def test_an_answer_may_build_on_an_earlier_one_though_the_kernel_died_between():
    building = "def attention(q, k, v):\n    weights = softmax(attention_scores(q, k))\n    return weights @ v, weights"
    made = graded(answered(e2_2=RIGHT["2.2"] + "\nimport os\nos._exit(1)", e2_4=building))
    assert earned(made) == POINTS | {"2.2": 0}


def test_a_cell_shows_what_its_first_run_gave_though_it_ran_again():
    died = "import os\nos._exit(0)"
    found, cells = examined("import time\nx = time.time_ns()\nprint(x)", died, "print(x)", died, "print(x)")
    first, _, second, _, third = map(text_of, cells)
    assert 0 < int(first) < int(second) < int(third)
    assert [one.kind for one in found.breaches] == ["died", "died"]


def test_a_cell_that_runs_on_is_interrupted_and_keeps_what_it_defined():
    found, cells = examined("x = 3\nprint('so far')\nwhile True:\n    pass", "print(x)", cell=1)
    assert text_of(cells[0]) == "so far\n" and text_of(cells[1]) == "3\n"
    assert [(one.kind, one.cell) for one in found.breaches] == [("too slow", "x = 3")]


def test_an_answer_that_ends_python_in_its_check_keeps_what_its_other_cases_earn():
    ends = """
def logsumexp(x, axis=-1):
    import os
    if x.ndim > 2:
        os._exit(0)
    return attn_ref.scores.np.logaddexp.reduce(x, axis=axis)
"""
    made = graded(answered("import attn_ref", e2_2=ends))
    apart = judge(EXERCISES["2.2"], 31, collect(EXERCISES["2.2"], defined(ends, "logsumexp"), 31))
    assert 0 < apart.earned < POINTS["2.2"], "the check at home runs each answer apart"
    assert earned(made) == POINTS | {"2.2": apart.earned}


def test_an_answer_that_ends_python_a_moment_later_costs_no_other_exercise():
    later = """
def logsumexp(x, axis=-1):
    import os, threading
    threading.Timer(0.05, os._exit, [0]).start()
    return np.logaddexp.reduce(x, axis=axis)
"""
    slow = RIGHT["2.3"].replace("\n", "\n    __import__('time').sleep(0.05)\n", 1)
    found = earned(graded(answered(e2_2=later, e2_3=slow)))
    assert found == POINTS | {"2.2": found["2.2"]}, "its own points depend on how fast the machine is"


def test_what_an_answer_sets_in_its_check_is_put_back_before_the_next():
    sets = """
def softmax(x, axis=-1):
    import sys, torch
    torch.set_default_dtype(torch.float16)
    sys.setrecursionlimit(60)
    np.set_printoptions(precision=1)
    e = np.exp(x - np.nan_to_num(x.max(axis=axis, keepdims=True), neginf=0))
    total = e.sum(axis=axis, keepdims=True)
    return e / np.where(total > 0, total, 1)
"""
    notebook = answered("import sys, torch", e2_1=sets)
    notebook.cells.append(cell("print(torch.get_default_dtype(), sys.getrecursionlimit() > 500, np.array([1 / 3]))"))
    assert earned(graded(notebook)) == POINTS
    assert text_of(notebook.cells[-1]) == "torch.float32 True [0.33333333]\n"


def test_an_answer_that_spoils_the_kernel_for_others_is_left_out():
    for spoiling in ("import sys\nsys.stdout = None", "get_ipython().display_pub = None"):
        made = graded(answered(e2_3=f"{RIGHT['2.3']}\n{spoiling}"), cell=2)
        assert earned(made) == POINTS | {"2.3": 0}, made.breaches


@pytest.mark.parametrize("kind", ["display_data", "stream", "error", "execute_result", "clear_output", "comm_open"])
def test_messages_that_no_notebook_sends_cost_their_exercise(kind):
    forging = f"""
kernel = get_ipython().kernel
for content in ({{}}, {{"data": 3, "transient": 7}}, {{"name": 1, "text": 2}}, {{"ename": None, "traceback": 5}}):
    kernel.session.send(kernel.iopub_socket, {kind!r}, content=content, parent=kernel.get_parent())
"""
    made = graded(answered(e2_3=RIGHT["2.3"] + forging))
    assert earned(made) in (POINTS, POINTS | {"2.3": 0})
    assert {one.exercise for one in made.breaches} <= {"2.3"}


def test_outputs_of_a_notebook_are_bounded_together():
    html = "from IPython.display import HTML, display\ndisplay(HTML('x' * 3 * 2**20))"
    found, cells = examined(*[html] * 12)
    kept = len(json.dumps(cells))
    assert KEPT_IN_ALL / 2 < kept < KEPT_IN_ALL + 4 * 2**20
    assert not found.breaches
    assert "left out: this notebook has more than 20 MiB" in text_of(cells[-1])


def test_outputs_that_are_kept_stay_though_later_ones_are_too_many_and_the_kernel_dies():
    html = "from IPython.display import HTML, display\ndisplay(HTML('x' * 3 * 2**20))"
    _, cells = examined("print('early')", *[html] * 7, "import os; os._exit(0)", "print('late')")
    assert text_of(cells[0]) == "early\n" and "left out" in text_of(cells[-1])


def test_long_text_is_cut_and_says_so():
    long = "x" * (50 * KEPT)
    _, cells = examined(
        f"print({long!r})", f"raise ValueError({long!r})", f"class A:\n  __repr__ = lambda s: {long!r}\nA()"
    )
    for one in cells:
        assert len(json.dumps(one.outputs)) < 6 * KEPT, one.outputs[0].output_type
        assert "more characters were left out" in json.dumps(one.outputs)


@pytest.mark.parametrize("shape", ["(500, 1000)", "(2000, 2000)"])
def test_large_values_are_judged_or_refused_and_cost_nobody_else(shape):
    made = graded(answered(e2_1=f"def softmax(x, axis=-1):\n    return np.ones({shape})"))
    assert earned(made) == POINTS | {"2.1": 0}


def test_files_that_were_handed_in_are_there_again_after_a_breach():
    reading = "assert open('data/a.csv').read() == '1,2'\n"
    cells = answered(e2_2="import os\nos._exit(0)", e2_4=reading + RIGHT["2.4"])
    release = release_bytes(CHAPTER.folder)
    given = {one.metadata.nbgrader.grade_id[9:].replace("-", "."): one.source for one in cells.cells[1::2]}
    notebook = fill(nbformat.reads(release.decode(), as_version=4), given)
    handed = Submission("ada", CHAPTER.folder, nbformat.writes(notebook).encode(), {"data/a.csv": b"1,2"})
    made, _ = grade_here(handed, Plan(31, {CHAPTER.folder: release}))
    assert earned(made) == POINTS | {"2.2": 0}


@pytest.mark.parametrize("source", ["1 + 1", "import os; os._exit(0)", "while True: pass", "print('x' * 10**8)"])
def test_sockets_are_closed_however_a_kernel_ends(monkeypatch, source):
    """Those left to the garbage collector can stop the grader for good: ZeroMQ waits until the last one is closed."""
    made = []

    class Context(zmq.asyncio.Context):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(zmq.asyncio, "Context", Context)
    examined(source, cell=1)
    assert made and all(one.closed for one in made)


def test_a_breach_leaves_nothing_on_the_terminal(capfd, caplog):
    examined("import sys; sys.stdout = None", "print(1)", "print(2)", cell=1)
    examined("import os; os._exit(0)", "while True: print('x' * 10**6)")
    gc.collect()  # when asyncio complains of tasks that nobody waited for
    said = capfd.readouterr()
    assert said.out == said.err == ""
    assert [one.getMessage() for one in caplog.records if one.name == "asyncio"] == []


def test_a_kernel_that_cannot_be_started_is_nobodys_fault():
    class Broken(type(sandboxed_kernel())):
        async def start_kernel(self, **kwargs):
            raise OSError("no room")

    with pytest.raises(KernelFailed, match="no room"):
        run_sync(examine)(new_notebook(cells=[cell("1")]), {}, lambda: Broken(kernel_name="python3"), Budget())


@pytest.mark.parametrize("number", chapters())
def test_a_released_notebook_filled_with_other_right_answers_gets_full_marks(number):
    chapter = load_chapter(number)
    release = nbformat.reads(release_bytes(chapter.folder).decode(), as_version=4)
    given = {one.id: source_of(one.variants[-1], one.name) for one in chapter.exercises.values()}
    made, filled = Graded("ada", chapter.folder), fill(release, given)
    run_and_judge(made, filled, chapter, Plan(31, {}), sandboxed_kernel, experiments(release))
    assert [mark.exercise for mark in made.marks if mark.earned < mark.points] == [], made.breaches
    outputs = [output for cell in filled.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
