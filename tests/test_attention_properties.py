"""What attention promises whatever the numbers are: each property on forty problems that Hypothesis draws."""

from functools import reduce
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest

import attn_ref

pytest.importorskip("hypothesis", reason="the property tests need hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

forty = settings(max_examples=40, deadline=None, derandomize=True, database=None)
NOTHING = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def close(got, want):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-10, atol=1e-10)


@st.composite
def problems(draw, least_keys=0):
    """q, k and v of ragged sizes, with grouped heads, and one row of scores in the hundreds."""
    n_kv_heads, heads_per_kv, batch = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    n_q, n_k, d, d_v = (
        draw(st.integers(0, 7)),
        draw(st.integers(least_keys, 9)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    q = rng.normal(size=(batch, n_kv_heads * heads_per_kv, n_q, d))
    q[..., :1, :] *= 300
    k, v = rng.normal(size=(batch, n_kv_heads, n_k, d)), rng.normal(size=(batch, n_kv_heads, n_k, d_v))
    return SimpleNamespace(q=q, k=k, v=v, n_q=n_q, n_k=n_k, n_heads=q.shape[1], batch=batch, rng=rng)


def attend(p, **options):
    """The output and the log-sum-exp, with any argument replaced."""
    q, k, v = (options.pop(name, getattr(p, name)) for name in "qkv")
    return attn_ref.attention(q, k, v, **options, return_lse=True)


def same(first, second):
    close(first[0], second[0])
    close(first[1], second[1])


some_mask = st.sampled_from([{}, {"causal": True}, {"window": 3}, {"window": (None, 1)}, {"window": (1, 2)}])


class TestKeys:
    @forty
    @given(problems())
    def test_the_order_of_keys_does_not_matter(self, p):
        order = p.rng.permutation(p.n_k)
        allowed = p.rng.random((p.n_q, p.n_k)) < 0.7
        shuffled = attend(p, k=p.k[:, :, order], v=p.v[:, :, order], allowed=allowed[:, order])
        same(shuffled, attend(p, allowed=allowed))

    @forty
    @given(problems(), st.floats(-50, 50))
    def test_a_constant_added_to_all_scores_only_moves_the_log_sum_exp(self, p, constant):
        out, lse = attend(p)
        same(attend(p, bias=constant), (out, lse + constant))

    @forty
    @given(problems(), st.floats(-9, 9))
    def test_the_output_is_linear_in_the_values(self, p, factor):
        more = p.rng.normal(size=p.v.shape)
        close(attend(p, v=factor * p.v + more)[0], factor * attend(p)[0] + attend(p, v=more)[0])

    @forty
    @given(problems())
    def test_the_scale_may_as_well_be_in_the_queries(self, p):
        same(attend(p, q=3 * p.q, scale=0.25), attend(p, scale=0.75))

    @forty
    @given(problems())
    def test_rows_of_weights_sum_to_one_or_to_zero(self, p):
        allowed = p.rng.random((p.n_heads, p.n_q, p.n_k)) < 0.3
        weights = attn_ref.attention(p.q, p.k, p.v, allowed=allowed, return_weights=True)[1]
        close(weights.sum(-1), np.broadcast_to(allowed.any(-1), weights.shape[:-1]))
        assert (weights >= 0).all()

    @forty
    @given(problems())
    def test_a_length_is_the_keys_cut_off(self, p):
        length = int(p.rng.integers(p.n_k + 1))
        same(attend(p, kv_len=length, causal=True), attend(p, k=p.k[:, :, :length], v=p.v[:, :, :length], causal=True))

    @forty
    @given(problems())
    def test_a_sink_is_one_more_key_that_holds_nothing(self, p):
        sinks = p.rng.normal(size=p.n_heads)
        none = np.zeros((p.batch, p.k.shape[1], 1, 1))
        with_key = attend(
            p,
            k=np.concatenate([p.k, none.repeat(p.k.shape[3], 3)], 2),
            v=np.concatenate([p.v, none.repeat(p.v.shape[3], 3)], 2),
            bias=np.where(np.arange(p.n_k + 1) < p.n_k, 0, sinks[:, None])[:, None],
        )
        same(attend(p, sinks=sinks), with_key)

    @forty
    @given(problems())
    def test_alibi_is_a_bias_that_grows_with_distance(self, p):
        slopes = p.rng.random(p.n_heads)
        distance = np.abs(np.arange(p.n_q)[:, None] + p.n_k - p.n_q - np.arange(p.n_k))
        same(attend(p, alibi=slopes), attend(p, bias=-slopes[:, None, None] * distance))


class TestParts:
    @forty
    @given(problems(), some_mask, st.integers(1, 4))
    def test_queries_in_chunks_give_what_all_together_give(self, p, mask, size):
        parts = [
            attend(p, q=p.q[:, :, i : i + size], q_offset=p.n_k - p.n_q + i, **mask) for i in range(0, p.n_q, size)
        ]
        if parts:
            same([np.concatenate(x, 2) for x in zip(*parts, strict=True)], attend(p, **mask))

    @forty
    @given(problems(), some_mask, st.lists(st.integers(0, 9), max_size=3), st.randoms(use_true_random=False))
    def test_keys_in_parts_merge_to_the_whole_in_any_order(self, p, mask, cuts, random):
        ends = sorted({0, p.n_k, *(cut for cut in cuts if cut < p.n_k)})
        parts = [
            attend(p, k=p.k[:, :, i:j], v=p.v[:, :, i:j], q_offset=p.n_k - p.n_q - i, **mask)
            for i, j in [*pairwise(ends), (0, 0)]  # no keys at all are neutral
        ]
        random.shuffle(parts)
        same(reduce(lambda one, two: attn_ref.merge_partials(*one, *two), parts), attend(p, **mask))

    @forty
    @given(st.integers(0, 999))
    def test_merging_is_commutative_and_associative(self, seed):
        rng = np.random.default_rng(seed)
        lse = np.where(rng.random((3, 5)) < 0.3, -np.inf, 400 * rng.normal(size=(3, 5)))
        a, b, c = ((np.where(np.isneginf(m), 0, rng.normal(size=(2, 5))).T, m) for m in lse)
        merge = attn_ref.merge_partials
        same(merge(*a, *b), merge(*b, *a))
        same(merge(*merge(*a, *b), *c), merge(*a, *merge(*b, *c)))

    @forty
    @given(problems(), some_mask, st.integers(1, 5), st.integers(1, 5))
    def test_any_tiling_gives_what_the_whole_matrix_gives(self, p, mask, block_q, block_k):
        options = {"sinks": p.rng.normal(size=p.n_heads), "softcap": 20.0, **mask}
        same(attn_ref.tiled_attention(p.q, p.k, p.v, block_q, block_k, **options), attend(p, **options))

    @forty
    @given(problems(), some_mask, st.integers(1, 5), st.integers(1, 5))
    def test_any_tiling_of_the_gradients_gives_the_whole(self, p, mask, block_q, block_k):
        options = {"sinks": p.rng.normal(size=p.n_heads), "softcap": 20.0, **mask}
        out, lse = attend(p, **options)
        grad_out = p.rng.normal(size=out.shape)
        tiled = attn_ref.tiled_backward(p.q, p.k, p.v, out, lse, grad_out, block_q, block_k, **options)
        for ours, whole in zip(tiled, attn_ref.attention_backward(p.q, p.k, p.v, grad_out, **options), strict=True):
            np.testing.assert_allclose(ours, whole, rtol=1e-10, atol=1e-10 * np.abs(whole).max(initial=1))

    @forty
    @given(problems(), st.integers(1, 4))
    def test_one_block_after_another_updates_to_the_softmax(self, p, size):
        scores, values = p.rng.normal(size=(p.n_q, p.n_k)), p.v[0, 0]
        scores[:, : p.n_k // 2] -= 1e3 * (p.rng.random((p.n_q, 1)) < 0.5)  # a late block may hold all that counts
        scores[p.rng.random(scores.shape) < 0.3] = -np.inf
        state = np.full(p.n_q, -np.inf), np.zeros(p.n_q), np.zeros((p.n_q, values.shape[1]))
        for i in range(0, p.n_k, size):
            state = attn_ref.online_update(*state, scores[:, i : i + size], values[i : i + size])
        row_max, row_sum, acc = state
        close(acc / np.where(row_sum > 0, row_sum, 1)[:, None], attn_ref.softmax(scores) @ values)
        seen = row_sum > 0
        close(
            (row_max + np.log(row_sum, where=seen, out=np.zeros_like(row_sum)))[seen], attn_ref.logsumexp(scores)[seen]
        )

    @forty
    @given(problems(), some_mask)
    def test_a_batch_entry_does_not_depend_on_the_others(self, p, mask):
        lengths = p.rng.integers(p.n_k + 1, size=p.batch)
        together = attend(p, kv_len=lengths, **mask)
        for b, length in enumerate(lengths):
            alone = attend(p, q=p.q[b], k=p.k[b], v=p.v[b], kv_len=int(length), **mask)
            same(alone, (together[0][b], together[1][b]))

    @forty
    @given(problems(), some_mask)
    def test_grouped_heads_are_repeated_heads(self, p, mask):
        k, v = (x.repeat(p.n_heads // x.shape[1], axis=1) for x in (p.k, p.v))
        same(attend(p, k=k, v=v, **mask), attend(p, **mask))


class TestMasks:
    @forty
    @given(problems(), st.integers(1, 9), st.integers(1, 9))
    def test_two_windows_compose_to_the_smaller(self, p, one, other):
        both = attend(p, window=one, allowed=attn_ref.sliding_window_mask(p.n_q, p.n_k, other))
        same(both, attend(p, window=min(one, other)))

    @forty
    @given(problems(), st.integers(1, 9))
    def test_a_whole_window_is_a_pair_without_a_future(self, p, window):
        same(attend(p, window=window), attend(p, window=(window - 1, 0)))
        same(attend(p, window=window), attend(p, window=(window - 1, None), causal=True))

    @forty
    @given(problems(), st.integers(-9, 12))
    def test_causal_with_an_offset_is_the_mask_drawn_out(self, p, offset):
        allowed = np.arange(p.n_k) <= offset + np.arange(p.n_q)[:, None]
        same(attend(p, causal=True, q_offset=offset), attend(p, allowed=allowed))

    @forty
    @given(problems())
    def test_causal_is_the_causal_mask(self, p):
        same(attend(p, causal=True), attend(p, allowed=attn_ref.causal_mask(p.n_q, p.n_k)))

    @forty
    @given(problems())
    def test_padding_is_a_length(self, p):
        lengths = p.rng.integers(p.n_k + 1, size=p.batch)
        allowed = attn_ref.padding_mask(lengths, p.n_k)[:, None]
        same(attend(p, kv_len=lengths), attend(p, allowed=allowed))

    @forty
    @given(problems(least_keys=1), st.integers(0, 8))
    def test_the_future_has_no_effect(self, p, cut):
        cut = cut % p.n_k
        k, v = p.k.copy(), p.v.copy()
        k[:, :, cut:], v[:, :, cut:] = 1e6, -1e6
        seen = slice(0, max(cut - (p.n_k - p.n_q), 0))  # the queries that stand before the cut
        changed, before = attend(p, k=k, v=v, causal=True), attend(p, causal=True)
        for one, other in zip(changed, before, strict=True):
            np.testing.assert_array_equal(one[:, :, seen], other[:, :, seen])


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("by", ["kv_len", "allowed", "bias"])
class TestWhatIsHidden:
    """NaN and inf in masked keys and values, as uninitialised padding holds them, have no effect at all."""

    @settings(forty, max_examples=15)
    @given(p=problems(least_keys=1), softcap=st.sampled_from([None, 5.0]))
    def test_does_not_leak_forward(self, p, softcap, by, nothing):
        options, poisoned = hidden(p, by, nothing, softcap)
        clean = attn_ref.attention(p.q, p.k, p.v, **options, return_lse=True, return_weights=True)
        dirty = attn_ref.attention(p.q, *poisoned, **options, return_lse=True, return_weights=True)
        for one, other in zip(clean, dirty, strict=True):
            np.testing.assert_array_equal(one, other)
        close(attn_ref.tiled_attention(p.q, *poisoned, 2, 3, **options)[0], clean[0])

    @settings(forty, max_examples=15)
    @given(p=problems(least_keys=1), softcap=st.sampled_from([None, 5.0]))
    def test_does_not_leak_backward(self, p, softcap, by, nothing):
        options, poisoned = hidden(p, by, nothing, softcap)
        grad_out = p.rng.normal(size=(*p.q.shape[:3], p.v.shape[3]))
        clean = attn_ref.attention_backward(p.q, p.k, p.v, grad_out, **options)
        dirty = attn_ref.attention_backward(p.q, *poisoned, grad_out, **options)
        for one, other in zip(clean, dirty, strict=True):
            np.testing.assert_array_equal(one, other)

    @settings(forty, max_examples=15)
    @given(p=problems(least_keys=1), softcap=st.sampled_from([None, 5.0]))
    def test_does_not_leak_into_torchs_gradients(self, p, softcap, by, nothing):
        torch = pytest.importorskip("torch", reason="these are torch's gradients")
        options, poisoned = hidden(p, by, nothing, softcap)

        def gradients(k, v):
            leaves = [torch.tensor(x, requires_grad=True) for x in (p.q, k, v)]
            (attn_ref.attention(*leaves, **options) ** 2).sum().backward()
            return [leaf.grad.numpy() for leaf in leaves]

        for one, other in zip(gradients(p.k, p.v), gradients(*poisoned), strict=True):
            np.testing.assert_array_equal(one, other)


def hidden(p, by, nothing, softcap):
    """Options that hide the last keys from every query, and k and v with NaN or inf where they are hidden."""
    cut = int(p.rng.integers(p.n_k))
    seen = np.arange(p.n_k) < cut
    options = {"kv_len": cut, "allowed": seen[None], "bias": np.where(seen, 0.0, -np.inf)}
    k, v = p.k.copy(), p.v.copy()
    k[:, :, cut:], v[:, :, cut:] = NOTHING[nothing], NOTHING[nothing]
    return {by: options[by], "softcap": softcap}, (k, v)


@pytest.mark.parametrize("value", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("where", ["k", "v"])
def test_what_is_seen_spoils_the_rows_that_see_it_and_no_other(where, value):
    rng = np.random.default_rng(3)
    q, k, v = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    {"k": k, "v": v}[where][4] = value
    for attend in (attn_ref.attention, attn_ref.tiled_attention):
        out = attend(q, k, v, causal=True)
        out = out if attend is attn_ref.attention else out[0]
        assert np.isfinite(out[:2]).all()  # queries 0 and 1 stand at keys 2 and 3
        assert not np.isfinite(out[2:]).any()


SIZES = list(product(range(5), range(6)))


class TestMaskFunctions:
    """Each against its definition, one pair of query and key after the other."""

    def drawn_out(self, n_q, n_k, rule):
        return np.array([[rule(i + n_k - n_q, j) for j in range(n_k)] for i in range(n_q)], bool).reshape(n_q, n_k)

    @pytest.mark.parametrize(("n_q", "n_k"), SIZES)
    def test_causal(self, n_q, n_k):
        np.testing.assert_array_equal(attn_ref.causal_mask(n_q, n_k), self.drawn_out(n_q, n_k, lambda p, j: j <= p))

    @pytest.mark.parametrize(("n_q", "n_k"), SIZES)
    def test_sliding_window(self, n_q, n_k):
        for window in (1, 2, 3, 9):
            wanted = self.drawn_out(n_q, n_k, lambda p, j, w=window: p - w + 1 <= j <= p)
            np.testing.assert_array_equal(attn_ref.sliding_window_mask(n_q, n_k, window), wanted)

    @pytest.mark.parametrize("n", range(6))
    def test_prefix(self, n):
        for prefix in range(n + 1):
            wanted = self.drawn_out(n, n, lambda p, j, prefix=prefix: j <= p or j < prefix)
            np.testing.assert_array_equal(attn_ref.prefix_mask(n, prefix), wanted)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("n", range(5))
    def test_padding(self, n, side):
        for lengths in ([], [n], [0, n], list(range(n + 1))):
            wanted = np.zeros((len(lengths), 1, n), bool)
            for b, length in enumerate(lengths):
                for j in range(n):
                    wanted[b, 0, j] = j < length if side == "right" else j >= n - length
            np.testing.assert_array_equal(attn_ref.padding_mask(lengths, n, side), wanted)

    @pytest.mark.parametrize("runs", [[], [1], [3], [1, 1], [2, 1, 3], [1, 4]])
    def test_document(self, runs):
        ids = [100 - 7 * name for name, length in enumerate(runs) for _ in range(length)]  # ids need not rise
        wanted = self.drawn_out(len(ids), len(ids), lambda p, j: ids[p] == ids[j] and j <= p)
        np.testing.assert_array_equal(attn_ref.document_mask(ids), wanted)
