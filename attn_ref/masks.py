"""A mask says who may look at whom: True = may attend. Every function here returns a NumPy array of booleans.

Derived in course/04_masks. The queries are the last n_q of n_k positions (bottom-right aligned), so that continuing a
text with a cache needs no other rule: query i stands at position p = i + n_k - n_q. With 3 queries and 5 keys:

    causal        window 2      prefix 2 (n = 4)    documents 7 7 9 (n = 3)
    1 1 1 0 0     0 1 1 0 0     1 1 0 0             1 0 0
    1 1 1 1 0     0 0 1 1 0     1 1 0 0             1 1 0
    1 1 1 1 1     0 0 0 1 1     1 1 1 0             0 0 1
                                1 1 1 1
"""

import numpy as np

from attn_ref.shapes import at_hand, choice, whole_array, whole_number


def causal_mask(n_q, n_k):
    """Who may look back: the keys at or before each query.  -> (n_q, n_k) bool

    Source: Vaswani et al. (2017), section 3.2.3; chapter 04, exercise 4.1.

    >>> causal_mask(2, 5).astype(int).tolist()
    [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    """
    positions, keys = _positions(n_q, n_k)
    return keys <= positions


def sliding_window_mask(n_q, n_k, window):
    """Each query sees itself and the window - 1 keys before it.  -> (n_q, n_k) bool

    Source: Beltagy et al. (2020), Longformer; chapter 04.

    >>> sliding_window_mask(2, 5, 3).astype(int).tolist()
    [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    """
    window = whole_number(window, "window", least=1)
    positions, keys = _positions(n_q, n_k)
    return (keys <= positions) & (keys > positions - window)


def padding_mask(lengths, n, side="right"):
    """Which of n keys are text and not padding.  lengths (B,) of 0..n -> (B, 1, n) bool

    The middle axis of 1 stands for the queries: padding hides keys, and hides them from every query. `side` is where
    the padding lies. For (B, H, n_q, n_k) scores add the axis of heads, `padding_mask(lengths, n)[:, None]`: without it
    the first axis would be taken for the heads, and where B = H nobody would notice.

    >>> padding_mask([3, 1], 4).astype(int).tolist()
    [[[1, 1, 1, 0]], [[1, 0, 0, 0]]]
    """
    lengths, n = at_hand(whole_array(lengths, "lengths", axes=1)), whole_number(n, "n", least=0)
    choice(side, "side", ("right", "left"))
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= n):
        raise ValueError(f"lengths must lie in 0..{n}, got {lengths.min()}..{lengths.max()}; is n the padded length?")
    from_the_text = np.arange(n) if side == "right" else n - 1 - np.arange(n)
    return from_the_text < lengths[:, None, None]


def document_mask(doc_ids):
    """Causal attention within each of several documents packed into one row.  (n,) ids in runs -> (n, n) bool

    Source: Krell et al. (2021), sequence packing; chapter 04.

    >>> document_mask([7, 7, 9]).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    doc_ids = at_hand(whole_array(doc_ids, "doc_ids", axes=1))
    starts = np.flatnonzero(np.diff(doc_ids)) + 1
    if len(np.unique(doc_ids)) < len(starts) + (len(doc_ids) > 0):
        raise ValueError(f"doc_ids must come in runs, one a document, but an id returns later: {doc_ids.tolist()[:20]}")
    return (doc_ids[:, None] == doc_ids) & causal_mask(len(doc_ids), len(doc_ids))


def prefix_mask(n, prefix):
    """The first `prefix` positions see each other, the rest look back.  -> (n, n) bool

    Source: Raffel et al. (2020), T5's prefix language model; chapter 04.

    >>> prefix_mask(3, 2).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    n, prefix = whole_number(n, "n", least=0), whole_number(prefix, "prefix", least=0)
    if prefix > n:
        raise ValueError(f"prefix must be at most n={n}, got {prefix}")
    return causal_mask(n, n) | (np.arange(n) < prefix)


def _positions(n_q, n_k):
    """Where each query stands among the keys, as a column, and the keys, as a row."""
    n_q, n_k = whole_number(n_q, "n_q", least=0), whole_number(n_k, "n_k", least=0)
    return np.arange(n_q)[:, None] + (n_k - n_q), np.arange(n_k)
