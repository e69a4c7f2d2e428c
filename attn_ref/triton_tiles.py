"""What every Triton kernel here does to a tile: load it, finish its scores, say who may attend to whom.

    tile of scores (queries, keys):   s = scale q kᵀ  →  c·tanh(s / c)  →  + bias - slope·|p - j|  →  visible or not

Derived in course/12_triton. Scores are in units of log 2, since a GPU computes 2^x and not e^x. Apart from `allowed`,
the keys that a query sees are one run, first .. last - 1: causal, window and length all come down to these two numbers.
An option that is not asked for is None, which Triton knows when it compiles: such a kernel holds no trace of it.
"""

from typing import NamedTuple

import triton
import triton.language as tl

LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
INF = tl.constexpr(float("inf"))


class Matrices(NamedTuple):
    """A (B, H, rows, columns) tensor as a kernel gets it: an address and four strides, its own and no other's."""

    at: object
    stride_b: object
    stride_h: object
    stride_row: object
    stride_col: object


class Queries(NamedTuple):
    """What decides the scores of a tile of queries, one number each, shaped to broadcast against the scores."""

    first: object
    last: object
    position: object
    slope: object
    allowed: object  # the address of the query's row of the mask; a key further is a step further
    allowed_step: object
    bias: object
    bias_step: object


@triton.jit
def row_address(x, b, h, row):
    """Where a row begins. In 64 bits: a long cache has more than 2^31 numbers."""
    b, h, row = tl.cast(b, tl.int64), tl.cast(h, tl.int64), tl.cast(row, tl.int64)
    return x.at + b * x.stride_b + h * x.stride_h + row * x.stride_row


@triton.jit
def load_tile(x, b, h, row0, end, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, EDGE: tl.constexpr):
    """ROWS rows of one head, WIDTH numbers padded to a power of two; 0 beyond the width and, at an EDGE, `end`."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)[None, :]
    address = row_address(x, b, h, row0) + row * x.stride_row + column * x.stride_col
    if EDGE and PADDED > WIDTH:
        return tl.load(address, mask=(row < end - row0) & (column < WIDTH), other=0.0)
    elif EDGE:
        return tl.load(address, mask=row < end - row0, other=0.0)
    elif PADDED > WIDTH:
        return tl.load(address, mask=column < WIDTH, other=0.0)
    else:
        return tl.load(address)


@triton.jit
def store_tile(x, b, h, row0, end, tile, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The inverse of load_tile; the tile is rounded to the type of x."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PADDED)[None, :]
    address = row_address(x, b, h, row0) + row * x.stride_row + column * x.stride_col
    inside = (row < end - row0) & (column < WIDTH) if PADDED > WIDTH else row < end - row0
    tl.store(address, tile.to(x.at.dtype.element_ty), mask=inside)


@triton.jit
def first_position(offset, b):
    """Where the first query of a batch entry stands, as an int32 that can be added to. No cache is 2^29 keys long."""
    return tl.minimum(tl.maximum(tl.load(offset + b), -(2**29)), 2**29).to(tl.int32)


@triton.jit
def queries_at(row, b, h, offset, length, n_q, left, right, allowed, bias, alibi):
    """What is known of the queries `row`, of whatever shape, before any key is met."""
    row = tl.minimum(row, n_q - 1)  # a ragged tile's spare rows repeat the last query, and are not stored
    position = first_position(offset, b) + row
    first, last = tl.zeros_like(position), tl.zeros_like(position) + tl.load(length + b).to(tl.int32)
    if right is not None:
        last = tl.maximum(tl.minimum(position + right + 1, last), 0)
    if left is not None:
        first = tl.minimum(tl.maximum(position - left, 0), last)
    return Queries(
        first,
        last,
        position,
        None if alibi is None else tl.load(alibi + h).to(tl.float32),
        None if allowed is None else row_address(allowed, b, h, row),
        None if allowed is None else allowed.stride_col,
        None if bias is None else row_address(bias, b, h, row),
        None if bias is None else bias.stride_col,
    )


@triton.jit
def keys_to_walk(queries, TILE_K: tl.constexpr, EDGE_K: tl.constexpr):
    """-> begin, end, inner_begin, inner_end: the keys that some query sees, and whole tiles that all see in full."""
    begin, end = tl.min(queries.first) // EDGE_K * EDGE_K, tl.max(queries.last)
    inner_begin = tl.cdiv(tl.max(queries.first), TILE_K) * TILE_K
    if queries.allowed is None and queries.bias is None:
        inner_end = tl.maximum(tl.min(queries.last) // TILE_K * TILE_K, inner_begin)
    else:
        inner_end = inner_begin  # any key may be forbidden
    return begin, end, inner_begin, inner_end


@triton.jit
def finish_scores(s, queries, key, end, scale, softcap, RAW: tl.constexpr):
    """q·k -> the scores that softmax sees, times log2 e, and the tanh of the cap. RAW leaves both to the exponent."""
    bent = s
    if not RAW:
        if softcap is None:
            s = s * (scale * LOG2E)
        else:
            bent = tanh(s * (scale / softcap))
            s = bent * (softcap * LOG2E)
        if queries.bias is not None:
            address = queries.bias + tl.cast(key, tl.int64) * queries.bias_step
            s += tl.load(address, mask=key < end, other=0.0).to(tl.float32) * LOG2E
        if queries.slope is not None:
            s -= queries.slope * LOG2E * tl.abs(queries.position - key).to(tl.float32)
    return s, bent


@triton.jit
def may_attend(queries, key, end):
    """Who may attend to whom, for the queries and keys of a tile at an edge."""
    visible = (key >= queries.first) & (key < queries.last)
    if queries.allowed is not None:
        address = queries.allowed + tl.cast(key, tl.int64) * queries.allowed_step
        visible &= tl.load(address, mask=key < end, other=0) != 0
    if queries.bias is not None:  # by comparing, not by adding: NaN + -inf is NaN
        address = queries.bias + tl.cast(key, tl.int64) * queries.bias_step
        visible &= tl.load(address, mask=key < end, other=0.0) != -INF
    return visible


@triton.jit
def without_nonfinite(x):
    """x with 0 in place of NaN and inf: the weight 0 of a forbidden key does not silence them, 0 · NaN is NaN."""
    return tl.where(tl.abs(x) < INF, x, 0.0)


@triton.jit
def tanh(x):
    """(1 - e^-2|x|) / (1 + e^-2|x|), and Taylor's series near 0, where the difference would lose its digits."""
    e, x2 = tl.exp2(tl.abs(x) * (-2 * LOG2E)), x * x
    large = (1 - e) / (1 + e)
    series = x * (1 + x2 * (-1 / 3 + x2 * (2 / 15 + x2 * (-17 / 315 + x2 * (62 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, series, tl.where(x < 0, -large, large))
