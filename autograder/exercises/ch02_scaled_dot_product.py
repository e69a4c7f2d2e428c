"""Chapter 02, scaled dot-product attention: softmax, scores, attention, and what scaling is for."""

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

softmax = Exercise("2.1", "Scores become shares", reference=attn_ref.softmax, minutes=12)


@softmax.criterion("each row of shares sums to 1, and larger scores get larger shares", points=2)
def rows(rng):
    yield dict(x=np.array([[0.0, np.log(3.0)]]))
    yield dict(x=rng.normal(size=(5, 3)))


@softmax.criterion("it works along any axis", points=1)
def any_axis(rng):
    yield dict(x=rng.normal(size=(4, 3)), axis=0)
    yield dict(x=rng.normal(size=(2, 5, 3)), axis=1)
    yield dict(x=rng.normal(size=(2, 5, 3)), axis=-1)


@softmax.criterion("scores near ±1000 neither overflow nor vanish", points=1)
def extremes(rng):
    yield dict(x=np.array([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -1000.0]]))


@softmax.criterion("a row of nothing but -inf gets shares of 0, not NaN", points=1)
def nothing_to_share(rng):
    yield dict(x=np.array([[0.0, -np.inf, 0.0], [-np.inf, -np.inf, -np.inf]]))


softmax.leaves_inputs_alone(points=1)


@softmax.mistake("Your shares are right until the scores grow: exp(1000) overflows to inf. What may be subtracted from every score of a row without changing the shares?")
def no_maximum(x, axis=-1):
    e = np.exp(x)
    total = e.sum(axis=axis, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


@softmax.mistake("Your columns sum to 1 where the rows should: the sum runs along the wrong axis, whatever `axis` says.")
def first_axis(x, axis=-1):
    return attn_ref.softmax(x, axis=0)


@softmax.mistake("You always normalise along the last axis. The caller chooses the axis; pass `axis` on to max and sum.")
def axis_ignored(x, axis=-1):
    return attn_ref.softmax(x, axis=-1)


@softmax.also_right
def shifted(x, axis=-1):
    x = np.moveaxis(np.array(x, dtype=float), axis, -1)
    out = np.zeros(x.shape)
    for index in np.ndindex(*x.shape[:-1]):
        row = x[index]
        if np.isfinite(row).any():
            e = [np.exp(value - max(row)) for value in row]
            out[index] = np.array(e) / sum(e)
    return np.moveaxis(out, -1, axis)


softmax.hints("a nudge", "a bigger nudge", "a plan")
