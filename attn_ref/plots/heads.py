"""The head view: queries in one column, keys in the other, a line for each weight, as thick as the weight is large."""

import numpy as np

from attn_ref.plots.style import OKABE_ITO, Picture, fitting_labels, named, new_figure, numbers
from attn_ref.shapes import whole_number

IN_A_ROW = 4
FAINTEST = 0.02  # weights below this would be a haze of hairlines


def head_view(weights, queries=None, keys=None, title="", only=None):
    """Who looks at whom, a panel for each head.  (n_q, n_k) or (heads, n_q, n_k)

    `only` draws the lines of one query and leaves the others pale. Source: the head view of Vig (2019), standing still.
    """
    weights = numbers(weights, "weights", (2, 3), "(n_q, n_k) or (heads, n_q, n_k)")
    if not (weights.min() >= 0 and weights.max() <= 1.01):
        raise ValueError(f"weights must lie in 0..1, got {weights.min():.3g}..{weights.max():.3g}; are these scores?")
    panels = weights[None] if weights.ndim == 2 else weights
    count, n_q, n_k = panels.shape
    queries = [str(x) for x in (range(n_q) if fitting_labels(queries, n_q, "queries") is None else queries)]
    keys = [str(x) for x in (range(n_k) if fitting_labels(keys, n_k, "keys") is None else keys)]
    if only is not None and whole_number(only, "only", least=0) >= n_q:
        raise ValueError(f"only must be one of the queries 0..{n_q - 1}, got {only}")
    columns = min(IN_A_ROW, count)
    rows = -(-count // columns)
    with new_figure(2.6 * columns + 0.2, rows * (1.1 + 0.27 * max(n_q, n_k))) as figure:
        axes_of_heads = figure.subplots(rows, columns, squeeze=False).ravel()
        for head, (axes, panel) in enumerate(zip(axes_of_heads, panels, strict=False)):
            _one_head(axes, panel, queries, keys, only)
            axes.set_title("" if weights.ndim == 2 else f"head {head}")
        for axes in axes_of_heads[count:]:
            axes.set_visible(False)
        figure.suptitle(title or None)
        figure.supxlabel(f"a line's thickness is its weight; below {FAINTEST} none is drawn", fontsize=8, color="#555")
    told = " ".join(_alt(panel, queries, keys, only, head, count) for head, panel in enumerate(panels[:4]))
    size = f"{'1 head' if count == 1 else f'{count} heads'} of {n_q} queries and {n_k} keys"
    return Picture(figure, f"Head view{named(title)}, {size}. {told}")


def _one_head(axes, panel, queries, keys, only):
    for (i, j), weight in np.ndenumerate(panel):
        if weight >= FAINTEST and only in (None, i):
            axes.plot((0, 1), (i, j), color=OKABE_ITO[0], lw=4.5 * weight, alpha=0.25 + 0.75 * min(weight, 1.0))
    for i, name in enumerate(queries):
        pale = only not in (None, i)
        axes.text(-0.06, i, name, ha="right", va="center", color="#999" if pale else "black")
    for j, name in enumerate(keys):
        axes.text(1.06, j, name, ha="left", va="center")
    axes.text(-0.06, -1, "query", ha="right", va="center", color="#555", fontsize=8)
    axes.text(1.06, -1, "key", ha="left", va="center", color="#555", fontsize=8)
    axes.set(xlim=(-0.8, 1.8), ylim=(max(len(queries), len(keys)) - 0.4, -1.5))
    axes.axis("off")


def _alt(panel, queries, keys, only, head, count):
    """Where each query of a head looks most, in words; for a long text the first eight."""
    shown = range(min(8, len(queries))) if only is None else [only]
    most = ", ".join(f"{queries[i]} → {keys[panel[i].argmax()]} ({panel[i].max():.2f})" for i in shown)
    return f"{f'Head {head}: ' if count > 1 else ''}most looked at: {most}."
