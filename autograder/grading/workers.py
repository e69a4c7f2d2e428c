"""Who grades: processes of this machine side by side. They run `grade_here`, and so do the workers of `cluster.py`.

A worker sees neither the database nor the folder of the run. What it is given and gives back is plain data, so a worker
that is lost costs nothing but the time to do its submission again.
"""

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from multiprocessing import forkserver

from autograder.grading.client import KernelFailed
from autograder.grading.results import FAILED, Graded, Submission
from autograder.grading.work import Plan, grade_submission
from autograder.sandbox import Limits, WarmProcess, kernel_manager, strongest

TRIES = 3  # for a submission whose worker, or whose kernel's start, fails
UNDER_WAY = 100  # submissions that are handed out at a time; the others wait in this process
MARGIN = 120.0  # seconds beyond a submission's own budget, after which its worker is given up
LOST = "the grader itself failed on this submission ({how}), {tries} times. Its other submissions are graded; the log "
LOST += "says more. Run the same command again to try once more"

_warm = None  # this process's access to a warm process: one for all its kernels
_starting = threading.Lock()  # a Dask worker may have several threads


def use(warm):
    """Let this process take its kernels from a warm process that another one started."""
    global _warm
    _warm = warm


def warm_process():
    """The warm process of this process, started on first use and ended with it."""
    global _warm
    with _starting:
        if _warm is None:
            warm = WarmProcess().start().wait()
            atexit.register(warm.stop)
            _warm = warm
    return _warm


def grade_here(submission: Submission, plan: Plan) -> tuple[Graded, bytes | None]:
    """Grade one submission in this process, in the strongest sandbox that this machine offers."""
    level = strongest(allow_none=plan.unsandboxed)

    def kernel():
        return kernel_manager(warm_process(), level, Limits(), submission.files)

    graded, notebook = grade_submission(submission, plan, kernel)
    graded.stamp.sandbox = level
    return graded, notebook


class GraderFailed(Exception):
    """The grader, not the submission, is at fault; the text says how."""


def grade_with_retries(submission: Submission, plan: Plan) -> tuple[Graded, bytes | None]:
    """`grade_here`, tried again where no kernel would start. GraderFailed at last."""
    for _ in range(TRIES):
        try:
            return grade_here(submission, plan)
        except KernelFailed as error:
            how = error
    raise GraderFailed(LOST.format(how=how, tries=TRIES))


class Local:
    """Processes on this machine. A context manager; `grade` yields results in the order in which they are ready."""

    def __init__(self, count: int, warm):
        from pebble import ProcessPool

        linux = sys.platform == "linux"
        context = multiprocessing.get_context("forkserver" if linux else "spawn")
        if linux:
            context.set_forkserver_preload(["autograder.grading.workers"])
            forkserver.ensure_running()  # it imports while the gradebook is being opened
        self.pool = ProcessPool(max_workers=count, context=context, initializer=_join, initargs=(warm, linux))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.stop()
        self.pool.join()

    def grade(self, submissions: list[Submission], plan: Plan) -> Iterator[tuple[Submission, Graded, bytes | None]]:
        """Start on the submissions, and give an iterator of (submission, Graded, notebook) for each."""
        limit = plan.budget.notebook + MARGIN
        return collect_results(submissions, lambda one: self.pool.schedule(grade_here, (one, plan), timeout=limit))


def _join(warm, linux):
    os.setsid()  # Ctrl-C is for the grader, which then ends its workers in order
    gc.freeze()  # what is imported is no garbage
    gc.set_threshold(10_000, 20, 20)
    if linux:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no worker outlives a grader that was killed
    use(warm)


def collect_results(submissions, submit, wait=wait):
    """Submit all, and again those whose worker failed; at last a failed Graded stands for what could not be done.

    The first are submitted at once, before anyone asks for a result.
    """
    todo, under_way = deque((one, 1) for one in submissions), {}

    def hand_out():
        while todo and len(under_way) < UNDER_WAY:
            one, tries = todo.popleft()
            under_way[submit(one)] = one, tries

    def results():
        while todo or under_way:
            hand_out()
            for future in wait(list(under_way), return_when=FIRST_COMPLETED).done:
                one, tries = under_way.pop(future)
                try:
                    graded, notebook = future.result()
                except GraderFailed:
                    raise
                except Exception as error:  # KernelFailed, a worker that died or hung, a fault of ours
                    if tries < TRIES:
                        todo.append((one, tries + 1))
                        continue
                    graded, notebook = _lost(one, error), None
                yield one, graded, notebook

    hand_out()
    return results()


def _lost(submission, error):
    how = str(error) if isinstance(error, KernelFailed) else f"{type(error).__name__}: {error}"
    reason = LOST.format(how=how[:500], tries=TRIES)
    return Graded(submission.student, submission.chapter, FAILED, reason, submitted=submission.submitted)
