"""Who touches what: a parallel loop run in plain Python, with a note of every number that an iteration reads or writes.

    race = one number, two iterations of the same prange, at least one of them writing

Two threads may run two iterations at once and in any order, so a kernel with a race has no one result, though it may
come out right a thousand times. Running tells little, then; looking at what is touched tells everything. Iterations run
here in reverse, since numba promises no order. Used in course/11_numba_kernel.
"""

import math
import types
from collections import Counter

import numpy as np

from attn_ref.carried import carried
from attn_ref.watched import Log, arrays_in, bare

MAKES = ("arange", "array", "empty", "eye", "full", "linspace", "ones", "zeros")  # arrays without a watched argument
COPIES = ("ascontiguousarray", "asfortranarray")  # as NumPy's own they would not be seen
WHOLE = ("ceil", "floor", "trunc", "gcd", "lcm")  # whole numbers in Python and in numba, floats or arrays in NumPy
NOT_OURS = ("numpy", "numba", "torch", "scipy", "math", "builtins")


def watch(kernel, *arguments):
    """Run a kernel, compiled or not, in plain Python under observation.  -> Seen

    Functions that it calls are watched too; `math` and scalars behave as they do when compiled. As numba does, `prange`
    inside a prange counts as range, and `total += x` on a whole array made before the loop as a sum over iterations. A
    variable that an iteration reads before it has set it, as left by another one, is raced for too. Arrays of np.empty
    hold NaN, as they might.

    >>> def kernel(x, total):
    ...     for i in prange(len(x)):
    ...         total[0] += x[i]
    >>> from numba import prange
    >>> kernel.__globals__["prange"] = prange
    >>> watch(kernel, np.ones(3), np.zeros(1)).races
    {'total': 1}
    """
    log = Log()
    function = _replay(kernel, log, {})
    names = function.__code__.co_varnames
    given = [
        log.own(x, names[i] if i < len(names) else f"argument {i + 1}") if isinstance(x, np.ndarray) else x
        for i, x in enumerate(arguments)
    ]
    return Seen(bare(function(*given)), log)


def in_python(kernel):
    """The kernel as plain Python, with the iterations of prange in reverse, and nothing noted: fast enough for sizes
    at which every number is checked.  -> function
    """
    return _replay(kernel, Log(watching=False), {})


class Seen:
    """What a run returned, and what each iteration touched.

    `result`, `iterations` (of all parallel loops), `races`: {array: how many of its numbers are raced for}, and the
    variables `carried` from one iteration to the next. An array that the kernel makes goes by the line that makes it.
    """

    def __init__(self, result, log):
        self.result, self._log = result, log
        self.iterations, self.carried = log.iterations, sorted(log.carried)
        self.races = dict(Counter(map(log.name_of, log.raced.tolist()))) | dict.fromkeys(self.carried, 1)

    def touched(self, array):
        """What happened to an argument or a result.  -> [(when, iteration, wrote, flat indices), ...] in order"""
        when, iteration, wrote, address = self._log.flat
        start = array.__array_interface__["data"][0]
        here = (address >= start) & (address < start + array.nbytes)
        first = np.flatnonzero(np.diff(when[here], prepend=-1))
        indices = np.split((address[here] - start) // array.itemsize, first[1:])
        return list(zip(*(x[here][first].tolist() for x in (when, iteration, wrote)), indices, strict=False))

    def raced(self, array):
        """The flat indices of an argument's or a result's numbers that are raced for."""
        at = (self._log.raced - array.__array_interface__["data"][0]) // array.itemsize
        return at[(at >= 0) & (at < array.size)]

    def read_alone(self, array):
        """How many of an argument's numbers were read outside of all parallel loops, by one thread; copying is free."""
        start, found = array.__array_interface__["data"][0], np.zeros(array.size, bool)
        for addresses in self._log.alone:
            at = (np.asarray(addresses) - start) // array.itemsize
            found[at[(at >= 0) & (at < array.size)]] = True
        return int(found.sum())

    def table(self, array):
        """What each iteration did to each number: 2 wrote it, else 1 read it, else 0.  -> (iterations, size)"""
        events = self.touched(array)
        rows = {iteration: row for row, iteration in enumerate(sorted({event[1] for event in events}))}
        found = np.zeros((len(rows), array.size), int)
        for _, iteration, wrote, indices in events:
            mine = found[rows[iteration]]
            mine[indices] = np.maximum(mine[indices], 2 if wrote else 1)
        return found


class _Module:
    """A module whose functions are replaced where that is needed for watching."""

    def __init__(self, module, changed):
        self._module, self._changed = module, changed

    def __getattr__(self, name):
        return self._changed[name] if name in self._changed else getattr(self._module, name)


def _replay(function, log, done):
    """The function as plain Python whose prange, arrays and callees are watched."""
    function = getattr(function, "py_func", function)
    if function in done:
        return done[function]
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"watch takes a function, compiled by numba or not, got {type(function).__name__}")
    code, space = function.__code__, dict(function.__globals__)
    cells = tuple(types.CellType() for _ in code.co_freevars)
    copy = types.FunctionType(code, space, function.__name__, function.__defaults__, cells or None)
    copy.__kwdefaults__ = function.__kwdefaults__
    done[function] = copy
    log.codes |= set(_codes(code))
    if log.watching:
        log.carried |= carried(function)
    for cell, given in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = _stand_in(given.cell_contents, log, done)
    for name in {name for one in _codes(code) for name in one.co_names} & space.keys():
        space[name] = _stand_in(space[name], log, done)
    return copy


def _stand_in(value, log, done):
    name, home = getattr(value, "__name__", ""), getattr(value, "__module__", "") or ""
    if value is np:
        return _Module(np, {made: _making(getattr(np, made), log) for made in (*MAKES, *COPIES, "empty_like")})
    if value is math:
        return _Module(
            math, {shared: getattr(np, shared) for shared in dir(math) if shared not in WHOLE and hasattr(np, shared)}
        )
    if isinstance(value, types.ModuleType) and name == "numba":
        return _Module(value, {"prange": log.prange, "njit": _undecorated, "jit": _undecorated})
    if home.startswith("numba") and name in ("prange", "njit", "jit"):
        return log.prange if name == "prange" else _undecorated
    if hasattr(value, "py_func") or (isinstance(value, types.FunctionType) and home.split(".")[0] not in NOT_OURS):
        return _replay(value, log, done)
    return value


def _undecorated(*functions, **options):
    return functions[0] if functions and callable(functions[0]) else lambda function: function


def _making(function, log):
    def make(*arguments, **options):
        found = function(*bare(arguments), **bare(options))
        if function in (np.empty, np.empty_like) and found.dtype.kind == "f":
            found.fill(np.nan)  # whatever was there before
        for x in arrays_in(arguments):
            if not np.may_share_memory(bare(x), found):
                log.note(x, wrote=False, copied=True)
        return log.own(found)

    return make


def _codes(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
