"""The head view that answers: choose a layer and a head, point at a query, and read its weights as numbers.

The page beside this file draws in the browser, from weights in thousandths, without any library. Where scripts may not
run, `head_view`'s picture of the chosen head stays in its place, with the same alt text.
"""

import base64
import io
import json
import re
import warnings
from pathlib import Path

import matplotlib.text
import numpy as np
from PIL import Image

from attn_ref.plots.heads import head_view
from attn_ref.plots.style import Picture, fitting_labels, named, numbers
from attn_ref.shapes import whole_number

FAINTEST = 0.01  # less than head_view's, for a haze lifts as soon as one query is pointed at
PAGE = (Path(__file__).parent / "head_lines.html").read_text(encoding="utf-8")
SIGNS = {"\n": "↵", "\r": "↵", "\t": "⇥"}
UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control signs, line ends, half characters
WORDS = {
    "layer": "layer",
    "head": "head",
    "query": "query",
    "key": "key",
    "queries": "Queries",
    "keys": "Keys",
    "place": "Head {head}",
    "place in layers": "Head {head} of layer {layer}",
    "strongest": "{place}: the strongest link is {query} → {key} ({weight}).",
    "nothing": "{place}: no query looks at any key.",
    "looks": "{query} looks most at {links}.",
    "blind": "{query} looks at no key.",
    "how": "Point at a query, or reach it with Tab and the arrow keys, to see its lines alone, with their weights. "
    f"A line is as thick as its weight; below {FAINTEST} none is drawn.",
    "table": "All weights of this head as a table",
}


class HeadLines(Picture):
    """A picture that answers where a page may run scripts, and stands still elsewhere."""

    def __init__(self, figure, alt, facts):
        super().__init__(figure, alt)
        self.facts = facts

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = self._png()
        # With no "<" left in them, the facts cannot end the script, nor stand for the picture's place.
        facts = json.dumps(self.facts, separators=(",", ":")).replace("<", "\\u003c")
        page = PAGE.replace("/*facts*/ {}", facts).replace("<!--picture-->", self._image(png))
        return {"text/html": page, "image/png": base64.b64encode(png).decode("ascii"), "text/plain": repr(self)}

    def _png(self, dpi=120):
        """In 16 shades, a fifth of the usual size: an output holds this picture twice."""
        out = io.BytesIO()
        with warnings.catch_warnings():  # a sign that matplotlib's fonts lack is still shown by the browser's
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            png = super()._png(dpi)
        Image.open(io.BytesIO(png)).convert("RGB").quantize(16).save(out, format="png", optimize=True)
        return out.getvalue()

    def _repr_html_(self):
        return self._repr_mimebundle_()["text/html"]


def head_lines(weights, queries, keys=None, title="", layer=0, head=0):
    """Who looks at whom, one head at a time.  (heads, n_q, n_k) or (layers, heads, n_q, n_k)

    Shows `layer` and `head` first; the keys are the queries unless given. Source: the head view of Vig (2019).
    """
    shape = "(heads, n_q, n_k) or (layers, heads, n_q, n_k) (one head is weights[None]; a batch is indexed first)"
    weights = numbers(weights, "weights", (3, 4), shape)
    if not (weights.min() >= 0 and weights.max() <= 1.01):
        raise ValueError(f"weights must lie in 0..1, got {weights.min():.3g}..{weights.max():.3g}; are these scores?")
    weights = (weights[None] if weights.ndim == 3 else weights).clip(0, 1)
    layers, heads, n_q, n_k = weights.shape
    for name, value, count in (("layer", layer, layers), ("head", head, heads)):
        if whole_number(value, name, least=0) >= count:
            raise ValueError(f"{name} must be one of 0..{count - 1}, for weights has {count} of them, got {value}")
    queries = _tokens(queries, n_q, "queries")
    if keys is None and n_k != n_q:
        raise ValueError(f"keys must be given, for weights has {n_k} keys but {n_q} queries")
    keys = queries if keys is None else _tokens(keys, n_k, "keys")

    title, words = _one_line(title), WORDS | {"place": WORDS["place in layers" if layers > 1 else "place"]}
    place = words["place"].format(head=head, layer=layer)
    names = [_told_apart(queries), _told_apart(keys)]
    size = f"{'1 head' if heads == 1 else f'{heads} heads'}{f' in each of {layers} layers' if layers > 1 else ''}"
    alt = f"Head lines{named(title)}, {size} of {n_q} queries and {n_k} keys. "
    alt += _strongest(weights[layer, head], *names, place)
    alt = alt.replace("<", "‹").replace(">", "›")  # a cleaner of HTML takes out what has brackets in its alt text
    shown = [[_short(token, 16) for token in tokens] for tokens in (queries, keys)]
    still = head_view(weights[layer, head], *shown, title=f"{_short(title, 60)}\n{place}".strip())
    for text in still.figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)  # a token such as "$" is no formula
    thousandths = np.rint(1000 * weights).astype(int).reshape(layers, heads, n_q * n_k).tolist()
    facts = {"title": title, "words": words, "queries": queries, "keys": keys, "names": names, "alt": alt}
    facts |= {"layer": int(layer), "head": int(head), "faintest": 1000 * FAINTEST, "weights": thousandths}
    return HeadLines(still.figure, alt, facts)


def _tokens(tokens, count, name):
    """One line of text for each token, whatever it holds; numbers where there are no tokens."""
    tokens = range(count) if fitting_labels(tokens, count, name) is None else tokens
    shown = [_one_line(token) for token in tokens]
    return [token if token.strip() else token.replace(" ", "␣") or "∅" for token in shown]


def _one_line(text):
    return UNSEEN.sub(lambda sign: SIGNS.get(sign[0], "\ufffd"), str(text))


def _told_apart(tokens):
    """The tokens' names in a sentence: one that stands there twice has its position behind it."""
    return [_short(token, 24) + f"[{i}]" * (tokens.count(token) > 1) for i, token in enumerate(tokens)]


def _short(text, most):
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _strongest(panel, queries, keys, place):
    i, j = np.unravel_index(panel.argmax(), panel.shape)
    sentence = WORDS["strongest" if panel[i, j] > 0 else "nothing"]
    return sentence.format(place=place, query=queries[i], key=keys[j], weight=f"{panel[i, j]:.2f}")
