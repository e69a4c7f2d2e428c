"""Promises of attn_ref that someone once broke: each test is a way in which an honest user was misled."""

import os
import subprocess
import sys

import numpy as np
import pytest

import attn_ref
from attn_ref import attention, attention_backward

rng = np.random.default_rng(2017)
LARGE = (1, 1, 2048, 8)  # 2²² scores: the default is a kernel


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="about tensors")


@pytest.fixture
def numba():
    return pytest.importorskip("numba", reason="about the numba kernels")


def test_a_second_derivative_through_a_kernel_is_refused(torch, numba):
    x = torch.randn(1, 1, 40, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(attention(x, x, x, backend="numba").sum(), x, create_graph=True)


@pytest.mark.parametrize("option", ["allowed", "bias"])
def test_a_mask_written_to_before_the_way_back_is_noticed(torch, numba, option):
    x = torch.randn(1, 1, 40, 8, requires_grad=True)
    mask = torch.ones(40, 40, dtype=torch.bool) if option == "allowed" else torch.zeros(40, 40)
    out = attention(x, x.detach(), x.detach(), backend="numba", **{option: mask})
    mask.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_the_largest_negative_numbers_as_a_mask_give_the_average(numba):
    q, bias = rng.normal(size=LARGE).astype(np.float32), np.full((2048, 2048), np.finfo(np.float32).min)
    with pytest.raises(ValueError, match="finite numbers below -1e38"):
        attention(q, q, q, bias=bias, backend="numba")
    plain = attention(q, q, q, bias=bias, backend="numpy")
    np.testing.assert_array_equal(attention(q, q, q, bias=bias), plain)
    np.testing.assert_allclose(plain[0, 0, 0], q[0, 0].mean(0), atol=1e-5)


@pytest.mark.parametrize("n_q", [3, 20])
def test_a_nan_in_the_bias_is_not_taken_for_a_mask(numba, n_q):
    bias = np.zeros((n_q, 20))
    bias[:, 5] = np.nan
    assert np.isnan(attention(np.ones((1, 1, n_q, 4)), *[np.ones((1, 1, 20, 4))] * 2, bias=bias, backend="numba")).all()


def test_a_bias_of_minus_infinity_hides_nan(torch):
    x = np.ones((1, 1, 20, 4), np.float32)
    spoilt, bias = x.copy(), np.zeros((20, 20), np.float32)
    spoilt[:, :, 1], bias[:, 1] = np.nan, -np.inf
    for backend in (name for name, state in attn_ref.backends().items() if state == "ready"):
        q, k, b = (x, spoilt, bias) if backend in ("numpy", "numba") else map(torch.from_numpy, (x, spoilt, bias))
        np.testing.assert_allclose(
            np.asarray(attention(q, k, k, bias=b, backend=backend)), 1, rtol=1e-5, err_msg=backend
        )


@pytest.mark.parametrize("backend", ["numba", "triton"])
def test_slopes_and_sinks_may_be_strided(torch, backend):
    if attn_ref.backends()[backend] != "ready":
        pytest.skip(attn_ref.backends()[backend])
    q = torch.randn(1, 4, 20, 8)
    numbers = torch.rand(8)[::2]
    ours = attention(q, q, q, alibi=numbers, sinks=numbers, backend=backend)
    assert (ours - attention(q, q, q, alibi=numbers, sinks=numbers, backend="torch")).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["numba", "triton"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_by_name_take_what_forward_gave(torch, backend, dtype):
    if attn_ref.backends()[backend] != "ready":
        pytest.skip(attn_ref.backends()[backend])
    x = torch.randn(9, 4).to(getattr(torch, dtype))
    out, lse = attention(x, x, x, return_lse=True, backend=backend)
    found = attention_backward(x, x, x, out, out=out, lse=lse, backend=backend)
    wanted = attention_backward(x, x, x, out, backend="torch")
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == x.dtype and (ours - theirs).abs().max() < 0.01


def test_many_half_precision_shares_sum_to_one():
    assert abs(attn_ref.softmax(np.zeros(70_000, np.float16)).astype(float).sum() - 1) < 0.02
    assert abs(float(attn_ref.logsumexp(np.zeros(70_000, np.float16))) - np.log(70_000)) < 0.01


def test_alibi_keeps_the_precision_of_its_inputs():
    q = rng.normal(size=(1, 2, 5, 4)).astype(np.float32)
    results = attention(q, q, q, alibi=[0.5, 0.1], return_lse=True, return_weights=True, backend="numpy")
    assert {x.dtype for x in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["scale", "softcap"])
def test_a_learned_number_is_not_silently_a_constant(torch, name):
    q = torch.ones(3, 4)
    with pytest.raises(TypeError, match=f"{name} requires a gradient"):
        attention(q, q, q, **{name: torch.tensor(2.0, requires_grad=True)})


def test_a_kernel_by_name_does_not_drop_gradients(torch, numba):
    q = torch.ones(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="q requires a gradient"):
        attn_ref.flash_forward(q, q, q)
    with torch.no_grad():
        assert attn_ref.flash_forward(q, q, q)[0].shape == (3, 4)


def test_what_a_kernel_cannot_hold_goes_to_the_plain_version(numba):
    q = np.ones(LARGE, np.longdouble)
    assert attention(q, q, q).dtype == np.longdouble
    with pytest.raises(ValueError, match="q_offset must lie within"):
        attention(*[np.ones((1, 1, 9, 4))] * 3, q_offset=2**31, causal=True, backend="numba")


def test_without_compiling_there_is_no_numba_backend(numba):
    code = "import attn_ref; print(attn_ref.backends()['numba'])"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True
    )
    assert b"NUMBA_DISABLE_JIT is set" in run.stdout


class TestLayers:
    def test_a_cache_with_another_window_is_refused(self, torch):
        layer, cache = attn_ref.MultiHeadAttention(8, 2), attn_ref.RollingKVCache(3)
        with pytest.raises(ValueError, match="keeps a window of 3 but this layer's is None"):
            layer(torch.zeros(1, 2, 8), causal=True, cache=cache)

    def test_two_layers_do_not_share_a_cache(self, torch):
        model = attn_ref.TinyLM(11, 12, 2, 2)
        with pytest.raises(ValueError, match="one cache twice"):
            model(torch.zeros(1, 3, dtype=torch.long), caches=[attn_ref.KVCache()] * 2)

    def test_dropout_leaks_no_hidden_nan(self, torch):
        layer, x = attn_ref.MultiHeadAttention(8, 2, dropout=0.1).train(), torch.zeros(1, 3, 8)
        x[:, 2] = float("nan")
        allowed = torch.tensor([True, True, False]).expand(3, 3)
        assert layer(x, allowed=allowed)[:, :2].isfinite().all()
        with pytest.raises(ValueError, match="dropout needs all weights"):
            layer(x, backend="numba")
