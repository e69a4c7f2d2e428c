"""Where Triton does not install, kernels can still be written: the stand-ins of `attn_ref.triton_here`."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from autograder.answers import fill, source_of
from autograder.build import ROOT, release_bytes
from autograder.exercise import load_chapter

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


@pytest.mark.slow
def test_without_triton_chapter_12_runs_to_its_end_and_no_exercise_is_failed(tmp_path, monkeypatch):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('there is none')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    release = nbformat.reads(release_bytes("12_triton_kernel").decode(), as_version=4)
    exercises = load_chapter(12).exercises.values()
    given = {one.id: source_of(one.variants[0], one.name) for one in exercises}
    notebook = fill(release, given)
    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()  # raises at an error
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    for exercise in exercises:
        text = str(cells[f"check-{exercise.id.replace('.', '-')}"].outputs)
        assert "not available here: triton is not installed" in text and "Nothing is lost" in text
    outputs = [output for cell in cells.values() for output in cell.outputs]
    assert not [one for one in outputs if one.get("name") == "stderr"]
    errors = {one.ename for one in outputs if one.output_type == "error"}
    assert errors == {"NotHere"}
    assert sum("image/png" in str(cell.outputs) for cell in cells.values()) >= 2  # what needs no kernel is drawn
