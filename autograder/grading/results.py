"""What grading gives: plain data, which travels between processes, is kept with the grade, and is all a report reads.

A submission ends as graded, partly graded, failed (with its reason) or missing; none of these is a silent 0.
"""

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import GenericAlias

GRADED, PARTLY, FAILED, MISSING = "graded", "partly graded", "failed", "missing"


@dataclass
class Submission:
    """One student's chapter as it was handed in."""

    student: str
    chapter: str  # the chapter's folder, such as 02_scaled_dot_product
    notebook: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)  # data files beside the notebook, by relative name
    submitted: str | None = None  # when, as "2026-10-01 12:00:00 UTC"
    notes: list[str] = field(default_factory=list)  # what intake made of it, such as "found as homework(2).ipynb"


@dataclass
class Breach:
    """Something that went wrong while a cell ran, or in the notebook itself. It costs `exercise` and no other."""

    kind: str  # a key of `breaches.SENTENCES`
    message: str  # what happened and what to do, in words the student can act on
    exercise: str | None = None  # None where no exercise is concerned
    cell: str | None = None  # the first line of the cell's source


@dataclass
class Flag:
    """Something for the instructor to look at. A flag never takes points; only a policy does, and says so."""

    kind: str  # "forbidden call", "tampering", "cannot be read", "as published", "as another student"
    message: str
    exercise: str | None = None
    students: list[str] = field(default_factory=list)  # the others, where an answer is shared


@dataclass
class Criterion:
    """One criterion of an exercise, as the student is told about it."""

    sentence: str
    points: float
    earned: float
    because: str = ""  # why not more; never an input or a value that only the grader knows


@dataclass
class Mark:
    """One exercise."""

    exercise: str  # its id, such as 2.1
    title: str
    points: float  # the most it gives
    earned: float = 0.0
    status: str = "judged"  # judged, not attempted, no evidence, breach, by policy
    criteria: list[Criterion] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)  # names of the known mistakes recognised
    messages: list[str] = field(default_factory=list)  # the diagnosis, a paragraph each
    hint: str = ""  # how to get the next hint


@dataclass
class Reading:
    """One written question, which a person reads."""

    question: str
    title: str
    points: float
    earned: float | None = None  # None until someone has read it
    comment: str = ""


@dataclass
class Stamp:
    """What a grade was made with, so that it can be explained, repeated, and left alone while nothing changed."""

    grader: str  # hash of the grader's own code
    exercises: dict[str, str]  # {exercise id: hash of its definition}
    seed: int
    sandbox: str  # the level, such as "namespaces"
    content: str  # hash of what was handed in
    when: str  # ISO 8601, UTC
    seconds: float  # wall time of the execution
    settings: str = ""  # policy and limits, as text
    version: str = ""  # of the course

    @property
    def key(self):
        """What decides the grade: two stamps with the same key stand for the same grade."""
        return json.dumps({**asdict(self), "when": None, "seconds": None, "sandbox": None}, sort_keys=True)


@dataclass
class Graded:
    """One submission, graded."""

    student: str
    chapter: str
    status: str = GRADED
    reason: str = ""
    marks: list[Mark] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was mended, such as "a copy of cell check-2-1 was left out"
    submitted: str | None = None
    late_seconds: float = 0.0
    late_penalty: float = 0.0
    stamp: Stamp | None = None
    answers: dict[str, str] = field(default_factory=dict)  # {exercise id: its source}, to be compared across a class

    @property
    def score(self):
        """Points, the late penalty taken off; written questions count once they are read."""
        earned = sum(mark.earned for mark in self.marks) + sum(reading.earned or 0.0 for reading in self.readings)
        return max(0.0, earned - self.late_penalty)

    @property
    def max_score(self):
        return sum(mark.points for mark in self.marks) + sum(reading.points for reading in self.readings)

    @property
    def waits_for_reader(self):
        return any(reading.earned is None for reading in self.readings)


@dataclass
class ClassRun:
    """A class after grading: what every report is made from."""

    course: str
    chapters: list[str]  # folders, in order
    students: list[str]  # everyone on the roster or with a submission, in order
    graded: list[Graded]
    unplaced: list[tuple[str, str]] = field(default_factory=list)  # (path, why) of what is no submission
    sandbox: str = ""

    def of(self, student, chapter):
        """The Graded of one student's chapter; one with status "missing" where nothing was handed in."""
        for one in self.graded:
            if (one.student, one.chapter) == (student, chapter):
                return one
        return Graded(student, chapter, status=MISSING, reason="nothing was handed in")


def to_json(value):
    """Any of the above as JSON text. Bytes do not occur in results; a Submission is no result."""
    return json.dumps(asdict(value), ensure_ascii=False)


def from_json(kind, text):
    """Read back what `to_json` wrote. Unknown fields are passed over, so an older grade stays readable."""
    return _build(kind, json.loads(text))


def _build(kind, data):
    if is_dataclass(kind):
        known = {one.name: one.type for one in fields(kind)}
        return kind(**{name: _build(known[name], value) for name, value in data.items() if name in known})
    if isinstance(kind, GenericAlias) and kind.__origin__ is list:
        return [_build(kind.__args__[0], item) for item in data]
    if isinstance(kind, GenericAlias) and kind.__origin__ is tuple:
        return tuple(data)
    if data is not None and not isinstance(kind, (type, GenericAlias)):  # "X | None"
        return _build(next(one for one in kind.__args__ if one is not type(None)), data)
    return data


def write_atomically(path, content):
    """Write text or bytes so that a reader, or a power cut, finds the old file or the new one and never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    return path
