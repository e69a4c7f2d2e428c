"""Answers that are alike: equal to a published solution or to another student's, whatever their names and comments.

A reason for a person to look, and no proof: short answers are written alike by people who never met.
"""

import ast
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

from autograder.grading.names import Unreadable, parse
from autograder.grading.results import Flag

LONGEST = 100_000  # characters of one answer
SHORT = 45  # nodes; below it a natural answer looks like every other (the course's own lie between 8 and 58)
LONG = 120  # nodes; above it equality is no accident, however many share it
NAMED = 10  # students named in one flag

AS_PUBLISHED = "This answer to {id} is the published solution, names and comments aside."
AS_ANOTHER = "This answer to {id} is that of {others}, names and comments aside."
MORE = "{names} and {count} more"


@dataclass(frozen=True)
class Form:
    """An answer without its names, comments and trimmings."""

    digest: bytes
    nodes: int


def same_answer(one, other):
    """Are two answers the same once names, comments, docstrings and annotations are left out? Never raises."""
    return form(one) is not None and form(one) == form(other)


def copies(answers, published):
    """[(student, Flag)] for answers that are alike.

    answers    {(student, exercise id): source}
    published  {exercise id: [source of a solution]}

    Short answers are left out, and so is one of middling length that more than a quarter of the class share. The work
    grows with the number of answers, not with that of pairs.
    """
    forms = {source: form(source) for source in {*answers.values(), *chain.from_iterable(published.values())}}
    solutions = {(exercise, forms[source]) for exercise, sources in published.items() for source in sources}
    alike, handed_in = defaultdict(list), defaultdict(int)
    for (student, exercise), source in answers.items():
        handed_in[exercise] += 1
        found = forms[source]
        if found is not None and found.nodes >= SHORT:
            alike[exercise, found].append(student)
    flagged = []
    for (exercise, found), students in alike.items():
        if (exercise, found) in solutions:
            message = AS_PUBLISHED.format(id=exercise)
            flagged += [(student, Flag("as published", message, exercise)) for student in students]
        elif len(students) > 1 and (found.nodes >= LONG or len(students) <= max(3, handed_in[exercise] / 4)):
            flagged += [(student, _as_another(student, exercise, students)) for student in students]
    return flagged


def _as_another(student, exercise, students):
    others = [one for one in students[: NAMED + 1] if one != student][:NAMED]
    names = ", ".join(others)
    more = len(students) - 1 - len(others)
    who = MORE.format(names=names, count=more) if more else names
    return Flag("as another student", AS_ANOTHER.format(id=exercise, others=who), exercise, others)


def form(source):
    """The Form of an answer cell: what it defines. None where there is nothing to compare."""
    if len(source) > LONGEST:
        return None
    try:
        kept = [node for node in getattr(parse(source), "body", []) if _defines(node)]
        tree = ast.Module(kept, [])
        _strip(tree)
        _rename(tree)
        text = ast.dump(tree, annotate_fields=False)
    except (Unreadable, RecursionError, MemoryError):
        return None
    nodes = sum(not isinstance(node, (ast.expr_context, ast.operator, ast.Module)) for node in ast.walk(tree))
    return Form(hashlib.sha256(text.encode("utf-8", "replace")).digest(), nodes) if kept else None


def _defines(node):
    """Is this a definition? Imports, try-outs and prints in the cell are not part of the answer."""
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Lambda)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def _strip(tree):
    """Take out docstrings, annotations and `pass`, in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                setattr(node, block, [_plain(one) for one in statements if not _says_nothing(one)])


def _says_nothing(statement):
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(value, ast.Constant))


def _plain(statement):
    """`x: float = 1` is `x = 1`."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.copy_location(ast.Assign([statement.target], statement.value), statement)
    return statement


def _rename(tree):
    """Number the names that the answer itself gives, in the order in which they appear, in place."""
    given = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            given.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            given.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.add(node.id)
    numbers = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            continue  # `sum(axis=ax)`: the keyword is NumPy's name
        for field in ("id", "arg", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str) and name in given:
                setattr(node, field, numbers.setdefault(name, f"_{len(numbers)}"))
