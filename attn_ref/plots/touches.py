"""Who touches what: the iterations of a parallel loop go down, the numbers of an array across."""

import matplotlib.patches
import numpy as np

from attn_ref.plots.style import OKABE_ITO, Picture, by_name, fitting_labels, named, new_figure, numbers

LOOKS = {1: {"fc": "#D6EAF6", "ec": "#666", "lw": 0.6}, 2: {"fc": OKABE_ITO[0], "ec": "#666", "lw": 0.6}}
WORDS = {1: "reads", 2: "writes"}
RACE = {"fc": "none", "ec": OKABE_ITO[1], "hatch": "//", "lw": 2.2}


def touches(tables, title="", iterations=None):
    """What each iteration does to each number.  {array: (iterations, numbers) of 0 nothing, 1 reads, 2 writes}

    A number that two iterations touch, at least one of them writing, is raced for: its column is framed and hatched.
    `iterations` names the rows. Used in course/11_numba_kernel.
    """
    tables = {
        name: numbers(x, name, (2,), "(iterations, numbers)")
        for name, x in by_name(tables, "tables", '{"out": seen.table(out)}').items()
    }
    for name, table in tables.items():
        if not np.isin(table, (0, 1, 2)).all():
            raise ValueError(f"{name} must hold 0 (nothing), 1 (reads) and 2 (writes) alone; is it seen.table(array)?")
        fitting_labels(iterations, len(table), "iterations")
    told = []
    width = sum(0.42 * table.shape[1] + 1.1 for table in tables.values())
    height = 1.5 + 0.36 * max(len(table) for table in tables.values())
    with new_figure(max(4.2, width), height) as figure:
        ratios = [table.shape[1] + 1 for table in tables.values()]
        panels = np.atleast_1d(figure.subplots(1, len(tables), width_ratios=ratios))
        for axes, (name, table) in zip(panels, tables.items(), strict=True):
            raced = [j for j, column in enumerate(table.T) if (column > 0).sum() > 1 and column.max() == 2]
            _one_table(axes, table, raced, iterations)
            axes.set_title(name, pad=10)
            told.append(f"{name}: {len(table)} iterations, {table.shape[1]} numbers, {len(raced)} of them raced for")
        legend = [matplotlib.patches.Patch(**LOOKS[kind], label=WORDS[kind]) for kind in LOOKS]
        legend.append(matplotlib.patches.Patch(**RACE, label="raced for"))
        figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        figure.suptitle(title or None)
    return Picture(figure, f"Who touches what{named(title)}. {'; '.join(told)}")


def _one_table(axes, table, raced, iterations):
    rows, columns = table.shape
    for (i, j), kind in np.ndenumerate(table):
        look = LOOKS.get(int(kind), {"fc": "white", "ec": "#ccc", "lw": 0.6})
        axes.add_patch(matplotlib.patches.Rectangle((j - 0.5, i - 0.5), 1, 1, **look))
        if kind:
            color = "white" if kind == 2 else "black"
            axes.text(
                j, i, WORDS[int(kind)][0], ha="center", va="center", fontsize=9, weight="bold", color=color, zorder=4
            )
    for j in raced:
        axes.add_patch(matplotlib.patches.Rectangle((j - 0.5, -0.5), 1, rows, zorder=3, **RACE))
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), xlabel="number")
    axes.set_ylabel("iteration")
    axes.set_yticks(range(rows), range(rows) if iterations is None else [str(name) for name in iterations])
    axes.set_xticks(range(columns) if columns <= 16 else range(0, columns, 4))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
