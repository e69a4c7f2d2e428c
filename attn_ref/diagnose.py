"""What a map of weights tells about where attention goes, and what a text tells about how it was written.

    entropy H = -Σ_j w_j log w_j        distance Σ_j w_j |p - j|        sink mass Σ_{j < s} w_j

Derived in course/02_scaled_dot_product (entropy), 07_transformer (heads that point) and 13_debugging_clinic. A map is a
probe, not a proof: it says where a head looks, not what the model makes of it. Half precision is summed as float32.
"""

import numpy as np

from attn_ref.shapes import at_hand, is_tensor, namespace, real_array, whole_array, whole_number, working


def weights_entropy(weights):
    """How spread out each row of weights is.  (..., n_k) -> (...), in nats

    0 means one key gets everything; log n_k means all keys share equally. A weight of 0 contributes 0, the limit of
    w log w. Source: Shannon (1948); chapter 02, exercise 2.6.

    >>> weights_entropy([[1.0, 0.0], [0.5, 0.5]]).round(4).tolist()
    [0.0, 0.6931]
    """
    weights = real_array(weights, "weights", axes=1, shape="(..., n_k)")
    xp = namespace(weights)
    logs = xp.where(weights > 0, xp.log(xp.where(weights > 0, weights, 1)), 0)  # log 0 would warn
    return 0.0 - (weights * logs).sum(-1)  # 0.0 - x, so that a row on one key reads 0.0 and not -0.0


def attention_distance(weights):
    """How far each query looks on average: the mean |p - j| under its weights.  (..., n_q, n_k) -> (..., n_q), tokens

    The last query stands at the last key, as everywhere here. Small in every head and growing with no length: the
    model is short-sighted. Source: Vig & Belinkov (2019), section 4; chapter 13.

    >>> attention_distance([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]).tolist()
    [0.0, 1.0, 0.5]
    """
    weights = _shares(weights)
    n_q, n_k = weights.shape[-2:]
    positions = np.arange(n_q)[:, None] + (n_k - n_q)
    return (weights * _beside(abs(positions - np.arange(n_k)), weights)).sum(-1)


def sink_mass(weights, n_sinks=1):
    """The share that goes to the first keys, where many models park what they do not need.  (..., n_k) -> (...)

    A window that drops these keys breaks such a model. Source: Xiao et al. (2023), StreamingLLM; chapter 13.

    >>> sink_mass([[0.75, 0.25, 0.0]]).tolist()
    [0.75]
    """
    weights, n_sinks = _shares(weights, 1, "(..., n_k)"), whole_number(n_sinks, "n_sinks", least=1)
    if n_sinks > weights.shape[-1]:
        raise ValueError(f"n_sinks must be at most the {weights.shape[-1]} keys there are, got {n_sinks}")
    return weights[..., :n_sinks].sum(-1)


def coreference_score(weights, pronoun, candidates):
    """How the pronoun's attention divides among the candidates.  (layers, heads, n, n) -> (layers, heads, candidates)

    pronoun is the position that looks, candidates the positions looked at. The scores sum to 1, or are all 0 where a
    head gives the candidates nothing. Source: Clark et al. (2019), section 4.3; chapter 07.

    >>> coreference_score([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.6, 0.2, 0.2]], pronoun=2, candidates=[0, 1]).round(2)
    array([0.75, 0.25])
    """
    weights = _square(weights)
    n = weights.shape[-1]
    pronoun, candidates = whole_number(pronoun, "pronoun"), whole_array(candidates, "candidates", axes=1)
    places = [pronoun, *candidates.tolist()]
    if min(places) < 0 or max(places) >= n:
        raise ValueError(f"pronoun and candidates must be positions 0..{n - 1} of the text, got {places}")
    if len(candidates) == 0 or len(set(places[1:])) < len(candidates):
        raise ValueError(f"candidates must be one or more different positions, got {places[1:]}")
    among = weights[..., pronoun, places[1:]]
    total = among.sum(-1)[..., None]
    return among / namespace(weights).where(total > 0, total, 1)


def previous_token_score(weights):
    """How much each token looks at the one before it, on average.  (..., n, n) -> (...), 0 to 1

    Source: Olsson et al. (2022); the first half of an induction circuit; chapter 07.

    >>> float(previous_token_score([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    0.75
    """
    weights = _square(weights)
    if weights.shape[-1] < 2:
        raise ValueError("weights must be over at least 2 tokens: the first one has none before it")
    later = np.arange(1, weights.shape[-1])
    return weights[..., later, later - 1].mean(-1)


def induction_score(weights, tokens):
    """How much a token seen before looks at what came after it then.  (..., n, n), tokens (n,) -> (...), 0 to 1

    The mean, over the tokens that occurred earlier, of the weight on the successors of their earlier occurrences. On
    a random sequence repeated once nothing but the repetition can guide a head, and a perfect induction head scores 1.
    Source: Olsson et al. (2022), section on prefix matching; chapter 07.

    >>> weights = np.eye(6)[[0, 0, 0, 1, 2, 3]]  # the second a looks at b, the second b at c, the second c at a
    >>> float(induction_score(weights, [7, 8, 9, 7, 8, 9]))
    1.0
    """
    weights, tokens = _square(weights), np.asarray(at_hand(whole_array(tokens, "tokens", axes=1)))
    if len(tokens) != weights.shape[-1]:
        raise ValueError(f"tokens must hold the {weights.shape[-1]} tokens of the map, got {len(tokens)}")
    same = tokens[:, None] == tokens
    follows = np.zeros_like(same)
    follows[:, 1:] = np.tril(same, -1)[:, :-1]  # key j follows an earlier occurrence of query i's token
    again = follows.any(1)
    if not again.any():
        raise ValueError("tokens must repeat: no token occurs twice; take a random sequence followed by itself")
    return (weights * _beside(follows, weights)).sum(-1)[..., again].mean(-1)


def copy_rate(tokens, source=None, n=3):
    """The share of a text's n-grams that stand word for word in the source, or earlier in the text.  -> float, 0 to 1

    tokens (m,) is what was generated, source (s,) what it was generated from. Without a source it measures how much
    the text repeats itself. Source: See et al. (2017); Welleck et al. (2019), seq-rep-n; chapter 13.

    >>> copy_rate([1, 2, 3, 9], source=[0, 1, 2, 3, 4], n=2)  # 12 and 23 are copied, 39 is new
    0.6666666666666666
    >>> copy_rate([5, 6, 5, 6, 5], n=2)  # 56 and 65 are new once
    0.5
    """
    n = whole_number(n, "n", least=1)
    written = _ngrams(tokens, "tokens", n)
    if source is not None:
        known = set(_ngrams(source, "source", n))
        return sum(ngram in known for ngram in written) / len(written)
    return 1 - len(set(written)) / len(written)


def needle_accuracy(answers, needles):
    """How often what was hidden in a long text was found: the share of right answers.  (..., trials) twice -> (...)

    Tokens or whole texts, equal or not; leading axes such as (lengths, depths) are kept, so that the result is a map
    of where the model finds things. Source: Kamradt (2023); Liu et al. (2023), Lost in the middle; chapter 13.

    >>> needle_accuracy([[7, 7, 1, 7], [7, 7, 7, 7]], [[7, 7, 7, 7], [7, 7, 7, 7]]).tolist()
    [0.75, 1.0]
    """
    answers, needles = (np.asarray(at_hand(x)) for x in (answers, needles))
    for name, x in (("answers", answers), ("needles", needles)):
        if x.dtype.kind not in "iuUS":
            raise TypeError(f"{name} must hold tokens (whole numbers) or texts, got dtype {x.dtype}; argmax of logits?")
    if (answers.dtype.kind in "iu") != (needles.dtype.kind in "iu"):
        raise TypeError(f"answers and needles must both be tokens or both texts, got {answers.dtype}, {needles.dtype}")
    if answers.shape != needles.shape or not answers.ndim or not answers.shape[-1]:
        raise ValueError(
            f"answers and needles must have one shape (..., trials) with a trial or more, got {answers.shape} and "
            f"{needles.shape}; is a needle several tokens? Compare them as texts"
        )
    return (answers == needles).mean(-1)


def _shares(weights, axes=2, shape="(..., n_q, n_k)"):
    """weights as an array of shares: none negative, no row above 1 by more than half precision can explain."""
    weights = working(real_array(weights, "weights", axes=axes, shape=shape))
    if 0 not in weights.shape and not (weights.min() >= 0 and weights.sum(-1).max() <= 1.01):
        raise ValueError(
            f"weights must be shares: none below 0 (got {float(weights.min()):.3g}) and no row above 1 in sum "
            f"(got {float(weights.sum(-1).max()):.3g}); are these scores? Then pass softmax(scores)"
        )
    return weights


def _square(weights):
    weights = _shares(weights)
    if weights.shape[-1] != weights.shape[-2] or not weights.shape[-1]:
        raise ValueError(f"weights must be self-attention's, (..., n, n), got shape {tuple(weights.shape)}")
    return weights


def _ngrams(tokens, name, n):
    tokens = at_hand(whole_array(tokens, name, axes=1)).tolist()
    if len(tokens) < n:
        raise ValueError(f"{name} must hold at least n={n} tokens, got {len(tokens)}")
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def _beside(x, weights):
    """A NumPy array of numbers or booleans in the library, dtype and device of weights."""
    return namespace(weights).as_tensor(x).to(weights) if is_tensor(weights) else x.astype(weights.dtype)
