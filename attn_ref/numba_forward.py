"""A flash-attention forward pass for the CPU: one page, every option, no array of n_q × n_k entries.

    for each tile of queries:  sᵀ = K_tile Qᵀ;  m' = max(m, s);  w = 2^(s - m');  acc = 2^(m - m') acc + w V_tile

Derived in course/11_numba_kernel; the specification is tiled.py. Scores are held transposed, keys × queries, so that
every step between the two products runs along contiguous queries and needs no reduction, which numba would not
vectorise. They are in base 2: log₂e is folded into the scale, and exp2 is the cheaper function.
Sources: Dao et al. (2022), algorithm 1; Dao (2023).
"""

import numpy as np
from numba import njit, prange

from attn_ref import numba_steps as step
from attn_ref.numba_compile import COMPILE
from attn_ref.numba_exp2 import LOG2_E


@njit(**COMPILE)
def forward_kernel(q, k, v, out, lse, offset, length, left, right, scale, softcap, masks, flags, alibi, sinks,
                   tile_q, tile_k, workers):  # fmt: skip
    """Write out (B, Hq, Nq, Dv) and lse (B, Hq, Nq) for q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv).

    The rest as in problem.Problem, but: scale, softcap and alibi hold log₂e; masks are (allowed, bias), of no meaning
    where flags (has_allowed, has_bias, has_alibi) say that there is none; a sink of -inf is none.
    """
    batch, n_heads, n_q, d = q.shape
    allowed, bias = masks
    kv_heads, d_v = k.shape[1], v.shape[3]
    tiles = (n_q + tile_q - 1) // tile_q
    for worker in prange(workers):
        buffer_qt, buffer_s = np.empty(tile_q * d, q.dtype), np.empty(tile_q * tile_k, q.dtype)
        buffer_acc, buffer_add = np.empty(tile_q * d_v, q.dtype), np.empty(tile_q * d_v, q.dtype)
        row_max, row_sum, shrink = np.empty(tile_q, q.dtype), np.empty(tile_q, q.dtype), np.empty(tile_q, q.dtype)
        slope, counting = np.empty(tile_q, q.dtype), np.arange(tile_q)
        # Causal tiles differ in work, those of one height among the heads do not: heads vary fastest, which deals the
        # tiles out evenly, and the heaviest come first.
        for task in range(worker, batch * n_heads * tiles, workers):
            b, h = task % (batch * n_heads) // n_heads, task % n_heads
            i0 = (tiles - 1 - task // (batch * n_heads)) * tile_q
            g, i1 = h // (n_heads // kv_heads), min(i0 + tile_q, n_q)
            rows, position = i1 - i0, offset[b] + i0 + counting[: i1 - i0]
            qt = buffer_qt[: rows * d].reshape(d, rows)
            acc, add = buffer_acc[: rows * d_v].reshape(rows, d_v), buffer_add[: rows * d_v].reshape(rows, d_v)
            step.transpose_scaled(q[b, h, i0:i1], scale, qt)
            row_max[:], row_sum[:] = max(sinks[h] * LOG2_E, step.LOWEST), 1 if sinks[h] > step.LOWEST else 0
            acc[:], slope[:] = 0, alibi[h]
            stop = min(length[b], position[-1] + right + 1)
            for j0 in range(max(position[0] - left, 0), stop, tile_k):
                j1 = min(j0 + tile_k, stop)
                s = buffer_s[: (j1 - j0) * rows].reshape(j1 - j0, rows)
                masked = step.score_tile(s, k[b, g, j0:j1], qt, position - j0, left, right, softcap, slope,
                                         allowed[b, h, i0:i1, j0:j1], bias[b, h, i0:i1, j0:j1], flags)  # fmt: skip
                step.raise_max(s, row_max, shrink)
                step.weigh(s, row_max, row_sum, shrink)
                step.weighted_values(s, v[b, g, j0:j1], masked, add)
                step.accumulate(acc, shrink, add)
            step.finish(acc, row_max, row_sum, out[b, h, i0:i1], lse[b, h, i0:i1])
