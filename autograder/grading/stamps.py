"""What a grade depends on, as hashes: so a grade can be explained, and is made again only when something changed."""

import ast
import hashlib
import inspect
from functools import cache
from importlib import import_module
from pathlib import Path

import attn_ref
from autograder.exercise import Exercise, load_chapter
from autograder.grading.results import Submission

# What decides points, beside the definitions and the reference.
JUDGES = ("evidence", "exercise", "runner", "compare", "judge", "forbidden", "traps")
# Parts of grading/ that only carry results about.
CARRIERS = ("breaches", "copies", "gather", "gradebook", "intake", "one", "results", "run", "stamps", "whose")
CARRIERS += ("workers",)
REFERENCE_ASIDE = ("bench", "plots", "triton_aot", "triton_read")  # parts of attn_ref that judge nothing


@cache
def grader_hash() -> str:
    """Hash of the code that decides points: of the grader, and of the reference it compares with."""
    return _hash(*(path.read_bytes() for path in deciding()))


def deciding() -> list[Path]:
    """The files of that code; the definitions of exercises are hashed one by one."""
    here = Path(__file__).parent
    files = [here.parent / f"{name}.py" for name in JUDGES]
    files += [path for path in sorted(here.glob("*.py")) if path.stem not in CARRIERS]
    reference = Path(attn_ref.__file__).parent
    for path in sorted(reference.rglob("*.py")):
        if path.relative_to(reference).parts[0].removesuffix(".py") not in REFERENCE_ASIDE:
            files.append(path)
    return files


@cache
def exercise_hashes(number: int) -> dict[str, str]:
    """{exercise id: hash of its definition} for one chapter."""
    chapter = load_chapter(number)
    module = import_module(f"autograder.exercises.ch{chapter.folder}")
    parts = _parts(inspect.getsource(module))
    names = {id(value): name for name, value in vars(module).items() if isinstance(value, Exercise)}
    return {one.id: _hash(*_belonging(names[id(one)], parts)) for one in chapter.exercises.values()}


def content_hash(submission: Submission) -> str:
    """Hash of what was handed in: notebook, files and time."""
    files = [part for name in sorted(submission.files) for part in (name.encode(), submission.files[name])]
    return _hash(submission.notebook, (submission.submitted or "").encode(), *files)


def _parts(source):
    """[(names a top-level statement defines, names it uses, names its decorators use, its text)] of a module."""
    parts, lines = [], source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        hooks = {one.id for hook in getattr(node, "decorator_list", []) for one in ast.walk(hook) if _is_name(one)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined = {node.name}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined = {(one.asname or one.name).split(".")[0] for one in node.names}
        else:
            defined = {one.id for one in ast.walk(node) if _is_name(one) and isinstance(one.ctx, ast.Store)}
        # `softmax.hints(...)` stands by itself and belongs to what it calls a method of.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            hooks |= {one.id for one in ast.walk(node.value.func) if _is_name(one)}
        first = min([node.lineno, *(hook.lineno for hook in getattr(node, "decorator_list", []))])
        parts.append((defined, used, hooks, "".join(lines[first - 1 : node.end_lineno]).encode()))
    return parts


def _belonging(name, parts):
    """The texts of all statements that define an exercise, in order: its own, those hooked to it, and what they use."""
    wanted, chosen = {name}, set()
    while True:
        new = {i for i, (defined, _, hooks, _) in enumerate(parts) if defined & wanted or name in hooks} - chosen
        if not new:
            return [parts[i][3] for i in sorted(chosen)]
        chosen |= new
        wanted = wanted.union(*(parts[i][1] for i in new))


def _is_name(node):
    return isinstance(node, ast.Name)


def _hash(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:32]
