"""A summary in Markdown for the page of a GitHub Actions run ($GITHUB_STEP_SUMMARY).

`one` is for a student's own repository. `text` is for the class and names nobody: all who can read the repository
can read the summaries of its runs.
"""

import re

from autograder.grading.results import FAILED, MISSING, ClassRun, Graded
from autograder.reports import class_numbers as numbers
from autograder.reports.page import chapter_title, of

LARGEST = 1_000_000  # characters; GitHub shows no summary of more than 1 MiB
MOST_MISTAKES = 10

# What the reader sees.
TEXT = {
    "class": "## {course}: {students} students",
    "statuses": "| status | submissions |\n|---|--:|",
    "exercises": "\n| exercise | submissions | mean share |\n|---|--:|--:|",
    "mistakes": "\n| most frequent mistakes | exercise | students |\n|---|---|--:|",
    "one": "## {chapter}: {score} points",
    "one_waiting": "## {chapter}: {score} points so far, written answers wait for a reader",
    "no_score": "## {chapter}: no score",
    "head": "| exercise | points | |\n|---|--:|---|",
    "cut": "\n… cut here, because GitHub shows no longer summary.",
}


def text(run: ClassRun) -> str:
    """The class in numbers."""
    lines = [TEXT["class"].format(course=escaped(run.course), students=len(run.students)), "", TEXT["statuses"]]
    lines += [f"| {status} | {count} |" for status, count in numbers.statuses(run).items()]
    lines.append(TEXT["exercises"])
    for one in numbers.exercises(run):
        lines.append(f"| {escaped(f'{one.exercise} {one.title}')} | {one.count} | {one.mean:.0%} |")
    lines.append(TEXT["mistakes"])
    for one in numbers.mistakes(run)[:MOST_MISTAKES]:
        lines.append(f"| {escaped(one.name.replace('_', ' '))} | {escaped(one.exercise)} | {len(one.students)} |")
    return _whole(lines)


def one(graded: Graded) -> str:
    """One submission: score, exercises with their diagnosis, and what went wrong."""
    chapter = escaped(chapter_title(graded.chapter))
    if graded.status in (FAILED, MISSING):
        return _whole([TEXT["no_score"].format(chapter=chapter), "", escaped(graded.reason)])
    heading = TEXT["one_waiting" if graded.waits_for_reader else "one"]
    lines = [heading.format(chapter=chapter, score=of(graded.score, graded.max_score)), ""]
    lines += [f"- {escaped(said)}" for said in [graded.reason, *(one.message for one in graded.breaches)] if said]
    lines += ["", TEXT["head"]]
    for mark in graded.marks:
        sign = "✓" if mark.earned >= mark.points else "✗"
        said = " ".join(mark.messages) or "; ".join(each.because for each in mark.criteria if each.because)
        name = escaped(f"{mark.exercise} {mark.title}")
        lines.append(f"| {sign} {name} | {of(mark.earned, mark.points)} | {escaped(said)} |")
    return _whole(lines)


def append(summary: str, path):
    """Add a summary to the file that GitHub names in GITHUB_STEP_SUMMARY."""
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(summary)


def escaped(words):
    """Text on one line that Markdown shows letter by letter: no link, image, table cell or HTML."""
    return re.sub(r"[^\w\s]|_", lambda found: f"&#{ord(found[0])};", " ".join(str(words).split()))


def _whole(lines):
    made = "\n".join(lines) + "\n"
    return made if len(made) <= LARGEST else made[:LARGEST].rpartition("\n")[0] + TEXT["cut"]
