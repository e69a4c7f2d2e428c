"""Which calls defeat an exercise, and which answers are alike. What is found is a Flag: points are never taken here.

An exercise forbids its own reference, what its definition names in `forbids`, and all of `autograder` but the
functions that a notebook imports. `forbidden_calls` reads the source; `autograder.traps` notes what really is called.
"""

import re

from autograder.forbidden import OPEN, Forbidden, caught
from autograder.grading.copies import copies, same_answer
from autograder.grading.names import Unreadable
from autograder.grading.reading import uses, uses_anywhere
from autograder.grading.results import Flag

__all__ = ["called", "copies", "forbidden_calls", "same_answer", "tampering"]

# What a student and an instructor read.
CALLED = (
    "`{text}` {place} does the work that exercise {id} asks of you. Write `{name}` yourself; the exercise's text says "
    "what you may build on."
)
MADE_UP = (
    "`{text}` {place} looks something up by a name that is made while the code runs, so nobody can tell beforehand "
    "what it calls. Call what you need by its name."
)
UNREADABLE = "The code of this answer is {why}, so what it calls could not be read."
TAMPERING = (
    "`{text}` (line {line} of a cell that begins `{first}`) reaches into the grader, which no exercise asks for. "
    "Nothing in this notebook counts until that is taken out."
)
HERE, ELSEWHERE = "(line {line})", "(line {line} of another cell, which the answer uses)"


def forbidden_calls(exercise, source, notebook_sources):
    """Flags for an answer cell: calls that defeat the exercise, and calls that cannot be read. Never raises.

    `notebook_sources` are the sources of the notebook's code cells in order, the answer's among them or not.
    """
    cells, own = _as_run(exercise, source, notebook_sources)
    try:
        found = uses(exercise.name, cells, Forbidden(exercise))
    except Unreadable as why:
        return [Flag("cannot be read", UNREADABLE.format(why=why), exercise.id)]
    flags = {}
    for use in found:
        place = (HERE if use.cell == own else ELSEWHERE).format(line=use.line)
        kind, sentence = ("forbidden call", CALLED) if use.name else ("cannot be read", MADE_UP)
        message = sentence.format(text=use.text, place=place, id=exercise.id, name=exercise.name)
        flags.setdefault(use.name or use.text, Flag(kind, message, exercise.id))
    return list(flags.values())


class _Internals:
    """The names of the grader's own parts, as `Forbidden` gives those of one exercise."""

    def __call__(self, name):
        return name.startswith("autograder.") and name not in OPEN

    def within(self, module):
        return []

    def lives_in(self, owner):
        return owner.removesuffix(".__dict__") == "autograder"


def tampering(notebook_sources):
    """Flags for code anywhere in a notebook that uses the grader's own parts. Never raises."""
    cells = list(notebook_sources)
    try:
        found = [one for one in uses_anywhere(cells, _Internals()) if one.name]
    except Unreadable:
        return []  # `forbidden_calls` says so for each answer
    flags = {}
    for use in found:
        first = next(iter(cells[use.cell].strip().splitlines()), "")[:60]
        flags.setdefault(use.name, Flag("tampering", TAMPERING.format(text=use.text, line=use.line, first=first)))
    return list(flags.values())


def _as_run(exercise, source, notebook_sources):
    """(the sources up to the exercise's check, the place of the answer among them): what comes later played no part."""
    cells = list(notebook_sources)
    if source not in cells:
        cells.append(source)
    own = cells.index(source)
    check = re.compile(rf"\bcheck\(\s*[\"']{re.escape(exercise.id)}[\"']")
    end = next((place for place, cell in enumerate(cells) if place > own and check.search(cell)), len(cells))
    return cells[:end], own


def called(exercise, names):
    """The flags for the names that `traps` has caught."""
    return [Flag("forbidden call", caught(exercise, name), exercise.id) for name in sorted(names)]
