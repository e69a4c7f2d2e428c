"""What of the machine a sandboxed kernel may read: Python, its libraries, the system's, and the course's packages.

Not the course itself, nobody's home, no submissions, no settings of Jupyter or nbgrader, which may hold a password.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("attn_ref", "autograder")
# Of a Python or of /usr, only the parts with programs and libraries: `etc` and `share` hold settings of services.
_PARTS = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "include", "pyvenv.cfg")
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr/share", "/sys/devices/system/cpu")
_SETTINGS = ("ld.so.cache", "ld.so.conf", "localtime", "timezone", "fonts", "alternatives", "nsswitch.conf")
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))


def readable():
    """Paths, parents before children, each once; those that do not exist are left out."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, "/usr", "/usr/local"}
    wanted = [Path(prefix, part) for prefix in prefixes for part in _PARTS]
    wanted += map(Path, _SYSTEM)
    wanted += [Path("/etc", name) for name in _SETTINGS]
    wanted += [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    wanted += [Path(find_spec(name).origin).parent for name in PACKAGES]
    wanted = [os.path.abspath(path) for path in wanted]
    found = []
    for path in sorted({*wanted, *map(os.path.realpath, wanted)}):
        if os.path.exists(path) and not any(path.startswith(f"{parent}/") for parent in found):
            found.append(path)
    return found
