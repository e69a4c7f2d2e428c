"""What the pages share: jinja2 with everything escaped, one style sheet, and a policy that forbids what is not ours."""

import base64
import hashlib
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(template, script="", **values):
    """The template as a page of its own: style inside, no request, and no script but `script` (a file beside it)."""
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    code = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    page = _environment().get_template(template)
    made = page.render(style=style, script=Markup(code), policy=_policy(code), **values)
    return made.encode("utf-8", "backslashreplace").decode("utf-8")  # a file's name may hold half a character


def marked_up(text):
    """Escaped text, with `code` set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def of(earned, points):
    """`2 of 4`, with at most two decimals."""
    return f"{points_text(earned)} of {points_text(points)}"


def points_text(points):
    """`2`, `2.5`, `2.33`"""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def chapter_title(folder):
    """`02 · scaled dot product` of 02_scaled_dot_product"""
    number, _, topic = folder.partition("_")
    return f"{number} · {topic.replace('_', ' ')}" if topic else folder


def _policy(code):
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    if code:
        digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
        allowed += f"; script-src 'sha256-{digest}'"
    return allowed


def _environment():
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"marked_up": marked_up, "points": points_text, "chapter": chapter_title}
    environment.globals |= {"of": of}
    return environment
