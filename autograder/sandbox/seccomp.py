"""A filter over the system calls: what a notebook has no use for is answered with an error. It cannot be taken off.

The filter is a small program that Linux runs before each call (classic BPF). Calls that are not named here go through;
calls later than `syscalls.NEWEST` do not exist, as on an older Linux, which every library copes with.
"""

import ctypes
import errno
import struct

from autograder.sandbox import linux, syscalls

_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in what the filter is shown
_ARCHITECTURES = (0xC000003E, 0xC00000B7)  # x86_64, aarch64; both little-endian: a low word comes first
_FILTER, _AF_UNIX, _TIOCSTI, _TIOCLINUX = 2, 1, 0x5412, 0x541C
# The call returns success and does nothing: `shutil.copy` asks for a mode that matters to nobody, and libzmq for the
# priority that its thread has already.
_PRETEND = 0
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag


def restrict(own_view, own_user, spare_pids=()):
    """Filter this process and its children from now on. Needs PR_SET_NO_NEW_PRIVS.

    `own_view`: whether namespaces hide other processes and files. `own_user`: whether no other process or file belongs
    to its user. Without either, more calls are refused. `spare_pids`: processes that must not be signalled, where
    nothing else protects them.
    """
    steps = _program(own_view, own_user, spare_pids)
    code = ctypes.create_string_buffer(b"".join(steps))
    program = _Program(len(steps), ctypes.addressof(code))
    linux.prctl(linux.PR_SET_SECCOMP, _FILTER, ctypes.addressof(program))


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def _program(own_view, own_user, spare_pids):
    refused = {
        errno.EPERM: [syscalls.INSPECT_OTHERS, syscalls.CHANGE_THE_VIEW, syscalls.ADMINISTER],
        errno.ENOSYS: [syscalls.RARELY_NEEDED, syscalls.HIDDEN_MEMORY, ["clone3"]],
    }
    if not own_view and not own_user:
        refused[errno.EPERM] += [syscalls.CHANGE_FILES_OF_OTHERS]
        refused[_PRETEND] = [syscalls.CHANGE_MODES_OF_OTHERS, syscalls.SCHEDULE_OTHERS]
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, _ARCHITECTURES[linux.machine()], 1, 0),
        _refuse(errno.ENOSYS),  # a 32-bit call
        _step(_LOAD, _NUMBER),
        _step(_JUMP_GREATER, syscalls.NEWEST, 0, 1),  # the x32 calls of x86_64 are among the higher numbers too
        _refuse(errno.ENOSYS),
    ]
    for number, groups in refused.items():
        for name in (name for group in groups for name in group):
            program += _refuse_call(name, number)
    for name, argument, jump, value, when, number in _by_argument(own_view, spare_pids):
        program += _refuse_call_where(name, argument, jump, value, when, number)
    return [*program, _step(_RETURN, _ALLOW)]


def _by_argument(own_view, spare_pids):
    """(call, which argument, comparison, value, refuse when it holds?, error). Only an argument's low word is compared:
    all these are 32 bits wide to Linux."""
    yield "clone", 0, _JUMP_ANY_BIT, _NEW_NAMESPACES, True, errno.EPERM
    yield (
        "prctl",
        0,
        _JUMP_EQUAL,
        linux.PR_SET_PDEATHSIG,
        True,
        _PRETEND,
    )  # it dies with its keeper, whatever it asks for
    yield "ioctl", 1, _JUMP_EQUAL, _TIOCSTI, True, errno.EPERM  # types into the terminal of whoever grades
    yield "ioctl", 1, _JUMP_EQUAL, _TIOCLINUX, True, errno.EPERM
    yield "prlimit64", 0, _JUMP_EQUAL, 0, False, errno.EPERM  # the limits of other processes
    yield "personality", 0, _JUMP_GREATER, 0, True, errno.EPERM
    # libzmq ends the process on EACCES and EPERM. Without a view of its own, even a socket by path leads outside.
    yield "socket", 0, _JUMP_EQUAL, _AF_UNIX if own_view else -1, False, errno.EOPNOTSUPP
    yield "socketpair", 0, _JUMP_EQUAL, _AF_UNIX, False, errno.EOPNOTSUPP
    for name in syscalls.SIGNAL:
        for pid in spare_pids:
            yield name, 0, _JUMP_EQUAL, pid, True, errno.EPERM


def _refuse_call(name, number):
    call = syscalls.NUMBERS[name][linux.machine()]
    return [] if call is None else [_step(_JUMP_EQUAL, call, 0, 1), _refuse(number)]


def _refuse_call_where(name, argument, jump, value, when, number):
    return [
        _step(_LOAD, _NUMBER),
        _step(_JUMP_EQUAL, syscalls.NUMBERS[name][linux.machine()], 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT + 8 * argument),
        _step(jump, value, 0, 1) if when else _step(jump, value, 1, 0),
        _refuse(number),
    ]


def _refuse(number):
    return _step(_RETURN, _ERRNO | number)


def _step(code, value, if_true=0, if_false=0):
    return struct.pack("HBBI", code, if_true, if_false, value & 0xFFFFFFFF)
