"""The class on one page: how it went, what was hard, which mistakes were made, and who needs a word.

The page is one file, works offline, and runs only the lines that sort its table.
"""

from collections import Counter
from statistics import median

from autograder.grading.results import MISSING, ClassRun
from autograder.reports import charts
from autograder.reports import class_numbers as numbers
from autograder.reports.page import chapter_title, points_text, render

MOST_ROWS = 15  # of mistakes, and of exercises that students are stuck on
MOST_NEEDS = 60
MOST_NAMES = 12

# What the reader sees.
TEXT = {
    "title": "Class report: {course}",
    "nothing": "Nothing was handed in yet, so there is nothing to report.",
    "students": "students",
    "median": "median share of the points",
    "sandbox": "Graded with sandbox: {levels}.",
    "scores": "Scores by chapter",
    "scores_note": "The share of the points that are decided so far. Failed and missing submissions have no score and "
    "are not counted as 0; written questions count once they are read.",
    "glance": "The class at a glance",
    "glance_note": "Each row is a student, the best at the top, and each column an exercise. A column that is dark "
    "from top to bottom was hard for everyone; a light row with one dark cell is a good student with one gap. Blank is "
    "what has no score.",
    "exercises": "Exercises: difficulty and discrimination",
    "exercises_note": "Difficulty is the mean share of the points. Discrimination is the correlation of an exercise "
    "with the other exercises of its chapter: near 1, whoever solves it also solves the others; near 0, it tells "
    "nothing about them. Below {weak} (shaded), look at the exercise: it may be unclear, far too easy, or about "
    "something else. A dash means that fewer than {enough} submissions had the exercise, when chance alone reaches "
    "{chance:.2f}, or that all scores were equal.",
    "exercises_columns": ("exercise", "submissions", "mean", "all", "part", "none", "not tried", "discrimination"),
    "mistakes": "The most frequent mistakes",
    "mistakes_columns": ("mistake", "exercise", "students", "of those who tried"),
    "mistakes_none": "No known mistake was recognised.",
    "mistakes_more": "… and {count} more, none more frequent than the last one here.",
    "needs": "Students who may need help",
    "needs_columns": ("student", "share", "why"),
    "needs_none": "No student stands out.",
    "needs_more": "… and {count} more; the table of all scores has everyone.",
    "why_low": "below {low:.0%} of the points",
    "why_failed": "{chapter} could not be graded: {reason}",
    "why_missing": "not handed in: {chapters}",
    "why_breach": "{kind} in {exercise}",
    "why_unsolved": "tried without a point: {exercises}",
    "stuck": "Stuck on the same exercise",
    "stuck_note": "Two or more students tried these and got no point. One conversation may serve them all.",
    "stuck_columns": ("exercise", "students", "who"),
    "breaches": "Breaches and flags",
    "breaches_note": "A breach costs the exercise it happened in. A flag takes no points; it asks you to look.",
    "breaches_columns": ("student", "chapter", "exercise", "what", "details"),
    "waiting": "Written questions that wait for a reader",
    "waiting_columns": ("chapter", "question", "answers", "who"),
    "unplaced": "What could not be placed",
    "unplaced_columns": ("file", "why"),
    "table": "All scores",
    "table_note": "Select a heading to sort by it. + marks written answers that wait for a reader.",
    "student": "student",
    "total": "total",
    "missing": "missing",
    "failed": "failed",
    "nobody": "–",
    "names_more": "{names} and {count} more",
}


def html(run: ClassRun) -> str:
    """The page as text."""
    cells = numbers.table(run)
    entries = numbers.exercises(run)
    limits = {"weak": charts.WEAK, "enough": numbers.ENOUGH, "chance": 2 / numbers.ENOUGH**0.5}
    found, needs, stuck = numbers.mistakes(run), numbers.needs(run), numbers.stuck(run)
    return render(
        "class_report.html.j2",
        script="sort.js",
        title=TEXT["title"].format(course=run.course),
        t=TEXT,
        run=run,
        tiles=_tiles(run, cells),
        sandbox=_sandbox(run),
        exercises_note=TEXT["exercises_note"].format(**limits),
        plots=_plots(run, cells, entries) if entries else {},
        entries=entries,
        mistakes=found[:MOST_ROWS],
        mistakes_more=_more("mistakes_more", len(found) - MOST_ROWS),
        needs=[(need.student, need.share, list(_why(need))) for need in needs[:MOST_NEEDS]],
        needs_more=_more("needs_more", len(needs) - MOST_NEEDS),
        stuck=list(stuck.items())[:MOST_ROWS],
        names=names_text,
        breaches=_breaches(run),
        waiting=_waiting(run),
        header=[TEXT["student"], *(chapter_title(one) for one in run.chapters), TEXT["total"]],
        rows=[_row(student, run, cells) for student in run.students],
    )


def _tiles(run, cells):
    tiles = [(len(run.students), TEXT["students"])]
    tiles += [(count, status) for status, count in numbers.statuses(run).items() if count]
    shares = [one for one in map(numbers.share, cells.values()) if one is not None]
    if shares:
        tiles.append((f"{median(shares):.0%}", TEXT["median"]))
    return tiles


def _sandbox(run):
    levels = Counter(one.stamp.sandbox for one in run.graded if one.stamp)
    words = [f"{level} ({count})" for level, count in levels.most_common()] or [run.sandbox] * bool(run.sandbox)
    return TEXT["sandbox"].format(levels=", ".join(words)) if words else ""


def _plots(run, cells, entries):
    shares = {chapter_title(chapter): [] for chapter in run.chapters}
    for one in cells.values():
        value = numbers.share(one)
        if value is not None:
            shares.setdefault(chapter_title(one.chapter), []).append(value)
    chapters = list(dict.fromkeys(one.chapter for one in entries))
    by_chapter = {chapter: [one for one in entries if one.chapter == chapter] for chapter in chapters}
    return {
        "distribution": charts.distribution(shares),
        "glance": charts.glance(numbers.glance(run, entries), entries) if run.students else "",
        "outcomes": {
            chapter: charts.outcomes(own, f"outcomes-{n}") for n, (chapter, own) in enumerate(by_chapter.items())
        },
    }


def _more(key, count):
    return TEXT[key].format(count=count) if count > 0 else ""


def names_text(names):
    """The names, or the first of them and how many more there are."""
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else TEXT["names_more"].format(names=shown, count=len(names) - MOST_NAMES)


def _why(need):
    for one in need.failed:
        yield TEXT["why_failed"].format(chapter=chapter_title(one.chapter), reason=one.reason)
    if need.low:
        yield TEXT["why_low"].format(low=numbers.LOW)
    if need.missing:
        yield TEXT["why_missing"].format(chapters=", ".join(map(chapter_title, need.missing)))
    for one in need.breaches:
        yield TEXT["why_breach"].format(kind=one.kind, exercise=one.exercise) if one.exercise else one.kind
    if len(need.unsolved) > 1:
        yield TEXT["why_unsolved"].format(exercises=names_text(need.unsolved))


def _breaches(run):
    rows = []
    for one in run.graded:
        own = [(each.exercise, each.kind, each.message) for each in (*one.breaches, *one.flags)]
        rows += [(one.student, one.chapter, exercise or TEXT["nobody"], *rest) for exercise, *rest in own]
    return rows


def _waiting(run):
    found = {}
    for one in run.graded:
        for reading in one.readings:
            if reading.earned is None and numbers.scored(one):
                found.setdefault((one.chapter, f"{reading.question} {reading.title}"), []).append(one.student)
    return dict(sorted(found.items()))


def _row(student, run, cells):
    """The student, then (text, sort key, words behind the text) for each chapter and the total."""
    own = [cells[student, chapter] for chapter in run.chapters]
    shown = [_score(one) for one in own]
    scores = [one.score for one in own if numbers.scored(one)]
    total = (points_text(sum(scores)), sum(scores), "") if scores else (TEXT["nobody"], -1, "")
    return student, [*shown, total]


def _score(one):
    if one.status == MISSING:
        return TEXT["missing"], -2, ""
    if not numbers.scored(one):
        return TEXT["failed"], -1, one.reason
    text = f"{points_text(one.score)}{'+' if one.waits_for_reader else ''}"
    return text, one.score, f"{points_text(one.score)} of {points_text(numbers.decided(one))}"
