"""Multi-head attention, the block and the tiny language model, against torch and their own promises."""

import doctest
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model is made of torch modules")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from attn_ref.block import FeedForward, Norm, TransformerBlock, layer_norm, rms_norm  # noqa: E402
from attn_ref.cache import KVCache, RollingKVCache  # noqa: E402
from attn_ref.language import causal_lm_loss, generate  # noqa: E402
from attn_ref.multihead import MultiHeadAttention  # noqa: E402
from attn_ref.tiny_lm import TinyLM  # noqa: E402

POSITIONS = ("rope", "alibi", "sinusoidal", "learned", None)
close = torch.testing.assert_close


def seeded(seed=6):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=6):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def strong(module, seed=6):
    """Weights large enough that softmax is far from uniform; a test with nearly equal weights sees little."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return module


def tiny(**options):
    sizes = dict(vocab_size=11, d_model=12, n_layers=3, n_heads=6, n_kv_heads=3, d_ff=20)
    return TinyLM(**{**sizes, **options}).double()


def tokens(batch=2, n=9, seed=6):
    return torch.randint(0, 11, (batch, n), generator=seeded(seed))


class Concatenating:
    """The shortest cache there is."""

    def __init__(self):
        self.length, self.kept = 0, None

    def append(self, k, v):
        self.length += k.shape[2]
        self.kept = (
            (k, v) if self.kept is None else tuple(torch.cat(pair, 2) for pair in zip(self.kept, (k, v), strict=True))
        )
        return self.kept


class TestMultiHeadAttention:
    @pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "length first"])
    @pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
    @pytest.mark.parametrize("kind", ["self", "cross", "wide memory"])
    def test_from_torch_equals_the_module(self, kind, bias, batch_first):
        wide = dict(kdim=7, vdim=7) if kind == "wide memory" else {}
        module = strong(nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first, **wide)).eval()
        x = normal(2, 9, 12)
        memory = None if kind == "self" else normal(2, 13, 7 if wide else 12, seed=7)
        m = x if memory is None else memory
        hidden, padded = torch.rand(9, m.shape[1], generator=seeded()) > 0.7, torch.arange(m.shape[1]) >= m.shape[1] - 2
        hidden[:, 0] = False  # every row keeps a key: nn.MultiheadAttention gives NaN without one
        padded = torch.stack([padded, torch.zeros_like(padded)])
        x_t, m_t = (x, m) if batch_first else (x.swapaxes(0, 1), m.swapaxes(0, 1))
        theirs, their_weights = module(
            x_t, m_t, m_t, attn_mask=hidden, key_padding_mask=padded, average_attn_weights=False
        )
        ours, weights = MultiHeadAttention.from_torch(module)(
            x, memory, allowed=~hidden & ~padded[:, None], return_weights=True
        )
        close(ours, theirs if batch_first else theirs.swapaxes(0, 1), rtol=0, atol=1e-10)
        close(weights, their_weights, rtol=0, atol=1e-10)

    def test_from_torch_copies_and_keeps_dtype_and_mode(self):
        module = nn.MultiheadAttention(12, 3, dropout=0.25).half().eval()
        layer = MultiHeadAttention.from_torch(module)
        assert layer.w_q.weight.dtype == torch.float16 and not layer.training and layer.dropout == 0.25
        nn.init.zeros_(module.out_proj.weight)
        assert layer.w_o.weight.any()

    @pytest.mark.parametrize("causal", [False, True])
    def test_shared_heads_equal_repeated_heads_in_torchs_attention(self, causal):
        layer, x = strong(MultiHeadAttention(12, 6, 3)), normal(2, 9, 12)
        q, k, v = (w(x).unflatten(-1, (-1, 2)).swapaxes(1, 2) for w in (layer.w_q, layer.w_k, layer.w_v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal).swapaxes(1, 2).flatten(2)
        close(layer(x, causal=causal), layer.w_o(out), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("n_kv_heads", [6, 3, 1])
    @pytest.mark.parametrize("bias", [True, False])
    def test_parameters_count_two_square_matrices_and_two_narrow_ones(self, n_kv_heads, bias):
        layer = MultiHeadAttention(12, 6, n_kv_heads, bias=bias)
        kv_width = 2 * n_kv_heads
        expected = 2 * 12 * 12 + 2 * 12 * kv_width + bias * (2 * 12 + 2 * kv_width)
        assert sum(p.numel() for p in layer.parameters()) == expected

    def test_without_positions_shuffled_tokens_give_shuffled_outputs(self):
        layer, x, order = strong(MultiHeadAttention(12, 6, 3)), normal(2, 9, 12), torch.randperm(9, generator=seeded())
        close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-10)
        for told in (dict(rotary={}), dict(alibi=True), dict(window=2)):
            layer = strong(MultiHeadAttention(12, 6, 3, **told))
            assert (layer(x[:, order]) - layer(x)[:, order]).abs().max() > 0.01

    def test_three_axes_of_allowed_are_one_mask_for_each_batch_entry(self):
        layer, x = strong(MultiHeadAttention(12, 2)), normal(2, 9, 12)  # as many heads as entries: a trap
        allowed = torch.rand(2, 9, 9, generator=seeded()) > 0.4
        each = torch.cat([layer(x[b : b + 1], allowed=allowed[b]) for b in range(2)])
        close(layer(x, allowed=allowed), each, rtol=0, atol=1e-10)
        close(layer(x, allowed=allowed.numpy()), each, rtol=0, atol=1e-10)
        close(layer(x, allowed=allowed[:, None]), each, rtol=0, atol=1e-10)

    def test_dropout_acts_in_training_only_and_on_whole_weights(self):
        layer, x = strong(MultiHeadAttention(12, 6, 3, dropout=0.5)), normal(2, 9, 12)
        kept = layer.eval()(x)
        close(layer(x), kept, rtol=0, atol=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out, weights = layer.train()(x, return_weights=True)
        assert 0.3 < (weights == 0).double().mean() < 0.7
        whole = layer.eval()(x, return_weights=True)[1]
        close(weights, torch.where(weights == 0, 0, 2 * whole), rtol=0, atol=1e-10)  # the kept ones grow to make up
        v = layer.w_v(x).unflatten(-1, (3, 2)).swapaxes(1, 2).repeat_interleave(2, 1)
        close(out, layer.w_o((weights @ v).swapaxes(1, 2).flatten(2)), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("options", [dict(rotary={}), dict(alibi=True), dict(window=4), dict()], ids=str)
    @pytest.mark.parametrize("cache", [Concatenating, KVCache])
    @torch.no_grad()
    def test_any_chunks_with_a_cache_equal_the_whole(self, options, cache):
        layer, x, cache = strong(MultiHeadAttention(12, 6, 3, **options)), normal(2, 9, 12), cache()
        chunks = [layer(chunk, causal=True, cache=cache) for chunk in x.split([4, 1, 3, 1], 1)]
        close(torch.cat(chunks, 1), layer(x, causal=True), rtol=0, atol=1e-10)

    @torch.no_grad()
    def test_a_rolling_cache_of_the_windows_size_equals_the_whole(self):
        layer, x = strong(MultiHeadAttention(12, 6, 3, window=3, rotary={})), normal(2, 9, 12)
        cache = RollingKVCache(3)
        chunks = [layer(chunk, causal=True, cache=cache) for chunk in x.split([4, 1, 3, 1], 1)]
        close(torch.cat(chunks, 1), layer(x, causal=True), rtol=0, atol=1e-10)

    def test_rotations_know_distances_only(self):
        layer, x = strong(MultiHeadAttention(12, 6, 3, rotary={"pairing": "interleaved"})), normal(2, 9, 12)
        far = layer(x, positions=torch.arange(9) + 1000)
        close(layer(x), far, rtol=0, atol=1e-10)
        own = layer(x, positions=torch.stack([torch.arange(9), 3 * torch.arange(9)]))
        close(own[0], layer(x)[0], rtol=0, atol=1e-10)
        assert (own[1] - layer(x)[1]).abs().max() > 0.01

    def test_gradients_reach_every_parameter_and_pass_finite_differences(self):
        layer, x = strong(MultiHeadAttention(4, 2, 1, rotary={})), normal(1, 3, 4).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, *p: layer(x, causal=True), (x, *layer.parameters()))


class TestBlock:
    def test_norms_equal_torchs(self):
        x, gain, bias = normal(2, 9, 12) * 5 + 3, normal(12, seed=7), normal(12, seed=8)
        close(layer_norm(x, gain, bias, 0.1), F.layer_norm(x, (12,), gain, bias, 0.1), rtol=0, atol=1e-10)
        close(rms_norm(x, gain, 0.1), F.rms_norm(x, (12,), gain, 0.1), rtol=0, atol=1e-10)
        arrays = layer_norm(x.numpy(), gain.numpy(), bias.numpy()), rms_norm(x.numpy(), gain.numpy())
        tensors = layer_norm(x, gain, bias), rms_norm(x, gain)
        for array, tensor in zip(arrays, tensors, strict=True):
            assert isinstance(array, np.ndarray)
            np.testing.assert_allclose(array, tensor, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_norms_in_half_precision_are_computed_in_float32(self, dtype):
        x = (normal(2, 9, 120) * 300 + 500).to(dtype)  # squares beyond float16's largest number
        ones = torch.ones(120, dtype=dtype)
        for ours in (layer_norm(x, ones, 0 * ones), rms_norm(x, ones)):
            assert ours.dtype == dtype
        expected = F.layer_norm(x.double(), (120,))
        close(layer_norm(x, ones, 0 * ones).double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)

    def test_equals_torchs_pre_norm_encoder_layer(self):
        theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True)
        theirs = strong(theirs)
        block = TransformerBlock(12, 3, d_ff=20).double()
        block.attention = MultiHeadAttention.from_torch(theirs.self_attn)
        for ours, other in ((block.attention_norm, theirs.norm1), (block.ffn_norm, theirs.norm2)):
            ours.gain, ours.bias = other.weight, other.bias
        block.ffn.w_up, block.ffn.w_down = theirs.linear1, theirs.linear2
        x, hidden = normal(2, 9, 12), torch.ones(9, 9, dtype=torch.bool).triu(1)
        close(block(x, causal=True), theirs(x, src_mask=hidden), rtol=0, atol=1e-10)
        close(block(x, allowed=~hidden), theirs(x, src_mask=hidden), rtol=0, atol=1e-10)

    def test_swiglu_with_rms_norm_equals_a_composition_by_hand(self):
        block = strong(TransformerBlock(12, 6, 3, 20, norm="rms", activation="swiglu", bias=False))
        x = normal(2, 9, 12)
        mid = x + block.attention(F.rms_norm(x, (12,), block.attention_norm.gain, 1e-6))
        y = F.rms_norm(mid, (12,), block.ffn_norm.gain, 1e-6)
        gate, up, down = block.ffn.w_gate.weight, block.ffn.w_up.weight, block.ffn.w_down.weight
        close(block(x), mid + (F.silu(y @ gate.T) * (y @ up.T)) @ down.T, rtol=0, atol=1e-10)
        assert all(not name.endswith("bias") for name, _ in block.named_parameters())

    def test_swiglu_has_about_as_many_weights_as_gelu(self):
        sizes = [
            sum(p.numel() for p in FeedForward(96, activation=one, bias=False).parameters())
            for one in ("gelu", "swiglu")
        ]
        assert sizes == [8 * 96**2, 8 * 96**2]

    def test_weights_come_on_request(self):
        block, x = strong(TransformerBlock(12, 6, 3)), normal(2, 9, 12)
        out, weights = block(x, causal=True, return_weights=True)
        close(out, block(x, causal=True), rtol=0, atol=1e-10)
        assert weights.shape == (2, 6, 9, 9) and not weights.triu(1).any()
        close(weights.sum(-1), torch.ones(2, 6, 9, dtype=torch.float64))


class TestTinyLM:
    @pytest.mark.parametrize("position", POSITIONS)
    def test_the_future_has_no_effect(self, position):
        model, text = strong(tiny(position=position)), tokens()
        other = text.clone()
        other[:, 5:] = (other[:, 5:] + 1) % 11
        changed = (model(text) - model(other)).abs().amax((0, 2))
        assert (changed[:5] == 0).all() and (changed[5:] > 1e-6).all()

    @pytest.mark.parametrize("position", POSITIONS)
    @pytest.mark.parametrize("cache", [Concatenating, KVCache])
    @torch.no_grad()
    def test_prefill_and_decode_with_caches_equal_the_whole(self, position, cache):
        model, text, caches = strong(tiny(position=position)), tokens(), [cache() for _ in range(3)]
        logits = torch.cat([model(chunk, caches) for chunk in text.split([5, 1, 2, 1], 1)], 1)
        close(logits, model(text), rtol=0, atol=1e-10)

    def test_order_is_heard(self):
        text = torch.tensor([[1, 2, 3, 4]])
        for position in POSITIONS[:-1]:
            model = strong(tiny(position=position, n_layers=1))
            apart = (model(text)[0, -1] - model(text[:, [1, 0, 2, 3]])[0, -1]).abs().max()
            assert apart > 1e-3, position
        blind = strong(tiny(position=None, n_layers=1))
        close(blind(text)[0, -1], blind(text[:, [1, 0, 2, 3]])[0, -1], rtol=0, atol=1e-10)

    def test_a_window_bounds_the_reach_of_all_layers_together(self):
        model, text = strong(tiny(window=3, n_layers=2)), tokens()
        other = text.clone()
        other[:, 0] = (other[:, 0] + 1) % 11
        changed = (model(text) - model(other)).abs().amax((0, 2))
        assert (changed[:5] > 0).all() and (changed[5:] == 0).all()  # two layers reach 2 · (3 - 1) positions back

    def test_left_padding_with_own_positions_equals_the_text_alone(self):
        model, text = strong(tiny()), tokens(1, 6)
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), text], 1)
        allowed = (torch.arange(9) >= 3)[None, None]  # (B, 1, n)
        logits = model(padded, allowed=allowed, positions=(torch.arange(9) - 3).clamp(min=0)[None])
        close(logits[:, 3:], model(text), rtol=0, atol=1e-10)

    def test_given_positions_reach_every_rotation(self):
        model, text = strong(tiny()), tokens()
        apart = model(text, positions=3 * torch.arange(9))
        for block in model.blocks:
            block.attention.rotary = {"frequencies": [3.0]}
        close(apart, model(text), rtol=0, atol=1e-10)

    def test_weights_of_all_layers_come_on_request(self):
        model, text = tiny(), tokens()
        logits, weights = model(text, return_weights=True)
        assert weights.shape == (3, 2, 6, 9, 9)
        close(logits, model(text), rtol=0, atol=1e-10)
        close(weights.sum(-1), torch.ones(3, 2, 6, 9, dtype=torch.float64))

    def test_a_seed_fixes_the_model(self):
        one, same, other = (tiny(seed=seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not torch.equal(one["embed.weight"], other["embed.weight"])

    @pytest.mark.parametrize("position", POSITIONS)
    def test_an_untrained_model_guesses_evenly(self, position):
        model, text = TinyLM(200, 64, 4, 4, position=position), torch.randint(0, 200, (8, 40), generator=seeded())
        assert causal_lm_loss(model(text), text, pad_id=-1).item() == pytest.approx(np.log(200), rel=0.03)

    def test_tied_weights_are_one_matrix(self):
        count = [sum(p.numel() for p in tiny(tie_weights=tie).parameters()) for tie in (False, True)]
        assert count[0] - count[1] == 11 * 12

    def test_sinusoidal_and_learned_codes_are_added_to_the_scaled_embedding(self):
        for position in ("sinusoidal", "learned"):
            model, seen = tiny(position=position), []
            model.blocks[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            model(torch.tensor([[4, 4]]))
            plain = model.embed.weight[4] * 12**0.5
            if position == "sinusoidal":
                codes = [np.tile([0.0, 1.0], 6), np.ravel([(np.sin(f), np.cos(f)) for f in 1e4 ** (-np.arange(6) / 6)])]
                codes = torch.tensor(np.array(codes))
            else:
                codes = model.places.weight[:2] * 12**0.5
            close(seen[0][0], plain + codes, rtol=0, atol=1e-10)

    def test_it_learns_to_count(self):
        model = TinyLM(7, 24, 1, 2)
        text = (torch.arange(7)[:, None] + torch.arange(12)) % 7
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            loss = causal_lm_loss(model(text), text, pad_id=-1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss.item() < 0.1  # log 7 = 1.95 at first
        assert generate(model, torch.tensor([[3, 4]]), 6).tolist() == [[3, 4, 5, 6, 0, 1, 2, 3]]


class TestGenerate:
    @pytest.mark.parametrize("position", POSITIONS)
    @pytest.mark.parametrize("cache", [Concatenating, KVCache])
    def test_the_same_tokens_with_and_without_caches(self, position, cache):
        model, prompt = strong(tiny(position=position)), tokens(3, 5)
        plain = generate(model, prompt, 12)
        caches = [cache() for _ in range(3)]
        assert torch.equal(generate(model, prompt, 12, caches), plain)
        assert caches[0].length == 5 + 12 - 1
        assert torch.equal(plain[:, :5], prompt) and plain.shape == (3, 17)

    def test_paged_caches_too(self):
        paged = pytest.importorskip("attn_ref.paged", reason="the paged cache is a later file")
        model, prompt = strong(tiny()), tokens(1, 5)
        pools = [paged.BlockPool(6, 3, n_kv_heads=3, d=2, like=normal(1)) for _ in range(3)]
        caches = [paged.PagedKVCache(pool) for pool in pools]
        assert torch.equal(generate(model, prompt, 12, caches), generate(model, prompt, 12))

    def test_greedy_is_the_argmax_of_the_model(self):
        model = strong(tiny())
        text = generate(model, tokens(2, 4), 5)
        assert torch.equal(model(text[:, :-1])[:, 3:].argmax(-1), text[:, 4:])

    def test_draws_follow_the_generator_and_the_temperature(self):
        model, prompt = strong(tiny()), tokens(1, 4)
        draw = lambda seed, **t: generate(model, prompt, 12, generator=seeded(seed), **t)  # noqa: E731
        assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
        assert torch.equal(draw(1, temperature=1e-6), generate(model, prompt, 12))
        caches = [KVCache() for _ in range(3)]
        assert torch.equal(generate(model, prompt, 12, caches, generator=seeded(1)), draw(1))

    def test_frequencies_of_draws_are_the_shares(self):
        logits = torch.tensor([0.0, np.log(2), np.log(5)], dtype=torch.float64)
        many = generate(lambda text: logits.expand(*text.shape, 3), torch.zeros(8000, 1).long(), 1, generator=seeded())
        shares = torch.bincount(many[:, 1]) / 8000
        close(shares, torch.tensor([1, 2, 5]) / 8, rtol=0, atol=5 * 0.5 / 8000**0.5)  # five standard deviations

    def test_dropout_rests_and_comes_back(self):
        model, modes = tiny(dropout=0.5).train(), []
        model.blocks[1].attention.register_forward_pre_hook(lambda module, _: modes.append(module.training))
        generate(model, tokens(), 5)
        assert modes == [False] * 5
        with pytest.raises(ValueError, match="must lie in"):
            generate(model, tokens() + 20, 5)
        assert model.training and model.blocks[0].attention.training


class TestLoss:
    def test_equals_a_loop_over_the_targets_that_count(self):
        logits, text = normal(2, 9, 11), tokens()
        text[0, 6:] = text[1, 3] = 4
        losses = [
            -logits[b, t].log_softmax(-1)[text[b, t + 1]] for b in range(2) for t in range(8) if text[b, t + 1] != 4
        ]
        close(causal_lm_loss(logits, text, pad_id=4), torch.stack(losses).mean(), rtol=0, atol=1e-10)
        assert len(losses) < 16

    def test_no_target_costs_nothing_and_gives_no_nan(self):
        logits = normal(2, 9, 11).requires_grad_()
        loss = causal_lm_loss(logits, torch.full((2, 9), 4), pad_id=4)
        loss.backward()
        assert loss == 0 and (logits.grad == 0).all()
        assert causal_lm_loss(logits[:, :1], tokens(2, 1), pad_id=0) == 0


MHA, X = MultiHeadAttention, torch.zeros(2, 5, 12)
TEXT = torch.zeros(2, 5, dtype=torch.int64)
LOGITS = torch.zeros(2, 5, 11)


def lm(**options):
    return TinyLM(**{**dict(vocab_size=11, d_model=12, n_layers=2, n_heads=6), **options})


WRONG = {
    "MultiHeadAttention": [
        (lambda: MHA(12, 5), "d_model=12 must be a multiple of n_heads=5"),
        (lambda: MHA(12, 6, 4), "n_kv_heads=4 must divide n_heads=6"),
        (lambda: MHA(12.0, 6), "d_model must be a whole number"),
        (lambda: MHA(12, 0), "n_heads must be at least 1"),
        (lambda: MHA(12, 6, dropout=1.0), "0 ≤ dropout < 1, got 1.0"),
        (lambda: MHA(12, 6, dropout=-0.1), "dropout must be at least 0"),
        (lambda: MHA(12, 4, rotary={}), "d must be even.*got 3"),
        (lambda: MHA(12, 6, rotary={"base": -1}), "base must be greater than 0"),
        (lambda: MHA(12, 6, rotary=10_000.0), "rotary must be a dict of rope's options.*got float"),
        (lambda: MHA(12, 6, d_memory=0), "d_memory must be at least 1"),
        (lambda: MHA(12, 6, alibi=[0.5]), "alibi must be True or False, got list"),
    ],
    "MultiHeadAttention.forward": [
        (lambda: MHA(12, 6)(np.zeros((2, 5, 12))), "x must be a torch tensor, got ndarray"),
        (lambda: MHA(12, 6)(X[0]), r"x must be \(batch, n, 12\), got shape \(5, 12\)"),
        (lambda: MHA(12, 6)(X[..., :7]), r"x must be \(batch, n, 12\), got shape \(2, 5, 7\)"),
        (lambda: MHA(12, 6)(X, X[:1]), "memory has a batch of 1 but x has one of 2"),
        (lambda: MHA(12, 6, d_memory=7)(X, X), r"memory must be \(batch, n, 7\)"),
        (lambda: MHA(12, 6, d_memory=7)(X), "reads a memory of width 7, but memory is None"),
        (lambda: MHA(12, 6, rotary={})(X, X), "rotary needs positions on one line"),
        (lambda: MHA(12, 6)(X, X, cache=KVCache()), "cache is for self-attention"),
        (lambda: MHA(12, 6)(X, allowed=torch.ones(5, 5)), "allowed must be boolean, True = may attend"),
        (lambda: MHA(12, 6)(X, allowed=torch.ones(2, 5, dtype=torch.bool)), "does not broadcast to the scores"),
        (lambda: MHA(12, 6)(X, causal=torch.ones(5, 5)), "causal must be True or False"),
        (lambda: MHA(12, 6, window=0)(X), "window must be at least 1"),
        (lambda: MHA(12, 6, rotary={})(X, positions=range(4)), r"positions must hold one number .* got \(4,\)"),
        (lambda: MHA(12, 6)(X, backend="cuda"), "backend must be one of"),
    ],
    "from_torch": [
        (lambda: MHA.from_torch(nn.Linear(2, 2)), "takes an nn.MultiheadAttention, got Linear"),
        (lambda: MHA.from_torch(None), "takes an nn.MultiheadAttention, got NoneType"),
        (lambda: MHA.from_torch({"in_proj_weight": X}), "takes an nn.MultiheadAttention, got dict"),
        (lambda: MHA.from_torch(nn.MultiheadAttention), "takes an nn.MultiheadAttention, got type"),
        (lambda: MHA.from_torch(MHA(12, 6)), "takes an nn.MultiheadAttention, got MultiHeadAttention"),
        (lambda: MHA.from_torch(nn.MultiheadAttention(12, 3, add_bias_kv=True)), "cannot carry add_bias_kv"),
        (lambda: MHA.from_torch(nn.MultiheadAttention(12, 3, add_zero_attn=True)), "cannot carry add_zero_attn"),
        (lambda: MHA.from_torch(nn.MultiheadAttention(12, 3, kdim=7)), "cannot carry kdim=7 with vdim=12"),
    ],
    "layer_norm": [
        (lambda: layer_norm(X, torch.ones(5), torch.ones(12)), r"gain must hold .* d=12, got shape \(5,\)"),
        (lambda: layer_norm(X, torch.ones(12), torch.ones(2, 5, 12)), "bias must hold one number for each"),
        (lambda: layer_norm(X, [1.0], torch.ones(12)), r"gain must hold one number for each .* got shape \(1,\)"),
        (lambda: layer_norm(X, torch.ones(12), None), "bias must be an array, got None"),
        (lambda: layer_norm(5.0, [1.0], [1.0]), r"x needs a shape \(\.\.\., d\), got \(\)"),
        (lambda: layer_norm("x", [1.0], [1.0]), "x must hold real numbers"),
        (lambda: layer_norm(X, torch.ones(12), torch.ones(12), -1e-5), "eps must be at least 0"),
        (lambda: layer_norm(X, torch.ones(12), torch.ones(12), None), "eps must be a number"),
        (lambda: layer_norm(X.numpy(), torch.ones(12), torch.ones(12)), "gain is a torch tensor but"),
    ],
    "rms_norm": [
        (lambda: rms_norm(X, torch.ones(5)), r"gain must hold one number .* got shape \(5,\)"),
        (lambda: rms_norm(X, torch.ones(1, 12)), r"got shape \(1, 12\)"),
        (lambda: rms_norm(X, None), "gain must be an array, got None"),
        (lambda: rms_norm(3.0, [1.0]), "x needs a shape"),
        (lambda: rms_norm(["a"], [1.0]), "x must hold real numbers"),
        (lambda: rms_norm(X, torch.ones(12), -1), "eps must be at least 0"),
        (lambda: rms_norm(X, torch.ones(12), "small"), "eps must be a number"),
        (lambda: rms_norm(X.numpy(), torch.ones(12)), "gain is a torch tensor but"),
    ],
    "Norm": [
        (lambda: Norm(0), "d_model must be at least 1"),
        (lambda: Norm(12.0), "d_model must be a whole number"),
        (lambda: Norm("12"), "d_model must be a whole number"),
        (lambda: Norm(12, "batch"), "norm must be one of 'layer', 'rms', got str 'batch'"),
        (lambda: Norm(12, None), "norm must be one of"),
        (lambda: Norm(7)(X), r"gain must hold one number for each of x's d=12, got shape \(7,\)"),
        (lambda: Norm(7, "rms")(X), "gain must hold one number"),
        (lambda: Norm(12)("x"), "x must hold real numbers"),
    ],
    "FeedForward": [
        (lambda: FeedForward(0), "d_model must be at least 1"),
        (lambda: FeedForward(12.5), "d_model must be a whole number"),
        (lambda: FeedForward(12, 0), "d_ff must be at least 1"),
        (lambda: FeedForward(12, 2.5), "d_ff must be a whole number"),
        (lambda: FeedForward(12, True), "d_ff must be a whole number, got bool"),
        (lambda: FeedForward(12, activation="relu"), "activation must be one of 'gelu', 'swiglu', got str 'relu'"),
        (lambda: FeedForward(12, activation=F.gelu), "activation must be one of"),
        (lambda: FeedForward(12, "gelu"), "d_ff must be a whole number, got str 'gelu'"),
    ],
    "TransformerBlock": [
        (lambda: TransformerBlock(12, 5), "d_model=12 must be a multiple of n_heads=5"),
        (lambda: TransformerBlock(12, 6, 4), "n_kv_heads=4 must divide"),
        (lambda: TransformerBlock(0, 6), "d_model must be at least 1"),
        (lambda: TransformerBlock(12, 6, d_ff=-1), "d_ff must be at least 1"),
        (lambda: TransformerBlock(12, 6, norm="post"), "norm must be one of"),
        (lambda: TransformerBlock(12, 6, activation="relu"), "activation must be one of"),
        (lambda: TransformerBlock(12, 6, dropout=2), "dropout < 1, got 2"),
        (lambda: TransformerBlock(12, 6)(X[0]), r"x must be \(batch, n, 12\)"),
        (lambda: TransformerBlock(12, 6)(X[..., :4]), "gain must hold one number for each of x's d=4"),
    ],
    "TinyLM": [
        (lambda: lm(vocab_size=0), "vocab_size must be at least 1"),
        (lambda: lm(d_model=13), "d_model=13 must be a multiple of n_heads=6"),
        (lambda: lm(n_layers=0), "n_layers must be at least 1"),
        (lambda: lm(n_kv_heads=4), "n_kv_heads=4 must divide"),
        (lambda: lm(position="rotary"), "position must be one of 'rope', 'alibi'"),
        (lambda: lm(n_heads=4), "d must be even"),
        (lambda: lm(d_model=9, n_heads=3, position="sinusoidal"), "d must be even"),
        (lambda: lm(max_len=0), "max_len must be at least 1"),
        (lambda: lm(seed=None), "seed must be a whole number"),
        (lambda: lm(rope_base=0), "base must be greater than 0"),
        (lambda: lm(window=0), "window must be at least 1"),
    ],
    "TinyLM.forward": [
        (lambda: lm()([[1, 2]]), "tokens must be a torch tensor of whole numbers .*, got list"),
        (lambda: lm()(TEXT.float()), "tokens must hold whole numbers, got dtype torch.float32"),
        (lambda: lm()(TEXT[0]), r"tokens must have 2 axes, got shape \(5,\)"),
        (lambda: lm()(TEXT + 11), r"tokens must lie in 0..10 \(vocab_size=11\), got 11..11"),
        (lambda: lm()(TEXT - 1), "tokens must lie in 0..10 .* got -1..-1"),
        (lambda: lm()(TEXT, [KVCache()]), "one cache for each of 2 layers, got 1"),
        (lambda: lm()(TEXT, KVCache()), "caches must be a list, one cache for each layer, got KVCache"),
        (lambda: lm(position="learned", max_len=4)(TEXT), "position 4 is beyond max_len=4"),
        (lambda: lm(position="learned")(TEXT, positions=range(4)), r"positions must be \(5,\) or \(2, 5\), got \(4,\)"),
        (lambda: lm(position="learned")(TEXT, positions=torch.arange(5) - 1), "positions must not be negative"),
        (lambda: lm(position="sinusoidal")(TEXT, positions=torch.rand(5)), "positions must hold whole numbers"),
        (lambda: lm()(TEXT, allowed=torch.ones(5, 5)), "allowed must be boolean"),
    ],
    "generate": [
        (lambda: generate(lm(), [[1, 2]], 3), "prompt must be a torch tensor"),
        (lambda: generate(lm(), TEXT[0], 3), "prompt must have 2 axes"),
        (lambda: generate(lm(), TEXT[:, :0], 3), "prompt must hold at least one token"),
        (lambda: generate(lm(), TEXT, -1), "n must be at least 0"),
        (lambda: generate(lm(), TEXT, 2.0), "n must be a whole number"),
        (lambda: generate(lm(), TEXT, 3, [KVCache()]), "one cache for each of 2 layers, got 1"),
        (lambda: generate(lm(), TEXT, 3, temperature=0), "temperature must be greater than 0.*"),
        (lambda: generate(lm(), TEXT, 3, generator=0), "generator must be a torch.Generator, got int"),
        (lambda: generate(lm(), TEXT + 20, 3), "tokens must lie in 0..10"),
    ],
    "causal_lm_loss": [
        (lambda: causal_lm_loss(LOGITS.numpy(), TEXT, 0), "logits must be a torch tensor of floats, got ndarray"),
        (lambda: causal_lm_loss(TEXT, TEXT, 0), "logits must be a torch tensor of floats, got torch.int64"),
        (lambda: causal_lm_loss(LOGITS[:, :-1], TEXT[:, 1:], 0.5), "pad_id must be a whole number"),
        (lambda: causal_lm_loss(LOGITS, TEXT, None), "pad_id must be a whole number, got NoneType"),
        (lambda: causal_lm_loss(LOGITS[:, :-1], TEXT, 0), "the shift by one happens here"),
        (lambda: causal_lm_loss(LOGITS[0], TEXT, 0), r"logits must be \(B, n, vocab_size\) for tokens \(2, 5\)"),
        (lambda: causal_lm_loss(LOGITS, TEXT[0], 0), "tokens must have 2 axes"),
        (lambda: causal_lm_loss(LOGITS, TEXT.float(), 0), "tokens must hold whole numbers"),
        (lambda: causal_lm_loss(LOGITS, TEXT + 11, 0), r"tokens must lie in 0..10 \(vocab_size=11\)"),
    ],
}


@pytest.mark.parametrize(
    ("call", "message"),
    [pytest.param(*case, id=f"{name}-{i}") for name, cases in WRONG.items() for i, case in enumerate(cases)],
)
def test_an_error_names_the_argument(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("name", ["multihead", "block", "tiny_lm"])
def test_the_examples_in_docstrings_hold(name):
    result = doctest.testmod(sys.modules[f"attn_ref.{name}"])
    assert result.attempted and not result.failed
