"""Arrays that note what is read of them and written to them, and the log that they note it in.

Every number is known by its address in memory, so that views of one array meet in it. Part of what
`attn_ref.iterations` sees. Used in course/11_numba_kernel.
"""

import functools
import linecache
import sys

import numpy as np

LOOKS = ("empty_like", "full_like", "ones_like", "zeros_like", "ndim", "shape", "size", "reshape", "transpose")
READS = ("argmax", "argmin", "astype", "copy", "cumsum", "dot", "flatten", "item", "mean", "repeat", "std", "var")


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
        bare(self)[key] = bare(value)

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
        options |= {"out": tuple(map(bare, out))} if out else {}
        found = getattr(ufunc, method)(*map(bare, inputs), **options)
        return (out[0] if len(out) == 1 else out) if out else log.own(found)

    def __array_function__(self, function, kinds, arguments, options):
        if function.__name__ not in LOOKS:
            for x in arrays_in((arguments, {k: x for k, x in options.items() if k != "out"})):
                self._log.note(x, wrote=False, copied=function is np.copy)
        self._log.note(options.get("out"), wrote=True)
        found = function(*bare(arguments), **bare(options))
        return options["out"] if options.get("out") is not None else self._log.own(found)


def _reading(name):
    def method(self, *arguments, **options):
        for x in (self, *arrays_in(arguments)):
            self._log.note(x, wrote=False, copied=name in ("copy", "astype"))
        return self._log.own(getattr(bare(self), name)(*bare(arguments), **bare(options)))

    return method


for _name in READS:
    setattr(Watched, _name, _reading(_name))


class Log:
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
        x = bare(x).view(Watched)
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
            ufunc(bare(x), bare(other), out=bare(x))
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


def bare(x):
    """The same without the notes, in tuples, lists and dictionaries too."""
    if isinstance(x, np.ndarray):
        return x.view(np.ndarray) if isinstance(x, Watched) else x
    if isinstance(x, (tuple, list)):
        return type(x)(map(bare, x))
    return {key: bare(item) for key, item in x.items()} if isinstance(x, dict) else x


def arrays_in(x):
    """The watched arrays among nested tuples, lists and values of dictionaries, one after the other."""
    if isinstance(x, Watched):
        yield x
    elif isinstance(x, (tuple, list, dict)):
        for item in x.values() if isinstance(x, dict) else x:
            yield from arrays_in(item)
