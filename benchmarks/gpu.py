"""How fast the Triton kernels are on this GPU beside FlashAttention-2 and cuDNN: `python benchmarks/gpu.py`.

First the tests of the kernels run on the GPU, then results are compared with float32, then speeds are taken: functions
take turns, each sample is some 30 ms by CUDA events, and medians are kept. Writes benchmarks/<device>.md, for example
h200.md. Under ten minutes, most of it Triton's compiler; `--only decode` runs one part, `--skip-tests` all but the
tests. Without a GPU it says so and ends well.
"""

import argparse
import datetime
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a machine lent for an hour need not install the package
TESTS_S = 280
LENGTHS, HEAD_SIZES, TOKENS, WIDTH = (
    (4096, 8192, 16384),
    (64, 128),
    16384,
    2048,
)  # batch · n and heads · d, as in FA2's paper


def why_not():
    """The reason why nothing can be measured here; None if something can."""
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set, and an interpreter's speed says nothing about a GPU"
    import torch

    return None if torch.cuda.is_available() else "this machine has no GPU that torch can use"


def run_tests():
    """tests/test_triton.py on the GPU. -> its last line"""
    command = [sys.executable, "-m", "pytest", "tests/test_triton.py", "-q", "--noconftest", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(8, os.cpu_count()))]  # the compiler is what takes the time
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S)
    except subprocess.TimeoutExpired:
        return f"**not finished after {TESTS_S} s**"
    failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    last = (result.stdout.strip() or result.stderr.strip() or "pytest printed nothing").splitlines()[-1]
    if result.returncode:
        last = f"**{last}**"
    return "; ".join([last, *failed[:20]])


def milliseconds(functions, rounds=9, sample_ms=30):
    """{name: function} -> {name: median milliseconds a call}; NaN for a function that this GPU's torch refuses."""
    import torch

    def sample(function, calls):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls

    calls = {}
    for name, function in functions.items():
        try:
            for _ in range(3):  # compiles, and tunes
                function()
            calls[name] = max(1, round(sample_ms / sample(function, 3)))
        except RuntimeError as error:
            print(f"  {name} cannot do this: {str(error).splitlines()[0]}", flush=True)
    samples = {name: [sample(functions[name], calls[name]) for _ in range(2)] for name in calls}
    for _ in range(rounds):
        for name in calls:
            samples[name].append(sample(functions[name], calls[name]))
    return {name: statistics.median(samples[name][2:]) if name in calls else float("nan") for name in functions}


def graphed(function):
    """The same work as a CUDA graph, which costs no time in Python: a step of decoding is shorter than its launch."""
    import torch

    for _ in range(3):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def tensors(*shapes):
    import torch

    return [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]


def sdpa(backend, *arrays, **options):
    """torch's attention by the named kernel alone."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def call():
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return torch.nn.functional.scaled_dot_product_attention(*arrays, **options)

    return call


def shapes():
    for n in LENGTHS:
        for d in HEAD_SIZES:
            for causal in (False, True):
                yield n, d, causal, [(TOKENS // n, WIDTH // d, n, d)] * 3


def flops(n, d, causal):
    """Of the two products of the forward pass; the backward pass has five."""
    return 4 * TOKENS * n * WIDTH * (0.5 if causal else 1)


def check():
    """Largest errors of the kernels and of torch's FlashAttention, both in bfloat16, against float32 math."""
    import torch

    import attn_ref

    yield "| shape | | ours | FlashAttention-2 |", "| --- | --- | ---: | ---: |"
    for d in HEAD_SIZES:
        for causal in (False, True):
            torch.manual_seed(d)
            arrays = [x.requires_grad_() for x in tensors(*[(2, 4, 1537, d)] * 3)]
            grad = torch.randn(2, 4, 1537, d, device="cuda", dtype=torch.bfloat16)
            results = {
                "ours": lambda a=arrays, c=causal: attn_ref.attention(*a, causal=c, backend="triton"),
                "FlashAttention-2": sdpa("FLASH_ATTENTION", *arrays, is_causal=causal),
            }
            exact = [x.detach().float().requires_grad_() for x in arrays]
            truth = sdpa("MATH", *exact, is_causal=causal)()
            truth = [truth, *torch.autograd.grad(truth, exact, grad.float())]
            errors = {}
            for name, function in results.items():
                out = function()
                found = [out, *torch.autograd.grad(out, arrays, grad)]
                errors[name] = [(x.float() - y).abs().max().item() for x, y in zip(found, truth, strict=True)]
            for i, what in enumerate(("out", "dq", "dk", "dv")):
                ours, theirs = (errors[name][i] for name in results)
                wrong = "" if ours <= 2 * theirs + 1e-6 else " **more than twice**"
                yield (f"| D {d}, {'causal' if causal else 'full'} | {what} | {ours:.1e}{wrong} | {theirs:.1e} |",)


def race(backward):
    """TFLOP/s of the three contestants over all shapes, and the worst ratios. Ours is called without its checks."""
    import torch

    from attn_ref import triton_backend
    from attn_ref.problem import make_problem

    yield "| N | D | | ours | FlashAttention-2 | cuDNN | of FA2 | of cuDNN |", "| ---: | ---: | --- |" + " ---: |" * 5
    worst = [float("inf")] * 2
    for n, d, causal, sizes in shapes():
        arrays, grad = tensors(*sizes), tensors(sizes[0])[0]
        problem = make_problem(*arrays, causal=causal)
        functions = {"ours": lambda p=problem: triton_backend.forward(p)}
        rivals = {name: sdpa(name, *arrays, is_causal=causal) for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION")}
        if backward:
            saved = triton_backend.forward(problem)
            functions = {"ours": lambda p=problem, s=saved, g=grad: triton_backend.backward(p, *s, g)}
            arrays = [x.requires_grad_() for x in arrays]
            rivals = {name: back_of(sdpa(name, *arrays, is_causal=causal), arrays, grad) for name in rivals}
        with torch.set_grad_enabled(backward):
            taken = milliseconds(functions | rivals)
        rate = {name: flops(n, d, causal) * (2.5 if backward else 1) / ms / 1e9 for name, ms in taken.items()}
        ratios = [rate["ours"] / rate[name] for name in rivals]
        worst = [min(a, b) if b == b else a for a, b in zip(worst, ratios, strict=True)]
        cells = [f"{rate[name]:.0f}" for name in taken] + [f"{ratio:.2f}" for ratio in ratios]
        yield (f"| {n} | {d} | {'causal' if causal else 'full'} | " + " | ".join(cells).replace("nan", "–") + " |",)
    yield "", f"Worst ratio: {worst[0]:.2f} of FlashAttention-2, {worst[1]:.2f} of cuDNN (TFLOP/s, bfloat16)."


def back_of(forward, arrays, grad):
    """The backward pass of a function alone. A function that cannot run is left to fail in its turn."""
    import torch

    try:
        out = forward()
    except RuntimeError:
        return forward
    return lambda: torch.autograd.grad(out, arrays, grad, retain_graph=True)


def decode():
    """Bandwidth of one decoded token against that of a plain copy on this GPU."""
    import torch

    from attn_ref import triton_backend
    from attn_ref.problem import make_problem

    copied = torch.empty(2**31, device="cuda", dtype=torch.uint8), torch.empty(2**31, device="cuda", dtype=torch.uint8)
    taken = milliseconds({"copy": lambda: copied[0].copy_(copied[1])})
    copy_gb_s = 2 * 2**31 / taken["copy"] / 1e6
    yield (
        f"A copy reads and writes {copy_gb_s:.0f} GB/s. One query, 32 heads over 8, D 128; launches by CUDA graph.",
        "",
    )
    yield "| batch | keys | ours (GB/s) | of the copy | FlashAttention-2 (GB/s) |", "| ---: |" + " ---: |" * 4
    for batch, n_k in ((1, 131_072), (8, 32_768), (32, 8192), (128, 4096)):
        q, k, v = tensors((batch, 32, 1, 128), (batch, 8, n_k, 128), (batch, 8, n_k, 128))
        problem = make_problem(q, k, v)
        with torch.no_grad():
            functions = {"ours": graphed(lambda p=problem: triton_backend.forward(p))}
            try:
                functions["FA2"] = graphed(sdpa("FLASH_ATTENTION", q, k, v, enable_gqa=True))
            except RuntimeError as error:
                print(f"  FlashAttention-2 cannot do this: {str(error).splitlines()[0]}", flush=True)
            taken = milliseconds(functions)
        rate = {name: (k.nbytes + v.nbytes) / ms / 1e6 for name, ms in taken.items()}
        theirs = f"{rate['FA2']:.0f}" if "FA2" in rate else "–"
        yield (f"| {batch} | {n_k} | {rate['ours']:.0f} | {rate['ours'] / copy_gb_s:.0%} | {theirs} |",)


def memory():
    """Memory beyond the inputs at the peak of one call."""
    import torch

    import attn_ref

    n = 32_768
    q, k, v = (x.requires_grad_() for x in tensors(*[(1, 16, n, 64)] * 3))

    def peak(function):
        function()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def forward():
        with torch.no_grad():
            return attn_ref.attention(q, k, v, causal=True, backend="triton")

    def both():
        return torch.autograd.grad(attn_ref.attention(q, k, v, causal=True, backend="triton").sum(), (q, k, v))

    yield f"N {n}, 16 heads, D 64, bfloat16: one tensor is {q.nbytes / 2**20:.0f} MiB, the scores would be 32 GiB.", ""
    yield f"Forward takes {peak(forward):.0f} MiB at its peak, forward and backward {peak(both):.0f} MiB.", ""


PARTS = {
    "check": ("Errors", check),
    "forward": ("Forward, TFLOP/s", lambda: race(backward=False)),
    "backward": ("Backward, TFLOP/s", lambda: race(backward=True)),
    "decode": ("Decoding", decode),
    "memory": ("Memory", memory),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part, which is printed and not written")
    parser.add_argument("--skip-tests", action="store_true", help="do not run tests/test_triton.py first")
    parser.add_argument("--out", type=Path, help="where to write, in place of benchmarks/<device>.md")
    chosen = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"Nothing measured: {reason}.")
        return
    import torch
    import triton

    device = torch.cuda.get_device_name()
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia", "")).strip("-")
    path = chosen.out or ROOT / "benchmarks" / f"{slug}.md"
    lines = [
        f"# The Triton kernels on one {device}",
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}, Python {platform.python_version()}; `python benchmarks/gpu.py`.",
    ]
    if not chosen.skip_tests and not chosen.only:
        lines += ["", f"tests/test_triton.py on this GPU: {run_tests()}."]
    print("\n".join(lines), flush=True)
    for name, (title, part) in PARTS.items():
        if chosen.only in (None, name):
            print(f"\n## {title}\n", flush=True)
            lines += ["", f"## {title}", ""]
            for found in part():
                print("\n".join(found) if isinstance(found, tuple) else found, flush=True)
                lines += found if isinstance(found, tuple) else [found]
            if not chosen.only:
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")  # what was measured outlives a crash
    if any("**" in line for line in lines):
        sys.exit("Something above is marked in bold: a test failed, or an error is too large.")


if __name__ == "__main__":
    main()
