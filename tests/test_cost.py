"""Formulas of cost against counting: pairs and tiles one by one, arrays by their bytes, torch by its FLOP counter."""

import doctest
import importlib
import itertools

import numpy as np
import pytest

from attn_ref import cost
from attn_ref.problem import make_problem
from attn_ref.scores import block_visible

LLAMA_2_7B = {"n_layers": 32, "n_kv_heads": 32, "d_head": 128}
LLAMA_3_8B = {"n_layers": 32, "n_kv_heads": 8, "d_head": 128}
SIZES = [(37, 53), (53, 37), (1, 53), (37, 37), (0, 9), (9, 0)]
MASKS = {
    "full": {},
    "causal": {"causal": True},
    "window": {"window": 7},
    "window to both sides": {"window": (3, 11)},
    "window without a left bound": {"window": (None, 4)},
    "causal and window": {"causal": True, "window": (9, 5)},
    "offset": {"causal": True, "q_offset": 3},
    "before all keys": {"window": 5, "q_offset": -20},
    "beyond all keys": {"window": 5, "q_offset": 50},
}


def one_by_one(n_q, n_k, causal=False, window=None, q_offset=None):
    """Who sees whom, by asking every pair.  -> (n_q, n_k) bool"""
    left, right = window if isinstance(window, tuple) else (None, None) if window is None else (window - 1, 0)
    allowed = np.zeros((n_q, n_k), bool)
    for i, j in itertools.product(range(n_q), range(n_k)):
        distance = j - (i + (n_k - n_q if q_offset is None else q_offset))
        too_far = (left is not None and distance < -left) or (right is not None and distance > right)
        allowed[i, j] = not too_far and not (causal and distance > 0)
    return allowed


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("n_q, n_k", SIZES)
def test_pairs_are_those_counted_one_by_one(n_q, n_k, mask):
    assert cost.visible_pairs(n_q, n_k, **MASKS[mask]) == one_by_one(n_q, n_k, **MASKS[mask]).sum()


@pytest.mark.parametrize("mask", [mask for mask in MASKS if MASKS[mask]])
def test_pairs_are_those_that_attention_lets_see_each_other(mask):
    problem = make_problem(np.ones((37, 4)), np.ones((53, 4)), np.ones((53, 4)), **MASKS[mask])
    assert cost.visible_pairs(37, 53, **MASKS[mask]) == block_visible(problem).sum()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("n_q, n_k", SIZES)
@pytest.mark.parametrize("tile_q, tile_k", [(8, 8), (16, 5), (1, 64), (64, 1)])
def test_tiles_are_skipped_masked_or_whole_as_their_pairs_say(n_q, n_k, tile_q, tile_k, mask):
    allowed = one_by_one(n_q, n_k, **MASKS[mask])
    states = cost.tile_map(n_q, n_k, tile_q, tile_k, **MASKS[mask])
    assert states.shape == (-(-n_q // tile_q), -(-n_k // tile_k))
    for (row, column), state in np.ndenumerate(states):
        tile = allowed[row * tile_q : (row + 1) * tile_q, column * tile_k : (column + 1) * tile_k]
        assert state == (2 if tile.all() else 1 if tile.any() else 0), (row, column)
    assert cost.tiles_visited(n_q, n_k, tile_q, tile_k, **MASKS[mask]) == (states > 0).sum()


@pytest.mark.parametrize("mask", MASKS)
def test_a_tiled_kernel_visits_the_tiles_that_are_counted(mask):
    visible_blocks = pytest.importorskip("attn_ref.tiled", reason="the tiled version is not there").visible_blocks
    problem = make_problem(np.ones((37, 4)), np.ones((53, 4)), np.ones((53, 4)), **MASKS[mask])
    visited = sum(len(visible_blocks(problem, slice(q0, min(q0 + 8, 37)), 16)) for q0 in range(0, 37, 8))
    assert cost.tiles_visited(37, 53, 8, 16, **MASKS[mask]) == visited


@pytest.mark.parametrize("mask", ["full", "causal", "window"])
def test_bytes_of_tiles_are_those_of_a_walk_that_counts_what_it_reads(mask):
    n_q, n_k, d, d_v, tile_q, tile_k = 37, 53, 16, 24, 8, 5
    allowed, moved = one_by_one(n_q, n_k, **MASKS[mask]), 0
    for q0 in range(0, n_q, tile_q):
        rows = len(range(q0, min(q0 + tile_q, n_q)))
        moved += rows * (d + d_v)  # q is read, out written
        for k0 in range(0, n_k, tile_k):
            if allowed[q0 : q0 + tile_q, k0 : k0 + tile_k].any():
                moved += len(range(k0, min(k0 + tile_k, n_k))) * (d + d_v)
    assert cost.hbm_bytes(n_q, n_k, d, "float16", tile_q, tile_k, d_v=d_v, **MASKS[mask]) == 2 * moved


def test_one_tile_of_all_queries_moves_each_array_once():
    least = cost.attention_bytes(1, 1, 37, 53, 16, "float32", tiled=True)
    assert cost.hbm_bytes(37, 53, 16, "float32", 37, 8) == least == 4 * 2 * (37 + 53) * 16


def test_naive_bytes_are_the_arrays_and_four_trips_of_the_matrix():
    q, k, v, out = (
        np.ones(shape, np.float32) for shape in ((2, 6, 37, 16), (2, 3, 53, 16), (2, 3, 53, 24), (2, 6, 37, 24))
    )
    arrays, scores = sum(x.nbytes for x in (q, k, v, out)), np.ones((2, 6, 37, 53), np.float32)
    kinds = {"n_kv_heads": 3, "d_v": 24}
    assert cost.attention_bytes(2, 6, 37, 53, 16, "float32", tiled=True, **kinds) == arrays
    assert cost.attention_bytes(2, 6, 37, 53, 16, "float32", **kinds) == arrays + 4 * scores.nbytes


class TestAgainstTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="torch is not installed")

    def counted(self, torch, function):
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    def test_attention_flops_are_those_torch_counts(self, torch):
        q, k, v = torch.ones(2, 6, 37, 16), torch.ones(2, 6, 53, 16), torch.ones(2, 6, 53, 24)
        counted = self.counted(torch, lambda: torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
        assert counted == cost.attention_flops(2, 6, 37, 53, 16, d_v=24)

    def test_projection_and_feed_forward_flops_are_those_torch_counts(self, torch):
        x = torch.ones(2, 37, 48)
        wide, down, narrow = (torch.ones(*shape) for shape in ((48, 96), (96, 48), (48, 24)))
        counted = self.counted(torch, lambda: (x @ wide @ down, x @ narrow, x @ narrow))  # 6 heads of 16 over 1.5 · 16
        assert counted == cost.projection_flops(2, 37, 48, 8, n_kv_heads=2, d_head=12)
        assert self.counted(torch, lambda: x @ wide @ down) == cost.feed_forward_flops(2, 37, 48, 96)
        assert self.counted(torch, lambda: (x @ wide, x @ wide @ down)) == cost.feed_forward_flops(2, 37, 48, 96, True)

    def test_parameters_are_those_of_torchs_module(self, torch):
        module = torch.nn.MultiheadAttention(48, 6, bias=False)
        assert sum(p.numel() for p in module.parameters()) == cost.attention_parameters(48, 6)

    @pytest.mark.parametrize("n_layers", [1, 3])
    def test_training_bytes_are_what_autograd_keeps(self, torch, n_layers):
        q, k, v = (torch.ones(2, 6, 37, 16, requires_grad=True) for _ in range(3))
        kept = {}

        def pack(x):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        alive = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            for _ in range(n_layers):
                q, k, v = (x.clone() for x in (q, k, v))  # a layer has q, k and v of its own
                alive.append((torch.softmax(q @ k.transpose(-1, -2), -1) @ v).square())  # the next layer keeps out
        assert sum(kept.values()) == cost.training_bytes(2, 37, n_layers, 6, 16, torch.float32)

    def test_every_dtype_of_torch_has_its_size(self, torch):
        names = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "int64", "bool")
        for dtype in (getattr(torch, name) for name in names):
            assert cost.dtype_bytes(dtype) == cost.dtype_bytes(str(dtype)) == dtype.itemsize


def test_a_dtype_of_numpy_its_class_and_its_name_agree():
    for name in ("float16", "float32", "float64", "int8"):
        one = np.dtype(name)
        assert cost.dtype_bytes(one) == cost.dtype_bytes(one.type) == cost.dtype_bytes(name) == one.itemsize


def test_inference_holds_the_arrays_of_one_layer():
    q, k, scores = np.ones((2, 6, 37, 16)), np.ones((2, 3, 37, 16)), np.ones((2, 6, 37, 37))
    tiled = 2 * q.nbytes + 2 * k.nbytes  # q and out, k and v
    assert cost.inference_bytes(2, 37, 6, 16, "float64", n_kv_heads=3, tiled=True) == tiled
    assert cost.inference_bytes(2, 37, 6, 16, "float64", n_kv_heads=3) == tiled + 2 * scores.nbytes


def test_tiled_training_keeps_a_number_a_row_instead_of_the_matrix():
    naive, tiled = (cost.training_bytes(2, 37, 5, 6, 16, "float16", tiled=tiled) for tiled in (False, True))
    assert naive - tiled == 5 * 2 * 6 * (37 * 37 * 2 - 37 * 4)


def test_the_cache_of_known_models():
    assert cost.kv_cache_bytes(1, 1, dtype="float16", **LLAMA_2_7B) == 512 * 1024
    assert cost.kv_cache_bytes(1, 1, dtype="bfloat16", **LLAMA_3_8B) == 128 * 1024
    assert cost.kv_cache_bytes(1, 4096, dtype="float16", **LLAMA_2_7B) == 2 * 2**30


def test_the_cache_is_the_bytes_of_its_arrays():
    keys = np.ones((5, 2, 3, 37, 16), np.float32)  # layers, batch, KV heads, tokens, head
    assert cost.kv_cache_bytes(2, 37, 5, 3, 16, np.float32) == 2 * keys.nbytes
    assert type(cost.kv_cache_bytes(np.int64(2), 37, 5, 3, 16, "float32")) is int


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layer", [{}, {"n_kv_heads": 2}, {"d_ff": 128}, {"d_ff": 96, "gated": True, "d_head": 16}])
def test_at_the_crossover_both_sides_cost_the_same(layer, causal):
    feed_forward = {name: layer[name] for name in ("d_ff", "gated") if name in layer}
    heads = {name: layer[name] for name in ("n_kv_heads", "d_head") if name in layer}
    n = cost.crossover_length(64, 4, causal=causal, **layer)
    assert n == int(n)  # these sizes meet at a whole number, where both sides can be counted
    weights = cost.projection_flops(1, int(n), 64, 4, **heads)
    weights += cost.feed_forward_flops(1, int(n), 64, **feed_forward) if feed_forward else 0
    assert cost.attention_flops(1, 4, int(n), int(n), heads.get("d_head", 16), causal=causal) == weights


@pytest.mark.parametrize("memory_bytes", [0, 131071, 131072, 131073, 10**9, 7.5e10])
def test_the_longest_context_fits_and_one_token_more_does_not(memory_bytes):
    formulas = (
        lambda n: cost.kv_cache_bytes(1, n, dtype="bfloat16", **LLAMA_3_8B),
        lambda n: cost.training_bytes(1, n, 32, 32, 128, "float16"),
    )
    for bytes_at in formulas:
        n = cost.longest_context(memory_bytes, bytes_at)
        assert bytes_at(n) <= memory_bytes < bytes_at(n + 1)


def test_requests_share_what_the_weights_leave():
    one = cost.kv_cache_bytes(1, 2048, dtype="float16", **LLAMA_2_7B)
    fit = {"weight_bytes": 10**9, "seq_len": 2041, "dtype": "float16", **LLAMA_2_7B}
    assert cost.max_concurrent_requests(10**9 + 3 * one, block_size=16, **fit) == 3
    assert cost.max_concurrent_requests(10**9 + 3 * one - 1, block_size=16, **fit) == 2
    assert cost.max_concurrent_requests(10**8, **fit) == 0


@pytest.mark.parametrize("heads_per_kv, intensity", [(1, 1), (4, 4), (8, 8)])
def test_decoding_does_a_flop_a_byte_for_each_query_head_that_shares_a_key(heads_per_kv, intensity):
    flops = cost.attention_flops(3, 32, 1, 65536, 128)
    moved = cost.attention_bytes(3, 32, 1, 65536, 128, "float16", n_kv_heads=32 // heads_per_kv, tiled=True)
    assert cost.arithmetic_intensity(flops, moved) == pytest.approx(intensity, rel=1e-3)
    assert cost.bound_by(flops / moved, 989e12, 3.35e12) == "memory"


def test_the_roof_is_a_slope_up_to_the_ridge_and_flat_beyond():
    roof = {"peak_flops_per_s": 100e9, "bytes_per_s": 20e9}
    assert [cost.attainable_flops_per_s(x, **roof) for x in (0, 1, 5, 50)] == [0, 20e9, 100e9, 100e9]
    assert [cost.bound_by(x, **roof) for x in (4.99, 5, 5.01)] == ["memory", "compute", "compute"]


@pytest.mark.parametrize("flops, moved", [(1e9, 1e9), (1e12, 1e9), (0, 1e9)])
def test_the_least_time_is_work_over_attainable_speed(flops, moved):
    seconds = cost.roofline_time_s(flops, moved, 100e9, 20e9)
    speed = cost.attainable_flops_per_s(cost.arithmetic_intensity(flops, moved), 100e9, 20e9)
    assert seconds == (pytest.approx(flops / speed) if flops else moved / 20e9)


COUNT, NUMBER = (-1, 2.5, "3", True, None), (-1.0, "fast", None, float("nan"), float("inf"))
SIZE, RATE = (0, *COUNT), (0, *NUMBER)
DTYPE = ("float17", "int4", "", "complex64", None, 16, str, object)
BAND = {"causal": (1, "yes"), "window": (0, "wide"), "q_offset": (1.5,)}
ATTENTION = {"batch": 2, "n_heads": 6, "n_q": 5, "n_k": 7, "d_head": 8}
PROMPT = {"batch": 2, "seq_len": 5, "n_heads": 6, "d_head": 8, "dtype": "float16"}
CACHE = {"seq_len": 4, "n_layers": 2, "n_kv_heads": 3, "d_head": 8, "dtype": "float16"}
TILES = {"n_q": 5, "n_k": 7, "tile_q": 2, "tile_k": 3}
ROOF = {"peak_flops_per_s": 1e12, "bytes_per_s": 1e11}
# function: what is right for it, and for some arguments the values that are wrong
WRONG = {
    "visible_pairs": ({"n_q": 5, "n_k": 7}, {"n_q": COUNT, "n_k": COUNT, **BAND}),
    "attention_flops": (ATTENTION, {"batch": SIZE, "n_heads": SIZE, "d_head": SIZE, "d_v": (0,), **BAND}),
    "attention_parameters": (
        {"d_model": 48, "n_heads": 6},
        {"d_model": SIZE, "n_heads": (5, *SIZE), "n_kv_heads": (0, 4, 12)},
    ),
    "projection_flops": (
        {"batch": 2, "seq_len": 5, "d_model": 48, "n_heads": 6},
        {"batch": COUNT, "seq_len": COUNT, "n_heads": (0, 5), "n_kv_heads": (12,)},
    ),
    "feed_forward_parameters": ({"d_model": 48}, {"d_model": SIZE, "d_ff": (-1, 1.5), "gated": (1, None)}),
    "feed_forward_flops": (
        {"batch": 2, "seq_len": 5, "d_model": 48},
        {"batch": COUNT, "seq_len": COUNT, "d_model": SIZE, "gated": ("yes",)},
    ),
    "crossover_length": ({"d_model": 48}, {"d_model": SIZE, "n_heads": (0, 7, 1.0), "causal": (0,), "d_ff": (-1,)}),
    "dtype_bytes": ({"dtype": "float16"}, {"dtype": DTYPE}),
    "kv_cache_bytes": (
        {"batch": 1, **CACHE},
        {"batch": COUNT, "n_layers": SIZE, "n_kv_heads": SIZE, "dtype": DTYPE},
    ),
    "inference_bytes": (
        PROMPT,
        {"batch": COUNT, "d_head": SIZE, "dtype": DTYPE, "tiled": (1,), "n_kv_heads": (4,)},
    ),
    "training_bytes": (
        {**PROMPT, "n_layers": 2},
        {"n_layers": SIZE, "seq_len": COUNT, "dtype": DTYPE, "tiled": ("no",)},
    ),
    "longest_context": (
        {"memory_bytes": 100, "bytes_at": lambda n: n},
        {"memory_bytes": NUMBER, "bytes_at": (None, 12, lambda n: 3, lambda n: "3", lambda n: float("nan"))},
    ),
    "max_concurrent_requests": (
        {"memory_bytes": 100, "weight_bytes": 10, **CACHE},
        {"memory_bytes": NUMBER, "weight_bytes": NUMBER, "seq_len": SIZE, "block_size": SIZE},
    ),
    "attention_bytes": (
        {**ATTENTION, "dtype": "float16"},
        {"batch": COUNT, "n_heads": SIZE, "d_v": (0, 1.5), "dtype": DTYPE, "tiled": (None,), "n_kv_heads": (4,)},
    ),
    "tile_map": (TILES, {"n_q": COUNT, "tile_q": SIZE, "tile_k": SIZE, **BAND}),
    "tiles_visited": (TILES, {"n_k": COUNT, "tile_q": SIZE, "tile_k": SIZE, **BAND}),
    "hbm_bytes": (
        {**TILES, "d_head": 8, "dtype": "float16"},
        {"d_head": SIZE, "tile_q": SIZE, "tile_k": SIZE, "dtype": DTYPE, **BAND},
    ),
    "arithmetic_intensity": ({"flops": 1, "moved_bytes": 1}, {"flops": NUMBER, "moved_bytes": RATE}),
    "attainable_flops_per_s": ({"intensity": 1, **ROOF}, {"intensity": NUMBER, "bytes_per_s": RATE}),
    "bound_by": ({"intensity": 1, **ROOF}, {"intensity": NUMBER, "peak_flops_per_s": RATE}),
    "roofline_time_s": (
        {"flops": 1, "moved_bytes": 1, **ROOF},
        {"flops": NUMBER, "moved_bytes": NUMBER, "bytes_per_s": RATE},
    ),
}
CASES = [(f, name, x) for f, (_, wrong) in WRONG.items() for name, values in wrong.items() for x in values]


@pytest.mark.parametrize("function, name, x", CASES, ids=[f"{f}-{name}-{x!r:.12}" for f, name, x in CASES])
def test_an_error_names_the_argument_and_what_it_should_be(function, name, x):
    right, call = WRONG[function][0], getattr(cost, function)
    call(**right)
    with pytest.raises((TypeError, ValueError), match=rf"(?=.*{name}\b).*(must|cannot|divide|use its n)"):
        call(**{**right, name: x})


def test_every_public_function_has_eight_wrong_calls():
    assert set(WRONG) == set(cost.__all__)
    counts = {function: sum(map(len, wrong.values())) for function, (_, wrong) in WRONG.items()}
    assert {function: count for function, count in counts.items() if count < 8} == {}


@pytest.mark.parametrize("name", ["flops", "memory", "traffic", "roofline"])
def test_the_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"attn_ref.cost.{name}"))
    assert result.attempted and not result.failed
