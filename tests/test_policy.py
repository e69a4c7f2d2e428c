"""Forbidden calls are found however they are named, and nothing else is; answers that are alike are found."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import attn_ref
from autograder.answers import source_of
from autograder.exercise import find_exercise
from autograder.forbidden import Forbidden
from autograder.grading import copies, policy
from autograder.grading.results import Flag
from autograder.traps import traps
from tests.conftest import EXERCISES, PROOFS

HEAD = "import numpy as np\n\nimport attn_ref\nfrom attn_ref import plots, sentence\nfrom autograder import check, hint"
STUB = "def softmax(x, axis=-1):\n    raise NotImplementedError"


def kinds(source, *before, exercise="2.1", after=()):
    """What kinds of flags an answer draws, with cells before and after it."""
    source = textwrap.dedent(source)
    flags = policy.forbidden_calls(find_exercise(exercise), source, [HEAD, *before, source, *after])
    return [flag.kind for flag in flags]


@pytest.fixture(scope="module")
def published():
    """{exercise id: [source of the solution]}, from the chapters' texts."""
    found = {}
    for text in Path(__file__).parent.parent.glob("solutions/*/*.py"):
        for cell in re.split(r"(?m)^# %%", text.read_text(encoding="utf-8")):
            if marker := re.match(r' exercise="(.+?)"', cell):
                found[marker[1]] = [cell.split("\n", 1)[1]]
    return found


# The exercises' own answers


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_no_right_variant_is_forbidden(exercise):
    for variant in exercise.variants:
        assert policy.forbidden_calls(exercise, source_of(variant, exercise.name), [HEAD]) == [], variant.__name__


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_mistake_is_forbidden_only_where_its_definition_borrows_the_reference(exercise):
    forbidden = Forbidden(exercise)
    for mistake in exercise.mistakes:
        source = source_of(mistake.answer, exercise.name)
        names = "|".join([*forbidden.of_attn_ref, *(name.rpartition(".")[2] for name in exercise.forbids)])
        borrows = re.search(rf"\battn_ref\.(?:\w+\.)*(?:{names})\(", source) is not None
        assert bool(policy.forbidden_calls(exercise, source, [HEAD])) == borrows, mistake.name


def test_every_published_solution_is_allowed(published):
    cells = [HEAD, *(source for sources in published.values() for source in sources)]
    for exercise in EXERCISES:
        assert policy.forbidden_calls(exercise, published[exercise.id][0], cells) == []


def test_every_forbidden_name_exists():
    """A name that nothing has would forbid nothing."""
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    from importlib import import_module

    for name in {name for exercise in EXERCISES for name in exercise.forbids}:
        parts = name.split(".")
        owner = import_module(parts[0])
        for place, part in enumerate(parts[1:], 1):
            if not hasattr(owner, part):
                import_module(".".join(parts[: place + 1]))
            owner = getattr(owner, part)


# What is found

BORROWED = {  # what stands before, and what softmax(x, axis=-1) returns
    "by its public name": ("", "attn_ref.softmax(x, axis)"),
    "by its module": ("from attn_ref.softmax import softmax as s", "s(x, axis)"),
    "from another file of attn_ref": ("import attn_ref.attention as a", "a.softmax(x)"),
    "import as": ("import torch.nn.functional as F", "F.softmax(x, axis).numpy()"),
    "import and all the way": ("import torch", "torch.nn.functional.softmax(x, axis)"),
    "from import as": ("from scipy.special import softmax as s", "s(x, axis)"),
    "two steps": ("import torch\nnn = torch.nn\nF = nn.functional", "F.softmax(x, axis)"),
    "kept under another name": ("from attn_ref import softmax\nkept = softmax", "kept(x, axis)"),
    "a tuple of names": ("a, b = attn_ref, 3", "a.softmax(x, b)"),
    "a walrus": ("", "(f := attn_ref).softmax(x)"),
    "getattr": ("", "getattr(attn_ref, 'soft' + 'max')(x, axis)"),
    "getattr with an f-string": ("", "getattr(attn_ref, f\"{'soft'}max\")(x, axis)"),
    "importlib": ("import importlib", "importlib.import_module('scipy.' + 'special').softmax(x)"),
    "__import__": ("", "__import__('scipy.special', fromlist=['softmax']).softmax(x)"),
    "__import__ of the root": ("", "__import__('scipy.special').special.softmax(x)"),
    "sys.modules": ("import sys", "sys.modules['attn_ref'].softmax(x)"),
    "vars": ("", "vars(attn_ref)['softmax'](x)"),
    "__dict__": ("", "attn_ref.__dict__['softmax'](x)"),
    "globals": ("", "globals()['attn_ref'].softmax(x)"),
    "a star": ("from scipy.special import *", "log_softmax(x)"),
    "handed to map": ("", "np.array(list(map(attn_ref.softmax, x)))"),
    "one of two": ("", "(attn_ref.softmax if axis == -1 else None)(x)"),
    "a layer": ("import torch\nlayer = torch.nn.Softmax(-1)", "layer(x)"),
    "a table of functions": ("tools = {'s': attn_ref.softmax}", "tools['s'](x)"),
    "the definition's reference": ("from autograder import exercise as e", "e.find_exercise('2.1').reference(x)"),
    "the check's insides": ("", "check.__globals__['find_exercise']('2.1').reference(x, axis)"),
    "try and except": ("try:\n    import torch as t\nexcept ImportError:\n    t = None", "t.softmax(x, axis)"),
    "a magic beside it": ("%matplotlib inline", "attn_ref.softmax(x, axis)"),
}
BORROWED = {
    name: f"{before}\ndef softmax(x, axis=-1):\n    return {value}" for name, (before, value) in BORROWED.items()
}
BORROWED |= {
    "under the exercise's own name": "from attn_ref import softmax",
    "as a star of its own": "from scipy.special import *",
    "as an assignment": "softmax = attn_ref.softmax",
    "as a lambda": "softmax = lambda x, axis=-1: attn_ref.softmax(x, axis)",
    "as a partial": "import functools\nsoftmax = functools.partial(attn_ref.softmax, axis=-1)",
    "as a layer": "import torch\nsoftmax = torch.nn.Softmax(dim=-1)",
    "a default": "def softmax(x, axis=-1, f=attn_ref.softmax):\n    return f(x, axis)",
    "a function inside": """def softmax(x, axis=-1):
        def inner():
            return attn_ref.softmax(x)
        return inner()""",
    "an import inside": """def softmax(x, axis=-1):
        import torch
        nn = torch.nn
        F = nn.functional
        return F.softmax(x, axis)""",
    "a class": """class softmax:
        def __new__(cls, x, axis=-1):
            return attn_ref.softmax(x, axis)""",
}


@pytest.mark.parametrize("source", BORROWED.values(), ids=BORROWED)
def test_a_borrowed_softmax_is_found(source):
    assert "forbidden call" in kinds(source)


def test_imports_and_helpers_of_other_cells_are_followed():
    helper = "import torch.nn.functional as F\ndef share(x, axis):\n    return F.softmax(x, dim=axis)"
    assert kinds("def softmax(x, axis=-1):\n    return share(x, axis)", helper) == ["forbidden call"]


def test_attention_by_torch_is_found_in_the_exercise_that_writes_it():
    source = """
        from torch.nn.functional import scaled_dot_product_attention as sdpa
        def attention(q, k, v):
            return sdpa(q, k, v), None
    """
    assert kinds(source, exercise="2.4") == ["forbidden call"]
    assert kinds(source.replace("def attention", "def soft_lookup"), exercise="1.3") == []


def test_the_message_names_call_line_and_what_to_write():
    (flag,) = policy.forbidden_calls(find_exercise("2.1"), BORROWED["by its public name"], [HEAD])
    assert "`attn_ref.softmax(x, axis)`" not in flag.message and "`attn_ref.softmax`" in flag.message
    assert "(line 3)" in flag.message and "Write `softmax` yourself" in flag.message and flag.exercise == "2.1"


# What only running would tell

MADE_UP = {
    "exec": ("", "exec('y = 1')"),
    "eval": ("", "eval('attn_ref.soft' + 'max')(x)"),
    "getattr of a made-up name": ("", "getattr(attn_ref, ''.join(['soft', 'max']))(x)"),
    "import of a made-up name": ("import importlib", "importlib.import_module(chr(97))"),
    "globals of a made-up name": ("", "globals()[str(axis)](x)"),
    "a made-up module": ("import sys", "sys.modules[str(axis)]"),
    "an item of a module": ("", "vars(attn_ref)[str(axis)](x)"),
    "endless doubling": ("a0 = np\n" + "".join(f"a{i + 1} = a{i}.x if a0 else a{i}.y\n" for i in range(40)), "a40(x)"),
    "too deep": ("", "-" * 3000 + "x"),
    "too long": ("#" * 5_000_000, "x"),
}
MADE_UP = {name: f"{before}\ndef softmax(x, axis=-1):\n    return {value}" for name, (before, value) in MADE_UP.items()}


@pytest.mark.parametrize("source", MADE_UP.values(), ids=MADE_UP)
def test_what_cannot_be_read_is_said_softly(source):
    assert kinds(source) == ["cannot be read"]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def softmax(",
        "\x00",
        "(" * 10_000,
        "def f():\n" + " " * 300 + "pass",
        "é\udcff",
        "%%html\n<b>",
        "return",
        "\f",
    ],
)
def test_a_broken_source_raises_nothing(source):
    exercise = find_exercise("2.1")
    assert all(isinstance(flag, Flag) for flag in policy.forbidden_calls(exercise, source, [HEAD, source]))
    assert policy.copies({("ada", "2.1"): source, ("bob", "2.1"): source}, {"2.1": [source]}) == []


# What is not found: nobody is accused of what they did not do

HONEST = {
    "the exercise itself": ("", "np.exp(x) / np.exp(x).sum(axis, keepdims=True)"),
    "a comment": ("", "x  # as attn_ref.softmax(x) does"),
    "a string": ("", "'see attn_ref.softmax(x)'"),
    "its own recursion": ("", "softmax(x[0]) if x.ndim > 1 else np.exp(x)"),
    "a method of that name": ("class Tool:\n    def softmax(self, x):\n        return x", "Tool().softmax(x)"),
    "a module under that name": ("import numpy as attn_ref", "attn_ref.softmax(x)"),
    "another function of the cell": ("def compare(x):\n    return attn_ref.softmax(x)", "x"),
    "its own logsumexp": ("", "np.exp(x - attn_ref.logsumexp(x, axis=axis)[..., None])"),
    "getattr on NumPy": ("", "getattr(np, 'e' + str(axis))(x)"),
    "a check inside": ("", "check('2.1', softmax) or x"),
    "a global computed before": ("weights = attn_ref.softmax(np.eye(2))", "np.exp(x) * weights.dtype.type(1)"),
}
HONEST = {name: f"{before}\ndef softmax(x, axis=-1):\n    return {value}" for name, (before, value) in HONEST.items()}
HONEST |= {
    "a docstring": "def softmax(x, axis=-1):\n    'like scipy.special.softmax(x)'\n    return x",
    "a parameter of that name": "def softmax(x, axis=-1, attn_ref=None):\n    return attn_ref.softmax(x)",
    "a comparison outside": "def softmax(x):\n    return x\nprint(softmax(np.eye(2)) - attn_ref.softmax(np.eye(2)))",
    "an annotation": "import torch\ndef softmax(x: torch.nn.Softmax, axis=-1) -> torch.softmax:\n    return x.exp()",
}


@pytest.mark.parametrize("source", HONEST.values(), ids=HONEST)
def test_an_honest_answer_draws_no_flag(source):
    assert kinds(source) == []


def test_what_runs_after_the_check_played_no_part():
    after = ['check("2.1", softmax)', "from attn_ref import softmax"]
    honest = "def softmax(x, axis=-1):\n    return softmax(x)"
    assert kinds(honest, after=after) == []
    assert kinds(honest, after=after[::-1]) == ["forbidden call"]


def test_an_import_before_the_answer_gives_way_to_it():
    later = "def attention(q, k, v):\n    return softmax(q @ k.T) @ v, None"
    assert kinds(later, "from attn_ref import softmax", STUB, exercise="2.1") == []


def test_reading_a_large_notebook_ends(tmp_path):
    cells = [f"def f{i}(x):\n    return f{i + 1}(x)\n" * 5 for i in range(2_000)]
    assert kinds("def softmax(x, axis=-1):\n    return f0(x)", *cells) in ([], ["cannot be read"])


# Copies

LONG = source_of(find_exercise("2.4").variants[0], "attention")
MIDDLE = source_of(find_exercise("2.3").variants[2], "attention_scores")
OTHER_NAMES = """
import numpy as np
def attention_scores(query: np.ndarray, keys, s=None) -> np.ndarray:
    '''My own words.'''
    result: np.ndarray = np.zeros((*query.shape[:-1], keys.shape[-2]))  # a table
    for *rest, a, b in np.ndindex(*result.shape):

        result[(*rest, a, b)] = sum(x * y for x, y in zip(query[(*rest, a)], keys[(*rest, b)], strict=True))
    return result * (query.shape[-1] ** -0.5 if s is None else s)
print(attention_scores(np.eye(2), np.eye(2)))
"""


def test_other_names_comments_and_prints_make_no_other_answer():
    assert policy.same_answer(MIDDLE, OTHER_NAMES)
    assert not policy.same_answer(MIDDLE, OTHER_NAMES.replace("x * y", "y * x"))
    assert policy.same_answer("def f(x, axis):\n    return x.sum(axis=axis)", "def g(y, a):\n    return y.sum(axis=a)")
    assert not policy.same_answer("", "") and not policy.same_answer("def f(", "def f(")


def test_two_names_that_are_one_elsewhere_make_another_answer():
    assert not policy.same_answer("def f(a, b):\n    return a - b", "def f(a, b):\n    return b - a")
    assert not policy.same_answer("def f(a, axis):\n    return a.sum(axis)", "def f(a, axis):\n    return a.sum(a)")


def test_the_published_solution_is_recognised(published):
    renamed = published["2.1"][0].replace("largest", "m").replace("exponentials", "e")
    flagged = policy.copies({("ada", "2.1"): renamed, ("bob", "2.1"): STUB}, published)
    assert [(student, flag.kind) for student, flag in flagged] == [("ada", "as published")]


def test_two_students_with_one_answer_are_both_named():
    answers = {("ada", "2.3"): MIDDLE, ("bob", "2.3"): OTHER_NAMES, ("cleo", "2.3"): STUB}
    flagged = dict(policy.copies(answers, {}))
    assert {student: flag.students for student, flag in flagged.items()} == {"ada": ["bob"], "bob": ["ada"]}
    assert flagged["ada"].kind == "as another student" and "bob" in flagged["ada"].message


def test_one_exercise_is_not_compared_with_another():
    assert policy.copies({("ada", "2.3"): MIDDLE, ("bob", "2.4"): MIDDLE}, {}) == []


def test_a_short_answer_is_nobodys():
    answers = {(student, "0.1"): "def pairwise_dot(x, y):\n    return x @ y.T" for student in ("ada", "bob")}
    assert policy.copies(answers, {"0.1": ["def pairwise_dot(a, b):\n    return a @ b.T"]}) == []


def test_what_everybody_writes_is_not_flagged_until_it_is_long():
    everybody = [f"student {i}" for i in range(20)]
    assert policy.copies({(one, "2.3"): MIDDLE for one in everybody}, {}) == []
    flagged = policy.copies({(one, "2.4"): LONG for one in everybody}, {})
    assert len(flagged) == 20 and all("and 9 more" in flag.message for _, flag in flagged)


@pytest.mark.parametrize("exercise", PROOFS)
def test_no_two_variants_are_alike(exercise):
    sources = [source_of(variant, exercise.name) for variant in exercise.variants]
    sources += [source_of(mistake.answer, exercise.name) for mistake in exercise.mistakes]
    alike = [(a, b) for a in sources for b in sources if a is not b and policy.same_answer(a, b)]
    assert alike == []


# Traps


def run(source, exercise_id, x, before=""):
    """The names that the traps catch when a learner's code is called as a check calls it, and what it returns."""
    exercise, names = find_exercise(exercise_id), {"np": np, "attn_ref": attn_ref}
    exec(compile(before, "/tmp/ipykernel_1/1.py", "exec"), names)
    exec(compile(source, "/tmp/ipykernel_1/2.py", "exec"), names)
    with traps(exercise) as caught:
        returned = exercise.call(names[exercise.name], {"x": x})
    return caught, returned


X = np.array([[0.0, np.log(3.0)]])


@pytest.mark.parametrize(
    "source",
    [
        "def softmax(x, axis=-1):\n    return attn_ref.softmax(x, axis)",
        "alias = attn_ref.softmax\ndef softmax(x, axis=-1):\n    return alias(x, axis)",
        "softmax = attn_ref.softmax",
        "def softmax(x, axis=-1):\n    return getattr(attn_ref, ''.join(['soft', 'max']))(x)",
        "def softmax(x, axis=-1):\n    return np.array([row for row in map(attn_ref.softmax, x)])",
        "def softmax(x, axis=-1):\n    return eval('attn_ref.softmax(x)')",
    ],
)
def test_a_call_of_the_reference_is_caught_and_changes_nothing(source):
    caught, returned = run(source, "2.1", X)
    assert caught == {"attn_ref.softmax"}
    np.testing.assert_allclose(returned, [[0.25, 0.75]])


def test_a_library_that_calls_itself_is_nobodys_shortcut():
    source = "def softmax(x, axis=-1):\n    return attn_ref.attention(x, x, x)"
    assert run(source, "2.1", X)[0] == set()


def test_torch_is_caught_by_function_method_and_class_and_not_from_within():
    torch = pytest.importorskip("torch")
    ask = "import torch\nimport torch.nn.functional as F\nfrom torch.nn.functional import softmax as kept\n"
    for call, name in {
        "F.softmax(x, -1)": "torch.nn.functional.softmax",
        "kept(x, -1)": "torch.nn.functional.softmax",
        "x.softmax(-1)": "torch.Tensor.softmax",
        "torch.softmax(x, -1)": "torch.softmax",
        "torch.nn.Softmax(-1)(x)": "torch.nn.Softmax",
        "torch.nn.MultiheadAttention(2, 1)(x, x, x)[0]": None,
    }.items():
        caught, returned = run(
            f"def softmax(x, axis=-1):\n    return {call}", "2.1", torch.tensor(X).float(), before=ask
        )
        assert caught == ({name} if name else set()), call
        assert returned.shape == (1, 2)


def test_a_function_with_free_variables_is_watched_as_well():
    stats = pytest.importorskip("scipy.stats")
    before = "from scipy.stats import entropy"
    caught, returned = run("def weights_entropy(x):\n    return entropy(x, axis=-1)", "2.6", X / X.sum(), before=before)
    assert caught == {"scipy.stats.entropy"} and stats.entropy.__code__.co_freevars
    np.testing.assert_allclose(returned, [0.0], atol=1e-12)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_an_answer_is_called_in_one_way_with_and_without_traps(exercise):
    """Its own reference is watched too, and that is what tells in which order arguments are passed."""
    arguments = exercise.cases(1)[0].arguments
    if exercise.drive is not None or isinstance(exercise.reference, type):
        pytest.skip("its probe says how the answer is called")

    def note(*positional, **named):
        return len(positional), sorted(named)

    plain = exercise.call(note, arguments)
    with traps(exercise):
        assert exercise.call(note, arguments) == plain


def test_everything_is_as_before_once_the_traps_are_gone():
    torch = pytest.importorskip("torch")
    watched = [attn_ref.softmax, torch.nn.functional.softmax]
    before = [(one.__code__, one.__defaults__, one.__kwdefaults__) for one in watched]
    descriptor, builtin = vars(torch.Tensor).get("softmax"), torch.softmax
    with pytest.raises(RuntimeError), traps(find_exercise("2.1")):
        assert attn_ref.softmax.__code__ is not before[0][0]
        raise RuntimeError
    assert [(one.__code__, one.__defaults__, one.__kwdefaults__) for one in watched] == before
    assert vars(torch.Tensor).get("softmax") is descriptor and torch.softmax is builtin


def test_an_error_inside_is_reported_at_the_learners_line():
    from autograder.runner import run_case

    names = {"attn_ref": attn_ref}
    exec(compile("def softmax(x, axis=-1):\n    return attn_ref.softmax(x, 7)", "/tmp/ipykernel_1/3.py", "exec"), names)
    with traps(find_exercise("2.1")):
        outcome = run_case(find_exercise("2.1"), names["softmax"], {"x": X})
    assert outcome.error["type"] == "ValueError" and outcome.error["lineno"] == 2


def test_what_was_caught_becomes_a_flag():
    (flag,) = policy.called(find_exercise("2.1"), {"attn_ref.softmax"})
    assert flag.kind == "forbidden call" and "`attn_ref.softmax`" in flag.message


def test_each_text_is_put_in_form_once(monkeypatch):
    """So that a class of thousands costs no more a student than a class of ten."""
    formed = []
    monkeypatch.setattr(copies, "form", lambda source: formed.append(source))
    texts = {(f"{i}", "2.3"): f"{MIDDLE}  # {i % 100}" for i in range(300)}
    copies.copies(texts, {"2.3": [LONG]})
    assert sorted(formed) == sorted({*texts.values(), LONG})
