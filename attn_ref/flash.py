"""The numba kernels by name, with their tile sizes: what chapter 11 derives, and what a test of any tiling calls.

`attention(..., backend="numba")` chooses among them by itself. NumPy arrays and torch tensors on the CPU, float32 and
float64; half precision is worked on as float32. All take the options of `attention` that say what is computed.
"""

from attn_ref import numba_backend
from attn_ref.backward import as_given, of_the_output
from attn_ref.problem import make_problem
from attn_ref.shapes import whole_number


def flash_forward(q, k, v, *, tile_q=None, tile_k=None, **options):
    """Attention by tiles of queries.  -> out (..., Hq, n_q, d_v), log-sum-exp (..., Hq, n_q)

    Extra memory is a few tiles for each thread, whatever the lengths. Tiles default to what suits the CPU.
    Source: Dao et al. (2022), algorithm 1; chapter 11, exercise 11.1.

    >>> import numpy as np
    >>> out, lse = flash_forward(np.eye(3), np.eye(3), np.eye(3), tile_q=2, tile_k=2)
    >>> out.shape, lse.shape
    ((3, 3), (3,))
    """
    problem = _problem(q, k, v, options)
    results = numba_backend.by_tiles(problem, _size(tile_q, "tile_q"), _size(tile_k, "tile_k"))
    return tuple(problem.shaped(x) for x in results)


def decode_split_kv(q, k, v, *, splits=None, tile_k=None, **options):
    """Attention of few queries over many keys, split into parts and merged.  -> out, log-sum-exp, as flash_forward

    Source: Dao et al. (2023), flash-decoding; chapter 11, exercise 11.2.
    """
    problem = _problem(q, k, v, options)
    results = numba_backend.by_splits(problem, _size(splits, "splits"), _size(tile_k, "tile_k"))
    return tuple(problem.shaped(x) for x in results)


def flash_backward(q, k, v, out, lse, grad_out, *, tile_q=None, tile_k=None, **options):
    """The gradients of flash_forward for one of its output, the weights computed again.  -> dq, dk, dv

    `out` and `lse` are what flash_forward or decode_split_kv returned. Source: Dao et al. (2022), algorithm 4;
    chapter 11, exercise 11.3.
    """
    problem = _problem(q, k, v, options)
    out, grad_out = of_the_output(out, "out", problem), of_the_output(grad_out, "grad_out", problem)
    sizes = {"tile_q": _size(tile_q, "tile_q"), "tile_k": _size(tile_k, "tile_k")}
    grads = numba_backend.backward(
        problem, out, of_the_output(lse, "lse", problem, axes=1), grad_out, **{k: v for k, v in sizes.items() if v}
    )
    return tuple(as_given(x, like, problem) for x, like in zip(grads, (q, k, v), strict=True))


def _problem(q, k, v, options):
    problem = make_problem(q, k, v, **options)
    reason = numba_backend.refusal(problem)
    if reason:
        raise ValueError(reason)
    return problem


def _size(x, name):
    return None if x is None else whole_number(x, name, least=1)
