"""How the course starts JupyterLab: on this machine alone, at a chapter, and quiet about news from elsewhere."""

import os
import sys
from pathlib import Path

SETTINGS = Path(__file__).parent / "jupyter"  # JupyterLab reads labconfig/ in it


def lab_command(notebook, root, port=8888, browser=False):
    """The command that serves `root` and opens `notebook`, a path below it."""
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}"]
    command += [
        f"--ServerApp.root_dir={root}",
        # An address instead of a file to open, so that what is printed leads to the notebook too.
        f"--LabApp.default_url=/lab/tree/{notebook.relative_to(root).as_posix()}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container's only user; the server listens on this machine alone
    return command


def lab_environment():
    """The environment with our settings in front of what the person has."""
    paths = [str(SETTINGS), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}


def has_screen():
    """Is there a screen to open a browser on?"""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or sys.platform in ("darwin", "win32")
