"""attn_ref against torch's own attention: SDPA, nn.MultiheadAttention's functional form, FlexAttention and gradcheck.

Where torch's words differ from ours:

    torch                                   attn_ref
    is_causal: query 0 stands at key 0      causal=True, q_offset=0
    SDPA's boolean mask, True = may attend  allowed, the same
    nn.MultiheadAttention's masks           allowed, inverted: there True forbids
    add_zero_attn                           sinks of 0: a key with score 0 and value 0
    score_mod and mask_mod, element-wise    softcap, alibi, bias; causal, window, allowed
"""

import shutil

import numpy as np
import pytest

import attn_ref
from tests.conformance.offered import skipped, why_not

torch = pytest.importorskip("torch", reason="torch is not installed (pip install -c pins.txt torch)")

from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel  # noqa: E402

BATCH, HEADS, KV_HEADS, D, D_V = 2, 6, 3, 16, 24
BACKENDS = [pytest.param(name, marks=skipped(why_not(name))) for name in ("torch", "numba", "triton")]
SIZES = [(37, 53), (53, 37)]


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(n_q, n_k, dtype=torch.float64):
    """q, k and v; one query has scores near ±1000, and none of the three lies contiguous in memory."""
    shapes = (BATCH, n_q, HEADS, D), (BATCH, n_k, KV_HEADS, D), (BATCH, n_k, KV_HEADS, D_V)
    q, k, v = (normal(*shape, seed=seed).swapaxes(1, 2) for seed, shape in enumerate(shapes))
    q[:, :, 5] *= 400
    return [x.to(dtype) for x in (q, k, v)]


def some_keys(n_q, n_k):
    """A mask (BATCH, 1, n_q, n_k) that allows two keys of three, and to query 3 none."""
    allowed = torch.rand(BATCH, 1, n_q, n_k, generator=torch.Generator().manual_seed(8)) < 2 / 3
    allowed[:, :, 3] = False
    return allowed


def some_bias(n_q, n_k):
    return 3 * normal(HEADS, n_q, n_k, seed=9)


# SDPA's options, and ours that say the same.
SDPA = {
    "plain": lambda n_q, n_k: ({}, {}),
    "scale": lambda n_q, n_k: ({"scale": 0.7}, {"scale": 0.7}),
    "causal": lambda n_q, n_k: ({"is_causal": True}, {"causal": True, "q_offset": 0}),
    "mask": lambda n_q, n_k: ({"attn_mask": some_keys(n_q, n_k)}, {"allowed": some_keys(n_q, n_k)}),
    "bias": lambda n_q, n_k: ({"attn_mask": some_bias(n_q, n_k)}, {"bias": some_bias(n_q, n_k)}),
}


def as_dtype(options, dtype):
    """The options with every array of numbers in a dtype."""
    return {name: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for name, x in options.items()}


def by_sdpa(q, k, v, options):
    with sdpa_kernel(SDPBackend.MATH):  # the plain formula, step by step
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **as_dtype(options, q.dtype))


def by_us(q, k, v, options, backend="torch"):
    return attn_ref.attention(q, k, v, **as_dtype(options, q.dtype), backend=backend)


def error(x, exact):
    return (x.double() - exact).abs().max().item()


@pytest.mark.parametrize(("n_q", "n_k"), SIZES)
@pytest.mark.parametrize("case", SDPA)
def test_sdpa_is_equalled_in_float64(case, n_q, n_k):
    sdpa, ours = SDPA[case](n_q, n_k)
    q, k, v = inputs(n_q, n_k)
    torch.testing.assert_close(by_us(q, k, v, ours), by_sdpa(q, k, v, sdpa), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SDPA)
def test_single_precision_errs_at_most_twice_as_much_as_sdpa(case, backend):
    sdpa, ours = (as_dtype(options, torch.float32) for options in SDPA[case](37, 53))
    q, k, v = inputs(37, 53, dtype=torch.float32)
    with torch.no_grad():
        exact = by_sdpa(q.double(), k.double(), v.double(), sdpa)
        result, plain = by_us(q, k, v, ours, backend), by_sdpa(q, k, v, sdpa)
    assert result.dtype == torch.float32
    assert 0 < error(result, exact) <= 2 * error(plain, exact)


def gradients(attend, tensors, options):
    """Those of a weighted sum of the output, for q, k, v and for the bias, where there is one."""
    tensors = [x.clone().requires_grad_() for x in tensors]
    options = {name: x.clone() if torch.is_tensor(x) else x for name, x in options.items()}
    learned = [x.requires_grad_() for x in options.values() if torch.is_tensor(x) and x.is_floating_point()]
    out = attend(*tensors, options)
    return torch.autograd.grad((out * normal(*out.shape, seed=4)).sum(), tensors + learned)


@pytest.mark.parametrize(("n_q", "n_k"), SIZES)
@pytest.mark.parametrize("case", SDPA)
def test_gradients_are_those_of_sdpa(case, n_q, n_k):
    sdpa, ours = SDPA[case](n_q, n_k)
    results = gradients(by_us, inputs(n_q, n_k), ours), gradients(by_sdpa, inputs(n_q, n_k), sdpa)
    assert len(results[0]) == (4 if case == "bias" else 3)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * other.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["plain", "scale", "causal", "mask"])  # the kernels have no gradient of a bias
def test_gradients_in_single_precision_err_at_most_twice_as_much_as_sdpas(case, backend):
    """Root mean squares, without the query whose scores are near ±1000.

    A kernel works its weights out anew from the log-sum-exp, which float32 holds to 6e-5 there, and so do torch's own:
    the gradient of v then errs by 1e-4 to 1e-3, theirs and ours, where the plain formula errs by 1e-6.
    """
    sdpa, ours = SDPA[case](37, 53)
    q, k, v = inputs(37, 53, dtype=torch.float32)
    q[:, :, 5] /= 400
    exact = gradients(by_sdpa, (q.double(), k.double(), v.double()), sdpa)
    plain = gradients(by_sdpa, (q, k, v), sdpa)
    results = gradients(lambda *inputs: by_us(*inputs, backend), (q, k, v), ours)
    for name, result, one, right in zip("qkv", results, plain, exact, strict=True):
        assert 0 < (result - right).square().mean() <= 2**2 * (one - right).square().mean(), name


# Finite differences: every option that is a number to learn, beside options that are not.
LEARNED = {"bias": (4, 5, 7), "sinks": (4,), "alibi": (4,)}
FIXED = {
    "plain": {},
    "causal, window, softcap": {"causal": True, "window": (3, None), "softcap": 1.5},
    "offset, length, scale": {"causal": True, "q_offset": 1, "kv_len": [6, 3], "scale": 0.8},
    "an empty row": {"allowed": torch.arange(5)[:, None] != 2},
}


@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize(
    "learned", [(), ("bias",), ("sinks",), ("alibi",), tuple(LEARNED)], ids=lambda x: "+".join(x) or "none"
)
def test_gradients_are_finite_differences(learned, fixed):
    def attend(q, k, v, *options):
        named = dict(zip(learned, options, strict=True)) | FIXED[fixed]
        out, lse = attn_ref.attention(q, k, v, **named, backend="torch", return_lse=True)
        return out, lse.where(lse > -torch.inf, 0)  # a difference of two -inf would be NaN

    shapes = [(2, 4, 5, 3), (2, 2, 7, 3), (2, 2, 7, 2), *(LEARNED[name] for name in learned)]
    tensors = [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(attend, tensors, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("zero_attn", [False, True], ids=["", "add_zero_attn"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_multi_head_attention_is_projections_around_ours(masked, zero_attn):
    n_q, n_k, width = 37, 53, HEADS * D
    query, memory = normal(n_q, BATCH, width, seed=1), normal(n_k, BATCH, width, seed=2)  # their batch comes second
    w_in, b_in = normal(3 * width, width, seed=3) / 6, normal(3 * width, seed=4)
    w_out, b_out = normal(width, width, seed=5), normal(width, seed=6)
    padding = torch.arange(n_k) >= torch.tensor([[n_k], [n_k - 9]])  # True = ignored
    future = torch.arange(n_k) > torch.arange(n_q)[:, None]  # True = ignored
    theirs, their_weights = F.multi_head_attention_forward(
        query, memory, memory, width, HEADS, w_in, b_in, None, None, zero_attn, 0.0, w_out, b_out,
        key_padding_mask=padding if masked else None, attn_mask=future if masked else None, average_attn_weights=False,
    )  # fmt: skip

    pieces = zip((query, memory, memory), w_in.chunk(3), b_in.chunk(3), strict=True)
    q, k, v = (F.linear(x, w, b).unflatten(-1, (HEADS, D)).permute(1, 2, 0, 3) for x, w, b in pieces)
    options = {"causal": True, "q_offset": 0, "allowed": ~padding[:, None, None]} if masked else {}
    if zero_attn:
        options["sinks"] = torch.zeros(HEADS, dtype=torch.float64)
    out, weights = attn_ref.attention(q, k, v, **options, return_weights=True)
    ours = F.linear(out.permute(2, 0, 1, 3).flatten(2), w_out, b_out)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights, their_weights[..., :n_k], rtol=1e-10, atol=1e-10)


# FlexAttention: a function of (score, b, h, i, j), one of (b, h, i, j), and our options that say the same.
OFFSET = 53 - 37  # of query 0 among the keys, where the last query stands at the last key
SLOPES = 2.0 ** -torch.arange(1.0, HEADS + 1)  # float32: compiled for a CPU, theirs misreads float64 without a word
DOCUMENTS = torch.tensor([7] * 11 + [3] * 2 + [9] * 23 + [1])
FLEX = {
    "causal": (None, lambda b, h, i, j: j <= i + OFFSET, {"causal": True}),
    "top-left causal": (None, lambda b, h, i, j: j <= i, {"causal": True, "q_offset": 0}),
    "window": (None, lambda b, h, i, j: (j <= i + OFFSET) & (j > i + OFFSET - 5), {"window": 5}),
    "two-sided window": (None, lambda b, h, i, j: (i - 4 <= j) & (j <= i + 2), {"window": (4, 2), "q_offset": 0}),
    "causal, two-sided window": (
        None, lambda b, h, i, j: (i - 4 <= j) & (j <= i), {"causal": True, "window": (4, 2), "q_offset": 0},
    ),
    "lengths": (None, lambda b, h, i, j: j < 40 - 9 * b, {"kv_len": [40, 31]}),
    "causal lengths": (  # of 31 keys, the last of 37 queries stands at the last, and the first six see none
        None, lambda b, h, i, j: (j < 40 - 9 * b) & (j <= i + 40 - 9 * b - 37), {"causal": True, "kv_len": [40, 31]},
    ),
    "empty rows": (None, lambda b, h, i, j: j < i - 8, {"window": (None, 0), "q_offset": -9}),
    "softcap": (lambda s, b, h, i, j: 2 * torch.tanh(s / 2), None, {"softcap": 2.0}),
    "ALiBi": (lambda s, b, h, i, j: s - SLOPES[h] * (i + OFFSET - j).abs(), None, {"alibi": SLOPES}),
    "all": (
        lambda s, b, h, i, j: 2 * torch.tanh(s / 2) - SLOPES[h] * (i + OFFSET - j).abs(),
        lambda b, h, i, j: (j <= i + OFFSET) & (j > i + OFFSET - 29),
        {"causal": True, "window": (28, None), "softcap": 2.0, "alibi": SLOPES},
    ),
}  # fmt: skip


def by_flex(q, k, v, score_mod, mask_mod):
    """FlexAttention's output and its log-sum-exp."""
    block = mask_mod and flex_attention.create_block_mask(mask_mod, BATCH, None, q.shape[2], k.shape[2], device="cpu")
    out, rest = flex_attention.flex_attention(
        q, k, v, score_mod=score_mod, block_mask=block, enable_gqa=True,
        return_aux=flex_attention.AuxRequest(lse=True),
    )  # fmt: skip
    return out, rest.lse


uncompiled = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@uncompiled
@pytest.mark.parametrize("case", FLEX)
def test_flex_attention_is_equalled(case):
    score_mod, mask_mod, options = FLEX[case]
    q, k, v = inputs(37, 53)
    theirs = by_flex(q, k, v, score_mod, mask_mod)
    ours = attn_ref.attention(q, k, v, **options, return_lse=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@uncompiled
def test_a_sink_is_one_more_key_in_flex_attentions_sum():
    """A sink multiplies the output by 1 - its share, which the log-sum-exp tells: share = sigmoid(sink - lse)."""
    q, k, v = inputs(37, 53)
    sinks = normal(HEADS, seed=5)
    out, lse = by_flex(q, k, v, None, None)
    theirs = out * torch.sigmoid(lse - sinks[:, None])[..., None], torch.logaddexp(lse, sinks[:, None])
    ours = attn_ref.attention(q, k, v, sinks=sinks, return_lse=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# Our masks, and a function of (b, h, i, j) that says the same.
MASKS = {
    "causal": (attn_ref.causal_mask(37, 53), lambda b, h, i, j: j <= i + 16),
    "window": (attn_ref.sliding_window_mask(37, 53, 5), lambda b, h, i, j: (j <= i + 16) & (j > i + 11)),
    "prefix": (attn_ref.prefix_mask(37, 11), lambda b, h, i, j: (j <= i) | (j < 11)),
    "documents": (attn_ref.document_mask(DOCUMENTS), lambda b, h, i, j: (DOCUMENTS[i] == DOCUMENTS[j]) & (j <= i)),
    "padding": (attn_ref.padding_mask([53, 44], 53)[:, None], lambda b, h, i, j: j < 53 - 9 * b),
    "left padding": (attn_ref.padding_mask([53, 44], 53, "left")[:, None], lambda b, h, i, j: j >= 9 * b),
}


@uncompiled
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_the_mask_mod_that_says_the_same(name):
    allowed, mask_mod = MASKS[name]
    n_k = allowed.shape[-1]
    mask = flex_attention.create_mask(mask_mod, BATCH, 1, 37, n_k, device="cpu")
    np.testing.assert_array_equal(np.broadcast_to(allowed, (BATCH, 1, 37, n_k)), mask)
    q, k, v = inputs(37, n_k)
    ours = attn_ref.attention(q, k, v, allowed=allowed, return_lse=True)
    torch.testing.assert_close(ours, by_flex(q, k, v, None, mask_mod), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@uncompiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it loads its compiler
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on the CPU; there is no c++")
def test_single_precision_errs_at_most_twice_as_much_as_compiled_flex_attention():
    *mods, options = FLEX["all"]
    q, k, v = inputs(37, 53, dtype=torch.float32)
    compiled = torch.compile(flex_attention.flex_attention)
    block = flex_attention.create_block_mask(mods[1], BATCH, None, 37, 53, device="cpu")
    with torch.no_grad():
        exact, _ = by_flex(q.double(), k.double(), v.double(), *mods)
        theirs = compiled(q, k, v, score_mod=mods[0], block_mask=block, enable_gqa=True)
        ours = by_us(q, k, v, options)
    assert 0 < error(ours, exact) <= 2 * error(theirs, exact) < 1e-4
