"""The process beside each kernel that keeps it: starts it, watches what it uses, ends all of it, clears up.

It is forked from the warm process and stays outside the sandbox. The grader describes the kernel over a connection, and
the kernel ends when that connection does, so that a killed grader leaves nothing behind. A keeper serves one kernel
after another; what concerns a single submission is read by its kernel alone, so that the next one cannot find it in the
memory that a fork hands on.

    grader -> keeper    {"level", "limits", "grader"}
    grader -> kernel    {"key", "environment", "threads", "files"}, then the files' bytes
    keeper -> grader    {"address", "pid"} or {"error"}; when the kernel has ended {"status", "kind", "facts", "again"}
    grader -> keeper    {"signal": number}, or {"end": true}
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection

from autograder.sandbox import confine, linux, tree
from autograder.sandbox.levels import Refused
from autograder.sandbox.limits import Limits

SOCKETS = 5  # shell, iopub, stdin, heartbeat, control
_LOOK_EVERY = 0.05  # seconds between two looks at the tree
_COUNT_FILES_EVERY = 0.5
_LONGEST_ADDRESS = 90  # bytes: a socket's path may have 107
_START_SECONDS = 30


def keep(descriptor, grader):
    """The keeper's work from the grader's first message on. `grader` is a descriptor of the grader's process."""
    os.setsid()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # orphans and daemons of the kernel become our children
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):  # the grader may be gone
        again = True
        while again:
            while "level" not in (wanted := json.loads(connection.recv_bytes())):
                pass  # a signal, or the order to end, that came after the end
            last_words = _serve(connection, grader, wanted)
            connection.send_bytes(json.dumps(last_words).encode())
            again = last_words["again"]


def _serve(connection, grader, wanted):
    """One kernel from its start to its end. What is left to tell the grader, and whether another may follow."""
    folder = _make_folder()
    try:
        last_words = _run(connection, grader, folder, wanted)
    finally:
        tree.end_all(os.getpid())
        _remove(folder)
    last_words["again"] = "error" not in last_words and confine.can_prepare_again(wanted["level"])
    return last_words


def _make_folder():
    """The kernel's folder on this machine. Others may pass through it, so that the kernel's own user can, not look."""
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="attn-", dir=parent if len(parent) < _LONGEST_ADDRESS - 20 else "/tmp")
    os.chmod(folder, 0o711)
    return folder


def _run(connection, grader, folder, wanted):
    """What is left to tell the grader once the kernel has ended, or could not start."""
    limits = Limits(**wanted["limits"])
    place = confine.Place(wanted["level"], f"{folder}/kernel", confine.spare_uid(), limits)
    listening = _listen(f"{folder}/socket")
    shared = tree.held(os.getpid())
    try:
        os.mkdir(place.folder, 0o711)
        confine.make_folders(place)
        confine.prepare(place.level)
        kernel = _fork_kernel(place, connection, wanted["grader"], listening)
    except Exception as error:
        return {"error": str(error)}
    finally:
        for one in listening:
            one.close()
    connection.send_bytes(json.dumps({"address": f"{folder}/socket", "pid": kernel}).encode())
    status, kind, facts = _watch(connection, grader, place, kernel, shared)
    return {"status": status, "kind": kind, "facts": facts}


def _listen(address):
    """One socket a channel, made out here: the kernel gets them open, and no path leads to them from inside."""
    made = []
    for number in range(1, SOCKETS + 1):
        one = socket.socket(socket.AF_UNIX)
        one.bind(f"{address}-{number}")
        os.chmod(f"{address}-{number}", 0o600)
        one.listen(16)
        made.append(one)
    return made


def _fork_kernel(place, connection, grader, listening):
    """The process id of the kernel, once it is ready in the sandbox. Raises Refused with what went wrong."""
    readable, writable = os.pipe()
    spare_pids = [os.getpid(), os.getppid(), grader]
    kernel = os.fork()
    if kernel == 0:
        _become_kernel(place, connection, listening, writable, spare_pids)
    os.close(writable)
    try:
        if not select.select([readable], [], [], _START_SECONDS)[0]:
            raise Refused("the kernel took too long to start in the sandbox")
        said = os.read(readable, 4096)
    finally:
        os.close(readable)
    if said != b"ready":
        raise Refused(f"the kernel did not start in the sandbox: {said.decode(errors='replace') or 'it ended'}")
    return kernel


def _become_kernel(place, connection, listening, writable, spare_pids):
    """The kernel's whole life."""
    try:
        os.setsid()
        wanted = json.loads(connection.recv_bytes())
        files = [(name, connection.recv_bytes()) for name in wanted["files"]]
        descriptors = [one.fileno() for one in listening]
        _blind_others([*descriptors, writable])
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where the machine itself runs out of memory, this is what it ends
        confine.enter(place, spare_pids)
        from autograder.sandbox import kernel

        kernel.settle(place, files, wanted)
        app = kernel.application(wanted["key"], descriptors, terminals=place.level != "landlock")
        os.write(writable, b"ready")
        os.close(writable)
        writable = -1  # the number may be given to something else
        app.start()
        os._exit(0)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(writable, f"{type(error).__name__}: {error}"[:2000].encode())
    finally:
        os._exit(1)


def _blind_others(kept):
    """Make every descriptor but `kept` lead to /dev/null.

    Closed, its number would be given to something new, which an object that was inherited with the old one (a font's
    file in a cache of matplotlib's) would close in its turn when it is dropped.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in (*kept, null):
            os.dup2(null, number, inheritable=number < 3)


def _watch(connection, grader, place, kernel, shared):
    """(exit status, kind of breach or None, its facts) once the kernel has ended or has been ended."""
    ended = os.pidfd_open(kernel)
    try:
        return _watch_until(ended, connection, grader, place, kernel, shared)
    finally:
        os.close(ended)


def _watch_until(ended, connection, grader, place, kernel, shared):
    poller = select.poll()
    for descriptor in (connection.fileno(), grader, ended):
        poller.register(descriptor, select.POLLIN)
    files_counted = 0.0
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(_LOOK_EVERY * 1000)}
        if grader in ready:
            return None, None, {}
        if connection.fileno() in ready:
            try:
                asked = json.loads(connection.recv_bytes())
            except (EOFError, OSError):
                return None, None, {}
            if "end" in asked:
                return None, None, {}
            with contextlib.suppress(ProcessLookupError):
                os.killpg(kernel, asked["signal"])
        if ended in ready:
            status = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
            return status, "died", {"how": _how(status)}
        count_files = place.level != "namespaces" and time.monotonic() - files_counted > _COUNT_FILES_EVERY
        excess = _excess(place, shared, count_files)
        if count_files:
            files_counted = time.monotonic()
        if excess:
            return None, *excess


def _excess(place, shared, count_files):
    """None, or (kind, facts) of the limit that the kernel's tree has passed."""
    limits = place.limits
    use = tree.use_of(tree.descendants(os.getpid()), limits.memory, shared)
    if use.tasks > limits.processes:
        return "processes", {"count": limits.processes}
    if use.memory > limits.memory:
        return "memory", {"mib": limits.memory / 2**20}
    if count_files and tree.disk_use(place.folder, limits.disk) > limits.disk:
        return "disk", {"mib": limits.disk / 2**20}
    return None


def _how(status):
    if status >= 0:
        return f"with exit status {status}"
    try:
        return f"by the signal {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def _remove(folder):
    """Whatever a submission left: folders that nobody may enter, trees deeper than a path can say."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL, check=False)
