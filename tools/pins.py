"""Resolve every extra afresh on Linux and write pins.txt: `make pins`.

The version of torch is the one choice made by hand: edit both its lines in pins.txt, then run this.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "pins.txt"
HEADER = """\
# The versions that every install of this project uses, transitive ones included (a pip constraints file).
# Written by `make pins` on Linux with Python 3.11; edit nothing here but the two torch lines.
# torch on Linux is the CPU build, because the package index's own wheel brings gigabytes of CUDA. `make lab` without
# EXTRAS=torch needs none. To use a GPU, set up first and then install the CUDA build of torch over it.
"""
# pip resolves for the machine it runs on, so what other systems need besides is named here.
ELSEWHERE = ["appnope", "colorama", "pywinpty"]
WINDOWS = ["--platform", "win_amd64", "--only-binary", ":all:"]


def main():
    if sys.platform != "linux":
        sys.exit("make pins runs on Linux only: elsewhere pip leaves out triton and the CPU build of torch.")
    torch = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        pip = [f"{folder}/venv/bin/python", "-m", "pip", "--disable-pip-version-check"]
        Path(folder, "torch.txt").write_text("\n".join(torch), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        wanted = [f".[{','.join(extras)}]", "setuptools"]
        install = [*pip, "install", "--upgrade", "-c", f"{folder}/torch.txt"]
        subprocess.run([*install, *wanted], cwd=ROOT, check=True)
        frozen = [*pip, "freeze", "--all", "--exclude", "pip", "--exclude", "attn-course", "--exclude", "torch"]
        pins = subprocess.run(frozen, capture_output=True, text=True, check=True).stdout.split()
        report = [*pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-"]
        report += ["--target", folder, *WINDOWS, *ELSEWHERE]
        found = json.loads(subprocess.run(report, capture_output=True, text=True, check=True).stdout)["install"]
    pins += [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in found]
    PINS.write_text(HEADER + "\n".join(sorted(pins + torch, key=str.casefold)) + "\n", encoding="utf-8")
    print(f"pins.txt: {len(pins) + 1} packages")


if __name__ == "__main__":
    main()
