"""`attn release-bundle`, `gradescope-zip` and `github-template`: what leaves the repository. How is in `bundle.py`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()
console = Console(highlight=False)
Out = Annotated[Path | None, typer.Option(help="The zip to write.")]
NO_SANDBOX = "Run submissions unsandboxed: for images that allow no sandbox, each submission having its own container."


@app.command("release-bundle")
def release_bundle(
    chapters: Annotated[list[str], typer.Argument(help="Chapters, such as 02 04.")],
    out: Out = None,
):
    """Make the zip a class receives: notebooks, attn_ref and checks; no solutions, nothing of the grader's."""
    numbers = [_number(one) for one in chapters]
    _write(out or Path(f"attention-{'-'.join(f'{one:02d}' for one in numbers)}.zip"), "release_bundle", numbers)


@app.command("gradescope-zip")
def gradescope_zip(
    chapter: Annotated[str, typer.Argument(help="A chapter, such as 02.")],
    out: Out = None,
    seed: Annotated[int | None, typer.Option(help="Of the hidden inputs; drawn anew by default.")] = None,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help=NO_SANDBOX)] = False,
):
    """Make Gradescope's autograder for one chapter. Keep it to yourself: it holds the solutions and the seed."""
    options = ["--no-sandbox"] if no_sandbox else []
    number = _number(chapter)
    _write(out or Path(f"gradescope-{number:02d}.zip"), "gradescope_zip", number, seed, options)


@app.command("github-template")
def github_template(
    chapter: Annotated[str, typer.Argument(help="A chapter, such as 02.")],
    grader: Annotated[str, typer.Option(help="OWNER/NAME of the repository that holds this course on GitHub.")],
    out: Out = None,
):
    """Make the files of a template repository for one chapter, with a workflow that grades each push."""
    number = _number(chapter)
    _write(out or Path(f"github-{number:02d}.zip"), "github_template", number, grader)


def _number(text):
    digits = text.split("_")[0]
    return int(digits) if digits.isdecimal() else _stop(f"{text!r} is no chapter; chapters are numbers such as 02")


def _write(out, make, *arguments):
    from autograder import bundle  # only here: `attn hint` should start at once
    from autograder.grading.results import write_atomically

    try:
        content = getattr(bundle, make)(*arguments)
    except bundle.BundleError as error:
        _stop(str(error))
    write_atomically(out, content)
    console.print(f"Wrote {out} ({len(content) / 1e6:.1f} MB).", markup=False)


def _stop(message):
    Console(stderr=True, highlight=False).print(message, markup=False)
    raise typer.Exit(1)
