"""Who grades: processes of this machine side by side, or the workers of a Dask cluster. Both run `grade_here`.

A worker sees neither the database nor the folder of the run. What it is given and gives back is plain data, so a worker
that is lost costs nothing but the time to do its submission again.
"""

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import as_completed

from autograder.grading.execute import KernelFailed
from autograder.grading.results import FAILED, Graded, Submission
from autograder.grading.work import Plan, grade_submission
from autograder.sandbox import Limits, WarmProcess, kernel_manager, strongest

TRIES = 3  # for a submission whose worker, or whose kernel's start, fails
MARGIN = 120.0  # seconds beyond a submission's own budget, after which its worker is given up
LOST = "the grader itself failed on this submission ({how}), {tries} times. Its other submissions are graded; the log "
LOST += "says more. Run the same command again to try once more"

_warm = None  # this process's access to a warm process: one for all its kernels


def use(warm):
    """Let this process take its kernels from a warm process that another one started."""
    global _warm
    _warm = warm


def warm_process():
    """The warm process of this process, started on first use and ended with it."""
    global _warm
    if _warm is None:
        _warm = WarmProcess()
        _warm.start()
        atexit.register(_warm.stop)
    return _warm


def grade_here(submission: Submission, plan: Plan) -> tuple[Graded, bytes | None]:
    """Grade one submission in this process, in the strongest sandbox that this machine offers."""
    level = strongest(allow_none=plan.unsandboxed)
    graded, notebook = grade_submission(submission, plan, lambda: kernel_manager(warm_process(), level, Limits()))
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
        self.pool = ProcessPool(max_workers=count, context=context, initializer=_join, initargs=(warm, linux))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.stop()
        self.pool.join()

    def grade(self, submissions: list[Submission], plan: Plan) -> Iterator[tuple[Submission, Graded, bytes | None]]:
        """Yield (submission, Graded, notebook) for each."""
        limit = plan.budget.notebook + MARGIN
        yield from _collect(submissions, lambda one: self.pool.schedule(grade_here, (one, plan), timeout=limit))


def _join(warm, linux):
    os.setsid()  # Ctrl-C is for the grader, which then ends its workers in order
    if linux:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no worker outlives a grader that was killed
    use(warm)


class Cluster:
    """A Dask cluster, by its scheduler's address. A lost worker's submissions are done again by another."""

    def __init__(self, address: str):
        from distributed import Client

        self.client = Client(address, timeout=20, set_as_default=False)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.client.close()

    def grade(self, submissions: list[Submission], plan: Plan) -> Iterator[tuple[Submission, Graded, bytes | None]]:
        """Yield (submission, Graded, notebook) for each."""
        from distributed import as_completed as dask_as_completed

        shared = self.client.scatter(plan, broadcast=True)

        def submit(one):
            return self.client.submit(grade_here, one, shared, pure=False, retries=TRIES)

        yield from _collect(submissions, submit, dask_as_completed)


def _collect(submissions, submit, completed=as_completed):
    """Submit all, and again those whose worker failed; at last a failed Graded stands for what could not be done."""
    waiting = {submit(one): (one, 1) for one in submissions}
    while waiting:
        again = {}
        for future in completed(list(waiting)):
            one, tries = waiting.pop(future)
            try:
                graded, notebook = future.result()
            except Exception as error:  # KernelFailed, a worker that died or hung, a fault of ours
                if tries < TRIES:
                    again[submit(one)] = (one, tries + 1)
                    continue
                graded, notebook = _lost(one, error), None
            yield one, graded, notebook
        waiting = again


def _lost(submission, error):
    how = str(error) if isinstance(error, KernelFailed) else f"{type(error).__name__}: {error}"
    reason = LOST.format(how=how[:500], tries=TRIES)
    return Graded(submission.student, submission.chapter, FAILED, reason, submitted=submission.submitted)
