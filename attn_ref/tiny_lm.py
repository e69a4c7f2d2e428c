"""A whole language model: embed, a few blocks, a norm, and a score for each word that may come next.

    tokens (B, n) → E[tokens] (B, n, d_model) → blocks → norm → logits (B, n, vocab_size), loss = -log p(next token)

Derived in course/07_transformer; with caches in course/09_kv_cache.
"""

import torch
from torch import nn

from attn_ref.block import Norm, TransformerBlock
from attn_ref.language import checked_tokens
from attn_ref.positions import beside, sinusoidal
from attn_ref.shapes import choice, whole_array, whole_number


class TinyLM(nn.Module):
    """A causal language model, small enough to train on a CPU in about a minute.

    vocab_size, d_model, n_layers, n_heads, n_kv_heads, d_ff    sizes; None: the usual ones
    max_len      how many positions "learned" has; the other kinds have no limit
    position     "rope", "alibi", "sinusoidal", "learned", or None: then order is seen only through the causal mask
    rope_base    of the rotations, where position is "rope"
    window       each token sees itself and the window - 1 before; None: all before
    tie_weights  the matrix that embeds a token also scores it
    norm, activation, dropout, bias    as in `TransformerBlock`
    seed         of the initial weights: the same seed gives the same model

    Source: Radford et al. (2019), GPT-2; Press and Wolf (2017), tied weights; chapter 07.

    >>> model = TinyLM(vocab_size=11, d_model=12, n_layers=2, n_heads=6, n_kv_heads=3)
    >>> model(torch.tensor([[3, 1, 4, 1, 5]])).shape
    torch.Size([1, 5, 11])
    """

    def __init__(
        self, vocab_size, d_model, n_layers, n_heads, n_kv_heads=None, d_ff=None, *, max_len=256, position="rope",
        rope_base=10_000.0, window=None, tie_weights=True, norm="layer", activation="gelu", dropout=0.0, bias=True,
        seed=0,
    ):  # fmt: skip
        super().__init__()
        self.vocab_size = whole_number(vocab_size, "vocab_size", least=1)
        self.position = choice(position, "position", ("rope", "alibi", "sinusoidal", "learned", None))
        self.embed = nn.Embedding(vocab_size, whole_number(d_model, "d_model", least=1))
        max_len = whole_number(max_len, "max_len", least=1)
        self.places = nn.Embedding(max_len, d_model) if position == "learned" else None
        self.blocks = nn.ModuleList(
            TransformerBlock(
                d_model, n_heads, n_kv_heads, d_ff, norm=norm, activation=activation, bias=bias, dropout=dropout,
                rotary={"base": rope_base} if position == "rope" else None, alibi=position == "alibi", window=window,
            )
            for _ in range(whole_number(n_layers, "n_layers", least=1))
        )  # fmt: skip
        if position == "sinusoidal":
            sinusoidal(0, d_model)  # complains of an odd width here, not at the first batch
        self.norm = Norm(d_model, norm)
        self.unembed = nn.Linear(d_model, vocab_size, bias=False)
        if tie_weights:
            self.unembed.weight = self.embed.weight
        self._initialise(torch.Generator().manual_seed(whole_number(seed, "seed")))

    def forward(self, tokens, caches=None, *, allowed=None, positions=None, return_weights=False):
        """tokens (B, n) -> logits (B, n, vocab_size), and weights (n_layers, B, H, n, m) if asked for

        caches     one for each layer; the tokens continue what they hold
        allowed    as in `MultiHeadAttention`, beside the causal mask; padding on the right needs none
        positions  (n,) or (B, n); by default from caches[0].length on, or from 0
        """
        tokens = self._checked(tokens, caches)
        if positions is None:
            start = caches[0].length if caches else 0
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self._embedded(tokens, positions)  # (B, n, d_model)
        maps = []
        for block, cache in zip(self.blocks, caches or [None] * len(self.blocks), strict=True):
            x = block(x, causal=True, allowed=allowed, cache=cache, positions=positions, return_weights=return_weights)
            if return_weights:
                x, weights = x
                maps.append(weights)
        logits = self.unembed(self.norm(x))  # (B, n, vocab_size)
        return (logits, torch.stack(maps)) if return_weights else logits

    def _embedded(self, tokens, positions):
        x = self.embed(tokens)  # (B, n, d_model)
        if self.position == "learned":
            x = x + self.places(self._checked_positions(positions, tokens))
        x = x * x.shape[-1] ** 0.5  # beside sinusoids of size 1 a small embedding would be lost
        if self.position == "sinusoidal":
            positions = self._checked_positions(positions, tokens)
            codes = sinusoidal(int(positions.max()) + 1 if positions.numel() else 0, x.shape[-1])
            x = x + beside(codes, x)[positions]
        return x

    def _checked(self, tokens, caches):
        tokens = checked_tokens(tokens, "tokens", self.vocab_size)
        if caches is not None and not isinstance(caches, (list, tuple)):
            raise TypeError(f"caches must be a list, one cache for each layer, got {type(caches).__name__}")
        if caches is not None and len(caches) != len(self.blocks):
            raise ValueError(f"caches must hold one cache for each of {len(self.blocks)} layers, got {len(caches)}")
        if caches and len({id(cache) for cache in caches}) < len(caches):
            raise ValueError("caches holds one cache twice; make one for each layer: [KVCache() for _ in model.blocks]")
        return tokens

    def _checked_positions(self, positions, tokens):
        """Positions that number the rows of a table, so neither fractions nor negative."""
        positions, shape = whole_array(torch.as_tensor(positions), "positions").to(tokens.device), tuple(tokens.shape)
        if tuple(positions.shape) not in (shape[1:], shape):
            raise ValueError(f"positions must be {shape[1:]} or {shape}, got {tuple(positions.shape)}")
        if positions.numel() and int(positions.min()) < 0:
            raise ValueError(f"positions must not be negative, got {int(positions.min())}")
        if self.places is not None and positions.numel() and int(positions.max()) >= self.places.num_embeddings:
            raise ValueError(
                f"position {int(positions.max())} is beyond max_len={self.places.num_embeddings}; a learned table ends "
                "there, unlike the other kinds of positions"
            )
        return positions

    def _initialise(self, generator):
        """In the blocks, outputs as large as inputs; what is added to x smaller, since it adds up over the layers.

        The embedding starts small (GPT-2's 0.02): logits then start near 0, and the loss near log(vocab_size).
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                std = parameter.shape[1] ** -0.5 if name.startswith("blocks") else 0.02
                if name.endswith(("w_o.weight", "w_down.weight")):
                    std *= (2 * len(self.blocks)) ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)
