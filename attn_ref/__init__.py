"""Attention, written to be read.

Read the files in this order; each one imports only from those above it:

1. `shapes`     arguments are checked at the door
2. `softmax`    scores become shares that sum to one
3. `masks`      who may look at whom
4. `problem`    one attention, checked and spelled out
5. `scores`     how well each key matches each query
6. `attention`  who reads what: softmax(q kᵀ / √d) v
7. `backends`   which implementations this machine offers
8. `backward`   the gradients by hand
9. `online`     softmax in one pass, and how partial results merge
10. `tiled`     attention tile by tile: the specification of the kernels
11. `sentence`  the six-token sentence that the whole course follows
12. `diagnose`  what a map of weights tells: entropy
13. `plots`     pictures of scores and weights (needs matplotlib)

`import attn_ref` needs NumPy alone; every other library is loaded at the first use of what needs it.

House conventions: q is (..., n_q, d), k is (..., n_k, d), v is (..., n_k, d_v). A mask is called `allowed`,
and True means "may attend". A query with nothing to attend to gets the output 0, never NaN.
"""

from importlib import import_module

from attn_ref import sentence
from attn_ref.attention import attention
from attn_ref.backends import backends
from attn_ref.backward import attention_backward, softmax_vjp
from attn_ref.diagnose import weights_entropy
from attn_ref.masks import causal_mask, document_mask, padding_mask, prefix_mask, sliding_window_mask
from attn_ref.online import merge_partials, online_update
from attn_ref.scores import attention_scores
from attn_ref.softmax import logsumexp, softmax
from attn_ref.tiled import tiled_attention, tiled_backward

__version__ = "0.1.0"
__all__ = [
    "attention",
    "attention_backward",
    "attention_scores",
    "backends",
    "causal_mask",
    "document_mask",
    "logsumexp",
    "merge_partials",
    "online_update",
    "padding_mask",
    "plots",
    "prefix_mask",
    "sentence",
    "sliding_window_mask",
    "softmax",
    "softmax_vjp",
    "tiled_attention",
    "tiled_backward",
    "weights_entropy",
]


def __getattr__(name):
    if name == "plots":  # matplotlib costs half a second: only those who draw pay for it
        return import_module("attn_ref.plots")
    raise AttributeError(f"module 'attn_ref' has no attribute {name!r}; it offers {', '.join(__all__)}")
