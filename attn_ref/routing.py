"""A lookup that learns what to ask for, and two ways to teach one that must choose.

    soft              out = softmax(q kᵀ / √d) v, and its gradient, which is exact
    straight-through  out = the value of the best key, with the gradient that a soft lookup would pass back
    sampled           a key j is drawn by its weight; (loss - baseline) (one-hot(j) - weights) is right on average

Derived in course/03_gradients. The best key alone passes nothing back: a small nudge of q changes no choice.
"""

import numpy as np

from attn_ref.attention import attention
from attn_ref.backward import attention_backward
from attn_ref.scores import attention_scores
from attn_ref.shapes import real_array, real_number, whole_array, whole_number


def train_lookup(keys, values, targets, queries, steps, lr):
    """Gradient descent on the queries of a soft lookup.  -> queries (n, d), the losses before each step

    keys (m, d), values (m, d_v), targets (n, d_v), queries (n, d) to start from. The loss is the mean of
    (output - target)² over all n · d_v entries. NumPy only. Source: chapter 03, exercise 3.5.

    >>> queries, losses = train_lookup([[1.0], [-1.0]], [[1.0], [0.0]], [[1.0]], [[0.0]], steps=2, lr=4.0)
    >>> losses[0], losses[1] < losses[0], bool(queries[0, 0] > 0)
    (0.25, True, True)
    """
    keys, values, targets, queries = _problem(keys, values, targets, queries)
    steps, lr = whole_number(steps, "steps", least=0), real_number(lr, "lr")
    losses = []
    for _ in range(steps):
        gap = attention(queries, keys, values) - targets
        losses.append(float(np.mean(gap**2)))
        dq, _, _ = attention_backward(queries, keys, values, 2 * gap / gap.size)
        queries = queries - lr * dq
    return queries.copy(), losses


def straight_through(keys, values, targets, queries):
    """The best key's value, and a soft lookup's gradient for the loss of that.  -> output (n, d_v), dqueries (n, d)

    Shapes and loss as in `train_lookup`. The gradient is that of no function: forward and backward disagree.
    Sources: Bengio, Léonard & Courville (2013); chapter 03, exercise 3.6.

    >>> out, dq = straight_through([[1.0], [-1.0]], [[1.0], [0.0]], [[0.0]], [[3.0]])
    >>> out.tolist(), bool(dq[0, 0] > 0)  # the loss asks for less of the first key
    ([[1.0]], True)
    """
    keys, values, targets, queries = _problem(keys, values, targets, queries)
    out = values[attention_scores(queries, keys).argmax(-1)]
    dq, _, _ = attention_backward(queries, keys, values, 2 * (out - targets) / out.size)
    return out, dq


def sampled_gradient(weights, picks, losses, baseline=0.0):
    """What tries alone tell about the scores of one query.  weights (m,), picks (n,), losses (n,) -> (m,)

    Key picks[i], drawn by the weights, led to losses[i]. The mean of (loss - baseline) (one-hot(pick) - weights), the
    score-function or REINFORCE estimate: right on average whatever the baseline.
    Sources: Williams (1992); chapter 03, exercise 3.7.

    >>> sampled_gradient([0.5, 0.5], picks=[0, 1], losses=[1.0, 0.0]).tolist()
    [0.25, -0.25]
    """
    weights, losses = real_array(weights, "weights", axes=1, shape="(m,)"), real_array(losses, "losses", axes=1)
    picks, baseline = whole_array(picks, "picks", axes=1), real_number(baseline, "baseline")
    if picks.shape != losses.shape or not len(picks):
        raise ValueError(f"picks and losses must hold one entry a try, got shapes {picks.shape} and {losses.shape}")
    chosen = np.eye(len(weights))[picks]  # (n, m)
    return ((losses - baseline)[:, None] * (chosen - weights)).mean(0)


def _problem(keys, values, targets, queries):
    keys, values = real_array(keys, "keys", axes=2), real_array(values, "values", axes=2)
    targets, queries = real_array(targets, "targets", axes=2), real_array(queries, "queries", axes=2)
    shape = (len(queries), values.shape[-1])
    if targets.shape != shape:
        raise ValueError(f"targets must be {shape}, a target for each query, as long as a value, got {targets.shape}")
    return keys, values, targets, queries
