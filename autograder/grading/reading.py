"""What a function refers to, under qualified names, read from the notebook's source. Nothing is executed.

`F.softmax` is `torch.nn.functional.softmax` where a cell says `import torch.nn.functional as F`. Names are followed
through imports, assignments, `getattr` with a constant, `importlib`, and functions of other cells that are used.
"""

import ast
import builtins
from dataclasses import dataclass

from autograder.grading.names import (
    DEFINITIONS,
    FUNCTIONS,
    OPAQUE,
    STAR,
    Scope,
    Unreadable,
    body_of,
    constant_text,
    local_names,
    statements_of,
)

LONGEST = 1_000_000  # characters of one notebook's code
STEPS = 100_000  # look-ups for one answer; an honest one needs some hundred
MAY_NOT_HAPPEN = (ast.If, ast.Try, ast.For, ast.While, ast.With)
TABLES = ("sys.modules", ".__dict__")  # `.__dict__` alone is that of the notebook


@dataclass(frozen=True)
class Use:
    """One place where a forbidden name is used."""

    name: str  # qualified; "" where it is made up while the code runs
    text: str  # as it stands in the source
    line: int  # in its cell
    cell: int  # which of the cells


def uses(name, cells, forbidden):
    """Every Use that the value of the global `name` makes of a forbidden name.

    `cells` are sources in the order in which they ran. `forbidden` is a `forbidden.Forbidden`. Raises Unreadable.
    """
    if sum(map(len, cells)) > LONGEST:
        raise Unreadable("too long")
    try:
        reader = _Reader(cells, forbidden)
        reader.reach(name, called=True)
        return reader.found
    except (RecursionError, MemoryError) as error:
        raise Unreadable("nested too deeply") from error


def uses_anywhere(cells, forbidden):
    """Every Use of a forbidden name in any of the cells, called or not. Raises Unreadable."""
    if sum(map(len, cells)) > LONGEST:
        raise Unreadable("too long")
    try:
        reader = _Reader(cells, forbidden)
        for cell, source in enumerate(cells):
            for statement, _ in statements_of(source):
                reader._visit(statement, Scope(cell))
        return reader.found
    except (RecursionError, MemoryError) as error:
        raise Unreadable("nested too deeply") from error


class _Reader:
    def __init__(self, cells, forbidden):
        self.forbidden = forbidden
        self.found, self.seen, self.steps = [], set(), 0
        self.globals = {}  # name -> [(value, cell, line)]
        for cell, source in enumerate(cells):
            for statement, bound in statements_of(source):
                self._bind(statement, bound, cell)

    def _bind(self, statement, bound, cell):
        """What a statement binds takes the place of what was bound before, unless the statement may not happen."""
        for module in bound.get(STAR, []):
            bound = bound | {name: [f"{module}.{name}"] for name in self.forbidden.within(module)}
        for name, values in bound.items():
            # Resolved now: `kept = softmax` goes on meaning what it meant when a later cell defines softmax.
            meant = [one for value in values for one in sorted(self._resolve(value, Scope(cell))) or [value]]
            before = self.globals.get(name, []) if isinstance(statement, MAY_NOT_HAPPEN) else []
            self.globals[name] = before + [(value, cell, statement.lineno) for value in meant]

    def reach(self, name, called):
        """Read what a global name stands for. What a call gave counts only where that is `called` in its turn."""
        for value, cell, line in self.globals.get(name, []):
            if value is OPAQUE or (id(value), called) in self.seen:
                continue
            self.seen.add((id(value), called))
            if not isinstance(value, str):
                self._visit(value, Scope(cell), called or isinstance(value, DEFINITIONS))
            elif called and self.forbidden(value):
                self.found.append(Use(value, name, line, cell))

    def _visit(self, node, scope, calls=True):
        """Note what is forbidden in `node` and below; with `calls=False`, what is called at once is passed over."""
        if isinstance(node, DEFINITIONS):
            return self._visit_definition(node, scope)
        if isinstance(node, (ast.Name, ast.Attribute)) and self._visit_name(node, scope, called=False):
            return None
        if isinstance(node, (ast.Call, ast.Subscript)) and self._visit_lookup(node, scope):
            return None
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Call) and child is node.func:
                if calls and not (isinstance(child, ast.Name) and self._visit_name(child, scope, called=True)):
                    self._visit(child, scope)
            else:
                self._visit(child, scope, calls)
        return None

    def _visit_definition(self, node, scope):
        outside = [*getattr(node, "decorator_list", []), *getattr(node, "bases", [])]
        if isinstance(node, FUNCTIONS):
            outside += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        for expression in outside:
            self._visit(expression, scope)
        inner = scope.inside(local_names(node)) if isinstance(node, FUNCTIONS) else scope
        for statement in body_of(node):
            self._visit(statement, inner)

    def _visit_name(self, node, scope, called):
        """Note a forbidden name, or follow a global one. True if nothing below is worth reading."""
        if hits := sorted(filter(self.forbidden, self._resolve(node, scope))):
            self._note(hits[0], node, scope)
            return True
        if isinstance(node, ast.Name) and scope.values(node.id) is None:
            self.reach(node.id, called)
        return False

    def _visit_lookup(self, node, scope):
        """Note a call or an item that brings something forbidden, or that only running the code could tell."""
        if hits := sorted(filter(self.forbidden, self._resolve(node, scope))):
            self._note(hits[0], node, scope)
            return True
        if self._computed(node, scope):
            self._note("", node, scope)
        return False

    def _computed(self, node, scope):
        """Is something looked up by a name that is made while the code runs, where a forbidden one could be it?"""
        if isinstance(node, ast.Subscript):
            tables = self._resolve(node.value, scope)
            matters = any(one in TABLES or (_is_table(one) and self.forbidden.lives_in(one)) for one in tables)
            return matters and constant_text(node.slice) is None
        names, args = self._resolve(node.func, scope), node.args
        if names & {"builtins.exec", "builtins.eval"}:
            return True
        if names & {"importlib.import_module", "builtins.__import__"}:
            return not args or constant_text(args[0]) is None
        if "builtins.getattr" in names and len(args) > 1 and constant_text(args[1]) is None:
            return any(map(self.forbidden.lives_in, self._resolve(args[0], scope)))
        return False

    def _note(self, name, node, scope):
        self.found.append(Use(name, " ".join(ast.unparse(node).split())[:60], node.lineno, scope.cell))

    def _resolve(self, node, scope):
        """The qualified names that an expression may stand for; none if it is anything else."""
        self.steps += 1
        if self.steps > STEPS:
            raise Unreadable("too entangled")
        if isinstance(node, str):
            return {node}
        if isinstance(node, ast.Name):
            return self._resolve_name(node.id, scope)
        if isinstance(node, ast.Attribute):
            return {f"{owner}.{node.attr}" for owner in self._resolve(node.value, scope)}
        if isinstance(node, (ast.IfExp, ast.BoolOp)):
            options = node.values if isinstance(node, ast.BoolOp) else (node.body, node.orelse)
            return set().union(*(self._resolve(one, scope) for one in options))
        if isinstance(node, ast.NamedExpr):
            return self._resolve(node.value, scope)
        if isinstance(node, ast.Call):
            return self._resolve_call(node, scope)
        if isinstance(node, ast.Subscript) and (key := constant_text(node.slice)):
            return self._resolve_item(node, key, scope)
        return set()

    def _resolve_name(self, name, scope):
        # What a name stands for is read as if that name were unknown, so that `x = x.y` comes to an end.
        if (values := scope.values(name)) is not None:
            return set().union(*(self._resolve(value, scope.inside({name: []})) for value in values))
        if name in self.globals:
            options = self.globals[name]
            return set().union(*(self._resolve(value, Scope(cell, ({name: []},))) for value, cell, _ in options))
        if name == "__builtins__":
            return {"builtins"}
        return {f"builtins.{name}"} if hasattr(builtins, name) else set()

    def _resolve_call(self, node, scope):
        names, args = self._resolve(node.func, scope), node.args
        if "builtins.globals" in names:
            return {".__dict__"}
        text = constant_text(args[0]) if args else None
        if text and "importlib.import_module" in names:
            return {text}
        if text and "builtins.__import__" in names:
            return {text, text.split(".")[0]}  # which of the two depends on its other arguments
        if args and "builtins.vars" in names:
            return {f"{owner}.__dict__" for owner in self._resolve(args[0], scope)}
        if len(args) > 1 and "builtins.getattr" in names and (attribute := constant_text(args[1])):
            return {f"{owner}.{attribute}" for owner in self._resolve(args[0], scope)}
        return set()

    def _resolve_item(self, node, key, scope):
        found = set()
        for table in filter(_is_table, self._resolve(node.value, scope)):
            if table == "sys.modules":
                found.add(key)
            elif table == ".__dict__":
                found |= self._resolve_name(key, Scope(scope.cell))
            else:
                found.add(table.removesuffix("__dict__") + key)
        return found


def _is_table(name):
    return name == "sys.modules" or name.endswith(".__dict__")
