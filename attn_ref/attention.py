"""Attention lets every query read a weighted average of the values: softmax(scale q kᵀ) v.

    q (..., Hq, n_q, d)   k (..., Hkv, n_k, d)   v (..., Hkv, n_k, d_v)   →   (..., Hq, n_q, d_v)

Derived in course/02_scaled_dot_product. `attention` is the one entry to every backend; `dense` below it is the plain
version, NumPy and torch alike, which writes the whole matrix of weights. Source: Vaswani et al. (2017), equation 1.
"""

from importlib import import_module

from attn_ref.problem import make_problem
from attn_ref.scores import as_input, block_scores, block_visible, over_heads, without_nonfinite
from attn_ref.shapes import namespace, working
from attn_ref.softmax import logsumexp, softmax


def attention(
    q, k, v, *, causal=False, window=None, q_offset=None, kv_len=None, allowed=None, bias=None, scale=None,
    softcap=None, sinks=None, alibi=None, backend=None, return_lse=False, return_weights=False,
):  # fmt: skip
    """Every query reads the values in proportion to how well their keys match it.

    Shapes: q (..., Hq, n_q, d), k (..., Hkv, n_k, d), v (..., Hkv, n_k, d_v), where Hkv divides Hq; (n, d) arrays are
    one head. NumPy in, NumPy out; torch in, torch out, with gradients. Inputs are not written to.

    causal    a query sees the keys at or before its position
    window    w: itself and the w - 1 keys before; or (left, right), both inclusive, None unbounded
    q_offset  position of the first query among the keys; by default the last query stands at the last key
    kv_len    how many of the keys count, a number or (batch,): the rest is padding
    allowed   bool, broadcasts to (..., Hq, n_q, n_k), True = may attend
    bias      added to the scores, broadcasts likewise; -inf forbids
    scale     multiplies q·k; 1/√d by default
    softcap   c: scores become c·tanh(score / c), before bias and mask
    sinks     (Hq,) logits that take a share of the weights and give nothing
    alibi     (Hq,) slopes: slope · distance is subtracted from the scores

    Returns the output (..., Hq, n_q, d_v), then the log-sum-exp of each row (..., Hq, n_q) if `return_lse`, then the
    weights (..., Hq, n_q, n_k) if `return_weights`. A query that may attend to nothing gets 0, and -inf as its
    log-sum-exp. What a masked key or value holds, NaN and inf too, has no effect. `backend` names one of
    `attn_ref.backends()`; by default the fastest that fits. Raises ValueError or TypeError naming the argument.

    >>> q, k, v = [[1.0]], [[0.0], [0.0]], [[2.0], [4.0]]
    >>> attention(q, k, v).tolist()  # two equal scores: the plain average
    [[3.0]]
    """
    problem = make_problem(
        q, k, v, causal=causal, window=window, q_offset=q_offset, kv_len=kv_len, allowed=allowed, bias=bias,
        scale=scale, softcap=softcap, sinks=sinks, alibi=alibi,
    )  # fmt: skip
    backends = import_module("attn_ref.backends")  # at the first call: the kernels come later in the book
    results = backends.choose(problem, backend, return_weights)(problem)
    wanted = [problem.shaped(x) for x, want in zip(results, (True, return_lse, return_weights), strict=False) if want]
    return wanted[0] if len(wanted) == 1 else tuple(wanted)


def dense(problem):
    """The plain version, which holds all scores at once.  -> out, lse, weights, each (B, Hq, n_q, ...)"""
    weights, lse = dense_weights(problem)
    return as_input(weighted_values(weights, problem), problem), lse, as_input(weights, problem)


def dense_weights(problem):
    """The whole matrix of weights and the log-sum-exp of its rows.  -> (B, Hq, n_q, n_k), (B, Hq, n_q)"""
    scores = block_scores(problem)
    if problem.sinks is None:
        return softmax(scores), logsumexp(scores)
    xp = namespace(scores)  # one more column, which takes its share and has no value
    sinks = xp.broadcast_to(working(problem.sinks)[:, None, None], (*scores.shape[:-1], 1))
    scores = xp.concatenate([scores, sinks], -1)
    return softmax(scores)[..., :-1], logsumexp(scores)


def weighted_values(weights, problem):
    """weights @ v, where a value counts only for the queries that may attend to it.  -> (B, Hq, n_q, d_v)"""
    v, broken = without_nonfinite(working(problem.v))
    out = over_heads(weights, v)
    if broken is None:
        return out
    xp, visible = namespace(v), block_visible(problem)
    seen = weights * 0 + 1 if visible is None else xp.where(visible, weights * 0 + 1, 0)
    for kind, holds in ((xp.inf, xp.isposinf), (-xp.inf, xp.isneginf), (xp.nan, xp.isnan)):
        reached = over_heads(seen, xp.where(holds(problem.v), v * 0 + 1, v * 0)) > 0
        out = out + xp.where(reached, kind, 0)
    return out
