# %% [markdown]
# # 10 · Online softmax and tiles
#
# You write attention that never holds a table of scores, forward and backward, and count the bytes that this saves.
#
# 165 min · CPU · NumPy · needs 02, 03, 04, 08

# %% [markdown]
# When you have finished, you will be able to
#
# - compute softmax over keys that arrive in pieces, and merge pieces that were computed apart;
# - write attention in tiles, forward and backward, for any sizes and a causal mask;
# - say how many tiles a mask saves, and how many bytes a tile size costs, before anything runs.

# %%
import tracemalloc
from unittest import mock

import numpy as np

import attn_ref
from attn_ref import bench, cost, plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## The same answer from a fraction of the memory
#
# Softmax divides by the total of a row, so it seems that a row must be complete before its first weight is known. Below,
# the naive program makes the whole table, and `attn_ref.tiled_attention` takes 128 keys at a time. Both get 4,096
# queries and keys of 64 numbers in float32. How many times as much memory does the naive one need?

# %%
my_guess = None  # your guess: peak memory of the naive program over that of the tiled one


# %%
def naive_attention(q, k, v):
    scores = q @ k.T * q.shape[1] ** -0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights @ v


def peak_mib(call):
    """The most that NumPy and Python held during a call, and what it returned."""
    tracemalloc.start()
    found = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20, found


rng = np.random.default_rng(10)
q, k, v = rng.normal(size=(3, 4096, 64)).astype(np.float32)
naive_mib, naive_out = peak_mib(lambda: naive_attention(q, k, v))
tiled_mib, (tiled_out, _) = peak_mib(lambda: attn_ref.tiled_attention(q, k, v, block_q=128, block_k=128))
print(f"naive {naive_mib:.0f} MiB, tiled {tiled_mib:.1f} MiB, of which the output is 1 MiB")
print("largest difference:", np.abs(naive_out - tiled_out).max())
guess(my_guess, measured=naive_mib / tiled_mib, unit="times")

# %% [markdown]
# Three tables of 64 MiB against a little more than the output itself, and the same numbers but for rounding in the
# seventh digit. No row was ever complete. You are about to write the second program.

# %% [markdown]
# ## The mean of two answers is not the answer
#
# Cut the keys of the sentence in two: the first five tokens, and “mat”. Let “sat” attend to each piece by itself, and take
# the mean of the two outputs. How much weight does “mat” then have, and how much should it have?

# %%
my_guess = None  # your guess: the weight that “mat” should have, between 0 and 1

# %%
x = sentence.EMBEDDINGS
asks = x[2:3]
whole = attn_ref.attention(asks, x, x, return_weights=True)[1][0]
first = attn_ref.attention(asks, x[:5], x[:5], return_weights=True)[1][0]
mean = np.array([*first / 2, 1 / 2])  # alone in its piece, “mat” gets all of it
guess(my_guess, measured=whole[5])

# %% [markdown]
# Here are both, key by key.

# %%
both = {"all six keys": whole, "mean of two pieces": mean}
plots.bars(both, sentence.TOKENS, "Weights of “sat”", limit=0.6)

# %% [markdown]
# “mat” gets 0.50 in place of 0.16: alone in its piece it had nobody to share with. Each piece must tell how much it
# holds before the two can be put together.

# %% [markdown]
# ## A row in three parts
#
# What must be kept of the keys seen so far? Three things for each query, its **state**:
#
# - the **running maximum** m of the scores;
# - the **sum** l of the exponentials e^(s - m), softmax's total but for the factor e^m;
# - **acc**, the same sum with each exponential times its value: the output before it is divided.
#
# To carry this state along, one block of keys after another, is **online softmax**.
#
# Two keys with scores 0 and 0 and values 2 and 4 give m = 0, l = 1 + 1 = 2 and acc = 2 + 4 = 6. The output so far is acc
# / l = 3. Now a third key comes, with score log 2 and value 10. Taken against the new maximum, log 2, the old
# exponentials are e^(0 - log 2) = ½ of what they were, and so are their sums: l = ½ · 2 + 1 = 2, and acc = ½ · 6 + 10 =
# 13. The output is 6.5.
#
# Softmax agrees: the weights of 0, 0 and log 2 are ¼, ¼ and ½, and ¼ · 2 + ¼ · 4 + ½ · 10 = 6.5.

# %%
states = []
for keys in (slice(0, 2), slice(0, 4), slice(0, 6)):
    scores = attn_ref.attention_scores(asks, x[keys])[0]
    e = np.exp(scores - scores.max())
    states.append([scores.max(), e.sum(), *e @ x[keys]])
after = ["the cat", "… sat on", "… the mat"]
plots.matrix(states, after, ["m", "l", *sentence.FEATURES], "The state of “sat” as the keys arrive in twos")

# %% [markdown]
# The four columns on the right are acc. When “sat” meets itself m rises, and “thing” falls from 1.09 to 0.83: its old
# part shrank by more than was added. Here every row looked at all its keys again. Your step will look at the new ones
# alone.

# %% [markdown]
# ### Exercise 10.1 · One more block of keys (6 points · 20 min · about 6 lines)
#
# Write `online_update(row_max, row_sum, acc, scores, values)` for n queries; it returns the new
# `(row_max, row_sum, acc)`. The state so far is m in `row_max` (n,), l in `row_sum` (n,), and acc (n, d_v), not yet divided.
# `scores` (n, b) are those of b new keys, already scaled, and `values` (b, d_v) what these keys hold. A query that has
# seen nothing has the state (-inf, 0, 0), and keeps it while all its scores are -inf. A score of -inf adds nothing.
# Scores may be in the thousands; scores and values may be whole numbers. Do not write into any argument.
#
# By hand: the state (0, 2, 6) with the score log 2 and the value 10 becomes (log 2, 2, 13).


# %% exercise="10.1"
def online_update(row_max, row_sum, acc, scores, values):
    """One more block of keys for n queries.  (n,), (n,), (n, d_v), (n, b), (b, d_v) -> row_max, row_sum, acc"""
    ### BEGIN SOLUTION
    new_max = np.maximum(row_max, scores.max(axis=-1))
    safe_max = np.where(np.isneginf(new_max), 0.0, new_max)  # nothing seen yet: -inf - -inf would be NaN
    kept = np.exp(row_max - safe_max)
    exponentials = np.exp(scores - safe_max[:, None])
    return new_max, kept * row_sum + exponentials.sum(axis=-1), kept[:, None] * acc + exponentials @ values
    ### END SOLUTION


# %% try="10.1"
two_keys = np.array([0.0]), np.array([2.0]), np.array([[6.0]])
print(online_update(*two_keys, np.array([[np.log(2.0)]]), np.array([[10.0]])))
nothing = np.array([-np.inf]), np.array([0.0]), np.array([[0.0]])
print(online_update(*nothing, np.array([[-np.inf, -np.inf]]), np.array([[2.0], [4.0]])))

# %% check="10.1"
check("10.1", online_update)

# %% [markdown] teacher="10.1"
# **Why this works.** e^(s - m') = e^(s - m) · e^(m - m'), one factor for every key of the past, so for any sum over them.
# A first block needs no case of its own: e^(-inf - m') is 0. **Common wrong turns.** Only one of the two sums rescaled;
# the factor turned round; the stand-in 0 for -inf returned as the maximum. **Another way.** Treat the state as one more
# key with score m, which counts l times.

# %% [markdown]
# ### The maximum moves seldom
#
# Only when the maximum moves are l and acc rescaled. Of 100 blocks of keys with random scores the first always sets the
# maximum. How many of the 100 move it, on average?

# %%
my_guess = None  # your guess: how many of 100 random blocks bring a new maximum

# %%
largest = rng.normal(size=(10_000, 100, 8)).max(axis=-1)  # 10,000 queries, 100 blocks of 8 keys
running = np.maximum.accumulate(largest, axis=1)
moved = np.diff(running, prepend=-np.inf) > 0
print(f"1 + 1/2 + … + 1/100 = {(1 / np.arange(1, 101)).sum():.1f}")
guess(my_guess, measured=moved.sum(axis=1).mean().round(1), unit="blocks")

# %% [markdown]
# About 5 of 100. Each of the first n blocks is as likely as any other to hold the largest score, so block n moves the
# maximum with probability 1/n, and the average count is the sum printed above.

# %% [markdown]
# ### Break it: a bug that good keys hide
#
# The function below forgets to rescale acc. It gets four keys, once the best first and once the best last.


# %%
def acc_left_behind(row_max, row_sum, acc, scores, values):
    """An update with a planted bug."""
    new_max, new_sum, fresh = attn_ref.online_update(row_max, row_sum, 0 * acc, scores, values)
    return new_max, new_sum, acc + fresh


def in_twos(update, scores, values):
    state = np.array([-np.inf]), np.array([0.0]), np.zeros((1, 1))
    for keys in (slice(0, 2), slice(2, 4)):
        state = update(*state, scores[:, keys], values[keys])
    return (state[2] / state[1]).item()


falling, values = np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[1.0], [2.0], [3.0], [4.0]])
for name, order in (("best key first", slice(None)), ("best key last", slice(None, None, -1))):
    keys = falling[:, order], values[order]
    right, wrong = in_twos(attn_ref.online_update, *keys), in_twos(acc_left_behind, *keys)
    print(f"{name}: right {right:.4f}, with the bug {wrong:.4f}")

# %%
check("10.1", acc_left_behind)

# %% [markdown]
# With the best key first the maximum never moves, and the bug cannot be seen.

# %% [markdown]
# ## States merge, in any order
#
# Two workers can each take half of the keys and never speak until the end. What must each hand over? Its output o, and
# the logarithm of its total, the **log-sum-exp** of chapter 02: lse = m + log l. Each output counts with its part of the
# total e^lse1 + e^lse2, and only the difference of the two lse matters:

# %%
gap = np.linspace(-8, 8, 33)
share = {"share of the second": attn_ref.softmax(np.stack([0 * gap, gap]), axis=0)[1]}
plots.lines(gap, share, "How much the second half counts", "lse2 - lse1", "share")

# %% [markdown]
# Equal totals share equally. A lead of 3 leaves the other half 5 %. The mean of the outputs would be a flat line at ½.

# %% [markdown]
# ### Exercise 10.2 · Two halves make a whole (6 points · 12 min · about 6 lines)
#
# Write `merge_partials(o1, lse1, o2, lse2)`; it returns `(o, lse)` over the keys of both. `o1` and `o2` are outputs
# (..., n, d_v) of the same queries over different keys, `lse1` and `lse2` (..., n) their log-sum-exps, with any leading
# axes or none. lse may be in the thousands, and thousands apart. A query that saw nothing in a half has o = 0 and
# lse = -inf there; if in both, so has the result. Do not write into any argument.
#
# By hand: outputs 2 and 4 with lse 0 and log 3. The totals are 1 and 3, so o = ¼ · 2 + ¾ · 4 = 3.5 and lse = log 4.


# %% exercise="10.2"
def merge_partials(o1, lse1, o2, lse2):
    """Attention over two sets of keys from attention over each.  o (..., n, d_v), lse (..., n) -> o, lse"""
    ### BEGIN SOLUTION
    largest = np.maximum(lse1, lse2)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    share1, share2 = np.exp(lse1 - largest), np.exp(lse2 - largest)
    total = share1 + share2
    safe = np.where(total > 0, total, 1.0)
    lse = np.where(total > 0, largest + np.log(safe), -np.inf)
    return (share1 / safe)[..., None] * o1 + (share2 / safe)[..., None] * o2, lse
    ### END SOLUTION


# %% try="10.2"
print(merge_partials(np.array([[2.0]]), np.array([0.0]), np.array([[4.0]]), np.array([np.log(3.0)])))
print(merge_partials(np.zeros((1, 1)), np.array([-np.inf]), np.array([[4.0]]), np.array([7.0])))

# %% check="10.2"
check("10.2", merge_partials)

# %% [markdown] teacher="10.2"
# **Why this works.** o = acc / l, so e^lse · o is the sum of exponentials times values, and such sums add. **Common wrong
# turns.** Plain means; e^lse without a maximum; NaN for two empty halves; `[:, None]`, which fits one leading axis.
# **Another way.** The share of the second is a sigmoid of lse2 - lse1, and `np.logaddexp` gives the new lse.

# %% [markdown]
# A **merge** that gives the same whatever is merged first is called associative. Test it: cut 64 keys into 8 pieces,
# shuffle them, and merge two random neighbours until one is left, 200 times over.


# %%
def pieces_of(q, k, v, count):
    """(output, lse) for each of `count` pieces of the keys."""
    cuts = np.array_split(np.arange(len(k)), count)
    return [attn_ref.attention(q, k[one], v[one], return_lse=True) for one in cuts]


def merged_at_random(parts):
    """Merge two random neighbours until one part is left."""
    while len(parts) > 1:
        at = rng.integers(len(parts) - 1)
        parts[at : at + 2] = [attn_ref.merge_partials(*parts[at], *parts[at + 1])]
    return parts[0]


q, k, v = rng.normal(size=(5, 16)), rng.normal(size=(64, 16)), rng.normal(size=(64, 16))
expected, off = attn_ref.attention(q, k, v), []
for _ in range(200):
    parts = pieces_of(q, k, v, 8)
    rng.shuffle(parts)
    off.append(np.abs(merged_at_random(parts)[0] - expected).max())
print(f"largest difference in 200 random trees: {max(off):.0e}")

# %% [markdown]
# Rounding, and nothing else. And the plain mean of the 8 outputs, as the scores spread more and more?

# %%
spreads, wrong = 2.0 ** np.arange(-4, 4), []
for spread in spreads:
    exact = attn_ref.attention(spread * q, k, v)
    mean = np.mean([out for out, _ in pieces_of(spread * q, k, v, 8)], axis=0)
    wrong.append(np.abs(mean - exact).mean() / np.abs(exact).mean())
title, label = "Averaging 8 outputs", "spread of the scores"
plots.lines(spreads, {"plain mean": wrong}, title, label, "relative error", logx=True)

# %% [markdown]
# With scores that hardly differ the mean is nearly right, and a test on such data will pass. At the spread of 1 that √d
# provides, it is wrong by more than a third.

# %% [markdown]
# ## A walk over tiles
#
# A block of queries and a block of keys meet in a **tile** of the table of scores. A program needs one tile at a time:
# make its scores, update the state, forget it. Here are six queries in blocks of two and six keys in blocks of three,
# under a causal mask. Step through it.

# %%
walk = (6, 6, 2, 3)  # queries, keys, and their blocks
plots.film([plots.tile_walk(*walk, causal=True, step=i, title=f"Step {i}") for i in range(1, 6)])

# %% [markdown]
# The outlined tile is the one at work, white ones are still to come. Each row of tiles begins a new state, and ends
# where its last query sees no more. The hatched tile is never made. Dotted tiles are crossed by the diagonal: some of
# their scores must be hidden. Row 0 of the tile in step 4 is query 4 of the text, and column 0 of the tile in step 5 is
# key 3.

# %% [markdown]
# ### Exercise 10.3 · Tile by tile (7 points · 30 min · about 16 lines)
#
# Write `tiled_attention(q, k, v, block_q, block_k, causal=False)` for one head: q (n_q, d), k (n_k, d), v (n_k, d_v), scale
# 1/√d. Return `(out, lse)`, of shapes (n_q, d_v) and (n_q,). Blocks need not divide the lengths, and may be longer. Causal,
# the queries are the last n_q of n_k positions, as in 4.1; a query that sees nothing gets 0 and the lse -inf. Scores may be
# in the thousands, inputs may be whole numbers and must stay as they were. Skipping hidden tiles is not judged.
#
# Hold no table: at every moment less than half of n_q · n_k numbers, also where one block takes all queries, or one all
# keys. A whole mask is a table too: for 800 queries and 400 keys, causal, in tiles of 32 by 32, hold less than 320,000
# bytes. Build on your `online_update`, or on what in `attn_ref` does not itself cut attention into tiles.
#
# By hand: one query with the scores 0 and log 3, values 4 and 8, blocks of 1. After the first tile the state is (0, 1, 4),
# after the second (log 3, 4/3, 28/3). So out = 7 and lse = log 4.


# %% exercise="10.3"
def tiled_attention(q, k, v, block_q, block_k, causal=False):
    """Attention without its table of scores.  -> out (n_q, d_v), log-sum-exp (n_q,)"""
    ### BEGIN SOLUTION
    (n_q, d), n_k, d_v = q.shape, len(k), v.shape[1]
    out, lse = np.zeros((n_q, d_v)), np.full(n_q, -np.inf)
    for q0 in range(0, n_q, block_q):
        rows = np.arange(q0, min(q0 + block_q, n_q))
        row_max, row_sum, acc = np.full(len(rows), -np.inf), np.zeros(len(rows)), np.zeros((len(rows), d_v))
        for k0 in range(0, n_k, block_k):
            keys = np.arange(k0, min(k0 + block_k, n_k))
            scores = q[rows] @ k[keys].T * d**-0.5
            if causal:
                scores = np.where(keys <= rows[:, None] + n_k - n_q, scores, -np.inf)
            row_max, row_sum, acc = online_update(row_max, row_sum, acc, scores, v[keys])
        safe_sum = np.where(row_sum > 0, row_sum, 1.0)
        out[rows] = acc / safe_sum[:, None]
        lse[rows] = np.where(row_sum > 0, row_max + np.log(safe_sum), -np.inf)
    return out, lse
    ### END SOLUTION


# %% try="10.3"
one_query, two_keys = np.array([[2.0, 0, 0, 0]]), np.array([[0.0, 0, 0, 0], [np.log(3.0), 0, 0, 0]])
print(tiled_attention(one_query, two_keys, np.array([[4.0], [8.0]]), block_q=1, block_k=1))
on_the_sentence, _ = tiled_attention(x, x, x, 4, 4, causal=True)
print(np.abs(on_the_sentence - attn_ref.attention(x, x, x, causal=True)).max())

# %% check="10.3"
check("10.3", tiled_attention)

# %% [markdown] teacher="10.3"
# **Why this works.** The inner loop is 10.1; the outer one only decides which queries share it. Division and logarithm
# come once for each block of queries (FlashAttention-2; the first version divided at every tile). **Common wrong turns.**
# `n // block`; masks that compare places within the tile; a state that goes on into the next block; 0/0; the maximum
# forgotten in lse. **Another way.** Attention on each tile and 10.2, or keys in the outer loop with all states kept.

# %% [markdown]
# ### Agree: any sizes, any tiles
#
# Table and tiles on 100 random sizes, with and without a mask, more queries than keys among them:

# %%
worst = 0.0
for _ in range(100):
    n_q, n_k, block_q, block_k = rng.integers(1, 40, size=4)
    q, k, v = (rng.normal(size=(n, 8)) for n in (n_q, n_k, n_k))
    causal = bool(rng.integers(2))
    out, lse = attn_ref.tiled_attention(q, k, v, block_q, block_k, causal=causal)
    table = attn_ref.attention_scores(q, k, causal=causal)
    worst = max(worst, np.abs(out - attn_ref.softmax(table) @ v).max())
print(f"largest difference: {worst:.0e}")

# %% [markdown]
# And in float32? A tiled program rescales its sums again and again, in 256 tiles of 16 keys for the longest text below.
# How many times the naive program's is its error against float64?

# %%
my_guess = None  # your guess: error of tiles of 16 keys over error of the naive program, at 4,096 keys

# %%
lengths = 2 ** np.arange(6, 13)
errors = {"naive": [], "tiles of 256 keys": [], "tiles of 16 keys": []}
for n in lengths:
    q, k, v = rng.normal(size=(128, 64)), rng.normal(size=(n, 64)), rng.normal(size=(n, 64))
    exact = attn_ref.attention(q, k, v)
    short = [one.astype(np.float32) for one in (q, k, v)]
    for name, size in (("naive", None), ("tiles of 256 keys", 256), ("tiles of 16 keys", 16)):
        out = attn_ref.tiled_attention(*short, 128, size)[0] if size else naive_attention(*short)
        errors[name].append(np.sqrt(np.mean((out - exact) ** 2)))
guess(my_guess, measured=errors["tiles of 16 keys"][-1] / errors["naive"][-1], unit="times")

# %% [markdown]
# All three programs, from 64 keys to 4,096:

# %%
label = "root mean square error"
plots.lines(lengths, errors, "Error of float32", "keys", label, logx=True, logy=True)

# %% [markdown]
# All fall, since the mean of more random values is smaller. They stay within a factor of two of each other, and small
# tiles are mostly better: short sums round less.

# %% [markdown]
# ## Tiles that nobody sees
#
# A mask over finished scores saves nothing, but a tile in which *no* pair may attend need not be made. 4,096 queries and
# keys make 1,024 tiles of 128 by 128, and a causal walk visits a little over half of them. What share does a window of
# 256 visit?

# %%
my_guess = None  # your guess: the share of tiles that the window of 256 visits, between 0 and 1

# %%
causal = cost.tiles_visited(4096, 4096, 128, 128, causal=True)
window = cost.tiles_visited(4096, 4096, 128, 128, window=256)
print(f"causal: {causal} of 1024 tiles")
guess(my_guess, measured=window / 1024)

# %% [markdown]
# Pictures of a smaller walk show why: 24 tokens, tiles of 4 by 4, and a window of 7.

# %%
plots.tile_walk(24, 24, 4, 4, window=7, title="A window of 7")

# %% [markdown]
# A band of tiles is left, and its width does not grow with the text. None of them is whole: the edges of the band cut
# through. Now the last 10 of 24 tokens ask, in tiles of 4 by 6:

# %%
plots.tile_walk(10, 24, 4, 6, causal=True, title="The last 10 of 24, causal")

# %% [markdown]
# Query 0 stands at position 14 here. Most tiles are whole, and for those a kernel leaves out the mask. It decides
# without one score, from a tile's first and last query and its first and last key.

# %% [markdown]
# ### Exercise 10.4 · Tiles that nobody sees (6 points · 15 min · about 10 lines)
#
# Write `tiles_visited(n_q, n_k, block_q, block_k, causal=False, window=None)`: the number of tiles in which at least one
# pair may attend. The last tiles may be ragged, and blocks longer than the text. The queries are the last n_q of n_k
# positions; there may be more queries than keys. With `window` (1 or more) a query at position p sees the keys
# p - window + 1 to p, whether `causal` is set or not.
#
# By hand: six queries and keys in tiles of 2 by 3, causal: 5, as in the film. With `window=1` each query sees its own key:
# the rows of queries (0, 1), (2, 3) and (4, 5) visit 1, 2 and 1 tiles, 4 in all.


# %% exercise="10.4"
def tiles_visited(n_q, n_k, block_q, block_k, causal=False, window=None):
    """How many tiles hold a pair that may attend.  -> int"""
    ### BEGIN SOLUTION
    count = 0
    for q0 in range(0, n_q, block_q):
        first = q0 + n_k - n_q  # positions of the block's first and last query
        last = min(q0 + block_q, n_q) - 1 + n_k - n_q
        for k0 in range(0, n_k, block_k):
            last_key = min(k0 + block_k, n_k) - 1
            ahead = (causal or window is not None) and k0 > last
            behind = window is not None and last_key < first - window + 1
            count += not (ahead or behind)
    return count
    ### END SOLUTION


# %% try="10.4"
print(tiles_visited(6, 6, 2, 3, causal=True), tiles_visited(6, 6, 2, 3, window=1))

# %% check="10.4"
check("10.4", tiles_visited)

# %% [markdown] teacher="10.4"
# **Why this works.** In a tile the distance j - p takes every value between (first key - last query) and (last key - first
# query); a pair may attend if that range meets the mask's. **Common wrong turns.** The first query for the last; whole
# tiles alone; squares; half of all. **Another way.** Each row visits one run of tiles, from that of the first visible
# key to that of the last. Or the mask of chapter 04, cut up, for small sizes.

# %% experiment="10.shares"
sizes = 2 ** np.arange(13)
share = {
    name: [cost.tiles_visited(4096, 4096, int(t), int(t), **mask) / (4096 / t) ** 2 for t in sizes]
    for name, mask in (("causal", {"causal": True}), ("window 256", {"window": 256}))
}
plots.lines(sizes, share, "Tiles visited of 4,096 by 4,096", "tile size", "share of the table", logx=True)

# %% [markdown]
# Tiles of 1 are the mask itself: a half, and a sixteenth. At 128 the window costs half as much again as it must, and a tile
# as large as the text saves nothing. Why not tiles of 1, then?

# %% [markdown]
# ## What must be carried
#
# A processor computes only on what lies in its **fast memory**: caches in a CPU, about 20 MB on the chip of an A100. All
# else lies in slow memory, on a GPU called **HBM** (high-bandwidth memory), and must be carried. Chapter 08 counted each
# array once. Tiles pay more: a block of queries stays while all its keys and values pass by, and the next block asks
# for the same keys again.

# %% [markdown]
# ### Exercise 10.5 · What must be carried (5 points · 12 min · about 7 lines)
#
# Write `hbm_bytes(n_q, n_k, d, itemsize, block_q, block_k, causal=False)`, for one head with q and out (n_q, d), and
# k and v (n_k, d), whose numbers have `itemsize` bytes. Every block of queries is read once and its outputs are written
# once, whatever it sees. For each tile that it visits, by 10.4, it reads all keys and values of the tile. Ragged last
# tiles hold only what exists. Scores and lse are not carried. There may be more queries than keys.
#
# By hand: 4 queries and keys, d = 1, 1 byte, blocks of 2. q and out are 8 bytes. Two blocks each read 4 keys and 4
# values: 16 bytes, so 24 in all. Causal, the first block reads 2 keys and the second 4, with their values: 8 + 12 = 20.


# %% exercise="10.5"
def hbm_bytes(n_q, n_k, d, itemsize, block_q, block_k, causal=False):
    """Bytes that the tiles of one head move between slow and fast memory.  -> int"""
    ### BEGIN SOLUTION
    numbers = 2 * n_q * d  # queries in, outputs out
    for q0 in range(0, n_q, block_q):
        last = min(q0 + block_q, n_q) - 1 + n_k - n_q
        for k0 in range(0, n_k, block_k):
            if not causal or k0 <= last:
                numbers += 2 * (min(k0 + block_k, n_k) - k0) * d
    return numbers * itemsize
    ### END SOLUTION


# %% try="10.5"
print(hbm_bytes(4, 4, 1, 1, 2, 2), hbm_bytes(4, 4, 1, 1, 2, 2, causal=True))

# %% check="10.5"
check("10.5", hbm_bytes)

# %% [markdown] teacher="10.5"
# **Why this works.** Without a mask it is 2 n_q d + 2 ⌈n_q / block_q⌉ n_k d: only block_q matters. With one, block_k
# decides how much is read in vain. **Common wrong turns.** Keys once; the two blocks exchanged; padded tiles; exact keys
# in place of whole tiles. **Another way.** Add `.nbytes` of the slices that a loop would read.

# %% [markdown]
# One head, 4,096 tokens, d = 64, float16: naive attention carries its tables four times, 130 MiB in all. How much do tiles
# of 64 by 64 carry?

# %%
my_guess = None  # your guess: MiB for blocks of 64 queries; q, k, v and out together are 2 MiB

# %%
naive_mib = cost.attention_bytes(1, 1, 4096, 4096, 64, "float16") / 2**20
block_sizes = 2 ** np.arange(3, 13)
carried = [cost.hbm_bytes(4096, 4096, 64, "float16", int(size), 64) / 2**20 for size in block_sizes]
guess(my_guess, measured=carried[3], unit="MiB")

# %% [markdown]
# Half of the naive traffic. All sizes, with and without a causal mask:

# %%
sizes = (4096, 4096, 64, "float16")
causal = [cost.hbm_bytes(*sizes, int(size), 64, causal=True) / 2**20 for size in block_sizes]
curves = {"naive": np.full(10, naive_mib), "tiles": carried, "tiles, causal": causal}
curves["each array once"] = np.full(10, 2)
title = "Carried for one head of 4,096 tokens"
plots.lines(block_sizes, curves, title, "block_q", "MiB", logx=True, logy=True)

# %% [markdown]
# Each doubling of block_q halves what is carried. Blocks of 32 save nothing against the naive program, blocks of 128 a
# factor of 4. What limits a block is fast memory, which must hold it, a tile of keys and values, and the state. If it
# holds M numbers, block_q can grow like M / d, and what is carried falls like n² · d² / M: FlashAttention's theorem.
#
# Does the ledger describe a real program? Weigh the values that reach `online_update` in `tiled_attention`.

# %%
q, k, v = rng.normal(size=(3, 500, 64))
for block_q in (32, 64, 128):
    passing = []

    def weigh(row_max, row_sum, acc, scores, values, passing=passing):
        passing.append(values.nbytes)
        return attn_ref.online_update(row_max, row_sum, acc, scores, values)

    with mock.patch.object(attn_ref.tiled, "online_update", weigh):
        attn_ref.tiled_attention(q, k, v, block_q, 48)
    ledger = cost.hbm_bytes(500, 500, 64, "float64", block_q, 48)
    print(f"block_q {block_q:3}: weighed {q.nbytes + v.nbytes + 2 * sum(passing):,} bytes, ledger {ledger:,}")

# %% [markdown]
# To the byte, with keys counted like their values. And the time on this machine, for 512 tokens?

# %% experiment="10.time"
q, k, v = rng.normal(size=(3, 512, 64))
tile_sizes = [8, 16, 32, 64, 128, 256, 512]
runs = {str(size): lambda size=size: attn_ref.tiled_attention(q, k, v, size, size) for size in tile_sizes}
timed = bench.measure(runs, repeats=3, warm_up=1, sample_s=0.02, most_foreign=100)
times = {"tiled": [1000 * timed.timings[str(size)].median_s for size in tile_sizes]}
print(bench.machine())
plots.lines(tile_sizes, times, "Time in NumPy", "tile size", "ms", logx=True, logy=True)

# %% [markdown]
# Small tiles are slow for what Python takes for each of 4,096 tiles, not for traffic: a clock in NumPy cannot prove the
# ledger. Chapters 11 and 12 compile the same loops.

# %% [markdown]
# ## The way back, without the table
#
# Chapter 03's backward pass needed all weights. They need not be kept: a weight is exp(score - lse), so with q, k and
# *one number per query* any tile of weights can be made again.
#
# One step seems to need a whole row. Softmax's backward pass subtracts from each dP_j (what reaches weight j) the average
# of the row, δ = Σ_j w_j dP_j. But dP_j is the dot product of grad_out with value j, so
#
# $$\delta = \sum_j w_j\,(dO \cdot v_j) = dO \cdot \sum_j w_j v_j = dO \cdot O$$
#
# One dot product of d_v numbers, and both vectors are there.

# %%
grad_out = np.random.default_rng(3).normal(size=(6, 4))
out, weights = attn_ref.attention(x, x, x, return_weights=True)
from_weights = (weights * (grad_out @ x.T)).sum(axis=-1)
two_ways = [from_weights, (grad_out * out).sum(axis=-1)]
plots.matrix(two_ways, ["Σ w · dP", "grad_out · out"], sentence.TOKENS, "δ of each query", unit="δ")

# %% [markdown]
# The rows are equal. The upper one needs all weights, the lower one the output alone.
#
# Going back, each tile makes five matrix products: scores, dP, and its parts of dv, dq and dk. With the table kept it would
# be four. A quarter more arithmetic saves n² numbers: for 4,096 tokens, 64 MiB for each head and layer in float32, against
# 16 KiB of lse.

# %% [markdown]
# ### Exercise 10.6 · The way back, tile by tile (7 points · 30 min · about 16 lines)
#
# Write `tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=False)`; return `(dq, dk, dv)`, shaped like
# q, k and v. Shapes, scale, mask, memory and scores in the thousands are as in 10.3; `grad_out` is shaped like `out`; all
# are floats. `out` and `lse` count as given: they may come from a pass over more keys than k holds, and the weights of
# these keys then sum to less than 1. A query whose scores are all hidden has the lse -inf and sends no gradient. Write into
# no argument. Build on what 10.3 allows, and on no backward pass of `attn_ref`.
#
# By hand: q = (2, 0, 0, 0), keys (0, 3, 0, 0) and (0, 0, 5, 0), values 4 and 8, out 6, lse log 2, grad_out 1. Both scores
# are 0, both weights ½, δ = 6. Key 0: dP = 4, dS = ½ · (4 - 6) = -1. Key 1: dS = 1. With the scale ½, dq is
# (0, -1.5, 2.5, 0), the rows of dk are (-1, 0, 0, 0) and (1, 0, 0, 0), and dv is ½ and ½, as in 3.4.


# %% exercise="10.6"
def tiled_backward(q, k, v, out, lse, grad_out, block_q, block_k, causal=False):
    """The gradients of attention without its table of weights.  -> dq, dk, dv, shaped like q, k, v"""
    ### BEGIN SOLUTION
    n_q, n_k, scale = len(q), len(k), q.shape[1] ** -0.5
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    delta = (grad_out * out).sum(axis=-1)
    safe_lse = np.where(np.isneginf(lse), 0.0, lse)  # that query's scores are -inf, so its weights are 0
    for q0 in range(0, n_q, block_q):
        rows = np.arange(q0, min(q0 + block_q, n_q))
        for k0 in range(0, n_k, block_k):
            keys = np.arange(k0, min(k0 + block_k, n_k))
            scores = q[rows] @ k[keys].T * scale
            if causal:
                scores = np.where(keys <= rows[:, None] + n_k - n_q, scores, -np.inf)
            weights = np.exp(scores - safe_lse[rows, None])
            grad_scores = weights * (grad_out[rows] @ v[keys].T - delta[rows, None]) * scale
            dv[keys] += weights.T @ grad_out[rows]
            dq[rows] += grad_scores @ k[keys]
            dk[keys] += grad_scores.T @ q[rows]
    return dq, dk, dv
    ### END SOLUTION


# %% try="10.6"
one_query, two_keys = np.array([[2.0, 0, 0, 0]]), np.array([[0, 3.0, 0, 0], [0, 0, 5.0, 0]])
forward = np.array([[6.0]]), np.array([np.log(2.0)])
two_values, one = np.array([[4.0], [8.0]]), np.array([[1.0]])
tiled_backward(one_query, two_keys, two_values, *forward, one, block_q=1, block_k=1)

# %% check="10.6"
check("10.6", tiled_backward)

# %% [markdown] teacher="10.6"
# **Why this works.** The three gradients are sums over the other side's tiles, so the tiles may come in any order.
# **Common wrong turns.** `=` for `+=`; softmax over the tile, which forgets the rest of the row; δ from the tile alone;
# the mask missing on the way back; NaN from -inf - -inf. **Another way.** Keys in the outer loop, so that a worker owns
# its dk and dv and only dq is shared. FlashAttention-2 does so, and chapter 11 meets the race in it.

# %% [markdown]
# What does “as given” buy? Two machines can hold half of the keys each. With the out and lse of the whole, each finds
# its own dk and dv, and their two dq add up.

# %%
q, k, v, grad_out = rng.normal(size=(4, 48, 16))
out, lse = attn_ref.tiled_attention(q, k, v)
left = attn_ref.tiled_backward(q, k[:24], v[:24], out, lse, grad_out)
right = attn_ref.tiled_backward(q, k[24:], v[24:], out, lse, grad_out)
joined = left[0] + right[0], np.concatenate([left[1], right[1]]), np.concatenate([left[2], right[2]])
together = attn_ref.attention_backward(q, k, v, grad_out)
for name, one, other in zip(("dq", "dk", "dv"), joined, together, strict=True):
    print(f"{name}: largest difference {np.abs(one - other).max():.0e}")

# %% [markdown]
# ## One query, many workers
#
# In decoding there is one query, so the outer loop has nothing to hand out, and a GPU of a hundred processors uses one for
# each head. **Flash-Decoding** (2023) cuts the keys instead, and merges the partial results at the end, all at once.

# %% [markdown]
# ### Exercise 10.7 · Any number of pieces (5 points · 8 min · about 4 lines)
#
# Write `merge_many(outs, lses)`; return `(o, lse)` over the keys of all p pieces. `outs` is (p, ..., n, d_v) and `lses` is
# (p, ..., n), floats, with p at least 1. What 10.2 says of large lse and of queries that saw nothing holds here too. Do
# not write into the arguments. Build on what you have, or on `softmax`, `logsumexp` and `merge_partials` of `attn_ref`.
#
# By hand: outputs 2, 4 and 8 with lse 0, 0 and log 2. The totals are 1, 1 and 2, so o = ¼ · 2 + ¼ · 4 + ½ · 8 = 5.5 and
# lse = log 4.


# %% exercise="10.7"
def merge_many(outs, lses):
    """Attention over many sets of keys from attention over each.  (p, ..., n, d_v), (p, ..., n) -> o, lse"""
    ### BEGIN SOLUTION
    shares = attn_ref.softmax(lses, axis=0)
    return (shares[..., None] * outs).sum(axis=0), attn_ref.logsumexp(lses, axis=0)
    ### END SOLUTION


# %% try="10.7"
print(merge_many(np.array([[[2.0]], [[4.0]], [[8.0]]]), np.array([[0.0], [0.0], [np.log(2.0)]])))

# %% check="10.7"
check("10.7", merge_many)

# %% [markdown] teacher="10.7"
# **Why this works.** Softmax over pieces of softmax over keys: the shares are those of the pieces, and inside each piece
# those of its keys. **Common wrong turns.** Softmax along the queries; plain means; one maximum for all; NaN where all
# pieces are empty. **Another way.** Fold 10.2 over the pieces from (0, -inf), the neutral piece, or merge them as a tree.

# %% [markdown]
# ## Check yourself

# %% quiz="10.a"

# %% quiz="10.b"

# %% quiz="10.c"

# %% quiz="10.d"

# %% [markdown]
# ### Question 10.w · Is it an approximation? (4 points · 10 min)
#
# A colleague says: “FlashAttention is an approximation. Softmax needs the whole row, and it never has the whole row. That
# is the price for computing less, and it always pays.” Answer in six to ten sentences with numbers from this chapter:
# what is exact and why, what is saved and what is not, and where tiles gain little.

# %% [markdown] written="10.w"
# ### BEGIN SOLUTION
# **4 points.** It is exact but for rounding. Softmax needs the maximum and the total of a row, not the row: a state of
# maximum, sum and acc holds all that later keys can ask for, and when the maximum grows, one factor e^(old - new) brings
# the sums to what they would have been. In float64 tiles and table differed by less than 10⁻¹³ on 100 random
# sizes, and in float32 the tiled error is as large as the naive one. It does not compute less, either: without a mask every
# pair is computed, and the backward pass has five products in place of four, since it makes the weights again. What it saves
# is storage, 2 MiB in place of 192 at 4,096 tokens, and traffic, 33 MiB in place of 130 with blocks of 128 queries. Only
# a mask saves arithmetic: causal tiles of 128 visit 52 % of the table. It gains little where there is no table to speak
# of: one query in decoding has a row of scores, and the keys must be read once either way; and with blocks of 32 queries
# the tiles carry as much as the naive program.
#
# **3 points.** It is exact because the running sums are rescaled whenever the maximum changes, so the result is the same
# softmax. It does the same multiplications, and saves memory and traffic because the table of scores is never written.
#
# **2 points.** The results are the same, you can test it. It is faster because it reads and writes less memory.
#
# **1 point.** The error is small enough not to matter, and computing fewer scores makes it fast.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# Milakov and Gimelshein (2018) kept a running maximum and sum. Rabe and Staats (2021) added the output and
# recomputation. FlashAttention (2022) fitted the tiles to a GPU's fast memory: memory became linear, and arithmetic
# stayed quadratic. FlashAttention-2 (2023) put the queries into the outer loop and the division at the end, as you did.
#
# PyTorch's `scaled_dot_product_attention` runs such kernels since version 2.0 (2023). FlexAttention (PyTorch 2.5, 2024) works
# out from your mask which tiles to skip, your 10.4. Flash-Decoding is 10.7, and Ring Attention (2023) passes blocks of keys
# round a ring of machines and keeps the state of 10.1.

# %% [markdown]
# ## Takeaways
#
# - Maximum, sum and acc are all that a row must remember: 4,096 tokens needed less than a fiftieth of the memory.
# - Averaging pieces is wrong: “mat” got a weight of 0.50 in place of 0.16. Weighted by e^lse, any tree of merges gives the
#   same to 10⁻¹⁴.
# - Causal tiles of 128 visit 52 % of a table of 4,096 by 4,096; a window of 256 visits 9 %.
# - Each doubling of block_q halves the traffic: 130 MiB naive, 33 with blocks of 128, 17 with 256.
# - One number per query replaces the table on the way back: 16 KiB in place of 64 MiB, for five products in place of four.

# %%
progress(10)

# %% [markdown]
# ## Further reading
#
# - Milakov and Gimelshein, *Online normalizer calculation for softmax* (2018).
# - Rabe and Staats, *Self-attention Does Not Need O(n²) Memory* (2021).
# - Dao, Fu, Ermon, Rudra and Ré, *FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness* (2022):
#   algorithm 1, theorem 2, and the backward pass in appendix B.
# - Dao, *FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning* (2023).
# - Dao, Haziza, Massa and Sizov, *Flash-Decoding for long-context inference* (2023).
# - Liu, Zaharia and Abbeel, *Ring Attention with Blockwise Transformers for Near-Infinite Context* (2023).
#
# Next: chapter 11, where these loops become a compiled kernel for your own processor.
