"""Each export against the rules of the system that reads it, written here from that system's public documentation."""

import csv
import io
import json
import re
from datetime import UTC, datetime

import pytest

from autograder.grading.results import FAILED, MISSING, ClassRun, Graded, Mark, Reading, from_json
from autograder.reports import canvas, classroom50, everything, github_summary, gradescope, spreadsheet
from autograder.reports.class_numbers import scored, statuses
from tests.sample_run import class_run, eventful

RUNNER = {
    "CLASSROOM": "attention-2026",
    "ASSIGNMENT": "chapter-02",
    "SUBMISSION_TAG": "submit/2026-10-01T12-00-00Z-a1b2c3d",
    "COMMIT_URL": "https://example.org/commit/a1b2c3d",
    "RELEASE_URL": "https://example.org/releases/tag/x",
    "REVIEW_URL": "https://example.org/compare/a...b",
}
NASTY = '=HYPERLINK("x"),\n\'<b>|&`*_[a](b)\udc80\0'


@pytest.fixture(scope="module")
def run():
    return eventful(class_run())


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def one_graded(*earned, points=4, **fields):
    marks = [Mark(f"2.{n}", f"exercise {n}", points, value) for n, value in enumerate(earned, 1)]
    return Graded("ada", "02_scaled_dot_product", marks=marks, **fields)


# CSV


def test_grades_csv_has_a_row_for_every_student_and_chapter(run):
    rows = rows_of(spreadsheet.grades(run))
    assert len(rows) == len(run.students) * len(run.chapters)
    found = {(row["student"], row["chapter"]): row for row in rows}
    for one in run.graded:
        row = found[one.student, one.chapter]
        assert row["status"] == one.status
        assert row["score"] == ("" if not scored(one) else f"{one.score:.10g}")


def test_a_failed_or_missing_submission_has_an_empty_score(run):
    rows = rows_of(spreadsheet.grades(run))
    without = [row for row in rows if row["status"] in (FAILED, MISSING)]
    assert without and all(row["score"] == row["max score"] == "" for row in without)
    assert any(row["reason"] == "the file is no notebook" for row in without)


def test_exercises_csv_has_a_row_for_every_mark_and_written_question(run):
    rows = rows_of(spreadsheet.exercises(run))
    assert len(rows) == sum(len(one.marks) + len(one.readings) for one in run.graded)
    assert {row["status"] for row in rows} >= {"judged", "not attempted", "read", "waits for a reader"}
    assert all(row["score"] == "" for row in rows if row["status"] == "waits for a reader")


def test_every_field_is_quoted(run):
    for text in (spreadsheet.grades(run), spreadsheet.exercises(run), canvas.export(run).text):
        assert re.fullmatch(r'(?:"(?:[^"]|"")*"(?:,|\r\n))+', text)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝", "\u00a0@"])
def test_no_text_begins_as_a_formula(start):
    name = f"{start}SUM(1)"
    run = ClassRun("c", ["01_soft_lookup"], [name], [Graded(name, "01_soft_lookup", FAILED, name)])
    texts = spreadsheet.grades(run), canvas.export(ClassRun("c", [], [name], [])).text
    for text in texts:
        fields = [field for row in csv.reader(io.StringIO(text, newline="")) for field in row]
        assert any(name in field for field in fields)
        assert not any(field.strip(" \t\r\n\u00a0").startswith(tuple("=+-@＝")) for field in fields)


def test_odd_names_survive_every_export_as_utf8(tmp_path):
    marks = [Mark(NASTY, NASTY, 4, 2, mistakes=[NASTY], messages=[NASTY])]
    one = Graded(NASTY, "01_soft_lookup", reason=NASTY, marks=marks, notes=[NASTY])
    run = ClassRun(NASTY, ["01_soft_lookup"], [NASTY], [one], [(NASTY, NASTY)])
    spreadsheet.write(run, tmp_path)
    canvas.write(run, tmp_path / "canvas.csv")
    everything.write(run, tmp_path / "all.json")
    gradescope.write(one, tmp_path / "results.json")
    classroom50.write(one, tmp_path / "result.json", RUNNER)
    github_summary.append(github_summary.text(run) + github_summary.one(one), tmp_path / "summary.md")
    assert len(list(tmp_path.iterdir())) == 7
    for path in tmp_path.iterdir():
        path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "all.json").read_text())["students"] == [NASTY]


# Canvas

ROSTER = '''\ufeff"Student","ID","SIS User ID","SIS Login ID","Section","01 soft lookup (77)","Quiz (78)","Final Score"
,,,,,Manual Posting,,
"    Points Possible","","","","",34.00,5.00,"(read only)"
"Lovelace, Ada","101","u1","ada","A","","",""
"Turing, Alan","102","alan","at@example.org","A","","",""
"barbara","103","u3","x","B","","",""
"claude","104","u4","y","B","","",""
"claude","105","u5","z","B","","",""
"=""=Evil""","donald","u6","w","B","","",""
"Student, Test","106","","test","A","","",""
'''


class CanvasImporter:
    """What Canvas's gradebook import makes of a file: `lib/gradebook_importer.rb`, in the order in which it works."""

    def __init__(self, text):
        header, *rows = csv.reader(io.StringIO(text))
        assert len(header) > 3 and "Student" in header[0] and "ID" in header[1]
        columns = 3
        if re.search(r"SIS\s+Login\s+ID", header[2]):
            columns += 1
        elif re.search(r"SIS\s+User\s+ID", header[2]) and re.search(r"SIS\s+Login\s+ID", header[3]):
            columns += 2
        assert "Section" in header[columns - 1]
        assert all(len(row) == len(header) for row in rows)
        self.titles = header[columns:]
        self.possible, self.students = {}, []
        for row in rows:
            if "Points Possible" in row[0]:
                self.possible = dict(zip(self.titles, row[columns:], strict=True))
            else:
                identity = dict(zip(("name", "id", "user", "login"), row, strict=False))
                self.students.append((identity, dict(zip(self.titles, row[columns:], strict=True))))


def test_canvas_reads_the_import_file(run):
    read = CanvasImporter(canvas.export(run).text)
    assert read.titles == run.chapters
    assert [identity["login"] for identity, _ in read.students] == run.students
    assert all(re.fullmatch(r"\d+\.\d\d", points) for points in read.possible.values())
    for identity, scores in read.students:
        for chapter, score in scores.items():
            one = run.of(identity["login"], chapter)
            assert score == (f"{one.score:.2f}" if scored(one) else "")


def test_canvas_finds_students_as_its_importer_does(run):
    made = canvas.export(run, ROSTER)
    found = {identity["id"]: scores for identity, scores in CanvasImporter(made.text).students}
    assert set(found) == {"101", "102", "103", "donald"}  # by login, by SIS user, by exact name, by ID
    assert found["101"]["01 soft lookup (77)"] == f"{run.of('ada', '01_soft_lookup').score:.2f}"


def test_a_student_unknown_to_canvas_is_named_and_not_guessed(run, tmp_path):
    unknown = canvas.write(run, tmp_path / "canvas.csv", ROSTER)
    assert "claude" in unknown, "two people have this name, and nobody can tell which one is meant"
    assert "zoe" in unknown and "ada" not in unknown
    assert len(unknown) == len(run.students) - 4


def test_canvas_keeps_the_title_and_number_of_a_chapter_it_knows(run):
    titles = CanvasImporter(canvas.export(run, ROSTER).text).titles
    assert titles == ["01 soft lookup (77)" if one == "01_soft_lookup" else one for one in run.chapters]


def test_canvas_gets_no_column_without_a_score():
    run = ClassRun("c", ["00_start_here", "01_soft_lookup"], ["ada"], [Graded("ada", "00_start_here", FAILED, "x")])
    assert CanvasImporter(canvas.export(run, ROSTER).text).titles == []


def test_two_students_never_share_an_entry_of_the_roster():
    run = ClassRun("c", [], ["101", "ada"], [])
    made = canvas.export(run, ROSTER)
    assert made.unknown == ["ada"] and len(CanvasImporter(made.text).students) == 1


def test_a_roster_with_semicolons_is_read_as_well(run):
    assert canvas.export(run, ROSTER.replace('","', '";"')).unknown == canvas.export(run, ROSTER).unknown


@pytest.mark.parametrize("text", ["", "name,mail\nada,a@b", "{}"])
def test_a_file_that_is_no_gradebook_is_refused_with_its_header(text):
    with pytest.raises(ValueError, match="no gradebook exported from Canvas"):
        canvas.export(ClassRun("c", [], [], []), text)


# Gradescope

VISIBILITY = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
TOP = {
    "score": float,
    "execution_time": int,
    "output": str,
    "output_format": FORMATS,
    "test_output_format": FORMATS,
    "visibility": VISIBILITY,
    "stdout_visibility": VISIBILITY,
    "extra_data": dict,
    "tests": list,
}
TEST = {
    "score": (int, float),
    "max_score": (int, float),
    "status": {"passed", "failed"},
    "name": str,
    "number": str,
    "output": str,
    "tags": list,
    "visibility": VISIBILITY,
}


def assert_fits(entry, fields):
    assert set(entry) <= set(fields)
    for name, value in entry.items():
        kind = fields[name]
        assert value in kind if isinstance(kind, set) else isinstance(value, kind), (name, value)


def test_gradescope_reads_the_results_of_every_submission(run):
    for one in run.graded:
        results = json.loads(gradescope.text(one))
        assert_fits(results, TOP)
        assert "score" in results, "it is required where a test has none, and overrides the tests' total"
        for test in results["tests"]:
            assert_fits(test, TEST)
            assert {"score", "max_score", "name", "number"} <= set(test)
        assert results["score"] == round(one.score, 2)


def test_gradescope_shows_the_diagnosis_and_not_the_seed(run):
    one = next(one for one in run.graded if any(mark.mistakes for mark in one.marks))
    text = gradescope.text(one)
    mark = next(mark for mark in one.marks if mark.mistakes)
    test = next(test for test in json.loads(text)["tests"] if test["number"] == mark.exercise)
    assert mark.messages[0] in test["output"] and test["tags"] == mark.mistakes
    assert str(one.stamp.seed) not in text


def test_gradescope_says_why_a_failed_submission_has_no_points():
    results = json.loads(gradescope.text(Graded("zoe", "01_soft_lookup", FAILED, "the file is empty")))
    assert results["score"] == 0 and "the file is empty" in results["output"] and "not the same" in results["output"]


def test_gradescope_takes_the_late_penalty_from_the_score_and_names_it():
    results = json.loads(gradescope.text(one_graded(4, 2, late_penalty=1.5, late_seconds=60)))
    assert results["score"] == 4.5 and "1.5 points are taken off" in results["output"]


# Classroom 50


def assert_contract(result):
    """The table of fields in Classroom 50's documentation; the runner itself stamps the others."""
    texts = ("schema", "classroom", "assignment", "submission", "commit", "release", "review", "datetime")
    assert set(result) == {*texts, "score", "max-score", "tests"}
    assert result["schema"] == "classroom50/result/v1"
    assert all(isinstance(result[name], str) and result[name] for name in texts)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result["datetime"])
    for test in result["tests"]:
        assert set(test) == {"test-name", "passed", "score", "max-score"}
        assert isinstance(test["test-name"], str) and test["test-name"] and type(test["passed"]) is bool
        assert type(test["score"]) is type(test["max-score"]) is int and 0 <= test["score"] <= test["max-score"]
    for name in ("score", "max-score"):
        assert type(result[name]) is int and result[name] == sum(test[name] for test in result["tests"])


def test_classroom50_reads_the_result_of_every_submission(run):
    for one in run.graded:
        result = json.loads(classroom50.text(one, RUNNER))
        assert_contract(result)
        if scored(one):
            assert abs(result["score"] - one.score) < 1
    assert result["classroom"] == "attention-2026" and result["release"] == RUNNER["RELEASE_URL"]


def test_classroom50_takes_the_time_of_the_submission_that_it_is_given():
    result = json.loads(classroom50.text(one_graded(4), RUNNER, now=datetime(2026, 10, 1, 12, tzinfo=UTC)))
    assert result["datetime"] == "2026-10-01T12:00:00Z"


def test_classroom50_rounds_and_takes_a_penalty_from_whole_tests():
    readings = [Reading("2.w", "why", 4, 2.5), Reading("2.x", "how", 4)]
    result = json.loads(classroom50.text(one_graded(4, 1, late_penalty=4.4, readings=readings), RUNNER))
    assert_contract(result)
    assert [test["score"] for test in result["tests"]] == [4, 0, 0]
    assert result["max-score"] == 12, "an unread answer does not count yet"


def test_classroom50_falls_back_to_the_commit_where_there_is_no_review():
    result = json.loads(classroom50.text(one_graded(4), {**RUNNER, "REVIEW_URL": ""}))
    assert result["review"] == RUNNER["COMMIT_URL"]


def test_classroom50_names_the_variables_that_are_not_set():
    with pytest.raises(KeyError, match="ASSIGNMENT, RELEASE_URL"):
        classroom50.text(one_graded(4), {**RUNNER, "ASSIGNMENT": "", "RELEASE_URL": ""})


# JSON and GitHub


def test_the_json_export_reads_back_as_the_same_run(run):
    text = everything.text(run)
    assert from_json(ClassRun, text) == run
    data = json.loads(text)
    for one, entry in zip(run.graded, data["graded"], strict=True):
        assert entry["score"] == (one.score if scored(one) else None)


def test_the_class_summary_counts_and_names_nobody(run):
    text = github_summary.text(run)
    assert f"{len(run.students)} students" in text and f"| missing | {statuses(run)[MISSING]} |" in text
    for student in run.students:
        assert not re.search(rf"\b{student}\b", text)


def test_a_students_summary_holds_the_diagnosis(run):
    one = next(one for one in run.graded if any(mark.messages for mark in one.marks))
    text = github_summary.one(one)
    mark = next(mark for mark in one.marks if mark.messages)
    assert github_summary.escaped(mark.messages[0]) in text
    assert "no score" in github_summary.one(Graded("a", "01_soft_lookup", FAILED, "the file is empty"))


@pytest.mark.parametrize("words", ["a|b", "<img src=x>", "![x](http://e/i)", "`a`", "# x\n- y", "__x__", "www.e.org"])
def test_nothing_in_a_summary_is_markdown_but_ours(words):
    run = ClassRun(words, ["01_soft_lookup"], ["a"], [Graded("a", "01_soft_lookup", marks=[Mark("1.1", words, 4, 2)])])
    for text in (github_summary.text(run), github_summary.one(run.graded[0])):
        assert words not in text
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in table} <= {3, 4}
    assert re.fullmatch(r"(?:[^\W_]|\s|&#\d+;)*", github_summary.escaped(words))


def test_a_summary_stays_below_githubs_limit():
    marks = [Mark(f"2.{n}", "x" * 5000, 4, 2) for n in range(500)]
    made = github_summary.one(Graded("a", "02", marks=marks))
    assert len(made.encode()) < 2**20 and made.rstrip().endswith("summary.")
