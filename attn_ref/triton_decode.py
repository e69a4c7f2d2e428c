"""Decoding in Triton: a few queries and a long cache, whose keys are split among programs, or most of the GPU is idle.

    split s: (out_s, lse_s)   →   lse = log Σ exp lse_s,   out = Σ exp(lse_s - lse) out_s

Derived in course/09_kv_cache (why the cache's bytes set the time) and course/12_triton. The query heads of a KV head
are the rows of one tile, so that the cache is read once for all of them. Source: Dao et al. (2023), Flash-Decoding.
"""

import triton
import triton.language as tl

from attn_ref.triton_forward import empty_state, finish_rows, walk_keys
from attn_ref.triton_tiles import INF, LN2, LOG2E, keys_to_walk, queries_at, row_address


@triton.jit
def decode_kernel(
    q, k, v, parts, part_lse, offset, length, allowed, bias, alibi,
    n_q, heads_per_kv, splits, scale, softcap, left, right,
    D: tl.constexpr, D_V: tl.constexpr, PADDED_D: tl.constexpr, PADDED_DV: tl.constexpr, RAW: tl.constexpr,
    TILE_Q: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """One program: all queries of one KV head, and one share of the keys. Grid (splits, Hkv, B)."""
    EDGE_K: tl.constexpr = TILE_K // 2
    split, kv_head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    line = tl.arange(0, TILE_Q)[:, None]  # a line of the tile is query `row` of head `h`
    inside = line < n_q * heads_per_kv
    row, h = line % n_q, kv_head * heads_per_kv + tl.minimum(line // n_q, heads_per_kv - 1)
    queries = queries_at(row, b, h, offset, length, n_q, left, right, allowed, bias, alibi)
    begin, end, inner_begin, inner_end = keys_to_walk(queries, TILE_K, EDGE_K)
    first = begin // TILE_K * TILE_K
    share = tl.cdiv(tl.cdiv(tl.maximum(end - first, 0), TILE_K), splits) * TILE_K  # whole tiles
    begin, end = tl.maximum(first + split * share, begin), tl.minimum(first + (split + 1) * share, end)
    inner_begin = tl.minimum(tl.maximum(inner_begin, begin), end)
    inner_end = tl.maximum(tl.minimum(inner_end, end), inner_begin)
    column = tl.arange(0, PADDED_D)[None, :]
    q_tile = tl.load(row_address(q, b, h, row) + column * q.stride_col, mask=inside & (column < D), other=0.0)

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
    out, lse = finish_rows(state, scale * LOG2E if RAW else 1.0, None)
    part, column = row * splits + split, tl.arange(0, PADDED_DV)[None, :]
    tl.store(row_address(parts, b, h, part) + column, out, mask=inside & (column < D_V))
    tl.store(row_address(part_lse, b, h, part), lse[:, None], mask=inside)


@triton.jit
def merge_kernel(
    parts, part_lse, out, lse, sinks, splits, D_V: tl.constexpr, PADDED_DV: tl.constexpr, PADDED_SPLITS: tl.constexpr
):
    """One program: one query of one head, from all its splits. The sink counts once, here. Grid (Nq, Hq, B)."""
    row, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    split, column = tl.arange(0, PADDED_SPLITS), tl.arange(0, PADDED_DV)
    lse2 = tl.load(row_address(part_lse, b, h, row * splits + split), mask=split < splits, other=-INF) * LOG2E
    address = row_address(parts, b, h, row * splits + split[:, None]) + column[None, :]
    part = tl.load(address, mask=(split[:, None] < splits) & (column[None, :] < D_V), other=0.0)

    largest = tl.max(lse2, 0)
    if sinks is not None:
        sink = tl.load(sinks + h).to(tl.float32) * LOG2E
        largest = tl.maximum(largest, sink)
    shift = tl.where(largest == -INF, 0.0, largest)
    weight = tl.exp2(lse2 - shift)
    total = tl.sum(weight, 0)
    if sinks is not None:
        total += tl.exp2(sink - shift)
    merged = tl.sum(weight[:, None] * part, 0) / tl.where(total == 0, 1.0, total)
    tl.store(row_address(out, b, h, row) + column * out.stride_col, merged.to(out.at.dtype.element_ty), column < D_V)
    tl.store(row_address(lse, b, h, row), (largest + tl.log2(total)) * LN2)
