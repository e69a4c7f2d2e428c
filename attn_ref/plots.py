"""Pictures of attention in one style: queries go down, keys go across, colour never carries meaning alone.

Every function returns a `Picture`, which a notebook shows with its alt text. Weights use cividis from 0 to 1, scores a
diverging map centred at 0, lines the Okabe-Ito colours with a marker of their own; what is forbidden is hatched.
"""

import base64
import html
import io
from contextlib import contextmanager

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure

from attn_ref.scores import attention_scores
from attn_ref.softmax import softmax

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
HATCHES = ("", "//", "..", "xx")
LARGEST_ANNOTATED = 80  # entries; beyond that numbers in cells are unreadable
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "attn",
}


class Picture:
    """A drawn figure with alt text. A notebook shows it; `save` writes it to a file."""

    def __init__(self, figure, alt):
        self.figure, self.alt = figure, alt

    def save(self, path, dpi=144):
        """Write PNG or SVG, by the file's ending."""
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(path, dpi=dpi, bbox_inches="tight", metadata={"Date": None} if _is_svg(path) else None)

    def _repr_html_(self):
        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(out, format="png", dpi=144, bbox_inches="tight")
        width = int(self.figure.get_size_inches()[0] * 96)
        data = base64.b64encode(out.getvalue()).decode("ascii")
        return (
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt, quote=True)}" '
            f'style="max-width:100%;width:{width}px;background:white;border-radius:6px;padding:4px">'
        )

    def __repr__(self):
        return f"<Picture: {self.alt}>"


def weights(array, queries=None, keys=None, title="", allowed=None):
    """A map of attention weights, 0 to 1.  (n_q, n_k), or (heads, n_q, n_k) drawn side by side"""
    return _maps(array, queries, keys, title, allowed, "cividis", (0.0, 1.0), "weight")


def scores(array, queries=None, keys=None, title="", allowed=None):
    """A map of scores, blue below 0 and red above.  (n_q, n_k)"""
    array = np.asarray(array)
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=1e-9))
    return _maps(array, queries, keys, title, allowed, "RdBu_r", (-largest, largest), "score")


def mask(allowed, queries=None, keys=None, title=""):
    """Who may look at whom: 1 where allowed, hatched where not.  (n_q, n_k) bool"""
    allowed = np.asarray(allowed, dtype=bool)
    return _maps(allowed.astype(float), queries, keys, title, allowed, "cividis", (0.0, 1.0), "")


def matrix(array, rows=None, columns=None, title="", unit="value"):
    """Any small matrix with its numbers, such as a table of embeddings.  (n, m)"""
    array = np.atleast_2d(np.asarray(array, dtype=float))
    largest = float(np.abs(array).max(initial=1e-9))
    return _maps(array, rows, columns, title, None, "RdBu_r", (-largest, largest), unit, ("row", "column"))


def matrices(named, title="", unit="value"):
    """Small matrices side by side with their numbers, on one colour scale.  {name: (n, m)}"""
    named = {name: np.atleast_2d(np.asarray(array, dtype=float)) for name, array in named.items()}
    largest = max(float(np.abs(array).max(initial=1e-9)) for array in named.values())
    widths = [1 + array.shape[1] for array in named.values()]
    height = 1.2 + 0.48 * max(len(array) for array in named.values())
    with _figure(min(12.0, 1.0 + 0.62 * sum(widths)), height) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(named), width_ratios=widths))
        for axes, (name, array) in zip(panels, named.items(), strict=True):
            image = _one_map(axes, array, None, "RdBu_r", (-largest, largest))
            _ticks(axes, None, None, *array.shape, ("row", "column"))
            axes.set_title(name)
        figure.colorbar(image, ax=list(panels), label=unit, fraction=0.05, pad=0.03)
        figure.suptitle(title or None)
    told = " ".join(_map_alt(array, None, None, name, unit, ("row", "column")) for name, array in named.items())
    return Picture(figure, told)


def bars(heights, labels=None, title="", ylabel="weight", limit=None):
    """One bar for each entry, with its number.  (n,), or {name: (n,)} drawn side by side"""
    series = heights if isinstance(heights, dict) else {"": heights}
    series = {name: np.asarray(values, dtype=float) for name, values in series.items()}
    count = len(next(iter(series.values())))
    labels = [str(label) for label in (labels if labels is not None else range(count))]
    with _figure(max(4.0, 0.55 * count * max(1, 0.7 * len(series))), 2.8) as figure:
        axes = figure.subplots()
        width = 0.8 / len(series)
        for i, (name, values) in enumerate(series.items()):
            x = np.arange(count) + (i - (len(series) - 1) / 2) * width
            drawn = axes.bar(x, values, width * 0.92, label=name, color=OKABE_ITO[i], hatch=HATCHES[i % 4])
            if count * len(series) <= 24:
                axes.bar_label(drawn, [f"{value:.2f}" for value in values], fontsize=8, padding=2)
        axes.set_xticks(range(count), labels)
        axes.set(title=title, ylabel=ylabel)
        if limit is not None:
            axes.set_ylim(0, limit)
        if len(series) > 1:
            figure.legend(loc="outside upper right", ncols=len(series), frameon=False)
    told = "; ".join(
        f"{name + ': ' if name else ''}" + ", ".join(f"{a} {b:.2f}" for a, b in zip(labels[:12], values, strict=False))
        for name, values in series.items()
    )
    return Picture(figure, f"Bar chart{_named(title)} of {ylabel}. {told}")


def lines(x, series, title="", xlabel="", ylabel="", logx=False, logy=False):
    """Named lines over common x, each with its own colour, dash and marker.  {name: (n,)}"""
    x = np.asarray(x)
    with _figure(6.0, 3.4) as figure:
        axes = figure.subplots()
        for i, (name, y) in enumerate(series.items()):
            mark = MARKERS[i % 7] if len(x) <= 40 else ""
            axes.plot(x, y, label=name, color=OKABE_ITO[i % 7], marker=mark, ms=4, ls=STYLES[i % 7])
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if logx:
            axes.set_xscale("log", base=2)
        if logy:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        if len(series) > 1:
            axes.legend(frameon=False)
    ends = "; ".join(f"{name} goes from {y[0]:.3g} to {y[-1]:.3g}" for name, y in series.items())
    return Picture(figure, f"Line chart{_named(title)}: {ylabel} against {xlabel}. {ends}")


def histogram(series, title="", xlabel="", bins=40):
    """Distributions on one axis, as outlines.  {name: (n,)}"""
    every = np.concatenate([np.ravel(values) for values in series.values()])
    edges = np.linspace(every.min(), every.max(), bins + 1)
    with _figure(6.0, 3.0) as figure:
        axes = figure.subplots()
        for i, (name, values) in enumerate(series.items()):
            style = {"color": OKABE_ITO[i], "ls": STYLES[i], "lw": 1.8}
            axes.hist(values, edges, density=True, histtype="step", label=name, **style)
        axes.set(title=title, xlabel=xlabel, ylabel="density")
        axes.legend(frameon=False)
    told = "; ".join(f"{name} has standard deviation {np.std(values):.3g}" for name, values in series.items())
    return Picture(figure, f"Histogram{_named(title)} of {xlabel}. {told}")


def arrows(points, title="", shown=None):
    """Vectors in the plane from the origin, each with its name.  {name: (2,)}; `shown` names the ones to stress"""
    reach = 1.15 * max(float(np.abs(np.asarray(point)).max()) for point in points.values())
    with _figure(4.2, 4.2) as figure:
        axes = figure.subplots()
        for i, (name, (x, y)) in enumerate(points.items()):
            stressed = shown is not None and name in shown
            color = OKABE_ITO[1] if stressed else OKABE_ITO[0]
            style = {"arrowstyle": "-|>", "color": color, "lw": 1.4, "ls": "--"} | (
                {"lw": 2.4, "ls": "-"} if stressed else {}
            )
            axes.annotate("", (x, y), (0, 0), arrowprops=style)
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 4 if i % 2 else -10), color=color)
        axes.set(title=title, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.axhline(0, color="#0003", lw=0.8)
        axes.axvline(0, color="#0003", lw=0.8)
    told = ", ".join(f"{name} at ({x:.2g}, {y:.2g})" for name, (x, y) in points.items())
    return Picture(figure, f"Vectors in the plane{_named(title)}: {told}")


def formula(x, tokens):
    """The whole of self-attention on one page: scores → weights, times values → output.  x (n, d)"""
    all_scores = attention_scores(x, x, scale=3.0)  # a sharper scale than 1/√d, so that the picture has contrast
    shares = softmax(all_scores)
    panels = (
        ("scores  3 q·k", all_scores, tokens, "RdBu_r", float(np.abs(all_scores).max())),
        ("weights  softmax of each row", shares, tokens, "cividis", None),
        ("values  v", x, range(x.shape[1]), "RdBu_r", 1.0),
        ("output  weights @ v", shares @ x, range(x.shape[1]), "RdBu_r", 1.0),
    )
    with _figure(11.0, 3.3) as figure:
        ratios = [len(tokens), len(tokens), x.shape[1], x.shape[1]]
        for axes, (title, panel, columns, cmap, limit) in zip(
            figure.subplots(1, 4, width_ratios=ratios), panels, strict=True
        ):
            _one_map(axes, panel, None, cmap, (0.0, 1.0) if limit is None else (-limit, limit))
            names = ("key" if panel is all_scores else "", "key" if len(columns) == len(tokens) else "feature")
            _ticks(axes, tokens, columns, *panel.shape, names)
            axes.set_ylabel("query" if panel is all_scores else "")
            axes.set_title(title, fontweight="bold", pad=14)
    alt = (
        f"Self-attention on “{' '.join(tokens)}” in four maps: the score of every query with every key, each row "
        "turned into weights that sum to 1, the values, and the output, which is the weighted average of the values."
    )
    return Picture(figure, alt)


def _maps(array, rows, columns, title, allowed, cmap, limits, label, axes_names=("query", "key")):
    array = np.asarray(array, dtype=float)
    if array.ndim == 1:
        array = array[None]
    panels = array[None] if array.ndim == 2 else array
    if panels.ndim != 3:
        raise ValueError(f"a map needs (n_q, n_k) or (heads, n_q, n_k), got shape {array.shape}; index the batch first")
    count, n_rows, n_columns = panels.shape
    titles = [title] if array.ndim == 2 else [f"{title or 'head'} {i}" for i in range(count)]
    width = min(12.0, count * (1.6 + 0.62 * min(n_columns, 14)))
    with _figure(width, 1.0 + 0.48 * min(n_rows, 14)) as figure:
        for i, (axes, panel) in enumerate(zip(np.atleast_1d(figure.subplots(1, count)), panels, strict=True)):
            image = _one_map(axes, panel, allowed, cmap, limits)
            _ticks(axes, rows, columns, n_rows, n_columns, axes_names)
            axes.set_title(titles[i])
            if label:
                figure.colorbar(image, ax=axes, label=label, fraction=0.05, pad=0.03)
    return Picture(figure, _map_alt(panels[0], rows, columns, title, label or "mask", axes_names))


def _one_map(axes, panel, allowed, cmap, limits):
    finite = np.where(np.isfinite(panel), panel, np.nan)
    image = axes.imshow(finite, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (i, j), value in np.ndenumerate(panel):
        forbidden = allowed is not None and not np.broadcast_to(allowed, panel.shape)[i, j]
        if forbidden or np.isneginf(value):
            axes.add_patch(
                matplotlib.patches.Rectangle((j - 0.5, i - 0.5), 1, 1, fc="#ddd", ec="#666", hatch="////", lw=0.3)
            )
        elif panel.size <= LARGEST_ANNOTATED:
            shade = image.cmap(image.norm(value))
            dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.55
            text = f"{value:.2f}" if value != int(value) else f"{value:.0f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color="white" if dark else "black")
    axes.spines[:].set_visible(False)
    return image


def _ticks(axes, rows, columns, n_rows, n_columns, names):
    for axis, labels, n, name in ((axes.yaxis, rows, n_rows, names[0]), (axes.xaxis, columns, n_columns, names[1])):
        if labels is not None or n <= 14:
            axis.set_ticks(range(n), [str(label) for label in (labels if labels is not None else range(n))])
        if name not in ("row", "column") or labels is None:  # named rows say themselves what they are
            axis.set_label_text(name)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)


def _map_alt(panel, rows, columns, title, label, names):
    n_rows, n_columns = panel.shape
    text = f"Map{_named(title)} of {label}, {_count(n_rows, names[0])} by {_count(n_columns, names[1])}."
    if n_rows <= 8:
        for i, row in enumerate(panel):
            j = int(np.nanargmax(np.where(np.isfinite(row), row, -1e30)))
            row_name, column_name = rows[i] if rows is not None else i, columns[j] if columns is not None else j
            text += f" Row {row_name} is largest at {column_name} ({row[j]:.2f})."
    return text


@contextmanager
def _figure(width, height):
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _count(n, name):
    return f"{n} {'queries' if name == 'query' else name + 's'}"


def _named(title):
    return f" “{title}”" if title else ""


def _is_svg(path):
    return str(path).endswith(".svg")
