"""A learner in a real JupyterLab in headless Chromium: answer wrongly, read the card, answer rightly, validate.

Set ATTN_SCREENSHOTS to a folder to keep the pictures; they are for looking at, not for the repository.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from autograder import build
from autograder.answers import source_of
from autograder.exercise import load_chapter
from autograder.lab import lab_command, lab_environment
from tests.conftest import copy_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; Debian: apt-get install chromium"),
]
CHAPTER = load_chapter(2)
FOLDER = CHAPTER.folder
PATH = f"course/{FOLDER}/{FOLDER}.ipynb"
SOFTMAX = CHAPTER.exercises["2.1"]
IDLE = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Server(NamedTuple):
    """Where JupyterLab answers, what it serves, and the environment it runs in."""

    address: str
    root: Path
    env: dict


@pytest.fixture(scope="module")
def server(tmp_path_factory, released):
    """JupyterLab as `attn lab` starts it, on a copy of the repository."""
    root = copy_of(released, tmp_path_factory.mktemp("learner"))
    port = free_port()
    command = lab_command(root / PATH, root, port)
    command += ["--IdentityProvider.token=learner", "--LabApp.expose_app_in_browser=True"]
    env = {**lab_environment(), "HOME": str(root), "ATTN_HOME": str(root / "record")}
    env["JUPYTER_CONFIG_DIR"] = str(root / "config")
    env["JUPYTER_RUNTIME_DIR"] = str(root / "runtime")
    with open(root / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: get(f"{address}/api/status?token=learner"), 60)
        yield Server(address, root, env)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def wait_until(page, condition, seconds=60):
    """As `wait_for`, while the page goes on: Playwright handles its events only while it is asked to wait."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        page.wait_for_timeout(200)


class Notebook:
    """The open notebook, with a learner's hands: find a cell, type into it, run it, look at what it shows.

    It opens in a JupyterLab workspace of its own: one that an earlier test left would open that test's notebooks too,
    and what a locator finds first may then stand in a hidden one.
    """

    def __init__(self, page, address, path):
        self.page = page
        page.set_default_timeout(90_000)
        page.goto(f"{address}/lab/workspaces/{uuid.uuid4().hex}/tree/{path}?token=learner")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.opened(path)

    def opened(self, path):
        """Wait until this file is in front and its kernel rests: what JupyterLab does late would hide the next step."""
        self.page.wait_for_function(f"window.jupyterapp.shell.currentWidget?.context?.path === '{path}' && {IDLE}")

    def cell(self, metadata_id):
        """Make the cell with this id the active one and return its place."""
        return self.page.evaluate(
            """async id => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const index = notebook.widgets.findIndex(one => one.model.id === id);
                notebook.activeCellIndex = index;
                notebook.deselectAll();
                await notebook.scrollToItem(index, 'center');
                return index;
            }""",
            metadata_id,
        )

    def type(self, metadata_id, text):
        """Replace the source of a cell by hand: click, select all, type."""
        place = self.cell(metadata_id)
        editor = self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{place}"] .cm-content')
        editor.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def run(self, metadata_id):
        """Run a cell as Shift+Enter does and wait until the kernel rests."""
        self.cell(metadata_id)
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
        self.rest()
        place = self.cell(metadata_id)
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{place}"]')

    def rest(self, seconds=60):
        self.page.wait_for_timeout(300)
        self.page.wait_for_function(
            """() => {
                const panel = window.jupyterapp.shell.currentWidget;
                const busy = one => one.inputArea?.promptNode?.textContent?.includes('[*]');
                const waiting = panel.content.widgets.some(busy);
                return panel.sessionContext.session.kernel.status === 'idle' && !waiting;
            }""",
            timeout=seconds * 1000,
        )

    def ids(self):
        """The ids of all cells, in order."""
        return self.page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.map(one => one.model.id)")

    def picture(self, name):
        picture_of(self.page, name)


def picture_of(page, name):
    folder = os.environ.get("ATTN_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture
def notebook(browser, server):
    with notebook_at(browser, server, PATH) as notebook:
        yield notebook


@contextmanager
def notebook_at(browser, server, path):
    """The notebook at this path below the repository, open in a page of its own that ends without an error."""
    messages = []
    with browser.new_page(viewport={"width": 1280, "height": 1000}) as page:
        page.on("pageerror", lambda error: messages.append(str(error)))
        yield Notebook(page, server.address, path)
    assert messages == []


def first_code_cell(folder):
    cells = json.loads((build.ROOT / "solutions" / folder / f"{folder}.ipynb").read_text(encoding="utf-8"))["cells"]
    return next(cell["id"] for cell in cells if cell["cell_type"] == "code")


def test_a_learner_answers_wrongly_then_rightly_and_validates(notebook):
    notebook.run(first_code_cell(FOLDER))
    notebook.run("exercise-2-1")
    card = notebook.run("check-2-1").locator("section[aria-label^='Exercise 2.1']")
    assert "not attempted yet" in card.inner_text()
    notebook.picture("1-not-attempted")

    mistake = SOFTMAX.mistakes[0]
    notebook.type("exercise-2-1", source_of(mistake.answer, "softmax"))
    notebook.run("exercise-2-1")
    card = notebook.run("check-2-1").locator("section[aria-label^='Exercise 2.1']")
    assert mistake.message in " ".join(card.inner_text().split())
    assert card.locator("[role=img][aria-label='not met']").count() >= 1
    notebook.picture("2-diagnosis")
    dark(notebook.page, True)
    notebook.picture("3-diagnosis-dark")
    dark(notebook.page, False)

    notebook.type("exercise-2-1", source_of(SOFTMAX.variants[0], "softmax"))
    notebook.run("exercise-2-1")
    card = notebook.run("check-2-1").locator("section[aria-label^='Exercise 2.1']")
    assert f"{SOFTMAX.points:g} of {SOFTMAX.points:g} points" in card.inner_text()
    notebook.picture("4-full-marks")
    assert notebook.page.get_by_text("official Jupyter news").count() == 0

    notebook.page.get_by_role("button", name="Validate").click()
    dialog = notebook.page.locator(".jp-Dialog")
    dialog.wait_for(timeout=120_000)
    text = dialog.inner_text()
    assert 'check("2.2"' in text and 'check("2.1"' not in text
    notebook.picture("5-validate")


def dark(page, on):
    theme = "JupyterLab Dark" if on else "JupyterLab Light"
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{theme}'}})")
    page.wait_for_timeout(1500)


def test_an_endless_answer_blocks_neither_the_server_nor_the_notebook(notebook, server):
    notebook.run(first_code_cell(FOLDER))
    notebook.type("exercise-2-1", "def softmax(x, axis=-1):\n    while True:\n        pass")
    notebook.run("exercise-2-1")
    answers, stop = [], threading.Event()

    def ask():
        while not stop.wait(0.2):
            answers.append(get(f"{server.address}/api/status?token=learner"))

    asking = threading.Thread(target=ask)
    asking.start()
    card = notebook.run("check-2-1").locator("section[aria-label^='Exercise 2.1']")
    stop.set()
    asking.join()
    assert "did not finish in time" in card.inner_text()
    assert len(answers) >= 10 and all(answers), "the server did not answer while a check ran"
    notebook.picture("6-endless")


def test_formgrader_and_the_assignment_list_find_the_course(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{server.address}/formgrader/manage_assignments?token=learner")
    for chapter in ("00_start_here", "01_soft_lookup", FOLDER):
        page.get_by_role("link", name=chapter).first.wait_for(timeout=60_000)
    picture_of(page, "7-formgrader")
    for step in ("generate_assignment", "release_assignment"):
        command = [sys.executable, "-m", "nbgrader", step, "00_start_here"]
        subprocess.run(command, cwd=server.root, env=server.env, check=True, capture_output=True)
    page.goto(f"{server.address}/lab?reset&token=learner")
    page.wait_for_function("window.jupyterapp?.commands.hasCommand('nbgrader:open-assignment-list')", timeout=90_000)
    page.evaluate("window.jupyterapp.commands.execute('nbgrader:open-assignment-list')")
    try:
        page.get_by_role("button", name="Fetch").wait_for(timeout=60_000)
    finally:
        picture_of(page, "8-assignment-list")
    assert page.locator("#released_assignments_list").get_by_text("00_start_here").count() == 1
    page.close()


def test_a_word_of_a_chapter_leads_to_the_glossary(notebook):
    page = notebook.page
    word = page.locator(".jp-RenderedMarkdown a", has_text=re.compile("^softmax$")).first
    meaning = page.locator(".jp-RenderedMarkdown p", has_text="Turns scores into weights").first
    word.click()
    notebook.opened("course/glossary.ipynb")
    meaning.wait_for()
    # JupyterLab opens a notebook at its top, before its headings are drawn; in an open one it goes to the heading.
    page.get_by_role("tab", name=FOLDER).click()
    notebook.opened(PATH)
    word.click()
    wait_until(page, lambda: (box := meaning.bounding_box()) and 0 < box["y"] < 1000)
    notebook.picture("9-glossary")


def test_the_map_is_drawn(browser, server):
    with notebook_at(browser, server, "course/map.ipynb") as notebook:
        drawing = notebook.page.locator(".jp-RenderedMermaid img").first
        wait_until(notebook.page, lambda: (box := drawing.bounding_box()) and box["height"] > 500)
        notebook.picture("10-map")
        dark(notebook.page, True)
        notebook.picture("11-map-dark")
        dark(notebook.page, False)
