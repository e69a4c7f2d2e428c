"""The roofline: what intensity allows, as a slope up to the ridge and a flat roof beyond. Derived in course/08_cost."""

import numpy as np
from matplotlib.ticker import LogFormatter

from attn_ref.cost import attainable_flops_per_s, bound_by
from attn_ref.plots.style import MARKERS, OKABE_ITO, Picture, by_name, named, new_figure, numbers
from attn_ref.shapes import real_number

UNITS = ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1.0, "FLOP/s"))


def roofline(points, peak_flops_per_s, bytes_per_s, title=""):
    """Named points under a machine's roof.  {name: intensity} or {name: (intensity, measured FLOP/s)}

    A bare intensity (FLOP/byte) is drawn on the roof, as what could be reached; a measurement under it, with a dotted
    line up to the roof. Source: Williams et al. (2009).
    """
    peak = real_number(peak_flops_per_s, "peak_flops_per_s", above=0)
    bandwidth = real_number(bytes_per_s, "bytes_per_s", above=0)
    placed = {name: _place(name, point) for name, point in by_name(points, "points", '{"decode": 1.0}').items()}
    ridge, scale, unit = peak / bandwidth, *next((s, u) for s, u in UNITS if peak >= s or s == 1.0)
    reach = [ridge, *(x for x, _ in placed.values())]
    x = np.array([min(*reach, ridge / 6) / 4, ridge, max(reach) * 4])  # room for words left of the ridge
    told = []
    with new_figure(6.4, 3.9) as figure:
        axes = figure.subplots()
        axes.plot(x, np.minimum(peak, x * bandwidth) / scale, color="black", lw=2)
        axes.axvline(ridge, color="#888", lw=0.8, ls="--")
        for i, (name, (intensity, measured)) in enumerate(placed.items()):
            roof = attainable_flops_per_s(intensity, peak, bandwidth)
            reached = roof if measured is None else measured
            label = f"{name}: {_short(intensity)} FLOP/byte, "
            label += f"≤ {_short(roof / scale)} {unit}" if measured is None else f"{measured / roof:.0%} of the roof"
            style = {"color": OKABE_ITO[i % 6], "marker": MARKERS[i % 7], "ms": 8, "mec": "white", "ls": "none"}
            axes.plot((intensity, intensity), (reached / scale, roof / scale), color=OKABE_ITO[i % 6], ls=":")
            axes.plot(intensity, reached / scale, label=label, zorder=3, **style)
            told.append(f"{label}, bound by {bound_by(intensity, peak, bandwidth)}")
        axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), title=title)
        axes.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel=unit)
        lowest, highest = axes.get_ylim()
        axes.set_ylim(lowest / 1.6, highest * 3)
        for at, text, side in ((ridge / 1.15, "memory sets the pace", "right"), (ridge * 1.15, "compute does", "left")):
            axes.text(at, highest * 1.7, text, ha=side, va="center", fontsize=8.5, color="#555")
        axes.annotate(
            f"ridge {_short(ridge)} FLOP/byte", (ridge, lowest / 1.6), xytext=(4, 6), textcoords="offset points",
            fontsize=8.5, color="#555",
        )  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
            axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))  # 20 and 60 where there is no 10
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", frameon=False, fontsize=8.5, ncols=1 if len(placed) < 4 else 2)
    alt = f"Roofline{named(title)}: peak {_short(peak / scale)} {unit}, ridge at {_short(ridge)} FLOP/byte. "
    return Picture(figure, alt + "; ".join(told))


def _place(name, point):
    """(intensity, measured FLOP/s or None) of one point, both above 0 as logarithmic axes need."""
    values = numbers(point, f"point {name!r}", (0, 1), "() or (2,): intensity, or (intensity, FLOP/s)").ravel()
    if len(values) > 2:
        raise ValueError(f"point {name!r} must be intensity or (intensity, FLOP/s), got {len(values)} numbers")
    checked = [real_number(x, f"point {name!r}", above=0) for x in values]
    return checked[0], checked[1] if len(checked) == 2 else None


def _short(value):
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
