"""attn_ref inside the models of `transformers`, whose attention is a function that a name selects.

A model calls its attention with q (B, Hq, n_q, d), k and v (B, Hkv, n_k, d) after the projections, the rotation and
the cache, and says the rest in words of its own:

    transformers                     attn_ref
    module.is_causal, is_causal      causal
    sliding_window W                 window=W: itself and the W - 1 keys before
    attention_mask                   allowed: here only which keys are text and which are padding
    scaling, softcap                 scale, softcap
    s_aux (gpt-oss)                  sinks
    position_bias (T5)               bias

The cache needs no word: the last query stands at the last key, in prefill and in decoding.
"""

from functools import partial

from transformers import AttentionInterface, AttentionMaskInterface

import attn_ref


def attend(
    module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, s_aux=None,
    position_bias=None, is_causal=None, dropout=0.0, backend=None, **others,
):  # fmt: skip
    """What a layer of `transformers` asks, by attn_ref.  -> (B, n_q, Hq, d_v), and None for weights it does not need"""
    if dropout:
        raise ValueError(f"attn_ref has no dropout on the weights, got dropout={dropout}; call model.eval() first")
    out = attn_ref.attention(
        query, key, value, causal=module.is_causal if is_causal is None else is_causal, window=sliding_window,
        allowed=attention_mask, bias=position_bias, scale=scaling, softcap=softcap, sinks=s_aux, backend=backend,
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


def text_keys(kv_length, kv_offset=0, attention_mask=None, **pattern):
    """Which keys are text, for every query.  (B, n) of 0 and 1 -> (B, 1, 1, n_k) bool; None if all are

    The causal and the window pattern are left out: `attend` passes both as options. A window's cache drops its oldest
    keys, `kv_offset` of them, and the mask must drop the same ones.
    """
    if attention_mask is None:
        return None
    return attention_mask[:, None, None, kv_offset : kv_offset + kv_length].bool()


def register(backend):
    """Make `attn_implementation="attn_ref_<backend>"` known to every model.  -> that name"""
    name = f"attn_ref_{backend}"
    AttentionInterface.register(name, partial(attend, backend=backend))
    AttentionMaskInterface.register(name, text_keys)
    return name
