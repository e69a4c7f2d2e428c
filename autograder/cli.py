"""`attn`, the course's command line: for learners (lab, progress, hint, reset, doctor) and teachers (grade, build)."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from autograder import cli_bundle, cli_grading
from autograder.cli_grading import stop


class Commands(TyperGroup):
    """Commands of which some need a chapter whose packages may not be installed."""

    def invoke(self, context):
        """Run a command. A missing package is said in one line, without a traceback."""
        try:
            return super().invoke(context)
        except ModuleNotFoundError as error:
            from autograder.exercise import NotInstalled

            if not isinstance(error, NotInstalled):
                raise
            stop(str(error))


app = typer.Typer(
    cls=Commands,
    help="Attention by writing it: the course's command line.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(cli_grading.app)
app.add_typer(cli_bundle.app)
console = Console(highlight=False)
Chapter = Annotated[str, typer.Argument(help="A chapter's number, such as 02.")]


def number_of(text):
    """The chapter's number that a number, or a folder's name, stands for."""
    from autograder.exercise import chapters

    digits = text.split("_")[0]
    if not digits.isdigit() or int(digits) not in chapters():
        stop(f"there is no chapter {text!r}; the chapters are {', '.join(f'{n:02d}' for n in chapters())}")
    return int(digits)


def folder_named(text):
    """The folder of the chapter that a number, or a folder's name, stands for."""
    from autograder.exercise import folder_of

    return folder_of(number_of(text))


@app.command()
def lab(
    chapter: Annotated[str, typer.Argument(help="The chapter to open.")] = "00",
    port: Annotated[int, typer.Option(help="The port to serve on; another is taken if it is busy.")] = 8888,
    browser: Annotated[bool | None, typer.Option(help="Open a browser; by default where there is a screen.")] = None,
):
    """Open JupyterLab on a chapter. Prints the address, and works without a browser."""
    from autograder.build import ROOT
    from autograder.lab import has_screen, lab_command, lab_environment

    folder = folder_named(chapter)
    notebook = ROOT / "course" / folder / f"{folder}.ipynb"
    if not notebook.is_file():
        stop(f"{notebook} is missing; run: make notebooks")
    command = lab_command(notebook, ROOT, port, has_screen() if browser is None else browser)
    console.print(f"Opening {notebook.relative_to(ROOT)}. The address is in the lines below; stop with Ctrl-C.")
    raise typer.Exit(subprocess.call(command, cwd=ROOT, env=lab_environment()))


@app.command()
def progress(chapter: Annotated[str | None, typer.Argument(help="One chapter; all by default.")] = None):
    """Show what is solved."""
    from autograder import record

    only = number_of(chapter) if chapter else None
    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("", "left"),
        ("exercise", "left"),
        ("best", "right"),
        ("of", "right"),
        ("tries", "right"),
        ("hints", "right"),
    ):
        table.add_column(column, justify=justify)
    for folder, rows, missing in record.table(only):
        earned, points = sum(s.best for _, s in rows), sum(e.points for e, _ in rows)
        name = f"[bold]{folder.replace('_', ' ')}[/]" + (f" needs {missing}: attn doctor" if missing else "")
        table.add_row("", name, *(("", "") if missing else (f"{earned:g}", f"{points:g}")), "", "")
        for exercise, standing in rows:
            mark = "✓" if standing.best >= exercise.points else "◐" if standing.best else "·"
            cells = (f"{standing.best:g}", f"{exercise.points:g}", f"{standing.tries}", f"{standing.hints}")
            title = exercise.title + ", not available here" * bool(exercise.missing)
            table.add_row(mark, f"{exercise.id} {title}", *cells)
    console.print(table)


@app.command()
def hint(
    exercise: Annotated[str, typer.Argument(help="An exercise's id, such as 2.1.")],
    step: Annotated[int | None, typer.Argument(help="Which hint; the next one by default.")] = None,
):
    """Show the next hint of an exercise."""
    from autograder.notebook import hint as show

    message = show(exercise, step)
    if message.title == "No hint":
        stop(message.text)
    console.print(f"[bold]{message.title}[/]")
    console.print(message.text, markup=False)


@app.command()
def reset(chapter: Chapter):
    """Put a chapter's notebook back as it was, keeping a copy of yours."""
    from autograder.build import ROOT, keep_copy, release_bytes

    folder = folder_named(chapter)
    path = ROOT / "course" / folder / f"{folder}.ipynb"
    fresh = release_bytes(folder, ROOT)
    if path.exists() and path.read_bytes() == fresh:
        console.print(f"{folder} is as it was released; nothing to do.")
        return
    copy = keep_copy(path) if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fresh)
    kept = f" Yours is kept as {copy.relative_to(ROOT)}." if copy else ""
    console.print(f"{folder} is as it was released.{kept} Reload it in JupyterLab if it is open.")


@app.command()
def doctor():
    """Say what this machine has and what of the course it can run."""
    from autograder.doctor import examine

    for finding in examine():
        console.print(f"{'✓' if finding.well else '✗'} {finding.what}", markup=False)
        if not finding.well:
            console.print(f"    {finding.remedy}", markup=False)


@app.command()
def build(chapter: Annotated[str | None, typer.Argument(help="One chapter; all by default.")] = None):
    """Build the notebooks from the chapters' texts."""
    from autograder import build as building

    try:
        building.build([folder_named(chapter)] if chapter else None)
    except building.BuildError as error:
        stop(str(error))


@app.command("kill-matrix")
def kill_matrix(path: Annotated[Path, typer.Argument(help="The page to write.")] = Path("docs/kill-matrix.md")):
    """Put every known mistake and right variant through the grader and write the table."""
    from autograder.kill_matrix import markdown

    path.write_text(markdown(), encoding="utf-8", newline="\n")
    console.print(f"Wrote {path}.")


@app.command()
def figures(folder: Annotated[Path, typer.Argument(help="Where the pictures go.")] = Path("docs/images")):
    """Draw the README's picture."""
    from attn_ref import plots, sentence

    folder.mkdir(parents=True, exist_ok=True)
    plots.formula(sentence.EMBEDDINGS, sentence.TOKENS).save(folder / "attention.svg")
    console.print(f"Wrote {folder / 'attention.svg'}.", markup=False)


if __name__ == "__main__":
    app()
