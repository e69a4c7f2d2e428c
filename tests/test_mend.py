"""Mending: whatever careless hands and programs did to a notebook, each answer that is still there is in its place."""

import copy
import json
import random
import re

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.utils import compute_checksum

from autograder.answers import fill, source_of
from autograder.exercise import chapters, load_chapter
from autograder.grading import mend as mending
from autograder.grading import rescue as rescuing
from autograder.grading.bench import NOTES
from autograder.grading.cells import bare, defined_names
from autograder.grading.mend import answers, is_untouched, mend
from autograder.grading.rescue import NOTES as NOTES_OF_FILES

CHAPTER = load_chapter(2)
WORDS = "In words of my own."
RIGHT = {one.id: source_of(one.variants[0], one.name) for one in CHAPTER.exercises.values()}


@pytest.fixture(scope="module")
def release(released):
    return nbformat.read(released / "course" / CHAPTER.folder / f"{CHAPTER.folder}.ipynb", as_version=4)


@pytest.fixture
def handed(release):
    """A right notebook as plain JSON data, to be spoilt."""
    return json.loads(json.dumps(fill(copy.deepcopy(release), {**RIGHT, "2.w": WORDS})))


def packed(notebook):
    return json.dumps(notebook).encode()


def at(notebook, name):
    """Where the cell of this nbgrader name stands."""
    return next(
        n for n, cell in enumerate(notebook["cells"]) if cell["metadata"].get("nbgrader", {}).get("grade_id") == name
    )


def cell(notebook, name):
    return notebook["cells"][at(notebook, name)]


def code(source, **metadata):
    text = {"cell_type": "code", "source": source, "metadata": metadata}
    return {**text, "id": "x" + str(abs(hash(source)))[:9], "outputs": [], "execution_count": None}


def slots(mended):
    return [one.id for one in mended.notebook.cells]


def mended_well(notebook, release, right=RIGHT):
    """Mend it, and hold what every mended notebook has: the released frame, valid, with these answers in place."""
    data = notebook if isinstance(notebook, bytes) else packed(notebook)
    mended = mend(data, release, CHAPTER)
    assert mended.notebook is not None, mended.breaches
    hold_the_frame(mended, release)
    assert {one: bare(source) for one, source in answers(mended.notebook, CHAPTER).items()} == {
        one: bare(right.get(one, cell_of(release, f"exercise-{one.replace('.', '-')}").source)) for one in RIGHT
    }
    return mended


def cell_of(notebook, slot):
    return next(one for one in notebook.cells if one.id == slot)


def hold_the_frame(mended, release):
    nbformat.validate(mended.notebook)
    MetadataValidator().validate_nb(mended.notebook)
    assert (mended.notebook.nbformat, mended.notebook.nbformat_minor) == (4, 5)
    assert mended.notebook.metadata == release.metadata
    ids = slots(mended)
    assert len(set(ids)) == len(ids)
    for graded in (one for one in release.cells if "nbgrader" in one.metadata):
        kept = cell_of(mended.notebook, graded.id)
        assert (kept.cell_type, kept.metadata) == (graded.cell_type, graded.metadata)
        if graded.metadata.nbgrader.locked:
            assert kept.source == graded.source
            assert compute_checksum(kept) == graded.metadata.nbgrader.checksum
    for one in mended.notebook.cells:
        assert not one.get("outputs")
        assert "nbgrader" not in one.metadata or one.id == one.metadata.nbgrader.grade_id
    for exercise in CHAPTER.exercises.values():
        slug = exercise.id.replace(".", "-")
        before = mended.notebook.cells[: ids.index(f"check-{slug}")]
        meets = [one.id for one in before if one.cell_type == "code" and exercise.name in defined_names(one.source)]
        # Where no cell defines the function, the check meets an answer cell that defines something else.
        assert meets[-1:] in ([f"exercise-{slug}"], []) and f"exercise-{slug}" in ids
    imports = next(n for n, one in enumerate(mended.notebook.cells) if "from autograder import check" in one.source)
    assert imports < ids.index("exercise-2-1")


# An honest notebook


@pytest.mark.parametrize("number", chapters())
def test_an_honest_notebook_is_left_as_it_is(number, released):
    chapter = load_chapter(number)
    path = released / "course" / chapter.folder / f"{chapter.folder}.ipynb"
    given = nbformat.read(path, as_version=4)
    right = {one.id: source_of(one.variants[0], one.name) for one in chapter.exercises.values()}
    filled = fill(copy.deepcopy(given), right)
    filled.cells.insert(5, nbformat.v4.new_code_cell("mine = 1", id="my-own-cell"))
    mended = mend(nbformat.writes(filled).encode(), given, chapter)
    assert (mended.notes, mended.breaches) == ([], [])
    assert mended.notebook == filled
    untouched = mend(path.read_bytes(), given, chapter).notebook
    assert all(is_untouched(one, source, given) for one, source in answers(untouched, chapter).items())
    assert not any(is_untouched(one, source, given) for one, source in right.items())


def test_cells_without_ids_are_no_accident(handed, release):
    """VS Code and Colab write nbformat 4.0 to 4.4, which has none."""
    handed["nbformat_minor"] = 2
    for one in handed["cells"]:
        del one["id"]
    assert mended_well(handed, release).notes == []


def test_what_a_learner_added_stays_where_it_was(handed, release):
    before, after = code("before = 1"), code("after = 2")
    handed["cells"].insert(at(handed, "exercise-2-3"), before)
    handed["cells"].insert(at(handed, "exercise-2-3") + 1, after)
    mended = mended_well(handed, release)
    place = slots(mended).index("exercise-2-3")
    sources = [one.source for one in mended.notebook.cells]
    assert (sources[place - 1], sources[place + 1]) == ("before = 1", "after = 2")
    assert mended.notes == []


# Accidents, one each, with the sentence that says what was done


def drop(handed, name):
    del handed["cells"][at(handed, name)]


def duplicate_answer(handed):
    first = cell(handed, "exercise-2-1")
    handed["cells"].insert(at(handed, "exercise-2-1") + 3, copy.deepcopy(first))
    first["source"] += "\n\nolder = 1"


def duplicate_stub(handed, release):
    stub = copy.deepcopy(cell(handed, "exercise-2-1"))
    stub["source"] = cell_of(release, "exercise-2-1").source
    handed["cells"].append(stub)


def define_elsewhere(handed, release):
    answer = cell(handed, "exercise-2-2")
    handed["cells"].insert(at(handed, "exercise-2-2") + 1, code(answer["source"]))
    answer["source"] = cell_of(release, "exercise-2-2").source


def define_above(handed, release):
    answer = cell(handed, "exercise-2-2")
    handed["cells"].insert(at(handed, "exercise-2-2"), code(answer["source"]))
    answer["source"] = cell_of(release, "exercise-2-2").source


def answers_in_one_cell(handed, release):
    one, other = cell(handed, "exercise-2-1"), cell(handed, "exercise-2-2")
    one["source"] += "\n\n\n" + other["source"]
    other["source"] = cell_of(release, "exercise-2-2").source


def strip_metadata(handed):
    for one in handed["cells"]:
        one["metadata"] = {}
        one.pop("id", None)


def split_in_the_middle(handed):
    whole = cell(handed, "exercise-2-1")
    lines = whole["source"].splitlines()
    rest = copy.deepcopy(whole)
    whole["source"], rest["source"] = "\n".join(lines[:2]), "\n".join(lines[2:])
    handed["cells"].insert(at(handed, "exercise-2-1") + 1, rest)


def move(handed, name, place):
    one = handed["cells"].pop(at(handed, name))
    handed["cells"].insert(place if place >= 0 else len(handed["cells"]), one)


def kind(handed, name, cell_type):
    one = cell(handed, name)
    one["cell_type"] = cell_type
    one.pop("outputs", None)
    one.pop("execution_count", None)


def settings(handed, name, **changes):
    cell(handed, name)["metadata"]["nbgrader"].update(changes)


def edit(handed, name, source):
    cell(handed, name)["source"] = source


def tag(handed, name, *tags):
    cell(handed, name)["metadata"]["tags"] = list(tags)


def without_imports(handed):
    handed["cells"] = [one for one in handed["cells"] if "from autograder import check" not in one["source"]]


def imports_last(handed):
    place = next(n for n, one in enumerate(handed["cells"]) if "from autograder import check" in one["source"])
    handed["cells"].append(handed["cells"].pop(place))


def written_in_a_new_cell(handed):
    below = {"cell_type": "markdown", "metadata": {}, "id": "mine", "source": WORDS}
    edit(handed, "written-2-w", "*Your answer here.*")
    handed["cells"].insert(at(handed, "written-2-w") + 1, below)


def other_chapter_too(handed):
    meta = {"grade_id": "exercise-1-2", "grade": False, "solution": True, "locked": False, "schema_version": 3}
    handed["cells"].append(code("def hard_lookup(query, keys, values):\n    return 1", nbgrader=meta))


def windows_line_ends(handed):
    for one in handed["cells"]:
        one["source"] = one["source"].replace("\n", "\r\n")


ACCIDENTS = {
    "an answer copied": (duplicate_answer, "1 of the 2 cells named exercise-2-1 were copies"),
    "a stub copied": (duplicate_stub, "1 of the 2 cells named exercise-2-1 were copies"),
    "a check copied": (
        lambda h: h["cells"].append(copy.deepcopy(cell(h, "check-2-4"))),
        "A copy of cell check-2-4 was left out",
    ),
    "defined in a new cell": (define_elsewhere, "Exercise 2.2: the answer cell was left as given out, but logsumexp"),
    "defined in a cell above": (define_above, "Exercise 2.2: the answer cell was left as given out, but logsumexp"),
    "two answers in one cell": (
        answers_in_one_cell,
        "Exercise 2.2: logsumexp is defined in the answer cell",
    ),
    "no metadata": (strip_metadata, "The cells had lost the names that grading goes by"),
    "split in the middle": (split_in_the_middle, "had been split in the middle of softmax; its parts were joined"),
    "answer behind its check": (
        lambda h: move(h, "exercise-2-3", -1),
        "The check of exercise 2.3 did not stand",
    ),
    "check at the top": (lambda h: move(h, "check-2-5", 0), "The check of exercise 2.5 did not stand behind"),
    "answer made markdown": (lambda h: kind(h, "exercise-2-4", "markdown"), "had been turned into a markdown cell"),
    "answer made raw": (lambda h: kind(h, "exercise-2-4", "raw"), "exercise-2-4 had been turned into a raw cell"),
    "check made raw": (lambda h: kind(h, "check-2-4", "raw"), "check-2-4 had been turned into a raw cell"),
    "renamed": (
        lambda h: cell(h, "exercise-2-1").update(metadata={"nbgrader": {"grade_id": "exercise-9-9"}}, id="zzz"),
        "A cell bore the name 'exercise-9-9'; it was recognised by what it holds and is exercise-2-1 again",
    ),
    "named after another": (
        lambda h: cell(h, "exercise-2-1").update(metadata={"nbgrader": {"grade_id": "exercise-2-5"}}, id="zzz"),
        "A cell bore the name 'exercise-2-5'; it was recognised by what it holds and is exercise-2-1 again",
    ),
    "answer made graded": (
        lambda h: settings(h, "exercise-2-1", grade=True, points=900, solution=False, locked=True),
        "The nbgrader settings of cell exercise-2-1 had been changed",
    ),
    "more points": (lambda h: settings(h, "check-2-1", points=900), "settings of cell check-2-1 had been changed"),
    "check unlocked": (
        lambda h: settings(h, "check-2-2", locked=False, solution=True),
        "settings of cell check-2-2 had been changed",
    ),
    "check deleted": (lambda h: drop(h, "check-2-6"), "The check of exercise 2.6 was missing and was put back"),
    "check edited": (
        lambda h: edit(h, "check-2-1", 'check("2.1", lambda x, axis=-1: x)'),
        "The check of exercise 2.1 had been changed",
    ),
    "check emptied": (lambda h: edit(h, "check-2-1", ""), "The check of exercise 2.1 had been changed"),
    "answer in the check": (
        lambda h: (edit(h, "check-2-1", RIGHT["2.1"] + '\n\ncheck("2.1", softmax)'), drop(h, "exercise-2-1")),
        "The check of exercise 2.1 had been changed",
    ),
    "steering tags": (
        lambda h: tag(h, "check-2-1", "skip-execution", "raises-exception"),
        "The tags raises-exception and skip-execution were taken off",
    ),
    "imports deleted": (without_imports, "The cell that imports numpy, attn_ref, autograder was missing"),
    "imports last": (imports_last, "The cell that imports numpy, attn_ref, autograder was missing, changed or too far"),
    "written elsewhere": (written_in_a_new_cell, "Question 2.w: the answer was found in a new cell"),
    "written made code": (lambda h: kind(h, "written-2-w", "raw"), "written-2-w had been turned into a raw cell"),
    "cells of another chapter": (other_chapter_too, "1 cells bear nbgrader names that this chapter does not have"),
    "Windows line ends": (windows_line_ends, "Lines ended as they do on Windows"),
    "no cells among the cells": (lambda h: h["cells"].extend([None, 7, {"cell_type": "code"}]), "3 entries that are"),
}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_an_accident_is_mended_and_said(name, handed, release):
    spoil, sentence = ACCIDENTS[name]
    spoil(handed, release) if spoil.__code__.co_argcount == 2 else spoil(handed)
    data = packed(handed)
    right = RIGHT
    if name == "two answers in one cell":
        right = {**RIGHT, **dict.fromkeys(("2.1", "2.2"), RIGHT["2.1"] + "\n" + RIGHT["2.2"])}
    elif name == "answer in the check":
        right = {**RIGHT, "2.1": RIGHT["2.1"] + '\ncheck("2.1", softmax)'}
    mended = mended_well(data, release, right)
    assert sentence in "\n".join(mended.notes)
    assert cell_of(mended.notebook, "written-2-w").source == WORDS
    mended_again_alike(mended, release)


def mended_again_alike(mended, release):
    """Nothing is left to mend; that a function is defined twice is still worth saying."""
    again = mend(nbformat.writes(mended.notebook).encode(), release, CHAPTER)
    assert again.notebook == mended.notebook
    assert [note for note in again.notes if "is defined in several cells" not in note] == []


def test_a_deleted_answer_comes_back_as_the_stub(handed, release):
    drop(handed, "exercise-2-6")
    mended = mended_well(handed, release, {one: source for one, source in RIGHT.items() if one != "2.6"})
    assert mended.notes == [NOTES["missing answer"].format(id="2.6", name="weights_entropy")]
    assert is_untouched("2.6", answers(mended.notebook, CHAPTER)["2.6"], release)


def test_a_deleted_written_answer_comes_back_as_the_stub(handed, release):
    drop(handed, "written-2-w")
    mended = mended_well(handed, release)
    assert mended.notes == [NOTES["missing written"].format(id="2.w")]
    assert cell_of(mended.notebook, "written-2-w").source == "*Your answer here.*"


def test_a_picture_in_a_written_answer_is_kept_and_nothing_else_is(handed, release):
    drawn, script = {"image/png": "iVBORw0KGgo="}, {"text/html": "<script>"}
    breaking_out = {"image/png": 'x" onerror="alert(1)'}
    answer = cell(handed, "written-2-w")
    answer["attachments"] = {"drawn.png": drawn, "a": script, "b": breaking_out, "c": {"image/png": 7}, "d": None}
    mended = mended_well(handed, release)
    assert cell_of(mended.notebook, "written-2-w").attachments == {"drawn.png": drawn}
    mended_again_alike(mended, release)


def test_the_stub_goes_where_an_answer_is_found(handed, release):
    define_above(handed, release)
    sources = [one.source for one in mended_well(handed, release).notebook.cells]
    assert [source for source in sources if "logsumexp" in defined_names(source)] == [RIGHT["2.2"]]


def test_an_older_attempt_stays_before_the_answer(handed, release):
    duplicate_answer(handed)
    sources = [one.source for one in mended_well(handed, release).notebook.cells]
    older = next(n for n, source in enumerate(sources) if "older = 1" in source)
    assert older < sources.index(RIGHT["2.1"])


def test_an_experiment_behind_the_check_does_not_count(handed, release):
    handed["cells"].insert(at(handed, "check-2-1") + 1, code("def softmax(x, axis=-1):\n    return x"))
    assert mended_well(handed, release).notes == []


def test_the_last_definition_before_the_check_counts(handed, release):
    """As in the notebook that the learner saw."""
    last = "def softmax(x, axis=-1):\n    return 2 * x"
    handed["cells"].insert(at(handed, "check-2-1"), code(last))
    mended = mended_well(handed, release, {**RIGHT, "2.1": last})
    assert mended.notes == [NOTES["several"].format(id="2.1", name="softmax")]


def test_an_attempt_in_quotes_is_no_definition(handed, release):
    handed["cells"].insert(at(handed, "check-2-1"), code('"""\ndef softmax(x):\n    return x\n"""'))
    handed["cells"].insert(at(handed, "check-2-1"), code("# def softmax(x): ...\nclass A:\n    def softmax(x): ..."))
    assert mended_well(handed, release).notes == []


def test_the_function_of_another_chapters_exercise_is_not_taken(handed, release):
    """Both chapters define `softmax`: the name of the cell decides."""
    meta = {"grade_id": "exercise-1-2", "solution": True}
    drop(handed, "exercise-2-1")
    handed["cells"].insert(4, code("def hard_lookup():\n    pass\n\ndef softmax(x):\n    return x", nbgrader=meta))
    right = {one: source for one, source in RIGHT.items() if one != "2.1"}
    assert NOTES["missing answer"].format(id="2.1", name="softmax") in mended_well(handed, release, right).notes


# The file itself


def spoilt_files(handed):
    text = json.dumps(handed, indent=1, ensure_ascii=False)
    cut = text[: text.index("exercise-2-3")]
    third = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}
    for one in handed["cells"]:
        entry = {"cell_type": one["cell_type"], "metadata": one["metadata"]}
        entry["input" if one["cell_type"] == "code" else "source"] = one["source"].splitlines(keepends=True)
        third["worksheets"][0]["cells"].append(entry)
    third["worksheets"][0]["cells"].insert(0, {"cell_type": "heading", "level": 2, "source": "Mine"})
    latin = text.replace("√", "é").replace("·", "ü")
    latin = "".join(character if ord(character) < 256 else "?" for character in latin)
    return {
        "byte-order mark": (b"\xef\xbb\xbf" + text.encode(), "as UTF-8 with a byte-order mark", RIGHT),
        "UTF-16": (text.encode("utf-16"), "was not saved as UTF-8 but as UTF-16", RIGHT),
        "UTF-16 without a mark": (text.encode("utf-16-le"), "was not saved as UTF-8 but as UTF-16-LE", RIGHT),
        "one stray byte": (text.encode().replace("√".encode(), b"\xe9", 1), "read as Latin-1", RIGHT),
        "Latin-1": (latin.encode("latin-1"), "read as Latin-1", None),
        "trailing commas": (re.sub(r"\n ]\n", "\n,\n ]\n", text.replace("\n ],", "\n, ],")).encode(), "commas", RIGHT),
        "text behind": (text.encode() + b"\nsent from my phone", "before or after the notebook", RIGHT),
        "conflict marks": (("<<<<<<< HEAD\n" + text).encode(), "before or after the notebook", RIGHT),
        "cut off": (cut.encode(), "The file is broken or cut off", {one: RIGHT[one] for one in ("2.1", "2.2")}),
        "nbformat 3": (packed(third), "in the old format 3", RIGHT),
        "zeros behind": (text.encode() + b"\0" * 4096, "before or after the notebook", RIGHT),
        "lone surrogates": (
            packed(handed).replace(b'"mine"', b'"x"').replace(b"In words of", b"In \\ud800words\\u0000 of"),
            "Characters that no text file can hold",
            RIGHT,
        ),
    }


FILES = list(spoilt_files({"cells": [], "": "exercise-2-3"}))


@pytest.mark.parametrize("name", FILES)
def test_a_spoilt_file_is_read_as_far_as_it_is_whole(name, handed, release):
    data, sentence, right = spoilt_files(handed)[name]
    if right is None:
        mended = mend(data, release, CHAPTER)
        hold_the_frame(mended, release)
        assert "softmax" in defined_names(answers(mended.notebook, CHAPTER)["2.1"])
    else:
        mended = mended_well(data, release, right)
    assert sentence in "\n".join(mended.notes)


def test_accents_are_read_in_either_encoding(handed, release):
    edit(handed, "written-2-w", "Zoë: √d, ça va")
    data = json.dumps(handed, ensure_ascii=False).encode().replace("ç".encode(), b"\xe7")
    assert cell_of(mended_well(data, release).notebook, "written-2-w").source == "Zoë: √d, ça va"


def test_commas_inside_an_answer_stay(handed, release):
    right = {**RIGHT, "2.1": RIGHT["2.1"] + '\n    [1, ], "{,}"'}
    edit(handed, "exercise-2-1", right["2.1"])
    mended_well(json.dumps(handed).encode()[:-1] + b",}", release, right)


UNREADABLE = {
    "nothing": (b"", "empty file", "The file is empty. Save the notebook"),
    "only spaces": (b" \n\t", "empty file", "The file is empty"),
    "zeros": (b"\0" * 5000, "empty file", "The file is empty"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not a notebook", "it is a web page; download the notebook itself"),
    "a zip": (b"PK\x03\x04rest", "not a notebook", "it is an archive"),
    "a PDF": (b"%PDF-1.7", "not a notebook", "it is a PDF"),
    "a picture": (bytes(range(256)) * 8, "not a notebook", "it holds binary data"),
    "a script": (b"import numpy as np\n\ndef softmax(x):\n    return x\n", "not a notebook", "it holds Python code"),
    "other JSON": (b'{"a": [1, 2]}', "not a notebook", "it is JSON without cells"),
    "a list": (b"[1, 2]", "not a notebook", "it is JSON without cells"),
    "cells that are none": (b'{"cells": {"a": 1}, "worksheets": 3}', "not a notebook", "it is JSON without cells"),
    "a long number": (b'{"cells": ' + b"9" * 10_000 + b"}", "not a notebook", "line 1"),
    "nested": (b"[" * 100_000, "not a notebook", "it is nested too deeply"),
    "nested cells": (b'{"cells": [' + b'{"id": [' * 50_000, "not a notebook", "it is nested too deeply"),
    "prose": (b"Sorry, my computer broke.", "not a notebook", "line 1: Expecting value"),
    "an empty notebook": (b'{"cells": [], "nbformat": 4}', "no answers", "Start from the notebook that was given out"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_notebook_is_named(name, release):
    data, kind_of, sentence = UNREADABLE[name]
    mended = mend(data, release, CHAPTER)
    assert mended.notebook is None
    assert [one.kind for one in mended.breaches] == [kind_of]
    assert sentence in mended.breaches[0].message


def test_another_chapters_notebook_is_named(released, release):
    other = load_chapter(1).folder
    data = (released / "course" / other / f"{other}.ipynb").read_bytes()
    mended = mend(data, release, CHAPTER)
    assert mended.notebook is None
    assert mended.breaches[0].message == f"This is the notebook of {other}, and {CHAPTER.folder} was asked for."


def test_a_helper_that_another_chapter_asks_for_makes_it_no_other_notebook(released, release):
    other = load_chapter(1).folder
    notebook = json.loads((released / "course" / other / f"{other}.ipynb").read_text(encoding="utf-8"))
    notebook["cells"].insert(5, code(RIGHT["2.1"]))
    assert [one.kind for one in mend(packed(notebook), release, CHAPTER).breaches] == ["wrong chapter"]
    strip_metadata(notebook)
    assert [one.kind for one in mend(packed(notebook), release, CHAPTER).breaches] == ["wrong chapter"]


def test_one_cell_nested_without_end_costs_no_other(handed, release):
    handed["cells"].append({"deep": "HERE"})
    data = packed(handed).replace(b'"HERE"', b"[" * 100_000 + b"]" * 100_000)
    assert NOTES_OF_FILES["broken"][:30] in mended_well(data, release).notes[0]


# Limits


def test_too_large_a_file_is_refused(release, monkeypatch):
    monkeypatch.setattr(rescuing, "LARGEST_FILE", 2**20)
    mended = mend(b" " * (3 * 2**20), release, CHAPTER)
    assert [one.kind for one in mended.breaches] == ["too large"]
    assert "The file has 3 MiB and may have 1" in mended.breaches[0].message


def test_fifty_megabytes_of_output_are_left_out(handed, release):
    text = [{"output_type": "stream", "name": "stdout", "text": "x" * (50 * 2**20)}]
    handed["cells"][5].update(cell_type="code", outputs=text, execution_count=1)
    assert len(nbformat.writes(mended_well(handed, release).notebook)) < 2**20


def test_a_huge_answer_costs_its_exercise_alone(handed, release):
    cell(handed, "exercise-2-1")["source"] += "\n# " + "x" * (5 * 2**20)
    handed["cells"].append(code("y = '" + "y" * (5 * 2**20) + "'"))
    mended = mended_well(handed, release, {one: source for one, source in RIGHT.items() if one != "2.1"})
    assert [(one.exercise, one.message) for one in mended.breaches] == [
        ("2.1", "The answer to 2.1 has 5.0 MiB of text and may have 1. Read large data from a file.")
    ]
    assert "A cell of your own has 5.0 MiB of text and may have 1; it was left out." in mended.notes


def test_ten_thousand_cells_are_cut_to_the_limit_and_cost_no_answer(handed, release):
    place = at(handed, "exercise-2-1")
    handed["cells"][place:place] = [code(f"n = {n}") for n in range(10_000)]
    mended = mended_well(handed, release)
    assert len(mended.notebook.cells) == mending.MOST_CELLS
    assert "The notebook has 10111 cells and may have 2000" in "\n".join(mended.notes).replace(
        str(10_000 + len(release.cells)), "10111"
    )


def test_a_file_made_to_be_searched_for_ever_is_given_up(release, monkeypatch):
    """Every beginning of a cell leads to the end of the file, and none is whole."""
    monkeypatch.setattr(rescuing, "MOST_SCANNED", 10**6)
    tries = []
    original = json.JSONDecoder.raw_decode
    monkeypatch.setattr(json.JSONDecoder, "raw_decode", lambda *a, **k: (tries.append(1), original(*a, **k))[1])
    mended = mend(b'{"cells": [' + b'{"id": [0,' * 900 + b"0," * 200_000, release, CHAPTER)
    assert [one.kind for one in mended.breaches] == ["not a notebook"]
    assert len(tries) < 20


# Nothing stands in the way of mending


def test_any_json_is_mended_or_refused(handed, release):
    """Values replaced at random all over a notebook: never an exception, and never an invalid notebook."""
    odd = [None, 0, -1.5, True, "", "exercise-2-1", "check", [], {}, [None], {"a": []}, ["x", 1], 10**30, float("nan")]
    for seed in range(60):
        rng = random.Random(seed)
        notebook = copy.deepcopy(handed)
        for _ in range(rng.randint(1, 60)):
            place, key = notebook, None
            while isinstance(place, dict | list) and place and (key is None or rng.random() < 0.8):
                holder = place
                key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
                place = holder[key]
            holder[key] = copy.deepcopy(rng.choice(odd))
        mended = mend(packed(notebook), release, CHAPTER)
        assert mended.notebook is not None or mended.breaches
        if mended.notebook is not None:
            hold_the_frame(mended, release)


def test_a_file_cut_anywhere_is_mended_or_refused(handed, release):
    data = json.dumps(handed, indent=1).encode()
    for seed in range(40):
        mended = mend(data[: random.Random(seed).randrange(len(data))], release, CHAPTER)
        assert mended.notebook is not None or mended.breaches


# Many accidents in a row


def _any(rng, notebook):
    return rng.randrange(len(notebook["cells"]))


def _copy_paste(rng, notebook, release):
    one = copy.deepcopy(notebook["cells"][_any(rng, notebook)])
    one["id"] = f"pasted-{rng.randrange(10**9)}"
    notebook["cells"].insert(_any(rng, notebook), one)


def _delete(rng, notebook, release):
    del notebook["cells"][_any(rng, notebook)]


def _move(rng, notebook, release):
    one = notebook["cells"].pop(_any(rng, notebook))
    notebook["cells"].insert(_any(rng, notebook), one)


def _change_kind(rng, notebook, release):
    one = notebook["cells"][_any(rng, notebook)]
    one["cell_type"] = rng.choice(["code", "markdown", "raw"])


def _strip(rng, notebook, release):
    strip_metadata(notebook)


def _strip_one(rng, notebook, release):
    notebook["cells"][_any(rng, notebook)]["metadata"] = {}


def _rename(rng, notebook, release):
    meta = notebook["cells"][_any(rng, notebook)]["metadata"].get("nbgrader", {})
    meta["grade_id"] = rng.choice(["foo", "exercise-2-1", "check-2-2", "exercise-2-77", "exercise-1-1", ""])


def _flip(rng, notebook, release):
    meta = notebook["cells"][_any(rng, notebook)]["metadata"].setdefault("nbgrader", {})
    meta[rng.choice(["grade", "solution", "locked", "task"])] = rng.choice([True, False, 3])


def _add(rng, notebook, release):
    source = rng.choice(["x = 1", "# a note", "def helper(a):\n    return a", 'check("2.1", softmax)'])
    notebook["cells"].insert(_any(rng, notebook), code(source))


def _edit_check(rng, notebook, release):
    checks = [one for one in notebook["cells"] if one["source"].startswith("check(")]
    if checks:
        rng.choice(checks)["source"] += rng.choice(["\n", "  # hm", "\nprint(1)", " + 5"])


def _to_a_new_cell(rng, notebook, release):
    exercise = rng.choice(list(CHAPTER.exercises.values()))
    slot = f"exercise-{exercise.id.replace('.', '-')}"
    stub = cell_of(release, slot).source
    for n, one in enumerate(notebook["cells"]):
        if one["metadata"].get("nbgrader", {}).get("grade_id") == slot and bare(one["source"]) != bare(stub):
            notebook["cells"].insert(n + 1, code(one["source"]))
            one["source"] = stub
            return


def _renumber(rng, notebook, release):
    for one in notebook["cells"]:
        one["id"] = rng.choice(["same", f"c{rng.randrange(10**9)}"])


HAPPENINGS = [
    _copy_paste,
    _delete,
    _move,
    _change_kind,
    _strip,
    _strip_one,
    _rename,
    _flip,
    _add,
    _edit_check,
    _to_a_new_cell,
    _renumber,
]


@pytest.mark.parametrize("group", range(4))
def test_every_answer_that_is_still_there_is_in_its_place(group, handed, release):
    """Two to six accidents in a row, fifty times a group."""
    for seed in range(50 * group, 50 * group + 50):
        rng = random.Random(seed)
        notebook = copy.deepcopy(handed)
        happened = rng.choices(HAPPENINGS, k=rng.randint(2, 6))
        for happening in happened:
            happening(rng, notebook, release)
        there = {bare(one["source"]) for one in notebook["cells"]}
        right = {one: source for one, source in RIGHT.items() if bare(source) in there}
        story = f"seed {seed}: {', '.join(one.__name__ for one in happened)}"
        try:
            mended = mended_well(notebook, release, right)
            mended_again_alike(mended, release)
        except AssertionError as error:
            raise AssertionError(story) from error
