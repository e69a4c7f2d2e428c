"""Which tiles a kernel works on: a small table, and a race between its rows where that pays.

Used in course/12_triton. The first row of each entry is the choice for small work, and the one of which
tests/test_triton_aot.py demands that nothing spills. Work long enough to be timed is tuned: at the first call of its
kind Triton tries every row and keeps the fastest.
"""

from functools import cache

import torch
import triton

INTERPRETING = triton.knobs.runtime.interpret  # fixed when the kernels were defined
LONG = 2**34  # multiply-adds, some 50 microseconds: below, the noise of a timing is larger than what tuning gains
TUNED_BY = ("D", "D_V", "RAW", "left", "right")

# Tiles of (queries, keys), warps, stages of prefetching, by kernel and head size. Half-precision inputs, on chips with
# over 200 KiB of shared memory (Hopper and Blackwell in the data centre) and on the others from Ampere on.
TILES = {
    "large": {
        "forward": {
            64: [(128, 128, 8, 3), (128, 64, 4, 3), (128, 64, 8, 3)],
            128: [(128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (64, 64, 4, 3)],
            256: [(64, 32, 8, 2), (128, 32, 8, 2), (128, 64, 8, 2)],
        },
        "dk_dv": {
            64: [(64, 128, 8, 3), (64, 128, 8, 2), (32, 128, 8, 3)],
            128: [(32, 128, 8, 3), (64, 128, 8, 2), (32, 128, 8, 2)],
            256: [(32, 32, 8, 2), (32, 64, 8, 2)],
        },
        "dq": {
            64: [(128, 128, 8, 2), (128, 64, 8, 3)],
            128: [(128, 64, 8, 2), (64, 64, 4, 2), (128, 32, 8, 2)],
            256: [(32, 32, 8, 2), (64, 32, 8, 2)],
        },
    },
    "small": {
        "forward": {
            64: [(128, 128, 8, 3), (128, 64, 8, 3)],
            128: [(64, 64, 4, 3), (128, 32, 8, 3)],
            256: [(64, 32, 8, 2)],
        },
        "dk_dv": {
            64: [(64, 128, 8, 2), (64, 64, 8, 2)],
            128: [(64, 64, 8, 2), (32, 128, 8, 2)],
            256: [(32, 32, 8, 2)],
        },
        "dq": {
            64: [(128, 64, 8, 3), (64, 64, 4, 2)],
            128: [(64, 64, 4, 2), (64, 32, 4, 2)],
            256: [(32, 32, 8, 2)],
        },
    },
}
FULL_PRECISION = {64: [(32, 32, 8, 2)], 128: [(32, 32, 8, 2)], 256: [(16, 32, 8, 1)]}  # float32: no tensor cores
DECODE = {64: (64, 4, 3), 128: (64, 4, 3), 256: (32, 8, 2)}  # keys, warps, stages
INTERPRETED = (32, 32, 1, 1)


def tiles(name, problem):
    """The rows of the table for a kernel and a problem, as a tuple: one row when interpreting."""
    if INTERPRETING:
        return (INTERPRETED,)
    if problem.q.dtype == torch.float32:
        return tuple(FULL_PRECISION[_size(problem)])
    shared_bytes = torch.cuda.get_device_properties(problem.q.device).shared_memory_per_block_optin
    return tuple(TILES["large" if shared_bytes > 200 * 1024 else "small"][name][_size(problem)])


def decode_tiles(problem):
    """The one row for decoding. Its tile holds all query rows of a KV head, 16 at least."""
    rows = max(16, triton.next_power_of_2(problem.q.shape[2] * (problem.q.shape[1] // problem.k.shape[1])))
    if INTERPRETING:
        return rows, *INTERPRETED[1:]
    if problem.q.dtype == torch.float32:
        return rows, *FULL_PRECISION[_size(problem)][0][1:]
    return rows, *DECODE[_size(problem)]


def worth_tuning(problem):
    """Whether a call is so long that timing several tiles first pays: by multiply-adds, as if nothing were masked."""
    batch, n_heads, n_q, d = problem.q.shape
    n_k, d_v = problem.v.shape[2:]
    return batch * n_heads * n_q * n_k * (d + d_v) >= LONG


@cache
def tuned(kernel, choices):
    """The kernel, which times its choices of tiles at the first call of each kind."""
    configs = [triton.Config({"TILE_Q": q, "TILE_K": k}, num_warps=w, num_stages=s) for q, k, w, s in choices]
    return triton.autotune(configs, key=list(TUNED_BY))(kernel)


def _size(problem):
    return max(64, triton.next_power_of_2(max(problem.q.shape[3], problem.v.shape[3])))
