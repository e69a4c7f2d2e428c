"""The Triton kernels compiled for GPUs that this machine does not have, and what the compiler made of them.

    python -m attn_ref.triton_aot            a table: registers, spilled bytes, shared memory, matrix instructions
    python -m attn_ref.triton_aot --json     the same as JSON;  --targets 90 --sizes 128 --dtypes bf16 for a part of it

Used in course/12_triton, to read a compiled kernel. A number that does not fit in a thread's 255 registers is spilled
to its stack, which lies in slow memory. An interpreting process cannot compile: start it without TRITON_INTERPRET.
"""

import argparse
import json
from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attn_ref.triton_backend import COMMON, LARGEST_HEAD
from attn_ref.triton_backward import dk_dv_kernel, dq_kernel
from attn_ref.triton_decode import decode_kernel
from attn_ref.triton_forward import forward_kernel
from attn_ref.triton_read import SHARED_LIMIT, usage
from attn_ref.triton_tiles import Matrices
from attn_ref.triton_tuning import DECODE, INTERPRETING, TILES

KERNELS = {"forward": forward_kernel, "dk_dv": dk_dv_kernel, "dq": dq_kernel, "decode": decode_kernel}
NUMBERS = {
    **dict.fromkeys(("n_q", "n_k", "heads_per_kv", "splits", "right"), "i32"),
    **dict.fromkeys(("offset", "length"), "*i64"),
    "scale": "fp32",
}
IN_FLOAT32 = ("lse", "lse2", "delta", "parts", "part_lse")


def compile_kernel(name, target, d, dtype="fp16", **options):
    """A kernel of causal attention, compiled for sm_<target>, with the first tiles of the table. -> Triton's result

    `options` gives types to arguments that plain causal attention leaves out, such as softcap="fp32".
    """
    kernel = KERNELS[name]
    tile_q, tile_k, warps, stages = first_tiles(name, target, d)
    padded = max(16, triton.next_power_of_2(d))
    raw = not options.keys() & {"softcap", "bias", "alibi"}
    constants = {"D": d, "D_V": d, "PADDED_D": padded, "PADDED_DV": padded, "RAW": raw}
    constants |= {"TILE_Q": tile_q, "TILE_K": tile_k}
    types = NUMBERS | {n: f"*{dtype}" for n in ("q", "k", "v", "out", "grad_out", "dq", "dk", "dv")}
    types |= {n: "*fp32" for n in IN_FLOAT32} | options
    if name == "decode":
        types.pop("right")  # the last query sees the whole cache
    signature, constexprs, attributes, aligned = {}, {}, {}, [["tt.divisibility", 16]]
    for i, argument in enumerate(kernel.arg_names):
        kind = types.get(argument)
        if kind is None:
            signature[argument], constexprs[i,] = "constexpr", constants.get(argument)
        elif kind.startswith("*") and argument not in ("offset", "length", "sinks", "alibi"):
            signature[argument] = Matrices(kind, "i32", "i32", "i32", "constexpr")
            constexprs[i, 4] = 1  # numbers of a row lie side by side, and rows start at multiples of 16
            attributes |= {(i, j): aligned for j in range(4)}
        else:
            signature[argument] = kind
            attributes |= {(i,): aligned} if kind.startswith("*") else {}
    source = ASTSource(kernel, signature, constexprs, attributes)
    settings = {"num_warps": warps, "num_stages": stages, **COMMON}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=settings)


def first_tiles(name, target, d):
    """(tile_q, tile_k, warps, stages), the first choice among those that autotuning would time."""
    size = max(64, triton.next_power_of_2(d))
    if name == "decode":
        return 16, *DECODE[size]
    return TILES["small" if target < 90 else "large"][name][size][0]


def report(name, target, d, dtype, **options):
    """What the compiler made of one kernel. -> a dict of numbers, bytes where the name says so"""
    compiled = compile_kernel(name, target, d, dtype, **options)
    return {
        "kernel": name,
        "target": f"sm_{target}",
        "d": d,
        "dtype": dtype,
        "tile": "x".join(map(str, first_tiles(name, target, d)[:2])),
        **usage(compiled, target),
    }


def main(arguments=None):
    """Compile the chosen kernels for the chosen targets, and print what the compiler made of each."""
    parser = argparse.ArgumentParser(prog="python -m attn_ref.triton_aot", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--targets", nargs="+", type=int, choices=SHARED_LIMIT, default=list(SHARED_LIMIT))
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128], metavar="D", help="head sizes, 1 to 256")
    parser.add_argument("--dtypes", nargs="+", choices=["fp16", "bf16"], default=["fp16", "bf16"])
    chosen = parser.parse_args(arguments)
    if INTERPRETING:
        parser.error("Triton interprets in this process and cannot compile; unset TRITON_INTERPRET")
    for d in chosen.sizes:
        if not 1 <= d <= LARGEST_HEAD:
            parser.error(f"head sizes must lie in 1..{LARGEST_HEAD}, got {d}")
    rows = [report(*one) for one in product(chosen.kernels, chosen.targets, chosen.sizes, chosen.dtypes)]
    if chosen.json:
        print(json.dumps(rows, indent=1))
        return
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    main()
