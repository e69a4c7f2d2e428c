# %% [markdown]
# # 01 · Attention is a soft lookup
#
# You replace one overfull memory by a lookup that reads every word a little, and write each of its parts.
#
# 90 min · CPU · NumPy · needs 00

# %% [markdown]
# **What you will be able to do**
#
# - say why a fixed-length vector loses long sentences, and what changes when every word is one step away;
# - write a hard lookup, a soft lookup with a temperature, and the additive score that attention began with;
# - tell query, key and value apart, and make all three from the same words.

# %%
import numpy as np

import attn_ref
from attn_ref import plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## Two sentences, one vector
#
# A neural translator of 2014 had two halves. The **encoder** reads a sentence and hands over one vector; the **decoder**
# writes the translation from that vector alone. The vector has the same length for every sentence.
#
# Here is the sentence that the whole course follows. Each word is a row of four numbers, made by hand.

# %%
words = sentence.EMBEDDINGS
plots.matrix(words, sentence.TOKENS, sentence.FEATURES, title="the cat sat on the mat")

# %% [markdown]
# The smallest encoder adds the rows up. Let it read a second sentence too, in which cat and mat trade places.

# %%
swapped = words[[0, 5, 2, 3, 4, 1]]  # the same rows, 1 and 5 traded
sums = {"the cat sat on the mat": words.sum(axis=0), "the mat sat on the cat": swapped.sum(axis=0)}
plots.bars(sums, sentence.FEATURES, ylabel="sum", limit=3.2)

# %% [markdown]
# Every pair of bars is equal. Whoever gets only this vector cannot know who sat on whom.

# %% [markdown]
# ## An RNN keeps the order, and still has one vector
#
# A **recurrent network** (RNN) reads the words one after another and carries a **state**, a vector of $h$ numbers. Each
# word renews it:
#
# $$h_t = \tanh(h_{t-1}\,W_h + x_t\,W_x)$$
#
# $W_h$ turns the old state, $W_x$ brings in the word, and tanh squeezes every entry into the range from −1 to 1. The
# last state is what the decoder gets. Write that encoder, to feel where the sentence has to pass through.

# %% [markdown]
# ### Exercise 1.1 · A sentence in one vector (6 points · 10 min · about 4 lines)
#
# Write `rnn_last_state(x, w_h, w_x)`. The words `x` have shape (n, d), `w_h` (h, h) and `w_x` (d, h). The state starts
# as zeros, the words are read from first to last, and the last state, of shape (h,), is returned. With n = 0 words that
# is the state of zeros. A huge sum must give ±1, not NaN. The inputs must stay as they were.
#
# By hand, with h = d = 1, `w_h` = 0.5, `w_x` = 2 and the words 1 and 0: the first state is tanh(2) = 0.964, the second
# tanh(0.5 · 0.964 + 0) = 0.448.


# %% exercise="1.1"
def rnn_last_state(x, w_h, w_x):
    """The last state of a tanh RNN.  x (n, d), w_h (h, h), w_x (d, h) -> (h,)"""
    ### BEGIN SOLUTION
    state = np.zeros(w_h.shape[0])
    for word in x:
        state = np.tanh(state @ w_h + word @ w_x)
    return state
    ### END SOLUTION


# %% try="1.1"
rng = np.random.default_rng(2)
w_h, w_x = 0.6 * rng.normal(size=(3, 3)), 0.6 * rng.normal(size=(4, 3))
cat_first = rnn_last_state(words, w_h, w_x)
mat_first = rnn_last_state(swapped, w_h, w_x)
plots.matrix([cat_first, mat_first], ["the cat …", "the mat …"], title="last state")

# %% check="1.1"
check("1.1", rnn_last_state)

# %% [markdown] teacher="1.1"
# **Why this works.** The state is the only thing that passes from word to word, so whatever the decoder should know about
# the first word has to survive every later line of the loop.
#
# **Common wrong turns.** `w_h @ state` (the transpose); returning a list of states; `states[-1]`, which fails with no
# words. Ask: what is the state *before* the first word?
#
# **Another way.** One tall matrix: `np.concatenate([state, word]) @ np.vstack([w_h, w_x])`.

# %% [markdown]
# Solved, the picture shows two different last states, so order is no longer lost. But count what goes in and what
# comes out.

# %%
for n in (6, 60, 600):
    print(f"{n:3d} words bring {4 * n:4d} numbers, the last state holds 3: 1 for {4 * n / 3:.0f}")

# %% [markdown]
# This is the **fixed-length bottleneck**. A wider state moves it further off, but a longer sentence always exists. Cho
# and others measured in 2014 how translations got worse as sentences grew.
#
# There is a second trouble. The first word passes through every later step before the decoder sees it. The number of
# steps between two words is the **path length**; in an RNN it grows with n. Sutskever and others (2014) fed sentences in
# *backwards*, so that at least the first words of both languages stood close, and it helped.

# %% [markdown]
# ## Do not memorise, look it up
#
# A person who translates a long sentence does not learn it by heart. They look back at the words they need. Looking
# something up has three parts, and a library has all of them:
#
# | in the library | in attention | what it is for |
# |---|---|---|
# | the request card | **query** | says what is sought |
# | the label on the spine | **key** | is there for being found |
# | the book | **value** | is what is read |
#
# The key is for being found, the value is what is read. Nobody goes home with a label.

# %% [markdown]
# Our six words become a small library. A label holds *thing* and *place*; a book holds *alive* and *soft*.

# %%
keys = words[:, [0, 2]]  # (6, 2) thing, place
values = np.array([[0, 0], [1, 0.8], [0, 0], [0, 0], [0, 0], [0, 0.6]])  # (6, 2) alive, soft
plots.matrix(values, sentence.TOKENS, ["alive", "soft"], title="the books")

# %% [markdown]
# Only two books have anything in them: the cat is alive and soft, the mat is soft. Now the labels, as arrows, with a
# query that seeks a thing and not a place.

# %%
labels = {word: keys[i] for i, word in enumerate(sentence.TOKENS) if i not in (0, 4)}
plots.arrows({"query": (1.3, 0.0), **labels}, title="labels and one query", shown=["query"])

# %% [markdown]
# The query, drawn a little longer, points along *cat*; *mat* lies halfway between thing and place. How well a label
# matches is measured by the **dot product**: multiply entry by entry and add. For the query (1, 0), *cat* scores 1.0 and *mat* 0.9.

# %% [markdown]
# ### Exercise 1.2 · The best label wins (6 points · 8 min · about 2 lines)
#
# Write `hard_lookup(query, keys, values)`: the value of the key with the largest dot product. `keys` (m, d) and `values`
# (m, d_v) belong together row by row. Queries of shape (n, d) give (n, d_v), also when n is 1; a single query (d,) gives
# (d_v,). Scores may be as large as ±100,000 and leads as small as a billionth. Ties are not judged. The inputs must stay
# as they were.
#
# By hand: with the keys (0, 1) and (1, 0) and the values 10 and 20, the query (1, 0.5) scores 0.5 and 1.0, so it
# brings 20.


# %% exercise="1.2"
def hard_lookup(query, keys, values):
    """The value of the best key.  query (n, d) or (d,) -> (n, d_v) or (d_v,)"""
    ### BEGIN SOLUTION
    scores = query @ keys.T  # (n, m) or (m,)
    return values[np.argmax(scores, axis=-1)]
    ### END SOLUTION


# %% try="1.2"
hard_lookup(np.array([1.0, 0.0]), keys, values)

# %% check="1.2"
check("1.2", hard_lookup)

# %% [markdown] teacher="1.2"
# **Why this works.** `query @ keys.T` has the keys on its last axis in both cases, so `axis=-1` serves one query and
# many. Indexing with an array of positions takes one row for each.
#
# **Common wrong turns.** `axis=0` (the queries compete for each key); argmax without an axis (one winner in all);
# cosine, which forgets that a long key may win.
#
# **Another way.** A one-hot row for each query, times `values`. This is the soft lookup with all weight on one key.

# %% [markdown]
# ## Shares instead of one winner
#
# The hard lookup brought the cat's book and not a line of the mat's, though their scores are 1.0 and 0.9. A **soft
# lookup** reads every book, the more the better it scores. For that, scores must become shares.
#
# `attn_ref.softmax` makes them: it raises e ≈ 2.72 to each score and divides by the sum of the results. Shares are positive
# and sum to 1; a lead of 1 in the score is a share e times as large. It copes with scores of any size. You write it
# yourself in chapter 02.

# %%
scores = np.array([2.0, 1.0, 0.0])
both = {"score": scores, "share": attn_ref.softmax(scores)}
plots.bars(both, ["a", "b", "c"], ylabel="value", limit=2.4)

# %% [markdown]
# The scores fall by 1 from bar to bar, and each share is 2.7 times the next. Nobody gets nothing.
#
# A **temperature** divides the scores first. It sets how much a lead counts.

# %% [markdown]
# ### Exercise 1.3 · Every book a little (6 points · 9 min · about 3 lines)
#
# Write `soft_lookup(query, keys, values, temperature)`: divide the dot products by the temperature (a number above 0),
# make shares over the keys with `attn_ref.softmax`, and mix the values by the shares. Shapes are as in 1.2, for one query
# and for many. Scores of ±100,000 and temperatures from 0.001 to 1000 must give no NaN, and the inputs must stay as they
# were.
#
# By hand: the query ln 3 and the keys 1 and 0 score ln 3 and 0. The exponentials are 3 and 1, the shares 0.75 and 0.25,
# so the values 4 and 0 mix to 3. At temperature 0.5 the scores double, the shares are 0.9 and 0.1, and the mix is 3.6.


# %% exercise="1.3"
def soft_lookup(query, keys, values, temperature):
    """All values, mixed by their keys' shares.  query (n, d) or (d,) -> (n, d_v) or (d_v,)"""
    ### BEGIN SOLUTION
    scores = query @ keys.T / temperature  # (n, m) or (m,)
    weights = attn_ref.softmax(scores)
    return weights @ values
    ### END SOLUTION


# %% try="1.3"
for temperature in (0.01, 1.0, 100.0):
    print(temperature, soft_lookup(np.array([1.0, 0.0]), keys, values, temperature))

# %% check="1.3"
check("1.3", soft_lookup)

# %% [markdown] teacher="1.3"
# **Why this works.** Shares times values is a weighted average, written as a matrix product. Its last axis is the keys'
# for one query and for many, so no case distinction is needed.
#
# **Common wrong turns.** Multiplying by the temperature; dividing after the softmax; sharing over the queries; an exp of
# one's own that overflows; `query /= temperature`, which writes into the caller's array.
#
# **Another way.** `attn_ref.attention` with `scale=1 / temperature`, or a loop over the keys that subtracts the largest
# score first.

# %% [markdown]
# A soft lookup with dot products *is* attention: the reference does the same under another name, with
# `scale=1/temperature`. Here it is beside the number worked by hand, one query at a time and all at once.

# %%
by_hand = attn_ref.attention([[np.log(3.0)]], [[1.0], [0.0]], [[4.0], [0.0]], scale=1 / 0.5)
queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
together = attn_ref.attention(queries, keys, values, scale=1.0)
one_by_one = [attn_ref.attention([query], keys, values, scale=1.0)[0] for query in queries]
gap = np.abs(together - one_by_one).max()
print(f"by hand 3.6, computed {by_hand.item():.4f}; largest difference {gap:.1e}")

# %% [markdown]
# ### Temperature: from one book to all books
#
# Predict first. The query (1, 0) gives the cat 1.0, the mat 0.9 and the others at most 0.1. At temperature 0.1, which
# share does the cat get?

# %%
my_guess = None  # your guess: a number between 0 and 1

# %%
shares = {}
for t in (0.01, 0.1, 10.0):
    out, weights = attn_ref.attention(queries[:1], keys, values, scale=1 / t, return_weights=True)
    shares[f"T = {t:g}"] = weights[0]
guess(my_guess, measured=shares["T = 0.1"][1].round(4))

# %% [markdown]
# The lead of 0.1, divided by 0.1, is a lead of 1, so cat and mat share 2.72 to 1. The others are 9 behind: nothing.

# %%
plots.bars(shares, sentence.TOKENS, title="one query, three temperatures", limit=1.15)

# %% [markdown]
# From left to right in each group the lookup warms up. At 0.01 the cat takes all, which is the hard lookup; at 10 each
# word gets about a sixth, whatever was asked.

# %% [markdown]
# ### Break it: a temperature the wrong way round
#
# The planted bug below hands the temperature on as the scale, so it multiplies. At temperature 1 nobody would notice.
# Which criteria do? (It bears another name than your answer, so it does not count as yours.)


# %%
def wrong_way_round(query, keys, values, temperature):
    out = attn_ref.attention(np.atleast_2d(query), keys, values, scale=temperature)
    return out[0] if query.ndim == 1 else out


check("1.3", wrong_way_round)

# %% [markdown]
# The first criterion passes, because all its temperatures are 1. The next three catch the bug, and the card recognises the
# mistake, because on every case it did what a known wrong answer does.

# %% [markdown]
# ### When two labels nearly tie
#
# Let two books only stand on the shelf: one is alive (1), one is not (0). The first label scores 1.00 and the second
# grows from 0.99 to 1.01. A hard lookup jumps from 1 to 0. How far does the answer of a soft lookup move, at
# temperature 1?

# %%
my_guess = None  # your guess: a number between 0 and 1


# %%
def answer(second, temperature):
    labels, alive = [[1.0], [second]], [[1.0], [0.0]]
    return attn_ref.attention([[1.0]], labels, alive, scale=1 / temperature).item()


moved = answer(0.99, 1.0) - answer(1.01, 1.0)
guess(my_guess, measured=round(moved, 4))

# %% [markdown]
# Two hundred times less than the jump. Here is the whole way, with a temperature of 0.000001 as the hard lookup.

# %%
second = np.linspace(0.5, 1.5, 40)
kinds = {"hard": 1e-6, "soft, T = 0.1": 0.1, "soft, T = 1": 1.0}
curves = {name: np.array([answer(s, t) for s in second]) for name, t in kinds.items()}
print(f"the soft answer moves from {answer(0.99, 1.0):.4f} to {answer(1.01, 1.0):.4f}, by {moved:.3f}")
plots.lines(second, curves, xlabel="second label's score; the first scores 1", ylabel="alive")

# %% [markdown]
# The hard line is flat, falls off a cliff, and is flat again. The soft lines slope. A slope says in which direction a
# label should move to improve the answer; a flat line says nothing. That is why soft lookups can be trained by
# following slopes (chapter 03).
#
# So attention is no search for the best match. It is a **soft aggregation**: many values contribute, in shares.

# %% [markdown]
# ## Where it began: a match that is learned
#
# The first attention in translation did not use dot products. Bahdanau, Cho and Bengio (arXiv, September 2014; ICLR
# 2015) let the decoder look back at *all* states of the encoder, one for each source word. At every step its own state
# is the query; a tiny network scores each encoder state.
#
# One hidden unit of that network is tanh(a number from the query + a number from the key). Let the unit hear how much of a *thing* a word
# is, and let the query "where" push it down by 4.

# %%
unit = np.tanh(np.add.outer([0.0, -4.0], words[:, 0]))  # (2 queries, 6 keys)
plots.scores(unit, ["who", "where"], sentence.TOKENS, title="one hidden unit")

# %% [markdown]
# "Who" adds 0, so the unit works where tanh is steep: it tells cat (0.76) from on (0). "Where" pushes it to the flat
# end, and it says about −1 to every word. So the query decides which units can still tell one key from another.
#
# A score is then a weighted sum of all the hidden units. Because each side has a matrix of its own, a query and a key may
# have different widths, which a dot product cannot allow.

# %% [markdown]
# ### Exercise 1.4 · A match that is learned (6 points · 18 min · about 3 lines)
#
# Write `additive_scores(query, keys, w_q, w_k, w_v)`: tanh(query `w_q` + key `w_k`) · `w_v` for every query with every
# key. Here `w_q` is (d_q, h), `w_k` (d_k, h) and `w_v` (h,). Queries (n, d_q) and keys (m, d_k) give a table (n, m), queries
# down and keys across; a single query (d_q,) gives (m,). Return the scores; no softmax yet. Huge sums must give no
# NaN, and the inputs must stay as they were.
#
# By hand, with h = 1, `w_q` = 1, `w_k` = −1 and `w_v` = 2: the query 1 and the keys 0 and 1 give 2 · tanh(1) = 1.523
# and 2 · tanh(0) = 0.


# %% exercise="1.4"
def additive_scores(query, keys, w_q, w_k, w_v):
    """tanh(query w_q + key w_k) · w_v for every pair.  -> (n, m), or (m,) for a single query"""
    ### BEGIN SOLUTION
    asked = (query @ w_q)[..., None, :]  # (n, 1, h) or (1, h)
    offered = keys @ w_k  # (m, h)
    return np.tanh(asked + offered) @ w_v
    ### END SOLUTION


# %% try="1.4"
w_q = np.array([[0.0, -4.0], [-4.0, 0.0]])  # each query puts the other's unit to sleep
w_k = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # unit 0 hears things, 1 places
tried = additive_scores(np.eye(2), words, w_q, w_k, np.array([3.0, 3.0]))
plots.scores(tried, ["who", "where"], sentence.TOKENS)

# %% check="1.4"
check("1.4", additive_scores)

# %% [markdown] teacher="1.4"
# **Why this works.** The new axis lets NumPy pair every query with every key: (n, 1, h) + (m, h) becomes (n, m, h).
# For a single query the same index gives (1, h) + (m, h), so one line serves both.
#
# **Common wrong turns.** Adding row to row, which even runs when n = m; tanh on each part before the sum; forgetting
# tanh, which the next cells take apart.
#
# **Another way.** Join each pair to one long vector and multiply by the stacked matrix [w_q; w_k]. It is the same sum,
# but it repeats the projection for every pair: h · (d_q + d_k) multiplications more for each.

# %% [markdown]
# ### Without tanh the question is not heard
#
# Two such units, one for things and one for places, with weight 3 each, and a softmax over the keys:

# %%
thing_side = np.add.outer([0.0, -4.0], words[:, 0])
place_side = np.add.outer([-4.0, 0.0], words[:, 2])
with_tanh = attn_ref.softmax(3 * np.tanh(thing_side) + 3 * np.tanh(place_side))
plots.weights(with_tanh, ["who", "where"], sentence.TOKENS, title="with tanh")

# %% [markdown]
# "Who" reads cat and mat, "where" reads on and mat. Now the same without tanh. What will the two rows look like?

# %%
without_tanh = attn_ref.softmax(3 * thing_side + 3 * place_side)
plots.weights(without_tanh, ["who", "where"], sentence.TOKENS, title="without tanh")

# %% [markdown]
# The two rows are now equal. Without tanh the query adds the same number to the score of every key, and softmax sees only
# differences. In the dot product it is the multiplication that lets query and key meet; here it is the bend of tanh.

# %% [markdown]
# ## Three roles for one word
#
# So far the card came from a decoder and the labels from an encoder. In **self-attention** the words of one sentence
# look each other up: every word writes a card, wears a label and holds a book. Versions of it appeared from 2016 on, and
# Vaswani and others (2017) built a whole translator out of it, the Transformer, with no RNN left.
#
# All three are made from the word's own row. One number on a card is a mix of the word's features: "seeks a thing" may be
# action × 4, place × 2 and function × 2. A matrix holds all such mixes, and training finds them.

# %% [markdown]
# ### Exercise 1.5 · Card, label and book (5 points · 4 min · about 1 line)
#
# Write `project_qkv(x, w_q, w_k, w_v)`: the words `x` of shape (…, n, d) times each matrix, returned as three arrays q, k,
# v in this order. Each matrix is (d, its own width). Leading axes, such as a batch of sentences, stay as they are,
# also a batch of one. The inputs must stay as they were.
#
# By hand: the word (1, 2) with `w_q` = (1, 0) and `w_k` = (0, 1) as columns has the query 1 and the key 2.


# %% exercise="1.5"
def project_qkv(x, w_q, w_k, w_v):
    """Card, label and book of every word.  x (..., n, d) -> q, k, v"""
    ### BEGIN SOLUTION
    return x @ w_q, x @ w_k, x @ w_v
    ### END SOLUTION


# %% try="1.5"
w_seek = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 2.0], [2.0, 0.0]])  # sought
w_label = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # offered
q, k, v = project_qkv(words, w_seek, w_label, np.eye(4)[:, :3])
plots.matrix(q, sentence.TOKENS, ["thing", "place"], title="what each seeks")

# %% check="1.5"
check("1.5", project_qkv)

# %% [markdown] teacher="1.5"
# **Why this works.** A word is a row, so `x @ w` transforms every word alike and leaves the axes before it in peace.
#
# **Common wrong turns.** K and V swapped, which no shape error reveals when their widths agree; one matrix for both q and
# k, which makes the scores symmetric; `x.reshape(-1, d)`, which runs the sentences of a batch together.
#
# **Another way.** One product with the three matrices side by side, then `np.split`: a single large product is faster,
# and many libraries store the weights so.

# %% [markdown]
# In your picture of the cards, *sat* seeks things most (4.60). Here are the same cards and labels with the mixes written
# out by hand, and who reads whom.


# %%
def who_reads_whom(x):
    thing, action, place, function = x.T
    q = np.stack([4 * action + 2 * place + 2 * function, 2 * place], axis=1)  # sought
    k = np.stack([thing, place], axis=1)  # offered
    return attn_ref.attention(q, k, x, scale=1.0, return_weights=True)[1]


weights = who_reads_whom(words)
plots.weights(weights, sentence.TOKENS, sentence.TOKENS, title="self-attention by hand")

# %% [markdown]
# *sat* reads cat (0.48) and mat (0.49): who sat, and where. *on* reads mat (0.71). Both *the* have the same row, because
# nothing here knows positions; chapter 05 mends that.

# %% [markdown]
# ### The weights are made on the spot
#
# A network could learn one table of weights, so much of position 1 and so much of position 5, and use it for every
# sentence. Attention keeps only its *matrices* fixed and computes the *weights* from the content: the route is decided on
# the spot. That is **dynamic routing** in the plain sense (the name is also used for capsule networks). Swap cat and mat
# once more and watch where *on* looks.

# %%
rows = {
    "the cat sat on the mat": who_reads_whom(words)[3],
    "the mat sat on the cat": who_reads_whom(swapped)[3],
}
plots.bars(rows, title="where “on” looks, by position", limit=0.85)

# %% [markdown]
# The same matrices, another route: the large bar moves from position 5 to position 1, after the mat.
#
# Nothing in a lookup says that the rows are words. They may be patches of an image or slices of sound: attention asks only
# for vectors. What they mean, and in which order they stand, has to be put *into* them.

# %% [markdown]
# ## One step instead of n
#
# Back to the path length. Take an RNN without tanh, so that only $W_h$ acts, and let each step keep 90 % of the state's
# length. What part of the first word's signal is left in the last state, after a sentence of 50 words?

# %%
my_guess = None  # your guess: a number between 0 and 1

# %%
turn = np.array([[0.6, -0.8], [0.8, 0.6]])  # turns a vector and keeps its length: 0.6² + 0.8² = 1
n_words = np.arange(1, 101, 3)


def left_in_state(kept, n):
    return np.linalg.norm([1.0, 0.0] @ np.linalg.matrix_power(kept * turn, n - 1))


guess(my_guess, measured=round(left_in_state(0.9, 50), 5))

# %% [markdown]
# 49 steps at 0.9 leave 0.9⁴⁹, about half a percent. Against it, one attention step: the first word's value is 1, all
# others 0, so the output *is* its share.


# %%
def left_by_attention(lead, n):
    first = np.eye(n)[:, :1]  # (n, 1): 1 for the first word, 0 for the others
    return attn_ref.attention([[1.0]], lead * first, first, scale=1.0).item()


curves = {}
for kept in (0.9, 1.0, 1.05):
    curves[f"RNN, keeps {kept:.0%}"] = [left_in_state(kept, n) for n in n_words]
for lead in (5, 0):
    curves[f"attention, lead {lead}"] = [left_by_attention(lead, n) for n in n_words]
plots.lines(n_words, curves, xlabel="words", ylabel="signal of the first word", logy=True)

# %% [markdown]
# At 90 % the line falls, at 105 % it grows without end. A label that leads all others by 5 keeps
# a share of 0.6 among 100 words. With no lead, attention has only 1/n. So a path of one step is no promise: a word
# is heard only as far as its label earns it a share.

# %% [markdown]
# ### Faster, on a machine that can do many things at once
#
# You may read that attention trains "tens of times faster" than an RNN. That is a claim about hardware, not a law. Count
# the steps that wait for each other and the main multiplications, RNN to attention, when each word and each state has
# d = 512 numbers.

# %%
d = 512
for n in (6, 60, 600, 6000):
    rnn = 2 * n * d * d  # state @ w_h and word @ w_x
    attention = 3 * n * d * d + 2 * n * n * d  # q, k and v; then the scores, and the mixing
    print(f"{n:4d} words: waits {n:4d} to 1, multiplications 1 to {attention / rnn:.2f}")

# %% [markdown]
# At 600 words attention does 2.67 times the multiplications of the RNN, and at 6 words still 1.51 times.
#
# Its gain is that in training, where all words are known, they may run side by side. A GPU with thousands of units turns
# that into speed; one slow core does not. Chapter 08 measures.

# %% [markdown]
# ## Other pictures, and where each breaks
#
# | picture | what it shows well | where it breaks |
# |---|---|---|
# | library | card, label and book are three things | you leave with one book, not with a blend of all |
# | scheduler | a request is scored against every machine | a job lands on one machine and occupies it; reading a value uses up nothing |
# | routing table | who gets data from whom | a router keeps its table and picks one next hop; here every input makes a new one |
# | spotlight | much light here, little there | someone aims one beam; attention may light up words far apart |

# %% [markdown]
# ## Quiz

# %% quiz="1.a"

# %% quiz="1.b"

# %% quiz="1.c"

# %% quiz="1.d"

# %% [markdown]
# ### Question 1.w · Is attention a dictionary? (4 points · 10 min)
#
# A colleague says: "Attention is a dictionary. You give it a query, and it returns the value of the most similar entry."
# In five to eight sentences: what is right about that, what is wrong, and what would be lost if it were true?

# %% [markdown] written="1.w"
# ### BEGIN SOLUTION
# **4 points.** The colleague is right that a query is compared with keys and that values come back, and that key and value
# are two things. But a dictionary needs an exact match, while attention scores every key by how similar it is. And it
# does not return one entry: softmax turns the scores into shares that sum to 1, and the answer is the mix of *all* values
# by these shares. Query, key and value are not given either; learned matrices make them from the input. If only the most
# similar entry came back, a tiny change of a key could flip the answer from one value to another. Everywhere else the
# answer would not move at all, so there would be no slope to learn the keys from.
#
# **3 points.** Queries, keys and values are as the colleague says, but attention does not take only the best entry. It
# mixes all values with weights that sum to 1. With the best one alone, the output would jump when two keys nearly tie.
#
# **2 points.** It is not the most similar entry but a weighted average of all the values, where similar keys get more
# weight.
#
# **1 point.** Yes: the query is what I look for, the keys are what is compared, and the value of the best key is returned.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# - `torch.nn.functional.scaled_dot_product_attention(q, k, v)` is your soft lookup. Its `scale` is 1/temperature, and
#   defaults to 1/√d, which chapter 02 explains.
# - PyTorch's `nn.MultiheadAttention` stores $W_q$, $W_k$ and $W_v$ as one matrix, `in_proj_weight`: one product for three.
# - A server keeps the keys and values of past words, and no queries, for nobody asks with an old card again: the *KV
#   cache* of chapter 09.

# %% [markdown]
# ## Takeaways
#
# - The last state of an RNN holds 3 numbers here, whether 6 words bring 24 or 600 words bring 2,400.
# - Through steps that keep 90 %, 0.57 % of the first of 50 words is left; one attention step with a lead of 5 keeps 75 %.
# - The temperature turns a lead into shares: a lead of 0.1 at temperature 0.1 gives 0.73 to 0.27.
# - When two keys trade the lead by 0.01, a hard lookup jumps by 1 and a soft one moves by 0.005.
# - With 600 words of 512 numbers attention multiplies 2.67 times as much as an RNN, and waits once instead of 600 times.

# %%
print(f"RNN {left_in_state(0.9, 50):.2%}, attention {left_by_attention(5, 50):.0%}")
progress(1)

# %% [markdown]
# ## Further
#
# - Bengio, Simard, Frasconi: *Learning Long-Term Dependencies with Gradient Descent is Difficult* (1994). Why signals fade.
# - Cho and others: *On the Properties of Neural Machine Translation* (2014). Quality against length.
# - Bahdanau, Cho, Bengio: *Neural Machine Translation by Jointly Learning to Align and Translate* (arXiv 2014, ICLR 2015).
# - Luong, Pham, Manning: *Effective Approaches to Attention-based Neural Machine Translation* (2015). Dot-product scores.
# - Vaswani and others: *Attention Is All You Need* (2017). Table 1 compares path lengths.
#
# Next: chapter 02, where scores become shares, and every line of attention is yours.
