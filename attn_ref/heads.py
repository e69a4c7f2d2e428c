"""Heads are slices of the width: each reads its own d numbers of every token.

    (..., n, H·d)  -- split -->  (..., H, n, d)  -- merge -->  (..., n, H·d)

Derived in course/06_multi_head. Head h owns the numbers h·d .. h·d + d - 1. Splitting needs a swap of axes: a reshape
straight to (..., H, n, d) has the right shape, but cuts along the tokens instead of along the width.
"""

from attn_ref.shapes import real_array, whole_number


def split_heads(x, n_heads):
    """(..., n, H·d) -> (..., H, n, d), a view of x where its layout allows one.

    Source: Vaswani et al. (2017), section 3.2.2; chapter 06, exercise 6.1.

    >>> split_heads([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], 2).tolist()
    [[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]
    """
    x, n_heads = real_array(x, "x", axes=2, shape="(..., n, H·d)"), whole_number(n_heads, "n_heads", least=1)
    *lead, n, width = x.shape
    if width % n_heads:
        raise ValueError(
            f"{n_heads} heads cannot share a width of {width} evenly; x is (..., n, H·d), got shape {tuple(x.shape)}"
        )
    return x.reshape(*lead, n, n_heads, width // n_heads).swapaxes(-2, -3)  # (..., H, n, d)


def merge_heads(x):
    """(..., H, n, d) -> (..., n, H·d), the inverse of `split_heads`.

    Source: Vaswani et al. (2017), section 3.2.2; chapter 06, exercise 6.2.

    >>> merge_heads([[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]).tolist()
    [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    """
    x = real_array(x, "x", axes=3, shape="(..., H, n, d)")
    *lead, n_heads, n, d = x.shape
    return x.swapaxes(-2, -3).reshape(*lead, n, n_heads * d)  # (..., n, H·d)
