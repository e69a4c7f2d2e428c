"""Which program of a kernel touches which number of a tensor. Derived in course/12_triton_kernel."""

import matplotlib.colors
import matplotlib.patches
import numpy as np

from attn_ref.plots.style import FORBIDDEN, OKABE_ITO, Picture, by_name, named, new_figure
from attn_ref.shapes import at_hand, whole_array

NOBODY, SEVERAL = -1, -2
LARGEST_NUMBERED = 24  # entries along an axis; beyond that each run of one program is numbered once


def programs(named_maps, title=""):
    """A map for each tensor: its entries coloured and numbered by program.  {name: (n,) or (n, m) whole numbers}

    -1 is an entry that nobody touches, hatched; -2 one that several programs touch, marked with a star.
    """
    maps = {
        name: np.atleast_2d(at_hand(whole_array(x, name, axes=np.ndim(x))))
        for name, x in by_name(named_maps, "named_maps", '{"out": seen.writers(out)}').items()
    }
    for name, x in maps.items():
        if x.ndim != 2 or not x.size:
            raise ValueError(f"{name} needs a shape (n,) or (n, m), not empty, got {np.shape(named_maps[name])}")
    across = all(len(x) == 1 for x in maps.values())  # vectors are drawn one below the other
    widths, heights = [x.shape[1] for x in maps.values()], [len(x) for x in maps.values()]
    if across:
        side = min(0.3, 9.5 / max(widths))
        size = 1.2 + side * max(widths), 0.75 * len(maps) + 0.5
    else:
        side = min(0.3, 9.5 / sum(widths), 5.5 / max(heights))
        size = max(1.9 * len(maps), side * sum(widths) + 0.9 * len(maps)), side * max(heights) + 1.2
    with new_figure(*size) as figure:
        shape = (len(maps), 1) if across else (1, len(maps))
        panels = np.atleast_1d(figure.subplots(*shape, width_ratios=[1] if across else widths)).ravel()
        for axes, (name, x) in zip(panels, maps.items(), strict=True):
            _one_map(axes, x)
            axes.set(xlim=(0, max(widths) if across else x.shape[1]), ylim=(len(x), 0), aspect="equal", title=name)
            axes.set_yticks([] if len(x) == 1 else _ticks(len(x)))
            axes.set_xticks(_ticks(x.shape[1]))
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0, labelsize=8)
        figure.suptitle(title or None)
    return Picture(figure, f"Entries by program{named(title)}: {'; '.join(_told(*one) for one in maps.items())}")


def _one_map(axes, x):
    small = max(x.shape) <= LARGEST_NUMBERED
    if (x == NOBODY).any():
        axes.add_patch(matplotlib.patches.Rectangle((0, 0), x.shape[1], len(x), **FORBIDDEN))
    for (row, column), program in np.ndenumerate(x):
        if program == NOBODY:
            continue
        if program == SEVERAL:
            look = {"fc": "#bbb"}
        else:
            color = matplotlib.colors.to_rgb(OKABE_ITO[program % 6])
            look = {"fc": tuple(0.45 * part + 0.55 for part in color)}
        look |= {"ec": "white" if small else look["fc"], "lw": 0.5}
        axes.add_patch(matplotlib.patches.Rectangle((column, row), 1, 1, **look))
        same_left = column > 0 and x[row, column - 1] == program
        same_above = row > 0 and x[row - 1, column] == program
        if small or not (same_left or same_above):
            text = "*" if program == SEVERAL else program
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8 if small else 6.5)


def _ticks(n):
    step = max(1, -(-n // 8))
    return [*range(0, n - step // 2, step), n]  # room before the last


def _told(name, x):
    shape = " by ".join(map(str, x.shape[1:] if len(x) == 1 else x.shape))
    parts = [f"program {p} has {int((x == p).sum())}" for p in np.unique(x[x >= 0])[:8]]
    parts += [f"{int((x == SEVERAL).sum())} shared by several"] * bool((x == SEVERAL).any())
    parts += [f"{int((x == NOBODY).sum())} touched by nobody"] * bool((x == NOBODY).any())
    return f"{name}, {shape}, {', '.join(parts)}"
