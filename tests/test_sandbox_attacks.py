"""What a hostile submission tries. Each attack is a notebook cell that prints BREACHED where it gets what it wants.

What cannot succeed proves nothing, so the harmless ones are also run without a sandbox, where they must succeed.
"""

import ctypes
import os
import socket
import sys
import textwrap
import time
from pathlib import Path

import pytest

from autograder.build import ROOT
from autograder.sandbox import Limits, WarmProcess, namespaces
from tests.test_sandbox import LEVELS, alive, run, strays

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux"),
]
MIB = 2**20
MARK = f"attack-of-{os.getpid()}"
SMALL = Limits(memory=800 * MIB, processes=40, disk=32 * MIB, descriptors=128)

# Read, reach, write: harmless where they succeed. `T` holds what the test has planted outside.
SUCCEED_OUTSIDE = {
    "reads the gradebook": "print('BREACHED', open(T['gradebook']).read())",
    "lists the submissions": "print('BREACHED', os.listdir(T['submissions']))",
    "reads another submission": "print('BREACHED', open(T['submissions'] + '/ada.ipynb').read())",
    "reads a private key": "print('BREACHED', open(T['key']).read())",
    "reads the solutions": "print('BREACHED', os.listdir(T['solutions']))",
    "reads an account's settings": "print('BREACHED', os.listdir(os.path.dirname(T['course'])), os.listdir('/var'))",
    "reads the accounts of the machine": "assert len(open('/etc/passwd').readlines()) > 3; print('BREACHED')",
    "reads nbgrader's settings": "print('BREACHED', open(T['course'] + '/nbgrader_config.py').read())",
    "reads the grader's environment": "print('BREACHED', open(f'/proc/{T[\"grader\"]}/environ','rb').read(1)[0])",
    "reads the grader's memory map": "assert open(f'/proc/{T[\"grader\"]}/maps').read(); print('BREACHED')",
    "opens the grader's memory": "open(f'/proc/{T[\"grader\"]}/mem', 'rb'); print('BREACHED')",
    "opens the warm process's memory": "open(f'/proc/{T[\"warm\"]}/mem', 'rb'); print('BREACHED')",
    "walks through the grader's root": "print('BREACHED', os.listdir(f'/proc/{T[\"grader\"]}/root/root'))",
    "walks through the grader's directory": "print('BREACHED', os.listdir(f'/proc/{T[\"grader\"]}/cwd'))",
    "copies the grader's open files": """
        for name in os.listdir(f'/proc/{T["grader"]}/fd'):
            print('BREACHED', os.readlink(f'/proc/{T["grader"]}/fd/{name}'))
        """,
    "reads memory through a call": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        a, b = ctypes.create_string_buffer(16), (ctypes.c_void_p * 2)()
        local = (ctypes.c_size_t * 2)(ctypes.addressof(a), 16)
        remote = (ctypes.c_size_t * 2)(T['address'], 16)
        if libc.process_vm_readv(T['grader'], local, 1, remote, 1, 0) == 16:
            print('BREACHED', a.raw)
        """,
    "connects by TCP": "socket.create_connection(('127.0.0.1', T['tcp']), 2); print('BREACHED')",
    "sends by UDP": "socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', T['udp'])); print('BREACHED')",
    "listens by TCP": "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('BREACHED')",
    "opens a raw netlink": "socket.socket(16, socket.SOCK_RAW, 0); print('BREACHED')",
    "connects to an abstract socket": "socket.socket(1).connect(T['abstract']); print('BREACHED')",
    "connects to a socket by path": "socket.socket(1).connect(T['path']); print('BREACHED')",
    "talks to another kernel": """
        import glob
        for path in glob.glob('/tmp/attn-*/socket-1'):
            try:
                socket.socket(1).connect(path)
                print('BREACHED')
            except OSError:  # one that has ended meanwhile proves nothing
                pass
        """,
    "writes into the environment": "open(T['site'] + '/attack.pth', 'w').write('import os'); print('BREACHED')",
    "writes into the package": "open(T['course'] + '/autograder/attack.py', 'w').write(''); print('BREACHED')",
    "writes into a submission": "open(T['submissions'] + '/attack', 'w').write(''); print('BREACHED')",
    "deletes a submission": "os.remove(T['submissions'] + '/bob.ipynb'); print('BREACHED')",
    "changes a file's mode": """
        os.chmod(T['gradebook'], 0o666)
        assert os.stat(T['gradebook']).st_mode & 2
        print('BREACHED')
        """,
    "cuts a file": "os.truncate(T['submissions'] + '/cut', 1); print('BREACHED')",
    "follows a link out": "os.symlink(T['gradebook'], 'link'); print('BREACHED', open('link').read())",
    "links a file in": "os.link(T['key'], 'linked'); print('BREACHED', open('linked').read())",
    "is the administrator": "os.setuid(0); print('BREACHED')",
    "may do something": """
        capabilities = int(open('/proc/self/status').read().split('CapEff:')[1].split()[0], 16)
        if capabilities & ~4:  # to read what Landlock lets it read
            print('BREACHED', capabilities)
        """,
    "makes a device": "os.mknod('disk', 0o60600, os.makedev(254, 0)); print('BREACHED')",
    "mounts": "if call('mount', b'none', b'/mnt', b'tmpfs', 0, None) == 0: print('BREACHED', call('umount', b'/mnt'))",
    "takes namespaces": """
        if os.fork() == 0:
            os._exit(call('unshare', 0x10000000) + 1)
        if os.waitstatus_to_exitcode(os.wait()[1]) == 1:
            print('BREACHED')
        """,
    "changes its root": "os.chroot('/tmp'); print('BREACHED')",
    "traces a child": """
        pid = os.fork()
        if pid == 0:
            time.sleep(5); os._exit(0)
        result = call('ptrace', 16, pid, 0, 0)
        os.kill(pid, 9)
        if result == 0:
            print('BREACHED')
        """,
    "uses keys, bpf, perf, io_uring or userfaultfd": """
        import platform
        numbers = {'x86_64': (250, 321, 298, 425, 323), 'aarch64': (219, 280, 241, 425, 282)}
        for number in numbers[platform.machine()]:
            if ctypes.CDLL(None).syscall(number, 0, 0, 0, 0, 0) != -1:
                print('BREACHED', number)
        """,
    "signals the grader": "os.kill(T['grader'], 0); print('BREACHED')",
    "signals the warm process": "os.kill(T['warm'], 0); print('BREACHED')",
    "limits the grader": "import resource; resource.prlimit(T['grader'], resource.RLIMIT_NOFILE); print('BREACHED')",
    "slows the grader": """
        os.setpriority(os.PRIO_PROCESS, T['grader'], 1)
        assert os.getpriority(os.PRIO_PROCESS, T['grader']) == 1
        print('BREACHED')
        """,
    "sets the machine's name": "socket.sethostname(socket.gethostname()); print('BREACHED')",
    "writes a setting of the system": "open('/proc/sys/kernel/hostname', 'w').close(); print('BREACHED')",
    "keeps shared memory after its end": "assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) != -1; print('BREACHED')",
    "hides memory in a file": "os.memfd_create('x'); print('BREACHED')",
}
# What has no proof: the machine may forbid these outside as well.
HELD_ANYWAY = {
    "opens a disk": "import glob\nfor d in glob.glob('/dev/[vsn][dv]*'): open(d, 'rb'); print('BREACHED')",
    "raises its own limits": "import resource; resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)); print('BREACHED')",
    "finds the grader's environment": """
        import glob
        for path in ['/proc/self/environ', *glob.glob('/proc/[0-9]*/environ')]:
            try:
                if b'secret-of-the-' + b'environment' in open(path, 'rb').read():
                    print('BREACHED', path)
            except OSError:
                pass
        if 'secret-of-the-' + 'environment' in str(os.environ):
            print('BREACHED')
        """,
    "finds the grader's secret in its own memory": """
        with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as memory:
            for line in maps:
                start, end = (int(one, 16) for one in line.split()[0].split('-'))
                if line.split()[1].startswith('r') and '[v' not in line:
                    memory.seek(start)
                    for piece in memory.read(end - start).split(b'secret of the ')[1:]:
                        if piece[:7][::-1] == b'!yromem':
                            print('BREACHED')
        """,
    "has an open file of somebody else's": """
        import stat
        for name in os.listdir('/proc/self/fd'):
            try:
                target = os.readlink(f'/proc/self/fd/{name}')
            except OSError:
                continue
            if not target.startswith(('socket:', 'pipe:', 'anon_inode:', '/dev/null', '/proc/')):
                print('BREACHED', name, target)
        """,
    "gets rights by a program": """
        import subprocess
        for path in ('/usr/bin/su', '/usr/bin/mount', '/usr/bin/passwd', '/usr/bin/newgrp'):
            program = "import os, sys; os.execv(sys.argv[1], [sys.argv[1], '--version'])"
            subprocess.run([sys.executable, '-c', program, path], capture_output=True)
        status = open('/proc/self/status').read()
        if 'NoNewPrivs:\t1' not in status or 'Seccomp:\t2' not in status:
            print('BREACHED', status)
        """,
    "writes through the memory file of process 1": "open('/proc/1/mem', 'r+b'); print('BREACHED')",
    "types into a terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x'); print('BREACHED')",
}
HELPERS = """
import ctypes, os, socket, sys, time
def call(name, *arguments):
    return getattr(ctypes.CDLL(None), name)(*arguments)
"""


@pytest.fixture(scope="module")
def warm():
    os.environ["ATTN_TEST_SECRET"] = "secret-of-the-environment"
    with WarmProcess() as process:
        yield process.wait()
    del os.environ["ATTN_TEST_SECRET"]


@pytest.fixture
def planted(tmp_path, warm):
    """What there is to be found on the machine outside, and a check that it is as it was."""
    os.chmod(tmp_path, 0o755)
    submissions = tmp_path / "submissions"
    submissions.mkdir()
    for name in ("ada.ipynb", "bob.ipynb", "cut"):
        (submissions / name).write_text("an answer")
    for name in ("gradebook.db", "id_rsa"):
        (tmp_path / name).write_text("the secret of the file")
        os.chmod(tmp_path / name, 0o644)
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    by_path, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    by_path.bind(str(tmp_path / "socket"))
    os.chmod(tmp_path / "socket", 0o777)
    abstract.bind(f"\0attn-{os.getpid()}")
    for one in (by_path, abstract):
        one.listen()
    kept = ctypes.create_string_buffer(b"secret of the " + b"memory!")
    yield {
        "gradebook": str(tmp_path / "gradebook.db"),
        "key": str(tmp_path / "id_rsa"),
        "submissions": str(submissions),
        "solutions": str(ROOT / "solutions"),
        "course": str(ROOT),
        "site": next(path for path in sys.path if path.endswith("site-packages")),
        "grader": os.getpid(),
        "warm": warm.pid,
        "address": ctypes.addressof(kept),
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "path": str(tmp_path / "socket"),
        "abstract": f"\0attn-{os.getpid()}",
    }
    for one in (tcp, udp, by_path, abstract):
        one.close()
    (ROOT / "autograder/attack.py").unlink(missing_ok=True)
    Path(next(path for path in sys.path if path.endswith("site-packages")), "attack.pth").unlink(missing_ok=True)


def state(planted):
    """All that an attack could have changed of it."""
    folder = Path(planted["gradebook"]).parent
    return {
        str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in [*folder.rglob("*"), Path(planted["site"]), ROOT / "autograder"]
    } | {"site": sorted(os.listdir(planted["site"])), "package": sorted(os.listdir(ROOT / "autograder"))}


def assert_gone():
    """The keeper says goodbye a moment before it is gone itself."""
    deadline = time.monotonic() + 10
    while strays(MARK) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert strays(MARK) == []


def attack(warm, level, planted, cell, **options):
    cells = f"{HELPERS}\nT = {planted!r}", textwrap.dedent(cell), "print('AFTERWARDS')"
    return run(warm, level, *cells, seconds=60, environment={"ATTN_MARK": MARK}, **options)


@pytest.mark.parametrize("name", [*SUCCEED_OUTSIDE, *HELD_ANYWAY])
@pytest.mark.parametrize("level", LEVELS)
def test_is_held(warm, level, planted, name):
    before = state(planted)
    seen = attack(warm, level, planted, {**SUCCEED_OUTSIDE, **HELD_ANYWAY}[name])
    assert "BREACHED" not in seen.text
    assert state(planted) == before
    assert_gone()


@pytest.mark.skipif(os.getuid() != 0 or namespaces.needs_user_namespace(), reason="needs the administrator's rights")
@pytest.mark.parametrize("name", SUCCEED_OUTSIDE)
def test_would_succeed_without_a_sandbox(warm, planted, name):
    assert "BREACHED" in attack(warm, "none", planted, SUCCEED_OUTSIDE[name]).text


# What uses up the machine, or does not want to end: (cell, the ends that it may come to; None where the kernel lives).
EXHAUSTING = {
    "takes memory": ("blocks = []\nwhile True: blocks.append(bytearray(8 * 2**20))", {None, "memory"}),
    "takes memory in many processes": (
        """
        for _ in range(20):
            if os.fork() == 0:
                block = bytearray(60 * 2**20)
                for i in range(0, len(block), 4096): block[i] = 1
                time.sleep(100); os._exit(0)
        time.sleep(100)
        """,
        {"memory"},
    ),
    "takes shared memory": (
        "import mmap\nm = mmap.mmap(-1, 1000 * 2**20)\nfor i in range(1000): m.write(b'x' * 2**20)\ntime.sleep(100)",
        {"memory"},
    ),
    "forks without end": ("while True:\n    os.fork()", {"processes"}),
    "forks programs without end": ("os.system('b() { b | b & }; b'); time.sleep(100)", {"processes"}),
    "starts threads without end": (
        "import threading\nwhile True: threading.Thread(target=time.sleep, args=[1000], daemon=True).start()",
        {None, "processes"},
    ),
    "forks and lets go": (
        """
        while True:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(1000)
                os._exit(0)
        """,
        {"processes"},
    ),
    "fills the disk": (
        """
        for number in range(40):
            with open(f'{number}', 'wb') as file:
                for _ in range(16): file.write(bytes(2**20))
        """,
        {None, "disk"},
    ),
    "writes one huge file": (
        "with open('f', 'wb') as f:\n    for _ in range(4096): f.write(bytes(2**20))",
        {None, "disk"},
    ),
    "writes many small files": ("for n in range(10**6): open(f'{n}', 'w').close()", {None, "disk"}),
    "writes to shared memory": (
        "with open('/dev/shm/f', 'wb') as f:\n    for _ in range(99): f.write(bytes(2**20))",
        {None},
    ),
    "nests folders": (
        "for _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)",
        {None, "disk"},
    ),
    "opens files without end": (
        "kept = []\ntry:\n    while True: kept.append(open('/dev/null'))\nexcept OSError: kept.clear()",
        {None},
    ),
    "ends Python": ("os._exit(0)", {"died"}),
    "crashes": ("ctypes.string_at(0)", {"died"}),
    "aborts": ("os.abort()", {"died"}),
    "kills all it sees": (
        """
        for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
            if pid != os.getpid():
                try: os.kill(pid, 9)
                except OSError: pass
        try: os.kill(-1, 9)
        except OSError: pass
        """,
        {None, "died"},
    ),
    "leaves a daemon": (
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                import signal
                for number in range(1, 64):
                    try: signal.signal(number, signal.SIG_IGN)
                    except (OSError, ValueError): pass
                while True: time.sleep(1)
            os._exit(0)
        os.wait()
        """,
        {None},
    ),
    "leaves a program": (
        "import subprocess\nsubprocess.Popen(['setsid', 'nohup', 'sleep', '1000'], start_new_session=True)",
        {None},
    ),
    "escapes its keeper's death signal": (
        "call('prctl', 1, 0, 0, 0, 0); call('prctl', 36, 1, 0, 0, 0)\nif os.fork() == 0: time.sleep(1000)",
        {None},
    ),
}


@pytest.mark.parametrize("name", EXHAUSTING)
@pytest.mark.parametrize("level", LEVELS)
def test_is_ended_or_bounded(warm, level, planted, name):
    cell, ends = EXHAUSTING[name]
    before = state(planted)
    seen = attack(warm, level, planted, cell, limits=SMALL)
    kind = seen.ended_by[0] if seen.ended_by else None
    assert kind in ends, seen
    assert (kind is None) == ("AFTERWARDS" in seen.text), seen
    assert state(planted) == before
    assert_gone()
    assert run(warm, level, "1 + 1").text == "2"


@pytest.mark.parametrize(
    "cell",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); os.killpg(0, signal.SIGSTOP)\nwhile True: pass",
        """
        import os, signal, time
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
        while True: time.sleep(1)
        """,
    ],
    ids=["stops itself", "ignores signals"],
)
@pytest.mark.parametrize("level", LEVELS)
def test_is_ended_by_the_grader(warm, level, cell):
    seen = run(warm, level, textwrap.dedent(cell), seconds=1.5)
    assert not alive(seen.pid)
    assert_gone()
