"""A block thinks in two steps, and each adds to what is there: attention gathers from other tokens, the FFN digests.

    x ← x + attention(norm(x))      x ← x + ffn(norm(x))      x (B, n, d_model)

Derived in course/07_transformer. Pre-norm: the sums themselves are never normalised, so that a gradient reaches the
first layer unhindered (Xiong et al. 2020).
"""

import torch
from torch import nn
from torch.nn import functional as F

from attn_ref.multihead import MultiHeadAttention
from attn_ref.positions import beside
from attn_ref.shapes import choice, namespace, real_array, real_number, same_side, whole_number, working


def layer_norm(x, gain, bias, eps=1e-5):
    """Each vector shifted to mean 0 and scaled to variance 1, then gain · x + bias.  (..., d) -> (..., d)

    The variance is the biased one, divided by d. Source: Ba et al. (2016); chapter 07, exercise 7.1.

    >>> layer_norm([[1.0, 3.0]], gain=[1.0, 1.0], bias=[0.0, 10.0], eps=0).tolist()
    [[-1.0, 11.0]]
    """
    x, gain, bias = _checked(x, eps, gain=gain, bias=bias)
    wide = working(x)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return beside(centred / namespace(x).sqrt(variance + eps) * gain + bias, x)


def rms_norm(x, gain, eps=1e-6):
    """Each vector scaled to a mean square of 1, then times gain.  (..., d) -> (..., d)

    Layer norm without shift: cheaper, and as good. Source: Zhang and Sennrich (2019); chapter 07.

    >>> rms_norm([[3.0, 4.0]], gain=[1.0, 1.0], eps=0).round(2).tolist()
    [[0.85, 1.13]]
    """
    x, gain = _checked(x, eps, gain=gain)
    wide = working(x)
    mean_square = (wide * wide).mean(-1, keepdims=True)
    return beside(wide / namespace(x).sqrt(mean_square + eps) * gain, x)


def _checked(x, eps, **parameters):
    x = real_array(x, "x", axes=1, shape="(..., d)")
    real_number(eps, "eps", least=0)
    for name, value in parameters.items():
        parameters[name] = same_side(real_array(value, name), name, x)
        if tuple(parameters[name].shape) != (x.shape[-1],):
            got = tuple(parameters[name].shape)
            raise ValueError(f"{name} must hold one number for each of x's d={x.shape[-1]}, got shape {got}")
    return x, *parameters.values()


class Norm(nn.Module):
    """`layer_norm` (kind "layer") or `rms_norm` (kind "rms") with its learned gain and bias."""

    def __init__(self, d_model, kind="layer"):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(whole_number(d_model, "d_model", least=1)))
        self.bias = nn.Parameter(torch.zeros(d_model)) if choice(kind, "norm", ("layer", "rms")) == "layer" else None

    def forward(self, x):
        return rms_norm(x, self.gain) if self.bias is None else layer_norm(x, self.gain, self.bias)


class FeedForward(nn.Module):
    """Each token by itself: wider, a bend, back.  (..., d_model) -> (..., d_model)

    "gelu" is W_down gelu(W_up x), of width d_ff = 4 d_model by default; "swiglu" is W_down (silu(W_gate x) ∘ W_up x),
    of width 8/3 d_model, which has as many weights. Source: Vaswani et al. (2017), section 3.3; Hendrycks and Gimpel
    (2016), GELU; Shazeer (2020), SwiGLU; chapter 07.

    >>> FeedForward(6)(torch.zeros(2, 5, 6)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(self, d_model, d_ff=None, activation="gelu", bias=True):
        super().__init__()
        gated = choice(activation, "activation", ("gelu", "swiglu")) == "swiglu"
        d_model = whole_number(d_model, "d_model", least=1)
        usual = 8 * d_model // 3 if gated else 4 * d_model
        d_ff = usual if d_ff is None else whole_number(d_ff, "d_ff", least=1)
        self.w_gate = nn.Linear(d_model, d_ff, bias) if gated else None
        self.w_up = nn.Linear(d_model, d_ff, bias)
        self.w_down = nn.Linear(d_ff, d_model, bias)

    def forward(self, x):
        hidden = F.gelu(self.w_up(x)) if self.w_gate is None else F.silu(self.w_gate(x)) * self.w_up(x)  # (..., d_ff)
        return self.w_down(hidden)  # (..., d_model)


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network, each after a norm and added to its input.  (B, n, d_model) -> the same

    `norm` is "layer" or "rms", `activation` "gelu" or "swiglu"; `attention_options` are those of `MultiHeadAttention`:
    dropout, bias, rotary, alibi, window. Source: Vaswani et al. (2017), section 3.1; Xiong et al. (2020), pre-norm;
    chapter 07, exercise 7.2.

    >>> block = TransformerBlock(12, 6, n_kv_heads=3, norm="rms", activation="swiglu", rotary={"base": 10_000.0})
    >>> block(torch.zeros(2, 5, 12), causal=True).shape
    torch.Size([2, 5, 12])
    """

    def __init__(
        self, d_model, n_heads, n_kv_heads=None, d_ff=None, *, norm="layer", activation="gelu", bias=True,
        **attention_options,
    ):  # fmt: skip
        super().__init__()
        self.attention_norm = Norm(d_model, norm)
        self.attention = MultiHeadAttention(d_model, n_heads, n_kv_heads, bias=bias, **attention_options)
        self.ffn_norm = Norm(d_model, norm)
        self.ffn = FeedForward(d_model, d_ff, activation, bias)

    def forward(self, x, *, return_weights=False, **options):
        """x (B, n, d_model) -> (B, n, d_model), and weights (B, H, n, m) if asked for

        `options` are those of `MultiHeadAttention.forward`: allowed, causal, cache, positions, backend.
        """
        gathered = self.attention(self.attention_norm(x), return_weights=return_weights, **options)
        if return_weights:
            gathered, weights = gathered
        x = x + gathered
        x = x + self.ffn(self.ffn_norm(x))
        return (x, weights) if return_weights else x
