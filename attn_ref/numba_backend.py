"""Hands a checked problem to the numba kernels: which of them, on which tiles, with how many workers.

Measured on CPUs with AVX-512 and with AVX2: benchmarks/kernels.py. BLAS must keep to one thread inside the workers, and
its library must be loaded before it can be told so.
"""

import functools
import math
import threading
from contextlib import contextmanager
from dataclasses import replace

import llvmlite.binding
import numpy as np
import scipy.linalg  # noqa: F401  numba multiplies with SciPy's BLAS; the limit below must find it loaded
from threadpoolctl import ThreadpoolController

from attn_ref.backward import over_group
from attn_ref.numba_backward import backward_kernel
from attn_ref.numba_compile import run, threads_lost, workers
from attn_ref.numba_decode import decode_kernel
from attn_ref.numba_exp2 import LOG2_E
from attn_ref.numba_forward import forward_kernel
from attn_ref.problem import UNBOUNDED
from attn_ref.scores import as_input, without_nonfinite
from attn_ref.shapes import is_tensor, namespace, working

FEW_QUERIES = 8  # up to here splitting the keys beats splitting the queries
KEYS_PER_SPLIT = 512
TILE_BACKWARD = 128, 512
_alone = threading.Lock()


def refusal(problem):
    """The argument that keeps these kernels from a problem; None if nothing does."""
    if is_tensor(problem.q) and problem.q.device.type != "cpu":
        return f"q, k and v are on {problem.q.device}, and the numba kernels work on the CPU"
    if problem.q.dtype.itemsize > 8:
        return f"q has dtype {problem.q.dtype}, and the kernels compute in float32 or float64"
    if problem.offset.shape[0] and int(abs(problem.offset).max()) + problem.q.shape[2] >= UNBOUNDED:
        return f"q_offset must lie within ±2³⁰ for these kernels, got {int(abs(problem.offset).max())}"
    if threads_lost():
        return "this process was forked from one that had run kernels, whose threads do not survive a fork; use spawn"
    return None


def forward(problem):
    """-> out (B, Hq, n_q, d_v), log-sum-exp (B, Hq, n_q), by whichever kernel suits the number of queries"""
    return by_splits(problem) if problem.q.shape[2] <= FEW_QUERIES else by_tiles(problem)


def by_tiles(problem, tile_q=None, tile_k=None):
    """The forward kernel: workers share the queries."""
    best_q, best_k = _tile_forward()
    return _forward(forward_kernel, problem, tile_q or best_q, tile_k or best_k)


def by_splits(problem, splits=None, tile_k=None):
    """The decoding kernel: workers share the keys. By default just enough parts to give each worker as many."""
    at_work, tasks = workers(), problem.k.shape[0] * problem.k.shape[1] or 1
    enough = min(at_work // math.gcd(tasks, at_work), problem.k.shape[2] // KEYS_PER_SPLIT + 1)
    return _forward(decode_kernel, problem, tile_k or KEYS_PER_SPLIT, splits or enough)


def _forward(kernel, problem, *sizes):
    cache = {name: _with_room(getattr(problem, name)) for name in ("k", "v")}
    q, k, v = _inputs(replace(problem, **cache))
    out, lse = np.empty((*q.shape[:3], v.shape[3]), q.dtype), np.empty(q.shape[:3], q.dtype)
    sinks = _array(np.full(q.shape[1], -np.inf) if problem.sinks is None else problem.sinks, q.dtype)
    with _one_blas_thread():
        run(kernel, q, k, v, out, lse, *_options(problem, q.dtype), sinks, *sizes, workers())
    return as_input(_like(out, problem), problem), _like(lse, problem)


def backward(problem, out, lse, grad_out, grad_lse=None, tile_q=None, tile_k=None):
    """-> dq, dk, dv of four axes; `out` and `lse` are those of `forward`"""
    q, k, v = (_array(without_nonfinite(x)[0], x.dtype) for x in _inputs(problem))
    out, grad_out, lse = (_array(x, q.dtype) for x in (out, grad_out, lse))
    grad_lse = _array(np.zeros(lse.shape) if grad_lse is None else grad_lse, q.dtype)
    dq, heads_per_kv = np.zeros_like(q), q.shape[1] // k.shape[1]
    dk, dv = (np.zeros((x.shape[0], q.shape[1], *x.shape[2:]), q.dtype) for x in (k, v))
    with _one_blas_thread():
        arguments = q, k, v, out, lse, grad_out, grad_lse, dq, dk, dv, *_options(problem, q.dtype)
        tile = tile_q or TILE_BACKWARD[0], tile_k or TILE_BACKWARD[1]
        run(backward_kernel, *arguments, *tile, workers())
    dk, dv = (over_group(x, heads_per_kv) if heads_per_kv > 1 else x for x in (dk, dv))
    return tuple(as_input(_like(x, problem), problem) for x in (dq, dk, dv))


def _inputs(problem):
    dtype = np.dtype(str(working(problem.q[:0]).dtype).removeprefix("torch."))
    return [_array(x, dtype) for x in (problem.q, problem.k, problem.v)]


def _array(x, dtype):
    """x for a kernel: contiguous, and read-only, because numba compiles anew for what it may write to."""
    x = np.ascontiguousarray(_host(x), dtype).view()
    x.flags.writeable = False
    return x


def _with_room(x):
    """The start of each head's cache (B, H, n, d) as the whole cache, so that it need not be copied to be contiguous.

    The kernels stop at `length`, so that the room behind it is never read.
    """
    x = _host(x) if x.dtype.itemsize > 2 else x
    if is_tensor(x) or x.flags.c_contiguous or x.size == 0 or x.shape[0] * x.shape[1] == 1:
        return x
    (batch, heads, n, d), (s0, s1, s2, _) = x.shape, x.strides
    room = (s1 if heads > 1 else s0) // s2 if s2 > 0 else 0
    whole = tuple(x.itemsize * size for size in (heads * room * d, room * d, d, 1))
    if room < n or any(x.strides[axis] != whole[axis] for axis in range(4) if x.shape[axis] > 1):
        return x
    return np.lib.stride_tricks.as_strided(x, (batch, heads, room, d), whole)


def _options(problem, dtype):
    """The options as the kernels take them: scores in base 2, absent ones as neutral values that cost no memory."""
    shape, base2 = (*problem.q.shape[:3], problem.k.shape[2]), dtype.type(LOG2_E)
    allowed = np.True_ if problem.allowed is None else _host(problem.allowed)
    bias = dtype.type(0) if problem.bias is None else _host(problem.bias).astype(dtype, copy=False)
    alibi = np.zeros(shape[1]) if problem.alibi is None else _array(problem.alibi, dtype) * base2
    flags = problem.allowed is not None, problem.bias is not None, problem.alibi is not None
    return (
        _array(problem.offset, np.int64), _array(problem.length, np.int64), problem.left, problem.right,
        dtype.type(problem.scale) * base2, dtype.type(problem.softcap) * base2,
        (np.broadcast_to(allowed, shape), np.broadcast_to(bias, shape)), flags, _array(alibi, dtype),
    )  # fmt: skip


def _host(x):
    if not is_tensor(x):
        return x
    return (working(x) if x.is_floating_point() else x).detach().numpy()  # a mask of bools stays one


def _like(x, problem):
    return namespace(problem.q).from_numpy(x) if is_tensor(problem.q) else x


@functools.cache
def _tile_forward():
    """Tiles whose scores stay in the second-level cache; without AVX-512, larger ones hide BLAS's overhead."""
    return (128, 512) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (256, 512)


@functools.cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def _one_blas_thread():
    """One caller at a time: a kernel uses all threads anyway, and two that limit BLAS would restore each other's 1."""
    with _alone, _blas().limit(limits=1):
        yield
