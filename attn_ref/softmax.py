"""Softmax turns scores into shares: softmax(x)_j = exp(x_j) / Σ_k exp(x_k).

Derived in course/02_scaled_dot_product. Both functions subtract the largest score first. The shares do not
change, because softmax sees only differences, and exp then never gets a positive number, so it cannot overflow.
"""

import numpy as np


def softmax(x, axis=-1):
    """Shares along one axis.  (...) -> (...), non-negative, summing to 1 along `axis`.

    A slice whose scores are all -inf has nothing to share among: its shares are all 0.
    Integers count as float64. Source: Bridle (1990); chapter 02, exercise 2.1.

    >>> softmax([0.0, np.log(3.0)]).round(2).tolist()
    [0.25, 0.75]
    """
    x = _as_float(x, "x")
    largest = _largest_finite(x, axis)
    exponentials = np.exp(x - largest)
    total = exponentials.sum(axis=axis, keepdims=True)
    return np.divide(exponentials, total, out=np.zeros_like(x), where=total > 0)


def logsumexp(x, axis=-1):
    """log Σ exp(x) along one axis, which is removed.  (..., n, ...) -> (..., ...)

    A slice whose scores are all -inf gives -inf. Source: chapter 02, exercise 2.2.

    >>> float(logsumexp([1000.0, 1000.0]).round(4))
    1000.6931
    """
    x = _as_float(x, "x")
    largest = _largest_finite(x, axis)
    total = np.exp(x - largest).sum(axis=axis)
    log_total = np.log(total, out=np.full_like(total, -np.inf), where=total > 0)
    return log_total + np.squeeze(largest, axis=axis)


def _largest_finite(x, axis):
    """The maximum with its axis kept, and 0 where a slice holds nothing but -inf (-inf - -inf would be NaN)."""
    largest = x.max(axis=axis, keepdims=True)
    return np.where(np.isneginf(largest), np.zeros_like(largest), largest)


def _as_float(x, name):
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    if x.dtype.kind != "f":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}; was a list of strings or objects passed?")
    return x
