"""The view of heads that answers: what it holds, in words and in numbers, and what it does in a real browser.

Set ATTN_SCREENSHOTS to a folder to keep pictures of it, light and dark.
"""

import html
import json
import re
import warnings

import numpy as np
import pytest
from nbconvert.exporters import HTMLExporter
from nbformat import v4

from attn_ref import plots
from attn_ref.sentence import TOKENS
from attn_ref.softmax import softmax
from autograder.reports.safe_html import is_safe, made_safe
from tests.html_attacks import ATTACKER, HTML
from tests.test_browser import CHROMIUM, FLAGS, dark, notebook_at, picture_of
from tests.test_browser import server as server  # a fixture

BROWSER = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; Debian: apt-get install chromium"),
]
CAUSAL = np.where(np.tri(6, dtype=bool), np.random.default_rng(5).normal(0, 3, (2, 3, 6, 6)), -np.inf)
WEIGHTS = softmax(CAUSAL)  # 2 layers of 3 heads
CHINESE = ("猫", "坐在", "垫子", "上", "。")
BY_HAND = np.array([[[0.75, 0.245, 0.005], [0.0, 0.0, 1.0]], [[0.0, 0.5, 0.5], [0.1, 0.9, 0.0]]])


def bundle(*arguments, **options):
    return plots.head_lines(*arguments, **options)._repr_mimebundle_()


def facts(page):
    """What the page's script is given."""
    return json.loads(re.search(r"parentElement, (\{.*\})\);\n</script>", page)[1])


def test_the_alt_text_tells_the_strongest_link_of_the_chosen_head():
    view = plots.head_lines(BY_HAND, ("he", "sat"), ("a", "b", "c"), title="by hand", head=1)
    assert (
        view.alt
        == "Head lines “by hand”, 2 heads of 2 queries and 3 keys. Head 1: the strongest link is sat → b (0.90)."
    )
    view = plots.head_lines(WEIGHTS, TOKENS, layer=1, head=2)
    assert "3 heads in each of 2 layers of 6 queries and 6 keys. Head 2 of layer 1:" in view.alt
    assert view.alt in repr(view)


def test_of_tokens_that_stand_there_twice_the_sentence_tells_which():
    weights = np.zeros((1, 6, 6))
    weights[0, 5, 4] = 1
    assert "mat → the[4] (1.00)" in plots.head_lines(weights, TOKENS).alt


def test_a_head_that_looks_at_nothing_says_so():
    assert plots.head_lines(np.zeros((1, 2, 2)), ["a", "b"]).alt.endswith("Head 0: no query looks at any key.")


def test_the_page_holds_the_weights_in_thousandths_row_by_row():
    held = facts(bundle(BY_HAND, ("he", "sat"), ("a", "b", "c"))["text/html"])
    assert held["weights"] == [[[750, 245, 5, 0, 0, 1000], [0, 500, 500, 100, 900, 0]]]
    assert (held["layer"], held["head"], held["queries"], held["keys"]) == (0, 0, ["he", "sat"], ["a", "b", "c"])
    held = facts(bundle(WEIGHTS, TOKENS, layer=1, head=2)["text/html"])
    assert held["keys"] == held["queries"] == list(TOKENS)
    np.testing.assert_allclose(np.array(held["weights"]).reshape(WEIGHTS.shape) / 1000, WEIGHTS, atol=0.0005)


def test_what_is_left_out_is_told():
    words = facts(bundle(WEIGHTS, TOKENS)["text/html"])["words"]
    assert "below 0.01 none is drawn" in words["how"]


def test_forty_tokens_in_thirty_two_heads_stay_under_half_a_megabyte():
    for weights in (np.full((4, 8, 40, 40), 1 / 40), softmax(np.random.default_rng(0).normal(0, 2, (4, 8, 40, 40)))):
        made = bundle(weights, [f"token{i}" for i in range(40)])
        assert sum(len(text.encode()) for text in made.values()) < 500_000


def test_tensors_are_drawn_like_arrays():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.tensor(WEIGHTS, requires_grad=True)
    assert bundle(tensor, TOKENS) == bundle(WEIGHTS, TOKENS)
    assert "(1.00)" in plots.head_lines(torch.eye(3, dtype=torch.bfloat16)[None], CHINESE[:3]).alt


def test_the_input_is_left_alone():
    weights, tokens = WEIGHTS.copy(), list(TOKENS)
    bundle(weights, tokens)
    np.testing.assert_array_equal(weights, WEIGHTS)
    assert tokens == list(TOKENS)


def test_hostile_text_leaves_the_page_as_it_was():
    texts = [*HTML.values(), "$x^{$", "\u2028", "\ud83d", "/*facts*/ {}", "<!--picture-->", r"\1", "'\">"]
    page = bundle(np.eye(len(texts))[None], texts, title="".join(texts))["text/html"]
    plain = bundle(np.eye(2)[None], ["a", "b"])["text/html"]
    for sign in ("<", "</script", "<img"):
        assert page.count(sign) == plain.count(sign)
    assert "\u2028" not in page and page.encode()  # which half a character would not let pass
    held = facts(page)
    assert held["queries"][: len(HTML)] == [text.replace("\n", "↵").replace("\0", "\ufffd") for text in HTML.values()]


def test_a_token_without_ink_is_shown_by_a_sign():
    assert facts(bundle(np.ones((1, 4, 4)), ["\n", " ", "", " a"])["text/html"])["queries"] == ["↵", "␣", "∅", " a"]


def test_showing_it_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle(np.eye(5)[None], CHINESE)
        bundle(np.eye(2)[None], ["long " * 40, "$" * 80], title="猫")


def test_cleaned_html_keeps_the_still_picture_with_its_alt_text():
    view = plots.head_lines(WEIGHTS, TOKENS, title='a "quoted" <title>')
    cleaned = made_safe(view._repr_html_())
    assert is_safe(cleaned) and "script" not in cleaned
    assert html.unescape(re.search(r'<img src="data:image/png;base64,[^"]+" alt="([^"]*)"', cleaned)[1]) == view.alt


def test_it_can_be_saved_as_a_still_picture(tmp_path):
    plots.head_lines(WEIGHTS, TOKENS).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


# In a browser.

LINES = "svg => [...svg.children].map(one => one.getAttribute('d'))"
CONTRAST = """view => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const over = colors => {  // painted one over the other: how light the last one is
        canvas.fillStyle = "white";
        for (const color of [null, ...colors]) { canvas.fillStyle = color ?? "white"; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
            .map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
    };
    const poor = [];
    for (const one of view.querySelectorAll("*:not(style):not(script)")) {
        const style = getComputedStyle(one), line = one.tagName === "path";
        if (!line && ![...one.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
        const behind = [];
        for (let up = one; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
        const [a, b] = [over(behind), over([...behind, line ? style.stroke : style.color])];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < (line ? 3 : 4.5)) poor.push(`${one.tagName} ${ratio.toFixed(2)} ${one.textContent.slice(0, 30)}`);
    }
    return poor;
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def exported(views, path, **options):
    """A notebook with these outputs, as nbconvert exports it, in a file that asks for nothing of nbconvert's own."""
    outputs = [v4.new_output("display_data", data=view._repr_mimebundle_()) for view in views]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("view", outputs=[one]) for one in outputs])
    exporter = HTMLExporter(mathjax_url="", require_js_url="", **options)
    path.write_text(exporter.from_notebook_node(notebook)[0], encoding="utf-8")
    return path


@pytest.fixture
def visit(browser, tmp_path):
    """Open an exported page. Afterwards it must have asked for nothing, complained of nothing, run nothing foreign."""
    pages, heard = [], []

    def open_page(*views, template=None, **settings):
        path = exported(views, tmp_path / f"{len(pages)}.html", **(template or {}))
        page = browser.new_page(**settings)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or heard.append(asked.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    assert heard == []
    assert not any(page.evaluate("window.owned") for page in pages)
    for page in pages:
        page.close()


def by_hand():
    return plots.head_lines(BY_HAND, ("he", "sat"), ("a", "b", "c"), title="by hand")


class TestInABrowser:
    pytestmark = BROWSER

    def test_another_head_brings_other_lines(self, visit):
        view = visit(by_hand()).locator(".attn-head-lines")
        assert view.locator("img").count() == 0
        svg = view.locator("svg")
        assert sorted(svg.evaluate(LINES)) == [
            "M0 0.5L100 0.5",
            "M0 0.5L100 1.5",
            "M0 1.5L100 2.5",
        ]  # 0.005 is too faint
        assert svg.get_attribute("aria-label") == "Head 0: the strongest link is sat → c (1.00)."
        view.get_by_label("1", exact=True).check()
        assert sorted(svg.evaluate(LINES)) == ["M0 0.5L100 1.5", "M0 0.5L100 2.5", "M0 1.5L100 0.5", "M0 1.5L100 1.5"]
        assert view.get_by_role("status").inner_text() == "Head 1: the strongest link is sat → b (0.90)."

    def test_a_line_is_as_thick_as_its_weight(self, visit):
        svg = visit(by_hand()).locator(".attn-head-lines svg")
        widths = svg.evaluate("svg => [...svg.children].map(one => +one.getAttribute('stroke-width'))")
        assert widths == pytest.approx([0.5 + 5 * weight for weight in (0.245, 0.75, 1)])

    def test_a_query_pointed_at_shows_its_lines_alone_with_numbers(self, visit):
        page = visit(by_hand())
        view = page.locator(".attn-head-lines")
        view.get_by_role("button", name="he").hover()
        assert sorted(view.locator("svg").evaluate(LINES)) == ["M0 0.5L100 0.5", "M0 0.5L100 1.5"]
        assert view.locator(".number").all_inner_texts() == ["0.75", "0.24", "0.01"]
        assert view.get_by_role("status").inner_text() == "he looks most at a (0.75), b (0.24), c (0.01)."
        page.mouse.move(0, 0)
        assert view.locator("path").count() == 3
        assert view.locator(".number").all_inner_texts() == ["", "", ""]

    def test_the_keyboard_reaches_everything_in_order(self, visit):
        page = visit(by_hand())
        view, press = page.locator(".attn-head-lines"), page.keyboard.press
        focused = "document.activeElement.value ?? document.activeElement.textContent"
        view.get_by_label("0", exact=True).focus()
        press("ArrowRight")
        assert page.evaluate("document.activeElement.value") == "1" and view.locator("path").count() == 4
        press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "he" and view.locator("path").count() == 2
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        press("ArrowDown")
        press("ArrowDown")
        assert page.evaluate("document.activeElement.textContent") == "sat"
        assert view.locator(".number").all_inner_texts() == ["0.10", "0.90", "0.00"]
        press("Tab")
        assert page.evaluate(focused) == "All weights of this head as a table"
        press("Enter")
        view.get_by_role("row").first.wait_for()  # the table unfolds a moment later
        rows = view.get_by_role("row").all_inner_texts()
        assert [row.split() for row in rows] == [
            ["a", "b", "c"],
            ["he", "0.00", "0.50", "0.50"],
            ["sat", "0.10", "0.90", "0.00"],
        ]
        press("Shift+Tab")
        assert page.evaluate("document.activeElement.textContent") == "sat"
        press("Escape")
        assert view.locator("path").count() == 4

    def test_a_touch_shows_a_query_and_a_second_one_lets_go(self, visit):
        view = visit(by_hand(), has_touch=True, viewport={"width": 390, "height": 800}).locator(".attn-head-lines")
        query = view.get_by_role("button", name="he")
        query.tap()
        assert view.locator("path").count() == 2
        query.tap()
        assert view.locator("path").count() == 3

    def test_two_views_of_one_page_do_not_meet(self, visit):
        page = visit(plots.head_lines(WEIGHTS, TOKENS), plots.head_lines(WEIGHTS, TOKENS, layer=1))
        one, two = (page.locator(".attn-head-lines").nth(place) for place in range(2))
        before = two.locator("svg").evaluate(LINES)
        assert one.locator("svg").evaluate(LINES) != before
        one.get_by_role("group", name="head").get_by_label("2").check()
        one.get_by_role("group", name="layer").get_by_label("1").check()
        one.get_by_role("button", name="mat").hover()
        assert two.locator("svg").evaluate(LINES) == before
        assert [
            view.locator("input:checked").evaluate_all("all => all.map(one => one.value)") for view in (one, two)
        ] == [
            ["1", "2"],
            ["1", "0"],
        ]
        assert page.evaluate("[...document.querySelectorAll('[id]')].every(one => !one.closest('.attn-head-lines'))")

    def test_hostile_tokens_are_shown_and_do_nothing(self, visit):
        texts = [*HTML.values(), "$x$", "\u2028", "'\">", "</script><script>window.owned=1</script>"]
        view = plots.head_lines(np.eye(len(texts))[None], texts, title=texts[-1])
        page = visit(view)
        shown = page.locator(".attn-head-lines .queries bdi").all_text_contents()
        assert shown[0] == HTML["script"] and len(shown) == len(texts)
        page.locator(".attn-head-lines button").first.hover()
        page.locator(".attn-head-lines summary").click()
        page.wait_for_timeout(300)
        assert page.locator(f".attn-head-lines [src], [href^='{ATTACKER}']").count() == 0

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize(
        "template", [{}, {"theme": "dark"}, {"template_name": "basic"}], ids=["lab", "lab-dark", "basic"]
    )
    def test_text_and_lines_have_contrast(self, visit, scheme, template):
        page = visit(plots.head_lines(WEIGHTS, TOKENS, title="T"), template=template, color_scheme=scheme)
        view = page.locator(".attn-head-lines")
        page.locator(".attn-head-lines summary").click()
        view.get_by_role("button", name="sat").focus()
        assert view.evaluate(CONTRAST) == []
        picture_of(page, f"head-lines-{'-'.join(template.values()) or 'lab'}-{scheme}")

    @pytest.mark.parametrize("width", [320, 390])
    def test_it_fits_a_phone(self, visit, width):
        long = ["unbelievable" * 4, *TOKENS[1:]]
        page = visit(plots.head_lines(np.repeat(WEIGHTS, 8, axis=1), long), viewport={"width": width, "height": 900})
        view = page.locator(".attn-head-lines")
        assert view.bounding_box()["x"] + view.bounding_box()["width"] <= width
        assert view.evaluate("view => view.scrollWidth <= view.clientWidth")
        assert view.locator("svg").bounding_box()["width"] >= 60
        view.get_by_role("button", name="mat").focus()
        assert all(bdi.bounding_box()["width"] > 12 for bdi in view.locator(".keys bdi").all())
        assert all(one.bounding_box()["width"] > 30 for one in view.locator(".number").all())
        picture_of(page, f"head-lines-{width}")

    def test_where_scripts_are_blocked_the_picture_stands_still(self, visit):
        page = visit(by_hand(), java_script_enabled=False)
        image = page.locator("img")
        assert image.get_attribute("alt").endswith("sat → c (1.00).")
        assert image.bounding_box()["height"] > 50
        assert page.locator("svg").count() == 0


SETUP = """
import numpy as np
from attn_ref import plots
from attn_ref.sentence import TOKENS
weights = np.tril(np.random.default_rng(3).dirichlet(np.full(6, 0.5), (2, 8, 6)))
weights /= weights.sum(-1, keepdims=True)
"""
CELLS = {
    "setup": SETUP,
    "view-1": 'plots.head_lines(weights, TOKENS, title="Two layers of eight heads", layer=1)',
    "view-2": 'plots.head_lines(weights[0], ["$x$", "猫", *TOKENS[2:]])',
    "last": "1 + 1",
}


class TestInJupyterLab:
    pytestmark = BROWSER

    @pytest.fixture
    def lab(self, browser, server):
        cells = [v4.new_code_cell(source, id=name) for name, source in CELLS.items()]
        stored = v4.new_output("execute_result", data=by_hand()._repr_mimebundle_(), execution_count=1)
        cells.append(v4.new_code_cell("stored", id="stored", outputs=[stored], execution_count=1))
        folder = server.root / "course" / "views"
        folder.mkdir(exist_ok=True)
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        (folder / "views.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        with notebook_at(browser, server, "course/views/views.ipynb") as opened:
            yield opened

    def test_it_answers_in_a_notebook_and_stands_still_where_that_is_not_trusted(self, lab):
        stored = lab.page.locator(".jp-RenderedHTMLCommon img[alt^='Head lines']")
        lab.cell("stored")
        stored.wait_for()
        assert stored.bounding_box()["height"] > 50 and lab.page.locator(".attn-head-lines").count() == 0
        lab.picture("head-lines-untrusted")
        lab.run("setup")
        lab.run("view-1")
        one = lab.run("view-1").locator(".attn-head-lines")  # a cell that is run again shows one view, not two
        two = lab.run("view-2").locator(".attn-head-lines")
        lab.cell("view-1")
        before = two.locator("svg").evaluate(LINES)
        one.get_by_role("group", name="head").get_by_label("3").click()
        assert one.get_by_role("status").inner_text().startswith("Head 3 of layer 1")
        mat = one.get_by_role("button", name="mat")
        mat.click()
        lab.page.mouse.move(5, 5)
        assert mat.evaluate("one => document.activeElement === one")
        place = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
        active = lab.page.evaluate(place)
        lab.page.keyboard.press("ArrowUp")
        lab.page.keyboard.press("d")
        lab.page.keyboard.press("d")
        assert one.get_by_role("button", name="the[4]").evaluate("one => document.activeElement === one")
        assert lab.page.evaluate(place) == active and len(lab.ids()) == len(CELLS) + 1
        assert one.locator(".number").last.inner_text() == "0.00"
        assert two.locator("svg").evaluate(LINES) == before
        assert two.locator(".queries").inner_text().split() == ["$x$", "猫", *TOKENS[2:]]
        assert one.evaluate(CONTRAST) == two.evaluate(CONTRAST) == []
        lab.picture("head-lines-lab-light")
        dark(lab.page, True)
        assert one.evaluate(CONTRAST) == two.evaluate(CONTRAST) == []
        lab.picture("head-lines-lab-dark")
        dark(lab.page, False)
