"""Caches against recomputing everything: any cut of a text into chunks gives what the whole text gives."""

import doctest
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from attn_ref.attention import attention
from attn_ref.cache import KVCache, RollingKVCache
from attn_ref.decode import decode_step, prefill_in_chunks
from attn_ref.paged import BlockPool, PagedKVCache, paged_attention
from attn_ref.scores import attention_scores

HEADS, KV_HEADS, D, D_V, N, WINDOW = 6, 3, 16, 24, 37, 5
BATCH = {"KVCache": 2, "RollingKVCache": 2, "PagedKVCache": 1}
quick = settings(max_examples=40, deadline=None, database=None)


def make(kind, like=None, window=WINDOW):
    if kind == "KVCache":
        return KVCache()
    if kind == "RollingKVCache":
        return RollingKVCache(window)
    return PagedKVCache(BlockPool(40, 3, KV_HEADS, D, D_V, like=like))


def text(kind, n=N, seed=0, extreme=300):
    """q, k, v of n positions; the scores of one query lie in the hundreds and beyond."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(BATCH[kind], h, n, d)) for h, d in ((HEADS, D), (KV_HEADS, D), (KV_HEADS, D_V)))
    q[:, :, n // 3] *= extreme
    return q, k, v


def tensors(*arrays, dtype="float32"):
    torch = pytest.importorskip("torch", reason="caches of tensors need torch")
    return [torch.tensor(x, dtype=getattr(torch, dtype)) for x in arrays]


def in_library(library, *arrays):
    return arrays if library == "numpy" else tensors(*arrays, dtype="float64")


def by_position(q, k, v, window=None):
    """Causal attention in float64, one position and head at a time."""
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, p in np.ndindex(q.shape[:3]):
        seen, g = slice(max(0, p + 1 - (window or p + 1)), p + 1), h // (q.shape[1] // k.shape[1])
        scores = k[b, g, seen] @ q[b, h, p] / q.shape[3] ** 0.5
        weights = np.exp(scores - scores.max())
        out[b, h, p] = weights @ v[b, g, seen] / weights.sum()
    return out


def in_pieces(sizes, q, k, v, cache, **options):
    ends = np.cumsum(sizes)
    cuts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return [decode_step(q[:, :, cut], k[:, :, cut], v[:, :, cut], cache, **options) for cut in cuts]


chunkings = st.lists(st.integers(1, 12), min_size=1, max_size=9)
kinds = pytest.mark.parametrize("kind", BATCH)
libraries = pytest.mark.parametrize("library", ["numpy", "torch"])


class TestAnyChunkingEqualsRecomputingEverything:
    @kinds
    @quick
    @given(sizes=chunkings, window=st.integers(1, 13), seed=st.integers(0, 99))
    def test_in_float64(self, kind, sizes, window, seed):
        q, k, v = text(kind, sum(sizes), seed)
        window = window if kind == "RollingKVCache" or seed % 2 else None
        options = {} if kind == "RollingKVCache" else {"window": window}
        cache = (
            make(kind, window=window) if kind != "PagedKVCache" else PagedKVCache(BlockPool(40, 3, KV_HEADS, D, D_V))
        )
        out = np.concatenate(in_pieces(sizes, q, k, v, cache, **options), 2)
        np.testing.assert_allclose(out, by_position(q, k, v, window), rtol=1e-10, atol=1e-10)
        assert cache.length == sum(sizes)

    @kinds
    @quick
    @given(sizes=chunkings, seed=st.integers(0, 99))
    def test_in_float32_tensors(self, kind, sizes, seed):
        q, k, v = tensors(*text(kind, sum(sizes), seed, extreme=1))
        window = WINDOW if kind == "RollingKVCache" else None
        exact = by_position(*(x.double().numpy() for x in (q, k, v)), window)
        naive = abs(attention(q, k, v, causal=True, window=window, backend="torch").numpy() - exact).max()
        out = np.concatenate([x.numpy() for x in in_pieces(sizes, q, k, v, make(kind, q))], 2)
        # two roundings for a lucky naive run: eps·s of a score s moves a weight, and so a value, by that share
        rounding = np.finfo(np.float32).eps * max(1, abs(attention_scores(q, k)).max().item()) * abs(v).max().item()
        assert abs(out - exact).max() <= 2 * naive + 2 * rounding

    @kinds
    @pytest.mark.parametrize("chunk", [1, 4, 10, N, 50])
    @libraries
    def test_a_prefill_in_chunks_and_then_a_token_at_a_time(self, kind, chunk, library):
        q, k, v = in_library(library, *text(kind))
        cache, prompt = make(kind, q), 30
        out = [prefill_in_chunks(q[:, :, :prompt], k[:, :, :prompt], v[:, :, :prompt], cache, chunk)]
        out += [prefill_in_chunks(*(x[:, :, prompt:] for x in (q, k, v)), cache, 1)]  # on top of what is there
        exact = by_position(*map(np.asarray, (q, k, v)), cache.window)
        np.testing.assert_allclose(np.concatenate(out, 2), exact, rtol=1e-10, atol=1e-10)

    @kinds
    def test_with_every_option(self, kind):
        q, k, v = text(kind)
        options = dict(scale=0.3, softcap=4.0, sinks=np.arange(6.0) - 3, alibi=2.0 ** -np.arange(6))
        cache = make(kind)
        out, lse = prefill_in_chunks(q, k, v, cache, 7, return_lse=True, backend="numpy", **options)
        expected = attention(q, k, v, causal=True, window=cache.window, return_lse=True, backend="numpy", **options)
        np.testing.assert_allclose(out, expected[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(lse, expected[1], rtol=1e-10, atol=1e-10)


class TestEveryCache:
    @kinds
    @libraries
    def test_earlier_results_and_the_callers_arrays_are_left_alone(self, kind, library):
        _, k, v = in_library(library, *text(kind))
        cache, results, before = make(kind, k), [], (np.asarray(k).copy(), np.asarray(v).copy())
        for p in range(N):
            results.append(cache.append(k[:, :, p : p + 1], v[:, :, p : p + 1]))
        np.testing.assert_array_equal(k, before[0])
        np.testing.assert_array_equal(v, before[1])
        k[...], v[...] = 0, 0  # the caller's arrays are the caller's
        results.append(cache.append(k[:, :, :1], v[:, :, :1]))
        for p, (keys, values) in enumerate(results[:-1]):
            first = max(0, p + 1 - (cache.window or N))
            np.testing.assert_array_equal(keys, before[0][:, :, first : p + 1])
            np.testing.assert_array_equal(values, before[1][:, :, first : p + 1])
        np.testing.assert_array_equal(results[-1][0][:, :, -2], before[0][:, :, -1])

    @kinds
    def test_writing_into_a_result_cannot_change_the_cache(self, kind):
        _, k, v = text(kind)
        cache = make(kind)
        for result in cache.append(k[:, :, :3], v[:, :, :3]):
            if result.flags.writeable:
                result[...] = np.nan
        keys, values = cache.append(k[:, :, 3:4], v[:, :, 3:4])
        np.testing.assert_array_equal(keys, k[:, :, :4])
        np.testing.assert_array_equal(values, v[:, :, :4])

    @kinds
    def test_two_caches_are_independent(self, kind):
        _, k, v = text(kind)
        one, two = make(kind), make(kind)
        one.append(k[:, :, :4], v[:, :, :4])
        assert two.length == 0
        keys, _ = two.append(-k[:, :, :2], v[:, :, :2])
        np.testing.assert_array_equal(keys, -k[:, :, :2])

    @kinds
    def test_arrays_with_gaps_in_memory_are_welcome(self, kind):
        _, k, v = text(kind)
        keys, values = make(kind).append(k.swapaxes(2, 3).copy().swapaxes(2, 3), np.repeat(v, 2, 2)[:, :, ::2])
        np.testing.assert_array_equal(keys, k)
        np.testing.assert_array_equal(values, v)

    @kinds
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_the_dtype_is_kept(self, kind, dtype):
        q, k, v = tensors(*text(kind), dtype=dtype)
        cache = make(kind, q)
        assert {x.dtype for x in cache.append(k, v)} == {k.dtype}
        assert decode_step(q[:, :, :2], k[:, :, :2], v[:, :, :2], cache).dtype == k.dtype

    @kinds
    @libraries
    def test_a_refused_append_leaves_everything_as_it_was(self, kind, library):
        q, k, v = in_library(library, *text(kind))
        cache = make(kind, k)
        cache.append(k[:, :, :6], v[:, :, :6])
        state = cache.length, cache.nbytes
        for step in (
            lambda: cache.append(k[:, :, 6:7], v[:, :, 6:8]),
            lambda: cache.append(k[:, :, 6:7, :3], v[:, :, 6:7]),
            lambda: decode_step(q[:, :, 6:7, :3], k[:, :, 6:7], v[:, :, 6:7], cache),
            lambda: decode_step(q[:, :, 6:7], k[:, :, 6:7], v[:, :, 6:7], cache, softcap=-1),
            lambda: decode_step(q[:, :, 6:7], k[:, :, 6:7], v[:, :, 6:7], cache, backend="none"),
        ):
            with pytest.raises(ValueError):
                step()
        assert (cache.length, cache.nbytes) == state
        keys, _ = cache.append(k[:, :, 6:7], v[:, :, 6:7])
        np.testing.assert_array_equal(keys, k[:, :, max(0, 7 - (cache.window or 7)) : 7])

    @kinds
    def test_keys_that_need_gradients_are_refused_and_queries_keep_theirs(self, kind):
        torch = pytest.importorskip("torch", reason="gradients need torch")
        q, k, v = (x[:, :, :9].requires_grad_() for x in tensors(*text(kind), dtype="float64"))
        cache = make(kind, q)
        with pytest.raises(ValueError, match="k requires a gradient.*no_grad"):
            cache.append(k, v)
        with torch.no_grad():
            make(kind, q).append(k, v)
            cache.append(k[:, :, :7], v[:, :, :7])
        out = decode_step(q[:, :, 7:8], k[:, :, 7:8].detach(), v[:, :, 7:8].detach(), cache)
        cache.append(k[:, :, 8:].detach(), v[:, :, 8:].detach())  # must not disturb what autograd remembers
        out.sum().backward()
        grad = q.grad.clone()
        q.grad = None
        attention(q, k, v, causal=True, window=cache.window)[:, :, 7].sum().backward()
        torch.testing.assert_close(grad, q.grad, rtol=1e-10, atol=1e-10)

    @kinds
    def test_inference_mode_may_end_between_appends(self, kind):
        torch = pytest.importorskip("torch", reason="inference mode is torch's")
        _, k, v = tensors(*text(kind))
        cache = make(kind, k)
        with torch.inference_mode():
            cache.append(k[:, :, :6], v[:, :, :6])
            cache.append(k[:, :, 6:7], v[:, :, 6:7])  # a new buffer, with room for more
        keys, _ = cache.append(k[:, :, 7:8], v[:, :, 7:8])
        assert (keys[:, :, -2:] == k[:, :, 6:8]).all()


class TestKVCache:
    def test_memory_doubles_and_so_grows_rarely(self):
        cache, token = KVCache(), np.zeros((2, 3, 1, 16))
        sizes = []
        for length in range(1, 1001):
            cache.append(token, token)
            sizes.append(cache.nbytes)
            assert cache.nbytes <= 2 * length * 2 * token.nbytes
        assert len(set(sizes)) == 11  # 1, 2, 4, ... 1024 positions
        assert KVCache().nbytes == 0


class TestRollingKVCache:
    def test_a_chunk_gets_what_its_queries_may_see_and_no_more(self):
        cache, expected = RollingKVCache(4), [(0, 3), (0, 4), (1, 13), (10, 14), (11, 16), (13, 17)]
        for first, end in expected:
            start = cache.length
            positions = np.arange(start, end, dtype=float)[None, None, :, None]
            keys, values = cache.append(positions, -positions)
            assert keys.ravel().tolist() == list(range(first, end))
            np.testing.assert_array_equal(values, -keys)

    @libraries
    def test_memory_does_not_grow(self, library):
        (token,) = in_library(library, np.zeros((2, 3, 9, 16)))
        cache = RollingKVCache(5)
        for _ in range(40):
            keys, _ = cache.append(token, token)
            assert cache.nbytes == 2 * 2 * 3 * 5 * 16 * 8
            assert keys.shape[2] <= 5 - 1 + 9
        assert cache.length == 360

    def test_a_window_of_one_sees_the_chunk_alone(self):
        q, k, v = text("RollingKVCache")
        out = prefill_in_chunks(q, k, v, RollingKVCache(1), 3)
        np.testing.assert_allclose(out, np.repeat(v, 2, 1), rtol=1e-10)


class TestPagedKVCache:
    def test_a_fork_shares_until_one_of_the_two_writes(self):
        k = np.arange(6.0).reshape(1, 1, 6, 1)
        pool = BlockPool(5, 4, 1, 1)
        one = PagedKVCache(pool)
        one.append(k, k)
        two = one.fork()
        assert pool.n_free == 3 and one.table == two.table
        keys_one, _ = one.append(k[:, :, :1] + 100, k[:, :, :1])
        keys_two, _ = two.append(k[:, :, :1] + 200, k[:, :, :1])
        assert keys_one.ravel().tolist() == [0, 1, 2, 3, 4, 5, 100]
        assert keys_two.ravel().tolist() == [0, 1, 2, 3, 4, 5, 200]
        assert one.table[0] == two.table[0] and one.table[1] != two.table[1]
        assert pool.n_free == 2  # the second writer was the last reader and needed no copy

    def test_a_full_last_block_is_never_copied(self):
        k = np.zeros((1, 1, 4, 1))
        pool = BlockPool(3, 4, 1, 1)
        one = PagedKVCache(pool)
        one.append(k, k)
        two = one.fork()
        two.append(k, k)
        assert pool.n_free == 1 and two.table[0] == one.table[0]

    def test_a_pool_without_room_leaves_everything_as_it_was(self):
        k = np.arange(6.0).reshape(1, 1, 6, 1)
        pool = BlockPool(3, 4, 1, 1)
        one = PagedKVCache(pool)
        one.append(k, k)
        two = one.fork()
        with pytest.raises(MemoryError, match="2 more blocks are needed but 1 of the pool's 3 are free"):
            two.append(k, k)  # one block to copy the shared one, one more for the rest
        assert (two.length, two.table, pool.n_free, pool.references) == (6, one.table, 1, [2, 2, 0])
        one.free()
        keys, _ = two.append(k, k)
        assert keys.ravel().tolist() == [0, 1, 2, 3, 4, 5] * 2

    def test_a_block_is_free_after_its_last_reader(self):
        k = np.zeros((1, 1, 6, 1))
        pool = BlockPool(3, 4, 1, 1)
        with pytest.raises(KeyError), PagedKVCache(pool) as one:
            one.append(k, k)
            two = one.fork()
            raise KeyError
        assert pool.n_free == 1
        two.free()
        two.free()
        assert pool.n_free == 3 and pool.references == [0, 0, 0]

    @pytest.mark.parametrize("left", [np.nan, 1e308])
    def test_what_an_earlier_sequence_left_in_a_block_has_no_effect(self, left):
        q, k, v = text("PagedKVCache")
        pool = BlockPool(10, 4, KV_HEADS, D, D_V)
        with PagedKVCache(pool) as earlier:
            earlier.append(k * 0 + left, v * 0 + left)
        cache = PagedKVCache(pool)
        with np.errstate(over="raise"):
            assert np.isfinite(prefill_in_chunks(q, k, v, cache, 9)).all()
            assert np.isfinite(paged_attention(q, cache)).all()

    def test_bytes_count_blocks(self):
        pool = BlockPool(8, 4, KV_HEADS, D, D_V, like=np.empty(0, np.float32))
        cache = PagedKVCache(pool)
        assert cache.nbytes == 0 and pool.nbytes == 8 * 4 * KV_HEADS * (D + D_V) * 4
        cache.append(np.zeros((1, KV_HEADS, 5, D), np.float32), np.zeros((1, KV_HEADS, 5, D_V), np.float32))
        assert cache.nbytes == 2 * 4 * KV_HEADS * (D + D_V) * 4

    @libraries
    @pytest.mark.parametrize("n_q", [1, 6, N])
    @pytest.mark.parametrize(
        "options", [{}, {"window": 6}, {"softcap": 3.0, "scale": 0.2, "alibi": 2.0 ** -np.arange(6)}], ids=str
    )
    def test_attention_block_by_block_equals_attention_over_all_keys(self, library, n_q, options):
        q, k, v = in_library(library, *text("PagedKVCache"))
        cache = make("PagedKVCache", q)
        keys, values = cache.append(k, v)
        expected = attention(q[:, :, -n_q:], keys, values, causal=True, **options)
        out = paged_attention(q[:, :, -n_q:], cache, **options)
        assert type(out) is type(expected)
        np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-10)


class Sequences(RuleBasedStateMachine):
    """Sequences that grow, fork and end in any order, beside plain lists of what each must hold."""

    caches = Bundle("caches")

    def __init__(self):
        super().__init__()
        self.pool, self.next, self.lists = BlockPool(7, 3, 1, 1), 0.0, {}

    @rule(target=caches)
    def begin(self):
        cache = PagedKVCache(self.pool)
        self.lists[cache] = []
        return cache

    @rule(cache=caches, n=st.integers(1, 8))
    def append(self, cache, n):
        new = [self.next + i for i in range(n)]
        k = np.array(new).reshape(1, 1, n, 1)
        before = self.pool.n_free, list(self.pool.references), list(cache.table), cache.length
        try:
            cache.append(k, -k)
        except MemoryError:
            assert before == (self.pool.n_free, self.pool.references, cache.table, cache.length)
        else:
            self.next += n
            self.lists[cache] += new

    @rule(target=caches, cache=caches)
    def fork(self, cache):
        other = cache.fork()
        self.lists[other] = list(self.lists[cache])
        return other

    @rule(cache=consumes(caches))
    def free(self, cache):
        cache.free()
        del self.lists[cache]

    @invariant()
    def every_block_is_free_or_counted(self):
        tables = [block for cache in self.lists for block in cache.table]
        assert self.pool.references == [tables.count(block) for block in range(self.pool.n_blocks)]
        assert self.pool.n_free + len(set(tables)) == self.pool.n_blocks

    @invariant()
    def every_sequence_holds_its_own(self):
        for cache, numbers in self.lists.items():
            keys, values = cache.keys_and_values()
            assert keys.ravel().tolist() == numbers and (values == -keys).all()


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=30, stateful_step_count=25, deadline=None, database=None)


def ones(*shape, dtype=float):
    return np.ones(shape, dtype)


def filled(kind):
    """A cache that holds two positions: two KV heads, d=4, d_v=5."""
    cache = make(kind) if kind != "PagedKVCache" else PagedKVCache(BlockPool(8, 4, 2, 4, 5))
    cache.append(ones(1, 2, 2, 4), ones(1, 2, 2, 5))
    return cache


def freed():
    cache = filled("PagedKVCache")
    cache.free()
    return cache


def tensor(*shape):
    (x,) = tensors(np.ones(shape), dtype="float64")
    return x


K, V, Q = ones(1, 2, 1, 4), ones(1, 2, 1, 5), ones(1, 6, 1, 4)
APPENDS = {  # every cache refuses these alike
    "three axes": ((K[0], V), r"k must be \(batch, heads, n, d\), got shape \(2, 1, 4\)"),
    "text": ((K, "text"), "v must hold real numbers"),
    "no position": ((K[:, :, :0], V[:, :, :0]), "brings no position"),
    "a key without a value": ((ones(1, 2, 3, 4), V), "k brings 3 positions but v brings 1"),
    "heads of k and v": ((K, ones(1, 1, 1, 5)), "k has heads 2 but v has heads 1"),
    "dtypes of k and v": ((K, V.astype("f4")), "k has dtype float64 but v has dtype float32"),
    "another batch": ((ones(3, 2, 1, 4), ones(3, 2, 1, 5)), "holds batch 1 but this append brings 3"),
    "query heads": ((ones(1, 6, 1, 4), ones(1, 6, 1, 5)), "holds heads 2 but this append brings 6; .*KV heads"),
    "another d": ((ones(1, 2, 1, 7), V), "holds d 4 but this append brings 7"),
    "another d_v": ((K, ones(1, 2, 1, 7)), "holds d_v 5 but this append brings 7"),
    "another dtype": ((K.astype("f4"), V.astype("f4")), "holds dtype float64 but this append brings float32; cast"),
}


@kinds
@pytest.mark.parametrize("case", APPENDS)
def test_an_append_of_something_else_is_refused_by_name(kind, case):
    arguments, message = APPENDS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        filled(kind).append(*arguments)


@kinds
def test_a_tensor_does_not_join_arrays(kind):
    with pytest.raises(TypeError, match="holds library NumPy but this append brings torch"):
        filled(kind).append(tensor(1, 2, 1, 4), tensor(1, 2, 1, 5))
    with pytest.raises(TypeError, match="k has library NumPy but v has library torch"):
        filled(kind).append(K, tensor(1, 2, 1, 5))


def pool(*arguments, **options):
    return lambda: BlockPool(*arguments, **options)


def step(*arguments, kind="KVCache", **options):
    return lambda: decode_step(*arguments, filled(kind), **options)


def chunks(*arguments, **options):
    return lambda: prefill_in_chunks(*arguments, **options)


ERRORS = {
    "rolling: zero": (lambda: RollingKVCache(0), "window must be at least 1, got 0"),
    "rolling: a pair": (lambda: RollingKVCache((3, 0)), "window must be a whole number"),
    "rolling: None": (lambda: RollingKVCache(None), "window must be a whole number, got NoneType"),
    "pool: no blocks": (pool(0, 4, 1, 8), "n_blocks must be at least 1"),
    "pool: half a block": (pool(8, 0.5, 1, 8), "block_size must be a whole number, got float 0.5"),
    "pool: empty blocks": (pool(8, 0, 1, 8), "block_size must be at least 1"),
    "pool: no heads": (pool(8, 4, 0, 8), "n_kv_heads must be at least 1"),
    "pool: d": (pool(8, 4, 1, -8), "d must be at least 1, got -8"),
    "pool: d_v": (pool(8, 4, 1, 8, 0), "d_v must be at least 1, got 0"),
    "pool: like": (pool(8, 4, 1, 8, like="float32"), "like must hold real numbers"),
    "pool: take too many": (lambda: BlockPool(8, 4, 1, 8).take(9), "9 more blocks are needed but 8 of the pool's 8"),
    "pool: take below zero": (lambda: BlockPool(8, 4, 1, 8).take(-1), "n must be at least 0"),
    "pool: given back twice": (lambda: BlockPool(8, 4, 1, 8).give_back([3]), "block 3 is free already"),
    "paged: no pool": (lambda: PagedKVCache(8), "pool must be a BlockPool, got int"),
    "paged: append after free": (lambda: freed().append(K, V), "this sequence was freed"),
    "paged: fork after free": (lambda: freed().fork(), "this sequence was freed"),
    "paged: read after free": (lambda: freed().keys_and_values(), "this sequence was freed"),
    "by blocks: another cache": (lambda: paged_attention(Q, KVCache()), "must be a PagedKVCache, got KVCache"),
    "by blocks: freed": (lambda: paged_attention(Q, freed()), "this sequence was freed"),
    "by blocks: three axes": (lambda: paged_attention(Q[0], filled("PagedKVCache")), r"q must be \(1, heads, n, d\)"),
    "by blocks: a batch": (lambda: paged_attention(ones(2, 6, 1, 4), filled("PagedKVCache")), "one sequence"),
    "by blocks: too many queries": (
        lambda: paged_attention(ones(1, 6, 3, 4), filled("PagedKVCache")),
        "q has 3 positions and the cache 2; append",
    ),
    "by blocks: no query": (lambda: paged_attention(Q[:, :, :0], filled("PagedKVCache")), "q has 0 positions"),
    "by blocks: d": (lambda: paged_attention(ones(1, 6, 1, 3), filled("PagedKVCache")), "k has d=4 but q has d=3"),
    "by blocks: heads": (lambda: paged_attention(ones(1, 3, 1, 4), filled("PagedKVCache")), "cannot share evenly"),
    "by blocks: window": (lambda: paged_attention(Q, filled("PagedKVCache"), window=0), "window must be at least 1"),
    "step: not causal": (step(Q, K, V, causal=False), "decoding takes no causal: decoding is always causal"),
    "step: offset": (step(Q, K, V, q_offset=2), "decoding takes no q_offset: the cache knows"),
    "step: lengths": (step(Q, K, V, kv_len=2), "decoding takes no kv_len"),
    "step: a mask": (step(Q, K, V, allowed=ones(1, 3) == 1), "decoding takes no allowed.*cover the cached keys"),
    "step: a bias": (step(Q, K, V, bias=ones(1, 3)), "decoding takes no bias"),
    "step: weights": (step(Q, K, V, return_weights=True), "decoding takes no return_weights"),
    "step: no cache": (lambda: decode_step(Q, K, V, None), "cache must be a KVCache.*got NoneType"),
    "step: a class": (lambda: decode_step(Q, K, V, KVCache), r"got the class KVCache, without \(\)"),
    "step: a list": (lambda: decode_step(Q, K, V, []), "cache must be a KVCache.*got list"),
    "step: three axes": (step(Q[0], K, V), r"q must be \(batch, heads, n, d\)"),
    "step: more keys": (step(Q, ones(1, 2, 3, 4), ones(1, 2, 3, 5)), "k has 3 positions but q has 1.*in the cache"),
    "step: another window": (step(Q, K, V, kind="RollingKVCache", window=9), "window is 9 but the cache keeps .* 5"),
    "chunks: zero": (chunks(Q, K, V, KVCache(), 0), "chunk must be at least 1, got 0"),
    "chunks: half": (chunks(Q, K, V, KVCache(), 1.5), "chunk must be a whole number"),
    "chunks: no cache": (chunks(Q, K, V, 7, 2), "cache must be a KVCache.*got int"),
    "chunks: nothing": (chunks(Q[:, :, :0], K[:, :, :0], V[:, :, :0], KVCache(), 2), "n of at least 1"),
    "chunks: values": (chunks(Q, K, ones(1, 2, 3, 5), KVCache(), 2), "v has 3 positions but q has 1"),
    "chunks: keys": (chunks(Q, ones(1, 2, 3, 4), V, KVCache(), 2), "k has 3 positions but q has 1"),
    "chunks: d": (chunks(ones(1, 6, 1, 3), K, V, KVCache(), 2), "k has d=4 but q has d=3"),
    "chunks: a vector": (chunks(Q, ones(4), V, KVCache(), 2), "k needs a shape"),
    "chunks: a bias": (chunks(Q, K, V, KVCache(), 2, bias=ones(1, 1)), "decoding takes no bias"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_call_names_the_argument(case):
    call, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError, MemoryError), match=message):
        call()


@pytest.mark.parametrize("name", ["cache", "paged", "decode"])
def test_the_examples_in_docstrings_hold(name):
    result = doctest.testmod(sys.modules[f"attn_ref.{name}"])
    assert result.attempted and not result.failed
