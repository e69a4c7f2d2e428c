"""One student's page: the score, what was met and what was not and why, and the notebook as it ran.

The page is one file, runs no script and makes no request. It holds what the marks hold and what the student handed in.
"""

from autograder.grading.results import FAILED, MISSING, PARTLY, Graded
from autograder.reports.notebook_html import cell_views
from autograder.reports.page import of, points_text, render

# What the student reads.
TEXT = {
    "title": "{student}: {chapter}",
    "skip": "To the notebook",
    "score": "points",
    "so_far": "points so far",
    "no_score": "no score",
    "solved": "exercises in full",
    "waiting": "written answers wait for a reader",
    PARTLY: "A part of this notebook could not be graded: {reason}",
    FAILED: "This notebook could not be graded, which is not the same as 0 points: {reason}",
    MISSING: "Nothing was handed in, which is not the same as 0 points.",
    "submitted": "Handed in {when}.",
    "late": "It came {late} late, which takes off {points}.",
    "late_free": "It came {late} late, which takes off nothing.",
    "breaches": "What went wrong while it ran",
    "in_exercise": "in exercise {}; it costs this exercise and no other",
    "notes": "What was mended",
    "exercises": "Exercises",
    "written": "Written questions",
    "points": "points",
    "symbols": {"full": "✓", "part": "◐", "none": "✗"},
    "met": {"full": "met", "part": "met in part", "none": "not met"},
    "statuses": {
        "no evidence": "The check of this exercise brought back nothing that can be judged.",
        "breach": "Something went wrong while this exercise ran; it is described above.",
        "by policy": "The points of this exercise follow from a rule of the course.",
    },
    "waits": "waits for a reader · {} points",
    "comment": "The reader writes:",
    "to_answer": "Your answer to {}",
    "to_mark": "The mark for this check",
    "mark_above": "The mark for this check stands above.",
    "notebook": "Your notebook, as it ran",
    "no_notebook": "There is no executed notebook to show.",
    "output": "output",
    "stamp": "Graded {when} · sandbox: {sandbox}",
}


def html(graded: Graded, notebook=None) -> str:
    """The page as text. `notebook` is the executed notebook (as nbformat reads it), or None where there is none."""
    cells = cell_views(notebook) if notebook is not None else []
    places = {}
    for place, cell in enumerate(cells):
        if cell.name:
            places.setdefault(cell.name, place)
    return render(
        "feedback.html.j2",
        title=TEXT["title"].format(student=graded.student, chapter=graded.chapter),
        t=TEXT,
        graded=graded,
        tiles=_tiles(graded),
        status=_status(graded),
        cells=cells,
        places=places,
        links={f"check-{anchor(mark.exercise)}": f"mark-{anchor(mark.exercise)}" for mark in graded.marks},
        anchor=anchor,
        level_of=level_of,
        points_text=points_text,
    )


def anchor(exercise):
    """`2-1` of 2.1"""
    return exercise.replace(".", "-")


def level_of(earned, points):
    """full, part or none"""
    return "full" if earned >= points else "part" if earned > 0 else "none"


def _tiles(graded):
    if graded.status in (FAILED, MISSING):
        return [("–", TEXT["no_score"])]
    waiting = sum(one.earned is None for one in graded.readings)
    tiles = [(of(graded.score, graded.max_score), TEXT["so_far" if waiting else "score"])]
    solved = sum(mark.earned >= mark.points for mark in graded.marks)
    tiles.append((f"{solved} of {len(graded.marks)}", TEXT["solved"]))
    return tiles + ([(str(waiting), TEXT["waiting"])] if waiting else [])


def _status(graded):
    said = [TEXT[graded.status].format(reason=graded.reason)] if graded.status in (PARTLY, FAILED, MISSING) else []
    if graded.submitted:
        said.append(TEXT["submitted"].format(when=graded.submitted))
    if graded.late_seconds > 0:
        words = TEXT["late" if graded.late_penalty else "late_free"]
        taken = f"{points_text(graded.late_penalty)} {TEXT['points']}"
        said.append(words.format(late=duration(graded.late_seconds), points=taken))
    return said


def duration(seconds):
    """`2 days 3 h`, `3 h 5 min`, `4 min`"""
    minutes = max(1, round(seconds / 60))
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "day" if days == 1 else "days"), (hours, "h"), (minutes, "min")]
    return " ".join([f"{count} {unit}" for count, unit in parts if count][:2])
