"""What the compiler makes of the Triton kernels for GPUs that this machine does not have.

A process that interprets cannot compile, so the compiler runs in one of its own.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the Triton backend takes torch tensors")
pytest.importorskip("triton", reason="Triton is not installed; it needs Linux")

INSTRUCTION = {"sm_80": {"mma.sync"}, "sm_90": {"wgmma"}, "sm_100": {"tcgen05", "mma.sync"}}


def run(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "error", "-m", "attn_ref.triton_aot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **environment})


def compiled(*arguments):
    result = run("--json", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_fit(rows):
    for row in rows:
        assert row["stack_bytes"] == 0, f"spills: {row}"
        assert row["shared_bytes"] <= row["shared_limit_bytes"], f"does not fit on the chip: {row}"
        # A tile of 16 decoded queries is smaller than Hopper's own instruction, which takes 64 rows.
        expected = {"mma.sync"} if row["kernel"] == "decode" else INSTRUCTION[row["target"]]
        assert any(row[name] > 0 for name in expected), f"no matrix instruction: {row}"


def test_the_forward_kernel_fits_hopper_and_uses_its_matrix_instruction():
    assert_fit(compiled("--kernels", "forward", "--targets", "90", "--sizes", "128", "--dtypes", "bf16"))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["80", "90", "100"])
@pytest.mark.parametrize("kernel", ["forward", "dk_dv", "dq", "decode"])
def test_kernels_do_not_spill_fit_the_chip_and_use_matrix_instructions(kernel, target):
    rows = compiled("--kernels", kernel, "--targets", target)
    assert {(row["d"], row["dtype"]) for row in rows} == {(d, t) for d in (64, 128) for t in ("fp16", "bf16")}
    assert_fit(rows)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["forward", "dk_dv", "dq", "decode"])
def test_every_option_compiles(kernel):
    code = f"""
from attn_ref.triton_aot import report
options = dict(left="i32", softcap="fp32", allowed="*u8", bias="*fp32", sinks="*bf16", alibi="*fp32")
for each in [{{n: t}} for n, t in options.items()] + [options, dict(right=None)]:
    row = report({kernel!r}, 90, 80, "bf16", **each)
    assert row["shared_bytes"] <= row["shared_limit_bytes"], (each, row)
    assert row["wgmma"] + row["mma.sync"] > 0, (each, row)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr


WRONG = {
    "an interpreting process": ([], {"TRITON_INTERPRET": "1"}, "interprets in this process and cannot compile"),
    "an unknown kernel": (["--kernels", "softmax"], {}, "invalid choice: 'softmax'"),
    "an unknown target": (["--targets", "75"], {}, "invalid choice: 75"),
    "a target that is no number": (["--targets", "hopper"], {}, "invalid int value: 'hopper'"),
    "a dtype that has no matrix instruction": (["--dtypes", "fp32"], {}, "invalid choice: 'fp32'"),
    "a head that is too large": (["--sizes", "300"], {}, "head sizes must lie in 1..256, got 300"),
    "an empty head": (["--sizes", "0"], {}, "head sizes must lie in 1..256, got 0"),
    "an option that does not exist": (["--fast"], {}, "unrecognized arguments: --fast"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_command_line_says_what_is_wrong(kind):
    arguments, environment, message = WRONG[kind]
    result = run(*arguments, **environment)
    assert result.returncode == 2 and message in result.stderr, result.stderr
