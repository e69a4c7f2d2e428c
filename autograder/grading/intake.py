"""Make submissions of what is handed over: nbgrader's folders, a flat folder, the zips of a learning platform.

Whatever is somebody's submission becomes one, readable or not, so that its student gets a reason; what cannot be placed
is listed. Nothing is written, moved or unpacked.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from autograder.exercise import chapters as chapter_numbers
from autograder.exercise import folder_of, loadable_chapters
from autograder.grading.gather import Found, gather, shown
from autograder.grading.recognise import count_answered, number_of
from autograder.grading.rescue import LARGEST_FILE, rescue
from autograder.grading.results import Submission
from autograder.grading.whose import Owner, gradescope_names, level_of, owner_of, safe_id, time_of, written

LARGEST_FILES = 20 * 2**20  # bytes of data files that one submission may bring
MOST_FILES = 200
MODULES = (".py", ".pyc", ".pyd", ".pyw", ".pyi", ".so", ".dll", ".dylib", ".pth")
OURS = {"timestamp.txt", "expected.csv", "gradebook.db", "grade.log", "index.html", "submission_metadata.yml"}

REASONS = {
    "whose": "nothing tells whose it is; a folder or a file name should name the student, as in "
    "<student>/<chapter>/<chapter>.ipynb",
    "which": "nothing tells which chapter it is: it holds no cell of any, and its name and folder name none",
    "unseen": "; chapters whose packages are not installed here were not looked at: {chapters}",
    "no notebook": "there is no notebook beside it that could be graded; hand in the .ipynb file",
    "better": "{student} handed in {other} as well, which has more answers or is newer",
    "misplaced": "it is the notebook of {found}, in the folder of {wanted}",
    "later": "{student} handed in {chapter} again ({other}), which counts",
    "not asked": "it belongs to {chapter}, which is not being graded",
}
NOTES = {
    "found as": "The notebook was found as {name}.",
    "name": 'The student\'s name was read from {how}, "{name}".',
    "renamed": "The student's name {name} has characters that a gradebook cannot hold; it goes by {id} here.",
    "namesake": "Several students are called {name}; this one goes by {id}.",
    "module": "{name} was not passed on: a Python module could stand in for a library. Put the code into the notebook.",
    "too much": "{name} was not passed on: a submission may bring {count} files of {mib} MiB together.",
    "long": "The file has {mib:.0f} MiB; only its beginning was read.",
    "zip time": "The time of handing in is the one in the zip, taken as UTC.",
}


class IntakeError(Exception):
    """There is nothing to take in; the message says why and what to do."""


@dataclass
class Unit:
    """What one student handed in together."""

    student: str
    owner: Owner
    files: list[tuple[Found, str]] = field(default_factory=list)  # each with its name below the student's folder
    stamp: str | None = None
    zip_is_platforms: bool = False  # whether the times in the zip were written by others than the student


@dataclass(eq=False)
class Candidate:
    """A notebook that may be the submission."""

    file: Found
    name: str
    chapter: str | None  # by its content
    answered: int


@dataclass
class Placed:
    """A submission on its way, and the path it came from."""

    submission: Submission
    unit: Unit
    path: str


def take_in(source, chapters=None):
    """A path, and the folders of the chapters wanted (all) -> (submissions in order, [(path, why it is none)]).

    Raises IntakeError where the path does not exist.
    """
    source = Path(source)
    if not source.exists():
        raise IntakeError(f"there is no {source}; give a folder of <student>/<chapter>/<chapter>.ipynb, or a zip")
    if (source / "submitted").is_dir():  # a whole nbgrader course: what it made of submissions is beside them
        source = source / "submitted"
    folders = [folder_of(number) for number in chapter_numbers()]
    wanted = folders if chapters is None else list(chapters)
    files, unplaced = gather(source)
    units = _units(files, folders, unplaced)
    placed = _placed(units, wanted, unplaced)
    placed = _latest(placed, unplaced)
    _name(placed)
    submissions = [one.submission for one in placed]
    return sorted(submissions, key=lambda one: (one.student, one.chapter)), sorted(unplaced)


def _units(files, folders, unplaced):
    """Put together what was handed in together."""
    level = level_of([one.parts for one in files if one.parts[-1] not in OURS], folders)
    ours = [one for one in files if _is_ours(one, level)]
    times = {one.parts[:-1]: _text(one).strip() for one in ours if one.parts[-1] == "timestamp.txt"}
    names = {one.parts[:-1]: gradescope_names(_text(one)) for one in ours if one.parts[-1].endswith("metadata.yml")}
    units = {}
    for file in (one for one in files if not _is_ours(one, level)):
        owner = owner_of(file.parts, folders, level)
        if owner is None:
            unplaced.append((file.path, REASONS["whose"]))
            continue
        root = file.parts[: len(file.parts) - len(owner.inside)]
        students, stamp = names.get(root[:-1], {}).get(owner.student, ([], None))
        for student in students or [owner.student]:
            unit = units.setdefault((owner.unit, student), Unit(student, owner))
            unit.files.append((file, "/".join(owner.inside)))
            unit.stamp = owner.stamp or stamp or (owner.trusted and time_of(times.get(root))) or None
            unit.zip_is_platforms = file.zipped_at <= level
    return list(units.values())


def _is_ours(file, level):
    """Was it put there by nbgrader, a platform or this course, and not by a student in a folder of their own?"""
    name = file.parts[-1]
    return name == "timestamp.txt" or (name in OURS and len(file.parts) <= level + 1)


def _text(file):
    return file.data.decode("utf-8", "replace")


def _placed(units, wanted, unplaced):
    """Each unit's notebooks, at most one a chapter."""
    pools = [(unit, _candidates(unit)) for unit in units]
    seen = {found for _, pool in pools for one in pool if (found := one.chapter or _called(one.name))}
    seen |= {unit.owner.chapter for unit in units if unit.owner.chapter}
    # An unreadable file whose place names no chapter belongs to the one chapter that everything else belongs to.
    only = wanted[0] if len(wanted) == 1 else next(iter(seen)) if len(seen) == 1 else None
    placed = []
    for unit, pool in pools:
        before = len(placed)
        by_chapter = defaultdict(list)
        for one in pool:
            by_chapter[unit.owner.chapter or one.chapter or _called(one.name) or only].append(one)
        for chapter, several in by_chapter.items():
            if chapter is None:
                why = _of_none()
                unplaced += [(one.file.path, why) for one in several]
            elif chapter not in wanted:
                unplaced += [(one.file.path, REASONS["not asked"].format(chapter=chapter)) for one in several]
            else:
                placed.append(_best(unit, chapter, several, pool, unplaced))
        if len(placed) == before:
            alone = [file for file, _ in unit.files if not any(one.file is file for one in pool)]
            unplaced += [(file.path, REASONS["no notebook"]) for file in alone]
    return placed


def _of_none():
    """Why a notebook that nothing tells the chapter of is not placed; what was not looked at is named."""
    seen = {one.number for one in loadable_chapters()}
    unseen = [folder_of(number) for number in chapter_numbers() if number not in seen]
    return REASONS["which"] + (REASONS["unseen"].format(chapters=", ".join(unseen)) if unseen else "")


def _called(name):
    """The chapter that an unreadable notebook is called like."""
    stem = name.split("/")[-1].split(".")[0]
    return next((folder for number in chapter_numbers() if (folder := folder_of(number)) == stem), None)


def _candidates(unit):
    found = []
    for file, name in unit.files:
        if re.search(r"\.ipynb\b", name, re.I) or b'"cell_type"' in file.data[: 2**20]:
            cells = rescue(file.data).cells
            number = number_of(cells)
            answered = -1 if number is None else count_answered(cells, number)
            found.append(Candidate(file, name, None if number is None else folder_of(number), answered))
    return found


def _best(unit, chapter, several, pool, unplaced):
    """The notebook with most answers, the newest among equals; a wrong chapter's only where there is nothing else."""
    right = [one for one in several if one.chapter in (chapter, None)] or several
    best = max(right, key=lambda one: (one.chapter == chapter, one.answered, one.file.changed, one.file.parts))
    for one in several:
        if one not in right:
            unplaced.append((one.file.path, REASONS["misplaced"].format(found=one.chapter, wanted=chapter)))
        elif one is not best:
            unplaced.append(
                (one.file.path, REASONS["better"].format(student=shown(unit.student), other=best.file.path))
            )
    made = Submission(unit.student, chapter, best.file.data, submitted=unit.stamp)
    if best.name.split("/")[-1] != f"{chapter}.ipynb":
        made.notes.append(NOTES["found as"].format(name=shown(best.name)))
    if unit.owner.how:
        made.notes.append(NOTES["name"].format(how=unit.owner.how, name=shown(unit.student)))
    if best.file.size > LARGEST_FILE:
        made.notes.append(NOTES["long"].format(mib=best.file.size / 2**20))
    if not made.submitted and best.file.stamp and unit.zip_is_platforms:
        made.submitted = written(best.file.stamp)
        made.notes.append(NOTES["zip time"])
    _add_files(made, unit, [one.file for one in pool])  # whatever chapter they are of
    return Placed(made, unit, best.file.path)


def _add_files(made, unit, notebooks):
    room = LARGEST_FILES
    for file, name in unit.files:
        if file in notebooks:
            continue
        if name.lower().endswith(MODULES):
            made.notes.append(NOTES["module"].format(name=shown(name)))
        elif file.size > room or len(made.files) == MOST_FILES:
            made.notes.append(NOTES["too much"].format(name=shown(name), count=MOST_FILES, mib=LARGEST_FILES // 2**20))
        else:
            made.files[name] = file.data
            room -= file.size


def _latest(placed, unplaced):
    """One submission a student and chapter: the latest counts, and one without a time is earlier than any."""
    kept = {}
    for one in placed:
        key = (one.unit.student, one.unit.owner.number, one.submission.chapter)
        other = kept.get(key)
        if other and (other.submission.submitted or "") > (one.submission.submitted or ""):
            one, other = other, one
        kept[key] = one
        if other:
            facts = dict(student=shown(one.unit.student), chapter=one.submission.chapter, other=one.path)
            unplaced.append((other.path, REASONS["later"].format(**facts)))
    return list(kept.values())


def _name(placed):
    """Give everyone an id that a gradebook can hold, and two people two ids."""
    people = {(one.unit.student, one.unit.owner.number) for one in placed}
    namesakes = Counter(student for student, _ in people)
    ids, taken = {}, set()
    # Whoever can go by the name as it is keeps it, whatever the others are called.
    for student, number in sorted(people, key=lambda one: (safe_id(one[0]) != one[0], one)):
        several = namesakes[student] > 1 and number
        wanted = safe_id(f"{student} {number}" if several else student)
        name, count = wanted, 2
        while name in taken:
            name, count = f"{wanted}-{count}", count + 1
        taken.add(name)
        note = "namesake" if several else "renamed" if name != student else None
        ids[student, number] = name, note and NOTES[note].format(name=ascii(student), id=name)
    for one in placed:
        one.submission.student, note = ids[one.unit.student, one.unit.owner.number]
        if note:
            one.submission.notes.append(note)
