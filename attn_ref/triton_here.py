"""Triton, or stand-ins with which kernels can be written on a machine that has none. Used in course/12_triton_kernel.

    from attn_ref.triton_here import DEVICE, tl, triton

    DEVICE   where tensors must lie for a kernel: "cuda", or "cpu", where Triton's interpreter runs it
    MISSING  None, or why Triton is not here: launching a kernel then raises NotHere, which a notebook shows as one line

Without a GPU, importing this file asks for the interpreter (TRITON_INTERPRET=1) for all kernels defined from then on.
"""

import os
import sys

import torch


class NotHere(RuntimeError):
    """A kernel was launched where Triton is not installed. Nothing is wrong with the kernel."""

    def _render_traceback_(self):  # asked for by IPython: no fault of the learner's, so no trace of one
        return [f"Not available here: {self}"]


class _Language:
    """Stands in for `triton.language`: every name is there, and none does anything."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments, **options):
        return self


class _Kernel:
    """Stands in for a kernel: it knows its function and cannot be launched."""

    def __init__(self, function):
        self.fn, self.__name__, self.__doc__ = function, function.__name__, function.__doc__

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, **options):
        raise NotHere(MISSING)


class _Triton:
    """Stands in for `triton`, as far as the course uses it."""

    language = _Language()
    Config = staticmethod(dict)

    @staticmethod
    def jit(function=None, **options):
        return _Kernel(function) if function else _Kernel

    @staticmethod
    def autotune(*arguments, **options):
        return lambda kernel: kernel

    heuristics = autotune

    @staticmethod
    def cdiv(x, y):
        return -(-x // y)

    @staticmethod
    def next_power_of_2(n):
        return 1 << (n - 1).bit_length()


if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read whenever a kernel is defined
try:
    import triton
    import triton.language as tl

    MISSING = None
    DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
except ImportError:
    MISSING = (
        "Triton is not installed; on Linux, pip install -c pins.txt triton"
        if sys.platform == "linux"
        else "Triton installs on Linux only. Write the kernel all the same: it can be checked on any Linux machine"
    )
    triton, tl, DEVICE = _Triton(), _Triton.language, "cpu"
