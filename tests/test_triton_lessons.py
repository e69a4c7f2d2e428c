"""Kernels as small as a lesson, what `watch` sees of them, and what the compiler makes of them."""

import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import attn_ref
from attn_ref import plots

torch = pytest.importorskip("torch", reason="kernels take torch tensors")
pytest.importorskip("triton", reason="Triton is not installed; it needs Linux")

lessons = import_module("attn_ref.triton_lessons")
read = import_module("attn_ref.triton_read")
tl = import_module("attn_ref.triton_here").tl
watch = import_module("attn_ref.triton_watch").watch


def open_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < 2))


def racing_kernel(x_ptr, total_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.load(total_ptr + i) + tl.load(x_ptr + tl.program_id(0) * BLOCK + i)
    tl.store(total_ptr + i, total)


def atomic_kernel(x_ptr, total_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(total_ptr + i, tl.load(x_ptr + tl.program_id(0) * BLOCK + i))


def careless_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) + MISSING_HERE)


def two_arrays_kernel(other_ptr, x_ptr, out_ptr, BLOCK: tl.constexpr):
    careless = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + careless, tl.load(x_ptr + careless) + MISSING_HERE)


MISSING_HERE = 1.0


def test_every_number_has_the_program_that_wrote_it():
    x, out = torch.arange(20.0), torch.empty(20)
    seen = watch(lessons.add_kernel, (3,), x, x, out, 20, BLOCK=8)
    assert seen.writers(out).tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert not seen.outside and not seen.races
    assert torch.equal(out, 2 * x)


def test_what_lies_beyond_is_noted_read_as_nan_and_left_alone():
    shelf = torch.full((16,), 7.0)
    x, out = shelf[:5].clone(), shelf[:5]
    seen = watch(careless_kernel, (2,), x, out, BLOCK=4)
    place = (1, 0, 0)
    assert seen.outside == {(place, "reads", "x_ptr"): 3, (place, "writes", "out_ptr"): 3}
    assert shelf.tolist() == [8.0] * 5 + [7.0] * 11


def test_the_array_next_door_is_not_reached():
    shelf = np.full(16, 7.0, np.float32)
    x, out, neighbour = (torch.from_numpy(shelf[part]) for part in (slice(0, 5), slice(8, 13), slice(5, 8)))
    seen = watch(two_arrays_kernel, (2,), neighbour, x, out, BLOCK=4)
    place = (1, 0, 0)
    assert seen.outside == {(place, "reads", "x_ptr"): 3, (place, "writes", "out_ptr"): 3}
    assert shelf.tolist() == [7.0] * 8 + [8.0] * 5 + [7.0] * 3


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_arrays_that_may_only_be_read_are_not_written_to(tmp_path):
    np.arange(5, dtype=np.float32).tofile(tmp_path / "x")
    x = torch.from_numpy(np.memmap(tmp_path / "x", np.float32, "r"))  # writing to it would end Python
    out = torch.zeros(5)
    watch(lessons.add_kernel, (1,), x, x, out, 5, BLOCK=8)
    assert out.tolist() == [0, 2, 4, 6, 8]


def test_gaps_between_rows_belong_to_nobody():
    room = torch.zeros(4, 8)
    seen = watch(careless_kernel, (2,), room[:, :6], torch.zeros(16), BLOCK=8)
    assert seen.outside == {((i, 0, 0), "reads", "x_ptr"): 2 for i in range(2)}


def test_a_race_is_seen_though_its_result_is_right_and_atomics_are_none():
    x, total = torch.ones(3, 4), torch.zeros(4)
    assert watch(racing_kernel, (3,), x, total, BLOCK=4).races == {"total_ptr": 4}
    assert total.tolist() == [3.0] * 4
    assert watch(atomic_kernel, (3,), x, total, BLOCK=4).races == {}
    assert total.tolist() == [6.0] * 4


def test_a_masked_load_without_other_leaves_nan():
    out = torch.zeros(4)
    watch(open_kernel, (1,), torch.ones(4), out, BLOCK=4)
    assert out[:2].tolist() == [1.0, 1.0] and out[2:].isnan().all()


def test_an_error_is_that_of_the_kernels_own_line():
    with pytest.raises(ValueError, match="power of 2"):
        watch(lessons.add_kernel, (1,), *torch.ones(3, 3), 3, BLOCK=3)


@pytest.mark.parametrize("wrong", [None, 5, "kernel", torch.ones(2)], ids=["None", "5", "text", "a tensor"])
def test_what_is_no_kernel_is_refused(wrong):
    with pytest.raises(TypeError, match="watch takes a kernel"):
        watch(wrong, (1,))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradients_equal_the_plain_version(causal):
    heads, n_q, n_k, d, tiles = 2, 37, 29, 16, (16, 32)
    rng = np.random.default_rng(12)
    q, k, v, grad = (torch.from_numpy(rng.normal(size=(heads, n, d))).float() for n in (n_q, n_k, n_k, n_q))
    wide = [x[None].double().requires_grad_() for x in (q, k, v)]
    expected, expected_lse = attn_ref.attention(*wide, causal=causal, return_lse=True)
    expected.backward(grad[None].double())
    out, lse = torch.empty_like(q), torch.empty(heads, n_q)
    sizes = n_q, n_k, d**-0.5, causal, d, *tiles
    watch(lessons.flash_kernel, (3, heads), q, k, v, out, lse, *sizes)
    dq, dk, dv = map(torch.empty_like, (q, k, v))
    back = q, k, v, grad, lse, (out * grad).sum(-1)
    watch(lessons.dq_kernel, (3, heads), *back, dq, *sizes)
    seen = watch(lessons.dk_dv_kernel, (1, heads), *back, dk, dv, *sizes)
    assert not seen.outside and not seen.races
    rights = [expected[0], expected_lse[0], *(x.grad[0] for x in wide)]
    for found, right in zip((out, lse, dq, dk, dv), rights, strict=True):
        torch.testing.assert_close(found.double(), right.detach(), rtol=1e-5, atol=1e-5)


def test_a_kernel_is_compiled_for_a_gpu_that_is_not_here():
    types = {"x_ptr": "*fp32", "out_ptr": "*fp32"}
    found = read.compiled(careless_kernel, types, target=90, BLOCK=128)
    assert 0 < found["registers"] <= 255 and found["stack_bytes"] == 0 and "ld.global" in found["ptx"]


def test_a_kernel_that_does_not_compile_says_why():
    with pytest.raises(RuntimeError, match="does not compile"):
        read.compiled_many([(careless_kernel, {"x_ptr": "*fp32", "out_ptr": "*fp32"}, 90, 4, 1, {"BLOCK": 100})])


def test_a_map_of_programs_tells_who_has_what():
    picture = plots.programs({"x": np.array([0, 0, 1, -1]), "out": np.array([[0, -2], [1, 1]])}, title="t")
    assert "program 0 has 2" in picture.alt and "1 touched by nobody" in picture.alt and "1 shared" in picture.alt


def test_compiling_works_after_watching():
    """Watching patches Triton's language; a process that can compile must find it as it was."""
    code = """
import torch
from attn_ref.triton_lessons import softmax_kernel
from attn_ref.triton_read import read
from attn_ref.triton_watch import watch
import inspect
x, out = torch.randn(2, 5), torch.empty(2, 5)
assert not watch(softmax_kernel, (2,), x, out, 5, 5, 5, BLOCK=8).outside
torch.testing.assert_close(out, x.softmax(-1))
types = {"x_ptr": "*fp32", "out_ptr": "*fp32", "m": "i32", "x_row": "i32", "out_row": "i32"}
assert read(inspect.getsource(softmax_kernel.fn), types, 90, 4, 1, {"BLOCK": 8})["registers"] > 0
"""
    settings = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
