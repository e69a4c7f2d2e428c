"""Functions take turns in one process, and a sample that other programs disturbed does not count.

    foreign load = (CPU time of the whole machine - CPU time of this process) / wall time, in cores

Speeds measured one after the other compare the machine's moods as much as the functions; taking turns, and medians of
undisturbed samples, compare the functions. Used in course/08_cost and 11_numba_kernel.
"""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from attn_ref.shapes import real_number, whole_number


@dataclass(frozen=True)
class Timing:
    """The samples of one function, in seconds a call."""

    kept_s: tuple
    rejected: int

    @property
    def median_s(self):
        """The median of the kept samples; NaN if none was kept."""
        return statistics.median(self.kept_s) if self.kept_s else float("nan")

    @property
    def quartiles_s(self):
        """The lower and upper quartile of the kept samples."""
        if len(self.kept_s) < 2:
            return self.median_s, self.median_s
        lower, _, upper = statistics.quantiles(self.kept_s, n=4, method="inclusive")
        return lower, upper


@dataclass(frozen=True)
class Comparison:
    """What `measure` found: `timings` by name, and a note on what the guard could see."""

    timings: dict
    note: str

    def ratio(self, name, against):
        """How many times as long `name` takes as `against`, by medians."""
        for one in (name, against):
            if one not in self.timings:
                raise KeyError(f"{one!r} was not measured; there are {', '.join(map(repr, self.timings))}")
        return self.timings[name].median_s / self.timings[against].median_s

    def table(self, against=None):
        """Markdown, a row for each function; `against` adds the ratio to that one."""
        ratios = {} if against is None else {name: self.ratio(name, against) for name in self.timings}
        head = ["", "median (ms)", "quartiles (ms)", *([f"of {against}"] if ratios else []), "kept", "rejected"]
        rows = [head, ["---", *["---:"] * (len(head) - 1)]]
        for name, one in self.timings.items():
            lower, upper = (_digits(1000 * x) for x in one.quartiles_s)
            ratio = [f"{ratios[name]:.2f} ×"] if ratios else []
            row = [_digits(1000 * one.median_s), f"{lower}–{upper}", *ratio]
            row = [text if "nan" not in text else "–" for text in row]  # no sample was kept
            rows.append([name, *row, str(len(one.kept_s)), str(one.rejected)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{self.note}\n"

    def __str__(self):
        return self.table()


def measure(
    functions, *, repeats=15, warm_up=2, budget_s=60.0, sample_s=0.25, most_foreign=0.15, clock=time.perf_counter,
    cpu_seconds=None,
):  # fmt: skip
    """Time functions side by side.  {name: function without arguments} -> Comparison

    After `warm_up` calls each, the functions take turns, another one first in each round. A sample repeats its function
    for about `sample_s` seconds, since the machine counts CPU time in steps of 10 ms, and is rejected if meanwhile
    other programs used more than `most_foreign` of a core. It ends when each has `repeats` samples, or after
    `budget_s`, after one round at least. Where foreign load cannot be measured (no psutil and no /proc/stat) every
    sample is kept and the note says so. On a GPU a function must wait for its result. `clock` and `cpu_seconds`, which
    returns the CPU seconds of the machine and of this process, are for tests. Source: chapter 11.
    """
    functions = _functions(functions)
    repeats, warm_up = whole_number(repeats, "repeats", least=1), whole_number(warm_up, "warm_up", least=0)
    budget_s, sample_s = real_number(budget_s, "budget_s", above=0), real_number(sample_s, "sample_s", least=0)
    most_foreign, cpu_seconds = real_number(most_foreign, "most_foreign", least=0), cpu_seconds or _cpu_seconds
    started, calls = clock(), {}
    for name, function in functions.items():
        for _ in range(warm_up):
            function()
        one_call = _sample(function, 1, clock, cpu_seconds)
        calls[name] = max(1, round(sample_s / one_call.wall_s)) if one_call.wall_s > 0 else 1
    samples, turns = {name: [] for name in functions}, list(functions)
    wanting = turns
    while wanting:
        for name in wanting:
            samples[name].append(_sample(functions[name], calls[name], clock, cpu_seconds))
        turns.append(turns.pop(0))
        wanting = [name for name in turns if len(_kept(samples[name], most_foreign)) < repeats]
        if clock() - started >= budget_s:
            break
    every = [sample for taken in samples.values() for sample in taken]
    timings = {}
    for name, taken in samples.items():
        kept = _kept(taken, most_foreign)
        timings[name] = Timing(tuple(one.wall_s / calls[name] for one in kept), len(taken) - len(kept))
    return Comparison(timings, _guard_note(every, most_foreign) + _budget_note(timings, repeats, budget_s))


@dataclass(frozen=True)
class _Sample:
    """One turn: wall seconds, and the CPU seconds that the machine and this process spent (None: cannot tell)."""

    wall_s: float
    machine_s: float | None
    own_s: float | None

    @property
    def foreign(self):
        """Cores that others used."""
        return 0.0 if self.machine_s is None else (self.machine_s - self.own_s) / max(self.wall_s, 1e-9)


def _sample(function, calls, clock, cpu_seconds):
    before, started = cpu_seconds(), clock()
    for _ in range(calls):
        function()
    wall_s, after = clock() - started, cpu_seconds()
    if before is None or after is None:
        return _Sample(wall_s, None, None)
    return _Sample(wall_s, after[0] - before[0], after[1] - before[1])


def _kept(samples, most_foreign):
    return [sample for sample in samples if sample.foreign <= most_foreign]


def _blind(samples):
    """Whether the guard saw nothing: no counters, or some that stand still while this very process works."""
    if any(sample.machine_s is None for sample in samples):
        return True
    return sum(sample.machine_s for sample in samples) < 0.5 * sum(sample.own_s for sample in samples)


def _cpu_seconds():
    """CPU seconds spent so far by the whole machine and by this process; None where the machine does not tell.

    Time stolen by other guests of the same host counts as spent by others.
    """
    try:
        from psutil import cpu_times

        fields = cpu_times()._asdict()
        busy = sum(fields.get(name, 0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    except ImportError:
        try:
            ticks = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, ticks)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy, time.process_time()


def _guard_note(every, most_foreign):
    if _blind(every):
        return "What other programs used could not be measured on this machine: samples were kept unseen."
    typical = max(0.0, statistics.median(sample.foreign for sample in every))
    return (
        f"Rejected: samples during which other programs used more than {most_foreign:.0%} of a core; "
        f"at the median they used {typical:.0%}."
    )


def _budget_note(timings, repeats, budget_s):
    short = [name for name, one in timings.items() if len(one.kept_s) < repeats]
    return f" The budget of {budget_s:g} s ended before {', '.join(short)} had {repeats} samples." if short else ""


def _functions(functions):
    if not isinstance(functions, dict):
        raise TypeError(f'functions must be a dictionary such as {{"ours": f}}, got {type(functions).__name__}')
    if not functions:
        raise ValueError('functions is empty; pass {"ours": f, "theirs": g}')
    for name, function in functions.items():
        if not callable(function):
            kind = type(function).__name__
            raise TypeError(f"{name!r} must be a function without arguments, got {kind}; write lambda: f(x), not f(x)")
    return functions


def _digits(x):
    """Three digits, without an exponent."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"
