"""One attention, checked and spelled out: what every backend receives, so that none has a convention of its own.

    q (B, Hq, Nq, D)   k (B, Hkv, Nk, D)   v (B, Hkv, Nk, Dv);  query head h reads KV head h // (Hq / Hkv)

Query i stands at position p = offset + i and may attend to the keys j with p - left ≤ j ≤ p + right, j < length and
allowed[i, j]. Chapters 04 (masks), 05 (ALiBi), 06 (grouped heads) and 09 (offsets and lengths) derive the options.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from attn_ref.shapes import (
    boolean_array,
    is_tensor,
    namespace,
    real_array,
    real_number,
    same_side,
    whole_array,
    whole_number,
)

UNBOUNDED = 2**30  # a window's side without a bound: farther than any key, and still an int32


@dataclass(frozen=True)
class Problem:
    """One call of `attention` as every backend takes it: checked, four axes, every default filled in."""

    q: object  # (B, Hq, Nq, D)
    k: object  # (B, Hkv, Nk, D)
    v: object  # (B, Hkv, Nk, Dv)
    scale: float
    left: int
    right: int
    offset: object  # (B,) int64, position of the first query among the keys
    length: object  # (B,) int64, how many keys there are
    allowed: object  # (B, Hq, Nq, Nk) bool, a view that costs no memory; or None
    bias: object  # (B, Hq, Nq, Nk), likewise; or None
    softcap: float  # 0 for none
    sinks: object  # (Hq,) logits that take a share and give nothing; or None
    alibi: object  # (Hq,) slopes; or None
    shape: tuple  # the output's shape as the caller expects it

    def shaped(self, x):
        """A result (B, Hq, Nq, ...) with the caller's leading axes."""
        return x.reshape(*self.shape[:-1], *x.shape[3:])


def make_problem(
    q, k, v, *, causal=False, window=None, q_offset=None, kv_len=None, allowed=None, bias=None, scale=None,
    softcap=None, sinks=None, alibi=None, **unknown,
):  # fmt: skip
    """The arguments of `attention`, checked and brought to four axes."""
    if unknown:
        raise TypeError(
            f"there is no option {', '.join(unknown)} here; those that say what is computed are causal, window, "
            "q_offset, kv_len, allowed, bias, scale, softcap, sinks, alibi"
        )
    q, k, v, shape = _four_axes(q, k, v)
    batch, n_heads, n_q, d = q.shape
    n_k = k.shape[2]
    lead, shapes = shape[: -3 if len(shape) > 2 else -2], ((*shape[:-1], n_k), (batch, n_heads, n_q, n_k))
    if not isinstance(causal, (bool, np.bool_)):
        raise TypeError(f"causal must be True or False, got {type(causal).__name__}; a mask is passed as allowed")
    left, right = window_sides(window)
    length = _per_batch(kv_len, "kv_len", n_k, q, lead)
    if kv_len is not None and batch and not (int(length.min()) >= 0 and int(length.max()) <= n_k):
        raise ValueError(
            f"kv_len must lie in 0..{n_k}, the number of keys, got {int(length.min())}..{int(length.max())}"
        )
    offset = length - n_q if q_offset is None else _per_batch(q_offset, "q_offset", 0, q, lead)
    return Problem(
        q, k, v,
        scale=(d or 1) ** -0.5 if scale is None else real_number(scale, "scale"),
        left=left,
        right=min(right, 0) if causal else right,
        offset=offset,
        length=length,
        allowed=None if allowed is None else _spread(boolean_array(allowed, "allowed", q), "allowed", shapes),
        bias=None if bias is None else _spread(real_beside(bias, "bias", q), "bias", shapes),
        softcap=0.0 if softcap is None else real_number(softcap, "softcap", above=0),
        sinks=None if sinks is None else _per_head(sinks, "sinks", n_heads, q),
        alibi=None if alibi is None else _per_head(alibi, "alibi", n_heads, q),
        shape=shape,
    )  # fmt: skip


def _four_axes(q, k, v):
    """q, k, v of one library, device and dtype as (B, H, N, D), and the shape of the output."""
    arrays = {"q": q, "k": k, "v": v}
    for name, x in arrays.items():
        arrays[name] = real_array(x, name, axes=2, shape="(..., n, d)")
        if is_tensor(x) != is_tensor(q) or (is_tensor(x) and x.device != q.device):
            where = {one: str(x.device) if is_tensor(x) else "NumPy" for one, x in zip("qkv", (q, k, v), strict=True)}
            raise TypeError(f"q, k and v must live in one place, got {where}; move them to one library and device")
    q, k, v = arrays.values()
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"k has d={k.shape[-1]} but q has d={q.shape[-1]}; a query meets a key by a dot product, so both need the "
            f"same last axis; is one of them transposed? Got {shapes}"
        )
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"k holds {k.shape[-2]} keys but v holds {v.shape[-2]} values; each key labels one value. Got {shapes}"
        )
    n_heads, k_heads, v_heads = (x.shape[-3] if x.ndim > 2 else 1 for x in (q, k, v))
    if k_heads != v_heads:
        raise ValueError(
            f"k has {k_heads} heads but v has {v_heads}; a head's keys and values belong together. Got {shapes}"
        )
    if k_heads == 0 or n_heads % k_heads:
        raise ValueError(
            f"q has {n_heads} heads, which {k_heads} KV heads cannot share evenly; axes are (batch, heads, n, d), "
            f"so is an axis missing or swapped? Got {shapes}"
        )
    dtype = _common_dtype(q, k, v)
    try:
        lead = np.broadcast_shapes(*(tuple(x.shape[:-3]) for x in (q, k, v)))
    except ValueError:
        raise ValueError(f"the leading (batch) axes of q, k and v do not match. Got {shapes}") from None
    heads = (n_heads,) if max(q.ndim, k.ndim, v.ndim) > 2 else ()
    out_shape = (*lead, *heads, q.shape[-2], v.shape[-1])
    size = int(np.prod(lead))
    return *(_lift(x, lead, size, dtype) for x in (q, k, v)), out_shape


def _lift(x, lead, size, dtype):
    x = x[None] if x.ndim == 2 else x
    x = x.to(dtype) if is_tensor(x) else x.astype(dtype, copy=False)
    return namespace(x).broadcast_to(x, (*lead, *x.shape[-3:])).reshape(size, *x.shape[-3:])


def _common_dtype(*arrays):
    if is_tensor(arrays[0]):
        return reduce(namespace(arrays[0]).promote_types, (x.dtype for x in arrays))
    return np.result_type(*arrays)


def window_sides(window):
    """(left, right) as kernels want it; an int w means self and w - 1 before."""
    if window is None:
        return UNBOUNDED, UNBOUNDED
    try:
        if not isinstance(window, (tuple, list)) or len(window) != 2:
            return whole_number(window, "window", least=1) - 1, 0
        sides = zip(("left", "right"), window, strict=True)
        return tuple(UNBOUNDED if x is None else whole_number(x, f"window's {side} side", least=0) for side, x in sides)
    except (TypeError, ValueError) as error:
        cause = "a window is a number of keys or a pair (left, right), and None, not -1, is unbounded"
        raise type(error)(f"{error}; {cause}") from None


def _per_batch(x, name, default, q, lead):
    """A whole number, or one for each batch entry, as (B,) beside q."""
    x = same_side(whole_array(default if x is None else x, name), name, q)
    try:
        return namespace(q).broadcast_to(x, lead).reshape(-1)
    except (ValueError, RuntimeError):
        raise ValueError(
            f"{name} must be one number or one for each batch entry, shape {lead}, got shape {tuple(x.shape)}"
        ) from None


def _per_head(x, name, n_heads, q):
    x = real_beside(x, name, q)
    if tuple(x.shape) != (n_heads,):
        raise ValueError(
            f"{name} must hold one number for each of the {n_heads} query heads, got shape {tuple(x.shape)}"
        )
    return x


def _spread(x, name, shapes):
    """x broadcast to the caller's shape of the scores, as a view of our four axes."""
    shape, four = shapes
    try:
        view = x.expand(shape) if is_tensor(x) else np.broadcast_to(x, shape)
    except (ValueError, RuntimeError):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, which does not broadcast to the scores (..., heads, n_q, n_k) = "
            f"{shape}; queries come before keys, and a mask for each batch entry needs an axis for the heads, "
            "(B, 1, n_q, n_k) or, for padding, (B, 1, 1, n_k)"
        ) from None
    return view.reshape(four)


def real_beside(x, name, q):
    """x as numbers beside q, in the precision that q is worked on: float32 for half-precision numbers."""
    if str(getattr(x, "dtype", "")).endswith("bool"):
        raise TypeError(f"{name} must hold numbers, got True and False; a mask is passed as allowed")
    x, xp = same_side(real_array(x, name), name, q), namespace(q)
    dtype = xp.promote_types(q.dtype, xp.float32)
    return x.to(dtype) if is_tensor(x) else x.astype(dtype, copy=False)
