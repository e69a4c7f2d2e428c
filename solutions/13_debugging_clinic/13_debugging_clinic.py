# %% [markdown]
# # 13 · Long contexts and the debugging clinic
#
# You find out what a model loses in a long text, and then what is wrong with an attention layer, from measurements
# alone.
#
# 150 min, and an evening for the capstone · CPU · PyTorch · needs 05, 07, 09

# %% [markdown]
# When you have finished, you will be able to
#
# - measure where a model looks, what it finds and what it copies, and say what such numbers cannot prove;
# - name the bug of a layer that you cannot look into, test for it, and treat it;
# - choose between windows, sinks, retrieval and longer positions, and defend the choice with a measurement.

# %%
from timeit import repeat

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

import attn_ref
from attn_ref import clinic, errands, plots
from autograder import check, guess, hint, progress, quiz

torch.set_num_threads(1)  # one core: timings then compare two ways of computing, not two moods of the machine

# %% [markdown]
# ## One key out of 256
#
# The model of this chapter learns a small language of errands. 16 words, w0 to w15, follow each other by a chain:
# the next word depends on the last one alone. Three **notes** stand somewhere early, such as A2. Later “A?” asks
# for note A, and the right next token is “=2”.
#
# So a word needs no look back, and an answer needs a long one. The model is chapter 07's `TinyLM` with one layer, one head
# and no positions, trained in seconds on texts of 64 tokens.

# %% experiment="13.1"
tokens, _ = errands.texts(1, 16, np.random.default_rng(4))
print(*errands.names(tokens[0]))
model = errands.trained(position=None)

# %% [markdown]
# Now give it a window: each token may read itself and the 31 before. On texts of 256 tokens, by which factor does
# the loss *on words* grow?

# %%
my_guess = None  # your guess: loss on words with a window of 32 over that without; 1 means no harm


# %% experiment="13.2"
def visible(n, window=None, n_first=0):
    """The last `window` tokens, and the first ones of the text.  -> (n, n) bool"""
    allowed = attn_ref.sliding_window_mask(n, n, window or n)
    allowed[:, :n_first] = True  # the model hides the future itself
    return torch.tensor(allowed)


tokens, asked = errands.texts(32, 256, np.random.default_rng(9))
everything, windowed = (
    errands.losses(model(tokens, allowed=visible(256, window)), tokens, asked)[0] for window in (None, 32)
)
guess(my_guess, measured=windowed / everything, unit="times")

# %% [markdown]
# More than half as much again, for words that need nothing from afar. Let the window keep one more key, the first
# one, “start”, and look at several lengths.

# %% experiment="13.3"
lengths = [32, 64, 128, 256, 512]
kept = {"all keys": (None, 0), "window 32": (32, 0), "window 32 + first key": (32, 1)}
on_words = {name: [] for name in kept}
for n in lengths:
    tokens, asked = errands.texts(32, n, np.random.default_rng(9))
    for name, how in kept.items():
        loss = errands.losses(model(tokens, allowed=visible(n, *how)), tokens, asked)[0]
        on_words[name].append(float(loss))
plots.lines(lengths, on_words, "Loss on words", "length", "nats", logx=True)

# %% [markdown]
# The dashed line leaves the others as soon as the window lets go of the first key; with it kept, nothing is lost. Yet
# “start” is the same in every text. Two measurements will tell what it is for.

# %% [markdown]
# ## How far does a query look?
#
# The first number to take from a map of weights is the mean **distance** between a query and what it reads.

# %% experiment="13.4"
tokens, _ = errands.texts(1, 24, np.random.default_rng(5))
_, maps = model(tokens, return_weights=True)  # (layers, batch, heads, n, n)
names = errands.names(tokens[0])
plots.weights(maps[0, 0, 0], names, names, "Who reads whom", allowed=attn_ref.causal_mask(24, 24))

# %% [markdown]
# Queries go down, keys across. Rows of questions have one bright cell, their note. Most rows of words are spread over
# several keys; that of w5 is bright at “start”.

# %% [markdown]
# ### Exercise 13.1 · How far a query looks (5 points · 8 min · about 4 lines)
#
# Write `attention_distance(weights)`. weights is a tensor (..., n_q, n_k) whose rows are shares. Queries are the last
# n_q of n_k positions, so the last stands at p = n_k - 1. Return (..., n_q) in the dtype of `weights`: for each
# query, at p, the mean of |p - j| over all keys j, weighted by its row. Keys after the query count like those before
# it. `weights` must stay as it was.
#
# By hand: the last of three queries has the row (¼, ¼, ½). Its distances are 2, 1 and 0, the mean is 0.75.


# %% exercise="13.1"
def attention_distance(weights):
    """How far each query looks on average, in tokens.  (..., n_q, n_k) -> (..., n_q)"""
    ### BEGIN SOLUTION
    n_q, n_k = weights.shape[-2:]
    positions = torch.arange(n_k - n_q, n_k)[:, None]
    return (weights * (positions - torch.arange(n_k)).abs()).sum(-1)
    ### END SOLUTION


# %% try="13.1"
three = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
print(attention_distance(three))
print(attention_distance(three[1:]))  # the last two queries alone: the same numbers

# %% check="13.1"
check("13.1", attention_distance)

# %% [markdown] teacher="13.1"
# **Why this works.** The distances are a table (n_q, n_k) of their own, which broadcasts over layers and heads.
# **Common wrong turns.** Queries counted from 0 where there are more keys than queries; the signed mean, in which
# later keys cancel earlier ones; the distance of the largest weight. **Another way.** `torch.einsum("...qk,qk->...q",
# weights, gap)`.

# %% experiment="13.5"
far = {"words": [], "questions": []}
for n in lengths:
    tokens, asked = errands.texts(16, n, np.random.default_rng(9))
    weights = model(tokens, return_weights=True)[1][0, :, 0]  # (batch, n, n)
    words = (tokens >= errands.WORD) & (torch.arange(n) >= n // 2)
    each = attn_ref.diagnose.attention_distance(weights)
    far["words"].append(float(each[words].mean()))
    far["questions"].append(float(each[asked].mean()))
plots.lines(lengths, far, "How far queries of the second half look", "length", "tokens", logx=True, logy=True)

# %% [markdown]
# Both lines rise together, although only the questions look for something. A small distance proves that nothing far
# is read. A large one may be a search, an even spread, or a habit of looking at the first key.

# %% [markdown]
# ### Exercise 13.2 · What goes to the first keys (4 points · 4 min · about 1 line)
#
# Write `sink_mass(weights, n_sinks=1)`. weights is a tensor (..., n_k) whose rows are shares; return (...), the share
# of each row that goes to the first `n_sinks` keys together, 1 ≤ n_sinks ≤ n_k. `weights` must stay as it was.
#
# By hand: the row (½, ¼, ¼) has a mass of 0.5 on one key and of 0.75 on two.


# %% exercise="13.2"
def sink_mass(weights, n_sinks=1):
    """The share of each row that goes to the first keys.  (..., n_k) -> (...)"""
    ### BEGIN SOLUTION
    return weights[..., :n_sinks].sum(axis=-1)
    ### END SOLUTION


# %% try="13.2"
print(sink_mass(torch.tensor([[0.5, 0.25, 0.25]])), sink_mass(torch.tensor([[0.5, 0.25, 0.25]]), n_sinks=2))

# %% check="13.2"
check("13.2", sink_mass)

# %% [markdown] teacher="13.2"
# **Why this works.** Keys are the last axis of any map. **Common wrong turns.** The mean of the first weights; the
# first queries in place of the first keys; writing zeros into a slice, which is a view of the caller's tensor.

# %% experiment="13.6"
tokens, asked = errands.texts(64, 256, np.random.default_rng(9))
logits, weights = model(tokens, return_weights=True)
mass = attn_ref.diagnose.sink_mass(weights[0, :, 0])  # (batch, n)
late = torch.arange(256) >= 128
by_word = [float(mass[(tokens == errands.WORD + word) & late].mean()) for word in range(errands.WORDS)]
plots.bars(by_word, errands.names(range(errands.WORD, errands.VOCAB)), "Mass on the first key", "share", limit=1.1)

# %% [markdown]
# Two words out of 16, w5 and w10, spend most of their budget on the first of up to 256 keys. They are the ones the
# window hurt; the mean loss did not tell where.

# %% [markdown]
# ### A sink is where the budget goes that nobody needs
#
# A row of softmax must spend its 1, even if nothing is worth reading (chapter 02). A key that is always there, with
# the same value in every text, is a good place for it: an **attention sink**. Drop it, and its share goes to the
# others: noise, where a constant was expected.
#
# Large models do the same. Xiao and others (2023, *StreamingLLM*) found that many heads of Llama 2 give most of
# their attention to the first tokens. Without them a rolling cache ruins the model; four of them keep it stable
# over millions of tokens.

# %% [markdown]
# ## What a window costs
#
# Words are safe now. What of the answers? Texts have 256 tokens, the window of 32 its sink; notes stand in the first
# half, questions in the second. Each answer is one of four.

# %%
my_guess = None  # your guess: share of right answers with the window and the sink; without a window it is 1.00

# %% experiment="13.7"
tokens, asked = errands.texts(64, 256, np.random.default_rng(9))
best = model(tokens, allowed=visible(256, 32, 1)).argmax(-1)
right = (best[:, :-1] == tokens[:, 1:])[asked[:, :-1]]
guess(my_guess, measured=float(right.double().mean()))

# %% [markdown]
# About blind guessing, ¼, and the loss on words gave no sign of it. To see what was lost, ask for something known, at
# a known place.

# %% [markdown]
# ### Exercise 13.3 · Where does it find the needle? (4 points · 12 min · about 8 lines)
#
# A **needle test** hides one note in a text and asks for it. Write `needle_map(read, hide, lengths, depths,
# trials)`. `hide(n, place, trial)` returns a text of n tokens, with the note at position `place`, and the right
# answer. `read(text)` returns the model's answer; answers are whole numbers. For each length and depth, try the
# trials 0, 1, …, trials - 1. Return the table (lengths, depths) of the shares that were right, 0 to 1.
#
# Position 0 is the start and n - 1 the question, so depth 0 means place 1, depth 1 means n - 2, and in between the
# fraction is cut off. By hand: n = 24 and depth 0.52 are 1 + 10.92, place 11.


# %% exercise="13.3"
def needle_map(read, hide, lengths, depths, trials):
    """How often a hidden note is found, for each length and depth.  -> (lengths, depths), 0 to 1"""
    ### BEGIN SOLUTION
    found = np.zeros((len(lengths), len(depths)))
    for row, n in enumerate(lengths):
        for column, depth in enumerate(depths):
            for trial in range(trials):
                text, answer = hide(n, 1 + int(depth * (n - 3)), trial)
                found[row, column] += read(text) == answer
    return found / trials
    ### END SOLUTION


# %% try="13.3" experiment="13.19"
def short_memory(text):
    """Reads the last 32 tokens with the chapter's model."""
    return int(model(text[None, -32:])[0, -1].argmax())


shares = needle_map(short_memory, errands.hide, [16, 64], [0.0, 0.5, 1.0], trials=4)
plots.matrix(shares, [16, 64], [0.0, 0.5, 1.0], "Found: length down, depth across", "share")

# %% check="13.3"
check("13.3", needle_map)

# %% [markdown] teacher="13.3"
# **Why this works.** Three loops; the only trap is the place. From 1 to n - 2 there are n - 3 steps. **Common wrong
# turns.** Rows and columns exchanged, which a square table hides; the same trial again and again; `round` for `int`;
# a depth of 1 that overwrites the question. **Another way.** A list of lists; or collect answers and notes, and leave
# the last step to `attn_ref.diagnose.needle_accuracy`.

# %% experiment="13.8"
depths = [0.0, 0.25, 0.5, 0.75, 1.0]
found = {
    name: [[errands.found(model, n, depth, allowed=visible(n, *how)) for depth in depths] for n in lengths[1:]]
    for name, how in {"all keys": (None, 0), "window 64": (64, 1)}.items()
}
print("with all keys, the smallest share of the table:", np.min(found["all keys"]))
plots.matrix(found["window 64"], lengths[1:], depths, "Found by window and sink: length down, depth across", "share")

# %% [markdown]
# With all keys everything is found, at eight times the trained length. With a window of 64 and its sink, what lies
# within 64 tokens of the question; elsewhere the numbers scatter around ¼.
#
# Liu and others (2023, *Lost in the middle*) hid the one useful document among 10 to 30: models used the middle worst.
# And a full map proves that one conspicuous note is never out of reach, not that all of a text is used.

# %% [markdown]
# ## Other patterns than a band
#
# A window is one **sparse pattern**, a fixed choice of pairs. Longformer (2020) adds **global** tokens, which read
# and are read by all; Sparse Transformers (2019) every m-th key, a **stride**; BigBird (2020) a few **random** keys
# besides.


# %%
def patterns(n, window, rng):
    """Four causal patterns.  -> {name: (n, n) bool}"""
    band, back = attn_ref.sliding_window_mask(n, n, window), np.arange(n)[:, None] - np.arange(n)
    first = back[:, :1] >= 0
    some = rng.random((n, n)) < 2 / n
    both = band | (first & (np.arange(n) < 1))
    zoo = {"window": band, "+ global": both, "+ stride": band | (back % window == 0), "+ global, random": both | some}
    return {name: allowed & (back >= 0) for name, allowed in zoo.items()}


plots.masks(patterns(24, 4, np.random.default_rng(0)))

# %% [markdown]
# Under a causal mask a global first token is a sink: all can read it, and it has read only itself.
#
# What a token read in layer 1, another can read from it in layer 2. How many layers does a window of 16 take until
# the last of 256 tokens can have heard of all?

# %%
reached = {}
for name, allowed in patterns(256, 16, np.random.default_rng(0)).items():
    heard, reached[name] = np.eye(256), []
    for _ in range(20):
        heard = (allowed.astype(float) @ heard) > 0  # after one layer more
        reached[name].append(heard[-1].mean() * 100)
plots.lines(range(1, 21), reached, "What the last of 256 tokens can have heard of", "layers", "percent of the tokens")

# %% [markdown]
# Each layer reaches 15 further, so 255 steps take 17. A stride gets everywhere in two, random keys in a few; the
# first key alone helps no other to be heard.

# %% [markdown]
# ### A mask alone saves nothing
#
# A window of 128 in 4,096 tokens leaves one pair in 16 of those a causal mask allows. You pass that mask to PyTorch's
# `scaled_dot_product_attention`. How long does it take, compared with plain causal attention?

# %%
my_guess = None  # your guess: time with the window's mask over time with is_causal=True

# %% experiment="13.9"
n, window = 4096, 128
q, k, v = torch.randn(3, 1, 1, n, 64, generator=torch.Generator().manual_seed(0))
band = torch.tensor(attn_ref.sliding_window_mask(n, n, window))
within = torch.tensor(attn_ref.sliding_window_mask(window, 2 * window, window))


def in_blocks():
    """Each block of 128 queries meets its own and the 128 keys before; the first of these blocks are zeros."""
    keys, values = (F.pad(x, (0, 0, window, 0)).unfold(2, 2 * window, window).transpose(-1, -2)[0] for x in (k, v))
    return F.scaled_dot_product_attention(q.unflatten(2, (-1, window))[0], keys, values, attn_mask=within)


ways = {
    "causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "mask": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=band),
    "blocks": in_blocks,
}
ms = {name: 1000 * min(repeat(way, number=1, repeat=15)) for name, way in ways.items()}
guess(my_guess, measured=ms["mask"] / ms["causal"], unit="times")

# %% [markdown]
# And the window cut into blocks, on this machine:

# %% experiment="13.10"
print(attn_ref.bench.machine())
print("pairs computed in blocks:", n * 2 * window, " causal:", n * (n + 1) // 2)
times = [ms[name] / ms["causal"] for name in ms]
plots.bars(times, list(ms), "Time of a window, causal attention = 1", "times", limit=1.2 * max(times))

# %% [markdown]
# The mask saved nothing: every pair is computed and then hidden, while `is_causal` skips what lies above the
# diagonal. Blocks compute an eighth of the causal pairs, and save. Kernels that skip tiles (chapters 10 to 12) do this
# for any mask.

# %% [markdown]
# ## Fetch what is far: retrieval
#
# The past could lie in slower memory, and be **retrieved** when needed. The cache is cut into blocks of 16 keys,
# and a query compares itself with a description of each: the block's *mean* key, or its *box*, the smallest and
# largest entry of each feature, which bound the score of any key inside. It reads the best blocks, the window and
# the sink.

# %% experiment="13.11"
seen, n, size = {}, 512, 16
layer = model.blocks[0].attention
for name in ("w_q", "w_k"):
    getattr(layer, name).register_forward_hook(lambda module, given, out, name=name: seen.update({name: out}))
pairs = [errands.hide(n, place, trial) for place in range(10, 450, 40) for trial in range(10)]
texts, answers = torch.stack([text for text, _ in pairs]), torch.tensor([answer for _, answer in pairs])
model(texts)
q, blocks = seen["w_q"][:, -1], seen["w_k"].unflatten(1, (-1, size))  # (texts, d), (texts, n/16, 16, d)
described = {
    "mean key": (blocks.mean(2) @ q[..., None])[..., 0],
    "box": torch.maximum(blocks.amax(2) * q[:, None], blocks.amin(2) * q[:, None]).sum(-1),
}

# %% [markdown]
# Of 32 blocks each query fetches one, two, four or eight. What share of the notes is found with two blocks,
# described by their means?

# %%
my_guess = None  # your guess: share found with the two blocks of best mean key

# %% experiment="13.12"
fetched = {}
for name, match in described.items():
    fetched[name] = []
    for count in (1, 2, 4, 8):
        chosen = torch.zeros(match.shape).scatter(1, match.topk(count, 1).indices, 1.0).bool()
        allowed = chosen.repeat_interleave(size, 1) | visible(n, 32, 1)[-1]
        best = model(texts, allowed=allowed[:, None])[:, -1].argmax(-1)
        fetched[name].append(float((best == answers).double().mean()))
guess(my_guess, measured=fetched["mean key"][1])

# %% [markdown]
# Both descriptions, and more blocks:

# %% experiment="13.13"
plots.bars(fetched, ["1 block", "2 blocks", "4 blocks", "8 blocks"], "Found beyond the window", "share", limit=1.15)

# %% [markdown]
# A mean dilutes one note with 15 words. The box keeps extremes, and two blocks find about nine notes in ten: 32 +
# 33 keys in place of 512, plus 32 descriptions. But a search can fail, so test it and the reading apart. RAG, which
# fetches documents, is the same bargain.

# %% [markdown]
# ## Three symptoms
#
# | symptom | what one sees | measure | what it cannot tell |
# |---|---|---|---|
# | focus drift | the key sentence is there, and missed | weight on it and answers, by length | whether positions or the window did it |
# | short bias | near things are used, far ones are not | answers by depth; distance | whether far things are unseen or unused |
# | over-copying | the text repeats itself or its source | share of copied n-grams | whether attention or decoding did it |

# %% [markdown]
# ### Focus drift: the note fades as the text grows
#
# The second model is the same but for its rotations (RoPE, chapter 05), trained on 64 tokens as well. The first note
# of a text of 512 tokens: how often does it find that?

# %%
my_guess = None  # your guess: share found at depth 0 in 512 tokens; at 64 tokens it is 1.00

# %% experiment="13.14"
turning = errands.trained(position="rope")
guess(my_guess, measured=errands.found(turning, 512, 0.0))


# %% [markdown]
# And the weight on that note, also with positions **interpolated**: divided by how many times the text is longer than
# 64, so that no angle is new.


# %% experiment="13.15"
def weight_on_note(model, n, **options):
    """The weight of the question on the first note, on average over 40 texts."""
    texts = torch.stack([errands.hide(n, 1, trial)[0] for trial in range(40)])
    return float(model(texts, return_weights=True, **options)[1][0, :, 0, -1, 1].mean())


drift = {"no positions": [], "RoPE": [], "RoPE, interpolated": []}
for n in lengths:
    drift["no positions"].append(weight_on_note(model, n))
    drift["RoPE"].append(weight_on_note(turning, n))
    squeezed = torch.arange(n) * min(1, 64 / n)
    drift["RoPE, interpolated"].append(weight_on_note(turning, n, positions=squeezed))
plots.lines(lengths, drift, "Weight on the first note", "length", "weight", logx=True)

# %% [markdown]
# Beyond 64 tokens the rotations bring angles that training never showed, and the weight drifts away. Interpolation
# brings it back, here without any training; large models need some.

# %% [markdown]
# ### Short bias: near yes, far no
#
# The same measure by depth instead of length, at 256 tokens:

# %% experiment="13.16"
depths = np.linspace(0, 1, 9)
seen_by = {
    "all keys": [errands.found(model, 256, depth) for depth in depths],
    "window 64 + sink": [errands.found(model, 256, depth, allowed=visible(256, 64, 1)) for depth in depths],
    "RoPE, beyond its length": [errands.found(turning, 256, depth) for depth in depths],
}
plots.lines(depths, seen_by, "Found in 256 tokens", "depth of the note (1 = just before the question)", "share")

# %% [markdown]
# A window fails like a step, at its own length. Drift fails here and there, and worse in longer texts. Only maps by
# depth and by length tell the two apart.

# %% [markdown]
# ### Exercise 13.4 · How much is copied (5 points · 12 min · about 7 lines)
#
# An **n-gram** is n tokens in a row; a text of m tokens holds m - n + 1 of them. Write `copy_rate(tokens,
# source=None, n=3)`: the share of the text's n-grams that stand in the source word for word; without a source, the
# share that stood earlier in the text itself (overlaps count). Each n-gram counts, also when it comes again. Both
# are lists of whole numbers with at least n ≥ 1 tokens, and must stay as they were.
#
# By hand: 1 2 3 9 from the source 0 1 2 3 4 with n = 2: 12 and 23 are copied, 39 is not, ⅔. And 5 6 5 6 5 alone: 56
# and 65 come a second time, 2 of 4.


# %% exercise="13.4"
def copy_rate(tokens, source=None, n=3):
    """The share of n-grams that stand in the source, or earlier in the text.  -> 0 to 1"""
    ### BEGIN SOLUTION
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(ngram in known for ngram in written) / len(written)
    ### END SOLUTION


# %% try="13.4"
print(copy_rate([1, 2, 3, 9], source=[0, 1, 2, 3, 4], n=2))
print(copy_rate([5, 6, 5, 6, 5], n=2))

# %% check="13.4"
check("13.4", copy_rate)

# %% [markdown] teacher="13.4"
# **Why this works.** Tuples go into sets. All n-grams less the different ones are those that came again. **Common
# wrong turns.** The last n-gram lost in the range; division by the number of tokens; different n-grams counted once;
# numbers glued to text, where 1, 23 and 12, 3 look alike. **Another way.** A set that grows along the text.

# %% [markdown]
# ### Over-copying: the same weights, and another way to draw
#
# The healthy model writes 240 tokens after 16 words. Once it takes the likeliest token each time; otherwise it
# draws, at temperatures of ½ and 1. What share of the likeliest text's 8-grams stood in it before?

# %%
my_guess = None  # your guess: share of 8-grams that stood earlier, when the likeliest token is taken

# %% experiment="13.17"
chain = errands.texts(1, 512, np.random.default_rng(5))[0]
words = chain[:, 1:][chain[:, 1:] >= errands.WORD].tolist()
prompt = torch.tensor([[errands.START, *words[:16]]])
written = {"likeliest": attn_ref.generate(model, prompt, 240)}
for heat in (0.5, 1.0):
    drawn = torch.Generator().manual_seed(0)
    written[f"{heat}"] = attn_ref.generate(model, prompt, 240, generator=drawn, temperature=heat)
copied = {name: attn_ref.diagnose.copy_rate(text[0, 17:], n=8) for name, text in written.items()}
copied["chain"] = attn_ref.diagnose.copy_rate(words[16:256], n=8)
guess(my_guess, measured=copied["likeliest"])

# %% [markdown]
# And drawn, from the same weights, beside a text of the chain:

# %% experiment="13.18"
plots.bars(list(copied.values()), list(copied), "8-grams that stood earlier, by temperature", "share", limit=1.1)

# %% [markdown]
# Nearly all: the likeliest word leads round a circle of words for ever. Drawn at 1, the same weights copy half as
# much, not far from the chain itself: they are healthy, and the way of drawing was not. So clear the decoder first;
# attention that is too sharp looks the same from here.

# %% [markdown]
# ## The clinic
#
# Seven layers wait, `clinic.PATIENTS["A"]` to `"G"`, each healthy or
# with one of five bugs. You cannot look into them, but call them:
#
# | | |
# |---|---|
# | `model(q, k, v, pad=0, cut=0)` | q, k (n, d) with d even, v (n, d_v), float64 tensors → (n, d_v) |
# | promise | turns q and k by RoPE (base 10,000), scale 1/√d; each token reads itself and all before |
# | `model.window` | w: each token reads itself and the w - 1 before; None: no window |
# | `pad` | the first `pad` tokens are padding, which the text does not read; their rows of the result mean nothing, and may be NaN |
# | `cut` | the first `cut` tokens are cached, then the rest follows; the result stays the same |
#
# | name | bug |
# |---|---|
# | `"leaky mask"` | some token reads a later one |
# | `"small window"` | some token cannot read all that the window promises |
# | `"missing scale"` | scores are not divided by √d |
# | `"padded keys"` | the text reads some of its padding |
# | `"RoPE offset"` | after the cut, positions of queries or keys are wrong |

# %% [markdown]
# ### The identity makes a layer show its weights
#
# Pass the identity as v, and each output is its row of weights. A healthy layer that promises a window of 3, on 6
# tokens:

# %%
healthy = clinic.layer(window=3)
q, k = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
eye = torch.eye(6, dtype=torch.float64)
plots.weights(healthy(q, k, eye), title="A healthy layer that promises a window of 3")

# %% [markdown]
# Nothing above the diagonal, three keys a row, rows that sum to 1. `pad=2` should empty two columns, and `cut=4`
# change nothing. `clinic.layer(window)` is always healthy, so compare with it.
#
# One bug can fail another's test. Before a cut, later tokens are not there to be peeked at, so a leak changes that
# result too. Examine first what disturbs the rest.

# %% [markdown]
# ### Exercise 13.5 · Name the bug (7 points · 30 min · about 18 lines)
#
# Write `diagnose(model)`: return the name of the layer's bug as in the table, or `"healthy"`. A layer has one bug at
# most. It shows itself on 40 tokens, perhaps not on fewer, with random normal q and k of width 8; a forbidden key
# that is read gets a weight above 0.00001. Bugs of padding show with 1 to 10 tokens of padding, though perhaps only
# some of it is read, or by some tokens; bugs of the cache show with any cut from 1 to 39. Healthy results may differ
# by rounding, up to 10⁻¹². Windows go from 1 to 39 tokens. All layers together have 30 seconds.
#
# By hand: zeros for q and k, values 4 and 8. A healthy layer gives 4 and 6; in one that gives 6 and 6 the first
# token read the second.


# %% exercise="13.5"
def diagnose(model):
    """The name of the layer's bug, or "healthy"."""
    ### BEGIN SOLUTION
    n, healthy = 40, clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights, expected = model(q, k, eye), healthy(q, k, eye)
    if (weights.triu(1) > 1e-9).any():
        return "leaky mask"
    if ((weights == 0) & (expected > 0)).any():
        return "small window"
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), expected, atol=1e-6):
        return "RoPE offset"
    return "healthy"
    ### END SOLUTION


# %% try="13.5"
for name, patient in clinic.PATIENTS.items():
    print(name, "promises", patient.window, "and has:", diagnose(patient))

# %% check="13.5"
check("13.5", diagnose)

# %% [markdown] teacher="13.5"
# **Why this works.** Each question is asked when all that could disturb it is excluded: mask, window, then the
# numbers, then padding and cut. **Common wrong turns.** The cut before the mask; q and k of zeros, which hide scale
# and positions; short texts; rows of padding judged; a window called small although it was promised. **Another way.**
# Without the identity: change one value, see which rows move. The patients: A and F are healthy, B has the offset, C
# leaks, D reads padding, E lacks a key of its window, G the scale.

# %% [markdown]
# ### Break it: the right tests in the wrong order
#
# The report said “wrong with the cache”, so this examiner begins there.


# %%
def begins_with_the_cache(model):
    """Two tests, of which the first trusts what has not been examined."""
    q, k, v = torch.randn(3, 30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if not torch.allclose(model(q, k, v, cut=20), model(q, k, v), atol=1e-6):
        return "RoPE offset"
    right = clinic.layer(window=model.window)
    return "healthy" if torch.allclose(model(q, k, v), right(q, k, v)) else "leaky mask"


check("13.5", begins_with_the_cache)

# %% [markdown]
# Most marks are lost because tests are missing. The leaky layers are worse off: they are sent home with “RoPE
# offset”, whatever tests follow.

# %% [markdown]
# ## The smallest failing test
#
# A diagnosis convinces you; a test convinces everyone, and keeps the bug from coming back. On 40 tokens nobody can
# follow the numbers, on 2 anybody can. Finding a smaller input that still fails is called **shrinking**.

# %% [markdown]
# ### Exercise 13.6 · The smallest failing test (6 points · 20 min · about 10 lines)
#
# Write `smallest_test(model)`. Return a dict with the arguments `"q"`, `"k"`, `"v"` (float64 tensors), `"pad"`,
# `"cut"` and with `"expected"`, what a healthy layer of the same promise gives. This layer must miss it by more
# than 10⁻⁶ in some row of the text (from `pad` on), and healthy layers must not. Of all such tests return one with
# the fewest tokens n (padding counts); if there is none with n ≤ 40, None. A bug of padding shows with `pad=1`, one
# of the cache with `cut=1`, and these need not be combined; random normal q, k and v of width 4 show every bug.
# Some bugs are not in the table, and some show at one length and not at the next.
#
# By hand: a layer that lets each token read the next one needs 2 tokens. With one there is nothing to peek at.


# %% exercise="13.6"
def smallest_test(model):
    """The shortest input on which the layer breaks its promise, with the expected result; None if there is none."""
    ### BEGIN SOLUTION
    healthy = clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                inputs = dict(q=q, k=k, v=v, pad=pad, cut=cut)
                expected = healthy(**inputs)
                if not torch.allclose(model(**inputs)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**inputs, "expected": expected}
    return None
    ### END SOLUTION


# %% try="13.6"
for name, patient in clinic.PATIENTS.items():
    test = smallest_test(patient)
    print(name, "no test" if test is None else f"{len(test['q'])} tokens, pad={test['pad']}, cut={test['cut']}")

# %% check="13.6"
check("13.6", smallest_test)

# %% [markdown] teacher="13.6"
# **Why this works.** Lengths in rising order make the first failure the shortest. Random numbers leave no accident
# that hides a difference. **Common wrong turns.** The patient's own output as `expected`; rows of padding compared;
# only the last row, which has nothing to peek at; powers of two. **Another way.** One text of 40 tokens and its
# beginnings, shortest first.

# %% [markdown]
# ### One treatment for each bug
#
# Here is the code of one more patient, which has all five bugs. Each line looks reasonable.


# %%
def sick_layer(q, k, v, window=None, pad=0, cut=0):
    """A causal layer in two pieces, with five bugs."""
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(end - start)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T
        back = torch.arange(start, end)[:, None] - torch.arange(end)  # how far a key lies back
        allowed = back >= -1
        if window is not None:
            allowed = allowed & (back < window - 1)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


plots.weights(sick_layer(q, k, eye, window=3, pad=2, cut=4), title="Promised: a window of 3, padding of 2")

# %% [markdown]
# Weights above the diagonal, columns 0 and 1 read, and no row reads two back: three of the five bugs can be seen. For
# the others you need numbers.

# %% [markdown]
# ### Exercise 13.7 · Treat all five (6 points · 12 min · 5 changes)
#
# Write `treated(q, k, v, window=None, pad=0, cut=0)`: `sick_layer` with the promises of the clinic's table kept. n
# ≥ 1, d even, 0 ≤ pad < n, 0 ≤ cut ≤ n, window None or ≥ 1, all in any combination; scores may be large. Return (n,
# d_v); rows of padding are not judged. q, k and v must stay as they were. Change a copy of the code above, or write
# your own. `attn_ref`'s `rope`, `softmax` and masks may be used; `clinic` and ready-made attention may not.
#
# By hand: zeros for q and k and values 4, 8, 3 give 4, 6, 5. With pad = 1 the last two rows are 8 and 5.5.


# %% exercise="13.7"
def treated(q, k, v, window=None, pad=0, cut=0):
    """A causal layer in two pieces that keeps its promises.  q, k (n, d), v (n, d_v) -> (n, d_v)"""
    ### BEGIN SOLUTION
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = (back >= 0) & (torch.arange(end) >= pad)
        if window is not None:
            allowed = allowed & (back < window)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)
    ### END SOLUTION


# %% try="13.7"
zeros, values = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[4.0], [8.0], [3.0]], dtype=torch.float64)
print(treated(zeros, zeros, values).flatten(), treated(zeros, zeros, values, pad=1)[1:].flatten())
plots.weights(treated(q, k, eye, window=3, pad=2, cut=4), title="After treatment")

# %% check="13.7"
check("13.7", treated)

# %% [markdown] teacher="13.7"
# **Why this works.** Five lines, five promises: where the piece stands, the scale, the diagonal, the window's last
# key, the padding. **Common wrong turns.** Positions right for keys and not for queries; padding given the score 0; a
# window of w + 1. **Another way.** A healthy layer gives the same for every cut, so the cut may be ignored: one
# piece, and no cache to get wrong. That is right here and gives up what the cache was for.

# %% [markdown]
# ## The decision table
#
# Each row that applies adds one name, in this order. The **cache** counts texts · length · bytes_per_token bytes,
# with a KV head for each query head; `heads_per_kv` query heads *can* share one (chapter 06), and then it is that
# many times smaller.
#
# | choose | if | what it costs |
# |---|---|---|
# | `"flash"` | always | nothing: the results are the same |
# | `"cache"` | texts are served | memory |
# | `"gqa"` | served, the cache is larger than the memory, heads_per_kv is more than 1 | a little quality; must be trained so |
# | `"window"` | served, and the cache / heads_per_kv is larger than the memory (keep sinks) | what lies far back |
# | `"retrieval"` | a window was chosen, and far things are needed | a search that can fail |
# | `"positions"` | length is more than trained_length, and no window was chosen | training on long texts |
#
# Exactly full is not larger. A window keeps distances short.

# %% [markdown]
# ### Exercise 13.8 · The decision table as code (7 points · 12 min · about 12 lines)
#
# Write `choose(requirements)`: the list of names that the table gives, in its order. `requirements` is a dict with
# `serving` (False: training), `texts` at once, `length`, `bytes_per_token` of one text's cache, `memory` in bytes,
# `heads_per_kv` ≥ 1, `far` (True if far things are needed) and `trained_length`. It must stay as it was.
#
# By hand: 16 texts of 32,768 tokens at 512 KiB a token are 256 GiB. The memory is 40 GiB, and heads_per_kv = 4
# leaves 64: too large still. With far = True: flash, cache, gqa, window, retrieval.


# %% exercise="13.8"
def choose(requirements):
    """What the decision table gives, in its order.  dict -> list of names"""
    ### BEGIN SOLUTION
    need, chosen = requirements, ["flash"]
    if need["serving"]:
        cache = need["texts"] * need["length"] * need["bytes_per_token"]
        chosen.append("cache")
        if cache > need["memory"] and need["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / need["heads_per_kv"] > need["memory"]:
            chosen.append("window")
            if need["far"]:
                chosen.append("retrieval")
    if need["length"] > need["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen
    ### END SOLUTION


# %% try="13.8"
example = dict(serving=True, texts=16, length=32_768, bytes_per_token=512 * 2**10, memory=40 * 2**30)
print(choose({**example, "heads_per_kv": 4, "far": True, "trained_length": 4096}))

# %% check="13.8"
check("13.8", choose)

# %% [markdown] teacher="13.8"
# **Why this works.** The rows are cumulative, so the answer grows along the table; the last row looks back at what
# was chosen. **Common wrong turns.** Returning at the first match; `>=` for “larger”; `//`, which makes 43 / 3 fit
# into 14; retrieval without a window. **Another way.** A dict of names and conditions, filtered.

# %% [markdown]
# A table is a place to start: it knows nothing of your texts. Measure answers by length and depth before and after.

# %% [markdown]
# ## Check yourself

# %% quiz="13.a"

# %% quiz="13.b"

# %% quiz="13.c"

# %% quiz="13.d"

# %% [markdown]
# ### Question 13.w · Choose, justify, measure (4 points · 90 min)
#
# The capstone. Take a model that you can run, such as one of this chapter's. Set a memory budget for its cache and
# a context length that does not fit. Choose by the table, build it, and measure. Hand in half a page: the model's
# numbers and the memory they give; what you chose, and why not its neighbours; two predictions; quality by length
# and depth, and a cost; and what your measurements do not prove. Code goes below.

# %% [markdown] written="13.w"
# ### BEGIN SOLUTION
# **4 points.** The errands model without positions: one layer, one KV head of 32 numbers in float64, so a token costs
# 2 · 32 · 8 = 512 bytes. The budget is 48 KiB, 96 tokens; the context 512 tokens, 256 KiB. The cache does not fit.
# There is one head, so heads_per_kv = 1 and GQA is out; the table says window, and as notes stand far back,
# retrieval. Positions: none to stretch. I keep the start, 63 recent tokens and two blocks of 16, 96 keys, and the
# blocks' boxes; all 512 keys lie in slower memory. Predicted: words lose nothing, answers fall from 1.00 to 0.9.
# Measured on fresh texts: words 0.33 with and without. Answers beyond the window, at depths 0, ¼, ½, ¾: 0.9 to 1.0
# with boxes, 0.6 to 0.8 with mean keys (which I had expected to suffice), 0.1 to 0.3 with the window alone; inside
# the window 1.00. At 128 and 256 tokens boxes stay above 0.9, too. Cost: 96 keys are read in place of 512, but 32
# boxes of 64 numbers are compared as well, about as much as 32 further keys. Not shown: notes that are less
# conspicuous, answers that need two notes, more than one layer, time on a GPU, and how slow the slow memory is.
#
# **3 points.** 512 B a token, 256 KiB for 512 tokens, the budget is 48 KiB. So window and retrieval by the table. At
# 512 tokens the window with a sink finds about ¼ of the notes beyond it, and with two blocks more than 0.9. It reads
# 96 keys and not 512. I did not vary the length.
#
# **2 points.** The cache takes 256 KiB, more than my budget of 48 KiB, so I use a sliding window with a sink token,
# and retrieval because far notes are needed. That should keep most answers.
#
# **1 point.** For long contexts I would use a sliding window like Mistral does, because it saves memory.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# Mistral 7B (2023) has a window of 4,096 in every layer; Gemma 2 (2024) has one in every other, Gemma 3 (2025) in five
# of six. gpt-oss (2025) gives each head a learned sink, a score that takes a share and has no value: `sinks=` of
# `attn_ref.attention`. Quest (2024) fetches pages of a KV cache by their boxes. RULER (2024) set harder tasks than
# needles: all models claimed 32,000 tokens or more, and half kept up at that length.

# %% [markdown]
# ## Takeaways
#
# - A window of 32 raised the loss on words by more than half; one key more, the first, brought it back.
# - It brought no answers back: beyond the window they stayed near blind guessing, ¼.
# - Trained on 64 tokens, rotations lost most first notes of 512; positions divided by 8 brought the weight back.
# - A mask with a sixteenth of the pairs saved no time; blocks with an eighth did.
# - Four of the five bugs show on 2 tokens, a window of w on w; and a leak makes the cache look guilty.

# %%
progress(13)

# %% [markdown]
# ## Further reading
#
# - Xiao and others, *Efficient Streaming Language Models with Attention Sinks* (2023).
# - Child and others, *Sparse Transformers* (2019); Beltagy and others, *Longformer* (2020); Tang and others, *Quest* (2024).
# - Liu and others, *Lost in the Middle* (2023); Hsieh and others, *RULER* (2024).
# - Chen and others, *Positional Interpolation* (2023); Peng and others, *YaRN* (2023).
# - Holtzman and others, *The Curious Case of Neural Text Degeneration* (2019).

# %% [markdown]
# ## The last page: what you built, and what the others do
#
# | you wrote | the real thing | the same in both | what yours does not do | look in |
# |---|---|---|---|---|
# | attention, masks, heads (02, 04, 06) | PyTorch's `scaled_dot_product_attention` | the formula; True = may attend; KV heads shared | choose a program by device and dtype | `sdp_utils.cpp` |
# | tiles and kernels (10, 11, 12) | FlashAttention-2 and -3 | maximum, sum and acc, rescaled | dropout; tuning for each chip; FP8 (version 3) | `softmax_rescale_o` in `softmax.h` |
# | rules for masks, tiles skipped (04, 10) | FlexAttention | a rule of i and j; empty tiles skipped | compile your rule into a kernel and its gradient | `create_block_mask` |
# | cache, chunks, blocks, sharing (09) | vLLM | blocks from a pool, users counted, a table for each request | admit and evict at every step | `block_pool.py` |
# | needle tests, smallest tests (here) | RULER; FlashAttention's tests | notes by length and depth; a slow reference | hundreds of sizes and dtypes | `test_flash_attn.py` |
#
# Two rows can be checked at once:

# %% experiment="13.20"
q, k, v = torch.randn(3, 2, 3, 300, 16, generator=torch.Generator().manual_seed(0))
gap = attn_ref.attention(q, k, v, causal=True) - F.scaled_dot_product_attention(q, k, v, is_causal=True)
print(f"largest difference from PyTorch: {gap.abs().max():.0e}")
rule = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j < 128), None, None, 1024, 1024, device="cpu")
print("tiles that FlexAttention visits:", int(rule.kv_num_blocks.sum() + rule.full_kv_num_blocks.sum()))
print("tiles by the rule of 10.4:", attn_ref.cost.tiles_visited(1024, 1024, 128, 128, window=128))

# %% [markdown]
# Rounding, and the same 15 tiles of 64.
#
# Where to go: read `softmax_rescale_o` beside your 10.1, and `block_pool.py` beside your 9.6. For training at scale
# take Stanford's CS336, for what heads do ARENA. Or mend something: windows and offsets are where real projects still
# break, and you have the smallest test.
#
# The course ends here; when someone tells you what attention does, ask how it was measured.
