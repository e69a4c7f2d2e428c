"""Every known mistake and every right variant through the grader, as a table for the docs."""

from autograder.exercise import chapters, load_chapter
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import collect

HEAD = """# Kill matrix

Every wrong answer that an exercise knows, and every right answer written differently, put through the same check that
a learner and a class meet. Made by `make kill-matrix`; a test compares this page with a fresh run. A cross marks a
criterion that the answer fails. "Named" says whether the card names this very mistake.
"""


def markdown():
    """The whole page."""
    parts, mistakes, variants, criteria, exercises = [], 0, 0, 0, 0
    for number in chapters():
        chapter = load_chapter(number)
        parts.append(f"\n## {chapter.folder}\n")
        for exercise in chapter.exercises.values():
            parts.append(_table(exercise))
            exercises += 1
            mistakes += len(exercise.mistakes)
            variants += len(exercise.variants)
            criteria += len(exercise.criteria)
    counted = f"\n{exercises} exercises, {criteria} criteria, {mistakes} mistakes, {variants} right variants.\n"
    return HEAD + counted + "".join(parts)


def _table(exercise):
    letters = [f"c{place}" for place in range(1, len(exercise.criteria) + 1)]
    lines = [f"\n### {exercise.id} {exercise.title} · `{exercise.name}` · {exercise.points:g} points\n"]
    lines += [
        f"- {letter}: {criterion.sentence} ({criterion.points:g})"
        for letter, criterion in zip(letters, exercise.criteria, strict=True)
    ]
    lines += ["", f"| answer | {' | '.join(letters)} | score | named |", "|---" * (len(letters) + 3) + "|"]
    for mistake in exercise.mistakes:
        report = _report(exercise, mistake.answer)
        named = "yes" if [found.name for found in report.diagnosis] == [mistake.name] else "no"
        lines.append(_row(mistake.name.replace("_", " "), report, named))
    for variant in exercise.variants:
        lines.append(_row(f"*{variant.__name__.replace('_', ' ')}* (right)", _report(exercise, variant), ""))
    return "\n".join(lines) + "\n"


def _row(name, report, named):
    marks = " | ".join("✓" if verdict.earned else "✗" for verdict in report.verdicts)
    return f"| {name} | {marks} | {report.earned:g} | {named} |"


def _report(exercise, answer):
    return judge(exercise, SEED, collect(exercise, answer, SEED))
