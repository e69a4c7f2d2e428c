"""How fast and how frugal the numba kernels are beside what one would use instead: `python benchmarks/kernels.py`.

Everything is float32 on the CPU and goes through the public `attention`. The functions take turns in one process, and a
sample that other programs disturbed does not count (attn_ref/bench). Writes benchmarks/kernels.md and, after a complete
run, the README's picture, docs/images/benchmark.svg. About fifteen minutes on two cores; `--only decode` runs one part.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import attn_ref
from attn_ref import plots
from attn_ref.bench import machine, measure, peak_memory

ROOT = Path(__file__).resolve().parent.parent
SDPA = torch.nn.functional.scaled_dot_product_attention
rng = np.random.default_rng(2017)


def arrays(*shapes):
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def tensors(*xs):
    return [torch.from_numpy(x) for x in xs]


def ours(*xs, **options):
    return lambda: attn_ref.attention(*xs, backend="numba", **options)


def gemm_rate():
    """FLOP/s of one large product in this same run: what the machine gives today."""
    a, b = tensors(*arrays((2048, 2048), (2048, 2048)))
    return 2 * 2048**3 / undisturbed({"gemm": lambda: a @ b}, repeats=7, budget_s=20).timings["gemm"].median_s


def forward():
    """The forward pass against torch's SDPA."""
    rate, rows = gemm_rate(), []
    for n, n_heads in ((512, 16), (1024, 8), (2048, 4), (4096, 2)):
        for d in (64, 80, 128):
            for causal in (False, True):
                q, k, v = arrays(*[(1, n_heads, n, d)] * 3)
                qt, kt, vt = tensors(q, k, v)
                pair = {
                    "ours": ours(q, k, v, causal=causal),
                    "SDPA": lambda x=(qt, kt, vt), c=causal: SDPA(*x, is_causal=c),
                }
                found = undisturbed(pair, repeats=9, budget_s=25)
                pairs = n * (n + 1) / 2 if causal else n * n
                reached = 4 * n_heads * pairs * d / found.timings["ours"].median_s / rate
                rows.append([f"N {n}, D {d}, {'causal' if causal else 'full'}", *pair_cells(found), f"{reached:.0%}"])
                yield rows[-1], found.ratio("ours", "SDPA"), reached


def backward():
    """The backward pass against that of torch's SDPA."""
    for n, n_heads in ((512, 8), (1024, 8), (2048, 4)):
        for d in (64, 128):
            for causal in (False, True):
                q, k, v, grad = arrays(*[(1, n_heads, n, d)] * 4)
                out, lse = attn_ref.attention(q, k, v, causal=causal, return_lse=True, backend="numba")
                leaves = [x.requires_grad_() for x in tensors(q, k, v)]
                graph, gt = SDPA(*leaves, is_causal=causal), torch.from_numpy(grad)
                saved = {"out": out, "lse": lse, "causal": causal, "backend": "numba"}
                pair = {
                    "ours": lambda x=(q, k, v, grad), o=saved: attn_ref.attention_backward(*x, **o),
                    "SDPA": lambda g=graph, x=leaves, t=gt: torch.autograd.grad(g, x, t, retain_graph=True),
                }
                found = undisturbed(pair, repeats=9, budget_s=30)
                name = f"N {n}, D {d}, {'causal' if causal else 'full'}"
                yield [name, *pair_cells(found)], found.ratio("ours", "SDPA")


def decode():
    """One new token over a long cache with grouped heads, against torch as it is and as an expert would write it."""
    read = read_rate()
    for b, hq, hkv, n, d in (
        (1, 32, 8, 4096, 128),
        (4, 32, 8, 2048, 128),
        (1, 16, 2, 16384, 64),
        (1, 32, 8, 32768, 128),
    ):
        q, k, v = arrays((b, hq, 1, d), (b, hkv, n, d), (b, hkv, n, d))
        qt, kt, vt = tensors(q, k, v)
        rivals = {
            "ours": ours(q, k, v, causal=True),
            "SDPA enable_gqa": lambda x=(qt, kt, vt): SDPA(*x, enable_gqa=True),
            "SDPA grouped": lambda x=(qt, kt, vt), s=(b, hkv, hq // hkv, d): SDPA(x[0].reshape(s), x[1], x[2]),
        }
        found = undisturbed(rivals, repeats=11, budget_s=30)
        ratios = [found.ratio("ours", name) for name in list(rivals)[1:]]
        reached = 2 * k.nbytes / found.timings["ours"].median_s / read
        name = f"B {b}, {hq} heads over {hkv}, cache {n}, D {d}"
        cells = [f"{1000 * one.median_s:.2f}" for one in found.timings.values()]
        yield [name, *cells, *(f"{x:.2f}" for x in ratios), f"{reached:.0%}"], *ratios


def read_rate():
    """Bytes a second that a sum over a large array reads, with all threads."""
    x = torch.ones(2**27)
    return 4 * 2**27 / undisturbed({"read": x.sum}, repeats=7, budget_s=20).timings["read"].median_s


def window():
    """A window of 512 over 16k tokens, against FlexAttention compiled and SDPA with the mask written out."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n, n_heads, d, w = 16384, 2, 64, 512
    q, k, v = arrays(*[(1, n_heads, n, d)] * 3)
    qt, kt, vt = tensors(q, k, v)
    block_mask = create_block_mask(lambda b, h, i, j: (j <= i) & (j > i - w), None, None, n, n, device="cpu")
    compiled, dense = torch.compile(flex_attention), torch.from_numpy(attn_ref.sliding_window_mask(n, n, w))
    rivals = {
        "ours": ours(q, k, v, window=w),
        "FlexAttention, compiled": lambda: compiled(qt, kt, vt, block_mask=block_mask),
        "SDPA, dense mask": lambda: SDPA(qt, kt, vt, attn_mask=dense),
    }
    found = undisturbed(rivals, repeats=5, budget_s=120)
    for name in rivals:
        ratio = found.ratio(name, "ours")
        yield [name, f"{1000 * found.timings[name].median_s:.1f}", f"{ratio:.1f} ×"], ratio


SETUP = """
import numpy as np, torch, attn_ref
n, h = {n}, {h}
q, k, v = (np.random.default_rng(i).normal(size=(1, h, n, 64)).astype("f") for i in range(3))
qt, kt, vt = map(torch.from_numpy, (q, k, v))
s = np.s_[:, :, :64]
attn_ref.attention(q[s], k[s], v[s], backend="numba", causal=True)
torch.nn.functional.scaled_dot_product_attention(qt[s], kt[s], vt[s])
"""
CALLS = {
    "ours, causal": "attn_ref.attention(q, k, v, backend='numba', causal=True)",
    "ours, window 512": "attn_ref.attention(q, k, v, backend='numba', window=512)",
    "SDPA, causal": "torch.nn.functional.scaled_dot_product_attention(qt, kt, vt, is_causal=True)",
}


def memory():
    """Extra memory of a call at 32k tokens, its output included, in a fresh interpreter."""
    n, h = 32768, 2
    out = n * h * 64 * 4
    for name, call in CALLS.items():
        extra = peak_memory(call, SETUP.format(n=n, h=h)) - out
        yield [name, f"{out / 2**20:.1f}", f"{extra / 2**20:.2f}"], extra / 2**20
    matrix = 4 * h * n * n / 2**20
    yield ["the matrix of scores, were it written (computed)", f"{out / 2**20:.1f}", f"{matrix:.0f}"], matrix


FIRST = """
import time, numpy as np, attn_ref
x = np.zeros((1, 1, 64, 64), "f")
start = time.perf_counter()
attn_ref.attention(x, x, x, backend="numba", causal=True)
print(time.perf_counter() - start)
"""


def start():
    """The first call in a fresh interpreter, importing numba included: compiling, and loading what was compiled."""
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "cached"):
            seconds = [
                float(
                    subprocess.check_output([sys.executable, "-c", FIRST], env={**os.environ, "NUMBA_CACHE_DIR": cache})
                )
                for _ in range(1 if name == "cold" else 5)
            ]
            yield [f"first call, {name}", f"{statistics.median(seconds):.2f}"], statistics.median(seconds)
    clean = {"import attn_ref": "import numpy; import time; s = time.perf_counter(); import attn_ref"}
    for name, code in clean.items():
        code += "; print(time.perf_counter() - s)"
        seconds = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
        yield [name + ", over NumPy's", f"{statistics.median(seconds):.3f}"], statistics.median(seconds)


def agree(functions):
    """A race counts only among functions that give the same."""
    results = [function() for function in functions.values()]
    results = [[np.asarray(one) for one in (x if isinstance(x, tuple) else (x,))] for x in results]
    for name, theirs in zip(functions, results, strict=True):
        for ours, other in zip(results[0], theirs, strict=True):
            np.testing.assert_allclose(
                other.reshape(ours.shape), ours, atol=1e-4 * max(1, np.abs(ours).max()), err_msg=name
            )


def undisturbed(functions, same=True, **options):
    """`measure`, once more if the machine was so busy that nothing could be kept."""
    if same:
        agree(functions)
    found = measure(functions, **options)
    if any(not one.kept_s for one in found.timings.values()):
        found = measure(functions, **options)
    return found


def pair_cells(found):
    times = [f"{1000 * one.median_s:.2f}" for one in found.timings.values()]
    return [*times, f"{found.ratio('ours', 'SDPA'):.2f}"]


def picture():
    """Time and extra memory against length, causal, 2 heads of 64: the README's picture."""
    lengths = [512, 1024, 2048, 4096, 8192, 16384, 32768]
    names = {
        "ours (numba)": ("attn_ref.attention(q, k, v, backend='numba', causal=True)", 32768),
        "torch SDPA": ("torch.nn.functional.scaled_dot_product_attention(qt, kt, vt, is_causal=True)", 32768),
        "plain NumPy": ("attn_ref.attention(q, k, v, backend='numpy', causal=True)", 8192),
        "ours, window 512": ("attn_ref.attention(q, k, v, backend='numba', window=512)", 32768),
    }
    series = {name: ([], []) for name in names}
    for n in lengths:
        space = {}
        exec(SETUP.format(n=n, h=2), space)
        here = {name: call for name, (call, longest) in names.items() if n <= longest}
        found = undisturbed(
            {name: lambda c=call, s=space: eval(c, s) for name, call in here.items()},
            same=False,
            repeats=3,
            budget_s=40,
        )
        for name in names:
            series[name][0].append(1000 * found.timings[name].median_s if name in here else np.nan)
            extra = peak_memory(here[name], SETUP.format(n=n, h=2)) - n * 2 * 64 * 4 if name in here else np.nan
            series[name][1].append(max(extra / 2**20, 0.05) if name in here else np.nan)
    title = f"Causal attention on {os.cpu_count()} CPU cores, float32, 2 heads of 64"
    plots.time_and_memory(lengths, series, title=title).save(ROOT / "docs/images/benchmark.svg")


PARTS = {
    "forward": (forward, ["", "ours (ms)", "SDPA (ms)", "ratio", "of GEMM rate"]),
    "backward": (backward, ["", "ours (ms)", "SDPA (ms)", "ratio"]),
    "decode": (
        decode,
        ["", "ours (ms)", "enable_gqa (ms)", "grouped (ms)", "of enable_gqa", "of grouped", "of read bandwidth"],
    ),
    "window": (window, ["", "ms", "times ours"]),
    "memory": (memory, ["", "output (MiB)", "beyond it (MiB)"]),
    "start": (start, ["", "seconds"]),
}


def verdict(name, found):
    """The claims, each beside what was measured."""
    numbers = [list(x) for x in zip(*(row[1:] for row in found), strict=True)]
    if name in ("forward", "backward"):
        said = f"Median ratio {statistics.median(numbers[0]):.2f}, largest {max(numbers[0]):.2f}."
        if name == "forward":
            said += f" Of the GEMM rate: median {statistics.median(numbers[1]):.0%}, least {min(numbers[1]):.0%}."
        return said
    if name == "decode":
        medians = (statistics.median(x) for x in numbers)
        return "Median {:.2f} of `enable_gqa`'s time, {:.2f} of grouped SDPA's.".format(*medians)
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "picture"], help="run these parts and print them")
    only = parser.parse_args().only
    warnings.filterwarnings("ignore", module="torch")
    text = [f"Measured {datetime.date.today()} by `python benchmarks/kernels.py`. {machine()}", ""]
    for name, (part, head) in PARTS.items():
        if only and name not in only:
            continue
        started, found = time.monotonic(), []
        for row in part():
            found.append(row)
            print(" | ".join(row[0]), flush=True)
        table = [head, ["---", *["---:"] * (len(head) - 1)], *(row[0] for row in found)]
        text += [f"## {part.__doc__.split('.')[0]}", "", *(f"| {' | '.join(row)} |" for row in table), ""]
        text += [verdict(name, found), ""]
        print(f"{verdict(name, found)} [{time.monotonic() - started:.0f} s]\n", flush=True)
    if not only or "picture" in only:
        picture()
    if not only:
        (ROOT / "benchmarks/kernels.md").write_text(
            "\n".join(["# The numba kernels, measured", "", *text]), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
