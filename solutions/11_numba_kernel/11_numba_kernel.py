# %% [markdown]
# # 11 · A numba kernel on your CPU
#
# You write attention as loops that all cores of your machine share: forward, split for decoding, and backward. Then you
# race it against PyTorch.
#
# 200 min · CPU · PyTorch and numba (`make lab EXTRAS=torch,numba`) · needs 08, 09, 10

# %% [markdown]
# When you have finished, you will be able to
#
# - share a loop among cores, and find the race in one that must not be shared so;
# - keep a kernel in float32, in the order of memory, and off the tiles that nobody may see;
# - write attention forward, in parts and backward, and say how far it is from what the machine can do.

# %%
import math
import time

import numba
import numpy as np
import scipy.linalg  # numba multiplies with SciPy's BLAS, which must be loaded before it can be limited
import torch
import torch.nn.functional as F
from numba import njit, prange
from threadpoolctl import threadpool_limits

import attn_ref
from attn_ref import bench, cost, plots
from attn_ref.iterations import watch
from attn_ref.numba_compile import FAST
from attn_ref.numba_exp2 import LOG2_E, exp2
from attn_ref.numba_types import widened
from autograder import check, guess, hint, progress, quiz

one_thread_each = threadpool_limits(1, user_api="blas")  # the cores will be busy with our own loops
torch.set_num_threads(numba.get_num_threads())
settings = {"repeats": 3, "warm_up": 1, "sample_s": 0.02, "most_foreign": 1e9}  # other programs may be running
rng = np.random.default_rng(11)
print(bench.machine())

# %% [markdown]
# ## Eight million ones
#
# Four columns of eight million ones are to be added up. **numba** turns a Python function into machine code, and where
# the code says `prange` in place of `range` it lets all cores share the loop. It runs three times, which makes twelve
# totals. How large is the smallest?


# %%
def column_sums(x, total):
    """Add every row of x to total."""
    for i in prange(len(x)):
        for j in range(x.shape[1]):
            total[j] += x[i, j]


my_guess = None  # your guess: the smallest total, in millions

# %% experiment="11.hook"
ones = np.ones((8_000_000, 4), np.int8)
in_parallel = njit(parallel=True)(column_sums)
totals = [np.zeros(4) for run in range(3)]
for total in totals:
    in_parallel(ones, total)
guess(my_guess, measured=np.min(totals) / 1e6, unit="million")

# %% [markdown]
# Here is what each run found.

# %% experiment="11.runs"
runs = {f"run {i + 1}": total / 1e6 for i, total in enumerate(totals)}
plots.bars(runs, [f"column {j}" for j in range(4)], ylabel="total, in millions", limit=9)

# %% [markdown]
# With one core, every total is 8 million. With two or more, most runs lose a good part of the ones, each run another part,
# without error or warning. Plain Python, which takes the rows one by one, is right every time.

# %% [markdown]
# ## A compiler for plain loops
#
# For each `x[i, j]` Python looks up types, checks bounds and makes an object. numba looks at the types once, when the
# function is first called, and compiles.


# %%
def distances(x, y):
    """The squared distance of each row of x from each row of y."""
    out = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            for c in range(x.shape[1]):
                out[i, j] += (x[i, c] - y[j, c]) ** 2
    return out


x = rng.normal(size=(64, 64))
my_guess = None  # your guess: how many times as fast is the compiled function?

# %% experiment="11.compile"
compiled = njit(distances)
started = time.perf_counter()
compiled(x, x)
first_call = time.perf_counter() - started
took = bench.measure({"Python": lambda: distances(x, x), "numba": lambda: compiled(x, x)}, **settings)
print(f"first call, which compiles: {first_call:.1f} s; later ones: {1e6 * took.timings['numba'].median_s:.0f} µs")
guess(my_guess, measured=took.ratio("Python", "numba"), unit="times as fast")

# %% [markdown]
# Hundreds of times, and nothing in the function changed. The price is the first call with arguments of new types: it
# takes as long as thousands of later ones.
#
# So you will write **kernels** as plain Python functions, from which you can print, and the cell after each compiles yours:
# `njit(parallel=True)(your_function)`. The check runs the plain function and asks numba for the types.

# %% [markdown]
# ## prange is a promise
#
# `for i in prange(n)` promises numba that iterations may run at the same time and in any order; numba does not ask
# whether that is true. (Each core works through its share in a **thread**, a strand of work of its own.) Whether it is
# depends on what iterations *touch*: `watch` runs a function in plain Python and notes which iteration reads or writes
# which number.


# %%
def doubled(x, out):
    for i in prange(len(x)):
        out[i] = 2 * x[i]


out, total = np.zeros(4), np.zeros(3)
alone = watch(doubled, np.ones(4), out)
together = watch(column_sums, np.ones((4, 3)), total)
plots.touches({"out, in doubled": alone.table(out), "total, in column_sums": together.table(total)})

# %% [markdown]
# On the left each iteration has a number of its own. On the right all write to all. That is a **race**: two iterations of
# one loop touch the same number, and at least one of them writes it.
#
# Why are ones lost? `total[j] += 1` is three steps: read, add, write. If two cores read 41 before either has written, both
# write 42, and one addition is gone.

# %% [markdown]
# ### Two ways out
#
# Reading in common is no race. To write without one, each number needs an **owner**, one iteration that alone writes it.
# Either the loop is turned so that an iteration owns a column; or each has totals of its own, merged afterwards.


# %%
def columns_owned(x, total):
    for j in prange(x.shape[1]):
        for i in range(len(x)):
            total[j] += x[i, j]


def halves_merged(x, total):
    parts = np.zeros((2, x.shape[1]))
    for part in prange(2):
        for i in range(part, len(x), 2):
            parts[part] += x[i]
    total += parts[0] + parts[1]


for kernel in (column_sums, columns_owned, halves_merged):
    total = np.zeros(3)
    seen = watch(kernel, np.ones((4, 3)), total)
    print(f"{kernel.__name__:14} {total}, raced for: {len(seen.raced(total))}")

# %% [markdown]
# All three are right in plain Python; only the first has races. “Parts, then merge” comes back in decoding.

# %% [markdown]
# ### Exercise 11.1 · Rows, shared out (6 points · 10 min · about 10 lines)
#
# Write `row_lse(x)`, the log-sum-exp of each row (chapter 02). x is (n, m), float32 or float64, n and m at least 1;
# return (n,) in the dtype of x. Scores may be in the thousands; a row of nothing but -inf gives -inf. The rows are
# shared out with `prange`, each read and computed within one iteration, and no two iterations may race; nor may a
# variable, such as a counter, be carried from one to the next. numba must be able to compile it, and x stays as it was.
# Write the plain function, without `@njit`.
#
# By hand: the row (0, 0) gives log 2 ≈ 0.6931, the row (0, log 3) gives log 4 ≈ 1.3863.


# %% exercise="11.1"
def row_lse(x):
    """The log-sum-exp of each row, the rows shared out among threads.  (n, m) -> (n,)"""
    ### BEGIN SOLUTION
    n, m = x.shape
    out = np.empty(n, x.dtype)
    for i in prange(n):
        largest = x[i, 0]
        for j in range(m):
            largest = max(largest, x[i, j])
        out[i] = largest
        if largest > -np.inf:
            total = x.dtype.type(0)
            for j in range(m):
                total += math.exp(x[i, j] - largest)
            out[i] = largest + math.log(total)
    return out
    ### END SOLUTION


# %% try="11.1" experiment="11.rows"
some_rows = np.array([[0.0, 0.0], [0.0, np.log(3.0)], [-np.inf, -np.inf]])
print("plain:   ", row_lse(some_rows))
print("compiled:", njit(parallel=True)(row_lse)(some_rows), " races:", watch(row_lse, some_rows).races)

# %% check="11.1"
check("11.1", row_lse)

# %% [markdown] teacher="11.1"
# **Why this works.** Everything that the loop body sets first, `largest`, `total`, belongs to its iteration; the one thing
# that outlives it, out[i], has one owner. **Common wrong turns.** A scratch array made before the loop; `x.max(axis=1)`,
# which numba lacks; a maximum that starts at 0. **Another way.** `row = x[i]` and NumPy on one row: numba fuses
# `np.exp(row - top).sum()` into one loop.

# %% [markdown]
# ### Break it: right a hundred times
#
# The function below keeps exponentials in an array made once, before the loop. It is run on three rows, a hundred times.


# %%
def one_scratch_row(x):
    """The log-sum-exp of each row, with a planted bug."""
    out, scratch = np.empty(len(x), x.dtype), np.empty(x.shape[1], x.dtype)
    for i in prange(len(x)):
        largest = x[i].max()
        out[i] = largest
        if largest > -np.inf:
            for j in range(x.shape[1]):
                scratch[j] = math.exp(x[i, j] - largest)
            out[i] = largest + math.log(scratch.sum())
    return out


# %% experiment="11.luck"
compiled, three_rows = njit(parallel=True)(one_scratch_row), rng.normal(size=(3, 4))
right = attn_ref.logsumexp(three_rows)
print("three rows: right in", sum(np.allclose(compiled(three_rows), right) for run in range(100)), "of 100 runs")
long_rows = rng.normal(size=(40_000, 128))
wrong = ~np.isclose(compiled(long_rows), attn_ref.logsumexp(long_rows))
print(f"40,000 rows: {wrong.sum():,} wrong in one run")

# %% [markdown]
# Three rows are over before a second core has woken up, so most or all runs are right. Of 40,000 longer rows, with two
# cores or more, some or thousands come out wrong. The check does not depend on luck: it looks at what is touched.

# %%
check("11.1", one_scratch_row)

# %% [markdown]
# The card is the same on a machine with one core.

# %% [markdown]
# ### Exercise 11.2 · Find the race (5 points · 10 min · about 8 lines)
#
# Write `races(log)`, the heart of such a check. `log` is a whole-number array (events, 3) with the columns iteration,
# entry, and 1 for a write or 0 for a read. Return a list (or an array) of the entries that are raced for, each once,
# the smallest first: two *different* iterations touch it and at least one of them writes it. The log may be in any
# order, its numbers in the millions, or empty, (0, 3). It must stay as it was.
#
# By hand: (0, 7, 1), (1, 7, 0), (0, 5, 0), (1, 5, 0), (2, 6, 1), (2, 6, 1) gives [7]. Entry 5 is only read, and 6 belongs
# to iteration 2 alone.


# %% exercise="11.2"
def races(log):
    """The entries that two iterations touch and at least one of them writes.  (events, 3) -> list, sorted"""
    ### BEGIN SOLUTION
    by_entry = {}
    for iteration, entry, wrote in log:
        iterations, writes = by_entry.setdefault(int(entry), (set(), []))
        iterations.add(int(iteration))
        writes.append(wrote)
    return [entry for entry in sorted(by_entry) if len(by_entry[entry][0]) > 1 and any(by_entry[entry][1])]
    ### END SOLUTION


# %% try="11.2"
print(races(np.array([[0, 7, 1], [1, 7, 0], [0, 5, 0], [1, 5, 0], [2, 6, 1], [2, 6, 1]])))

# %% check="11.2"
check("11.2", races)

# %% [markdown] teacher="11.2"
# **Why this works.** A race needs two iterations and a write; time does not enter, since the order may be another one
# tomorrow. **Common wrong turns.** Only writes are compared; a read counts only after the write; neighbours in the log
# alone. **Another way.** Sort by entry and compare the smallest with the largest iteration of each, as `watch` does.

# %% [markdown]
# ## A type that grows
#
# A core handles twice as many float32 as float64 at once. NumPy keeps `x * 0.5` in float32 if x is. Does numba? One
# loop below writes the number one as `1.0`, the other in x's dtype. How many times as long does the first take?


# %%
def wide_bell(x, out):
    for i in range(len(x)):
        out[i] = 1.0 / (1.0 + x[i] * x[i])


def narrow_bell(x, out):
    one = x.dtype.type(1)
    for i in range(len(x)):
        out[i] = one / (one + x[i] * x[i])


a = rng.normal(size=4096).astype(np.float32)
my_guess = None  # your guess: time with 1.0, divided by time with x.dtype.type(1)

# %% experiment="11.wide"
out, fast_wide, fast_narrow = np.empty_like(a), njit(wide_bell), njit(narrow_bell)
took = bench.measure({"wide": lambda: fast_wide(a, out), "narrow": lambda: fast_narrow(a, out)}, **settings)
guess(my_guess, measured=took.ratio("wide", "narrow"), unit="times as long")

# %% [markdown]
# Up to 3 times, and rarely less than 1.2.
#
# For numba a variable has *one* type in all of a function, wide enough for everything put into it. `1.0` is a float64, and
# so is every float32 that meets it; a sum that begins with `0.0` is one to its end. `widened` asks numba for all types and
# lists the lines.

# %%
print(widened(wide_bell, a, np.empty_like(a)))
print(widened(narrow_bell, a, np.empty_like(a)))

# %% [markdown]
# | with x of float32 | NumPy | numba |
# |---|---|---|
# | `x[i] * 0.5` | float32 | float64 |
# | `x[i] / 2`, `x[i] * n` for a whole n | float32 | float64 |
# | `x[i] / math.sqrt(d)` | float32 | float64 |
# | `x[i] * x.dtype.type(0.5)` | float32 | float32 |
# | `math.exp(x[i])`, `max(x[i], x[j])` | – | float32 |
#
# An array made without a dtype, as by `np.zeros(n)`, is float64 too, and `widened` lists what is stored in it. Stored
# in a float32 array it is narrowed again, so no result shows the detour.

# %% [markdown]
# ### Exercise 11.3 · Stay in float32 (5 points · 12 min · about 9 lines)
#
# Write `tile_scores(q, k)`: q (n, d), k (m, d), both float32 or both float64, n, m and d at least 1. Return q·k / √d as
# (n, m) in their dtype. Use loops, or those parts of NumPy that numba knows; `prange` is not needed. For float32 arguments
# `widened` must find no line, and numba must be able to compile it. q and k must stay as they were.
#
# By hand: q = (2, 0, 0, 0) and k = (3, 0, 0, 0) give 3.


# %% exercise="11.3"
def tile_scores(q, k):
    """Scores of a tile, in the dtype of q and k throughout.  (n, d), (m, d) -> (n, m)"""
    ### BEGIN SOLUTION
    n, d = q.shape
    scale = q.dtype.type(1 / math.sqrt(d))
    scores = np.empty((n, len(k)), q.dtype)
    for i in range(n):
        for j in range(len(k)):
            total = q.dtype.type(0)
            for c in range(d):
                total += q[i, c] * k[j, c]
            scores[i, j] = total * scale
    return scores
    ### END SOLUTION


# %% try="11.3"
q_tile = np.array([[2.0, 0.0, 0.0, 0.0]], np.float32)
k_tile = np.array([[3.0, 0.0, 0.0, 0.0], [1.0, 5.0, 0.0, 0.0]], np.float32)
print(tile_scores(q_tile, k_tile), tile_scores(q_tile, k_tile).dtype)
print("widened:", widened(tile_scores, q_tile, k_tile))

# %% check="11.3"
check("11.3", tile_scores)

# %% [markdown] teacher="11.3"
# **Why this works.** `q.dtype.type(...)` follows the input, so one function serves both dtypes; scale, sum and result each
# need it once. **Common wrong turns.** `0.0`; `/ math.sqrt(d)` inside the loops; `np.float32` written down, which costs
# float64 callers half their digits. **Another way.** `np.dot(q, k.T) * scale`, which calls BLAS and is faster by far.

# %% [markdown]
# ## Memory has a direction
#
# An array is one long line of numbers; **strides** say how many bytes lie between neighbours along each axis. In NumPy's
# usual order a row lies together. Transposing moves nothing and exchanges the strides.

# %%
grid = np.arange(20, dtype=np.float32).reshape(4, 5)
print("strides of grid:", grid.strides, "  of grid.T:", grid.T.strides)
plots.matrices({"grid": grid, "grid.T": grid.T}, title="Place of each entry in memory", unit="place")

# %% [markdown]
# Reading grid row by row walks through 0, 1, 2, … Reading grid.T row by row jumps by 5. A processor fetches memory in
# lines, 64 bytes or 16 float32 as a rule, and a jump uses one of them. The loop below adds up 64 MiB row by row, and then
# the transpose. How many times as long does that take?


# %%
def add_up(x):
    total = x.dtype.type(0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += x[i, j]
    return total


my_guess = None  # your guess: time for the transpose, divided by time for the matrix

# %% experiment="11.strides"
large = np.ones((4096, 4096), np.float32)
fast_add = njit(fastmath=FAST)(add_up)
took = bench.measure({"rows": lambda: fast_add(large), "transpose": lambda: fast_add(large.T)}, **settings)
guess(my_guess, measured=took.ratio("transpose", "rows"), unit="times as long")

# %% [markdown]
# Anything from 5 to 100 times, for the same numbers and additions. (`fastmath` lets the compiler add up in another order,
# without which neither loop is fast. `FAST` is the part of it that leaves -inf and NaN alone.)
#
# In attention d is the last axis, so `k[b, g, j0:j1]`, a tile of keys, is one stretch of memory, if k is
# **contiguous**, without gaps.

# %% [markdown]
# ## Tiles that nobody may see
#
# The mask is known before any score is, so whole tiles of keys can be left out. Below, 24 queries are the last of 32
# positions, and each sees 9 keys, its own included.

# %%
plots.tile_walk(24, 32, 4, 4, causal=True, window=9, title="A window of 9, in tiles of 4")

# %% [markdown]
# The numbers give the order. Of 48 tiles 18 are visited, none behind the window and none in the future. The walk needs two
# numbers for each tile of queries: the first tile of keys, and where to stop.

# %%
for window in (None, 1024):
    counts = [cost.tiles_visited(n, n, 64, 64, causal=True, window=window) for n in (4096, 8192, 16384)]
    print("window", window, "-> tiles at 4k, 8k, 16k:", counts)

# %% [markdown]
# Without a window twice the text makes about four times the tiles; with one, about twice as many.

# %% [markdown]
# ### Exercise 11.4 · Which tiles are worth a visit? (5 points · 15 min · about 8 lines)
#
# Write `visible_tiles(i0, i1, n_q, n_k, causal, window, block_k)` for the queries i0 .. i1-1, at least one, of n_q. They
# are the last n_q of n_k positions: query i stands at p = i + n_k - n_q, negative for the first if n_q > n_k. With `causal`
# it sees keys up to p; with `window` w > 0 keys p-w+1 .. p, whatever `causal` says; w = 0 means no window. Tile t holds keys
# t · block_k .. (t+1) · block_k - 1. Return `(first, stop)`: the first tile that one of them sees, and the number behind the
# last, or (0, 0) if they see nothing. Only whole numbers and bools; numba must compile it.
#
# By hand: 8 queries and 8 keys, causal, block_k = 3, queries 4 and 5. Query 5 sees keys 0 .. 5, tiles 0 and 1: (0, 2). With
# window = 2, query 4 sees keys 3 and 4: (1, 2).


# %% exercise="11.4"
def visible_tiles(i0, i1, n_q, n_k, causal, window, block_k):
    """Which tiles of keys the queries i0 .. i1-1 may see.  -> (first, stop), (0, 0) if none"""
    ### BEGIN SOLUTION
    first, stop = 0, n_k
    if causal or window > 0:
        stop = min(n_k, i1 + n_k - n_q)
    if window > 0:
        first = max(0, i0 + n_k - n_q - window + 1)
    if first >= stop:
        return 0, 0
    return first // block_k, (stop + block_k - 1) // block_k
    ### END SOLUTION


# %% try="11.4"
print(visible_tiles(4, 6, 8, 8, True, 0, 3), visible_tiles(4, 6, 8, 8, True, 2, 3))

# %% check="11.4"
check("11.4", visible_tiles)

# %% [markdown] teacher="11.4"
# **Why this works.** Neighbouring queries see overlapping or adjoining stretches, so their union is one stretch: from the
# first query's oldest key to the last query's newest. **Common wrong turns.** Positions from the top left; a ragged tile
# lost by rounding down; the window of the last query. **Another way.** Look at every pair, slowly and beyond doubt.

# %% [markdown]
# ## A head by its index
#
# With grouped heads (chapter 06) several query heads read one KV head. A kernel copies nothing and reads it *by its
# index*. Neighbours share: of 6 query heads over 3 KV heads, 0 and 1 read KV head 0.

# %%
shared = np.zeros((6, 3), bool)
shared[np.arange(6), [0, 0, 1, 1, 2, 2]] = True
rows, columns = [f"query head {h}" for h in range(6)], [f"KV {g}" for g in range(3)]
plots.matrix(shared, rows, columns, "Who reads which KV head", unit="reads")

# %% [markdown]
# With the wrong map, 0 1 2 0 1 2, every shape is right and four heads of six read another one's keys.

# %% [markdown]
# ## What an exponential costs
#
# The products of a kernel are left to `np.dot`, and so to BLAS, NumPy's library. Between them stands one exponential
# for each score. `math.exp` handles one number at a time. `exp2`, 2ˣ by a short polynomial, is compiled into steps on 8
# or 16 numbers. How many times as fast is it?


# %%
def all_exp(x, out):
    for i in range(len(x)):
        out[i] = math.exp(x[i])


def all_exp2(x, out):
    for i in range(len(x)):
        out[i] = exp2(x[i])


my_guess = None  # your guess: time with math.exp, divided by time with exp2

# %% experiment="11.exp"
out = np.empty_like(a)
fast_exp, fast_exp2 = njit(fastmath=FAST)(all_exp), njit(fastmath=FAST)(all_exp2)
took = bench.measure({"exp": lambda: fast_exp(a, out), "exp2": lambda: fast_exp2(a, out)}, **settings)
guess(my_guess, measured=took.ratio("exp", "exp2"), unit="times as fast")

# %% [markdown]
# Some 5 to 25 times. Since eˣ = 2^(x · log₂e), the factor log₂e can be folded into the scale. Then the maximum is one of
# base 2 and must be divided by log₂e for the log-sum-exp. You may use `exp2` and `LOG2_E`, or stay with `math.exp`: no
# points hang on speed.

# %% [markdown]
# ## The times to beat
#
# First the roof of this machine (chapter 08), by a matrix product and a copy.

# %% experiment="11.roof"
square, read, written = torch.randn(1024, 1024), torch.randn(2**25), torch.empty(2**25)
speeds = {"product": lambda: torch.mm(square, square), "copy": lambda: written.copy_(read)}
took = bench.measure(speeds, **settings | {"repeats": 8})
peak = 2 * 1024**3 / min(took.timings["product"].kept_s)  # the best run: a roof is what can be reached
bandwidth = 2 * read.nbytes / min(took.timings["copy"].kept_s)
print(f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s, ridge at {peak / bandwidth:.0f} FLOP/byte")

# %% [markdown]
# Three runners, on 4 heads of 64 with 2,048 tokens, float32, no mask: attention as a formula, which writes its tables to
# memory; PyTorch's `scaled_dot_product_attention` (SDPA), a tiled program in C++; and `attn_ref`'s numba kernel. How many
# times as long as SDPA does the formula take?


# %%
def formula(q, k, v):
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


q, k, v = rng.normal(size=(3, 1, 4, 2048, 64)).astype(np.float32)
tensors = [torch.from_numpy(x) for x in (q, k, v)]
runners = {
    "formula": lambda: formula(*tensors),
    "SDPA": lambda: F.scaled_dot_product_attention(*tensors),
    "attn_ref": lambda: attn_ref.flash_forward(q, k, v),
}
my_guess = None  # your guess: time of the formula, divided by SDPA's

# %% experiment="11.race"
took = bench.measure(runners, **settings)
guess(my_guess, measured=took.ratio("formula", "SDPA"), unit="times as long")

# %% [markdown]
# Two to six times, as a rule, with the same FLOPs. The bytes differ, and those can be counted:

# %%
flops = cost.attention_flops(1, 4, 2048, 2048, 64)
with_tables = flops / cost.attention_bytes(1, 4, 2048, 2048, 64, "float32", tiled=False)
in_tiles = flops / cost.attention_bytes(1, 4, 2048, 2048, 64, "float32", tiled=True)
print(f"FLOPs for each byte: {with_tables:.1f} as a formula, {in_tiles:.0f} in tiles")


# %% experiment="11.under"
def under_the_roof(took):
    """Each runner's FLOPs for each byte it must move, and the FLOP/s it reaches."""
    return {
        name: (with_tables if name == "formula" else in_tiles, flops / timing.median_s)
        for name, timing in took.timings.items()
    }


plots.roofline(under_the_roof(took), peak, bandwidth, title="4 heads, 2,048 tokens, this machine")

# %% [markdown]
# The formula stands on the left because of its tables. The two kernels stand far to the right of the ridge and are
# bound by arithmetic alone: careful code reaches half of the roof and more. A point *above* it means that other
# programs worked while the roof was measured.

# %% [markdown]
# ### Exercise 11.5 · Attention in one parallel loop (7 points · 45 min · about 25 lines)
#
# Write `flash_forward(q, k, v, causal, window, block_k)`, the plain function; it returns `(out, lse)`.
#
# - q is (B, Hq, n_q, d), k (B, Hkv, n_k, d), v (B, Hkv, n_k, d_v), contiguous, all float32 or all float64; Hkv divides Hq.
#   out is (B, Hq, n_q, d_v), lse (B, Hq, n_q), in q's dtype, lse in natural logarithms; the scale is 1/√d.
# - `causal` and `window` as in 11.4. A query that sees nothing gets 0, and lse -inf. Scores may be in the thousands.
# - Keys are read in tiles of at most block_k ≥ 1. An iteration reads no key that lies block_k keys or more from all
#   that the queries it writes next may see.
# - `prange` shares out the work in B · Hkv iterations or more, which do all reading of k and v and write every row that
#   sees a key. No two iterations race, and none carries a variable to the next. The function never holds half of n_q ·
#   n_k numbers beside its inputs, not even for n_q = 1: a whole row of scores, or a copy of k, is too much.
# - numba compiles it, and no line widens float32. The inputs stay as they were.
#
# No other attention of `attn_ref` or PyTorch. A query in each iteration is the simplest plan, 64 the fast one. By hand: d =
# 1, q = 2, keys 0 and ½ log 3, values 4 and 8: weights ¼ and ¾, out = 7, lse = log 4.


# %% exercise="11.5"
def flash_forward(q, k, v, causal, window, block_k):
    """Attention by tiles of keys.  q (B, Hq, n_q, d), k and v (B, Hkv, n_k, ...) -> out (B, Hq, n_q, d_v), lse"""
    ### BEGIN SOLUTION
    batch, heads, n_q, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    tiles = (n_q + 63) // 64
    log2_e = q.dtype.type(LOG2_E)
    scale = q.dtype.type(LOG2_E / math.sqrt(d))  # scores in base 2
    out = np.zeros((batch, heads, n_q, d_v), q.dtype)
    lse = np.full((batch, heads, n_q), q.dtype.type(-np.inf))
    for task in prange(batch * heads * tiles):
        b, h, i0 = task // tiles // heads, task // tiles % heads, task % tiles * 64
        i1, g, p0 = min(i0 + 64, n_q), h // group, i0 + n_k - n_q
        rows = i1 - i0
        row_max = np.full(rows, q.dtype.type(-1e30))  # finite: -inf - -inf would be NaN
        row_sum = np.zeros(rows, q.dtype)
        acc = np.zeros((rows, d_v), q.dtype)
        stop = min(n_k, p0 + rows) if causal or window > 0 else n_k
        first = max(0, p0 - window + 1) if window > 0 else 0
        q_tile = q[b, h, i0:i1] * scale
        for j0 in range(first, stop, block_k):
            j1 = min(j0 + block_k, stop)
            s = np.dot(q_tile, k[b, g, j0:j1].T)  # (rows, keys)
            for i in range(rows):
                if causal or window > 0:
                    s[i, max(0, p0 + i + 1 - j0) :] = -np.inf
                if window > 0:
                    s[i, : max(0, p0 + i - window + 1 - j0)] = -np.inf
                old, total = row_max[i], q.dtype.type(0)
                largest = max(old, s[i].max())
                for j in range(j1 - j0):
                    s[i, j] = exp2(s[i, j] - largest)
                    total += s[i, j]
                shrink = exp2(old - largest)
                row_max[i], row_sum[i] = largest, row_sum[i] * shrink + total
                acc[i] *= shrink
            acc += np.dot(s, v[b, g, j0:j1])
        for i in range(rows):
            if row_sum[i] > 0:
                out[b, h, i0 + i] = acc[i] / row_sum[i]
                lse[b, h, i0 + i] = row_max[i] / log2_e + math.log(row_sum[i])
    return out, lse
    ### END SOLUTION


# %% try="11.5" experiment="11.mine"
by_hand = [np.array(x).reshape(1, 1, -1, 1) for x in ([2.0], [0.0, np.log(3) / 2], [4.0, 8.0])]
print(flash_forward(*by_hand, False, 0, 1))
print("widened:", widened(flash_forward, q, k, v, False, 0, 128))
my_kernel = njit(parallel=True, fastmath=FAST)(flash_forward)
mine, theirs = my_kernel(q, k, v, True, 0, 128)[0], attn_ref.flash_forward(q, k, v, causal=True)[0]
print("compiled, off attn_ref by", np.abs(mine - theirs).max())
took = bench.measure(runners | {"yours": lambda: my_kernel(q, k, v, False, 0, 128)}, **settings)
print(f"your speed: {took.ratio('attn_ref', 'yours'):.2f} of attn_ref's, {took.ratio('SDPA', 'yours'):.2f} of SDPA's")
plots.roofline(under_the_roof(took), peak, bandwidth, title="With your kernel")

# %% check="11.5"
check("11.5", flash_forward)

# %% [markdown] teacher="11.5"
# **Why this works.** A task owns 64 rows of out; its state, tile and products are made inside the iteration. The walk goes
# from the first visible key to the last, and rows are masked only inside tiles. This version reached 0.6 to 0.9 of
# attn_ref's speed where it was written. **What speed hangs on.** `total` as a variable: a sum kept in `row_sum[i]` halves
# the speed, since memory must be written at each step. `exp2` and `fastmath`: without them about half. Tiles of 64 queries:
# a query at a time reads all keys again for each, and `np.dot` of a matrix with a vector is bound by memory. **Common wrong
# turns.** Shared scratch; tiles behind the window; one more -inf - -inf. **Another way.** Scores transposed, keys × queries,
# as attn_ref has them (`docs/kernels.md`).

# %% [markdown]
# ### Agree, and weigh
#
# The kernel of `attn_ref` against SDPA and the formula, with a mask; then time and memory.

# %% experiment="11.agree"
sdpa = F.scaled_dot_product_attention(*tensors, is_causal=True).numpy()
tiled = attn_ref.flash_forward(q, k, v, causal=True)[0]
plain = attn_ref.attention(q, k, v, causal=True, backend="numpy")
print(f"against SDPA {np.abs(tiled - sdpa).max():.0e}, against the formula {np.abs(tiled - plain).max():.0e}")

# %% experiment="11.weigh"
lengths, curves = [512, 1024, 2048, 4096], {"attn_ref": ([], []), "formula": ([], [])}
for n in lengths:
    short = [np.ascontiguousarray(x[:, :, :1].repeat(n, axis=2)) for x in (q, k, v)]
    short_tensors = [torch.from_numpy(x) for x in short]
    calls = {"attn_ref": lambda x=short: attn_ref.flash_forward(*x), "formula": lambda x=short_tensors: formula(*x)}
    found = bench.measure(calls, **settings)
    for name, call in calls.items():
        curves[name][0].append(1000 * found.timings[name].median_s)
        curves[name][1].append(max(bench.peak_memory(call) / 2**20, 0.1))
plots.time_and_memory(lengths, curves, title="4 heads of 64, float32, no mask")

# %% [markdown]
# On the left both lines are steep: four times the FLOPs for twice the text. On the right the formula's tables grow as fast,
# while the kernel holds its output and a few tiles.

# %% [markdown]
# ## One query, a long cache
#
# In decoding (chapter 09) a head has one query. A loop over queries keeps one core busy, a loop over heads no more than
# there are heads. So split the keys: each part gives an output and a log-sum-exp, and the parts are merged as in chapter
# 10. This is **flash-decoding** (2023), or split-KV.
#
# One head, 262,144 keys, a single query. How many times as fast do two parts make it on this machine?

# %%
my_guess = None  # your guess: time with one part, divided by time with two

# %% experiment="11.decode"
one_query = rng.normal(size=(1, 1, 1, 64)).astype(np.float32)
cache = rng.normal(size=(2, 1, 1, 262_144, 64)).astype(np.float32)
splits = [1, 2, 4, 8]
calls = {n: lambda n=n: attn_ref.decode_split_kv(one_query, *cache, splits=n) for n in splits}
took = bench.measure({str(n): call for n, call in calls.items()}, **settings)
guess(my_guess, measured=took.ratio("1", "2"), unit="times as fast")

# %% [markdown]
# Each call reads 128 MiB of keys and values. Divided by the time, that is the bandwidth reached.

# %% experiment="11.bandwidth"
reached = [cache.nbytes / took.timings[str(n)].median_s / 1e9 for n in splits]
series = {"decode": reached, "copy on this machine": np.full(4, bandwidth / 1e9)}
plots.lines(splits, series, "One head, one query, 262,144 keys", "parts", "GB/s", logx=True)

# %% [markdown]
# With two idle cores or more, two parts are up to twice as fast, and further parts help as far as there are cores to
# take them. The merge is exact but for rounding, whatever the number of parts:

# %% experiment="11.parts"
outputs = [call()[0] for call in calls.values()]
print("largest difference between 1 and more parts:", f"{max(np.abs(one - outputs[0]).max() for one in outputs):.0e}")

# %% [markdown]
# ### Exercise 11.6 · Split the keys, merge the parts (6 points · 25 min · about 22 lines)
#
# Write `decode_split_kv(q, k, v, splits)`, the plain function; it returns `(out, lse)`. q is (B, Hq, 1, d), k (B, Hkv, n_k,
# d), v (B, Hkv, n_k, d_v), all of one dtype, n_k ≥ 1; out is (B, Hq, 1, d_v), lse (B, Hq, 1), in q's dtype. The query sees
# all keys, scale 1/√d, heads shared as above; scores may be in the thousands. splits ≥ 1 may exceed n_k.
#
# `prange` runs over the parts of every KV head or query head: B · Hkv · splits iterations or more, which do all reading
# of k and v, and none of which reads more than ⌈n_k / splits⌉ keys, or values, of a head. No two iterations race or
# carry a variable. The merge is yours, as a plain loop or a second `prange`. numba compiles it, and no line widens
# float32. The inputs stay as they were.
#
# By hand: with the numbers of 11.5 and two parts, the parts are (4, lse 0) and (8, lse log 3), which merge to (7, lse
# log 4).


# %% exercise="11.6"
def decode_split_kv(q, k, v, splits):
    """One query to a head against a long cache, in parts.  q (B, Hq, 1, d) -> out (B, Hq, 1, d_v), lse (B, Hq, 1)"""
    ### BEGIN SOLUTION
    batch, heads, _, d = q.shape
    n_k, d_v, group = k.shape[2], v.shape[3], heads // k.shape[1]
    size = (n_k + splits - 1) // splits
    scale = q.dtype.type(1 / math.sqrt(d))
    parts = np.zeros((batch, heads, splits, d_v), q.dtype)
    parts_lse = np.full((batch, heads, splits), q.dtype.type(-np.inf))
    for task in prange(batch * heads * splits):
        b, h, part = task // splits // heads, task // splits % heads, task % splits
        j0, j1 = part * size, min((part + 1) * size, n_k)
        if j0 < j1:
            s = np.dot(k[b, h // group, j0:j1], q[b, h, 0]) * scale
            largest = s.max()
            w = np.exp(s - largest)
            parts[b, h, part] = np.dot(w, v[b, h // group, j0:j1]) / w.sum()
            parts_lse[b, h, part] = largest + math.log(w.sum())
    out, lse = np.zeros((batch, heads, 1, d_v), q.dtype), np.zeros((batch, heads, 1), q.dtype)
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        largest = parts_lse[b, h].max()
        shares = np.exp(parts_lse[b, h] - largest)
        out[b, h, 0] = np.dot(shares, parts[b, h]) / shares.sum()
        lse[b, h, 0] = largest + math.log(shares.sum())
    return out, lse
    ### END SOLUTION


# %% try="11.6" experiment="11.my_decode"
print(decode_split_kv(*by_hand, 2))
my_decode = njit(parallel=True, fastmath=FAST)(decode_split_kv)
print("compiled, off attn_ref by", np.abs(my_decode(one_query, *cache, 4)[0] - outputs[0]).max())

# %% check="11.6"
check("11.6", decode_split_kv)

# %% [markdown] teacher="11.6"
# **Why this works.** A part owns its place in `parts` and `parts_lse`; an empty one leaves (0, -inf), which weighs nothing.
# The second loop owns the heads. **Common wrong turns.** `n_k // splits`, which forgets the last keys; the mean of the
# parts; a merge inside the first loop, which is a race. **Another way.** The query heads of a KV head side by side in one
# iteration, so that each key is read once for all of them: what attn_ref does, and what GQA is for.

# %% [markdown]
# ## Backward: who owns a key?
#
# The backward pass computes the weights again from lse, w = exp(s - lse), as in chapter 10. For each query and key, with
# δ = Σ dO · O of the query,
#
# $$dv_j \mathrel{+}= w\, dO_i \qquad ds = w\,(dO_i \cdot v_j - \delta_i) / \sqrt d \qquad dq_i \mathrel{+}= ds\, k_j \qquad dk_j \mathrel{+}= ds\, q_i$$
#
# Query i adds to its own dq, and to the dk and dv of every key that it saw. A toy with the same pattern: 4 queries, 4 keys,
# causal; each pair adds 1.


# %%
def by_query(dq, dk):
    for i in prange(len(dq)):
        for j in range(i + 1):
            dq[i] += 1
            dk[j] += 1


def by_key(dq, dk):
    for j in prange(len(dk)):
        for i in range(j, len(dq)):
            dq[i] += 1
            dk[j] += 1


for kernel in (by_key, by_query):
    dq, dk = np.zeros(4), np.zeros(4)
    seen = watch(kernel, dq, dk)
    print(f"{kernel.__name__}: raced for {len(seen.raced(dq))} of dq, {len(seen.raced(dk))} of dk")
plots.touches({"dq, by_query": seen.table(dq), "dk, by_query": seen.table(dk)})

# %% [markdown]
# In the second table columns are raced for: query by query, dq is safe and dk is not. Key by key it is the other way
# round. The ways out: two loops, one for each owner; copies that are merged; or an owner for *all* that is added to.
# Heads never mix. Suppose that 8 query heads read 2 KV heads, with an iteration for each query head. How many
# iterations add to one dk?

# %%
my_guess = None  # your guess: iterations that add to one dk

# %%
dk = np.zeros(2)


def by_query_head(dk):
    for h in prange(8):
        dk[h // 4] += 1


guess(my_guess, measured=(watch(by_query_head, dk).table(dk)[:, 0] == 2).sum(), unit="iterations")

# %% [markdown]
# Four, so query heads alone will not do. FlashAttention-2 on a GPU shares out the keys and adds to dq with **atomic**
# additions, which the hardware carries out one after the other: safe, but in an order, and so with last digits, that change
# from run to run. `attn_ref` gives each query head copies of dk and dv and adds them up afterwards.

# %% [markdown]
# ### Exercise 11.7 · Who owns a key? (6 points · 30 min · about 16 lines)
#
# Write `flash_backward(q, k, v, out, lse, grad_out, causal)`, the plain function; it returns `(dq, dk, dv)`, shaped like q,
# k and v and in their dtype. Shapes as in 11.5; `out` and `lse` are what the forward pass gave (with `causal` and no
# window), `grad_out` is shaped like out. A query that saw nothing has lse -inf, and adds nothing. Scores may be in the
# thousands.
#
# `prange` shares out the work, all reading of v included, in B iterations or more; no two of them race or carry a
# variable, for shared keys and values neither. With B = Hq = 1 the function never holds n_q · n_k numbers at once.
# numba compiles it, no line widens float32, and the inputs stay as they were. Plain loops over queries and keys will
# do.
#
# By hand: one query and one key have w = 1, so δ = dO · v and ds = 0: dq and dk are 0, and dv = dO.


# %% exercise="11.7"
def flash_backward(q, k, v, out, lse, grad_out, causal):
    """The gradients of flash_forward, the weights computed again.  -> dq, dk, dv, shaped like q, k, v"""
    ### BEGIN SOLUTION
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1], k.shape[2]
    group, scale = heads // kv_heads, q.dtype.type(1 / math.sqrt(d))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for task in prange(batch * kv_heads):
        b, g = task // kv_heads, task % kv_heads
        for h in range(g * group, (g + 1) * group):
            for i in range(n_q):
                delta = np.dot(grad_out[b, h, i], out[b, h, i])
                stop = min(n_k, i + 1 + n_k - n_q) if causal else n_k
                for j in range(stop):
                    w = math.exp(np.dot(q[b, h, i], k[b, g, j]) * scale - lse[b, h, i])
                    dv[b, g, j] += w * grad_out[b, h, i]
                    ds = w * (np.dot(grad_out[b, h, i], v[b, g, j]) - delta) * scale
                    dq[b, h, i] += ds * k[b, g, j]
                    dk[b, g, j] += ds * q[b, h, i]
    return dq, dk, dv
    ### END SOLUTION


# %% try="11.7"
pair = [np.full((1, 1, 1, 2), number) for number in (0.5, 2.0, 3.0)]
result = attn_ref.tiled_attention(*pair)
print(flash_backward(*pair, *result, np.ones((1, 1, 1, 2)), False))
print("races:", watch(flash_backward, *pair, *result, np.ones((1, 1, 1, 2)), False).races)

# %% check="11.7"
check("11.7", flash_backward)

# %% [markdown] teacher="11.7"
# **Why this works.** All additions to dk and dv of a KV head come from its query heads, and they are walked in one
# iteration, which therefore owns dq of those heads as well. **Common wrong turns.** An iteration for each query head or
# query; δ forgotten; exp(s) without lse. **Another way.** Two loops, dq by queries and dk, dv by keys, which computes the
# weights twice and gives work to many cores even for one head.

# %% [markdown]
# Does recomputing give the gradients of PyTorch's own backward pass? `attn_ref.flash_backward`, with 8 query heads over 2
# KV heads:

# %% experiment="11.gradients"
q, grad_out = rng.normal(size=(2, 1, 8, 64, 32))
k, v = rng.normal(size=(2, 1, 2, 64, 32))
out, lse = attn_ref.flash_forward(q, k, v, causal=True)
ours = attn_ref.flash_backward(q, k, v, out, lse, grad_out, causal=True)
learned = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
F.scaled_dot_product_attention(*learned, is_causal=True, enable_gqa=True).backward(torch.from_numpy(grad_out))
for name, one, other in zip(("dq", "dk", "dv"), ours, learned, strict=True):
    print(f"{name}: largest difference {np.abs(one - other.grad.numpy()).max():.0e}")

# %% [markdown]
# ## Check yourself

# %% quiz="11.a"

# %% quiz="11.b"

# %% quiz="11.c"

# %% quiz="11.d"

# %% [markdown]
# ### Question 11.w · It is right on my machine (4 points · 10 min)
#
# A colleague writes the backward pass for 32 query heads over 8 KV heads, with one iteration of `prange` for each query
# head, all adding to one dk and one dv. “I compared it with PyTorch two hundred times on my two cores, to six digits. It
# is right. And with 32 iterations it will scale to 32 cores.” Answer in five to eight sentences: what is raced for, what
# the two hundred comparisons show, what you would change, and what that costs.

# %% [markdown] written="11.w"
# ### BEGIN SOLUTION
# **4 points.** Four query heads read each KV head, so four iterations add to the same numbers of dk and dv; dq is safe,
# since each query head has its own. An addition reads, adds and writes, and when two cores do that at once, one of the
# two gradients is lost. Two hundred comparisons show nothing here: with two cores and 32 iterations one core takes heads
# 0 to 15 and the other 16 to 31, so that the four heads of a group are always on one core. On 32 cores all four run at
# once. Whether there is a race is decided by what the iterations touch, and a look at the index h // 4 is enough. I would
# give an iteration to each KV head, which walks its four query heads: no extra memory, but 8 iterations only, so 24 of 32
# cores would idle for one sequence. If that matters, each query head gets copies of dk and dv that are added up at the
# end, at the price of four times their memory, and then all 32 cores have work.
#
# **3 points.** Heads of one group write to the same dk and dv, so additions get lost. Let each iteration take one KV head
# with all its query heads; then everything has one owner. It may be slower, because there are fewer iterations.
#
# **2 points.** There is a race, because several threads add to one array without a lock. Parallel code must not write to
# shared arrays. Maybe use float64 or a lock.
#
# **1 point.** Parallel results can differ a little, so one should test more often and on more machines.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# PyTorch's SDPA on a CPU is C++ with vector instructions, tiles of queries shared among threads, and products by a BLAS. Its
# `enable_gqa` option arrived with version 2.5 (2024).
#
# FlashAttention-2 (2023) shares out tiles of queries in the forward pass and tiles of keys in the backward pass; its
# `deterministic` option gives the atomic additions up for copies and a sum. Serving engines such as vLLM split long
# caches as flash-decoding does.

# %% [markdown]
# ## Takeaways
#
# - A race is two iterations, one number, at least one write: in `column_sums` on a table of 4 by 3 all 3 totals are raced
#   for, whatever the result says.
# - numba makes float64 of `x[i] * 0.5` and of a sum that starts at `0.0`; `x.dtype.type(1)` for `1.0` brought the number of
#   widened lines from 1 to 0.
# - A tiled kernel does 512 FLOPs for each byte at 2,048 tokens, where the formula does 15.5: it is bound by arithmetic.
# - A causal window of 9 in tiles of 4 visits 18 of 48 tiles.
# - With 8 query heads over 2 KV heads, 4 query heads add to each dk: the KV head is its smallest safe owner.

# %%
progress(11)

# %% [markdown]
# ## Further reading
#
# - Lam, Pitrou and Seibert, *Numba: A LLVM-based Python JIT Compiler* (2015).
# - Drepper, *What Every Programmer Should Know About Memory* (2007), sections 3 and 6.
# - Savage and others, *Eraser: A Dynamic Data Race Detector for Multithreaded Programs* (1997).
# - Dao, *FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning* (2023), section 3.2; Dao and
#   others, *Flash-Decoding for long-context inference* (2023).
# - Cody and Waite, *Software Manual for the Elementary Functions* (1980): how `exp2` is built.
#
# Next: chapter 12, the same kernels as Triton programs, for a GPU.
