"""Charts: bars, lines, distributions, arrows. Each series has a colour, a dash or hatch, and a marker of its own."""

import numpy as np

from attn_ref.plots.style import (
    HATCHES,
    MARKERS,
    OKABE_ITO,
    STYLES,
    Picture,
    by_name,
    fitting_labels,
    named,
    new_figure,
    numbers,
    same_length,
)
from attn_ref.shapes import real_number, whole_number


def bars(heights, labels=None, title="", ylabel="weight", limit=None):
    """One bar for each entry, with its number.  (n,), or {name: (n,)} drawn side by side"""
    series = by_name(heights, "heights", '{"a": [1, 2]}') if isinstance(heights, dict) else {"": heights}
    series = {name: numbers(values, name or "heights", (1,), "(n,)") for name, values in series.items()}
    count = len(next(iter(series.values())))
    same_length(series, count, "bars")
    fitting_labels(labels, count, "labels")
    labels = [str(label) for label in (labels if labels is not None else range(count))]
    with new_figure(max(4.0, 0.55 * count * max(1, 0.7 * len(series))), 2.8) as figure:
        axes = figure.subplots()
        width = 0.8 / len(series)
        for i, (name, values) in enumerate(series.items()):
            x = np.arange(count) + (i - (len(series) - 1) / 2) * width
            drawn = axes.bar(x, values, width * 0.92, label=name, color=OKABE_ITO[i % 7], hatch=HATCHES[i % 4])
            if count * len(series) <= 24:
                axes.bar_label(drawn, [f"{value:.2f}" for value in values], fontsize=8, padding=2)
        axes.set_xticks(range(count), labels)
        axes.set(title=title, ylabel=ylabel)
        if limit is not None:
            axes.set_ylim(0, real_number(limit, "limit", above=0))
        elif any((values < 0).any() for values in series.values()):
            axes.margins(y=0.12)  # room for the numbers below bars that point down
            axes.axhline(0, color="#0006", lw=0.8)
        if len(series) > 1:
            figure.legend(loc="outside upper right", ncols=len(series), frameon=False)
    told = "; ".join(
        f"{name + ': ' if name else ''}" + ", ".join(f"{a} {b:.2f}" for a, b in zip(labels[:12], values, strict=False))
        for name, values in series.items()
    )
    return Picture(figure, f"Bar chart{named(title)} of {ylabel}. {told}")


def lines(x, series, title="", xlabel="", ylabel="", logx=False, logy=False):
    """Named lines over common x, each with its own colour, dash and marker.  {name: (n,)}"""
    x = numbers(x, "x", (1,), "(n,)")
    series = by_name(series, "series", '{"loss": losses}')
    series = {name: numbers(y, name, (1,), "(n,)") for name, y in series.items()}
    same_length(series, len(x), "x")
    with new_figure(6.0, 3.4) as figure:
        axes = figure.subplots()
        for i, (name, y) in enumerate(series.items()):
            mark = MARKERS[i % 7] if len(x) <= 40 else ""
            axes.plot(x, y, label=name, color=OKABE_ITO[i % 7], marker=mark, ms=4, ls=STYLES[i % 7])
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if logx:
            axes.set_xscale("log", base=2)
        elif (x == np.round(x)).all():
            axes.xaxis.get_major_locator().set_params(integer=True)  # no 2.5 heads
        if logy:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        if len(series) > 1:
            axes.legend(frameon=False)
    ends = "; ".join(f"{name} goes from {y[0]:.3g} to {y[-1]:.3g}" for name, y in series.items())
    return Picture(figure, f"Line chart{named(title)}: {ylabel} against {xlabel}. {ends}")


def histogram(series, title="", xlabel="", bins=40):
    """Distributions on one axis, as outlines.  {name: (n,)}"""
    series = by_name(series, "series", '{"scores": values}')
    series = {name: numbers(values, name, range(9), "(n,)").ravel() for name, values in series.items()}
    for name, values in series.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite to be sorted into bins, but holds NaN or inf")
    bins, every = whole_number(bins, "bins", least=1), np.concatenate(list(series.values()))
    edges = np.linspace(every.min(), every.max(), bins + 1)
    with new_figure(6.0, 3.0) as figure:
        axes = figure.subplots()
        for i, (name, values) in enumerate(series.items()):
            style = {"color": OKABE_ITO[i % 7], "ls": STYLES[i % 7], "lw": 1.8}
            axes.hist(values, edges, density=True, histtype="step", label=name, **style)
        axes.set(title=title, xlabel=xlabel, ylabel="density")
        axes.legend(frameon=False)
    told = "; ".join(f"{name} has standard deviation {np.std(values):.3g}" for name, values in series.items())
    return Picture(figure, f"Histogram{named(title)} of {xlabel}. {told}")


def arrows(points, title="", shown=None):
    """Vectors in the plane from the origin, each with its name.  {name: (2,)}; `shown` names the ones to stress"""
    points = by_name(points, "points", '{"cat": (1.0, 0.5)}')
    points = {name: numbers(point, name, (1,), "(2,)") for name, point in points.items()}
    for name, point in points.items():
        if len(point) != 2 or not np.isfinite(point).all():
            raise ValueError(f"{name} must be two finite numbers, x and y, got {point.tolist()[:8]}")
    if shown is not None and not set(shown) <= set(points):
        raise ValueError(f"shown must name some of {list(points)}, got {list(shown)}")
    reach = 1.15 * max(float(np.abs(point).max()) for point in points.values())
    with new_figure(4.2, 4.2) as figure:
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
    return Picture(figure, f"Vectors in the plane{named(title)}: {told}")
