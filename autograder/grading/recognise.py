"""Which chapter a notebook is of, and how much is answered: told by names of cells, definitions and headings."""

import re
from collections import Counter

from autograder.exercise import chapters, load_chapter
from autograder.grading.cells import slot_of

NAMED = re.compile(r"(?:exercise|written)-(\d+)-\w+$")
HEADED = re.compile(r"^### (?:Exercise|Question) (\d+)\.\w+ ·|^# (\d\d) · ", re.M)


def chapter_of(cells):
    """The Chapter whose cells these are, or None: by the names of its cells, then by headings.

    Only where neither says anything, by what the cells define: that loads the definitions of every chapter.
    """
    named = Counter(int(found[1]) for cell in cells if (found := NAMED.match(cell.name or "")))
    prose = "\n".join(cell.source for cell in cells if cell.kind != "code")
    headed = Counter(int(found[1] or found[2]) for found in HEADED.finditer(prose))
    votes = {number: (named[number], headed[number]) for number in chapters()}
    best = max(votes, key=votes.get)  # the first of equals
    if any(votes[best]):
        return load_chapter(best)
    votes = Counter()
    for number in chapters():
        chapter = load_chapter(number)
        answers = sum(any(_is_answer(cell, one) for cell in cells) for one in chapter.exercises.values())
        votes[number] = answers
    best = max(votes, key=votes.get)
    return load_chapter(best) if votes[best] else None


def count_answered(cells, chapter):
    """How many exercises of the chapter have a cell that is no stub any more."""
    done = [cell for cell in cells if not re.search(r"^[ \t]*raise NotImplementedError", cell.source, re.M)]
    return sum(any(_is_answer(cell, one) for cell in done) for one in chapter.exercises.values())


def of_another_chapter(cell, chapter):
    """Is this the answer cell of an exercise of another chapter, by its name and by what it defines?"""
    found = re.fullmatch(r"exercise-(\d+)-(\w+)", cell.name)
    if not found or int(found[1]) == chapter.number or int(found[1]) not in chapters():
        return False
    exercise = load_chapter(int(found[1])).exercises.get(f"{int(found[1])}.{found[2]}")
    return exercise is not None and exercise.name in cell.defined


def _is_answer(cell, exercise):
    return cell.name == slot_of("exercise", exercise.id) if cell.name else exercise.name in cell.defined
