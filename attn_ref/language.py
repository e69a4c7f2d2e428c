"""What a language model is trained on, and how it writes: the next token, again and again.

    loss = -mean log p(token[t + 1] | token[0] .. token[t])      write: append the likeliest, or a drawn one; repeat

Derived in course/07_transformer; writing with caches in course/09_kv_cache. A model here is anything that maps tokens
(B, n) to logits (B, n, vocab_size).
"""

import torch
from torch.nn import functional as F

from attn_ref.shapes import is_tensor, real_number, whole_array, whole_number, working


def causal_lm_loss(logits, tokens, pad_id):
    """How surprising each next token is on average, -log p in nats.  (B, n, vocab_size), (B, n) -> ()

    The logits at t are judged by the token at t + 1. Targets equal to `pad_id` do not count; if none is left, 0.
    Source: Radford et al. (2018); chapter 07, exercise 7.3.

    >>> causal_lm_loss(torch.zeros(1, 3, 4), torch.tensor([[1, 2, 0]]), pad_id=0).exp()  # a guess among four
    tensor(4.)
    """
    if not is_tensor(logits) or not logits.is_floating_point():
        got = logits.dtype if is_tensor(logits) else type(logits).__name__
        raise TypeError(f"logits must be a torch tensor of floats, got {got}")
    tokens, pad_id = checked_tokens(tokens, "tokens"), whole_number(pad_id, "pad_id")
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"logits must be (B, n, vocab_size) for tokens {tuple(tokens.shape)}, got shape {tuple(logits.shape)}; "
            "the shift by one happens here: pass both whole"
        )
    targets = tokens[:, 1:]  # (B, n - 1)
    checked_tokens(targets.masked_fill(targets == pad_id, 0), "tokens", logits.shape[2])
    losses = F.cross_entropy(
        working(logits[:, :-1]).flatten(0, 1), targets.flatten(), ignore_index=pad_id, reduction="sum"
    )
    return losses / (targets != pad_id).sum().clamp(min=1)


@torch.no_grad()
def generate(model, prompt, n, caches=None, *, generator=None, temperature=1.0):
    """The prompt and n tokens more.  prompt (B, m), m ≥ 1 -> (B, m + n)

    Without a generator each new token is the likeliest one. With a `torch.Generator` tokens are drawn from
    softmax(logits / temperature). With `caches`, one for each layer, each step computes one position and the tokens are
    the same; without them each step computes all positions again. The last new token does not enter the caches.
    Source: chapter 09, exercise 9.3.

    >>> from attn_ref.tiny_lm import TinyLM
    >>> model = TinyLM(vocab_size=11, d_model=12, n_layers=1, n_heads=2)
    >>> generate(model, torch.tensor([[3, 1, 4]]), n=2).shape
    torch.Size([1, 5])
    """
    tokens = checked_tokens(prompt, "prompt")
    n, temperature = whole_number(n, "n", least=0), real_number(temperature, "temperature", above=0)
    if tokens.shape[1] == 0:
        raise ValueError("prompt must hold at least one token: the first prediction needs something to follow")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}; no global seed is used")
    unseen, was_training = tokens, getattr(model, "training", False)
    try:
        if was_training:
            model.eval()  # dropout would disturb every prediction
        for _ in range(n):
            logits = model(tokens) if caches is None else model(unseen, caches=caches)  # (B, n, vocab_size)
            logits = logits[:, -1]  # (B, vocab_size)
            unseen = _next(logits, generator, temperature)  # (B, 1)
            tokens = torch.cat([tokens, unseen], dim=1)  # one longer
    finally:
        if was_training:
            model.train()
    return tokens


def _next(logits, generator, temperature):
    if generator is None:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)


def checked_tokens(tokens, name, vocab_size=None):
    """(B, n) int64, and within the vocabulary where its size is given"""
    if not is_tensor(tokens):
        raise TypeError(f"{name} must be a torch tensor of whole numbers (B, n), got {type(tokens).__name__}")
    tokens = whole_array(tokens, name, axes=2)
    if vocab_size and tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < vocab_size):
        got = f"{int(tokens.min())}..{int(tokens.max())}"
        raise ValueError(f"{name} must lie in 0..{vocab_size - 1} (vocab_size={vocab_size}), got {got}")
    return tokens
