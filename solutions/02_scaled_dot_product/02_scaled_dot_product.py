# %% [markdown]
# # 02 · Scaled dot-product attention
#
# You write the whole of softmax(q kᵀ / √d) v, line by line, and measure why the √d stands in it.
#
# 90 min · CPU · NumPy · needs 01

# %% [markdown]
# When you have finished, you will be able to
#
# - turn any scores into shares that sum to 1, without overflow and without NaN;
# - write attention for a batch of any shape, and say the shape of every array in it;
# - show with numbers of your own what the division by √d is for.

# %%
import numpy as np

import attn_ref
from attn_ref import plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## Noise that is certain of itself
#
# In chapter 01 a query met every key in a dot product, softmax turned the results into weights, and the weights
# averaged the values. Try that on vectors that mean nothing: one query and 16 keys of 1,024 random numbers, like those of
# a model before its first step of training.
#
# No key means more than another. If the weights knew that, each would be 1/16 ≈ 0.06. How large is the largest?

# %%
my_guess = None  # your guess: the largest of the 16 weights, between 0.06 and 1

# %%
rng = np.random.default_rng(0)
q, k = rng.normal(size=(1, 1024)), rng.normal(size=(16, 1024))
scores = attn_ref.attention_scores(q, k, scale=1.0)  # the dot products as they are
noise_weights = attn_ref.softmax(scores)[0]
guess(my_guess, measured=noise_weights.max())

# %% [markdown]
# Beside it, the same with d = 1, where d is the length of the vectors. Each curve shows 16 weights, the largest first.

# %%
q_short, k_short = rng.normal(size=(1, 1)), rng.normal(size=(16, 1))
short_weights = attn_ref.softmax(attn_ref.attention_scores(q_short, k_short, scale=1.0))[0]
ranked = {"d = 1": np.sort(short_weights)[::-1], "d = 1024": np.sort(noise_weights)[::-1]}
plots.lines(range(1, 17), ranked, "One random query, 16 random keys", "rank of the key", "weight")

# %% [markdown]
# With d = 1 all keys get something. With d = 1024 one key takes everything: a model that has learned nothing is already
# certain. By the end of the chapter you will know why, and why such a model hardly learns.

# %% [markdown]
# ## Scores: how well does each key fit?
#
# The course follows one sentence of six tokens. Each token is a vector of four numbers, made by hand so that you can
# check every step on paper.

# %%
x = sentence.EMBEDDINGS
plots.matrix(x, rows=sentence.TOKENS, columns=sentence.FEATURES, title="The sentence")

# %% [markdown]
# A row is a token, a column a feature: “cat” is a thing, “on” speaks of a place. Chapter 01 made queries, keys and
# values from such rows with three matrices. Here all three are the rows themselves, so that nothing hides the
# arithmetic.
#
# Let “sat” ask. Its **score** with a key is the dot product of the two vectors. With “cat” that is
# 0.1 · 1.0 + 1.0 · 0.2 + 0.3 · 0 + 0 · 0 = 0.30.

# %%
sat_scores = x @ x[2]
plots.bars(sat_scores, sentence.TOKENS, title="Scores of “sat”", ylabel="score", limit=1.3)

# %% [markdown]
# “sat” fits itself best, with 1.10, and then “on”, with 0.40. A score may be any real number, negative ones included, and
# a row of scores has no fixed total. So a score cannot say *how much* to read from a token.

# %% [markdown]
# ## Softmax hands out shares
#
# What is wanted is a **weight** for each key: a share, never negative, all shares of a query summing to 1. Softmax
# gets there in two steps. It makes every score positive with exp, then divides by the total:
#
# $$w_j = \frac{e^{s_j}}{\sum_k e^{s_k}}$$
#
# Two scores, 0 and log 3, become the exponentials 1 and 3. Their total is 4, so the weights are 0.25 and 0.75.

# %%
sat_weights = attn_ref.softmax(sat_scores)
both = {"score": sat_scores, "weight": sat_weights}
plots.bars(both, sentence.TOKENS, "“sat” before and after softmax", "score or weight", limit=1.3)

# %% [markdown]
# The order is the same and the units are not. “the” has a score of 0.01 and still receives a weight of 0.11: a score
# of zero is a score like any other, not a ban.
#
# Read a row of weights as a **budget**: each query has exactly 1 to spend, as a machine divides its processor time among
# programs. The analogy breaks in two places. Reading a value does not use it up, so all queries may spend everything on
# one key. And nothing can be saved: a query that fits no key must still spend its 1.

# %% [markdown]
# ### Softmax sees only differences
#
# Add 100 to every score. Each exponential grows by the factor e¹⁰⁰, the total grows by the same factor, and the
# quotient does not change. Multiply every score by 4 instead, and the differences grow with them.

# %%
shifted = attn_ref.softmax(sat_scores + 100)
stretched = attn_ref.softmax(sat_scores * 4)
print("largest change after adding 100:", np.abs(shifted - sat_weights).max())
three = {"scores": sat_weights, "scores + 100": shifted, "scores × 4": stretched}
plots.bars(three, sentence.TOKENS, title="Weights of “sat”", limit=1)

# %% [markdown]
# The first two bars of each token are equal but for rounding. The third is not: the factor 4 moved most of the budget
# to “sat”. A shift is invisible to softmax; a factor decides how sharp it is. √d is such a factor.

# %% [markdown]
# ### Exercise 2.1 · Scores become shares (6 points · 15 min · about 5 lines)
#
# Write `softmax(x, axis=-1)`. It takes an array of scores, whole numbers or not, of any shape and returns shares of the
# same shape. Each slice along `axis`, such as one row, sums to 1. Scores may be in the thousands, and may lie thousands
# apart, within a slice and between slices. -inf will come to mean “forbidden”: a slice of nothing but -inf gets shares
# of 0. `x` itself must stay as it was, and as everywhere in the course the result keeps its precision (float64 here).
#
# By hand: `softmax([[0, log 3]])` is `[[0.25, 0.75]]`.


# %% exercise="2.1"
def softmax(x, axis=-1):
    """Shares along one axis.  (...) -> (...), summing to 1 along `axis`; all 0 where every score is -inf."""
    ### BEGIN SOLUTION
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isneginf(largest), 0.0, largest)  # -inf - -inf would be NaN
    exponentials = np.exp(x - largest)
    total = exponentials.sum(axis=axis, keepdims=True)
    return exponentials / np.where(total > 0, total, 1.0)
    ### END SOLUTION


# %% try="2.1"
print(softmax(np.array([[0.0, np.log(3.0)]])))
plots.weights(softmax(np.array([[1.0, 2.0, 3.0], [1000.0, 1001.0, 1002.0], [-np.inf, 0.0, -np.inf]])))

# %% check="2.1"
check("2.1", softmax)

# %% [markdown] teacher="2.1"
# **Why this works.** Softmax sees only differences, so the row's maximum may be subtracted. Every exponent is then 0 or
# less: nothing overflows, and one exponential is exactly 1, so the total is at least 1. **Common wrong turns.** One
# maximum for the whole array passes every test on rows of similar size. `keepdims` is forgotten on square arrays
# without an error. `x -= x.max(...)` writes into the caller's scores. **Another way.** exp(x - logsumexp(x)).

# %% [markdown]
# ### The total has a use of its own
#
# Softmax throws its total away after the division. The logarithm of that total is worth keeping: **log-sum-exp**, one
# number for a whole row. Here it is for a row of two scores, 0 and s.

# %%
s = np.linspace(-6, 6, 61)
pairs = np.stack([np.zeros_like(s), s], axis=-1)
curves = {"max(0, s)": pairs.max(axis=-1), "log-sum-exp": attn_ref.logsumexp(pairs)}
plots.lines(s, curves, "A row of two scores, 0 and s", "s", "value")

# %% [markdown]
# Log-sum-exp is a maximum with its corner rounded off. It lies above the maximum, most of all where both scores are
# equal: there the gap is log 2 ≈ 0.69. For a row of n scores the gap is at most log n.

# %% [markdown]
# ### Exercise 2.2 · The logarithm of the total (5 points · 10 min · about 4 lines)
#
# Write `logsumexp(x, axis=-1)`: the logarithm of the sum of exp(x) along `axis`. That axis is gone from the result, so
# (5, 3) becomes (5,) and (1, 3) becomes (1,). The scores are as in 2.1.
# A slice of nothing but -inf gives -inf, the logarithm of 0. `x` itself must stay as it was.
#
# By hand: the row (0, 0) gives log 2 ≈ 0.6931, and the row (0, log 3) gives log 4 ≈ 1.3863.


# %% exercise="2.2"
def logsumexp(x, axis=-1):
    """log of the sum of exp(x) along one axis, which is removed.  (..., n, ...) -> (..., ...)"""
    ### BEGIN SOLUTION
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    with np.errstate(divide="ignore"):  # log(0) = -inf is the answer for an empty slice
        log_total = np.log(np.exp(x - largest).sum(axis=axis))
    return log_total + np.squeeze(largest, axis=axis)
    ### END SOLUTION


# %% try="2.2"
print(logsumexp(np.array([[0.0, 0.0], [0.0, np.log(3.0)]])))
print(logsumexp(np.array([[1000.0, 1000.0]])))

# %% check="2.2"
check("2.2", logsumexp)

# %% [markdown] teacher="2.2"
# **Why this works.** exp(m) is a common factor of the sum; the logarithm turns it into the summand m. **Common wrong
# turns.** Adding a maximum of shape (n, 1) to a sum of shape (n,) gives an (n, n) grid without an error. Forgetting to
# add the maximum back passes where the maximum is near 0. **Another way.** `np.logaddexp.reduce`.

# %% [markdown]
# A weight can be had back from its score and this one number, because exp(s) / total is exp(s - log total). Chapter 10
# stores only this number for each row.

# %%
rebuilt = np.exp(sat_scores - attn_ref.logsumexp(sat_scores))
print("largest difference from softmax:", np.abs(rebuilt - sat_weights).max())

# %% [markdown]
# ## All queries at once
#
# “sat” asked alone. The scores of all queries are one matrix product, q kᵀ, where kᵀ is k with its two axes exchanged.
# Each score is then divided by √d, here √4 = 2. You will measure the reason below.

# %%
scores = attn_ref.attention_scores(x, x)
plots.scores(scores, sentence.TOKENS, sentence.TOKENS, title="q kᵀ / √d")

# %% [markdown]
# Queries go down and keys go across. The row of “sat” holds half of the scores you saw: 0.15 for “cat” instead of 0.30.
# The table is symmetric because queries and keys are the same vectors here; with matrices of their own they would not be.

# %% [markdown]
# ### Only the last two axes take part
#
# Models treat many sentences at once and stack them along leading axes: q is (batch, n_q, d), or (batch, heads, n_q, d)
# from chapter 06 on. Every leading entry has a table of its own. `@` already works that way; `.T`, which many tutorials
# write, does not.

# %%
k_batch = np.zeros((2, 3, 4, 7))  # 2 sentences, 3 heads, 4 keys, d = 7
print("k:  ", k_batch.shape)
print("k.T:", k_batch.T.shape)

# %% [markdown]
# `.T` has reversed all four axes, sentences and features included. The product needs (2, 3, 7, 4).

# %% [markdown]
# ### Exercise 2.3 · Every query meets every key (6 points · 8 min · about 3 lines)
#
# Write `attention_scores(q, k, scale=None)`. q is (..., n_q, d) and k is (..., n_k, d) with the same leading axes, of
# which there may be none. The result is (..., n_q, n_k): each dot product times `scale`. `scale=None` stands for 1/√d.
# Any number that is given takes its place, 0 and negative numbers too. q and k may hold whole numbers, and must stay as
# they were.
#
# By hand: q = (2, 0, 0, 0) and k = (3, 0, 0, 0) have the dot product 6 and d = 4, so the score is 3. With `scale=-1` it
# is -6.


# %% exercise="2.3"
def attention_scores(q, k, scale=None):
    """How well each key fits each query.  (..., n_q, d), (..., n_k, d) -> (..., n_q, n_k)"""
    ### BEGIN SOLUTION
    if scale is None:
        scale = q.shape[-1] ** -0.5
    return q @ np.swapaxes(k, -1, -2) * scale
    ### END SOLUTION


# %% try="2.3"
one_query = np.array([[2.0, 0.0, 0.0, 0.0]])
two_keys = np.array([[3.0, 0.0, 0.0, 0.0], [1.0, 5.0, 0.0, 0.0]])
print(attention_scores(one_query, two_keys))
print(np.shape(attention_scores(np.ones((2, 3, 5, 7)), np.ones((2, 3, 4, 7)))))

# %% check="2.3"
check("2.3", attention_scores)

# %% [markdown] teacher="2.3"
# **Why this works.** `@` contracts the last axis of the left array with the last but one of the right and carries every
# axis before them along. **Common wrong turns.** `scale or ...` treats 0 as missing. `.T` and `transpose(0, 2, 1)` fit
# one number of axes only. d is read from `shape[1]`. **Another way.** `np.einsum("...qd,...kd->...qk", q, k)`. Note for
# NumPy 2: `np.sqrt(d)` is a float64 and turns float32 scores into float64; `d ** -0.5` does not.

# %% [markdown]
# ## Weights, and what they read
#
# Two steps remain: softmax along each row of scores, and an average of the values by the weights.

# %%
out, weights = attn_ref.attention(x, x, x, return_weights=True)
plots.weights(weights, sentence.TOKENS, sentence.TOKENS, title="softmax(q kᵀ / √d)")

# %% [markdown]
# Every row sums to 1. The columns do not, and the symmetry is gone, because each row was divided by a total of its own.
# The two rows of “the” are equal: equal queries ask the same question. All weights lie between 0.12 and 0.25, since
# these scores differ by less than 1.

# %%
plots.matrix(out, rows=sentence.TOKENS, columns=sentence.FEATURES, title="softmax(q kᵀ / √d) v")

# %% [markdown]
# Each row is a token after reading the others. “sat” had no “function” in it and now carries 0.36, collected from “the”
# and “on”.

# %% [markdown]
# ### Exercise 2.4 · The whole formula (6 points · 6 min · about 3 lines)
#
# Write `attention(q, k, v)`, which returns the pair `(output, weights)`. q is (..., n_q, d), k is (..., n_k, d), v is
# (..., n_k, d_v), with the same leading axes or none, and d_v may differ from d. The output is (..., n_q, d_v), the
# weights are (..., n_q, n_k). The scale is 1/√d. Scores may be in the thousands, inputs may be whole numbers. No input
# may be written to.
#
# Build on your `softmax` and `attention_scores`, or on those of `attn_ref`. By hand: q = (2, 0, 0, 0), keys
# (0, 0, 0, 0) and (log 3, 0, 0, 0), values (4, 0, 0, 0) and (8, 0, 0, 4). The scores are 0 and log 3, the weights 0.25
# and 0.75, the output (7, 0, 0, 3).


# %% exercise="2.4"
def attention(q, k, v):
    """Every query reads the values by its weights.  -> output (..., n_q, d_v), weights (..., n_q, n_k)"""
    ### BEGIN SOLUTION
    weights = softmax(attention_scores(q, k), axis=-1)
    return weights @ v, weights
    ### END SOLUTION


# %% try="2.4"
my_out, my_weights = attention(x, x, x)
plots.weights(my_weights, sentence.TOKENS, sentence.TOKENS, title="yours")

# %% check="2.4"
check("2.4", attention)

# %% [markdown] teacher="2.4"
# **Why this works.** The three steps are functions already; what remains is their order and the axis of softmax.
# **Common wrong turns.** Softmax over the queries: on the symmetric scores of the sentence the map looks plausible, and
# only the row sums tell. A pair in the wrong order. d_v in place of d under the root. **Another way.** Multiply the
# exponentials by v first and divide the output by the total at the end: fewer divisions, and the way of chapter 10.

# %% [markdown]
# ### Agree: loops say the same
#
# Three plain loops are slow and hard to get wrong, so they make a good witness.

# %%
looped = np.zeros((6, 4))
for i in range(6):
    shares = [np.exp(sum(x[i, f] * x[j, f] for f in range(4)) / 2) for j in range(6)]
    for j in range(6):
        looped[i] += shares[j] / sum(shares) * x[j]
print("loops against attn_ref:", np.abs(looped - out).max())
print("same:", np.allclose(looped, out))

# %% [markdown]
# ### Break it: a bug that this sentence cannot show
#
# The function below takes the root of the wrong length, that of the *values*.


# %%
def root_of_d_v(q, k, v):
    """Attention with a planted bug."""
    return attn_ref.attention(q, k, v, scale=v.shape[-1] ** -0.5, return_weights=True)


print("change on the sentence:", np.abs(root_of_d_v(x, x, x)[1] - weights).max())

# %%
check("2.4", root_of_d_v)

# %% [markdown]
# On the sentence the bug is invisible, because values and keys are both 4 long. One criterion gives the values another
# length; it catches the bug, and the card names it.

# %% [markdown]
# ### Count
#
# A score costs d multiplications, and reading the values costs d_v for each weight. Both happen n_q · n_k times.

# %%
for n, d in ((6, 4), (4096, 64)):
    print(f"n = {n}, d = {d}: {n * n * 2 * d:,} multiplications for {n * n:,} weights")
print("4096 · 4096 weights in float32:", 4096 * 4096 * 4 / 2**20, "MiB")

# %% [markdown]
# Twice the tokens make four times the weights, whatever d is.

# %% [markdown]
# ## Why √d: scores of long vectors spread
#
# Back to the noise. A dot product of random vectors is a sum of d products, each as likely positive as negative. How far
# does the sum stray? The **standard deviation**, the root of the mean squared distance from the mean, measures that.
# Take vectors of 64 standard normal numbers (mean 0, standard deviation 1): what will it be?

# %%
my_guess = None  # your guess: the standard deviation of q·k for d = 64; it is measured after 2.5

# %% [markdown]
# ### Exercise 2.5 · How far the scores spread (4 points · 8 min · about 4 lines)
#
# Write `logit_std(d, scaled, rng, n=10_000)`. (A **logit** is a score on its way into softmax.) Draw n pairs (q, k) of
# vectors with d standard normal numbers, all from `rng`, a NumPy `Generator`. Return the standard deviation of the n dot
# products, each divided by √d if `scaled` is true, as a float, without rounding.
#
# It is a measurement: equal generators give equal answers; a second call on the same generator, or one pair more, gives a
# slightly different one. Estimates from few pairs scatter, and a single pair has no spread (0, or NaN).
#
# By hand, for two dot products, 6 and -2: their mean is 2, both lie 4 away, so the standard deviation is 4. (Dividing by
# n - 1 in place of n is accepted.)


# %% exercise="2.5"
def logit_std(d, scaled, rng, n=10_000):
    """Standard deviation of q·k (over √d if `scaled`) for n pairs of standard normal vectors.  -> float"""
    ### BEGIN SOLUTION
    q = rng.normal(size=(n, d))
    k = rng.normal(size=(n, d))
    dots = np.einsum("nd,nd->n", q, k)
    return float(np.std(dots / np.sqrt(d) if scaled else dots))
    ### END SOLUTION


# %% try="2.5"
print(logit_std(16, False, np.random.default_rng(1)), logit_std(16, True, np.random.default_rng(1)))

# %% check="2.5"
check("2.5", logit_std)

# %% [markdown] teacher="2.5"
# **Why this works.** Each product q_i k_i has mean 0 and variance 1; d independent ones sum to variance d. The check's
# tolerance follows from the standard error of a sample standard deviation (see the definition). How much 150 estimates
# from 20 pairs scatter tells dot products from numbers drawn with the right spread. **Common wrong turns.** `q @ k.T`
# makes n² dot products, 800 MB for the default n. `np.random.normal` ignores the generator that was passed.
# **Another way.** One pair at a time in a loop, or scale q before the product.

# %%
rng = np.random.default_rng(64)
q, k = rng.normal(size=(2, 500, 64))
dots = attn_ref.attention_scores(q, k, scale=1.0)  # each of 500 queries with each of 500 keys
guess(my_guess, measured=dots.std())

# %% [markdown]
# The measured value is close to 8, the root of 64. **Variance**, the square of the standard deviation, adds up over
# independent summands. Each product q_i k_i has variance 1, so d of them have variance d and a spread of √d. Positive
# and negative products cancel in part, which is why the spread is not 64.

# %%
few = attn_ref.attention_scores(q[:, :4], k[:, :4], scale=1.0)
spreading = {"d = 4": few.ravel(), "d = 64": dots.ravel(), "d = 64, over √d": dots.ravel() / 8}
plots.histogram(spreading, title="Scores of random vectors", xlabel="score", bins=81)

# %% [markdown]
# The wide dashed curve is d = 64 without scaling: two scores often differ by 10, and e¹⁰ is 22,000. Divided by √64, the
# dash-dotted curve is back at a spread of 1.

# %%
sizes = 2 ** np.arange(11)
vectors = [rng.normal(size=(2, 300, d)) for d in sizes]
spread = np.array([attn_ref.attention_scores(q, k, scale=1.0).std() for q, k in vectors])
both = {"q·k": spread, "q·k / √d": spread / np.sqrt(sizes)}
plots.lines(sizes, both, "Spread of the scores", "d", "standard deviation", logx=True, logy=True)

# %% [markdown]
# Both axes are logarithmic, so √d is a straight line: each factor of 4 in d doubles the spread. The scaled line stays
# flat, and division by d would send it down.
#
# The argument assumes independent entries of mean 0 and variance 1. At the start of training that holds roughly. Later nothing
# enforces it: a model can grow its queries and keys, and some do.

# %% [markdown]
# ## What large scores do to learning
#
# Training nudges scores. How much a weight moves when a score is nudged is a slope, and softmax has a table of them, its
# **Jacobian**: row i, column j holds the slope of weight i by score j. For weights p it is diag(p) - p pᵀ, that is,
# p_i (1 - p_i) on the diagonal and -p_i p_j elsewhere. Here it is for “sat”, without scaling.

# %%
jacobian = np.diag(sat_weights) - np.outer(sat_weights, sat_weights)
title = "How weights (rows) follow scores (columns)"
plots.matrix(jacobian, sentence.TOKENS, sentence.TOKENS, title, unit="slope")

# %% [markdown]
# The diagonal is positive: a higher score earns a larger weight. The rest is negative, since others must pay for it.
# The **loss** is the number that training makes small; the **gradient** of a score says how much the loss changes when
# the score is nudged. The gradient of the weights, multiplied by this table, is the gradient of the scores: small
# entries, small gradient.
#
# Suppose a row is nearly certain, and one weight is 0.999. What is the slope p (1 - p) of that weight?

# %%
my_guess = None  # your guess: the slope at p = 0.999 (for comparison, at p = 0.5 it is 0.25)

# %%
p = np.array([0.999, 0.001])
guess(my_guess, measured=(np.diag(p) - np.outer(p, p)).max())

# %% [markdown]
# About a thousandth, 250 times less than at ½. This is **saturation**: the more certain a row is, the less of an error
# reaches its scores, even if it is certain of the wrong key. The picture takes 500 random rows of 16 scores and lets
# their spread grow. It shows the **median**: half of the rows have a smaller slope.

# %%
spreads = 2.0 ** np.arange(-3, 7)
rows = np.random.default_rng(16).normal(size=(500, 16))
p = attn_ref.softmax(spreads[:, None, None] * rows)  # (10 spreads, 500 rows, 16 keys)
slope = np.median((p * (1 - p)).max(axis=-1), axis=-1)  # the largest entry is on the diagonal
title = "Largest entry of softmax's Jacobian"
plots.lines(spreads, {"slope": slope}, title, "spread of the scores", "median of 500 rows", logx=True, logy=True)

# %%
for d in (1, 16, 64, 128, 1024):
    p = attn_ref.softmax(np.sqrt(d) * rows)
    slope = np.median((p * (1 - p)).max(axis=-1))
    at_one = slope if d == 1 else at_one
    print(
        f"d = {d:4}, unscaled: spread {np.sqrt(d):4.1f}, slope {slope:.6f}, {at_one / slope:8,.1f} times less than at 1"
    )

# %% [markdown]
# The slope rises while the rows begin to prefer a key, and then falls off a cliff. Division by √d keeps the spread at
# 1. Up to 4 (d = 16 unscaled) nothing is lost. Against a spread of 1, a spread of 8 (d = 64) costs a factor of 2.6, one
# of 11.3 (d = 128) a factor of 8, and one of 32 (d = 1024) a factor of over 13,000. There the rows prefer a key by accident, and training can hardly change their mind.

# %% [markdown]
# ## How undecided is a row?
#
# One number for the certainty of a row is its **entropy**, $H = -\sum_j w_j \log w_j$ (Shannon 1948). With the natural
# logarithm its unit is the nat. It is 0 if one key has everything and log n_k if all keys share equally; exp(H) can be
# read as the number of keys that share.

# %% [markdown]
# ### Exercise 2.6 · How undecided is a row? (4 points · 6 min · about 2 lines)
#
# Write `weights_entropy(weights)`. It takes weights (..., n_k) and returns the entropy of each row in nats, shape (...).
# A weight of 0 adds 0, which is the limit of w log w. Rows may hold whole numbers, as a hard lookup's (0, 1, 0) does.
# An error of a millionth does no harm. `weights` must stay as it was.
#
# By hand: (½, ½) gives log 2 ≈ 0.6931; (¼, ¾) gives ¼ log 4 + ¾ log (4/3) ≈ 0.5623; (1, 0) gives 0. A printed -0. is
# 0 too and costs nothing.


# %% exercise="2.6"
def weights_entropy(weights):
    """How undecided each row is, in nats.  (..., n_k) -> (...)"""
    ### BEGIN SOLUTION
    logs = np.log(np.where(weights > 0, weights, 1))  # log 1 = 0 in place of log 0 = -inf
    return 0.0 - (weights * logs).sum(axis=-1)  # 0.0 - x, so that a certain row reads 0.0 and not -0.0
    ### END SOLUTION


# %% try="2.6"
weights_entropy(np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]))

# %% check="2.6"
check("2.6", weights_entropy)

# %% [markdown] teacher="2.6"
# **Why this works.** Where a weight is 0 the factor 0 decides the product, so the logarithm may be anything finite.
# **Common wrong turns.** An epsilon of 1e-3 inside the logarithm bends every value; log2 gives bits; `mean` for `sum`.
# **Another way.** `scipy.special.entr(weights).sum(-1)`, or `np.nan_to_num` after the product.

# %% [markdown]
# Now the noise of the beginning in one picture: 200 random rows for each d.

# %%
rng = np.random.default_rng(2)
noise = {"no scaling": [], "over √d": [], "all equal: log 16": np.full(len(sizes), np.log(16))}
for d in sizes:
    q, k = rng.normal(size=(200, 1, d)), rng.normal(size=(200, 16, d))
    for name, scale in (("no scaling", 1.0), ("over √d", None)):
        p = attn_ref.softmax(attn_ref.attention_scores(q, k, scale))
        noise[name].append(attn_ref.weights_entropy(p).mean())
plots.lines(sizes, noise, "Random rows of 16 keys", "d", "mean entropy (nats)", logx=True)

# %%
print("at d = 1024:", {name: round(float(values[-1]), 2) for name, values in noise.items()})

# %% [markdown]
# Without scaling the entropy falls towards 0, which is the lone key of the beginning. Divided by √d it stays near
# 2.4 nats whatever d is: exp(2.4) ≈ 11 of the 16 keys share. The certainty came from the length of the vectors, and not
# from the keys.

# %% [markdown]
# ## Check yourself

# %% quiz="2.a"

# %% quiz="2.b"

# %% quiz="2.c"

# %% quiz="2.d"

# %% [markdown]
# ### Question 2.w · Is the division cosmetic? (4 points · 10 min)
#
# A colleague says: “Dividing the scores by √d is cosmetic. Every score of a row is divided by the same number, so the
# best key stays the best.” Take d = 128 and answer them in five to eight sentences: what stays, what changes at the
# first step of training, how that reaches the gradient, and what your argument assumes.

# %% [markdown] written="2.w"
# ### BEGIN SOLUTION
# **4 points.** The ranking stays, that is true: a positive factor keeps the order. What changes is the distance. If the
# entries of q and k are independent with variance 1, q·k is a sum of 128 products of variance 1, so its spread is
# √128 ≈ 11 instead of 1. Softmax sees differences, and a lead of 11 is a factor of e¹¹ ≈ 60,000, so most rows give
# nearly everything to one key before anything has been learned. The slope of softmax is p(1 - p), 0.25 at most and near
# 0 for a certain row; in the chapter's random rows it is 0.02 at a spread of 11 and 0.17 at 1. So an eighth of the
# gradient reaches the scores, and the random choice is harder to unlearn. Divided by √128 the spread is 1 and the slope
# stays near its useful range. The argument holds at initialisation; later q and k may be
# correlated or longer, and then the division is not enough.
#
# **3 points.** The order of the keys stays the same, but the scores get larger with d, like √d. Then softmax saturates:
# one weight is nearly 1 and the others nearly 0. The gradient of softmax is p(1 - p), which is close to 0 there, so the
# model learns slowly. Dividing by √d keeps the spread at 1.
#
# **2 points.** Without it the numbers in softmax become big for big d, so the largest key takes everything. That makes
# attention too sharp, more like a hard lookup.
#
# **1 point.** It normalises the scores so that exp does not overflow and the weights add up to 1.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# PyTorch's `scaled_dot_product_attention` (version 2.0, 2023) is your `attention` with masks; it returns the output
# alone. One of the programs behind it is FlashAttention (2022), which never stores the full table of weights; its
# second version (2023) keeps one log-sum-exp for each row instead.
#
# Keeping scores in range did not end with √d. Gemma 2 (2024) passes its attention logits through 50 · tanh(logit / 50),
# so that none leaves ±50; this is **soft-capping**. **QK-norm** (2020) normalises each query and key before the dot
# product. ViT-22B (2023) needed it because large logits gave nearly all weight to one key and made training diverge;
# Gemma 3 (2025) uses it in place of soft-capping.

# %% [markdown]
# ## Takeaways
#
# - Softmax sees only differences: adding 100 to the scores of “sat” changed no weight by more than 10⁻¹², and a factor of
#   4 raised its largest from 0.32 to 0.85.
# - The spread of q·k grows as √d: about 8 for d = 64, and 1 after the division.
# - A certain row hardly learns: at p = 0.999 the slope is 0.001, a 250th of what it is at ½.
# - Sixteen random keys at d = 1024 have a mean entropy of 0.07 nats unscaled and 2.36 with √d, out of 2.77.
# - A test with d_v = d cannot see d_v under the root: on the sentence that bug changed the weights by 0.

# %%
progress(2)

# %% [markdown]
# ## Further reading
#
# - Vaswani and others, *Attention Is All You Need* (2017), section 3.2.1; the variance argument is its footnote 4.
# - Bridle, *Probabilistic Interpretation of Feedforward Classification Network Outputs* (1990): the name “softmax”.
# - Blanchard, Higham and Higham, *Accurately computing the log-sum-exp and softmax functions* (2021).
# - Henry and others, *Query-Key Normalization for Transformers* (2020); Dehghani and others, *Scaling Vision Transformers
#   to 22 Billion Parameters* (2023); Gemma Team, *Gemma 2* (2024), *Gemma 3 Technical Report* (2025).
# - Dao and others, *FlashAttention* (2022); Dao, *FlashAttention-2* (2023).
#
# Next: chapter 03, where the table of slopes becomes a backward pass.
