"""Run an answer on its cases, apart from the notebook and within a time limit.

On Linux the cases run in a forked child: a loop, a crash, a print or a changed global stays there, and the notebook
keeps its state. Where forking is unsafe (macOS, Windows) they run in place, under a timer that interrupts them.
Either way the result is one `Outcome` a case, and nothing is raised and nothing reaches stderr.
"""

import contextlib
import copy
import ctypes
import io
import json
import linecache
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
import warnings

import numpy as np

from autograder.evidence import LONGEST_PRINT, Outcome, plain

MEMORY_LIMIT = 4 * 2**30  # bytes an answer may add in its child: a MemoryError there, not a frozen laptop
CAN_FORK = sys.platform == "linux"


def collect(exercise, answer, seed, time_limit=None, watch=contextlib.nullcontext, apart=True):
    """One Outcome for every case of `exercise.cases(seed)`.

    `watch()` may give a context manager that fills a set with the forbidden functions the answer calls. `apart=False`
    runs the answer in this process where a child could be had: for a process that is thrown away afterwards.
    """
    time_limit = exercise.time_limit if time_limit is None else time_limit
    run = _in_a_child if CAN_FORK and exercise.isolate and apart else _in_place
    return run(exercise, answer, exercise.cases(seed), time_limit, watch)


def run_case(exercise, answer, arguments):
    """Call the answer once and note what happened. BaseException included: `exit()` in an answer is an outcome."""
    outcome = Outcome()
    before = {name: copy.deepcopy(value) for name, value in arguments.items()}
    out = _Limited(LONGEST_PRINT)
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        warnings.simplefilter("always")
        try:
            with np.errstate(all="warn", under="ignore"):
                outcome.value = plain(exercise.call(answer, arguments))
        except TimeLimit:
            raise
        except BaseException as error:
            # The stub's own error and no subclass: IPython's refusal of input() is one.
            outcome.status = "not attempted" if type(error) is NotImplementedError else "raised"
            outcome.error = _describe(error)
    outcome.printed = out.getvalue()
    outcome.warned = list(dict.fromkeys(str(warning.message)[:200] for warning in caught))[:3]
    outcome.changed = [name for name in before if not _same(before[name], arguments[name])]
    return outcome


class TimeLimit(BaseException):
    """Raised inside an answer that runs too long. Not an Exception, so that `except Exception` lets it pass."""


class _Limited(io.StringIO):
    """Text that keeps its beginning and forgets the rest, so that a loop that prints cannot fill the memory."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def write(self, text):
        super().write(text[: max(0, self.limit - self.tell())])
        return len(text)

    def fileno(self):
        raise OSError("this stream has no file")


def _in_a_child(exercise, answer, cases, time_limit, watch):
    """Fork; the child sends one line of JSON a case, so that a loop costs no case that came before it."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; the child starts none
        child = os.fork()
    if child == 0:
        os.close(readable)
        _serve_and_exit(exercise, answer, cases, writable, watch)
    os.close(writable)
    try:
        lines, ended = _read_lines(readable, len(cases), time.monotonic() + time_limit)
    finally:
        os.close(readable)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # and whatever the answer started
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    outcomes = [_parse(line) for line in lines[: len(cases)]]
    if len(outcomes) < len(cases):
        outcomes.append(Outcome(status="died" if ended else "too slow"))
    return outcomes + [Outcome(status="not run") for _ in cases[len(outcomes) :]]


def _serve_and_exit(exercise, answer, cases, writable, watch):
    """The child's whole life. It leaves by os._exit, so that no clean-up of the notebook's runs twice."""
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        _limit_memory()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # OpenMP's threads do not survive a fork
        with watch() as called:
            for case in cases:
                outcome = run_case(exercise, answer, case.arguments)
                outcome.called = sorted(called or ())
                line = (json.dumps(outcome.to_json()) + "\n").encode()
                while line:
                    line = line[os.write(writable, line) :]
    finally:
        os._exit(0)


def _limit_memory():
    """Allow MEMORY_LIMIT more than the notebook holds already, as far as the machine's own limit lets it."""
    import resource  # only where there is a fork

    with open("/proc/self/statm") as file:
        held = int(file.read().split()[5]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = held + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _read_lines(readable, wanted, deadline):
    """(complete lines, whether the other end closed) by the deadline."""
    received, lines = bytearray(), 0
    while lines < wanted:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([readable], [], [], left)[0]:
            return received.split(b"\n")[:-1], False
        chunk = os.read(readable, 1 << 20)
        if not chunk:
            return received.split(b"\n")[:-1], True
        received += chunk
        lines += chunk.count(b"\n")
    return received.split(b"\n")[:-1], True


def _parse(line):
    try:
        return Outcome.from_json(json.loads(line))
    except ValueError:
        return Outcome(status="died")


def _in_place(exercise, answer, cases, time_limit, watch):
    outcomes = []
    with watch() as called, _settings_put_back(), contextlib.suppress(TimeLimit), _interrupt_after(time_limit):
        for case in cases:
            outcome = run_case(exercise, answer, case.arguments)
            outcome.called = sorted(called or ())
            outcomes.append(outcome)
    if len(outcomes) < len(cases):
        outcomes.append(Outcome(status="too slow"))
    return outcomes + [Outcome(status="not run") for _ in cases[len(outcomes) :]]


@contextlib.contextmanager
def _settings_put_back():
    """Undo what an answer sets for the whole process: default dtype, gradients, random state, how arrays print."""
    torch = sys.modules.get("torch")
    with contextlib.ExitStack() as undo:
        undo.callback(random.setstate, random.getstate())
        undo.callback(np.random.set_state, np.random.get_state())
        undo.callback(sys.setrecursionlimit, sys.getrecursionlimit())
        with contextlib.suppress(OSError):  # there is none: `!rm -rf ~`
            undo.callback(os.chdir, os.getcwd())
        undo.enter_context(np.printoptions())
        if torch is not None:
            undo.callback(torch.set_default_dtype, torch.get_default_dtype())
            undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
            undo.callback(torch.set_rng_state, torch.get_rng_state())
        yield


@contextlib.contextmanager
def _interrupt_after(seconds):
    """Raise TimeLimit in this thread, again and again until it is heeded, once the time is up."""
    thread, finished = threading.get_ident(), threading.Event()

    def watch():
        wait = max(0.0, seconds)
        while not finished.wait(wait):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeLimit))
            wait = 0.2

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        while watcher.is_alive():
            with contextlib.suppress(TimeLimit):  # it may come even now
                finished.set()
                watcher.join()
        # One may be pending. It comes at the latest here; to call it off would leave Python 3.11 looking out for it
        # at every step from now on.
        with contextlib.suppress(TimeLimit):
            for _ in range(3):
                pass


def _describe(error):
    """The error's type and message, and the last line of the learner's own code that it passed through."""
    here = os.path.dirname(__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.dirname(frame.filename) != here]
    library = ("site-packages", os.path.join(os.path.dirname(here), "attn_ref"))
    own = [frame for frame in frames if not any(place in frame.filename for place in library)] or frames
    try:
        message = str(error)[:500]
    except Exception:
        message = "(its message cannot be shown)"
    found = {"type": type(error).__name__, "message": message, "line": "", "lineno": 0}
    if own:
        line = own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno)
        found.update(line=line.strip()[:200], lineno=own[-1].lineno)
    elif isinstance(error, SyntaxError):
        found.update(line=(error.text or "").strip()[:200], lineno=error.lineno or 0)
    return found


def _same(before, after):
    """Equal to the last bit and of the same type, NaN included; generators and other objects are not compared."""
    if isinstance(before, np.ndarray):
        return (
            isinstance(after, np.ndarray)
            and before.dtype == after.dtype
            and before.shape == after.shape
            and before.tobytes() == after.tobytes()
        )
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_same, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    if hasattr(before, "detach"):
        return hasattr(after, "detach") and _same(before.detach().cpu().numpy(), after.detach().cpu().numpy())
    if isinstance(before, (int, float, str)):
        return type(before) is type(after) and (before == after or before != before)
    return True
