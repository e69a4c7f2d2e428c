"""Softmax in one pass: a running maximum, a running sum and an unnormalised output, mended as larger scores turn up.

    m' = max(m, max s)    l' = e^(m - m') l + Σ e^(s - m')    acc' = e^(m - m') acc + e^(s - m') v    out = acc / l

Derived in course/10. Sources: Milakov & Gimelshein (2018) for the sum; Rabe & Staats (2021) and Dao et al. (2022)
for the output. The state of two halves merges into that of the whole, in any order, so that any tiling gives the same.
"""

import numpy as np

from attn_ref.shapes import namespace, one_library, real_array


def online_update(row_max, row_sum, acc, scores, values):
    """One more block of keys for a block of queries.  -> row_max, row_sum, acc

    row_max and row_sum (..., n) and acc (..., n, d_v), unnormalised, start at -inf, 0 and 0; scores (..., n, b) are
    those of b new keys and values (..., b, d_v) what they hold. The output so far is acc / row_sum.
    Source: Dao et al. (2022), algorithm 1; chapter 10, exercise 10.1.

    >>> state = online_update([-np.inf], [0.0], [[0.0]], [[0.0, 0.0]], [[2.0], [4.0]])
    >>> [x.tolist() for x in state]
    [[0.0], [2.0], [[6.0]]]
    """
    row_max, row_sum, acc, scores, values = _checked(row_max, row_sum, acc, scores, values)
    xp = namespace(scores)
    if scores.shape[-1] == 0:
        return row_max, row_sum, acc
    new_max = xp.maximum(row_max, xp.amax(scores, axis=-1))
    safe_max = xp.where(xp.isneginf(new_max), 0, new_max)  # nothing visible yet: -inf - -inf would be NaN
    kept = xp.exp(row_max - safe_max)
    exponentials = xp.exp(scores - safe_max[..., None])
    return new_max, kept * row_sum + exponentials.sum(-1), kept[..., None] * acc + exponentials @ values


def merge_partials(o1, lse1, o2, lse2):
    """Attention over two sets of keys from attention over each.  o (..., d_v), lse (...) -> o, lse

    Each output counts in proportion to its sum of exponentials, e^lse. Associative and commutative; (0, -inf), the
    result over no keys, is neutral. Source: flash-decoding, Dao et al. (2023); chapter 10, exercise 10.2.

    >>> merge_partials([2.0], 0.0, [4.0], 0.0)[0].tolist()
    [3.0]
    """
    o1, lse1, o2, lse2 = _partials(o1, lse1, o2, lse2)
    xp = namespace(o1)
    largest = xp.maximum(lse1, lse2)
    largest = xp.where(xp.isneginf(largest), 0, largest)
    share1, share2 = xp.exp(lse1 - largest), xp.exp(lse2 - largest)
    total = share1 + share2
    lse = xp.where(total > 0, largest + xp.log(xp.where(total > 0, total, 1)), -np.inf)
    total = xp.where(total > 0, total, 1)
    return (share1 / total)[..., None] * o1 + (share2 / total)[..., None] * o2, lse


def _checked(row_max, row_sum, acc, scores, values):
    row_max, row_sum = real_array(row_max, "row_max"), real_array(row_sum, "row_sum")
    acc, scores = real_array(acc, "acc", axes=1), real_array(scores, "scores", axes=1)
    values = real_array(values, "values", axes=2, shape="(..., b, d_v)")
    one_library(row_max=row_max, row_sum=row_sum, acc=acc, scores=scores, values=values)
    if scores.shape[-1] != values.shape[-2]:
        raise ValueError(
            f"scores are for {scores.shape[-1]} keys but values holds {values.shape[-2]}; one column of scores is one "
            f"row of values. Got scores {tuple(scores.shape)}, values {tuple(values.shape)}"
        )
    rows = tuple(scores.shape[:-1])
    for name, x in (("row_max", row_max), ("row_sum", row_sum)):
        if tuple(x.shape) != rows:
            raise ValueError(f"{name} must hold one number for each row of scores, {rows}, got shape {tuple(x.shape)}")
    if tuple(acc.shape) != (*rows, values.shape[-1]):
        raise ValueError(f"acc must be (rows..., d_v) = {(*rows, values.shape[-1])}, got shape {tuple(acc.shape)}")
    return row_max, row_sum, acc, scores, values


def _partials(o1, lse1, o2, lse2):
    o1, o2 = real_array(o1, "o1", axes=1), real_array(o2, "o2", axes=1)
    lse1, lse2 = real_array(lse1, "lse1"), real_array(lse2, "lse2")
    one_library(o1=o1, lse1=lse1, o2=o2, lse2=lse2)
    if o1.shape != o2.shape:
        raise ValueError(
            f"o1 and o2 are outputs of the same queries, but have shapes {tuple(o1.shape)}, {tuple(o2.shape)}; the "
            "order is o1, lse1, o2, lse2"
        )
    for name, lse in (("lse1", lse1), ("lse2", lse2)):
        if lse.shape != o1.shape[:-1]:
            raise ValueError(
                f"{name} must hold one number for each row of outputs, {tuple(o1.shape[:-1])}, got {tuple(lse.shape)}"
            )
    return o1, lse1, o2, lse2
