"""A kernel is compiled once for each dtype, in seconds, and kept on disk, so that the next process starts at once.

Left to itself, numba would compile anew for each way of broadcasting a mask, and would not notice when a step that a
kernel calls has changed. Used in course/11_numba_kernel.
"""

import functools
import os
import sys
from pathlib import Path

import numba

# Scores of -inf must weigh nothing and NaN must stay NaN, so "fast" stops short of assuming that neither occurs.
FAST = {"contract", "reassoc", "arcp", "nsz"}
COMPILE = {"parallel": True, "cache": True, "fastmath": FAST}
_compiled = {}
_started_by = set()  # the process that started numba's threads


def run(kernel, *arguments):
    """Call a kernel; what it may not know of its arguments beforehand is the layout of the masks, a tuple."""
    key = kernel, arguments[0].dtype
    if key not in _compiled:
        _forget_if_stale(Path(kernel.stats.cache_path))
        types = (numba.typeof(x) for x in arguments)
        types = tuple(_any_layout(x) if isinstance(x, numba.types.Tuple) else x for x in types)
        _compiled[key] = numba.njit(types, **COMPILE)(kernel.py_func)
    _started_by.add(os.getpid())
    _compiled[key](*arguments)


def workers():
    """How many threads numba works with. Starting them sets the number of torch's too (one OpenMP): put it back."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    count = numba.get_num_threads()
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)
    return count


def threads_lost():
    """Whether this process was forked from one that had run kernels: their threads are not here, a call would abort."""
    return bool(_started_by) and os.getpid() not in _started_by


def _any_layout(arrays):
    return numba.types.Tuple([x.copy(layout="A", readonly=True) for x in arrays])


@functools.cache
def _forget_if_stale(cache):
    """numba compiles a kernel again when its own file has changed, but not when the steps that it calls have."""
    changed = max(path.stat().st_mtime for path in Path(__file__).parent.glob("numba_*.py"))
    for index in cache.glob("numba_*.nbi"):
        if index.stat().st_mtime < changed:
            index.unlink(missing_ok=True)
