"""The Jupyter kernel inside the sandbox: ipykernel, with sockets that were opened outside."""

import io
import logging
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import zmq
from ipykernel import iostream, ipkernel
from ipykernel.heartbeat import Heartbeat
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

NAMES = ("shell", "iopub", "stdin", "hb", "control")
_ADDRESS = "ipc://open-"  # never looked up: the sockets are open already


def settle(place, files, wanted):
    """Write the working copy, go there, and make this process its own: environment, randomness, threads."""
    work = Path(place.home, "work")
    work.mkdir(exist_ok=True)
    for name, content in files:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.chdir(work)
    places = {
        "HOME": place.home,
        "TMPDIR": place.tmp,
        "IPYTHONDIR": f"{place.home}/.ipython",
        "MPLCONFIGDIR": f"{place.home}/.matplotlib",
        "NUMBA_CACHE_DIR": f"{place.home}/.numba",
        "JUPYTER_RUNTIME_DIR": f"{place.home}/.jupyter",
    }
    if place.level == "landlock":  # which has no /dev/shm; nothing there needs the lock that numba asks it for
        warnings.filterwarnings("ignore", message="Could not obtain multiprocessing lock")
    os.environ.update({**places, **wanted["environment"]})
    for name in ("USER", "LOGNAME"):
        os.environ[name] = "learner"
    time.tzset()
    tempfile.tempdir = None  # remembered from outside
    _reseed(int.from_bytes(os.urandom(4)))
    _set_threads(wanted["threads"])


def _reseed(seed):
    """A fork repeats the random numbers of every other fork, unless told otherwise."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _set_threads(count):
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(count)  # for what the notebook starts
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "numba" in sys.modules:
        from numba.core import config

        config.reload_config()


def application(key, descriptors, terminals):
    """The kernel, ready to start. `descriptors`: listening sockets, as NAMES. `terminals`: can any be had?"""
    config = Config()
    config.HistoryManager.enabled = False
    config.Session.key = key.encode()
    config.IPKernelApp.update(transport="ipc", ip="open", kernel_class=_Kernel)
    config.IPKernelApp.outstream_class = f"{__name__}.OutStream"
    app = _App.instance(config=config, open_sockets=dict(zip(range(1, 6), descriptors, strict=True)))
    for port, name in enumerate(NAMES, start=1):
        setattr(app, f"{name}_port", port)
    app.initialize([])
    if "matplotlib.pyplot" in sys.modules:
        app.shell.enable_matplotlib("inline")  # it was imported where there was no notebook to show figures in
    if not terminals:
        app.shell.system = app.shell.system_raw  # `!command` without the terminal that it runs on otherwise
    os.register_at_fork(after_in_child=lambda: _leave_channels(app))
    return app


class _App(IPKernelApp):
    """ipykernel's application, except for where its sockets and its connection's facts come from."""

    def __init__(self, open_sockets, **kwargs):
        super().__init__(**kwargs)
        self.open_sockets = open_sockets

    def _try_bind_socket(self, s, port):
        s.setsockopt(zmq.USE_FD, self.open_sockets[port])
        s.bind(f"{_ADDRESS}{port}")
        return port

    def init_control(self, context):
        super().init_control(context)
        self.debug_shell_socket.disconnect(self.shell_socket.last_endpoint)  # nobody debugs a submission in here
        self.shell_channel_thread = _NoThread()

    def init_heartbeat(self):
        self.heartbeat = _Heartbeat(zmq.Context(), ("ipc", "open", self.hb_port))
        self.heartbeat.descriptor = self.open_sockets[self.hb_port]
        self.heartbeat.start()

    def parse_command_line(self, argv=None):
        pass  # there is none, and looking for what could complete it takes a fifth of the start

    def init_connection_file(self):
        pass

    def _configure_logging(self):
        """Nobody sees what it logs, and to set this up goes through every logger that there is."""
        logging.getLogger(type(self).__name__).addHandler(logging.NullHandler())

    def init_code(self):
        """There are no start-up files. It would also note the names of all modules, for `%reset aggressive`."""
        self.shell.user_ns_hidden.update(self.shell.user_ns)

    def write_connection_file(self, **kwargs):
        pass


class _NoThread:
    """In place of the thread that takes requests while a cell runs, and hands each on: here nobody sends any then."""

    parent_thread = threading.main_thread()  # where cells run

    def __bool__(self):
        return False


class _Kernel(IPythonKernel):
    """ipykernel's, less what it prepares for a debugger and for a second request while a cell runs."""

    _supports_kernel_subshells = False

    def __init__(self, **kwargs):
        # ipykernel notes the files of all modules for its debugger. To look at a module is to write to its count of
        # references, and so to copy the memory that a fork shares: a fourth of what was copied when a kernel started.
        ipkernel.sys = SimpleNamespace(**{**vars(sys), "modules": {}})
        try:
            super().__init__(**kwargs)
        finally:
            ipkernel.sys = sys


class OutStream(iostream.OutStream):
    """Text on its way to the notebook. ipykernel flushes four times a cell, and each time waits for another thread."""

    def flush(self):
        if self._buffers:
            super().flush()


class _Heartbeat(Heartbeat):
    def _try_bind_socket(self):
        self.socket.setsockopt(zmq.USE_FD, self.descriptor)
        return self.socket.bind(f"{_ADDRESS}{self.port}")


def _leave_channels(app):
    """In a forked child: the channels are the kernel's. What the child prints reaches the notebook through the pipe
    that ipykernel reads the descriptors 1 and 2 from."""
    app.iopub_thread.socket = None
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        plain = io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), line_buffering=True, errors="replace")
        setattr(sys, name, plain)
