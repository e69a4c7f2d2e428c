"""Maps: a matrix as a grid of colours, queries down and keys across, with its numbers while they can be read."""

import matplotlib.patches
import numpy as np

from attn_ref.plots.style import FORBIDDEN, Picture, by_name, fitting_labels, named, new_figure, numbers
from attn_ref.scores import attention_scores
from attn_ref.shapes import boolean_array, is_tensor
from attn_ref.softmax import softmax

LARGEST_ANNOTATED = 80  # entries; beyond that numbers in cells are unreadable
MANY = 1600  # cells; beyond that the lines between hatched ones are too fine to see
IN_A_ROW = 4


def weights(array, queries=None, keys=None, title="", allowed=None):
    """A map of attention weights, 0 to 1.  (n_q, n_k), or (heads, n_q, n_k) drawn side by side"""
    return _maps(array, queries, keys, title, allowed, "cividis", (0.0, 1.0), "weight")


def scores(array, queries=None, keys=None, title="", allowed=None):
    """A map of scores, blue below 0 and red above.  (n_q, n_k)"""
    array = _panels(array)
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=1e-9))
    return _maps(array, queries, keys, title, allowed, "RdBu_r", (-largest, largest), "score")


def mask(allowed, queries=None, keys=None, title=""):
    """Who may look at whom: 1 where allowed, hatched where not.  (n_q, n_k) bool"""
    allowed = _true_or_false(allowed, "allowed")
    return _maps(allowed.astype(float), queries, keys, title, allowed, "cividis", (0.0, 1.0), "")


def masks(named_masks, title=""):
    """A zoo of masks, four in a row: filled where a query may look, hatched where not.  {name: (n_q, n_k) bool}"""
    example = '{"causal": causal_mask(8, 8)}'
    zoo = {name: _true_or_false(x, name) for name, x in by_name(named_masks, "named_masks", example).items()}
    for name, allowed in zoo.items():
        if allowed.ndim != 2:
            raise ValueError(f"mask {name!r} must be (n_q, n_k), got shape {allowed.shape}; index the batch first")
    columns = min(IN_A_ROW, len(zoo))
    rows = -(-len(zoo) // columns)
    with new_figure(2.6 * columns, 2.7 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (name, allowed) in zip(panels, zoo.items(), strict=False):
            n_q, n_k = allowed.shape
            axes.add_patch(matplotlib.patches.Rectangle((-0.5, -0.5), n_k, n_q, **FORBIDDEN))
            axes.pcolormesh(
                *np.meshgrid(np.arange(n_k + 1) - 0.5, np.arange(n_q + 1) - 0.5), np.where(allowed, 1.0, np.nan),
                cmap="cividis", vmin=0, vmax=1.15, edgecolors="#333" if max(n_q, n_k) <= 24 else "none", linewidth=0.4,
            )  # fmt: skip
            axes.set(xlim=(-0.5, n_k - 0.5), ylim=(n_q - 0.5, -0.5), aspect="equal")
            _ticks(axes, None, None, n_q, n_k, ("query", "key"))
            axes.tick_params(labelsize=7)
            axes.spines[:].set_visible(False)
            axes.set_title(name)
        for axes in panels[len(zoo) :]:
            axes.set_visible(False)
        figure.suptitle(title or None)
    told = "; ".join(
        f"{name}, {x.shape[0]} queries by {x.shape[1]} keys, allows {x.sum()} of {x.size} pairs"
        for name, x in zoo.items()
    )
    return Picture(figure, f"{len(zoo)} masks{named(title)}: {told}")


def matrix(array, rows=None, columns=None, title="", unit="value"):
    """Any small matrix with its numbers, such as a table of embeddings.  (n, m)"""
    array = np.atleast_2d(numbers(array, "array", (0, 1, 2), "(n, m)"))
    largest = float(np.abs(array).max(initial=1e-9))
    return _maps(array, rows, columns, title, None, "RdBu_r", (-largest, largest), unit, ("row", "column"))


def matrices(named_matrices, title="", unit="value"):
    """Small matrices side by side with their numbers, on one colour scale.  {name: (n, m)}"""
    named_matrices = {
        name: np.atleast_2d(numbers(x, name, (0, 1, 2), "(n, m)"))
        for name, x in by_name(named_matrices, "named_matrices", '{"q": q, "k": k}').items()
    }
    largest = max(float(np.abs(array).max(initial=1e-9)) for array in named_matrices.values())
    widths = [1 + array.shape[1] for array in named_matrices.values()]
    height = 1.2 + 0.48 * max(len(array) for array in named_matrices.values())
    with new_figure(min(12.0, 1.0 + 0.62 * sum(widths)), height) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(named_matrices), width_ratios=widths))
        for axes, (name, array) in zip(panels, named_matrices.items(), strict=True):
            image = _one_map(axes, array, None, "RdBu_r", (-largest, largest))
            _ticks(axes, None, None, *array.shape, ("row", "column"))
            axes.set_title(name)
        _bar(figure, image, list(panels), unit, list(named_matrices.values()))
        figure.suptitle(title or None)
    told = (_map_alt(array, None, None, name, unit, ("row", "column")) for name, array in named_matrices.items())
    return Picture(figure, " ".join(told))


def formula(x, tokens):
    """The whole of self-attention on one page: scores → weights, times values → output.  x (n, d)"""
    x = numbers(x, "x", (2,), "(n, d)")
    fitting_labels(tokens, len(x), "tokens")
    all_scores = attention_scores(x, x, scale=3.0)  # a sharper scale than 1/√d, so that the picture has contrast
    shares = softmax(all_scores)
    panels = (
        ("scores  3 q·k", all_scores, tokens, "RdBu_r", float(np.abs(all_scores).max())),
        ("weights  softmax of each row", shares, tokens, "cividis", None),
        ("values  v", x, range(x.shape[1]), "RdBu_r", 1.0),
        ("output  weights @ v", shares @ x, range(x.shape[1]), "RdBu_r", 1.0),
    )
    with new_figure(11.0, 3.3) as figure:
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
    array = _panels(array)
    panels = array[None] if array.ndim == 2 else array
    count, n_rows, n_columns = panels.shape
    of_a = {"query": "queries", "key": "keys"}
    fitting_labels(rows, n_rows, of_a.get(axes_names[0], "rows"))
    fitting_labels(columns, n_columns, of_a.get(axes_names[1], "columns"))
    if allowed is not None:
        allowed = _spread(_true_or_false(allowed, "allowed"), (n_rows, n_columns))
    titles = [title] if array.ndim == 2 else [f"{title or 'head'} {i}" for i in range(count)]
    width = min(12.0, count * (1.6 + 0.62 * min(n_columns, 14)))
    with new_figure(width, 1.0 + 0.48 * min(n_rows, 14)) as figure:
        for i, (axes, panel) in enumerate(zip(np.atleast_1d(figure.subplots(1, count)), panels, strict=True)):
            image = _one_map(axes, panel, allowed, cmap, limits)
            _ticks(axes, rows, columns, n_rows, n_columns, axes_names)
            axes.set_title(titles[i])
            if label:
                _bar(figure, image, axes, label, [panel])
    return Picture(figure, _map_alt(panels[0], rows, columns, title, label or "mask", axes_names, allowed))


def _bar(figure, image, axes, label, shown):
    """What the colours mean; of a scale around 0 only the upper half, where nothing below 0 is shown."""
    bar = figure.colorbar(image, ax=axes, label=label, fraction=0.05, pad=0.03)
    if image.norm.vmin < 0 and not any((array[np.isfinite(array)] < 0).any() for array in shown):
        bar.ax.set_ylim(bottom=0)


def _one_map(axes, panel, allowed, cmap, limits):
    finite = np.where(np.isfinite(panel), panel, np.nan)
    image = axes.imshow(finite, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    forbidden = np.isneginf(panel) if allowed is None else np.isneginf(panel) | ~allowed
    for i, first, last in _runs(forbidden) if panel.size > MANY else ((i, j, j) for i, j in np.argwhere(forbidden)):
        axes.add_patch(matplotlib.patches.Rectangle((first - 0.5, i - 0.5), last - first + 1, 1, **FORBIDDEN))
    for (i, j), value in np.ndenumerate(panel) if panel.size <= LARGEST_ANNOTATED else ():
        if not forbidden[i, j]:
            shade = image.cmap(image.norm(value))
            dark = np.isfinite(value) and 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.55
            text = f"{value:.0f}" if value.is_integer() else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color="white" if dark else "black")
    axes.spines[:].set_visible(False)
    return image


def _runs(cells):
    """Runs of True in each row, since hatching cell by cell takes minutes.  (n, m) bool -> (row, first, last), ..."""
    for i, row in enumerate(cells):
        starts, ends = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]]))).reshape(-1, 2).T
        yield from ((i, first, end - 1) for first, end in zip(starts, ends, strict=True))


def _ticks(axes, rows, columns, n_rows, n_columns, names):
    for axis, labels, n, name in ((axes.yaxis, rows, n_rows, names[0]), (axes.xaxis, columns, n_columns, names[1])):
        if labels is not None or n <= 14:
            axis.set_ticks(range(n), [str(label) for label in (labels if labels is not None else range(n))])
        if name not in ("row", "column") or labels is None:  # named rows say themselves what they are
            axis.set_label_text(name)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)


def _map_alt(panel, rows, columns, title, label, names, allowed=None):
    seen = np.isfinite(panel) if allowed is None else np.isfinite(panel) & allowed
    n_rows, n_columns = panel.shape
    text = f"Map{named(title)} of {label}, {_count(n_rows, names[0])} by {_count(n_columns, names[1])}."
    if n_rows <= 8:
        for i, row in enumerate(panel):
            j = int(np.argmax(np.where(seen[i], row, -np.inf)))
            row_name, column_name = rows[i] if rows is not None else i, columns[j] if columns is not None else j
            holds = "holds nan" if np.isnan(row).any() else f"is largest at {column_name} ({row[j]:.2f})"
            text += f" Row {row_name} {holds}."
    return text


def _panels(array):
    """One map or several, (n_q, n_k) or (heads, n_q, n_k); a single row counts as a map."""
    array = numbers(array, "array", range(9), "(n_q, n_k)")
    array = array[None] if array.ndim == 1 else array
    if array.ndim not in (2, 3):
        raise ValueError(f"a map needs (n_q, n_k) or (heads, n_q, n_k), got shape {array.shape}; index the batch first")
    return array


def _true_or_false(x, name):
    """A mask as NumPy; 0 and 1 are taken for what they say here, other numbers are refused."""
    x = x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)
    if x.dtype.kind in "iu" and ((x == 0) | (x == 1)).all():
        x = x == 1
    x = boolean_array(x, name)
    if not x.size:
        raise ValueError(f"{name} is empty, shape {x.shape}; there is nothing to draw")
    return x


def _spread(allowed, shape):
    try:
        return np.broadcast_to(allowed, shape)
    except ValueError:
        raise ValueError(f"allowed has shape {allowed.shape}, which does not broadcast to the map's {shape}") from None


def _count(n, name):
    return f"{n} {'queries' if name == 'query' else name + 's'}"
