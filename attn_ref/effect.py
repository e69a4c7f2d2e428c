"""Is an effect more than luck? The same test items with and without a change, drawn again and again.

    items 1 .. n  →  n of them at random, with repeats  →  their mean difference  →  again, 2,000 times  →  its spread

Derived in course/07_transformer. Each item is compared with itself (paired): easy and hard items do not blur what the
change did.
"""

import numpy as np

from attn_ref.shapes import real_number, whole_number


def paired_bootstrap(before, after, rng, *, n=2000, level=0.95):
    """The mean of after - before over items, and the interval of it at `level`.  (items,) twice -> mean, low, high

    Source: Efron (1979), the bootstrap, with percentiles; chapter 07.

    >>> mean, low, high = paired_bootstrap([1] * 80 + [0] * 20, [1] * 50 + [0] * 50, np.random.default_rng(0))
    >>> round(mean, 2), bool(low < -0.3 < high)
    (-0.3, True)
    """
    before, after = (np.asarray(x, dtype=float) for x in (before, after))
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ValueError(f"before and after must be (items,) of the same items, got {before.shape} and {after.shape}")
    level = real_number(level, "level", above=0)
    if level >= 1:
        raise ValueError(f"level is a share of the draws, 0 < level < 1, got {level}")
    differences = after - before
    drawn = rng.integers(len(differences), size=(whole_number(n, "n", least=1), len(differences)))
    means = differences[drawn].mean(axis=1)  # (n,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(differences.mean()), float(low), float(high)
