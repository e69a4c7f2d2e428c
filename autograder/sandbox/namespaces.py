"""The level "namespaces": a machine of its own, with its own files, processes, network and users.

    /                    read-only: what `view` lists, at the paths it has outside
    /tmp, /home/learner, /dev/shm   one memory disk, as large as the limit allows, gone at the end
    /proc                read-only, its own processes only

There is no network device, and no other process to be seen.
"""

import os
import socket
from pathlib import Path

from autograder.sandbox import linux, view

HOME = "/home/learner"
_SCRATCH = {"/tmp": 0o1777, HOME: 0o700, "/dev/shm": 0o1777}
_FILES_PER_MIB = 64  # how many files the memory disk may hold: each takes memory, however small
# What /proc tells about the machine beyond its processes, and what can be asked of it there.
_HIDDEN_PROC = ("kallsyms", "kcore", "key-users", "keys", "kmsg", "sched_debug", "sysrq-trigger")


def needs_user_namespace():
    """Only the administrator may make the other namespaces without one."""
    return linux.CAP_SYS_ADMIN not in linux.capabilities()


def prepare():
    """In the keeper: its next child will be the first process of a process namespace. Raises OSError."""
    if not needs_user_namespace():
        linux.call("unshare", linux.CLONE_NEWPID)
        return
    uid, gid = os.getuid(), os.getgid()
    linux.call("unshare", linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text)


def can_prepare_again():
    """Turn back to this process's own process namespace, which the administrator alone may do; can it be done?"""
    with open("/proc/self/ns/pid") as own:
        try:
            linux.call("setns", own.fileno(), linux.CLONE_NEWPID)
        except OSError:
            return False
    return True


def enter(root, uid, disk):
    """In that child: build the view on the empty folder `root` and make it the root. Raises OSError."""
    linux.call(
        "unshare",
        linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP,
    )
    socket.sethostname("notebook")
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=0755")
    _make_scratch(root, uid, disk)  # first, because Python may be installed below /tmp
    _show_readable(root)
    _make_etc(root, uid)
    _make_dev(root)
    _make_proc(root)
    linux.mount(None, root, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
    os.chdir(root)
    linux.syscall("pivot_root", b".", b".")
    linux.call("umount2", b".", linux.MNT_DETACH)
    os.chdir("/")


def _show_readable(root):
    for path in view.readable():
        place = _parent_made(root, path)
        if os.path.islink(path):
            os.symlink(os.readlink(path), place)
            continue
        if os.path.isdir(path):
            os.makedirs(place, exist_ok=True)
        else:
            Path(place).touch()
        linux.bind(path, place, linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)


def _make_etc(root, uid):
    """Accounts by name, because Python and torch ask who they are; the machine's own list names its people."""
    Path(_parent_made(root, "/etc/passwd")).write_text(f"learner:x:{uid}:{os.getgid() or uid}::{HOME}:/bin/sh\n")
    Path(root, "etc/group").write_text(f"learner:x:{os.getgid() or uid}:\n")
    Path(root, "etc/hosts").write_text("127.0.0.1 localhost\n")


def _make_dev(root):
    for path in view.DEVICES:
        place = _parent_made(root, path)
        Path(place).touch()
        linux.bind(path, place, linux.MS_NOSUID | linux.MS_NOEXEC)
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")
    os.mkdir(f"{root}/dev/pts")  # `!command` in a cell runs on a terminal
    linux.mount(
        "devpts", f"{root}/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0600"
    )
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")


def _make_scratch(root, uid, disk):
    scratch = f"{root}/scratch"
    os.mkdir(scratch)
    files = disk // 2**20 * _FILES_PER_MIB
    linux.mount("tmpfs", scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"size={disk},nr_inodes={files},mode=0755")
    for number, (path, mode) in enumerate(_SCRATCH.items()):
        os.mkdir(f"{scratch}/{number}")
        os.chmod(f"{scratch}/{number}", mode)
        if os.getuid() == 0:
            os.chown(f"{scratch}/{number}", uid, uid)
        place = _parent_made(root, path)
        os.mkdir(place)
        linux.mount(f"{scratch}/{number}", place, flags=linux.MS_BIND)
    linux.call("umount2", os.fsencode(scratch), linux.MNT_DETACH)
    os.rmdir(scratch)


def _make_proc(root):
    proc = f"{root}/proc"
    os.mkdir(proc)
    linux.mount("proc", proc, "proc", linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for path in (f"{proc}/{name}" for name in _HIDDEN_PROC):
        if os.path.exists(path):
            linux.mount("/dev/null", path, flags=linux.MS_BIND)


def _parent_made(root, path):
    place = root + path
    os.makedirs(os.path.dirname(place), exist_ok=True)
    return place
