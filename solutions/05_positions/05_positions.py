# %% [markdown]
# # 05 · Positions
#
# You tell attention in three ways where each token stands, and measure which of them survives a text longer than any it
# was trained on.
#
# 120 min · CPU · NumPy · needs 02, and the causal mask of 04. A good place to pause is after exercise 5.4.

# %% [markdown]
# When you have finished, you will be able to
#
# - test whether a layer sees the order of its tokens at all;
# - write sinusoids, rotations (RoPE) in both pairings, and ALiBi, and say what each of them promises;
# - predict what happens beyond the trained length, and stretch a model's positions to reach further.

# %%
import numpy as np

import attn_ref
from attn_ref import bench, echoes, plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## Two sentences, one answer
#
# “the cat sat on the mat” and “the mat sat on the cat” tell different stories. Let “sat” read both with the attention
# of chapter 02: how far apart are the two outputs?

# %%
my_guess = None  # your guess: the largest difference between the two; entries are about 0.3

# %%
x = sentence.EMBEDDINGS
swapped = x[[0, 5, 2, 3, 4, 1]]  # cat and mat have traded places
out, out_swapped = attn_ref.attention(x, x, x), attn_ref.attention(swapped, swapped, swapped)
guess(my_guess, measured=round(np.abs(out[2] - out_swapped[2]).max(), 9))

# %% [markdown]
# Feature by feature:

# %%
both = {"the cat sat on the mat": out[2], "the mat sat on the cat": out_swapped[2]}
plots.bars(both, sentence.FEATURES, title="“sat” after reading", ylabel="output", limit=0.6)

# %% [markdown]
# Every pair of bars is equal. Nothing built on this output can know who sat on whom.

# %% [markdown]
# ## Attention reads a bag
#
# An output is a sum over keys, and a sum does not know in which order its terms came. Shuffle all tokens, and every
# query meets the same keys with the same scores.

# %%
shuffle = np.array([3, 0, 5, 1, 4, 2])  # the shuffled text begins with row 3 of the old one
out_shuffled = attn_ref.attention(x[shuffle], x[shuffle], x[shuffle])
plots.matrices({"output": out, "output of the shuffled text": out_shuffled})

# %% [markdown]
# The same six rows stand on the right, in the order of the shuffled tokens. Such a layer is called **permutation
# equivariant** (a permutation is a reordering): when its input rows are reordered, its output rows are reordered
# likewise.

# %%
print("largest difference:", np.abs(out_shuffled - out[shuffle]).max())

# %% [markdown]
# What is left is rounding. The output does not stay *the same*: its rows move along.

# %% [markdown]
# ### Exercise 5.1 · Does order matter to this layer? (5 points · 15 min · about 7 lines)
#
# Write `order_matters(layer, x)`. `layer` is a function that takes an (n, d) array and returns one of the same shape;
# `x` is (n, d) with n ≥ 2 rows of random numbers. Return False if the output rows follow every reordering of the rows
# of `x`, and True otherwise. An effect of order may show in some orders and stay hidden in others: it may concern a
# single row or a single number, be the same from either end, or only mix neighbours. Rounding moves outputs by less
# than 10⁻⁹, order by more than 0.001. `x` must stay as it was.
#
# By hand: let the layer add 1 to its first row and let x have the rows 5 and 7, so the output is 6 and 7. With the rows
# swapped it is 8 and 5, where 7 and 6 would follow the swap. Order matters.


# %% exercise="5.1"
def order_matters(layer, x):
    """Does the order of the rows matter to this layer?  layer: (n, d) -> (n, d), x (n, d) -> bool"""
    ### BEGIN SOLUTION
    out = layer(x)
    for i in range(len(x) - 1):  # each swap of two neighbours
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if not np.allclose(layer(x[order]), out[order], rtol=0, atol=1e-6):
            return True
    return False
    ### END SOLUTION


# %% try="5.1"
print("attention:       ", order_matters(lambda x: attn_ref.attention(x, x, x), x))
print("with causal mask:", order_matters(lambda x: attn_ref.attention(x, x, x, causal=True), x))

# %% check="5.1"
check("5.1", order_matters)

# %% [markdown] teacher="5.1"
# **Why this works.** Every reordering is a chain of swaps of neighbours. A layer that passes all swaps on one random x
# could still fail on another x; for layers without thresholds that does not happen. **Common wrong turns.** Comparing with
# `out` in place of `out[order]` asks for invariance and calls attention order-aware. Undoing with `[order]` where
# `np.argsort(order)` is needed works for swaps only. `rng.shuffle(x)` writes into x. **Another way.** Thirty random orders.

# %% [markdown]
# A causal mask lets order in, since the first token sees one key and the last sees all. It is a weak hint, as you will
# measure. Nearly all models add another: to the embeddings, to the queries and keys, or to the scores.

# %% [markdown]
# ## Into the embeddings: a code for every position
#
# The first idea is to add to each token's vector a second one that depends on its place alone. BERT (2018) and GPT-2
# (2019) **learn** a table with a row for each position, 512 rows and 1,024. But the table ends, and a row that training
# seldom reached is as good as random.
#
# Adding the position itself would drown the word at position 5,000. Clocks tell many moments apart with small numbers:
# with hands.

# %% [markdown]
# ### Hands of many speeds
#
# A second hand tells close moments apart; an hour hand tells morning from noon. The **sinusoidal** code gives each
# position d/2 hands. At position p, hand i has turned by the angle p / 10000^(2i/d), and is stored as the sine and the
# cosine of its angle. The analogy breaks in one place: a clock repeats itself after twelve hours. Here no turn takes a
# whole number of positions, so no code comes back.

# %%
codes = attn_ref.sinusoidal(64, 8)
hands = {f"column {2 * i}": codes[:, 2 * i] for i in (1, 2, 3)}
plots.lines(range(64), hands, "Sines of three hands, d = 8", "position", "value")

# %% [markdown]
# Column 2 goes round once in 63 positions, column 4 in 628, and column 6 in 6,283. Column 0, left out, takes 6. The
# length of a turn is the **wavelength**, 2π · 10000^(2i/d) positions.

# %% [markdown]
# ### Exercise 5.2 · A code for every position (4 points · 8 min · about 4 lines)
#
# Write `sinusoidal(n, d)`: the codes of the positions 0 to n-1 as an (n, d) array of float64. d is even, n and d/2 are at
# least 1. In row p, columns 2i and 2i + 1 hold the sine and the cosine of p / 10000^(2i/d), for i = 0, 1, …, d/2 - 1.
#
# By hand, for d = 4: the exponents 2i/d are 0 and ½, so the angles of row 1 are 1 and 1/100. The row is
# (0.8415, 0.5403, 0.0100, 0.99995). Row 0 is (0, 1, 0, 1).


# %% exercise="5.2"
def sinusoidal(n, d):
    """Codes of the positions 0 .. n-1.  -> (n, d), columns 2i and 2i + 1: sin and cos of p / 10000^(2i/d)"""
    ### BEGIN SOLUTION
    angles = np.arange(n)[:, None] / 10_000 ** (np.arange(0, d, 2) / d)  # (n, d/2)
    codes = np.empty((n, d))
    codes[:, 0::2], codes[:, 1::2] = np.sin(angles), np.cos(angles)
    return codes
    ### END SOLUTION


# %% try="5.2"
plots.matrix(sinusoidal(8, 6), title="yours: position down, column across")

# %% check="5.2"
check("5.2", sinusoidal)

# %% [markdown] teacher="5.2"
# **Why this works.** A column of positions against a row of speeds gives the table of angles; slices with a step of 2
# put sines and cosines side by side. **Common wrong turns.** `np.arange(d // 2) / d` is half the exponent. An exponent for
# every column gives sine and cosine of one pair different speeds. `//` makes every exponent 0. **Another way.** The cosine
# is a sine shifted by π/2, so one call to `np.sin` does for all columns.

# %% [markdown]
# How alike are two codes? Take the dot products of the first 32 with each other.

# %%
codes = attn_ref.sinusoidal(32, 64)
plots.matrix(codes @ codes.T, title="code · code, d = 64", unit="dot product")

# %% [markdown]
# Diagonal stripes: the similarity depends on the *distance* of two positions, because sin a sin b + cos a cos b = cos(a
# - b), summed over the hands.
#
# So an **absolute** code, one for each place, carries **relative** information, about distances. But matrices multiply
# the sum of word and code before q meets k, so a model must *learn* distance out of a mixture.

# %% [markdown]
# ## Into q and k: turn instead of add
#
# **RoPE** (rotary position embedding; Su and others, 2021) builds distance in. It leaves the embeddings alone and turns
# queries and keys. Take two numbers (a, b) as a point in the plane. Turned by the angle θ it becomes
#
# $$(a \cos\theta - b \sin\theta,\;\; a \sin\theta + b \cos\theta)$$
#
# and θ is the position times a speed. Here is one vector at six positions, with a speed of 0.3 radians.

# %%
turned = {f"at {p}": (1.2 * np.cos(0.3 * p), 1.2 * np.sin(0.3 * p)) for p in range(6)}
plots.arrows(turned, title="one vector at six positions", shown=["at 0"])

# %% [markdown]
# Its length stays, and its direction tells the position. Turn a query at position p and a key at position j in this
# way: the angle between them changes by (p - j) times the speed, and their lengths do not. The score knows the
# *distance*, and nothing else about the places.
#
# A longer vector is cut into d/2 pairs, each with a speed of its own, base^(-2i/d) for pair i. The base is 10,000
# unless someone says otherwise.

# %% [markdown]
# ### Exercise 5.3 · Turn instead of add (6 points · 15 min · about 5 lines)
#
# Write `rope(x, positions, base=10_000.0)`. `x` is (..., n, d) with d even; `positions` is an array (n,), a number for
# each row, in any order, fractions and negative ones too. In each row, number i and number i + d/2 form a pair, for i =
# 0, …, d/2 - 1. Turn that pair by the angle position · base^(-2i/d), with number i as a and number i + d/2 as b. Return
# a new array of x's shape, with fractions even where x holds whole numbers. The inputs must stay as they were.
#
# By hand: the row (1, 0) at position π/2 becomes (0, 1). The row (1, 0, 0, 1) at position 1 has the pairs (1, 0) and
# (0, 1), turned by 1 and by 0.01. It becomes (0.5403, -0.0100, 0.8415, 0.99995).


# %% exercise="5.3"
def rope(x, positions, base=10_000.0):
    """Turns numbers i and i + d/2 of each row by position · base^(-2i/d).  (..., n, d) -> (..., n, d)"""
    ### BEGIN SOLUTION
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)  # (n, d/2)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    ### END SOLUTION


# %% try="5.3"
print(np.round(rope(np.array([[1.0, 0.0]]), np.array([np.pi / 2])), 4))
print(np.round(rope(np.array([[1.0, 0.0, 0.0, 1.0]]), np.array([1])), 4))

# %% check="5.3"
check("5.3", rope)

# %% [markdown] teacher="5.3"
# **Why this works.** The table of angles (n, d/2) meets the last two axes of any x. Halves make the pairing two slices.
# **Common wrong turns.** Writing the new first half into x before the second is made. Counting rows instead of reading
# `positions`. `np.zeros_like(x)` for whole numbers. **Another way.** x · cos + rotated(x) · sin, where rotated(x) is
# (-second half, first half), as in transformers; or complex numbers.

# %% [markdown]
# ### Only the distance counts
#
# Take a random query and key with d = 64, at positions 7 and 3, and then 1,000 places further on. By how much does
# their score change?

# %%
my_guess = None  # your guess: the change of the score; scores of such vectors spread by about 8


# %%
def rotated_score(p, j):
    return (attn_ref.rope(q, [p]) @ attn_ref.rope(k, [j]).T).item()


q, k = np.random.default_rng(3).normal(size=(2, 1, 64))
for places in ((7, 3), (1007, 1003), (7, 4)):
    print(places, f"{rotated_score(*places):.4f}")
guess(my_guess, measured=round(abs(rotated_score(1007, 1003) - rotated_score(7, 3)), 6))

# %% [markdown]
# At distance 4 the score is the same anywhere, but for rounding; at distance 3 it is another. Now put one vector
# everywhere, as query and key.

# %%
same = np.ones((9, 8))
positions = np.arange(9)
turned = attn_ref.rope(same, positions, base=100.0)
plots.scores(attn_ref.attention_scores(turned, turned), title="equal vectors, turned by their positions")

# %% [markdown]
# Stripes again. For d = 64 and base 10,000 the fastest pair is back where it began after 6.3 positions. How many does
# the slowest need?

# %%
my_guess = None  # your guess: the wavelength of the slowest pair, in positions

# %%
wavelengths = 2 * np.pi / attn_ref.rotary_frequencies(64)
guess(my_guess, measured=wavelengths[-1], unit="positions")

# %% [markdown]
# Over 40,000. All 32 pairs:

# %%
lines = {"wavelength": wavelengths, "a text of 4,096 tokens": np.full(32, 4096.0)}
plots.lines(range(32), lines, "RoPE, d = 64, base 10,000", "pair", "positions for a full turn", logy=True)

# %% [markdown]
# In a text of 4,096 tokens the pairs below the dashed line turn full circle. The nine above it do not, and beyond 4,096
# they show angles that training never produced.

# %% [markdown]
# ### Exercise 5.4 · Attention that knows how far (6 points · 10 min · about 4 lines)
#
# Write `rope_attention(q, k, v, base=10_000.0)`: causal attention with RoPE. q is (..., n_q, d), k is (..., n_k, d), v
# is (..., n_k, d_v), with the same leading axes or none, d even, d_v any size, n_q ≤ n_k. The keys stand at the
# positions 0 to n_k - 1, the queries at the last n_q of these, as when a text is continued. Queries and keys are
# turned, values are not. Return the output (..., n_q, d_v). The scale is 1/√d; scores may be in the thousands, on
# either side of 0; no input may be written to. You may build on `rope`, yours or that of `attn_ref`, and on
# `attn_ref.attention(..., causal=True)`, aligned bottom-right.
#
# By hand: the keys (1, 0) and (0, 0), the values 4 and 8, and one query (2, 0), which stands at position 1. Turned, it
# is (2 cos 1, 2 sin 1). Its scores are 2 cos 1 / √2 = 0.764 and 0, its weights 0.682 and 0.318, its output 5.27.


# %% exercise="5.4"
def rope_attention(q, k, v, base=10_000.0):
    """Causal attention with rotations; the queries are the last of the keys' positions.  -> (..., n_q, d_v)"""
    ### BEGIN SOLUTION
    n_q, n_k = q.shape[-2], k.shape[-2]
    turned_q = attn_ref.rope(q, np.arange(n_k - n_q, n_k), base)
    turned_k = attn_ref.rope(k, np.arange(n_k), base)
    return attn_ref.attention(turned_q, turned_k, v, causal=True)
    ### END SOLUTION


# %% try="5.4"
rope_attention(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[4.0], [8.0]]))

# %% check="5.4"
check("5.4", rope_attention)

# %% [markdown] teacher="5.4"
# **Why this works.** The score is where q meets k, so that is where the turn acts; a value is only read. **Common wrong
# turns.** Turning v: the output then depends on where a value was written. Numbering the queries from 0, which a test with
# n_q = n_k cannot see. **Another way.** Leave the query as it is and turn each key by j - p.

# %% [markdown]
# ### Break it: a bug that whole texts cannot show
#
# This function numbers its queries from 0. First it reads a whole text; then the last token asks alone, as when a model
# writes word by word.


# %%
def restarts_at_zero(q, k, v, base=10_000.0):
    """Attention with RoPE and a planted bug."""
    turned_q = attn_ref.rope(q, np.arange(q.shape[-2]), base)
    return attn_ref.attention(turned_q, attn_ref.rope(k, np.arange(k.shape[-2]), base), v, causal=True)


whole = restarts_at_zero(x, x, x)
print("last token, whole text:", whole[-1].round(2))
print("last token, alone:     ", restarts_at_zero(x[-1:], x, x)[0].round(2))

# %%
check("5.4", restarts_at_zero)

# %% [markdown]
# The two lines should be equal. Training reads whole texts and never meets the bug; it appears when the model writes.

# %% [markdown]
# ## Two pairings, and no shape tells them apart
#
# You paired i with i + d/2: **half-split**, as the transformers library's Llama does. The paper and Meta's own Llama
# code pair neighbours, 2i with 2i + 1: **interleaved**. Below, row i started as a 1 at place i and zeros, and was
# turned at position 1 (d = 6).

# %%
ones = np.eye(6)[:, None, :]  # six vectors of one row each
pairs = {name: attn_ref.rope(ones, [1], pairing=name)[:, 0] for name in ("half", "interleaved")}
plots.matrices(pairs, title="where each number goes")

# %% [markdown]
# The sine of the fastest pair, 0.84, shows the partner of number 0: column 3 on the left, column 1 on the right.

# %% [markdown]
# ### Exercise 5.5 · The other pairing (5 points · 8 min · about 5 lines)
#
# Write `rope_interleaved(x, positions, base=10_000.0)`. Everything is as in 5.3, except that pair i consists of the
# numbers 2i and 2i + 1, which stay in their places. You may build on your own `rope`; `attn_ref.rope` would give the
# answer away.
#
# By hand: the row (1, 0, 0, 0) at position π/2 becomes (0, 1, 0, 0). In 5.3 it would be (0, 0, 1, 0).


# %% exercise="5.5"
def rope_interleaved(x, positions, base=10_000.0):
    """Turns numbers 2i and 2i + 1 of each row by position · base^(-2i/d).  (..., n, d) -> (..., n, d)"""
    ### BEGIN SOLUTION
    d = x.shape[-1]
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(0, d, 2) / d)  # (n, d/2)
    a, b = x[..., 0::2], x[..., 1::2]
    turned = np.empty(x.shape)
    turned[..., 0::2] = a * np.cos(angles) - b * np.sin(angles)
    turned[..., 1::2] = a * np.sin(angles) + b * np.cos(angles)
    return turned
    ### END SOLUTION


# %% try="5.5"
print(np.round(rope_interleaved(np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([np.pi / 2])), 4))

# %% check="5.5"
check("5.5", rope_interleaved)

# %% [markdown] teacher="5.5"
# **Why this works.** Slices with a step of 2 name both members of every pair; assigning into the same slices puts them
# back. **Common wrong turns.** Joining the results as halves. Speeds laid out f0 f1 … f0 f1 … in place of f0 f0 f1 f1 ….
# **Another way.** Bring the columns into the order 0 2 4 … 1 3 5 …, call `rope`, and bring them back.

# %% [markdown]
# ### Agree: complex numbers say the same
#
# Meta's code takes each pair as one complex number a + bi. Turning is a product with e^(iθ).

# %%
some = np.random.default_rng(5).normal(size=(7, 6))
z = (some[:, 0::2] + 1j * some[:, 1::2]) * np.exp(1j * np.outer(np.arange(7), attn_ref.rotary_frequencies(6)))
complex_way = np.stack([z.real, z.imag], axis=-1).reshape(7, 6)
print("same:", np.allclose(complex_way, attn_ref.rope(some, np.arange(7), pairing="interleaved")))

# %% [markdown]
# ### A checkpoint can change its pairing
#
# Neither pairing is better, as long as a **checkpoint**, the saved weights of a model, is *read* with the one it was
# *trained* with. And it can be converted, because a dot product does not care in which order its terms stand, if q and
# k use the same order: reorder the columns of W_q and W_k so that neighbours end up d/2 apart. The transformers library
# did this to Meta's Llama weights.
#
# Real models run several attentions side by side, called **heads** (chapter 06). Each has its own d numbers in q and k,
# and pairs are formed within a head.

# %% [markdown]
# ### Exercise 5.6 · A checkpoint changes its pairing (5 points · 10 min · about 3 lines)
#
# Write `to_half_split(w, n_heads)`. `w` is (d_model, n_heads · d) with d even, and x @ w holds the queries (or keys) of
# all heads side by side: columns 0 to d-1 of w belong to head 0, the next d to head 1, and so on. `w` was trained for
# the interleaved pairing. Return a new matrix of the same shape in which each head has its even columns first, 0, 2, 4,
# …, and then its odd ones, 1, 3, 5, …, counted within the head. `w` may hold whole numbers and must stay as it was.
#
# By hand: with one head, the columns a b c d e f become a c e b d f. As three heads of two columns each they stay as
# they are.


# %% exercise="5.6"
def to_half_split(w, n_heads):
    """The columns of each head in the order 0 2 4 … 1 3 5 …  (d_model, n_heads · d) -> the same shape"""
    ### BEGIN SOLUTION
    pairs = w.reshape(len(w), n_heads, -1, 2)  # (d_model, n_heads, d/2, 2)
    return pairs.swapaxes(-1, -2).reshape(w.shape)
    ### END SOLUTION


# %% try="5.6"
letters = np.arange(12).reshape(1, 12)
print(to_half_split(letters, n_heads=1), to_half_split(letters, n_heads=2), sep="\n")

# %% check="5.6"
check("5.6", to_half_split)

# %% [markdown] teacher="5.6"
# **Why this works.** As (heads, pairs, 2) the columns read pair by pair; with the last two axes exchanged they read all
# firsts, then all seconds. **Common wrong turns.** The way back (`reshape(…, 2, -1)`), which is the same for 2 and 4
# columns a head. Sorting across heads. Note for torch: `nn.Linear` stores the transpose, so there the *rows* are reordered.
# **Another way.** A list of column numbers.

# %% [markdown]
# ## Into the scores: a price for distance
#
# **ALiBi** (attention with linear biases; Press and others, 2021) leaves embeddings, queries and keys alone. Each score
# pays for distance: head h subtracts slope_h · (p - j). The slopes are fixed, 2^(-8(h+1)/H) for H heads and h = 0, 1, …;
# with 8 heads they are ½, ¼, … down to 1/256.
#
# Two keys match a query equally well, in the head with slope ½. One is the query's own, the other lies 10 places back.
# How large is the second weight relative to the first?

# %%
my_guess = None  # your guess: the weight 10 places back, divided by that of the query's own key

# %%
pair_of_keys = attn_ref.softmax(np.array([0.0, -0.5 * 10]))
guess(my_guess, measured=pair_of_keys[1] / pair_of_keys[0])

# %% [markdown]
# It is e⁻⁵: softmax makes a price on the score a *factor* on the weight.

# %%
back = np.arange(33)
prices = {f"slope 1/{2 ** (h + 1)}": np.exp(-back / 2 ** (h + 1)) for h in (0, 2, 4, 7)}
plots.lines(back, prices, "What distance leaves of a weight", "places back", "factor", logy=True)

# %% [markdown]
# Slope ½ leaves less than a hundredth ten places back; slope 1/256 hardly notices 32.

# %% [markdown]
# ### Exercise 5.7 · A price for distance (5 points · 10 min · about 4 lines)
#
# Write `alibi_bias(n_heads, n_q, n_k)`, what ALiBi adds to the scores. n_heads is a power of two (1, 2, 4, …), and 1 ≤
# n_q ≤ n_k. The result is (n_heads, n_q, n_k). Query i stands at p = i + n_k - n_q, bottom-right aligned. For the keys
# j ≤ p the entry of head h is -slope_h · (p - j) with slope_h = 2^(-8(h+1)/n_heads), h counted from 0. Later keys are
# masked anyway: put there what you like.
#
# By hand: with 8 heads, 2 queries and 3 keys, head 0 has the slope ½. Query 0 stands at 1 and its row is -0.5, 0 and
# anything. Query 1 stands at 2: -1, -0.5, 0.


# %% exercise="5.7"
def alibi_bias(n_heads, n_q, n_k):
    """What ALiBi adds to the scores, -slope · distance for keys up to the query.  -> (n_heads, n_q, n_k)"""
    ### BEGIN SOLUTION
    slopes = 2.0 ** (-8 * np.arange(1, n_heads + 1) / n_heads)
    p = np.arange(n_q)[:, None] + n_k - n_q
    return slopes[:, None, None] * (np.arange(n_k) - p)  # (n_heads, n_q, n_k)
    ### END SOLUTION


# %% try="5.7"
plots.scores(alibi_bias(8, 4, 6)[0], title="yours, head 0", allowed=attn_ref.causal_mask(4, 6))

# %% check="5.7"
check("5.7", alibi_bias)

# %% [markdown] teacher="5.7"
# **Why this works.** A column of positions minus a row of keys is the table of distances; (H, 1, 1) slopes make a stack of
# it. **Common wrong turns.** 2^(-8h/H) with h from 0 gives the first head the slope 1. ½, ¼, … whatever H is, right for 8
# heads only. **Another way.** slope · j alone, as the authors' code has it: it differs by a constant in each row, which
# softmax does not see. Here the table itself is judged.

# %% [markdown]
# ### Count, then time
#
# Turning q and k takes 4 · n · d multiplications; the scores take n² · d. At 1,024 tokens that is one part in 256. And
# on the clock?

# %%
q, k = np.random.default_rng(0).normal(size=(2, 1024, 64))
positions = np.arange(1024)
jobs = {
    "turn q and k": lambda: (attn_ref.rope(q, positions), attn_ref.rope(k, positions)),
    "attention": lambda: attn_ref.attention(q, k, k, backend="numpy"),
}
timings = bench.measure(jobs, repeats=3, sample_s=0.05, most_foreign=99).timings
ratio = timings["attention"].median_s / timings["turn q and k"].median_s
print(f"attention takes {ratio:.0f} times as long as turning q and k", bench.machine(), sep="\n")

# %% [markdown]
# Far from 256: sines, cosines and copies cost more than the multiplications. The share of turning sinks as texts grow.

# %% [markdown]
# ## Longer than anything it was trained on
#
# “The longer, the better”, people say. Test it in a language where length makes no difference, so that only positions
# can be to blame.
#
# `attn_ref.echoes` has one, of 16 words. Nine times in ten the next word is an **echo** of one of the last eight, each
# as likely. Otherwise it is any word. Nothing older helps.

# %%
texts = echoes.documents(100, 137, np.random.default_rng(7))
same = [np.mean(texts[:, 64:] == texts[:, 64 - m : -m]) for m in range(1, 65)]
plots.lines(range(1, 65), {"same word": same}, "Words return", "places back", "share that is the same word")

# %% [markdown]
# Up to 8 places back more than half of all words are the same; beyond, the share sinks.
#
# The model, `EchoReader`, is one causal attention with 4 heads of d = 16, and learns its queries and keys by gradient
# descent. Its weights on the places where a word stands, averaged over the heads, are nine tenths of its bet on that
# word; the last tenth is spread over all 16. Its loss is -log of the chance it gave to the word that came, counted here
# *beyond the best possible reader*, who knows the language.

# %% experiment="5.train"
kinds = {"none": None, "sinusoidal": "sinusoidal", "learned": "learned", "RoPE": "rope", "ALiBi": "alibi"}
readers = {
    name: [echoes.EchoReader(kind, seed).trained(steps=300, n=32, seed=seed) for seed in (0, 1)]
    for name, kind in kinds.items()
}


# %% [markdown]
# Two readers of each kind have now seen 4,800 texts of **32 words**. How well do they do there, from the ninth word on?


# %% experiment="5.trained_length"
def average(values, first, last):
    """The mean over the numbers of words read, first to last."""
    return values[first - 1 : last].mean()


losses = {name: np.mean([reader.excess(texts) for reader in two], axis=0) for name, two in readers.items()}
trained = [average(values, 9, 32) for values in losses.values()]
plots.bars(trained, list(losses), "9 to 32 words read", "loss beyond the best (nats)", 0.5)

# %% [markdown]
# All four schemes come close to the best, and RoPE closest. Without positions a reader cannot tell 3 places back from
# 30. Let RoPE read on, to 136 words. What does it lose there?

# %%
my_guess = None  # your guess: RoPE's loss with 97 to 136 words read; without positions it is 0.66

# %% experiment="5.beyond"
guess(my_guess, measured=average(losses["RoPE"], 97, 136), unit="nats")

# %% [markdown]
# All readers, in blocks of eight words:

# %% experiment="5.all_lengths"
ends = np.arange(16, 137, 8)  # the last number of words read in each block of eight
blocks = {name: values[8:136].reshape(16, 8).mean(axis=1) for name, values in losses.items()}
plots.lines(ends, blocks, "Trained on 32 words", "words read", "loss beyond the best (nats)")

# %% [markdown]
# Up to 32 words the four lie at the bottom. Then sinusoids, the learned table and RoPE climb steeply, and the
# last two end *above* the reader without positions. ALiBi does not notice the border.
#
# Learned rows beyond 32 are as random as on the first day. Sinusoids bring sums that no matrix was trained for. And
# RoPE meets distances of 32 and more for the first time. Where does its last query read?

# %% experiment="5.reach"
near = np.full(136, np.nan)
near[:32] = np.mean([reader.reach(texts[:, :33]) for reader in readers["RoPE"]], axis=0)
far = np.mean([reader.reach(texts) for reader in readers["RoPE"]], axis=0)
both = {"32 words read": near, "136 words read": far}
plots.lines(range(136), both, "Where RoPE's last query reads", "places back", "weight")

# %% [markdown]
# With 32 words its weights fill the places 0 to 7, where echoes come from (0 is the newest word). With 136 words the
# weight has gone to places 40 and more back. Training pushed scores down at distances from 8 to 31; beyond, nothing
# did.

# %% experiment="5.share"
print(f"weight within the trained distances: {far[:32].sum():.0%}, beyond: {far[32:].sum():.0%}")

# %% [markdown]
# *Relative* is not the same as *safe at any length*. And “the longer, the better” is false: a longer text adds keys
# that can be wrong. In this language nothing beyond eight words helps anyone, which suits ALiBi. Large models that were
# trained on long texts use the middle of them less well than both ends (Liu and others, 2023).

# %% [markdown]
# ## Stretching a trained model
#
# If angles beyond the trained range do harm, slow the turns down. The **factor** s is the new length divided by the
# trained one, here 128 / 32 = 4.

# %% [markdown]
# ### Exercise 5.8 · Two ways to a longer text (5 points · 8 min · about 5 lines)
#
# Write `stretched_angles(positions, d, factor, method, base=10_000.0)`: the angles by which RoPE turns, as an (n, d/2)
# array. `positions` is (n,), from 0 up, fractions allowed; d is even and at least 4; factor is at least 1. As in 5.3,
# pair i has the angle position · base^(-2i/d), with one change. If `method` is `"interpolation"`, the positions are divided
# by the factor. If it is `"ntk"`, the base is multiplied by factor^(d/(d-2)). `positions` must stay as it was.
#
# By hand, d = 4, factor 4, position 8. Plain RoPE turns by 8 and 0.08. Interpolation: position 2, so 2 and 0.02. NTK: the
# base is 10,000 · 4² = 160,000, whose root is 400, so 8 and 8/400 = 0.02.


# %% exercise="5.8"
def stretched_angles(positions, d, factor, method, base=10_000.0):
    """The angles of RoPE for texts `factor` times as long.  positions (n,) -> (n, d/2)"""
    ### BEGIN SOLUTION
    if method == "interpolation":
        positions = positions / factor
    else:
        base = base * factor ** (d / (d - 2))
    return positions[:, None] * base ** (-np.arange(0, d, 2) / d)
    ### END SOLUTION


# %% try="5.8"
print(stretched_angles(np.array([8]), 4, 4, "interpolation"))
print(stretched_angles(np.array([8]), 4, 4, "ntk"))

# %% check="5.8"
check("5.8", stretched_angles)

# %% [markdown] teacher="5.8"
# **Why this works.** Slowest pair: 2i = d - 2, so its speed is base^(-(d-2)/d), and (s^(d/(d-2)))^(-(d-2)/d) = 1/s. The
# fastest has exponent 0 and does not know the base. **Common wrong turns.** A factor applied the wrong way round; base · s,
# which slows the last pair by a little less than s; `//`. **Another way.** Divide the speeds by s^(2i/(d-2)).

# %% [markdown]
# How much slower does each pair become? In a third method, **YaRN** (Peng and others, 2023), pairs that turn often
# within the trained length keep their speed, pairs that turn less than once are interpolated, and between them lies a
# ramp. (Its scaling of the scores is left out.)

# %%
plain = attn_ref.rotary_frequencies(16)
ntk = attn_ref.rotary_frequencies(16, attn_ref.ntk_base(10_000, 16, factor=4))
yarn = attn_ref.yarn_frequencies(16, factor=4, original_length=32)
slower = {"interpolation": np.full(8, 4.0), "NTK": plain / ntk, "YaRN": plain / yarn}
plots.lines(range(8), slower, "Factor 4, d = 16, trained on 32", "pair", "times slower")

# %% [markdown]
# All three meet at 4 for the slowest pair, and differ at the fast pairs, which tell neighbours apart. Now interpolate
# the RoPE readers by 4, with no further training. How well do they read the first 32 words?

# %%
my_guess = None  # your guess: the loss with 9 to 32 words read; as trained it was below 0.01

# %% experiment="5.stretched"
quarter = np.arange(136) / 4
settings = {
    "as trained": {},
    "interpolation": {"positions": quarter},
    "NTK": {"base": attn_ref.ntk_base(10_000, 16, factor=4)},
    "YaRN": {"frequencies": yarn},
}
stretched = {
    name: np.mean([reader.excess(texts, **options) for reader in readers["RoPE"]], axis=0)
    for name, options in settings.items()
}
guess(my_guess, measured=average(stretched["interpolation"], 9, 32), unit="nats")

# %% [markdown]
# As bad as without positions: where the reader looks for places 0 to 7, it now finds 0 to 31. The remedy is a little
# training with the new positions.

# %% experiment="5.tuned"
more = {"steps": 60, "n": 128, "positions": quarter[:128], "batch": 4, "lr": 0.005}
tuned = [reader.trained(**more).excess(texts, positions=quarter) for reader in readers["RoPE"]]
stretched["interpolation + 60 steps"] = np.mean(tuned, axis=0)
blocks = {name: values[8:136].reshape(16, 8).mean(axis=1) for name, values in stretched.items()}
plots.lines(ends, blocks, "RoPE stretched by 4", "words read", "loss beyond the best (nats)")

# %% experiment="5.table"
for name, values in stretched.items():
    parts = [f"{average(values, a, b):5.2f}" for a, b in ((9, 32), (33, 64), (97, 136))]
    print(f"{name:25} 9-32: {parts[0]}   33-64: {parts[1]}   97-136: {parts[2]}")

# %% [markdown]
# Interpolation is flat over the whole length, at a poor level until 60 steps of training bring it near 0. NTK costs
# little near and carries to twice the length; at four times it fails, because its middle pairs still meet new angles.
# YaRN is flat too, at half of interpolation's price or less.

# %% [markdown]
# ### A silent bug, measured
#
# Read a trained RoPE reader with the wrong pairing: no shape changes and nothing raises an error. Then reorder the
# columns of W_q and W_k and read again.

# %% experiment="5.wrong_pairing"
reader = readers["RoPE"][0].trained(steps=0, n=32)  # a copy of one that was trained half-split
wrong = reader.excess(texts, pairing="interleaved")
order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]  # the way back of 5.6, for d = 16
for name in ("w_q", "w_k"):
    reader.parameters[name] = reader.parameters[name][..., order]
mended = reader.excess(texts, pairing="interleaved")
both = [average(wrong, 9, 32), average(mended, 9, 32)]
plots.bars(both, ["wrong pairing", "reordered"], "9 to 32 words read", "loss beyond the best", 0.5)

# %% [markdown]
# The wrong pairing is about as bad as no positions. Reordered, the reader is itself again.

# %% [markdown]
# ## Check yourself

# %% quiz="5.a"

# %% quiz="5.b"

# %% quiz="5.c"

# %% quiz="5.d"

# %% [markdown]
# ### Question 5.w · Longer is better? (4 points · 10 min)
#
# A colleague says: “Our model uses RoPE, and RoPE only sees distances. So the 4,096 tokens it was trained on are no
# limit. Let us set the context to 32,768, for with attention longer is always better.” Answer in five to eight
# sentences: what is true, what will happen and why, what could be done and at which price, and what you would measure.

# %% [markdown] written="5.w"
# ### BEGIN SOLUTION
# **4 points.** It is true that a RoPE score depends on p - j alone, so a text may start anywhere. But the model was
# trained on distances up to 4,095, and at larger ones the slow pairs show angles it has never met (with d = 64 and base
# 10,000 the nine slowest of 32 do not complete a turn within 4,096). Nothing trained those scores to be small, so far
# keys can take most of the weight: in the chapter the readers gave over 90 % of it to distances never met, and with four
# times the trained length RoPE lost about 1 nat more than the best, more than no positions at all. The factor would be 8.
# Interpolation keeps every angle in range, makes neighbours look like an eighth of a step, and needs some training at the
# new length; NTK spares the neighbours and may not carry eight times as far; YaRN lies between. I would measure the
# loss by position before and after, on texts of 32,768 tokens, and a task that needs something from the middle. Even if
# the loss stays flat, longer helps only if far text says something about the next word; ours beyond eight words did not.
#
# **3 points.** RoPE scores depend on the distance, but distances above 4,096 were not in training and their angles are
# new, so scores there are arbitrary and attention drifts to far keys. Interpolation or NTK slows the rotations down so
# that the angles stay in the trained range. I would plot the loss against the position.
#
# **2 points.** It was only trained on 4,096, so it will not work well on longer texts. You should use interpolation.
#
# **1 point.** Longer is not always better, because attention costs n² and gets slow.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# The first transformer (2017) used sinusoids. BLOOM (2022) and MPT (2023) use ALiBi.
#
# Most open models since Llama (2023) use RoPE, and train it for length: Code Llama (2023) continued with base
# 1,000,000, Llama 3 (2024) has 500,000. Llama 3.1 (2024) slows only its slow pairs, by 8.

# %% [markdown]
# ## Takeaways
#
# - Without positions, attention reads a bag: “sat” ends up with the same vector in both sentences, to 9 digits.
# - RoPE scores know the distance alone: 1,000 places further on, a score changes by less than 10⁻⁶.
# - Relative is not safe: trained on 32 words, RoPE loses about 1 nat at 97 to 136, more than no positions at all (⅔).
#   ALiBi stays below 0.1.
# - Stretching by 4 trades near for far: interpolation loses about ¼ nat everywhere until 60 more steps of training; NTK
#   averages below 0.1 up to twice the length and fails at four times.
# - Two pairings, one set of shapes: only numbers tell them apart, such as where the sine 0.84 appears.

# %%
progress(5)

# %% [markdown]
# ## Further reading
#
# - Vaswani and others, *Attention Is All You Need* (2017), section 3.5.
# - Su and others, *RoFormer: Enhanced Transformer with Rotary Position Embedding* (2021).
# - Press, Smith and Lewis, *Train Short, Test Long* (2021), the paper of ALiBi.
# - Chen and others, *Extending Context Window of Large Language Models via Positional Interpolation* (2023); Peng and
#   others, *YaRN* (2023), on NTK too.
# - Liu and others, *Lost in the Middle* (2023).
#
# Next: chapter 06, where several heads look at once.
