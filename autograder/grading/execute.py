"""Run a notebook's cells in a kernel that may do anything, and come back with outputs, evidence and breaches.

A cell that loops, floods, crashes or exhausts a limit is stopped; a fresh kernel then runs what stood before it again,
without it, and goes on. So it costs the exercise it belongs to and no other. One budget of time bounds the whole.
"""

import asyncio
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_output
from traitlets import Any

from autograder.grading.breaches import breach
from autograder.grading.results import Breach
from autograder.grading.testify import EVIDENCE_TYPE, call

GRACE = 2.0  # seconds between an interrupt and the end of a kernel that does not heed it
LARGEST_MESSAGE = 64 * 2**20  # bytes; evidence of right answers has some 20,000
OVERHEAD = 200  # bytes that a message costs beside its text, so that a flood of empty ones is one too
KEPT = 10_000  # characters kept of a text in an output that is more than ten times as long
KEPT_IN_ALL = 20 * 2**20  # characters of outputs kept of a notebook
STARTING = 60.0  # seconds for a kernel to be ready on a busy machine

# What a student reads.
GARBLED = "messages came that no notebook sends"
CUT = "\n[{count:,} more characters were left out]\n"
LEFT_OUT = "[left out: this notebook has more than {mib} MiB of outputs]\n"


@dataclass(frozen=True)
class Budget:
    """What a submission may take."""

    cell: float = 60.0  # seconds
    notebook: float = 300.0  # seconds
    output: float = 10.0  # MiB a cell


@dataclass
class Examined:
    """What came of running a notebook; the outputs are in the notebook itself."""

    evidence: dict = field(default_factory=dict)  # {exercise id: what its check sent}
    breaches: list[Breach] = field(default_factory=list)
    seconds: float = 0.0

    def cost(self, exercise_id):
        """The Breach that costs this exercise its points, or None."""
        found = (one for one in self.breaches if one.exercise == exercise_id and one.kind != "asked for input")
        return next(found, None)


class KernelFailed(Exception):
    """No kernel could be started: a fault of the machine or of the set-up, never of the submission."""


class _Stopped(Exception):
    """The kernel is gone, or must go, because of one cell."""

    def __init__(self, kind, **facts):
        super().__init__(kind)
        self.kind, self.facts = kind, facts


async def examine(notebook, seeds, kernel: Callable, budget=Budget(), explain=None) -> Examined:
    """Run `notebook` in place. `kernel()` gives a kernel manager; `seeds` are {"secret": ..., "public": ...}.

    A check runs its answer on the secret inputs, and on the public ones where `explain(exercise id, evidence)` asks
    for them (by default always): they serve to tell what is wrong.
    """
    examination = _Examination(notebook, seeds, kernel, budget, explain or (lambda *_: True))
    await examination.run()
    return examination.found


class _Examination:
    """One notebook on its way through as many kernels as it needs."""

    def __init__(self, notebook, seeds, kernel, budget, explain):
        self.notebook, self.seeds, self.kernel, self.budget, self.explain = notebook, seeds, kernel, budget, explain
        self.found, self.began = Examined(), time.monotonic()
        self.code = []  # indices of the cells to run
        self.done, self.barred = set(), set()  # of these: run at least once; never to be run again
        self.kept = 0  # characters of outputs
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
                if cell.source.strip():
                    self.code.append(index)

    async def run(self):
        while not self.done.issuperset(self.code):
            client = _Client(self.notebook, self.kernel(), self.budget)
            try:
                await client.start()
                await self._sit(client)
            finally:
                await client.end()
        self.found.seconds = time.monotonic() - self.began

    async def _sit(self, client):
        """Run what is left, and first again what it builds on; checks that are done need no second time."""
        for index in self.code:
            cell, again = self.notebook.cells[index], index in self.done
            check = exercise_of(cell, "check")
            if index in self.barred or (check and (again or self.found.cost(check))):
                self.done.add(index)
                continue
            try:
                await (self._check(client, index, check) if check else self._run(client, index, again))
            except _Stopped as stop:
                if stop.kind != "submission too slow" and (suspects := self._suspects(index)):
                    self.barred |= suspects
                    return
                self._note(stop, index)
                self.barred.add(index)
                self.done.add(index)
                if stop.kind == "submission too slow":
                    self._give_up()
                return
            self.done.add(index)

    def _suspects(self, index):
        """Answers to other exercises, which a breach has cost: one may have spoilt the kernel for this cell too."""
        this, found = exercise_of(self.notebook.cells[index]), set()
        for earlier in self.done - self.barred:
            other = exercise_of(self.notebook.cells[earlier], "exercise")
            if other not in (None, this) and self.found.cost(other):
                found.add(earlier)
        return found

    async def _run(self, client, index, again):
        cell = self.notebook.cells[index]
        try:
            late = await client.run(index, self._count(index), self._seconds(), again)
        finally:
            self.kept += 0 if again else _size(cell.outputs)
            if self.kept > KEPT_IN_ALL:
                cell.outputs = [new_output("stream", text=LEFT_OUT.format(mib=KEPT_IN_ALL // 2**20))]
        if late:
            self._note(late, index)
        if any(one.get("ename") == "StdinNotImplementedError" for one in cell.outputs):
            self._note(_Stopped("asked for input"), index)

    async def _check(self, client, index, exercise):
        count = self.notebook.cells[index].execution_count = self._count(index)
        evidence = None
        for purpose in ("secret", "public"):
            if purpose == "public" and not self.explain(exercise, evidence):
                break
            late = await client.testify(index, count, exercise, {purpose: self.seeds[purpose]}, self._seconds())
            if late:
                self._note(late, index)
            if isinstance(evidence, dict) and isinstance(client.evidence, dict):
                evidence = {**client.evidence, **evidence}
            elif purpose == "secret":
                evidence = client.evidence
        self.found.evidence[exercise] = evidence

    def _count(self, index):
        return self.code.index(index) + 1

    def _seconds(self):
        left = self.began + self.budget.notebook - time.monotonic()
        if left <= 0:
            raise _Stopped("submission too slow", seconds=self.budget.notebook)
        return min(self.budget.cell, left)

    def _note(self, stop, index):
        """Record a breach once, though a cell may be run several times."""
        if index not in self.done:
            cell = self.notebook.cells[index]
            first = next(iter(cell.source.strip().splitlines()), "")[:120]
            self.found.breaches.append(breach(stop.kind, exercise_of(cell), first, **stop.facts))

    def _give_up(self):
        """The time is spent: every exercise whose check has not run is told so."""
        for index in sorted(set(self.code) - self.done):
            check = exercise_of(self.notebook.cells[index], "check")
            if check and not self.found.cost(check):
                self._note(_Stopped("submission too slow", seconds=self.budget.notebook), index)
            self.done.add(index)


def exercise_of(cell, kind=None):
    """The id of the exercise that a cell answers (`exercise-2-1`) or checks (`check-2-1`), or None."""
    name, _, slug = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
    if name not in ("exercise", "check") or kind not in (None, name):
        return None
    return slug.replace("-", ".")


class _Client(NotebookClient):
    """One kernel and what it runs. nbclient collects the outputs; the limits are ours."""

    budget = Any()

    def __init__(self, notebook, manager, budget):
        # A copy, because a cell that is run again must not touch the outputs of its first run.
        super().__init__(copy.copy(notebook), km=manager, budget=budget, allow_errors=True, timeout=None)
        self.nb.cells = list(notebook.cells)
        self.store_widget_state, self.raise_on_iopub_timeout = False, False
        self.reset_execution_trackers()
        self.sent, self.limit, self.evidence = 0, 0.0, None

    async def start(self):
        """Start kernel and channels."""
        try:
            await asyncio.wait_for(self._start(), STARTING)
        except (RuntimeError, OSError, TimeoutError) as error:
            raise KernelFailed(f"no kernel could be started ({type(error).__name__}: {error})") from error

    async def _start(self):
        await self.async_start_new_kernel()
        await self.async_start_new_kernel_client()
        self.kc.iopub_channel.socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)

    async def end(self):
        """End the kernel and all it started."""
        if self.kc is not None:
            self.kc.stop_channels()
        if self.km.has_kernel:
            await self.km.shutdown_kernel(now=True)

    async def run(self, index, count, seconds, again):
        """Run a cell, on a copy if it runs `again`. Returns None, or the _Stopped that an interrupt has ended well.

        Raises _Stopped where the kernel is gone, or must go.
        """
        cell = self.nb.cells[index]
        if again:
            cell = self.nb.cells[index] = copy.deepcopy(cell)
        return await self._execute(cell, index, count, seconds, self.budget.output * 2**20)

    async def testify(self, index, count, exercise, seeds, seconds):
        """Run a check in the place of its cell; what it sends is left in `evidence`. Returns and raises like `run`."""
        cell = copy.deepcopy(self.nb.cells[index])
        cell.source, self.evidence = call(exercise, seeds), None
        return await self._execute(cell, index, count, seconds, LARGEST_MESSAGE)

    async def _execute(self, cell, index, count, seconds, limit):
        self.sent, self.limit = 0, limit
        task = asyncio.ensure_future(self.async_execute_cell(cell, index, execution_count=count))
        try:
            return await self._wait(task, seconds)
        except _Stopped:
            raise
        except Exception as error:  # nbclient's, for messages that make no sense: a cell can send whatever it likes
            self._flood()
            unknown = ("no evidence", {"how": GARBLED})
            if isinstance(error, DeadKernelError):
                unknown = ("died", {"how": "the process ended"})
            kind, facts = getattr(self.km.provisioner, "ended_by", None) or unknown
            raise _Stopped(kind, **facts) from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # else asyncio complains of what nobody looked at
            _shorten(cell)

    async def _wait(self, task, seconds):
        if await _finished(task, seconds):
            return self._flood()
        slow = _Stopped("too slow", seconds=seconds)
        if seconds < self.budget.cell:
            slow = _Stopped("submission too slow", seconds=self.budget.notebook)
        await self.km.interrupt_kernel()
        if not await _finished(task, GRACE):
            raise slow
        return self._flood() or slow

    def _flood(self):
        if self.sent > self.limit:
            raise _Stopped("output", mib=self.limit / 2**20)

    def process_message(self, msg, cell, cell_index):
        """Count what arrives; past the limit the kernel is ended and the rest is dropped."""
        content = msg["content"]
        self.sent += OVERHEAD + _size(content)
        if self.sent > self.limit:
            self.task_poll_for_reply.cancel()
            return None
        data = content.get("data") if msg["msg_type"] == "display_data" else None
        if isinstance(data, dict) and EVIDENCE_TYPE in data:
            self.evidence = data[EVIDENCE_TYPE]
            return None
        return super().process_message(msg, cell, cell_index)


async def _finished(task, seconds):
    """Wait; True when the task is over, and then what it raised is raised."""
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        task.result()
    return task.done()


def _size(value):
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _shorten(cell):
    """Keep the beginning of long text: the notebook is stored, shown in formgrader and sent back to the student."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            output.text = _cut(output.text)
        elif output.output_type == "error":
            output.evalue, output.traceback = _cut(output.evalue), [_cut(line) for line in output.traceback]
        elif "text/plain" in output.data:
            output.data["text/plain"] = _cut(output.data["text/plain"])


def _cut(text):
    if not isinstance(text, str) or len(text) <= 10 * KEPT:
        return text
    return text[:KEPT] + CUT.format(count=len(text) - KEPT)
