"""Landlock: a process gives up its own right to open files outside a list. Needs no privilege, and Linux 5.13."""

import os
import struct

from autograder.sandbox import linux

_VERSION, _BENEATH = 1, 1  # a flag, and a kind of rule
_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL  # the other rights are about folders
# Rights over files that each version of Landlock added: it refuses to hear of later ones.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL}
_NETWORK_SINCE, _NETWORK, _SCOPES_SINCE, _SCOPES = 4, 3, 6, 3  # TCP; abstract sockets and signals


def version():
    """The version of Landlock that this Linux has; 0 where it has none."""
    try:
        return linux.syscall("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def protects_signals():
    """Can it keep a process from signalling those outside? Since Linux 6.12."""
    return version() >= _SCOPES_SINCE


def restrict(read, write, devices):
    """Allow this process and its children only these paths and what is below them. Needs PR_SET_NO_NEW_PRIVS.

    read, write: folders and files to read and run from; to do everything in. devices: files to read and write.
    """
    here = version()
    handled = sum(rights for since, rights in _FILE_RIGHTS.items() if since <= here)
    attributes = struct.pack(
        "QQQ", handled, _NETWORK if here >= _NETWORK_SINCE else 0, _SCOPES if here >= _SCOPES_SINCE else 0
    )
    size = 24 if here >= _SCOPES_SINCE else 16 if here >= _NETWORK_SINCE else 8
    rules = linux.syscall("landlock_create_ruleset", attributes, size, 0)
    reading = _EXECUTE | _READ | _READ_FOLDER
    for paths, rights in ((read, reading), (write, handled), (devices, _READ | _WRITE | _IOCTL)):
        for path in paths:
            _allow(rules, path, rights & handled)
    linux.syscall("landlock_restrict_self", rules, 0)
    os.close(rules)


def _allow(rules, path, rights):
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _OF_FILES
    linux.syscall("landlock_add_rule", rules, _BENEATH, struct.pack("=Qi", rights, opened), 0)
    os.close(opened)
