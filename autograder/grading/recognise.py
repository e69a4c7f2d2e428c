"""Which chapter a notebook is of, and how much is answered: told by names of cells, definitions and headings."""

import re
from collections import Counter

from autograder.exercise import NotInstalled, chapters, load_chapter, loadable_chapters
from autograder.grading.cells import slot_of

NAMED = re.compile(r"(?:exercise|written)-(\d+)-\w+$")
HEADED = re.compile(r"^### (?:Exercise|Question) (\d+)\.\w+ ·|^# (\d\d) · ", re.M)


def number_of(cells):
    """The number of the chapter whose cells these are, or None: by the names of its cells, then by headings.

    Only where neither says anything, by what the cells define: that loads the definitions of every chapter that can be
    loaded here. Others cannot be graded here either.
    """
    named = Counter(int(found[1]) for cell in cells if (found := NAMED.match(cell.name or "")))
    prose = "\n".join(cell.source for cell in cells if cell.kind != "code")
    headed = Counter(int(found[1] or found[2]) for found in HEADED.finditer(prose))
    votes = {number: (named[number], headed[number]) for number in chapters()}
    best = max(votes, key=votes.get)  # the first of equals
    if any(votes[best]):
        return best
    votes = {chapter.number: _count(cells, chapter.exercises) for chapter in loadable_chapters()}
    best = max(votes, key=votes.get)
    return best if votes[best] else None


def count_answered(cells, number):
    """How many exercises of the chapter have a cell that is no stub any more; 0 where it cannot be loaded here."""
    done = [cell for cell in cells if not re.search(r"^[ \t]*raise NotImplementedError", cell.source, re.M)]
    return _count(done, _exercises(number))


def _count(cells, exercises):
    return sum(any(_is_answer(cell, one) for cell in cells) for one in exercises.values())


def _exercises(number):
    try:
        return load_chapter(number).exercises
    except NotInstalled:
        return {}


def of_another_chapter(cell, chapter):
    """Is this the answer cell of an exercise of another chapter, by its name and by what it defines?"""
    found = re.fullmatch(r"exercise-(\d+)-(\w+)", cell.name)
    if not found or int(found[1]) == chapter.number or int(found[1]) not in chapters():
        return False
    exercise = _exercises(int(found[1])).get(f"{int(found[1])}.{found[2]}")
    return exercise is not None and exercise.name in cell.defined


def _is_answer(cell, exercise):
    return cell.name == slot_of("exercise", exercise.id) if cell.name else exercise.name in cell.defined
