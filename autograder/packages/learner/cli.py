"""`attn` for a learner: lab, progress, hint, reset, doctor."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from autograder import doctor, lab, notebook
from autograder.exercise import NotInstalled, chapters, folder_of

ROOT = Path(__file__).resolve().parent.parent
RELEASED = ROOT / ".released"  # the notebooks as they were given out


def app(arguments=None):
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="attn", description="Attention by writing it.")
    tasks = parser.add_subparsers(dest="task", required=True)
    first = f"{min(chapters()):02d}"
    opens = tasks.add_parser("lab", help="open JupyterLab on a chapter")
    opens.add_argument("chapter", nargs="?", default=first)
    opens.add_argument("--port", type=int, default=8888)
    shows = tasks.add_parser("progress", help="show what is solved")
    shows.add_argument("chapter", nargs="?")
    hints = tasks.add_parser("hint", help="show the next hint of an exercise, such as 2.1")
    hints.add_argument("exercise")
    hints.add_argument("step", nargs="?", type=int)
    tasks.add_parser("reset", help="put a chapter's notebook back, keeping a copy of yours").add_argument("chapter")
    tasks.add_parser("doctor", help="say what this machine can run")
    options = parser.parse_args(arguments)
    try:
        return TASKS[options.task](options)
    except NotInstalled as error:
        sys.exit(str(error))


def notebook_of(chapter):
    """The path of a chapter's notebook below the course, or an error that lists the chapters."""
    digits = chapter.split("_")[0]
    if not digits.isdigit() or int(digits) not in chapters():
        there = ", ".join(f"{number:02d}" for number in chapters())
        sys.exit(f"There is no chapter {chapter!r} here; the chapters are {there}.")
    folder = folder_of(int(digits))
    return Path(folder) / f"{folder}.ipynb"


def open_lab(options):
    path = ROOT / "course" / notebook_of(options.chapter)
    if not path.is_file():
        sys.exit(f"{path.name} is missing; `attn reset {options.chapter}` brings it back.")
    print(f"Opening {path.relative_to(ROOT)}. The address is in the lines below; stop with Ctrl-C.", flush=True)
    command = lab.lab_command(path, ROOT, options.port, lab.has_screen())
    return subprocess.call(command, cwd=ROOT, env=lab.lab_environment())


def show_progress(options):
    print(notebook.progress(options.chapter))


def show_hint(options):
    print(notebook.hint(options.exercise, options.step))


def reset(options):
    name = notebook_of(options.chapter)
    yours, released = ROOT / "course" / name, RELEASED / name
    if yours.is_file() and yours.read_bytes() == released.read_bytes():
        print(f"{name.stem} is as it was given out; nothing to do.")
        return
    kept = ""
    if yours.is_file():
        copy = next(path for path in _free_names(yours) if not path.exists())
        copy.parent.mkdir(exist_ok=True)
        shutil.copy2(yours, copy)
        kept = f" Yours is kept as {copy.relative_to(ROOT)}."
    yours.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(released, yours)
    print(f"{name.stem} is as it was given out.{kept} Reload it in JupyterLab if it is open.")


def _free_names(path):
    number = 0
    while number := number + 1:
        yield path.parent / "backups" / f"{path.stem}-{number}.ipynb"


def show_doctor(options):
    for finding in doctor.examine():
        if "nbgrader" not in finding.what:  # teachers alone need it
            print("✓" if finding.well else "✗", finding.what)
            if not finding.well:
                print("   ", finding.remedy)


TASKS = {"lab": open_lab, "progress": show_progress, "hint": show_hint, "reset": reset, "doctor": show_doctor}

if __name__ == "__main__":
    sys.exit(app())
