# %% [markdown]
# # 00 · Start here
#
# You learn how a page of this course works, and the one habit that saves the most time in all the others: **look at
# the shape first**.
#
# 40 min · CPU · NumPy · needs a little Python, nothing else

# %% [markdown]
# When you are through, you will be able to
#
# - run a page, have an answer checked, and read the card that comes back;
# - compare every row of one table with every row of another;
# - average vectors with weights of your own, for one sentence and for many at once;
# - say what attention is in one sentence.

# %% [markdown]
# A page is made of cells. Click into the next one and press Shift+Enter: it runs, and the cell after it is selected.
# This first one fetches the page's tools and shows nothing.

# %%
import os
import platform
import shutil

import numpy as np
import psutil

import attn_ref
from attn_ref import plots, sentence
from autograder import check, guess, hint, progress, quiz

# %% [markdown]
# ## A perfect prediction that is wrong
#
# Six houses were sold, and a model predicted all six prices exactly. The *mean squared error* is the average of the
# squared differences between prediction and truth. What is it here?
#
# Put a number in place of `None`, run that cell, then the one below it. Guesses are never graded; a wrong one is the
# kind you remember.

# %%
my_guess = None  # your guess: the mean squared error of six exact predictions

# %%
predicted = np.arange(1.0, 7.0)  # six prices
actual = np.arange(1.0, 7.0).reshape(6, 1)  # the same six, read from a file with one column
error = np.mean((predicted - actual) ** 2)
guess(my_guess, measured=error)

# %% [markdown]
# The error should be 0, and it is nearly 6, without any warning. Look at what was averaged:

# %%
plots.matrix(predicted - actual, title="predicted - actual")

# %% [markdown]
# The six zeros on the diagonal are the differences you wanted. The other thirty compare one house with another.
#
# The **shape** of an array lists its length along each **axis**. `predicted` has the shape `(6,)`, one axis;
# `actual` has `(6, 1)`, two axes. NumPy lines shapes up from the right and repeats whatever is missing or has length 1,
# so both became `(6, 6)`. This *broadcasting* is useful, and it never asks.

# %%
print(predicted.shape, actual.shape, (predicted - actual).shape)
print("error of 36 differences:", round(error, 2))
print("error of 6 differences: ", np.mean((predicted - actual[:, 0]) ** 2))

# %% [markdown]
# The first line of that output is the habit of this course: shapes printed before the subtraction would have shown
# the fault. Many bugs in attention code are of this kind. They run, and a number is wrong.

# %% [markdown]
# ## Your machine is enough
#
# Every chapter runs on an ordinary computer. More cores make some quicker, and chapter 12 can use an NVIDIA GPU, a
# processor for many equal calculations at once, where there is one.

# %%
print(platform.system(), platform.machine(), "· Python", platform.python_version())
print(os.cpu_count(), "cores ·", round(psutil.virtual_memory().total / 2**30), "GiB of memory")
print("NVIDIA GPU:", "yes" if shutil.which("nvidia-smi") else "none found, and none is needed")

# %% [markdown]
# ## A sentence is a table
#
# One sentence stays with you through all chapters. It has six **tokens**, pieces of text, here words. Each
# is described by a **vector**, a row of numbers; ours has four, made by hand so that you can read them.

# %%
plots.matrix(sentence.EMBEDDINGS, sentence.TOKENS, sentence.FEATURES, title="the sentence as a table")

# %% [markdown]
# The shape is `(6, 4)`: tokens go down, their *features* go across. *cat* and *mat* are both things, and *mat* is a place
# as well. In a trained model a vector has hundreds of numbers, and none has a name.
#
# How alike are *cat* and *mat*? The **dot product** answers with one number: multiply feature by feature, then add. By
# hand, 1.0 · 0.9 + 0.2 · 0.0 + 0.0 · 0.8 + 0.0 · 0.0 = 0.9.

# %%
cat, mat = sentence.EMBEDDINGS[1], sentence.EMBEDDINGS[5]
by_loop = sum(cat[feature] * mat[feature] for feature in range(4))
by_course = attn_ref.attention_scores([cat], [mat], scale=1)[0, 0]  # scale=1: the dot products as they are
print(by_loop, cat @ mat, by_course, np.allclose([by_loop, by_course], cat @ mat))

# %% [markdown]
# Three ways, one number: a loop, NumPy's `@`, and `attn_ref`, the course's own library, which you can open and read.

# %% [markdown]
# ## Read a card before you earn one
#
# The first exercise asks for the dot product of *every* row of one table with *every* row of another. Here is an
# answer that looks right and is wrong. Run it and read the card from top to bottom.


# %%
def row_with_its_twin(x, y):
    return (x * y).sum(axis=-1)  # multiply feature by feature, then add along the last axis


check("0.1", row_with_its_twin)

# %% [markdown]
# The points stand at the top. Each line below is a **criterion** with points of its own: ✓ met, ✗ not met. Under a ✗
# you see the first input that went wrong, and what came back. Here that is an error of NumPy's with the line that raised
# it, then four numbers in place of a `(4, 4)` table, then three in place of `(1, 3)`.
#
# The last criterion appears in most exercises: an answer may not write into its inputs. It counts only when every case
# gives an answer and another criterion is met. At the end, where the mistake is a known one, a tutor's question points at it.
#
# A check under a name other than the exercise's is not recorded, so this one cost you nothing. Your own checks are: the
# record keeps the best score of each exercise, in a file on your machine, and is sent nowhere.

# %% [markdown]
# ### Exercise 0.1 · Every row meets every row (5 points · 7 min · 1 to 6 lines)
#
# Write `pairwise_dot(x, y)`. `x` has the shape `(n, d)` and `y` has `(m, d)`; return an array `(n, m)` whose entry in
# row `i`, column `j` is the dot product of `x[i]` and `y[j]`. It keeps both axes when `n` or `m` is 1. Loops are
# welcome. Do not write into `x` or `y`.
#
# Two rules hold in the whole course. An answer never writes into its inputs, because the caller still needs them. And it
# keeps their precision: here that is *float64*, NumPy's default, with about 16 digits.
#
# By hand, the rows of `x` down and the rows of `y` across:
#
# |  | y[0] = (1, 0) | y[1] = (0, 1) | y[2] = (1, 1) |
# |---|---|---|---|
# | x[0] = (1, 2) | 1 | 2 | 3 |
# | x[1] = (3, 4) | 3 | 4 | 7 |
#
# Replace the last line of the next cell, which marks an empty answer, and run it. The cell after it is for trying out;
# it says `NotImplementedError` until you have written something.


# %% exercise="0.1"
def pairwise_dot(x, y):
    """Every row of x with every row of y.  (n, d), (m, d) -> (n, m)"""
    ### BEGIN SOLUTION
    return x @ y.T
    ### END SOLUTION


# %% try="0.1"
answer = pairwise_dot(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
print(np.shape(answer))
print(answer)

# %% [markdown]
# Stuck? Click on a hint; they go from a nudge to a plan. `hint("0.1")` in a cell of your own (the **+** in the toolbar)
# gives them one by one. When you are ready, run the check and leave its line as it is.

# %% check="0.1"
check("0.1", pairwise_dot)

# %% [markdown] teacher="0.1"
# **Why this works.** `@` joins the last axis of the left table with the first axis of the right one. `y.T` brings the
# features of y to the front, so row i of x meets row j of y.
#
# **Common wrong turns.** `(x * y).sum(axis=-1)` compares twins only, and with equally many rows it raises nothing.
# `y.reshape(d, m)` has the shape of `y.T` and other contents. `np.squeeze` "tidies up" an axis that a caller relies on.
#
# **Another way.** `np.einsum("nd,md->nm", x, y)`, which names the axes, or
# `(x[:, None, :] * y).sum(axis=-1)`, which holds n · m · d numbers before it sums them.

# %% [markdown]
# Change and check as often as you like, or go on and come back: nothing later on a page needs your answer.
#
# Here is the whole sentence compared with itself, by `attn_ref`:

# %%
all_pairs = attn_ref.attention_scores(sentence.EMBEDDINGS, sentence.EMBEDDINGS, scale=1)
plots.scores(all_pairs, sentence.TOKENS, sentence.TOKENS, title="every token with every token")

# %% [markdown]
# Find *cat* and *mat*: 0.90, the number worked by hand. The two *the* match each other as well as themselves, having
# the same vector. *Query* and *key* are the two sides' names, which chapter 01 explains.
#
# The price is one multiplication for each feature of each pair:

# %%
for tokens in (6, 12, 1024):
    print(f"{tokens:5d} tokens: {tokens * tokens:9,} pairs, {tokens * tokens * 4:9,} multiplications")

# %% [markdown]
# Twice the tokens make four times the work. Chapter 08 is about that bill.

# %% [markdown]
# ## An average in which not everyone counts the same
#
# A **weight** says how much a value counts. Give *cat* the weight 3 and *on* the weight 1: add three *cat* and one *on*,
# then divide by 4, the total of the weights. *cat* has a **share** of 3/4 in this average.
#
# If the weights were 30 and 10 instead, by what factor would the average change?

# %%
my_guess = None  # your guess: the new average divided by the old one

# %%
on = sentence.EMBEDDINGS[3]
average = (3 * cat + 1 * on) / (3 + 1)
tenfold = (30 * cat + 10 * on) / (30 + 10)
guess(my_guess, measured=tenfold[0] / average[0], unit="times")

# %% [markdown]
# The factor is 1: the total grows along, so only the shares matter, and they stay at 3/4 and 1/4.

# %%
mixed = {"cat": cat, "on": on, "3 cat, 1 on": average}
plots.bars(mixed, sentence.FEATURES, ylabel="value")

# %% [markdown]
# In every feature the average lies between its two sources, three times as close to *cat* as to *on*.

# %% [markdown]
# ### Exercise 0.2 · Averages with your own weights (6 points · 9 min · 1 to 6 lines)
#
# Write `weighted_average(weights, values)`. `weights` is `(n, m)` and `values` is `(m, d)`; row `i` of the result
# `(n, d)` is the average of the `m` values with the weights in row `i`. Weights are 0 or larger, and each row has a
# total above 0, however small or large. Weights and values may be whole numbers; averages may have fractions. The result
# keeps both axes when `n`, `m` or `d` is 1. Do not write into the inputs.
#
# By hand, with two values (0, 4) and (8, 0): the weights (3, 1) give (3 · 0 + 1 · 8)/4 = 2 and (3 · 4 + 1 · 0)/4 = 3.
# The weights (1, 1) give (4, 2), and (0, 5) gives (8, 0).


# %% exercise="0.2"
def weighted_average(weights, values):
    """Averages of the values, one for each row of weights.  (n, m), (m, d) -> (n, d)"""
    ### BEGIN SOLUTION
    return (weights @ values) / weights.sum(axis=-1, keepdims=True)
    ### END SOLUTION


# %% try="0.2"
weights = np.array([[3, 1], [1, 1], [0, 5]])
print(weighted_average(weights, np.array([[0, 4], [8, 0]])))
print("the weights are still", weights.tolist())

# %% check="0.2"
check("0.2", weighted_average)

# %% [markdown] teacher="0.2"
# **Why this works.** `weights @ values` has the shape (n, d), the totals need (n, 1), so that broadcasting repeats
# each total across its row. `keepdims=True` leaves that axis in place.
#
# **Common wrong turns.** Totals of shape (n,) line up with the columns: an error in most cases, a silent wrong result
# where two lengths agree (n = m before the product, n = d after it). `weights /= ...` changes the caller's array and
# fails for whole numbers.
#
# **Another way.** `np.average(values, axis=0, weights=row)` for each row; `np.stack` makes a table of the results.

# %% [markdown]
# ## A batch is one more axis in front
#
# A model reads many sentences in one go, a **batch**. Here is ours in two word orders that say the same thing:

# %%
order = [3, 0, 5, 4, 1, 2]
both = np.stack([sentence.EMBEDDINGS, sentence.EMBEDDINGS[order]])
print(both.shape, "· the second reads:", " ".join(sentence.TOKENS[i] for i in order))

# %% [markdown]
# Two sentences of six tokens with four features, `(2, 6, 4)`: read a shape aloud from the left, and you have said what
# the array holds.
#
# Between two tables, `@` is the *matrix product*: `(n, k) @ (k, m)` gives `(n, m)`. Its entry in row `i`, column `j` is
# the dot product of row `i` on the left with *column* `j` on the right. The inner lengths must agree, and vanish.

# %% [markdown]
# ### Exercise 0.3 · One product for each sentence (5 points · 5 min · 1 to 4 lines)
#
# Write `batched_matmul(a, b)`. `a` is `(B, n, k)` and `b` is `(B, k, m)`; return `(B, n, m)`, in which matrix `i` is the
# matrix product of `a[i]` and `b[i]`. All three axes stay, also where one has length 1. Do not write into the inputs.
#
# By hand, with B = 2 and n = 1: `a[0]` is the row (1, 2), and `b[0]` has the rows (1, 0, 1) and (0, 1, 1). Their
# product is the row (1·1 + 2·0, 1·0 + 2·1, 1·1 + 2·1) = (1, 2, 3). In the same way `a[1]`, the row (3, 4), and `b[1]`,
# the rows (2, 0, 1) and (0, 2, 1), give (6, 8, 7).


# %% exercise="0.3"
def batched_matmul(a, b):
    """One matrix product for each sentence.  (B, n, k), (B, k, m) -> (B, n, m)"""
    ### BEGIN SOLUTION
    return a @ b
    ### END SOLUTION


# %% try="0.3"
a = np.array([[[1.0, 2.0]], [[3.0, 4.0]]])
b = np.array([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]])
print(np.shape(batched_matmul(a, b)))
print(batched_matmul(a, b))

# %% check="0.3"
check("0.3", batched_matmul)

# %% [markdown] teacher="0.3"
# **Why this works.** `@` multiplies along the last two axes and treats all axes before them as a batch, so it needs no
# loop. The same line will work for (batch, heads, n, k) in chapter 06.
#
# **Common wrong turns.** `np.dot` on three axes takes every a[i] with every b[j] and returns four axes.
# `np.concatenate` glues the products end to end where `np.stack` adds an axis.
#
# **Another way.** `np.stack([x @ y for x, y in zip(a, b)])`, or `np.einsum("bnk,bkm->bnm", a, b)`.

# %% [markdown]
# ## The right shape can hold the wrong numbers
#
# Shapes catch much, and not everything. Two operations turn a `(2, 3)` table into a `(3, 2)` one: `.T`, the
# *transpose*, exchanges the axes, and `reshape` refills the numbers in reading order.

# %%
table = np.arange(1, 7).reshape(2, 3)
transposed, reshaped = table.T, table.reshape(3, 2)
print((transposed != reshaped).sum(), "of", table.size, "numbers differ")
plots.matrices({"table": table, "table.T": transposed, "table.reshape(3, 2)": reshaped})

# %% [markdown]
# Follow the 4. It begins the second row; `.T` puts it at the top of the second column, while `reshape` leaves it
# fourth in reading order, beside the 3. Here is that bug, planted in an answer to 0.3:


# %%
def by_reshape(a, b):
    """Take the columns of b as rows, then compare rows with rows. The first step is wrong."""
    columns = b.reshape(b.shape[0], b.shape[2], b.shape[1])
    return np.array([attn_ref.attention_scores(x, y, scale=1) for x, y in zip(a, columns, strict=True)])


check("0.3", by_reshape)

# %% [markdown]
# Every shape is right and nothing is raised. The first criterion finds the bug in the example worked by hand: a 1 where
# the row (1, 2, 3) has its 2. So make it two habits: the shape first, then one number that you know.

# %% [markdown]
# ## Weights chosen by hand do not follow the words
#
# Now put the pieces to use. The token *on* wants to know: on what? Choose its six weights by hand, most of them for
# *mat*, and average the six vectors.

# %%
by_hand = np.array([0.0, 0.0, 0.1, 0.2, 0.1, 0.6])  # the cat sat on the mat
read = {"on, alone": on, "on, after reading": by_hand @ sentence.EMBEDDINGS}
plots.bars(read, sentence.FEATURES, ylabel="value")

# %% [markdown]
# The *thing* bar rose from 0.00 to 0.56: the vector of *on* now carries what stands at the end of the sentence.
#
# But your weights belong to places. In the second word order, *sat* stands at the end. So let the content choose: take
# the dot products of *on* with each token and turn them into shares. `attn_ref.attention` does both. It is
# given the sentences three times, to ask with, to be found by and to be read, which chapter 01 takes apart; chapter 02
# explains its `scale`.

# %%
out, shares = attn_ref.attention(both, both, both, scale=2, return_weights=True)
first, second = shares[0, 3], shares[1, 0]  # the two rows of on: it is token 3, then token 0
print("by hand, weight on mat: ", by_hand[5], "then", by_hand[2])
print("computed, weight on mat:", first[5].round(2), "then", second[2].round(2))
print("attention = average with these weights:", np.allclose(out[1, 0], second @ both[1]))

# %%
words = [sentence.TOKENS[i] for i in order]
reads = {"chosen by hand": by_hand, "computed": second}
plots.bars(reads, words, title="what “on” reads, second order")

# %% [markdown]
# The hand-made weights now read *sat*. The computed ones still find *mat*, and nobody told them where it stands. They
# also spend 0.48 on *on* itself, which is most like itself. Asking with one vector and being found by another mends
# that, and chapter 01 begins there, with this promise:
#
# **Attention is a weighted average whose weights are computed from the content.**

# %% [markdown]
# ## Check yourself
#
# Put the letter of your choice between the empty quotes and run the cell. Nothing is graded, and every choice gets a
# reason.

# %% quiz="0.a"

# %% quiz="0.b"

# %% quiz="0.c"

# %% [markdown]
# ### Question 0.w · The error of a perfect prediction (4 points · 5 min)
#
# A colleague's model predicts perfectly, and its mean squared error is reported as 5.83, as at the top of this page. In
# three or four sentences: what went wrong, why was there no message, and which line would have caught it? Double-click
# the answer cell to write. A teacher reads it, or you compare it with the levels yourself.

# %% [markdown] written="0.w"
# ### BEGIN SOLUTION
# **4 points.** The predictions have the shape (6,) and the true prices (6, 1). NumPy repeated both to (6, 6), so all 36
# pairs were subtracted and the mean includes 30 comparisons of different houses. Broadcasting is legal, so no error was
# raised. `assert predicted.shape == actual.shape` before the subtraction would have stopped it.
#
# **3 points.** One array is (6,) and the other (6, 1), so NumPy broadcasts them to (6, 6) and averages 36 differences
# instead of 6.
#
# **2 points.** The two arrays did not have the same shape, so the result is not reliable.
#
# **1 point.** The average is wrong, probably because of rounding errors.
# ### END SOLUTION

# %% [markdown]
# ## Where you stand
#
# `progress(0)` shows this chapter and `progress()` all of them. The [map](../map.ipynb) shows which chapter needs which,
# and the [glossary](../glossary.ipynb) explains the words, in English and Chinese; the first use of each word leads there.

# %%
progress(0)

# %% [markdown]
# Two commands help in a terminal (in JupyterLab: File, New, Terminal). `attn reset 00` puts this page back as it was and
# keeps a copy of yours. `attn doctor` says what your machine can run, and what to do about anything missing.

# %% [markdown]
# ## In real systems
#
# PyTorch, the library in which most language models are written, broadcasts by the same rules. Its `mse_loss` warns when
# prediction and target differ in shape, because of the trap you met above. Its `torch.bmm` is exercise 0.3 and does
# not broadcast. Its attention function takes `(batch, heads, tokens, features)`, your batch with one more axis.

# %% [markdown]
# ## Takeaways
#
# - A perfect prediction got an error of 5.83, because 36 differences were averaged where 6 were meant. Print both shapes.
# - Six tokens make 36 pairs and 144 multiplications; twice the tokens make 4 times as many.
# - The weights 3 and 1, or 30 and 10, are the shares 3/4 and 1/4. Divide each row by its own total.
# - `.T` and `reshape` gave the same shape with 4 of 6 numbers in other places. Shapes first, then one number by hand.
# - In the other word order the hand-made weight on *mat* fell from 0.6 to 0.1; the computed one stayed at 0.19.

# %% [markdown]
# ## Further reading
#
# - Harris et al., *Array programming with NumPy*, Nature 585 (2020): the shapes and broadcasting of this page, by the authors.
# - Smith, *PEP 465 – A dedicated infix operator for matrix multiplication* (2014): why `@` exists.
# - Rush, *Tensor Considered Harmful* (2019): an argument for axes with names.
# - Rogozhnikov, *Einops: Clear and Reliable Tensor Manipulations with Einstein-like Notation*, ICLR 2022.
#
# Next: **01 · Attention is a soft lookup**, where the weights come from.
