"""What runs in the warm process: import, prime, and then fork a keeper for every request.

It never runs a parallel region and never learns a secret, so that a fork of it is sound and tells nothing.
"""

import contextlib
import gc
import importlib
import io
import os
import select
import signal
import socket
import sys
import traceback

from autograder.sandbox import keeper

# Imported where they are installed: with the library of the same name, what a notebook soon needs of it.
_WITH = {
    "matplotlib": ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib_inline.config"),
    "attn_ref": ("attn_ref.cost", "attn_ref.plots"),
    "IPython": (
        "IPython.core.completerlib",
        "IPython.core.debugger",
        "IPython.core.magics.ast_mod",
        "IPython.core.magics.execution",
        "IPython.core.oinspect",
        "IPython.extensions.storemagic",
    ),
    "ipykernel": (
        "tornado.platform.asyncio",
        "ipykernel.kernelapp",
        "ipykernel.debugger",
        "autograder.sandbox.kernel",
    ),
    "autograder": ("autograder.notebook", "autograder.runner", "autograder.grading.testify"),
}


def main():
    """Arguments: root of the packages, descriptor of the socket, the grader's process id, then what to import."""
    control = socket.socket(fileno=int(sys.argv[2]))
    parent = os.pidfd_open(int(sys.argv[3]))
    try:
        _prepare(sys.argv[4:], control)
    except BaseException as error:
        control.send(f"{type(error).__name__}: {error}"[:2000].encode())
        return
    control.send(b"ready")
    _serve(control, parent)


def _prepare(preload, control):
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a Jupyter kernel sets it
    os.environ.setdefault("LANG", "C.UTF-8")
    os.environ.pop("GLIBC_TUNABLES", None)  # it has had its effect here, and is not for what a notebook starts
    gc.disable()  # nothing that an import makes is garbage, and looking for some takes a fifth of the time
    for name in preload:
        _load(name)
    more = control.recv(1 << 16).decode().split()[1:]  # nothing, where the grader has ended
    for name in more:
        _load(name)
    _prime()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(
            f"{threads} threads run after importing {', '.join([*preload, *more])}; one is allowed, because a fork "
            "copies only one and the locks of the others stay closed. Leave out of `preload` what starts threads when "
            "imported"
        )
    gc.enable()
    gc.freeze()  # the collector of a child leaves these objects, and so their memory shared, alone


def _load(name):
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)
        if name == "torch":
            sys.modules["torch"].set_num_threads(1)
        for part in _WITH.get(name, ()):
            importlib.import_module(part)


def _prime():
    """Do once what is slow the first time: draw a figure, show a tensor or an error. What fails only stays slow."""
    if "matplotlib" in sys.modules:
        with contextlib.suppress(Exception):
            _draw()
    if "torch" in sys.modules:
        with contextlib.suppress(Exception):
            repr(sys.modules["torch"].ones(1))
    if "IPython" in sys.modules:
        with contextlib.suppress(Exception):
            _format_traceback()


def _draw():
    """Not through pyplot: its notebook backend finds its notebook when it is first used, which must be the kernel.

    No formula is set: matplotlib keeps what it has parsed, and with it files that a kernel can no longer read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot(title="title", xlabel="x")
    axes.plot([0, 1], [0, 1], label="line")
    axes.imshow([[0, 1]])
    axes.legend()
    FigureCanvasAgg(figure).print_figure(io.BytesIO(), format="png", bbox_inches="tight")


def _format_traceback():
    from IPython.core.ultratb import VerboseTB

    try:
        raise ValueError
    except ValueError:
        VerboseTB(theme_name="linux").structured_traceback(*sys.exc_info())


def _serve(control, parent):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are nobody's to wait for
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(parent, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if parent in ready:
            return
        message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not message:
            return
        if os.fork() == 0:
            _keep(control, parent, descriptors[0])
        os.close(descriptors[0])


def _keep(control, parent, descriptor):
    """The keeper's whole life. It leaves by os._exit, so that nothing of the warm process is cleaned up twice."""
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        keeper.keep(descriptor, parent)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
