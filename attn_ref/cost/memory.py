"""How much must be held at once: weights of attention in training, keys and values in generation.

    KV cache 2·B·n·layers·Hkv·d·size       naive training layers·B·(…+ Hq·n²)·size       tiled, the n² is gone

Derived in course/08_cost (training) and 09_kv_cache. 1 KiB is 1024 bytes, and so on.
"""

import numpy as np

from attn_ref.cost.flops import shared_heads, sizes, true_or_false
from attn_ref.shapes import real_number

NOT_IN_NUMPY = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


def dtype_bytes(dtype):
    """Bytes of one number: dtype is NumPy's, torch's, or its name.  -> int

    >>> dtype_bytes("bfloat16"), dtype_bytes(np.float32)
    (2, 4)
    """
    name = str(dtype).removeprefix("torch.")
    if name in NOT_IN_NUMPY:
        return NOT_IN_NUMPY[name]
    try:
        known = np.dtype(dtype if isinstance(dtype, (type, np.dtype)) else name)
    except TypeError:
        known = np.dtype(object)  # no number at all
    if known.kind not in "biuf":
        raise TypeError(f"dtype must be a real number's type such as 'float16' or torch.bfloat16, got {dtype!r:.40}")
    return known.itemsize


def kv_cache_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    """What generation keeps: a key and a value of d_head numbers, per token, KV head and layer.  -> int

    Source: Pope et al. (2022), with the KV heads of Ainslie et al. (2023); chapter 08.

    >>> kv_cache_bytes(1, 1, 32, 32, 128, "float16") // 1024  # KiB a token: Llama-2-7B
    512
    >>> kv_cache_bytes(1, 1, 32, 8, 128, "bfloat16") // 1024  # Llama-3-8B, four query heads to a KV head
    128
    """
    batch, seq_len = sizes(0, batch=batch, seq_len=seq_len)
    n_layers, n_kv_heads, d_head = sizes(n_layers=n_layers, n_kv_heads=n_kv_heads, d_head=d_head)
    return 2 * batch * seq_len * n_layers * n_kv_heads * d_head * dtype_bytes(dtype)


def inference_bytes(batch, seq_len, n_heads, d_head, dtype, *, n_kv_heads=None, tiled=False):
    """What attention over a whole prompt holds: q, k, v, out, and when not tiled scores and weights.  -> int

    However many layers there are, one is at work and the next reuses its memory; the cache comes on top.
    Source: Rabe & Staats (2021); chapter 08.

    >>> [inference_bytes(1, 8192, 32, 128, "float16", tiled=tiled) // 2**20 for tiled in (False, True)]  # MiB
    [8448, 256]
    """
    ends, matrix, _ = _activations(batch, seq_len, n_heads, n_kv_heads, d_head, dtype)
    return ends if true_or_false(tiled, "tiled") else ends + 2 * matrix


def training_bytes(batch, seq_len, n_layers, n_heads, d_head, dtype, *, n_kv_heads=None, tiled=False):
    """What the forward pass keeps of attention for the backward pass, in every layer.  -> int

    q, k, v, out and the weights: softmax's derivative needs its result, not the scores. Tiled attention keeps one
    float32 log-sum-exp a row instead and computes the weights again. Source: Dao et al. (2022), section 3.1;
    Korthikanti et al. (2022), section 4; chapter 08.

    >>> [training_bytes(1, 8192, 32, 32, 128, "float16", tiled=tiled) / 2**30 for tiled in (False, True)]  # GiB
    [136.0, 8.03125]
    """
    ends, matrix, rows = _activations(batch, seq_len, n_heads, n_kv_heads, d_head, dtype)
    (n_layers,) = sizes(n_layers=n_layers)
    return n_layers * (ends + 4 * rows if true_or_false(tiled, "tiled") else ends + matrix)


def longest_context(memory_bytes, bytes_at):
    """The largest n for which bytes_at(n) still fits.  -> int, 0 if not even one token does

    `bytes_at` is any of these formulas as a function of the length, and must not shrink: doubling until it no longer
    fits, then halving the gap, asks it about 2·log₂ n times. Source: chapter 08.

    >>> longest_context(24 * 2**30, lambda n: kv_cache_bytes(1, n, 32, 8, 128, "bfloat16"))  # 24 GiB at 128 KiB
    196608
    """
    memory_bytes = real_number(memory_bytes, "memory_bytes", least=0)
    if not callable(bytes_at):
        raise TypeError(f"bytes_at must be a function of n, got {type(bytes_at).__name__}; write lambda n: ...")
    fits, too_long = 0, 1
    while real_number(bytes_at(too_long), "bytes_at(n)", least=0) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
        if too_long > 2**50:
            raise ValueError(f"bytes_at(n) still fits at n = {fits}; does it use its n?")
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return fits


def max_concurrent_requests(
    memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, *, block_size=1
):  # fmt: skip
    """How many requests of seq_len tokens the memory beside the model's weights can cache.  -> int

    A paged cache hands out blocks of `block_size` tokens, the last of them part empty; a contiguous cache reserves
    the longest length allowed, so pass that as seq_len. Source: Kwon et al. (2023); chapter 09.

    >>> max_concurrent_requests(80 * 2**30, 16 * 2**30, 2048, 32, 8, 128, "bfloat16")  # 64 GiB at 256 MiB each
    256
    """
    free = real_number(memory_bytes, "memory_bytes", least=0) - real_number(weight_bytes, "weight_bytes", least=0)
    seq_len, block_size = sizes(seq_len=seq_len, block_size=block_size)
    reserved = -(-seq_len // block_size) * block_size
    return max(int(free // kv_cache_bytes(1, reserved, n_layers, n_kv_heads, d_head, dtype)), 0)


def _activations(batch, seq_len, n_heads, n_kv_heads, d_head, dtype):
    """Bytes of q, k, v and out of one layer, of one n × n matrix a head, and how many rows it has."""
    batch, seq_len = sizes(0, batch=batch, seq_len=seq_len)
    (d_head,), (n_heads, n_kv_heads) = sizes(d_head=d_head), shared_heads(n_heads, n_kv_heads)
    rows, size = batch * n_heads * seq_len, dtype_bytes(dtype)
    return 2 * batch * seq_len * (n_heads + n_kv_heads) * d_head * size, rows * seq_len * size, rows
