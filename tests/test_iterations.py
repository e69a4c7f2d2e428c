"""A kernel run under observation: what is raced for, what is read, and where numba leaves float32."""

import math

import numpy as np
import pytest
from numba import njit, prange
from numba.core.errors import TypingError

from attn_ref.iterations import in_python, watch
from attn_ref.numba_types import widened


def own_row(x, out):
    for i in prange(len(x)):
        scratch = np.zeros(x.shape[1])
        for j in range(x.shape[1]):
            scratch[j] = math.exp(x[i, j])
        out[i] = scratch.sum()


def one_scratch(x, out):
    scratch = np.zeros(x.shape[1])
    for i in prange(len(x)):
        scratch[:] = x[i]
        out[i] = scratch.sum()


def neighbour(x, out):
    for i in prange(len(x)):
        out[i] = x[i, 0] + out[i - 1]


def whole_array_sum(x, out):
    total = np.zeros(x.shape[1])
    for i in prange(len(x)):
        total += x[i]
    out[: x.shape[1]] = total


def copied_by_dot(x, out):
    turned = np.zeros((x.shape[1], x.shape[1]))
    for i in prange(len(x)):
        np.dot(x.T, x, out=turned)
        out[i] = turned[0, 0]


def counted(x, out):
    at, total = 0, 0.0
    for _ in prange(len(x)):
        out[at] = x[at, 0]
        total += x[at, 1]
        at = at + 1


def begun_where_the_last_ended(x, out):
    start = 0
    for part in prange(2):
        stop = min(start + 3, len(x))
        out[part] = x[start:stop, 0].sum()
        start = stop


def gathered(x, out):
    total, largest = 0.0, -1.0
    for i in prange(len(x)):
        total = total + x[i, 0]
        largest = max(largest, x[i, 1])
    out[0], out[1] = total, largest


def turned_round(x, out):
    left = 1.0
    for i in prange(len(x)):
        left = x[i, 0] - left
    out[0] = left


def prange_inside(x, out):
    for i in prange(len(x)):
        best = 0
        for j in prange(x.shape[1]):
            if x[i, j] > x[i, best]:
                best = j
        out[i] = best


@pytest.mark.parametrize(
    ("kernel", "raced"),
    [
        (own_row, {}),
        (one_scratch, {"scratch = np.zeros(x.shape[1])": 3}),
        (neighbour, {"out": 5}),
        (whole_array_sum, {}),
        (counted, {"at": 1}),
        (gathered, {}),
        (turned_round, {"left": 1}),
        (prange_inside, {}),
        (begun_where_the_last_ended, {"start": 1}),
        (copied_by_dot, {"turned = np.zeros((x.shape[1], x.shape[1]))": 9}),
        (njit(one_scratch), {"scratch = np.zeros(x.shape[1])": 3}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_race_is_found_whatever_touches_the_numbers(kernel, raced):
    assert watch(kernel, np.arange(15.0).reshape(5, 3), np.zeros(5)).races == raced


def test_what_is_computed_is_what_the_compiled_kernel_computes():
    x = np.random.default_rng(0).normal(size=(5, 3))
    compiled, seen, plain = np.zeros(5), np.zeros(5), np.zeros(5)
    njit(own_row)(x, compiled)
    watch(own_row, x, seen)
    in_python(own_row)(x, plain)
    assert np.allclose(compiled, seen) and np.array_equal(seen, plain)


def test_an_empty_array_holds_nothing_to_rely_on():
    def half_filled(n):
        found = np.empty(n)
        found[::2] = 1
        return found

    assert np.isnan(in_python(half_filled)(4)).tolist() == [False, True, False, True]


def test_a_table_tells_reads_from_writes():
    x, out = np.ones((2, 3)), np.zeros(2)
    seen = watch(own_row, x, out)
    assert seen.table(out).tolist() == [[2, 0], [0, 2]]
    assert seen.table(x).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert [iteration for _, iteration, _, _ in seen.touched(out)] == [1, 0]  # in reverse


def test_functions_that_a_kernel_calls_are_watched_too():
    add = njit(lambda out, x: out.__setitem__(0, out[0] + x))

    def kernel(x, out):
        for i in prange(len(x)):
            add(out, x[i, 0])

    assert watch(kernel, np.ones((3, 1)), np.zeros(1)).races == {"out": 1}


def test_what_one_thread_reads_outside_of_the_loops_is_counted_and_copies_are_not():
    def kernel(x, out):
        mine, shape = np.ascontiguousarray(x.T), np.zeros_like(x)
        out[0] = x[0].sum() + shape[0, 0]
        for i in prange(3):
            out[i] = np.ascontiguousarray(x[:, i])[0] + math.ceil(mine[i, 0])

    x = np.ones((4, 3))
    seen = watch(kernel, x, np.zeros(4))
    assert seen.read_alone(x) == 3
    assert seen.table(x).sum() == 12 and not seen.races
    assert isinstance(in_python(lambda: math.ceil(1.5))(), int)


def test_a_float32_that_grows_is_named_by_its_line():
    def half(x):
        total = x.dtype.type(0)
        for i in range(len(x)):
            total += x[i] * 0.5
        return total

    def kept(x):
        total = x.dtype.type(0)
        for i in range(len(x)):
            total += x[i] * x.dtype.type(0.5)
        return total

    assert [text for _, text in widened(half, np.ones(3, np.float32))] == ["total += x[i] * 0.5"]
    assert widened(half, np.ones(3)) == widened(kept, np.ones(3, np.float32)) == []


def test_a_wide_array_and_a_wide_helper_count_as_well():
    @njit
    def total(row):
        found = 0.0
        for number in row:
            found += number
        return row.dtype.type(found)

    def stored(x):
        wide = np.zeros(len(x))
        wide[:] = x
        return wide.astype(x.dtype)

    def called(x):
        return total(x)

    def copied(x):
        wide = x.astype(np.float64)
        return wide.astype(x.dtype)

    x = np.ones(3, np.float32)
    assert [text for _, text in widened(stored, x)] == ["wide[:] = x"]
    assert [text for _, text in widened(copied, x)] == ["wide = x.astype(np.float64)"]
    assert [text for _, text in widened(called, x)] == ["found += number"]
    assert widened(called, np.ones(3)) == []


def test_what_numba_cannot_type_is_told_by_numba():
    with pytest.raises(TypingError):
        widened(lambda x: x.max(axis=0, keepdims=True), np.ones((2, 2)))
