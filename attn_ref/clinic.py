"""Layers to examine: one causal head that keeps what it promises, and the same head with one bug.

    model(q, k, v, pad=0, cut=0)    q, k (n, d), v (n, d_v)  →  (n, d_v)        model.window: the window it promises

The head turns q and k by their positions, and each token reads itself and what stands before it. The first `pad` tokens
are padding, which no other token may read. The first `cut` tokens arrive first and are kept in a cache; the others
follow. A healthy head gives the same whatever the cut. Derived in course/13_debugging_clinic.
"""

import torch

from attn_ref.cache import KVCache
from attn_ref.positions import rope
from attn_ref.shapes import choice
from attn_ref.softmax import softmax

BUGS = ("leaky mask", "small window", "missing scale", "padded keys", "RoPE offset")


def layer(window=None, bug=None):
    """A healthy head, or one with a bug of `BUGS`.  -> a function as above, with the attribute `window`

    Rows of padding have nothing to read and are 0.

    >>> v = torch.tensor([[4.0], [8.0]])
    >>> zeros = torch.zeros(2, 2)
    >>> layer()(zeros, zeros, v).tolist(), layer(bug="leaky mask")(zeros, zeros, v).tolist()
    ([[4.0], [6.0]], [[6.0], [6.0]])
    """
    if bug is not None:
        choice(bug, "bug", BUGS)

    def model(q, k, v, pad=0, cut=0):
        cache, parts = KVCache(), []
        for start, end in ((0, cut), (cut, len(q))):
            if start == end:
                continue
            first = 0 if bug == "RoPE offset" else start
            new = range(first, first + end - start)
            keys, values = cache.append(rope(k[None, None, start:end], new), v[None, None, start:end])
            scores = rope(q[start:end], new) @ keys[0, 0].T  # (end - start, end)
            if bug != "missing scale":
                scores = scores * q.shape[-1] ** -0.5
            back = torch.arange(start, end)[:, None] - torch.arange(end)  # how far each key lies back
            allowed = back >= (-1 if bug == "leaky mask" else 0)
            if window is not None:
                allowed = allowed & (back < window - (bug == "small window"))
            if bug != "padded keys":
                allowed = allowed & (torch.arange(end) >= pad)
            parts.append(softmax(scores.masked_fill(~allowed, -torch.inf)) @ values[0, 0])
        return torch.cat(parts)

    model.window = window
    return model


PATIENTS = {
    "A": layer(window=24),
    "B": layer(bug="RoPE offset"),
    "C": layer(bug="leaky mask"),
    "D": layer(bug="padded keys"),
    "E": layer(window=24, bug="small window"),
    "F": layer(),
    "G": layer(window=24, bug="missing scale"),
}  # the waiting room of chapter 13: diagnose them before you look here
