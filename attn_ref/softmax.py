"""Softmax turns scores into shares: softmax(x)_j = exp(x_j) / Σ_k exp(x_k).

Derived in course/02_scaled_dot_product. Both functions subtract the largest score first. The shares do not
change, because softmax sees only differences, and exp then never gets a positive number, so it cannot overflow.
"""

import numpy as np

from attn_ref.shapes import in_precision_of, namespace, real_array, whole_number, working


def softmax(x, axis=-1):
    """Shares along one axis.  (...) -> (...), non-negative, summing to 1 along `axis`.

    A slice whose scores are all -inf has nothing to share among: its shares are all 0.
    Integers count as float64. Source: Bridle (1990); chapter 02, exercise 2.1.

    >>> softmax([0.0, np.log(3.0)]).round(2).tolist()
    [0.25, 0.75]
    """
    given, axis = _checked(x, axis)
    x = working(given)  # the sum of many half-precision shares would overflow
    exponentials = namespace(x).exp(x - _largest(x, axis))
    total = exponentials.sum(axis, keepdims=True)
    shares = exponentials / namespace(x).where(total > 0, total, 1)  # 0 / 1 where there is nothing to share among
    return in_precision_of(given, shares)


def logsumexp(x, axis=-1):
    """log Σ exp(x) along one axis, which is removed.  (..., n, ...) -> (..., ...)

    A slice whose scores are all -inf gives -inf. Source: chapter 02, exercise 2.2.

    >>> float(logsumexp([1000.0, 1000.0]).round(4))
    1000.6931
    """
    given, axis = _checked(x, axis)
    x = working(given)
    xp, largest = namespace(x), _largest(x, axis)
    total = xp.exp(x - largest).sum(axis)
    log_total = xp.where(total > 0, xp.log(xp.where(total > 0, total, 1)), -np.inf)  # log 0 would warn
    return in_precision_of(given, log_total + largest.squeeze(axis))


def _largest(x, axis):
    """The maximum with its axis kept, and 0 where a slice holds nothing but -inf (-inf - -inf would be NaN)."""
    xp = namespace(x)
    if x.shape[axis] == 0:
        return xp.zeros_like(x.sum(axis, keepdims=True))
    largest = xp.amax(x, axis=axis, keepdims=True)
    return xp.where(xp.isneginf(largest), 0, largest)


def _checked(x, axis):
    x, axis = real_array(x, "x", axes=1), whole_number(axis, "axis")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} does not exist: x has {x.ndim} axes, shape {tuple(x.shape)}")
    return x, axis
