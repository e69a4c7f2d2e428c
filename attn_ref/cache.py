"""A cache keeps the keys and values of the tokens so far, so that a new token computes only its own.

    append   k (B, Hkv, n, d), v (B, Hkv, n, d_v)   →   keys (B, Hkv, m, d), values (B, Hkv, m, d_v), oldest first

Derived in course/09_kv_cache. A token looks back only, so nothing that comes later changes its key or its value: they
are computed once and kept. `KVCache` keeps all of them; `RollingKVCache` only those that a window still reaches:

    window 3   position p lives in slot p % 3     0 1 2  →  3 1 2  →  3 4 2

Caches serve generation, not training: they hold numbers without gradients.
"""

from attn_ref.shapes import is_tensor, namespace, real_array, whole_number


class KVCache:
    """Keys and values of all positions so far, NumPy arrays or torch tensors, whichever the first append brings.

    `length` counts the positions seen: the next token is position `length`, which is what RoPE needs. `nbytes` counts
    the bytes held, room for growth included. Source: Shazeer (2019), section 2.4.1; chapter 09, exercise 9.1.

    >>> import numpy as np
    >>> cache = KVCache()
    >>> keys, values = cache.append(np.ones((1, 1, 4, 2)), np.ones((1, 1, 4, 3)))
    >>> keys, values = cache.append(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1, 3)))
    >>> keys.shape, values.shape, cache.length
    ((1, 1, 5, 2), (1, 1, 5, 3), 5)
    """

    window = None  # nothing is forgotten

    def __init__(self):
        self.length = 0
        self._kind = self._keys = self._values = None

    def append(self, k, v):
        """Keep n more positions, n ≥ 1.  -> all keys (B, Hkv, length, d), all values (B, Hkv, length, d_v)

        The results are views for reading. They stay valid: a later append writes behind them or into a new buffer.
        Raises ValueError or TypeError, and keeps nothing, if k or v is unlike what the cache holds.
        """
        k, v, kind = checked_pair(k, v, self._kind)
        start, end = self.length, self.length + k.shape[2]
        keys, values = _with_room(self._keys, k, start), _with_room(self._values, v, start)
        write(keys, (slice(None), slice(None), slice(start, end)), k)
        write(values, (slice(None), slice(None), slice(start, end)), v)
        self._kind, self._keys, self._values, self.length = kind, keys, values, end
        return _for_reading(keys[:, :, :end]), _for_reading(values[:, :, :end])

    @property
    def nbytes(self):
        return 0 if self._keys is None else self._keys.nbytes + self._values.nbytes


class RollingKVCache:
    """The last `window` positions, each written over the one that the window has just left.

    `append` returns what the chunk's queries may see, up to window - 1 positions before the chunk and the chunk itself,
    as new arrays: `attention(q, keys, values, causal=True, window=window)` then needs no other rule, however often the
    ring has wrapped. Memory never grows beyond `window` positions. `length` and `nbytes` as in `KVCache`.
    Source: Beltagy et al. (2020), the window; Jiang et al. (2023), Mistral 7B, the ring; chapter 09.

    >>> import numpy as np
    >>> cache = RollingKVCache(window=3)
    >>> for position in range(5):
    ...     keys, values = cache.append(np.full((1, 1, 1, 1), position), np.zeros((1, 1, 1, 1)))
    >>> keys.ravel().tolist(), cache.length
    ([2.0, 3.0, 4.0], 5)
    """

    def __init__(self, window):
        self.window = whole_number(window, "window", least=1)
        self.length = 0
        self._kind = self._keys = self._values = None

    def append(self, k, v):
        """Keep n more positions.  -> keys (B, Hkv, m, d), values (B, Hkv, m, d_v), m ≤ window - 1 + n

        Raises ValueError or TypeError, and keeps nothing, if k or v is unlike what the cache holds.
        """
        k, v, self._kind = checked_pair(k, v, self._kind)
        if self._keys is None:
            self._keys, self._values = (empty_like(x, (*x.shape[:2], self.window, x.shape[3])) for x in (k, v))
        xp, start, end = namespace(k), self.length, self.length + k.shape[2]
        earlier = xp.arange(max(0, start - self.window + 1), start) % self.window
        keys = xp.concatenate([self._keys[:, :, earlier], k], 2)
        values = xp.concatenate([self._values[:, :, earlier], v], 2)
        kept = min(k.shape[2], self.window)  # of a chunk longer than the ring only the end survives
        slots = xp.arange(end - kept, end) % self.window
        write(self._keys, (slice(None), slice(None), slots), k[:, :, -kept:])
        write(self._values, (slice(None), slice(None), slots), v[:, :, -kept:])
        self.length = end
        return keys, values

    nbytes = KVCache.nbytes


def checked_pair(k, v, known):
    """k and v of one append, checked against each other and against `known`, the kind of what the cache holds."""
    k, v = real_array(k, "k"), real_array(v, "v")
    for name, x in (("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} must be (batch, heads, n, d), got shape {tuple(x.shape)}; is an axis missing?")
        if is_tensor(x) and x.requires_grad and namespace(x).is_grad_enabled():
            raise ValueError(
                f"{name} requires a gradient, which a cache does not keep; generate under torch.no_grad(), and train "
                "on whole texts with attention(..., causal=True)"
            )
    shapes = f"Got k {tuple(k.shape)}, v {tuple(v.shape)}"
    if k.shape[2] == 0:
        raise ValueError(f"k brings no position; an append needs at least one. {shapes}")
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"k brings {k.shape[2]} positions but v brings {v.shape[2]}; they come in pairs. {shapes}")
    kind = kind_of(k, v)
    for part, of_v in zip(("library", "device", "dtype", "batch", "heads"), kind_of(v, v).values(), strict=False):
        if kind[part] != of_v:
            raise _unlike(part)(f"k has {part} {kind[part]} but v has {part} {of_v}; they come in pairs. {shapes}")
    for part, old in (known or {}).items():
        if kind[part] != old:
            raise _unlike(part)(f"the cache holds {part} {old} but this append brings {kind[part]}; {CAUSE[part]}")
    return k, v, kind


CAUSE = {
    "library": "a cache holds NumPy arrays or torch tensors, not both",
    "device": "move k and v first",
    "dtype": "cast k and v first",
    "batch": "each batch needs a cache of its own",
    "heads": "a cache holds KV heads, which may be fewer than query heads; does each layer have its own cache?",
    "d": "is the axis order (batch, heads, n, d)?",
    "d_v": "are k and v in that order?",
}


def kind_of(k, v):
    """What all appends to one cache have in common."""
    device = str(k.device) if is_tensor(k) else "cpu"
    batch, heads, _, d = k.shape
    library = "torch" if is_tensor(k) else "NumPy"
    return dict(library=library, device=device, dtype=k.dtype, batch=batch, heads=heads, d=d, d_v=v.shape[3])


def empty_like(x, shape):
    """Memory in x's library, on its device and of its dtype, not yet filled."""
    if not is_tensor(x):
        return namespace(x).empty(shape, x.dtype)
    with namespace(x).inference_mode(False):  # a tensor made in inference mode could not be written to outside it
        return x.new_empty(shape)


def write(buffer, where, x):
    """buffer[where] = x. By way of `.data`, since rows that autograd may remember are never the ones written."""
    (buffer.data if is_tensor(buffer) else buffer)[where] = x


def _with_room(buffer, x, n):
    """A buffer whose first n rows are kept and which has room for x: the same one, or one of at least twice its size.

    Doubling copies each row less than twice on average, where growing by one row a token would copy n²/2 rows.
    """
    room = 0 if buffer is None else buffer.shape[2]
    if n + x.shape[2] <= room:
        return buffer
    larger = empty_like(x, (*x.shape[:2], max(2 * room, n + x.shape[2]), x.shape[3]))
    if n:
        larger[:, :, :n] = buffer[:, :, :n]
    return larger


def _for_reading(view):
    if not is_tensor(view):
        view.flags.writeable = False
    return view


def _unlike(part):
    return TypeError if part in ("library", "device", "dtype") else ValueError
