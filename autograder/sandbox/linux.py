"""The few calls of Linux that Python has no function for. Each raises OSError with the call's name."""

import ctypes
import os
import platform
import struct

from autograder.sandbox.syscalls import NUMBERS

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 8, 36, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN = 2, 21
_AT_FDCWD, _AT_RECURSIVE, _CAPABILITY_VERSION = -100, 0x8000, 0x20080522
_MOUNT_ATTR = {MS_RDONLY: 1, MS_NOSUID: 2, MS_NODEV: 4, MS_NOEXEC: 8}


def call(name, *arguments):
    """A function of the C library. Bytes and None pass as they are; whole numbers as longs, the width of a register."""
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = getattr(_libc, name)(*passed)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def syscall(name, *arguments):
    """A system call by its name in `syscalls.NUMBERS`."""
    try:
        return call("syscall", NUMBERS[name][machine()], *arguments)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {os.strerror(error.errno)}") from None


def machine():
    """0 for x86_64, 1 for aarch64: the column of `syscalls.NUMBERS`."""
    known = ("x86_64", "aarch64")
    if platform.machine() not in known:
        raise OSError(f"the sandbox knows {' and '.join(known)}; this machine is {platform.machine()}")
    return known.index(platform.machine())


def prctl(option, *values):
    return call("prctl", option, *values, *[0] * (4 - len(values)))


def mount(source, target, kind=None, flags=0, options=None):
    texts = [None if one is None else os.fsencode(one) for one in (source, target, kind, options)]
    try:
        call("mount", texts[0], texts[1], texts[2], flags, texts[3])
    except OSError as error:
        raise OSError(error.errno, f"mount of {source} at {target}: {os.strerror(error.errno)}") from None


def bind(source, target, flags):
    """Show `source` at `target` too, and what is mounted below it, with flags such as MS_RDONLY on all of it."""
    mount(source, target, flags=MS_BIND | MS_REC)
    attributes = struct.pack("QQQQ", sum(_MOUNT_ATTR[one] for one in _MOUNT_ATTR if one & flags), 0, 0, 0)
    syscall("mount_setattr", _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, attributes, len(attributes))


def capabilities():
    """The effective capabilities of this process, as a set of numbers."""
    with open("/proc/self/status") as file:
        bits = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return {number for number in range(64) if bits >> number & 1}


def keep_capabilities(kept):
    """Give up all capabilities but those in the set `kept`, which programs started later have too."""
    low = sum(1 << number for number in kept)
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    syscall("capset", header, struct.pack("IIIIII", low, low, low, 0, 0, 0))
    for number in kept:
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
