"""Scores as a CSV that Canvas imports into its gradebook.

With a roster (the gradebook as Canvas exports it) each student is found as Canvas itself would: by ID, then SIS User
ID, then SIS Login ID, then the exact name; columns of the same chapter keep Canvas's title and number. Without one the
folder's name is given as the login. An empty field leaves what is there: a missing or failed submission is no 0.
"""

import csv
import io
import re
from dataclasses import dataclass, field

from autograder.grading.results import ClassRun, write_atomically
from autograder.reports import spreadsheet
from autograder.reports.class_numbers import scored, table

IDENTITY = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
BY = ("ID", "SIS User ID", "SIS Login ID", "Student")
POINTS_POSSIBLE = "    Points Possible"  # with the blanks that Canvas itself writes
NUMBERED = re.compile(r"(.*?) \((\d+)\)")

NO_ROSTER = "this file has no {column} column, so it is no gradebook exported from Canvas; its header is: {header}"


@dataclass
class Export:
    """The file's text, and the students of the run that the roster does not know (or knows twice)."""

    text: str
    unknown: list[str] = field(default_factory=list)


def export(run: ClassRun, roster: str | None = None) -> Export:
    """The import file. ValueError if the roster is no gradebook exported from Canvas."""
    if roster is None:
        identities, titles, unknown = {name: {"SIS Login ID": name} for name in run.students}, [], []
    else:
        titles, entries = _read(roster)
        identities, unknown = _match(run.students, entries)
    cells = table(run)
    # A column without a score says nothing, and its empty number of points would change the assignment's.
    chapters = [
        chapter for chapter in run.chapters if any(one.chapter == chapter and scored(one) for one in run.graded)
    ]
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow([*IDENTITY, *(_title(chapter, titles) for chapter in chapters)])
    writer.writerow([POINTS_POSSIBLE, "", "", "", "", *(_possible(run, chapter) for chapter in chapters)])
    for student, identity in identities.items():
        known = [spreadsheet.field(identity.get(name, "")) for name in IDENTITY]
        writer.writerow([*known, *(_score(cells[student, chapter]) for chapter in chapters)])
    return Export(out.getvalue(), unknown)


def write(run: ClassRun, path, roster: str | None = None):
    """Write the import file. Returns the students that the roster does not know, whose scores are not in it."""
    made = export(run, roster)
    write_atomically(path, made.text)
    return made.unknown


def _read(roster):
    """(assignment titles, one dict a student) of an exported gradebook."""
    text = roster.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    rows = list(csv.reader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ","))
    header = [name.strip() for name in rows[0]] if rows else []
    for column in ("Student", "ID"):
        if column not in header:
            raise ValueError(NO_ROSTER.format(column=column, header=", ".join(header)[:200] or "empty"))
    entries = [dict(zip(header, row, strict=False)) for row in rows[1:]]
    people = [one for one in entries if any(one.get(name, "").strip() for name in BY[:3])]
    return [title for title in header if NUMBERED.fullmatch(title)], people


def _match(students, entries):
    """({student: their entry}, students without one). An entry serves one student, and the surest match comes first."""
    found, taken = {}, set()
    for column, form in (*((name, str) for name in BY), ("Student", _in_file_names)):
        by_value = {}
        for entry in entries:
            value = re.sub(
                r'^="(.*)"$', r"\1", entry.get(column, "").strip()
            )  # so Canvas guards a name that begins with =
            by_value.setdefault(form(value), []).append(entry)
        for student in students:
            fitting = by_value.get(form(student), [])
            if student not in found and len(fitting) == 1 and id(fitting[0]) not in taken:
                found[student] = fitting[0]
                taken.add(id(fitting[0]))
    return {name: found[name] for name in students if name in found}, [name for name in students if name not in found]


def _in_file_names(name):
    """ "Lovelace, Ada" as Canvas names her file in the zip of a class: lovelaceada."""
    return re.sub(r"[\W_]", "", name).casefold()


def _title(chapter, titles):
    """Canvas's own column of this chapter, where it has one; else the chapter's name, which makes a new assignment."""
    plain = chapter.replace("_", " ").casefold()
    same = [title for title in titles if NUMBERED.fullmatch(title)[1].replace("_", " ").strip().casefold() == plain]
    return same[0] if same else chapter


def _possible(run, chapter):
    return f"{max(one.max_score for one in run.graded if one.chapter == chapter and scored(one)):.2f}"


def _score(one):
    return f"{one.score:.2f}" if scored(one) else ""
