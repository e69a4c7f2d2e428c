"""Memory as cells: who lies in which slot, and which slots are free. Derived in course/09_kv_cache."""

import matplotlib.patches

from attn_ref.plots.style import FORBIDDEN, Picture, by_name, named, new_figure

LIGHT = ("#A9D3EE", "#F3D9A4", "#A8DDC9", "#E8C4DA", "#F7CBB0", "#D9D9D9")  # Okabe-Ito, pale enough to read on


def slots(rows, title="", of_a_row="slot"):
    """Rows of slots, each with what lies in it.  {row name: [(owner, text) or None]}

    None is a free slot and is hatched. Slots of one owner share a colour; the text should name what tells them apart.
    """
    rows = by_name(rows, "rows", '{"block 0": [("a", "a0"), None]}')
    for name, cells in rows.items():
        if not isinstance(cells, (list, tuple)) or not cells:
            raise TypeError(f"row {name!r} must be a list of slots, not empty, got {type(cells).__name__}")
        for cell in cells:
            if cell is not None and (not isinstance(cell, (list, tuple)) or len(cell) != 2):
                raise TypeError(f"a slot of row {name!r} must be None or a pair (owner, text), got {cell!r:.40}")
    owners = list(dict.fromkeys(cell[0] for cells in rows.values() for cell in cells if cell is not None))
    width = max(len(cells) for cells in rows.values())
    with new_figure(min(11.0, 1.6 + 0.55 * width), 0.9 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        for y, cells in enumerate(rows.values()):
            for x, cell in enumerate(cells):
                number = None if cell is None else owners.index(cell[0])
                look = FORBIDDEN if cell is None else {"fc": LIGHT[number % 6], "ec": "#666", "lw": 0.8}
                axes.add_patch(matplotlib.patches.Rectangle((x, y), 1, 1, **look))
                if cell is not None:
                    axes.text(x + 0.5, y + 0.5, str(cell[1]), ha="center", va="center", fontsize=9)
        axes.set(xlim=(0, width), ylim=(len(rows), 0), title=title, xlabel=of_a_row)
        axes.set_xticks([x + 0.5 for x in range(width)], range(width))
        axes.set_yticks([y + 0.5 for y in range(len(rows))], list(rows))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    told = (
        f"{name}: {', '.join('free' if cell is None else str(cell[1]) for cell in cells)}"
        for name, cells in list(rows.items())[:12]
    )
    return Picture(figure, f"Slots of memory{named(title)}. {'; '.join(told)}")
