"""What leaves the repository: the zip a class receives, Gradescope's autograder, a GitHub template.

Each is named file by file or by whole folders of code, so that what is not meant to leave cannot slip in. The same
repository gives the same bytes.
"""

import ast
import io
import json
import re
import secrets
import tomllib
import zipfile
from pathlib import Path

from autograder import pages
from autograder.build import ROOT, release_bytes
from autograder.exercise import chapters, load_chapter

PACKAGES = "autograder/packages"
# What check, hint, progress and quiz need, and the learner's commands. No grading, no build, no tests.
FOR_LEARNERS = [
    f"autograder/{name}.py"
    for name in ("__init__", "card", "compare", "doctor", "evidence", "exercise", "forbidden", "judge", "lab")
    + ("notebook", "questions", "record", "runner", "traps", "exercises/__init__")
]
AS_THEY_ARE = ["pins.txt", "environment.yml", "LICENSE", "LICENSE-TEXT", "tools/bootstrap.py"]
GRADER_NEEDS = ("pyproject.toml", "pins.txt", "nbgrader_config.py", "README.md", "LICENSE", "LICENSE-TEXT")
# Of the extra `course`, what a learner's notebooks need; the rest builds, grades and tests.
LEARNER_NEEDS = ("ipykernel", "jupyterlab", "platformdirs", "psutil")
EXECUTABLE = ("setup.sh", "run_autograder", "autograder.py")


class BundleError(Exception):
    """What was asked for cannot be made; the message says why."""


def release_bundle(numbers, root=ROOT):
    """The zip a class receives, as bytes: the chapters `numbers` in a folder `attention/`. Raises BundleError."""
    return _zip(learner_files(numbers, root), below="attention/")


def github_template(number, grader, root=ROOT):
    """The files of a template repository for one chapter, as a zip. `grader` is OWNER/NAME of the course's repository.

    Raises BundleError.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", grader):
        raise BundleError(f"{grader!r} is no repository on GitHub; one is named like someone/attention")
    files = learner_files([number], root)
    source = root / PACKAGES / "github"
    for path in _files(source, hidden=True):
        text = (source / path).read_text(encoding="utf-8")
        text = text.replace("OWNER/COURSE", grader).replace("CHAPTER_NUMBER", f"{number:02d}")
        files[path] = text.encode()
    return _zip(files)


def gradescope_zip(number, seed=None, options=(), root=ROOT):
    """Gradescope's autograder for one chapter, as bytes. A secret seed is drawn unless one is given; `options` go to
    `attn grade-one`, such as "--no-sandbox". Raises BundleError.
    """
    chapter = _chapter(number)
    grader = _tree(root, "attn_ref") | _tree(root, "autograder") | _tree(root, f"solutions/{chapter.folder}")
    grader |= {name: (root / name).read_bytes() for name in GRADER_NEEDS}
    files = {f"grader/{path}": content for path, content in grader.items() if not path.startswith(PACKAGES)}
    for name in ("setup.sh", "run_autograder"):
        files[name] = (root / PACKAGES / "gradescope" / name).read_bytes()
    settings = {"chapter": f"{number:02d}", "seed": secrets.randbits(48) if seed is None else seed}
    files["settings.json"] = json.dumps(settings | {"options": list(options)}).encode()
    return _zip(files)


def learner_files(numbers, root=ROOT):
    """{path: content} of all that a learner works with."""
    chosen = [_chapter(number) for number in sorted(set(numbers))]
    if not chosen:
        raise BundleError("no chapter was named; name those that the class works on, such as 02 04")
    files = _tree(root, "attn_ref") | _tree(root, "autograder/jupyter")
    files |= {name: (root / name).read_bytes() for name in FOR_LEARNERS + AS_THEY_ARE}
    for chapter in chosen:
        definitions = f"autograder/exercises/{chapters()[chapter.number]}.py"
        files[definitions] = without_variants((root / definitions).read_text(encoding="utf-8")).encode()
        released = release_bytes(chapter.folder, root)
        for folder in ("course", ".released"):
            files[f"{folder}/{chapter.folder}/{chapter.folder}.ipynb"] = released
    there = {chapter.number for chapter in chosen}
    files["course/glossary.ipynb"] = pages.page_bytes(pages.glossary(root, there))
    files["course/map.ipynb"] = pages.page_bytes(pages.course_map(root, there))
    own = root / PACKAGES / "learner"
    files["autograder/cli.py"] = (own / "cli.py").read_bytes()
    files["Makefile"] = (own / "Makefile").read_bytes()
    files["pyproject.toml"] = _pyproject((own / "pyproject.template").read_text(encoding="utf-8"), root).encode()
    readme = (own / "README.md").read_text(encoding="utf-8")
    files["README.md"] = readme.replace("{chapters}", _chapters_in_words(chosen)).encode()
    return files


def without_variants(definitions):
    """A chapter's definitions without the right answers that only the course's own tests use."""
    lines = definitions.splitlines(keepends=True)
    for node in reversed(ast.parse(definitions).body):
        marks = getattr(node, "decorator_list", [])
        if any(isinstance(mark, ast.Attribute) and mark.attr == "also_right" for mark in marks):
            del lines[marks[0].lineno - 1 : node.end_lineno]
    return "".join(lines)


def _chapter(number):
    if number not in chapters():
        there = ", ".join(f"{one:02d}" for one in chapters())
        raise BundleError(f"there is no chapter {number}; the chapters are {there}")
    return load_chapter(number)


def _chapters_in_words(chosen):
    words = [f"{chapter.number:02d} ({chapter.topic.replace('_', ' ')})" for chapter in chosen]
    return f"chapter {words[0]}" if len(words) == 1 else f"the chapters {', '.join(words[:-1])} and {words[-1]}"


def _pyproject(template, root):
    """The learner's pyproject.toml, its versions and bounds taken from the repository's."""
    ours = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project, extras = ours["project"], ours["project"]["optional-dependencies"]
    course = [one for one in extras["course"] if one.split("<")[0] in LEARNER_NEEDS]
    values = {"version": project["version"], "python": project["requires-python"]}
    lists = {"requires": ours["build-system"]["requires"], "dependencies": project["dependencies"], "course": course}
    lists |= {name: extras[name] for name in ("torch", "numba", "triton")}
    for name, value in (values | {name: json.dumps(value) for name, value in lists.items()}).items():
        template = template.replace(f"{{{name}}}", value)
    return template


def _tree(root, folder):
    """{path below root: content} of a folder's files."""
    return {f"{folder}/{path}": (root / folder / path).read_bytes() for path in _files(root / folder)}


def _files(folder, hidden=False):
    """The files below a folder, without caches and, unless `hidden`, without what begins with a dot."""
    paths = [path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()]
    kept = [path for path in paths if hidden or not any(part.startswith(".") for part in path.parts)]
    return sorted(path.as_posix() for path in kept if "__pycache__" not in path.parts and path.suffix != ".pyc")


def _zip(files, below=""):
    """{path: content} as a zip. Not compressed, because compressors differ between machines; the date says nothing."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files.items()):
            info = zipfile.ZipInfo(below + path, date_time=(2026, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, wherever this runs, so that the permissions count
            mode = 0o755 if path in EXECUTABLE else 0o600 if path == "settings.json" else 0o644
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, content)
    return out.getvalue()
