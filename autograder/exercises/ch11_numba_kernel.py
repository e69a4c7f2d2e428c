"""Chapter 11, a numba kernel on your CPU: parallel loops, races, dtypes, tiles, and attention forward, split, backward."""

import functools
import math
import tracemalloc

import numpy as np
from numba import prange

import attn_ref
from attn_ref.iterations import in_python, watch
from attn_ref.numba_types import widened
from autograder.exercise import Exercise, Quiz, Written

# How an answer is looked at: its Python is run (iterations in reverse) for values, under observation for races and for
# what is read, on the scales for memory; numba is asked for the types of its variables. No thread is started, so that
# a check gives the same on every machine and in a forked process.

_known_types = {}  # of answers in this file: a learner's function may call another one that has changed


def compiled_as(answer, *arguments):
    """Whether numba can give every variable a type, and at how many lines a float32 becomes a float64."""
    function = getattr(answer, "py_func", answer)
    code, known = getattr(function, "__code__", None), getattr(function, "__module__", None) == __name__
    if not (known and code in _known_types):
        try:
            found = {"numba compiles it": True, "lines that widen float32": len(widened(function, *arguments))}
        except Exception:
            found = {"numba compiles it": False}
        if not known:
            return found
        _known_types[code] = found
    return _known_types[code]


def weighed(call):
    """What call() returns, and the bytes that NumPy and Python held at its peak beyond what was held before."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = call()
        return found, tracemalloc.get_traced_memory()[1] - before if tracemalloc.is_tracing() else math.inf
    finally:
        if not was_tracing:
            tracemalloc.stop()


AROUND_THE_SCALES = ("tracemalloc.reset_peak", "tracemalloc.stop", "tracemalloc.clear_traces", "tracemalloc.start")


def dealt_out(seen, results, least):
    """Whether every number of the results was written in a parallel loop of at least so many iterations."""
    if not all(isinstance(x, np.ndarray) for x in results):
        return False
    return seen.iterations >= least and all((seen.table(x) == 2).any(axis=0).all() for x in results)


def read_inside(seen, x):
    """Whether at least two iterations read x, and no more than half of it is read before or after them."""
    readers = {iteration for _, iteration, wrote, _ in seen.touched(x) if not wrote}
    return len(readers) > 1 and 2 * seen.read_alone(x) <= x.size


def kept_narrow(answer, *arguments):
    """Whether numba can compile it, and whether all of float32 stays float32."""
    found = dict(compiled_as(answer, *arguments))
    lines = found.pop("lines that widen float32", None)
    return found if lines is None else found | {"no line widens float32": lines == 0}


def raced_for(seen, results):
    """Whether two iterations race for a number of the results, or for one of any other array."""
    own = sum(len(seen.raced(x)) for x in results if isinstance(x, np.ndarray))
    scratch = sum(seen.races.values()) - len(seen.carried)
    return {"race for a result": own > 0, "race for scratch": scratch > own, CARRIES: bool(seen.carried)}


CARRIES = "a variable is carried from one iteration to the next"


def remembered(reference):
    """A probe that runs the reference once for each case: every check judges against it, a class hundreds of times."""

    def remember(drive):
        known = {}

        @functools.wraps(drive)
        def driven(answer, **arguments):
            if answer is not reference:
                return drive(answer, **arguments)
            key = tuple(
                (x.tobytes(), x.shape, x.dtype.str) if isinstance(x, np.ndarray) else x for x in arguments.values()
            )
            if key not in known:
                known[key] = drive(answer, **arguments)
            return known[key]

        return driven

    return remember


def arrays_of(result):
    return result if isinstance(result, tuple) else (result,)


# --- 11.1 ------------------------------------------------------------------------------------------------------------


def row_lse(x):
    """The log-sum-exp of each row, the rows shared out among threads.  (n, m) -> (n,)"""
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


rows = Exercise(
    "11.1",
    "Rows, shared out",
    reference=row_lse,
    minutes=10,
    forbids=("attn_ref.logsumexp", "scipy.special.logsumexp", "torch.logsumexp", "torch.Tensor.logsumexp"),
)


@rows.probe
@remembered(row_lse)
def drive_rows(answer, x, look="result"):
    """The result, and where a case says so what the parallel loop does, or what numba says."""
    if look == "result":
        return in_python(answer)(x)
    if look == "numba":
        return {"result": in_python(answer)(x), "numba compiles it": compiled_as(answer, x)["numba compiles it"]}
    seen = watch(answer, x)
    dealt = dealt_out(seen, arrays_of(seen.result), least=2) and 2 * seen.read_alone(x) <= x.size
    found = {"result": seen.result, "prange is used": seen.iterations > 0, "each row in an iteration of prange": dealt}
    return found | raced_for(seen, arrays_of(seen.result))


@rows.criterion("each row gives its log-sum-exp, in the dtype of x", points=1, same_dtype=True)
def row_values(rng):
    yield dict(x=np.array([[0.0, 0.0], [0.0, np.log(3.0)]]))
    yield dict(x=rng.normal(size=(5, 3)) - 2)
    yield dict(x=rng.normal(size=(3, 7)))
    yield dict(x=rng.normal(size=(4, 4)))
    yield dict(x=rng.normal(size=(1, 6)))
    yield dict(x=rng.normal(size=(6, 1)))
    yield dict(x=rng.normal(size=(4, 5)).astype(np.float32))


@rows.criterion("scores in the thousands, and rows of nothing but -inf", points=1)
def extreme_rows(rng):
    yield dict(x=np.array([[1000.0, 999.0, -1000.0], [-3000.0, -3001.0, -2999.5], [0.0, -9000.0, 1.0]]))
    yield dict(x=np.array([[-np.inf, -np.inf], [0.5, -np.inf], [-np.inf, -700.0]]))


@rows.criterion("prange shares out the rows, and no two iterations race", points=2)
def rows_in_parallel(rng):
    yield dict(x=rng.normal(size=(6, 4)), look="loop")
    yield dict(x=rng.normal(size=(3, 5)) + np.array([[0.0], [9.0], [-9.0]]), look="loop")


@rows.criterion("numba compiles it", points=1)
def rows_compiled(rng):
    yield dict(x=rng.normal(size=(3, 4)).astype(np.float32), look="numba")


rows.leaves_inputs_alone(points=1)


@rows.mistake(
    "The numbers are right, and one thread computes them all: nothing in your function says that iterations may run side by side. Which loop runs over rows, and with what does it have to be written?"
)
def range_for_prange(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in range(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "Two iterations write to the same array of exponentials, which is made once, before the loop. In plain Python they take turns; two threads do not. Where would it have to be made so that each iteration has one of its own?"
)
def one_scratch_for_all(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    scratch = np.empty(m, x.dtype)
    for i in prange(n):
        largest = x[i].max()
        out[i] = largest
        if largest > -np.inf:
            for j in range(m):
                scratch[j] = math.exp(x[i, j] - largest)
            out[i] = largest + math.log(scratch.sum())
    return out


@rows.mistake(
    "Your parallel loop runs over columns, and all its iterations add to the same totals. `total[i] += ...` reads, adds and writes; what is lost when two threads read before either writes?"
)
def columns_shared_out(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in range(n):
        out[i] = 0 if x[i].max() > -np.inf else -np.inf
    for j in prange(m):
        for i in range(n):
            if out[i] > -np.inf:
                out[i] += math.exp(x[i, j] - x[i].max())
    for i in prange(n):
        if out[i] > -np.inf:
            out[i] = x[i].max() + math.log(out[i])
    return out


@rows.mistake(
    "exp(1000) overflows and exp(-3000) is 0. What may be taken out of a row's sum before exp, and added back after log?"
)
def no_maximum_taken_out(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        total = x.dtype.type(0)
        for j in range(m):
            total += math.exp(x[i, j])
        out[i] = math.log(total)
    return out


@rows.mistake(
    "The maximum was taken out of the sum and not added back. If every score of a row grows by 5, by how much should its log-sum-exp grow?"
)
def row_maximum_not_added_back(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = math.log(total)
    return out


@rows.mistake(
    "A row of nothing but -inf gives NaN, because -inf minus -inf has no value. What is the logarithm of a sum of no exponentials?"
)
def nan_for_an_empty_row(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        total = x.dtype.type(0)
        for j in range(m):
            total += math.exp(x[i, j] - largest)
        out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "Your maximum starts at 0, or at another number from outside, so in a row whose scores all lie far below it every exponential is 0. With which number of the row could the search begin?"
)
def maximum_starts_at_zero(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x.dtype.type(0)
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "The maximum is made before the loop and never starts anew, so each row is measured against the largest score of the rows before it. In which order do iterations run, and what should each begin with?"
)
def maximum_carried_from_row_to_row(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    largest = x[0, 0]
    for i in prange(n):
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "One maximum is taken out of all rows, that of the whole table. In a row that lies thousands below it every exponential is 0: whose maximum does a row need?"
)
def one_maximum_for_the_whole_table(x):
    out = np.empty(len(x), x.dtype)
    largest = x.max()
    for i in prange(len(x)):
        out[i] = -np.inf
        if x[i].max() > -np.inf:
            out[i] = largest + np.log(np.exp(x[i] - largest).sum())
    return out


@rows.mistake(
    "The results are right in plain Python, where one iteration follows the other: a variable is carried from each to the next, such as a counter of rows, or a sum set back at the end. Threads run at the same time; which number does prange itself hand to an iteration?"
)
def row_counter_carried(x):
    out = np.empty(len(x), x.dtype)
    row = 0
    for _ in prange(len(x)):
        largest = x[row].max()
        out[row] = largest
        if largest > -np.inf:
            out[row] = largest + np.log(np.exp(x[row] - largest).sum())
        row = row + 1
    return out


@rows.mistake(
    "The sum runs down the columns and the result has one entry for each of them. Which index of x counts rows?"
)
def columns_for_rows(x):
    m, n = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[0, i]
        for j in range(m):
            largest = max(largest, x[j, i])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[j, i] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "The result is float64 whatever x is: `np.empty(n)` means float64. Which second argument gives it the dtype of x?"
)
def result_in_float64(x):
    n, m = x.shape
    out = np.empty(n)
    for i in prange(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "Right in NumPy, and numba refuses it: it knows `x.max()` for a whole array, not `x.max(axis=...)`. What would a loop over rows hand to `max`?"
)
def numpy_that_numba_lacks(x):
    out = np.empty(len(x), x.dtype)
    largest = x.max(axis=1)
    for i in prange(len(x)):
        out[i] = largest[i]
        if largest[i] > -np.inf:
            out[i] = largest[i] + np.log(np.exp(x[i] - largest[i]).sum())
    return out


@rows.mistake(
    "The results are right, and the caller's scores have become exponentials. Where could they go instead, so that x stays as it was?"
)
def exponentials_written_into_x(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[i].max()
        out[i] = largest
        if largest > -np.inf:
            for j in range(m):
                x[i, j] = math.exp(x[i, j] - largest)
            out[i] = largest + math.log(x[i].sum())
    return out


@rows.mistake(
    "The last entry of each row, or the first, plays no part in the sum. How many numbers does range(1, m), or range(m - 1), run over?"
)
def sum_ends_too_early(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m - 1):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.mistake(
    "There is a prange, and the work is done outside of it, or all of it in one iteration: the other cores have nothing to do. Everything that a row needs belongs into the iteration of that row."
)
def work_outside_of_prange(x):
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        out[i] = 0
    for i in range(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out


@rows.also_right
def a_row_at_a_time(x):
    out = np.full(len(x), x.dtype.type(-np.inf))
    for i in prange(x.shape[0]):
        row = x[i]
        top = row.max()
        if top != -np.inf:
            out[i] = np.log(np.sum(np.exp(row - top))) + top
    return out


@rows.also_right
def in_one_pass(x):
    out = np.zeros(x.shape[0], x.dtype)
    for row in prange(x.shape[0]):
        largest, total = -np.inf, 0.0
        for score in x[row]:
            if score > largest:
                total = total * math.exp(largest - score) + 1.0
                largest = score
            elif score > -np.inf:
                total += math.exp(score - largest)
        out[row] = largest + math.log(total) if total > 0 else -np.inf
    return out


@rows.also_right
def one_scratch_row_for_each(x):
    scratch = np.empty_like(x)
    out = np.empty(len(x), dtype=x.dtype)
    for i in prange(len(x)):
        largest = np.max(x[i])
        shift = largest if largest > -np.inf else x.dtype.type(0)
        for j in range(x.shape[1]):
            scratch[i, j] = np.exp(x[i, j] - shift)
        total = scratch[i].sum()
        out[i] = shift + np.log(total) if total > 0 else -np.inf
    return out


rows.hints(
    "Each row needs its maximum, a sum and a logarithm, none of which depends on another row. What should one iteration of prange do from beginning to end?",
    "`for i in prange(n):` with two plain loops inside, one for the largest score of row i, one for the sum. Variables that the loop body sets first belong to its iteration.",
    "Only `out`, in x's dtype, is made before the loop. If the largest score of row i is -inf, that is the result; otherwise it is taken out before exp and added back after the logarithm.",
)
rows.errors(
    (
        "TypingError: No implementation of function Function(&lt;function array_max ...&gt;) found for signature",
        "numba knows a part of NumPy: <code>x.max()</code>, not <code>x.max(axis=1)</code>. A loop over rows needs no axis.",
    ),
)


# --- 11.2 ------------------------------------------------------------------------------------------------------------


def races(log):
    """The entries that two iterations touch and at least one of them writes.  (events, 3) -> list, sorted"""
    by_entry = {}
    for iteration, entry, wrote in log:
        iterations, writes = by_entry.setdefault(int(entry), (set(), []))
        iterations.add(int(iteration))
        writes.append(wrote)
    return [entry for entry in sorted(by_entry) if len(by_entry[entry][0]) > 1 and any(by_entry[entry][1])]


found_races = Exercise("11.2", "Find the race", reference=races, minutes=10)


def as_log(*events):
    return np.array(events, dtype=np.int64).reshape(-1, 3)


@found_races.criterion("two iterations that write one entry race for it", points=1)
def both_write(rng):
    yield dict(log=as_log((0, 4, 1), (1, 4, 1), (0, 0, 1), (1, 1, 1)))
    yield dict(log=as_log((3, 9, 1), (0, 2, 1), (2, 9, 1), (1, 5, 1), (2, 2, 1), (3, 5, 1)))
    yield dict(log=as_log((7, 6, 1), (8, 3, 1), (8, 6, 1), (7, 3, 1), (9, 3, 1)))


@found_races.criterion("one that reads what another writes races too, in either order", points=1)
def one_reads(rng):
    yield dict(log=as_log((0, 1, 1), (1, 1, 0), (0, 2, 0), (1, 3, 1)))
    yield dict(log=as_log((0, 5, 0), (1, 5, 1), (2, 4, 0), (0, 4, 0)))
    yield dict(log=as_log((0, 8, 0), (1, 8, 0), (2, 8, 1), (3, 6, 0)))
    yield dict(log=as_log((4, 5, 0), (2, 5, 0), (2, 5, 1), (3, 1, 1)))
    yield dict(log=as_log((6, 2, 1), (6, 2, 0), (3, 2, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0), (9, 0, 0)))


@found_races.criterion("reading alone is no race, nor is anything that one iteration does by itself", points=1)
def no_race(rng):
    yield dict(log=as_log((0, 1, 0), (1, 1, 0), (2, 1, 0), (0, 2, 1), (0, 3, 1)))
    yield dict(log=as_log((4, 7, 0), (4, 7, 1), (4, 7, 1), (5, 7, 0)))
    yield dict(log=as_log((4, 7, 0), (4, 7, 1), (4, 7, 1), (4, 7, 0), (5, 6, 1)))
    yield dict(log=as_log())


@found_races.criterion("long logs in any order; each entry once, the smallest first", points=1)
def any_order(rng):
    yield dict(log=as_log((2, 11, 1), (0, 3, 1), (1, 8, 0), (5, 11, 0), (2, 11, 1), (4, 3, 1), (0, 8, 1), (1, 12, 1)))
    yield dict(
        log=as_log((5, 2_000_001, 0), (70_000, 2_000_001, 1), (5, 1, 1), (1005, 2, 0), (6, 999, 1), (5, 1999, 0))
    )
    for events, entries in ((60, 40), (200, 300), (90, 12)):
        numbers = (rng.integers(0, 7, events), rng.integers(0, entries, events), rng.random(events) < 0.3)
        yield dict(log=np.stack(numbers, axis=1).astype(np.int64))


found_races.leaves_inputs_alone(points=1)


@found_races.mistake(
    "You count an entry only if two iterations write it. What does a thread see that reads an entry while another one writes it?"
)
def only_writes_looked_at(log):
    by_entry = {}
    for iteration, entry, wrote in log:
        if wrote:
            by_entry.setdefault(int(entry), set()).add(int(iteration))
    return [entry for entry in sorted(by_entry) if len(by_entry[entry]) > 1]


@found_races.mistake(
    "You report every entry that two iterations touch, also where all of them only read it. All rows read the same keys, after all; who could be disturbed by that?"
)
def reading_taken_for_a_race(log):
    by_entry = {}
    for iteration, entry, _ in log:
        by_entry.setdefault(int(entry), set()).add(int(iteration))
    return [entry for entry in sorted(by_entry) if len(by_entry[entry]) > 1]


@found_races.mistake(
    "An entry that one iteration touches twice is reported. It takes two iterations to race: what has to differ between the two events?"
)
def an_iteration_against_itself(log):
    by_entry = {}
    for _, entry, wrote in log:
        by_entry.setdefault(int(entry), []).append(int(wrote))
    return [entry for entry in sorted(by_entry) if len(by_entry[entry]) > 1 and any(by_entry[entry])]


@found_races.mistake(
    "A read counts only if the write stands before it in the log. The log is one order in which it happened to run; may the threads run in another one?"
)
def only_reads_after_writes(log):
    writers, found = {}, set()
    for iteration, entry, wrote in log.tolist():
        if writers.get(entry, set()) - {iteration}:
            found.add(entry)
        if wrote:
            writers.setdefault(entry, set()).add(iteration)
    return sorted(found)


@found_races.mistake(
    "You compare each event with the next one only. Two iterations can touch an entry with anything between, as threads run at their own pace. How could all events of an entry be brought together?"
)
def only_neighbours_compared(log):
    found = set()
    for one, other in zip(log[:-1].tolist(), log[1:].tolist(), strict=True):
        if one[1] == other[1] and one[0] != other[0] and (one[2] or other[2]):
            found.add(one[1])
    return sorted(found)


@found_races.mistake("The entries are right and their order is not. What would bring the smallest to the front?")
def in_order_of_appearance(log):
    by_entry = {}
    for iteration, entry, wrote in log.tolist():
        iterations, writes = by_entry.setdefault(entry, (set(), []))
        iterations.add(iteration)
        writes.append(wrote)
    return [entry for entry, (iterations, writes) in by_entry.items() if len(iterations) > 1 and any(writes)]


@found_races.mistake(
    "An entry appears once for each pair of events that race for it. Which kind of collection holds each thing once?"
)
def once_for_each_pair(log):
    events, found = log.tolist(), []
    for place, one in enumerate(events):
        for other in events[place + 1 :]:
            if one[1] == other[1] and one[0] != other[0] and (one[2] or other[2]):
                found.append(one[1])
    return sorted(found)


@found_races.mistake(
    "These are iterations, and the question was about entries. Which column of the log names what was touched?"
)
def iterations_for_entries(log):
    found = set()
    events = log.tolist()
    for one in events:
        for other in events:
            if one[1] == other[1] and one[0] != other[0] and (one[2] or other[2]):
                found.add(one[0])
    return sorted(found)


@found_races.mistake(
    "The answer is right and the caller's log has been sorted: `log.sort()` and assignments into `log` work in place. Which function returns a sorted copy?"
)
def log_sorted_in_place(log):
    log[:] = log[np.lexsort((log[:, 0], log[:, 1]))]
    found = []
    for entry in np.unique(log[:, 1]):
        mine = log[log[:, 1] == entry]
        if mine[:, 2].any() and len(np.unique(mine[:, 0])) > 1:
            found.append(int(entry))
    return found


@found_races.mistake(
    "Each event is compared with the latest one of its entry only. If an iteration writes an entry and then reads it, its write is forgotten when another one reads. What must be kept of all that came before?"
)
def only_the_latest_event_kept(log):
    latest, found = {}, set()
    for iteration, entry, wrote in log.tolist():
        if entry in latest and latest[entry][0] != iteration and (wrote or latest[entry][1]):
            found.add(entry)
        latest[entry] = iteration, wrote
    return sorted(found)


@found_races.mistake(
    "Of an entry's readers you keep the last one. If that one then writes, the readers before it are forgotten: how many may there be?"
)
def one_reader_for_each_entry(log):
    writer, reader, found = {}, {}, set()
    for iteration, entry, wrote in log.tolist():
        if writer.get(entry, iteration) != iteration or (wrote and reader.get(entry, iteration) != iteration):
            found.add(entry)
        (writer if wrote else reader)[entry] = iteration
    return sorted(found)


@found_races.mistake(
    "Of an entry's writers you keep one, so that two iterations that both write it go unnoticed. How many may there be?"
)
def one_writer_for_each_entry(log):
    writer = {entry: iteration for iteration, entry, wrote in log.tolist() if wrote}
    return sorted({e for i, e, wrote in log.tolist() if not wrote and e in writer and writer[e] != i})


@found_races.mistake(
    "The entries come once for each event that touches them. Which kind of collection holds each thing once?"
)
def once_for_each_event(log):
    by_entry = {}
    for iteration, entry, wrote in log.tolist():
        iterations, writes = by_entry.setdefault(entry, (set(), []))
        iterations.add(iteration)
        writes.append(wrote)
    return sorted(e for _, e, _ in log.tolist() if len(by_entry[e][0]) > 1 and any(by_entry[e][1]))


@found_races.also_right
def by_masks(log):
    found = []
    for entry in np.unique(log[:, 1]):
        mine = log[log[:, 1] == entry]
        if mine[:, 2].any() and mine[:, 0].min() != mine[:, 0].max():
            found.append(entry)
    return np.array(found, dtype=int)


@found_races.also_right
def every_pair(log):
    events = [tuple(map(int, event)) for event in log]
    found = {e for i, e, w in events for i2, e2, w2 in events if e == e2 and i != i2 and w + w2 > 0}
    return sorted(found)


found_races.hints(
    "Take one entry and look at all its events. Which two questions decide?",
    "How many different iterations touched it, and did any of them write? Walk the log once and keep both for each entry.",
)
found_races.errors(
    (
        "ValueError: not enough values to unpack (expected 3, got 0)",
        "An empty log has the shape (0, 3): a loop over it runs no time at all. Columns are <code>log[:, 0]</code>.",
    ),
)


# --- 11.3 ------------------------------------------------------------------------------------------------------------


def tile_scores(q, k):
    """Scores of a tile, in the dtype of q and k throughout.  (n, d), (m, d) -> (n, m)"""
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(d))
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


scores_of_a_tile = Exercise(
    "11.3", "Stay in float32", reference=tile_scores, minutes=12, forbids=("attn_ref.attention_scores",)
)


@scores_of_a_tile.probe
@remembered(tile_scores)
def drive_scores(answer, q, k, look="result"):
    found = in_python(answer)(q, k)
    return found if look == "result" else {"result": found} | compiled_as(answer, q, k)


@scores_of_a_tile.criterion("each entry is a dot product over √d", points=1)
def score_values(rng):
    yield dict(q=np.array([[2.0, 0.0, 0.0, 0.0]]), k=np.array([[3.0, 0.0, 0.0, 0.0], [1.0, 5.0, 0.0, 0.0]]))
    yield dict(q=rng.normal(size=(5, 7)), k=rng.normal(size=(3, 7)))
    yield dict(q=rng.normal(size=(4, 3)), k=rng.normal(size=(4, 3)))
    yield dict(q=rng.normal(size=(3, 1)), k=rng.normal(size=(1, 1)))
    yield dict(q=rng.normal(size=(2, 6)) * 40, k=rng.normal(size=(6, 6)) * 40)


@scores_of_a_tile.criterion("float32 in, float32 out; float64 in, float64 out", points=1, same_dtype=True)
def score_dtypes(rng):
    yield dict(q=rng.normal(size=(3, 5)).astype(np.float32), k=rng.normal(size=(2, 5)).astype(np.float32))
    yield dict(q=rng.normal(size=(2, 5)), k=rng.normal(size=(4, 5)))


@scores_of_a_tile.criterion("numba compiles it, and no float32 becomes float64 on the way", points=2)
def score_types(rng):
    yield dict(q=rng.normal(size=(3, 5)).astype(np.float32), k=rng.normal(size=(2, 5)).astype(np.float32), look="types")


scores_of_a_tile.leaves_inputs_alone(points=1)


@scores_of_a_tile.mistake(
    "The result is float32, the sum was not: a variable that begins with `0.0`, or with 0, is a float64 for numba, and so is everything added to it. How do you write a zero in the dtype of q?"
)
def total_starts_as_float64(q, k):
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(d))
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = 0.0
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.mistake(
    "`math.sqrt` of a whole number is a float64, and so is an array made without a dtype; a float32 that meets one of them, or is stored in it, is widened. `widened` names the line. What does `q.dtype` make narrow there?"
)
def scale_in_float64(q, k):
    n, d = q.shape
    scale = 1 / math.sqrt(d)
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.mistake(
    "The scores land in a float64 array: without a dtype `np.zeros` and `np.empty` make one. Which argument is missing?"
)
def scores_array_in_float64(q, k):
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(d))
    scores = np.empty((n, len(k)))
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.mistake(
    "`np.float32` is written into your code, so float64 inputs lose half of their digits. From which argument can the dtype be read?"
)
def float32_written_down(q, k):
    n, d = q.shape
    scale = np.float32(1 / math.sqrt(d))
    scores = np.empty((n, len(k)), np.float32)
    for i in range(n):
        for j in range(len(k)):
            total = np.float32(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.mistake("These are the bare dot products. By what is a score of attention divided?")
def tile_not_scaled(q, k):
    n, d = q.shape
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total
    return scores


@scores_of_a_tile.mistake(
    "You divide by d where √d is meant. With d = 4 and a dot product of 6, which of them gives 3?"
)
def tile_divided_by_d(q, k):
    n, d = q.shape
    scale = q.dtype.type(1 / d)
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.mistake(
    "The sum never starts anew: each score holds all those before it. Where does the line that makes the zero have to stand?"
)
def total_not_reset(q, k):
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(d))
    scores = np.empty((n, len(k)), q.dtype)
    total = q.dtype.type(0)
    for i in range(n):
        for j in range(len(k)):
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.mistake(
    "NumPy does this and numba cannot: `@` needs two arrays of the same kind, and 3-axis broadcasting with `sum(axis=-1)` of a float32 array is computed in float64. Try three plain loops, or `np.dot`."
)
def keepdims_in_numba(q, k):
    scale = q.dtype.type(1 / math.sqrt(q.shape[1]))
    return np.sum(q[:, None, :] * k[None, :, :], axis=-1, keepdims=True)[:, :, 0] * scale


@scores_of_a_tile.mistake(
    "Rows are keys and columns are queries in your result. Which of the two counts the rows of the tile?"
)
def keys_down(q, k):
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(d))
    scores = np.empty((len(k), n), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[j, i] = total * scale
    return scores


@scores_of_a_tile.mistake(
    "The scores are right, and q has been multiplied by the scale for good. `q *= scale` writes into the caller's array; which form makes a new one?"
)
def q_scaled_in_place(q, k):
    q *= q.dtype.type(1 / math.sqrt(q.shape[1]))
    return np.dot(q, k.T)


@scores_of_a_tile.mistake(
    "The root is taken of a number of rows. A dot product runs over the features: which axis of q counts them?"
)
def root_of_the_number_of_queries(q, k):
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(n))
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores


@scores_of_a_tile.also_right
def with_dot(q, k):
    return np.dot(q, k.T) * q.dtype.type(q.shape[1] ** -0.5)


@scores_of_a_tile.also_right
def q_scaled_first(q, k):
    root = np.sqrt(q.dtype.type(q.shape[1]))
    out = np.zeros((q.shape[0], k.shape[0]), dtype=k.dtype)
    for i in range(q.shape[0]):
        row = q[i] / root
        for j in range(k.shape[0]):
            for c in range(k.shape[1]):
                out[i, j] += row[c] * k[j, c]
    return out


@scores_of_a_tile.also_right
def first_product_starts_the_sum(q, k):
    scale = np.empty(1, q.dtype)
    scale[0] = 1 / math.sqrt(q.shape[1])
    scores = np.empty((len(q), len(k)), q.dtype)
    for i in prange(len(q)):
        for j in range(len(k)):
            total = q[i, 0] * k[j, 0]
            for c in range(1, q.shape[1]):
                total = total + q[i, c] * k[j, c]
            scores[i, j] = scale[0] * total
    return scores


scores_of_a_tile.hints(
    "`widened(tile_scores, q, k)` names the lines. Which variable on such a line is the wide one, and where did it get its type?",
    "`q.dtype.type(0)` is a zero of q's dtype, and `q.dtype.type(x)` brings any number x to it. The scale, the sum's beginning and the result's array each need q's dtype.",
)
scores_of_a_tile.errors(
    (
        "TypingError: Cannot unify float32 and array(float32, 1d, C) for 'total'",
        "A number at first and a row later: is an index missing?",
    ),
)


# --- 11.4 ------------------------------------------------------------------------------------------------------------


def visible_tiles(i0, i1, n_q, n_k, causal, window, block_k):
    """Which tiles of keys the queries i0 .. i1-1 may see.  -> (first, stop), (0, 0) if none"""
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


walk = Exercise("11.4", "Which tiles are worth a visit?", reference=visible_tiles, minutes=15)


def tile_case(i0, i1, n_q, n_k, causal=False, window=0, block_k=4):
    return dict(i0=i0, i1=i1, n_q=n_q, n_k=n_k, causal=causal, window=window, block_k=block_k)


@walk.probe
@remembered(visible_tiles)
def drive_walk(answer, look="result", **where):
    found = in_python(answer)(*where.values())
    if look == "result":
        return found
    whole = all(isinstance(x, (int, np.integer)) for x in found)
    return {"result": found, "two whole numbers": whole, "numba": compiled_as(answer, *where.values())}


@walk.criterion("without a mask every tile, the ragged last one too", points=1)
def all_tiles(rng):
    yield tile_case(2, 4, 6, 10)
    yield tile_case(0, 3, 5, 12)
    yield tile_case(3, 4, 9, 1, block_k=16)
    yield tile_case(0, 5, 5, 13, block_k=1)


@walk.criterion("causal: up to the tile of the last query's own key, counted from the end", points=1)
def causal_range(rng):
    yield tile_case(4, 6, 8, 8, causal=True, block_k=3)
    yield tile_case(0, 3, 6, 6, causal=True, block_k=3)
    yield tile_case(0, 2, 5, 20, causal=True)
    yield tile_case(2, 4, 4, 21, causal=True, block_k=5)
    yield tile_case(1, 5, 7, 7, causal=True, block_k=1)
    yield tile_case(3, 9, 9, 7, causal=True, block_k=2)
    yield tile_case(0, 1, 5000, 5000, causal=True, block_k=4096)
    yield tile_case(1, 5, 8, 5, causal=True, block_k=1)


@walk.criterion("a window: from the tile of the first query's oldest key, and causal by itself", points=2)
def window_range(rng):
    yield tile_case(8, 10, 12, 12, window=4, block_k=3)
    yield tile_case(8, 10, 12, 12, causal=True, window=4, block_k=3)
    yield tile_case(8, 11, 12, 12, window=3, block_k=3)
    yield tile_case(0, 4, 12, 12, window=5, block_k=2)
    yield tile_case(1, 3, 4, 30, causal=True, window=9, block_k=7)
    yield tile_case(5, 6, 9, 17, window=1, block_k=6)
    yield tile_case(4, 6, 12, 12, window=1, block_k=2)
    yield tile_case(10, 20, 20, 20, causal=True, window=50, block_k=3)
    for _ in range(6):
        n_q, n_k = (int(n) for n in rng.integers(8, 60, 2))
        i0 = int(rng.integers(0, n_q - 3))
        yield tile_case(i0, i0 + 3, n_q, n_k, window=int(rng.integers(1, 20)), block_k=int(rng.integers(1, 9)))


@walk.criterion("queries that see nothing visit nothing: (0, 0); and numba compiles it", points=1)
def nothing_to_visit(rng):
    yield tile_case(0, 2, 8, 5, causal=True)
    yield tile_case(1, 4, 30, 5, causal=True)
    yield tile_case(0, 3, 8, 5, window=2, block_k=1)
    yield tile_case(1, 3, 9, 6, causal=True, window=4, block_k=2)
    yield tile_case(2, 5, 7, 11, causal=True, window=4, block_k=2) | dict(look="numba")


@walk.mistake(
    "You count keys from the first: query i sees keys up to i. Where there are more keys than queries, at which position does query i stand?"
)
def position_from_the_start(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1)
    if window > 0:
        first = max(0, i0 - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "Your last tile is that of the first query at work. A later query of the same tile sees further: which of them sees the most?"
)
def stop_of_the_first_query(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i0 + 1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "A query may attend to its own key, and yours stops one before it. The last query at work is i1 - 1; which key is the first that it may not see?"
)
def own_key_left_out(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 - 1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "One key too far: the last query at work is i1 - 1, not i1. Where the diagonal runs along the edge of a tile, that is a tile for nothing."
)
def one_key_too_far(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + 1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "The keys' count is divided by block_k without a remainder, so the ragged last tile is lost. How many tiles of 4 do 10 keys need?"
)
def ragged_tile_lost(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, stop // block_k


@walk.mistake(
    "The first tile is that of the last query's window. The first query at work reaches further back: whose oldest key decides?"
)
def window_of_the_last_query(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i1 - 1 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "Your window is one key too short or too long: the query at position p sees p - window + 1 .. p, which is `window` keys. Count them for window = 1."
)
def window_off_by_one(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "The first tile is rounded up, so a tile that holds the oldest keys in its second half is skipped. In which tile does key 7 lie if tiles hold 3?"
)
def first_tile_rounded_up(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return (first + block_k - 1) // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "You use the window only if causal is true. Here a window reaches from p - window + 1 to p, so it hides the future by itself."
)
def window_without_causal(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal:
        stop = min(n_k, i1 + n_k - n_q)
    if causal and window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "window = 0 stands for no window in this course's kernels. In yours it hides everything, or moves the first tile. Which line should not run then?"
)
def no_window_taken_for_zero_keys(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal:
        stop = min(n_k, i1 + n_k - n_q)
    first = max(0, i0 + n_k - n_q - window + 1)
    stop = min(stop, i1 + n_k - n_q)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "Where nothing is visible your range has a negative end, or starts behind its end. A loop over it runs no time, but a count of tiles goes wrong; the contract says (0, 0)."
)
def negative_range_returned(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "These are keys, and tiles were asked for: the k-th tile begins at key k · block_k. What do you divide by?"
)
def keys_for_tiles(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first, stop


@walk.mistake(
    "The second number is the last tile, and `range(first, stop)` would leave it out. Which number stands for the first tile that is not visited?"
)
def last_for_stop(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop - 1) // block_k


@walk.mistake(
    "Right in Python, and numba cannot compile it: a variable is None in one branch and a number in another, or NumPy is used in a way that numba does not know. `njit(visible_tiles)(4, 6, 8, 8, True, 0, 3)` says which line. Whole numbers, min, max and // are enough."
)
def none_for_no_limit(i0, i1, n_q, n_k, causal, window, block_k):
    limits = [None, None]
    if causal or window > 0:
        limits[1] = i1 + n_k - n_q
    if window > 0:
        limits[0] = i0 + n_k - n_q - window + 1
    first = 0 if limits[0] is None else max(0, limits[0])
    stop = n_k if limits[1] is None else min(n_k, limits[1])
    return (first // block_k, -(-stop // block_k)) if first < stop else (0, 0)


@walk.mistake(
    "The numbers are right, and one of them is a float: `/` and `np.ceil` give floats, over which no range can run. How does // round up?"
)
def stop_as_a_float(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, np.ceil(stop / block_k)


@walk.mistake(
    "Without causal your window cuts off the old keys and leaves all the later ones. Here a window ends at the query's own key, whatever causal says."
)
def window_open_to_the_future(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "Where the last visible key ends a tile, you visit one tile more. How many tiles of 4 do 8 keys need, and what does 8 // 4 + 1 give?"
)
def always_one_tile_more(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, stop // block_k + 1


@walk.mistake(
    "The end is counted from the query's position and the window's beginning from its number i. Both belong to the same position i + n_k - n_q."
)
def window_from_the_number(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake(
    "Where the first query at work stands before all keys you visit nothing, though later ones of the same block see keys. Which of them decides whether there is anything to see?"
)
def block_judged_by_its_first_query(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        if i0 + n_k - n_q < 0:
            return 0, 0
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    return first // block_k, (stop + block_k - 1) // block_k


@walk.mistake("A window that reaches back beyond the first key gives a negative tile. Where do keys begin?")
def tiles_before_the_first_key(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = i0 + n_k - n_q - window + 1
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k


@walk.also_right
def by_looking_at_every_key(i0, i1, n_q, n_k, causal, window, block_k):
    first, stop = -1, 0
    for j in range(n_k):
        for i in range(i0, i1):
            distance = i + n_k - n_q - j
            hidden = (causal or window > 0) and distance < 0
            if not hidden and not (window > 0 and distance >= window):
                if first < 0:
                    first = j // block_k
                stop = j // block_k + 1
    return max(first, 0), stop


@walk.also_right
def from_the_last_key(i0, i1, n_q, n_k, causal, window, block_k):
    offset = n_k - n_q
    last = n_k - 1
    if (causal or window > 0) and i1 - 1 + offset < last:
        last = i1 - 1 + offset
    oldest = i0 + offset - window + 1 if window > 0 else 0
    if oldest < 0:
        oldest = 0
    if last < 0 or oldest > last:
        return 0, 0
    return oldest // block_k, last // block_k + 1


walk.hints(
    "Of the queries i0 .. i1-1, which one reaches furthest back, and which one sees furthest ahead?",
    "Find the first visible key and the first key that is no longer visible, each within 0 .. n_k. Then turn keys into tiles: the first is rounded down, the second up.",
    "Begin with 0 and n_k. Either mask moves the end to the key behind the last query's own, a window the beginning to the first query's oldest. If nothing lies between, return (0, 0).",
)
walk.errors(
    (
        "TypeError: 'float' object cannot be interpreted as an integer",
        "<code>/</code> gives a float; <code>//</code> divides whole numbers and rounds down.",
    ),
)


# --- 11.5 ------------------------------------------------------------------------------------------------------------


def flash_forward(q, k, v, causal, window, block_k):
    """Attention by tiles of keys.  q (B, Hq, n_q, d), k and v (B, Hkv, n_k, ...) -> out (B, Hq, n_q, d_v), lse"""
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


KERNELS = (
    "attn_ref.attention",
    "attn_ref.tiled_attention",
    "attn_ref.flash_forward",
    "attn_ref.decode_split_kv",
    "attn_ref.numba_backend",
    "attn_ref.numba_forward",
    "attn_ref.numba_decode",
    "attn_ref.numba_backward",
    "torch.nn.functional.scaled_dot_product_attention",
)

forward = Exercise(
    "11.5",
    "Attention in one parallel loop",
    reference=flash_forward,
    minutes=45,
    time_limit=40.0,
    forbids=(*KERNELS, *AROUND_THE_SCALES),
)


def needless(seen, q, k, results, causal, window, block_k):
    """How many keys were read, a tile or more away from all that the queries written next may see.

    In an iteration reads of k and writes of out or lse alternate: what is read serves what is written next.
    """
    heads, n_q, n_k, kv_heads = q.shape[1], q.shape[2], k.shape[2], k.shape[1]
    steps = [(*event[:2], "k", event[3] // k.shape[3]) for event in seen.touched(k) if not event[2]]
    for x, size in zip(results, (results[0].shape[3], 1), strict=False):
        steps += [(*event[:2], "written", event[3] // size) for event in seen.touched(x) if event[2]]
    found, read, written, last = 0, set(), set(), None

    def left_over():
        allowed = set()
        for row in written:
            b, h, p = row // n_q // heads, row // n_q % heads, row % n_q + n_k - n_q
            first, stop = p - window + 1 if window else 0, p + 1 if causal or window else n_k
            if max(first, 0) < min(stop, n_k):
                start = (b * kv_heads + h // (heads // kv_heads)) * n_k
                near = range(max(first - block_k + 1, 0), min(stop + block_k - 1, n_k))
                allowed |= {start + j for j in near}
        return len(read - allowed)

    for _, iteration, which, rows_touched in sorted(steps, key=lambda step: step[0]):
        if iteration != last or (which == "k" and written):
            found, read, written, last = found + left_over(), set(), set(), iteration
        (read if which == "k" else written).update(rows_touched.tolist())
    return found + left_over()


@forward.probe
@remembered(flash_forward)
def drive_forward(answer, q, k, v, causal, window, block_k, look="result"):
    """What comes out; and, where a case says so, how: the loop, the keys read, the memory, or numba's types."""
    arguments = q, k, v, causal, window, block_k
    if look == "result":
        return in_python(answer)(*arguments)
    if look == "types":
        return {"out and lse": in_python(answer)(*arguments)} | kept_narrow(answer, *arguments)
    if look == "memory":
        function = in_python(answer)  # before the scales are set to 0
        found, held = weighed(lambda: function(*arguments))
        return {"out and lse": found, LIGHT: held < q.itemsize * q.shape[2] * k.shape[2] // 2}
    seen = watch(answer, *arguments)
    results = arrays_of(seen.result)
    if look == "keys":
        fitting = (
            all(isinstance(x, np.ndarray) and x.shape[:3] == q.shape[:3] for x in results) and results[0].ndim == 4
        )
        at_work = fitting and (seen.table(results[0]) == 2).any()
        widest = max((len(np.unique(event[3] // k.shape[3])) for event in seen.touched(k)), default=0)
        needed = bool(at_work) and needless(seen, q, k, results, causal, window, block_k) == 0
        return {SKIPS: needed, NARROW: widest <= block_k}
    dealt = dealt_out(seen, results, least=k.shape[0] * k.shape[1])
    inside = read_inside(seen, k) and read_inside(seen, v)
    return {"out and lse": seen.result, DEALT: dealt, INSIDE: inside} | raced_for(seen, results)


LIGHT = "never held half of n_q × n_k numbers"
SKIPS = "read only tiles that a query at work may see"
NARROW = "no more than block_k keys are read at once"
DEALT = "all of out and lse is written inside prange"
INSIDE = "keys and values are read inside prange"


def heads_case(rng, batch, heads, kv_heads, n_q, n_k, d, d_v, block_k, causal=False, window=0, **more):
    dtype, spread = more.pop("dtype", np.float64), more.pop("spread", 1.0)
    sizes = dict(q=(batch, heads, n_q, d), k=(batch, kv_heads, n_k, d), v=(batch, kv_heads, n_k, d_v))
    arrays = {name: rng.normal(size=size).astype(dtype) for name, size in sizes.items()}
    arrays["q"] *= dtype(spread)
    return arrays | dict(causal=causal, window=window, block_k=block_k) | more


@forward.criterion("every head, ragged tiles of keys, float32 and float64: out and lse", points=1, same_dtype=True)
def whole_attention(rng):
    by_hand = dict(q=np.array([[[[2.0]]]]), k=np.array([[[[0.0], [np.log(3.0) / 2]]]]), v=np.array([[[[4.0], [8.0]]]]))
    yield by_hand | dict(causal=False, window=0, block_k=1)
    yield heads_case(rng, 2, 3, 3, 5, 7, 4, 6, block_k=3)
    yield heads_case(rng, 3, 2, 2, 7, 5, 3, 3, block_k=8)
    yield heads_case(rng, 1, 1, 1, 6, 6, 6, 6, block_k=2)
    yield heads_case(rng, 1, 2, 2, 4, 9, 5, 1, block_k=1)
    yield heads_case(rng, 2, 2, 2, 70, 9, 4, 3, block_k=4)
    yield heads_case(rng, 1, 2, 2, 5, 8, 4, 3, block_k=3, dtype=np.float32)


@forward.criterion("causal and window, counted from the end; a query that sees nothing gives 0 and -inf", points=1)
def masked_attention(rng):
    yield heads_case(rng, 1, 2, 2, 6, 6, 4, 3, block_k=2, causal=True)
    yield heads_case(rng, 2, 1, 1, 5, 11, 3, 4, block_k=4, causal=True)
    yield heads_case(rng, 1, 2, 2, 7, 7, 4, 3, block_k=2, window=3)
    yield heads_case(rng, 1, 1, 1, 4, 10, 4, 5, block_k=3, causal=True, window=5)
    yield heads_case(rng, 1, 2, 2, 9, 6, 4, 3, block_k=4, causal=True)
    yield heads_case(rng, 1, 1, 1, 8, 5, 3, 2, block_k=2, window=2)
    yield heads_case(rng, 1, 1, 1, 70, 67, 3, 2, block_k=16, causal=True, window=21)


@forward.criterion("query heads find their KV head", points=1)
def shared_kv_heads(rng):
    yield heads_case(rng, 2, 6, 3, 4, 5, 3, 2, block_k=2)
    yield heads_case(rng, 1, 4, 2, 3, 6, 4, 5, block_k=4, causal=True)
    yield heads_case(rng, 2, 3, 1, 5, 4, 2, 3, block_k=3)


@forward.criterion("scores in the thousands, the largest in any tile", points=1)
def extreme_attention(rng):
    yield heads_case(rng, 1, 2, 2, 6, 9, 4, 3, block_k=2, spread=2000.0)
    steep = heads_case(rng, 1, 1, 1, 4, 8, 2, 3, block_k=2, causal=True)
    ramp = np.linspace(-1.0, 1.0, 8)[None, None, :, None] * np.ones(2)
    yield steep | dict(q=np.full((1, 1, 4, 2), 900.0), k=ramp)
    yield steep | dict(q=np.full((1, 1, 4, 2), 900.0), k=ramp - 3.0)
    yield steep | dict(q=np.full((1, 1, 4, 2), -900.0), k=ramp)


@forward.criterion("prange shares out the work, no two iterations race, no table is held", points=1)
def in_parallel(rng):
    yield heads_case(rng, 2, 4, 2, 5, 6, 3, 2, block_k=4, causal=True, look="loop")
    yield heads_case(rng, 1, 1, 1, 96, 192, 2, 2, block_k=32, look="memory")
    yield heads_case(rng, 1, 1, 1, 1, 16_000, 2, 2, block_k=32, look="memory")


@forward.criterion("only tiles of block_k keys are read that a query at work may see; numba keeps to float32", points=1)
def only_what_is_needed(rng):
    yield heads_case(rng, 1, 1, 1, 24, 24, 2, 2, block_k=3, causal=True, look="keys")
    yield heads_case(rng, 1, 1, 1, 300, 8, 2, 2, block_k=1, causal=True, look="keys")
    yield heads_case(rng, 1, 2, 1, 8, 60, 2, 2, block_k=4, window=6, look="keys")
    yield heads_case(rng, 1, 1, 1, 150, 150, 2, 2, block_k=8, window=6, look="keys")
    yield heads_case(rng, 1, 1, 1, 2, 29, 2, 2, block_k=4, look="keys")
    yield heads_case(rng, 1, 2, 2, 5, 8, 4, 3, block_k=3, causal=True, dtype=np.float32, look="types")


forward.leaves_inputs_alone(points=1)


@forward.mistake(
    "The state is not brought to the new maximum: sums taken against different maxima are added as they are. By which factor do the old sum and the old acc shrink when the maximum grows?"
)
def state_not_rescaled(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            w = np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum + w.sum()
            acc = acc + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "row_sum is brought to the new maximum and acc is not. Both are sums of exponentials taken against the maximum: what does the other one need?"
)
def only_the_sum_rescaled(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "All iterations share one acc, made once before the loop. Iterations that run at the same time write over each other's sums. Where does it have to be made to belong to one iteration?"
)
def one_acc_for_all(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    acc = np.zeros(v.shape[3], q.dtype)
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc[:] = 0
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc[:] = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Your parallel loop runs over tiles of keys, so two iterations bring the same rows of out, and the same state, up to date at once. Over what could it run so that every row has one owner?"
)
def keys_shared_out(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    row_sum = np.zeros((batch, heads, n_q), q.dtype)
    for tile in prange((n_k + block_k - 1) // block_k):
        for task in range(batch * heads * n_q):
            b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
            g, p = h // group, i + n_k - n_q
            first = max(0, p - window + 1) if window > 0 else 0
            stop = min(n_k, p + 1) if causal or window > 0 else n_k
            j0, j1 = max(tile * block_k, first), min(tile * block_k + block_k, stop)
            if j0 < j1:
                s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
                new_max = max(lse[b, h, i], s.max())
                kept, w = math.exp(lse[b, h, i] - new_max), np.exp(s - new_max)
                lse[b, h, i], row_sum[b, h, i] = new_max, row_sum[b, h, i] * kept + w.sum()
                out[b, h, i] = out[b, h, i] * kept + np.dot(w, v[b, g, j0:j1])
    for b in range(batch):
        for h in range(heads):
            for i in range(n_q):
                if row_sum[b, h, i] > 0:
                    out[b, h, i] /= row_sum[b, h, i]
                    lse[b, h, i] += math.log(row_sum[b, h, i])
    return out, lse


@forward.mistake(
    "Nothing says that iterations may run side by side: the outer loop is a plain range, so one core works and the others wait. Which word is missing?"
)
def nothing_parallel(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in range(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "A whole table of scores, n_q by n_k, is made for each head. That is what tiles are there to avoid: how many scores of a query does a kernel need at once?"
)
def table_of_scores(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        scores = np.full((n_q, n_k), q.dtype.type(-np.inf))
        for i in range(n_q):
            p = i + n_k - n_q
            first = max(0, p - window + 1) if window > 0 else 0
            stop = min(n_k, p + 1) if causal or window > 0 else n_k
            if first < stop:
                scores[i, first:stop] = np.dot(k[b, h // group, first:stop], q[b, h, i]) * scale
                largest = scores[i].max()
                w = np.exp(scores[i, first:stop] - largest)
                total = w.sum()
                out[b, h, i] = np.dot(w, v[b, h // group, first:stop]) / total
                lse[b, h, i] = largest + math.log(total)
    return out, lse


@forward.mistake(
    "For a single query you hold n_q × n_k numbers or more, such as the scores of all its keys, or a copy of k: that grows with the text. What would have to be carried from one tile of block_k keys to the next, so that a tile of scores is enough?"
)
def whole_row_of_scores(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        if first < stop:
            s = np.empty(stop - first, q.dtype)
            for j0 in range(first, stop, block_k):
                j1 = min(j0 + block_k, stop)
                s[j0 - first : j1 - first] = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            out[b, h, i] = np.dot(w, v[b, g, first:stop]) / w.sum()
            lse[b, h, i] = largest + math.log(w.sum())
    return out, lse


@forward.mistake(
    "Query heads are dealt to the KV heads in turn, h % n_kv_heads. Neighbouring query heads share a KV head: with 6 over 3, which ones read KV head 0?"
)
def heads_dealt_in_turn(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k = k.shape[2]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h % k.shape[1], i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "All query heads read the KV head of their own number, or the first one. With 6 query heads and 3 KV heads there is no KV head 5: which index does query head h need?"
)
def first_kv_head_for_all(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k = k.shape[2]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = min(h, k.shape[1] - 1), i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Causal is counted from the first key: query i sees keys up to i. The queries are the last n_q positions; at which one does query i stand?"
)
def positions_from_the_start(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "All values are right, and no work is saved: scores that nobody may see are computed and then hidden. A mask is known before the product; which tiles can the loop over keys leave out?"
)
def hidden_tiles_computed(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(0, n_k, block_k):
            j1 = min(j0 + block_k, n_k)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            for j in range(j0, j1):
                if j < first or j >= stop:
                    s[j - j0] = -np.inf
            if s.max() == -np.inf:
                continue
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Tiles in the future are left out, those behind the window are not: the loop over keys always begins at 0. Where does the oldest key of the window lie?"
)
def tiles_behind_the_window_computed(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(0, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            s[: max(0, min(first - j0, j1 - j0))] = -np.inf
            if s.max() == -np.inf:
                continue
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Tiles are skipped as wholes, and inside the last one a query sees what comes after it. What does a tile need that the diagonal runs through?"
)
def diagonal_tile_not_masked(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, n_k)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake("Keys that do not fill a tile are never visited. How many tiles of 3 do 7 keys need?")
def ragged_tile_dropped(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop - block_k + 1, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "A query's own key is missing: with causal, query i sees the key at its own position too. Which number ends the range of its keys?"
)
def own_key_missing(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Your window is one key longer than window says: position p sees p - window + 1 .. p. Count the keys for window = 1."
)
def window_one_longer(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake("The scores are not divided by √d.")
def forward_not_scaled(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1)
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "out was never divided by the sum of the exponentials. The state is unnormalised: when does the division come?"
)
def never_divided_by_the_sum(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "lse lacks the maximum. The sum was taken of exp(score - maximum); what must be added to its logarithm?"
)
def lse_without_the_maximum(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = math.log(row_sum)
    return out, lse


@forward.mistake(
    "A query that sees nothing has row_sum 0, and 0/0 is NaN. What does the contract ask for in that row of out and lse?"
)
def nan_where_nothing_was_seen(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        out[b, h, i] = acc / row_sum
        lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "No maximum is subtracted, so scores in the thousands overflow and scores below -800 vanish. What does the running maximum do for exp?"
)
def no_running_maximum(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = q.dtype.type(0)
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "acc, scale and the sums are float64, whatever q is: literals such as 0.0, and arrays made without a dtype. The results are right; `widened` names the lines. What would keep them narrow?"
)
def accumulators_in_float64(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = 1 / math.sqrt(d)
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = -np.inf, 0.0
        acc = np.zeros(v.shape[3])
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "out and lse come back in float64 for float32 inputs: `np.zeros(shape)` means float64. Which argument is missing?"
)
def results_in_float64(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]))
    lse = np.full((batch, heads, n_q), -np.inf)
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "lse is in base 2: with log₂e folded into the scale the maximum is one of base 2, and so is a log₂ of the sum. What turns it back?"
)
def lse_left_in_base_two(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = (row_max + math.log(row_sum)) * q.dtype.type(math.log2(math.e))
    return out, lse


@forward.mistake(
    "lse is the maximum of base 2 plus a natural logarithm: only the sum was turned back. By what must a maximum that holds log₂e be divided?"
)
def maximum_left_in_base_two(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max * q.dtype.type(math.log2(math.e)) + math.log(row_sum)
    return out, lse


@forward.mistake(
    "acc is brought to the new maximum and row_sum is not. Both are sums of exponentials taken against the maximum."
)
def only_acc_rescaled(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "The old state grows where it should shrink: exp(new - old) is at least 1. Against which maximum were the old exponentials taken?"
)
def factor_upside_down(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = (math.exp(new_max - row_max) if row_max > -np.inf else q.dtype.type(0)), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "The maximum of the first tile is kept for all tiles. Where a later score lies a thousand above it, exp overflows. When must the maximum grow?"
)
def maximum_of_the_first_tile(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = row_max if row_max > -np.inf else s.max()
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "row_max starts at 0, so where all scores lie far below 0 every exponential vanishes. What is the maximum of no scores?"
)
def row_max_starts_at_zero(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(0), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "The window works only where causal is true. Here a window w shows keys p-w+1 .. p, whatever causal says."
)
def window_needs_causal(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if causal and window > 0 else 0
        stop = min(n_k, p + 1) if causal else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Without causal your window leaves the future open. Here a window w shows keys p-w+1 .. p, whatever causal says."
)
def forward_window_open_to_the_future(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "You divide by the root of d_v. The scores are dot products over d features; d_v is the width of a value."
)
def root_of_the_values_width(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(v.shape[3]))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "The tile's width is written into your code, and block_k is not used: more keys are read at once than the caller allows. Which bound of the loop over keys should come from it?"
)
def tiles_of_64_whatever_is_asked(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, 64):
            j1 = min(j0 + 64, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "The work is done in a plain loop, and prange fills in what is already known: one core computes. Which loop reads the values?"
)
def computed_before_prange(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    known, known_lse = out.copy(), lse.copy()
    for task in range(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            known[b, h, i] = acc / row_sum
            known_lse[b, h, i] = row_max + math.log(row_sum)
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        out[b, h, i] = known[b, h, i]
        lse[b, h, i] = known_lse[b, h, i]
    return out, lse


@forward.mistake(
    "One iteration for each sequence: with one sequence one core works. The heads of a sequence share nothing they write; how many iterations can there be?"
)
def a_sequence_for_each_iteration(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for b in prange(batch):
        for task in range(heads * n_q):
            h, i = task // n_q, task % n_q
            g, p = h // group, i + n_k - n_q
            first = max(0, p - window + 1) if window > 0 else 0
            stop = min(n_k, p + 1) if causal or window > 0 else n_k
            row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
            acc = np.zeros(v.shape[3], q.dtype)
            for j0 in range(first, stop, block_k):
                j1 = min(j0 + block_k, stop)
                s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
                new_max = max(row_max, s.max())
                kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
                row_max, row_sum = new_max, row_sum * kept + w.sum()
                acc = acc * kept + np.dot(w, v[b, g, j0:j1])
            if row_sum > 0:
                out[b, h, i] = acc / row_sum
                lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "Keys and values are read before the loop, to be repeated, turned or copied, which holds the cache once more or several times. A kernel reads the KV head by its index: which one does query head h read?"
)
def keys_copied_for_every_query_head(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    wide_k = np.empty((batch, heads, n_k, d), k.dtype)
    for h in range(heads):
        wide_k[:, h] = k[:, h // group]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(wide_k[b, h, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "A sum or a scale is float64, whatever q is: a literal such as 0.0, `np.zeros` without a dtype, or `1 / math.sqrt(d)`. The results are right; `widened` names the lines."
)
def row_sum_in_float64(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), 0.0
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "The results are right, and the caller's q has been multiplied by the scale for good. `q *= scale` works in place; which form makes a new array?"
)
def forward_q_scaled_in_place(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    q *= scale
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(k[b, g, j0:j1], q[b, h, i])
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.mistake(
    "All visible keys are taken in one piece, however many they are: the scores of a whole row are held, and block_k plays no part. What is carried from one tile to the next, so that block_k keys at a time are enough?"
)
def all_keys_in_one_tile(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g, p = h // group, i + n_k - n_q
        first = max(0, p - window + 1) if window > 0 else 0
        stop = min(n_k, p + 1) if causal or window > 0 else n_k
        row_max, row_sum = q.dtype.type(-np.inf), q.dtype.type(0)
        acc = np.zeros(v.shape[3], q.dtype)
        for j0 in range(first, stop, n_k):
            j1 = stop
            s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
            new_max = max(row_max, s.max())
            kept, w = math.exp(row_max - new_max), np.exp(s - new_max)
            row_max, row_sum = new_max, row_sum * kept + w.sum()
            acc = acc * kept + np.dot(w, v[b, g, j0:j1])
        if row_sum > 0:
            out[b, h, i] = acc / row_sum
            lse[b, h, i] = row_max + math.log(row_sum)
    return out, lse


@forward.also_right
def tiles_of_queries(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    tiles = (n_q + 63) // 64
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, n_q, d_v), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * tiles):
        b, h, i0 = task // tiles // heads, task // tiles % heads, task % tiles * 64
        i1, g, p0 = min(i0 + 64, n_q), h // group, i0 + n_k - n_q
        row_max = np.full(i1 - i0, q.dtype.type(-1e30))
        row_sum = np.zeros(i1 - i0, q.dtype)
        acc = np.zeros((i1 - i0, d_v), q.dtype)
        stop = min(n_k, p0 + i1 - i0) if causal or window > 0 else n_k
        first = max(0, p0 - window + 1) // block_k * block_k if window > 0 else 0
        q_tile = q[b, h, i0:i1] * scale
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(q_tile, k[b, g, j0:j1].T)
            for i in range(i1 - i0):
                if causal or window > 0:
                    s[i, max(0, p0 + i + 1 - j0) :] = -np.inf
                if window > 0:
                    s[i, : max(0, p0 + i - window + 1 - j0)] = -np.inf
                old, total = row_max[i], q.dtype.type(0)
                row_max[i] = max(old, s[i].max())
                for j in range(j1 - j0):
                    s[i, j] = math.exp(s[i, j] - row_max[i])
                    total += s[i, j]
                shrink = math.exp(old - row_max[i])
                row_sum[i] = row_sum[i] * shrink + total
                acc[i] *= shrink
            acc += np.dot(s, v[b, g, j0:j1])
        for i in range(i1 - i0):
            if row_sum[i] > 0:
                out[b, h, i0 + i] = acc[i] / row_sum[i]
                lse[b, h, i0 + i] = row_max[i] + math.log(row_sum[i])
    return out, lse


@forward.also_right
def two_passes_over_the_keys(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    n_k, d_v, zero = k.shape[2], v.shape[3], q.dtype.type(0)
    root = np.sqrt(q.dtype.type(d))
    out, lse = np.empty((batch, heads, n_q, d_v), q.dtype), np.empty((batch, heads, n_q), q.dtype)
    for b in range(batch):
        for h in prange(heads):
            for i in range(n_q):
                p = i + n_k - n_q
                first, stop = 0, n_k
                if causal or window > 0:
                    stop = min(stop, p + 1)
                if window > 0:
                    first = max(first, p + 1 - window)
                keys, values = k[b, h * k.shape[1] // heads], v[b, h * k.shape[1] // heads]
                out[b, h, i] = 0
                lse[b, h, i] = -np.inf
                if first < stop:
                    largest = q.dtype.type(-np.inf)
                    for j in range(first, stop):
                        largest = max(largest, np.sum(q[b, h, i] * keys[j]) / root)
                    total = zero
                    for j in range(first, stop):
                        weight = np.exp(np.sum(q[b, h, i] * keys[j]) / root - largest)
                        total += weight
                        for c in range(d_v):
                            out[b, h, i, c] += weight * values[j, c]
                    for c in range(d_v):
                        out[b, h, i, c] /= total
                    lse[b, h, i] = largest + np.log(total)
    return out, lse


@forward.also_right
def a_thread_for_each_sequence_and_kv_head(q, k, v, causal, window, block_k):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    scale = q.dtype.type(d**-0.5)
    out = np.zeros((batch, heads, n_q, v.shape[3]), q.dtype)
    lse = np.empty((batch, heads, n_q), q.dtype)
    lse[:] = -np.inf
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * (heads // kv_heads), (g + 1) * (heads // kv_heads)):
            for i in range(n_q):
                last = i + n_k - n_q if causal or window > 0 else n_k - 1
                oldest = last - window + 1 if window > 0 else 0
                for tile in range(max(oldest, 0) // block_k, (last + block_k) // block_k):
                    j0, j1 = max(tile * block_k, oldest), min((tile + 1) * block_k, last + 1)
                    if j0 >= j1:
                        continue
                    s = np.dot(k[b, g, j0:j1], q[b, h, i]) * scale
                    top = s.max()
                    w = np.exp(s - top)
                    part = top + np.log(w.sum())
                    both = max(lse[b, h, i], part)
                    old, new = np.exp(lse[b, h, i] - both), np.exp(part - both)
                    out[b, h, i] = (out[b, h, i] * old + np.dot(w, v[b, g, j0:j1]) / w.sum() * new) / (old + new)
                    lse[b, h, i] = both + np.log(old + new)
    return out, lse


forward.hints(
    "Start with one query in each iteration. Count the rows of all heads of all sequences through: to which sequence, head and row does number t belong, by // and %?",
    "In an iteration: the KV head by index, the first visible key and the first that is not, then the online softmax of chapter 10 over tiles of keys.",
    "Make out and lse before the loop, 0 and -inf, in q's dtype. An iteration starts with row_max -inf, row_sum 0, acc zeros. For each tile: scores by np.dot, new maximum, both factors, new sum, new acc. At the end, if row_sum is above 0, it writes its row.",
)
forward.errors(
    (
        "TypingError: Cannot unify Literal[int](0) and float64 for 'row_sum'",
        "A variable has one type in all of a function. Begin <code>row_sum</code> with <code>q.dtype.type(0)</code>.",
    ),
    (
        "TypingError: Untyped global name 'visible_tiles': Cannot determine Numba type of &lt;class 'function'&gt;",
        "A compiled function calls compiled ones. Write <code>tiles_of = njit(visible_tiles)</code> above yours, and call "
        "<code>tiles_of</code>.",
    ),
)


# --- 11.6 ------------------------------------------------------------------------------------------------------------


def decode_split_kv(q, k, v, splits):
    """One query to a head against a long cache, in parts.  q (B, Hq, 1, d) -> out (B, Hq, 1, d_v), lse (B, Hq, 1)"""
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


decode = Exercise(
    "11.6",
    "Split the keys, merge the parts",
    reference=decode_split_kv,
    minutes=25,
    time_limit=20.0,
    forbids=(*KERNELS, "attn_ref.merge_partials"),
)


def most_keys_read(seen, k):
    """The largest number of keys, or of values, of one KV head that one iteration reads."""
    read = {}
    for _, iteration, _, indices in seen.touched(k):
        for row in np.unique(indices // k.shape[3]):
            read.setdefault((iteration, int(row) // k.shape[2]), set()).add(int(row))
    return max(map(len, read.values()), default=k.shape[2] + 1)


@decode.probe
@remembered(decode_split_kv)
def drive_decode(answer, q, k, v, splits, look="result"):
    if look == "result":
        return in_python(answer)(q, k, v, splits)
    if look == "types":
        return {"out and lse": in_python(answer)(q, k, v, splits)} | kept_narrow(answer, q, k, v, splits)
    seen = watch(answer, q, k, v, splits)
    dealt = seen.iterations >= k.shape[0] * k.shape[1] * splits
    short = max(most_keys_read(seen, k), most_keys_read(seen, v)) <= -(-k.shape[2] // splits)
    found = {"out and lse": seen.result, "prange is used": seen.iterations > 0, "an iteration for each part": dealt}
    found |= {
        "no iteration reads more keys than a part has": short,
        INSIDE: read_inside(seen, k) and read_inside(seen, v),
    }
    return found | raced_for(seen, arrays_of(seen.result))


def cache_case(rng, batch, heads, kv_heads, n_k, d, d_v, splits, **more):
    dtype, spread = more.pop("dtype", np.float64), more.pop("spread", 1.0)
    sizes = dict(q=(batch, heads, 1, d), k=(batch, kv_heads, n_k, d), v=(batch, kv_heads, n_k, d_v))
    arrays = {name: rng.normal(size=size).astype(dtype) for name, size in sizes.items()}
    arrays["q"] *= dtype(spread)
    return arrays | dict(splits=splits) | more


@decode.criterion("parts of equal size: out and lse are those of all keys together", points=1, same_dtype=True)
def equal_parts(rng):
    by_hand = dict(q=np.array([[[[2.0]]]]), k=np.array([[[[0.0], [np.log(3.0) / 2]]]]), v=np.array([[[[4.0], [8.0]]]]))
    yield by_hand | dict(splits=1)
    yield by_hand | dict(splits=2)
    yield cache_case(rng, 2, 3, 3, 12, 4, 5, splits=3)
    yield cache_case(rng, 1, 2, 2, 8, 4, 4, splits=4, dtype=np.float32)


@decode.criterion("a ragged last part, and more parts than keys", points=1)
def ragged_parts(rng):
    yield cache_case(rng, 2, 2, 2, 11, 3, 4, splits=3)
    yield cache_case(rng, 1, 3, 3, 9, 4, 2, splits=4)
    yield cache_case(rng, 1, 1, 1, 3, 4, 3, splits=5)
    yield cache_case(rng, 1, 2, 2, 1, 2, 3, splits=3)
    yield cache_case(rng, 1, 1, 1, 1100, 2, 2, splits=2)


@decode.criterion("query heads find their KV head; scores in the thousands", points=1)
def shared_and_extreme(rng):
    yield cache_case(rng, 2, 6, 3, 7, 3, 4, splits=2)
    yield cache_case(rng, 1, 4, 2, 10, 5, 3, splits=3)
    yield cache_case(rng, 1, 2, 2, 12, 4, 3, splits=4, spread=2000.0)
    low = cache_case(rng, 1, 1, 1, 9, 2, 3, splits=3)
    yield low | dict(q=np.full((1, 1, 1, 2), 900.0), k=np.linspace(-9.0, -3.0, 9)[None, None, :, None] * np.ones(2))
    yield low | dict(q=np.full((1, 1, 1, 2), 900.0), k=np.linspace(9.0, 3.0, 9)[None, None, :, None] * np.ones(2))


@decode.criterion("each part is read in an iteration of its own, and no two iterations race", points=1)
def parts_in_parallel(rng):
    yield cache_case(rng, 2, 4, 2, 12, 3, 2, splits=3, look="loop")
    yield cache_case(rng, 1, 1, 1, 11, 2, 3, splits=4, look="loop")
    yield cache_case(rng, 1, 1, 1, 25, 2, 3, splits=7, look="loop")


@decode.criterion("numba compiles it and keeps to float32", points=1)
def decode_compiled(rng):
    yield cache_case(rng, 1, 2, 1, 6, 3, 4, splits=2, dtype=np.float32, look="types")


decode.leaves_inputs_alone(points=1)


@decode.mistake(
    "The parts are averaged, each with the same weight. A part whose keys fit badly should count for less: what does its log-sum-exp say about its share?"
)
def parts_averaged(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.where(parts_lse[b, h] > -np.inf, q.dtype.type(1), q.dtype.type(0))
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(np.exp(parts_lse[b, h] - largest).sum())
    return out, lse


@decode.mistake(
    "Parts are weighted by their log-sum-exps. These are logarithms, and may even be negative: what turns a logarithm back into a total?"
)
def weighted_by_logarithms(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        logs = np.where(parts_lse[b, h] > -np.inf, parts_lse[b, h], q.dtype.type(0))
        out[b, h, 0] = np.dot(logs, parts[b, h]) / logs.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The last keys belong to no part: n_k // splits rounds down. With 11 keys and 3 parts, how large must a part be?"
)
def last_keys_in_no_part(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = n_k // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The last part is cut to nothing, or reads past the end: (part + 1) · size can exceed n_k. Which of the two ends a part?"
)
def incomplete_part_left_out(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 + size <= n_k:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "A part without keys spoils the whole: its sum is 0, and 0/0 is NaN. With 3 keys and 5 parts two are empty; what should they contribute?"
)
def empty_part_gives_nan(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if True:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max() if j0 < j1 else q.dtype.type(-np.inf)
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "A part without keys is left as np.empty found it, and 0 times whatever is there need not be 0. What should such a part hold?"
)
def empty_part_never_set(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.empty((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.empty((batch, heads, splits), q.dtype)
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "Each part begins where the one before it ended, and hands its end on to the next: in plain Python they follow each other, threads do not. From which number alone can a part know its first key?"
)
def end_of_a_part_carried(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    j0 = 0
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j1 = min(j0 + size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
        j0 = j1 if j1 < n_k else 0
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "In the merge e^lse overflows, as an lse in the thousands must. What can be subtracted from all the lse of a head without changing the shares?"
)
def merge_overflows(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = q.dtype.type(0)
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "Inside a part exp overflows or vanishes when scores are in the thousands. Each part needs a maximum of its own: where is it taken out, and where does it come back?"
)
def part_without_maximum(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = q.dtype.type(0)
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The maximum was taken out of the parts' sums and is missing in the result's lse. If all scores grow by 5, by how much must lse grow?"
)
def merged_without_the_maximum(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = math.log(shares.sum())
    return out, lse


@decode.mistake(
    "Each iteration adds its part to out as soon as it is done, so that the parts of a head race for the same numbers. Where could a part wait until all are finished?"
)
def merged_inside_the_loop(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    out = np.zeros((batch, heads, 1, d_v), q.dtype)
    lse = np.full((batch, heads, 1), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            part_lse = largest + math.log(w.sum())
            both = max(lse[b, h, 0], part_lse)
            old, new = math.exp(lse[b, h, 0] - both), math.exp(part_lse - both)
            out[b, h, 0] = (out[b, h, 0] * old + np.dot(w, v[b, h // group, j0:j1]) / w.sum() * new) / (old + new)
            lse[b, h, 0] = both + math.log(old + new)
    return out, lse


@decode.mistake(
    "The result is right and nothing was split: one iteration reads all keys of a head. With one head, how many cores would then be at work?"
)
def nothing_split(q, k, v, splits):
    batch, heads, _, d = q.shape
    group, scale = heads // k.shape[1], q.dtype.type(1 / math.sqrt(d))
    out, lse = np.zeros((batch, heads, 1, v.shape[3]), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        s = np.dot(k[b, h // group], q[b, h, 0]) * scale
        largest = s.max()
        w = np.exp(s - largest)
        out[b, h, 0] = np.dot(w, v[b, h // group]) / w.sum()
        lse[b, h, 0] = largest + math.log(w.sum())
    return out, lse


@decode.mistake(
    "The parts are there, and a plain range walks them one after the other. Which loop should be shared out?"
)
def parts_one_after_the_other(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in range(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in range(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "Query head h reads KV head h % n_kv_heads. Neighbours share a KV head: with 6 over 3, which one does query head 1 read?"
)
def decode_heads_in_turn(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v = k.shape[2], v.shape[3]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h % k.shape[1], j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h % k.shape[1], j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake("The scores are bare dot products: the division by √d is missing.")
def decode_not_scaled(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1)
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The parts are added up without a common total: each is normalised already, so their sum counts every part fully. What must the shares of the parts sum to?"
)
def parts_added_up(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h])
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "Right for every case, and computed in float64 for float32 inputs: parts and scale have no dtype. The cache's bytes are halved for nothing then; which lines does `widened` name?"
)
def decode_in_float64(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = 1 / math.sqrt(d)
    parts = np.zeros((batch, heads, splits, d_v))
    parts_lse = np.full((batch, heads, splits), -np.inf)
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake("out and lse come back as float64 for float32 inputs. Which argument of `np.zeros` says otherwise?")
def decode_returns_float64(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v)), np.zeros((batch, heads, 1))
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The shares are made of the parts' maxima. A part with many good keys weighs more than one with a single one: which number of a part holds its whole sum?"
)
def shares_from_the_maxima(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "lse is that of the strongest part alone. The other parts' shares belong to it too: what is missing after the largest?"
)
def lse_of_the_strongest_part(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest
    return out, lse


@decode.mistake(
    "A part's lse lacks its maximum, so parts whose scores lie a thousand apart seem alike. The sum was taken of exp(score - maximum); what is added to its logarithm?"
)
def part_lse_without_its_maximum(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The parts' outputs are not divided by their own sums, and the merge weighs them by e^lse, which holds the sum once more. In which of the two places does the sum belong?"
)
def parts_not_normalised(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1])
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "The last part takes all that is left, up to twice as much as the others: they wait for it. How large must a part be so that none is larger than ⌈n_k / splits⌉?"
)
def last_part_takes_the_rest(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = n_k // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, (part + 1) * size if part < splits - 1 else n_k
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.mistake(
    "Something is float64, whatever q is: a sum that begins with 0.0, the scale, or the parts' array without a dtype. The results are right; `widened` names the lines."
)
def merge_sums_in_float64(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        total = 0.0
        for part in range(splits):
            total += shares[part]
        out[b, h, 0] = np.dot(shares, parts[b, h]) / total
        lse[b, h, 0] = largest + math.log(total)
    return out, lse


@decode.mistake(
    "The results are right, and the caller's q has been multiplied by the scale for good. `q *= scale` works in place; which form makes a new array?"
)
def decode_q_scaled_in_place(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    q *= scale
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0])
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse


@decode.also_right
def kv_heads_share_a_visit(q, k, v, splits):
    batch, heads, _, d = q.shape
    kv_heads, n_k, d_v = k.shape[1], k.shape[2], v.shape[3]
    group, size = heads // kv_heads, -(-n_k // splits)
    state = np.zeros((batch, heads, splits, d_v + 2), q.dtype)
    state[:, :, :, 0] = -np.inf
    scale = q.dtype.type(1 / math.sqrt(d))
    for task in prange(batch * kv_heads * splits):
        part, g, b = task % splits, task // splits % kv_heads, task // (splits * kv_heads)
        for j in range(part * size, min(part * size + size, n_k)):
            for h in range(g * group, g * group + group):
                score = q.dtype.type(0)
                for c in range(d):
                    score += q[b, h, 0, c] * k[b, g, j, c]
                score = score * scale
                mine = state[b, h, part]
                top = max(mine[0], score)
                old, new = math.exp(mine[0] - top), math.exp(score - top)
                mine[0], mine[1] = top, mine[1] * old + new
                for c in range(d_v):
                    mine[2 + c] = mine[2 + c] * old + new * v[b, g, j, c]
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.empty((batch, heads, 1), q.dtype)
    for b in range(batch):
        for h in range(heads):
            top, total = state[b, h, :, 0].max(), q.dtype.type(0)
            for part in range(splits):
                share = math.exp(state[b, h, part, 0] - top)
                total += share * state[b, h, part, 1]
                for c in range(d_v):
                    out[b, h, 0, c] += share * state[b, h, part, 2 + c]
            lse[b, h, 0] = top + math.log(total)
            out[b, h, 0] /= total
    return out, lse


@decode.also_right
def parts_that_take_turns(q, k, v, splits):
    batch, heads, _, d = q.shape
    n_k, group = k.shape[2], heads // k.shape[1]
    parts = np.zeros((splits, batch, heads, v.shape[3]), q.dtype)
    totals = np.zeros((splits, batch, heads), q.dtype)
    tops = np.full((splits, batch, heads), q.dtype.type(-1e30))
    root = np.sqrt(q.dtype.type(d))
    for task in prange(splits * batch * heads):
        part, b, h = task // (batch * heads), task // heads % batch, task % heads
        for j in range(part, n_k, splits):
            score = np.dot(q[b, h, 0], k[b, h // group, j]) / root
            if score > tops[part, b, h]:
                shrink = np.exp(tops[part, b, h] - score)
                parts[part, b, h] *= shrink
                totals[part, b, h] *= shrink
                tops[part, b, h] = score
            weight = np.exp(score - tops[part, b, h])
            totals[part, b, h] += weight
            parts[part, b, h] += weight * v[b, h // group, j]
    out, lse = np.zeros((batch, heads, 1, v.shape[3]), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for b in range(batch):
        for h in range(heads):
            top = tops[:, b, h].max()
            total = q.dtype.type(0)
            for part in range(splits):
                share = np.exp(tops[part, b, h] - top)
                total += share * totals[part, b, h]
                out[b, h, 0] += share * parts[part, b, h]
            out[b, h, 0] /= total
            lse[b, h, 0] = top + np.log(total)
    return out, lse


decode.hints(
    "Two loops, one after the other: parts, then the merge. What must a part leave behind, and where?",
    "Each (sequence, head, part) has an iteration, and a place of its own for its output and log-sum-exp; 0 and -inf stand for a part without keys. A part has ⌈n_k / splits⌉ keys, the last ones fewer.",
    "In a part: scores, maximum, weights, normalised output, lse = maximum + log(sum). In the merge: the largest lse of the head, shares = exp(lse - largest), the outputs weighted by the shares over their sum, and largest + log(sum of shares).",
)
decode.errors(
    (
        "ValueError: zero-size array to reduction operation maximum which has no identity",
        "A part without keys has no maximum: 3 keys do not fill 5 parts. Ask first whether there is a key in the part.",
    ),
)


# --- 11.7 ------------------------------------------------------------------------------------------------------------


def flash_backward(q, k, v, out, lse, grad_out, causal):
    """The gradients of flash_forward, the weights computed again.  -> dq, dk, dv, shaped like q, k, v"""
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


backward = Exercise(
    "11.7",
    "Who owns a key?",
    reference=flash_backward,
    minutes=30,
    time_limit=40.0,
    forbids=(
        *KERNELS,
        *AROUND_THE_SCALES,
        "attn_ref.attention_backward",
        "attn_ref.tiled_backward",
        "attn_ref.flash_backward",
        "attn_ref.backward",
    ),
)


@backward.probe
@remembered(flash_backward)
def drive_backward(answer, q, k, v, out, lse, grad_out, causal, look="result"):
    arguments = q, k, v, out, lse, grad_out, causal
    if look == "result":
        return in_python(answer)(*arguments)
    if look == "types":
        return {"dq, dk, dv": in_python(answer)(*arguments)} | kept_narrow(answer, *arguments)
    if look == "memory":
        function = in_python(answer)  # before the scales are set to 0
        found, held = weighed(lambda: function(*arguments))
        return {"dq, dk, dv": found, "never held n_q × n_k numbers": held < q.itemsize * q.shape[2] * k.shape[2]}
    seen = watch(answer, *arguments)
    results = arrays_of(seen.result)
    dealt = seen.iterations >= q.shape[0] and read_inside(seen, v)
    found = {"dq, dk, dv": seen.result, "prange is used": seen.iterations > 0, "the work is done inside it": dealt}
    for name, one in zip(("dq", "dk", "dv"), results, strict=False):
        found[f"race for {name}"] = isinstance(one, np.ndarray) and len(seen.raced(one)) > 0
    raced = raced_for(seen, results)
    return found | {kind: raced[kind] for kind in ("race for scratch", CARRIES)}


def gradient_case(rng, batch, heads, kv_heads, n_q, n_k, d, d_v, causal=False, **more):
    dtype, spread = more.pop("dtype", np.float64), more.pop("spread", 1.0)
    sizes = dict(q=(batch, heads, n_q, d), k=(batch, kv_heads, n_k, d), v=(batch, kv_heads, n_k, d_v))
    arrays = {name: rng.normal(size=size).astype(dtype) for name, size in sizes.items()}
    arrays["q"] *= dtype(spread)
    if more.pop("far_below", False):
        arrays["q"], arrays["k"] = np.full_like(arrays["q"], 900), arrays["k"] / 1000 - 3
    grad_out = rng.normal(size=(batch, heads, n_q, d_v)).astype(dtype)
    out, lse = attn_ref.tiled_attention(**arrays, causal=causal)  # what the forward pass hands on
    return arrays | dict(out=out, lse=lse, grad_out=grad_out, causal=causal) | more


@backward.criterion("the gradients of every head, in the dtype of q", points=1, same_dtype=True)
def whole_gradients(rng):
    yield gradient_case(rng, 1, 1, 1, 1, 2, 1, 1)
    yield gradient_case(rng, 2, 2, 2, 4, 5, 3, 6)
    yield gradient_case(rng, 1, 3, 3, 5, 3, 4, 2)
    yield gradient_case(rng, 1, 1, 1, 130, 2, 1, 2)
    yield gradient_case(rng, 1, 1, 1, 2, 140, 2, 1)
    yield gradient_case(rng, 1, 2, 2, 4, 4, 4, 4, dtype=np.float32)


@backward.criterion("causal, counted from the end; a query that saw nothing adds nothing", points=1)
def masked_gradients(rng):
    yield gradient_case(rng, 1, 2, 2, 4, 4, 3, 2, causal=True)
    yield gradient_case(rng, 2, 1, 1, 3, 7, 4, 3, causal=True)
    yield gradient_case(rng, 1, 1, 1, 6, 4, 3, 5, causal=True)


@backward.criterion("a shared key collects from all its query heads; scores in the thousands", points=1)
def shared_gradients(rng):
    yield gradient_case(rng, 2, 6, 3, 3, 4, 2, 3)
    yield gradient_case(rng, 1, 4, 2, 3, 5, 3, 2, causal=True)
    yield gradient_case(rng, 1, 2, 2, 3, 5, 3, 2, spread=1500.0)
    yield gradient_case(rng, 1, 1, 1, 2, 5, 3, 2, far_below=True)


@backward.criterion("work is shared out, and no two iterations race, for shared keys and values either", points=1)
def gradients_in_parallel(rng):
    yield gradient_case(rng, 2, 4, 2, 3, 4, 2, 3, causal=True, look="loop")
    yield gradient_case(rng, 2, 2, 2, 4, 3, 3, 2, look="loop")


@backward.criterion("no table of weights is held; numba keeps to float32", points=1)
def light_gradients(rng):
    yield gradient_case(rng, 1, 1, 1, 40, 112, 1, 1, look="memory")
    yield gradient_case(rng, 1, 2, 1, 3, 4, 3, 2, causal=True, dtype=np.float32, look="types")


backward.leaves_inputs_alone(points=1)


@backward.mistake(
    "One iteration for each query head: heads that share a KV head add to the same dk and dv at the same time. Who could own a KV head, so that all that is added to it comes from one iteration?"
)
def query_heads_race_for_keys(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b in range(batch):
        for h in prange(heads):
            g = h // group
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "One iteration for each query: dq has one owner, and all queries of a head add to the same dk and dv at once. What can run in parallel without sharing a key?"
)
def queries_race_for_keys(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        g = h // group
        delta = np.dot(grad_out[b, h, i], out[b, h, i])
        stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
        for j in range(stop):
            w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
            dv[b, g, j] += w * grad_out[b, h, i]
            ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
            dq[b, h, i] += ds * k[b, g, j]
            dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "One iteration for each key: dk and dv have one owner, and now all keys add to the same dq. Whichever of the two is shared out, the other one is raced for, unless it gets a loop of its own, or the heads are shared out instead."
)
def keys_race_for_queries(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads * n_k):
        b, g, j = task // n_k // kv_heads, task // n_k % kv_heads, task % n_k
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                if not causal or j <= i + n_k - n_q:
                    delta = np.dot(grad_out[b, h, i], out[b, h, i])
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The gradients are right, and a plain range computes them on one core. Which loop has iterations that share nothing they write?"
)
def backward_not_parallel(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in range(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "δ is missing: the gradient of a score is w (dw - δ), with δ = Σ dO · O for each query. A weight can only grow at the expense of the others; what does δ take away?"
)
def delta_forgotten(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j])) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The scale is missing in dq and dk: the scores were q·k / √d, and the factor comes back by the chain rule."
)
def gradient_not_scaled(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta)
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The weights are computed again without the scale, so they are not those of the forward pass. What exactly stood in the exponent there?"
)
def weights_again_without_scale(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "exp(score) without lse is no weight: it overflows, and rows do not sum to 1. What did the forward pass keep for this?"
)
def lse_not_used(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale)
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "dv collects the gradients of the scores where the weights belong: the output is w @ v. Which factor does v meet in the forward pass?"
)
def dv_from_score_gradients(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dv[b, g, j] += ds * grad_out[b, h, i]
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "dk and dv hold the last query head of the group alone. Several heads read one key, so their gradients add up: is each assigned, or added?"
)
def only_the_last_head_kept(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            dk[b, g], dv[b, g] = 0, 0
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake("Query head h reads KV head h % n_kv_heads in your backward pass and h // group in the forward pass.")
def backward_heads_in_turn(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    scale = q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g, heads, kv_heads):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The mask of the forward pass is missing: keys that a query never saw get a gradient. Where does the range over keys end if causal is true?"
)
def future_gets_gradients(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "Causal is counted from the first key; the forward pass counted from the last. At which position does query i stand?"
)
def backward_positions_from_the_start(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "A query that saw nothing has lse -inf, and exp(score - -inf) is infinite: gradients become NaN. Which keys may it reach at all?"
)
def empty_query_gives_nan(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = max(1, min(n_k, i + 1 + n_k - n_q)) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The whole table of weights, n_q by n_k, is built again. The forward pass kept lse so that this is not needed: how many weights are at work at one time?"
)
def weights_kept_as_a_table(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            weights = np.zeros((n_q, n_k), q.dtype)
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    weights[i, j] = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    w = weights[i, j]
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "Gradients come back as float64 for float32 inputs: `np.zeros(shape)` has no dtype, and what is added to it is widened. What does `np.zeros_like` do instead?"
)
def gradients_in_float64(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The results are right for float32 too, and computed in float64 on the way: a scale without a dtype, a sum such as δ that begins with 0.0, or a wide array. Which lines does `widened` name?"
)
def gradients_widened(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, 1 / math.sqrt(d)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "There is a prange, and one core does the work: the loop that computes is a plain one, and prange only clears or copies. Which loop reads the values?"
)
def gradients_copied_in_parallel(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        dk[b, g] = 0
        dv[b, g] = 0
        dq[b, g * group : (g + 1) * group] = 0
    for task in range(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake("dk carries the scale twice. ds holds it already, in dq and dk alike.")
def dk_scaled_twice(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += scale * ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "Each query's own key gets nothing: with causal it sees the key at its own position too. Which number ends the range of its keys?"
)
def gradients_stop_before_the_own_key(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake("dq holds the last key's part alone. All keys that a query saw add to it: is it assigned, or added?")
def dq_of_the_last_key_alone(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] = ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "δ is made of the wrong pair. It belongs to a query: the dot product of its dO with its O, the output."
)
def delta_from_q(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.sum(grad_out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv


@backward.mistake(
    "The gradients are divided by the number of query heads in a group. A shared key's gradients are added up, not averaged."
)
def averaged_over_the_group(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk / q.dtype.type(group), dv / q.dtype.type(group)


@backward.mistake(
    "The gradients are right, and an argument has been overwritten: q scaled in place, or products collected in out. Which form makes a new array?"
)
def backward_q_scaled_in_place(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    q *= scale
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds / scale * q[b, h, i]
    return dq, dk, dv


@backward.also_right
def two_loops(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k, offset = k.shape[1], k.shape[2], k.shape[2] - n_q
    group, scale = heads // kv_heads, q.dtype.type(d**-0.5)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    delta = np.empty_like(lse)
    for task in prange(batch * heads * n_q):
        b, h, i = task // n_q // heads, task // n_q % heads, task % n_q
        delta[b, h, i] = (grad_out[b, h, i] * out[b, h, i]).sum()
        for j in range(n_k):
            if not causal or j <= i + offset:
                w = np.exp(np.dot(q[b, h, i], k[b, h // group, j]) * scale - lse[b, h, i])
                dw = np.dot(grad_out[b, h, i], v[b, h // group, j])
                dq[b, h, i] += w * (dw - delta[b, h, i]) * scale * k[b, h // group, j]
    for task in prange(batch * kv_heads * n_k):
        b, g, j = task // n_k // kv_heads, task // n_k % kv_heads, task % n_k
        for h in range(g * group, g * group + group):
            for i in range(n_q):
                if not causal or j <= i + offset:
                    w = np.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    dw = np.dot(grad_out[b, h, i], v[b, g, j])
                    dk[b, g, j] += w * (dw - delta[b, h, i]) * scale * q[b, h, i]
    return dq, dk, dv


@backward.also_right
def a_copy_for_each_query_head(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k, d_v = k.shape[1], k.shape[2], v.shape[3]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq = np.empty_like(q)
    own_dk, own_dv = np.zeros((batch, heads, n_k, d), k.dtype), np.zeros((batch, heads, n_k, d_v), v.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        keys, values = k[b, h // group], v[b, h // group]
        for i in range(n_q):
            stop = min(n_k, max(0, i + 1 + n_k - n_q)) if causal else n_k
            w = np.exp(np.dot(keys[:stop], q[b, h, i]) * scale - lse[b, h, i])
            dw = np.dot(values[:stop], grad_out[b, h, i])
            ds = w * (dw - np.sum(grad_out[b, h, i] * out[b, h, i])) * scale
            dq[b, h, i] = np.dot(ds, keys[:stop])
            for j in range(stop):
                own_dk[b, h, j] += ds[j] * q[b, h, i]
                own_dv[b, h, j] += w[j] * grad_out[b, h, i]
    dk, dv = np.zeros_like(k), np.zeros_like(v)
    for b in prange(batch):
        for h in range(heads):
            dk[b, h // group] += own_dk[b, h]
            dv[b, h // group] += own_dv[b, h]
    return dq, dk, dv


@backward.also_right
def tiles_of_keys(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for j0 in range(0, n_k, 8):
                j1 = min(j0 + 8, n_k)
                s = np.dot(q[b, h], k[b, g, j0:j1].T) * scale
                dw = np.dot(grad_out[b, h], v[b, g, j0:j1].T)
                for i in range(n_q):
                    delta = np.sum(grad_out[b, h, i] * out[b, h, i])
                    for j in range(j1 - j0):
                        if causal and j0 + j > i + n_k - n_q:
                            s[i, j] = 0
                            dw[i, j] = 0
                        else:
                            s[i, j] = math.exp(s[i, j] - lse[b, h, i])
                            dw[i, j] = s[i, j] * (dw[i, j] - delta) * scale
                dv[b, g, j0:j1] += np.dot(s.T, grad_out[b, h])
                dk[b, g, j0:j1] += np.dot(dw.T, q[b, h])
                dq[b, h] += np.dot(dw, k[b, g, j0:j1])
    return dq, dk, dv


@backward.also_right
def copies_for_each_query_head(q, k, v, out, lse, grad_out, causal):
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    own_dk, own_dv = np.zeros((batch, heads, n_k, d), q.dtype), np.zeros((batch, heads, n_k, v.shape[3]), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        for i in range(n_q):
            delta = (grad_out[b, h, i] * out[b, h, i]).sum()
            for j in range(n_k):
                if not causal or j <= i + n_k - n_q:
                    w = math.exp(np.dot(q[b, h, i], k[b, h // group, j]) * scale - lse[b, h, i])
                    ds = w * (np.dot(grad_out[b, h, i], v[b, h // group, j]) - delta) * scale
                    own_dv[b, h, j] += w * grad_out[b, h, i]
                    own_dk[b, h, j] += ds * q[b, h, i]
                    dq[b, h, i] += ds * k[b, h // group, j]
    for h in range(heads):
        dk[:, h // group] += own_dk[:, h]
        dv[:, h // group] += own_dv[:, h]
    return dq, dk, dv


backward.hints(
    "Which loops add to one entry of dq, of dk, of dv? Which loop can be shared out so that none is added to from two iterations, though several query heads read one KV head?",
    "An iteration for each (sequence, KV head) owns all of dk and dv that it adds to, and the dq of its query heads. Inside it are plain loops over query heads, queries and visible keys.",
    "For a query: δ = Σ grad_out · out. For each key it may see: w = exp(scale · q·k - lse), dv += w · grad_out, ds = w · (grad_out·v - δ) · scale, dq += ds · k, dk += ds · q.",
)
backward.errors(
    (
        "TypingError: No implementation of function Function(&lt;built-in function iadd&gt;) found for signature",
        "Both sides of <code>+=</code> need the same shape and kind: a row and a row. Is an index missing on one side?",
    ),
)


# --- quiz and written question ----------------------------------------------------------------------------------------

what_prange_promises = Quiz(
    "11.a",
    "A kernel with `for i in prange(1000)` gave the right result in a thousand runs on your laptop. What does that show?",
    {
        "a": (
            "It has no race, since a race would have shown in a thousand runs.",
            "A race shows only when two threads meet at the wrong moment. On one core, or with short loops, they may never "
            "meet; on the machine with 64 cores they will.",
        ),
        "b": (
            "numba found the race and put the iterations in order.",
            "numba trusts the word `prange`. It looks for sums such as `total += x` and for nothing else.",
        ),
        "c": (
            "Nothing about races: whether two iterations touch the same number is seen in the code, not in results.",
            "Yes. That is why the check looks at what each iteration touches, in plain Python, and not at a lucky result.",
        ),
        "d": (
            "That the iterations ran in order, from 0 to 999.",
            "Each thread takes a stretch of them, and the stretches run at the same time. The order is nobody's promise.",
        ),
    },
    right="c",
)

which_is_wide = Quiz(
    "11.b",
    "x holds float32. In which of these lines does numba compute in float32?",
    {
        "a": ("`y = x[i] * 0.5`", "0.5 is a float64, so the product is one. NumPy would keep float32; numba does not."),
        "b": ("`y = x[i] / 2`", "2 is an int64, and the narrowest type that holds an int64 and a float32 is float64."),
        "c": ("`y = x[i] * x.dtype.type(0.5)`", "Yes. Both factors are float32, and so is the product."),
        "d": (
            "`y = 0.0`, and later `y += x[i]`",
            "`y` has one type in all of the function. It begins as a float64, so it stays one.",
        ),
    },
    right="c",
)

who_is_idle = Quiz(
    "11.c",
    "One sequence, 8 query heads over 2 KV heads, one new token, a cache of 100,000 keys, 16 cores. What keeps them all busy?",
    {
        "a": (
            "`prange` over the queries.",
            "There is one. Fifteen cores would watch.",
        ),
        "b": (
            "`prange` over the 2 KV heads.",
            "Two cores read the whole cache while fourteen wait.",
        ),
        "c": (
            "`prange` over the query heads.",
            "Eight cores work, and four of them read the same keys each.",
        ),
        "d": (
            "`prange` over parts of the keys of each KV head, merged afterwards.",
            "Yes. 2 heads in 8 parts make 16 pieces, each key is read once, and the merge costs next to nothing.",
        ),
    },
    right="d",
)

walking_down = Quiz(
    "11.d",
    "x is a float32 array of 4,096 by 4,096 in NumPy's usual order. A loop adds up one column. Why is it slow?",
    {
        "a": (
            "Neighbours in a column lie 16,384 bytes apart, so for each number a whole line of memory is fetched.",
            "Yes. Memory comes in lines of 64 bytes as a rule, 16 numbers of a row; down a column one of them is used.",
        ),
        "b": (
            "numba copies the column first.",
            "Indexing a number copies nothing, and a view costs nothing either. It is the memory that waits.",
        ),
        "c": (
            "Columns are float64 in numba.",
            "The dtype has nothing to do with the direction in which you walk.",
        ),
        "d": (
            "Adding down a column is a race.",
            "One loop on one thread races with nobody.",
        ),
    },
    right="a",
)

right_on_my_machine = Written(
    "11.w",
    "It is right on my machine",
    minutes=10,
    rubric=(
        "Names what is raced for (the dk and dv of a shared KV head) and why it can come out right by luck; says that tests of "
        "results cannot settle it; proposes an ownership that removes the race and says what it costs; answers the claim "
        "about speed with what limits it.",
        "Names the race and a repair that works, without saying why repeated runs prove nothing, or without the cost.",
        "Says that there is a race because several threads add to one array, without saying which entries, and no repair "
        "that works.",
        "Says only that parallel code is risky, or suggests more test runs.",
    ),
)
