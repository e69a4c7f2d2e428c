"""The elementwise steps on one tile of scores, each its own small function so that the compiler vectorises it.

A tile holds keys × queries, s[j, i], in base 2. `position` (rows,) says where each query stands, counted from the
tile's first key; `slope` (rows,) is its head's ALiBi slope. Derived in course/11_numba_kernel.
"""

import math

import numpy as np
from numba import njit

from attn_ref.numba_compile import FAST
from attn_ref.numba_exp2 import LOG2_E, exp2, tanh

LOWEST = -3e38  # below every score, and finite: -inf - -inf would be NaN
step = njit(cache=True, fastmath=FAST)


@step
def transpose_scaled(x, scale, xt):
    """xt = scale xᵀ: the one transposition, so that all products with the tile's keys are plain."""
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            xt[c, i] = x[i, c] * scale


@step
def score_tile(s, k, qt, position, left, right, softcap, slope, allowed, bias, flags):
    """What softmax sees for a tile, k (keys, d) by qt (d, rows); returns whether anything in it may be forbidden."""
    has_allowed, has_bias, has_alibi = flags
    np.dot(k, qt, out=s)
    if softcap > 0:
        cap(s, softcap)
    if has_bias:
        add_bias(s, bias)
    if has_alibi:
        subtract_distance(s, position, slope)
    outside = position[-1] - left > 0 or position[0] + right < s.shape[0] - 1
    if outside:
        hide(s, position, left, right)
    if has_allowed:
        forbid(s, allowed)
    return outside or has_allowed or has_bias


@step
def cap(s, limit):
    """c·tanh(s / c)"""
    flat, shrink = s.reshape(-1), 1 / limit
    for i in range(flat.size):
        flat[i] = limit * tanh(flat[i] * shrink)


@step
def subtract_distance(s, position, slope):
    """ALiBi: s - slope·|p - j|."""
    for j in range(s.shape[0]):
        for i in range(s.shape[1]):
            s[j, i] -= slope[i] * s.dtype.type(abs(position[i] - j))


@step
def add_bias(s, bias):
    """bias (queries, keys) is in base e; where it is -inf it forbids, whatever the key holds."""
    for i in range(s.shape[1]):
        for j in range(s.shape[0]):
            s[j, i] = s[j, i] + bias[i, j] * s.dtype.type(LOG2_E) if bias[i, j] != -np.inf else s.dtype.type(-np.inf)


@step
def forbid(s, allowed):
    """-inf where allowed (queries, keys) is False."""
    for i in range(s.shape[1]):
        for j in range(s.shape[0]):
            if not allowed[i, j]:
                s[j, i] = -np.inf


@step
def hide(s, position, left, right):
    """-inf where key j lies outside of p - left .. p + right. Who sees a key is one run of rows: fill around it."""
    rows = s.shape[1]
    for j in range(s.shape[0]):
        before, after = j - right - position[0], j + left - position[0] + 1
        s[j, : min(max(before, 0), rows)] = -np.inf
        s[j, min(max(after, 0), rows) :] = -np.inf


@step
def raise_max(s, row_max, shrink):
    """row_max becomes the maximum so far, and shrink what the old sums must be multiplied by: 2^(old - new)."""
    for i in range(s.shape[1]):
        shrink[i] = row_max[i]
    for j in range(s.shape[0]):
        for i in range(s.shape[1]):
            row_max[i] = max(row_max[i], s[j, i])
    for i in range(s.shape[1]):
        shrink[i] = exp2(shrink[i] - row_max[i])


@step
def weigh(s, row_max, row_sum, shrink):
    """s becomes the unnormalised weights 2^(s - max), and row_sum their sum so far."""
    for i in range(s.shape[1]):
        row_sum[i] *= shrink[i]
    for j in range(s.shape[0]):
        for i in range(s.shape[1]):
            s[j, i] = exp2(s[j, i] - row_max[i])
            row_sum[i] += s[j, i]


@step
def accumulate(acc, shrink, add):
    """acc = shrink acc + add, (rows, d_v): what earlier tiles gave is brought to the new maximum."""
    for i in range(acc.shape[0]):
        for c in range(acc.shape[1]):
            acc[i, c] = acc[i, c] * shrink[i] + add[i, c]


@step
def all_finite(x):
    """Whether no entry is NaN or inf: 0 · x is 0 for all others, so that one sum tells."""
    total = x.dtype.type(0)
    for j in range(x.shape[0]):
        for c in range(x.shape[1]):
            total += x[j, c] * x.dtype.type(0)
    return total == 0


@step
def weighted_values(s, v, masked, out):
    """out = sᵀ V, where a value that nobody may read has no effect, whatever it holds."""
    if masked and not all_finite(v):
        out[:] = 0
        add_seen(s, v, out)
    else:
        np.dot(s.T, v, out=out)


@step
def add_seen(s, v, total):
    """total += sᵀ V where a weight of 0 means "not read", so that a hidden NaN stays hidden (0 · NaN would be NaN)."""
    for j in range(s.shape[0]):
        for i in range(s.shape[1]):
            if s[j, i] != 0:
                for c in range(v.shape[1]):
                    total[i, c] += s[j, i] * v[j, c]


@step
def finish(acc, row_max, row_sum, out, lse):
    """out = acc / row_sum and the log-sum-exp in base e; 0 and -inf for a row that saw nothing."""
    for i in range(acc.shape[0]):
        seen = row_sum[i] != 0
        lse[i] = (row_max[i] + math.log2(row_sum[i])) / LOG2_E if seen else -np.inf
        share = 1 / row_sum[i] if seen else 0.0
        for c in range(acc.shape[1]):
            out[i, c] = acc[i, c] * acc.dtype.type(share)


@step
def add_to(total, x, scale):
    """total += scale x, (rows, columns)"""
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            total[i, c] += x[i, c] * scale
