"""`attn grade` and `attn grade-one`: the command line of a class. What they do is in `grading/`."""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer()
console = Console(highlight=False)

CANNOT_START, SOME_FAILED, INTERRUPTED = 1, 3, 130  # exit statuses; 0: every submission is graded, 2: wrong usage
SUBMISSIONS = "A folder or zip of submissions in any layout; a sample class by default."
NO_SANDBOX = "Run submissions with your own rights where this machine offers no sandbox. Only for code you trust."

SEED = "Of the hidden inputs; by default drawn once for each gradebook, and for `grade-one` each time."


def stop(message, status=CANNOT_START):
    """End with a message on stderr."""
    Console(stderr=True, highlight=False).print(message, markup=False)
    raise typer.Exit(status)


def _one_of(option, value, known):
    if value not in known:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}.", param_hint=option)


@app.command()
def grade(
    context: typer.Context,
    submissions: Annotated[Path | None, typer.Argument(help=SUBMISSIONS)] = None,
    out: Annotated[Path, typer.Option(help="Where gradebook, feedback and reports go.")] = Path("grading"),
    students: Annotated[int, typer.Option(min=1, max=20, help="How many students the sample class has.")] = 20,
    workers: Annotated[int, typer.Option(min=0, help="Submissions graded side by side; 0 chooses.")] = 0,
    cluster: Annotated[str | None, typer.Option(help="Grade on a Dask cluster: its scheduler's address.")] = None,
    db: Annotated[str | None, typer.Option(help="The gradebook's database URL; SQLite in --out by default.")] = None,
    policy: Annotated[
        str, typer.Option(help="A forbidden call takes the points (zero), or only tells you (warn).")
    ] = "zero",
    cell_seconds: Annotated[float, typer.Option(min=1, help="The longest that one cell may run.")] = 60.0,
    notebook_seconds: Annotated[float, typer.Option(min=1, help="The longest that one submission may run.")] = 300.0,
    seed: Annotated[int | None, typer.Option(envvar="ATTN_SEED", help=SEED)] = None,
    canvas_roster: Annotated[
        Path | None, typer.Option(help="A gradebook exported from Canvas: write its import.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for another grader in the same --out.")] = 0.0,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help=NO_SANDBOX)] = False,
    no_feedback: Annotated[bool, typer.Option("--no-feedback", help="Leave out the students' pages.")] = False,
    as_json: Annotated[
        bool | None, typer.Option("--json/--text", help="A line of JSON a submission; so by default off a terminal.")
    ] = None,
):
    """Grade a class: gradebook, feedback, reports and a summary. Start it again to go on where it stopped.

    Exit status: 0 all graded, 1 could not start, 2 wrong usage, 3 some submissions failed, 130 interrupted.
    """
    gc.set_threshold(50_000, 20, 20)  # what is imported is no garbage, and looking through it takes half a second
    warm = None if cluster else _warm_process(context)  # before the grader's own parts are imported: both take a second
    from autograder.grading.client import Budget
    from autograder.grading.run import GradeError, Settings
    from autograder.grading.run import grade as grade_all
    from autograder.grading.work import POLICIES
    from autograder.sandbox import Refused

    _one_of("--policy", policy, POLICIES)
    as_json = not sys.stdout.isatty() if as_json is None else as_json
    handed = None
    if submissions is None:
        from autograder import sample_class

        submissions = out / "sample class"
        try:
            handed = sample_class.write(submissions, students)
        except OSError as error:
            stop(f"the sample class cannot be written to {submissions} ({error.strerror}); choose another --out")
        seed = sample_class.SEED if seed is None else seed  # for which its scores are planned
        _say(as_json, f"A sample class of {students} is in {submissions}; `attn grade FOLDER` grades your own.")
    budget = Budget(cell_seconds, notebook_seconds)
    settings = Settings(
        out, workers, db, cluster, policy, budget, no_sandbox, not no_feedback, seed, canvas_roster, wait
    )
    try:
        run = grade_all(submissions, settings, _json_lines if as_json else _bar, warm)
    except (GradeError, Refused) as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop("Interrupted. What was graded is kept; the same command goes on from there.", INTERRUPTED)
    if as_json:
        _end_of_json(run, out)
    else:
        _summary(run, out)
    if handed:
        _compare_with_plan(run, handed, as_json)
    if "triton" not in sys.modules:  # which would complain of what is left of it
        gc.freeze()  # Python looks through every object as it ends, which takes longer than grading one more submission
    raise typer.Exit(SOME_FAILED if any(one.status == "failed" for one in run.graded) else 0)


def _warm_process(context):
    """One that gets ready from now on, and ends with the command."""
    from autograder.sandbox import Refused, WarmProcess

    try:
        warm = WarmProcess.start_early()
    except Refused as error:
        stop(str(error))
    context.call_on_close(warm.stop)
    return warm


@app.command("grade-one")
def grade_one(
    notebook: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The notebook to grade.")],
    chapter: Annotated[str, typer.Option(help="Its chapter, such as 02.")],
    format: Annotated[str, typer.Option(help="gradescope, classroom50, markdown, json or html.")] = "json",
    out: Annotated[Path | None, typer.Option(help="The file to write; stdout by default.")] = None,
    seed: Annotated[int | None, typer.Option(envvar="ATTN_SEED", help=SEED)] = None,
    student: Annotated[str, typer.Option(help="Whose it is.")] = "student",
    policy: Annotated[str, typer.Option(help="A forbidden call takes the points (zero), or not (warn).")] = "zero",
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help=NO_SANDBOX)] = False,
):
    """Grade one notebook without a gradebook, for systems that keep grades themselves."""
    from autograder.cli import folder_named
    from autograder.grading.one import FORMATS, grade_file
    from autograder.grading.work import POLICIES
    from autograder.grading.workers import GraderFailed
    from autograder.sandbox import Refused

    _one_of("--format", format, FORMATS)
    _one_of("--policy", policy, POLICIES)
    secret = int.from_bytes(os.urandom(6), "big") if seed is None else seed
    try:
        text = grade_file(notebook, folder_named(chapter), format, secret, student, policy, no_sandbox)
    except (Refused, GraderFailed) as error:
        stop(str(error))
    if out is None:
        print(text)
    else:
        from autograder.grading.results import write_atomically

        write_atomically(out, text)


def _bar(results, total):
    from tqdm import tqdm

    if not total:
        console.print("Nothing has changed since the last run: every grade stands.\n")
    with tqdm(total=total, desc="grading", unit="submission", smoothing=0.1, disable=not total) as bar:
        for submission, graded, notebook in results:
            yield submission, graded, notebook
            bar.set_postfix_str(f"{graded.student} {graded.chapter}", refresh=False)
            bar.update()


def _json_lines(results, total):
    for submission, graded, notebook in results:
        yield submission, graded, notebook
        facts = {"student": graded.student, "chapter": graded.chapter, "status": graded.status}
        score = None if graded.status == "failed" else graded.score  # which is not a 0
        facts |= {"score": score, "max_score": graded.max_score, "reason": graded.reason}
        print(json.dumps(facts), flush=True)


def _end_of_json(run, out):
    counts = {}
    for one in run.graded:
        counts[one.status] = counts.get(one.status, 0) + 1
    facts = {"finished": True, "counts": counts, "unplaced": run.unplaced, "sandbox": run.sandbox, "out": str(out)}
    print(json.dumps(facts), flush=True)


def _say(as_json, text):
    if not as_json:
        console.print(text, markup=False)


def _summary(run, out):
    from autograder.reports.class_numbers import exercises, mistakes

    table = Table(title="Scores", title_justify="left", box=None, pad_edge=False)
    table.add_column("student")
    for chapter in run.chapters:
        table.add_column(chapter, justify="right")
    for student in run.students:
        table.add_row(student, *[_cell(run.of(student, chapter)) for chapter in run.chapters])
    console.print(table)
    console.print("* waits for a reader   ! partly graded   “missing” was not handed in, and is no 0\n")
    hardest = sorted(exercises(run), key=lambda one: one.mean)[:5]
    console.print("Hardest: " + ", ".join(f"{one.exercise} ({one.mean:.0%} of the points)" for one in hardest))
    console.print("Most met mistakes:")
    for one in mistakes(run)[:8]:
        console.print(f"  {len(one.students):3d} × {one.exercise} {one.name.replace('_', ' ')}", markup=False)
    for path, reason in run.unplaced:
        console.print(f"Not placed: {path} ({reason})", markup=False)
    for one in run.graded:
        if one.status != "graded":
            console.print(f"{one.status.capitalize()}: {one.student} {one.chapter} ({one.reason})", markup=False)
    console.print(f"\n{len(run.graded)} submissions. Sandbox: {run.sandbox}.", markup=False)
    console.print(f"{out}/report.html shows the class.", markup=False)
    console.print("Beside it: gradebook.db, feedback/, grades.csv, exercises.csv, grades.json.")


def _cell(one):
    if one.status in ("missing", "failed"):
        return one.status
    mark = "!" if one.status == "partly graded" else "*" if one.waits_for_reader else " "
    return f"{one.score:g} of {one.max_score:g}{mark}"


def _compare_with_plan(run, handed, as_json):
    from autograder.sample_class import expected_score

    got = {(one.student, mark.exercise): mark.earned for one in run.graded for mark in one.marks}
    known = {}
    wrong = [one for one in handed if got.get((one.student, one.exercise_id)) != expected_score(one, known)]
    for one in wrong:
        score = got.get((one.student, one.exercise_id))
        wanted = expected_score(one, known)
        _say(False, f"{one.student} {one.exercise_id} ({one.what}): {score}, planned {wanted}")
    if wrong:
        stop(f"{len(wrong)} of {len(handed)} scores of the sample class are not as planned.")
    _say(as_json, f"All {len(handed)} scores of the sample class are as planned.")
