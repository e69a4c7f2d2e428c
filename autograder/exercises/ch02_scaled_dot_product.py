"""Chapter 02, scaled dot-product attention: softmax, scores, attention, and what scaling is for."""

import copy

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

# --- 2.1 -------------------------------------------------------------------------------------------------------------

softmax = Exercise(
    "2.1",
    "Scores become shares",
    reference=attn_ref.softmax,
    minutes=15,
    forbids=(
        "scipy.special.softmax",
        "scipy.special.log_softmax",
        "torch.softmax",
        "torch.log_softmax",
        "torch.Tensor.softmax",
        "torch.Tensor.log_softmax",
        "torch.nn.functional.softmax",
        "torch.nn.functional.log_softmax",
        "torch.nn.Softmax",
        "torch.nn.LogSoftmax",
    ),
)


@softmax.criterion("each row becomes shares that sum to 1, in proportion to exp(score)", points=2)
def rows(rng):
    yield dict(x=np.array([[0.0, np.log(3.0)]]))
    yield dict(x=rng.normal(size=(5, 3)))


@softmax.criterion("any shape, any axis, and whole numbers too", points=1)
def any_axis(rng):
    yield dict(x=rng.normal(size=(4, 3)), axis=0)
    yield dict(x=rng.normal(size=(2, 5, 3)), axis=1)
    yield dict(x=rng.normal(size=(2, 5, 3)), axis=-1)
    yield dict(x=rng.normal(size=4))
    yield dict(x=rng.normal(size=(4, 2, 3)))
    yield dict(x=rng.normal(size=(5, 1)))
    yield dict(x=rng.normal(size=(2, 3, 5, 4)), axis=-2)
    yield dict(x=rng.normal(size=(2, 3, 5, 4)), axis=3)
    yield dict(x=np.array([[1, 2, 4], [0, -3, 2]]))


# Rows that no shift but their own maximum serves: not the mean, the median, the smallest, the first or the last score,
# not the largest size, not a maximum that is never below 0, not one maximum for all.
FAR_APART = np.array(
    [
        [3000.0, 0.0, 0.0, 0.0],
        [-4000.0, 1000.0, 0.0, 999.0],
        [-9000.0, -8999.0, -9000.0, -8000.0],
        [9000.0, 8999.0, 8985.0, -9000.0],
    ]
)


@softmax.criterion("scores in the thousands neither overflow nor vanish", points=1)
def extremes(rng):
    yield dict(x=np.array([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -1000.0]]))
    yield dict(x=FAR_APART)
    yield dict(x=FAR_APART[:, :3].T, axis=0)


@softmax.criterion("a slice of nothing but -inf gets shares of 0, not NaN", points=1)
def nothing_to_share(rng):
    yield dict(x=np.array([[0.0, -np.inf, 0.0], [-np.inf, -np.inf, -np.inf]]))
    yield dict(x=np.array([[0.0, -np.inf, np.log(3.0)], [-np.inf, -np.inf, 0.0]]), axis=0)
    yield dict(x=np.array([-np.inf, -np.inf]))


softmax.leaves_inputs_alone(points=1)


@softmax.mistake(
    "Your shares are right until the scores grow: exp(1000) overflows to inf, and exp(-1000) is 0. What may be subtracted from every score of a row without changing its shares?"
)
def no_maximum(x, axis=-1):
    e = np.exp(x)
    return e / e.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "You subtract one maximum for the whole array. A row that lies 2000 below it becomes exp(-2000) = 0 everywhere, and 0/0 is NaN. Whose maximum does each row need?"
)
def one_maximum_for_all(x, axis=-1):
    e = np.exp(x - x.max())
    return e / e.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "You subtract one maximum for the whole array. In a row that lies thousands below it every exponential is 0, and your guard against 0/0 turns that into shares of 0. Whose maximum does each row need?"
)
def one_maximum_and_a_guard(x, axis=-1):
    largest = x.max()
    e = np.exp(x - (0.0 if np.isneginf(largest) else largest))
    total = e.sum(axis=axis, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@softmax.mistake(
    "The maximum that you subtract is never below 0; `initial=0` does that. In a row whose scores are all near -1000, what is then left of every exponential?"
)
def maximum_never_below_zero(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=0))
    total = e.sum(axis=axis, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@softmax.mistake(
    "You subtract the largest size, |x|, of each row. If that belongs to a negative score, all exponentials of the row can vanish. Should -4000 or 1000 count as the largest of the two?"
)
def largest_size_subtracted(x, axis=-1):
    largest = np.abs(x).max(axis=axis, keepdims=True)
    e = np.exp(x - np.where(np.isinf(largest), 0.0, largest))
    total = e.sum(axis=axis, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@softmax.mistake(
    "You subtract the mean. No share changes by that, but a score can still lie far above it: the mean of 3000, 0, 0, 0 is 750, and exp(2250) overflows. Which number of the row does no score lie above?"
)
def mean_subtracted(x, axis=-1):
    e = np.exp(x - x.mean(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "A small number in the denominator keeps 0/0 away and makes every row sum to a little less than 1. Can the total be replaced only where it is 0?"
)
def epsilon_in_the_total(x, axis=-1):
    largest = x.max(axis=axis, keepdims=True)
    e = np.exp(x - np.where(np.isneginf(largest), 0.0, largest))
    return e / (e.sum(axis=axis, keepdims=True) + 1e-6)


@softmax.mistake(
    "Your default is axis=1, which is the last axis of a matrix and of nothing else. Which number means the last axis of any array?"
)
def second_axis_by_default(x, axis=1):
    return attn_ref.softmax(x, axis=axis)


@softmax.mistake(
    "Right for floats. For whole numbers `zeros_like(x)` is an array of whole numbers too, and NumPy refuses to write shares into it. Which dtype should the result have?"
)
def whole_numbers_refused(x, axis=-1):
    largest = x.max(axis=axis, keepdims=True)
    e = np.exp(x - np.where(np.isneginf(largest), 0.0, largest))
    total = e.sum(axis=axis, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(x), where=total > 0)


@softmax.mistake(
    "For whole numbers your shares are cut off to 0 and 1: an array made like `x` holds whole numbers only. Which dtype should the result have?"
)
def shares_cut_to_whole_numbers(x, axis=-1):
    out = np.empty_like(x)
    out[...] = attn_ref.softmax(x, axis=axis)
    return out


@softmax.mistake(
    "Everything is right but the row of nothing but -inf, which gives NaN. Follow it by hand: what is its maximum, and what is -inf minus that?"
)
def nan_where_nothing_is_left(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "A row of nothing but -inf gets equal shares in your answer. Every one of its keys is forbidden, so how much may each receive?"
)
def equal_where_nothing_is_left(x, axis=-1):
    x = np.maximum(x, -1e30)
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "Clipping the scores stops the overflow and also changes the shares: 1000 and 999 become equal. Is there a change of the scores that leaves their differences alone?"
)
def clipped(x, axis=-1):
    e = np.exp(np.clip(x, -700, 700))
    return e / e.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "A maximum or a sum has lost its axis: (5, 3) minus (5,) does not line up. Which argument of `max` and `sum` keeps the axis with length 1?"
)
def axis_lost(x, axis=-1):
    e = np.exp(x - x.max(axis=axis))
    return e / e.sum(axis=axis)


@softmax.mistake(
    "Your columns sum to 1 where the rows should: maximum and sum run along axis 0. Is `axis` read at all, and is its default -1?"
)
def first_axis(x, axis=-1):
    return attn_ref.softmax(x, axis=0)


@softmax.mistake(
    "You always share along the last axis. The caller chooses the axis; where does your code read the argument `axis`?"
)
def axis_ignored(x, axis=-1):
    return attn_ref.softmax(x, axis=-1)


@softmax.mistake(
    "All entries of the array together sum to 1, but each row has a budget of its own. Along which axis should the total be taken?"
)
def one_budget_for_all(x, axis=-1):
    e = np.exp(x - x.max())
    return e / e.sum()


@softmax.mistake(
    "You divide the scores themselves by their sum, which gives negative shares for negative scores. Which function makes every score positive first?"
)
def without_exp(x, axis=-1):
    return x / x.sum(axis=axis, keepdims=True)


@softmax.mistake(
    "These are the exponentials; nothing has been shared out yet. What must each row be divided by so that it sums to 1?"
)
def not_divided(x, axis=-1):
    return np.exp(x - x.max(axis=axis, keepdims=True))


@softmax.mistake(
    "The shares are right, and the caller's scores are gone: `x -= ...` writes into the array that was passed in. Which form of the subtraction makes a new array?"
)
def input_overwritten(x, axis=-1):
    largest = x.max(axis=axis, keepdims=True)
    x -= np.where(np.isneginf(largest), 0.0, largest)
    e = np.exp(x)
    total = e.sum(axis=axis, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@softmax.also_right
def with_loops(x, axis=-1):
    x = np.moveaxis(np.array(x, dtype=float), axis, -1)
    out = np.zeros(x.shape)
    for index in np.ndindex(*x.shape[:-1]):
        row = x[index]
        if np.isfinite(row).any():
            e = [np.exp(value - max(row)) for value in row]
            out[index] = np.array(e) / sum(e)
    return np.moveaxis(out, -1, axis)


@softmax.also_right
def through_the_log(scores, axis=-1):
    log_total = np.logaddexp.reduce(scores, axis=axis, keepdims=True)
    return np.exp(scores - np.where(np.isneginf(log_total), 0.0, log_total))


@softmax.also_right
def mended_at_the_end_and_given_as_a_list(x, axis=-1):
    e = np.exp(x - np.amax(x, axis, keepdims=True))
    return np.nan_to_num(e / np.add.reduce(e, axis, keepdims=True)).tolist()


softmax.hints(
    "Two steps: make every score positive, then divide by a total.",
    "Softmax sees only differences, so each slice may be shifted. Which shift makes every exponent 0 or less?",
    "Take the maximum with its axis kept, and 0 where it is -inf. Subtract, exponentiate, take the total with its axis kept. Divide, and give 0 where the total is 0.",
)
softmax.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (5,3) (5,)",
        "A maximum or a sum along an axis removes that axis. With <code>keepdims=True</code> it stays, with length 1.",
    ),
    (
        "RuntimeWarning: overflow encountered in exp",
        "A float64 ends near 1.8e308, and exp(710) lies beyond. Shift the scores first.",
    ),
    (
        "RuntimeWarning: invalid value encountered in subtract",
        "In a slice of nothing but -inf the maximum is -inf too, and -inf minus -inf has no value. What else could be "
        "subtracted there?",
    ),
)

# --- 2.2 -------------------------------------------------------------------------------------------------------------

logsumexp = Exercise(
    "2.2",
    "The logarithm of the total",
    reference=attn_ref.logsumexp,
    minutes=10,
    forbids=("scipy.special.logsumexp", "torch.logsumexp", "torch.Tensor.logsumexp"),
)


@logsumexp.criterion("each row gives the logarithm of the sum of its exponentials", points=1)
def totals(rng):
    yield dict(x=np.array([[0.0, 0.0], [0.0, np.log(3.0)]]))
    yield dict(x=rng.normal(size=(5, 3)))


@logsumexp.criterion(
    "any shape, any axis, whole numbers too; that axis, and no other, is gone from the result", points=1
)
def totals_along_any_axis(rng):
    yield dict(x=rng.normal(size=(4, 3)), axis=0)
    yield dict(x=rng.normal(size=(2, 5, 3)), axis=1)
    yield dict(x=rng.normal(size=(7, 2)), axis=-1)
    yield dict(x=rng.normal(size=(1, 3)))
    yield dict(x=rng.normal(size=4))
    yield dict(x=rng.normal(size=(4, 2, 3)))
    yield dict(x=rng.normal(size=(2, 3, 5, 4)), axis=-2)
    yield dict(x=rng.normal(size=(2, 1, 5, 4)), axis=3)
    yield dict(x=rng.normal(size=(3, 3, 2)))
    yield dict(x=rng.normal(size=(1, 4, 2)))
    yield dict(x=rng.normal(size=(4, 1, 2)))
    yield dict(x=np.array([[1, 2, 4], [0, -3, 2]]))


@logsumexp.criterion("scores in the thousands neither overflow nor vanish", points=1)
def large_totals(rng):
    yield dict(x=np.array([[1000.0, 1000.0, 0.0], [-1000.0, -1001.0, -1000.0]]))
    yield dict(x=FAR_APART)
    yield dict(x=FAR_APART[:, :3].T, axis=0)


@logsumexp.criterion("a slice of nothing but -inf gives -inf, not NaN", points=1)
def empty_total(rng):
    yield dict(x=np.array([[0.0, -np.inf, np.log(3.0)], [0.0, 0.0, np.log(2.0)], [-np.inf, -np.inf, -np.inf]]))
    yield dict(x=np.array([[0.0, -np.inf, np.log(3.0)], [-np.inf, -np.inf, 0.0]]), axis=0)
    yield dict(x=np.array([-np.inf, -np.inf]))


logsumexp.leaves_inputs_alone(points=1)


@logsumexp.mistake(
    "The formula is right and the computer cannot follow it: exp(1000) is inf, and log(exp(-1000)) is -inf. What can be taken out of the sum before you exponentiate?"
)
def overflows(x, axis=-1):
    return np.log(np.exp(x).sum(axis=axis))


@logsumexp.mistake(
    "You took the maximum out of the sum and did not put it back. If every score of a row grows by 5, by how much should the result grow?"
)
def maximum_not_added_back(x, axis=-1):
    return np.log(np.exp(x - x.max(axis=axis, keepdims=True)).sum(axis=axis))


@logsumexp.mistake(
    "Your values are right, with the axis still there at length 1. One row gives one number: which axes should be left?"
)
def axis_kept(x, axis=-1):
    return np.expand_dims(attn_ref.logsumexp(x, axis=axis), axis)


@logsumexp.mistake(
    "You add a maximum that kept its axis to a sum that lost it. Shapes (5, 1) and (5,) spread into a 5 by 5 grid, without an error. Print both shapes just before they meet."
)
def spread_into_a_grid(x, axis=-1):
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    total = np.exp(x - largest).sum(axis=axis)
    return largest + np.log(total)


@logsumexp.mistake(
    "`np.squeeze` without an axis removes every axis of length 1, so (1, 3) becomes a single number. Which one axis should go?"
)
def every_axis_of_length_one_gone(x, axis=-1):
    return np.squeeze(np.expand_dims(attn_ref.logsumexp(x, axis=axis), axis))


@logsumexp.mistake(
    "You take the mean out of the sum. That is allowed, but a score can lie far above it: the mean of 3000, 0, 0, 0 is 750, and exp(2250) overflows. What is the smallest number that no score of the row exceeds?"
)
def mean_taken_out(x, axis=-1):
    mean = x.mean(axis=axis, keepdims=True)
    return np.log(np.exp(x - mean).sum(axis=axis)) + np.squeeze(mean, axis=axis)


@logsumexp.mistake(
    "A single -inf makes the whole row -inf in your answer. exp(-inf) is 0 and adds nothing to a total; when is the total itself 0?"
)
def one_forbidden_key_empties_the_row(x, axis=-1):
    return np.where(np.isneginf(x).any(axis=axis), -np.inf, attn_ref.logsumexp(x, axis=axis))


@logsumexp.mistake(
    "A small number inside the logarithm keeps log(0) away, and log(0) = -inf is the very answer for a row of nothing but -inf. What does yours give there?"
)
def epsilon_in_the_logarithm(x, axis=-1):
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    return np.log(np.exp(x - largest).sum(axis=axis) + 1e-12) + np.squeeze(largest, axis=axis)


@logsumexp.mistake(
    "Your default is axis=1, which is the last axis of a matrix and of nothing else. Which number means the last axis, however many there are?"
)
def second_axis_unless_told(x, axis=1):
    return attn_ref.logsumexp(x, axis=axis)


@logsumexp.mistake(
    "Only the row of nothing but -inf is wrong: it gives NaN. Its maximum is -inf; what is -inf minus -inf?"
)
def nan_for_an_empty_sum(x, axis=-1):
    largest = x.max(axis=axis)
    return largest + np.log(np.exp(x - np.expand_dims(largest, axis)).sum(axis=axis))


@logsumexp.mistake(
    "You use one maximum for the whole array. In a row that lies 2000 below it every exponential is 0, and log(0) is -inf. Whose maximum does each row need?"
)
def one_maximum_for_all_rows(x, axis=-1):
    return x.max() + np.log(np.exp(x - x.max()).sum(axis=axis))


@logsumexp.mistake(
    "The whole array became one number. Each row has a total of its own: where does `axis` enter your sum?"
)
def one_total_for_all(x, axis=-1):
    return x.max() + np.log(np.exp(x - x.max()).sum())


@logsumexp.mistake(
    "You always sum along the last axis. The caller chooses it; where does your code read the argument `axis`?"
)
def always_the_last_axis(x, axis=-1):
    return attn_ref.logsumexp(x, axis=-1)


@logsumexp.mistake(
    "You sum down the columns, along axis 0. Is `axis` read at all, and which axis does its default -1 mean?"
)
def always_the_first_axis(x, axis=-1):
    return attn_ref.logsumexp(x, axis=0)


@logsumexp.mistake(
    "The logarithm is taken too early: the sum of log(exp(x)) is the sum of x. In which order do exp, sum and log follow each other?"
)
def sum_of_logs(x, axis=-1):
    return np.log(np.exp(x)).sum(axis=axis)


@logsumexp.mistake(
    "The logarithm of shares that sum to 1 is 0. Take the total of the exponentials before they are divided by anything."
)
def log_of_the_shares(x, axis=-1):
    return np.log(attn_ref.softmax(x, axis=axis).sum(axis=axis))


@logsumexp.mistake(
    "The numbers are right, and the caller's array has been written to. Which line changes `x` in place?"
)
def scores_overwritten(x, axis=-1):
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    x -= largest
    return np.log(np.exp(x).sum(axis=axis)) + np.squeeze(largest, axis=axis)


@logsumexp.also_right
def two_at_a_time(x, axis=-1):
    return np.logaddexp.reduce(x, axis=axis)


@logsumexp.also_right
def row_by_row(x, axis=-1):
    x = np.moveaxis(x, axis, -1)
    out = np.empty(x.shape[:-1])
    for index in np.ndindex(*out.shape):
        largest = max(x[index])
        out[index] = largest
        if largest > -np.inf:
            out[index] += np.log(sum(np.exp(score - largest) for score in x[index]))
    return out.tolist()


@logsumexp.also_right
def largest_weight_turned_round(x, axis=-1):
    largest = x.max(axis=axis)
    weight = attn_ref.softmax(x, axis=axis).max(axis=axis)  # exp(largest) / total
    return np.where(weight > 0, largest - np.log(np.where(weight > 0, weight, 1.0)), -np.inf)


logsumexp.hints(
    "The example by hand: exp(0) + exp(log 3) is 1 + 3. What happens to this total, and to its logarithm, when 1000 is added to both scores?",
    "A factor can leave the sum: exp(a) + exp(b) = exp(m) · (exp(a - m) + exp(b - m)). What does the logarithm turn the factor exp(m) into?",
    "Take each slice's maximum, with 0 in place of -inf. Subtract it with its axis kept, exponentiate, sum, take the logarithm, and add the maximum with its axis removed. log(0) is the -inf you want.",
)
logsumexp.errors(
    (
        "RuntimeWarning: divide by zero encountered in log",
        "For a slice of nothing but -inf, log(0) = -inf is right. A warning costs no points.",
    ),
)

# --- 2.3 -------------------------------------------------------------------------------------------------------------

attention_scores = Exercise("2.3", "Every query meets every key", reference=attn_ref.attention_scores, minutes=8)


@attention_scores.criterion("each entry is a dot product divided by √d, for whole numbers too", points=2)
def one_table(rng):
    yield dict(q=np.array([[2.0, 0.0, 0.0, 0.0]]), k=np.array([[3.0, 0.0, 0.0, 0.0], [1.0, 5.0, 0.0, 0.0]]))
    yield dict(q=rng.normal(size=(5, 7)), k=rng.normal(size=(3, 7)))
    yield dict(q=rng.normal(size=(4, 3)), k=rng.normal(size=(4, 3)))  # as many queries as keys
    yield dict(q=rng.normal(size=(2, 4)), k=rng.normal(size=(4, 4)))  # as many keys as features
    yield dict(q=np.array([[2, 0, 1], [0, -1, 3]]), k=np.array([[1, 4, 0], [2, 2, -1], [0, 0, 5], [1, 1, 1]]))


@attention_scores.criterion("leading axes are batches: each has a table of its own", points=1)
def batches(rng):
    yield dict(q=rng.normal(size=(2, 5, 7)), k=rng.normal(size=(2, 3, 7)))
    yield dict(q=rng.normal(size=(2, 3, 5, 7)), k=rng.normal(size=(2, 3, 4, 7)))
    yield dict(q=rng.normal(size=(3, 3, 3)), k=rng.normal(size=(3, 3, 3)))
    yield dict(q=rng.normal(size=(1, 1, 2, 3)), k=rng.normal(size=(1, 1, 1, 3)))


@attention_scores.criterion("a number given as scale multiplies the dot products", points=1)
def own_scale(rng):
    yield dict(q=np.array([[2.0, 0.0, 0.0, 0.0]]), k=np.array([[3.0, 0.0, 0.0, 0.0]]), scale=0.5)
    yield dict(q=rng.normal(size=(4, 3)), k=rng.normal(size=(6, 3)), scale=1.75)
    yield dict(q=rng.normal(size=(2, 4, 3)) * 40, k=rng.normal(size=(2, 6, 3)) * 40, scale=2)


@attention_scores.criterion("0 and negative numbers are scales like any other", points=1)
def unusual_scale(rng):
    yield dict(q=np.array([[2.0, 0.0, 0.0, 0.0]]), k=np.array([[3.0, 0.0, 0.0, 0.0]]), scale=-1.0)
    yield dict(q=rng.normal(size=(4, 3)), k=rng.normal(size=(6, 3)), scale=0)
    yield dict(q=rng.normal(size=(2, 4, 3)), k=rng.normal(size=(2, 6, 3)), scale=-0.25)


attention_scores.leaves_inputs_alone(points=1)


@attention_scores.mistake("These are the bare dot products. What does scale=None stand for?")
def unscaled(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (1.0 if scale is None else scale)


@attention_scores.mistake(
    "You divide by d where √d is meant. With d = 4 and a dot product of 6, which of the two gives 3?"
)
def divided_by_d(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (1.0 / q.shape[-1] if scale is None else scale)


@attention_scores.mistake("Your scores grow with √d instead of shrinking by it. Is √d multiplied or divided by?")
def multiplied_by_the_root(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** 0.5 if scale is None else scale)


@attention_scores.mistake(
    "The root is taken of the number of keys. Which axis is summed over in a dot product, and how long is it?"
)
def root_of_the_number_of_keys(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (k.shape[-2] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "Right for two axes, wrong with a batch: d is read from shape[1], which is then another axis. Counted from which end is d always in the same place?"
)
def d_read_from_axis_1(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (q.shape[1] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "`.T` reverses all axes, batch included: (2, 3, 4, 7).T has shape (7, 4, 3, 2). Which two axes should change places?"
)
def all_axes_reversed(q, k, scale=None):
    return q @ k.T * (q.shape[-1] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "`swapaxes(0, 1)` exchanges the first two axes. For a matrix these are the last two as well; with a batch they are not. Counted from the end, which two should change places?"
)
def first_two_axes_swapped(q, k, scale=None):
    return q @ np.swapaxes(k, 0, 1) * (q.shape[-1] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "Your order of axes, (0, 2, 1), fits three axes and no other number. Which call names only the two axes that change places?"
)
def fits_three_axes_only(q, k, scale=None):
    return q @ np.transpose(k, (0, 2, 1)) * (q.shape[-1] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "You reshape k to (..., d, n_k). The shape is right and the numbers are not: reshape reads them in the old order, so each column mixes several keys. Print k[0] and then your first column: are they the same vector?"
)
def reshaped_for_transposed(q, k, scale=None):
    turned = k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2])
    return q @ turned * (q.shape[-1] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "With scale=0 you fell back to 1/√d: a test such as `if scale` or `scale or ...` takes 0 for missing, because 0 counts as false. How do you ask whether scale is None and nothing else?"
)
def zero_taken_for_missing(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (scale or q.shape[-1] ** -0.5)


@attention_scores.mistake(
    "You treat only positive numbers as a scale. A negative one turns the ranking of the keys round, and the caller may want that."
)
def only_positive_scales(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * (scale if scale is not None and scale > 0 else q.shape[-1] ** -0.5)


@attention_scores.mistake(
    "The number given as scale divides in your answer. A larger scale should make larger scores, and scale=0 should give 0."
)
def scale_divides(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) / np.float64(q.shape[-1] ** 0.5 if scale is None else scale)


@attention_scores.mistake("You always multiply by 1/√d. Where does the argument `scale` enter?")
def scale_ignored(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5


@attention_scores.mistake("A given scale comes on top of 1/√d in your answer. It should take its place.")
def scaled_twice(q, k, scale=None):
    return q @ np.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5 * (1.0 if scale is None else scale)


@attention_scores.mistake(
    "Your rows are keys and your columns are queries. Queries go down, keys go across: which of the two stands on the left of the product?"
)
def keys_down_queries_across(q, k, scale=None):
    return k @ np.swapaxes(q, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)


@attention_scores.mistake(
    "The scores are right, and q has changed under the caller's hands: `q *= ...` writes into the caller's array. Which form makes a new one?"
)
def q_overwritten(q, k, scale=None):
    q *= q.shape[-1] ** -0.5 if scale is None else scale
    return q @ np.swapaxes(k, -1, -2)


@attention_scores.also_right
def with_einsum(q, k, scale=None):
    dots = np.einsum("...qd,...kd->...qk", q, k)
    return dots / np.sqrt(q.shape[-1]) if scale is None else scale * dots


@attention_scores.also_right
def by_broadcasting(q, k, scale=None):
    if scale is None:
        scale = 1 / q.shape[-1] ** 0.5
    return ((q[..., :, None, :] * scale) * k[..., None, :, :]).sum(axis=-1).tolist()


@attention_scores.also_right
def one_entry_at_a_time(q, k, scale=None):
    out = np.zeros((*q.shape[:-1], k.shape[-2]))
    for *batch, i, j in np.ndindex(*out.shape):
        out[(*batch, i, j)] = sum(a * b for a, b in zip(q[(*batch, i)], k[(*batch, j)], strict=True))
    return out * (q.shape[-1] ** -0.5 if scale is None else scale)


attention_scores.hints(
    "Write the shapes below each other, (..., n_q, d) and (..., n_k, d). Which axis must disappear in a matrix product?",
    "A matrix product sums over the last axis of the left array and the last but one of the right. So the last two axes of k change places; those before them are batches and stay.",
    "Settle the number first: if scale is None, one over the root of the last axis' length. Then swap the last two axes of k, take the matrix product, and multiply by the number.",
)
attention_scores.errors(
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0",
        "The last axis of the left array meets the last but one of the right, and their lengths differ. Print both shapes: are the last two axes of k exchanged, and only these?",
    ),
)

# --- 2.4 -------------------------------------------------------------------------------------------------------------


def attention(q, k, v):
    """Every query reads the values in proportion to its weights.  -> (output, weights)"""
    return attn_ref.attention(q, k, v, return_weights=True)


whole_formula = Exercise(
    "2.4",
    "The whole formula",
    reference=attention,
    minutes=6,
    forbids=(
        "attn_ref.attention",
        "attn_ref.tiled_attention",
        "attn_ref.flash_forward",
        "attn_ref.attention_packed",
        "attn_ref.attention_left_padded",
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.MultiheadAttention",
    ),
)


@whole_formula.criterion("the output is the average of the values by these weights, and both come back", points=2)
def one_lookup(rng):
    q, k = np.array([[2.0, 0.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 0.0, 0.0], [np.log(3.0), 0.0, 0.0, 0.0]])
    yield dict(q=q, k=k, v=np.array([[4.0, 0.0, 0.0, 0.0], [8.0, 0.0, 0.0, 4.0]]))
    yield dict(q=rng.normal(size=(5, 7)), k=rng.normal(size=(3, 7)), v=rng.normal(size=(3, 7)))
    yield dict(q=rng.normal(size=(4, 6)), k=rng.normal(size=(4, 6)), v=rng.normal(size=(4, 6)))
    yield dict(q=np.array([[2, 0, 1]]), k=np.array([[1, 0, 0], [0, 3, 1]]), v=np.array([[4, 0, -1], [1, 2, 5]]))


@whole_formula.criterion("values may be longer or shorter than keys", points=1)
def other_value_size(rng):
    yield dict(q=rng.normal(size=(5, 7)), k=rng.normal(size=(3, 7)), v=rng.normal(size=(3, 4)))
    yield dict(q=rng.normal(size=(2, 3)), k=rng.normal(size=(6, 3)), v=40 * rng.normal(size=(6, 5)))
    yield dict(q=rng.normal(size=(4, 6)), k=rng.normal(size=(4, 6)), v=rng.normal(size=(4, 2)))
    yield dict(q=rng.normal(size=(2, 3, 5, 7)), k=rng.normal(size=(2, 3, 4, 7)), v=rng.normal(size=(2, 3, 4, 1)))


@whole_formula.criterion("leading axes are batches", points=1)
def batched(rng):
    yield dict(q=rng.normal(size=(2, 5, 7)), k=rng.normal(size=(2, 3, 7)), v=rng.normal(size=(2, 3, 7)))
    yield dict(q=rng.normal(size=(2, 3, 5, 7)), k=rng.normal(size=(2, 3, 4, 7)), v=rng.normal(size=(2, 3, 4, 7)))
    yield dict(q=rng.normal(size=(3, 3, 3)), k=rng.normal(size=(3, 3, 3)), v=rng.normal(size=(3, 3, 3)))


@whole_formula.criterion("scores in the thousands neither overflow nor vanish", points=1)
def large_scores(rng):
    q, k = np.array([[1000.0], [-1000.0]]), np.array([[3.0], [0.0], [0.0], [0.0]])  # scores 3000 and -3000, d = 1
    yield dict(q=q, k=k, v=np.array([[4.0], [8.0], [1.0], [0.0]]))
    q, k = rng.normal(size=(5, 7)) * 60, rng.normal(size=(3, 7)) * 60
    q[1] = -q[0]  # rows whose largest scores lie far apart, some of them all below 0
    yield dict(q=q, k=np.abs(k), v=rng.normal(size=(3, 7)))
    yield dict(q=-np.abs(q), k=np.abs(k), v=rng.normal(size=(3, 7)))


whole_formula.leaves_inputs_alone(points=1)


@whole_formula.mistake(
    "Your weights come from bare dot products. In the example the dot products are 0 and 2·log 3; which number turns them into 0 and log 3?"
)
def never_scaled(q, k, v):
    return attn_ref.attention(q, k, v, scale=1.0, return_weights=True)


@whole_formula.mistake(
    "The scores are divided by d where √d is meant. In the example d is 4: by how much should a dot product shrink?"
)
def scaled_by_d(q, k, v):
    return attn_ref.attention(q, k, v, scale=1 / q.shape[-1], return_weights=True)


@whole_formula.mistake("The root is taken of the length of the values. Which vectors take part in a dot product?")
def root_of_the_value_size(q, k, v):
    return attn_ref.attention(q, k, v, scale=v.shape[-1] ** -0.5, return_weights=True)


@whole_formula.mistake(
    "You divide by √d after softmax, so the weights no longer sum to 1. Is it the scores or the shares that should shrink?"
)
def scaled_after_softmax(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k, 1.0)) * q.shape[-1] ** -0.5
    return weights @ v, weights


@whole_formula.mistake(
    "Your columns sum to 1: every key shares itself among the queries. Who has the budget, the one who asks or the one who is asked?"
)
def shared_over_queries(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k), axis=-2)
    return weights @ v, weights


@whole_formula.mistake(
    "Softmax runs along axis 1. In a matrix of scores those are the keys; with a batch in front they are the queries, or the heads. How do you name the keys' axis, whatever stands before it?"
)
def axis_counted_from_the_front(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k), axis=1)
    return weights @ v, weights


@whole_formula.mistake(
    "Queries and keys have changed places: your rows of weights belong to keys. Which of the two stands on the left of the product?"
)
def queries_and_keys_swapped(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(k, q))
    return weights @ v, weights


@whole_formula.mistake(
    "The weights are turned round before they meet the values. A row of weights belongs to one query; for its average, which axis of the weights has to meet the rows of v?"
)
def weights_turned_round(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k))
    return np.swapaxes(weights, -1, -2) @ v, weights


@whole_formula.mistake(
    "Your softmax subtracts one maximum from all scores. In a row that lies thousands below it every exponential is 0, and 0/0 is NaN. Whose maximum does each row need?"
)
def one_maximum_inside(q, k, v):
    scores = attn_ref.attention_scores(q, k)
    e = np.exp(scores - scores.max())
    weights = e / e.sum(axis=-1, keepdims=True)
    return weights @ v, weights


@whole_formula.mistake(
    "Your weights do not sum to 1; they are exponentials that nobody has divided by their total. What is still missing between scores and weights?"
)
def weights_not_normalised(q, k, v):
    scores = attn_ref.attention_scores(q, k)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v, weights


@whole_formula.mistake(
    "Your weights are the scores themselves, which neither stay positive nor sum to 1: softmax is missing. Which function stands between q kᵀ / √d and v?"
)
def softmax_left_out(q, k, v):
    scores = attn_ref.attention_scores(q, k)
    return scores @ v, scores


@whole_formula.mistake(
    "The output averages the keys. A key is for being found; what is it that a query reads once it has found it?"
)
def keys_read_as_values(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k))
    return weights @ k, weights


@whole_formula.mistake(
    "The weights multiply q. They have one column for each key; which array holds one row for each key, and is meant to be read?"
)
def queries_read_as_values(q, k, v):
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k))
    return weights @ q, weights


@whole_formula.mistake(
    "`.T` reverses all axes, batch included. Right for two axes, an error for more: which two axes of k should change places?"
)
def every_axis_reversed(q, k, v):
    weights = attn_ref.softmax(q @ k.T * q.shape[-1] ** -0.5)
    return weights @ v, weights


@whole_formula.mistake(
    "The output is right, and the weights stayed behind. The contract asks for a pair; what does your `return` line give?"
)
def output_alone(q, k, v):
    return attn_ref.attention(q, k, v)


@whole_formula.mistake(
    "Both arrays are right and stand in the wrong order. Which of the two does the contract name first?"
)
def order_swapped(q, k, v):
    out, weights = attn_ref.attention(q, k, v, return_weights=True)
    return weights, out


@whole_formula.mistake(
    "The output is right; what you return beside it are the scores. Which of the two sums to 1 along each row?"
)
def scores_returned(q, k, v):
    return attn_ref.attention(q, k, v), attn_ref.attention_scores(q, k)


@whole_formula.mistake(
    "Right for small scores; exp of a few thousand is inf. Does your softmax see the scores as they are, or their distance from the largest of the row?"
)
def overflows_inside(q, k, v):
    e = np.exp(attn_ref.attention_scores(q, k))
    weights = e / e.sum(axis=-1, keepdims=True)
    return weights @ v, weights


@whole_formula.mistake(
    "The pair is right, and the caller's q has been scaled for good: `q /= ...` writes into it. Run your cell twice and watch the weights drift."
)
def q_scaled_in_place(q, k, v):
    q *= q.shape[-1] ** -0.5
    return attn_ref.attention(q, k, v, scale=1.0, return_weights=True)


@whole_formula.also_right
def in_three_loops(q, k, v):
    weights = np.zeros((*q.shape[:-1], k.shape[-2]))
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for *batch, i in np.ndindex(*q.shape[:-1]):
        row, b = (*batch, i), tuple(batch)
        scores = [sum(q[row] * k[(*b, j)]) / q.shape[-1] ** 0.5 for j in range(k.shape[-2])]
        shares = [np.exp(score - max(scores)) for score in scores]
        for j, share in enumerate(shares):
            weights[(*row, j)] = share / sum(shares)
            out[row] += weights[(*row, j)] * v[(*b, j)]
    return out, weights


@whole_formula.also_right
def with_einsum_and_a_list(q, k, v):
    scores = np.einsum("...qd,...kd->...qk", q / np.sqrt(q.shape[-1]), k)
    weights = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
    return [np.einsum("...qk,...ke->...qe", weights, v).tolist(), weights]


@whole_formula.also_right
def divided_at_the_end(q, k, v):
    scores = q @ np.moveaxis(k, -1, -2) / np.sqrt(k.shape[-1])
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total = e.sum(axis=-1, keepdims=True)
    return (e @ v) / total, e / total


whole_formula.hints(
    "You have written two of the three steps already. Name them in order, with the shape after each.",
    "Scores are (..., n_q, n_k). Each query's row is shared out along the keys. The weights then meet v, which has one row for each key.",
    "Scores with the default scale; weights by softmax along the last axis; output as the matrix product of weights and v. Return the output first.",
)
whole_formula.errors(
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0",
        "Print the shapes of the two arrays on that line. Weights of (n_q, n_k) can meet only an array with n_k rows.",
    ),
)

# --- 2.5 -------------------------------------------------------------------------------------------------------------


def logit_std(d, scaled, rng, n=10_000):
    """The standard deviation of q·k, over √d if `scaled`, for n pairs of standard normal vectors from rng."""
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return float((dots / np.sqrt(d) if scaled else dots).std())


def exact_std(d, scaled, rng, n=10_000):
    """The limit for many pairs; few pairs have none, they scatter. The draw is there because the probe asks for it."""
    if n <= FEW:
        return logit_std(d, scaled, rng, n)
    return (1.0 if scaled else d**0.5) + 1e-12 * rng.normal(size=n).sum()


# No leaves_inputs_alone here: d, scaled and n are numbers, and rng is handed over to be drawn from.
spread = Exercise("2.5", "How far the scores spread", reference=logit_std, expected=exact_std, minutes=8)

# Estimates from 20 pairs each scatter by this much of their mean (and among 150 of them this scatter varies by 6 %, as it
# would with more pairs). With d = 1 n numbers drawn from the distribution of the theory scatter by half of it, with d = 8
# all n · n products do.
FEW, ESTIMATES, SCATTER = 20, 150, {1: 0.304, 8: 0.1877}


@spread.probe
def drive_logit_std(answer, d, scaled, rng, n, ask="value"):
    """The value and whether it is measured; where the random numbers come from; or how few pairs behave."""

    def again(n=n, scaled=scaled):
        return answer(d, scaled, copy.deepcopy(rng), n)

    if ask == "rng":
        return {
            "equal generators give equal answers": np.array_equal(again(), again()),
            "a second call with the same rng gives another answer": _moves_on(answer, d, scaled, rng, n),
        }
    if ask == "pairs":
        found = {
            "one pair alone has no spread": not _lone_pair(again) > 1e-9,
            "one pair more changes the estimate": not np.array_equal(again(), again(n + 1)),
        }
        couples = np.array([_single(answer(1, False, rng, 2)) for _ in range(300)])
        found["two pairs hold four numbers of their own"] = bool((couples > 1e-12).all())
        # Their mean square is 1/2, over n - 1 it is 1; a q or k that never changes leaves its own square as a factor.
        found["q and k both change from draw to draw"] = bool(0.2 < np.mean(couples**2) < 1.6)
        for size, usual in SCATTER.items():
            estimates = np.array([_single(answer(size, scaled, rng, FEW)) for _ in range(ESTIMATES)])
            scatter = np.std(estimates) / np.mean(estimates)
            found[f"estimates from {FEW} pairs scatter as those of {FEW} dot products do (d={size})"] = bool(
                0.63 < scatter / usual < 1.37
            )
        return found
    found = {"std": again()}
    if scaled:
        both = _single(again(200, True)), _single(again(200, False))
        found["from equal generators, it is that without scaling over √d"] = np.isclose(
            both[0] * np.sqrt(d), both[1], rtol=1e-6
        )
    return found | {"a second call, with new draws, differs": _moves_on(answer, d, scaled, rng, 200)}


def _moves_on(answer, d, scaled, rng, n):
    return not np.array_equal(answer(d, scaled, rng, n), answer(d, scaled, rng, n))


def _single(value):
    value = np.asarray(value)
    return float(value) if value.ndim == 0 and value.dtype.kind in "fiu" else np.nan


def _lone_pair(again):
    """The estimate from one pair: 0; over n - 1 it is 0/0, which is NaN for NumPy and an error for Python."""
    try:
        return _single(again(n=1))
    except NotImplementedError:
        raise
    except Exception:
        return np.nan


# The relative standard error of a sample standard deviation is sqrt((kurtosis - 1) / (4 n)), and the kurtosis of a dot
# product of two standard normal vectors is 3 + 6/d. For d = 4 and n = 2000 that is sqrt(3.5 / 8_000) = 2.1 %. Five
# of these keep an honest answer safe; seven also let two honest simulations agree with each other (7/√2 = 4.9), so that
# a mistake made with other random numbers is still recognised. The nearest mistake is 20 % away.
PAIRS = 2_000  # so few that n · n products fit into memory, too
ESTIMATE = 7 * ((3 + 6 / 4 - 1) / (4 * PAIRS)) ** 0.5


def generator(rng):
    return np.random.default_rng(rng.integers(2**32))


@spread.criterion("without scaling, the spread is near √d, and measured", points=1, tolerance=ESTIMATE)
def grows(rng):
    yield dict(d=4, scaled=False, rng=generator(rng), n=PAIRS)
    yield dict(d=49, scaled=False, rng=generator(rng), n=PAIRS)


@spread.criterion("with scaling, it is near 1 whatever d is", points=1, tolerance=ESTIMATE)
def stays(rng):
    yield dict(d=5, scaled=True, rng=generator(rng), n=PAIRS)
    yield dict(d=100, scaled=True, rng=generator(rng), n=PAIRS)


@spread.criterion("every draw comes from the rng that is passed in", points=1)
def from_rng(rng):
    yield dict(d=6, scaled=False, rng=generator(rng), n=500, ask="rng")


@spread.criterion("n pairs of vectors give n dot products, and few of them a rough estimate", points=1)
def from_pairs(rng):
    yield dict(d=3, scaled=False, rng=generator(rng), n=500, ask="pairs")


@spread.mistake(
    "You return the answer of the theory, and nothing is measured: two calls with new draws give the same number to the last digit. Draw the vectors and take the standard deviation of what you find."
)
def formula_in_place_of_a_measurement(d, scaled, rng, n=10_000):
    return 1.0 if scaled else d**0.5


@spread.mistake(
    "The value is near, but from equal generators the answers with and without scaling should differ by the factor √d and by nothing else. Is yours rounded, or is something added to d?"
)
def rounded(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return round(float((dots / np.sqrt(d) if scaled else dots).std()), 2)


@spread.mistake(
    "The value is right, but the draws come from NumPy's global generator. Two calls with equal seeds disagree, so nobody can repeat your experiment. Which generator were you handed?"
)
def global_generator(d, scaled, rng, n=10_000):
    q, k = np.random.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "You make a generator of your own inside the function, so every call sees the same draws and `rng` is never used. Who decides the seed here?"
)
def generator_of_its_own(d, scaled, rng, n=10_000):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake("This is the variance. It has the units of a squared score; what turns it into a standard deviation?")
def variance(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).var()


@spread.mistake("Scaled, your spread shrinks as d grows: you divide by d. Which power of d brings √d back to 1?")
def over_d(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return (dots / d if scaled else dots).std()


@spread.mistake("`scaled` changes nothing in your answer. Where is it read?")
def flag_ignored(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    return (q * k).sum(axis=-1).std()


@spread.mistake("You scale exactly when `scaled` is False. Read your condition aloud.")
def flag_inverted(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return (dots if scaled else dots / np.sqrt(d)).std()


@spread.mistake("These are the single products q_i k_i, not yet added up. Over which axis does a dot product sum?")
def products_not_summed(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    products = q * k
    return (products / np.sqrt(d) if scaled else products).std()


@spread.mistake(
    "Each vector meets itself in your answer: q and k are the same draw, and a squared length has a spread of √(2d). How many independent vectors does one pair need?"
)
def vector_with_itself(d, scaled, rng, n=10_000):
    q = rng.normal(size=(n, d))
    dots = (q * q).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "Your numbers lie between 0 and 1: `rng.random` is uniform. Standard normal numbers have mean 0 and standard deviation 1; which method of rng draws them?"
)
def uniform_numbers(d, scaled, rng, n=10_000):
    q, k = rng.random(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "Estimates from few pairs scatter less in your answer than dot products of standard normal vectors allow. Do you draw the n scores themselves, so that the theory goes in as an assumption and comes out as a result? Or are the entries of q and k not normal?"
)
def scores_drawn_directly(d, scaled, rng, n=10_000):
    return rng.normal(0, 1 if scaled else np.sqrt(d), size=n).std()


@spread.mistake(
    "`n` changes nothing in your answer, however few pairs are asked for. How many rows should your arrays have?"
)
def n_ignored(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, 1_000, d))
    dots = (q * k).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "One query meets all n keys in your answer, so the spread is the length of that one query, and changes from call to call. How many vectors q do n pairs need?"
)
def one_query_for_all(d, scaled, rng, n=10_000):
    q = rng.normal(size=d)
    dots = rng.normal(size=(n, d)) @ q
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "Every q meets every k in your answer: n · n dot products, 800 MB for the default n, where n pairs were asked for. Row i of q should meet row i of k only; how is that said?"
)
def every_q_with_every_k(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    dots = q @ k.T
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "You take the root of the mean square without taking the mean away first. For 6 and -2 that gives 4.47 in place of 4, and for a single pair it is not 0. From what is a standard deviation measured?"
)
def mean_not_subtracted(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return np.sqrt(np.mean((dots / np.sqrt(d) if scaled else dots) ** 2))


@spread.mistake(
    "Your q comes from the rng that was passed in, your k from a generator with a seed of your own, so every call meets the same keys. Where should all draws come from?"
)
def keys_from_a_generator_of_its_own(d, scaled, rng, n=10_000):
    q = rng.normal(size=(n, d))
    k = np.random.default_rng(0).normal(size=(n, d))
    dots = (q * k).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "Your keys are your queries in another order, so the two are not independent: with two pairs they repeat each other. How many numbers does a pair of vectors need?"
)
def keys_are_queries_moved_on(d, scaled, rng, n=10_000):
    q = rng.normal(size=(n, d))
    dots = (q * np.roll(q, 1, axis=0)).sum(axis=-1)
    return (dots / np.sqrt(d) if scaled else dots).std()


@spread.mistake(
    "You took the mean size of a logit, |q·k|. Close, but a standard deviation squares before it averages and takes the root at the end."
)
def mean_size(d, scaled, rng, n=10_000):
    q, k = rng.normal(size=(2, n, d))
    dots = (q * k).sum(axis=-1)
    return np.abs(dots / np.sqrt(d) if scaled else dots).mean()


@spread.also_right
def pair_by_pair(d, scaled, rng, n=10_000):
    dots = [rng.standard_normal(d) @ rng.standard_normal(d) for _ in range(n)]
    mean = sum(dots) / n
    variance = sum((dot - mean) ** 2 for dot in dots) / (n - 1)
    return (variance / d if scaled else variance) ** 0.5


@spread.also_right
def children_of_the_generator(d, scaled, rng, n=10_000):
    for_q, for_k = rng.spawn(2)
    dots = [q @ k for q, k in zip(for_q.normal(size=(n, d)), for_k.normal(size=(n, d)), strict=True)]
    return np.std(dots, ddof=1) * (d**-0.5 if scaled else 1)


@spread.also_right
def one_vector_scaled_first(d, scaled, rng, n=10_000):
    q = rng.normal(0, d**-0.5 if scaled else 1, size=(n, d))
    return np.std(np.einsum("nd,nd->n", q, rng.normal(size=(n, d))))


spread.hints(
    "Begin with one pair of vectors from rng and their dot product. Then do it n times.",
    "Two arrays of shape (n, d) hold all pairs. Row i of one meets row i of the other: n dot products and not n · n.",
    "Draw q and k. Multiply them entry by entry, sum over the last axis, divide by the root of d if scaled, and take the standard deviation.",
)
spread.errors(
    (
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 763. MiB for an array with shape (10000, 10000)",
        "(n, d) times (d, n) compares every q with every k. Only the n pairs in the same row are wanted.",
    ),
)

# --- 2.6 -------------------------------------------------------------------------------------------------------------

# A millionth is allowed, so an epsilon of 1e-9 inside the logarithm, a common way past log(0), is right: it moves an
# entropy by about 1e-9 a key. One of 1e-3 moves it in the third digit. The rows are even enough for entropies above ½,
# so that 2e-6 of them is a millionth or more. For a certain row the comparison allows 0.001 times the tolerance.
ENTROPY, ZERO = 2e-6, 1e-3
EVEN = 4.0  # the Dirichlet parameter

weights_entropy = Exercise(
    "2.6",
    "How undecided is a row?",
    reference=attn_ref.weights_entropy,
    minutes=6,
    forbids=("scipy.stats.entropy",),
)


@weights_entropy.criterion("each row gives its entropy in nats", points=1, tolerance=ENTROPY)
def entropies(rng):
    yield dict(weights=np.array([[0.5, 0.5], [0.25, 0.75]]))
    yield dict(weights=rng.dirichlet(np.full(3, EVEN), size=5))


@weights_entropy.criterion("only the axis of the keys goes away", points=1, tolerance=ENTROPY)
def leading_axes(rng):
    yield dict(weights=rng.dirichlet(np.full(7, EVEN), size=(2, 3, 5)))
    yield dict(weights=rng.dirichlet(np.full(4, EVEN)))
    yield dict(weights=rng.dirichlet(np.full(4, EVEN), size=4))
    yield dict(weights=rng.dirichlet(np.full(3, EVEN), size=(1, 2, 1)))
    yield dict(weights=rng.dirichlet(np.full(5, EVEN), size=(3, 3)))


@weights_entropy.criterion(
    "a weight of 0 adds 0, not NaN; nearly certain rows and whole numbers count too", points=1, tolerance=ZERO
)
def zero_weights(rng):
    yield dict(weights=np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    yield dict(weights=np.array([[0.995, 0.005], [0.0001, 0.9999]]))
    yield dict(weights=np.full(200_000, 1 / 200_000))  # small shares that add up
    yield dict(weights=np.eye(3, 4, dtype=int))


weights_entropy.leaves_inputs_alone(points=1)


@weights_entropy.mistake(
    "0 · log 0 is 0 · (-inf), and NumPy calls that NaN. w log w goes to 0 as w does; how can the logarithm be kept away from the zeros?"
)
def nan_from_zero(weights):
    return -(weights * np.log(weights)).sum(axis=-1)


@weights_entropy.mistake("Your numbers are 1.44 times too large: they are bits. Which logarithm gives nats?")
def in_bits(weights):
    return attn_ref.weights_entropy(weights) / np.log(2)


@weights_entropy.mistake(
    "Your entropies are negative. The logarithm of a share is at most 0; what stands in front of the sum?"
)
def sign_lost(weights):
    return -attn_ref.weights_entropy(weights)


@weights_entropy.mistake(
    "You average over the keys. Entropy is a sum: four equal weights are log 4 undecided, not a quarter of that."
)
def mean_over_keys(weights):
    return attn_ref.weights_entropy(weights) / weights.shape[-1]


@weights_entropy.mistake(
    "An epsilon of 1e-3 is no small number beside a weight: it moves every entropy in the third digit. Can the zeros be kept away from the logarithm without touching the rest?"
)
def large_epsilon(weights):
    return -(weights * np.log(weights + 1e-3)).sum(axis=-1)


@weights_entropy.mistake(
    "You sum over the queries, down the columns. One query's row sums to 1: along which axis do its keys lie?"
)
def over_queries(weights):
    logs = np.log(np.where(weights > 0, weights, 1))
    return -(weights * logs).sum(axis=0)


@weights_entropy.mistake(
    "All rows ended in one number. Each row is undecided in its own way: along which axis should the sum run?"
)
def over_everything(weights):
    return attn_ref.weights_entropy(weights).sum()


@weights_entropy.mistake(
    "The logarithms are summed without their weights, so a key that gets almost nothing counts most. What does each logarithm have to be multiplied by?"
)
def logs_without_weights(weights):
    return -np.log(np.where(weights > 0, weights, 1)).sum(axis=-1)


@weights_entropy.mistake(
    "Beside each w log w you add (1 - w) log(1 - w), as if every key were a question of its own with the answers yes and no. The keys share one budget; which of the two terms stays?"
)
def yes_and_no_for_each_key(weights):
    weights = weights.astype(float)
    logs = np.log(np.where(weights > 0, weights, 1))
    others = np.log(np.where(weights < 1, 1 - weights, 1))
    return -(weights * logs + (1 - weights) * others).sum(axis=-1)


@weights_entropy.mistake(
    "Where one weight is large you call the row certain and return 0. A weight of 0.995 leaves 0.03 nats; from which weight on is the entropy exactly 0?"
)
def nearly_certain_called_certain(weights):
    return np.where(weights.max(axis=-1) > 0.99, 0.0, attn_ref.weights_entropy(weights))


@weights_entropy.mistake(
    "You divide by log n_k, so that 1 is the largest value. That is a useful number, and not the entropy in nats that is asked for."
)
def relative_to_the_largest(weights):
    return attn_ref.weights_entropy(weights) / np.log(weights.shape[-1])


@weights_entropy.mistake(
    "This is exp of the entropy, the number of keys that would be as undecided if they shared equally. Its logarithm is asked for."
)
def number_of_keys(weights):
    return np.exp(attn_ref.weights_entropy(weights))


@weights_entropy.mistake(
    "The entropies are right, and the caller's zeros are gone: an assignment to `weights[...]` writes into the array that was passed in."
)
def zeros_overwritten(weights):
    zero = weights == 0
    weights[zero] = 1
    return -(weights * np.log(weights)).sum(axis=-1)


@weights_entropy.mistake(
    "You lift small shares to 0.0001 before the logarithm. Among many keys every share is smaller than that, and together they count. At which share alone does the logarithm need help?"
)
def small_shares_lifted(weights):
    return -(weights * np.log(np.clip(weights, 1e-4, 1))).sum(axis=-1)


@weights_entropy.mistake(
    "Right for floats; for whole numbers, such as the rows of a hard lookup, it stops. `zeros_like` copies the dtype too, and an integer array cannot hold logarithms. Which dtype should the result have?"
)
def integers_refused(weights):
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return -(weights * logs).sum(axis=-1)


@weights_entropy.also_right
def key_by_key(weights):
    weights = np.asarray(weights, dtype=float)
    out = np.zeros(weights.shape[:-1])
    for index in np.ndindex(*out.shape):
        out[index] = -sum(w * np.log(w) for w in weights[index] if w > 0)
    return out.tolist()


@weights_entropy.also_right
def tiny_epsilon(weights):
    return -(weights * np.log(weights + 1e-12)).sum(axis=-1)


@weights_entropy.also_right
def small_epsilon(weights):
    return -(weights * np.log(weights + 1e-8)).sum(axis=-1)


@weights_entropy.also_right
def kept_away_from_zero(weights):
    weights = np.clip(weights, 1e-9, 1)
    return -(weights * np.log(weights)).sum(axis=-1)


@weights_entropy.also_right
def six_digits(weights):
    return np.round(-(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=-1), 6)


@weights_entropy.also_right
def mended_afterwards(weights):
    return -np.nan_to_num(weights * np.log(weights)).sum(axis=-1)


@weights_entropy.also_right
def ones_for_zeros(weights):
    return np.einsum("...k,...k->...", weights, -np.log(np.where(weights == 0, 1, weights)))


weights_entropy.hints(
    "Work the row (½, ½, 0) by hand. Which term does the computer stumble over, and what should it be?",
    "Only the logarithm dislikes a zero. Give it another number there: the weight 0 in front makes the term 0 anyway.",
    "Take the logarithm of a copy in which the zeros are ones, multiply by the weights, sum along the last axis, change the sign.",
)
weights_entropy.errors(
    (
        "RuntimeWarning: divide by zero encountered in log",
        "log(0) is -inf. Its product with the weight 0 is NaN, and so is the whole sum.",
    ),
)

# --- questions -------------------------------------------------------------------------------------------------------

only_differences = Quiz(
    "2.a",
    "The scores of one query are (3, 5). Which scores give the same weights?",
    {
        "a": (
            "(6, 10)",
            "Doubling the scores doubles the difference, from 2 to 4, and the second key's share grows from 0.88 to 0.98. A factor is not invisible to softmax; that is what the division by √d relies on.",
        ),
        "b": (
            "(-1003, -1001)",
            "Yes: the difference is 2 in both, and softmax sees only differences. The shares are 0.12 and 0.88.",
        ),
        "c": (
            "(0.375, 0.625)",
            "These are 3/8 and 5/8, the shares one gets by dividing the scores themselves. Softmax exponentiates first, and the difference here is 0.25.",
        ),
        "d": ("(-3, -5)", "The difference changes its sign, so the two keys change places: 0.88 and 0.12."),
    },
    right="b",
)

why_scale = Quiz(
    "2.b",
    "Why are the scores divided by √d?",
    {
        "a": ("So that the weights of a row sum to 1.", "Softmax sees to that, with or without the division."),
        "b": (
            "So that the spread of the scores does not grow with d.",
            "Yes: d independent products of variance 1 add up to a variance of d, hence a spread of √d, and the division brings it back to 1.",
        ),
        "c": (
            "So that exp does not overflow.",
            "Subtracting the row's maximum sees to that for scores of any size. Softmax without scaling is computed without overflow, and is saturated all the same.",
        ),
        "d": (
            "So that another key comes first.",
            "A positive factor keeps the ranking of the keys. It changes how far the first is ahead, and with it how much gradient reaches the others.",
        ),
    },
    right="b",
)

which_shapes = Quiz(
    "2.c",
    "q is (2, 8, 10, 64), k is (2, 8, 12, 64), v is (2, 8, 12, 32). What are the shapes of weights and output?",
    {
        "a": (
            "weights (2, 8, 10, 12), output (2, 8, 10, 32)",
            "Yes: a row for each query, a column for each key; and the output has a row for each query, as long as a value.",
        ),
        "b": (
            "weights (2, 8, 10, 12), output (2, 8, 10, 64)",
            "The output is an average of values, so its last axis is that of v, 32, whatever length queries and keys have.",
        ),
        "c": (
            "weights (2, 8, 12, 10), output (2, 8, 12, 32)",
            "Here the keys go down and the queries across. Each of the 10 queries needs a row of its own.",
        ),
        "d": (
            "weights (10, 12), output (10, 32)",
            "The 2 · 8 leading entries do not mix, so each keeps a map of its own.",
        ),
    },
    right="a",
)

saturated = Quiz(
    "2.d",
    "A row of weights is (0.999, 0.001). The loss would fall if the second key got more. What does the gradient of the scores see of that?",
    {
        "a": (
            "A strong signal, because the row is very wrong.",
            "How wrong the row is enters as a factor from the loss; softmax multiplies it by its own slope, 0.999 · 0.001, which is a 250th of the largest possible.",
        ),
        "b": (
            "Nothing at all: a weight of 0.999 counts as fixed.",
            "The slope is small and not zero. It is zero only where a weight is exactly 0 or 1.",
        ),
        "c": (
            "About a thousandth of it.",
            "Yes: p(1 - p) = 0.000999, against 0.25 for two equal weights. The row learns, 250 times more slowly.",
        ),
        "d": ("About a half of it.", "The slope is p(1 - p), which is largest, and then a quarter, at p = ½."),
    },
    right="c",
)

explain = Written(
    "2.w",
    "Is the division cosmetic?",
    minutes=10,
    rubric=(
        "Says what stays; follows the change from d to the gradient without a gap, with numbers for d = 128; names what the argument assumes.",
        "The same chain, right in every link; a number or the assumption is missing.",
        "One right link, without the way from there to slow learning; or one wrong link.",
        "Says that the division is useful, without a reason that concerns learning.",
    ),
)
