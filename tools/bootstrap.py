"""Set the course up and start one of its tasks: `python tools/bootstrap.py lab`, or `make lab`.

The first run creates .venv and installs what the task needs at the versions of pins.txt; a later run finds that done
and starts at once. Only the standard library is used, in syntax that Python 3.6 can read, so that a machine with an
old Python is told what to do instead of shown a SyntaxError.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
EXE = ".exe" if os.name == "nt" else ""
STAMP = VENV / "attn-stamp.json"  # what was installed, written last
UNFINISHED = VENV / "attn-unfinished"  # present while pip is at work, so an interrupted install is recognised
LOG = VENV / "attn-install.log"

OLDEST = (3, 11)
INTERPRETERS = [[sys.executable], ["python3.11"], ["python3.12"], ["python3.13"], ["py", "-3.11"]]  # py: on Windows
EXTRA_GB = {
    "course": 1.0,
    "test": 0.5,
    "torch": 2.0,
    "numba": 0.5,
    "triton": 1.5,
    "conformance": 0.3,
    "cluster": 0.1,
    "postgres": 0.1,
    "docs": 0.0,
}  # downloads included

# task: (sentence for help, extras it needs, extras it adds unless EXTRAS says otherwise, commands)
TASKS = {
    "help": ("List these tasks.", None, "", []),
    "lab": ("Set up, then open JupyterLab on the first notebook.", "course", "", ["attn lab"]),
    "test": (
        "Set up, then lint and run every test that is not slow.",
        "course,test",
        "torch,numba,triton,conformance,cluster,postgres",
        [],
    ),
    "test-slow": (
        "Run the slow tests: all notebooks, the browser, attacks.",
        "course,test",
        "torch,numba,triton,conformance,cluster,postgres",
        [],
    ),
    "grade": ("Grade SUBMISSIONS=folder, or the bundled sample class.", "course", "", ["attn grade"]),
    "release-bundle": (
        'Make the zip a class receives: CHAPTERS="02 04".',
        "course",
        "",
        ["attn release-bundle"],
    ),
    "notebooks": ("Build every notebook from the chapters' texts.", "course", "torch,numba,triton", ["attn build"]),
    "kill-matrix": (
        "Write the table of mistakes and what catches each.",
        "course",
        "torch,numba,triton",
        ["attn kill-matrix"],
    ),
    "figures": ("Draw the figures of the README and the docs.", "course", "", ["attn figures"]),
    "format": ("Format the code and mend what the linter can.", "test", "", ["ruff check --fix .", "ruff format ."]),
    "pins": ("Resolve every dependency afresh and rewrite pins.txt.", "course", "", ["python tools/pins.py"]),
    "env": ("Set up only.", "course", "", []),
    "clean": ("Remove .venv and caches; grades and your work stay.", None, "", []),
}
TASKS["test"][-1].extend(["ruff check .", "ruff format --check .", 'pytest -n 2 -m "not slow" --durations=15'])
# These can share the machine; what opens a browser or starts graders, servers and clusters is run one after the other.
ALONGSIDE = """
    attention_fuzz cli execute exercises policy sandbox_attacks spoilers
    stories triton triton_aot triton_here wrong_calls
"""
SIDE_BY_SIDE = ["tests/conformance", *(f"tests/test_{name}.py" for name in ALONGSIDE.split())]
TASKS["test-slow"][-1].extend(
    [
        f"pytest -n 2 -m slow --durations=10 {' '.join(SIDE_BY_SIDE)}",
        f"pytest -m slow --durations=20 {' '.join(f'--ignore={path}' for path in SIDE_BY_SIDE)}",
    ]
)
if not (ROOT / "solutions").is_dir():  # a class's bundle: no texts, no tests, no grader
    TASKS = {name: TASKS[name] for name in ("help", "lab", "env", "clean")}
SETTINGS = {
    "EXTRAS": "optional parts to install too, such as torch,numba",
    "TORCH_INDEX": "where Linux finds the CPU build of torch",
    "SUBMISSIONS": "the folder that `grade` grades",
    "CHAPTERS": "the chapters that `release-bundle` puts together, such as 02 04",
}

REMEDIES = {
    "python": "Python {wanted} or newer with its venv module is needed, and none was found (this is Python {running}). "
    "Install one and run this again: on Debian or Ubuntu `apt install python3 python3-venv`, on macOS or Windows the "
    "installer from Python's own site, with conda `conda env create -f environment.yml`. Where it has another name, "
    "give that: `make {task} PYTHON=/path/to/python3.11`.",
    "disk": "There is too little disk space for the environment in {root}: {need:.1f} GB is needed and {free:.1f} GB "
    "is free. Free some (`python -m pip cache purge` is often the quickest way) and run this again.",
    "network": "The package index could not be reached. Check the network connection and, where they are in "
    "use, HTTPS_PROXY, PIP_INDEX_URL and TORCH_INDEX. Then run this again: what was downloaded is kept.",
    "torch": "The CPU build of torch was not found. On Linux the package index offers a torch that brings gigabytes of "
    "CUDA, so pins.txt asks for the CPU build, which has an index of its own: on PyTorch's 'Get started' page choose "
    "Pip, Linux and CPU, and pass on the address it shows: `make {task} TORCH_INDEX=<address>`. With conda, install a "
    "CPU build of pytorch and leave torch out of EXTRAS. On macOS and Windows the package index has the CPU build, "
    "but only for Apple silicon and 64-bit Windows. Chapters 00 to 05 and 10 need no torch: "
    "`make {task} EXTRAS=numba`.",
    "unknown": "pip could not install the environment. Its last lines above say why, and all it did is in {log}. If "
    "they name a version, the Python in use may be the cause: this is {running}, and the pins are made with 3.11.",
}


class Stop(Exception):
    """The set-up cannot go on; the message says what the reader can do about it."""


def say(line):
    print("attn: " + line, flush=True)


def stop(cause, **facts):
    facts.update(wanted="%d.%d" % OLDEST, running="%d.%d" % sys.version_info[:2], root=ROOT, log=LOG)
    raise Stop(REMEDIES[cause].format(**facts))


def find_python():
    """Return an interpreter that is new enough and can build environments: this one if it will do."""
    # The base executable, because an environment cannot be rebuilt by a Python that lives inside it.
    probe = "import sys, ensurepip, venv; print(getattr(sys, '_base_executable', None) or sys.executable); "
    probe += f"sys.exit(sys.version_info[:2] < {OLDEST})"
    for command in INTERPRETERS:
        if shutil.which(command[0]):
            found = subprocess.run(command + ["-c", probe], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if found.returncode == 0:
                return found.stdout.decode().strip()
    return None


def venv_works():
    """Return whether .venv has a Python that is new enough, and a pip."""
    probe = f"import sys, pip; sys.exit(sys.version_info[:2] < {OLDEST})"
    try:
        return subprocess.call([str(BIN / ("python" + EXE)), "-c", probe], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def lock(handle):
    """Wait until no other set-up of this folder is at work; closing the handle ends the lock."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def fingerprint():
    """Return a hash of the files that decide what is installed."""
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "pins.txt"))).hexdigest()


def read_stamp():
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def cause_of(log):
    """Return which remedy fits what pip wrote."""
    if re.search(r"No space left on device|Errno 28|WinError 112", log):
        return "disk"
    if re.search(r"No matching distribution found for torch\b|\(constraint\) torch==", log):
        return "torch"
    if re.search(r"connection broken by|Max retries exceeded|ReadTimeout|from versions: none", log):
        return "network"
    return "unknown"


def disk(extras):
    """Return the gigabytes these extras need and those that are free."""
    return {"need": sum(EXTRA_GB[name] for name in extras), "free": shutil.disk_usage(str(ROOT)).free / 1e9}


def ensure(extras, task, torch_index=""):
    """Make .venv hold these extras."""
    stamp = read_stamp()
    # The programs in .venv hold its path, so one that was moved or copied runs the wrong Python.
    usable = venv_works() and not UNFINISHED.exists() and stamp.get("root", str(ROOT)) == str(ROOT)
    held = set(stamp["extras"]) if usable and stamp.get("fingerprint") == fingerprint() else set()
    if extras <= held:
        return say(f"the environment is ready ({', '.join(sorted(extras))})")
    space = disk(extras - held)
    if space["free"] < space["need"]:
        stop("disk", **space)
    if VENV.exists() and not usable:
        say("removing .venv, because its set-up was interrupted, it was moved, or its Python is gone")
        shutil.rmtree(str(VENV))
    if not VENV.exists():
        python = find_python() or stop("python", task=task)
        say("creating .venv with " + python)
        if subprocess.call([python, "-m", "venv", str(VENV)]):
            stop("python", task=task)
    say(f"installing {', '.join(sorted(extras))} at the versions of pins.txt")
    UNFINISHED.touch()
    if LOG.exists():
        LOG.unlink()
    command = [str(BIN / ("python" + EXE)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--log", str(LOG), "-c", "pins.txt", "-e", f".[{','.join(sorted(extras))}]"]
    if torch_index:
        command += ["--extra-index-url", torch_index]
    if subprocess.call(command, cwd=str(ROOT)):
        cause = cause_of(LOG.read_text(encoding="utf-8", errors="replace") if LOG.exists() else "")
        if cause in ("network", "torch"):
            UNFINISHED.unlink()  # pip downloads everything before it changes anything, so .venv is as it was
        stop(cause, task=task, **disk(extras))
    STAMP.write_text(json.dumps({"root": str(ROOT), "fingerprint": fingerprint(), "extras": sorted(extras | held)}))
    UNFINISHED.unlink()


def run(command, last):
    """Run one command of .venv; the last takes this process's place, so that Ctrl-C reaches it alone."""
    say(" ".join(command))
    program = str(BIN / (command[0] + EXE))
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    environment = dict(os.environ, PATH=path, VIRTUAL_ENV=str(VENV))
    if last and os.name == "posix":
        os.execve(program, command, environment)
    return subprocess.call([program] + command[1:], env=environment)


def show_help():
    print("usage: make TASK [NAME=value ...], or without make: python tools/bootstrap.py TASK [NAME=value ...]\n")
    for name, (sentence, _, _, _) in TASKS.items():
        print(f"  {name:12} {sentence}")
    print()
    for name, meaning in SETTINGS.items():
        print(f"  {name + '=':12} {meaning}")


def clean():
    folders = [ROOT / name for name in (".venv", ".pytest_cache", ".ruff_cache", ".hypothesis", "build", "dist")]
    for folder in folders + list(ROOT.glob("*.egg-info")):
        shutil.rmtree(str(folder), ignore_errors=True)
    for folder in list(ROOT.rglob("__pycache__")):
        shutil.rmtree(str(folder), ignore_errors=True)


def main(arguments):
    task = arguments[0] if arguments else "help"
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    settings.update(argument.split("=", 1) for argument in arguments[1:] if "=" in argument)
    if task not in TASKS or any(name not in SETTINGS for name in settings) or len(arguments) > 1 + len(settings):
        show_help()
        return 2
    _, needed, optional, commands = TASKS[task]
    if needed is None:
        return show_help() if task == "help" else clean()
    extras = set(re.findall(r"[\w-]+", needed + "," + settings.get("EXTRAS", optional)))
    if not extras <= set(EXTRA_GB):
        raise Stop(f"EXTRAS may name {', '.join(EXTRA_GB)}; it is {settings['EXTRAS']!r}.")
    with open(str(ROOT / "pyproject.toml")) as handle:
        lock(handle)
        ensure(extras, task, settings.get("TORCH_INDEX", ""))
    commands = [shlex.split(command) for command in commands]
    if task == "grade" and settings.get("SUBMISSIONS"):
        commands[0].append(os.path.abspath(settings["SUBMISSIONS"]))
    if task == "release-bundle":
        commands[0] += settings.get("CHAPTERS", "").split()
    os.chdir(str(ROOT))
    for command in commands:
        status = run(command, last=command is commands[-1])
        if status:
            return status
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as problem:
        print("\nattn: " + str(problem), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nattn: stopped; run the same command again to go on.", file=sys.stderr)
        sys.exit(130)
