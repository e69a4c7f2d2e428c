"""The plots of the class report, as SVG that takes its ink from the page around it, each with a description."""

import html
import io
import re
import warnings

import matplotlib
import numpy as np
from markupsafe import Markup

from attn_ref.plots.style import OKABE_ITO, new_figure

BLUE, VERMILION, GREEN, _, ORANGE, SKY, _ = OKABE_ITO
INK = "#010203"  # stands for the page's own ink, which replaces it
SVG_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,
    "hatch.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
WEAK = 0.2  # a discrimination below which an exercise tells little
OUTCOMES = ((GREEN, ""), (SKY, "//"), (VERMILION, "xx"), ("#8c939d", ".."))  # full, part, none, not tried
MOST_TICKS = 24  # beyond which the map names only the first exercise of each chapter
BINS = np.linspace(0, 1, 11)

# What the reader sees.
TEXT = {
    "share": "share of the points",
    "median": "median",
    "no_scores": "no scores",
    "submissions": "submissions",
    "outcomes": ("all points", "a part", "none", "not tried"),
    "discrimination": "discrimination",
    "students": "students, the best at the top",
    "distribution_alt": "Histograms of the share of the points in each chapter. {medians}",
    "distribution_one": "{chapter}: {count} scores, median {median:.0%}.",
    "outcomes_alt": "Bars of what became of each exercise, dots of its discrimination. The table holds the numbers.",
    "glance_alt": "A map of {students} students by {exercises} exercises: the lighter a cell, the more of the points. "
    "The tables hold the numbers.",
}


def distribution(shares: dict) -> Markup:
    """{chapter title: shares} as a column of histograms over one axis, the median marked."""
    count = len(shares)
    with _figure(7.6, 0.7 + 0.62 * count) as figure:
        axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        for ax, (title, values) in zip(axes, shares.items(), strict=True):
            _histogram(ax, title, values)
        axes[-1].set_xticks(np.linspace(0, 1, 6), [f"{tick:.0%}" for tick in np.linspace(0, 1, 6)])
        axes[-1].set_xlabel(TEXT["share"])
        figure.supylabel(TEXT["submissions"], fontsize=10)
    medians = [
        TEXT["distribution_one"].format(chapter=title, count=len(values), median=np.median(values))
        for title, values in shares.items()
        if len(values)
    ]
    return _svg(figure, "distribution", TEXT["distribution_alt"].format(medians=" ".join(medians)))


def _histogram(ax, title, values):
    counts, _ = np.histogram(np.clip(values, 0, 1), BINS)
    ax.bar(BINS[:-1] + 0.05, counts, width=0.092, color=BLUE)
    top = max(1, counts.max())
    if len(values):
        median = np.clip(np.median(values), 0, 1)
        ax.plot([median, median], [0, top * 1.12], color=VERMILION, lw=2, solid_capstyle="round")
        ax.plot([median], [top * 1.12], marker="v", color=VERMILION, ms=6, clip_on=False)
        label = f"{TEXT['median']} {np.median(values):.0%}"
    else:
        label = TEXT["no_scores"]
    ax.set(xlim=(-0.01, 1.01), ylim=(0, top * 1.25), yticks=[0, top])
    ax.tick_params(labelsize=8, length=2)
    ax.text(1.02, 0.62, _short(title), transform=ax.transAxes, fontsize=9, fontweight="bold", va="center")
    ax.text(1.02, 0.22, label, transform=ax.transAxes, fontsize=9, va="center")


def outcomes(entries, name) -> Markup:
    """What became of each exercise, and how well it tells strong from weak; `entries` are class_numbers.Exercise.

    `name` tells the plots of a page apart.
    """
    names = [_short(f"{one.exercise} {one.title}") for one in entries]
    parts = np.array([one.outcomes for one in entries], dtype=float)
    parts /= np.maximum(1, parts.sum(axis=1, keepdims=True))
    places = np.arange(len(entries))
    with _figure(7.6, 0.95 + 0.3 * len(entries)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.4))
        start = np.zeros(len(entries))
        for (color, hatch), word, part in zip(OUTCOMES, TEXT["outcomes"], parts.T, strict=True):
            left.barh(places, part, 0.72, left=start, color=color, hatch=hatch, edgecolor="#ffffffaa", lw=0, label=word)
            start += part
        left.set(yticks=places, xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(len(entries) - 0.4, -0.6))
        left.set_yticks(places, names)
        left.set_xticks((0, 0.5, 1), ("0%", "50%", "100%"))
        left.tick_params(axis="y", length=0)
        left.spines["left"].set_visible(False)
        _dots(right, entries)
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return _svg(figure, name, TEXT["outcomes_alt"])


def _dots(ax, entries):
    ax.axvspan(-1, WEAK, color=ORANGE, alpha=0.18, lw=0)
    ax.axvline(0, color=INK, lw=0.6)
    for place, one in enumerate(entries):
        value = one.discrimination
        if value is None:
            ax.text(0.5, place, "–", ha="center", va="center", fontsize=9)
        else:
            ax.plot([0, value], [place, place], color=INK, lw=1.5)
            ax.plot([value], [place], "o" if value >= WEAK else "D", color=INK if value >= WEAK else VERMILION, ms=6)
    lowest = min([0.0, *(one.discrimination or 0.0 for one in entries)])
    ax.set(xlim=(min(-0.1, lowest - 0.1), 1), xlabel=TEXT["discrimination"])
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def glance(values, entries) -> Markup:
    """The whole class in one picture: a row a student, a column an exercise."""
    students, columns = values.shape
    with _figure(7.6, float(np.clip(0.9 + 0.13 * students, 2.2, 7.5))) as figure:
        ax = figure.subplots()
        colors = matplotlib.colormaps["cividis"].with_extremes(bad=(0, 0, 0, 0))
        image = ax.imshow(values, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        firsts = [n for n, one in enumerate(entries) if n == 0 or one.chapter != entries[n - 1].chapter]
        for place in firsts[1:]:
            ax.axvline(place - 0.5, color=INK, lw=1.2)
        shown = list(range(columns)) if columns <= MOST_TICKS else firsts
        ax.set_xticks(shown, [_short(entries[n].exercise) for n in shown], fontsize=8)
        ax.set(yticks=[], ylabel=TEXT["students"])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02, label=TEXT["share"], ticks=(0, 0.5, 1))
        bar.ax.set_yticklabels(("0%", "50%", "100%"))
        bar.outline.set_visible(False)
    return _svg(figure, "glance", TEXT["glance_alt"].format(students=students, exercises=columns))


def _short(title, limit=34):
    title = "".join(filter(str.isprintable, title))  # a control character or half a one stops the drawing
    return title if len(title) <= limit else title[: limit - 1].rstrip() + "…"


def _figure(width, height):
    return _styled(new_figure(width, height))


class _styled:
    """The course's figure, with the ink of this page."""

    def __init__(self, inner):
        self.inner, self.ours = inner, matplotlib.rc_context(SVG_STYLE)

    def __enter__(self):
        figure = self.inner.__enter__()
        self.ours.__enter__()
        return figure

    def __exit__(self, *error):
        self.ours.__exit__(*error)
        return self.inner.__exit__(*error)


def _svg(figure, name, alt):
    out = io.StringIO()
    with matplotlib.rc_context(SVG_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a title in a script that matplotlib's font lacks; the browser has one
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Ids are unique in one drawing and not in a page of several.
    text = re.sub(r'\b(id="|href="#|url\(#)', lambda found: found[1] + f"{name}-", text)
    text = text.replace(INK, "currentColor")
    label = f'<svg role="img" aria-label="{html.escape(alt)}" '
    return Markup(text.replace("<svg ", label, 1))
