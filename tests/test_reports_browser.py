"""Feedback, the class report and formgrader's page of a hostile submission, in a real headless Chromium.

Set ATTN_SCREENSHOTS to a folder to keep pictures of the pages, light and dark, on a phone and printed.
"""

import os
import re
from pathlib import Path

import nbgrader
import pytest
from nbconvert.exporters import HTMLExporter
from nbgrader.server_extensions.formgrader import handlers
from traitlets.config import Config

from autograder.grading.breaches import breach
from autograder.grading.results import Breach, ClassRun, Criterion, Flag, Graded, Mark, Reading
from autograder.reports import class_report, feedback
from autograder.reports.clean import clean_notebook
from tests.html_attacks import HTML, hostile_notebook
from tests.sample_run import class_run, eventful
from tests.test_browser import CHROMIUM, FLAGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; Debian: apt-get install chromium"),
]
ADDRESS = "http://grader.test"
STATIC = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader" / "static"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
# Everything a reader might do, to every element: point, press, focus, open.
HANDLE_ALL = """async () => {
    for (const one of document.querySelectorAll("*")) {
        for (const kind of ["mouseover", "mouseenter", "focus", "toggle", "error", "load", "animationstart"])
            one.dispatchEvent(new Event(kind, {bubbles: true}));
        if (one.tagName === "DETAILS") one.open = true;
        if (one.tagName === "A" && !/^(https?:|mailto:|#)/.test(one.getAttribute("href") ?? "#")) one.click();
        one.focus?.();
    }
    await new Promise(done => setTimeout(done, 300));
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run():
    return eventful(class_run(60))


class Visit:
    """A page served under ADDRESS, and all that it asked for or ran."""

    def __init__(self, browser, html, **settings):
        self.requests, self.messages = [], []
        self.page = browser.new_page(**settings)
        self.page.on("dialog", lambda dialog: (self.messages.append("dialog"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.route("**/*", lambda route: self._answer(route, html))
        self.page.goto(ADDRESS + "/page")

    def _answer(self, route, html):
        address = route.request.url
        if address == ADDRESS + "/page":
            return route.fulfill(body=html, content_type="text/html; charset=utf-8")
        self.requests.append(address)
        path = STATIC / address.partition("/formgrader/static/")[2]
        return route.fulfill(path=path) if path.is_file() else route.abort()

    def owned(self):
        """Whether anything ran that was not ours, after every element was handled."""
        self.page.evaluate(HANDLE_ALL)
        return bool(self.page.evaluate("window.owned"))

    def asked(self):
        """What was asked for, but for formgrader's own files and its MathJax."""
        ours = ("/formgrader/static/", "/formgrader/api/", "/favicon")
        ours = ("https://cdnjs.cloudflare.com/ajax/libs/mathjax/", *(ADDRESS + path for path in ours))
        return [address for address in self.requests if not address.startswith(ours)]


def as_formgrader_shows(notebook):
    """The page that formgrader's SubmissionHandler writes for an autograded notebook."""
    config = Config()
    config.HTMLExporter.template_name = "formgrade"
    config.HTMLExporter.extra_template_basedirs = [handlers.template_path]
    names = ("assignment_id", "notebook_id", "submission_id", "student", "last_name", "first_name", "notebook_path")
    resources = {**dict.fromkeys(names, "x"), "index": 0, "total": 1, "base_url": ADDRESS}
    exporter = HTMLExporter(config=config)
    exporter.log.setLevel("CRITICAL")
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def hostile_run():
    """A class in which every name and text is hostile."""
    graded = []
    for text in HTML.values():
        marks = [Mark(text, text, 4, 2, "judged", [Criterion(text, 4, 2, text)], [text], [text], text)]
        one = Graded(text, "01_soft_lookup", "graded", text, marks, [Reading(text, text, 4, None, text)])
        one.breaches, one.flags, one.notes = [Breach(text, text, text, text)], [Flag(text, text, text, [text])], [text]
        graded.append(one)
    names = list(HTML.values())
    return ClassRun(names[0], ["01_soft_lookup"], names, graded, [(one, one) for one in names], names[0])


def test_the_attacks_work_where_nothing_is_cleaned(browser):
    """Without this, the tests below could pass because the attacks are blunt."""
    from nbformat import v4

    for kind in ("svg", "image error unquoted", "details", "script"):
        output = v4.new_output("display_data", data={"text/html": HTML[kind]})
        notebook = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=[output])])
        assert Visit(browser, as_formgrader_shows(notebook)).owned(), kind
    loading = "".join(HTML[kind] for kind in ("image elsewhere", "style", "link to a style", "style attribute"))
    visit = Visit(browser, f"<!DOCTYPE html><body>{loading}")
    assert len(visit.asked()) >= 3


def test_a_hostile_notebook_does_nothing_in_formgrader(browser):
    visit = Visit(browser, as_formgrader_shows(clean_notebook(hostile_notebook())))
    assert visit.page.locator("#notebook-container .cell").count() > 100
    assert not visit.owned() and visit.asked() == []
    assert visit.page.locator("#notebook-container").first.bounding_box()["width"] > 300
    covering = (
        "[...document.querySelectorAll('#notebook-container *')].some(e => getComputedStyle(e).position == 'fixed')"
    )
    assert not visit.page.evaluate(covering)


@pytest.mark.parametrize("policy", [True, False], ids=["with its policy", "without its policy"])
def test_a_hostile_submission_does_nothing_in_feedback(browser, policy):
    for one in hostile_run().graded[::8]:
        page = feedback.html(one, hostile_notebook())
        visit = Visit(browser, page if policy else POLICY.sub("", page))
        assert not visit.owned() and visit.asked() == [] and visit.messages == []
        visit.page.close()


@pytest.mark.parametrize("policy", [True, False], ids=["with its policy", "without its policy"])
def test_hostile_names_do_nothing_in_the_class_report(browser, policy):
    page = class_report.html(hostile_run())
    visit = Visit(browser, page if policy else POLICY.sub("", page))
    assert visit.page.locator("table.scores tbody tr").count() == len(HTML)
    assert not visit.owned() and visit.asked() == [] and visit.messages == []


def test_the_policy_lets_only_our_own_script_run(browser, run):
    page = class_report.html(run).replace("</main>", "<script>window.owned=1</script><img src=x:></main>")
    visit = Visit(browser, page)
    assert not visit.owned() and visit.asked() == []


def test_the_table_sorts_by_name_and_by_score_and_says_so(browser, run):
    visit = Visit(browser, class_report.html(run))
    table = visit.page.locator("table.scores")

    def column(place):
        cells = "rows => rows.map(row => row.children[%d].dataset.key ?? row.children[%d].textContent)"
        return table.locator("tbody tr").evaluate_all(cells % (place, place))

    last = len(run.chapters) + 1
    heading = table.get_by_role("button", name="total")
    heading.focus()
    visit.page.keyboard.press("Enter")
    scores = [float(key) for key in column(last)]
    assert scores == sorted(scores) and len(set(scores)) > 10
    assert table.locator("th").nth(last).get_attribute("aria-sort") == "ascending"
    heading.click()
    assert [float(key) for key in column(last)] == sorted(scores, reverse=True)
    table.get_by_role("button", name="student").click()
    names = visit.page.evaluate(
        "names => [...names].sort((a, b) => a.localeCompare(b, undefined, {numeric: true}))", column(0)
    )
    assert column(0) == names
    assert table.locator("th[aria-sort]").count() == 1


PAGES = {
    "report": lambda run: class_report.html(run),
    "feedback": lambda run: feedback.html(with_events(run.graded[2]), clean_notebook(hostile_notebook())),
}


def with_events(graded):
    graded.breaches = [breach("too slow", graded.marks[-1].exercise, "while True:", seconds=20)]
    return graded


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1100])
def test_a_page_fits_its_screen(browser, run, name, width):
    visit = Visit(browser, PAGES[name](run), viewport={"width": width, "height": 900})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    keep(visit.page, f"{name}-{width}")


CONTRAST = """() => {
    const parse = color => color.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
    const behind = one => {
        for (; one; one = one.parentElement) {
            const color = parse(getComputedStyle(one).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const one of document.querySelectorAll("body *:not(svg *):not(script):not(.given *):not(.outputs *)")) {
        if (![...one.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
        const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) poor.push(`${one.tagName}.${one.className} ${ratio}: ${one.textContent.slice(0, 40)}`);
    }
    return poor;
}"""


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(browser, run, name, scheme):
    visit = Visit(browser, PAGES[name](run), color_scheme=scheme)
    assert visit.page.evaluate(CONTRAST) == []
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 31)")
    keep(visit.page, f"{name}-{scheme}")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_on_white_with_all_its_text(browser, run, name):
    visit = Visit(browser, PAGES[name](run), color_scheme="dark")
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    clipped = "[...document.querySelectorAll('.outputs, .wide')].some(e => getComputedStyle(e).overflowY != 'visible')"
    assert not visit.page.evaluate(clipped)
    assert len(visit.page.pdf(format="A4")) > 10_000
    keep(visit.page, f"{name}-print")


def keep(page, name):
    folder = os.environ.get("ATTN_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")
