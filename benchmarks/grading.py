"""How fast is grading: stock `nbgrader autograde`, the same with our configuration, and `attn grade`, side by side.

    python benchmarks/grading.py [--submissions 40] [--rounds 3] [--write]

Each round grades the same submissions in each way, one after the other, so that a busy moment meets all three. Two
sizes of class separate what a run costs from what a further submission costs. Stock nbgrader runs without a sandbox,
because it has none; ours run in the strongest one that the machine offers. The scores must be the same, or it stops.
"""

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook

from attn_ref import bench
from autograder.answers import fill, source_of
from autograder.exercise import load_chapter
from autograder.sandbox import Limits, WarmProcess, kernel_manager, strongest

HERE = Path(__file__).parent
CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
BIN = Path(sys.executable).parent
STOCK = f"""
c = get_config()
c.CourseDirectory.course_id = "attention"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "course"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.py", "*.pyc", "__pycache__", ".*", "backups"]
c.ClearSolutions.code_stub = {{"python": "# Your code here.\\nraise NotImplementedError"}}
c.ClearSolutions.text_stub = "*Your answer here.*"
c.ExecutePreprocessor.timeout = 120
import os
os.environ["PATH"] = {str(BIN)!r} + os.pathsep + os.environ["PATH"]
"""
OURS = (
    STOCK
    + """
from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute
from autograder.nbgrader_plugins import Examine, Mend
c.Autograde.sanitize_preprocessors = [Mend, *Autograde.sanitize_preprocessors.default()]
steps = Autograde.autograde_preprocessors.default()
c.Autograde.autograde_preprocessors = [Examine if one is Execute else one for one in steps]
"""
)
WAYS = {"stock nbgrader": STOCK, "nbgrader, our configuration": OURS, "attn grade": None}


def short_source():
    """25 cells: what the chapter imports and torch, six exercises with their checks, one plot, one written question."""
    path = HERE.parent / "solutions" / FOLDER / f"{FOLDER}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    kept = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    imports = next(cell for cell in notebook.cells if cell.cell_type == "code" and "import" in cell.source)
    imports.source += "\nimport torch\nimport matplotlib.pyplot as plt"
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    more = [
        code("x = np.linspace(-3, 3, 50)\nplt.plot(x, np.tanh(x))\nplt.show()"),
        code("torch.ones(3) @ torch.ones(3)"),
    ]
    notebook.cells = [text("# A short chapter"), imports, *more, *kept]
    while len(notebook.cells) < 25:
        notebook.cells.insert(4, text("Some words between the exercises."))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}" if "nbgrader" not in cell.metadata else cell.id
    return notebook


def make_course(folder, config, submissions):
    """A course folder with the short chapter and the given submissions, ready to be graded."""
    source = folder / "solutions" / FOLDER / f"{FOLDER}.ipynb"
    source.parent.mkdir(parents=True)
    nbformat.write(short_source(), source)
    (folder / "nbgrader_config.py").write_text(config, encoding="utf-8")
    run([BIN / "nbgrader", "generate_assignment", FOLDER], folder)
    for student, notebook in submissions.items():
        path = folder / "submitted" / student / FOLDER / f"{FOLDER}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(notebook, encoding="utf-8")


def class_of(count, release):
    """{student: notebook}: every third answer is a known mistake."""
    made = {}
    for place in range(count):
        given = {}
        for turn, exercise in enumerate(CHAPTER.exercises.values()):
            # Not those that call attn_ref: our policy takes their points, and stock nbgrader has no policy.
            wrong = [one.answer for one in exercise.mistakes if "attn_ref" not in source_of(one.answer, "f")]
            # Nor those of the simulation, 2.5: how many of its criteria they meet depends on the seed.
            right = not wrong or exercise.id == "2.5" or (place + turn) % 3
            pool = exercise.variants if right else wrong
            given[exercise.id] = source_of(pool[place % len(pool)], exercise.name)
        made[f"student-{place:03d}"] = nbformat.writes(fill(nbformat.reads(release, as_version=4), given))
    return made


def run(command, cwd):
    done = subprocess.run([str(one) for one in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )


def scores(database):
    with Gradebook(f"sqlite:///{database}", "attention") as book:
        return {
            (one.student_id, grade.name): grade.auto_score
            for one in book.assignment_submissions(FOLDER)
            for notebook in one.notebooks
            for grade in notebook.grades
        }


def timed(way, submissions, folder):
    """(seconds of one run, the scores it gave)"""
    if WAYS[way] is None:
        inbox = folder / "inbox"
        for student, notebook in submissions.items():
            path = inbox / student / FOLDER / f"{FOLDER}.ipynb"
            path.parent.mkdir(parents=True)
            path.write_text(notebook, encoding="utf-8")
        began = time.perf_counter()
        run([BIN / "attn", "grade", inbox, "--out", folder / "out", "--no-feedback"], folder)
        return time.perf_counter() - began, scores(folder / "out" / "gradebook.db")
    make_course(folder, WAYS[way], submissions)
    began = time.perf_counter()
    run([BIN / "nbgrader", "autograde", FOLDER], folder)
    return time.perf_counter() - began, scores(folder / "gradebook.db")


def kernels(rounds=20):
    """Medians of a sandboxed kernel: seconds until it answers, seconds to end, and private MiB while it waits."""
    import psutil

    ready, ended, private = [], [], []

    async def once(level):
        manager = kernel_manager(warm, level, Limits())
        began = time.perf_counter()
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=30)
        ready.append(time.perf_counter() - began)
        children = psutil.Process(warm.pid).children(recursive=True)
        private.append(max(one.memory_full_info().uss for one in children) / 2**20)
        client.stop_channels()
        began = time.perf_counter()
        await manager.shutdown_kernel(now=True)
        ended.append(time.perf_counter() - began)

    with WarmProcess() as warm:
        warm.wait()
        for _ in range(rounds):
            asyncio.run(once(strongest()))
    return statistics.median(ready), statistics.median(ended), statistics.median(private)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--submissions", type=int, default=40)
    options.add_argument("--few", type=int, default=8, help="the smaller class")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--write", action="store_true", help="write benchmarks/grading.md")
    chosen = options.parse_args()
    from nbgrader.preprocessors import ClearSolutions

    release = short_source()
    code = {"python": "# Your code here.\nraise NotImplementedError"}
    ClearSolutions(code_stub=code, text_stub="*Your answer here.*").preprocess(release, {})
    students = class_of(chosen.submissions, nbformat.writes(release))
    few = dict(list(students.items())[: chosen.few])
    seconds = {(way, size): [] for way in WAYS for size in (chosen.few, chosen.submissions)}
    for turn in range(chosen.rounds):
        for handed in (few, students):
            found = {}
            for way in WAYS:
                folder = Path(tempfile.mkdtemp(prefix="attn-bench-"))
                took, found[way] = timed(way, handed, folder)
                seconds[way, len(handed)].append(took)
                print(f"round {turn + 1}  {len(handed):3d} submissions  {way:28s} {took:7.1f} s", flush=True)
                shutil.rmtree(folder)
            first = found["stock nbgrader"]
            for way, other in found.items():
                if other != first:
                    wrong = {key: (first.get(key), other.get(key)) for key in first if first.get(key) != other.get(key)}
                    sys.exit(f"{way} gives other scores than stock nbgrader: {wrong}")
    text = table(seconds, chosen)
    print(text)
    if chosen.write:
        (HERE / "grading.md").write_text(text, encoding="utf-8")


def table(seconds, chosen):
    whole = {way: statistics.median(seconds[way, chosen.submissions]) for way in WAYS}
    small = {way: statistics.median(seconds[way, chosen.few]) for way in WAYS}
    further = {way: (whole[way] - small[way]) / (chosen.submissions - chosen.few) for way in WAYS}
    ready, ended, private = kernels()
    stock = "stock nbgrader"
    lines = [
        "# Grading, measured",
        "",
        f"Written by `python benchmarks/grading.py --write`, {chosen.rounds} rounds, medians.",
        bench.machine(),
        f"The same {chosen.submissions} submissions of 25 cells (torch imported, six exercises, one plot), the same",
        "scores.",
        f"Sandbox of ours: {strongest()}. Stock nbgrader has none.",
        "",
        f"| | {chosen.submissions} submissions | against stock | a further one | against stock |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        lines.append(
            f"| {way} | {whole[way]:.1f} s | {whole[stock] / whole[way]:.1f} × | {further[way]:.3f} s | "
            f"{further[stock] / further[way]:.1f} × |"
        )
    lines += [
        "",
        f"A sandboxed kernel with torch imported answers after {ready:.3f} s and is gone after {ended:.3f} s;",
        f"waiting, it holds {private:.0f} MiB of its own.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
