"""attn_ref inside the layers and models of `transformers`: random weights, nothing downloaded.

A layer's output must equal the same projections followed by `attn_ref.attention`, and must not when one option is left
out. Then whole models run with our attention registered under a name of its own, with and without a cache.

The weights are drawn anew, wide enough that the softmax picks favourites: under the usual 0.02 it is nearly flat, and
a wrong mask moves the third decimal.
"""

from types import SimpleNamespace

import numpy as np
import pytest

import attn_ref
from tests.conformance.offered import skipped, why_not

torch = pytest.importorskip("torch", reason="torch is not installed (pip install -c pins.txt torch)")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (pip install -c pins.txt transformers)"
)

from transformers import masking_utils, models  # noqa: E402

from attn_ref.context import interpolate_positions, ntk_base, yarn_frequencies, yarn_temperature  # noqa: E402
from attn_ref.positions import alibi_slopes, rope, rotary_frequencies  # noqa: E402
from tests.conformance.adapter import attend, register, text_keys  # noqa: E402

BATCH, N, WIDTH, HEADS, KV_HEADS, D, WINDOW = 2, 37, 48, 6, 3, 16, 5
GROUPED = dict(
    hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=D, attn_implementation="eager"
)


@pytest.fixture
def float64_softmax(monkeypatch):
    """Most layers do their softmax in float32 whatever the model's dtype; here it keeps the dtype that it is given."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))


def redrawn(module, seed=3):
    """The module with every weight drawn from a normal distribution of spread 0.25, but for those of the norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "norm" not in name.lower():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.25)
    return module.eval()


def states():
    return torch.randn(BATCH, N, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def heads(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def theirs(window=None, padding=None, causal=True):
    """The additive mask that transformers makes, (B, 1, N, N)."""
    pattern = masking_utils.causal_mask_function if causal else masking_utils.bidirectional_mask_function
    if window:
        pattern = masking_utils.sliding_window_causal_mask_function(window)
    return masking_utils.eager_mask(BATCH, N, N, mask_function=pattern, attention_mask=padding, dtype=torch.float64)


def padding():
    """Text is 1 and padding 0: the second sequence has 9 tokens of padding, at its end."""
    return torch.arange(N) < torch.tensor([[N], [N - 9]])


# Each function builds a layer and returns its output, its q, k and v, the projection of its heads' outputs, and the
# options that make attn_ref compute the same.


def rotary(layer, window=None, half=False, **options):
    """Llama's kind: grouped heads, and q and k turned by RoPE on half-split pairs."""
    layer, x, positions = redrawn(layer.double()), states(), torch.arange(N)
    angles = positions[:, None] * torch.tensor(rotary_frequencies(D))
    angles = angles if half else torch.cat([angles, angles], -1)
    rotation = angles.cos()[None], angles.sin()[None]
    output = layer(x, position_embeddings=rotation, attention_mask=theirs(window))[0]
    q, k, v = heads(layer.q_proj(x), HEADS), heads(layer.k_proj(x), KV_HEADS), heads(layer.v_proj(x), KV_HEADS)
    if window:
        options["window"] = (window - 1, None)
    return output, rope(q, positions), rope(k, positions), v, layer.o_proj, {"causal": True, **options}


def llama():
    return rotary(models.llama.modeling_llama.LlamaAttention(models.llama.LlamaConfig(**GROUPED), 0))


def mistral():
    config = models.mistral.MistralConfig(**GROUPED, sliding_window=WINDOW)
    return rotary(models.mistral.modeling_mistral.MistralAttention(config, 0), WINDOW)


def gemma2():
    config = models.gemma2.Gemma2Config(
        **GROUPED, sliding_window=WINDOW, attn_logit_softcapping=3.0, query_pre_attn_scalar=2
    )
    layer = models.gemma2.modeling_gemma2.Gemma2Attention(config, 0)
    assert layer.sliding_window == WINDOW  # even layers slide, odd ones see everything
    return rotary(layer, WINDOW, softcap=3.0, scale=2**-0.5)


def gpt_oss():
    config = models.gpt_oss.GptOssConfig(**GROUPED, sliding_window=WINDOW)
    layer = models.gpt_oss.modeling_gpt_oss.GptOssAttention(config, 0)
    return rotary(layer, WINDOW, half=True, sinks=layer.sinks)


def gpt2():
    config = models.gpt2.GPT2Config(n_embd=WIDTH, n_head=HEADS, scale_attn_by_inverse_layer_idx=True)
    config._attn_implementation = "eager"
    layer, x = redrawn(models.gpt2.modeling_gpt2.GPT2Attention(config, layer_idx=2).double()), states()
    q, k, v = (heads(one, HEADS) for one in layer.c_attn(x).chunk(3, -1))
    output = layer(x, attention_mask=theirs())[0]
    return output, q, k, v, layer.c_proj, {"causal": True, "scale": 8**-0.5 / 3}


def bert():
    config = models.bert.BertConfig(hidden_size=WIDTH, num_attention_heads=HEADS)
    config._attn_implementation = "eager"
    layer, x, text = redrawn(models.bert.modeling_bert.BertSelfAttention(config).double()), states(), padding()
    q, k, v = (heads(one(x), HEADS) for one in (layer.query, layer.key, layer.value))
    output = layer(x, attention_mask=theirs(padding=text, causal=False))[0]
    return output, q, k, v, torch.nn.Identity(), {"allowed": text[:, None, None]}


def bloom():
    config = models.bloom.BloomConfig(hidden_size=WIDTH, n_head=HEADS)
    layer, x = redrawn(models.bloom.modeling_bloom.BloomAttention(config, 0).double()), states()
    alibi = models.bloom.modeling_bloom.build_alibi_tensor(torch.ones(BATCH, N), HEADS, torch.float64)
    output = layer(x, residual=torch.zeros_like(x), alibi=alibi, attention_mask=theirs())[0]
    q, k, v = layer.query_key_value(x).unflatten(-1, (HEADS, 3, -1)).permute(3, 0, 2, 1, 4)
    return output, q, k, v, layer.dense, {"causal": True, "alibi": torch.tensor(alibi_slopes(HEADS))}


def t5():
    config = models.t5.T5Config(d_model=WIDTH, d_kv=D, num_heads=HEADS, relative_attention_num_buckets=8)
    config._attn_implementation = "eager"
    layer = redrawn(models.t5.modeling_t5.T5Attention(config, has_relative_attention_bias=True).double())
    x, text = states() / 2, padding()
    q, k, v = (heads(one(x), HEADS) for one in (layer.q, layer.k, layer.v))
    output = layer(x, mask=theirs(padding=text, causal=False))[0]
    options = {"bias": 1 * layer.compute_bias(N, N), "scale": 1.0, "allowed": text[:, None, None]}
    return output, q, k, v, layer.o, options


LAYERS = {
    llama: ("causal",),
    mistral: ("causal", "window"),
    gemma2: ("causal", "window", "softcap", "scale"),
    gpt_oss: ("causal", "window", "sinks"),
    gpt2: ("causal", "scale"),
    bert: ("allowed",),
    bloom: ("causal", "alibi"),
    t5: ("bias", "scale", "allowed"),
}


def ours(q, k, v, project, options):
    """A layer's output: heads side by side, then projected."""
    return project(attn_ref.attention(q, k, v, **options).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_a_layer_is_its_projections_around_our_attention(layer, float64_softmax):
    output, *parts, options = layer()
    assert set(options) == set(LAYERS[layer])
    torch.testing.assert_close(ours(*parts, options), output, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "option"), [(layer, option) for layer in LAYERS for option in LAYERS[layer]],
    ids=lambda x: getattr(x, "__name__", x),
)  # fmt: skip
def test_without_the_option_it_is_another_layer(layer, option, float64_softmax):
    output, *parts, options = layer()
    del options[option]
    assert (ours(*parts, options) - output).abs().max() > 0.1 * output.abs().max()


def test_a_query_head_reads_the_kv_head_of_its_group_and_no_other(float64_softmax):
    output, q, k, v, project, options = llama()
    for right, spread in ((True, torch.repeat_interleave), (False, torch.Tensor.repeat)):
        per_head = (2, 1) if right else ((1, 2, 1, 1),)
        result = ours(q, spread(k, *per_head), spread(v, *per_head), project, options)
        assert torch.allclose(result, output, rtol=1e-10, atol=1e-10) == right


@pytest.mark.parametrize(("d", "base", "factor", "length"), [(16, 1e4, 3.0, 64), (80, 1e6, 32.0, 4096)])
def test_rotations_slow_down_as_theirs_do(d, base, factor, length):
    """Theirs are float32, hence the tolerance: a few roundings of 6e-8."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def stretched(kind, trained, seq_len=None):
        rotation = {"rope_type": kind, "rope_theta": base, "factor": factor, "original_max_position_embeddings": length}
        config = models.llama.LlamaConfig(head_dim=d, max_position_embeddings=trained, rope_parameters=rotation)
        return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=seq_len)

    yarn, temperature = stretched("yarn", int(length * factor))
    np.testing.assert_allclose(yarn, yarn_frequencies(d, base, factor=factor, original_length=length), rtol=1e-6)
    assert temperature == pytest.approx(yarn_temperature(factor))
    interpolated, _ = stretched("linear", length)
    np.testing.assert_allclose(interpolated, interpolate_positions(rotary_frequencies(d, base), factor), rtol=1e-6)
    dynamic, _ = stretched("dynamic", length, seq_len=2 * length)  # stretches by factor · 2 - (factor - 1)
    np.testing.assert_allclose(dynamic, rotary_frequencies(d, ntk_base(base, d, factor + 1)), rtol=1e-6)


# Whole models.

TINY = dict(
    vocab_size=97, hidden_size=WIDTH, intermediate_size=56, num_hidden_layers=2, num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS, head_dim=D, max_position_embeddings=64, pad_token_id=0, bos_token_id=None,
    eos_token_id=None, tie_word_embeddings=False,
)  # fmt: skip
ALTERNATING = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
MODELS = {
    "llama": lambda: models.llama.LlamaConfig(**TINY),
    "mistral": lambda: models.mistral.MistralConfig(**TINY, sliding_window=WINDOW),
    "gemma2": lambda: models.gemma2.Gemma2Config(
        **TINY, **ALTERNATING, attn_logit_softcapping=3.0, query_pre_attn_scalar=2
    ),
    "qwen3": lambda: models.qwen3.Qwen3Config(**TINY),
    "gpt_oss": lambda: models.gpt_oss.GptOssConfig(
        **TINY, **ALTERNATING, num_local_experts=4, num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    ),
}  # fmt: skip
PAIRS = [(name, backend) for backend in ("torch", "numba") for name in MODELS] + [("gpt_oss", "triton")]
PAIRS = [
    pytest.param(
        name, backend, id=f"{name}-{backend}",
        marks=skipped(why_not(backend)) + ([pytest.mark.slow] if backend == "triton" else []),  # by its interpreter
    )
    for name, backend in PAIRS
]  # fmt: skip


def model(name, attention, dtype=torch.float32):
    """One of MODELS with weights that depend on the name alone, whichever attention runs in it."""
    model = transformers.AutoModelForCausalLM.from_config(
        MODELS[name](), attn_implementation=attention, experts_implementation="eager"
    )
    assert model.config._attn_implementation == attention
    return redrawn(model.to(dtype))


def prompt(n=13):
    """Tokens (2, n), and which of them are text: the second sequence starts with 4 tokens of padding."""
    tokens = torch.randint(1, 97, (2, n), generator=torch.Generator().manual_seed(1))
    text = torch.ones_like(tokens)
    text[1, :4] = 0
    return tokens, text


def logits(model, padded):
    tokens, text = prompt()
    with torch.no_grad():
        return model(tokens, attention_mask=text).logits[text == 1] if padded else model(tokens).logits


def in_steps(model):
    """The logits of a padded batch that comes piece by piece, with a cache: a prefill, single tokens, then a chunk."""
    tokens, text = prompt()
    cache, pieces, end = transformers.DynamicCache(config=model.config), [], 0
    with torch.no_grad():
        for n in (7, 1, 1, 3, 1):
            piece = slice(end, end + n)
            end += n
            result = model(tokens[:, piece], attention_mask=text[:, :end], past_key_values=cache, use_cache=True)
            pieces.append(result.logits)
    return torch.cat(pieces, 1)[text == 1]


def assert_as_right_as_eager(result, eager, exact):
    """The rule for float32: at most twice the error of the plain version, both against float64."""
    error, allowed = (result - exact).abs().max().item(), 2 * (eager - exact).abs().max().item()
    assert 0 < error <= allowed


@pytest.mark.parametrize("padded", [False, True], ids=["full", "left-padded"])
@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_a_model_has_the_same_logits_in_prefill(name, backend, padded, float64_softmax):
    exact, eager = (logits(model(name, "eager", dtype), padded) for dtype in (torch.float64, torch.float32))
    assert_as_right_as_eager(logits(model(name, register(backend)), padded), eager, exact)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_a_model_has_the_same_logits_in_cached_decoding(name, backend, float64_softmax):
    exact, eager = (logits(model(name, "eager", dtype), padded=True) for dtype in (torch.float64, torch.float32))
    assert_as_right_as_eager(in_steps(model(name, register(backend))), eager, exact)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_a_model_writes_the_same_tokens(name, backend):
    tokens, text = prompt()
    eager, result = (
        model(name, attention).generate(tokens, attention_mask=text, max_new_tokens=12, do_sample=False)
        for attention in ("eager", register(backend))
    )
    assert result.tolist() == eager.tolist()
    assert len(set(result[:, tokens.shape[1] :].flatten().tolist())) > 6  # not one token over and over


@pytest.mark.parametrize(
    ("name", "word", "wrong"),
    [
        ("llama", "is_causal", False),
        ("llama", "attention_mask", None),
        ("qwen3", "scaling", 1.0),
        ("mistral", "sliding_window", None),
        ("mistral", "sliding_window", WINDOW + 1),
        ("gemma2", "softcap", None),
        ("gpt_oss", "s_aux", None),
    ],
)
def test_an_adapter_that_gets_one_word_wrong_is_noticed(name, word, wrong, float64_softmax):
    def forgetful(module, query, key, value, attention_mask, **others):
        return attend(module, query, key, value, **{"attention_mask": attention_mask, **others, word: wrong})

    transformers.AttentionInterface.register("forgetful", forgetful)
    transformers.AttentionMaskInterface.register("forgetful", text_keys)
    exact, eager = (logits(model(name, "eager", dtype), padded=True) for dtype in (torch.float64, torch.float32))
    with pytest.raises(AssertionError):
        assert_as_right_as_eager(logits(model(name, "forgetful"), padded=True), eager, exact)


def test_an_encoder_and_the_decoder_that_reads_it_agree_too(float64_softmax):
    def t5_model(attention, dtype=torch.float32):
        config = models.t5.T5Config(
            vocab_size=97, d_model=WIDTH, d_kv=D, d_ff=56, num_layers=2, num_heads=HEADS, pad_token_id=0,
            relative_attention_num_buckets=8, decoder_start_token_id=0, tie_word_embeddings=False,
        )  # fmt: skip
        model = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation=attention)
        return redrawn(model.to(dtype))

    tokens, text = prompt()
    with torch.no_grad():
        result, eager, exact = (
            model(tokens, attention_mask=text, decoder_input_ids=tokens[:, :9]).logits
            for model in (t5_model(register("torch")), t5_model("eager"), t5_model("eager", torch.float64))
        )
    assert_as_right_as_eager(result, eager, exact)


def test_dropout_is_refused_by_name():
    q = torch.ones(1, 1, 1, 2)
    with pytest.raises(ValueError, match="no dropout on the weights"):
        attend(SimpleNamespace(is_causal=True), q, q, q, None, dropout=0.1)
