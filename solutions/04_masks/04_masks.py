# %% [markdown]
# # 04 · Masks: who may look at whom
#
# You write every mask in common use, and a detector that finds out whether a function looks into the future.
#
# 145 min · CPU · NumPy · needs 02

# %% [markdown]
# When you have finished, you will be able to
#
# - say who may look at whom in an encoder, a decoder and between the two, and write each mask;
# - turn masked scores into weights without NaN and without a false average;
# - find out whether a function sees the future, without reading its code.

# %%
import numpy as np

import attn_ref
from attn_ref import plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## A loss that cannot be true
#
# Here is a language of 12 tokens. Each token has three possible followers, and which of them comes is pure chance, one
# in three.

# %%
rng = np.random.default_rng(4)
FOLLOWERS = np.array([rng.choice(12, size=3, replace=False) for token in range(12)])


def write_texts(rng, count):
    """Texts of 17 tokens in this language.  -> (count, 17)"""
    texts = rng.integers(12, size=(count, 17))
    for t in range(1, 17):
        texts[:, t] = FOLLOWERS[texts[:, t - 1], rng.integers(3, size=count)]
    return texts


print("after 4 comes one of", FOLLOWERS[4])
print("a text:", write_texts(np.random.default_rng(0), 1)[0])

# %% [markdown]
# A model is to predict each next token. Its **loss** is the mean of -log p, where p is the share that it gave to the
# token that came. Blind guessing costs log 12 ≈ 2.48. To know the three followers costs log 3 ≈ 1.10, and more cannot be
# known: no model can stay below 1.10.
#
# The model is one attention layer on 16 tokens. Each is a vector with a 1 for the token and a 1 for its position, all else
# 0. Softmax turns its output, 12 **logits** for each token, into shares. `allowed` is the **mask**, a table of True and
# False: may query i attend to key j?


# %%
def predict(model, tokens, allowed):
    """From tokens (count, n) to the logits of each next token.  -> logits (count, n, 12), x, (q, k, v)"""
    place = np.broadcast_to(np.eye(16)[: tokens.shape[1]], (*tokens.shape, 16))
    x = np.concatenate([np.eye(12)[tokens], place], axis=-1)  # (count, n, 28)
    q, k, v = (x @ matrix for matrix in model)
    return attn_ref.attention(q, k, v, allowed=allowed), x, (q, k, v)


def train(allowed, steps=400, rate=10.0):
    """Gradient descent on fresh texts.  -> model, loss before each step"""
    rng, losses = np.random.default_rng(5), []
    model = [0.3 * rng.normal(size=(28, size)) for size in (16, 16, 12)]
    for _ in range(steps):
        texts = write_texts(rng, 32)
        read, to_come = texts[:, :-1], np.eye(12)[texts[:, 1:]]  # the target is the next token
        logits, x, qkv = predict(model, read, allowed)
        p = attn_ref.softmax(logits)
        losses.append(-np.log((p * to_come).sum(axis=-1)).mean())
        grads = attn_ref.attention_backward(*qkv, (p - to_come) / read.size, allowed=allowed)
        model = [w - rate * np.einsum("bnf,bnd->fd", x, g) for w, g in zip(model, grads, strict=True)]
    return model, np.array(losses)


# %% [markdown]
# (`attention_backward` gives the gradients; chapter 03 derives it.) Two models are trained, alike but for the mask. In
# the first a token sees itself and what came before; it comes to a loss of about 1.11. In the second the mask is off by
# one: each token also sees the next. To which loss does that one come?

# %%
my_guess = None  # your guess: its loss after 400 steps, in nats

# %% experiment="4.train"
honest_mask = attn_ref.causal_mask(16, 16)
leaky_mask = attn_ref.causal_mask(17, 17)[1:, :-1]  # every row is that of the next token
honest, honest_losses = train(honest_mask)
leaky, leaky_losses = train(leaky_mask)
guess(my_guess, measured=leaky_losses[-50:].mean(), unit="nats")

# %% [markdown]
# Here are both, from the first step to the last.

# %% experiment="4.curves"
floor = np.full(400, np.log(3))
curves = {"honest mask": honest_losses, "off by one": leaky_losses, "log 3": floor}
plots.lines(range(400), curves, "Next-token prediction", "step", "loss (nats)")

# %% [markdown]
# One curve comes down to log 3 and stays there. The other falls far below what is possible; what is left is the loss
# of the last token, which has nothing to copy. Every batch is fresh, so this is no overfitting, and a validation set,
# read through the same mask, would agree. By the end you will know what that model is worth.

# %% [markdown]
# ## A mask is a table of yes and no
#
# Chapter 02 let every token read every other. For an **encoder**, which reads a text that is there as a whole, this is
# right. It is **self-attention**: queries, keys and values come from one text.
#
# A **decoder** writes. When it predicts the word after “sat”, “on” does not exist yet. In training it does, since the
# whole text lies ready and all predictions are made in one pass. So the mask of decoder self-attention hides what would
# not be there: it is **causal**, it hides the future.

# %%
x = sentence.EMBEDDINGS
causal = attn_ref.causal_mask(6, 6)
plots.scores(attn_ref.attention_scores(x, x), sentence.TOKENS, sentence.TOKENS, "scores", allowed=causal)

# %% [markdown]
# Queries go down, keys go across; hatched pairs are hidden. A hidden score is replaced by -inf before softmax. Since
# exp(-inf) is 0, the key gets no share, and the visible keys divide the whole budget among them.

# %%
out, weights = attn_ref.attention(x, x, x, allowed=causal, return_weights=True)
plots.weights(weights, sentence.TOKENS, sentence.TOKENS, "weights", allowed=causal)

# %% [markdown]
# Every row still sums to 1. One masked pass equals six runs, in each of which the future has not been written yet:

# %%
one_by_one = [attn_ref.attention(x[i : i + 1], x[: i + 1], x[: i + 1])[0] for i in range(6)]
print("one masked pass against six runs:", np.abs(out - one_by_one).max())

# %% [markdown]
# ## A text that goes on: count from the end
#
# A model that continues a text has keys for all tokens, and queries for the new ones alone. The mask is then no square.
# Here the text has five tokens, and the last three ask.

# %%
read_on = {"the last 3 of 5": attn_ref.causal_mask(3, 5), "the whole text": attn_ref.causal_mask(5, 5)}
plots.masks(read_on)

# %% [markdown]
# The small mask is the bottom of the large one. It is aligned at the **bottom right**, since the last query is the last
# token.

# %% [markdown]
# ### Exercise 4.1 · Who may look back? (5 points · 10 min · about 3 lines)
#
# Write `causal_mask(n_q, n_k)`: a bool array (n_q, n_k), `True` where query i may attend to key j. The queries are the
# *last* n_q of the n_k positions; each sees itself and what came before. Both numbers are at least 1. There may be more
# queries than keys: the first queries then stand before the first key and see nothing.
#
# By hand, two new queries after three tokens that have been read:
#
# |         | k0 | k1 | k2 | k3 | k4 |
# |---------|----|----|----|----|----|
# | query 0 | True | True | True | True | False |
# | query 1 | True | True | True | True | True |


# %% exercise="4.1"
def causal_mask(n_q, n_k):
    """Who may look back.  -> (n_q, n_k) bool, True = may attend"""
    ### BEGIN SOLUTION
    position = np.arange(n_q)[:, None] + (n_k - n_q)  # where each query stands among the keys
    return np.arange(n_k) <= position
    ### END SOLUTION


# %% try="4.1"
plots.mask(causal_mask(2, 5))

# %% check="4.1"
check("4.1", causal_mask)

# %% [markdown] teacher="4.1"
# **Why this works.** Both sides of the comparison are positions in one text, so that one rule serves squares, single
# queries and queries before the first key. **Common wrong turns.** Comparing the row number i with j, which is right for
# squares alone. Joining a block of True to a triangle, which fails where n_q > n_k. **Another way.**
# `np.tri(n_q, n_k, n_k - n_q, dtype=bool)`.

# %% [markdown]
# ### Break it: a bug that no square shows
#
# The function below cuts its mask out of a large square at the top *left*. On squares it is right.


# %%
def from_the_top_left(n_q, n_k):
    """A causal mask with a planted bug."""
    largest = max(n_q, n_k)
    return attn_ref.causal_mask(largest, largest)[:n_q, :n_k]


check("4.1", from_the_top_left)

# %% [markdown]
# With two queries and five keys the first sees one key in place of four. Nothing crashes; the model has forgotten its
# text.

# %% [markdown]
# ## Padding: hide keys, not queries
#
# Arrays are rectangles and texts are not. A batch is filled up on the right with tokens that mean nothing, called
# **padding**.

# %%
short_texts = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 1, -1, -1, -1], [2, 2, 2, 2, -1, -1]])
plots.batches({"three texts of 6, 3 and 4 tokens": short_texts})

# %% [markdown]
# Hatched cells hold padding. No query may read it, so the mask hides *keys*. Queries need not be hidden: what a padded
# position reads is thrown away, and an empty row asks for trouble.

# %% [markdown]
# ### Exercise 4.2 · Which keys are text? (5 points · 6 min · about 2 lines)
#
# Write `padding_mask(lengths, n)`. `lengths` is an array of B whole numbers between 0 and n: in row b of the batch, the
# first `lengths[b]` of n positions are text. Return a bool array (B, 1, n), True on the text. The axis of length 1
# stands for the queries, so that the mask fits scores (B, n_q, n). `lengths` must stay as it was.
#
# By hand: `padding_mask(np.array([3, 1]), 4)` is `[[[True, True, True, False]], [[True, False, False, False]]]`.


# %% exercise="4.2"
def padding_mask(lengths, n):
    """Which of n keys are text.  lengths (B,) -> (B, 1, n) bool, True = may attend"""
    ### BEGIN SOLUTION
    return np.arange(n) < lengths[:, None, None]
    ### END SOLUTION


# %% try="4.2"
padding_mask(np.array([3, 1]), 4)

# %% check="4.2"
check("4.2", padding_mask)

# %% [markdown] teacher="4.2"
# **Why this works.** Positions lie along the last axis, lengths along the first; broadcasting compares each with each.
# **Common wrong turns.** `<=`; (B, n), which meets (B, n_q, n_k) scores as if the batch were the queries; hiding the
# queries as well. **Another way.** Rows of a triangle, `np.tri(n + 1, n, -1, dtype=bool)[lengths][:, None]`.

# %% [markdown]
# ## Windows: no further back than this
#
# A **sliding window** lets each token see itself and a fixed number of tokens before it. The pairs then grow with the
# length of the text and not with its square. In the next layer each neighbour brings along what it read. Here is what a
# window of 3 reaches.

# %%
near = attn_ref.sliding_window_mask(12, 12, 3)
two_layers = near @ near  # True where some token in between is seen by one and sees the other
plots.masks({"1 layer": near, "2 layers": two_layers, "4 layers": two_layers @ two_layers})

# %% [markdown]
# Each layer reaches two tokens further back, one less than the window.

# %% [markdown]
# ### Exercise 4.3 · No further back than the window (5 points · 8 min · about 3 lines)
#
# Write `sliding_window_mask(n_q, n_k, window)`: a bool array (n_q, n_k), with the queries at the last n_q of n_k
# positions, as in 4.1. A query at position p sees the keys from p - window + 1 up to p, those that exist. `window` is at
# least 1 and may be larger than the text. You may build on `causal_mask`, yours or that of `attn_ref`.
#
# By hand, with a window of 3, query 0 of 2 stands at position 3 (of 0 to 4) and sees the keys 1, 2 and 3.


# %% exercise="4.3"
def sliding_window_mask(n_q, n_k, window):
    """Each query sees itself and the window - 1 keys before it.  -> (n_q, n_k) bool"""
    ### BEGIN SOLUTION
    position = np.arange(n_q)[:, None] + (n_k - n_q)
    key = np.arange(n_k)
    return (key <= position) & (key > position - window)
    ### END SOLUTION


# %% try="4.3"
plots.mask(sliding_window_mask(6, 6, 3))

# %% check="4.3"
check("4.3", sliding_window_mask)

# %% [markdown] teacher="4.3"
# **Why this works.** Two conditions on one distance, 0 ≤ p - j < window. **Common wrong turns.** A window that leaves
# out the query itself; |p - j| < window, which looks ahead; `and` in place of `&`. **Another way.** The difference of
# two triangles.

# %% [markdown]
# ## Packing: several documents in one row
#
# Padding is paid for. Take 64 documents, most of them short, a few long, and fill each row up to the longest. What share
# of the positions holds text?

# %%
my_guess = None  # your guess: the share of positions that hold text, between 0 and 1

# %%
rng = np.random.default_rng(2)
lengths = np.clip(rng.lognormal(4, 1, size=64), 4, 512).astype(int)
longest = lengths.max()
print(f"{lengths.min()} to {longest} tokens, half of the documents below {np.median(lengths):.0f}")
guess(my_guess, measured=lengths.sum() / (64 * longest))

# %% [markdown]
# Less than a fifth, and it is worse for attention: a document of n tokens needs n² scores and gets those of the longest.
# The way out is **packing**: put documents end to end into rows of a fixed length.

# %%
texts = [4, 2, 6, 3, 5, 2]
padded = np.full((6, 6), -1)
for text, length in enumerate(texts):
    padded[text, :length] = text
packed = np.array([np.repeat([0, 2, 5], [4, 6, 2]), [*np.repeat([1, 3, 4], [2, 3, 5]), -1, -1]])
plots.batches({"padded": padded, "packed": packed})

# %% [markdown]
# The same six documents, with two positions of padding in place of fourteen. Now the 64 documents: the longest first,
# each into the first row that has room.

# %%
rows = []
for length in sorted(lengths, reverse=True):
    row = next((row for row in rows if sum(row) + length <= longest), None)
    rows.append([length]) if row is None else row.append(length)
for name, count in (("padded", 64), ("packed", len(rows))):
    text = lengths.sum() / (count * longest)
    needed = (lengths**2).sum() / (count * longest**2)
    print(f"{name}: {count} rows, {text:.0%} text, {needed:.0%} of the scores lie within one document")

# %% [markdown]
# Packing needs a fifth as many rows. But strangers share them: two scores in three are of no use, and a causal mask lets
# the second document read the first. What does that change? Let the two halves of the sentence be two documents.

# %%
alone = np.concatenate([attn_ref.attention(part, part, part, causal=True) for part in (x[:3], x[3:])])
together = attn_ref.attention(x, x, x, causal=True)
bordered = attn_ref.attention(x, x, x, allowed=attn_ref.document_mask([0, 0, 0, 1, 1, 1]))
change = np.abs([together - alone, bordered - alone]).max(axis=-1)
names = ["causal mask alone", "with a border"]
plots.matrix(change, names, sentence.TOKENS, "Against each alone", "change")

# %% [markdown]
# Under a causal mask alone the second document comes out different. With a border between the documents, packing
# changes nothing.

# %% [markdown]
# ### Exercise 4.4 · Several documents in one row (5 points · 8 min · about 3 lines)
#
# Write `document_mask(doc_ids)`. `doc_ids` is an array of n whole numbers: `doc_ids[i]` names the document of token i,
# and the tokens of a document stand side by side. Ids are names: any whole numbers of int64, in no order. Return a
# bool array (n, n): a token sees itself and what came before it in its own document. `doc_ids` must stay as it was.
# Again you may build on `causal_mask`.
#
# By hand, `document_mask(np.array([7, 7, 9]))`: token 0 sees itself, token 1 sees tokens 0 and 1, token 2 sees itself.


# %% exercise="4.4"
def document_mask(doc_ids):
    """Causal attention within each document of a row.  (n,) -> (n, n) bool"""
    ### BEGIN SOLUTION
    same = doc_ids[:, None] == doc_ids
    return same & causal_mask(len(doc_ids), len(doc_ids))
    ### END SOLUTION


# %% try="4.4"
plots.mask(document_mask(np.array([7, 7, 9])))

# %% check="4.4"
check("4.4", document_mask)

# %% [markdown] teacher="4.4"
# **Why this works.** Masks combine with &: a pair must be allowed by both rules. **Common wrong turns.** Everyone sees
# everyone within a document; `>=` on ids, which is right for one document alone; `doc_ids == doc_ids`, which compares
# token by token. **Another way.** A triangle for each document on the diagonal.

# %% [markdown]
# ## The zoo
#
# Conditions join with `&`. One more rule is a **prefix**: the first tokens, such as a question, are read as by an
# encoder, and the answer after them is written as by a decoder.

# %%
ids = np.array([1, 1, 1, 2, 2, 3, 3, 3])
zoo = {
    "encoder": np.ones((8, 8), dtype=bool),
    "encoder, padded": np.broadcast_to(attn_ref.padding_mask([6], 8)[0], (8, 8)),
    "decoder": attn_ref.causal_mask(8, 8),
    "decoder, goes on": attn_ref.causal_mask(3, 8),
    "window 3": attn_ref.sliding_window_mask(8, 8, 3),
    "documents": attn_ref.document_mask(ids),
    "documents, window 2": attn_ref.document_mask(ids) & attn_ref.sliding_window_mask(8, 8, 2),
    "prefix 3": attn_ref.prefix_mask(8, 3),
}
plots.masks(zoo)

# %% [markdown]
# The future is at the upper right. Encoders see it, tokens of a prefix see each other, and the other masks hide it.

# %% [markdown]
# ## A row with nothing to see
#
# Two honest masks together can leave nothing. Generation pads on the *left*, so that all texts end at one place; behind
# the first queries there is then padding and nothing else.

# %%
left_padded = attn_ref.padding_mask([4], 6, side="left")[0] & attn_ref.causal_mask(6, 6)
plots.mask(left_padded, title="causal, and two tokens of padding on the left")

# %% [markdown]
# Rows 0 and 1 are empty. Softmax over nothing but -inf is 0/0, and to be rid of that NaN many programs write -1e9 where
# -inf is meant. Let a query have the scores 5, 1 and 0, all hidden, and the values 0, 30 and 90. What does it read when
# -1e9 is *put in place* of its scores?

# %%
my_guess = None  # your guess: the number that is read

# %%
hidden_scores, values = np.array([5.0, 1.0, 0.0]), np.array([0.0, 30.0, 90.0])
put_in = attn_ref.softmax(np.full(3, -1e9)) @ values
guess(my_guess, measured=put_in)

# %% [markdown]
# The plain average of everything forbidden: softmax sees only differences, and equal scores have none. Many programs
# *add* -1e9 instead. Try that as well, in two precisions, and -inf.

# %%
for dtype in (np.float64, np.float32):
    added = hidden_scores.astype(dtype) + dtype(-1e9)
    print(f"-1e9 added, {dtype.__name__}:", (attn_ref.softmax(added) @ values).round(2))
print("no mask at all:     ", (attn_ref.softmax(hidden_scores) @ values).round(2))
with np.errstate(invalid="ignore"):
    minus_inf = np.exp(np.full(3, -np.inf) - -np.inf)
print("-inf, as in a book: ", minus_inf / minus_inf.sum() @ values)
print("the course:         ", attn_ref.softmax(np.full(3, -np.inf)) @ values)

# %% [markdown]
# Added in float64, -1e9 keeps every difference, and the row is read as if there were no mask. In float32 the
# differences drown, and it is the average again. Either way, an empty row of the mask above reads what comes later.
#
# So there is a **contract**, and every function of this course keeps it: a query with nothing to attend to gets weights
# of 0, the output 0 and the gradient 0, never NaN and never an average.

# %% [markdown]
# ### Hide before softmax, not after
#
# Another shortcut: softmax over all keys, and the hidden weights set to 0 afterwards. To what does the first row of our
# sentence, that of “the”, then sum?

# %%
my_guess = None  # your guess: the sum of row 0, where only “the” itself is visible

# %%
after = attn_ref.softmax(attn_ref.attention_scores(x, x)) * causal
guess(my_guess, measured=after[0].sum())

# %% [markdown]
# The rest of the budget went to hidden keys. How much went there depends on them: a later token is not read, and still
# has an influence.

# %% [markdown]
# ### Exercise 4.5 · Shares among the visible (7 points · 20 min · about 6 lines)
#
# Write `masked_softmax(scores, mask)`. `scores` (..., n_k) are finite numbers up to ±100,000, whole or not; `mask` is
# an array of bool that broadcasts to their shape. Return shares of that shape: along the last axis the visible keys
# share 1 in proportion to exp(score), and hidden keys get exactly 0, however large their scores are. A row with nothing
# visible gets 0 everywhere. Both inputs must stay as they were.
#
# Start from `np.exp`. `attn_ref.softmax` knows about empty rows already; in a graded class, an answer that calls it
# gets 0 points.
#
# By hand: the scores (0, log 3, 5) with the mask (True, True, False) give (0.25, 0.75, 0).


# %% exercise="4.5"
def masked_softmax(scores, mask):
    """Shares among the visible keys.  scores (..., n_k), mask broadcasts -> (..., n_k), 0 where hidden"""
    ### BEGIN SOLUTION
    hidden = np.where(mask, scores, -np.inf)
    largest = hidden.max(axis=-1, keepdims=True)
    largest = np.where(np.isneginf(largest), 0.0, largest)  # -inf - -inf would be NaN
    exponentials = np.exp(hidden - largest)
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / np.where(total > 0, total, 1.0)
    ### END SOLUTION


# %% try="4.5"
print(masked_softmax(np.array([[0.0, np.log(3.0), 5.0]]), np.array([[True, True, False]])))
plots.weights(masked_softmax(attn_ref.attention_scores(x, x), left_padded), sentence.TOKENS, sentence.TOKENS)

# %% check="4.5"
check("4.5", masked_softmax)

# %% [markdown] teacher="4.5"
# **Why this works.** The maximum is taken after hiding, so that a hidden giant does not push the visible scores into
# underflow. The two `np.where` are the contract of the empty row. **Common wrong turns.** -1e9; `scores[~mask] = -inf`,
# which writes into the input and does not broadcast; renormalising afterwards, which fails beside a hidden giant.
# **Another way.** Put a low number in, multiply the exponentials by the mask, and divide by the total or a tiny number.

# %% [markdown]
# ## Cross-attention: one text asks, another is read
#
# A translator's decoder also reads the sentence to be translated, through **cross-attention**: queries come from the
# text being written, keys and values from the other, which is called the **memory**. Here is a French one, with vectors
# made by hand from the features of chapter 02.

# %%
FRENCH = ("le", "chat", "était", "assis", "sur", "le", "tapis")
le, assis, tapis = [0.1, 0, 0, 1], [0.1, 1, 0.3, 0], [0.9, 0, 0.8, 0]
memory = np.array([le, [1, 0.2, 0, 0], [0, 0.5, 0, 0.5], assis, [0, 0.1, 1, 0.5], le, tapis])
_, across = attn_ref.attention(x, memory, memory, scale=4.0, return_weights=True)
plots.weights(across, sentence.TOKENS, FRENCH, title="English queries, French keys")

# %% [markdown]
# Each word finds its translation (a scale of 4 makes the map easy to read); “le” stands twice and gets equal shares.
# No causal mask belongs here: the French sentence is complete before the first English word.
#
# | | queries from | keys and values from | mask |
# |---|---|---|---|
# | encoder self-attention | source | source | padding |
# | decoder self-attention | target | target | causal, and padding |
# | cross-attention | target | source | padding of the source |

# %% [markdown]
# ### Exercise 4.6 · Read another text (6 points · 12 min · about 5 lines)
#
# Write `cross_attention(x, memory, w_q, w_k, w_v, memory_mask=None)`. x is (..., n, d) and memory (..., m, d_m); the
# leading axes, if any, are the same in both. w_q is (d, a), w_k (d_m, a), w_v (d_m, c). Queries are x w_q; keys and
# values are made from the memory. The scale is 1/√a, the result (..., n, c). `memory_mask`, if given, is an array of
# bool, (m,) for all texts or (..., m) for each its own: True where a token of the memory may be read. Who may read
# nothing gets 0. No input may be written to.
#
# Build on `attn_ref.softmax`, `attn_ref.attention` or your own functions. By hand, with d = d_m = a = 1: the token 1,
# the memory log 3 and 0, w_q = w_k = 1 and w_v = (1, 2). The scores are log 3 and 0, the weights ¾ and ¼, the values
# (log 3, 2 log 3) and (0, 0), so the result is (0.824, 1.648).


# %% exercise="4.6"
def cross_attention(x, memory, w_q, w_k, w_v, memory_mask=None):
    """The tokens of x read a memory.  x (..., n, d), memory (..., m, d_m) -> (..., n, c)"""
    ### BEGIN SOLUTION
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ np.swapaxes(k, -1, -2) * w_q.shape[1] ** -0.5  # (..., n, m)
    if memory_mask is not None:
        scores = np.where(memory_mask[..., None, :], scores, -np.inf)
    return attn_ref.softmax(scores) @ v
    ### END SOLUTION


# %% try="4.6"
one = np.array([[1.0]])
print(cross_attention(one, np.array([[np.log(3.0)], [0.0]]), one, one, np.array([[1.0, 2.0]])))

# %% check="4.6"
check("4.6", cross_attention)

# %% [markdown] teacher="4.6"
# **Why this works.** Only the source of keys and values differs from chapter 02. The mask (..., m) needs an axis for the
# queries, or a batch is taken for them. **Common wrong turns.** Values from x, which fits while both texts are of one
# length; 1/√d; a causal mask out of habit; setting hidden tokens to 0, which leaves them a score of 0. **Another way.**
# `attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=...)`.

# %% [markdown]
# ## The same array, read the other way round
#
# Here, as in PyTorch's `scaled_dot_product_attention`, True means *may attend*. In the older `nn.MultiheadAttention` True
# means *ignore*. Nothing complains when the two are mixed up. Below is one causal mask as each would read it.

# %%
plots.masks({"True = may attend": attn_ref.causal_mask(6, 6), "True = ignore": ~attn_ref.causal_mask(6, 6)})

# %% [markdown]
# On the right the future is visible and nothing else, and the last row is empty. Before you pass a mask to a function
# that you did not write, look up what its True means.

# %% [markdown]
# ## What the loss did not say
#
# Back to the two models of the beginning. First, where does the leaky one look?

# %% experiment="4.look"
sample = write_texts(np.random.default_rng(8), 500)
_, _, (q, k, v) = predict(leaky, sample[:1, :-1], leaky_mask)
_, leaky_weights = attn_ref.attention(q[0], k[0], v[0], allowed=leaky_mask, return_weights=True)
plots.weights(leaky_weights, title="Leaky model, one text", allowed=leaky_mask)

# %% [markdown]
# The bright line runs one place right of the diagonal: each token copies its neighbour, which is the answer. Only the
# last has none. When the model writes, nobody has. Let it write 500 texts, with its own mask. What share of the tokens is
# a possible follower of the one before?

# %%
my_guess = None  # your guess: a share between 0 and 1; blind guessing would give 0.25


# %% experiment="4.write"
def possible(model, mask):
    """Write 500 texts token by token.  -> the share of tokens that may follow the one before"""
    rng = np.random.default_rng(9)
    texts = rng.integers(12, size=(500, 1))
    for n in range(1, 16):
        logits, _, _ = predict(model, texts, mask[:n, :n])
        ahead = np.cumsum(attn_ref.softmax(logits[:, -1]), axis=-1)  # draw from the last row's shares
        drawn = (rng.random((500, 1)) > ahead[:, :-1]).sum(axis=-1)
        texts = np.column_stack([texts, drawn])
    return (FOLLOWERS[texts[:, :-1]] == texts[:, 1:, None]).any(axis=-1).mean()


guess(my_guess, measured=possible(leaky, leaky_mask))

# %% [markdown]
# Less than blind guessing. With no neighbour to copy it copies itself, over and over, and few tokens may follow
# themselves. Here are both models, with their losses on new texts: under their own mask and under the honest one.

# %% experiment="4.bill"
bill = {}
for name, model, mask in (("honest", honest, honest_mask), ("leaky", leaky, leaky_mask)):
    shares = [attn_ref.softmax(predict(model, sample[:, :-1], one)[0]) for one in (mask, honest_mask)]
    bill[name] = np.array([-np.log((p * np.eye(12)[sample[:, 1:]]).sum(axis=-1)).mean() for p in shares])
    print(f"{name}: {possible(model, mask):.2f} of what it writes is possible")
plots.bars(bill, ["its own mask", "the honest mask"], "Loss on 500 new texts", "loss (nats)", limit=5)

# %% [markdown]
# Under its own mask the leaky model is ahead, on new texts too. Where the future is hidden it does worse than blind
# guessing, 2.48. The treacherous part is that every number before the model writes looks *better*.

# %% [markdown]
# ## Ask the function, not its author
#
# Code that looks right can leak, through a total or an index. But who sees whom can be *measured*: change one input and
# watch which outputs move. Here for two ways to smooth a series of 12 numbers, each the mean of three.


# %%
def centred(series):
    return np.convolve(series, np.ones(3) / 3, mode="same")


def trailing(series):
    return np.convolve(series, np.ones(3) / 3)[: len(series)]


series = np.random.default_rng(1).normal(size=12)
nudges = series + np.eye(12)  # row j is the series with entry j changed
measured = {f.__name__: np.array([f(one) != f(series) for one in nudges]).T for f in (centred, trailing)}
plots.masks(measured)

# %% [markdown]
# Read queries as outputs and keys as inputs: a cell is filled where the output moved. That is the mask that a function
# *has*, whatever its code says. Smooth with the first, and a forecast has seen tomorrow.

# %% [markdown]
# ### Exercise 4.7 · A detector for leaks (6 points · 40 min · about 12 lines)
#
# Write `leaks_future(attend)`. `attend(q, k, v)` takes arrays (n, d), (n, d) and (n, d_v) and returns (n, d_v). Return
# `True` if some row of its output changes when the query, key or value of a *later* token changes, else `False`. You
# choose the sizes and numbers and how often to call it; the check's 40 or so functions together have 10 seconds.
#
# `attend` takes any n, d and d_v from 1 on and any finite numbers up to ±1000, leaves them as they are, and gives equal
# outputs for equal inputs. An honest one may move by rounding, up to 10⁻¹⁴ of the numbers that you pass; it may depend
# on n, use a window or leave rows empty; it never gives NaN. A leaky one
#
# - may leak only in texts of 16 tokens or more, only in one row or column of the output, and only from one token;
# - may let in later queries, keys or values alone, and of these the signs, the absolute values or a millionth;
# - may leak only while numbers are near 1, or only where hidden scores lead by 50,000 and more;
# - may answer with NaN.
#
# By hand: a function that returns v is honest. One that returns `np.roll(v, -1, axis=0)` shows each token the next
# value, and leaks.


# %% exercise="4.7"
def leaks_future(attend):
    """Does some row depend on a later token's query, key or value?  attend(q, k, v) -> out; -> bool"""
    ### BEGIN SOLUTION
    rng = np.random.default_rng(47)
    n = 20
    for size in (1.0, 300.0):  # large scores bring out what small ones hide
        now = size * rng.normal(size=(3, n, 4))
        before = attend(*now)
        for cut in range(1, n):
            for part in range(3):  # queries, keys, values, each alone
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(n - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False
    ### END SOLUTION


# %% try="4.7"
def sees_the_next(q, k, v):
    return np.roll(v, -1, axis=0)


def sees_itself(q, k, v):
    return v.copy()


print("leaky: ", leaks_future(sees_the_next))
print("honest:", leaks_future(sees_itself))

# %% check="4.7"
check("4.7", leaks_future)

# %% [markdown] teacher="4.7"
# **Why this works.** It uses the definition: rows before the cut must not move when what lies behind the cut does. The
# tolerance stands between rounding (10⁻¹⁴) and the faintest leak (10⁻⁶). **Common wrong turns.** Changing values alone;
# one size; one cut; `>` with NaN; a NaN as poison, which accuses everyone, because 0 · NaN is NaN; comparing with causal
# attention; leaving the future out, which accuses who depends on n. **Another way.** Change one token at a time.

# %% [markdown]
# ### Break it: a detector that trusts the weights
#
# A clever idea: pass the identity as values. Then the output *is* the table of weights, and anything above the diagonal is a
# leak.


# %%
def reads_the_weights(attend):
    """A detector with a blind spot."""
    q, k = np.random.default_rng(0).normal(size=(2, 20, 4))
    weights = [attend(size * q, size * k, np.eye(20)) for size in (1, 300)]
    return bool(np.triu(weights, 1).any())


check("4.7", reads_the_weights)

# %% [markdown]
# It catches whatever later value is read, and misses what later keys do to the total: the shortcut from above, hidden
# after the softmax. A weight of 0 does not prove the lack of an influence.

# %% [markdown]
# ## Check yourself

# %% quiz="4.a"

# %% quiz="4.b"

# %% quiz="4.c"

# %% quiz="4.d"

# %% [markdown]
# ### Question 4.w · Too good to ship? (4 points · 10 min)
#
# A colleague has written a faster attention: “Same model, same data, and the validation loss fell from 2.9 to 0.4. It
# cannot be overfitting, because validation is on new texts. Let us ship it.” Answer in five to eight sentences: what you
# suspect, why the validation set cannot settle it, which test would, and what would prove your colleague right.

# %% [markdown] written="4.w"
# ### BEGIN SOLUTION
# **4 points.** I suspect that the new attention lets a token see the one it has to predict. A fall from 2.9 to 0.4 is far
# more than a faster program of the same function can bring: the same mathematics should give the same loss. New texts
# rule out memorising, but they pass through the same code, so the answer lies open in them just as in training; in the
# chapter's experiment the leaky model came to about 0.13 on fresh texts, where 1.10 is the least that is possible. Two tests
# decide. Change the queries, keys and values of later tokens and see whether an earlier row moves, at large scores too:
# if one moves by more than rounding, it leaks. And let the model write: there the future does not exist, and a leaky
# model falls apart; the chapter's did worse than blind guessing. My colleague would be right if no row moves, if the new
# function agrees with the old one on the same inputs to rounding, and if the old one had the bug, say a mask that hid
# too much; then its 2.9 was the wrong number.
#
# **3 points.** Probably the causal mask is wrong and the model sees the next token. Validation uses the same mask, so its
# loss is too low as well. I would change a later token and look whether an earlier output changes.
#
# **2 points.** That is too good to be true. I would look for a bug in the mask, since overfitting is excluded by the new
# texts.
#
# **1 point.** One should test on more data before shipping it.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# Where n_q and n_k differ, look up which corner counts. PyTorch's `scaled_dot_product_attention(is_causal=True)` aligns
# at the top left; FlashAttention changed to the bottom right in version 2.1 (2023). For an empty row PyTorch's function
# gave NaN until version 2.5 (2024) brought 0; `nn.MultiheadAttention`, asked for its weights, gives NaN still. BERT's
# code (2018) added -10,000 to hidden scores, which holds until a hidden score leads by as much.
#
# Llama 3 (2024) keeps packed documents apart; its authors found that this mattered little in ordinary pre-training and
# much for very long texts.

# %% [markdown]
# ## Takeaways
#
# - A mask off by one brought the loss to about 0.13, where log 3 ≈ 1.10 is the least possible. Where the future is
#   hidden, the same model did worse than blind guessing, 2.48.
# - Queries are the last n_q positions: two queries after three read tokens see 4 and 5 keys, not 1 and 2.
# - Hide before softmax. Hidden afterwards, the first row of the sentence kept 0.22 of its budget.
# - A row with nothing to see reads 0. With -1e9 in place of -inf it read 40, the average of all that was forbidden.

# %%
progress(4)

# %% [markdown]
# ## Further reading
#
# - Vaswani and others, *Attention Is All You Need* (2017), section 3.2.3: the three uses of attention, and the -∞.
# - Raffel and others, *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer* (2020), section
#   3.2.1: full, causal and prefix masks side by side.
# - Beltagy, Peters and Cohan, *Longformer* (2020): sliding windows.
# - Krell and others, *Efficient Sequence Packing without Cross-contamination* (2021).
# - Llama Team, *The Llama 3 Herd of Models* (2024), section 3.2: the mask between documents.
#
# Next: chapter 05, where attention learns in which order the tokens stand.
