"""A gradient measured: nudge one number at a time, up and down, and see how far the result moves.

    ∂f/∂x_i ≈ (f(x + ε e_i) - f(x - ε e_i)) / 2ε        error: ε² from the bend of f, 1e-16 |f| / ε from rounding

Derived in course/03_gradients. Two calls of f for each number make it a witness for gradients written by hand, and far
too slow to train with.
"""

import numpy as np

from attn_ref.shapes import is_tensor, real_array, real_number


def numerical_gradient(f, x, eps):
    """The gradient of f at x by central differences.  f: (...) -> number, x (...) -> (...), float64

    x is never written to: f may use that very array for something else, as in attention(q=x, k=x, v=x).
    NumPy only. Source: chapter 03, exercise 3.1.

    >>> numerical_gradient(lambda x: x[0] * x[1], [2.0, 5.0], eps=0.5).tolist()
    [5.0, 2.0]
    """
    if not callable(f):
        raise TypeError(f"f must be a function of x, got {type(f).__name__}; pass the function, not its result")
    if is_tensor(x):
        raise TypeError("x is a torch tensor; differences are NumPy only, so pass x.numpy()")
    x, eps = real_array(x, "x").astype(np.float64), real_number(eps, "eps", above=0)
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[place] += eps
        below[place] -= eps
        gradient[place] = (_value(f(above)) - _value(f(below))) / (2 * eps)
    return gradient


def gradient_error(analytic, numeric):
    """How far two gradients disagree: the largest difference over the largest entry of either.  (...) twice -> float

    0 where both are 0 throughout, NaN where either holds a NaN: a check that cannot fail is none.
    Source: chapter 03, exercise 3.2.

    >>> gradient_error([1.0, 0.0], [0.5, 0.0])
    0.5
    """
    analytic, numeric = real_array(analytic, "analytic"), real_array(numeric, "numeric")
    if analytic.shape != numeric.shape:
        raise ValueError(f"analytic has shape {analytic.shape} but numeric has {numeric.shape}; they must be one")
    largest = np.max([np.abs(analytic).max(initial=0), np.abs(numeric).max(initial=0)])
    return float(np.abs(analytic - numeric).max(initial=0) / largest) if largest != 0 else 0.0


def _value(result):
    value = np.asarray(result, dtype=np.float64)
    if value.size != 1:
        raise ValueError(f"f must return one number, got shape {value.shape}; is a sum or a mean missing?")
    return value.item()
