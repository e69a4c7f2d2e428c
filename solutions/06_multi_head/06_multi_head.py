# %% [markdown]
# # 06 · Multi-head, GQA, MQA
#
# You cut one attention into several small ones, rebuild PyTorch's own layer from them, and let heads share what they
# read.
#
# 120 min · CPU · PyTorch (`make lab EXTRAS=torch`) · needs 02, 04

# %% [markdown]
# When you have finished, you will be able to
#
# - split and merge heads without mixing up tokens, and write the layer that every transformer is built from;
# - carry weights and masks between your layer and `nn.MultiheadAttention`, and show that both give the same;
# - measure what a head is worth, and say what sharing keys and values (GQA, MQA) saves and costs.

# %%
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import attn_ref
from attn_ref import bench, cost, plots, sentence
from autograder import check, guess, hint, progress, quiz

torch.set_num_threads(1)  # small matrices: one core is fastest, and adds up in the same order each time

# %% [markdown]
# From here on arrays are PyTorch **tensors**. A tensor remembers how it was computed, so `loss.backward()` can find the
# gradients. `nn.Linear(a, b)` holds a matrix `weight` of shape (b, a) and a bias, and computes `x @ weight.T + bias`. An
# `nn.Module` holds such parts and has a method `forward`, which runs when the module is called.

# %% [markdown]
# ## One average is not enough
#
# A head of attention returns one average for each token. Here is a task that wants four things at once. A sentence holds
# 12 random tokens of 8 kinds; from the fifth on, each must name the four tokens before it, in order.
#
# The model is one attention layer between two tables. Each kind of token and each place has a learned vector; a matrix
# reads the four answers from what attention brings. `attn_ref.MultiHeadAttention` is the layer you will write.

# %%
KINDS, LENGTH, WIDTH, BACK = 8, 12, 32, 4


class Fetcher(nn.Module):
    """tokens (B, n) -> a score for each kind, for each of the BACK tokens before: (B, n, BACK, KINDS)"""

    def __init__(self, n_heads, n_kv_heads=None):
        super().__init__()
        self.kind, self.place = nn.Embedding(KINDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention = attn_ref.MultiHeadAttention(WIDTH, n_heads, n_kv_heads)
        self.read = nn.Linear(WIDTH, BACK * KINDS)

    def forward(self, tokens):
        x = self.kind(tokens) + self.place.weight
        return self.read(self.attention(x, causal=True)).unflatten(-1, (BACK, KINDS))


# %% [markdown]
# The **loss** is the surprise -log p at the right kind, in nats. Guessing among 8 kinds costs log 8 ≈ 2.08, knowing costs
# 0. Training takes a step against the gradient 300 times, each time on 64 new sentences.


# %%
def sentences(seed, count=64):
    return torch.randint(KINDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def losses(model, tokens):
    """The mean surprise at the token 1, 2, 3 and 4 places before.  -> (BACK,)"""
    wanted = torch.stack([tokens[:, BACK - b : LENGTH - b] for b in range(1, BACK + 1)], dim=-1)
    surprise = F.cross_entropy(model(tokens)[:, BACK:].flatten(0, 2), wanted.flatten(), reduction="none")
    return surprise.unflatten(0, wanted.shape).mean(dim=(0, 1))


def train(model, steps, first_seed=0):
    optimizer, history = torch.optim.Adam(model.parameters(), lr=0.01), []
    for step in range(steps):
        loss = losses(model, sentences(first_seed + step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


# %% [markdown]
# With 1, 2, 4 or 8 heads the model has the same number of parameters. What loss does one head reach?

# %%
my_guess = None  # your guess: the loss with one head after 300 steps, between 0 and 2.08

# %% experiment="6.train"
models, history = {}, {}
for n_heads in (1, 2, 4, 8):
    torch.manual_seed(0)
    models[n_heads] = Fetcher(n_heads)
    history[n_heads] = np.array(train(models[n_heads], 300)).reshape(30, 10).mean(axis=1)
    size = sum(parameter.numel() for parameter in models[n_heads].parameters())
    print(f"heads: {n_heads}, parameters: {size}, last loss: {history[n_heads][-1]:.3f}")
guess(my_guess, measured=history[1][-1], unit="nats")

# %% [markdown]
# The four trainings as curves:

# %% experiment="6.curves"
curves = {f"{n} head{'s' * (n > 1)}": values for n, values in history.items()}
plots.lines(range(10, 301, 10), curves, "Naming the four tokens before", "steps", "loss (nats)")

# %% [markdown]
# One head stays above 1 nat. It can fetch all four tokens, but only mixed into one average, which hardly tells their
# order. Two heads at least halve the loss. With four it is gone: each head can fetch one token.

# %% [markdown]
# ## A head is a slice of the width
#
# Where do more heads come from, if not from more parameters? They share out the width. Here is the course's sentence, cut
# for two heads.

# %%
x = torch.from_numpy(sentence.EMBEDDINGS.copy())
heads = attn_ref.split_heads(x, 2)  # (2, 6, 2): head, token, number
plots.matrices({"whole": x, "head 0": heads[0], "head 1": heads[1]}, title="the cat sat on the mat")

# %% [markdown]
# Head 0 gets the first two numbers of every token, thing and action; head 1 gets place and function. Each attends by
# itself. (The scores are three times the dot products here, for contrast.)

# %%
_, maps = attn_ref.attention(heads, heads, heads, scale=3.0, return_weights=True)
plots.weights(maps, sentence.TOKENS, sentence.TOKENS)

# %% [markdown]
# In head 0 “mat” looks most at “cat”, another thing; in head 1 at “on”, another word of place.
#
# In a real layer it is not the token that is cut. Three matrices first mix all its numbers into a query, a key and a
# value, and *these* are cut. So every head reads the whole token, through its own rows of the matrices.

# %% [markdown]
# ### Exercise 6.1 · One vector, cut into heads (6 points · 10 min · 1 to 4 lines)
#
# Write `split_heads(x, n_heads)`. `x` is a tensor (B, n, H·d): B sentences, n tokens, H = `n_heads` heads of d numbers.
# Return (B, H, n, d), in which head h holds the numbers h·d to h·d + d - 1 of every token. n_heads always divides the
# width. The dtype stays, gradients pass, and `x` stays as it was; the result may be a view of it.
#
# By hand: one sentence of the tokens (1, 2, 3, 4) and (5, 6, 7, 8), cut for two heads. Head 0 holds (1, 2) and (5, 6),
# head 1 holds (3, 4) and (7, 8).


# %% exercise="6.1"
def split_heads(x, n_heads):
    """Each head's part of every token.  (B, n, H·d) -> (B, H, n, d)"""
    ### BEGIN SOLUTION
    b, n, width = x.shape
    return x.reshape(b, n, n_heads, width // n_heads).transpose(1, 2)
    ### END SOLUTION


# %% try="6.1"
print(split_heads(torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]]), 2))
print(split_heads(torch.zeros(2, 5, 12), 3).shape)

# %% check="6.1"
check("6.1", split_heads)

# %% [markdown] teacher="6.1"
# **Why this works.** Cutting the last axis into (H, d) moves nothing in memory; the exchange only changes the strides. So
# splitting costs no copy. **Common wrong turns.** A reshape straight to (B, H, n, d); (d, H) in place of (H, d); the
# exchange forgotten. **Another way.** `torch.stack(x.chunk(n_heads, dim=-1), dim=1)`, or `x.unflatten(-1, (n_heads,
# -1))`.

# %% [markdown]
# ### Break it: the right shape, the wrong numbers
#
# The function below asks for the final shape at once. Let every number say where it comes from: 10 · token + place.


# %%
def cut_at_once(x, n_heads):
    """Splitting with a planted bug."""
    b, n, width = x.shape
    return x.reshape(b, n_heads, n, width // n_heads)


numbered = (10 * torch.arange(4)[:, None] + torch.arange(6))[None]  # 1 sentence, 4 tokens, 6 numbers
right, wrong = attn_ref.split_heads(numbered, 2)[0], cut_at_once(numbered, 2)[0]
plots.matrices({"head 0, right": right[0], "head 0, cut at once": wrong[0]}, unit="10 · token + place")

# %%
check("6.1", cut_at_once)

# %% [markdown]
# On the right, head 0 holds all of tokens 0 and 1 and nothing of tokens 2 and 3: the heads have divided the *sentence*
# among them. A mask then hides the wrong tokens, and no line raises an error.

# %% [markdown]
# ### Exercise 6.2 · And put together again (4 points · 5 min · 1 to 3 lines)
#
# Write `merge_heads(x)`, the way back: (B, H, n, d) → (B, n, H·d). Each token gets its d numbers from head 0 first, then
# those from head 1, and so on. As in 6.1, the dtype stays, gradients pass, and `x`, which may be a view of another
# tensor, stays as it was.
#
# By hand: the two heads of 6.1 give (1, 2, 3, 4) and (5, 6, 7, 8) again.


# %% exercise="6.2"
def merge_heads(x):
    """All heads of a token side by side.  (B, H, n, d) -> (B, n, H·d)"""
    ### BEGIN SOLUTION
    b, n_heads, n, d = x.shape
    return x.transpose(1, 2).reshape(b, n, n_heads * d)
    ### END SOLUTION


# %% try="6.2"
print(merge_heads(torch.tensor([[[[1, 2], [5, 6]], [[3, 4], [7, 8]]]])))

# %% check="6.2"
check("6.2", merge_heads)

# %% [markdown] teacher="6.2"
# **Why this works.** The inverse undoes the steps in reverse order. Here the reshape has to copy: H and d are no longer
# neighbours in memory, which is why `view` refuses. **Common wrong turns.** `x.reshape(b, n, h * d)` at once; the axes in
# the order (n, d, H). **Another way.** `torch.cat(x.unbind(1), dim=-1)`.

# %% [markdown]
# ## The layer: project, split, attend, merge, mix
#
# Multi-head attention is these steps in a row, for `source` = x (self-attention) or a memory (cross-attention, chapter
# 04). The size of a head is d = d_model / H.
#
# | step | shape |
# |---|---|
# | w_q(x), w_k(source), w_v(source) | (B, n, d_model), (B, m, d_model), (B, m, d_model) |
# | split into heads | (B, H, n, d), (B, H, m, d), (B, H, m, d) |
# | weights = softmax(q kᵀ / √d), masked | (B, H, n, m) |
# | weights · v | (B, H, n, d) |
# | merge, then w_o | (B, n, d_model) |
#
# Without **w_o**, the first d numbers of the output would come from head 0 alone. With it, every number of the output can
# draw on all heads.

# %% [markdown]
# ### Dropout takes whole messages
#
# **Dropout** works against learning by heart. In training, each weight is set to 0 with probability p and the others are
# multiplied by 1 / (1 - p), so that a model learns not to hang on a single message. In use, after `.eval()`, nothing is
# dropped. Here it meets the two maps from above, with p = 0.3.

# %%
torch.manual_seed(1)
dropped = F.dropout(maps, p=0.3, training=True)
plots.weights(dropped, sentence.TOKENS, sentence.TOKENS, title="dropped, head")

# %% [markdown]
# Zeros have appeared, and the rest has grown by 1 / 0.7 ≈ 1.43. A row no longer sums to 1; on average over many draws it
# does.

# %% [markdown]
# ### Exercise 6.3 · The layer (7 points · 25 min · about 10 lines)
#
# Write `forward` of `MultiHeadAttention`; the constructor is given, and you may add to it. `x` is (B, n, d_model). Keys
# and values come from `memory` (B, m, d_model) or, if it is None, from `x`. `allowed` is None or Boolean, (n, m) or (B,
# 1, n, m), True = may attend. A query that may attend to nothing gets 0 from every head, so its output is the bias of
# `w_o`. Weights are dropped with probability `self.dropout`, only while `self.training` is true. Return (B, n, d_model)
# alone. Gradients must reach all four matrices, x and the memory, and none may be NaN. Scores may be in the thousands. No
# input may be written to.
#
# You may build on your 6.1 and 6.2, on `F.dropout`, and on `attn_ref.attention` or `F.scaled_dot_product_attention`, for
# both of which True = may attend. By hand: d_model = 2, two heads, all matrices the identity, biases 0, tokens (0, 0) and
# (0, √log 3). In head 1 the second token scores 0 and log 3. Its weights are ¼ and ¾, and its output is (0, ¾ √log 3).


# %% exercise="6.3"
class MultiHeadAttention(nn.Module):
    """Several small attentions side by side.  x (B, n, d_model), memory (B, m, d_model) -> (B, n, d_model)"""

    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, d_model)
        self.w_v = nn.Linear(d_model, d_model)
        self.w_o = nn.Linear(d_model, d_model)

    def forward(self, x, memory=None, allowed=None):
        ### BEGIN SOLUTION
        source = x if memory is None else memory
        q = split_heads(self.w_q(x), self.n_heads)  # (B, H, n, d)
        k = split_heads(self.w_k(source), self.n_heads)  # (B, H, m, d)
        v = split_heads(self.w_v(source), self.n_heads)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, H, n, m)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        weights = torch.nan_to_num(scores.softmax(dim=-1))  # NaN where a query may attend to nothing
        weights = F.dropout(weights, self.dropout, training=self.training)
        return self.w_o(merge_heads(weights @ v))
        ### END SOLUTION


# %% try="6.3"
mine = MultiHeadAttention(d_model=12, n_heads=3)
print(mine(torch.randn(2, 5, 12)).shape)
print(mine(torch.randn(2, 5, 12), memory=torch.randn(2, 7, 12)).shape)

# %% check="6.3"
check("6.3", MultiHeadAttention)

# %% [markdown] teacher="6.3"
# **Why this works.** All heads are computed by one matrix product each: H is one more leading axis, and chapter 02's
# attention does not care how many there are. **Common wrong turns.** d_model under the root; w_o forgotten; the mask
# turned over; `F.dropout(weights, p)` without `training`, which always drops; NaN for an empty row, or, with `scores +
# mask` mended by `nan_to_num`, NaN in its gradient alone (`masked_fill` passes none to what it fills). **Another way.**
# `F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0)`.

# %% [markdown]
# ### Agree: heads one by one, and torch's own function
#
# A loop over the heads and PyTorch's function must find what the layer finds.

# %%
torch.manual_seed(2)
layer, tokens = attn_ref.MultiHeadAttention(12, 3), torch.randn(2, 5, 12)
allowed = torch.ones(5, 5, dtype=torch.bool).tril()
with torch.no_grad():
    out = layer(tokens, allowed=allowed)
    q, k, v = (attn_ref.split_heads(w(tokens), 3) for w in (layer.w_q, layer.w_k, layer.w_v))
    one_by_one = [attn_ref.attention(q[:, h], k[:, h], v[:, h], allowed=allowed) for h in range(3)]
    looped = layer.w_o(torch.cat(one_by_one, dim=-1))
    library = layer.w_o(attn_ref.merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)))
print("all three agree:", torch.allclose(out, looped, atol=1e-6), torch.allclose(out, library, atol=1e-6))

# %% [markdown]
# ## PyTorch packs three matrices into one
#
# `nn.MultiheadAttention` is the same layer with another packing: its `in_proj_weight` holds the matrices of queries, keys
# and values below each other, so that one product makes all three.

# %%
torch.manual_seed(3)
small = nn.MultiheadAttention(embed_dim=4, num_heads=2, batch_first=True)
print({name: tuple(value.shape) for name, value in small.state_dict().items()})
rows = [f"{name}{i}" for name in "qkv" for i in range(4)]
plots.matrix(small.in_proj_weight, rows, range(4), title="in_proj_weight", unit="weight")

# %% [markdown]
# Rows q0 to q3 make the query, of which q0 and q1 go to head 0. `state_dict()`, printed above, gives a module's tensors
# by name, and `load_state_dict` reads such a dictionary.

# %% [markdown]
# ### Exercise 6.4 · Unpack PyTorch's weights (5 points · 10 min · about 8 lines)
#
# Write `weights_from_torch(module)`. It takes an `nn.MultiheadAttention` and returns a dictionary that the layer of 6.3
# can load: `w_q.weight`, `w_k.weight`, `w_v.weight`, `w_o.weight`, and the same four with `.bias`. The output matrix is
# `module.out_proj`. The tensors are copies, and the module stays as it was. A module made with `bias=False` has None as
# `in_proj_bias` and as `out_proj.bias`; return the four weights alone. (`kdim`, `vdim` and `add_bias_kv` are never set.)
#
# By hand: embed_dim = 1, `in_proj_weight` = (2, 3, 4) as a column. Then w_q.weight is [[2]], w_k.weight [[3]], w_v.weight
# [[4]].


# %% exercise="6.4"
def weights_from_torch(module):
    """The weights of an nn.MultiheadAttention under the names of our layer.  -> {name: tensor}"""
    ### BEGIN SOLUTION
    names = ("w_q", "w_k", "w_v")
    found = {f"{name}.weight": part for name, part in zip(names, module.in_proj_weight.chunk(3), strict=True)}
    found["w_o.weight"] = module.out_proj.weight
    if module.in_proj_bias is not None:
        found |= {f"{name}.bias": part for name, part in zip(names, module.in_proj_bias.chunk(3), strict=True)}
        found["w_o.bias"] = module.out_proj.bias
    return {name: part.detach().clone() for name, part in found.items()}
    ### END SOLUTION


# %% try="6.4"
for name, value in weights_from_torch(small).items():
    print(name, tuple(value.shape))

# %% check="6.4"
check("6.4", weights_from_torch)

# %% [markdown] teacher="6.4"
# **Why this works.** The packed matrix is the three weights stacked along their output axis; `chunk(3)` cuts along axis
# 0. `chunk` returns views, hence the clone. **Common wrong turns.** A transpose “because x @ W”; the order q, v, k; rows
# taken in steps of three, as some checkpoints are packed. **Another way.** Three slices of d_model rows.

# %% [markdown]
# `attn_ref.MultiHeadAttention.from_torch` does the same for `attn_ref`'s layer. Two implementations, one set of numbers:

# %%
torch.manual_seed(4)
theirs = nn.MultiheadAttention(12, 3, batch_first=True)
ours = attn_ref.MultiHeadAttention.from_torch(theirs)
with torch.no_grad():
    difference = (ours(tokens) - theirs(tokens, tokens, tokens)[0]).abs().max().item()
print("largest difference below 1e-6:", difference < 1e-6)

# %% [markdown]
# ## The same mask means the opposite
#
# `allowed` is the causal mask of five tokens, True = may attend, as in this course and in
# `F.scaled_dot_product_attention`. It fits `nn.MultiheadAttention` too, in shape and in dtype. How much weight does the
# first token then put on itself, where a causal mask leaves it no one else?

# %%
my_guess = None  # your guess: the weight of the first token on itself, between 0 and 1

# %%
with torch.no_grad():
    _, as_it_is = theirs(tokens, tokens, tokens, attn_mask=allowed)  # (B, n, n), averaged over the heads
guess(my_guess, measured=as_it_is[0, 0, 0])

# %% [markdown]
# In `nn.MultiheadAttention` True *forbids*. Here is the whole map; what the module refused is hatched.

# %%
plots.weights(torch.nan_to_num(as_it_is[0]), title="a causal mask, taken the wrong way", allowed=~allowed)

# %% [markdown]
# Every token looks at the future and at nothing else. The last token has no future: for its empty row the module returns
# NaN, drawn as 0 here, which gives this bug away. With a padding mask there is often no such row, and the model reads
# padding without a word.
#
# The shapes differ too. A mask for each sentence must be (B·H, n, m): one for every sentence *and* head.

# %% [markdown]
# ### Exercise 6.5 · The other polarity (5 points · 8 min · 1 to 4 lines)
#
# Write `to_torch_mask(allowed, n_heads)`. `allowed` is a Boolean tensor, True = may attend, (n, m) or (B, n, m). Return
# the Boolean mask that `nn.MultiheadAttention` takes as `attn_mask`: True = forbidden, (n, m) in the first case and (B·H,
# n, m) in the second, where entry b·H + h is the mask of sentence b for head h. `allowed` must stay as it was.
#
# By hand: two sentences with one query and two keys, allowed [[[True, False]], [[False, True]]], and two heads. The
# result is [[[False, True]], [[False, True]], [[True, False]], [[True, False]]].


# %% exercise="6.5"
def to_torch_mask(allowed, n_heads):
    """The attn_mask of nn.MultiheadAttention.  (n, m) -> (n, m), (B, n, m) -> (B·H, n, m), True = forbidden"""
    ### BEGIN SOLUTION
    forbidden = ~allowed
    return forbidden if allowed.ndim == 2 else forbidden.repeat_interleave(n_heads, dim=0)
    ### END SOLUTION


# %% try="6.5"
print(to_torch_mask(torch.tensor([[[True, False]], [[False, True]]]), n_heads=2))

# %% check="6.5"
check("6.5", to_torch_mask)

# %% [markdown] teacher="6.5"
# **Why this works.** `repeat_interleave` finishes one entry before it goes to the next; `repeat` starts over. The same
# pair returns in 6.7. **Common wrong turns.** `repeat`; `1 - allowed`, which is a mask of numbers and gets *added* to the
# scores; `logical_not_`. **Another way.** `~allowed[:, None].expand(-1, n_heads, -1, -1).flatten(0, 1)`.

# %% [markdown]
# In the module's `key_padding_mask`, (B, m), too, True = forbidden. With it, sentences of 5 and 3 tokens agree:

# %%
real = torch.arange(5) < torch.tensor([5, 3])[:, None]  # (2, 5)
with torch.no_grad():
    masked = ours(tokens, allowed=real[:, None])
    difference = (masked - theirs(tokens, tokens, tokens, key_padding_mask=~real)[0]).abs().max().item()
print("with padding, largest difference below 1e-6:", difference < 1e-6)

# %% [markdown]
# ## Eight heads at work
#
# Back to the model with eight heads, which solves its task. How have the heads divided the work? Choose a head, and point
# at a token to see its weights alone.

# %% experiment="6.eight"
eight, test = models[8], sentences(seed=10**6, count=512)
with torch.no_grad():
    x = eight.kind(test) + eight.place.weight
    _, maps = eight.attention(x, causal=True, return_weights=True)  # (512, 8, 12, 12)
words = [f"{place}: {'abcdefgh'[kind]}" for place, kind in enumerate(test[0])]
plots.head_lines(maps[0], words, title="Eight heads, one sentence")

# %% [markdown]
# A line is as thick as its weight. In most heads the lines run parallel: every token looks the same number of places
# back. All eight side by side:

# %% experiment="6.views"
plots.head_view(maps[0], words, words, title="The same eight heads")

# %% [markdown]
# Averaged over 512 sentences, how much weight does each head put on the token b places back?

# %% experiment="6.shares"
diagonals = [torch.diagonal(maps[:, :, BACK:, BACK - b :], dim1=2, dim2=3) for b in range(5)]
shares = torch.stack([diagonal.mean(dim=(0, 2)) for diagonal in diagonals], dim=-1)  # (8 heads, 5 distances)
names, places = [f"head {h}" for h in range(8)], ["itself", "1 back", "2 back", "3 back", "4 back"]
plots.matrix(shares, names, places, "Where the heads look", unit="mean weight")

# %% [markdown]
# Most heads look at one distance, and every distance has at least one head. Another seed deals these roles otherwise.
#
# Heads are often compared to flashlights, each on another part of the sentence. The picture breaks in two places: nobody
# aims these flashlights, and several may shine on one spot. A role read off a map stays a guess until it is measured.

# %% [markdown]
# ## What is a head worth?
#
# Take a head out and see what the loss does. The merged vector times `w_o` is a sum with one term for each head, so head
# h enters the output only through its d columns of `w_o`.

# %% [markdown]
# ### Exercise 6.6 · Take heads out (5 points · 8 min · about 4 lines)
#
# Write `prune_heads(w_o, heads, n_heads)`. `w_o` is the weight of an `nn.Linear`, (d_model, H·d), so its columns meet the
# merged heads in the order of 6.2. `heads` is a list of different numbers from 0 to H - 1, in any order, and may be
# empty. Return a new matrix of the same shape in which the columns of these heads are 0. H·d may differ from d_model.
# `w_o` and `heads` must stay as they were.
#
# By hand: with two heads and w_o = [[1, 2, 3, 4], [5, 6, 7, 8]], taking out head 1 leaves [[1, 2, 0, 0], [5, 6, 0, 0]].


# %% exercise="6.6"
def prune_heads(w_o, heads, n_heads):
    """w_o without what these heads bring.  (d_model, H·d) -> (d_model, H·d)"""
    ### BEGIN SOLUTION
    d = w_o.shape[1] // n_heads
    pruned = w_o.clone()
    for h in heads:
        pruned[:, h * d : (h + 1) * d] = 0
    return pruned
    ### END SOLUTION


# %% try="6.6"
print(prune_heads(torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]), [1], n_heads=2))

# %% check="6.6"
check("6.6", prune_heads)

# %% [markdown] teacher="6.6"
# **Why this works.** `nn.Linear` stores (outputs, inputs); the inputs are the merged heads, so a head owns columns.
# **Common wrong turns.** Rows in place of columns; every H-th column; writing into the layer's own weight. **Another
# way.** Multiply by a row of zeros and ones, `keep.repeat_interleave(d)`. In use one would cut the rows of w_q, w_k and
# w_v too, and save their time.

# %% [markdown]
# The experiment silences heads at the entrance of `w_o`, with a **hook**: a function that sees a module's input and may
# replace it. Each head is taken out alone. How large is the largest loss of one of the four answers?

# %%
my_guess = None  # your guess: the largest loss of an answer when one of the eight heads is gone


# %% experiment="6.alone"
def losses_without(gone):
    """The four losses on the test sentences when these heads bring nothing."""
    keep = torch.ones(8, 4)  # 8 heads of 4 numbers
    keep[list(gone)] = 0
    hook = eight.attention.w_o.register_forward_pre_hook(lambda module, inputs: inputs[0] * keep.flatten())
    with torch.no_grad():
        found = losses(eight, test)
    hook.remove()
    return found.numpy()


alone = np.stack([losses_without([h]) for h in range(8)])  # (8 heads, 4 answers)
guess(my_guess, measured=alone.max(), unit="nats")

# %% [markdown]
# All 32 losses, a row for each head that was taken out:

# %% experiment="6.losses"
plots.matrix(alone, names, places[1:], "Loss of each answer without one head", unit="loss (nats)")

# %% [markdown]
# Taking out a head hurts one answer, the one it looked at. But compare the two tables head by head: some with a clear map
# are missed by nobody, because another head fetches the same token. Only taking a head out shows what it is worth.

# %% [markdown]
# ### One by one
#
# Now take out head after head, each time the one that is missed least. How many can go before the loss passes 0.1?

# %%
my_guess = None  # your guess: how many of the eight heads can go

# %% experiment="6.pruned"
gone, path = [], [losses_without([]).mean()]
while len(gone) < 8:
    left = {h: losses_without([*gone, h]).mean() for h in range(8) if h not in gone}
    gone.append(min(left, key=left.get))
    path.append(left[gone[-1]])
print(f"8 heads trained, the best 4 kept: loss {path[4]:.2f}")
print(f"4 heads trained from the start:   loss {history[4][-1]:.2f}")
guess(my_guess, measured=sum(loss < 0.1 for loss in path[1:]), unit="heads")

# %% [markdown]
# The whole path:

# %% experiment="6.path"
plots.lines(range(9), {"loss": np.array(path)}, "Pruning the trained model", "heads taken out", "loss (nats)")

# %% [markdown]
# The first head leaves hardly a trace; in the end the loss is about that of guessing. Four heads trained together are
# enough for this task; the best four of these eight are not, since they learned to rely on the others. Michel and others
# (2019) found the same in translators: most heads can go alone, far fewer together.

# %% [markdown]
# ## Heads may share keys and values
#
# When a model writes, it keeps the keys and values of all tokens so far: the **KV cache** of chapter 09. Every token, in
# every layer, costs 2 · H_kv · d numbers, where H_kv is the number of **KV heads**. Queries are not kept. So let several
# query heads read one KV head. With as many KV heads as heads this is multi-head attention, **MHA**; with one for all it
# is multi-query attention, **MQA** (Shazeer 2019); in between, grouped-query attention, **GQA** (Ainslie and others
# 2023).

# %%
kinds = {"MHA": 8, "GQA": 2, "MQA": 1}
who = {name: np.repeat(np.eye(n_kv, dtype=bool), 8 // n_kv, axis=0) for name, n_kv in kinds.items()}
plots.masks(who, title="8 query heads (down) and the KV head each reads (across)")

# %% [markdown]
# Neighbours share: with two KV heads, query heads 0 to 3 read KV head 0. Every query head still has a map of its own.

# %% [markdown]
# ### Exercise 6.7 · Several heads read one (6 points · 12 min · about 5 lines)
#
# Write `grouped_query_attention(q, k, v)`: q is (B, H, n, d), k is (B, H_kv, m, d), v is (B, H_kv, m, d_v), and H_kv
# divides H. Query head h attends to KV head h // (H / H_kv), with scale 1/√d and no mask. Return (B, H, n, d_v). Scores
# may be in the thousands, gradients must reach q, k and v, and no input may be written to. torch's `softmax` is yours to
# use; `attn_ref.attention`, `attn_ref.attention_scores` and `F.scaled_dot_product_attention` are not: they share heads by
# themselves.
#
# By hand: four query heads, two KV heads, one query and one key. All weights are 1, so with the values 10 and 20 the four
# heads return 10, 10, 20, 20.


# %% exercise="6.7"
def grouped_query_attention(q, k, v):
    """q (B, H, n, d), k (B, H_kv, m, d), v (B, H_kv, m, d_v) -> (B, H, n, d_v)"""
    ### BEGIN SOLUTION
    heads_per_kv = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(heads_per_kv, dim=1)  # (B, H, m, d)
    v = v.repeat_interleave(heads_per_kv, dim=1)  # (B, H, m, d_v)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, H, n, m)
    return scores.softmax(dim=-1) @ v
    ### END SOLUTION


# %% try="6.7"
ones, values = torch.ones(1, 4, 1, 1), torch.tensor([10.0, 20.0]).reshape(1, 2, 1, 1)
print(grouped_query_attention(ones, ones[:, :2], values).flatten())

# %% check="6.7"
check("6.7", grouped_query_attention)

# %% [markdown] teacher="6.7"
# **Why this works.** After `repeat_interleave` each query head finds its KV head at its own place, and the rest is
# chapter 02. **Common wrong turns.** `repeat`, which gives 0 1 0 1; repeating along the tokens; averaging the queries.
# **Another way.** Fold the group into the queries, (B, H_kv, r·n, d): then nothing is copied, which is the point in a
# kernel.

# %% [markdown]
# ### Break it: invisible at both ends
#
# The planted bug repeats the KV heads as a whole, 0 1 0 1 in place of 0 0 1 1.


# %%
def repeated_whole(q, k, v):
    """Grouped-query attention with a planted bug."""
    times = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1))


q = torch.randn(2, 8, 5, 4)
for n_kv in (8, 2, 1):
    k, v = torch.randn(2, 2, n_kv, 7, 4)
    right = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    agree = torch.allclose(right, attn_ref.attention(q, k, v), atol=1e-5)
    bug_agrees = torch.allclose(right, repeated_whole(q, k, v), atol=1e-5)
    print(f"{n_kv} KV heads: attn_ref agrees with torch: {agree}, the bug agrees: {bug_agrees}")

# %%
check("6.7", repeated_whole)

# %% [markdown]
# At both ends, 8 and 1, the bug is invisible; counts in between catch it.

# %% [markdown]
# ### What sharing costs
#
# Ainslie and others turned trained models into GQA by averaging the matrices w_k and w_v of each group. Our heads look at
# different distances. Turned into MQA, what is the model's loss before any further training?

# %%
my_guess = None  # your guess: the loss with the eight KV heads averaged into one (guessing costs 2.08)


# %% experiment="6.averaged"
def averaged(model, n_kv_heads):
    """The same model, in which the KV heads of each group are replaced by their mean."""
    state = model.state_dict()
    for name in state:
        if ".w_k." in name or ".w_v." in name:
            groups = state[name].unflatten(0, (n_kv_heads, -1, WIDTH // 8))  # (H_kv, H / H_kv, d, ...)
            state[name] = groups.mean(dim=1).flatten(0, 1)
    smaller = Fetcher(8, n_kv_heads)
    smaller.load_state_dict(state)
    return smaller


at_once, later, labels = [], [], []
for n_kv in (8, 4, 2, 1):
    smaller = averaged(eight, n_kv)
    at_once.append(losses(smaller, test).mean().item())
    train(smaller, 100, first_seed=1000)
    later.append(losses(smaller, test).mean().item())
    labels.append(f"{n_kv} KV heads\n{cost.kv_cache_bytes(1, 1, 1, n_kv, 4, 'float32')} bytes")
guess(my_guess, measured=at_once[-1], unit="nats")

# %% [markdown]
# For all counts of KV heads, with the bytes of cache that a token needs:

# %% experiment="6.sharing"
both = {"heads averaged": np.array(at_once), "100 steps later": np.array(later)}
plots.bars(both, labels, "Loss, and cache for each token", ylabel="loss (nats)", limit=4)

# %% [markdown]
# Averaged into two or one, the heads do worse than guessing: the model is certain, and wrong. A hundred steps repair
# it, a third of the first training: the queries learn to find four distances in one set of keys.
#
# This task is easy. On large models, after further training with 5 % of the original computation, Ainslie and others
# measured a loss of quality for MQA and little for GQA with 8 KV heads.

# %% [markdown]
# ## Count, then time
#
# Sharing also removes weights, since w_k and w_v make fewer heads. How many are left?

# %% [markdown]
# ### Exercise 6.8 · How many weights (4 points · 6 min · about 2 lines)
#
# Write `attention_parameters(d_model, n_heads, n_kv_heads, d_head)`: the number of weights in W_q, W_k, W_v and W_o
# together, without biases, as a whole number. W_q and W_o belong to `n_heads` heads of `d_head` numbers, W_k and W_v to
# `n_kv_heads`. n_heads · d_head may differ from d_model.
#
# By hand: d_model = 4 and two heads of two numbers, each with keys and values of its own. Four 4 × 4 matrices hold 64
# weights.


# %% exercise="6.8"
def attention_parameters(d_model, n_heads, n_kv_heads, d_head):
    """Weights of W_q, W_k, W_v and W_o, without biases.  -> int"""
    ### BEGIN SOLUTION
    q_and_out = 2 * d_model * n_heads * d_head
    k_and_v = 2 * d_model * n_kv_heads * d_head
    return q_and_out + k_and_v
    ### END SOLUTION


# %% try="6.8"
print(attention_parameters(d_model=4, n_heads=2, n_kv_heads=2, d_head=2))
print(attention_parameters(d_model=3, n_heads=2, n_kv_heads=1, d_head=5))

# %% check="6.8"
check("6.8", attention_parameters)

# %% [markdown] teacher="6.8"
# **Why this works.** Each matrix is d_model times the numbers it makes or reads. With n_heads · d_head = d_model and full
# KV heads this is 4 · d_model², whatever n_heads is: the reason why all models of the hook had one size. **Common wrong
# turns.** 4 · d_model² always; W_k and W_v counted once; W_o taken for a square.

# %% [markdown]
# The number of heads, the size of a head and the dropout probability are the layer's **hyper-parameters**: a designer
# chooses them. H · d = d_model is a custom, and T5-11B departs from it. For one layer:

# %%
chosen = {  # d_model, heads, KV heads, head size
    "GPT-2 small (2019)": (768, 12, 12, 64),
    "T5-11B (2019)": (1024, 128, 128, 128),
    "Llama 2 7B (2023)": (4096, 32, 32, 128),
    "Falcon 7B (2023)": (4544, 71, 1, 64),
    "Llama 3 8B (2024)": (4096, 32, 8, 128),
}
for name, (d_model, n_heads, n_kv, d) in chosen.items():
    weights = cost.attention_parameters(d_model, n_heads, n_kv, d) / 1e6
    kib = cost.kv_cache_bytes(1, 1, 1, n_kv, d, "float16") / 1024
    print(f"{name:20} {n_heads:3} heads, {n_kv:3} KV: {weights:4.1f} million weights, {kib:5.2f} KiB a token")

# %% [markdown]
# Llama 3 8B keeps a quarter of the cache of Llama 2 7B. Every query head still meets every key, so there is as much to
# multiply; but for each new token the whole cache must be *read*. How many times faster is one query over 8,192 tokens
# with 1 KV head than with 32?

# %%
my_guess = None  # your guess: how many times faster

# %%
q, fastest = torch.randn(1, 32, 1, 64), {}
for n_kv in (32, 8, 1):
    k, v = torch.randn(2, 1, n_kv, 8192, 64)
    samples = []
    for _ in range(10):
        start = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        samples.append(time.perf_counter() - start)
    fastest[n_kv] = min(samples)
print(bench.machine())
print({f"{n_kv} KV heads": f"{1000 * seconds:.1f} ms" for n_kv, seconds in fastest.items()})
guess(my_guess, measured=fastest[32] / fastest[1], unit="times")

# %% [markdown]
# The ratio depends on the machine; it lies above 1 where reading holds up computing (chapter 08).

# %% [markdown]
# ## Check yourself

# %% quiz="6.a"

# %% quiz="6.b"

# %% quiz="6.c"

# %% quiz="6.d"

# %% [markdown]
# ### Question 6.w · Cut and share (4 points · 10 min)
#
# A colleague has a trained model with 32 heads and says: “Going by their maps, twenty heads look at nothing useful, so I
# delete them. The other twelve I average into one KV head. Quality stays, and the model needs a thirty-second of the
# memory.” Answer in six to nine sentences: what a map tells and what it does not, how to measure instead, what averaging
# does and what it needs afterwards, and which memory shrinks by how much.

# %% [markdown] written="6.w"
# ### BEGIN SOLUTION
# **4 points.** A map says where a head looks, not whether what it brings is used. In the chapter a head with a clear map
# could go at no cost because another fetched the same token; a head with a dull map may matter just as well. So measure:
# silence one head at a time at the entrance of w_o and take the loss on held-out data, then in groups, because heads back
# each other up and the costs do not add: two heads that are each free to remove may together be the only ones that do a
# job. After pruning, train on for a while. Averaging keys and values of heads that look for different things gives keys
# that fit none of them: our model fell below guessing, from 0.00 to more than 2 nats, and recovered only with another
# hundred steps. On large models MQA lost some quality even after that, and GQA with several KV heads is the safer choice.
# The memory: with one KV head the cache shrinks to 1/32, the weights do not. w_q and w_o of the heads that stay keep their
# size, w_k and w_v shrink, and the rest of the model is untouched.
#
# **3 points.** Maps are not importance; one must remove heads and measure the loss, also several at once. Averaging KV
# heads breaks the model at first and needs more training, as our experiment showed. The cache becomes 32 times smaller,
# but that is only the cache.
#
# **2 points.** You cannot tell from the maps whether heads are useful, you should test it by removing them. Averaging
# might also make it worse.
#
# **1 point.** It could be risky to remove so many heads, since quality may suffer.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# Newer models call `F.scaled_dot_product_attention` in a layer of their own; its `enable_gqa=True` (PyTorch 2.5, 2024)
# shares KV heads. FlashAttention-2 (2023) does so in its kernel.
#
# PaLM (2022) and Falcon 7B (2023) use MQA; Llama 2 70B (2023), Mistral 7B (2023) and Llama 3 (2024) use GQA. DeepSeek-V2
# (2024) stores one short vector a token, beside a small key for its position, and makes keys and values from it:
# **multi-head latent attention**.

# %% [markdown]
# ## Takeaways
#
# - Heads cost no parameters: 1, 2, 4 and 8 heads all had 5,920, and the loss went from above 1 nat to below 0.01.
# - Cut, then exchange: a reshape straight to (B, H, n, d) gives each of two heads half of the *sentence*.
# - True = may attend in `F.scaled_dot_product_attention`, forbidden in `nn.MultiheadAttention`: with the wrong one the
#   first token's weight on itself was 0 in place of 1.
# - A map shows where a head looks, not its worth: without one head an answer's loss rose above 1 nat, while another head
#   could go for less than 0.1.
# - 8 KV heads in place of 32 keep a quarter of the cache. Ours, averaged from 8 into 1, did worse than guessing (2.08) and
#   was back below 0.1 nats after 100 steps.

# %%
progress(6)

# %% [markdown]
# ## Further reading
#
# - Vaswani and others, *Attention Is All You Need* (2017), section 3.2.2, and table 3 (A).
# - Michel, Levy and Neubig, *Are Sixteen Heads Really Better than One?* (2019); Voita and others, *Analyzing Multi-Head
#   Self-Attention* (2019): pruning, and roles that were measured.
# - Jain and Wallace, *Attention is not Explanation* (2019), and Wiegreffe and Pinter's answer (2019).
# - Bhojanapalli and others, *Low-Rank Bottleneck* (2020): heads can become too small.
# - Shazeer, *Fast Transformer Decoding* (2019); Ainslie and others, *GQA* (2023).
#
# Next: chapter 07, where such layers are stacked and learn what a pronoun points to.
