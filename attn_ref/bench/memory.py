"""How much memory a call needs at its peak, as the operating system sees it: whoever allocates, it counts.

    extra = highest resident size during the call - resident size before it

Python's own tracemalloc sees neither what numba nor what torch allocate. Used in course/08_cost and 11_numba_kernel.
"""

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

CHILD = """
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from attn_ref.bench.memory import _peak_of
space = {"__name__": "__main__"}
exec(compile(job["setup"], "setup", "exec"), space)
code = compile(job["code"], "code", "exec")
print("peak", _peak_of(lambda: exec(code, space)))
"""


def peak_memory(call, setup=""):
    """Memory that a call needs at its peak beyond what was held before it, its result included.  -> int, bytes

    A string of code runs in a fresh interpreter after `setup`, which should import, make the inputs and call once, to
    load and compile: most exact. A function runs in this process, where memory freed earlier may be used again and
    then goes uncounted. Counts what the system lends to the process, in whoever's hands, to about 1 MiB; elsewhere
    than on Linux a thread looks every millisecond, and a shorter peak may slip through.
    """
    if callable(call):
        if setup:
            raise ValueError("setup belongs to a string of code; do the preparation before passing a function")
        return _peak_of(call)
    for name, code in (("call", call), ("setup", setup)):
        if not isinstance(code, str):
            raise TypeError(f"{name} must be a string of code{' or a function' * (name == 'call')}, got {code!r:.40}")
        compile(code, name, "exec")  # a SyntaxError belongs here, not in the child
    job = json.dumps({"code": call, "setup": setup, "path": sys.path})
    run = subprocess.run([sys.executable, "-c", CHILD], input=job, capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        raise RuntimeError(f"the code failed in its own interpreter, which shares no names with this one: {last}")
    return int(run.stdout.split()[-1])


def _peak_of(call):
    """How far the process's memory rises above its present size during a call.  -> int, bytes"""
    gc.collect()
    _return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the highest mark so far
    except OSError:
        return _peak_by_looking(call)
    before = _status_bytes("VmRSS")
    result = call()  # noqa: F841, held until the mark is read: a result is memory too
    return max(0, _status_bytes("VmHWM") - before)


def _return_freed_memory():
    """What was freed before must not be lent again uncounted: glibc gives it back to the system when asked."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(field):
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status does not tell {field}")


def _peak_by_looking(call):
    """The same by a thread that looks every millisecond."""
    try:
        from psutil import Process
    except ImportError:
        raise RuntimeError(
            "peak memory cannot be measured here without psutil (pip install -c pins.txt psutil)"
        ) from None
    process, done = Process(), threading.Event()
    before = highest = process.memory_info().rss

    def look():
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        result = call()  # noqa: F841, held while the thread looks once more
        highest = max(highest, process.memory_info().rss)
    finally:
        done.set()
        thread.join()
    return highest - before
