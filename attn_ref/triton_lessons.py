"""Kernels as small as a lesson: one idea each, from adding two vectors to the gradients of attention.

    program   one run of a kernel; program_id says which
    block     what a program holds at once, a power of two long; a mask says which of it is there
    pointer   where an array begins; a step along an axis is a stride

Derived in course/12_triton_kernel. Those that attention is really computed with are in `triton_forward` and
`triton_backward`; they do more, and are longer.
"""

from attn_ref.triton_here import tl, triton


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """out = x + y for n numbers. One program: BLOCK of them. Grid (blocks,)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    total = tl.load(x_ptr + i, mask=there) + tl.load(y_ptr + i, mask=there)
    tl.store(out_ptr + i, total, mask=there)


@triton.jit
def transpose_kernel(
    x_ptr, out_ptr, n, m, x_row, x_col, out_row, out_col, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):
    """out (m, n) = xᵀ for x (n, m), both of any strides. One program: a tile. Grid (down, across)."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    col = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    there = (row < n) & (col < m)
    tile = tl.load(x_ptr + row * x_row + col * x_col, mask=there)
    tl.store(out_ptr + col * out_row + row * out_col, tile, mask=there)


@triton.jit
def softmax_kernel(x_ptr, out_ptr, m, x_row, out_row, BLOCK: tl.constexpr):
    """Shares along each row of x (n, m), in float32 whatever x is. One program: a row, m <= BLOCK. Grid (n,)."""
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_row + col, mask=col < m, other=-float("inf")).to(tl.float32)
    largest = tl.max(x, 0)
    largest = tl.where(largest == -float("inf"), 0.0, largest)  # -inf - -inf would be NaN
    e = tl.exp(x - largest)
    total = tl.sum(e, 0)
    tl.store(out_ptr + row * out_row + col, e / tl.where(total == 0, 1.0, total), mask=col < m)


@triton.jit
def logsumexp_kernel(x_ptr, out_ptr, m, x_row, scale, BLOCK: tl.constexpr):
    """log Σ exp(scale · x) along each row of x (n, m), in blocks, by powers of two. One program: a row. Grid (n,)."""
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    unit = scale * 1.4426950408889634  # log2(e)
    row_max, row_sum = -float("inf"), 0.0
    for start in range(0, m, BLOCK):
        there = start + col < m
        x = tl.load(x_ptr + row * x_row + start + col, mask=there, other=0.0).to(tl.float32)
        s = tl.where(there, x * unit, -float("inf"))
        new_max = tl.maximum(row_max, tl.max(s, 0))
        shift = tl.where(new_max == -float("inf"), 0.0, new_max)
        row_sum = row_sum * tl.exp2(row_max - shift) + tl.sum(tl.exp2(s - shift), 0)
        row_max = new_max
    tl.store(out_ptr + row, (row_max + tl.log2(row_sum)) * 0.6931471805599453)  # log(2)


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, out_ptr, n, m, k, a_row, a_col, b_row, b_col, out_row, out_col,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out (n, m) = a (n, k) @ b (k, m), of any strides, summed in float32. One program: a tile of out. Grid (n, m)."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    col = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    step = tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, k, BLOCK_K):
        down, across = start + step[:, None], start + step[None, :]
        a = tl.load(a_ptr + row * a_row + across * a_col, mask=(row < n) & (across < k), other=0.0)
        b = tl.load(b_ptr + down * b_row + col * b_col, mask=(down < k) & (col < m), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(out_ptr + row * out_row + col * out_col, acc, mask=(row < n) & (col < m))


@triton.jit
def flash_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Attention over (heads, n, D) arrays, contiguous. One program: a block of queries. Grid (their blocks, heads)."""
    h, q0, c = tl.program_id(1), tl.program_id(0) * BLOCK_Q, tl.arange(0, D)[None, :]
    row = q0 + tl.arange(0, BLOCK_Q)
    q = tl.load(q_ptr + (h * n_q + row[:, None]) * D + c, mask=row[:, None] < n_q, other=0.0)
    row_max = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    end = n_k
    if CAUSAL:
        end = tl.minimum(n_k, q0 + BLOCK_Q + n_k - n_q)
    for k0 in range(0, end, BLOCK_K):
        key = k0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        v = tl.load(v_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * (scale * 1.4426950408889634)
        allowed = key[None, :] < n_k
        if CAUSAL:
            allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
        s = tl.where(allowed, s, -float("inf"))
        new_max = tl.maximum(row_max, tl.max(s, 1))
        shift = tl.where(new_max == -float("inf"), 0.0, new_max)
        p = tl.exp2(s - shift[:, None])
        fade = tl.exp2(row_max - shift)
        row_sum = row_sum * fade + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        row_max = new_max
    out = acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]
    tl.store(out_ptr + (h * n_q + row[:, None]) * D + c, out, mask=row[:, None] < n_q)
    tl.store(lse_ptr + h * n_q + row, (row_max + tl.log2(row_sum)) * 0.6931471805599453, mask=row < n_q)


@triton.jit
def dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of the queries. One program: a block of queries. Grid (blocks of queries, heads)."""
    h, q0, c = tl.program_id(1), tl.program_id(0) * BLOCK_Q, tl.arange(0, D)[None, :]
    row = q0 + tl.arange(0, BLOCK_Q)
    at = (h * n_q + row[:, None]) * D + c
    q = tl.load(q_ptr + at, mask=row[:, None] < n_q, other=0.0)
    grad = tl.load(grad_ptr + at, mask=row[:, None] < n_q, other=0.0)
    lse = tl.load(lse_ptr + h * n_q + row, mask=row < n_q, other=0.0)
    delta = tl.load(delta_ptr + h * n_q + row, mask=row < n_q, other=0.0)
    dq = tl.zeros([BLOCK_Q, D], tl.float32)
    end = n_k
    if CAUSAL:
        end = tl.minimum(n_k, q0 + BLOCK_Q + n_k - n_q)
    for k0 in range(0, end, BLOCK_K):
        key = k0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        v = tl.load(v_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        allowed = key[None, :] < n_k
        if CAUSAL:
            allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
        p = tl.where(allowed, tl.exp2((s - lse[:, None]) * 1.4426950408889634), 0.0)
        ds = p * (tl.dot(grad, v.T, input_precision="ieee") - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    tl.store(dq_ptr + at, dq * scale, mask=row[:, None] < n_q)


@triton.jit
def dk_dv_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of keys and values. One program: a block of keys. Grid (blocks of keys, heads)."""
    h, k0, c = tl.program_id(1), tl.program_id(0) * BLOCK_K, tl.arange(0, D)[None, :]
    key = k0 + tl.arange(0, BLOCK_K)
    at = (h * n_k + key[:, None]) * D + c
    k = tl.load(k_ptr + at, mask=key[:, None] < n_k, other=0.0)
    v = tl.load(v_ptr + at, mask=key[:, None] < n_k, other=0.0)
    dk = tl.zeros([BLOCK_K, D], tl.float32)
    dv = tl.zeros([BLOCK_K, D], tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(k0 - (n_k - n_q), 0) // BLOCK_Q * BLOCK_Q
    for q0 in range(begin, n_q, BLOCK_Q):
        row = q0 + tl.arange(0, BLOCK_Q)
        there = row[:, None] < n_q
        q = tl.load(q_ptr + (h * n_q + row[:, None]) * D + c, mask=there, other=0.0)
        grad = tl.load(grad_ptr + (h * n_q + row[:, None]) * D + c, mask=there, other=0.0)
        lse = tl.load(lse_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        delta = tl.load(delta_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        allowed = (row[:, None] < n_q) & (key[None, :] < n_k)
        if CAUSAL:
            allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
        p = tl.where(allowed, tl.exp2((s - lse[:, None]) * 1.4426950408889634), 0.0)
        ds = p * (tl.dot(grad, v.T, input_precision="ieee") - delta[:, None])
        dv = tl.dot(p.to(grad.dtype).T, grad, dv, input_precision="ieee")
        dk = tl.dot(ds.to(q.dtype).T, q, dk, input_precision="ieee")
    tl.store(dk_ptr + at, dk * scale, mask=key[:, None] < n_k)
    tl.store(dv_ptr + at, dv, mask=key[:, None] < n_k)
