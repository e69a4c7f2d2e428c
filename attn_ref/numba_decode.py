"""Decoding on the CPU: few queries, a long cache. The keys are split among workers and the parts merged.

    part p:  (oₚ, lseₚ) over its keys      o = Σ 2^(lseₚ - lse) oₚ,  lse = log₂ Σ 2^lseₚ

Derived in course/11_numba_kernel; merged as online.merge_partials. The query heads of a group are rows of a tile, so
that each key is read from memory once for all of them: reading is what decoding costs. With so few rows the tile lies
the other way, rows × keys, and plain loops outrun BLAS. Source: Dao et al. (2023), flash-decoding.
"""

import numpy as np
from numba import njit, prange

from attn_ref import numba_steps as step
from attn_ref.numba_compile import COMPILE
from attn_ref.numba_exp2 import LOG2_E, exp2

FEW = 64  # rows; from here on BLAS is the faster way to multiply


@njit(**COMPILE)
def decode_kernel(q, k, v, out, lse, offset, length, left, right, scale, softcap, masks, flags, alibi, sinks,
                  tile_k, splits, workers):  # fmt: skip
    """Write out and lse as numba_forward.forward_kernel does, from `splits` parts of the keys merged at the end."""
    batch, n_heads, n_q, d = q.shape
    allowed, bias = masks
    kv_heads, d_v, group = k.shape[1], v.shape[3], n_heads // k.shape[1]
    rows = group * n_q
    parts = np.zeros((batch, kv_heads, splits + 1, rows, d_v), q.dtype)  # the last part is that of the sinks
    parts_lse = np.full((batch, kv_heads, splits + 1, rows), -np.inf, q.dtype)
    for worker in prange(workers):
        buffer_s, scaled = np.empty(rows * tile_k, q.dtype), np.empty((rows, d), q.dtype)
        acc, row_max, row_sum = np.empty((rows, d_v), q.dtype), np.empty(rows, q.dtype), np.empty(rows, q.dtype)
        for task in range(worker, batch * kv_heads * splits, workers):
            b, g, part = task // splits // kv_heads, task // splits % kv_heads, task % splits
            heads = slice(g * group, (g + 1) * group)
            step.add_to(zeroed(scaled), q[b, heads].reshape(rows, d), scale)
            row_max[:], row_sum[:], acc[:] = step.LOWEST, 0, 0
            first, stop = max(offset[b] - left, 0), min(length[b], offset[b] + n_q + right)
            size = max((stop - first + splits - 1) // splits, 0)
            stop = min(first + (part + 1) * size, stop)
            for j0 in range(first + part * size, stop, tile_k):
                j1 = min(j0 + tile_k, stop)
                s = buffer_s[: rows * (j1 - j0)].reshape(rows, j1 - j0)
                match(s, scaled, k[b, g, j0:j1])
                if softcap > 0:
                    step.cap(s, softcap)
                adjust(s, offset[b] - j0, n_q, left, right, allowed[b, heads, :, j0:j1], bias[b, heads, :, j0:j1],
                       alibi[heads], flags)  # fmt: skip
                weigh_rows(s, row_max, row_sum, acc)
                read(s, v[b, g, j0:j1], acc, flags[0] or flags[1] or n_q > 1)
            step.finish(acc, row_max, row_sum, parts[b, g, part], parts_lse[b, g, part])
    for b in range(batch):
        for h in range(n_heads):
            for i in range(n_q):
                row, g = h % group * n_q + i, h // group
                parts_lse[b, g, splits, row] = sinks[h]
                lse[b, h, i] = merge(parts[b, g, :, row], parts_lse[b, g, :, row], out[b, h, i])


@step.step
def zeroed(x):
    """x itself, with nothing left in it."""
    x[:] = 0
    return x


@step.step
def match(s, q, k):
    """s = q kᵀ, (rows, keys)"""
    if q.shape[0] >= FEW:
        np.dot(q, k.T, out=s)
        return
    whole = q.shape[0] // 4 * 4
    for i in range(0, whole, 4):
        for j in range(k.shape[0]):
            s0, s1, s2, s3 = s.dtype.type(0), s.dtype.type(0), s.dtype.type(0), s.dtype.type(0)
            for c in range(k.shape[1]):
                s0 += q[i, c] * k[j, c]
                s1 += q[i + 1, c] * k[j, c]
                s2 += q[i + 2, c] * k[j, c]
                s3 += q[i + 3, c] * k[j, c]
            s[i, j], s[i + 1, j], s[i + 2, j], s[i + 3, j] = s0, s1, s2, s3
    for i in range(whole, q.shape[0]):
        for j in range(k.shape[0]):
            total = s.dtype.type(0)
            for c in range(k.shape[1]):
                total += q[i, c] * k[j, c]
            s[i, j] = total


@step.step
def adjust(s, first, n_q, left, right, allowed, bias, alibi, flags):
    """Bias, ALiBi and masks, row by row; row i is query i % n_q, at position first + i % n_q, of head i // n_q."""
    has_allowed, has_bias, has_alibi = flags
    for i in range(s.shape[0]):
        h, query, position = i // n_q, i % n_q, first + i % n_q
        for j in range(s.shape[1]):
            if has_bias:
                s[i, j] += bias[h, query, j] * s.dtype.type(LOG2_E)
            if has_alibi:
                s[i, j] -= alibi[h] * s.dtype.type(abs(position - j))
            if (has_allowed and not allowed[h, query, j]) or (has_bias and bias[h, query, j] == -np.inf):
                s[i, j] = -np.inf
        for j in range(0, min(position - left, s.shape[1])):
            s[i, j] = -np.inf
        for j in range(max(position + right + 1, 0), s.shape[1]):
            s[i, j] = -np.inf


@step.step
def weigh_rows(s, row_max, row_sum, acc):
    """The online softmax of each row: s becomes unnormalised weights, acc and row_sum shrink to the new maximum."""
    lanes = np.empty(16, s.dtype)
    for i in range(s.shape[0]):
        lanes[:] = row_max[i]
        whole = s.shape[1] // 16 * 16
        for j in range(0, whole, 16):  # sixteen maxima side by side: a single one would not vectorise
            for lane in range(16):
                lanes[lane] = max(lanes[lane], s[i, j + lane])
        new_max = lanes.max()
        for j in range(whole, s.shape[1]):
            new_max = max(new_max, s[i, j])
        shrink, total = exp2(row_max[i] - new_max), s.dtype.type(0)
        for j in range(s.shape[1]):
            s[i, j] = exp2(s[i, j] - new_max)
            total += s[i, j]
        row_max[i], row_sum[i] = new_max, row_sum[i] * shrink + total
        for c in range(acc.shape[1]):
            acc[i, c] *= shrink


@step.step
def read(s, v, acc, masked):
    """acc += s V, four keys at a time"""
    if masked and not step.all_finite(v):
        step.add_seen(s.T, v, acc)
        return
    if s.shape[0] >= FEW:
        step.add_to(acc, np.dot(s, v), 1)
        return
    whole = v.shape[0] // 4 * 4
    for j in range(0, whole, 4):
        for i in range(s.shape[0]):
            w0, w1, w2, w3 = s[i, j], s[i, j + 1], s[i, j + 2], s[i, j + 3]
            for c in range(v.shape[1]):
                acc[i, c] += w0 * v[j, c] + w1 * v[j + 1, c] + w2 * v[j + 2, c] + w3 * v[j + 3, c]
    for j in range(whole, v.shape[0]):
        for i in range(s.shape[0]):
            for c in range(v.shape[1]):
                acc[i, c] += s[i, j] * v[j, c]


@step.step
def merge(parts, parts_lse, out):
    """out = Σ e^(lseₚ - lse) oₚ; returns lse."""
    largest = parts_lse.max()
    out[:] = 0
    if not largest > -np.inf and largest == largest:
        return largest
    total = 0.0
    for p in range(parts.shape[0]):
        total += np.exp(parts_lse[p] - largest)
    for p in range(parts.shape[0]):
        share = out.dtype.type(np.exp(parts_lse[p] - largest) / total)
        for c in range(out.shape[0]):
            out[c] += share * parts[p, c] if share != 0 else 0
    return largest + np.log(total)
