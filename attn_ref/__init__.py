"""Attention, written to be read.

Read the files in this order; each one imports only from those above it:

1. `softmax`    scores become shares that sum to one
2. `attention`  who reads what: softmax(q kᵀ / √d) v
3. `sentence`   the six-token sentence that the whole course follows
4. `diagnose`   what a map of weights tells: entropy
5. `plots`      pictures of scores and weights (needs matplotlib)

`import attn_ref` needs NumPy alone; `attn_ref.plots` loads matplotlib at its first use.

House conventions: q is (..., n_q, d), k is (..., n_k, d), v is (..., n_k, d_v). A mask is called `allowed`,
and True means "may attend". A query with nothing to attend to gets the output 0, never NaN.
"""

from importlib import import_module

from attn_ref import sentence
from attn_ref.attention import attention, attention_scores, causal_mask
from attn_ref.diagnose import weights_entropy
from attn_ref.softmax import logsumexp, softmax

__version__ = "0.1.0"
__all__ = [
    "attention",
    "attention_scores",
    "causal_mask",
    "logsumexp",
    "plots",
    "sentence",
    "softmax",
    "weights_entropy",
]


def __getattr__(name):
    if name == "plots":  # matplotlib costs half a second: only those who draw pay for it
        return import_module("attn_ref.plots")
    raise AttributeError(f"module 'attn_ref' has no attribute {name!r}; it offers {', '.join(__all__)}")
