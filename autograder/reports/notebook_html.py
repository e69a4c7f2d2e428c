"""The cells of an executed notebook as HTML for a page that runs nothing and loads nothing."""

import re
import secrets
from dataclasses import dataclass, field

from markupsafe import Markup, escape
from nbconvert.filters.ansi import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from autograder.reports.clean import IMAGES, clean_notebook
from autograder.reports.mathml import mathml
from autograder.reports.safe_html import as_text, is_safe

LONGEST_TEXT = 20_000  # characters of one output
LONGEST_CODE = 50_000  # characters of a cell that are coloured
LARGEST_IMAGE = 4 * 2**20  # characters of base64
MOST_OUTPUTS = 40  # of one cell

# What the reader sees.
CUT = "\n… cut here: the output has {count:,} characters."
MORE = "… and {count} more outputs."
LARGE_IMAGE = "An image of {mib:.0f} MiB is left out."
FIGURE = "figure {number} of this cell"


@dataclass
class CellView:
    """One cell, ready for the page."""

    kind: str  # code or markdown
    name: str  # the grade id, such as exercise-2-1, or empty
    html: Markup
    outputs: list[Markup] = field(default_factory=list)
    checks: bool = False  # whether this is a graded check, whose outputs are not shown


def cell_views(notebook):
    """A CellView for every cell. A graded check shows no output: its mark stands above, in public words only."""
    return [_view(cell) for cell in clean_notebook(notebook).cells]


def _view(cell):
    nbgrader = cell.metadata.get("nbgrader", {})
    name = nbgrader.get("grade_id", "")
    if cell.cell_type == "markdown":
        return CellView("markdown", name, markdown(cell.source, cell.get("attachments")))
    if nbgrader.get("grade"):
        return CellView("code", name, _code(cell.source), checks=True)
    shown = [_output(one, number) for number, one in enumerate(cell.outputs[:MOST_OUTPUTS], 1)]
    if len(cell.outputs) > MOST_OUTPUTS:
        shown.append(_text(MORE.format(count=len(cell.outputs) - MOST_OUTPUTS)))
    return CellView("code", name, _code(cell.source), shown)


def markdown(source, attachments=None):
    """Markdown as HTML, headings two levels down, mathematics as MathML; its source where that is not safe."""
    renderer = _Renderer(attachments or {})
    try:
        made = MarkdownWithMath(renderer=renderer).render(source)
    except Exception:  # a missing attachment, or a fault of the renderer's
        return Markup(as_text(source))
    made = re.sub(r"<th(?=[ >])", '<th scope="col"', made)
    if not is_safe(made) or re.search(rf"<[^>]*{renderer.mark}", made):  # a formula inside a tag would break out of it
        return Markup(as_text(source))
    return Markup(re.sub(rf"{renderer.mark}(\d+);", lambda found: renderer.formulas[int(found[1])], made))


class _Renderer(IPythonRenderer):
    """Puts a mark where a formula stands, to be replaced once the HTML around it is known to be safe."""

    def __init__(self, attachments):
        super().__init__(escape=False, attachments=attachments, exclude_anchor_links=True)
        self.mark = f"formula{secrets.token_hex(8)}x"
        self.formulas = []

    def heading(self, text, level, **attrs):
        level = min(6, level + 2)
        return f"<h{level}>{text}</h{level}>\n"

    def inline_math(self, body):
        return self._formula(body, False)

    def block_math(self, body):
        return self._formula(body, True)

    def latex_environment(self, name, body):
        return self._formula(rf"\begin{{{name}}}{body}\end{{{name}}}", True)

    def _formula(self, latex, block):
        self.formulas.append(mathml(latex, block))
        return f"{self.mark}{len(self.formulas) - 1};"


def _code(source):
    if len(source) > LONGEST_CODE:
        return _text(source)
    inner = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return Markup(f'<pre class="code"><code>{inner}</code></pre>')


def _output(output, number):
    if output.output_type == "stream":
        return _text(output.text)
    if output.output_type == "error":
        lines = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
        return _text(lines)
    data = output.data
    for kind in IMAGES:
        if kind in data:
            return _image(kind, data[kind], number)
    if "text/html" in data:
        html = data["text/html"]
        return Markup(html) if len(html) <= LARGEST_IMAGE else _text(data.get("text/plain", ""))
    if "text/markdown" in data:
        return markdown(data["text/markdown"])
    if "text/latex" in data:
        return Markup(mathml(data["text/latex"].strip().strip("$"), block=True))
    return _text(data.get("text/plain", ""))


def _image(kind, content, number):
    if len(content) > LARGEST_IMAGE:
        return _text(LARGE_IMAGE.format(mib=len(content) * 3 / 4 / 2**20))
    alt = escape(FIGURE.format(number=number))
    content = "".join(content.split())
    return Markup(f'<img src="data:{kind};base64,{content}" alt="{alt}">')


def _text(text):
    shown = strip_ansi(text[:LONGEST_TEXT])
    if len(text) > LONGEST_TEXT:
        shown += CUT.format(count=len(text))
    return Markup(as_text(shown))
