"""Grade one submission: bytes in, bytes out. No database and no shared folder, so it runs anywhere.

Whatever a submission does, it comes back graded, partly graded, or failed with a reason.
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

import nbformat
from jupyter_core.utils import run_sync

import attn_ref
from autograder.exercise import chapters, folder_of, load_chapter
from autograder.grading import policy, stamps, verdict
from autograder.grading.breaches import breach
from autograder.grading.cells import slot_of
from autograder.grading.client import Budget
from autograder.grading.execute import examine, exercise_of
from autograder.grading.mend import answers, mend
from autograder.grading.results import FAILED, PARTLY, Flag, Graded, Mark, Reading, Stamp, Submission
from autograder.judge import Report
from autograder.notebook import SEED
from autograder.reports.clean import clean_notebook

POLICIES = ("zero", "warn")
BY_POLICY = "0 by the course's policy: {message}"


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know beside the submission. Plain data, the same for a whole run."""

    seed: int  # secret
    releases: dict[str, bytes]  # {chapter: its released notebook}
    unsandboxed: bool = False  # whether to go on where no sandbox is to be had
    budget: Budget = field(default_factory=Budget)
    policy: str = "zero"  # what a forbidden call does: it takes the points, or only tells the instructor ("warn")

    def settings(self):
        """What may change a grade beside code and content, as text."""
        return json.dumps({"policy": self.policy, **vars(self.budget)}, sort_keys=True)


def grade_submission(submission: Submission, plan: Plan, kernel: Callable) -> tuple[Graded, bytes | None]:
    """The Graded, and the notebook as executed (None where there is none).

    `kernel()` gives a kernel manager. KernelFailed where none starts: the machine's fault, and worth another try.
    """
    began = time.monotonic()
    chapter = chapter_of(submission.chapter)
    graded = Graded(submission.student, submission.chapter, submitted=submission.submitted)
    release = copy.deepcopy(_read_release(plan.releases[chapter.folder]))
    mended = mend(submission.notebook, release, chapter)
    graded.notes = [*submission.notes, *mended.notes]
    graded.breaches = list(mended.breaches)
    graded.readings = [Reading(one.id, one.title, one.points) for one in chapter.written.values()]
    content = None
    if mended.notebook is None:
        graded.status, graded.reason = FAILED, " ".join(one.message for one in mended.breaches)
        graded.marks = [verdict.mark_without(one, mended.breaches[0]) for one in chapter.exercises.values()]
    else:
        graded.answers = answers(mended.notebook, chapter)
        graded.flags = forbidden(mended.notebook, chapter)
        run_and_judge(graded, mended.notebook, chapter, plan, kernel, experiments(release))
        _read_written(graded, mended.notebook, release, chapter)
        content = nbformat.writes(clean_notebook(mended.notebook), version=4).encode()
    graded.stamp = stamp_of(submission, plan, time.monotonic() - began)
    return graded, content


@lru_cache(maxsize=20)  # reading a notebook validates it, which takes longer than copying it
def _read_release(content: bytes):
    return nbformat.reads(content.decode(), as_version=4)


def chapter_of(folder: str):
    """The chapter with this folder's name, or a KeyError that lists them."""
    known = {folder_of(number): number for number in chapters()}
    if folder not in known:
        raise KeyError(f"there is no chapter {folder!r}; the chapters are {', '.join(known)}")
    return load_chapter(known[folder])


def stamp_of(submission: Submission, plan: Plan, seconds: float = 0.0) -> Stamp:
    """What this submission's grade is made with. Two stamps that are equal but for time mean the same grade."""
    return Stamp(
        grader=stamps.grader_hash(),
        exercises=stamps.exercise_hashes(chapter_of(submission.chapter).number),
        seed=plan.seed,
        sandbox="",  # entered by who ran it
        content=stamps.content_hash(submission),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        settings=plan.settings(),
        version=attn_ref.__version__,
    )


def forbidden(notebook, chapter) -> list[Flag]:
    """What a mended notebook calls that would defeat an exercise's purpose, or the grader's."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    flags = policy.tampering(sources)
    for exercise_id, source in answers(notebook, chapter).items():
        flags += policy.forbidden_calls(chapter.exercises[exercise_id], source, sources)
    return flags


def experiments(release) -> frozenset[str]:
    """The sources of a released notebook's cells that take long and that no answer needs."""
    return frozenset(cell.source for cell in release.cells if "experiment" in cell.metadata.get("tags", []))


def run_and_judge(graded: Graded, notebook, chapter, plan: Plan, kernel: Callable, skip: frozenset = frozenset()):
    """Run a mended notebook in place, enter marks and breaches in `graded`, and show each mark in its check cell.

    Cells whose source is in `skip` are not run, unless an answer turns out to use a name that is not defined.
    """
    seeds = {"secret": plan.seed, "public": SEED}

    def explain(exercise_id, evidence):
        return verdict.wants_words(chapter.exercises[exercise_id], evidence, plan.seed)

    found = run_sync(examine)(notebook, seeds, kernel, plan.budget, explain, skip)
    if skip and any(verdict.lacks_a_name(one) for one in found.evidence.values()):
        found = run_sync(examine)(notebook, seeds, kernel, plan.budget, explain)
    graded.breaches += found.breaches
    checks = {exercise_of(cell, "check"): cell for cell in notebook.cells if exercise_of(cell, "check")}
    for exercise in chapter.exercises.values():
        mark, report = _judged(exercise, found, plan, graded)
        graded.marks.append(mark)
        data = verdict.output_of(mark, report)
        count = checks[exercise.id].execution_count
        checks[exercise.id].outputs = [nbformat.v4.new_output("execute_result", data, execution_count=count)]
    if any(mark.status == "breach" for mark in graded.marks):
        graded.status = PARTLY
        graded.reason = " ".join(dict.fromkeys(one.message for one in graded.breaches))


def _judged(exercise, found, plan, graded) -> tuple[Mark, Report | None]:
    problem = found.cost(exercise.id)
    if problem is None:
        try:
            report, called = verdict.judge_evidence(exercise, found.evidence.get(exercise.id), plan.seed)
            mark = verdict.mark_of(exercise, report)
            if not any(one.exercise == exercise.id and one.kind == "forbidden call" for one in graded.flags):
                graded.flags += policy.called(exercise, called)
            return _by_policy(mark, report, plan, graded)
        except verdict.NoEvidence as error:
            problem = breach("no evidence", exercise.id, how=error)
            graded.breaches.append(problem)
    return verdict.mark_without(exercise, problem), None


def _by_policy(mark, report, plan, graded):
    against = [one for one in graded.flags if one.kind == "tampering"]
    against += [one for one in graded.flags if one.exercise == mark.exercise and one.kind == "forbidden call"]
    if plan.policy != "zero" or not against or not mark.earned:
        return mark, report
    mark.earned, mark.status = 0.0, "by policy"
    mark.messages = [BY_POLICY.format(message=against[0].message), *mark.messages]
    return mark, None


def _read_written(graded, notebook, release, chapter):
    """A written question that was left as it was released is 0; all others wait for a reader."""
    released = {_grade_id(cell): cell.source for cell in release.cells}
    given = {_grade_id(cell): cell.source for cell in notebook.cells}
    for reading in graded.readings:
        slot = slot_of("written", reading.question)
        if given.get(slot, "").strip() in ("", released[slot].strip()):
            reading.earned, reading.comment = 0.0, "No response."


def _grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id")
