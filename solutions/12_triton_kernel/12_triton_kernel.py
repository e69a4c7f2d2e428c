# %% [markdown]
# # 12 · A Triton kernel
#
# You write attention for a GPU, forward and backward, and read what a compiler makes of it, whether you own a GPU or
# not.
#
# 240 min · CPU or GPU, on Linux · PyTorch and Triton (`make lab EXTRAS=torch,triton`) · needs 10, 11

# %% [markdown]
# Triton installs on Linux only. Elsewhere cells that launch a kernel say so in one line, and the exercises cost
# nothing. Without a GPU, kernels run in Triton's **interpreter**, slowly; with one they run for real, and the checks do
# both.
#
# When you have finished, you will be able to
#
# - say which program of a kernel touches which number;
# - write softmax, a matrix product and attention, forward and backward, as Triton kernels;
# - read the registers, memory and matrix instructions of a kernel compiled for a GPU that you do not have.

# %%
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

import attn_ref
from attn_ref import plots
from attn_ref import triton_lessons as lessons
from attn_ref.triton_here import DEVICE, MISSING, tl, triton
from attn_ref.triton_read import compiled, compiled_many
from attn_ref.triton_watch import watch
from autograder import check, guess, hint, progress, quiz

torch.manual_seed(12)
print(MISSING or f"Triton {triton.__version__}; kernels run on {DEVICE}")

# %% [markdown]
# ## Right, and in someone else's memory
#
# The kernel below doubles numbers, 8 to a **program**. Programs are the workers of a kernel; 20 numbers need three of
# them. The result is the beginning of a longer tensor, `shelf`; the 12 numbers behind it are somebody else's, all 7.
# How many of these does the kernel change?


# %%
@triton.jit
def double_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, 2 * tl.load(x_ptr + i))


my_guess = None  # your guess: how many of the 12 sevens are changed

# %% needs="triton"
x = torch.arange(32.0, device=DEVICE)
shelf = torch.full((32,), 7.0, device=DEVICE)
double_kernel[(3,)](x, shelf, BLOCK=8)
print("the result is right:", bool((shelf[:20] == 2 * x[:20]).all()))
guess(my_guess, measured=int((shelf[20:] != 7).sum()))

# %% [markdown]
# All 20 results are right, and four numbers of somebody else are gone: a kernel is given addresses, not arrays.

# %% [markdown]
# ## A program holds a block
#
# `double_kernel[(3,)]` is a launch over a **grid** of three programs, and the function is the text of each.
# `tl.program_id(0)` says which one it is: 0, 1 or 2. `tl.arange(0, BLOCK)` makes a **block**, here the whole numbers 0
# to 7, all held at once. Its length is a power of two, known when the kernel is compiled: `tl.constexpr` means that.
#
# `x_ptr` is a **pointer**, the address of x's first number, and `x_ptr + i` a block of eight addresses, at which
# `tl.load` reads and `tl.store` writes.
#
# `watch` launches a kernel in the interpreter and notes what each program touches.

# %% needs="triton"
x, out = torch.arange(24.0, device=DEVICE), torch.empty(24, device=DEVICE)
seen = watch(double_kernel, (3,), x, out, BLOCK=8)
plots.programs({"x, read by program": seen.readers(x), "out, written by program": seen.writers(out)})

# %% [markdown]
# Each number has one program that reads it and one that writes it. With 20 numbers the third program still holds 8, of
# which 4 are not there. A **mask**, a block of True and False, keeps those out: `tl.load(address, mask=there)` reads
# and `tl.store(address, block, mask=there)` writes only where it is True.
#
# What does a masked load give elsewhere? Anything, unless you say so: `other=0.0`. `watch` puts NaN there.

# %% [markdown]
# ### Exercise 12.1 · Two vectors, block by block (4 points · 10 min · about 4 lines)
#
# Write the kernel `add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK)`: out = x + y. Each is a vector of n numbers, n at least
# 1, of one type, floats or whole numbers, one behind the other. The grid is (⌈n / BLOCK⌉,), BLOCK is a power of two. A
# program handles BLOCK numbers, the last one what is left. Nothing beyond the vectors may be read or written, and x and
# y stay as they were.
#
# By hand: n = 5 and BLOCK = 4. Program 0 has the numbers 0 to 3, program 1 number 4.


# %% exercise="12.1"
@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """out = x + y for n numbers. One program: BLOCK of them. Grid (blocks,)."""
    ### BEGIN SOLUTION
    i = BLOCK * tl.program_id(0) + tl.arange(0, BLOCK)
    there = i < n
    total = tl.load(x_ptr + i, mask=there) + tl.load(y_ptr + i, mask=there)
    tl.store(out_ptr + i, total, mask=there)
    ### END SOLUTION


# %% try="12.1" needs="triton"
x, y, out = torch.arange(20.0, device=DEVICE), torch.ones(20, device=DEVICE), torch.zeros(20, device=DEVICE)
seen = watch(add_kernel, (3,), x, y, out, 20, BLOCK=8)
print(out, seen.outside or "nothing beyond the arrays")
plots.programs({"x, read by program": seen.readers(x), "out, written by program": seen.writers(out)})

# %% check="12.1"
check("12.1", add_kernel)

# %% [markdown] teacher="12.1"
# **Why this works.** The number of the block times its length, plus the places in it, are the numbers it owns; one mask
# serves all three accesses. **Common wrong turns.** No mask on the loads, which changes no result; a mask of the places
# in the block; a multiplication forgotten, so that blocks overlap. **Another way.** Move the pointers first and compare
# the place with n - start.

# %% [markdown]
# ### Break it: a read that changes nothing
#
# The kernel below masks its store and not its loads. Every result is right. What does the check say?


# %%
@triton.jit
def reads_too_far(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """out = x + y, with a planted bug."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) + tl.load(y_ptr + i), mask=i < n)


check("12.1", reads_too_far)

# %% [markdown]
# On a GPU such a read may find anything, or end in “an illegal memory access”, after which the notebook must be
# restarted.

# %% [markdown]
# ## A tile is a sum of two ranges
#
# A **stride** says how far the next row or column is: in bytes in chapter 11, in numbers here. Entry (i, j) of x lies
# at x_ptr + i · x_row + j · x_col. A column of row numbers plus a row of column numbers makes all addresses of a
# **tile** at once. Here for rows 0 to 3 and columns 2 to 5 of a (5, 6) tensor:

# %%
table = torch.zeros(5, 6)
rows, columns = np.arange(4)[:, None], np.arange(2, 6)[None, :]
far = {"strides 6 and 1": rows * table.stride(0) + columns * table.stride(1)}
far["its transpose: 1 and 6"] = rows * table.T.stride(0) + columns * table.T.stride(1)
plots.matrices(far, title="How far from x_ptr", unit="numbers")

# %% [markdown]
# A transposed tensor, on the right, is the same memory with its strides exchanged. A kernel that assumes strides reads
# the wrong numbers without an error.
#
# A grid may have two axes: `tl.program_id(0)` counts tiles down, `tl.program_id(1)` counts tiles across.

# %% [markdown]
# ### Exercise 12.2 · A tile turned over (5 points · 18 min · about 5 lines)
#
# Write `transpose_kernel(x_ptr, out_ptr, n, m, x_row, x_col, out_row, out_col, BLOCK_N, BLOCK_M)`. x is (n, m), out is
# (m, n), both of one type, floats or whole numbers, and out[j, i] = x[i, j]. x_row, x_col, out_row and out_col are the strides, in numbers; they may be anything.
# The grid is (⌈n / BLOCK_N⌉, ⌈m / BLOCK_M⌉): a program handles BLOCK_N rows and BLOCK_M columns of x, or what is left
# of them. Nothing that does not belong to the tensors may be touched, gaps between their rows included.
#
# By hand: x is (2, 3) with strides 3 and 1, out (3, 2) with strides 2 and 1. Entry (0, 1) lies 1 behind x_ptr and goes
# to 1 · 2 = 2 behind out_ptr.


# %% exercise="12.2"
@triton.jit
def transpose_kernel(
    x_ptr, out_ptr, n, m, x_row, x_col, out_row, out_col, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):
    """out (m, n) = x transposed. One program: a tile of x. Grid (tiles of rows, tiles of columns)."""
    ### BEGIN SOLUTION
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    col = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    there = (row < n) & (col < m)
    tile = tl.load(x_ptr + row * x_row + col * x_col, mask=there)
    tl.store(out_ptr + col * out_row + row * out_col, tile, mask=there)
    ### END SOLUTION


# %% try="12.2" needs="triton"
x, out = torch.arange(77.0, device=DEVICE).reshape(7, 11), torch.zeros(11, 7, device=DEVICE)
seen = watch(transpose_kernel, (2, 3), x, out, 7, 11, *x.stride(), *out.stride(), BLOCK_N=4, BLOCK_M=4)
print("right:", bool((out == x.T).all()), seen.outside or "and nothing beyond the tensors")
plots.programs({"x, read by program": seen.readers(x), "out, written by program": seen.writers(out)})

# %% check="12.2"
check("12.2", transpose_kernel)

# %% [markdown] teacher="12.2"
# **Why this works.** The tile is never turned: only the addresses at which it is stored are. **Common wrong turns.**
# Addresses like `row * m + col`, right for contiguous tensors alone; strides exchanged; one of two masks; program ids
# exchanged, which square grids hide. **Another way.** Load, `tl.trans`, and store with a column of columns.

# %% [markdown]
# ## What is not there must not count
#
# A row of five scores goes into a block of eight. Suppose all five are -2, and the load fills the spare places with
# `other=0.0`. Softmax over the block: what do the shares of the five sum to?

# %%
my_guess = None  # your guess: the five shares together; they should make 1

# %%
with_zeros = attn_ref.softmax(np.array([-2.0] * 5 + [0.0] * 3))
with_nothing = attn_ref.softmax(np.array([-2.0] * 5 + [-np.inf] * 3))
guess(my_guess, measured=with_zeros[:5].sum())

# %% [markdown]
# Place by place, beside what -inf gives:

# %%
places = [f"score {i}" for i in range(5)] + ["spare"] * 3
plots.bars(
    {"other = 0": with_zeros, "other = -inf": with_nothing}, places, "Eight places, five scores", "share", limit=0.4
)

# %% [markdown]
# A score of 0 is a score like any other, and here the best one: the spare places took over 80 %. A place that holds
# -inf takes nothing. A kernel writes it as `-float("inf")`.
#
# `tl.max(block, 0)` and `tl.sum(block, 0)` reduce a block along axis 0; `tl.exp` takes float32: convert with
# `.to(tl.float32)`. `tl.where(condition, a, b)` chooses.

# %% [markdown]
# ### Exercise 12.3 · A row to a program (6 points · 20 min · about 8 lines)
#
# Write `softmax_kernel(x_ptr, out_ptr, m, x_row, out_row, BLOCK)`: the softmax of each row of x (n, m), as in 2.1.
# Program r handles row r, the grid is (n,), and BLOCK is a power of two, m or more. The numbers of a row lie side by
# side; x_row and out_row are the strides from row to row. x is float32 or float16, out float32, and all arithmetic is
# done in float32. Scores go up to ±65,504. -inf gets a share of 0, and a row of nothing but -inf shares of 0.
# `tl.softmax` is not allowed.
#
# By hand: the row (0, log 3) with BLOCK = 4 gives (¼, ¾); two places are spare.


# %% exercise="12.3"
@triton.jit
def softmax_kernel(x_ptr, out_ptr, m, x_row, out_row, BLOCK: tl.constexpr):
    """Shares along each row of x (n, m), in float32. One program: a row, m <= BLOCK. Grid (n,)."""
    ### BEGIN SOLUTION
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_row + col, mask=col < m, other=-float("inf")).to(tl.float32)
    largest = tl.max(x, 0)
    largest = tl.where(largest == -float("inf"), 0.0, largest)  # -inf - -inf would be NaN
    e = tl.exp(x - largest)
    total = tl.sum(e, 0)
    tl.store(out_ptr + row * out_row + col, e / tl.where(total == 0, 1.0, total), mask=col < m)
    ### END SOLUTION


# %% try="12.3" needs="triton"
x = torch.tensor([[0.0, np.log(3.0), -torch.inf], [1000.0, 999.0, 998.0], [-torch.inf] * 3], device=DEVICE)
out = torch.zeros(3, 3, device=DEVICE)
seen = watch(softmax_kernel, (3,), x, out, 3, x.stride(0), out.stride(0), BLOCK=4)
print(out)
plots.programs({"x, read": seen.readers(x), "out, written": seen.writers(out)})

# %% check="12.3"
check("12.3", softmax_kernel)

# %% [markdown] teacher="12.3"
# **Why this works.** -inf passes through maximum, exponential and sum without a trace. **Common wrong turns.**
# `other=0.0`; -1000 for -inf; the subtraction in float16 before the conversion; no mask on the store, which writes zeros into the next
# row. **Another way.** exp(x - max - log(sum)).

# %% [markdown]
# ## A GPU knows powers of two
#
# A GPU's instruction for exponentials computes 2ˣ. Since eˣ = 2^(x · log₂e), `tl.exp` becomes a multiplication by log₂e
# ≈ 1.4427 and that instruction. You can read it: `compiled` runs Triton's compiler for a GPU that need not be here, and
# `ptx` is its assembly, in which 1.4427 is spelled 0f3FB8AA3B. `target=90` means the H100.

# %% experiment="12.exp" needs="triton"
row_types = {"x_ptr": "*fp32", "out_ptr": "*fp32", "m": "i32", "x_row": "i32", "out_row": "i32"}
found = compiled(lessons.softmax_kernel, row_types, target=90, BLOCK=128)
for line in found["ptx"].splitlines():
    if "ex2" in line or "3FB8AA3B" in line:
        print(line.strip())

# %% [markdown]
# In attention the scores are multiplied by a scale anyway. Put log₂e into that scale, use `tl.exp2`, and the extra
# multiplication is gone. Scores and maximum are then in base 2, and a logarithm in base 2 must be multiplied by log 2 ≈
# 0.6931 to become natural: log₂ 8 = 3 and log 8 = 2.08.
#
# Where a row is longer than a block, chapter 10's state is carried along in a loop over `range(0, m, BLOCK)`, with
# `tl.maximum(a, b)` and `tl.log2(x)`.

# %% [markdown]
# ### Exercise 12.4 · A row longer than a block (6 points · 25 min · about 11 lines)
#
# Write `logsumexp_kernel(x_ptr, out_ptr, m, x_row, scale, BLOCK)`: out[r] = log Σ exp(scale · x[r, j]), the natural
# logarithm, for x (n, m) in float32. Program r handles row r in blocks of BLOCK, of which there may be many or less
# than one; the grid is (n,), out is (n,), rows and x_row as in 12.3. scale is any number but 0, negative ones included.
# Scores may be in the thousands. With a positive scale x may hold -inf, and a row of nothing else gives -inf. Read
# nothing beyond a row.
#
# By hand: the row (0, log 3), scale 1, BLOCK = 1. After the first block the maximum is 0 and the sum 1. The second
# raises the maximum to log 3; the old sum becomes ⅓, plus 1 is 4/3, and log 3 + log 4/3 = log 4.


# %% exercise="12.4"
@triton.jit
def logsumexp_kernel(x_ptr, out_ptr, m, x_row, scale, BLOCK: tl.constexpr):
    """log of the sum of exp(scale · x) along each row of x (n, m), in blocks. One program: a row. Grid (n,)."""
    ### BEGIN SOLUTION
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    unit = scale * 1.4426950408889634  # log2(e)
    row_max, row_sum = -float("inf"), 0.0
    for start in range(0, m, BLOCK):
        there = start + col < m
        x = tl.load(x_ptr + row * x_row + start + col, mask=there, other=0.0)
        s = tl.where(there, x * unit, -float("inf"))
        new_max = tl.maximum(row_max, tl.max(s, 0))
        shift = tl.where(new_max == -float("inf"), 0.0, new_max)
        row_sum = row_sum * tl.exp2(row_max - shift) + tl.sum(tl.exp2(s - shift), 0)
        row_max = new_max
    tl.store(out_ptr + row, (row_max + tl.log2(row_sum)) * 0.6931471805599453)  # log(2)
    ### END SOLUTION


# %% try="12.4" needs="triton"
x, out = torch.tensor([[0.0, np.log(3.0), -1000.0]], device=DEVICE), torch.zeros(1, device=DEVICE)
seen = watch(logsumexp_kernel, (1,), x, out, 3, 3, 1.0, BLOCK=2)
print(out, "should be", np.log(4.0), seen.outside or "and nothing beyond the row")

# %% check="12.4"
check("12.4", logsumexp_kernel)

# %% [markdown] teacher="12.4"
# **Why this works.** Scale and log₂e are one factor; the state is rescaled by 2^(old - new). What is not there becomes
# -inf after scaling, since -inf times a negative scale is +inf. **Common wrong turns.** exp2 without the factor; the
# maximum left in base 2; a maximum that starts at 0; NaN until the first finite score. **Another way.** A block of
# BLOCK running maxima, merged once at the end.

# %% [markdown]
# ## A product reads its inputs many times
#
# A program owns a tile of out = a @ b and needs a strip of a and a strip of b. Here is one program of `attn_ref`'s
# kernel: a and b are (48, 48), tiles 16 by 16, the grid 3 by 3, and only program (1, 2) is shown.


# %%
def product(n, tile):
    """An (n, n) product by attn_ref's lesson kernel, watched.  -> a, b, out, Seen"""
    a, b, out = torch.randn(3, n, n, device=DEVICE)
    sizes = (n, n, n, *a.stride(), *b.stride(), *out.stride())
    grid = (n // tile, n // tile)
    seen = watch(lessons.matmul_kernel, grid, a, b, out, *sizes, BLOCK_N=tile, BLOCK_M=tile, BLOCK_K=16)
    return a, b, out, seen


# %% needs="triton"
a, b, out, seen = product(48, tile=16)
one = {"a, read": seen.touched(a, (1, 2)), "b, read": seen.touched(b, (1, 2))}
one["out, written"] = seen.touched(out, (1, 2), "writes")
number = seen.number((1, 2))
plots.programs({name: np.where(x, number, -1) for name, x in one.items()}, f"Program (1, 2), number {number}")

# %% [markdown]
# A horizontal strip of a, a vertical one of b, one tile of out. How many of the nine programs read the same number of
# a?

# %%
my_guess = None  # your guess: how many programs read a number of a

# %% needs="triton"
a, b, out, seen = product(48, tile=16)
guess(my_guess, measured=seen.times_read(a).max(), unit="programs")

# %% [markdown]
# As many as there are tiles side by side in out. Larger tiles mean fewer: here is what all programs read for four sizes
# of tile, beside 2 · n³ / tile numbers of 4 bytes.

# %% needs="triton"
tiles, read = [16, 32, 64, 128], []
for tile in tiles:
    a, b, out, seen = product(128, tile)
    read.append((seen.times_read(a).sum() + seen.times_read(b).sum()) * 4 / 1024)
both = {"counted": read, "2 · 128³ / tile": [2 * 128**3 / tile * 4 / 1024 for tile in tiles]}
plots.lines(tiles, both, "Read by a product of (128, 128)", "tile", "KiB", logx=True, logy=True)

# %% [markdown]
# Each doubling of the tile halves the reading. A tile lives in the **shared memory** of one processor, which is small.
#
# `tl.dot(a, b, acc)` multiplies two tiles and adds a third. It runs on the GPU's matrix units, which take float16 and
# add up in float32. Of float32 inputs they keep ten bits, unless you say `input_precision="ieee"`; do that in this
# chapter, though only a GPU shows the difference. `tl.zeros([16, 32], tl.float32)` is a tile to begin with.

# %% [markdown]
# ### Where float16 stops counting
#
# Why add up in float32? Add 4,096 ones, one after the other, in float16. What is the sum?

# %%
my_guess = None  # your guess: the sum of 4,096 ones in float16

# %%
ones = np.ones(4096, np.float16)
running = np.add.accumulate(ones, dtype=np.float16)
guess(my_guess, measured=running[-1])

# %% [markdown]
# The sum on its way, every 128th step:

# %%
at = np.arange(0, 4096, 128)
plots.lines(at, {"float32": at + 1.0, "float16": running[at]}, "4,096 ones, added up", "ones added", "sum so far")

# %% [markdown]
# At 2,048 the neighbours of a float16 lie 2 apart: adding 1 lands between them and is rounded away. A dot product of
# long vectors meets the same wall, so an **accumulator** is float32 whatever the inputs are.

# %% [markdown]
# ### Exercise 12.5 · A product, tile by tile (6 points · 25 min · about 12 lines)
#
# Write `matmul_kernel(a_ptr, b_ptr, out_ptr, n, m, k, a_row, a_col, b_row, b_col, out_row, out_col, BLOCK_N, BLOCK_M,
# BLOCK_K)`: out (n, m) = a (n, k) @ b (k, m). All have strides of their own. The grid is (⌈n / BLOCK_N⌉, ⌈m /
# BLOCK_M⌉), and a program owns a tile of out and walks along k in steps of BLOCK_K. All blocks are powers of two, 16 or
# more, and all sides may be ragged. a and b are both float16 or both float32, out is float32, sums are float32. Touch
# nothing beyond the tensors.
#
# By hand: n = m = 1, k = 3, blocks of 16, a = (1, 2, 3) and b = (4, 5, 6) standing upright. 13 of the 16 places along k
# must add 0, and out = 4 + 10 + 18 = 32.


# %% exercise="12.5"
@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, out_ptr, n, m, k, a_row, a_col, b_row, b_col, out_row, out_col,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out (n, m) = a (n, k) @ b (k, m), summed in float32. One program: a tile of out. Grid (tiles down, tiles across)."""
    ### BEGIN SOLUTION
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    col = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    step = tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, k, BLOCK_K):
        down, across = start + step[:, None], start + step[None, :]
        a = tl.load(a_ptr + row * a_row + across * a_col, mask=(row < n) & (across < k), other=0.0)
        b = tl.load(b_ptr + down * b_row + col * b_col, mask=(down < k) & (col < m), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(out_ptr + row * out_row + col * out_col, acc, mask=(row < n) & (col < m))
    ### END SOLUTION


# %% try="12.5" needs="triton"
a, b = torch.randn(20, 37, device=DEVICE), torch.randn(37, 29, device=DEVICE)
out = torch.zeros(20, 29, device=DEVICE)
sizes = (20, 29, 37, *a.stride(), *b.stride(), *out.stride())
seen = watch(matmul_kernel, (2, 2), a, b, out, *sizes, BLOCK_N=16, BLOCK_M=16, BLOCK_K=16)
print("largest error:", (out - a @ b).abs().max().item(), seen.outside or "nothing beyond the tensors")
mine = {"a, read by (1, 1)": seen.touched(a, (1, 1)), "b, read by (1, 1)": seen.touched(b, (1, 1))}
mine["out, written"] = seen.touched(out, (1, 1), "writes")
plots.programs({name: np.where(x, 3, -1) for name, x in mine.items()})

# %% check="12.5"
check("12.5", matmul_kernel)

# %% [markdown] teacher="12.5"
# **Why this works.** a's tile has rows down and steps across, b's steps down and columns across; both loads give 0
# beyond k, so spare steps add 0 · 0. **Common wrong turns.** The mask along k on one load only: 0 · NaN is NaN; `acc =
# tl.dot(a, b)`; float16 accumulators; b with a's strides. **Another way.** Pointers that advance by BLOCK_K strides,
# and
# `% n` in place of a mask, as in Triton's own tutorial.

# %% [markdown]
# ## Attention: 12.4 for a block of queries, with 12.5 twice
#
# A program owns BLOCK_Q queries of one head and loads their tile of q once. Keys and values pass by in blocks: one
# `tl.dot` makes a tile of scores, the step of 12.4 updates a maximum and a sum *per query*, and a second `tl.dot` adds
# weights times values to acc, which is rescaled like the sum. `tile.T` turns a tile, `tl.full([16], x, tl.float32)` is a
# block of one number.
#
# CAUSAL is known when the kernel is compiled: `if CAUSAL:` costs nothing. Here is who reads which keys: 64 queries, 80
# keys, blocks of 16.


# %% needs="triton"
def attend(q, k, v, causal, tiles=(16, 16)):
    """attn_ref's lesson kernel on (heads, n, D), watched.  -> out, lse, Seen"""
    (heads, n_q, d), n_k = q.shape, k.shape[1]
    out, lse = torch.empty_like(q), torch.empty(heads, n_q, device=DEVICE)
    grid = (triton.cdiv(n_q, tiles[0]), heads)
    seen = watch(lessons.flash_kernel, grid, q, k, v, out, lse, n_q, n_k, d**-0.5, causal, d, *tiles)
    return out, lse, seen


q, k, v = (torch.randn(2, n, 16, device=DEVICE) for n in (64, 80, 80))
out, lse, seen = attend(q, k, v, causal=True)
keys_read = np.stack([seen.touched(k, (i, 0))[0].any(axis=-1) for i in range(4)])
plots.mask(
    keys_read,
    [f"{16 * i} to {16 * i + 15}" for i in range(4)],
    title="Keys read by the four programs of head 0, causal",
)

# %% [markdown]
# A staircase: 32, 48, 64 and 80 keys. Query 0 stands at position 16, since the last query stands at the last key, so
# program 0 needs keys 0 to 31. A kernel that walks on regardless reads 320 in place of 224, for the same result.

# %% [markdown]
# ### Exercise 12.6 · Flash attention (8 points · 45 min · about 25 lines)
#
# Write `flash_kernel(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, n_q, n_k, scale, CAUSAL, D, BLOCK_Q, BLOCK_K)`.
#
# - q and out are (heads, n_q, D), k and v (heads, n_k, D), lse (heads, n_q), all float32 and contiguous: row i of head
#   h of q begins (h · n_q + i) · D behind q_ptr. D, BLOCK_Q and BLOCK_K are powers of two, 16 or more; n_q and n_k are
#   1 or more.
# - The grid is (⌈n_q / BLOCK_Q⌉, heads). The scores are scale times the dot products, and may be in the thousands.
# - With CAUSAL query i sees keys up to i + n_k - n_q, which may be none; without, all. A query that sees nothing gets
#   out = 0 and lse = -inf. lse is the natural logarithm.
# - Tile t of the keys holds BLOCK_K of them, from number t · BLOCK_K on. With CAUSAL a program reads no tile that all
#   of its queries are forbidden to see. Nothing beyond the tensors is touched.
#
# No other kernel of `attn_ref`, please.
#
# By hand: one query with scores 0 and log 3, values 4 and 8: weights ¼ and ¾, out = 7, lse = log 4.


# %% exercise="12.6"
@triton.jit
def flash_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Attention over (heads, n, D). One program: a block of queries of one head. Grid (blocks of queries, heads)."""
    ### BEGIN SOLUTION
    h, q0, c = tl.program_id(1), tl.program_id(0) * BLOCK_Q, tl.arange(0, D)[None, :]
    row = q0 + tl.arange(0, BLOCK_Q)
    q = tl.load(q_ptr + (h * n_q + row[:, None]) * D + c, mask=row[:, None] < n_q, other=0.0)
    row_max = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    end = n_k
    if CAUSAL:
        end = tl.minimum(n_k, q0 + BLOCK_Q + n_k - n_q)
    for k0 in range(0, end, BLOCK_K):
        key = k0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        v = tl.load(v_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * (scale * 1.4426950408889634)
        allowed = key[None, :] < n_k
        if CAUSAL:
            allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
        s = tl.where(allowed, s, -float("inf"))
        new_max = tl.maximum(row_max, tl.max(s, 1))
        shift = tl.where(new_max == -float("inf"), 0.0, new_max)
        p = tl.exp2(s - shift[:, None])
        fade = tl.exp2(row_max - shift)
        row_sum = row_sum * fade + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        row_max = new_max
    out = acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]
    tl.store(out_ptr + (h * n_q + row[:, None]) * D + c, out, mask=row[:, None] < n_q)
    tl.store(lse_ptr + h * n_q + row, (row_max + tl.log2(row_sum)) * 0.6931471805599453, mask=row < n_q)
    ### END SOLUTION


# %% try="12.6" needs="triton"
my_q, my_k, my_v = (torch.randn(2, n, 16, device=DEVICE) for n in (21, 37, 37))
my_out, my_lse = torch.zeros(2, 21, 16, device=DEVICE), torch.zeros(2, 21, device=DEVICE)
seen = watch(flash_kernel, (2, 2), my_q, my_k, my_v, my_out, my_lse, 21, 37, 0.25, True, 16, 16, 16)
print("off attn_ref by", (my_out - attend(my_q, my_k, my_v, causal=True)[0]).abs().max().item(), seen.outside)
maps = {"q": seen.readers(my_q), "k": seen.readers(my_k), "out": seen.writers(my_out)}
plots.programs({f"{name}, head 0, row by row": x[0, :, 0] for name, x in maps.items()})

# %% check="12.6"
check("12.6", flash_kernel)

# %% [markdown] teacher="12.6"
# **Why this works.** The loop's end is a number that a program computes for itself, so causal skipping costs one
# minimum. Spare rows of a ragged block repeat nothing and are not stored. **Common wrong turns.** acc not rescaled;
# padded keys with the score 0; the mask aligned at the top left; head h of k begun after h · n_q rows; lse in base 2;
# NaN for queries that see nothing. **Another way.** A finite start of -10³⁰ and a second `tl.where` on the weights.

# %% [markdown]
# ### Agree
#
# The lesson kernel against PyTorch's SDPA, and against the formula in float64, for three heads of ragged sizes:

# %% needs="triton"
q, k, v = (torch.randn(3, n, 32, device=DEVICE) for n in (53, 37, 37))
out, lse, _ = attend(q, k, v, causal=False, tiles=(32, 16))
in_float64, its_lse = attn_ref.attention(*(x.double().cpu().numpy() for x in (q, k, v)), return_lse=True)
print(f"against SDPA    {(out - F.scaled_dot_product_attention(q, k, v)).abs().max().item():.0e}")
print(
    f"against float64 {np.abs(out.cpu().numpy() - in_float64).max():.0e}, lse {np.abs(lse.cpu().numpy() - its_lse).max():.0e}"
)

# %% [markdown]
# ## The way back: a number needs an owner
#
# Programs run at the same time and in no order. The kernel below lets each program add its row to common totals. There
# are three totals and four rows of ones. For how many of the three totals does it take luck on a GPU?


# %%
@triton.jit
def totals_kernel(x_ptr, total_ptr, BLOCK: tl.constexpr):
    col = tl.arange(0, BLOCK)
    there = col < 3
    row = tl.load(x_ptr + tl.program_id(0) * 3 + col, mask=there)
    tl.store(total_ptr + col, tl.load(total_ptr + col, mask=there) + row, mask=there)


my_guess = None  # your guess: how many of the three totals are raced for

# %% needs="triton"
x, total = torch.ones(4, 3, device=DEVICE), torch.zeros(3, device=DEVICE)
seen = watch(totals_kernel, (4,), x, total, BLOCK=4)
print("in the interpreter:", total.tolist(), " raced for:", seen.races)
guess(my_guess, measured=seen.races["total_ptr"])

# %% [markdown]
# The result is right, and all three are raced for: two programs may load 1 before either stores 2.
# `tl.atomic_add(address, block, mask)` adds without a gap between load and store, at the price of waiting and of
# another order in each run. Better, each number has one **owner**.
#
# In the backward pass query i adds to dq of row i, and to dk and dv of every key that it saw. No block can own all
# three, so there are two kernels: one owns queries and walks over keys, one owns keys and walks over queries. Both make
# the weights again from lse, as exp(s - lse).

# %%
n, d = 48, 16
q, k, v, grad = torch.randn(4, 1, n, d, device=DEVICE)
future = torch.ones(n, n, device=DEVICE).triu(1).bool()
scores = (q @ k.mT * d**-0.5).masked_fill(future, -torch.inf)
lse = scores.logsumexp(-1)
delta = (scores.softmax(-1) @ v * grad).sum(-1)  # chapter 10's δ, one number for each query
back = (q, k, v, grad, lse, delta)
sizes = (n, n, d**-0.5, True, d, 16, 16)

# %% needs="triton"
dq, dk, dv = torch.zeros(3, 1, n, d, device=DEVICE)
seen_dq = watch(lessons.dq_kernel, (3, 1), *back, dq, *sizes)
seen_dk = watch(lessons.dk_dv_kernel, (3, 1), *back, dk, dv, *sizes)
maps = {"queries, by dq's kernel": seen_dq.readers(q), "keys, by dq's kernel": seen_dq.readers(k)}
maps |= {"queries, by dk's kernel": seen_dk.readers(q), "keys, by dk's kernel": seen_dk.readers(k)}
plots.programs({name: x[0, :, 0] for name, x in maps.items()}, "Who reads which row on the way back, causal")

# %% [markdown]
# Grey with a star means several programs. In dq's kernel each query has one reader, its owner, and the keys pass by; in
# the other it is the other way round.
#
# The price is arithmetic. Chapter 10's backward pass made five products for each tile. Here scores and dP are made
# twice: three products for dq and four for dk and dv, seven in all.

# %% [markdown]
# ### Exercise 12.7 · Back to the queries (5 points · 25 min · about 18 lines)
#
# Write `dq_kernel(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, n_q, n_k, scale, CAUSAL, D, BLOCK_Q,
# BLOCK_K)`. Tensors, scale, mask, sizes and grid are as in 12.6; grad and dq are shaped like q, delta like lse; dq may
# hold anything at first. lse and delta are given, from a forward pass over these keys. A query that saw nothing has lse
# = -inf and gets dq = 0. Scores may be in the thousands. Touch nothing beyond the tensors; forbidden tiles may be read.
# With w = exp(s - lse),
#
# $$dS = w\,(dO \cdot v - \delta) \qquad dq = \text{scale} \cdot dS\,k$$
#
# By hand, from 10.6: q = (2, 0, 0, …), keys (0, 3, 0, …) and (0, 0, 5, …), scale ½, values 4 and 8, grad 1: both
# weights are ½, δ = 6, dS is -1 and 1, and dq = (0, -1.5, 2.5, 0, …).


# %% exercise="12.7"
@triton.jit
def dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of the queries. One program: a block of queries of one head. Grid (blocks of queries, heads)."""
    ### BEGIN SOLUTION
    h, q0, c = tl.program_id(1), tl.program_id(0) * BLOCK_Q, tl.arange(0, D)[None, :]
    row = q0 + tl.arange(0, BLOCK_Q)
    at = (h * n_q + row[:, None]) * D + c
    q = tl.load(q_ptr + at, mask=row[:, None] < n_q, other=0.0)
    grad = tl.load(grad_ptr + at, mask=row[:, None] < n_q, other=0.0)
    lse = tl.load(lse_ptr + h * n_q + row, mask=row < n_q, other=0.0)
    delta = tl.load(delta_ptr + h * n_q + row, mask=row < n_q, other=0.0)
    dq = tl.zeros([BLOCK_Q, D], tl.float32)
    end = n_k
    if CAUSAL:
        end = tl.minimum(n_k, q0 + BLOCK_Q + n_k - n_q)
    for k0 in range(0, end, BLOCK_K):
        key = k0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        v = tl.load(v_ptr + (h * n_k + key[:, None]) * D + c, mask=key[:, None] < n_k, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        allowed = key[None, :] < n_k
        if CAUSAL:
            allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
        p = tl.where(allowed, tl.exp2((s - lse[:, None]) * 1.4426950408889634), 0.0)
        ds = p * (tl.dot(grad, v.T, input_precision="ieee") - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    tl.store(dq_ptr + at, dq * scale, mask=row[:, None] < n_q)
    ### END SOLUTION


# %% try="12.7" needs="triton"
my_dq = torch.zeros_like(q)
seen = watch(dq_kernel, (3, 1), *back, my_dq, *sizes)
print("off attn_ref by", (my_dq - dq).abs().max().item(), seen.outside or "nothing beyond the tensors")
maps = {"k, read": seen.readers(k), "dq, written": seen.writers(my_dq)}
plots.programs({f"{name}, row by row": x[0, :, 0] for name, x in maps.items()})

# %% check="12.7"
check("12.7", dq_kernel)

# %% [markdown] teacher="12.7"
# **Why this works.** lse belongs to the whole row, so a tile's weights are final at once: no maximum, no rescaling.
# `tl.where` also silences the inf of a query with lse = -inf. **Common wrong turns.** scale left out of dq; softmax
# over the tile; s in base 2 and lse natural; a mask by multiplication, inf · 0. **Another way.** Scale q once when it
# is loaded; then its factor is in the scores already.

# %% [markdown]
# ### Exercise 12.8 · Back to keys and values (7 points · 30 min · about 20 lines)
#
# Write `dk_dv_kernel(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n_q, n_k, scale, CAUSAL, D,
# BLOCK_Q, BLOCK_K)`. All is as in 12.7, but the grid: (⌈n_k / BLOCK_K⌉, heads). dk and dv are shaped like k and hold
# zeros when the kernel starts. No number of theirs may be written by one program and touched by another, unless both
# add to it with `tl.atomic_add`. With dS as above,
#
# $$dv = \sum_i w_i\, dO_i \qquad dk = \text{scale} \sum_i dS_i\, q_i$$
#
# By hand, with the numbers of 12.7: the rows of dk are (-1, 0, …) and (1, 0, …), those of dv ½ and ½.


# %% exercise="12.8"
@triton.jit
def dk_dv_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of keys and values. One program: a block of keys of one head. Grid (blocks of keys, heads)."""
    ### BEGIN SOLUTION
    h, k0, c = tl.program_id(1), tl.program_id(0) * BLOCK_K, tl.arange(0, D)[None, :]
    key = k0 + tl.arange(0, BLOCK_K)
    at = (h * n_k + key[:, None]) * D + c
    k = tl.load(k_ptr + at, mask=key[:, None] < n_k, other=0.0)
    v = tl.load(v_ptr + at, mask=key[:, None] < n_k, other=0.0)
    dk = tl.zeros([BLOCK_K, D], tl.float32)
    dv = tl.zeros([BLOCK_K, D], tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(k0 - (n_k - n_q), 0) // BLOCK_Q * BLOCK_Q
    for q0 in range(begin, n_q, BLOCK_Q):
        row = q0 + tl.arange(0, BLOCK_Q)
        there = row[:, None] < n_q
        q = tl.load(q_ptr + (h * n_q + row[:, None]) * D + c, mask=there, other=0.0)
        grad = tl.load(grad_ptr + (h * n_q + row[:, None]) * D + c, mask=there, other=0.0)
        lse = tl.load(lse_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        delta = tl.load(delta_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        allowed = there & (key[None, :] < n_k)
        if CAUSAL:
            allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
        p = tl.where(allowed, tl.exp2((s - lse[:, None]) * 1.4426950408889634), 0.0)
        ds = p * (tl.dot(grad, v.T, input_precision="ieee") - delta[:, None])
        dv = tl.dot(p.to(grad.dtype).T, grad, dv, input_precision="ieee")
        dk = tl.dot(ds.to(q.dtype).T, q, dk, input_precision="ieee")
    tl.store(dk_ptr + at, dk * scale, mask=key[:, None] < n_k)
    tl.store(dv_ptr + at, dv, mask=key[:, None] < n_k)
    ### END SOLUTION


# %% try="12.8" needs="triton"
my_dk, my_dv = torch.zeros_like(k), torch.zeros_like(v)
seen = watch(dk_dv_kernel, (3, 1), *back, my_dk, my_dv, *sizes)
print("off attn_ref by", (my_dk - dk).abs().max().item(), (my_dv - dv).abs().max().item(), "races:", seen.races)
maps = {"q, read": seen.readers(q), "dk, written": seen.writers(my_dk)}
plots.programs({f"{name}, row by row": x[0, :, 0] for name, x in maps.items()})

# %% check="12.8"
check("12.8", dk_dv_kernel)

# %% [markdown] teacher="12.8"
# **Why this works.** A row of dk is a sum over queries, and the program that owns the key makes all of it. **Common
# wrong turns.** Query blocks add to dk with load and store: right in the interpreter, a race on a GPU; P not turned
# over, which equal blocks hide; dv scaled; a start rounded up. **Another way.** Scores made as keys × queries from the
# start, as
# `attn_ref.triton_backward` has them: both sums then need no transpose.

# %% [markdown]
# ## Read what the compiler makes of it
#
# A thread has up to 255 **registers**, which hold its part of acc, q and the scores. What does not fit is **spilled**
# to a stack in slow memory. Shared memory is 163 KiB for a program on an A100 (`target` 80) and 227 KiB on an H100 (90)
# and a B200 (100). Products should become matrix instructions: `mma.sync` on the A100, `wgmma` on the H100, `tcgen05`
# on the B200.
#
# A processor of the H100 has 65,536 registers and 228 KiB of shared memory for all its programs together. A **warp** is
# 32 threads; tiles of 64 queries get 4 warps below, tiles of 128 get 8.

# %% experiment="12.compiled" needs="triton"
kernel = lessons.flash_kernel  # or yours; inputs are float16 here, so its weights need p.to(v.dtype)
types = {name: "*fp16" for name in ("q_ptr", "k_ptr", "v_ptr", "out_ptr")}
types |= {"lse_ptr": "*fp32", "n_q": "i32", "n_k": "i32", "scale": "fp32"}
plans = [(80, 128, 64), (90, 64, 64), (90, 128, 64), (90, 128, 128), (100, 128, 64)]
jobs = [
    (kernel, types, target, bq // 16, 3, {"CAUSAL": True, "D": 128, "BLOCK_Q": bq, "BLOCK_K": bk})
    for target, bq, bk in plans
]
print("GPU      tile  registers  stack  shared KiB  programs at a time  matrix instructions")
for (target, bq, bk), found in zip(plans, compiled_many(jobs), strict=True):
    kinds = ", ".join(f"{found[kind]} {kind}" for kind in ("mma.sync", "wgmma", "tcgen05") if found[kind])
    registers, shared = found["registers"], found["shared_bytes"]
    at_a_time = min(65536 // (registers * 2 * bq), 228 * 1024 // shared) if target == 90 else ""
    print(
        f"sm_{target:<4}{bq:4} x{bk:4}{registers:9}{found['stack_bytes']:8}{shared / 1024:10.0f}{at_a_time:>16}       {kinds}"
    )

# %% [markdown]
# Each GPU gets its own kind of instruction from the same text. The largest tile nearly fills the H100's shared memory,
# and the A100 spills a few bytes. (The numbers are those of Triton 3.9.)
#
# With the smallest tile two programs share a processor of the H100: while one waits for memory the other computes.
# Large tiles read less, small tiles wait better.
#
# Take dk_dv with tiles of 128 by 128 and only 4 warps. How many bytes does each thread spill?

# %%
my_guess = None  # your guess: bytes of stack for each thread

# %% experiment="12.spills" needs="triton"
back_types = {f"{name}_ptr": "*fp16" for name in ("q", "k", "v", "grad", "dk", "dv")}
back_types |= {"lse_ptr": "*fp32", "delta_ptr": "*fp32", "n_q": "i32", "n_k": "i32", "scale": "fp32"}
shapes = [(64, 64), (64, 128), (128, 128)]
jobs = [
    (lessons.dk_dv_kernel, back_types, 90, 4, 2, {"CAUSAL": True, "D": 128, "BLOCK_Q": bq, "BLOCK_K": bk})
    for bq, bk in shapes
]
guess(my_guess, measured=compiled_many(jobs)[-1]["stack_bytes"], unit="bytes")

# %% [markdown]
# With smaller tiles:

# %% experiment="12.spills" needs="triton"
spilled = [found["stack_bytes"] for found in compiled_many(jobs)]
names = [f"{bq} x {bk}" for bq, bk in shapes]
plots.bars(spilled, names, "dk_dv on an H100, 4 warps", "bytes spilled", limit=1.2 * max(spilled))

# %% [markdown]
# Hundreds of registers' worth for each of 128 threads, written and read again at every step: right and slow, and no test
# of results could tell.

# %% [markdown]
# ## Autotuning: let the clock decide
#
# `triton.autotune` times a list of configurations at the first launch for each new value of `key`, and keeps the
# fastest:
#
# ```python
# configs = [
#     triton.Config({"BLOCK_Q": 128, "BLOCK_K": 64}, num_warps=8, num_stages=3),
#     triton.Config({"BLOCK_Q": 64, "BLOCK_K": 64}, num_warps=4, num_stages=3),
# ]
#
#
# @triton.autotune(configs, key=["n_q", "n_k"])
# @triton.jit
# def flash_kernel(...): ...
# ```
#
# A kernel that *adds* to its output adds in every one of these launches; `reset_to_zero=["dk_ptr"]` mends that. With a
# GPU the cell below races five plans.

# %% experiment="12.tuned" needs="triton"
if DEVICE == "cuda":
    q, k, v = torch.randn(3, 32, 4096, 128, device=DEVICE, dtype=torch.float16)
    out, lse = torch.empty_like(q), torch.empty(32, 4096, device=DEVICE)
    for bq, bk, warps in ((128, 128, 8), (128, 64, 8), (128, 64, 4), (64, 64, 4), (32, 32, 4)):
        grid, settings = (4096 // bq, 32), {"num_warps": warps, "num_stages": 3}
        given = (q, k, v, out, lse, 4096, 4096, 128**-0.5, False, 128, bq, bk)
        run = partial(lessons.flash_kernel[grid], *given, **settings)
        time_ms = triton.testing.do_bench(run)
        print(f"{bq:3} x {bk:3}, {warps} warps: {4 * 32 * 4096**2 * 128 / time_ms / 1e9:.0f} TFLOP/s")
else:
    print("no GPU here, so there is no time to measure")

# %% [markdown]
# ## What the interpreter does not show
#
# It runs programs in turn, so races come out right. It computes in NumPy: neither the ten bits of a float32 `tl.dot` nor
# a spill shows, and its time says nothing. What it proves is the logic: which numbers meet, with which masks.

# %% [markdown]
# ## Check yourself

# %% quiz="12.a"

# %% quiz="12.b"

# %% quiz="12.c"

# %% quiz="12.d"

# %% [markdown]
# ### Question 12.w · It ran on my laptop (4 points · 12 min)
#
# A colleague has written dq and dk_dv kernels without a GPU and says: “All results agree with PyTorch to six digits, in
# the interpreter, on 64 queries and 64 keys. Tomorrow it goes to the cluster. What could be wrong with it?” Answer in
# six to ten sentences: what the run has proved, what it cannot show, and how to find out.

# %% [markdown] written="12.w"
# ### BEGIN SOLUTION
# **4 points.** The run proves the logic for these sizes: formulas, masks and addresses agree where blocks are whole and
# n_q = n_k. It does not prove ragged sizes, so try 21 queries and 37 keys: a missing mask, a head offset counted in
# queries, or a mask from the top left shows only there. Three things the interpreter cannot show at all. Programs run
# in turn, so two of them adding to one row of dk come out right; watch what each program touches: every number of dk
# and dv must have one owner, as the totals in the chapter had not, of which all three were raced for. A load without a
# mask finds something harmless here and is an illegal access there; the same watching tells. And the compiler: float32
# products are rounded to ten bits unless "ieee" is asked for, and tiles may spill; compile ahead of time for the
# cluster's GPU and read registers and stack. In the chapter 128 by 128 with 4 warps spilled thousands of bytes for each
# thread, which is right and slow. Then there remains speed itself, which only a GPU measures.
#
# **3 points.** The results prove that the formulas are right. But the programs run one after another, so a race is not
# seen; check that each number is written by one program. And reads beyond the arrays do no harm on the laptop; try
# ragged sizes and look at the masks. The time on the cluster is unknown.
#
# **2 points.** It could have a race, because a GPU runs programs at the same time and the interpreter does not.
#
# **1 point.** If the results agree to six digits it is right; at most test it on the GPU as well.
# ### END SOLUTION

# %% [markdown]
# ## In real systems
#
# Triton began as a language and compiler by Tillet, Kung and Cox (2019) and was released by OpenAI in 2021.
# `torch.compile` (PyTorch 2.0, 2023) writes Triton kernels for GPUs, and FlexAttention (PyTorch 2.5, 2024) fills your
# mask into a Triton template that is a longer 12.6.
#
# FlashAttention 1 to 3 (2022 to 2024) are CUDA. What a real kernel has beyond yours, such as grouped heads, windows and
# biases, stands in `attn_ref/triton_forward.py`.

# %% [markdown]
# ## Takeaways
#
# - A kernel knows addresses, not arrays: without a mask 4 numbers of somebody else were overwritten.
# - What is not there must not count: zeros in three spare places took over 80 % of a row.
# - float16 stops counting at 2,048; accumulators are float32.
# - Twice the tile, half the reading: 1,024 KiB with tiles of 16, 128 KiB with tiles of 128.
# - A number needs an owner: two kernels with seven products in place of five, and no race.

# %%
progress(12)

# %% [markdown]
# ## Further reading
#
# - Tillet, Kung and Cox, *Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations* (2019).
# - Triton's tutorials, from vector addition to fused attention.
# - Dao, *FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning* (2023), algorithms 1 and 2.
# - Shah and others, *FlashAttention-3: Fast and Accurate Attention with Asynchrony and Low-precision* (2024).
# - Rush, *Triton Puzzles* (2024): small kernels with pictures, in the interpreter.
#
# Next: chapter 13, where you learn to find what is wrong with an attention layer from measurements alone.
