"""Who touches what: a Triton kernel launched in the interpreter, with a note of every number that a program touches.

    race = one number, two programs, at least one of them writing (not by an atomic operation)

The interpreter runs programs one after another, so a race comes out right, and a read beyond an array finds whatever
lies there. What is touched tells of both. Beyond an array a watched program reads NaN, and where a masked load was told
of no `other`; what it writes beyond is dropped. A watched program works on copies that lie far apart in memory, in the
order of the arguments: what lies beside an array is the same in every run. Used in course/12_triton_kernel.
"""

import contextlib
import itertools
import types
import warnings

import numpy as np

from attn_ref.triton_here import MISSING, NotHere, tl

if not MISSING:
    import torch
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

GAP = 2**20  # bytes between two copies: more than a program strays
SEVERAL = -2  # in a map of readers or writers: more than one program; -1: nobody


def watch(kernel, grid, *arguments, **more):
    """Launch `kernel[grid](...)`, jitted or plain, in the interpreter under observation.  -> Seen

    seen = watch(add_kernel, (3,), x, y, out, 5, BLOCK=2)
    seen.writers(out)       array([0, 0, 1, 1, 2]), the program that wrote each number
    """
    if MISSING:
        raise NotHere(MISSING)
    while hasattr(kernel, "fn"):
        kernel = kernel.fn
    if not isinstance(kernel, types.FunctionType):
        raise TypeError(f"watch takes a kernel, with @triton.jit or without, got {type(kernel).__name__}")
    # A copy, since the interpreter adds names of its own to a function's globals. It looks for Triton's language there.
    function = types.FunctionType(
        kernel.__code__, {"tl": tl} | kernel.__globals__, kernel.__name__, kernel.__defaults__
    )
    function.__annotations__, function.__kwdefaults__ = kernel.__annotations__, kernel.__kwdefaults__
    grid = grid(more) if callable(grid) else grid
    names = itertools.chain(kernel.__code__.co_varnames, itertools.repeat("an argument"))
    given = [*zip(arguments, names, strict=False), *((x, name) for name, x in more.items())]
    tensors = {name: x for x, name in given if hasattr(x, "data_ptr")}
    copies, give_back = _apart(tensors)
    seen = Seen(copies, tensors, grid)
    here = [copies.get(name, x) if hasattr(x, "data_ptr") else x for x, name in given]
    with _hooks(seen), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a GPU is silent about inf - inf too
        launch = interpreter.InterpretedFunction(function)[grid]
        try:
            launch(*here[: len(arguments)], **dict(zip(more, here[len(arguments) :], strict=True)))
        except interpreter.InterpreterError as error:
            raise _root(error) from None
        finally:
            give_back()
    return seen


def _apart(tensors):
    """Copies of tensors, GAP bytes of nothing around each.  -> {name: tensor on the CPU}, what copies them back

    Whole storages are copied, so strides stay, and tensors that share memory still do.
    """
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors.values()}
    starts, end = {}, GAP
    for key, storage in storages.items():
        starts[key] = end
        end += -(-storage.nbytes() // GAP) * GAP + GAP
    arena = torch.empty(end, dtype=torch.uint8)
    pairs = [
        (torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage), arena[start:][: storage.nbytes()])
        for storage, start in zip(storages.values(), starts.values(), strict=True)
    ]
    copies = {}
    for name, x in tensors.items():
        place = starts[x.untyped_storage().data_ptr()] // x.element_size() + x.storage_offset()
        copies[name] = torch.empty(0, dtype=x.dtype).set_(arena.untyped_storage(), place, x.shape, x.stride())
    for original, copy in pairs:
        copy.copy_(original)

    def give_back():
        for original, copy in pairs:
            if not torch.equal(original.cpu(), copy):  # memory that may only be read is not written to
                original.copy_(copy)

    return copies, give_back


class Seen:
    """What each program touched. Programs are numbered through the grid, its first axis fastest.

    `programs`, how many there were; `outside`, {(program, "reads" or "writes", array): how many numbers beyond it}.
    """

    def __init__(self, arrays, given, grid):
        self.given, self.grid = given, (*grid, 1, 1)[:3]
        self.programs = int(np.prod(self.grid))
        self.outside, self._maps = {}, [_Map(name, x, self.programs) for name, x in arrays.items()]

    def readers(self, x):
        """Which program reads each number of a tensor: its number, -1 for nobody, -2 for several.  -> shape of x"""
        return self._who(x, "reads")

    def writers(self, x):
        """Which program writes each number of a tensor.  -> shape of x"""
        return self._who(x, "writes")

    def times_read(self, x):
        """How many programs read each number of a tensor.  -> shape of x"""
        return self._map(x).reads.sum(axis=0).reshape(tuple(x.shape))

    def touched(self, x, program, what="reads"):
        """What one program, a number or a place in the grid, reads or writes of a tensor.  -> bool, shape of x"""
        return getattr(self._map(x), what)[self.number(program)].reshape(tuple(x.shape))

    def number(self, program):
        x, y, z = (*program, 0, 0)[:3] if isinstance(program, tuple) else (program, 0, 0)
        return x + self.grid[0] * (y + self.grid[1] * z)

    @property
    def races(self):
        """{array: how many of its numbers are raced for}"""
        counts = {one.name: int(one.raced.sum()) for one in self._maps}
        return {name: count for name, count in counts.items() if count}

    def _map(self, x):
        for name, given in self.given.items():
            if given is x:
                return next(one for one in self._maps if one.name == name)
        raise ValueError("this tensor was no argument of the kernel")

    def _who(self, x, what):
        table = getattr(self._map(x), what)
        count = table.sum(axis=0)
        return np.where(count == 0, -1, np.where(count > 1, SEVERAL, table.argmax(axis=0))).reshape(tuple(x.shape))

    def note(self, program, what, addresses, wanted):
        """Enter the wanted addresses.  -> which of them belong to an array"""
        good = np.zeros(addresses.shape, bool)
        place = self.number(program)
        for one in self._maps:
            mine = wanted & (addresses >= one.start) & (addresses < one.end)
            index = one.table[(addresses[mine] - one.start) // one.itemsize]
            getattr(one, what)[place, index[index >= 0]] = True
            good[mine] = index >= 0
        beyond = wanted & ~good
        if beyond.any():
            nearest = min(self._maps, key=lambda one: one.distance(int(addresses[beyond][0])))
            entry = program, "reads" if what == "reads" else "writes", nearest.name
            self.outside[entry] = self.outside.get(entry, 0) + int(beyond.sum())
        return good


class _Map:
    """One array: where its numbers lie, and which programs touched each of them."""

    def __init__(self, name, x, programs):
        self.name, self.itemsize = name, x.element_size()
        offsets = np.zeros(1, np.int64)
        for n, stride in zip(x.shape, x.stride(), strict=True):
            offsets = (offsets[:, None] + stride * np.arange(n)).ravel()
        self.start = x.data_ptr()
        span = int(offsets.max(initial=-1)) + 1
        self.end = self.start + span * self.itemsize
        self.table = np.full(span, -1)  # from a place in memory to a number of the array
        self.table[offsets] = np.arange(len(offsets))
        self.reads, self.writes, self.adds = (np.zeros((programs, len(offsets)), bool) for _ in range(3))

    @property
    def raced(self):
        touched = self.reads | self.writes | self.adds
        plain = self.writes.any(axis=0) & (touched.sum(axis=0) > 1)
        mixed = self.adds.any(axis=0) & ((self.reads | self.writes).any(axis=0)) & (touched.sum(axis=0) > 1)
        return plain | mixed

    def distance(self, address):
        return max(self.start - address, address - self.end + 1, 0)


@contextlib.contextmanager
def _hooks(seen):
    """The interpreter's loads and stores pass by `seen` for a while."""
    builder = interpreter.interpreter_builder
    kind = type(builder)

    def noted(what, pointers, mask):
        wanted = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        good = seen.note(builder.grid_idx, what, pointers.data, wanted)
        return interpreter.TensorHandle(wanted & good, mask.dtype), wanted & ~good

    def load(pointers, mask, other, *options):
        mask, bad = noted("reads", pointers, mask)
        found = kind.create_masked_load(builder, pointers, mask, other, *options)
        bad = ~mask.data if other is None else bad
        if bad.any():
            found.data[bad] = np.nan if found.data.dtype.kind == "f" else np.iinfo(found.data.dtype).max
        return found

    def store(pointers, value, mask, *options):
        return kind.create_masked_store(builder, pointers, value, noted("writes", pointers, mask)[0], *options)

    def atomic(operation, pointers, value, mask, *options):
        return kind.create_atomic_rmw(builder, operation, pointers, value, noted("adds", pointers, mask)[0], *options)

    def call(function, *given, **more):
        return interpreter.InterpretedFunction.rewrite(function)(*given, **more)

    hooks = {"create_masked_load": load, "create_masked_store": store, "create_atomic_rmw": atomic}
    hooks["options"] = interpreter.InterpreterOptions(sanitize_overflow=False)  # a third faster
    kept = {name: vars(builder)[name] for name in hooks if name in vars(builder)}
    calls = interpreter.InterpretedFunction.__call__, JITFunction.__call__
    # Functions such as tl.sum patch Triton's language at each call, and leave it so. Here it is done once, and undone.
    # Where kernels are compiled, such functions refuse to be called at all.
    patched = interpreter._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    interpreter.InterpretedFunction.__call__ = call
    JITFunction.__call__ = lambda self, *given, **more: call(interpreter.InterpretedFunction(self.fn), *given, **more)
    vars(builder).update(hooks)
    try:
        yield
    finally:
        interpreter.InterpretedFunction.__call__, JITFunction.__call__ = calls
        patched.restore()
        for name in hooks:
            del vars(builder)[name]
        vars(builder).update(kept)


def _root(error):
    """The error of the kernel's own line: the interpreter wraps it once for each function it was called through."""
    while isinstance(error, interpreter.InterpreterError) and error.__cause__ is not None:
        error = error.__cause__
    return error
