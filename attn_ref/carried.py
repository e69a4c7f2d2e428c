"""Variables that one iteration of a prange hands to the next: read from the source, since no run shows them.

    at = 0; for i in prange(n): out[at] = x[i]; at = at + 1        numba promises no order, so at may be anything

Part of what `attn_ref.iterations` sees. Used in course/11_numba_kernel.
"""

import ast
import inspect
import textwrap

HARMLESS = ({"read"}, {"updated"})  # never set, or summed up


def carried(function):
    """The variables that an iteration of prange reads as another one left them.

    One that is touched by `x += ...`, `x = x + ...` or `x = max(x, ...)` alone gathers over iterations: numba makes one
    for each thread. A prange inside a prange is a range.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return set()
    found = set()
    for loop in _outermost(tree, function):
        events = {}
        for name, event in (one for part in (loop.target, *loop.body) for one in _in_order(part)):
            events.setdefault(name, []).append(event)
        found |= {name for name, seen in events.items() if seen[0] != "set" and set(seen) not in HARMLESS}
    return found


def _outermost(node, function):
    """The pranges below a node that stand in no other."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.For) and isinstance(part.iter, ast.Call) and _is_prange(part.iter.func, function):
            yield part
        else:
            yield from _outermost(part, function)


def _is_prange(called, function):
    if isinstance(called, ast.Name):
        value = function.__globals__.get(called.id)
        return called.id == "prange" or getattr(value, "__name__", "") == "prange"
    return isinstance(called, ast.Attribute) and called.attr == "prange"


def _in_order(node):
    """What happens to variables, as the code is written.  -> (name, "read", "set" or "updated"), ..."""
    if isinstance(node, ast.Name):
        yield node.id, "read" if isinstance(node.ctx, ast.Load) else "set"
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield from _in_order(node.value)
        yield node.target.id, "updated"
    elif gathered := _gathering(node):
        rest, name = gathered
        yield from _in_order(rest)
        yield name, "updated"
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
        yield from _in_order(node.value) if node.value else ()
        for target in getattr(node, "targets", None) or [node.target]:
            yield from _in_order(target)
    elif isinstance(node, ast.For):
        for part in (node.iter, node.target, *node.body, *node.orelse):
            yield from _in_order(part)
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
        own = {name.id for part in node.generators for name in ast.walk(part.target) if isinstance(name, ast.Name)}
        yield from ((x, event) for part in ast.iter_child_nodes(node) for x, event in _in_order(part) if x not in own)
    elif not isinstance(node, (ast.FunctionDef, ast.Lambda)):
        for part in ast.iter_child_nodes(node):
            yield from _in_order(part)


def _gathering(node):
    """(the rest, the name) of `x = x + rest`, `x = rest * x` or `x = max(x, rest)`, and None for anything else."""
    if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
        return None
    value, name = node.value, node.targets[0].id
    if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
        # A difference and a quotient gather from the left alone.
        sides = [value.left, value.right] if isinstance(value.op, (ast.Add, ast.Mult)) else [value.left]
        both = {value.left: value.right, value.right: value.left}
    elif isinstance(value, ast.Call) and getattr(value.func, "id", "") in ("max", "min") and len(value.args) == 2:
        sides, both = value.args, dict(zip(value.args, value.args[::-1], strict=True))
    else:
        return None
    own = next((side for side in sides if isinstance(side, ast.Name) and side.id == name), None)
    return None if own is None else (both[own], name)
