# %% [markdown]
# # 03 · Gradients: routing that learns
#
# You pass a loss back through attention by hand, check every slope by measuring it, and let queries learn what to ask.
#
# 165 min · CPU · NumPy · needs 02

# %% [markdown]
# When you have finished, you will be able to
#
# - measure any gradient, and say how many of its digits to believe;
# - write the backward pass of softmax and of attention, and prove it right;
# - say why a soft lookup learns and a hard one does not, and name two ways round that.

# %%
import numpy as np

import attn_ref
from attn_ref import plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## A lookup that cannot be corrected
#
# “sat” asks who sat. Its query is its own row of the sentence, the six rows are keys and values, and it should read the
# row of “cat”. The **loss** says how wrong it is: here the mean squared difference from that row. Beside the soft lookup
# stands a **hard** one, as in chapter 01, which takes the value of the best key.

# %%
x = sentence.EMBEDDINGS
asks, wanted = x[2:3], x[1:2]  # “sat” asks, and should read what “cat” holds


def hard(query):
    return x[(query @ x.T).argmax(axis=-1)]


def soft(query):
    return attn_ref.attention(query, x, x)


def loss(out):
    return np.mean((out - wanted) ** 2)


print(f"loss of the hard lookup {loss(hard(asks)):.3f}, of the soft one {loss(soft(asks)):.3f}")

# %% [markdown]
# Both are wrong, since “sat” fits itself best. It has to ask for something else, but in which direction? Nudge each of
# the query's four numbers by 0.01, once up and once down. How many of the 8 nudges change the hard lookup's loss?

# %%
my_guess = None  # your guess: how many of the 8 nudges change the loss of the hard lookup

# %%
nudges = 0.01 * np.concatenate([np.eye(4), -np.eye(4)])


def noticed(lookup):
    return sum(loss(lookup(asks + nudge)) != loss(lookup(asks)) for nudge in nudges)


print("the soft lookup notices", noticed(soft), "of 8")
guess(my_guess, measured=noticed(hard), unit="of 8")

# %% [markdown]
# None. Now let “sat” ask for more and more of a *thing*, the first feature:

# %%
more = np.linspace(-1, 3, 41)
asked = [asks + [[t, 0, 0, 0]] for t in more]
both = {"hard": [loss(hard(query)) for query in asked], "soft": [loss(soft(query)) for query in asked]}
plots.lines(more, both, "“sat” asks for a thing", "added to the query's first number", "loss")

# %% [markdown]
# The hard line is flat, drops where “cat” becomes the best key, and is flat again. It says *that* the answer is wrong and
# never in which direction to go. The soft line slopes all the way, and a slope can be followed.

# %% [markdown]
# ## A slope can be measured
#
# The **slope** of f at x is what f gains for a small nudge ε of x, divided by the nudge. Measure it from x to x + ε
# (**one-sided**), or from x - ε to x + ε (a **central difference**). The slope of x³ at 2 is 12.

# %%
for eps in (0.1, 0.01, 0.001):
    one_sided = ((2 + eps) ** 3 - 2**3) / eps
    central = ((2 + eps) ** 3 - (2 - eps) ** 3) / (2 * eps)
    print(f"ε = {eps:5}: one-sided {one_sided:.6f}, central {central:.6f}")

# %% [markdown]
# A tenth of the step leaves a tenth of the one-sided error and a hundredth of the central one: what the curve's bend
# adds on one side it takes away on the other.
#
# A function of many numbers has a slope for each, measured while the others stay still. Together, in the shape of x, they
# are its **gradient**.

# %% [markdown]
# ### Exercise 3.1 · A slope for every number (6 points · 15 min · about 6 lines)
#
# Write `numerical_gradient(f, x, eps)`. `x` is an array of any shape, also `()`, of floats or whole numbers; `f` takes
# an array of that shape and returns one number. Return an array of floats shaped like `x`. Each entry is the central
# difference of `f` when that entry alone is nudged by `eps`, up and down. `f` may use `x` itself, as
# `lambda q: loss(attention(q, x, x))` does, so do not write into `x`, not even for a moment.
#
# By hand: x[0] · x[1] at (2, 5) with eps = 0.5 gives (2.5 · 5 - 1.5 · 5) / 1 = 5 and (2 · 5.5 - 2 · 4.5) / 1 = 2.


# %% exercise="3.1"
def numerical_gradient(f, x, eps):
    """The gradient of f at x by central differences.  f: (...) -> number, x (...) -> (...)"""
    ### BEGIN SOLUTION
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.astype(float), x.astype(float)  # fresh copies, also of whole numbers
        above[place] += eps
        below[place] -= eps
        gradient[place] = (f(above) - f(below)) / (2 * eps)
    return gradient
    ### END SOLUTION


# %% try="3.1"
print(numerical_gradient(lambda x: x[0] * x[1], np.array([2.0, 5.0]), 0.5))
print(numerical_gradient(np.sum, np.array([[1, 2, 3], [4, 5, 6]]), 0.25))

# %% check="3.1"
check("3.1", numerical_gradient)

# %% [markdown] teacher="3.1"
# **Why this works.** Expand f(x ± ε): the even terms cancel in the difference, so the first error left is ε²/6 times
# the third derivative. **Common wrong turns.** Nudging x in place is right in many courses and wrong as soon as f
# closes over x; `x.copy()` of whole numbers swallows the nudge; `/ 2 * eps`; `reshape(-1)` of a copy of `x.T`, which is
# a copy again. **Another way.** One unit vector for each entry, reshaped like x: `f(x + eps * unit)`.

# %% [markdown]
# A gradient by hand and a measured one never agree in every digit. A difference of 0.001 is little beside slopes of 100
# and everything beside slopes of 0.001, so it has to be taken **relative** to them.

# %% [markdown]
# ### Exercise 3.2 · Do two gradients agree? (5 points · 10 min · about 4 lines)
#
# Write `gradient_error(analytic, numeric)` for two arrays of one shape, of floats or whole numbers. Return one number: the
# largest |a - b| of two entries at the same place, over the largest |entry| of either array. Tiny gradients count like
# large ones. If both are 0 throughout, they agree, and the answer is 0. If either holds a NaN, the answer is NaN: a check
# that cannot fail is none. Do not write into the arrays.
#
# By hand: (1, 0) and (0.5, 0) differ by 0.5 at most, and the largest entry is 1, so the error is 0.5.


# %% exercise="3.2"
def gradient_error(analytic, numeric):
    """Largest difference over largest entry.  (...), (...) -> number, 0 for two zeros"""
    ### BEGIN SOLUTION
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    if largest == 0:
        return 0.0
    return np.abs(analytic - numeric).max() / largest
    ### END SOLUTION


# %% try="3.2"
print(gradient_error(np.array([1.0, 0.0]), np.array([0.5, 0.0])), gradient_error(np.zeros(3), np.zeros(3)))
print(gradient_error(np.array([np.nan, 1.0]), np.array([0.0, 1.0])))

# %% check="3.2"
check("3.2", gradient_error)

# %% [markdown] teacher="3.2"
# **Why this works.** One wrong entry among a million is as visible as one among two, which no mean or norm can promise,
# and entries near 0 do no harm. **Common wrong turns.** An error entry by entry, which is 1 or NaN wherever a slope is
# really 0; 1e-8 in the denominator; `if largest > 0`, which is False for NaN and lets it pass as 0; Python's `max`,
# which loses a NaN that stands second; a guard that asks whether the sums are 0. **Another way.** Norms:
# ‖a - n‖ / (‖a‖ + ‖n‖) is common too.

# %% [markdown]
# ### The best step is not the smallest
#
# Now measure the gradient of the soft lookup's loss with 23 values of ε, from ½ down to 2⁻⁴⁵, and compare with the exact
# one, which you will write below. Which ε gives the central difference with the smallest error?

# %%
my_guess = None  # your guess: the best ε itself, such as 1e-3

# %%
exact, _, _ = attn_ref.attention_backward(asks, x, x, 2 * (soft(asks) - wanted) / wanted.size)
steps = 2.0 ** -np.arange(1, 47, 2)
errors = {"one-sided": [], "central": []}
for eps in steps:
    gains = [loss(soft(asks + eps * unit)) - loss(soft(asks)) for unit in np.eye(4)]
    errors["one-sided"].append(attn_ref.gradient_error(exact, np.array([gains]) / eps))
    central = attn_ref.numerical_gradient(lambda query: loss(soft(query)), asks, eps)
    errors["central"].append(attn_ref.gradient_error(exact, central))
guess(my_guess, measured=steps[np.argmin(errors["central"])])

# %% [markdown]
# Neither the largest nor the smallest. Both kinds of difference, on logarithmic axes (10⁻⁵ is near 2⁻¹⁷):

# %%
plots.lines(steps, errors, "Error of a measured gradient", "ε", "error", logx=True, logy=True)

# %% [markdown]
# Read from the right. A smaller ε helps at first, and the central curve falls twice as steeply. Then both turn: a loss
# has 16 digits, the last one is rounding, and the division by ε magnifies it. The best central step is near 10⁻⁵, with
# an error under 10⁻¹⁰. Never expect 0, and suspect a bug at 10⁻³.

# %% [markdown]
# ## The way back: who should have weighed more?
#
# Measuring costs two lookups a number. The **chain rule** gets all slopes in one pass backwards: the slope of the loss by
# the output, times the slope of the output by a weight, is the slope of the loss by that weight, summed over the output's
# entries. Write dX for the gradient of the loss by X. It always has the shape of X.
#
# First, the loss is a mean of four squares, so d_out = 2 (out - wanted) / 4. Second, more weight on key j adds some of value
# j to the output, so d_weights[j] is the dot product of d_out with value j.

# %%
out, weights = attn_ref.attention(asks, x, x, return_weights=True)
d_out = 2 * (out - wanted) / wanted.size  # (1, 4)
d_weights = d_out @ x.T  # (1, 6)
plots.bars(d_weights[0], sentence.TOKENS, "What a little more weight would do", "gradient of the loss")

# %% [markdown]
# Below zero is good news: more weight on “cat” or “mat” lowers the loss, and more on “on” raises it most.
#
# But no weight grows alone, for the shares of a row sum to 1. Third, then: the scores. Chapter 02 had softmax's table of
# slopes, the **Jacobian**: weight j moves with its own score by $w_j(1 - w_j)$ and with another score i by $-w_i w_j$. So
# score i hears from *all* weights:
#
# $$ds_i = \sum_j \frac{\partial w_j}{\partial s_i}\, dw_j$$

# %% [markdown]
# ### Exercise 3.3 · Back through softmax (5 points · 18 min · about 2 lines)
#
# Write `softmax_vjp(weights, grad)`. (A *vjp*, vector-Jacobian product, is such a sum.) `weights` (..., n) are shares
# along the last axis, `grad` is their gradient, of the same shape. Return the gradient of the scores, of that shape
# too. Rows do not mix, and a row of zeros gets zeros. Both arrays may hold whole numbers, and neither may be written
# to.
#
# By hand: weights (½, ½) have the slopes ¼ and -¼, so `grad` (1, 0) gives (¼, -¼).


# %% exercise="3.3"
def softmax_vjp(weights, grad):
    """The gradient of the scores from that of the weights, along the last axis.  (..., n) twice -> (..., n)"""
    ### BEGIN SOLUTION
    average = (weights * grad).sum(axis=-1, keepdims=True)
    return weights * (grad - average)
    ### END SOLUTION


# %% try="3.3"
print(softmax_vjp(np.array([0.5, 0.5]), np.array([1.0, 0.0])))
print(softmax_vjp(np.array([[0.25, 0.75]]), np.array([[3.0, 3.0]])), "for equal gradients")

# %% check="3.3"
check("3.3", softmax_vjp)

# %% [markdown] teacher="3.3"
# **Why this works.** Σ_j w_j (δ_ij - w_i) g_j = w_i (g_i - Σ_j w_j g_j). The table has n² entries and rank one plus a
# diagonal, so that it need not exist. **Common wrong turns.** The diagonal alone; the plain mean or sum of the gradients
# for their weighted sum; `keepdims` forgotten, which a square array forgives. **Another way.** `np.einsum` with the table,
# for one row at a time.

# %%
d_scores = attn_ref.softmax_vjp(weights, d_weights)
both = {"weights": d_weights[0], "scores": d_scores[0]}
plots.bars(both, sentence.TOKENS, "What reaches the weights, and the scores", "gradient of the loss")

# %% [markdown]
# The hatched bars sum to 0, because raising all scores together does nothing. A key is compared with the row's average,
# weighted by the shares: what lies below should rise, what lies above should fall.

# %% [markdown]
# ### Break it: the diagonal alone
#
# It is tempting to write softmax's slope as w (1 - w), like that of a sigmoid, and to forget the other keys.


# %%
def diagonal_alone(weights, grad):
    """A planted bug."""
    return weights * (1 - weights) * grad


check("3.3", diagonal_alone)

# %% [markdown]
# The card names the bug. It comes back below.

# %% [markdown]
# ## A product sends back two gradients
#
# What is left are matrix products: q kᵀ, and weights times v. For any product C = A B,
#
# $$dA = dC\,B^\top \qquad dB = A^\top\,dC$$
#
# You need not remember which side is turned: dA has the shape of A, and dC and B fit together in one way only. To
# check it, take the sum of C · dC as the loss, whose gradient by C is dC:

# %%
rng = np.random.default_rng(3)
a, b, d_c = rng.normal(size=(2, 3)), rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
measured_a = attn_ref.numerical_gradient(lambda y: (y @ b * d_c).sum(), a, 1e-3)
measured_b = attn_ref.numerical_gradient(lambda y: (a @ y * d_c).sum(), b, 1e-3)
print(f"error of dA: {attn_ref.gradient_error(d_c @ b.T, measured_a):.0e}")
print(f"error of dB: {attn_ref.gradient_error(a.T @ d_c, measured_b):.0e}")

# %% [markdown]
# ### Exercise 3.4 · Back through attention (7 points · 25 min · about 6 lines)
#
# Write `attention_backward(q, k, v, weights, grad_out)`; return the gradients `(dq, dk, dv)`, each shaped like its array.
# q is (..., n_q, d), k (..., n_k, d), v (..., n_k, d_v), with the same leading axes or none. `weights` (..., n_q, n_k) are
# those of the forward pass, `grad_out` (..., n_q, d_v) is d_out, and the scale was 1/√d. Use the weights as given: a mask
# (chapter 04) may have set some of them to 0, or a whole row. Whole numbers may occur; nothing may be written to. Build
# on your `softmax_vjp` or on that of `attn_ref`.
#
# By hand: q = (2, 0, 0, 0), keys (0, 3, 0, 0) and (0, 0, 5, 0), values 4 and 8. Both scores are 0, both weights ½. For
# grad_out = 1: dv = ½ and ½, d_weights = (4, 8), d_scores = (-1, 1), dq = (0, -1.5, 2.5, 0), dk = (-1, 0, 0, 0) and
# (1, 0, 0, 0).


# %% exercise="3.4"
def attention_backward(q, k, v, weights, grad_out):
    """The gradients of softmax(q kᵀ / √d) v, given that of its output.  -> dq, dk, dv, shaped like q, k, v"""
    ### BEGIN SOLUTION
    scale = q.shape[-1] ** -0.5
    dv = np.swapaxes(weights, -1, -2) @ grad_out
    grad_weights = grad_out @ np.swapaxes(v, -1, -2)
    grad_scores = softmax_vjp(weights, grad_weights) * scale
    return grad_scores @ k, np.swapaxes(grad_scores, -1, -2) @ q, dv
    ### END SOLUTION


# %% try="3.4"
my_q, my_k = np.array([[2.0, 0, 0, 0]]), np.array([[0, 3.0, 0, 0], [0, 0, 5.0, 0]])
my_v, my_weights = np.array([[4.0], [8.0]]), np.array([[0.5, 0.5]])
attention_backward(my_q, my_k, my_v, my_weights, np.array([[1.0]]))

# %% check="3.4"
check("3.4", attention_backward)

# %% [markdown] teacher="3.4"
# **Why this works.** Two products, each with the rule above, and 3.3 between them; kᵀ turns its gradient round once more.
# The scale is a constant factor and may stand anywhere between the scores and q, k. **Common wrong turns.** Scale
# forgotten, or applied twice; weights not turned in dv, which n_q = n_k forgives; softmax recomputed, which a mask breaks.
# **Another way.** Σ_j w_j d_weights_j is the dot product of `grad_out` with the output, so that each row needs one
# number: that is what FlashAttention's backward pass keeps.

# %%
dq, dk, dv = attn_ref.attention_backward(asks, x, x, d_out)
plots.bars(dq[0], sentence.FEATURES, "dq: what “sat” hears", "gradient of the loss")

# %% [markdown]
# Ask for more of a thing, it says, and for less of a function word. The keys and the values hear something, too:

# %%
plots.matrices({"dk": dk, "dv": dv}, "The same for keys and values", unit="gradient")

# %% [markdown]
# Every row of dk is the query times one number, ds of that key over √d. Every row of dv is d_out times one number, the
# key's weight.

# %% [markdown]
# ### Agree: measured, spelled out, and attn_ref's
#
# Three witnesses for dq, with sizes that all differ: the Jacobian written out for each query, differences, and `attn_ref`.

# %%
q, k, v = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
grad_out, w = rng.normal(size=(5, 2)), attn_ref.attention(q, k, v, return_weights=True)[1]
reference = attn_ref.attention_backward(q, k, v, grad_out)[0]
tables = [np.diag(row) - np.outer(row, row) for row in w]  # five Jacobians, 7 by 7
written_out = np.array([tables[i] @ (v @ grad_out[i]) @ k / np.sqrt(3) for i in range(5)])
measured = attn_ref.numerical_gradient(lambda y: (attn_ref.attention(y, k, v) * grad_out).sum(), q, 1e-5)
print(f"Jacobian written out: {attn_ref.gradient_error(reference, written_out):.0e}")
print(f"measured:             {attn_ref.gradient_error(reference, measured):.0e}")

# %% [markdown]
# The first agrees to the last digits, and the measured one as far as it can.

# %% [markdown]
# ### Count, then time
#
# Forward there are two matrix products, backward four of the same size: all slopes for the price of about two lookups.
# Differences cost two lookups for *each* number. How many times as long do they take, for q, k and v of 16 rows by 4?

# %%
my_guess = None  # your guess: time by differences over time by hand

# %%
qkv, grad_out = rng.normal(size=(3, 16, 4)), rng.normal(size=(16, 4))


def loss_of(qkv):
    return (attn_ref.attention(*qkv) * grad_out).sum()


ways = {
    "by hand": lambda: attn_ref.attention_backward(*qkv, grad_out),
    "by differences": lambda: attn_ref.numerical_gradient(loss_of, qkv, 1e-5),
}
# most_foreign=100: count every sample, on a busy machine too
compared = attn_ref.bench.measure(ways, repeats=3, sample_s=0.05, most_foreign=100)
print(attn_ref.bench.machine())
print("lookups by differences:", 2 * qkv.size)
guess(my_guess, measured=round(compared.ratio("by differences", "by hand")), unit="times")

# %% [markdown]
# A few hundred times, for 192 numbers. With 1,024 tokens and d = 64 there would be 196,608 of them: differences are for
# checking.

# %% [markdown]
# ## Queries that learn
#
# The gradient points uphill. **Gradient descent** therefore repeats one step: subtract the gradient, times a number called
# the **learning rate**, `lr`. If that is small enough, the loss falls.

# %% [markdown]
# ### Exercise 3.5 · Queries that learn what to ask (7 points · 18 min · about 8 lines)
#
# Write `train_lookup(keys, values, targets, queries, steps, lr)`. Keys (m, d), values (m, d_v) and targets (n, d_v) are
# fixed; training begins at `queries` (n, d). Each step looks up softly with the scale 1/√d, takes the mean of
# (output - target)² over all n · d_v entries as the loss, and moves the queries against its gradient, times lr. Return
# `(queries, losses)`: the queries after the last step, and a list of the losses *before* each step, as many as steps.
# Arrays may hold whole numbers and must stay as they were; a second call begins anew. Build on your functions, or on
# `attention`, `softmax_vjp` and `attention_backward(q, k, v, grad_out)` of `attn_ref`.
#
# By hand, d = 1: keys 2 and 0, values 4 and 0, target 4, query 0. The weights are ½, the output is 2, the loss 4;
# d_out = -4, d_weights = (-16, 0), d_scores = (-4, 4), dq = -8. With lr = 0.25 the query becomes 2.


# %% exercise="3.5"
def train_lookup(keys, values, targets, queries, steps, lr):
    """Gradient descent on the queries of a soft lookup.  -> queries (n, d), the losses before each step"""
    ### BEGIN SOLUTION
    losses = []
    for _ in range(steps):
        out, weights = attn_ref.attention(queries, keys, values, return_weights=True)
        gap = out - targets
        losses.append(float(np.mean(gap**2)))
        dq, _, _ = attention_backward(queries, keys, values, weights, 2 * gap / gap.size)
        queries = queries - lr * dq
    return queries, losses
    ### END SOLUTION


# %% try="3.5"
by_hand = [np.array(one) for one in ([[2.0], [0.0]], [[4.0], [0.0]], [[4.0]], [[0.0]])]
train_lookup(*by_hand, steps=3, lr=0.25)

# %% check="3.5"
check("3.5", train_lookup)

# %% [markdown] teacher="3.5"
# **Why this works.** `queries = queries - ...` binds a new array, so that the caller's stays. **Common wrong turns.** The
# plus sign; `-=`, after which a second call begins where the first stopped; the factor 2 or the division by n · d_v
# forgotten, which a learning rate hides; the loss noted after the step; a loop that stops early. **Another way.** One query
# at a time: the queries do not know of each other.

# %% [markdown]
# Let “sat” take 50 steps with lr = 20. It begins with a sixth of its weight on “cat”.

# %%
my_guess = None  # your guess: the weight on “cat” after 50 steps, between 0 and 1

# %%
history = {}
for count in (0, 2, 5, 10, 20, 50):
    learned, _ = attn_ref.train_lookup(x, x, wanted, asks, count, lr=20.0)
    history[f"{count} steps"] = attn_ref.attention(learned, x, x, return_weights=True)[1][0]
guess(my_guess, measured=history["50 steps"][1].round(3))

# %% [markdown]
# The way there; each row is the same query, later:

# %%
over_time = np.array(list(history.values()))
plots.weights(over_time, list(history), sentence.TOKENS, title="“sat” learns whom to ask")

# %% [markdown]
# Nobody said “take key 1”. “sat” was told how wrong its answers were, and found the route. “mat” keeps a share longest,
# since its row resembles that of “cat”.

# %% [markdown]
# ### The bug that trains
#
# Train once more, with the diagonal alone in place of softmax's slopes. At the beginning the loss is 0.172. Where is it
# after 50 steps?

# %%
my_guess = None  # your guess: the loss after 50 steps with the wrong gradient

# %%
_, right = attn_ref.train_lookup(x, x, wanted, asks, 51, lr=20.0)
wrong, query = [], asks
for _ in range(51):
    out, p = attn_ref.attention(query, x, x, return_weights=True)
    wrong.append(loss(out))
    d_p = 2 * (out - wanted) / wanted.size @ x.T
    query = query - 20.0 * diagonal_alone(p, d_p) @ x / np.sqrt(4)
first = diagonal_alone(weights, d_weights) @ x / np.sqrt(4)
print(f"error of the first wrong gradient: {attn_ref.gradient_error(first, dq):.2f}")
guess(my_guess, measured=round(wrong[-1], 4))

# %% [markdown]
# More than a quarter wrong, by our measure. And yet:

# %%
curves = {"right": right, "diagonal alone": wrong}
plots.lines(range(51), curves, "A right and a wrong gradient", "step", "loss", logy=True)

# %% [markdown]
# It trains. The wrong steps still point downhill on the whole, and without the other curve nobody would suspect
# anything. **A falling loss proves no gradient.** The check against differences takes one line.

# %% [markdown]
# ## Soft and hard, side by side
#
# Now a routing problem: 48 random queries, 16 keys, and for each query a key that it should learn to find. Value j is a
# row with a 1 at place j, so that a soft output *is* the weights.
#
# First, who hears anything in a *hard* lookup? Here are the largest slopes that differences find.

# %%
rng = np.random.default_rng(4)
keys, start, values = rng.normal(size=(16, 8)), rng.normal(size=(48, 8)), np.eye(16)
wants = rng.integers(16, size=48)
targets = values[wants]


def hard_loss(queries, keys, values):
    return np.mean((values[(queries @ keys.T).argmax(axis=1)] - targets) ** 2)


heard = {
    "queries": attn_ref.numerical_gradient(lambda y: hard_loss(y, keys, values), start, 1e-5),
    "keys": attn_ref.numerical_gradient(lambda y: hard_loss(start, y, values), keys, 1e-5),
    "values": attn_ref.numerical_gradient(lambda y: hard_loss(start, keys, y), values, 1e-5),
}
{name: float(np.abs(slopes).max()) for name, slopes in heard.items()}

# %% [markdown]
# The values hear something, so what is read can still be trained. The *routing* cannot: its slopes are 0. (Only where two
# keys tie is there a cliff, and no slope.)
#
# At the start 3 of the 48 queries have the right key as their best, which is what chance gives. How many have it
# after 300 steps of soft training? (lr is large, because the loss is a mean over 48 · 16 entries.)

# %%
my_guess = None  # your guess: how many of the 48 queries have the right key as their best


# %%
def rightly(queries):
    return int(((queries @ keys.T).argmax(axis=1) == wants).sum())


race, losses, queries = {"soft": [], "hard": [rightly(start)] * 31}, [], start
for _ in range(31):
    race["soft"].append(rightly(queries))
    queries, more = attn_ref.train_lookup(keys, values, targets, queries, steps=10, lr=300.0)
    losses += more
guess(my_guess, measured=race["soft"][-1], unit="of 48")

# %% [markdown]
# Beside it, the loss of the hard lookup, which takes the same steps with its own gradient:

# %%
both = {"soft": losses, "hard": [hard_loss(start, keys, values)] * 310}
plots.lines(range(310), both, "48 queries learn their keys, or do not", "step", "loss", logy=True)

# %% [markdown]
# The hard line stays level for ever: 0 times any learning rate is 0. The soft one falls, and never reaches 0, because a
# soft lookup always reads a little of every value.

# %% [markdown]
# ### Too cold, too hot
#
# In chapter 01 a temperature led from soft to hard. Let it divide the dot products, in place of √d. Near 0 the lookup is
# hard, so its gradient must vanish. Take the length of each query's gradient, and the median of the 48. What part of its
# size at temperature ½ is left at 1/16?

# %%
my_guess = None  # your guess: the gradient's length at temperature 1/16 over that at 1/2

# %%
temperatures = 2.0 ** np.arange(-4, 8)
lengths = []
for t in temperatures:
    gap = attn_ref.attention(start, keys, values, scale=1 / t) - targets
    slopes, _, _ = attn_ref.attention_backward(start, keys, values, 2 * gap / gap.size, scale=1 / t)
    lengths.append(np.median(np.linalg.norm(slopes, axis=1)))
guess(my_guess, measured=lengths[0] / lengths[3])

# %% [markdown]
# About a thousandth. Over the whole range, from cold to hot:

# %%
title, label = "What reaches the median query", "length of the gradient"
plots.lines(temperatures, {"dq": lengths}, title, "temperature", label, logx=True, logy=True)

# %% [markdown]
# On the left the rows are certain, mostly of a wrong key: **saturated**, as in chapter 02. On the right all keys look alike,
# and the gradient falls as 1 over the temperature. Routing is learned in between, where √8 ≈ 2.8 lies.

# %% [markdown]
# ## Choose hard, learn anyway
#
# Sometimes a choice must be hard: one expert, one memory cell, one word. Two ways round the flat slopes are in use.
#
# The **straight-through** estimator tells a white lie. Forward, take the best key's value. Backward, act as if the lookup had
# been soft.

# %% [markdown]
# ### Exercise 3.6 · Choose hard, learn soft (5 points · 15 min · about 4 lines)
#
# Write `straight_through(keys, values, targets, queries)` for arrays as in 3.5. Return `(output, dqueries)`. `output`
# (n, d_v) is the value of each query's best key, and the loss is the mean of (output - target)² over all its entries.
# `dqueries` (n, d) is what a soft lookup with the scale 1/√d passes back to the queries, when given the gradient of that
# loss as its d_out. No two scores tie, but the best may lead by very little. Any of the arrays may hold whole numbers, and
# none may be written to. Build on what 3.5 may use.
#
# By hand: keys (1, 0, 0, 0) and (0, 1, 0, 0), values 4 and 0, target 1, query (1, 0, 0, 0). The output is 4, so d_out =
# 2 · (4 - 1) = 6. The soft weights are 0.622 and 0.378, d_weights = (24, 0), d_scores = (5.64, -5.64) and
# dqueries = (2.82, -2.82, 0, 0).


# %% exercise="3.6"
def straight_through(keys, values, targets, queries):
    """The best key's value, and the gradient as if it had been soft.  -> output (n, d_v), dqueries (n, d)"""
    ### BEGIN SOLUTION
    scores = attn_ref.attention_scores(queries, keys)
    out = values[scores.argmax(axis=-1)]
    grad_out = 2 * (out - targets) / out.size
    dqueries, _, _ = attention_backward(queries, keys, values, attn_ref.softmax(scores), grad_out)
    return out, dqueries
    ### END SOLUTION


# %% try="3.6"
two = np.eye(2, 4)
straight_through(two, np.array([[4.0], [0.0]]), np.array([[1.0]]), two[:1])

# %% check="3.6"
check("3.6", straight_through)

# %% [markdown] teacher="3.6"
# **Why this works.** It does not follow from any loss; it is a guess that the soft slopes point the right way for the hard
# error. **Common wrong turns.** The error of the soft output; the one-hot row in softmax's slopes, which gives 0; the argmax
# of the weights, which rounding can make equal where the scores are not; leaving softmax's slopes out, the older form
# (Bengio and others), which is a method of its own. **Another way.** In a framework:
# `soft + stop_gradient(hard - soft)` has the value of the one and the slopes of the other.

# %% [markdown]
# Is it a gradient? Ask the differences, then let it run. How many of 48 choose rightly after 300 steps?

# %%
my_guess = None  # your guess: how many of 48, after 300 straight-through steps

# %%
_, slopes = attn_ref.straight_through(keys, values, targets, start)
print("error against differences:", attn_ref.gradient_error(slopes, heard["queries"]))
race["straight-through"], queries = [], start
for step in range(301):
    if step % 10 == 0:
        race["straight-through"].append(rightly(queries))
    queries = queries - 300.0 * attn_ref.straight_through(keys, values, targets, queries)[1]
guess(my_guess, measured=race["straight-through"][-1], unit="of 48")

# %% [markdown]
# The error is 1: of the hard loss, which is flat, this is no gradient. Now the race:

# %%
plots.lines(range(0, 301, 10), race, "Queries that choose rightly", "step", "of 48")

# %% [markdown]
# The lie does as well as the truth, at first even better. Nothing promises that: it is **biased**, wrong on average too, and
# on other problems it can lead astray.

# %% [markdown]
# ## Learn from tries alone
#
# The other way is honest and noisy. Draw a key by the weights, read its value alone, note the loss. What should fall is the
# loss *on average*, $\sum_j w_j L_j$. Its gradient by the scores is your 3.3, with L in place of `grad`; but a try
# reveals only one L.
#
# Take that L times the vector **one-hot**(j) - w, which is 1 at the drawn place and 0 elsewhere, minus all weights: the
# gradient of $\log w_j$ by the scores. Key j is drawn with probability $w_j$, so on average entry i gets $w_i L_i$, and
# loses $w_i$ times the mean loss: the gradient of 3.3. This is the **score-function** estimate, known as REINFORCE. A
# constant taken from every L, a **baseline**, changes nothing on average, since one-hot(j) - w averages to 0.

# %% [markdown]
# ### Exercise 3.7 · Learn from tries alone (6 points · 15 min · about 3 lines)
#
# Write `sampled_gradient(weights, picks, losses, baseline=0.0)` for one query. `weights` (m,) are its shares. Try i drew the
# key `picks[i]` and led to `losses[i]`, both of shape (n,). Return (m,): the mean over the tries of (loss - baseline) times
# (one-hot(pick) - weights). Keys may be picked several times or never; numbers may be whole. Do not write into the arrays.
#
# By hand: weights (½, ½), picks 0 and 1, losses 1 and 0. The first try gives 1 · (½, -½), the second 0, the mean is
# (¼, -¼): what 3.3 gave for the gradient (1, 0).


# %% exercise="3.7"
def sampled_gradient(weights, picks, losses, baseline=0.0):
    """What tries alone tell about the scores.  weights (m,), picks (n,), losses (n,) -> (m,)"""
    ### BEGIN SOLUTION
    gains = losses - baseline
    directions = np.eye(len(weights))[picks] - weights  # (n, m)
    return (gains[:, None] * directions).mean(axis=0)
    ### END SOLUTION


# %% try="3.7"
print(sampled_gradient(np.array([0.5, 0.5]), np.array([0, 1]), np.array([1.0, 0.0])))
print(sampled_gradient(np.array([0.5, 0.5]), np.array([0, 1]), np.array([1.0, 0.0]), baseline=0.5))

# %% check="3.7"
check("3.7", sampled_gradient)

# %% [markdown] teacher="3.7"
# **Why this works.** Σ_j w_j L_j (δ_ij - w_i) is the expectation of L_J (one-hot(J) - w) for J drawn by w, and equals
# w_i (L_i - Σ w L). **Common wrong turns.** `out[picks] += gains` counts a repeated key once; `losses[pick]`; dividing by the
# weight, which is the slope by the weights. **Another way.** `np.bincount(picks, gains, minlength=m)` and one subtraction.

# %% [markdown]
# How noisy is honest? One query has four keys, with losses 3, 2, 2.5 and 1. The error of an estimate is its distance from
# the exact gradient, divided by the exact gradient's length. What is it, on average, for 1,024 tries without a baseline?

# %%
my_guess = None  # your guess: the relative error after 1,024 tries

# %%
four, key_losses = attn_ref.softmax([1.0, 0.5, 0.0, -0.5]), np.array([3.0, 2.0, 2.5, 1.0])
exact = attn_ref.softmax_vjp(four, key_losses)
rng, counts = np.random.default_rng(7), 4 ** np.arange(1, 8)
noise = {"no baseline": [], "baseline: the mean loss": []}
for n in counts:
    drawn = rng.choice(4, p=four, size=(50, n))  # 50 estimates from n tries each
    for name, base in zip(noise, (0.0, four @ key_losses), strict=True):
        found = [attn_ref.sampled_gradient(four, picks, key_losses[picks], base) for picks in drawn]
        misses = np.linalg.norm(np.array(found) - exact, axis=1)
        noise[name].append(misses.mean() / np.linalg.norm(exact))
guess(my_guess, measured=noise["no baseline"][4])

# %% [markdown]
# With a baseline, the mean loss, and for other numbers of tries:

# %%
plots.lines(counts, noise, "How far tries miss", "tries", "relative error", logx=True, logy=True)

# %% [markdown]
# Four times the tries for half the error, on both lines. The baseline's lies about four times lower, which is worth some
# sixteen times the tries. Let the 48 queries learn so, from a single try each at every step:

# %%
rng, queries, usual = np.random.default_rng(9), start, 0.1  # a first baseline
for _ in range(300):
    shares = attn_ref.attention(queries, keys, values, return_weights=True)[1]
    drawn = [[rng.choice(16, p=row)] for row in shares]
    tried = np.mean((values[drawn][:, 0] - targets) ** 2, axis=1, keepdims=True)
    slopes = map(attn_ref.sampled_gradient, shares, drawn, tried, [usual] * 48)
    queries = queries - 300.0 / 48 * np.array(list(slopes)) @ keys / np.sqrt(8)  # the loss is a mean over 48 queries
    usual = tried.mean()  # the baseline of the next step
race["tries\nalone"] = [rightly(queries)]
ends = {name.replace("-", "-\n"): counted[-1] for name, counted in race.items()}
plots.bars(list(ends.values()), list(ends), "Right choices after 300 steps", "of 48", limit=55)

# %% [markdown]
# Most arrive. The others lean on a wrong key, hardly ever draw the right one, and so do not learn that it would be
# better. “Hard routing cannot be trained” is true of the plain gradient of the choice, and goes no further.

# %% [markdown]
# ## Check yourself

# %% quiz="3.a"

# %% quiz="3.b"

# %% quiz="3.c"

# %% quiz="3.d"

# %% [markdown]
# ### Question 3.w · “The framework will see to it” (4 points · 10 min)
#
# A colleague puts an argmax in the place of softmax: “Reading one value is cheaper than averaging all, the framework
# differentiates the rest, and my loss does fall.” Answer in five to eight sentences: what queries, keys and values still
# hear, how the loss can fall, what you would measure to show it, and what you would do instead, at which price.

# %% [markdown] written="3.w"
# ### BEGIN SOLUTION
# **4 points.** The framework differentiates what it is given, and the argmax does not change under a small nudge: queries
# and keys get a gradient of exactly 0 (at ties there is none). The value that was read passes through unchanged, so
# values are trained, and whatever comes after the lookup too. That is how the loss falls: each key's value becomes the best
# compromise for the queries that happen to choose it, and the routes stay those of the random start. I would count how many
# queries change their best key during training, or measure the gradient of a few queries by differences: 0 in both cases.
# To train the choice I would use the soft lookup and pay for reading all values; or straight-through, which reads one value
# forward, all on the way back, and is biased; or tries with a baseline, right on average, of which it takes many. In the
# chapter's race soft and straight-through learned all 48 routes.
#
# **3 points.** Argmax is flat, so q and k get no gradient and only v learns. The loss falls because the values adapt to the
# wrong routes. I would use a straight-through estimator, which passes the soft gradient back, although it is biased.
#
# **2 points.** You cannot differentiate an argmax, the gradient is cut there, so the model cannot be trained like this. The
# loss falls by chance.
#
# **1 point.** Hard attention loses information from the other values, soft attention is more expressive and stable.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# PyTorch records the operations of a forward pass and walks back through the record (**automatic differentiation**), with a
# function such as your 3.3 for each. `torch.autograd.gradcheck` is your 3.1 and 3.2: central differences, by default with
# ε = 10⁻⁶, and meant for float64.
#
# A mixture of experts sends each token to its best few experts (Shazeer 2017) or to one (Switch Transformer 2021); the
# chosen output is multiplied by its weight, and through that factor the choice is learned. VQ-VAE (2017) picks codes with a
# straight-through gradient.

# %% [markdown]
# ## Takeaways
#
# - A hard lookup's loss ignored all 8 nudges of its query; a soft one's answered all 8. Slopes of 0 teach nothing.
# - Central differences are best near ε = 10⁻⁵ and then agree to nine digits or more; an error of 10⁻³ suggests a bug.
# - Through softmax, a score hears how its key compares with the row's average: equal gradients (3, 3) become (0, 0).
# - A wrong gradient can train: with the diagonal alone the loss fell from 0.17 to under 0.01.
# - Soft and straight-through training learned all 48 routes, single tries most of them; plain hard training kept its first 3.

# %%
progress(3)

# %% [markdown]
# ## Further reading
#
# - Rumelhart, Hinton and Williams, *Learning representations by back-propagating errors* (1986).
# - Baydin and others, *Automatic Differentiation in Machine Learning: a Survey* (2018).
# - Williams, *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning* (1992): REINFORCE.
# - Bengio, Léonard and Courville, *Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
#   Computation* (2013): straight-through, which they credit to a lecture of Hinton's (2012).
# - Xu and others, *Show, Attend and Tell* (2015): soft attention, and hard attention by REINFORCE.
# - van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning* (2017): VQ-VAE.
# - Shazeer and others, *Outrageously Large Neural Networks* (2017); Fedus, Zoph and Shazeer, *Switch Transformers* (2021).
#
# Next: chapter 04, where not everybody may look at everybody.
