"""Decoding attends through a cache: a chunk of new positions brings its queries and reads everything kept so far.

    keys, values = cache.append(k, v)      out = attention(q, keys, values, causal=True)

Derived in course/09_kv_cache. The causal mask is aligned at the bottom right: the chunk's last query stands at the last
key. So one new token, a whole prompt and any cut of a text into chunks are the same call, and every cut gives what the
attention over the whole text gives. Source: Agrawal et al. (2023), SARATHI, chunked prefill.
"""

from attn_ref.attention import attention
from attn_ref.backends import choose
from attn_ref.problem import make_problem
from attn_ref.shapes import namespace, real_array, whole_number

PER_CALL = {
    "causal": "decoding is always causal",
    "q_offset": "the cache knows the positions",
    "kv_len": "a cache holds no padding",
    "allowed": "it would have to cover the cached keys; call attention(q, *cache.append(k, v), ...) yourself",
    "bias": "it would have to cover the cached keys; call attention(q, *cache.append(k, v), ...) yourself",
    "return_weights": "its width differs from chunk to chunk; call attention(q, *cache.append(k, v), ...) yourself",
}


def decode_step(q, k, v, cache, **options):
    """n ≥ 1 new positions join the cache and attend causally to all it keeps.  -> (B, Hq, n, d_v)

    q (B, Hq, n, d), k (B, Hkv, n, d), v (B, Hkv, n, d_v); RoPE, if any, was applied from position `cache.length` on.
    Options: `window`, `scale`, `softcap`, `sinks`, `alibi`, `backend`, `return_lse` as in `attention`; a rolling
    cache brings its own window. Raises ValueError or TypeError naming the argument (MemoryError if a pool has no room)
    and then leaves the cache as it was. Chapter 09, exercise 9.2.

    >>> import numpy as np
    >>> from attn_ref.cache import KVCache
    >>> cache, one = KVCache(), np.ones((1, 1, 1, 1))
    >>> [decode_step(one, one, one * value, cache).item() for value in (2.0, 4.0, 9.0)]  # averages so far
    [2.0, 3.0, 5.0]
    """
    q, options = _checked(q, k, cache, options)
    trial = {name: x for name, x in options.items() if name not in ("backend", "return_lse")}
    choose(make_problem(q, k, v, causal=True, **trial), options.get("backend"))  # complains before the cache changes
    keys, values = cache.append(k, v)
    return attention(q, keys, values, causal=True, **options)


def prefill_in_chunks(q, k, v, cache, chunk, **options):
    """A prompt of n positions, `chunk` at a time: never more than chunk · n scores a head.  -> (B, Hq, n, d_v)

    Equal to one causal attention over all that the cache has seen. Shapes and options as in `decode_step`. If a pool
    runs out of blocks on the way, the chunks before stay: `cache.length` tells how far it came. Chapter 09.

    >>> import numpy as np
    >>> from attn_ref.cache import KVCache
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 1, 2, 7, 4))
    >>> bool(np.allclose(prefill_in_chunks(q, k, v, KVCache(), chunk=3), attention(q, k, v, causal=True)))
    True
    """
    chunk = whole_number(chunk, "chunk", least=1)
    q, _ = _checked(q, k, cache, options)
    k, v = real_array(k, "k"), real_array(v, "v")
    if v.shape[-2:-1] != q.shape[-2:-1]:
        raise ValueError(f"v has {v.shape[-2]} positions but q has {q.shape[-2]}; a position has all three")
    cuts = (slice(start, start + chunk) for start in range(0, q.shape[2], chunk))
    parts = [decode_step(q[:, :, cut], k[:, :, cut], v[:, :, cut], cache, **options) for cut in cuts]
    if isinstance(parts[0], tuple):
        return tuple(namespace(q).concatenate(results, 2) for results in zip(*parts, strict=True))
    return namespace(q).concatenate(parts, 2)


def _checked(q, k, cache, options):
    """q as an array, and the options of `attention` for this cache, refused by name where they cannot be meant."""
    for name, reason in PER_CALL.items():
        if name in options:
            raise TypeError(f"decoding takes no {name}: {reason}")
    if isinstance(cache, (type, list)) or not hasattr(cache, "append"):
        shown = f"the class {cache.__name__}, without ()" if isinstance(cache, type) else type(cache).__name__
        raise TypeError(f"cache must be a KVCache, RollingKVCache or PagedKVCache, got {shown}")
    q, n_k = real_array(q, "q"), real_array(k, "k", axes=2, shape="(B, Hkv, n, d)").shape[-2]
    if q.ndim != 4 or q.shape[2] == 0:
        raise ValueError(f"q must be (batch, heads, n, d) with n of at least 1, got shape {tuple(q.shape)}")
    if n_k != q.shape[2]:
        raise ValueError(
            f"k has {n_k} positions but q has {q.shape[2]}; each new position brings a query, a key and a value, and "
            "those before are in the cache already"
        )
    kept, asked = getattr(cache, "window", None), options.get("window")
    if kept is not None and asked is not None and asked != kept:
        raise ValueError(f"window is {asked} but the cache keeps a window of {kept}; leave window out")
    return q, {**options, "window": asked if kept is None else kept}
