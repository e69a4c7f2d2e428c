"""The bench with a clock that the test moves: who is timed when, what is rejected, what the note admits.

No assertion here depends on how fast this machine is. Memory is weighed for real, to the accuracy that is promised.
"""

import sys

import numpy as np
import pytest

from attn_ref import bench
from attn_ref.bench import clock as clock_module
from attn_ref.bench import limit as limit_module
from attn_ref.bench import memory as memory_module

MIB = 2**20


class FakeMachine:
    """A machine of two cores on which time passes only when a function says so."""

    def __init__(self):
        self.now = self.own = self.others = 0.0
        self.ran = []

    def clock(self):
        return self.now

    def cpu_seconds(self):
        return self.own + self.others, self.own

    def function(self, name, seconds, foreign=lambda turn: 0.0):
        """A function that takes so long on one core, while others use foreign(turn) cores."""
        turns = iter(range(10**6))

        def call():
            self.ran.append(name)
            self.now += seconds
            self.own += seconds
            self.others += foreign(next(turns)) * seconds

        return call

    def measure(self, functions, **options):
        options = {"sample_s": 0, "warm_up": 0, "clock": self.clock, "cpu_seconds": self.cpu_seconds} | options
        return bench.measure(functions, **options)


@pytest.fixture
def machine():
    return FakeMachine()


def test_functions_take_turns_and_another_goes_first_each_round(machine):
    functions = {name: machine.function(name, 1.0) for name in "abc"}
    machine.measure(functions, repeats=3)
    assert machine.ran[:3] == list("abc")  # one call each to learn how long it takes
    assert machine.ran[3:] == list("abc") + list("bca") + list("cab")


def test_warm_up_calls_are_not_counted(machine):
    first_is_slow = machine.function("a", 1.0)

    def compiled_at_first():
        machine.now += 100.0 * (len(machine.ran) == 0)
        first_is_slow()

    result = machine.measure({"a": compiled_at_first}, repeats=4, warm_up=1, budget_s=1000)
    assert result.timings["a"].kept_s == (1.0,) * 4
    assert len(machine.ran) == 1 + 1 + 4  # warm-up, calibration, samples


def test_a_sample_repeats_a_quick_function(machine):
    result = machine.measure({"quick": machine.function("quick", 0.01)}, repeats=3, sample_s=0.25)
    assert len(machine.ran) == 1 + 3 * 25
    assert result.timings["quick"].median_s == pytest.approx(0.01)  # seconds a call, not a sample


@pytest.mark.parametrize("load, rejected", [(0.14, 0), (0.16, 4)])
def test_samples_that_others_disturbed_are_rejected_and_taken_again(machine, load, rejected):
    disturbed = machine.function("a", 1.0, foreign=lambda turn: load if turn in (2, 3, 5, 8) else 0.0)
    timing = machine.measure({"a": disturbed}, repeats=6).timings["a"]
    assert (len(timing.kept_s), timing.rejected) == (6, rejected)


def test_this_process_is_no_disturbance_however_many_cores_it_uses(machine):
    def parallel():
        machine.now += 1.0
        machine.own += 2.0

    assert machine.measure({"a": parallel}, repeats=3).timings["a"].rejected == 0


def test_the_budget_ends_a_measurement_that_is_always_disturbed(machine):
    functions = {"a": machine.function("a", 1.0, foreign=lambda turn: 1.5), "b": machine.function("b", 2.0)}
    result = machine.measure(functions, repeats=3, budget_s=50)
    assert 50 <= machine.now < 60
    assert result.timings["a"].kept_s == () and len(result.timings["b"].kept_s) == 3
    assert "The budget of 50 s ended before a had 3 samples." in result.note
    assert "| a | – | – | 0 |" in str(result) and np.isnan(result.ratio("a", "b"))


def test_a_budget_that_warming_up_used_still_allows_one_round(machine):
    result = machine.measure({"a": machine.function("a", 9.0)}, repeats=5, budget_s=1)
    assert len(result.timings["a"].kept_s) == 1


def test_where_the_load_cannot_be_measured_all_is_kept_and_said(machine):
    functions = {"a": machine.function("a", 1.0, foreign=lambda turn: 2.0)}
    for blind in (lambda: None, lambda: (7.0, machine.own)):  # no counters; counters that stand still
        result = machine.measure(functions, repeats=3, cpu_seconds=blind)
        assert (len(result.timings["a"].kept_s), result.timings["a"].rejected) == (3, 0)
        assert "could not be measured on this machine: samples were kept unseen" in result.note


def test_the_note_says_how_busy_others_were(machine):
    result = machine.measure({"a": machine.function("a", 1.0, foreign=lambda turn: 0.1)}, repeats=3)
    assert result.note.endswith("more than 15% of a core; at the median they used 10%.")


def test_the_table_gives_medians_quartiles_counts_and_ratios():
    timings = {"ours": bench.Timing((0.001, 0.002, 0.003, 0.004, 0.1), 2), "torch": bench.Timing((0.006,), 0)}
    table = bench.Comparison(timings, "A note.").table(against="torch")
    assert table.splitlines() == [
        "|  | median (ms) | quartiles (ms) | of torch | kept | rejected |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| ours | 3 | 2–4 | 0.50 × | 5 | 2 |",
        "| torch | 6 | 6–6 | 1.00 × | 1 | 0 |",
        "",
        "A note.",
    ]


def test_the_real_counters_grow_and_this_process_is_part_of_the_machine():
    before = clock_module._cpu_seconds()
    if before is None:
        pytest.skip("this machine does not tell how busy it is")
    np.linalg.svd(np.ones((300, 300)))
    after = clock_module._cpu_seconds()
    assert after[0] >= before[0] and after[1] > before[1]
    assert after[0] > 0


def test_without_psutil_the_counters_come_from_proc_or_not_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)  # `import psutil` fails
    counters = clock_module._cpu_seconds()
    if counters is None:
        assert not sys.platform.startswith("linux")
    else:
        assert counters[0] > 0 and counters[1] > 0


class TestMemory:
    def test_code_is_weighed_at_its_peak_in_an_interpreter_of_its_own(self):
        setup = "import numpy as np; x = np.ones(2**20); y = x + 1"  # 8 MiB each, before the call
        peak = bench.peak_memory("a = np.ones(2**22); b = a + 1; del a, b", setup)  # 32 MiB each, at once
        assert peak == pytest.approx(64 * MIB, abs=2 * MIB)

    def test_what_was_there_before_does_not_count(self):
        setup = "import numpy as np; big = np.ones(2**23); del big; x = np.ones(2**22)"  # 64 MiB come and gone
        assert bench.peak_memory("x += 1", setup) < 2 * MIB

    def test_a_function_is_weighed_with_its_result(self):
        peak = bench.peak_memory(lambda: np.ones(2**23))
        assert peak == pytest.approx(64 * MIB, abs=4 * MIB)

    def test_the_thread_that_looks_sees_what_lasts(self):
        pytest.importorskip("psutil", reason="psutil is not installed")
        assert memory_module._peak_by_looking(lambda: np.ones(2**23)) == pytest.approx(64 * MIB, abs=4 * MIB)

    def test_without_psutil_or_proc_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "psutil", None)
        with pytest.raises(RuntimeError, match="without psutil"):
            memory_module._peak_by_looking(lambda: None)


@pytest.mark.skipif(sys.platform != "linux", reason="a memory limit for one process needs Linux")
class TestLimit:
    setup = "import numpy as np; x = np.ones(2**20)"  # 8 MiB, held before the limit is set

    def test_code_that_gets_by_with_the_memory_finishes(self):
        assert bench.run_limited("y = np.ones(2**23)", 72 * MIB, self.setup) == "finished"  # 64 MiB

    def test_code_that_wants_more_is_told_and_nothing_here_feels_it(self):
        told = bench.run_limited("y = np.ones(2**23)", 56 * MIB, self.setup)
        assert told.startswith("out of memory: Unable to allocate 64.0 MiB")

    def test_the_refusal_of_torch_is_recognised(self):
        pytest.importorskip("torch", reason="torch is not installed")
        told = bench.run_limited("torch.ones(2**24)", 32 * MIB, "import torch; torch.ones(4) + 1")
        assert told.startswith("out of memory: ") and "67108864 bytes" in told

    def test_another_error_is_no_lack_of_memory(self):
        with pytest.raises(RuntimeError, match="ValueError: expected a contiguous memory format"):
            bench.run_limited("raise ValueError('expected a contiguous memory format')", MIB)


def test_without_linux_the_limit_is_not_tried(monkeypatch):
    monkeypatch.setattr(limit_module.sys, "platform", "darwin")
    assert bench.run_limited("pass", MIB) == "not tried: a memory limit for one process needs Linux, and this is darwin"


def test_the_machine_is_described_by_processor_cores_and_versions():
    text = bench.machine()
    assert f"numpy {np.__version__}" in text and "Python 3" in text
    assert [line.split(":")[0] for line in text.splitlines()][:3] == ["processor", "system", "versions"]


def f():
    pass


def measure(functions=None, **options):
    return lambda: bench.measure({"f": f} if functions is None else functions, **options)


WRONG = {
    "a bare function": (measure(f), "functions must be a dictionary such as"),
    "a list of functions": (measure([f]), "functions must be a dictionary such as"),
    "no function": (measure({}), "functions is empty"),
    "a result for a function": (
        measure({"f": 3.0}),
        r"'f' must be a function without arguments, got float; write lambda",
    ),
    "no repeats": (measure(repeats=0), "repeats must be at least 1"),
    "half a repeat": (measure(repeats=2.5), "repeats must be a whole number"),
    "less than no warm-up": (measure(warm_up=-1), "warm_up must be at least 0"),
    "no budget": (measure(budget_s=0), "budget_s must be greater than 0"),
    "a budget in words": (measure(budget_s="1 min"), "budget_s must be a number"),
    "a sample of negative length": (measure(sample_s=-1), "sample_s must be at least 0"),
    "a percentage in words": (measure(most_foreign="15 %"), "most_foreign must be a number"),
    "memory of nothing": (lambda: bench.peak_memory(None), "call must be a string of code or a function, got None"),
    "memory of a result": (lambda: bench.peak_memory(np.ones(3)), "call must be a string of code or a function"),
    "memory of a number": (lambda: bench.peak_memory(64), "call must be a string of code or a function"),
    "memory of bytes": (lambda: bench.peak_memory(b"pass"), "call must be a string of code or a function"),
    "memory of no sentence": (lambda: bench.peak_memory("x ="), "invalid syntax"),
    "a setup that is no code": (lambda: bench.peak_memory("pass", "import"), "Expected|invalid syntax"),
    "a setup that is a function": (lambda: bench.peak_memory("pass", f), "setup must be a string of code, got"),
    "a setup for a function": (lambda: bench.peak_memory(f, "import numpy"), "setup belongs to a string of code"),
    "code with a name from here": (lambda: bench.peak_memory("f()"), "shares no names with this one: NameError"),
    "a limit for a function": (lambda: bench.run_limited(f, MIB), "code must be a string of code, got"),
    "a limit of nothing": (lambda: bench.run_limited("pass", None), "memory_bytes must be a number"),
    "a limit below nothing": (lambda: bench.run_limited("pass", -1), "memory_bytes must be at least 0"),
    "limited code of no sentence": (lambda: bench.run_limited("x =", MIB), "invalid syntax"),
    "limited code with a name from here": (lambda: bench.run_limited("f()", MIB), "shares no names with this one"),
    "a ratio to what was not timed": (lambda: bench.Comparison({}, "").ratio("a", "b"), "'a' was not measured"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_error_names_the_argument_and_the_cause(kind):
    call, message = WRONG[kind]
    with pytest.raises((TypeError, ValueError, SyntaxError, RuntimeError, KeyError), match=message):
        call()
