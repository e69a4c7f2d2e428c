"""The set-up: extras, pins and environment.yml agree, a failure says what to do, and no file names a registry."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PINS = [line for line in (ROOT / "pins.txt").read_text().splitlines() if not line.startswith("#")]


def canonical(requirement):
    """`Jinja2>=3` and `jinja2==3.1` name one package."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """tools/bootstrap.py as a module that believes a temporary folder to be the repository."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools/bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "pins.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("VENV", "BIN", "STAMP", "UNFINISHED", "LOG"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to(ROOT))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


# One list of versions


def test_every_requirement_is_pinned():
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    named = {canonical(name) for name in core + sum(EXTRAS.values(), [])} - {"attn-course"}
    assert named - {canonical(pin) for pin in PINS} == set()


def test_every_pin_is_one_exact_version():
    assert [pin for pin in PINS if not re.fullmatch(r'[\w.-]+==[\w.+]+( ; sys_platform [!=]= "linux")?', pin)] == []


def test_no_package_is_pinned_twice():
    counts = Counter(canonical(pin) for pin in PINS)
    assert {name for name, count in counts.items() if count > 1} == {"torch"}  # one line per platform, tested below


def test_linux_gets_the_cpu_build_of_torch():
    cpu, other = sorted((pin for pin in PINS if pin.startswith("torch==")), key=lambda pin: "+cpu" not in pin)
    version = other.split(" ; ")[0]
    assert other == f'{version} ; sys_platform != "linux"'
    assert cpu == f'{version}+cpu ; sys_platform == "linux"'


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="these tests run outside the .venv that `make` sets up")
def test_installed_versions_are_the_pinned_ones():
    """Otherwise the tests speak about other versions than a learner gets."""
    listing = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    installed = {canonical(line): line.strip() for line in listing.splitlines() if re.match(r"[\w.-]+==", line)}
    pinned = {}
    for pin in PINS:
        pinned.setdefault(canonical(pin), set()).add(pin.split(" ; ")[0])
    ours = {canonical(name) for name in EXTRAS["course"] + ["numpy", "matplotlib"]}
    assert {installed[name] for name in ours if installed[name] not in pinned[name]} == set()


def test_environment_yml_leads_to_the_pins():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert conda == ["python=3.11", "pip", {"pip": ["-c pins.txt", "-e .[course]"]}]


def test_bootstrap_knows_every_extra(bootstrap):
    assert set(bootstrap.EXTRA_GB) == set(EXTRAS)
    for _, needed, optional, _ in bootstrap.TASKS.values():
        assert set(filter(None, f"{needed or ''},{optional}".split(","))) <= set(EXTRAS)


# The tasks


def test_make_and_bootstrap_offer_the_same_tasks(bootstrap):
    line = re.search(r"^TASKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert sorted(line.split()) == sorted(bootstrap.TASKS)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
def test_make_help_explains_every_task(bootstrap):
    shown = subprocess.run(["make", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True).stdout
    explained = dict(re.findall(r"^  ([a-z-]+) +([A-Z].*\.)$", shown, re.MULTILINE))
    assert set(explained) == set(bootstrap.TASKS)


def test_an_unknown_task_or_setting_is_refused(bootstrap, capsys):
    assert bootstrap.main(["labb"]) == 2
    assert bootstrap.main(["lab", "EXTRA=torch"]) == 2
    with pytest.raises(bootstrap.Stop, match="EXTRAS may name course"):
        bootstrap.main(["lab", "EXTRAS=torhc"])


def test_a_finished_environment_is_not_installed_again(bootstrap, monkeypatch, capsys):
    bootstrap.VENV.mkdir()
    stamp = {"root": str(bootstrap.ROOT), "fingerprint": bootstrap.fingerprint(), "extras": ["course", "test"]}
    bootstrap.STAMP.write_text(bootstrap.json.dumps(stamp))
    monkeypatch.setattr(bootstrap, "venv_works", lambda: True)
    bootstrap.ensure({"course"}, "lab")
    assert "ready" in capsys.readouterr().out

    monkeypatch.setattr(bootstrap, "EXTRA_GB", dict.fromkeys(EXTRAS, 1e9))  # stops any attempt to install
    with pytest.raises(bootstrap.Stop):  # an extra is missing
        bootstrap.ensure({"course", "torch"}, "lab")
    with pytest.raises(bootstrap.Stop):  # the pins have changed
        (bootstrap.ROOT / "pins.txt").write_text("numpy==1.0\n")
        bootstrap.ensure({"course"}, "lab")


@pytest.mark.parametrize("damage", ["interrupted", "without pip", "moved"])
def test_a_damaged_environment_is_rebuilt(bootstrap, monkeypatch, damage):
    bootstrap.VENV.mkdir()
    root = "/elsewhere" if damage == "moved" else str(bootstrap.ROOT)
    stamp = {"root": root, "fingerprint": bootstrap.fingerprint(), "extras": ["course"]}
    bootstrap.STAMP.write_text(bootstrap.json.dumps(stamp))
    if damage == "interrupted":
        bootstrap.UNFINISHED.touch()
    monkeypatch.setattr(bootstrap, "venv_works", lambda: damage != "without pip")
    commands = []
    monkeypatch.setattr(bootstrap, "find_python", lambda: "python3")
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, **_: commands.append(command) or 1)
    with pytest.raises(bootstrap.Stop):
        bootstrap.ensure({"course"}, "lab")
    assert commands[0][1:3] == ["-m", "venv"]
    assert not bootstrap.VENV.exists()


# What a failure says


def test_an_old_python_can_read_the_bootstrap():
    source = (ROOT / "tools/bootstrap.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert source.isascii()  # a Windows console may not have other characters


def test_without_a_new_enough_python_the_reader_learns_which_to_install(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "OLDEST", (9, 0))
    with pytest.raises(bootstrap.Stop, match=r"Python 9\.0 or newer .* is needed.*apt install.*make lab PYTHON="):
        bootstrap.ensure({"course"}, "lab")


def test_a_full_disk_is_noticed_before_anything_is_written(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e8))
    with pytest.raises(bootstrap.Stop, match=r"too little disk space.*3\.0 GB is needed and 0\.5 GB is free"):
        bootstrap.ensure({"course", "torch"}, "lab")
    assert not bootstrap.VENV.exists()


def test_without_network_the_reader_is_told_so(tmp_path):
    for name in ("pyproject.toml", "pins.txt", "tools/bootstrap.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | closed
    command = [sys.executable, "tools/bootstrap.py", "env"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "The package index could not be reached." in run.stderr
    assert not (tmp_path / ".venv/attn-stamp.json").exists()


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk"),
        ("The user requested (constraint) torch==2.13.0+cpu\nERROR: ResolutionImpossible: for help visit", "torch"),
        ("(from versions: none)\nERROR: No matching distribution found for torch==2.13.0+cpu", "torch"),
        ("WARNING: Retrying (Retry(total=0)) after connection broken by 'SSLError(", "network"),
        ("ERROR: Could not install packages due to an OSError: HTTPSConnectionPool: Max retries exceeded", "network"),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.", "network"),
        ("ERROR: Could not find a version that satisfies setuptools>=77 (from versions: none)", "network"),
        ("ERROR: No matching distribution found for torchvision", "unknown"),
    ],
)
def test_what_pip_wrote_leads_to_its_remedy(bootstrap, log, cause):
    assert bootstrap.cause_of(log) == cause


@pytest.mark.parametrize("cause", ["python", "disk", "network", "torch", "unknown"])
def test_every_remedy_is_one_paragraph(bootstrap, cause):
    with pytest.raises(bootstrap.Stop) as stopped:
        bootstrap.stop(cause, task="lab", need=1, free=0)
    assert len(str(stopped.value)) > 100
    assert not re.search(r"[{}\n]", str(stopped.value))


# Addresses

# Written in two parts, so that this file does not name what it forbids.
REGISTRIES = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "download." + "pytorch.org",
    "ana" + "conda.org",
    "repo.ana" + "conda.com",
    "registry." + "npmjs.org",
    "crates" + ".io",
]
THIS_MACHINE = ["/work/" + "main", "/work/" + "shared", "/opt/" + "wheels", "/opt/" + "pypi"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
def test_no_file_names_a_registry_or_a_path_of_one_machine():
    """A registry's address belongs to the reader's own settings, where a mirror or a proxy may stand in for it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    forbidden = re.compile("|".join(map(re.escape, REGISTRIES + THIS_MACHINE)))
    found = []
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found += [f"{name}: {hit}" for hit in forbidden.findall(content.decode("utf-8", "replace"))]
    assert found == []
