"""`attn grade`: a folder of submissions in, a gradebook, feedback and reports out.

The run may be killed at any moment and started again: what is stored is stored whole, what is not is done again, and
what has not changed is not.
"""

import hashlib
import logging
import os
import signal
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from filelock import FileLock, Timeout

from autograder.exercise import NotInstalled, chapters, folder_of, load_chapter, module_of
from autograder.grading import policy
from autograder.grading.client import Budget
from autograder.grading.intake import take_in
from autograder.grading.results import FAILED, ClassRun, Graded, Submission, write_atomically
from autograder.grading.work import POLICIES, Plan, chapter_of, stamp_of
from autograder.grading.workers import GraderFailed, Local
from autograder.sandbox import WarmProcess, strongest
from autograder.sandbox.warm import HEAVY

STANDS = "it could not be graded again, and its earlier grade stands: {reason}"
log = logging.getLogger("attn.grade")


class GradeError(Exception):
    """The run cannot start or go on; the text says why and what to do. Nothing that was stored is lost."""


@dataclass
class Settings:
    """What an instructor may choose."""

    out: Path = Path("grading")
    workers: int = 0  # 0: one more than there are cores
    db: str | None = None  # a database URL; by default gradebook.db in `out`
    cluster: str | None = None  # the address of a Dask scheduler
    policy: str = "zero"
    budget: Budget = field(default_factory=Budget)
    unsandboxed: bool = False
    feedback: bool = True
    seed: int | None = None  # of the hidden inputs; by default the gradebook's own, drawn once
    roster: Path | None = None  # a gradebook exported from Canvas, for which to write an import file
    wait: float = 0.0  # seconds to wait for another grader on the same gradebook


def grade(source, settings: Settings, progress=None, warm=None) -> ClassRun:
    """Grade all submissions under `source`. `progress(iterable, total)` may wrap the results in a bar.

    `warm` is a warm process that was started early, and is the caller's to end; without it, one is started here.
    """
    source, out = Path(source).resolve(), Path(settings.out).resolve()
    if settings.policy not in POLICIES:
        raise GradeError(f"policy is one of {', '.join(POLICIES)}; it was given {settings.policy!r}")
    if not source.exists():
        raise GradeError(f"there is no {source}; give a folder of <student>/<chapter>/<chapter>.ipynb, or a zip")
    if source == out and not (source / "submitted").is_dir():
        raise GradeError(f"{out} holds the submissions, and nothing is written where they lie; choose another --out")
    roster = _roster(settings.roster)
    with _only_one(out, settings.wait), _logging(out / "grade.log"), _interruptible() as heed:
        level = "as the workers offer" if settings.cluster else strongest(allow_none=settings.unsandboxed)
        log.info("sandbox: %s", level)
        show = progress or (lambda results, total: results)
        try:
            with _crew(settings, warm) as (crew, warm):  # what starts here must not have seen a database or a seed
                submissions, unplaced = take_in(source)
                if not submissions:
                    raise GradeError(_nothing(source, unplaced))
                if warm:
                    warm.load(*_used(submissions))
                run = _grade(submissions, unplaced, out, settings, crew, level, show, heed)
        except GraderFailed as error:
            raise GradeError(str(error)) from error
        from autograder.reports.publish import write_reports

        _flag_copies(run)
        write_reports(run, out, settings.feedback, roster)
    return run


def _nothing(source, unplaced):
    if not unplaced:
        why = "it is empty; give the folder or zip that holds the notebooks"
        return f"nothing in {source} is a submission of this course: {why}"
    found = "".join(f"\n  {path}: {why}" for path, why in unplaced[:10])
    more = f"\n  … and {len(unplaced) - 10} more" if len(unplaced) > 10 else ""
    return f"nothing in {source} is a submission of this course{found}{more}"


def _roster(path):
    """The text of a gradebook exported from Canvas, looked at before anything is graded."""
    from autograder.reports import canvas

    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        canvas.export(ClassRun("", [], [], []), text)
    except (OSError, ValueError) as error:
        raise GradeError(f"the roster {path} cannot be used: {error}") from error
    return text


def _grade(submissions, unplaced, out, settings, crew, level, progress, heed):
    from autograder.build import nbgrader_config
    from autograder.grading.gradebook import GradebookError, Keeper

    try:
        url = settings.db or f"sqlite:///{out / 'gradebook.db'}"
        with Keeper(url, nbgrader_config()) as keeper, keeper.alone(settings.wait):
            for folder in {one.chapter for one in submissions}:
                refuse_what_cannot_run(folder)
            releases = {folder: released(folder, out) for folder in sorted({one.chapter for one in submissions})}
            for folder, content in releases.items():
                keeper.prepare(folder, nbformat.reads(content.decode(), as_version=4))
            seed = keeper.seed(settings.seed)
            plan = Plan(seed, releases, settings.unsandboxed, settings.budget, settings.policy)
            before = keeper.kept()
            todo = changed(submissions, before, plan)
            log.info("%d submissions, %d of them to grade", len(submissions), len(todo))
            results = crew.grade(todo, plan)
            import autograder.reports.publish  # noqa: F401 (it imports what draws, and now others are at work)

            for submission, graded, notebook in progress(results, len(todo)):
                if stands(graded, before):
                    log.warning("%s %s: %s", graded.student, graded.chapter, graded.reason)
                    unplaced.append((f"{graded.student} {graded.chapter}", STANDS.format(reason=graded.reason)))
                else:
                    _keep(submission, graded, notebook, keeper, out)
                heed()
            run = class_run(keeper, unplaced, level)
    except GradebookError as error:
        raise GradeError(str(error)) from error
    return run


def changed(submissions: list[Submission], kept: dict, plan: Plan) -> list[Submission]:
    """Those whose grade does not stand yet: new ones, and those for which anything that decides a grade is another."""
    todo = []
    for one in submissions:
        before = kept.get((one.student, one.chapter))
        if before is None or before.stamp is None or before.stamp.key != stamp_of(one, plan).key:
            todo.append(one)
    return todo


def stands(graded: Graded, before: dict) -> bool:
    """Does an earlier grade stand, because this time the grader itself failed? Then there is no stamp."""
    earlier = before.get((graded.student, graded.chapter))
    return graded.stamp is None and earlier is not None and earlier.stamp is not None


def class_run(keeper, unplaced, level) -> ClassRun:
    """All that the gradebook holds, as the reports read it."""
    kept = keeper.kept()
    folders = [folder_of(number) for number in chapters()]
    used = {chapter for _, chapter in kept}
    shown = [(str(path), why) for path, why in unplaced]
    return ClassRun(
        "attention", [one for one in folders if one in used], keeper.students(), list(kept.values()), shown, level
    )


def refuse_what_cannot_run(folder):
    """GradeError where this machine lacks what an exercise of the chapter runs on: a 0 would be nobody's fault."""
    try:
        exercises = chapter_of(folder).exercises.values()
    except NotInstalled as error:
        raise GradeError(str(error)) from None
    for exercise in exercises:
        if exercise.missing:
            raise GradeError(f"{folder} cannot be graded here: {exercise.missing}; attn doctor says how to install it")


def released(folder, out):
    """The released notebook of a chapter, kept in `out` because making it takes longer than grading one submission."""
    from autograder.build import ROOT, release_bytes

    source = ROOT / "solutions" / folder / f"{folder}.ipynb"
    if not source.is_file():
        raise GradeError(f"{source} is missing; run: make notebooks")
    known = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    path = out / "release" / f"{folder}-{known}.ipynb"
    if not path.is_file():
        write_atomically(path, release_bytes(folder))
    return path.read_bytes()


def _keep(submission, graded, notebook, keeper, out):
    """Files first, then the database: a run that is killed in between does this submission again."""
    place = Path(graded.student) / graded.chapter / f"{graded.chapter}.ipynb"
    write_atomically(out / "submitted" / place, submission.notebook)
    if submission.submitted:
        write_atomically(out / "submitted" / place.parent / "timestamp.txt", submission.submitted)
    for name, content in submission.files.items():
        write_atomically(out / "submitted" / place.parent / name, content)
    if notebook is not None:
        write_atomically(out / "autograded" / place, notebook)
    keeper.keep(graded)
    if graded.status == FAILED:
        log.warning("%s %s: %s (%s)", graded.student, graded.chapter, graded.status, graded.reason)


def _flag_copies(run):
    """Compare answers across the class, afresh each time: who handed in what may have changed."""
    handed = {(one.student, exercise): text for one in run.graded for exercise, text in one.answers.items()}
    by_student = {(one.student, one.chapter): one for one in run.graded}
    for student, flag in policy.copies(handed, published({one.chapter for one in run.graded})):
        chapter = folder_of(int(flag.exercise.split(".")[0]))
        by_student[student, chapter].flags.append(flag)


def published(folders: set[str]) -> dict[str, list[str]]:
    """{exercise id: sources} of the solutions that the course itself publishes for these chapters."""
    from autograder.build import ROOT
    from autograder.grading.mend import answers

    found = {}
    for number in (one for one in chapters() if folder_of(one) in folders):
        chapter = load_chapter(number)
        source = ROOT / "solutions" / chapter.folder / f"{chapter.folder}.ipynb"
        if source.is_file():
            for exercise, text in answers(nbformat.read(source, as_version=4), chapter).items():
                found[exercise] = [text]
    return found


@contextmanager
def _crew(settings, warm):
    """(who grades, the warm process or None). Here it gets ready while submissions are read; a cluster has its own."""
    if settings.cluster:
        from autograder.grading.cluster import Cluster

        with Cluster(settings.cluster) as crew:
            yield crew, None
        return
    with ExitStack() as ending:
        if warm is None:
            warm = WarmProcess.start_early()
            ending.callback(warm.stop)
        # One more than there are cores, because each waits for its kernel.
        yield ending.enter_context(Local(settings.workers or _cores() + 1, warm)), warm


def _used(submissions):
    """What kernels need of the libraries that take longest to import, and the definitions of their exercises."""
    chapter_folders = {one.chapter for one in submissions}
    libraries = [name for name in HEAVY if any(name.encode() in one.notebook for one in submissions)]
    return libraries + [module_of(number) for number in chapters() if folder_of(number) in chapter_folders]


def _cores():
    """The cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _only_one(out, wait):
    lock = FileLock(out / ".grading.lock", timeout=wait)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise GradeError(
            f"another grader is at work in {out}; wait for it to end (--wait SECONDS does so), or choose another --out"
        ) from None
    except OSError as error:
        raise GradeError(f"nothing can be written to {out} ({error.strerror}); choose another --out") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _logging(path):
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel("INFO")
    log.propagate = False
    try:
        yield
    except BaseException:
        log.exception("the run ended early")
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def _interruptible():
    """Ctrl-C, and a polite `kill` too, ends a run: workers stopped, all stored grades kept.

    Yields a function that raises KeyboardInterrupt once more: what comes while Python clears an object away is lost.
    """
    received, before = [], {}

    def interrupt(number, _):
        received.append(number)
        raise KeyboardInterrupt

    def heed():
        if received:
            raise KeyboardInterrupt

    with suppress(ValueError):  # not in the main thread: then nobody sends us signals either
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
    try:
        yield heed
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set from C, which Python cannot put back
                signal.signal(number, handler)
