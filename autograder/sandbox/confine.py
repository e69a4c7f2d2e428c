"""A process gives up its privileges, step by step; the last step forbids what the first ones needed. Linux only."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from autograder.sandbox import landlock, limits, linux, namespaces, seccomp, view


@dataclass(frozen=True)
class Place:
    """Where a sandboxed process lives: `folder` is empty and its own; `uid` is its user."""

    level: str
    folder: str
    uid: int
    limits: limits.Limits

    @property
    def home(self):
        return namespaces.HOME if self.level == "namespaces" else f"{self.folder}/home"

    @property
    def tmp(self):
        return "/tmp" if self.level == "namespaces" else f"{self.folder}/tmp"


def spare_uid():
    """A user that nobody is, for this process's child: the administrator's kernels run as one. Else who we are.

    The next child has the same: of an earlier one no process and no file is left, and the filter over system calls
    refuses what would outlive it otherwise (keys, shared memory with a name, message queues).
    """
    if os.getuid() != 0:
        return os.getuid()
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    mapped = max(int(start) + int(count) for start, _, count in map(str.split, lines))
    uid = 1_900_000_000 + os.getpid()  # beyond the ranges that systems and containers hand out
    return uid if uid < mapped else max(0, min(mapped - 1, 20_000 + os.getpid() % 40_000))


def make_folders(place):
    """Home and tmp of the levels that have them on disk. Called by whoever owns `place.folder`."""
    if place.level == "namespaces":
        return
    for path in (place.folder, place.home, place.tmp):
        os.makedirs(path, mode=0o700, exist_ok=True)
        if place.level != "none" and os.getuid() == 0:
            os.chown(path, place.uid, place.uid)


def prepare(level):
    """In the parent of the process that is to enter, before it is forked. Raises OSError."""
    if level == "namespaces":
        namespaces.prepare()


def can_prepare_again(level):
    """Once its child has ended: may this process have another one enter?"""
    return level != "namespaces" or namespaces.can_prepare_again()


def enter(place, spare_pids=()):
    """Go in, for good: this process and all it starts, which may not signal `spare_pids`. Raises OSError.

    From here on it ends when its parent does.
    """
    if place.level == "none":
        limits.apply(place.limits, None)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    own_uid = place.uid != os.getuid()
    if place.level == "namespaces":
        namespaces.enter(place.folder, place.uid, place.limits.disk)
    kept = set()
    if place.level == "landlock" and own_uid:
        kept = {linux.CAP_DAC_READ_SEARCH} & linux.capabilities()  # Python may be installed in a home; Landlock decides
    limits.apply(place.limits, _tasks_of_others(place, own_uid))
    _drop_privileges(place.uid, own_uid, kept)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
    if place.level == "landlock":
        landlock.restrict([*view.readable(), "/proc"], [place.folder], view.DEVICES)
    if place.level == "namespaces" or own_uid or landlock.protects_signals():
        spare_pids = ()
    else:
        spare_pids = (-1, *spare_pids, *(-pid for pid in spare_pids))  # everyone, each process, each group
    seccomp.restrict(place.level == "namespaces", own_uid, spare_pids)


def _tasks_of_others(place, own_uid):
    """How many tasks the system counts against this user already."""
    if own_uid:
        return 0
    if place.level == "namespaces":  # since Linux 5.14 a user namespace counts for itself
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
        return 0 if release >= (5, 14) else None
    return sum(_threads(pid) for pid in filter(str.isdigit, os.listdir("/proc")))


def _threads(pid):
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():
            return 0
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:  # ended meanwhile
        return 0


def _drop_privileges(uid, own_uid, kept):
    if linux.capabilities():
        for number in range(64):
            if number not in kept and not _dropped(number):
                break
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if own_uid:
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.keep_capabilities(kept)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # a change of user clears it, and with it the right to read /proc/self


def _dropped(number):
    """Take a capability out of what any program run later could get; False beyond the last one."""
    try:
        linux.prctl(linux.PR_CAPBSET_DROP, number)
    except OSError:
        return False
    return True
