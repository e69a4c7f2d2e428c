"""Make of whatever was handed in a notebook that can be graded: the learner's answers in the released notebook's frame.

What cannot be graded as it is gets mended and said; the learner's own cells stay where they are among their
neighbours. `rescue.py` reads the file, `recognise.py` tells cells apart, `find.py` finds the answers.
"""

import ast
import copy
import hashlib
import re
from dataclasses import dataclass, field

import nbformat

from autograder.exercise import folder_of
from autograder.grading.bench import Bench
from autograder.grading.breaches import breach
from autograder.grading.cells import Cell, bare, slot_of
from autograder.grading.find import defining, find_answer, find_check, find_written
from autograder.grading.recognise import number_of, of_another_chapter
from autograder.grading.rescue import rescue
from autograder.grading.results import Breach

STEERING = {"skip-execution", "raises-exception"}  # tags that a notebook runner obeys
LONGEST_CELL = 2**20  # characters of source
MOST_CELLS = 2_000


@dataclass
class Mended:
    """A notebook that can be graded, or None; what was done to make it so; and what could not be mended."""

    notebook: nbformat.NotebookNode | None
    notes: list[str] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)


def mend(notebook, release, chapter):
    """bytes, the released notebook, its Chapter -> Mended. Never raises, and mending twice changes nothing more."""
    rescued = rescue(notebook)
    if rescued.breach:
        return Mended(None, rescued.notes, [rescued.breach])
    bench = Bench(rescued.cells, {cell.id: cell for cell in release.cells}, chapter, rescued.notes)
    if reason := _is_not_the_one(bench):
        return Mended(None, bench.notes, [reason])
    if not any(cell.nbgrader for cell in bench.cells):
        bench.note("no metadata")
    _leave_out_long_cells(bench)
    _recognise_ordinary_cells(bench)
    for exercise in chapter.exercises.values():
        find_check(bench, exercise)
    for exercise in chapter.exercises.values():
        find_answer(bench, exercise)
    for written in chapter.written.values():
        find_written(bench, written)
    for exercise in chapter.exercises.values():
        _move_check_behind_answer(bench, exercise)
    _put_imports_first(bench)
    _recognise_ordinary_cells(bench)  # some may only now be free of a name that was not theirs
    _leave_out_surplus(bench)
    _say_what_was_taken_off(bench)
    return Mended(_build(bench, release), bench.notes, bench.breaches)


def answers(notebook, chapter):
    """{exercise id: source of its answer cell} of a mended notebook."""
    sources = {cell.id: cell.source for cell in notebook.cells}
    slots = {one: slot_of("exercise", one) for one in chapter.exercises}
    return {one: sources[slot] for one, slot in slots.items() if slot in sources}


def is_untouched(exercise_id, source, release):
    """Does the answer still say what was given out, comments and blank lines aside?"""
    slot = slot_of("exercise", exercise_id)
    return bare(source) == bare(next(cell.source for cell in release.cells if cell.id == slot))


def _is_not_the_one(bench):
    """The Breach of a notebook that holds nothing of this chapter, or more of another one; None where it is right."""
    chapter = bench.chapter
    slots = {slot_of("exercise", one) for one in chapter.exercises} | {
        slot_of("written", one) for one in chapter.written
    }
    if any(cell.name in slots and not of_another_chapter(cell, chapter) for cell in bench.cells):
        return None
    found = number_of(bench.cells)
    if found not in (None, chapter.number):
        return breach("wrong chapter", found=folder_of(found), wanted=chapter.folder)
    names = {one.name for one in chapter.exercises.values()}
    return None if any(not cell.defined.isdisjoint(names) for cell in bench.cells) else breach("no answers")


def _leave_out_long_cells(bench):
    long = [cell for cell in bench.cells if len(cell.source) > LONGEST_CELL]
    for cell in long:
        facts = dict(mib=len(cell.source) / 2**20, limit=LONGEST_CELL / 2**20)
        hit = [
            one.id
            for one in bench.chapter.exercises.values()
            if cell.name == slot_of("exercise", one.id) or one.name in cell.defined
        ]
        first_line = cell.source.lstrip()[:80].split("\n")[0]
        for one in hit:
            bench.breaches.append(breach("cell too large", one, first_line, id=one, **facts))
        if not hit:
            bench.note("long own cell", **facts)
    bench.drop(long)


def _recognise_ordinary_cells(bench):
    """The released cells that are neither answer nor check: by id, else by saying exactly the same."""
    there = {cell.slot for cell in bench.cells}
    wanted = [slot for slot, cell in bench.released.items() if "nbgrader" not in cell.metadata and slot not in there]
    own = [cell for cell in bench.cells if bench.is_own(cell)]
    by_id = {cell.id: cell for cell in reversed(own)}
    by_source = {(cell.kind, cell.source): cell for cell in reversed(own) if cell.id not in wanted}
    for slot in wanted:
        released = bench.released[slot]
        found = by_id.get(slot) or by_source.pop((released.cell_type, released.source), None)
        if found:
            found.slot = slot


def _move_check_behind_answer(bench, exercise):
    """A check must meet the answer: it runs behind it, and before anything else defines the same function."""
    answer = bench.standing_for(slot_of("exercise", exercise.id))
    check = bench.standing_for(slot_of("check", exercise.id))
    places = bench.places()
    rival = next((cell for cell in defining(bench, exercise) if places[cell] > places[answer]), None)
    if places[answer] < places[check] < bench.place(rival):
        return
    bench.drop([check])
    bench.cells.insert(min(bench.behind_own(bench.place(answer) + 1), bench.place(rival)), check)
    bench.note("check moved", id=exercise.id)


def _put_imports_first(bench):
    """What a released cell imports must be there before the first answer, whatever became of that cell."""
    graded = [at for at, cell in enumerate(bench.cells) if re.match(r"(exercise|check)-", cell.slot or "")]
    lines = {line.strip() for cell in bench.cells[: graded[0]] if cell.kind == "code" for line in _lines(cell)}
    for slot, released in bench.released.items():
        if released.cell_type != "code" or not _only_imports(released.source) or set(_lines(released)) <= lines:
            continue
        there = bench.standing_for(slot)
        if there and set(_lines(released)) <= set(_lines(there)):
            bench.drop([there])
            there.kind = "code"
        else:
            if there:
                there.make_own()
            there = Cell("code", released.source, slot=slot)
        first = next(at for at, cell in enumerate(bench.cells) if cell.kind == "code")
        bench.cells.insert(first, there)
        names = [line.split()[1] for line in _lines(released)]
        bench.note("imports", what=", ".join(dict.fromkeys(names)))


def _lines(cell):
    return [line.strip() for line in cell.source.splitlines() if line.strip()]


def _only_imports(source):
    """Of a released cell, so that it may be parsed."""
    body = ast.parse(source).body
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def _leave_out_surplus(bench):
    count = len(bench.cells)
    if count > MOST_CELLS:
        own = [cell for cell in bench.cells if cell.slot is None][MOST_CELLS - count :]
        bench.drop(own)
        bench.note("too many", count=count, limit=MOST_CELLS, left=len(own))


def _say_what_was_taken_off(bench):
    unknown = [cell for cell in bench.cells if cell.slot is None and cell.nbgrader]
    if unknown:
        bench.note("unknown name", count=len(unknown))
    given = {(cell.source, tag) for cell in bench.released.values() for tag in cell.metadata.get("tags", [])}
    tags = sorted({tag for cell in bench.cells for tag in cell.tags if (cell.source, tag) not in given} & STEERING)
    if tags:
        bench.note("tags", tags=" and ".join(tags))


def _build(bench, release):
    """A notebook of nbformat 4.5. Of its metadata nothing is the learner's, since metadata can steer an execution."""
    taken, cells = set(bench.released), []
    for cell in bench.cells:
        metadata = bench.released[cell.slot].metadata if cell.slot else {}
        made = {"id": cell.slot or _own_id(cell, taken), "cell_type": cell.kind, "source": cell.source}
        if cell.kind == "code":
            made |= {"outputs": [], "execution_count": None}
        elif cell.kind == "markdown" and cell.pictures:
            made["attachments"] = cell.pictures
        cells.append({**made, "metadata": copy.deepcopy(metadata)})
        taken.add(made["id"])
    whole = {"cells": cells, "metadata": copy.deepcopy(release.metadata), "nbformat": 4, "nbformat_minor": 5}
    return nbformat.from_dict(whole)  # the constructors of nbformat would validate each cell, ten times as slowly


def _own_id(cell, taken):
    """The id a cell has, or one that follows from its content, so that the same file is mended to the same bytes."""
    base = cell.id if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell.id) else ""
    base = base or f"own-{hashlib.sha256(cell.source.encode()).hexdigest()[:10]}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base[:50]}-{number}", number + 1
    return name
