"""Every option of attention at once, at random: 2,000 configurations against plain loops in float64.

A configuration is a seed, and a failure prints it with the call. To look at one again:

    from tests.test_attention_fuzz import configuration, expected
    one = configuration(137)
    q, k, v, options = one.given("numpy")     # or "torch"
    attn_ref.attention(q, k, v, **options), expected(q, k, v, options).out
"""

from collections import Counter
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

import attn_ref

try:
    from numba import njit

    COUNT = 2000
except ImportError:  # the same loops in bare Python, a hundred times slower

    def njit(function):
        return function

    COUNT = 200

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@njit
def by_loops(q, k, v, scale, softcap, allowed, bias, slopes, sinks, left, right, offset, length):
    """Attention as a person with a pencil would do it: for each query, the keys it may see, one after the other.

    Also says which keys are visible, which rows see a NaN or an inf (those are left at 0), and how large the terms are
    that a row's scores are summed from: what no computation in a dtype can know better than eps times that.
    """
    batch, n_heads, n_q, d = q.shape
    n_kv_heads, n_k, d_v = k.shape[1], k.shape[2], v.shape[3]
    out, weights = np.zeros((batch, n_heads, n_q, d_v)), np.zeros((batch, n_heads, n_q, n_k))
    lse, terms = np.full((batch, n_heads, n_q), -np.inf), np.zeros((batch, n_heads, n_q))
    visible, spoilt = np.zeros((batch, n_heads, n_q, n_k), np.bool_), np.zeros((batch, n_heads, n_q), np.bool_)
    for b in range(batch):
        for h in range(n_heads):
            g = h // (n_heads // n_kv_heads)
            for i in range(n_q):
                position = offset[b] + i
                scores = np.full(n_k, -np.inf)
                for j in range(n_k):
                    in_window = position - left <= j <= position + right
                    if not (in_window and j < length[b] and allowed[b, h, i, j] and bias[b, h, i, j] > -np.inf):
                        continue
                    visible[b, h, i, j] = True
                    dot, size = 0.0, 0.0
                    for c in range(d):
                        dot += q[b, h, i, c] * k[b, g, j, c]
                        size += abs(q[b, h, i, c] * k[b, g, j, c])
                    if not np.isfinite(size + np.abs(v[b, g, j]).sum()):
                        spoilt[b, h, i] = True
                        break
                    score = scale * dot
                    if softcap > 0:
                        score = softcap * np.tanh(score / softcap)
                    away = slopes[h] * abs(position - j)
                    scores[j] = score + bias[b, h, i, j] - away
                    terms[b, h, i] = max(terms[b, h, i], abs(scale) * size + abs(bias[b, h, i, j]) + abs(away))
                largest = sinks[h]
                for j in range(n_k):
                    largest = max(largest, scores[j])
                if spoilt[b, h, i] or largest == -np.inf:
                    continue
                total = np.exp(sinks[h] - largest)
                for j in range(n_k):
                    total += np.exp(scores[j] - largest)
                lse[b, h, i] = largest + np.log(total)
                for j in range(n_k):
                    if visible[b, h, i, j]:
                        weights[b, h, i, j] = np.exp(scores[j] - largest) / total
                        for c in range(d_v):
                            out[b, h, i, c] += weights[b, h, i, j] * v[b, g, j, c]
    return out, lse, weights, visible, spoilt, terms


def expected(q, k, v, options):
    """The loops' answer for the arguments of `attention`, with every option spelled out and four axes everywhere."""
    q, k, v = exact(q), exact(k), exact(v)
    heads = q.ndim > 2
    lead = np.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3]) if heads else ()
    size, n_q, n_k, n_heads = int(np.prod(lead)), q.shape[-2], k.shape[-2], q.shape[-3] if heads else 1

    def four(x, *axes):
        x = np.broadcast_to(exact(x), (*lead, *axes) if heads or len(axes) < 3 else axes[1:])
        return np.ascontiguousarray(x).reshape(size, *axes)

    def option(name, default):
        return default if options.get(name) is None else exact(options[name])

    window = options.get("window")
    left, right = window if isinstance(window, tuple) else (None, None) if window is None else (window - 1, 0)
    right = min(0, np.inf if right is None else right) if options.get("causal") else right
    length = four(option("kv_len", n_k)).astype(np.int64)
    offset = length - n_q if options.get("q_offset") is None else four(options["q_offset"]).astype(np.int64)
    flat = dict(
        q=four(q, *q.shape[-3:]) if heads else q[None, None],
        k=four(k, *k.shape[-3:]) if heads else k[None, None],
        v=four(v, *v.shape[-3:]) if heads else v[None, None],
        scale=float(option("scale", max(q.shape[-1], 1) ** -0.5)),
        softcap=float(option("softcap", 0.0)),
        allowed=four(option("allowed", True), n_heads, n_q, n_k).astype(bool),
        bias=four(option("bias", 0.0), n_heads, n_q, n_k),
        slopes=option("alibi", np.zeros(n_heads)),
        sinks=option("sinks", np.full(n_heads, -np.inf)),
        left=np.inf if left is None else float(left),
        right=np.inf if right is None else float(right),
        offset=offset,
        length=length,
    )
    flat = {name: np.array(x, order="C") if isinstance(x, np.ndarray) else x for name, x in flat.items()}
    with np.errstate(invalid="ignore"):
        results = by_loops(*flat.values())
    return SimpleNamespace(
        **dict(zip(("out", "lse", "weights", "visible", "spoilt", "terms"), results, strict=True)), flat=flat
    )


def exact(x):
    """Any array, tensor or number as float64, which holds every value of the lower precisions."""
    return np.asarray(x.detach().double().cpu() if attn_ref.shapes.is_tensor(x) else x, dtype=np.float64)


def configuration(seed, dtype=None, large=True):
    """Arguments of `attention` drawn at random, most options on in a third of the draws."""
    rng = np.random.default_rng(seed)

    def one_of(*choices):
        return choices[rng.integers(len(choices))]

    def some(share):
        return rng.random() < share

    dtype = dtype or one_of("float64", "float64", "float32", "float32", "float32", "float16", "bfloat16")
    lead = one_of((), (), (1,), (2,), (2,), (3,), (2, 3), (0,))
    n_heads, n_kv_heads = one_of((1, 1), (2, 1), (3, 3), (4, 2), (6, 3), (6, 2), (5, 1))
    n_q, n_k = one_of(0, 1, 1, 2, 3, 5, 9, 13), one_of(0, 1, 2, 4, 6, 7, 11, 17)
    if large and some(0.04):  # across the tiles of the kernels
        (n_heads, n_kv_heads), lead = (2, 1), lead[:1]
        n_q, n_k = int(rng.integers(1, 150)), int(rng.integers(60, 200))
    d, d_v = one_of(0, 1, 2, 3, 5, 8, 16, 20), one_of(0, 1, 2, 4, 7, 8, 24)
    axes = () if lead == () and some(0.4) else (*lead, n_heads)
    n_heads, n_kv_heads = (n_heads, n_kv_heads) if axes else (1, 1)
    shared = axes[:-1] if some(0.8) else ()  # one set of keys for the whole batch
    q = rng.normal(size=(*axes, n_q, d))
    k, v = (rng.normal(size=(*(shared + (n_kv_heads,) if axes else ()), n_k, size)) for size in (d, d_v))

    options = {"causal": some(0.4)}
    if some(0.3):
        sides = [one_of(None, 0, 1, 2, 4, n_k) for _ in range(2)]
        options["window"] = tuple(sides) if some(0.5) else int(rng.integers(1, n_k + 3))
    for name, low, high in (("q_offset", -n_q - 1, n_k + 2), ("kv_len", 0, n_k)):
        if some(0.3):
            per_batch = rng.integers(low, high + 1, size=lead)
            options[name] = per_batch if lead and some(0.7) else int(rng.integers(low, high + 1))
    for name in ("allowed", "bias"):
        if some(0.3):
            full = (*axes, n_q, n_k)
            size = tuple(1 if some(0.4) else n for n in full)[int(rng.integers(0, len(full) - 1)) :]
            closed = (rng.random(size) < one_of(0, 0.3)) | (np.arange(size[-2])[:, None] == one_of(0, -1))
            options[name] = ~closed if name == "allowed" else np.where(closed, -np.inf, rng.normal(size=size))
    for name, value in (
        ("scale", one_of(0.3, 1, -0.7, 0, 2.0)),
        ("softcap", one_of(0.5, 5, 30.0)),
        ("sinks", np.where(rng.random(n_heads) < 0.2, -np.inf, 3 * rng.normal(size=n_heads))),
        ("alibi", one_of(1, 0.1, -0.2) * rng.random(n_heads)),
    ):
        if some(0.25):
            options[name] = value
    if n_q and n_k and d and some(0.3):  # one row of scores near ±1000, within what float16 can hold
        q[..., int(rng.integers(n_q)), :] *= 1000 / max(abs(options.get("scale", d**-0.5)), 0.3) / d**0.5
    if n_k and some(0.3):  # broken keys and values: all that the length hides, or any
        first = int(rng.integers(n_k))
        if some(0.7):
            options["kv_len"], broken = first, slice(first, None)
        else:
            broken = slice(first, first + 1)
        k[..., broken, :], v[..., broken, :] = one_of(np.nan, np.inf, -np.inf), one_of(np.nan, np.inf, -np.inf)
    layouts = [one_of("plain", "plain", "every other", "heads inside", "transposed") for _ in "qkv"]
    return Configuration(seed, q, k, v, options, dtype, layouts)


class Configuration:
    def __init__(self, seed, q, k, v, options, dtype, layouts):
        self.seed, self.arrays, self.options, self.dtype, self.layouts = seed, (q, k, v), options, dtype, layouts

    def given(self, library):
        """q, k, v and options in a library, the dtype and memory layouts drawn. NumPy has no bfloat16: float16."""
        if library == "numpy":
            dtype = "float16" if self.dtype == "bfloat16" else self.dtype
            arrays = [array.astype(dtype) for array in self.arrays]
            options = self.options
        else:
            import torch

            dtype = self.dtype
            arrays = [torch.tensor(array).to(getattr(torch, dtype)) for array in self.arrays]
            as_tensors = self.seed % 2  # NumPy options are welcome beside tensors
            options = {
                name: torch.tensor(x) if as_tensors and isinstance(x, np.ndarray) else x
                for name, x in self.options.items()
            }
        return (*map(laid_out, arrays, self.layouts), options)

    def __str__(self):
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip("qkv", self.arrays, strict=True))
        options = ", ".join(
            f"{name}={type(x).__name__} {x.shape}" if isinstance(x, np.ndarray) and x.size > 8 else f"{name}={x!r}"
            for name, x in self.options.items()
        )
        return f"configuration({self.seed}): {self.dtype}, {shapes}, layouts {self.layouts}, {options}"


def laid_out(x, layout):
    """The same values at another place in memory."""
    if layout == "every other":
        return (x.repeat_interleave(2, -1) if attn_ref.shapes.is_tensor(x) else x.repeat(2, -1))[..., ::2]
    if layout == "transposed" or (layout == "heads inside" and x.ndim > 2):
        axis = -1 if layout == "transposed" else -3
        x = x.swapaxes(axis, -2)
        return (x.contiguous() if attn_ref.shapes.is_tensor(x) else np.ascontiguousarray(x)).swapaxes(axis, -2)
    return x


def naive(q, want):
    """Out and log-sum-exp by the textbook's lines, every step in the library and dtype of q."""
    xp, flat = attn_ref.shapes.namespace(q), want.flat

    def beside(x):
        return xp.asarray(np.array(x)).to(q.dtype) if attn_ref.shapes.is_tensor(q) else x.astype(q.dtype)

    heads_per_kv = flat["q"].shape[1] // flat["k"].shape[1]
    k, v = (beside(np.repeat(np.where(np.isfinite(x), x, 0), heads_per_kv, 1)) for x in (flat["k"], flat["v"]))
    scores = beside(flat["q"]) @ k.swapaxes(-1, -2) * flat["scale"]
    if flat["softcap"]:
        scores = flat["softcap"] * xp.tanh(scores / flat["softcap"])
    n_q, n_k = scores.shape[2:]
    distance = np.abs(flat["offset"][:, None, None, None] + np.arange(n_q)[:, None] - np.arange(n_k))
    scores = scores - beside(flat["slopes"][:, None, None] * distance)
    scores = scores + beside(np.where(want.visible, flat["bias"], -np.inf))
    sinks = beside(np.broadcast_to(flat["sinks"][:, None, None], (*scores.shape[:3], 1)))
    scores = xp.concatenate([scores, sinks], -1)
    largest = xp.amax(scores, axis=-1, keepdims=True)
    largest = xp.where(xp.isneginf(largest), 0, largest)
    exponentials = xp.exp(scores - largest)
    total = exponentials.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = xp.log(total) + largest
    return exponentials[..., :-1] / xp.where(total > 0, total, 1) @ v, lse[..., 0]


def off_by(got, want, spoilt):
    """How far each row is from the loops' (an inf or a NaN that should not be there is infinitely far)."""
    got, rows = exact(got).reshape(want.shape), want.ndim == 3
    same = (got == want) | (spoilt if rows else spoilt[..., None])
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(np.where(same, 0, np.abs(got - want)), nan=np.inf, posinf=np.inf)
    return error if rows else error.max(-1, initial=0)


def complaints(one, backend, library, sums):
    """What is wrong with a backend's answer to one configuration. Adds the errors to `sums`, by dtype."""
    q, k, v, options = one.given(library)
    dtype = str(q.dtype).removeprefix("torch.")
    want, plain = expected(q, k, v, options), backend in ("numpy", "torch")
    given = [x for x in (q, k, v, *options.values()) if hasattr(x, "dtype")]
    before = [exact(x).copy() for x in given]
    try:
        results = attn_ref.attention(q, k, v, **options, backend=backend, return_lse=True, return_weights=plain)
    except ValueError as refusal:
        if plain or "cannot do this" not in str(refusal):
            raise
        sums["refused", str(refusal)] += 1
        return
    if not all(np.array_equal(exact(x), values, equal_nan=True) for x, values in zip(given, before, strict=True)):
        yield "an input was written to"
    shape = (*np.broadcast_shapes(q.shape[:-3], k.shape[:-3]), *q.shape[-3:-1], v.shape[-1])
    if (type(results[0]), results[0].dtype, tuple(results[0].shape)) != (type(q), q.dtype, shape):
        yield f"out is {type(results[0]).__name__} {results[0].dtype} {tuple(results[0].shape)}"
        return
    largest_value = np.abs(want.flat["v"])[np.isfinite(want.flat["v"])].max(initial=0)
    # A score summed from terms of size t is known to a few t·eps/2 whoever computes it (scaled, multiplied, added), and
    # so are the shares e^score. This is the floor for rows where the naive version has luck. The kernels' tanh comes
    # from an exponential, and is true to eps times the cap whatever the score.
    floor = 2 * EPS[dtype] * (1 + want.terms + (0 if plain else want.flat["softcap"]))
    size_of_lse = np.where(np.isfinite(want.lse), np.abs(want.lse), 0)
    limits = {"out": floor * largest_value, "lse": floor + 2 * EPS[dtype] * size_of_lse, "weights": floor}
    if dtype == "float64":
        limits = {"out": 1e-10 * (1 + largest_value), "lse": 1e-10 * (1 + size_of_lse), "weights": 1e-10}
    else:
        for name, values in zip(("out", "lse"), naive(q, want), strict=True):
            error = off_by(values, getattr(want, name), want.spoilt)
            limits[name] = limits[name] + 2 * error
            sums[name, "naive", dtype] += error.sum()
    for (name, limit), values in zip(limits.items(), results, strict=False):
        error = off_by(values, getattr(want, name), want.spoilt)
        sums[name, "ours", dtype] += error.sum()
        if not (error <= limit).all():
            row = np.unravel_index(np.argmax(error - limit), error.shape)
            allowed = np.broadcast_to(limit, error.shape)[row]
            yield f"{name} in row {tuple(map(int, row))} is off by {error[row]:.2g}, allowed {allowed:.2g}"


@cache
def missing(backend):
    """Why this machine cannot run a backend; None if it can."""
    if backend in ("numba", "triton") and find_spec(f"attn_ref.{backend}_backend") is None:
        return "not written yet"
    reason = attn_ref.backends()[backend]
    return None if reason == "ready" else reason


def skip_without(*backends):
    for backend in backends:
        if missing(backend):
            pytest.skip(f"backend {backend}: {missing(backend)}")


def check(backend, seeds):
    """Fails with the first configurations that a backend gets wrong.  -> how many it refused"""
    sums, wrong = Counter(), []
    for seed in seeds:
        one = configuration(seed)
        if backend == "triton":  # its interpreter is slow, and knows these two
            one = configuration(seed, ("float32", "float16")[seed % 2], large=False)
        library = "numpy" if backend == "numpy" or (backend == "numba" and seed % 3) else "torch"
        try:
            wrong += [f"{complaint}\n    {one}" for complaint in complaints(one, backend, library, sums)]
        except Exception as error:
            raise AssertionError(f"raised on {one}, in {library}") from error
    assert not wrong, f"{len(wrong)} complaints about {backend}, the first:\n" + "\n".join(wrong[:5])
    for name, who, dtype in [
        key for key in sums if key[1] == "naive"
    ]:  # the rule without the floor, where luck evens out
        ours, theirs = sums[name, "ours", dtype], sums[name, who, dtype]
        assert ours <= 2 * theirs, (
            f"{backend} {name}: errors in {dtype} sum to {ours:.3g}, the naive version's {theirs:.3g}"
        )
    return sum(count for key, count in sums.items() if key[0] == "refused")


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_every_configuration_equals_the_loops(backend):
    skip_without(backend)
    assert check(backend, range(COUNT)) == 0


def test_the_numba_kernel_equals_the_loops():
    skip_without("numba")
    assert check("numba", range(200)) == 0


@pytest.mark.slow
def test_the_numba_kernel_equals_the_loops_on_all():
    skip_without("numba")
    assert check("numba", range(200, COUNT)) == 0


def test_the_triton_kernel_equals_the_loops():
    skip_without("triton", "torch")
    assert check("triton", range(40)) < 20  # heads of size 0 are refused


@pytest.mark.slow
def test_the_triton_kernel_equals_the_loops_on_600():
    skip_without("triton", "torch")
    assert check("triton", range(40, 600)) < 280


def smooth(seed):
    """A configuration in float64 that has a gradient everywhere: no NaN in sight of any query."""
    one = configuration(seed, "float64", large=False)
    q, k, v, options = one.given("numpy")
    want = expected(q, k, v, options)
    grad_out = np.random.default_rng(seed).normal(size=attn_ref.attention(q, k, v, **options).shape)
    return None if want.spoilt.any() else (one, (q, k, v), options, grad_out)


def by_autograd(arrays, options, grad_out, backend):
    """What torch finds for the gradients, through a backend."""
    import torch

    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = attn_ref.attention(*leaves, **options, backend=backend)
    out.backward(torch.tensor(grad_out))
    return [leaf.grad.numpy() for leaf in leaves]


def assert_same_gradients(ours, theirs, one):
    for name, mine, other in zip(("dq", "dk", "dv"), ours, theirs, strict=True):
        largest = np.abs(other).max(initial=1)
        assert np.shape(mine) == other.shape, f"{name} has shape {np.shape(mine)} for {one}"
        error = np.abs(exact(mine) - other).max(initial=0)
        assert error <= 1e-10 * largest, f"{name} is off by {error:.2g} of {largest:.2g} for {one}"


@pytest.mark.parametrize("backend", ["numpy", "torch", "numba"])
def test_the_gradients_by_hand_equal_torchs(backend):
    skip_without(backend, "torch")
    pytest.importorskip("attn_ref.backward", reason="the gradients are not written yet")
    import torch

    compared = 0
    for one, arrays, options, grad_out in filter(None, map(smooth, range(250))):
        given = [torch.tensor(x) if backend == "torch" else x for x in (*arrays, grad_out)]
        try:
            ours = attn_ref.attention_backward(*given, **options, backend=backend)
        except ValueError as refusal:
            assert backend == "numba" and "cannot do this" in str(refusal), f"{refusal} for {one}"
            continue
        except Exception as error:
            raise AssertionError(f"raised on {one}") from error
        assert_same_gradients(ours, by_autograd(arrays, options, grad_out, "torch"), one)
        compared += 1
    assert compared >= 100


def test_torch_learns_through_the_numba_kernel():
    skip_without("numba", "torch")
    pytest.importorskip("attn_ref.autograd", reason="the autograd functions are not written yet")
    compared = 0
    for one, arrays, options, grad_out in filter(None, map(smooth, range(250))):
        try:
            ours = by_autograd(arrays, options, grad_out, "numba")
        except ValueError as refusal:
            assert "cannot do this" in str(refusal), f"{refusal} for {one}"
            continue
        assert_same_gradients(ours, by_autograd(arrays, options, grad_out, "torch"), one)
        compared += 1
    assert compared >= 100


def test_the_gradients_equal_finite_differences_of_the_loops():
    pytest.importorskip("attn_ref.backward", reason="the gradients are not written yet")
    rng, compared = np.random.default_rng(8), 0
    for one, arrays, options, grad_out in filter(None, map(smooth, range(300, 400))):
        if max(np.abs(x[np.isfinite(x)]).max(initial=0) for x in arrays) > 10:
            continue  # at scores of ±1000 softmax jumps, and differences say nothing
        directions = [np.where(np.isfinite(x), rng.normal(size=x.shape), 0) for x in arrays]

        def loss(step, arrays=arrays, directions=directions, options=options, grad_out=grad_out):
            moved = [x + step * direction for x, direction in zip(arrays, directions, strict=True)]
            return (expected(*moved, options).out.reshape(grad_out.shape) * grad_out).sum()

        grads = attn_ref.attention_backward(*arrays, grad_out, **options)
        slope = sum((grad * direction).sum() for grad, direction in zip(grads, directions, strict=True))
        # Central differences with a step of 1e-5 leave an error of about 1e-10 times a third derivative.
        assert abs((loss(1e-5) - loss(-1e-5)) / 2e-5 - slope) < 1e-6 * (1 + abs(slope)), f"{one}"
        compared += 1
    assert compared > 20
