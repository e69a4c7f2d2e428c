"""What this machine has and what of the course it can run, each finding with a remedy."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from autograder import record

PACKAGES = (
    ("numpy", "every chapter", "make lab"),
    ("matplotlib", "the figures", "make lab"),
    ("jupyterlab", "the notebooks", "make lab"),
    ("nbgrader", "teaching a class", "make lab"),
    ("torch", "chapters 06 to 09 and 11 to 13", "make lab EXTRAS=torch (README: how to avoid CUDA)"),
    ("numba", "chapter 11", "make lab EXTRAS=numba"),
    ("triton", "chapter 12", "make lab EXTRAS=triton, on Linux; elsewhere the chapter says what still runs"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: is it well, what is there, and what to do where it is not."""

    well: bool
    what: str
    remedy: str = ""


def examine():
    """All findings, from the machine to the packages."""
    return [_python(), *_machine(), _gpu(), *map(_package, PACKAGES), _record(), _disk()]


def _python():
    version = platform.python_version()
    return Finding(sys.version_info >= (3, 11), f"Python {version}", "install Python 3.11 or newer, then make lab")


def _machine():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(True, f"{platform.system()} {platform.machine()}, {cores} cores")
    try:
        import psutil

        free = psutil.virtual_memory().available / 2**30
        yield Finding(free > 2, f"{free:.1f} GiB of memory free", "close other programs: chapter 08 wants 4 GiB")
    except ImportError:
        yield Finding(True, "memory not known (psutil is not installed)")


def _gpu():
    if shutil.which("nvidia-smi"):
        return Finding(True, "an NVIDIA GPU's tools are here: chapter 12 can run on it")
    return Finding(True, "no GPU found; every chapter runs without one")


def _package(row):
    name, used_for, remedy = row
    if importlib.util.find_spec(name) is None:
        return Finding(False, f"{name} is not installed; it is for {used_for}", remedy)
    return Finding(True, f"{name} {importlib.metadata.version(name)}, for {used_for}")


def _record():
    folder = record.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding(
            False, f"progress cannot be saved in {folder} ({error.strerror})", "set ATTN_HOME to a folder of yours"
        )
    return Finding(True, f"progress is kept in {folder}")


def _disk():
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    return Finding(free > 1, f"{free:.0f} GiB of disk free", "free some space; notebooks that cannot be saved are lost")
