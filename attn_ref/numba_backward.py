"""The flash-attention backward pass for the CPU: the weights are computed again, tile by tile, and never stored.

    w = 2^(s - lse)    dV += w dO    dw = V dOᵀ    ds = w ∘ (dw - δ)    dK += ds Q    dQ += dsᵀ K

Derived in course/11_numba_kernel; the specification is tiled_backward. A query head belongs to one worker, which alone
writes that head's gradients, so that there is nothing to race for. Source: Dao et al. (2022), algorithm 4.
"""

import numpy as np
from numba import njit, prange

from attn_ref import numba_steps as step
from attn_ref.numba_compile import COMPILE
from attn_ref.numba_exp2 import LOG2_E, exp2


@njit(**COMPILE)
def backward_kernel(q, k, v, out, lse, grad_out, grad_lse, dq, dk, dv, offset, length, left, right, scale, softcap,
                    masks, flags, alibi, tile_q, tile_k, workers):  # fmt: skip
    """Add to dq (B, Hq, Nq, D), dk (B, Hq, Nk, D) and dv (B, Hq, Nk, Dv), which have an entry for every query head.

    `out` and `lse` are what numba_forward.forward_kernel wrote for the same arguments; grad_out and grad_lse have
    their shapes.
    """
    batch, n_heads, n_q, d = q.shape
    allowed, bias = masks
    kv_heads, d_v = k.shape[1], v.shape[3]
    for worker in prange(workers):
        buffer_qt, buffer_dot = np.empty(tile_q * d, q.dtype), np.empty(tile_q * d_v, q.dtype)
        buffer_s, buffer_dw = np.empty(tile_q * tile_k, q.dtype), np.empty(tile_q * tile_k, q.dtype)
        buffer_add = np.empty(max(tile_q, tile_k) * max(d, d_v), q.dtype)
        slope, delta, counting = np.empty(tile_q, q.dtype), np.empty(tile_q, q.dtype), np.arange(tile_q)
        base2 = np.empty(tile_q, q.dtype)
        for task in range(worker, batch * n_heads, workers):
            b, h = task // n_heads, task % n_heads
            g = h // (n_heads // kv_heads)
            slope[:] = alibi[h]
            for i0 in range(0, n_q, tile_q):
                i1 = min(i0 + tile_q, n_q)
                rows, position = i1 - i0, offset[b] + i0 + counting[: i1 - i0]
                qt, dot = buffer_qt[: rows * d].reshape(d, rows), buffer_dot[: rows * d_v].reshape(d_v, rows)
                step.transpose_scaled(q[b, h, i0:i1], scale, qt)
                step.transpose_scaled(grad_out[b, h, i0:i1], q.dtype.type(1), dot)
                row_terms(out[b, h, i0:i1], grad_out[b, h, i0:i1], lse[b, h, i0:i1], grad_lse[b, h, i0:i1],
                          delta, base2)  # fmt: skip
                stop = min(length[b], position[-1] + right + 1)
                for j0 in range(max(position[0] - left, 0), stop, tile_k):
                    j1 = min(j0 + tile_k, stop)
                    s = buffer_s[: (j1 - j0) * rows].reshape(j1 - j0, rows)
                    dw = buffer_dw[: (j1 - j0) * rows].reshape(j1 - j0, rows)
                    by_key = buffer_add[: (j1 - j0) * d_v].reshape(j1 - j0, d_v)
                    step.score_tile(s, k[b, g, j0:j1], qt, position - j0, left, right, softcap, slope,
                                    allowed[b, h, i0:i1, j0:j1], bias[b, h, i0:i1, j0:j1], flags)  # fmt: skip
                    weigh_again(s, base2)
                    np.dot(s, grad_out[b, h, i0:i1], out=by_key)
                    step.add_to(dv[b, h, j0:j1], by_key, 1)
                    np.dot(v[b, g, j0:j1], dot, out=dw)
                    score_gradients(s, dw, delta)
                    if softcap > 0:
                        through_cap(s, k[b, g, j0:j1], qt, softcap, buffer_dw)
                    by_key = buffer_add[: (j1 - j0) * d].reshape(j1 - j0, d)
                    np.dot(s, q[b, h, i0:i1], out=by_key)
                    step.add_to(dk[b, h, j0:j1], by_key, scale / LOG2_E)
                    by_query = buffer_add[: rows * d].reshape(rows, d)
                    np.dot(s.T, k[b, g, j0:j1], out=by_query)
                    step.add_to(dq[b, h, i0:i1], by_query, scale / LOG2_E)


@step.step
def row_terms(out, grad_out, lse, grad_lse, delta, base2):
    """What each query brings to its gradients: δ = Σ dO·O - dlse, and its log-sum-exp in base 2, 0 for an empty row."""
    for i in range(out.shape[0]):
        delta[i] = -grad_lse[i]
        for c in range(out.shape[1]):
            delta[i] += grad_out[i, c] * out[i, c]
        base2[i] = lse[i] * LOG2_E if lse[i] != -np.inf else 0.0


@step.step
def weigh_again(s, lse):
    """s becomes the weights themselves, from the log-sum-exp (base 2) that the forward pass kept."""
    for j in range(s.shape[0]):
        for i in range(s.shape[1]):
            s[j, i] = exp2(s[j, i] - lse[i])


@step.step
def score_gradients(s, grad_weights, delta):
    """s, the weights, becomes the gradient of the scores: w (dw - δ)."""
    for j in range(s.shape[0]):
        for i in range(s.shape[1]):
            s[j, i] *= grad_weights[j, i] - delta[i]


@step.step
def through_cap(grad, k, qt, limit, buffer):
    """The gradient before the cap: 1 - tanh² of what it was, from the products anew."""
    raw = buffer[: grad.size].reshape(grad.shape)
    np.dot(k, qt, out=raw)
    step.cap(raw, limit)
    for j in range(grad.shape[0]):
        for i in range(grad.shape[1]):
            grad[j, i] *= 1 - (raw[j, i] / limit) ** 2
