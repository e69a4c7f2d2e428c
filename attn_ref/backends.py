"""Which implementations of `attention` this machine offers, and which of them a problem gets.

    numpy   the plain version on NumPy arrays     torch   the plain version on torch tensors, with torch's gradients
    numba   tiles on the CPU, compiled            triton  tiles on a GPU; elsewhere its interpreter, by name only

A backend that cannot do what is asked says which argument stands in the way, and never computes something else.
"""

import os
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from attn_ref.attention import dense
from attn_ref.shapes import choice, is_tensor, namespace

NAMES = ("numpy", "torch", "numba", "triton")
INSTALL = {"torch": "torch", "numba": "numba scipy threadpoolctl", "triton": "triton"}
LARGE = 2**22  # scores; from here on writing them out costs more than starting a kernel


def backends():
    """What this machine offers.  -> {name: "ready" or the reason why not}

    >>> backends()["numpy"]
    'ready'
    """
    return {name: _missing(name) or "ready" for name in NAMES}


def choose(problem, name=None, weights=False):
    """The function that solves this problem, of the named backend or of the fastest that fits."""
    name = pick(problem, name, weights)
    if name in ("numpy", "torch"):
        return dense
    kernel = import_module(f"attn_ref.{name}_backend")
    if is_tensor(problem.q) and namespace(problem.q).is_grad_enabled():
        return import_module("attn_ref.autograd").differentiable(kernel)
    return kernel.forward


def pick(problem, name=None, weights=False):
    """The name of the backend that a problem gets: the one asked for, if it can, or the fastest that fits."""
    if name is None:
        return _best(problem, weights)
    reason = _missing(choice(name, "backend", NAMES)) or _refusal(name, problem, weights)
    if reason:
        raise ValueError(f"backend {name!r} cannot do this: {reason}")
    return name


def _best(problem, weights):
    kind = "torch" if is_tensor(problem.q) else "numpy"
    batch, n_heads, n_q, _ = problem.q.shape
    kernel = "triton" if kind == "torch" and problem.q.is_cuda and not _interpreting() else "numba"
    large = batch * n_heads * n_q * problem.k.shape[2] >= LARGE
    if large and not _missing(kernel) and not _refusal(kernel, problem, weights):
        return kernel
    return kind


def _missing(name):
    """Why this machine does not have a backend; None if it has."""
    needs = INSTALL.get(name, "").split()
    absent = [one for one in needs if find_spec(one) is None]
    if absent:
        also = "; Triton needs Linux" if name == "triton" else ""
        return f"{' and '.join(absent)} not installed (pip install -c pins.txt {' '.join(needs)}{also})"
    if name == "numba" and os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "NUMBA_DISABLE_JIT is set, and uncompiled the kernels would take hours"
    if name == "triton" and not _interpreting() and not import_module("torch").cuda.is_available():
        return "no GPU; to run on the CPU, slowly, start Python with TRITON_INTERPRET=1"
    return None


def _interpreting():
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes")


def _refusal(name, problem, weights):
    """The argument that keeps a backend from this problem; None if nothing does."""
    if name == "numpy":
        return "q, k and v are torch tensors; pass NumPy arrays" if is_tensor(problem.q) else None
    if name == "torch":
        return None if is_tensor(problem.q) else "q, k and v are NumPy arrays; pass torch tensors"
    if weights:
        return "return_weights asks for the whole matrix of weights, which a tiled kernel never holds"
    if is_tensor(problem.q) and namespace(problem.q).is_grad_enabled():
        learned = [x for x in ("bias", "sinks", "alibi") if getattr(getattr(problem, x), "requires_grad", False)]
        if learned:
            return f"{learned[0]} requires a gradient, and the kernels have those of q, k and v only; use 'torch'"
    bias = problem.bias
    if bias is not None and bool(((bias < -1e38) & (bias > -np.inf)).any()):
        return "bias holds finite numbers below -1e38, which in base 2 are beyond float32; write -inf, or pass allowed"
    return import_module(f"attn_ref.{name}_backend").refusal(problem)
