"""How the learner sees a Report: as text in a terminal, as a card in a notebook.

The card takes its colours from the page around it, so it reads on light and dark themes; a mark is always a word for
a screen reader and a shape for the eye, never a colour alone. Everything that comes from an answer is escaped.
"""

import html
import re
import textwrap

import numpy as np

from autograder.compare import number

WIDTH = 88  # of the text form
LARGEST_PICTURE = 10  # rows or columns of a side-by-side picture

FRAME = (
    "border:1px solid var(--jp-border-color1,#8888);border-left:5px solid {edge};border-radius:6px;"
    "padding:.7em 1em;margin:.3em 0;max-width:46em;line-height:1.5;font-family:var(--jp-content-font-family,sans-serif)"
)
EDGES = {"full": "#009E73", "part": "#E69F00", "none": "#8888"}  # Okabe-Ito green and orange


def as_text(report, notes=""):
    """The card for a terminal. `notes`, a line each, come last."""
    lines = [_spread(f"{report.exercise_id} {report.title}", score_words(report.earned, report.points))]
    for verdict in report.verdicts:
        mark = "✓" if verdict.earned else "✗"
        lines.append(_spread(f"  {mark} {verdict.sentence}", of(verdict.earned, verdict.points)))
        if verdict.because:
            lines.append(_wrap(verdict.where + verdict.because, "      "))
    for text in paragraphs(report):
        lines += ["", _wrap(text, "  ")]
    if report.printed:
        lines += ["", "  It printed:", textwrap.indent(report.printed.rstrip()[:500], "    ")]
    for note in notes.splitlines():
        lines += ["", _wrap(note, "  ")]
    return "\n".join(lines)


def as_html(report, notes=""):
    """The card for a notebook."""
    escape = html.escape
    score = score_words(report.earned, report.points)
    edge = EDGES["full" if report.full else "part" if report.earned else "none"]
    parts = [
        f'<section aria-label="{escape(f"Exercise {report.exercise_id}: {score}", quote=True)}" '
        f'style="{FRAME.format(edge=edge)}">',
        f'<div style="display:flex;justify-content:space-between;gap:1em;font-weight:600">'
        f"<span>{escape(report.exercise_id)} {escape(report.title)}</span> <span>{score}</span></div>",
    ]
    if report.verdicts:
        parts.append('<ul style="list-style:none;padding:0;margin:.5em 0">')
        parts += [_criterion_html(verdict) for verdict in report.verdicts]
        parts.append("</ul>")
    parts += [f'<p style="margin:.5em 0">{marked_up(text)}</p>' for text in paragraphs(report)]
    if report.printed:
        parts.append(
            f"<details><summary>what it printed</summary><pre>{escape(report.printed.rstrip())}</pre></details>"
        )
    parts += [f'<p style="margin:.5em 0 0;opacity:.8">{marked_up(note)}</p>' for note in notes.splitlines()]
    parts.append("</section>")
    return "".join(parts)


def plain_html(title, text, edge="none"):
    """A small card without a score, for hints, quiz answers and notes."""
    return (
        f'<section aria-label="{html.escape(title, quote=True)}" style="{FRAME.format(edge=EDGES[edge])}">'
        f'<div style="font-weight:600">{html.escape(title)}</div>'
        f'<p style="margin:.3em 0;white-space:pre-wrap">{marked_up(text)}</p></section>'
    )


def marked_up(text):
    """Escaped text, with `code` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def paragraphs(report):
    """The message or the diagnosis, a paragraph each."""
    if report.message:
        return [report.message]
    doubt = "" if report.sure else "A part of this looks like a known mistake. "
    return [doubt + mistake.message for mistake in report.diagnosis]


def score_words(earned, points):
    """`2 of 4 points`"""
    return f"{of(earned, points)} point{'' if points == 1 else 's'}"


def of(earned, points):
    """`2 of 4`"""
    return f"{earned:g} of {points:g}"


def _criterion_html(verdict):
    mark, word = ("✓", "met") if verdict.earned else ("✗", "not met")
    because = ""
    if verdict.because:
        because = f'<div style="margin-left:1.6em;opacity:.85">{marked_up(verdict.where + verdict.because)}</div>'
    if verdict.picture is not None and not verdict.earned:
        because += _side_by_side(verdict.picture)
    return (
        f'<li><div style="display:flex;gap:.2em">'
        f'<span role="img" aria-label="{word}" style="width:1.4em;flex-shrink:0">{mark}</span>'
        f'<span style="flex-grow:1">{marked_up(verdict.sentence)}</span>'
        f' <span style="white-space:nowrap">{of(verdict.earned, verdict.points)}</span></div>{because}</li>'
    )


def _side_by_side(picture):
    """Expected and given as two small tables, where they are matrices small enough to read."""
    expected, got = picture.expected, picture.got
    if expected is None or got is None or expected.ndim != 2 or max(expected.shape) > LARGEST_PICTURE:
        return ""
    if expected.dtype.kind == "c":
        return ""
    with np.errstate(invalid="ignore"):
        wrong = ~np.isclose(expected, got, rtol=1e-6, atol=1e-9, equal_nan=True)
    tables = _table("expected", expected, wrong) + _table("yours", got, wrong)
    return f'<div style="display:flex;gap:1.5em;flex-wrap:wrap;margin:.3em 0 .3em 1.6em">{tables}</div>'


def _table(name, array, wrong):
    cell = "padding:.05em .4em;text-align:right;font-size:.85em;border:1px solid {line}"
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="{cell.format(line="#D55E00;font-weight:700" if bad else "#8883")}">{_short(value)}</td>'
            for value, bad in zip(row, bad_row, strict=True)
        )
        + "</tr>"
        for row, bad_row in zip(array, wrong, strict=True)
    )
    return (
        f'<table style="border-collapse:collapse;margin:0"><caption style="text-align:left;font-size:.85em">'
        f"{name}</caption>{rows}</table>"
    )


def _short(value):
    if isinstance(value, np.bool_):
        return "1" if value else "0"
    return html.escape(number(np.round(value, 3)))


def _spread(left, right):
    if len(left) + len(right) + 2 > WIDTH:
        left = textwrap.fill(left, WIDTH - len(right) - 2, subsequent_indent="    ")
    last = left.rsplit("\n", 1)[-1]
    return left + " " * max(2, WIDTH - len(last) - len(right)) + right


def _wrap(text, indent):
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
