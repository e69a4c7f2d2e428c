# %% [markdown]
# # 09 · KV cache
#
# You write text without computing it again at every token, and hold each cache to one sentence: **however a text is cut
# into chunks, the result is that of computing everything at once**.
#
# 165 min · CPU · PyTorch (`make lab EXTRAS=torch`) · needs 05, 06, 08

# %% [markdown]
# When you have finished, you will be able to
#
# - decode with a cache and get the same tokens as without;
# - take in a prompt in chunks of any size, and show that the size makes no difference;
# - bound a cache, keep it in pages, share it, and say how many requests fit.

# %%
from timeit import repeat

import numpy as np
import torch

import attn_ref
from attn_ref import plots, sentence
from autograder import check, guess, hint, progress, quiz

torch.set_num_threads(1)  # one core: timings then compare two ways of computing, not two moods of the machine

# %% [markdown]
# ## A model that reads its text again for every token
#
# A language model writes one token at a time. A text goes in; out come **logits**, for every position a score for each
# token that might follow. The likeliest token joins the text, and the longer text goes in. The model below has random
# weights: it writes gibberish, with the work of a trained one.

# %%
sizes = dict(vocab_size=256, d_model=128, n_layers=4, n_heads=8, tie_weights=False)
model = attn_ref.TinyLM(**sizes).requires_grad_(False)
prompt = torch.arange(16)[None]  # (1, 16)

# %% [markdown]
# It extends a **prompt**, the text it is given, of 16 tokens by 240. Its last call sees 255 positions. How often does
# each of these go through the model, on average?

# %%
my_guess = None  # your guess: how many times a position goes through the model, on average

# %% experiment="9.count"
counted = []
hook = model.register_forward_pre_hook(lambda module, inputs: counted.append(inputs[0].shape[1]))
attn_ref.generate(model, prompt, n=240)
hook.remove()
guess(my_guess, measured=sum(counted) / counted[-1], unit="times")

# %% [markdown]
# The positions of all calls, added up as the text grows:

# %% experiment="9.count"
both = {"computed": np.cumsum(counted), "in the text": counted}
plots.lines(counted, both, "Work for one text", "length of the text", "positions")

# %% [markdown]
# About 128 times. The upper curve bends: twice the text costs four times the work. This chapter gets you to the lower
# one without changing a single token.

# %% [markdown]
# ## What comes later changes nothing before
#
# Two transformer blocks get a text of 8 positions, and then the same text with 8 more behind it. Under the causal mask,
# by how much do the outputs of the first 8 change?

# %%
my_guess = None  # your guess: the largest change of an output under the causal mask, where outputs are about 1

# %%
torch.manual_seed(0)
blocks = [attn_ref.TransformerBlock(16, 4).requires_grad_(False) for _ in range(2)]
x, change = torch.randn(1, 16, 16), {}
for name, causal in (("causal", True), ("both ways", False)):
    short, long = x[:, :8], x
    for block in blocks:
        short, long = block(short, causal=causal), block(long, causal=causal)
    change[name] = (long[0, :8] - short[0]).abs().amax(-1)
guess(my_guess, measured=float(change["causal"].max()))

# %% [markdown]
# Position by position, and beside it the same blocks without the mask:

# %%
plots.bars(change, range(8), "Change of each position when 8 more follow", "largest change", limit=0.3)

# %% [markdown]
# Under the causal mask nothing changes beyond rounding. A key of layer 2 is made from layer 1's output at its position,
# which saw earlier positions alone, and so on through all layers. Without the mask everything changes, so an encoder
# cannot do what follows.
#
# Keys and values of the past are **final**. Computed once and kept, they are a **KV cache**. Past queries are final
# too, but they have been answered.

# %% [markdown]
# ### A new token is one row of the map
#
# On the six tokens of the course, with queries, keys and values all the rows themselves:

# %%
x = torch.tensor(sentence.EMBEDDINGS)[None, None]  # (B, H, n, d) = (1, 1, 6, 4)
causal, weights = attn_ref.attention(x, x, x, causal=True, return_weights=True)
title = "Who reads whom; the last row is new"
plots.weights(weights[0, 0], sentence.TOKENS, sentence.TOKENS, title, allowed=attn_ref.causal_mask(6, 6))

# %% [markdown]
# When “mat” arrives, five rows are done; the last is one query against six keys. Here the map is computed row by row.

# %%
cache = attn_ref.KVCache()
for p in range(6):
    token = x[:, :, p : p + 1]  # (1, 1, 1, 4)
    keys, values = cache.append(token, token)
    out = attn_ref.attention(token, keys, values)
    off = (out - causal[:, :, p : p + 1]).abs().max()
    print(f"{sentence.TOKENS[p]:4} reads {keys.shape[2]} keys, off by {off:.0e}")

# %% [markdown]
# The sentence above holds for the finest cut, into single tokens.

# %% [markdown]
# ### Exercise 9.1 · Keep what is final (6 points · 10 min · about 6 lines)
#
# Write `KVCache` with the method `append(k, v)`. k is (B, H, n, d), v is (B, H, n, d_v); n ≥ 1 may differ from append
# to append. It returns all keys and all values, oldest first, in their dtype: (B, H, length, d) and (B, H, length,
# d_v), for any length. The attribute `length` counts the positions so far, from 0. What was returned earlier stays as
# it was. Caches are independent of each other, and of the caller, who may overwrite k and v after the append.
#
# By hand: after keys of 3 positions and then of 1, `length` is 4.


# %% exercise="9.1"
class KVCache:
    """Keys and values of all positions so far; `length` counts them."""

    def __init__(self):
        self.length = 0
        self.keys = self.values = None

    def append(self, k, v):
        """Keep n more positions.  (B, H, n, d), (B, H, n, d_v) -> (B, H, length, d), (B, H, length, d_v)"""
        ### BEGIN SOLUTION
        if self.keys is None:
            self.keys, self.values = k.clone(), v.clone()
        else:
            self.keys = torch.cat([self.keys, k], dim=2)
            self.values = torch.cat([self.values, v], dim=2)
        self.length += k.shape[2]
        return self.keys, self.values
        ### END SOLUTION


# %% try="9.1"
mine = KVCache()
mine.append(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 5))
keys, values = mine.append(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 5))
print(keys.shape, values.shape, mine.length)
print(keys[0, 0, :, 0])

# %% check="9.1"
check("9.1", KVCache)

# %% [markdown] teacher="9.1"
# **Why this works.** `torch.cat` makes a new tensor at each append, so nothing returned earlier is touched. The first
# chunk needs `clone`, or the cache holds the caller's memory. **Common wrong turns.** `cat` without `dim`; a list as a
# class attribute, which all caches share; `length += 1`. **Another way.** A buffer with room to grow, and views of its
# filled part: later tokens are written behind what was handed out.

# %% [markdown]
# ### Joining copies everything, every time
#
# A cache that joins copies all old rows for each new token. The alternative is a buffer with room to spare, doubled
# when it is full, as in `attn_ref.KVCache`.

# %%
n = 2 ** np.arange(3, 13)
both = {"joined": n * (n - 1) / 2, "doubled when full": n - 1}  # 1 + 2 + 4 + … rows moved to larger buffers
plots.lines(n, both, "Old rows copied", "tokens", "rows", logx=True, logy=True)

# %% [markdown]
# At 4,096 tokens joining has copied 8.4 million rows and doubling 4,095. But the buffer hands out views: a row may
# never be written again once it was returned.

# %% [markdown]
# ## Where does the new token stand?
#
# Chapter 05 turned queries and keys by their positions (RoPE). A key's position is as final as the key, so the cache
# keeps turned keys. A new token arrives alone, and `rope` must be told where it stands. Below, one query asks 16 equal
# keys, first from position 16 and then, wrongly, from 0.

# %%
slow = torch.tensor([0.0, 1, 0, 0, 0, 1, 0, 0]).expand(1, 1, 16, 8)  # numbers 1 and 5 are a pair
keys = attn_ref.rope(slow, range(16))
asked = {f"query at {p}": attn_ref.rope(slow[:, :, :1], [p]) for p in (16, 0)}
found = {name: attn_ref.attention_scores(q, keys)[0, 0, 0] for name, q in asked.items()}
plots.lines(range(16), found, "Score of equal keys", "position of the key", "score")

# %% [markdown]
# From 16 the nearest key scores highest, from 0 the oldest. No error is raised; the text gets worse as it gets longer.

# %% [markdown]
# ### The newest query needs no mask, and must not get the wrong one
#
# For one query and six keys “causal” has two readings. `attn_ref.causal_mask(1, 6)` is aligned at the bottom right: the
# query is the newest position. PyTorch's `is_causal=True` is aligned at the top left: it is the *first*.

# %%
aligned = {"bottom right": attn_ref.causal_mask(1, 6), "top left": np.tri(1, 6, dtype=bool)}
plots.masks(aligned)

# %%
last = x[:, :, 5:]
sdpa = torch.nn.functional.scaled_dot_product_attention
for is_causal in (False, True):
    difference = (sdpa(last, x, x, is_causal=is_causal) - causal[:, :, 5:]).abs().max()
    print(f"torch with is_causal={is_causal}: off by {difference:.2f}")

# %% [markdown]
# Hatched means hidden. With the wrong corner “mat” reads the first “the” alone. It needs no mask: what it must not see
# has not been written yet.

# %% [markdown]
# ### Exercise 9.2 · One token against the cache (6 points · 15 min · about 4 lines)
#
# Write `decode_step(q, k, v, cache)` for one new token: q (B, H, 1, d), k (B, H_kv, 1, d), v (B, H_kv, 1, d_v), not
# turned yet; H_kv divides H. The token stands at the position that `cache.length` names before the append. Turn q and k
# there (base 10,000), append the turned k and the v once, and return what the query reads from all that `append`
# returns, (B, H, 1, d_v), with scale 1/√d. The keys in the cache are turned already; a cache may return fewer than
# `length` (9.5). q, k and v must stay as they were. `attn_ref.rope` and `attn_ref.attention` may be used.
#
# By hand: with zeros for q, values 2 and 4 in the cache and the new value 9, the result is 5.


# %% exercise="9.2"
def decode_step(q, k, v, cache):
    """One new token is turned, kept and answered.  q (B, H, 1, d), k, v (B, H_kv, 1, ...) -> (B, H, 1, d_v)"""
    ### BEGIN SOLUTION
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)
    ### END SOLUTION


# %% try="9.2"
cache, zero = attn_ref.KVCache(), torch.zeros(1, 1, 1, 2)
for value in (2.0, 4.0, 9.0):
    print(decode_step(zero, zero, torch.full((1, 1, 1, 1), value), cache))

# %% check="9.2"
check("9.2", decode_step)

# %% [markdown] teacher="9.2"
# **Why this works.** The position is read once, before the append. Everything that comes back lies in the past or is
# the token itself. **Common wrong turns.** Position 0; the length read after the append; the position taken from the
# number of keys that came back, which a rolling cache makes wrong; KV heads repeated before they are kept, which gives
# GQA's saving away. **Another way.** `attention(..., causal=True)`, whose mask is aligned at the bottom right.

# %% [markdown]
# ## Writing with a cache
#
# Every layer has a cache of its own. `model(tokens)` computes a text from its beginning; `model(tokens, caches=caches)`
# goes on from what the caches hold: these tokens are new, take the next positions, and are kept too.

# %%
caches = [attn_ref.KVCache() for _ in model.blocks]
whole = model(prompt[:, :12])
pieces = [model(prompt[:, :7], caches=caches), model(prompt[:, 7:12], caches=caches)]
print("positions in each cache:", [cache.length for cache in caches])
print("logits in two pieces against one:", f"{(torch.cat(pieces, dim=1) - whole).abs().max():.0e}")

# %% [markdown]
# ### Exercise 9.3 · The same tokens, each computed once (6 points · 15 min · about 6 lines)
#
# Write `generate(model, prompt, n, caches=None)`. prompt is (B, m), int64, m ≥ 1; return (B, m + n), int64, the prompt
# and n ≥ 0 tokens more. A new token is the one with the largest logit at the last position, for each text of the batch.
# `model` returns logits (B, tokens given, vocabulary). Call it n times: without caches on the whole text, with caches
# (a list of one for each layer, nothing in them yet) only on what they do not hold.
#
# By hand: a prompt of 5 and n = 3 with caches makes calls of 5, 1 and 1 positions, and each cache ends with 7. The last
# token is written and never read.


# %% exercise="9.3"
def generate(model, prompt, n, caches=None):
    """The prompt and the n likeliest tokens after it, one at a time.  (B, m) -> (B, m + n)"""
    ### BEGIN SOLUTION
    tokens = unseen = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens
    ### END SOLUTION


# %% try="9.3"
print(generate(model, prompt[:, :5], 3)[0].tolist())
caches = [attn_ref.KVCache() for _ in model.blocks]
print(generate(model, prompt[:, :5], 3, caches)[0].tolist(), [cache.length for cache in caches])

# %% check="9.3"
check("9.3", generate)

# %% [markdown] teacher="9.3"
# **Why this works.** `unseen` is the prompt at first and one token afterwards; the model does not care. **Common wrong
# turns.** The whole text handed to the caches at every step, so that they hold it several times; the prompt's last
# token given twice; the last token computed though nobody asks what follows. **Another way.** `tokens[:,
# caches[0].length:]`.

# %% [markdown]
# ### On and off, measured
#
# Time one step of the model. For the 512th token, how many times as long does it take without caches?

# %%
my_guess = None  # your guess: time without caches over time with them, for the 512th token


# %% experiment="9.speed"
def seconds(tokens, **options):
    """The shortest of five runs of the model: what is longer is the rest of the machine."""
    return min(repeat(lambda: model(tokens, **options), number=1, repeat=5))


lengths, tokens = [64, 128, 256, 512], torch.arange(512)[None] % 256
speed = {"with caches": [], "without": []}
for n in lengths:
    caches = [attn_ref.KVCache() for _ in model.blocks]
    model(tokens[:, : n - 1], caches=caches)
    speed["with caches"].append(1 / seconds(tokens[:, n - 1 : n], caches=caches))
    speed["without"].append(1 / seconds(tokens[:, :n]))
guess(my_guess, measured=speed["with caches"][-1] / speed["without"][-1], unit="times")

# %% [markdown]
# The machine, and the speed at four lengths:

# %% experiment="9.speed"
print(attn_ref.bench.machine())
title = "One more token for a text of this length"
plots.lines(lengths, speed, title, "length", "tokens per second", logx=True, logy=True)

# %% [markdown]
# With caches one position goes through the matrices, and only attention reads more as the text grows. Without them
# speed falls about as 1 / length or faster. At 512 tokens the factor is more than 5.
#
# The price is memory. Chapter 08's ledger says 2 · 4 layers · 128 numbers · 4 bytes = 4 KiB a token here.

# %%
cache, held = attn_ref.KVCache(), []
for _ in range(512):
    cache.append(*torch.zeros(2, 1, 8, 1, 16))
    held.append(4 * cache.nbytes / 1024)  # four layers
both = {"held by the caches": held, "ledger": 4 * np.arange(1, 513), "without": np.zeros(512)}
plots.lines(range(1, 513), both, "Memory kept between two tokens", "length", "KiB")

# %% [markdown]
# The stairs are the buffer's room to grow.

# %% [markdown]
# ## A prompt in chunks
#
# Writing token by token is called **decoding**; taking in a prompt is called **prefill**. A prompt may pass at once,
# with a table of n × n scores in every head, while the other texts that a server is writing wait. So it is cut into
# **chunks**. Here six tokens arrive in twos.

# %%
whole = attn_ref.causal_mask(6, 6)
plots.masks({"all at once": whole, "chunk 1": whole[:2], "chunk 2": whole[2:4], "chunk 3": whole[4:]})

# %% [markdown]
# Each strip is two rows of the first map. What was kept before is open to the whole chunk; within it nobody sees who
# comes later. When chunk 2 attends, keys 4 and 5 do not exist yet.

# %% [markdown]
# ### Exercise 9.4 · A prompt in chunks (6 points · 15 min · about 8 lines)
#
# Write `prefill_in_chunks(q, k, v, cache, chunk)`. q is (B, H, n, d), k (B, H_kv, n, d), v (B, H_kv, n, d_v), n ≥ 1,
# turned already; H_kv divides H. Take `chunk` ≥ 1 positions at a time, at the end what is left: append the chunk's k
# and v to `cache`, then let its queries attend causally to all that this `append` returns. The cache may have held
# positions before. Return the outputs of all n, (B, H, n, d_v), with scale 1/√d; q, k and v must stay as they were.
# `attn_ref.attention` and `attn_ref.causal_mask` may be used.
#
# By hand: zeros for q and k, values 2, 4, 9, 1 and chunks of 2 give the averages so far, 2, 3, 5, 4.


# %% exercise="9.4"
def prefill_in_chunks(q, k, v, cache, chunk):
    """Causal attention, `chunk` positions at a time.  q (B, H, n, d), k, v (B, H_kv, n, ...) -> (B, H, n, d_v)"""
    ### BEGIN SOLUTION
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        allowed = torch.tensor(attn_ref.causal_mask(k[:, :, now].shape[2], keys.shape[2]))
        outs.append(attn_ref.attention(q[:, :, now], keys, values, allowed=allowed))
    return torch.cat(outs, dim=2)
    ### END SOLUTION


# %% try="9.4"
zeros, values = torch.zeros(1, 1, 4, 2), torch.tensor([[[[2.0], [4.0], [9.0], [1.0]]]])
for chunk in (1, 2, 3, 4):
    print(chunk, prefill_in_chunks(zeros, zeros, values, attn_ref.KVCache(), chunk)[0, 0, :, 0])

# %% check="9.4"
check("9.4", prefill_in_chunks)

# %% [markdown] teacher="9.4"
# **Why this works.** Each strip of the causal map needs its own rows and all columns so far; the bottom right aligned
# mask is that strip. **Common wrong turns.** `tril` on (chunk, length), the top left corner; no mask within the chunk;
# a mask that counts from the prompt's start although the cache held something; the rest that fills no chunk. **Another
# way.** `attention(..., causal=True)`, or compare `arange(length)` with the chunk's positions.

# %% [markdown]
# ### Agree: any chunking equals full recomputation
#
# Now the whole model is tested. A text of 40 tokens is cut at random, 30 times, and passes piece by piece; all logits
# are compared with those of one call. They lie between -1 and 1, in float32. How large is the largest difference?

# %%
my_guess = None  # your guess: the largest difference of a logit over 30 random chunkings in float32

# %% experiment="9.cuts"
exact = attn_ref.TinyLM(**sizes).requires_grad_(False).double()
rng, chunks, text = np.random.default_rng(9), [], torch.arange(40)[None]
found = {"float32": [], "float64": [], "positions restarted": []}
for _ in range(30):
    cuts = np.sort(rng.choice(np.arange(1, 40), size=rng.integers(3, 12), replace=False))
    pieces = torch.tensor_split(text, cuts.tolist(), dim=1)
    chunks.append(f"{len(pieces)} chunks")
    for name, one in (("float32", model), ("float64", exact), ("positions restarted", model)):
        caches = [attn_ref.KVCache() for _ in one.blocks]
        restart = name == "positions restarted"
        logits = [one(p, caches=caches, positions=range(p.shape[1]) if restart else None) for p in pieces]
        found[name].append(float((torch.cat(logits, dim=1) - one(text)).abs().max()))
guess(my_guess, measured=max(found["float32"]))

# %% [markdown]
# Six of the cuts, also in float64, and with a mistake: every chunk's positions are counted from 0. A difference of 10⁻⁶
# means that 6 decimals agree.

# %% experiment="9.cuts"
decimals = {name: -np.log10(np.maximum(values[:6], 1e-16)) for name, values in found.items()}
plots.bars(decimals, chunks[:6], "Decimals that agree with one call", "decimals", limit=18)

# %% [markdown]
# Two are rounding, about 10⁻¹⁵ in float64 and 10⁻⁶ in float32: sums in another order. The mistake moves a logit by
# about 0.3 or more; a tolerance in between tells them apart. The written text may not: an argmax often survives a wrong
# cache for a while.

# %% [markdown]
# ### Break it: a conversation of two prompts
#
# The function below keeps each prompt in a cache of its own making.


# %%
def own_cache(q, k, v, cache, chunk):
    """Chunked prefill with a planted bug."""
    return attn_ref.prefill_in_chunks(q, k, v, attn_ref.KVCache(), chunk)


print("first prompt, off by", float((own_cache(x, x, x, attn_ref.KVCache(), 4) - causal).abs().max()))

# %%
check("9.4", own_cache)

# %% [markdown]
# For a first prompt it is right to the last bit. A cache that holds something beforehand shows the bug.

# %% [markdown]
# ## What decoding waits for: bytes
#
# Decoding waits for memory (chapter 08): each key is read for one dot product. Chapter 06's grouped heads shrink what
# is read. Here 32 query heads of 64 numbers ask 8,192 positions of one layer, with 32 KV heads (MHA), 8 (GQA) and one
# (MQA). MQA holds 32 times less than MHA. How many times as fast is its step?

# %%
my_guess = None  # your guess: time of the MHA step over time of the MQA step


# %%
def step_ms(heads):
    """Milliseconds of a decoding step: 32 queries against 8,192 positions of so many KV heads."""
    query, keys, values = torch.randn(32, 64), *torch.randn(2, heads, 8192, 64)

    def step():  # each KV head is read once for all its query heads
        scores = query.view(heads, 32 // heads, 64) @ keys.transpose(-1, -2) / 8
        return scores.softmax(dim=-1) @ values

    return 1000 * min(repeat(step, number=1, repeat=9))


kinds = {"MHA": 32, "GQA": 8, "MQA": 1}
times = {name: step_ms(heads) for name, heads in kinds.items()}
guess(my_guess, measured=times["MHA"] / times["MQA"], unit="times")

# %% [markdown]
# Bytes and time of the three, each against MHA:

# %%
ledger = attn_ref.cost.kv_cache_bytes
mebibytes = {name: ledger(1, 8192, 1, heads, 64, "float32") / 2**20 for name, heads in kinds.items()}
print({name: f"{mebibytes[name]:.0f} MiB, {time:.2f} ms" for name, time in times.items()})
percent = {"cache": [100 * x / mebibytes["MHA"] for x in mebibytes.values()]}
percent["time"] = [100 * x / times["MHA"] for x in times.values()]
plots.bars(percent, list(kinds), "One decoding step, 8,192 positions", "percent of MHA", limit=120)

# %% [markdown]
# The arithmetic is the same in all three. The bytes fall by 4 and by 32, and the time follows, though not by the same
# factor: the arithmetic sets a floor.

# %% [markdown]
# ## A window that rolls
#
# A model with a sliding window of w (chapter 04) looks back w - 1 positions, so older keys can go. Give the cache w
# slots and let position p live in slot p % w: the newest falls on the one that leaves.

# %%
ring = {
    f"after position {p}": [
        (f"lap {j // 4}", j) if (j := p - (p - slot) % 4) >= 0 else None for slot in range(4)
    ]
    for p in range(7)
}  # fmt: skip
plots.slots(ring, "A window of 4 positions in 4 slots")

# %% [markdown]
# Hatched slots are free. After position 5 the slots hold 4 5 2 3: the oldest no longer stands first, and the next
# position is 6, though four are held.
#
# A chunk needs more than the window. The first of its queries still sees the 3 positions before it, so the chunk gets
# back these 3 **and** itself; the window's mask then shows each query its own part.

# %% [markdown]
# ### Exercise 9.5 · A window that rolls (7 points · 20 min · about 8 lines)
#
# Write `RollingKVCache(window)`, window ≥ 1, with `append(k, v)` and `length` as in 9.1. `append` returns, oldest
# first, up to window - 1 positions from before the chunk and then the chunk, even one longer than the window. `length`
# counts all positions ever seen. Earlier results stay; caches are independent of each other and of the caller's
# tensors. Between appends the cache holds at most 2 · window positions besides the last chunk. How is up to you.
#
# By hand: a window of 3 and positions 0, 1, 2, 3, one at a time. The last append returns 1, 2, 3. A chunk 4, 5 then
# returns 2, 3, 4, 5, and `length` is 6.


# %% exercise="9.5"
class RollingKVCache:
    """The last positions that a window still reaches; `length` counts all that were seen."""

    def __init__(self, window):
        self.window, self.length = window, 0
        self.keys = self.values = None

    def append(self, k, v):
        """Keep n more positions.  -> keys (B, H, m, d), values (B, H, m, d_v), m ≤ window - 1 + n"""
        ### BEGIN SOLUTION
        self.length += k.shape[2]
        if self.keys is not None:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        first = max(k.shape[2] - (self.window - 1), 0)
        self.keys, self.values = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k.clone(), v.clone()
        ### END SOLUTION


# %% try="9.5"
rolling = RollingKVCache(3)
for chunk in ([0.0], [1.0], [2.0], [3.0], [4.0, 5.0]):
    new = torch.tensor(chunk).reshape(1, 1, -1, 1)
    print(rolling.append(new, new)[0].flatten().tolist(), rolling.length)

# %% check="9.5"
check("9.5", RollingKVCache)

# %% [markdown] teacher="9.5"
# **Why this works.** What is returned now and what is kept for later are two cuts of one line of positions. Counting
# the cut from the front keeps a window of 1 right, where `[-0:]` would be everything. **Common wrong turns.** The ring
# in the order of its slots; `length` stuck at the window; a chunk cut to the window; everything kept and only the end
# shown. **Another way.** A buffer of `window` slots and `p % window`, which moves nothing.

# %%
windowed = attn_ref.TinyLM(**sizes, window=32).requires_grad_(False)
caches = [attn_ref.RollingKVCache(32) for _ in windowed.blocks]
tokens = torch.arange(250)[None]
pieces = [windowed(piece, caches=caches) for piece in tokens.split(7, dim=1)]
print("off by", f"{(torch.cat(pieces, dim=1) - windowed(tokens)).abs().max():.0e}")
print("positions seen:", caches[0].length, " bytes held:", sum(cache.nbytes for cache in caches))

# %% [markdown]
# The sentence holds with a window too: 250 positions, in chunks of 7, through slots for 32. In a model *without* a
# window a rolling cache forgets what the model would have seen.

# %% [markdown]
# ## Memory in blocks
#
# A server does not know how long each text becomes. A cache in one piece must **reserve** the longest length allowed,
# here 2,048; most of 1,000 texts have a few hundred tokens. What percentage of the reserved memory ever holds a token?

# %%
my_guess = None  # your guess: percent of the reserved memory that is used

# %%
rng = np.random.default_rng(6)
lengths = np.clip(rng.lognormal(mean=5.5, sigma=0.8, size=1000), 1, 2048).astype(int)
reserved = {"2,048": np.full(1000, 2048)}
for size in (256, 64, 16):
    reserved[str(size)] = -(-lengths // size) * size
used = {name: 100 * lengths.sum() / slots.sum() for name, slots in reserved.items()}
guess(my_guess, measured=used["2,048"], unit="%")

# %% [markdown]
# The alternative is to reserve smaller pieces, each when it is needed:

# %%
fits = {name: int((np.cumsum(slots) <= 2**18).sum()) for name, slots in reserved.items()}
print("texts that fit into 262,144 positions, by size of the pieces:", fits)
plots.bars(list(used.values()), list(used), "Memory that holds tokens, by size of the pieces", "percent", limit=115)

# %% [markdown]
# In pieces of 2,048 more than four fifths of the memory lie idle: **fragmentation**. A **paged** cache is a pool of
# **blocks** of a few positions, handed out when needed; of a text's blocks only the last may be partly empty. Each text
# has a **block table**: its block number i is block `table[i]` of the pool. The name is from operating systems, whose
# pages may wait on a disk; here all blocks must be in memory to attend.

# %%
pool = attn_ref.BlockPool(n_blocks=4, block_size=4, n_kv_heads=1, d=2, like=torch.zeros(1))
cat, dog = attn_ref.PagedKVCache(pool), attn_ref.PagedKVCache(pool)
for cache, n in ((cat, 3), (dog, 4), (cat, 3)):
    cache.append(torch.zeros(1, 1, n, 2), torch.zeros(1, 1, n, 2))
lying = {f"block {block}": [None] * 4 for block in range(4)}
for name, cache in (("cat", cat), ("dog", dog)):
    for p in range(cache.length):
        lying[f"block {cache.table[p // 4]}"][p % 4] = (name, f"{name}{p}")
print("cat's table:", cat.table, " dog's table:", dog.table, " free blocks:", pool.n_free)
plots.slots(lying, "A pool of 4 blocks with two texts")

# %% [markdown]
# “cat” lies in the blocks 0 and 2, with “dog” between them. Its position 5 is slot 1 of its second block.
#
# Of the pool, `attn_ref.BlockPool`, you need these parts:
#
# | part | what it is |
# |---|---|
# | `pool.block_size` | positions in a block |
# | `pool.keys`, `pool.values` | tensors (n_blocks, block_size, H_kv, d) and (…, d_v); you read and write them |
# | `pool.take(n)` | a list of n free blocks, n ≥ 0; all, or a `MemoryError` and none |
# | `pool.give_back(blocks)` | one reader fewer for each block in the list; without readers a block is free |
# | `pool.references[block]` | how many texts read the block; 1 after `take` |
# | `pool.n_free` | how many blocks are free |

# %% [markdown]
# ### Exercise 9.6 · Blocks from a pool (6 points · 25 min · about 15 lines)
#
# Write `PagedKVCache(pool)`, one text among others in a pool. `append(k, v)` takes (1, H_kv, n, d) and (1, H_kv, n,
# d_v), n ≥ 1, and returns all keys and all values, (1, H_kv, length, …), oldest first. Position p lies in block
# `table[p // block_size]`, slot `p % block_size`; a block is filled before the next is taken, and an empty text holds
# none. Keys and values are kept in the pool alone. With too few free blocks the pool's `MemoryError` goes through, and
# pool, table and length are as before. `free()` gives all blocks back; a second `free()` does nothing, and nothing else
# follows it.
#
# By hand: with blocks of 4, appends of 3, 1 and 2 positions hold 1, 1 and 2 blocks.


# %% exercise="9.6"
class PagedKVCache:
    """One text in a pool: `table` lists its blocks in order, `length` counts its positions."""

    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    # Two methods: append(self, k, v), which returns (keys, values), and free(self).
    def append(self, k, v):
        ### BEGIN SOLUTION
        pool, size = self.pool, self.pool.block_size
        start, end = self.length, self.length + k.shape[2]
        self.table += pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            block, slot = self.table[p // size], p % size
            pool.keys[block, slot] = k[0, :, p - start]
            pool.values[block, slot] = v[0, :, p - start]
        self.length = end
        both = (store[self.table].flatten(0, 1)[:end] for store in (pool.keys, pool.values))  # (length, H_kv, d)
        return tuple(x.transpose(0, 1)[None] for x in both)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0
        ### END SOLUTION


# %% try="9.6"
pool = attn_ref.BlockPool(n_blocks=3, block_size=4, n_kv_heads=2, d=1, like=torch.zeros(1))
paged = PagedKVCache(pool)
for n in (3, 1, 2):
    keys, values = paged.append(torch.full((1, 2, n, 1), float(n)), torch.zeros(1, 2, n, 1))
    print(keys[0, 0, :, 0].tolist(), paged.table, "free:", pool.n_free)
paged.free()
print("free:", pool.n_free)

# %% check="9.6"
check("9.6", PagedKVCache)

# %% [markdown] teacher="9.6"
# **Why this works.** The number of blocks is known before the first is taken, so one `take` decides between all and
# nothing. **Common wrong turns.** A new block for each append; `end // size + 1`; reading from the first block to the
# last as if they were neighbours, which is right in a pool with one text; `free` that forgets the half full block, or
# keeps the table. **Another way.** Index with tensors: `pool.keys[blocks, slots] = k[0].transpose(0, 1)`.

# %% [markdown]
# ## One beginning, many texts
#
# One prompt gets four answers. Their tables can list the **same** blocks: a fork copies the table and adds a reader to
# each block. Full blocks are never written again and stay shared. The trouble is a last block that is partly filled.

# %%
pool = attn_ref.BlockPool(n_blocks=4, block_size=4, n_kv_heads=1, d=2, like=torch.zeros(1))
one, token = attn_ref.PagedKVCache(pool), torch.zeros(1, 1, 1, 2)
one.append(*torch.zeros(2, 1, 1, 6, 2))
two = one.fork()
print("after the fork  ", one.table, two.table, "readers:", pool.references)
two.append(token, token)
print("two has written ", one.table, two.table, "readers:", pool.references)
one.append(token, token)
print("one has written ", one.table, two.table, "readers:", pool.references)

# %% [markdown]
# Block 0 is full and keeps two readers. “two” got a copy of block 1 when it wrote; “one”, by then the only reader left,
# wrote in place. This is **copy-on-write**.

# %% [markdown]
# ### Exercise 9.7 · Copy before you write (6 points · 12 min · about 6 lines)
#
# Write `copy_on_write(pool, table, length)`. `table` lists the blocks of a text of `length` ≥ 0 positions, exactly as
# many as it needs. The text is about to write its next position; return the list of blocks with which it may. If that
# position falls into a block that others read too, a fresh block with the same keys and values stands in its place, and
# the old one loses a reader. Otherwise no block is taken. The list passed in and what others read stay as they were. If
# no block is free, the pool's `MemoryError` goes through, and the pool is as before.
#
# By hand: blocks of 4, table [0, 1], both read by two texts. With 6 positions the result is [0, 2], say; with 8, [0,
# 1].


# %% exercise="9.7"
def copy_on_write(pool, table, length):
    """The table with which a text of `length` positions may write its next one.  -> list of blocks"""
    ### BEGIN SOLUTION
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        old, (own,) = table[-1], pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[old], pool.values[old]
        pool.give_back([old])
        table[-1] = own
    return table
    ### END SOLUTION


# %% try="9.7"
pool = attn_ref.BlockPool(n_blocks=4, block_size=4, n_kv_heads=1, d=2, like=torch.zeros(1))
table = pool.take(2)
for block in table:
    pool.references[block] += 1  # a second text reads it
print("8 positions:", copy_on_write(pool, table, 8), pool.references)
print("6 positions:", copy_on_write(pool, table, 6), pool.references)

# %% check="9.7"
check("9.7", copy_on_write)

# %% [markdown] teacher="9.7"
# **Why this works.** `length % block_size` is 0 where the next position opens a block. `take` stands before
# `give_back`, so that a refusal changes nothing. **Common wrong turns.** Copying full blocks; forgetting the values;
# forgetting to give the old block back, a leak that shows when everybody has gone; changing the list that two texts
# hold. **Another way.** `length // block_size < len(table)` asks the same.

# %% [markdown]
# ### What sharing saves
#
# A prompt of 1,000 tokens gets 16 answers of 100 tokens each, in blocks of 16. How many times fewer blocks does that
# take when the answers share the prompt's?

# %%
my_guess = None  # your guess: blocks without sharing over blocks with sharing, for 16 answers

# %%
pool = attn_ref.BlockPool(n_blocks=300, block_size=16, n_kv_heads=1, d=1, like=torch.zeros(1))
first = attn_ref.PagedKVCache(pool)
first.append(*torch.zeros(2, 1, 1, 1000, 1))
answers, shared = [], []
for _ in range(16):
    answers.append(first.fork())
    answers[-1].append(*torch.zeros(2, 1, 1, 100, 1))
    shared.append(pool.n_blocks - pool.n_free)
alone = 69 * np.arange(1, 17)  # 1,100 positions fill 69 blocks
guess(my_guess, measured=alone[-1] / shared[-1], unit="times")

# %% [markdown]
# Answer after answer:

# %%
plots.lines(range(1, 17), {"each alone": alone, "shared": shared}, "Blocks for one prompt", "answers", "blocks")

# %% [markdown]
# About six times. Each answer adds 7 blocks, the copied one included, where it would add 69. In the end every block
# must be free again:

# %%
for sequence in (first, *answers):
    sequence.free()
print("free blocks:", pool.n_free, "of", pool.n_blocks)

# %% [markdown]
# ## How many fit?
#
# Memory holds the weights once, and for each request a cache in every layer.

# %% [markdown]
# ### Exercise 9.8 · How many requests fit? (4 points · 8 min · about 4 lines)
#
# Write `max_concurrent_requests(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype,
# block_size=1)`. Each request caches seq_len ≥ 1 tokens, rounded up to whole blocks of `block_size`, in every layer;
# `dtype` is a `torch.dtype`. Return how many requests fit beside the weights, a whole number; 0 where not even one
# does.
#
# By hand: 1,100 bytes, 100 of them weights, and 5 tokens in one layer with one head of 5 numbers in float16 are 100
# bytes a request, so 10 fit. With blocks of 4 the 5 tokens take 8 slots, 160 bytes, and 6 fit.


# %% exercise="9.8"
def max_concurrent_requests(
    memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1
):  # fmt: skip
    """How many requests of seq_len tokens fit beside the weights.  -> int"""
    ### BEGIN SOLUTION
    slots = -(-seq_len // block_size) * block_size
    request_bytes = 2 * slots * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // request_bytes, 0)
    ### END SOLUTION


# %% try="9.8"
print(max_concurrent_requests(1100, 100, 5, 1, 1, 5, torch.float16))
print(max_concurrent_requests(1100, 100, 5, 1, 1, 5, torch.float16, block_size=4))

# %% check="9.8"
check("9.8", max_concurrent_requests)

# %% [markdown] teacher="9.8"
# **Why this works.** Rounding up to blocks and down to requests are both done in whole numbers. **Common wrong turns.**
# Layers or values forgotten; weights counted for every request, or not at all; a negative count; bits for bytes.
# **Another way.** `attn_ref.cost.kv_cache_bytes` for one block, times the blocks.

# %%
lengths = 2 ** np.arange(10, 18)
count, large = attn_ref.cost.max_concurrent_requests, dict(n_layers=32, d_head=128, dtype=torch.bfloat16)
capacity = {
    name: [count(80 * 2**30, 16 * 2**30, int(n), n_kv_heads=heads, **large) for n in lengths]
    for name, heads in kinds.items()
}
title = "80 GiB, of which 16 are weights; 32 layers, 32 query heads"
plots.lines(lengths, capacity, title, "tokens of each request", "requests at once", logx=True, logy=True)

# %% [markdown]
# Twice the length, half the requests. At 8,192 tokens MHA serves 16 at once, GQA with 8 KV heads 64, MQA 512. At
# 131,072 MHA has room for one.

# %% [markdown]
# ## Check yourself

# %% quiz="9.a"

# %% quiz="9.b"

# %% quiz="9.c"

# %% quiz="9.d"

# %% [markdown]
# ### Question 9.w · Is a cache an approximation? (4 points · 10 min)
#
# A colleague says: “A KV cache is an approximation. It uses old keys that the model would compute differently now, so
# quality drops a little. And since we cut prompts into chunks, it drops a little more.” Answer in six to ten sentences:
# what is true for which models, why, how large the difference is that remains, what would make the colleague right, and
# which test would settle it.

# %% [markdown] written="9.w"
# ### BEGIN SOLUTION
# **4 points.** For a model with a causal mask the cache is exact. The key of a position in layer 1 is made from its own
# embedding. In layer 2 it is made from the output of layer 1 at that position, which attended to earlier positions
# only; and so on through all layers. Nothing that follows can change it, so “computed now” and “computed then” are the
# same number. Chunks change nothing either: each query sees the same keys as in the full map, as long as the mask is
# aligned at the bottom right and positions go on counting. What remains is rounding, because sums run in another order:
# about 10⁻⁶ in float32 and 10⁻¹⁵ in float64 for 30 random chunkings in this chapter. The colleague is right where
# attention looks both ways (an encoder), where positions restart or the mask is wrong, where old keys are dropped
# although the model was trained without a window, and where the cache is stored in fewer bits. The test: random
# chunkings, a cache that already holds something, all logits against one full call in float64 with a tolerance between
# 10⁻¹⁵ and the size of a real mistake, not only the written tokens.
#
# **3 points.** With a causal mask keys of the past do not depend on what comes later, in any layer, so the cached ones
# are exactly those that would be computed again. Chunking is the same attention row by row. The logits agree up to
# rounding. I would test it by comparing logits with and without a cache for several chunk sizes. (No number, or no case
# where the colleague is right.)
#
# **2 points.** The results are the same because past tokens do not see the future. I generated 50 tokens with and
# without the cache and the text was identical.
#
# **1 point.** All servers use a KV cache and the quality is fine; it is only an optimisation.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# **vLLM** (2023) is built on PagedAttention: the blocks, tables, reader counts and copy-on-write of 9.6 and 9.7. Its
# authors measured that earlier servers used 20 to 38 % of their cache memory for tokens. **SGLang** (2023)
# keeps the blocks of finished requests in a tree, where a new request finds the longest beginning still kept.
# **Sarathi** (2023) lets chunks of one prompt share a batch with single tokens of others.
#
# Multi-query attention (2019) was made for decoding; many open models took the compromise, GQA (2023). DeepSeek-V2's
# MLA (2024) keeps a short vector for each token and layer, from which all heads' keys and values are made, and a small
# turned key.
#
# Mistral 7B (2023) rolls over its trained window, 4,096. In models trained without one, **StreamingLLM** (2023) found,
# a rolling cache breaks down when the first tokens leave: heads park spare weight on them. Keeping these **attention
# sinks** repairs the fluency; what has left stays forgotten.

# %% [markdown]
# ## Takeaways
#
# - Writing 240 tokens after a prompt of 16 without a cache computes each position 128 times on average; with one, once.
# - Any chunking equals full recomputation: 30 random cuts moved no logit by more than about 10⁻⁶ in float32;
#   restarted positions moved one by about 0.3 or more in each of the six that were drawn.
# - Reserving 2,048 positions for each text used less than a fifth of the memory; blocks of 16 used over 97 %.
# - With 64 GiB for caches, 32 layers and 8 KV heads of 128 in bfloat16, 64 requests of 8,192 tokens fit; without grouping, 16.

# %%
progress(9)

# %% [markdown]
# ## Further reading
#
# - Shazeer, *Fast Transformer Decoding: One Write-Head is All You Need* (2019); Ainslie and others, *GQA* (2023).
# - Pope and others, *Efficiently Scaling Transformer Inference* (2022).
# - Kwon and others, *Efficient Memory Management for Large Language Model Serving with PagedAttention* (2023).
# - Zheng and others, *SGLang: Efficient Execution of Structured Language Model Programs* (2023).
# - Agrawal and others, *SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills* (2023).
# - Jiang and others, *Mistral 7B* (2023); Xiao and others, *Efficient Streaming Language Models with Attention Sinks*
#   (2023); DeepSeek-AI, *DeepSeek-V2* (2024).
#
# Next: chapter 10, where softmax is computed in pieces and the table of scores is never stored.
