"""The one style of all pictures, the `Picture` that carries its own description, and the checks at its door."""

import base64
import html
import io
from contextlib import contextmanager

import matplotlib
import matplotlib.font_manager
import numpy as np
from matplotlib.figure import Figure

from attn_ref.shapes import is_tensor, real_array

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
HATCHES = ("", "//", "..", "xx")
FORBIDDEN = {"fc": "#ddd", "ec": "#666", "hatch": "////", "lw": 0.3}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "attn",
}
CHINESE = ("Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei", "SimHei")


def families(installed):
    """The usual family, and behind it the first installed one with Chinese glyphs, which matplotlib's own lacks."""
    return ["sans-serif", *[name for name in CHINESE if name in installed][:1]]


STYLE["font.family"] = families(set(matplotlib.font_manager.get_font_names()))


class Picture:
    """A drawn figure with alt text. A notebook shows it; `save` writes it to a file."""

    def __init__(self, figure, alt):
        self.figure, self.alt = figure, alt

    def save(self, path, dpi=144):
        """Write PNG or SVG, by the file's ending."""
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(path, dpi=dpi, bbox_inches="tight", metadata={"Date": None} if _is_svg(path) else None)

    def _png(self, dpi=144):
        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(out, format="png", dpi=dpi, bbox_inches="tight")
        return out.getvalue()

    def _repr_html_(self):
        return self._image(self._png())

    def _image(self, png):
        width = int(self.figure.get_size_inches()[0] * 96)
        data = base64.b64encode(png).decode("ascii")
        return (
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt, quote=True)}" '
            f'style="max-width:100%;width:{width}px;background:white;border-radius:6px;padding:4px">'
        )

    def __repr__(self):
        return f"<Picture: {self.alt}>"


@contextmanager
def new_figure(width, height):
    """A figure of so many inches, drawn in the style whatever the caller's settings are."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def named(title):
    """A title inside a sentence of alt text, or nothing."""
    return f" “{title}”" if title else ""


def numbers(x, name, axes, shape):
    """x as a float64 array with one of the counts of axes, not empty; tensors come off their device and graph."""
    x = real_array(x, name)
    x = np.asarray(x.detach().cpu().double() if is_tensor(x) else x, dtype=float)
    if x.ndim not in axes:
        raise ValueError(f"{name} needs a shape {shape}, got {x.shape}")
    if not x.size:
        raise ValueError(f"{name} is empty, shape {x.shape}; there is nothing to draw")
    return x


def by_name(x, name, example):
    """x, if it is a dictionary with entries."""
    if not isinstance(x, dict):
        raise TypeError(f"{name} must be a dictionary such as {example}, got {type(x).__name__}")
    if not x:
        raise ValueError(f"{name} is empty; it must be a dictionary such as {example}")
    return x


def fitting_labels(labels, count, name):
    """labels, if they are None or one for each of `count` entries. A string would be read letter by letter."""
    if isinstance(labels, str) or (labels is not None and not hasattr(labels, "__len__")):
        raise TypeError(f"{name} must be a list of labels, got {type(labels).__name__} {labels!r:.40}")
    if labels is not None and len(labels) != count:
        raise ValueError(f"{name} must hold {count} labels, one for each, got {len(labels)}: {list(labels)[:8]}")
    return labels


def same_length(series, count, what):
    """An error where one of the named series is longer or shorter than what it is drawn against."""
    for name, values in series.items():
        if len(values) != count:
            raise ValueError(f"{name or 'heights'} holds {len(values)} numbers but {what} has {count}")


def _is_svg(path):
    return str(path).endswith(".svg")
