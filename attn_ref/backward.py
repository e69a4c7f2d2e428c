"""The gradients of attention by hand: what the loss thinks of the output, passed back to q, k and v.

    dV = Pᵀ dO      dP = dO Vᵀ      dS = P ∘ (dP - δ), δ = rowsum(dO ∘ O)      dQ = scale dS K      dK = scale dSᵀ Q

Derived in course/03_gradients. δ comes from softmax: all shares of a row sum to one, so that what raises one of them
lowers the others. Written with the output in it (Dao et al. 2022, appendix B.2) it needs no row of dP at once, which
is what lets the tiled version go block by block.
"""

from importlib import import_module

import numpy as np

from attn_ref.attention import dense_weights
from attn_ref.problem import make_problem, real_beside
from attn_ref.scores import as_input, over_heads, scaled_scores, without_nonfinite
from attn_ref.shapes import namespace, one_library, real_array, working


def softmax_vjp(weights, grad):
    """What reaches the scores of what reaches the weights, along the last axis.  (..., n) twice -> (..., n)

    weights · (grad - Σ weights · grad): the Jacobian of softmax is diag(w) - w wᵀ, and is never written out.
    Source: chapter 03, exercise 3.3.

    >>> softmax_vjp([0.5, 0.5], [1.0, 0.0]).tolist()
    [0.25, -0.25]
    """
    weights, grad = real_array(weights, "weights", axes=1), real_array(grad, "grad", axes=1)
    one_library(weights=weights, grad=grad)
    if weights.shape != grad.shape:
        raise ValueError(f"grad must have the shape of weights, {tuple(weights.shape)}, got {tuple(grad.shape)}")
    return weights * (grad - (weights * grad).sum(-1)[..., None])


def attention_backward(q, k, v, grad_out, *, out=None, lse=None, backend=None, **options):
    """The gradients of `attention(q, k, v, **options)` for one of its output.  -> dq, dk, dv, shaped like q, k, v

    `grad_out` (..., Hq, n_q, d_v) is the gradient of the loss with respect to the output. `out` and `lse`, as
    `attention(..., return_lse=True)` gave them, spare the kernels a second forward pass; the plain version needs
    neither. A query that may attend to nothing sends no gradient.
    Source: Dao et al. (2022), appendix B.2; chapter 03, exercise 3.4.

    >>> q, k, v = [[1.0]], [[0.0], [0.0]], [[2.0], [4.0]]
    >>> dq, dk, dv = attention_backward(q, k, v, grad_out=[[1.0]])
    >>> dk.tolist(), dv.tolist()  # more of the second key raises the output: its value is the larger one
    ([[-0.5], [0.5]], [[0.5], [0.5]])
    """
    problem = make_problem(q, k, v, **options)
    grad_out = of_the_output(grad_out, "grad_out", problem)
    out = None if out is None else of_the_output(out, "out", problem)
    lse = None if lse is None else of_the_output(lse, "lse", problem, axes=1)
    backends = import_module("attn_ref.backends")
    name = backends.pick(problem, backend)
    if name in ("numpy", "torch"):
        grads = dense_backward(problem, grad_out)
    else:
        kernel = import_module(f"attn_ref.{name}_backend")
        if out is None or lse is None:
            out, lse = kernel.forward(problem)
        grads = kernel.backward(problem, out, lse, grad_out)
    return tuple(as_given(x, like, problem) for x, like in zip(grads, (q, k, v), strict=True))


def dense_backward(problem, grad_out):
    """The plain version, which holds all weights at once.  grad_out (B, Hq, n_q, d_v) -> dq, dk, dv of four axes"""
    weights, _ = dense_weights(problem)
    (k, _), (v, _) = without_nonfinite(working(problem.k)), without_nonfinite(working(problem.v))
    grad_out, heads_per_kv = working(grad_out), weights.shape[1] // k.shape[1]
    grad_scores = softmax_vjp(weights, over_heads(grad_out, v.swapaxes(-1, -2)))
    if problem.softcap:  # d/ds c·tanh(s / c) = 1 - tanh²(s / c): a score at the cap no longer moves
        scores, _ = without_nonfinite(scaled_scores(problem))  # a masked NaN times a weight of 0 would be NaN
        grad_scores = grad_scores * (1 - namespace(k).tanh(scores / problem.softcap) ** 2)
    dq = over_heads(grad_scores, k) * problem.scale
    dk = over_group(grad_scores.swapaxes(-1, -2) @ working(problem.q), heads_per_kv) * problem.scale
    dv = over_group(weights.swapaxes(-1, -2) @ grad_out, heads_per_kv)
    return tuple(as_input(x, problem) for x in (dq, dk, dv))


def over_group(x, heads_per_kv):
    """The gradients of a group's query heads, summed for the KV head they share.  (B, Hq, ...) -> (B, Hkv, ...)"""
    return x.reshape(x.shape[0], x.shape[1] // heads_per_kv, heads_per_kv, *x.shape[2:]).sum(2)


def as_given(x, like, problem):
    """A gradient of four axes in the shape of the argument it belongs to, summed where that was broadcast."""
    x = x.reshape(*problem.shape[:-3], *x.shape[1:])
    shape = tuple(np.shape(like))
    x = x.sum(tuple(range(x.ndim - len(shape)))) if x.ndim > len(shape) else x
    spread = tuple(axis for axis, (ours, theirs) in enumerate(zip(x.shape, shape, strict=True)) if ours != theirs)
    return x.sum(spread, keepdims=True) if spread else x


def of_the_output(x, name, problem, axes=2):
    """An array shaped like the output (or, with one axis, like its log-sum-exp), checked, as (B, Hq, n_q, ...)."""
    shape = problem.shape if axes == 2 else problem.shape[:-1]
    x = real_beside(x, name, problem.q)
    if tuple(x.shape) != shape:
        raise ValueError(
            f"{name} must have the shape {shape} that attention gives for these q, k and v, got {tuple(x.shape)}"
        )
    return x.reshape(*problem.q.shape[:3], *shape[-1:] * (axes - 1))
