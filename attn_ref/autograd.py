"""Gives a kernel's forward pass its backward pass in torch's graph, so that `loss.backward()` runs through it.

Forward keeps q, k, v, the output and one number a row, its log-sum-exp; the weights are computed again on the way back.
Derived in course/11_numba_kernel. Sources: Dao et al. (2022), section 3.1; torch.autograd.Function.
"""

from dataclasses import replace

import torch

KEPT = ("offset", "length", "allowed", "bias", "sinks", "alibi")


def differentiable(kernel):
    """kernel.forward as a function of a problem whose results carry gradients for q, k and v."""

    def forward(problem):
        return _Flash.apply(problem.q, problem.k, problem.v, problem, kernel)

    return forward


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(context, q, k, v, problem, kernel):
        out, lse = kernel.forward(replace(problem, q=q, k=k, v=v))
        # Tensors are kept by the graph, which notices if someone writes to one of them before the way back.
        kept = {"q": q, "k": k, "v": v} | {name: getattr(problem, name) for name in KEPT}
        context.names, context.kernel = [*kept], kernel
        context.save_for_backward(out, lse, *kept.values())
        context.problem = replace(problem, **dict.fromkeys(kept))
        return out, lse

    @staticmethod
    def backward(context, grad_out, grad_lse):
        if torch.is_grad_enabled():
            raise RuntimeError("the kernels have no second derivative (create_graph=True); use backend='torch'")
        out, lse, *kept = context.saved_tensors
        problem = replace(context.problem, **dict(zip(context.names, kept, strict=True)))
        return *context.kernel.backward(problem, out, lse, grad_out, grad_lse), None, None
