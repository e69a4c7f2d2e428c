"""Where Triton does not install, kernels can still be written: the stand-ins of `attn_ref.triton_here`."""

import os
import subprocess
import sys

import pytest

KERNEL = """
import sys
{hide}
from attn_ref.triton_here import DEVICE, MISSING, NotHere, tl, triton

@triton.autotune([triton.Config({{"BLOCK": 8}}, num_warps=1)], key=["n"])
@triton.jit
def double(x, out, n, BLOCK: tl.constexpr, dtype: tl.constexpr = tl.float32):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at, mask=at < n, other=0.0), mask=at < n)
"""


def python(code, hide, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL.format(hide='sys.modules["triton"] = None' if hide else "") + code],
        capture_output=True, text=True, env=kept | environment,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def test_without_triton_a_kernel_can_be_written_and_says_why_it_does_not_run():
    code = """
print(DEVICE, double.__name__, triton.cdiv(7, 3), triton.next_power_of_2(5), MISSING)
try:
    double[(1,)](1, 2, 3)
except NotHere as error:
    print(*error._render_traceback_())
"""
    first, second = python(code, hide=True)
    assert first.startswith("cpu double 3 8 Triton is not installed; on Linux")
    assert second == "Not available here: Triton is not installed; on Linux, pip install -c pins.txt triton"


def test_with_triton_nothing_stands_in_and_a_machine_without_gpu_interprets():
    pytest.importorskip("triton")
    code = """
import torch, triton as real
assert triton is real and MISSING is None and DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")
x, out = torch.arange(5.0, device=DEVICE), torch.zeros(5, device=DEVICE)
double[lambda meta: (triton.cdiv(5, meta["BLOCK"]),)](x, out, 5)
print(out.tolist())
"""
    assert python(code, hide=False) == ["[0.0, 2.0, 4.0, 6.0, 8.0]"]
