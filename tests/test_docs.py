"""The pages say what is so: links lead somewhere, commands and options exist, numbers are the code's, examples work."""

import itertools
import os
import re
import shlex
import types
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer
from nbgrader.apps import NbGraderApp
from traitlets.config import Configurable

import attn_ref
from autograder import build, cli, cli_grading, exercise
from autograder.exercise import Exercise
from autograder.forbidden import Forbidden
from autograder.grading import (
    breaches,
    execute,
    gather,
    gradebook,
    intake,
    mend,
    one,
    rescue,
    results,
    work,
    workers,
)
from autograder.grading.whose import PATTERNS
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import collect
from autograder.sandbox import keeper, levels
from autograder.sandbox.limits import Limits
from tests.test_exercises import report_on, trivial_answers
from tests.test_spoilers import NO_THIRD_AXIS, SPOILERS, spoilt
from tools import bootstrap

PAGES = sorted([*build.ROOT.glob("*.md"), *(build.ROOT / "docs").rglob("*.md")])
READERS = [page for page in PAGES if page.name not in ("CHANGELOG.md", "kill-matrix.md")]
MIB = 2**20
FENCED = r"^ *```(\w*)\n(.*?)^ *```"


def ids(page):
    return page.relative_to(build.ROOT).as_posix()


def text_of(name):
    return (build.ROOT / name).read_text(encoding="utf-8")


def anchors(page):
    """The names that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}; the headings are {sorted(anchors(target))}"


@pytest.mark.parametrize("page", READERS, ids=ids)
def test_files_that_a_page_names_exist(page):
    known = r"(?:docs|tests|benchmarks|tools|solutions|course|autograder|attn_ref|\.ci)/"
    for named in re.findall(rf"`({known}[\w./-]*)`", page.read_text(encoding="utf-8")):
        assert "NN" in named or (build.ROOT / named).exists(), named


def commands(page):
    """Every command line of a page: lines of its `sh` blocks, and code in the running text."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in re.findall(FENCED, text, re.M | re.S) if language in ("", "sh")]
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    prose = re.sub(FENCED, "", text, flags=re.M | re.S)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else []
        words = list(itertools.takewhile(lambda word: word != ">", words))
        if words and words[0].startswith(".venv/bin/"):
            words[0] = words[0].removeprefix(".venv/bin/")
        if len(words) > 1 or line.startswith("--"):
            yield line, words


COMMANDS = [pytest.param(*found, id=f"{ids(page)}: {found[0][:60]}") for page in READERS for found in commands(page)]


def run_by(program):
    return [one for one in COMMANDS if one.values[1][0] == program]


@cache
def attn_commands():
    return typer.main.get_command(cli.app).commands


def attn_options(command):
    return {name for option in attn_commands()[command].params for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize(("line", "words"), run_by("attn"))
def test_attn_has_this_command_with_these_options(line, words):
    used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
    assert used <= attn_options(words[1]), f"one of {used} is no option of attn {words[1]}"
    chosen = dict(zip(words, words[1:], strict=False))
    assert chosen.get("--format", "json") in one.FORMATS
    assert chosen.get("--policy", "zero") in work.POLICIES


def test_options_that_pages_name_alone_exist():
    known = {"--force"}.union(*map(attn_options, attn_commands()))  # of `nbgrader autograde`
    named = {one.values[1][0].split("=")[0] for one in COMMANDS if one.values[1][0].startswith("--")}
    assert len(named) > 8 and named <= known, named - known


@pytest.mark.parametrize(("line", "words"), run_by("make"))
def test_make_has_this_task_with_these_settings(line, words):
    assert words[1] in bootstrap.TASKS
    settings = {word.split("=")[0] for word in words[2:]}
    assert settings <= {*bootstrap.SETTINGS, "PYTHON"}


@pytest.mark.parametrize(("line", "words"), run_by("nbgrader"))
def test_nbgrader_has_this_command_with_these_options(line, words):
    application, rest = NbGraderApp.subcommands[words[1]][0], words[2:]
    while isinstance(application.subcommands, dict):  # otherwise a trait, which says that there are none
        application = application.subcommands[rest.pop(0)][0]
    known = {f"--{name}" for name in (*application.flags, *application.aliases)}
    used = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert used <= known, f"{used - known} is no option of {application.name}"
    assert words[1] != "formgrade", "this command only says that it is no command any more"


@pytest.mark.parametrize(("line", "words"), run_by("python") + run_by("pytest"))
def test_scripts_and_tests_that_are_run_exist(line, words):
    named = [word for word in words if "/" in word and not word.startswith("-")]
    assert all((build.ROOT / word).exists() for word in named)
    if "benchmarks/grading.py" in words:
        source = text_of("benchmarks/grading.py")
        assert all(f'"{word}"' in source for word in words if word.startswith("--"))


def test_the_pages_are_read_for_commands():
    assert min(map(len, map(run_by, ("attn", "make", "nbgrader")))) > 8


CONFIGURED = re.compile(r"c\.(\w+)\.(\w+)")


@pytest.mark.parametrize("page", READERS, ids=ids)
def test_settings_of_nbgrader_that_a_page_names_exist(page):
    import nbgrader.apps  # noqa: F401  (so that every class with settings is known)
    import nbgrader.plugins  # noqa: F401

    import autograder.nbgrader_plugins  # noqa: F401

    known = {}
    waiting = [Configurable]
    while waiting:
        kind = waiting.pop()
        known.setdefault(kind.__name__, set()).update(kind.class_trait_names(config=True))
        waiting += kind.__subclasses__()
    for kind, setting in CONFIGURED.findall(page.read_text(encoding="utf-8")):
        assert setting in known[kind], f"{kind}.{setting}"


def rows(name, heading):
    """The table below a heading, as lists of cells."""
    section = re.split(rf"^#+ {re.escape(heading)}$", text_of(name), flags=re.M)[1]
    lines = re.search(r"^\|.*?(?=^[^|])", section, re.M | re.S)[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def first_names(name, heading):
    """What the first column of that table sets as code."""
    return {code for row in rows(name, heading) for code in re.findall(r"`([^`]+)`", row[0])}


def test_exit_statuses_are_those_of_the_code():
    told = {int(row[0]) for row in rows("docs/grading.md", "What you see")}
    assert told == {0, cli_grading.CANNOT_START, 2, cli_grading.SOME_FAILED, cli_grading.INTERRUPTED}
    assert told == set(map(int, re.findall(r"(?:status: |, )(\d+) ", cli_grading.grade.__doc__)))


def test_limits_are_those_of_the_code():
    budget, limits = execute.Budget(), Limits()
    told = {row[0]: row[1] for row in rows("docs/grading.md", "Limits")}
    assert told == {
        "one cell": f"{budget.cell:g} s",
        "one submission": f"{budget.notebook:g} s",
        "all cases of one exercise": f"{Exercise.time_limit:g} s",
        "memory of a submission, all its processes together": f"{limits.memory / MIB:g} MiB",
        "memory of one process": f"{limits.memory_of_one / MIB:g} MiB",
        "processes and threads": f"{limits.processes}",
        "files written": f"{limits.disk / MIB:g} MiB",
        "output of a cell": f"{budget.output:g} MiB",
        "a notebook's file": f"{rescue.LARGEST_FILE / MIB:g} MiB",
        "text of a cell": f"{mend.LONGEST_CELL / MIB:g} MiB",
        "cells": f"{mend.MOST_CELLS}",
        "files beside a notebook": f"{intake.MOST_FILES}, together {intake.LARGEST_FILES / MIB:g} MiB",
        "all zips of one intake, unpacked": f"{gather.LARGEST_ARCHIVES / 2**30:g} GiB",
    }


def test_numbers_in_running_text_are_those_of_the_code():
    words = {3: "three", 10: "ten", 15: "fifteen"}
    security, grading = text_of("SECURITY.md"), " ".join(text_of("docs/grading.md").split())
    assert f"one memory disk of {Limits().disk / MIB:g} MiB" in security
    assert f"tree of processes every\n{keeper._LOOK_EVERY:g} s" in security
    assert f"the grader waits, for {words[gradebook.WAIT / 60]} minutes at most" in grading
    assert f"the grader itself failed {words[workers.TRIES]} times" in grading
    assert f"in {words[len(SPOILERS)]} ways" in text_of("docs/writing-an-exercise.md")


def test_statuses_breaches_and_flags_are_those_of_the_code():
    ends = {results.GRADED, results.PARTLY, results.FAILED, results.MISSING}
    assert first_names("docs/grading.md", "How a submission ends") == ends
    told = " ".join(row[0] for row in rows("docs/grading.md", "What can go wrong, and what it costs"))
    assert set(re.findall(r"`([^`]+)`", told)) == {*breaches.SENTENCES, "cell too large"}
    source = text_of("autograder/grading/policy.py") + text_of("autograder/grading/copies.py")
    in_code = set(re.findall(r'Flag\("([\w ]+)"|kind, sentence = \("([\w ]+)"', source))
    assert first_names("docs/grading.md", "Forbidden calls and copies") == {one or other for one, other in in_code}


def test_levels_and_platforms_are_those_of_the_code():
    header = re.search(r"^\| \| (`namespaces`.*)\|$", text_of("SECURITY.md"), re.M)[1]
    assert tuple(re.findall(r"`(\w+)`", header)) == (*levels.LEVELS, "none")
    layouts = " ".join(row[0] for row in rows("docs/grading.md", "Hand over the submissions"))
    assert all(platform in layouts for platform in PATTERNS)


def test_the_architecture_names_every_file_of_grading():
    page = text_of("docs/architecture.md")
    files = {path.name for path in (build.ROOT / "autograder" / "grading").glob("*.py")} - {"__init__.py"}
    assert {name for name in files if f"`{name}`" not in page} == set()


def test_decisions_are_short():
    for page in (build.ROOT / "docs" / "decisions").glob("*.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) < 40, page.name


@pytest.fixture(scope="module")
def example():
    """The Exercise that `docs/writing-an-exercise.md` defines."""
    block = re.findall(r"^```python\n(.*?)^```", text_of("docs/writing-an-exercise.md"), re.M | re.S)[0]
    module = types.ModuleType("example")
    module.__dict__.update(np=np, attn_ref=attn_ref, Exercise=exercise.Exercise)
    exec(compile(block, "docs/writing-an-exercise.md", "exec"), vars(module))
    return module.rows


def test_the_example_of_the_docs_is_a_proven_exercise(example):
    assert not set(Forbidden(example).names) - {"example.unit_rows", "attn_ref.rms_norm"}
    for seed in (SEED, 1, 20260921):
        for right in (example.reference, *example.variants):
            assert report_on(example, right, seed).full, right.__name__
        for mistake in example.mistakes:
            report = report_on(example, mistake.answer, seed)
            assert not report.full and [one.name for one in report.diagnosis] == [mistake.name]
    assert all(report_on(example, answer).earned == 0 for answer in trivial_answers(example).values())
    assert len(example.mistakes) >= 5 and len(example.variants) >= 2 and len(example.hint_texts) >= 2


def test_the_example_of_the_docs_names_its_harmless_spoilers(example):
    passed = set()
    for name, spoil in SPOILERS.items():
        answer = spoilt(example.reference, spoil)
        if judge(example, SEED, collect(example, answer, SEED)).full:
            passed.add(name)
    line = re.search(r'^"0\.4": (.+?),  #', text_of("docs/writing-an-exercise.md"), re.M)[1]
    assert passed == eval(line, {"NO_THIRD_AXIS": NO_THIRD_AXIS})


def test_the_example_of_the_docs_can_be_built(example, tmp_path):
    """Text and definition agree, as the build sees it."""
    text = re.findall(r"^```python\n(.*?)^```", text_of("docs/writing-an-exercise.md"), re.M | re.S)[1]
    path = tmp_path / "00_start_here.py"
    path.write_text(text, encoding="utf-8")
    chapter = exercise.Chapter(0, "start_here", {"0.4": example}, {}, {})
    notebook = build.source_notebook(Path(os.path.relpath(path)), chapter)
    assert {"exercise-0-4", "check-0-4"} <= {cell.id for cell in notebook.cells}
    assert "The right shape can hold the wrong numbers" in text_of("solutions/00_start_here/00_start_here.py")
