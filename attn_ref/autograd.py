"""Gives a kernel's forward pass its backward pass in torch's graph, so that `loss.backward()` runs through it.

Forward keeps q, k, v, the output and one number a row, its log-sum-exp; the weights are computed again on the way back.
Derived in course/11_numba. Sources: Dao et al. (2022), section 3.1; torch.autograd.Function.
"""

from dataclasses import replace

import torch


def differentiable(kernel):
    """kernel.forward as a function of a problem whose results carry gradients for q, k and v."""

    def forward(problem):
        return _Flash.apply(problem.q, problem.k, problem.v, problem, kernel)

    return forward


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(context, q, k, v, problem, kernel):
        # The graph keeps q, k and v for us; the problem must not, or they would live as long as the graph and longer.
        out, lse = kernel.forward(replace(problem, q=q, k=k, v=v))
        context.save_for_backward(q, k, v, out, lse)
        context.problem, context.kernel = replace(problem, q=None, k=None, v=None), kernel
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, grad_out, grad_lse):
        q, k, v, out, lse = context.saved_tensors
        problem = replace(context.problem, q=q, k=k, v=v)
        return *context.kernel.backward(problem, out, lse, grad_out, grad_lse), None, None
