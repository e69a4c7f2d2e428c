"""One prepared process per grader, from which kernels are forked: what takes seconds to import is imported once.

It is started before the grader reads anything secret, with an environment of its own, because what a process holds in
memory at a fork its child can read.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from autograder.sandbox.levels import Refused, why_not

PRELOAD = ("numpy", "torch", "numba", "matplotlib", "IPython", "ipykernel", "attn_ref", "autograder")
HEAVY = ("torch", "numba")  # of these: what takes longest to import, and not every notebook uses
_START_SECONDS = 120
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "CONDA_PREFIX")
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
# Memory in pages of 2 MiB, where the system has them: a fork copies a 512th of their table.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from autograder.sandbox import forkserver; forkserver.main()"


class WarmProcess:
    """Gets ready by itself once started; the first kernel waits for it. A context manager.

    preload: what it imports; a library that is not installed is passed over.
    """

    def __init__(self, preload=PRELOAD):
        self.preload = tuple(preload)
        self._process = self._socket = None
        self._ready = False
        self._idle = []  # Connections to keepers that have served a kernel of this process

    def start(self, more=False):
        """Start it and return; `wait` or the first kernel tells whether it got ready. Raises Refused off Linux.

        With `more` it gets ready only once `load` has said what else it is to import.
        """
        if sys.platform != "linux":
            raise Refused(why_not())
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        root = str(Path(__file__).parents[2])
        arguments = [root, str(theirs.fileno()), str(os.getpid()), *self.preload]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, *arguments],
                env={**environment, **_ONE_THREAD, **_LARGE_PAGES},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is the grader's to handle
            )
        if not more:
            self.load()
        return self

    @classmethod
    def start_early(cls):
        """One that has begun with what every kernel needs; `load` then tells the rest."""
        return cls([name for name in PRELOAD if name not in HEAVY]).start(more=True)

    def load(self, *names):
        """What it is to import beside `preload`, said once."""
        self.preload += names
        with contextlib.suppress(OSError):  # it has ended; `wait` says why
            self._socket.send(" ".join(["load", *names]).encode())

    def wait(self):
        """Return once kernels can be forked. Raises Refused with the reason if that will never be."""
        if self._ready:
            return self
        if self._process is None:
            raise Refused("the warm process was not started; call start(), or use it in a `with` statement")
        said = b"it took too long"
        if select.select([self._socket], [], [], _START_SECONDS)[0]:
            said = self._socket.recv(1 << 16)
        if said != b"ready":
            self.stop()
            raise Refused(f"the process that kernels are forked from did not start: {said.decode() or 'it ended'}")
        self._ready = True
        return self

    def keeper(self):
        """The Connection to a keeper, which waits for its kernel to be described: one that has served, or a new one.

        A warm process that has ended (the system ends what uses most memory) is started anew.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.poll():
                return connection
            connection.close()  # it has ended
        self.wait()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._socket, [b"fork"], [theirs.fileno()])
            except OSError:
                self.stop()
                self.start().wait()
                socket.send_fds(self._socket, [b"fork"], [theirs.fileno()])
        return Connection(ours.detach())

    def take_back(self, connection):
        """A keeper that has said it can serve again."""
        self._idle.append(connection)

    def __getstate__(self):
        """For a worker process: a way to the same warm process, which only the one that started it ends."""
        self.wait()
        return {"preload": self.preload, "_process": None, "_socket": self._socket, "_ready": True, "_idle": []}

    @property
    def pid(self):
        return self._process.pid if self._process else None

    def stop(self):
        """End it. Kernels forked from it go on; each has a keeper of its own."""
        while self._idle:
            self._idle.pop().close()
        if self._process is None:
            return
        self._socket.close()
        self._process.kill()  # it holds nothing
        self._process.wait()
        self._process = self._socket = None
        self._ready = False

    __enter__ = start

    def __exit__(self, *exception):
        self.stop()
