"""Sequences of different lengths in one call: packed end to end without padding, or padded on the left.

    packed       (H, n_1 + n_2 + ..., d)   with cu_seqlens = (0, n_1, n_1 + n_2, ...), where each sequence starts
    left-padded  (B, H, N, d)              with lengths (B,): sequence b is the last lengths[b] positions of its row

Derived in course/04_masks and 09_kv_cache. Both equal separate calls, one for each sequence. Packing computes Σ nᵢ²
scores, padding B·N². Generation pads on the left, so that the next token of every row is appended in the same place.
"""

import numpy as np

from attn_ref.attention import attention
from attn_ref.masks import padding_mask
from attn_ref.shapes import is_tensor, namespace, real_array, same_side, whole_array

NOT_PACKED = {
    "q_offset": "each sequence's last query stands at its own last key",
    "kv_len": "cu_seqlens_k says how many keys each sequence has",
    "allowed": "cu_seqlens already keeps the sequences apart; a mask would need another shape for each",
    "bias": "it would need another shape for each sequence; use alibi, or call attention for each",
    "return_weights": "the weights have another shape for each sequence; call attention for each",
}
NOT_PADDED = {
    "q_offset": "the last query stands at the last key",
    "kv_len": "that is padding on the right; lengths says where the padding on the left ends",
    "allowed": "lengths says which keys are padding; to combine masks, pass padding_mask(..., side='left')[:, None] & "
    "yours to attention",
}


def pack(sequences):
    """Sequences (H, n_i, d) end to end.  -> packed (H, Σ n_i, d), cu_seqlens (len + 1,) int64, beside the sequences

    Lengths of 0 are allowed; heads, d, dtype and library must agree, else ValueError or TypeError names the sequence.
    Heads come first because (heads, n, d) is what `attention` reads, so a sequence is a slice. FlashAttention's layout
    (Σ n_i, H, d) is `packed.swapaxes(0, 1)`, and its cu_seqlens is int32. Source: as `attention_packed`.

    >>> packed, cu_seqlens = pack([np.ones((2, 3, 4)), np.ones((2, 5, 4))])
    >>> packed.shape, cu_seqlens.tolist()
    ((2, 8, 4), [0, 3, 8])
    """
    if not isinstance(sequences, (list, tuple)) or not sequences:
        raise ValueError("sequences must be a list of at least one (H, n_i, d) array; is it packed or padded already?")
    first = _three_axes(sequences[0], "sequences[0]")
    arrays = []
    for i, x in enumerate(sequences):
        x = _three_axes(x, f"sequences[{i}]")
        if _kind(x) != _kind(first):
            raise TypeError(f"sequences[{i}] is {_kind(x)} but sequences[0] is {_kind(first)}")
        if (x.shape[0], x.shape[2]) != (first.shape[0], first.shape[2]):
            raise ValueError(
                f"sequences[{i}] has shape {tuple(x.shape)} but sequences[0] {tuple(first.shape)}; only the "
                "middle axis may differ: (heads, n_i, d)"
            )
        arrays.append(x)
    ends = np.cumsum([0] + [x.shape[1] for x in arrays])
    return namespace(first).concatenate(arrays, 1), same_side(ends, "cu_seqlens", first)


def unpack(packed, cu_seqlens):
    """The sequences of a packed array, as views.  (H, total, d), (n + 1,) -> list of n arrays (H, n_i, d)

    >>> [x.shape for x in unpack(np.ones((2, 8, 4)), [0, 3, 8])]
    [(2, 3, 4), (2, 5, 4)]
    """
    packed = _three_axes(packed, "packed")
    cuts = _cuts(cu_seqlens, "cu_seqlens", packed, "packed")
    return [packed[:, cut] for cut in cuts]


def attention_packed(q, k, v, cu_seqlens_q, cu_seqlens_k=None, **options):
    """Attention within each of several packed sequences.  q (Hq, total_q, d) -> (Hq, total_q, d_v)

    k (Hkv, total_k, d), v (Hkv, total_k, d_v). Sequence s owns the queries from cu_seqlens_q[s] up to
    cu_seqlens_q[s + 1], and the keys likewise by cu_seqlens_k, which is cu_seqlens_q unless given. `causal` and
    `window` hold within each sequence, aligned at its bottom right; the other options are those of `attention`. Raises
    ValueError or TypeError naming the argument; what would need another shape for each sequence is refused.
    Source: Krell et al. (2021), sequence packing; Dao (2023), FlashAttention-2's variable lengths; chapter 04.

    >>> v = np.array([[[1.0], [3.0], [10.0]]])
    >>> attention_packed(v * 0, v * 0, v, [0, 2, 3]).ravel().tolist()  # equal scores: averages of 1, 3 and of 10
    [2.0, 2.0, 10.0]
    """
    _refuse(options, NOT_PACKED, "attention_packed")
    q, k, v = _three_axes(q, "q"), _three_axes(k, "k"), _three_axes(v, "v")
    named = "cu_seqlens_q" if cu_seqlens_k is None else "cu_seqlens_k"
    cuts_q = _cuts(cu_seqlens_q, "cu_seqlens_q", q, "q")
    cuts_k = _cuts(cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k, named, k, "k")
    if v.shape[1] != k.shape[1]:
        raise ValueError(f"k holds {k.shape[1]} keys but v holds {v.shape[1]} values; each key labels one value")
    if len(cuts_q) != len(cuts_k):
        raise ValueError(f"cu_seqlens_q tells of {len(cuts_q)} sequences but cu_seqlens_k of {len(cuts_k)}")
    parts = [
        attention(q[:, of_q], k[:, of_k], v[:, of_k], **options) for of_q, of_k in zip(cuts_q, cuts_k, strict=True)
    ]
    if isinstance(parts[0], tuple):
        return tuple(namespace(q).concatenate(results, 1) for results in zip(*parts, strict=True))
    return namespace(q).concatenate(parts, 1)


def attention_left_padded(q, k, v, lengths, **options):
    """Attention over rows that are padded on the left.  q (B, Hq, n_q, d), n_q ≤ n_k -> (B, Hq, n_q, d_v)

    k (B, Hkv, n_k, d), v (B, Hkv, n_k, d_v). Of row b the last lengths[b] of n_k positions are text. No query sees
    padding, and a query that is padding gets 0 (log-sum-exp -inf, weights 0). Whatever padding holds, NaN too, reaches
    neither results nor gradients. The other options are those of `attention`, without q_offset, kv_len and allowed.
    Raises ValueError or TypeError naming the argument. Chapter 09.

    >>> v = np.array([[[[np.nan], [1.0], [3.0]]]])
    >>> attention_left_padded(np.zeros((1, 1, 3, 1)), np.zeros((1, 1, 3, 1)), v, [2]).ravel().tolist()
    [0.0, 2.0, 2.0]
    """
    _refuse(options, NOT_PADDED, "attention_left_padded")
    q, k, v = real_array(q, "q"), real_array(k, "k"), real_array(v, "v")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or x.shape[0] != q.shape[0]:
            raise ValueError(f"{name} must be (batch, heads, n, d), batch as in q, got shape {tuple(x.shape)}")
    n_q, n_k = q.shape[2], k.shape[2]
    if n_q > n_k:
        raise ValueError(f"q has {n_q} positions but k only {n_k}; queries are the last n_q of the n_k positions")
    lengths = whole_array(lengths, "lengths", axes=1)
    if len(lengths) != q.shape[0]:
        raise ValueError(f"lengths must hold one number for each of the {q.shape[0]} rows, got {len(lengths)}")
    keys = padding_mask(lengths, n_k, side="left")[:, None]  # (B, 1, 1, n_k)
    xp, text = namespace(q), same_side(keys[..., n_k - n_q :].swapaxes(2, 3), "lengths", q)  # (B, 1, n_q, 1)
    # NaN in a padded query would reach the keys' gradients as 0 · NaN
    results = attention(xp.where(text, q, 0), k, v, allowed=keys, **options)
    if not isinstance(results, tuple):
        return xp.where(text, results, 0)
    return tuple(xp.where(text, x, 0) if x.ndim == 4 else xp.where(text[..., 0], x, -xp.inf) for x in results)


def _cuts(cu_seqlens, name, x, of):
    """The slice of each sequence."""
    ends = whole_array(cu_seqlens, name, axes=1).tolist()
    if len(ends) < 2 or ends[0] != 0:
        raise ValueError(f"{name} must be (0, n_1, n_1 + n_2, ...), got {str(ends):.60}; are these lengths, not sums?")
    if sorted(ends) != ends:
        raise ValueError(f"{name} must not decrease, got {str(ends):.60}; are these lengths, not their running sum?")
    if ends[-1] != x.shape[1]:
        raise ValueError(
            f"{name} ends at {ends[-1]} but {of} has {x.shape[1]} positions; its axes are (heads, total, d), so is "
            f"{of} in FlashAttention's layout? Got {of} {tuple(x.shape)}"
        )
    return [slice(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def _three_axes(x, name):
    x = real_array(x, name)
    if x.ndim != 3:
        raise ValueError(f"{name} must be (heads, n, d), got shape {tuple(x.shape)}; packing leaves no batch axis")
    return x


def _refuse(options, reasons, function):
    for name, reason in reasons.items():
        if name in options:
            raise TypeError(f"{function} takes no {name}: {reason}")


def _kind(x):
    return f"a torch tensor of {x.dtype} on {x.device}" if is_tensor(x) else f"a NumPy array of {x.dtype}"
