"""Time and memory against length: the picture of what a kernel saves. Derived in course/08_cost and 11_numba_kernel."""

import numpy as np

from attn_ref.plots.style import MARKERS, OKABE_ITO, STYLES, Picture, by_name, named, new_figure, numbers, same_length

PANELS = ("time (ms)", "extra memory (MiB)")


def time_and_memory(lengths, series, title=""):
    """Time and extra memory against length, both axes doubling.  {name: (time_ms (n,), memory_mib (n,))}

    NaN where a length was not measured, because it took too long or did not fit: the line ends there.
    """
    lengths = numbers(lengths, "lengths", (1,), "(n,)")
    drawn = {}
    for name, pair in by_name(series, "series", '{"ours": (time_ms, memory_mib)}').items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"series {name!r} must be a pair (time_ms, memory_mib), got {type(pair).__name__}")
        times_and_memory = {f"{name}'s {what}": y for what, y in zip(PANELS, pair, strict=True)}
        drawn[name] = [numbers(y, of, (1,), "(n,)") for of, y in times_and_memory.items()]
        same_length(dict(zip(times_and_memory, drawn[name], strict=True)), len(lengths), "lengths")
    if lengths.min() <= 0 or any((y <= 0).any() for pair in drawn.values() for y in pair):
        raise ValueError("lengths, times and memory must be above 0, for the axes are logarithmic; NaN leaves one out")
    with new_figure(8.6, 3.8) as figure:
        for panel, (axes, what) in enumerate(zip(figure.subplots(1, 2), PANELS, strict=True)):
            for i, (name, pair) in enumerate(drawn.items()):
                style = {"color": OKABE_ITO[i % 7], "marker": MARKERS[i % 7], "ls": STYLES[i % 7]}
                axes.plot(lengths, pair[panel], label=name, ms=5, lw=2.2 if i == 0 else 1.4, **style)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(lengths, [_thousands(length) for length in lengths])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
            axes.set(xlabel="length (tokens)", title=what)
            axes.grid(alpha=0.25)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(drawn)), frameon=False)
        figure.suptitle(title or None)
    told = "; ".join(f"{name} {_longest(lengths, pair)}" for name, pair in drawn.items())
    return Picture(figure, f"Time and extra memory{named(title)} against length, both logarithmic. {told}")


def _thousands(length):
    """8192 -> 8k, as lengths of context are spoken of."""
    return f"{length / 1024:.10g}k" if length >= 1024 and length % 1024 == 0 else f"{length:.10g}"


def _longest(lengths, pair):
    """What a series reaches at the longest length that it has a time for."""
    measured = np.flatnonzero(np.isfinite(pair[0]))
    if not len(measured):
        return "was not measured"
    i = measured[-1]
    memory = "" if np.isnan(pair[1][i]) else f" and {pair[1][i]:.3g} MiB"
    return f"takes {pair[0][i]:.3g} ms{memory} at {lengths[i]:.0f} tokens"
