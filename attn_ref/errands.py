"""A language with errands: notes stand early in a text, and questions come back for them later.

    start  word word note word ...  word word  question answer  word word ...      the answer is what the note said

Used in course/13_debugging_clinic. Words follow each other by a chain that needs no attention; a question can be
answered only by looking at its note, however far back that is. So answers measure whether a model finds things, and
words measure whether it is disturbed.
"""

import numpy as np
import torch

from attn_ref.language import causal_lm_loss
from attn_ref.shapes import whole_number
from attn_ref.tiny_lm import TinyLM

KINDS, VALUES, WORDS = 3, 4, 16
START, QUESTION, ANSWER, NOTE = 0, 1, 1 + KINDS, 1 + KINDS + VALUES  # the first token of each sort
WORD = NOTE + KINDS * VALUES
VOCAB = WORD + WORDS
FIRST, SECOND = (np.random.default_rng(seed).permutation(WORDS) for seed in (0, 1))  # what may follow each word


def texts(n_texts, n, rng):
    """Texts of n tokens, n ≥ 16: three notes in the first half, a question every 4 tokens in the second.

    -> tokens (n_texts, n), and where the questions are, (n_texts, n) bool

    >>> tokens, asked = texts(2, 16, np.random.default_rng(0))
    >>> tokens.shape, int(asked.sum())
    (torch.Size([2, 16]), 4)
    """
    whole_number(n, "n", least=16)
    tokens, rows = _words(n_texts, n, rng), np.arange(n_texts)
    values = rng.integers(VALUES, size=(n_texts, KINDS))
    places = rng.permuted(np.tile(np.arange(1, n // 2), (n_texts, 1)), axis=1)
    for kind in range(KINDS):
        tokens[rows, places[:, kind]] = NOTE + VALUES * kind + values[:, kind]
    asked = np.zeros((n_texts, n), dtype=bool)
    asked[:, n // 2 : n - 1 : 4] = True
    for p in np.flatnonzero(asked[0]):
        kind = rng.integers(KINDS, size=n_texts)
        tokens[:, p], tokens[:, p + 1] = QUESTION + kind, ANSWER + values[rows, kind]
    return torch.tensor(tokens), torch.tensor(asked)


def hide(n, place, trial):
    """One text of n tokens with a note at `place`, whose last token asks for it; the other notes stand elsewhere.

    -> tokens (n,), the answer; equal arguments give equal texts. n ≥ 8, 1 ≤ place ≤ n - 2.

    >>> tokens, answer = hide(8, place=2, trial=0)
    >>> int(tokens[2] - NOTE) % VALUES == answer - ANSWER
    True
    """
    n, place = whole_number(n, "n", least=8), whole_number(place, "place", least=1)
    if place > n - 2:
        raise ValueError(f"place must leave room for the question at {n - 1}, so at most {n - 2}, got {place}")
    rng = np.random.default_rng([n, place, trial])
    tokens, kinds = _words(1, n, rng)[0], rng.permutation(KINDS)
    others = rng.choice(np.setdiff1d(np.arange(1, n - 1), [place]), size=KINDS - 1, replace=False)
    values = rng.integers(VALUES, size=KINDS)
    tokens[[place, *others]] = NOTE + VALUES * kinds + values
    tokens[-1] = QUESTION + kinds[0]
    return torch.tensor(tokens), int(ANSWER + values[0])


def found(model, n, depth, trials=40, **options):
    """How often the model answers for a note at this depth, 0 the beginning and 1 the end.  -> 0 to 1

    `options` are those of the model's forward pass, such as `allowed`.
    """
    pairs = [hide(n, 1 + int(depth * (n - 3)), trial) for trial in range(trials)]
    answers = torch.tensor([answer for _, answer in pairs])
    logits = model(torch.stack([tokens for tokens, _ in pairs]), **options)
    return float((logits[:, -1].argmax(-1) == answers).double().mean())


def names(tokens):
    """Tokens as a reader wants them: w7 a word, A2 a note, A? its question, =2 the answer.

    >>> names([0, 23, 8, 1, 6])
    ['start', 'w3', 'A0', 'A?', '=2']
    """
    kinds = "ABCDEFGH"[:KINDS]
    named = ["start", *(f"{kind}?" for kind in kinds), *(f"={value}" for value in range(VALUES))]
    named += [f"{kind}{value}" for kind in kinds for value in range(VALUES)] + [f"w{word}" for word in range(WORDS)]
    return [named[int(token)] for token in tokens]


def trained(position, steps=350, n=64, batch=16, lr=0.01, seed=0):
    """A TinyLM of one layer and one head, trained on texts of n tokens in a few seconds.

    Words and answers weigh alike in the loss. position is "rope", "alibi" or None, as in `TinyLM`.
    """
    model = TinyLM(VOCAB, 32, 1, 1, d_ff=64, position=position, seed=seed).double()
    optimiser = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    rng = np.random.default_rng(seed + 1)
    for _ in range(steps):
        tokens, asked = texts(batch, n, rng)
        loss = sum(losses(model(tokens), tokens, asked))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.requires_grad_(False)


def losses(logits, tokens, asked):
    """-log p of the words that follow words, and of the answers, each on average.  -> two numbers, nats"""
    words = (tokens[:, :-1] >= WORD) & (tokens[:, 1:] >= WORD)
    return tuple(
        causal_lm_loss(logits, torch.where(_shifted(counted), tokens, -1), pad_id=-1)
        for counted in (words, asked[:, :-1])
    )


def _shifted(counted):
    return torch.nn.functional.pad(counted, (1, 0))


def _words(n_texts, n, rng):
    """(n_texts, n) tokens: the start, then a chain in which a word follows its first choice, 15 times in 100 another"""
    words = rng.integers(WORDS, size=(n_texts, n))
    second = rng.random((n_texts, n)) < 0.15
    for t in range(1, n):
        words[:, t] = np.where(second[:, t], SECOND[words[:, t - 1]], FIRST[words[:, t - 1]])
    words += WORD
    words[:, 0] = START
    return words
