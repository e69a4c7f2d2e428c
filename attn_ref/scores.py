"""Scores, block by block: scale·q·k, capped, biased, and -inf where a query may not attend.

    block (rows, keys):   s = scale q kᵀ  →  c·tanh(s / c)  →  + bias - slope·|p - j|  →  -inf where forbidden

Derived in course/02 (scale), 04 (masks), 05 (ALiBi). The whole matrix is one block; the tiled version asks for small
ones. The cap comes before the mask: a capped -inf would be an ordinary score, and the future would leak.
"""

import numpy as np

from attn_ref.problem import UNBOUNDED, make_problem
from attn_ref.shapes import in_precision_of, is_tensor, namespace, working


def attention_scores(q, k, scale=None, **options):
    """How well each key matches each query.  (..., n_q, d), (..., n_k, d) -> (..., n_q, n_k)

    `scale` multiplies the dot products; None means 1/√d, which keeps their spread near 1 whatever d is. The other
    options of `attention` that change scores (softcap, bias, allowed, causal, ...) apply too: what comes back is what
    softmax would see. Source: Vaswani et al. (2017), section 3.2.1; chapter 02, exercise 2.3.

    >>> attention_scores([[2.0, 0.0, 0.0, 0.0]], [[3.0, 0.0, 0.0, 0.0]]).tolist()
    [[3.0]]
    """
    if "sinks" in options:
        raise TypeError("attention_scores takes no sinks: a sink joins the softmax and is no score of any key")
    problem = make_problem(q, k, k, scale=scale, **options)
    return problem.shaped(as_input(block_scores(problem), problem))


def block_scores(problem, rows=slice(None), keys=slice(None)):
    """What softmax sees for a block of queries and keys.  -> (B, Hq, rows, keys), -inf where forbidden"""
    scores = scaled_scores(problem, rows, keys)
    xp = namespace(scores)
    if problem.softcap:
        scores = problem.softcap * xp.tanh(scores / problem.softcap)
    if problem.bias is not None:
        scores = scores + problem.bias[:, :, rows, keys]
    if problem.alibi is not None:
        distance = abs(_positions(problem, rows) - _keys(problem, keys))[:, None]
        scores = scores - working(problem.alibi)[:, None, None] * xp.asarray(distance, dtype=scores.dtype)
    visible = block_visible(problem, rows, keys)
    return scores if visible is None else xp.where(visible, scores, -np.inf)


def scaled_scores(problem, rows=slice(None), keys=slice(None)):
    """scale q kᵀ for a block, before anything else happens to it.  -> (B, Hq, rows, keys)"""
    q, k = working(problem.q[:, :, rows]), working(problem.k[:, :, keys])
    k, broken = without_nonfinite(k)
    scores = over_heads(q * problem.scale, k.swapaxes(-1, -2))
    if broken is None:
        return scores
    # A key that holds NaN or inf gives NaN; the mask then hides that from those who may not attend to it.
    heads = np.arange(scores.shape[1]) // (scores.shape[1] // k.shape[1])
    return namespace(k).where(broken.any(-1)[:, heads][:, :, None], np.nan, scores)


def block_visible(problem, rows=slice(None), keys=slice(None)):
    """Who may attend to whom in a block.  -> bool, broadcasts to (B, Hq, rows, keys); None for everyone"""
    position, key, n_k = _positions(problem, rows), _keys(problem, keys), problem.k.shape[2]
    conditions = []
    if problem.left < UNBOUNDED:
        conditions.append(key >= position - problem.left)
    if problem.right < UNBOUNDED:
        conditions.append(key <= position + problem.right)
    if (problem.length < n_k).any():
        conditions.append(key < problem.length[:, None, None])
    visible = None if problem.allowed is None else problem.allowed[:, :, rows, keys]
    if problem.bias is not None:  # by the mask, not by adding: NaN + -inf is NaN
        finite = ~namespace(problem.bias).isneginf(problem.bias[:, :, rows, keys])
        visible = finite if visible is None else visible & finite
    for condition in conditions:
        visible = condition[:, None] if visible is None else visible & condition[:, None]
    return visible


def over_heads(x, y):
    """x @ y where each head of y serves its group of heads of x.  (B, Hq, n, m), (B, Hkv, m, e) -> (B, Hq, n, e)"""
    (batch, heads, n, m), kv_heads = x.shape, y.shape[1]
    grouped = x.reshape(batch, kv_heads, heads // kv_heads * n, m) @ y  # one large product reads y once for its group
    return grouped.reshape(batch, heads, n, y.shape[3])


def as_input(x, problem):
    """A result in the precision that the caller works in."""
    return in_precision_of(problem.q, x)


def without_nonfinite(x):
    """x with 0 in place of NaN and inf, and where those were; (x, None) if there are none. 0 · NaN would be NaN."""
    xp = namespace(x)
    finite = xp.isfinite(x)
    if finite.all():
        return x, None
    return xp.where(finite, x, 0), ~finite


def _positions(problem, rows):
    """Where each query of a block stands among the keys.  -> (B, rows, 1)"""
    return problem.offset[:, None, None] + _count(problem, problem.q.shape[2])[rows][:, None]


def _keys(problem, keys):
    return _count(problem, problem.k.shape[2])[keys]


def _count(problem, n):
    """0 .. n-1 beside the problem's arrays"""
    if is_tensor(problem.q):
        return namespace(problem.q).arange(n, device=problem.q.device)
    return namespace(problem.q).arange(n)
