"""The learner's own record: one line of JSON a check or hint, appended to a file in the learner's own folder.

Appending never rewrites what is there, so two notebooks at once lose nothing, and a line cut short by a power cut
costs that line only. A folder that cannot be written to never breaks a check.
"""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autograder.exercise import NotInstalled, chapters, folder_of, load_chapter

_unsaved = []  # what could not be written, kept while this Python runs


@dataclass
class Standing:
    """Where the learner stands with one exercise."""

    best: float = 0.0
    tries: int = 0
    hints: int = 0


def folder():
    """$ATTN_HOME if set, else the place this system keeps an application's data."""
    if os.environ.get("ATTN_HOME"):
        return Path(os.environ["ATTN_HOME"])
    try:
        from platformdirs import user_data_path  # only here: a check should start fast
    except ImportError:  # comes with the course, not with the bare package
        return Path.home() / ".attn-course"
    return user_data_path("attn-course", appauthor=False)


def append(kind, exercise_id, **facts):
    """Append one line. Returns None, or why it could not be saved."""
    if os.environ.get("NBGRADER_EXECUTION"):
        return None  # a grading run is nobody's progress
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind, "id": exercise_id, **facts}
    try:
        path = folder() / "progress.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.tell() and _last_byte(file) != b"\n":
                file.write(b"\n")  # the line before was cut short
            file.write(json.dumps(entry).encode() + b"\n")
        return None
    except OSError as error:
        _unsaved.append(entry)
        return f"progress is not saved ({error.strerror or error}); it lasts until this notebook is closed"


def standings():
    """{exercise id: Standing}. Lines that cannot be read are passed over."""
    if os.environ.get("NBGRADER_EXECUTION"):
        return {}  # a student's feedback must not show the record of whoever grades
    try:
        lines = (folder() / "progress.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = {}
    for entry in [*map(_parse, lines), *_unsaved]:
        try:
            standing = found.setdefault(str(entry["id"]), Standing())
            if entry["kind"] == "check":
                standing.tries += 1
                standing.best = max(standing.best, float(entry["earned"]))
            elif entry["kind"] == "hint":
                standing.hints = max(standing.hints, int(entry["step"]))
        except (TypeError, KeyError, ValueError):
            continue
    return found


def table(only=None):
    """[(folder, [(Exercise, Standing)], library)] of the whole course or of one chapter, in order.

    `library` names what is not installed and the chapter needs; there are no exercises then.
    """
    known, found = standings(), []
    for number in chapters():
        if only in (None, number):
            try:
                exercises, missing = load_chapter(number).exercises.values(), None
            except NotInstalled as error:
                exercises, missing = [], error.name
            rows = [(exercise, known.get(exercise.id, Standing())) for exercise in exercises]
            found.append((folder_of(number), rows, missing))
    return found


def _last_byte(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _parse(line):
    try:
        return json.loads(line)
    except ValueError:
        return None
