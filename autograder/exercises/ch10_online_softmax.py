"""Chapter 10, online softmax and tiles: the running state, its merge, tiles forward and backward, and the bytes saved."""

import tracemalloc

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

# --- 10.1 ------------------------------------------------------------------------------------------------------------

online_update = Exercise(
    "10.1",
    "One more block of keys",
    reference=attn_ref.online_update,
    minutes=20,
    forbids=("attn_ref.tiled_attention", "attn_ref.merge_partials"),
)


def new_state(n, d_v):
    """The state of n queries that have seen nothing yet."""
    return dict(row_max=np.full(n, -np.inf), row_sum=np.zeros(n), acc=np.zeros((n, d_v)))


def state_after(scores, values):
    """The state after a first block, written out; every row of scores holds a finite one."""
    largest = scores.max(axis=-1)
    e = np.exp(scores - largest[:, None])
    return dict(row_max=largest, row_sum=e.sum(axis=-1), acc=e @ values)


def later_block(rng, n, b, d_v, spread=1.0, before=3):
    """A state of n queries, and one more block of b keys."""
    state = state_after(spread * rng.normal(size=(n, before)), rng.normal(size=(before, d_v)))
    return state | dict(scores=spread * rng.normal(size=(n, b)), values=rng.normal(size=(b, d_v)))


@online_update.criterion("a first block makes the state: maximum, sum of exponentials, sum of values", points=1)
def first_block(rng):
    yield new_state(1, 1) | dict(scores=np.array([[0.0, 0.0]]), values=np.array([[2.0], [4.0]]))
    yield new_state(5, 4) | dict(scores=rng.normal(size=(5, 3)) - 2, values=rng.normal(size=(3, 4)))
    yield new_state(1, 1) | dict(scores=np.array([[-7.0]]), values=np.array([[3.0]]))
    yield new_state(2, 3) | dict(scores=np.array([[3, -1], [-2, -5]]), values=np.array([[1, 0, 2], [4, -3, 1]]))


@online_update.criterion("a later block joins, and what was kept is brought to the new maximum", points=2)
def next_block(rng):
    start = dict(row_max=np.array([0.0]), row_sum=np.array([2.0]), acc=np.array([[6.0]]))
    yield start | dict(scores=np.array([[np.log(2.0)]]), values=np.array([[10.0]]))
    yield start | dict(scores=np.array([[-np.log(2.0)]]), values=np.array([[10.0]]))
    yield later_block(rng, 5, 3, 4)
    yield later_block(rng, 2, 6, 1)
    yield later_block(rng, 4, 4, 4)
    yield later_block(rng, 3, 1, 3)
    whole = dict(scores=np.array([[1, -2], [2, 0]]), values=np.array([[1, 4], [-3, 2]]))  # below and above the maximum
    yield dict(row_max=np.array([1.5, 0.25]), row_sum=np.array([1.5, 2.0]), acc=rng.normal(size=(2, 2))) | whole
    grown = later_block(rng, 6, 2, 3)
    yield grown | dict(scores=grown["scores"] + np.array([[3.0], [-3.0], [0.0], [5.0], [-5.0], [1.0]]))


@online_update.criterion("scores in the thousands neither overflow nor vanish", points=1)
def large_scores(rng):
    state = state_after(np.array([[1000.0, 999.0], [-3000.0, -3001.0], [0.0, 1.0]]), rng.normal(size=(2, 4)))
    scores = np.array([[-1000.0, 998.5, 0.0], [-2999.5, -3002.0, -9000.0], [2000.0, 1999.0, 2000.0]])
    yield state | dict(scores=scores, values=rng.normal(size=(3, 4)))
    yield new_state(2, 3) | dict(
        scores=np.array([[-5000.0, -5001.0], [4000.0, 4000.5]]), values=rng.normal(size=(2, 3))
    )


@online_update.criterion("-inf: forbidden keys, and rows that have seen nothing yet", points=1)
def nothing_seen(rng):
    inf = np.inf
    scores = np.array([[-inf, 0.5, -inf], [-inf, -inf, -inf], [-2.0, 1.0, -1.5]])
    yield new_state(3, 2) | dict(scores=scores, values=rng.normal(size=(3, 2)))
    seen = dict(row_max=np.array([-inf, 1.5]), row_sum=np.array([0.0, 2.0]), acc=np.array([[0.0, 0.0], [1.0, -3.0]]))
    yield seen | dict(scores=np.array([[-inf, -inf], [-inf, -inf]]), values=rng.normal(size=(2, 2)))
    yield seen | dict(scores=np.array([[-800.0, -801.0], [-inf, 2.0]]), values=rng.normal(size=(2, 2)))
    hidden = np.array([[1e30, -1e30], [2.0, 5.0]])  # a key that nobody may read holds what would be noticed
    yield new_state(2, 2) | dict(scores=np.array([[-inf, 0.5], [-inf, -inf]]), values=hidden)


online_update.leaves_inputs_alone(points=1)


@online_update.mistake(
    "The sum is brought to the new maximum and `acc` is not. Both are sums of e^(s - maximum): when the maximum grows, by which factor does each of them shrink?"
)
def acc_not_rescaled(row_max, row_sum, acc, scores, values):
    new_max, new_sum, _ = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    e = np.exp(scores - np.where(np.isneginf(new_max), 0.0, new_max)[:, None])
    return new_max, new_sum, acc + e @ values


@online_update.mistake(
    "`acc` is brought to the new maximum and the sum is not, so the output is divided by exponentials taken against an old maximum. What is row_sum a sum of?"
)
def sum_not_rescaled(row_max, row_sum, acc, scores, values):
    new_max, _, new_acc = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    e = np.exp(scores - np.where(np.isneginf(new_max), 0.0, new_max)[:, None])
    return new_max, row_sum + e.sum(axis=-1), new_acc


@online_update.mistake(
    "The new exponentials are simply added to the old ones, though both were taken against different maxima. What must the old sum and the old acc be multiplied by first?"
)
def nothing_rescaled(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1))
    e = np.exp(scores - np.where(np.isneginf(new_max), 0.0, new_max)[:, None])
    return new_max, row_sum + e.sum(axis=-1), acc + e @ values


@online_update.mistake(
    "What was kept grows where it should shrink: your factor is e^(new - old). If a larger maximum turns up, should old exponentials count for more or for less?"
)
def factor_turned_round(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1))
    safe = np.where(np.isneginf(new_max), 0.0, new_max)
    kept = np.where(np.isneginf(row_max), 0.0, np.exp(safe - row_max))
    e = np.exp(scores - safe[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "Your maximum is that of the new block alone. If the block holds only small scores, the maximum falls, and old exponentials are blown up until they overflow. Which two numbers does the running maximum compare?"
)
def maximum_of_the_block_alone(row_max, row_sum, acc, scores, values):
    new_max = scores.max(axis=-1)
    safe = np.where(np.isneginf(new_max), 0.0, new_max)
    kept = np.exp(row_max - safe)
    e = np.exp(scores - safe[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "The new exponentials are taken against the old maximum. In a first block that is -inf, and later e^(s - m) can overflow. Which maximum is known once the block has been looked at?"
)
def old_maximum_for_the_new_block(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1))
    safe = np.where(np.isneginf(new_max), 0.0, new_max)
    kept = np.exp(row_max - safe)
    e = np.exp(scores - row_max[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "The exponentials are those of the bare scores, and the maximum is only carried along. e^1000 overflows and e^-5000 is 0: what should be subtracted before exp?"
)
def maximum_never_subtracted(row_max, row_sum, acc, scores, values):
    e = np.exp(scores)
    return np.maximum(row_max, scores.max(axis=-1)), row_sum + e.sum(axis=-1), acc + e @ values


@online_update.mistake(
    "One maximum serves all rows. A row that lies thousands below it keeps nothing but zeros. Along which axis does each row take its own?"
)
def one_maximum_for_all_queries(row_max, row_sum, acc, scores, values):
    new_max = np.full(row_max.shape, max(row_max.max(), scores.max()))
    kept = np.exp(row_max - new_max)
    e = np.exp(scores - new_max[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "The maximum that you keep is never below 0. In a row whose scores are all near -5000, what is left of every exponential?"
)
def running_maximum_never_below_zero(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(np.maximum(row_max, 0.0), scores.max(axis=-1))
    kept = np.exp(row_max - new_max)
    e = np.exp(scores - new_max[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "`acc` comes back divided by the sum. The state is unnormalised: the division comes once, after the last block. What would the next block add its exponentials to?"
)
def divided_at_every_block(row_max, row_sum, acc, scores, values):
    new_max, new_sum, new_acc = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    return new_max, new_sum, new_acc / np.where(new_sum > 0, new_sum, 1.0)[:, None]


@online_update.mistake(
    "Rows that have seen nothing become NaN: their old and new maximum are both -inf, and -inf minus -inf has no value. What could be subtracted in such a row, where every exponential must be 0?"
)
def nan_where_nothing_is_seen(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1))
    kept = np.exp(row_max - new_max)
    e = np.exp(scores - new_max[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "A row that has seen nothing comes back with the maximum 0. It helps against -inf minus -inf, but it must not be kept: if scores near -800 follow, are they above 0?"
)
def stand_in_returned(row_max, row_sum, acc, scores, values):
    new_max, new_sum, new_acc = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    return np.where(np.isneginf(new_max), 0.0, new_max), new_sum, new_acc


@online_update.mistake(
    "A large negative number stands where -inf is meant. In a row of nothing but -inf every score then equals the maximum, and e^0 is 1. How much should forbidden keys add to the sum?"
)
def large_number_for_minus_infinity(row_max, row_sum, acc, scores, values):
    return attn_ref.online_update(np.maximum(row_max, -1e30), row_sum, acc, np.maximum(scores, -1e30), values)


@online_update.mistake(
    "Exponents are clipped from below, so that a forbidden key still counts a little, and a row that has seen nothing gets a sum that is not 0. What is e^(-inf), without any help?"
)
def exponents_clipped(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1))
    safe = np.where(np.isneginf(new_max), 0.0, new_max)
    kept = np.exp(row_max - safe)
    e = np.exp(np.maximum(scores - safe[:, None], -50.0))
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "Your new maximum takes the dtype of the scores. If these are whole numbers and the maximum so far was 1.5, what is left of it?"
)
def maximum_cut_to_a_whole_number(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1)).astype(scores.dtype)
    safe = np.where(np.isneginf(new_max), 0.0, new_max)
    kept = np.exp(row_max - safe)
    e = np.exp(scores - safe[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept[:, None] * acc + e @ values


@online_update.mistake(
    "The factor (n,) meets acc (n, d_v) without an axis of its own, so with n = d_v it scales columns where rows are meant, and otherwise it does not fit. How do you make it a column?"
)
def factor_along_the_columns(row_max, row_sum, acc, scores, values):
    new_max = np.maximum(row_max, scores.max(axis=-1))
    safe = np.where(np.isneginf(new_max), 0.0, new_max)
    kept = np.exp(row_max - safe)
    e = np.exp(scores - safe[:, None])
    return new_max, kept * row_sum + e.sum(axis=-1), kept * acc + e @ values


@online_update.mistake(
    "`acc` collects the scores times the values. Which numbers are the unnormalised weights: the scores, or their exponentials?"
)
def scores_for_weights(row_max, row_sum, acc, scores, values):
    new_max, new_sum, _ = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    kept = np.exp(row_max - np.where(np.isneginf(new_max), 0.0, new_max))
    return new_max, new_sum, kept[:, None] * acc + scores @ values


@online_update.mistake(
    "The three parts come back in another order. The contract names the maximum, the sum and acc: which does your return line name first?"
)
def sum_before_maximum(row_max, row_sum, acc, scores, values):
    new_max, new_sum, new_acc = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    return new_sum, new_max, new_acc


@online_update.mistake(
    "The state is right, and the caller's arrays have been changed: `*=`, `+=` and `[:] =` write into what was passed in. Which form makes new arrays?"
)
def state_overwritten(row_max, row_sum, acc, scores, values):
    row_max[:], row_sum[:], acc[:] = attn_ref.online_update(row_max, row_sum, acc, scores, values)
    return row_max.copy(), row_sum.copy(), acc.copy()


@online_update.also_right
def state_as_one_more_key(row_max, row_sum, acc, scores, values):
    largest = np.concatenate([row_max[:, None], scores], axis=1).max(axis=1, keepdims=True)
    shift = np.where(np.isneginf(largest), 0, largest)
    e = np.exp(scores - shift)
    carried = np.exp(row_max[:, None] - shift)
    new_sum = (np.concatenate([carried * row_sum[:, None], e], axis=1)).sum(axis=1)
    return largest[:, 0], new_sum, acc * carried + np.einsum("nb,be->ne", e, values)


@online_update.also_right
def key_by_key_with_lists(row_max, row_sum, acc, scores, values):
    state = []
    for m, total, row, line in zip(row_max, row_sum, acc, scores, strict=True):
        row = list(row)
        for score, value in zip(line, values, strict=True):
            if score == -np.inf:
                continue
            new = max(m, score)
            shrink, e = np.exp(m - new), np.exp(score - new)
            total = shrink * total + e
            row = [shrink * a + e * b for a, b in zip(row, value, strict=True)]
            m = new
        state.append((m, total, row))
    return [one[0] for one in state], [one[1] for one in state], [one[2] for one in state]


@online_update.also_right
def only_rows_that_grow(row_max, row_sum, acc, scores, values):
    row_max, row_sum, acc = row_max.copy(), row_sum.copy(), acc.copy()
    block_max = np.amax(scores, axis=1)
    grows = block_max > row_max
    shrink = np.exp(row_max[grows] - block_max[grows])
    row_sum[grows] *= shrink
    acc[grows] *= shrink[:, np.newaxis]
    row_max[grows] = block_max[grows]
    with np.errstate(invalid="ignore"):
        e = np.nan_to_num(np.exp(scores - row_max[:, np.newaxis]))
    return [row_max, row_sum + np.add.reduce(e, 1), acc + np.dot(e, values)]


online_update.hints(
    "Do the example on paper. Against which maximum are the old 2 and 6 taken, and against which the new key?",
    "If the maximum moves from m to m', every old exponential e^(s - m) must become e^(s - m'). That is one factor for the whole row, the same for the sum and for acc.",
    "For each row, the new maximum is the larger of row_max and the block's; where it is still -inf, subtract 0 in its place. Factor: exp of old minus new. Sum and acc: factor times old, plus what the block adds.",
)
online_update.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (5,) (5,4)",
        "One factor for each row of acc must stand as a column, (5, 1). Indexing with <code>[:, None]</code> adds that axis.",
    ),
    (
        "RuntimeWarning: invalid value encountered in subtract",
        "A row that has seen nothing has the maximum -inf, and -inf minus -inf has no value. What could be subtracted "
        "there instead?",
    ),
)

# --- 10.2 ------------------------------------------------------------------------------------------------------------

merge_partials = Exercise(
    "10.2",
    "Two halves make a whole",
    reference=attn_ref.merge_partials,
    minutes=12,
    forbids=("attn_ref.tiled_attention", "attn_ref.online_update"),
)


def two_parts(rng, *rows, d_v, spread=1.0):
    o1, o2 = rng.normal(size=(2, *rows, d_v))
    lse1, lse2 = spread * rng.normal(size=(2, *rows))
    return dict(o1=o1, lse1=lse1, o2=o2, lse2=lse2)


@merge_partials.criterion("each output counts in proportion to e^lse, and the totals add up", points=2)
def in_proportion(rng):
    yield dict(o1=np.array([[2.0]]), lse1=np.array([0.0]), o2=np.array([[4.0]]), lse2=np.array([0.0]))
    yield dict(o1=np.array([[2.0]]), lse1=np.array([0.0]), o2=np.array([[4.0]]), lse2=np.array([np.log(3.0)]))
    yield two_parts(rng, 5, d_v=3)
    yield two_parts(rng, 7, d_v=2, spread=4.0)


@merge_partials.criterion("any leading axes; sizes of 1, and sizes that are equal", points=1)
def leading_axes_of_parts(rng):
    yield two_parts(rng, 4, d_v=4)
    yield two_parts(rng, 2, 3, 5, d_v=4)
    yield two_parts(rng, 3, 3, d_v=3)
    yield two_parts(rng, 2, 1, d_v=1)
    yield two_parts(rng, 1, d_v=6)


@merge_partials.criterion("log-sum-exps in the thousands, near and far apart", points=1)
def large_parts(rng):
    parts = two_parts(rng, 5, d_v=2)
    yield parts | dict(
        lse1=np.array([1000.0, -2000.0, 3000.0, 0.0, -900.0]), lse2=np.array([1001.0, -2000.5, -3000.0, 800.0, -901.0])
    )


@merge_partials.criterion("a part that saw nothing, (0, -inf), changes nothing; two of them give (0, -inf)", points=1)
def empty_parts(rng):
    inf = np.inf
    parts = two_parts(rng, 4, d_v=3)
    seen1, seen2 = np.array([1, 0, 1, 0], bool), np.array([0, 1, 1, 0], bool)
    yield dict(
        o1=parts["o1"] * seen1[:, None],
        lse1=np.where(seen1, parts["lse1"], -inf),
        o2=parts["o2"] * seen2[:, None],
        lse2=np.where(seen2, [0.0, -1500.0, 2.0, 0.0], -inf),
    )


merge_partials.leaves_inputs_alone(points=1)


@merge_partials.mistake(
    "You take the plain mean of the two outputs. A half in which every key fits badly then counts as much as one in which all fit well: which number says how much each of them holds?"
)
def plain_mean_of_outputs(o1, lse1, o2, lse2):
    return (o1 + o2) / 2, np.logaddexp(lse1, lse2)


@merge_partials.mistake(
    "The outputs are added. Each is an average already, and its weights sum to 1: what would the weights of your sum add up to?"
)
def outputs_added(o1, lse1, o2, lse2):
    return o1 + o2, np.logaddexp(lse1, lse2)


@merge_partials.mistake(
    "The outputs are weighted by the log-sum-exps themselves. These are logarithms, negative ones included; of which numbers are they the logarithms?"
)
def weighted_by_the_logarithms(o1, lse1, o2, lse2):
    share1 = lse1 / (lse1 + lse2)
    return share1[..., None] * o1 + (1 - share1)[..., None] * o2, np.logaddexp(lse1, lse2)


@merge_partials.mistake(
    "The formula is right and the computer cannot follow it: e^1000 is inf, and e^-2000 is 0. Only the difference of the two log-sum-exps matters; what may be subtracted from both?"
)
def totals_overflow(o1, lse1, o2, lse2):
    e1, e2 = np.exp(lse1), np.exp(lse2)
    share1 = e1 / (e1 + e2)
    return share1[..., None] * o1 + (1 - share1)[..., None] * o2, np.log(e1 + e2)


@merge_partials.mistake(
    "The output is right. The log-sum-exp overflows, because it is the logarithm of bare exponentials: which number can be taken out of that sum first?"
)
def only_the_total_overflows(o1, lse1, o2, lse2):
    o, lse = attn_ref.merge_partials(o1, lse1, o2, lse2)
    return o, np.where(np.isneginf(lse), -np.inf, np.log(np.exp(lse1) + np.exp(lse2)))


@merge_partials.mistake(
    "The log-sum-exps are added. Adding logarithms multiplies totals: if both halves have the total 1, their logarithms are 0; what is the logarithm of 1 + 1?"
)
def logarithms_added(o1, lse1, o2, lse2):
    return attn_ref.merge_partials(o1, lse1, o2, lse2)[0], lse1 + lse2


@merge_partials.mistake(
    "The larger log-sum-exp is returned as that of both. It is near where one half outweighs the other by far; what is missing where they are equal?"
)
def larger_total_kept(o1, lse1, o2, lse2):
    return attn_ref.merge_partials(o1, lse1, o2, lse2)[0], np.maximum(lse1, lse2)


@merge_partials.mistake(
    "You took the maximum out of the sum and did not put it back. If both log-sum-exps grow by 5, by how much should the result grow?"
)
def largest_not_added_back(o1, lse1, o2, lse2):
    o, lse = attn_ref.merge_partials(o1, lse1, o2, lse2)
    largest = np.maximum(lse1, lse2)
    return o, lse - np.where(np.isneginf(largest), 0.0, largest)


@merge_partials.mistake(
    "Each output is weighted by the total of the *other* half. Which half should count for more: that with the larger or the smaller log-sum-exp?"
)
def shares_exchanged(o1, lse1, o2, lse2):
    o, lse = attn_ref.merge_partials(o2, lse1, o1, lse2)
    return o, lse


@merge_partials.mistake(
    "Where both halves saw nothing your answer is NaN: -inf minus -inf, or 0/0. The result over no keys at all is (0, -inf); what could the subtraction and the division meet there instead?"
)
def nan_for_two_empty_halves(o1, lse1, o2, lse2):
    lse = np.logaddexp(lse1, lse2)
    return np.exp(lse1 - lse)[..., None] * o1 + np.exp(lse2 - lse)[..., None] * o2, lse


@merge_partials.mistake(
    "Every NaN and every infinity is turned into a finite number at the end, the log-sum-exp of nothing as well. Which value stands for the logarithm of a total of 0?"
)
def infinities_cleaned_away(o1, lse1, o2, lse2):
    o, lse = attn_ref.merge_partials(o1, lse1, o2, lse2)
    return o, np.nan_to_num(lse)


@merge_partials.mistake(
    "One maximum serves all rows. In a row that lies thousands below it both totals vanish, and nothing is left to divide by. Whose maximum does each row need?"
)
def one_maximum_for_all_parts(o1, lse1, o2, lse2):
    largest = max(lse1.max(), lse2.max())
    e1, e2 = np.exp(lse1 - largest), np.exp(lse2 - largest)
    total = e1 + e2
    safe = np.where(total > 0, total, 1.0)
    lse = np.where(total > 0, largest + np.log(safe), -np.inf)
    return (e1 / safe)[..., None] * o1 + (e2 / safe)[..., None] * o2, lse


@merge_partials.mistake(
    "The shares are taken e^(lse - maximum) as they are, and so they do not sum to 1. By what must both be divided?"
)
def shares_not_divided(o1, lse1, o2, lse2):
    lse = np.logaddexp(lse1, lse2)
    largest = np.maximum(lse1, lse2)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    return np.exp(lse1 - largest)[..., None] * o1 + np.exp(lse2 - largest)[..., None] * o2, lse


@merge_partials.mistake(
    "A small number in the denominator keeps 0/0 away, and makes the two shares sum to a little less than 1. Can the total be replaced only where it is 0?"
)
def epsilon_beside_the_totals(o1, lse1, o2, lse2):
    largest = np.maximum(lse1, lse2)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    e1, e2 = np.exp(lse1 - largest), np.exp(lse2 - largest)
    total = e1 + e2 + 1e-6
    o = (e1 / total)[..., None] * o1 + (e2 / total)[..., None] * o2
    return o, attn_ref.merge_partials(o1, lse1, o2, lse2)[1]


@merge_partials.mistake(
    "The shares (..., n) meet the outputs (..., n, d_v) without an axis of their own: with n = d_v they scale columns, and otherwise they do not fit. Which axis is missing at their end?"
)
def shares_along_the_columns(o1, lse1, o2, lse2):
    lse = np.logaddexp(lse1, lse2)
    safe = np.where(np.isneginf(lse), 0.0, lse)
    return np.exp(lse1 - safe) * o1 + np.exp(lse2 - safe) * o2, lse


@merge_partials.mistake(
    "`[:, None]` puts the new axis second. For (n,) that is the end; for more leading axes it is not. Which index stands for *all* the axes before?"
)
def axis_put_second(o1, lse1, o2, lse2):
    lse = np.logaddexp(lse1, lse2)
    safe = np.where(np.isneginf(lse), 0.0, lse)
    return np.exp(lse1 - safe)[:, None] * o1 + np.exp(lse2 - safe)[:, None] * o2, lse


@merge_partials.mistake(
    "The result is right, and the caller's first output has been changed on the way: `*=` and `+=` write into it. Which form makes a new array?"
)
def first_part_overwritten(o1, lse1, o2, lse2):
    o, lse = attn_ref.merge_partials(o1, lse1, o2, lse2)
    o1[:] = o
    return o, lse


@merge_partials.also_right
def shares_as_a_sigmoid(o1, lse1, o2, lse2):
    with np.errstate(invalid="ignore"):
        share2 = np.nan_to_num(0.5 * (1 + np.tanh((lse2 - lse1) / 2)))[..., np.newaxis]
    return o1 + share2 * (o2 - o1), np.logaddexp(lse1, lse2)


@merge_partials.also_right
def stacked_and_summed(o1, lse1, o2, lse2):
    shares = attn_ref.softmax(np.stack([lse1, lse2]), axis=0)
    o = np.einsum("p...,p...e->...e", shares, np.stack([o1, o2]))
    return [o.tolist(), attn_ref.logsumexp(np.stack([lse1, lse2]), axis=0)]


@merge_partials.also_right
def row_after_row(o1, lse1, o2, lse2):
    o, lse = np.zeros(o1.shape), np.full(lse1.shape, -np.inf)
    for row in np.ndindex(*lse1.shape):
        a, b = lse1[row], lse2[row]
        top = max(a, b)
        if top > -np.inf:
            total = np.exp(a - top) + np.exp(b - top)
            lse[row] = top + np.log(total)
            o[row] = np.exp(a - lse[row]) * o1[row] + np.exp(b - lse[row]) * o2[row]
    return o, lse


merge_partials.hints(
    "lse is the logarithm of a total. If both halves had the total 1, what would the shares be? And if the second had 3?",
    "The shares are those of a softmax over two numbers, lse1 and lse2. The new log-sum-exp is the log-sum-exp of these two.",
    "Subtract the larger lse of each row from both (0 where it is -inf), exponentiate, and divide by the sum (by 1 where that is 0). The shares need an axis at the end. The new lse is what was subtracted plus the logarithm of the sum.",
)
merge_partials.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (5,) (5,3)",
        "A share for each row must get an axis at its end, (5, 1). <code>[..., None]</code> does that whatever comes before.",
    ),
)

# --- 10.3 ------------------------------------------------------------------------------------------------------------


def tiled_attention(q, k, v, block_q, block_k, causal=False):
    """Attention without its table of scores, for one head.  -> out (n_q, d_v), log-sum-exp (n_q,)"""
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)


HELD = "the most that was held at once"
LIMITS = {4: "half of n_q × n_k numbers", 1: "n_q × n_k truth values"}  # bytes for each pair of query and key
AROUND_THE_SCALES = ("tracemalloc.reset_peak", "tracemalloc.stop", "tracemalloc.clear_traces", "tracemalloc.start")


def weighed(call, pairs, bytes_a_pair):
    """What call() returns, and in words whether it ever held so many bytes beyond what was there before.

    tracemalloc counts what NumPy and Python allocate, the same on every machine.
    """
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = call()
        light = tracemalloc.is_tracing() and tracemalloc.get_traced_memory()[1] - before < bytes_a_pair * pairs
        return found, f"less than {LIMITS[bytes_a_pair]}" if light else f"{LIMITS[bytes_a_pair]}, or more"
    finally:
        if not was_tracing:
            tracemalloc.stop()


tiles = Exercise(
    "10.3",
    "Tile by tile",
    reference=tiled_attention,
    minutes=30,
    time_limit=40.0,  # plain loops over lists are right, and slow while they are weighed
    forbids=("attn_ref.tiled_attention", "attn_ref.flash_forward", "attn_ref.decode_split_kv", *AROUND_THE_SCALES),
)


@tiles.probe
def drive_tiles(answer, q, k, v, block_q, block_k, causal=False, bytes_a_pair=None):
    """Call the answer, and where a case sets a limit put it on the scales."""
    if bytes_a_pair is None:
        return answer(q, k, v, block_q, block_k, causal)
    found, held = weighed(lambda: answer(q, k, v, block_q, block_k, causal), len(q) * len(k), bytes_a_pair)
    return {"out and lse": found, HELD: held}


def qkv_case(rng, n_q, n_k, d, d_v, block_q, block_k, spread=1.0, **more):
    arrays = dict(q=spread * rng.normal(size=(n_q, d)), k=rng.normal(size=(n_k, d)), v=rng.normal(size=(n_k, d_v)))
    return arrays | dict(block_q=block_q, block_k=block_k) | more


@tiles.criterion("tiles that fit exactly: each output and its log-sum-exp", points=1)
def exact_tiles(rng):
    small = dict(q=np.array([[2.0, 0.0, 0.0, 0.0]]), k=np.zeros((2, 4)), v=np.array([[4.0], [8.0]]))
    small["k"][1, 0] = np.log(3.0)
    yield small | dict(block_q=1, block_k=1)
    yield qkv_case(rng, 4, 6, 5, 3, 2, 3)
    yield qkv_case(rng, 6, 6, 3, 3, 3, 2)
    yield qkv_case(rng, 4, 8, 2, 4, 2, 4)


@tiles.criterion("ragged last tiles, tiles larger than the text, whole numbers", points=1)
def ragged_tiles(rng):
    yield qkv_case(rng, 7, 11, 5, 3, 3, 4)
    yield qkv_case(rng, 5, 3, 2, 7, 4, 2)
    yield qkv_case(rng, 5, 9, 2, 4, 16, 32)
    yield qkv_case(rng, 3, 10, 4, 1, 1, 4)
    yield qkv_case(rng, 1, 1, 1, 1, 2, 3)
    whole = {name: rng.integers(-3, 4, size=shape) for name, shape in (("q", (3, 4)), ("k", (5, 4)), ("v", (5, 2)))}
    yield whole | dict(block_q=2, block_k=2)


@tiles.criterion("causal, counted from the end, also inside the tiles", points=1)
def causal_tiles(rng):
    yield qkv_case(rng, 7, 7, 5, 3, 3, 2, causal=True)
    yield qkv_case(rng, 6, 6, 4, 4, 3, 3, causal=True)
    yield qkv_case(rng, 5, 9, 3, 4, 2, 4, causal=True)
    yield qkv_case(rng, 8, 8, 2, 3, 3, 16, causal=True)
    yield qkv_case(rng, 1, 6, 3, 2, 4, 4, causal=True)


@tiles.criterion("queries that see nothing get 0 and the log-sum-exp -inf", points=1)
def empty_queries(rng):
    yield qkv_case(rng, 9, 5, 3, 4, 2, 2, causal=True)
    yield qkv_case(rng, 7, 2, 3, 1, 3, 4, causal=True)


@tiles.criterion("scores in the thousands", points=1)
def large_tiles(rng):
    yield qkv_case(rng, 6, 9, 4, 3, 4, 2, spread=2000.0)
    yield qkv_case(rng, 6, 8, 2, 3, 4, 3, spread=2000.0, causal=True)
    below = qkv_case(rng, 5, 7, 4, 2, 2, 3, spread=2000.0)  # every score lies far below 0
    yield below | dict(q=-np.abs(below["q"]), k=0.5 + np.abs(below["k"]))


@tiles.criterion("long texts, weighed: one tile is held at a time, and no mask of the whole table", points=1)
def no_table(rng):
    yield qkv_case(rng, 128, 512, 1, 1, 128, 16, bytes_a_pair=4)  # too heavy: all keys at once
    yield qkv_case(rng, 512, 128, 1, 1, 16, 128, bytes_a_pair=4)  # too heavy: all queries at once
    yield qkv_case(rng, 800, 400, 1, 1, 32, 32, causal=True, bytes_a_pair=1)  # too heavy: all pairs as truth values


tiles.leaves_inputs_alone(points=1)


@tiles.mistake(
    "The numbers are right, and at some moment something as large as the table is held. A tile has block_q × block_k scores: which array can be made, used and forgotten inside the inner loop?"
)
def table_is_built(q, k, v, block_q, block_k, causal=False):
    scores = attn_ref.attention_scores(q, k, causal=causal)
    return attn_ref.softmax(scores) @ v, attn_ref.logsumexp(scores)


@tiles.mistake(
    "The numbers are right, and the scores of all keys lie there together for each block of queries: block_k has no effect. Which loop cuts the keys?"
)
def all_keys_at_once(q, k, v, block_q, block_k, causal=False):
    return attn_ref.tiled_attention(q, k, v, block_q, len(k), causal=causal)


@tiles.mistake(
    "The numbers are right, and each of your tiles holds all queries: block_q has no effect. With a hundred thousand queries, how large is such a tile? Which loop cuts them?"
)
def all_queries_at_once(q, k, v, block_q, block_k, causal=False):
    return attn_ref.tiled_attention(q, k, v, len(q), block_k, causal=causal)


@tiles.mistake(
    "The scores come in tiles, and the causal run holds as much as a truth value for each pair. A mask of the whole table is a table too: which positions does a tile need to make its own part of the mask?"
)
def mask_of_the_whole_table(q, k, v, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_attention(q, k, v, block_q, block_k)
    allowed = np.tri(len(q), len(k), len(k) - len(q), dtype=bool)
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, allowed=allowed)


@tiles.mistake(
    "With more queries than keys n_k - n_q is negative, and your offset is cut off at 0. The first queries then stand before all keys: what do they see?"
)
def offset_never_below_zero(q, k, v, block_q, block_k, causal=False):
    window = (None, 0) if causal else None
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, q_offset=max(len(k) - len(q), 0), window=window)


@tiles.mistake(
    "The last keys are never read: `len(k) // block_k` rounds down. With 11 keys in tiles of 4, how many tiles are there, and how wide is the last one?"
)
def last_keys_dropped(q, k, v, block_q, block_k, causal=False):
    n = len(k) // block_k * block_k
    return attn_ref.tiled_attention(
        q, k[:n], v[:n], block_q, block_k, q_offset=len(k) - len(q), window=(None, 0) if causal else None
    )


@tiles.mistake(
    "The last queries are never answered: `len(q) // block_q` rounds down. With 7 queries in tiles of 3, how many tiles are there?"
)
def last_queries_dropped(q, k, v, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    n = len(q) // block_q * block_q
    out[n:], lse[n:] = 0.0, -np.inf
    return out, lse


@tiles.mistake(
    "The mask compares places inside a tile, i and j from 0, as if every tile were the first. Where in the text does row i of a tile that starts at q0 stand, and column j of one that starts at k0?"
)
def mask_without_tile_offsets(q, k, v, block_q, block_k, causal=False):
    i, j = np.arange(len(q))[:, None] % block_q, np.arange(len(k)) % block_k
    allowed = (j <= i) | (not causal)
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, allowed=allowed)


@tiles.mistake(
    "The mask knows where the tile's keys start and forgets where its queries start. Row i of a tile stands at q0 + i, counted from the end of the text: what is compared with the keys?"
)
def mask_without_the_query_offset(q, k, v, block_q, block_k, causal=False):
    i, j = np.arange(len(q))[:, None] % block_q + len(k) - len(q), np.arange(len(k))
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, allowed=(j <= i) | (not causal))


@tiles.mistake(
    "Causal is aligned at the top left: query 0 sees key 0 alone, however long the text before it. The queries are the *last* of the text; at which position does query 0 stand?"
)
def causal_from_the_top_left(q, k, v, block_q, block_k, causal=False):
    window = (None, 0) if causal else None
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, q_offset=0, window=window)


@tiles.mistake("A query does not see its own key in your answer. Is it `<` or `<=` that a causal mask asks for?")
def own_key_hidden(q, k, v, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_attention(q, k, v, block_q, block_k)
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, q_offset=len(k) - len(q) - 1, window=(None, 0))


@tiles.mistake(
    "Tiles beyond the diagonal are skipped, and those on it are computed whole: a query sees all keys of its last tile, the future among them. What must happen inside a tile that is only partly visible?"
)
def diagonal_tiles_not_masked(q, k, v, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_attention(q, k, v, block_q, block_k)
    last = np.minimum((np.arange(len(q)) // block_q + 1) * block_q, len(q)) - 1 + len(k) - len(q)
    first_key = np.arange(len(k)) // block_k * block_k
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, allowed=first_key <= last[:, None])


@tiles.mistake(
    "Tiles that are only partly visible are skipped whole, so each query loses its nearest keys. When may a tile be skipped: if *some* pair is forbidden, or if all are?"
)
def diagonal_tiles_skipped(q, k, v, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_attention(q, k, v, block_q, block_k)
    first = np.arange(len(q)) // block_q * block_q + len(k) - len(q)
    last_key = np.minimum((np.arange(len(k)) // block_k + 1) * block_k, len(k)) - 1
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, allowed=last_key <= first[:, None])


@tiles.mistake("`causal` is never read. Which scores must be -inf before a tile enters the state?")
def causal_ignored(q, k, v, block_q, block_k, causal=False):
    return attn_ref.tiled_attention(q, k, v, block_q, block_k)


@tiles.mistake(
    "Each tile is divided by its own sum, and the outputs of the tiles are averaged. A tile of bad keys then counts like one of good keys. What does the state keep, so that one division at the end is enough?"
)
def tile_outputs_averaged(q, k, v, block_q, block_k, causal=False):
    _, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    out, count = np.zeros((len(q), v.shape[1])), 0
    for k0 in range(0, len(k), block_k):
        keys, offset = slice(k0, k0 + block_k), len(k) - len(q) - k0
        window = (None, 0) if causal else None
        out += attn_ref.tiled_attention(q, k[keys], v[keys], block_q, block_k, q_offset=offset, window=window)[0]
        count += 1
    return out / count, lse


@tiles.mistake(
    "The output is the unnormalised acc. When all tiles of a block of queries are done, by what must it be divided?"
)
def never_divided(q, k, v, block_q, block_k, causal=False):
    _, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    state = np.full(len(q), -np.inf), np.zeros(len(q)), np.zeros((len(q), v.shape[1]))
    for k0 in range(0, len(k), block_k):
        j = np.arange(k0, min(k0 + block_k, len(k)))
        scores = q @ k[j].T * q.shape[1] ** -0.5
        if causal:
            scores = np.where(j <= np.arange(len(q))[:, None] + len(k) - len(q), scores, -np.inf)
        state = attn_ref.online_update(*state, scores, v[j])
    return state[2], lse


@tiles.mistake(
    "The state of one block of queries goes on into the next, so later queries inherit sums that are not theirs. Where must a new state begin: before both loops, or between them?"
)
def state_carried_over(q, k, v, block_q, block_k, causal=False):
    out, lse = np.zeros((len(q), v.shape[1])), np.full(len(q), -np.inf)
    m, total, acc = np.full(block_q, -np.inf), np.zeros(block_q), np.zeros((block_q, v.shape[1]))
    for q0 in range(0, len(q), block_q):
        rows = q[q0 : q0 + block_q]
        m, total, acc = m[: len(rows)], total[: len(rows)], acc[: len(rows)]
        for k0 in range(0, len(k), block_k):
            j = np.arange(k0, min(k0 + block_k, len(k)))
            scores = rows @ k[j].T * q.shape[1] ** -0.5
            if causal:
                scores = np.where(j <= np.arange(q0, q0 + len(rows))[:, None] + len(k) - len(q), scores, -np.inf)
            m, total, acc = attn_ref.online_update(m, total, acc, scores, v[j])
        safe = np.where(total > 0, total, 1.0)
        out[q0 : q0 + block_q] = acc / safe[:, None]
        lse[q0 : q0 + block_q] = np.where(total > 0, m + np.log(safe), -np.inf)
    return out, lse


@tiles.mistake(
    "A query that sees nothing becomes NaN: its sum is 0, and 0/0 has no value. What could the division meet instead of that 0?"
)
def nan_for_empty_queries(q, k, v, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    out[np.isneginf(lse)] = np.nan
    return out, lse


@tiles.mistake(
    "The outputs are right, and the log-sum-exp of a query that sees nothing is 0. That is the logarithm of 1: which is the logarithm of a total of 0?"
)
def zero_for_an_empty_total(q, k, v, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    return out, np.where(np.isneginf(lse), 0.0, lse)


@tiles.mistake(
    "A large negative number stands for forbidden scores. A query that may see nothing then shares its weight equally among keys that it must not read. What does e^(-inf) give where -1e9 minus -1e9 gives e^0?"
)
def large_number_for_forbidden(q, k, v, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_attention(q, k, v, block_q, block_k)
    bias = np.where(attn_ref.causal_mask(len(q), len(k)), 0.0, -1e9)
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, bias=bias)


@tiles.mistake(
    "The log-sum-exp lacks the maximum: log of the sum belongs to exponentials from which it was subtracted. What must be added back?"
)
def maximum_missing_in_lse(q, k, v, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    largest = attn_ref.attention_scores(q[:, :], k, causal=causal).max(axis=-1)
    return out, np.where(np.isneginf(lse), -np.inf, lse - np.where(np.isneginf(largest), 0.0, largest))


@tiles.mistake(
    "Your second result is the running maximum. It is one part of the log-sum-exp: which logarithm is missing?"
)
def maximum_returned_for_lse(q, k, v, block_q, block_k, causal=False):
    out, _ = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    return out, attn_ref.attention_scores(q, k, causal=causal).max(axis=-1)


@tiles.mistake("The scores are bare dot products. Which scale did every chapter since 02 give them?")
def scores_not_scaled(q, k, v, block_q, block_k, causal=False):
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal, scale=1.0)


@tiles.mistake(
    "The root is taken of the wrong length, that of the values. Which axis does a dot product of a query with a key sum over?"
)
def root_of_the_length_of_values(q, k, v, block_q, block_k, causal=False):
    return attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal, scale=v.shape[1] ** -0.5)


@tiles.mistake(
    "Nothing is subtracted before exp, so scores in the thousands overflow, or all vanish. Your 10.1 keeps a running maximum for this: does every tile pass through it?"
)
def tiles_overflow(q, k, v, block_q, block_k, causal=False):
    total, acc = np.zeros(len(q)), np.zeros((len(q), v.shape[1]))
    for k0 in range(0, len(k), block_k):
        j = np.arange(k0, min(k0 + block_k, len(k)))
        scores = q @ k[j].T * q.shape[1] ** -0.5
        if causal:
            scores = np.where(j <= np.arange(len(q))[:, None] + len(k) - len(q), scores, -np.inf)
        e = np.exp(scores)
        total, acc = total + e.sum(axis=-1), acc + e @ v[j]
    return acc / np.where(total > 0, total, 1.0)[:, None], np.log(total)


@tiles.mistake(
    "The state begins with the maximum 0. If all scores of a query lie near -2000, none of them ever exceeds it, and every exponential is 0. Which number is below every score?"
)
def maximum_begins_at_zero(q, k, v, block_q, block_k, causal=False):
    state = np.zeros(len(q)), np.zeros(len(q)), np.zeros((len(q), v.shape[1]))
    for k0 in range(0, len(k), block_k):
        j = np.arange(k0, min(k0 + block_k, len(k)))
        scores = q @ k[j].T * q.shape[1] ** -0.5
        if causal:
            scores = np.where(j <= np.arange(len(q))[:, None] + len(k) - len(q), scores, -np.inf)
        state = attn_ref.online_update(*state, scores, v[j])
    safe = np.where(state[1] > 0, state[1], 1.0)
    return state[2] / safe[:, None], np.where(state[1] > 0, state[0] + np.log(safe), -np.inf)


@tiles.mistake(
    "The tiles' exponentials are added up, each taken against the maximum of its own tile. Sums from different tiles then count in different units. What brings the old ones to the new maximum?"
)
def tiles_not_rescaled(q, k, v, block_q, block_k, causal=False):
    m, total, acc = np.full(len(q), -np.inf), np.zeros(len(q)), np.zeros((len(q), v.shape[1]))
    for k0 in range(0, len(k), block_k):
        j = np.arange(k0, min(k0 + block_k, len(k)))
        scores = q @ k[j].T * q.shape[1] ** -0.5
        if causal:
            scores = np.where(j <= np.arange(len(q))[:, None] + len(k) - len(q), scores, -np.inf)
        largest = scores.max(axis=-1)
        e = np.exp(scores - np.where(np.isneginf(largest), 0.0, largest)[:, None])
        m, total, acc = np.maximum(m, largest), total + e.sum(axis=-1), acc + e @ v[j]
    safe = np.where(total > 0, total, 1.0)
    return acc / safe[:, None], np.where(total > 0, m + np.log(safe), -np.inf)


@tiles.mistake(
    "Only the first tile of keys is seen. How often does the inner loop run, or does a `return` stand inside it?"
)
def first_tile_alone(q, k, v, block_q, block_k, causal=False):
    window = (None, 0) if causal else None
    return attn_ref.tiled_attention(
        q, k[:block_k], v[:block_k], block_q, block_k, q_offset=len(k) - len(q), window=window
    )


@tiles.mistake(
    "The output has the dtype of whole-number values, so it is cut off to whole numbers. Which dtype does an average need?"
)
def outputs_cut_to_whole_numbers(q, k, v, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    return out.astype(v.dtype), lse


@tiles.mistake("The output is made with the shape of q. A row of it is an average of values: how long is a value here?")
def output_shaped_like_q(q, k, v, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    like_q = np.zeros(q.shape)
    like_q[:] = out
    return like_q, lse


@tiles.mistake(
    "The result is right, and the caller's queries have been scaled for good: `q *= ...` writes into them. Which form makes a new array?"
)
def queries_scaled_in_place(q, k, v, block_q, block_k, causal=False):
    found = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    if q.dtype.kind == "f":
        q *= q.shape[1] ** -0.5
    return found


@tiles.also_right
def tiles_merged(q, k, v, block_q, block_k, causal=False):
    outs, lses = [], []
    for q0 in range(0, len(q), block_q):
        rows = q[q0 : q0 + block_q] / np.sqrt(q.shape[1])
        position = np.arange(q0, q0 + len(rows)) + len(k) - len(q)
        out, lse = np.zeros((len(rows), v.shape[1])), np.full(len(rows), -np.inf)
        for k0 in range(0, len(k), block_k):
            if causal and k0 > position[-1]:
                break
            scores = rows @ k[k0 : k0 + block_k].T
            if causal:
                hidden = k0 + np.arange(scores.shape[1]) > position[:, None]
                scores[hidden] = -np.inf
            part = attn_ref.softmax(scores) @ v[k0 : k0 + block_k]
            out, lse = attn_ref.merge_partials(out, lse, part, attn_ref.logsumexp(scores))
        outs.append(out)
        lses.append(lse)
    return np.concatenate(outs), np.concatenate(lses)


@tiles.also_right
def keys_in_the_outer_loop(q, k, v, block_q, block_k, causal=False):
    n_q, n_k = len(q), len(k)
    m, total, acc = np.full((n_q, 1), -np.inf), np.zeros((n_q, 1)), np.zeros((n_q, v.shape[1]))
    for k0 in range(0, n_k, block_k):
        keys = slice(k0, min(k0 + block_k, n_k))
        for q0 in range(0, n_q, block_q):
            rows = slice(q0, min(q0 + block_q, n_q))
            scores = np.einsum("qd,kd->qk", q[rows], k[keys]) / q.shape[1] ** 0.5
            if causal:
                i, j = np.mgrid[rows, keys]
                scores = np.where(j - i <= n_k - n_q, scores, -np.inf)
            new = np.maximum(m[rows], scores.max(axis=1, keepdims=True))
            shift = np.where(new == -np.inf, 0, new)
            shrink, e = np.exp(m[rows] - shift), np.exp(scores - shift)
            total[rows] = shrink * total[rows] + e.sum(axis=1, keepdims=True)
            acc[rows] = shrink * acc[rows] + e @ v[keys]
            m[rows] = new
    out = np.divide(acc, total, out=np.zeros_like(acc), where=total > 0)
    with np.errstate(divide="ignore"):
        return out, (m + np.log(total))[:, 0]


@tiles.also_right
def one_pair_at_a_time(q, k, v, block_q, block_k, causal=False):
    out, lse = [], []
    q, k, v = q.tolist(), k.tolist(), v.tolist()
    for i, query in enumerate(q):
        m, total, acc = -np.inf, 0.0, [0.0] * len(v[0])
        for j, key in enumerate(k):
            if causal and j > i + len(k) - len(q):
                break
            score = sum(a * b for a, b in zip(query, key, strict=True)) / len(query) ** 0.5
            new = max(m, score)
            shrink, e = float(np.exp(m - new)), float(np.exp(score - new))
            total, m = shrink * total + e, new
            acc = [shrink * a + e * b for a, b in zip(acc, v[j], strict=True)]
        out.append([a / total for a in acc] if total else acc)
        lse.append(m + np.log(total) if total else -np.inf)
    return out, lse


tiles.hints(
    "Two loops: over blocks of queries, and inside it over blocks of keys. What must begin anew with each block of queries, and what is done once at its end?",
    "Begin with the state (-inf, 0, 0). For each block of keys make the tile's scores, hide what is forbidden, and let your 10.1 take them in. `slice(k0, k0 + block_k)` ends where the array ends.",
    "Query i, counted through all of q and not within the tile, stands at position i + n_k - n_q. After the inner loop out is acc divided by the sum (0 where that is 0), and lse the maximum plus the logarithm of the sum (-inf there).",
)
tiles.errors(
    (
        "ValueError: could not broadcast input array from shape (1,3) into shape (3,3)",
        "The last tile is narrower than the others. Take the lengths from the slices themselves, not from block_q and block_k.",
    ),
    (
        "ValueError: operands could not be broadcast together with shapes (3,4) (3,3)",
        "A mask has block_k columns where the last tile has fewer. How many columns do the tile's scores have?",
    ),
)

# --- 10.4 ------------------------------------------------------------------------------------------------------------


def tiles_visited(n_q, n_k, block_q, block_k, causal=False, window=None):
    """How many tiles hold a pair that may attend.  -> int

    attn_ref.cost's own function names the tiles tile_q and tile_k, and also takes windows with two sides.
    """
    return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal, window=window)


visited = Exercise(
    "10.4",
    "Tiles that nobody sees",
    reference=tiles_visited,
    minutes=15,
    forbids=("attn_ref.cost.tiles_visited", "attn_ref.cost.tile_map", "attn_ref.cost.hbm_bytes"),
)


def grid(n_q, n_k, block_q, block_k, **more):
    return dict(n_q=n_q, n_k=n_k, block_q=block_q, block_k=block_k) | more


@visited.criterion("without a mask every tile counts, ragged ones too", points=1)
def all_tiles(rng):
    yield grid(6, 6, 2, 3)
    yield grid(7, 11, 3, 4)
    yield grid(5, 9, 8, 16)
    yield grid(1, 1, 4, 4)
    yield grid(40, 7, 1, 2)
    yield grid(512, 300, 64, 48)


@visited.criterion("causal: a tile counts if any of its pairs may attend", points=2)
def causal_grid(rng):
    yield grid(6, 6, 2, 3, causal=True)
    yield grid(8, 8, 2, 2, causal=True)
    yield grid(7, 7, 3, 2, causal=True)
    yield grid(12, 12, 2, 6, causal=True)
    yield grid(12, 12, 6, 2, causal=True)
    yield grid(3, 11, 2, 4, causal=True)
    yield grid(10, 64, 4, 8, causal=True)
    yield grid(1, 9, 4, 4, causal=True)
    yield grid(500, 500, 64, 48, causal=True)


@visited.criterion("a window: tiles too far back are skipped, and the future is hidden too", points=2)
def window_grid(rng):
    yield grid(6, 6, 2, 2, window=1)
    yield grid(12, 12, 2, 3, window=3)
    yield grid(12, 12, 3, 2, window=4, causal=True)
    yield grid(9, 9, 4, 4, window=5)
    yield grid(9, 9, 4, 4, window=6)
    yield grid(5, 30, 2, 4, window=7)
    yield grid(7, 7, 3, 2, window=100)
    yield grid(12, 12, 6, 2, window=1)  # the diagonal runs through tiles whose corners are all hidden
    yield grid(2, 9, 2, 9, window=3)
    yield grid(500, 750, 64, 48, window=130)


@visited.criterion("more queries than keys: the first queries see nothing", points=1)
def early_queries(rng):
    yield grid(9, 4, 2, 2, causal=True)
    yield grid(20, 3, 4, 2, causal=True)
    yield grid(11, 5, 3, 2, window=2)


@visited.mistake(
    "The division rounds down, so the ragged last tile is missing. How many tiles of 4 does it take to cover 11 keys?"
)
def divided_and_rounded_down(n_q, n_k, block_q, block_k, causal=False, window=None):
    states = attn_ref.cost.tile_map(n_q, n_k, block_q, block_k, causal=causal, window=window)
    return int((states[: n_q // block_q, : n_k // block_k] > 0).sum())


@visited.mistake(
    "Only tiles in which *every* pair may attend are counted. The tiles on the diagonal hold some pairs that may: can they be skipped?"
)
def whole_tiles_alone(n_q, n_k, block_q, block_k, causal=False, window=None):
    return int((attn_ref.cost.tile_map(n_q, n_k, block_q, block_k, causal=causal, window=window) == 2).sum())


@visited.mistake(
    "With more queries than keys n_k - n_q is negative, and the first queries see nothing. Is your offset cut off at 0?"
)
def negative_offset_cut_off(n_q, n_k, block_q, block_k, causal=False, window=None):
    offset, count = max(n_k - n_q, 0), 0
    for q0 in range(0, n_q, block_q):
        first, last = q0 + offset, min(q0 + block_q, n_q) - 1 + offset
        for k0 in range(0, n_k, block_k):
            hidden = (causal or window is not None) and k0 > last
            far = window is not None and min(k0 + block_k, n_k) - 1 < first - window + 1
            count += not (hidden or far)
    return count


@visited.mistake("Every tile is counted, mask or not. Which tiles hold no pair that may attend?")
def mask_without_effect(n_q, n_k, block_q, block_k, causal=False, window=None):
    return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k)


@visited.mistake(
    "You take half of all tiles for causal. The diagonal is not halved, and queries at the end of a long text see nearly everything. Which comparison of a query's position with a key decides?"
)
def half_for_causal(n_q, n_k, block_q, block_k, causal=False, window=None):
    every = attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k)
    if window is not None:
        return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, window=window)
    return every // 2 if causal else every


@visited.mistake(
    "Row i of tiles gets i + 1 of them, as if tiles were squares and there were as many queries as keys. Up to which key does the last query of a row of tiles see?"
)
def stairs_of_square_tiles(n_q, n_k, block_q, block_k, causal=False, window=None):
    if not causal or window is not None:
        return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, window=window)
    rows, columns = -(-n_q // block_q), -(-n_k // block_k)
    return sum(min(i + 1, columns) for i in range(rows))


@visited.mistake(
    "A row of tiles is cut off by what its *first* query sees. Its last query sees further: which of the two decides whether a tile holds a visible pair?"
)
def first_query_decides_the_end(n_q, n_k, block_q, block_k, causal=False, window=None):
    if not causal and window is None:
        return -(-n_q // block_q) * -(-n_k // block_k)
    count, offset = 0, n_k - n_q
    for q0 in range(0, n_q, block_q):
        for k0 in range(0, n_k, block_k):
            far = window is not None and min(k0 + block_k, n_k) - 1 < q0 + offset - window + 1
            count += k0 <= q0 + offset and not far
    return count


@visited.mistake(
    "The tiles at the far edge of the window are cut off by what the *last* query of a row sees. Its first query looks further back: which of the two decides there?"
)
def last_query_decides_the_start(n_q, n_k, block_q, block_k, causal=False, window=None):
    if window is None:
        return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal)
    count, offset = 0, n_k - n_q
    for q0 in range(0, n_q, block_q):
        last = min(q0 + block_q, n_q) - 1 + offset
        for k0 in range(0, n_k, block_k):
            count += k0 <= last and min(k0 + block_k, n_k) - 1 >= last - window + 1
    return count


@visited.mistake(
    "The queries are placed at the beginning of the text. They are its end: with 11 keys and 3 queries, at which position does query 0 stand?"
)
def counted_from_the_top_left(n_q, n_k, block_q, block_k, causal=False, window=None):
    return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal, window=window, q_offset=0)


@visited.mistake(
    "A query does not see its own key in your count. A tile whose only visible pairs lie on the diagonal is then skipped: is it `<` or `<=`?"
)
def own_key_not_counted(n_q, n_k, block_q, block_k, causal=False, window=None):
    if not causal and window is None:
        return -(-n_q // block_q) * -(-n_k // block_k)
    count, offset = 0, n_k - n_q
    for q0 in range(0, n_q, block_q):
        last = min(q0 + block_q, n_q) - 1 + offset
        for k0 in range(0, n_k, block_k):
            far = window is not None and min(k0 + block_k, n_k) - 1 < q0 + offset - window + 1
            count += k0 < last and not far
    return count


@visited.mistake(
    "The window is one key too wide: a window of w holds the query's own key and w - 1 before it. Which is the first key that the query at position p sees?"
)
def window_one_too_wide(n_q, n_k, block_q, block_k, causal=False, window=None):
    wider = None if window is None else window + 1
    return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal, window=wider)


@visited.mistake(
    "The window looks back and leaves the future open unless `causal` is set as well. Which keys does a window show, by 4.3: p - window + 1 up to which?"
)
def window_open_to_the_future(n_q, n_k, block_q, block_k, causal=False, window=None):
    sides = None if window is None else (window - 1, None)
    return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal, window=sides)


@visited.mistake(
    "You ask the four corner pairs of a tile. A narrow window can cross a tile between its corners: queries 0 to 5 and keys 2 and 3, each query its own key alone. Which two comparisons find it?"
)
def four_corners_asked(n_q, n_k, block_q, block_k, causal=False, window=None):
    count, offset = 0, n_k - n_q
    for q0 in range(0, n_q, block_q):
        for k0 in range(0, n_k, block_k):
            seen = False
            for i in (q0, min(q0 + block_q, n_q) - 1):
                for j in (k0, min(k0 + block_k, n_k) - 1):
                    future = (causal or window is not None) and j > i + offset
                    far = window is not None and j < i + offset - window + 1
                    seen = seen or not (future or far)
            count += seen
    return count


@visited.mistake("`window` is never read in your count. Which tiles lie too far back for every query of their row?")
def window_without_effect(n_q, n_k, block_q, block_k, causal=False, window=None):
    return attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal or window is not None)


@visited.mistake("These are the tiles that are skipped. What is left of all tiles when these are taken away?")
def skipped_tiles_counted(n_q, n_k, block_q, block_k, causal=False, window=None):
    return int((attn_ref.cost.tile_map(n_q, n_k, block_q, block_k, causal=causal, window=window) == 0).sum())


@visited.mistake(
    "You count the pairs that may attend. A tile is one unit of work, however many of its pairs are visible."
)
def pairs_counted(n_q, n_k, block_q, block_k, causal=False, window=None):
    return attn_ref.cost.tiles_visited(n_q, n_k, 1, 1, causal=causal, window=window)


@visited.mistake("The two block sizes have changed places. Which of them cuts the queries, and which the keys?")
def block_sizes_exchanged(n_q, n_k, block_q, block_k, causal=False, window=None):
    return attn_ref.cost.tiles_visited(n_q, n_k, block_k, block_q, causal=causal, window=window)


@visited.mistake(
    "A row of tiles before the first key is counted with one tile at least. If the last query of the row stands before key 0, what does the row see?"
)
def at_least_one_tile_a_row(n_q, n_k, block_q, block_k, causal=False, window=None):
    states = attn_ref.cost.tile_map(n_q, n_k, block_q, block_k, causal=causal, window=window)
    return int(np.maximum((states > 0).sum(axis=1), 1).sum())


@visited.also_right
def looked_up_in_the_mask(n_q, n_k, block_q, block_k, causal=False, window=None):
    allowed = np.ones((n_q, n_k), bool)
    if causal:
        allowed &= attn_ref.causal_mask(n_q, n_k)
    if window is not None:
        allowed &= attn_ref.sliding_window_mask(n_q, n_k, window)
    return sum(
        bool(allowed[q0 : q0 + block_q, k0 : k0 + block_k].any())
        for q0 in range(0, n_q, block_q)
        for k0 in range(0, n_k, block_k)
    )


@visited.also_right
def from_the_first_to_the_last_tile(n_q, n_k, block_q, block_k, causal=False, window=None):
    count = 0
    for q0 in range(0, n_q, block_q):
        first, last = 0, n_k - 1
        if causal or window:
            last = min(q0 + block_q, n_q) - 1 + n_k - n_q
        if window:
            first = max(0, q0 + n_k - n_q - window + 1)
        if last >= first:
            count += last // block_k - first // block_k + 1
    return count


@visited.also_right
def four_numbers_for_each_tile(n_q, n_k, block_q, block_k, causal=False, window=None):
    q0 = np.arange(0, n_q, block_q)[:, None] + n_k - n_q
    q1 = np.minimum(q0 + block_q - 1, n_k - 1)
    k0 = np.arange(0, n_k, block_k)[None]
    k1 = np.minimum(k0 + block_k - 1, n_k - 1)
    seen = np.ones((q0.shape[0], k0.shape[1]))
    if causal or window is not None:
        seen = seen * (k0 <= q1)
    if window is not None:
        seen = seen * (k1 > q0 - window)
    return seen.sum()


visited.hints(
    "Which query of a tile sees furthest to the right, and which furthest to the left?",
    "The last query stands at position q_last + n_k - n_q. If the tile's first key lies beyond it, no pair may attend. For a window, compare the tile's last key with what its first query still sees.",
    "Loop over all tiles. Skip one if a mask is set and its first key lies beyond the last query's position, or if a window is set and its last key lies before the first query's position - window + 1. Count the others.",
)
visited.errors(
    (
        "TypeError: '>' not supported between instances of 'int' and 'NoneType'",
        "`window` is None where there is no window. Ask <code>window is not None</code> before it is compared.",
    ),
)

# --- 10.5 ------------------------------------------------------------------------------------------------------------


def hbm_bytes(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    """Bytes that the tiles of one head move between slow and fast memory.  -> int

    attn_ref.cost's own function takes a dtype in place of its bytes, and windows.
    """
    moved = 0
    for q0 in range(0, n_q, block_q):
        rows = min(block_q, n_q - q0)
        sees = min(n_k, max(0, q0 + rows + n_k - n_q)) if causal else n_k
        read = min(n_k, -(-sees // block_k) * block_k)  # whole tiles
        moved += 2 * rows * d + 2 * read * d
    return moved * itemsize


moved = Exercise(
    "10.5",
    "What must be carried",
    reference=hbm_bytes,
    minutes=12,
    forbids=("attn_ref.cost.hbm_bytes", "attn_ref.cost.attention_bytes", "attn_ref.cost.tile_map"),
)


def carried(n_q, n_k, d, itemsize, block_q, block_k, **more):
    return dict(n_q=n_q, n_k=n_k, d=d, itemsize=itemsize, block_q=block_q, block_k=block_k) | more


@moved.criterion("without a mask: queries and outputs once, keys and values once for each block of queries", points=2)
def all_carried(rng):
    yield carried(4, 4, 1, 1, 2, 2)
    yield carried(12, 6, 5, 4, 3, 2)
    yield carried(6, 12, 3, 2, 6, 4)
    yield carried(4096, 4096, 64, 2, 128, 64)


@moved.criterion("ragged last tiles: only what exists is carried", points=1)
def ragged_carried(rng):
    yield carried(7, 11, 3, 4, 3, 4)
    yield carried(5, 9, 2, 2, 8, 16)
    yield carried(1, 1, 1, 8, 4, 4)
    yield carried(1000, 700, 48, 2, 64, 96)


@moved.criterion("causal: tiles that no query of the block sees are not read", points=1)
def causal_carried(rng):
    yield carried(4, 4, 1, 1, 2, 2, causal=True)
    yield carried(12, 12, 3, 2, 2, 6, causal=True)
    yield carried(12, 12, 3, 2, 6, 2, causal=True)
    yield carried(7, 7, 5, 4, 3, 2, causal=True)
    yield carried(1000, 1000, 64, 2, 64, 48, causal=True)


@moved.criterion("causal, with fewer or more queries than keys", points=1)
def causal_carried_from_the_end(rng):
    yield carried(3, 11, 2, 4, 2, 4, causal=True)
    yield carried(1, 9, 2, 2, 4, 4, causal=True)
    yield carried(9, 4, 5, 2, 2, 2, causal=True)
    yield carried(20, 3, 1, 4, 4, 2, causal=True)


@moved.mistake(
    "Keys and values are carried once in all. Fast memory forgets them while later tiles pass: who asks for them again?"
)
def keys_carried_once(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    return 2 * (n_q + n_k) * d * itemsize


@moved.mistake(
    "The values are missing, or the keys. A tile needs both: scores from one, and what is read from the other."
)
def values_not_carried(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    both = attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k, causal=causal)
    return (both - 2 * n_q * d) // 2 * itemsize + 2 * n_q * d * itemsize


@moved.mistake("The outputs are missing. They are made in fast memory; where must they be in the end?")
def outputs_not_written(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    return (attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k, causal=causal) - n_q * d) * itemsize


@moved.mistake("These are numbers, and bytes are asked for. How many bytes has each number?")
def numbers_for_bytes(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    return attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k, causal=causal)


@moved.mistake(
    "The keys are carried n_k / block_k times. How often they are read depends on how many blocks of *queries* come by: which block size counts those?"
)
def passes_counted_by_block_k(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    return (2 * n_q * d + -(-n_k // block_k) * 2 * n_k * d) * itemsize


@moved.mistake(
    "The last tiles count as if they were full. With 11 keys in tiles of 4 the last tile holds 3; where do your other keys come from?"
)
def last_tiles_filled_up(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    full_q, full_k = -(-n_q // block_q) * block_q, -(-n_k // block_k) * block_k
    tiles = attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal)
    del full_k
    return (2 * full_q * d + tiles * block_k * 2 * d) * itemsize


@moved.mistake(
    "Every tile of keys counts as full, the ragged last one too. It ends where the keys end: how many does it really hold?"
)
def last_keys_filled_up(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    tiles = attn_ref.cost.tiles_visited(n_q, n_k, block_q, block_k, causal=causal)
    return (2 * n_q * d + tiles * block_k * 2 * d) * itemsize


@moved.mistake(
    "The number of blocks is rounded down, so the last queries never read their keys. How many blocks of 3 do 7 queries make?"
)
def last_block_forgotten(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    last = n_q // block_q * block_q
    read = 0
    for q0 in range(0, last, block_q):
        sees = min(n_k, max(0, q0 + block_q + n_k - n_q)) if causal else n_k
        read += min(n_k, -(-sees // block_k) * block_k)
    return (2 * n_q * d + 2 * read * d) * itemsize


@moved.mistake(
    "The queries are read again for every tile of keys. A block of queries stays in fast memory while its tiles pass; when does it leave?"
)
def queries_carried_for_every_tile(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    both = attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k, causal=causal) - n_q * d
    states = attn_ref.cost.tile_map(n_q, n_k, block_q, block_k, causal=causal) > 0
    rows = np.minimum(block_q, n_q - np.arange(0, n_q, block_q))
    return int((both + (states.sum(axis=1) * rows).sum() * d) * itemsize)


@moved.mistake(
    "Scores and weights are counted as well. They are what tiles save: where do they live, and for how long?"
)
def scores_carried_too(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    both = attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k, causal=causal)
    return (both + 4 * n_q * n_k) * itemsize


@moved.mistake("`causal` is never read. Which tiles of keys can a block of early queries leave where they are?")
def mask_saves_nothing(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    return attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k) * itemsize


@moved.mistake(
    "Causal halves the keys in your ledger. The diagonal is not halved, and the last queries of a long text see nearly all of it: up to which tile does each block of queries read?"
)
def causal_halves(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    both = attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, block_k) - 2 * n_q * d
    return (2 * n_q * d + (both // 2 if causal else both)) * itemsize


@moved.mistake(
    "A block of queries reads exactly the keys that its last query sees. Tiles are read whole: if it sees 1 key of a tile, how many of them are carried?"
)
def keys_carried_one_by_one(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    return attn_ref.cost.hbm_bytes(n_q, n_k, d, "int8", block_q, 1, causal=causal) * itemsize


@moved.mistake(
    "A block of queries reads what its *first* query sees. Its last query sees further; which of them decides what must be carried?"
)
def first_query_decides_what_is_carried(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    read = 0
    for q0 in range(0, n_q, block_q):
        sees = min(n_k, max(0, q0 + 1 + n_k - n_q)) if causal else n_k
        read += min(n_k, -(-sees // block_k) * block_k)
    return (2 * n_q * d + 2 * read * d) * itemsize


@moved.mistake(
    "The queries are placed at the beginning of the text. They are its end: with 11 keys and 3 queries, how many keys does the first query see?"
)
def carried_from_the_top_left(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    sizes = (n_q, n_k, d, "int8", block_q, block_k)
    offset = 0 if causal else None
    return attn_ref.cost.hbm_bytes(*sizes, causal=causal, q_offset=offset) * itemsize


@moved.mistake(
    "A block of queries that stands before the first key reads a negative number of keys in your ledger. How few can it read?"
)
def fewer_than_no_keys(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    read = 0
    for q0 in range(0, n_q, block_q):
        last = min(q0 + block_q, n_q) + n_k - n_q if causal else n_k
        read += min(n_k, -(-last // block_k) * block_k)
    return (2 * n_q * d + 2 * read * d) * itemsize


@moved.also_right
def tile_after_tile(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    numbers = 0
    for q0 in range(0, n_q, block_q):
        q1 = min(q0 + block_q, n_q)
        numbers += 2 * (q1 - q0) * d
        for k0 in range(0, n_k, block_k):
            if causal and k0 > q1 - 1 + n_k - n_q:
                break
            numbers += 2 * (min(k0 + block_k, n_k) - k0) * d
    return itemsize * numbers


@moved.also_right
def weighed_slices(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    q, k = np.zeros((n_q, d), f"V{itemsize}"), np.zeros((n_k, d), f"V{itemsize}")
    total, allowed = 0, attn_ref.causal_mask(n_q, n_k) if causal else np.ones((n_q, n_k), bool)
    for q0 in range(0, n_q, block_q):
        total += 2 * q[q0 : q0 + block_q].nbytes
        for k0 in range(0, n_k, block_k):
            if allowed[q0 : q0 + block_q, k0 : k0 + block_k].any():
                total += 2 * k[k0 : k0 + block_k].nbytes
    return total


@moved.also_right
def in_closed_form(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    ends = np.minimum(np.arange(block_q, n_q + block_q, block_q), n_q) + (n_k - n_q)
    sees = np.clip(ends, 0, n_k) if causal else np.full(len(ends), n_k)
    read = np.minimum(np.ceil(sees / block_k) * block_k, n_k)
    return float(2 * d * itemsize * (n_q + read.sum()))


moved.hints(
    "Follow one block of queries: what comes in at its start and with every tile, and what goes out at its end? Then follow the next.",
    "Queries and outputs are carried once: 2 · n_q · d numbers. How many keys does each block read? Each brings its value along.",
    "Loop over the blocks of queries, and inside over the tiles that your 10.4 would visit. Each tile brings the keys that it holds, fewer at the ragged end, and as many values. In the end, times d, times itemsize.",
)
moved.errors(
    (
        "TypeError: 'float' object cannot be interpreted as an integer",
        "<code>/</code> makes a float. How many blocks there are is a whole number, rounded up: <code>-(-n // block)</code>.",
    ),
)

# --- 10.6 ------------------------------------------------------------------------------------------------------------


def tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    """The gradients of attention, tile by tile, for one head.  -> dq, dk, dv, shaped like q, k, v"""
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)


backward = Exercise(
    "10.6",
    "The way back, tile by tile",
    reference=tiled_backward,
    minutes=30,
    time_limit=40.0,
    forbids=(
        "attn_ref.tiled_backward",
        "attn_ref.attention_backward",
        "attn_ref.flash_backward",
        "attn_ref.backward.dense_backward",
        *AROUND_THE_SCALES,
    ),
)


@backward.probe
def drive_tiled_backward(
    answer, q, k, v, out, lse, grad_out, block_q, block_k, causal=False, want="all", bytes_a_pair=None
):
    """One of the three gradients, all of them, or all of them on the scales."""
    if bytes_a_pair is not None:
        found, held = weighed(
            lambda: answer(q, k, v, out, lse, grad_out, block_q, block_k, causal), len(q) * len(k), bytes_a_pair
        )
        return {"dq, dk and dv": found, HELD: held}
    found = answer(q, k, v, out, lse, grad_out, block_q, block_k, causal)
    if want == "all":
        return found
    try:
        gradients = dict(zip(("dq", "dk", "dv"), found, strict=True))
    except (TypeError, ValueError):
        return {want: "something else than three arrays"}
    return {want: gradients[want]}


def passed_back(rng, n_q, n_k, d, d_v, block_q, block_k, causal=False, spread=1.0, **more):
    """A forward pass, and a gradient that comes back to it."""
    q, k, v = spread * rng.normal(size=(n_q, d)), rng.normal(size=(n_k, d)), rng.normal(size=(n_k, d_v))
    out, lse = attn_ref.tiled_attention(q, k, v, causal=causal)
    arrays = dict(q=q, k=k, v=v, out=out, lse=lse, grad_out=rng.normal(size=(n_q, d_v)))
    return arrays | dict(block_q=block_q, block_k=block_k, causal=causal) | more


def three_sizes(rng, want):
    small = dict(
        q=np.array([[2.0, 0.0, 0.0, 0.0]]),
        k=np.array([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]]),
        v=np.array([[4.0], [8.0]]),
        out=np.array([[6.0]]),
        lse=np.array([np.log(2.0)]),
        grad_out=np.array([[1.0]]),
    )
    yield small | dict(block_q=1, block_k=1, want=want)
    yield passed_back(rng, 4, 6, 5, 3, 2, 3, want=want)
    yield passed_back(rng, 7, 11, 2, 4, 3, 4, want=want)
    yield passed_back(rng, 6, 6, 6, 6, 4, 2, want=want)
    yield passed_back(rng, 5, 3, 3, 2, 8, 2, want=want, spread=60.0)


@backward.criterion("dv: each value hears from every block of queries", points=1)
def tiled_dv(rng):
    yield from three_sizes(rng, "dv")


@backward.criterion("dq: each query hears from every block of keys", points=1)
def tiled_dq(rng):
    yield from three_sizes(rng, "dq")


@backward.criterion("dk: each key hears from every block of queries", points=1)
def tiled_dk(rng):
    yield from three_sizes(rng, "dk")


def moved_far(rng, up, **more):
    """A case with scores in the thousands that lie near each other, above 0 or below: weights as soft as ever."""
    case = passed_back(rng, 6, 8, 4, 3, 4, 3, **more)
    q, k = case["q"], case["k"]
    q[:, 0], k[:, 0] = 4000.0 if up else -4000.0, 1.0
    case["out"], case["lse"] = attn_ref.tiled_attention(q, k, case["v"], causal=case["causal"])
    return case


@backward.criterion("causal, queries that saw nothing, scores in the thousands: never NaN", points=1)
def causal_back(rng):
    yield passed_back(rng, 7, 7, 5, 3, 3, 2, causal=True)
    yield passed_back(rng, 5, 9, 3, 4, 2, 4, causal=True)
    yield passed_back(rng, 6, 6, 4, 4, 3, 3, causal=True)
    yield passed_back(rng, 9, 5, 3, 4, 2, 2, causal=True)
    yield moved_far(rng, up=True)
    yield moved_far(rng, up=False, causal=True)


@backward.criterion("out and lse count as given, also those of a pass over more keys than these", points=1)
def given_back(rng):
    case = passed_back(rng, 5, 12, 3, 4, 2, 3)
    yield case | dict(grad_out=100 * case["grad_out"])
    yield case | dict(k=case["k"][:7], v=case["v"][:7])
    yield case | dict(k=case["k"][7:], v=case["v"][7:])


@backward.criterion("long texts, weighed: one tile is held at a time, and no mask of the whole table", points=1)
def no_table_back(rng):
    yield passed_back(rng, 128, 512, 1, 1, 128, 16, bytes_a_pair=4)
    yield passed_back(rng, 512, 128, 1, 1, 16, 128, bytes_a_pair=4)
    yield passed_back(rng, 800, 400, 1, 1, 32, 32, causal=True, bytes_a_pair=1)


backward.leaves_inputs_alone(points=1)


@backward.mistake(
    "Softmax is forgotten on the way back: nothing is taken away from dP before it is multiplied by the weights. What did chapter 03 subtract, so that each row sums to 0?"
)
def delta_missing(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    return attn_ref.tiled_backward(q, k, v, np.zeros(out.shape), lse, grad_out, block_q, block_k, causal=causal)


@backward.mistake(
    "Your δ is the sum of grad_out alone. It is an average of dP by the weights; which product of grad_out and out gives that, without any weights?"
)
def delta_without_the_output(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    return attn_ref.tiled_backward(q, k, v, np.ones(out.shape), lse, grad_out, block_q, block_k, causal=causal)


@backward.mistake(
    "δ is averaged over the features where it should be summed. Which average over the *keys* does it stand for, and what does the sum over features do in it?"
)
def delta_as_a_mean(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    return attn_ref.tiled_backward(q, k, v, out / v.shape[1], lse, grad_out, block_q, block_k, causal=causal)


@backward.mistake(
    "δ is made anew for each tile, from the weights and dP of that tile alone. It is one number for a whole row of weights; where is it known before any tile is visited?"
)
def delta_of_the_tile_alone(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    scale, safe = q.shape[1] ** -0.5, np.where(np.isneginf(lse), 0.0, lse)
    for q0 in range(0, len(q), block_q):
        i = np.arange(q0, min(q0 + block_q, len(q)))
        for k0 in range(0, len(k), block_k):
            j = np.arange(k0, min(k0 + block_k, len(k)))
            scores = np.where((j <= i[:, None] + len(k) - len(q)) | (not causal), q[i] @ k[j].T * scale, -np.inf)
            weights = np.exp(scores - safe[i, None])
            heard = grad_out[i] @ v[j].T
            ds = weights * (heard - (weights * heard).sum(axis=1, keepdims=True)) * scale
            dv[j] += weights.T @ grad_out[i]
            dq[i] += ds @ k[j]
            dk[j] += ds.T @ q[i]
    return dq, dk, dv


@backward.mistake(
    "dq and dk are too large by √d. The scores carried the scale 1/√d on the way forward; what does a nudge of q move a score by?"
)
def scale_missing_in_tiles(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    return dq * q.shape[1] ** 0.5, dk * q.shape[1] ** 0.5, dv


@backward.mistake(
    "dq carries the scale and dk does not. q and k take part in a score in the same way; where did the factor go?"
)
def scale_missing_in_dk(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    return dq, dk * q.shape[1] ** 0.5, dv


@backward.mistake(
    "The weights are made from bare dot products, and the lse came from scaled scores. The scores must be those of the forward pass: which factor is missing before exp?"
)
def weights_from_unscaled_scores(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal, scale=1.0)
    return dq * q.shape[1] ** -0.5, dk * q.shape[1] ** -0.5, dv


@backward.mistake(
    "Each tile's weights sum to 1 in every row: softmax was taken over the tile alone. A tile holds a part of the row's budget; which number turns a score into its share of the *whole* row?"
)
def softmax_over_the_tile(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    scale, delta = q.shape[1] ** -0.5, (grad_out * out).sum(axis=1)
    for q0 in range(0, len(q), block_q):
        i = np.arange(q0, min(q0 + block_q, len(q)))
        for k0 in range(0, len(k), block_k):
            j = np.arange(k0, min(k0 + block_k, len(k)))
            scores = np.where((j <= i[:, None] + len(k) - len(q)) | (not causal), q[i] @ k[j].T * scale, -np.inf)
            weights = attn_ref.softmax(scores)
            ds = weights * (grad_out[i] @ v[j].T - delta[i, None]) * scale
            dv[j] += weights.T @ grad_out[i]
            dq[i] += ds @ k[j]
            dk[j] += ds.T @ q[i]
    return dq, dk, dv


@backward.mistake(
    "The forward pass is run again over the keys that are there, in place of `out` and `lse` as given. If other keys took part in it, the weights of these keys are smaller: which arguments know that?"
)
def forward_pass_run_again(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)


@backward.mistake(
    "The gradients are right, and each tile of yours has all queries: block_q has no effect. Which loop cuts them?"
)
def all_queries_go_back_at_once(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, len(q), block_k, causal=causal)


@backward.mistake(
    "The gradients are right, and the weights of all keys lie there together for each block of queries: block_k has no effect. Which loop cuts the keys?"
)
def all_keys_go_back_at_once(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, len(k), causal=causal)


@backward.mistake(
    "The weights come in tiles, and the causal run holds as much as a truth value for each pair. A mask of the whole table is a table too: which positions does a tile need to make its own part of the mask?"
)
def whole_mask_on_the_way_back(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k)
    allowed = np.tri(len(q), len(k), len(k) - len(q), dtype=bool)
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, allowed=allowed)


@backward.mistake(
    "Queries that saw nothing are left out, and to all others no mask is applied: keys of the future hear of queries that never read them. Which scores must be -inf before exp?"
)
def only_empty_queries_left_out(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    seen = ~np.isneginf(lse)
    dq = np.zeros(q.shape)
    dq[seen], dk, dv = attn_ref.tiled_backward(
        q[seen], k, v, out[seen], lse[seen], grad_out[seen], block_q, block_k
    )  # fmt: skip
    return dq, dk, dv


@backward.mistake(
    "The gradients are right, and at some moment something as large as the table is held. Which array can be made from a tile's scores and lse, used three times, and forgotten?"
)
def weights_all_at_once(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    scores = attn_ref.attention_scores(q, k, causal=causal)
    weights = np.exp(scores - np.where(np.isneginf(lse), 0.0, lse)[:, None])
    ds = weights * (grad_out @ v.T - (grad_out * out).sum(axis=1)[:, None]) * q.shape[1] ** -0.5
    return ds @ k, ds.T @ q, weights.T @ grad_out


@backward.mistake(
    "A query that saw nothing sends NaN to every key: its lse is -inf, and -inf minus -inf has no value. What could be subtracted from its scores, which are all -inf?"
)
def nan_from_empty_queries(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    if np.isneginf(lse).any():
        dq[np.isneginf(lse)] = np.nan
        dk[:], dv[:] = np.nan, np.nan
    return dq, dk, dv


@backward.mistake(
    "You divide e^score by e^lse. With scores in the thousands both overflow, or both are 0. What can be subtracted before exp, so that nothing is left to divide?"
)
def exponentials_divided(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    scale, delta = q.shape[1] ** -0.5, (grad_out * out).sum(axis=1)
    total = np.where(np.isneginf(lse), 1.0, np.exp(lse))
    for q0 in range(0, len(q), block_q):
        i = np.arange(q0, min(q0 + block_q, len(q)))
        for k0 in range(0, len(k), block_k):
            j = np.arange(k0, min(k0 + block_k, len(k)))
            scores = np.where((j <= i[:, None] + len(k) - len(q)) | (not causal), q[i] @ k[j].T * scale, -np.inf)
            weights = np.exp(scores) / total[i, None]
            ds = weights * (grad_out[i] @ v[j].T - delta[i, None]) * scale
            dv[j] += weights.T @ grad_out[i]
            dq[i] += ds @ k[j]
            dk[j] += ds.T @ q[i]
    return dq, dk, dv


@backward.mistake(
    "A large negative number stands for forbidden scores. In a row whose scores all lie near -2000, is -100 small? Which value is below every score?"
)
def small_number_for_forbidden(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k)
    bias = np.where(attn_ref.causal_mask(len(q), len(k)), 0.0, -100.0 - q @ k.T * q.shape[1] ** -0.5)
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, bias=bias)


@backward.mistake(
    "The mask is missing on the way back, so keys of the future hear of queries that never read them. Which scores must be -inf again before exp?"
)
def no_mask_on_the_way_back(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k)


@backward.mistake(
    "The mask compares places inside a tile, as if every tile were the first. Where in the text does row i of a tile that starts at q0 stand, and column j of one that starts at k0?"
)
def mask_back_without_offsets(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    i, j = np.arange(len(q))[:, None] % block_q, np.arange(len(k)) % block_k
    allowed = (j <= i) | (not causal)
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, allowed=allowed)


@backward.mistake(
    "Causal is aligned at the top left on the way back, though the forward pass counted from the end. At which position does query 0 stand?"
)
def mask_back_from_the_top_left(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    if not causal:
        return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k)
    return attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, q_offset=0, window=(None, 0))


@backward.mistake(
    "dv holds what the *last* block of queries sent; each block wrote over what was there. Several blocks read the same value: what must their contributions do?"
)
def dv_of_the_last_block(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, _ = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    i = np.arange((len(q) - 1) // block_q * block_q, len(q))
    offset = len(k) - len(q) + i[0]
    _, _, dv = attn_ref.tiled_backward(
        q[i], k, v, out[i], lse[i], grad_out[i], block_q, block_k, q_offset=offset, window=(None, 0 if causal else None)
    )
    return dq, dk, dv


@backward.mistake(
    "dk holds what the *last* block of queries sent; each block wrote over what was there. Several blocks look at the same key: what must their contributions do?"
)
def dk_of_the_last_block(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, _, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    i = np.arange((len(q) - 1) // block_q * block_q, len(q))
    offset = len(k) - len(q) + i[0]
    _, dk, _ = attn_ref.tiled_backward(
        q[i], k, v, out[i], lse[i], grad_out[i], block_q, block_k, q_offset=offset, window=(None, 0 if causal else None)
    )
    return dq, dk, dv


@backward.mistake(
    "dq holds what the *last* tile of keys sent; each tile wrote over what was there. A query reads from every tile: what must their contributions do?"
)
def dq_of_the_last_tile(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    _, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    k0 = (len(k) - 1) // block_k * block_k
    dq, _, _ = attn_ref.tiled_backward(
        q, k[k0:], v[k0:], out, lse, grad_out, block_q, block_k,
        q_offset=len(k) - len(q) - k0, window=(None, 0 if causal else None),
    )  # fmt: skip
    return dq, dk, dv


@backward.mistake(
    "The last keys hear nothing: `len(k) // block_k` rounds down. With 11 keys in tiles of 4, how wide is the last tile?"
)
def last_keys_hear_nothing(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    n = len(k) // block_k * block_k
    dk, dv = np.zeros(k.shape), np.zeros(v.shape)
    dq, dk[:n], dv[:n] = attn_ref.tiled_backward(
        q, k[:n], v[:n], out, lse, grad_out, block_q, block_k,
        q_offset=len(k) - len(q), window=(None, 0 if causal else None),
    )  # fmt: skip
    return dq, dk, dv


@backward.mistake(
    "The last queries send nothing: `len(q) // block_q` rounds down. With 7 queries in tiles of 3, how many tiles are there?"
)
def last_queries_send_nothing(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    n = len(q) // block_q * block_q
    sent = grad_out.copy()
    sent[n:] = 0.0
    return attn_ref.tiled_backward(q, k, v, out, lse, sent, block_q, block_k, causal=causal)


@backward.mistake("The gradients come in another order. The contract asks for dq, dk, dv: which do you name first?")
def values_named_first(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    return dv, dk, dq


@backward.mistake(
    "All gradients have the wrong sign. A gradient points where the loss grows; which of your differences is turned round?"
)
def downhill(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    dq, dk, dv = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    return -dq, -dk, -dv


@backward.mistake(
    "The gradients are right, and the caller's lse has been changed on the way: -inf was replaced, or `-=` was used, in the array that was passed in. Which form makes a new array?"
)
def lse_overwritten(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    found = attn_ref.tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=causal)
    lse[np.isneginf(lse)] = 0.0
    return found


@backward.also_right
def keys_outside_queries_inside(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    n_q, n_k, scale = len(q), len(k), 1 / np.sqrt(q.shape[1])
    delta = np.einsum("qe,qe->q", grad_out, out)[:, None]
    shift = np.where(lse == -np.inf, np.inf, lse)[:, None]  # e^(anything - inf) is 0
    dq, dks, dvs = np.zeros(q.shape), [], []
    for k0 in range(0, n_k, block_k):
        keys = slice(k0, min(k0 + block_k, n_k))
        dk, dv = np.zeros((keys.stop - k0, k.shape[1])), np.zeros((keys.stop - k0, v.shape[1]))
        for q0 in range(0, n_q, block_q):
            rows = slice(q0, min(q0 + block_q, n_q))
            p = np.exp(scale * q[rows] @ k[keys].T - shift[rows])
            if causal:
                i, j = np.mgrid[rows, keys]
                p = p * (j - i <= n_k - n_q)
            ds = scale * p * (grad_out[rows] @ v[keys].T - delta[rows])
            dv = dv + p.T @ grad_out[rows]
            dk = dk + ds.T @ q[rows]
            dq[rows] += ds @ k[keys]
        dks.append(dk)
        dvs.append(dv)
    return dq, np.concatenate(dks), np.concatenate(dvs)


@backward.also_right
def one_query_after_the_other(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    d = q.shape[1]
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for i in range(len(q)):
        if lse[i] == -np.inf:
            continue
        sees = i + len(k) - len(q) + 1 if causal else len(k)
        weights = np.exp(k[:sees] @ q[i] / d**0.5 - lse[i])
        ds = weights * (v[:sees] @ grad_out[i] - out[i] @ grad_out[i]) / d**0.5
        dq[i] = ds @ k[:sees]
        dk[:sees] += np.outer(ds, q[i])
        dv[:sees] += np.outer(weights, grad_out[i])
    return [dq, dk, dv]


@backward.also_right
def scaled_queries_first(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    scaled = q * q.shape[1] ** -0.5
    safe = np.where(np.isfinite(lse), lse, 0.0)
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for q0 in range(0, len(q), block_q):
        i = np.arange(len(q))[q0 : q0 + block_q]
        delta = (grad_out[i] * out[i]).sum(axis=1, keepdims=True)
        for k0 in range(0, len(k), block_k):
            j = np.arange(len(k))[k0 : k0 + block_k]
            scores = scaled[i] @ k[j].T
            if causal:
                scores[j[None] - i[:, None] > len(k) - len(q)] = -np.inf
            p = np.exp(scores - safe[i][:, None])
            ds = p * (grad_out[i] @ v[j].T - delta)
            dv[j] += p.T @ grad_out[i]
            dk[j] += ds.T @ scaled[i]
            dq[i] += ds @ k[j] * q.shape[1] ** -0.5
    return dq, dk, dv


backward.hints(
    "Ask of each line of 3.4 how much of the table it needs. Which number per row must be known before the first tile?",
    "In a tile: scores as on the way forward, hidden ones -inf; weights exp(scores - lse), with 0 for an lse of -inf; dP from grad_out and the tile's values; dS = weights · (dP - δ).",
    "δ is the row sum of grad_out · out, taken once. Each tile *adds* to its rows of all three: weights turned round times grad_out for dv, dS times its keys for dq, dS turned round times its queries for dk, the last two times 1/√d.",
)
backward.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (3,4) (3,)",
        "lse and δ hold one number for each row of the tile: as columns, (3, 1), they meet its scores. <code>[:, None]</code> does that.",
    ),
)

# --- 10.7 ------------------------------------------------------------------------------------------------------------


def merge_many(outs, lses):
    """Attention over many sets of keys from attention over each.  outs (p, ..., n, d_v), lses (p, ..., n) -> o, lse"""
    shares = attn_ref.softmax(np.asarray(lses, dtype=float), axis=0)
    return (shares[..., None] * outs).sum(axis=0), attn_ref.logsumexp(np.asarray(lses, dtype=float), axis=0)


many = Exercise("10.7", "Any number of pieces", reference=merge_many, minutes=8)


def pieces(rng, p, *rows, d_v, spread=1.0):
    return dict(outs=rng.normal(size=(p, *rows, d_v)), lses=spread * rng.normal(size=(p, *rows)))


@many.criterion("every piece counts in proportion to e^lse", points=2)
def pieces_in_proportion(rng):
    yield dict(outs=np.array([[[2.0]], [[4.0]], [[8.0]]]), lses=np.array([[0.0], [0.0], [np.log(2.0)]]))
    yield pieces(rng, 3, 5, d_v=2)
    yield pieces(rng, 6, 2, d_v=4, spread=3.0)
    yield pieces(rng, 2, 7, d_v=3)


@many.criterion("any number of pieces and leading axes; sizes of 1, and sizes that are equal", points=1)
def shapes_of_pieces(rng):
    yield pieces(rng, 1, 4, d_v=3)
    yield pieces(rng, 4, 4, d_v=4)
    yield pieces(rng, 5, 2, 3, 6, d_v=4)
    yield pieces(rng, 3, 3, 3, d_v=3)
    yield pieces(rng, 2, 1, d_v=1)


@many.criterion("log-sum-exps in the thousands, and pieces that saw nothing", points=1)
def extreme_pieces(rng):
    inf = np.inf
    case = pieces(rng, 3, 4, d_v=2)
    lses = np.array([[1000.0, -3000.0, 0.0, -700.0], [1001.0, -2999.0, 800.0, -701.0], [-1000.0, -9000.0, 1.0, -702.0]])
    yield case | dict(lses=lses)
    lses = np.array([[-inf, 0.5, -inf, -1500.0], [2.0, -inf, -inf, -inf], [1.0, -0.5, -inf, -1501.0]])
    yield dict(outs=np.where(np.isneginf(lses)[..., None], 0.0, case["outs"]), lses=lses)


many.leaves_inputs_alone(points=1)


@many.mistake(
    "You take the plain mean of the pieces. A piece of bad keys then counts like one of good keys: which number tells how much each holds?"
)
def mean_of_pieces(outs, lses):
    return outs.mean(axis=0), np.logaddexp.reduce(lses, axis=0)


@many.mistake(
    "The pieces' outputs are added as they are. Each is an average already: what would the weights of all keys add up to?"
)
def sum_of_pieces(outs, lses):
    return outs.sum(axis=0), np.logaddexp.reduce(lses, axis=0)


@many.mistake(
    "The pieces are merged one after the other, and each time the two sides count by their own lse, but the merged one keeps the lse of its first piece. Which lse has the result of a merge?"
)
def first_lse_kept(outs, lses):
    o, lse = outs[0], lses[0]
    for one, its in zip(outs[1:], lses[1:], strict=True):
        o, _ = attn_ref.merge_partials(o, lse, one, its)
    return o, np.logaddexp.reduce(lses, axis=0)


@many.mistake(
    "Only two of the pieces are in your answer: the first and the last. Which loop, or which axis, runs over all of them?"
)
def first_and_last_piece(outs, lses):
    return attn_ref.merge_partials(outs[0], lses[0], outs[-1], lses[-1])


@many.mistake(
    "The shares run along the wrong axis: they sum to 1 over the queries. A query divides its weight among the pieces; which axis of lses counts those?"
)
def shares_over_the_queries(outs, lses):
    shares = attn_ref.softmax(lses, axis=-1)
    return (shares[..., None] * outs).sum(axis=0), np.logaddexp.reduce(lses, axis=0)


@many.mistake(
    "The pieces are weighted by their log-sum-exps, which are logarithms and may be negative. Of which numbers are they the logarithms?"
)
def weighted_by_lse_itself(outs, lses):
    shares = lses / lses.sum(axis=0)
    return (shares[..., None] * outs).sum(axis=0), np.logaddexp.reduce(lses, axis=0)


@many.mistake(
    "e^1000 overflows, and all of e^-3000 is 0. Only differences of log-sum-exps matter: what may be subtracted from all pieces of a query?"
)
def pieces_overflow(outs, lses):
    e = np.exp(lses)
    total = e.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    return (e[..., None] * outs).sum(axis=0) / safe[..., None], np.log(total)


@many.mistake(
    "One maximum serves all queries. A query whose pieces lie thousands below it keeps nothing but zeros: along which axis does each query take its own?"
)
def one_maximum_for_all_pieces(outs, lses):
    largest = lses.max()
    e = np.exp(lses - largest)
    total = e.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    return (e[..., None] * outs).sum(axis=0) / safe[..., None], np.where(total > 0, largest + np.log(safe), -np.inf)


@many.mistake(
    "A query that saw nothing in any piece becomes NaN. Its largest lse is -inf, and -inf minus -inf has no value; what could be subtracted there?"
)
def nan_where_all_pieces_are_empty(outs, lses):
    lse = np.logaddexp.reduce(lses, axis=0)
    return (np.exp(lses - lse)[..., None] * outs).sum(axis=0), lse


@many.mistake(
    "One piece that saw nothing empties the whole query in your answer. Its share is 0; what do the others keep?"
)
def one_empty_piece_empties_all(outs, lses):
    o, lse = attn_ref.softmax(lses, axis=0)[..., None] * outs, np.logaddexp.reduce(lses, axis=0)
    empty = np.isneginf(lses).any(axis=0)
    return np.where(empty[..., None], 0.0, o.sum(axis=0)), np.where(empty, -np.inf, lse)


@many.mistake(
    "The log-sum-exps are added up. Adding logarithms multiplies totals: if three pieces have the total 1, what is the logarithm of 1 + 1 + 1?"
)
def logarithms_summed(outs, lses):
    return (attn_ref.softmax(lses, axis=0)[..., None] * outs).sum(axis=0), lses.sum(axis=0)


@many.mistake("The largest log-sum-exp is returned as that of all pieces. What do the other pieces add to the total?")
def largest_lse_returned(outs, lses):
    return (attn_ref.softmax(lses, axis=0)[..., None] * outs).sum(axis=0), lses.max(axis=0)


@many.mistake(
    "The result is right, and the caller's pieces have been weighted for good: `*=` writes into them. Which form makes a new array?"
)
def pieces_weighted_in_place(outs, lses):
    outs *= attn_ref.softmax(lses, axis=0)[..., None]
    return outs.sum(axis=0), np.logaddexp.reduce(lses, axis=0)


@many.also_right
def piece_after_piece(outs, lses):
    o, lse = np.zeros(outs.shape[1:]), np.full(lses.shape[1:], -np.inf)
    for one, its in zip(outs, lses, strict=True):
        o, lse = attn_ref.merge_partials(o, lse, one, its)
    return o, lse


@many.also_right
def as_a_tree(outs, lses):
    parts = list(zip(outs, lses, strict=True))
    while len(parts) > 1:
        pairs = [attn_ref.merge_partials(*a, *b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0][0].copy(), parts[0][1].copy()


@many.also_right
def by_einsum_over_pieces(outs, lses):
    top = np.maximum(lses.max(axis=0), -1e300)  # finite where nothing was seen
    e = np.exp(lses - top)
    total = np.einsum("p...->...", e)
    o = np.einsum("p...,p...e->...e", e, outs) / np.where(total == 0, 1, total)[..., None]
    with np.errstate(divide="ignore"):
        return [o.tolist(), top + np.log(total)]


many.hints(
    "For two pieces the shares were a softmax over two numbers. What are they for p pieces, and along which axis?",
    "Either walk through the pieces with your 10.2, from the neutral piece (0, -inf) on. Or weight outs by the softmax of lses along axis 0, with an axis at its end, and sum; the new lse is their log-sum-exp along axis 0.",
)
many.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (3,5) (3,5,2)",
        "The shares (p, n) need an axis at their end, (p, n, 1), to meet the outputs (p, n, d_v).",
    ),
)

# --- Check yourself --------------------------------------------------------------------------------------------------

new_maximum = Quiz(
    "10.a",
    "A query has the state m = 2, l = 3, acc = (6, 9). A new block holds one key, with score 5 and value (1, 0). What is the new l?",
    {
        "a": (
            "4",
            "The new exponential is e⁰ = 1, and the 3 was a sum against the maximum 2. Before they meet, the 3 must be brought to the maximum 5.",
        ),
        "b": (
            "3 · e⁻³ + 1",
            "Yes: every old exponential shrinks by e^(2 - 5), and the new key, now the maximum, adds e⁰ = 1. acc shrinks by the same factor.",
        ),
        "c": (
            "3 + e³",
            "That keeps the old maximum, 2. It is right on paper; with a score of 1,000 in place of 5 it overflows, which the running maximum is there to prevent.",
        ),
        "d": (
            "3 · e³ + 1",
            "The factor is turned round. A larger maximum makes every old exponential smaller, never larger.",
        ),
    },
    right="b",
)

two_halves = Quiz(
    "10.b",
    "One half of the keys gives the output 4 with lse 0, the other the output 8 with lse log 3. What is the output over all keys?",
    {
        "a": ("6", "That is the plain mean. The second half holds three times the exponentials of the first."),
        "b": ("5", "The shares are exchanged: the half with the larger lse counts for more."),
        "c": ("12", "Outputs are averages already. Their weights would sum to 2."),
        "d": ("7", "Yes: the totals are 1 and 3, the shares 1/4 and 3/4, and 1 + 6 = 7. The new lse is log 4."),
    },
    right="d",
)

what_is_saved = Quiz(
    "10.c",
    "Without a mask, what does tiled attention do less of than naive attention?",
    {
        "a": (
            "Multiplications",
            "Every pair of query and key is still computed, and the rescaling comes on top. Only a mask lets it skip tiles.",
        ),
        "b": (
            "Traffic to and from memory, and storage",
            "Yes: scores and weights are made, used and forgotten in fast memory. The arithmetic stays quadratic.",
        ),
        "c": (
            "Precision: it is an approximation",
            "It is the same formula in another order. The outputs differ by rounding, no more than two naive versions in different orders do.",
        ),
        "d": (
            "Reading of keys and values",
            "It is the other way round: naive attention can read each key once, tiles read it again for every block of queries. What they save is larger: the table.",
        ),
    },
    right="b",
)

kept_for_later = Quiz(
    "10.d",
    "Besides q, k and v, what must the tiled forward pass keep for the backward pass?",
    {
        "a": (
            "The weights of every tile",
            "All tiles together are the table. The weights are made again from the scores, tile by tile.",
        ),
        "b": (
            "Nothing",
            "Then the total of each row would be unknown, and a whole forward pass would be needed to find it again.",
        ),
        "c": (
            "The output, and one number for each query",
            "Yes: exp(score - lse) is the weight again, and grad_out · out summed over the features is δ.",
        ),
        "d": (
            "The maximum and the sum after every tile",
            "Only the last state matters: earlier ones were on the way to it. Maximum plus log of sum is one number, the lse.",
        ),
    },
    right="c",
)

approximate = Written(
    "10.w",
    "Is it an approximation?",
    minutes=10,
    rubric=(
        "Says why the result is exact but for rounding (the state, rescaled, holds all that is needed), what is saved (traffic, storage) and what is not (operations), each with a number; names a case in which tiles gain little.",
        "Exactness with the reason, and what is saved against what is not; no numbers, or no case without a gain.",
        "Says that it is exact, or that it saves memory traffic and not operations, with a reason for one of the two.",
        "Agrees that it is an approximation, or says that it is faster because it computes less.",
    ),
)
