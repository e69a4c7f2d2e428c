"""From a problem to kernel launches: which kernel, on which grid, with which arguments.

    refusal(problem) -> why not, or None   forward(problem) -> out, lse   backward(problem, ...) -> dq, dk, dv

Used in course/12_triton. Kernels take tensors of any strides, and None for an option that is not asked for.
"""

import warnings
from contextlib import contextmanager

import numpy as np
import torch
import triton

from attn_ref.problem import UNBOUNDED
from attn_ref.shapes import is_tensor
from attn_ref.triton_backward import delta_kernel, dk_dv_kernel, dq_kernel
from attn_ref.triton_decode import decode_kernel, merge_kernel
from attn_ref.triton_forward import forward_kernel
from attn_ref.triton_tiles import Matrices
from attn_ref.triton_tuning import INTERPRETING, decode_tiles, tiles, tuned, worth_tuning

LARGEST_HEAD = 256
DECODE_ROWS = 64  # up to so many query rows for each KV head, a program holds them all and the keys are split
MOST_SPLITS = 128  # merging holds them all in registers
COMMON = {"enable_fp_fusion": True}  # a·b + c with one rounding, Triton's habit until now and soon not its default


def refusal(problem):
    """Why these kernels cannot do a problem, naming the argument; None if they can."""
    q, k, v = problem.q, problem.k, problem.v
    if not is_tensor(q):
        return "q, k and v are NumPy arrays; pass torch tensors"
    if not INTERPRETING and not q.is_cuda:
        return f"q lies on {q.device}; move q, k and v to a GPU, or start Python with TRITON_INTERPRET=1"
    if q.is_cuda and torch.cuda.get_device_capability(q.device) < (8, 0):
        return "q lies on a GPU older than Ampere (compute capability 8.0), whose shared memory is too small"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"q has dtype {q.dtype}, but the kernels compute in float32; pass float32, float16 or bfloat16"
    if INTERPRETING and q.dtype == torch.bfloat16:
        return "q has dtype torch.bfloat16, which Triton's interpreter reads as raw bits; pass float16 or float32"
    for name, size in (("d", q.shape[-1]), ("d_v", v.shape[-1])):
        if not 1 <= size <= LARGEST_HEAD:
            return f"the head size {name}={size} is not in 1..{LARGEST_HEAD}; a tile of it would not fit on the chip"
    if max(q.shape[:2]) > 65535:
        return f"q has {q.shape[0]} batch entries and {q.shape[1]} heads; a launch grid takes 65535 of each"
    for name, x in (("q", q), ("k", k), ("v", v)):
        if max(x.stride()[2:]) >= 2**22:
            return f"{name} has strides {x.stride()}, too wide for addresses within a tile; pass {name}.contiguous()"
    return None


def forward(problem):
    """-> out (B, Hq, Nq, Dv) in the dtype of q, lse (B, Hq, Nq) float32"""
    q, k, v = problem.q, problem.k, problem.v
    batch, n_heads, n_q, _ = q.shape
    out = q.new_empty(batch, n_heads, n_q, v.shape[3])
    lse = q.new_empty(batch, n_heads, n_q, 1, dtype=torch.float32)
    if lse.numel():
        with _launching_on(q):
            if n_q * (n_heads // k.shape[1]) <= DECODE_ROWS:
                _decode(problem, out, lse)
            else:
                arrays = map(matrices, (q, k, v, out, lse))
                launch(
                    "forward", forward_kernel, problem, n_q, n_heads,
                    *arrays, *_options(problem, "offset length allowed bias sinks alibi"), n_q, n_heads // k.shape[1],
                )  # fmt: skip
    return out, lse[..., 0]


def backward(problem, out, lse, grad_out, grad_lse=None):
    """-> dq, dk, dv, in the shapes and dtype of q, k and v of the problem"""
    q, k, v = problem.q, problem.k, problem.v
    (batch, n_heads, n_q, _), (_, n_kv_heads, n_k, _), group = q.shape, k.shape, q.shape[1] // k.shape[1]
    if not q.numel() or not k.numel():
        return tuple(x.new_zeros(x.shape) for x in (q, k, v))
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    grad_out = grad_out.to(q.dtype)
    lse2, delta = (q.new_empty(batch, n_heads, n_q, 1, dtype=torch.float32) for _ in range(2))
    grad_lse = None if grad_lse is None else matrices(grad_lse[..., None])
    sizes = _sizes(problem)
    with _launching_on(q):
        delta_kernel[triton.cdiv(n_q, 64), n_heads, batch](
            matrices(out), matrices(grad_out), matrices(lse[..., None]), grad_lse, matrices(delta), matrices(lse2),
            n_q, sizes["D_V"], sizes["PADDED_DV"], 64, **COMMON,
        )  # fmt: skip
        inputs = [*map(matrices, (q, k, v, grad_out, lse2, delta))]
        options = _options(problem, "offset length allowed bias alibi")
        launch(
            "dk_dv", dk_dv_kernel, problem, n_k, n_kv_heads,
            *inputs, matrices(dk), matrices(dv), *options, n_q, n_k, group,
        )  # fmt: skip
        launch("dq", dq_kernel, problem, n_q, n_heads, *inputs, matrices(dq), *options, n_q, group)
    return dq, dk, dv


def _decode(problem, out, lse):
    """The forward pass of few queries: every split of the keys by a program of its own, then merged."""
    q, k, v, sizes = problem.q, problem.k, problem.v, _sizes(problem)
    (batch, n_heads, n_q, _), (_, n_kv_heads, n_k, d_v), group = q.shape, v.shape, q.shape[1] // k.shape[1]
    tile_q, tile_k, warps, stages = decode_tiles(problem)
    splits = _splits(q.device, batch * n_kv_heads, triton.cdiv(n_k, tile_k))
    parts = q.new_empty(batch, n_heads, n_q * splits, d_v, dtype=torch.float32)
    part_lse = q.new_empty(batch, n_heads, n_q * splits, 1, dtype=torch.float32)
    decode_kernel[splits, n_kv_heads, batch](
        *map(matrices, (q, k, v, parts, part_lse)), *_options(problem, "offset length allowed bias alibi"),
        n_q, group, splits, *_scores(problem), **sizes,
        TILE_Q=tile_q, TILE_K=tile_k, num_warps=warps, num_stages=stages, **COMMON,
    )  # fmt: skip
    merge_kernel[n_q, n_heads, batch](
        *map(matrices, (parts, part_lse, out, lse)), *_options(problem, "sinks"), splits,
        sizes["D_V"], sizes["PADDED_DV"], triton.next_power_of_2(splits), **COMMON,
    )  # fmt: skip


def launch(name, kernel, problem, rows, heads, *arguments):
    """Run a kernel on a grid of (tiles of its rows, heads, batch), with the tiles that suit the problem."""
    choices = tiles(name, problem)
    side = "TILE_K" if name == "dk_dv" else "TILE_Q"
    if len(choices) > 1 and worth_tuning(problem):
        kernel, meta = tuned(kernel, choices), {}
    else:
        meta = dict(zip(("TILE_Q", "TILE_K", "num_warps", "num_stages"), choices[0], strict=True))
    grid = lambda meta: (triton.cdiv(rows, meta[side]), heads, problem.q.shape[0])  # noqa: E731
    kernel[grid](*arguments, *_scores(problem), **_sizes(problem), **meta, **COMMON)


@contextmanager
def _launching_on(x):
    """Kernels go to the device of x; and the interpreter, which is NumPy, is as silent about 0 · inf as a GPU."""
    if not INTERPRETING:
        with torch.cuda.device_of(x):
            yield
    else:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield


def matrices(x):
    """A tensor of four axes as a kernel takes it; None stays None. A mask is passed as bytes."""
    if x is None:
        return None
    return Matrices(x.view(torch.uint8) if x.dtype == torch.bool else x, *x.stride())


def _options(problem, names):
    """The fields of a problem that a kernel asks for, as it takes them."""
    values = {
        "offset": problem.offset.contiguous(),
        "length": problem.length.contiguous(),
        "allowed": matrices(problem.allowed),
        "bias": matrices(problem.bias),
        "sinks": None if problem.sinks is None else problem.sinks.contiguous(),
        "alibi": None if problem.alibi is None else problem.alibi.contiguous(),
    }
    return [values[name] for name in names.split()]


def _scores(problem):
    """scale, softcap, left, right; None for what is not used."""
    left, right = (side if side < UNBOUNDED else None for side in (problem.left, problem.right))
    return problem.scale, problem.softcap or None, left, right


def _sizes(problem):
    d, d_v = problem.q.shape[3], problem.v.shape[3]
    return {
        "D": d,
        "D_V": d_v,
        "PADDED_D": max(16, triton.next_power_of_2(d)),  # 16: the smallest side of a matrix instruction
        "PADDED_DV": max(16, triton.next_power_of_2(d_v)),
        # A maximum may be taken before scaling only by a positive scale that nothing comes after.
        "RAW": problem.scale > 0 and not problem.softcap and problem.bias is None and problem.alibi is None,
    }


def _splits(device, programs, key_tiles):
    """Into how many shares to cut the keys: two programs for each multiprocessor, and two tiles for each program."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    return max(1, min(2 * processors // programs, key_tiles // 2, MOST_SPLITS))
