"""The gradients of flash attention in Triton: the weights are made again from the log-sum-exp, tile by tile.

    P = exp(S - lse)   dV = Pᵀ dO   dP = dO Vᵀ   dS = P ∘ (dP - δ)   dQ = scale dS K   dK = scale dSᵀ Q
    δ = rowsum(dO ∘ O) - d lse, one number for each query (B, Hq, Nq)

Derived in course/03_gradients and course/12_triton. Each sum has one owner, so that no two programs add to one place:
a program of `dk_dv_kernel` holds a tile of keys and walks the queries of all heads that share it, one of `dq_kernel`
holds a tile of queries and walks the keys. Source: Dao (2023), FlashAttention-2, algorithm 2.
"""

import triton
import triton.language as tl

from attn_ref.triton_tiles import (
    INF,
    LOG2E,
    finish_scores,
    first_position,
    keys_to_walk,
    load_tile,
    may_attend,
    queries_at,
    row_address,
    store_tile,
    without_nonfinite,
)


@triton.jit
def delta_kernel(
    out, grad_out, lse, grad_lse, delta, lse2, n_q, D_V: tl.constexpr, PADDED_DV: tl.constexpr, TILE_Q: tl.constexpr
):
    """One program: delta for TILE_Q queries of one head, and their log-sum-exp in units of log 2. Grid as forward."""
    q0, h, b = tl.program_id(0) * TILE_Q, tl.program_id(1), tl.program_id(2)
    row = q0 + tl.arange(0, TILE_Q)
    o = load_tile(out, b, h, q0, n_q, TILE_Q, D_V, PADDED_DV, True).to(tl.float32)
    do = load_tile(grad_out, b, h, q0, n_q, TILE_Q, D_V, PADDED_DV, True).to(tl.float32)
    row_delta = tl.sum(o * do, 1)
    if grad_lse is not None:
        row_delta -= tl.load(row_address(grad_lse, b, h, row), mask=row < n_q, other=0.0).to(tl.float32)
    row_lse = tl.load(row_address(lse, b, h, row), mask=row < n_q, other=0.0)
    row_lse = tl.where(row_lse == -INF, INF, row_lse * LOG2E)  # a row without keys: 2^(s - inf) = 0 for every s
    tl.store(row_address(delta, b, h, row), row_delta, mask=row < n_q)
    tl.store(row_address(lse2, b, h, row), row_lse, mask=row < n_q)


@triton.jit
def dk_dv_kernel(
    q, k, v, grad_out, lse2, delta, dk, dv, offset, length, allowed, bias, alibi,
    n_q, n_k, heads_per_kv, scale, softcap, left, right,
    D: tl.constexpr, D_V: tl.constexpr, PADDED_D: tl.constexpr, PADDED_DV: tl.constexpr, RAW: tl.constexpr,
    TILE_Q: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """One program: TILE_K keys of one KV head. Grid (tiles of keys, Hkv, B)."""
    EDGE_Q: tl.constexpr = TILE_Q // 2  # as in the forward kernel
    k0, kv_head, b = tl.program_id(0) * TILE_K, tl.program_id(1), tl.program_id(2)
    k_tile = load_tile(k, b, kv_head, k0, n_k, TILE_K, D, PADDED_D, True)
    v_tile = load_tile(v, b, kv_head, k0, n_k, TILE_K, D_V, PADDED_DV, True)
    begin, end, inner_begin, inner_end = queries_to_walk(
        k0, b, offset, length, n_q, left, right, TILE_Q, EDGE_Q, TILE_K
    )
    if allowed is not None or bias is not None:
        inner_end = inner_begin  # any key may be forbidden
    sums = tl.zeros([TILE_K, PADDED_D], tl.float32), tl.zeros([TILE_K, PADDED_DV], tl.float32)
    sums = walk_queries(
        sums, k_tile, v_tile, q, grad_out, lse2, delta, offset, length, allowed, bias, alibi,
        b, kv_head, heads_per_kv, k0, n_q, n_k, begin, end, inner_begin, inner_end - inner_begin,
        scale, softcap, left, right, D, D_V, RAW, EDGE_Q, True,
    )  # fmt: skip
    if allowed is None and bias is None:
        sums = walk_queries(
            sums, k_tile, v_tile, q, grad_out, lse2, delta, offset, length, allowed, bias, alibi,
            b, kv_head, heads_per_kv, k0, n_q, n_k, inner_begin, inner_end, 0, 0,
            scale, softcap, left, right, D, D_V, RAW, TILE_Q, False,
        )  # fmt: skip
    store_tile(dk, b, kv_head, k0, n_k, sums[0] * scale, TILE_K, D, PADDED_D)
    store_tile(dv, b, kv_head, k0, n_k, sums[1], TILE_K, D_V, PADDED_DV)


@triton.jit
def walk_queries(
    sums, k_tile, v_tile, q, grad_out, lse2, delta, offset, length, allowed, bias, alibi,
    b, kv_head, heads_per_kv, k0, n_q, n_k, begin, end, gap_begin, gap, scale, softcap, left, right,
    D: tl.constexpr, D_V: tl.constexpr, RAW: tl.constexpr, TILE_Q: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Add what the queries begin .. end - 1 of all heads, except for a gap of whole tiles, give to dK / scale and dV.

    The scores lie here as (keys, queries): both sums then multiply them from the left, as they come from the registers.
    """
    dk, dv = sums
    key = k0 + tl.arange(0, k_tile.shape[0])[:, None]
    tiles = tl.cdiv(tl.maximum(end - gap - begin, 0), TILE_Q)
    ONE_STAGE: tl.constexpr = EDGE and allowed is None and bias is None
    for step in tl.range(0, heads_per_kv * tiles, num_stages=1 if ONE_STAGE else None):
        h = kv_head * heads_per_kv + step // tiles
        q0 = begin + step % tiles * TILE_Q
        if EDGE:
            q0 += tl.where(q0 >= gap_begin, gap, 0)
        row = tl.arange(0, TILE_Q)[None, :]
        queries = queries_at(q0 + row, b, h, offset, length, n_q, left, right, allowed, bias, alibi)
        q_tile = load_tile(q, b, h, q0, n_q, TILE_Q, D, k_tile.shape[1], EDGE)
        do_tile = load_tile(grad_out, b, h, q0, n_q, TILE_Q, D_V, v_tile.shape[1], EDGE)
        row_lse = tl.load(row_address(lse2, b, h, q0) + row, mask=row < n_q - q0, other=INF)  # no query: no weight
        row_delta = tl.load(row_address(delta, b, h, q0) + row, mask=row < n_q - q0, other=0.0)
        s = tl.dot(k_tile, q_tile.T, input_precision="ieee")
        dp = tl.dot(v_tile, do_tile.T, input_precision="ieee")
        p, ds = weights_and_gradients(s, dp, row_lse, row_delta, queries, key, n_k, scale, softcap, RAW, EDGE)
        dv = tl.dot(p.to(do_tile.dtype), do_tile, dv, input_precision="ieee")
        dk = tl.dot(ds.to(q_tile.dtype), q_tile, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def dq_kernel(
    q, k, v, grad_out, lse2, delta, dq, offset, length, allowed, bias, alibi,
    n_q, heads_per_kv, scale, softcap, left, right,
    D: tl.constexpr, D_V: tl.constexpr, PADDED_D: tl.constexpr, PADDED_DV: tl.constexpr, RAW: tl.constexpr,
    TILE_Q: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """One program: TILE_Q queries of one head. Grid as forward."""
    EDGE_K: tl.constexpr = TILE_K // 2
    q0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * TILE_Q
    h, b = tl.program_id(1), tl.program_id(2)
    kv_head = h // heads_per_kv
    row = q0 + tl.arange(0, TILE_Q)[:, None]
    queries = queries_at(row, b, h, offset, length, n_q, left, right, allowed, bias, alibi)
    begin, end, inner_begin, inner_end = keys_to_walk(queries, TILE_K, EDGE_K)
    q_tile = load_tile(q, b, h, q0, n_q, TILE_Q, D, PADDED_D, True)
    do_tile = load_tile(grad_out, b, h, q0, n_q, TILE_Q, D_V, PADDED_DV, True)
    row_lse = tl.load(row_address(lse2, b, h, row), mask=row < n_q, other=INF)
    row_delta = tl.load(row_address(delta, b, h, row), mask=row < n_q, other=0.0)

    dq_tile = tl.zeros([TILE_Q, PADDED_D], tl.float32)
    dq_tile = walk_keys_back(
        dq_tile, q_tile, do_tile, row_lse, row_delta, k, v, b, kv_head, queries, begin, end, inner_begin,
        inner_end - inner_begin, scale, softcap, D, D_V, RAW, EDGE_K, True,
    )  # fmt: skip
    if allowed is None and bias is None:
        dq_tile = walk_keys_back(
            dq_tile, q_tile, do_tile, row_lse, row_delta, k, v, b, kv_head, queries, inner_begin, inner_end, 0,
            0, scale, softcap, D, D_V, RAW, TILE_K, False,
        )  # fmt: skip
    store_tile(dq, b, h, q0, n_q, dq_tile * scale, TILE_Q, D, PADDED_D)


@triton.jit
def walk_keys_back(
    dq, q_tile, do_tile, row_lse, row_delta, k, v, b, kv_head, queries, begin, end, gap_begin, gap, scale, softcap,
    D: tl.constexpr, D_V: tl.constexpr, RAW: tl.constexpr, TILE_K: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Add what the keys begin .. end - 1, except for a gap of whole tiles, give to dQ / scale."""
    ONE_STAGE: tl.constexpr = EDGE and queries.allowed is None and queries.bias is None  # as in the forward kernel
    for step in tl.range(begin, end - gap, TILE_K, num_stages=1 if ONE_STAGE else None):
        k0 = step
        if EDGE:
            k0 += tl.where(step >= gap_begin, gap, 0)
        key = k0 + tl.arange(0, TILE_K)[None, :]
        k_tile = load_tile(k, b, kv_head, k0, end, TILE_K, D, q_tile.shape[1], EDGE)
        v_tile = load_tile(v, b, kv_head, k0, end, TILE_K, D_V, do_tile.shape[1], EDGE)
        s = tl.dot(q_tile, k_tile.T, input_precision="ieee")
        dp = tl.dot(do_tile, v_tile.T, input_precision="ieee")
        p, ds = weights_and_gradients(s, dp, row_lse, row_delta, queries, key, end, scale, softcap, RAW, EDGE)
        if EDGE:
            k_tile = without_nonfinite(k_tile)
        dq = tl.dot(ds.to(k_tile.dtype), k_tile, dq, input_precision="ieee")
    return dq


@triton.jit
def weights_and_gradients(
    s, dp, row_lse, row_delta, queries, key, end, scale, softcap, RAW: tl.constexpr, EDGE: tl.constexpr
):
    """-> P and dS (before the cap and the scale) of a tile, whichever way it lies; 0 where a query may not attend"""
    s, bent = finish_scores(s, queries, key, end, scale, softcap, RAW)
    p = tl.exp2(s * (scale * LOG2E if RAW else 1.0) - row_lse)
    ds = p * (dp - row_delta)
    if softcap is not None:
        ds *= 1 - bent * bent  # d tanh(x) / dx
    if EDGE:
        visible = may_attend(queries, key, end)
        p, ds = tl.where(visible, p, 0.0), tl.where(visible, ds, 0.0)
    return p, ds


@triton.jit
def queries_to_walk(
    k0, b, offset, length, n_q, left, right, TILE_Q: tl.constexpr, EDGE_Q: tl.constexpr, TILE_K: tl.constexpr
):
    """-> begin, end, inner_begin, inner_end: the queries that see a key of the tile, and whole tiles that see all."""
    start, n_keys = first_position(offset, b), tl.load(length + b).to(tl.int32)  # query i stands at start + i
    k1 = k0 + TILE_K
    begin, end = 0, tl.where(k0 < n_keys, n_q, 0)
    inner_begin, inner_end = 0, tl.where(k1 <= n_keys, n_q, 0)
    if right is not None:  # a query that sees the tile's first key; its last
        begin = tl.maximum(k0 - right - start, 0)
        inner_begin = tl.maximum(k1 - 1 - right - start, 0)
    if left is not None:  # sees the tile's last key; its first
        end = tl.minimum(k1 + left - start, end)
        inner_end = tl.minimum(k0 + 1 + left - start, inner_end)
    inner_begin = tl.cdiv(inner_begin, TILE_Q) * TILE_Q
    return begin // EDGE_Q * EDGE_Q, end, inner_begin, tl.maximum(inner_end // TILE_Q * TILE_Q, inner_begin)
