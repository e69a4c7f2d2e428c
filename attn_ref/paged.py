"""A paged cache keeps keys and values in blocks, as an operating system keeps memory in pages, and reserves no more.

    pool  keys (n_blocks, block_size, Hkv, d), values (n_blocks, block_size, Hkv, d_v)
    position p of a sequence lives in block table[p // block_size], slot p % block_size

Derived in course/09_kv_cache. A sequence wastes at most block_size - 1 slots, and sequences with the same beginning
share its blocks. Who writes into a block that others read copies it first. Two answers to one prompt of 6 positions,
block_size 4:

    after the fork               one 0 1   two 0 1   both blocks are shared, the second is half full
    two appends its 7th          one 0 1   two 0 2   block 1 was copied to block 2 and written there
    one appends its 7th          one 0 1   two 0 2   nobody else reads block 1 any more: no copy
"""

from attn_ref.attention import attention
from attn_ref.cache import checked_pair, empty_like, kind_of, write
from attn_ref.shapes import is_tensor, namespace, real_array, whole_number
from attn_ref.softmax import softmax


class BlockPool:
    """All the memory that paged caches share: n_blocks blocks of block_size positions, and who uses which.

    `like` is an array or tensor whose library, device and dtype the pool takes; NumPy float64 without it. `n_free`
    counts the free blocks, `references[block]` the sequences that read a block, `nbytes` the bytes of the whole pool.
    Source: Kwon et al. (2023), PagedAttention, section 4; chapter 09.

    >>> pool = BlockPool(8, 4, n_kv_heads=2, d=16)
    >>> pool.n_free, pool.nbytes
    (8, 16384)
    """

    def __init__(self, n_blocks, block_size, n_kv_heads, d, d_v=None, *, like=None):
        n_blocks = whole_number(n_blocks, "n_blocks", least=1)
        self.block_size = whole_number(block_size, "block_size", least=1)
        heads, d = whole_number(n_kv_heads, "n_kv_heads", least=1), whole_number(d, "d", least=1)
        d_v = d if d_v is None else whole_number(d_v, "d_v", least=1)
        like = real_array(0.0 if like is None else like, "like")
        self.keys = empty_like(like, (n_blocks, self.block_size, heads, d))
        self.values = empty_like(like, (n_blocks, self.block_size, heads, d_v))
        self.references = [0] * n_blocks
        self._free = list(range(n_blocks))[::-1]  # a stack: the block given back last is still in the processor's cache
        self.kind = kind_of(self.keys[:1].swapaxes(1, 2), self.values[:1].swapaxes(1, 2))

    @property
    def n_blocks(self):
        return len(self.references)

    @property
    def n_free(self):
        return len(self._free)

    @property
    def nbytes(self):
        return self.keys.nbytes + self.values.nbytes

    def take(self, n):
        """n free blocks, all or none.  -> list of block numbers. Raises MemoryError if there are fewer."""
        if whole_number(n, "n", least=0) > self.n_free:
            raise MemoryError(
                f"{n} more blocks are needed but {self.n_free} of the pool's {self.n_blocks} are free; free() a "
                "sequence, wait for one to end, or make the pool larger"
            )
        blocks = [self._free.pop() for _ in range(n)]
        for block in blocks:
            self.references[block] = 1
        return blocks

    def give_back(self, blocks):
        """One reader fewer for each block; without readers a block is free."""
        for block in blocks:
            if self.references[block] == 0:
                raise ValueError(f"block {block} is free already; was it given back twice?")
            self.references[block] -= 1
            if self.references[block] == 0:
                self._free.append(block)


class PagedKVCache:
    """One sequence (batch of one) in a pool: a table of blocks and a length. As a context manager it frees itself.

    `table` lists the blocks, `length` the positions seen; `nbytes` counts the sequence's blocks, shared ones included.
    Source: Kwon et al. (2023), sections 4.2 to 4.4; chapter 09.

    >>> import numpy as np
    >>> pool = BlockPool(8, 4, n_kv_heads=1, d=2)
    >>> one = PagedKVCache(pool)
    >>> keys, values = one.append(np.ones((1, 1, 6, 2)), np.ones((1, 1, 6, 2)))
    >>> two = one.fork()
    >>> keys, values = two.append(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1, 2)))
    >>> one.table, two.table, pool.n_free  # the first block is shared, the second was copied before writing
    ([0, 1], [0, 2], 5)
    """

    window = None

    def __init__(self, pool):
        if not isinstance(pool, BlockPool):
            raise TypeError(f"pool must be a BlockPool, got {type(pool).__name__}; make one for all sequences first")
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        """Keep n more positions, n ≥ 1.  -> all keys (1, Hkv, length, d), all values (1, Hkv, length, d_v), copies

        Raises MemoryError if the pool has too few free blocks, and ValueError or TypeError if k or v is unlike what the
        pool holds; pool and sequence are then as before.
        """
        self._still_open()
        pool, size = self.pool, self.pool.block_size
        k, v, _ = checked_pair(k, v, pool.kind)
        start, end = self.length, self.length + k.shape[2]
        copy = start % size > 0 and pool.references[self.table[-1]] > 1  # its last block is partly filled and shared
        fresh = pool.take(-(-end // size) - len(self.table) + copy)
        if copy:
            shared = self.table.pop()
            for store in (pool.keys, pool.values):
                write(store, fresh[0], store[shared])
            pool.give_back([shared])
        self.table += fresh
        positions = range(start, end)
        where = [self.table[p // size] for p in positions], [p % size for p in positions]
        write(pool.keys, where, k[0].swapaxes(0, 1))
        write(pool.values, where, v[0].swapaxes(0, 1))
        self.length = end
        return self.keys_and_values()

    def keys_and_values(self):
        """Everything kept, gathered by the table.  -> keys (1, Hkv, length, d), values (1, Hkv, length, d_v), copies"""
        self._still_open()
        gathered = (store[self.table] for store in (self.pool.keys, self.pool.values))  # (blocks, block_size, Hkv, d)
        return tuple(x.reshape(-1, *x.shape[2:])[: self.length].swapaxes(0, 1)[None] for x in gathered)

    def fork(self):
        """A second sequence with the same beginning. It takes no block until one of the two writes."""
        self._still_open()
        other = PagedKVCache(self.pool)
        other.table, other.length = list(self.table), self.length
        for block in self.table:
            self.pool.references[block] += 1
        return other

    def free(self):
        """Give all blocks back. The sequence is over; freeing it again does nothing."""
        if self.table is not None:
            self.pool.give_back(self.table)
        self.table, self.length = None, 0

    @property
    def nbytes(self):
        return len(self.table or []) * self.pool.nbytes // self.pool.n_blocks

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.free()

    def _still_open(self):
        if self.table is None:
            raise ValueError("this sequence was freed and its blocks may be another's by now; make a new PagedKVCache")


def paged_attention(q, cache, *, scale=None, softcap=None, alibi=None, window=None):
    """Causal attention of the last n_q positions, block by block where the keys lie: nothing is gathered.

    q (1, Hq, n_q, d) -> (1, Hq, n_q, d_v). Each block gives an output and a log-sum-exp. The softmax of the
    log-sum-exps is each block's share of the weights, so the outputs' average with these shares is the output over all
    keys. Raises ValueError or TypeError naming the argument. Source: Kwon et al. (2023), equation 4; chapters 09, 10.

    >>> import numpy as np
    >>> cache = PagedKVCache(BlockPool(8, 2, n_kv_heads=1, d=1))
    >>> keys, values = cache.append(np.zeros((1, 1, 3, 1)), np.array([[[[1.0], [2.0], [6.0]]]]))
    >>> paged_attention(np.ones((1, 1, 1, 1)), cache).tolist()  # equal scores: the average of 1, 2 and 6
    [[[[3.0]]]]
    """
    if not isinstance(cache, PagedKVCache):
        raise TypeError(f"cache must be a PagedKVCache, got {type(cache).__name__}; other caches hold no blocks")
    cache._still_open()
    q, pool, size = real_array(q, "q"), cache.pool, cache.pool.block_size
    if q.ndim != 4 or q.shape[0] != 1:
        raise ValueError(f"q must be (1, heads, n, d), for a paged cache is one sequence; got shape {tuple(q.shape)}")
    n_q = q.shape[2]
    if not 0 < n_q <= cache.length:
        raise ValueError(f"q has {n_q} positions and the cache {cache.length}; append their keys and values first")
    parts = []
    for number, block in enumerate(cache.table):
        start = number * size
        filled = min(size, cache.length - start)
        k, v = (store[block, :filled].swapaxes(0, 1)[None] for store in (pool.keys, pool.values))
        parts.append(attention(
            q, k, v, causal=True, q_offset=cache.length - n_q - start, window=window, scale=scale, softcap=softcap,
            alibi=alibi, return_lse=True,
        ))  # fmt: skip
    xp, (outs, lses) = namespace(q), zip(*parts, strict=True)
    shares = softmax(xp.stack(lses), axis=0)[..., None]  # (blocks, 1, Hq, n_q, 1)
    out = (xp.stack(outs) * shares).sum(0)
    return out.to(outs[0].dtype) if is_tensor(out) else out.astype(outs[0].dtype, copy=False)
