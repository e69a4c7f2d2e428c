# %% [markdown]
# # 08 · What attention costs
#
# You count the operations and the bytes of attention before it runs, and then run it to see whether you were right.
#
# 115 min · CPU · PyTorch (`make lab EXTRAS=torch`) · needs 06, and 07 for the parts of a layer

# %% [markdown]
# When you have finished, you will be able to
#
# - count the operations and the bytes of a layer, for training and for generation;
# - say from which length on attention is the larger part, and what sets the pace;
# - predict the longest text that fits into a memory, and meet the error just beyond it.

# %%
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import attn_ref
from attn_ref import bench, cost, plots, sentence
from autograder import check, guess, hint, progress, quiz

torch.manual_seed(8)
torch.set_num_threads(1)  # one core, so that the number of cores stays out of what is measured

# %% [markdown]
# ## Ten times the text
#
# “Attention compares every token with every other, so a text ten times as long costs a hundred times the compute.” You
# will read this often. Test it on a layer of chapter 06, 2,048 wide with 32 heads. It reads 128 tokens, then 1,280.

# %%
my_guess = None  # your guess: how many times as long does the layer take for 1,280 tokens as for 128?


# %% experiment="8.clock"
def median_ms(run, *inputs, repeats=5):
    """Milliseconds that the core works on one call: waiting for other programs does not count."""
    settings = {"warm_up": 0, "sample_s": 0.05, "most_foreign": 1e9, "clock": time.process_time}
    found = bench.measure({"run": lambda: run(*inputs)}, repeats=repeats, **settings)
    return 1000 * found.timings["run"].median_s


layer = attn_ref.MultiHeadAttention(2048, 32).requires_grad_(False)
short, long = torch.randn(1, 128, 2048), torch.randn(1, 1280, 2048)
short_ms = median_ms(layer, short)
guess(my_guess, measured=median_ms(layer, long, repeats=3) / short_ms, unit="times as long")

# %% [markdown]
# Nowhere near 100; on most machines between 5 and 15. A clock measures a machine too, and the cell below names yours. A
# count of operations holds everywhere, so count first.

# %%
print(bench.machine())

# %% [markdown]
# ## A FLOP is one operation on two numbers
#
# A **FLOP**, floating-point operation, is one multiplication or one addition. In a matrix product they come in pairs,
# since each product is added to a sum. By convention a pair counts as 2 FLOPs, also where a chip does both at once.

# %%
operations = 0
left, right, product = np.ones((2, 3)), np.ones((3, 5)), np.zeros((2, 5))
for i, j, f in np.ndindex(2, 5, 3):
    product[i, j] += left[i, f] * right[f, j]
    operations += 2  # one multiplication, one addition

with FlopCounterMode(display=False) as counter:
    torch.ones(2, 3) @ torch.ones(3, 5)
print("counted in the loop:", operations, "  counted by PyTorch:", counter.get_total_flops())

# %% [markdown]
# A product of (a, c) with (c, b) costs 2 · a · b · c FLOPs, here 2 · 2 · 5 · 3 = 60. Attention has two products, q kᵀ and
# weights @ v. Softmax and the scale add a few per cent when d_head is 64; the **ledger**, as this chapter calls its
# list of counts, leaves them out.

# %% [markdown]
# ### Causal is not half
#
# A pair of query and key that the mask forbids needs no score. The six tokens of the course's sentence make 36 pairs.
# How many may attend under the causal mask of chapter 04?

# %%
my_guess = None  # your guess: the number of pairs that may attend, out of 36

# %%
allowed = attn_ref.causal_mask(6, 6)
guess(my_guess, measured=allowed.sum(), unit="pairs")

# %% [markdown]
# Here they are; queries go down, keys across.

# %%
plots.mask(allowed, sentence.TOKENS, sentence.TOKENS, title="Pairs that may attend")

# %% [markdown]
# The filled cells are a triangle *with its diagonal*: every token may attend to itself. Half of the square, 18, would
# cut those six in two.

# %%
plots.mask(attn_ref.causal_mask(2, 6), sentence.TOKENS[4:], sentence.TOKENS, title="The last 2 of 6 tokens")

# %% [markdown]
# In generation the queries are only the end of a text. They see all keys before them, too: a rectangle with a small
# triangle at its right end.

# %% [markdown]
# ### Exercise 8.1 · What the pairs cost (6 points · 10 min · about 3 lines)
#
# Write `attention_flops(batch, n_heads, n_q, n_k, d_head, causal=False)`: the FLOPs of q kᵀ and of weights @ v for a
# batch, as an `int`. q is (batch, n_heads, n_q, d_head); k and v are (batch, n_heads, n_k, d_head). With `causal=True`
# only pairs that may attend count; the queries are the last n_q of the n_k tokens, and n_q is at most n_k.
#
# By hand: 1 sequence, 1 head, 2 queries, 3 keys, d_head = 4. The first product is (2, 4) with (4, 3), 48 FLOPs, the
# second (2, 3) with (3, 4), 48 more: 96. Causal, the queries see 2 and 3 keys, 5 pairs of 6, which makes 80.


# %% exercise="8.1"
def attention_flops(batch, n_heads, n_q, n_k, d_head, causal=False):
    """FLOPs of q kᵀ and of weights @ v, for the pairs that may attend.  -> int"""
    ### BEGIN SOLUTION
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 2 * batch * n_heads * pairs * (d_head + d_head)
    ### END SOLUTION


# %% try="8.1"
print(attention_flops(1, 1, 2, 3, 4), attention_flops(1, 1, 2, 3, 4, causal=True))

# %% check="8.1"
check("8.1", attention_flops)

# %% [markdown] teacher="8.1"
# **Why this works.** A pair costs d_head multiply-adds for its score and d_head for its share of the value. What is left
# is counting pairs: a rectangle of n_q by (n_k - n_q) and the triangle 1 + 2 + … + n_q. **Common wrong turns.** Halving
# the square. The average (n_k + 1)/2, right only for a whole text. `/` in place of `//`, which makes a float. **Another
# way.** `attn_ref.causal_mask(n_q, n_k).sum()`, slow and beyond doubt.

# %% [markdown]
# Does the ledger agree with a program? Here PyTorch counts attention written as in chapter 02, with 2 sequences, 4 heads
# and 96 tokens.


# %%
def naive_attention(q, k, v):
    """softmax(q kᵀ / √d) v with the whole tables of scores and weights.  (..., n, d) -> (..., n, d)"""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return torch.softmax(scores, dim=-1) @ v


q, k, v = torch.randn(3, 2, 4, 96, 16)
with FlopCounterMode(display=False) as counter:
    naive_attention(q, k, v)
print(f"PyTorch: {counter.get_total_flops():,}   attn_ref: {cost.attention_flops(2, 4, 96, 96, 16):,}")
print(f"causal:  {cost.attention_flops(2, 4, 96, 96, 16, causal=True):,}")

# %% [markdown]
# The same number. The causal count is a promise: a mask put over finished scores saves nothing, since the forbidden
# ones have been computed. Programs that skip them come in chapter 10.

# %% [markdown]
# ## Every token passes the weights once
#
# Four matrices of a layer make queries, keys and values, and mix the heads' outputs (chapter 06). In x @ W_q every token
# meets the matrix and no other token, so this part grows in proportion to the text.

# %% [markdown]
# ### Exercise 8.2 · Four matrices for every token (5 points · 7 min · about 2 lines)
#
# Write `projection_flops(batch, seq_len, d_model, n_heads, n_kv_heads, d_head)`: the FLOPs of multiplying with W_q, W_k,
# W_v and W_o for every token of every sequence, without biases. W_q leads from d_model numbers to n_heads heads of d_head
# each, W_k and W_v to n_kv_heads heads, W_o from the heads' outputs back to d_model. n_heads · d_head need not be
# d_model.
#
# By hand: one token, d_model = 4, 2 heads and 2 KV heads of 2. Each matrix is 4 by 4, so each product is 32 FLOPs, and
# all four are 128. With one KV head, W_k and W_v are 4 by 2 and cost 16 each: 96.


# %% exercise="8.2"
def projection_flops(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    """FLOPs of x W_q, x W_k, x W_v and out W_o.  -> int"""
    ### BEGIN SOLUTION
    weights = 2 * d_model * n_heads * d_head + 2 * d_model * n_kv_heads * d_head
    return 2 * batch * seq_len * weights
    ### END SOLUTION


# %% try="8.2"
print(projection_flops(1, 1, 4, 2, 2, 2), projection_flops(1, 1, 4, 2, 1, 2))

# %% check="8.2"
check("8.2", projection_flops)

# %% [markdown] teacher="8.2"
# **Why this works.** A (tokens, c) by (c, b) product costs 2 FLOPs for each token and weight, so the whole is twice the
# number of weights, which chapter 06 counted, times the tokens. **Common wrong turns.** W_o forgotten; all four taken for
# d_model by d_model; W_o narrowed together with W_k and W_v. **Another way.** Add up `weight.numel()` of the layer.

# %% [markdown]
# ## Two lines cross
#
# Divided by the number of tokens, the projections cost the same in every text, and attention the more, the longer it
# is. Here are both for the layer of the beginning.

# %%
lengths = 2 ** np.arange(7, 16)
for_weights = [cost.projection_flops(1, int(n), 2048, 32) / n / 1e6 for n in lengths]
for_pairs = [cost.attention_flops(1, 32, int(n), int(n), 64) / n / 1e6 for n in lengths]
for_causal = [cost.attention_flops(1, 32, int(n), int(n), 64, causal=True) / n / 1e6 for n in lengths]
series = {"four projections": for_weights, "attention": for_pairs, "attention, causal": for_causal}
title = "FLOPs for one token"
plots.lines(lengths, series, title, "length of the text", "million FLOPs", logx=True, logy=True)

# %% [markdown]
# Attention crosses the flat line at 2¹² = 4,096 tokens, the **crossover length**, and causal attention at about twice
# that. At 128 tokens attention is a thirtieth of the projections, so the clock of the beginning saw little of the square.
#
# The **feed-forward** part of chapter 07, two matrices from d_model to d_ff numbers and back, lifts the flat line.

# %% [markdown]
# ### Exercise 8.3 · Where the two lines cross (5 points · 15 min · about 4 lines)
#
# Write `crossover_length(d_model, n_heads, n_kv_heads, d_ff=0, causal=False)`: the length n at which attention (n queries,
# n keys) costs exactly as many FLOPs as the weights. These are the four projections of 8.2 and, where d_ff is not 0, a
# d_model by d_ff and a d_ff by d_model matrix, without biases. d_head is d_model / n_heads. All sizes divide evenly and
# the length comes out whole, as an `int` or a `float`.
#
# By hand: d_model = 8 with 2 heads and 2 KV heads. The weights are 4 · 64 = 256, or 512 FLOPs a token. Attention costs
# 32 FLOPs for each key that a token sees, over both heads, so it must see 512 / 32 = 16 keys: n = 16. Causal, tokens see
# 1, 2, …, n keys, which is 16 on average if n = 31.


# %% exercise="8.3"
def crossover_length(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    """The length at which attention costs as many FLOPs as the weights of its layer.  -> tokens"""
    ### BEGIN SOLUTION
    d_head = d_model // n_heads
    weights = 2 * d_model * d_head * (n_heads + n_kv_heads) + 2 * d_model * d_ff
    keys = weights / (2 * d_model)  # that a query must see on average
    return 2 * keys - 1 if causal else keys
    ### END SOLUTION


# %% try="8.3"
print(crossover_length(8, 2, 2), crossover_length(8, 2, 2, causal=True))

# %% check="8.3"
check("8.3", crossover_length)

# %% [markdown] teacher="8.3"
# **Why this works.** Per token: 4 · d_model · keys on one side, 2 · weights on the other. The average of 1 … n is
# (n + 1)/2, and that must equal `keys`. In closed form the keys are d_model + n_kv_heads · d_head + d_ff. **Common wrong
# turns.** Dividing attention by the shared KV heads as well; doubling for causal without the diagonal; one feed-forward
# matrix. **Another way.** Walk n upwards until 8.1 is no longer below 8.2.

# %% [markdown]
# What is left of “ten times the text, a hundred times the compute”? Divide the FLOPs of 10 n tokens by those of n.


# %%
def layer_flops(n):
    return cost.projection_flops(1, n, 2048, 32) + cost.attention_flops(1, 32, n, n, 64)


lengths = 2 ** np.arange(7, 20)
growth = [layer_flops(10 * int(n)) / layer_flops(int(n)) for n in lengths]
series = {"the n² term alone": 0 * lengths + 100, "the layer": growth, "the weights alone": 0 * lengths + 10}
plots.lines(lengths, series, "Ten times the text", "length n", "FLOPs at 10 n / FLOPs at n", logx=True)

# %%
print("from 128 to 1,280 tokens:", round(growth[0], 1), "times the FLOPs")

# %% [markdown]
# The sentence is true of the n² term; a whole layer comes near it only far to the right of its crossover. Where is that
# in a model in use? Llama 3 8B (2024) is 4,096 wide, with 32 query heads, 8 KV heads, and a feed-forward part of three
# matrices with d_ff = 14,336.

# %%
my_guess = None  # your guess: from how many thousand tokens on does causal attention cost more?

# %%
crossing = cost.crossover_length(4096, 32, n_kv_heads=8, d_ff=14336, gated=True, causal=True)
guess(my_guess, measured=crossing / 1000, unit="thousand tokens")

# %% [markdown]
# Both parts are equal at 53,247 tokens. So at n tokens attention's share is about n / (n + 53,247).

# %%
texts = [2048, 8192, 32768, 131072]
share = [n / (n + crossing) for n in texts]
plots.bars(share, [f"{n:,}" for n in texts], "Attention's share of a layer's FLOPs", "share", limit=1)

# %% [markdown]
# At 2,048 tokens attention is 4 per cent of the work, at 131,072 it is 71. A **backward pass** costs twice the
# forward pass, because each matrix product has two gradients, each a product of the same size. A training step costs
# three times as much, then, with the same crossover.

# %% [markdown]
# ## What must be held at once
#
# Computing takes time; storing takes space, and space runs out. The **dtype** says how much a number takes:

# %%
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8):
    print(f"{dtype!s:14} itemsize {dtype.itemsize}")
print(f"1 GiB is 2**30 = {2**30:,} bytes; a GB on a price tag is 10**9 bytes, 7 % less")

# %% [markdown]
# While naive attention runs, a layer holds q, k, v and out, with d_head numbers for each token and head, and scores and
# weights, with n numbers for each. When the layer is done, the next one uses their memory again.
#
# **Training** must keep what the backward pass reads, from the last layer to the first. Chapter 03 showed what: q, k, v,
# and the *weights*, for softmax's gradient and for that of v. The scores are not needed; out is, by the projection that
# follows.
#
# **Tiled** attention (FlashAttention; chapter 10) works on small pieces and never has an n by n table. For the backward
# pass it keeps the log-sum-exp (chapter 02) of each row, always as float32, and computes the weights again.

# %% [markdown]
# ### Exercise 8.4 · What is held, and what is kept (6 points · 14 min · about 6 lines)
#
# Write `activation_bytes(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False)`, which returns the pair
# `(inference, training)` in bytes. Every query head has its own keys and values; `dtype` is torch's.
#
# | | naive | `tiled=True` |
# |---|---|---|
# | inference: one layer at a time | q, k, v, out, scores, weights | q, k, v, out |
# | training: in each layer | q, k, v, out, weights | q, k, v, out, a float32 for each row of weights |
#
# By hand: 1 sequence of 3 tokens, 2 layers, 1 head of 4, float16. q, k, v and out take 96 bytes together, scores and
# weights 18 each. Inference: 96 + 36 = 132. Training: 2 · (96 + 18) = 228. Tiled: 96, and 2 · (96 + 3 · 4) = 216.


# %% exercise="8.4"
def activation_bytes(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    """What attention holds at once while it runs, and what it keeps for the backward pass.  -> (int, int)"""
    ### BEGIN SOLUTION
    rows = batch * n_heads * seq_len
    ends = 4 * rows * d_head * dtype.itemsize  # q, k, v, out
    matrix = rows * seq_len * dtype.itemsize  # scores, or weights
    if tiled:
        return ends, n_layers * (ends + 4 * rows)
    return ends + 2 * matrix, n_layers * (ends + matrix)
    ### END SOLUTION


# %% try="8.4"
print(activation_bytes(1, 3, 2, 1, 4, torch.float16))
print(activation_bytes(1, 3, 2, 1, 4, torch.float16, tiled=True))

# %% check="8.4"
check("8.4", activation_bytes)

# %% [markdown] teacher="8.4"
# **Why this works.** Everything is one of two sizes: rows · d_head or rows · n. **Common wrong turns.** Layers multiply
# inference too; scores are kept for training; the log-sum-exp in the inputs' dtype; one table for all heads. Real
# frameworks add copies, dropout masks and the projections' inputs: the ledger is a floor. **Another way.** List the
# shapes in a dictionary and sum.

# %% [markdown]
# ### Meet it: layers on a scale
#
# Stack bare attention, one head of 32, for 3,072 tokens in float32. A table of scores takes 36 MiB. Nothing is
# trained. How many such tables do eight layers need beyond their input?

# %%
my_guess = None  # your guess: memory of 8 layers in inference, in tables of 36 MiB


# %% experiment="8.layers"
def stack(x, n_layers):
    for _ in range(n_layers):
        x = naive_attention(x, x, x)
    return x


def peak_mib(run, *inputs, tries=3):
    """The least of three: at times memory that was freed is given back late."""
    return min(bench.peak_memory(lambda: run(*inputs)) for _ in range(tries)) / 2**20


x, table = torch.randn(1, 1, 3072, 32), 3072 * 3072 * 4 / 2**20
guess(my_guess, measured=peak_mib(stack, x, 8) / table, unit="tables")

# %% [markdown]
# Two: scores and weights of the layer at work. Now with gradients switched on. The ledger says one table for each layer,
# and at the peak the scores of the last one are there as well.

# %% experiment="8.training"
trained = x.clone().requires_grad_()
n_layers = [1, 2, 4, 8]
kept = [cost.training_bytes(1, 3072, count, 1, 32, "float32") / 2**20 for count in n_layers]
mib = {
    "training": [peak_mib(stack, trained, count) for count in n_layers],
    "training, predicted": [one + table for one in kept],
    "inference": [peak_mib(stack, x, count) for count in n_layers],
}
plots.lines(n_layers, mib, "Memory of attention, measured", "layers", "MiB")

# %% [markdown]
# Inference stays flat; training climbs by a table for each layer, as predicted. But must its memory be quadratic in n, as
# one often reads? For 32 layers of 32 heads of 128 in float16:

# %%
n = 2 ** np.arange(9, 18)
gib = {
    name: [cost.training_bytes(1, int(one), 32, 32, 128, "float16", tiled=tiled) / 2**30 for one in n]
    for name, tiled in (("naive", False), ("tiled", True))
}
plots.lines(n, gib, "Kept by attention for the backward pass", "length", "GiB", logx=True, logy=True)

# %%
print("at 8,192 tokens:", {name: round(values[4]) for name, values in gib.items()}, "GiB")

# %% [markdown]
# No. For each doubling the naive line climbs by 4 and the tiled one by 2. “Attention needs O(n²) memory” was true of
# programs, not of the formula. The *FLOPs* stay quadratic, for all pairs are still computed.

# %% [markdown]
# ## What generation keeps
#
# A model writes one token at a time. The keys and values of the tokens before do not change, so they are kept, in a
# **KV cache**; chapter 09 builds one.

# %% [markdown]
# ### Exercise 8.5 · How large the cache is (5 points · 6 min · about 2 lines)
#
# Write `kv_cache_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype)`: the bytes of the keys and values of
# `batch` requests of seq_len tokens, in every layer and for every KV head, d_head numbers each. `dtype` is any torch
# dtype of numbers, int8 included.
#
# By hand: 1 request of 3 tokens, 2 layers, 1 KV head of 4, float16. A token leaves a key and a value of 4 numbers in
# each layer, 32 bytes in all; three tokens leave 96.


# %% exercise="8.5"
def kv_cache_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    """What generation keeps of all tokens so far: a key and a value for each KV head and layer.  -> int"""
    ### BEGIN SOLUTION
    a_token = 2 * n_layers * n_kv_heads * d_head * dtype.itemsize  # a key and a value
    return batch * seq_len * a_token
    ### END SOLUTION


# %% try="8.5"
print(kv_cache_bytes(1, 3, 2, 1, 4, torch.float16), "bytes")

# %% check="8.5"
check("8.5", kv_cache_bytes)

# %% [markdown] teacher="8.5"
# **Why this works.** Count one token first; everything else multiplies. **Common wrong turns.** The layers, the values,
# or the batch forgotten; `torch.finfo(dtype).bits`, which int8 has not. **Another way.** Make the tensors and ask for
# `numel() * element_size()`.

# %% [markdown]
# ### Break it: a formula that is passed around
#
# An article puts the cache at “batch × seq_len × num_kv_heads × head_dim × 2 × dtype_bytes”. Llama 3 8B has 32 layers and
# 8 KV heads of 128. For 32,768 tokens in bfloat16:


# %%
def article_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    """The cache by the article's formula, which is that of a model with one layer."""
    return cost.kv_cache_bytes(batch, seq_len, 1, n_kv_heads, d_head, dtype)


request = (1, 32768, 32, 8, 128, torch.bfloat16)
print("article: ", article_bytes(*request) / 2**30, "GiB")
print("attn_ref:", cost.kv_cache_bytes(*request) / 2**30, "GiB")

# %%
check("8.5", article_bytes)

# %% [markdown]
# The formula forgets that each layer keeps keys and values of its own. By the article 64 such requests fit into 8 GiB;
# in truth two do.
#
# Sharing KV heads (chapter 06) saves space. For 32 layers with 32 query heads of 128:

# %%
shared = {"MHA: 32": 32, "GQA: 8": 8, "MQA: 1": 1}
kib = [cost.kv_cache_bytes(1, 1, 32, heads, 128, "bfloat16") / 1024 for heads in shared.values()]
plots.bars(kib, shared, "Cache for one token", "KiB", limit=600)

# %% [markdown]
# Llama 2 7B (2023) is the first bar: half a MiB for every token of every user. Llama 3 8B is the second.

# %% [markdown]
# ## The roofline: who waits for whom?
#
# A chip computes so many FLOP/s, its **peak**, and fetches so many bytes per second, its **bandwidth**. A program's
# **arithmetic intensity** is its FLOPs divided by the bytes it moves. Where that is low, the arithmetic waits for memory.
#
# What can be reached is the smaller of intensity · bandwidth and peak: a slope and a flat roof, hence **roofline**. The
# two meet at the **ridge**, peak / bandwidth. By its data sheet an NVIDIA H100 (SXM) does 989 TFLOP/s on dense matrices of
# 16-bit numbers, at 3.35 TB/s: its ridge lies at 295 FLOP/byte.
#
# A prompt is read with all its queries at once: **prefill**. Then each new token brings one query that reads the whole
# cache: **decode**.

# %% [markdown]
# ### Exercise 8.6 · Who sets the pace? (5 points · 12 min · about 5 lines)
#
# Write `bound_by(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge)` for the attention of one sequence in one layer. It
# returns a pair. First the intensity: the FLOPs of 8.1 without a mask, over the least bytes that must be moved, which
# are q and out (n_heads heads) and k and v (n_kv_heads heads), once each. Then `"memory"` if the intensity lies below
# `ridge` (FLOP/byte), otherwise `"compute"`.
#
# By hand: 1 query, 3 keys, 1 head of 4 in float16. FLOPs: 48. Bytes: q and out have 4 numbers each, k and v 12 each, 64
# bytes in all. The intensity is 0.75; with a ridge of 2 memory sets the pace.


# %% exercise="8.6"
def bound_by(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    """FLOPs for each byte moved, and what sets the pace at this ridge.  -> (float, "memory" or "compute")"""
    ### BEGIN SOLUTION
    flops = 4 * n_heads * n_q * n_k * d_head
    numbers = 2 * n_heads * n_q * d_head + 2 * n_kv_heads * n_k * d_head  # q and out, k and v
    intensity = flops / (numbers * dtype.itemsize)
    return intensity, "memory" if intensity < ridge else "compute"
    ### END SOLUTION


# %% try="8.6"
print(bound_by(1, 3, 1, 1, 4, torch.float16, ridge=2))

# %% check="8.6"
check("8.6", bound_by)

# %% [markdown] teacher="8.6"
# **Why this works.** d_head cancels: the intensity is 2 · r · n_q · n_k / ((r · n_q + n_k) · bytes) with r query heads
# for each KV head. Decode gives about 2 r / bytes, prefill about n · r / (r + 1) · 2 / bytes. **Common wrong turns.**
# Keys fetched once for every query head; FLOPs of the KV heads; q and out left out. **Another way.** `attn_ref.cost`
# has the three parts as `attention_flops`, `attention_bytes` and `bound_by`.

# %% [markdown]
# Now four cases on the H100, with 4,096 keys: a prompt, tiled and naive, and one decoding step with 32 and with 8 KV
# heads.

# %%
my_guess = None  # your guess: the intensity of tiled prefill, divided by that of decode with 32 KV heads

# %%
places = {}
for name, n_q, kv_heads, tiled in (
    ("prefill of 4,096, tiled", 4096, 32, True),
    ("prefill of 4,096, naive", 4096, 32, False),
    ("decode, 8 KV heads", 1, 8, True),
    ("decode, 32 KV heads", 1, 32, True),
):
    moved = cost.attention_bytes(1, 32, n_q, 4096, 128, "float16", n_kv_heads=kv_heads, tiled=tiled)
    places[name] = cost.arithmetic_intensity(cost.attention_flops(1, 32, n_q, 4096, 128), moved)
guess(my_guess, measured=places["prefill of 4,096, tiled"] / places["decode, 32 KV heads"], unit="times")

# %% [markdown]
# About 2,048. In prefill each key that is fetched serves 4,096 queries, in decode one. Half of that gain is lost to q and out.

# %%
plots.roofline(places, 989e12, 3.35e12, title="Attention of 32 heads on an H100, by its data sheet")

# %% [markdown]
# Decode with 32 KV heads does 1 FLOP for a byte and can reach a third of a per cent of the peak; sharing moves it to the
# right. Prefill lies beyond the ridge if its tables never leave the chip. The naive program carries them to memory and
# back, and stays left of the ridge at every length.

# %% [markdown]
# ### The same arithmetic in another order
#
# “Tens of times faster to train than an RNN”, articles say of attention. An RNN must finish one token before the next
# begins. Multiply 32 tokens with a matrix of 4,096 by 4,096, together, and then one by one: the same 1.07 billion FLOPs.
# How many times as long does the second take?

# %%
my_guess = None  # your guess: time one by one, divided by time together

# %% experiment="8.order"
tokens, matrix = torch.randn(32, 4096), torch.randn(4096, 4096)


def one_by_one():
    for token in tokens:
        token @ matrix


together = median_ms(torch.matmul, tokens, matrix)
guess(my_guess, measured=median_ms(one_by_one) / together, unit="times as long")

# %% [markdown]
# One by one, the 64 MiB of the matrix are fetched for each token: half a FLOP for a byte. Together they are fetched
# once. What that gains depends on the ridge: a few times on one core of a CPU, up to 32 times where the ridge lies far
# to the right. “Tens of times” is a statement about hardware, and in generation a transformer goes one by one too.

# %% [markdown]
# ### Your own roof
#
# Measure both speeds of this machine's core, by a matrix product and by a copy, which reads and writes. Then place
# attention under the roof, with 8 heads of 64 in float32.

# %% experiment="8.speeds"
square, read, written = torch.randn(1024, 1024), torch.randn(2**25), torch.empty(2**25)
peak = 2 * 1024**3 / median_ms(torch.matmul, square, square) * 1000
bandwidth = 2 * read.nbytes / median_ms(written.copy_, read) * 1000
print(f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s, ridge {peak / bandwidth:.1f} FLOP/byte")

# %% experiment="8.roof"
under = {}
for name, n_q, n_k in (("prefill of 2,048", 2048, 2048), ("decode, 32,768 keys", 1, 32768)):
    q, k, v = torch.randn(1, 8, n_q, 64), *torch.randn(2, 1, 8, n_k, 64)
    flops = cost.attention_flops(1, 8, n_q, n_k, 64)
    reached = 1000 * flops / median_ms(F.scaled_dot_product_attention, q, k, v)
    intensity = flops / cost.attention_bytes(1, 8, n_q, n_k, 64, "float32", tiled=True)
    under[name] = (intensity, reached)
plots.roofline(under, peak, bandwidth, title="Attention on this machine, measured")

# %% [markdown]
# The heights are those of the machine named above, and move from run to run. The order holds: decode, left of the ridge,
# does a small part of the FLOP/s of prefill on its right.

# %% [markdown]
# ## 2k, 8k, 32k: predicted, then measured
#
# Now the curve itself: one head of 32 in float32, naive and with PyTorch's `scaled_dot_product_attention` (SDPA), which is
# tiled. How much would naive attention hold at 32,768 tokens?

# %%
my_guess = None  # your guess: GiB for one head at 32,768 tokens, naive, float32

# %%
naive_bytes = cost.inference_bytes(1, 32768, 1, 32, "float32")
guess(my_guess, measured=naive_bytes / 2**30, unit="GiB")

# %% [markdown]
# Eight GiB for a single head, so the naive program stops at 8k here. From 2k to 8k the ledger predicts 16 times the
# FLOPs for both, 16 times the memory for the naive program, and 4 times for SDPA.


# %% experiment="8.lengths"
def on_random(run, n):
    return run(*torch.randn(3, 1, 1, n, 32))  # made inside the call, so that they are weighed too


lengths = [2048, 4096, 8192, 16384, 32768]
curves = {"naive": naive_attention, "SDPA": F.scaled_dot_product_attention}
time_ms = {name: np.full(5, np.nan) for name in curves}  # NaN: not measured
memory_mib = {name: np.full(5, np.nan) for name in curves}
for i, n in enumerate(lengths):
    for name, run in curves.items():
        if name == "SDPA" or n <= 8192:
            q, k, v = torch.randn(3, 1, 1, n, 32)
            time_ms[name][i] = median_ms(run, q, k, v, repeats=2)
            memory_mib[name][i] = peak_mib(on_random, run, n, tries=1)

# %% experiment="8.curves"
predicted = {}
for name, tiled in (("naive", False), ("SDPA", True)):
    grown = [time_ms[name][0] * (n / 2048) ** 2 for n in lengths]
    held = [cost.inference_bytes(1, n, 1, 32, "float32", tiled=tiled) / 2**20 for n in lengths]
    predicted[f"{name}, predicted"] = (grown, held)
measured = {name: (time_ms[name], memory_mib[name]) for name in curves}
plots.time_and_memory(lengths, measured | predicted, title="One head of 32, float32")

# %% [markdown]
# The naive memory lies on its prediction. SDPA needs a MiB or so more than predicted, for its tiles, which shows in short
# texts only. Times climb roughly as the square; the prediction starts from 2k and knows nothing of tables that outgrow the
# processor's caches.

# %% experiment="8.growth"
for name, first, last in (("naive", 0, 2), ("SDPA", 0, 2), ("SDPA", 2, 4)):
    by_time = time_ms[name][last] / time_ms[name][first]
    by_memory = memory_mib[name][last] / memory_mib[name][first]
    span = f"{lengths[first]} to {lengths[last]}"
    print(f"{name:5} {span}: time × {by_time:.0f}, memory × {by_memory:.1f}")

# %% [markdown]
# ## The longest text that fits
#
# Turn the question round: the memory is given, the length is sought. A search answers it for every ledger, if the ledger
# is handed over as a *function* of the length.

# %% [markdown]
# ### Exercise 8.7 · The longest text that fits (5 points · 15 min · about 8 lines)
#
# Write `longest_context(memory_bytes, bytes_at)`. `bytes_at(n)` gives the bytes that a text of n tokens needs, for any
# whole n from 1 on. It never shrinks as n grows, may stand still for a while, and exceeds any memory in the end. Return
# the largest n that needs no more than `memory_bytes`, and 0 if one token is too much already. The answer may be in the
# hundreds of billions, so `bytes_at` may be asked at most 200 times. Write the search yourself, without `bisect`.
#
# By hand, at 10 bytes a token: 60 bytes of memory give 6, since 6 tokens fill it exactly; 69 bytes too; 9 bytes give 0.


# %% exercise="8.7"
def longest_context(memory_bytes, bytes_at):
    """The largest n for which bytes_at(n) fits into memory_bytes.  -> int, 0 if not even one token fits"""
    ### BEGIN SOLUTION
    fits, too_long = 0, 1
    while bytes_at(too_long) <= memory_bytes:  # double until it no longer fits
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 1:  # halve the gap
        middle = (fits + too_long) // 2
        if bytes_at(middle) <= memory_bytes:
            fits = middle
        else:
            too_long = middle
    return fits
    ### END SOLUTION


# %% try="8.7"
for memory in (60, 69, 9):
    print(memory, "bytes:", longest_context(memory, lambda n: 10 * n), "tokens")

# %% check="8.7"
check("8.7", longest_context)

# %% [markdown] teacher="8.7"
# **Why this works.** One length always fits and one never does; each question moves one of them. Doubling takes log₂ n
# questions, halving as many again. **Common wrong turns.** `<` for `<=`; returning the other end; one fixed upper end;
# dividing by the bytes of the first token, which a fixed part or an n² spoils. **Another way.** Set the bits of n from
# the highest down, keeping each that still fits.

# %% [markdown]
# A GPU has 24 GiB. The weights of Llama 3 8B in bfloat16 take 15, other arrays perhaps 1. How long may a text be?

# %%
left = (24 - 16) * 2**30
ledgers = {
    "by the article's formula": lambda n: article_bytes(1, n, 32, 8, 128, torch.bfloat16),
    "with all 32 layers": lambda n: cost.kv_cache_bytes(1, n, 32, 8, 128, torch.bfloat16),
}
for name, bytes_at in ledgers.items():
    print(f"{name}: {cost.longest_context(left, bytes_at):,} tokens")

# %% [markdown]
# By the article the model has room for two million tokens, by the full ledger for 65,536.

# %% [markdown]
# ### Meet the end, safely
#
# A machine whose memory is full may freeze, or stop another program. But a process can be given a limit of its own.
# `bench.run_limited` starts a fresh Python, allows it 256 MiB beyond what it holds, and tells how the code ended. First
# predict: the longest text for naive attention with one head of 64 in float32.


# %%
def naive_bytes_at(n):
    return cost.inference_bytes(1, n, 1, 64, "float32")


limit = 256 * 2**20
longest = cost.longest_context(limit, naive_bytes_at)
print("predicted: the longest text that fits has", longest, "tokens")

# %%
lengths = np.arange(512, 8193, 512)
mib = {
    "naive": [naive_bytes_at(int(n)) / 2**20 for n in lengths],
    "tiled": [cost.inference_bytes(1, int(n), 1, 64, "float32", tiled=True) / 2**20 for n in lengths],
    "the limit": np.full(len(lengths), 256.0),
}
plots.lines(lengths, mib, "Where the memory ends", "length", "MiB")

# %% [markdown]
# The naive curve meets the limit at the predicted length; the tiled one stays near the bottom. Now run the naive program
# at 90 % of that length, and at 110 %. (The limit needs Linux. Elsewhere the cell says that it was not tried.)

# %% experiment="8.limit"
setup = """
import torch
def run(n):
    q, k, v = torch.randn(3, 1, 1, n, 64)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return torch.softmax(scores, dim=-1) @ v
run(512)
"""
for part in (0.9, 1.1):
    n = int(part * longest)
    print(f"{n} tokens: {bench.run_limited(f'run({n})', limit, setup)}")

# %% [markdown]
# The shorter text finishes, the longer one is refused, and this notebook never noticed. The error names the table that was
# one too many: divide its bytes by 4, take the root, and it is the length.

# %% [markdown]
# ## Check yourself

# %% quiz="8.a"

# %% quiz="8.b"

# %% quiz="8.c"

# %% quiz="8.d"

# %% [markdown]
# ### Question 8.w · Ten times the context, a hundred times the bill? (4 points · 10 min)
#
# A colleague plans to raise the context of Llama 3 8B from 8,192 to 81,920 tokens and says: “Attention is quadratic, so a
# prompt will cost a hundred times the compute and the memory. At least the KV cache is no concern: by 2 × tokens × KV
# heads × head size × 2 bytes it is a third of a GiB.” Answer in six to ten sentences with numbers from the chapter.

# %% [markdown] written="8.w"
# ### BEGIN SOLUTION
# **4 points.** Only attention's own FLOPs grow by a hundred; the projections and the feed-forward part grow by ten. The
# two are equal at about 53,000 tokens (causal), so at 8,192 attention is 0.15 of the rest and at 81,920 it is 1.54 of
# it: the whole grows by 10 · 2.54 / 1.15 ≈ 22. That is much, and not a hundred; it would come near a hundred only for
# texts far beyond the crossover. Memory is another ledger. The tables of n by n grow by a hundred if the program is
# naive; with a tiled kernel they are never stored, and what is left (q, k, v, out) grows by ten, while the FLOPs stay
# quadratic. The cache formula forgets the layers: with 32 of them it is 2 · 81,920 · 32 · 8 · 128 · 2 bytes = 10 GiB
# for each request, not 0.31. It grows by ten only, but it is there for every user at once, and decoding has to read all
# of it for each token. So the cache is the concern, and the prompt's memory is not.
#
# **3 points.** Compute grows by about 22 and not 100, because the weights' part is linear and the crossover is at 53k.
# The cache needs the 32 layers, so it is 10 GiB per request. (Nothing is said of the memory of the prompt.)
#
# **2 points.** The n² is only in the attention scores, the rest of the layer is linear, so the factor is between 10 and
# 100.
#
# **1 point.** It will be less than that in practice, since FlashAttention and the KV cache make attention efficient.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# PyTorch's SDPA chooses among several programs; which one runs decides whether your memory grows as n or as n². vLLM
# (2023) measures at its start what weights and a trial run leave free, and hands that out as cache blocks. The usual
# estimate of training, 6 FLOPs a parameter and token, leaves attention out: fair at 2,048 tokens, wrong at 131,072.

# %% [markdown]
# ## Takeaways
#
# - Ten times the text costs between 10 and 100 times the FLOPs: 12.7 times from 128 to 1,280 tokens at width 2,048.
# - Llama 3 8B spends more on causal attention than on its weights from 53,247 tokens on.
# - Naive training keeps a table of weights in every layer, inference holds two in all; tiled, 136 GiB become 8.
# - The KV cache counts layers: 4 GiB for 32,768 tokens of Llama 3 8B, an eighth of a GiB if they are forgotten.
# - Decode does 1 FLOP for each byte of a float16 cache without sharing; an H100's ridge is at 295.

# %%
progress(8)

# %% [markdown]
# ## Further reading
#
# - Williams, Waterman and Patterson, *Roofline: An Insightful Visual Performance Model for Multicore Architectures*
#   (2009).
# - Kaplan and others, *Scaling Laws for Neural Language Models* (2020), section 2.1: FLOPs of a layer.
# - Rabe and Staats, *Self-attention Does Not Need O(n²) Memory* (2021); Dao and others, *FlashAttention* (2022).
# - Chowdhery and others, *PaLM* (2022), appendix B: training FLOPs with attention counted.
# - Korthikanti and others, *Reducing Activation Recomputation in Large Transformer Models* (2022): what training keeps.
# - Pope and others, *Efficiently Scaling Transformer Inference* (2022): prefill, decode and the cache.
# - Ainslie and others, *GQA* (2023); Kwon and others, *PagedAttention* (2023).
#
# Next: chapter 09, where the cache is built, and generation with it gives the same tokens as without.
