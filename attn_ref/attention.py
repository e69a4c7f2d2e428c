"""Attention lets every query read a weighted average of the values: softmax(q kᵀ / √d) v.

    q (..., n_q, d)   k (..., n_k, d)   v (..., n_k, d_v)   →   (..., n_q, d_v)

Derived in course/02_scaled_dot_product; masks in course/04_masks. Source: Vaswani et al. (2017), equation 1.
"""

import numpy as np

from attn_ref.softmax import _as_float, softmax


def attention(q, k, v, *, allowed=None, causal=False, scale=None, return_weights=False):
    """Every query reads the values in proportion to how well their keys match it.

    `allowed` (broadcastable to (..., n_q, n_k)) is True where a query may attend to a key; `causal` allows only
    the keys at or before a query, the last query standing at the last key. `scale` defaults to 1/√d.
    Returns (..., n_q, d_v), and the weights (..., n_q, n_k) too if `return_weights`. A query that may attend to
    nothing gets 0.

    >>> q, k, v = np.array([[1.0]]), np.array([[0.0], [0.0]]), np.array([[2.0], [4.0]])
    >>> attention(q, k, v).tolist()  # two equal scores: the plain average
    [[3.0]]
    """
    q, k, v = check_shapes(q, k, v)
    scores = attention_scores(q, k, scale)
    if causal:
        scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, -np.inf)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = softmax(scores)
    out = weights @ v
    return (out, weights) if return_weights else out


def attention_scores(q, k, scale=None):
    """How well each key matches each query.  (..., n_q, d), (..., n_k, d) -> (..., n_q, n_k)

    `scale` multiplies the dot products; None means 1/√d, which keeps their spread near 1 whatever d is.
    Source: chapter 02, exercise 2.3.

    >>> attention_scores([[2.0, 0.0, 0.0, 0.0]], [[3.0, 0.0, 0.0, 0.0]]).tolist()
    [[3.0]]
    """
    q, k = _as_float(q, "q"), _as_float(k, "k")
    if q.ndim < 2 or k.ndim < 2:
        raise ValueError(f"q and k need shapes (..., n, d), got {q.shape} and {k.shape}; a single vector is (1, d)")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"k has d={k.shape[-1]} but q has d={q.shape[-1]}; a query meets a key by a dot product, so both need "
            f"the same last axis. Got q {q.shape}, k {k.shape}; is one of them transposed?"
        )
    if scale is None:
        scale = q.shape[-1] ** -0.5
    return (q @ k.swapaxes(-1, -2)) * q.dtype.type(scale)


def causal_mask(n_q, n_k):
    """Who may look back: True where query i may attend to key j.  -> (n_q, n_k) bool

    The queries are the last n_q of n_k positions (bottom-right aligned), so that decoding with a cache needs no
    other rule. Source: chapter 04.

    >>> causal_mask(2, 5).astype(int).tolist()
    [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    """
    return np.arange(n_k) <= np.arange(n_q)[:, None] + (n_k - n_q)


def check_shapes(q, k, v):
    """The one boundary: arrays in, arrays of matching shape out, or an error that names the culprit."""
    q, k, v = _as_float(q, "q"), _as_float(k, "k"), _as_float(v, "v")
    if v.ndim < 2:
        raise ValueError(f"v needs a shape (..., n_k, d_v), got {v.shape}; a single vector is (1, d_v)")
    if k.ndim >= 2 and k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"k holds {k.shape[-2]} keys but v holds {v.shape[-2]} values; each key labels one value. "
            f"Got k {k.shape}, v {v.shape}"
        )
    return q, k, v
