"""One kernel, and one cell at a time in it, within limits. nbclient collects the outputs; the limits are ours."""

import asyncio
import copy
from dataclasses import dataclass

import zmq
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from traitlets import Any

from autograder.grading.testify import EVIDENCE_TYPE, call

GRACE = 2.0  # seconds between an interrupt and the end of a kernel that does not heed it
LARGEST_MESSAGE = 64 * 2**20  # bytes; evidence of right answers has some 20,000
OVERHEAD = 200  # bytes that a message costs beside its text, so that a flood of empty ones is one too
KEPT = 10_000  # characters kept of a text in an output that is more than ten times as long
STARTING = 60.0  # seconds for a kernel to be ready on a busy machine
# What a student reads.
GARBLED = "messages came that no notebook sends"
CUT = "\n[{count:,} more characters were left out]\n"


@dataclass(frozen=True)
class Budget:
    """What a submission may take."""

    cell: float = 60.0  # seconds
    notebook: float = 300.0  # seconds
    output: float = 10.0  # MiB a cell


class KernelFailed(Exception):
    """No kernel could be started: a fault of the machine or of the set-up, never of the submission."""


class Stopped(Exception):
    """The kernel is gone, or must go, because of one cell."""

    def __init__(self, kind, **facts):
        super().__init__(kind)
        self.kind, self.facts = kind, facts


class Client(NotebookClient):
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
        """End the kernel and all it started, and close what leads to it, even if the kernel is gone.

        A socket left to the garbage collector could stop this process for good: its context waits for it.
        """
        if self.kc is not None:
            self.kc.stop_channels()
        await self.km.shutdown_kernel(now=True)

    async def run(self, index, count, seconds, again):
        """Run a cell, on a copy if it runs `again`. Returns None, or the Stopped that an interrupt has ended well.

        Raises Stopped where the kernel is gone, or must go.
        """
        cell = self.nb.cells[index]
        if again:
            cell = self.nb.cells[index] = copy.deepcopy(cell)
        return await self._execute(cell, index, count, seconds, self.budget.output * 2**20)

    async def run_and_testify(self, index, count, exercise, seeds, seconds):
        """Run a cell and then its check, in one request. Returns and raises like `run`.

        What the check sends is left in `evidence`: None where the cell has failed or something has gone wrong.
        """
        cell, self.evidence = self.nb.cells[index], None
        self.kc.then = call(exercise, seeds, apart=False, along=True)
        try:
            late = await self._execute(cell, index, count, seconds, LARGEST_MESSAGE)
        finally:
            self.kc.then = ""
        if late or any(one.output_type == "error" for one in cell.outputs):
            self.evidence = None
        return late

    async def testify(self, index, count, exercise, seeds, seconds, apart, again=False):
        """Run a check in the place of its cell; what it sends is left in `evidence`. Returns and raises like `run`.

        A check that runs `again` is not counted, so that the cells after it have the numbers that they have at home.
        """
        cell = copy.deepcopy(self.nb.cells[index])
        cell.source, self.evidence = call(exercise, seeds, apart), None
        return await self._execute(cell, index, count, seconds, LARGEST_MESSAGE, counted=not again)

    async def _execute(self, cell, index, count, seconds, limit, counted=True):
        self.sent, self.limit = 0, limit
        running = self.async_execute_cell(cell, index, execution_count=count, store_history=counted)
        task = asyncio.ensure_future(running)
        try:
            return await self._wait(task, seconds)
        except Stopped:
            raise
        except Exception as error:  # nbclient's, for messages that make no sense: a cell can send whatever it likes
            self._flood()
            unknown = ("no evidence", {"how": GARBLED})
            if isinstance(error, DeadKernelError):
                unknown = ("died", {"how": "the process ended"})
            kind, facts = getattr(self.km.provisioner, "ended_by", None) or unknown
            raise Stopped(kind, **facts) from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # else asyncio complains of what nobody looked at
            _shorten(cell)

    async def _wait(self, task, seconds):
        if await _finished(task, seconds):
            return self._flood()
        slow = Stopped("too slow", seconds=seconds)
        if seconds < self.budget.cell:
            slow = Stopped("submission too slow", seconds=self.budget.notebook)
        await self.km.interrupt_kernel()
        if not await _finished(task, GRACE):
            raise slow
        return self._flood() or slow

    def _flood(self):
        if self.sent > self.limit:
            raise Stopped("output", mib=self.limit / 2**20)

    def process_message(self, msg, cell, cell_index):
        """Count what arrives; past the limit the kernel is ended and the rest is dropped."""
        content = msg["content"]
        self.sent += OVERHEAD + size_of(content)
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


def size_of(value):
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, list) else 8


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
