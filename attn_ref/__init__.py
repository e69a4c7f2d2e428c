"""Attention, written to be read.

Read the files in this order; each one imports only from those above it.

Attention
 1. `shapes`      arguments are checked at the door
 2. `softmax`     scores become shares that sum to one
 3. `masks`       who may look at whom
 4. `problem`     one attention, checked and spelled out
 5. `scores`      how well each key matches each query
 6. `attention`   who reads what: softmax(q kᵀ / √d) v
 7. `backends`    which implementations this machine offers
 8. `backward`    the gradients by hand
 9. `differences` gradients measured, to check those
10. `routing`     lookups that learn what to ask for

A model
11. `positions`   sinusoids, rotations, ALiBi
12. `context`     longer contexts than trained for: interpolation, NTK, YaRN
13. `echoes`      a language, and a model of it, to measure positions with
14. `heads`       one vector cut into heads, and put together again
15. `multihead`   several small attentions side by side (torch)
16. `block`       norm, attention, feed-forward, residuals (torch)
17. `language`    what a language model is trained on, and how it writes (torch)
18. `tiny_lm`     a language model that trains in a minute (torch)
19. `stories`     two languages whose pronouns have known antecedents
20. `training`    a step downhill, again and again (torch)
21. `ablation`    a head switched off for a while (torch)
22. `pretrained`  the maps of a model trained by others (transformers)

What it costs, and what saves it
23. `cost`        FLOPs, bytes and the roofline, by formulas
24. `cache`       keys and values of the tokens so far
25. `paged`       the same in blocks, shared between sequences
26. `packed`      sequences of different lengths in one call
27. `decode`      one token, or one chunk, at a time

Kernels
28. `online`      softmax in one pass, and how partial results merge
29. `tiled`       attention tile by tile: the specification of the kernels
30. `numba_compile`, `numba_exp2`, `numba_steps`, `numba_forward`, `numba_backward`, `numba_decode`,
    `numba_backend`, `flash`   the same on a CPU, compiled
31. `triton_here`, `triton_lessons`   Triton kernels as small as a lesson
32. `triton_watch`, `triton_read`   who touches what in a kernel, and what a compiler makes of it
33. `triton_tiles`, `triton_forward`, `triton_backward`, `triton_decode`, `triton_tuning`, `triton_backend`,
    `triton_aot`   the same on a GPU
34. `carried`, `watched`, `iterations`, `numba_types`   what a parallel loop touches, and in which dtype it computes
35. `autograd`    kernels in torch's graph

Looking
36. `sentence`    the six-token sentence that the whole course follows
37. `diagnose`    what a map of weights tells
38. `effect`      is a difference more than luck?
39. `errands`     a language that hides answers, and a model that learns to find them (torch)
40. `clinic`      a healthy layer, and the same with one bug (torch)
41. `plots`       pictures of scores and weights (matplotlib)
42. `bench`       time and memory, measured

`import attn_ref` needs NumPy alone; every other library is loaded by the first use of what needs it.

House conventions: q is (..., Hq, n_q, d), k is (..., Hkv, n_k, d), v is (..., Hkv, n_k, d_v). A mask is called
`allowed`, and True means "may attend". A query with nothing to attend to gets the output 0, never NaN.
"""

from importlib import import_module

from attn_ref import diagnose, echoes, sentence, stories
from attn_ref.attention import attention
from attn_ref.backends import backends
from attn_ref.backward import attention_backward, softmax_vjp
from attn_ref.cache import KVCache, RollingKVCache
from attn_ref.context import interpolate_positions, ntk_base, yarn_frequencies, yarn_temperature
from attn_ref.decode import decode_step, prefill_in_chunks
from attn_ref.diagnose import coreference_score, induction_score, previous_token_score, weights_entropy
from attn_ref.differences import gradient_error, numerical_gradient
from attn_ref.effect import paired_bootstrap
from attn_ref.heads import merge_heads, split_heads
from attn_ref.masks import causal_mask, document_mask, padding_mask, prefix_mask, sliding_window_mask
from attn_ref.online import merge_partials, online_update
from attn_ref.packed import attention_left_padded, attention_packed, pack, unpack
from attn_ref.paged import BlockPool, PagedKVCache, paged_attention
from attn_ref.positions import alibi_bias, alibi_slopes, rope, rotary_frequencies, sinusoidal
from attn_ref.routing import sampled_gradient, straight_through, train_lookup
from attn_ref.scores import attention_scores
from attn_ref.softmax import logsumexp, softmax
from attn_ref.tiled import tiled_attention, tiled_backward

__version__ = "0.1.0"

# What needs more than NumPy, or takes a while to load, and the file it comes from.
LATER = {
    "MultiHeadAttention": "multihead",
    **dict.fromkeys(("FeedForward", "TransformerBlock", "layer_norm", "rms_norm"), "block"),
    **dict.fromkeys(("causal_lm_loss", "generate"), "language"),
    "TinyLM": "tiny_lm",
    **dict.fromkeys(("train", "story_model", "story_loss", "right_answers"), "training"),
    "ablate_head": "ablation",
    **dict.fromkeys(("NotAtHand", "pretrained_maps"), "pretrained"),
    **dict.fromkeys(("flash_forward", "flash_backward", "decode_split_kv"), "flash"),
    **{module: module for module in ("bench", "clinic", "cost", "errands", "plots")},
}
__all__ = [
    "BlockPool",
    "FeedForward",
    "KVCache",
    "MultiHeadAttention",
    "NotAtHand",
    "PagedKVCache",
    "RollingKVCache",
    "TinyLM",
    "TransformerBlock",
    "ablate_head",
    "alibi_bias",
    "alibi_slopes",
    "attention",
    "attention_backward",
    "attention_left_padded",
    "attention_packed",
    "attention_scores",
    "backends",
    "bench",
    "causal_lm_loss",
    "causal_mask",
    "clinic",
    "coreference_score",
    "cost",
    "decode_split_kv",
    "decode_step",
    "diagnose",
    "document_mask",
    "echoes",
    "errands",
    "flash_backward",
    "flash_forward",
    "generate",
    "gradient_error",
    "induction_score",
    "interpolate_positions",
    "layer_norm",
    "logsumexp",
    "merge_heads",
    "merge_partials",
    "ntk_base",
    "numerical_gradient",
    "online_update",
    "pack",
    "padding_mask",
    "paged_attention",
    "paired_bootstrap",
    "plots",
    "prefill_in_chunks",
    "prefix_mask",
    "pretrained_maps",
    "previous_token_score",
    "right_answers",
    "rms_norm",
    "rope",
    "rotary_frequencies",
    "sampled_gradient",
    "sentence",
    "sinusoidal",
    "sliding_window_mask",
    "softmax",
    "softmax_vjp",
    "split_heads",
    "stories",
    "story_loss",
    "story_model",
    "straight_through",
    "tiled_attention",
    "tiled_backward",
    "train",
    "train_lookup",
    "unpack",
    "weights_entropy",
    "yarn_frequencies",
    "yarn_temperature",
]


def __getattr__(name):
    if name not in LATER:
        raise AttributeError(f"module 'attn_ref' has no attribute {name!r}; it offers {', '.join(__all__)}")
    try:
        module = import_module(f"attn_ref.{LATER[name]}")
    except ModuleNotFoundError as missing:
        library = (missing.name or "").split(".")[0]
        if library == "attn_ref":
            raise
        also = " scipy threadpoolctl" if library in ("numba", "llvmlite") else ""
        raise ImportError(f"attn_ref.{name} needs {library}: pip install -c pins.txt {library}{also}") from missing
    return module if LATER[name] == name else getattr(module, name)


def __dir__():
    return sorted({*globals(), *__all__})
