"""Attention tile by tile: the specification, in NumPy, of every kernel that follows.

    for each block of queries:  walk the blocks of keys it can see, keep (m, l, acc), write acc / l once

Derived in course/10. No array has n_q × n_k entries; tiles that no query of a block can see are never touched.
Sources: Dao et al. (2022), algorithms 1 and 4; Dao (2023) for the order of the loops.
"""

import numpy as np

from attn_ref.backward import as_given, of_the_output, over_group
from attn_ref.online import online_update
from attn_ref.problem import make_problem
from attn_ref.scores import as_input, block_scores, scaled_scores, without_nonfinite
from attn_ref.shapes import is_tensor, whole_number, working


def tiled_attention(q, k, v, block_q=64, block_k=64, causal=False, **options):
    """`attention` without its matrix.  -> out (..., Hq, n_q, d_v), log-sum-exp (..., Hq, n_q)

    NumPy only. Takes q, k, v and the options of `attention` that say what is computed; the last tile of a row or
    column may be ragged. Source: Dao et al. (2022), algorithm 1; chapter 10, exercise 10.3.

    >>> x = np.eye(3)
    >>> out, lse = tiled_attention(x, x, x, block_q=2, block_k=2)
    >>> bool(np.allclose(out.sum(axis=1), 1))
    True
    """
    problem = _numpy_problem(q, k, v, block_q, block_k, causal=causal, **options)
    v, broken = _values(problem)
    out = np.zeros((*problem.q.shape[:3], v.shape[3]), v.dtype)
    lse = np.full(problem.q.shape[:3], -np.inf, v.dtype)
    for rows in _blocks(0, problem.q.shape[2], block_q):
        row_max, acc = np.full_like(lse[:, :, rows], -np.inf), np.zeros_like(out[:, :, rows])
        row_sum = np.zeros_like(row_max)
        if problem.sinks is not None:  # a sink is a key seen before all others, whose value is 0
            row_max, row_sum = np.zeros_like(row_max) + problem.sinks[:, None].astype(v.dtype), row_sum + 1
        for keys in visible_blocks(problem, rows, block_k):
            scores = block_scores(problem, rows, keys)
            row_max, row_sum, acc = online_update(row_max, row_sum, acc, scores, v[:, :, keys])
            if broken is not None:  # a NaN among the values reaches those who may attend to it, and no other
                acc[((scores > -np.inf).astype(v.dtype) @ broken[:, :, keys]) > 0] = np.nan
        seen = row_sum > 0
        out[:, :, rows] = acc / np.where(seen, row_sum, 1)[..., None]
        lse[:, :, rows] = np.where(seen, row_max + np.log(np.where(seen, row_sum, 1)), -np.inf)
    return problem.shaped(as_input(out, problem)), problem.shaped(lse)


def tiled_backward(q, k, v, out, lse, grad_out, block_q=64, block_k=64, causal=False, **options):
    """The gradients of `tiled_attention` for one of its output, without the matrix.  -> dq, dk, dv, shaped like q, k, v

    `out` and `lse` are what the forward pass returned: exp(scores - lse) are the weights again, tile by tile, so that
    nothing of size n_q × n_k need be kept between the passes. NumPy only.
    Source: Dao et al. (2022), algorithm 4; chapter 10, exercise 10.6.

    >>> x = np.eye(3)
    >>> out, lse = tiled_attention(x, x, x)
    >>> dq, dk, dv = tiled_backward(x, x, x, out, lse, np.ones((3, 3)))
    >>> dv.sum(axis=0).round(6).tolist()  # every query hands out one share of gradient in all
    [3.0, 3.0, 3.0]
    """
    problem = _numpy_problem(q, k, v, block_q, block_k, causal=causal, **options)
    out, grad_out = (of_the_output(x, name, problem) for x, name in ((out, "out"), (grad_out, "grad_out")))
    lse = of_the_output(lse, "lse", problem, axes=1)
    given, (v, _), (k, _) = (
        (q, k, v),
        _values(problem),
        without_nonfinite(_for_query_heads(working(problem.k), problem)),
    )
    q, lse = working(problem.q), np.where(np.isneginf(lse), 0, lse)  # an empty row's scores are -inf, its weights 0
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    delta = (grad_out * out).sum(-1)
    for rows in _blocks(0, q.shape[2], block_q):
        for keys in visible_blocks(problem, rows, block_k):
            weights = np.exp(block_scores(problem, rows, keys) - lse[:, :, rows, None])
            grad_weights = grad_out[:, :, rows] @ v[:, :, keys].swapaxes(-1, -2)
            grad_scores = weights * (grad_weights - delta[:, :, rows, None])
            if problem.softcap:
                scores, _ = without_nonfinite(scaled_scores(problem, rows, keys))
                grad_scores *= 1 - np.tanh(scores / problem.softcap) ** 2
            dv[:, :, keys] += weights.swapaxes(-1, -2) @ grad_out[:, :, rows]
            dq[:, :, rows] += grad_scores @ k[:, :, keys] * problem.scale
            dk[:, :, keys] += grad_scores.swapaxes(-1, -2) @ q[:, :, rows] * problem.scale
    dk, dv = (over_group(x, q.shape[1] // problem.k.shape[1]) for x in (dk, dv))
    return tuple(as_given(as_input(x, problem), like, problem) for x, like in zip((dq, dk, dv), given, strict=True))


def visible_blocks(problem, rows, block_k):
    """The blocks of keys that some query of `rows` may see, by causality, window and length.  -> slices, in order"""
    if not problem.offset.size:
        return []
    first = max(int(problem.offset.min()) + rows.start - problem.left, 0)
    last = int(problem.offset.max()) + rows.stop - 1 + problem.right
    stop = min(last + 1, int(problem.length.max()))
    return _blocks(first // block_k * block_k, stop, block_k) if first < stop else []


def _blocks(start, stop, size):
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


def _values(problem):
    """The values for each query head, finite, and where they were not (None if they all were)."""
    return without_nonfinite(_for_query_heads(working(problem.v), problem))


def _for_query_heads(x, problem):
    """(B, Hkv, n, d) -> (B, Hq, n, d): a kernel reads the head by index instead, and copies nothing."""
    return np.repeat(x, problem.q.shape[1] // x.shape[1], axis=1)


def _numpy_problem(q, k, v, block_q, block_k, **options):
    whole_number(block_q, "block_q", least=1)
    whole_number(block_k, "block_k", least=1)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if is_tensor(x):
            raise TypeError(f"{name} is a torch tensor; the tiled version is NumPy only, so pass {name}.numpy()")
    return make_problem(q, k, v, **options)
