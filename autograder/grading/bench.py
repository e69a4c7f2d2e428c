"""The work in hand while a notebook is mended: the cells in order, what was given out, and what there is to say."""

from dataclasses import dataclass, field

import nbformat

from autograder.exercise import Chapter
from autograder.grading.cells import Cell, bare
from autograder.grading.results import Breach

SETTINGS = ("grade", "solution", "locked", "task", "points")

NOTES = {
    "no metadata": "The cells had lost the names that grading goes by (Colab, nbstripout and converters drop them). "
    "They were recognised by what they define.",
    "renamed": "A cell bore the name {was}; it was recognised by what it holds and is {slot} again.",
    "kind": "{slot} had been turned into a {kind} cell; it was made a {right} cell again.",
    "several": "Exercise {id}: {name} is defined in several cells; the last of them before its check counts.",
    "elsewhere": "Exercise {id}: the answer cell was left as given out, but {name} is defined in another cell, "
    "which counts as the answer.",
    "shared": "Exercise {id}: {name} is defined in the answer cell of another exercise, which counts here as well.",
    "missing answer": "Exercise {id}: no cell defines {name}; the answer cell was put back as it was given out.",
    "missing written": "Question {id}: its answer cell was missing and was put back as it was given out.",
    "written elsewhere": "Question {id}: the answer was found in a new cell below the question.",
    "missing check": "The check of exercise {id} was missing and was put back.",
    "edited check": "The check of exercise {id} had been changed; it is as it was given out again.",
    "copy": "{count} of the {total} cells named {slot} were copies; the last that holds an answer counts.",
    "copied check": "A copy of cell {slot} was left out.",
    "joined": "Exercise {id}: the answer had been split in the middle of {name}; its parts were joined.",
    "check moved": "The check of exercise {id} did not stand behind its answer; it does now.",
    "imports": "The cell that imports {what} was missing, changed or too far down; it stands first again.",
    "settings": "The nbgrader settings of cell {slot} had been changed; they are as given out again.",
    "unknown name": "{count} cells bear nbgrader names that this chapter does not have; they count as your own.",
    "tags": "The tags {tags} were taken off: they tell a notebook to skip a cell or to pass over its errors.",
    "too many": "The notebook has {count} cells and may have {limit}; the last {left} cells of your own were left out.",
    "long own cell": "A cell of your own has {mib:.1f} MiB of text and may have {limit:g}; it was left out.",
}


@dataclass
class Bench:
    """The work in hand: the learner's cells in order, what was given out, and what was noted so far."""

    cells: list[Cell]
    released: dict[str, nbformat.NotebookNode]  # by cell id, in order
    chapter: Chapter
    notes: list[str]
    breaches: list[Breach] = field(default_factory=list)

    def note(self, kind, /, **facts):
        text = NOTES[kind].format(**facts)
        if text not in self.notes:
            self.notes.append(text)

    def named(self, slot):
        return [cell for cell in self.cells if cell.name == slot]

    def standing_for(self, slot):
        return next((cell for cell in self.cells if cell.slot == slot), None)

    def place(self, cell):
        """Where a cell stands; behind everything where it is None."""
        return next((at for at, one in enumerate(self.cells) if one is cell), len(self.cells))

    def places(self):
        """{cell: where it stands}"""
        return {cell: at for at, cell in enumerate(self.cells)}

    def drop(self, cells):
        gone = set(cells)
        self.cells = [one for one in self.cells if one not in gone]

    def put(self, slot, at):
        """A fresh copy of a released cell, inserted at this place."""
        cell = Cell(self.released[slot].cell_type, self.released[slot].source, slot=slot)
        self.cells.insert(at, cell)
        return cell

    def put_back(self, slot):
        """A fresh copy of a released cell, where it belongs: behind its predecessor and what was added there."""
        before = list(self.released)[: list(self.released).index(slot)]
        there = {cell.slot or cell.name: at for at, cell in enumerate(self.cells)}
        at = next((there[one] + 1 for one in reversed(before) if one in there), 0)
        return self.put(slot, self.behind_own(at))

    def behind_own(self, at):
        """The first place from `at` on that is not one of the learner's own cells."""
        while at < len(self.cells) and self.is_own(self.cells[at]):
            at += 1
        return at

    def is_own(self, cell):
        return cell.slot is None and cell.name not in self.released

    def is_stub(self, cell, slot):
        return bare(cell.source) == bare(self.released[slot].source)

    def settle(self, cell, slot):
        """Let this cell stand for a released one, and be of the kind that was given out."""
        released = self.released[slot]
        if cell.kind != released.cell_type:
            self.note("kind", slot=slot, kind=cell.kind, right=released.cell_type)
        was, given = cell.nbgrader, released.metadata.nbgrader
        if was and was.get("grade_id") != slot:
            self.note("renamed", was=repr(was.get("grade_id"))[:40], slot=slot)
        elif was and any(was.get(one) != given[one] for one in SETTINGS if one in given):
            self.note("settings", slot=slot)
        cell.slot, cell.kind, cell.id = slot, released.cell_type, slot
