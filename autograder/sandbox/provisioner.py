"""A Jupyter kernel provisioner whose kernels are forked from a warm process into a sandbox.

`kernel_manager` builds the manager of one kernel directly. By configuration alone, `nbgrader autograde` uses the same
provisioner under the name "attn-sandbox":

    JUPYTER_DEFAULT_PROVISIONER_NAME=attn-sandbox nbgrader autograde ...
"""

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from queue import Empty

from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning import KernelProvisionerBase
from traitlets import Any, Dict, Enum, Integer, default

from autograder.exercise import chapters, module_of
from autograder.sandbox.levels import LEVELS, Refused, strongest
from autograder.sandbox.limits import Limits
from autograder.sandbox.warm import PRELOAD, WarmProcess
from autograder.sandbox.working_copy import check, copy_in

_PASSED = ("NBGRADER_EXECUTION", "NBGRADER_VALIDATING")  # what of the grader's environment a kernel learns
_CHANNELS = ("shell", "iopub", "stdin", "hb", "control")
_END_SECONDS = 10
_shared = []  # the warm process of the nbgrader route, one for this process


def kernel_manager(warm, level, limits=None, files=None, environment=None, threads=1):
    """The AsyncKernelManager of one kernel to be forked from `warm` into the sandbox `level`.

    files: {relative name: bytes}, its private working copy. environment: variables it is given. After the kernel has
    ended, `km.provisioner.ended_by` says by what: (kind, facts) as `breaches.breach` takes them, or None.
    """
    manager = AsyncKernelManager(kernel_name="python3")
    manager.client_factory = Client
    manager._kernel_spec = KernelSpec(argv=[sys.executable], display_name="Python 3", language="python", name="python3")
    manager.provisioner = SandboxProvisioner(
        parent=manager,
        kernel_spec=manager._kernel_spec,
        warm=warm,
        level=level,
        limits=limits or Limits(),
        files=files or {},
        environment=environment or {},
        threads=threads,
    )
    return manager


class Client(AsyncKernelClient):
    """A client that is ready as soon as the kernel is. Jupyter's own waits 0.2 s more for a channel to stay silent."""

    then = ""  # an expression that is evaluated after what is executed next, in the same request, if that ends well

    def execute(self, code, *args, **options):
        if self.then:
            options["user_expressions"] = {"then": self.then}
        return super().execute(code, *args, **options)

    def start_channels(self, shell=True, iopub=True, stdin=True, hb=False, control=True):
        """Without a heartbeat, for which Jupyter starts a thread: the keeper tells when the kernel has ended."""
        super().start_channels(shell, iopub, stdin, hb, control)

    async def wait_for_ready(self, timeout=None):
        """Return once the kernel has answered and its outputs arrive here. Raises RuntimeError if it does not."""
        deadline = None if timeout is None else time.monotonic() + timeout
        channels = [self.get_shell_msg, self.get_iopub_msg]
        self.kernel_info()
        while channels:
            try:
                message = await channels[0](timeout=0.2)
            except Empty:
                self.kernel_info()
                if not await self.is_alive():
                    raise RuntimeError("the kernel ended before it answered") from None
                if deadline is not None and time.monotonic() > deadline:
                    raise RuntimeError(f"the kernel did not answer in {timeout:g} seconds") from None
                continue
            if message["msg_type"] == "kernel_info_reply":
                self._handle_kernel_info_reply(message)
            channels.pop(0)


class SandboxProvisioner(KernelProvisionerBase):
    """Starts, signals and ends one kernel through its keeper."""

    level = Enum((*LEVELS, "none"), None, allow_none=True, config=True, help="None: the strongest that is offered.")
    memory_mib = Integer(2048, config=True)
    processes = Integer(64, config=True)
    disk_mib = Integer(256, config=True)
    threads = Integer(1, config=True, help="Threads of numerical libraries in a kernel.")
    warm = Any()
    limits = Any()
    files = Any()
    environment = Dict()

    ended_by = None
    pid = None
    _keeper = None
    _address = None
    _status = None
    _asked_to_end = False

    @default("level")
    def _level_from_environment(self):
        return os.environ.get("ATTN_SANDBOX") or None

    @property
    def has_process(self):
        return self._keeper is not None

    async def pre_launch(self, **kwargs):
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": [sys.executable]}

    async def launch_kernel(self, cmd, **kwargs):
        wanted, inside, files = self._describe(kwargs.get("env", {}), kwargs.get("cwd"))
        self.ended_by, self._status, self._asked_to_end = None, None, False
        self.warm = self.warm or _shared_warm()
        self._keeper = self.warm.keeper()
        self._send(json.dumps(wanted).encode(), json.dumps(inside).encode(), *files.values())
        while not self._keeper.poll():  # the keeper itself has a time limit
            await asyncio.sleep(0.002)
        answer = self._receive()
        if "error" in answer:
            self._close()
            raise Refused(f"no kernel could be started at level {wanted['level']}: {answer['error']}")
        self.pid, self._address = answer["pid"], answer["address"]
        self.parent.connection_file = str(Path(self._address).with_name("connection.json"))
        self.connection_info = {
            "transport": "ipc",
            "ip": self._address,
            "key": self.parent.session.key,
            "signature_scheme": self.parent.session.signature_scheme,
            **{f"{name}_port": port for port, name in enumerate(_CHANNELS, start=1)},
        }
        return self.connection_info

    def _describe(self, environment, cwd):
        """What the keeper is told, what the kernel alone, and the working copy. Raises Refused."""
        limits = self.limits or Limits(self.memory_mib * 2**20, self.processes, self.disk_mib * 2**20)
        files = self.files
        if files is None:
            files = copy_in(cwd, limits.disk) if cwd else {}
        check(files, limits.disk)
        wanted = {
            "level": self.level or _strongest(self.log),
            "limits": asdict(limits),
            "grader": os.getpid(),
        }
        inside = {
            "key": self.parent.session.key.decode(),
            "environment": {name: environment[name] for name in _PASSED if name in environment} | self.environment,
            "threads": self.threads,
            "files": list(files),
        }
        return wanted, inside, files

    async def poll(self):
        if self._keeper is not None and self._keeper.poll():
            ended = self._receive()
            if ended.get("again"):
                self.warm.take_back(self._keeper)
                self._keeper = None
            self._close()
            self._status = ended.get("status")
            if ended.get("kind") and not self._asked_to_end:
                self.ended_by = (ended["kind"], ended["facts"])
        if self._keeper is not None:
            return None
        return 0 if self._status is None else self._status

    async def wait(self):
        while await self.poll() is None:
            await asyncio.sleep(0.002)
        return await self.poll()

    async def send_signal(self, signum):
        self._send(json.dumps({"signal": int(signum)}).encode())

    async def kill(self, restart=False):
        self._asked_to_end = True
        self._send(json.dumps({"end": True}).encode())
        try:
            await asyncio.wait_for(self.wait(), _END_SECONDS)
        except TimeoutError:
            self._close()  # the keeper ends the kernel when its connection ends

    async def terminate(self, restart=False):
        await self.kill(restart)

    async def shutdown_requested(self, restart=False):
        self._asked_to_end = True

    async def cleanup(self, restart=False):
        self._close()

    def _send(self, *messages):
        if self._keeper is not None:
            with contextlib.suppress(OSError):  # it has ended; the next poll says so
                for message in messages:
                    self._keeper.send_bytes(message)

    def _receive(self):
        try:
            return json.loads(self._keeper.recv_bytes())
        except (EOFError, OSError):  # someone has killed the keeper
            if self._address:
                shutil.rmtree(Path(self._address).parent, ignore_errors=True)
            return {"error": "it ended", "kind": "died", "facts": {"how": "with its keeper"}}

    def _close(self):
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None


def _shared_warm():
    if not _shared:
        _shared.append(WarmProcess((*PRELOAD, *map(module_of, chapters()))).start())
        atexit.register(_shared[0].stop)
    return _shared[0]


@cache
def _strongest(log):
    level = strongest()
    log.info("kernels run at the sandbox level %s", level)
    return level
