"""A model trained on short texts reads longer ones if its rotations are slowed down, so that no angle is new to it.

    interpolation  every pair s times slower, f_i / s: neighbours become hard to tell apart
    NTK            a larger base: the fastest pair as it was, the slowest s times slower
    YaRN           (1 - γ_i) f_i + γ_i f_i / s: γ_i is 0 for pairs that turn often within the trained length, 1 for
                   pairs that turn less than once, and a ramp between

Derived in course/05_positions; used in course/13_debugging_clinic. The factor s = new length / trained length.
"""

import math

import numpy as np

from attn_ref.positions import rotary_frequencies
from attn_ref.shapes import real_array, real_number, whole_number


def interpolate_positions(positions, factor):
    """Positions squeezed into the trained range: positions / factor, for `rope`.  (...) -> (...)

    Source: Chen et al. (2023), Position Interpolation; chapter 05.

    >>> interpolate_positions([0, 1, 2, 3], 4).tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    return real_array(positions, "positions") / _stretch(factor)


def ntk_base(base, d, factor):
    """The base that slows the slowest pair `factor` times: base · factor^(d/(d-2)), for `rope`.

    The first pair keeps its speed 1, so that neighbours stay as distinct as they were.
    Source: bloc97 (2023), written up in Peng et al. (2023), YaRN, section 3.1; chapter 05.

    >>> ntk_base(10_000, 4, 3)
    90000.0
    """
    base, d = real_number(base, "base", above=0), whole_number(d, "d", least=4)  # d = 2 has one pair: fastest = slowest
    if d % 2:
        raise ValueError(f"d must be even, because numbers are turned in pairs, got {d}")
    return base * _stretch(factor) ** (d / (d - 2))


def yarn_frequencies(d, base=10_000.0, *, factor, original_length, beta_fast=32.0, beta_slow=1.0):
    """YaRN's frequencies, for `rope(..., frequencies=...)`.  -> (d/2,), radians a position

    Pairs that turn at least `beta_fast` times within `original_length` positions, the trained length, keep their speed;
    those that turn at most `beta_slow` times become `factor` times slower; between them lies a ramp, linear in the
    pair's number. Its ends are rounded outwards to whole pairs, as in the authors' code.
    Source: Peng et al. (2023), YaRN, section 3.2; chapter 13.

    >>> slower = rotary_frequencies(8) / yarn_frequencies(8, factor=4, original_length=64)
    >>> slower.round(2).tolist()
    [1.0, 1.6, 4.0, 4.0]
    """
    frequencies, factor = rotary_frequencies(d, base), _stretch(factor)
    length = whole_number(original_length, "original_length", least=1)
    fast, slow = real_number(beta_fast, "beta_fast", above=0), real_number(beta_slow, "beta_slow", above=0)
    if fast <= slow:
        raise ValueError(f"beta_fast must be greater than beta_slow, got {fast:g} and {slow:g}; are they swapped?")
    if base <= 1:
        raise ValueError(f"base must be greater than 1, or no pair is slower than another, got {base:g}")
    first, last = (d * math.log(length / (2 * math.pi * turns)) / (2 * math.log(base)) for turns in (fast, slow))
    first, last = max(math.floor(first), 0), min(math.ceil(last), d - 1)
    ramp = np.clip((np.arange(d // 2) - first) / max(last - first, 0.001), 0, 1)  # (d/2,)
    return frequencies * (1 - ramp) + frequencies / factor * ramp


def yarn_temperature(factor):
    """What YaRN multiplies rotated q and rotated k by: 0.1 ln(factor) + 1, so that scores grow by its square.

    Among more keys the same scores spread the weights wider; this draws them together again. In the paper's terms it is
    √(1/t). Source: Peng et al. (2023), YaRN, section 3.4; chapter 13.

    >>> yarn_temperature(1)
    1.0
    """
    return 0.1 * math.log(_stretch(factor)) + 1.0


def _stretch(factor):
    factor = real_number(factor, "factor", above=0)
    if factor < 1:
        raise ValueError(
            f"factor must be at least 1, got {factor:g}; it is new length / trained length, so is it inverted?"
        )
    return factor
