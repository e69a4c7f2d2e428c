"""What leaves the repository: a class receives what works and no answers; a grader elsewhere never fails mutely."""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from autograder import bundle, cli_bundle
from autograder.answers import source_of, write_filled
from autograder.build import ROOT
from autograder.exercise import chapters, load_chapter

FOLDER = load_chapter(2).folder
PACKAGES = ROOT / "autograder/packages"
posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts and permissions of Unix")


@pytest.fixture(scope="module")
def learners():
    """{path: content} of a bundle of chapters 00 and 02."""
    return unzipped(bundle.release_bundle([2, 0]))


@pytest.fixture(scope="module")
def gradescope():
    return bundle.gradescope_zip(2, seed=20)


def unzipped(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename.removeprefix("attention/"): archive.read(info) for info in archive.infolist()}


def squeezed(text):
    """The lines without white space and comments, so that another indentation hides nothing."""
    lines = [re.sub(r"\s+|#.*", "", line) for line in text.splitlines()]
    return "\n" + "\n".join(filter(None, lines)) + "\n"


def solutions():
    """[(chapter, the lines between BEGIN SOLUTION and END SOLUTION)] of every chapter."""
    for number in chapters():
        folder = load_chapter(number).folder
        text = (ROOT / "solutions" / folder / f"{folder}.py").read_text(encoding="utf-8")
        found = re.findall(r"BEGIN SOLUTION\n(.*?)\n[ #]*### END SOLUTION", text, re.DOTALL)
        assert found
        yield from ((number, re.sub(r"(?m)^# ", "", one)) for one in found)


# What a class receives


def test_the_same_repository_gives_the_same_bytes(learners, gradescope):
    assert unzipped(bundle.release_bundle([0, 2, 2])) == learners
    assert bundle.release_bundle([2]) == bundle.release_bundle([2])
    assert bundle.gradescope_zip(2, seed=20) == gradescope


def test_only_the_chapters_asked_for_are_there(learners):
    notebooks = {path for path in learners if path.startswith("course/")}
    chosen = {f"course/{name}/{name}.ipynb" for name in (load_chapter(0).folder, FOLDER)}
    assert notebooks == chosen | {"course/map.ipynb", "course/glossary.ipynb"}
    definitions = {path for path in learners if path.startswith("autograder/exercises/ch")}
    assert {Path(path).name[:4] for path in definitions} == {"ch00", "ch02"}


def test_nothing_of_the_graders_side_is_there(learners):
    for word in ("solutions/", "tests/", "grading", "sandbox", "reports", "build.py", "seed", "packages", "nbgrader_"):
        assert not any(word in path for path in learners), word


def test_no_solution_is_there_but_the_references_that_checks_compare_with(learners):
    """A check needs the right answer, so a definition holds it once, as its reference; nothing else does."""
    for number, solution in solutions():
        for path, content in learners.items():
            text = content.decode("utf-8", "replace")
            if path.startswith("autograder/exercises/"):
                text = without_references(text, number if f"ch{number:02d}" in path else None)
            elif path == "attn_ref/triton_lessons.py":  # kernels have one form, and these are chapter 12's references
                text = without_references(text, 12)
            elif path.endswith(".ipynb"):
                text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
            assert squeezed(solution) not in squeezed(text), (path, solution)


def without_references(text, number):
    """A chapter's definitions without its references' own functions."""
    if number is None:
        return text
    names = {exercise.reference.__name__ for exercise in load_chapter(number).exercises.values()}
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines)


def test_the_other_right_answers_are_left_out(learners):
    for number in (0, 2):
        text = learners[f"autograder/exercises/{chapters()[number]}.py"].decode()
        ast.parse(text)
        assert "also_right" not in text and ".mistake(" in text
        assert all(
            f"def {one.__name__}(" not in text for e in load_chapter(number).exercises.values() for one in e.variants
        )


def test_every_import_of_a_bundled_file_finds_its_file(learners):
    for path, content in learners.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(content)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module] + [f"{node.module}.{one.name}" for one in node.names]
            elif isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            for name in names[:1]:
                if name.split(".")[0] in ("autograder", "attn_ref"):
                    file = name.replace(".", "/")
                    assert f"{file}.py" in learners or f"{file}/__init__.py" in learners, f"{path} imports {name}"


def test_versions_are_the_repositorys(learners):
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    theirs = tomllib.loads(learners["pyproject.toml"].decode())["project"]
    assert set(theirs["optional-dependencies"]["course"]) <= set(ours["optional-dependencies"]["course"])
    assert len(theirs["optional-dependencies"]["course"]) == len(bundle.LEARNER_NEEDS)
    assert theirs["version"] == ours["version"] and theirs["dependencies"] == ours["dependencies"]
    assert learners["pins.txt"] == (ROOT / "pins.txt").read_bytes()


def test_the_readme_names_the_chapters(learners):
    assert "the chapters 00 (start here) and 02 (scaled dot product)" in learners["README.md"].decode()


@pytest.mark.parametrize("numbers", [[], [77], [2, 77]])
def test_a_chapter_that_is_not_there_is_named(numbers):
    with pytest.raises(bundle.BundleError, match="no chapter"):
        bundle.release_bundle(numbers)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The bundle, unzipped by Python's own command."""
    folder = tmp_path_factory.mktemp("class")
    (folder / "bundle.zip").write_bytes(bundle.release_bundle([0, 2]))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", "bundle.zip", "."], cwd=folder, check=True)
    return folder / "attention"


def attn(root, *arguments):
    """Run the bundle's own `attn`, with the environment at hand."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "autograder.cli", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_the_bundles_commands_work_without_the_repository(unpacked, tmp_path):
    shown = attn(unpacked, "progress")
    assert shown.returncode == 0 and "2.6 How undecided is a row?: 0 of 4" in shown.stdout and "1.1" not in shown.stdout
    assert "hint 1 of 3" in attn(unpacked, "hint", "2.1").stdout
    assert "nbgrader" not in attn(unpacked, "doctor").stdout
    assert "the chapters are 00, 02" in attn(unpacked, "lab", "05").stderr


def test_reset_keeps_a_learners_work(unpacked):
    path = unpacked / "course" / FOLDER / f"{FOLDER}.ipynb"
    released = path.read_bytes()
    assert "nothing to do" in attn(unpacked, "reset", "02").stdout
    for work in (b"mine", b"mine again"):
        path.write_bytes(work)
        assert "kept as" in attn(unpacked, "reset", "02").stdout
        assert path.read_bytes() == released
    kept = [copy.read_bytes() for copy in sorted((path.parent / "backups").iterdir())]
    assert kept == [b"mine", b"mine again"]


@pytest.mark.slow
@posix
def test_a_class_can_install_the_bundle_as_its_readme_says_and_is_checked(unpacked):
    """A fresh environment, the README's commands, a right answer and a wrong one."""
    readme = (unpacked / "README.md").read_text(encoding="utf-8")
    create, install, _ = re.search(r"by hand:\n\n```sh\n(.*?)```", readme, re.DOTALL)[1].strip().splitlines()
    subprocess.run(create.replace("python ", f"{sys.executable} ", 1), shell=True, cwd=unpacked, check=True)
    done = subprocess.run(f"{install} -q --disable-pip-version-check", shell=True, cwd=unpacked, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    installed = subprocess.run([".venv/bin/attn", "progress", "2"], cwd=unpacked, capture_output=True, text=True)
    assert "2.1 Scores become shares" in installed.stdout

    exercises = load_chapter(2).exercises
    wrong = next(mistake for mistake in exercises["2.3"].mistakes if mistake.name == "unscaled")
    answers = {"2.1": source_of(exercises["2.1"].variants[0], "softmax")}
    answers["2.3"] = source_of(wrong.answer, "attention_scores")
    answers["2.4"] = "import autograder\nautograder.__file__"
    path = write_filled(unpacked / "course" / FOLDER / f"{FOLDER}.ipynb", answers, unpacked / "filled.ipynb")
    subprocess.run([".venv/bin/python", "-c", EXECUTE], cwd=unpacked, check=True, capture_output=True)
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    assert str(unpacked / "autograder") in cells["exercise-2-4"].outputs[0].data["text/plain"]
    cards = {name: cell.outputs[0].get("data") for name, cell in cells.items() if name.startswith("check-")}
    report = "application/vnd.attn.report+json"
    assert cards["check-2-1"][report]["earned"] == 6 and "6 of 6 points" in cards["check-2-1"]["text/html"]
    assert cards["check-2-3"][report]["earned"] < 6 and cards["check-2-3"][report]["mistakes"] == ["unscaled"]
    assert wrong.message[:30] in cards["check-2-3"]["text/html"]
    assert cards["check-2-2"][report]["status"] == "not attempted"


EXECUTE = """
import nbclient, nbformat
notebook = nbformat.read("filled.ipynb", as_version=4)
nbclient.NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
nbformat.write(notebook, "filled.ipynb")
"""


# Gradescope


def test_gradescopes_zip_has_its_scripts_at_the_root_and_executable(gradescope):
    with zipfile.ZipFile(io.BytesIO(gradescope)) as archive:
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in archive.infolist()}
        settings = json.loads(archive.read("settings.json"))
    assert modes["setup.sh"] == modes["run_autograder"] == 0o755 and modes["settings.json"] == 0o600
    assert settings == {"chapter": "02", "seed": 20, "options": []}
    assert f"grader/solutions/{FOLDER}/{FOLDER}.ipynb" in modes and "grader/autograder/grading/policy.py" in modes
    assert not any("solutions/01" in path or "/packages/" in path or "__pycache__" in path for path in modes)


def test_each_zip_draws_a_seed_of_its_own():
    seeds = {json.loads(unzipped(bundle.gradescope_zip(2))["settings.json"])["seed"] for _ in range(2)}
    assert len(seeds) == 2 and all(seed > 2**20 for seed in seeds)


STUB = """#!{python}
import json, os, sys, time
command = dict(zip(sys.argv[3::2], sys.argv[4::2]))
what = open(sys.argv[2]).read()
print("the solution is return x @ y.T", os.environ["ATTN_SEED"])
if "SLEEP" in what: time.sleep(60)
if "CRASH" in what: sys.exit(3)
if "SILENT" in what: sys.exit(0)
text = "{{" if "TORN" in what else json.dumps({{"score": 4.5, "output": os.path.basename(sys.argv[2]), "tests": []}})
open(command["--out"], "w").write(text)
"""


@pytest.fixture
def autograder(tmp_path, gradescope):
    """Gradescope's folder in a temporary place, with a stub for `attn`. Call it with {name: content} to hand in."""
    for path, content in unzipped(gradescope).items():
        if not path.startswith("grader/"):
            target = tmp_path / "source" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    (tmp_path / "source/grader").mkdir()
    stub = tmp_path / "attn"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)

    def run(files, **environment):
        for name, content in files.items():
            path = tmp_path / "submission" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        facts = {"ATTN_GRADESCOPE_ROOT": str(tmp_path), "ATTN_COMMAND": str(stub), **environment}
        script = [sys.executable, str(tmp_path / "source/run_autograder")]
        done = subprocess.run(script, env={**os.environ, **facts}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "results/results.json").read_text(encoding="utf-8"))

    run.root = tmp_path
    return run


NOTEBOOK = '{"cells": [{"metadata": {"nbgrader": {"grade_id": "check-2-1"}}}]}'


@posix
def test_a_notebook_of_any_name_is_graded(autograder):
    assert autograder({"Homework 2 (final) ü.ipynb": NOTEBOOK}) == {
        "score": 4.5,
        "output": "Homework 2 (final) ü.ipynb",
        "tests": [],
    }


@posix
def test_among_several_the_one_with_the_chapters_checks_is_graded_and_named(autograder):
    results = autograder({"a.ipynb": "{}", "deep/b.ipynb": NOTEBOOK, ".ipynb_checkpoints/c.ipynb": NOTEBOOK * 9})
    assert "2 notebooks; b.ipynb was graded" in results["output"] and results["score"] == 4.5


@posix
@pytest.mark.parametrize(
    "files", [{}, {"notes.txt": "?"}, {"__MACOSX/._x.ipynb": NOTEBOOK}], ids=["none", "text", "mac"]
)
def test_no_notebook_is_said_to_the_student(autograder, files):
    (autograder.root / "submission").mkdir()
    results = autograder(files)
    assert results["score"] == 0 and "No notebook (.ipynb) was found" in results["output"]
    assert "It holds no file at all" in results["output"] or any(Path(name).name in results["output"] for name in files)


@posix
@pytest.mark.parametrize("failure", ["CRASH", "SILENT", "TORN", "SLEEP"])
def test_a_grader_that_fails_says_so_and_tells_no_solution(autograder, failure):
    results = autograder({"x.ipynb": NOTEBOOK + failure}, ATTN_SECONDS="2" if failure == "SLEEP" else "30")
    assert results["score"] == 0 and "The autograder itself failed" in results["output"]
    assert "solution" not in json.dumps(results) and "20" not in results["output"]


@posix
def test_a_missing_grader_and_missing_settings_are_failures_too(autograder):
    assert "could not be started" in autograder({"x.ipynb": NOTEBOOK}, ATTN_COMMAND="/nowhere/attn")["output"]
    (autograder.root / "source/settings.json").unlink()
    assert "The autograder itself failed" in autograder({})["output"]


@posix
def test_results_that_were_handed_in_are_not_taken_for_the_graders(autograder):
    (autograder.root / "results").mkdir()
    (autograder.root / "results/results.json").write_text('{"score": 99}')
    assert autograder({"x.ipynb": NOTEBOOK + "SILENT"})["score"] == 0


@posix
def test_a_link_in_a_submission_is_not_followed(autograder):
    (autograder.root / "submission").mkdir()
    (autograder.root / "elsewhere.ipynb").write_text(NOTEBOOK)
    (autograder.root / "submission/x.ipynb").symlink_to(autograder.root / "elsewhere.ipynb")
    assert autograder({})["score"] == 0


@posix
def test_the_set_up_is_a_script_that_bash_can_read():
    subprocess.run(["bash", "-n", str(PACKAGES / "gradescope/setup.sh")], check=True)


def test_the_scripts_keep_to_a_syntax_that_old_pythons_read():
    for path in (PACKAGES / "gradescope/run_autograder", PACKAGES / "github/autograder.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))


# GitHub


@pytest.fixture(scope="module")
def template():
    return unzipped(bundle.github_template(2, "someone/attention"))


def test_a_template_is_the_bundle_with_a_workflow(template, learners):
    assert {".github/workflows/grade.yml", "autograder.py", f"course/{FOLDER}/{FOLDER}.ipynb"} <= template.keys()
    text = template[".github/workflows/grade.yml"].decode() + template["autograder.py"].decode()
    assert "repository: someone/attention" in text and 'CHAPTER = "02"' in text
    assert "OWNER/COURSE" not in text and "CHAPTER_NUMBER" not in text


def test_the_workflow_can_read_one_repository_and_nothing_else(template):
    workflow = yaml.safe_load(template[".github/workflows/grade.yml"])
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow[True]) == {"push", "workflow_dispatch"}  # YAML reads `on` as a truth value
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job and job["timeout-minutes"] <= 30
    checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
    assert len(checkouts) == 2 and all(step["with"]["persist-credentials"] is False for step in checkouts)
    assert "secrets." not in template[".github/workflows/grade.yml"].decode()
    setup = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python"))
    assert setup["with"]["python-version"] == "3.11"
    install = next(step["run"] for step in job["steps"] if "pip install" in step.get("run", ""))
    assert "-c .grader/pins.txt" in install


CLASSROOM_STUB = """#!{python}
import json, sys
command = dict(zip(sys.argv[3::2], sys.argv[4::2]))
what = open(sys.argv[2]).read()
assert command["--format"] == "classroom50" and command["--chapter"] == "02"
if "CRASH" in what: sys.exit(3)
if "SILENT" in what: sys.exit(0)
tests = [{{"test-name": "2.1 <b>|", "passed": False, "score": 4, "max-score": 6}}]
with open(command["--out"], "w") as out:
    json.dump({{"schema": "classroom50/result/v1", "score": 4, "max-score": 6, "tests": tests}}, out)
"""


@pytest.fixture
def student(tmp_path, template):
    """A student's copy, with a stub for `attn`. Call it with the notebook's content; returns (status, stderr)."""
    (tmp_path / "autograder.py").write_bytes(template["autograder.py"])
    (tmp_path / "attn").write_text(CLASSROOM_STUB.format(python=sys.executable))
    (tmp_path / "attn").chmod(0o755)
    (tmp_path / "result.json").write_text('{"score": 99, "max-score": 99}')

    def run(content, name=f"{FOLDER}.ipynb"):
        path = tmp_path / "course" / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        facts = {"ATTN_COMMAND": str(tmp_path / "attn"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
        command = [sys.executable, "autograder.py"]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **facts}, capture_output=True, text=True)
        return done.returncode, done.stderr

    run.root = tmp_path
    return run


@posix
@pytest.mark.parametrize("name", [f"{FOLDER}.ipynb", "my copy.ipynb"])
def test_a_result_is_written_and_summarised(student, name):
    assert student(NOTEBOOK, name) == (0, "")
    assert json.loads((student.root / "result.json").read_text())["score"] == 4
    assert "| 2.1 &lt;b>\\| | 4 | 6 |" in (student.root / "summary.md").read_text()


@posix
@pytest.mark.parametrize("failure", ["CRASH", "SILENT"])
def test_a_failed_grader_gives_no_result_and_a_status(student, failure):
    status, said = student(NOTEBOOK + failure)
    assert status != 0 and "this is no grade" in said
    assert not (student.root / "result.json").exists()  # not even the one that was handed in


# The commands


@pytest.mark.parametrize(
    ("command", "inside"),
    [
        (["release-bundle", "00", "02"], "attention/README.md"),
        (["gradescope-zip", "02", "--no-sandbox"], "run_autograder"),
        (["github-template", "02", "--grader", "someone/attention"], ".github/workflows/grade.yml"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_command_writes_its_zip(command, inside, tmp_path):
    done = CliRunner().invoke(cli_bundle.app, [*command, "--out", str(tmp_path / "new/x.zip")])
    assert done.exit_code == 0 and "Wrote" in done.output
    with zipfile.ZipFile(tmp_path / "new/x.zip") as archive:
        assert inside in archive.namelist()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["release-bundle", "77"], "there is no chapter 77; the chapters are 00"),
        (["release-bundle", "two"], "'two' is no chapter"),
        (["github-template", "02", "--grader", "a b; rm"], "is no repository on GitHub"),
    ],
)
def test_a_command_that_cannot_do_it_says_why_and_writes_nothing(command, says, tmp_path):
    done = CliRunner().invoke(cli_bundle.app, [*command, "--out", str(tmp_path / "x.zip")])
    assert done.exit_code == 1 and says in done.stderr
    assert not list(tmp_path.iterdir())
