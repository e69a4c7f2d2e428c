"""What `check` makes of answers of every kind. None may raise, reach stderr, stop the notebook or change its state."""

import contextlib
import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import attn_ref
from autograder import check, evidence, hint, progress, quiz, runner
from autograder.card import as_html, as_text
from autograder.evidence import Odd, Outcome, decode, encode, plain
from autograder.exercise import Exercise, find_exercise
from autograder.judge import judge
from autograder.record import standings


def double(x):
    """Twice x.  (n, d) -> (n, d)"""
    return 2 * x


def an_exercise(**options):
    exercise = Exercise("2.99", "Twice", reference=double, minutes=1, **options)

    @exercise.criterion("every entry is doubled", points=2)
    def values(rng):
        yield dict(x=np.array([[1.0, 2.0, 3.0]]))
        yield dict(x=rng.normal(size=(3, 2)))

    exercise.leaves_inputs_alone(points=1)

    @exercise.mistake("Twice, not thrice.")
    def thrice(x):
        return 3 * x

    exercise.hints("first", "second")
    return exercise


def verdict_on(answer, time_limit=5, **options):
    exercise = an_exercise(time_limit=time_limit, **options)
    return judge(exercise, 3, runner.collect(exercise, answer, 3))


def endless(x):
    while True:
        pass


def deaf_to_interrupts(x):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


def leaves(x):
    os._exit(0)


def kills_itself(x):
    os.kill(os.getpid(), 9)


def recurses(x):
    return recurses(x)


def in_place(x):
    x *= 2
    return x


def unprintable(x):
    class Nasty(Exception):
        def __str__(self):
            raise RuntimeError

    raise Nasty


WRONG = {
    "nothing": (lambda x: None, "yours is None"),
    "text": (lambda x: "2 4 6", "yours is the text"),
    "an object": (lambda x: object(), "yours is an object"),
    "a generator": ((lambda x: (2 * row for row in x)), "is a `yield` left in it?"),
    "a set": (lambda x: {1, 2}, "yours is a set"),
    "a shape of another order": (lambda x: 2 * x.T, "yours is (3, 1); the same axes in another order"),
    "an axis lost": (lambda x: (2 * x).ravel(), "was an axis lost"),
    "a single number": (lambda x: 2.0, "yours is the single number 2"),
    "truth values": (lambda x: x > 1, "True and False"),
    "NaN": (lambda x: x * np.nan, "yours is nan"),
    "infinity": (lambda x: x * np.inf, "yours is inf"),
    "complex numbers": (lambda x: 2 * x + 0j, "complex numbers"),
    "objects in an array": (lambda x: np.array([None, 1], dtype=object), "dtype object"),
    "a ragged list": (lambda x: [[1.0], [1.0, 2.0]], "ragged"),
    "a huge array": (lambda x: np.zeros(70 * 2**20 // 8), "MiB"),
    "half precision": (lambda x: (2 * x).astype(np.float16) + np.float16(0.001), "should be 2, yours is 2.00"),
    "an exception": (lambda x: x[7], "IndexError: index 7 is out of bounds"),
    "an exit": (lambda x: sys.exit(3), "SystemExit"),
    "a keyboard interrupt": (lambda x: exec("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "an error that cannot be printed": (unprintable, "cannot be shown"),
    "endless recursion": (recurses, "RecursionError"),
    "too many parameters": (lambda x, y: x, "missing 1 required positional argument"),
    "a name that does not exist": (lambda x: undefined_name, "NameError"),  # noqa: F821
}


@pytest.mark.parametrize("isolate", [True, False], ids=["in a child", "in place"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(kind, isolate, capfd):
    answer, expected = WRONG[kind]
    report = verdict_on(answer, isolate=isolate)
    assert report.earned == 0
    assert expected in report.verdicts[0].because
    assert capfd.readouterr().err == ""


def test_the_line_of_an_exception_is_shown():
    def answer(x):
        rows = len(x)
        return x.reshape(rows, 99)

    assert "return x.reshape(rows, 99)" in verdict_on(answer).verdicts[0].because


RIGHT = {
    "not contiguous": lambda x: np.stack([2 * x, x], axis=-1)[..., 0],
    "another memory order": lambda x: np.asfortranarray(2 * x),
    "nested lists": lambda x: (2 * x).tolist(),
    "a list of rows": lambda x: [2 * row for row in x],
    "a subclass of ndarray": lambda x: np.ma.masked_array(2 * x),
    "another parameter name": lambda numbers: 2 * numbers,
    "more parameters with defaults": lambda x, factor=2: factor * x,
    "printing": lambda x: print("looking at", x) or 2 * x,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_answer_in_another_form_gets_full_marks(kind):
    report = verdict_on(RIGHT[kind])
    assert report.full, report.verdicts


def test_a_torch_answer_counts_by_its_values():
    torch = pytest.importorskip("torch")
    assert verdict_on(lambda x: 2 * torch.from_numpy(x)).full
    assert (
        "right to the precision of float32"
        in verdict_on(lambda x: 2 * torch.tensor(x, dtype=torch.float32) / 3 * 3).verdicts[0].because
    )


def test_torch_in_the_notebook_with_its_threads_running_does_not_hang_a_check():
    torch = pytest.importorskip("torch")
    torch.ones(600, 600) @ torch.ones(600, 600)
    report = verdict_on(lambda x: (torch.ones(600, 600) @ torch.ones(600, 600)) and 2 * x, time_limit=20)
    assert "ambiguous" in report.verdicts[0].because  # it came back, with the error that this expression gives


def test_printing_is_shown_and_bounded():
    report = verdict_on(lambda x: print("a" * 10**6) or 2 * x)
    assert report.printed.startswith("aaa")
    assert len(report.printed) <= evidence.LONGEST_PRINT


def test_warnings_are_told_and_cost_nothing(capfd):
    def noisy(x):
        warnings.warn("careful", stacklevel=1)
        np.array([1.0]) / np.array([0.0])
        print("to stderr", file=sys.stderr)
        if runner.CAN_FORK:  # in place, what a C library writes by itself cannot be caught
            os.write(2, b"to the descriptor")
        return 2 * x

    assert verdict_on(noisy).full
    assert capfd.readouterr().err == ""
    assert "careful" in verdict_on(lambda x: warnings.warn("careful", stacklevel=1)).verdicts[0].because


deaf = pytest.param(deaf_to_interrupts, marks=pytest.mark.skipif(not runner.CAN_FORK, reason="needs a forked child"))


@pytest.mark.parametrize("answer", [endless, deaf])
def test_a_loop_ends_with_a_message(answer):
    started = time.monotonic()
    report = verdict_on(answer, time_limit=0.5)
    assert time.monotonic() - started < 5
    assert "did not finish in time" in report.verdicts[0].because


def test_a_loop_in_place_is_interrupted():
    report = verdict_on(endless, time_limit=0.5, isolate=False)
    assert "did not finish in time" in report.verdicts[0].because


def test_a_loop_on_one_case_leaves_the_cases_before_it_judged():
    def slow_on_the_second(x):
        return 2 * x if len(x) == 1 else endless(x)

    outcomes = runner.collect(an_exercise(time_limit=0.5), slow_on_the_second, 3)
    assert [outcome.status for outcome in outcomes] == ["returned", "too slow"]


@pytest.mark.skipif(not runner.CAN_FORK, reason="only a forked child can die alone")
@pytest.mark.parametrize("answer", [leaves, kills_itself])
def test_an_answer_that_ends_python_ends_only_its_child(answer):
    assert "Python itself stopped" in verdict_on(answer).verdicts[0].because


@pytest.mark.skipif(not runner.CAN_FORK, reason="only a forked child has a limit of its own")
def test_an_answer_that_takes_all_memory_gets_a_memory_error():
    assert "MemoryError" in verdict_on(lambda x: np.zeros(2**30)).verdicts[0].because


@pytest.mark.skipif(not runner.CAN_FORK, reason="only a forked child has a limit of its own")
def test_a_machine_with_a_lower_limit_of_its_own_still_checks():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30));"
        "import attn_ref; from autograder import check; assert check('2.1', attn_ref.softmax).report.full"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not runner.CAN_FORK, reason="only a forked child keeps its state to itself")
def test_global_state_changed_by_an_answer_stays_in_the_child():
    def meddler(x):
        np.random.seed(0)
        os.environ["MEDDLED"] = "yes"
        np.add = None
        np.seterr(all="raise")
        return 2 * x

    before = np.random.get_state()[1].copy(), np.geterr()
    assert verdict_on(meddler).full
    assert (np.random.get_state()[1] == before[0]).all()
    assert np.geterr() == before[1]
    assert "MEDDLED" not in os.environ
    assert np.add is not None


@pytest.mark.parametrize("isolate", [True, False])
def test_an_argument_written_to_is_noticed(isolate):
    report = verdict_on(in_place, isolate=isolate)
    assert report.earned == 2
    assert report.verdicts[1].because == "x was written to"


def test_a_list_that_was_sorted_is_noticed():
    exercise = Exercise("9.9", "Sort", reference=sorted, minutes=1)

    @exercise.criterion("sorted", points=1)
    def numbers(rng):
        yield dict(x=[3, 1, float("nan"), 2])

    exercise.leaves_inputs_alone(points=1)
    exercise.probe(lambda answer, x: answer(x))
    assert runner.collect(exercise, lambda x: x.sort(), 3)[0].changed == ["x"]
    assert runner.collect(exercise, lambda x: sorted(x), 3)[0].changed == []


def test_doing_nothing_earns_nothing_for_leaving_inputs_alone():
    assert verdict_on(lambda x: np.zeros_like(x)).earned == 0


def test_what_explains_a_part_only_is_said_with_doubt():
    def thrice_then_nothing(x):
        return 3 * x if len(x) == 1 else 4 * x

    exercise = an_exercise()

    @exercise.criterion("whole numbers too", points=1)
    def whole(rng):
        yield dict(x=np.array([[1, 2]]))

    report = judge(exercise, 3, runner.collect(exercise, thrice_then_nothing, 3))
    assert [mistake.name for mistake in report.diagnosis] == ["thrice"]
    assert "A part of this looks like a known mistake. Twice, not thrice." in as_text(report)


def test_outcomes_that_have_many_causes_name_no_mistake():
    exercise = an_exercise()

    @exercise.mistake("You return nothing but zeros on large inputs.")
    def zeros_on_large(x):
        return 2 * x if len(x) == 1 else 0 * x

    assert judge(exercise, 3, runner.collect(exercise, lambda x: 0 * x, 3)).diagnosis == []


def test_different_errors_of_one_type_are_different():
    exercise = an_exercise()

    @exercise.mistake("Seven is more than there are.")
    def too_far(x):
        return x[7]

    def own(x):
        raise IndexError("something else")

    assert judge(exercise, 3, runner.collect(exercise, lambda x: x[7], 3)).diagnosis[0].name == "too_far"
    assert judge(exercise, 3, runner.collect(exercise, own, 3)).diagnosis == []


def test_a_criterion_can_ask_for_the_dtype():
    exercise = an_exercise()

    @exercise.criterion("float32 stays float32", points=1, same_dtype=True)
    def narrow(rng):
        yield dict(x=np.ones((1, 2), np.float32))

    report = judge(exercise, 3, runner.collect(exercise, lambda x: 2 * x.astype(np.float64), 3))
    assert "in float64 where the inputs are float32" in report.verdicts[2].because
    assert judge(exercise, 3, runner.collect(exercise, double, 3)).full


def test_numbers_that_look_alike_are_told_apart():
    said = verdict_on(lambda x: 2 * x + 1e-7).verdicts[0].because
    assert "should be 2, yours is 2.0000001" in said


def test_rounding_is_named_as_such():
    assert "right to about 5 digits" in verdict_on(lambda x: np.round(2 * x / 3, 5) * 3).verdicts[0].because


def test_a_line_of_the_reference_package_is_not_blamed():
    def answer(x):
        return attn_ref.softmax(x, axis=5)

    assert "return attn_ref.softmax(x, axis=5)" in verdict_on(answer).verdicts[0].because


def test_inputs_that_differ_late_are_shown_with_all_their_digits():
    exercise = an_exercise()

    @exercise.criterion("close inputs", points=1)
    def close(rng):
        yield dict(x=np.array([[0.125, 0.125 + 1e-7]]))

    report = judge(exercise, 3, runner.collect(exercise, lambda x: 0 * x, 3))
    assert "x=[[0.125, 0.1250001]]" in report.verdicts[2].where


def test_cases_share_no_memory():
    exercise = an_exercise()
    shared = np.ones((2, 2))

    @exercise.criterion("twice the same array", points=1)
    def twice(rng):
        yield dict(x=shared)
        yield dict(x=shared)

    outcomes = runner.collect(exercise, in_place, 3)
    assert [outcome.value.max() for outcome in outcomes[2:]] == [2, 2]


def test_a_known_mistake_is_recognised_and_an_unknown_one_is_not():
    assert [mistake.name for mistake in verdict_on(lambda x: x + x + x).diagnosis] == ["thrice"]
    assert verdict_on(lambda x: 5 * x).diagnosis == []


def test_not_attempted():
    def stub(x):
        raise NotImplementedError

    report = verdict_on(stub)
    assert (report.status, report.earned) == ("not attempted", 0)


MISUSE = {
    "no answer": (("2.1",), "it was given nothing"),
    "a result instead of a function": (("2.1", np.ones(3)), "without brackets"),
    "two answers": (("2.1", double, double), "2 things"),
    "an unknown exercise": (("2.77", double), "chapter 2 has no exercise"),
    "an unknown chapter": (("77.1", double), "there is no exercise"),
    "a number": ((2.1, 3), "without brackets"),
    "nonsense": ((None, double), "there is no exercise"),
}


@pytest.mark.parametrize("kind", MISUSE)
def test_misuse_of_check_is_explained(kind, capfd):
    arguments, expected = MISUSE[kind]
    score = check(*arguments)
    assert score == 0
    assert expected in " ".join(str(score).split())
    assert capfd.readouterr().err == ""


def test_a_score_reads_as_a_number_and_shows_as_a_card():
    score = check("2.1", attn_ref.softmax)
    assert float(repr(score)) == score == score.report.points
    bundle = score._repr_mimebundle_()
    assert "<section aria-label=" in bundle["text/html"]
    assert json.dumps(bundle["application/vnd.attn.report+json"])


def test_a_card_escapes_what_an_answer_says():
    exercise = an_exercise()

    def hostile(x):
        print("<script>alert(1)</script>")
        raise ValueError("<img src=x onerror=alert(2)>")

    text = as_html(judge(exercise, 3, runner.collect(exercise, hostile, 3)))
    assert "<script" not in text and "<img" not in text


def test_a_key_error_of_ours_is_not_taken_for_an_unknown_id(monkeypatch):
    monkeypatch.setattr("autograder.notebook.judge", lambda *arguments: {}[7])
    assert "this check itself failed (KeyError" in str(check("2.1", attn_ref.softmax))


def test_progress_of_no_chapter_is_explained():
    assert "takes a chapter's number" in repr(progress("two"))
    assert "there is no chapter 77" in repr(progress(77))


def test_a_fault_of_the_check_itself_is_no_traceback(monkeypatch, capfd):
    monkeypatch.setattr("autograder.notebook.judge", lambda *arguments: 1 / 0)
    assert "this check itself failed (ZeroDivisionError" in str(check("2.1", attn_ref.softmax))
    assert capfd.readouterr().err == ""


class TestTheRecord:
    def test_it_keeps_the_best_score_and_the_tries(self):
        def softmax(x, axis=-1):
            return None

        check("2.1", softmax)
        full = check("2.1", attn_ref.softmax)
        check("2.1", softmax)
        assert standings()["2.1"].tries == 3
        assert f"2.1 Scores become shares: {full:g} of {full:g}" in repr(progress(2)).replace(
            full.report.title, "Scores become shares"
        )

    def test_a_planted_bug_under_another_name_is_not_recorded(self):
        check("2.1", lambda x, axis=-1: attn_ref.softmax(x, axis))
        assert "2.1" not in standings()

    def test_hints_come_one_after_the_other(self):
        first, second = repr(hint("2.1")), repr(hint("2.1"))
        assert "hint 1 of" in first and "hint 2 of" in second
        assert "hint 1 of" in repr(hint("2.1", 1))
        assert "hints 1 to" in repr(hint("2.1", 9))
        assert "no exercise" in repr(hint("2.77"))

    def test_a_corrupt_file_breaks_nothing_and_loses_nothing(self, tmp_path):
        folder = tmp_path / "attn-home"
        folder.mkdir()
        path = folder / "progress.jsonl"
        path.write_bytes(
            b'\xff\xfe not json\n{"kind": "check"}\n[1]\n{"kind":"check","id":"2.1","earned":1.0}\n{"cut sho'
        )
        full = check("2.1", attn_ref.softmax)
        assert full == full.report.points
        assert path.read_bytes().startswith(b"\xff\xfe not json\n")
        assert standings()["2.1"].tries == 2

    def test_a_folder_that_cannot_be_written_breaks_nothing(self, tmp_path, monkeypatch):
        blocked = tmp_path / "a file"
        blocked.write_text("in the way")
        monkeypatch.setenv("ATTN_HOME", str(blocked))
        score = check("2.1", attn_ref.softmax)
        assert score == score.report.points
        assert "progress is not saved" in str(score)
        assert "2.1" in repr(progress(2))

    def test_a_grading_run_is_nobodys_progress(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
        check("2.1", attn_ref.softmax)
        assert not (tmp_path / "attn-home").exists()

    def test_feedback_shows_nothing_of_the_graders_own_record(self, monkeypatch):
        check("2.1", attn_ref.softmax)
        hint("2.1")
        monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
        assert "✓" not in repr(progress(2))

        def softmax(x, axis=-1):
            return None

        assert "gives the first of 3 hints" in str(check("2.1", softmax))


class TestEvidence:
    @pytest.mark.parametrize(
        "value",
        [None, "text", 1.5, True, [1, [2, 3]], (np.ones((2, 3), np.float32), 4), {"a": np.arange(3)}, np.zeros((0, 3))],
        ids=repr,
    )
    def test_it_survives_the_journey(self, value):
        before = plain(value)
        after = decode(json.loads(json.dumps(encode(before))))
        assert repr(after) == repr(before)

    @pytest.mark.parametrize(
        "forged",
        [
            {"array": "AAAA", "dtype": "|O", "shape": [1]},
            {"array": "AAAA", "dtype": "<f8", "shape": [1]},
            {"array": "AAAA", "dtype": "<f8", "shape": [-1]},
            {"array": "not base64 at all", "dtype": "<f8", "shape": [0]},
            {"surprise": 1},
            17,
            [1],
        ],
        ids=repr,
    )
    def test_forgery_is_refused(self, forged):
        with pytest.raises((ValueError, TypeError)):
            Outcome.from_json({"value": forged})

    def test_what_is_not_plain_is_described(self):
        assert plain(object()) == Odd("an object")


def test_a_check_imports_neither_torch_nor_numba_nor_matplotlib():
    code = (
        "import sys, attn_ref; assert not {'torch', 'numba', 'matplotlib'} & set(sys.modules);"
        "from autograder import check; check('2.1', attn_ref.softmax);"
        "print({'torch', 'numba', 'matplotlib', 'nbgrader', 'jupytext'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr
    assert done.stderr == ""


def test_quiz_marks_and_explains(capfd):
    from autograder.exercise import load_chapter

    question = next(iter(load_chapter(2).quizzes.values()))
    for letter, (_, feedback) in question.choices.items():
        shown = repr(quiz(question.id, letter.upper()))
        assert feedback in shown
        assert ("✓" in shown) == (letter == question.right)
    assert "put your choice" in repr(quiz(question.id, ""))
    assert "no quiz question" in repr(quiz("2.zz", "a"))


def test_an_exercise_that_needs_what_is_not_here_is_not_available_and_never_failed(monkeypatch):
    from autograder.exercise import load_chapter

    exercise = load_chapter(2).exercises["2.1"]
    monkeypatch.setattr(exercise, "needs", "no_such_module")
    score = check("2.1", attn_ref.softmax)
    assert score == 0 and score.report.status == "not available" and not score.report.verdicts
    assert "not available here: no_such_module is not installed" in str(score) and "Nothing is lost" in str(score)
    assert "2.1" not in standings()  # it is not recorded as a try
    assert "Scores become shares: 0 of 6, not available here" in repr(progress(2))


def test_a_forbidden_call_is_told_and_a_planted_bug_may_make_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_HOME", str(tmp_path))

    def softmax(x, axis=-1):
        return attn_ref.softmax(x, axis)

    score = check("2.1", softmax)
    assert score.report.full and "`attn_ref.softmax`" in score.note and "take the points" in score.note
    assert "<code>attn_ref.softmax</code>" in score._repr_mimebundle_()["text/html"]
    softmax.__name__ = "planted"
    assert "attn_ref" not in check("2.1", softmax).note
    assert "attn_ref" not in check("2.1", find_exercise("2.1").variants[0]).note


def test_a_machine_that_lacks_what_an_exercise_needs_does_not_grade_its_chapter(monkeypatch):
    from autograder.exercise import load_chapter
    from autograder.grading.run import GradeError, refuse_what_cannot_run

    monkeypatch.setattr(load_chapter(2).exercises["2.1"], "needs", "no_such_module")
    with pytest.raises(GradeError, match="02_scaled_dot_product cannot be graded here: no_such_module is not inst"):
        refuse_what_cannot_run("02_scaled_dot_product")


@pytest.mark.parametrize("got, holds", [(["7", "8"], "text"), (["7", 8], "text"), ([7, None], "text or None")])
def test_text_that_reads_like_numbers_is_no_number(got, holds):
    from autograder.compare import difference

    assert difference(plain(np.array([7, 8])), plain(got)).text == f"expected numbers, yours holds {holds}"
    assert difference(plain(np.array([7, 8])), plain([7, 8])) is None
