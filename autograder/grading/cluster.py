"""The workers of a Dask cluster: the same work as in `workers.py`, on other machines, by bytes alone."""

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import cache

from autograder.exercise import folder_of, loadable_chapters
from autograder.grading.results import Graded, Submission
from autograder.grading.stamps import exercise_hashes, grader_hash
from autograder.grading.work import Plan
from autograder.grading.workers import GraderFailed, collect_results, grade_here
from autograder.sandbox import Refused, strongest

ANSWERING = 10.0  # seconds for a scheduler to answer
NO_CLUSTER = "no Dask scheduler answers at {address} ({error}). Start one there, or leave --cluster out"
NO_DASK = "grading on a cluster needs Dask: pip install 'attn-course[cluster]'"
CUT_OFF = "the connection to the scheduler at {address} is lost. The grades that came in are kept; run this again"
OTHER_VERSION = "the worker {worker} has another version of the course ({error}). Install there what is installed "
OTHER_VERSION += "here, start the worker again, and run this again"
DIFFERS = "its grader or its exercises differ from those of this machine"
OTHER_PACKAGES = "only one of the two machines has the packages that {chapters} need; install on both what a class "
OTHER_PACKAGES += "needs, such as `make env EXTRAS=cluster,torch,numba,triton`"
NO_SANDBOX = "the worker {worker} cannot grade. {error}"


class Cluster:
    """A Dask cluster, by its scheduler's address. A lost worker's submissions are done again by another."""

    def __init__(self, address: str):
        """Connect. GraderFailed where no scheduler answers, or where a worker has another version of the course."""
        try:
            from distributed import Client
            from distributed.comm import get_address_host_port
        except ModuleNotFoundError as error:
            raise GraderFailed(NO_DASK) from error
        logging.getLogger("distributed.client").setLevel("CRITICAL")  # what it has to say, the messages above say
        self.address = address
        try:
            get_address_host_port(address)  # of a bad address, a Client is made by half and complains as it is dropped
            self.client = Client(address, timeout=ANSWERING)
        except (OSError, ValueError) as error:
            raise GraderFailed(NO_CLUSTER.format(address=address, error=error)) from error
        for worker, found in self.client.run(version, on_error="return").items():
            if found != version():
                error = found if isinstance(found, Exception) else _difference(found, version())
                self.client.close()
                raise GraderFailed(OTHER_VERSION.format(worker=worker, error=error))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.client.close()

    def grade(self, submissions: list[Submission], plan: Plan) -> Iterator[tuple[Submission, Graded, bytes | None]]:
        """Yield (submission, Graded, notebook) for each. GraderFailed where the cluster is lost, or not fit."""
        from distributed import wait as dask_wait

        shared = self.client.submit(_same, plan, pure=False)  # a task, so that a lost worker's copy is made again

        def submit(one):
            return self.client.submit(_grade_there, one, shared, version(), pure=False)

        try:
            yield from collect_results(submissions, submit, dask_wait)
        except (CancelledError, OSError) as error:
            raise GraderFailed(CUT_OFF.format(address=self.address)) from error


@cache
def version():
    """What has to be the same on every machine that grades: hashes of the grader and of all exercises."""
    return grader_hash(), {one.number: exercise_hashes(one.number) for one in loadable_chapters()}


def _difference(one, other):
    """How two versions differ, in words: first what can be graded there, since packages are easier to forget."""
    unlike = sorted(one[1].keys() ^ other[1].keys())
    return OTHER_PACKAGES.format(chapters=", ".join(map(folder_of, unlike))) if unlike else DIFFERS


def _same(plan):
    return plan


def _grade_there(submission, plan, wanted):
    """`grade_here`, on a worker that may have come later than the run began."""
    from distributed import get_worker

    if version() != wanted:
        raise GraderFailed(OTHER_VERSION.format(worker=get_worker().address, error=_difference(version(), wanted)))
    try:
        strongest(allow_none=plan.unsandboxed)
    except Refused as error:
        raise GraderFailed(NO_SANDBOX.format(worker=get_worker().address, error=error)) from error
    return grade_here(submission, plan)
