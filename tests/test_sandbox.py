"""Kernels in the sandbox: what must work there, how each of them ends, and what is left afterwards."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

import pytest

from autograder.sandbox import Limits, Refused, WarmProcess, kernel_manager, levels, offered, seccomp, strongest
from autograder.sandbox import warm as warm_module
from autograder.sandbox.syscalls import NUMBERS
from autograder.sandbox.working_copy import copy_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
LEVELS = offered() or [pytest.param("", marks=pytest.mark.skip(reason="this machine offers no sandbox"))]


@dataclass
class Seen:
    """What came back from some cells."""

    text: str = ""  # printed, or shown as a result
    error: str = ""  # the last error's type and message
    kinds: set = field(default_factory=set)  # MIME types shown
    ended_by: tuple | None = None
    pid: int | None = None


def run(warm, level, *cells, seconds=60, during=None, **options):
    """Run cells in one kernel, one after the other, until it ends or all are done; then end it."""
    return asyncio.run(_run(warm, level, cells, seconds, during, options))


async def _run(warm, level, cells, seconds, during, options):
    manager = kernel_manager(warm, level, **options)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    seen = Seen(pid=manager.provisioner.pid)
    deadline = time.monotonic() + seconds
    try:
        with contextlib.suppress(RuntimeError):
            await client.wait_for_ready(timeout=seconds)
        for cell in cells:
            await _execute(manager, client, cell, seen, deadline, during)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    seen.ended_by = manager.provisioner.ended_by
    return seen


async def _execute(manager, client, cell, seen, deadline, during):
    asked = client.execute(cell)
    if during:
        await during(manager)
    while await manager.is_alive() and time.monotonic() < deadline:
        try:
            message = await client.get_iopub_msg(timeout=0.1)
        except Empty:
            continue
        if message["parent_header"].get("msg_id") != asked:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            seen.text += content["text"]
        elif message["msg_type"] in ("execute_result", "display_data"):
            seen.kinds |= set(content["data"])
            seen.text += content["data"].get("text/plain", "")
        elif message["msg_type"] == "error":
            seen.error = f"{content['ename']}: {content['evalue']}"
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            return


def alive(pid):
    """Does the process run? One that has ended and waits for init to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def strays(mark, keepers=False):
    """Process ids that a kernel of this test left: forks of our warm processes, or programs that carry the mark.

    The warm processes themselves are children of this one; other tests may have left one for the next. Their children
    are keepers, which wait for another kernel.
    """
    forked = f"forkserver.main()\0{Path(__file__).parents[1]}\0".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = Path("/proc", pid, "cmdline").read_bytes()
            ours = forked in line and f"\0{os.getpid()}\0".encode() in line
            parent = parent_of(pid)
            forked_again = parent != os.getpid() and (keepers or parent_of(parent) != os.getpid())
            if ours and forked_again or mark.encode() in Path("/proc", pid, "environ").read_bytes():
                found.append(int(pid))
    return found


@pytest.fixture(scope="module")
def warm():
    with WarmProcess() as process:
        yield process.wait()


def optional(name):
    return pytest.importorskip(name) and name


# What must work


@pytest.mark.parametrize("level", LEVELS)
def test_numerical_libraries_work_with_two_threads(warm, level):
    optional("torch")
    seen = run(
        warm,
        level,
        """
        import numpy as np, torch
        torch.set_num_threads(2)
        a = torch.randn(300, 300, requires_grad=True)
        (a @ a).sum().backward()
        print(a.grad.shape, torch.get_num_threads(), np.linalg.svd(np.ones((50, 50)))[1].shape)
        """,
        threads=2,
    )
    assert (seen.text, seen.error) == ("torch.Size([300, 300]) 2 (50,)\n", "")


@pytest.mark.parametrize("level", LEVELS)
def test_numba_compiles_and_runs_in_parallel(warm, level):
    optional("numba")
    cell = """
        import numba, numpy as np
        @numba.njit(parallel=True)
        def total(a):
            s = 0.0
            for i in numba.prange(a.size):
                s += a[i]
            return s
        total(np.ones(1000))
        """
    assert run(warm, level, cell, threads=2).text == "1000.0"


@pytest.mark.parametrize("level", LEVELS)
def test_a_figure_is_shown_without_being_asked_for(warm, level):
    optional("matplotlib")
    seen = run(warm, level, "import matplotlib.pyplot as plt\nplt.plot([1, 2])", "plt.plot([2, 1]); plt.title('é')")
    assert "image/png" in seen.kinds
    assert seen.error == ""


@pytest.mark.parametrize("level", LEVELS)
def test_programs_forks_warnings_and_await_work(warm, level):
    seen = run(
        warm,
        level,
        """
        import asyncio, os, subprocess, sys, warnings
        await asyncio.sleep(0.01)
        program = "import os, numpy; print(os.__file__, 6 * 7)"
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
        print(said.split() == [os.__file__, "42"])
        warnings.warn("mind the gap")
        if os.fork() == 0:
            print("from a child")
            os._exit(0)
        os.wait()
        """,
        "!echo from a shell",
        "import time; time.sleep(0.1)",
    )
    assert seen.error == ""
    for said in ("True", "mind the gap", "from a child", "from a shell"):
        assert said in seen.text


@pytest.mark.slow
@pytest.mark.parametrize("level", [level for level in LEVELS if level == "namespaces"])
def test_pools_and_loaders_work_where_there_is_a_view_of_its_own(warm, level):
    optional("torch")
    seen = run(
        warm,
        level,
        """
        import multiprocessing as mp, torch
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2) as pool:
            print(sorted(pool.map(abs, [-2, -1])))
        with mp.get_context("fork").Pool(2) as pool:
            print(pool.map(abs, [-4, -3]))
        loader = torch.utils.data.DataLoader(torch.arange(6.), batch_size=3, num_workers=2)
        print([batch.sum().item() for batch in loader])
        """,
    )
    assert (seen.text, seen.error) == ("[1, 2]\n[4, 3]\n[3.0, 12.0]\n", "")


@pytest.mark.parametrize("level", LEVELS)
def test_a_check_judges_in_there_as_it_does_outside(warm, level):
    answer = """
        import numpy as np
        from autograder import check
        def softmax(scores, axis=-1):
            scores = scores - scores.max(axis=axis, keepdims=True)
            e = np.exp(scores)
            return e / e.sum(axis=axis, keepdims=True)
        float(check("2.1", softmax)) > 0
        """
    assert run(warm, level, answer).text == "True"


@pytest.mark.parametrize("level", LEVELS)
def test_too_large_an_array_is_a_memory_error_and_the_kernel_lives(warm, level):
    seen = run(warm, level, "import numpy as np\nnp.ones(10**10)", "print('alive')")
    assert "MemoryError" in seen.error
    assert seen.text == "alive\n"
    assert seen.ended_by is None


@pytest.mark.parametrize("level", LEVELS)
def test_too_large_an_array_in_an_answer_is_a_memory_error_of_that_answer(warm, level):
    cell = """
        import numpy as np
        from autograder.exercise import find_exercise
        from autograder.runner import collect
        def softmax(scores, axis=-1):
            return np.ones(10**10)
        print({outcome.error["type"] for outcome in collect(find_exercise("2.1"), softmax, 1)})
        """
    assert "MemoryError" in run(warm, level, cell).text


@pytest.mark.parametrize("level", LEVELS)
def test_the_working_copy_is_there_and_is_private(warm, level):
    files = {"data/one.txt": b"1", "ä b.bin": bytes(range(256))}
    cell = "from pathlib import Path\nprint(sorted(map(str, Path().rglob('*'))), Path('data/one.txt').read_text())"
    write = "Path('data/one.txt').write_text('2'); Path('new.txt').write_text('n')"
    assert run(warm, level, cell, write, files=files).text.startswith("['data', 'data/one.txt', 'ä b.bin'] 1")
    assert run(warm, level, "import os; print(os.listdir())").text == "[]\n"


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "a/../../up.txt", ""])
def test_a_working_copy_cannot_name_a_place_outside(warm, name):
    with pytest.raises(Refused, match="below"):
        run(warm, LEVELS[0], files={name: b""})


@pytest.mark.parametrize("level", LEVELS)
def test_two_kernels_draw_different_random_numbers(warm, level):
    cell = "import random, numpy as np\nprint(random.random(), np.random.random())"
    first, second = run(warm, level, cell).text.split(), run(warm, level, cell).text.split()
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize("level", LEVELS)
def test_only_what_is_given_is_in_the_environment(warm, level, monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "geheim")
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    cell = "import os; print(os.environ.get('DATABASE_PASSWORD'), os.environ['NBGRADER_EXECUTION'], os.environ['MINE'])"
    assert run(warm, level, cell, environment={"MINE": "yes"}).text == "None autograde yes\n"


# How kernels end


@pytest.mark.parametrize("level", LEVELS)
def test_an_interrupt_reaches_a_loop_and_the_kernel_goes_on(warm, level):
    async def interrupt(manager):
        await asyncio.sleep(0.3)
        await manager.interrupt_kernel()

    seen = run(warm, level, "while True: pass", during=interrupt)
    assert seen.error.startswith("KeyboardInterrupt")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("cell", "how"),
    [
        ("import os; os._exit(3)", "with exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "by the signal SIGSEGV"),
    ],
)
def test_a_dead_kernel_says_how_it_died(warm, level, cell, how):
    assert run(warm, level, cell, "print('not reached')").ended_by == ("died", {"how": how})


@pytest.mark.parametrize("level", LEVELS)
def test_more_processes_than_allowed_end_the_kernel(warm, level):
    cell = "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        time.sleep(100)\ntime.sleep(100)"
    seen = run(warm, level, cell, limits=Limits(processes=20))
    assert seen.ended_by == ("processes", {"count": 20})


@pytest.mark.parametrize("level", LEVELS)
def test_shared_memory_counts_too(warm, level):
    cell = """
        import mmap, time
        m = mmap.mmap(-1, 600 * 2**20)
        for _ in range(600): m.write(bytes(2**20))
        time.sleep(100)
        """
    seen = run(warm, level, cell, limits=Limits(memory=512 * 2**20))
    assert seen.ended_by == ("memory", {"mib": 512.0})


@pytest.mark.parametrize("level", LEVELS)
def test_a_kernel_that_is_shut_down_politely_has_not_died(warm, level):
    async def go():
        manager = kernel_manager(warm, level)
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        client.stop_channels()
        await manager.shutdown_kernel()
        return manager

    manager = asyncio.run(go())
    assert manager.provisioner.ended_by is None
    assert not manager.has_kernel


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_left_when_a_kernel_has_ended(warm, level):
    seen = run(warm, level, "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)")
    assert seen.error == ""
    assert strays("ATTN_NO_MARK") == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_kernel_whose_keeper_was_killed_ends(warm, level):
    async def kill(manager):
        keeper = parent_of(manager.provisioner.pid)
        folders.append(Path(manager.connection_file).parent)
        os.kill(keeper, signal.SIGKILL)

    folders = []
    seen = run(warm, level, "import time; time.sleep(100)", during=kill)
    assert seen.ended_by == ("died", {"how": "with its keeper"})
    deadline = time.monotonic() + 10
    while alive(seen.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(seen.pid)
    assert not folders[0].exists()


@pytest.mark.parametrize("level", LEVELS)
def test_a_killed_grader_leaves_no_process_and_no_file(level, tmp_path):
    script = """
import asyncio, os, signal, sys
from autograder.sandbox import WarmProcess, kernel_manager
warm = WarmProcess(preload=["ipykernel"]).start()
async def go():
    manager = kernel_manager(warm, sys.argv[1], environment={"ATTN_MARK": "killed-grader"})
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    client.execute("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True); print('x' * 10)")
    while (await client.get_iopub_msg(timeout=60))["msg_type"] != "stream":
        pass
    print(warm.pid, manager.provisioner.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(go())
"""
    before = strays("killed-grader")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script, level], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (any(map(alive, pids)) or any(tmp_path.iterdir())):
        time.sleep(0.05)
    assert strays("killed-grader") == before
    assert [pid for pid in pids if alive(pid)] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_keeper_serves_again_and_hands_nothing_on(level):
    """A second kernel looks for the first one's file in all of its memory, where a fork would have left it."""
    look = """
        import re
        pattern, found = bytes(reversed(b"enola-rof-")), 0
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for first, last, rights in re.findall(r"(?m)^(\\w+)-(\\w+) (\\S+)", maps.read()):
                if rights.startswith("rw"):
                    memory.seek(int(first, 16))
                    found += memory.read(int(last, 16) - int(first, 16)).count(pattern)
        print("often" if found > 500 else "hardly")
        """
    keepers, content = [], b"-for-alone" * 1000

    async def note(manager):
        keepers.append(parent_of(manager.provisioner.pid))

    with WarmProcess(preload=["ipykernel"]) as process:
        files = {"answer.txt": content}
        assert "often" in run(process, level, "text = open('answer.txt', 'rb').read()", look, files=files).text
        for _ in range(2):
            assert "hardly" in run(process, level, look, during=note).text
    assert len(set(keepers)) == (1 if os.getuid() == 0 or level == "landlock" else 2)
    deadline = time.monotonic() + 10
    while strays("ATTN_NO_MARK", keepers=True) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert strays("ATTN_NO_MARK", keepers=True) == []


def test_a_warm_process_that_was_killed_is_started_anew():
    with WarmProcess(preload=["ipykernel"]) as process:
        assert run(process, LEVELS[0], "1 + 1").text == "2"
        process.keeper().close()  # one that has served would do without the warm process
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert run(process, LEVELS[0], "1 + 2").text == "3"


# By configuration alone


PLAIN_NOTEBOOK = """
import logging, os, sys
import nbformat
from nbclient import NotebookClient
logging.basicConfig(level="INFO", format="%(message)s")
cell = "import os, socket; print(socket.gethostname(), os.getcwd(), sorted(os.listdir()), open('data.txt').read())"
nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
for _ in range(2):
    NotebookClient(nb, kernel_name="python3", resources={"metadata": {"path": sys.argv[1]}}).execute()
print(nb.cells[0].outputs[0].text)
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_any_jupyter_tool_uses_it_by_its_name(level, tmp_path):
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (work / "data.txt").write_text("some data")
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    info = tmp_path / "site" / "sandbox_test-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sandbox-test\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[jupyter_client.kernel_provisioners]\nattn-sandbox = autograder.sandbox.provisioner:SandboxProvisioner\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "attn-sandbox",
        "ATTN_SANDBOX": level,
    }
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_NOTEBOOK, str(work)], env=environment, capture_output=True, text=True
    )
    host = "notebook" if level == "namespaces" else socket.gethostname()
    assert done.stdout.startswith(f"{host} "), done.stderr
    assert "['data.txt'] some data" in done.stdout


def test_only_plain_files_are_copied_in(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "a.txt")
    (tmp_path / "folder-link").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        assert copy_in(tmp_path, 100) == {"sub/a.txt": b"a"}


def test_too_much_to_copy_in_is_refused_with_its_size(tmp_path):
    (tmp_path / "large").write_bytes(bytes(3 * 2**20))
    with pytest.raises(Refused, match="larger than the 2 MiB"):
        copy_in(tmp_path, 2 * 2**20)


# Refusals and probes


def test_a_library_that_starts_threads_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()\n"
    )
    program = f"import sys; sys.path.append({str(tmp_path)!r}); {warm_module._PROGRAM}"
    monkeypatch.setattr(warm_module, "_PROGRAM", program)
    with (
        pytest.raises(Refused, match="2 threads run after importing starts_a_thread"),
        WarmProcess(preload=["starts_a_thread"]) as process,
    ):
        process.wait()


@pytest.mark.parametrize("level", LEVELS)
def test_dropping_a_file_that_a_library_had_opened_before_the_fork_harms_no_channel(level, tmp_path, monkeypatch):
    (tmp_path / "holds_files.py").write_text("files = [open(__file__) for _ in range(12)]\n")
    program = f"import sys; sys.path.append({str(tmp_path)!r}); {warm_module._PROGRAM}"
    monkeypatch.setattr(warm_module, "_PROGRAM", program)
    with WarmProcess(preload=["holds_files", "ipykernel"]) as process:
        drop = "import sys\nfor one in sys.modules['holds_files'].files:\n    one.close()"
        seen = run(process.wait(), level, drop, "print('still here')")
    assert (seen.text.strip(), seen.ended_by) == ("still here", None)


def test_the_strongest_level_is_the_first_that_can_be_entered(monkeypatch):
    monkeypatch.setattr(levels, "_obstacle", {"namespaces": "forbidden", "landlock": None}.get)
    assert (offered(), strongest()) == (["landlock"], "landlock")


def test_without_a_sandbox_it_refuses_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(levels, "_obstacle", lambda level: f"no {level} here")
    assert offered() == []
    assert strongest(allow_none=True) == "none"
    with pytest.raises(Refused) as refused:
        strongest()
    for said in ("no namespaces here", "no landlock here", "docs/container/Dockerfile", "--no-sandbox"):
        assert said in str(refused.value)


def test_another_system_is_told_that_linux_is_needed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    levels._obstacle.cache_clear()
    try:
        with pytest.raises(Refused, match="needs Linux; this is darwin"):
            strongest()
        with pytest.raises(Refused, match="needs Linux"):
            WarmProcess().start()
    finally:
        levels._obstacle.cache_clear()


@pytest.mark.parametrize(("column", "architecture"), [(0, 0xC000003E), (1, 0xC00000B7)], ids=["x86_64", "aarch64"])
def test_the_table_of_system_calls_agrees_with_libseccomp(column, architecture):
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed here")
    for name, numbers in NUMBERS.items():
        known = library.seccomp_syscall_resolve_name_arch(architecture, name.encode())
        if known > -1 or numbers[column] is None:  # an old libseccomp does not know the newest
            assert (numbers[column] if numbers[column] is not None else -1) == max(known, -1), name


@pytest.mark.parametrize("own_view", [True, False])
@pytest.mark.parametrize("own_user", [True, False])
def test_every_jump_of_the_filter_lands_inside_it(own_view, own_user):
    program = seccomp._program(own_view, own_user, [1, -1])
    for index, step in enumerate(program):
        code, if_true, if_false, _ = struct.unpack("HBBI", step)
        if code & 7 == 5:
            assert index + 1 + max(if_true, if_false) < len(program)
    assert len(program) < 4096  # what Linux takes
