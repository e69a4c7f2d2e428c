"""Positions, longer contexts and heads, against hand numbers, their own promises, torch and transformers."""

import doctest
import math
import sys

import numpy as np
import pytest

from attn_ref.attention import attention
from attn_ref.context import interpolate_positions, ntk_base, yarn_frequencies, yarn_temperature
from attn_ref.heads import merge_heads, split_heads
from attn_ref.masks import causal_mask
from attn_ref.positions import alibi_bias, alibi_slopes, rope, rotary_frequencies, sinusoidal
from attn_ref.softmax import softmax

PAIRINGS = ("half", "interleaved")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def torch_or_skip():
    return pytest.importorskip("torch", reason="compares with torch")


def rope_utils():
    torch_or_skip()
    pytest.importorskip("transformers", reason="compares with transformers")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def frequencies(kind, d, base, length, seq_len=None, **options):
        parameters = {"rope_type": kind, "rope_theta": base, **options}
        if kind == "yarn":
            parameters["original_max_position_embeddings"] = length
        config = LlamaConfig(
            hidden_size=2 * d, num_attention_heads=2, max_position_embeddings=length, rope_parameters=parameters
        )
        found, scaling = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=seq_len)
        return found.numpy(), scaling

    return frequencies


class TestSinusoidal:
    def test_hand_numbers(self):
        expected = [math.sin(3), math.cos(3), math.sin(0.3), math.cos(0.3), math.sin(0.03), math.cos(0.03)]
        np.testing.assert_allclose(sinusoidal(5, 8)[3, :6], expected, atol=1e-15)  # 10000^(2i/8) is 1, 10, 100, 1000

    def test_similarity_of_two_codes_depends_on_distance_alone(self):
        codes, step = sinusoidal(37, 16), 7
        similarity = codes @ codes.T
        np.testing.assert_allclose(np.diag(similarity, step), similarity[0, step], atol=1e-10)

    def test_no_positions_give_an_empty_table(self):
        assert sinusoidal(0, 6).shape == (0, 6)


class TestRope:
    def test_hand_numbers_of_both_pairings(self):
        x = np.array([[1.0, 0.0, 0.0, 1.0]])
        c, s = np.cos(2 * np.array([1, 0.01])), np.sin(2 * np.array([1, 0.01]))
        np.testing.assert_allclose(rope(x, [2]), [[c[0], -s[1], s[0], c[1]]])  # pairs (1, 0) and (0, 1)
        np.testing.assert_allclose(rope(x, [2], pairing="interleaved"), [[c[0], s[0], -s[1], c[1]]])

    def test_equals_a_loop_of_two_by_two_rotations(self, rng):
        x, positions = rng.normal(size=(2, 3, 7, 6)), rng.integers(0, 500, 7)
        expected = np.empty_like(x)
        for n, p in enumerate(positions):
            for i in range(3):
                angle = p * 100.0 ** (-2 * i / 6)
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                expected[:, :, n, [i, i + 3]] = x[:, :, n, [i, i + 3]] @ turn.T
        np.testing.assert_allclose(rope(x, positions, base=100), expected, atol=1e-10)

    @pytest.mark.parametrize("pairing", PAIRINGS)
    def test_scores_depend_on_distance_alone(self, rng, pairing):
        q, k = rng.normal(size=(37, 16)), rng.normal(size=(53, 16))
        p, j = np.arange(37), np.arange(53)
        near = rope(q, p, pairing=pairing) @ rope(k, j, pairing=pairing).T
        far = rope(q, p + 1234.5, pairing=pairing) @ rope(k, j + 1234.5, pairing=pairing).T
        np.testing.assert_allclose(near, far, atol=1e-10)
        assert abs(near - q @ k.T).max() > 1  # and on the distance they do depend

    @pytest.mark.parametrize("pairing", PAIRINGS)
    def test_lengths_are_kept_and_turning_back_restores(self, rng, pairing):
        x, p = rng.normal(size=(2, 6, 37, 16)), rng.uniform(0, 10_000, 37)
        turned = rope(x, p, pairing=pairing)
        np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-10)
        np.testing.assert_allclose(rope(turned, -p, pairing=pairing), x, atol=1e-10)
        np.testing.assert_array_equal(rope(x, np.zeros(37), pairing=pairing), x)

    def test_a_permutation_turns_one_pairing_into_the_other(self, rng):
        x, p = rng.normal(size=(5, 16)), np.arange(5)
        order = np.arange(16).reshape(2, 8).T.ravel()  # 0 8 1 9 2 10 ...
        np.testing.assert_allclose(rope(x[:, order], p, pairing="interleaved"), rope(x, p)[:, order], atol=1e-12)

    def test_each_batch_entry_may_have_its_own_positions(self, rng):
        x, p = rng.normal(size=(2, 2, 7, 6)), rng.integers(0, 50, (2, 7))  # as many heads as entries: a trap
        np.testing.assert_array_equal(rope(x, p), np.stack([rope(x[0], p[0]), rope(x[1], p[1])]))

    def test_the_input_may_be_a_view_and_stays_as_it_was(self, rng):
        x = rng.normal(size=(2, 7, 3, 16)).swapaxes(1, 2)
        before, p = x.copy(), np.arange(7)
        np.testing.assert_array_equal(rope(x, p), rope(before, p))
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(p, np.arange(7))

    def test_float32_loses_only_its_own_rounding_however_far_the_position(self, rng):
        x, p = rng.normal(size=(9, 16)).astype(np.float32), 100_000 + np.arange(9)
        error = abs(rope(x, p) - rope(x.astype(np.float64), p)).max()
        assert rope(x, p).dtype == np.float32
        assert (
            error < 3 * np.finfo(np.float32).eps * abs(x).max()
        )  # cos, sin, two products and a sum, each rounded once

    def test_float16_is_rounded_once_at_the_end(self, rng):
        x, p = rng.normal(size=(99, 16)).astype(np.float16), np.arange(99)
        exact = rope(x.astype(np.float64), p)
        assert rope(x, p).dtype == np.float16
        half_a_step = np.finfo(np.float16).eps / 2 * abs(exact)
        assert (abs(rope(x, p) - exact) <= half_a_step + 1e-6).all()  # 1e-6: what float32 loses before

    @pytest.mark.parametrize("pairing", PAIRINGS)
    def test_torch_gives_the_same_in_its_own_dtype_with_gradients(self, rng, pairing):
        torch = torch_or_skip()
        x, p = rng.normal(size=(2, 3, 7, 6)), rng.integers(0, 500, (2, 7))
        tensor = torch.tensor(x, requires_grad=True)
        for positions in (p, torch.tensor(p), p.tolist()):
            turned = rope(tensor, positions, pairing=pairing)
            np.testing.assert_allclose(turned.detach().numpy(), rope(x, p, pairing=pairing), atol=1e-12)
        grad = rng.normal(size=x.shape)
        (turned * torch.tensor(grad)).sum().backward()
        np.testing.assert_allclose(tensor.grad, rope(grad, -p, pairing=pairing), atol=1e-12)  # a rotation's transpose
        assert rope(tensor.bfloat16(), p).dtype == torch.bfloat16

    def test_half_equals_llama(self, rng):
        torch = torch_or_skip()
        pytest.importorskip("transformers", reason="compares with transformers")
        from transformers.models.llama import modeling_llama as llama

        q, k = torch.tensor(rng.normal(size=(2, 6, 7, 16))), torch.tensor(rng.normal(size=(2, 3, 7, 16)))
        p = torch.tensor(rng.integers(0, 99, (2, 7)))
        angles = p[..., None] * torch.tensor(rotary_frequencies(16, 500.0))
        angles = torch.cat([angles, angles], -1)
        theirs = llama.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
        torch.testing.assert_close((rope(q, p, 500.0), rope(k, p, 500.0)), theirs, rtol=0, atol=1e-12)

    def test_interleaved_equals_gpt_j(self, rng):
        torch = torch_or_skip()
        pytest.importorskip("transformers", reason="compares with transformers")
        from transformers.models.gptj import modeling_gptj as gptj

        x, p = torch.tensor(rng.normal(size=(2, 7, 3, 16))), np.arange(4, 11)
        table = gptj.create_sinusoidal_positions(11, 16)[None, 4:].double()
        sin, cos = table.chunk(2, -1)
        theirs = gptj.apply_rotary_pos_emb(x, sin, cos).transpose(1, 2)
        ours = rope(x.transpose(1, 2), p, pairing="interleaved")
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # their table is float32, angles up to 10


class TestAlibi:
    def test_slopes_of_powers_of_two_and_between(self):
        np.testing.assert_array_equal(alibi_slopes(8), 2.0 ** -np.arange(1, 9))
        np.testing.assert_array_equal(alibi_slopes(1), [2.0**-8])
        np.testing.assert_allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
        assert all(len(alibi_slopes(h)) == h for h in range(1, 40))

    def test_bias_is_attentions_own_alibi(self, rng):
        q, k, v = rng.normal(size=(2, 6, 37, 16)), rng.normal(size=(2, 3, 53, 16)), rng.normal(size=(2, 3, 53, 24))
        q[0, 1, 5] *= 300
        for causal in (False, True):
            with_bias = attention(q, k, v, causal=causal, bias=alibi_bias(6, 37, 53))
            np.testing.assert_allclose(attention(q, k, v, causal=causal, alibi=alibi_slopes(6)), with_bias, atol=1e-10)

    def test_bias_counts_distance_from_the_last_keys(self):
        bias = alibi_bias(2, 3, 5) / alibi_slopes(2)[:, None, None]
        np.testing.assert_array_equal(bias[1], [[-2, -1, 0, -1, -2], [-3, -2, -1, 0, -1], [-4, -3, -2, -1, 0]])
        assert alibi_bias(2, 5, 3).shape == (2, 5, 3)

    @pytest.mark.parametrize("n_heads", [1, 4, 6, 12, 20])
    def test_weights_equal_blooms(self, rng, n_heads):
        torch = torch_or_skip()
        pytest.importorskip("transformers", reason="compares with transformers")
        from transformers.models.bloom.modeling_bloom import build_alibi_tensor

        theirs = build_alibi_tensor(torch.ones(1, 53, dtype=torch.int64), n_heads, torch.float32).numpy()
        scores = np.where(causal_mask(37, 53), rng.normal(size=(n_heads, 37, 53)), -np.inf)
        ours = softmax(scores + alibi_bias(n_heads, 37, 53))
        np.testing.assert_allclose(ours, softmax(scores + theirs), atol=53 * 1e-6)  # slope · j in float32, a row shift


class TestLongerContexts:
    def test_linear_interpolation_equals_transformers_and_slower_frequencies(self, rng):
        theirs, _ = rope_utils()("linear", 16, 10_000.0, 64, factor=4.0)
        np.testing.assert_allclose(rotary_frequencies(16) / 4, theirs, rtol=1e-6)
        x = rng.normal(size=(7, 16))
        squeezed = rope(x, interpolate_positions(np.arange(7), 4))
        np.testing.assert_allclose(rope(x, np.arange(7), frequencies=rotary_frequencies(16) / 4), squeezed, atol=1e-12)

    def test_ntk_slows_the_last_pair_by_the_factor_and_the_first_not_at_all(self):
        change = rotary_frequencies(16, ntk_base(500, 16, 8)) / rotary_frequencies(16, 500)
        np.testing.assert_allclose(change[[0, -1]], [1, 1 / 8])
        assert (np.diff(change) < 0).all()

    def test_ntk_equals_transformers_dynamic(self):
        theirs, _ = rope_utils()("dynamic", 16, 10_000.0, 64, seq_len=192, factor=2.0)
        stretch = 2.0 * 192 / 64 - (2.0 - 1)  # what their growing schedule asks for at this length
        np.testing.assert_allclose(rotary_frequencies(16, ntk_base(10_000, 16, stretch)), theirs, rtol=1e-5)

    @pytest.mark.parametrize(
        ("d", "base", "factor", "length", "betas"),
        [
            (128, 10_000.0, 16.0, 4096, {}),
            (64, 500_000.0, 8.0, 8192, {}),
            (128, 10_000.0, 4.0, 32768, {"beta_fast": 24.0, "beta_slow": 2.0}),
            (16, 10_000.0, 1.0, 64, {}),
            (6, 100.0, 3.0, 50, {}),
        ],
        ids=["llama-64k", "large base", "own betas", "factor 1", "small"],
    )
    def test_yarn_equals_transformers(self, d, base, factor, length, betas):
        theirs, scaling = rope_utils()("yarn", d, base, length, factor=factor, **betas)
        ours = yarn_frequencies(d, base, factor=factor, original_length=length, **betas)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert yarn_temperature(factor) == pytest.approx(scaling, rel=1e-12)

    def test_yarn_keeps_fast_pairs_and_slows_slow_ones(self):
        ours, plain = yarn_frequencies(128, factor=16, original_length=4096), rotary_frequencies(128)
        turns = 4096 * plain / (2 * np.pi)
        np.testing.assert_array_equal(ours[turns > 40], plain[turns > 40])
        np.testing.assert_allclose(ours[turns < 0.8], plain[turns < 0.8] / 16)
        assert yarn_temperature(16) == pytest.approx(1 + 0.1 * math.log(16))

    def test_interpolation_accepts_tensors(self):
        torch = torch_or_skip()
        squeezed = interpolate_positions(torch.arange(4), 4)
        assert isinstance(squeezed, torch.Tensor) and squeezed.tolist() == [0, 0.25, 0.5, 0.75]


class TestHeads:
    @pytest.mark.parametrize("lead", [(), (2,), (2, 5)], ids=["one text", "batch", "two axes"])
    def test_head_h_is_slice_h_of_the_width(self, rng, lead):
        x = rng.normal(size=(*lead, 7, 12))
        heads = split_heads(x, 3)
        assert heads.shape == (*lead, 3, 7, 4)
        for h in range(3):
            np.testing.assert_array_equal(heads[..., h, :, :], x[..., 4 * h : 4 * h + 4])
        np.testing.assert_array_equal(merge_heads(heads), x)

    def test_views_are_welcome(self, rng):
        x = rng.normal(size=(7, 12, 2)).transpose(2, 0, 1)
        np.testing.assert_array_equal(merge_heads(split_heads(x, 4)), x)
        np.testing.assert_array_equal(merge_heads(np.ascontiguousarray(split_heads(x, 4))), x)

    def test_torch_gives_the_same(self, rng):
        torch = torch_or_skip()
        x = rng.normal(size=(2, 7, 12))
        for tensor in (torch.tensor(x), torch.tensor(x.transpose(2, 0, 1)).permute(1, 2, 0)):
            np.testing.assert_array_equal(split_heads(tensor, 3).numpy(), split_heads(x, 3))
            assert torch.equal(merge_heads(split_heads(tensor, 3)), tensor)


X = np.ones((2, 3, 5, 4))
YARN = dict(factor=4, original_length=64)
WRONG = {
    sinusoidal: [
        (lambda f: f(5, 3), "d must be even.*got 3"),
        (lambda f: f(5, 0), "d must be at least 2"),
        (lambda f: f(-1, 4), "n must be at least 0, got -1"),
        (lambda f: f(5.0, 4), "n must be a whole number, got float"),
        (lambda f: f(5, 4.0), "d must be a whole number, got float"),
        (lambda f: f(True, 4), "n must be a whole number, got bool"),
        (lambda f: f("5", 4), "n must be a whole number, got str"),
        (lambda f: f(X, 4), "n must be a whole number, got ndarray of shape"),
    ],
    rotary_frequencies: [
        (lambda f: f(3), "d must be even"),
        (lambda f: f(-2), "d must be at least 2"),
        (lambda f: f(4.0), "d must be a whole number"),
        (lambda f: f(None), "d must be a whole number, got NoneType"),
        (lambda f: f(4, 0), "base must be greater than 0"),
        (lambda f: f(4, -10.0), "base must be greater than 0, got -10"),
        (lambda f: f(4, "10"), "base must be a number, got str"),
        (lambda f: f(4, np.inf), "base must be finite"),
    ],
    rope: [
        (lambda f: f(np.ones(4), [0]), r"x needs a shape \(\.\.\., n, d\)"),
        (lambda f: f(np.ones((5, 3)), range(5)), "d must be even"),
        (lambda f: f(X, range(4)), r"n=5 rows, shape \(5,\) or \(2, 5\), got \(4,\)"),
        (lambda f: f(X, np.ones((3, 5))), r"shape \(5,\) or \(2, 5\), got \(3, 5\)"),
        (lambda f: f(X[0], np.ones((3, 5))), r"shape \(5,\), got \(3, 5\)"),
        (lambda f: f(X, 7), r"got \(\); x has shape \(2, 3, 5, 4\)"),
        (lambda f: f(X, range(5), pairing="pairs"), "pairing must be one of 'half', 'interleaved', got str 'pairs'"),
        (lambda f: f(X, range(5), -1.0), "base must be greater than 0"),
        (lambda f: f(X, range(5), frequencies=[1.0]), r"one number for each pair, shape \(2,\), got \(1,\)"),
        (lambda f: f(X, ["a"] * 5), "positions must hold real numbers"),
        (lambda f: f(X * 1j, range(5)), "x must hold real numbers, got dtype complex128"),
    ],
    alibi_slopes: [
        (lambda f: f(0), "n_heads must be at least 1, got 0"),
        (lambda f: f(-4), "n_heads must be at least 1"),
        (lambda f: f(4.0), "n_heads must be a whole number, got float 4.0"),
        (lambda f: f(True), "n_heads must be a whole number, got bool"),
        (lambda f: f("4"), "n_heads must be a whole number, got str"),
        (lambda f: f(None), "n_heads must be a whole number, got NoneType"),
        (lambda f: f([4]), "n_heads must be a whole number, got list"),
        (lambda f: f(np.ones(4)), "n_heads must be a whole number, got ndarray"),
    ],
    alibi_bias: [
        (lambda f: f(0, 2, 3), "n_heads must be at least 1"),
        (lambda f: f(2.0, 2, 3), "n_heads must be a whole number"),
        (lambda f: f(2, -1, 3), "n_q must be at least 0"),
        (lambda f: f(2, 2, -3), "n_k must be at least 0"),
        (lambda f: f(2, 2.5, 3), "n_q must be a whole number"),
        (lambda f: f(2, 2, None), "n_k must be a whole number"),
        (lambda f: f(2, False, 3), "n_q must be a whole number, got bool"),
        (lambda f: f(2, 2, (3,)), "n_k must be a whole number, got tuple"),
    ],
    interpolate_positions: [
        (lambda f: f([0, 1], 0.25), "factor must be at least 1, got 0.25.*inverted"),
        (lambda f: f([0, 1], 0), "factor must be greater than 0"),
        (lambda f: f([0, 1], -2), "factor must be greater than 0, got -2"),
        (lambda f: f([0, 1], np.nan), "factor must be finite"),
        (lambda f: f([0, 1], "4"), "factor must be a number, got str"),
        (lambda f: f([0, 1], None), "factor must be a number, got NoneType"),
        (lambda f: f(["a"], 4), "positions must hold real numbers"),
        (lambda f: f(np.ones(2) * 1j, 4), "positions must hold real numbers, got dtype complex128"),
    ],
    ntk_base: [
        (lambda f: f(1e4, 2, 4), "d must be at least 4"),
        (lambda f: f(1e4, 5, 4), "d must be even"),
        (lambda f: f(1e4, 8.0, 4), "d must be a whole number"),
        (lambda f: f(0, 8, 4), "base must be greater than 0"),
        (lambda f: f("1e4", 8, 4), "base must be a number"),
        (lambda f: f(1e4, 8, 0.5), "factor must be at least 1.*inverted"),
        (lambda f: f(1e4, 8, np.inf), "factor must be finite"),
        (lambda f: f(1e4, 8, [4, 5]), "factor must be a number, got list"),
    ],
    yarn_frequencies: [
        (lambda f: f(7, **YARN), "d must be even"),
        (lambda f: f(8.0, **YARN), "d must be a whole number"),
        (lambda f: f(8, -1, **YARN), "base must be greater than 0"),
        (lambda f: f(8, 1, **YARN), "base must be greater than 1, or no pair is slower"),
        (lambda f: f(8, factor=0.25, original_length=64), "factor must be at least 1, got 0.25"),
        (lambda f: f(8, factor=4, original_length=0), "original_length must be at least 1"),
        (lambda f: f(8, factor=4, original_length=64.5), "original_length must be a whole number"),
        (lambda f: f(8, **YARN, beta_fast=1, beta_slow=32), "beta_fast must be greater than beta_slow.*swapped"),
        (lambda f: f(8, **YARN, beta_slow=0), "beta_slow must be greater than 0"),
    ],
    yarn_temperature: [
        (lambda f: f(0.5), "factor must be at least 1, got 0.5"),
        (lambda f: f(0), "factor must be greater than 0"),
        (lambda f: f(-1), "factor must be greater than 0"),
        (lambda f: f(np.nan), "factor must be finite"),
        (lambda f: f("4"), "factor must be a number, got str '4'"),
        (lambda f: f(None), "factor must be a number"),
        (lambda f: f(True), "factor must be a number, got bool True"),
        (lambda f: f([1, 2]), "factor must be a number, got list"),
    ],
    split_heads: [
        (lambda f: f(X, 3), "3 heads cannot share a width of 4 evenly"),
        (lambda f: f(X, 8), "8 heads cannot share a width of 4"),
        (lambda f: f(X, 0), "n_heads must be at least 1"),
        (lambda f: f(X, 2.0), "n_heads must be a whole number, got float"),
        (lambda f: f(X, None), "n_heads must be a whole number, got NoneType"),
        (lambda f: f(np.ones(4), 2), r"x needs a shape \(\.\.\., n, H·d\), got \(4,\)"),
        (lambda f: f("abcd", 2), "x must hold real numbers"),
        (lambda f: f(X * 1j, 2), "x must hold real numbers, got dtype complex128"),
    ],
    merge_heads: [
        (lambda f: f(np.ones(4)), r"x needs a shape \(\.\.\., H, n, d\), got \(4,\)"),
        (lambda f: f(np.ones((5, 4))), r"x needs a shape \(\.\.\., H, n, d\), got \(5, 4\)"),
        (lambda f: f(1.0), r"x needs a shape .*, got \(\)"),
        (lambda f: f([]), r"x needs a shape .*, got \(0,\)"),
        (lambda f: f(None), "x must be an array, got None"),
        (lambda f: f("abc"), "x must hold real numbers"),
        (lambda f: f([["a", "b"]]), "x must hold real numbers, got dtype <U1"),
        (lambda f: f(X * 1j), "x must hold real numbers, got dtype complex128"),
    ],
}


@pytest.mark.parametrize(
    ("function", "call", "message"),
    [
        pytest.param(function, *case, id=f"{function.__name__}-{i}")
        for function, cases in WRONG.items()
        for i, case in enumerate(cases)
    ],
)
def test_an_error_names_the_argument(function, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(function)


def test_a_tensor_of_positions_is_not_mixed_with_arrays():
    torch = torch_or_skip()
    with pytest.raises(TypeError, match="positions is a torch tensor but the other inputs are NumPy"):
        rope(X, torch.arange(5))


@pytest.mark.parametrize("name", ["positions", "context", "heads"])
def test_the_examples_in_docstrings_hold(name):
    result = doctest.testmod(sys.modules[f"attn_ref.{name}"])
    assert result.attempted and not result.failed
