"""Wrong calls of the core and the message each gets: which argument, what was expected, what came, the likely cause."""

import re
import subprocess
import sys

import numpy as np
import pytest

import attn_ref

rng = np.random.default_rng(5)
Q, K, V = (rng.normal(size=shape) for shape in [(2, 6, 3, 4), (2, 3, 5, 4), (2, 3, 5, 7)])
GRAD = rng.normal(size=(2, 6, 3, 7))
OUT, LSE = attn_ref.attention(Q, K, V, return_lse=True)
RAGGED = [[1.0, 2.0], [3.0]]


def attention(q=Q, k=K, v=V, **options):
    return attn_ref.attention(q, k, v, **options)


def backward(q=Q, k=K, v=V, grad_out=GRAD, **options):
    return attn_ref.attention_backward(q, k, v, grad_out, **options)


def tiled(q=Q, k=K, v=V, block_q=2, block_k=3, **options):
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, **options)


def tiled_backward(q=Q, k=K, v=V, out=OUT, lse=LSE, grad_out=GRAD, **options):
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, **options)


STATE = {"row_max": [-np.inf] * 3, "row_sum": [0.0] * 3, "acc": [[0.0, 0.0]] * 3}
BLOCK = {"scores": np.ones((3, 4)), "values": np.ones((4, 2))}
PARTS = {"o1": np.ones((3, 2)), "lse1": np.ones(3), "o2": np.ones((3, 2)), "lse2": np.ones(3)}


def update(**replaced):
    return attn_ref.online_update(**{**STATE, **BLOCK, **replaced})


def merge(**replaced):
    return attn_ref.merge_partials(**{**PARTS, **replaced})


# One message a line: what is called, how, and what the caller reads (as a part of the message, not as a pattern).
CALLS = {
    "softmax": [
        (lambda: attn_ref.softmax(None), "x must be an array, got None; did a function forget its return?"),
        (lambda: attn_ref.softmax("0.5"), "x must hold real numbers, got dtype <U3; was text"),
        (lambda: attn_ref.softmax(["a", "b"]), "x must hold real numbers, got dtype <U1; was text"),
        (lambda: attn_ref.softmax(RAGGED), "x must be an array, but its rows differ in length; pad them"),
        (lambda: attn_ref.softmax(3.0), "x needs a shape (..., n), got ()"),
        (lambda: attn_ref.softmax([1j, 2]), "x must hold real numbers, got dtype complex128; take its real part?"),
        (lambda: attn_ref.softmax({"a": 1}), "x must hold real numbers, got dtype object; was text or a list of"),
        (lambda: attn_ref.softmax(Q, axis=4), "axis 4 does not exist: x has 4 axes, shape (2, 6, 3, 4)"),
        (lambda: attn_ref.softmax(Q, axis=-5), "axis -5 does not exist: x has 4 axes"),
        (lambda: attn_ref.softmax(Q, axis=1.0), "axis must be a whole number, got float 1.0"),
        (lambda: attn_ref.softmax(Q, axis=(2, 3)), "axis must be a whole number, got tuple (2, 3)"),
        (lambda: attn_ref.softmax(Q, axis=None), "axis must be a whole number, got NoneType None"),
    ],
    "logsumexp": [
        (lambda: attn_ref.logsumexp(None), "x must be an array, got None"),
        (lambda: attn_ref.logsumexp("a"), "x must hold real numbers, got dtype <U1"),
        (lambda: attn_ref.logsumexp(RAGGED), "x must be an array, but its rows differ in length"),
        (lambda: attn_ref.logsumexp(7), "x needs a shape (..., n), got ()"),
        (lambda: attn_ref.logsumexp(1j * Q), "x must hold real numbers, got dtype complex128"),
        (lambda: attn_ref.logsumexp(Q, axis=7), "axis 7 does not exist: x has 4 axes"),
        (lambda: attn_ref.logsumexp(Q, axis="last"), "axis must be a whole number, got str 'last'"),
        (lambda: attn_ref.logsumexp(Q, axis=True), "axis must be a whole number, got bool True"),
    ],
    "causal_mask": [
        (lambda: attn_ref.causal_mask(-1, 3), "n_q must be at least 0, got -1"),
        (lambda: attn_ref.causal_mask(3, -2), "n_k must be at least 0, got -2"),
        (lambda: attn_ref.causal_mask(3.0, 3), "n_q must be a whole number, got float 3.0"),
        (lambda: attn_ref.causal_mask(3, "5"), "n_k must be a whole number, got str '5'"),
        (lambda: attn_ref.causal_mask(None, 5), "n_q must be a whole number, got NoneType None"),
        (lambda: attn_ref.causal_mask((3, 5), 5), "n_q must be a whole number, got tuple (3, 5)"),
        (lambda: attn_ref.causal_mask(Q, K), "n_q must be a whole number, got ndarray of shape (2, 6, 3, 4)"),
        (lambda: attn_ref.causal_mask(True, 5), "n_q must be a whole number, got bool True"),
    ],
    "sliding_window_mask": [
        (lambda: attn_ref.sliding_window_mask(3, 5, 0), "window must be at least 1, got 0"),
        (lambda: attn_ref.sliding_window_mask(3, 5, -1), "window must be at least 1, got -1"),
        (lambda: attn_ref.sliding_window_mask(3, 5, 2.0), "window must be a whole number, got float 2.0"),
        (lambda: attn_ref.sliding_window_mask(3, 5, (1, 2)), "window must be a whole number, got tuple (1, 2)"),
        (lambda: attn_ref.sliding_window_mask(3, 5, None), "window must be a whole number, got NoneType None"),
        (lambda: attn_ref.sliding_window_mask(3.5, 5, 2), "n_q must be a whole number, got float 3.5"),
        (lambda: attn_ref.sliding_window_mask(3, -5, 2), "n_k must be at least 0, got -5"),
        (lambda: attn_ref.sliding_window_mask(Q, 5, 2), "n_q must be a whole number, got ndarray"),
    ],
    "padding_mask": [
        (lambda: attn_ref.padding_mask([2, 9], 5), "lengths must lie in 0..5, got 2..9; is n the padded length?"),
        (lambda: attn_ref.padding_mask([-1], 5), "lengths must lie in 0..5, got -1..-1"),
        (lambda: attn_ref.padding_mask([2.0], 5), "lengths must hold whole numbers, got dtype float64"),
        (
            lambda: attn_ref.padding_mask(3, 5),
            "lengths must have 1 axis, got shape (); a single number goes into a list",
        ),
        (lambda: attn_ref.padding_mask([[1, 1, 0]], 3), "lengths must have 1 axis, got shape (1, 3)"),
        (lambda: attn_ref.padding_mask([True, False], 2), "lengths must hold whole numbers, got dtype bool"),
        (lambda: attn_ref.padding_mask(["hello"], 5), "lengths must hold whole numbers, got dtype <U5"),
        (lambda: attn_ref.padding_mask([[1], [1, 2]], 5), "lengths must be an array, but its rows differ in length"),
        (lambda: attn_ref.padding_mask(None, 5), "lengths must be an array, got None"),
        (lambda: attn_ref.padding_mask([3], [5]), "n must be a whole number, got list [5]"),
        (lambda: attn_ref.padding_mask([3], -5), "n must be at least 0, got -5"),
        (lambda: attn_ref.padding_mask([3], 5, side="Left"), "side must be one of 'right', 'left', got str 'Left'"),
        (lambda: attn_ref.padding_mask([3], 5, side=None), "side must be one of 'right', 'left', got NoneType None"),
    ],
    "document_mask": [
        (
            lambda: attn_ref.document_mask([1, 2, 1]),
            "doc_ids must come in runs, one a document, but an id returns later",
        ),
        (lambda: attn_ref.document_mask([0.0, 1.0]), "doc_ids must hold whole numbers, got dtype float64"),
        (lambda: attn_ref.document_mask(["a", "b"]), "doc_ids must hold whole numbers, got dtype <U1"),
        (lambda: attn_ref.document_mask([True, False]), "doc_ids must hold whole numbers, got dtype bool"),
        (lambda: attn_ref.document_mask(5), "doc_ids must have 1 axis, got shape (); a single number goes into a list"),
        (lambda: attn_ref.document_mask([[1, 1, 2]]), "doc_ids must have 1 axis, got shape (1, 3)"),
        (lambda: attn_ref.document_mask([[1], [1, 2]]), "doc_ids must be an array, but its rows differ in length"),
        (lambda: attn_ref.document_mask(None), "doc_ids must be an array, got None"),
    ],
    "prefix_mask": [
        (lambda: attn_ref.prefix_mask(3, 5), "prefix must be at most n=3, got 5"),
        (lambda: attn_ref.prefix_mask(3, -1), "prefix must be at least 0, got -1"),
        (lambda: attn_ref.prefix_mask(-3, 0), "n must be at least 0, got -3"),
        (lambda: attn_ref.prefix_mask(3, 1.5), "prefix must be a whole number, got float 1.5"),
        (lambda: attn_ref.prefix_mask(3, None), "prefix must be a whole number, got NoneType None"),
        (lambda: attn_ref.prefix_mask(3, [1, 2]), "prefix must be a whole number, got list [1, 2]"),
        (lambda: attn_ref.prefix_mask("3", 1), "n must be a whole number, got str '3'"),
        (lambda: attn_ref.prefix_mask(Q, 1), "n must be a whole number, got ndarray of shape (2, 6, 3, 4)"),
    ],
    "attention_scores": [
        (
            lambda: attn_ref.attention_scores(Q, K[..., :3]),
            "k has d=3 but q has d=4; a query meets a key by a dot product",
        ),
        (lambda: attn_ref.attention_scores(Q[0, 0], K[0, 0].T), "is one of them transposed? Got q (3, 4), k (4, 5)"),
        (
            lambda: attn_ref.attention_scores(Q[0, 0, 0], K),
            "q needs a shape (..., n, d), got (4,); a single vector is (1, d)",
        ),
        (lambda: attn_ref.attention_scores(Q, None), "k must be an array, got None"),
        (lambda: attn_ref.attention_scores(RAGGED, K), "q must be an array, but its rows differ in length"),
        (lambda: attn_ref.attention_scores(Q * 1j, K), "q must hold real numbers, got dtype complex128"),
        (lambda: attn_ref.attention_scores(Q, K, scale="0.5"), "scale must be a number, got str '0.5'"),
        (lambda: attn_ref.attention_scores(Q, K, scale=np.inf), "scale must be finite, got inf"),
        (lambda: attn_ref.attention_scores(Q, K, sinks=np.ones(6)), "attention_scores takes no sinks: a sink joins"),
        (lambda: attn_ref.attention_scores(Q, K, backend="numpy"), "there is no option backend here; those that say"),
        (lambda: attn_ref.attention_scores(Q, K, causal=1), "causal must be True or False, got int; a mask is passed"),
        (lambda: attn_ref.attention_scores(Q[:, :5], K), "q has 5 heads, which 3 KV heads cannot share evenly"),
    ],
    "attention, its arrays": [
        (lambda: attention(q=None), "q must be an array, got None; did a function forget its return?"),
        (lambda: attention(v="values"), "v must hold real numbers, got dtype <U6"),
        (lambda: attention(k=RAGGED), "k must be an array, but its rows differ in length; pad them to one length"),
        (lambda: attention(q=Q + 0j), "q must hold real numbers, got dtype complex128; take its real part?"),
        (lambda: attention(q=np.array([[None, 1.0]])), "q must hold real numbers, got dtype object"),
        (lambda: attention(q=2.0), "q needs a shape (..., n, d), got ()"),
        (lambda: attention(v=V[0, 0, 0]), "v needs a shape (..., n, d), got (7,); a single vector is (1, d)"),
        (lambda: attention(k=K[..., :2]), "k has d=2 but q has d=4"),
        (lambda: attention(v=V[:, :, :4]), "k holds 5 keys but v holds 4 values; each key labels one value"),
        (lambda: attention(v=V[:, :1]), "k has 3 heads but v has 1; a head's keys and values belong together"),
        (lambda: attention(q=Q[:, :4]), "q has 4 heads, which 3 KV heads cannot share evenly"),
        (lambda: attention(*(x.swapaxes(1, 2) for x in (Q, K, V))), "so is an axis missing or swapped?"),
        (lambda: attention(q=Q.transpose(), k=K, v=V), "k has d=4 but q has d=2"),
        (lambda: attention(k=K[:, :0], v=V[:, :0]), "q has 6 heads, which 0 KV heads cannot share evenly"),
        (lambda: attention(q=np.concatenate([Q, Q])[:3]), "the leading (batch) axes of q, k and v do not match"),
    ],
    "attention, who may look": [
        (lambda: attention(causal=1), "causal must be True or False, got int; a mask is passed as allowed"),
        (
            lambda: attention(causal=attn_ref.causal_mask(3, 5)),
            "causal must be True or False, got ndarray; a mask is passed",
        ),
        (lambda: attention(causal=None), "causal must be True or False, got NoneType"),
        (lambda: attention(window=0), "window must be at least 1, got 0; a window is a number of keys or a pair"),
        (lambda: attention(window=-1), "window must be at least 1, got -1; a window is a number of keys or a pair"),
        (lambda: attention(window=2.5), "window must be a whole number, got float 2.5; a window is"),
        (lambda: attention(window=(1, 2, 3)), "window must be a whole number, got tuple (1, 2, 3); a window is"),
        (
            lambda: attention(window=(-1, 0)),
            "window's left side must be at least 0, got -1; a window is a number of keys",
        ),
        (
            lambda: attention(window=(1, -1)),
            "got -1; a window is a number of keys or a pair (left, right), and None, not -1",
        ),
        (lambda: attention(window=(1, "2")), "window's right side must be a whole number, got str '2'"),
        (
            lambda: attention(window=np.array([1, 2])),
            "got ndarray of shape (2,); a window is a number of keys or a pair",
        ),
        (lambda: attention(window=True), "window must be a whole number, got bool True"),
        (
            lambda: attention(allowed=np.ones((3, 5))),
            "allowed must be boolean, True = may attend, got dtype float64; is it",
        ),
        (lambda: attention(allowed=np.ones((3, 5), int)), "Is it 0 and 1? Then pass allowed == 1"),
        (lambda: attention(allowed="causal"), "allowed must be boolean, True = may attend, got dtype <U6"),
        (lambda: attention(allowed=[[True], [True, False]]), "allowed must be an array, but its rows differ in length"),
        (
            lambda: attention(allowed=np.ones((5, 3), bool)),
            "allowed has shape (5, 3), which does not broadcast to the scores",
        ),
        (lambda: attention(allowed=np.ones((2, 5), bool)), "for padding, (B, 1, 1, n_k)"),
        (lambda: attention(allowed=attn_ref.padding_mask([3, 5], 5)), "needs an axis for the heads"),
        (lambda: attention(allowed=np.ones((2, 3, 3, 5), bool)), "= (2, 6, 3, 5); queries come before keys"),
    ],
    "attention, lengths and offsets": [
        (lambda: attention(kv_len=-1), "kv_len must lie in 0..5, the number of keys, got -1..-1"),
        (lambda: attention(kv_len=[2, 9]), "kv_len must lie in 0..5, the number of keys, got 2..9"),
        (lambda: attention(kv_len=[2.0, 3.0]), "kv_len must hold whole numbers, got dtype float64"),
        (
            lambda: attention(kv_len=[[2], [3]]),
            "kv_len must be one number or one for each batch entry, shape (2,), got",
        ),
        (lambda: attention(kv_len=[1, 2, 3]), "shape (2,), got shape (3,)"),
        (lambda: attention(kv_len=True), "kv_len must hold whole numbers, got dtype bool"),
        (lambda: attention(kv_len="5"), "kv_len must hold whole numbers, got dtype <U1"),
        (lambda: attention(kv_len=[[1], [1, 2]]), "kv_len must be an array, but its rows differ in length"),
        (lambda: attention(q_offset=1.5), "q_offset must hold whole numbers, got dtype float64"),
        (lambda: attention(q_offset=[0, 1, 2]), "q_offset must be one number or one for each batch entry, shape (2,)"),
        (lambda: attention(q_offset="0"), "q_offset must hold whole numbers, got dtype <U1"),
        (lambda: attention(Q[0], K[0], V[0], q_offset=[0, 1]), "one for each batch entry, shape (), got shape (2,)"),
    ],
    "attention, what is added": [
        (
            lambda: attention(bias=np.ones((3, 5), bool)),
            "bias must hold numbers, got True and False; a mask is passed as",
        ),
        (lambda: attention(bias="alibi"), "bias must hold real numbers, got dtype <U5"),
        (lambda: attention(bias=np.ones((5, 3))), "bias has shape (5, 3), which does not broadcast to the scores"),
        (lambda: attention(bias=1j), "bias must hold real numbers, got dtype complex128"),
        (lambda: attention(scale="0.1"), "scale must be a number, got str '0.1'"),
        (lambda: attention(scale=np.nan), "scale must be finite, got nan"),
        (lambda: attention(scale=[0.1, 0.2]), "scale must be a number, got list [0.1, 0.2]"),
        (lambda: attention(scale=True), "scale must be a number, got bool True"),
        (lambda: attention(softcap=0), "softcap must be greater than 0, got 0"),
        (lambda: attention(softcap=-30.0), "softcap must be greater than 0, got -30"),
        (lambda: attention(softcap=np.inf), "softcap must be finite, got inf"),
        (lambda: attention(softcap="30"), "softcap must be a number, got str '30'"),
        (
            lambda: attention(sinks=np.ones(3)),
            "sinks must hold one number for each of the 6 query heads, got shape (3,)",
        ),
        (lambda: attention(sinks=1.0), "sinks must hold one number for each of the 6 query heads, got shape ()"),
        (lambda: attention(sinks=RAGGED), "sinks must be an array, but its rows differ in length"),
        (lambda: attention(alibi=True), "alibi must hold one number for each of the 6 query heads, got shape ()"),
        (lambda: attention(alibi=np.ones((6, 3, 5))), "for each of the 6 query heads, got shape (6, 3, 5)"),
        (lambda: attention(alibi=["steep"] * 6), "alibi must hold real numbers, got dtype <U5"),
    ],
    "attention, its backends": [
        (
            lambda: attention(backend="cuda"),
            "backend must be one of 'numpy', 'torch', 'numba', 'triton', got str 'cuda'",
        ),
        (
            lambda: attention(backend="NumPy"),
            "backend must be one of 'numpy', 'torch', 'numba', 'triton', got str 'NumPy'",
        ),
        (lambda: attention(backend=1), "backend must be one of 'numpy', 'torch', 'numba', 'triton', got int 1"),
        (lambda: attention(backend=["numpy"]), "'triton', got list ['numpy']"),
        (lambda: attention(backend=np.ones(2)), "'triton', got ndarray of shape (2,)"),
        (lambda: attention(backend=True), "'triton', got bool True"),
        (lambda: attention(backend=""), "'triton', got str ''"),
        (lambda: attention(backend="flash"), "'triton', got str 'flash'"),
    ],
    "softmax_vjp": [
        (
            lambda: attn_ref.softmax_vjp(np.ones((2, 3)), np.ones(3)),
            "grad must have the shape of weights, (2, 3), got (3,)",
        ),
        (lambda: attn_ref.softmax_vjp(np.ones((2, 3)), np.ones((3, 2))), "(2, 3), got (3, 2)"),
        (lambda: attn_ref.softmax_vjp(0.5, 1.0), "weights needs a shape (..., n), got ()"),
        (lambda: attn_ref.softmax_vjp([0.5, 0.5], 1.0), "grad needs a shape (..., n), got ()"),
        (lambda: attn_ref.softmax_vjp([0.5, 0.5], None), "grad must be an array, got None"),
        (lambda: attn_ref.softmax_vjp(RAGGED, [1.0]), "weights must be an array, but its rows differ in length"),
        (lambda: attn_ref.softmax_vjp("ab", [1.0]), "weights must hold real numbers, got dtype <U2"),
        (lambda: attn_ref.softmax_vjp([0.5, 0.5], [1j, 0]), "grad must hold real numbers, got dtype complex128"),
    ],
    "attention_backward": [
        (lambda: backward(grad_out=None), "grad_out must be an array, got None"),
        (lambda: backward(grad_out=1.0), "grad_out must have the shape (2, 6, 3, 7) that attention gives"),
        (lambda: backward(grad_out=GRAD[0]), "that attention gives for these q, k and v, got (6, 3, 7)"),
        (lambda: backward(grad_out=Q), "grad_out must have the shape (2, 6, 3, 7) that attention gives"),
        (lambda: backward(grad_out=GRAD * 1j), "grad_out must hold real numbers, got dtype complex128"),
        (lambda: backward(grad_out=RAGGED), "grad_out must be an array, but its rows differ in length"),
        (lambda: backward(out=OUT[..., :2], lse=LSE), "out must have the shape (2, 6, 3, 7) that attention gives"),
        (lambda: backward(out=OUT, lse=LSE[..., None]), "lse must have the shape (2, 6, 3) that attention gives"),
        (lambda: backward(k=K[..., :3]), "k has d=3 but q has d=4"),
        (
            lambda: backward(backend="cuda"),
            "backend must be one of 'numpy', 'torch', 'numba', 'triton', got str 'cuda'",
        ),
        (lambda: backward(backend="torch"), "backend 'torch' cannot do this"),
        (lambda: backward(return_lse=True), "there is no option return_lse here; those that say what is computed are"),
        (lambda: backward(causal=1), "causal must be True or False, got int"),
    ],
    "online_update": [
        (lambda: update(row_max=-np.inf), "row_max must hold one number for each row of scores, (3,), got shape ()"),
        (
            lambda: update(row_max=np.zeros((3, 1))),
            "row_max must hold one number for each row of scores, (3,), got shape (3, 1)",
        ),
        (
            lambda: update(row_sum=np.zeros(4)),
            "row_sum must hold one number for each row of scores, (3,), got shape (4,)",
        ),
        (lambda: update(acc=np.zeros(3)), "acc must be (rows..., d_v) = (3, 2), got shape (3,)"),
        (lambda: update(acc=np.zeros((3, 5))), "acc must be (rows..., d_v) = (3, 2), got shape (3, 5)"),
        (
            lambda: update(values=np.ones((5, 2))),
            "scores are for 4 keys but values holds 5; one column of scores is one row",
        ),
        (lambda: update(values=np.ones((2, 4))), "scores are for 4 keys but values holds 2"),
        (lambda: update(scores=np.ones((4, 3))), "scores are for 3 keys but values holds 4"),
        (lambda: update(values=np.ones(4)), "values needs a shape (..., b, d_v), got (4,); a single vector is (1, d)"),
        (lambda: update(scores=None), "scores must be an array, got None"),
        (lambda: update(scores=RAGGED), "scores must be an array, but its rows differ in length"),
        (lambda: update(scores="high"), "scores must hold real numbers, got dtype <U4"),
    ],
    "merge_partials": [
        (lambda: merge(lse1=np.ones((3, 1))), "lse1 must hold one number for each row of outputs, (3,), got (3, 1)"),
        (lambda: merge(lse2=0.0), "lse2 must hold one number for each row of outputs, (3,), got ()"),
        (
            lambda: merge(o2=np.ones((4, 2)), lse2=np.ones(4)),
            "o1 and o2 are outputs of the same queries, but have shapes",
        ),
        (lambda: attn_ref.merge_partials(OUT, OUT, LSE, LSE), "the order is o1, lse1, o2, lse2"),
        (lambda: merge(o1=1.0), "o1 needs a shape (..., n), got ()"),
        (lambda: merge(o1=None), "o1 must be an array, got None"),
        (lambda: merge(lse1=None), "lse1 must be an array, got None"),
        (lambda: merge(o2="out"), "o2 must hold real numbers, got dtype <U3"),
        (lambda: merge(o1=RAGGED), "o1 must be an array, but its rows differ in length"),
        (lambda: merge(lse2=np.ones(3) * 1j), "lse2 must hold real numbers, got dtype complex128"),
    ],
    "tiled_attention": [
        (lambda: tiled(block_q=0), "block_q must be at least 1, got 0"),
        (lambda: tiled(block_k=-2), "block_k must be at least 1, got -2"),
        (lambda: tiled(block_q=2.0), "block_q must be a whole number, got float 2.0"),
        (lambda: tiled(block_k=None), "block_k must be a whole number, got NoneType None"),
        (lambda: tiled(block_q=(2, 3)), "block_q must be a whole number, got tuple (2, 3)"),
        (
            lambda: tiled(causal=attn_ref.causal_mask(3, 5)),
            "causal must be True or False, got ndarray; a mask is passed",
        ),
        (lambda: tiled(k=K[..., :3]), "k has d=3 but q has d=4"),
        (lambda: tiled(v=None), "v must be an array, got None"),
        (lambda: tiled(backend="numpy"), "there is no option backend here"),
        (lambda: tiled(allowed=np.ones((3, 5))), "allowed must be boolean, True = may attend, got dtype float64"),
    ],
    "tiled_backward": [
        (lambda: tiled_backward(out=None), "out must be an array, got None"),
        (lambda: tiled_backward(lse=LSE[..., None]), "lse must have the shape (2, 6, 3) that attention gives"),
        (lambda: tiled_backward(out=GRAD[..., :1]), "out must have the shape (2, 6, 3, 7) that attention gives"),
        (lambda: tiled_backward(out=GRAD, lse=OUT, grad_out=LSE), "grad_out must have the shape (2, 6, 3, 7)"),
        (lambda: tiled_backward(grad_out=1.0), "grad_out must have the shape (2, 6, 3, 7) that attention gives"),
        (lambda: tiled_backward(block_q=0), "block_q must be at least 1, got 0"),
        (lambda: tiled_backward(block_k=1.5), "block_k must be a whole number, got float 1.5"),
        (lambda: tiled_backward(return_lse=True), "there is no option return_lse here"),
        (lambda: tiled_backward(window=-1), "window must be at least 1, got -1"),
    ],
}
CASES = [pytest.param(*case, id=f"{name} {i}") for name, cases in CALLS.items() for i, case in enumerate(cases)]


@pytest.mark.parametrize(("call", "message"), CASES)
def test_a_wrong_call_is_answered_in_words(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_every_function_has_at_least_eight_wrong_calls():
    assert min(len(cases) for cases in CALLS.values()) >= 8


def with_torch(torch):
    """Arrays where tensors belong and the other way round, by name."""
    tensor, one = torch.tensor, torch.ones(3, dtype=torch.float64)
    q, k, v = tensor(Q), tensor(K), tensor(V)
    return {
        "a tensor among arrays": (
            lambda: attention(q=q),
            "q, k and v must live in one place, got {'q': 'cpu', 'k': 'NumPy'",
        ),
        "an array among tensors": (lambda: attention(q, K, v), "move them to one library and device"),
        "a list beside tensors": (lambda: attention([[1.0]], k, v), "q, k and v must live in one place"),
        "another device": (lambda: attention(q, k.to("meta"), v), "got {'q': 'cpu', 'k': 'meta', 'v': 'cpu'}"),
        "a list of tensors": (
            lambda: attention([q[0], q[1]]),
            "q is a list of torch tensors; make it one tensor with torch",
        ),
        "a complex tensor": (lambda: attention(q * 1j, k, v), "q must hold real numbers, got a complex tensor"),
        "a mask as a tensor": (
            lambda: attention(allowed=torch.ones(3, 5) > 0),
            "allowed is a torch tensor but the other",
        ),
        "a mask of floats": (
            lambda: attention(q, k, v, allowed=torch.ones(3, 5)),
            "allowed must be boolean, True = may att",
        ),
        "a mask as a bias": (
            lambda: attention(q, k, v, bias=torch.ones(3, 5) > 0),
            "bias must hold numbers, got True and F",
        ),
        "a bias as a tensor": (
            lambda: attention(bias=torch.ones(3, 5)),
            "bias is a torch tensor but the other inputs are",
        ),
        "sinks as a tensor": (
            lambda: attention(sinks=torch.ones(6)),
            "sinks is a torch tensor but the other inputs are NumPy",
        ),
        "lengths as a tensor": (
            lambda: attention(kv_len=tensor([1, 2])),
            "kv_len is a torch tensor but the other inputs are",
        ),
        "an offset as a tensor": (
            lambda: attention(q_offset=tensor(1)),
            "q_offset is a torch tensor but the other inputs",
        ),
        "lengths as floats": (
            lambda: attention(q, k, v, kv_len=tensor([1.0, 2.0])),
            "kv_len must hold whole numbers, got dt",
        ),
        "lengths of another shape": (
            lambda: attention(q, k, v, kv_len=tensor([[1], [2]])),
            "shape (2,), got shape (2, 1)",
        ),
        "a scale for each head": (
            lambda: attention(q, k, v, scale=torch.ones(6)),
            "scale must be a number, got Tensor of shape",
        ),
        "torch for arrays": (lambda: attention(backend="torch"), "q, k and v are NumPy arrays; pass torch tensors"),
        "numpy for tensors": (
            lambda: attention(q, k, v, backend="numpy"),
            "q, k and v are torch tensors; pass NumPy arrays",
        ),
        "tiles of tensors": (
            lambda: tiled(q, k, v),
            "q is a torch tensor; the tiled version is NumPy only, so pass q.numpy()",
        ),
        "a gradient as a tensor": (
            lambda: backward(grad_out=tensor(GRAD)),
            "grad_out is a torch tensor but the other inputs",
        ),
        "half a state": (
            lambda: update(row_max=one),
            "must be of one library, got {'row_max': 'torch', 'row_sum': 'NumPy'",
        ),
        "half a result": (lambda: merge(lse2=one), "o1, lse1, o2, lse2 must be of one library"),
        "half a product": (lambda: attn_ref.softmax_vjp(one, np.ones(3)), "got {'weights': 'torch', 'grad': 'NumPy'}"),
        "lengths of floats": (
            lambda: attn_ref.padding_mask(one, 5),
            "lengths must hold whole numbers, got dtype torch.float64",
        ),
        "softmax of parts": (lambda: attn_ref.softmax([one, one]), "x is a list of torch tensors; make it one tensor"),
    }


def test_arrays_and_tensors_are_never_mixed():
    torch = pytest.importorskip("torch", reason="tensors are torch's")
    for kind, (call, message) in with_torch(torch).items():
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert message in str(error.value), f"{kind}: {error.value}"


def test_weights_are_not_to_be_had_from_a_kernel():
    if attn_ref.backends()["numba"] != "ready":
        pytest.skip("backend numba: " + attn_ref.backends()["numba"])
    with pytest.raises(ValueError, match="backend 'numba' cannot do this: return_weights asks for the whole matrix"):
        attention(backend="numba", return_weights=True)


@pytest.mark.slow
def test_triton_without_a_gpu_says_how_to_run_it():
    pytest.importorskip("triton", reason="without triton there is another reason")
    code = "import attn_ref; attn_ref.attention([[1.0]], [[1.0]], [[1.0]], backend='triton')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": ""})
    assert "backend 'triton' cannot do this: no GPU; to run on the CPU, slowly, start Python with" in run.stderr


def test_a_name_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(AttributeError, match="has no attribute 'atention'; it offers .*\\battention\\b"):
        attn_ref.atention  # noqa: B018
