"""Running out of memory, safely: code meets a limit in an interpreter of its own, and nothing else feels it.

    limit = what the interpreter holds after `setup` + memory_bytes

A process that asks for more than the machine has may be killed, or take its neighbours with it. One that has set itself
a limit gets an error in place of the memory, while the machine has plenty. Used in course/08_cost.
"""

import json
import subprocess
import sys

from attn_ref.shapes import real_number

CHILD = """
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from attn_ref.bench.limit import _limit_to, _is_refusal
space = {"__name__": "__main__"}
exec(compile(job["setup"], "setup", "exec"), space)
code = compile(job["code"], "code", "exec")
_limit_to(job["bytes"])
try:
    exec(code, space)
except Exception as error:
    if not _is_refusal(error):
        raise
    print("out of memory:", " ".join(str(error).split()) or type(error).__name__)
else:
    print("finished")
"""
OUTCOMES = ("finished", "out of memory")
REFUSALS = ("can't allocate memory", "cannot allocate memory", "out of memory")


def run_limited(code, memory_bytes, setup=""):
    """Whether a string of code gets by with so many bytes beyond what `setup` holds.  -> str, what happened

    It begins with "finished", with "out of memory", and then the error's own words follow, or with "not tried": the
    limit needs Linux. Both strings run in a fresh interpreter; `setup` should import and call once, to load what comes
    with a first call. What counts is memory that the process may write to, in whoever's hands, used or only asked for.
    Any other error of the code is a RuntimeError here.
    """
    for name, text in (("code", code), ("setup", setup)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string of code, got {text!r:.40}")
        compile(text, name, "exec")  # a SyntaxError belongs here, not in the child
    memory_bytes = int(real_number(memory_bytes, "memory_bytes", least=0))
    if sys.platform != "linux":
        return f"not tried: a memory limit for one process needs Linux, and this is {sys.platform}"
    job = json.dumps({"code": code, "setup": setup, "bytes": memory_bytes, "path": sys.path})
    run = subprocess.run([sys.executable, "-c", CHILD], input=job, capture_output=True, text=True)
    last = (run.stdout.strip().splitlines() or [""])[-1]
    if run.returncode or not last.startswith(OUTCOMES):
        told = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        raise RuntimeError(f"the code failed in its own interpreter, which shares no names with this one: {told}")
    return last


def _limit_to(memory_bytes):
    """Let this process have so much more than it holds now."""
    import resource  # only where there is one

    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[5]) * resource.getpagesize()  # data and stack, in pages
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = held + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _is_refusal(error):
    """Python and NumPy raise MemoryError; torch a RuntimeError with the system's words."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in REFUSALS)
