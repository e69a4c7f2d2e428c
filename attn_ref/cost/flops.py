"""How much there is to compute: attention grows with the square of the length, the projections with the length.

    attention 2·B·H·pairs·(d + d_v)        projections 2·B·n·(weights)        pairs = n² , causal n(n + 1)/2

Derived in course/08_cost. A pair of a query and a key it may see costs d multiply-adds for its score and d_v for its
share of the value. Softmax adds a handful of FLOPs a pair and is left out: about 2 % at d = 64.
"""

import numpy as np

from attn_ref.problem import window_sides
from attn_ref.shapes import whole_number


def visible_pairs(n_q, n_k, *, causal=False, window=None, q_offset=None):
    """How many pairs (query, key) may attend, with the options of `attention`.  -> int

    Causal attention is not half of n² but n(n + 1)/2: the diagonal counts. Source: chapter 08.

    >>> visible_pairs(5, 5), visible_pairs(5, 5, causal=True), visible_pairs(5, 5, window=2)
    (25, 15, 9)
    """
    n_q, n_k = sizes(0, n_q=n_q, n_k=n_k)
    left, right, offset = band(n_q, n_k, causal, window, q_offset)
    positions = offset + np.arange(n_q)
    first, last = np.maximum(positions - left, 0), np.minimum(positions + right, n_k - 1)
    return int(np.maximum(last - first + 1, 0).sum())


def attention_flops(batch, n_heads, n_q, n_k, d_head, *, d_v=None, causal=False, window=None, q_offset=None):
    """FLOPs of q kᵀ and of weights @ v, for the pairs that a mask leaves.  -> int

    Sharing keys among heads (GQA) changes bytes, not FLOPs: every query head meets every key. The backward pass costs
    2 times this, and 2.5 times where the scores are computed again. Source: Chowdhery et al. (2022), appendix B;
    Dao (2023), section 4.1; chapter 08.

    >>> attention_flops(1, 1, 1000, 1000, 64)  # 10⁶ pairs, 64 multiply-adds for a score and 64 for a value
    256000000
    """
    batch, n_heads, d_head = sizes(batch=batch, n_heads=n_heads, d_head=d_head)
    d_v = d_head if d_v is None else whole_number(d_v, "d_v", least=1)
    pairs = visible_pairs(n_q, n_k, causal=causal, window=window, q_offset=q_offset)
    return 2 * batch * n_heads * pairs * (d_head + d_v)


def attention_parameters(d_model, n_heads, n_kv_heads=None, d_head=None):
    """Weights of W_q, W_k, W_v and W_o, without biases.  -> int

    `n_kv_heads` defaults to n_heads, `d_head` to d_model / n_heads. Source: Kaplan et al. (2020), table 1, with the
    KV heads of Ainslie et al. (2023); chapter 06, exercise 6.8.

    >>> attention_parameters(512, 8), attention_parameters(512, 8, n_kv_heads=2)  # 4·512², and less to read k and v
    (1048576, 655360)
    """
    d_model, n_heads, n_kv_heads, d_head = _heads(d_model, n_heads, n_kv_heads, d_head)
    return 2 * d_model * d_head * (n_heads + n_kv_heads)  # q and out, k and v


def projection_flops(batch, seq_len, d_model, n_heads, n_kv_heads=None, d_head=None):
    """FLOPs of x W_q, x W_k, x W_v and out W_o: 2 for each weight and token.  -> int

    Source: Kaplan et al. (2020), table 1; chapter 08.

    >>> projection_flops(1, 1000, 512, 8)
    2097152000
    """
    batch, seq_len = sizes(0, batch=batch, seq_len=seq_len)
    return 2 * batch * seq_len * attention_parameters(d_model, n_heads, n_kv_heads, d_head)


def feed_forward_parameters(d_model, d_ff=None, gated=False):
    """Weights of the feed-forward layer without biases: up and down, and a gate if `gated`.  -> int

    `d_ff` defaults to 4·d_model. Source: Shazeer (2020) for the gate; chapter 07.

    >>> feed_forward_parameters(512), feed_forward_parameters(512, 1376, gated=True)  # 8·512², and nearly the same
    (2097152, 2113536)
    """
    d_model = whole_number(d_model, "d_model", least=1)
    d_ff = 4 * d_model if d_ff is None else whole_number(d_ff, "d_ff", least=0)
    return (3 if true_or_false(gated, "gated") else 2) * d_model * d_ff


def feed_forward_flops(batch, seq_len, d_model, d_ff=None, gated=False):
    """FLOPs of the feed-forward layer: 2 for each weight and token.  -> int

    Source: Kaplan et al. (2020), table 1; chapter 08.

    >>> feed_forward_flops(1, 1000, 512) / projection_flops(1, 1000, 512, 8)
    2.0
    """
    batch, seq_len = sizes(0, batch=batch, seq_len=seq_len)
    return 2 * batch * seq_len * feed_forward_parameters(d_model, d_ff, gated)


def crossover_length(d_model, n_heads=1, n_kv_heads=None, d_head=None, *, causal=False, d_ff=0, gated=False):
    """The length at which attention costs as many FLOPs as the layer's weights.  -> float, tokens

    Both sides per token: 4·H·d·n = 2·weights, so n = weights / (2·H·d), which is 2·d_model for the projections alone.
    Causal attention sees (n + 1)/2 keys on average and gets there at twice the length, less one. `d_ff` adds the
    feed-forward layer to the weights. Source: Kaplan et al. (2020), section 2.1; chapter 08.

    >>> crossover_length(512), crossover_length(512, causal=True), crossover_length(512, d_ff=2048)
    (1024.0, 2047.0, 3072.0)
    """
    d_model, n_heads, n_kv_heads, d_head = _heads(d_model, n_heads, n_kv_heads, d_head)
    weights = attention_parameters(d_model, n_heads, n_kv_heads, d_head) + feed_forward_parameters(d_model, d_ff, gated)
    keys = weights / (2 * n_heads * d_head)  # that a query sees on average
    return 2 * keys - 1 if true_or_false(causal, "causal") else keys


def sizes(least=1, **named):
    """Several whole numbers of at least `least`, each called by its name in an error."""
    return [whole_number(x, name, least) for name, x in named.items()]


def true_or_false(x, name):
    """x as a bool. Raises TypeError for what is merely true or false in a condition, such as 1 or []."""
    if not isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(x).__name__} {x!r:.40}")
    return bool(x)


def shared_heads(n_heads, n_kv_heads):
    """Both counts, where every KV head serves equally many query heads; None means a KV head for each."""
    n_heads = whole_number(n_heads, "n_heads", least=1)
    n_kv_heads = n_heads if n_kv_heads is None else whole_number(n_kv_heads, "n_kv_heads", least=1)
    if n_heads % n_kv_heads:
        raise ValueError(f"n_heads={n_heads} query heads cannot share n_kv_heads={n_kv_heads} evenly; swapped?")
    return n_heads, n_kv_heads


def band(n_q, n_k, causal, window, q_offset):
    """Which keys a query at position p sees, p - left .. p + right, and where the first query stands."""
    left, right = window_sides(window)
    offset = n_k - n_q if q_offset is None else whole_number(q_offset, "q_offset")
    return left, min(right, 0) if true_or_false(causal, "causal") else right, offset


def _heads(d_model, n_heads, n_kv_heads, d_head):
    d_model, (n_heads, n_kv_heads) = whole_number(d_model, "d_model", least=1), shared_heads(n_heads, n_kv_heads)
    if d_head is None and d_model % n_heads:
        raise ValueError(f"d_model={d_model} does not divide among n_heads={n_heads}; pass d_head, a head's size")
    d_head = d_model // n_heads if d_head is None else whole_number(d_head, "d_head", least=1)
    return d_model, n_heads, n_kv_heads, d_head
