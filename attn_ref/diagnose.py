"""What a map of weights tells about where attention goes. Entropy: H = -Σ_j w_j log w_j, in nats.

Derived in course/02_scaled_dot_product. 0 means one key gets everything; log n_k means all keys share equally.
"""

import numpy as np


def weights_entropy(weights):
    """How spread out each row of weights is.  (..., n_k) -> (...), in nats

    A weight of 0 contributes 0, the limit of w log w. Source: Shannon (1948); chapter 02, exercise 2.6.

    >>> weights_entropy([[1.0, 0.0], [0.5, 0.5]]).round(4).tolist()
    [0.0, 0.6931]
    """
    weights = np.asarray(weights)
    if weights.dtype.kind != "f":
        weights = weights.astype(np.float64)
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return 0.0 - (weights * logs).sum(axis=-1)  # 0.0 - x, so that a row on one key reads 0.0 and not -0.0
