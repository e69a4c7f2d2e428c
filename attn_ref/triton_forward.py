"""Flash attention in Triton: a program holds one tile of queries on the chip, and all keys and values pass by.

    q (B, Hq, Nq, D)   k (B, Hkv, Nk, D)   v (B, Hkv, Nk, Dv)   →   out (B, Hq, Nq, Dv), lse (B, Hq, Nq)

Derived in course/12_triton, from the tiles of course/10. The walk comes twice: over the edges, where some queries
see only some keys, and over the tiles between, which need no mask. Source: Dao (2023), FlashAttention-2, algorithm 1.
"""

import triton
import triton.language as tl

from attn_ref.triton_tiles import (
    INF,
    LN2,
    LOG2E,
    finish_scores,
    keys_to_walk,
    load_tile,
    may_attend,
    queries_at,
    row_address,
    store_tile,
    without_nonfinite,
)


@triton.jit
def forward_kernel(
    q, k, v, out, lse, offset, length, allowed, bias, sinks, alibi,
    n_q, heads_per_kv, scale, softcap, left, right,
    D: tl.constexpr, D_V: tl.constexpr, PADDED_D: tl.constexpr, PADDED_DV: tl.constexpr, RAW: tl.constexpr,
    TILE_Q: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """One program: TILE_Q queries of one head. Grid (tiles of queries, Hq, B)."""
    EDGE_K: tl.constexpr = TILE_K // 2  # masks need registers: a smaller tile keeps them from spilling to memory
    q0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * TILE_Q  # the long rows of a causal mask start first
    h, b = tl.program_id(1), tl.program_id(2)
    kv_head = h // heads_per_kv
    row = q0 + tl.arange(0, TILE_Q)
    queries = queries_at(row[:, None], b, h, offset, length, n_q, left, right, allowed, bias, alibi)
    begin, end, inner_begin, inner_end = keys_to_walk(queries, TILE_K, EDGE_K)
    q_tile = load_tile(q, b, h, q0, n_q, TILE_Q, D, PADDED_D, True)

    state = empty_state(TILE_Q, PADDED_DV)
    state = walk_keys(
        state, q_tile, k, v, b, kv_head, queries, begin, end, inner_begin, inner_end - inner_begin,
        scale, softcap, D, D_V, RAW, EDGE_K, True,
    )  # fmt: skip
    if allowed is None and bias is None:
        state = walk_keys(
            state, q_tile, k, v, b, kv_head, queries, inner_begin, inner_end, 0, 0,
            scale, softcap, D, D_V, RAW, TILE_K, False,
        )  # fmt: skip
    sink = None if sinks is None else tl.load(sinks + h).to(tl.float32)
    o, row_lse = finish_rows(state, scale * LOG2E if RAW else 1.0, sink)
    store_tile(out, b, h, q0, n_q, o, TILE_Q, D_V, PADDED_DV)
    tl.store(row_address(lse, b, h, row), row_lse, mask=row < n_q)


@triton.jit
def walk_keys(
    state, q_tile, k, v, b, kv_head, queries, begin, end, gap_begin, gap, scale, softcap,
    D: tl.constexpr, D_V: tl.constexpr, RAW: tl.constexpr, TILE_K: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys begin .. end - 1, except for a gap of whole tiles. -> the new state"""
    row_max, row_sum, acc = state
    # Without options the scores stay as the dot product made them, and one fused multiply-add scales and shifts them.
    unit = scale * LOG2E if RAW else 1.0
    # Few tiles lie at an edge: to load the next ones ahead would only cost registers. A mask makes all of them edges.
    ONE_STAGE: tl.constexpr = EDGE and queries.allowed is None and queries.bias is None
    for step in tl.range(begin, end - gap, TILE_K, num_stages=1 if ONE_STAGE else None):
        k0 = step
        if EDGE:
            k0 += tl.where(step >= gap_begin, gap, 0)
        key = k0 + tl.arange(0, TILE_K)[None, :]
        k_tile = load_tile(k, b, kv_head, k0, end, TILE_K, D, q_tile.shape[1], EDGE)
        # ieee: fp32 in full, where tf32 would keep ten bits of each number. It changes nothing for 16-bit inputs.
        s = tl.dot(q_tile, k_tile.T, input_precision="ieee")
        s, _ = finish_scores(s, queries, key, end, scale, softcap, RAW)
        if EDGE:
            visible = may_attend(queries, key, end)
            s = tl.where(visible, s, -INF)
        new_max = tl.maximum(row_max, tl.max(s, 1))
        shift = new_max * unit
        if EDGE:
            shift = tl.where(new_max == -INF, 0.0, shift)  # no key yet: -inf - -inf would be NaN
        p = tl.exp2(s * unit - shift[:, None])
        fade = tl.exp2(row_max * unit - shift)  # what was summed so far, measured from the new maximum
        row_sum = row_sum * fade + tl.sum(p, 1)
        v_tile = load_tile(v, b, kv_head, k0, end, TILE_K, D_V, acc.shape[1], EDGE)
        if EDGE:  # a value that is not finite makes NaN of the queries that may attend to it, and of no others
            clean = without_nonfinite(v_tile)
            broken = tl.max((clean != v_tile).to(tl.int32), 1) > 0
            p = tl.where(visible & broken[None, :], float("nan"), p)
            v_tile = clean
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * fade[:, None], input_precision="ieee")
        row_max = new_max
    return row_max, row_sum, acc


@triton.jit
def empty_state(ROWS: tl.constexpr, PADDED_DV: tl.constexpr):
    """-> the largest score, the sum of the weights and the weighted sum of the values, of no key yet"""
    row_max = tl.full([ROWS], -INF, tl.float32)
    return row_max, tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, PADDED_DV], tl.float32)


@triton.jit
def finish_rows(state, unit, sink):
    """-> the output and the natural log-sum-exp of each row, once the sink has taken its share"""
    row_max, row_sum, acc = state
    row_max = row_max * unit
    if sink is not None:  # one more key, whose value is 0
        new_max = tl.maximum(row_max, sink * LOG2E)
        shift = tl.where(new_max == -INF, 0.0, new_max)
        fade = tl.exp2(row_max - shift)
        row_sum, acc = row_sum * fade + tl.exp2(sink * LOG2E - shift), acc * fade[:, None]
        row_max = new_max
    out = acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]  # nothing to attend to: 0
    return out, (row_max + tl.log2(row_sum)) * LN2
