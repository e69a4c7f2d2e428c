"""Chapter 12, a Triton kernel: programs, blocks, pointers and masks, from adding vectors to flash attention both ways."""

import inspect
import linecache

import numpy as np
import torch

from attn_ref import triton_lessons as lessons
from attn_ref.triton_here import DEVICE, tl, triton
from attn_ref.triton_watch import watch
from autograder.exercise import Exercise, Quiz, Written

ON_THE_CPU = DEVICE == "cpu"  # a process that was forked cannot use the GPU of its parent
WITHIN, OWNED = "within the arrays", "each number its own program"


def launched(answer, grid, given, results, extra=lambda seen: {}):
    """Launch an answer, plain or jitted. -> {result: tensor, ..., and "reads", "writes" and "races" in words}

    `given` are the kernel's arguments by name, in order. The launch is watched in the interpreter; where there is a GPU,
    the results are those of a second launch, for real.
    """
    if inspect.getfullargspec(getattr(answer, "fn", answer)).varkw:  # Triton has no kernels with **options
        answer(*given.values())
        return {}
    before = {name: x.clone() for name, x in given.items() if hasattr(x, "data_ptr")}
    seen = watch(answer, grid, *given.values())
    words = {"reads": WITHIN, "writes": WITHIN, "races": OWNED}
    names = {seen_as: name for seen_as, x in seen.given.items() for name, mine in given.items() if mine is x}
    for (program, action, array), count in reversed(seen.outside.items()):
        words[action] = f"{count} beyond {names[array]}, by program {program[:2] if len(grid) > 1 else program[0]}"
    for name, x in before.items():
        if name not in results and x.numpy().tobytes() != given[name].numpy().tobytes():
            words["writes"] = f"into {name}"
    for array, count in seen.races.items():
        words["races"] = f"{count} numbers of {names[array]} raced for"
    if DEVICE == "cuda":
        launch_for_real(answer, grid, given | before, given, results)
    return {name: given[name].clone() for name in results} | words | extra(seen)


def launch_for_real(answer, grid, given, out, results, device=DEVICE):
    """Launch on tensors that stand amid NaN, and put the results into those of `out`."""
    there = {}
    for name, x in given.items():
        if hasattr(x, "data_ptr"):
            span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
            around = torch.full((span + 8192,), torch.nan, device=device).to(x.dtype)
            x = around.as_strided(x.shape, x.stride(), 4096).copy_(x)
        there[name] = x
    kernel = answer if hasattr(answer, "fn") else triton.jit(answer)
    kernel[grid](*there.values())
    for name in results:
        out[name].copy_(there[name])


def blocks(n, block):
    return -(-n // block)


def each_works(x):
    """A note for `launched`: does every program write some of the numbers of x?"""

    def shared_out(seen):
        writers = seen.writers(x)
        busy = len(np.unique(writers[writers >= 0]))
        return {
            "shared": "each program its block" if busy == seen.programs else f"{busy} of {seen.programs} programs work"
        }

    return shared_out


def unwritten(*shape, dtype=torch.float32):
    """What a result holds before a kernel writes to it."""
    return torch.full(shape, torch.nan).to(dtype)


def numbers(rng, *shape, scale=1.0, dtype=torch.float32):
    """Normal numbers."""
    return torch.from_numpy(scale * rng.normal(size=shape)).to(dtype)


def spread(x, *gaps):
    """The same values with room between them: each stride times its gap."""
    room = torch.full([n * gap for n, gap in zip(x.shape, gaps, strict=True)], torch.nan).to(x.dtype)
    view = room[tuple(slice(None, None, gap) for gap in gaps)]
    return view.copy_(x)


def edited(kernel, name, *edits):
    """A kernel under another name, with pieces of its text replaced: each edit is (old, new)."""
    lines = inspect.getsource(kernel.fn).splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("def "))
    text = "".join(lines[start:]).replace(f"def {kernel.__name__}(", f"def {name}(", 1)
    for old, new in edits:
        if old not in text:
            raise ValueError(f"{kernel.__name__} has no {old!r}, which {name} replaces")
        text = text.replace(old, new)
    file = f"<{kernel.__name__}, edited: {name}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    space = {"tl": tl, "triton": triton, "np": np, "torch": torch, "__name__": __name__}
    exec(compile(text, file, "exec"), space)
    return space[name]


# --- 12.1 ------------------------------------------------------------------------------------------------------------

add = Exercise(
    "12.1",
    "Two vectors, block by block",
    reference=lessons.add_kernel.fn,
    minutes=10,
    isolate=ON_THE_CPU,
    needs="triton",
)


@add.probe
def drive_add(answer, x, y, BLOCK):
    n = len(x)
    given = dict(x=x.clone(), y=y.clone(), out=unwritten(n, dtype=x.dtype), n=n, BLOCK=BLOCK)
    return launched(answer, (blocks(n, BLOCK),), given, ("out",), each_works(given["out"]))


@add.criterion("out is x + y, with one program and with several", points=2)
def whole_blocks(rng):
    yield dict(x=torch.tensor([1.0, 2.0, 3.0, 4.0]), y=torch.tensor([10.0, 20.0, 30.0, 40.0]), BLOCK=4)
    yield dict(x=numbers(rng, 24), y=numbers(rng, 24), BLOCK=8)
    yield dict(x=numbers(rng, 8), y=numbers(rng, 8), BLOCK=2)
    yield dict(x=numbers(rng, 32), y=numbers(rng, 32), BLOCK=16)


@add.criterion("a ragged last block: nothing beyond the arrays is read or written", points=1)
def ragged_blocks(rng):
    yield dict(x=numbers(rng, 21), y=numbers(rng, 21), BLOCK=8)
    yield dict(x=numbers(rng, 9), y=numbers(rng, 9), BLOCK=8)
    yield dict(x=numbers(rng, 3), y=numbers(rng, 3), BLOCK=16)
    yield dict(x=numbers(rng, 1), y=numbers(rng, 1), BLOCK=1)


@add.criterion("any type of number, and negative and large ones too", points=1)
def any_type(rng):
    yield dict(x=numbers(rng, 8, dtype=torch.float16), y=numbers(rng, 8, dtype=torch.float16), BLOCK=4)
    yield dict(x=torch.tensor([1, 300_000_007]), y=torch.tensor([-5, 400_000_000]), BLOCK=2)
    yield dict(x=torch.tensor([1e6, -1e6, -3.0, 0.0]), y=torch.tensor([1.0, -1.0, -4.0, -0.5]), BLOCK=4)


ADD = lessons.add_kernel

add.mistake(
    "Your last program reads and writes beyond the arrays: it always holds BLOCK numbers, and fewer may be left. Which argument of load and store says which of them are there?"
)(edited(ADD, "no_mask_at_all", (", mask=there", "")))
add.mistake(
    "The loads are masked and the store is not. What lies behind `out` in memory belongs to someone else; which numbers may the last program write?"
)(edited(ADD, "store_without_mask", ("total, mask=there", "total")))
add.mistake(
    "The store is masked and a load is not. The result is right, and yet the last program reads what is not its own: on a GPU that can stop the program with an illegal memory access. Does every load need its mask?"
)(edited(ADD, "load_without_mask", ("x_ptr + i, mask=there", "x_ptr + i"), ("y_ptr + i, mask=there", "y_ptr + i")))
add.mistake("All programs do the same: each works on the first block. Which function tells a program its number?")(
    edited(ADD, "all_on_the_first_block", ("tl.program_id(0) * BLOCK + ", ""))
)
add.mistake("Neighbouring programs overlap: program 1 starts at number 1. Where does the block of program 1 begin?")(
    edited(ADD, "blocks_overlap", ("tl.program_id(0) * BLOCK", "tl.program_id(0)"))
)
add.mistake("Number n is one too many: n numbers are 0 to n - 1. Which comparison leaves n out?")(
    edited(ADD, "one_number_too_many", ("i < n", "i <= n"))
)
add.mistake(
    "Your mask compares the place inside the block with n. In the second block place 0 is number BLOCK; which of the two counts?"
)(edited(ADD, "mask_of_the_place_in_the_block", ("i < n", "tl.arange(0, BLOCK) < n")))
add.mistake("Your block size is written into the kernel. BLOCK is the caller's choice; where is it used?")(
    edited(ADD, "block_of_eight", ("BLOCK + tl.arange(0, BLOCK)", "8 + tl.arange(0, 8)"))
)
add.mistake("The sum lands in x, and `out` is never written. Which pointer does the store take?")(
    edited(ADD, "sum_stored_in_x", ("out_ptr + i", "x_ptr + i"))
)
add.mistake("Your sum goes through float32, which loses whole numbers beyond 16 million. Why convert at all?")(
    edited(ADD, "through_float32", ("tl.load(x_ptr + i, mask=there)", "tl.load(x_ptr + i, mask=there).to(tl.float32)"))
)


@add.mistake(
    "Program 0 walks over all the numbers, and the others do nothing. The result is right, and the GPU idles. Which numbers are the business of program 1?"
)
def the_first_does_it_all(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    if tl.program_id(0) == 0:
        for start in range(0, n, BLOCK):
            i = start + tl.arange(0, BLOCK)
            total = tl.load(x_ptr + i, mask=i < n) + tl.load(y_ptr + i, mask=i < n)
            tl.store(out_ptr + i, total, mask=i < n)


@add.also_right
def pointers_moved_first(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    start = BLOCK * tl.program_id(axis=0)
    x_ptr += start
    y_ptr += start
    place = tl.arange(0, BLOCK)
    left = n - start
    x = tl.load(x_ptr + place, place < left, other=0)
    y = tl.load(y_ptr + place, place < left, other=0)
    tl.store(out_ptr + start + place, y + x, place < left)


@add.also_right
def one_number_at_a_time(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    start = tl.program_id(0) * BLOCK
    for i in range(start, tl.minimum(start + BLOCK, n)):
        tl.store(out_ptr + i, tl.load(x_ptr + i) + tl.load(y_ptr + i))


add.hints(
    "Program p owns BLOCK neighbours. Which number of the vector is its first?",
    "Make the numbers i of the block: program_id times BLOCK plus arange. Those below n are there. Load both, add, and "
    "store, all three with that mask.",
)
add.errors(
    (
        "ValueError: arange's range must be a power of 2",
        "Blocks have 1, 2, 4, 8, … numbers. Take the next power of two and mask the rest.",
    ),
)

# --- 12.2 ------------------------------------------------------------------------------------------------------------

transpose = Exercise(
    "12.2",
    "A tile turned over",
    reference=lessons.transpose_kernel.fn,
    minutes=18,
    isolate=ON_THE_CPU,
    needs="triton",
)


@transpose.probe
def drive_transpose(answer, x, BLOCK_N, BLOCK_M, out_gaps=(1, 1)):
    n, m = x.shape
    out = spread(unwritten(m, n, dtype=x.dtype), *out_gaps)
    given = dict(x=x, out=out, n=n, m=m, x_row=x.stride(0), x_col=x.stride(1))
    given |= dict(out_row=out.stride(0), out_col=out.stride(1), BLOCK_N=BLOCK_N, BLOCK_M=BLOCK_M)
    return launched(answer, (blocks(n, BLOCK_N), blocks(m, BLOCK_M)), given, ("out",), each_works(out))


@transpose.criterion("out is x turned over, in whole tiles", points=2)
def whole_tiles(rng):
    yield dict(x=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), BLOCK_N=2, BLOCK_M=2)
    yield dict(x=numbers(rng, 8, 12), BLOCK_N=2, BLOCK_M=4)
    yield dict(x=numbers(rng, 4, 4), BLOCK_N=4, BLOCK_M=1)
    yield dict(x=300_000_000 + torch.arange(8).reshape(2, 4), BLOCK_N=2, BLOCK_M=2)


@transpose.criterion("each tensor is walked by its own strides", points=1)
def any_strides(rng):
    yield dict(x=numbers(rng, 6, 4).T, BLOCK_N=4, BLOCK_M=2)
    yield dict(x=spread(numbers(rng, 4, 8), 1, 3), BLOCK_N=4, BLOCK_M=4, out_gaps=(2, 1))
    yield dict(x=spread(numbers(rng, 4, 8), 3, 1), BLOCK_N=2, BLOCK_M=8, out_gaps=(1, 2))


@transpose.criterion("ragged tiles along both axes: nothing beyond the arrays is read or written", points=2)
def ragged_tiles(rng):
    yield dict(x=numbers(rng, 7, 11), BLOCK_N=4, BLOCK_M=8)
    yield dict(x=numbers(rng, 5, 8), BLOCK_N=4, BLOCK_M=4)
    yield dict(x=numbers(rng, 8, 5), BLOCK_N=4, BLOCK_M=4)
    yield dict(x=numbers(rng, 1, 3), BLOCK_N=2, BLOCK_M=2)
    yield dict(x=numbers(rng, 5, 3).T, BLOCK_N=8, BLOCK_M=2)


TURN = lessons.transpose_kernel
TURN_LOAD, TURN_STORE = "x_ptr + row * x_row + col * x_col", "out_ptr + col * out_row + row * out_col"

transpose.mistake(
    "Nothing keeps a tile inside the arrays: the last tiles reach beyond both edges. Which rows and which columns are there?"
)(edited(TURN, "tiles_without_mask", (", mask=there", "")))
transpose.mistake("Your mask looks at the rows alone. A tile can stick out at the right too: which columns are there?")(
    edited(TURN, "rows_masked_alone", ("(row < n) & (col < m)", "(row < n) & (col >= 0)"))
)
transpose.mistake("Your mask looks at the columns alone. A tile can stick out below too: which rows are there?")(
    edited(TURN, "columns_masked_alone", ("(row < n) & (col < m)", "(row >= 0) & (col < m)"))
)
transpose.mistake(
    "You compare rows with m and columns with n. x has n rows; after turning, out has n columns. Which of the two do `row` and `col` count?"
)(edited(TURN, "sides_mixed_up_in_the_mask", ("(row < n) & (col < m)", "(row < m) & (col < n)")))
transpose.mistake(
    "You read x as if its rows lay one behind the other, m numbers each. For a transposed tensor, or one with gaps, they do not. Which arguments say how far the next row and the next column are?"
)(edited(TURN, "x_taken_for_contiguous", (TURN_LOAD, "x_ptr + row * m + col")))
transpose.mistake(
    "You write out as if its rows lay one behind the other, n numbers each. The caller's tensor may have gaps. Which arguments say how far its next row and column are?"
)(edited(TURN, "out_taken_for_contiguous", (TURN_STORE, "out_ptr + col * n + row")))
transpose.mistake(
    "Your columns are taken to lie one number apart. In a transposed tensor they do not: how far is the next column?"
)(edited(TURN, "columns_taken_to_touch", ("col * x_col", "col")))
transpose.mistake(
    "The two block sizes are exchanged: the grid's first axis counts tiles of BLOCK_N rows. With square tiles nobody would notice; which size belongs to which?"
)(
    edited(
        TURN,
        "block_sizes_exchanged",
        ("tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)", "tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)"),
        ("tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)", "tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)"),
        ("tl.program_id(0) * BLOCK_ + tl.arange(0, BLOCK_)", "tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)"),
    )
)
transpose.mistake(
    "The strides of x are exchanged: a step down the rows goes x_row further. Which of `row` and `col` should be multiplied by it?"
)(edited(TURN, "strides_of_x_exchanged", (TURN_LOAD, "x_ptr + row * x_col + col * x_row")))
transpose.mistake("out is walked with the strides of x. Each tensor has strides of its own; which belong to out?")(
    edited(TURN, "out_with_the_strides_of_x", (TURN_STORE, "out_ptr + col * x_row + row * x_col"))
)
transpose.mistake(
    "Your out is x as it was, not turned over: row i, column j must land in row j, column i. Which stride of out does `row` take?"
)(edited(TURN, "copied_as_it_is", (TURN_STORE, "out_ptr + row * out_row + col * out_col")))
transpose.mistake(
    "The grid's first axis counts tiles of rows, and you use it for the columns. With as many tiles both ways nobody would notice. Which program_id belongs to the rows?"
)(
    edited(
        TURN,
        "program_ids_exchanged",
        ("tl.program_id(0) * BLOCK_N", "tl.program_id(9) * BLOCK_N"),
        ("tl.program_id(1)", "tl.program_id(0)"),
        ("tl.program_id(9)", "tl.program_id(1)"),
    )
)
transpose.mistake("Your numbers go through float32, which loses whole numbers beyond 16 million. Why convert at all?")(
    edited(TURN, "turned_through_float32", ("col * x_col, mask=there)", "col * x_col, mask=there).to(tl.float32)"))
)


@transpose.mistake(
    "Program (0, 0) turns the whole of x over, and the others do nothing. The result is right, and the GPU idles. Which tile is the business of program (0, 1)?"
)
def the_first_turns_it_all(
    x_ptr, out_ptr, n, m, x_row, x_col, out_row, out_col, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):
    if tl.program_id(0) + tl.program_id(1) == 0:
        for row in range(n):
            for col in range(m):
                tl.store(out_ptr + col * out_row + row * out_col, tl.load(x_ptr + row * x_row + col * x_col))


transpose.mistake(
    "Each tile starts at its program's number, so tiles overlap. Program 1 along the rows should begin BLOCK_N further; what is missing?"
)(
    edited(
        TURN,
        "tiles_one_apart",
        ("tl.program_id(0) * BLOCK_N", "tl.program_id(0)"),
        ("tl.program_id(1) * BLOCK_M", "tl.program_id(1)"),
    )
)


@transpose.also_right
def turned_on_the_chip(
    x_ptr, out_ptr, n, m, x_row, x_col, out_row, out_col, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):
    rows = BLOCK_N * tl.program_id(0) + tl.arange(0, BLOCK_N)
    cols = BLOCK_M * tl.program_id(1) + tl.arange(0, BLOCK_M)
    tile = tl.load(
        x_ptr + rows[:, None] * x_row + cols[None, :] * x_col, mask=(rows[:, None] < n) & (cols[None, :] < m), other=0.0
    )
    places = out_ptr + cols[:, None] * out_row + rows[None, :] * out_col
    tl.store(places, tl.trans(tile), mask=(cols[:, None] < m) & (rows[None, :] < n))


@transpose.also_right
def row_after_row(x_ptr, out_ptr, n, m, x_row, x_col, out_row, out_col, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    first, cols = tl.program_id(0) * BLOCK_N, tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    for row in range(first, tl.minimum(first + BLOCK_N, n)):
        one = tl.load(x_ptr + row * x_row + cols * x_col, mask=cols < m)
        tl.store(out_ptr + row * out_col + cols * out_row, one, mask=cols < m)


transpose.hints(
    "Row numbers as a column, (BLOCK_N, 1), and column numbers as a row, (1, BLOCK_M): every sum of the two is a tile.",
    "Entry (row, col) of x lies at x_ptr + row · x_row + col · x_col. Where in out does it belong, and which strides lead "
    "there? One mask serves both.",
)
transpose.errors(
    (
        "ValueError: Cannot make_shape_compatible: incompatible dimensions at index 0: 4 and 8",
        "Two one-dimensional ranges were added. One of them needs <code>[:, None]</code>, the other "
        "<code>[None, :]</code>.",
    ),
)

# --- 12.3 ------------------------------------------------------------------------------------------------------------

softmax = Exercise(
    "12.3",
    "A row to a program",
    reference=lessons.softmax_kernel.fn,
    minutes=20,
    isolate=ON_THE_CPU,
    needs="triton",
    forbids=("triton.language.softmax", "triton.language.standard.softmax", "attn_ref.softmax"),
)


@softmax.probe
def drive_softmax(answer, x, BLOCK, out_gap=1):
    n, m = x.shape
    out = spread(unwritten(n, m), out_gap, 1)
    given = dict(x=x, out=out, m=m, x_row=x.stride(0), out_row=out.stride(0), BLOCK=BLOCK)
    return launched(answer, (n,), given, ("out",))


@softmax.criterion("each row becomes shares that sum to 1, in proportion to exp(score)", points=2)
def rows_of_shares(rng):
    yield dict(x=torch.tensor([[0.0, np.log(3.0)]]), BLOCK=2)
    yield dict(x=numbers(rng, 5, 8), BLOCK=8)
    yield dict(x=numbers(rng, 3, 1), BLOCK=1)


@softmax.criterion(
    "a block wider than the row: what is not there gets no share and is neither read nor written",
    points=1,
    tolerance=2e-3,
)
def wider_than_the_row(rng):
    yield dict(x=numbers(rng, 3, 13), BLOCK=16)
    yield dict(x=numbers(rng, 2, 5) - 60, BLOCK=16)
    yield dict(x=numbers(rng, 2, 3) - 200, BLOCK=4)
    yield dict(x=numbers(rng, 2, 5) - 2000, BLOCK=8)
    yield dict(x=numbers(rng, 1, 3) - 20_000, BLOCK=4)
    yield dict(x=torch.full((2, 3), -65504.0), BLOCK=4)


@softmax.criterion("rows begin where the strides say, in x and in out", points=1)
def rows_with_gaps(rng):
    yield dict(x=spread(numbers(rng, 3, 4), 2, 1), BLOCK=4)
    yield dict(x=numbers(rng, 3, 4), BLOCK=8, out_gap=3)
    yield dict(x=spread(numbers(rng, 4, 4), 3, 1), BLOCK=4, out_gap=2)


@softmax.criterion("scores in the thousands, and a row of nothing but -inf gets shares of 0", points=1, tolerance=5e-4)
def far_scores(rng):
    yield dict(x=torch.tensor([[1000.0, 999.0, -1000.0], [-4000.0, 1000.0, 999.0]]), BLOCK=4)
    yield dict(x=torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf] * 3]), BLOCK=4)
    yield dict(x=torch.tensor([[-torch.inf] * 4, [-torch.inf, 0.0, 0.0, -torch.inf]]), BLOCK=4)


@softmax.criterion("float16 scores are subtracted and summed in float32", points=1)
def half_scores(rng):
    yield dict(x=numbers(rng, 2, 200, scale=3, dtype=torch.float16), BLOCK=256)
    yield dict(x=torch.tensor([[60000.0, 60000.0, 59968.0], [-9.5, 0.001, 7.25]]).to(torch.float16), BLOCK=4)


ROW = lessons.softmax_kernel
GUARD = 'largest = tl.where(largest == -float("inf"), 0.0, largest)'

softmax.mistake(
    "What lies beyond the row is loaded as 0, and 0 is a score like any other: it takes part in the maximum and gets a share. Which score gets none?"
)(edited(ROW, "padding_of_zeros", ('other=-float("inf")', "other=0.0")))
softmax.mistake(
    "What lies beyond the row is loaded as -1000. In a row of scores near -2000 that is the largest of all. Is there a number below every score?"
)(edited(ROW, "padding_of_a_thousand", ('other=-float("inf")', "other=-1000.0")))
softmax.mistake(
    "What lies beyond the row is loaded as -65504. That is the lowest float16, and a row may hold nothing higher. Is there a number below every score?"
)(edited(ROW, "padding_of_the_lowest_half", ('other=-float("inf")', "other=-65504.0")))
softmax.mistake(
    "A padding of -1e9 hides it in wider blocks: a row of nothing but -inf that fills its block has the maximum -inf, and -inf - -inf is NaN. What else could be subtracted there?"
)(
    edited(
        ROW,
        "saved_by_its_padding",
        ('other=-float("inf")', "other=-1e9"),
        (GUARD, "largest = largest"),
        ("tl.where(total == 0, 1.0, total)", "total"),
    )
)
softmax.mistake(
    "Your maximum is never below 0. In a row of scores near -2000 all exponentials vanish: where does the comparison with 0 come from?"
)(edited(ROW, "maximum_never_below_zero", (GUARD, "largest = tl.maximum(largest, 0.0)")))
softmax.mistake(
    "The block is wider than the row, and your load reads on into what lies behind it. Which columns are there?"
)(edited(ROW, "row_read_on", (', mask=col < m, other=-float("inf")', "")))
softmax.mistake(
    "The load is masked and the store is not: shares of 0 are written behind the row, into the next row or beyond. Which columns are there?"
)(edited(ROW, "shares_written_on", ("total), mask=col < m", "total)")))
softmax.mistake(
    "Without subtracting the row's maximum exp(1000) is inf, and inf / inf is NaN. What may be subtracted from every score of a row?"
)(edited(ROW, "maximum_not_subtracted", (GUARD, "largest = 0.0")))
softmax.mistake("A row of nothing but -inf gives NaN: its maximum is -inf too. What else could be subtracted there?")(
    edited(
        ROW,
        "empty_row_gives_nan",
        (GUARD, "largest = largest"),
        ("tl.where(total == 0, 1.0, total)", "total"),
    )
)
softmax.mistake(
    "Row r is read at r · m, as if rows lay one behind the other. Which argument says how far the next row of x is?"
)(edited(ROW, "rows_of_x_close_together", ("row * x_row", "row * m")))
softmax.mistake("out is written with the row stride of x. Each tensor has its own; which belongs to out?")(
    edited(ROW, "rows_of_out_as_in_x", ("row * out_row", "row * x_row"))
)
softmax.mistake("These are exponentials; nothing has been shared out. What must a row be divided by?")(
    edited(ROW, "never_divided", ("e / tl.where(total == 0, 1.0, total)", "e"))
)
softmax.mistake(
    "Your shares are powers of 2, not of e: tl.exp2(x) is 2 to the x. Which factor turns the one exponent into the other?"
)(edited(ROW, "powers_of_two", ("tl.exp(x - largest)", "tl.exp2(x - largest)")))
softmax.mistake(
    "The maximum is subtracted in float16, where neighbours near 7 are 0.004 apart, and converted afterwards. What is rounded once stays rounded: where should the conversion to float32 stand?"
)(
    edited(
        ROW,
        "subtracted_in_half",
        (".to(tl.float32)", ""),
        ("tl.where(largest == -float", "tl.where(largest.to(tl.float32) == -float"),
        ("0.0, largest)", "0.0, largest).to(x.dtype)"),
        ("tl.exp(x - largest)", "tl.exp((x - largest).to(tl.float32))"),
    )
)
softmax.mistake(
    "Your exponentials are rounded to float16 before they are added up and shared out. How many of the shares' digits does float16 keep?"
)(edited(ROW, "exponentials_in_half", ("tl.exp(x - largest)", "tl.exp(x - largest).to(tl.float16).to(tl.float32)")))
softmax.mistake("Every program works on row 0. Which function tells a program its row?")(
    edited(ROW, "always_the_first_row", ("tl.program_id(0)", "0"))
)


@softmax.also_right
def through_the_logarithm(x_ptr, out_ptr, m, x_row, out_row, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    there = col < m
    x = tl.load(x_ptr + row * x_row + col, mask=there, other=0.0).to(tl.float32)
    x = tl.where(there, x, float("-inf"))
    top = tl.maximum(tl.max(x, axis=0), -1e30)
    total = tl.sum(tl.exp(x - top), axis=0)
    shares = tl.exp(x - top - tl.log(tl.maximum(total, 1e-30)))
    tl.store(out_ptr + row * out_row + col, shares, mask=there)


@softmax.also_right
def base_two_with_its_factor(x_ptr, out_ptr, m, x_row, out_row, BLOCK: tl.constexpr):
    x_ptr += tl.program_id(0) * x_row
    out_ptr += tl.program_id(0) * out_row
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < m, other=-float("inf")).to(tl.float32)
    top = tl.max(x, 0)
    e = tl.where(x == -float("inf"), 0.0, tl.exp2((x - top) * 1.4426950408889634))
    total = tl.sum(e, 0)
    tl.store(out_ptr + i, tl.where(total > 0, e / total, 0.0), mask=i < m)


@softmax.also_right
def base_two_before_the_maximum(x_ptr, out_ptr, m, x_row, out_row, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + tl.program_id(0) * x_row + i, i < m, -float("inf")).to(tl.float32) * 1.4426950408889634
    e = tl.exp2(x - tl.maximum(tl.max(x, 0), -1e30))
    tl.store(out_ptr + tl.program_id(0) * out_row + i, e / tl.maximum(tl.sum(e, 0), 1e-30), i < m)


softmax.hints(
    "One program has a whole row in a block. What should a place beyond the row hold, so that it changes neither the "
    "maximum nor the sum?",
    "Convert to float32. Maximum, 0 in its place if it is -inf; subtract; tl.exp; tl.sum; divide, by 1 where the sum is 0.",
)
softmax.errors(
    (
        "ValueError: Expected dtype ['fp32', 'fp64'] but got fp16",
        "<code>tl.exp</code> takes float32. Convert after loading: <code>.to(tl.float32)</code>.",
    ),
)

# --- 12.4 ------------------------------------------------------------------------------------------------------------

lse = Exercise(
    "12.4",
    "A row longer than a block",
    reference=lessons.logsumexp_kernel.fn,
    minutes=25,
    isolate=ON_THE_CPU,
    needs="triton",
    forbids=("attn_ref.logsumexp",),
)


@lse.probe
def drive_lse(answer, x, scale, BLOCK):
    n, m = x.shape
    given = dict(x=x, out=unwritten(n), m=m, x_row=x.stride(0), scale=scale, BLOCK=BLOCK)
    return launched(answer, (n,), given, ("out",))


@lse.criterion("one block: the logarithm of the sum of exp(scale · x)", points=1)
def one_block(rng):
    yield dict(x=torch.tensor([[0.0, np.log(3.0)]]), scale=1.0, BLOCK=2)
    yield dict(x=numbers(rng, 3, 8), scale=0.25, BLOCK=8)
    yield dict(x=numbers(rng, 2, 4), scale=-1.5, BLOCK=4)


@lse.criterion("many blocks, whichever of them holds the largest score", points=2)
def many_blocks(rng):
    yield dict(x=numbers(rng, 3, 24, scale=3), scale=0.5, BLOCK=8)
    yield dict(x=torch.arange(16.0).reshape(1, 16), scale=1.0, BLOCK=4)
    yield dict(x=torch.arange(16.0).flip(0).reshape(1, 16), scale=2.0, BLOCK=4)
    yield dict(x=numbers(rng, 2, 6), scale=-2.0, BLOCK=1)
    yield dict(x=numbers(rng, 1, 4200), scale=0.5, BLOCK=1024)


@lse.criterion("a ragged last block: what is not there adds nothing and is not read", points=1)
def ragged_row(rng):
    yield dict(x=numbers(rng, 3, 13), scale=0.5, BLOCK=8)
    yield dict(x=numbers(rng, 2, 13) - 40, scale=0.5, BLOCK=4)
    yield dict(x=numbers(rng, 2, 3), scale=-1.0, BLOCK=8)
    yield dict(x=numbers(rng, 1, 1), scale=1.0, BLOCK=16)


@lse.criterion("rows begin where the stride says", points=1)
def long_rows_with_gaps(rng):
    yield dict(x=spread(numbers(rng, 3, 8), 2, 1), scale=1.0, BLOCK=4)
    yield dict(x=spread(numbers(rng, 2, 6), 3, 1), scale=0.5, BLOCK=4)


@lse.criterion("scores in the thousands, and rows that begin with -inf or hold nothing else", points=1)
def far_long_rows(rng):
    yield dict(
        x=torch.tensor([[-1000.0, 500.0, 1000.0, 999.0], [-3000.0, -3001.0, -3002.0, -2999.0]]), scale=1.0, BLOCK=2
    )
    yield dict(x=torch.tensor([[-torch.inf, -torch.inf, 0.5, 1.0], [-torch.inf] * 4]), scale=0.5, BLOCK=2)
    yield dict(x=torch.tensor([[-9000.0, -9001.0, -9002.0]]), scale=1.0, BLOCK=2)


LSE = lessons.logsumexp_kernel
STEP = "row_sum = row_sum * tl.exp2(row_max - shift) + tl.sum(tl.exp2(s - shift), 0)"
FINISH = "(row_max + tl.log2(row_sum)) * 0.6931471805599453"

lse.mistake(
    "exp2 takes 2 to the power, and your exponents are meant for e. Which factor turns e^x into a power of 2, and where can it be multiplied in once for all?"
)(edited(LSE, "exponents_for_e", ("scale * 1.4426950408889634", "scale"), (FINISH, "row_max + tl.log(row_sum)")))
lse.mistake(
    "Your result is a logarithm to base 2. The contract asks for the natural one: what is log x if log2 x is known?"
)(edited(LSE, "left_in_base_two", (" * 0.6931471805599453", "")))
lse.mistake(
    "The logarithm of the sum is natural, and the maximum beside it is still in units of base 2. Both must be turned back; what multiplies the sum of the two?"
)(edited(LSE, "maximum_left_in_base_two", (FINISH, "row_max + tl.log2(row_sum) * 0.6931471805599453")))
lse.mistake(
    "You divided by log2(e) twice, or multiplied in the wrong direction: 1.4427 makes exponents larger. Which way?"
)(edited(LSE, "factor_upside_down", ("scale * 1.4426950408889634", "scale / 1.4426950408889634")))
lse.mistake("`scale` is not used. Which scores does the sum run over?")(
    edited(LSE, "scale_forgotten", ("scale * 1.4426950408889634", "1.4426950408889634"))
)
lse.mistake(
    "When a new block raises the maximum, what was summed so far is still measured from the old one. By which factor must it shrink?"
)(edited(LSE, "sum_left_behind", ("row_sum * tl.exp2(row_max - shift)", "row_sum")))
lse.mistake("The factor for the old sum is turned round: it must be 1 or less, since the maximum only grows.")(
    edited(LSE, "factor_for_the_sum_turned_round", ("tl.exp2(row_max - shift)", "tl.exp2(shift - row_max)"))
)
lse.mistake(
    "Each block starts anew, and only the last one is in the result. What must be carried from block to block?"
)(
    edited(
        LSE,
        "last_block_alone",
        (STEP, "row_sum = tl.sum(tl.exp2(s - shift), 0)"),
        ("tl.maximum(row_max, tl.max(s, 0))", "tl.max(s, 0)"),
    )
)
lse.mistake("A ragged rest at the end is never visited: m / BLOCK is rounded down. Up to where should the loop run?")(
    edited(LSE, "rest_forgotten", ("range(0, m, BLOCK)", "range(0, m // BLOCK * BLOCK, BLOCK)"))
)
lse.mistake("What lies beyond the row counts as a score of 0. Which score adds nothing to a sum of exponentials?")(
    edited(LSE, "zeros_beyond_the_row", ('tl.where(there, x * unit, -float("inf"))', "x * unit"))
)
lse.mistake(
    "What lies beyond the row is -inf before it is multiplied by `scale`. With a negative scale, what does it become?"
)(
    edited(
        LSE,
        "padded_before_scaling",
        ("mask=there, other=0.0", 'mask=there, other=-float("inf")'),
        ('tl.where(there, x * unit, -float("inf"))', "x * unit"),
    )
)
lse.mistake(
    "The last block is loaded without a mask: it reads on into whatever lies behind the row. Which columns are there?"
)(edited(LSE, "row_without_end", (", mask=there, other=0.0", "")))
lse.mistake(
    "As long as a row has shown nothing but -inf, your shift is -inf too, and -inf - -inf is NaN. What else can be subtracted while there is nothing?"
)(edited(LSE, "nan_before_the_first_score", ('tl.where(new_max == -float("inf"), 0.0, new_max)', "new_max")))
lse.mistake(
    "Your maximum starts at 0, or not far below it. In a row of scores near -3000 it never moves, all exponentials vanish, and the result is -inf. Below which number can no score lie?"
)(edited(LSE, "maximum_starts_at_zero", ('row_max, row_sum = -float("inf"), 0.0', "row_max, row_sum = 0.0, 0.0")))
lse.mistake(
    "Your maximum starts at -10,000. Times log2 e that is only -6,931 in natural units, and scores may lie below it. Is there a number below every score?"
)(
    edited(
        LSE,
        "maximum_starts_at_minus_ten_thousand",
        ('row_max, row_sum = -float("inf"), 0.0', "row_max, row_sum = -1e4, 0.0"),
    )
)
lse.mistake("Row r is read at r · m. Which argument says how far the next row is?")(
    edited(LSE, "long_rows_close_together", ("row * x_row", "row * m"))
)


@lse.mistake(
    "You load the row at once, in a block of a width that you chose; what a longer row holds beyond it is never seen. How many blocks of BLOCK does a row have?"
)
def one_block_of_a_thousand(x_ptr, out_ptr, m, x_row, scale, BLOCK: tl.constexpr):
    col = tl.arange(0, 1024)
    x = tl.load(x_ptr + tl.program_id(0) * x_row + col, mask=col < m, other=0.0)
    s = tl.where(col < m, x * scale, -float("inf"))
    shift = tl.maximum(tl.max(s, 0), -1e30)
    total = tl.sum(tl.exp(s - shift), 0)
    tl.store(out_ptr + tl.program_id(0), tl.where(total > 0, shift + tl.log(total), -float("inf")))


@lse.also_right
def natural_exponentials(x_ptr, out_ptr, m, x_row, scale, BLOCK: tl.constexpr):
    here = x_ptr + tl.program_id(0) * x_row
    top = float("-inf")
    total = 0.0
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        s = tl.where(col < m, scale * tl.load(here + col, mask=col < m, other=0.0), float("-inf"))
        larger = tl.maximum(top, tl.max(s, 0))
        if larger > float("-inf"):
            total = total * tl.exp(top - larger) + tl.sum(tl.exp(s - larger), 0)
        top = larger
    tl.store(out_ptr + tl.program_id(0), top + tl.log(total))


@lse.also_right
def maximum_first_then_the_sum(x_ptr, out_ptr, m, x_row, scale, BLOCK: tl.constexpr):
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    tops = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, m, BLOCK):
        x = tl.load(x_ptr + row * x_row + start + col, mask=start + col < m, other=0.0)
        tops = tl.where(start + col < m, tl.maximum(tops, x * scale), tops)
    top = tl.maximum(tl.max(tops, 0), -1e30)
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, m, BLOCK):
        x = tl.load(x_ptr + row * x_row + start + col, mask=start + col < m, other=0.0)
        sums += tl.where(start + col < m, tl.exp(x * scale - top), 0.0)
    tl.store(out_ptr + row, top + tl.log(tl.sum(sums, 0)))


lse.hints(
    "Chapter 10's state, without acc: a running maximum and a sum, both single numbers here.",
    "Multiply the scale by log2 e = 1.442695… once, and everything in the loop is in base 2; multiply by log 2 = 0.693147… at the very end.",
    "In the loop: scale a block, put -inf where nothing is there. New maximum, 0 in its place while it is -inf; the old sum times exp2(old - new), plus the block's own.",
)
lse.errors(
    (
        "AssertionError: Loop-carried variable row_max has initial type fp32 but is re-assigned to ... in loop",
        "On a GPU a variable keeps the type it enters the loop with: start it as float32, as <code>0.0</code> and "
        '<code>-float("inf")</code> do.',
    ),
)

# --- 12.5 ------------------------------------------------------------------------------------------------------------

matmul = Exercise(
    "12.5",
    "A product, tile by tile",
    reference=lessons.matmul_kernel.fn,
    minutes=25,
    isolate=ON_THE_CPU,
    needs="triton",
)


@matmul.probe
def drive_matmul(answer, a, b, tiles, out_gaps=(1, 1)):
    (n, k), m = a.shape, b.shape[1]
    out = spread(unwritten(n, m), *out_gaps)
    given = dict(a=a, b=b, out=out, n=n, m=m, k=k, a_row=a.stride(0), a_col=a.stride(1))
    given |= dict(b_row=b.stride(0), b_col=b.stride(1), out_row=out.stride(0), out_col=out.stride(1))
    given |= dict(BLOCK_N=tiles[0], BLOCK_M=tiles[1], BLOCK_K=tiles[2])
    return launched(answer, (blocks(n, tiles[0]), blocks(m, tiles[1])), given, ("out",), each_works(out))


@matmul.criterion("out is the product of a and b, in whole tiles", points=2)
def whole_products(rng):
    yield dict(a=torch.full((16, 16), 2.0), b=torch.arange(256.0).reshape(16, 16), tiles=(16, 16, 16))
    yield dict(a=numbers(rng, 32, 48), b=numbers(rng, 48, 32), tiles=(16, 32, 16))
    yield dict(a=numbers(rng, 16, 32), b=numbers(rng, 32, 48), tiles=(16, 16, 32))


@matmul.criterion("each tensor is walked by its own strides", points=1)
def products_of_any_strides(rng):
    yield dict(a=numbers(rng, 32, 16).T, b=numbers(rng, 16, 32).T, tiles=(16, 16, 16))
    yield dict(
        a=spread(numbers(rng, 16, 16), 2, 1), b=spread(numbers(rng, 16, 16), 1, 3), tiles=(16, 16, 16), out_gaps=(2, 1)
    )
    yield dict(a=numbers(rng, 16, 16), b=spread(numbers(rng, 16, 16), 3, 2), tiles=(16, 16, 16), out_gaps=(1, 2))


@matmul.criterion("ragged tiles along all three sides: nothing beyond the arrays is read, written or added", points=2)
def ragged_products(rng):
    yield dict(a=numbers(rng, 37, 29), b=numbers(rng, 29, 21), tiles=(16, 32, 16))
    yield dict(a=numbers(rng, 16, 5), b=numbers(rng, 5, 16), tiles=(16, 16, 16))
    yield dict(a=numbers(rng, 16, 16), b=numbers(rng, 16, 3), tiles=(16, 16, 16))
    yield dict(a=numbers(rng, 3, 16), b=numbers(rng, 16, 16), tiles=(16, 16, 16))


@matmul.criterion("float16 inputs are summed in float32", points=1)
def half_products(rng):
    a, b = (numbers(rng, *shape, dtype=torch.float16).abs() for shape in ((16, 128), (128, 16)))
    yield dict(a=a, b=b, tiles=(16, 16, 16))
    yield dict(a=a * 64, b=b * 64, tiles=(16, 16, 32))


MATMUL = lessons.matmul_kernel
DOT = 'acc = tl.dot(a, b, acc, input_precision="ieee")'

matmul.mistake(
    "Your tiles of a and b run over the edges: nothing masks the loads. Which rows, columns and steps are there?"
)(
    edited(
        MATMUL,
        "loads_without_mask",
        (", mask=(row < n) & (across < k), other=0.0", ""),
        (", mask=(down < k) & (col < m), other=0.0", ""),
    )
)
matmul.mistake(
    "Your loads are masked, and what they give elsewhere is left open. On a GPU that may be anything, and here it is NaN: what should the places beyond k add?"
)(edited(MATMUL, "elsewhere_left_open", (", other=0.0", "")))
matmul.mistake(
    "Rows and columns are masked, and the walk along k is not. The last step adds products of what lies beyond: which of its BLOCK_K steps are there?"
)(edited(MATMUL, "steps_without_mask", (" & (across < k)", ""), ("(down < k) & ", "")))
matmul.mistake(
    "The mask along k is on one of the two loads alone. 0 times whatever the other load found beyond its array is 0 only if that is a number: which array is read on?"
)(edited(MATMUL, "steps_of_b_without_mask", ("(down < k) & ", "")))
matmul.mistake(
    "The store has no mask: the last tiles of out are written beyond its edges. Which rows and columns are there?"
)(edited(MATMUL, "product_stored_without_mask", ("acc, mask=(row < n) & (col < m)", "acc")))
matmul.mistake(
    "Each step replaces what was summed before it, so only the last part of k is in the result. What should be carried?"
)(edited(MATMUL, "last_step_alone", (DOT, 'acc = tl.dot(a, b, input_precision="ieee")')))
matmul.mistake("Every step multiplies the same two tiles, those at k = 0. How do the addresses move with the loop?")(
    edited(
        MATMUL,
        "always_the_first_tiles",
        ("down, across = start + step", "down, across = 0 * start + step"),
        ("start + step[None", "0 * start + step[None"),
    )
)
matmul.mistake("A ragged rest of k is never visited: k / BLOCK_K is rounded down. Up to where should the loop run?")(
    edited(MATMUL, "rest_of_k_forgotten", ("range(0, k, BLOCK_K)", "range(0, k // BLOCK_K * BLOCK_K, BLOCK_K)"))
)
matmul.mistake(
    "The sum is kept in float16, which has three digits: late products are too small to move it, and above 65504 it is inf. Which type should the accumulator have?"
)(
    edited(
        MATMUL,
        "summed_in_half",
        (DOT, 'acc = (acc + tl.dot(a, b, input_precision="ieee")).to(tl.float16).to(tl.float32)'),
    )
)
matmul.mistake(
    "The sum is right and is rounded to float16 before it is stored. out may be float32; who converts when a block is stored?"
)(edited(MATMUL, "rounded_to_half_at_the_end", ("out_col, acc,", "out_col, acc.to(tl.float16),")))
matmul.mistake(
    "The grid's first axis counts tiles of rows, and you use it for the columns. Which program_id belongs to the rows?"
)(
    edited(
        MATMUL,
        "tiles_of_the_grid_exchanged",
        ("tl.program_id(0)", "tl.program_id(9)"),
        ("tl.program_id(1)", "tl.program_id(0)"),
        ("tl.program_id(9)", "tl.program_id(1)"),
    )
)
matmul.mistake(
    "You walk b with its strides exchanged, which is b transposed. One step along k is a step down the rows of b: which stride is that?"
)(edited(MATMUL, "b_turned_over", ("down * b_row + col * b_col", "down * b_col + col * b_row")))
matmul.mistake(
    "a is read as if its rows lay one behind the other, k numbers each. Which arguments say how far its next row and column are?"
)(edited(MATMUL, "a_taken_for_contiguous", ("row * a_row + across * a_col", "row * k + across")))
matmul.mistake(
    "b is read as if its rows lay one behind the other, m numbers each. Which arguments say how far its next row and column are?"
)(edited(MATMUL, "b_taken_for_contiguous", ("down * b_row + col * b_col", "down * m + col")))
matmul.mistake("b is walked with the strides of a. Each tensor has its own; which are those of b?")(
    edited(MATMUL, "b_with_the_strides_of_a", ("down * b_row + col * b_col", "down * a_row + col * a_col"))
)
matmul.mistake(
    "out is written as if its rows lay one behind the other. Which arguments say how far its next row and column are?"
)(edited(MATMUL, "product_taken_for_contiguous", ("row * out_row + col * out_col", "row * m + col")))


@matmul.mistake(
    "Program (0, 0) makes the whole product, and the others do nothing. The result is right, and the GPU idles. Which tile of out is the business of program (0, 1)?"
)
def the_first_multiplies_it_all(
    a_ptr, b_ptr, out_ptr, n, m, k, a_row, a_col, b_row, b_col, out_row, out_col,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    if tl.program_id(0) + tl.program_id(1) == 0:
        for r in range(0, n, BLOCK_N):
            for c in range(0, m, BLOCK_M):
                row, col = r + tl.arange(0, BLOCK_N)[:, None], c + tl.arange(0, BLOCK_M)[None, :]
                acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
                for start in range(0, k, BLOCK_K):
                    down, across = start + tl.arange(0, BLOCK_K)[:, None], start + tl.arange(0, BLOCK_K)[None, :]
                    a = tl.load(a_ptr + row * a_row + across * a_col, mask=(row < n) & (across < k), other=0.0)
                    b = tl.load(b_ptr + down * b_row + col * b_col, mask=(down < k) & (col < m), other=0.0)
                    acc = tl.dot(a, b, acc, input_precision="ieee")
                tl.store(out_ptr + row * out_row + col * out_col, acc, mask=(row < n) & (col < m))


@matmul.also_right
def pointers_that_advance(
    a_ptr, b_ptr, out_ptr, n, m, k, a_row, a_col, b_row, b_col, out_row, out_col,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.arange(0, BLOCK_K)
    a_tile = a_ptr + (rows % n)[:, None] * a_row + steps[None, :] * a_col  # % n: what is there, read again
    b_tile = b_ptr + steps[:, None] * b_row + (cols % m)[None, :] * b_col
    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for i in range(0, tl.cdiv(k, BLOCK_K)):
        left = k - i * BLOCK_K
        a = tl.load(a_tile, mask=steps[None, :] < left, other=0.0)
        b = tl.load(b_tile, mask=steps[:, None] < left, other=0.0)
        acc += tl.dot(a, b, input_precision="ieee")
        a_tile += BLOCK_K * a_col
        b_tile += BLOCK_K * b_row
    places = out_ptr + rows[:, None] * out_row + cols[None, :] * out_col
    tl.store(places, acc, mask=(rows[:, None] < n) & (cols[None, :] < m))


@matmul.also_right
def one_outer_product_after_another(
    a_ptr, b_ptr, out_ptr, n, m, k, a_row, a_col, b_row, b_col, out_row, out_col,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for j in range(k):
        column = tl.load(a_ptr + rows * a_row + j * a_col, mask=rows < n, other=0.0).to(tl.float32)
        line = tl.load(b_ptr + j * b_row + cols * b_col, mask=cols < m, other=0.0).to(tl.float32)
        total += column[:, None] * line[None, :]
    inside = (rows < n)[:, None] & (cols < m)[None, :]
    tl.store(out_ptr + rows[:, None] * out_row + cols[None, :] * out_col, total, mask=inside)


matmul.hints(
    "Rows as a column and columns as a row, as in 12.2. The steps are needed both ways: across for a, down for b. Both loads mask two sides and give 0 elsewhere.",
    "A zero accumulator of float32 before the loop; in the loop two loads and tl.dot(a, b, acc); after it one masked store.",
)
matmul.errors(
    (
        "ValueError: Both inputs must be either rank 2 or 3; (lhs: ['16'] vs rhs: ['16', '16'])",
        "One of the tiles is a line. A tile needs a column of row numbers plus a row of column numbers.",
    ),
)

# --- 12.6 ------------------------------------------------------------------------------------------------------------

flash = Exercise(
    "12.6",
    "Flash attention",
    reference=lessons.flash_kernel.fn,
    minutes=45,
    isolate=ON_THE_CPU,
    needs="triton",
    forbids=(
        "attn_ref.triton_forward.forward_kernel",
        "attn_ref.triton_forward.walk_keys",
        "attn_ref.triton_forward.finish_rows",
    ),
)


def of_heads(rng, n_heads, n_q, n_k, D=16):
    """q, k and v for a few heads."""
    return dict(q=numbers(rng, n_heads, n_q, D), k=numbers(rng, n_heads, n_k, D), v=numbers(rng, n_heads, n_k, D))


def by_hand():
    """One query (2, 0, ...), keys 0 and (log 3, 0, ...), values 4 and 8 in the first place. Scale ½ makes ¼ and ¾."""
    q, k, v = torch.zeros(1, 1, 16), torch.zeros(1, 2, 16), torch.zeros(1, 2, 16)
    q[0, 0, 0], k[0, 1, 0], v[0, 0, 0], v[0, 1, 0] = 2.0, float(np.log(3.0)), 4.0, 8.0
    return dict(q=q, k=k, v=v)


def far(n_q, n_k, sign=1):
    """Scores that are multiples of 64, of either sign, equal in pairs, the larger ones last; or all below 0. n_k is even.

    Every third query has the other sign. The two keys of a pair differ in a way that no score shows.
    """
    q, k = torch.zeros(1, n_q, 16), torch.zeros(1, n_k, 16)
    place = torch.arange(n_k)
    q[0, :, :2] = 64.0
    q[0, ::3] *= sign
    k[0, :, 0] = place // 2 - (n_k // 4 if sign > 0 else n_k // 2 + 4) + 3.0 * (place % 2)
    k[0, :, 1] = -3.0 * (place % 2)
    return dict(q=q, k=k, v=torch.arange(float(n_k * 16)).reshape(1, n_k, 16) ** 2 / 65536)


@flash.probe
def drive_flash(answer, q, k, v, scale, causal, tiles):
    (n_heads, n_q, D), n_k, (tile_q, tile_k) = q.shape, k.shape[1], tiles
    given = dict(q=q, k=k, v=v, out=unwritten(n_heads, n_q, D), lse=unwritten(n_heads, n_q), n_q=n_q, n_k=n_k)
    given |= dict(scale=scale, CAUSAL=causal, D=D, BLOCK_Q=tile_q, BLOCK_K=tile_k)

    works = each_works(given["out"])

    def keys_in_vain(seen):
        """Does a program read a tile of keys that none of its queries may see?"""
        for h in range(n_heads if causal else 0):
            for i in range(blocks(n_q, tile_q)):
                last = min((i + 1) * tile_q, n_q) + n_k - n_q  # the first key that its last query does not see
                useful = max(0, blocks(last, tile_k) * tile_k)
                for x in (k, v):
                    if seen.touched(x, (i, h))[h, useful:].any():
                        return {"tiles": f"program {(i, h)} reads one in vain"} | works(seen)
        return {"tiles": "none in vain"} | works(seen)

    return launched(answer, (blocks(n_q, tile_q), n_heads), given, ("out", "lse"), keys_in_vain)


@flash.criterion("one block of queries and one of keys: out and lse are those of attention", points=1)
def one_tile(rng):
    yield dict(**by_hand(), scale=0.5, causal=False, tiles=(16, 16))
    yield dict(**of_heads(rng, 1, 16, 16), scale=0.3, causal=False, tiles=(16, 16))


@flash.criterion("many blocks and heads, whichever block of keys holds the largest score", points=2)
def many_tiles(rng):
    yield dict(**of_heads(rng, 3, 16, 32), scale=0.5, causal=False, tiles=(16, 16))
    yield dict(**of_heads(rng, 1, 48, 32, D=32), scale=-0.2, causal=False, tiles=(16, 32))


@flash.criterion("ragged blocks on both sides: nothing beyond the arrays is read, written or attended to", points=2)
def ragged_attention(rng):
    yield dict(**of_heads(rng, 2, 21, 19), scale=0.3, causal=False, tiles=(16, 16))
    case = of_heads(rng, 1, 5, 37)
    yield dict(q=case["q"].abs(), k=-case["k"].abs(), v=case["v"], scale=1.0, causal=False, tiles=(16, 32))


@flash.criterion("causal: query i sees keys up to i + n_k - n_q, and one that sees none gets 0, and lse -inf", points=2)
def causal_attention(rng):
    yield dict(**of_heads(rng, 1, 19, 37), scale=0.3, causal=True, tiles=(16, 16))
    yield dict(**of_heads(rng, 1, 37, 19), scale=0.3, causal=True, tiles=(32, 16))
    yield dict(**of_heads(rng, 1, 32, 32), scale=0.3, causal=True, tiles=(16, 16))
    yield dict(**of_heads(rng, 1, 32, 33), scale=0.3, causal=True, tiles=(16, 16))
    yield dict(**of_heads(rng, 1, 48, 16), scale=0.3, causal=True, tiles=(16, 16))


@flash.criterion("scores in the thousands, of either sign", points=1)
def far_attention(rng):
    yield dict(**far(3, 32), scale=1.0, causal=False, tiles=(16, 16))
    yield dict(**far(3, 22, sign=-1), scale=1.0, causal=False, tiles=(16, 16))
    yield dict(**far(3, 6, sign=-1), scale=24.0, causal=False, tiles=(16, 16))


FLASH = lessons.flash_kernel
VISIBLE = "key[None, :] <= row[:, None] + n_k - n_q"
STOP = "end = tl.minimum(n_k, q0 + BLOCK_Q + n_k - n_q)"
TO_LSE = "(row_max + tl.log2(row_sum)) * 0.6931471805599453"

flash.mistake(
    "acc still holds weights measured from the old maximum when a new one comes. By which factor must it shrink, as row_sum does?"
)(edited(FLASH, "acc_not_rescaled", ("acc * fade[:, None]", "acc")))
flash.mistake(
    "row_sum still counts from the old maximum when a new one comes. By which factor must it shrink, as acc does?"
)(edited(FLASH, "row_sum_not_rescaled", ("row_sum * fade", "row_sum")))
flash.mistake("Your scores are in natural units, and exp2 takes powers of 2. Which factor belongs into the scale?")(
    edited(
        FLASH,
        "exp2_of_natural_scores",
        ("(scale * 1.4426950408889634)", "scale"),
        (TO_LSE, "row_max + tl.log(row_sum)"),
    )
)
flash.mistake("out is right, and lse is a logarithm to base 2. What is the natural logarithm if log2 is known?")(
    edited(FLASH, "lse_in_base_two", (" * 0.6931471805599453", ""))
)
flash.mistake(
    "out is right, and lse is the logarithm of row_sum alone. From which number are its exponentials measured?"
)(edited(FLASH, "lse_without_the_maximum", (TO_LSE, "tl.log2(row_sum) * 0.6931471805599453")))
flash.mistake("`scale` is never used: the scores are the bare dot products. Where do they become scores?")(
    edited(FLASH, "scores_not_scaled", ("scale * 1.4426950408889634", "1.4426950408889634"))
)
flash.mistake(
    "A ragged last block of keys is padded with zeros, and a score of 0 gets weight. Which score should a key have that is not there?"
)(edited(FLASH, "padded_keys_attended", ("allowed = key[None, :] < n_k", "allowed = key[None, :] >= 0")))
flash.mistake(
    "Keys and values beyond the last one are loaded: of the next head, or of nothing at all. What keeps the loads inside the array?"
)(edited(FLASH, "keys_read_on", (", mask=key[:, None] < n_k, other=0.0", "")))
flash.mistake(
    "Your loads are masked, and what they give elsewhere is left open: anything on a GPU, NaN here, and a weight of 0 times NaN is NaN. What should keys and values hold that are not there?"
)(edited(FLASH, "keys_elsewhere_left_open", (", mask=key[:, None] < n_k, other=0.0", ", mask=key[:, None] < n_k")))
flash.mistake(
    "out is stored without a mask: spare rows of the last block land in the next head, or beyond. Which rows are there?"
)(edited(FLASH, "spare_rows_stored", ("out, mask=row[:, None] < n_q", "out")))
flash.mistake(
    "Your causal mask is aligned at the top left: query 0 sees key 0 alone. The last query stands at the last key; where does query i stand?"
)(
    edited(
        FLASH,
        "causal_from_the_top_left",
        (VISIBLE, "key[None, :] <= row[:, None]"),
        (STOP, "end = tl.minimum(n_k, q0 + BLOCK_Q)"),
    )
)
flash.mistake("A query should see the key at its own position too. Is it < or <=?")(
    edited(FLASH, "own_key_hidden", (VISIBLE, VISIBLE.replace("<=", "<")))
)
flash.mistake("CAUSAL changes nothing in your kernel: every query sees every key. Where is it read?")(
    edited(FLASH, "causal_ignored", ("if CAUSAL:", "if False:"))
)
flash.mistake(
    "Everything is right, and half of the work is in vain: with CAUSAL a program walks on into tiles that none of its queries may see. Which key does its last query see last?"
)(edited(FLASH, "walks_into_the_future", (STOP, "end = n_k")))
flash.mistake(
    "A query that has seen nothing yet has the maximum -inf, and -inf - -inf is NaN. What else can be subtracted until a key is seen?"
)(
    edited(
        FLASH,
        "nan_for_queries_without_keys",
        ('tl.where(new_max == -float("inf"), 0.0, new_max)', "new_max"),
        ("acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]", "acc / row_sum[:, None]"),
    )
)
flash.mistake(
    "Your walk over the keys ends one key early. Where the last key that a block sees begins a tile, the whole tile is left out: does your `end` count that key?"
)(edited(FLASH, "ends_one_key_early", (STOP, "end = tl.minimum(n_k, q0 + BLOCK_Q - 1 + n_k - n_q)")))
flash.mistake(
    "Your walk over the keys ends one key late. Where that key begins a tile, a whole tile is read in vain: does `range` include its end?"
)(edited(FLASH, "ends_one_key_late", (STOP, "end = tl.minimum(n_k, q0 + BLOCK_Q + 1 + n_k - n_q)")))
flash.mistake(
    "With CAUSAL you end the walk earlier, and inside the last tile every query sees every key. Which keys of that tile may a query see?"
)(edited(FLASH, "tiles_cut_and_not_masked", (f" & ({VISIBLE})", "")))
flash.mistake(
    "A query that sees nothing has row_sum 0, and 0 / 0 is NaN. What could it be divided by, so that out is 0?"
)(edited(FLASH, "divided_by_an_empty_sum", ("tl.where(row_sum == 0, 1.0, row_sum)[:, None]", "row_sum[:, None]")))
flash.mistake(
    "Your maximum starts at 0. Where all scores of a query lie near -1000 it never moves, and all weights vanish. Below which number can no score lie?"
)(
    edited(
        FLASH,
        "row_max_starts_at_zero",
        ('tl.full([BLOCK_Q], -float("inf"), tl.float32)', "tl.zeros([BLOCK_Q], tl.float32)"),
    )
)
flash.mistake(
    "Your maximum starts at -10,000. Times log2 e that is only -6,931 in natural units, and scores may lie below it. Is there a number below every score?"
)(
    edited(
        FLASH, "row_max_starts_at_minus_ten_thousand", ('tl.full([BLOCK_Q], -float("inf")', "tl.full([BLOCK_Q], -1e4")
    )
)
flash.mistake(
    "A block of early queries may see no key at all, and your walk visits the first tile all the same. How many steps has a range whose end is 0 or less?"
)(edited(FLASH, "always_one_tile", (STOP, "end = tl.maximum(1, tl.minimum(n_k, q0 + BLOCK_Q + n_k - n_q))")))
flash.mistake("All heads store lse at the same place, and race for it. Where does lse of head h begin?")(
    edited(FLASH, "lse_without_its_head", ("lse_ptr + h * n_q + row", "lse_ptr + row"))
)
flash.mistake("The weighted sum is stored undivided. By what does each row have to be divided at the end?")(
    edited(FLASH, "not_divided_by_row_sum", (" / tl.where(row_sum == 0, 1.0, row_sum)[:, None]", ""))
)
flash.mistake(
    "Head h of k and v begins after h · n_k rows, and you count n_q of them. With as many queries as keys that is the same; here it is not."
)(edited(FLASH, "keys_of_another_head", ("(h * n_k + key[:, None])", "(h * n_q + key[:, None])")))
flash.mistake(
    "The grid is (blocks of queries, heads), and you use its axes the other way round. Which program_id is the head?"
)(
    edited(
        FLASH,
        "head_and_block_exchanged",
        ("h, q0, c = tl.program_id(1), tl.program_id(0)", "h, q0, c = tl.program_id(0), tl.program_id(1)"),
    )
)
flash.mistake(
    "Keys are walked up to the last whole block; a ragged rest is never seen. Up to where should the loop run?"
)(
    edited(
        FLASH, "rest_of_the_keys_forgotten", ("range(0, end, BLOCK_K)", "range(0, end // BLOCK_K * BLOCK_K, BLOCK_K)")
    )
)


@flash.also_right
def natural_exponentials_and_a_finite_start(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head, rows, cols = tl.program_id(1), tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, D)
    q_ptr += head * n_q * D
    out_ptr += head * n_q * D
    k_ptr += head * n_k * D
    v_ptr += head * n_k * D
    there = (rows < n_q)[:, None]
    q = tl.load(q_ptr + rows[:, None] * D + cols[None, :], mask=there, other=0.0) * scale
    m = tl.full([BLOCK_Q], -1e30, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    last = tl.max(tl.where(rows < n_q, rows, 0)) + n_k - n_q if CAUSAL else n_k - 1
    for start in range(0, tl.minimum(last + 1, n_k), BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        inside = (keys < n_k)[:, None]
        k = tl.load(k_ptr + keys[:, None] * D + cols[None, :], mask=inside, other=0.0)
        v = tl.load(v_ptr + keys[:, None] * D + cols[None, :], mask=inside, other=0.0)
        visible = (keys < n_k)[None, :] & (rows >= 0)[:, None]
        if CAUSAL:
            visible &= keys[None, :] - rows[:, None] <= n_k - n_q
        s = tl.where(visible, tl.dot(q, tl.trans(k), input_precision="ieee"), -1e30)
        larger = tl.maximum(m, tl.max(s, axis=1))
        w = tl.where(visible, tl.exp(s - larger[:, None]), 0.0)
        shrink = tl.exp(m - larger)
        total = total * shrink + tl.sum(w, axis=1)
        acc = acc * shrink[:, None] + tl.dot(w, v, input_precision="ieee")
        m = larger
    empty = total == 0
    out = acc / tl.where(empty, 1.0, total)[:, None]
    lse = tl.where(empty, float("-inf"), m + tl.log(tl.where(empty, 1.0, total)))
    tl.store(out_ptr + rows[:, None] * D + cols[None, :], out, mask=there)
    tl.store(lse_ptr + head * n_q + rows, lse, mask=rows < n_q)


@flash.also_right
def maximum_in_a_walk_of_its_own(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    h, first, d = tl.program_id(1), tl.program_id(0) * BLOCK_Q, tl.arange(0, D)
    i = first + tl.arange(0, BLOCK_Q)
    sees = i + n_k - n_q if CAUSAL else i * 0 + n_k - 1
    q = tl.load(q_ptr + (h * n_q + i)[:, None] * D + d[None, :], mask=(i < n_q)[:, None], other=0.0)
    unit = scale * 1.4426950408889634
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    stop = tl.minimum(n_k, tl.max(sees) + 1)
    for j0 in range(0, stop, BLOCK_K):
        j = j0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + (h * n_k + j)[:, None] * D + d[None, :], mask=(j < n_k)[:, None], other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * unit
        top = tl.maximum(top, tl.max(tl.where((j < n_k)[None, :] & (j[None, :] <= sees[:, None]), s, float("-inf")), 1))
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros([BLOCK_Q], tl.float32)
    out = tl.zeros([BLOCK_Q, D], tl.float32)
    for j0 in range(0, stop, BLOCK_K):
        j = j0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + (h * n_k + j)[:, None] * D + d[None, :], mask=(j < n_k)[:, None], other=0.0)
        v = tl.load(v_ptr + (h * n_k + j)[:, None] * D + d[None, :], mask=(j < n_k)[:, None], other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") * unit
        w = tl.exp2(tl.where((j < n_k)[None, :] & (j[None, :] <= sees[:, None]), s, float("-inf")) - top[:, None])
        total += tl.sum(w, 1)
        out += tl.dot(w, v, input_precision="ieee")
    out = tl.where(total[:, None] > 0, out / tl.where(total > 0, total, 1.0)[:, None], 0.0)
    tl.store(out_ptr + (h * n_q + i)[:, None] * D + d[None, :], out, mask=(i < n_q)[:, None])
    tl.store(lse_ptr + h * n_q + i, top / 1.4426950408889634 + tl.log(total), mask=i < n_q)


flash.hints(
    "12.4 with a block of queries in place of one row: row_max and row_sum have BLOCK_Q entries, and acc joins them.",
    "Start the state at -inf, 0 and 0. In the loop: scores by tl.dot with k transposed; -inf where a key is not there or not allowed; then the step of 12.4, with acc rescaled as the sum is.",
    "With CAUSAL the last query of the block sees keys up to q0 + BLOCK_Q - 1 + n_k - n_q: end the loop behind that. After it divide by row_sum, or by 1 where it is 0.",
)
flash.errors(
    (
        "ValueError: Cannot make_shape_compatible: incompatible dimensions at index 1: 16 and 32",
        "A number for each query meets a tile of (queries, keys): it needs <code>[:, None]</code>.",
    ),
)

# --- 12.7 ------------------------------------------------------------------------------------------------------------

dq = Exercise(
    "12.7",
    "Back to the queries",
    reference=lessons.dq_kernel.fn,
    minutes=25,
    isolate=ON_THE_CPU,
    needs="triton",
    forbids=(
        "attn_ref.triton_backward.walk_keys_back",
        "attn_ref.triton_backward.weights_and_gradients",
        "attn_ref.triton_backward.dq_kernel",
    ),
)


def forward(q, k, v, scale, causal):
    """out and lse in float64, written out."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.mT * scale
    if causal:
        n_q, n_k = scores.shape[1:]
        scores = scores.masked_fill(torch.ones(n_q, n_k).triu(n_k - n_q + 1).bool(), -torch.inf)
    lse = torch.logsumexp(scores, -1)
    weights = torch.where(lse[..., None] == -torch.inf, 0.0, torch.exp(scores - lse[..., None]))
    return weights @ v, lse


def backward_case(q, k, v, grad, scale, causal, tiles):
    """The arguments of a backward kernel: lse and δ belong to q, k and v."""
    out, lse = forward(q, k, v, scale, causal)
    delta = (out * grad.double()).sum(-1).float()
    return dict(q=q, k=k, v=v, grad=grad, lse=lse.float(), delta=delta, scale=scale, causal=causal, tiles=tiles)


BACKWARD = 3e-4  # of float32 gradients: the weights come from e^(s - lse), and dP - delta loses digits


def random_backward(rng, n_heads, n_q, n_k, tiles, causal=False, D=16, scale=0.3):
    case = of_heads(rng, n_heads, n_q, n_k, D)
    return backward_case(**case, grad=numbers(rng, n_heads, n_q, D), scale=scale, causal=causal, tiles=tiles)


def backward_by_hand():
    """The example of chapter 10: dq is (0, -1.5, 2.5), dk has -1 and 1, dv ½ and ½."""
    q, k, v, grad = (torch.zeros(1, n, 16) for n in (1, 2, 2, 1))
    q[0, 0, 0], k[0, 0, 1], k[0, 1, 2], v[0, 0, 0], v[0, 1, 0], grad[0, 0, 0] = 2.0, 3.0, 5.0, 4.0, 8.0, 1.0
    return backward_case(q, k, v, grad, 0.5, False, (16, 16))


def far_backward(rng, n_q, n_k, sign, scale=1.0):
    case = far(n_q, n_k, sign)
    return backward_case(**case, grad=numbers(rng, 1, n_q, 16), scale=scale, causal=False, tiles=(16, 16))


def of_backward(q, k, v, grad, lse, delta, scale, causal, tiles, **results):
    """The arguments of a backward kernel by name, in order."""
    given = dict(q=q, k=k, v=v, grad=grad, lse=lse, delta=delta, **results, n_q=q.shape[1], n_k=k.shape[1])
    return given | dict(scale=scale, CAUSAL=causal, D=q.shape[2], BLOCK_Q=tiles[0], BLOCK_K=tiles[1])


@dq.probe
def drive_dq(answer, **case):
    q, tile_q = case["q"], case["tiles"][0]
    given = of_backward(**case, dq=unwritten(*q.shape))
    return launched(answer, (blocks(q.shape[1], tile_q), len(q)), given, ("dq",), each_works(given["dq"]))


@dq.criterion("the gradient of the queries, with one block and with many", points=2, tolerance=BACKWARD)
def dq_of_blocks(rng):
    yield backward_by_hand()
    yield random_backward(rng, 1, 16, 48, (16, 16))
    yield random_backward(rng, 3, 32, 16, (16, 16), D=32)


@dq.criterion("ragged blocks on both sides: nothing beyond the arrays is read or written", points=1, tolerance=BACKWARD)
def dq_of_ragged_blocks(rng):
    yield random_backward(rng, 2, 21, 19, (16, 16))
    yield random_backward(rng, 1, 21, 37, (16, 32))


@dq.criterion("causal, and a query that saw nothing gets the gradient 0", points=1, tolerance=BACKWARD)
def dq_of_causal(rng):
    yield random_backward(rng, 1, 19, 37, (16, 16), causal=True)
    yield random_backward(rng, 1, 37, 19, (32, 16), causal=True)
    yield random_backward(rng, 1, 32, 33, (16, 16), causal=True)


@dq.criterion("scores in the thousands, of either sign, to three digits", points=1, tolerance=1e-3)
def dq_of_far_scores(rng):
    yield far_backward(rng, 3, 22, -1)
    yield far_backward(rng, 4, 18, 1)
    yield far_backward(rng, 3, 6, -1, scale=8.0)


DQ = lessons.dq_kernel
WEIGHTS = "tl.exp2((s - lse[:, None]) * 1.4426950408889634)"

dq.mistake(
    "Scores are dot products times `scale`, and the gradient passes that factor on its way back to q. Where is it in dq?"
)(edited(DQ, "dq_not_scaled", ("dq * scale", "dq")))
dq.mistake(
    "`scale` comes in twice: once for the scores themselves, once in dq, and once more. How often is a score multiplied by it?"
)(edited(DQ, "dq_scaled_twice", ("dq * scale", "dq * scale * scale")))
dq.mistake("Softmax's backward pass subtracts the row's average from what reaches each weight. Where is delta?")(
    edited(DQ, "delta_forgotten", (" - delta[:, None])", ")"))
)
dq.mistake("The sign is turned round: is it dP - δ or δ - dP?")(
    edited(
        DQ,
        "sign_turned_round",
        (
            '(tl.dot(grad, v.T, input_precision="ieee") - delta[:, None])',
            '(delta[:, None] - tl.dot(grad, v.T, input_precision="ieee"))',
        ),
    )
)
dq.mistake(
    "You divide by the sum of the weights of one tile. lse already belongs to the whole row: what is exp(score - lse)?"
)(
    edited(
        DQ,
        "weights_shared_within_a_tile",
        ("        ds = p * (", "        p = p / tl.maximum(tl.sum(p, 1), 1e-30)[:, None]\n        ds = p * ("),
    )
)
dq.mistake("exp2 takes powers of 2, and s - lse is meant for e. Which factor is missing?")(
    edited(DQ, "exp2_of_natural_difference", (" * 1.4426950408889634", ""))
)
dq.mistake(
    "lse is a natural logarithm, and you subtract it from scores in base 2. Both need the same unit: which of the two has it?"
)(edited(DQ, "lse_taken_for_base_two", (WEIGHTS, "tl.exp2(s * 1.4426950408889634 - lse[:, None])")))
dq.mistake(
    "The mask is missing on the way back: a query gets gradients through keys that it never saw. Where is CAUSAL read?"
)(edited(DQ, "causal_forgotten_on_the_way_back", ("if CAUSAL:", "if False:")))
dq.mistake("The causal mask is aligned at the top left. Where does query i stand?")(
    edited(
        DQ,
        "back_from_the_top_left",
        (VISIBLE, "key[None, :] <= row[:, None]"),
        (STOP, "end = tl.minimum(n_k, q0 + BLOCK_Q)"),
    )
)
dq.mistake(
    "The forbidden weights are multiplied by 0, and inf · 0 is NaN: a query that saw nothing has lse = -inf, and exp(s + inf) is inf. What chooses between two values without multiplying?"
)(edited(DQ, "masked_by_multiplying", (f"tl.where(allowed, {WEIGHTS}, 0.0)", f"{WEIGHTS} * allowed.to(tl.float32)")))
dq.mistake(
    "A forbidden score of -inf makes the weight 0, but for a query that saw nothing: its lse is -inf too, and -inf - -inf is NaN. What can be chosen after the exponential?"
)(
    edited(
        DQ,
        "score_masked_and_not_weight",
        (f"tl.where(allowed, {WEIGHTS}, 0.0)", WEIGHTS.replace("s -", 'tl.where(allowed, s, -float("inf")) -')),
    )
)
dq.mistake(
    "With CAUSAL you end the walk earlier, and inside the last tile gradients pass through keys that were never seen. Which weights of that tile are 0?"
)(edited(DQ, "back_through_a_whole_tile", (f" & ({VISIBLE})", "")))
dq.mistake(
    "Your walk over the keys ends one key early. Where the last key that a block saw begins a tile, the whole tile is left out: does your `end` count that key?"
)(edited(DQ, "back_ends_one_key_early", (STOP, "end = tl.minimum(n_k, q0 + BLOCK_Q - 1 + n_k - n_q)")))
dq.mistake("The weights come from bare dot products, and lse from scores. What is between the two?")(
    edited(DQ, "weights_of_bare_products", ('k.T, input_precision="ieee") * scale', 'k.T, input_precision="ieee")'))
)
dq.mistake("All heads read the delta of head 0. Where does delta of head h begin?")(
    edited(DQ, "delta_of_the_first_head", ("delta_ptr + h * n_q + row", "delta_ptr + row"))
)
dq.mistake(
    "Keys beyond the last one get the score 0. Where all real scores are near -1000, exp(0 + 1000) overflows, and inf · 0 is NaN. Which keys are allowed?"
)(edited(DQ, "padded_keys_overflow", ("allowed = key[None, :] < n_k", "allowed = key[None, :] >= 0")))
dq.mistake("Only the last block of keys is in your dq. What must be carried from block to block?")(
    edited(DQ, "dq_of_the_last_block", ("k, dq, input", "k, input"))
)
dq.mistake("You multiply dS by the values. A score is q · k: what does its gradient by q contain?")(
    edited(DQ, "ds_times_values", ("ds.to(k.dtype), k, dq", "ds.to(k.dtype), v, dq"))
)
dq.mistake("Loads of k and v run beyond the last key. What keeps them inside the arrays?")(
    edited(DQ, "keys_read_on_again", (", mask=key[:, None] < n_k, other=0.0", ""))
)
dq.mistake("dq is stored without a mask: spare rows land in the next head, or beyond. Which rows are there?")(
    edited(DQ, "spare_rows_of_dq", ("dq * scale, mask=row[:, None] < n_q", "dq * scale"))
)


@dq.also_right
def scaled_at_the_start(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head, d = tl.program_id(1), tl.arange(0, D)[None, :]
    i = (tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q))[:, None]
    there = i < n_q
    q = scale * tl.load(q_ptr + head * n_q * D + i * D + d, mask=there, other=0.0)
    do = tl.load(grad_ptr + head * n_q * D + i * D + d, mask=there, other=0.0)
    lse = tl.load(lse_ptr + head * n_q + i, mask=there, other=float("inf"))
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    delta = tl.load(delta_ptr + head * n_q + i, mask=there, other=0.0)
    total = tl.zeros([BLOCK_Q, D], tl.float32)
    for j0 in range(0, n_k, BLOCK_K):
        j = j0 + tl.arange(0, BLOCK_K)
        k = tl.load(k_ptr + head * n_k * D + j[:, None] * D + d, mask=(j < n_k)[:, None], other=0.0)
        v = tl.load(v_ptr + head * n_k * D + j[:, None] * D + d, mask=(j < n_k)[:, None], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        s = tl.where((j < n_k)[None, :], s, float("-inf"))
        if CAUSAL:
            s = tl.where(j[None, :] - i <= n_k - n_q, s, float("-inf"))
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        total += tl.dot(tl.exp(s - lse) * (dp - delta) * scale, k, input_precision="ieee")
    tl.store(dq_ptr + head * n_q * D + i * D + d, total, mask=there)


@dq.also_right
def one_key_at_a_time(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    h, c = tl.program_id(1), tl.arange(0, D)
    row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there, at = row < n_q, (h * n_q + row)[:, None] * D + c[None, :]
    q = tl.load(q_ptr + at, mask=there[:, None], other=0.0)
    grad = tl.load(grad_ptr + at, mask=there[:, None], other=0.0)
    lse = tl.load(lse_ptr + h * n_q + row, mask=there, other=0.0)
    delta = tl.load(delta_ptr + h * n_q + row, mask=there, other=0.0)
    dq = tl.zeros([BLOCK_Q, D], tl.float32)
    for j in range(n_k):
        k, v = tl.load(k_ptr + (h * n_k + j) * D + c), tl.load(v_ptr + (h * n_k + j) * D + c)
        p = tl.exp2((tl.sum(q * k[None, :], 1) * scale - lse) * 1.4426950408889634)
        if CAUSAL:
            p = tl.where(j <= row + n_k - n_q, p, 0.0)
        ds = p * (tl.sum(grad * v[None, :], 1) - delta)
        dq += ds[:, None] * k[None, :]
    tl.store(dq_ptr + at, scale * dq, mask=there[:, None])


dq.hints(
    "The loop is that of 12.6, without a running maximum: the weights come back as exp(score - lse).",
    "For each block of keys: p from s and lse, 0 where forbidden; dP is grad times the values transposed; dS = p · (dP - delta); add dS times the keys. Multiply by scale at the end.",
)

# --- 12.8 ------------------------------------------------------------------------------------------------------------

dk_dv = Exercise(
    "12.8",
    "Back to keys and values",
    reference=lessons.dk_dv_kernel.fn,
    minutes=30,
    isolate=ON_THE_CPU,
    needs="triton",
    forbids=(
        "attn_ref.triton_backward.walk_queries",
        "attn_ref.triton_backward.weights_and_gradients",
        "attn_ref.triton_backward.dk_dv_kernel",
    ),
)


@dk_dv.probe
def drive_dk_dv(answer, **case):
    k, v, tile_k = case["k"], case["v"], case["tiles"][1]
    given = of_backward(**case, dk=torch.zeros_like(k), dv=torch.zeros_like(v))
    return launched(answer, (blocks(k.shape[1], tile_k), len(k)), given, ("dk", "dv"))


@dk_dv.criterion("the gradients of keys and values, with one block and with many", points=2, tolerance=BACKWARD)
def dk_dv_of_blocks(rng):
    yield backward_by_hand()
    yield random_backward(rng, 1, 48, 16, (16, 16))
    yield random_backward(rng, 3, 16, 32, (16, 16), D=32)


@dk_dv.criterion("no two programs share a number of dk or dv, unless both add to it atomically", points=2)
def dk_dv_owned(rng):
    yield random_backward(rng, 1, 32, 32, (16, 16))


@dk_dv.criterion(
    "ragged blocks on both sides: nothing beyond the arrays is read or written", points=1, tolerance=BACKWARD
)
def dk_dv_of_ragged_blocks(rng):
    yield random_backward(rng, 2, 19, 21, (16, 16))
    yield random_backward(rng, 1, 37, 21, (32, 16))


@dk_dv.criterion("causal, and a query that saw nothing sends no gradient", points=1, tolerance=BACKWARD)
def dk_dv_of_causal(rng):
    yield random_backward(rng, 1, 19, 37, (16, 16), causal=True)
    yield random_backward(rng, 1, 37, 19, (16, 16), causal=True)
    yield random_backward(rng, 1, 32, 33, (16, 16), causal=True)


@dk_dv.criterion("scores in the thousands, of either sign, to three digits", points=1, tolerance=1e-3)
def dk_dv_of_far_scores(rng):
    yield far_backward(rng, 3, 22, -1)
    yield far_backward(rng, 4, 18, 1)
    yield far_backward(rng, 3, 6, -1, scale=8.0)


DK_DV = lessons.dk_dv_kernel


@dk_dv.mistake(
    "Your numbers are right here and will not be on a GPU: programs that hold different queries load, add to and store the same dk and dv. Between one's load and its store another may store, and that addition is lost. Who could own a row of dk?"
)
def programs_race_for_the_keys(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    h, c = tl.program_id(1), tl.arange(0, D)[None, :]
    for q0 in range(tl.program_id(0) * BLOCK_Q, n_q, tl.num_programs(0) * BLOCK_Q):
        row = q0 + tl.arange(0, BLOCK_Q)
        q = tl.load(q_ptr + (h * n_q + row[:, None]) * D + c, mask=row[:, None] < n_q, other=0.0)
        grad = tl.load(grad_ptr + (h * n_q + row[:, None]) * D + c, mask=row[:, None] < n_q, other=0.0)
        lse = tl.load(lse_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        delta = tl.load(delta_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        for k0 in range(0, n_k, BLOCK_K):
            key = k0 + tl.arange(0, BLOCK_K)
            at, there = (h * n_k + key[:, None]) * D + c, key[:, None] < n_k
            k, v = tl.load(k_ptr + at, mask=there, other=0.0), tl.load(v_ptr + at, mask=there, other=0.0)
            s = tl.dot(q, k.T, input_precision="ieee") * scale
            allowed = (row[:, None] < n_q) & (key[None, :] < n_k)
            if CAUSAL:
                allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
            p = tl.where(allowed, tl.exp2((s - lse[:, None]) * 1.4426950408889634), 0.0)
            ds = p * (tl.dot(grad, v.T, input_precision="ieee") - delta[:, None]) * scale
            dk = tl.load(dk_ptr + at, mask=there, other=0.0) + tl.dot(ds.T, q, input_precision="ieee")
            dv = tl.load(dv_ptr + at, mask=there, other=0.0) + tl.dot(p.T, grad, input_precision="ieee")
            tl.store(dk_ptr + at, dk, mask=there)
            tl.store(dv_ptr + at, dv, mask=there)


dk_dv.mistake(
    "Scores are dot products times `scale`, and the gradient passes that factor on its way back to k. Where is it in dk?"
)(edited(DK_DV, "dk_not_scaled", ("dk * scale", "dk")))
dk_dv.mistake(
    "dv is multiplied by `scale`. The values meet the weights, not the scores: does a scale stand between them?"
)(edited(DK_DV, "dv_scaled_too", ("dv_ptr + at, dv", "dv_ptr + at, dv * scale")))
dk_dv.mistake(
    "P has a row for each query, and dv one for each key. For blocks of one size the product runs all the same: what must be done to P first?"
)(
    edited(
        DK_DV, "weights_not_turned", ("p.to(grad.dtype).T", "p.to(grad.dtype)"), ("ds.to(q.dtype).T", "ds.to(q.dtype)")
    )
)
dk_dv.mistake(
    "dv is built from dS. What a value receives is the weight times what reaches the output: which of P and dS is that?"
)(edited(DK_DV, "values_from_ds", ("p.to(grad.dtype).T", "ds.to(grad.dtype).T")))
dk_dv.mistake("dk is built from P. A key acts through its scores: which of P and dS is their gradient?")(
    edited(DK_DV, "keys_from_weights", ("ds.to(q.dtype).T", "p.to(q.dtype).T"))
)
dk_dv.mistake(
    "Softmax's backward pass subtracts the row's average from what reaches each weight. Where is delta in dS?"
)(edited(DK_DV, "delta_left_out", (" - delta[:, None])", ")")))
dk_dv.mistake("exp2 takes powers of 2, and s - lse is meant for e. Which factor is missing in the weights?")(
    edited(DK_DV, "weights_in_base_two", (" * 1.4426950408889634", ""))
)
dk_dv.mistake("Keys receive gradients from queries that never saw them. Where is CAUSAL read?")(
    edited(DK_DV, "past_queries_counted", ("if CAUSAL:", "if False:"))
)
dk_dv.mistake(
    "Your walk over the queries begins too late: a block of queries in which only some see the keys is left out. Should the first one be rounded up or down?"
)(
    edited(
        DK_DV,
        "begins_too_late",
        ("tl.maximum(k0 - (n_k - n_q), 0) // BLOCK_Q", "tl.cdiv(tl.maximum(k0 - (n_k - n_q), 0), BLOCK_Q)"),
    )
)
dk_dv.mistake("Query i is taken to stand at position i. The last query stands at the last key: where does query i?")(
    edited(DK_DV, "queries_from_the_top_left", (VISIBLE, "key[None, :] <= row[:, None]"), ("k0 - (n_k - n_q)", "k0"))
)
dk_dv.mistake("Only the last block of queries is in your result. What must be carried from block to block?")(
    edited(DK_DV, "last_queries_alone", ("grad, dv, input", "grad, input"), ("q, dk, input", "q, input"))
)
dk_dv.mistake("A ragged rest of the queries is never visited. Up to where should the loop run?")(
    edited(
        DK_DV,
        "rest_of_the_queries_forgotten",
        ("range(begin, n_q, BLOCK_Q)", "range(begin, n_q // BLOCK_Q * BLOCK_Q, BLOCK_Q)"),
    )
)
dk_dv.mistake("The loads of q and grad run beyond the last query. What keeps them inside the arrays?")(
    edited(DK_DV, "queries_read_on", (", mask=there, other=0.0", ""))
)
dk_dv.mistake(
    "dk and dv are stored without a mask: spare rows land in the next head, or beyond. Which keys are there?"
)(
    edited(
        DK_DV,
        "spare_keys_stored",
        ("dk * scale, mask=key[:, None] < n_k", "dk * scale"),
        ("at, dv, mask=key[:, None] < n_k", "at, dv"),
    )
)
dk_dv.mistake(
    "A query that saw nothing sends NaN: its lse is -inf, so exp(s - lse) is inf, which a product with 0 turns into NaN, and so does a score of -inf before it. What chooses between two values after the exponential?"
)(
    edited(
        DK_DV,
        "weights_masked_by_multiplying",
        (f"tl.where(allowed, {WEIGHTS}, 0.0)", f"{WEIGHTS} * allowed.to(tl.float32)"),
    )
)


dk_dv.mistake(
    "Your walk begins at a negative number where there are more keys than queries: rows that are not there are loaded. Which query is the first of all?"
)(edited(DK_DV, "begins_below_zero", ("tl.maximum(k0 - (n_k - n_q), 0)", "(k0 - (n_k - n_q))")))


@dk_dv.also_right
def scores_lie_turned(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head, d = tl.program_id(1), tl.arange(0, D)[None, :]
    j = (tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K))[:, None]
    k = tl.load(k_ptr + head * n_k * D + j * D + d, mask=j < n_k, other=0.0)
    v = tl.load(v_ptr + head * n_k * D + j * D + d, mask=j < n_k, other=0.0)
    dk, dv = tl.zeros([BLOCK_K, D], tl.float32), tl.zeros([BLOCK_K, D], tl.float32)
    for i0 in range(0, n_q, BLOCK_Q):
        i = i0 + tl.arange(0, BLOCK_Q)
        q = tl.load(q_ptr + head * n_q * D + i[:, None] * D + d, mask=(i < n_q)[:, None], other=0.0)
        do = tl.load(grad_ptr + head * n_q * D + i[:, None] * D + d, mask=(i < n_q)[:, None], other=0.0)
        lse = tl.load(lse_ptr + head * n_q + i, mask=i < n_q, other=float("inf"))
        delta = tl.load(delta_ptr + head * n_q + i, mask=i < n_q, other=0.0)
        st = tl.dot(k, tl.trans(q), input_precision="ieee") * scale
        visible = (i < n_q)[None, :] & (j >= 0)
        if CAUSAL:
            visible &= j - i[None, :] <= n_k - n_q
        pt = tl.where(visible, tl.exp(st - lse[None, :]), 0.0)
        dst = pt * (tl.dot(v, tl.trans(do), input_precision="ieee") - delta[None, :]) * scale
        dv += tl.dot(pt, do, input_precision="ieee")
        dk += tl.dot(dst, q, input_precision="ieee")
    tl.store(dv_ptr + head * n_k * D + j * D + d, dv, mask=j < n_k)
    tl.store(dk_ptr + head * n_k * D + j * D + d, dk, mask=j < n_k)


@dk_dv.also_right
def atomic_additions(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n_q, n_k, scale,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    h, c = tl.program_id(1), tl.arange(0, D)[None, :]
    for q0 in range(tl.program_id(0) * BLOCK_Q, n_q, tl.num_programs(0) * BLOCK_Q):
        row = q0 + tl.arange(0, BLOCK_Q)
        q = tl.load(q_ptr + (h * n_q + row[:, None]) * D + c, mask=row[:, None] < n_q, other=0.0)
        grad = tl.load(grad_ptr + (h * n_q + row[:, None]) * D + c, mask=row[:, None] < n_q, other=0.0)
        lse = tl.load(lse_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        delta = tl.load(delta_ptr + h * n_q + row, mask=row < n_q, other=0.0)
        for k0 in range(0, n_k, BLOCK_K):
            key = k0 + tl.arange(0, BLOCK_K)
            at, there = (h * n_k + key[:, None]) * D + c, key[:, None] < n_k
            k, v = tl.load(k_ptr + at, mask=there, other=0.0), tl.load(v_ptr + at, mask=there, other=0.0)
            s = tl.dot(q, k.T, input_precision="ieee") * scale
            allowed = (row[:, None] < n_q) & (key[None, :] < n_k)
            if CAUSAL:
                allowed = allowed & (key[None, :] <= row[:, None] + n_k - n_q)
            p = tl.where(allowed, tl.exp(s - lse[:, None]), 0.0)
            ds = p * (tl.dot(grad, v.T, input_precision="ieee") - delta[:, None]) * scale
            tl.atomic_add(dk_ptr + at, tl.dot(ds.T, q, input_precision="ieee"), mask=there)
            tl.atomic_add(dv_ptr + at, tl.dot(p.T, grad, input_precision="ieee"), mask=there)


dk_dv.hints(
    "A program owns a block of keys, and the queries pass by. What stood in 12.7 outside the loop moves in, and the other way round.",
    "For each block of queries: p and dS as in 12.7. Add p transposed times grad to dv, and dS transposed times q to dk.",
    "With CAUSAL the first query that sees key k0 is k0 - (n_k - n_q), or 0 if that is negative, rounded down to a whole block. Beginning at 0 is right too.",
)
dk_dv.errors(
    (
        "ValueError: First input shape (['16', '32']) and second input shape ['16', '32'] are not compatible for matmul",
        "P and dS have queries down and keys across. For dk and dv keys go down: <code>.T</code> turns a tile.",
    ),
)

# --- questions -------------------------------------------------------------------------------------------------------

who_writes = Quiz(
    "12.a",
    "A kernel with BLOCK = 64 is launched for 1,000 numbers. How many programs are there, and how many numbers does the mask of the last one let through?",
    {
        "a": (
            "15 programs; the last 40 numbers are handled by the 15th as well",
            "15 programs hold 960 numbers, and a program holds BLOCK numbers and no more. The rest needs a program of its own.",
        ),
        "b": (
            "16 programs; 40 numbers",
            "Yes: 1,000 / 64 is 15.6, rounded up 16. Fifteen programs have 960 numbers, and 40 are left for the last, of whose 64 places 24 are masked.",
        ),
        "c": (
            "16 programs; 64 numbers",
            "The last program does hold 64 places, but only 40 numbers are left for it. Without the mask it would touch 24 that lie beyond.",
        ),
        "d": (
            "1,000 programs; 1 number",
            "That is how CUDA counts threads. A Triton program works on a whole block; the compiler hands its numbers to threads.",
        ),
    },
    right="b",
)

what_the_padding_holds = Quiz(
    "12.b",
    "In a ragged last block of keys, what should the scores of the keys that are not there be?",
    {
        "a": (
            "0, as `other=0.0` leaves them",
            "A score of 0 is a score like any other: e⁰ = 1 would be added to the sum. The 0 is right for the keys themselves, not for their scores.",
        ),
        "b": (
            "A large negative number such as -1000",
            "In a row whose real scores lie near -2000 these would take nearly all the weight.",
        ),
        "c": (
            "-inf, set before the maximum is taken",
            "Yes: it never is the maximum, and 2^(-inf - m) is 0. Only where the maximum itself is -inf does it need care.",
        ),
        "d": (
            "It does not matter, since masked loads cannot be used",
            "A masked load fills its place with `other`, and the arithmetic goes on with that. Only loads and stores know of masks.",
        ),
    },
    right="c",
)

right_in_the_interpreter = Quiz(
    "12.c",
    "In the interpreter a kernel gives the right numbers on every run. What could still be wrong on a GPU?",
    {
        "a": (
            "Nothing: it is the same code",
            "The interpreter runs one program after another and computes in NumPy. A GPU does neither.",
        ),
        "b": (
            "Programs could race for a number that they share",
            "Yes: one after another they never meet. `tl.dot` of float32 may also round its inputs to 10 bits on a GPU, and a read beyond an array may stop the program.",
        ),
        "c": (
            "The loop of a program could take its blocks in another order",
            "Within one program a loop runs in its order everywhere. Between programs there is no order, which harms only those that share something.",
        ),
        "d": (
            "The masks could let other numbers through",
            "A mask is computed from whole numbers, which are the same everywhere. Which numbers meet is what the interpreter does prove.",
        ),
    },
    right="b",
)

what_spills = Quiz(
    "12.d",
    "The compiler reports 255 registers and a stack of 2,000 bytes for your kernel. What does that tell you?",
    {
        "a": (
            "It uses 2,000 bytes of shared memory, well below the limit",
            "Shared memory is a number of its own. The stack belongs to each thread and lies in slow memory.",
        ),
        "b": (
            "It is wrong and will crash",
            "The results are right. What does not fit in registers is written out and read back.",
        ),
        "c": (
            "A thread needs more than its 255 registers; the rest is written to slow memory and read back in the loop",
            "Yes: it spills. Smaller tiles, or more warps for the same tile, leave each thread fewer numbers to hold.",
        ),
        "d": (
            "It uses the machine fully: no register is left unused",
            "255 is the most a thread can name, and the stack says that it was not enough. Besides, the more registers a program takes, the fewer programs run at a time.",
        ),
    },
    right="c",
)

it_ran_here = Written(
    "12.w",
    "It ran on my laptop",
    minutes=12,
    rubric=(
        "Names at least three things that the interpreter cannot show (races, reads beyond an array, the rounding of float32 products, spills, speed) and for each how to find out, by watching, ragged sizes, compiling ahead of time or a run on a GPU; says what the run does prove; uses a number from the chapter.",
        "Two of these things with the reason and the way to find out; says what the run proves.",
        "One of these things with a reason.",
        "Agrees that the kernel is finished, or says only that it must be tried on a GPU.",
    ),
)
