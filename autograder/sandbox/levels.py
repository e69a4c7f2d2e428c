"""Which sandboxes there are, and which of them this machine offers.

    namespaces   a machine of its own: files, processes, network (`namespaces.py`)
    landlock     the same machine, with the rights to files and sockets given up (`landlock.py`)
    none         no protection, only the limits; never chosen unless someone says so

Both add a filter over system calls (`seccomp.py`), the limits, and the loss of every privilege.
"""

import contextlib
import os
import select
import signal
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

from autograder.sandbox.limits import Limits

LEVELS = ("namespaces", "landlock")  # strongest first
_PROBE_SECONDS = 20


class Refused(Exception):
    """There is no sandbox, or it could not be entered. The text says what is missing and what to do."""


def offered():
    """The levels this machine offers, strongest first, each found by entering it in a throw-away child."""
    return [level for level in LEVELS if _obstacle(level) is None]


def strongest(allow_none=False):
    """The strongest level offered; with `allow_none` "none" where there is none. Raises Refused, which says why."""
    found = offered()
    if found:
        return found[0]
    if allow_none:
        return "none"
    raise Refused(why_not())


def why_not():
    """What keeps this machine from running code it does not trust, and what to do about it."""
    remedy = (
        "Grade in the container image (docs/container/Dockerfile says how to start it), or, if you trust every "
        "submission as your own code, say --no-sandbox."
    )
    if sys.platform != "linux":
        return f"Submissions run in a sandbox, which needs Linux; this is {sys.platform}. {remedy}"
    found = "\n".join(f"  {level}: {_obstacle(level)}" for level in LEVELS)
    return f"This machine offers no sandbox for submissions:\n{found}\n{_settings()}{remedy}"


@cache
def _obstacle(level):
    """None, or what went wrong when a child tried to enter."""
    if sys.platform != "linux":
        return "needs Linux"
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return "this Linux does not list the children of a process (its CONFIG_PROC_CHILDREN), which keeps watch"
    from autograder.sandbox import confine

    with tempfile.TemporaryDirectory(prefix="attn-probe-") as folder:
        os.chmod(folder, 0o711)
        place = confine.Place(level, folder, confine.spare_uid(), Limits())
        confine.make_folders(place)
        return _in_a_child(lambda: _try(confine, place))


def _try(confine, place):
    """In a throw-away process: enter, in a child, and see whether Python is still there."""
    confine.prepare(place.level)

    def go_in():
        confine.enter(place)
        os.listdir(os.path.dirname(os.__file__))
        Path(place.tmp, "written").write_text("it may write here")

    return _in_a_child(go_in)


def _in_a_child(work):
    """None if `work` returned nothing in a forked child, or its text, or the text of what it raised."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; the child uses none
        child = os.fork()
    if child == 0:
        try:
            os.close(readable)
            os.write(writable, (work() or "entered").encode())
        except BaseException as error:
            os.write(writable, (str(error) or type(error).__name__).encode())
        finally:
            os._exit(0)
    os.close(writable)
    said = b"it took too long"
    if select.select([readable], [], [], _PROBE_SECONDS)[0]:
        said = os.read(readable, 4096) or b"the system ended the process"
    os.close(readable)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None if said == b"entered" else said.decode(errors="replace")


def _settings():
    """The settings of this system that are known to forbid namespaces, each with its remedy."""
    advice = {
        "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
        "kernel.unprivileged_userns_clone": ("0", "1"),
        "user.max_user_namespaces": ("0", "10000"),
    }
    lines = ""
    for name, (forbids, allows) in advice.items():
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name.replace(".", "/")).read_text().strip() == forbids:
                lines += f"A setting forbids namespaces to users; the administrator can run: sysctl {name}={allows}\n"
    return lines
