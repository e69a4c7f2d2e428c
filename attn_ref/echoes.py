"""A language in which words come back, and a model of it that is one attention: a bench for positions.

    language  a word is, with probability 0.9, the one 1 .. 8 places before it, each as likely; else any of 16
    model     p(next = w) = 0.9 Σ_h g_h Σ_j weights_h[j] [word_j = w] + 0.1 / 16,  j over the words read so far

Used in course/05_positions. Nothing in the language changes with the length of a text, and the loss of the best
possible reader is known exactly. So whatever a model loses beyond its trained length, it loses to its positions.
"""

import copy

import numpy as np

from attn_ref.masks import causal_mask
from attn_ref.positions import alibi_bias, rope, sinusoidal
from attn_ref.shapes import choice, whole_array, whole_number
from attn_ref.softmax import softmax

VOCAB, REACH, ECHO = 16, 8, 0.9  # words, how far back an echo comes from, and how often a word is one


def documents(n_docs, n, rng):
    """Texts of the language; the first 8 words of each are drawn freely.  -> (n_docs, n) of 0 .. 15

    >>> documents(2, 5, np.random.default_rng(0)).shape
    (2, 5)
    """
    shape = whole_number(n_docs, "n_docs", least=1), whole_number(n, "n", least=1)
    words, back = rng.integers(VOCAB, size=shape), rng.integers(1, REACH + 1, size=shape)
    echo = rng.random(shape) < ECHO
    for t in range(REACH, n):
        words[:, t] = np.where(echo[:, t], words[np.arange(n_docs), t - back[:, t]], words[:, t])
    return words


def best_loss(words):
    """What a reader loses who knows the language: -log p of every word after the first.  (B, n) -> (B, n - 1), nats"""
    words = whole_array(words, "words", axes=2)
    p = np.full(words.shape, 1 / VOCAB)
    for t in range(REACH, words.shape[1]):
        came_back = (words[:, t - REACH : t] == words[:, t, None]).mean(-1)
        p[:, t] = ECHO * came_back + (1 - ECHO) / VOCAB
    return -np.log(p[:, 1:])


class EchoReader:
    """One causal attention that bets its weights on the words it reads; only its queries and keys are learned.

    position  "sinusoidal", "learned" (a table of 256 rows), "rope", "alibi", or None
    seed      of the initial weights: the same seed gives the same reader

    >>> reader = EchoReader("alibi").trained(steps=3, n=10)
    >>> reader.loss(documents(2, 11, np.random.default_rng(0))).shape
    (2, 10)
    """

    def __init__(self, position, seed=0, d_model=16, n_heads=4, d=16):
        self.position = choice(position, "position", ("sinusoidal", "learned", "rope", "alibi", None))
        rng, scale = np.random.default_rng(seed), d_model**-0.5
        self.parameters = {
            "words": rng.normal(size=(VOCAB, d_model)),
            "w_q": rng.normal(size=(n_heads, d_model, d)) * scale,
            "w_k": rng.normal(size=(n_heads, d_model, d)) * scale,
            "gates": np.zeros(n_heads),
        }
        if position == "learned":
            self.parameters["places"] = rng.normal(size=(256, d_model))

    def loss(self, words, positions=None, **rotary):
        """-log p of every word after the first, in nats.  words (B, n + 1) -> (B, n)

        positions (n,) and `rotary`, options of `rope`, serve a reader with rotations only.
        """
        return self._read(words, positions, rotary)["loss"]

    def excess(self, words, positions=None, **rotary):
        """How much more is lost than by the best possible reader, after 1 .. n words.  (B, n + 1) -> (n,), nats"""
        return (self.loss(words, positions, **rotary) - best_loss(words)).mean(0)

    def reach(self, words, positions=None, **rotary):
        """The weight that the last query gives to each distance 0, 1, ..., on average.  (B, n + 1) -> (n,)"""
        seen = self._read(words, positions, rotary)
        return np.einsum("h,bhk->k", seen["gates"], seen["weights"][:, :, -1])[::-1] / len(words)

    def trained(self, steps, n, positions=None, batch=16, lr=0.02, seed=1, **rotary):
        """A new reader, trained on so many batches of texts of n + 1 words (Adam; Kingma and Ba, 2015)."""
        reader, rng = copy.deepcopy(self), np.random.default_rng(seed)
        mean, square = ({name: 0.0 for name in reader.parameters} for _ in range(2))
        for step in range(1, whole_number(steps, "steps", least=0) + 1):
            gradients = reader.gradients(documents(batch, n + 1, rng), positions, **rotary)
            rate = lr * min(1.0, 2.05 - 2 * step / steps)  # the second half of the steps is smaller and smaller
            for name, gradient in gradients.items():
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.99 * square[name] + 0.01 * gradient**2
                size = np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8
                reader.parameters[name] = reader.parameters[name] - rate * mean[name] / (1 - 0.9**step) / size
        return reader

    def gradients(self, words, positions=None, **rotary):
        """The gradient of the mean loss for every parameter, by hand (chapter 03).  -> {name: array}"""
        seen = self._read(words, positions, rotary)
        x, q, k, weights, gates, hit, got = (seen[name] for name in ("x", "q", "k", "weights", "gates", "hit", "got"))
        grad_mix = -ECHO / seen["p"] / seen["p"].size  # (B, n)
        grad_gates = np.einsum("bq,bhq->h", grad_mix, got)
        grad_weights = (gates[:, None] * grad_mix[:, None])[..., None] * hit  # (B, H, n, n)
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
        grad_q, grad_k = grad_scores @ k, grad_scores.swapaxes(-1, -2) @ q  # (B, H, n, d)
        if self.position == "rope":  # the transpose of a rotation turns back
            grad_q, grad_k = (rope(grad, -seen["positions"], **rotary) for grad in (grad_q, grad_k))
        w_q, w_k = self.parameters["w_q"], self.parameters["w_k"]
        grad_x = (grad_q @ w_q.swapaxes(-1, -2) + grad_k @ w_k.swapaxes(-1, -2)).sum(1)  # (B, n, d_model)
        gradients = {
            "words": np.einsum("bnv,bnd->vd", np.eye(VOCAB)[seen["read"]], grad_x),
            "w_q": np.einsum("bnd,bhne->hde", x, grad_q),
            "w_k": np.einsum("bnd,bhne->hde", x, grad_k),
            "gates": gates * (grad_gates - gates @ grad_gates),
        }
        if self.position == "learned":
            gradients["places"] = np.zeros_like(self.parameters["places"])
            gradients["places"][: x.shape[1]] = grad_x.sum(0)
        return gradients

    def _read(self, words, positions, rotary):
        """Everything on the way from words to loss, by name."""
        words = whole_array(words, "words", axes=2)
        if self.position != "rope" and (positions is not None or rotary):
            raise ValueError(f"positions and rope's options need position='rope', this reader has {self.position!r}")
        read, following = words[:, :-1], words[:, 1:]
        n, learned = read.shape[1], self.parameters
        x = learned["words"][read]  # (B, n, d_model)
        if self.position == "sinusoidal":
            x = x + sinusoidal(n, x.shape[-1])
        if self.position == "learned":
            x = x + learned["places"][:n]
        q, k = x[:, None] @ learned["w_q"], x[:, None] @ learned["w_k"]  # (B, H, n, d)
        positions = np.arange(n) if positions is None else np.asarray(positions)
        if self.position == "rope":
            q, k = rope(q, positions, **rotary), rope(k, positions, **rotary)
        scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5  # (B, H, n, n)
        if self.position == "alibi":
            scores = scores + alibi_bias(len(learned["gates"]), n, n)
        weights, gates = softmax(np.where(causal_mask(n, n), scores, -np.inf)), softmax(learned["gates"])
        hit = (following[:, None, :, None] == read[:, None, None, :]).astype(float)  # (B, 1, n, n)
        got = (weights * hit).sum(-1)  # (B, H, n): the share of the bet that was right
        p = ECHO * np.einsum("h,bhq->bq", gates, got) + (1 - ECHO) / VOCAB
        return {
            "read": read, "x": x, "q": q, "k": k, "weights": weights, "gates": gates, "hit": hit, "got": got, "p": p,
            "loss": -np.log(p), "positions": positions,
        }  # fmt: skip
