"""A head is switched off for a while: what it hands on is set to 0, and the model runs without it.

    heads (B, n, H·d)  →  numbers h·d .. h·d + d - 1 become 0  →  W_o

Derived in course/07_transformer. A map of weights shows where a head looks; only a model that must do without the head
shows whether it matters. Source: Michel et al. (2019), Are sixteen heads really better than one?
"""

from contextlib import contextmanager

from attn_ref.shapes import whole_number


@contextmanager
def ablate_head(model, layer, head):
    """While the `with` block runs, `head` of `model.blocks[layer]` adds nothing; afterwards all is as before.

    No weight is written to, blocks may be nested, and an error inside them restores the model too. Source: Michel et
    al. (2019), section 2; chapter 07, exercise 7.6.

    >>> import torch; from attn_ref.tiny_lm import TinyLM
    >>> model, tokens = TinyLM(vocab_size=11, d_model=12, n_layers=2, n_heads=3), torch.tensor([[3, 1, 4]])
    >>> before = model(tokens)
    >>> with ablate_head(model, layer=1, head=2):
    ...     changed = not torch.equal(model(tokens), before)
    >>> changed, torch.equal(model(tokens), before)
    (True, True)
    """
    layer = whole_number(layer, "layer", least=0)
    if layer >= len(model.blocks):
        raise ValueError(f"layer must be 0..{len(model.blocks) - 1}, got {layer}")
    attention = model.blocks[layer].attention
    if whole_number(head, "head", least=0) >= attention.n_heads:
        raise ValueError(f"head must be 0..{attention.n_heads - 1}, got {head}")
    d = attention.d_model // attention.n_heads

    def silence(module, inputs):
        heads = inputs[0].clone()  # (B, n, H·d)
        heads[..., head * d : (head + 1) * d] = 0
        return (heads,)

    hook = attention.w_o.register_forward_pre_hook(silence)
    try:
        yield model
    finally:
        hook.remove()
