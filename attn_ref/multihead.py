"""Several small attentions side by side: each head reads its own slice, and one matrix mixes what they found.

    q = x W_q, k = m W_k, v = m W_v   →   head h: softmax(q_h k_gᵀ / √d) v_g, g = h // (H / H_kv)   →   [heads] W_o

Derived in course/06_multi_head. x is (B, n, d_model); m is x itself (self-attention) or a memory (cross-attention).
With fewer key-value heads than heads, several query heads share one (GQA; MQA where H_kv = 1): the KV cache shrinks.
"""

import torch
from torch import nn
from torch.nn import functional as F

from attn_ref.attention import attention
from attn_ref.heads import merge_heads, split_heads
from attn_ref.positions import alibi_slopes, rope
from attn_ref.problem import window_sides
from attn_ref.scores import over_heads, without_nonfinite
from attn_ref.shapes import boolean_array, real_number, whole_number


class MultiHeadAttention(nn.Module):
    """Multi-head attention with shared key-value heads, rotations, ALiBi, a window and a cache where asked for.

    d_model, n_heads     width, and query heads of d_head = d_model / n_heads numbers each
    n_kv_heads           key-value heads, a divisor of n_heads; None: as many
    dropout              share of the weights set to 0, in training only
    d_memory             width of the memory of cross-attention; None: d_model
    rotary               options of `rope`, such as {"base": 10_000.0}; None turns nothing
    alibi, window        ALiBi's slopes on or off; `attention`'s window

    Rows (and the bias) h·d_head .. of `w_q` make head h's queries; columns h·d_head .. of `w_o` read its output.
    Source: Vaswani et al. (2017), section 3.2.2; Ainslie et al. (2023), GQA; chapter 06, exercise 6.3.

    >>> layer = MultiHeadAttention(d_model=12, n_heads=6, n_kv_heads=3)
    >>> layer(torch.zeros(2, 5, 12)).shape, layer.w_k.weight.shape
    (torch.Size([2, 5, 12]), torch.Size([6, 12]))
    """

    def __init__(
        self, d_model, n_heads, n_kv_heads=None, dropout=0.0, bias=True, *, d_memory=None, rotary=None, alibi=False,
        window=None,
    ):  # fmt: skip
        super().__init__()
        self.d_model = whole_number(d_model, "d_model", least=1)
        self.n_heads = whole_number(n_heads, "n_heads", least=1)
        self.n_kv_heads = self.n_heads if n_kv_heads is None else whole_number(n_kv_heads, "n_kv_heads", least=1)
        self.d_memory = self.d_model if d_memory is None else whole_number(d_memory, "d_memory", least=1)
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={d_model} must be a multiple of n_heads={n_heads}, so that each gets as much")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={n_kv_heads} must divide n_heads={n_heads}, so that each serves as many")
        self.dropout = real_number(dropout, "dropout", least=0)
        if self.dropout >= 1:
            raise ValueError(f"dropout is a share of the weights, 0 ≤ dropout < 1, got {dropout}")
        d_head = self.d_model // self.n_heads
        self.rotary, self.window = rotary, window
        _check_options(rotary, alibi, window, torch.zeros(1, d_head))
        self.register_buffer("slopes", torch.tensor(alibi_slopes(n_heads)).float() if alibi else None, persistent=False)
        self.w_q = nn.Linear(self.d_model, self.n_heads * d_head, bias)
        self.w_k = nn.Linear(self.d_memory, self.n_kv_heads * d_head, bias)
        self.w_v = nn.Linear(self.d_memory, self.n_kv_heads * d_head, bias)
        self.w_o = nn.Linear(self.n_heads * d_head, self.d_model, bias)

    def forward(
        self, x, memory=None, allowed=None, *, causal=False, cache=None, positions=None, backend=None,
        return_weights=False,
    ):  # fmt: skip
        """x (B, n, d_model), memory (B, m, d_memory) -> (B, n, d_model), and weights (B, H, n, m) if asked for

        allowed    bool (n, m), (B, n, m) or (B, H, n, m), or what broadcasts to it; True = may attend, the opposite of
                   nn.MultiheadAttention's masks: pass `~mask`, and `~key_padding_mask[:, None]`
        cache      has append(k, v) -> all keys and values, and length; x continues what it holds
        positions  (n,) or (B, n), for `rotary`; by default from cache.length on, or from 0
        """
        self._check(x, memory, cache)
        source = x if memory is None else memory
        q = split_heads(self.w_q(x), self.n_heads)  # (B, H, n, d)
        k = split_heads(self.w_k(source), self.n_kv_heads)  # (B, H_kv, m, d)
        v = split_heads(self.w_v(source), self.n_kv_heads)  # (B, H_kv, m, d)
        if self.rotary is not None:
            if positions is None:
                positions = torch.arange(x.shape[1], device=x.device) + (0 if cache is None else cache.length)
            q, k = rope(q, positions, **self.rotary), rope(k, positions, **self.rotary)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H_kv, m, d) each: m now counts the past too

        drops = self.training and self.dropout > 0
        if drops and backend not in (None, "torch"):
            raise ValueError(
                f"dropout needs all weights in training, and backend {backend!r} never holds them; use 'torch'"
            )
        out = attention(
            q, k, v, causal=causal, window=self.window, allowed=_with_heads(allowed), alibi=self.slopes,
            backend=backend, return_weights=drops or return_weights,
        )  # (B, H, n, d)  # fmt: skip
        if drops or return_weights:
            out, weights = out
        if drops:  # on the weights, so that a whole message is lost and not a few of its numbers
            weights = F.dropout(weights, self.dropout)
            out = over_heads(weights, without_nonfinite(v)[0])
        out = self.w_o(merge_heads(out))  # (B, n, d_model)
        return (out, weights) if return_weights else out

    @classmethod
    def from_torch(cls, module):
        """The same layer as an nn.MultiheadAttention, with copies of its weights, in its dtype and on its device.

        Inputs are (B, n, d_model) whatever the module's batch_first says. Raises ValueError by name for what this layer
        does not have: add_bias_kv, add_zero_attn, and kdim unlike vdim (keys and values come from one memory here).
        """
        if not isinstance(module, nn.MultiheadAttention):
            raise TypeError(f"from_torch takes an nn.MultiheadAttention, got {type(module).__name__}")
        if module.bias_k is not None:
            raise ValueError("from_torch cannot carry add_bias_kv=True, a learned extra key and value")
        if module.add_zero_attn:
            raise ValueError("from_torch cannot carry add_zero_attn=True, an extra key and value of zeros")
        if module.kdim != module.vdim:
            raise ValueError(f"from_torch cannot carry kdim={module.kdim} with vdim={module.vdim}: one memory is read")
        bias, old = module.in_proj_bias, (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        if module.in_proj_weight is not None:
            old = module.in_proj_weight.chunk(3)  # one (3·d_model, d_model) matrix holds all three
        layer = cls(module.embed_dim, module.num_heads, dropout=module.dropout, bias=bias is not None,
                    d_memory=module.kdim)  # fmt: skip
        layer.to(module.out_proj.weight)  # its dtype and device
        pairs = list(zip((layer.w_q.weight, layer.w_k.weight, layer.w_v.weight), old, strict=True))
        pairs.append((layer.w_o.weight, module.out_proj.weight))
        if bias is not None:
            pairs += zip((layer.w_q.bias, layer.w_k.bias, layer.w_v.bias), bias.chunk(3), strict=True)
            pairs.append((layer.w_o.bias, module.out_proj.bias))
        with torch.no_grad():
            for ours, theirs in pairs:
                ours.copy_(theirs)
        return layer.train(module.training)

    def _check(self, x, memory, cache):
        _check_tokens(x, "x", self.d_model)
        kept = getattr(cache, "window", None)
        if kept is not None and kept != self.window:
            raise ValueError(f"cache keeps a window of {kept} but this layer's is {self.window}; give both the same")
        if memory is None:
            if self.d_memory != self.d_model:
                raise ValueError(f"this layer reads a memory of width {self.d_memory}, but memory is None")
            return
        _check_tokens(memory, "memory", self.d_memory)
        if memory.shape[0] != x.shape[0]:
            raise ValueError(f"memory has a batch of {memory.shape[0]} but x has one of {x.shape[0]}")
        if self.rotary is not None:
            raise ValueError("rotary needs positions on one line, which x and memory do not share")
        if cache is not None:
            raise ValueError("cache is for self-attention: a memory does not grow, so it is passed anew at each step")


def _check_tokens(x, name, width):
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if x.ndim != 3 or x.shape[-1] != width:
        raise ValueError(f"{name} must be (batch, n, {width}), got shape {tuple(x.shape)}")


def _check_options(rotary, alibi, window, token):
    """Complains when a layer is built, not at its first batch."""
    if not isinstance(alibi, bool):
        raise TypeError(f"alibi must be True or False, got {type(alibi).__name__}; the slopes follow from n_heads")
    window_sides(window)
    if rotary is not None:
        if not isinstance(rotary, dict):
            raise TypeError(f"rotary must be a dict of rope's options or None, got {type(rotary).__name__}")
        rope(token, [0], **rotary)


def _with_heads(allowed):
    """(B, n, m) -> (B, 1, n, m): three axes mean a mask for each batch entry, the same for every head."""
    if allowed is None:
        return None
    allowed = boolean_array(allowed, "allowed")
    return allowed[:, None] if allowed.ndim == 3 else allowed
