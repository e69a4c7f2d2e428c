"""The numba kernels beyond the fuzz: tiles of any size, caches read in place, BLAS's threads, stale caches."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("numba", reason="the kernels need numba")

from attn_ref import attention, attention_backward, numba_backend, numba_compile  # noqa: E402
from attn_ref.flash import decode_split_kv, flash_backward, flash_forward  # noqa: E402

OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (9, 4)},
    "all": {
        "kv_len": [50, 3],
        "window": (20, 7),
        "q_offset": [11, 0],
        "softcap": 3.0,
        "alibi": np.linspace(0.1, 0.6, 6),
        "sinks": np.linspace(-1, 1, 6),
        "allowed": np.random.default_rng(3).random((2, 1, 37, 53)) > 0.3,
        "bias": np.random.default_rng(4).normal(size=(6, 1, 53)),
    },
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(2017)
    q, k, v = rng.normal(size=(2, 6, 37, 16)), rng.normal(size=(2, 3, 53, 16)), rng.normal(size=(2, 3, 53, 24))
    q[:, :, 5] *= 300  # scores near ±1000
    return q, k, v, rng.normal(size=(2, 6, 37, 24))


@pytest.mark.parametrize("tiles", [(1, 1), (5, 7), (16, 53), (64, 3)], ids=str)
@pytest.mark.parametrize("kind", OPTIONS)
def test_any_tiling_gives_the_same(arrays, kind, tiles):
    q, k, v, grad = arrays
    out, lse = attention(q, k, v, return_lse=True, backend="numpy", **OPTIONS[kind])
    sizes = dict(zip(("block_q", "block_k"), tiles, strict=True))
    for ours, theirs in zip(flash_forward(q, k, v, **sizes, **OPTIONS[kind]), (out, lse), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    options = {name: x for name, x in OPTIONS[kind].items()}
    found = flash_backward(q, k, v, out, lse, grad, **sizes, **options)
    wanted = attention_backward(q, k, v, grad, backend="numpy", **options)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("splits", [1, 2, 5, 60])
@pytest.mark.parametrize("kind", OPTIONS)
def test_any_number_of_splits_gives_the_same(arrays, kind, splits):
    q, k, v, _ = arrays
    wanted = attention(q, k, v, return_lse=True, backend="numpy", **OPTIONS[kind])
    for ours, theirs in zip(decode_split_kv(q, k, v, splits=splits, block_k=7, **OPTIONS[kind]), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 3, 4, 9, 64, 70])
def test_every_number_of_rows_in_a_group_decodes(rows):
    rng = np.random.default_rng(rows)
    q, k, v = rng.normal(size=(1, rows, 1, 8)), rng.normal(size=(1, 1, 45, 8)), rng.normal(size=(1, 1, 45, 5))
    np.testing.assert_allclose(decode_split_kv(q, k, v)[0], attention(q, k, v, backend="numpy"), atol=1e-12)


SLICES = {
    "the first positions of a cache": ((2, 3, 20, 8), np.s_[:, :, :13], True),
    "one sequence of it": ((2, 3, 20, 8), np.s_[1:, :, :13], True),
    "positions from the middle": ((2, 1, 20, 8), np.s_[:, :, 3:13], True),
    "some of the heads": ((2, 3, 20, 8), np.s_[:, :2, :13], False),
    "some of the features": ((2, 3, 20, 9), np.s_[..., :8], False),
    "every second position": ((2, 3, 20, 8), np.s_[:, :, ::2], False),
    "positions backwards": ((2, 3, 20, 8), np.s_[:, :, ::-1], False),
    "one head broadcast": ((2, 1, 20, 8), None, False),
}


@pytest.mark.parametrize("kind", SLICES)
def test_a_slice_of_a_cache_is_read_in_place_where_it_can_be(kind):
    shape, cut, in_place = SLICES[kind]
    cache = np.random.default_rng(1).normal(size=shape)
    k = np.broadcast_to(cache, (2, 3, 20, 8)) if cut is None else cache[cut]
    whole = numba_backend._with_room(k)
    assert (whole is not k) == in_place
    np.testing.assert_array_equal(whole[:, :, : k.shape[2]], k)
    q = np.random.default_rng(2).normal(size=(k.shape[0], 2 * k.shape[1], 3, 8))
    for n_q in (3, 2):
        ours = attention(q[:, :, :n_q], k, k, causal=True, backend="numba")
        np.testing.assert_allclose(ours, attention(q[:, :, :n_q], k, k, causal=True, backend="numpy"), atol=1e-12)


def test_blas_has_its_threads_back_after_a_call(arrays):
    before = [one["num_threads"] for one in numba_backend._blas().info()]
    attention(*arrays[:3], backend="numba")
    assert before and [one["num_threads"] for one in numba_backend._blas().info()] == before


def test_a_forked_process_refuses_and_by_default_does_without(arrays):
    attention(*arrays[:3], backend="numba")
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            attention(*arrays[:3], backend="numba")
        except ValueError as error:
            os.write(write, str(error).encode())
            attention(np.zeros((1, 1, 2**11, 1)), np.zeros((1, 1, 2**11, 1)), np.zeros((1, 1, 2**11, 1)))
            os.write(write, b" and did")
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    assert "threads do not survive a fork" in text and text.endswith("and did")


def test_two_callers_at_once_get_what_each_asked_for(arrays):
    q, k, v = arrays[:3]
    wanted = [attention(q * i, k, v, backend="numpy") for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda i: attention(q * i, k, v, backend="numba"), range(6)))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_changed_steps_make_the_compiled_kernels_stale(tmp_path):
    fresh, stale, other = (tmp_path / name for name in ("numba_b.nbi", "numba_a.nbi", "mine.nbi"))
    for path in (fresh, stale, other):
        path.touch()
    for path in (stale, other):
        os.utime(path, (1, 1))
    numba_compile._forget_if_stale.__wrapped__(tmp_path)
    assert fresh.exists() and other.exists() and not stale.exists()


def test_inputs_that_are_read_only_or_half_precision_or_empty_are_fine(arrays):
    q, k, v = (x.astype(np.float16) for x in arrays[:3])
    for x in (q, k, v):
        x.flags.writeable = False
    out = attention(q, k, v, backend="numba")
    assert out.dtype == np.float16 and np.abs(out - attention(*arrays[:3], backend="numpy")).max() < 0.02
    assert attention(q[:, :, :0], k, v, backend="numba").shape == (2, 6, 0, 24)
    assert (attention(q, k[:, :, :0], v[:, :, :0], backend="numba") == 0).all()
    assert attention(q[:0], k[:0], v[:0], backend="numba").shape == (0, 6, 37, 24)


def test_starting_the_threads_leaves_torchs_number_as_it_was():
    pytest.importorskip("torch")
    code = """
        import torch, attn_ref
        torch.set_num_threads(1)
        x = torch.ones(1, 1, 40, 8)
        attn_ref.attention(x, x, x, backend="numba")
        print(torch.get_num_threads())
    """
    told = subprocess.run(
        [sys.executable, "-c", code.replace("\n        ", "\n")],
        capture_output=True, text=True, check=True, env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
    )  # fmt: skip
    assert told.stdout.strip() == "1"
