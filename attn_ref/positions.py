"""Attention sees a set of tokens, so where each stands must be told: to the embeddings, to q and k, or to the scores.

    sinusoidal  (n, d)         added to embeddings: sin(p f_i) and cos(p f_i), f_i = base^(-2i/d), i = 0 .. d/2 - 1
    rope        (..., n, d)    pair i of q, and of k, is turned by the angle p f_i: q·k then knows only p - j
    alibi       (H, n_q, n_k)  added to scores: -slope_h |p - j|

Derived in course/05_positions.
"""

import numpy as np

from attn_ref.shapes import choice, is_tensor, namespace, real_array, real_number, same_side, whole_number, working


def sinusoidal(n, d):
    """Fixed codes of the positions 0 .. n-1, to be added to the embeddings.  -> (n, d), d even

    Columns 2i and 2i + 1 hold sin and cos of p / 10000^(2i/d). Source: Vaswani et al. (2017), section 3.5; chapter 05.

    >>> sinusoidal(2, 4).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.01, 1.0]]
    """
    angles = np.arange(whole_number(n, "n", least=0))[:, None] * rotary_frequencies(d)  # (n, d/2)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


def rotary_frequencies(d, base=10_000.0):
    """How fast each pair turns, in radians a position: f_i = base^(-2i/d).  -> (d/2,), falling from 1

    >>> rotary_frequencies(4).tolist()
    [1.0, 0.01]
    """
    d, base = whole_number(d, "d", least=2), real_number(base, "base", above=0)
    if d % 2:
        raise ValueError(f"d must be even, because numbers are taken in pairs, got {d}")
    return base ** (-np.arange(0, d, 2) / d)


def rope(x, positions, base=10_000.0, *, pairing="half", frequencies=None):
    """Turns each pair of q's or k's numbers by an angle that grows with the position.  (..., n, d) -> (..., n, d)

    positions    (n,), fractions welcome; for x (B, H, n, d) also (B, n), each batch entry with its own
    base         sets the frequencies base^(-2i/d)
    pairing      "half" turns numbers i and i + d/2 together (GPT-NeoX, Llama in transformers), "interleaved" 2i and
                 2i + 1 (the paper, GPT-J)
    frequencies  (d/2,) radians a position, instead of base

    Lengths are kept, and rope(q, p)·rope(k, j) depends on p and j only through p - j. Both hold for either pairing, and
    yet they are different functions: a model trained with one is wrong with the other.
    Source: Su et al. (2021), RoFormer, section 3.4.2; chapter 05.

    >>> rope([[1.0, 0.0]], [np.pi / 2]).round(2).tolist()
    [[0.0, 1.0]]
    """
    x, pairing = real_array(x, "x", axes=2, shape="(..., n, d)"), choice(pairing, "pairing", ("half", "interleaved"))
    angles = _positions_of(x, positions) * _frequencies_of(x, base, frequencies)  # (..., n, d/2)
    xp, wide, half = namespace(x), working(x), x.shape[-1] // 2
    cos, sin = beside(xp.cos(angles), wide), beside(xp.sin(angles), wide)  # angles are float64: see _positions_of
    if pairing == "half":
        a, b = wide[..., :half], wide[..., half:]  # (..., n, d/2)
        turned = xp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)  # (..., n, d)
    else:
        a, b = wide[..., 0::2], wide[..., 1::2]  # (..., n, d/2)
        turned = xp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)  # (..., n, d)
    return beside(turned, x)


def alibi_slopes(n_heads):
    """How steeply each head's scores fall with distance.  -> (n_heads,)

    2^(-8(h+1)/n_heads) where n_heads is a power of two. Otherwise those of the power below it, and then every second
    one of the power above it. Source: Press et al. (2022), section 3, and their code for other counts; chapter 05.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    n_heads = whole_number(n_heads, "n_heads", least=1)
    below = 2 ** (n_heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * np.arange(1, below + 1) / below)
    between = 2.0 ** (-8 * np.arange(1, 2 * below, 2) / (2 * below))
    return np.concatenate([slopes, between[: n_heads - below]])


def alibi_bias(n_heads, n_q, n_k):
    """What ALiBi adds to the scores: -slope · distance.  -> (n_heads, n_q, n_k)

    Query i stands at p = i + n_k - n_q (bottom-right aligned). `attention(..., alibi=alibi_slopes(n_heads))` adds the
    same without the table. Source: Press et al. (2022), section 3; chapter 05.

    >>> alibi_bias(8, 2, 3)[0].tolist()
    [[-0.5, 0.0, -0.5], [-1.0, -0.5, 0.0]]
    """
    n_q, n_k = whole_number(n_q, "n_q", least=0), whole_number(n_k, "n_k", least=0)
    position = np.arange(n_q)[:, None] + (n_k - n_q)
    return alibi_slopes(n_heads)[:, None, None] * -abs(position - np.arange(n_k))  # (n_heads, n_q, n_k)


def beside(values, x):
    """Values in the library and dtype of x, and on its device."""
    if is_tensor(x):
        return namespace(x).as_tensor(values, dtype=x.dtype, device=x.device)
    return values.astype(x.dtype, copy=False)


def _positions_of(x, positions):
    """The positions as a column that meets x, in float64: float32 knows the angle 100 000 only to 0.004 radians."""
    positions, n = same_side(real_array(positions, "positions"), "positions", x), x.shape[-2]
    shape, per_batch = tuple(positions.shape), (x.shape[0], n) if x.ndim == 4 else None
    if shape not in ((n,), per_batch):
        raise ValueError(
            f"positions must hold one number for each of x's n={n} rows, shape ({n},)"
            + (f" or {per_batch}" if per_batch else "")
            + f", got {shape}; x has shape {tuple(x.shape)}, axes (..., n, d)"
        )
    positions = positions[:, None] if shape == per_batch else positions  # (B, 1, n): the same for every head
    return namespace(x).asarray(positions, dtype=namespace(x).float64)[..., None]  # (..., n, 1)


def _frequencies_of(x, base, frequencies):
    """(d/2,) float64 beside x"""
    expected = rotary_frequencies(x.shape[-1], base)
    if frequencies is None:
        return same_side(expected, "frequencies", x)
    frequencies = same_side(real_array(frequencies, "frequencies"), "frequencies", x)
    if tuple(frequencies.shape) != expected.shape:
        raise ValueError(
            f"frequencies must hold one number for each pair, shape {expected.shape}, got {tuple(frequencies.shape)}"
        )
    return frequencies
