"""Chapter 09, KV cache: keeping keys and values, decoding, chunks, a rolling window, pages, and how many fit."""

import collections
import contextlib
import copy
import numbers
import types

import numpy as np
import torch

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

# --- what the probes share -------------------------------------------------------------------------------------------


def tensor(rng, *shape):
    """Standard normal float64 numbers; torch.from_numpy shares no memory with anything else here."""
    return torch.from_numpy(rng.normal(size=shape))


def cut(x, sizes):
    """x (B, H, n, d) in pieces of these sizes along n, as views."""
    return list(x.split(list(sizes), dim=2))


def at_this_moment(x):
    """What a tensor holds now, whoever writes to it later."""
    return x.detach().clone() if isinstance(x, torch.Tensor) else copy.deepcopy(x)


def pair_of(result):
    """(keys, values), or the odd thing that was returned twice, so that the card can name it."""
    return tuple(result) if isinstance(result, (tuple, list)) and len(result) == 2 else (result, result)


def length_of(cache):
    """What `cache.length` is; in words where it is no number."""
    length = getattr(cache, "length", "missing: there is no attribute `length`")
    return "a method, which must be called" if callable(length) else length


@contextlib.contextmanager
def left_as_it_was(answer):
    """Put back what a class keeps in itself or in its default arguments, so that no case sees another's leftovers."""
    if not isinstance(answer, type):
        yield
        return
    own = {name for name, value in vars(answer).items() if not name.startswith("__") and not callable(value)}
    data = {name: vars(answer)[name] for name in own if not isinstance(vars(answer)[name], (property, classmethod))}
    methods = [value for value in vars(answer).values() if isinstance(value, types.FunctionType)]
    kept, defaults = copy.deepcopy(data), [copy.deepcopy(method.__defaults__) for method in methods]
    names = set(vars(answer))
    try:
        yield
    finally:
        for name in set(vars(answer)) - names:
            delattr(answer, name)
        for name, value in kept.items():
            setattr(answer, name, value)
        for method, value in zip(methods, defaults, strict=True):
            method.__defaults__ = value


def bytes_held(thing, seen=None):
    """Bytes of all tensors and arrays that an object holds on to, whole buffers behind views included."""
    seen = set() if seen is None else seen
    if isinstance(thing, torch.Tensor):
        thing = thing.untyped_storage()
        return 0 if thing.data_ptr() in seen else seen.add(thing.data_ptr()) or thing.nbytes()
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes if thing.base is None else bytes_held(thing.base, seen)
    if isinstance(thing, dict):
        return sum(bytes_held(value, seen) for value in thing.values())
    if isinstance(thing, (list, tuple, set, collections.deque)):
        return sum(bytes_held(value, seen) for value in thing)
    inside = getattr(thing, "__dict__", None)  # no dict made here: its id would be another's a moment later
    return 0 if inside is None or isinstance(thing, type) else bytes_held(inside, seen)


RESULTS = "each result is looked at when it comes"
LENGTH = "the length is read after each append"
HELD = "all results are looked at after the last append"
OVERWRITTEN = "the caller overwrites its tensors after each append"
TWO = "two caches take turns"
LONG = "what the cache holds is counted after each append"


def tell_of_cache(new_cache, k, v, sizes, story, window=None):
    """Append k and v in pieces of these sizes, and tell what this story looks at."""
    told, kept, held, cache = {}, [], [], new_cache()
    position = (k.shape[-1] + v.shape[-1]) * k.shape[0] * k.shape[1] * k.element_size()
    other = new_cache() if story == TWO else None
    if story == LENGTH:
        told["length of an empty cache"] = length_of(cache)
    for number, (one_k, one_v) in enumerate(zip(cut(k, sizes), cut(v, sizes), strict=True), 1):
        if story == OVERWRITTEN:
            one_k, one_v = one_k.clone(), one_v.clone()
        keys, values = pair_of(cache.append(one_k, one_v))
        if story == RESULTS:
            told[f"keys after append {number}"] = at_this_moment(keys)
            told[f"values after append {number}"] = at_this_moment(values)
        if story == LENGTH:
            told[f"length after append {number}"] = length_of(cache)
        if story == OVERWRITTEN:
            one_k.fill_(99.0)
            one_v.fill_(99.0)
        if story == TWO:
            keys, values = at_this_moment(keys), at_this_moment(values)
            kept.append((f"of the second cache after its append {number}", *pair_of(other.append(-one_k, -one_v))))
        if story == LONG:
            held.append(bytes_held(vars(cache)) // position)
        if story in (HELD, OVERWRITTEN, TWO):
            kept.append((f"of append {number}", keys, values))
    for name, keys, values in kept:
        told[f"keys {name}"], told[f"values {name}"] = at_this_moment(keys), at_this_moment(values)
    if story == LONG:
        half = len(held) // 2
        told["it stops growing"] = max(held[half:]) <= max(held[:half])
        allowed = all(had <= 2 * window + n for had, n in zip(held, sizes, strict=True))
        told["it holds at most 2 · window positions besides the last chunk"] = allowed
    return told


# --- 9.1 -------------------------------------------------------------------------------------------------------------

kv_cache = Exercise("9.1", "Keep what is final", reference=attn_ref.KVCache, minutes=10)


@kv_cache.probe
def drive_kv_cache(answer, k, v, sizes, story=RESULTS):
    with left_as_it_was(answer):
        return tell_of_cache(answer, k, v, sizes, story)


@kv_cache.criterion("append returns everything so far, oldest first", points=2, same_dtype=True)
def everything_so_far(rng):
    k, v = torch.tensor([[[[1.0], [2.0]]]]).double(), torch.tensor([[[[10.0], [20.0]]]]).double()
    yield dict(k=k, v=v, sizes=[1, 1])
    yield dict(k=tensor(rng, 2, 3, 7, 4), v=tensor(rng, 2, 3, 7, 5), sizes=[3, 1, 2, 1])
    yield dict(k=tensor(rng, 2, 2, 4, 2), v=tensor(rng, 2, 2, 4, 2), sizes=[2, 2])
    yield dict(k=tensor(rng, 3, 1, 6, 3), v=tensor(rng, 3, 1, 6, 1), sizes=[6])
    yield dict(k=tensor(rng, 1, 2, 8, 3).float(), v=tensor(rng, 1, 2, 8, 4).float(), sizes=[3, 5])
    yield dict(k=tensor(rng, 1, 1, 70, 2), v=tensor(rng, 1, 1, 70, 3), sizes=[30, *[1] * 8, 32])
    yield dict(k=tensor(rng, 1, 1, 20_001, 1), v=tensor(rng, 1, 1, 20_001, 1), sizes=[1, 19_999, 1])


@kv_cache.criterion("length counts the positions so far", points=1)
def positions_counted(rng):
    yield dict(k=tensor(rng, 2, 3, 6, 4), v=tensor(rng, 2, 3, 6, 5), sizes=[3, 1, 2], story=LENGTH)
    yield dict(k=tensor(rng, 1, 4, 5, 1), v=tensor(rng, 1, 4, 5, 1), sizes=[1, 1, 1, 1, 1], story=LENGTH)


@kv_cache.criterion("what was returned earlier stays as it was", points=1)
def earlier_results(rng):
    yield dict(k=tensor(rng, 2, 3, 6, 4), v=tensor(rng, 2, 3, 6, 5), sizes=[3, 1, 2], story=HELD)
    yield dict(k=tensor(rng, 1, 2, 9, 3), v=tensor(rng, 1, 2, 9, 3), sizes=[1] * 9, story=HELD)


@kv_cache.criterion("the caller may overwrite its tensors afterwards", points=1)
def callers_tensors(rng):
    yield dict(k=tensor(rng, 2, 3, 6, 4), v=tensor(rng, 2, 3, 6, 5), sizes=[3, 1, 2], story=OVERWRITTEN)
    yield dict(k=tensor(rng, 1, 2, 4, 3), v=tensor(rng, 1, 2, 4, 3), sizes=[1] * 4, story=OVERWRITTEN)


@kv_cache.criterion("two caches know nothing of each other", points=1)
def two_caches(rng):
    yield dict(k=tensor(rng, 2, 3, 6, 4), v=tensor(rng, 2, 3, 6, 5), sizes=[3, 1, 2], story=TWO)


@kv_cache.mistake(
    "You return the chunk that has just come. The next query must also meet the keys of all tokens before: where are they put away between two appends?"
)
class OnlyTheChunk:
    def __init__(self):
        self.length = 0

    def append(self, k, v):
        self.length += k.shape[2]
        return k.clone(), v.clone()


@kv_cache.mistake(
    "The newest position stands first in your results. The masks of the course count keys from the oldest on: on which side is the chunk joined?"
)
class NewestFirst:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([k, self.keys], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([v, self.values], dim=2)
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.mistake(
    "Keys and values have changed places in what you return. Where d and d_v are equal nothing complains, and the model reads labels in place of books. Which comes first?"
)
class ValuesFirst:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        self.length += k.shape[2]
        return self.values, self.keys


@kv_cache.mistake(
    "The chunks are joined along the axis of heads. Where all chunks have one size nothing complains: the cache then has more heads and no longer past. In (B, H, n, d), which axis counts positions?"
)
class JoinedAlongTheHeads:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=1)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=1)
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.mistake(
    "The chunks are joined along the last axis, so one key becomes twice as long and no second key appears. In (B, H, n, d), which axis counts positions?"
)
class JoinedAlongTheFeatures:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=-1)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=-1)
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.mistake(
    "The chunks are joined along the batch, which is what `torch.cat` does unless told otherwise. In (B, H, n, d), which axis counts positions?"
)
class JoinedAlongTheBatch:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k])
        self.values = v.clone() if self.values is None else torch.cat([self.values, v])
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.mistake(
    "A second cache finds what the first one kept: the lists belong to the class (or to a default argument), and there is only one of them. Where must a list be made so that each cache has its own?"
)
class OneStoreForAll:
    all_keys, all_values = [], []
    length = 0

    def append(self, k, v):
        self.all_keys.append(k.clone())
        self.all_values.append(v.clone())
        self.length += k.shape[2]
        return torch.cat(self.all_keys, dim=2), torch.cat(self.all_values, dim=2)


@kv_cache.mistake(
    "Your results are views of a buffer whose content you move at each append, so what the caller got earlier changes under its hands. Which parts of the buffer may still be written once they were returned?"
)
class ShiftedInPlace:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        n = k.shape[2]
        if self.keys is None:
            self.keys = torch.zeros(*k.shape[:2], 100, k.shape[3], dtype=k.dtype)
            self.values = torch.zeros(*v.shape[:2], 100, v.shape[3], dtype=v.dtype)
        for buffer, x in ((self.keys, k), (self.values, v)):
            buffer[:, :, :-n] = buffer[:, :, n:].clone()
            buffer[:, :, -n:] = x
        self.length += n
        return self.keys[:, :, -self.length :], self.values[:, :, -self.length :]


@kv_cache.mistake(
    "The first chunk is kept as the caller's own tensor. When the caller uses that memory again, your oldest keys change. What makes the first chunk a tensor of the cache's own, as joining does for the later ones?"
)
class FirstChunkNotCopied:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v if self.values is None else torch.cat([self.values, v], dim=2)
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.mistake(
    "You keep a list of the caller's own tensors. The results are new, but what you keep is not: when the caller overwrites a chunk, every later result changes. What should go into the list?"
)
class ListOfTheCallersTensors:
    def __init__(self):
        self.length, self.chunks = 0, []

    def append(self, k, v):
        self.chunks.append((k, v))
        self.length += k.shape[2]
        return torch.cat([k for k, _ in self.chunks], dim=2), torch.cat([v for _, v in self.chunks], dim=2)


@kv_cache.mistake(
    "`length` counts the appends. A chunk of three brings three positions, and the next token's position depends on it. What should be added for a chunk?"
)
class AppendsCounted:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        self.length += 1
        return self.keys, self.values


@kv_cache.mistake(
    "`length` stays 0: everything is kept and nobody knows how much it is. What does an append add to it?"
)
class LengthForgotten:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        return self.keys, self.values


@kv_cache.mistake(
    "`length` is a method here, so `cache.length` gives a function where a number is expected. Which decorator, or which line in `append`, makes it a number?"
)
class LengthIsAMethod:
    def __init__(self):
        self.chunks = []

    def append(self, k, v):
        self.chunks.append((k.clone(), v.clone()))
        return torch.cat([k for k, _ in self.chunks], dim=2), torch.cat([v for _, v in self.chunks], dim=2)

    def length(self):
        return sum(k.shape[2] for k, _ in self.chunks)


@kv_cache.mistake(
    "Only the last position of a chunk is kept. One token at a time that goes unnoticed; a prompt arrives as one chunk of many. Which positions does a chunk of three bring?"
)
class LastOfTheChunk:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        k, v = k[:, :, -1:], v[:, :, -1:]
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.mistake(
    "Your buffer is float32 whatever comes in: `torch.zeros` takes that unless told otherwise. From where can the buffer learn its dtype?"
)
class SinglePrecisionBuffer:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        if self.keys is None:
            self.keys, self.values = (torch.zeros(*x.shape[:2], 200, x.shape[3]) for x in (k, v))
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


@kv_cache.mistake(
    "Your buffer has room for 64 positions, and nobody said how long the text will be. What happens at the 65th, and what could happen instead?"
)
class RoomForSixtyFour:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        if self.keys is None:
            self.keys = torch.zeros(*k.shape[:2], 64, k.shape[3], dtype=k.dtype)
            self.values = torch.zeros(*v.shape[:2], 64, v.shape[3], dtype=v.dtype)
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


@kv_cache.mistake(
    "The buffer of the values takes its shape from k. Values may be longer or shorter than keys: from which tensor does the shape of `values` come?"
)
class ValuesShapedLikeKeys:
    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        if self.keys is None:
            self.keys, self.values = torch.zeros_like(k)[:, :, :0], torch.zeros_like(k)[:, :, :0]
        self.keys, self.values = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        self.length += k.shape[2]
        return self.keys, self.values


@kv_cache.also_right
class ListOfCopies:
    def __init__(self):
        self.chunks = []

    @property
    def length(self):
        return sum(k.shape[2] for k, _ in self.chunks)

    def append(self, k, v):
        self.chunks.append((k.clone(), v.clone()))
        keys, values = zip(*self.chunks, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)


@kv_cache.also_right
class RoomThatDoubles:
    def __init__(self):
        self.length, self.stores = 0, {}

    def append(self, k, v):
        end = self.length + k.shape[2]
        for name, x in (("keys", k), ("values", v)):
            old = self.stores.get(name)
            if old is None or old.shape[2] < end:
                self.stores[name] = x.new_zeros(*x.shape[:2], 2 * end, x.shape[3])
                if old is not None:
                    self.stores[name][:, :, : self.length] = old[:, :, : self.length]
            self.stores[name][:, :, self.length : end] = x
        self.length = end
        return tuple(store[:, :, :end] for store in self.stores.values())


@kv_cache.also_right
class PositionByPosition:
    def __init__(self):
        self.rows = []

    def append(self, k, v):
        for position in range(k.shape[2]):
            self.rows.append((k[:, :, position].detach().clone(), v[:, :, position].detach().clone()))
        self.length = len(self.rows)
        return tuple(torch.stack(side, dim=-2) for side in zip(*self.rows, strict=True))

    length = 0


kv_cache.hints(
    "`torch.cat` joins tensors along one axis and gives a new tensor. Along which axis do positions lie in (B, H, n, d)? And is the first chunk a new tensor too?",
    "Nothing kept yet: keep copies (`clone`) of k and v. Otherwise join old and new along axis 2. Add n to `length` and return the two tensors.",
)
kv_cache.errors(
    (
        "RuntimeError: Sizes of tensors must match except in dimension 0",
        "<code>torch.cat</code> joins along axis 0 unless told otherwise, and the chunks differ in another one. Which "
        "axis of (B, H, n, d) grows?",
    ),
)

# --- 9.2 -------------------------------------------------------------------------------------------------------------


def decode_step(q, k, v, cache):
    """One new token is turned by its position, kept, and answered.

    q (B, H, 1, d), k (B, H_kv, 1, d), v (B, H_kv, 1, d_v) -> (B, H, 1, d_v)
    """
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


step = Exercise(
    "9.2",
    "One token against the cache",
    reference=decode_step,
    minutes=15,
    forbids=("attn_ref.decode_step", "attn_ref.prefill_in_chunks"),
)


@step.probe
def drive_step(answer, q, k, v, kept=0, window=None, look="outputs"):
    cache = attn_ref.KVCache() if window is None else attn_ref.RollingKVCache(window)
    if kept:
        cache.append(attn_ref.rope(k[:, :, :kept], range(kept)), v[:, :, :kept])
    told, outputs = {}, {}
    for p in range(kept, k.shape[2]):
        now = slice(p, p + 1)
        outputs[f"the output of position {p}"] = at_this_moment(answer(q[:, :, now], k[:, :, now], v[:, :, now], cache))
    if look == "cache":
        told["cache.length at the end"] = cache.length
        last = cache.append(torch.zeros_like(k[:, :, :1]), torch.zeros_like(v[:, :, :1]))
        told["the keys in the cache"], told["the values in the cache"] = (x[:, :, :-1] for x in last)
    return told | outputs


@step.criterion("the token reads everything that is kept, and itself", points=1)
def reads_everything(rng):
    zeros = torch.zeros(1, 1, 3, 2).double()
    yield dict(q=zeros, k=zeros, v=torch.tensor([[[[2.0], [4.0], [9.0]]]]).double(), kept=2)
    yield dict(q=tensor(rng, 2, 3, 6, 4) * 0, k=tensor(rng, 2, 3, 6, 4), v=tensor(rng, 2, 3, 6, 5), kept=3)
    yield dict(q=tensor(rng, 1, 2, 1, 4), k=tensor(rng, 1, 2, 1, 4), v=tensor(rng, 1, 2, 1, 3))
    yield dict(q=tensor(rng, 1, 1, 301, 2) * 0, k=tensor(rng, 1, 1, 301, 2), v=tensor(rng, 1, 1, 301, 1), kept=300)


@step.criterion("query and key are turned by the number of tokens before", points=2)
def turned_by_the_position(rng):
    yield dict(q=tensor(rng, 1, 1, 4, 2), k=tensor(rng, 1, 1, 4, 2), v=tensor(rng, 1, 1, 4, 1), kept=3)
    yield dict(q=3 * tensor(rng, 2, 3, 9, 8), k=tensor(rng, 2, 3, 9, 8), v=tensor(rng, 2, 3, 9, 6), kept=5)
    yield dict(q=3 * tensor(rng, 2, 2, 6, 4), k=tensor(rng, 2, 2, 6, 4), v=tensor(rng, 2, 2, 6, 4))
    yield dict(q=3 * tensor(rng, 1, 2, 2051, 4), k=tensor(rng, 1, 2, 2051, 4), v=tensor(rng, 1, 2, 2051, 3), kept=2049)
    yield dict(q=3 * tensor(rng, 1, 2, 9, 4), k=tensor(rng, 1, 2, 9, 4), v=tensor(rng, 1, 2, 9, 2), window=4)
    yield dict(q=900 * tensor(rng, 5, 2, 7, 6), k=tensor(rng, 5, 2, 7, 6), v=40 * tensor(rng, 5, 2, 7, 5), kept=4)


@step.criterion("the cache gains one turned key and the value as it came", points=1)
def gains_one_position(rng):
    yield dict(q=tensor(rng, 1, 2, 6, 4), k=tensor(rng, 1, 2, 6, 4), v=tensor(rng, 1, 2, 6, 2), kept=3, look="cache")
    yield dict(q=tensor(rng, 2, 4, 3, 6), k=tensor(rng, 2, 4, 3, 6), v=tensor(rng, 2, 4, 3, 5), look="cache")
    yield dict(q=tensor(rng, 1, 6, 4, 4), k=tensor(rng, 1, 2, 4, 4), v=tensor(rng, 1, 2, 4, 4), look="cache")


@step.criterion("fewer KV heads than query heads: neighbours share one", points=1)
def shared_kv_heads(rng):
    yield dict(q=3 * tensor(rng, 2, 6, 5, 4), k=tensor(rng, 2, 2, 5, 4), v=tensor(rng, 2, 2, 5, 3), kept=3)
    yield dict(q=3 * tensor(rng, 1, 4, 5, 2), k=tensor(rng, 1, 1, 5, 2), v=tensor(rng, 1, 1, 5, 2), kept=4)


step.leaves_inputs_alone(points=1)


@step.mistake(
    "Query and key are not turned, or turned by position 0, which is the same. Their distance to the keys in the cache is then wrong; only the very first token cannot show it. Who knows how many tokens came before?"
)
def position_restarts(q, k, v, cache):
    keys, values = cache.append(attn_ref.rope(k, [0]), v)
    return attn_ref.attention(attn_ref.rope(q, [0]), keys, values)


@step.mistake(
    "Query and key stand one position too late: `cache.length` has already counted the new token when you read it, or 1 is added. Positions start at 0; what is the position of the first token?"
)
def position_one_too_late(q, k, v, cache):
    position = [cache.length + 1]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake(
    "Query and key stand one position too early, on the token before. Positions start at 0; with three tokens in the cache, where does the next one stand?"
)
def position_one_too_early(q, k, v, cache):
    position = [max(cache.length - 1, 0)]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake(
    "The key stands at its position and the query one later: between them you appended, and `cache.length` grew. How often should the length be read?"
)
def query_one_too_late(q, k, v, cache):
    keys, values = cache.append(attn_ref.rope(k, [cache.length]), v)
    return attn_ref.attention(attn_ref.rope(q, [cache.length]), keys, values)


@step.mistake(
    "You take the position of the query from the number of keys that came back. A cache that forgets old positions, as in 9.5, returns fewer keys than there were tokens. Which number goes on counting?"
)
def position_from_the_kept_keys(q, k, v, cache):
    keys, values = cache.append(attn_ref.rope(k, [cache.length]), v)
    return attn_ref.attention(attn_ref.rope(q, [keys.shape[2] - 1]), keys, values)


@step.mistake(
    "The new key goes into the cache unturned, beside keys that are turned. The score of two vectors depends on their distance only if both are turned: what is still missing for k?"
)
def key_not_turned(q, k, v, cache):
    position = [cache.length]
    keys, values = cache.append(k, v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake(
    "The keys are turned and the query is not, so it asks as if it stood at position 0. What happens to the distance in the score?"
)
def query_not_turned(q, k, v, cache):
    keys, values = cache.append(attn_ref.rope(k, [cache.length]), v)
    return attn_ref.attention(q, keys, values)


@step.mistake(
    "The value is turned as well. Positions belong to the match of query and key; should what is read depend on where it stood?"
)
def value_turned_too(q, k, v, cache):
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), attn_ref.rope(v, position))
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake(
    "You turn all keys that come back, although those in the cache were turned when they entered: they are now turned twice. Which key of this step is still unturned when it arrives?"
)
def turned_twice(q, k, v, cache):
    position = cache.length
    keys, values = cache.append(k, v)
    first = position + 1 - keys.shape[2]
    keys = attn_ref.rope(keys, range(first, position + 1))
    return attn_ref.attention(attn_ref.rope(q, [position]), keys, values)


@step.mistake(
    "The only query sees the first key and nothing else: the mask is aligned at its top left, as `is_causal=True` and `torch.tril` do. The query is the newest of all positions; which keys are later than it?"
)
def mask_from_the_top_left(q, k, v, cache):
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    first = torch.zeros(keys.shape[2], dtype=torch.bool)
    first[0] = True
    return attn_ref.attention(attn_ref.rope(q, position), keys, values, allowed=first)


@step.mistake(
    "The token reads the past and not itself. In the course's causal mask a position sees the keys up to and including its own: does its key join before or after it asks?"
)
def does_not_see_itself(q, k, v, cache):
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    allowed = torch.arange(keys.shape[2]) < keys.shape[2] - 1
    return attn_ref.attention(attn_ref.rope(q, position), keys, values, allowed=allowed)


@step.mistake(
    "The token sees only itself: attention runs over the new k and v. What did `append` return, and what is it for?"
)
def sees_only_itself(q, k, v, cache):
    position = [cache.length]
    k = attn_ref.rope(k, position)
    cache.append(k, v)
    return attn_ref.attention(attn_ref.rope(q, position), k, v)


@step.mistake(
    "The token enters the cache twice, once for its keys and once for its values. `append` returns both at once: how do you take both from one call?"
)
def appended_twice(q, k, v, cache):
    position = [cache.length]
    k = attn_ref.rope(k, position)
    cache.append(k, v)
    keys, values = cache.append(k, v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake(
    "The KV heads are repeated before they are kept, so the cache is as large as with a KV head for each query head, and nothing is saved. When is it early enough to repeat them?"
)
def repeated_before_they_are_kept(q, k, v, cache):
    position, times = [cache.length], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
    keys, values = cache.append(attn_ref.rope(k, position), v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake(
    "Your query heads take the KV heads in turn, 0 1 0 1. As in chapter 06, neighbouring query heads share one, 0 0 1 1: which of `repeat` and `repeat_interleave` does that?"
)
def heads_in_turn(q, k, v, cache):
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    times = q.shape[1] // k.shape[1]
    keys, values = keys.repeat(1, times, 1, 1), values.repeat(1, times, 1, 1)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values)


@step.mistake("The scores are not scaled. What are they divided by since chapter 02?")
def scores_not_scaled(q, k, v, cache):
    position = [cache.length]
    keys, values = cache.append(attn_ref.rope(k, position), v)
    return attn_ref.attention(attn_ref.rope(q, position), keys, values, scale=1.0)


@step.mistake(
    "The result is right, and the caller's q and k have been turned in place. Which form makes a new tensor instead of writing into q?"
)
def turned_in_place(q, k, v, cache):
    position = [cache.length]
    q[...], k[...] = attn_ref.rope(q, position), attn_ref.rope(k, position)
    keys, values = cache.append(k, v)
    return attn_ref.attention(q, keys, values)


@step.also_right
def with_a_causal_mask(q, k, v, cache):
    positions = torch.arange(cache.length, cache.length + 1)
    q, k = attn_ref.rope(q, positions), attn_ref.rope(k, positions)
    return attn_ref.attention(q, *cache.append(k, v), causal=True)


@step.also_right
def with_softmax(q, k, v, cache):
    at = torch.tensor([cache.length])
    keys, values = cache.append(attn_ref.rope(k, at), v)
    times = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(times, dim=1), values.repeat_interleave(times, dim=1)
    scores = attn_ref.rope(q, at) @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ values


@step.also_right
def turned_by_hand(q, k, v, cache):
    def turn(x):
        half = x.shape[-1] // 2
        angle = cache.length * 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)

    q = turn(q)
    keys, values = cache.append(turn(k), v)
    q = q.unflatten(1, (keys.shape[1], -1)).squeeze(3)
    weights = torch.einsum("bgrd,bgkd->bgrk", q, keys).div(q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bgrk,bgke->bgre", weights, values).flatten(1, 2).unsqueeze(2)


step.hints(
    "Three things in order: turn, keep, read. `attn_ref.rope(x, positions)` takes one position for each row of x. Where does this token stand?",
    "Turn q and k with the list `[cache.length]`, append, and let the turned q attend to all that `append` returned. The newest query needs no mask.",
)

# --- 9.3 -------------------------------------------------------------------------------------------------------------


def generate(model, prompt, n, caches=None):
    """The prompt and the n likeliest tokens after it, one at a time.  (B, m) -> (B, m + n)"""
    return attn_ref.generate(model, prompt, n, caches)


class Watched:
    """A model that notes how many positions each call brought."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def __call__(self, tokens, caches=None):
        self.calls.append(tokens.shape[1])
        return self.model(tokens, caches=caches)

    def __getattr__(self, name):
        return getattr(self.model, name)


def small_model(seed):
    """A model of two layers whose likeliest token depends on the whole text and its order."""
    model = attn_ref.TinyLM(17, d_model=12, n_layers=2, n_heads=3, seed=seed, tie_weights=False).double()
    model = model.requires_grad_(False).eval()
    for weight in model.blocks.parameters():
        weight.mul_(2.0)
    return model


write = Exercise(
    "9.3",
    "The same tokens, each computed once",
    reference=generate,
    minutes=15,
    forbids=("attn_ref.generate",),
)


@write.probe
def drive_write(answer, prompt, n, seed, cached=False, look="tokens"):
    model = Watched(small_model(seed))
    caches = [attn_ref.KVCache() for _ in model.blocks] if cached else None
    tokens = answer(model, prompt, n, caches) if cached else answer(model, prompt, n)
    if look == "tokens":
        return tokens
    return {
        "positions in each call of the model": model.calls or "no call",
        "positions in each cache at the end": [cache.length for cache in caches or ()] or "no caches",
        "the tokens": tokens,
    }


def prompts(rng, *shape):
    return torch.from_numpy(rng.integers(0, 17, size=shape))


@write.criterion("the prompt comes back with the n likeliest tokens after it", points=2, same_dtype=True)
def likeliest_tokens(rng):
    yield dict(prompt=prompts(rng, 1, 3), n=1, seed=int(rng.integers(1000)))
    for m, n in ((4, 9), (2, 12)):
        yield dict(prompt=prompts(rng, 1, m), n=n, seed=int(rng.integers(1000)))


@write.criterion("with caches the tokens are the same", points=1)
def same_tokens(rng):
    for m, n in ((4, 9), (2, 12), (11, 9)):
        yield dict(prompt=prompts(rng, 1, m), n=n, seed=int(rng.integers(1000)), cached=True)


@write.criterion("n calls of the model: without caches on the whole text, with caches on each token once", points=2)
def each_once(rng):
    yield dict(prompt=prompts(rng, 1, 5), n=4, seed=int(rng.integers(1000)), cached=True, look="calls")
    yield dict(prompt=prompts(rng, 2, 3), n=1, seed=int(rng.integers(1000)), cached=True, look="calls")
    yield dict(prompt=prompts(rng, 1, 4), n=0, seed=int(rng.integers(1000)), cached=True, look="calls")
    yield dict(prompt=prompts(rng, 2, 40), n=3, seed=int(rng.integers(1000)), look="calls")


@write.criterion("batches, a prompt of one token, and n = 0", points=1)
def several_and_none(rng):
    yield dict(prompt=prompts(rng, 3, 4), n=6, seed=int(rng.integers(1000)))
    yield dict(prompt=prompts(rng, 3, 4), n=6, seed=int(rng.integers(1000)), cached=True)
    yield dict(prompt=prompts(rng, 2, 1), n=6, seed=int(rng.integers(1000)), cached=True)
    yield dict(prompt=prompts(rng, 1, 1), n=3, seed=int(rng.integers(1000)))
    yield dict(prompt=prompts(rng, 5, 2), n=3, seed=int(rng.integers(1000)))
    yield dict(prompt=prompts(rng, 2, 1), n=0, seed=int(rng.integers(1000)))
    yield dict(prompt=prompts(rng, 1, 3), n=0, seed=int(rng.integers(1000)), cached=True)


@write.mistake(
    "With caches you hand the whole text to the model at every step, and it is kept again each time: the second step sees the prompt twice. Which tokens do the caches not hold yet?"
)
def whole_text_into_the_caches(model, prompt, n, caches=None):
    tokens = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(tokens, caches=caches)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


@write.mistake(
    "The caches are empty at the first step, and you hand the model only the prompt's last token. When do the others enter?"
)
def prompt_never_read(model, prompt, n, caches=None):
    tokens = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(tokens[:, -1:], caches=caches)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


@write.mistake(
    "The prompt's last token passes through the model twice: once with the prompt, and again as the first single token. The logits of the prompt's call already predict the first new token; where do they go?"
)
def last_of_the_prompt_twice(model, prompt, n, caches=None):
    tokens = prompt
    if caches is not None and n:
        model(prompt, caches=caches)
    for _ in range(n):
        logits = model(tokens) if caches is None else model(tokens[:, -1:], caches=caches)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


@write.mistake(
    "The tokens are right, and the caches stay empty: every step computes the whole text again. Where do the caches reach the model?"
)
def caches_ignored(model, prompt, n, caches=None):
    tokens = prompt
    for _ in range(n):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


@write.mistake(
    "Without caches the model gets only the newest token at each step, and it remembers nothing by itself. What must it be given then?"
)
def new_token_without_caches(model, prompt, n, caches=None):
    tokens = unseen = prompt
    for _ in range(n):
        logits = model(unseen) if caches is None else model(unseen, caches=caches)
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.mistake(
    "Each step starts with new, empty caches, so a token sees nothing but itself. Who made the caches that you were given, and how long do they last?"
)
def new_caches_at_each_step(model, prompt, n, caches=None):
    tokens = unseen = prompt
    for _ in range(n):
        if caches is None:
            logits = model(tokens)
        else:
            logits = model(unseen, caches=[attn_ref.KVCache() for _ in caches])
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.mistake(
    "You use caches of your own making, and the caller's stay empty: it may want to go on from them. Which caches were passed in?"
)
def caches_of_its_own(model, prompt, n, caches=None):
    own = None if caches is None else [attn_ref.KVCache() for _ in caches]
    tokens = unseen = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(unseen, caches=own)
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.mistake(
    "One call too many: the last new token is handed to the model as well, though nobody asks what follows it. How many calls do n tokens take?"
)
def last_token_computed_too(model, prompt, n, caches=None):
    tokens, logits = prompt, model(prompt) if caches is None else model(prompt, caches=caches)
    for _ in range(n):
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
    return tokens


@write.mistake(
    "The prompt passes one token at a time. The result is right, and a prompt of 1,000 tokens takes 1,000 calls. How many does it need, when all its tokens are known?"
)
def prompt_token_by_token(model, prompt, n, caches=None):
    tokens = unseen = prompt
    if caches is not None:
        for p in range(prompt.shape[1] - 1):
            model(prompt[:, p : p + 1], caches=caches)
        unseen = prompt[:, -1:]
    for _ in range(n):
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.mistake(
    "Where no token is asked for the model is called all the same, and the caches fill. How many calls do n tokens take when n is 0?"
)
def one_call_for_none(model, prompt, n, caches=None):
    tokens, logits = prompt, model(prompt) if caches is None else model(prompt, caches=caches)
    for number in range(n):
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
        if number + 1 < n:
            logits = model(tokens) if caches is None else model(unseen, caches=caches)
    return tokens


@write.mistake("Only the new tokens come back. The result begins with the prompt: how long should it be?")
def without_the_prompt(model, prompt, n, caches=None):
    tokens = unseen = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens[:, prompt.shape[1] :]


@write.mistake(
    "You read the logits of the first position, which predict the second token of the text. Which position's logits predict what comes next?"
)
def logits_of_the_first_position(model, prompt, n, caches=None):
    tokens = unseen = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
        unseen = logits[:, 0].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.mistake(
    "Every text of the batch gets the first one's token. Along which axis does the argmax run, and what is left after it?"
)
def first_text_decides_for_all(model, prompt, n, caches=None):
    tokens = unseen = prompt
    for _ in range(n):
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
        unseen = logits[:1, -1].argmax(-1, keepdim=True).expand(len(prompt), 1)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.mistake("n + 1 tokens are added. How often does the loop run, and what is added before it?")
def one_token_too_many(model, prompt, n, caches=None):
    tokens = unseen = prompt
    for _ in range(n + 1):
        logits = model(tokens) if caches is None else model(unseen, caches=caches)
        unseen = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, unseen], dim=1)
    return tokens


@write.also_right
def prompt_first(model, prompt, n, caches=None):
    text = prompt.clone()
    for step in range(n):
        if caches is None:
            logits = model(text)
        elif step == 0:
            logits = model(prompt, caches=caches)
        else:
            logits = model(text[:, -1:], caches=caches)
        best = torch.max(logits[:, -1], dim=-1).indices
        text = torch.column_stack([text, best])
    return text


@write.also_right
def from_the_length_of_the_cache(model, prompt, n, caches=None):
    tokens = prompt
    while tokens.shape[1] < prompt.shape[1] + n:
        seen = 0 if caches is None else caches[0].length
        logits = model(tokens[:, seen:], caches=caches)
        tokens = torch.cat([tokens, torch.topk(logits[:, -1], 1).indices], dim=1)
    return tokens


write.hints(
    "Write it without caches first. With them the model wants only what it has not seen: at the first step the prompt, and after that?",
    "Keep two tensors, all tokens and the unseen ones; both start as the prompt. In each round call the model on one or the other; the last position's `argmax` is unseen next, and joins all tokens.",
)
write.errors(
    (
        "RuntimeError: Tensors must have the same number of dimensions: got 2 and 1",
        "<code>argmax(-1)</code> removes an axis: (B, vocab) becomes (B,), and the text is (B, m). Which argument keeps "
        "the axis?",
    ),
)

# --- 9.4 -------------------------------------------------------------------------------------------------------------


def prefill_in_chunks(q, k, v, cache, chunk):
    """A prompt in pieces: each is kept, then attends causally to all that is kept.

    q (B, H, n, d), k (B, H_kv, n, d), v (B, H_kv, n, d_v) -> (B, H, n, d_v)
    """
    return attn_ref.prefill_in_chunks(q, k, v, cache, chunk)


prefill = Exercise(
    "9.4",
    "A prompt in chunks",
    reference=prefill_in_chunks,
    minutes=15,
    forbids=("attn_ref.prefill_in_chunks", "attn_ref.decode_step"),
)


class Noted(attn_ref.KVCache):
    """A cache that notes how many positions each append brought; `coarse` returns older ones rounded to halves."""

    def __init__(self, coarse=False):
        super().__init__()
        self.sizes, self.coarse = [], coarse

    def append(self, k, v):
        self.sizes.append(k.shape[2])
        both = [x.clone() for x in super().append(k, v)]
        for x in both if self.coarse else ():
            old = x[:, :, : -k.shape[2]]
            old.copy_((2 * old).round() / 2)
        return tuple(both)


@prefill.probe
def drive_prefill(answer, q, k, v, chunk, look="output"):
    cache, kept = Noted(coarse=look == "coarse"), k.shape[2] - q.shape[2]
    if kept:
        cache.append(k[:, :, :kept], v[:, :, :kept])
        cache.sizes.clear()
    out = answer(q, k[:, :, kept:], v[:, :, kept:], cache, chunk)
    if look != "cache":
        return out
    told = {"positions in each append": cache.sizes or "no append", "cache.length at the end": cache.length}
    last = cache.append(torch.zeros_like(k[:, :, :1]), torch.zeros_like(v[:, :, :1]))
    told["the keys in the cache"], told["the values in the cache"] = (x[:, :, :-1] for x in last)
    return told | {"the output": out}


def qkv(rng, batch, heads, kv_heads, n, d, d_v, kept=0, sharp=2.0):
    """q of n positions, k and v of kept + n."""
    q = sharp * tensor(rng, batch, heads, n, d)
    return dict(q=q, k=tensor(rng, batch, kv_heads, kept + n, d), v=tensor(rng, batch, kv_heads, kept + n, d_v))


@prefill.criterion("the chunks together give what the whole prompt gives", points=2)
def chunks_together(rng):
    zeros = torch.zeros(1, 1, 4, 2).double()
    yield dict(q=zeros, k=zeros, v=torch.tensor([[[[2.0], [4.0], [9.0], [1.0]]]]).double(), chunk=2)
    yield dict(**qkv(rng, 2, 3, 3, 6, 4, 5), chunk=3)
    yield dict(**qkv(rng, 1, 2, 2, 8, 4, 4), chunk=2)
    yield dict(**qkv(rng, 1, 4, 4, 4, 4, 4), chunk=4)
    large = qkv(rng, 5, 2, 2, 6, 3, 2, sharp=20_000.0)
    yield dict(**large | dict(v=40 * large["v"]), chunk=3)


@prefill.criterion("a rest, chunks of 1 or longer than the prompt, and fewer KV heads", points=1)
def any_chunk(rng):
    yield dict(**qkv(rng, 2, 3, 3, 7, 4, 5), chunk=3)
    yield dict(**qkv(rng, 1, 2, 2, 5, 3, 4), chunk=1)
    yield dict(**qkv(rng, 1, 2, 2, 5, 3, 4), chunk=9)
    yield dict(**qkv(rng, 1, 1, 1, 29, 2, 3), chunk=13)
    yield dict(**qkv(rng, 2, 6, 2, 5, 4, 3), chunk=2)


@prefill.criterion("what the cache held before is seen by every chunk", points=1)
def on_top_of_the_past(rng):
    yield dict(**qkv(rng, 2, 3, 3, 7, 4, 5, kept=4), chunk=3)
    yield dict(**qkv(rng, 1, 2, 2, 6, 3, 4, kept=1), chunk=2)
    yield dict(**qkv(rng, 1, 2, 2, 2, 3, 4, kept=9), chunk=2)


@prefill.criterion("each append brings one chunk, which reads what this append returns", points=1)
def one_chunk_each(rng):
    yield dict(**qkv(rng, 2, 3, 3, 7, 4, 5), chunk=3, look="cache")
    yield dict(**qkv(rng, 1, 4, 2, 6, 3, 4, kept=2), chunk=2, look="cache")
    yield dict(**qkv(rng, 1, 1, 1, 29, 2, 3), chunk=13, look="cache")
    yield dict(**qkv(rng, 1, 4, 2, 8, 3, 4, kept=2), chunk=3, look="coarse")


prefill.leaves_inputs_alone(points=1)


@prefill.mistake(
    "From the second chunk on your queries see the beginning of the text and not their own surroundings: the mask is aligned at its top left. The chunk's last query is the newest position; which corner of the mask must allow?"
)
def mask_aligned_at_the_top_left(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        allowed = torch.ones(q[:, :, now].shape[2], keys.shape[2], dtype=torch.bool).tril()
        outs.append(attn_ref.attention(q[:, :, now], keys, values, allowed=allowed))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "Within a chunk every query sees every key, also the later ones: only a chunk of one may do without a mask. Whom must the first query of a chunk not see?"
)
def no_mask_in_the_chunk(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        outs.append(attn_ref.attention(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now])))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "Each chunk attends to itself alone, as if the text began with it. What does `append` return beside the chunk's own keys?"
)
def each_chunk_alone(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        cache.append(k[:, :, now], v[:, :, now])
        outs.append(attn_ref.attention(q[:, :, now], k[:, :, now], v[:, :, now], causal=True))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "Your mask counts positions from the start of this prompt, and the cache may have held some before it. Which number says where the chunk stands in the whole text?"
)
def counted_from_the_prompt(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        positions = start + torch.arange(q[:, :, now].shape[2])
        allowed = torch.arange(keys.shape[2]) <= positions[:, None]
        outs.append(attn_ref.attention(q[:, :, now], keys, values, allowed=allowed))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "The positions that do not fill a chunk are left out: 7 in chunks of 3 make two chunks and a rest. How many rounds does the loop need?"
)
def rest_left_out(q, k, v, cache, chunk):
    outs = [q.new_zeros(*q.shape[:2], 0, v.shape[3])]
    for number in range(q.shape[2] // chunk):
        now = slice(number * chunk, (number + 1) * chunk)
        outs.append(attn_ref.attention(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now]), causal=True))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "The output is right, and the whole prompt entered the cache at once: `chunk` makes no difference to what is held. What should each append bring?"
)
def all_at_once(q, k, v, cache, chunk):
    return attn_ref.attention(q, *cache.append(k, v), causal=True)


@prefill.mistake("The output is right, one position at a time; a chunk should enter as one. Where is `chunk` read?")
def one_position_at_a_time(q, k, v, cache, chunk):
    outs = []
    for p in range(q.shape[2]):
        now = slice(p, p + 1)
        outs.append(attn_ref.attention(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now])))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "Each round appends the prompt from its beginning, so early positions are kept several times. Which part of k is new in this round?"
)
def appended_from_the_beginning(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        end = start + chunk
        keys, values = cache.append(k[:, :, :end], v[:, :, :end])
        outs.append(attn_ref.attention(q[:, :, start:end], keys, values, causal=True))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "You keep the prompt in a cache of your own. What the caller's cache held before is not seen, and the next token will not find this prompt. Which cache were you given?"
)
def cache_of_its_own(q, k, v, cache, chunk):
    outs, own = [], attn_ref.KVCache()
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        outs.append(attn_ref.attention(q[:, :, now], *own.append(k[:, :, now], v[:, :, now]), causal=True))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "All chunks enter the cache before the first of them asks. What an append returns is for its own chunk; asked by the whole prompt at once it makes the n × n table that chunks avoid. Where in the loop does a chunk ask?"
)
def attends_after_the_loop(q, k, v, cache, chunk):
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = cache.append(k[:, :, now], v[:, :, now])
    return attn_ref.attention(q, keys, values, causal=True)


@prefill.mistake(
    "`append` returns what the cache held before as well, and your chunk reads this prompt alone. Where do the keys begin that you take from the result?"
)
def past_cut_off(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        own = -k[:, :, : start + chunk].shape[2]
        outs.append(attn_ref.attention(q[:, :, now], keys[:, :, own:], values[:, :, own:], causal=True))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "Your query heads take the KV heads in turn, 0 1 0 1. As in chapter 06, neighbouring query heads share one, 0 0 1 1: which of `repeat` and `repeat_interleave` does that?"
)
def kv_heads_in_turn(q, k, v, cache, chunk):
    outs, times = [], q.shape[1] // k.shape[1]
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = (x.repeat(1, times, 1, 1) for x in cache.append(k[:, :, now], v[:, :, now]))
        outs.append(attn_ref.attention(q[:, :, now], keys, values, causal=True))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "A query sees the keys before its own and not its own, so the first one sees nothing. Is it `<` or `<=` in the causal mask?"
)
def own_key_hidden(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now, first = slice(start, start + chunk), cache.length
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        allowed = torch.arange(keys.shape[2]) < torch.arange(first, cache.length)[:, None]
        outs.append(attn_ref.attention(q[:, :, now], keys, values, allowed=allowed))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "Each query sees one key of its future, wherever its chunk has one left. If the chunk starts at position p, which is the last key its first query may see?"
)
def one_key_too_far(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now, first = slice(start, start + chunk), cache.length
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        allowed = torch.arange(keys.shape[2]) <= torch.arange(first, cache.length)[:, None] + 1
        outs.append(attn_ref.attention(q[:, :, now], keys, values, allowed=allowed))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "The chunks' outputs are joined along the batch. Each holds the same texts and heads and other positions: which axis grows?"
)
def joined_along_the_batch(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        outs.append(attn_ref.attention(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now]), causal=True))
    return torch.cat(outs)


@prefill.mistake(
    "Only the last chunk's output comes back. The layers above need every position's: where are the others collected?"
)
def only_the_last_chunk(q, k, v, cache, chunk):
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        out = attn_ref.attention(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now]), causal=True)
    return out


@prefill.mistake("The scores are not divided by √d. What turns dot products into scores?")
def not_divided(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        outs.append(attn_ref.attention(q[:, :, now], keys, values, causal=True, scale=1.0))
    return torch.cat(outs, dim=2)


@prefill.mistake(
    "The output is right, and it stands where the caller's queries were: `q[:, :, now] = ...` writes into the argument. Where else can the results go?"
)
def written_over_the_queries(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        outs.append(attn_ref.attention(q[:, :, now], *cache.append(k[:, :, now], v[:, :, now]), causal=True))
        width = min(q.shape[3], v.shape[3])
        q[:, :, now, :width] = outs[-1][..., :width]
    return torch.cat(outs, dim=2)


@prefill.also_right
def with_the_cache_as_counter(q, k, v, cache, chunk):
    out = []
    for qs, ks, vs in zip(q.split(chunk, 2), k.split(chunk, 2), v.split(chunk, 2), strict=True):
        before = cache.length
        keys, values = cache.append(ks, vs)
        allowed = torch.arange(cache.length) <= (before + torch.arange(ks.shape[2]))[:, None]
        out.append(attn_ref.attention(qs, keys, values, allowed=allowed))
    return torch.cat(out, dim=2)


@prefill.also_right
def into_a_tensor_of_zeros(q, k, v, cache, chunk):
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    times, start = q.shape[1] // k.shape[1], 0
    while start < q.shape[2]:
        end = min(start + chunk, q.shape[2])
        keys, values = cache.append(k[:, :, start:end], v[:, :, start:end])
        keys, values = keys.repeat_interleave(times, dim=1), values.repeat_interleave(times, dim=1)
        scores = q[:, :, start:end] @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5
        future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(keys.shape[2] - (end - start) + 1)
        out[:, :, start:end] = scores.masked_fill(future, -torch.inf).softmax(-1) @ values
        start = end
    return out


@prefill.also_right
def one_query_at_a_time_within_the_chunk(q, k, v, cache, chunk):
    outs = []
    for start in range(0, q.shape[2], chunk):
        now = slice(start, start + chunk)
        before = cache.length
        keys, values = cache.append(k[:, :, now], v[:, :, now])
        for i in range(k[:, :, now].shape[2]):
            seen, one = slice(0, before + i + 1), slice(start + i, start + i + 1)
            outs.append(attn_ref.attention(q[:, :, one], keys[:, :, seen], values[:, :, seen]))
    return torch.cat(outs, dim=2)


prefill.hints(
    "A chunk that begins at position p: its query i stands at p + i and sees the keys 0 .. p + i. `cache.length` before the append is p.",
    "For each start 0, chunk, 2·chunk, …: cut q, k and v, append k and v, attend with a causal mask aligned at the bottom right. Join the outputs along the positions.",
)
prefill.errors(
    (
        "RuntimeError: The size of tensor a (6) must match the size of tensor b (3) at non-singleton dimension 3",
        "The mask is as wide as the chunk, and the keys are as many as the cache returned. How many columns does it need?",
    ),
)

# --- 9.5 -------------------------------------------------------------------------------------------------------------

rolling = Exercise("9.5", "A window that rolls", reference=attn_ref.RollingKVCache, minutes=20)


@rolling.probe
def drive_rolling(answer, window, k, v, sizes, story=RESULTS):
    with left_as_it_was(answer):
        return tell_of_cache(lambda: answer(window), k, v, sizes, story, window)


@rolling.criterion("one token at a time: the last positions that fit the window, oldest first", points=2)
def the_last_ones(rng):
    k = torch.arange(5.0).double().reshape(1, 1, 5, 1)
    yield dict(window=3, k=k, v=10 * k, sizes=[1] * 5)
    yield dict(window=4, k=tensor(rng, 2, 3, 11, 4), v=tensor(rng, 2, 3, 11, 5), sizes=[1] * 11)
    yield dict(window=2, k=tensor(rng, 1, 2, 2, 2), v=tensor(rng, 1, 2, 2, 2), sizes=[1] * 2)
    yield dict(window=9, k=tensor(rng, 1, 2, 6, 3), v=tensor(rng, 1, 2, 6, 2), sizes=[1] * 6)


@rolling.criterion("a chunk comes with the window - 1 positions before it, also a long one", points=2)
def chunks_and_the_window(rng):
    yield dict(window=4, k=tensor(rng, 2, 3, 12, 4), v=tensor(rng, 2, 3, 12, 5), sizes=[3, 2, 1, 4, 2])
    yield dict(window=3, k=tensor(rng, 1, 2, 16, 3), v=tensor(rng, 1, 2, 16, 2), sizes=[7, 1, 1, 5, 2])
    yield dict(window=1, k=tensor(rng, 1, 2, 7, 3), v=tensor(rng, 1, 2, 7, 2), sizes=[1, 1, 3, 2])


@rolling.criterion("length counts every position, forgotten ones too", points=1)
def forgotten_ones_count(rng):
    yield dict(window=3, k=tensor(rng, 1, 2, 8, 4), v=tensor(rng, 1, 2, 8, 5), sizes=[1, 2, 1, 4], story=LENGTH)


@rolling.criterion("earlier results stay, the caller may overwrite its tensors, and two caches share nothing", points=1)
def independent_rings(rng):
    yield dict(window=3, k=tensor(rng, 2, 3, 8, 4), v=tensor(rng, 2, 3, 8, 5), sizes=[1] * 8, story=HELD)
    yield dict(window=4, k=tensor(rng, 1, 2, 8, 4), v=tensor(rng, 1, 2, 8, 3), sizes=[2, 1, 4, 1], story=OVERWRITTEN)
    yield dict(window=4, k=tensor(rng, 1, 2, 6, 4), v=tensor(rng, 1, 2, 6, 3), sizes=[1] * 6, story=OVERWRITTEN)
    yield dict(window=3, k=tensor(rng, 1, 2, 6, 4), v=tensor(rng, 1, 2, 6, 3), sizes=[2, 1, 3], story=TWO)


@rolling.criterion("what it holds stops growing", points=1)
def bounded(rng):
    yield dict(window=4, k=tensor(rng, 1, 2, 40, 4), v=tensor(rng, 1, 2, 40, 3), sizes=[1] * 40, story=LONG)
    yield dict(window=3, k=tensor(rng, 1, 2, 80, 4), v=tensor(rng, 1, 2, 80, 3), sizes=[2] * 40, story=LONG)


@rolling.mistake(
    "One position too many survives: with a window of 3 a query sees itself and two before it. How many are left from before when one more comes?"
)
class OneTooMany:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        if self.keys is not None:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        self.keys, self.values = k[:, :, -self.window :].clone(), v[:, :, -self.window :].clone()
        return k.clone(), v.clone()


@rolling.mistake(
    "One position too few: with a window of 3 a query sees itself and two before it, and yours sees one. Does the window count the query's own position?"
)
class OneTooFew:
    def __init__(self, window):
        self.before, self.length, self.keys, self.values = max(window - 2, 0), 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        if self.keys is not None:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        first = max(k.shape[2] - self.before, 0)
        self.keys, self.values = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k.clone(), v.clone()


@rolling.mistake(
    "The ring comes back as it lies in memory. Position p sits in slot p % window, so after one lap the newest stands before the oldest. In which order must the slots be read, once the ring has gone round?"
)
class InTheOrderOfTheSlots:
    def __init__(self, window):
        self.window, self.length, self.slots = window, 0, {}

    def append(self, k, v):
        earlier = range(max(0, self.length - self.window + 1), self.length)
        chunk = [(k[:, :, i].clone(), v[:, :, i].clone()) for i in range(k.shape[2])]
        rows = [self.slots[p % self.window] for p in earlier] + chunk
        for row in chunk:
            self.slots[self.length % self.window] = row
            self.length += 1
        if len(chunk) == 1:
            rows = [self.slots[slot] for slot in sorted(self.slots)]
        return tuple(torch.stack(side, dim=2) for side in zip(*rows, strict=True))


@rolling.mistake(
    "When the window is full you forget the newest, or take nothing new. Who leaves a window that moves on with the text?"
)
class NewestForgotten:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        self.keys, self.values = self.keys[:, :, : self.window].clone(), self.values[:, :, : self.window].clone()
        return self.keys.clone(), self.values.clone()


@rolling.mistake(
    "`length` stops at the window. The next token's position would stand still from there on, and RoPE would see every distance wrong. What does `length` count?"
)
class LengthStops:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        if self.keys is not None:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        first = max(k.shape[2] - self.window + 1, 0)
        self.keys, self.values = k[:, :, first:].clone(), v[:, :, first:].clone()
        self.length = min(k.shape[2], self.window)
        return k.clone(), v.clone()


@rolling.mistake(
    "A chunk gets back the last `window` positions and no more. Its first query then misses keys that its window still holds: how far back does the first of n queries see?"
)
class OneWindowForTheChunk:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        self.keys, self.values = self.keys[:, :, -self.window :].clone(), self.values[:, :, -self.window :].clone()
        return self.keys.clone(), self.values.clone()


@rolling.mistake(
    "The window counts appends where it should count positions: four chunks of three are twelve positions. What is one entry of your list?"
)
class AppendsInTheWindow:
    def __init__(self, window):
        self.window, self.length, self.chunks = window, 0, []

    def append(self, k, v):
        self.length += k.shape[2]
        self.chunks = [*self.chunks, (k.clone(), v.clone())][-self.window :]
        return torch.cat([k for k, _ in self.chunks], dim=2), torch.cat([v for _, v in self.chunks], dim=2)


@rolling.mistake(
    "The results are right and nothing is ever forgotten: what you keep grows with the text, and you only show its end. What is no longer needed once a query has been answered?"
)
class KeepsEverything:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        first = max(self.length - self.window + 1, 0)
        self.length += k.shape[2]
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        return self.keys[:, :, first:], self.values[:, :, first:]


@rolling.mistake(
    "What you keep stops growing only beyond 2 · window positions. How many can the next query still reach, and when do the others go?"
)
class CutTooSeldom:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        first = max(self.keys.shape[2] - k.shape[2] - self.window + 1, 0)
        keys, values = self.keys[:, :, first:], self.values[:, :, first:]
        if self.keys.shape[2] > 4 * self.window:
            self.keys, self.values = keys.clone(), values.clone()
        return keys, values


@rolling.mistake(
    "Each append drops one position, and a chunk of two brings two: with chunks what you keep grows with the text. How many must go when n come?"
)
class OneOutForEachAppend:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        if self.keys is not None and self.keys.shape[2] >= self.window:
            self.keys, self.values = self.keys[:, :, 1:], self.values[:, :, 1:]
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        first = max(self.keys.shape[2] - k.shape[2] - self.window + 1, 0)
        return self.keys[:, :, first:], self.values[:, :, first:]


@rolling.mistake(
    "With a window of 1 nothing is forgotten: `x[-0:]` is all of x, and window - 1 is 0 there. How can the cut be counted from the front instead?"
)
class MinusZero:
    def __init__(self, window):
        self.window, self.length, self.keys, self.values = window, 0, None, None

    def append(self, k, v):
        self.length += k.shape[2]
        if self.keys is not None:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        self.keys, self.values = k[:, :, -(self.window - 1) :].clone(), v[:, :, -(self.window - 1) :].clone()
        return k.clone(), v.clone()


@rolling.mistake(
    "You return the ring itself, and later tokens are written over what the caller still holds. Which operation makes of it something that stays?"
)
class RingHandedOut:
    def __init__(self, window):
        self.window, self.length, self.rings = window, 0, None

    def append(self, k, v):
        if self.rings is None:
            self.rings = [x.new_zeros(*x.shape[:2], self.window, x.shape[3]) for x in (k, v)]
        before, results = min(self.length, self.window - 1), []
        self.length += k.shape[2]
        for ring, x in zip(self.rings, (k, v), strict=True):
            longer = torch.cat([ring[:, :, self.window - before :], x], dim=2)
            ring[...] = torch.cat([ring, x], dim=2)[:, :, -self.window :]
            results.append(longer if longer.shape[2] > self.window else ring[:, :, self.window - longer.shape[2] :])
        return tuple(results)


@rolling.mistake(
    "Two caches share one store, because it belongs to the class. Where must it be made so that each cache has its own?"
)
class OneRingForAll:
    rows = []

    def __init__(self, window):
        self.window, self.length = window, 0

    def append(self, k, v):
        first = max(len(self.rows) - self.window + 1, 0)
        self.length += k.shape[2]
        del self.rows[:first]
        self.rows += [(k[:, :, i].clone(), v[:, :, i].clone()) for i in range(k.shape[2])]
        return tuple(torch.stack(side, dim=2) for side in zip(*self.rows, strict=True))


@rolling.mistake(
    "What you keep of a chunk is the caller's own memory: when it is used again, your window changes. What should be kept in its place?"
)
class CallersMemoryKept:
    def __init__(self, window):
        self.window, self.length, self.rows = window, 0, []

    def append(self, k, v):
        self.length += k.shape[2]
        first = max(len(self.rows) - self.window + 1, 0)
        self.rows = self.rows[first:] + [(k[:, :, i], v[:, :, i]) for i in range(k.shape[2])]
        return tuple(torch.stack(side, dim=2) for side in zip(*self.rows, strict=True))


@rolling.also_right
class CutAfterEachAppend:
    def __init__(self, window):
        self.window, self.length, self.kept = window, 0, None

    def append(self, k, v):
        self.length += k.shape[2]
        if self.kept is not None:
            k, v = (torch.cat([old, new], dim=2) for old, new in zip(self.kept, (k, v), strict=True))
        first = max(k.shape[2] - (self.window - 1), 0)
        self.kept = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k.clone(), v.clone()


@rolling.also_right
class SlotBySlot:
    def __init__(self, window):
        self.window, self.length, self.slots = window, 0, [None] * window

    def append(self, k, v):
        earlier = range(max(0, self.length - self.window + 1), self.length)
        rows = [self.slots[p % self.window] for p in earlier]
        for i in range(k.shape[2]):
            rows.append((k[:, :, i].clone(), v[:, :, i].clone()))
            self.slots[self.length % self.window] = rows[-1]
            self.length += 1
        return [torch.stack(side, dim=2) for side in zip(*rows, strict=True)]


@rolling.also_right
class TurnedWithRoll:
    def __init__(self, window):
        self.window, self.length = window, 0
        self.ring = None

    def append(self, k, v):
        n, held = k.shape[2], min(self.length, self.window)
        both = torch.cat([k, v], dim=3)
        if self.ring is None:
            self.ring = both.new_zeros(*both.shape[:2], self.window, both.shape[3])
        before = min(held, self.window - 1)
        whole = torch.cat([self.ring[:, :, self.window - before :], both], dim=2)
        last = both[:, :, -self.window :]
        self.ring = torch.roll(self.ring, -last.shape[2], dims=2)
        self.ring[:, :, self.window - last.shape[2] :] = last
        self.length += n
        return whole[..., : k.shape[3]].clone(), whole[..., k.shape[3] :].clone()


rolling.hints(
    "What does the chunk's attention need now, and what must survive for the next append? For one token and a window of 3 the answers are three positions and two.",
    "Join what was kept and the chunk; that is the result. Keep copies of its last window - 1 positions, counted from the front, because `[-0:]` means everything.",
)

# --- 9.6 -------------------------------------------------------------------------------------------------------------

paged = Exercise("9.6", "Blocks from a pool", reference=attn_ref.PagedKVCache, minutes=25)

UNWRITTEN = -7.0  # in every slot of a new pool, so that reading one is seen


def new_pool(k, v, n_blocks, block_size):
    """A pool for heads and sizes like those of k and v, each slot holding a number that no case uses."""
    pool = attn_ref.BlockPool(n_blocks, block_size, k.shape[1], k.shape[3], v.shape[3], like=k)
    pool.keys.fill_(UNWRITTEN)
    pool.values.fill_(UNWRITTEN)
    return pool


def by_the_table(pool, table, length):
    """Keys and values of the positions 0 .. length - 1, read where a block table says they lie."""
    if len(table) * pool.block_size < length:
        return [f"nothing, for {len(table)} blocks hold no {length} positions"] * 2
    where = [(table[p // pool.block_size], p % pool.block_size) for p in range(length)]
    return [torch.stack([store[block, slot] for block, slot in where]) for store in (pool.keys, pool.values)]


@paged.probe
def drive_paged(answer, k, v, steps, n_blocks=12, block_size=4, look="results"):
    """steps such as "a+3 b+2 a+1 a.free": what the texts a and b do in turn; "a.fork" adds a reader to a's blocks."""
    pool, sequences, told, taken, forks = new_pool(k, v, n_blocks, block_size), {}, {}, 0, []
    with left_as_it_was(answer):
        for number, what in enumerate(steps.split(), 1):
            name, now = what[0], f"after step {number}, {what}"
            if name not in sequences:
                sequences[name] = answer(pool)
                if look == "blocks":
                    told[f"free blocks before the first append of {name}"] = pool.n_free
            cache = sequences[name]
            if what.endswith(".free"):
                cache.free()
            elif what.endswith(".fork"):
                for block in cache.table:
                    pool.references[block] += 1
                forks.append((list(cache.table), cache.length))
            else:
                n = int(what[2:])
                piece = slice(taken, taken + n)
                taken += n
                try:
                    keys, values = pair_of(cache.append(k[:, :, piece], v[:, :, piece]))
                except MemoryError:
                    keys = values = "MemoryError"
                if look == "results" or isinstance(keys, str):
                    told[f"keys {now}"], told[f"values {now}"] = at_this_moment(keys), at_this_moment(values)
            if look == "blocks":
                told[f"free blocks {now}"] = pool.n_free
                told[f"length {now}"] = length_of(cache) if not what.endswith(".free") else "over"
        if look == "memory":
            for name, cache in sequences.items():
                if f"{name}.free" not in steps:
                    both = by_the_table(pool, cache.table, cache.length)
                    told[f"keys of {name} in the pool"], told[f"values of {name} in the pool"] = both
                    known = set()
                    bytes_held(pool, known)
                    alone = 2 * bytes_held(vars(cache), known) <= bytes_held([x.clone() for x in both])
                    told[f"keys and values of {name} lie in the pool alone"] = alone
            for table, length in forks:
                both = by_the_table(pool, table, length)
                told["keys that another text still reads"], told["values that another text still reads"] = both
    return told


@paged.criterion("append returns everything so far, in order", points=1)
def everything_from_the_blocks(rng):
    yield dict(k=tensor(rng, 1, 1, 3, 1), v=tensor(rng, 1, 1, 3, 1), steps="a+2 a+1", block_size=2)
    yield dict(k=tensor(rng, 1, 3, 13, 2), v=tensor(rng, 1, 3, 13, 5), steps="a+3 a+1 a+6 a+2 a+1")
    yield dict(k=tensor(rng, 1, 4, 12, 4), v=tensor(rng, 1, 4, 12, 4), steps="a+4 a+4 a+4")
    yield dict(k=tensor(rng, 1, 2, 5, 3), v=tensor(rng, 1, 2, 5, 3), steps="a+1 a+1 a+3", block_size=1)


@paged.criterion("position p lies in block table[p // block_size], slot p % block_size", points=1)
def where_it_lies(rng):
    yield dict(k=tensor(rng, 1, 3, 9, 2), v=tensor(rng, 1, 3, 9, 5), steps="a+3 a+1 a+5", look="memory")
    yield dict(k=tensor(rng, 1, 2, 8, 2), v=tensor(rng, 1, 2, 8, 2), steps="a+7 a+1", block_size=3, look="memory")


@paged.criterion("a block is filled before the next is taken", points=1)
def no_block_too_many(rng):
    k, v = tensor(rng, 1, 3, 21, 2), tensor(rng, 1, 3, 21, 5)
    yield dict(k=k, v=v, steps="a+1 a+1 a+1 a+1 a+1 a+3", look="blocks")
    yield dict(k=k, v=v, steps="a+4 a+8 a+1", look="blocks")
    yield dict(k=k, v=v, steps="a+2 a+7 a+3", block_size=3, look="blocks")


@paged.criterion("texts in one pool do not disturb each other", points=1)
def side_by_side(rng):
    k, v = tensor(rng, 1, 3, 19, 2), tensor(rng, 1, 3, 19, 5)
    yield dict(k=k, v=v, steps="a+3 b+6 a+4 b+1 a+2")
    yield dict(k=k, v=v, steps="b+5 a+5 c+2 b+4", look="memory")
    yield dict(k=k, v=v, steps="a+8 b+3 a.free b+5 b+2")
    yield dict(k=k, v=v, steps="a+6 b+3 a.free", look="memory")
    yield dict(k=k, v=v, steps="a+6 a.fork a.free", look="memory")


@paged.criterion("free gives every block back, and only once", points=1)
def given_back(rng):
    k, v = tensor(rng, 1, 2, 30, 3), tensor(rng, 1, 2, 30, 4)
    yield dict(k=k, v=v, steps="a+6 b+3 a.free", look="blocks")
    yield dict(k=k, v=v, steps="a+6 a.fork a.free", look="blocks")
    yield dict(k=k, v=v, steps="a+8 a.free a.free b+5 b.free", look="blocks")
    yield dict(k=k, v=v, steps="a+5 a.free b+7 c+8", n_blocks=4, look="results")
    yield dict(k=k, v=v, steps="a+6 a.free b+6 a.free c+9", look="blocks")


@paged.criterion("without enough blocks: MemoryError, and everything is as before", points=1)
def refused(rng):
    k, v = tensor(rng, 1, 2, 40, 3), tensor(rng, 1, 2, 40, 4)
    yield dict(k=k, v=v, steps="a+6 a+12 a+2 a.free", n_blocks=3, look="blocks")
    yield dict(k=k, v=v, steps="a+5 b+3 a+9 a+1", n_blocks=4)


@paged.mistake(
    "Every append begins a new block, and the rest of the last one is never used. With tokens that come one at a time, how many blocks does a text of four then take?"
)
class NewBlockForEachAppend:
    def __init__(self, pool):
        self.pool, self.table, self.length, self.where = pool, [], 0, []

    def append(self, k, v):
        size, n = self.pool.block_size, k.shape[2]
        fresh = self.pool.take(-(-n // size))
        self.table += fresh
        for i in range(n):
            block, slot = fresh[i // size], i % size
            self.pool.keys[block, slot], self.pool.values[block, slot] = k[0, :, i], v[0, :, i]
            self.where.append((block, slot))
        self.length += n
        stores = (self.pool.keys, self.pool.values)
        return tuple(torch.stack([x[b, s] for b, s in self.where], dim=1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length, self.where = [], 0, []


@paged.mistake(
    "A full block is followed by one that nobody needs yet: `end // block_size + 1` is one too many where end is a multiple of the size. How is a quotient rounded up?"
)
class OneBlockAhead:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(end // size + 1 - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "`free` gives back the full blocks and forgets the last one, which is only partly filled. After enough texts the pool is empty and nobody uses it. What does the table list?"
)
class LastBlockLeaks:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table[: self.length // self.pool.block_size])
        self.table, self.length = [], 0


@paged.mistake(
    "`free` gives the blocks back and keeps the table, so a second call gives them back again. By then they may be another's. What should the table hold after `free`?"
)
class GivenBackTwice:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)


@paged.mistake(
    "A second `free` gives the table back again as soon as its blocks have readers, and these are another text's. What should the table hold after `free`?"
)
class BlocksOfAnother:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        if all(self.pool.references[block] for block in self.table):
            self.pool.give_back(self.table)


@paged.mistake(
    "Every position is kept twice, in the pool and in tensors of this text's own, and the memory that blocks save is spent again. From where can `append` read all that it returns?"
)
class KeptTwice:
    def __init__(self, pool):
        self.pool, self.table, self.length, self.keys, self.values = pool, [], 0, None, None

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        self.keys = k.clone() if self.keys is None else torch.cat([self.keys, k], dim=2)
        self.values = v.clone() if self.values is None else torch.cat([self.values, v], dim=2)
        return self.keys, self.values

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length, self.keys, self.values = [], 0, None, None


@paged.mistake(
    "Only the positions that have just come are returned. The next query must also meet those before: where do they lie?"
)
class NewPositionsAlone:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        return k.clone(), v.clone()

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "`free` wipes the blocks. Another text may read them too, as after a fork, and `give_back` knows it. Who decides when a block is free?"
)
class WipedOnFree:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.keys[self.table] = 0
        self.pool.values[self.table] = 0
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "The table is sorted. Blocks come in any order, also a lower number after a higher one, and the table's order is the text's. What is lost when it changes?"
)
class TableSorted:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table = sorted(self.table + self.pool.take(-(-end // size) - len(self.table)))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "Nothing is given back: the table is emptied, and the pool still counts its blocks as used. Who has to be told?"
)
class NothingGivenBack:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.table, self.length = [], 0


@paged.mistake(
    "Blocks are taken one by one, and when the pool runs dry on the way those taken so far stay with a text that was refused. `pool.take(n)` gives all or none: can the number be known beforehand?"
)
class TakenOneByOne:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size = self.pool.block_size
        for i in range(k.shape[2]):
            if self.length == len(self.table) * size:
                self.table += self.pool.take(1)
            block, slot = self.table[self.length // size], self.length % size
            self.pool.keys[block, slot], self.pool.values[block, slot] = k[0, :, i], v[0, :, i]
            self.length += 1
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[: self.length].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "Heads and positions are confused: `k[0]` is (H_kv, n, d) and the pool wants (n, H_kv, d). A reshape gives that shape and mixes the heads. Which operation exchanges two axes?"
)
class HeadsAndPositionsConfused:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        k, v = (x[0].reshape(x.shape[2], x.shape[1], x.shape[3]) for x in (k, v))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[p - start]
            self.pool.values[self.table[p // size], p % size] = v[p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "The whole last block comes back, with slots that nobody has written yet. How many positions does the text have?"
)
class UnwrittenSlotsToo:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1).transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "The batch axis is missing in what you return: attention wants (1, H_kv, n, d), as k came in. Which axis does the pool not have?"
)
class BatchAxisLost:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1) for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "You read the pool from the first block of the table to the last, as if they were neighbours. Alone in a pool they are; which blocks lie between those of a text that has company?"
)
class TakenForNeighbours:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        run = slice(self.table[0], self.table[-1] + 1)
        return tuple(x[run].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "Each append writes from slot 0 of the first block on, over what stands there. At which position does the chunk begin?"
)
class WrittenFromTheStart:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, end = self.pool.block_size, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(k.shape[2]):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "You number the blocks 0, 1, 2 yourself. Two texts then write into the same ones, and the pool believes that all are free. Who hands out the numbers?"
)
class NumbersOfItsOwn:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table = list(range(-(-end // size)))
        for p in range(start, end):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p - start]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.table, self.length = [], 0


@paged.mistake(
    "Quotient and remainder have changed places. With blocks of 4, position 6 is the third of the second block: which of 6 // 4 and 6 % 4 says which block?"
)
class BlockAndSlotSwapped:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, start, end = self.pool.block_size, self.length, self.length + k.shape[2]
        self.table += self.pool.take(-(-end // size) - len(self.table))
        for p in range(start, end):
            self.pool.keys[self.table[p % size], p // size] = k[0, :, p - start]
            self.pool.values[self.table[p % size], p // size] = v[0, :, p - start]
        self.length = end
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:end].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.mistake(
    "`length` is not counted, so the second append believes it is the first. What tells an append where it begins?"
)
class LengthNotCounted:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, n = self.pool.block_size, k.shape[2]
        self.table += self.pool.take(max(-(-n // size) - len(self.table), 0))
        for p in range(n):
            self.pool.keys[self.table[p // size], p % size] = k[0, :, p]
            self.pool.values[self.table[p // size], p % size] = v[0, :, p]
        stores = (self.pool.keys, self.pool.values)
        return tuple(x[self.table].flatten(0, 1)[:n].transpose(0, 1)[None] for x in stores)

    def free(self):
        self.pool.give_back(self.table)
        self.table, self.length = [], 0


@paged.also_right
class PositionsAsIndices:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        pool, size = self.pool, self.pool.block_size
        positions = torch.arange(self.length, self.length + k.shape[2])
        needed = (int(positions[-1]) // size + 1) - len(self.table)
        self.table = self.table + pool.take(needed)
        blocks = torch.tensor(self.table)[positions // size]
        pool.keys[blocks, positions % size] = k[0].transpose(0, 1)
        pool.values[blocks, positions % size] = v[0].transpose(0, 1)
        self.length += k.shape[2]
        keys, values = pool.keys[self.table], pool.values[self.table]
        keys, values = (x.reshape(-1, *x.shape[2:])[: self.length] for x in (keys, values))
        return keys.movedim(0, 1).unsqueeze(0), values.movedim(0, 1).unsqueeze(0)

    def free(self):
        blocks, self.table, self.length = self.table, [], 0
        self.pool.give_back(blocks)


@paged.also_right
class BlockByBlock:
    def __init__(self, pool):
        self.pool, self.table, self.length = pool, [], 0

    def append(self, k, v):
        size, n, done = self.pool.block_size, k.shape[2], 0
        room = len(self.table) * size - self.length
        if n > room:
            self.table += self.pool.take((n - room + size - 1) // size)
        while done < n:
            block, slot = self.table[self.length // size], self.length % size
            count = min(size - slot, n - done)
            for store, x in ((self.pool.keys, k), (self.pool.values, v)):
                store[block, slot : slot + count] = x[0, :, done : done + count].permute(1, 0, 2)
            done, self.length = done + count, self.length + count
        return self._read(self.pool.keys), self._read(self.pool.values)

    def _read(self, store):
        size = self.pool.block_size
        rows = [store[self.table[p // size]][p % size] for p in range(self.length)]
        return torch.stack(rows, dim=1)[None]

    def free(self):
        while self.table:
            self.pool.give_back([self.table.pop()])
        self.length = 0


paged.hints(
    "Count first: the text will have `length + n` positions. How many blocks is that, rounded up, and how many does the table hold already?",
    "Take the missing blocks with one `pool.take`, then write each position where the table says. `k[0, :, i]` is one position of all heads, (H_kv, d), as a slot wants it.",
    "To read, `pool.keys[table]` gathers (blocks, block_size, H_kv, d). Flatten the first two axes, keep `length` rows, put the heads in front, add the batch axis.",
)
paged.errors(
    (
        "ValueError: block 0 is free already; was it given back twice?",
        "Two texts cannot own one block. Does the table still list blocks that were given back?",
    ),
    (
        "RuntimeError: shape mismatch: value tensor of shape [3, 2, 5] cannot be broadcast",
        "The pool wants positions before heads. Print both shapes: which two axes must change places?",
    ),
)

# --- 9.7 -------------------------------------------------------------------------------------------------------------


def copy_on_write(pool, table, length):
    """The table with which a text of `length` positions may write its next one.  -> list of block numbers

    A last block that is partly filled and that others read too is replaced by a copy of its own.
    """
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


sharing = Exercise("9.7", "Copy before you write", reference=copy_on_write, minutes=12)


@sharing.probe
def drive_sharing(answer, length, k, v, readers=2, block_size=4, spare=5, turns=1, look="result"):
    """`readers` texts share a table of `length` positions; `turns` of them call the answer, one after the other."""
    n_blocks = -(-length // block_size)
    pool = new_pool(k, v, n_blocks + spare, block_size)
    shared = pool.take(n_blocks)
    for number, block in enumerate(shared):
        here = slice(number * block_size, min((number + 1) * block_size, length))
        pool.keys[block, : here.stop - here.start] = k[0, :, here].transpose(0, 1)
        pool.values[block, : here.stop - here.start] = v[0, :, here].transpose(0, 1)
        pool.references[block] = readers
    tables, told = [list(shared) for _ in range(readers)], {}
    for turn in range(turns):
        mine = tables[turn]
        try:
            result = answer(pool, mine, length)
            told[f"turn {turn + 1}"] = "went through"
        except MemoryError:
            told[f"turn {turn + 1}"], result = "refused with MemoryError", list(mine)
        if not isinstance(result, (list, tuple)) or not all(isinstance(x, numbers.Integral) for x in result):
            return result
        told[f"blocks in table {turn + 1}"] = len(result)
        if len(result) != n_blocks:
            return told
        if look == "result":
            told[f"which blocks stay in table {turn + 1}"] = [one in shared for one in result]
            for name, rows in zip(("keys", "values"), by_the_table(pool, result, length), strict=True):
                told[f"{name} read through table {turn + 1}"] = rows
        if look == "others":
            told[f"the table passed in turn {turn + 1} is unchanged"] = mine == shared
        tables[turn] = list(result)
    if look == "others":
        for turn in range(turns):  # each now writes its next position, where that lies in a block it holds
            if length % block_size:
                pool.keys[tables[turn][-1], length % block_size] = 100.0 + turn
        for turn, one in enumerate(tables):
            if length % block_size:
                told[f"what table {turn + 1} reads at its next position"] = pool.keys[one[-1], length % block_size]
            told[f"keys read through table {turn + 1}"] = by_the_table(pool, one, length)[0]
    if look == "pool":
        told["free blocks"] = pool.n_free
        told["readers of each block of each table"] = [[pool.references[block] for block in one] for one in tables]
        for one in tables:
            pool.give_back(one)
        told["free blocks when every table is given back"] = pool.n_free
    return told


def kv(rng, heads, n, d, d_v):
    return dict(k=tensor(rng, 1, heads, n, d), v=tensor(rng, 1, heads, n, d_v))


@sharing.criterion("a shared, partly filled last block becomes a copy of its own", points=2)
def copied_when_shared(rng):
    yield dict(length=1, **kv(rng, 1, 1, 1, 1), block_size=2)
    yield dict(length=6, **kv(rng, 2, 6, 3, 5))
    yield dict(length=11, **kv(rng, 3, 11, 2, 4), readers=3)
    yield dict(length=7, **kv(rng, 2, 7, 2, 2), readers=2, block_size=3, turns=2)


@sharing.criterion("nothing is copied where the last block is full, or nobody else reads it", points=1)
def not_copied_in_vain(rng):
    yield dict(length=8, **kv(rng, 2, 8, 3, 5), look="pool")
    yield dict(length=6, **kv(rng, 2, 6, 3, 5), readers=1, look="pool")
    yield dict(length=3, **kv(rng, 2, 3, 3, 5), readers=1)
    yield dict(length=0, **kv(rng, 2, 1, 3, 5), look="pool")
    yield dict(length=5, **kv(rng, 1, 5, 2, 2), block_size=1, readers=3, turns=2, look="pool")


@sharing.criterion("the other texts and the table passed in stay as they were", points=1)
def others_undisturbed(rng):
    yield dict(length=6, **kv(rng, 2, 6, 3, 5), look="others")
    yield dict(length=7, **kv(rng, 2, 7, 3, 5), readers=4, turns=2, look="others")


@sharing.criterion("the pool's books are right: readers, free blocks, and no block lost", points=1)
def books(rng):
    yield dict(length=6, **kv(rng, 2, 6, 3, 5), look="pool")
    yield dict(length=9, **kv(rng, 2, 9, 3, 5), readers=3, turns=3, look="pool")
    yield dict(length=2, **kv(rng, 2, 2, 3, 5), readers=3, turns=2, look="pool")


@sharing.criterion("without a free block: MemoryError, and the books are as before", points=1)
def no_block_left(rng):
    yield dict(length=6, **kv(rng, 2, 6, 3, 5), readers=3, spare=0, look="pool")
    yield dict(length=6, **kv(rng, 2, 6, 3, 5), readers=3, spare=1, turns=2, look="pool")
    yield dict(length=8, **kv(rng, 2, 8, 3, 5), readers=3, spare=0, look="pool")


@sharing.mistake(
    "The table comes back as it was, and the next token is written where other texts read. When may a text write into a block without asking?"
)
def never_copied(pool, table, length):
    return list(table)


@sharing.mistake(
    "You copy the last block even if this text is its only reader. What does `pool.references` say about it?"
)
def copied_for_one_reader(pool, table, length):
    table = list(table)
    if length % pool.block_size:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.mistake(
    "You copy a last block that is full. The next position goes into a new block then, and nobody ever writes into the old one again. How do you see that a block is full?"
)
def full_block_copied(pool, table, length):
    table = list(table)
    if table and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.mistake(
    "The new block is empty: the positions that were already in the old one are missing. What has to move along?"
)
def nothing_moved_along(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.mistake("The keys moved to the new block and the values did not. What else does a block hold?")
def only_the_keys_copied(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own] = pool.keys[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.mistake(
    "The old block still counts this text among its readers. When all others have gone it stays in use for ever. Which call tells the pool?"
)
def old_block_not_given_back(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        table[-1] = own
    return table


@sharing.mistake(
    "You give back the old block before you know that there is a new one. If the pool is empty the text is left with a block that no longer counts it. In which order do the two calls stand?"
)
def given_back_too_early(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        old = table[-1]
        pool.give_back([old])
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[old], pool.values[old]
        table[-1] = own
    return table


@sharing.mistake("All blocks are copied, and nothing is shared any more. Which of them will be written to next?")
def all_blocks_copied(pool, table, length):
    if length % pool.block_size and pool.references[table[-1]] > 1:
        own = pool.take(len(table))
        pool.keys[own], pool.values[own] = pool.keys[table], pool.values[table]
        pool.give_back(table)
        return own
    return list(table)


@sharing.mistake(
    "You copy the first block. The next position follows the last one: where in the table does its block stand?"
)
def first_block_copied(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[0]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[0]], pool.values[table[0]]
        pool.give_back([table[0]])
        table[0] = own
    return table


@sharing.mistake(
    "The copy stands behind the old block in the table, so every position after it is off by a block. What should happen to the old entry?"
)
def copy_stands_behind(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table.append(own)
    return table


@sharing.mistake(
    "The list that was passed in has changed. Two texts may hold the same list just after a fork: what does the function change, and what does it return?"
)
def callers_table_changed(pool, table, length):
    if length % pool.block_size and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.mistake(
    "Full and partly filled are one position off: `length` is the number of positions, not the number of the last one. With blocks of 4, is the block full at length 3 or at length 4?"
)
def off_by_one_position(pool, table, length):
    table = list(table)
    if (length + 1) % pool.block_size and table and pool.references[table[-1]] > 1:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.mistake(
    "You copy where there are exactly two readers. A prompt may have three answers or more: what do all counts above 1 have in common?"
)
def exactly_two_readers(pool, table, length):
    table = list(table)
    if length % pool.block_size and pool.references[table[-1]] == 2:
        (own,) = pool.take(1)
        pool.keys[own], pool.values[own] = pool.keys[table[-1]], pool.values[table[-1]]
        pool.give_back([table[-1]])
        table[-1] = own
    return table


@sharing.also_right
def with_copies_and_slices(pool, table, length):
    filled = length % pool.block_size
    if filled == 0 or pool.references[table[-1]] < 2:
        return table[:]
    *before, old = table
    own = pool.take(1)[0]
    for store in (pool.keys, pool.values):
        store[own, :filled] = store[old, :filled].clone()
    pool.give_back([old])
    return before + [own]


@sharing.also_right
def by_the_blocks_number(pool, table, length):
    number = length // pool.block_size
    result = tuple(table)
    if number < len(table) and pool.references[table[number]] != 1:
        fresh = pool.take(1)
        pool.keys[fresh] = pool.keys[[table[number]]]
        pool.values[fresh] = pool.values[[table[number]]]
        pool.references[table[number]] -= 1
        result = (*table[:number], *fresh)
    return list(result)


sharing.hints(
    "The next position is number `length`. Does it fall into the last block of the table or into one that does not exist yet? And how many read that block?",
    "In a copy of the table, where `length % block_size` is not 0 and the last block has several readers: take a block, copy keys and values into it, give the old one back, put the new number in its place.",
)

# --- 9.8 -------------------------------------------------------------------------------------------------------------


def max_concurrent_requests(
    memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1
):  # fmt: skip
    """How many requests of seq_len tokens the memory beside the model's weights can cache.  -> int"""
    return attn_ref.cost.max_concurrent_requests(
        memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=block_size
    )


capacity = Exercise(
    "9.8",
    "How many requests fit?",
    reference=max_concurrent_requests,
    minutes=8,
    forbids=("attn_ref.cost.max_concurrent_requests",),
)

GIB = 2**30
LLAMA = dict(n_layers=32, n_kv_heads=8, d_head=128, dtype=torch.bfloat16)


@capacity.criterion("what is left beside the weights, divided by the cache of one request", points=1)
def whole_division(rng):
    yield dict(memory_bytes=1100, weight_bytes=100, seq_len=5, n_layers=1, n_kv_heads=1, d_head=5, dtype=torch.float16)
    yield dict(memory_bytes=80 * GIB, weight_bytes=16 * GIB, seq_len=2048, **LLAMA)
    yield dict(memory_bytes=24 * GIB, weight_bytes=4 * GIB, seq_len=8192, **LLAMA)


@capacity.criterion("keys and values, of every layer and KV head, in bytes of the dtype", points=1)
def every_factor(rng):
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8):
        layers, heads, d, n = (int(x) for x in rng.permutation([3, 5, 7, 11]))
        yield dict(
            memory_bytes=int(rng.integers(60_000_000, 90_000_000)), weight_bytes=int(rng.integers(1000, 30_000_000)),
            seq_len=n, n_layers=layers, n_kv_heads=heads, d_head=d, dtype=dtype,
        )  # fmt: skip


@capacity.criterion("the last block counts whole", points=1)
def whole_blocks(rng):
    sizes = dict(n_layers=2, n_kv_heads=3, d_head=4, dtype=torch.float16)
    for seq_len, block_size in ((17, 16), (16, 16), (100, 64), (1, 256), (31, 5)):
        free = int(rng.integers(5_000_000, 9_000_000))
        yield dict(memory_bytes=free + 1000, weight_bytes=1000, seq_len=seq_len, **sizes, block_size=block_size)


@capacity.criterion("whole requests only, and none where the weights do not fit", points=1)
def never_a_part(rng):
    sizes = dict(seq_len=10, n_layers=2, n_kv_heads=3, d_head=4, dtype=torch.float32)  # 1920 bytes a request
    yield dict(memory_bytes=1920 * 7 + 1919 + 5, weight_bytes=5, **sizes)
    yield dict(memory_bytes=1920 * 7 + 5, weight_bytes=5, **sizes)
    yield dict(memory_bytes=1919, weight_bytes=0, **sizes)
    yield dict(memory_bytes=4000, weight_bytes=90_000, **sizes)
    yield dict(memory_bytes=4000, weight_bytes=4000, **sizes)


@capacity.mistake(
    "Layers are missing: each layer has keys and values of its own, so a model of 32 layers fits a 32nd of your number. Where does n_layers enter?"
)
def layers_forgotten(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake("You count the keys and leave out the values. How many vectors does a token leave in each head?")
def values_forgotten(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake("The weights take no room in your answer. What lies in the memory before the first request comes?")
def weights_forgotten(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return memory_bytes // one


@capacity.mistake(
    "Every request brings weights of its own in your answer. All requests read the same ones: how often do they lie in memory?"
)
def weights_for_each_request(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return memory_bytes // (one + weight_bytes)


@capacity.mistake(
    "You assume two bytes a number. float32 takes four and float8 one; what does a `torch.dtype` know about its size?"
)
def two_bytes_assumed(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    return max((memory_bytes - weight_bytes) // (4 * reserved * n_layers * n_kv_heads * d_head), 0)


@capacity.mistake(
    "You count bits: `torch.finfo(dtype).bits` is 16 for float16, and memory is given in bytes. How many bits are a byte?"
)
def bits_counted(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * torch.finfo(dtype).bits
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake(
    "`torch.finfo` knows floats only, and a cache may be stored in int8. Which attribute tells the bytes of every dtype?"
)
def floats_only(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * torch.finfo(dtype).bits // 8
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake("You round up to blocks and then count each block as one position. How many slots are in a block?")
def blocks_for_slots(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    blocks = -(-seq_len // block_size)
    one = 2 * blocks * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake(
    "The block size makes no difference in your answer. A request of 17 tokens in blocks of 16 holds how many slots?"
)
def blocks_ignored(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    one = 2 * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake(
    "Each request gets one block too many where its length is a multiple of the block size: `seq_len // block_size + 1` rounds 16 / 16 up to 2. How is a quotient rounded up?"
)
def always_one_block_more(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = (seq_len // block_size + 1) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake(
    "The last, partly filled block is left out: 17 tokens get one block of 16 in your answer. Where does the 17th lie?"
)
def last_block_left_out(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = max(seq_len // block_size, 1) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 0)


@capacity.mistake(
    "You round to the nearest or upwards. Half a request cannot be served: which way does a count of things that must fit go?"
)
def rounded_up(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max(-(-(memory_bytes - weight_bytes) // one), 0)


@capacity.mistake(
    "Where the weights alone do not fit your answer is negative. How many requests does such a machine serve?"
)
def less_than_none(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return (memory_bytes - weight_bytes) // one


@capacity.mistake(
    "Where no request fits you still count one. How many can a machine serve whose memory is one byte too small for the first?"
)
def at_least_one(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) // one, 1)


@capacity.mistake("A part of a request is counted. What can be done with 0.7 of one?")
def parts_of_requests(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    reserved = -(-seq_len // block_size) * block_size
    one = 2 * reserved * n_layers * n_kv_heads * d_head * dtype.itemsize
    return max((memory_bytes - weight_bytes) / one, 0)


@capacity.also_right
def with_the_ledger(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    blocks = (seq_len + block_size - 1) // block_size
    block = attn_ref.cost.kv_cache_bytes(1, block_size, n_layers, n_kv_heads, d_head, dtype)
    free = memory_bytes - weight_bytes
    return free // (blocks * block) if free > 0 else 0


@capacity.also_right
def one_by_one(memory_bytes, weight_bytes, seq_len, n_layers, n_kv_heads, d_head, dtype, block_size=1):
    slots = seq_len
    while slots % block_size:
        slots += 1
    number = torch.zeros(1).to(dtype).element_size()
    one = sum([slots * n_kv_heads * d_head * number] * n_layers) * 2
    return int(max(divmod(memory_bytes - weight_bytes, one)[0], 0))


capacity.hints(
    "Two numbers and a division: the bytes left for caches, and those of one request. Round the length up to whole blocks first; a number takes `dtype.itemsize` bytes.",
    "The bytes of a request are 2 · slots · n_layers · n_kv_heads · d_head · itemsize. Divide what is left beside the weights with `//`, and give 0 where nothing is left.",
)

# --- questions -------------------------------------------------------------------------------------------------------

which_kept = Quiz(
    "9.a",
    "Why does the cache keep keys and values of the past, and no queries?",
    {
        "a": (
            "Because queries are larger.",
            "A query is as long as a key. With grouped heads there are more queries than keys, and that is not the reason either: they would not be kept if they were tiny.",
        ),
        "b": (
            "Because a past query has been answered: the new token asks only its own.",
            "Yes: the new row of attention is one query against all keys. The rows of the past are done, and the causal mask sees to it that nothing later can change them.",
        ),
        "c": (
            "Because the past queries change when the text grows.",
            "They are as final as the keys: each is made from a position that sees only what came before it. They are not needed again.",
        ),
        "d": (
            "Because RoPE turns queries and not keys.",
            "RoPE turns both. That is why a key may be kept turned: its own position never changes.",
        ),
    },
    right="b",
)

which_mask = Quiz(
    "9.b",
    "A cache holds 10 positions and a chunk of 4 arrives. Which keys does the second query of the chunk see?",
    {
        "a": (
            "Keys 0 and 1.",
            "That is the mask aligned at its top left, as if the text began with the chunk. The chunk's queries stand at the positions 10 to 13.",
        ),
        "b": (
            "Keys 0 to 13.",
            "Two of these are later than the query: the chunk's third and fourth position, 12 and 13. Only the last query of a chunk sees everything.",
        ),
        "c": (
            "Keys 0 to 11.",
            "Yes: the second query stands at position 11 and sees everything up to itself, two of the four new keys included.",
        ),
        "d": (
            "Keys 10 and 11.",
            "That is attention within the chunk alone. The ten keys in the cache are what it was kept for.",
        ),
    },
    right="c",
)

which_grows = Quiz(
    "9.c",
    "With a cache, what does the n-th token of a text cost in attention?",
    {
        "a": (
            "The same for every n.",
            "That holds for the projections and the feed-forward layers, which see one position. Attention still reads all n keys and values; only a window bounds that.",
        ),
        "b": (
            "In proportion to n: it reads n keys and n values.",
            "Yes. A whole text still costs n²/2 pairs, as the causal map has them; the cache saves computing each of them again and again.",
        ),
        "c": (
            "In proportion to n².",
            "That is what one step costs without a cache, where all rows of the map are computed again to obtain the last.",
        ),
        "d": (
            "Nothing: the keys are there already.",
            "They need not be computed again, but they must be read, and reading memory is what decoding waits for (chapter 08).",
        ),
    },
    right="b",
)

which_wastes = Quiz(
    "9.d",
    "A paged cache with blocks of 16 serves texts of different lengths. How much of a text's memory lies idle?",
    {
        "a": (
            "All that the text might still need up to the longest length allowed.",
            "That is contiguous reservation. A text in pages takes a block when it needs one.",
        ),
        "b": (
            "Nothing: blocks fit exactly.",
            "Only where the length is a multiple of 16. The last block of a text is full or partly empty.",
        ),
        "c": (
            "At most 15 positions, whatever its length.",
            "Yes: only the last block can be partly empty. For a thousand positions that is at most 1.5 %.",
        ),
        "d": (
            "One position in 16.",
            "The waste does not grow with the length: all blocks but the last are full.",
        ),
    },
    right="c",
)

explain = Written(
    "9.w",
    "Is a cache an approximation?",
    minutes=10,
    rubric=(
        "Names the invariant and derives it from the causal mask through the layers; says what makes it false (two-way attention, restarted positions, a wrong mask, a window it was not trained with); bounds the rounding with a measured number; proposes a test that can fail.",
        "The invariant with its reason, and a test; one of the limits or the number is missing.",
        "Says that the results agree, with one right reason or a test that only looks at the text.",
        "Says that caching is common and works, without a reason.",
    ),
)
