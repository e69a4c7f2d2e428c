"""Which names a piece of source binds, and to what: the ground that `reading.py` walks on. Nothing is executed."""

import ast
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

OPAQUE = object()  # bound to something that source alone does not tell
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
STAR = "*"  # the name that `from module import *` binds, here; its values are modules
WORTH_KEEPING = 4_000  # characters; a cell of the course has fewer, and memory is kept from who writes more


class Unreadable(Exception):
    """The source is too long, too deep or too entangled to be followed."""


def parse(source):
    """The syntax tree, or None for what is no Python. Lines that only IPython knows count as `pass`.

    Raises Unreadable for nesting that Python's own parser gives up on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in an answer is no news for the terminal
        try:
            return _parse(source) or _parse(re.sub(r"(?m)^([ \t]*)[%!?].*$", r"\1pass", source))
        except (RecursionError, MemoryError) as error:
            raise Unreadable("nested too deeply") from error


def _parse(source):
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):  # a ValueError is a null byte
        return None


def statements_of(source):
    """[(statement, its bindings)] of one cell. Nobody may write to them: what the course gives out is read once."""
    return _read_once(source) if len(source) <= WORTH_KEEPING else _read(source)


def _read(source):
    return [(statement, bindings([statement])) for statement in getattr(parse(source), "body", [])]


_read_once = lru_cache(maxsize=500)(_read)


@dataclass(frozen=True)
class Scope:
    """Where a name is looked up: the cell, and the local names from the innermost function outwards."""

    cell: int
    locals: tuple = ()

    def values(self, name):
        """What a local name may stand for, or None if the name is global."""
        return next((names[name] for names in self.locals if name in names), None)

    def inside(self, names):
        return Scope(self.cell, (names, *self.locals))


def bindings(statements):
    """{name: [what it may stand for]}: a qualified name as text, an expression or definition, or OPAQUE.

    Functions and classes inside are not entered.
    """
    found = {}
    for node in _outside_functions(statements):
        for name, value in _binds(node):
            known = [one for one in found.get(name, []) if one is not OPAQUE]
            # An assignment tells its target twice, first with the value and then as a bare target.
            found[name] = known + [value] if value is not OPAQUE or not known else known
    return found


def local_names(function):
    """The bindings of one function: its parameters and what its body binds, less what it declares global."""
    if not hasattr(function, "local_names"):  # kept with the tree, and gone with it
        function.local_names = _local_names(function)
    return function.local_names


def _local_names(function):
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    body = body_of(function)
    found = {one.arg: [OPAQUE] for one in every if one is not None}
    for name, values in bindings(body).items():
        found[name] = found.get(name, []) + values
    for node in _outside_functions(body):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            found = {name: values for name, values in found.items() if name not in node.names}
    return found


def body_of(definition):
    """The statements of a function or class, or the one expression of a lambda."""
    return definition.body if isinstance(definition.body, list) else [definition.body]


def constant_text(node):
    """The text that an expression of constants spells, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [constant_text(node.left), constant_text(node.right)]
    elif isinstance(node, ast.JoinedStr):
        parts = [constant_text(getattr(part, "value", part) if _plain_field(part) else part) for part in node.values]
    else:
        return None
    return None if None in parts else "".join(parts)


def _plain_field(part):
    return isinstance(part, ast.FormattedValue) and part.format_spec is None and part.conversion == -1


def _outside_functions(statements):
    """Every node of these statements, in order, without what stands inside a function, class or lambda."""
    waiting = list(statements)[::-1]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, DEFINITIONS):
            waiting += list(ast.iter_child_nodes(node))[::-1]


def _binds(node):
    """The (name, value) pairs that one node binds by itself."""
    if isinstance(node, ast.Import):
        for one in node.names:
            yield (one.asname, one.name) if one.asname else (one.name.split(".")[0],) * 2
    elif isinstance(node, ast.ImportFrom):
        for one in node.names:
            yield (
                (STAR, node.module or "") if one.name == "*" else (one.asname or one.name, f"{node.module}.{one.name}")
            )
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name, node
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _pairs(target, node.value)
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
        yield from _pairs(node.target, node.value)
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id, OPAQUE
    elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name, OPAQUE


def _pairs(target, value):
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for one, other in zip(target.elts, value.elts, strict=True):
            yield from _pairs(one, other)
