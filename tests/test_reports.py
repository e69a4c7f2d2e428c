"""Feedback pages and class reports as text. What they do in a browser is in test_reports_browser.py."""

import copy
import html as entities
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat import v4

from autograder import build, card
from autograder.exercise import chapters, load_chapter
from autograder.grading import policy
from autograder.grading.breaches import breach
from autograder.grading.results import FAILED, MISSING, Breach, ClassRun, Criterion, Flag, Graded, Mark, Reading
from autograder.judge import judge
from autograder.notebook import SEED
from autograder.reports import class_numbers as numbers
from autograder.reports import class_report, feedback
from autograder.reports.clean import AS_SOURCE, LARGEST_MARKDOWN, clean_notebook
from autograder.reports.mathml import mathml
from autograder.reports.notebook_html import LONGEST_TEXT, markdown
from autograder.reports.safe_html import is_safe, made_safe
from autograder.runner import run_case
from tests.html_attacks import ATTACKER, HTML, MARKDOWN, RUN, hostile_notebook
from tests.sample_run import class_run, eventful, graded_of, mark

VOID = {"br", "col", "hr", "img", "meta", "link", "input"}
NASTY = f"<script>{RUN}</script>\"' & `x` \udc80 \0 ../"


class Page(HTMLParser):
    """A page taken apart: its tags in order with attributes, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.nests = [], [], True
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.nests = self.nests and bool(self.open) and self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def words(page):
    """The text of a page, without its tags, styles and scripts."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(entities.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def run():
    return eventful(class_run())


@pytest.fixture(scope="module")
def graded():
    """One student of chapter 2 with something of everything."""
    one = next(one for one in class_run().graded if one.chapter.startswith("02") and one.score < one.max_score / 1.5)
    one.readings[0].earned = None
    one.breaches.append(breach("too slow", "2.4", "while True:", seconds=20))
    one.notes.append("a copy of cell `check-2-1` was left out")
    one.late_seconds, one.late_penalty = 93_600.0, 1.5
    return one


@pytest.fixture(scope="module")
def notebook():
    """The released chapter 2, with an output under the first answer and a secret under its check."""
    released = nbformat.reads(build.release_bytes("02_scaled_dot_product").decode(), 4)
    for cell in released.cells:
        if cell.id == "exercise-2-1":
            cell.outputs = [v4.new_output("stream", text="printed by the student")]
        if cell.id == "check-2-1":
            cell.outputs = [v4.new_output("display_data", {"text/html": "the seed is 424242", "text/plain": "0.0"})]
    return released


# Feedback


def test_feedback_says_all_that_the_marks_hold(graded):
    said = words(feedback.html(graded))
    for one in graded.marks:
        assert f"{one.exercise} {one.title}" in said
        for criterion in one.criteria:
            assert criterion.sentence.replace("`", "") in said
            assert " ".join(criterion.because.replace("`", "").split()) in said
        assert all(" ".join(text.replace("`", "").split()) in said for text in one.messages)
        assert one.hint in said
    assert "a copy of cell check-2-1 was left out" in said
    assert "Too slow" in said and "stopped after 20 seconds" in said
    assert "1 day 2 h late, which takes off 1.5 points" in said
    assert "waits for a reader" in said
    assert "points so far" in said


def test_a_read_answer_shows_its_points_and_the_comment(graded):
    reading = Reading("2.w", "Is the division cosmetic?", 4, 3.0, "Name what <you> assume.")
    page = feedback.html(Graded("ada", graded.chapter, marks=graded.marks, readings=[reading]))
    assert "3 of 4 points" in words(page) and "Name what <you> assume." in words(page)
    assert "waits for a reader" not in words(page) and "so far" not in words(page)


@pytest.mark.parametrize("status", [FAILED, MISSING])
def test_without_a_grade_there_is_no_score_and_no_zero(status):
    said = words(feedback.html(Graded("ada", "02_scaled_dot_product", status, "the file is empty")))
    assert "no score" in said and "not the same as 0 points" in said
    assert not re.search(r"\b0 of \d", said)


def test_feedback_links_each_exercise_with_its_answer_and_back(graded, notebook):
    page = Page(feedback.html(graded, notebook))
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    targets = [attributes["href"][1:] for attributes in page.of("a") if attributes["href"].startswith("#")]
    assert {"cell-exercise-2-1", "mark-2-1", "cell-written-2-w"} <= set(targets)
    assert set(targets) <= set(ids) and len(ids) == len(set(ids))


def test_feedback_shows_the_students_outputs_and_no_output_of_a_graded_check(graded, notebook):
    page = feedback.html(graded, notebook)
    assert "printed by the student" in page
    assert "424242" not in page


def test_feedback_shows_no_seed(graded):
    assert str(graded.stamp.seed) not in feedback.html(graded)


def test_mathematics_is_set_without_a_script(graded, notebook):
    page = feedback.html(graded, notebook)
    assert page.count("<math ") >= 2 and "$$" not in page


@pytest.mark.parametrize("name", ["feedback", "report"])
def test_pages_are_accessible(name, graded, notebook, run):
    text = feedback.html(graded, notebook) if name == "feedback" else class_report.html(run)
    page = Page(text)
    assert page.nests and not page.open
    assert page.of("html") == [{"lang": "en"}] and len(page.of("main")) == len(page.of("header")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(attributes.get("alt") for attributes in page.of("img"))
    assert all(attributes.get("aria-label") for attributes in page.of("svg"))
    assert all(attributes.get("scope") for attributes in page.of("th"))
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert not attributes.get("aria-labelledby") or attributes["aria-labelledby"] in ids


@pytest.mark.parametrize("name", ["feedback", "report"])
def test_pages_ask_for_nothing(name, graded, notebook, run):
    text = feedback.html(graded, notebook) if name == "feedback" else class_report.html(run)
    page = Page(text)
    policy = next(one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe-inline'" not in policy.partition("script-src")[2]
    assert not page.of("link") and not page.of("iframe")
    assert all(one["src"].startswith("data:image/") for one in page.of("img"))
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.of("script")) == (name == "report")


def test_names_and_messages_are_text_wherever_they_come_from():
    """Everything that a student chooses: names, ids, files, first lines, and all that follows from them."""
    marks = [Mark(NASTY, NASTY, 2, 1, NASTY, [Criterion(NASTY, 2, 1, NASTY)], [NASTY], [NASTY], NASTY)]
    one = Graded(NASTY, NASTY, "graded", NASTY, marks, [Reading(NASTY, NASTY, 4, None, NASTY)], submitted=NASTY)
    one.breaches, one.notes = [Breach(NASTY, NASTY, NASTY, NASTY)], [NASTY]
    one.flags = [Flag(NASTY, NASTY, NASTY, [NASTY])]
    other = Graded("b", NASTY, FAILED, NASTY)
    run = ClassRun(NASTY, [NASTY], [NASTY, "b"], [one, other], [(NASTY, NASTY)], NASTY)
    for page in (feedback.html(one), feedback.html(other), class_report.html(run)):
        page.encode("utf-8")
        assert f"<script>{RUN}" not in page and "&lt;script&gt;" in page
        parsed = Page(page)
        assert parsed.nests and not parsed.open
        assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


# What is safe to show


@pytest.mark.parametrize("name", HTML)
def test_hostile_html_becomes_safe_and_stays_so(name):
    assert not is_safe(HTML[name])
    made = made_safe(HTML[name])
    assert is_safe(made) and made_safe(made) == made


@pytest.mark.parametrize("name", MARKDOWN)
def test_hostile_markdown_is_shown_without_its_effect(name):
    made = str(markdown(MARKDOWN[name]))
    plain = re.sub(r"<(math|code)\b.*?</\1>", "", made, flags=re.DOTALL)
    assert is_safe(plain)
    assert not re.search(r"<[^>]*(javascript:|onerror=|data:text|<math)", made)


@pytest.mark.parametrize(
    "text",
    [
        "</div>",
        "<div>",
        "<b><i></b></i>",
        r"$\href{x}{y}$",
        r"$\&#104;ref{x}{y}$",
        r"$\hr<b></b>ef{x}{y}$",
        "<p\nclass='x'>y</p>",
        "<p class=highlight>x</p>",
        '<h2 id="written-2-w-comment">x</h2>',
        '<a href="//elsewhere.invalid">x</a>',
        "a < b",
    ],
)
def test_what_could_leave_its_box_or_be_read_in_two_ways_is_not_safe(text):
    assert not is_safe(text) and is_safe(made_safe(text))


def test_formgraders_mathematics_is_given_no_command_that_reaches_out():
    reaching = r"\href{javascript:1}{x}"
    output = v4.new_output("display_data", {"text/latex": f"${reaching}$", "text/plain": "x"})
    cells = [v4.new_markdown_cell(f"${reaching}$"), v4.new_code_cell("", outputs=[output])]
    cleaned = clean_notebook(v4.new_notebook(cells=cells)).cells
    assert cleaned[0].source.startswith(AS_SOURCE) and f"```\n${reaching}$\n```" in cleaned[0].source
    assert cleaned[1].outputs[0].data == {"text/plain": "x"}


def test_the_courses_own_cards_pass_as_they_are():
    for exercise in load_chapter(2).exercises.values():
        answer = exercise.mistakes[0].answer
        report = judge(exercise, SEED, [run_case(exercise, answer, case.arguments) for case in exercise.cases(SEED)])
        report.printed = "<b>printed</b>"
        shown = card.as_html(report, f'hint("{exercise.id}") gives the first of 3 hints.')
        assert "<table" in shown or exercise.id != "2.1"
        assert made_safe(shown) == shown
    shown = card.plain_html("Hint 1 of 3", "Take `x` & y < 3", edge="full")
    assert made_safe(shown) == shown


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("<p>one<br>two</p>", "<p>one<br>two</p>"),
        ('<style scoped>\n.dataframe { color: red }\n</style><table border="1" class="dataframe"></table>', None),
        ("<p>one<p>two", "<p>one</p><p>two</p>"),
        ('<font color="red">red</font>', "red"),
        ('<a href="https://example.org/a?b=1" target="_blank">x</a>', '<a href="https://example.org/a?b=1">x</a>'),
        ('<p style="color:red;position:fixed">x</p>', "<p>x</p>"),
    ],
)
def test_harmless_html_keeps_what_can_be_kept(given, left):
    assert made_safe(given) == (left or '<table border="1" class="dataframe"></table>')


def test_a_long_hostile_output_costs_no_time_and_is_shown_as_text():
    assert made_safe("<a " * 1_000_000).startswith("<pre>&lt;a &lt;a")


@pytest.mark.parametrize("chapter", list(chapters()))
def test_a_released_notebook_is_shown_as_it_is(chapter):
    released = nbformat.reads(build.release_bytes(load_chapter(chapter).folder).decode(), 4)
    cleaned = clean_notebook(released)
    link = re.compile(r"\[([^]]+)\]\(\.\./(?:glossary|map)\.ipynb[^)]*\)")  # leads nowhere from there; the words stay
    assert [cell.source for cell in cleaned.cells] == [link.sub(r"\1", cell.source) for cell in released.cells]
    assert not any("glossary.ipynb" in cell.source for cell in cleaned.cells)
    assert [cell.id for cell in cleaned.cells] == [cell.id for cell in released.cells]
    mine = [cell.metadata.get("nbgrader") for cell in cleaned.cells]
    assert mine == [cell.metadata.get("nbgrader") for cell in released.cells]
    assert sum(len(cell.source) for cell in released.cells) < 100_000


def test_whatever_a_notebook_holds_a_valid_one_is_made():
    made = clean_notebook(hostile_notebook())
    nbformat.validate(made)
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    for cell in made.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            assert is_safe(html) and ATTACKER not in "".join(re.findall("<[^>]*>", html))


def test_cleaning_leaves_the_given_notebook_alone():
    given = hostile_notebook()
    before = copy.deepcopy(given)
    clean_notebook(given)
    assert given == before


def test_markdown_that_may_not_be_shown_is_shown_as_its_source():
    source = "# Mine\n\n```\ncode\n```\n<img src='x'>"
    cleaned = clean_notebook(v4.new_notebook(cells=[v4.new_markdown_cell(source)])).cells[0].source
    assert cleaned.startswith(AS_SOURCE) and f"````\n{source}\n````" in cleaned


def test_a_copy_names_the_other_students_once(run):
    run = copy.deepcopy(run)
    long = (
        "def softmax(x):\n"
        + "".join(f"    y{n} = x * {n} + {n + 1} - x ** {n}\n" for n in range(40))
        + "    return y39"
    )
    flagged = policy.copies({("ada", "2.1"): long, ("emmy noether", "2.1"): long}, {})
    run.graded[0].flags = [flag for student, flag in flagged if student == "ada"]
    assert run.graded[0].flags and class_report.html(run).count("emmy noether") == 1


def test_links_into_the_course_become_their_words_and_others_stay():
    typed = "[softmax](../glossary.ipynb#softmax), [a map](../map.ipynb) and [mine](https://example.org)"
    cleaned = clean_notebook(v4.new_notebook(cells=[v4.new_markdown_cell(typed)])).cells[0].source
    assert cleaned == "softmax, a map and [mine](https://example.org)"


def test_markdown_beyond_the_budget_is_shown_as_its_source_and_later_cells_still_appear():
    cells = [v4.new_markdown_cell(f"{n} " + "x " * (LARGEST_MARKDOWN // 2 - 10)) for n in range(40)]
    made = clean_notebook(v4.new_notebook(cells=cells)).cells
    assert made[0].source == cells[0].source
    assert made[-1].source.startswith(AS_SOURCE) and cells[-1].source in made[-1].source


def test_a_flood_of_output_is_cut_and_says_so(graded):
    flood = v4.new_output("stream", text="x" * 5_000_000)
    page = feedback.html(graded, v4.new_notebook(cells=[v4.new_code_cell("print()", outputs=[flood] * 50)]))
    assert len(page) < 45 * LONGEST_TEXT and "5,000,000 characters" in page and "10 more outputs" in page


@pytest.mark.parametrize(
    "latex",
    [
        r"\href{javascript:1}{x}",
        r"\style{color:red}{x}",
        "{" * 3000,
        r"\frac{1}",
        "\0",
        r"\unknown{",
        "x" * 5000,
        "&<>",
    ],
)
def test_odd_latex_still_gives_something_to_read(latex):
    made = mathml(latex)
    assert made.startswith(("<math ", "<code>")) and "href=" not in made and "style=" not in made


# The class report


def test_the_report_counts_and_names(run):
    said = words(class_report.html(run))
    counts = numbers.statuses(run)
    assert sum(counts.values()) == len(run.students) * len(run.chapters)
    for status, count in counts.items():
        assert f"{count} {status}" in said
    assert all(student in said for student in run.students)
    assert "could not be graded: the file is no notebook" in said
    assert "homework(2).docx" in said
    assert "as another student" in said and "too slow" in said
    assert "Graded with sandbox: namespaces" in said


def test_the_most_frequent_mistake_comes_first_with_its_count_and_message():
    mistake = load_chapter(2).exercises["2.1"].mistakes[0]
    common = mark(2, "2.1", mistake.answer)
    graded = [Graded(f"s{n}", "02_scaled_dot_product", marks=[common]) for n in range(3)]
    rare = next(one for one in load_chapter(2).exercises["2.1"].mistakes if one is not mistake)
    graded.append(Graded("s3", "02_scaled_dot_product", marks=[mark(2, "2.1", rare.answer)]))
    graded.append(Graded("s4", "02_scaled_dot_product", marks=[mark(2, "2.1", None)]))
    run = ClassRun("c", ["02_scaled_dot_product"], [one.student for one in graded], graded)
    first = numbers.mistakes(run)[0]
    assert (first.name, len(first.students), first.answers) == (mistake.name, 3, 4)
    assert first.message == mistake.message
    said = words(class_report.html(run))
    assert said.index(mistake.name.replace("_", " ")) < said.index(rare.name.replace("_", " "))


def score_marks(*earned):
    return [Mark(f"1.{n}", f"exercise {n}", 4, points) for n, points in enumerate(earned, 1)]


def class_of(rows):
    graded = [Graded(f"s{n:02d}", "01_soft_lookup", marks=score_marks(*row)) for n, row in enumerate(rows)]
    return ClassRun("c", ["01_soft_lookup"], [one.student for one in graded], graded)


def test_discrimination_is_the_correlation_with_the_other_exercises():
    rows = [(4, 4, 0), (3, 4, 1), (1, 0, 3), (0, 0, 4)] * 5
    first = numbers.exercises(class_of(rows))[0]
    # By hand: the first's rests are 4, 5, 3, 4 (mean 4); deviations 2, 1, -1, -2 with 0, 1, -1, 0: 2 / √(10 · 2).
    assert first.discrimination == pytest.approx(2 / 20**0.5)
    assert first.mean == 0.5


@pytest.mark.parametrize(
    "rows", [[(4, 1), (1, 4)] * 9, [(2, 2)] * 30, [(2, n % 4) for n in range(30)]], ids=["few", "equal", "one equal"]
)
def test_discrimination_is_not_shown_where_it_means_nothing(rows):
    assert numbers.exercises(class_of(rows))[0].discrimination is None
    assert class_report.html(class_of(rows))


def test_students_who_need_help_are_listed_with_their_reasons(run):
    needs = {need.student: need for need in numbers.needs(run)}
    assert needs["zoe"].failed and needs["zoe"].missing
    assert any(need.breaches for need in needs.values())
    assert all(need.low == (need.share is not None and need.share < numbers.LOW) for need in needs.values())
    best = max(run.students, key=lambda name: sum(one.score for one in run.graded if one.student == name))
    assert best not in needs


def test_an_unread_answer_lowers_nobodys_share():
    marks = score_marks(4, 4)
    waiting = Graded("a", "01_soft_lookup", marks=marks, readings=[Reading("1.w", "why", 4)])
    assert numbers.share(waiting) == 1.0


def test_those_stuck_on_one_exercise_are_found_together():
    run = class_of([(0, 4), (0, 4), (4, 0), (4, 4)])
    assert numbers.stuck(run) == {("1.1", "exercise 1"): ["s00", "s01"]}


@pytest.mark.parametrize(
    "run",
    [
        class_of([(4, 2)]),
        class_of([(4, 2), (4, 2), (4, 2)]),
        ClassRun("c", ["01_soft_lookup"], [], []),
        ClassRun("c", ["01_soft_lookup"], ["a"], []),
        ClassRun("c", [], [], []),
        ClassRun("c", ["01_soft_lookup"], ["a"], [Graded("a", "01_soft_lookup", FAILED, "broken")]),
        ClassRun("c", ["01_soft_lookup"], ["a"], [Graded("a", "01_soft_lookup")]),
        ClassRun("c", ["01_soft_lookup"], [], [Graded("b", "09_elsewhere", marks=score_marks(1, 2))]),
        ClassRun("c", ["01_soft_lookup"], ["a"], [Graded("a", "01_soft_lookup", marks=[Mark("1.1", "$x$ 注意", 0)])]),
    ],
    ids=[
        "one",
        "equal",
        "nobody",
        "none handed in",
        "no chapters",
        "failed",
        "no marks",
        "not on the roster",
        "no points",
    ],
)
def test_a_report_is_made_of_any_class(run):
    page = Page(class_report.html(run))
    assert page.nests and len(page.of("h1")) == 1


def test_a_missing_submission_is_no_zero_in_the_table():
    run = class_of([(4, 4)])
    run.students.append("absent")
    row = re.search(r'<th scope="row">absent</th>(.*?)</tr>', class_report.html(run).split('class="scores"')[1])[1]
    assert "missing" in row and ">0<" not in row


@pytest.mark.slow
def test_a_report_of_600_students_and_14_chapters_stays_small():
    run = class_run(600, 14)
    page = class_report.html(run)
    assert len(run.students) == 600 and len(run.chapters) == 14
    assert len(page) < 3_000_000
    assert page.count("<tr>") >= 600


def test_the_sample_class_has_what_these_tests_are_about(run):
    assert len(run.graded) > 50 and any(one.mistakes for graded in run.graded for one in graded.marks)
    assert any(reading.earned is None for one in run.graded for reading in one.readings)
    assert graded_of("ada", "00_start_here", [], 0).marks == []
