"""Run a notebook's cells in a kernel that may do anything, and come back with outputs, evidence and breaches.

A cell that loops, floods, crashes or exhausts a limit is stopped; a fresh kernel then runs what stood before it again,
without it, and goes on. So it costs the exercise it belongs to and no other. One budget of time bounds the whole.

Checks run their answers in the kernel itself, which is thrown away anyway, and where a check follows a cell that only
defines its answer, one request runs both. At the first sign that an answer has done harm there, a fresh kernel begins
again, and from then on every check has a request of its own and every answer runs in a child of its own.
"""

import ast
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nbformat.v4 import new_output

from autograder.grading.breaches import breach
from autograder.grading.client import Budget, Client, Stopped, size_of
from autograder.grading.results import Breach

KEPT_IN_ALL = 20 * 2**20  # characters of outputs kept of a notebook
HARM = ("died", "memory", "processes", "disk")  # what an earlier answer may have done to a later cell
SKIPPED = "[an experiment of the course, which is not run when a notebook is graded]\n"
ONLY_DEFINE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
LEFT_OUT = "[left out: this notebook has more than {mib} MiB of outputs]\n"


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


async def examine(notebook, seeds, kernel: Callable, budget: Budget, explain=None, skip=frozenset()) -> Examined:
    """Run `notebook` in place. `kernel()` gives a kernel manager; `seeds` are {"secret": ..., "public": ...}.

    A check runs its answer on the secret inputs, and on the public ones where `explain(exercise id, evidence)` asks
    for them (by default always): they serve to tell what is wrong. Cells whose source is in `skip` are not run.
    """
    examination = _Examination(notebook, seeds, kernel, budget, explain or (lambda *_: True), skip)
    await examination.run()
    return examination.found


class _Examination:
    """One notebook on its way through as many kernels as it needs."""

    def __init__(self, notebook, seeds, kernel, budget, explain, skip):
        self.notebook, self.seeds, self.kernel, self.budget, self.explain = notebook, seeds, kernel, budget, explain
        self.found, self.began = Examined(), time.monotonic()
        self.code, self.numbers = [], {}  # indices of the cells to run; {index: execution count}
        self.done, self.barred = set(), set()  # of these: run at least once; never to be run again
        self.noted = set()  # (index, kind) of the breaches that are recorded
        self.kept = 0  # characters of outputs
        self.apart = False  # whether answers run in a child of the kernel
        self.along = {}  # {exercise id: evidence} of checks that ran in one request with their answers
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
                if cell.source.strip():
                    self.numbers[index] = len(self.numbers) + 1
                if cell.source in skip:
                    cell.outputs = [new_output("stream", text=SKIPPED)]
                elif cell.source.strip():
                    self.code.append(index)

    async def run(self):
        while not self.done.issuperset(self.code):
            client = Client(self.notebook, self.kernel(), self.budget)
            try:
                await client.start()
                await self._sit(client)
            finally:
                await client.end()
        self.found.seconds = time.monotonic() - self.began

    async def _sit(self, client):
        """Run what is left, and first again what it builds on; checks that are done need no second time."""
        trusting = False  # has an answer run in this kernel itself?
        for index, following in zip(self.code, [*self.code[1:], None], strict=True):
            cell, again = self.notebook.cells[index], index in self.done
            check = exercise_of(cell, "check")
            if index in self.barred or (check and (again or self.found.cost(check))):
                self.done.add(index)
                continue
            both = None if check or again or self.apart else self._checked_by(index, following)
            trusting = trusting or bool((check or both) and not self.apart)
            try:
                await (self._check(client, index, check) if check else self._run(client, index, again, both))
            except Stopped as stop:
                if trusting and not self.apart and (check or both or stop.kind in HARM):
                    self.apart = True
                    return
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

    def _checked_by(self, index, following):
        """The exercise whose answer this cell only defines and that the following cell checks, or None."""
        cell = self.notebook.cells[index]
        exercise = exercise_of(cell, "exercise")
        if following is None or exercise is None or exercise_of(self.notebook.cells[following], "check") != exercise:
            return None
        try:
            body = ast.parse(cell.source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        return exercise if all(isinstance(one, ONLY_DEFINE) for one in body) else None

    async def _run(self, client, index, again, both=None):
        """Run a cell; with `both`, in one request with the check of that exercise."""
        cell, number = self.notebook.cells[index], self.numbers[index]
        try:
            if both:
                seeds = {"secret": self.seeds["secret"]}
                late = await client.run_and_testify(index, number, both, seeds, self._seconds())
            else:
                late = await client.run(index, number, self._seconds(), again)
        finally:
            if not again:
                self._keep(cell)
        if late and not again:
            self._note(late, index)
        if any(one.get("ename") == "StdinNotImplementedError" for one in cell.outputs):
            self._note(Stopped("asked for input"), index)
        if both and client.evidence is not None:
            self.along[both] = client.evidence

    def _keep(self, cell):
        """Leave a cell its outputs, unless those of the notebook are too large together."""
        self.kept += size_of(cell.outputs)
        if self.kept > KEPT_IN_ALL:
            cell.outputs = [new_output("stream", text=LEFT_OUT.format(mib=KEPT_IN_ALL // 2**20))]

    async def _check(self, client, index, exercise):
        count = self.notebook.cells[index].execution_count = self.numbers[index]
        evidence = None
        for purpose in ("secret", "public"):
            if purpose == "public" and not self.explain(exercise, evidence):
                break
            if purpose == "secret" and exercise in self.along:
                evidence = self.along.pop(exercise)
                continue
            seeds = {purpose: self.seeds[purpose]}
            again = purpose == "public"
            late = await client.testify(index, count, exercise, seeds, self._seconds(), self.apart, again)
            if late:
                self._note(late, index)
            if isinstance(evidence, dict) and isinstance(client.evidence, dict):
                evidence = {**client.evidence, **evidence}
            elif purpose == "secret":
                evidence = client.evidence
        self.found.evidence[exercise] = evidence

    def _seconds(self):
        left = self.began + self.budget.notebook - time.monotonic()
        if left <= 0:
            raise Stopped("submission too slow", seconds=self.budget.notebook)
        return min(self.budget.cell, left)

    def _note(self, stop, index):
        """Record a breach once, though a cell may be run several times."""
        if (index, stop.kind) not in self.noted:
            self.noted.add((index, stop.kind))
            cell = self.notebook.cells[index]
            first = next(iter(cell.source.strip().splitlines()), "")[:120]
            self.found.breaches.append(breach(stop.kind, exercise_of(cell), first, **stop.facts))

    def _give_up(self):
        """The time is spent: every exercise whose check has not run is told so."""
        for index in sorted(set(self.code) - self.done):
            check = exercise_of(self.notebook.cells[index], "check")
            if check and not self.found.cost(check):
                self._note(Stopped("submission too slow", seconds=self.budget.notebook), index)
            self.done.add(index)


def exercise_of(cell, kind=None):
    """The id of the exercise that a cell answers (`exercise-2-1`) or checks (`check-2-1`), or None."""
    name, _, slug = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
    if name not in ("exercise", "check") or kind not in (None, name):
        return None
    return slug.replace("-", ".")
