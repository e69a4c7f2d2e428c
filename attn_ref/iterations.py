"""Who touches what: a parallel loop run in plain Python, with a note of every number that an iteration reads or writes.

    race = one number, two iterations of the same prange, at least one of them writing

Two threads may run two iterations at once and in any order, so a kernel with a race has no one result, though it may
come out right a thousand times. Running tells little, then; looking at what is touched tells everything. Iterations run
here in reverse, since numba promises no order. Used in course/11_numba_kernel.
"""

import functools
import linecache
import math
import sys
import types
from collections import Counter

import numpy as np

from attn_ref.carried import carried

MAKES = ("arange", "array", "empty", "eye", "full", "linspace", "ones", "zeros")  # arrays without a watched argument
COPIES = ("ascontiguousarray", "asfortranarray")  # as NumPy's own they would not be seen
LOOKS = ("empty_like", "full_like", "ones_like", "zeros_like", "ndim", "shape", "size", "reshape", "transpose")
READS = ("argmax", "argmin", "astype", "copy", "cumsum", "dot", "flatten", "item", "mean", "repeat", "std", "var")
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
    log = _Log()
    function = _replay(kernel, log, {})
    names = function.__code__.co_varnames
    given = [
        log.own(x, names[i] if i < len(names) else f"argument {i + 1}") if isinstance(x, np.ndarray) else x
        for i, x in enumerate(arguments)
    ]
    return Seen(_bare(function(*given)), log)


def in_python(kernel):
    """The kernel as plain Python, with the iterations of prange in reverse, and nothing noted: fast enough for sizes
    at which every number is checked.  -> function
    """
    return _replay(kernel, _Log(watching=False), {})


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


class Watched(np.ndarray):
    """An array whose reads and writes are noted. A view costs no read; what is done with it does."""

    _log = None

    def __array_finalize__(self, source):
        self._log = getattr(source, "_log", None)

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if isinstance(found, Watched):
            if _is_view(found, self):
                return found
            self._log.note(self, wrote=False)
            return self._log.own(found)
        self._log.note(self._at(key), wrote=False)
        return found

    def __setitem__(self, key, value):
        self._log.note(value, wrote=False)
        at = self._at(key)
        self._log.note(at if _is_view(at, self) else self, wrote=True)
        _bare(self)[key] = _bare(value)

    def _at(self, key):
        """The entries that a key names, as an array even if it is one number."""
        return super().__getitem__((*key, ...) if isinstance(key, tuple) else (key, ...))

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __iadd__(self, other):
        return self._log.total(self, other, np.add)

    def __imul__(self, other):
        return self._log.total(self, other, np.multiply)

    def fill(self, value):
        self[...] = value

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        log = next(x._log for x in (*inputs, *out) if isinstance(x, Watched))
        for x in inputs:
            log.note(x, wrote=False)
        for x in out:
            log.note(x, wrote=True)
        options |= {"out": tuple(map(_bare, out))} if out else {}
        found = getattr(ufunc, method)(*map(_bare, inputs), **options)
        return (out[0] if len(out) == 1 else out) if out else log.own(found)

    def __array_function__(self, function, kinds, arguments, options):
        if function.__name__ not in LOOKS:
            for x in _arrays_in((arguments, {k: x for k, x in options.items() if k != "out"})):
                self._log.note(x, wrote=False, copied=function is np.copy)
        self._log.note(options.get("out"), wrote=True)
        found = function(*_bare(arguments), **_bare(options))
        return options["out"] if options.get("out") is not None else self._log.own(found)


def _reading(name):
    def method(self, *arguments, **options):
        for x in (self, *_arrays_in(arguments)):
            self._log.note(x, wrote=False, copied=name in ("copy", "astype"))
        return self._log.own(getattr(_bare(self), name)(*_bare(arguments), **_bare(options)))

    return method


for _name in READS:
    setattr(Watched, _name, _reading(_name))


class _Log:
    """Events in order: (loop, iteration, wrote, addresses), and what was read `alone`, outside of all loops.

    Arrays are kept, so that no address comes twice.
    """

    def __init__(self, watching=True):
        self.watching, self.events, self.alone, self.kept, self.before = watching, [], [], [], set()
        self.loop, self.iteration, self.iterations, self.codes, self.carried = 0, None, 0, set(), set()

    def own(self, x, name=None):
        if isinstance(x, tuple):
            return tuple(self.own(item) for item in x)
        if not self.watching or not isinstance(x, np.ndarray) or not x.ndim:
            return x
        x = _bare(x).view(Watched)
        x._log = self
        self.kept.append((x, name or self.line()))
        if self.iteration is None and name is None:
            self.before.add(id(x))
        return x

    def line(self):
        """The line of the kernel that is running."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code not in self.codes:
            frame = frame.f_back
        if frame is None:
            return "an array of its own"
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return text or f"the array made in line {frame.f_lineno}"

    def note(self, x, wrote, copied=False):
        if not isinstance(x, Watched):
            return
        if self.iteration is not None:
            self.events.append((self.loop, self.iteration, wrote, _addresses(x)))
        elif not wrote and not copied:
            self.alone.append(_addresses(x))

    def total(self, x, other, ufunc):
        """x += other; on a whole array made before the loop numba gives each thread a total of its own."""
        if self.iteration is not None and id(x) in self.before:
            self.note(other, wrote=False)
            ufunc(_bare(x), _bare(other), out=_bare(x))
            return x
        return ufunc(x, other, out=(x,))

    def prange(self, *bounds):
        if self.iteration is not None:  # inside another: a loop like any other
            yield from range(*bounds)
            return
        self.loop += 1
        try:
            for self.iteration in reversed(range(*bounds)):
                self.iterations += 1
                yield self.iteration
        finally:
            self.iteration = None

    @functools.cached_property
    def flat(self):
        """All events, a row for each number touched: when, iteration, wrote, address."""
        lengths = [len(addresses) for *_, addresses in self.events]
        columns = [np.repeat([event[i] for event in self.events], lengths) for i in (1, 2)]
        every = [np.asarray(addresses) for *_, addresses in self.events] or [np.zeros(0, int)]
        return np.repeat(np.arange(len(lengths)), lengths), *columns, np.concatenate(every)

    @functools.cached_property
    def raced(self):
        """The addresses that two iterations of one loop touch, at least one of them writing, sorted."""
        when, iteration, wrote, address = self.flat
        loops, found = np.array([event[0] for event in self.events], int)[when], [np.zeros(0, int)]
        for loop in np.unique(loops):
            touched, number = np.unique(address[loops == loop], return_inverse=True)
            first, last, written = np.full(len(touched), 2**62), np.full(len(touched), -1), np.zeros(len(touched), bool)
            np.minimum.at(first, number, iteration[loops == loop])
            np.maximum.at(last, number, iteration[loops == loop])
            np.logical_or.at(written, number, wrote[loops == loop].astype(bool))
            found.append(touched[(first < last) & written])
        return np.unique(np.concatenate(found))

    def name_of(self, address):
        for x, name in self.kept:
            start = x.__array_interface__["data"][0]
            if start <= address < start + x.nbytes:
                return name
        return "an array of its own"


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
        found = function(*_bare(arguments), **_bare(options))
        if function in (np.empty, np.empty_like) and found.dtype.kind == "f":
            found.fill(np.nan)  # whatever was there before
        for x in _arrays_in(arguments):
            if not np.may_share_memory(_bare(x), found):
                log.note(x, wrote=False, copied=True)
        return log.own(found)

    return make


def _codes(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_view(part, whole):
    return part.base is whole or (part.base is not None and part.base is whole.base)


def _addresses(x):
    """Where the entries of an array lie in memory.  -> (x.size,)"""
    found = x.__array_interface__["data"][0]
    if not x.ndim:
        return (found,)
    found = np.array([found])
    for n, stride in zip(x.shape, x.strides, strict=True):
        found = (found[:, None] + stride * np.arange(n)).ravel()
    return found


def _bare(x):
    """The same without the notes, in tuples, lists and dictionaries too."""
    if isinstance(x, np.ndarray):
        return x.view(np.ndarray) if isinstance(x, Watched) else x
    if isinstance(x, (tuple, list)):
        return type(x)(map(_bare, x))
    return {key: _bare(item) for key, item in x.items()} if isinstance(x, dict) else x


def _arrays_in(x):
    if isinstance(x, Watched):
        yield x
    elif isinstance(x, (tuple, list, dict)):
        for item in x.values() if isinstance(x, dict) else x:
            yield from _arrays_in(item)
