"""Find the answer, the check and the written answer that a notebook holds, under whatever name and wherever they are.

An answer is found by its cell's name and by what it defines; of several, the last before the check counts, because
that is the one the learner saw checked.
"""

import re

from autograder.grading.cells import bare, holds_check, slot_of
from autograder.grading.recognise import of_another_chapter


def find_check(bench, exercise):
    """Let one cell be the check, as it was given out."""
    slot = slot_of("check", exercise.id)
    named = bench.named(slot)
    intact = [cell for cell in named if holds_check(cell.source, exercise)]
    unnamed = [cell for cell in bench.cells if bench.is_own(cell) and holds_check(cell.source, exercise)]
    found = (intact or named or unnamed or [None])[-1]
    if len(named) > 1:
        bench.note("copied check", slot=slot)
        bench.drop([cell for cell in intact if cell is not found])
    if found is None:
        bench.note("missing check", id=exercise.id)
        found = bench.put_back(slot)
    elif not holds_check(found.source, exercise):
        bench.note("edited check", id=exercise.id)
        if bare(found.source):  # what was written there stays, as a cell of the learner's own
            found = bench.put(slot, bench.place(found) + 1)
    for other in (cell for cell in named if cell is not found):
        other.make_own()
    bench.settle(found, slot)
    found.source = bench.released[slot].source


def find_answer(bench, exercise):
    """Let one cell be the answer cell: the learner's where there is one, the stub where there is none."""
    _join_parts(bench, exercise)
    slot, facts = slot_of("exercise", exercise.id), dict(id=exercise.id, name=exercise.name)
    named = [cell for cell in bench.named(slot) if _rightly_named(bench, cell, exercise)]
    there = defining(bench, exercise)
    stubs = {cell for cell in there if bench.is_stub(cell, slot)}
    shared = [cell for cell in there if _is_of_another(bench, cell, exercise)]
    own = [cell for cell in there if cell not in stubs.union(shared)]
    places, check_at = bench.places(), bench.place(bench.standing_for(slot_of("check", exercise.id)))
    before = [cell for cell in shared if places[cell] < check_at]

    if len(named) > 1:
        bench.note("copy", count=len(named) - 1, total=len(named), slot=slot)
    if found := _last_that_counts(bench, exercise, own, named, check_at):
        if found not in named and stubs:
            bench.note("elsewhere", **facts)
    elif before:
        bench.note("shared", **facts)
        found = bench.put(slot, max(map(places.get, stubs), default=check_at))
        found.source = before[-1].source
    elif stubs:
        found = max(stubs, key=places.get)
    else:
        bench.note("missing answer", **facts)
        found = bench.put_back(slot)
    for other in (cell for cell in named if cell is not found):
        other.make_own()
    bench.drop(stubs - {found})
    bench.settle(found, slot)


def _last_that_counts(bench, exercise, own, named, check_at):
    """Of the cells that hold an answer to this exercise alone, the one that the learner saw checked. None if none."""
    places, bearing_its_name = bench.places(), set(named)
    code = [cell for cell in own if cell.kind == "code" or cell in bearing_its_name]
    counting = [cell for cell in code if cell in bearing_its_name or places[cell] < check_at]
    if len(counting) > 1 >= len(named):
        bench.note("several", id=exercise.id, name=exercise.name)
    under_another_name = [cell for cell in named if not bench.is_stub(cell, slot_of("exercise", exercise.id))]
    in_text = [cell for cell in own if "```" not in cell.source]
    pools = [counting, code, in_text, under_another_name]
    return next((pool[-1] for pool in pools if pool), None)


def defining(bench, exercise):
    """The cells that define the exercise's function, but for those given out as they are."""
    return [
        cell
        for cell in bench.cells
        if exercise.name in cell.defined
        and not of_another_chapter(cell, bench.chapter)
        and not (cell.slot in bench.released and cell.source == bench.released[cell.slot].source)
    ]


def _is_free(bench, cell):
    return cell.slot is None or "nbgrader" not in bench.released[cell.slot].metadata


def _rightly_named(bench, cell, exercise):
    """Not so where a name was put on the answer to another exercise."""
    if not _is_free(bench, cell):
        return False
    others = [one.name for one in bench.chapter.exercises.values() if one is not exercise]
    return exercise.name in cell.defined or cell.defined.isdisjoint(others)


def _is_of_another(bench, cell, exercise):
    """Is this the answer cell of another exercise of the chapter, which defines this one's function beside its own?"""
    if not _is_free(bench, cell):
        return True
    return any(
        cell.name == slot_of("exercise", one.id) and one.name in cell.defined
        for one in bench.chapter.exercises.values()
        if one is not exercise
    )


def _join_parts(bench, exercise):
    """A cell split in the middle of a function: the second part begins indented, and means nothing by itself."""
    slot, first, parts = slot_of("exercise", exercise.id), None, {}
    for cell in bench.cells:
        if first and (cell.name == slot or bench.is_own(cell)) and _goes_on(cell):
            parts[first].append(cell)
        else:
            first = cell if exercise.name in cell.defined else None
            parts[first] = []
    for first, rest in parts.items():
        if rest:
            bench.note("joined", id=exercise.id, name=exercise.name)
            first.source = "\n".join([first.source.rstrip(), *(cell.source for cell in rest)])
    bench.drop(cell for rest in parts.values() for cell in rest)


def _goes_on(cell):
    """Does the source begin inside a function and return from it?"""
    indented = re.match(r"\s*\n[ \t]|[ \t]", cell.source)
    return cell.kind == "code" and indented and re.search(r"^[ \t]+return\b", cell.source, re.M)


def find_written(bench, written):
    """Let one cell be the answer to a written question: by its name, else what was written below the question."""
    slot = slot_of("written", written.id)
    named = bench.named(slot)
    full = [cell for cell in named if not bench.is_stub(cell, slot)]
    below = [] if full else _below_question(bench, written)
    stubs = {cell for cell in (*named, *below) if bench.is_stub(cell, slot)}
    below = [cell for cell in below if cell not in stubs]
    if len(named) > 1:
        bench.note("copy", count=len(named) - 1, total=len(named), slot=slot)
    if full:
        found = full[-1]
    elif below:
        bench.note("written elsewhere", id=written.id)
        found = below[0]
        found.source = "\n\n".join(cell.source for cell in below)
        found.pictures = {name: picture for cell in below for name, picture in cell.pictures.items()}
        bench.drop(below[1:])
    elif stubs:
        found = max(stubs, key=bench.places().get)
    else:
        bench.note("missing written", id=written.id)
        found = bench.put_back(slot)
    for other in (cell for cell in named if cell is not found):
        other.make_own()
    bench.drop(stubs - {found})
    bench.settle(found, slot)


def _below_question(bench, written):
    """What the learner wrote in cells of their own between the question and the next cell that was given out."""
    slot, found = slot_of("written", written.id), []
    heading = re.compile(rf"^#+ Question {re.escape(written.id)}\b", re.M)
    start = next((at for at, cell in enumerate(bench.cells) if heading.search(cell.source)), len(bench.cells))
    for cell in bench.cells[start + 1 :]:
        if cell.name == slot or cell.source.startswith("| points |"):
            continue
        if not bench.is_own(cell) or cell.source.startswith("#"):
            break
        if cell.kind != "code" and cell.source.strip():
            found.append(cell)
    return found
