"""Packed and left-padded attention against separate calls, one for each sequence."""

import doctest
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_ref.attention import attention
from attn_ref.masks import document_mask
from attn_ref.packed import attention_left_padded, attention_packed, pack, unpack

HEADS, KV_HEADS, D, D_V = 6, 3, 16, 24
OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"causal": True, "window": (4, 2)},
    "the rest": {"scale": 0.3, "softcap": 4.0, "sinks": np.arange(6.0) - 3, "alibi": 2.0 ** -np.arange(6)},
}
options_table = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
libraries = pytest.mark.parametrize("library", ["numpy", "torch"])
close = dict(rtol=1e-10, atol=1e-10)


def sequences(lengths_q, lengths_k=None, library="numpy", seed=0):
    """Lists of q, k, v, one sequence each; the first query of the longest sequence has scores in the hundreds."""
    rng = np.random.default_rng(seed)
    lengths_k = lengths_q if lengths_k is None else lengths_k
    sizes = (HEADS, D, lengths_q), (KV_HEADS, D, lengths_k), (KV_HEADS, D_V, lengths_k)
    q, k, v = ([rng.normal(size=(heads, n, d)) for n in lengths] for heads, d, lengths in sizes)
    q[int(np.argmax(lengths_q))][:, :1] *= 300
    return (q, k, v) if library == "numpy" else tuple(map(tensors, (q, k, v)))


def tensors(arrays):
    torch = pytest.importorskip("torch", reason="packing tensors needs torch")
    return [torch.tensor(x) for x in arrays]


def left_padded(arrays, n, fill):
    """(H, n_i, d) arrays as one (B, H, n, d), with `fill` before each."""
    return np.stack([np.pad(x, ((0, 0), (n - x.shape[1], 0), (0, 0)), constant_values=fill) for x in arrays])


class TestPacking:
    @libraries
    def test_unpack_undoes_pack(self, library):
        q, _, _ = sequences([5, 0, 17, 1], library=library)
        packed, cu_seqlens = pack(q)
        assert packed.shape == (HEADS, 23, D) and cu_seqlens.tolist() == [0, 5, 5, 22, 23]
        assert type(packed) is type(cu_seqlens) is type(q[0])
        for one, other in zip(unpack(packed, cu_seqlens), q, strict=True):
            np.testing.assert_array_equal(one, other)

    @libraries
    @options_table
    def test_packed_equals_separate_calls(self, library, options):
        q, k, v = sequences([5, 37, 1, 13], [11, 53, 7, 4], library)
        (packed_q, cu_q), (packed_k, cu_k), (packed_v, _) = pack(q), pack(k), pack(v)
        out, lse = attention_packed(packed_q, packed_k, packed_v, cu_q, cu_k, return_lse=True, **options)
        separate = [attention(*one, return_lse=True, **options) for one in zip(q, k, v, strict=True)]
        np.testing.assert_allclose(out, np.concatenate([one for one, _ in separate], 1), **close)
        np.testing.assert_allclose(lse, np.concatenate([one for _, one in separate], 1), **close)
        assert type(out) is type(packed_q)

    @settings(max_examples=40, deadline=None, database=None)
    @given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 99))
    def test_packed_equals_one_call_with_a_document_mask(self, lengths, seed):
        (q, cu_seqlens), (k, _), (v, _) = map(pack, sequences(lengths, seed=seed))
        allowed = document_mask(np.repeat(np.arange(len(lengths)), lengths))
        out = attention_packed(q, k, v, cu_seqlens, causal=True)
        np.testing.assert_allclose(out, attention(q, k, v, allowed=allowed), **close)

    def test_empty_sequences_and_sequences_without_keys_give_zero(self):
        (q, cu_q), (k, cu_k), (v, _) = map(pack, sequences([3, 0, 2], [0, 4, 5]))
        out, lse = attention_packed(q, k, v, cu_q, cu_k, return_lse=True)
        assert (out[:, :3] == 0).all() and (lse[:, :3] == -np.inf).all()
        np.testing.assert_allclose(out[:, 3:], attention(q[:, 3:], k[:, 4:], v[:, 4:]), **close)

    def test_gradients_equal_those_of_the_separate_calls(self):
        torch = pytest.importorskip("torch", reason="gradients need torch")
        lists = sequences([5, 37, 1], [11, 53, 7], "torch")
        leaves = [x.requires_grad_() for one in lists for x in one]
        (q, cu_q), (k, cu_k), (v, _) = map(pack, lists)
        upstream = torch.randn(HEADS, 43, D_V, dtype=q.dtype, generator=torch.Generator().manual_seed(1))
        together = torch.autograd.grad((attention_packed(q, k, v, cu_q, cu_k, causal=True) * upstream).sum(), leaves)
        out = torch.concatenate([attention(*one, causal=True) for one in zip(*lists, strict=True)], 1)
        for one, other in zip(together, torch.autograd.grad((out * upstream).sum(), leaves), strict=True):
            torch.testing.assert_close(one, other, **close)

    def test_nan_in_one_sequence_stays_there(self):
        q, k, v = sequences([5, 9, 4])
        k[1][:], v[1][:] = np.nan, np.inf
        (q, cu_seqlens), (k, _), (v, _) = map(pack, (q, k, v))
        out = attention_packed(q, k, v, cu_seqlens)
        assert np.isfinite(out[:, :5]).all() and np.isnan(out[:, 5:14]).all() and np.isfinite(out[:, 14:]).all()

    def test_flash_attentions_layout_needs_one_swap_and_inputs_stay_as_they_were(self):
        (q, cu_seqlens), (k, _), (v, _) = map(pack, sequences([5, 9, 4]))
        theirs = [x.swapaxes(0, 1).copy() for x in (q, k, v)]  # (total, heads, d)
        before = [x.copy() for x in theirs]
        out = attention_packed(*(x.swapaxes(0, 1) for x in theirs), cu_seqlens.astype(np.int32))
        np.testing.assert_allclose(out, attention_packed(q, k, v, cu_seqlens), **close)
        for one, other in zip(theirs, before, strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_the_dtype_is_kept(self, dtype):
        (q, cu_seqlens), (k, _), (v, _) = (pack([x.astype(dtype) for x in one]) for one in sequences([5, 9]))
        assert attention_packed(q, k, v, cu_seqlens).dtype == dtype


class TestLeftPadding:
    lengths = [13, 1, 37, 0]

    @libraries
    @options_table
    @pytest.mark.parametrize("n_q", [37, 20, 1])
    def test_each_row_equals_its_text_alone_whatever_padding_holds(self, library, options, n_q):
        lists = sequences(self.lengths)
        q, k, v = (left_padded(x, 37, fill) for x, fill in zip(lists, (np.nan, np.inf, np.nan), strict=True))
        q = q[:, :, -n_q:]
        arguments = (q, k, v, self.lengths) if library == "numpy" else (*tensors((q, k, v)), self.lengths)
        out, lse, weights = attention_left_padded(*arguments, return_lse=True, return_weights=True, **options)
        for b, length in enumerate(self.lengths):
            rows = min(length, n_q)
            alone = attention(
                *(x[b][:, x[b].shape[1] - m :] for x, m in zip(lists, (rows, length, length), strict=True)),
                return_lse=True, return_weights=True, **options,
            )  # fmt: skip
            text = slice(n_q - rows, None)
            np.testing.assert_allclose(out[b, :, text], alone[0], **close)
            np.testing.assert_allclose(lse[b, :, text], alone[1], **close)
            np.testing.assert_allclose(weights[b, :, text, 37 - length :], alone[2], **close)
            padding = slice(0, n_q - rows)
            assert (out[b, :, padding] == 0).all() and (lse[b, :, padding] == -np.inf).all()
            assert (weights[b, :, padding] == 0).all() and (weights[b, ..., : 37 - length] == 0).all()
        assert type(out) is type(arguments[0])

    def test_the_plain_call_returns_the_output_alone_and_leaves_inputs_as_they_were(self):
        arrays = [left_padded(x, 37, np.nan) for x in sequences(self.lengths)]
        before = [x.copy() for x in arrays]
        out = attention_left_padded(*arrays, self.lengths, causal=True)
        assert out.shape == (4, HEADS, 37, D_V) and np.isfinite(out).all()
        for one, other in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_gradients_equal_those_of_the_separate_calls_and_padding_gets_none(self):
        torch = pytest.importorskip("torch", reason="gradients need torch")
        lists = sequences(self.lengths)
        padded = [x.requires_grad_() for x in tensors([left_padded(x, 37, np.nan) for x in lists])]
        upstream = torch.randn(4, HEADS, 37, D_V, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        out = attention_left_padded(*padded, torch.tensor(self.lengths), causal=True)
        upstream[0, :, :24] = torch.nan  # what a loss says about padding reaches nothing either
        together = torch.autograd.grad(out, padded, upstream)
        for b, length in enumerate(self.lengths):
            leaves = [x[b].requires_grad_() for x in map(tensors, lists)]
            alone = attention(*leaves, causal=True)
            separate = torch.autograd.grad(alone, leaves, upstream[b, :, 37 - length :])
            for one, other in zip(together, separate, strict=True):
                torch.testing.assert_close(one[b, :, 37 - length :], other, **close)
                assert (one[b, :, : 37 - length] == 0).all()

    def test_it_continues_a_batch_of_texts_of_different_lengths(self):
        q, k, v = sequences([13, 1, 37, 4])
        batch = [left_padded(x, 37, 0.0) for x in (q, k, v)]
        last = attention_left_padded(batch[0][:, :, -1:], batch[1], batch[2], [13, 1, 37, 4], causal=True)
        for b in range(4):
            np.testing.assert_allclose(last[b], attention(q[b], k[b], v[b], causal=True)[:, -1:], **close)


X, Y = np.ones((2, 5, 4)), np.ones((3, 2, 5, 4))


def tensor_of(x):
    return tensors([x])[0]


def packed(*arguments, **options):
    return lambda: attention_packed(*arguments, **options)


def padded(*arguments, **options):
    return lambda: attention_left_padded(*arguments, **options)


ERRORS = {
    "pack: an array": (lambda: pack(Y), "sequences must be a list .* packed or padded already"),
    "pack: none": (lambda: pack([]), "at least one"),
    "pack: a generator": (lambda: pack(x for x in [X]), "sequences must be a list"),
    "pack: two axes": (lambda: pack([X, X[0]]), r"sequences\[1\] must be \(heads, n, d\), got shape \(5, 4\)"),
    "pack: a batch": (lambda: pack([Y]), r"sequences\[0\] must be .* leaves no batch axis"),
    "pack: d": (lambda: pack([X, X[..., :3]]), r"sequences\[1\] has shape \(2, 5, 3\) but sequences\[0\] \(2, 5, 4\)"),
    "pack: heads": (lambda: pack([X, X[:1]]), "only the middle axis may differ"),
    "pack: dtypes": (lambda: pack([X, X.astype("f4")]), r"sequences\[1\] is a NumPy array of float32 but"),
    "pack: libraries": (lambda: pack([X, tensor_of(X)]), r"sequences\[1\] is a torch tensor of .* but sequences\[0\]"),
    "pack: text": (lambda: pack(["text"]), r"sequences\[0\] must hold real numbers"),
    "unpack: lengths": (lambda: unpack(X, [3, 2]), r"cu_seqlens must be \(0, n_1.* lengths, not sums"),
    "unpack: too short": (lambda: unpack(X, [0, 3]), "cu_seqlens ends at 3 but packed has 5 positions"),
    "unpack: only a zero": (lambda: unpack(X, [0]), r"cu_seqlens must be \(0, n_1"),
    "unpack: falling": (lambda: unpack(X, [0, 4, 3, 5]), "cu_seqlens must not decrease"),
    "unpack: halves": (lambda: unpack(X, [0, 2.5, 5]), "cu_seqlens must hold whole numbers"),
    "unpack: a matrix": (lambda: unpack(X, [[0, 5]]), "cu_seqlens must have 1 axis"),
    "unpack: a batch": (lambda: unpack(Y, [0, 5]), "packed must be"),
    "unpack: nothing": (lambda: unpack(None, [0, 5]), "packed must be an array, got None"),
    "packed: offset": (packed(X, X, X, [0, 5], q_offset=1), "attention_packed takes no q_offset"),
    "packed: kv_len": (packed(X, X, X, [0, 5], kv_len=1), "takes no kv_len: cu_seqlens_k says"),
    "packed: a mask": (packed(X, X, X, [0, 5], allowed=None), "takes no allowed: cu_seqlens already"),
    "packed: a bias": (packed(X, X, X, [0, 5], bias=0.0), "takes no bias"),
    "packed: weights": (packed(X, X, X, [0, 5], return_weights=True), "takes no return_weights"),
    "packed: a batch": (packed(Y, Y, Y, [0, 5]), r"q must be \(heads, n, d\), got shape \(3, 2, 5, 4\)"),
    "packed: total first": (packed(X.swapaxes(0, 1), X, X, [0, 5]), "cu_seqlens_q ends at 5 but q has 2 .*FlashAtt"),
    "packed: keys": (packed(X, X[:, :4], X[:, :4], [0, 5]), "cu_seqlens_q ends at 5 but k has 4"),
    "packed: values": (packed(X, X, X[:, :4], [0, 5]), "k holds 5 keys but v holds 4"),
    "packed: counts": (packed(X, X, X, [0, 5], [0, 2, 5]), "tells of 1 sequences but cu_seqlens_k of 2"),
    "packed: padded lengths": (packed(X, X, X, [0, 5], [3, 2]), "cu_seqlens_k must be .* lengths, not sums"),
    "packed: d": (packed(X[..., :3], X, X, [0, 5]), "k has d=4 but q has d=3"),
    "padded: offset": (padded(Y, Y, Y, [5, 5, 5], q_offset=1), "attention_left_padded takes no q_offset"),
    "padded: kv_len": (padded(Y, Y, Y, [5, 5, 5], kv_len=1), "takes no kv_len: that is padding on the right"),
    "padded: a mask": (padded(Y, Y, Y, [5, 5, 5], allowed=None), "takes no allowed: lengths says"),
    "padded: three axes": (padded(Y[0], Y, Y, [5, 5, 5]), r"q must be \(batch, heads, n, d\)"),
    "padded: batches": (padded(Y, Y[:2], Y[:2], [5, 5, 5]), "k must be .* batch as in q"),
    "padded: one short": (padded(Y, Y, Y, [5, 5]), "lengths must hold one number for each of the 3 rows, got 2"),
    "padded: too long": (padded(Y, Y, Y, [5, 6, 5]), r"lengths must lie in 0\.\.5"),
    "padded: a number": (padded(Y, Y, Y, 5), "lengths must have 1 axis"),
    "padded: shares": (padded(Y, Y, Y, [0.5, 1.0, 1.0]), "lengths must hold whole numbers"),
    "padded: more queries": (padded(Y, Y[:, :, :4], Y[:, :, :4], [4, 4, 4]), "q has 5 positions but k only 4"),
    "padded: d": (padded(Y[..., :3], Y, Y, [5, 5, 5]), "k has d=4 but q has d=3"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_call_names_the_argument(case):
    call, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(sys.modules["attn_ref.packed"])
    assert result.attempted and not result.failed
