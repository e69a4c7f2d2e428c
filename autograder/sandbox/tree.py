"""What a process and its descendants use, read from /proc. Processes that end meanwhile are passed over."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass

_SMALLEST_FILE = 4096  # what a file takes on a disk at least
_MOST_FILES = 20_000  # beyond, counting them would cost more than keeping them


@dataclass
class Use:
    """Bytes of memory, and how many processes and threads."""

    memory: int = 0
    tasks: int = 0


def descendants(pid):
    """The process ids of all descendants of `pid`, parents first."""
    found, waiting = [], [pid]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid):
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def use_of(pids, limit, shared):
    """The Use of these processes together.

    Memory is first estimated from above: a page that a fork shares counts in every process, less the `shared` bytes
    that all of them hold from the warm process. Only where that exceeds `limit` is each page divided by its users,
    which takes longer.
    """
    use = Use()
    for pid in pids:
        with contextlib.suppress(OSError, KeyError):
            status = _fields(f"/proc/{pid}/status")
            anonymous = 1024 * status.get("RssAnon", 0)
            use.memory += max(0, anonymous - shared) + 1024 * status.get("RssShmem", 0)
            use.tasks += status["Threads"]
    if use.memory > limit:
        use.memory = sum(_exact(pid) for pid in pids)
    return use


def held(pid):
    """Bytes of private memory that a process holds, pages shared by a fork included."""
    return 1024 * _fields(f"/proc/{pid}/status").get("RssAnon", 0)


def _exact(pid):
    with contextlib.suppress(OSError, KeyError):
        rollup = _fields(f"/proc/{pid}/smaps_rollup")
        return 1024 * (rollup["Pss_Anon"] + rollup["Pss_Shmem"])
    with contextlib.suppress(OSError, KeyError):
        return held(pid)
    return 0


def _fields(path):
    """{name: number} of the lines that read "Name:  123" or "Name:  123 kB"."""
    found = {}
    with open(path) as file:
        for line in file:
            name, _, value = line.partition(":")
            number = value.split()[0] if value.split() else ""
            if number.isdigit():
                found[name] = int(number)
    return found


def disk_use(folder, limit):
    """Bytes in files below `folder`, at least; stops counting beyond `limit`."""
    total, files, waiting = 0, 0, [folder]
    while waiting and total <= limit:
        try:
            entries = list(os.scandir(waiting.pop()))
        except PermissionError:
            continue
        except OSError:  # a path too long to be opened is no accident
            return limit + 1
        for entry in entries:
            files += 1
            with contextlib.suppress(OSError):
                total += max(_SMALLEST_FILE, entry.stat(follow_symlinks=False).st_blocks * 512)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
        if files > _MOST_FILES:
            return limit + 1
    return total


def end_all(keeper):
    """Kill every descendant of `keeper`, which must be the calling process and adopt orphans, until none is left."""
    while pids := descendants(keeper):
        for sort in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: what is being killed still forks
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, sort)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)
