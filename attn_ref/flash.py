"""The numba kernels by name, with their tile sizes: what chapter 11 derives, and what a test of any tiling calls.

`attention(..., backend="numba")` chooses among them by itself. NumPy arrays and torch tensors on the CPU, float32 and
float64; half precision is worked on as float32. All take the options of `attention` that say what is computed.
"""

from attn_ref import numba_backend
from attn_ref.backward import as_given, of_the_output
from attn_ref.problem import make_problem
from attn_ref.shapes import is_tensor, namespace, whole_number


def flash_forward(q, k, v, causal=False, window=None, block_k=None, *, block_q=None, **options):
    """Attention by tiles of queries.  -> out (..., Hq, n_q, d_v), log-sum-exp (..., Hq, n_q)

    Extra memory is a few tiles for each thread, whatever the lengths. Tiles of block_q queries and block_k keys
    default to what suits the CPU; no window is None or 0. Source: Dao et al. (2022), algorithm 1; chapter 11,
    exercise 11.5.

    >>> import numpy as np
    >>> out, lse = flash_forward(np.eye(3), np.eye(3), np.eye(3), block_q=2, block_k=2)
    >>> out.shape, lse.shape
    ((3, 3), (3,))
    """
    problem = _problem(q, k, v, {"causal": causal, "window": window or None, **options})
    results = numba_backend.by_tiles(problem, _size(block_q, "block_q"), _size(block_k, "block_k"))
    return tuple(problem.shaped(x) for x in results)


def decode_split_kv(q, k, v, *, splits=None, block_k=None, **options):
    """Attention of few queries over many keys, split into parts and merged.  -> out, log-sum-exp, as flash_forward

    Source: Dao et al. (2023), flash-decoding; chapter 11, exercise 11.6.
    """
    problem = _problem(q, k, v, options)
    results = numba_backend.by_splits(problem, _size(splits, "splits"), _size(block_k, "block_k"))
    return tuple(problem.shaped(x) for x in results)


def flash_backward(q, k, v, out, lse, grad_out, *, block_q=None, block_k=None, **options):
    """The gradients of flash_forward for one of its output, the weights computed again.  -> dq, dk, dv

    `out` and `lse` are what flash_forward or decode_split_kv returned. Source: Dao et al. (2022), algorithm 4;
    chapter 11, exercise 11.7.
    """
    problem = _problem(q, k, v, options)
    out, grad_out = of_the_output(out, "out", problem), of_the_output(grad_out, "grad_out", problem)
    sizes = _size(block_q, "block_q"), _size(block_k, "block_k")
    lse = of_the_output(lse, "lse", problem, axes=1)
    grads = numba_backend.backward(problem, out, lse, grad_out, None, *sizes)
    return tuple(as_given(x, like, problem) for x, like in zip(grads, (q, k, v), strict=True))


def _problem(q, k, v, options):
    problem = make_problem(q, k, v, **options)
    reason = numba_backend.refusal(problem)
    if reason:
        raise ValueError(reason)
    if is_tensor(problem.q) and namespace(problem.q).is_grad_enabled():
        learned = [name for name, x in (("q", q), ("k", k), ("v", v)) if getattr(x, "requires_grad", False)]
        if learned:
            raise ValueError(
                f"{learned[0]} requires a gradient, which a kernel called by name does not pass on; use "
                "attention(..., backend='numba'), or torch.no_grad()"
            )
    return problem


def _size(x, name):
    return None if x is None else whole_number(x, name, least=1)
