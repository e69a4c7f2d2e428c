"""Intake: every file that is handed over becomes a submission, one of its files, or a line that says why not."""

import io
import json
import os
import socket
import stat
import zipfile
from types import SimpleNamespace

import nbformat
import pytest

from autograder.answers import fill, source_of
from autograder.exercise import load_chapter
from autograder.grading import gather as gathering
from autograder.grading import intake
from autograder.grading.intake import IntakeError, take_in
from autograder.grading.rescue import LARGEST_FILE
from autograder.grading.whose import gradescope_names, safe_id, time_of

ONE, TWO = (load_chapter(number) for number in (1, 2))


@pytest.fixture(scope="module")
def notebook(released):
    """`notebook(2, answered=3)` -> the bytes of a chapter with that many right answers."""
    given = {
        one.number: (released / "course" / one.folder / f"{one.folder}.ipynb").read_text("utf-8") for one in (ONE, TWO)
    }

    def make(number=2, answered=0):
        made = nbformat.reads(given[number], as_version=4)
        exercises = list(load_chapter(number).exercises.values())[:answered]
        filled = fill(made, {one.id: source_of(one.variants[0], one.name) for one in exercises})
        return nbformat.writes(filled).encode()

    return make


def put(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zipped(files, when=(2026, 10, 1, 12, 0, 0)):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, when), data, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def placed(submissions):
    return [(one.student, one.chapter) for one in submissions]


def snapshot(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob("*"))}


# The layouts


def test_nbgraders_layout_with_times_and_files(tmp_path, notebook):
    put(
        tmp_path,
        {
            f"ada/{TWO.folder}/{TWO.folder}.ipynb": notebook(),
            f"ada/{TWO.folder}/timestamp.txt": b"2026-10-01 14:00:00.5 +0200\n",
            f"ada/{TWO.folder}/data/heights.csv": b"1,2",
            f"ada/{ONE.folder}/{ONE.folder}.ipynb": notebook(1),
            f"bob/{TWO.folder}/{TWO.folder}.ipynb": notebook(),
        },
    )
    before = snapshot(tmp_path)
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", ONE.folder), ("ada", TWO.folder), ("bob", TWO.folder)]
    ada = submissions[1]
    assert (ada.submitted, ada.files, ada.notes) == ("2026-10-01 12:00:00 UTC", {"data/heights.csv": b"1,2"}, [])
    assert ada.notebook == notebook()
    assert (submissions[2].submitted, unplaced) == (None, [])
    assert snapshot(tmp_path) == before


def test_only_what_was_submitted_of_a_whole_course(tmp_path, notebook):
    sides = ("submitted", "autograded")
    put(tmp_path, {f"{side}/ada/{TWO.folder}/{TWO.folder}.ipynb": side.encode() for side in sides})
    submissions, unplaced = take_in(tmp_path)
    assert [(one.student, one.notebook) for one in submissions] == [("ada", b"submitted")]
    assert unplaced == []


def test_the_exchange_keeps_the_latest(tmp_path, notebook):
    for hour, answered in ((9, 1), (11, 2), (10, 3)):
        folder = f"ada+{TWO.folder}+2026-10-01 {hour:02d}:00:00.123456 UTC+abc{hour}"
        put(tmp_path, {f"{folder}/{TWO.folder}.ipynb": notebook(2, answered)})
    submissions, unplaced = take_in(tmp_path)
    assert [(one.student, one.submitted) for one in submissions] == [("ada", "2026-10-01 11:00:00 UTC")]
    assert submissions[0].notebook == notebook(2, 2)
    assert len(unplaced) == 2 and all("handed in 02_scaled_dot_product again" in why for _, why in unplaced)


PLATFORMS = {
    "Canvas": (
        {
            "doejane_12345_998877_homework-1.ipynb": "ours",
            "roejohn_LATE_12346_998878_02_scaled_dot_product.ipynb": "ours",
            "roejohn_LATE_12346_998879_heights.csv": b"1,2",
        },
        ["doejane", "roejohn"],
    ),
    "Moodle": (
        {
            "Jane Doe_1234567_assignsubmission_file_/hw.ipynb": "ours",
            "John Roe_1234568_assignsubmission_file/deep/hw (1).ipynb": "ours",
            "Zoë Ng_1234569_assignsubmission_file_hw.ipynb": "ours",
        },
        ["Jane Doe", "John Roe", "Zoë Ng"],
    ),
    "Blackboard": (
        {
            "Chapter 2_jd123_attempt_2026-10-01-12-30-00_hw.ipynb": "ours",
            "Chapter 2_jr9_attempt_2026-10-01-12-30-00_my_hw.ipynb": "ours",
        },
        ["jd123", "jr9"],
    ),
    "Brightspace": (
        {
            "12345-67890 - Jane Doe - Oct 1, 2026 1230 PM/hw.ipynb": "ours",
            "12346-67891 - John Roe-Poe - Oct 1, 2026 1230 PM - hw.ipynb": "ours",
            "index.html": b"<html>",
        },
        ["Jane Doe", "John Roe-Poe"],
    ),
    "a zip each": ({"ada.zip": {"hw.ipynb": "ours"}, "bob.zip": {"work/hw.ipynb": "ours"}}, ["ada", "bob"]),
    "a zip each in Moodle": (
        {"Jane Doe_1_assignsubmission_file_/hand in.zip": {"a/hw.ipynb": "ours"}},
        ["Jane Doe"],
    ),
    "flat": (
        {"ada.ipynb": "ours", "bob_02_scaled_dot_product.ipynb": "ours", "02_scaled_dot_product-eve (1).IPYNB": "ours"},
        ["ada", "bob", "eve"],
    ),
    "chapter first": (
        {f"{TWO.folder}/ada/hw.ipynb": "ours", f"{TWO.folder}/bob.ipynb": "ours"},
        ["ada", "bob"],
    ),
    "a folder around": ({"class/ada/hw.ipynb": "ours", "class/bob/hw.ipynb": "ours"}, ["ada", "bob"]),
    "sections": (
        {f"{one}/{two}/{TWO.folder}/x.ipynb": "ours" for one, two in (("A", "ada"), ("B", "bob"), ("B", "eve"))},
        ["ada", "bob", "eve"],
    ),
    "several exports": (
        {
            "first.zip": {"doejane_11_200_hw.ipynb": "ours", "poeedgar_12_201_hw.ipynb": "ours"},
            "second.zip": {"roejohn_13_202_hw.ipynb": "ours", "smith_14_203_hw.ipynb": "ours"},
        },
        ["doejane", "poeedgar", "roejohn", "smith"],
    ),
    "odd endings": (
        {"ada/hw.ipynb.txt": "ours", "bob/hw.ipynb.json": "ours", "eve/hw": "ours", "joe/HW.IPYNB": "ours"},
        ["ada", "bob", "eve", "joe"],
    ),
}


def made_of(files, ours):
    return {
        name: zipped(made_of(data, ours)) if isinstance(data, dict) else ours if data == "ours" else data
        for name, data in files.items()
    }


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", PLATFORMS)
def test_every_platforms_export_is_understood(name, as_zip, tmp_path, notebook):
    files, students = PLATFORMS[name]
    files = made_of(files, notebook(2, 1))
    source = put(tmp_path, files)
    if as_zip:
        source = tmp_path / "export.zip"
        source.write_bytes(zipped(files))
    submissions, unplaced = take_in(source)
    assert placed(submissions) == [(student, TWO.folder) for student in students]
    assert all(one.notebook == notebook(2, 1) for one in submissions)
    assert unplaced == []
    if name in ("Blackboard", "Brightspace"):
        assert {one.submitted for one in submissions} == {"2026-10-01 12:30:00 UTC"}
    elif as_zip and name != "a zip each":
        assert {one.submitted for one in submissions} <= {"2026-10-01 12:00:00 UTC", None}
    if name == "Canvas":
        assert submissions[1].files == {"heights.csv": b"1,2"}


def test_the_latest_attempt_counts_whatever_it_is_called(tmp_path, notebook):
    put(
        tmp_path,
        {
            "A_ada_attempt_2026-10-01-12-00-00_hw.ipynb": notebook(2, 1),
            "B_ada_attempt_2026-09-01-12-00-00_hw.ipynb": notebook(2, 3),
            "B_ada_attempt_2026-09-01-12-00-00_heights.csv": b"1,2",
        },
    )
    (submission,), unplaced = take_in(tmp_path)
    assert (submission.notebook, submission.submitted) == (notebook(2, 1), "2026-10-01 12:00:00 UTC")
    assert submission.files == {}
    assert [path for path, _ in unplaced] == ["B_ada_attempt_2026-09-01-12-00-00_hw.ipynb"]


def test_gradescopes_numbers_become_names(tmp_path, notebook):
    listed = """---
submission_101:
  :submitters:
  - :name: Jane Doe
    :sid: '777'
    :email: jane@uni.example
  - :name: John Roe
    :sid: ''
    :email: john@uni.example
  :created_at: 2026-10-01 12:00:00.340250000 Z
  :score: 3
submission_102:
  :submitters:
  - :name: Eve
  :created_at: not a time
"""
    files = {f"submission_{n}/hw.ipynb": notebook() for n in (101, 102, 103)}
    put(tmp_path / "assignment_9_export", {**files, "submission_metadata.yml": listed.encode()})
    submissions, unplaced = take_in(tmp_path)
    assert [(one.student, one.submitted) for one in submissions] == [
        ("103", None),
        ("777", "2026-10-01 12:00:00 UTC"),
        ("Eve", None),
        ("john@uni.example", "2026-10-01 12:00:00 UTC"),
    ]
    assert unplaced == []
    assert gradescope_names("nonsense\n  - :name: x\n") == {}


def test_a_pattern_of_the_instructors_goes_first(tmp_path, notebook, monkeypatch):
    from nbgrader.plugins.zipcollect import FileNameCollectorPlugin

    pattern = FileNameCollectorPlugin(named_regexp=r"ps2-(?P<student_id>\w+)-(?P<file_id>.*)")
    monkeypatch.setattr("autograder.grading.whose._configured", lambda: pattern)
    put(tmp_path, {"ps2-ada-hw.ipynb": notebook()})
    assert placed(take_in(tmp_path)[0]) == [("ada", TWO.folder)]


# Which chapter, which notebook


def test_a_renamed_notebook_is_known_by_its_content(tmp_path, notebook):
    stripped = json.loads(notebook(1, 2))
    for cell in stripped["cells"]:
        cell["metadata"] = {}
        del cell["id"]
    put(tmp_path, {"ada/Untitled1.ipynb": notebook(2), "ada/final FINAL.ipynb": json.dumps(stripped).encode()})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", ONE.folder), ("ada", TWO.folder)]
    assert submissions[1].notes == ["The notebook was found as Untitled1.ipynb."]
    assert unplaced == []


def test_what_one_chapter_hands_in_is_not_a_file_beside_another(tmp_path, notebook):
    """Or a new answer in one chapter would have all the others graded again."""
    put(tmp_path, {"ada/two.ipynb": notebook(2), "ada/one.ipynb": notebook(1), "ada/heights.csv": b"1,2"})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", ONE.folder), ("ada", TWO.folder)]
    assert [one.files for one in submissions] == [{"heights.csv": b"1,2"}] * 2
    assert unplaced == []


def test_of_several_notebooks_the_one_with_most_answers_counts(tmp_path, notebook):
    folder = tmp_path / "ada" / TWO.folder
    put(folder, {f"{TWO.folder}.ipynb": notebook(2, 1), "Copy.ipynb": notebook(2, 3), "old.ipynb": notebook(2, 3)})
    os.utime(folder / "old.ipynb", (1, 1))
    os.utime(folder / f"{TWO.folder}.ipynb", (2**31, 2**31))
    put(folder, {"wrong.ipynb": notebook(1, 5)})
    (submission,), unplaced = take_in(tmp_path)
    assert (submission.notebook, submission.notes) == (notebook(2, 3), ["The notebook was found as Copy.ipynb."])
    reasons = dict(unplaced)
    assert len(reasons) == 3
    assert "ada handed in ada/02_scaled_dot_product/Copy.ipynb as well" in reasons[f"ada/{TWO.folder}/old.ipynb"]
    assert "it is the notebook of 01_soft_lookup" in reasons[f"ada/{TWO.folder}/wrong.ipynb"]


def test_the_wrong_notebook_in_a_chapters_folder_is_that_chapters_submission(tmp_path, notebook):
    """So that its student is told."""
    put(tmp_path, {f"ada/{TWO.folder}/{TWO.folder}.ipynb": notebook(1)})
    assert placed(take_in(tmp_path)[0]) == [("ada", TWO.folder)]


@pytest.mark.parametrize("data", [b"", b"{", b"\0\xff\xfe", b'{"cells": []}'], ids=["empty", "cut", "binary", "bare"])
def test_an_unreadable_notebook_is_a_submission_still(data, tmp_path, notebook):
    put(tmp_path, {f"ada/{TWO.folder}/x.ipynb": data, f"bob/{TWO.folder}/{TWO.folder}.ipynb": notebook()})
    submissions, unplaced = take_in(tmp_path)
    assert [(one.student, one.notebook == data) for one in submissions] == [("ada", True), ("bob", False)]
    assert unplaced == []


def test_an_unreadable_notebook_belongs_to_the_only_chapter_there_is(tmp_path, notebook):
    put(tmp_path, {"ada_11_222_hw.ipynb": b"", "bob_12_223_hw.ipynb": notebook()})
    assert placed(take_in(tmp_path)[0]) == [("ada", TWO.folder), ("bob", TWO.folder)]
    put(tmp_path, {"eve_13_224_hw.ipynb": notebook(1)})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("bob", TWO.folder), ("eve", ONE.folder)]
    assert "nothing tells which chapter it is" in dict(unplaced)["ada_11_222_hw.ipynb"]
    assert placed(take_in(tmp_path, [TWO.folder])[0]) == [("ada", TWO.folder), ("bob", TWO.folder)]


def test_chapters_that_could_not_be_looked_at_are_named(tmp_path, notebook, monkeypatch):
    put(tmp_path, {"ada_11_222_hw.ipynb": b"{broken", "ben_12_223_hw.ipynb": notebook(1)})
    put(tmp_path, {"cat_13_224_hw.ipynb": notebook(2)})
    for missing, end in (
        ((), "its name and folder name none"),
        ((11, 12), "not installed here were not looked at: 11_numba_kernel, 12_triton_kernel"),
    ):
        loaded = [SimpleNamespace(number=number) for number in intake.chapter_numbers() if number not in missing]
        monkeypatch.setattr(intake, "loadable_chapters", lambda loaded=loaded: loaded)
        assert dict(take_in(tmp_path)[1])["ada_11_222_hw.ipynb"].endswith(end)


def test_an_unreadable_notebook_belongs_to_the_chapter_it_is_called_like(tmp_path, notebook):
    put(tmp_path, {f"ada/{ONE.folder}.ipynb": b"hello", "bob/hw.ipynb": notebook(), "eve/hw.ipynb": b"hello"})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", ONE.folder), ("bob", TWO.folder)]
    assert "its name and folder name none" in dict(unplaced)["eve/hw.ipynb"]


def test_a_chapter_that_is_not_asked_for_is_listed(tmp_path, notebook):
    put(tmp_path, {f"ada/{one.folder}/x.ipynb": notebook(one.number) for one in (ONE, TWO)})
    submissions, unplaced = take_in(tmp_path, [TWO.folder])
    assert placed(submissions) == [("ada", TWO.folder)]
    assert "belongs to 01_soft_lookup, which is not being graded" in unplaced[0][1]


# What is no submission


def test_nothing_is_dropped(tmp_path, notebook):
    """Every file comes back as a submission, one of its files, or with a reason; junk alone is passed over."""
    put(
        tmp_path,
        {
            f"ada/{TWO.folder}/{TWO.folder}.ipynb": notebook(),
            f"ada/{TWO.folder}/.ipynb_checkpoints/x-checkpoint.ipynb": notebook(),
            "ada/.DS_Store": b"",
            "__MACOSX/ada/._x.ipynb": b"",
            "expected.csv": b"",
            "gradebook.db": b"",
            "readme.txt": b"hello",
            "homework (2).ipynb": notebook(),
            f"bob/{TWO.folder}/homework.pdf": b"%PDF",
            "carol.7z": b"7z",
            "erin/notes.ipynb": b"",
            "erin/heights.csv": b"1,2",
            f"frank/{ONE.folder}/{ONE.folder}.ipynb": notebook(1),
        },
    )
    (tmp_path / "dave" / TWO.folder).mkdir(parents=True)
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", TWO.folder), ("frank", ONE.folder)]
    reasons = dict(unplaced)
    assert sorted(reasons) == sorted(
        [
            "erin/notes.ipynb",
            "erin/heights.csv",
            "readme.txt",
            "homework (2).ipynb",
            f"bob/{TWO.folder}/homework.pdf",
            "carol.7z",
            f"dave/{TWO.folder}",
        ]
    )
    assert "nothing tells whose it is" in reasons["homework (2).ipynb"]
    assert "there is no notebook beside it" in reasons[f"bob/{TWO.folder}/homework.pdf"]
    assert reasons[f"dave/{TWO.folder}"] == "an empty folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_links_pipes_and_sockets_are_listed_and_not_opened(tmp_path, notebook):
    secret = put(tmp_path / "outside", {"secret.ipynb": notebook(2, 6)})
    folder = put(tmp_path / "in" / "ada" / TWO.folder, {"x.ipynb": notebook()})
    os.symlink(secret / "secret.ipynb", folder / f"{TWO.folder}.ipynb")
    os.symlink(secret, tmp_path / "in" / "bob")
    os.symlink("loop", folder / "loop")
    os.mkfifo(folder / "pipe.ipynb")
    with socket.socket(socket.AF_UNIX) as open_socket:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket has to be short
        try:
            open_socket.bind("socket")
        finally:
            os.chdir(here)
    submissions, unplaced = take_in(tmp_path / "in")
    assert [one.notebook for one in submissions] == [notebook()]
    assert {path.split("/")[-1]: why.split(",")[0] for path, why in unplaced} == {
        f"{TWO.folder}.ipynb": "a link",
        "bob": "a link",
        "loop": "a link",
        "pipe.ipynb": "a pipe",
        "socket": "a pipe",
    }


def test_modules_and_floods_of_files_are_held_back(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr(intake, "LARGEST_FILES", 10)
    put(
        tmp_path / "ada" / TWO.folder,
        {
            f"{TWO.folder}.ipynb": notebook(),
            "numpy.PY": b"evil",
            "numpy/__init__.py": b"evil",
            "a.csv": b"123456",
            "b.csv": b"123456",
            "c.csv": b"1234",
        },
    )
    (submission,), unplaced = take_in(tmp_path)
    assert submission.files == {"a.csv": b"123456", "c.csv": b"1234"}
    assert sorted(note.split(" was")[0] for note in submission.notes) == ["b.csv", "numpy.PY", "numpy/__init__.py"]
    assert sum("could stand in for a library" in note for note in submission.notes) == 2
    assert unplaced == []


def test_nothing_at_all_is_said(tmp_path):
    with pytest.raises(IntakeError, match="there is no .*nowhere"):
        take_in(tmp_path / "nowhere")
    assert take_in(tmp_path) == ([], [])


# Names


@pytest.mark.parametrize(
    "name, safe",
    [
        ("ada", "ada"),
        ("Zoë Ng", "Zoë Ng"),
        ("..ada", "ada"),
        (" ada. ", "ada"),
        ("a+b/c\\d", "a_b_c_d"),
        ("a*[b]?", "a__b__"),
        ("a\n\x00\x1b[31m", "a____31m"),
        ("...", "student"),
        ("\udcff", "_"),
    ],
)
def test_an_id_is_made_safe(name, safe):
    assert safe_id(name) == safe


def test_long_names_stay_apart():
    one, other = safe_id("é" * 300 + "1"), safe_id("é" * 300 + "2")
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= 100


def test_unusable_names_are_kept_apart_and_noted(tmp_path, notebook):
    for name in (b"a+b", b"a*b", b"a_b", b".ada", b"Jos\xe9", "Jose\u0301".encode() + b" 2"):
        path = os.path.join(os.fsencode(tmp_path), name, TWO.folder.encode())
        os.makedirs(path)
        with open(os.path.join(path, b"x.ipynb"), "wb") as file:
            file.write(notebook())
    submissions, unplaced = take_in(tmp_path)
    assert sorted(one.student for one in submissions) == ["José", "José 2", "a_b", "a_b-2", "a_b-3", "ada"]
    noted = [one for one in submissions if any("cannot hold" in note for note in one.notes)]
    assert sorted(one.student for one in noted) == ["a_b-2", "a_b-3", "ada"]
    assert unplaced == []


def test_a_plain_name_keeps_its_id_whatever_others_are_called(tmp_path, notebook):
    put(tmp_path, {f"{name}/{TWO.folder}/x.ipynb": notebook() for name in ("a+b", "a_b")})
    assert [one.student for one in take_in(tmp_path)[0] if not any("cannot hold" in n for n in one.notes)] == ["a_b"]


def test_namesakes_are_told_apart_by_number(tmp_path, notebook):
    put(tmp_path, {f"doejane_{number}_777_hw.ipynb": notebook() for number in (11, 12)})
    submissions, _ = take_in(tmp_path)
    assert [one.student for one in submissions] == ["doejane 11", "doejane 12"]
    assert "Several students are called 'doejane'" in submissions[0].notes[-1]


def test_nobody_hands_in_under_anothers_name(tmp_path, notebook):
    """Names inside a student's own folder or zip are file names, whatever they look like."""
    mine = {
        f"bob+{TWO.folder}+2026-10-01 10:00:00 UTC+x/{TWO.folder}.ipynb": b"{}",
        f"bob/{TWO.folder}/{TWO.folder}.ipynb": b"{}",
        "bob_11_222_hw.ipynb": b"{}",
        "carol_12_223_hw.ipynb": b"{}",
        "hw.ipynb": notebook(2, 1),
        "timestamp.txt": b"2020-01-01 00:00:00 UTC",
    }
    for folder, others in (("plain", "{}/hw.ipynb"), ("moodle", "{}_1_assignsubmission_file_/hw.ipynb")):
        files = {others.format(name): notebook(2, 2) for name in ("bob", "carol", "dave")}
        own = others.format("ada").split("/")[0]
        put(tmp_path / folder, {**files, **{f"{own}/{name}": data for name, data in mine.items()}})
        submissions, _ = take_in(tmp_path / folder)
        got = {one.student: one.notebook for one in submissions}
        assert got == {"ada": notebook(2, 1), **dict.fromkeys(("bob", "carol", "dave"), notebook(2, 2))}
        if folder == "moodle":
            assert [one.submitted for one in submissions] == [None] * 4


def test_files_named_like_an_exports_are_files_in_a_students_folder(tmp_path, notebook):
    names = ("{}/hw_2026_100_final.ipynb", "{}/heights_2026_100_a.csv", "{}/weights_2026_101_b.csv", "{}/index.html")
    put(tmp_path, {name.format(one): notebook() for name in names[:1] for one in ("ada", "bob")})
    put(tmp_path, {name.format(one): b"1" for name in names[1:] for one in ("ada", "bob")})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", TWO.folder), ("bob", TWO.folder)]
    assert list(submissions[0].files) == ["heights_2026_100_a.csv", "index.html", "weights_2026_101_b.csv"]
    assert unplaced == []


def test_no_name_steers_a_terminal(tmp_path, notebook):
    put(tmp_path, {f"a\x1b[2J\nda/{TWO.folder}/\x1b]0;x.ipynb": notebook(), "\x1b[31m.txt": b""})
    submissions, unplaced = take_in(tmp_path)
    told = "".join([one.student for one in submissions] + submissions[0].notes + [path + why for path, why in unplaced])
    assert len(submissions) == len(unplaced) == 1
    assert told.isprintable()


def test_a_students_zip_does_not_tell_the_time(tmp_path, notebook):
    """Whoever made the zip set its clock; the platform's zip around it tells when it was handed in."""
    early = zipped({"hw.ipynb": notebook()}, when=(2020, 1, 1, 0, 0, 0))
    put(tmp_path / "folder", {"ada.zip": early, "bob.zip": early})
    assert [one.submitted for one in take_in(tmp_path / "folder")[0]] == [None, None]
    put(tmp_path, {"export.zip": zipped({"ada.zip": early, "bob.zip": early})})
    assert {one.submitted for one in take_in(tmp_path / "export.zip")[0]} == {"2026-10-01 12:00:00 UTC"}


# Zips


def test_a_zip_in_a_zip_in_a_zip_is_listed(tmp_path, notebook):
    inner = zipped({"deeper.zip": zipped({"hw.ipynb": notebook()}), "hw.ipynb": notebook()})
    put(tmp_path, {"export.zip": zipped({"ada.zip": inner})})
    submissions, unplaced = take_in(tmp_path / "export.zip")
    assert placed(submissions) == [("ada", TWO.folder)]
    assert unplaced == [("ada/deeper.zip", "a zip in a zip in a zip; unpack it")]


def test_paths_that_lead_out_and_links_in_a_zip_are_refused(tmp_path, notebook):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in ("../../evil.ipynb", "/etc/evil.ipynb", "C:\\evil.ipynb", "ada/../../x.ipynb", "ada/hw.ipynb"):
            archive.writestr(zipfile.ZipInfo(name), notebook())
        link = zipfile.ZipInfo("ada/link.ipynb")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    put(tmp_path, {"x.zip": held.getvalue()})
    submissions, unplaced = take_in(tmp_path / "x.zip")
    assert placed(submissions) == [("ada", TWO.folder)]
    assert sorted(why for _, why in unplaced) == ["a link, which is not followed"] + 4 * [
        "its path leads out of the zip"
    ]


def test_a_bomb_is_refused_and_the_rest_is_taken(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr(gathering, "LARGEST_FILE", 2**20)
    bomb = zipped({"hw.ipynb": b"\0" * (4 * 2**20)})
    put(tmp_path, {"ada.zip": bomb, "bob.zip": zipped({"hw.ipynb": notebook()})})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("bob", TWO.folder)]
    assert unplaced == [("ada.zip", "the zip unpacks to more than it plausibly holds (4 MiB from 0.0)")]


def test_a_zip_that_lies_about_its_size_is_read_no_further(tmp_path, notebook, monkeypatch):
    data = bytearray(zipped({"ada/hw.ipynb": b"\0" * (4 * 2**20)}))
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = (1000).to_bytes(4, "little")  # the size that the zip's table claims
    put(tmp_path, {"x.zip": bytes(data)})
    submissions, unplaced = take_in(tmp_path / "x.zip", [TWO.folder])
    assert sum(len(one.notebook) for one in submissions) <= 1000
    assert len(submissions) + len(unplaced) == 1


def test_all_zips_together_have_a_limit(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr(gathering._Budget, "left", len(notebook()) + 1)
    put(tmp_path, {f"{name}.zip": zipped({"hw.ipynb": notebook()}) for name in ("ada", "bob", "eve")})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("ada", TWO.folder), ("bob", TWO.folder)]
    assert "hand them over in parts" in unplaced[0][1]


def test_broken_and_locked_zips_are_listed(tmp_path, notebook):
    good = zipped({"hw.ipynb": notebook()})
    locked, damaged = bytearray(good), bytearray(good)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.rindex(mark) + place] |= 1
    damaged[200:300] = b"x" * 100
    put(tmp_path, {"a.zip": b"PK no zip", "b.zip": bytes(locked), "c.zip": bytes(damaged), "d.zip": good})
    submissions, unplaced = take_in(tmp_path)
    assert placed(submissions) == [("d", TWO.folder)]
    assert [path for path, _ in unplaced] == ["a.zip", "b/hw.ipynb", "c/hw.ipynb"]
    assert "cannot be read" in unplaced[0][1] and "password" in unplaced[1][1] and "cannot be read" in unplaced[2][1]


def test_names_in_old_zips_are_read(tmp_path, notebook):
    """UTF-8 that is not declared, backslashes between folders."""
    data = zipped({"Zo__\\hw.ipynb": notebook()}).replace(b"Zo__", "Zoë".encode())
    put(tmp_path, {"x.zip": data})
    assert placed(take_in(tmp_path / "x.zip")[0]) == [("Zoë", TWO.folder)]


def test_a_huge_file_is_read_no_further_than_it_takes_to_refuse_it(tmp_path):
    path = put(tmp_path / "ada" / TWO.folder, {"x.ipynb": b"{"}) / "x.ipynb"
    os.truncate(path, LARGEST_FILE + 10)
    (submission,), _ = take_in(tmp_path)
    assert len(submission.notebook) == LARGEST_FILE + 1
    assert "only its beginning was read" in submission.notes[-1]


# Times


@pytest.mark.parametrize(
    "text, time",
    [
        ("2026-10-01 12:00:00.123456 UTC", "2026-10-01 12:00:00 UTC"),
        ("2026-10-01 12:00:00 +0200", "2026-10-01 10:00:00 UTC"),
        ("2026-10-01-12-30-05", "2026-10-01 12:30:05 UTC"),
        ("Oct 1, 2026 905 PM", "2026-10-01 21:05:00 UTC"),
        ("", None),
        (None, None),
        ("yesterday", None),
        ("9" * 70, None),
        ("2026-10-01 12:00:00 " + "x" * 100, None),
    ],
)
def test_a_time_is_read_or_is_none(text, time):
    assert time_of(text) == time
