"""Batches of texts: a row for each row of the batch, a colour for each text, and padding hatched."""

import matplotlib.colors
import matplotlib.patches
import numpy as np

from attn_ref.plots.style import FORBIDDEN, OKABE_ITO, Picture, by_name, named, new_figure
from attn_ref.shapes import at_hand, whole_array

MOST_NUMBERED = 20  # positions of a row; beyond that a text's number stands once, at its start


def batches(named_batches, title=""):
    """Which text each position holds, batches side by side.  {name: (rows, n) whole numbers, negative = padding}"""
    texts = {
        name: np.asarray(at_hand(whole_array(x, name, axes=2)))
        for name, x in by_name(named_batches, "named_batches", '{"padded": doc_ids}').items()
    }
    for name, ids in texts.items():
        if not ids.size:
            raise ValueError(f"{name} is empty, shape {ids.shape}; there is nothing to draw")
    most_rows = max(len(ids) for ids in texts.values())
    widths = [ids.shape[1] for ids in texts.values()]
    with new_figure(min(11.0, 1.4 + 0.27 * sum(widths)), 1.1 + 0.3 * most_rows) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(texts), width_ratios=widths))
        for axes, (name, ids) in zip(panels, texts.items(), strict=True):
            _one_batch(axes, ids)
            axes.set(xlim=(0, ids.shape[1]), ylim=(most_rows, 0), title=name, xlabel="position", ylabel="row")
            axes.set_yticks(np.arange(len(ids)) + 0.5, range(len(ids)))
            places = range(0, ids.shape[1], -(-ids.shape[1] // MOST_NUMBERED))
            axes.set_xticks([place + 0.5 for place in places], places)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0, labelsize=8)
        figure.suptitle(title or None)
    told = "; ".join(
        f"{name}, {_count(len(ids))} of {ids.shape[1]} positions, holds {len(np.unique(ids[ids >= 0]))} texts and "
        f"{(ids < 0).sum()} positions of padding"
        for name, ids in texts.items()
    )
    return Picture(figure, f"Batches of texts{named(title)}: {told}")


def _one_batch(axes, ids):
    for (row, position), text in np.ndenumerate(ids):
        first = position == 0 or ids[row, position - 1] != text
        if text < 0:
            look = FORBIDDEN
        else:
            color = matplotlib.colors.to_rgb(OKABE_ITO[text % 6])
            light = tuple(0.45 * channel + 0.55 for channel in color)  # so that numbers can be read on it
            look = {"fc": light, "ec": "white", "lw": 0.6}
        axes.add_patch(matplotlib.patches.Rectangle((position, row + 0.08), 1, 0.84, **look))
        if text >= 0 and (ids.shape[1] <= MOST_NUMBERED or first):
            axes.text(position + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8)


def _count(rows):
    return "1 row" if rows == 1 else f"{rows} rows"
