"""From one chapter text to nbgrader's notebooks.

`solutions/NN_topic/NN_topic.py` (Jupytext percent) is the only text a person edits. A cell marker such as
`# %% check="2.1"` becomes nbgrader metadata; points and titles come from the exercise's definition. The release under
`course/` is made by nbgrader's own generate step from the source notebook. The same text gives the same bytes.
"""

import hashlib
import logging
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat

from autograder import pages
from autograder.exercise import chapters, load_chapter
from autograder.pages import BuildError

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("exercise", "try", "check", "quiz", "written", "teacher", "experiment", "needs")
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
UNDEFINED = ("teacher", "experiment", "needs")  # markers that stand for no definition
TAGS = {"teacher": "teacher", "experiment": "experiment", "needs": "raises-exception"}  # the last: Run All goes on


@dataclass
class Marker:
    """A marked cell: its role, the id it names, and where it stands in the text."""

    role: str
    id: str
    cell: nbformat.NotebookNode
    place: str  # file:line
    tags: list[str]  # what graders and notebooks must know of the cell


def build(folders=None, root=ROOT, report=print):
    """Build source and release notebooks of the named chapters under `root`; by default all, and the pages beside."""
    for number in chapters():
        chapter = load_chapter(number)
        if folders and chapter.folder not in folders:
            continue
        source = write_source(chapter, root)
        release = write_release(chapter, root)
        report(f"{chapter.folder}: {source.relative_to(root)}, {release.relative_to(root)}")
    for page in () if folders else pages.write(root):
        report(f"{page.stem}: {page.relative_to(root)}")


def write_source(chapter, root=ROOT):
    """Write nbgrader's source notebook beside the chapter's text."""
    text_path = root / "solutions" / chapter.folder / f"{chapter.folder}.py"
    path = text_path.with_suffix(".ipynb")
    notebook = source_notebook(text_path, chapter, pages.terms(root))
    path.write_text(nbformat.writes(notebook, version=4) + "\n", encoding="utf-8", newline="\n")
    return path


def write_release(chapter, root=ROOT):
    """Write what a learner opens, keeping a copy of a notebook in its place that someone has worked in."""
    path = root / "course" / chapter.folder / f"{chapter.folder}.ipynb"
    fresh = release_bytes(chapter.folder, root)
    if path.exists() and path.read_bytes() != fresh and worked_in(path):
        keep_copy(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fresh)
    return path


def release_bytes(folder, root=ROOT):
    """The released notebook of a chapter, made by nbgrader's generate step in a folder of its own."""
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells

    config = nbgrader_config(root)
    with tempfile.TemporaryDirectory() as made:
        config.CourseDirectory.root = str(root)
        config.CourseDirectory.release_directory = made
        config.CourseDirectory.assignment_id = folder
        coursedir = CourseDirectory(config=config)
        converter = GenerateAssignment(coursedir=coursedir, config=config)
        converter.no_database = True
        converter.preprocessors = [one for one in converter.preprocessors if one is not SaveCells]
        converter.log = logging.Logger("release", "ERROR")  # nbgrader's own is shared by all its steps
        converter.start()
        return (Path(made) / folder / f"{folder}.ipynb").read_bytes()


def nbgrader_config(root=ROOT):
    """nbgrader_config.py as nbgrader itself reads it."""
    from traitlets.config.loader import PyFileConfigLoader

    return PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()


def keep_copy(path):
    """Copy a learner's notebook to `backups/` beside it, under a name that is not taken. Returns the copy."""
    backups = path.parent / "backups"
    backups.mkdir(exist_ok=True)
    number = 1
    while (copy := backups / f"{path.stem}-{number}.ipynb").exists():
        number += 1
    return Path(shutil.copy2(path, copy))


def source_notebook(text_path, chapter, terms=()):
    """Expand a chapter's text into nbgrader's source notebook, its `terms` linked to the glossary."""
    import jupytext  # only here: a grader builds nothing from a text

    text = text_path.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata = KERNEL
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    markers = find_markers(notebook, text, text_path)
    compare_with_definitions(markers, notebook, chapter, text_path)
    by_cell = {id(marker.cell): marker for marker in markers}
    own_prose = [cell for cell in notebook.cells if id(cell) not in by_cell]
    pages.link_first_uses(own_prose, [term for term in terms if term.chapter == chapter.number])
    cells = []
    for cell in notebook.cells:
        marker = by_cell.get(id(cell))
        cell.metadata = nbformat.NotebookNode()
        cells += expand(marker, cell, chapter) if marker else [cell]
    notebook.cells = cells
    give_ids(cells)
    nbformat.validate(notebook)
    return notebook


def find_markers(notebook, text, path):
    """Every marked cell with the line its marker stands on."""
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"# %%.*\b\w+=", line)]
    marked = [cell for cell in notebook.cells if set(cell.metadata) - {"lines_to_next_cell"}]
    if len(lines) != len(marked):
        raise BuildError(f"{path}: {len(lines)} marker lines but {len(marked)} marked cells; is one inside a cell?")
    markers = []
    for line, cell in zip(lines, marked, strict=True):
        place = f"{path}:{line}"
        unknown = set(cell.metadata) - set(ROLES) - {"lines_to_next_cell"}
        if unknown:
            raise BuildError(
                f"{place}: unknown marker {', '.join(sorted(unknown))}; the markers are {', '.join(ROLES)}"
            )
        role = next(role for role in ROLES if role in cell.metadata)
        markers.append(Marker(role, str(cell.metadata[role]), cell, place, _tags(cell)))
    return markers


def _tags(cell):
    return [tag for role, tag in TAGS.items() if role in cell.metadata]


def compare_with_definitions(markers, notebook, chapter, path):
    """Text and definitions must name the same things, once each, and say the same of them."""
    known = {"exercise": chapter.exercises, "check": chapter.exercises, "try": chapter.exercises}
    known |= {"quiz": chapter.quizzes, "written": chapter.written}
    seen = {}
    for marker in markers:
        if marker.role in UNDEFINED:
            continue
        if marker.id not in known[marker.role]:
            raise BuildError(
                f'{marker.place}: {marker.role}="{marker.id}" has no definition in chapter {chapter.number}'
            )
        if marker.role != "try" and (marker.role, marker.id) in seen:
            raise BuildError(
                f'{marker.place}: {marker.role}="{marker.id}" stands at {seen[marker.role, marker.id]} too'
            )
        seen[marker.role, marker.id] = marker.place
        _check_cell(marker, chapter)
    for role in ("exercise", "check", "quiz", "written"):
        missing = [wanted for wanted in known[role] if (role, wanted) not in seen]
        if missing:
            raise BuildError(f'{path}:1: {role}="{missing[0]}" is defined but has no cell in the text')
    _check_headings(notebook, chapter, path)


def _check_cell(marker, chapter):
    source = marker.cell.source
    if marker.role == "exercise":
        name = chapter.exercises[marker.id].name
        if not re.search(rf"^(def|class) {name}\b", source, re.M):
            raise BuildError(f"{marker.place}: exercise {marker.id} must define {name}")
        if source.count("### BEGIN SOLUTION") != 1 or source.count("### END SOLUTION") != 1:
            raise BuildError(
                f"{marker.place}: exercise {marker.id} needs one ### BEGIN SOLUTION and one ### END SOLUTION"
            )
    if marker.role == "check":
        wanted = f'check("{marker.id}", {chapter.exercises[marker.id].name})'
        if source.strip() != wanted:
            raise BuildError(f"{marker.place}: the cell must read {wanted}")


def _check_headings(notebook, chapter, path):
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    for word, defined in (("Exercise", chapter.exercises), ("Question", chapter.written)):
        for one in defined.values():
            should = f"### {word} {one.id} · {one.title} ({one.points:g} points · {one.minutes} min"
            if not any(line.startswith(should) for line in lines):
                place = _line_of(path, f"### {word} {one.id}")
                raise BuildError(f"{place}: the heading of {one.id} must begin with: {should}")


def _line_of(path, text):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text in line:
            return f"{path}:{number}"
    return f"{path}:1"


def expand(marker, cell, chapter):
    """The notebook cells that a marked cell stands for."""
    slug = marker.id.replace(".", "-")
    if marker.tags:
        cell.metadata.tags = marker.tags
    if marker.role in UNDEFINED:
        return [cell]
    if marker.role == "try":
        return [cell, *_folds(chapter.exercises[marker.id])]
    if marker.role == "quiz":
        return _quiz_cells(chapter.quizzes[marker.id])
    if marker.role == "exercise":
        cell.metadata.nbgrader = _nbgrader(f"exercise-{slug}", solution=True)
    elif marker.role == "check":
        points = chapter.exercises[marker.id].points
        cell.metadata.nbgrader = _nbgrader(f"check-{slug}", grade=True, locked=True, points=points)
    elif marker.role == "written":
        points = chapter.written[marker.id].points
        cell.metadata.nbgrader = _nbgrader(f"written-{slug}", grade=True, solution=True, points=points)
        return [_rubric(chapter.written[marker.id]), cell]
    return [cell]


def _nbgrader(grade_id, **flags):
    base = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    return nbformat.from_dict({**base, "grade_id": grade_id, **flags})


def _folds(exercise):
    """Hints and "I see this error" as folds, so that they are one click away in any front end."""
    folds = [
        f"<details><summary>Hint {step} of {len(exercise.hint_texts)}</summary>\n\n{text}\n\n</details>"
        for step, text in enumerate(exercise.hint_texts, 1)
    ]
    folds += [
        f"<details><summary>I see <code>{error}</code></summary>\n\n{text}\n\n</details>"
        for error, text in exercise.error_texts
    ]
    return [nbformat.v4.new_markdown_cell("\n\n".join(folds))] if folds else []


def _quiz_cells(question):
    choices = "\n".join(f"- **{letter}** · {text}" for letter, (text, _) in question.choices.items())
    prose = nbformat.v4.new_markdown_cell(f"**Question {question.id}** · {question.question}\n\n{choices}")
    return [prose, nbformat.v4.new_code_cell(f'quiz("{question.id}", "")')]


def _rubric(written):
    rows = "\n".join(
        f"| {written.points * level / 4:g} | {text} |" for level, text in zip((4, 3, 2, 1), written.rubric, strict=True)
    )
    return nbformat.v4.new_markdown_cell(f"| points | an answer at this level |\n|---|---|\n{rows}")


def give_ids(cells):
    """Ids that follow from the content, so that a rebuild gives the same bytes and a diff shows what changed."""
    taken = set()
    for cell in cells:
        base = cell.metadata.get("nbgrader", {}).get("grade_id")
        if base is None:
            base = _content_id(cell)
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        cell.id = name


def _content_id(cell):
    return f"{cell.cell_type}-{hashlib.sha256(cell.source.encode()).hexdigest()[:10]}"


def worked_in(path):
    """Does the file hold anything that no build wrote: an output, a cell of someone's own, a changed text?"""
    from nbgrader.utils import compute_checksum

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception:  # not a notebook any more, so surely not as built
        return True
    for cell in cells:
        if cell.get("outputs") or cell.get("execution_count"):
            return True
        if "nbgrader" in cell.metadata:
            if cell.metadata.nbgrader.get("checksum") != compute_checksum(cell):
                return True
        elif not cell.id.startswith(_content_id(cell)):
            return True
    return False
