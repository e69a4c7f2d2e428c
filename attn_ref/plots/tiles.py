"""The walk over tiles: which a kernel computes, in which order, which it never touches. Derived in course/10."""

import matplotlib.patches
import numpy as np

from attn_ref.cost import tile_map
from attn_ref.plots.style import FORBIDDEN, OKABE_ITO, Picture, named, new_figure
from attn_ref.shapes import whole_number

KINDS = ("skipped", "masked inside", "computed whole")
LOOKS = (
    FORBIDDEN,
    {"fc": "#F3D9A4", "ec": "#666", "hatch": "..", "lw": 0.6},  # light, so that numbers can be read on it
    {"fc": "#A9D3EE", "ec": "#666", "lw": 0.6},
)
MOST_NUMBERED = 160


def tile_walk(n_q, n_k, tile_q, tile_k, *, causal=False, window=None, q_offset=None, step=None, title=""):
    """A kernel's walk over the tiles of n_q × n_k scores, with the options of `attention`.

    Numbers give the order: tiles of queries from the top, and for each the tiles of keys it can see. `step` stops the
    walk at that tile: it is outlined, and those still to come are empty, for a film in stills.
    """
    states = tile_map(n_q, n_k, tile_q, tile_k, causal=causal, window=window, q_offset=q_offset)
    if not states.size:
        raise ValueError(f"there is nothing to draw: n_q={n_q} and n_k={n_k} give no tile")
    counts = [int((states == kind).sum()) for kind in range(3)]
    order = np.where(states > 0, np.cumsum(states.ravel() > 0).reshape(states.shape), 0)  # 1, 2, 3, … or 0: skipped
    if step is not None and not 1 <= whole_number(step, "step") <= order.max():
        raise ValueError(f"step must be 1..{order.max()}, the tiles visited, got {step}")
    side = 4.4 / max(n_q, n_k)
    with new_figure(max(3.4, n_k * side + 0.7), max(1.4, n_q * side) + 1.3) as figure:
        axes = figure.subplots()
        for (row, column), state in np.ndenumerate(states):
            q0, k0 = row * tile_q, column * tile_k
            corner, size = (k0, q0), (min(tile_k, n_k - k0), min(tile_q, n_q - q0))
            to_come = step is not None and order[row, column] > step
            look = LOOKS[state] | ({"fc": "white", "hatch": ""} if to_come else {})
            axes.add_patch(matplotlib.patches.Rectangle(corner, *size, clip_on=False, **look))
            if state and counts[1] + counts[2] <= MOST_NUMBERED:
                middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
                box = {
                    "boxstyle": "round,pad=0.15",
                    "fc": look["fc"],
                    "ec": "none",
                }  # no dots behind digits
                axes.text(*middle, order[row, column], ha="center", va="center", fontsize=8, bbox=box)
            if step is not None and order[row, column] == step:
                axes.add_patch(matplotlib.patches.Rectangle(corner, *size, fill=False, ec=OKABE_ITO[1], lw=3, zorder=3))
        axes.set(xlim=(0, n_k), ylim=(n_q, 0), aspect="equal", title=title)
        axes.set(xlabel=f"key, in tiles of {tile_k}", ylabel=f"query, in tiles of {tile_q}")
        axes.set_xticks(_edges(n_k, tile_k))
        axes.set_yticks(_edges(n_q, tile_q))
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        legend = [
            matplotlib.patches.Patch(**look, label=f"{kind}: {count}")
            for look, kind, count in zip(LOOKS, KINDS, counts, strict=True)
        ]
        figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    alt = (
        f"Walk{named(title)} over {states.shape[0]} by {states.shape[1]} tiles of {tile_q} queries and {tile_k} keys: "
        f"{counts[2]} computed whole, {counts[1]} masked inside, {counts[0]} skipped."
    )
    if step is not None:
        row, column = (int(i[0]) for i in np.nonzero(order == step))
        alt += f" Step {step} is at tile row {row}, column {column}."
    return Picture(figure, alt)


def _edges(n, tile):
    """The first entry of each tile and the end, thinned until the numbers have room."""
    every = -(-n // tile // 12) or 1
    return sorted({*range(0, n, tile * every), n})
