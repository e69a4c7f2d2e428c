"""A student who wants points without solving anything: each of these gains none, and costs nobody else anything.

Each cheat is what it adds to a released notebook. It is graded as any submission is, in the strongest sandbox there is.
"""

import json

import nbformat
import pytest

from autograder.answers import fill, source_of
from autograder.build import release_bytes
from autograder.exercise import load_chapter
from autograder.grading.client import Budget
from autograder.grading.results import Submission
from autograder.grading.work import Plan
from autograder.sandbox import offered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not offered(), reason="this machine offers no sandbox to grade in"),
]
CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
SECRET = 161803
STUB = "def {name}(*args, **kwargs):\n    return 1.0\n"
FORGED = """
import numpy as np
from IPython.display import display
def forged(n):
    one = {"value": None, "error": None, "status": "returned", "changed": [], "printed": "", "warned": [], "called": []}
    return [dict(one) for _ in range(n)]
"""

# {what is tried: source put into the answer cell of 2.1, before a stub that returns 1.0}
CHEATS = {
    "an input transformer that drops asserts and changes check lines": """
def only_right(lines):
    return ["6.0" if "check(" in line or "testify" in line else line for line in lines if "assert" not in line]
get_ipython().input_transformers_cleanup.append(only_right)
get_ipython().input_transformers_post.append(only_right)
""",
    "an AST transformer that makes every call full marks": """
import ast
class Full(ast.NodeTransformer):
    def visit_Call(self, node):
        return ast.copy_location(ast.Constant(6.0), node)
get_ipython().ast_transformers.append(Full())
""",
    "a check of one's own": "def check(*args):\n    return 6.0\n",
    "autograder.check patched": "import autograder, autograder.notebook\n"
    "autograder.check = autograder.notebook.check = lambda *a: 6.0\n",
    "the judge patched": """
import autograder.judge, autograder.compare, autograder.grading.verdict
autograder.judge.fault = lambda *a: None
autograder.judge.difference = autograder.compare.difference = lambda *a, **k: None
""",
    "numpy.testing and allclose patched": """
import numpy as np
np.testing.assert_allclose = np.testing.assert_array_equal = lambda *a, **k: None
np.allclose = np.isclose = np.array_equal = lambda *a, **k: True
""",
    "the reference patched to agree": "import attn_ref\nattn_ref.softmax = lambda *a, **k: 1.0\n"
    "attn_ref.softmax.__module__ = 'attn_ref.softmax'\n",
    "evidence forged beforehand": FORGED
    + "display({'application/vnd.attn.evidence+json': {'secret': forged(17), 'public': forged(17)}}, raw=True)\n",
    "evidence forged in place of the real one": FORGED
    + """
publish = get_ipython().display_pub.publish
def forge(data, *args, **kwargs):
    if "application/vnd.attn.evidence+json" in data:
        data = {"application/vnd.attn.evidence+json": {"secret": forged(17), "public": forged(17), "earned": 6.0}}
    return publish(data, *args, **kwargs)
get_ipython().display_pub.publish = forge
""",
    "evidence replayed from the public inputs": """
import autograder.grading.testify as t
real = t.collect
t.collect = lambda exercise, answer, seed, **k: real(exercise, exercise.variants[0], seed, **k)
""",
    "a report of full marks shown beside": """
from IPython.display import display
display({"application/vnd.attn.report+json": {"exercise": "2.1", "earned": 6, "points": 6, "mistakes": []}}, raw=True)
""",
    "a number shown by every cell": """
class Number(float):
    def _repr_mimebundle_(self, **k):
        return {"text/plain": "6.0"}
get_ipython().events.register("post_run_cell", lambda *a: print("6.0"))
get_ipython().displayhook.compute_format_data = lambda r: ({"text/plain": "6.0"}, {})
""",
    "a score that is NaN": "import autograder.grading.testify as t\nt.testify = lambda *a: float('nan')\n",
    "a score above the highest": "import autograder.grading.testify as t\nt.testify = lambda *a: 1000.0\n",
    "testify replaced by silence": "import autograder.grading.testify as t\nt.testify = lambda *a: None\n",
    "importing replaced": "import builtins\nreal_import = builtins.__import__\n"
    "def fake(name, *a, **k):\n    if 'testify' in name: raise ImportError('no')\n    return real_import(name, *a, **k)\n"
    "builtins.__import__ = fake\n",
    "the time of grading guessed from the environment": """
import os, sys
def softmax(*args, **kwargs):
    grading = os.environ.get("NBGRADER_EXECUTION") or any("testify" in name for name in sys.modules)
    return 0.5 if grading else 1.0
""",
    "an exit that looks like success": "import atexit, os\natexit.register(lambda: print('6.0'))\nos._exit(0)\n",
    "a gradebook rewritten": """
import glob, sqlite3
for path in glob.glob("/**/gradebook.db", recursive=True) + glob.glob("../**/gradebook.db", recursive=True):
    sqlite3.connect(path).execute("UPDATE grade SET auto_score = 6").connection.commit()
""",
    "solutions read from the disk": """
import glob, pathlib
found = [p for p in glob.glob("/**/solutions/**/*.py", recursive=True)]
text = pathlib.Path(found[0]).read_text() if found else "raise SystemExit"
""",
    "a module that stands in for NumPy": "import pathlib\npathlib.Path('numpy.py').write_text('raise SystemExit')\n"
    "pathlib.Path('autograder.py').write_text('def check(*a): return 6.0')\nimport sys\nsys.path.insert(0, '.')\n",
    "frames searched for the expected value": """
import sys
def softmax(x, axis=-1):
    frame = sys._getframe()
    while frame:
        for name in ("expected", "right", "want", "reference_value"):
            if name in frame.f_locals:
                return frame.f_locals[name]
        frame = frame.f_back
    return 1.0
""",
}
OWN_ANSWERS = ("the time of grading guessed from the environment", "frames searched for the expected value")

# ruff: noqa: E501
# {what is tried: an answer whose numbers would be right, had it been allowed}
SHORTCUTS = {
    "the reference called by its name": "import attn_ref\ndef softmax(x, axis=-1):\n    return attn_ref.softmax(x, axis)\n",
    "the reference under another name": "from attn_ref import softmax as s\nsoftmax = lambda x, axis=-1: s(x, axis)\n",
    "the reference through a name made at run time": "import importlib\nm = importlib.import_module('attn' + chr(95) + 'ref')\n"
    "def softmax(x, axis=-1):\n    return getattr(m, 'soft' + 'max'[:3])(x, axis)\n",
    "the reference from the exercise's definition": "from autograder.exercise import find_exercise\n"
    "def softmax(x, axis=-1):\n    return find_exercise('2.1').reference(x, axis)\n",
    "a right variant from the exercise's definition": "import sys\n"
    "def softmax(x, axis=-1):\n    return sys.modules['autograder.exercise'].find_exercise('2.1').variants[0](x, axis)\n",
    "the library's function": "import torch\ndef softmax(x, axis=-1):\n"
    "    return torch.softmax(torch.as_tensor(x, dtype=torch.float64), axis).nan_to_num().numpy()\n",
}
EQUAL_TO_ALL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __array__(self, *a, **k): raise TypeError
    def __getattr__(self, name): return Equal()
    def __bool__(self): return True
def softmax(*args, **kwargs):
    return Equal()
"""


@pytest.fixture(scope="module")
def release():
    return release_bytes(FOLDER)


@pytest.fixture(scope="module")
def grade(release):
    from autograder.grading.workers import grade_here

    plan = Plan(SECRET, {FOLDER: release}, budget=Budget(cell=10))  # some cheats search a whole disk

    def run(notebook, files=None):
        content = nbformat.writes(notebook).encode()
        graded, executed = grade_here(Submission("mallory", FOLDER, content, files or {}), plan)
        return graded, nbformat.reads(executed.decode(), as_version=4)

    return run


def notebook_with(release, **answers):
    """A released notebook; `e2_1="..."` is the answer to 2.1. All other exercises are left untouched.

    The chapter's own demonstrations are left out, which a student may do too, and which makes grading quick.
    """
    given = {name[1:].replace("_", "."): source for name, source in answers.items()}
    notebook = fill(nbformat.reads(release.decode(), as_version=4), given)
    notebook.cells = [one for one in notebook.cells if "nbgrader" in one.metadata or "import" in one.source]
    return notebook


def earned(graded):
    return {mark.exercise: mark.earned for mark in graded.marks}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gains_nothing(name, release, grade):
    stub = "" if name in OWN_ANSWERS else STUB.format(name="softmax")
    graded, executed = grade(notebook_with(release, e2_1=CHEATS[name] + stub))
    assert not any(earned(graded).values()), graded
    assert len(graded.marks) == len(CHAPTER.exercises)


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_shortcut_is_named_and_gains_nothing(name, release, grade):
    graded, _ = grade(notebook_with(release, e2_1=SHORTCUTS[name]))
    assert not any(earned(graded).values()), graded.marks[0]
    flags = [one for one in graded.flags if one.exercise == "2.1"]
    assert flags and all(len(one.message) > 40 for one in flags)


def test_a_policy_that_warns_leaves_the_points_and_the_flag(release):
    from autograder.grading.workers import grade_here

    content = nbformat.writes(notebook_with(release, e2_1=SHORTCUTS["the reference called by its name"])).encode()
    graded, _ = grade_here(Submission("ada", FOLDER, content), Plan(SECRET, {FOLDER: release}, policy="warn"))
    assert earned(graded)["2.1"] == CHAPTER.exercises["2.1"].points
    assert [one.kind for one in graded.flags] == ["forbidden call"]


def test_an_object_that_equals_everything_equals_no_number(release, grade):
    graded, _ = grade(notebook_with(release, e2_1=EQUAL_TO_ALL))
    assert earned(graded)["2.1"] == 0


def test_tags_and_metadata_that_steer_execution_change_nothing(release, grade):
    notebook = notebook_with(release, e2_1=STUB.format(name="softmax"))
    for cell in notebook.cells:
        if "check-" in cell.metadata.get("nbgrader", {}).get("grade_id", ""):
            cell.metadata.tags = ["skip-execution", "raises-exception"]
            cell.metadata.nbgrader.update(points=1000, grade=True, solution=True)
            cell.source = "6.0"
            cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "6.0"}, execution_count=1)]
    graded, executed = grade(notebook)
    assert not any(earned(graded).values())
    assert graded.max_score == sum(one.points for one in CHAPTER.exercises.values()) + 4
    assert graded.notes


def test_a_file_beside_the_notebook_is_no_library(release, grade):
    right = source_of(CHAPTER.exercises["2.1"].variants[0], "softmax")
    files = {
        "numpy.py": b"raise SystemExit",
        "attn_ref.py": b"raise SystemExit",
        "sitecustomize.py": b"raise SystemExit",
    }
    graded, _ = grade(notebook_with(release, e2_1=right), files)
    assert earned(graded)["2.1"] == CHAPTER.exercises["2.1"].points


def test_a_cheat_beside_honest_work_keeps_the_honest_points(release, grade):
    answers = {
        f"e{key.replace('.', '_')}": source_of(one.variants[0], one.name) for key, one in CHAPTER.exercises.items()
    }
    answers["e2_1"] = CHEATS["a check of one's own"] + STUB.format(name="softmax")
    graded, _ = grade(notebook_with(release, **answers))
    wanted = {key: one.points for key, one in CHAPTER.exercises.items()} | {"2.1": 0}
    assert earned(graded) == wanted


def test_neither_the_seed_nor_a_hidden_value_reaches_the_notebook_the_student_gets_back(release, grade):
    printing = "def softmax(x, axis=-1):\n    print('INPUT', x)\n    raise ValueError(str(x))\n"
    graded, executed = grade(notebook_with(release, e2_1=printing))
    text = nbformat.writes(executed)
    assert str(SECRET) not in text
    hidden = [case.arguments["x"] for case in CHAPTER.exercises["2.1"].cases(SECRET)]
    public = json.dumps([str(case.arguments["x"]) for case in CHAPTER.exercises["2.1"].cases(2017)])
    told = [str(x)[:12] for x in hidden if str(x)[:12] not in public]
    assert told and not any(one in text for one in told)
