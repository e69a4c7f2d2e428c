"""What a measurement was made on: a number without its machine says nothing."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

PACKAGES = ("numpy", "scipy", "numba", "torch", "triton")


def machine():
    """What a measurement was made on: processor, cores, system and versions, one a line.  -> str"""
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"processor: {_processor()}, {cores} {'core' if cores == 1 else 'cores'} to use",
        f"system: {platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"versions: {', '.join(versions)}",
    ]
    torch = sys.modules.get("torch")  # asked only if loaded: importing it takes seconds
    if torch is not None and torch.cuda.is_available():
        lines.append(f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    return "\n".join(lines)


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
