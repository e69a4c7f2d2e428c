"""The one writer: a graded submission goes into nbgrader's gradebook in one transaction, beside its full result.

nbgrader's own tables hold what formgrader and its exporters read; one table of ours holds the Graded as JSON. SQLite by
default, PostgreSQL by URL. A locked database delays a grade and never loses it.
"""

import secrets
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nbgrader.api
import sqlalchemy as sa
from filelock import FileLock, Timeout
from nbgrader.api import Comment, Grade, Gradebook, InvalidEntry, MissingEntry
from nbgrader.preprocessors import AssignLatePenalties
from nbgrader.utils import is_grade, is_locked, is_solution
from sqlalchemy.exc import ArgumentError, OperationalError, SAWarning

from autograder.grading.cells import slot_of
from autograder.grading.results import FAILED, Graded, from_json, to_json

COURSE = "attention"
WAIT = 600.0  # seconds in all for a database that somebody else has locked
TABLE = sa.Table(
    "attn_graded",
    sa.MetaData(),
    sa.Column("student", sa.String(255), primary_key=True),
    sa.Column("chapter", sa.String(255), primary_key=True),
    sa.Column("result", sa.Text, nullable=False),
)
SECRET = sa.Table(
    "attn_secret", TABLE.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("seed", sa.BigInteger)
)
PG_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtext('attn grade'))")  # ends with its connection
TAKEN = "another grader is at work on this gradebook; wait for it to end (--wait SECONDS does so)"
LOCKED = "another program has had the gradebook locked for {seconds:.0f} seconds; close it and run this again. "
LOCKED += "Every grade stored so far is kept."
WRONG_URL = "the gradebook's address cannot be used ({why}). One is like sqlite:////home/me/gradebook.db or "
WRONG_URL += "postgresql+psycopg://me@host/attention, which needs: make env EXTRAS=postgres"


class GradebookError(Exception):
    """The gradebook cannot take what it is given; the text says why and what to do."""


class Keeper:
    """nbgrader's gradebook, written to one submission a transaction. A context manager."""

    def __init__(self, url: str, config=None):
        """Open or create the gradebook. `config` may name nbgrader's plugin for late penalties."""
        if url.startswith("sqlite:///") and "?" not in url:
            url += "?timeout=60"
        self.late = AssignLatePenalties(config=config)
        self.late.init_plugin()
        nbgrader.api.get_alembic_version = _schema_version
        try:
            self.book = self._patiently(lambda: Gradebook(url, COURSE))
        except (ArgumentError, ImportError) as error:
            raise GradebookError(WRONG_URL.format(why=str(error).splitlines()[0])) from error
        self._patiently(lambda: TABLE.metadata.create_all(self.book.engine))
        if self.book.engine.dialect.name == "sqlite":
            with self.book.engine.connect() as connection:
                connection.execute(sa.text("PRAGMA journal_mode=WAL"))
        # nbgrader commits after every row; a flush in its place makes one transaction of them.
        self.book.db.commit = self.book.db.flush

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.book.close()

    @contextmanager
    def alone(self, wait: float = 0.0):
        """Let no second grader at this gradebook. GradebookError if there is one after `wait` seconds."""
        with ExitStack() as held:
            if self.book.engine.dialect.name == "postgresql":
                connection = held.enter_context(self.book.engine.connect())
                taken = self._taken_until(wait, lambda: not connection.execute(PG_LOCK).scalar())
            else:
                lock = FileLock(f"{self.book.engine.url.database}.lock")
                taken = self._taken_until(wait, lambda: not _acquired(lock))
                held.callback(lock.release)
            if taken:
                raise GradebookError(TAKEN)
            yield

    def _taken_until(self, wait, taken):
        deadline = time.monotonic() + wait
        while taken():
            if time.monotonic() >= deadline:
                return True
            time.sleep(0.2)
        return False

    def prepare(self, chapter: str, release):
        """Enter a chapter's cells from its released notebook, or bring them up to date."""
        self._patiently(lambda: self._prepare(chapter, release))

    def _prepare(self, chapter, release):
        with self._transaction() as book:
            book.update_or_create_assignment(chapter)
            try:
                book.find_notebook(chapter, chapter)
            except MissingEntry:
                book.add_notebook(chapter, chapter, kernelspec="{}")
            cells = [cell for cell in release.cells if "nbgrader" in cell.metadata]
            known = {one.name for one in book.find_notebook(chapter, chapter).grade_cells}
            gone = known - {cell.metadata.nbgrader.grade_id for cell in cells if is_grade(cell)}
            if gone and book.assignment_submissions(chapter):
                raise GradebookError(
                    f"{chapter} no longer has {', '.join(sorted(gone))}, for which this gradebook holds grades. "
                    "Nothing was changed. Grade into another folder (--out), or put the exercise back."
                )
            for cell in cells:
                _enter(book, chapter, cell)
            for submission in book.assignment_submissions(chapter):
                _complete(book, submission)

    def keep(self, graded: Graded, notebook=None):
        """Store one result, and what it means to nbgrader, or nothing at all."""
        self._patiently(lambda: self._keep(graded, notebook))

    def _keep(self, graded, notebook):
        with self._transaction() as book:
            book.update_or_create_student(graded.student)
            times = {"timestamp": graded.submitted} if graded.submitted else {}
            submission = book.update_or_create_submission(graded.chapter, graded.student, **times)
            (entry,) = submission.notebooks
            marks = {slot_of("check", mark.exercise): mark for mark in graded.marks}
            readings = {slot_of("written", one.question): one for one in graded.readings}
            for grade in entry.grades:
                mark = marks.get(grade.name)
                auto = mark.earned if mark else readings[grade.name].earned if grade.name in readings else None
                # What could not be graded at all is for a person to look at, and not a 0 like any other.
                grade.auto_score = None if graded.status == FAILED else auto
                grade.needs_manual_grade = grade.auto_score is None or grade.manual_score is not None
            for comment in entry.comments:
                reading = readings.get(comment.name)
                comment.auto_comment = reading.comment if reading and reading.earned is not None else None
            book.db.flush()
            self._penalize(graded, submission, entry)
            book.db.execute(sa.delete(TABLE).where(_is(graded.student, graded.chapter)))
            row = {"student": graded.student, "chapter": graded.chapter, "result": to_json(graded)}
            book.db.execute(sa.insert(TABLE).values(**row))

    def _penalize(self, graded, submission, entry):
        graded.late_seconds = max(0.0, submission.total_seconds_late)
        penalty = None
        if graded.late_seconds:
            penalty = self.late.plugin_inst.late_submission_penalty(graded.student, entry.score, graded.late_seconds)
        entry.late_submission_penalty = None if penalty is None else min(max(0.0, penalty), entry.score)
        graded.late_penalty = entry.late_submission_penalty or 0.0

    def kept(self) -> dict[tuple[str, str], Graded]:
        """{(student, chapter): Graded} of all that is stored, with what readers have entered in formgrader since."""
        with self._transaction() as book:
            rows = book.db.execute(sa.select(TABLE).order_by(TABLE.c.student, TABLE.c.chapter)).all()
            found = {(row.student, row.chapter): from_json(Graded, row.result) for row in rows}
            for chapter in {chapter for _, chapter in found}:
                for submission in book.assignment_submissions(chapter):
                    if (submission.student.id, chapter) in found:
                        _add_readings(found[submission.student.id, chapter], submission)
        return found

    def seed(self, wanted: int | None = None) -> int:
        """The secret seed of the hidden inputs: `wanted` from now on, or the stored one, drawn once."""
        return self._patiently(lambda: self._seed(wanted))

    def _seed(self, wanted):
        with self._transaction() as book:
            stored = book.db.execute(sa.select(SECRET.c.seed)).scalar()
            if stored is not None and wanted in (None, stored):
                return stored
            seed = secrets.randbits(48) if wanted is None else wanted
            book.db.execute(sa.delete(SECRET))
            book.db.execute(sa.insert(SECRET).values(id=1, seed=seed))
            return seed

    def students(self) -> list[str]:
        """Everyone the gradebook knows, by id."""
        with self._transaction() as book:
            return sorted(student.id for student in book.students)

    @contextmanager
    def _transaction(self):
        book = self.book
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SAWarning)  # nbgrader's own queries
                yield book
            book.db().commit()
        except BaseException:
            book.db().rollback()
            raise

    def _patiently(self, step):
        began, pause = time.monotonic(), 0.05
        while True:
            try:
                return step()
            except (OperationalError, InvalidEntry) as error:  # nbgrader turns the first into the second, at places
                waited = time.monotonic() - began
                if "locked" not in str(error):
                    raise GradebookError(f"the gradebook cannot be used ({str(error).splitlines()[0]})") from error
                if waited > WAIT:
                    raise GradebookError(LOCKED.format(seconds=waited)) from error
                time.sleep(pause)
                pause = min(2.0, pause * 2)


def _acquired(lock):
    try:
        lock.acquire(timeout=0)
        return True
    except Timeout:
        return False


def _schema_version():
    """What nbgrader stamps a new gradebook with. It asks a program for it, which takes a second and must be on PATH."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(Path(nbgrader.api.__file__).parent / "alembic").get_current_head()


def _enter(book, chapter, cell):
    """One cell of the release, as nbgrader's SaveCells enters it."""
    name = cell.metadata.nbgrader.grade_id
    if is_grade(cell):
        points = float(cell.metadata.nbgrader.points)
        book.update_or_create_grade_cell(name, chapter, chapter, max_score=points, cell_type=cell.cell_type)
    if is_solution(cell):
        book.update_or_create_solution_cell(name, chapter, chapter)
    checksum = cell.metadata.nbgrader.get("checksum")
    facts = {"cell_type": cell.cell_type, "locked": is_locked(cell), "source": cell.source, "checksum": checksum}
    book.update_or_create_source_cell(name, chapter, chapter, **facts)


def _complete(book, submission):
    """Give an earlier submission a row for each exercise that the chapter has gained since."""
    (entry,) = submission.notebooks
    graded, commented = {grade.name for grade in entry.grades}, {comment.name for comment in entry.comments}
    for cell in entry.notebook.grade_cells:
        if cell.name not in graded:
            book.db.add(Grade(cell_id=cell.id, notebook=entry))
    for cell in entry.notebook.solution_cells:
        if cell.name not in commented:
            book.db.add(Comment(cell_id=cell.id, notebook=entry))


def _add_readings(graded, submission):
    """What a person has entered: points and words for written questions, and points in place of automatic ones."""
    (entry,) = submission.notebooks
    comments = {comment.name: comment.comment for comment in entry.comments}
    graded.late_seconds = max(0.0, submission.total_seconds_late)
    graded.late_penalty = entry.late_submission_penalty or 0.0
    by_cell = {grade.name: grade for grade in entry.grades}
    for reading in graded.readings:
        name = slot_of("written", reading.question)
        if name in by_cell and by_cell[name].manual_score is not None:
            reading.earned, reading.comment = by_cell[name].manual_score, comments.get(name) or ""
    for mark in graded.marks:
        grade = by_cell.get(slot_of("check", mark.exercise))
        if grade is not None and grade.manual_score is not None:
            mark.earned = grade.manual_score


def _is(student, chapter):
    return sa.and_(TABLE.c.student == student, TABLE.c.chapter == chapter)
