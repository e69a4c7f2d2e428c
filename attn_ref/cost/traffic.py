"""How many bytes travel between memory and the arithmetic, and how tiles keep most of them from travelling.

    naive  q + k + v + out + 4·(n_q × n_k)        tiled  q + out + (visited tiles)·(a tile of k and of v)

Derived in course/08_cost (each array once) and 10. A tile of queries stays in fast memory while tiles of keys
and values pass by, so that scores and weights never leave it; larger tiles, fewer passes.
"""

import numpy as np

from attn_ref.cost.flops import band, shared_heads, sizes, true_or_false
from attn_ref.cost.memory import dtype_bytes
from attn_ref.shapes import whole_number


def attention_bytes(batch, n_heads, n_q, n_k, d_head, dtype, *, n_kv_heads=None, d_v=None, tiled=False):
    """The least that must be moved: q, k and v read, out written.  -> int

    Naive attention also writes the scores, reads them for softmax, writes the weights and reads those. A mask saves
    it nothing: the whole matrix is written. Source: Dao et al. (2022), section 2.2, algorithm 0; chapter 08.

    >>> attention_bytes(1, 1, 1000, 1000, 64, "float16"), attention_bytes(1, 1, 1000, 1000, 64, "float16", tiled=True)
    (8512000, 512000)
    """
    batch, n_q, n_k = sizes(0, batch=batch, n_q=n_q, n_k=n_k)
    (d_head,), (n_heads, n_kv_heads) = sizes(d_head=d_head), shared_heads(n_heads, n_kv_heads)
    d_v = d_head if d_v is None else whole_number(d_v, "d_v", least=1)
    matrices = 0 if true_or_false(tiled, "tiled") else 4 * n_heads * n_q * n_k
    return batch * ((n_heads * n_q + n_kv_heads * n_k) * (d_head + d_v) + matrices) * dtype_bytes(dtype)


def tile_map(n_q, n_k, tile_q, tile_k, *, causal=False, window=None, q_offset=None):
    """What a kernel does with each tile: 0 skip it, 1 compute and mask it, 2 compute it whole.  -> (rows, columns) int

    j - p takes every value from (first key - last position) to (last key - first position) in a tile, so a tile is
    skipped where that range misses -left .. right, and whole where it lies within. Source: Dao (2023), section 3.1;
    chapter 10.

    >>> tile_map(6, 6, 2, 3, causal=True).tolist()
    [[1, 0], [2, 1], [2, 1]]
    """
    n_q, n_k = sizes(0, n_q=n_q, n_k=n_k)
    tile_q, tile_k = sizes(tile_q=tile_q, tile_k=tile_k)
    left, right, offset = band(n_q, n_k, causal, window, q_offset)
    q0, k0 = np.arange(0, n_q, tile_q)[:, None], np.arange(0, n_k, tile_k)
    nearest = k0 - (offset + np.minimum(q0 + tile_q, n_q) - 1)  # the least j - p of each tile
    farthest = np.minimum(k0 + tile_k, n_k) - 1 - (offset + q0)
    visited, whole = (nearest <= right) & (farthest >= -left), (nearest >= -left) & (farthest <= right)
    return visited.astype(int) + whole


def tiles_visited(n_q, n_k, tile_q, tile_k, *, causal=False, window=None, q_offset=None):
    """How many tiles a kernel computes, whole or masked; the rest it never touches.  -> int

    Source: Dao (2023), section 3.1; chapter 10.

    >>> tiles_visited(6, 6, 2, 3), tiles_visited(6, 6, 2, 3, causal=True)
    (6, 5)
    """
    return int((tile_map(n_q, n_k, tile_q, tile_k, causal=causal, window=window, q_offset=q_offset) > 0).sum())


def hbm_bytes(n_q, n_k, d_head, dtype, tile_q, tile_k, *, d_v=None, causal=False, window=None, q_offset=None):
    """Bytes that one head moves through main memory (a GPU's HBM) when computed in tiles.  -> int

    Each tile of queries reads again the keys and values of the tiles it visits: about (n_q / tile_q)·n_k·(d + d_v)
    numbers. Fast memory of M numbers holds tile_q ~ M / d, hence Θ(n² d² / M) against the naive Θ(n d + n²) of
    `attention_bytes`. Source: Dao et al. (2022), theorem 2; chapter 10.

    >>> naive = attention_bytes(1, 1, 4096, 4096, 64, "float16")
    >>> naive // 2**20, [hbm_bytes(4096, 4096, 64, "float16", tile_q, 64) // 2**20 for tile_q in (64, 256)]  # MiB
    (130, [65, 17])
    """
    visited = tile_map(n_q, n_k, tile_q, tile_k, causal=causal, window=window, q_offset=q_offset) > 0
    first_keys = np.arange(0, n_k, tile_k)
    keys_read = int((visited * (np.minimum(first_keys + tile_k, n_k) - first_keys)).sum())
    return attention_bytes(1, 1, n_q, keys_read, d_head, dtype, d_v=d_v, tiled=True)
